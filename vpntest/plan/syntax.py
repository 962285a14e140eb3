"""What the config dialects share: plain text, hosts, ports, networks, and the way a reader refuses.

The small readers raise ValueError with a reason that never quotes the text: in a broken config a password can stand
where a port should. The dialect adds the place and makes a ConfigError of it.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import tomllib
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from vpntest.errors import ConfigError

T = TypeVar("T")

MAX_CONFIG_BYTES = 1 << 20
"""The largest config that is read. Real ones stay under 64 KiB, also with many inline certificates."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Everything that ends or hides a line without being a line feed or a tab."""
_DEEP_KEY = re.compile(
    r"""(?:^[ \t]*\[{0,2}|[{,])[ \t]*(?:(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')[ \t]*\.[ \t]*){17}""",
    re.MULTILINE,
)
"""A key with more than 16 dots: tomllib takes time and memory by the square of their number."""
_PORT = re.compile(r"[0-9]{1,5}")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class Unsupported(ConfigError):
    """A sound config that asks for something which vpntest cannot honour.

    Kept apart from its base so that the tunnel reads `unsupported` and not `invalid`: the provider made no mistake.
    """


class Refused(ConfigError):
    """A config that could be honoured and must not be: it reaches for this machine or its own networks."""


def decoded(data: bytes, where: str) -> str:
    """A config file's text, without byte order mark. Raises ConfigError for an empty file and for what is no text."""
    if not data.strip():
        raise ConfigError("the file is empty", where=where)
    if b"\x00" in data:
        raise ConfigError("this is a binary file, not a config", where=where)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        raise ConfigError("not UTF-8 text", where=where, line=line, hint="save the file as UTF-8") from None


def decoded_base64(text: str) -> bytes | None:
    """Bytes of standard or URL-safe base64, with or without padding, with blanks in it; None for other text."""
    bare = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def numbered(text: str, where: str) -> Iterator[tuple[int, str]]:
    """The lines of a text with their one-based numbers. Raises ConfigError at a control character."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if _CONTROL.search(line):
            raise ConfigError("a control character in the text", where=where, line=number)
        yield number, line


def toml(text: str, where: str) -> dict[str, Any]:
    """A TOML document. Raises ConfigError with the parser's own line."""
    if deep := _DEEP_KEY.search(text):
        line = text.count("\n", 0, deep.start()) + 1
        raise ConfigError("not TOML that is read: a key with more than 16 dots", where=where, line=line)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as fault:
        reason = str(fault) if isinstance(fault, tomllib.TOMLDecodeError) else "nested too deep"
        raise ConfigError(f"not TOML: {reason}", where=where) from None


def shaped(document: dict[str, Any], shape: type[T], where: str) -> T:
    """A TOML document as the given type. Raises ConfigError that names the key; an unknown one is refused."""
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as fault:
        reason = str(fault).replace("Object contains unknown field", "unknown key").replace("`$.", "`")
        reason = reason.replace("Object missing required field", "missing key").replace(" - at `$`", "")
        raise ConfigError(printable(reason), where=where) from None


def printable(text: str) -> str:
    """The text with `\ufffd` for all that a terminal obeys instead of showing it, and that JSON cannot hold.

    File names are any bytes, and Python keeps those that are no UTF-8 as lone surrogates; a TOML key may hold escapes.
    """
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def url(text: str, schemes: tuple[str, ...]) -> str:
    """A URL as given, if its scheme is one of these and its host and port are sound. Raises ValueError."""
    if not is_plain(text) or " " in text:
        raise ValueError("blanks or control characters in a URL")
    parts = urlsplit(text)
    if parts.scheme not in schemes:
        raise ValueError(f"the URL does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if parts.username is not None or not parts.hostname:
        raise ValueError("the URL has no host, or a user before it")
    host(parts.hostname)
    if parts.port == 0 or (parts.port is None and parts.scheme == "tcp"):
        raise ValueError("the URL has no port")
    return text


def is_plain(text: str) -> bool:
    """Whether a text is one line without control characters."""
    return "\n" not in text and not _CONTROL.search(text)


def host(text: str) -> str:
    """A name in lower case, or an address in its usual form, IPv6 without brackets. Raises ValueError."""
    if is_address(text):
        return address(text)
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if not text.isascii():
        raise ValueError("the host is not ASCII; write it in its xn-- form")
    # Resolvers read an all-digits last label as an address in a form of its own.
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise ValueError("the host is neither a name nor an address")
    return name


def address(text: str) -> str:
    """A literal IPv4 or IPv6 address in its usual form. Raises ValueError."""
    if "%" in text:
        raise ValueError("an address with a zone means nothing to another machine")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("not an IPv4 or IPv6 address") from None


def is_address(text: str) -> bool:
    """Whether a text is a literal address."""
    try:
        address(text)
    except ValueError:
        return False
    return True


def port(text: str) -> int:
    """A port number. Raises ValueError."""
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise ValueError("the port is not a number from 1 to 65535")
    return int(text)


def host_and_rest(text: str) -> tuple[str, str]:
    """Splits `host:rest` and `[v6]:rest`; the rest is empty where there is no colon. Raises ValueError."""
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in inner or (rest and not rest.startswith(":")):
            raise ValueError("the brackets hold no IPv6 address")
        return address(inner), rest.removeprefix(":")
    name, _, rest = text.partition(":")
    if ":" in rest:
        raise ValueError("an IPv6 address needs brackets before its port")
    return host(name), rest


def network(text: str) -> str:
    """A network in CIDR form with its host bits cleared; without a mask, the one address. Raises ValueError."""
    return str(_interface(text).network)


def interface(text: str) -> str:
    """An address in CIDR form, host bits kept; without a mask, `/32` or `/128`. Raises ValueError."""
    return _interface(text).with_prefixlen


def _interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    _, slash, prefix = text.partition("/")
    if "%" in text or (slash and not re.fullmatch(r"[0-9]{1,3}", prefix)):
        raise ValueError("not an address with a prefix length")
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError("not an IPv4 or IPv6 network") from None
