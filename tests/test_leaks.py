"""What leaves the client while a tunnel is measured: every packet on the uplink, read beneath the carriers.

    client ── uplink ── censor …          here: a packet socket on the client's uplink, while one tunnel climbs, carries
                                          load, and asks platforms, with nothing measured outside

A tunnel may send to its own server, and may have its server's name looked up; WireGuard's first asks once, by a ping,
how long a packet to its server may be. All else is a leak.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from standing_lab import StandingLab, standing
from uplink import capturing

from vpntest.lab.internet import ISP_RESOLVER
from vpntest.lab.profiles import load
from vpntest.plan.model import Kind, Plan, TunnelSpec
from vpntest.plan.read import read_plan
from vpntest.probe.campaign import Campaign
from vpntest.probe.observation import Observation
from vpntest.tunnel.carriers import find
from vpntest.tunnel.raising import Tunnel, outside, raise_tunnel
from vpntest.tunnel.vantage import Vantage

pytestmark = pytest.mark.root

TUNNELS = (
    "wireguard",
    "wireguard-2",
    "amneziawg",
    "amneziawg-plain",
    "openvpn-udp",
    "openvpn-tcp",
    "shadowsocks-2022",
    "shadowsocks-aead",
    "vless-reality",
    "trojan",
    "hysteria2",
)


@pytest.fixture(scope="module")
def lab() -> Iterator[StandingLab]:
    with standing(load("open")) as raised:
        yield raised


@dataclass
class Bench:
    """One tunnel of the lab's plan, ready to be raised and measured alone."""

    lab: StandingLab
    plan: Plan
    spec: TunnelSpec
    line: Vantage
    campaign: Campaign
    seen: list[Observation]

    @classmethod
    def of(cls, lab: StandingLab, name: str) -> Bench:
        whole = read_plan([lab.lab.plan])
        spec = next(tunnel for tunnel in whole.tunnels if tunnel.name == name)
        few = tuple(platform for platform in whole.platforms if platform.id in ("youtube", "telegram"))
        settings = msgspec.structs.replace(whole.settings, attempts=2)
        plan = msgspec.structs.replace(whole, tunnels=(spec,), platforms=few, settings=settings)
        line = outside(lab.lab.client, plan.settings)
        seen: list[Observation] = []
        return cls(lab, plan, spec, line, Campaign(plan, line, time.monotonic, seen.append), seen)

    async def raised(self) -> Tunnel:
        return await raise_tunnel(self.spec, self.line, self.lab.cage, find(), self.plan.settings, time.monotonic)

    def allowed(self) -> set[tuple[str, int, int]]:
        """Its servers' addresses with their ports, and the look-up of their names."""
        assert self.spec.config is not None
        numbers = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
        ways = set()
        for server in self.spec.config.servers:
            try:
                addresses = [str(ipaddress.ip_address(server.host))]
            except ValueError:
                addresses = self.lab.dig(ISP_RESOLVER, server.host)
                ways.add((ISP_RESOLVER, socket.IPPROTO_UDP, 53))
            # A Shadowsocks server takes UDP at the same port, in packets of its own.
            used = numbers if self.spec.kind is Kind.SHADOWSOCKS else (server.transport,)
            ways |= {(address, numbers[transport], server.port) for address in addresses for transport in used}
            if self.spec.kind in (Kind.WIREGUARD, Kind.AMNEZIAWG):
                ways |= {(address, socket.IPPROTO_ICMP, 0) for address in addresses}
        return ways


@pytest.mark.parametrize("name", TUNNELS)
def test_nothing_goes_anywhere_but_to_the_tunnels_own_server(lab: StandingLab, name: str) -> None:
    bench = Bench.of(lab, name)
    allowed = bench.allowed()

    async def measured() -> bool:
        tunnel = await bench.raised()
        try:
            assert tunnel.vantage is not None, tunnel.steps
            carries = await bench.campaign.carry(tunnel.vantage)
            await bench.campaign.exits(tunnel.vantage)
            await bench.campaign.reach(tunnel.vantage)
            return carries
        finally:
            await tunnel.lower()

    with capturing(lab.lab.client) as uplink:
        assert lab.runner.run(measured())
    # The measurement was real: platforms answered, and its load went over this wire.
    assert any(one.probe == "reach" and one.operation == "http_round_trip" and not one.failure for one in bench.seen)
    assert len(uplink.sent) > 100
    assert set(uplink.sent) <= allowed
    assert len([protocol for _, protocol, _ in uplink.sent if protocol == socket.IPPROTO_ICMP]) <= 1


@pytest.mark.parametrize("name", ["wireguard", "openvpn-udp", "shadowsocks-2022"])
def test_a_tunnel_whose_carrier_is_killed_sends_nothing(lab: StandingLab, name: str) -> None:
    bench = Bench.of(lab, name)

    async def measured() -> list[tuple[str, int, int]]:
        before = carriers()
        tunnel = await bench.raised()
        try:
            assert tunnel.vantage is not None, tunnel.steps
            assert await bench.campaign.carry(tunnel.vantage)
            running = asyncio.ensure_future(bench.campaign.reach(tunnel.vantage))
            await asyncio.sleep(0.5)
            (carrier,) = carriers() - before
            os.kill(carrier, signal.SIGKILL)
            while tunnel.vantage.alive():
                await asyncio.sleep(0.01)
            # What the kernel has to say for the dead carrier's own sockets is said by then.
            await asyncio.sleep(0.3)
            with capturing(lab.lab.client) as uplink:
                await running
                await bench.campaign.controls(tunnel.vantage, "after")
            return uplink.sent
        finally:
            await tunnel.lower()

    sent = lab.runner.run(measured())
    # Probes did run into the void, and every one of them failed there.
    void = [one for one in bench.seen if one.probe == "control" and one.phase == "after" and one.operation == "resolve"]
    assert void
    assert all(one.failure for one in void)
    assert sent == []


def carriers() -> set[int]:
    """Every process on this machine that could carry a tunnel."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                name = (process / "comm").read_text().strip()
            except OSError:
                continue
            if name in ("wireguard-go", "openvpn", "sing-box"):
                found.add(int(process.name))
    return found


def test_the_capture_sees_a_leak(lab: StandingLab) -> None:
    with capturing(lab.lab.client) as uplink:
        with lab.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as leak:
            leak.sendto(b"x", ("198.18.9.9", 53))
        time.sleep(0.05)
    assert ("198.18.9.9", socket.IPPROTO_UDP, 53) in uplink.sent
