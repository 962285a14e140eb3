"""All probes of a run: what is asked of which vantage, in which order, how much at once.

Holds what the probes share (numbers, TLS contexts, the plan) and hands every observation on the moment it is made, so
that whatever ends a run keeps what was measured until then.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from vpntest.errors import VpntestError
from vpntest.failures import Failure
from vpntest.plan.model import OUTSIDE, Endpoint, Plan
from vpntest.probe.carry import carries, lives
from vpntest.probe.connection import Trust
from vpntest.probe.exits import ask_exit, ask_resolver
from vpntest.probe.freeze import trickle_to
from vpntest.probe.http import BODY_CAP
from vpntest.probe.names import ask_names
from vpntest.probe.observation import Observation, RungStep, TcpConnect, Transfer
from vpntest.probe.pace import HELLO, Pace
from vpntest.probe.patience import side_by_side
from vpntest.probe.reach import control, reach
from vpntest.probe.schedule import SPACING, Target, Task, reach_tasks
from vpntest.probe.speed import froze, measure, measured_by, yardstick
from vpntest.probe.transaction import Bench, Limits, Notebook, connectable
from vpntest.tunnel.ladder import Step
from vpntest.tunnel.vantage import Vantage

AT_ONCE = 160
"""Attempts under way in the whole run: each holds at most two descriptors, and 1024 is a usual limit."""
AT_ONCE_PER_VANTAGE = 64
"""So that endpoints which time out at one vantage leave room for the others. Where a censor drops what it does not like
an attempt takes up to 20 s, and three rounds of all built-in platforms are some 120."""
CONTROL_TRIES = 2
"""A control that failed is asked once more: a line is not called dead by one lost packet."""
MOST_ATTEMPTS = 10
"""At an endpoint that answers some attempts and not others: a censor that hits by chance shows its rate, and one lost
packet in so many is not taken for one."""
BULKS = 2
"""Sustained transfers at once: they fill the line that others are measured over."""
CONTROL_EVERY = 2.0
"""Seconds between two controls while platforms are tried: a failed attempt counts only where the vantage is known to
have worked within 5 s of it, and one control in two may be blocked."""
_SYNS = 500
"""Bytes of an attempt that ends with an answer of a few packets."""

_STEPS = ("resolve", "connect", "tls_handshake", "quic_handshake", "stun_binding", "http_round_trip")
"""Of an attempt, each further than those before it."""
_SILENCE = frozenset({Failure.STALLED, Failure.TIMEOUT, Failure.TIMED_OUT})


class _Place(Struct, frozen=True):
    """An address that fell silent under a platform's name."""

    service: str
    url: str
    name: str
    address: str
    port: int


class _Log:
    """What the campaign itself needs of what was observed: each attempt's end, and what fell silent.

    Taken from the observations, so that what a probe counts as answered is said in one place.
    """

    def __init__(self, emit: Callable[[Observation], None]) -> None:
        self._emit = emit
        self._furthest: dict[tuple[str, str, str, str], dict[int, Observation]] = {}
        """Of target attempts; by vantage, platform, service, endpoint; then by attempt."""
        self._addresses: dict[int, TcpConnect] = {}
        """By transaction."""
        self._transfers: dict[tuple[str, str], list[Observation]] = {}
        """Speed under a platform's own name; by vantage and platform."""

    def take(self, one: Observation) -> None:
        """Notes it, and hands it on."""
        if one.role == "target" and one.probe in ("reach", "speed") and one.platform is not None:
            if isinstance(one.details, TcpConnect):
                self._addresses[one.transaction] = one.details
            elif isinstance(one.details, Transfer):
                self._transfers.setdefault((one.vantage, one.platform), []).append(one)
            if one.probe == "reach" and one.operation in _STEPS:
                key = (one.vantage, one.platform, one.service or "", one.endpoint or "")
                known = self._furthest.setdefault(key, {})
                before = known.get(one.attempt)
                # A question's late answers are written down when later steps are done.
                if before is None or _STEPS.index(one.operation) >= _STEPS.index(before.operation):
                    known[one.attempt] = one
        self._emit(one)

    def forget(self, vantage: str, task: Task) -> None:
        """An attempt that did not come to an end of its own."""
        self._furthest.get((vantage, task.platform, task.service, task.endpoint.url), {}).pop(task.attempt, None)

    def flips(self, vantage: str, task: Task) -> bool:
        """Whether some attempts at an endpoint were answered and some not."""
        ends = self._furthest.get((vantage, task.platform, task.service, task.endpoint.url), {})
        return len({one.failure is None for one in ends.values()}) > 1

    def silent(self, vantage: str, platform: str, endpoint: str | None = None) -> _Place | None:
        """Where a platform fell silent after the connect in most attempts, at any endpoint or this one; None where it
        did not."""
        for (where, whose, service, url), ends in self._furthest.items():
            if (where, whose) == (vantage, platform) and url.startswith("https:") and endpoint in (None, url):
                hit = [one for one in ends.values() if _fell_silent(one)]
                place = self._place(hit[-1], service, url) if 2 * len(hit) > len(ends) else None
                if place is not None:
                    return place
        return None

    def frozen(self, vantage: str, platform: str) -> _Place | None:
        """Where most of a platform's transfers fell silent; None where they did not."""
        transfers = self._transfers.get((vantage, platform), [])
        hit = [one for one in transfers if froze(one) or one.failure in _SILENCE]
        if not hit or 2 * len(hit) <= len(transfers):
            return None
        return self._place(hit[-1], "", hit[-1].endpoint or "")

    def _place(self, one: Observation, service: str, url: str) -> _Place | None:
        connect = self._addresses.get(one.transaction)
        name = one.details.server_name if isinstance(one.details, Transfer) else Target.of(url, {}).host
        return _Place(service, url, name, connect.ip, connect.port) if connect else None


def _fell_silent(one: Observation) -> bool:
    return one.operation in ("tls_handshake", "http_round_trip") and one.failure in _SILENCE


class Campaign:
    """The probes of one run. Its methods may run side by side, but for :meth:`speed` and :meth:`confirm`: these need
    the uplink to themselves.
    """

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
        self._log = _Log(emit)
        self._pace = Pace()
        self._costs: dict[tuple[str, str], int] = {}
        """Bytes of the last attempt; by vantage and URL."""
        self._plan = plan
        self._outside = outside
        self._rng = rng or random.Random()  # noqa: S311 - an order, no secret
        self._bench = Bench(
            notebook=Notebook(clock, self._take),
            settings=plan.settings,
            trust=Trust(plan.settings, plan.platforms),
            limits=limits or Limits(),
            connectable=may_connect,
            pace=self._pace,
        )
        self._platforms = {each.id: each for each in plan.platforms}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._bulks = asyncio.Semaphore(BULKS)
        self._answered: set[tuple[str, str]] = set()
        self._slow: set[tuple[str, str]] = set()
        self._trickled: set[tuple[str, str]] = set()

    def _take(self, one: Observation) -> None:
        self._pace.heed(one)
        self._log.take(one)

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
        """Every control URL, each up to :data:`CONTROL_TRIES` times. Outside, before all else, the line is gauged."""

        async def one(url: str) -> None:
            for attempt in range(1, CONTROL_TRIES + 1):
                await self._pace.turn(HELLO + BODY_CAP)
                if await control(self._bench, vantage, url, phase, attempt):
                    return

        async with side_by_side() as group:
            if vantage.id == OUTSIDE and phase == "before":
                group.create_task(self._gauge(vantage))
                # Begun, so that all others wait for it.
                await asyncio.sleep(0)
                await self._pace.known()
            for url in self._plan.settings.control:
                group.create_task(one(url))

    async def _gauge(self, vantage: Vantage) -> None:
        async with self._pace.gauging():
            seen = await yardstick(self._bench, vantage, None, "before")
            for one in seen:
                if not froze(one):
                    self._pace.gauge(one)

    async def names(self, vantage: Vantage) -> None:
        """Whether names that nobody has are answered; from outside also whether somebody on the way answers."""
        platforms = self._plan.platforms if vantage.id == OUTSIDE else ()
        await ask_names(self._bench, vantage, platforms, self._rng)

    async def reach(self, vantage: Vantage) -> None:
        """Every endpoint of every platform, as often as the plan says, and controls all the while.

        What needs UDP is not tried through a tunnel that carries none: that would measure the tunnel and no platform.
        An endpoint whose attempts disagree is tried up to :data:`MOST_ATTEMPTS` times. A fault of ours costs the one
        attempt that met it; the first of them is raised once all others are done.
        """
        loop = asyncio.get_running_loop()
        own = asyncio.Semaphore(AT_ONCE_PER_VANTAGE)
        last: dict[tuple[str, str, str], float] = {}
        done: Counter[tuple[str, str, str]] = Counter()
        attempts = self._plan.settings.attempts

        number = 1
        over = asyncio.Event()
        faults: list[Exception] = []

        async def one(task: Task, cost: int) -> None:
            platform = self._platforms[task.platform]
            # Who only listens for late answers holds no place for others.
            free = ExitStack()
            free.callback(self._slots.release)
            free.callback(own.release)
            free.callback(self._settle, vantage, task, cost)
            with free:
                try:
                    if await reach(self._bench, vantage, task, self._bench.trust.of(platform), free.close):
                        self._note_answer(vantage, task)
                except VpntestError:
                    raise
                except Exception as fault:
                    # One stranger's answer that nobody thought of must not take the word from all the others.
                    faults.append(fault)
                    self._log.forget(vantage.id, task)
            key = (task.platform, task.service, task.endpoint.url)
            done[key] += 1
            if done[key] != attempts:
                return
            if self._log.flips(vantage.id, task):
                group.create_task(more(task))
            else:
                # Beside the others that are still under way, as it takes its time.
                self._trickle(group, vantage, task.platform, self._log.silent(vantage.id, task.platform, key[2]))

        async def more(task: Task) -> None:
            for attempt in range(attempts + 1, MOST_ATTEMPTS + 1):
                await start(replace(task, attempt=attempt))

        async def start(task: Task) -> None:
            nonlocal number
            key = (task.platform, task.service, task.endpoint.url)
            # A start that had to wait for a slot moves the next attempt at its endpoint too.
            due = max(begun + task.offset, last.get(key, 0.0) + SPACING)
            await asyncio.sleep(due - loop.time())
            cost = self._cost(vantage, task.endpoint)
            await self._pace.turn(cost)
            await own.acquire()
            await self._slots.acquire()
            last[key], number = loop.time(), max(number, task.attempt)
            group.create_task(one(task, cost))

        async with self._pace.room(), side_by_side() as beside:
            beside.create_task(self._accompany(vantage, lambda: number, over))
            begun = loop.time()
            async with side_by_side() as group:
                for task in reach_tasks(self._plan.platforms, attempts, self._rng):
                    if vantage.carries_udp or not Target.of(task.endpoint.url, {}).needs_udp:
                        await start(task)
            over.set()
        if faults:
            raise faults[0]

    def _cost(self, vantage: Vantage, endpoint: Endpoint) -> int:
        """Bytes that an attempt will cost: what the last one did; before there was one, what may come."""
        scheme = Target.of(endpoint.url, {}).scheme
        if scheme in ("tcp", "stun"):
            return _SYNS
        hellos = 0 if scheme == "http" else HELLO if scheme == "quic" else 2 * HELLO
        return self._costs.get((vantage.id, endpoint.url), hellos + (BODY_CAP if endpoint.method == "GET" else 0))

    def _settle(self, vantage: Vantage, task: Task, cost: int) -> None:
        """Gives back what an attempt did not cost after all, or takes what it cost more."""
        spent = self._pace.spent(vantage.id, task.endpoint.url, task.attempt)
        if spent is not None:
            self._pace.charge(spent - cost)
            self._costs[vantage.id, task.endpoint.url] = spent

    async def _accompany(self, vantage: Vantage, number: Callable[[], int], over: asyncio.Event) -> None:
        """The controls in turn, one every :data:`CONTROL_EVERY` seconds until all is `over`; then each once.

        They take no slot: they must not queue behind the attempts that they vouch for. `number` tells the round.
        """

        def ask(url: str) -> None:
            # On a line that has to be shared out, the body would take a third of it.
            method = "GET" if self._pace.rate is None else "HEAD"
            self._pace.charge(HELLO)
            group.create_task(control(self._bench, vantage, url, "during", number(), method))

        async with side_by_side() as group:
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

    async def freeze(self, vantage: Vantage) -> None:
        """Requests of many packets to each platform that fell silent here, at its endpoints or in its transfers.

        Once for each: not where :meth:`reach` has seen to it; and it may be called again after :meth:`speed`.
        """
        async with side_by_side() as group:
            for platform in self._plan.platforms:
                key = (vantage.id, platform.id)
                self._trickle(group, vantage, platform.id, self._log.silent(*key) or self._log.frozen(*key))

    def _trickle(self, group: asyncio.TaskGroup, vantage: Vantage, platform: str, place: _Place | None) -> None:
        if place is None or (vantage.id, platform) in self._trickled:
            return
        self._trickled.add((vantage.id, platform))
        where = (place.name, place.address, place.port)
        group.create_task(trickle_to(self._bench, vantage, platform, place.service or None, place.url, *where))

    async def speed(self, vantages: Sequence[Vantage]) -> None:
        """Goodput of every platform that answered :meth:`reach`, one transfer at a time."""
        pairs = [
            (vantage, platform)
            for vantage in vantages
            for platform in self._plan.platforms
            if measured_by(platform) and (vantage.id, platform.id) in self._answered
        ]
        self._rng.shuffle(pairs)
        for vantage, platform in pairs:
            if await measure(self._bench, vantage, platform):
                self._slow.add((vantage.id, platform.id))

    async def confirm(self, vantages: Sequence[Vantage]) -> None:
        """A second round of each platform that was slow in :meth:`speed`, one transfer at a time."""
        for vantage in vantages:
            for platform in self._plan.platforms:
                if (vantage.id, platform.id) in self._slow:
                    await measure(self._bench, vantage, platform, "confirm")

    async def carry(self, vantage: Vantage) -> bool:
        """Whether a tunnel sustains data: first data, many connections, many small packets, 64 KiB each way, 1 MiB."""
        await self._pace.known()
        async with self._pace.room():
            return await carries(self._bench, vantage, self._outside, self._bulks)

    async def alive(self, vantage: Vantage) -> None:
        """Whether a tunnel's carrier still runs and still carries."""
        await lives(self._bench, vantage)

    async def exits(self, vantage: Vantage) -> None:
        """Who the world sees: our exit over IPv4 and IPv6, and the resolver that asks for us."""
        self._pace.charge(2 * HELLO)
        async with side_by_side() as group:
            group.create_task(ask_exit(self._bench, vantage, 4))
            group.create_task(ask_exit(self._bench, vantage, 6))
            group.create_task(ask_resolver(self._bench, vantage))
