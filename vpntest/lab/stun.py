"""A STUN server (RFC 8489): it tells whoever asks by a binding request under which address it sees them.

    python -m vpntest.lab.stun ADDRESS:PORT…

IPv4 and UDP alone. It says `ready` once every address is served.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import cast


def answer(request: bytes, asker: tuple[str, int]) -> bytes | None:
    """The reply to one datagram from `asker`; None where it is no binding request."""
    from aioice import stun

    try:
        asked = stun.parse_message(request)
    except ValueError:
        return None
    if (asked.message_method, asked.message_class) != (stun.Method.BINDING, stun.Class.REQUEST):
        return None
    reply = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction_id=asked.transaction_id)
    reply.attributes["XOR-MAPPED-ADDRESS"] = asker
    reply.add_fingerprint()
    return bytes(reply)


class _Server(asyncio.DatagramProtocol):
    """One address."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = answer(data, addr)
        if reply is not None:
            self._transport.sendto(reply, addr)


async def _main(listeners: Iterable[str]) -> None:
    loop = asyncio.get_running_loop()
    for listener in listeners:
        address, _, port = listener.rpartition(":")
        await loop.create_datagram_endpoint(_Server, local_addr=(address, int(port)))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
