"""How far a tunnel got: the rungs, in order, and what was seen on each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from msgspec import Struct

from vpntest.failures import Failure, failure_of
from vpntest.tunnel.namespace import shortage


class Rung(StrEnum):
    """The stages that a tunnel climbs. The order of definition is the order of climbing."""

    CONFIG = "config"
    """The config was read and a carrier on this box can honour it."""
    ENDPOINT_DNS = "endpoint-dns"
    """The server's name has an address (reached at once where the config gives an address)."""
    ENDPOINT = "endpoint"
    """A connection to the server's port stands (TCP), or nothing has said that it cannot (UDP)."""
    HANDSHAKE = "handshake"
    """The tunnel's own handshake came to its end: the server answered in its protocol."""
    AUTH = "auth"
    """The server took our credentials, and the tunnel's device is addressed."""
    DATA = "data"
    """Something came back through the tunnel."""
    SUSTAINED = "sustained"
    """Many small packets, and 64 KiB each way, went through."""
    UP = "up"
    """Still alive at the end, and nothing leaks."""


RUNGS = tuple(Rung)


class Step(Struct, frozen=True):
    """One rung climbed, or the one where the climb ended."""

    rung: Rung
    t0: float
    """Seconds since the run began."""
    t: float
    """Seconds since the run began, at the end of the step."""
    failure: str | None = None
    """None: reached. Else a word of :mod:`vpntest.failures`."""
    detail: str = ""
    """What the carrier said, shortened and without secrets; empty where there is nothing to add."""


_UNREADABLE = (ValueError, LookupError, EOFError, asyncio.LimitOverrunError)
"""What reading raises where what is read is not as it should be. Other faults are ours, and end the run."""


class Fall(Exception):
    """Ends a climb at the rung that is being tried. Never leaves the package: it becomes the failed step."""

    def __init__(self, failure: str, detail: str = "") -> None:
        super().__init__(failure)
        self.failure = failure
        self.detail = detail


def meaning(said: str, words: Iterable[tuple[re.Pattern[str], Failure]]) -> Failure | None:
    """What a carrier means by what it says: that of the first words which stand in it; None where none do."""
    return next((failure for pattern, failure in words if pattern.search(said)), None)


class Climb:
    """Writes the steps down while a tunnel is raised."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.steps: list[Step] = []

    @contextmanager
    def rung(self, rung: Rung) -> Iterator[None]:
        """The body tries `rung`; if it ends well the rung is reached, else the climb ends there with :class:`Fall`.

        A body that is cancelled leaves a step that timed out: only the deadline of the whole climb cancels it, or
        somebody who wants no steps any more. One that cannot read what a carrier or a server says ends it as well: what
        they say is a stranger's, and must not end the run. Raises CannotMeasure, and leaves no step, where this box ran
        out of something that the climb needs.
        """
        t0 = self._clock()
        try:
            yield
        except Fall as fall:
            if lack := shortage(fall):
                raise lack from fall
            self.steps.append(Step(rung, t0, self._clock(), fall.failure, fall.detail))
            raise
        except OSError as exc:
            if lack := shortage(exc):
                raise lack from exc
            failure = failure_of(exc)
            self.steps.append(Step(rung, t0, self._clock(), failure))
            raise Fall(failure) from exc
        except _UNREADABLE as exc:
            if lack := shortage(exc):
                raise lack from exc
            # Without its text: that may quote anything.
            failure = f"unknown_failure: {type(exc).__name__}"
            detail = "an answer of the carrier, or of its server, could not be read"
            self.steps.append(Step(rung, t0, self._clock(), failure, detail))
            raise Fall(failure, detail) from exc
        except asyncio.CancelledError:
            self.steps.append(Step(rung, t0, self._clock(), Failure.TIMEOUT, "the time for raising a tunnel was over"))
            raise
        self.steps.append(Step(rung, t0, self._clock()))
