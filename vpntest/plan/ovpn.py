"""Reads OpenVPN's .ovpn through an allow-list.

Sans-I/O: text in, meaning out; files that the config names are asked for through a callable, which decides what may be
read. Of such a file only the blocks of the kind asked for are taken, and a file of logins is never read: in a folder of
many configs a stranger's would name a neighbour's, and get its first lines as user name and password.

The result holds only directives that are on the list of :mod:`vpntest.plan.ovpn_words`, to be written out anew; the
stranger's file itself never reaches openvpn, because some of its directives run code as root whatever the options
around them. What no OpenVPN knows is an error.

Lexing as OpenVPN 2.6 does it (src/openvpn/options.c, parse_line; options_parse.c in 2.7): words are parted by blanks,
`"…"` knows backslashes, `'…'` knows nothing, and `#` or `;` begins a comment where a word could begin.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from vpntest.errors import ConfigError
from vpntest.plan import ovpn_words as vocabulary
from vpntest.plan import syntax
from vpntest.plan.model import Finding, OpenVpnConfig, Server
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Refused, Unsupported

T = TypeVar("T")
MAX_CONNECTIONS = 64
"""Servers of one config that OpenVPN takes (CONNECTION_LIST_SIZE, src/openvpn/options.h)."""
MAX_MATERIALS = 64
"""Directives of one config that name a file: each is read. A handful is what keys and certificates need."""
ReadFile = Callable[[str], bytes]
"""Content of a file that the config names. Raises OSError, or ValueError with a reason where it must not be read."""
Lines = Iterator[tuple[int, str]]
"""Lines with their one-based numbers."""

ASKS_LOGIN = "the server asks for a user name and a password"
LOGIN_HINT = "set `username` and `password` in the plan's [[tunnel]]"
_PKCS12 = re.compile(rb"\x30(?:\x80|\x81.|\x82..|\x83...|[\x00-\x7f])\x02\x01\x03", re.DOTALL)
"""How a PKCS #12 begins (RFC 7292): a sequence whose first element is the version 3."""
_FINGERPRINTS = frozenset({"peer-fingerprint", "verify-hash"})
"""Inline blocks that are handed on beside those of :data:`vocabulary.MATERIAL`."""
_DHCP = frozenset({"DNS", "DNS6", "DOMAIN", "DOMAIN-SEARCH"})
"""Options of `dhcp-option` that a tunnel uses; the others are for Windows."""
_PROTO: dict[str, Literal["udp", "tcp"]] = {
    **dict.fromkeys(("udp", "udp4", "udp6"), "udp"),
    **dict.fromkeys(("tcp", "tcp4", "tcp6", "tcp-client", "tcp4-client", "tcp6-client"), "tcp"),
}
_DEFAULT_PORT = 1194
_CHECKS_THE_SERVER = frozenset(
    "remote-cert-tls remote-cert-ku remote-cert-eku ns-cert-type verify-x509-name verify-hash peer-fingerprint".split()
)
"""What tells a server's certificate from a client's of the same authority."""
_LABEL = re.compile(
    r"""^[ \t]*(?:[#;][ \t]*OVPN_ACCESS_SERVER_FRIENDLY_NAME=|setenv[ \t]+FRIENDLY_NAME[ \t]+)(.{1,200})$""",
    re.MULTILINE,
)


# ── lexing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def words(line: str) -> list[str]:
    """The words of one line; empty for a comment. Raises ValueError where OpenVPN refuses the line."""
    found: list[str] = []
    word: list[str] | None = None
    quote = ""
    backslash = False
    for char in line + " ":  # the last blank ends a bare word
        if char == "\\" and quote != "'" and not backslash:
            backslash = True
            continue
        blank = char in " \t"
        if backslash and not (blank or char in '\\"' or (word is None and char in "#;")):
            raise ValueError('a backslash may only stand before a blank, a " or another backslash')
        if word is None:
            if not blank:
                if char in "#;":
                    return found
                quote = char if not backslash and char in "\"'" else ""
                word = [] if quote else [char]
        elif not backslash and (char == quote if quote else blank):
            found.append("".join(word))
            word = None
            quote = ""
        else:
            word.append(char)
        backslash = False
    if word is not None or backslash:
        raise ValueError("a quotation is not closed" if quote else "a backslash at the end of the line")
    return found


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Remote:
    line: int
    host: str
    port: int | None
    transport: Literal["udp", "tcp"] | None
    tuning: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What its <connection> says for itself alone, after what the file had said before it."""
    patience: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What it says besides, and that changes nothing of what is spoken."""
    inline: dict[str, Secret] = field(default_factory=dict)


@dataclass
class _Reading:
    where: str
    read_file: ReadFile
    findings: list[Finding] = field(default_factory=list)
    directives: list[tuple[str, ...]] = field(default_factory=list)
    inline: dict[str, Secret] = field(default_factory=dict)
    remotes: list[_Remote] = field(default_factory=list)
    connections: list[_Remote] = field(default_factory=list)
    port: int = _DEFAULT_PORT
    transport: Literal["udp", "tcp"] = "udp"
    forced: Literal["udp", "tcp"] | None = None
    login: tuple[Secret, Secret] | None = None
    asks_login: int | None = None
    login_file: int | None = None
    """Where a file of user name and password is named."""
    device: dict[str, tuple[int, str]] = field(default_factory=dict)
    """What `dev` and `dev-type` say, and where."""
    awaited: dict[str, int] = field(default_factory=dict)
    """Where `[inline]` stands in place of a file."""
    missing: dict[str, ConfigError] = field(default_factory=dict)
    """Files that could not be had. A block that comes later takes their place, as OpenVPN does it."""
    tolerated: set[str] = field(default_factory=set)
    """Names that `ignore-unknown-option` holds."""
    tolerant: bool = False
    """Whether all that is unknown is passed over: `setenv FORWARD_COMPATIBLE 1`."""
    keysize: tuple[int, str] | None = None
    """Where `keysize` stands, and what it says."""
    profile: bool = False
    """Whether this is a <connection>."""
    lines: dict[str, int] = field(default_factory=dict)
    """Where each directive stood last."""
    materials: int = 0
    """Directives that name a file, so far."""

    def broken(self, reason: str, line: int | None = None, hint: str = "") -> ConfigError:
        return ConfigError(reason, where=self.where, line=line, hint=hint)

    def unsupported(self, reason: str, line: int | None, hint: str = "") -> Unsupported:
        return Unsupported(reason, where=self.where, line=line, hint=hint)

    def note(self, line: int, text: str, level: vocabulary.Level = "note") -> None:
        self.findings.append(Finding(level, text, line))

    def sorted_findings(self) -> tuple[Finding, ...]:
        return tuple(sorted(self.findings, key=lambda finding: finding.line or 0))


def parse(
    text: str, where: str, read_file: ReadFile, *, username: Secret | None = None, password: Secret | None = None
) -> tuple[OpenVpnConfig, tuple[Finding, ...]]:
    """The config's meaning, and one finding for each directive that is left out or weak.

    `username` and `password` come from the plan and win over the config's own. Raises ConfigError for a broken config,
    its subclass Unsupported for one that needs what vpntest does not carry, Refused for one that would load code.
    No message quotes a value, and an error carries the findings up to it. Where the server asks for a user name and a
    password that nobody has said, the config `asks_login`.
    """
    given = (username, password) if username is not None and password is not None else None
    reading = _Reading(where, read_file, login=given)
    try:
        for line, directive, block in _statements(_lines(text, where), where):
            if block is None:
                _directive(reading, line, directive)
            else:
                _block(reading, line, directive[0], block)
        servers = _servers(reading)
        _check(reading, servers)
    except ConfigError as fault:
        fault.findings = reading.sorted_findings()
        raise
    name, secret = (reading.login or (None, None)) if reading.asks_login else (None, None)
    if given and not reading.asks_login:
        text = "the plan's user name and password are ignored: no `auth-user-pass` asks for them"
        reading.findings.append(Finding("warning", text))
    config = OpenVpnConfig(
        servers=servers,
        directives=tuple(reading.directives),
        inline=tuple(reading.inline.items()),
        username=name,
        password=secret,
        asks_login=reading.asks_login is not None and reading.login is None,
    )
    return config, reading.sorted_findings()


def label(text: str) -> str:
    """What the config calls itself, for people; empty where it does not say. It may hold any printable text."""
    found = _LABEL.search(text)
    return syntax.printable(found[1].strip().strip("\"'")) if found else ""


def _lines(text: str, where: str) -> Lines:
    if "\x00" in text:
        raise ConfigError(
            "a control character in the text", where=where, line=text.count("\n", 0, text.index("\x00")) + 1
        )
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        yield number, line.removesuffix("\r")


def _statements(lines: Lines, where: str) -> Iterator[tuple[int, list[str], list[tuple[int, str]] | None]]:
    """Each directive with its line, its words and, for an inline block, the block's own lines.

    In a comment and around a block's keys anything may stand: Latin-1, form feeds, lines without end.
    """
    for number, line in lines:
        if line.lstrip(" \t")[:1] in ("", "#", ";"):
            continue
        if len(line) > vocabulary.MAX_LINE or len(line.encode("utf-8", "replace")) > vocabulary.MAX_LINE:
            raise ConfigError("the line is longer than OpenVPN takes", where=where, line=number)
        try:
            found = words(line)
        except ValueError as fault:
            raise ConfigError(str(fault), where=where, line=number) from None
        if not found:
            continue
        if not all(map(syntax.is_plain, found)):
            raise ConfigError("a control character in the text", where=where, line=number)
        del found[vocabulary.MAX_WORDS :]  # as OpenVPN does it
        if len(found[0]) > 2:
            found[0] = found[0].removeprefix("--")
        tag = found[0]
        if len(found) > 1 or not (tag.startswith("<") and tag.endswith(">") and len(tag) > 2):
            yield number, found, None
            continue
        block: list[tuple[int, str]] = []
        for inner_number, inner in lines:
            if inner.lstrip().startswith(f"</{tag[1:]}"):
                break
            block.append((inner_number, inner))
        else:
            raise ConfigError("an inline block that is never closed", where=where, line=number)
        yield number, [tag[1:-1]], block


def _directive(reading: _Reading, line: int, directive: list[str], *, optional: bool = False) -> None:
    """One directive. `optional`: OpenVPN passes over it where it does not know it."""
    name, *arguments = directive
    if name == "setenv" and arguments[:1] == ["opt"]:
        if len(arguments) > 1:
            _directive(reading, line, arguments[1:], optional=True)
        return
    optional = optional or reading.tolerant or name in reading.tolerated
    if reading.profile and name in vocabulary.VOCABULARY and name not in _IN_PROFILE:
        raise reading.broken(f"`{name}` may not stand inside <connection>", line)
    if name in vocabulary.UNSUPPORTED and not (optional and name in ("scramble", "obfs")):
        raise reading.unsupported(f"`{name}` is not supported: {vocabulary.UNSUPPORTED[name]}", line)
    if name == "keysize" and len(arguments) == 1:
        reading.keysize = line, arguments[0]
        return
    if name in vocabulary.REMOVED and not optional and (name, arguments) != ("key-method", ["2"]):
        raise reading.unsupported(f"`{name}` is not supported: {vocabulary.REMOVED[name]}", line)
    if name in vocabulary.REFUSED and not (
        name == "providers" and arguments and vocabulary.OWN_PROVIDERS.issuperset(arguments)
    ):
        raise Refused(f"`{name}` is refused: {vocabulary.REFUSED[name]}", where=reading.where, line=line)
    reading.lines[name] = line
    if name in vocabulary.MATERIAL:
        _material(reading, line, name, arguments)
    elif name in vocabulary.OWN:
        _own(reading, line, name, arguments)
    elif name in vocabulary.HANDED_ON:
        if fault := _fault(name, arguments):
            if not optional:
                raise reading.broken(fault, line)
            reading.note(line, f"{fault}: it is ignored, as the config allows", "warning")
            return
        reading.directives.append((name, *arguments))
    elif name == "providers":
        reading.directives.append((name, *arguments))
    elif name in vocabulary.LEFT_OUT:
        level, reason = vocabulary.LEFT_OUT[name]
        reading.note(line, f"`{name}` is ignored: {reason}", level)
    elif name in vocabulary.REMOVED:
        reading.note(line, f"`{name}` is ignored: current OpenVPN does not know it and does so anyway")
    elif name in vocabulary.UNSUPPORTED:
        reading.note(line, f"`{name}` is ignored, as the config allows: {vocabulary.UNSUPPORTED[name]}", "warning")
    elif optional:
        reading.note(line, "a directive is ignored that OpenVPN does not know, as the config allows")
    else:
        # Not repeated in the message: a stray line of a key or a password reads as a directive.
        close = difflib.get_close_matches(name[:40], vocabulary.VOCABULARY, n=1, cutoff=0.8)
        raise reading.broken("unknown directive", line, f"did you mean `{close[0]}`?" if close else "")


def _fault(name: str, arguments: list[str]) -> str:
    """What OpenVPN would refuse in a directive that is handed on; empty where it takes it."""
    least, most = vocabulary.HANDED_ON[name]
    if not least <= len(arguments) <= most:
        return f"`{name}` has {'less' if len(arguments) < least else 'more'} words than it takes"
    allowed = vocabulary.VALUES.get(name, "").split()
    if arguments and allowed and arguments[0] not in allowed:
        return f"`{name}` is none of {', '.join(allowed)}"
    if name == "compat-mode" and not re.fullmatch(r"\d{1,3}(\.\d{1,3}){1,2}", arguments[0]):
        return "`compat-mode` names no version"
    if name == "verify-x509-name" and arguments[1:] not in ([], ["subject"], ["name"], ["name-prefix"]):
        return "the second word of `verify-x509-name` is none of subject, name, name-prefix"
    return ""


_IN_PROFILE = vocabulary.PROFILE | vocabulary.PROFILE_PATIENCE | vocabulary.PROFILE_OTHERS


def _own(reading: _Reading, line: int, name: str, arguments: list[str]) -> None:
    if name == "auth-user-pass":
        reading.asks_login = line
        if arguments and arguments[0] != "[inline]":
            reading.login_file = line
        return
    if not arguments:
        raise reading.broken(f"`{name}` without its argument", line)
    match name:
        case "remote":
            reading.remotes.append(_remote(reading, line, arguments))
        case "proto":
            reading.transport = _transport(reading, line, arguments[0])
        case "proto-force":
            reading.forced = _transport(reading, line, arguments[0])
        case "port" | "rport":
            reading.port = _value(reading, line, name, syntax.port, arguments[0])
        case "dev" | "dev-type":
            reading.device[name] = line, arguments[0]
        case "ignore-unknown-option":
            reading.tolerated.update(arguments)
        case "dhcp-option" if arguments[0].upper() in _DHCP:
            reading.directives.append((name, *arguments))
        case "dhcp-option":
            reading.note(line, "`dhcp-option` is ignored where it is for Windows only")
        case "setenv" | "setenv-safe":
            _environment(reading, line, name, arguments)
        case "user" | "group":
            nobody = arguments[0] in vocabulary.NOBODIES
            reason = "whose rights OpenVPN has on this machine is set by vpntest"
            reading.note(line, f"`{name}` is ignored: {reason}", "note" if nobody else "danger")
        case _:
            raise reading.broken(f"`{name}` is not a directive but a block: <{name}>", line)


def _environment(reading: _Reading, line: int, name: str, arguments: list[str]) -> None:
    variable = arguments[0]
    if name == "setenv" and variable == "GENERIC_CONFIG":
        raise reading.broken("a pattern of a config, which its server says cannot be used by itself", line)
    if name == "setenv" and arguments[:2] == ["FORWARD_COMPATIBLE", "1"]:
        reading.tolerant = True
    # `setenv-safe` puts OPENVPN_ before the name, so that no program takes it for its own.
    if name == "setenv-safe" or variable in vocabulary.HARMLESS_VARIABLES or variable.startswith(("UV_", "IV_")):
        reading.note(line, f"`{name}` is ignored: it is for clients with windows, or for the server's records")
    else:
        reading.note(
            line, f"`{name}` is ignored: it would have set the environment of programs on this machine", "danger"
        )


def _material(reading: _Reading, line: int, name: str, arguments: list[str]) -> None:
    reading.materials += 1
    if reading.materials > MAX_MATERIALS:
        raise reading.broken(f"more than {MAX_MATERIALS} directives that name a file", line)
    if not arguments:
        raise reading.broken(f"`{name}` without its file", line)
    if len(arguments) > 1:
        if name == "crl-verify":
            raise reading.unsupported("`crl-verify` with a folder is not supported", line)
        if name == "tls-auth":
            if arguments[1] not in ("0", "1"):
                raise reading.broken("`tls-auth` has a direction that is neither 0 nor 1", line)
            reading.directives.append(("key-direction", arguments[1]))
    if arguments[0] == "[inline]":
        reading.awaited[name] = line
        return
    try:
        data = _file(reading, line, name, arguments[0])
    except ConfigError as fault:
        reading.missing[name] = fault
        return
    reading.missing.pop(name, None)
    if name == "pkcs12":
        if not _PKCS12.match(data):
            raise reading.broken("the file of `pkcs12` is not PKCS #12", line)
        reading.inline[name] = Secret(base64.encodebytes(data).decode())
    else:
        # Comments may be in any encoding; what is taken is ASCII.
        _keep(reading, line, name, data.decode("latin-1"), f"the file of `{name}`")


def _block(reading: _Reading, line: int, name: str, block: list[tuple[int, str]]) -> None:
    text = "".join(f"{part}\n" for _, part in block)
    if reading.profile and name in vocabulary.VOCABULARY and name not in _IN_PROFILE:
        raise reading.broken(f"<{name}> may not stand inside <connection>", line)
    if name == "connection":
        _connection(reading, line, block)
    elif name == "auth-user-pass":
        reading.asks_login = line
        if reading.login is None:
            reading.login = _login([part for _, part in block])
    elif name in vocabulary.MATERIAL or name in _FINGERPRINTS:
        reading.lines[name] = line
        _keep(reading, line, name, text, f"<{name}>")
        if reading.missing.pop(name, None):
            reading.note(line, f"<{name}> takes the place of a file that `{name}` has named and that is not there")
    elif name in vocabulary.UNSUPPORTED:
        raise reading.unsupported(f"<{name}> is not supported: {vocabulary.UNSUPPORTED[name]}", line)
    elif name in vocabulary.LEFT_OUT:
        level, reason = vocabulary.LEFT_OUT[name]
        reading.note(line, f"<{name}> is ignored: {reason}", level)
    elif reading.tolerant or name in reading.tolerated:
        reading.note(line, "an inline block is ignored that OpenVPN does not know, as the config allows")
    else:
        raise reading.broken("an inline block of a name that OpenVPN does not have", line)


def _keep(reading: _Reading, line: int, name: str, text: str, shown: str) -> None:
    """Keeps of a text what the directive is for, and nothing else that stands around it."""
    if not text.strip():
        raise reading.broken(f"{shown} is empty", line)
    lines = [part.strip() for part in text.split("\n")]
    kinds = vocabulary.MATERIAL.get(name)
    if kinds:
        blocks = re.findall(
            rf"^-----BEGIN ({kinds})-----$((?:[^-]|-(?!----))*)^-----END \1-----$", "\n".join(lines), re.MULTILINE
        )
        if not blocks:
            raise reading.broken(f"{shown} holds nothing of the kind", line)
        text = "".join(f"-----BEGIN {kind}-----{body}-----END {kind}-----\n" for kind, body in blocks)
        if name == "key" and "ENCRYPTED" in text:
            raise reading.unsupported("the private key has a passphrase; take it off with `openssl pkey`", line)
        lines = text.split("\n")
    # A closing tag in a file would end the block when it is written out, and what follows would be directives.
    if not all(part.isascii() and syntax.is_plain(part) and not part.startswith("</") for part in lines):
        raise reading.broken(f"{shown} holds what no key file holds", line)
    reading.inline[name] = Secret("\n".join(lines))


def _connection(reading: _Reading, line: int, block: list[tuple[int, str]]) -> None:
    """One <connection>: a server with options of its own. It begins with what the file has said before it."""
    if len(reading.connections) == MAX_CONNECTIONS:
        raise reading.broken(f"more than {MAX_CONNECTIONS} <connection> blocks", line)
    inner = _Reading(
        reading.where,
        reading.read_file,
        findings=reading.findings,
        port=reading.port,
        transport=reading.transport,
        tolerated=reading.tolerated,
        tolerant=reading.tolerant,
        profile=True,
        lines=reading.lines,
        materials=reading.materials,
        directives=[directive for directive in reading.directives if directive[0] in vocabulary.PROFILE],
    )
    for number, directive, nested in _statements(iter(block), reading.where):
        if nested is None:
            _directive(inner, number, directive)
        else:
            _block(inner, number, directive[0], nested)
    reading.materials = inner.materials
    if not inner.remotes:
        raise reading.broken("a <connection> without its `remote`", line)
    _await_blocks(inner)
    *passed, remote = inner.remotes
    for other in passed:
        reading.note(other.line, "`remote` is ignored: of those in one <connection> the last one counts", "warning")
    remote.line = line
    remote.port = remote.port or inner.port
    remote.transport = remote.transport or inner.transport
    remote.tuning = {name: (name, *rest) for name, *rest in inner.directives if name in vocabulary.PROFILE}
    remote.patience = {name: (name, *rest) for name, *rest in inner.directives if name not in vocabulary.PROFILE}
    remote.inline = inner.inline
    reading.connections.append(remote)


def _remote(reading: _Reading, line: int, arguments: list[str]) -> _Remote:
    host = arguments[0]
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return _Remote(
        line=line,
        host=_value(reading, line, "remote", syntax.host, host),
        port=_value(reading, line, "remote", syntax.port, arguments[1]) if len(arguments) > 1 else None,
        transport=_transport(reading, line, arguments[2]) if len(arguments) > 2 else None,
    )


def _transport(reading: _Reading, line: int, text: str) -> Literal["udp", "tcp"]:
    transport = _PROTO.get(text.lower())
    if text in ("tcp-server", "tcp4-server", "tcp6-server"):
        raise reading.unsupported("a server's protocol is not supported: here the client calls", line)
    if transport is None:
        raise reading.broken("the protocol is neither udp nor tcp", line)
    if "6" in text:
        reading.note(line, "the protocol asks for IPv6 only: where a name has IPv4 as well, both are tried", "warning")
    return transport


def _login(lines: list[str]) -> tuple[Secret, Secret] | None:
    """The block's user name and password; None where it holds less, for which a client would ask."""
    return (Secret(lines[0]), Secret(lines[1])) if len(lines) > 1 and lines[0] and lines[1] else None


def _file(reading: _Reading, line: int, name: str, path: str) -> bytes:
    """The file that a directive names. Packs are made for one place on a disk, such as /etc/openvpn: where there is
    nothing to be read, the file of the same name beside the config is meant.
    """
    beside = re.split(r"[/\\]", path)[-1]
    try:
        return reading.read_file(path)
    except (OSError, ValueError) as fault:
        if beside not in ("", path):
            with contextlib.suppress(OSError, ValueError):
                data = reading.read_file(beside)
                reading.note(
                    line, f"`{name}` names a file elsewhere: the one of its name beside the config is read", "warning"
                )
                return data
        if isinstance(fault, OSError):
            reason = (fault.strerror or "error").lower()
            raise reading.broken(f"the file of `{name}` cannot be read: {reason}", line) from None
        raise reading.broken(f"the file of `{name}` is not read: {fault}", line) from None


def _value(reading: _Reading, line: int, name: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as fault:
        raise reading.broken(f"`{name}`: {fault}", line) from None


def _await_blocks(reading: _Reading) -> None:
    for fault in reading.missing.values():
        raise fault
    for name, line in reading.awaited.items():
        if name not in reading.inline:
            raise reading.broken(f"`{name} [inline]` without its <{name}> block", line)


def _servers(reading: _Reading) -> tuple[Server, ...]:
    """The servers in file order. A <connection> takes the place of every `remote` outside one, as in OpenVPN."""
    if reading.connections:
        if reading.remotes:
            reading.note(reading.remotes[0].line, "`remote` is ignored: the config has <connection> blocks")
        first, *others = reading.connections
        for other in others:
            if (other.tuning, other.inline) != (first.tuning, first.inline):
                raise reading.unsupported("<connection> blocks that differ in more than their servers", other.line)
        reading.directives = [said for said in reading.directives if said[0] not in vocabulary.PROFILE]
        reading.directives += first.tuning.values()
        reading.directives += {
            name: words for each in reading.connections for name, words in each.patience.items()
        }.values()
        reading.inline |= first.inline
    found = dict.fromkeys(
        Server(host=remote.host, port=remote.port or reading.port, transport=remote.transport or reading.transport)
        for remote in reading.connections or reading.remotes
    )
    servers = tuple(server for server in found if reading.forced in (None, server.transport))
    if found and not servers:
        raise reading.broken("`proto-force` leaves no `remote`")
    return servers


def _check(reading: _Reading, servers: tuple[Server, ...]) -> None:
    """What only the whole file tells."""
    names = {directive[0] for directive in reading.directives}
    held = reading.inline.keys() | names
    line, device = reading.device.get("dev-type") or reading.device.get("dev") or (0, "tun")
    if not device.startswith("tun"):
        raise reading.unsupported("only tun devices are supported", line)
    _await_blocks(reading)
    if not names & {"client", "tls-client"}:
        raise reading.broken("neither `client` nor `tls-client`: not a client's config")
    if not servers:
        raise reading.broken("no `remote`")
    if not held & {"ca", "pkcs12", "peer-fingerprint"}:
        raise reading.broken("no <ca>, so the server could not be told from an impostor")
    if ("cert" in held) != ("key" in held):
        raise reading.broken("a certificate without its key, or a key without its certificate")
    if {"link-mtu", "tun-mtu"} <= names:
        raise reading.broken("`link-mtu` and `tun-mtu` cannot stand together", reading.lines["link-mtu"])
    for name in ("fragment", "mtu-test"):
        if name in names and any(server.transport == "tcp" for server in servers):
            raise reading.broken(f"`{name}` goes with UDP only, and a server is named by TCP", reading.lines[name])
    _check_login(reading, held)
    _check_ciphers(reading)
    if not held & _CHECKS_THE_SERVER:
        text = "nothing such as `remote-cert-tls server` is asked of the server: a client's certificate would do for it"
        reading.findings.append(Finding("warning", text))


def _check_login(reading: _Reading, held: set[str]) -> None:
    if reading.asks_login is None:
        if not held & {"cert", "pkcs12"}:
            raise reading.broken("neither a certificate nor `auth-user-pass`: nothing tells the server who we are")
        return
    if reading.login is None:
        file = "" if reading.login_file is None else " (a file with them is never read)"
        reading.note(reading.asks_login, f"{ASKS_LOGIN}{file}: {LOGIN_HINT}", "warning")
    reading.directives.append(("auth-user-pass",))


def _check_encryption(reading: _Reading, chosen: dict[str, list[str]]) -> None:
    """Tells where packets may go out that anybody can read or change: `none` is a word for a cipher and a digest.

    An AEAD cipher protects against change by itself; the others need the digest of `auth`.
    """
    words = {
        name: [cipher.lstrip("?") for cipher in chosen[name][0].upper().split(":")]
        for name in ("cipher", "data-ciphers", "ncp-ciphers", "data-ciphers-fallback")
        if name in chosen
    }
    for name, ciphers in words.items():
        if "NONE" in ciphers:
            reason = "what goes through the tunnel may be open to everybody on the way"
            reading.note(reading.lines[name], f"`{name}` has none for a cipher: {reason}", "danger")
    guarded = all(cipher.endswith(("-GCM", "POLY1305")) for ciphers in words.values() for cipher in ciphers)
    if chosen.get("auth", [""])[0].upper() == "NONE" and not (guarded and "compat-mode" not in chosen):
        reason = "what goes through the tunnel may be changed on the way"
        reading.note(reading.lines["auth"], f"`auth` is none, with a cipher that needs it: {reason}", "danger")


def _check_ciphers(reading: _Reading) -> None:
    chosen = {name: arguments for name, *arguments in reading.directives}
    _check_encryption(reading, chosen)
    legacy = "legacy" in chosen.get("providers", ())
    for name in ("data-ciphers", "ncp-ciphers"):
        for cipher in chosen[name][0].upper().split(":") if name in chosen else ():
            if cipher.startswith(vocabulary.LEGACY_CIPHERS) and not cipher.startswith("DES-EDE3") and not legacy:
                reason = "a cipher that OpenSSL 3 has given up is not supported"
                hint = "`providers legacy default` would bring it back"
                raise reading.unsupported(f"`{name}`: {reason}", reading.lines[name], hint)
            if cipher == "DEFAULT":
                reason = "the word DEFAULT is of OpenVPN 2.7, and means other ciphers in each version"
                raise reading.unsupported(f"`{name}`: {reason}", reading.lines[name])
    if reading.keysize:
        line, size = reading.keysize
        cipher = chosen.get("cipher", ["BF-CBC"])[0].upper()
        if size != ("128" if cipher == "BF-CBC" else next(iter(re.findall(r"(?<=-)\d{3}(?=-)", cipher)), "")):
            raise reading.unsupported(f"`keysize` is not supported: {vocabulary.REMOVED['keysize']}", line)
        reading.note(line, "`keysize` is ignored: it says the length that the cipher's key has anyway")
    # For a server before 2.4 it offers Blowfish.
    before = "compat-mode" in chosen and [int(part) for part in chosen["compat-mode"][0].split(".")] < [2, 4]
    if before and not legacy and not chosen.keys() & {"data-ciphers", "ncp-ciphers"}:
        reason = "`compat-mode` of a version before 2.4 is not supported: its cipher is one that OpenSSL 3 has given up"
        raise reading.unsupported(reason, reading.lines["compat-mode"])
    if "cipher" in chosen:
        cipher = chosen["cipher"][0].upper()
        if cipher.startswith(vocabulary.LEGACY_CIPHERS) and not cipher.startswith("DES-EDE3"):
            reason = "a server that negotiates no other one is not reached by current OpenVPN"
            reading.note(reading.lines["cipher"], f"`cipher` is an old one: {reason}", "warning")
    if "no-replay" in chosen:
        reading.note(
            reading.lines["no-replay"], "`no-replay` switches the protection against replayed packets off", "warning"
        )
