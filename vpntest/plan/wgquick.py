"""Reads wg-quick's .conf, and AmneziaWG's, which is the same file with the obfuscation's keys in it.

Sans-I/O: text in, meaning out. What acts on the host (hooks, routing tables, marks) is left out with a warning, never
run: wg-quick hands those lines to a root shell. What changes the protocol and is not ours to speak is refused.

Grammar: wireguard-tools, src/wg-quick/linux.bash and src/config.c; amneziawg-tools, src/config.c. Limits of the
obfuscation: amneziawg-go, device/uapi.go.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeVar

from vpntest.errors import ConfigError
from vpntest.plan import syntax
from vpntest.plan.keys import check_key
from vpntest.plan.model import AmneziaParameters, Finding, Server, WireGuardConfig, WireGuardPeer
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

_INTERFACE = ("PrivateKey", "Address", "DNS", "MTU", "ListenPort")
_PEER = ("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive")
_HOOKS = ("PreUp", "PostUp", "PreDown", "PostDown")
"""What wg-quick hands to a root shell."""
_HOST = (*_HOOKS, "Table", "SaveConfig", "FwMark")
"""Keys that act on the host and not on the tunnel."""
AMNEZIA = (
    *("Jc", "Jmin", "Jmax", "S1", "S2", "S3", "S4"),
    *("H1", "H2", "H3", "H4", "I1", "I2", "I3", "I4", "I5"),
)
"""AmneziaWG's keys, in the order of its UAPI."""
AMNEZIA_UNSUPPORTED = (
    *("HeaderProtectionKey", "ContentPaddingAddition", "RekeyAfterTime", "RekeyTimeout", "RejectAfterTime"),
    *("KeepaliveTimeout", "MaxHandshakeAttempts", "RandomTrailers", "DisableCookies", "AdvancedSecurity"),
    *("J1", "J2", "J3", "Itime"),
)
"""Keys of AmneziaWG's third version, and of one that came and went: the carrier that we run knows none of them."""

_REPEATABLE = frozenset({"Address", "DNS", "AllowedIPs", *_HOST})
_CANONICAL = {key.lower(): key for key in (*_INTERFACE, *_PEER, *_HOST, *AMNEZIA, *AMNEZIA_UNSUPPORTED)}

_UINT16 = 0xFFFF
_UINT32 = 0xFFFFFFFF
_MTU_MIN = 576
"""The least that every IPv4 host must take whole (RFC 791); less is a slip of the keyboard."""
_DATAGRAM = 1472
"""Bytes that a UDP datagram holds in an Ethernet frame over IPv4. A packet of the obfuscation that is larger leaves in
fragments, which few paths carry."""
_AMNEZIA_MOST = {
    "Jc": (122, "with I1 to I5 and the handshake, more do not fit into one batch of 128, and the carrier ends"),
    "Jmin": (1280, "junk that is larger does not fit every path"),
    "Jmax": (1280, "junk that is larger does not fit every path"),
    "S1": (_DATAGRAM - 148, "more does not fit into one packet with the handshake's first message"),
    "S2": (_DATAGRAM - 92, "more does not fit into one packet with the handshake's second message"),
    "S3": (_DATAGRAM - 64, "more does not fit into one packet with a cookie"),
    "S4": (_DATAGRAM - 32, "more does not fit into one packet with a keepalive"),
}
"""The most that is carried of each number, and why: amneziawg-go checks none of them. The batch is IdealBatchSize in
its conn/conn.go; the sizes of WireGuard's messages stand in device/noise-protocol.go; 1280 fits every IPv6 path
(RFC 8200)."""
_TAGS = frozenset({"b", "t", "r", "rc", "rd", "d", "ds", "dz"})
"""Tags of `I1`–`I5` that the carrier knows (amneziawg-go, device/obf.go)."""
_TAG_LENGTHS = {"t": 4, "d": 0, "ds": 0}
"""Bytes that a tag without an argument of its own comes to, in a packet that carries no data."""
_TAG = re.compile(r"\s*<([^<>]*)>\s*")
_WHOLE_INTERNET = 3 << 30
"""IPv4 addresses that AllowedIPs must hold to count as everything; lists that spare the private networks hold more."""

S = TypeVar("S")
T = TypeVar("T")


@dataclass
class _Section:
    name: str
    line: int
    values: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def parse(text: str, where: str) -> tuple[WireGuardConfig, tuple[Finding, ...]]:
    """The config's meaning, and one finding for each line that is left out.

    `where` names the file in messages. Raises ConfigError for a broken config, its subclass Unsupported for a sound one
    that needs what the carrier does not have. No message quotes a value.
    """
    findings: list[Finding] = []
    sections = _sections(text, where, findings)
    interfaces = [section for section in sections if section.name == "Interface"]
    if not interfaces:
        raise ConfigError("no [Interface] section", where=where)
    if len(interfaces) > 1:
        raise ConfigError("a second [Interface] section", where=where, line=interfaces[1].line)
    peers = [_peer(section, where) for section in sections if section.name == "Peer"]
    if not peers:
        raise ConfigError("no [Peer] section", where=where)
    seen: set[str] = set()
    for section, peer in zip((s for s in sections if s.name == "Peer"), peers, strict=True):
        if peer.public_key in seen:
            raise ConfigError("two peers with one PublicKey", where=where, line=section.line, hint="remove one")
        seen.add(peer.public_key)
    if not any(peer.endpoint for peer in peers):
        raise ConfigError("no peer has an Endpoint, so there is nobody to call", where=where)
    _warn_of_gaps(peers, where, findings)
    return _config(interfaces[0], tuple(peers), where), tuple(findings)


def _sections(text: str, where: str, findings: list[Finding]) -> list[_Section]:
    sections: list[_Section] = []
    for number, raw in syntax.numbered(text, where):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            name = {"[interface]": "Interface", "[peer]": "Peer"}.get(line.lower())
            if name is None:
                raise ConfigError("a section that is neither [Interface] nor [Peer]", where=where, line=number)
            sections.append(_Section(name, number))
            continue
        word, equals, value = line.partition("=")
        if not equals:
            raise ConfigError("not of the form key = value", where=where, line=number)
        if not sections:
            raise ConfigError("a line before the first [Interface] or [Peer]", where=where, line=number)
        _enter(sections[-1], _key(word.strip(), sections[-1], where, number), value.strip(), where, number, findings)
    return sections


def _key(word: str, section: _Section, where: str, number: int) -> str:
    key = _CANONICAL.get(word.lower())
    if key is None:
        # The word is not repeated in the message: a stray line of a key ends in "=" and reads as a key without value.
        close = difflib.get_close_matches(word.lower(), _CANONICAL, n=1, cutoff=0.8)
        hint = f"did you mean {_CANONICAL[close[0]]}?" if close else ""
        raise ConfigError(f"unknown key in [{section.name}]", where=where, line=number, hint=hint)
    if key in AMNEZIA_UNSUPPORTED:
        raise Unsupported(f"{key} needs a newer AmneziaWG than the carrier speaks", where=where, line=number)
    if (key in _PEER) != (section.name == "Peer"):
        other = "Peer" if key in _PEER else "Interface"
        raise ConfigError(f"{key} belongs in [{other}], not in [{section.name}]", where=where, line=number)
    return key


def _enter(section: _Section, key: str, value: str, where: str, number: int, findings: list[Finding]) -> None:
    if key in _HOST:
        level: Literal["note", "danger"] = "danger" if key in _HOOKS else "note"
        findings.append(Finding(level, f"{key} is ignored: it acts on the host, not on the tunnel", number))
        return
    have = section.values.setdefault(key, [])
    if have and key not in _REPEATABLE:
        raise ConfigError(f"{key} is given twice", where=where, line=number, hint=f"first on line {have[0][0]}")
    have.append((number, value))


def _config(section: _Section, peers: tuple[WireGuardPeer, ...], where: str) -> WireGuardConfig:
    addresses = tuple(_each(section, "Address", syntax.interface, where))
    if not addresses:
        raise ConfigError("no Address in [Interface]", where=where, line=section.line)
    dns: list[str] = []
    search: list[str] = []
    for entry in _each(section, "DNS", syntax.host, where):
        (dns if syntax.is_address(entry) else search).append(entry)
    mtu = _one(section, "MTU", lambda text: _whole(text, _MTU_MIN, _UINT16), where)
    return WireGuardConfig(
        private_key=Secret(_required(section, "PrivateKey", check_key, where)),
        addresses=addresses,
        peers=peers,
        dns=tuple(dns),
        search=tuple(search),
        mtu=mtu,
        listen_port=_one(section, "ListenPort", lambda text: _whole(text, 0, _UINT16), where) or 0,
        amnezia=_amnezia(section, mtu, where),
    )


def _peer(section: _Section, where: str) -> WireGuardPeer:
    for number, text in section.values.get("PersistentKeepalive", ()):
        if re.fullmatch(r"[0-9]+\s*-\s*[0-9]+", text):
            raise Unsupported("PersistentKeepalive as a range is not supported", where=where, line=number)
    preshared = _one(section, "PresharedKey", check_key, where)
    return WireGuardPeer(
        public_key=_required(section, "PublicKey", check_key, where),
        endpoint=_one(section, "Endpoint", _endpoint, where),
        allowed_ips=tuple(dict.fromkeys(_each(section, "AllowedIPs", syntax.network, where))),
        preshared_key=Secret(preshared) if preshared else None,
        persistent_keepalive=_one(section, "PersistentKeepalive", _keepalive, where) or 0,
    )


def _amnezia(section: _Section, mtu: int | None, where: str) -> AmneziaParameters | None:
    given = [key for key in AMNEZIA if key in section.values]
    if not given:
        return None
    numbers: dict[str, int] = {}
    headers = {f"H{n}": (n, n) for n in range(1, 5)}
    values: list[tuple[str, str]] = []
    for key in given:
        number, text = section.values[key][0]
        if key[0] in "JS":
            numbers[key] = _at(key, lambda text: _whole(text, 0, _UINT16), text, where, number)
            most, reason = _AMNEZIA_MOST[key]
            if numbers[key] > most:
                raise Unsupported(f"{key} is above {most}: {reason}", where=where, line=number)
            # The carrier's own default is 0, and it takes no zero for the junk packets' numbers.
            if numbers[key]:
                values.append((key.lower(), str(numbers[key])))
        elif key[0] == "H":
            headers[key] = low, high = _at(key, _header, text, where, number)
            values.append((key.lower(), f"{low}-{high}" if high > low else str(low)))
        elif text:  # the vendor's own exports hold the unused ones empty
            _check_packet(key, text, where, number)
            values.append((key.lower(), text))
    if numbers.get("Jc") and numbers.get("Jmin", 0) > numbers.get("Jmax", 0):
        raise ConfigError("Jmin is greater than Jmax", where=where, line=section.line)
    if mtu is not None and numbers.get("Jmax", 0) >= mtu:
        raise ConfigError("Jmax is not below MTU", where=where, line=section.line)
    ordered = sorted(headers.values())
    if any(low <= before for (_, before), (low, _) in pairwise(ordered)):
        raise ConfigError(
            "H1 to H4 overlap, so that the kinds of packet cannot be told apart", where=where, line=section.line
        )
    return AmneziaParameters(values=tuple(values))


def _check_packet(key: str, text: str, where: str, number: int) -> None:
    """Raises where the carrier would refuse the packet's pattern, or would drop a part of it without a word."""
    position = length = 0
    while position < len(text):
        tag = _TAG.match(text, position)
        words = tag[1].split() if tag else []
        if tag is None or not words:
            raise ConfigError(f"{key} is not a row of <tags>", where=where, line=number)
        if words[0] not in _TAGS:
            raise Unsupported(f"{key} has a tag that the carrier does not know", where=where, line=number)
        length += _at(key, _tag_length, words, where, number)
        position = tag.end()
    if length > _DATAGRAM:
        raise Unsupported(
            f"{key} is above {_DATAGRAM} bytes: more does not fit into one packet", where=where, line=number
        )


def _tag_length(words: list[str]) -> int:
    name, argument = words[0], words[1] if len(words) > 1 else ""
    if name in _TAG_LENGTHS:
        return _TAG_LENGTHS[name]
    if name == "b":
        if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", digits := argument.removeprefix("0x")):
            raise ValueError("a <b> tag without whole bytes in hexadecimal")
        return len(digits) // 2
    if not re.fullmatch(r"[0-9]{1,10}", argument):
        raise ValueError(f"a <{name}> tag without a length")
    return int(argument)


def _warn_of_gaps(peers: list[WireGuardPeer], where: str, findings: list[Finding]) -> None:
    networks = [ipaddress.ip_network(allowed) for peer in peers for allowed in peer.allowed_ips]
    if not networks:
        findings.append(Finding("warning", "no peer has AllowedIPs, so nothing can go through this tunnel"))
        return
    version4 = ipaddress.collapse_addresses(net for net in networks if isinstance(net, ipaddress.IPv4Network))
    if sum(net.num_addresses for net in version4) < _WHOLE_INTERNET:
        findings.append(
            Finding("warning", "AllowedIPs hold only a part of the internet; the rest cannot pass this tunnel")
        )


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _at(key: str, read: Callable[[S], T], text: S, where: str, line: int) -> T:
    try:
        return read(text)
    except ValueError as fault:
        raise ConfigError(f"{key}: {fault}", where=where, line=line) from None


def _one(section: _Section, key: str, read: Callable[[str], T], where: str) -> T | None:
    for number, text in section.values.get(key, ()):
        return _at(key, read, text, where, number)
    return None


def _required(section: _Section, key: str, read: Callable[[str], T], where: str) -> T:
    value = _one(section, key, read, where)
    if value is None:
        raise ConfigError(f"no {key} in [{section.name}]", where=where, line=section.line)
    return value


def _each(section: _Section, key: str, read: Callable[[str], T], where: str) -> Iterator[T]:
    for number, text in section.values.get(key, ()):
        for entry in filter(None, map(str.strip, text.split(","))):
            yield _at(key, read, entry, where, number)


def _endpoint(text: str) -> Server:
    host, port = syntax.host_and_rest(text)
    return Server(host=host, port=syntax.port(port), transport="udp")


def _keepalive(text: str) -> int:
    return 0 if text.lower() == "off" else _whole(text, 0, _UINT16)


def _header(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    first = _whole(low.strip(), 0, _UINT32)
    last = _whole(high.strip(), 0, _UINT32) if dash else first
    if last < first:
        raise ValueError("the range ends before it begins")
    return first, last


def _whole(text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise ValueError(f"not a whole number from {least} to {most}")
    return int(text)
