"""Each VPN server takes the client that its config was written for, and lets it out under an address of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from standing_lab import StandingLab, standing

from vpntest.lab import vpn
from vpntest.lab.internet import CONTROL, CONTROL_NAME, PUBLIC_RESOLVER, WHOAMI_NAME
from vpntest.lab.profiles import load
from vpntest.plan.read import read_plan
from vpntest.tunnel.carriers import find
from vpntest.tunnel.raising import Tunnel, outside, raise_tunnel

EXIT = {
    "wireguard": "wg-a",
    "wireguard-2": "wg-b",
    "amneziawg": "awg",
    "amneziawg-plain": "awg",
    "openvpn-udp": "ovpn",
    "openvpn-tcp": "ovpn",
    "shadowsocks-2022": "proxy",
    "shadowsocks-aead": "proxy",
    vpn.REALITY: "proxy",
    "trojan": "proxy",
    "hysteria2": "proxy",
}
ADDRESS = {host.name: host.addresses[0] for host in vpn.HOSTS}


@pytest.fixture(scope="module")
def lab() -> Iterator[StandingLab]:
    with standing(load("open")) as here:
        yield here


def raised(lab: StandingLab, name: str) -> Tunnel:
    plan = read_plan([lab.lab.plan])
    spec = next(tunnel for tunnel in plan.tunnels if tunnel.name == name)
    line = outside(lab.lab.client, plan.settings)
    return lab.runner.run(raise_tunnel(spec, line, lab.cage, find(), plan.settings, time.monotonic))


def test_there_are_enough_exits() -> None:
    assert len(set(vpn.EXITS)) == len(vpn.EXITS) >= 4
    assert set(EXIT.values()) == set(ADDRESS)


@pytest.mark.root
@pytest.mark.parametrize("name", EXIT)
def test_a_client_comes_out_at_its_servers_address(lab: StandingLab, name: str) -> None:
    if name == vpn.REALITY and not vpn.speaks_reality():
        assert lab.lab.profile.truth.tunnels[name].mechanism == "unsupported"
        return
    tunnel = raised(lab, name)
    try:
        assert tunnel.vantage is not None, tunnel.steps
        inside = tunnel.vantage.netns
        assert lab.dig(PUBLIC_RESOLVER, WHOAMI_NAME, host=inside) == [PUBLIC_RESOLVER]
        command = ("curl", "-sS", "--max-time", "8", "--cacert", "ca.pem", "--resolve", f"{CONTROL_NAME}:443:{CONTROL}")
        assert lab.run(inside, *command, f"https://{CONTROL_NAME}/ip").stdout == ADDRESS[EXIT[name]]
        fetched = lab.curl(CONTROL_NAME, "/64k", host=inside, seconds=8)
        assert (fetched.code, fetched.size) == (200, 65536)
    finally:
        lab.runner.run(tunnel.lower())


@pytest.mark.root
def test_wrong_credentials_are_refused_by_the_server(lab: StandingLab) -> None:
    tunnel = raised(lab, "wrong-credentials")
    lab.runner.run(tunnel.lower())
    assert tunnel.vantage is None
    assert tunnel.steps[-1].failure == "auth_rejected"
