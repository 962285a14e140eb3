from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vpntest.tunnel import netlink
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.vantage import PacketCount

pytestmark = pytest.mark.root


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    one, other = Namespace.create(), Namespace.create()
    yield one, other
    one.close()
    other.close()


async def _joined(one: Namespace, other: Namespace) -> None:
    await netlink.prepare(one)
    await netlink.prepare(other)
    await netlink.within(one, lambda ip: ip.link("add", ifname="a", kind="veth", peer={"ifname": "b"}))
    await netlink.move("b", one, other)


def test_the_way_out_is_told_with_its_link_and_without_a_packet(pair: tuple[Namespace, Namespace]) -> None:
    one, other = pair
    with one.entered():
        assert netlink.way("198.18.9.9") is None

    async def body() -> None:
        await _joined(one, other)
        await netlink.address(one, "a", addresses=("198.18.7.2/24",), routes=("0.0.0.0/0",))
        await netlink.within(other, lambda ip: ip.link("set", index=ip.link_lookup(ifname="b")[0], state="up"))

    asyncio.run(body())
    before = netlink.count(one, "a")
    with one.entered():
        assert netlink.way("198.18.9.9") == netlink.Way("a", "veth")
        assert netlink.way("fd00:9::9") is None
    assert netlink.count(one, "a") == before


def test_a_link_is_moved_addressed_and_routed(pair: tuple[Namespace, Namespace], links: Any) -> None:
    one, other = pair

    async def body() -> None:
        await _joined(one, other)
        assert (links(one), links(other)) == ({"lo", "a"}, {"lo", "b"})
        await netlink.address(one, "a", addresses=["198.18.3.1/32"], routes=["198.18.3.2/32", "::/0"], mtu=1300)
        await netlink.address(other, "b", addresses=["198.18.3.2/24"], routes=[])
        with (
            other.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            one.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("198.18.3.2", 5000))
            receiver.settimeout(5)
            sender.sendto(b"x", ("198.18.3.2", 5000))
            assert receiver.recvfrom(9)[1][0] == "198.18.3.1"
        mtu = await netlink.within(one, lambda ip: ip.link("get", ifname="a")[0].get_attr("IFLA_MTU"))
        assert mtu == 1300
        # Without an IPv6 address there is no IPv6 route.
        with one.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six, pytest.raises(OSError, match="unreachable"):
            six.connect(("fd00::1", 9))

    asyncio.run(body())


def test_asking_twice_changes_nothing(pair: tuple[Namespace, Namespace]) -> None:
    one, other = pair

    async def body() -> None:
        await _joined(one, other)
        for _ in range(2):
            await netlink.address(one, "a", addresses=["198.18.3.1/32", "fd00::3/128"], routes=["0.0.0.0/0", "::/0"])

    asyncio.run(body())


def test_a_link_that_is_up_says_nothing_of_its_own(pair: tuple[Namespace, Namespace]) -> None:
    one, other = pair

    async def body() -> None:
        await _joined(one, other)
        for space, name, number in ((one, "a", 1), (other, "b", 2)):
            # As a tunnel's device: nothing to resolve on it, nobody to join.
            await netlink.within(
                space, lambda ip, name=name: ip.link("set", index=ip.link_lookup(ifname=name)[0], arp=False)
            )
            await netlink.address(space, name, addresses=[f"198.18.3.{number}/24", f"fd00::{number}/64"], routes=[])
        await asyncio.sleep(2.5)
        assert netlink.count(one, "a") == PacketCount(0, 0)

    asyncio.run(body())


def test_packets_are_counted_and_a_missing_link_is_none(pair: tuple[Namespace, Namespace]) -> None:
    one, other = pair

    async def body() -> None:
        await _joined(one, other)
        await netlink.address(one, "a", addresses=["198.18.3.1/24"], routes=[])
        await netlink.address(other, "b", addresses=["198.18.3.2/24"], routes=[])
        assert netlink.count(one, "none") is None
        before = netlink.count(one, "a")
        with one.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            with pytest.raises(ConnectionRefusedError):
                sock.connect(("198.18.3.2", 9))
        after = netlink.count(one, "a")
        assert after.sent > before.sent
        assert after.received > before.received
        await netlink.delete(one, "a")
        await netlink.delete(one, "a")
        assert netlink.count(one, "a") is None
        assert netlink.count(other, "b") is None

    asyncio.run(body())


def test_what_the_kernel_refuses_is_an_error_with_its_number(pair: tuple[Namespace, Namespace]) -> None:
    one, _ = pair

    async def body() -> None:
        with pytest.raises(netlink.NetlinkRefused) as caught:
            await netlink.within(one, lambda ip: ip.link("set", index=4711, state="up"))
        assert caught.value.errno == errno.ENODEV
        with pytest.raises(FileNotFoundError):
            await netlink.address(one, "none", addresses=[], routes=[])

    asyncio.run(body())


def test_the_callers_namespace_is_left_alone(links: Any) -> None:
    here = os.stat("/proc/thread-self/ns/net").st_ino
    home = Namespace.current()
    made = Namespace.create()
    try:
        before = links(home)
        asyncio.run(netlink.prepare(made))
        assert os.stat("/proc/thread-self/ns/net").st_ino == here
        assert links(home) == before
    finally:
        home.close()
        made.close()


def test_a_link_is_made_where_it_belongs_and_its_outer_side_where_it_was_asked_for(
    pair: tuple[Namespace, Namespace], links: Any
) -> None:
    """With a veth: as WireGuard's socket, its peer is in the namespace of who asked."""
    one, other = pair
    asyncio.run(netlink.make("inner", one, other, kind="veth", peer={"ifname": "outer"}))
    assert (links(one), links(other)) == ({"lo", "outer"}, {"lo", "inner"})


def test_who_is_cancelled_waits_for_what_is_under_way(pair: tuple[Namespace, Namespace]) -> None:
    one, _ = pair
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def job() -> None:
        begun.set()
        go_on.wait(20)
        order.append("job")

    async def works() -> None:
        try:
            await netlink.elsewhere(one, job)
        finally:
            order.append("undone")

    async def body() -> None:
        task = asyncio.ensure_future(works())
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        await asyncio.sleep(0.05)
        assert order == []
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    assert order == ["job", "undone"]
