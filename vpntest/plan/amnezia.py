"""Reads Amnezia's `vpn://` keys: a server with its containers, of which each is a config in another dialect.

    vpn://  base64url of  4 bytes, then zlib of
        {"containers": [{"container": "amnezia-awg", "awg": {"last_config": …}}, …],
         "defaultContainer": …, "description": …, "dns1": …, "hostName": …}

The four bytes are the length as Qt's qCompress writes it, or a mark of the vendor's; neither is needed. Older keys hold
the document as it is. `last_config` is a document in a string once more, and its `config` the text in the client's own
dialect, with `$PRIMARY_DNS` and `$SECONDARY_DNS` for what `dns1` and `dns2` say.

Sans-I/O, all sizes bounded. Format: amnezia-client, client/ui/controllers/importController.cpp and
exportController.cpp, client/containers/containers_defs.cpp.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

from msgspec import structs

from vpntest.errors import ConfigError
from vpntest.plan import kinds, outbounds, ovpn, syntax, trees, wgquick
from vpntest.plan.model import Config, Entry, Finding, Kind
from vpntest.plan.outcome import Meaning, faulty, made
from vpntest.plan.syntax import Unsupported
from vpntest.plan.trees import Table

SCHEME = "vpn"
_MOST_CONTAINERS = 100
_PREFIX = 4
"""Bytes before the compressed document."""
_RESOLVERS = {"$PRIMARY_DNS": ("dns1", "1.1.1.1"), "$SECONDARY_DNS": ("dns2", "1.0.0.1")}
"""What stands for each placeholder, and what the client takes where the key does not say."""

_WIREGUARD = {
    "amnezia-awg": Kind.AMNEZIAWG,
    "amnezia-awg2": Kind.AMNEZIAWG,
    "amnezia-awg-legacy": Kind.AMNEZIAWG,
    "amnezia-wireguard": Kind.WIREGUARD,
}
_XRAY = frozenset({"amnezia-xray", "amnezia-ssxray"})
_OPENVPN = "amnezia-openvpn"
_NOT_CARRIED = {
    "amnezia-openvpn-cloak": "OpenVPN inside Cloak",
    "amnezia-shadowsocks": "OpenVPN inside Shadowsocks",
    "amnezia-ipsec": "IPsec (IKEv2)",
    "amnezia-wireguard-udp2raw": "WireGuard inside udp2raw",
}
_NO_TUNNELS = frozenset(
    {"amnezia-dns", "amnezia-tor-website", "amnezia-sftp", "amnezia-socks5proxy", "amnezia-wordpress", "none"}
)
"""What else the client installs on a server."""


def entries(text: str, where: str) -> Iterator[Entry]:
    """Each tunnel that the key holds, the one that the client would choose first.

    `text` is the link, or the document that it holds. A fault of the whole is one entry with its problem.
    """
    try:
        document = _document(text, where)
        containers = _containers(document, where)
    except ConfigError as fault:
        yield faulty(fault)
        return
    label = next((one for key in ("description", "name") if isinstance(one := document.get(key), str)), "")
    more: tuple[Finding, ...] = ()
    if isinstance(document.get("userName"), str) and document.get("password"):
        said = "the key also holds the login of the server itself: whoever has it can do anything there"
        more = (Finding("warning", said),)
    for name, container in containers:
        for entry in _entries(name, container, document, f"{where} ({name})", label):
            yield structs.replace(entry, findings=(*entry.findings, *more)) if entry.config else entry


def _document(text: str, where: str) -> Table:
    text = text.strip()
    if not text.startswith("{"):
        text = _unpacked(text, where)
    document = trees.from_json(text, where)
    if not isinstance(document, Table):
        raise ConfigError("the key holds no JSON object", where=where)
    return document


def _unpacked(text: str, where: str) -> str:
    scheme, separator, code = text.partition("://")
    if not separator or scheme.lower() != SCHEME:
        raise ConfigError("not a vpn:// key", where=where)
    if len(code) > 2 * syntax.MAX_CONFIG_BYTES:
        raise ConfigError(f"the key is longer than {2 * syntax.MAX_CONFIG_BYTES >> 20} MiB", where=where)
    code = re.sub(r"\s+", "", code.partition("#")[0]).rstrip("/=")
    data = syntax.decoded_base64(code)
    if data is None:
        raise ConfigError("the key is not base64, or is cut short", where=where)
    if not data.lstrip().startswith(b"{"):
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(data[_PREFIX:], syntax.MAX_CONFIG_BYTES + 1)
        except zlib.error:
            raise ConfigError("the key holds neither JSON nor compressed JSON", where=where) from None
        if len(data) > syntax.MAX_CONFIG_BYTES:
            raise ConfigError(f"the key unpacks to more than {syntax.MAX_CONFIG_BYTES >> 20} MiB", where=where)
        if not unpacker.eof:
            raise ConfigError("the key is cut short", where=where)
    return syntax.decoded(data, where)


def _containers(document: Table, where: str) -> list[tuple[str, Table]]:
    """The containers that may be tunnels, the client's choice first. Raises ConfigError where there are none."""
    listed = document.get("containers")
    if not listed:
        if "api_config" in document or "api_endpoint" in document:
            said = "the key holds no config: Amnezia's own service hands it out over the internet, to Amnezia's client"
            raise Unsupported(said, where=where)
        raise ConfigError("the key holds no containers", where=where)
    if not isinstance(listed, list) or len(listed) > _MOST_CONTAINERS:
        raise ConfigError(f"`containers` is no list of at most {_MOST_CONTAINERS}", where=where)
    found = [
        (str(container.get("container")), container)
        for container in listed
        if isinstance(container, Table) and str(container.get("container")) not in _NO_TUNNELS
    ]
    if not found:
        raise Unsupported("the key holds no tunnel, only other services of a server", where=where)
    # What a stranger calls a container is no text for a message.
    named = [(name if name in _KNOWN else "a container", container) for name, container in found]
    chosen = document.get("defaultContainer")
    return sorted(named, key=lambda pair: pair[1].get("container") != chosen)


_KNOWN = frozenset({*_WIREGUARD, *_XRAY, _OPENVPN, *_NOT_CARRIED})


def _entries(name: str, container: Table, document: Table, where: str, label: str) -> Iterator[Entry]:
    if name in _XRAY:
        try:
            config = _last_config(container, where)
            if isinstance(inner := config.get("config"), str):
                config = trees.from_json(inner, where)
            if not isinstance(config, Table):
                raise ConfigError("the container holds no config of Xray", where=where)
        except ConfigError as fault:
            yield faulty(fault, label=label)
        else:
            yield from outbounds.xray(config, where, label)
        return
    kind = _WIREGUARD.get(name, Kind.OPENVPN if name == _OPENVPN else Kind.UNKNOWN)

    def meaning() -> Meaning:
        nonlocal kind
        if kind is Kind.UNKNOWN:
            said = _NOT_CARRIED.get(name, "a protocol that is not known here")
            raise Unsupported(f"{said} is not carried", where=where)
        text = _text(container, document, where)
        try:
            if kind is not Kind.OPENVPN:
                kind = kinds.kind_of(text)
            config: Config
            config, findings = ovpn.parse(text, where, _no_file) if kind is Kind.OPENVPN else wgquick.parse(text, where)
        except ConfigError as fault:
            # Its line is one of the text within, which nobody sees.
            raise type(fault)(fault.reason, where=where, hint=fault.hint) from None
        return config, tuple(structs.replace(finding, line=None) for finding in findings)

    entry = made(kind, meaning, label=label)
    yield structs.replace(entry, kind=kind)


def _last_config(container: Table, where: str) -> Table:
    protocols = [value for value in container.values() if isinstance(value, Table)]
    given = next((protocol["last_config"] for protocol in protocols if protocol.get("last_config")), None)
    if given is None:
        said = "the key is for who runs the server: no client's config is in it"
        raise Unsupported(said, where=where)
    config: Any = given
    if isinstance(given, str):
        config = trees.from_json(given, where)
    if not isinstance(config, Table):
        raise ConfigError("`last_config` is no JSON object", where=where)
    return config


def _text(container: Table, document: Table, where: str) -> str:
    text = _last_config(container, where).get("config")
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("the container holds no `config`", where=where)
    for placeholder, (key, usual) in _RESOLVERS.items():
        resolver = document.get(key)
        if not isinstance(resolver, str) or not syntax.is_address(resolver):
            resolver = usual
        text = text.replace(placeholder, resolver)
    return text


def _no_file(path: str) -> bytes:
    del path
    raise ValueError("a key has no files beside it")
