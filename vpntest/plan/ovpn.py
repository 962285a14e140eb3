"""Reads OpenVPN's .ovpn through an allow-list.

Sans-I/O: text in, meaning out; files that the config names are asked for through a callable, which decides what may be
read. Of such a file only the blocks of the kind asked for are taken, and a file of logins is never read: in a folder of
many configs a stranger's would name a neighbour's, and get its first lines as user name and password.

The result holds only directives that this module names, to be written out anew; the stranger's file itself never
reaches openvpn, because some of its directives run code as root whatever the options around them.

Four fates: allowed · moot, because a tunnel in its own namespace does it anyway · ignored with a warning, because it
acts on the host only · unsupported, because without it another protocol would be spoken. Anything else is an error.

Lexing as OpenVPN 2.6 does it (src/openvpn/options.c, parse_line; options_parse.c in 2.7): words are parted by blanks,
`"…"` knows backslashes, `'…'` knows nothing, and `#` or `;` begins a comment where a word could begin.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from vpntest.errors import ConfigError
from vpntest.plan import syntax
from vpntest.plan.model import Finding, OpenVpnConfig, Server
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

T = TypeVar("T")
ReadFile = Callable[[str], bytes]
"""Content of a file that the config names. Raises OSError, or ValueError with a reason where it must not be read."""

MAX_LINE = 254
"""Bytes of a line that OpenVPN takes (OPTION_LINE_SIZE, less line feed and end mark); inline blocks have no limit."""
MAX_WORDS = 16
"""Words of a directive that OpenVPN takes (MAX_PARMS)."""

_ALLOWED = frozenset(
    """
    client tls-client pull nobind float fast-io
    resolv-retry connect-retry connect-retry-max connect-timeout server-poll-timeout explicit-exit-notify
    persist-key persist-tun remote-cert-tls remote-cert-ku remote-cert-eku ns-cert-type verify-x509-name verify-hash
    peer-fingerprint x509-username-field
    cipher data-ciphers data-ciphers-fallback ncp-ciphers auth tls-cipher tls-ciphersuites tls-groups
    ecdh-curve tls-version-min tls-version-max tls-cert-profile key-direction tls-timeout tls-exit
    compress comp-lzo comp-noadapt allow-compression
    reneg-sec reneg-bytes reneg-pkts hand-window tran-window replay-window mute-replay-warnings
    tun-mtu tun-mtu-extra tun-mtu-max link-mtu mssfix mtu-disc mtu-test fragment sndbuf rcvbuf txqueuelen tcp-nodelay
    socket-flags passtos topology ifconfig ifconfig-ipv6
    keepalive ping ping-restart ping-exit ping-timer-rem inactive session-timeout
    auth-nocache pull-filter disable-occ opt-verify
    allow-recursive-routing persist-local-ip persist-remote-ip
    """.split()
)
"""Written out anew as they are."""

_MOOT = frozenset(
    """
    redirect-gateway redirect-private route-nopull route-noexec ifconfig-noexec ifconfig-nowarn route-metric
    route-delay route-gateway route-ipv6-gateway route-method block-outside-dns block-ipv6 register-dns win-sys
    tap-sleep ip-win32 dhcp-renew dhcp-release pause-exit service show-net-up tun-ipv6 script-security bind-dev lport
    bind disable-dco windows-driver max-routes key-method auth-retry verb mute suppress-timestamps
    keying-material-exporter
    """.split()
)
"""Without effect or already so: every packet of the tunnel's namespace goes through the tunnel, ports are free ones,
and how much openvpn writes is ours to say (its wordiest logs hold keys)."""

_HOST = frozenset(
    """
    up down up-delay up-restart down-pre route-up route-pre-down ipchange iproute tls-verify auth-user-pass-verify
    client-connect client-disconnect client-crresponse learn-address dns-updown tls-crypt-v2-verify plugin
    log log-append status status-version writepid replay-persist ifconfig-pool-persist tls-export-cert tmp-dir genkey
    auth-gen-token auth-gen-token-secret setenv setenv-safe user group chroot cd setcon daemon syslog
    machine-readable-output nice mlock mktun rmtun dev-node errors-to-stderr echo parameter
    management management-client management-client-auth management-client-group management-client-pf
    management-client-user management-external-cert management-external-key management-forget-disconnect management-hold
    management-log-cache management-query-passwords management-query-proxy management-query-remote management-signal
    management-up-down remap-usr1 route route-ipv6 local mark lladdr multihome
    dns remote-random remote-random-hostname shaper gremlin memstats
    """.split()
)
"""Act on this host, or choose among servers and routes; what is spoken with a server stays the same without them."""

_UNSUPPORTED = {
    "http-proxy": "an HTTP proxy before the server",
    "http-proxy-option": "an HTTP proxy before the server",
    "http-proxy-user-pass": "an HTTP proxy before the server",
    "http-proxy-retry": "an HTTP proxy before the server",
    "http-proxy-timeout": "an HTTP proxy before the server",
    "socks-proxy": "a SOCKS proxy before the server",
    "socks-proxy-retry": "a SOCKS proxy before the server",
    "secret": "a static key; current OpenVPN has no such mode",
    "scramble": "the XOR patch, which the OpenVPN of Debian and Ubuntu does not have",
    "obfs": "an obfuscation patch, which the OpenVPN of Debian and Ubuntu does not have",
    "static-challenge": "an answer typed in at each connection",
    "askpass": "a private key with a passphrase",
    "auth-user-pass-optional": "a server's directive",
    "pkcs11-id": "a smart card",
    "pkcs11-providers": "a smart card",
    "pkcs11-id-management": "a smart card",
    "pkcs11-private-mode": "a smart card",
    "pkcs11-protected-authentication": "a smart card",
    "pkcs11-cert-private": "a smart card",
    "pkcs11-pin-cache": "a smart card",
    "cryptoapicert": "a certificate in the store of Windows",
    "engine": "a cryptographic module loaded into the client",
    "providers": "a cryptographic module loaded into the client",
    "capath": "a folder of authorities; put them into <ca>",
    "config": "another file read into this one; put its lines here",
    "client-nat": "address translation inside the client",
    "no-replay": "replay protection switched off",
    "no-iv": "a weakened cipher",
    "ncp-disable": "the negotiation of the cipher switched off; current OpenVPN has no such mode",
    "keysize": "a weakened cipher",
    "prng": "a random generator of its own",
    "server": "a server's directive",
    "server-ipv6": "a server's directive",
    "server-bridge": "a server's directive",
    "tls-server": "a server's directive",
    "mode": "a server's directive",
    "push": "a server's directive",
    "client-config-dir": "a server's directive",
    "dh": "a server's directive",
    "ifconfig-pool": "a server's directive",
    "client-to-client": "a server's directive",
    "port-share": "a server's directive",
}
"""What the tunnel would not be itself without, and that is not carried."""

_STATIC_KEY = "OpenVPN Static key V1"
_MATERIAL = {
    "ca": "(?:X509 |TRUSTED )?CERTIFICATE",
    "cert": "(?:X509 |TRUSTED )?CERTIFICATE",
    "extra-certs": "(?:X509 |TRUSTED )?CERTIFICATE",
    "key": "(?:[A-Z]+ )?PRIVATE KEY",
    "crl-verify": "X509 CRL",
    "tls-auth": _STATIC_KEY,
    "tls-crypt": _STATIC_KEY,
    "tls-crypt-v2": "OpenVPN tls-crypt-v2 client key",
    "pkcs12": "",
}
"""Directives whose argument is a file, and that may stand as inline blocks instead; with the label of the PEM blocks
that are taken from such a file. Empty: the file is binary."""
_PKCS12 = re.compile(rb"\x30(?:\x80|\x81.|\x82..|\x83...|[\x00-\x7f])\x02\x01\x03", re.DOTALL)
"""How a PKCS #12 begins (RFC 7292): a sequence whose first element is the version 3."""
_BLOCKS = _MATERIAL.keys() | {"peer-fingerprint", "verify-hash"}
"""Inline blocks that are handed on."""
_OWN = frozenset(
    """
    remote proto proto-force port rport dev dev-type auth-user-pass dhcp-option ignore-unknown-option connection
    push-peer-info
    """.split()
)
"""Directives read here one by one."""
_DHCP = frozenset({"DNS", "DNS6", "DOMAIN", "DOMAIN-SEARCH"})
"""Options of `dhcp-option` that a tunnel uses; the others are for Windows."""
_VOCABULARY = sorted(_ALLOWED | _MOOT | _HOST | _MATERIAL.keys() | _OWN | _UNSUPPORTED.keys())

_PROTO: dict[str, Literal["udp", "tcp"]] = {
    **dict.fromkeys(("udp", "udp4", "udp6"), "udp"),
    **dict.fromkeys(("tcp", "tcp4", "tcp6", "tcp-client", "tcp4-client", "tcp6-client"), "tcp"),
}
_DEFAULT_PORT = 1194
_CONNECTION_TUNING = frozenset(
    "nobind float connect-retry connect-retry-max connect-timeout explicit-exit-notify".split()
)
"""What a <connection> may hold beside its server without changing what is spoken."""


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
        if backslash and not (blank or char in '\\"'):
            raise ValueError('a backslash may only stand before a blank, a " or another backslash')
        if word is None:
            if not blank:
                if not backslash and char in "#;":
                    break
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
    tolerated: set[str] = field(default_factory=set)
    """Names that `ignore-unknown-option` holds."""

    def broken(self, reason: str, line: int | None = None, hint: str = "") -> ConfigError:
        return ConfigError(reason, where=self.where, line=line, hint=hint)

    def note(self, line: int, text: str, level: Literal["note", "warning", "danger"] = "note") -> None:
        self.findings.append(Finding(level, text, line))


def parse(
    text: str, where: str, read_file: ReadFile, *, username: Secret | None = None, password: Secret | None = None
) -> tuple[OpenVpnConfig, tuple[Finding, ...]]:
    """The config's meaning, and one finding for each directive that is left out.

    `username` and `password` come from the plan and win over the config's own. Raises ConfigError for a broken config,
    its subclass Unsupported for one that needs what vpntest does not carry. No message quotes a value.
    """
    given = (username, password) if username is not None and password is not None else None
    reading = _Reading(where, read_file, login=given)
    for line, directive, block in _statements(text, where):
        if block is None:
            _directive(reading, line, directive)
        else:
            _block(reading, line, directive[0], block)
    _check(reading)
    name, secret = (reading.login or (None, None)) if reading.asks_login else (None, None)
    if given and not reading.asks_login:
        text = "the plan's user name and password are ignored: no `auth-user-pass` asks for them"
        reading.findings.append(Finding("warning", text))
    config = OpenVpnConfig(
        servers=_servers(reading),
        directives=tuple(reading.directives),
        inline=tuple(reading.inline.items()),
        username=name,
        password=secret,
    )
    return config, tuple(reading.findings)


def _statements(text: str, where: str) -> Iterator[tuple[int, list[str], list[tuple[int, str]] | None]]:
    """Each directive with its line, its words and, for an inline block, the block's own lines."""
    lines = syntax.numbered(text, where)
    for number, line in lines:
        try:
            found = words(line)
        except ValueError as fault:
            raise ConfigError(str(fault), where=where, line=number) from None
        if not found:
            continue
        if len(line.encode()) > MAX_LINE or len(found) > MAX_WORDS:
            raise ConfigError("the line is longer than OpenVPN takes", where=where, line=number)
        found[0] = found[0].removeprefix("--")
        tag = found[0]
        if len(found) > 1 or not (tag.startswith("<") and tag.endswith(">")):
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


def _directive(reading: _Reading, line: int, directive: list[str]) -> None:
    name, *arguments = directive
    if name == "setenv" and arguments[:1] == ["opt"] and len(arguments) > 1:
        # OpenVPN's way to say: this one only where it is known. The rest is a directive like any other.
        if arguments[1] in _VOCABULARY:
            _directive(reading, line, arguments[1:])
        return
    if name in _UNSUPPORTED:
        raise Unsupported(f"`{name}` is not supported: {_UNSUPPORTED[name]}", where=reading.where, line=line)
    if name in _MATERIAL:
        _material(reading, line, name, arguments)
    elif name in _OWN:
        _own(reading, line, name, arguments)
    elif name in _ALLOWED:
        reading.directives.append((name, *arguments))
    elif name in _HOST:
        reading.note(line, f"`{name}` is ignored: it does not change what is spoken with the server")
    elif name in reading.tolerated:
        reading.note(line, "a directive is ignored that `ignore-unknown-option` names")
    elif name not in _MOOT:
        # Not repeated in the message: a stray line of a key or a password reads as a directive.
        close = difflib.get_close_matches(name, _VOCABULARY, n=1, cutoff=0.8)
        raise reading.broken("unknown directive", line, f"did you mean `{close[0]}`?" if close else "")


def _own(reading: _Reading, line: int, name: str, arguments: list[str]) -> None:
    if name == "auth-user-pass":
        reading.asks_login = line
        if arguments and arguments[0] != "[inline]":
            reading.login_file = line
        return
    if name == "push-peer-info":
        reading.note(line, f"`{name}` is ignored: it tells the server this machine's hardware address")
        return
    if not arguments:
        raise reading.broken(f"`{name}` without its argument", line)
    if name == "remote":
        reading.remotes.append(_remote(reading, line, arguments))
    elif name == "proto":
        reading.transport = _transport(reading, line, arguments[0])
    elif name == "proto-force":
        reading.forced = _transport(reading, line, arguments[0])
    elif name in ("port", "rport"):
        reading.port = _value(reading, line, name, syntax.port, arguments[0])
    elif name in ("dev", "dev-type"):
        reading.device[name] = line, arguments[0]
    elif name == "ignore-unknown-option":
        reading.tolerated.update(arguments)
    elif name == "dhcp-option":
        if arguments[0].upper() in _DHCP:
            reading.directives.append((name, *arguments))
    else:
        raise reading.broken(f"`{name}` is not a directive but a block: <{name}>", line)


def _material(reading: _Reading, line: int, name: str, arguments: list[str]) -> None:
    if not arguments:
        raise reading.broken(f"`{name}` without its file", line)
    if len(arguments) > 1:
        if name == "crl-verify":
            raise Unsupported("`crl-verify` with a folder is not supported", where=reading.where, line=line)
        if name == "tls-auth":
            reading.directives.append(("key-direction", arguments[1]))
    if arguments[0] == "[inline]":
        reading.awaited[name] = line
        return
    data = _file(reading, line, name, arguments[0])
    if name == "pkcs12":
        if not _PKCS12.match(data):
            raise reading.broken("the file of `pkcs12` is not PKCS #12", line)
        _keep(reading, line, name, base64.encodebytes(data).decode())
        return
    label = _MATERIAL[name]
    blocks = re.findall(
        rf"^-----BEGIN ({label})-----$((?:[^-]|-(?!----))*)^-----END \1-----$", _text(data), re.MULTILINE
    )
    if not blocks:
        raise reading.broken(f"the file of `{name}` holds nothing of the kind", line)
    _keep(reading, line, name, "".join(f"-----BEGIN {kind}-----{body}-----END {kind}-----\n" for kind, body in blocks))


def _text(data: bytes) -> str:
    """A key file's text with plain line ends. Its comments may be in any encoding; its blocks are ASCII."""
    return "\n".join(line.rstrip(" \t\r") for line in data.decode("ascii", "replace").split("\n"))


def _block(reading: _Reading, line: int, name: str, block: list[tuple[int, str]]) -> None:
    if name == "connection":
        _connection(reading, line, block)
    elif name == "auth-user-pass":
        reading.asks_login = line
        if reading.login is None:
            reading.login = _login(reading, line, [text for _, text in block])
    elif name in _BLOCKS:
        _keep(reading, line, name, "".join(f"{text}\n" for _, text in block))
    elif name in _UNSUPPORTED:
        raise Unsupported(f"<{name}> is not supported: {_UNSUPPORTED[name]}", where=reading.where, line=line)
    elif name in _HOST or name in _MOOT:
        reading.note(line, f"<{name}> is ignored: it does not change what is spoken with the server")
    else:
        raise reading.broken("an inline block of a name that OpenVPN does not have", line)


def _keep(reading: _Reading, line: int, name: str, text: str) -> None:
    if not text.strip():
        raise reading.broken(f"`{name}` is empty", line)
    lines = [part.removesuffix("\r") for part in text.split("\n")]
    # A closing tag in a file would end the block when it is written out, and what follows would be directives.
    if not all(map(syntax.is_plain, lines)) or any(part.lstrip().startswith("</") for part in lines):
        raise reading.broken(f"`{name}` holds what no key file holds", line)
    if name == "key" and "ENCRYPTED" in text:
        raise Unsupported(
            "the private key has a passphrase; take it off with `openssl pkey`", where=reading.where, line=line
        )
    reading.inline[name] = Secret(text)


def _connection(reading: _Reading, line: int, block: list[tuple[int, str]]) -> None:
    """One <connection>: a server with options of its own. It begins with what the file has said before it."""
    inner = _Reading(reading.where, reading.read_file, port=reading.port, transport=reading.transport)
    for number, text in block:
        try:
            found = words(text)
        except ValueError as fault:
            raise reading.broken(str(fault), number) from None
        if not found:
            continue
        name = found[0]
        if name in ("remote", "proto", "port", "rport"):
            _own(inner, number, name, found[1:])
        elif name in _CONNECTION_TUNING:
            reading.note(number, f"`{name}` is ignored: in a <connection> only the server is read")
        elif name in _VOCABULARY:
            raise Unsupported(f"`{name}` inside <connection> is not supported", where=reading.where, line=number)
        else:
            raise reading.broken("unknown directive", number)
    if len(inner.remotes) != 1:
        raise reading.broken("a <connection> has exactly one `remote`", line)
    remote = inner.remotes[0]
    reading.connections.append(
        _Remote(remote.line, remote.host, remote.port or inner.port, remote.transport or inner.transport)
    )


def _remote(reading: _Reading, line: int, arguments: list[str]) -> _Remote:
    return _Remote(
        line=line,
        host=_value(reading, line, "remote", syntax.host, arguments[0]),
        port=_value(reading, line, "remote", syntax.port, arguments[1]) if len(arguments) > 1 else None,
        transport=_transport(reading, line, arguments[2]) if len(arguments) > 2 else None,
    )


def _transport(reading: _Reading, line: int, text: str) -> Literal["udp", "tcp"]:
    transport = _PROTO.get(text.lower())
    if transport is None:
        raise reading.broken("the protocol is neither udp nor tcp", line)
    return transport


def _login(reading: _Reading, line: int, lines: list[str]) -> tuple[Secret, Secret]:
    if len(lines) < 2 or not lines[0] or not lines[1]:
        raise reading.broken("`auth-user-pass` needs a user name and, on the next line, a password", line)
    return Secret(lines[0]), Secret(lines[1])


def _file(reading: _Reading, line: int, name: str, path: str) -> bytes:
    try:
        return reading.read_file(path)
    except OSError as fault:
        reason = (fault.strerror or "error").lower()
        raise reading.broken(f"the file of `{name}` cannot be read: {reason}", line) from None
    except ValueError as fault:
        raise reading.broken(f"the file of `{name}` is not read: {fault}", line) from None


def _value(reading: _Reading, line: int, name: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as fault:
        raise reading.broken(f"`{name}`: {fault}", line) from None


def _check(reading: _Reading) -> None:
    """What only the whole file tells."""
    names = {directive[0] for directive in reading.directives}
    line, device = reading.device.get("dev-type") or reading.device.get("dev") or (0, "tun")
    if not device.startswith("tun"):
        raise Unsupported("only tun devices are supported", where=reading.where, line=line)
    for name, line in reading.awaited.items():
        if name not in reading.inline:
            raise reading.broken(f"`{name} [inline]` without its <{name}> block", line)
    if not names & {"client", "tls-client"}:
        raise reading.broken("neither `client` nor `tls-client`: not a client's config")
    if not (reading.inline.keys() | names) & {"ca", "pkcs12", "peer-fingerprint"}:
        raise reading.broken("no <ca>, so the server could not be told from an impostor")
    if ("cert" in reading.inline) != ("key" in reading.inline):
        raise reading.broken("a certificate without its key, or a key without its certificate")
    if reading.login_file is not None and reading.login is None:
        raise Unsupported(
            "a file with the user name and password is never read",
            where=reading.where,
            line=reading.login_file,
            hint="set `username` and `password` in the plan's [[tunnel]]",
        )
    if reading.asks_login is not None and reading.login is None:
        raise reading.broken(
            "the server asks for a user name and a password",
            reading.asks_login,
            "set `username` and `password` in the plan's [[tunnel]]",
        )
    if reading.asks_login is not None:
        reading.directives.append(("auth-user-pass",))


def _servers(reading: _Reading) -> tuple[Server, ...]:
    """The servers in file order. A <connection> takes the place of every `remote` outside one, as in OpenVPN."""
    if reading.connections and reading.remotes:
        reading.note(reading.remotes[0].line, "`remote` is ignored: the config has <connection> blocks")
    servers = tuple(
        dict.fromkeys(
            Server(host=remote.host, port=remote.port or reading.port, transport=remote.transport or reading.transport)
            for remote in reading.connections or reading.remotes
        )
    )
    if not servers:
        raise reading.broken("no `remote`")
    if reading.forced:
        servers = tuple(server for server in servers if server.transport == reading.forced)
        if not servers:
            raise reading.broken("`proto-force` leaves no `remote`")
    return servers
