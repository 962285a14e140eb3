"""What the censor's rules cannot see: names in split or encrypted hellos, noise, counts. One worker behind NFQUEUE.

    python -m vpntest.lab.inspector FILE

The kernel hands over few packets: DNS questions, the first ones of a TCP flow, QUIC Initials. Each is held while it is
looked at and let go with a mark; forged packets leave before it does, and so overtake every answer. What becomes of a
marked packet and of its flow is for the router's rules (:mod:`vpntest.lab.censor`) to say: this program drops nothing.

All that is known of packets is in pure functions; :class:`Inspector` remembers, :func:`main` moves packets.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http
import ipaddress
import os
import random
import re
import socket
import struct
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from vpntest.lab.rules import (
    Cut,
    DropEncrypted,
    DropQuicName,
    DropServerHello,
    Freeze,
    FreezeCrowd,
    InjectDns,
    InjectPage,
    InjectReset,
    Police,
    Reject,
    Reset,
    Rule,
)

QUEUE = 0
MOST_FLOWS = 4096
"""Flows that are remembered; the oldest is forgotten first."""
MOST_HELLO = 16384
"""Bytes of a stream in which a ClientHello or a request's head must end: one TLS record."""

_DICE = random.SystemRandom()

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


class Watch(Struct, frozen=True):
    """One rule that the worker takes part in."""

    mark: int
    """What a packet gets that the rule is meant for."""
    rule: Rule
    addresses: tuple[str, ...] = ()
    """Only connections to these; empty: to all."""


# ── packets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Packet(Struct, frozen=True):
    """A TCP segment or UDP datagram over IPv4; the last four fields mean something in TCP only."""

    protocol: int
    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes = b""
    seq: int = 0
    ack: int = 0
    flags: int = 0
    ttl: int = 64


def parse(raw: bytes) -> Packet | None:
    """The packet in an IPv4 datagram; None where it is a fragment, of another protocol, or broken."""
    try:
        head, _, total, _, fragment, ttl, protocol, _, source, destination = struct.unpack_from("!BBHHHBBH4s4s", raw)
        start = (head & 15) * 4
        if head >> 4 != 4 or fragment & 0x3FFF:
            return None
        sport, dport = struct.unpack_from("!HH", raw, start)
        here, there = (socket.inet_ntoa(source), sport), (socket.inet_ntoa(destination), dport)
        if protocol == UDP:
            return Packet(UDP, here, there, raw[start + 8 : total], ttl=ttl)
        if protocol == TCP:
            seq, ack, offset, flags = struct.unpack_from("!IIBB", raw, start + 4)
            return Packet(TCP, here, there, raw[start + (offset >> 4) * 4 : total], seq, ack, flags, ttl)
    except struct.error:
        pass
    return None


def build(packet: Packet) -> bytes:
    """The IPv4 datagram of a packet, with both checksums. Its id is 1, as that of forged resets often is."""
    source, destination = socket.inet_aton(packet.source[0]), socket.inet_aton(packet.destination[0])
    ports = struct.pack("!HH", packet.source[1], packet.destination[1])
    if packet.protocol == UDP:
        length = 8 + len(packet.payload)
        segment = bytearray(ports + struct.pack("!HH", length, 0) + packet.payload)
        at = 6
    else:
        fields = struct.pack("!IIBBHHH", packet.seq, packet.ack, 5 << 4, packet.flags, 65535, 0, 0)
        segment = bytearray(ports + fields + packet.payload)
        at = 16
    pseudo = source + destination + struct.pack("!BBH", 0, packet.protocol, len(segment))
    struct.pack_into("!H", segment, at, _checksum(pseudo + segment) or 0xFFFF)
    head = bytearray(
        struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 1, 0, packet.ttl, packet.protocol, 0, source, destination
        )
    )
    struct.pack_into("!H", head, 10, _checksum(head))
    return bytes(head + segment)


def _checksum(data: bytes | bytearray) -> int:
    words = bytes(data) + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# ── what packets say ─────────────────────────────────────────────────────────────────────────────────────────────────


class _Bytes:
    """Bytes that are read from left to right. Reading beyond their end raises ValueError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self.at:
            raise ValueError("cut short")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def sized(self, width: int) -> _Bytes:
        """What follows a length of `width` bytes."""
        return _Bytes(self.take(self.number(width)))

    def varint(self) -> int:
        """A number as QUIC writes it (RFC 9000 §16)."""
        first = self.number(1)
        return (first & 0x3F) << (8 * ((1 << (first >> 6)) - 1)) | self.number((1 << (first >> 6)) - 1)

    def __bool__(self) -> bool:
        return self.at < len(self._data)


class ClientHello(Struct, frozen=True):
    """What a censor can read of a TLS ClientHello."""

    name: str | None
    """In lower case; None where it shows none."""
    ciphers: tuple[int, ...]
    extensions: tuple[int, ...]


def handshake_in(stream: bytes) -> bytes | None:
    """The first handshake message of a TLS stream; None while more must come. Raises ValueError where it is not TLS."""
    message, records = b"", _Bytes(stream)
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4]):
        if len(stream) - records.at < 5:
            if not stream[records.at :].startswith(b"\x16\x03"[: len(stream) - records.at]):
                raise ValueError("not TLS")
            return None
        if records.number(2) != 0x1603:
            raise ValueError("not TLS")
        records.take(1)
        length = records.number(2)
        if length > len(stream) - records.at:
            return None
        message += records.take(length)
    return message[: 4 + int.from_bytes(message[1:4])]


def read_hello(message: bytes) -> ClientHello:
    """The ClientHello in a handshake message. Raises ValueError where there is none."""
    whole = _Bytes(message)
    if whole.number(1) != 1:
        raise ValueError("no ClientHello")
    hello = whole.sized(3)
    hello.take(2 + 32)
    hello.sized(1)
    suites, ciphers = hello.sized(2), []
    while suites:
        ciphers.append(suites.number(2))
    hello.sized(1)
    name, extensions = None, []
    rest = hello.sized(2) if hello else _Bytes(b"")
    while rest:
        kind = rest.number(2)
        content = rest.sized(2)
        extensions.append(kind)
        if kind == 0 and content:
            names = content.sized(2)
            if names.number(1) == 0:
                name = names.take(names.number(2)).decode("ascii", "replace").lower().rstrip(".")
    return ClientHello(name, tuple(ciphers), tuple(extensions))


_APPLICATION_SETTINGS = {17513, 17613}
"""ALPS, which of all browsers only Chrome and its kin send (draft-vvv-tls-alps; both code points)."""


def chrome(hello: ClientHello) -> bool:
    """Whether it has Chrome's shape: GREASE (RFC 8701) among ciphers and extensions, and application settings."""
    grease = all(any(_is_grease(value) for value in values) for values in (hello.ciphers, hello.extensions))
    return grease and not _APPLICATION_SETTINGS.isdisjoint(hello.extensions)


def _is_grease(value: int) -> bool:
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


_SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
"""Of QUIC version 1 (RFC 9001 §5.2)."""


def quic_hello(datagram: bytes) -> ClientHello | None:
    """The ClientHello in the client's QUIC version 1 Initials of one datagram; None where it holds no whole one."""
    stream: dict[int, bytes] = {}
    with contextlib.suppress(ValueError):
        rest = datagram
        while rest:
            length, frames = _open_initial(rest)
            stream |= _crypto_in(frames)
            rest = rest[length:]
    message = _joined(stream)
    try:
        return read_hello(message[: 4 + int.from_bytes(message[1:4])])
    except ValueError:
        return None


def _open_initial(datagram: bytes) -> tuple[int, bytes]:
    """Length of the Initial at the front of a datagram, and its frames. Raises ValueError where it cannot be read."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header = _Bytes(datagram)
    if header.number(1) & 0xF0 != 0xC0 or header.number(4) != 1:
        raise ValueError("no Initial of version 1")
    destination = header.take(header.number(1))
    header.sized(1)
    header.take(header.varint())  # the token
    remaining = header.varint()
    start = header.at
    header.take(remaining)
    secret = _expand(hmac.digest(_SALT, destination, hashlib.sha256), b"client in", 32)
    key, vector, mask_key = (_expand(secret, *of) for of in ((b"quic key", 16), (b"quic iv", 12), (b"quic hp", 16)))
    sample = datagram[start + 4 : start + 20]
    if len(sample) < 16:
        raise ValueError("cut short")
    # One block of AES is what header protection is made of (RFC 9001 §5.4.3).
    mask = Cipher(algorithms.AES(mask_key), modes.ECB()).encryptor().update(sample)  # noqa: S305
    first = datagram[0] ^ mask[0] & 0x0F
    width = (first & 3) + 1
    number = bytes(a ^ b for a, b in zip(datagram[start : start + width], mask[1:5], strict=False))
    nonce = bytes(a ^ b for a, b in zip(vector, number.rjust(12, b"\0"), strict=True))
    clear = bytes((first,)) + datagram[1:start] + number
    try:
        return header.at, AESGCM(key).decrypt(nonce, datagram[start + width : header.at], clear)
    except InvalidTag:
        raise ValueError("not the client's Initial") from None


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of TLS 1.3, of at most one block."""
    label = b"tls13 " + label
    info = struct.pack("!HB", length, len(label)) + label + b"\0\1"
    return hmac.digest(secret, info, hashlib.sha256)[:length]


def _crypto_in(frames: bytes) -> dict[int, bytes]:
    """Offset → data of the CRYPTO frames among frames that a client's Initial may hold (RFC 9000 §12.4)."""
    found: dict[int, bytes] = {}
    rest = _Bytes(frames)
    with contextlib.suppress(ValueError):
        while rest:
            kind = rest.varint()
            if kind == 6:
                offset = rest.varint()
                found[offset] = rest.take(rest.varint())
            elif kind in (2, 3):
                _skip_ack(rest, counts=kind == 3)
            elif kind > 1:
                break
    return found


def _skip_ack(rest: _Bytes, *, counts: bool) -> None:
    rest.varint()
    rest.varint()
    ranges = rest.varint()
    for _ in range(1 + 2 * ranges + 3 * counts):
        rest.varint()


def _joined(pieces: Mapping[int, bytes]) -> bytes:
    """What stands without a gap from offset 0 on."""
    whole = b""
    for offset in sorted(pieces):
        if offset > len(whole):
            break
        whole += pieces[offset][len(whole) - offset :]
    return whole


_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS|CONNECT|PATCH|TRACE) ")
_HOST = re.compile(rb"\r\nhost:[ \t]*([^\r\n:]*)", re.IGNORECASE)


def host_in(stream: bytes) -> str | None:
    """The Host header of an HTTP request, without its port; empty where it has none; None while more must come.

    Raises ValueError where the stream is no HTTP.
    """
    if not _REQUEST.match(stream):
        raise ValueError("no HTTP")
    head, end, _ = stream.partition(b"\r\n\r\n")
    found = _HOST.search(head)
    if found and (end or found.end() < len(head)):
        return found[1].strip().decode("ascii", "replace").lower().rstrip(".")
    return "" if end else None


_EXEMPT = re.compile(rb"[\x16\x17]\x03[\x00-\x09]|GET |PUT |POST |HEAD ")
_LONG_TEXT = re.compile(rb"[\x20-\x7e]{21}")


def noise(payload: bytes) -> bool:
    """Whether a first payload looks fully encrypted (Wu et al., USENIX Security 2023, algorithm 1)."""
    if not payload or _EXEMPT.match(payload) or _LONG_TEXT.search(payload):
        return False
    bits = int.from_bytes(payload).bit_count() / len(payload)
    printable = [0x20 <= byte <= 0x7E for byte in payload]
    return 3.4 < bits < 4.6 and not (len(payload) >= 6 and all(printable[:6])) and sum(printable) <= len(payload) / 2


class Question(Struct, frozen=True):
    """A DNS question, and what an answer must repeat of it."""

    name: str
    """In lower case, without the last dot."""
    kind: int
    id: bytes
    wire: bytes
    """The question section, letter by letter as it was asked."""


def question_in(payload: bytes) -> Question | None:
    """The question of a DNS query; None where it is none, or has not just one."""
    with contextlib.suppress(ValueError):
        rest = _Bytes(payload)
        number, flags, count = rest.take(2), rest.number(2), rest.number(2)
        if flags & 0xF800 or count != 1:
            return None
        rest.take(6)
        start, labels = rest.at, []
        while label := rest.take(rest.number(1)):
            if len(label) > 63:
                return None
            labels.append(label)
        kind = rest.number(2)
        rest.take(2)
        name = b".".join(labels).decode("ascii", "replace").lower()
        return Question(name, kind, number, payload[start : rest.at])
    return None


def forged_answer(question: Question, address: str | None) -> bytes:
    """A reply that says that the name has this address, or that it has none of the kind."""
    records = b""
    if address is not None:
        records = struct.pack("!HHHIH", 0xC00C, 1, 1, 300, 4) + socket.inet_aton(address)
    return question.id + struct.pack("!HHHHH", 0x8180, 1, bool(records), 0, 0) + question.wire + records


def listed(name: str | None, names: Iterable[str], substrings: Iterable[str] = ()) -> bool:
    """Whether a name is one of `names` or beneath one (beneath alone where that begins with a dot), or has a part."""
    if not name:
        return False
    return any(name == one or name.endswith("." + one.lstrip(".")) for one in names) or any(
        part in name for part in substrings
    )


# ── what is done ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Decision(Struct, frozen=True):
    """What becomes of a packet."""

    mark: int = 0
    forged: tuple[bytes, ...] = ()
    """IPv4 datagrams that leave before it does."""


_PASS = Decision()


class _Stream:
    """The beginning of what a client sends over one TCP connection."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._pieces: dict[int, bytes] = {}
        self.decided = False

    def add(self, packet: Packet) -> bytes:
        self._pieces[(packet.seq - self._start) & 0xFFFFFFFF] = packet.payload
        return _joined(self._pieces)


class _Crowd:
    """Handshakes between one client and one network of servers."""

    def __init__(self) -> None:
        self.at: deque[float] = deque()
        self.frozen_until = 0.0

    def exceeds(self, rule: FreezeCrowd, now: float) -> bool:
        """Counts one more, and says whether it is to fall silent."""
        if now < self.frozen_until:
            return True
        while self.at and self.at[0] <= now - rule.seconds:
            self.at.popleft()
        self.at.append(now)
        if len(self.at) <= rule.connections:
            return False
        self.at.clear()
        self.frozen_until = now + rule.seconds
        return True


class Inspector:
    """Rules, and what must be remembered to follow them."""

    def __init__(
        self,
        watches: Sequence[Watch],
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = _DICE.random,
    ) -> None:
        self._watches = watches
        self._clock = clock
        self._dice = dice
        self._streams: OrderedDict[tuple[tuple[str, int], tuple[str, int]], _Stream] = OrderedDict()
        self._crowds: dict[tuple[int, str, str], _Crowd] = {}
        self._answered = 0

    def see(self, raw: bytes) -> Decision:
        """What becomes of an IPv4 datagram of a client's. Never raises because of what is in it."""
        packet = parse(raw)
        if packet is None:
            return _PASS
        if packet.protocol == UDP:
            return self._dns(packet) if packet.destination[1] == 53 else self._quic(packet)
        return self._tcp(packet)

    def _dns(self, packet: Packet) -> Decision:
        question = question_in(packet.payload)
        for watch in self._watches:
            rule = watch.rule
            if not isinstance(rule, InjectDns) or question is None or not listed(question.name, rule.names):
                continue
            if question.kind not in (1, 28):
                return Decision(watch.mark if rule.drop_truth else 0)
            forged = []
            for _ in range(rule.count):
                # There is no forged IPv6 address: AAAA gets an answer without any.
                address = rule.answers[self._answered % len(rule.answers)] if question.kind == 1 else None
                self._answered += question.kind == 1
                forged.append(Packet(UDP, packet.destination, packet.source, forged_answer(question, address)))
            return Decision(watch.mark if rule.drop_truth else 0, tuple(map(build, forged)))
        return _PASS

    def _quic(self, packet: Packet) -> Decision:
        hello = quic_hello(packet.payload)
        for watch in self._watches:
            rule = watch.rule
            if (
                isinstance(rule, DropQuicName)
                and hello is not None
                and listed(hello.name, rule.names)
                and (not rule.only_higher_source_port or packet.source[1] > packet.destination[1])
            ):
                return Decision(watch.mark)
        return _PASS

    def _tcp(self, packet: Packet) -> Decision:
        flow = (packet.source, packet.destination)
        if packet.flags & SYN:
            self._streams.pop(flow, None)
        if packet.flags & SYN or not packet.payload:
            return _PASS
        stream = self._streams.get(flow)
        first = stream is None
        if stream is None:
            stream = self._streams[flow] = _Stream(packet.seq)
            if len(self._streams) > MOST_FLOWS:
                self._streams.popitem(last=False)
        if stream.decided:
            return _PASS
        data = stream.add(packet)
        if first and (decision := self._noise(packet)):
            stream.decided = True
            return decision
        try:
            decision = self._tls(packet, data) if data[0] == 0x16 else self._http(packet, data)
        except ValueError:
            decision = _PASS
        stream.decided = decision is not None or len(data) > MOST_HELLO
        return decision or _PASS

    def _noise(self, packet: Packet) -> Decision | None:
        for watch in self._watches:
            rule = watch.rule
            if (
                isinstance(rule, DropEncrypted)
                and packet.destination[0] in watch.addresses
                and noise(packet.payload)
                and self._dice() * 100 < rule.percent
            ):
                return Decision(watch.mark)
        return None

    def _http(self, packet: Packet, data: bytes) -> Decision | None:
        host = host_in(data)
        if host is None:
            return None
        for watch in self._watches:
            match watch.rule:
                case InjectPage(names=names) as rule if listed(host, names):
                    return Decision(watch.mark, tuple(map(build, forged_page(packet, rule))))
                case InjectReset(names=names) as rule if listed(host, names):
                    return Decision(watch.mark, tuple(map(build, forged_resets(packet, rule))))
                case _:
                    pass
        return _PASS

    def _tls(self, packet: Packet, data: bytes) -> Decision | None:
        message = handshake_in(data)
        if message is None:
            return None
        hello = read_hello(message)
        mark, forged = 0, list[Packet]()
        for watch in self._watches:
            if watch.addresses and packet.destination[0] not in watch.addresses:
                continue
            match watch.rule:
                case Freeze(exempt=names):
                    # A flag beside the mark of a rule, whatever that is.
                    mark |= watch.mark * listed(hello.name, names)
                case _ if mark & 0xFFF:
                    pass
                case Police(names=names, substrings=substrings):
                    mark |= watch.mark * listed(hello.name, names, substrings)
                case Reset(names=names) | Reject(names=names) | Cut(names=names) | DropServerHello(names=names):
                    mark |= watch.mark * listed(hello.name, names)
                case InjectReset(names=names) as rule if listed(hello.name, names):
                    mark |= watch.mark
                    forged = forged_resets(packet, rule)
                case FreezeCrowd() as rule if chrome(hello) and self._crowded(watch.mark, packet, rule):
                    mark |= watch.mark
                case _:
                    pass
        return Decision(mark, tuple(map(build, forged)))

    def _crowded(self, mark: int, packet: Packet, rule: FreezeCrowd) -> bool:
        network = str(ipaddress.ip_network((packet.destination[0], 24), strict=False))
        crowd = self._crowds.setdefault((mark, packet.source[0], network), _Crowd())
        return crowd.exceeds(rule, self._clock())


def forged_resets(packet: Packet, rule: InjectReset) -> list[Packet]:
    """A reset for the client in the server's name and, where the rule says so, one for the server in the client's."""
    payload = bytes((number + 1) % 10 for number in range(rule.payload))
    after = (packet.seq + len(packet.payload)) & 0xFFFFFFFF
    resets = [Packet(TCP, packet.destination, packet.source, payload, packet.ack, after, RST | ACK, rule.ttl)]
    if rule.to_server:
        resets.append(Packet(TCP, packet.source, packet.destination, b"", packet.seq, packet.ack, RST | ACK, rule.ttl))
    return resets


def forged_page(packet: Packet, rule: InjectPage) -> list[Packet]:
    """An answer in the server's name that ends the connection, and the end for the server."""
    reason = next((status.phrase for status in http.HTTPStatus if status == rule.status), "")
    html = f"<html><head><title>{rule.title}</title></head><body>{rule.body}</body></html>".encode()
    head = (
        f"HTTP/1.1 {rule.status} {reason}\r\nContent-Type: text/html; charset=utf-8\r\n"
        f"Content-Length: {len(html)}\r\nConnection: close\r\n\r\n"
    )
    answer, after = head.encode() + html, (packet.seq + len(packet.payload)) & 0xFFFFFFFF
    pieces = []
    for start in range(0, len(answer), 1400):
        piece = answer[start : start + 1400]
        flags = PSH | ACK | (FIN if start + 1400 >= len(answer) else 0)
        seq = (packet.ack + start) & 0xFFFFFFFF
        pieces.append(Packet(TCP, packet.destination, packet.source, piece, seq, after, flags))
    return [*pieces, Packet(TCP, packet.source, packet.destination, b"", packet.seq, packet.ack, RST | ACK)]


def main() -> None:
    """Serves the queue for ever, by the rules in the file named in `argv`; says `ready` once it is bound.

    It ends, and says why, where it could not look at a packet. Those that the kernel dropped because the queue was full
    it never hears of: :meth:`vpntest.lab.network.Network.check` asks the kernel.
    """
    from netfilterqueue import NetfilterQueue

    inspector = Inspector(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=tuple[Watch, ...]))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as forge:

        def look(packet: Any) -> None:
            try:
                decision = inspector.see(packet.get_payload())
                for datagram in decision.forged:
                    forge.sendto(datagram, (socket.inet_ntoa(datagram[16:20]), 0))
                if decision.mark:
                    packet.set_mark(decision.mark)
            except Exception as fault:
                sys.stderr.write(f"a packet passes unseen: {fault!r}\n")
                sys.stderr.flush()
                # A censor that overlooks one is another censor. An exception would end in the library's C.
                os._exit(1)
            packet.accept()

        queue = NetfilterQueue()
        queue.bind(QUEUE, look, 4096)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        # No handler is set: SIGTERM ends it at once, and the kernel lets through what nobody takes (--queue-bypass).
        queue.run()


if __name__ == "__main__":
    main()
