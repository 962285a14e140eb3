"""Proxies: what their words mean to sing-box, and which of them cannot be honoured."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from some_proxies import ID, KEY16, KEY32, PBK, PIN, REALITY, SECRETS, WORD, findings_of, meaning, proxy_of

from vpntest.errors import ConfigError
from vpntest.plan.model import Kind, ProxyConfig
from vpntest.plan.proxies import KINDS, outbound
from vpntest.plan.proxy_words import WORDS, Proxy
from vpntest.plan.secret import revealed
from vpntest.plan.syntax import Refused, Unsupported


def _document(configs: list[ProxyConfig]) -> str:
    outbounds = []
    for number, config in enumerate(configs):
        written = {**revealed(config.outbound), "tag": f"out-{number}", "server": "198.18.0.1"}
        if "server_ports" not in written:
            written["server_port"] = config.server.port
        outbounds.append(written)
    return json.dumps({"outbounds": outbounds})


def _checked(configs: list[ProxyConfig]) -> None:
    """sing-box itself takes them; it refuses what it does not know."""
    done = subprocess.run(
        ["sing-box", "check", "-c", "stdin"], input=_document(configs), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


# ── transports and security ──────────────────────────────────────────────────────────────────────────────────────────

SECURITIES: dict[str, dict[str, str]] = {
    "none": {"security": "none"},
    "tls": {"security": "tls", "sni": "a.example", "alpn": "h2,http/1.1", "fp": "firefox"},
    "insecure": {"security": "tls", "insecure": "1", "disable-sni": "1", "tls-min": "1.2", "tls-max": "1.3"},
    "pinned": {"security": "tls", "pin": PIN, "ech": base64.b64encode(b"\x00\x01" * 20).decode()},
    "reality": REALITY,
}
TRANSPORTS: dict[str, dict[str, str]] = {
    "tcp": {"type": "tcp", "headerType": "none"},
    "header": {"type": "tcp", "headerType": "http", "host": "b.example,c.example", "path": "/a"},
    "ws": {"type": "ws", "host": "b.example", "path": "/a b?ed=2048", "headers": '{"User-Agent": "x"}'},
    "grpc": {"type": "grpc", "serviceName": "a/b", "mode": "gun"},
    "http": {"type": "http", "host": "b.example", "path": "/ä%20", "method": "GET"},
    "httpupgrade": {"type": "httpupgrade", "path": "a", "host": "b.example"},
}


def _everything() -> Iterator[tuple[str, Proxy]]:
    """One of each kind, transport and security that go together."""
    for kind, (way, transport), (safety, security) in product(
        (Kind.VLESS, Kind.VMESS, Kind.TROJAN), TRANSPORTS.items(), SECURITIES.items()
    ):
        if (way == "header" and safety != "none") or (way == "http" and safety == "none"):
            continue
        yield f"{kind} {way} {safety}", proxy_of(kind, {**transport, **security})
    for safety in ("tls", "reality"):
        yield f"vision {safety}", proxy_of(Kind.VLESS, {**SECURITIES[safety], "flow": "xtls-rprx-vision"})
    for kind, safety in product((Kind.ANYTLS, Kind.HTTP), SECURITIES):
        if kind is Kind.HTTP or safety != "none":
            yield f"{kind} {safety}", proxy_of(kind, SECURITIES[safety])
    for kind, safety in product((Kind.HYSTERIA2, Kind.TUIC), ("tls", "insecure", "pinned")):
        yield f"{kind} {safety}", proxy_of(kind, SECURITIES[safety])
    more: dict[str, tuple[Kind, dict[str, str], dict[str, str]]] = {
        "vless packets": (Kind.VLESS, {"packetEncoding": "packetaddr", "mux": "h2mux", "mux-padding": "1"}, {}),
        "vless a word": (Kind.VLESS, {"udp": "0"}, {"username": "a word"}),
        "vmess old": (Kind.VMESS, {"aid": "4", "scy": "aes-128-cfb", "packetEncoding": "xudp"}, {}),
        "vmess padded": (Kind.VMESS, {"global-padding": "1", "authenticated-length": "true", "scy": "zero"}, {}),
        "trojan mux": (Kind.TROJAN, {"mux": "smux", "mux-connections": "4", "mux-streams": "8"}, {}),
        "hy2 ports": (Kind.HYSTERIA2, {"mport": "5000-6000,7000", "hop-interval": "3", "up": "10 Mbps"}, {}),
        "hy2 salamander": (Kind.HYSTERIA2, {"obfs": "salamander", "obfs-password": WORD}, {"password": ""}),
        "hy2 gecko": (Kind.HYSTERIA2, {"obfs": "gecko", "obfs-password": WORD, "down": "20"}, {}),
        "tuic": (Kind.TUIC, {"congestion_control": "bbr", "udp_relay_mode": "quic", "heartbeat": "10s"}, {}),
        "tuic stream": (Kind.TUIC, {"udp-over-stream": "1", "reduce-rtt": "1", "udp": "0"}, {}),
        "socks": (Kind.SOCKS, {"uot": "1"}, {}),
        "socks4": (Kind.SOCKS, {"version": "4"}, {"password": ""}),
        "socks4a": (Kind.SOCKS, {"version": "4a"}, {"username": "", "password": ""}),
        "http": (Kind.HTTP, {"headers": '{"X-A": "b"}', "path": "/x"}, {"username": "", "password": ""}),
        "ssh": (Kind.SSH, {"host-key": f"ssh-ed25519 {_ssh_key()} somebody"}, {}),
        "ss uot": (Kind.SHADOWSOCKS, {"uot": "1"}, {}),
        "ss uot 2": (Kind.SHADOWSOCKS, {"uot": "2"}, {}),
        "ss mux": (Kind.SHADOWSOCKS, {"mux": "yamux", "mux-min-streams": "2"}, {}),
        "ss none": (Kind.SHADOWSOCKS, {}, {"username": "plain", "password": ""}),
        "ss two keys": (
            Kind.SHADOWSOCKS,
            {},
            {"username": "2022-blake3-aes-256-gcm", "password": f"{KEY32}:{KEY32.rstrip('=')}"},
        ),
        "ss obfs": (Kind.SHADOWSOCKS, {"plugin": "simple-obfs;obfs=tls;obfs-host=b.example;fast-open"}, {}),
        "ss plugin": (Kind.SHADOWSOCKS, {"plugin": r"v2ray-plugin;tls;host=b.example;path=/a\=\;\\;mux=0"}, {}),
        "ss plugin mux": (Kind.SHADOWSOCKS, {"plugin": "v2ray-plugin"}, {}),
    }
    for method in ("aes-128-ctr", "rc4-md5", "chacha20-ietf", "xchacha20", "AES-128-GCM", "xchacha20-ietf-poly1305"):
        more[f"ss {method}"] = (Kind.SHADOWSOCKS, {}, {"username": method})
    for name, (kind, words, fields) in more.items():
        yield name, proxy_of(kind, words, **fields)


def _ssh_key() -> str:
    return base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + bytes(range(32))).decode()


EVERYTHING = dict(_everything())


@pytest.mark.parametrize("proxy", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_what_can_be_carried_is_read_and_shows_no_secret(proxy: Proxy) -> None:
    config, findings = outbound(proxy)
    assert config.outbound["type"] == proxy.kind.value
    assert config.tls_unverified == (proxy.parameters.get("insecure") == "1")
    said = (repr(proxy), repr(config), *(finding.text for finding in findings))
    assert not any(secret in text for secret in SECRETS for text in said)


@pytest.mark.root
def test_sing_box_takes_all_of_it() -> None:
    _checked([outbound(proxy)[0] for proxy in EVERYTHING.values()])


def test_hysteria_hops_over_the_ports_of_mport() -> None:
    config, _ = outbound(proxy_of(Kind.HYSTERIA2, {"mport": "5000:6000, 7000", "hop-interval": "30"}))
    assert (config.outbound["server_ports"], config.outbound["hop_interval"]) == (["5000:6000", "7000:7000"], "30s")
    assert config.server.port == 5000
    config, _ = outbound(proxy_of(Kind.HYSTERIA2, {"mport": "8443"}))
    assert "server_ports" not in config.outbound
    assert config.server.port == 443


def test_hops_of_no_fixed_length() -> None:
    for said, low, high in (("10-30", "10s", "30s"), ("3 - 4s", "5s", "5s")):
        meant = meaning(Kind.HYSTERIA2, {"mport": "5000-6000", "hop-interval": said})
        assert (meant["hop_interval"], meant["hop_interval_max"]) == (low, high)
    assert "hop_interval" not in meaning(Kind.HYSTERIA2, {"hop-interval": "10-30"})
    for said in ("30-10", "-10", "10-", "a-b"):
        with pytest.raises(ConfigError, match="hop-interval"):
            outbound(proxy_of(Kind.HYSTERIA2, {"mport": "5000-6000", "hop-interval": said}))


def test_plugin_options_are_written_anew() -> None:
    meant = meaning(Kind.SHADOWSOCKS, {"plugin": r"v2ray-plugin;path=/a\;b\=c\\;tls;mode=websocket;loglevel=none"})
    assert meant["plugin_opts"] == r"tls=1;host=cloudfront.com;path=/a\;b\=c\\;mux=1"
    meant = meaning(Kind.SHADOWSOCKS, {"plugin": "obfs-local;obfs=http"})
    assert (meant["plugin"], meant["plugin_opts"]) == ("obfs-local", "obfs=http;obfs-host=cloudfront.net")


@pytest.mark.parametrize(
    ("plugin", "options"),
    [
        ("obfs-local;obfs=tls", "obfs=tls"),
        ("v2ray-plugin", "path=/;mux=1"),
        ("v2ray-plugin;host=a.example", "host=a.example;path=/;mux=1"),
    ],
)
def test_sing_box_has_no_hosts_of_plugins_but_its_own(plugin: str, options: str) -> None:
    proxy = proxy_of(Kind.SHADOWSOCKS, {"plugin": plugin})
    assert revealed(outbound(dataclasses.replace(proxy, dialect="sing-box"))[0].outbound)["plugin_opts"] == options


def test_sing_box_has_two_names_for_v2ray_plugin_with_tls_unless_one_is_said() -> None:
    proxy = dataclasses.replace(proxy_of(Kind.SHADOWSOCKS, {"plugin": "v2ray-plugin;tls"}), dialect="sing-box")
    with pytest.raises(Unsupported, match="`host`"):
        outbound(proxy)
    config, _ = outbound(dataclasses.replace(proxy, host="192.0.2.1"))
    assert revealed(config.outbound)["plugin_opts"] == "tls=1;path=/;mux=1"


# ── what passes at all ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "words", "udp"),
    [
        (Kind.SHADOWSOCKS, {}, True),
        (Kind.SHADOWSOCKS, {"plugin": "obfs-local;obfs=http"}, False),
        (Kind.SHADOWSOCKS, {"plugin": "obfs-local;obfs=http", "uot": "1"}, True),
        (Kind.VLESS, {}, True),
        (Kind.VMESS, {}, True),
        (Kind.TROJAN, {}, True),
        (Kind.TROJAN, {"udp": "0"}, False),
        (Kind.HYSTERIA2, {}, True),
        (Kind.TUIC, {}, True),
        (Kind.ANYTLS, {}, True),
        (Kind.SOCKS, {}, False),
        (Kind.HTTP, {}, False),
        (Kind.SSH, {}, False),
    ],
)
def test_whether_udp_passes(kind: Kind, words: dict[str, str], udp: bool) -> None:
    config, _ = outbound(proxy_of(kind, words))
    assert config.carries_udp == udp
    assert ("network" in config.outbound) == (not udp and kind not in (Kind.HTTP, Kind.SSH))


def test_socks_4_has_neither_udp_nor_passwords() -> None:
    config, _ = outbound(proxy_of(Kind.SOCKS, {"version": "4"}, password=""))
    assert not config.carries_udp
    with pytest.raises(ConfigError, match="password"):
        outbound(proxy_of(Kind.SOCKS, {"version": "4"}))


@pytest.mark.parametrize(
    ("kind", "words", "needs"),
    [
        (Kind.SHADOWSOCKS, {}, ()),
        (Kind.TROJAN, {}, ("utls",)),
        (Kind.TROJAN, {"security": "none"}, ()),
        (Kind.ANYTLS, {}, ()),
        (Kind.TROJAN, {"fp": "safari"}, ("utls",)),
        (Kind.TROJAN, {"fp": "unsafe"}, ()),
        (Kind.VLESS, REALITY, ("utls",)),
        (Kind.HYSTERIA2, {"fp": "chrome"}, ("quic",)),
        (Kind.TUIC, {}, ("quic",)),
    ],
)
def test_what_it_needs_of_sing_box(kind: Kind, words: dict[str, str], needs: tuple[str, ...]) -> None:
    assert outbound(proxy_of(kind, words))[0].needs == needs


# ── what a reader should know ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "words", "fields"),
    [
        (Kind.VLESS, {}, {}),
        (Kind.TROJAN, {"security": "none"}, {}),
        (Kind.VMESS, {"scy": "none"}, {}),
        (Kind.SOCKS, {}, {}),
        (Kind.HTTP, {}, {}),
        (Kind.SHADOWSOCKS, {}, {"username": "none"}),
    ],
)
def test_what_others_can_read_is_a_danger(kind: Kind, words: dict[str, str], fields: dict[str, str]) -> None:
    (finding,) = [one for one in findings_of(kind, words, **fields) if one.level != "note"]
    assert finding.level == "danger"
    assert "read" in finding.text


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Kind.VMESS, {}), (Kind.VLESS, REALITY), (Kind.HTTP, {"security": "tls"}), (Kind.SHADOWSOCKS, {})],
)
def test_what_is_sound_needs_no_words(kind: Kind, words: dict[str, str]) -> None:
    assert findings_of(kind, words) == ()


@pytest.mark.parametrize(
    ("kind", "words", "level", "named"),
    [
        (Kind.VLESS, {**REALITY, "spx": "/a"}, "note", "`spx`"),
        (Kind.HYSTERIA2, {"fp": "chrome"}, "note", "`fp`"),
        (Kind.TROJAN, {"alpn": "h3,h2", "fp": "unsafe"}, "note", "h3"),
        (Kind.TROJAN, {"alpn": "h2"}, "note", "`alpn`"),
        (Kind.VLESS, {**REALITY, "alpn": "http/1.1"}, "note", "`alpn`"),
        (Kind.HYSTERIA2, {"obfs": "salamander"}, "warning", "`obfs`"),
        (Kind.VLESS, {"security": "tls", "type": "grpc", "mode": "gun-channel"}, "note", "`mode`"),
        (Kind.TROJAN, {"tfo": "1"}, "note", "`tfo`"),
        (Kind.TROJAN, {"mux": "1"}, "warning", "`mux`"),
        (Kind.TROJAN, {"serviceName": "a", "host": "b.example"}, "note", "`host`, `serviceName`"),
        (Kind.TROJAN, {WORD: "1", "other": "2"}, "note", "2 unknown parameters"),
        (Kind.VMESS, {"scy": "rot13"}, "note", "`scy`"),
        (Kind.VMESS, {"aid": "64"}, "warning", "`aid`"),
        (Kind.SSH, {}, "danger", "`host-key`"),
        (Kind.TROJAN, {"sni": "@channel"}, "warning", "`sni`"),
        (Kind.TROJAN, {"pqv": WORD}, "note", "`pqv`"),
        (Kind.VLESS, {**REALITY, "pcs": WORD, "vcn": WORD}, "note", "`pcs`, `vcn`"),
        (Kind.TUIC, {"type": "ws", "headerType": "http"}, "note", "`headerType`, `type`"),
        (Kind.VLESS, {**REALITY, "ed": "1", "extra": "{}"}, "note", "`ed`, `extra`"),
    ],
)
def test_what_is_left_out_is_said(kind: Kind, words: dict[str, str], level: str, named: str) -> None:
    (finding,) = findings_of(kind, words)
    assert finding.level == level
    assert named in finding.text
    assert WORD not in finding.text


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

TLS = {"security": "tls"}
UNSUPPORTED: dict[str, tuple[Kind, dict[str, str], str]] = {
    **{f"type {name}": (Kind.VLESS, {**TLS, "type": name}, name) for name in ("xhttp", "splithttp", "kcp", "quic")},
    "type unknown": (Kind.VLESS, {**TLS, "type": WORD}, "`type`"),
    "encryption": (Kind.VLESS, {**TLS, "encryption": "mlkem768x25519plus.native.0rtt.x"}, "`encryption`"),
    "flow": (Kind.VLESS, {**TLS, "flow": "xtls-rprx-direct"}, "`flow`"),
    "flow without TLS": (Kind.VLESS, {"flow": "xtls-rprx-vision"}, "`flow`"),
    "flow over ws": (Kind.VLESS, {**TLS, "type": "ws", "flow": "xtls-rprx-vision"}, "`flow`"),
    "flow of trojan": (Kind.TROJAN, {"flow": "xtls-rprx-vision"}, "`flow`"),
    "mux with flow": (Kind.VLESS, {**TLS, "flow": "xtls-rprx-vision", "mux": "smux"}, "`mux`"),
    "packets": (Kind.VLESS, {"packetEncoding": WORD}, "`packetEncoding`"),
    "header in TLS": (Kind.VLESS, {**TLS, "headerType": "http"}, "`headerType=http`"),
    "header": (Kind.VLESS, {"headerType": "srtp"}, "`headerType`"),
    "h2 in the clear": (Kind.VLESS, {"type": "h2"}, "`type=http`"),
    "grpc multi": (Kind.VLESS, {**TLS, "type": "grpc", "mode": "multi"}, "`mode`"),
    "grpc authority": (Kind.VLESS, {**TLS, "type": "grpc", "sni": "a.b", "authority": "c.d"}, "`authority`"),
    "grpc path": (Kind.VLESS, {**TLS, "type": "grpc", "serviceName": "/a/b"}, "`serviceName`"),
    "ws query": (Kind.VLESS, {**TLS, "type": "ws", "path": "/?ed=1&proxyip=x"}, "`path`"),
    "ws percent": (Kind.VLESS, {**TLS, "type": "ws", "path": "/%zz"}, "`path`"),
    "fm": (Kind.VLESS, {**TLS, "fm": '{"tcp":[]}'}, "`fm`"),
    **{word: (Kind.VLESS, {**TLS, word: WORD}, f"`{word}`") for word in ("pinSHA256", "pcs", "vcn")},
    "pqv of Reality": (Kind.VLESS, {**REALITY, "pqv": WORD}, "`pqv`"),
    "ech by DNS": (Kind.VLESS, {**TLS, "ech": "a.example+https://192.0.2.1/dns-query"}, "`ech`"),
    "ech with Reality": (Kind.VLESS, {**REALITY, "ech": KEY32}, "`ech`"),
    "xtls": (Kind.VLESS, {"security": "xtls"}, "`security`"),
    "fp": (Kind.VLESS, {**TLS, "fp": "randomizednoalpn"}, "`fp`"),
    "ca and pin": (
        Kind.VLESS,
        {**TLS, "pin": PIN, "ca": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"},
        "`ca`",
    ),
    "ss prefix": (Kind.SHADOWSOCKS, {"prefix": "\x16"[1:] + "POST "}, "`prefix`"),
    "ss plugin": (Kind.SHADOWSOCKS, {"plugin": "shadow-tls;host=a.example"}, "shadow-tls"),
    "ss plugin unknown": (Kind.SHADOWSOCKS, {"plugin": WORD}, "`plugin`"),
    "ss plugin option": (Kind.SHADOWSOCKS, {"plugin": f"obfs-local;obfs=http;{WORD}=1"}, "`plugin`"),
    "ss plugin obfs": (Kind.SHADOWSOCKS, {"plugin": "obfs-local;obfs=random"}, "`plugin`"),
    "ss plugin quic": (Kind.SHADOWSOCKS, {"plugin": "v2ray-plugin;mode=quic"}, "`plugin`"),
    "ss over ws": (Kind.SHADOWSOCKS, {"type": "ws"}, "`type`"),
    "ss in tls": (Kind.SHADOWSOCKS, {"security": "tls"}, "`security`"),
    "host header": (Kind.TROJAN, {"type": "ws", "host": "a b"}, "`host`"),
    "host header without end": (Kind.TROJAN, {"type": "ws", "host": "a" * 256}, "`host`"),
    "host header of long labels": (Kind.TROJAN, {"type": "ws", "host": "ä" * 64 + ".example"}, "`host`"),
    "hy2 obfs": (Kind.HYSTERIA2, {"obfs": WORD, "obfs-password": "x"}, "`obfs`"),
    "hy2 pin": (Kind.HYSTERIA2, {"pinSHA256": "ab:cd"}, "`pinSHA256`"),
    "hy2 Reality": (Kind.HYSTERIA2, REALITY, "`security=reality`"),
    "hy2 ports": (Kind.HYSTERIA2, {"mport": ",".join(f"{n}-{n + 1}" for n in range(1, 200, 2))}, "ranges"),
    "tuic 4": (Kind.TUIC, {"token": WORD}, "`token`"),
    "tuic control": (Kind.TUIC, {"congestion_control": "brutal"}, "`congestion_control`"),
    "anytls in the clear": (Kind.ANYTLS, {"security": "none"}, "`security`"),
    "socks in TLS": (Kind.SOCKS, {"security": "tls"}, "`security`"),
    "plugin of trojan": (Kind.TROJAN, {"plugin": "obfs-local;obfs=http"}, "`plugin`"),
}
BROKEN: dict[str, tuple[Kind, dict[str, str], dict[str, str], str]] = {
    "no host": (Kind.VLESS, {}, {"host": ""}, "host"),
    "host": (Kind.VLESS, {}, {"host": "a_b c"}, "host"),
    "no port": (Kind.VLESS, {}, {"ports": ""}, "port"),
    "port 0": (Kind.TROJAN, {}, {"ports": "0"}, "port"),
    "user id": (Kind.VLESS, {}, {"username": "x" * 31}, "user id"),
    "no user id": (Kind.VMESS, {}, {"username": ""}, "user id"),
    "user id of TUIC": (Kind.TUIC, {}, {"username": WORD}, "UUID"),
    "line end": (Kind.TROJAN, {}, {"password": f"{WORD}\n"}, "line"),
    "line end in a name": (Kind.VLESS, {}, {"username": "a\nb"}, "line"),
    "control": (Kind.TROJAN, {}, {"password": f"{WORD}\x1b"}, "control"),
    "control in a word": (Kind.TROJAN, {"sni": "a\x00"}, {}, "control"),
    "no password": (Kind.TROJAN, {}, {"password": ""}, "password"),
    "ss no password": (Kind.SHADOWSOCKS, {}, {"password": ""}, "password"),
    "ss key": (Kind.SHADOWSOCKS, {}, {"username": "2022-blake3-aes-256-gcm", "password": KEY16}, "base64 of 32 bytes"),
    "ssh nothing": (Kind.SSH, {}, {"password": ""}, "neither"),
    "ssh key": (Kind.SSH, {"private-key": WORD}, {}, "`private-key`"),
    "ssh host key": (Kind.SSH, {"host-key": WORD}, {}, "`host-key`"),
    "pbk": (Kind.VLESS, {**REALITY, "pbk": PBK[:-3]}, {}, "`pbk`"),
    "no pbk": (Kind.VLESS, {**REALITY, "pbk": ""}, {}, "`pbk`"),
    "sid": (Kind.VLESS, {**REALITY, "sid": "abc"}, {}, "`sid`"),
    "sni": (Kind.TROJAN, {"sni": "a b"}, {}, "`sni`"),
    "alpn": (Kind.TROJAN, {"alpn": ",".join("abcdefghi")}, {}, "`alpn`"),
    "ech": (Kind.TROJAN, {"ech": "!"}, {}, "`ech`"),
    "pin": (Kind.TROJAN, {"pin": KEY16}, {}, "`pin`"),
    "ca": (Kind.TROJAN, {"ca": "/etc/ssl/ca.pem"}, {}, "`ca`"),
    "client key": (Kind.TROJAN, {"client-key": WORD}, {}, "`client-key`"),
    "headers": (Kind.TROJAN, {"type": "ws", "headers": '{"A:": "b"}'}, {}, "`headers`"),
    "headers nested": (Kind.TROJAN, {"type": "ws", "headers": "[" * 9999}, {}, "`headers`"),
    "aid": (Kind.VMESS, {"aid": "many"}, {}, "`aid`"),
    "hy2 no obfs password": (Kind.HYSTERIA2, {"obfs": "gecko"}, {}, "`obfs-password`"),
    "hy2 backwards": (Kind.HYSTERIA2, {"mport": "10-5"}, {}, "range"),
    "plugin mux": (Kind.SHADOWSOCKS, {"plugin": f"v2ray-plugin;mux={WORD}"}, {}, "`mux`"),
}


def _fault(proxy: Proxy) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        outbound(proxy)
    said = str(caught.value)
    assert said.startswith("here: ")
    assert "\n" not in said
    assert not any(secret in said for secret in SECRETS)
    return caught.value


@pytest.mark.parametrize(("kind", "words", "named"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_is_not_carried_is_unsupported_by_name(kind: Kind, words: dict[str, str], named: str) -> None:
    fault = _fault(proxy_of(kind, words))
    assert isinstance(fault, Unsupported)
    assert named in fault.reason


@pytest.mark.parametrize(("kind", "words", "fields", "named"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_one_clear_line(
    kind: Kind, words: dict[str, str], fields: dict[str, str], named: str
) -> None:
    fault = _fault(proxy_of(kind, words, **fields))
    assert not isinstance(fault, Unsupported)
    assert named in fault.reason


def test_a_plugin_reads_no_file_of_this_machine() -> None:
    assert isinstance(_fault(proxy_of(Kind.SHADOWSOCKS, {"plugin": "v2ray-plugin;tls;cert=/etc/shadow"})), Refused)


# ── anything at all ──────────────────────────────────────────────────────────────────────────────────────────────────

PLAUSIBLE = {
    "security": ["none", "tls", "reality"],
    "type": ["tcp", "ws", "grpc", "http", "httpupgrade"],
    "headerType": ["none", "http"],
    "path": ["/", "/a?ed=2048", "a/ä b", "/a:b;c=d&e", "//[x]", "/%41%2F"],
    "host": ["b.example", "b.example:8443,c.example", "пример.example", "192.0.2.7"],
    "sni": ["a.example", "2001:db8::7", "@channel", "a_b"],
    "alpn": ["h2", "http/1.1,h2", "h3"],
    "fp": ["chrome", "randomized", "none", "chrome_pq"],
    "insecure": ["0", "1"],
    "disable-sni": ["1"],
    "pbk": [PBK],
    "sid": ["", "0a"],
    "pin": [PIN, f"{PIN},{PIN}"],
    "ech": [base64.b64encode(bytes(9)).decode()],
    "tls-min": ["1.0", "1.3"],
    "tls-max": ["1.2"],
    "serviceName": ["a", "a b/ä"],
    "headers": ["{}", '{"X-A": "b", "Host": "x"}'],
    "eh": ["path", "X-A"],
    "ed": ["0", "100"],
    "method": ["GET", "post"],
    "plugin": ["obfs-local;obfs=tls", r"v2ray-plugin;tls;path=/\\\;ä;mux=4", "v2ray-plugin;host=[::1]"],
    "uot": ["1", "2"],
    "mux": ["1", "h2mux", "smux", "yamux"],
    "mux-connections": ["4"],
    "mux-padding": ["1"],
    "udp": ["0", "1"],
    "flow": ["xtls-rprx-vision"],
    "packetEncoding": ["packetaddr", "xudp", "none"],
    "aid": ["1"],
    "scy": ["zero", "aes-128-cfb"],
    "obfs": ["salamander", "gecko"],
    "obfs-password": [WORD, "x"],
    "mport": ["1-65535", "5,6,7-9"],
    "hop-interval": ["1", "30s"],
    "up": ["1", "999999"],
    "congestion_control": ["newreno", "cubic"],
    "udp_relay_mode": ["native", "quic"],
    "udp-over-stream": ["1"],
    "heartbeat": ["3"],
    "version": ["5", "4", "4a"],
    "host-key": [f"ssh-ed25519 {_ssh_key()}"],
}
"""Values that may well be meant."""
PAIRS = st.sampled_from(sorted(PLAUSIBLE)).flatmap(
    lambda word: st.tuples(st.just(word), st.sampled_from(PLAUSIBLE[word]))
)
PROXIES = st.builds(
    Proxy,
    kind=st.sampled_from(sorted(KINDS)),
    where=st.just("here"),
    host=st.sampled_from(["a.example", "192.0.2.1", "2001:db8::1"]) | st.text(max_size=8),
    ports=st.sampled_from(["443", "443", "1-5"]) | st.text(max_size=4),
    username=st.sampled_from([ID, "aes-128-gcm", "2022-blake3-aes-128-gcm"]) | st.text(max_size=8),
    password=st.sampled_from([WORD, KEY16]) | st.text(max_size=8),
    parameters=st.lists(PAIRS, max_size=8).map(dict)
    | st.dictionaries(st.sampled_from(sorted(WORDS)) | st.text(max_size=4), st.text(max_size=8), max_size=4),
)


@given(proxy=PROXIES)
def test_only_a_config_error_ever_leaves(proxy: Proxy) -> None:
    try:
        config, findings = outbound(proxy)
        said = (repr(config.outbound), *(finding.text for finding in findings))
    except ConfigError as fault:
        said = (str(fault),)
    assert not any(secret in text for secret in (ID, WORD, KEY16) for text in said)


@pytest.mark.root
@settings(max_examples=60, deadline=None)
@given(proxies=st.lists(PROXIES, min_size=20, max_size=40))
def test_whatever_is_read_sing_box_takes(proxies: list[Proxy]) -> None:
    configs = []
    for proxy in proxies:
        try:
            configs.append(outbound(proxy)[0])
        except ConfigError:
            continue
    _checked(configs)
