"""What really went over a host's wire: tcpdump, and nothing of ours in between."""

from __future__ import annotations

import contextlib
import secrets
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from censor_at_work import SOON
from standing_lab import StandingLab

from vpntest.lab.inspector import Packet, parse


@dataclass(frozen=True)
class Overheard:
    """An IPv4 packet."""

    at: float
    """Seconds since the epoch."""
    raw: bytes

    @property
    def length(self) -> int:
        """Bytes, its own header included and Ethernet's left out."""
        return int.from_bytes(self.raw[2:4])

    @property
    def segment(self) -> Packet:
        """Where it is TCP or UDP, and whole."""
        found = parse(self.raw)
        assert found is not None
        return found

    @property
    def untouched(self) -> bytes:
        """All that a router leaves as it is: TTL and the header's checksum left out."""
        return self.raw[:8] + self.raw[9:10] + self.raw[12 : self.length]


@contextlib.contextmanager
def overhearing(lab: StandingLab, host: str, expression: str, *, after: float = SOON) -> Iterator[list[Overheard]]:
    """What passes on a host's wire while the body runs, and for so long after; the list is filled then."""
    file = lab.lab.directory / f"tap-{secrets.token_hex(4)}.pcap"
    packets: list[Overheard] = []
    with lab.lab.network[host].entered():
        tap = subprocess.Popen(
            ["tcpdump", "-i", "eth0", "-n", "-U", "--immediate-mode", "-Z", "root", "-w", str(file), expression],
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        assert tap.stderr is not None
        assert "listening" in tap.stderr.readline()
        yield packets
        time.sleep(after)
    finally:
        tap.terminate()
        tap.communicate()
    packets += _read(file.read_bytes())


def _read(pcap: bytes) -> Iterator[Overheard]:
    """From a file of little-endian pcap with microseconds (draft-ietf-opsawg-pcap), of Ethernet."""
    assert pcap.startswith(bytes.fromhex("d4c3b2a1"))
    at = 24
    while at < len(pcap):
        seconds, fraction, held, _ = struct.unpack_from("<IIII", pcap, at)
        yield Overheard(seconds + fraction / 1e6, pcap[at + 16 + 14 : at + 16 + held])
        at += 16 + held


@dataclass
class Crossing:
    """The packets of the client's TCP connections with an address that got across the censor."""

    up: list[Overheard] = field(default_factory=list)
    down: list[Overheard] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Both directions together."""
        return len(self.up) + len(self.down)


@contextlib.contextmanager
def crossing(lab: StandingLab, host: str, address: str) -> Iterator[Crossing]:
    """Likewise, each packet seen where it is received. `address` is the host's."""
    seen = Crossing()
    with (
        overhearing(lab, host, f"tcp and src net 198.19.0.0/16 and dst host {address}", after=0) as up,
        overhearing(lab, "client", f"tcp and src host {address}") as down,
    ):
        yield seen
    seen.up, seen.down = up, down
