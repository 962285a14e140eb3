"""The far side of a probe: real DNS, TLS and HTTP servers on loopback, and what a censor does between.

    vantage ──socket──▶ (198.18.1.1, 443) ──table──▶ (127.0.0.1, any free port) ──▶ Site, Middle, DnsServer …

Needs no root. Only the address that a socket connects to is looked up in a table; every packet and byte is real.
An address that stands in no table has no route.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import aioquic.asyncio
import dns.message
import dns.rcode
import dns.rrset
import h2.config
import h2.connection
import h2.events
import msgspec
import trustme
from aioice import stun
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from vpntest.plan.model import Plan, Platform, Settings
from vpntest.probe.campaign import Campaign
from vpntest.probe.connection import Trust
from vpntest.probe.observation import Observation
from vpntest.probe.transaction import Bench, Limits, Notebook
from vpntest.tunnel.vantage import Vantage

_Datagrams = TypeVar("_Datagrams", bound=asyncio.DatagramProtocol)
RESOLVER, PUBLIC = "198.18.0.53", "198.18.0.99"
NEUTRAL = "neutral.test"
PATIENT = Limits(dns=20, late=0.05, tcp=20, tls=20, http=20, proof=0.3, stall=20, window=20)
"""For what must succeed however busy the machine is. What must time out shortens its own limit."""


@cache
def authority() -> trustme.CA:
    """The certification authority that plans of these tests trust."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@cache
def stranger() -> trustme.CA:
    """Another, which nobody trusts."""
    return trustme.CA(organization_name="Interceptor", key_type=trustme.KeyType.ECDSA)


def _leaf(*names: str, ca: trustme.CA | None, expired: bool) -> trustme.LeafCert:
    past = datetime.now(UTC) - timedelta(days=2)
    return (ca or authority()).issue_cert(
        *names, key_type=trustme.KeyType.ECDSA, not_before=past - timedelta(days=9), not_after=past if expired else None
    )


def server_context(*names: str, ca: trustme.CA | None = None, expired: bool = False, h2: bool = True) -> ssl.SSLContext:
    """TLS for a server of these names."""
    leaf = _leaf(*names, ca=ca, expired=expired)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"] if h2 else ["http/1.1"])
    return context


@dataclass
class Page:
    """An answer of a site."""

    status: int = 200
    body: bytes = b"<title>fine</title>"
    headers: tuple[tuple[str, str], ...] = ()
    chunk: int = 1 << 20
    """Bytes at a time …"""
    pause: float = 0.0
    """… with so many seconds between."""
    stops_after: int | None = None
    """Body bytes after which nothing more comes."""


@dataclass
class Site:
    """An HTTP server, HTTP/1.1 and HTTP/2, that remembers what it was asked."""

    pages: dict[str, Page] = field(default_factory=lambda: {"/": Page()})
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, host, path)."""
    headers: list[dict[str, str]] = field(default_factory=list)
    taken: int = 0
    """Body bytes that clients sent."""

    def _page(self, method: str, host: str, path: str, headers: dict[str, str]) -> Page:
        self.asked.append((method, host, path))
        self.headers.append(headers)
        return self.pages.get(path.split("?")[0], Page(404, b"none here"))

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        if tls and tls.selected_alpn_protocol() == "h2":
            await self._http2(reader, writer)
        else:
            await self._http1(reader, writer)

    async def _http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split()
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            page = self._page(method, headers["host"], path, headers)
            left = int(headers.get("content-length", 0))
            while left and (data := await reader.read(left)):
                left -= len(data)
                self.taken += len(data)
            lines = [f"HTTP/1.1 {page.status} X", f"Content-Length: {len(page.body)}"]
            lines += [f"{name}: {value}" for name, value in page.headers]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            if method != "HEAD":
                async for part in _parts(page):
                    writer.write(part)
                    await writer.drain()
            await writer.drain()

    async def _http2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        answers: list[asyncio.Task[None]] = []
        room = asyncio.Event()
        try:
            writer.write(connection.data_to_send())
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        headers = dict(event.headers)
                        method, path = headers[":method"], headers[":path"]
                        page = self._page(method, headers[":authority"], path, headers)
                        answers.append(
                            asyncio.create_task(self._answer2(connection, writer, event.stream_id, method, page, room))
                        )
                    elif isinstance(event, h2.events.DataReceived):
                        self.taken += len(event.data)
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                room.set()
                writer.write(connection.data_to_send())
        finally:
            for answer in answers:
                answer.cancel()
            await asyncio.gather(*answers, return_exceptions=True)

    async def _answer2(
        self,
        connection: h2.connection.H2Connection,
        writer: asyncio.StreamWriter,
        stream: int,
        method: str,
        page: Page,
        room: asyncio.Event,
    ) -> None:
        headers = [(":status", str(page.status)), ("content-length", str(len(page.body)))]
        headers += [(name.lower(), value) for name, value in page.headers]
        connection.send_headers(stream, headers, end_stream=method == "HEAD")
        writer.write(connection.data_to_send())
        if method == "HEAD":
            return
        async for part in _parts(page):
            while part:
                count = min(len(part), connection.local_flow_control_window(stream), connection.max_outbound_frame_size)
                if count == 0:
                    room.clear()
                    await room.wait()
                    continue
                connection.send_data(stream, part[:count])
                writer.write(connection.data_to_send())
                await writer.drain()
                part = part[count:]
        connection.end_stream(stream)
        writer.write(connection.data_to_send())


async def _parts(page: Page) -> AsyncIterator[bytes]:
    end = len(page.body) if page.stops_after is None else page.stops_after
    for start in range(0, end, page.chunk):
        if start and page.pause:
            await asyncio.sleep(page.pause)
        yield page.body[start : min(start + page.chunk, end)]
    if page.stops_after is not None:
        await asyncio.Event().wait()


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST, as a censor does."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def resets_after_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads the first flight, then RST."""
    await reader.read(65536)
    reset(writer)


async def ends_after_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads the first flight, then FIN."""
    await reader.read(65536)
    writer.close()


async def stays_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everything, says nothing."""
    while await reader.read(65536):
        pass


def says(data: bytes) -> Handler:
    """Answers the first flight with these bytes, and hangs up."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(data)
        writer.close()

    return handler


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Middle:
    """A box on the way: passes a TCP connection on, and interferes."""

    to: tuple[str, int]
    name: str = ""
    """Interferes with connections whose first flight holds this; with all if empty."""
    how: Handler | None = None
    """What is done instead of passing the connection on."""
    budget: int | None = None
    """Bytes each way after which it passes nothing more."""
    rate: float | None = None
    """Bytes per second towards the client."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65536)
        hit = self.name.encode() in first
        if hit and self.how is not None:
            again = asyncio.StreamReader()
            again.feed_data(first)
            again.feed_eof()
            await self.how(again, writer)
            if self.how is stays_silent:
                await reader.read()
            return
        far_reader, far_writer = await asyncio.open_connection(*self.to)
        far_writer.write(first)
        try:
            await asyncio.gather(
                self._pass(reader, far_writer, self.budget and max(0, self.budget - len(first)) if hit else None, None),
                self._pass(far_reader, writer, self.budget if hit else None, self.rate if hit else None),
            )
        finally:
            far_writer.close()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, budget: int | None, rate: float | None
    ) -> None:
        while data := await source.read(2048 if rate else 65536):
            if rate:
                await asyncio.sleep(len(data) / rate)
            if budget is not None:
                data, budget = data[:budget], max(0, budget - len(data))
            if data:
                sink.write(data)
                await sink.drain()
        if budget is None:
            sink.close()


class _Http3(QuicConnectionProtocol):
    """A site over HTTP/3. What the page says of pauses does not hold here."""

    site: Site

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        for part in self._http.handle_event(event) if hasattr(self, "_http") else ():
            if isinstance(part, HeadersReceived):
                headers = {name.decode(): value.decode() for name, value in part.headers}
                method = headers[":method"]
                page = self.site._page(method, headers[":authority"], headers[":path"], headers)
                body = b"" if method == "HEAD" else page.body[: page.stops_after]
                ends = page.stops_after is None
                answer = {":status": str(page.status), "content-length": str(len(page.body)), **dict(page.headers)}
                fields = [(name.encode(), value.encode()) for name, value in answer.items()]
                self._http.send_headers(part.stream_id, fields, end_stream=ends and not body)
                if body:
                    self._http.send_data(part.stream_id, body, end_stream=ends)
        self.transmit()


class _Stun(asyncio.DatagramProtocol):
    """Answers binding requests, but for the first ones that it is to leave."""

    def __init__(self, leaves: int) -> None:
        self.leaves = leaves
        self.asked: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        request = stun.parse_message(data)
        self.asked.append(request.transaction_id)
        if len(self.asked) > self.leaves:
            mapped = {"XOR-MAPPED-ADDRESS": address[:2]}
            for transaction in (b"x" * 12, request.transaction_id):
                answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction, mapped)
                self._transport.sendto(bytes(answer), address)


class Mute(asyncio.DatagramProtocol):
    """Takes every datagram, and says to each what it is told to say."""

    def __init__(self, says: bytes = b"") -> None:
        self.says = says
        self.heard: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.heard.append(data)
        if self.says:
            self._transport.sendto(self.says, address)


@dataclass(frozen=True)
class Reply:
    """One answer of a resolver."""

    addresses: tuple[str, ...] = ()
    rcode: str = "NOERROR"


class DnsServer(asyncio.DatagramProtocol):
    """A resolver: each question gets all the replies in its zone, one after another; none where that list is empty."""

    def __init__(self, zone: dict[str, Sequence[Reply]]) -> None:
        self.zone = zone
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(omit_final_dot=True), question.rdtype.name
        self.asked.append((name, kind))
        replies = self.zone.get(f"{name} {kind}", self.zone.get(name) if kind == "A" else (Reply(),))
        for reply in (Reply(rcode="NXDOMAIN"),) if replies is None else replies:
            response = dns.message.make_response(query)
            response.set_rcode(dns.rcode.from_text(reply.rcode))
            if reply.addresses:
                response.answer.append(dns.rrset.from_text(name + ".", 60, "IN", kind, *reply.addresses))
            self._transport.sendto(response.to_wire(), address)


class _Socket(socket.socket):
    table: dict[tuple[str, int], tuple[str, int]]

    def connect(self, address: Any) -> None:
        try:
            super().connect(self.table[address[:2]])
        except KeyError:
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)) from None


class LoopbackVantage(Vantage):
    """A vantage in no namespace: its sockets are this process's own, and connect by a table."""

    table: dict[tuple[str, int], tuple[str, int]]

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        made = _Socket(family, kind)
        made.table = self.table
        made.setblocking(False)
        return made


class FarSide:
    """The servers of one test, and vantages that reach them."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, int], tuple[str, int]] = {}
        self.seen: list[Observation] = []
        self._servers: list[asyncio.Server] = []
        self._transports: list[asyncio.BaseTransport] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []

    async def serve(
        self, address: str, port: int, handler: Handler, tls: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """A TCP server at an address of the far side. Gives where it truly stands."""

        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await handler(reader, writer)
            except (OSError, EOFError, asyncio.CancelledError):
                pass
            finally:
                self._tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(guarded, "127.0.0.1", 0, ssl=tls)
        self._servers.append(server)
        real = server.sockets[0].getsockname()
        self.table[address, port] = real
        return real  # type: ignore[no-any-return]

    def refuse(self, address: str, port: int) -> None:
        """An address that is there, without a server at that port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.table[address, port] = free.getsockname()

    def swallow(self, address: str, port: int) -> None:
        """An address where SYNs get no answer: a listener whose queue is full."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        self._sockets.append(listener)
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            self._sockets.append(filler)
        self.table[address, port] = listener.getsockname()

    async def quic(
        self, address: str, port: int, site: Site, *names: str, ca: trustme.CA | None = None, expired: bool = False
    ) -> tuple[str, int]:
        """A server of HTTP/3, with a certificate of these names. Gives where it truly stands."""
        leaf = _leaf(*names, ca=ca, expired=expired)
        configuration = QuicConfiguration(
            is_client=False,
            alpn_protocols=["h3"],
            certificate=load_pem_x509_certificates(leaf.cert_chain_pems[0].bytes())[0],
            certificate_chain=[
                each for pem in leaf.cert_chain_pems[1:] for each in load_pem_x509_certificates(pem.bytes())
            ],
            private_key=load_pem_private_key(leaf.private_key_pem.bytes(), None),
        )

        def protocol(*arguments: Any, **options: Any) -> QuicConnectionProtocol:
            made = _Http3(*arguments, **options)
            made.site = site
            return made

        server = await aioquic.asyncio.serve("127.0.0.1", 0, configuration=configuration, create_protocol=protocol)
        self._transports.append(server)  # type: ignore[arg-type]
        real = server._transport.get_extra_info("sockname")
        self.table[address, port] = real
        return real  # type: ignore[no-any-return]

    async def stun(self, address: str, port: int = 3478, *, leaves: int = 0) -> _Stun:
        """A STUN server."""
        return await self.datagrams(address, port, _Stun(leaves))

    async def datagrams(self, address: str, port: int, protocol: _Datagrams) -> _Datagrams:
        """Whatever answers datagrams."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=("127.0.0.1", 0))
        self._transports.append(transport)
        self.table[address, port] = transport.get_extra_info("sockname")
        return protocol

    async def resolver(self, address: str, zone: dict[str, Sequence[Reply]]) -> DnsServer:
        """A resolver over UDP."""
        loop = asyncio.get_running_loop()
        transport, server = await loop.create_datagram_endpoint(lambda: DnsServer(zone), local_addr=("127.0.0.1", 0))
        self._transports.append(transport)
        self.table[address, 53] = transport.get_extra_info("sockname")
        return server

    def vantage(self, name: str = "outside", **fields: Any) -> LoopbackVantage:
        """A place that reaches all this."""
        made = LoopbackVantage(name, None, fields.pop("resolver", RESOLVER), **fields)  # type: ignore[arg-type]
        made.table = self.table
        return made

    def bench(self, *platforms: Platform, limits: Limits = PATIENT, **settings: Any) -> Bench:
        """What probes share. What they observe goes to :attr:`seen`."""
        begun = time.monotonic()
        chosen = self.settings(**settings)
        notebook = Notebook(lambda: time.monotonic() - begun, self.seen.append)
        trust = Trust(chosen, platforms) if any(each.roots for each in platforms) else _trust(chosen.ca_pem or "")
        return Bench(notebook=notebook, settings=chosen, trust=trust, limits=limits)

    def settings(self, **settings: Any) -> Settings:
        """Settings of these tests."""
        pem = authority().cert_pem.bytes().decode()
        defaults = {"ca_pem": pem, "public_resolver": PUBLIC, "neutral_name": NEUTRAL, "control": (), "attempts": 2}
        return Settings(**{**defaults, **settings})

    def campaign(self, *platforms: Platform, limits: Limits = PATIENT, **settings: Any) -> Campaign:
        """A campaign of these platforms, in an order that is the same every time."""
        begun = time.monotonic()
        plan = Plan(tunnels=(), platforms=platforms, settings=self.settings(**settings))
        return Campaign(
            plan,
            self.vantage(),
            lambda: time.monotonic() - begun,
            self.seen.append,
            rng=random.Random(1),
            limits=limits,
        )

    def chain(self, **labels: Any) -> list[tuple[str, str | None]]:
        """(operation, failure) of what was observed under these labels, in order."""
        return [(one.operation, one.failure) for one in self.select(**labels)]

    def select(self, **labels: Any) -> list[Observation]:
        """What was observed under these labels, in the order of ending."""
        found = [one for one in self.seen if all(getattr(one, name) == value for name, value in labels.items())]
        return sorted(found, key=lambda one: int(one.id.removeprefix("o")))

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in self._transports:
            transport.close()
        for sock in self._sockets:
            sock.close()
        # The loop closes a transport's socket in its next round.
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@asynccontextmanager
async def far_side() -> AsyncIterator[FarSide]:
    """A far side for the body."""
    far = FarSide()
    try:
        yield far
    finally:
        await far._close()


@cache
def _trust(pem: str) -> Trust:
    return Trust(Settings(ca_pem=pem), ())


def run(scenario: Callable[[FarSide], Awaitable[None]]) -> None:
    """Runs one with a far side of its own."""

    async def main() -> None:
        async with far_side() as far:
            await scenario(far)

    asyncio.run(main())


def platform(*urls: str, speed: str | None = None, **fields: Any) -> Platform:
    """A platform of one service with these endpoints."""
    endpoints = tuple({"url": url, **fields} for url in urls)
    return msgspec.convert(
        {"id": "example", "title": "Example", "speed": speed, "service": [{"id": "web", "endpoint": endpoints}]},
        Platform,
    )
