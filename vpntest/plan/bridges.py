"""Tor's bridge lines, as bots, mails and torrc files hand them out; many of them are one tunnel.

    [Bridge] [transport] address:port [fingerprint] [key=value …]

The grammar is that of tor itself (src/app/config/config.c, parse_bridge_line); what each transport's client asks of its
arguments is from its sources: lyrebird (transports/obfs4, /meeklite, /webtunnel), snowflake (client/snowflake.go).
Of a torrc only the bridges are taken: no program, file, port or network that it names.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

from vpntest.errors import ConfigError
from vpntest.plan import syntax
from vpntest.plan.model import Bridge, Finding, Server, TorConfig
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

TRANSPORTS = ("obfs4", "webtunnel", "snowflake", "meek_lite", "obfs3", "scramblesuit")
"""Transports that some client of today speaks; whether this machine has one, is found out when it is raised."""
MAX_BRIDGES = 64
"""Of one tunnel. Tor calls all of them at once; a bot hands out three."""

_MAX_ARGUMENTS = 510
"""Bytes of a transport's arguments as tor hands them over (MAX_SOCKS5_AUTH_SIZE_TOTAL)."""
_DEFAULT_PORT = 443
"""Tor's own, where a line has none."""
_STUN_PORT = 3478
"""Where a STUN server's address has none (RFC 7064)."""
_CERTIFICATE_BYTES = 52
"""Of obfs4: a node's id and its public key (transports/obfs4/statefile.go)."""

_COMMON = frozenset(("iat-mode", "ver", "front", "fronts", "ice", "ampcache", "utls", "utls-imitate", "max"))
"""Arguments that many bridges have alike, and that tell nobody which one it is."""
_MARGIN = re.compile(r"(?:[-*>•`'\"]|[0-9]{1,3}[.)](?=\s))*\s*")
"""What chats and mails set before a line."""
_KEYWORD = re.compile(r"\+?bridge\s+", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""A transport's name: a C identifier (string_is_C_identifier)."""
_PLACE = re.compile(r"(?:[0-9.]{7,}|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?|[A-Za-z0-9.-]+:[0-9]+")
_FINGERPRINT = re.compile(r"\$?([0-9A-Fa-f]{40})")
_OPTION = re.compile(r"[+/]?(%?[A-Za-z][A-Za-z0-9_]{2,40})(?:\s+|$)")

_OURS = frozenset(("usebridges", "updatebridgesfromauthority"))
"""Said by what we do anyway."""
_ACTS = re.compile(
    r"%include|user|runasdaemon|log|(?:pid|cookieauth)\w*file|(?:data|cache|key)directory|controlport\w*"
    r"|(?:control|socks|dns|trans|natd|httptunnel|or|dir|extor|metrics)(?:port|socket|listenaddress)"
    r"|hiddenservice\w*|clientonionauthdir|bridgerelay|exitrelay|servertransport\w*|extorport\w*"
)
"""Options that would start something, write files or open ports here."""
_NETWORK = frozenset(
    (
        *("dirauthority", "dirserver", "alternatedirauthority", "alternatebridgeauthority"),
        *("fallbackdir", "testingtornetwork"),
    )
)
"""Options that make it another network than Tor's; who names the authorities can play all of its relays."""
_PROXIES = frozenset(("socks4proxy", "socks5proxy", "httpproxy", "httpsproxy", "tcpproxy"))
_CHOICES = frozenset(
    ("entrynodes", "exitnodes", "excludenodes", "excludeexitnodes", "middlenodes", "strictnodes", "geoipexcludeunknown")
)
"""Options that choose the relays behind the bridge."""


_GONE = ("obfs2", "meek", "conjure", "fte", "dnstt", "flashproxy", "dust")
"""Transports of which lines are seen, and of which no client is at hand."""


def parse(text: str, where: str) -> tuple[TorConfig, tuple[Finding, ...]]:
    """The bridges of a text, in its order, and what is left out of it.

    A line that is no sound bridge costs only itself. Raises ConfigError where no bridge is sound, Unsupported where
    none has a transport that anybody speaks, or the text asks for a way to them that we do not go.
    """
    return _Reader(where).read(text)


class _Reader:
    def __init__(self, where: str) -> None:
        self._where = where
        self._bridges: dict[Bridge, None] = {}
        self._findings: list[Finding] = []
        self._fault: ConfigError | None = None
        """The first one: it is the reason where nothing else is left."""
        self._beyond = 0
        self._prose: int | None = None

    def read(self, text: str) -> tuple[TorConfig, tuple[Finding, ...]]:
        for number, raw in syntax.numbered(text, self._where):
            line = _MARGIN.sub("", raw.strip(), count=1).rstrip("`'\",; \t")
            if not line or line.startswith("#"):
                continue
            if keyword := _KEYWORD.match(line):
                # In a torrc a comment may begin anywhere.
                self._bridge(line[keyword.end() :].partition("#")[0], number)
            elif _begins_a_bridge(line):
                self._bridge(re.split(r"\s#", line, maxsplit=1)[0], number)
            elif option := _OPTION.match(line):
                self._option(option[1].lower(), option[1], number)
            else:
                self._prose = self._prose or number
        if not self._bridges:
            raise self._fault or ConfigError("no bridge line", where=self._where)
        if self._beyond:
            self._find(
                "warning", f"only the first {MAX_BRIDGES} bridges are used; {self._beyond} more are left out", None
            )
        if self._prose is not None:
            self._find("note", "lines that are neither a bridge nor an option are left out", self._prose)
        self._findings.sort(key=lambda finding: finding.line or 0)
        return TorConfig(tuple(self._bridges)), tuple(self._findings)

    def _find(self, level: Literal["note", "warning", "danger"], text: str, line: int | None) -> None:
        self._findings.append(Finding(level, text, line))

    def _option(self, name: str, written: str, line: int) -> None:
        if name in _OURS:
            return
        if name in _PROXIES:
            reason = f"`{written}`: bridges that are reached through a proxy are not supported"
            raise Unsupported(reason, where=self._where, line=line)
        if name in _NETWORK:
            reason = f"`{written}` makes this another network than Tor's, run by whoever wrote the config"
            raise Unsupported(reason, where=self._where, line=line)
        if name in ("clienttransportplugin", "servertransportplugin"):
            self._find("danger", f"`{written}` is left out: no program that a config names is run", line)
        elif _ACTS.fullmatch(name):
            self._find("danger", f"`{written}` is left out: it acts on this machine", line)
        elif name in _CHOICES:
            self._find("warning", f"`{written}` is left out: tor chooses the relays behind the bridge by itself", line)
        elif written[1:] != written[1:].lower() and not written.isupper():
            # Tor's options have capitals within; words of a sentence have not. The word stays unsaid: who pastes half a
            # line has a piece of a key there.
            self._find("note", "an option that vpntest does not use is left out", line)
        else:
            self._prose = self._prose or line

    def _bridge(self, line: str, number: int) -> None:
        try:
            bridge = _bridge(line.split())
        except ValueError as exc:
            kind = Unsupported if isinstance(exc, _NoClient) else ConfigError
            self._fault = self._fault or kind(str(exc), where=self._where, line=number)
            self._find("warning", f"this bridge is left out: {exc}", number)
            return
        if bridge in self._bridges:
            self._find("note", "the same bridge as before", number)
        elif len(self._bridges) == MAX_BRIDGES:
            self._beyond += 1
        else:
            self._bridges[bridge] = None
            if bridge.transport is None and bridge.fingerprint is None:
                self._find("danger", "no fingerprint: whoever answers at this address passes for the bridge", number)


_NO_CLIENT = "there is no client for its transport"


class _NoClient(ValueError):
    """A sound line, of a transport that nobody speaks."""


def _begins_a_bridge(line: str) -> bool:
    """Whether a line without the word `Bridge` is one all the same."""
    first, *rest = line.split(maxsplit=2)
    if not rest:
        return False
    if first.lower() in (*TRANSPORTS, *_GONE):
        return bool(_PLACE.fullmatch(rest[0]))
    return bool(_PLACE.fullmatch(first) and _FINGERPRINT.fullmatch(rest[0]))


def _bridge(words: list[str]) -> Bridge:
    """One line without the word `Bridge`. Raises ValueError; :class:`_NoClient` for a transport that nobody speaks."""
    transport = None
    if words and _WORD.fullmatch(words[0]):
        transport, words = words[0].lower(), words[1:]
        if transport not in TRANSPORTS:
            raise _NoClient(f"there is no client for the transport `{transport}`" if transport in _GONE else _NO_CLIENT)
    if not words:
        raise ValueError("it has no address")
    place, rest = _place(words[0]), words[1:]
    fingerprint = None
    if rest and (found := _FINGERPRINT.fullmatch(rest[0])):
        fingerprint, rest = found[1].upper(), rest[1:]
    elif rest and transport is None and re.fullmatch(r"\$?[0-9A-Fa-f]{40}", "".join(rest)):
        # Tor takes a plain bridge's in groups as well.
        fingerprint, rest = "".join(rest)[-40:].upper(), []
    elif rest and (transport is None or "=" not in rest[0]):
        raise ValueError("what follows its address is no fingerprint of 40 hexadecimal digits")
    if rest and transport is None:
        raise ValueError("it has arguments, and no transport that takes them")
    arguments = tuple(_argument(word) for word in rest)
    values = {key: value.reveal() if isinstance(value, Secret) else value for key, value in arguments}
    if len(values) < len(arguments):
        # Clients take the first one; who reads the line sees the last.
        raise ValueError("an argument stands in it twice")
    if sum(len(key) + len(value.encode()) + 2 for key, value in values.items()) > _MAX_ARGUMENTS:
        raise ValueError(f"it has more arguments than tor hands to a transport ({_MAX_ARGUMENTS} bytes)")
    server = _reached(transport, place, values)
    asked = tuple(dict.fromkeys(one for one in _asked(values) if one != server)) if transport in _WAYS else ()
    return Bridge(transport, str(place).removesuffix("/tcp"), fingerprint, arguments, server, asked)


def _place(text: str) -> Server:
    """Where a line says that the bridge is. Raises ValueError."""
    found = re.fullmatch(r"(\[[^][]*\]|[^:]*)(?::([0-9]*))?", text)
    if found is None:
        raise ValueError("its address is not written address:port, with brackets around IPv6")
    host, port = found[1], found[2]
    try:
        address = str(ipaddress.IPv6Address(host[1:-1]) if host.startswith("[") else ipaddress.IPv4Address(host))
    except ValueError:
        raise ValueError("its address is neither IPv4 nor IPv6; tor takes no names there") from None
    return Server(address, syntax.port(port) if port else _DEFAULT_PORT, "tcp")


def _argument(word: str) -> tuple[str, Secret | str]:
    key, equals, value = word.partition("=")
    if not (equals and value and value.isprintable() and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key)):
        raise ValueError("an argument is not written key=value")
    # Lines that were copied out of a web page have `&amp;` for `&`.
    value = value.replace("&amp;", "&")
    return key, value if key in _COMMON else Secret(value)


def _reached(transport: str | None, place: Server, arguments: dict[str, str]) -> Server | None:
    """Where the outer packets go first. Raises ValueError where the transport's client would refuse its arguments."""
    match transport:
        case "obfs4":
            if "cert" in arguments:
                _check_certificate(arguments["cert"])
            elif not {"node-id", "public-key"} <= arguments.keys():
                raise ValueError("obfs4 needs `cert`")
            if arguments.get("iat-mode") not in ("0", "1", "2"):
                raise ValueError("obfs4 needs `iat-mode` of 0, 1 or 2")
        case "webtunnel":
            return _web(arguments.get("addr") or arguments.get("url"), transport)
        case "meek_lite":
            server = _web(arguments.get("url"), transport)
            return Server(_front(arguments["front"]), server.port, "tcp") if "front" in arguments else server
        case "snowflake":
            # It asks a broker for a volunteer: by a front, a cache or a queue, as it can. Lines of old had all that in
            # the client's own options.
            if not {"url", "sqsqueue"} & arguments.keys():
                raise ValueError("snowflake needs `url`, its broker's")
            return None
    return place


_WAYS = frozenset(("webtunnel", "meek_lite", "snowflake"))
"""Transports whose arguments name whom to call."""


def _asked(arguments: dict[str, str]) -> Iterator[Server]:
    """Whom a client calls by its arguments. Raises ValueError where one of them cannot be known."""
    webs = {key: _web(arguments[key], key) for key in ("url", "addr", "ampcache", "sqsqueue") if key in arguments}
    fronts = [one for key in ("front", "fronts") for one in arguments.get(key, "").split(",") if one]
    port = webs["url"].port if "url" in webs else 443
    yield from (Server(_front(one), port, "tcp") for one in fronts)
    # These are called in the place of the others, whose names nobody on the way is to hear of.
    yield from (one for one in webs.values() if not fronts or syntax.is_address(one.host))
    for one in filter(None, arguments.get("ice", "").split(",")):
        found = re.fullmatch(r"(stuns?|turns?):(\[[^][]*\]|[^][:/?#@]*)(?::([0-9]+))?(?:\?transport=\w+)?", one)
        if found is None:
            raise ValueError("its `ice` names no STUN servers, as stun:host:port")
        host = syntax.host(found[2].strip("[]"))
        yield Server(host, syntax.port(found[3]) if found[3] else _STUN_PORT, "udp")


def _front(text: str) -> str:
    """The name of a front. Raises ValueError."""
    try:
        return syntax.host(text)
    except ValueError:
        raise ValueError("a front is none of a host") from None


def _check_certificate(text: str) -> None:
    try:
        raw = base64.b64decode(text.rstrip("=") + "==", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _CERTIFICATE_BYTES:
        raise ValueError("its `cert` is not that of an obfs4 bridge; it may have been cut off")


def _web(text: str | None, transport: str) -> Server:
    """The server of a URL, or of `host:port`. Raises ValueError."""
    if not text:
        raise ValueError(f"{transport} needs `url`")
    parts = urlsplit(text if "://" in text else f"https://{text}")
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("its `url` is none of a web server")
    default = 443 if parts.scheme == "https" else 80
    return Server(syntax.host(parts.hostname), parts.port or default, "tcp")
