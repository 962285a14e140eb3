"""Where intercepted TLS connections end: listed names are met with a certificate of the censor's own authority.

    python -m vpntest.lab.interceptor FILE

The router leads connections to some addresses here (nat redirect). The first bytes are looked at and left where they
are; a connection with a listed name is finished here, any other is relayed byte for byte to where it was going. The
server then sees the censor's address, and the censor's rules on passing packets do not see the relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import functools
import html
import ipaddress
import socket
import ssl
import struct
import sys
import tempfile
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from msgspec import Struct

from vpntest.lab.inspector import handshake_in, listed, read_hello
from vpntest.lab.rules import Intercept

HELLO_WITHIN = 5.0
"""Seconds for a ClientHello to be whole; then the connection is relayed as it is."""
MOST_CONNECTIONS = 512
"""At a time; what is more waits."""
_SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h"""
_PEEKED = 16384
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Station(Struct, frozen=True):
    """A local TCP port to which the connections of one rule are led."""

    port: int
    rule: Intercept


class Authority:
    """Makes certificates that no client has reason to trust."""

    def __init__(self, common_name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        self.certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.context = functools.lru_cache(256)(self._context)

    def _context(self, name: str) -> ssl.SSLContext:
        """What a server needs to be taken for `name` by whoever trusts this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        leaf = self._sign(subject, key, x509.SubjectAlternativeName([_general(name)]))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        # The key is worth nothing, and `ssl` reads none but from a file.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.write(leaf.public_bytes(Encoding.PEM) + self.certificate.public_bytes(Encoding.PEM))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(extension, critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def page(name: str) -> bytes:
    """The answer to whatever is asked under an intercepted name."""
    text = f"<html><head><title>{html.escape(name)}</title></head><body></body></html>".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    return head.encode() + text


async def shown_name(connection: socket.socket) -> str | None:
    """The name that a client shows in its ClientHello, which stays in the socket; None where it shows none."""
    loop = asyncio.get_running_loop()
    end = loop.time() + HELLO_WITHIN
    while loop.time() < end:
        try:
            seen = connection.recv(_PEEKED, socket.MSG_PEEK)
            if not seen:
                return None
            message = handshake_in(seen)
            if message is not None:
                return read_hello(message).name
            if len(seen) == _PEEKED:
                return None
        except BlockingIOError:
            pass
        except (OSError, ValueError):
            return None
        await asyncio.sleep(0.01)
    return None


async def _serve(connection: socket.socket, station: Station, authority: Authority) -> None:
    """One connection, to its end."""
    connection.setblocking(False)
    name = await shown_name(connection)
    if name is not None and listed(name, station.rule.names):
        await _finish(connection, name, authority)
        return
    _, port, address = struct.unpack_from("!HH4s", connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16))
    if port == station.port:
        return  # somebody called this port itself: relaying that would call us again
    outward, inward = await asyncio.open_connection(socket.inet_ntoa(address), port)
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        await asyncio.gather(_relay(reader, inward), _relay(outward, writer))
    finally:
        writer.close()
        inward.close()


async def _finish(connection: socket.socket, name: str, authority: Authority) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    done = loop.create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HELLO_WITHIN):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(page(name))
                await writer.drain()
        except (OSError, EOFError, ValueError, TimeoutError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            if not done.done():
                done.set_result(None)

    protocol = asyncio.StreamReaderProtocol(reader, answer)
    await loop.connect_accepted_socket(
        lambda: protocol, connection, ssl=authority.context(name), ssl_handshake_timeout=HELLO_WITHIN
    )
    await done


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
        return
    # One side was reset: so must the other be.
    writer.transport.abort()


async def _listen(stations: tuple[Station, ...]) -> None:
    places = asyncio.Semaphore(MOST_CONNECTIONS)

    async def one(connection: socket.socket, station: Station, authority: Authority) -> None:
        with connection:
            try:
                await _serve(connection, station, authority)
            except (OSError, EOFError, ValueError) as fault:
                # A client that goes, a name that no certificate can hold, a server that is silent: no fault of ours.
                if isinstance(fault, OSError) and fault.errno in _SHORTAGES:
                    raise
            finally:
                places.release()

    async def station_loop(station: Station) -> None:
        loop, authority = asyncio.get_running_loop(), Authority(station.rule.authority)
        with socket.create_server(("", station.port), backlog=256) as listening:
            listening.setblocking(False)
            open_stations.append(station)
            if len(open_stations) == len(stations):
                sys.stdout.write("ready\n")
                sys.stdout.flush()
            while True:
                await places.acquire()
                connection, _ = await loop.sock_accept(listening)
                group.create_task(one(connection, station, authority))

    open_stations: list[Station] = []
    # A connection that could not be dealt with ends all: an interceptor that overlooks one is another censor.
    async with asyncio.TaskGroup() as group:
        for station in stations:
            group.create_task(station_loop(station))


def main() -> None:
    """Serves the stations in the file named in `argv` for ever; says `ready` once their ports are open.

    It ends, and says why, where it could not deal with a connection by a fault of its own or a shortage of this box.
    """
    try:
        asyncio.run(_listen(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=tuple[Station, ...])))
    except ExceptionGroup as faults:
        sys.exit(f"a connection passes unseen: {faults.exceptions[0]!r}")


if __name__ == "__main__":
    main()
