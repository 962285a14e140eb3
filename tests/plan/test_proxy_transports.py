"""Transports of proxies: paths, hosts and headers."""

from __future__ import annotations

import dataclasses

import pytest
from some_proxies import meaning, proxy_of

from vpntest.plan.model import Kind
from vpntest.plan.proxies import outbound
from vpntest.plan.secret import revealed


def test_websocket() -> None:
    security = {"security": "tls", "sni": "a.example", "alpn": "h2,http/1.1", "fp": "firefox"}
    meant = meaning(Kind.VLESS, {**security, "type": "ws", "path": "/a?ed=2048&eh=X-Early", "host": "b.example"})
    assert meant["transport"] == {
        "type": "ws",
        "path": "/a",
        "headers": {"Host": "b.example"},
        "max_early_data": 2048,
        "early_data_header_name": "X-Early",
    }
    # Offered h2, a server would choose it, and could not be asked for a WebSocket.
    assert "alpn" not in meant["tls"]
    assert meant["tls"]["server_name"] == "a.example"


@pytest.mark.parametrize(
    ("words", "name", "host"),
    [
        ({"sni": "a.example", "host": "b.example"}, "a.example", "b.example"),
        ({"sni": "a.example"}, "a.example", "a.example"),
        ({"host": "B.example, c.example"}, "b.example", "B.example"),
        ({}, "vpn.example", "vpn.example"),
    ],
)
def test_names_that_are_not_said_are_taken_as_clients_take_them(words: dict[str, str], name: str, host: str) -> None:
    for kind in ("ws", "httpupgrade"):
        meant = meaning(Kind.TROJAN, {"type": kind, **words})
        transport = meant["transport"]
        assert meant["tls"]["server_name"] == name
        assert (transport["headers"]["Host"] if kind == "ws" else transport["host"]) == host


def test_without_tls_the_server_is_the_name() -> None:
    meant = meaning(Kind.VMESS, {"type": "ws", "sni": "a.example"}, host="2001:db8::1")
    assert meant["transport"]["headers"] == {"Host": "[2001:db8::1]"}
    assert "tls" not in meant


def test_a_path_that_was_encoded_twice_and_one_without_slash() -> None:
    assert meaning(Kind.TROJAN, {"type": "ws", "path": "%2Fa"})["transport"]["path"] == "/a"
    assert meaning(Kind.TROJAN, {"type": "ws", "path": "a"})["transport"]["path"] == "/a"


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/a?x=1&y=/b", "/a%3Fx=1&y=/b"),
        ("/a%20b", "/a%2520b"),
        ("/100%", "/100%25"),
        ("/a?ed=2048", "/a"),
        ("a!ü", "/a%21%C3%BC"),
        ("%2Fa", "/a"),
        ("", "/"),
    ],
)
def test_a_path_of_httpupgrade_is_written_as_xray_writes_it(path: str, written: str) -> None:
    for dialect in ("link", "xray"):
        proxy = dataclasses.replace(proxy_of(Kind.TROJAN, {"type": "httpupgrade", "path": path}), dialect=dialect)
        assert revealed(outbound(proxy)[0].outbound)["transport"]["path"] == written
