from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import Any

import pytest

from vpntest.failures import Failure
from vpntest.plan.model import OUTSIDE, Server
from vpntest.plan.secret import Secret
from vpntest.tunnel import netlink
from vpntest.tunnel.ladder import Climb, Fall
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.site import Site
from vpntest.tunnel.vantage import Vantage

pytestmark = pytest.mark.root


def _site(world: Any, *secrets: str) -> Site:
    ticks = itertools.count()
    climb = Climb(lambda: float(next(ticks)))
    return Site(
        world.cage, world.outside, world.client, climb, contextlib.AsyncExitStack(), [Secret(s) for s in secrets]
    )


def test_what_a_carrier_says_is_kept_short_and_without_secrets(world: Any) -> None:
    key = "qFLyLR/yV5d/bd2CBVEyF3pYdVTsWw4Jw2cBVtJ8nFE="

    async def body() -> str:
        site = _site(world, "hunter2")
        heard: list[str] = []
        async with site.undo:
            process = site.spawn(
                ["sh", "-c", f"seq 9; echo the password is hunter2, the key {key}"], heard=heard.append
            )
            await process.wait()
            while len(heard) < 10:
                await asyncio.sleep(0.01)
            return site.tail()

    assert asyncio.run(body()) == "7 | 8 | 9 | the password is ***, the key ***"


def test_long_words_of_a_carrier_are_cut(world: Any) -> None:
    assert len(_site(world).redact("word " * 1000)) < 300


def test_a_literal_address_is_asked_of_nobody(world: Any) -> None:
    async def body() -> list[str]:
        return await _site(world).resolve(Server("2001:DB8::0001", 443, "tcp"))

    asked = len(world.asked)
    assert asyncio.run(body()) == ["2001:db8::1"]
    assert len(world.asked) == asked


def test_a_name_without_an_address_falls(world: Any) -> None:
    world.names["empty.test"] = ()

    async def body() -> None:
        async with world.open():
            await _site(world).resolve(Server("empty.test", 443, "tcp"))

    with pytest.raises(Fall) as caught:
        asyncio.run(body())
    assert caught.value.failure == Failure.DNS_NO_ANSWER
    assert "empty.test" in caught.value.detail


@pytest.mark.parametrize(
    ("addresses", "left"),
    [
        (("127.0.0.1",), None),
        (("169.254.169.254",), None),
        (("198.18.0.2",), None),  # this machine's own
        (("198.18.0.255",), None),  # the broadcast address of its wire
        (("10.66.0.7",), None),  # a private network that it is wired to
        (("10.77.0.7",), None),  # one that it has a way to
        (("127.0.0.1", "198.18.0.1", "10.66.0.7"), ["198.18.0.1"]),
        (("10.88.0.7",), ["10.88.0.7"]),  # where only the default route leads
    ],
)
def test_a_name_that_leads_to_this_machine_or_its_own_networks_is_a_bogon(
    world: Any, addresses: tuple[str, ...], left: list[str] | None
) -> None:
    world.names["rebound.test"] = addresses
    netns = Namespace.create()

    async def body() -> tuple[list[str] | None, list[str]]:
        await netlink.prepare(netns)
        await netlink.within(netns, lambda ip: ip.link("add", ifname="wire", kind="veth", peer={"ifname": "far"}))
        await netlink.address(
            netns, "wire", addresses=["198.18.0.2/24", "10.66.0.2/24"], routes=["10.77.0.0/16", "0.0.0.0/0"]
        )
        site = _site(world)
        site.outside = Vantage(OUTSIDE, netns, "198.18.0.1")
        found = None
        if left is None:
            with pytest.raises(Fall) as caught:
                await site.permitted("rebound.test", addresses)
            assert caught.value.failure == Failure.DNS_BOGON
            assert "the answer says" in caught.value.detail
        else:
            found = await site.permitted("rebound.test", addresses)
        site.local_servers = True
        return found, await site.permitted("rebound.test", addresses)

    assert asyncio.run(body()) == (left, list(addresses))
    netns.close()


def test_a_literal_address_of_this_machine_is_refused_before_anything_is_asked(world: Any) -> None:
    async def body(host: str) -> None:
        await _site(world).resolve(Server(host, 443, "tcp"))

    for host in ("::1", "fd00::1", "::ffff:127.0.0.1"):
        with pytest.raises(Fall) as caught:
            asyncio.run(body(host))
        assert caught.value.failure == Failure.REFUSED
        assert "the answer says" not in caught.value.detail
        assert host not in caught.value.detail


def test_only_addresses_with_a_route_are_tried_and_nothing_is_sent_to_learn_it(world: Any) -> None:
    site = _site(world)
    assert site.reachable(["192.0.2.1", "198.18.0.1", "2001:db8::1", "fd00::1"], 443) == ["198.18.0.1", "fd00::1"]
    with pytest.raises(OSError, match="unreachable"):
        site.reachable(["192.0.2.1"], 443)


def test_devices_have_names_of_their_own_that_the_kernel_takes(world: Any) -> None:
    names = {_site(world).device for _ in range(100)}
    assert len(names) == 100
    assert max(map(len, names)) <= 15


def test_what_a_way_carries_is_what_the_kernel_knows(world: Any) -> None:
    site = _site(world)
    assert site.path_mtu("198.18.0.1") == site.path_mtu("fd00::1") == 1500
    assert site.path_mtu("192.0.2.1") is None


def test_a_ping_is_sent_whole_and_leaves_nothing_open(world: Any) -> None:
    site = _site(world)
    sent, descriptors = netlink.count(world.client, "up").sent, len(os.listdir("/proc/self/fd"))
    for address in ("198.18.0.1", "fd00::1"):
        with site.pinging(address):
            pass
    assert netlink.count(world.client, "up").sent >= sent + 2
    with site.pinging("192.0.2.1"):
        pass
    assert len(os.listdir("/proc/self/fd")) == descriptors
