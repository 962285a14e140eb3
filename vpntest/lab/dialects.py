"""Further servers, one for each way in which a config may be written, and the client's config in that writing.

All but one stand on the host `dialects`, and each is a program that people run:

sing-box            Shadowsocks, VLESS, VMess, Trojan over every transport; Hysteria2, TUIC, AnyTLS, SOCKS, HTTP
obfs-server         simple-obfs, in front of Shadowsocks (Debian: simple-obfs)
ss-v2ray-plugin     WebSocket with TLS and without, in front of Shadowsocks (Debian: shadowsocks-v2ray-plugin)
upgrade.py          HTTPUpgrade, in front of VLESS
asyncssh            SSH (ssh.py)
wireguard-go, amneziawg-go

`openvpn-zip` and `command-device` are taken by the OpenVPN server of vpn.py; Tor is tor.py's affair. These servers are
raised only where a profile's cast names one of :data:`vpntest.lab.profiles.FURTHER_TUNNELS`: the profile `dialects`
names them all.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import re
import secrets
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from vpntest.errors import CannotMeasure
from vpntest.lab.network import Host, Network, connects
from vpntest.lab.sites import Issuer
from vpntest.lab.vpn import (
    ClientTunnel,
    WireGuard,
    as_base64,
    commanded,
    device_name,
    inbound,
    obfuscation,
    raise_wireguard,
)

ADDRESS = "198.18.20.7"
HOST = Host("dialects", (ADDRESS,), forwards=True)
NAME = "dialects.vpn.example"
NAMES = {NAME: ADDRESS}
"""Names of these servers, and what the resolvers say of them."""
EXITS = (ADDRESS,)
HOPS = (20000, 20999)
"""Ports of Hysteria2's hopping: all of them lead to the one on which it listens."""

_METHOD = "chacha20-ietf-poly1305"
_PATH = "/way/in"
_DISGUISE = "cover.example"
"""The name that Shadowsocks' plugins show without TLS."""


@dataclass(frozen=True)
class Credentials:
    """What all of these servers know a client by."""

    user: str
    password: str
    """With characters that mean something to links, lest a password be taken for less than it is."""
    identity: str
    """A UUID."""


def _credentials() -> Credentials:
    return Credentials(f"reader-{secrets.token_hex(2)}", f"{secrets.token_urlsafe(12)}@/+=?", str(uuid.uuid4()))


# ── the servers ──────────────────────────────────────────────────────────────────────────────────────────────────────

PORTS = {
    **{
        "ss": 8388,
        "sip008": 8389,
        "outline": 8390,
        "obfs-http": 8401,
        "obfs-tls": 8402,
        "v2ray": 8403,
        "v2ray-tls": 8404,
    },
    **{"vless-ws": 8411, "vless-grpc": 8412, "vless-http": 8413, "vless-httpupgrade": 8414, "vless": 8415},
    **{"vmess": 8421, "vmess-ws": 8422, "trojan-ws": 8431, "trojan-grpc": 8432},
    **{"hysteria2": 8441, "tuic": 8442, "anytls": 8443},
    **{"socks": 1080, "http": 3128, "https": 3129, "ssh": 22, "wireguard": 51820, "amneziawg": 41820},
}
"""By server."""
_PLUGINS = ("obfs-http", "obfs-tls", "v2ray", "v2ray-tls")
_BEHIND = "127.0.0.1"
"""Where a proxy listens for the server that stands before it, on the same port."""


def _inbounds(clients: Sequence[Credentials], certificate: dict[str, Any]) -> list[dict[str, Any]]:
    def on(name: str, kind: str, address: str = ADDRESS, **fields: Any) -> dict[str, Any]:
        return inbound(kind, address, PORTS[name], **fields)

    web, grpc = {"path": _PATH}, {"type": "grpc", "service_name": "GunService"}
    one = [{"uuid": known.identity} for known in clients]
    word = [{"password": known.password} for known in clients]
    login = [{"username": known.user, "password": known.password} for known in clients]
    first, second = ({"method": _METHOD, "password": known.password} for known in clients)
    h2, h3 = certificate | {"alpn": ["h2"]}, certificate | {"alpn": ["h3"]}
    return [
        on("hysteria2", "hysteria2", users=word, tls=h3),
        on("tuic", "tuic", users=[one | other for one, other in zip(one, word, strict=True)], tls=h3),
        on("ss", "shadowsocks", **first),
        on("sip008", "shadowsocks", **second),
        on("outline", "shadowsocks", **second),
        *(on(name, "shadowsocks", _BEHIND, network="tcp", **first) for name in _PLUGINS),
        on("vless-ws", "vless", users=one, tls=certificate, transport={"type": "ws", **web}),
        on("vless-grpc", "vless", users=one, tls=h2, transport=grpc),
        on("vless-http", "vless", users=one, tls=h2, transport={"type": "http", **web}),
        on("vless-httpupgrade", "vless", _BEHIND, users=one),
        on("vless", "vless", users=one),
        on("vmess", "vmess", users=one),
        on("vmess-ws", "vmess", users=one, tls=certificate, transport={"type": "ws", **web}),
        on("trojan-ws", "trojan", users=word, tls=certificate, transport={"type": "ws", **web}),
        on("trojan-grpc", "trojan", users=word, tls=h2, transport=grpc),
        on("anytls", "anytls", users=word, tls=certificate),
        on("socks", "socks", users=login),
        on("http", "http", users=login),
        # It opens its ports in the order of this list.
        on("https", "http", users=login, tls=certificate),
    ]


def _plugins(pem: str) -> list[list[str]]:
    """Command lines of the plugins' servers; each hands on to the Shadowsocks of its port."""
    obfs = [
        [
            *("obfs-server", "-s", ADDRESS, "-p", str(PORTS[f"obfs-{mode}"])),
            *("-r", f"{_BEHIND}:{PORTS[f'obfs-{mode}']}", "--obfs", mode),
        ]
        for mode in ("http", "tls")
    ]
    v2ray = [
        [
            *("ss-v2ray-plugin", "-server", "-localAddr", ADDRESS, "-localPort", str(PORTS[name])),
            *("-remoteAddr", _BEHIND, "-remotePort", str(PORTS[name]), "-path", _PATH, *more),
        ]
        for name, more in (
            ("v2ray", ["-host", _DISGUISE]),
            ("v2ray-tls", ["-tls", "-host", NAME, "-cert", pem, "-key", pem]),
        )
    ]
    return obfs + v2ray


async def _raise_proxies(network: Network, directory: Path, issuer: Issuer, clients: Sequence[Credentials]) -> None:
    pem = str(directory / "server.pem")
    issuer.issue(NAME).private_key_and_cert_chain_pem.write_to_path(pem)
    inbounds = _inbounds(clients, {"enabled": True, "certificate_path": pem, "key_path": pem})
    file = directory / "server.json"
    file.write_text(json.dumps({"log": {"level": "error", "timestamp": False}, "inbounds": inbounds}))
    network.start(HOST.name, ["sing-box", "run", "-c", str(file), "-D", str(directory)])
    for command in _plugins(pem):
        network.start(HOST.name, command)
    port = PORTS["vless-httpupgrade"]
    upgrade = network.start_own(HOST.name, "upgrade", f"{ADDRESS}:{port}", pem, _PATH, f"{_BEHIND}:{port}")
    first, last = HOPS
    network.run(
        HOST.name,
        ["nft", "-f", "-"],
        f"""\
table ip hop {{
chain lead {{ type nat hook prerouting priority dstnat;
udp dport {first}-{last} counter redirect to :{PORTS["hysteria2"]}
}}
}}
""",
    )
    await upgrade.says("ready")
    for name in (*_PLUGINS, "https"):
        await network.until(connects, HOST.name, ADDRESS, PORTS[name])


async def _raise_ssh(network: Network, directory: Path, known: Credentials) -> None:
    if importlib.util.find_spec("asyncssh") is None:
        raise CannotMeasure("the lab needs the Python package asyncssh, which is not on this machine")
    from vpntest.lab import ssh

    key, _ = ssh.new_key()
    settings = {"address": ADDRESS, "port": PORTS["ssh"], "user": known.user, "password": known.password, "key": key}
    file = directory / "ssh.json"
    file.write_text(json.dumps(settings))
    await network.start_own(HOST.name, "ssh", str(file)).says("ready")


# ── the client's configs ─────────────────────────────────────────────────────────────────────────────────────────────


def _link(scheme: str, userinfo: str, host: str, ports: int | str, parameters: dict[str, str], path: str = "") -> str:
    asked = f"{path}?{urlencode(parameters, quote_via=quote)}" if parameters else path
    return f"{scheme}://{userinfo}@{host}:{ports}{asked}#{quote(f'Lab: {scheme} ✔')}"


def _bare(text: str) -> str:
    """Base64 of the URL's alphabet without padding, as most links have it."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _links(known: Credentials) -> dict[str, str]:
    """By tunnel."""
    password, identity, port = quote(known.password, safe=""), known.identity, PORTS
    login = f"{known.user}:{password}"
    cipher = _bare(f"{_METHOD}:{known.password}")
    tls = {"security": "tls", "sni": NAME}
    ws, grpc = {"type": "ws", "host": NAME, "path": _PATH}, {"type": "grpc", "serviceName": "GunService", "mode": "gun"}

    def plugged(name: str, plugin: str) -> str:
        return _link("ss", cipher, ADDRESS, port[name], {"plugin": plugin}, "/")

    def vless(name: str, server: str, parameters: dict[str, str]) -> str:
        return _link("vless", identity, server, port[name], {"encryption": "none"} | parameters)

    hidden = f"v2ray-plugin;mode=websocket;path={_PATH}"
    of_v2rayn = {
        **{
            "v": "2",
            "ps": "Lab",
            "add": NAME,
            "port": str(port["vmess-ws"]),
            "id": identity,
            "aid": "0",
            "scy": "auto",
        },
        **{"net": "ws", "type": "none", "host": NAME, "path": _PATH, "tls": "tls", "sni": NAME, "alpn": "", "fp": ""},
    }
    return {
        "ss-legacy": "ss://" + as_base64(f"{_METHOD}:{known.password}@{ADDRESS}:{port['ss']}".encode()) + "#Lab",
        "ss-obfs-http": plugged("obfs-http", f"obfs-local;obfs=http;obfs-host={_DISGUISE}"),
        "ss-obfs-tls": plugged("obfs-tls", f"simple-obfs;obfs=tls;obfs-host={_DISGUISE}"),
        "ss-v2ray": plugged("v2ray", f"{hidden};host={_DISGUISE}"),
        "ss-v2ray-tls": plugged("v2ray-tls", f"{hidden};host={NAME};tls"),
        "vless-ws": vless("vless-ws", NAME, tls | ws),
        "vless-grpc": vless("vless-grpc", NAME, tls | grpc),
        "vless-http": vless("vless-http", NAME, tls | ws | {"type": "http"}),
        "vless-httpupgrade": vless("vless-httpupgrade", NAME, tls | ws | {"type": "httpupgrade"}),
        "vless-plain": vless("vless", ADDRESS, {"type": "tcp", "security": "none", "headerType": "none"}),
        "vmess-json": "vmess://" + as_base64(json.dumps(of_v2rayn).encode()),
        "vmess-url": _link("vmess", identity, ADDRESS, port["vmess"], {"encryption": "auto", "type": "tcp"}),
        "trojan-ws": _link("trojan", password, NAME, port["trojan-ws"], tls | ws),
        "trojan-grpc": _link("trojan", password, NAME, port["trojan-grpc"], tls | grpc),
        "hysteria2-hopping": _link("hysteria2", password, NAME, f"{HOPS[0]}-{HOPS[1]}", {"sni": NAME}, "/"),
        "hy2": _link("hy2", password, NAME, port["hysteria2"], {"sni": NAME}, "/"),
        "tuic": _link(
            *("tuic", f"{identity}:{password}", NAME, port["tuic"]),
            {"congestion_control": "bbr", "udp_relay_mode": "native", "alpn": "h3", "sni": NAME},
        ),
        "anytls": _link("anytls", password, NAME, port["anytls"], {"sni": NAME}, "/"),
        "socks5": _link("socks5", login, ADDRESS, port["socks"], {}),
        "http-proxy": _link("http", login, ADDRESS, port["http"], {}),
        "https-proxy": _link("https", login, NAME, port["https"], {}),
        "ssh": _link("ssh", login, ADDRESS, port["ssh"], {}),
    }


def _documents(known: Credentials) -> dict[str, tuple[str, str]]:
    """By tunnel: file name and text."""
    password, identity, port = known.password, known.identity, PORTS
    server = {"server": ADDRESS, "password": password, "method": _METHOD}
    listed = server | {"id": str(uuid.uuid4()), "remarks": "Lab", "server_port": port["sip008"]}
    sip008 = {"version": 1, "servers": [listed], "bytes_used": 0, "bytes_remaining": 1 << 40}
    sing_box = {
        "log": {"level": "info"},
        "inbounds": [{"type": "mixed", "listen": "127.0.0.1", "listen_port": 2080}],
        "outbounds": [
            {
                **{
                    "type": "trojan",
                    "tag": "lab",
                    "server": NAME,
                    "server_port": port["trojan-ws"],
                    "password": password,
                },
                "tls": {"enabled": True, "server_name": NAME},
                "transport": {"type": "ws", "path": _PATH, "headers": {"Host": NAME}},
            },
            {"type": "direct", "tag": "direct"},
        ],
        "route": {"final": "lab"},
    }
    user = {"id": identity, "encryption": "none", "level": 0}
    xray = {
        "remarks": "Lab",
        "inbounds": [{"protocol": "socks", "listen": "127.0.0.1", "port": 10808}],
        "outbounds": [
            {
                **{"protocol": "vless", "tag": "proxy"},
                "settings": {"vnext": [{"address": NAME, "port": port["vless-grpc"], "users": [user]}]},
                "streamSettings": {
                    **{"network": "grpc", "security": "tls", "tlsSettings": {"serverName": NAME}},
                    "grpcSettings": {"serviceName": "GunService", "multiMode": False},
                },
            },
            {"protocol": "freedom", "tag": "direct"},
        ],
    }
    clash = f"""\
# A comment, as subscriptions have it.
mixed-port: 7890
mode: rule
proxies:
  - {{name: "Lab: ws", type: vmess, server: {NAME}, port: {port["vmess-ws"]}, uuid: {identity}, alterId: 0,
     cipher: auto, udp: true, tls: true, servername: {NAME}, network: ws,
     ws-opts: {{path: {_PATH}, headers: {{Host: {NAME}}}}}}}
proxy-groups:
  - {{name: all, type: select, proxies: ["Lab: ws"]}}
rules:
  - MATCH,all
"""
    return {
        "sip008": ("sip008.json", json.dumps(sip008, indent=2)),
        "outline": ("outline.json", json.dumps(server | {"server_port": port["outline"]})),
        "sing-box": ("sing-box.json", json.dumps(sing_box, indent=2)),
        "xray": ("xray.json", json.dumps(xray)),
        "clash": ("clash.yaml", clash),
        "subscription": ("subscription.txt", as_base64(f"{_links(known)['vless-httpupgrade']}\n".encode()) + "\n"),
    }


def _by_command(known: Credentials, resolver: str) -> ClientTunnel:
    """sing-box as any client is that ends in a proxy of its own."""
    outbound = {"type": "vmess", "server": ADDRESS, "server_port": PORTS["vmess"], "uuid": known.identity}
    local = inbound("mixed", "127.0.0.1", 1080)
    config = {"log": {"level": "warn"}, "inbounds": [local], "outbounds": [outbound]}
    return commanded(
        *("command-proxy", "sing-box run -c stdin", json.dumps(config), f"{ADDRESS}:{PORTS['vmess']}/tcp", resolver),
        ("proxy", "socks5://127.0.0.1:1080"),
    )


def _wg_quick(config: ClientTunnel) -> dict[str, str]:
    """All keys of a config that :func:`raise_wireguard` has written."""
    return dict(line.split(" = ", 1) for line in _text(config).splitlines() if " = " in line)


def _text(config: ClientTunnel) -> str:
    assert config.config
    assert isinstance(config.config[1], str)
    return config.config[1]


def _wireguard_link(config: ClientTunnel) -> str:
    keys = _wg_quick(config)
    parameters = {"publickey": keys["PublicKey"], "presharedkey": keys["PresharedKey"], "address": keys["Address"]}
    private = quote(keys["PrivateKey"], safe="")
    return _link("wireguard", private, ADDRESS, PORTS["wireguard"], parameters | {"mtu": "1408"})


def _amnezia_link(config: ClientTunnel) -> str:
    """Of Amnezia's client: Qt's compression of a JSON document, in which another one stands as text."""
    keys = _wg_quick(config)
    inner = {
        "config": _text(config),
        "hostName": ADDRESS,
        "port": PORTS["amneziawg"],
        "client_priv_key": keys["PrivateKey"],
        "client_ip": keys["Address"].partition("/")[0],
        "server_pub_key": keys["PublicKey"],
        **{key: value for key, value in keys.items() if re.fullmatch("J(c|min|max)|[SHI][0-9]", key)},
    }
    awg = {"last_config": json.dumps(inner), "port": str(PORTS["amneziawg"]), "transport_proto": "udp"}
    document = {
        "containers": [{"container": "amnezia-awg", "awg": awg}],
        "defaultContainer": "amnezia-awg",
        "description": "Lab",
        "dns1": keys["DNS"],
        "dns2": keys["DNS"],
        "hostName": ADDRESS,
    }
    raw = json.dumps(document).encode()
    return "vpn://" + base64.urlsafe_b64encode(len(raw).to_bytes(4, "big") + zlib.compress(raw)).decode().rstrip("=")


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def raise_servers(network: Network, directory: Path, resolver: str, issuer: Issuer) -> tuple[ClientTunnel, ...]:
    """Starts every server, waits until all of them take clients, and returns the client's configs.

    `resolver` is told to clients as their resolver inside; `issuer` signs the certificates. Raises CannotMeasure where
    a server does not start.
    """
    directory.mkdir()
    # Two clients, lest a link and a document be one and the same config.
    known, other = _credentials(), _credentials()
    plain = WireGuard(
        "wireguard-link", HOST.name, ADDRESS, device_name(), PORTS["wireguard"], "198.19.70", preshared=True
    )
    amnezia = WireGuard(
        *("amnezia-link", HOST.name, ADDRESS, device_name(), PORTS["amneziawg"], "198.19.71"), amnezia=obfuscation()
    )
    wireguard, amneziawg, *_ = await asyncio.gather(
        raise_wireguard(network, plain, resolver),
        raise_wireguard(network, amnezia, resolver),
        _raise_proxies(network, directory, issuer, (known, other)),
        _raise_ssh(network, directory, known),
    )
    return (
        *(ClientTunnel(name, uri=link) for name, link in _links(known).items()),
        *(ClientTunnel(name, config=file) for name, file in _documents(other).items()),
        ClientTunnel("wireguard-link", uri=_wireguard_link(wireguard)),
        ClientTunnel("amnezia-link", uri=_amnezia_link(amneziawg)),
        _by_command(other, resolver),
    )
