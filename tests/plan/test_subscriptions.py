"""Shadowsocks servers as SIP008, Shadowsocks' own clients and Outline hand them out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan import subscriptions, trees
from vpntest.plan.model import Entry, Kind, ProxyConfig, Server
from vpntest.plan.secret import Secret
from vpntest.plan.trees import Table

WORD = "hush0f1e2d3c4b5a6978"
ONE = {"server": "192.0.2.1", "server_port": 8388, "password": WORD, "method": "aes-128-gcm"}


def _servers(*servers: Any) -> list[Entry]:
    found = list(subscriptions.shadowsocks([Table(one) if isinstance(one, dict) else one for one in servers], "x.json"))
    assert not any(WORD in repr(entry) for entry in found)
    return found


def _only(found: list[Entry], mechanism: str, reason: str) -> None:
    (entry,) = found
    assert entry.problem is not None, entry
    assert (entry.problem.mechanism, reason in entry.problem.reason) == (mechanism, True), entry.problem


def test_sip008() -> None:
    extra = {"id": "x", "remarks": "Name", "plugin": "obfs-local", "plugin_opts": "obfs=http;obfs-host=a.example"}
    entry, bad = _servers({**ONE, **extra}, {**ONE, "method": "rot13"})
    assert isinstance(entry.config, ProxyConfig), entry.problem
    assert (entry.kind, entry.label) == (Kind.SHADOWSOCKS, "Name")
    assert entry.config.servers == (Server("192.0.2.1", 8388, "tcp"),)
    assert entry.config.outbound["password"] == Secret(WORD)
    assert entry.config.outbound["plugin"] == "obfs-local"
    assert bad.problem is not None


def test_the_config_of_a_client() -> None:
    (entry,) = _servers(
        {**ONE, "local_address": "127.0.0.1", "local_port": 1080, "timeout": 300, "fast_open": False, "city": "x"}
    )
    assert entry.config is not None


@pytest.mark.parametrize(
    ("server", "mechanism", "reason"),
    [
        ({**ONE, "server": ["a.example", "b.example"]}, "unsupported", "`server`"),
        ({**ONE, "foo_opts": 1}, "unsupported", "`foo_opts`"),
        ({**ONE, "prefix": "\x16\x03"}, "unsupported", "`prefix`"),
        ({**ONE, "plugin": "shadow-tls"}, "unsupported", "shadow-tls"),
        ({**ONE, "server_port": "x"}, "invalid", "`server_port`"),
        ({**ONE, "password": {}}, "invalid", "`password`"),
        (7, "invalid", "not a table"),
    ],
)
def test_what_is_not_taken(server: Any, mechanism: str, reason: str) -> None:
    _only(_servers(server), mechanism, reason)


def test_an_empty_list_says_so() -> None:
    _only(_servers(), "invalid", "no server")


OUTLINE = f"""
transport:
  $type: tcpudp
  tcp: &shared
    $type: shadowsocks
    endpoint: ss.example:4321
    cipher: chacha20-ietf-poly1305
    secret: {WORD}
  udp: *shared
"""


def _outline(text: str) -> list[Entry]:
    found = list(subscriptions.outline(trees.from_yaml(text, "x.yaml"), "x.yaml"))
    assert not any(WORD in repr(entry) for entry in found)
    return found


def test_outline() -> None:
    for text in (
        OUTLINE,
        OUTLINE.replace("endpoint: ss.example:4321", "endpoint: {$type: dial, address: 'ss.example:4321'}"),
        f"transport: {{$type: shadowsocks, endpoint: 'ss.example:4321', cipher: aes-128-gcm, secret: {WORD}}}\n",
        f"transport: ss://aes-128-gcm:{WORD}@ss.example:4321\n",
    ):
        (entry,) = _outline(text)
        assert isinstance(entry.config, ProxyConfig), entry.problem
        assert entry.config.servers == (Server("ss.example", 4321, "tcp"),)
        assert entry.config.outbound["password"] == Secret(WORD)
        assert entry.config.carries_udp


def test_outline_without_udp() -> None:
    (entry,) = _outline(OUTLINE.replace("  udp: *shared\n", ""))
    assert isinstance(entry.config, ProxyConfig)
    assert not entry.config.carries_udp


WEBSOCKET = OUTLINE.replace("endpoint: ss.example:4321", "endpoint: {$type: websocket, url: 'wss://a.example/x'}")
OTHER_UDP = OUTLINE.replace(
    "*shared", f"{{$type: shadowsocks, endpoint: 'b.example:1', cipher: chacha20-ietf-poly1305, secret: {WORD}}}"
)


@pytest.mark.parametrize(
    ("text", "mechanism", "reason"),
    [
        (WEBSOCKET, "unsupported", "`websocket`"),
        (OUTLINE.replace("secret:", "prefix: 'POST '\n    secret:"), "unsupported", "`prefix`"),
        (OUTLINE.replace("tcpudp", "basic-access"), "unsupported", "`transport.$type`"),
        (OUTLINE.replace("$type: shadowsocks", "$type: first-supported"), "unsupported", "$type"),
        (OTHER_UDP, "unsupported", "another server"),
        (OUTLINE.replace("secret:", "foo:"), "unsupported", "`transport.tcp.foo`"),
        (OUTLINE.replace(":4321", ""), "invalid", "port"),
        (OUTLINE.replace("ss.example:4321", "[7]"), "invalid", "`endpoint`"),
        ("error: {message: 'no more', details: hush}\n", "invalid", "an error in place"),
        ("transport: 7\n", "invalid", "`transport`"),
    ],
)
def test_what_outline_would_take_and_we_do_not(text: str, mechanism: str, reason: str) -> None:
    _only(_outline(text), mechanism, reason)


JUNK = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8) | st.sampled_from(["shadowsocks", "tcpudp", "a.example:1"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["$type", "tcp", "udp", "endpoint", "cipher", "secret", "prefix", "server", "method", "x"]),
            inner,
            max_size=4,
        ).map(Table)
    ),
    max_leaves=8,
)


@given(junk=JUNK)
def test_nothing_leaves_whatever_stands_in_a_place(junk: Any) -> None:
    for found in (
        subscriptions.outline(Table(transport=junk), "x"),
        subscriptions.shadowsocks([junk, Table(ONE)], "x"),
    ):
        for entry in found:
            assert (entry.config is None) == (entry.problem is not None)
