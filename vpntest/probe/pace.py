"""How fast a run begins what costs bytes: no faster than its line carries them.

A run asks for megabytes in seconds, from all vantages over one line. Where that line is slow, its queue would be all
that is measured: handshakes that run out of time, and loads that look cut. So its rate is gauged first, and whoever
begins something says what it will cost, and waits for its turn. On a fast line nobody waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vpntest.probe.observation import Observation, Transfer

FAST = 20_000_000.0
"""Bits per second from which on nobody waits: a crowd's handshakes take a fifteenth of a second there."""
LEAST = 250_000.0
"""Bits per second below which no line is taken to be: a run must end, and a control may be slowed that nothing else
depends on."""
SHARE = 0.8
"""Of the line, for what is begun in turn. The rest is for questions, headers, retransmissions and wrong guesses."""
WINDOW = 32 * 1024
"""Bytes over which a gauge is read, the fastest such stretch: a far server's slow start pauses for a round trip between
flights, and the first bytes of a flight ride on what a shaper has saved up."""
HELLO = 10_000
"""Bytes of a TLS handshake with a usual chain of certificates."""
ROOM = 250_000.0
"""Bits per second for each vantage under way: its controls alone take a sixth of it."""
PATIENCE = 4.0
"""Seconds that anybody waits for the gauge. Where it has brought nothing by then, nobody waits for the line either."""
BURST = 4.0
"""How many times the transfer's mean a stretch may have been: more is what a hole held back until it was filled."""
_NAP = 0.1


class Pace:
    """The turns of one run on its line. Until a rate is known nobody waits."""

    def __init__(self) -> None:
        self.rate: float | None = None
        """Bits per second that the line gives; None where it is fast, or not known."""
        self._known = asyncio.Event()
        self._known.set()
        self._free = 0.0
        """Loop time at which all that was begun is through."""
        self._queue = asyncio.Lock()
        self._places = asyncio.Condition()
        self._under_way = 0
        self._spent: dict[tuple[str, str, int], Counter[int]] = {}

    @asynccontextmanager
    async def gauging(self) -> AsyncIterator[None]:
        """While the body runs :meth:`known` waits."""
        self._known.clear()
        try:
            yield
        finally:
            self._known.set()

    async def known(self) -> None:
        """Waits until the line is gauged, where that is under way; no longer than :data:`PATIENCE`."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._known.wait()
        except TimeoutError:
            self._known.set()

    def gauge(self, transfer: Observation) -> None:
        """Takes the line's rate from a transfer that had it nearly to itself."""
        rate = peak(transfer)
        if rate is not None:
            self.rate = max(rate, LEAST) if rate < FAST else None

    def heed(self, one: Observation) -> None:
        """Learns from what was observed: what an attempt has cost; and that the line is faster than was thought, where
        a transfer was."""
        if one.tcp is not None and one.probe == "reach":
            costs = self._spent.setdefault((one.vantage, one.endpoint or "", one.attempt), Counter())
            costs[one.transaction] = max(costs[one.transaction], one.tcp.bytes_received)
        if self.rate is not None and isinstance(one.details, Transfer) and one.details.direction == "down":
            # Over all of its time: what a carrier or a repaired loss has held back comes in a burst.
            whole = one.details.bytes * 8 / max(one.t - one.t0, 1e-6) if one.details.bytes >= WINDOW else 0.0
            if whole > self.rate:
                self.rate = whole if whole < FAST else None

    def spent(self, vantage: str, endpoint: str, attempt: int) -> int | None:
        """Bytes that came in an attempt's TCP connections; None where none was seen. Told once."""
        costs = self._spent.pop((vantage, endpoint, attempt), None)
        return None if costs is None else sum(costs.values())

    async def turn(self, cost: int) -> None:
        """Waits until what was begun before is through, and counts so many bytes as begun. First come, first served."""
        if self.rate is None:
            return
        loop = asyncio.get_running_loop()
        async with self._queue:
            while self.rate is not None and (wait := self._free - loop.time()) > 0:
                await asyncio.sleep(min(wait, _NAP))
            if self.rate is not None:
                self._free = max(self._free, loop.time()) + self._time(cost)

    def charge(self, cost: int) -> None:
        """Counts bytes as begun that cannot wait; or takes some back, where it is negative."""
        if self.rate is not None:
            self._free = max(self._free, asyncio.get_running_loop().time()) + self._time(cost)

    def _time(self, cost: int) -> float:
        return cost * 8 / (SHARE * self.rate) if self.rate else 0.0

    def portion(self, most: int, seconds: float, least: int) -> int:
        """Of so many bytes at most, those that the line carries in this time, and `least` in any case."""
        return most if self.rate is None else min(most, max(least, int(self.rate * seconds / 8)))

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """A vantage's place among those that are measured side by side: as many as the line has :data:`ROOM` for."""
        async with self._places:
            await self._places.wait_for(self._has_room)
            self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            async with self._places:
                self._places.notify_all()

    def _has_room(self) -> bool:
        return self.rate is None or self._under_way < max(1, int(self.rate / ROOM))


def peak(transfer: Observation) -> float | None:
    """Bits per second of a download's fastest :data:`WINDOW`; of all of it where less came; None where that says
    nothing."""
    details = transfer.details
    if not isinstance(details, Transfer) or not details.samples:
        return None
    samples = details.samples
    stretches = [
        (count - before) * 8 / max(t - since, 1e-6)
        for place, (since, before) in enumerate(samples)
        # The shortest that is long enough, from each sample on.
        for t, count in [next((each for each in samples[place:] if each[1] - before >= WINDOW), (0.0, 0))]
        if count
    ]
    end, count = samples[-1]
    if stretches:
        return min(max(stretches), BURST * count * 8 / max(end, 1e-6))
    complete = transfer.failure is None and details.bytes >= (details.expected or 0)
    # What is small and whole may have come in one flight.
    return None if complete or end <= 0 else count * 8 / end
