"""A place to measure from: the line itself (`outside`), or one live tunnel.

A vantage opens sockets in its network namespace and knows who resolves names there. Everything above takes sockets
from it and is the same code for every vantage.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from vpntest.plan.model import OUTSIDE as OUTSIDE
from vpntest.tunnel.ladder import Step
from vpntest.tunnel.namespace import Namespace, shortage


@dataclass(frozen=True)
class PacketCount:
    """Packets that a tunnel's own device has carried since it was raised."""

    received: int
    sent: int


@dataclass
class Vantage:
    """A place to measure from. Lives as long as its namespace does."""

    id: str
    """`outside`, or the tunnel's name."""
    netns: Namespace
    resolver: str
    """Address of the resolver that a client at this vantage would use."""
    steps: tuple[Step, ...] = ()
    """The rungs climbed while raising; empty for `outside`."""
    answers_locally: bool = False
    """True where a proxy's TUN completes every TCP connect itself, so that only a first byte proves anything."""
    carries_udp: bool = True
    """False where the tunnel takes TCP only: names are asked for over TCP, and QUIC and STUN are not tried."""
    count_packets: Callable[[], PacketCount | None] = field(default=lambda: None)
    """Reads the tunnel device's counters; None where there is no such device (`outside`)."""
    alive: Callable[[], bool] = field(default=lambda: True)
    """Whether the carrier still runs."""

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A non-blocking socket of this vantage; its packets take the vantage's way and no other.

        Raises OSError where the kernel has no such socket to give, CannotMeasure where this box has run out of them.
        """
        try:
            made = self.netns.socket(family, kind)
        except OSError as exc:
            if lack := shortage(exc):
                raise lack from exc
            raise
        made.setblocking(False)
        return made
