"""What a proxy means: the sing-box outbound of each kind, and which words cannot be honoured.

Sans-I/O. Links, subscriptions and documents differ in grammar only. What they come to, in the words of
:mod:`vpntest.plan.proxy_words`, is said here once, and for the kinds that share them in `proxy_tls` and
`proxy_transports`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote
from uuid import UUID

from vpntest.plan import proxy_tls, syntax
from vpntest.plan.model import Finding, Kind, ProxyConfig, Server
from vpntest.plan.proxy_transports import further_headers, http_host, multiplex, secured
from vpntest.plan.proxy_words import NO, PEM, USER_ID, YES, Proxy, Reading
from vpntest.plan.secret import Secret

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
_VMESS_CIPHERS = frozenset("auto none zero aes-128-gcm chacha20-poly1305 aes-128-cfb".split())
_HOST_KEY = re.compile(r"(?:ssh-|ecdsa-|sk-)[\w@.-]{1,64} +([A-Za-z0-9+/]+={0,2})(?: .*)?")
_HTTPS_PORT = 443
_PORT_RANGES = 64
"""At most so many; sing-box writes out every port of every range."""


def outbound(proxy: Proxy) -> tuple[ProxyConfig, tuple[Finding, ...]]:
    """What the proxy means to sing-box, and what a reader should know of it.

    Leaves `proxy` as it is. Raises ConfigError for a broken one, its subclass Unsupported for one that asks for what
    is not carried, with the parameter's name.
    """
    reading = Reading(proxy)
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


# ── one reader per kind ───────────────────────────────────────────────────────────────────────────────────────────────


def _shadowsocks(reading: Reading) -> tuple[Server, dict[str, object]]:
    if reading.take("prefix"):
        reading.unsupported("`prefix` (Outline's disguise of the first packet): sing-box has no such thing")
    fields = _cipher(reading)
    _udp(reading)
    if (uot := reading.choice("uot", {"2", *YES, *NO})) and uot not in NO:
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
        multiplex(reading, fields)
    return reading.tcp(), fields


def _cipher(reading: Reading) -> dict[str, object]:
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
        keys = [syntax.decoded_base64(key) for key in texts]
        if method == "2022-blake3-chacha20-poly1305" and len(keys) > 1:
            reading.broken("this method takes one key, not several")
        if any(key is None or len(key) != length for key in keys):
            reading.broken(f"the password of {method} is base64 of {length} bytes")
        # sing-box takes the standard alphabet with padding only.
        secret = Secret(":".join(base64.b64encode(key).decode() for key in keys if key))
    return {"method": method, "password": secret}


def _plugin(reading: Reading, text: str) -> dict[str, object]:
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


def _obfs(reading: Reading, options: dict[str, str]) -> dict[str, str]:
    mode = options.pop("obfs", "http").lower()
    if mode not in ("http", "tls"):
        reading.unsupported("`plugin`: obfs is neither http nor tls")
    if options.pop("obfs-uri", "/") != "/":
        reading.unsupported("`plugin`: `obfs-uri` is not carried")
    host = options.pop("obfs-host", "")
    if not host and reading.proxy.dialect != "sing-box":  # which sends an empty one
        host = "cloudfront.net"  # simple-obfs' own
    return {"obfs": mode, "obfs-host": http_host(reading, host)} if host else {"obfs": mode}


def _v2ray_plugin(reading: Reading, options: dict[str, str]) -> dict[str, str]:
    if options.pop("mode", "websocket").lower() not in ("websocket", "ws"):
        reading.unsupported("`plugin`: v2ray-plugin with a mode other than websocket is not carried")
    if options.pop("cert", ""):
        raise syntax.Refused("`plugin`: `cert` names a file on this machine", where=reading.proxy.where)
    kept = {}
    if options.pop("tls", "0").lower() in YES:
        kept["tls"] = "1"
    host = options.pop("host", "")
    if not host and reading.proxy.dialect == "sing-box" and "tls" in kept and not syntax.is_address(reading.host):
        # Of `host` it makes both names, but without one it takes the server's in TLS, and we dial by address.
        reading.unsupported("`plugin`: v2ray-plugin with `tls` and without `host`, whose two names then differ")
    if host or reading.proxy.dialect != "sing-box":
        # Without one the plugin itself says cloudfront.com, and asks for that name's certificate.
        kept["host"] = http_host(reading, host or "cloudfront.com")
    kept["path"] = options.pop("path", "") or "/"
    if not kept["path"].startswith("/"):
        kept["path"] = "/" + kept["path"]
    if re.search(r"[?#]|%(?![0-9A-Fa-f]{2})", kept["path"]):
        reading.unsupported("`plugin`: a path that sing-box would write in other letters")
    mux = options.pop("mux", "1").lower()
    if mux not in NO | YES and not re.fullmatch("[0-9]{1,4}", mux):
        reading.broken("`plugin`: `mux` is not a number")
    kept["mux"] = "0" if mux in NO else "1"
    if raw := options.pop("certRaw", ""):
        bare = raw.replace(" ", "+")
        if syntax.decoded_base64(bare) is None:
            reading.broken("`plugin`: `certRaw` is not base64")
        kept["certRaw"] = bare
    return kept


def _vless(reading: Reading) -> tuple[Server, dict[str, object]]:
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
    secured(reading, fields, default="none")
    if flow not in ("", "none"):
        if "transport" in fields or "tls" not in fields:
            reading.unsupported("`flow` goes with TLS or Reality over plain tcp only")
        if "multiplex" in fields:
            reading.unsupported("`mux` does not go with `flow`")
        fields["flow"] = "xtls-rprx-vision"
    if "tls" not in fields:
        _in_the_clear(reading)
    return reading.tcp(), fields


def _vmess(reading: Reading) -> tuple[Server, dict[str, object]]:
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
    secured(reading, fields, default="none")
    if "tls" not in fields and cipher in ("none", "zero"):
        _in_the_clear(reading)
    return reading.tcp(), fields


def _trojan(reading: Reading) -> tuple[Server, dict[str, object]]:
    fields: dict[str, object] = {"password": reading.password()}
    _udp(reading)
    secured(reading, fields, default="tls")
    if "tls" not in fields:
        _in_the_clear(reading)
    return reading.tcp(_HTTPS_PORT), fields


def _hysteria2(reading: Reading) -> tuple[Server, dict[str, object]]:
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
    fields["tls"] = proxy_tls.over_quic(reading)
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


def _hops(reading: Reading) -> list[tuple[int, int]]:
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


def _tuic(reading: Reading) -> tuple[Server, dict[str, object]]:
    if reading.take("token") or reading.line("version") not in ("", "5"):
        reading.unsupported("TUIC before version 5 (`token`): sing-box has version 5 only")
    user = reading.proxy.username.strip()
    if not USER_ID.fullmatch(user):
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
    fields["tls"] = proxy_tls.over_quic(reading)
    return Server(host=reading.host, port=reading.port(), transport="udp"), fields


def _anytls(reading: Reading) -> tuple[Server, dict[str, object]]:
    fields: dict[str, object] = {"password": reading.password()}
    tls = proxy_tls.over_tcp(reading, default="tls")
    if tls is None:
        reading.unsupported("`security`: AnyTLS is nothing without TLS")
    fields["tls"] = tls
    if _udp_is_off(reading):
        reading.find("note", "`udp` ignored: AnyTLS carries it in any case")
    return reading.tcp(_HTTPS_PORT), fields


def _socks(reading: Reading) -> tuple[Server, dict[str, object]]:
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


def _http(reading: Reading) -> tuple[Server, dict[str, object]]:
    fields = _login(reading)
    if tls := proxy_tls.over_tcp(reading, default="none"):
        fields["tls"] = tls
    else:
        _in_the_clear(reading)
    if headers := further_headers(reading):
        fields["headers"] = headers
    if (path := reading.line("path")) not in ("", "/"):
        fields["path"] = path
    _udp_is_off(reading)
    return reading.tcp(_HTTPS_PORT if tls else 80), fields


def _ssh(reading: Reading) -> tuple[Server, dict[str, object]]:
    user = reading.proxy.username.strip()
    fields: dict[str, object] = {"user": Secret(user) if user else "root"}
    if reading.proxy.password:
        fields["password"] = reading.password()
    if key := reading.take("private-key"):
        found = PEM.fullmatch(key)
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
        if not found or syntax.decoded_base64(found[1]) is None:
            reading.broken("`host-key` is not a public key of SSH")
    if keys:
        fields["host_key"] = keys
    else:
        reading.find("danger", "no `host-key`: anybody can pose as the server, and learns the password")
    _udp_is_off(reading)
    return reading.tcp(22), fields


_READERS: dict[Kind, Callable[[Reading], tuple[Server, dict[str, object]]]] = {
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


# ── what kinds share ──────────────────────────────────────────────────────────────────────────────────────────────────


def _in_the_clear(reading: Reading) -> None:
    # No mere warning: names of sites, passwords and the fact itself are open to the very observer who is feared.
    reading.find(
        "danger", "no encryption on the way to the server: others can read what passes, and pose as the server"
    )


def _bare(reading: Reading, name: str, usual: Iterable[str]) -> None:
    """Refuses a word whose value is not one of those that change nothing."""
    if reading.take(name).lower() not in {"", *usual}:
        reading.unsupported(f"`{name}` has a value that is not carried with {reading.proxy.kind.value}")


def _udp_is_off(reading: Reading) -> bool:
    return "udp" in reading.words and reading.take("udp").lower() in NO


def _udp(reading: Reading) -> None:
    if _udp_is_off(reading):
        reading.udp = False


def _login(reading: Reading) -> dict[str, object]:
    fields: dict[str, object] = {}
    if reading.proxy.username:
        fields["username"] = Secret(reading.proxy.username)
    if reading.proxy.password:
        fields["password"] = reading.password()
    return fields


def _port_ranges(reading: Reading, text: str) -> list[tuple[int, int]]:
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


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _escaped(text: str) -> str:
    return re.sub(r"([\\;=])", r"\\\1", text)
