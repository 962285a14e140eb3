"""Reads share links of proxies into one sing-box outbound each.

Sans-I/O. There is no standard for these links: what is read here is what the projects themselves publish (SIP002 for
Shadowsocks, Xray's discussion 716 for VLESS and Trojan, Hysteria's URI scheme). A parameter that is not mapped makes
the link unsupported, with its name: left out, it would silently test another setup than the one in use.

Order matters: a link is split first and percent-decoded after, part by part, because a password may hold `@`, `/`, `?`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import unquote

from vpntest.errors import ConfigError
from vpntest.plan import syntax
from vpntest.plan.model import Finding, Kind, ProxyConfig, Server
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

SCHEMES = {
    "ss": Kind.SHADOWSOCKS,
    "vless": Kind.VLESS,
    "trojan": Kind.TROJAN,
    "hysteria2": Kind.HYSTERIA2,
    "hy2": Kind.HYSTERIA2,
}
"""Schemes that are read."""
KNOWN_SCHEMES = frozenset(
    {"vmess", "tuic", "anytls", "hysteria", "hy", "ssr", "ssconf", "wireguard", "wg", "socks", "naive+https"}
)
"""Schemes of share links that are not carried: said to be unsupported, not broken."""

_METHODS = {
    "aes-128-gcm": 0,
    "aes-192-gcm": 0,
    "aes-256-gcm": 0,
    "chacha20-ietf-poly1305": 0,
    "xchacha20-ietf-poly1305": 0,
    "2022-blake3-aes-128-gcm": 16,
    "2022-blake3-aes-256-gcm": 32,
    "2022-blake3-chacha20-poly1305": 32,
}
"""Shadowsocks methods (sing-shadowsocks2); the 2022 ones have for a password a key of so many bytes."""
_METHOD_ALIASES = {
    "chacha20-poly1305": "chacha20-ietf-poly1305",
    "xchacha20-poly1305": "xchacha20-ietf-poly1305",
}
"""Xray's names for the same two methods."""
_FINGERPRINTS = frozenset("chrome firefox edge safari 360 qq ios android random randomized".split())
"""Client hellos that sing-box can imitate (common/tls/utls_client.go)."""
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_SHORT_ID = re.compile(r"([0-9a-f]{2}){0,8}", re.IGNORECASE)
_ALPN = frozenset({"h2", "http/1.1"})
_HTTPS_PORT = 443


@dataclass
class _Link:
    """A link taken apart. Each reader takes its parameters out; what is left over makes the link unsupported."""

    where: str
    userinfo: str
    """Still percent-encoded."""
    host: str
    ports: str
    """What follows the host's colon; empty where there is none."""
    parameters: dict[str, str]
    findings: list[Finding] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)
    unverified: bool = False

    def broken(self, reason: str) -> NoReturn:
        raise ConfigError(reason, where=self.where)

    def unsupported(self, reason: str) -> NoReturn:
        raise Unsupported(reason, where=self.where)

    def take(self, *names: str) -> str:
        """The value of the first of these parameters that has one, and none of them is left over."""
        values = [self.parameters.pop(name, "") for name in names]
        return next(filter(None, values), "")

    def expect(self, name: str, usual: Iterable[str]) -> None:
        """Refuses a parameter whose value is not one of those that change nothing."""
        if self.take(name).lower() not in {"", *usual}:
            self.unsupported(f"`{name}` has a value that is not carried")

    def port(self, default: int | None = None) -> int:
        if not self.ports and default is not None:
            return default
        try:
            return syntax.port(self.ports)
        except ValueError as fault:
            self.broken(str(fault))

    def password(self) -> Secret:
        return Secret(self.decoded(self.userinfo, "the password"))

    def decoded(self, text: str, what: str) -> str:
        value = _percent_decoded(text)
        if value is None or not syntax.is_plain(value):
            self.broken(f"{what} is not percent-encoded UTF-8 text")
        return value


def scheme_of(text: str) -> str | None:
    """The link's scheme in lower case, if the text begins with one."""
    found = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]{0,15})://", text)
    return found[1].lower() if found else None


def parse(text: str, where: str) -> tuple[ProxyConfig, tuple[Finding, ...]]:
    """The link's meaning, and what a reader should know of it.

    `where` names the place in messages: the link itself is a secret and is never shown, in whole or in part. Raises
    ConfigError for a broken link, its subclass Unsupported for one that asks for what is not carried.
    """
    text = text.strip()
    scheme = scheme_of(text)
    kind = SCHEMES.get(scheme or "")
    if kind is None:
        if scheme in KNOWN_SCHEMES:
            raise Unsupported(f"{scheme}:// links are not supported", where=where)
        raise ConfigError("not a share link", where=where, hint="it begins with ss, vless, trojan, hysteria2 or hy2")
    if not syntax.is_plain(text) or " " in text.partition("#")[0]:
        raise ConfigError("a link is one line without blanks", where=where, hint="one link per tunnel")
    link = _taken_apart(text.partition("://")[2], kind, where)
    server, outbound = _READERS[kind](link)
    left = sorted(link.parameters)
    if left:
        # Only known names are shown: behind a stray `&` a name may be a piece of a password.
        named = [f"`{name}`" for name in left if name in _PARAMETERS]
        link.unsupported(f"{', '.join(named) or 'a parameter'} cannot be honoured")
    config = ProxyConfig(
        server=server,
        outbound={"type": kind.value, **outbound},
        needs=tuple(sorted(link.needs)),
        tls_unverified=link.unverified,
    )
    if link.unverified:
        text = "the link asks not to check the server's certificate: anybody can pose as it"
        link.findings.append(Finding("danger", text))
    return config, tuple(link.findings)


def _taken_apart(rest: str, kind: Kind, where: str) -> _Link:
    rest = rest.partition("#")[0]
    rest, _, query = rest.partition("?")
    if kind is Kind.SHADOWSOCKS and "@" not in rest:
        # The oldest form: all of it in base64, and the password may hold anything.
        decoded = _base64_text(rest.rstrip("/"))
        if decoded is None or "@" not in decoded:
            raise ConfigError("the link has no server", where=where)
        credentials, _, place = decoded.rpartition("@")
        userinfo = base64.urlsafe_b64encode(credentials.encode()).decode()
    else:
        # From the right: standard base64 holds slashes, a carelessly written password holds more.
        userinfo, at, place = rest.rpartition("@")
        if not at:
            raise ConfigError("the link has no server, or no user before it", where=where)
    place, _, path = place.partition("/")
    if path:
        raise Unsupported("the link has a path, which is not carried", where=where)
    parameters: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if kind is Kind.SHADOWSOCKS and name == "prefix" and value:  # bytes, not text
            raise Unsupported("`prefix` (Outline's disguise of the first packet) is not carried", where=where)
        decoded_name, decoded_value = _percent_decoded(name), _percent_decoded(value)
        if decoded_name is None or decoded_value is None or not syntax.is_plain(decoded_name + decoded_value):
            raise ConfigError("a parameter is not percent-encoded UTF-8 text", where=where)
        if decoded_name in parameters:
            raise ConfigError("a parameter is given twice", where=where)
        if decoded_value:  # generators write many empty ones
            parameters[decoded_name] = decoded_value
    try:
        host, ports = syntax.host_and_rest(place)
    except ValueError as fault:
        raise ConfigError(str(fault), where=where) from None
    link = _Link(where, userinfo, host, ports, parameters)
    link.take("remarks")
    return link


# ── one reader per kind ──────────────────────────────────────────────────────────────────────────────────────────────


def _shadowsocks(link: _Link) -> tuple[Server, dict[str, object]]:
    link.take("outline")
    if link.parameters.get("plugin"):
        link.unsupported("Shadowsocks plugins are not carried")
    link.expect("type", {"tcp"})
    link.expect("security", {"none"})
    if ":" in link.userinfo:
        method, _, password = link.userinfo.partition(":")
        method, password = link.decoded(method, "the method"), link.decoded(password, "the password")
    else:
        text = _percent_decoded(link.userinfo) or ""
        plain = text if ":" in text else _base64_text(text)
        if plain is None or ":" not in plain:
            link.broken("the user part is neither method:password nor base64 of it")
        method, _, password = plain.partition(":")
    method = method.lower()
    method = _METHOD_ALIASES.get(method, method)
    length = _METHODS.get(method)
    if length is None:
        link.unsupported("the Shadowsocks method is none of " + ", ".join(_METHODS))
    if not password or not syntax.is_plain(password):
        link.broken("the password is empty or holds control characters")
    if length:
        keys = [_base64_bytes(key) for key in password.split(":")]
        if method == "2022-blake3-chacha20-poly1305" and len(keys) > 1:
            link.broken("this method takes one key, not several")
        if any(key is None or len(key) != length for key in keys):
            link.broken(f"the password of {method} is base64 of {length} bytes")
        # sing-box takes the standard alphabet with padding only.
        password = ":".join(base64.b64encode(key).decode() for key in keys if key)
    server = Server(host=link.host, port=link.port(), transport="tcp")
    return server, {"method": method, "password": Secret(password)}


def _vless(link: _Link) -> tuple[Server, dict[str, object]]:
    user = link.decoded(link.userinfo, "the user id")
    if not _UUID.fullmatch(user):
        link.broken("the user id is not a UUID")
    link.expect("encryption", {"none"})
    _plain_transport(link)
    flow = link.take("flow")
    if flow not in ("", "xtls-rprx-vision"):
        link.unsupported("`flow` is not xtls-rprx-vision")
    encoding = link.take("packetEncoding")
    if encoding not in ("", "xudp"):
        link.unsupported("`packetEncoding` is not xudp")
    outbound: dict[str, object] = {"uuid": Secret(user), "tls": _tls(link, default="none")}
    if flow:
        outbound["flow"] = flow
    return Server(host=link.host, port=link.port(), transport="tcp"), outbound


def _trojan(link: _Link) -> tuple[Server, dict[str, object]]:
    password = link.password()
    if not password.reveal():
        link.broken("the link has no password")
    _plain_transport(link)
    tls = _tls(link, default="tls")
    return Server(host=link.host, port=link.port(_HTTPS_PORT), transport="tcp"), {"password": password, "tls": tls}


def _hysteria2(link: _Link) -> tuple[Server, dict[str, object]]:
    link.needs.add("quic")
    # `mport` is v2rayN's spelling of several ports; a client that knows it uses them in place of the one in the link.
    ports = _port_ranges(link, link.take("mport") or link.ports) or [(_HTTPS_PORT, _HTTPS_PORT)]
    outbound: dict[str, object] = {}
    if link.userinfo:
        outbound["password"] = link.password()
    obfs, obfs_password = link.take("obfs").lower(), link.take("obfs-password")
    if obfs not in ("", "none", "salamander"):
        link.unsupported("`obfs` is not salamander")
    if obfs == "salamander":
        if not obfs_password:
            link.broken("obfs=salamander without obfs-password")
        outbound["obfs"] = {"type": "salamander", "password": Secret(obfs_password)}
    if link.take("pinSHA256"):
        link.unsupported("`pinSHA256` (trust in one certificate only) is not carried")
    link.expect("alpn", {"h3"})
    link.expect("security", {"tls"})
    if link.take("fp"):
        link.findings.append(Finding("note", "`fp` is ignored: it has no meaning in QUIC"))
    tls: dict[str, object] = {"enabled": True, "server_name": _server_name(link), "alpn": ["h3"]}
    if _insecure(link):
        tls["insecure"] = True
    outbound["tls"] = tls
    if ports[0][0] != ports[0][1] or len(ports) > 1:
        outbound["server_ports"] = [f"{low}:{high}" for low, high in ports]
    return Server(host=link.host, port=ports[0][0], transport="udp"), outbound


_READERS: dict[Kind, Callable[[_Link], tuple[Server, dict[str, object]]]] = {
    Kind.SHADOWSOCKS: _shadowsocks,
    Kind.VLESS: _vless,
    Kind.TROJAN: _trojan,
    Kind.HYSTERIA2: _hysteria2,
}
_PARAMETERS = frozenset(
    """
    type security encryption flow sni peer fp alpn allowInsecure insecure allow_insecure pbk sid spx pqv ech pcs vcn fm
    host path headerType seed mtu serviceName authority mode extra packetEncoding plugin prefix uot obfs obfs-password
    mport pinSHA256 upmbps downmbps fastopen tfo udp mux
    """.split()
)
"""Names that parameters of share links are known to have."""


# ── what kinds share ─────────────────────────────────────────────────────────────────────────────────────────────────


def _plain_transport(link: _Link) -> None:
    """Refuses every transport but TCP as it is."""
    if link.take("type").lower() not in ("", "tcp", "raw"):
        link.unsupported("`type` is not tcp; other transports are not carried")
    if link.take("headerType").lower() not in ("", "none"):
        link.unsupported("`headerType` (a disguise as HTTP) is not carried")
    link.expect("path", {"/"})


def _tls(link: _Link, *, default: str) -> dict[str, object]:
    security = link.take("security").lower() or default
    if security not in ("tls", "reality"):
        link.unsupported("without TLS everything would go in the clear; `security` must be tls or reality")
    name = _server_name(link)
    if security == "reality" and syntax.is_address(name):
        link.broken("Reality without `sni`, the name that it hides behind")
    tls: dict[str, object] = {"enabled": True, "server_name": name}
    protocols = [protocol for protocol in link.take("alpn").split(",") if protocol]
    if not _ALPN.issuperset(protocols):
        link.unsupported("`alpn` is neither h2 nor http/1.1")
    if protocols:
        tls["alpn"] = protocols
    fingerprint = link.take("fp").lower()
    if fingerprint and fingerprint not in _FINGERPRINTS:
        link.unsupported("`fp` is not a client that sing-box imitates")
    insecure = _insecure(link)
    if security == "reality":
        # The server proves itself by its key; there is no certificate to check.
        tls["reality"] = _reality(link)
        fingerprint = fingerprint or "chrome"
    elif insecure:
        tls["insecure"] = True
    if security == "reality" and insecure:
        link.unverified = False
    if fingerprint:
        tls["utls"] = {"enabled": True, "fingerprint": fingerprint}
        link.needs.add("utls")
    return tls


def _reality(link: _Link) -> dict[str, object]:
    public_key, short_id = link.take("pbk"), link.take("sid")
    if not public_key:
        link.broken("Reality without `pbk`, the server's key")
    raw = _base64_bytes(public_key)
    if raw is None or len(raw) != 32:
        link.broken("`pbk` is not base64 of 32 bytes")
    if not _SHORT_ID.fullmatch(short_id):
        link.broken("`sid` is not 0 to 16 hexadecimal digits in pairs")
    if link.take("spx") not in ("", "/"):
        link.findings.append(Finding("note", "`spx` is ignored: it matters only after the server was not recognised"))
    return {
        "enabled": True,
        "public_key": base64.urlsafe_b64encode(raw).decode().rstrip("="),  # the one spelling that sing-box takes
        "short_id": Secret(short_id),
    }


def _server_name(link: _Link) -> str:
    """The name in the TLS handshake, always explicit: sing-box is given the server's address in place of its name."""
    name = link.take("sni", "peer") or link.host
    try:
        return syntax.host(name)
    except ValueError:
        link.broken("`sni` is not a name")


def _insecure(link: _Link) -> bool:
    value = link.take("insecure", "allowInsecure", "allow_insecure").lower()
    if value not in ("", "0", "1", "true", "false"):
        link.broken("`insecure` is neither 0 nor 1")
    link.unverified = value in ("1", "true")
    return link.unverified


def _port_ranges(link: _Link, text: str) -> list[tuple[int, int]]:
    ranges = []
    for part in filter(None, text.split(",")):
        low, dash, high = part.partition("-")
        try:
            first = syntax.port(low)
            last = syntax.port(high) if dash else first
        except ValueError as fault:
            link.broken(str(fault))
        if last < first:
            link.broken("a range of ports ends before it begins")
        ranges.append((first, last))
    return ranges


def _percent_decoded(text: str) -> str | None:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return None


def _base64_bytes(text: str) -> bytes | None:
    """Bytes of standard or URL-safe base64, with or without padding."""
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _base64_text(text: str) -> str | None:
    raw = _base64_bytes(text)
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None
