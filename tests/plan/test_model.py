"""The types of a plan: what they derive, and that they show no secret."""

from __future__ import annotations

import pytest

from vpntest.plan.model import OpenVpnConfig, ProxyConfig, Server, WireGuardConfig, WireGuardPeer
from vpntest.plan.secret import Secret


@pytest.mark.parametrize(
    ("server", "text"),
    [
        (Server("vpn.example", 443, "tcp"), "vpn.example:443/tcp"),
        (Server("fd00::1", 51820, "udp"), "[fd00::1]:51820/udp"),
    ],
)
def test_a_server_reads_as_a_person_writes_it(server: Server, text: str) -> None:
    assert str(server) == text


def test_servers_of_wireguard_are_its_peers_that_can_be_called() -> None:
    first, second = Server("198.18.0.1", 1, "udp"), Server("198.18.0.2", 2, "udp")
    peers = tuple(WireGuardPeer(str(number), server, ()) for number, server in enumerate((first, None, second)))
    assert WireGuardConfig(Secret("k"), (), peers).servers == (first, second)


def test_no_config_shows_a_secret_in_its_repr() -> None:
    server = Server("198.18.0.1", 443, "tcp")
    configs = [
        WireGuardConfig(Secret("hush"), (), (WireGuardPeer("public", server, (), preshared_key=Secret("hush")),)),
        OpenVpnConfig((server,), (), (("key", Secret("hush")),), Secret("hush"), Secret("hush")),
        ProxyConfig(server, {"password": Secret("hush"), "tls": {"reality": {"short_id": Secret("hush")}}}),
    ]
    assert all("hush" not in repr(config) for config in configs)
