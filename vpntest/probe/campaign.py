"""All probes of a run: what is asked of which vantage, in which order, how much at once.

Holds what the probes share (numbers, TLS contexts, the plan) and hands every observation on the moment it is made, so
that whatever ends a run keeps what was measured until then.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

from vpntest.plan.model import Plan
from vpntest.probe.carry import carries, lives
from vpntest.probe.connection import Trust
from vpntest.probe.exits import ask_exit, ask_resolver
from vpntest.probe.observation import Observation, RungStep
from vpntest.probe.reach import control, reach
from vpntest.probe.schedule import SPACING, Target, Task, reach_tasks
from vpntest.probe.speed import measure
from vpntest.probe.transaction import Bench, Limits, Notebook, connectable
from vpntest.tunnel.ladder import Step
from vpntest.tunnel.vantage import Vantage

AT_ONCE = 160
"""Attempts under way in the whole run: each holds at most two descriptors, and 1024 is a usual limit."""
AT_ONCE_PER_VANTAGE = 32
"""So that endpoints which time out at one vantage leave room for the others."""
CONTROL_TRIES = 2
"""A control that failed is asked once more: a line is not called dead by one lost packet."""
CONTROL_EVERY = 2.0
"""Seconds between two controls while platforms are tried: a failed attempt counts only where the vantage is known to
have worked within 5 s of it, and one control in two may be blocked."""


class Campaign:
    """The probes of one run. Its methods may run side by side, but for :meth:`speed`, which wants the uplink alone."""

    def __init__(
        self,
        plan: Plan,
        outside: Vantage,
        clock: Callable[[], float],
        emit: Callable[[Observation], None],
        *,
        rng: random.Random | None = None,
        limits: Limits | None = None,
        may_connect: Callable[[str], bool] = connectable,
    ) -> None:
        """`clock` gives seconds since the run began. `rng`, `limits` and `may_connect` are for tests."""
        self._plan = plan
        self._outside = outside
        self._rng = rng or random.Random()  # noqa: S311 - an order, no secret
        self._bench = Bench(
            notebook=Notebook(clock, emit),
            settings=plan.settings,
            trust=Trust(plan.settings, plan.platforms),
            limits=limits or Limits(),
            connectable=may_connect,
        )
        self._platforms = {each.id: each for each in plan.platforms}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._answered: set[tuple[str, str]] = set()

    def rungs(self, tunnel: str, steps: Sequence[Step]) -> None:
        """Writes down how far a tunnel was raised; also one that has no vantage to measure from."""
        for step in steps:
            self._bench.notebook.note(
                vantage=tunnel,
                probe="rung",
                operation="tunnel",
                target=tunnel,
                t0=step.t0,
                t=step.t,
                failure=step.failure,
                details=RungStep(rung=step.rung, detail=step.detail),
            )

    async def controls(self, vantage: Vantage, phase: Literal["before", "after"]) -> None:
        """Every control URL, each up to :data:`CONTROL_TRIES` times."""

        async def one(url: str) -> None:
            for attempt in range(1, CONTROL_TRIES + 1):
                if await control(self._bench, vantage, url, phase, attempt):
                    return

        async with _group() as group:
            for url in self._plan.settings.control:
                group.create_task(one(url))

    async def reach(self, vantage: Vantage) -> None:
        """Every endpoint of every platform, as often as the plan says, and controls all the while."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        own = asyncio.Semaphore(AT_ONCE_PER_VANTAGE)
        last: dict[tuple[str, str, str], float] = {}

        number = 1
        over = asyncio.Event()

        async def one(task: Task) -> None:
            platform = self._platforms[task.platform]
            if await reach(self._bench, vantage, task, self._bench.trust.of(platform)):
                self._note_answer(vantage, task)

        def free(_: asyncio.Task[None]) -> None:
            self._slots.release()
            own.release()

        async with _group() as beside:
            beside.create_task(self._accompany(vantage, lambda: number, over))
            async with _group() as group:
                for task in reach_tasks(self._plan.platforms, self._plan.settings.attempts, self._rng):
                    key = (task.platform, task.service, task.endpoint.url)
                    # A start that had to wait for a slot moves the next attempt at its endpoint too.
                    due = max(begun + task.offset, last.get(key, 0.0) + SPACING)
                    await asyncio.sleep(due - loop.time())
                    await own.acquire()
                    await self._slots.acquire()
                    last[key], number = loop.time(), task.attempt
                    group.create_task(one(task)).add_done_callback(free)
            over.set()

    async def _accompany(self, vantage: Vantage, number: Callable[[], int], over: asyncio.Event) -> None:
        """The controls in turn, one every :data:`CONTROL_EVERY` seconds until all is `over`; then each once.

        They take no slot: they must not queue behind the attempts that they vouch for. `number` tells the round.
        """

        def ask(url: str) -> None:
            group.create_task(control(self._bench, vantage, url, "during", number()))

        async with _group() as group:
            for url in itertools.cycle(self._plan.settings.control):
                ask(url)
                with suppress(TimeoutError):
                    async with asyncio.timeout(CONTROL_EVERY):
                        await over.wait()
                if over.is_set():
                    break
            for url in self._plan.settings.control:
                ask(url)

    def _note_answer(self, vantage: Vantage, task: Task) -> None:
        """Speed is worth measuring where the platform answers over TLS, or the very host of the measurement does."""
        speed = self._platforms[task.platform].speed
        target = Target.of(task.endpoint.url, {})
        if target.scheme == "https" or (speed and Target.of(speed, {}).host == target.host):
            self._answered.add((vantage.id, task.platform))

    async def speed(self, vantages: Sequence[Vantage]) -> None:
        """Goodput of every platform that answered :meth:`reach`, one transfer at a time."""
        pairs = [
            (vantage, platform)
            for vantage in vantages
            for platform in self._plan.platforms
            if platform.speed and (vantage.id, platform.id) in self._answered
        ]
        self._rng.shuffle(pairs)
        for vantage, platform in pairs:
            await measure(self._bench, vantage, platform)

    async def carry(self, vantage: Vantage) -> bool:
        """Whether a tunnel sustains data: first data, many small packets, 64 KiB each way."""
        return await carries(self._bench, vantage, self._outside)

    async def alive(self, vantage: Vantage) -> None:
        """Whether a tunnel's carrier still runs and still carries."""
        await lives(self._bench, vantage)

    async def exits(self, vantage: Vantage) -> None:
        """Who the world sees: our exit over IPv4 and IPv6, and the resolver that asks for us."""
        async with _group() as group:
            group.create_task(ask_exit(self._bench, vantage, 4))
            group.create_task(ask_exit(self._bench, vantage, 6))
            group.create_task(ask_resolver(self._bench, vantage))


@asynccontextmanager
async def _group() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks side by side. The first one's error ends all and is raised as it is, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
