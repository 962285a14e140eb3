"""The lab's wires, and the programs on them."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from vpntest.errors import CannotMeasure
from vpntest.lab.network import CLIENT, GATEWAY, Host, Network, connects, program, refuses
from vpntest.lab.rules import Line
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace

pytestmark = pytest.mark.root

A = Host("a", ("198.18.7.1", "198.18.7.2"), "fd00:18::7")
B = Host("b", ("198.18.7.3",), forwards=True)
IP_MTU = 14
"""linux/in.h; Python has no name for it."""
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


# ── the client's line ────────────────────────────────────────────────────────────────────────────────────────────────

CLIENT_HERE, A_THERE = ("client", CLIENT[0]), ("a", A.addresses[0])
DIRECTIONS = {"up": (CLIENT_HERE, A_THERE), "down": (A_THERE, CLIENT_HERE)}


@pytest.mark.parametrize("way", DIRECTIONS)
def test_packets_are_lost_by_chance(cage: Cage, way: str) -> None:
    (sender, _), (receiver, address) = DIRECTIONS[way]
    with wired(cage) as (network, _):
        network.condition(Line(loss_percent=20))
        with (
            network[receiver].socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
            network[sender].socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        ):
            there.bind((address, 9))
            there.settimeout(0.1)
            arrived = 0
            for _ in range(10):
                for _ in range(100):
                    here.sendto(b"hello", (address, 9))
                with contextlib.suppress(TimeoutError):
                    while there.recv(16):
                        arrived += 1
    # Five standard deviations about 800.
    assert 735 < arrived < 865


@pytest.mark.parametrize("way", DIRECTIONS)
def test_a_narrow_line_says_how_narrow_it_is(cage: Cage, way: str) -> None:
    (sender, source), (receiver, address) = DIRECTIONS[way]
    with wired(cage) as (network, _):
        network.condition(Line(mtu=1280))
        with (
            network[receiver].socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
            network[sender].socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        ):
            there.bind((address, 9))
            there.settimeout(3)
            here.bind((source, 9))
            here.connect((address, 9))
            here.send(bytes(1280 - 28))
            assert len(there.recv(2000)) == 1280 - 28
            # Too long, and not to be cut: it is lost, and its sender is told.
            here.send(bytes(1281 - 28))
            deadline = time.monotonic() + 3
            while here.getsockopt(socket.IPPROTO_IP, IP_MTU) != 1280 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert here.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1280
            assert here.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE
            # From now on the kernel cuts, and it arrives whole.
            here.send(bytes(1400))
            assert len(there.recv(2000)) == 1400


@pytest.mark.parametrize(("family", "number"), [(socket.AF_INET, 0), (socket.AF_INET6, 1)])
@pytest.mark.parametrize("way", DIRECTIONS)
def test_a_narrow_line_lets_long_transfers_through(
    cage: Cage, way: str, family: socket.AddressFamily, number: int
) -> None:
    with wired(cage) as (network, _):
        network.condition(Line(mtu=1280))
        moved(network, family, (A.addresses[0], A.address6 or "")[number], way == "up", 1 << 20)


@pytest.mark.parametrize("way", DIRECTIONS)
def test_a_black_hole_says_nothing_and_lets_tcp_through(cage: Cage, way: str) -> None:
    (sender, source), (receiver, address) = DIRECTIONS[way]
    with wired(cage) as (network, _):
        network.condition(Line(mtu=1400, icmp=False))
        with (
            network[receiver].socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
            network[sender].socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        ):
            there.bind((address, 9))
            there.settimeout(0.5)
            here.bind((source, 9))
            here.connect((address, 9))
            here.send(bytes(1400 - 28))
            assert len(there.recv(2000)) == 1400 - 28
            for _ in range(3):
                here.send(bytes(1401 - 28))
            with pytest.raises(TimeoutError):
                there.recv(2000)
            assert here.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1500
        for family, far in ((socket.AF_INET, A.addresses[0]), (socket.AF_INET6, A.address6 or "")):
            assert moved(network, family, far, way == "up", 1 << 20) < 5


@pytest.mark.parametrize("way", DIRECTIONS)
def test_a_slow_line_keeps_to_its_rate(cage: Cage, way: str) -> None:
    with wired(cage) as (network, _):
        network.condition(Line(kbit_per_second=2000))
        size = 500_000
        seconds = moved(network, socket.AF_INET, A.addresses[0], way == "up", size)
    # 40 bytes of headers in 1500; what stands in the bucket at the start passes at once.
    assert 0.7 < size * 8 / 1000 / seconds / 2000 < 1.05


def test_an_ordinary_line_is_left_alone(cage: Cage) -> None:
    with wired(cage) as (network, _):
        network.condition(Line())
        assert moved(network, socket.AF_INET, A.addresses[0], True, 1 << 22) < 2


def moved(network: Network, family: socket.AddressFamily, address: str, up: bool, size: int) -> float:
    """Moves so many bytes over TCP between the client and host `a`; the seconds until the last one is there."""
    with network["a"].socket(family, socket.SOCK_STREAM) as listening:
        listening.bind((address, 9))
        listening.listen()
        with network["client"].socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(20)
            client.connect((address, 9))
            server, _ = listening.accept()
            with server:
                server.settimeout(20)
                source, sink = (client, server) if up else (server, client)
                begun = time.monotonic()
                sending = threading.Thread(target=source.sendall, args=(bytes(size),))
                sending.start()
                left = size
                while left:
                    left -= len(sink.recv(1 << 16))
                sending.join()
                return time.monotonic() - begun


def test_a_silent_address_answers_nothing_and_its_neighbour_does(cage: Cage) -> None:
    with wired(cage) as (network, runner):
        network.silence("a", [A.addresses[1]])
        with network["a"].socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.bind(("0.0.0.0", 9))
            listening.listen()
            assert runner.run(connects(network["client"], A.addresses[0], 9))
            with pytest.raises(TimeoutError):
                runner.run(asyncio.wait_for(connects(network["client"], A.addresses[1], 9), 0.5))


# ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_machine_without_a_server_says_so(cage: Cage) -> None:
    with wired(cage) as (network, runner):
        assert runner.run(refuses(network["client"], GATEWAY[0]))
        with pytest.raises(TimeoutError):
            runner.run(asyncio.wait_for(refuses(network["client"], "198.19.0.7"), 0.5))


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


def test_a_program_that_ends_later_is_missed_by_its_name(cage: Cage) -> None:
    with wired(cage) as (network, runner):

        async def killed() -> None:
            daemon = network.start("a", [sys.executable, "-m", "http.server", "--bind", A.addresses[0]])
            await asyncio.wait_for(network.until(connects, "client", A.addresses[0], 8000), 30)
            await network.check()
            os.kill(daemon.pid, signal.SIGKILL)
            with pytest.raises(CannotMeasure, match="the lab's server on a ended"):
                await asyncio.wait_for(network.until(connects, "client", A.addresses[0], 9), 10)
            await network.check()

        with pytest.raises(CannotMeasure, match="the lab's server on a ended"):
            runner.run(killed())


IDLE = """\
import time
from netfilterqueue import NetfilterQueue
queue = NetfilterQueue()
queue.bind(0, lambda packet: packet.accept(), 2)
print("ready", flush=True)
time.sleep(600)
"""


def test_packets_that_a_worker_was_not_shown_are_missed(cage: Cage) -> None:
    with wired(cage) as (network, runner):

        async def overrun() -> None:
            worker = network.start("a", [sys.executable, "-c", IDLE])
            await asyncio.wait_for(worker.says("ready"), 30)
            rules = "*filter\n-A INPUT -p udp --dport 9 -j NFQUEUE --queue-num 0 --queue-bypass\nCOMMIT\n"
            network.run("a", ["iptables-nft-restore"], rules)
            with network["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
                for _ in range(2):
                    sending.sendto(b"held", (A.addresses[0], 9))
                await network.check()
                for _ in range(3):
                    sending.sendto(b"lost", (A.addresses[0], 9))
            await network.check()

        with pytest.raises(CannotMeasure, match="the lab's a lost 3 packets that its worker was to look at"):
            runner.run(overrun())


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
