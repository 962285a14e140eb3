"""Reads sing-box's and Xray's JSON: every outbound and endpoint that leads to a server, one entry each.

Sans-I/O. A key that is not read makes its outbound unsupported, with its name: left out, it would silently test another
setup than the one in use. Outbounds that only choose, end or drop connections are no tunnels and are counted in a note.
Keys: sing-box's documentation of 1.14 (configuration/outbound, configuration/endpoint, shared/tls, shared/v2ray-
transport, shared/multiplex) and Xray's (config/outbounds, config/transports).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import structs

from vpntest.errors import ConfigError
from vpntest.plan import outcome, proxies, wgquick
from vpntest.plan.model import Entry, Finding, Kind
from vpntest.plan.outcome import Meaning
from vpntest.plan.proxy_words import Proxy
from vpntest.plan.syntax import Refused
from vpntest.plan.trees import Keys, Table

_NO_SERVER = frozenset("selector urltest direct block dns freedom blackhole loopback".split())
_SING_BOX = {kind.value: kind for kind in (*proxies.KINDS, Kind.WIREGUARD)}
_XRAY = {name: _SING_BOX[name] for name in "shadowsocks vless vmess trojan socks http wireguard".split()}
_KNOWN = frozenset("hysteria shadowtls shadowsocksr tor naive snell mieru tailscale juicity trusttunnel masque".split())
"""Types of clients' documents that are not carried."""
_DIALING = (
    *("bind_interface", "inet4_bind_address", "inet6_bind_address", "routing_mark", "netns", "reuse_addr"),
    *("connect_timeout", "domain_resolver", "domain_strategy", "network_strategy", "network_type"),
    *("fallback_network_type", "fallback_delay", "udp_fragment", "udp_timeout", "bind_address_no_port"),
    *("tcp_keep_alive", "tcp_keep_alive_interval", "disable_tcp_keep_alive"),
)
"""How sing-box leaves its own machine: nothing that the server sees."""


def sing_box(document: Table, where: str) -> Iterator[Entry]:
    """The entries of a sing-box config, or of one outbound of it alone."""
    yield from _each(document, where, "type", _SING_BOX, _sing_box)


def xray(document: Table, where: str, label: str = "") -> Iterator[Entry]:
    """The entries of an Xray (V2Ray) config, or of one outbound of it alone; `label` is what the whole is called."""
    yield from _each(document, where, "protocol", _XRAY, _xray, label)


def _each(
    document: Table,
    where: str,
    type_key: str,
    kinds: dict[str, Kind],
    read: Callable[[Kind, Keys], Proxy | Meaning],
    name: str = "",
) -> Iterator[Entry]:
    found: list[Any] = []
    if type_key in document and "outbounds" not in document:
        found = [document]
    for key in ("outbounds", "endpoints") if not found else ():
        if not isinstance(inner := document.get(key) or [], list):
            yield outcome.faulty(ConfigError(f"`{key}` is not a list", where=where))
            return
        else:
            found += inner
    skipped = sorted({str(one[type_key]) for one in found if _skipped(one, type_key)})
    note = Finding("note", f"left out, for they are no servers: {', '.join(skipped)}") if skipped else None
    found = [one for one in found if not _skipped(one, type_key)]
    if not found:
        yield outcome.faulty(ConfigError("no outbound in it leads to a server", where=where))
    for number, one in enumerate(found):
        tag = str(one.get("tag") or "") if isinstance(one, Table) else ""
        label = tag if not name else name if len(found) == 1 else f"{name} {tag}"
        entry = _entry(one, f"{where}: outbound {number + 1}", where, type_key, kinds, read, label)
        if note and entry.config:
            entry, note = structs.replace(entry, findings=(*entry.findings, note)), None
        yield entry


def _skipped(outbound: Any, type_key: str) -> bool:
    return isinstance(outbound, Table) and str(outbound.get(type_key)) in _NO_SERVER


def _entry(
    outbound: Any,
    place: str,
    where: str,
    type_key: str,
    kinds: dict[str, Kind],
    read: Callable[[Kind, Keys], Proxy | Meaning],
    label: str,
) -> Entry:
    if not isinstance(outbound, Table):
        return outcome.faulty(ConfigError("not a table of settings", where=place))
    kind = kinds.get(str(outbound.get(type_key)), Kind.UNKNOWN)

    def parse() -> Meaning:
        keys = Keys(outbound, where, lenient=read is _xray)
        named = keys.text(type_key).lower()
        if kind is Kind.UNKNOWN:
            keys.unsupported(f"`{named}` is not carried" if named in _KNOWN else f"a `{type_key}` that is not carried")
        keys.leave("tag")
        meaning = read(kind, keys)
        keys.done()
        if isinstance(meaning, tuple):
            return meaning[0], (*keys.findings, *meaning[1])
        meaning.findings[:0] = keys.findings
        return proxies.outbound(meaning)

    return outcome.made(kind, parse, line=outbound.line, label=label)


def place(keys: Keys) -> str:
    return keys.where if keys.line is None else f"{keys.where}:{keys.line}"


# ── sing-box ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sing_box(kind: Kind, keys: Keys) -> Proxy | Meaning:
    keys.refuse({"detour": "it goes through another outbound", "tcp_multi_path": ""})
    given = [key for key in _DIALING if keys.take(key) not in (None, "", False)]
    if given:
        named = ", ".join(f"`{key}`" for key in given)
        keys.note(f"{named}: ignored, for it says how to leave another machine")
    if kind is Kind.WIREGUARD:
        return _sing_box_wireguard(keys)
    words: dict[str, str] = {}
    if keys.flag("tcp_fast_open"):
        words["tfo"] = "1"
    server, port = keys.text("server"), keys.number("server_port")
    proxy = Proxy(kind, place(keys), server, port, parameters=words, dialect="sing-box")
    network = keys.texts("network")
    if network == ["tcp"]:
        words["udp"] = "0"
    elif network == ["udp"]:
        keys.unsupported("`network` is udp only: nothing could be measured through it")
    _SING_BOX_READERS[kind](proxy, keys)
    if kind not in (Kind.SHADOWSOCKS, Kind.SOCKS, Kind.SSH):
        _sing_box_tls(keys, words)
    if kind in (Kind.VLESS, Kind.VMESS, Kind.TROJAN):
        _sing_box_transport(keys, words)
    _name_server(proxy)
    muxed = kind in (Kind.VLESS, Kind.VMESS, Kind.TROJAN, Kind.SHADOWSOCKS)
    if muxed and (mux := keys.inner("multiplex")) and mux.flag("enabled"):
        sing_mux(mux, words, "_", "brutal")
    return proxy


def _ss(proxy: Proxy, keys: Keys) -> None:
    proxy.username, proxy.password = keys.text("method"), keys.text("password")
    plugin, options = keys.text("plugin"), keys.text("plugin_opts")
    if plugin:
        proxy.parameters["plugin"] = f"{plugin};{options}" if options else plugin
    _uot(proxy, keys)


def _uot(proxy: Proxy, keys: Keys) -> None:
    if isinstance(keys.table.get("udp_over_tcp"), bool):
        if keys.flag("udp_over_tcp"):
            proxy.parameters["uot"] = "2"
    elif inner := keys.inner("udp_over_tcp"):
        version = inner.number("version") or "2"
        if inner.flag("enabled"):
            proxy.parameters["uot"] = version
        inner.done()


def _vless(proxy: Proxy, keys: Keys) -> None:
    proxy.username = keys.text("uuid")
    # Absent it is xudp; empty it is off.
    encoding = "none" if keys.table.get("packet_encoding") == "" else keys.text("packet_encoding")
    keys.leave("packet_encoding")
    proxy.parameters |= {"flow": keys.text("flow"), "packetEncoding": encoding}


def _vmess(proxy: Proxy, keys: Keys) -> None:
    proxy.username = keys.text("uuid")
    proxy.parameters |= {
        "aid": keys.number("alter_id"),
        "scy": keys.text("security"),
        "packetEncoding": keys.text("packet_encoding"),
        "global-padding": yes(keys.flag("global_padding")),
        "authenticated-length": yes(keys.flag("authenticated_length")),
    }


def _password(proxy: Proxy, keys: Keys) -> None:
    proxy.password = keys.text("password")


def _hysteria2(proxy: Proxy, keys: Keys) -> None:
    _password(proxy, keys)
    ports = ",".join(ports.replace(":", "-").strip("-") for ports in keys.texts("server_ports"))
    shortest, longest = _seconds(keys, "hop_interval"), _seconds(keys, "hop_interval_max")
    proxy.parameters |= {
        "mport": ports,
        "hop-interval": f"{shortest}-{longest}" if longest else shortest,
        "up": keys.number("up_mbps"),
        "down": keys.number("down_mbps"),
    }
    keys.leave("brutal_debug")
    keys.refuse({"bbr_profile": ""})
    if obfs := keys.inner("obfs"):
        proxy.parameters |= {"obfs": obfs.text("type"), "obfs-password": obfs.text("password")}
        obfs.done()


def _tuic(proxy: Proxy, keys: Keys) -> None:
    proxy.username = keys.text("uuid")
    _password(proxy, keys)
    proxy.parameters |= {
        "congestion_control": keys.text("congestion_control"),
        "udp_relay_mode": keys.text("udp_relay_mode"),
        "udp-over-stream": yes(keys.flag("udp_over_stream")),
        "reduce-rtt": yes(keys.flag("zero_rtt_handshake")),
        "heartbeat": _seconds(keys, "heartbeat"),
    }


def _anytls(proxy: Proxy, keys: Keys) -> None:
    _password(proxy, keys)
    # When connections are kept for later: nothing of how they look.
    keys.leave("idle_session_check_interval", "idle_session_timeout", "min_idle_session")


def _socks(proxy: Proxy, keys: Keys) -> None:
    proxy.username = keys.text("username")
    _password(proxy, keys)
    proxy.parameters["version"] = keys.text("version")
    _uot(proxy, keys)


def _http(proxy: Proxy, keys: Keys) -> None:
    proxy.username = keys.text("username")
    _password(proxy, keys)
    proxy.parameters |= {"path": keys.text("path"), "headers": headers_of(keys, proxy.parameters, host=False)}


def _ssh(proxy: Proxy, keys: Keys) -> None:
    proxy.username = keys.text("user") or "root"
    _password(proxy, keys)
    _no_file(keys, "private_key_path")
    proxy.parameters |= {
        "private-key": "\n".join(keys.texts("private_key")),
        "passphrase": keys.text("private_key_passphrase"),
        "host-key": "\n".join(keys.texts("host_key")),
    }
    keys.refuse({"host_key_algorithms": "", "client_version": ""})


_SING_BOX_READERS: dict[Kind, Callable[[Proxy, Keys], None]] = {
    Kind.SHADOWSOCKS: _ss,
    Kind.VLESS: _vless,
    Kind.VMESS: _vmess,
    Kind.TROJAN: _password,
    Kind.HYSTERIA2: _hysteria2,
    Kind.TUIC: _tuic,
    Kind.ANYTLS: _anytls,
    Kind.SOCKS: _socks,
    Kind.HTTP: _http,
    Kind.SSH: _ssh,
}


def _sing_box_tls(keys: Keys, words: dict[str, str]) -> None:
    tls = keys.inner("tls")
    if tls is None or not tls.flag("enabled"):
        words["security"] = "none"
        return
    words["security"] = "tls"
    words |= {
        "sni": tls.text("server_name") or keys.text("server"),
        "insecure": yes(tls.flag("insecure")),
        "disable-sni": yes(tls.flag("disable_sni")),
        "alpn": ",".join(tls.texts("alpn")),
        "tls-min": tls.text("min_version"),
        "tls-max": tls.text("max_version"),
        "ca": "\n".join(tls.texts("certificate")),
        "pin": ",".join(tls.texts("certificate_public_key_sha256")),
        "client-cert": "\n".join(tls.texts("client_certificate")),
        "client-key": "\n".join(tls.texts("client_key")),
    }
    for name in ("certificate_path", "client_certificate_path", "client_key_path"):
        _no_file(tls, name)
    if (utls := tls.inner("utls")) and utls.flag("enabled"):
        words["fp"] = utls.text("fingerprint") or "chrome"
        utls.done()
    if (reality := tls.inner("reality")) and reality.flag("enabled"):
        words["security"] = "reality"
        words |= {"pbk": reality.text("public_key"), "sid": reality.text("short_id")}
        reality.done()
    if (ech := tls.inner("ech")) and ech.flag("enabled"):
        _no_file(ech, "config_path")
        config = "".join(line for part in ech.texts("config") for line in part.split("\n") if "-----" not in line)
        if not config:
            ech.unsupported("`tls.ech` without its config: it would have to be asked for by DNS")
        words["ech"] = "".join(config.split())
        ech.leave("pq_signature_schemes_enabled", "dynamic_record_sizing_disabled")
        ech.done()
    tls.leave("fragment_fallback_delay")
    tls.done()


def _sing_box_transport(keys: Keys, words: dict[str, str]) -> None:
    transport = keys.inner("transport")
    named = transport.text("type") if transport else ""
    if transport is None or not named:
        return
    words["type"] = named
    if named in ("http", "grpc"):
        transport.leave("idle_timeout", "ping_timeout", "permit_without_stream")
    if named == "grpc":
        words["serviceName"] = transport.text("service_name")
    elif named in ("ws", "http", "httpupgrade"):
        words["path"] = transport.text("path")
        words["headers"] = headers_of(transport, words)
        words["host"] = ",".join(transport.texts("host")) or words.get("host", "")
        if named == "ws":
            early_data(transport, words, "max_early_data", "early_data_header_name")
        elif named == "http":
            words["method"] = transport.text("method")
            if words["security"] == "none":
                # sing-box speaks HTTP/1.1 then, with a method of its own choice; links say so in these words.
                words |= {"type": "tcp", "headerType": "http", "method": words["method"] or "PUT"}
    transport.done()


def _sing_box_wireguard(keys: Keys) -> Meaning:
    keys.leave("workers", "system", "system_interface", "name", "interface_name", "gso", "network")
    interface = [
        ("PrivateKey", keys.text("private_key")),
        ("Address", ", ".join(keys.texts("address") or keys.texts("local_address"))),
        ("MTU", keys.number("mtu")),
        ("ListenPort", keys.number("listen_port")),
    ]
    given = keys.take("peers")
    if not isinstance(given, list | None):
        keys.broken("`peers` is not a list")
    own = _sing_box_peer(keys) if not given else None
    peers = [own] if own else [_sing_box_peer(inner) for inner in tables(keys, given or [], "peers")]
    return wgquick.from_keys(interface, peers, place(keys))


def _sing_box_peer(keys: Keys) -> list[tuple[str, str]]:
    no_reserved(keys)
    peer = [
        ("PublicKey", keys.text("public_key", "peer_public_key")),
        ("PresharedKey", keys.text("pre_shared_key")),
        ("AllowedIPs", ", ".join(keys.texts("allowed_ips")) or "0.0.0.0/0, ::/0"),
        ("Endpoint", endpoint(keys.text("address", "server"), keys.number("port") or keys.number("server_port"))),
        ("PersistentKeepalive", keys.number("persistent_keepalive_interval")),
    ]
    if keys.path:
        keys.done()
    return peer


def tables(keys: Keys, found: list[Any], name: str) -> list[Keys]:
    for one in found:
        if not isinstance(one, Table):
            keys.broken(f"`{name}` is not a list of tables")
    return [Keys(one, keys.where, path=f"{name}.", findings=keys.findings, lenient=keys.lenient) for one in found]


# ── Xray ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _xray(kind: Kind, keys: Keys) -> Proxy | Meaning:
    keys.refuse({"proxySettings": "it goes through another outbound"})
    keys.leave("sendThrough", "targetStrategy", "domainStrategy")
    settings = keys.inner("settings") or keys.broken("no `settings`")
    if kind is Kind.WIREGUARD:
        return _xray_wireguard(settings)
    words: dict[str, str] = {}
    mux = keys.inner("mux")
    # Below 0 it is off for TCP; v2rayN writes so.
    if mux and mux.flag("enabled") and not str(mux.table.get("concurrency", 8)).startswith("-"):
        mux.unsupported("`mux` is not supported: sing-box does not speak Xray's")
    named = "vnext" if kind in (Kind.VLESS, Kind.VMESS) else "servers"
    server = _first(settings, named)
    address, port = server.text("address"), server.number("port")
    proxy = Proxy(kind, place(keys), address, port, parameters=words, dialect="xray")
    user = _first(server, "users")
    if kind in (Kind.VLESS, Kind.VMESS):
        proxy.username = user.text("id")
        if kind is Kind.VLESS:
            words |= {"encryption": user.text("encryption"), "flow": user.text("flow")}
            user.leave("security", "alterId")  # v2rayN writes one user for both
        else:
            words |= {"aid": user.number("alterId"), "scy": user.text("security")}
            user.leave("encryption", "flow")
        user.refuse({"reverse": "", "experiments": "", "seed": ""})
    elif kind in (Kind.SOCKS, Kind.HTTP):
        proxy.username, proxy.password = user.text("user"), user.text("pass")
        if kind is Kind.HTTP:
            words["headers"] = headers_of(settings, words, host=False)
    else:
        proxy.password = server.text("password")
        if kind is Kind.SHADOWSOCKS:
            proxy.username = server.text("method")
            version = server.number("uotVersion") or server.number("UoTVersion") or "2"
            words["uot"] = version if server.flag("uot") else ""
            server.refuse({"ota": "", "plugin": ""})
        server.leave("flow", "ota", "method", "userName")
    for level in {id(one): one for one in (user, server, settings)}.values():
        level.leave("level", "email", "udp", "ivCheck")
        level.done()
    _stream(keys, words)
    if words.get("security") != "none":
        words["sni"] = words.get("sni") or proxy.host
    return proxy


def _first(keys: Keys, name: str) -> Keys:
    """The first of a list of tables, or, in the flat form of newer versions, the table itself."""
    found = keys.take(name)
    if found is None or found == []:
        return keys
    if not isinstance(found, list):
        keys.broken(f"{keys.named(name)} is not a list")
    if len(found) > 1:
        keys.unsupported(f"{keys.named(name)} holds several, among which Xray would change")
    return tables(keys, found, f"{keys.path}{name}")[0]


def _xray_wireguard(keys: Keys) -> Meaning:
    no_reserved(keys)
    keys.leave("noKernelTun", "workers", "domainStrategy", "kernelMode", "numWorkers")
    interface = [
        ("PrivateKey", keys.text("secretKey")),
        ("Address", ", ".join(keys.texts("address"))),
        ("MTU", keys.number("mtu")),
    ]
    peers = []
    given = keys.take("peers")
    for peer in tables(keys, given if isinstance(given, list) else [], "peers"):
        found = [
            ("PublicKey", peer.text("publicKey")),
            ("PresharedKey", peer.text("preSharedKey")),
            ("AllowedIPs", ", ".join(peer.texts("allowedIPs")) or "0.0.0.0/0, ::/0"),
            ("Endpoint", peer.text("endpoint")),
            ("PersistentKeepalive", peer.number("keepAlive")),
        ]
        peer.done()
        peers.append(found)
    keys.done()
    return wgquick.from_keys(interface, peers, place(keys))


_NETWORKS = {
    "raw": "tcp",
    "websocket": "ws",
    "h2": "http",
    "gun": "grpc",
    "splithttp": "xhttp",
    "mkcp": "kcp",
}


def _stream(keys: Keys, words: dict[str, str]) -> None:
    stream = keys.inner("streamSettings")
    if stream is None:
        words["security"] = "none"
        return
    named = (stream.text("network", "method") or "tcp").lower()
    network = words["type"] = _NETWORKS.get(named, named)
    words["security"] = stream.text("security") or "none"
    # Xray reads the one table that `network` and `security` name, and no other.
    transport = next(
        (found for name in _TRANSPORTS.get(network, ()) if (found := stream.inner(f"{name}Settings"))), None
    )
    _xray_security(stream.inner(f"{words['security']}Settings"), words)
    if sockopt := stream.inner("sockopt"):
        sockopt.refuse({"dialerProxy": "it goes through another outbound"})
        if sockopt.take("tcpFastOpen") not in (None, False, 0):
            words["tfo"] = "1"
    stream.refuse({"finalmask": "", "udpmasks": "", "tcpmasks": ""})
    if transport is not None:
        _xray_transport(network, transport, words)


_TRANSPORTS = {
    "tcp": ("raw", "tcp"),
    "ws": ("ws",),
    "grpc": ("grpc",),
    "http": ("http",),
    "httpupgrade": ("httpupgrade",),
}


def _xray_transport(network: str, keys: Keys, words: dict[str, str]) -> None:
    if network == "tcp":
        if header := keys.inner("header"):
            words["headerType"] = header.text("type")
            if request := header.inner("request"):
                disguise(request, words)
        keys.leave("acceptProxyProtocol")
    elif network == "grpc":
        words |= {"serviceName": keys.text("serviceName"), "authority": keys.text("authority")}
        words["mode"] = "multi" if keys.flag("multiMode") else ""
        keys.leave("idle_timeout", "health_check_timeout", "permit_without_stream", "initial_windows_size")
        keys.refuse({"user_agent": ""})
    else:
        words["path"] = keys.text("path")
        words["headers"] = headers_of(keys, words)
        words["host"] = ",".join(keys.texts("host")) or words.get("host", "")
        words["method"] = keys.text("method")
        early_data(keys, words, "maxEarlyData", "earlyDataHeaderName")
        keys.leave("acceptProxyProtocol", "heartbeatPeriod", "read_idle_timeout", "health_check_timeout")
        keys.refuse({"useBrowserForwarding": ""})
    keys.done()


def _xray_security(keys: Keys | None, words: dict[str, str]) -> None:
    if keys is None:
        return
    words |= {"sni": keys.text("serverName"), "fp": keys.text("fingerprint")}
    keys.leave("show", "masterKeyLog")
    if words["security"] == "reality":
        words |= {
            "pbk": keys.text("publicKey", "password"),
            "sid": keys.text("shortId"),
            "spx": keys.text("spiderX"),
            "pqv": keys.text("mldsa65Verify"),
        }
        keys.leave("allowInsecure", "alpn")
    else:
        words |= {
            "insecure": yes(keys.flag("allowInsecure")),
            "alpn": ",".join(keys.texts("alpn")),
            "tls-min": keys.text("minVersion"),
            "tls-max": keys.text("maxVersion"),
            "pcs": ",".join(
                keys.texts("pinnedPeerCertSha256")
                + keys.texts("pinnedPeerCertificateChainSha256")
                + keys.texts("pinnedPeerCertificateSha256")
            ),
            "vcn": ",".join(keys.texts("verifyPeerCertByName") + keys.texts("verifyPeerCertInNames")),
            "ech": keys.text("echConfigList"),
        }
        keys.leave("enableSessionResumption", "rejectUnknownSni", "allowInsecureCiphers", "preferServerCipherSuites")
    keys.done()


# ── what both share ──────────────────────────────────────────────────────────────────────────────────────────────────


def headers_of(keys: Keys, words: dict[str, str], *, host: bool = True, first: bool = False) -> str:
    """Further headers as a JSON object; `Host` goes to its own word."""
    headers = keys.inner("headers")
    found: dict[str, str] = {}
    for name in list(headers.table) if headers else ():
        values = headers.texts(name) if headers else []
        if host and name.lower() == "host":
            words["host"] = ",".join(values)
        elif values:
            found[name] = values[0] if first else ",".join(values)
    return json.dumps(found) if found else ""


def _name_server(proxy: Proxy) -> None:
    """Says what sing-box takes where no name is said: we dial by address, and in links other defaults stand."""
    words = proxy.parameters
    secured = words.get("security", "none") != "none"
    if secured:
        words["sni"] = words.get("sni") or proxy.host
    if words.get("type") == "ws" or (words.get("type") == "httpupgrade" and not secured):
        words["host"] = words.get("host") or endpoint(proxy.host, proxy.ports)
    elif words.get("type") == "httpupgrade":
        words["host"] = words.get("host") or words["sni"]


def early_data(keys: Keys, words: dict[str, str], most: str, header: str) -> None:
    """WebSocket's early data; without a header of its own it stands behind the path."""
    words["ed"], named = keys.number(most), keys.text(header)
    if words["ed"] not in ("", "0"):
        words["eh"] = named or "path"


def disguise(keys: Keys, words: dict[str, str]) -> None:
    """The HTTP request that stands before a TCP stream. Of several values the client takes any: here the first."""
    words["path"] = (keys.texts("path") or [""])[0]
    words["method"] = keys.text("method")
    words["headers"] = headers_of(keys, words, first=True)
    keys.leave("version")
    keys.done()


def sing_mux(mux: Keys, words: dict[str, str], dash: str, brutal: str) -> None:
    """sing-mux that is switched on. Of its names `dash` and `brutal` are what documents differ in."""
    words |= {
        "mux": mux.text("protocol") or "h2mux",
        "mux-padding": yes(mux.flag("padding")),
        "mux-connections": mux.number(f"max{dash}connections"),
        "mux-min-streams": mux.number(f"min{dash}streams"),
        "mux-streams": mux.number(f"max{dash}streams"),
    }
    if (inner := mux.inner(brutal)) and inner.flag("enabled"):
        mux.unsupported(f"{mux.named(brutal)} is not supported: it needs a module in the kernel")
    mux.done()


def endpoint(host: str, port: str) -> str:
    if not host:
        return ""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def no_reserved(keys: Keys) -> None:
    """Refuses WireGuard's three reserved bytes where they are not zero: Cloudflare's servers want them so."""
    value = keys.take("reserved")
    if isinstance(value, str):
        try:
            parts: list[Any] = list(base64.b64decode(value + "=" * (-len(value) % 4)))
        except (binascii.Error, ValueError):
            parts = value.split(",")
    else:
        parts = value if isinstance(value, list) else [value]
    if any(part not in (None, 0, "0", "") for part in parts):
        keys.unsupported("`reserved` is not supported: the carrier sends zeros there")


def _no_file(keys: Keys, name: str) -> None:
    if keys.take(name) not in (None, "", []):
        raise Refused(f"{keys.named(name)} names a file of this machine", where=keys.where, line=keys.line)


def _seconds(keys: Keys, name: str) -> str:
    """A duration as Go writes it (`10s`, `1m30s`, `500ms`), in whole seconds, at least one; empty where none is."""
    text = keys.text(name)
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    if not text:
        return ""
    if not re.fullmatch(r"(?:[0-9]{1,6}(?:\.[0-9]{1,6})?(?:h|ms|m|s))+", text):
        keys.broken(f"{keys.named(name)} is not a duration")
    parts = re.findall(r"([0-9.]+)(h|ms|m|s)", text)
    return str(max(1, round(sum(float(number) * units[unit] for number, unit in parts))))


def yes(flag: bool) -> str:
    return "1" if flag else ""
