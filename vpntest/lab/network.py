"""The lab's wires: hosts in namespaces of their own, on one switch behind the censor, and the programs on them."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpntest.errors import CannotMeasure
from vpntest.lab.rules import Line
from vpntest.tunnel.cage import Cage, Process
from vpntest.tunnel.carriers import path_of_programs
from vpntest.tunnel.namespace import Namespace

CLIENT = ("198.19.0.2", "fd00:19::2")
"""The client's addresses."""
GATEWAY = ("198.19.0.1", "fd00:19::1")
"""The censor's addresses on the client's line."""
_BORDER = ("198.18.0.1", "fd00:18::1")
"""The censor's addresses on the switch."""

_ABOVE_US = Path(__file__).parents[2]
_FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}

_SIOCETHTOOL = 0x8946
_OFFLOADS = (0x1F, 0x24, 0x2C)
"""`ETHTOOL_STSO`, `ETHTOOL_SGSO`, `ETHTOOL_SGRO` of linux/ethtool.h."""


@dataclass(frozen=True)
class Host:
    """One machine on the switch. Its first address is the one that it speaks from."""

    name: str
    addresses: tuple[str, ...]
    address6: str | None = None
    forwards: bool = False
    """A VPN server: what comes out of its tunnels leaves under its own address."""


def program(name: str) -> str:
    """Path of a program, also where PATH lacks the sbin directories. Raises CannotMeasure where there is none."""
    found = shutil.which(name, path=path_of_programs())
    if found is None:
        raise CannotMeasure(f"the lab needs the program {name}, which is not on this machine")
    return found


class Network:
    """Namespaces, wires and programs of a lab; everything in it goes when it is closed."""

    def __init__(self, cage: Cage | None) -> None:
        """Without a cage no program can be started on it."""
        self._cage = cage
        self._namespaces: dict[str, Namespace] = {}
        self._daemons: list[Daemon] = []

    def __getitem__(self, name: str) -> Namespace:
        """The namespace of a host, or of `client`, `censor`, `core`."""
        return self._namespaces[name]

    def wire(self, hosts: Sequence[Host]) -> None:
        """Makes the namespaces and links them. Raises CannotMeasure where the kernel or `ip` refuses."""
        names = [host.name for host in hosts]
        try:
            for name in ("core", "censor", "client", *names):
                self._namespaces[name] = Namespace.create()
        except OSError as fault:
            raise CannotMeasure(f"the lab needs network namespaces: {fault.strerror}") from fault
        # Each leg is created where it belongs: moving a link costs the kernel 20 ms.
        legs = [
            f"link add name {name} type veth peer name eth0 netns {self._path(name)}\nlink set dev {name} master br0 up"
            for name in ("censor", *names)
        ]
        self.ip("core", "link add br0 type bridge", "link set br0 up", *legs)
        self.ip("censor", f"link add client type veth peer name eth0 netns {self._path('client')}")
        # A packet must be a packet: with offloads one of them is up to 64 KiB, and no published budget of packets fits.
        self._no_offloads("core", ["censor", *names])
        self._no_offloads("censor", ["client", "eth0"])
        for host in hosts:
            self._wire_host(host)
        self.sysctl("censor", _FORWARDING)
        self.ip(
            "censor",
            f"addr add {_BORDER[0]}/16 dev eth0",
            f"addr add {_BORDER[1]}/64 dev eth0 nodad",
            f"addr add {GATEWAY[0]}/24 dev client",
            f"addr add {GATEWAY[1]}/64 dev client nodad",
            "link set eth0 up",
            "link set client up",
        )
        self._plain_tcp("client")
        self._no_offloads("client", ["eth0"])
        self.ip(
            "client",
            "link set lo up",
            f"addr add {CLIENT[0]}/24 dev eth0",
            f"addr add {CLIENT[1]}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {GATEWAY[0]}",
            f"route add ::/0 via {GATEWAY[1]}",
        )

    def condition(self, line: Line) -> None:
        """Makes the client's line lossy, narrow or slow, on the censor's two legs and apart from its rules.

        Raises CannotMeasure where the kernel cannot.
        """
        if line.loss_percent:
            # Where packets come in: none is lost twice, and none that the censor itself sends ends in an error there.
            # Neighbours must find each other all the same: that is no matter of the line.
            lost = f"numgen random mod 100000 < {round(line.loss_percent * 1000)} drop"
            chains = [
                f'chain {name} {{ type filter hook ingress device "{device}" priority 0;\n'
                f"icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n"
                f"meta protocol {{ ip, ip6 }} {lost}\n}}"
                for name, device in (("up", "client"), ("down", "eth0"))
            ]
            self.run("censor", ["nft", "-f", "-"], "\n".join(("table netdev line {", *chains, "}", "")))
        if line.mtu < 1500 and not line.icmp:
            # Where packets come in, as above; there their length is without Ethernet's.
            chains = [
                f'chain {name} {{ type filter hook ingress device "{device}" priority 1;\n'
                f"meta protocol {{ ip, ip6 }} meta length > {line.mtu} drop\n}}"
                for name, device in (("up", "client"), ("down", "eth0"))
            ]
            self.run("censor", ["nft", "-f", "-"], "\n".join(("table netdev hole {", *chains, "}", "")))
            clamps = [
                f"meta nfproto {family} tcp flags syn tcp option maxseg size set {line.mtu - headers}"
                for family, headers in (("ipv4", 40), ("ipv6", 60))
            ]
            hook = "chain clamp { type filter hook forward priority mangle;"
            self.run("censor", ["nft", "-f", "-"], "\n".join(("table inet hole {", hook, *clamps, "}", "}", "")))
        elif line.mtu < 1500:
            # The routes', not the devices': a veth drops what is too long for it, and says nothing.
            self.ip(
                "censor",
                *(
                    f"route replace {network} dev {device} proto kernel {metric} mtu {line.mtu}"
                    for network, device, metric in (
                        ("198.19.0.0/24", "client", "scope link"),
                        ("198.18.0.0/16", "eth0", "scope link"),
                        ("fd00:19::/64", "client", "metric 256"),
                        ("fd00:18::/64", "eth0", "metric 256"),
                    )
                ),
            )
        if line.kbit_per_second:
            # 200 ms of waiting is what the access networks' own buffers have, give or take.
            bucket = f"tbf rate {line.kbit_per_second}kbit burst 16kb latency 200ms"
            self.run(
                "censor",
                ["tc", "-batch", "-"],
                "".join(f"qdisc add dev {leg} root {bucket}\n" for leg in ("client", "eth0")),
            )

    def relay(self, name: str, relays: Mapping[str, str]) -> None:
        """Makes a host pass all TCP that comes for some of its addresses on to other hosts, and their answers back."""
        leads = "\n".join(f"ip daddr {relay} meta l4proto tcp dnat to {to}" for relay, to in relays.items())
        self.sysctl(name, _FORWARDING)
        self.run(
            name,
            ["nft", "-f", "-"],
            f"""\
table ip relay {{
chain lead {{ type nat hook prerouting priority dstnat;
{leads}
}}
chain hide {{ type nat hook postrouting priority srcnat;
ct status dnat masquerade
}}
}}
""",
        )

    def lead_to_portal(self, portal: str, resolver: str) -> None:
        """Leads the client's questions to one resolver and its web to one server; nothing else of it passes."""
        self.run(
            "censor",
            ["nft", "-f", "-"],
            f"""\
table ip portal {{
chain lead {{ type nat hook prerouting priority dstnat;
iifname "client" meta l4proto {{ tcp, udp }} th dport 53 dnat to {resolver}
iifname "client" tcp dport {{ 80, 443 }} dnat to {portal}
}}
}}
table inet held {{
chain hold {{ type filter hook forward priority filter;
ct state established accept
ip daddr {resolver} meta l4proto {{ tcp, udp }} th dport 53 accept
ip daddr {portal} tcp dport {{ 80, 443 }} accept
drop
}}
}}
""",
        )

    def silence(self, name: str, addresses: Sequence[str]) -> None:
        """Lets nothing that is sent to these addresses of a host arrive."""
        every = ", ".join(addresses)
        self.run(
            name,
            ["nft", "-f", "-"],
            "table ip silent {\nchain ignore { type filter hook input priority filter;\n"
            f"ip daddr {{ {every} }} drop\n}}\n}}\n",
        )

    def run(self, name: str, argv: Sequence[str], text: str) -> None:
        """Runs one short program on a host, with `text` as its input. Raises CannotMeasure where it fails."""
        with self[name].entered():
            done = subprocess.run([program(argv[0]), *argv[1:]], input=text, capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotMeasure(f"the lab's {name}: {argv[0]} failed: {' / '.join(done.stderr.splitlines()[:3])}")

    def ip(self, name: str, *lines: str) -> None:
        """Runs `ip` commands on a host, the word `ip` left out."""
        self.run(name, ["ip", "-batch", "-"], "\n".join(lines) + "\n")

    def sysctl(self, name: str, values: Mapping[str, str]) -> None:
        """Sets kernel parameters of a host, by their paths below /proc/sys. Raises CannotMeasure where that fails."""
        with self[name].entered():
            for key, value in values.items():
                try:
                    Path("/proc/sys", key).write_text(value)
                except OSError as fault:
                    raise CannotMeasure(f"the lab's {name}: this kernel has no {key} ({fault.strerror})") from fault

    def start(self, name: str, argv: Sequence[str], *, cwd: Path | None = None) -> Daemon:
        """Starts a server program on a host."""
        assert self._cage is not None
        process = self._cage.spawn([program(argv[0]), *argv[1:]], self[name], cwd=cwd)
        # Of this package it is the module that one knows it by, and not the interpreter.
        called = argv[2].rpartition(".")[2] if argv[1:2] == ["-m"] else process.program
        self._daemons.append(Daemon(name, called, process))
        return self._daemons[-1]

    def start_own(self, name: str, module: str, *arguments: str) -> Daemon:
        """Starts a program of this package on a host, by its module's name."""
        return self.start(name, [sys.executable, "-m", f"vpntest.lab.{module}", *arguments], cwd=_ABOVE_US)

    async def check(self) -> None:
        """Raises CannotMeasure where the network is not what it was made to be: a program has ended, whose last words
        are told, or a worker on a packet queue was not shown every packet.
        """
        await self._check_programs()
        for name, namespace in self._namespaces.items():
            with namespace.entered():
                unseen = _unseen()
            if unseen:
                raise CannotMeasure(f"the lab's {name} lost {unseen} packets that its worker was to look at")

    async def _check_programs(self) -> None:
        for daemon in self._daemons:
            await daemon.check()

    async def until(self, true: Callable[..., Awaitable[bool]], name: str, *arguments: object) -> None:
        """Asks `true(namespace of a host, …)` again and again until it is.

        Raises CannotMeasure where a server has ended meanwhile; for ever it asks only as long as its caller lets it.
        """
        while True:
            await self._check_programs()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(0.5):
                    if await true(self[name], *arguments):
                        return
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Stops every program and lets go of every namespace. Safe to call again."""
        await asyncio.gather(*(daemon.stop() for daemon in self._daemons))
        for namespace in self._namespaces.values():
            namespace.close()

    def _wire_host(self, host: Host) -> None:
        self._plain_tcp(host.name)
        self._no_offloads(host.name, ["eth0"])
        lines = ["link set lo up", *(f"addr add {address}/16 dev eth0" for address in host.addresses)]
        if host.address6:
            lines.append(f"addr add {host.address6}/64 dev eth0 nodad")
        lines += ["link set eth0 up", f"route add 198.19.0.0/24 via {_BORDER[0]} src {host.addresses[0]}"]
        if host.address6:
            lines.append(f"route add fd00:19::/64 via {_BORDER[1]}")
        self.ip(host.name, *lines)
        if host.forwards:
            self.sysctl(host.name, _FORWARDING)
            self.run(
                host.name,
                ["nft", "-f", "-"],
                "table inet exit { chain out { type nat hook postrouting priority srcnat;\n"
                ' oifname "eth0" masquerade\n}\n}\n',
            )

    def _path(self, name: str) -> str:
        return f"/proc/{os.getpid()}/fd/{self[name].fileno()}"

    def _plain_tcp(self, name: str) -> None:
        # BBR, some kernels' default, takes a policer's rate for the line's and overshoots it by a tenth. A kernel whose
        # default it is may keep cubic from namespaces; reno is allowed everywhere.
        with self[name].entered():
            for control in ("cubic", "reno"):
                with contextlib.suppress(OSError):
                    Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(control)
                    return

    def _no_offloads(self, name: str, devices: Sequence[str]) -> None:
        with self[name].socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for device in devices:
                for command in _OFFLOADS:
                    order = array.array("I", (command, 0))
                    fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", device.encode(), order.buffer_info()[0]))


def _unseen() -> int:
    """Packets that the queues of this thread's namespace had no room for, or their workers no memory."""
    try:
        queues = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text().splitlines()
    except FileNotFoundError:
        # A kernel that has not needed a queue yet.
        return 0
    # queue_dropped and user_dropped (linux/net/netfilter/nfnetlink_queue.c, seq_show).
    return sum(int(count) for queue in queues for count in queue.split()[5:7])


async def refuses(netns: Namespace, address: str) -> bool:
    """Whether a machine is there, and says that it has nothing at TCP port 9."""
    try:
        return not await connects(netns, address, 9)
    except ConnectionRefusedError:
        return True


async def connects(netns: Namespace, address: str, port: int) -> bool:
    """Whether a TCP port takes connections."""
    with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        await asyncio.get_running_loop().sock_connect(asking, (address, port))
    return True


_READY = "ready"
"""What this package's own programs say once they serve."""


class Daemon:
    """One server program of the lab, in the foreground. Its output is read all the time, and the end of it kept."""

    def __init__(self, host: str, called: str, process: Process) -> None:
        self._process = process
        self._called = called
        self._host = host
        self._said: deque[str] = deque(maxlen=200)
        self._news = asyncio.Event()
        self._ended = False
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for line in self._process.lines():
            self._said.append(line)
            self._news.set()
        self._ended = True
        self._news.set()

    async def says(self, words: str) -> None:
        """Waits until a line of its output holds `words`. Raises CannotMeasure where it ends before."""
        while not any(words in line for line in self._said):
            await self.check()
            self._news.clear()
            await self._news.wait()

    async def check(self) -> None:
        """Raises CannotMeasure, with its last words, where it has ended."""
        if self._ended or not self._process.running():
            # What it said is in the pipe, and may not have been read yet.
            await asyncio.wait([self._reader], timeout=0.5)
            words = " / ".join([line for line in self._said if line != _READY][-3:]) or "without a word"
            raise CannotMeasure(f"the lab's {self._called} on {self._host} ended: {words}")

    @property
    def pid(self) -> int:
        """As this process sees it."""
        return self._process.pid

    async def stop(self) -> None:
        """Ends it. Safe to call again."""
        await self._process.stop()
        # Not to its end: a child that outlives its parent keeps the pipe open.
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._ended = True
