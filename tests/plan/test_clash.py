"""Proxies of Clash and Mihomo: what each means, and what is refused by its name."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan import clash, trees
from vpntest.plan.model import Entry, Kind, ProxyConfig, WireGuardConfig
from vpntest.plan.secret import revealed
from vpntest.plan.trees import Table

ID = "00000000-0000-4000-8000-00000000000a"
WORD = "hush0f1e2d3c4b5a6978"
KEY = base64.urlsafe_b64encode(b"k" * 32).decode().rstrip("=")
PRIVATE, PUBLIC = (base64.b64encode(letter * 32).decode() for letter in (b"a", b"b"))
AT = "server: vpn.example, port: 443"


def _entries(text: str) -> list[Entry]:
    found = list(clash.proxies(trees.from_yaml(text, "x.yaml"), "x.yaml"))
    for entry in found:
        assert (entry.config is None) == (entry.problem is not None)
        said = [entry.problem.reason] if entry.problem else [finding.text for finding in entry.findings]
        assert not any(secret in text for secret in (WORD, ID, PRIVATE) for text in (*said, repr(entry)))
    return found


def _entry(proxy: str) -> Entry:
    (entry,) = _entries(f"proxies:\n  - {{name: Name, {proxy}}}\n")
    return entry


MEANT: dict[str, tuple[str, dict[str, Any]]] = {
    "a password of digits": (
        f"type: ss, {AT}, cipher: aes-128-gcm, password: 0123, udp: true",
        {"type": "shadowsocks", "method": "aes-128-gcm", "password": "0123"},
    ),
    "obfs": (
        f"type: ss, {AT}, cipher: aes-128-gcm, password: {WORD}, plugin: obfs, plugin-opts: {{mode: tls, host: a.b}}",
        {"plugin": "obfs-local", "plugin_opts": "obfs=tls;obfs-host=a.b"},
    ),
    "obfs without a host": (
        f"type: ss, {AT}, cipher: aes-128-gcm, password: {WORD}, plugin: obfs, plugin-opts: {{mode: http}}",
        {"plugin": "obfs-local", "plugin_opts": "obfs=http;obfs-host=bing.com"},
    ),
    "v2ray-plugin without a host": (
        f"type: ss, {AT}, cipher: aes-128-gcm, password: {WORD}, plugin: v2ray-plugin,"
        " plugin-opts: {mode: websocket, tls: true}",
        {"plugin": "v2ray-plugin", "plugin_opts": "tls=1;host=bing.com;path=/;mux=1"},
    ),
    "UDP over TCP": (
        f"type: ss, {AT}, cipher: aes-128-gcm, password: {WORD}, udp-over-tcp: true, udp-over-tcp-version: 2",
        {"udp_over_tcp": {"enabled": True}},
    ),
    "Reality": (
        f"type: vless, {AT}, uuid: {ID}, network: tcp, tls: true, flow: xtls-rprx-vision, servername: www.example,"
        f" client-fingerprint: firefox, reality-opts: {{public-key: {KEY}, short-id: 12345678}}",
        {
            "type": "vless",
            "flow": "xtls-rprx-vision",
            "tls": {
                "enabled": True,
                "server_name": "www.example",
                "utls": {"enabled": True, "fingerprint": "firefox"},
                "reality": {"enabled": True, "public_key": KEY, "short_id": "12345678"},
            },
        },
    ),
    "WebSocket with the header's name": (
        f"type: vmess, {AT}, uuid: {ID}, alterId: 0, cipher: auto, tls: true, network: ws,"
        " ws-opts: {path: /a, headers: {Host: cdn.example}, max-early-data: 2048,"
        " early-data-header-name: Sec-WebSocket-Protocol}",
        {
            "tls": {"enabled": True, "server_name": "cdn.example"},
            "transport": {
                "type": "ws",
                "path": "/a",
                "headers": {"Host": "cdn.example"},
                "max_early_data": 2048,
                "early_data_header_name": "Sec-WebSocket-Protocol",
            },
        },
    ),
    "WebSocket as it was written once": (
        f"type: vmess, {AT}, uuid: {ID}, alterId: 0, cipher: auto, network: ws, ws-path: /a,"
        " ws-headers: {Host: cdn.example}",
        {"transport": {"type": "ws", "path": "/a", "headers": {"Host": "cdn.example"}}},
    ),
    "Trojan's own name under WebSocket": (
        f"type: trojan, {AT}, password: {WORD}, network: ws, ws-opts: {{headers: {{Host: cdn.example}}}}",
        {"password": WORD, "tls": {"enabled": True, "server_name": "vpn.example"}},
    ),
    "gRPC": (
        f"type: vless, {AT}, uuid: {ID}, tls: true, network: grpc, grpc-opts: {{grpc-service-name: g}}",
        {"transport": {"type": "grpc", "service_name": "g"}},
    ),
    "a request before the stream": (
        f"type: vmess, {AT}, uuid: {ID}, cipher: auto, network: http,"
        " http-opts: {method: GET, path: [/a], headers: {Host: [cdn.example]}}",
        {"transport": {"type": "http", "host": ["cdn.example"], "path": "/a", "method": "GET"}},
    ),
    "Hysteria": (
        f"type: hysteria2, {AT}, ports: 443-500/600, password: {WORD}, up: 30 Mbps, down: 1 Gbps, obfs: salamander,"
        f" obfs-password: {WORD}",
        {"server_ports": ["443:500", "600:600"], "up_mbps": 30, "down_mbps": 1000, "password": WORD},
    ),
    "TUIC": (
        f"type: tuic, {AT}, uuid: {ID}, password: {WORD}, alpn: [h3], congestion-controller: bbr, reduce-rtt: true,"
        " heartbeat-interval: 10000, request-timeout: 8000",
        {"congestion_control": "bbr", "zero_rtt_handshake": True, "heartbeat": "10s"},
    ),
    "AnyTLS": (f"type: anytls, {AT}, password: {WORD}, sni: www.example, udp: true", {"type": "anytls"}),
    "SOCKS": (f"type: socks5, {AT}, username: u, password: {WORD}", {"type": "socks", "username": "u"}),
    "HTTP": (
        f"type: http, {AT}, username: u, password: {WORD}, tls: true",
        {"type": "http", "tls": {"enabled": True, "server_name": "vpn.example"}},
    ),
    "SSH": (f"type: ssh, {AT}, username: u, password: {WORD}", {"type": "ssh", "user": "u", "password": WORD}),
    "multiplexed": (
        f"type: trojan, {AT}, password: {WORD}, smux: {{enabled: true, protocol: yamux, max-streams: 8}}",
        {"multiplex": {"enabled": True, "protocol": "yamux", "max_streams": 8}},
    ),
}


@pytest.mark.parametrize(("proxy", "meant"), MEANT.values(), ids=MEANT.keys())
def test_what_a_proxy_means(proxy: str, meant: dict[str, Any]) -> None:
    entry = _entry(proxy)
    assert isinstance(entry.config, ProxyConfig), entry.problem
    found = revealed(entry.config.outbound)
    assert {key: found[key] for key in meant} == meant
    assert (entry.line, entry.label) == (2, "Name")


def test_what_is_unverified_is_said() -> None:
    entry = _entry(f"type: trojan, {AT}, password: {WORD}, skip-cert-verify: true, udp: true")
    assert [finding.level for finding in entry.findings] == ["danger"]
    assert isinstance(entry.config, ProxyConfig)
    assert entry.config.tls_unverified


@pytest.mark.parametrize(("said", "passes"), [(", udp: true", True), (", udp: false", False), ("", False)])
def test_udp_passes_only_where_the_config_says_so(said: str, passes: bool) -> None:
    entry = _entry(f"type: trojan, {AT}, password: {WORD}{said}")
    assert isinstance(entry.config, ProxyConfig)
    assert entry.config.carries_udp == passes
    assert [finding.level for finding in entry.findings] == ([] if said else ["note"])
    entry = _entry(f"type: tuic, {AT}, uuid: {ID}, password: {WORD}{said}")
    assert isinstance(entry.config, ProxyConfig)
    assert entry.config.carries_udp


def test_alpn_of_trojan_where_nothing_is_said() -> None:
    for network, protocols in (("tcp", ["h2", "http/1.1"]), ("ws", None)):
        entry = _entry(f"type: trojan, {AT}, password: {WORD}, udp: true, network: {network}")
        assert isinstance(entry.config, ProxyConfig)
        assert revealed(entry.config.outbound)["tls"].get("alpn") == protocols
        assert entry.findings == ()


@pytest.mark.parametrize("kind", ["trojan", "anytls", "hysteria2", "http", "socks5", "ssh"])
def test_no_port_is_a_fault(kind: str) -> None:
    """Links have defaults; what Clash writes has none."""
    entry = _entry(f"type: {kind}, server: vpn.example, username: u, password: {WORD}")
    assert entry.problem is not None
    assert (entry.problem.mechanism, "port" in entry.problem.reason) == ("invalid", True)


def test_what_no_client_reads_is_noted() -> None:
    entry = _entry(f"type: trojan, {AT}, password: {WORD}, country: x, _index: 7, udp: true")
    assert entry.config is not None
    assert [(finding.level, finding.text) for finding in entry.findings] == [
        ("note", "`_index`, `country` ignored: no client reads it")
    ]


REFUSED: dict[str, tuple[str, str, str]] = {
    "through another": (f"type: trojan, {AT}, password: {WORD}, dialer-proxy: x", "unsupported", "`dialer-proxy`"),
    "an unknown key": (f"type: trojan, {AT}, password: {WORD}, foo-opts: {{a: x}}", "unsupported", "`foo-opts`"),
    "an unknown key within": (
        f"type: vless, {AT}, uuid: {ID}, network: ws, ws-opts: {{foo-mode: x}}",
        "unsupported",
        "`ws-opts.foo-mode`",
    ),
    "Shadowsocks within Trojan": (
        f"type: trojan, {AT}, password: {WORD}, ss-opts: {{enabled: true}}",
        "unsupported",
        "`ss-opts`",
    ),
    "a plugin": (
        f"type: ss, {AT}, cipher: aes-128-gcm, password: {WORD}, plugin: shadow-tls, plugin-opts: {{version: 3}}",
        "unsupported",
        "`shadow-tls`",
    ),
    "a known type": (f"type: ssr, {AT}", "unsupported", "`ssr`"),
    "no known type": (f"type: {WORD}, {AT}", "unsupported", "`type`"),
    "another transport": (f"type: vless, {AT}, uuid: {ID}, network: xhttp, xhttp-opts: {{}}", "unsupported", "xhttp"),
    "a pinned certificate": (f"type: trojan, {AT}, password: {WORD}, fingerprint: aa", "unsupported", "`pcs`"),
    "a key's file": (f"type: ssh, {AT}, username: u, private-key: /root/.ssh/id_rsa", "refused", "`private-key`"),
    "a root's file": (f"type: trojan, {AT}, password: {WORD}, ca: ./x.pem", "refused", "`ca`"),
    "a key twice": (f"type: trojan, {AT}, password: {WORD}, password: x", "invalid", "`password` is given twice"),
    "no port": (f"type: trojan, server: vpn.example, port: x, password: {WORD}", "invalid", "port"),
    "a speed in letters": (f"type: hysteria2, {AT}, password: {WORD}, up: fast", "invalid", "`up`"),
}


@pytest.mark.parametrize(("proxy", "mechanism", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_mihomo_would_take_and_we_do_not(proxy: str, mechanism: str, reason: str) -> None:
    entry = _entry(proxy)
    assert entry.problem is not None
    assert (entry.problem.mechanism, reason in entry.problem.reason) == (mechanism, True), entry.problem
    assert entry.problem.reason.startswith("x.yaml:2: ")


def test_wireguard_and_its_obfuscation() -> None:
    plain = (
        f"type: wireguard, server: 192.0.2.1, port: 51820, ip: 10.0.0.2, private-key: {PRIVATE}, public-key: {PUBLIC}"
    )
    entry = _entry(plain + ", udp: true, mtu: 1280, dns: [192.0.2.53], reserved: [0, 0, 0]")
    assert isinstance(entry.config, WireGuardConfig), entry.problem
    assert (entry.kind, entry.config.mtu, entry.config.dns) == (Kind.WIREGUARD, 1280, ("192.0.2.53",))
    entry = _entry(plain + ", amnezia-wg-option: {jc: 4, jmin: 40, jmax: 70, h1: 5, h2: 6, h3: 7, h4: 8}")
    assert isinstance(entry.config, WireGuardConfig), entry.problem
    assert entry.config.amnezia is not None
    assert entry.kind is Kind.AMNEZIAWG
    for bad in ("reserved: [1, 2, 3]", "amnezia-wg-option: {junk-foo: 1}"):
        found = _entry(f"{plain}, {bad}")
        assert found.problem is not None
        assert found.problem.mechanism == "unsupported"


def test_a_whole_document() -> None:
    text = f"""
port: 7890
proxies:
  - &one
    name: One
    type: trojan
    server: vpn.example
    port: 443
    password: {WORD}
  - {{<<: *one, name: Two, port: 8443}}
  - {{name: d, type: direct}}
  - nothing
proxy-groups: [{{name: g, type: select, proxies: [One]}}]
rules: ["MATCH,g"]
"""
    found = _entries(text)
    assert [(entry.label, entry.line, bool(entry.config)) for entry in found] == [
        ("One", 4, True),
        ("Two", 10, True),
        ("", None, False),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("proxies: []\n", "holds none"),
        ("proxies: x\n", "holds none"),
        ("proxy-providers: {a: {url: 'https://a.example'}}\n", "not fetched"),
        ("proxies: [{type: direct}]\nproxies: [{type: direct}]\n", "twice"),
    ],
)
def test_documents_without_a_proxy(text: str, reason: str) -> None:
    (entry,) = _entries(text)
    assert entry.problem is not None
    assert reason in entry.problem.reason


KEYS = sorted({part.split(":")[0].strip(" {") for proxy, _ in MEANT.values() for part in proxy.split(",")})
VALUES = st.none() | st.booleans() | st.text(max_size=8) | st.sampled_from(["443", ID, "ws", "tls", "vless", "trojan"])


@given(
    document=st.lists(
        st.dictionaries(
            st.sampled_from([*KEYS, "foo", "udp"]),
            VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(st.text(max_size=4), VALUES, max_size=2).map(Table),
        ).map(lambda proxy: Table({"type": "trojan"} | proxy)),
        max_size=3,
    )
)
def test_nothing_leaves_whatever_stands_in_a_place(document: list[Table]) -> None:
    for entry in clash.proxies(Table(proxies=document), "x"):
        assert (entry.config is None) == (entry.problem is not None)
