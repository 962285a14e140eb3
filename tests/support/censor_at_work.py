"""A censor that is put on the way of a standing lab, and taken off again, with its two workers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from standing_lab import StandingLab

from vpntest.lab import vpn
from vpntest.lab.censor import compile_rules
from vpntest.lab.internet import LIE, PUBLIC_RESOLVER
from vpntest.lab.network import Daemon
from vpntest.lab.rules import Rule

WITNESS = PUBLIC_RESOLVER
"""An address behind the censor on which tests may open any port but 53; `public` in rules."""
SOON = 0.3
"""Seconds after which what has not come will not come: the line has no delay."""


@contextlib.contextmanager
def at_work(lab: StandingLab, *rules: Rule) -> Iterator[None]:
    """The lab's router follows these rules for the body, and no others: whoever was at work before is at an end.

    Lies are not among what it can follow.
    """
    network = lab.lab.network
    _stop(lab)
    hosts = {host.name: host.addresses for host in vpn.HOSTS} | {"public": (WITNESS,)}
    program = compile_rules(rules, lab.lab.web.addresses | hosts, LIE)
    workers = _workers[id(lab)] = list[Daemon]()
    try:
        if program.iptables:
            network.run("censor", ["iptables-nft-restore"], program.iptables)
        network.run("censor", ["nft", "-f", "-"], program.nftables)
        network.sysctl("censor", {"net/netfilter/nf_conntrack_acct": "1"})
        lab.runner.run(_start(lab, program.inspector, program.interceptor, workers))
        yield
    finally:
        if _workers.get(id(lab)) is workers:
            _stop(lab)


_workers: dict[int, list[Daemon]] = {}


def _stop(lab: StandingLab) -> None:
    for worker in _workers.pop(id(lab), ()):
        lab.runner.run(worker.stop())
    lab.lab.network.run("censor", ["nft", "flush", "ruleset"], "")


async def _start(lab: StandingLab, inspector: str | None, interceptor: str | None, workers: list[Daemon]) -> None:
    async with asyncio.timeout(20):
        for name, text in (("inspector", inspector), ("interceptor", interceptor)):
            if text is not None:
                file = lab.lab.directory / f"{name}.test.json"
                file.write_text(text)
                command = [sys.executable, "-m", f"vpntest.lab.{name}", str(file)]
                workers.append(lab.lab.network.start("censor", command, cwd=Path(__file__).parents[2]))
                await workers[-1].says("ready")


def hello(name: str | None) -> bytes:
    """A ClientHello as OpenSSL makes it."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    speaking = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        speaking.do_handshake()
    return outgoing.read()


@contextlib.contextmanager
def conversation(
    lab: StandingLab, port: int = 443, host: str = "public", address: str = WITNESS
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends, the client's first, of a TCP connection to a port that nothing else has. Neither waits for long."""
    with lab.lab.network[host].socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()
        listening.settimeout(3)
        with lab.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as far:
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.settimeout(3)
            far.connect((address, port))
            near, _ = listening.accept()
            with near:
                far.settimeout(SOON)
                near.settimeout(SOON)
                yield far, near


def got(receiver: socket.socket, at_least: int = 1) -> bytes | None:
    """What arrives until there is as much as that, or no more comes; None where there was a reset."""
    arrived = b""
    while len(arrived) < at_least:
        try:
            piece = receiver.recv(65536)
        except TimeoutError:
            break
        except OSError:
            return None
        if not piece:
            break
        arrived += piece
    return arrived


def flowing(sender: socket.socket, receiver: socket.socket, seconds: float = 4) -> float:
    """Bytes per second, once the first 30,000 are through."""
    sender.setblocking(False)
    receiver.settimeout(5)
    load, moved, begun, counted = bytes(65536), 0, 0.0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and moved < 5_000_000:
        with contextlib.suppress(BlockingIOError):
            sender.send(load)
        moved += len(receiver.recv(1 << 20))
        if not begun and moved > 30_000:
            begun, counted = time.monotonic(), moved
    assert begun
    return (moved - counted) / (time.monotonic() - begun)


class Datagrams:
    """A UDP flow between the client and a port behind the censor."""

    def __init__(self, lab: StandingLab, port: int, host: str = "public", address: str = WITNESS) -> None:
        self.near = lab.lab.network[host].socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.near.bind((address, port))
        self.far = lab.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.far.connect((address, port))
        self.client = self.far.getsockname()

    def __enter__(self) -> Datagrams:
        return self

    def __exit__(self, *_: object) -> None:
        self.near.close()
        self.far.close()

    def up(self, *packets: bytes) -> int:
        """How many of these reach the server."""
        for packet in packets:
            self.far.send(packet)
        return self._count(self.near, len(packets))

    def down(self, *packets: bytes) -> int:
        """How many of these reach the client."""
        for packet in packets:
            self.near.sendto(packet, self.client)
        return self._count(self.far, len(packets))

    def _count(self, receiver: socket.socket, sent: int) -> int:
        receiver.settimeout(SOON)
        count = 0
        while count < sent:
            try:
                receiver.recv(4096)
            except TimeoutError:
                break
            count += 1
        return count
