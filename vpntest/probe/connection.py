"""One connection of a vantage, step by step: connect, TLS handshake, read, write, and what the kernel knows of it.

TLS runs over memory buffers and never over asyncio's own transport, which turns a reset, an end of stream and an alert
into much the same exception. Here each keeps its own: OSError with the kernel's errno, EOFError, `ssl.SSLError`.
Knows nothing of HTTP, of observations and of time limits: who awaits sets the limit.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import ssl
import struct
from collections.abc import Iterable
from functools import lru_cache

import certifi
from cryptography import x509

from vpntest.plan.model import Platform, Settings
from vpntest.probe.observation import TcpInfo
from vpntest.tunnel.vantage import Vantage

_CHUNK = 64 * 1024
_TLS_RECORD = 16 * 1024


class Trust:
    """The TLS contexts of a run. Loading the public roots takes tens of milliseconds, so each is made once."""

    def __init__(self, settings: Settings, platforms: Iterable[Platform]) -> None:
        self.public = _context(settings.ca_pem)
        """The public roots and those of the plan; offers HTTP/2 and HTTP/1.1."""
        self.http1 = _context(settings.ca_pem, protocols=("http/1.1",))
        """The same, for who needs HTTP/1.1's one exchange after another."""
        self.unverified = _context(None, verified=False)
        """For a neutral name, whose certificate cannot fit. Nothing that is learnt over it is believed."""
        self.http1_unverified = _context(None, verified=False, protocols=("http/1.1",))
        """Both."""
        self._own: dict[str, ssl.SSLContext] = {}
        self._added = {self.public: _certificates(settings.ca_pem)}
        for each in platforms:
            if each.roots:
                self._own[each.id] = context = _context(settings.ca_pem, each.roots)
                self._added[context] = _certificates(settings.ca_pem, each.roots)

    def added(self, context: ssl.SSLContext) -> bytes | None:
        """PEM of the roots that a context of :meth:`of` trusts beside the public ones; None where there are none."""
        return self._added.get(context)

    def of(self, platform: Platform) -> ssl.SSLContext:
        """The context that the platform's own client would use."""
        return self._own.get(platform.id, self.public)


def _context(
    *pems: str | None, verified: bool = True, protocols: tuple[str, ...] = ("h2", "http/1.1")
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if verified:
        # From certifi and not from the system: a verdict must not hang on which roots this box happens to trust.
        context.load_verify_locations(cafile=certifi.where())
        for pem in filter(None, pems):
            context.load_verify_locations(cadata=pem)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    return context


def _certificates(*pems: str | None) -> bytes | None:
    """Nothing but the certificates, each ending in a line's end: what the least of readers takes."""
    blocks = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", "\n".join(filter(None, pems)), re.S)
    return "".join(f"{block}\n" for block in blocks).encode() or None


def at(address: str, port: int) -> str:
    """`ip:port` as observations write it; an IPv6 address stands in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def datagrams(vantage: Vantage, address: str, port: int) -> socket.socket:
    """A UDP socket of the vantage's, connected, so that the kernel drops what others send and gives us ICMP errors.

    Raises OSError where there is no way to the address, CannotMeasure where this box is out of sockets.
    """
    sock = vantage.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class Connection:
    """A TCP connection from a vantage, with TLS once :meth:`start_tls` is done.

    Its methods raise OSError, EOFError or `ssl.SSLError` as the network makes them, never a library's wrapper.
    """

    def __init__(self, sock: socket.socket, address: str, port: int) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.address = address
        self.port = port
        self.broken: OSError | None = None
        """The first error that the kernel gave. It gives each once, and a layer above may have swallowed it."""
        self.ended = False
        """The far side has said that it sends no more."""
        self.first_flight = b""
        """What we sent first in TLS: the record with our ClientHello."""

    @classmethod
    def over(cls, vantage: Vantage, address: str, port: int, *, segment: int | None = None) -> Connection:
        """A socket of the vantage's, not connected yet, from a fresh source port.

        `segment`: bytes that TCP segments of both sides are held to (TCP_MAXSEG, 88 to 32767); our SYN asks the far
        side for it. None: the path's own. Raises OSError where the vantage has no such address family, CannotMeasure
        where this box is out of sockets.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = vantage.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if segment is not None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
        except BaseException:
            sock.close()
            raise
        return cls(sock, address, port)

    def __str__(self) -> str:
        return at(self.address, self.port)

    async def connect(self) -> None:
        """The three-way handshake."""
        try:
            await self._loop.sock_connect(self._socket, (self.address, self.port))
        except OSError as exc:
            self.broken = exc
            raise

    async def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """A TLS handshake. An `ssl.SSLError` is ours (the certificate does not fit) or the server's (an alert)."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._feed():
                    raise EOFError("the stream ended within the handshake") from None
            except ssl.SSLError:
                self._say_why()
                raise
        await self._flush()

    def _say_why(self) -> None:
        """Lets the server have our alert, as any client does; whether it still arrives is no matter."""
        try:
            self._socket.send(self._outgoing.read())
        except OSError:
            return

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS layer, for its version, cipher and protocol; None in the clear."""
        return self._tls

    def leaf(self) -> bytes | None:
        """The server's own certificate (DER), also where it was just refused; None where none came.

        A second, unverified handshake would tell it too, but of another connection: a forger on the way need not
        answer twice alike, and the censor would see the name once more. So it is read off the refused handshake, for
        which Python has a public method since 3.13 only.
        """
        if self._tls is None:
            return None
        if hasattr(self._tls, "get_unverified_chain"):
            chain = self._tls.get_unverified_chain()
            return chain[0] if chain else None
        certificates = self._tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
        return ssl.PEM_cert_to_DER_cert(certificates[0].public_bytes()) if certificates else None

    async def read(self, limit: int = _CHUNK) -> bytes:
        """The next bytes, at most `limit`; empty at the end of the stream."""
        if self._tls is None:
            return await self._receive(limit)
        while True:
            try:
                data = self._tls.read(limit)
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._feed():
                    return b""
            else:
                # Nothing, without wanting more, is the far side's close_notify.
                self.ended = self.ended or not data
                return data

    async def write(self, data: bytes) -> None:
        """Hands all of `data` to the kernel; that says nothing about its arrival."""
        if self._tls is None:
            await self._send(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _TLS_RECORD):
            self._tls.write(view[start : start + _TLS_RECORD])
            await self._flush()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            data = self._outgoing.read()
            self.first_flight = self.first_flight or data
            await self._send(data)

    async def _feed(self) -> bool:
        """Moves what has come to the TLS layer. False at the end of the stream."""
        data = await self._receive(_CHUNK)
        self._incoming.write(data)
        return bool(data)

    async def _receive(self, limit: int) -> bytes:
        # While bytes wait, the loop's own receive gives nobody else a turn, and no limit can pass: a far side that
        # never stops would hold the whole run. Before and not after, so that a limit throws away nothing that was read.
        await asyncio.sleep(0)
        try:
            data = await self._loop.sock_recv(self._socket, limit)
        except OSError as exc:
            self.broken = self.broken or exc
            raise
        self.ended = self.ended or not data
        return data

    async def _send(self, data: bytes | memoryview) -> None:
        try:
            await self._loop.sock_sendall(self._socket, data)
        except OSError as exc:
            self.broken = self.broken or exc
            raise

    def tcp_info(self) -> TcpInfo | None:
        """The kernel's view of the connection; None where this kernel does not say so much."""
        try:
            raw = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_LENGTH)
        except OSError:
            return None
        return read_tcp_info(raw)

    def close(self) -> None:
        """Lets go of it. Safe to call again."""
        self._socket.close()


_TCP_INFO_LENGTH = 232


def read_tcp_info(raw: bytes) -> TcpInfo | None:
    """Reads `struct tcp_info` (linux/tcp.h). Newer kernels append fields, those before 4.1 end too early: then None."""
    if len(raw) < 136:
        return None
    (unacked,) = struct.unpack_from("=I", raw, 24)
    (since_last_data_ms,) = struct.unpack_from("=I", raw, 52)
    path_mtu, _, rtt_us = struct.unpack_from("=III", raw, 60)
    (retransmits,) = struct.unpack_from("=I", raw, 100)
    bytes_acked, bytes_received = struct.unpack_from("=QQ", raw, 120)
    # Since Linux 4.2.
    segments = struct.unpack_from("=II", raw, 136) if len(raw) >= 144 else (None, None)
    return TcpInfo(
        bytes_received=bytes_received,
        bytes_acked=bytes_acked,
        retransmits=retransmits,
        unacked=unacked,
        rtt_ms=rtt_us / 1000,
        # The kernel counts our SYN as a byte. Without it confirmed, its clock of last data runs from the box's start.
        since_last_data_ms=since_last_data_ms if bytes_acked else None,
        segments_sent=segments[0],
        segments_received=segments[1],
        path_mtu=path_mtu,
    )


@lru_cache(maxsize=256)
def describe_leaf(der: bytes) -> tuple[str, str | None]:
    """SHA-256 in hex, and the issuer (RFC 4514), of a certificate; no issuer where it cannot be read.

    Kept, for a run sees the same few certificates thousands of times.
    """
    fingerprint = hashlib.sha256(der).hexdigest()
    try:
        return fingerprint, x509.load_der_x509_certificate(der).issuer.rfc4514_string()
    except Exception:
        # Anybody can send any bytes; what the library makes of them is no fixed set (InvalidVersion, TypeError …).
        return fingerprint, None
