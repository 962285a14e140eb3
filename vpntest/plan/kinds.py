"""Tells from a config's content what it is. File names say nothing: wg-quick and OpenVPN share `.conf`."""

from __future__ import annotations

import itertools
import re
from enum import Enum, auto

from vpntest.plan import links, messages, syntax, wgquick
from vpntest.plan.model import Kind

_SECTION = re.compile(r"^[ \t]*\[(interface|peer)\]", re.IGNORECASE | re.MULTILINE)
_AMNEZIA = re.compile(rf"^[ \t]*(?:{'|'.join(wgquick.AMNEZIA)})[ \t]*=", re.IGNORECASE | re.MULTILINE)
_OPENVPN = re.compile(
    r"^[ \t]*(?:--)?(?:(?:client|tls-client|nobind)[ \t\r]*(?:[#;].*)?$|(?:auth-user-pass|remote-cert-tls)(?=\s|$)"
    r"|(?:remote|dev|proto|ca|cert|cipher)[ \t]+\S|<(?:ca|cert|key|connection|tls-auth|tls-crypt)>)",
    re.MULTILINE,
)
"""Lines of which nearly every .ovpn has several, and which other texts hardly begin a line with."""
_BRIDGE = re.compile(
    r"^[ \t>*-]*(?:[0-9]{1,3}[.)][ \t]+)?(?:bridge[ \t]+(?:\w+[ \t]+)?(?:[0-9.]+|\[[0-9a-f:.]+\]):[0-9]{1,5}"
    r"|(?:obfs[234]|webtunnel|snowflake|meek(?:_lite)?|scramblesuit|conjure)[ \t]+"
    r"(?:[0-9.]+|\[[0-9a-f:.]+\]):[0-9]{1,5}"
    r"|(?:[0-9.]+|\[[0-9a-f:.]+\]):[0-9]{1,5}[ \t]+[0-9a-f]{40})(?=\s|$)",
    re.IGNORECASE | re.MULTILINE,
)
_YAML = re.compile(
    r"^(?:(?:proxies|proxy-providers|Proxy|transport|\$type)[ \t]*:(?=\s|$)"
    r"|error[ \t]*:[ \t]*(?:\{[ \t]*|\r?\n[ \t]+)[\"']?(?:message|details)[\"']?[ \t]*:)",
    re.MULTILINE,
)
"""Keys at the top; `error` is Outline's, and one word of many notes."""
_COMMENT = re.compile(r"(?:[ \t\r\n\ufeff\u200b]+|(?:#|//|;)[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_JSON = re.compile(r'\{\s*(?:["}]|//|/\*|#)|\[\s*[{\["\]]')
_PAGE = re.compile(r"<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_LINK = re.compile(r"^[ \t\ufeff\u200b]*([a-z][a-z0-9+-]{1,15})://", re.IGNORECASE | re.MULTILINE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,3}")
_LEAST_BASE64 = 16
_HEAD = 1 << 20
"""Characters that tell how the rest is written: as many as the largest single config has."""


class Dialect(Enum):
    """How a source is written."""

    WG_QUICK = auto()
    OPENVPN = auto()
    LINKS = auto()
    """Links, one each line, or among the words of a message."""
    BASE64 = auto()
    """One of the others, in base64."""
    JSON = auto()
    YAML = auto()
    BRIDGES = auto()
    """Tor's bridge lines."""
    PAGE = auto()
    """A web page: what is saved where a subscription is blocked or gone."""
    NOTHING = auto()


class Part(Enum):
    """What a line is in a text that holds configs of several dialects."""

    INTERFACE = auto()
    """The first of a wg-quick config."""
    PEER = auto()
    """One within it."""
    BRIDGE = auto()
    LINK = auto()


def part_of(line: str) -> Part | None:
    """What a line is by itself; None for what only its neighbours tell, and for links, which tell themselves."""
    if line[:1] == "[" and (section := _SECTION.match(line)):
        return Part.INTERFACE if section[1].lower() == "interface" else Part.PEER
    return Part.BRIDGE if _BRIDGE.match(line) else None


def is_foreign(line: str) -> bool:
    """Whether a line within a wg-quick config is none of its own, but of links or a bridge."""
    before, found, _ = line.partition("://")
    # Behind a `=` a link is the value of a key, such as a hook's.
    linked = found and "=" not in before and not line.startswith(messages.COMMENTS) and messages.within(line)
    return bool(linked) or part_of(line) is Part.BRIDGE


def is_mixed(text: str) -> bool:
    """Whether links or bridge lines stand in a text of wg-quick."""
    if "://" not in text and not _BRIDGE.search(text):
        return False
    return any(is_foreign(line[0].strip(messages.BLANKS)) for line in re.finditer("[^\n]+", text))


def kind_of(text: str) -> Kind:
    """The kind of a config, also of a broken one; `UNKNOWN` for a text that looks like no config."""
    if scheme := links.scheme_of(text):
        return links.SCHEMES.get(scheme, Kind.UNKNOWN)
    if _SECTION.search(text):
        return Kind.AMNEZIAWG if _AMNEZIA.search(text) else Kind.WIREGUARD
    if _OPENVPN.search(text):
        return Kind.OPENVPN
    return Kind.TOR if _BRIDGE.search(text) else Kind.UNKNOWN


def dialect_of(text: str) -> Dialect:
    """How a source is written, also a broken one; `NOTHING` for a text that looks like no config."""
    whole, text = text, text[:_HEAD]
    begin = _COMMENT.match(text)
    start = begin.end() if begin else 0
    if _JSON.match(text, start):
        return Dialect.JSON
    if _PAGE.match(text, start):
        return Dialect.PAGE
    if (found := _LINK.match(text, start)) and found[1].lower() in messages.SCHEMES:
        return Dialect.LINKS
    if _SECTION.search(text):
        return Dialect.WG_QUICK
    if _YAML.search(text):
        return Dialect.YAML
    # Before the others: the alphabet of base64 has no blanks, so that none of their lines can be taken for it.
    if from_base64(whole) is not None:
        return Dialect.BASE64
    if messages.holds_links(text):
        return Dialect.LINKS
    if _BRIDGE.search(text):
        return Dialect.BRIDGES
    if _OPENVPN.search(text):
        return Dialect.OPENVPN
    if any(found[1].lower() in messages.SCHEMES - messages.IN_PROSE for found in _LINK.finditer(text)):
        return Dialect.LINKS
    return Dialect.NOTHING


def is_openvpn(text: str) -> bool:
    """Whether several lines of a text are OpenVPN's, not one by chance."""
    return len(list(itertools.islice(_OPENVPN.finditer(text), 2))) > 1


def from_base64(text: str) -> bytes | None:
    """What stands in base64 of either alphabet, with or without padding and line breaks, if a source does."""
    bare = re.sub(r"\s+", "", text.lstrip("\ufeff"))
    if len(bare) < _LEAST_BASE64 or not _BASE64.fullmatch(bare):
        return None
    found = syntax.decoded_base64(bare)
    if found is None:
        return None
    # Any word of letters is base64 of something. What it is of, must be text.
    inner = found[:1024].decode("utf-8-sig", "ignore")
    begin = inner.strip()
    looks = (
        _LINK.match(begin) or begin.startswith(("{", "[", "#", "//")) or _YAML.search(inner) or _OPENVPN.search(inner)
    )
    return found if looks and b"\0" not in found else None
