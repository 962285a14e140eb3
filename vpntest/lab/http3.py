"""A web server that speaks HTTP/3, and nothing else, for the addresses that a platform's `quic://` endpoints have.

    python -m vpntest.lab.http3 FILE

FILE holds :class:`Settings` as JSON. Any name that a client shows in its handshake gets the same certificate and the
same pages. It says `ready` once every address is served.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct


class Answer(Struct, frozen=True):
    """What is said to a request."""

    status: int
    text: str = ""
    """The body, where there is no `file`."""
    file: str | None = None
    """Path of the body."""
    header: tuple[str, str] | None = None
    """One more."""


class Server(Struct, frozen=True):
    """One address."""

    address: str
    port: int
    certificate: str
    """Path of a PEM file: a key and its chain."""
    sites: dict[str, dict[str, Answer]]
    """Host name → path → answer. A name that is not here is served as the first one."""
    otherwise: Answer
    """To any other path."""
    unwelcome: dict[str, Answer] = {}
    """Visitor's address → answer to everything that it asks."""


class Settings(Struct, frozen=True):
    """What `FILE` holds."""

    servers: tuple[Server, ...]


def choose(server: Server, visitor: str, host: str, path: str) -> Answer:
    """The answer to a visitor's request; `path` may hold a query."""
    if visitor in server.unwelcome:
        return server.unwelcome[visitor]
    site = server.sites[host] if host in server.sites else next(iter(server.sites.values()))
    return site.get(path.partition("?")[0], server.otherwise)


async def serve(settings: Settings) -> None:
    """Opens every address. Raises OSError where one cannot be had."""
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.asyncio.server import serve as serve_quic
    from aioquic.h3.connection import H3_ALPN, H3Connection
    from aioquic.h3.events import DataReceived, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import ProtocolNegotiated, QuicEvent

    class Visit(QuicConnectionProtocol):
        """One connection."""

        def __init__(self, *arguments: Any, server: Server, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self._server = server
            self._http: H3Connection | None = None
            self._visitor = ""
            self._asked: dict[int, dict[bytes, bytes]] = {}

        def datagram_received(self, data: bytes | str, addr: Any) -> None:
            self._visitor = addr[0]
            super().datagram_received(data, addr)

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ProtocolNegotiated):
                self._http = H3Connection(self._quic)
            for heard in self._http.handle_event(event) if self._http else ():
                if isinstance(heard, HeadersReceived):
                    self._asked[heard.stream_id] = dict(heard.headers)
                if isinstance(heard, HeadersReceived | DataReceived) and heard.stream_ended:
                    self._answer(heard.stream_id, self._asked.pop(heard.stream_id, {}))

        def _answer(self, stream: int, asked: dict[bytes, bytes]) -> None:
            assert self._http
            host, path = (asked.get(key, b"").decode("latin-1") for key in (b":authority", b":path"))
            answer = choose(self._server, self._visitor, host.partition(":")[0], path)
            body = Path(answer.file).read_bytes() if answer.file else answer.text.encode()
            headers = [
                (b":status", str(answer.status).encode()),
                (b"content-type", b"text/html"),
                (b"content-length", str(len(body)).encode()),
            ]
            if answer.header:
                name, value = answer.header
                headers.append((name.encode(), value.encode()))
            only_head = asked.get(b":method") == b"HEAD"
            self._http.send_headers(stream, headers, end_stream=only_head)
            if not only_head:
                self._http.send_data(stream, body, end_stream=True)
            self.transmit()

    for server in settings.servers:
        configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
        configuration.load_cert_chain(server.certificate, server.certificate)

        def visit(*arguments: Any, server: Server = server, **more: Any) -> Visit:
            return Visit(*arguments, server=server, **more)

        await serve_quic(server.address, server.port, configuration=configuration, create_protocol=visit)


async def _main(file: Path) -> None:
    await serve(msgspec.json.decode(file.read_bytes(), type=Settings))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
