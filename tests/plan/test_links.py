"""Share links: their grammar in all its dialects, and what is refused rather than read as something else."""

from __future__ import annotations

import base64
import json
import random
import string
import subprocess
import uuid
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan.links import KNOWN_SCHEMES, MAX_LINK, SCHEMES, parse, proxy, scheme_of
from vpntest.plan.model import Finding, Kind, ProxyConfig, Server
from vpntest.plan.secret import revealed
from vpntest.plan.syntax import Unsupported

_DICE = random.Random(7)
"""The same throws in every process: tests are named after what they are given."""
ID = str(uuid.UUID(bytes=_DICE.randbytes(16), version=4))
WORD = "hush0f1e2d3c4b5a6978"
KEY16 = base64.b64encode(b"\xfb\xff" + _DICE.randbytes(14)).decode()
KEY32 = base64.b64encode(b"\xfb\xff" + _DICE.randbytes(30)).decode()
PBK = base64.urlsafe_b64encode(_DICE.randbytes(32)).decode().rstrip("=")
SID = _DICE.randbytes(8).hex()
SECRETS = (ID, WORD, KEY16.rstrip("="), KEY32.rstrip("="), SID)

REALITY = (
    f"vless://{ID}@198.18.0.1:443?security=reality&pbk={PBK}&sid={SID}&sni=www.example&fp=chrome&flow=xtls-rprx-vision"
)
TROJAN = f"trojan://{WORD}@vpn.example:443"
HYSTERIA2 = f"hysteria2://{WORD}@vpn.example"


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _url_b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def _vmess(**keys: object) -> str:
    usual = {"v": "2", "ps": "", "add": "vpn.example", "port": "443", "id": ID, "aid": "0", "scy": "auto", "net": "tcp"}
    return "vmess://" + _b64(json.dumps(usual | keys))


def _read(link: str) -> ProxyConfig:
    config, findings = parse(link, "[[tunnel]] 3 (x)")
    said = (repr(config), *(finding.text for finding in findings))
    assert not any(secret in text for secret in SECRETS for text in said)
    return config


def _findings(link: str) -> tuple[Finding, ...]:
    """Without the one that most links have."""
    return tuple(finding for finding in parse(link, "x")[1] if not finding.text.startswith("`fp` is not said"))


CHROME = {"enabled": True, "fingerprint": "chrome"}
"""What Xray shows where a link says nothing."""
GOOD: dict[str, tuple[str, Server, dict[str, Any]]] = {
    "ss: 2022, plain": (
        f"ss://2022-blake3-aes-128-gcm:{_percent(KEY16)}@198.18.0.1:8388#a%20name",
        Server("198.18.0.1", 8388, "tcp"),
        {"type": "shadowsocks", "method": "2022-blake3-aes-128-gcm", "password": KEY16},
    ),
    "ss: 2022, two keys, URL-safe and without padding": (
        "ss://"
        + _url_b64("2022-blake3-aes-256-gcm:" + ":".join([KEY32.replace("+", "-").replace("/", "_").rstrip("=")] * 2))
        + "@vpn.example:8388",
        Server("vpn.example", 8388, "tcp"),
        {"type": "shadowsocks", "method": "2022-blake3-aes-256-gcm", "password": f"{KEY32}:{KEY32}"},
    ),
    "ss: URL-safe base64": (
        f"ss://{_url_b64(f'aes-256-gcm:{WORD}:?>/@#')}@[FD00::1]:8388/?outline=1&plugin=",
        Server("fd00::1", 8388, "tcp"),
        {"type": "shadowsocks", "method": "aes-256-gcm", "password": f"{WORD}:?>/@#"},
    ),
    "ss: standard base64 with slash and padding": (
        f"ss://{_b64('aes-128-gcm:' + WORD + '???~~~')}@vpn.example:1/",
        Server("vpn.example", 1, "tcp"),
        {"type": "shadowsocks", "method": "aes-128-gcm", "password": f"{WORD}???~~~"},
    ),
    "ss: legacy, password with @": (
        f"ss://{_b64(f'CHACHA20-IETF-POLY1305:p@{WORD}:@vpn.example:8388')}#tag",
        Server("vpn.example", 8388, "tcp"),
        {"type": "shadowsocks", "method": "chacha20-ietf-poly1305", "password": f"p@{WORD}:"},
    ),
    "ss: user part percent-encoded as a whole": (
        f"ss://{_percent(f'chacha20-poly1305:{WORD}')}@vpn.example:8388",
        Server("vpn.example", 8388, "tcp"),
        {"type": "shadowsocks", "method": "chacha20-ietf-poly1305", "password": WORD},
    ),
    "vless: Reality and Vision": (
        REALITY + "&type=tcp&encryption=none&spx=%2F&headerType=none&host=&path=%2F#x",
        Server("198.18.0.1", 443, "tcp"),
        {
            "type": "vless",
            "uuid": ID,
            "flow": "xtls-rprx-vision",
            "tls": {
                "enabled": True,
                "server_name": "www.example",
                "utls": {"enabled": True, "fingerprint": "chrome"},
                "reality": {"enabled": True, "public_key": PBK, "short_id": SID},
            },
        },
    ),
    "vless: Reality without a fingerprint takes Chrome's": (
        f"vless://{ID}@a.example:443?security=reality&pbk={PBK}=",
        Server("a.example", 443, "tcp"),
        {
            "type": "vless",
            "uuid": ID,
            "tls": {
                "enabled": True,
                "server_name": "a.example",
                "utls": {"enabled": True, "fingerprint": "chrome"},
                "reality": {"enabled": True, "public_key": PBK, "short_id": ""},
            },
        },
    ),
    "vless: TLS": (
        f"vless://{ID}@[fd00::1]:8443?security=tls&sni=A.Example&alpn=h2%2Chttp%2F1.1&packetEncoding=xudp",
        Server("fd00::1", 8443, "tcp"),
        {"type": "vless", "uuid": ID, "tls": {"enabled": True, "server_name": "a.example", "utls": CHROME}},
    ),
    "trojan: password with everything in it": (
        f"trojan://{_percent(WORD + '@:/?#&=%')}@vpn.example?peer=b.example",
        Server("vpn.example", 443, "tcp"),
        {
            "type": "trojan",
            "password": WORD + "@:/?#&=%",
            "tls": {"enabled": True, "server_name": "b.example", "utls": CHROME},
        },
    ),
    "trojan: on an address": (
        f"trojan://{WORD}@198.18.0.1:8443?fp=firefox",
        Server("198.18.0.1", 8443, "tcp"),
        {
            "type": "trojan",
            "password": WORD,
            "tls": {"enabled": True, "server_name": "198.18.0.1", "utls": {"enabled": True, "fingerprint": "firefox"}},
        },
    ),
    "hysteria2: user and password, obfuscated": (
        f"hysteria2://user:{_percent('pa:' + WORD)}@vpn.example:8443/?obfs=salamander&obfs-password={WORD}&sni=c.x",
        Server("vpn.example", 8443, "udp"),
        {
            "type": "hysteria2",
            "password": f"user:pa:{WORD}",
            "obfs": {"type": "salamander", "password": WORD},
            "tls": {"enabled": True, "server_name": "c.x", "alpn": ["h3"]},
        },
    ),
    "hysteria2: many ports": (
        f"hy2://{WORD}@vpn.example:443,5000-6000,7000",
        Server("vpn.example", 443, "udp"),
        {
            "type": "hysteria2",
            "password": WORD,
            "server_ports": ["443:443", "5000:6000", "7000:7000"],
            "tls": {"enabled": True, "server_name": "vpn.example", "alpn": ["h3"]},
        },
    ),
    "hysteria2: mport in place of the port": (
        f"hy2://{WORD}@vpn.example:443?mport=5000-6000",
        Server("vpn.example", 5000, "udp"),
        {
            "type": "hysteria2",
            "password": WORD,
            "server_ports": ["5000:6000"],
            "tls": {"enabled": True, "server_name": "vpn.example", "alpn": ["h3"]},
        },
    ),
    "hysteria2: nothing but a server": (
        "hysteria2://@[fd00::1]",
        Server("fd00::1", 443, "udp"),
        {"type": "hysteria2", "tls": {"enabled": True, "server_name": "fd00::1", "alpn": ["h3"]}},
    ),
    "hysteria2: mport, a gecko, and rates": (
        f"hy2://{WORD}@vpn.example:443/?mport=5000-6000&obfs=gecko&obfs-password=a+b%2B&upmbps=10&hop_interval=30",
        Server("vpn.example", 5000, "udp"),
        {
            "type": "hysteria2",
            "password": WORD,
            "obfs": {"type": "gecko", "password": "a b+"},
            "up_mbps": 10,
            "server_ports": ["5000:6000"],
            "hop_interval": "30s",
            "tls": {"enabled": True, "server_name": "vpn.example", "alpn": ["h3"]},
        },
    ),
    "ss: plugin": (
        f"ss://{_url_b64(f'aes-256-gcm:{WORD}')}@vpn.example:8388/?plugin=simple-obfs%3Bobfs%3Dhttp%3Bobfs-host%3Da.example",
        Server("vpn.example", 8388, "tcp"),
        {
            "type": "shadowsocks",
            "method": "aes-256-gcm",
            "password": WORD,
            "plugin": "obfs-local",
            "plugin_opts": "obfs=http;obfs-host=a.example",
            "network": "tcp",
        },
    ),
    "ss: a 2022 key that was encoded twice": (
        f"ss://2022-blake3-aes-128-gcm:{quote(quote(KEY16, safe=''))}@vpn.example:8388",
        Server("vpn.example", 8388, "tcp"),
        {"type": "shadowsocks", "method": "2022-blake3-aes-128-gcm", "password": KEY16},
    ),
    "ss: base64 with blanks, padding encoded": (
        f"ss://{_b64(f'aes-256-gcm:{WORD}!').replace('c', 'c ').replace('=', '%3D')}@vpn.example:8388",
        Server("vpn.example", 8388, "tcp"),
        {"type": "shadowsocks", "method": "aes-256-gcm", "password": WORD + "!"},
    ),
    "vless: WebSocket, as chats deliver it": (
        f"\u200b VLESS://{ID}@198.18.0.1:8443/?type=ws&amp;security=tls&amp;path=%2Fa%3Fed%3D2048&amp;host=a.example#x",
        Server("198.18.0.1", 8443, "tcp"),
        {
            "type": "vless",
            "uuid": ID,
            "tls": {"enabled": True, "server_name": "a.example", "utls": CHROME},
            "transport": {
                "type": "ws",
                "path": "/a",
                "headers": {"Host": "a.example"},
                "max_early_data": 2048,
                "early_data_header_name": "Sec-WebSocket-Protocol",
            },
        },
    ),
    "vless: gRPC": (
        f"vless://{ID}@vpn.example:443?type=grpc&serviceName=a&mode=gun&security=tls&authority=",
        Server("vpn.example", 443, "tcp"),
        {
            "type": "vless",
            "uuid": ID,
            "tls": {"enabled": True, "server_name": "vpn.example", "utls": CHROME},
            "transport": {"type": "grpc", "service_name": "a"},
        },
    ),
    "vless: Shadowrocket": (
        f"vless://{_b64(f'auto:{ID}@vpn.example:443')}?remarks=a&obfs=websocket&obfsParam=b.example&path=/a&tls=1&peer=c.example",
        Server("vpn.example", 443, "tcp"),
        {
            "type": "vless",
            "uuid": ID,
            "tls": {"enabled": True, "server_name": "c.example", "utls": CHROME},
            "transport": {"type": "ws", "path": "/a", "headers": {"Host": "b.example"}},
        },
    ),
    "vmess: JSON": (
        _vmess(net="ws", type="none", host="a.example", path="/a", tls="tls", port=8443, aid=0, fp="", alpn=None),
        Server("vpn.example", 8443, "tcp"),
        {
            "type": "vmess",
            "uuid": ID,
            "security": "auto",
            "tls": {"enabled": True, "server_name": "a.example", "utls": CHROME},
            "transport": {"type": "ws", "path": "/a", "headers": {"Host": "a.example"}},
        },
    ),
    "vmess: JSON, gRPC on IPv6": (
        _vmess(net="grpc", type="gun", path="a", tls="tls", sni="a.example", add="[fd00::1]", verify=1),
        Server("fd00::1", 443, "tcp"),
        {
            "type": "vmess",
            "uuid": ID,
            "security": "auto",
            "tls": {"enabled": True, "server_name": "a.example", "utls": CHROME},
            "transport": {"type": "grpc", "service_name": "a"},
        },
    ),
    "vmess: JSON, disguised, with a name behind it": (
        _vmess(net="tcp", type="http", host="a.example,b.example", path="/a").rstrip("=") + "#name",
        Server("vpn.example", 443, "tcp"),
        {
            "type": "vmess",
            "uuid": ID,
            "security": "auto",
            "transport": {"type": "http", "path": "/a", "host": ["a.example", "b.example"], "method": "GET"},
        },
    ),
    "vmess: URL": (
        f"vmess://{ID}@vpn.example:443?encryption=aes-128-gcm&type=tcp&security=tls#a",
        Server("vpn.example", 443, "tcp"),
        {
            "type": "vmess",
            "uuid": ID,
            "security": "aes-128-gcm",
            "tls": {"enabled": True, "server_name": "vpn.example", "utls": CHROME},
        },
    ),
    "trojan: password with everything in it, unencoded": (
        f"trojan://{WORD}?a=b#c@d/e%zz@vpn.example:443?sni=a.example#@channel:80",
        Server("vpn.example", 443, "tcp"),
        {
            "type": "trojan",
            "password": f"{WORD}?a=b#c@d/e%zz",
            "tls": {"enabled": True, "server_name": "a.example", "utls": CHROME},
        },
    ),
    "trojan: h3 and junk": (
        f"trojan://{WORD}@vpn.example:443/ws?alpn=h3,h2&unknown=1&flow=&allowInsecure=0&insecure=0",
        Server("vpn.example", 443, "tcp"),
        {"type": "trojan", "password": WORD, "tls": {"enabled": True, "server_name": "vpn.example", "utls": CHROME}},
    ),
    "tuic": (
        f"tuic://{ID}%3A{WORD}%3A1@vpn.example:443?congestion_control=bbr&udp_relay_mode=quic&alpn=h3&disable_sni=1",
        Server("vpn.example", 443, "udp"),
        {
            "type": "tuic",
            "uuid": ID,
            "password": f"{WORD}:1",
            "congestion_control": "bbr",
            "udp_relay_mode": "quic",
            "tls": {"enabled": True, "server_name": "vpn.example", "disable_sni": True, "alpn": ["h3"]},
        },
    ),
    "anytls": (
        f"anytls://{WORD}@vpn.example/?sni=a.example&fp=firefox",
        Server("vpn.example", 443, "tcp"),
        {
            "type": "anytls",
            "password": WORD,
            "tls": {"enabled": True, "server_name": "a.example", "utls": {"enabled": True, "fingerprint": "firefox"}},
        },
    ),
    "socks: base64": (
        f"socks://{_b64(f'name:{WORD}:')}@[fd00::1]:1080#a",
        Server("fd00::1", 1080, "tcp"),
        {"type": "socks", "version": "5", "network": "tcp", "username": "name", "password": f"{WORD}:"},
    ),
    "socks: all in base64": (
        f"socks://{_b64(f'name:{WORD}@vpn.example:1080')}#a",
        Server("vpn.example", 1080, "tcp"),
        {"type": "socks", "version": "5", "network": "tcp", "username": "name", "password": WORD},
    ),
    "socks5": (
        f"socks5://na%40me:{_percent(WORD)}@vpn.example:1080",
        Server("vpn.example", 1080, "tcp"),
        {"type": "socks", "version": "5", "network": "tcp", "username": "na@me", "password": WORD},
    ),
    "socks4": (
        "socks4://198.18.0.1:1080#@a.example:80",
        Server("198.18.0.1", 1080, "tcp"),
        {"type": "socks", "version": "4", "network": "tcp"},
    ),
    "http": (
        f"http://name:{WORD}@vpn.example:8080/",
        Server("vpn.example", 8080, "tcp"),
        {"type": "http", "username": "name", "password": WORD},
    ),
    "https, as v2rayN encodes the user": (
        f"https://name%3A{WORD}@vpn.example:8443#a",
        Server("vpn.example", 8443, "tcp"),
        {
            "type": "http",
            "username": "name",
            "password": WORD,
            "tls": {"enabled": True, "server_name": "vpn.example"},
        },
    ),
    "ssh": (
        f"ssh://name:{WORD}@vpn.example#a",
        Server("vpn.example", 22, "tcp"),
        {"type": "ssh", "user": "name", "password": WORD},
    ),
}


@pytest.mark.parametrize(("link", "server", "outbound"), GOOD.values(), ids=GOOD.keys())
def test_what_a_link_means(link: str, server: Server, outbound: dict[str, Any]) -> None:
    config = _read(link)
    assert config.server == server
    assert revealed(config.outbound) == outbound
    assert not config.tls_unverified


@pytest.mark.root
def test_sing_box_takes_them() -> None:
    outbounds = []
    for number, (link, server, _) in enumerate(GOOD.values()):
        outbound = {**revealed(_read(link).outbound), "tag": f"out-{number}", "server": "198.18.0.1"}
        outbounds.append(outbound if "server_ports" in outbound else outbound | {"server_port": server.port})
    document = json.dumps({"outbounds": outbounds})
    done = subprocess.run(
        ["sing-box", "check", "-c", "stdin"], input=document, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("link", "needs"),
    [
        (GOOD["ss: 2022, plain"][0], ()),
        (GOOD["vless: TLS"][0], ("utls",)),
        (TROJAN + "?fp=unsafe", ()),
        (_vmess(net="tcp"), ()),
        (REALITY, ("utls",)),
        (GOOD["trojan: on an address"][0], ("utls",)),
        (HYSTERIA2, ("quic",)),
    ],
)
def test_what_a_link_needs_of_sing_box(link: str, needs: tuple[str, ...]) -> None:
    assert _read(link).needs == needs


@pytest.mark.parametrize(
    "link",
    [
        TROJAN + "?allowInsecure=1",
        TROJAN + "?insecure=0&allowInsecure=1",
        TROJAN + "?allow_insecure=1&insecure=0",
        HYSTERIA2 + "?insecure=true",
        _vmess(tls="tls", insecure="1"),
        _vmess(tls="tls", allowInsecure=True),
    ],
)
def test_an_unchecked_certificate_is_honoured_and_said(link: str) -> None:
    config = _read(link)
    (finding,) = _findings(link)
    assert config.tls_unverified
    assert revealed(config.outbound)["tls"]["insecure"] is True
    assert (finding.level, "certificate" in finding.text) == ("danger", True)


@pytest.mark.parametrize(
    "link", [TROJAN + "?allowInsecure=0", REALITY + "&allowInsecure=1", _vmess(tls="tls", insecure=0)]
)
def test_a_checked_server_stays_checked(link: str) -> None:
    config = _read(link)
    assert not config.tls_unverified
    assert "insecure" not in revealed(config.outbound)["tls"]
    assert all(finding.level == "note" for finding in _findings(link))


UNSUPPORTED = {
    "ss: plugin": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example:1?plugin=kcptun%3Bkey%3D{WORD}", "kcptun"),
    "ss: prefix": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example:1?outline=1&prefix=%16%03%01%C2%A8", "prefix"),
    "ss: old cipher": (f"ss://{_b64('bf-cfb:' + WORD)}@a.example:1", "method"),
    "ss: websocket": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example:1?type=ws", "type"),
    "ss: shadow-tls": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example:1?plugin=shadow-tls%3Bhost%3Da", "shadow-tls"),
    **{f"vless: {kind}": (f"{REALITY}&type={kind}", "type") for kind in ("xhttp", "kcp", "quic", "splithttp")},
    "vless: header": (REALITY + "&headerType=http", "headerType"),
    "vless: encryption": (REALITY + "&encryption=mlkem768x25519plus.native.0rtt.x", "encryption"),
    "vless: another flow": (REALITY.replace("vision", "direct"), "flow"),
    "vless: Vision over gRPC": (REALITY + "&type=grpc", "flow"),
    "vless: post-quantum": (REALITY + "&pqv=abc", "pqv"),
    "vless: mask": (f"{REALITY}&fm=%7B%22udp%22:%5B%5D%7D", "fm"),
    "vless: pinned": (f"vless://{ID}@a.example:443?security=tls&pcs=abc", "pcs"),
    "vless: encrypted hello by DNS": (f"vless://{ID}@a.example:443?security=tls&ech=a+https://a.example/", "ech"),
    "vless: fingerprint": (REALITY.replace("fp=chrome", "fp=hellochrome_58"), "fp"),
    "vless: packets": (REALITY + "&packetEncoding=other", "packetEncoding"),
    "vless: twice": (REALITY + "&sni=b.example", "sni"),
    "vmess: kcp": (_vmess(net="kcp", type="srtp"), "type"),
    "vmess: multi": (_vmess(net="grpc", type="multi", tls="tls"), "mode"),
    "trojan: flow": (TROJAN + "?flow=xtls-rprx-vision", "flow"),
    "trojan: plugin": (TROJAN + "?plugin=obfs-local;obfs=websocket", "plugin"),
    "hysteria2: pinned": (HYSTERIA2 + "?pinSHA256=ab:cd", "pinSHA256"),
    "hysteria2: another obfuscation": (HYSTERIA2 + "?obfs=other&obfs-password=x", "obfs"),
    "tuic: version 4": (f"tuic://{ID}@a.example:443?token={WORD}", "token"),
    "trojan: cut into pieces": (TROJAN + "?fragment=1,40-60,30-50,tlshello", "`fragment`"),
    "trojan: records cut into pieces": (TROJAN + "?tls_fragment=1", "`fragment`"),
    "vless: noise": (REALITY + "&noises=rand:10-20", "`noise`"),
    "vmess: cut into pieces": (_vmess(fragment="1,40-60,30-50"), "`fragment`"),
    "vmess: cut as Xray says it": (_vmess(fragment={"packets": "tlshello"}), "`fragment`"),
    "a page": ("https://a.example/", "fetch"),
    "a subscription": (f"https://a.example:8443/sub/{WORD}", "fetch"),
    "a subscription with a query": (f"http://a.example:8080?token={WORD}", "fetch"),
    **{scheme: (f"{scheme}://{WORD}@a.example:1", scheme) for scheme in sorted(KNOWN_SCHEMES)},
}
BROKEN = {
    "nothing": ("", "not a share link"),
    "a word": (WORD, "not a share link"),
    "another scheme": ("ftp://a.example", "not a share link"),
    "two links": (f"trojan://{WORD}@a.example:1 {TROJAN}", "two links"),
    "two lines": (TROJAN + "\n" + TROJAN, "control character"),
    "long": ("trojan://" + "a" * MAX_LINK, "longer"),
    "no server": (f"trojan://{WORD}", "no server"),
    "ss: no server": (f"ss://{_b64('aes-128-gcm:' + WORD)}", "no server"),
    "ss: not base64": (f"ss://{WORD}!@a.example:1", "user part"),
    "ss: no port": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example", "port"),
    "ss: no password": (f"ss://{_b64('aes-128-gcm:')}@a.example:1", "password"),
    "ss: a 2022 key too short": (f"ss://2022-blake3-aes-256-gcm:{_percent(KEY16)}@a.example:1", "base64 of 32 bytes"),
    "ss: a 2022 password that is no key": (f"ss://2022-blake3-aes-128-gcm:{WORD}@a.example:1", "base64 of 16 bytes"),
    "ss: two keys where one is": (f"ss://2022-blake3-chacha20-poly1305:{KEY32}:{KEY32}@a.example:1", "one key"),
    "port 70000": (TROJAN.replace("443", "70000"), "port"),
    "port is a word": (TROJAN.replace("443", WORD), "port"),
    "IPv6 without brackets": (f"trojan://{WORD}@fd00::1:443", "brackets"),
    "no host": (f"trojan://{WORD}@:443", "no server"),
    "no password": ("trojan://@a.example:443", "password"),
    "hidden line feed": (f"trojan://{WORD}%0a@a.example:443", "line"),
    "hidden escape": (f"trojan://{WORD}%1b@a.example:443", "control"),
    "server name": (TROJAN + "?sni=a%20b", "sni"),
    "vless: no user": (f"vless://{'x' * 40}@a.example:443?security=tls", "user id"),
    "vless: no key": (f"vless://{ID}@a.example:443?security=reality", "pbk"),
    "vless: a bad key": (REALITY.replace(PBK, PBK[:-4]), "pbk"),
    "vless: a bad short id": (REALITY.replace(SID, "abc"), "sid"),
    "vmess: no JSON": ("vmess://" + _b64("{" + WORD), "JSON"),
    "vmess: no base64": (f"vmess://{WORD}!", "base64"),
    "vmess: nested": ("vmess://" + _b64('{"a":' * 9000), "JSON"),
    "vmess: a number": ("vmess://" + _b64('{"port":' + "9" * 9000 + "}"), "JSON"),
    "vmess: no id": (_vmess(id=None), "user id"),
    "vmess: no host": (_vmess(add={"a": WORD}), "host"),
    "hysteria2: no obfuscation password": (HYSTERIA2 + "?obfs=gecko", "obfs-password"),
    "hysteria2: ports backwards": (f"hy2://{WORD}@a.example:10-5", "range"),
    "hysteria2: port 0": (f"hy2://{WORD}@a.example:0-5", "port"),
    "ssh: no password": ("ssh://name@a.example", "password"),
}


def _refused(link: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(link, "[[tunnel]] 3 (x)")
    said = str(caught.value)
    assert said.startswith("[[tunnel]] 3 (x): ")
    assert "\n" not in said
    assert not any(secret in said for secret in SECRETS)
    return caught.value


@pytest.mark.parametrize(("link", "named"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_is_not_carried_is_unsupported_and_never_another_setup(link: str, named: str) -> None:
    fault = _refused(link)
    assert isinstance(fault, Unsupported)
    assert named in fault.reason


@pytest.mark.parametrize(("link", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_link_is_one_clear_line(link: str, reason: str) -> None:
    fault = _refused(link)
    assert not isinstance(fault, Unsupported)
    assert reason in str(fault)


def test_nothing_is_fetched() -> None:
    assert "yourself" in _refused("ssconf://a.example/key#name").hint
    assert "yourself" in _refused("https://a.example/sub").hint


@pytest.mark.parametrize(
    ("link", "level", "said"),
    [
        (REALITY + "&spx=%2Fpath", "note", "spx"),
        (HYSTERIA2 + "?fp=chrome", "note", "fp"),
        (TROJAN + "/ws", "note", "behind the port"),
        (TROJAN + f"?{WORD}=1&other=2&other=3", "note", "2 unknown parameters"),
        (f"vless://{ID}@a.example:443?security=none", "danger", "no encryption"),
        (TROJAN + "?insecure=maybe", "warning", "insecure"),
        (f"trojan://{WORD}@xn--bcher-kva.example:443?sni=b%C3%BCcher.example", "note", "xn--"),
    ],
)
def test_what_is_left_out_or_weak_is_said(link: str, level: str, said: str) -> None:
    (finding,) = _findings(link)
    assert finding.level == level
    assert said in finding.text
    assert WORD not in finding.text


def test_schemes() -> None:
    assert scheme_of(" VLESS://x") == "vless"
    assert scheme_of("\ufeffss://x") == "ss"
    assert scheme_of("naive+https://x") == "naive+https"
    assert scheme_of("vless:x") is None
    assert scheme_of("# vless://x") is None
    assert not KNOWN_SCHEMES & SCHEMES.keys()


@pytest.mark.parametrize(
    ("link", "label"),
    [
        (TROJAN + "#%F0%9F%87%B8%F0%9F%87%AA%20Sweden", "🇸🇪 Sweden"),
        (TROJAN + "?remarks=a%20b", "a b"),
        (TROJAN, ""),
        (_vmess(ps="Sweden 1"), "Sweden 1"),
        (TROJAN + "#%1b[31mred%0a<b>", "\ufffd[31mred <b>"),
        (TROJAN + "#a%E2%80%AEb%E2%80%8Bc%E3%85%A4%EF%B8%8E", "a\ufffdb\ufffdc\ufffd\ufffd"),
        (TROJAN + "#%ff", "\ufffd"),
        (TROJAN + f"#a {TROJAN}", "a"),
        (TROJAN + f"#pw {WORD}", ""),
        (TROJAN + "#" + "a" * 5000, "a" * 80),
    ],
)
def test_a_label_can_be_shown(link: str, label: str) -> None:
    assert proxy(link, "x").label == label


def test_what_stands_behind_base64_is_passed_over() -> None:
    link = _vmess(net="tcp")
    for more in ("/config=1840617681372453", "=/@channel", "/~"):
        assert _read(link.rstrip("=") + more) == _read(link)


@pytest.mark.parametrize(
    "link",
    [
        TROJAN + "?ws=1&wspath=%2Fa%2Fb&sni=a.example",
        TROJAN + "?network=ws&path=/a/b&sni=a.example",
        TROJAN + "?ws=1&wspath=%2Fa%2Fb&type=ws&path=/a/b&sni=a.example",
    ],
)
def test_older_words_for_websocket(link: str) -> None:
    assert revealed(_read(link).outbound)["transport"] == {
        "type": "ws",
        "path": "/a/b",
        "headers": {"Host": "a.example"},
    }


def test_no_websocket_where_the_older_word_says_no() -> None:
    assert "transport" not in _read(TROJAN + "?ws=0&wspath=/a").outbound
    assert "transport" not in _read(TROJAN + "?ws=1&type=tcp").outbound


def test_keys_of_vmess_that_nobody_reads_are_counted() -> None:
    link = _vmess(net="tcp", verify_cert=True, group="a", empty="", fragment="", noises=[])
    assert [finding.text for finding in _findings(link)] == ["2 unknown parameters ignored"]


def test_a_password_that_holds_a_hash_as_it_is() -> None:
    assert proxy("trojan://a.b#c@vpn.example:443?type=tcp#n", "x").password == "a.b#c"


def test_a_header_that_clients_pass_over() -> None:
    link = f"vless://{ID}@vpn.example:443?security=none&headerType=auto"
    assert any("`headerType`" in finding.text for finding in _findings(link))
    assert "transport" not in _read(link).outbound


# ── round trips: what was put into a link comes out of it ────────────────────────────────────────────────────────────

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z]\.example", fullmatch=True)
PORTS = st.integers(1, 65535)
TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")) | st.just(" "), min_size=1, max_size=24)
PASSWORDS = TEXTS.filter(lambda text: text.isprintable())
IDS = st.uuids().map(str)
PATHS = st.text(string.ascii_letters + string.digits + "/-_.~@:&=+$,", max_size=12).map(lambda text: "/" + text)


def _query(words: dict[str, str]) -> str:
    return urlencode(words, quote_via=quote, safe="")


@st.composite
def _streams(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, Any]]:
    """Words of a link for TLS and transport, and what they mean."""
    sni, host, path = draw(NAMES), draw(NAMES), draw(PATHS)
    words, tls = (
        {"sni": sni, "security": draw(st.sampled_from(["tls", "reality"]))},
        {"enabled": True, "server_name": sni},
    )
    if words["security"] == "reality":
        key, short = draw(st.binary(min_size=32, max_size=32)), draw(st.binary(max_size=8)).hex()
        bare = base64.urlsafe_b64encode(key).decode().rstrip("=")
        words |= {"pbk": bare, "sid": short, "fp": "ios"}
        tls |= {"reality": {"enabled": True, "public_key": bare, "short_id": short}}
        tls |= {"utls": {"enabled": True, "fingerprint": "ios"}}
    else:
        tls |= {"utls": CHROME}
    words["type"] = draw(st.sampled_from(["tcp", "ws", "grpc", "http", "httpupgrade"]))
    transport: dict[str, Any] = {"type": words["type"]}
    match words["type"]:
        case "ws":
            words |= {"host": host, "path": path}
            transport |= {"path": path, "headers": {"Host": host}}
        case "grpc":
            words["serviceName"] = path[1:]
            transport["service_name"] = path[1:].strip()
        case "http":
            words |= {"host": host, "path": path}
            transport |= {"path": path, "host": [host]}
        case "httpupgrade":
            words |= {"host": host, "path": path}
            transport |= {"path": path, "host": host}
    meant = {"tls": tls} | ({"transport": transport} if words["type"] != "tcp" else {})
    if transport.get("service_name", "").startswith("/"):
        words["serviceName"] = transport["service_name"] = "a"
    return words, meant


@given(user=IDS, host=NAMES, port=PORTS, stream=_streams(), label=TEXTS)
def test_vless_comes_through(
    user: str, host: str, port: int, stream: tuple[dict[str, str], dict[str, Any]], label: str
) -> None:
    words, meant = stream
    config, _ = parse(f"vless://{user}@{host}:{port}?{_query(words)}#{quote(label)}", "x")
    assert config.server == Server(host, port, "tcp")
    assert revealed(config.outbound) == {"type": "vless", "uuid": user, **meant}


@given(password=PASSWORDS, host=NAMES, port=PORTS, stream=_streams())
def test_trojan_comes_through(
    password: str, host: str, port: int, stream: tuple[dict[str, str], dict[str, Any]]
) -> None:
    words, meant = stream
    config, _ = parse(f"trojan://{quote(password, safe='')}@{host}:{port}?{_query(words)}", "x")
    assert config.server == Server(host, port, "tcp")
    assert revealed(config.outbound) == {"type": "trojan", "password": password, **meant}


@given(user=IDS, host=NAMES, port=PORTS, stream=_streams(), url_safe=st.booleans(), as_text=st.booleans())
def test_vmess_comes_through_in_both_forms(
    user: str,
    host: str,
    port: int,
    stream: tuple[dict[str, str], dict[str, Any]],
    url_safe: bool,
    as_text: bool,
) -> None:
    words, meant = stream
    expected = {"type": "vmess", "uuid": user, "security": "auto", **meant}
    assert revealed(parse(f"vmess://{user}@{host}:{port}?{_query(words)}", "x")[0].outbound) == expected
    keys: dict[str, object] = {"add": host, "port": str(port) if as_text else port, "id": user, "net": words["type"]}
    keys |= {"tls": words["security"], "path": words.get("serviceName") or words.get("path", "")}
    keys |= {key: words.get(key, "") for key in ("sni", "host", "fp", "pbk", "sid")}
    code = _url_b64(json.dumps(keys)) if url_safe else _b64(json.dumps(keys))
    config, _ = parse(f"vmess://{code}", "x")
    assert config.server == Server(host, port, "tcp")
    assert revealed(config.outbound) == expected


@given(password=PASSWORDS, host=NAMES, port=PORTS)
def test_every_password_of_shadowsocks_comes_through_in_each_form(password: str, host: str, port: int) -> None:
    expected = {"type": "shadowsocks", "method": "aes-256-gcm", "password": password}
    for link in (
        f"ss://{_b64(f'aes-256-gcm:{password}')}@{host}:{port}",
        f"ss://{_url_b64(f'aes-256-gcm:{password}')}@{host}:{port}/?outline=1",
        f"ss://{_b64(f'aes-256-gcm:{password}@{host}:{port}')}#a",
        f"ss://aes-256-gcm:{quote(password, safe='')}@{host}:{port}",
        f"ss://{quote(f'aes-256-gcm:{password}', safe='')}@{host}:{port}",
    ):
        config, _ = parse(link, "x")
        assert config.server == Server(host, port, "tcp")
        assert revealed(config.outbound) == expected


@given(
    password=PASSWORDS,
    obfs=PASSWORDS.filter(lambda text: text == text.strip()),
    ports=st.lists(st.tuples(PORTS, PORTS).map(sorted), min_size=1, max_size=4, unique_by=tuple),
)
def test_hysteria2_comes_through(password: str, obfs: str, ports: list[list[int]]) -> None:
    several = ",".join(f"{low}-{high}" for low, high in ports)
    words = _query({"obfs": "salamander", "obfs-password": obfs, "mport": several})
    config, _ = parse(f"hy2://{quote(password, safe='')}@a.example:443?{words}", "x")
    meant = revealed(config.outbound)
    assert meant["password"] == password
    assert meant["obfs"]["password"] == obfs
    if len(ports) > 1 or ports[0][0] != ports[0][1]:
        assert meant["server_ports"] == [f"{low}:{high}" for low, high in ports]
    assert config.server == Server("a.example", ports[0][0], "udp")


@given(user=IDS, password=PASSWORDS, name=PASSWORDS.filter(lambda text: ":" not in text and text == text.strip()))
def test_the_other_logins_come_through(user: str, password: str, name: str) -> None:
    secret, who = quote(password, safe=""), quote(name, safe="")
    tuic = revealed(parse(f"tuic://{user}:{secret}@a.example:443", "x")[0].outbound)
    assert (tuic["uuid"], tuic["password"]) == (user, password)
    assert revealed(parse(f"anytls://{secret}@a.example", "x")[0].outbound)["password"] == password
    for scheme in ("socks5", "http", "https", "ssh"):
        meant = revealed(parse(f"{scheme}://{who}:{secret}@a.example:22", "x")[0].outbound)
        assert (meant.get("username") or meant.get("user"), meant["password"]) == (name, password)
    meant = revealed(parse(f"socks://{_b64(f'{name}:{password}')}@a.example:22", "x")[0].outbound)
    assert (meant["username"], meant["password"]) == (name, password)


@given(password=st.text(string.ascii_letters + string.digits + "!$&'()*+,;=/?#[]~<>{}|^ äß", min_size=1, max_size=12))
@example("a?b#c")
def test_a_password_that_nobody_encoded_comes_through(password: str) -> None:
    for link in (f"trojan://{password}@vpn.example:443", f"anytls://{password}@vpn.example:443?sni=a.example#@b:1"):
        config, _ = parse(link, "x")
        assert config.server == Server("vpn.example", 443, "tcp")
        assert revealed(config.outbound)["password"] == password


# ── anything at all ──────────────────────────────────────────────────────────────────────────────────────────────────

PIECES = st.sampled_from(
    [
        *(
            "ss://",
            "vless://",
            "vmess://",
            "trojan://",
            "hy2://",
            "tuic://",
            "anytls://",
            "socks://",
            "http://",
            "ssh://",
        ),
        *("@", ":", "/", "?", "#", "&", "&amp;", "=", "%", "%zz", "443", "[fd00::1]", "a.example"),
        *(ID, WORD, KEY16, _b64(f"aes-128-gcm:{WORD}"), _b64(f"aes-128-gcm:{WORD}@a.example:1")),
        *("security=reality", "type=ws", "type=grpc", "path=/a?ed=1", "plugin=obfs-local;obfs=http"),
        *(f"pbk={PBK}", f"sid={SID}", "sni=a.example", "obfs=salamander", f"obfs-password={WORD}", "insecure=1"),
        *(_vmess()[8:], _vmess(net="ws", path=WORD)[8:]),
    ]
)


@given(pieces=st.lists(PIECES | st.text(max_size=3), max_size=16))
def test_only_a_config_error_leaves_the_parser_and_it_shows_no_secret(pieces: list[str]) -> None:
    try:
        config, findings = parse("".join(pieces), "x")
        said = (repr(config.outbound), *(finding.text for finding in findings))
    except ConfigError as fault:
        said = (str(fault),)
    assert not any(secret in text for secret in SECRETS for text in said)


@given(scheme=st.sampled_from(sorted(SCHEMES)), rest=st.text())
def test_any_link_is_read_or_refused(scheme: str, rest: str) -> None:
    try:
        config, _ = parse(f"{scheme}://{rest}", "x")
    except ConfigError:
        return
    assert Kind(str(config.outbound["type"])) is SCHEMES[scheme]


@given(
    st.dictionaries(
        st.sampled_from("v ps add port id aid scy net type host path tls sni alpn fp insecure".split()),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.lists(st.text(max_size=3), max_size=3),
    )
)
def test_any_json_of_vmess_is_read_or_refused(keys: dict[str, object]) -> None:
    try:
        config, _ = parse("vmess://" + _b64(json.dumps(keys)), "x")
    except ConfigError:
        return
    assert config.outbound["type"] == "vmess"


@pytest.mark.parametrize(
    ("link", "label"),
    [
        ("trojan://first#SECRETPART@198.51.100.1:443", ""),
        ("trojan://first#SECRETPART@[2001:db8::1]:443/?sni=x.example", ""),
        ("trojan://first#SECRETPART@198.51.100.1:443#Name | @channel", "Name | @channel"),
        ("trojan://first@198.51.100.1:443#Name | @channel", "Name | @channel"),
    ],
)
def test_a_piece_of_a_password_is_no_label(link: str, label: str) -> None:
    assert proxy(link, "x").label == label
    from vpntest.plan import sources

    assert [entry.label for entry in sources.link(link, "x")] == [label]


def test_a_password_with_blanks_around_it_is_no_label_either() -> None:
    assert proxy("trojan:// mpMw7CrnbX1Zmxuj@vpn.example:443#a mpMw7CrnbX1Zmxuj b", "x").label == ""
