"""QUIC version 1 and HTTP/3 from a vantage. The one module that knows the QUIC library.

The library's own event loop opens sockets by itself, and not in a vantage; here it gets datagrams and gives datagrams,
and we carry them over a socket of the vantage. Verification trusts the same roots as TLS over TCP does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import ssl
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import certifi

from vpntest.failures import Failure, failure_of
from vpntest.probe.connection import at, datagrams
from vpntest.probe.http import BODY_CAP, HEADERS, Answer
from vpntest.probe.patience import within
from vpntest.tunnel.vantage import Vantage

if TYPE_CHECKING:
    from aioquic.h3.connection import H3Connection
    from aioquic.quic.connection import QuicConnection
    from aioquic.quic.events import ConnectionTerminated, QuicEvent

_CRYPTO_ERROR = 0x100
"""Transport error codes from here on are TLS alerts (RFC 9001, 4.8)."""
_CONNECTION_REFUSED = 0x02
_CODES = frozenset({0x00, 0x100})
"""NO_ERROR and H3_NO_ERROR: the far side goes away and finds no fault."""
_CERTIFICATE_EXPIRED, _UNRECOGNIZED_NAME = 45, 112
_CERTIFICATE = frozenset({42, 43, 44, 45, 46, 48})
"""Alerts that a client gives for a certificate (RFC 8446, 6.2)."""
_OTHER_NAME = re.compile(r"^hostname |subjectAltName")
"""The library's words for a certificate of another name, or of none."""
_NO_ROOT = re.compile(r"issuer certificate|self.signed|verify the first certificate", re.IGNORECASE)
"""OpenSSL's words (X509_verify_cert_error_string) for a chain without a trusted root at its end."""


class Broken(Exception):
    """The far side, or our own check of it, ended the connection."""

    def __init__(self, failure: str) -> None:
        super().__init__(failure)
        self.failure = failure
        """A word of :mod:`vpntest.failures`."""


@cache
def _bodiless() -> type[H3Connection]:
    """The library's HTTP/3 where answers have no bodies: it takes the length that an answer to HEAD announces for a
    promise (RFC 9110, 8.6), finds it broken and ends the connection."""
    from aioquic.h3.connection import H3Connection

    class Bodiless(H3Connection):
        def _check_content_length(self, stream: object) -> None:
            """Holds."""

    return Bodiless


class Quic:
    """A QUIC connection from a vantage. Its methods raise OSError as the kernel does, and :class:`Broken`: also where
    the library trips over what a stranger sent.

    Like :class:`~vpntest.probe.connection.Connection` it knows nothing of observations; who awaits sets the limit.
    """

    def __init__(
        self, vantage: Vantage, address: str, port: int, server_name: str, *, verified: bool, added: bytes | None = None
    ) -> None:
        """`added`: PEM of roots that are trusted beside the public ones.

        Raises OSError where there is no way to the address, CannotMeasure where this box is out of sockets.
        """
        from aioquic.quic.configuration import QuicConfiguration
        from aioquic.quic.connection import QuicConnection
        from aioquic.quic.packet import QuicProtocolVersion

        self.address, self.port = address, port
        self.datagrams = 0
        """That came back."""
        self.protocol: str | None = None
        """What ALPN has agreed on."""
        self._loop = asyncio.get_running_loop()
        self._quic: QuicConnection = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=["h3"],
                server_name=server_name,
                verify_mode=ssl.CERT_REQUIRED if verified else ssl.CERT_NONE,
                cafile=certifi.where(),
                cadata=added,
                supported_versions=[QuicProtocolVersion.VERSION_1],
            )
        )
        self._events: list[QuicEvent] = []
        self._stands = False
        self._ended: ConnectionTerminated | None = None
        self._said = False
        """The end came from the far side."""
        self._refused = 0
        self._socket = datagrams(vantage, address, port)

    def __str__(self) -> str:
        return at(self.address, self.port)

    async def handshake(self) -> None:
        """Until the far side has finished, and its certificate fits where that is asked for."""
        from aioquic.quic.events import HandshakeCompleted

        with self._survived():
            self._quic.connect((self.address, self.port), self._loop.time())

        def done() -> bool:
            # What has come with it is left for HTTP.
            for event in self._events:
                if isinstance(event, HandshakeCompleted):
                    self._stands, self.protocol = True, event.alpn_protocol
            return self._stands

        await self._until(done)

    def leaf(self) -> bytes | None:
        """The server's own certificate (DER), also where it was just refused; None where none came."""
        from cryptography.hazmat.primitives.serialization import Encoding

        # The library has no public way to it.
        certificate = self._quic.tls._peer_certificate if self._quic._connect_called else None
        return certificate.public_bytes(Encoding.DER) if certificate else None

    async def ask(self, method: str, url: str, *, timeout: float, cap: int = BODY_CAP) -> Answer:
        """One HTTP/3 request, once the handshake is done. As :meth:`vpntest.probe.http.Http.ask`."""
        answer = Answer("h3")
        try:
            async with within(timeout):
                await self._exchange(answer, method, url, cap)
        except Broken as exc:
            answer.failure = exc.failure
        except OSError as exc:
            answer.failure = failure_of(exc)
        return answer

    async def _exchange(self, answer: Answer, method: str, url: str, cap: int) -> None:
        from aioquic.h3.connection import H3Connection
        from aioquic.h3.events import DataReceived, HeadersReceived
        from aioquic.quic.events import StreamReset

        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {":method": method, ":scheme": "https", ":authority": parts.netloc, ":path": path, **HEADERS}
        with self._survived():
            http = (_bodiless() if method == "HEAD" else H3Connection)(self._quic)
            stream = self._quic.get_next_available_stream_id()
            http.send_headers(
                stream, [(name.lower().encode(), value.encode()) for name, value in headers.items()], end_stream=True
            )

        def done() -> bool:
            for event in self._taken():
                if isinstance(event, StreamReset) and event.stream_id == stream:
                    raise Broken(Failure.HTTP_REQUEST_FAILED)
                for part in http.handle_event(event):
                    if isinstance(part, HeadersReceived) and part.stream_id == stream and part.push_id is None:
                        self._head(answer, part.headers)
                        answer.complete = part.stream_ended
                    elif isinstance(part, DataReceived) and part.stream_id == stream and part.push_id is None:
                        if part.data:
                            answer.take(part.data, cap)
                        answer.complete = part.stream_ended
            return answer.complete or answer.length >= cap

        await self._until(done)
        if answer.code is None:
            raise Broken(Failure.HTTP_REQUEST_FAILED)

    @staticmethod
    def _head(answer: Answer, fields: list[tuple[bytes, bytes]]) -> None:
        status = dict(fields).get(b":status", b"")
        # An informational answer goes before the true one; trailers have no status.
        if len(status) == 3 and status.isdigit() and int(status) >= 200:
            answer.begin(int(status), (field for field in fields if not field[0].startswith(b":")))

    def _taken(self) -> list[QuicEvent]:
        taken, self._events = self._events, []
        return taken

    async def _until(self, done: Callable[[], bool]) -> None:
        """Sends and receives until it is done."""
        while True:
            # What has come before the end counts.
            with self._survived():
                is_done = done()
            if is_done:
                with contextlib.suppress(Broken):
                    await self._send()
                return
            # HTTP/3 ends the connection by itself where the far side breaks its rules.
            self._collect(came=False)
            if self._ended is not None:
                raise Broken(self._failure(self._ended))
            await self._send()
            timer = self._quic.get_timer()
            # While datagrams wait, receiving gives nobody else a turn, and no limit can pass.
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout_at(timer):
                    datagram = await self._loop.sock_recv(self._socket, 65535)
            except ConnectionRefusedError:
                self._refuse()
            except TimeoutError:
                with self._survived():
                    self._quic.handle_timer(self._loop.time())
                self._collect(came=False)
            else:
                self.datagrams += 1
                with self._survived():
                    self._quic.receive_datagram(datagram, (self.address, self.port), self._loop.time())
                self._collect(came=True)

    @contextlib.contextmanager
    def _survived(self) -> Iterator[None]:
        """Anybody on the way can make a first packet that decrypts, and a server may send what it likes. Where the
        library trips over it, that is the network's doing and no reason to end a run."""
        try:
            yield
        except Broken:
            raise
        except Exception as exc:
            raise Broken(Failure.HTTP_REQUEST_FAILED if self._stands else Failure.SSL_FAILED_HANDSHAKE) from exc

    async def _send(self) -> None:
        for datagram in self._outgoing():
            try:
                await self._loop.sock_sendall(self._socket, datagram)
            except ConnectionRefusedError:
                self._refuse()

    def _outgoing(self) -> list[bytes]:
        with self._survived():
            return [datagram for datagram, _ in self._quic.datagrams_to_send(self._loop.time())]

    def _refuse(self) -> None:
        """An ICMP error is easily forged: it counts only if the second flight meets it too."""
        self._refused += 1
        if self._refused > 1 and not self.datagrams:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))

    def _collect(self, *, came: bool) -> None:
        while (event := self._quic.next_event()) is not None:
            self._events.append(event)
        # The library's event of it comes some timers later, and does not tell who began.
        if self._ended is None and self._quic._close_event is not None:
            self._ended, self._said = self._quic._close_event, came and not self._quic._close_pending

    def _failure(self, ended: ConnectionTerminated) -> str:
        code, reason = ended.error_code, ended.reason_phrase
        if reason == "Idle timeout" and not self._said:
            return Failure.TIMEOUT
        if "common protocol version" in reason:
            return Failure.QUIC_INCOMPATIBLE_VERSION
        if self._stands:
            return Failure.EOF if code in _CODES else Failure.HTTP_REQUEST_FAILED
        alert = code - _CRYPTO_ERROR
        if alert == _UNRECOGNIZED_NAME:
            return Failure.SSL_INVALID_HOSTNAME
        if alert in _CERTIFICATE and not self._said:
            if alert == _CERTIFICATE_EXPIRED:
                return Failure.SSL_INVALID_CERTIFICATE
            if _OTHER_NAME.search(reason):
                return Failure.SSL_INVALID_HOSTNAME
            return Failure.SSL_UNKNOWN_AUTHORITY if _NO_ROOT.search(reason) else Failure.SSL_INVALID_CERTIFICATE
        return Failure.CONNECTION_REFUSED if code == _CONNECTION_REFUSED else Failure.SSL_FAILED_HANDSHAKE

    def close(self) -> None:
        """Says goodbye, so that no server keeps state, and lets go of the socket. Safe to call again."""
        if self._socket.fileno() < 0:
            return
        # The library says why it closes, at any length, and trips over words that are too long for a packet (all the
        # names of a certificate that does not fit). Then it goes without any; why it ended is known all the same.
        with contextlib.suppress(OSError, Broken):
            if self.datagrams:
                with self._survived():
                    self._quic.close()
                for datagram in self._outgoing():
                    self._socket.send(datagram)
        self._socket.close()
