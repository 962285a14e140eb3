"""Outbounds of sing-box and Xray: what each means, and what is refused by its name."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan import outbounds, trees
from vpntest.plan.model import Entry, Kind, ProxyConfig, Server, WireGuardConfig
from vpntest.plan.secret import revealed

ID = "00000000-0000-4000-8000-00000000000a"
WORD = "hush0f1e2d3c4b5a6978"
KEY = base64.urlsafe_b64encode(b"k" * 32).decode().rstrip("=")
PRIVATE, PUBLIC = (base64.b64encode(letter * 32).decode() for letter in (b"a", b"b"))
SERVER = {"server": "vpn.example", "server_port": 443}
TLS = {"enabled": True, "server_name": "www.example"}


def _entries(document: Any, read: Any) -> list[Entry]:
    found = list(read(trees.from_json(json.dumps(document, indent=1), "x.json"), "x.json"))
    for entry in found:
        assert (entry.config is None) == (entry.problem is not None)
        said = [entry.problem.reason] if entry.problem else [finding.text for finding in entry.findings]
        assert not any(secret in text for secret in (WORD, ID, PRIVATE) for text in (*said, repr(entry)))
    return found


def _sing_box(*found: dict[str, Any], **others: Any) -> list[Entry]:
    return _entries({"outbounds": list(found), **others}, outbounds.sing_box)


def _xray(*found: dict[str, Any]) -> list[Entry]:
    return _entries({"outbounds": list(found)}, outbounds.xray)


def _outbound(entry: Entry) -> dict[str, Any]:
    assert isinstance(entry.config, ProxyConfig), entry.problem
    found: dict[str, Any] = revealed(entry.config.outbound)
    return found


SING_BOX: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "shadowsocks": (
        {"type": "shadowsocks", "method": "aes-128-gcm", "password": WORD, "udp_over_tcp": True},
        {"method": "aes-128-gcm", "password": WORD, "udp_over_tcp": {"enabled": True}},
    ),
    "vless": (
        {
            "type": "vless",
            "uuid": ID,
            "flow": "xtls-rprx-vision",
            "tls": {
                **TLS,
                "utls": {"enabled": True, "fingerprint": "firefox"},
                "reality": {"enabled": True, "public_key": KEY, "short_id": "ab"},
            },
        },
        {
            "uuid": ID,
            "flow": "xtls-rprx-vision",
            "tls": {
                **TLS,
                "utls": {"enabled": True, "fingerprint": "firefox"},
                "reality": {"enabled": True, "public_key": KEY, "short_id": "ab"},
            },
        },
    ),
    "vmess over WebSocket, with the server's own name": (
        {
            "type": "vmess",
            "uuid": ID,
            "security": "auto",
            "tls": {"enabled": True},
            "transport": {"type": "ws", "path": "/a", "headers": {"Host": ["cdn.example"]}},
        },
        {
            "uuid": ID,
            "security": "auto",
            "tls": {"enabled": True, "server_name": "vpn.example"},
            "transport": {"type": "ws", "path": "/a", "headers": {"Host": "cdn.example"}},
        },
    ),
    "trojan over gRPC, multiplexed": (
        {
            "type": "trojan",
            "password": WORD,
            "tls": TLS,
            "transport": {"type": "grpc", "service_name": "g", "idle_timeout": "15s"},
            "multiplex": {"enabled": True, "protocol": "smux", "max_connections": 4, "padding": True},
        },
        {
            "password": WORD,
            "tls": TLS,
            "transport": {"type": "grpc", "service_name": "g"},
            "multiplex": {"enabled": True, "protocol": "smux", "max_connections": 4, "padding": True},
        },
    ),
    "hysteria2": (
        {
            "type": "hysteria2",
            "server_ports": ["2000:3000"],
            "hop_interval": "1m30s",
            "hop_interval_max": "2m",
            "password": WORD,
            "up_mbps": 10,
            "obfs": {"type": "salamander", "password": WORD},
            "tls": TLS,
        },
        {
            "server_ports": ["2000:3000"],
            "hop_interval": "90s",
            "hop_interval_max": "120s",
            "password": WORD,
            "up_mbps": 10,
            "obfs": {"type": "salamander", "password": WORD},
            "tls": {**TLS, "alpn": ["h3"]},
        },
    ),
    "tuic": (
        {"type": "tuic", "uuid": ID, "password": WORD, "congestion_control": "bbr", "tls": {**TLS, "alpn": "h3"}},
        {"uuid": ID, "password": WORD, "congestion_control": "bbr", "tls": {**TLS, "alpn": ["h3"]}},
    ),
    "anytls": (
        {"type": "anytls", "password": WORD, "idle_session_timeout": "30s", "tls": TLS},
        {"password": WORD, "tls": TLS},
    ),
    "socks": ({"type": "socks", "version": "5", "username": "u"}, {"version": "5", "username": "u"}),
    "http": (
        {"type": "http", "username": "u", "password": WORD, "headers": {"X-A": "b"}, "tls": TLS},
        {"username": "u", "password": WORD, "headers": {"X-A": "b"}, "tls": TLS},
    ),
    "ssh": ({"type": "ssh", "user": "u", "password": WORD}, {"user": "u", "password": WORD}),
}


@pytest.mark.parametrize(("given_", "meant"), SING_BOX.values(), ids=SING_BOX.keys())
def test_sing_box(given_: dict[str, Any], meant: dict[str, Any]) -> None:
    (entry,) = _sing_box({"tag": "Name", **SERVER, **given_})
    found = _outbound(entry)
    assert found["type"] == given_["type"] == entry.kind.value
    assert {key: found[key] for key in meant} == meant
    assert entry.label == "Name"
    assert entry.line == 3
    port = 2000 if "server_ports" in given_ else 443
    transport = "udp" if given_["type"] in ("hysteria2", "tuic") else "tcp"
    assert entry.config is not None
    assert entry.config.servers == (Server("vpn.example", port, transport),)


def test_a_name_that_is_not_said_is_the_servers() -> None:
    """Not the one that another key names, as it is in links."""
    for kind, tls, name in (
        ("ws", TLS, "vpn.example:443"),
        ("ws", {}, "vpn.example:443"),
        ("httpupgrade", TLS, "www.example"),
        ("httpupgrade", {"enabled": True}, "vpn.example"),
        ("httpupgrade", {}, "vpn.example:443"),
        ("http", TLS, "www.example.com"),
        ("http", {}, "vpn.example"),
    ):
        (entry,) = _sing_box({"type": "vless", **SERVER, "uuid": ID, "tls": tls, "transport": {"type": kind}})
        transport = _outbound(entry)["transport"]
        said = transport.get("host", transport.get("headers", {}).get("Host"))
        assert said == ([name] if kind == "http" else name)
    six = {"type": "vless", "server": "2001:db8::1", "server_port": 8443, "uuid": ID, "transport": {"type": "ws"}}
    assert _outbound(_sing_box(six)[0])["transport"]["headers"] == {"Host": "[2001:db8::1]:8443"}
    named = {"type": "ws", "headers": {"Host": "b.example"}}
    (entry,) = _sing_box(
        {"type": "vless", "tag": "a", **SERVER, "uuid": ID, "tls": {"enabled": True}, "transport": named}
    )
    assert isinstance(entry.config, ProxyConfig)
    assert revealed(entry.config.outbound["tls"])["server_name"] == "vpn.example"


def test_only_what_leads_to_a_server_is_an_entry() -> None:
    skipped = [{"type": name, "tag": name} for name in ("selector", "urltest", "direct", "block", "dns")]
    (entry,) = _sing_box(*skipped, {"type": "trojan", **SERVER, "password": WORD, "tls": TLS})
    assert [finding.text for finding in entry.findings] == [
        "left out, for they are no servers: block, direct, dns, selector, urltest"
    ]
    (none,) = _sing_box(*skipped)
    assert none.problem is not None
    assert "no outbound in it leads to a server" in none.problem.reason


TROJAN = {"type": "trojan", **SERVER, "password": WORD}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown key": ({**TROJAN, "foo": 1}, "unsupported", "`foo`"),
    "an unknown key within": ({**TROJAN, "tls": {**TLS, "bar": 1}}, "unsupported", "`tls.bar`"),
    "detour": ({**TROJAN, "detour": "x"}, "unsupported", "`detour`"),
    "brutal": (
        {**TROJAN, "tls": TLS, "multiplex": {"enabled": True, "brutal": {"enabled": True}}},
        "unsupported",
        "brutal",
    ),
    "a fragmented hello": ({**TROJAN, "tls": {**TLS, "fragment": True}}, "unsupported", "`tls.fragment`"),
    "ECH by DNS": ({**TROJAN, "tls": {**TLS, "ech": {"enabled": True}}}, "unsupported", "`tls.ech`"),
    "UDP alone": ({**TROJAN, "network": "udp"}, "unsupported", "`network`"),
    "a type that is known": ({"type": "shadowtls", **SERVER}, "unsupported", "`shadowtls`"),
    "a type that is not": ({"type": WORD, **SERVER}, "unsupported", "`type`"),
    "a file of roots": ({**TROJAN, "tls": {**TLS, "certificate_path": "/etc/x"}}, "refused", "`tls.certificate_path`"),
    "a file of ECH": (
        {**TROJAN, "tls": {**TLS, "ech": {"enabled": True, "config_path": "/etc/x"}}},
        "refused",
        "`tls.ech.config_path`",
    ),
    "a file of a key": (
        {"type": "ssh", **SERVER, "user": "u", "private_key_path": "/root/.ssh/id_rsa"},
        "refused",
        "`private_key_path`",
    ),
    "a port in letters": ({**TROJAN, "server_port": "x"}, "invalid", "`server_port`"),
    "a list for a password": ({**TROJAN, "password": [WORD]}, "invalid", "`password`"),
    "no server": ({"type": "trojan", "password": WORD, "tls": TLS}, "invalid", "host"),
    "a duration in letters": ({"type": "hysteria2", **SERVER, "hop_interval": "soon"}, "invalid", "`hop_interval`"),
}


@pytest.mark.parametrize(("given_", "mechanism", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_sing_box_would_take_and_we_do_not(given_: dict[str, Any], mechanism: str, reason: str) -> None:
    bad, good = _sing_box(given_, {**TROJAN, "tls": TLS})
    assert good.config is not None
    assert bad.problem is not None
    assert (bad.problem.mechanism, reason in bad.problem.reason) == (mechanism, True), bad.problem
    assert bad.problem.reason.startswith("x.json:")


def test_how_another_machine_would_leave_is_ignored() -> None:
    (entry,) = _sing_box({**TROJAN, "tls": TLS, "bind_interface": "eth0", "routing_mark": 1, "domain_resolver": "x"})
    assert entry.config is not None
    assert [finding.level for finding in entry.findings] == ["note"]
    assert "`bind_interface`, `routing_mark`, `domain_resolver`" in entry.findings[0].text


def test_wireguard_as_endpoint_and_as_the_older_outbound() -> None:
    peer = {"address": "192.0.2.1", "port": 51820, "public_key": PUBLIC, "allowed_ips": ["0.0.0.0/0"]}
    endpoint = {"type": "wireguard", "address": ["10.0.0.2/32"], "private_key": PRIVATE, "mtu": 1280, "peers": [peer]}
    older = {
        "type": "wireguard",
        "server": "192.0.2.1",
        "server_port": 51820,
        "local_address": "10.0.0.2/32",
        "private_key": PRIVATE,
        "peer_public_key": PUBLIC,
        "reserved": [0, 0, 0],
    }
    for entry in (*_sing_box(older), *_sing_box(endpoints=[endpoint])):
        assert entry.kind is Kind.WIREGUARD
        assert isinstance(entry.config, WireGuardConfig), entry.problem
        assert entry.config.servers == (Server("192.0.2.1", 51820, "udp"),)
    for reserved in ([1, 2, 3], "AQID"):
        (bad,) = _sing_box({**older, "reserved": reserved})
        assert bad.problem is not None
        assert "`reserved`" in bad.problem.reason


# ── Xray ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

USER = {"id": ID, "encryption": "none", "flow": "", "alterId": 0, "security": "auto", "level": 8, "email": "a@b"}
VLESS = {
    "protocol": "vless",
    "tag": "proxy",
    "settings": {"vnext": [{"address": "vpn.example", "port": 443, "users": [USER]}]},
}


def test_xray_reality() -> None:
    stream = {
        "network": "raw",
        "security": "reality",
        "realitySettings": {
            "serverName": "www.example",
            "fingerprint": "chrome",
            "publicKey": KEY,
            "shortId": "ab",
            "spiderX": "/",
            "show": False,
        },
        "tcpSettings": {"header": {"type": "none"}},
        "sockopt": {"mark": 255},
    }
    (entry,) = _xray({**VLESS, "streamSettings": stream, "mux": {"enabled": True, "concurrency": -1}})
    found = _outbound(entry)
    assert found["tls"]["reality"] == {"enabled": True, "public_key": KEY, "short_id": "ab"}
    assert found["tls"]["server_name"] == "www.example"
    assert entry.label == "proxy"


def test_xray_flat_settings_and_the_address_for_a_name() -> None:
    flat = {"address": "vpn.example", "port": 443, "id": ID, "encryption": "none"}
    stream = {"network": "ws", "security": "tls", "wsSettings": {"path": "/a", "headers": {"Host": "cdn.example"}}}
    (entry,) = _xray({"protocol": "vless", "settings": flat, "streamSettings": stream})
    found = _outbound(entry)
    assert found["transport"] == {"type": "ws", "path": "/a", "headers": {"Host": "cdn.example"}}
    assert found["tls"]["server_name"] == "vpn.example"


def test_a_request_before_the_stream() -> None:
    request = {
        "path": ["/a", "/b"],
        "headers": {"Host": ["cdn.example"], "User-Agent": ["one", "two"]},
        "method": "GET",
    }
    header = {"type": "http", "request": request, "response": {}}
    (entry,) = _xray({**VLESS, "streamSettings": {"network": "tcp", "tcpSettings": {"header": header}}})
    transport = _outbound(entry)["transport"]
    assert (transport["type"], transport["host"], transport["path"]) == ("http", ["cdn.example"], "/a")
    assert transport["headers"]["User-Agent"] == "one"
    bare_http = {"type": "http", "host": "cdn.example", "path": "/a"}
    (entry,) = _sing_box({"type": "vless", **SERVER, "uuid": ID, "transport": bare_http})
    assert _outbound(entry)["transport"] == {**bare_http, "host": ["cdn.example"], "method": "PUT"}


def test_early_data_behind_the_path_stays_there() -> None:
    transport = {"type": "ws", "path": "/a", "max_early_data": 2048}
    (entry,) = _sing_box({"type": "vless", **SERVER, "uuid": ID, "tls": TLS, "transport": transport})
    assert _outbound(entry)["transport"] == {**transport, "headers": {"Host": "vpn.example:443"}}


@pytest.mark.parametrize("path", ["/a?ed=2048", "/a?x=1", "%2Fa", "a", "/a%20b"])
def test_a_path_goes_out_as_sing_box_writes_it(path: str) -> None:
    for kind in ("ws", "httpupgrade", "http"):
        transport = {"type": kind, "path": path}
        (entry,) = _sing_box({"type": "vless", **SERVER, "uuid": ID, "tls": TLS, "transport": transport})
        written = _outbound(entry)["transport"]
        assert written["path"] == (path if path.startswith("/") else "/" + path)
        assert "max_early_data" not in written


def test_packets_of_vless_are_off_only_where_it_says_so() -> None:
    for said, meant in (({}, None), ({"packet_encoding": ""}, ""), ({"packet_encoding": "packetaddr"}, "packetaddr")):
        (entry,) = _sing_box({"type": "vless", **SERVER, "uuid": ID, "tls": TLS, **said})
        assert _outbound(entry).get("packet_encoding") == meant


def test_xray_others() -> None:
    place = {"address": "vpn.example", "port": 443}
    trojan = {
        "protocol": "trojan",
        "settings": {"servers": [{**place, "password": WORD, "level": 1}]},
        "streamSettings": {"security": "tls", "tlsSettings": {"allowInsecure": True, "alpn": ["h2"]}},
    }
    shadow = {
        "protocol": "shadowsocks",
        "settings": {"servers": [{**place, "password": WORD, "method": "aes-256-gcm", "uot": False}]},
    }
    socks = {"protocol": "socks", "settings": {"servers": [{**place, "users": [{"user": "u", "pass": WORD}]}]}}
    wireguard = {
        "protocol": "wireguard",
        "settings": {
            "secretKey": PRIVATE,
            "address": ["10.0.0.2/32"],
            "peers": [{"endpoint": "192.0.2.1:51820", "publicKey": PUBLIC}],
            "reserved": [0, 0, 0],
        },
    }
    found = _xray(trojan, shadow, socks, wireguard, {"protocol": "freedom"}, {"protocol": "blackhole"})
    assert [entry.kind for entry in found] == [Kind.TROJAN, Kind.SHADOWSOCKS, Kind.SOCKS, Kind.WIREGUARD]
    assert all(entry.config for entry in found), found
    assert "danger" in {finding.level for finding in found[0].findings}
    assert _outbound(found[1])["method"] == "aes-256-gcm"


XRAY_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another transport": ({"streamSettings": {"network": "splithttp", "security": "none"}}, "xhttp"),
    "through another": ({"streamSettings": {"sockopt": {"dialerProxy": "x"}}}, "dialerProxy"),
    "a proxy before it": ({"proxySettings": {"tag": "x"}}, "`proxySettings`"),
    "its own mux": ({"mux": {"enabled": True}}, "`mux`"),
    "a disguise": ({"streamSettings": {"network": "tcp", "tcpSettings": {"header": {"type": "srtp"}}}}, "headerType"),
    "an unknown key": ({"streamSettings": {"network": "ws", "wsSettings": {"fooMode": 1}}}, "fooMode"),
    "several servers": ({"settings": {"vnext": [{}, {}]}}, "vnext"),
}


@pytest.mark.parametrize(("edit", "reason"), XRAY_REFUSED.values(), ids=XRAY_REFUSED.keys())
def test_what_xray_would_take_and_we_do_not(edit: dict[str, Any], reason: str) -> None:
    (entry,) = _xray({**VLESS, **edit})
    assert entry.problem is not None
    assert (entry.problem.mechanism, reason in entry.problem.reason) == ("unsupported", True), entry.problem


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _leaves(inner, (*path, key))


WHOLE = {"outbounds": [{**SERVER, **given_} for given_, _ in SING_BOX.values()], "endpoints": [{"type": "wireguard"}]}
JUNK = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)


@given(data=st.data())
def test_nothing_leaves_whatever_stands_in_a_place(data: st.DataObject) -> None:
    read, whole = data.draw(
        st.sampled_from([(outbounds.sing_box, WHOLE), (outbounds.xray, {"outbounds": [VLESS, VLESS]})])
    )
    document: Any = json.loads(json.dumps(whole))
    for path in data.draw(st.lists(st.sampled_from([path for path in _leaves(document) if path]), max_size=4)):
        here = document
        try:
            for key in path[:-1]:
                here = here[key]
            here[path[-1]] = data.draw(JUNK | st.dictionaries(st.text(max_size=3), JUNK, max_size=2))
        except (KeyError, IndexError, TypeError):
            continue  # an edit before took this place away
    for entry in read(trees.from_json(json.dumps(document), "x"), "x"):
        assert (entry.config is None) == (entry.problem is not None)
