"""Transfers as samples of speed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vpntest.failures import Failure
from vpntest.judge.freezing import Silence, segments_of
from vpntest.judge.kinds import OURS, TIMEOUT
from vpntest.probe.observation import Observation, Transfer, silence_of

PORTION = 64 * 1024
"""Bytes that a goodput probe takes at most: several times what a freeze lets pass (14 to 34 KB; net4people/bbs#490)."""
PULSE = 0.25
"""Seconds over which a rate is taken at least (ooni/probe-cli, dd-007: samples about every 250 ms)."""
SILENCE = 2.0
"""Seconds. Of the 2.5 s that a goodput probe reads; at 130 kbit/s a TLS record of 16 KiB takes 1 s."""


@dataclass(frozen=True)
class Sample:
    """One transfer."""

    observation: Observation
    details: Transfer

    @property
    def moved(self) -> int:
        """Bytes that came; of a transfer cut short, what the kernel got: half a TLS record shows only there."""
        info = self.observation.tcp
        return max(self.details.bytes, info.bytes_received if info and not self.is_complete else 0)

    @property
    def received(self) -> int:
        """Bytes that the kernel got, all layers above TCP included; 0 where unknown."""
        return self.observation.tcp.bytes_received if self.observation.tcp else 0

    @property
    def silence(self) -> Silence:
        """What had passed on its connection at its end; 0 bytes where unknown."""
        return Silence(
            self.received, segments_of(self.observation.tcp) if self.observation.tcp else None, in_handshake=False
        )

    @property
    def late_rates(self) -> tuple[float, ...]:
        """Bits per second between one read and the next, in the second half of its time; reads closer together than
        PULSE are taken for one."""
        if not self.details.samples:
            return ()
        end = self.details.samples[-1][0]
        rates = []
        since: tuple[float, int] | None = None
        for when, count in self.details.samples:
            if when < end / 2:
                continue
            if since is None:
                since = (when, count)
            elif when - since[0] >= PULSE and count > since[1]:
                rates.append((count - since[1]) * 8 / (when - since[0]))
                since = (when, count)
        return tuple(rates)

    @property
    def goodput(self) -> float:
        """Bits per second, over all that the transfer took and without leaving out its slow start.

        A complete transfer is timed from its first byte to its last. One that the clock or a stall ended is timed from
        before its request: its last bytes say nothing about the silence after them.
        """
        duration = self.observation.t - self.observation.t0
        if self.is_complete and self.details.samples and self.details.samples[-1][0] > 0:
            duration = self.details.samples[-1][0]
        return self.moved * 8 / max(duration, 1e-3)

    @property
    def is_complete(self) -> bool:
        """Whether all came that was asked for: the whole body, or the portion of it that a probe takes."""
        wanted = min(self.details.expected or 0, PORTION)
        return self.observation.failure is None and self.details.bytes >= wanted

    @property
    def is_silent(self) -> bool:
        """Whether it stopped for good: it ended incomplete, after more silence than a policer's drops bring about."""
        if self.is_complete or not (self.observation.failure is None or self.observation.failure in TIMEOUT):
            return False
        return silence_of(self.observation) >= SILENCE

    @property
    def has_died(self) -> bool:
        """Whether somebody or something ended it before its end, and not the clock, nor this box itself."""
        failure = self.observation.failure
        # Who breaks an exchange within its own encryption is the server.
        own = OURS | TIMEOUT | {Failure.HTTP_REQUEST_FAILED}
        cut = failure is not None and failure not in own
        return self.is_silent or (cut and not self.is_complete)

    @property
    def is_telling(self) -> bool:
        """Whether it says something of speed: enough was there to move, and nothing but clock or silence ended it."""
        if self.moved == 0 or not (self.observation.failure is None or self.observation.failure in TIMEOUT):
            return False
        # Where the size is unknown, a transfer that the clock ended was long enough.
        size = self.details.expected or (self.details.bytes if self.is_complete else PORTION)
        return size >= PORTION // 2


@dataclass(frozen=True)
class SpeedSamples:
    """Goodput of one platform from one vantage; for `control` of the vantage itself."""

    target: tuple[Sample, ...] = ()
    neutral: tuple[Sample, ...] = ()
    control: tuple[Sample, ...] = ()
    asked: tuple[Sample, ...] = ()
    """All transfers under the platform's own name, also those that moved nothing."""
    trickles: tuple[Observation, ...] = ()
    """Requests of few bytes in many packets to the platform's address."""
    borrowed: bool = False
    """Whether the name was shown to the control's server, so that nothing is said of the platform's own address."""
    confirming: SpeedSamples | None = None
    """The same once more, at the end of the run; None where that was not made."""


def telling(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(sample for sample in samples if sample.is_telling)
