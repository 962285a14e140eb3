"""A STUN binding request from a vantage: whether calls would find their way, over UDP and past no TLS."""

from __future__ import annotations

import asyncio
import ipaddress

from vpntest.probe.connection import at, datagrams
from vpntest.probe.patience import within
from vpntest.tunnel.vantage import Vantage

SENDS = (0.0, 1 / 8, 3 / 8)
"""When the request is sent, in shares of the time limit: each wait is twice the one before (RFC 8489, 6.2.1)."""


class Stun:
    """One question to one server."""

    def __init__(self, vantage: Vantage, address: str, port: int) -> None:
        """Raises OSError where there is no way to the address, CannotMeasure where this box is out of sockets."""
        self.address, self.port = address, port
        self._socket = datagrams(vantage, address, port)

    async def bind(self, limit: float) -> str | None:
        """`ip:port` that the server saw; None where it says something else about our request.

        Raises TimeoutError after `limit` seconds of silence, OSError as the kernel does; an ICMP error, which is easily
        forged, only if the last send met one too.
        """
        from aioice import stun

        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        loop = asyncio.get_running_loop()
        refused: OSError | None = None
        for start, end in zip(SENDS, (*SENDS[1:], 1.0), strict=True):
            try:
                async with within(limit * (end - start)):
                    refused = None
                    await loop.sock_sendall(self._socket, bytes(request))
                    while True:
                        # Whoever sends without end must not keep the loop: while anything waits, receiving gives no
                        # turn away.
                        await asyncio.sleep(0)
                        answered, mapped = _read(await loop.sock_recv(self._socket, 65535), request.transaction_id)
                        if answered:
                            return mapped
            except TimeoutError:
                continue
            except OSError as exc:
                refused = exc
                await asyncio.sleep(limit * (end - start) if end < 1.0 else 0.0)
        raise refused or TimeoutError

    def close(self) -> None:
        """Lets go of the socket. Safe to call again."""
        self._socket.close()


def _read(datagram: bytes, transaction: bytes) -> tuple[bool, str | None]:
    """Whether it answers our request, and the address in it."""
    from aioice import stun

    try:
        message = stun.parse_message(datagram)
    except Exception:
        # A stranger's bytes: the library trips over them in more ways than it says.
        return False, None
    if message.transaction_id != transaction or message.message_class not in (stun.Class.RESPONSE, stun.Class.ERROR):
        return False, None
    found = message.attributes.get("XOR-MAPPED-ADDRESS") or message.attributes.get("MAPPED-ADDRESS")
    if found is None:
        return True, None
    address, port = found
    return True, at(str(ipaddress.ip_address(address)), port)
