"""What a share link, or a client's own document, says of one proxy; and the sing-box outbound that it means.

Sans-I/O. Links, subscriptions and documents differ in grammar only. Each reader takes its own grammar apart into a
:class:`Proxy`, in the words of the share links; what these words mean, and which of them cannot be honoured, is said
here once.

The words (names of `parameters`; every value is text, decoded, a yes is `1` or `true`, a list has commas):

    any          udp (0: the config itself lets no UDP pass)  mux (h2mux smux yamux: sing-mux)  mux-padding
                 mux-connections  mux-min-streams  mux-streams  tfo
                 fragment  noise (both: how the first packets are cut and what goes before them)
    TLS          security (none tls reality)  sni (absent: the first `host`, else the server)  alpn  fp  insecure
                 disable-sni  pbk  sid  spx  ech (base64)  ca (PEM)  pin (base64 of SHA-256 of public keys)  pcs  vcn
                 pqv  tls-min  tls-max  client-cert  client-key (both PEM)
    transport    type (tcp ws grpc http httpupgrade …)  host (absent: the name in TLS, else the server)  path
                 serviceName  authority  mode  headerType  method  headers (a JSON object of further ones)
                 ed  eh (absent: Sec-WebSocket-Protocol; `path`: behind the path)  seed  extra  fm
    Shadowsocks  plugin (`name;key=value;…`)  uot (1, 2)  prefix
    VLESS        flow  encryption  packetEncoding
    VMess        aid  scy  packetEncoding  global-padding  authenticated-length
    Hysteria2    obfs  obfs-password  mport  hop-interval (seconds, or from-to)  up  down (Mbit/s)  pinSHA256
    TUIC         congestion_control  udp_relay_mode  udp-over-stream  reduce-rtt  heartbeat (seconds)  version  token
    SOCKS        version (5 4 4a)  uot
    HTTP         path  headers
    SSH          private-key (PEM)  passphrase  host-key (one each line)

A name that is none of these is left out with a note. Of a document's own names that have no word here, its reader says
itself what is to become of them. HTTP/1.1 without TLS, which sing-box calls `http` too, is `type` tcp and `headerType`
http here, as in the links.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NoReturn
from urllib.parse import parse_qsl, quote, unquote
from uuid import UUID

from vpntest.errors import ConfigError
from vpntest.plan import syntax
from vpntest.plan.model import Finding, Kind, ProxyConfig, Server
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

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
_STREAM_CIPHERS = frozenset(
    "aes-128-ctr aes-192-ctr aes-256-ctr aes-128-cfb aes-192-cfb aes-256-cfb rc4-md5 chacha20-ietf xchacha20".split()
)
"""Methods that hide, but protect nothing against change."""
_NO_CIPHER = frozenset({"none", "plain", "dummy"})
_METHOD_ALIASES = {
    "chacha20-poly1305": "chacha20-ietf-poly1305",
    "xchacha20-poly1305": "xchacha20-ietf-poly1305",
    "aead_aes_128_gcm": "aes-128-gcm",
    "aead_aes_256_gcm": "aes-256-gcm",
    "aead_chacha20_poly1305": "chacha20-ietf-poly1305",
}
"""Xray's and V2Fly's names for the same methods."""
_PLUGINS = frozenset(
    """
    xray-plugin shadow-tls gost-plugin kcptun kcptun-client ck-client cloak goquiet gq-client restls gun simple-tls
    galaxy-plugin mostly-plugin qtun teleport ssr
    """.split()
)
"""Plugins that are known by name, and that sing-box has not built in."""
_IDLE_OPTIONS = frozenset("fast-open fastOpen loglevel fwmark __android_vpn V".split())
"""Options of plugins that change nothing of what is spoken."""
_FINGERPRINTS = frozenset(
    """
    chrome firefox edge safari 360 qq ios android random randomized
    chrome_psk chrome_psk_shuffle chrome_padding_psk_shuffle chrome_pq chrome_pq_psk
    """.split()
)
"""Client hellos that sing-box can imitate (common/tls/utls_client.go)."""
_TRANSPORTS = {
    **dict.fromkeys(("", "tcp", "raw", "none", "original"), "tcp"),
    **dict.fromkeys(("ws", "websocket"), "ws"),
    **dict.fromkeys(("grpc", "gun"), "grpc"),
    **dict.fromkeys(("http", "h2"), "http"),
    "httpupgrade": "httpupgrade",
}
_OTHER_TRANSPORTS = frozenset("xhttp splithttp kcp mkcp quic ds domainsocket hysteria meek mekya".split())
_VMESS_CIPHERS = frozenset("auto none zero aes-128-gcm chacha20-poly1305 aes-128-cfb".split())
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_LONGEST_USER = 30
"""Bytes. A shorter user id that is no UUID is hashed to one, by Xray (common/uuid) as by sing-vmess."""
_SHORT_ID = re.compile(r"([0-9a-f]{2}){0,8}", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_PROTOCOL = re.compile(r"[^,\s]{1,64}")
_HOST_KEY = re.compile(r"(?:ssh-|ecdsa-|sk-)[\w@.-]{1,64} +([A-Za-z0-9+/]+={0,2})(?: .*)?")
_NUMBER = re.compile(r"([0-9]{1,6})(?:\.[0-9]+)? *(?:s|mbps)?", re.IGNORECASE)
_PEM = re.compile(r"\s*-----BEGIN ([A-Z0-9 ]{1,32})-----\s[A-Za-z0-9+/=\s:,.-]+-----END \1-----\s*")
_HTTPS_PORT = 443
_PORT_RANGES = 64
"""At most so many; sing-box writes out every port of every range."""
_YES = frozenset({"1", "true", "t", "yes", "y", "on"})
_NO = frozenset({"", "0", "false", "f", "no", "n", "off", "none"})

_CHANGING = frozenset(
    """
    plugin obfs obfs-password flow prefix pinSHA256 pcs vcn pqv fm ech ca pin client-cert client-key mport token mux uot
    tls-min tls-max disable-sni reduce-rtt udp-over-stream headers fragment noise
    """.split()
)
"""Words that change what is spoken, so that one which its kind has no use for must not be dropped."""
WORDS = frozenset(
    """
    udp mux mux-padding mux-connections mux-min-streams mux-streams tfo security sni alpn fp insecure disable-sni pbk
    sid spx ech ca pin pcs vcn pqv tls-min tls-max client-cert client-key type host path serviceName authority mode
    headerType method headers ed eh seed extra fm plugin uot prefix flow encryption packetEncoding aid scy
    global-padding authenticated-length obfs obfs-password mport hop-interval up down pinSHA256 congestion_control
    udp_relay_mode udp-over-stream reduce-rtt heartbeat version token private-key passphrase host-key fragment noise
    """.split()
)
"""All names that parameters can have."""


@dataclass
class Proxy:
    """One proxy as it was found: all decoded, nothing judged. Its `repr` shows nothing that could be a secret."""

    kind: Kind
    where: str
    """The place in messages."""
    host: str
    """As written; IPv6 without brackets."""
    ports: str
    """`443`, for Hysteria2 also `443,8000-9000`; empty where there is none."""
    username: str = field(default="", repr=False)
    """Of Shadowsocks its method; of VLESS, VMess and TUIC the UUID; of SOCKS, HTTP and SSH the name."""
    password: str = field(default="", repr=False)
    parameters: dict[str, str] = field(default_factory=dict, repr=False)
    """By the names above. Empty values say nothing."""
    label: str = ""
    """What the source calls it: printable, and of a stranger."""
    findings: list[Finding] = field(default_factory=list)
    """What its reader has to say of it already; :func:`outbound` gives these back before its own."""
    dialect: Literal["link", "xray", "sing-box", "clash"] = "link"
    """Whose words these are: where nothing is said, each client takes something else. Of links the reference is Xray;
    what sing-box's own documents say is sent as it stands."""


def outbound(proxy: Proxy) -> tuple[ProxyConfig, tuple[Finding, ...]]:
    """What the proxy means to sing-box, and what a reader should know of it.

    Leaves `proxy` as it is. Raises ConfigError for a broken one, its subclass Unsupported for one that asks for what
    is not carried, with the parameter's name.
    """
    reading = _Reading(proxy)
    server, fields = _READERS[proxy.kind](reading)
    reading.left_over()
    if not reading.udp and proxy.kind not in _TCP_ONLY:
        fields["network"] = "tcp"
    if reading.unverified:
        reading.find("danger", "the config asks not to check the server's certificate: anybody can pose as the server")
    config = ProxyConfig(
        server=server,
        outbound={"type": proxy.kind.value, **fields},
        needs=tuple(sorted(reading.needs)),
        tls_unverified=reading.unverified,
        carries_udp=reading.udp and proxy.kind not in _TCP_ONLY,
    )
    return config, tuple(reading.findings)


class _Reading:
    """A proxy being read. Each reader takes its words out; what is left over in the end is judged by its name."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.words = {name: text for name, value in proxy.parameters.items() if (text := value.strip())}
        self.findings = list(proxy.findings)
        self.needs: set[str] = set()
        self.unverified = False
        self.udp = True
        # Outline's prefix is bytes, and is not read here.
        values = (value for name, value in proxy.parameters.items() if name != "prefix")
        for text in (proxy.username, proxy.password, *values):
            if not syntax.is_plain(text.replace("\n", "")):
                self.broken("a control character in a value")
        if "\n" in proxy.username:
            self.broken("the user's name is more than one line")
        self.host = self._host()

    def broken(self, reason: str) -> NoReturn:
        raise ConfigError(reason, where=self.proxy.where)

    def unsupported(self, reason: str) -> NoReturn:
        raise Unsupported(reason, where=self.proxy.where)

    def find(self, level: Literal["note", "warning", "danger"], text: str) -> None:
        self.findings.append(Finding(level, text))

    @property
    def by_xray(self) -> bool:
        """Whether Xray is the reference: of links for what it speaks, AnyTLS' for one it does not."""
        usual = self.proxy.kind in (Kind.VLESS, Kind.VMESS, Kind.TROJAN)
        return self.proxy.dialect == "xray" or (usual and self.proxy.dialect == "link")

    def take(self, name: str) -> str:
        """The word's value, which is no longer left over; empty where there is none."""
        return self.words.pop(name, "")

    def line(self, name: str) -> str:
        """As :meth:`take`, for what must be one line."""
        value = self.take(name)
        if "\n" in value:
            self.broken(f"`{name}` is more than one line")
        return value

    def yes(self, name: str) -> bool:
        value = self.take(name).lower()
        if value not in _YES and value not in _NO:
            self.find("warning", f"`{name}` says neither yes nor no, and is taken for a no")
        return value in _YES

    def number(self, name: str) -> int:
        """A whole number; 0 where there is none."""
        value = self.take(name)
        found = _NUMBER.fullmatch(value)
        if value and not found:
            self.broken(f"`{name}` is not a number")
        return int(found[1]) if found else 0

    def choice(self, name: str, choices: Iterable[str]) -> str:
        """One of the choices, which are in lower case, or nothing."""
        value = self.take(name).lower()
        if value and value not in choices:
            self.unsupported(f"`{name}` has a value that is not carried")
        return value

    def drop(self, names: Iterable[str], why: str) -> None:
        """Leaves words out that mean nothing here, with a note."""
        gone = [name for name in names if self.take(name).lower() not in _NO]
        if gone:
            self.find("note", f"{_listed(gone)} ignored: {why}")

    def left_over(self) -> None:
        """Judges what no reader took."""
        self.drop(("tfo",), "it opens connections faster, and speaks the same")
        if self.words.get("type", "").lower() in ("tcp", "udp", "raw", "quic", self.proxy.kind.value):
            del self.words["type"]
        meant = [name for name in self.words if name in _CHANGING and self.words[name].lower() not in _NO]
        if meant:
            self.unsupported(f"{_listed(meant)} cannot be honoured with {self.proxy.kind.value}")
        self.drop([name for name in self.words if name in WORDS], f"no meaning with {self.proxy.kind.value}")
        if self.words:
            # Their names stay unsaid: behind a stray `&` a name may be a piece of a password.
            self.find("note", f"{len(self.words)} unknown parameter{'s' * (len(self.words) > 1)} ignored")

    def port(self, default: int | None = None) -> int:
        if not self.proxy.ports and self.proxy.dialect != "link":
            self.broken("no port of the server")  # documents have no defaults
        if not self.proxy.ports and default is not None:
            return default
        try:
            return syntax.port(self.proxy.ports)
        except ValueError as fault:
            self.broken(str(fault))

    def tcp(self, default: int | None = None) -> Server:
        return Server(host=self.host, port=self.port(default), transport="tcp")

    def password(self, *, empty: bool = False) -> Secret:
        if not self.proxy.password and not empty:
            self.broken("no password")
        if "\n" in self.proxy.password:
            self.broken("the password is more than one line")
        return Secret(self.proxy.password)

    def user_id(self) -> Secret:
        """A UUID, or the short word that clients make one of."""
        user = self.proxy.username.strip()
        if found := _UUID.fullmatch(user.strip("{}")):
            return Secret(str(UUID(found[0])))
        if not user or len(user.encode()) > _LONGEST_USER:
            self.broken(f"the user id is neither a UUID nor a word of up to {_LONGEST_USER} bytes")
        self.find("note", "the user id is no UUID; one is made of it, as clients do")
        return Secret(user)

    def _host(self) -> str:
        host = self.proxy.host.strip()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if not host.isascii():
            self.find("note", "the host is not ASCII, and is read in its xn-- form")
        try:
            return syntax.host(ascii_host(host))
        except ValueError as fault:
            self.broken(str(fault))


def ascii_host(name: str) -> str:
    """A name as resolvers and servers see it: labels that are not ASCII in their xn-- form. Raises ValueError."""
    if name.isascii():
        return name
    # A label has at most 63 characters; the codec takes much longer than linear for more.
    if len(name) > 253 or any(len(label) > 63 for label in re.split("[.\u3002\uff0e\uff61]", name)):
        raise ValueError("the host is neither a name nor an address")
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("the host is neither a name nor an address") from None


# ── one reader per kind ──────────────────────────────────────────────────────────────────────────────────────────────


def _shadowsocks(reading: _Reading) -> tuple[Server, dict[str, object]]:
    if reading.take("prefix"):
        reading.unsupported("`prefix` (Outline's disguise of the first packet): sing-box has no such thing")
    fields = _cipher(reading)
    _udp(reading)
    if (uot := reading.choice("uot", {"2", *_YES, *_NO})) and uot not in _NO:
        fields["udp_over_tcp"] = {"enabled": True, "version": 1} if uot == "1" else {"enabled": True}
    if plugin := reading.line("plugin"):
        fields |= _plugin(reading, plugin)
        if "udp_over_tcp" not in fields:
            # A plugin carries TCP alone (SIP003). UDP would go past it, in a shape that the config means to hide.
            reading.udp = False
    else:
        _bare(reading, "security", {"none"})
        _bare(reading, "type", {"tcp", "raw"})
        _bare(reading, "headerType", {"none"})
    if "udp_over_tcp" not in fields:
        _multiplex(reading, fields)
    return reading.tcp(), fields


def _cipher(reading: _Reading) -> dict[str, object]:
    method = reading.proxy.username.strip().lower()
    method = _METHOD_ALIASES.get(method, method)
    password = reading.proxy.password
    if method in _NO_CIPHER:
        reading.find("danger", "`none` is no cipher: all that is inside can be read and changed on the way")
        return {"method": "none", "password": reading.password(empty=True)}
    if method in _STREAM_CIPHERS:
        reading.find("warning", "a stream cipher: whoever is on the way can change what passes, and tell what it is")
    length = 0 if method in _STREAM_CIPHERS else _METHODS.get(method)
    if length is None:
        reading.unsupported("the Shadowsocks method is none that sing-box has, as " + ", ".join(_METHODS))
    secret = reading.password()
    if length:
        texts = unquote(password).split(":")
        if len(texts) > 8:
            reading.broken("too many keys in the password")
        keys = [decoded_base64(key) for key in texts]
        if method == "2022-blake3-chacha20-poly1305" and len(keys) > 1:
            reading.broken("this method takes one key, not several")
        if any(key is None or len(key) != length for key in keys):
            reading.broken(f"the password of {method} is base64 of {length} bytes")
        # sing-box takes the standard alphabet with padding only.
        secret = Secret(":".join(base64.b64encode(key).decode() for key in keys if key))
    return {"method": method, "password": secret}


def _plugin(reading: _Reading, text: str) -> dict[str, object]:
    """SIP003's `name;key=value;key`."""
    name, _, rest = text.partition(";")
    name, options = name.strip().lower(), _options(rest)
    if name in ("obfs-local", "simple-obfs", "obfs"):
        name, kept = "obfs-local", _obfs(reading, options)
    elif name == "v2ray-plugin":
        kept = _v2ray_plugin(reading, options)
    elif name in _PLUGINS:
        reading.unsupported(f"the plugin {name}: sing-box has obfs-local and v2ray-plugin only")
    else:
        reading.unsupported("`plugin` is neither obfs-local nor v2ray-plugin, and sing-box has no other")
    if not options.keys() <= _IDLE_OPTIONS:
        reading.unsupported(f"`plugin`: an option of {name} that sing-box does not have")
    written = ";".join(f"{key}={_escaped(value)}" for key, value in kept.items())
    return {"plugin": name, "plugin_opts": Secret(written)}


def _options(text: str) -> dict[str, str]:
    """`key=value;key`, where a backslash takes the meaning from what follows. The first of two counts."""
    options: dict[str, str] = {}
    for pair in re.findall(r"(?:\\.|[^;\\])+", text):
        found = re.match(r"((?:\\.|[^=\\])+)(=?)(.*)", pair)
        if found:
            key, value = _unescaped(found[1]).strip(), _unescaped(found[3])
            options.setdefault(key, value if found[2] else "1")
    return options


def _obfs(reading: _Reading, options: dict[str, str]) -> dict[str, str]:
    mode = options.pop("obfs", "http").lower()
    if mode not in ("http", "tls"):
        reading.unsupported("`plugin`: obfs is neither http nor tls")
    if options.pop("obfs-uri", "/") != "/":
        reading.unsupported("`plugin`: `obfs-uri` is not carried")
    host = options.pop("obfs-host", "")
    if not host and reading.proxy.dialect != "sing-box":  # which sends an empty one
        host = "cloudfront.net"  # simple-obfs' own
    return {"obfs": mode, "obfs-host": _http_host(reading, host)} if host else {"obfs": mode}


def _v2ray_plugin(reading: _Reading, options: dict[str, str]) -> dict[str, str]:
    if options.pop("mode", "websocket").lower() not in ("websocket", "ws"):
        reading.unsupported("`plugin`: v2ray-plugin with a mode other than websocket is not carried")
    if options.pop("cert", ""):
        raise syntax.Refused("`plugin`: `cert` names a file on this machine", where=reading.proxy.where)
    kept = {}
    if options.pop("tls", "0").lower() in _YES:
        kept["tls"] = "1"
    host = options.pop("host", "")
    if not host and reading.proxy.dialect == "sing-box" and "tls" in kept and not syntax.is_address(reading.host):
        # Of `host` it makes both names, but without one it takes the server's in TLS, and we dial by address.
        reading.unsupported("`plugin`: v2ray-plugin with `tls` and without `host`, whose two names then differ")
    if host or reading.proxy.dialect != "sing-box":
        # Without one the plugin itself says cloudfront.com, and asks for that name's certificate.
        kept["host"] = _http_host(reading, host or "cloudfront.com")
    kept["path"] = options.pop("path", "") or "/"
    if not kept["path"].startswith("/"):
        kept["path"] = "/" + kept["path"]
    if re.search(r"[?#]|%(?![0-9A-Fa-f]{2})", kept["path"]):
        reading.unsupported("`plugin`: a path that sing-box would write in other letters")
    mux = options.pop("mux", "1").lower()
    if mux not in _NO | _YES and not re.fullmatch("[0-9]{1,4}", mux):
        reading.broken("`plugin`: `mux` is not a number")
    kept["mux"] = "0" if mux in _NO else "1"
    if raw := options.pop("certRaw", ""):
        bare = raw.replace(" ", "+")
        if decoded_base64(bare) is None:
            reading.broken("`plugin`: `certRaw` is not base64")
        kept["certRaw"] = bare
    return kept


def _vless(reading: _Reading) -> tuple[Server, dict[str, object]]:
    fields: dict[str, object] = {"uuid": reading.user_id()}
    _udp(reading)
    if reading.line("encryption").lower() not in ("", "none"):
        reading.unsupported("`encryption` of VLESS itself: sing-box has none")
    flow = reading.line("flow").lower()
    # The longer name differs in what the client lets in: sing-box lets in what the longer one does.
    if flow not in ("", "none", "xtls-rprx-vision", "xtls-rprx-vision-udp443"):
        reading.unsupported("`flow` is not xtls-rprx-vision")
    encoding = reading.choice("packetEncoding", {"xudp", "packet", "packetaddr", "none"})
    if encoding and encoding != "xudp":
        fields["packet_encoding"] = "" if encoding == "none" else "packetaddr"
    _secured(reading, fields, default="none")
    if flow not in ("", "none"):
        if "transport" in fields or "tls" not in fields:
            reading.unsupported("`flow` goes with TLS or Reality over plain tcp only")
        if "multiplex" in fields:
            reading.unsupported("`mux` does not go with `flow`")
        fields["flow"] = "xtls-rprx-vision"
    if "tls" not in fields:
        _in_the_clear(reading)
    return reading.tcp(), fields


def _vmess(reading: _Reading) -> tuple[Server, dict[str, object]]:
    fields: dict[str, object] = {"uuid": reading.user_id()}
    _udp(reading)
    cipher = reading.line("scy").lower() or "auto"
    if cipher == "chacha20-ietf-poly1305":
        cipher = "chacha20-poly1305"
    if cipher not in _VMESS_CIPHERS:
        reading.find("note", "`scy` is no cipher of VMess; auto is taken, for the choice is the client's")
        cipher = "auto"
    fields["security"] = cipher
    reading.drop(("encryption",), "VMess has it as `scy`")
    if alter_id := reading.number("aid"):
        fields["alter_id"] = alter_id
        reading.find("warning", "`aid` above 0 is VMess as it was before 2021, which observers can tell")
    encoding = reading.choice("packetEncoding", {"xudp", "packet", "packetaddr", "none"})
    if encoding and encoding != "none":
        fields["packet_encoding"] = "xudp" if encoding == "xudp" else "packetaddr"
    for word, name in (("global-padding", "global_padding"), ("authenticated-length", "authenticated_length")):
        if reading.yes(word):
            fields[name] = True
    _secured(reading, fields, default="none")
    if "tls" not in fields and cipher in ("none", "zero"):
        _in_the_clear(reading)
    return reading.tcp(), fields


def _trojan(reading: _Reading) -> tuple[Server, dict[str, object]]:
    fields: dict[str, object] = {"password": reading.password()}
    _udp(reading)
    _secured(reading, fields, default="tls")
    if "tls" not in fields:
        _in_the_clear(reading)
    return reading.tcp(_HTTPS_PORT), fields


def _hysteria2(reading: _Reading) -> tuple[Server, dict[str, object]]:
    fields: dict[str, object] = {}
    _udp(reading)
    ranges = _hops(reading)
    if reading.proxy.password:
        fields["password"] = reading.password()
    obfs, obfs_password = reading.line("obfs").lower(), reading.line("obfs-password")
    if obfs in ("", "none"):
        # As v2rayN: a password alone is reason enough.
        obfs = "salamander" if obfs_password and not obfs else ""
    if obfs not in ("", "salamander", "gecko"):
        reading.unsupported("`obfs` is neither salamander nor gecko")
    if obfs == "salamander" and not obfs_password:
        reading.find("warning", "`obfs` without `obfs-password`: none is used, as no server has one with an empty one")
        obfs = ""
    if obfs:
        if not obfs_password:
            reading.broken(f"obfs={obfs} without `obfs-password`")
        fields["obfs"] = {"type": obfs, "password": Secret(obfs_password)}
    for word, name in (("up", "up_mbps"), ("down", "down_mbps")):
        if rate := reading.number(word):
            fields[name] = rate
    fields["tls"] = _tls_of_quic(reading)
    if len(ranges) > 1 or ranges[0][0] != ranges[0][1]:
        fields["server_ports"] = [f"{low}:{high}" for low, high in ranges]
        # One length, or the shortest and the longest, as sing-box and Mihomo have it.
        low, dash, high = reading.words.get("hop-interval", "").partition("-")
        reading.words["hop-interval"] = low.strip()
        if shortest := reading.number("hop-interval"):
            fields["hop_interval"] = f"{max(shortest, 5)}s"
        if dash:
            reading.words["hop-interval"] = high.strip()
            longest = reading.number("hop-interval")
            if not 0 < shortest <= longest:
                reading.broken("`hop-interval` ends before it begins")
            fields["hop_interval_max"] = f"{max(longest, 5)}s"
    else:
        reading.take("hop-interval")
    return Server(host=reading.host, port=ranges[0][0], transport="udp"), fields


def _hops(reading: _Reading) -> list[tuple[int, int]]:
    """The server's ports. `mport` is v2rayN's spelling of several; it stands in place of the one in the link."""
    several = reading.line("mport")
    if not re.search("[-:,]", several) and reading.proxy.ports:
        several = reading.proxy.ports
    ranges = _port_ranges(reading, several or reading.proxy.ports)
    if not ranges:
        port = reading.port(_HTTPS_PORT)
        ranges = [(port, port)]
    if len(ranges) > _PORT_RANGES:
        reading.unsupported(f"more than {_PORT_RANGES} ranges of ports")
    return ranges


def _tuic(reading: _Reading) -> tuple[Server, dict[str, object]]:
    if reading.take("token") or reading.line("version") not in ("", "5"):
        reading.unsupported("TUIC before version 5 (`token`): sing-box has version 5 only")
    user = reading.proxy.username.strip()
    if not _UUID.fullmatch(user):
        reading.broken("the user id is not a UUID")
    fields: dict[str, object] = {"uuid": Secret(str(UUID(user))), "password": reading.password(empty=True)}
    _udp(reading)
    control = reading.line("congestion_control").lower().replace("-", "_")
    if control not in ("", "cubic", "new_reno", "newreno", "reno", "bbr"):
        reading.unsupported("`congestion_control` is none of cubic, new_reno and bbr")
    if control:
        fields["congestion_control"] = "new_reno" if "reno" in control else control
    mode = reading.choice("udp_relay_mode", {"native", "quic"})
    if reading.yes("udp-over-stream"):
        fields["udp_over_stream"] = True
    elif mode:
        fields["udp_relay_mode"] = mode
    if reading.yes("reduce-rtt"):
        fields["zero_rtt_handshake"] = True
    if beat := reading.number("heartbeat"):
        fields["heartbeat"] = f"{beat}s"
    fields["tls"] = _tls_of_quic(reading)
    return Server(host=reading.host, port=reading.port(), transport="udp"), fields


def _anytls(reading: _Reading) -> tuple[Server, dict[str, object]]:
    fields: dict[str, object] = {"password": reading.password()}
    tls = _tls(reading, default="tls")
    if tls is None:
        reading.unsupported("`security`: AnyTLS is nothing without TLS")
    fields["tls"] = tls
    if _udp_is_off(reading):
        reading.find("note", "`udp` ignored: AnyTLS carries it in any case")
    return reading.tcp(_HTTPS_PORT), fields


def _socks(reading: _Reading) -> tuple[Server, dict[str, object]]:
    version = reading.line("version").lower() or "5"
    if version not in ("5", "4", "4a"):
        reading.unsupported("`version` of SOCKS is none of 5, 4 and 4a")
    fields: dict[str, object] = {"version": version, **_login(reading)}
    _udp(reading)
    if version != "5":
        reading.udp = False
        if fields.pop("password", None):
            reading.broken("SOCKS 4 knows no password")
    if reading.yes("uot"):
        fields["udp_over_tcp"] = True
        reading.udp = True
    else:
        # Of SOCKS 5 the server says whither our datagrams go, be it our own loopback: none goes there.
        fields["network"] = "tcp"
        reading.udp = False
        if version == "5":
            reading.find("note", "UDP is not asked for: the server could send it anywhere, also to this machine")
    if reading.line("security").lower() not in ("", "none"):
        reading.unsupported("`security`: sing-box has no TLS around SOCKS")
    _in_the_clear(reading)
    return reading.tcp(1080), fields


def _http(reading: _Reading) -> tuple[Server, dict[str, object]]:
    fields = _login(reading)
    if tls := _tls(reading, default="none"):
        fields["tls"] = tls
    else:
        _in_the_clear(reading)
    if headers := _headers(reading):
        fields["headers"] = headers
    if (path := reading.line("path")) not in ("", "/"):
        fields["path"] = path
    _udp_is_off(reading)
    return reading.tcp(_HTTPS_PORT if tls else 80), fields


def _ssh(reading: _Reading) -> tuple[Server, dict[str, object]]:
    user = reading.proxy.username.strip()
    fields: dict[str, object] = {"user": Secret(user) if user else "root"}
    if reading.proxy.password:
        fields["password"] = reading.password()
    if key := reading.take("private-key"):
        found = _PEM.fullmatch(key)
        if not found or not found[1].endswith("PRIVATE KEY"):
            reading.broken("`private-key` is not a private key in PEM")
        fields["private_key"] = [Secret(key)]
        if passphrase := reading.take("passphrase"):
            fields["private_key_passphrase"] = Secret(passphrase)
    if "password" not in fields and "private_key" not in fields:
        reading.broken("neither a password nor a private key")
    keys = [key.strip() for key in reading.take("host-key").splitlines() if key.strip()]
    for key in keys:
        found = _HOST_KEY.fullmatch(key)
        if not found or decoded_base64(found[1]) is None:
            reading.broken("`host-key` is not a public key of SSH")
    if keys:
        fields["host_key"] = keys
    else:
        reading.find("danger", "no `host-key`: anybody can pose as the server, and learns the password")
    _udp_is_off(reading)
    return reading.tcp(22), fields


_READERS: dict[Kind, Callable[[_Reading], tuple[Server, dict[str, object]]]] = {
    Kind.SHADOWSOCKS: _shadowsocks,
    Kind.VLESS: _vless,
    Kind.VMESS: _vmess,
    Kind.TROJAN: _trojan,
    Kind.HYSTERIA2: _hysteria2,
    Kind.TUIC: _tuic,
    Kind.ANYTLS: _anytls,
    Kind.SOCKS: _socks,
    Kind.HTTP: _http,
    Kind.SSH: _ssh,
}
KINDS = frozenset(_READERS)
"""What a proxy can be."""
_TCP_ONLY = frozenset({Kind.HTTP, Kind.SSH})
"""Kinds whose outbound takes TCP only (sing-box, protocol/http and protocol/ssh)."""


# ── what kinds share ─────────────────────────────────────────────────────────────────────────────────────────────────


def _in_the_clear(reading: _Reading) -> None:
    # No mere warning: names of sites, passwords and the fact itself are open to the very observer who is feared.
    reading.find(
        "danger", "no encryption on the way to the server: others can read what passes, and pose as the server"
    )


def _bare(reading: _Reading, name: str, usual: Iterable[str]) -> None:
    """Refuses a word whose value is not one of those that change nothing."""
    if reading.take(name).lower() not in {"", *usual}:
        reading.unsupported(f"`{name}` has a value that is not carried with {reading.proxy.kind.value}")


def _udp_is_off(reading: _Reading) -> bool:
    return "udp" in reading.words and reading.take("udp").lower() in _NO


def _udp(reading: _Reading) -> None:
    if _udp_is_off(reading):
        reading.udp = False


def _login(reading: _Reading) -> dict[str, object]:
    fields: dict[str, object] = {}
    if reading.proxy.username:
        fields["username"] = Secret(reading.proxy.username)
    if reading.proxy.password:
        fields["password"] = reading.password()
    return fields


def _secured(reading: _Reading, fields: dict[str, object], *, default: str) -> None:
    """TLS, transport and multiplexing, as VLESS, VMess and Trojan have them."""
    kind = _transport_of(reading)
    header = reading.line("headerType").lower()
    disguised = kind == "tcp" and header == "http"
    tls = _tls(reading, default=default, transport="http/1" if disguised else kind)
    if tls is not None:
        fields["tls"] = tls
    if kind == "tcp" and header not in ("", "none", "http"):
        reading.unsupported("`headerType` is neither none nor http")
    if disguised:
        if tls is not None:
            reading.unsupported("`headerType=http` within TLS: sing-box would speak HTTP/2 there")
        fields["transport"] = _disguise(reading)
    elif kind != "tcp":
        if kind == "http" and tls is None:
            reading.unsupported("`type=http` (HTTP/2) without TLS: sing-box would speak HTTP/1.1 there")
        name = str(tls["server_name"]) if tls else ""
        fields["transport"] = _TRANSPORT_READERS[kind](reading, name)
    if reading.take("fm") not in ("", "{}", "null"):
        reading.unsupported("`fm` (Xray's mask of the connection): sing-box has no such thing")
    _multiplex(reading, fields)
    if reading.words.get("path") == "/":
        del reading.words["path"]
    reading.drop(
        ("host", "path", "serviceName", "authority", "mode", "seed", "extra", "ed", "eh", "method"),
        f"no meaning with `type` {kind}",
    )


def _transport_of(reading: _Reading) -> str:
    name = reading.line("type").lower()
    kind = _TRANSPORTS.get(name)
    if kind is None:
        if name in _OTHER_TRANSPORTS:
            reading.unsupported(f"`type={name}`: sing-box has no such transport")
        reading.unsupported("`type` is no transport that sing-box has")
    return kind


def _websocket(reading: _Reading, name: str) -> dict[str, object]:
    path, early = _early(reading, _path(reading))
    transport: dict[str, object] = {"type": "ws", "path": path}
    headers = {**_headers(reading), "Host": _host_header(reading, name)}
    transport["headers"] = headers
    early = reading.number("ed") or early
    header = reading.line("eh")
    if early:
        transport["max_early_data"] = early
        if header != "path":
            if header and not _TOKEN.fullmatch(header):
                reading.broken("`eh` is not the name of a header")
            transport["early_data_header_name"] = header or "Sec-WebSocket-Protocol"
    return transport


def _http_upgrade(reading: _Reading, name: str) -> dict[str, object]:
    as_letters = reading.proxy.dialect in ("link", "xray")
    if as_letters and not re.search(r"\?(?:.*&)?ed=", reading.words.get("path", "")):
        path, early = reading.line("path"), 0
        path = unquote(path) if path[:3].lower() == "%2f" else path
        path = path if path.startswith("/") else "/" + path
    else:
        path, early = _early(reading, _path(reading))
    if as_letters:
        # Xray takes it letter by letter, and encodes each that has a meaning in a URL: `%` and `?` too (its dialer sets
        # url.URL.Path alone). Written so, sing-box sends the same.
        path = quote(path, safe="/$&+,:;=@-_.~")
    if early or reading.number("ed"):
        reading.find("note", "`ed` ignored: sing-box waits for the server's answer before it sends data")
    reading.take("eh")
    transport: dict[str, object] = {"type": "httpupgrade", "path": path, "host": _host_header(reading, name)}
    if headers := _headers(reading):
        transport["headers"] = headers
    return transport


def _grpc(reading: _Reading, name: str) -> dict[str, object]:
    mode = reading.line("mode").lower()
    if mode == "multi":
        reading.unsupported("`mode` of gRPC is multi: sing-box has gun only")
    if mode not in ("", "gun", "none"):
        reading.find("note", "`mode` of gRPC is neither gun nor multi, and is taken for gun, as clients do")
    authority = reading.line("authority").lower()
    if authority and authority != (name or reading.host):
        reading.unsupported("`authority` differs from the name in TLS: sing-box has no word for it")
    service = reading.line("serviceName")
    if service.startswith("/"):
        reading.unsupported("`serviceName` with a path of its own: sing-box has no such thing")
    return {"type": "grpc", "service_name": service}


def _http2(reading: _Reading, name: str) -> dict[str, object]:
    # Nothing said: v2ray's own default, which sing-box has too.
    hosts = _http_hosts(reading) or ["www.example.com"]
    return {"type": "http", "path": _path(reading), "host": hosts, **_request(reading)}


def _disguise(reading: _Reading) -> dict[str, object]:
    """Xray's HTTP header before the data: an HTTP/1.1 request, whose answer opens the way."""
    paths = [path for path in reading.line("path").split(",") if path.strip()]
    if len(paths) > 1:
        reading.find("note", "of several paths the first is taken")
    reading.words["path"] = paths[0] if paths else "/"
    hosts = _http_hosts(reading) or [reading.host]
    return {"type": "http", "path": _path(reading), "host": hosts, "method": "GET", **_request(reading)}


_TRANSPORT_READERS: dict[str, Callable[[_Reading, str], dict[str, object]]] = {
    "ws": _websocket,
    "httpupgrade": _http_upgrade,
    "grpc": _grpc,
    "http": _http2,
}


def _request(reading: _Reading) -> dict[str, object]:
    fields: dict[str, object] = {}
    if method := reading.line("method").upper():
        if not _TOKEN.fullmatch(method):
            reading.broken("`method` is not a method of HTTP")
        fields["method"] = method
    if headers := _headers(reading):
        fields["headers"] = headers
    return fields


def _headers(reading: _Reading) -> dict[str, object]:
    text = reading.take("headers")
    if not text:
        return {}
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        headers = None
    if not isinstance(headers, dict) or not all(
        _TOKEN.fullmatch(key) and isinstance(value, str) and syntax.is_plain(value) for key, value in headers.items()
    ):
        reading.broken("`headers` are not names with one text each")
    return {key: value for key, value in headers.items() if key.lower() != "host"}


def _host_header(reading: _Reading, name: str) -> str:
    """The first `host`, else the name in TLS, else the server: as Xray does it."""
    hosts = _http_hosts(reading)
    host = hosts[0] if hosts else name or reading.host
    return f"[{host}]" if ":" in host and syntax.is_address(host) else host


def _http_hosts(reading: _Reading) -> list[str]:
    return [_http_host(reading, host.strip()) for host in reading.line("host").split(",") if host.strip()]


def _http_host(reading: _Reading, host: str) -> str:
    try:
        host = ascii_host(host)
    except ValueError:
        host = ""
    if not 0 < len(host) <= 255 or not host.isprintable() or " " in host:
        # Xray sends such a one, shortened, or none at all, by the version of its HTTP library.
        reading.unsupported("`host` is no name, and clients differ in what they send then")
    return host


def _path(reading: _Reading) -> str:
    path = reading.line("path")
    if path[:3].lower() == "%2f" and reading.proxy.dialect != "sing-box":  # encoded twice: a path begins with a slash
        path = unquote(path)
    if re.search("%(?![0-9A-Fa-f]{2})", path):
        reading.unsupported("`path` has a percent sign that encodes nothing, which sing-box does not take")
    return path if path.startswith("/") else "/" + path


def _early(reading: _Reading, path: str) -> tuple[str, int]:
    """Takes Xray's `?ed=2048` off a path: so many bytes go out with the request itself.

    Any other query sing-box would write as a part of the path, its mark as %3F (URL.EscapedPath): so it is meant in its
    own documents, and nowhere else.
    """
    bare, mark, query = path.partition("?")
    if not mark or reading.proxy.dialect == "sing-box":
        return path, 0
    path = bare
    pairs = parse_qsl(query[:4096], keep_blank_values=True)
    early = next((value for key, value in pairs if key == "ed"), "")
    if not reading.words.get("eh"):
        reading.words["eh"] = next((value for key, value in pairs if key == "eh"), "")
    if any(key not in ("ed", "eh") for key, _ in pairs) or len(query) > 4096:
        reading.unsupported("`path` has a query, which sing-box would write in other letters")
    return path, int(early) if re.fullmatch("[0-9]{1,6}", early) else 0


def _multiplex(reading: _Reading, fields: dict[str, object]) -> None:
    protocol = reading.line("mux").lower()
    rest = {
        "max_connections": reading.number("mux-connections"),
        "min_streams": reading.number("mux-min-streams"),
        "max_streams": reading.number("mux-streams"),
    }
    padding = reading.yes("mux-padding")
    if protocol in ("h2mux", "smux", "yamux"):
        fields["multiplex"] = {"enabled": True, "protocol": protocol, **{k: v for k, v in rest.items() if v}}
        if padding:
            fields["multiplex"] |= {"padding": True}  # type: ignore[operator]
    elif protocol not in _NO:
        reading.find("warning", "`mux` (many streams in one connection, as Xray does it) is not used")


def _tls(reading: _Reading, *, default: str, transport: str = "tcp") -> dict[str, object] | None:
    """The TLS below a kind that runs over TCP; None where there is none.

    Where a link, or Xray's JSON, says no `fp`, Xray sends Chrome's ClientHello (tls.GetFingerprint), and Go's only
    for `unsafe`. sing-box and Mihomo send Go's unless a fingerprint is said.
    """
    security = reading.line("security").lower() or default
    if security == "none":
        names = "sni alpn fp insecure disable-sni pbk sid spx ech ca pin pcs vcn pqv tls-min tls-max"
        reading.drop(names.split(), "no meaning without TLS")
        return None
    if security not in ("tls", "reality"):
        reading.unsupported("`security` is none of tls, reality and none")
    tls = _handshake(reading, security)
    fingerprint = reading.line("fp").lower()
    if fingerprint in ("none", "unsafe", "hellogolang"):  # Xray's words for the hello of its own library
        fingerprint = ""
    elif not fingerprint and security == "tls" and reading.by_xray:
        reading.find("note", "`fp` is not said: Chrome's ClientHello is sent, as Xray does")
        fingerprint = "chrome"
    fingerprint = re.sub("^hello(.+)_auto$", r"\1", fingerprint)  # and its longer names for the same hellos
    if fingerprint and fingerprint not in _FINGERPRINTS:
        reading.unsupported("`fp` is not a client that sing-box imitates")
    if security == "reality":
        # The server proves itself by its key; there is no certificate to check.
        tls["reality"] = _reality(reading)
        fingerprint = fingerprint or "chrome"
    else:
        reading.drop(("pbk", "sid", "spx"), "no meaning without Reality")
    if fingerprint:
        tls["utls"] = {"enabled": True, "fingerprint": fingerprint}
        reading.needs.add("utls")
    _protocols(reading, tls, transport)
    return tls


def _tls_of_quic(reading: _Reading) -> dict[str, object]:
    reading.needs.add("quic")
    if reading.line("security").lower() == "reality":
        reading.unsupported("`security=reality` does not go with QUIC")
    tls = _handshake(reading, "tls")
    reading.drop(("fp", "pbk", "sid", "spx"), "no meaning in QUIC")
    protocols = _listed_protocols(reading)
    if protocols and set(protocols) <= {"h2", "http/1.1"} and reading.proxy.dialect != "sing-box":
        reading.find("warning", "`alpn` ignored: it names protocols of TCP, and h3 is sent in their place")
        protocols = []
    tls["alpn"] = protocols or ["h3"]
    return tls


def _handshake(reading: _Reading, security: str) -> dict[str, object]:
    """What all have: whose certificate it must be, and who vouches for it."""
    tls: dict[str, object] = {"enabled": True, "server_name": _server_name(reading, security)}
    if security == "reality":
        reading.drop(("pinSHA256", "pcs", "vcn", "insecure", "ca", "pin"), "Reality has no certificate to check")
        reading.drop(("client-cert", "client-key"), "no meaning with Reality")
        if reading.take("pqv"):
            reading.unsupported("`pqv` (a second signature of the server's): sing-box does not check it")
        if reading.yes("disable-sni"):
            reading.unsupported("`disable-sni` does not go with Reality")
    else:
        reading.drop(("pqv",), "no meaning without Reality")
        for word in ("pinSHA256", "pcs"):
            if reading.take(word):
                # sing-box can hold a server to a public key, but a certificate's hash does not tell its key.
                reading.unsupported(f"`{word}` (trust in one certificate only): sing-box has no such thing")
        if reading.line("vcn").lower() not in ("", tls["server_name"]):
            reading.unsupported("`vcn` (a certificate of another name): sing-box has no such thing")
    if ech := reading.line("ech"):
        tls["ech"] = _encrypted_hello(reading, ech, security)
    for word, name in (("tls-min", "min_version"), ("tls-max", "max_version")):
        if version := reading.choice(word, {"1.0", "1.1", "1.2", "1.3"}):
            tls[name] = version
    if security == "reality":
        return tls
    reading.unverified = reading.yes("insecure")
    if reading.unverified:
        tls["insecure"] = True
    if reading.yes("disable-sni"):
        tls["disable_sni"] = True
    if authority := reading.take("ca"):
        tls["certificate"] = [_pem(reading, "ca", authority, "CERTIFICATE")]
    if pins := reading.line("pin"):
        tls["certificate_public_key_sha256"] = [_pinned(reading, pin) for pin in pins.split(",") if pin.strip()]
        reading.unverified = False
        if authority:
            reading.unsupported("`ca` and `pin` together: sing-box takes one of them")
    certificate, key = reading.take("client-cert"), reading.take("client-key")
    if certificate or key:
        if not (certificate and key):
            reading.broken("`client-cert` and `client-key` go together")
        tls["client_certificate"] = [_pem(reading, "client-cert", certificate, "CERTIFICATE")]
        tls["client_key"] = [Secret(_pem(reading, "client-key", key, "PRIVATE KEY"))]
    return tls


def _server_name(reading: _Reading, security: str) -> str:
    """The name in the TLS handshake, always explicit: sing-box is given the server's address in place of its name.

    Where none is said, v2rayN takes the first `host` (or gRPC's `authority`), and only then the server.
    """
    said = reading.line("sni").strip()
    for word in ("host", "authority") if not said and reading.proxy.kind not in (Kind.HYSTERIA2, Kind.TUIC) else ():
        first = reading.words.get(word, "").partition(",")[0].strip()
        try:
            return syntax.host(ascii_host(first))
        except ValueError:
            continue
    if not said:
        if security == "reality" and syntax.is_address(reading.host):
            reading.find("warning", "Reality without `sni`, the name that it hides behind")
        return reading.host
    if not said.isascii():
        reading.find("note", "`sni` is not ASCII, and is read in its xn-- form")
    try:
        name = ascii_host(said)
    except ValueError:
        reading.broken("`sni` is not a name")
    try:
        return syntax.host(name)
    except ValueError:
        if len(name) > 253 or " " in name or not name.isprintable():
            reading.broken("`sni` is not a name")
        reading.find("warning", "`sni` is no name of a host; it is sent as it is, as clients do")
        return name


def _protocols(reading: _Reading, tls: dict[str, object], transport: str) -> None:
    """ALPN. Where a transport knows its protocol, sing-box says it; a list from elsewhere would break it.

    A browser's ClientHello has a list of its own, Chrome's h2 and http/1.1. Xray and Mihomo leave it as it is, whatever
    `alpn` says; but with ws and httpupgrade they put http/1.1 alone in its place, and so does Xray with plain tcp where
    `alpn` is exactly that. With Reality they never touch it. sing-box puts in what it is given, and leaves the list as
    it is where it is given nothing; ws and httpupgrade give it http/1.1, and gRPC and HTTP/2 give it both.
    """
    protocols = _listed_protocols(reading)
    if reading.proxy.dialect == "sing-box":
        if protocols:
            tls["alpn"] = protocols
        return
    if transport in ("ws", "httpupgrade", "grpc", "http"):
        fixed = "http/1.1" if transport in ("ws", "httpupgrade") else "h2"
        if protocols and protocols != [fixed]:
            reading.find("note", f"`alpn` ignored: with `type` {transport} it is {fixed}")
        return
    if "utls" in tls and (reading.by_xray or reading.proxy.dialect == "clash"):
        put_in = protocols == ["http/1.1"] and "reality" not in tls and reading.by_xray
        if protocols not in ([], ["h2", "http/1.1"]) and not put_in:
            reading.find("note", "`alpn` ignored: the browser's ClientHello of `fp` has its own, as clients leave it")
        if not put_in:
            return
    if "h3" in protocols:
        reading.find("note", "h3 in `alpn` ignored: it has no meaning over TCP")
        protocols.remove("h3")
    if protocols:
        tls["alpn"] = protocols


def _listed_protocols(reading: _Reading) -> list[str]:
    protocols = list(dict.fromkeys(re.split(r"[,\s]+", reading.line("alpn").strip(", "))))
    protocols = [protocol for protocol in protocols if protocol]
    if len(protocols) > 8 or not all(_PROTOCOL.fullmatch(protocol) for protocol in protocols):
        reading.broken("`alpn` is not a list of protocols")
    return protocols


def _reality(reading: _Reading) -> dict[str, object]:
    public_key, short_id = reading.line("pbk"), reading.line("sid")
    if not public_key:
        reading.broken("Reality without `pbk`, the server's key")
    raw = decoded_base64(public_key)
    if raw is None or len(raw) != 32:
        reading.broken("`pbk` is not base64 of 32 bytes")
    if not _SHORT_ID.fullmatch(short_id):
        reading.broken("`sid` is not 0 to 16 hexadecimal digits in pairs")
    if reading.take("spx") not in ("", "/"):
        reading.find("note", "`spx` ignored: it matters only after the server was not recognised")
    return {
        "enabled": True,
        "public_key": base64.urlsafe_b64encode(raw).decode().rstrip("="),  # the one spelling that sing-box takes
        "short_id": Secret(short_id),
    }


def _encrypted_hello(reading: _Reading, text: str, security: str) -> dict[str, object]:
    if security == "reality":
        reading.unsupported("`ech` does not go with Reality")
    if "://" in text:
        reading.unsupported("`ech` that is asked for by DNS is not carried")
    raw = decoded_base64(text.replace(" ", "+"))
    if not raw:
        reading.broken("`ech` is not base64")
    body = base64.b64encode(raw).decode()
    return {"enabled": True, "config": ["-----BEGIN ECH CONFIGS-----", body, "-----END ECH CONFIGS-----"]}


def _pem(reading: _Reading, name: str, text: str, label: str) -> str:
    blocks = [block for block in re.split(r"(?<=-----)\s+(?=-----BEGIN )", text.strip()) if block]
    found = [_PEM.fullmatch(block) for block in blocks]
    if not blocks or len(blocks) > 64 or not all(block and block[1].endswith(label) for block in found):
        reading.broken(f"`{name}` is not in PEM")
    return text.strip() + "\n"


def _pinned(reading: _Reading, text: str) -> str:
    raw = decoded_base64(text.strip())
    if raw is None or len(raw) != 32:
        reading.broken("`pin` is not base64 of 32 bytes")
    return base64.b64encode(raw).decode()


def _port_ranges(reading: _Reading, text: str) -> list[tuple[int, int]]:
    ranges = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        low, dash, high = part.replace(":", "-").partition("-")
        try:
            first = syntax.port(low.strip())
            last = syntax.port(high.strip()) if dash else first
        except ValueError as fault:
            reading.broken(str(fault))
        if last < first:
            reading.broken("a range of ports ends before it begins")
        ranges.append((first, last))
    return list(dict.fromkeys(ranges))


def decoded_base64(text: str) -> bytes | None:
    """Bytes of standard or URL-safe base64, with or without padding, with blanks in it; None for other text."""
    bare = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _escaped(text: str) -> str:
    return re.sub(r"([\\;=])", r"\\\1", text)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
