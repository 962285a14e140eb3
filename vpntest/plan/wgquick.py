"""Reads wg-quick's .conf, and AmneziaWG's, which is the same file with the obfuscation's keys in it.

Sans-I/O: text in, meaning out. What acts on the host (hooks, routing tables, marks) is left out and said, never run:
wg-quick hands those lines to a root shell. What other clients write beside their tunnels is told apart: what changes
nothing of the tunnel is left out, what changes the protocol is refused.

Read as wg and wg-quick do: keys in any case, blanks anywhere, a comment from `#` on, the last of two values of one key.

Grammar: wireguard-tools, src/wg-quick/linux.bash and src/config.c; amneziawg-tools, src/config.c. Limits of the
obfuscation: amneziawg-go, device/uapi.go.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeVar

from msgspec.structs import replace

from vpntest.errors import ConfigError
from vpntest.plan import syntax
from vpntest.plan.keys import NO_KEY, check_key
from vpntest.plan.model import AmneziaParameters, Finding, Server, WireGuardConfig, WireGuardPeer
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

_INTERFACE = ("PrivateKey", "Address", "DNS", "MTU", "ListenPort")
_PEER = ("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive", "AdvancedSecurity")
_HOOKS = ("PreUp", "PostUp", "PreDown", "PostDown")
"""What wg-quick hands to a root shell."""
_HOST = (*_HOOKS, "Table", "SaveConfig", "FwMark")
"""Keys that act on the host and not on the tunnel."""

_NUMBERS = ("Jc", "Jmin", "Jmax", "S1", "S2", "S3", "S4")
_HEADERS = ("H1", "H2", "H3", "H4")
_PACKETS = ("I1", "I2", "I3", "I4", "I5", "J1", "J2", "J3")
_TIMES = ("RekeyAfterTime", "RekeyTimeout", "RejectAfterTime", "KeepaliveTimeout", "MaxHandshakeAttempts")
_SWITCHES = ("RandomTrailers", "DisableCookies")
AMNEZIA = (
    *(*_NUMBERS, *_HEADERS, *_PACKETS, "Itime"),
    *("HeaderProtectionKey", "ContentPaddingAddition", *_TIMES, *_SWITCHES),
)
"""AmneziaWG's keys of all versions, in the order of its UAPI. Which of them can be honoured, the carrier tells."""
UAPI = {key: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower() for key in AMNEZIA}
"""Each of them as the UAPI calls it."""
GENERATIONS = {
    **dict.fromkeys(("jc", "jmin", "jmax", "s1", "s2", "h1", "h2", "h3", "h4"), "awg1"),
    **dict.fromkeys(("i1", "i2", "i3", "i4", "i5"), "awg1.5"),
    **dict.fromkeys(("j1", "j2", "j3", "itime"), "awg1.5-junk"),
    **dict.fromkeys(("s3", "s4"), "awg2"),
    **{UAPI[key]: "awg3" for key in ("HeaderProtectionKey", "ContentPaddingAddition", *_TIMES, *_SWITCHES)},
}
"""Of each of the UAPI's keys, the generation of AmneziaWG that brought it. Those of `awg1.5-junk` went with the next
one: amneziawg-go 0.2.19 calls them invalid."""

_OTHER_CLIENTS = {
    **dict.fromkeys(
        ("IncludedApplications", "ExcludedApplications"), "WireGuard for Android: which apps use the tunnel"
    ),
    **dict.fromkeys(("AllowedApps", "DisallowedApps", "DisallowedIPs"), "WireSock: what uses the tunnel"),
    **dict.fromkeys(("VirtualAdapterMode", "BypassLanTraffic"), "WireSock: how it is made on Windows"),
    **dict.fromkeys(("CheckAlive", "CheckAliveInterval"), "wireproxy: what it watches"),
    **dict.fromkeys(("Name", "Description", "Comment", "Remark", "FriendlyName"), "a name for people"),
}
"""Keys of other clients that change nothing of the tunnel. wg-quick knows none of them."""
_OTHER_PROTOCOLS = {
    **dict.fromkeys(
        ("Socks5Proxy", "Socks5ProxyUsername", "Socks5ProxyPassword"), "WireSock sends the tunnel through a SOCKS proxy"
    ),
    **dict.fromkeys(("Id", "Ip", "Ib"), "WireSock disguises the tunnel as another protocol by it"),
    "WGConfig": "wireproxy takes the tunnel from another file by it",
}
"""Keys of other clients that change what goes over the wire."""
_RESERVED = "Reserved"
"""Three bytes in each packet's header, for Cloudflare WARP (sing-box, Clash, Xray)."""
_OTHER_SECTIONS = frozenset(
    {"[socks5]", "[http]", "[tcpclienttunnel]", "[tcpservertunnel]", "[stdiotunnel]", "[udpproxytunnel]", "[resolve]"}
)
"""wireproxy's: what it offers to the programs beside it."""
_WIRESOCK_COMMENT = re.compile(r"\s*#\s*@ws:", re.IGNORECASE)

_REPEATABLE = frozenset({"Address", "DNS", "AllowedIPs", *_HOST})
_CANONICAL = {
    key.lower(): key for key in (*_INTERFACE, *_PEER, *_HOST, *AMNEZIA, *_OTHER_CLIENTS, *_OTHER_PROTOCOLS, _RESERVED)
}
_COMMON = [key.lower() for key in (*_INTERFACE, *_PEER, *_HOST)]

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
"""IPv4 addresses that AllowedIPs must hold to count as everything; lists that spare the private networks hold more.
What is measured lies anywhere, so that no part will do."""

_MOST_ENTRIES = 100
"""Addresses, resolvers and search domains, and peers that we would call: real configs have a handful."""
_MOST_ALIKE = 20
"""Findings of one text: of a file of nothing but hooks, these say enough."""

S = TypeVar("S")
T = TypeVar("T")


@dataclass
class _Section:
    name: Literal["Interface", "Peer"]
    line: int | None
    values: dict[str, list[tuple[int | None, str]]] = field(default_factory=dict)


def parse(text: str, where: str) -> tuple[WireGuardConfig, tuple[Finding, ...]]:
    """The config's meaning, and one finding for each line that is left out.

    `where` names the file in messages. Raises ConfigError for a broken config, its subclass Unsupported for a sound one
    that needs what the carrier does not have. No message quotes a value.
    """
    findings: list[Finding] = []
    try:
        return _meaning(_sections(text, where, findings), where, findings)
    except ConfigError as fault:
        fault.findings = _few_alike(findings)
        raise


def from_keys(
    interface: Iterable[tuple[str, str]], peers: Iterable[Iterable[tuple[str, str]]], where: str
) -> tuple[WireGuardConfig, tuple[Finding, ...]]:
    """What another dialect says in the same keys: as :func:`parse`, but no value can become a line or a comment, and
    an empty one says nothing."""
    findings: list[Finding] = []
    sections: list[_Section] = []
    for name, pairs in (("Interface", interface), *(("Peer", peer) for peer in peers)):
        section = _Section("Interface" if name == "Interface" else "Peer", None)
        sections.append(section)
        for word, value in pairs:
            if not value:
                continue
            key = _key(word, section, where, None)
            if not syntax.is_plain(value):
                raise ConfigError("a control character in a value", where=where)
            if "#" in value:
                raise ConfigError(f"{key} holds what it cannot hold", where=where)
            _enter(section, key, value.strip(), where, None, findings)
    return _meaning(sections, where, findings)


_LABEL = re.compile(r"[ \t]*#[ \t]*(?:name|device|profile|config)[ \t]*[=:][ \t]*(\S[^\n]*)", re.IGNORECASE)
_LABEL_LINES = 100
_LABEL_LENGTH = 100


def label(text: str) -> str:
    """What a comment `# Name = …` calls the config, printable; empty where there is none."""
    for line in text.split("\n", _LABEL_LINES)[:_LABEL_LINES]:
        if found := _LABEL.match(line[:1000]):
            return syntax.printable(found[1].strip())[:_LABEL_LENGTH]
    return ""


def needs(parameters: AmneziaParameters) -> tuple[tuple[str, str], ...]:
    """The obfuscation's keys as the file has them, each with the generation that a carrier must speak for it."""
    names = {name: key for key, name in UAPI.items()}
    return tuple((names.get(key, key), _generation(key, value)) for key, value in parameters.values)


def _generation(key: str, value: str) -> str:
    return "awg2" if key in {"h1", "h2", "h3", "h4"} and "-" in value else GENERATIONS.get(key, "unknown")


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sections(text: str, where: str, findings: list[Finding]) -> list[_Section]:
    sections: list[_Section] = []
    skipping = False
    wiresock: int | None = None
    for number, raw in syntax.numbered(text, where):
        if wiresock is None and _WIRESOCK_COMMENT.match(raw):
            wiresock = number
        line = raw.partition("#")[0].strip()
        if not line or line.startswith(";"):
            continue
        if line.startswith("["):
            title = "".join(line.lower().split())
            skipping = title in _OTHER_SECTIONS
            if skipping:
                said = f"{title} is left out: by it wireproxy offers the tunnel to other programs"
                findings.append(Finding("note", said, number))
            elif title == "[interface]":
                sections.append(_Section("Interface", number))
            elif title == "[peer]":
                sections.append(_Section("Peer", number))
            else:
                raise ConfigError("a section that is neither [Interface] nor [Peer]", where=where, line=number)
            continue
        if skipping:
            continue
        word, equals, value = line.partition("=")
        if not equals:
            raise ConfigError("not of the form key = value", where=where, line=number)
        if not sections:
            if "".join(word.split()).lower() == "wgconfig":
                raise Unsupported(f"WGConfig: {_OTHER_PROTOCOLS['WGConfig']}", where=where, line=number)
            raise ConfigError("a line before the first [Interface] or [Peer]", where=where, line=number)
        _enter(sections[-1], _key(word, sections[-1], where, number), value.strip(), where, number, findings)
    if wiresock is not None:
        said = "WireSock's own settings (#@ws:) are left out: every other client takes them for comments"
        findings.append(Finding("warning", said, wiresock))
    return sections


def _key(word: str, section: _Section, where: str, number: int | None) -> str:
    word = "".join(word.split()).lower()
    key = _CANONICAL.get(word)
    if key is None:
        # The word is not repeated in the message: a stray line of a key ends in "=" and reads as a key without value.
        close = difflib.get_close_matches(word, _COMMON, n=1, cutoff=0.8) if len(word) < 40 else []
        hint = f"did you mean {_CANONICAL[close[0]]}?" if close else ""
        raise ConfigError(f"unknown key in [{section.name}]", where=where, line=number, hint=hint)
    if key in _OTHER_PROTOCOLS:
        raise Unsupported(f"{key}: {_OTHER_PROTOCOLS[key]}", where=where, line=number)
    if key not in _OTHER_CLIENTS and key != _RESERVED and (key in _PEER) != (section.name == "Peer"):
        other = "Peer" if key in _PEER else "Interface"
        raise ConfigError(f"{key} belongs in [{other}], not in [{section.name}]", where=where, line=number)
    return key


def _enter(section: _Section, key: str, value: str, where: str, number: int | None, findings: list[Finding]) -> None:
    if key in _HOST:
        level: Literal["note", "danger"] = "danger" if key in _HOOKS else "note"
        findings.append(Finding(level, f"{key} is ignored: it acts on the host, not on the tunnel", number))
    elif key in _OTHER_CLIENTS:
        findings.append(Finding("note", f"{key} is left out ({_OTHER_CLIENTS[key]})", number))
    elif key == _RESERVED:
        _check_reserved(value, where, number)
    have = section.values.setdefault(key, [])
    if value and have and key not in _REPEATABLE and have[-1][1] != value:
        said = f"{key} is given twice: as with wg, the last one counts"
        findings.append(Finding("warning", said, number))
    have.append((number, value))


def _check_reserved(value: str, where: str, number: int | None) -> None:
    if re.fullmatch(r"(?:[0\s,\-\[\]]|0x)*|A+=*", value):
        return
    said = "Reserved: bytes in the packets' headers that no carrier here can set; Cloudflare WARP asks for them"
    raise Unsupported(said, where=where, line=number)


# ── meaning ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _meaning(
    sections: list[_Section], where: str, findings: list[Finding]
) -> tuple[WireGuardConfig, tuple[Finding, ...]]:
    interface = _interface([section for section in sections if section.name == "Interface"], where)
    peers: dict[str, WireGuardPeer] = {}
    for section in sections:
        if section.name == "Peer":
            peer = _peer(section, where, findings)
            if former := peers.pop(peer.public_key, None):
                said = "two peers with one PublicKey: as with wg, the last one counts"
                findings.append(Finding("warning", said, section.line))
                peer = replace(
                    peer,
                    endpoint=peer.endpoint or former.endpoint,
                    preshared_key=peer.preshared_key or former.preshared_key,
                    persistent_keepalive=peer.persistent_keepalive or former.persistent_keepalive,
                )
            peers[peer.public_key] = peer
    if not peers:
        raise Unsupported("no [Peer] section, so there is nobody to call", where=where)
    if not any(peer.endpoint for peer in peers.values()):
        said = "no peer has an Endpoint, so there is nobody to call: this is the config of a server"
        raise Unsupported(said, where=where)
    if sum(1 for peer in peers.values() if peer.endpoint) > _MOST_ENTRIES:
        raise Unsupported(f"more than {_MOST_ENTRIES} peers with an Endpoint, each to be called", where=where)
    config = _config(interface, tuple(peers.values()), where, findings)
    named = (numbers[0][0] for each in sections if each.name == "Peer" and (numbers := each.values.get("AllowedIPs")))
    _check_reach(peers.values(), where, next(named, None))
    return config, _few_alike(findings)


def _few_alike(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    seen = Counter[str]()
    kept: list[Finding] = []
    for finding in findings:
        seen[finding.text] += 1
        if seen[finding.text] <= _MOST_ALIKE:
            kept.append(finding)
    return tuple(kept)


def _interface(sections: list[_Section], where: str) -> _Section:
    if not sections:
        raise ConfigError("no [Interface] section", where=where)
    first = sections[0]
    for section in sections[1:]:
        if "PrivateKey" in first.values and "PrivateKey" in section.values:
            raise ConfigError("a second [Interface] section: two configs in one", where=where, line=section.line)
        for key, values in section.values.items():
            first.values.setdefault(key, []).extend(values)
    return first


def _config(
    section: _Section, peers: tuple[WireGuardPeer, ...], where: str, findings: list[Finding]
) -> WireGuardConfig:
    if not _given(section, "PrivateKey") and any(hook in section.values for hook in _HOOKS):
        raise Unsupported(
            "no PrivateKey in the file, only hooks that may set it: they are never run", where=where, line=section.line
        )
    private_key = Secret(_required(section, "PrivateKey", check_key, where))
    addresses = tuple(_each(section, "Address", syntax.interface, where))
    if not addresses:
        raise Unsupported("no Address in [Interface]: nothing inside could send", where=where, line=section.line)
    dns: list[str] = []
    search: list[str] = []
    for number, entry in _entries(section, "DNS", where):
        try:
            name = syntax.host(entry)
        except ValueError:
            said = "an entry of DNS is left out: neither the address of a resolver nor a search domain"
            findings.append(Finding("warning", said, number))
        else:
            (dns if syntax.is_address(name) else search).append(name)
    # 0 is what some clients write for none of their own.
    if _one(section, "ListenPort", lambda text: _whole(text, 0, _UINT16), where):
        number, _ = _given(section, "ListenPort") or (None, "")
        said = "ListenPort is left out: another tunnel may hold that port of this machine, and servers take any"
        findings.append(Finding("note", said, number))
    mtu = _one(section, "MTU", lambda text: 0 if text == "0" else _whole(text, _MTU_MIN, _UINT16), where)
    return WireGuardConfig(
        private_key=private_key,
        addresses=addresses,
        peers=peers,
        dns=tuple(dict.fromkeys(dns)),
        search=tuple(dict.fromkeys(search)),
        mtu=mtu or None,
        amnezia=_amnezia(section, where, findings),
    )


def _peer(section: _Section, where: str, findings: list[Finding]) -> WireGuardPeer:
    for number, text in section.values.get("PersistentKeepalive", ()):
        if re.fullmatch(r"[0-9]+\s*-\s*[0-9]+", text):
            said = "PersistentKeepalive is a range, which AmneziaWG 3 brought: no carrier here takes it"
            raise Unsupported(said, where=where, line=number)
    for number, text in section.values.get("AdvancedSecurity", ()):
        if text and not _at("AdvancedSecurity", _switch, text, where, number):
            said = "AdvancedSecurity is off for this peer: the carrier obfuscates for all peers or for none"
            raise Unsupported(said, where=where, line=number)
        findings.append(Finding("note", "AdvancedSecurity is left out: the carrier obfuscates for all peers", number))
    for number, entry in _entries(section, "AllowedIPs", where):
        if entry.startswith("-"):
            raise Unsupported("AllowedIPs with a minus, which takes a network from a peer", where=where, line=number)
    preshared = _one(section, "PresharedKey", lambda text: None if text == NO_KEY else check_key(text), where)
    return WireGuardPeer(
        public_key=_required(section, "PublicKey", check_key, where),
        endpoint=_one(section, "Endpoint", _endpoint, where),
        allowed_ips=tuple(dict.fromkeys(_each(section, "AllowedIPs", _network, where))),
        preshared_key=Secret(preshared) if preshared else None,
        persistent_keepalive=_one(section, "PersistentKeepalive", _keepalive, where) or 0,
    )


def _amnezia(section: _Section, where: str, findings: list[Finding]) -> AmneziaParameters | None:
    given = [key for key in AMNEZIA if key in section.values]
    if not given:
        return None
    numbers: dict[str, int] = {}
    headers = {f"H{n}": (n, n) for n in range(1, 5)}
    values: list[tuple[str, str]] = []
    for key in given:
        number, text = _given(section, key) or (None, "")
        if not text:  # the vendor's own exports hold the unused ones empty
            continue
        name = UAPI[key]
        if key in _NUMBERS:
            numbers[key] = _at(key, lambda text: _whole(text, 0, _UINT16), text, where, number)
            most, reason = _AMNEZIA_MOST[key]
            if numbers[key] > most:
                raise Unsupported(f"{key} is above {most}: {reason}", where=where, line=number)
            # The carrier's own default is 0, and it takes no zero for the junk packets' numbers.
            if numbers[key]:
                values.append((name, str(numbers[key])))
        elif key in _HEADERS:
            headers[key] = _at(key, _range, text, where, number)
            values.append((name, _as_range(headers[key])))
        elif key in _PACKETS:
            _check_packet(key, text, where, number)
            values.append((name, text))
        elif key in _SWITCHES:
            if _at(key, _switch, text, where, number):
                values.append((name, "true"))
        elif key == "HeaderProtectionKey":
            said = "HeaderProtectionKey is of AmneziaWG 3: no carrier here hides the packets' headers"
            raise Unsupported(said, where=where, line=number)
        else:
            low_high = _at(key, _range, text, where, number)
            if low_high != (0, 0):
                values.append((name, _as_range(low_high)))
    if numbers.get("Jc") and numbers.get("Jmin", 0) > numbers.get("Jmax", 0):
        raise ConfigError("Jmin is greater than Jmax", where=where, line=section.line)
    ordered = sorted(headers.values())
    if any(low <= before for (_, before), (low, _) in pairwise(ordered)):
        raise ConfigError(
            "H1 to H4 overlap, so that the kinds of packet cannot be told apart", where=where, line=section.line
        )
    return AmneziaParameters(values=tuple(values))


def _check_packet(key: str, text: str, where: str, number: int | None) -> None:
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


def _check_reach(peers: Iterable[WireGuardPeer], where: str, line: int | None) -> None:
    """Raises where what a run asks for through the tunnel would find no peer to go to: no silence inside would be the
    server's."""
    networks = [ipaddress.ip_network(allowed) for peer in peers for allowed in peer.allowed_ips]
    if not networks:
        raise Unsupported("no peer has AllowedIPs, so nothing can go through this tunnel", where=where, line=line)
    version4 = ipaddress.collapse_addresses(net for net in networks if isinstance(net, ipaddress.IPv4Network))
    if sum(net.num_addresses for net in version4) < _WHOLE_INTERNET:
        said = (
            "AllowedIPs hold only a part of the internet: the rest, and all that is measured, cannot pass this tunnel"
        )
        raise Unsupported(said, where=where, line=line)


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _at(key: str, read: Callable[[S], T], text: S, where: str, line: int | None) -> T:
    try:
        return read(text)
    except ValueError as fault:
        raise ConfigError(f"{key}: {fault}", where=where, line=line) from None


def _given(section: _Section, key: str) -> tuple[int | None, str] | None:
    """The last value of a key that is not empty; None where there is none."""
    return next((found for found in reversed(section.values.get(key, [])) if found[1]), None)


def _one(section: _Section, key: str, read: Callable[[str], T], where: str) -> T | None:
    found = _given(section, key)
    return None if found is None else _at(key, read, found[1], where, found[0])


def _required(section: _Section, key: str, read: Callable[[str], T], where: str) -> T:
    value = _one(section, key, read, where)
    if value is None:
        raise ConfigError(f"no {key} in [{section.name}]", where=where, line=section.line)
    return value


def _entries(section: _Section, key: str, where: str) -> Iterator[tuple[int | None, str]]:
    count = 0
    for number, text in section.values.get(key, ()):
        for entry in text.replace(",", " ").split():
            count += 1
            if key != "AllowedIPs" and count > _MOST_ENTRIES:
                raise ConfigError(f"{key} has more than {_MOST_ENTRIES} entries", where=where, line=number)
            yield number, entry


def _each(section: _Section, key: str, read: Callable[[str], T], where: str) -> Iterator[T]:
    for number, entry in _entries(section, key, where):
        yield _at(key, read, entry, where, number)


def _endpoint(text: str) -> Server:
    text = "".join(text.split())
    if text.startswith("["):
        inner, _, port = text[1:].rpartition("]:")
        host = syntax.host(inner)
    elif text.count(":") > 1:
        # wg takes what stands behind the last colon for the port.
        inner, _, port = text.rpartition(":")
        if not syntax.is_address(inner):
            raise ValueError("an IPv6 address needs brackets before its port")
        host = syntax.address(inner)
    else:
        host, port = syntax.host_and_rest(text)
    return Server(host=host, port=syntax.port(port), transport="udp")


def _network(text: str) -> str:
    # wg's newer form: `+` adds, as no sign does.
    return syntax.network(text.removeprefix("+"))


def _keepalive(text: str) -> int:
    return 0 if text.lower() == "off" else _whole(text, 0, _UINT16)


_SWITCH = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError("neither on nor off")
    return _SWITCH[text.lower()]


def _range(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    first = _whole(low.strip(), 0, _UINT32)
    last = _whole(high.strip(), 0, _UINT32) if dash else first
    if last < first:
        raise ValueError("the range ends before it begins")
    return first, last


def _as_range(low_high: tuple[int, int]) -> str:
    low, high = low_high
    return f"{low}-{high}" if high > low else str(low)


def _whole(text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise ValueError(f"not a whole number from {least} to {most}")
    return int(text)
