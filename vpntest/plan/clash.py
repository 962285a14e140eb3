"""Reads the proxies of Clash's and Mihomo's documents, one entry each.

Sans-I/O. A key that is not read makes its proxy unsupported, with its name: left out, it would silently test another
setup than the one in use. Keys: Mihomo's documentation (config/proxies) and its adapter/outbound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from vpntest.errors import ConfigError
from vpntest.plan import outcome, wgquick
from vpntest.plan.model import Entry, Kind
from vpntest.plan.outbounds import disguise, early_data, endpoint, headers_of, no_reserved, place, sing_mux, tables, yes
from vpntest.plan.outcome import Meaning
from vpntest.plan.proxies import KINDS, outbound
from vpntest.plan.proxy_words import Proxy
from vpntest.plan.syntax import Refused
from vpntest.plan.trees import Keys, Table

_OWN_NAMES = {Kind.SHADOWSOCKS: "ss", Kind.SOCKS: "socks5"}
_KINDS = {_OWN_NAMES.get(kind, kind.value): kind for kind in (*KINDS, Kind.WIREGUARD)}
_KNOWN = frozenset(
    "ssr snell hysteria mieru masque sudoku trusttunnel tailscale openvpn juicity naive shadowquic gost-relay".split()
)
"""Mihomo's types that are not carried."""
_NO_SERVER = frozenset("direct dns reject reject-drop pass compatible".split())
_WITH_TLS = frozenset({Kind.VLESS, Kind.VMESS, Kind.HTTP, Kind.SOCKS})
"""Where TLS is on only if `tls` says so; the others cannot do without, or never have it."""
_ALWAYS_TLS = frozenset({Kind.TROJAN, Kind.HYSTERIA2, Kind.TUIC, Kind.ANYTLS})
_UDP_IF_SAID = frozenset({Kind.SHADOWSOCKS, Kind.VLESS, Kind.VMESS, Kind.TROJAN})
"""Where Mihomo lets UDP pass only if `udp` says so, and we can have it so too."""
_AMNEZIA = {
    **{name: name.capitalize() for name in "jc jmin jmax s1 s2 s3 s4 h1 h2 h3 h4 i1 i2 i3 i4 i5 j1 j2 j3".split()},
    "itime": "Itime",
}
_SPEED = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(?:([kmgt]?)(b|bps|ps|b/s)?)?", re.IGNORECASE)


def proxies(document: Table, where: str) -> Iterator[Entry]:
    """The entries of a Clash or Mihomo config, or of a provider's list of proxies."""
    if document.twice in ("proxies", "Proxy"):
        yield outcome.faulty(ConfigError("`proxies` stands in it twice", where=where))
        return
    given = document.get("proxies") or document.get("Proxy")
    if not isinstance(given, list) or not given:
        if document.get("proxy-providers"):
            fault: ConfigError = ConfigError(
                "its proxies stand elsewhere: `proxy-providers` are not fetched",
                where=where,
                hint="fetch them yourself",
            )
        else:
            fault = ConfigError("`proxies` holds none", where=where)
        yield outcome.faulty(fault)
        return
    for number, one in enumerate(given, 1):
        if not isinstance(one, Table):
            yield outcome.faulty(ConfigError("not a table of settings", where=f"{where}: proxy {number}"))
        elif str(one.get("type")) not in _NO_SERVER:
            yield _entry(one, where)


def _entry(table: Table, where: str) -> Entry:
    name, named = table.get("name"), str(table.get("type")).lower()
    kind = _KINDS.get(named, Kind.UNKNOWN)

    def parse() -> Meaning:
        keys = Keys(table, where, lenient=True)
        if kind is Kind.UNKNOWN:
            keys.unsupported(f"`{named}` is not carried" if named in _KNOWN else "a `type` that is not carried")
        keys.leave(
            "name", "type", "ip-version", "interface-name", "routing-mark", "mptcp", "test-url", "hidden", "icon"
        )
        keys.refuse({"dialer-proxy": "it goes through another proxy"})
        if kind is Kind.WIREGUARD:
            meaning = _wireguard(keys)
            return meaning[0], (*keys.findings, *meaning[1])
        proxy = _proxy(kind, keys)
        keys.done()
        return outbound(proxy)

    return outcome.made(kind, parse, line=table.line, label="" if name is None else str(name))


def _proxy(kind: Kind, keys: Keys) -> Proxy:
    words: dict[str, str] = {}
    server, port = keys.text("server"), keys.text("port")
    proxy = Proxy(kind, place(keys), server, port, parameters=words, findings=keys.findings, dialect="clash")
    if kind in _UDP_IF_SAID:
        if "udp" not in keys.table:
            keys.note("`udp` is not said, and no UDP passes, as Mihomo has it")
        words["udp"] = yes(keys.flag("udp")) or "0"
    else:
        keys.leave("udp")
    if keys.flag("tfo", "fast-open"):
        words["tfo"] = "1"
    _READERS[kind](proxy, keys)
    if kind in _WITH_TLS or kind in _ALWAYS_TLS:
        _tls(kind, keys, words)
    else:
        keys.leave("tls", "skip-cert-verify", "sni", "servername", "alpn", "client-fingerprint")
    if kind in (Kind.VLESS, Kind.VMESS, Kind.TROJAN):
        _transport(keys, words)
        if words["type"] in ("ws", "httpupgrade"):
            words["host"] = words.get("host") or proxy.host
        if kind is Kind.TROJAN and words["type"] == "tcp":
            words["alpn"] = words.get("alpn") or "h2,http/1.1"  # Mihomo's own, for no other kind
    if words.get("security", "none") != "none" and (
        kind is Kind.TROJAN or words.get("type") not in ("ws", "httpupgrade")
    ):
        # With WebSocket VMess and VLESS show the `Host` header's name, as links do.
        words["sni"] = words.get("sni") or proxy.host
    if (mux := keys.inner("smux")) and mux.flag("enabled"):
        mux.leave("statistic")
        mux.refuse({"only-tcp": ""})
        sing_mux(mux, words, "-", "brutal-opts")
    return proxy


# ── kinds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _shadowsocks(proxy: Proxy, keys: Keys) -> None:
    proxy.username, proxy.password = keys.text("cipher"), keys.text("password")
    if keys.flag("udp-over-tcp"):
        # Mihomo's default is the older version; sing-box's is the newer.
        proxy.parameters["uot"] = keys.number("udp-over-tcp-version") or "1"
    keys.leave("udp-over-tcp-version", "network")
    plugin, options = keys.text("plugin"), keys.inner("plugin-opts")
    if plugin:
        if plugin not in ("obfs", "v2ray-plugin"):
            # Its options say nothing that could be honoured.
            known = ("shadow-tls", "restls", "gost-plugin", "kcptun")
            keys.unsupported(f"the plugin `{plugin}` is not carried" if plugin in known else "an unknown plugin")
        options = options or Keys(Table(), keys.where)
        proxy.parameters["plugin"] = ";".join(_plugin(plugin, options))


def _plugin(plugin: str, options: Keys) -> Iterator[str]:
    def escaped(text: str) -> str:
        return re.sub(r"([;=\\])", r"\\\1", text)

    mode, host = options.text("mode"), options.text("host") or "bing.com"  # Mihomo's own
    if plugin == "obfs":
        yield "obfs-local"
        yield f"obfs={escaped(mode)}"
        yield f"obfs-host={escaped(host)}"
    else:
        yield "v2ray-plugin"
        if mode:
            yield f"mode={escaped(mode)}"
        if options.flag("tls"):
            yield "tls"
        yield f"host={escaped(host)}"
        if path := options.text("path"):
            yield f"path={escaped(path)}"
        # On where Mihomo's document does not say.
        if options.table.get("mux") is not None and not options.flag("mux"):
            yield "mux=0"
        options.leave("mux")
        options.refuse(
            dict.fromkeys(("skip-cert-verify", "headers", "fingerprint", "v2ray-http-upgrade", "ech-opts"), "")
        )
        options.leave("v2ray-http-upgrade-fast-open")
    options.done()


def _vless(proxy: Proxy, keys: Keys) -> None:
    proxy.username = keys.text("uuid")
    proxy.parameters |= {"flow": keys.text("flow"), "encryption": keys.text("encryption")}
    _packets(proxy, keys)
    keys.leave("cipher", "alterId")  # generators write them for VMess and VLESS alike


def _vmess(proxy: Proxy, keys: Keys) -> None:
    proxy.username = keys.text("uuid")
    proxy.parameters |= {
        "aid": keys.number("alterId"),
        "scy": keys.text("cipher"),
        "global-padding": yes(keys.flag("global-padding")),
        "authenticated-length": yes(keys.flag("authenticated-length")),
    }
    _packets(proxy, keys)


def _packets(proxy: Proxy, keys: Keys) -> None:
    encoding = keys.text("packet-encoding")
    if keys.flag("xudp"):
        encoding = encoding or "xudp"
    if keys.flag("packet-addr"):
        encoding = encoding or "packetaddr"
    proxy.parameters["packetEncoding"] = encoding


def _trojan(proxy: Proxy, keys: Keys) -> None:
    proxy.password = keys.text("password")
    if (inner := keys.inner("ss-opts")) and inner.flag("enabled"):
        keys.unsupported("`ss-opts` is not supported: Shadowsocks within Trojan")
    keys.leave("flow", "flow-show")


def _hysteria2(proxy: Proxy, keys: Keys) -> None:
    proxy.password = keys.text("password", "auth")
    proxy.parameters |= {
        "mport": keys.text("ports").replace("/", ","),
        "hop-interval": keys.text("hop-interval"),
        "up": _megabits(keys, "up"),
        "down": _megabits(keys, "down"),
        "obfs": keys.text("obfs"),
        "obfs-password": keys.text("obfs-password"),
    }
    keys.leave("cwnd", "udp-mtu", "protocol", "initial-stream-receive-window", "max-stream-receive-window")
    keys.leave("initial-connection-receive-window", "max-connection-receive-window", "recv-window", "recv-window-conn")
    keys.leave("disable-mtu-discovery", "up-speed", "down-speed")


def _tuic(proxy: Proxy, keys: Keys) -> None:
    proxy.username, proxy.password = keys.text("uuid"), keys.text("password")
    heartbeat = keys.number("heartbeat-interval")
    proxy.parameters |= {
        "token": keys.text("token"),
        "congestion_control": keys.text("congestion-controller"),
        "udp_relay_mode": keys.text("udp-relay-mode"),
        "udp-over-stream": yes(keys.flag("udp-over-stream")),
        "reduce-rtt": yes(keys.flag("reduce-rtt")),
        "heartbeat": str(max(1, round(int(heartbeat) / 1000))) if heartbeat else "",
    }
    if address := keys.text("ip"):
        proxy.parameters["sni"] = keys.table.get("sni") or proxy.host
        proxy.host = address
    keys.leave("request-timeout", "max-udp-relay-packet-size", "fast-open", "max-open-streams", "cwnd")
    keys.leave("udp-over-stream-version", "recv-window", "recv-window-conn", "disable-mtu-discovery", "version")


def _anytls(proxy: Proxy, keys: Keys) -> None:
    proxy.password = keys.text("password")
    keys.leave("idle-session-check-interval", "idle-session-timeout", "min-idle-session")


def _named(proxy: Proxy, keys: Keys) -> None:
    proxy.username, proxy.password = keys.text("username"), keys.text("password")
    if proxy.kind is Kind.HTTP:
        proxy.parameters["headers"] = headers_of(keys, proxy.parameters, host=False)


def _ssh(proxy: Proxy, keys: Keys) -> None:
    _named(proxy, keys)
    proxy.parameters |= {
        "private-key": _pem(keys, "private-key"),
        "passphrase": keys.text("private-key-passphrase"),
        "host-key": "\n".join(keys.texts("host-key")),
    }
    keys.refuse({"host-key-algorithms": ""})


_READERS: dict[Kind, Callable[[Proxy, Keys], None]] = {
    Kind.SHADOWSOCKS: _shadowsocks,
    Kind.VLESS: _vless,
    Kind.VMESS: _vmess,
    Kind.TROJAN: _trojan,
    Kind.HYSTERIA2: _hysteria2,
    Kind.TUIC: _tuic,
    Kind.ANYTLS: _anytls,
    Kind.SOCKS: _named,
    Kind.HTTP: _named,
    Kind.SSH: _ssh,
}


def _wireguard(keys: Keys) -> Meaning:
    keys.leave("udp", "remote-dns-resolve", "workers", "refresh-server-ip-interval", "tfo")
    interface = [
        ("PrivateKey", keys.text("private-key")),
        ("Address", ", ".join(filter(None, (keys.text("ip"), keys.text("ipv6"))))),
        ("DNS", ", ".join(keys.texts("dns"))),
        ("MTU", keys.number("mtu")),
    ]
    if amnezia := keys.inner("amnezia-wg-option"):
        interface += [(_AMNEZIA[name], amnezia.text(name)) for name in list(amnezia.table) if name in _AMNEZIA]
        amnezia.done()
    keepalive = keys.number("persistent-keepalive")
    given = keys.take("peers")
    own = [keys] if not given else tables(keys, given if isinstance(given, list) else [given], "peers")
    peers = []
    for peer in own:
        no_reserved(peer)
        found = [
            ("PublicKey", peer.text("public-key")),
            ("PresharedKey", peer.text("pre-shared-key", "preshared-key")),
            ("AllowedIPs", ", ".join(peer.texts("allowed-ips")) or "0.0.0.0/0, ::/0"),
            ("Endpoint", endpoint(peer.text("server"), peer.text("port"))),
            ("PersistentKeepalive", keepalive),
        ]
        peer.done()
        peers.append(found)
    if given:
        keys.leave("server", "port", "public-key", "pre-shared-key", "allowed-ips", "reserved")
    keys.done()
    return wgquick.from_keys(interface, peers, place(keys))


# ── what kinds share ─────────────────────────────────────────────────────────────────────────────────────────────────


def _tls(kind: Kind, keys: Keys, words: dict[str, str]) -> None:
    on = keys.flag("tls") or kind in _ALWAYS_TLS
    found = {
        "sni": keys.text("servername", "sni", "peer"),
        "insecure": yes(keys.flag("skip-cert-verify")),
        "alpn": ",".join(keys.texts("alpn")),
        "fp": keys.text("client-fingerprint").replace("none", ""),
        "disable-sni": yes(keys.flag("disable-sni")),
        "ca": "\n".join(keys.texts("ca-str")),
        "client-cert": _pem(keys, "certificate"),
        "client-key": _pem(keys, "private-key"),
        "pinSHA256" if kind is Kind.HYSTERIA2 else "pcs": keys.text("fingerprint"),
    }
    if keys.take("ca"):
        raise Refused("`ca` names a file of this machine", where=keys.where, line=keys.line)
    reality, ech = keys.inner("reality-opts"), keys.inner("ech-opts")
    if not on:
        words["security"] = "none"
        return
    words["security"] = "tls"
    words |= {key: value for key, value in found.items() if value}
    if reality and reality.table.get("public-key"):
        words |= {"security": "reality", "pbk": reality.text("public-key"), "sid": reality.text("short-id")}
        if kind not in (Kind.VLESS, Kind.VMESS, Kind.TROJAN):
            keys.unsupported("`reality-opts` is not supported here")
        reality.leave("support-x25519mlkem768")
        reality.done()
    if ech and ech.flag("enable"):
        words["ech"] = ech.text("config") or keys.unsupported(
            "`ech-opts` without its config: DNS would have to be asked"
        )
        ech.leave("query-server-name")
        ech.done()


def _pem(keys: Keys, name: str) -> str:
    """A key or certificate that stands in the document; never one in a file."""
    text = keys.text(name)
    if text and "-----BEGIN" not in text:
        raise Refused(f"{keys.named(name)} names a file of this machine", where=keys.where, line=keys.line)
    return text


def _transport(keys: Keys, words: dict[str, str]) -> None:
    network = (keys.text("network") or "tcp").lower()
    ws, http, h2, grpc = (keys.inner(f"{name}-opts") for name in ("ws", "http", "h2", "grpc"))
    keys.leave("xhttp-opts", "splithttp-opts")
    # The spelling of Clash before 2021.
    path, headers = keys.text("ws-path"), headers_of(keys, words) if keys.table.get("headers") else ""
    if old := keys.inner("ws-headers"):
        words["host"] = old.text("Host", "host")
        old.done()
    words["type"] = {"h2": "http", "websocket": "ws"}.get(network, network)
    if network == "ws":
        if path:
            words["path"] = path
        if headers:
            words["headers"] = headers
        if ws:
            words["path"] = ws.text("path") or path
            words["headers"] = headers_of(ws, words)
            early_data(ws, words, "max-early-data", "early-data-header-name")
            if ws.flag("v2ray-http-upgrade"):
                words["type"] = "httpupgrade"
            ws.leave("v2ray-http-upgrade-fast-open")
            ws.done()
    elif network == "http":
        # Not HTTP as a transport, but TCP behind the head of one request.
        words |= {"type": "tcp", "headerType": "http"}
        if http:
            disguise(http, words)
    elif network == "h2" and h2:
        words |= {"host": ",".join(h2.texts("host")), "path": h2.text("path")}
        h2.done()
    elif network == "grpc" and grpc:
        words["serviceName"] = grpc.text("grpc-service-name")
        grpc.leave("ping-interval", "max-connections", "min-streams", "max-streams")
        grpc.refuse({"grpc-user-agent": ""})
        grpc.done()


def _megabits(keys: Keys, name: str) -> str:
    """A speed in Mbit/s; a bare number is that already (Hysteria's `30 Mbps`; a capital B is bytes)."""
    text = keys.text(name).strip()
    if not text:
        return ""
    found = _SPEED.fullmatch(text)
    if not found:
        keys.broken(f"{keys.named(name)} is not a speed")
    number, scale, unit = found.groups()
    if not scale and not unit:
        megabits = float(number)
    else:
        megabits = float(number) * {"": 1e-6, "k": 1e-3, "m": 1.0, "g": 1e3, "t": 1e6}[(scale or "").lower()]
        if (unit or "").startswith("B"):
            megabits *= 8
    return str(max(1, round(megabits))) if megabits else ""
