"""A server of HTTPUpgrade: it takes one request to become something else, and hands on what follows as it is.

    python -m vpntest.lab.upgrade ADDRESS:PORT PEM PATH TO-ADDRESS:PORT

Xray's transport of that name: the handshake of WebSocket without its frames. sing-box has a server of it, whose 1.14
loses the client's first bytes where they come quickly: it answers before it takes the connection out of Go's HTTP
server, which goes on reading meanwhile (transport/v2rayhttpupgrade/server.go). It says `ready` once it listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys

_ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
_REFUSED = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def accepts(head: bytes, path: str) -> bool:
    """Whether a request's head asks for the upgrade, at this path, and not for WebSocket itself."""
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines)}
    return (
        first == f"GET {path} HTTP/1.1"
        and fields.get("connection") == "upgrade"
        and fields.get("upgrade") == "websocket"
        and "sec-websocket-key" not in fields
    )


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _main(listener: str, pem: str, path: str, to: str) -> None:
    address, _, port = listener.rpartition(":")
    behind, _, behind_port = to.rpartition(":")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["http/1.1"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            if accepts(head, path):
                inner, outer = await asyncio.open_connection(behind, int(behind_port))
                writer.write(_ACCEPTED)
                await asyncio.gather(_copy(reader, outer), _copy(inner, writer))
            else:
                writer.write(_REFUSED)
        writer.close()

    await asyncio.start_server(serve, address, int(port), ssl=context)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
