"""What would have changed a verdict: the record is edited and judged again; told is only what then comes out different.

    record ─edit→ another record ─judge→ another verdict?   "had the neutral name failed as well: tls.timeout"

Nothing is guessed from the rules. Each edit leaves out observations, turns how some of them ended, puts in the place of
what one vantage saw what another one did, or puts a tunnel beside one that fell; so it says what the verdict hangs on,
and not how the network is. What is told is a key of the catalogue (`otherwise.…`) and what to put in, so that every
report says it in its own language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from vpntest.failures import Failure
from vpntest.judge.judging import judge, reason_of
from vpntest.judge.verdict import Judgement, Outcome, PlatformVerdict, State
from vpntest.probe.observation import (
    Crowd,
    DnsAnswer,
    Echo,
    HttpExchange,
    Observation,
    QuicHandshake,
    Record,
    SmallExchanges,
    StunBinding,
    TlsHandshake,
    Transfer,
)
from vpntest.report.words import say
from vpntest.tunnel.vantage import OUTSIDE

SLOWER = 100
"""How many times slower transfers are made, to see whether that would have been noticed."""

_OF_PLATFORMS = ("reach", "speed", "freeze", "names")
"""Probes that ask for a platform."""


class Then(Struct, frozen=True):
    """A part of the verdict that it would have been."""

    part: str
    """`cell`, `tunnel`, `inside`, `outside`; `line` where nothing would have been judged."""
    word: str | None
    """The outcome, the stage, the state; null where there would be none."""
    mechanism: str | None = None
    rule: str | None = None

    def __str__(self) -> str:
        """In English."""
        why = f" [{self.rule}: {reason_of(self.rule)}]" if self.rule else ""
        match self.part:
            case "line":
                return say("then.line", reason_of(self.rule or ""))
            case "tunnel":
                return say("then.tunnel", self.word, self.mechanism or say("then.well")) + why
            case "cell":
                return str(self.word)
            case _ if self.word is None:
                return say("then.unjudged")
        return say(f"then.{self.part}", " ".join(one for one in (self.word, self.mechanism) if one)) + why


class Change(Struct, frozen=True):
    """One thing that might have been otherwise."""

    key: str
    """`otherwise.…` of the catalogue."""
    put_in: tuple[str, ...]
    """The vantage that it is about comes first, where it is about one."""
    then: tuple[Then, ...]
    """What would have come out differently."""

    @property
    def what(self) -> str:
        """`had …`, `without …`, in English."""
        if not self.put_in:
            return say(self.key)
        vantage, *others = self.put_in
        where = say("where.outside") if vantage == OUTSIDE else say("where.inside", vantage)
        return say(self.key, where, *others)


Edit = Callable[[Record], Record | None]
"""Another record; None where the edit makes no sense there."""
Test = Callable[[Observation], bool]
Named = tuple[str, tuple[str, ...], Edit]
"""An edit, and what to say of it: see :class:`Change`."""
Verdict = dict[str, Then]
"""What is told of a verdict, by its part."""

_COMPANY = 3
"""Other tunnels that are looked at beside a verdict's own, where it is the same without the rest."""
_MOST_CASES = 100
"""Each costs some twenty judgements."""

Place = tuple[str, str | None]
"""A tunnel or `outside`, and a platform; None for the tunnel itself."""


class Case(Struct, frozen=True):
    """What would have changed one verdict, and so, in all likelihood, those that were judged alike."""

    place: Place
    """Where it was tried."""
    changes: tuple[Change, ...]


def cases_of(record: Record, judgement: Judgement) -> tuple[tuple[Case, ...], dict[Place, int]]:
    """What would have changed the verdicts of a run, tried once for those alike; and to which case each belongs.

    No case have cells of tunnels that are down (the tunnels have), what is open or down for everybody, tunnels whose
    config cannot be used, and what exceeds a bound.
    """
    alike: dict[object, Place] = {}
    belongs: dict[Place, Place] = {}
    for place, key in _alike(record, judgement):
        if key in alike or len(alike) < _MOST_CASES:
            belongs[place] = alike.setdefault(key, place)
    cases = tuple(Case(place, changes_of(record, judgement, *place)) for place in alike.values())
    numbers = {case.place: number for number, case in enumerate(cases)}
    return cases, {place: numbers[tried] for place, tried in belongs.items()}


def _alike(record: Record, judgement: Judgement) -> Iterator[tuple[Place, object]]:
    for one in judgement.outside:
        if one.state not in (State.OK, State.DOWN):
            yield (OUTSIDE, one.platform), (OUTSIDE, one.platform)
    for cell in judgement.cells:
        inside = cell.inside
        if inside and cell.outcome not in (Outcome.OPEN, Outcome.PLATFORM_DOWN):
            services = tuple((one.state, one.mechanism, one.rule) for one in inside.services)
            how = (inside.rule, inside.mechanism, inside.attempts, inside.speed, services)
            yield (cell.tunnel, cell.platform), (cell.platform, cell.outcome, cell.rule, how)
    useless = {facts.name for facts in record.tunnels if facts.problem}
    for tunnel in judgement.tunnels:
        if tunnel.mechanism is not None and tunnel.tunnel not in useless:
            yield (tunnel.tunnel, None), (tunnel.stage, tunnel.mechanism, tunnel.rule)


def changes_of(record: Record, judgement: Judgement, tunnel: str, platform: str | None) -> tuple[Change, ...]:
    """What would have changed a cell; with `outside` the platform on the line; without a platform the tunnel."""
    right = _verdict(judgement, tunnel, platform)
    few = _company(record, judgement, tunnel, platform)
    # What was left out may have a share in it: the other platforms' names tell who forges answers, for one.
    parts = (_about(few, platform), few, _about(record, platform))
    part = next((one for one in parts if _verdict(judge(one), tunnel, platform) == right), record)
    before = right
    changes = []
    tried = [part.observations]
    for key, put_in, edit in _edits(part, judgement, tunnel, platform):
        edited = edit(part)
        if edited is None or edited.observations in tried:
            continue
        tried.append(edited.observations)
        after = _verdict(judge(edited), tunnel, platform)
        if after != before:
            then = tuple(told for name, told in after.items() if before.get(name) != told)
            changes.append(Change(key, put_in, then))
    return tuple(changes)


def _verdict(judgement: Judgement, tunnel: str, platform: str | None) -> Verdict:
    if judgement.local_outage is not None:
        return {"line": Then("line", None, None, judgement.line_rule or "line.dead")}
    told = {}
    if platform is None or tunnel != OUTSIDE:
        raised = next((one for one in judgement.tunnels if one.tunnel == tunnel), None)
        if raised is not None:
            told["tunnel"] = Then("tunnel", raised.stage, raised.mechanism, raised.rule)
    if platform is None:
        return told
    if tunnel != OUTSIDE:
        cell = next(one for one in judgement.cells if (one.tunnel, one.platform) == (tunnel, platform))
        told = {"cell": Then("cell", cell.outcome), **told, "inside": _state("inside", cell.inside)}
    return {**told, "outside": _state("outside", next(one for one in judgement.outside if one.platform == platform))}


def _state(part: str, verdict: PlatformVerdict | None) -> Then:
    return Then(part, verdict.state, verdict.mechanism, verdict.rule) if verdict else Then(part, None)


def _about(record: Record, platform: str | None) -> Record:
    """The record with this platform alone to be judged. Every observation stays: it may vouch for the line."""
    return msgspec.structs.replace(record, platforms=tuple(one for one in record.platforms if one.id == platform))


def _company(record: Record, judgement: Judgement, tunnel: str, platform: str | None) -> Record:
    """The record as if there had been few tunnels: this one, those whose witnesses are called, and some more."""
    own = next((facts for facts in record.tunnels if facts.name == tunnel), None)
    verdicts = [one for one in _verdicts(judgement, platform) if one.vantage in (OUTSIDE, tunnel)] if platform else []
    called = {name for one in verdicts for name in one.witnesses}
    called |= {name for one in judgement.tunnels if one.tunnel == tunnel for name in one.witnesses}
    wanted = {tunnel, *(one.vantage for one in record.observations if one.id in called)}
    working = [one.vantage for one in _verdicts(judgement, platform) if one.state is State.OK] if platform else []
    alike = [one.name for one in record.tunnels if own and own.servers and set(one.servers) == set(own.servers)]
    for few in (working, alike, [one.tunnel for one in judgement.tunnels if one.usable]):
        wanted |= set([name for name in few if name not in (OUTSIDE, tunnel)][:_COMPANY])
    few_left = tuple(one for one in record.tunnels if one.name in wanted)
    kept = {OUTSIDE, *(one.name for one in few_left)}
    own_places = (OUTSIDE, tunnel)
    seen = tuple(
        one
        for one in record.observations
        if one.vantage in own_places or (one.vantage in kept and one.platform in (None, platform))
    )
    return msgspec.structs.replace(record, tunnels=few_left, observations=seen)


# ── the edits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _edits(record: Record, judgement: Judgement, tunnel: str, platform: str | None) -> Iterator[Named]:
    if platform is None:
        yield from _of_tunnel(record, tunnel)
        return
    verdicts = {one.vantage: one for one in _verdicts(judgement, platform)}
    for vantage in (OUTSIDE, tunnel) if tunnel != OUTSIDE else (OUTSIDE,):
        if vantage in verdicts:
            yield from _of_platform(record, judgement, verdicts[vantage])
    others = tuple(facts.name for facts in record.tunnels if facts.name != tunnel)
    yield "otherwise.others", (), _without(_which(others, platform=platform))
    if tunnel == OUTSIDE:
        return
    if tunnel not in verdicts:
        yield from _of_tunnel(record, tunnel)
    elif verdicts[OUTSIDE].state is not verdicts[tunnel].state:
        yield "otherwise.as-inside", (OUTSIDE, tunnel), _as_seen_at(tunnel, OUTSIDE, platform)
        yield "otherwise.as-outside", (tunnel,), _as_seen_at(OUTSIDE, tunnel, platform)


def _of_platform(record: Record, judgement: Judgement, verdict: PlatformVerdict) -> Iterator[Named]:
    vantage, platform = verdict.vantage, verdict.platform
    where = (vantage,)

    def here(probe: str, **more: Any) -> Test:
        return _which((vantage,), (probe,), platform=platform, **more)

    if verdict.state is not State.OK:
        yield "otherwise.neutral.as-own", where, _neutral_as_target(here("reach"), here("speed"))
        through = here("reach", role="neutral")
        yield "otherwise.neutral.through", where, _passing(lambda one: through(one) and _is_step(one))
    if verdict.state in (State.OK, State.THROTTLED):
        neutral = _which((vantage,), ("reach", "speed"), platform=platform, role="neutral")
        yield "otherwise.neutral.none", where, _without(neutral)
    yield "otherwise.alternate.none", where, _without(here("reach", role="alternate"))
    yield "otherwise.browser.none", where, _without(here("reach", role="browser"))
    controls = _which((vantage,), ("control",))
    yield "otherwise.controls.none", where, _without(controls)
    yield "otherwise.controls.silent", where, _failing(controls)
    first = here("reach")
    yield "otherwise.once", where, _without(lambda one: first(one) and one.attempt > 1)
    yield from _other_tries(record, judgement, verdict)
    if any(map(here("speed"), record.observations)):
        yield "otherwise.confirming.none", where, _without(here("speed", phase="confirm"))
        yield (
            "otherwise.slower",
            (vantage, str(SLOWER)),
            _slower(here("speed", role="target"), here("speed")),
        )
        yield "otherwise.neutral.slower", (vantage, str(SLOWER)), _slower(here("speed", role="neutral"))
        yield "otherwise.transfers.none", where, _without(here("speed"))
    yield "otherwise.names.none", where, _without(_which((vantage,), ("names",)))
    yield "otherwise.freeze.none", where, _without(here("freeze"))


def _other_tries(record: Record, judgement: Judgement, verdict: PlatformVerdict) -> Iterator[Named]:
    """How many tries would have had to go otherwise: the fewest that make a difference."""
    vantage, platform = verdict.vantage, verdict.platform
    target = _which((vantage,), ("reach",), platform=platform, role="target")
    made = max((one.attempt for one in record.observations if target(one)), default=0)
    working = (one.vantage for one in _verdicts(judgement, platform) if one.state is State.OK)
    source = next((one for one in working if one != vantage), None)
    before = _verdict(judge(record), vantage, platform)
    more: tuple[str, ...]
    for tries in range(1, made + 1):
        if verdict.state is State.OK:
            key, more, edit = "otherwise.tries.silent", (), _silent_first(target, tries)
        elif source is not None:
            key, more, edit = "otherwise.tries.as-at", (source,), _as_seen_at(source, vantage, platform, tries)
        else:
            return
        edited = edit(record)
        if edited is not None and _verdict(judge(edited), vantage, platform) != before:
            yield key, (vantage, str(tries), str(made), *more), edit
            return


_LOADS: dict[str, type[Any]] = {"crowd": Crowd, "small": SmallExchanges, "echo": Echo}


def _of_tunnel(record: Record, tunnel: str) -> Iterator[Named]:
    def own(*probes: str, **more: Any) -> Test:
        return _which((tunnel,), probes, **more)

    yield "otherwise.sibling", (), _with_sibling(tunnel)
    yield "otherwise.loads.none", (), _without(own("carry"))
    for what, kind in _LOADS.items():
        yield f"otherwise.load.{what}.none", (), _without(own("carry", kind=kind))
    for direction in ("down", "up"):
        load = own("carry", direction=direction)
        yield f"otherwise.load.{direction}.none", (), _without(load)
        yield f"otherwise.load.{direction}.silent", (), _failing(load, Failure.STALLED)
    yield "otherwise.alive.none", (), _without(own("alive"))
    yield "otherwise.alive.silent", (), _failing(own("alive"))
    yield "otherwise.exit.none", (), _without(own("exit", "resolver"))
    yield "otherwise.own-controls.none", (), _without(own("control"))
    others = tuple(facts.name for facts in record.tunnels if facts.name != tunnel)
    yield "otherwise.tunnels.none", (), _without(_which(others))
    line = _which((OUTSIDE,), ("control",))
    yield "otherwise.line-controls.none", (), _without(line)
    yield "otherwise.line-controls.silent", (), _failing(line)


def _verdicts(judgement: Judgement, platform: str) -> Iterator[PlatformVerdict]:
    yield from (one for one in judgement.outside if one.platform == platform)
    yield from (cell.inside for cell in judgement.cells if cell.platform == platform and cell.inside)


# ── how observations are chosen and changed ──────────────────────────────────────────────────────────────────────────


def _which(
    vantages: tuple[str, ...],
    probes: tuple[str, ...] = (),
    *,
    platform: str | None = None,
    role: str | None = None,
    phase: str | None = None,
    kind: type[Any] | None = None,
    direction: str | None = None,
    failed: bool | None = None,
) -> Test:
    """Observations at these vantages; of these probes, or of all; and so on."""

    def test(one: Observation) -> bool:
        return (
            one.vantage in vantages
            and (not probes or one.probe in probes)
            and platform in (None, one.platform)
            and role in (None, one.role)
            and phase in (None, one.phase)
            and (kind is None or isinstance(one.details, kind))
            and (direction is None or (isinstance(one.details, Transfer) and one.details.direction == direction))
            and (failed is None or (one.failure is not None) is failed)
        )

    return test


def _is_step(one: Observation) -> bool:
    """Whether it comes after the name was resolved."""
    return one.operation != "resolve"


def _with(record: Record, observations: Iterable[Observation]) -> Record:
    return msgspec.structs.replace(record, observations=tuple(observations))


def _without(test: Test) -> Edit:
    return lambda record: _with(record, (one for one in record.observations if not test(one)))


def _turned(test: Test, turn: Callable[[Observation], Observation]) -> Edit:
    return lambda record: _with(record, (turn(one) if test(one) else one for one in record.observations))


def _passing(test: Test) -> Edit:
    return _turned(test, lambda one: msgspec.structs.replace(one, failure=None))


def _failing(test: Test, failure: str = Failure.TIMEOUT) -> Edit:
    return _turned(test, lambda one: _fallen(one, failure))


def _fallen(one: Observation, failure: str) -> Observation:
    details = one.details
    if isinstance(details, HttpExchange):
        details = HttpExchange(details.method, details.url, details.alpn)
    elif isinstance(details, DnsAnswer):
        details = msgspec.structs.replace(details, rcode=None, answers=(), late=())
    elif isinstance(details, StunBinding):
        details = StunBinding(details.address)
    return msgspec.structs.replace(one, failure=failure, details=details)


def _silent_first(target: Test, tries: int) -> Edit:
    """The first tries of each endpoint fall silent at their last step."""

    def edit(record: Record) -> Record | None:
        last: dict[tuple[object, ...], Observation] = {}
        for one in record.observations:
            if target(one) and one.attempt <= tries and _is_step(one):
                key = (one.service, one.endpoint, one.attempt)
                last[key] = max(last.get(key, one), one, key=lambda step: step.t)
        falling = {one.id for one in last.values()}
        return _failing(lambda one: one.id in falling)(record)

    return edit


def _as_seen_at(source: str, to: str, platform: str, tries: int | None = None) -> Edit:
    """What one vantage saw of a platform, in the place of what another did; only of its first tries where told so."""
    moves = _which((source, to), ("reach",) if tries else _OF_PLATFORMS, platform=platform)

    def edit(record: Record) -> Record | None:
        moving = [one for one in record.observations if moves(one) and (tries is None or one.attempt <= tries)]
        copies = [_copy(one, vantage=to) for one in moving if one.vantage == source]
        replaced = {one.id for one in moving if one.vantage == to}
        if not copies:
            return None
        return _with(record, [*(one for one in record.observations if one.id not in replaced), *copies])

    return edit


def _with_sibling(tunnel: str) -> Edit:
    """Another tunnel of the same kind to the same servers climbs, at the same time, as far as this one, and beyond."""

    def edit(record: Record) -> Record | None:
        facts = next(one for one in record.tunnels if one.name == tunnel)
        rungs = [one for one in record.observations if (one.vantage, one.probe) == (tunnel, "rung")]
        if not facts.servers or all(one.failure is None for one in rungs):
            return None
        name = f"{tunnel}'"
        copies = [_copy(one, vantage=name, failure=None) for one in rungs]
        edited = _with(record, [*record.observations, *copies])
        return msgspec.structs.replace(edited, tunnels=(*record.tunnels, msgspec.structs.replace(facts, name=name)))

    return edit


def _neutral_as_target(*tests: Test) -> Edit:
    """The neutral name fares as the platform's own does."""

    def edit(record: Record) -> Record | None:
        concerned = [one for one in record.observations if any(test(one) for test in tests)]
        copies = [
            _copy(one, role="neutral", details=_unchecked(one.details))
            for one in concerned
            if one.role == "target" and _is_step(one)
        ]
        replaced = {one.id for one in concerned if one.role == "neutral"}
        return _with(record, [*(one for one in record.observations if one.id not in replaced), *copies])

    return edit


def _copy(one: Observation, **changed: Any) -> Observation:
    # A chain of its own, with ids of its own.
    return msgspec.structs.replace(one, id=f"{one.id}'", transaction=-one.transaction, **changed)


def _unchecked(details: Any) -> Any:
    if isinstance(details, TlsHandshake | QuicHandshake):
        return msgspec.structs.replace(details, no_tls_verify=True)
    return details


def _slower(test: Test, confirmed: Test | None = None) -> Edit:
    """Transfers take longer; where told which, those of a first round are also what a confirming round sees."""

    def slow(one: Observation) -> Observation:
        details = one.details
        if isinstance(details, Transfer):
            details = msgspec.structs.replace(details, samples=tuple((t * SLOWER, n) for t, n in details.samples))
        return msgspec.structs.replace(one, t=one.t0 + (one.t - one.t0) * SLOWER, details=details)

    def edit(record: Record) -> Record | None:
        slowed = [slow(one) if test(one) else one for one in record.observations]
        if confirmed is not None and not any(confirmed(one) and one.phase == "confirm" for one in slowed):
            slowed += [_copy(one, phase="confirm") for one in slowed if confirmed(one)]
        return _with(record, slowed)

    return edit
