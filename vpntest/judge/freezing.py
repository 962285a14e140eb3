"""Freezes: a connection that works, until so many packets or bytes have passed, and then falls silent for good.

What tells a freeze from other silences is that data flowed first, that about as much of it flows each time, and that
the name makes no difference. What tells a budget of packets from one of bytes is a trickle: few bytes in many packets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpntest.judge.kinds import TIMEOUT
from vpntest.probe.observation import Observation, TcpInfo, Trickle

BYTES = 12 * 1024
"""What the kernel must have got before a silence for a budget of bytes to be thought of: known ones let 14 to 34 KB
pass (net4people/bbs#490). What stops earlier may have other reasons, such as a server that hangs after its handshake.
"""
SEGMENTS = (10, 60)
"""Segments in both directions at the silence, of ours those not counted that were sent again. The known budget is about
25 packets (hyperion-cs/dpi-checkers, l4-25); what we sent into the silence, and counters that see packets joined or
split, widen it. Fewer than ten are what a handshake shows that is cut soon after its name (TSPU's SNI-II)."""
SPREAD = 1.5
"""How many times more may have passed in one try than in another, if one budget is behind both (± 20 %; dpi-ch)."""
SILENCE_MS = 2000
"""What a policer's drops do not bring about on a connection that lives on."""


@dataclass(frozen=True)
class Silence:
    """What had passed on a connection when it fell silent."""

    received: int
    """Bytes that the kernel got, TLS's own included."""
    segments: int | None
    """In both directions; None where not counted."""
    in_handshake: bool
    """Whether it fell silent within the TLS handshake, which a server sends in one go and never halves of itself."""

    @property
    def is_of_budget(self) -> bool:
        """Whether as much had passed as freezes are known to let pass."""
        if self.segments is None:
            return self.received >= BYTES
        return SEGMENTS[0] <= self.segments <= SEGMENTS[1]

    def is_less_than(self, other: Silence) -> bool:
        """Whether less had passed than on another connection."""
        if self.segments is not None and other.segments is not None:
            return self.segments < other.segments
        return self.received < other.received


def silence_of(steps: Sequence[Observation], *, in_handshake: bool, ended: bool = False) -> Silence | None:
    """What had passed on the connection of these steps; None where nothing came, or data still came towards the end.

    `ended`: it did not fall silent, and what passed in all is asked for.
    """
    info = next((step.tcp for step in reversed(steps) if step.tcp is not None), None)
    # One, because the kernel counts the far side's FIN as a byte.
    if info is None or info.bytes_received <= 1:
        return None
    if not ended and info.since_last_data_ms is not None and info.since_last_data_ms < SILENCE_MS:
        return None
    return Silence(info.bytes_received, segments_of(info), in_handshake)


def segments_of(info: TcpInfo) -> int | None:
    """Segments in both directions, each of ours once; None where not counted."""
    if info.segments_received is None or info.segments_sent is None:
        return None
    return info.segments_received + info.segments_sent - info.retransmits


def freeze_of(silences: Sequence[Silence], trickles: Sequence[Observation]) -> str | None:
    """The mechanism behind these silences, as deep as the evidence reaches; None where they show no freeze."""
    if len(silences) < 2 or not all(one.is_of_budget for one in silences) or not _are_alike(silences):
        return None
    made = [one for one in trickles if isinstance(one.details, Trickle)]
    if made and all(map(_dies_of_packets, made)):
        return "freeze.packets"
    large = all(one.received >= BYTES for one in silences)
    if large and made and all(isinstance(one.details, Trickle) and one.details.answered for one in made):
        return "freeze.bytes"
    return "freeze" if large or all(one.in_handshake for one in silences) else None


def _are_alike(silences: Sequence[Silence]) -> bool:
    counts = [one.segments for one in silences if one.segments is not None]
    if len(counts) < len(silences):
        counts = [one.received for one in silences]
    return max(counts) <= SPREAD * min(counts)


def _dies_of_packets(trickle: Observation) -> bool:
    """Whether it fell silent on the way, before enough bytes had come for any known budget of bytes."""
    details = trickle.details
    if not isinstance(details, Trickle) or details.answered or trickle.failure not in TIMEOUT:
        return False
    info, seen = trickle.tcp, silence_of((trickle,), in_handshake=details.chunks == 0)
    if info is None or seen is None or seen.received >= BYTES or (seen.segments is not None and not seen.is_of_budget):
        return False
    # A server that has confirmed all of it and does not answer is slow to answer, and nothing was dropped.
    return details.chunks == 0 or info.unacked > 0
