"""The lab's wires, and the programs on them."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator

import pytest

from vpntest.errors import CannotMeasure
from vpntest.lab.network import CLIENT, Host, Network, connects, program
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace

pytestmark = pytest.mark.root

A = Host("a", ("198.18.7.1", "198.18.7.2"), "fd00:18::7")
B = Host("b", ("198.18.7.3",), forwards=True)
GET_OFFLOADS = {"tso": 0x1E, "gso": 0x23, "gro": 0x2B}


@pytest.fixture
def cage() -> Iterator[Cage]:
    with contextlib.closing(Cage.open()) as cage:
        yield cage


@contextlib.contextmanager
def wired(cage: Cage) -> Iterator[tuple[Network, asyncio.Runner]]:
    with asyncio.Runner() as runner:
        network = Network(cage)
        try:
            network.wire((A, B))
            yield network, runner
        finally:
            runner.run(network.close())


def sent(sender: Namespace, receiver: Namespace, address: str, family: socket.AddressFamily) -> str:
    """Sends a datagram; who sent it, as the receiver sees it."""
    with receiver.socket(family, socket.SOCK_DGRAM) as there, sender.socket(family, socket.SOCK_DGRAM) as here:
        there.bind((address, 9))
        there.settimeout(3)
        here.sendto(b"hello", (address, 9))
        return str(there.recvfrom(16)[1][0])


def test_client_and_hosts_reach_each_other_and_nothing_else(cage: Cage) -> None:
    with wired(cage) as (network, _):
        assert sent(network["client"], network["a"], "198.18.7.2", socket.AF_INET) == CLIENT[0]
        assert sent(network["client"], network["a"], "fd00:18::7", socket.AF_INET6) == CLIENT[1]
        # A host speaks from its first address.
        assert sent(network["a"], network["client"], CLIENT[0], socket.AF_INET) == "198.18.7.1"
        assert sent(network["b"], network["a"], "198.18.7.1", socket.AF_INET) == "198.18.7.3"
        with (
            network["a"].socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
            pytest.raises(OSError, match="unreachable"),
        ):
            here.sendto(b"hello", ("192.0.2.1", 9))


def test_a_packet_is_a_packet(cage: Cage) -> None:
    with wired(cage) as (network, _):
        for name, device in (
            ("client", "eth0"),
            ("censor", "client"),
            ("censor", "eth0"),
            ("core", "a"),
            ("a", "eth0"),
        ):
            with network[name].socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                for offload, command in GET_OFFLOADS.items():
                    value = array.array("I", (command, 7))
                    fcntl.ioctl(control, 0x8946, struct.pack("16sP16x", device.encode(), value.buffer_info()[0]))
                    assert value[1] == 0, (name, device, offload)


def test_a_command_that_fails_says_where_and_why(cage: Cage) -> None:
    with wired(cage) as (network, _), pytest.raises(CannotMeasure, match=r"the lab's a: ip failed: .*nowhere"):
        network.ip("a", "link set nowhere up")


def test_a_kernel_without_the_parameter_says_so(cage: Cage) -> None:
    with wired(cage) as (network, _), pytest.raises(CannotMeasure, match="the lab's a: this kernel has no net/nothing"):
        network.sysctl("a", {"net/nothing": "1"})


def test_a_server_that_ends_takes_the_waiting_with_it(cage: Cage) -> None:
    with wired(cage) as (network, runner):

        async def waiting() -> None:
            network.start("a", ["sh", "-c", "echo bad news >&2; exit 1"])
            await asyncio.wait_for(network.until(connects, "client", "198.18.7.1", 80), 10)

        with pytest.raises(CannotMeasure, match="the lab's sh on a ended: bad news"):
            runner.run(waiting())


def test_until_it_says_so(cage: Cage) -> None:
    with wired(cage) as (network, runner):

        async def started() -> None:
            daemon = network.start("a", ["sh", "-c", "echo starting; sleep 0.1; echo all is ready; sleep 60"])
            await asyncio.wait_for(daemon.says("is ready"), 10)
            await daemon.check()
            await daemon.stop()
            await daemon.stop()
            with pytest.raises(CannotMeasure):
                await daemon.check()

        runner.run(started())


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(CannotMeasure, match="the program no-such-program"):
        program("no-such-program")
