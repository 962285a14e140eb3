from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vpntest.errors import CannotMeasure
from vpntest.failures import Failure
from vpntest.plan.keys import generate, public_of
from vpntest.plan.model import AmneziaParameters, Server, WireGuardPeer
from vpntest.plan.wgquick import parse
from vpntest.tunnel import dns, netlink, wireguard
from vpntest.tunnel.carriers import Carriers
from vpntest.tunnel.ladder import Climb, Rung, Step
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.site import Site

pytestmark = pytest.mark.root

INTERNET6 = "fd00:9::9"
CLIMBED = [Rung.CONFIG, Rung.ENDPOINT_DNS, Rung.ENDPOINT, Rung.HANDSHAKE, Rung.AUTH]
INITIATION, KEEPALIVE = 148, 32
"""Bytes of WireGuard's first message and of its empty data message."""

OBFUSCATION = (
    *(("jc", "3"), ("jmin", "40"), ("jmax", "70"), ("s1", "15"), ("s2", "68")),
    *(("h1", "1234567"), ("h2", "2345678"), ("h3", "3456789"), ("h4", "4567890")),
)
RANGES = (
    *(("jc", "2"), ("jmin", "40"), ("jmax", "70"), ("s1", "15"), ("s2", "68"), ("s3", "20"), ("s4", "11")),
    *(("h1", "100-200"), ("h2", "300-400"), ("h3", "500-600"), ("h4", "700-800"), ("i1", "<b 0xc0ffee><r 16>")),
)
SWITCHED_OFF = (
    *(("jc", "0"), ("jmin", "0"), ("jmax", "0"), ("s1", "0"), ("s2", "0")),
    *(("h1", "1"), ("h2", "2"), ("h3", "3"), ("h4", "4")),
)


async def _device_says(directory: str, device: str) -> dict[str, str]:
    reader, writer = await asyncio.open_unix_connection(Path(directory, f"{device}.sock"))
    writer.write(b"get=1\n\n")
    text = (await reader.readuntil(b"\n\n")).decode()
    writer.close()
    return dict(line.split("=", 1) for line in text.splitlines() if line)


def test_comes_up_and_carries_names_and_bytes(world: Any, question: Any, first_byte: Any) -> None:
    async def body() -> None:
        async with world.open(), world.wireguard("wireguard-go", 51820, 1, preshared=True) as spec:
            [tunnel] = await world.raised(spec)
            try:
                assert [(step.rung, step.failure) for step in tunnel.steps] == [(rung, None) for rung in CLIMBED]
                assert tunnel.carrier.startswith("wireguard-go ")
                assert not tunnel.vantage.answers_locally
                assert (await question(tunnel.vantage, "one.test")).answers == ("198.18.77.7",)
                assert world.asked[-1] == ("one.test", "198.19.1.2")
                assert await first_byte(tunnel.vantage) == b"w"
                assert await first_byte(tunnel.vantage, INTERNET6) == b"w"
                assert tunnel.vantage.count_packets().received > 0
            finally:
                await tunnel.lower()

    asyncio.run(body())


def test_raising_costs_one_data_packet_and_then_nothing_is_sent(world: Any) -> None:
    async def body() -> None:
        async with world.wireguard("wireguard-go", 51821, 2) as spec:
            [tunnel] = await world.raised(spec)
            try:
                assert tunnel.vantage is not None
                # Longer than the kernel would wait with its first router solicitation and multicast report.
                await asyncio.sleep(2.5)
                counted = tunnel.vantage.count_packets()
                assert (counted.received, counted.sent) == (0, 0)
                assert int((await _device_says("/run/wireguard", "srv51821"))["rx_bytes"]) == INITIATION + KEEPALIVE
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.parametrize("keepalive", [0, 25])
def test_the_device_ends_with_the_keepalive_of_its_config(world: Any, links: Any, keepalive: int) -> None:
    async def body() -> None:
        async with world.wireguard("wireguard-go", 51822, 3) as spec:
            peer = msgspec.structs.replace(spec.config.peers[0], persistent_keepalive=keepalive)
            spec = msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, peers=(peer,)))
            [tunnel] = await world.raised(spec)
            try:
                [device] = links(tunnel.vantage.netns) - {"lo"}
                told = await _device_says(f"{world.cage.directory}/{device}/wireguard", device)
                assert told["persistent_keepalive_interval"] == str(keepalive)
            finally:
                await tunnel.lower()

    asyncio.run(body())


def test_every_peer_gets_its_networks(world: Any, links: Any, first_byte: Any) -> None:
    async def body() -> None:
        async with world.open(), world.wireguard("wireguard-go", 51823, 4) as spec:
            silent = WireGuardPeer(generate()[1], Server("nowhere.invalid", 51820, "udp"), ("198.18.200.0/24",))
            # First in the file, but the default route goes to the other one.
            config = msgspec.structs.replace(spec.config, peers=(silent, *spec.config.peers))
            world.names["nowhere.invalid"] = "198.18.0.99"
            [tunnel] = await world.raised(msgspec.structs.replace(spec, config=config))
            try:
                assert tunnel.steps[-1].failure is None
                assert await first_byte(tunnel.vantage) == b"w"
                [device] = links(tunnel.vantage.netns) - {"lo"}
                reader, writer = await asyncio.open_unix_connection(
                    f"{world.cage.directory}/{device}/wireguard/{device}.sock"
                )
                writer.write(b"get=1\n\n")
                lines = (await reader.readuntil(b"\n\n")).decode().splitlines()
                writer.close()
                assert sum(line.startswith("public_key=") for line in lines) == 2
                assert "allowed_ip=198.18.200.0/24" in lines
                assert "endpoint=198.18.0.99:51820" in lines
            finally:
                await tunnel.lower()

    asyncio.run(body())


def test_a_shortage_with_any_peers_name_is_no_observation(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def out_of_sockets(*_: object, **__: object) -> None:
        raise CannotMeasure("out of sockets")

    monkeypatch.setattr(dns, "ask", out_of_sockets)

    async def body() -> None:
        async with world.wireguard("wireguard-go", 51837, 17) as spec:
            silent = WireGuardPeer(generate()[1], Server("nowhere.invalid", 51820, "udp"), ("198.18.200.0/24",))
            config = msgspec.structs.replace(spec.config, peers=(silent, *spec.config.peers))
            with pytest.raises(CannotMeasure):
                await world.raised(msgspec.structs.replace(spec, config=config))

    asyncio.run(body())


def test_the_mtu_of_the_config(world: Any, links: Any) -> None:
    async def body() -> None:
        async with world.wireguard("wireguard-go", 51824, 5) as spec:
            spec = msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, mtu=1312))
            [tunnel] = await world.raised(spec)
            try:
                netns = tunnel.vantage.netns
                [device] = links(netns) - {"lo"}
                told = await netlink.within(netns, lambda ip: ip.link("get", ifname=device)[0].get_attr("IFLA_MTU"))
                assert told == 1312
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("obfuscation", "port"), [(OBFUSCATION, 51830), (RANGES, 51831)], ids=["numbers", "ranges-and-signature"]
)
def test_amneziawg_comes_up(world: Any, question: Any, first_byte: Any, obfuscation: Any, port: int) -> None:
    async def body() -> None:
        async with world.open(), world.wireguard("amneziawg-go", port, port - 51820, obfuscation=obfuscation) as spec:
            [tunnel] = await world.raised(spec)
            try:
                assert [(step.rung, step.failure) for step in tunnel.steps] == [(rung, None) for rung in CLIMBED], (
                    tunnel.steps
                )
                assert tunnel.carrier.startswith("amneziawg-go")
                assert (await question(tunnel.vantage, "awg.test")).answers == ("198.18.77.7",)
                assert await first_byte(tunnel.vantage) == b"w"
            finally:
                await tunnel.lower()

    asyncio.run(body())


def test_amneziawg_with_everything_switched_off_speaks_plain_wireguard(world: Any) -> None:
    async def body() -> None:
        async with world.wireguard("wireguard-go", 51832, 12) as spec:
            config = msgspec.structs.replace(spec.config, amnezia=AmneziaParameters(SWITCHED_OFF))
            [tunnel] = await world.raised(msgspec.structs.replace(spec, config=config))
            try:
                assert tunnel.carrier.startswith("amneziawg-go")
                assert tunnel.vantage is not None, tunnel.steps
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("key", "value", "mechanism", "said"),
    [
        ("future_key", "1", "unsupported", "`future_key`"),
        ("itime", "60", "unsupported", "`Itime`"),
        ("header_protection_key", "00", "unsupported", "`HeaderProtectionKey`"),
        ("i2", "<r 4><c>", "unsupported", "a tag in `I2`"),
        ("h1", "none", "invalid", "refused the config"),
        ("i1", "<b 0x00>\nprivate_key=00", "invalid", "not one line"),
    ],
)
def test_an_amnezia_key_that_cannot_be_honoured_is_named(
    world: Any, key: str, value: str, mechanism: str, said: str
) -> None:
    async def body() -> None:
        async with world.wireguard("wireguard-go", 51833, 13) as spec:
            config = msgspec.structs.replace(spec.config, amnezia=AmneziaParameters(((key, value),)))
            [tunnel] = await world.raised(msgspec.structs.replace(spec, config=config))
            assert tunnel.vantage is None
            assert [(step.rung, step.failure) for step in tunnel.steps] == [(Rung.CONFIG, mechanism)]
            assert tunnel.problem.mechanism == mechanism
            assert said in tunnel.problem.reason

    asyncio.run(body())


def test_a_peer_that_nobody_can_call_is_invalid(world: Any) -> None:
    async def body() -> None:
        async with world.wireguard("wireguard-go", 51834, 14) as spec:
            peer = msgspec.structs.replace(spec.config.peers[0], endpoint=None)
            config = msgspec.structs.replace(spec.config, peers=(peer,))
            [tunnel] = await world.raised(msgspec.structs.replace(spec, config=config))
            assert [(step.rung, step.failure) for step in tunnel.steps] == [(Rung.CONFIG, Failure.INVALID)]

    asyncio.run(body())


NETWORKS = ("0.0.0.0/0", "::/0", *(f"fd00:{number:x}:ffff:ffff:ffff:ffff::/96" for number in range(3500)))


def test_a_peer_of_thousands_of_networks(world: Any, first_byte: Any) -> None:
    async def body() -> None:
        async with world.open(), world.wireguard("wireguard-go", 51835, 15) as spec:
            peer = msgspec.structs.replace(spec.config.peers[0], allowed_ips=NETWORKS)
            config = msgspec.structs.replace(spec.config, peers=(peer,))
            [tunnel] = await world.raised(msgspec.structs.replace(spec, config=config))
            try:
                assert tunnel.vantage is not None, tunnel.steps
                assert await first_byte(tunnel.vantage) == b"w"
            finally:
                await tunnel.lower()

    asyncio.run(body())


def test_an_answer_without_end_is_a_fault_of_the_carrier(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wireguard, "_LONGEST_ANSWER", 1 << 6)

    async def body() -> None:
        async with world.wireguard("wireguard-go", 51836, 16) as spec:
            [tunnel] = await world.raised(spec)
            assert [step.failure for step in tunnel.steps][-1] == Failure.CARRIER_EXITED, tunnel.steps
            assert "control socket" in tunnel.steps[-1].detail

    asyncio.run(body())


def test_the_kernel_is_told_thousands_of_networks_in_messages_that_it_takes() -> None:
    from pyroute2.netlink.generic.wireguard import AsyncWireGuard, wgmsg

    shared = generate()[0]
    peer = WireGuardPeer(generate()[1], None, NETWORKS, preshared_key=shared)
    parts = list(wireguard._as_attributes(wireguard._Peer(peer, ("198.18.0.1", 51820), 25)))
    for part in parts:
        message = wgmsg()
        AsyncWireGuard._wg_set_peer(AsyncWireGuard.__new__(AsyncWireGuard), message, part)
        message.encode()
        assert len(message.data) < 1 << 16
    assert tuple(network for part in parts for network in part["allowed_ips"]) == NETWORKS
    assert [part.get("replace_allowed_ips") for part in parts] == [True, *[None] * (len(parts) - 1)]
    assert {part["public_key"] for part in parts} == {peer.public_key}
    assert parts[0]["preshared_key"] == shared.reveal()


@pytest.fixture
def site(world: Any) -> Iterator[Site]:
    netns = Namespace.create()
    yield Site(world.cage, world.outside, netns, Climb(time.monotonic), contextlib.AsyncExitStack(), ())
    netns.close()


def test_a_kernel_device_is_never_in_the_underlay_and_never_stays(
    site: Site, links: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a pair of veth in its place: not every kernel has WireGuard."""
    monkeypatch.setattr(wireguard._Kernel, "kind", "veth")
    before = links(site.underlay)

    async def body() -> None:
        async with site.undo:
            await wireguard._Kernel(site).create()
            assert site.device in links(site.netns)
            assert links(site.underlay) == before

    asyncio.run(body())
    assert links(site.netns) == {"lo"}
    assert links(site.underlay) == before


def test_a_kernel_device_whose_making_is_cancelled_does_not_stay(
    site: Site, links: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wireguard._Kernel, "kind", "veth")
    before = links(site.underlay)

    async def body(turns: int) -> None:
        async with site.undo:
            task = asyncio.ensure_future(wireguard._Kernel(site).create())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    for turns in range(5):
        asyncio.run(body(turns))
        assert links(site.netns) == {"lo"}
        assert links(site.underlay) == before


# ── what is read is what the device is told ──────────────────────────────────────────────────────────────────────────


def _raw(key: str) -> str:
    return base64.b64decode(key).hex()


A, B, C, PSK = (generate()[1] for _ in range(4))
OURS = generate()[0].reveal()
ECHOED = {
    "plain": (
        "wireguard-go",
        "",
        [(A, "Endpoint = 198.18.0.99:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n")],
        [],
        [(A, "198.18.0.99:51820", "0", None, ["0.0.0.0/0", "::/0"])],
    ),
    "dirt": (
        "wireguard-go",
        "MTU = 0\nDNS = 9.9.9.9\nListenPort=\nPostUp = x\n",
        [
            (
                A,
                "ENDPOINT = [ FD00:0:0::99 ] : 443 # theirs\nallowedips = 10.1.2.3/8 192.0.2.7\n"
                "AllowedIPs=2001:db8::1/32,\n"
                f"PersistentKeepalive = 25\nPersistent Keepalive = 17\nPresharedKey = {PSK}\n",
            ),
            (B, "AllowedIPs = 198.51.100.0/24, 0.0.0.0/0\nPersistentKeepalive = off\n"),
            (C, f"Endpoint = 198.18.0.98:1\nAllowedIPs =\nPresharedKey = {'A' * 43}=\nPersistentKeepalive = 65535\n"),
        ],
        [],
        [
            (A, "[fd00::99]:443", "17", PSK, ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]),
            (B, None, "0", None, ["198.51.100.0/24", "0.0.0.0/0"]),
            (C, "198.18.0.98:1", "65535", None, []),
        ],
    ),
    "the first generation": (
        "amneziawg-go",
        "Jc = 122\nJmin = 40\nJmax = 1280\nS1 = 15\nS2 = 1380\nH1 = 4294967295\nH2 = 6\nH3=7\nH4 = 8\n",
        [(A, "Endpoint = 198.18.0.99:51820\nAllowedIPs = 0.0.0.0/0\n")],
        [
            *(("jc", "122"), ("jmin", "40"), ("jmax", "1280"), ("s1", "15"), ("s2", "1380")),
            *(("h1", "4294967295"), ("h2", "6"), ("h3", "7"), ("h4", "8")),
        ],
        [(A, "198.18.0.99:51820", "0", None, ["0.0.0.0/0"])],
    ),
    "the second generation": (
        "amneziawg-go",
        "S3 = 20\nS4 = 11\nH1 = 100-200\nH2 = 300 - 400\nH4 = 9-9\nJ1 =\nItime = 0\nRandomTrailers = off\n"
        "I1 = <b 0xc0ffee><r 16> <rd 3><rc 4><t>\nI5 = <r 1472>\nI3 =\n",
        [
            (
                A,
                f"PresharedKey = {PSK}\nEndpoint = 198.18.0.99:51820\nAllowedIPs = ::/0, 0.0.0.0/0\n"
                "AdvancedSecurity = on\n",
            )
        ],
        [
            *(("s3", "20"), ("s4", "11"), ("h1", "100-200"), ("h2", "300-400"), ("h3", "3"), ("h4", "9")),
            *(("i1", "<b 0xc0ffee><r 16> <rd 3><rc 4><t>"), ("i5", "<r 1472>")),
        ],
        [(A, "198.18.0.99:51820", "0", PSK, ["::/0", "0.0.0.0/0"])],
    ),
    "all that is off": (
        "amneziawg-go",
        "Jc = 0\nJmin = 0\nJmax = 0\nS1 = 0\nS2 = 0\nH1 = 1\nH2 = 2\nH3 = 3\nH4 = 4\nI1 =\n",
        [(A, "Endpoint = 198.18.0.99:51820\nAllowedIPs = 0.0.0.0/0\n")],
        [("h1", "1"), ("h2", "2"), ("h3", "3"), ("h4", "4")],
        [(A, "198.18.0.99:51820", "0", None, ["0.0.0.0/0"])],
    ),
}


@pytest.mark.parametrize(("program", "interface", "peers", "told", "known"), ECHOED.values(), ids=ECHOED.keys())
def test_what_the_file_says_is_what_the_device_repeats(
    site: Site, world: Any, program: str, interface: str, peers: Any, told: Any, known: Any
) -> None:
    text = f"[Interface]\nPrivateKey = {OURS}\nAddress = 198.19.0.2/32\n{interface}"
    text += "".join(f"[Peer]\nPublicKey = {key}\n{lines}" for key, lines in peers)
    config, _ = parse(text, "x.conf")

    async def body() -> str:
        async with site.undo:
            device = wireguard._Userspace(site, world.carriers[program])
            await device.create()
            await device.configure(config, [])
            servers = {peer.public_key: peer.endpoint for peer in config.peers}
            addresses = {key: (server.host, server.port) if server else None for key, server in servers.items()}
            await device.configure(
                None,
                [wireguard._Peer(peer, addresses[peer.public_key], peer.persistent_keepalive) for peer in config.peers],
            )
            return await device._ask("get=1\n\n")

    said = [
        (key, value) for key, _, value in (line.partition("=") for line in asyncio.run(body()).splitlines() if line)
    ]
    start = next(number for number, (key, _) in enumerate(said) if key == "public_key")
    ours = dict(said[:start])
    assert ours.pop("private_key") == _raw(OURS)
    ours.pop("listen_port", None)
    assert list(ours.items()) == told
    echoed: dict[str, dict[str, list[str]]] = {}
    for key, value in said[start:]:
        if key == "public_key":
            peer = echoed.setdefault(value, {})
        peer.setdefault(key, []).append(value)
    assert set(echoed) == {_raw(key) for key, *_ in known}
    for key, endpoint, keepalive, shared, networks in known:
        peer = echoed[_raw(key)]
        assert peer.get("endpoint") == ([endpoint] if endpoint else None)
        assert peer["persistent_keepalive_interval"] == [keepalive]
        assert peer["preshared_key"] == [_raw(shared) if shared else "0" * 64]
        assert sorted(peer.get("allowed_ip", [])) == sorted(networks)


def test_what_is_found_in_the_carrier_is_what_it_takes(site: Site, world: Any) -> None:
    """The generations that its row lists, held against the carrier's own word on a key of each."""
    carrier = world.carriers["amneziawg-go"]
    assert re.fullmatch(r"amneziawg-go [0-9]+\.[0-9]+\.[0-9]+.*", str(carrier))
    keys = {"awg1": "jc", "awg1.5": "i1", "awg1.5-junk": "itime", "awg2": "s3", "awg3": "random_trailers"}
    values = {"i1": "<r 1>", "random_trailers": "true"}

    async def body() -> tuple[str, ...]:
        async with site.undo:
            device = wireguard._Userspace(site, carrier)
            await device.create()
            taken = []
            for generation, key in keys.items():
                if "errno=0" in await device._ask(f"set=1\n{key}={values.get(key, '1')}\n\n"):
                    taken.append(generation)
            return tuple(taken)

    assert asyncio.run(body()) == carrier.features


def test_a_peer_of_the_configs_own_key_is_invalid(world: Any) -> None:
    """The device would leave it out without a word, and the line be blamed for the silence."""

    async def body() -> None:
        async with world.wireguard("wireguard-go", 51838, 18) as spec:
            own = public_of(spec.config.private_key)
            peer = msgspec.structs.replace(spec.config.peers[0], public_key=own)
            config = msgspec.structs.replace(spec.config, peers=(peer,))
            [tunnel] = await world.raised(msgspec.structs.replace(spec, config=config))
            assert [(step.rung, step.failure) for step in tunnel.steps] == [(Rung.CONFIG, Failure.INVALID)]

    asyncio.run(body())


def test_an_mtu_too_small_for_ipv6_is_for_ipv4_alone(world: Any, links: Any, first_byte: Any) -> None:
    async def body() -> None:
        async with world.open(), world.wireguard("wireguard-go", 51839, 19) as spec:
            spec = msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, mtu=1000))
            [tunnel] = await world.raised(spec)
            try:
                assert tunnel.vantage is not None, tunnel.steps
                netns = tunnel.vantage.netns
                [device] = links(netns) - {"lo"}
                told = await netlink.within(netns, lambda ip: ip.link("get", ifname=device)[0].get_attr("IFLA_MTU"))
                assert told == 1280
                assert await first_byte(tunnel.vantage) == b"w"
                assert await first_byte(tunnel.vantage, INTERNET6) == b"w"
            finally:
                await tunnel.lower()

    asyncio.run(body())


def test_a_carrier_that_was_taken_over_has_us_call_no_socket_but_its_own(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "wireguard-go"
    link = f'ln -s "{tmp_path}/own" "/run/wireguard/$2.sock"'
    program.write_text(f"#!/bin/sh\nmkdir /run/wireguard\n{link}\nwhile :; do sleep 1; done\n")
    program.chmod(0o755)

    async def scene() -> Step:
        async with world.open(), world.wireguard("wireguard-go", 51866, 66) as server:
            rows = (replace(row, program=str(program)) if row.name == "wireguard-go" else row for row in carriers.rows)
            monkeypatch.setattr(world, "carriers", Carriers(tuple(rows)))
            [tunnel] = await world.raised(server)
            await tunnel.lower()
            step: Step = tunnel.steps[-1]
            return step

    carriers = world.carriers
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(tmp_path / "own"))
        own.listen()
        own.setblocking(False)
        last = asyncio.run(scene())
        with pytest.raises(BlockingIOError):
            own.accept()
    assert last.failure == Failure.CARRIER_EXITED
    assert "none of its own" in last.detail
