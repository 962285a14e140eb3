from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vpntest.failures import Failure
from vpntest.plan.keys import generate
from vpntest.plan.model import (
    CommandConfig,
    Kind,
    Problem,
    ProxyConfig,
    Server,
    Settings,
    TorConfig,
    TunnelSpec,
    WireGuardConfig,
)
from vpntest.plan.secret import Secret
from vpntest.tunnel import netlink, raising
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


NARROW = 1280
LOAD = 64 * 1024


@pytest.fixture
def narrow(world: Any) -> Iterator[Any]:
    """The same world, with a router between that answers what is longer than 1280 bytes with ICMP, as it should."""
    client, router, server = (Namespace.create() for _ in range(3))

    async def plumb() -> None:
        for namespace in (client, router, server):
            await netlink.prepare(namespace)
        for namespace, ours, theirs, address in ((client, "up", "c", "198.18.0.2"), (server, "down", "s", SERVER)):
            await netlink.within(router, partial(_veth, name=theirs, peer=ours))
            await netlink.move(ours, router, namespace)
            await netlink.address(namespace, ours, addresses=[f"{address}/24"], routes=[])
            await netlink.address(router, theirs, addresses=[], routes=[])
            await netlink.within(router, partial(_narrow_route, name=theirs, to=address))
        await netlink.address(router, "lo", addresses=["198.18.1.1/32"], routes=[])
        await netlink.address(server, "lo", addresses=[f"{INTERNET}/32"], routes=[])

    asyncio.run(plumb())
    with router.entered():
        for switch in ("ip_forward", "conf/c/proxy_arp", "conf/s/proxy_arp"):
            Path("/proc/sys/net/ipv4", switch).write_text("1")
    yield dataclasses.replace(world, client=client, server=server, asked=[], names={})
    for namespace in (client, router, server):
        namespace.close()


def _veth(ip: Any, name: str, peer: str) -> None:
    ip.link("add", ifname=name, kind="veth", peer={"ifname": peer})


def _narrow_route(ip: Any, name: str, to: str) -> None:
    # The route's MTU, not the device's: a veth drops what is too long for it, and says nothing.
    [index] = ip.link_lookup(ifname=name)
    ip.route("replace", dst=f"{to}/32", oif=index, metrics={"mtu": NARROW})


async def _far_load(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.readexactly(1) == b"D":
        writer.write(bytes(LOAD))
    else:
        await reader.readexactly(LOAD)
        writer.write(b"k")
    await writer.drain()
    writer.close()


async def _loads(vantage: Any) -> tuple[int, int]:
    """Bytes that came down, and of ours that went up."""
    loop = asyncio.get_running_loop()
    moved = []
    for order in (b"D", b"U" + bytes(LOAD)):
        with vantage.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            async with asyncio.timeout(60):
                await loop.sock_connect(sock, (INTERNET, 8080))
                await loop.sock_sendall(sock, order)
                count = 0
                while data := await loop.sock_recv(sock, 65536):
                    count += len(data)
        moved.append(count)
    return moved[0], LOAD * moved[1]


OBFUSCATION = (
    *(("jc", "3"), ("jmin", "40"), ("jmax", "70"), ("s1", "15"), ("s2", "68"), ("s3", "20"), ("s4", "11")),
    *(("h1", "1234567"), ("h2", "2345678"), ("h3", "3456789"), ("h4", "4567890")),
)


def test_all_carry_over_a_way_of_small_packets(narrow: Any, pki: Any, proxy: Any) -> None:
    async def body() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(narrow.open())
            sock = narrow.server.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.bind((INTERNET, 8080))
            sock.setblocking(False)
            server = await asyncio.start_server(_far_load, sock=sock)
            stack.callback(server.close)
            specs = [
                await stack.enter_async_context(narrow.wireguard("wireguard-go", 51850, 51)),
                await stack.enter_async_context(narrow.wireguard("amneziawg-go", 51851, 52, obfuscation=OBFUSCATION)),
                await stack.enter_async_context(narrow.openvpn(1210, 53, "udp", pki)),
                await stack.enter_async_context(narrow.openvpn(1211, 54, "tcp", pki)),
                proxy("ss", Kind.SHADOWSOCKS, 8390, "tcp", _SS),
            ]
            await stack.enter_async_context(narrow.sing_box(_SS_SERVER))
            tunnels = await narrow.raised(*specs)
            for tunnel in tunnels:
                stack.push_async_callback(tunnel.lower)
                assert tunnel.vantage is not None, tunnel.steps
                assert await _loads(tunnel.vantage) == (LOAD, LOAD), tunnel.spec.name
            # WireGuard takes 60 bytes of each packet, and this AmneziaWG 11 more; both fill up to multiples of 16.
            assert [await _ipv4_mtu(tunnel.vantage) for tunnel in tunnels[:2]] == [1216, 1200]

    asyncio.run(body())


async def _ipv4_mtu(vantage: Any) -> int:
    """Of the default route."""
    with vantage.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((INTERNET, 9))
        return sock.getsockopt(socket.IPPROTO_IP, 14)


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
        # One that fell before its time has none: then there is nothing to wait for.
        assert not any(task.done() for task in tasks), [task.result().steps for task in tasks if task.done()]
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


FAR = Server("192.0.2.1", 443, "tcp")


@pytest.mark.parametrize(
    ("config", "locally", "udp"),
    [
        (None, False, True),
        (ProxyConfig(FAR, {"type": "vless"}), True, True),
        (ProxyConfig(FAR, {"type": "ssh"}, carries_udp=False), True, False),
        (TorConfig(()), True, False),
        (CommandConfig(("own",), device="tun0"), False, True),
        (CommandConfig(("own",), proxy="socks5://127.0.0.1:1080"), True, True),
        (CommandConfig(("own",), proxy="http://127.0.0.1:8080"), True, False),
    ],
)
def test_what_a_config_tells_of_its_tunnel(config: Any, locally: bool, udp: bool) -> None:
    assert (raising.answers_locally(config), raising.carries_udp(config)) == (locally, udp)
