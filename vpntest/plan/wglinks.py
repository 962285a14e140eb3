"""Reads `wireguard://` and `wg://`: the one tunnel of a link, in the spellings of the clients that write such links.

    wireguard://PRIVATE@host:port?publickey=…&presharedkey=…&address=…&mtu=…&reserved=…#label    v2rayN, v2rayNG, Happ
    wg://host:port?private_key=…&peer_public_key=…&local_address=a-b&junk_packet_count=…         NekoBox, Throne
    wg://host:port?pk=…&peer_pk=…&ifp=…                                                          Hiddify
    wg://host:port?privateKey=…&publicKey=…&ip=…                                                 Shadowrocket

Sans-I/O. No standard says what they mean. So each link is put into the keys of wg-quick, and means what these mean.
Grammar: v2rayN, ServiceLib/Handler/Fmt/WireguardFmt.cs; the other spellings as their clients write them.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

from vpntest.errors import ConfigError
from vpntest.plan import syntax, wgquick
from vpntest.plan.keys import read_key
from vpntest.plan.model import Finding, WireGuardConfig
from vpntest.plan.syntax import Unsupported

SCHEMES = frozenset({"wireguard", "wg"})
_LONGEST = 1 << 16
"""Characters of a link; the longest that clients write hold five packets of 1.5 KB in hexadecimal."""
_DEFAULT_ADDRESS = "172.16.0.2/32"
"""What v2rayNG takes for a link without an address; WARP gives it to everybody."""

_PRIVATE = ("privatekey", "secretkey", "private", "pk", "sk")
_PUBLIC = ("publickey", "peerpublickey", "serverpublickey", "peerpk", "peerpub", "public", "pub")
_PRESHARED = ("presharedkey", "psk", "preshared")
_NAMES = {
    **dict.fromkeys(_PRIVATE, "PrivateKey"),
    **dict.fromkeys(_PUBLIC, "PublicKey"),
    **dict.fromkeys(_PRESHARED, "PresharedKey"),
    **dict.fromkeys(("address", "addresses", "localaddress", "ip", "ips", "ipv4", "ipv6"), "Address"),
    **dict.fromkeys(("allowedips", "allowedip"), "AllowedIPs"),
    **dict.fromkeys(("keepalive", "persistentkeepalive", "persistentkeepaliveinterval"), "PersistentKeepalive"),
    **dict.fromkeys(("reserved", "clientid"), "Reserved"),
    **{"dns": "DNS", "mtu": "MTU"},
    **{key.lower(): key for key in wgquick.AMNEZIA},
    **{"junkpacketcount": "Jc", "junkpacketminsize": "Jmin", "junkpacketmaxsize": "Jmax"},
    **{"initpacketjunksize": "S1", "responsepacketjunksize": "S2"},
    **{"cookiereplypacketjunksize": "S3", "transportpacketjunksize": "S4"},
    **{"initpacketmagicheader": "H1", "responsepacketmagicheader": "H2"},
    **{"underloadpacketmagicheader": "H3", "transportpacketmagicheader": "H4"},
}
"""Of each parameter, in lower case and without `_` and `-`, the key of wg-quick that it stands for."""
_KEY_LENGTH = 44
_KEYS = frozenset({"PrivateKey", "PublicKey", "PresharedKey"})
_LISTS = frozenset({"Address", "AllowedIPs", "DNS"})
_OF_PEER = frozenset({"PublicKey", "PresharedKey", "AllowedIPs", "PersistentKeepalive", "Reserved"})
_NOISE = {
    **dict.fromkeys(("ifp", "ifps", "ifpd", "ifpm", "fakepackets", "fakepacketssize", "fakepacketsdelay"), "Hiddify"),
    **dict.fromkeys(("wnoise", "wnoisecount", "wnoisedelay", "wpayloadsize"), "MahsaNG"),
}
"""Parameters that ask for packets of noise, and whose they are: no carrier here sends them."""
_NOTHING = frozenset({"", "0", "0-0", "none", "false", "off"})
_OF_THE_CLIENT = frozenset(
    {"udp", "workers", "usesysteminterface", "system", "name", "remark", "remarks", "flag", "gso", "enableamnezia"}
)
"""Parameters that say how the client is to make the tunnel on its own machine, or what to call it."""


def parse(text: str, where: str) -> tuple[WireGuardConfig, tuple[Finding, ...]]:
    """The link's meaning, and one finding for each parameter that is left out.

    `where` names the place in messages. Raises ConfigError for a broken link, its subclass Unsupported for a sound one
    that needs what the carriers do not have. No message quotes a part of the link.
    """
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ConfigError("not a wireguard:// or wg:// link", where=where)
    if len(text) > _LONGEST:
        raise ConfigError(f"the link is longer than {_LONGEST >> 10} KiB", where=where)
    if not syntax.is_plain(text):
        raise ConfigError("a control character in the link", where=where)
    rest = rest.partition("#")[0]
    if whole := _config_in(rest):
        return wgquick.parse(whole, where)
    # Keys hold `/` and `=`, and not every client writes them encoded: only `?` and the last `@` part for sure.
    authority, _, query = rest.partition("?")
    userinfo, _, endpoint = authority.rpartition("@")
    findings: list[Finding] = []
    given = _parameters(query, where, findings)
    if userinfo:
        given["PrivateKey"] = _key("PrivateKey", _decoded(userinfo, where), where)
    given["Endpoint"] = endpoint.rstrip("/").strip()
    given.setdefault("AllowedIPs", "0.0.0.0/0, ::/0")
    if not given.get("Address"):
        given["Address"] = _DEFAULT_ADDRESS
        said = f"the link gives no address: {_DEFAULT_ADDRESS} is taken, as v2rayNG does"
        findings.append(Finding("warning", said))
    peer = [(key, value) for key, value in given.items() if key in _OF_PEER or key == "Endpoint"]
    interface = [(key, value) for key, value in given.items() if key not in _OF_PEER and key != "Endpoint"]
    config, more = wgquick.from_keys(interface, [peer], where)
    return config, (*findings, *more)


def _config_in(rest: str) -> str | None:
    """A whole .conf, where the link is the base64 of one."""
    bare = rest.rstrip("/=").replace("-", "+").replace("_", "/")
    if not re.fullmatch(r"[A-Za-z0-9+/]{60,}", bare):
        return None
    try:
        text = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True).decode("utf-8-sig")
    except (binascii.Error, ValueError):
        return None
    return text if "[interface]" in text.lower() else None


def _parameters(query: str, where: str, findings: list[Finding]) -> dict[str, str]:
    """The parameters as wg-quick's keys."""
    given: dict[str, str] = {}
    obfuscated = True
    for part in query.replace("&amp;", "&").split("&"):
        word, _, raw = part.partition("=")
        name = re.sub(r"[_-]", "", _decoded(word, where)).lower()
        value = _decoded(raw, where)
        key = _NAMES.get(name)
        if name == "enableamnezia":
            obfuscated = value.lower() not in _NOTHING
        elif name in _NOISE:
            if value.lower() not in _NOTHING:
                said = f"`{name}`: noise before the handshake, which of all clients {_NOISE[name]} sends"
                raise Unsupported(said, where=where)
        elif key is None:
            if name and name not in _OF_THE_CLIENT:
                said = "a parameter that no client reads is left out"
                if not any(finding.text == said for finding in findings):
                    findings.append(Finding("note", said))
        elif key in _KEYS:
            given[key] = _key(key, value, where) if value else given.get(key, "")
        elif key in _LISTS:
            # Throne joins lists by dashes.
            given[key] = f"{given.get(key, '')},{value.replace('-', ',')}".strip(", ")
        elif value:
            given[key] = value
    return {key: value for key, value in given.items() if obfuscated or key not in wgquick.AMNEZIA}


def _decoded(text: str, where: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ConfigError("percent codes in the link that are no text", where=where) from None
    if not syntax.is_plain(decoded):
        raise ConfigError("a control character in the link", where=where)
    return decoded


def _key(name: str, text: str, where: str) -> str:
    # A `+` that was not encoded is a blank by the rules of forms, and no key holds a blank.
    text = text.strip() if len(text) > _KEY_LENGTH else text.replace(" ", "+")
    if name == "PresharedKey" and not text.strip("A="):
        return ""
    try:
        return read_key(text)
    except ValueError as fault:
        raise ConfigError(f"{name}: {fault}", where=where) from None
