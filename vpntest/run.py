"""One run: raise every tunnel, measure from all vantages, keep what was seen.

    outside   controls → names, exits, reach → freeze ─────────────────┐
    tunnel a  raise → carry → controls → names, exits, reach → freeze ─┼─▶ speed → freeze → confirm ─▶ controls again,
    tunnel b  raise ✗ ─────────────────────────────────────────────────┘   (one transfer at a time)    alive ─▶ lower

Knows the order and nothing else: how a tunnel is raised, what a probe does and what it means stand in their packages.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from vpntest import __version__
from vpntest.plan.model import Plan, ProxyConfig, Server, TunnelSpec
from vpntest.probe.campaign import Campaign
from vpntest.probe.observation import Observation, Phase, Record, RunFacts, TunnelFacts, VantageFacts
from vpntest.report.progress import Progress
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.carriers import Carriers
from vpntest.tunnel.evidence import Journal
from vpntest.tunnel.raising import Tunnel, answers_locally, carries_udp, raise_tunnel
from vpntest.tunnel.vantage import Vantage

RAISED_AT_ONCE = 24
"""Tunnels under way side by side. Each needs descriptors, a carrier's start-up, and a share of the line for its load;
one that never answers holds its place for 16 s."""

Notify = Callable[[str], None]
"""Takes one line about what is going on. Never a result, never a secret."""


class Evidence(Protocol):
    """Keeps what nobody has judged yet: packets, logs. What it cannot keep costs the run nothing else."""

    async def begin(self, vantage: Vantage, servers: Sequence[Server]) -> None:
        """A vantage exists from now on; `outside` is the first, before any tunnel is raised. `servers`: where its outer
        packets go; none outside."""

    def of(self, tunnel: str) -> Journal:
        """What is kept of a tunnel while it is raised, and what its carrier says."""

    async def end(self) -> None:
        """The tunnels are down."""


def _uuid7(unix_ms: int) -> str:
    """A UUIDv7 (RFC 9562): unique, and sorted by time."""
    value = unix_ms << 80 | 0x7 << 76 | int.from_bytes(os.urandom(10)) & ((1 << 76) - 1)
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


class Run:
    """One run under way. What it has measured so far is kept also when it is cancelled: :meth:`record` tells it."""

    def __init__(
        self,
        plan: Plan,
        outside: Vantage,
        cage: Cage,
        carriers: Carriers,
        notify: Notify,
        evidence: Evidence | None = None,
    ) -> None:
        self._plan = plan
        self._outside = outside
        self._cage = cage
        self._carriers = carriers
        self._notify = notify
        self._evidence = evidence
        self._began = time.monotonic()
        self._started = datetime.now(UTC)
        self._observations: list[Observation] = []
        self._campaign = Campaign(plan, outside, self._clock, self._observations.append)
        self._tunnels: dict[str, Tunnel] = {}
        self._phases: list[Phase] = []
        self._under_way: dict[str, float] = {}
        self._complete = False
        self._carried: set[str] = set()
        self.faults: list[Exception] = []
        """Exceptions that no network caused. Each has cost its own part of the run and no other."""
        self._slots = asyncio.Semaphore(RAISED_AT_ONCE)

    def _clock(self) -> float:
        # Whole microseconds: what a network does is no finer, and each further digit would be kept for ever.
        return round(time.monotonic() - self._began, 6)

    @asynccontextmanager
    async def _phase(self, name: str) -> AsyncIterator[None]:
        t0 = self._under_way[name] = self._clock()
        try:
            yield
        finally:
            del self._under_way[name]
            self._phases.append(Phase(name, round(t0, 3), round(self._clock(), 3)))

    async def measure(self) -> None:
        """The whole run. When it ends, however it ends, every tunnel is down again."""
        try:
            await self._keep(self._outside)
            async with self._phase("raise and reach"):
                climbs = (self._climb(spec) for spec in self._plan.tunnels)
                await self._together(self._look_outside(), *climbs)
            usable = [self._outside, *self._carrying()]
            async with self._phase("speed"):
                self._notify(f"measuring speed from {len(usable)} vantages, one transfer at a time")
                await self._together(self._campaign.speed(usable))
            async with self._phase("freeze"):
                await self._together(*map(self._campaign.freeze, usable))
            async with self._phase("confirm"):
                await self._together(self._campaign.confirm(usable))
            async with self._phase("controls again"):
                await self._together(*map(self._look_again, usable))
            self._complete = True
        finally:
            async with self._phase("lower"):
                # Shielded: a second Ctrl-C must not leave half a tunnel.
                await asyncio.shield(self._lower())

    async def _lower(self) -> None:
        await self._together(*(tunnel.lower() for tunnel in self._tunnels.values()))
        if self._evidence is not None:
            await self._together(self._evidence.end())

    async def _keep(self, vantage: Vantage, spec: TunnelSpec | None = None) -> None:
        """Has the evidence of a vantage kept from now on."""
        if self._evidence is not None:
            servers = spec.config.servers if spec and spec.config else ()
            await self._together(self._evidence.begin(vantage, servers))

    async def _together(self, *jobs: Coroutine[Any, Any, Any]) -> None:
        """Side by side. A fault of ours ends its own job and is kept; what the others measure is not lost for it."""

        async def kept(job: Coroutine[Any, Any, Any]) -> None:
            try:
                await job
            except Exception as fault:
                self.faults.append(fault)
                self._notify(f"{type(fault).__name__}: {fault}")

        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(kept(job))

    def _carrying(self) -> Iterable[Vantage]:
        for tunnel in self._tunnels.values():
            if tunnel.vantage is not None and tunnel.spec.name in self._carried:
                yield tunnel.vantage

    async def _look_outside(self) -> None:
        async with self._phase("outside"):
            await self._look_from(self._outside)
        self._notify("outside: measured")

    async def _climb(self, spec: TunnelSpec) -> None:
        async with self._slots:
            await self._climb_to_the_end(spec)

    async def _climb_to_the_end(self, spec: TunnelSpec) -> None:
        async with self._phase(f"{spec.name}: raise"):
            journal = self._evidence.of(spec.name) if self._evidence is not None else None
            tunnel = await raise_tunnel(
                spec, self._outside, self._cage, self._carriers, self._plan.settings, self._clock, journal
            )
        self._tunnels[spec.name] = tunnel
        self._campaign.rungs(spec.name, tunnel.steps)
        if tunnel.vantage is None:
            self._notify(f"{spec.name}: down at {tunnel.steps[-1].rung}")
            return
        await self._keep(tunnel.vantage, spec)
        async with self._phase(f"{spec.name}: carry"):
            # First of all, so that a censor's budget of packets or bytes is met by the probe that counts them.
            carries = await self._campaign.carry(tunnel.vantage)
        if not carries:
            self._notify(f"{spec.name}: raised, but does not carry")
            return
        async with self._phase(f"{spec.name}: reach"):
            await self._look_from(tunnel.vantage)
        self._carried.add(spec.name)
        self._notify(f"{spec.name}: measured")

    async def _look_from(self, vantage: Vantage) -> None:
        campaign = self._campaign
        await campaign.controls(vantage, "before")
        await self._together(campaign.names(vantage), campaign.exits(vantage), campaign.reach(vantage))
        await campaign.freeze(vantage)

    async def _look_again(self, vantage: Vantage) -> None:
        await self._campaign.controls(vantage, "after")
        if vantage is not self._outside:
            await self._campaign.alive(vantage)

    def progress(self) -> Progress:
        """How far it has come."""
        tunnels = [spec.name for spec in self._plan.tunnels]
        at_work = [name for name in self._under_way if name.partition(":")[0] in tunnels]
        ended = {phase.name.partition(":")[0]: phase.t for phase in self._phases}
        busy = {name.partition(":")[0] for name in at_work}
        done = [name for name in ("outside", *tunnels) if name in ended and name not in busy]
        phase = next((name for name in self._under_way if name not in (*at_work, "outside")), "")
        return Progress(
            phase=phase,
            seconds=self._clock(),
            rows=1 + len(tunnels),
            rows_done=len(done),
            platforms=len(self._plan.platforms),
            under_way=tuple(at_work),
            left=self._left(phase),
        )

    def _left(self, phase: str) -> float | None:
        """Seconds that measuring speed may still take, by what it took until now; of other phases nothing tells."""
        if phase != "speed":
            return None
        able = [platform.id for platform in self._plan.platforms if platform.speed or platform.throttled_name]
        measured = {(one.vantage, one.platform) for one in self._observations if one.probe == "speed" and one.platform}
        wanted = len(able) * (1 + len(self._carried))
        spent = self._clock() - self._under_way[phase]
        return spent / len(measured) * max(wanted - len(measured), 0) if measured else None

    def record(self) -> Record:
        """What was measured, until now."""
        return Record(
            run=RunFacts(
                id=_uuid7(int(self._started.timestamp() * 1000)),
                started=self._started.isoformat(timespec="seconds"),
                version=__version__,
                attempts=self._plan.settings.attempts,
                seconds=round(self._clock(), 3),
                vantage=VantageFacts(),
                complete=self._complete,
                phases=tuple(self._phases),
                neutral_name=self._plan.settings.neutral_name,
            ),
            tunnels=tuple(_facts(spec, self._tunnels.get(spec.name)) for spec in self._plan.tunnels),
            platforms=tuple(msgspec.structs.replace(platform, roots=None) for platform in self._plan.platforms),
            observations=tuple(self._observations),
        )


def _facts(spec: TunnelSpec, tunnel: Tunnel | None) -> TunnelFacts:
    return TunnelFacts(
        name=spec.name,
        kind=spec.kind,
        source=spec.source,
        servers=tuple(map(str, spec.config.servers)) if spec.config else (),
        problem=tunnel.problem if tunnel else spec.problem,
        warnings=(*spec.warnings, *(tunnel.warnings if tunnel else ())),
        tls_unverified=isinstance(spec.config, ProxyConfig) and spec.config.tls_unverified,
        carrier=tunnel.carrier if tunnel else None,
        answers_locally=answers_locally(spec.config),
        carries_udp=tunnel.vantage.carries_udp if tunnel and tunnel.vantage else carries_udp(spec.config),
    )
