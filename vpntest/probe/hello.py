"""JA4 of a ClientHello: a name for its shape, as a censor may know it, whatever server it asks for.

FoxIO's definition (github.com/FoxIO-LLC/ja4, technical_details/JA4.md): `t13d1516h2_8daaf6152771_d8a2da3f94cd` says TLS
over TCP, version 1.3, with a server name (`d`; `i` without), 15 ciphers, 16 extensions, `h2` as the first and last
character of the first protocol offered; then twelve hex digits of SHA-256 of the sorted ciphers; then twelve of the
sorted extensions, without server name and ALPN, and the signature algorithms in their order. GREASE values (RFC 8701)
count nowhere, so that two connections of one client have one JA4.

Pure, and safe with any bytes: what is no ClientHello has no JA4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME, _SIGNATURE_ALGORITHMS, _ALPN, _SUPPORTED_VERSIONS = 0, 13, 16, 43
_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}
_EMPTY = "0" * 12
MOST = 64 * 1024
"""Bytes that are looked at: a ClientHello with post-quantum keys has 2 KB."""


def ja4(first_flight: bytes) -> str | None:
    """The JA4 of the ClientHello in what a client has sent first over TCP; None where there is no whole one in it."""
    try:
        message = _Reader(_message(first_flight[:MOST]))
        if message.number(1) != _CLIENT_HELLO:
            return None
        return _ja4(_Reader(message.vector(3)))
    except _Broken:
        return None


class _Broken(Exception):
    """It says that it holds more than it does."""


class _Reader:
    """Takes numbers and vectors off the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

    def take(self, count: int) -> bytes:
        if len(self._data) < count:
            raise _Broken
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def vector(self, width: int) -> bytes:
        """What follows its own length, which has so many bytes."""
        return self.take(self.number(width))

    def numbers(self) -> Iterator[int]:
        """All that is left, two bytes each."""
        while self:
            yield self.number(2)


def _message(flight: bytes) -> bytes:
    """The handshake message's bytes, out of as many records as it was cut into."""
    reader, message = _Reader(flight), b""
    while reader and reader.number(1) == _HANDSHAKE:
        reader.take(2)
        message += reader.vector(2)
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4]):
            break
    return message


def _ja4(hello: _Reader) -> str:
    version = hello.number(2)
    hello.take(32)
    hello.vector(1)
    ciphers = _shown(_Reader(hello.vector(2)).numbers())
    hello.vector(1)
    bodies: dict[int, bytes] = {}
    kinds: list[int] = []
    extensions = _Reader(hello.vector(2) if hello else b"")
    while extensions:
        kind = extensions.number(2)
        kinds.append(kind)
        bodies[kind] = extensions.vector(2)
    if _SUPPORTED_VERSIONS in bodies:
        version = max(_shown(_Reader(_Reader(bodies[_SUPPORTED_VERSIONS]).vector(1)).numbers()), default=version)
    algorithms: list[int] = []
    if _SIGNATURE_ALGORITHMS in bodies:
        algorithms = _shown(_Reader(_Reader(bodies[_SIGNATURE_ALGORITHMS]).vector(2)).numbers())
    protocol = b""
    if _ALPN in bodies:
        offered = _Reader(_Reader(bodies[_ALPN]).vector(2))
        protocol = offered.vector(1) if offered else b""
    kinds = _shown(kinds)
    others = _hexes(sorted(kind for kind in kinds if kind not in (_SERVER_NAME, _ALPN)))
    if others and algorithms:
        others += "_" + _hexes(algorithms)
    return (
        f"t{_VERSIONS.get(version, '00')}{'d' if _SERVER_NAME in bodies else 'i'}"
        f"{min(len(ciphers), 99):02}{min(len(kinds), 99):02}{_ends(protocol)}"
        f"_{_digest(_hexes(sorted(ciphers)))}_{_digest(others)}"
    )


def _shown(values: Iterable[int]) -> list[int]:
    """Without GREASE: both bytes alike, and ending in `a`."""
    return [value for value in values if not (value >> 8 == value & 0xFF and value & 0x0F == 0x0A)]


def _hexes(values: Iterable[int]) -> str:
    return ",".join(f"{value:04x}" for value in values)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else _EMPTY


def _ends(protocol: bytes) -> str:
    """First and last character; of its hex digits where one of them is no letter and no digit."""
    if not protocol:
        return "00"
    ends = bytes((protocol[0], protocol[-1]))
    if ends.isalnum():
        return ends.decode("ascii")
    digits = protocol.hex()
    return digits[0] + digits[-1]
