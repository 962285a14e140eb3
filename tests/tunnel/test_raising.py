from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vpntest.failures import Failure
from vpntest.plan.keys import generate
from vpntest.plan.model import Kind, Problem, Server, Settings, TunnelSpec, WireGuardConfig
from vpntest.plan.secret import Secret
from vpntest.tunnel import netlink
from vpntest.tunnel.carriers import find
from vpntest.tunnel.ladder import Rung, Step
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.raising import Tunnel, outside, raise_tunnel

pytestmark = pytest.mark.root

SERVER, INTERNET = "198.18.0.1", "198.18.9.9"
TROJAN = {"type": "trojan", "password": Secret("p"), "tls": {"enabled": True, "server_name": "x.test"}}

HYSTERIA = {"type": "hysteria2", "password": Secret("p"), "tls": {"enabled": True, "server_name": "x.test"}}


def _with_endpoint(spec: TunnelSpec, server: Server) -> TunnelSpec:
    assert isinstance(spec.config, WireGuardConfig)
    peer = msgspec.structs.replace(spec.config.peers[0], endpoint=server)
    return msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, peers=(peer,)))


def _with_preshared(spec: TunnelSpec, key: Secret) -> TunnelSpec:
    assert isinstance(spec.config, WireGuardConfig)
    peer = msgspec.structs.replace(spec.config.peers[0], preshared_key=key)
    return msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, peers=(peer,)))


def test_each_failure_ends_on_its_own_rung(world: Any, pki: Any, proxy: Any, links: Any, children: Any) -> None:
    """Side by side, since the timeouts are long."""

    async def body() -> dict[str, Step]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(world.open())
            wg = await stack.enter_async_context(world.wireguard("wireguard-go", 51840, 41, preshared=True))
            ovpn = await stack.enter_async_context(world.openvpn(1200, 42, "udp", pki))
            config = ovpn.config
            # tls-crypt with another key: the server drops such packets without a word.
            other = ("tls-crypt", Secret(pki.tls_crypt.replace("0", "1")))
            inline = (*config.inline[:-1], other)
            world.names["two.test"] = ("198.18.0.98", SERVER)
            world.names["blackhole.test"] = "198.18.0.98"
            tunnels = await world.raised(
                *(
                    msgspec.structs.replace(spec, name=name)
                    for name, spec in {
                        "absent": _with_endpoint(wg, Server(SERVER, 51899, "udp")),
                        "other-psk": _with_preshared(wg, generate()[0]),
                        "two-addresses": _with_endpoint(wg, Server("two.test", 51840, "udp")),
                        "no-address": _with_endpoint(wg, Server("none.test", 51840, "udp")),
                        "no-route": _with_endpoint(wg, Server("192.0.2.1", 51840, "udp")),
                        "ovpn-absent": msgspec.structs.replace(
                            ovpn, config=msgspec.structs.replace(config, servers=(Server(SERVER, 1299, "udp"),))
                        ),
                        "ovpn-other-key": msgspec.structs.replace(
                            ovpn, config=msgspec.structs.replace(config, inline=inline)
                        ),
                        "ovpn-tcp-closed": msgspec.structs.replace(
                            ovpn, config=msgspec.structs.replace(config, servers=(Server(SERVER, 1298, "tcp"),))
                        ),
                        "hysteria-absent": proxy("x", Kind.HYSTERIA2, 4498, "udp", HYSTERIA, "quic"),
                        "proxy-closed": proxy("x", Kind.TROJAN, 4499, "tcp", TROJAN),
                        "proxy-blackhole": _moved(proxy("x", Kind.TROJAN, 443, "tcp", TROJAN), "blackhole.test"),
                        "bad": TunnelSpec("x", Kind.UNKNOWN, "bad.conf", None, Problem("invalid", "bad.conf: empty")),
                    }.items()
                )
            )
            for tunnel in tunnels:
                await tunnel.lower()
            assert links(world.client) == {"lo", "up"}
            assert all(tunnel.vantage is None for tunnel in tunnels if tunnel.steps[-1].failure)
            return {tunnel.spec.name: tunnel.steps[-1] for tunnel in tunnels}

    world.names["none.test"] = ()
    last = asyncio.run(body())
    assert {name: (step.rung, step.failure) for name, step in last.items()} == {
        "absent": (Rung.HANDSHAKE, Failure.TIMEOUT),
        "other-psk": (Rung.HANDSHAKE, Failure.TIMEOUT),
        "two-addresses": (Rung.AUTH, None),
        "no-address": (Rung.ENDPOINT_DNS, Failure.DNS_NO_ANSWER),
        "no-route": (Rung.ENDPOINT, Failure.NETWORK_UNREACHABLE),
        "ovpn-absent": (Rung.HANDSHAKE, Failure.CONNECTION_REFUSED),
        "ovpn-other-key": (Rung.HANDSHAKE, Failure.TIMEOUT),
        "ovpn-tcp-closed": (Rung.ENDPOINT, Failure.CONNECTION_REFUSED),
        "hysteria-absent": (Rung.HANDSHAKE, Failure.CONNECTION_REFUSED),
        "proxy-closed": (Rung.ENDPOINT, Failure.CONNECTION_REFUSED),
        "proxy-blackhole": (Rung.ENDPOINT, last["proxy-blackhole"].failure),
        "bad": (Rung.CONFIG, Failure.INVALID),
    }
    # Either our deadline, or the kernel's word that nobody answers ARP on this link.
    assert last["proxy-blackhole"].failure in (Failure.TIMEOUT, Failure.HOST_UNREACHABLE)
    assert last["ovpn-other-key"].detail == "the server sent nothing"
    assert last["bad"].detail == "bad.conf: empty"


def _moved(spec: TunnelSpec, host: str) -> TunnelSpec:
    config = spec.config
    server = msgspec.structs.replace(config.server, host=host)
    return msgspec.structs.replace(spec, config=msgspec.structs.replace(config, server=server))


def test_lowering_leaves_nothing(world: Any, pki: Any, proxy: Any, links: Any, children: Any) -> None:
    async def body() -> None:
        async with (
            world.open(),
            world.wireguard("wireguard-go", 51841, 43) as wg,
            world.openvpn(1201, 44, "udp", pki) as ovpn,
            world.sing_box(_SS_SERVER),
        ):
            before = children(world.cage).keys()
            files = set(world.cage.directory.iterdir())
            # Whatever is made once for the whole process is made before the counting.
            await (await world.raised(wg))[0].lower()
            descriptors = len(os.listdir("/proc/self/fd"))
            tunnels = await world.raised(wg, ovpn, proxy("ss", Kind.SHADOWSOCKS, 8390, "tcp", _SS))
            assert all(tunnel.vantage is not None for tunnel in tunnels), [tunnel.steps for tunnel in tunnels]
            assert len(children(world.cage).keys() - before) == 3
            assert links(world.client) == {"lo", "up"}
            await asyncio.gather(*(tunnel.lower() for tunnel in tunnels))
            await asyncio.gather(*(tunnel.lower() for tunnel in tunnels))
            assert children(world.cage).keys() == before
            assert links(world.client) == {"lo", "up"}
            assert set(world.cage.directory.iterdir()) == files
            assert {path.name for path in Path("/run/wireguard").iterdir()} == {"srv51841.sock"}
            # Transports close their descriptors in the loop's next rounds.
            await asyncio.sleep(0.05)
            assert len(os.listdir("/proc/self/fd")) == descriptors

    asyncio.run(body())


_KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
_SS = {"type": "shadowsocks", "method": "2022-blake3-aes-128-gcm", "password": Secret(_KEY)}
_SS_SERVER = {
    "type": "shadowsocks",
    "listen_port": 8390,
    "method": "2022-blake3-aes-128-gcm",
    "password": _KEY,
}


@pytest.mark.parametrize("kind", ["wireguard", "openvpn", "sing-box"])
def test_with_its_carrier_dead_a_tunnel_sends_nothing(
    world: Any, pki: Any, proxy: Any, first_byte: Any, children: Any, kind: str
) -> None:
    async def body() -> None:
        async with (
            world.open(),
            world.wireguard("wireguard-go", 51842, 45) as wg,
            world.openvpn(1202, 46, "udp", pki) as ovpn,
            world.sing_box(_SS_SERVER),
        ):
            specs = {"wireguard": wg, "openvpn": ovpn, "sing-box": proxy("ss", Kind.SHADOWSOCKS, 8390, "tcp", _SS)}
            before = children(world.cage).keys()
            [tunnel] = await world.raised(specs[kind])
            try:
                vantage = tunnel.vantage
                assert await first_byte(vantage) == b"w"
                assert vantage.alive()
                [carrier] = children(world.cage).keys() - before
                os.kill(carrier, signal.SIGKILL)
                for _ in range(200):
                    if not vantage.alive():
                        break
                    await asyncio.sleep(0.01)
                assert not vantage.alive()
                assert vantage.count_packets() is None
                sent = netlink.count(world.client, "up").sent
                with (
                    vantage.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
                    pytest.raises(OSError, match="unreachable"),
                ):
                    sock.sendto(b"leak", (INTERNET, 9))
                with (
                    vantage.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock,
                    pytest.raises(OSError, match=r"unreachable|assign"),
                ):
                    sock.sendto(b"leak", ("fd00:9::9", 9))
                assert netlink.count(world.client, "up").sent == sent
            finally:
                await tunnel.lower()

    asyncio.run(body())


def test_cancelled_while_raising_leaves_nothing(world: Any, links: Any, children: Any) -> None:
    async def body() -> None:
        before = children(world.cage).keys()
        async with world.wireguard("wireguard-go", 51843, 47) as spec:
            running = children(world.cage).keys()
            absent = _with_endpoint(spec, Server(SERVER, 51899, "udp"))
            task = asyncio.ensure_future(world.raised(absent))
            while children(world.cage).keys() == running:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(200):
                if children(world.cage).keys() == running:
                    break
                await asyncio.sleep(0.01)
            assert children(world.cage).keys() == running
            assert links(world.client) == {"lo", "up"}
        assert children(world.cage).keys() == before

    asyncio.run(body())


_VICTIM = """
import asyncio, json, socket, sys, time
from vpntest.plan.model import *
from vpntest.plan.secret import Secret
from vpntest.plan.keys import generate
from vpntest.tunnel import netlink, carriers
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.raising import outside, raise_tunnel

async def main():
    cage = Cage.open()
    underlay = Namespace.create()
    await netlink.prepare(underlay)
    await netlink.within(underlay, lambda ip: ip.link("add", ifname="up", kind="veth", peer={"ifname": "down"}))
    await netlink.address(underlay, "up", addresses=["198.18.0.2/24"], routes=[])
    here = outside(underlay, Settings(resolver="198.18.0.1"))
    peer = WireGuardPeer(generate()[1], Server("198.18.0.1", 51820, "udp"), ("0.0.0.0/0",))
    config = WireGuardConfig(generate()[0], ("198.19.0.2/32",), (peer,))
    hysteria = {"type": "hysteria2", "password": Secret("p"), "tls": {"enabled": True, "server_name": "x"}}
    specs = [
        TunnelSpec("wg", Kind.WIREGUARD, "x", config),
        TunnelSpec("hy", Kind.HYSTERIA2, "x", ProxyConfig(Server("198.18.0.1", 443, "udp"), hysteria, ("quic",))),
    ]
    found = carriers.find()
    tasks = [asyncio.ensure_future(raise_tunnel(s, here, cage, found, Settings(), time.monotonic)) for s in specs]
    # There is no server: both carriers run, and wait for one.
    while len(cage._spawned) < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    print(cage._inner, cage._init.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_killed_at_any_moment_leaves_no_process() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    victim = subprocess.Popen([sys.executable, "-c", _VICTIM], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = victim.stdout.readline().split()
        assert len(line) == 2
        space = os.stat(f"/proc/{line[1]}/ns/pid").st_ino
        inhabitants = _in_pid_namespace(space)
        assert len(inhabitants) == 3, inhabitants
        mounts = Path("/proc/self/mounts").read_text()
    finally:
        victim.kill()
        victim.wait()
        victim.stdout.close()
    for _ in range(200):
        if not _in_pid_namespace(space):
            break
        time.sleep(0.01)
    assert _in_pid_namespace(space) == {}
    assert Path("/proc/self/mounts").read_text() == mounts


def _in_pid_namespace(inode: int) -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "ns/pid").stat().st_ino == inode and (line := (entry / "cmdline").read_text()):
                    found[int(entry.name)] = line
    return found


def test_no_secret_is_in_an_argument_or_a_step(world: Any, pki: Any, proxy: Any, children: Any) -> None:
    async def body() -> None:
        async with world.openvpn(1203, 48, "udp", pki) as ovpn, world.sing_box(_SS_SERVER):
            before = children(world.cage).keys()
            tunnels = await world.raised(ovpn, proxy("ss", Kind.SHADOWSOCKS, 8390, "tcp", _SS))
            try:
                commands = [line for pid, line in children(world.cage).items() if pid not in before]
                assert len(commands) == 2
                secrets = [ovpn.config.password.reveal(), ovpn.config.username.reveal(), _KEY, pki.client[1]]
                for text in [*commands, *(repr(tunnel.steps) for tunnel in tunnels)]:
                    assert not any(secret in text for secret in secrets)
            finally:
                for tunnel in tunnels:
                    await tunnel.lower()

    asyncio.run(body())


def test_a_box_without_carriers_says_what_is_missing(world: Any, proxy: Any, tmp_path: Path) -> None:
    async def body() -> Tunnel:
        spec = proxy("ss", Kind.SHADOWSOCKS, 8390, "tcp", _SS)
        return await raise_tunnel(spec, world.outside, world.cage, find(str(tmp_path)), Settings(), time.monotonic)

    tunnel = asyncio.run(body())
    assert tunnel.carrier is None
    assert tunnel.problem.mechanism == "unsupported"
    assert "sing-box is not installed" in tunnel.problem.reason
    assert [(step.rung, step.failure) for step in tunnel.steps] == [(Rung.CONFIG, Failure.UNSUPPORTED)]


def test_outside_takes_the_resolver_of_the_settings() -> None:
    here = Namespace.current()
    try:
        vantage = outside(here, Settings(resolver="198.18.0.53"))
        assert (vantage.id, vantage.resolver) == ("outside", "198.18.0.53")
        assert vantage.count_packets() is None
    finally:
        here.close()


def test_outside_takes_the_first_resolver_of_the_host() -> None:
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    named = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    here = Namespace.current()
    try:
        vantage = outside(here, Settings(public_resolver="198.18.9.9"))
        assert vantage.resolver == (named[0] if named else "198.18.9.9")
    finally:
        here.close()
