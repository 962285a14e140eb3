"""What would have changed a verdict: the record is edited and judged again; told is only what then comes out different.

    record ─edit→ another record ─judge→ another verdict?   "had the neutral name failed as well: tls.timeout"

Nothing is guessed from the rules. Each edit leaves out observations, turns how some of them ended, puts in the place of
what one vantage saw what another one did, or puts a tunnel beside one that fell; so it says what the verdict hangs on,
and not how the network is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from vpntest.failures import Failure
from vpntest.judge.judging import judge, reason_of
from vpntest.judge.verdict import Judgement, PlatformVerdict, State
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
from vpntest.tunnel.vantage import OUTSIDE

SLOWER = 100
"""How many times slower transfers are made, to see whether that would have been noticed."""

_OF_PLATFORMS = ("reach", "speed", "freeze", "names")
"""Probes that ask for a platform."""


class Change(Struct, frozen=True):
    """One thing that might have been otherwise."""

    what: str
    """`had …`, `without …`."""
    then: str
    """The verdict that it would have been."""


Edit = Callable[[Record], Record | None]
"""Another record; None where the edit makes no sense there."""
Test = Callable[[Observation], bool]
Verdict = dict[str, str]
"""What is told of a verdict, by its part; the empty name is the whole."""


def changes_of(record: Record, judgement: Judgement, tunnel: str, platform: str | None) -> tuple[Change, ...]:
    """What would have changed a cell; with `outside` the platform on the line; without a platform the tunnel."""
    part = _about(record, platform)
    before = _verdict(judge(part), tunnel, platform)
    if before != _verdict(judgement, tunnel, platform):
        # What was left out has a share in it.
        part, before = record, _verdict(judge(record), tunnel, platform)
    changes = []
    tried = [part.observations]
    for what, edit in _edits(part, judgement, tunnel, platform):
        edited = edit(part)
        if edited is None or edited.observations in tried:
            continue
        tried.append(edited.observations)
        after = _verdict(judge(edited), tunnel, platform)
        if after != before:
            changes.append(Change(what, "; ".join(told for name, told in after.items() if before.get(name) != told)))
    return tuple(changes)


def _verdict(judgement: Judgement, tunnel: str, platform: str | None) -> Verdict:
    if judgement.local_outage is not None:
        return {"": f"nothing would be judged, for {reason_of(judgement.line_rule or 'line.dead')}"}
    told = {}
    if platform is None or tunnel != OUTSIDE:
        raised = next((one for one in judgement.tunnels if one.tunnel == tunnel), None)
        if raised is not None:
            why = f"{raised.mechanism}" if raised.mechanism else "all is well"
            told["tunnel"] = f"the tunnel reaches {raised.stage}: {why} [{raised.rule}: {reason_of(raised.rule)}]"
    if platform is None:
        return told
    if tunnel != OUTSIDE:
        cell = next(one for one in judgement.cells if (one.tunnel, one.platform) == (tunnel, platform))
        told = {"": f"{cell.outcome}", **told, "inside": _state(cell.inside) if cell.inside else "inside not judged"}
    return {**told, "outside": _state(next(one for one in judgement.outside if one.platform == platform))}


def _state(verdict: PlatformVerdict) -> str:
    where = OUTSIDE if verdict.vantage == OUTSIDE else "inside"
    mechanism = f" {verdict.mechanism}" if verdict.mechanism else ""
    return f"{where} {verdict.state}{mechanism} [{verdict.rule}: {reason_of(verdict.rule)}]"


def _about(record: Record, platform: str | None) -> Record:
    """The record with this platform alone to be judged. Every observation stays: it may vouch for the line."""
    return msgspec.structs.replace(record, platforms=tuple(one for one in record.platforms if one.id == platform))


# ── the edits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _edits(record: Record, judgement: Judgement, tunnel: str, platform: str | None) -> Iterator[tuple[str, Edit]]:
    if platform is None:
        yield from _of_tunnel(record, tunnel)
        return
    verdicts = {one.vantage: one for one in _verdicts(judgement, platform)}
    for vantage in (OUTSIDE, tunnel) if tunnel != OUTSIDE else (OUTSIDE,):
        if vantage in verdicts:
            yield from _of_platform(record, judgement, verdicts[vantage])
    others = tuple(facts.name for facts in record.tunnels if facts.name != tunnel)
    yield "without what the other vantages saw of it", _without(_which(others, platform=platform))
    if tunnel == OUTSIDE:
        return
    if tunnel not in verdicts:
        yield from _of_tunnel(record, tunnel)
    elif verdicts[OUTSIDE].state is not verdicts[tunnel].state:
        yield f"had it gone outside as inside {tunnel}", _as_seen_at(tunnel, OUTSIDE, platform)
        yield f"had it gone inside {tunnel} as outside", _as_seen_at(OUTSIDE, tunnel, platform)


def _of_platform(record: Record, judgement: Judgement, verdict: PlatformVerdict) -> Iterator[tuple[str, Edit]]:
    vantage, platform = verdict.vantage, verdict.platform
    where = OUTSIDE if vantage == OUTSIDE else f"inside {vantage}"

    def here(probe: str, **more: Any) -> Test:
        return _which((vantage,), (probe,), platform=platform, **more)

    if verdict.state is not State.OK:
        fared = f"had the neutral name fared {where} as the platform's own did"
        yield fared, _neutral_as_target(here("reach"), here("speed"))
        through = here("reach", role="neutral")
        yield f"had the neutral name got through {where}", _passing(lambda one: through(one) and _is_step(one))
    if verdict.state in (State.OK, State.THROTTLED):
        neutral = _which((vantage,), ("reach", "speed"), platform=platform, role="neutral")
        yield f"without the neutral name {where}", _without(neutral)
    yield f"without the platform's name at another address {where}", _without(here("reach", role="alternate"))
    yield f"without a browser's ClientHello {where}", _without(here("reach", role="browser"))
    controls = _which((vantage,), ("control",))
    yield f"without the controls {where}", _without(controls)
    yield f"had the controls fallen silent {where}", _failing(controls)
    first = here("reach")
    yield f"had it been tried only once {where}", _without(lambda one: first(one) and one.attempt > 1)
    yield from _other_tries(record, judgement, verdict, where)
    if any(map(here("speed"), record.observations)):
        yield f"without the confirming round {where}", _without(here("speed", phase="confirm"))
        yield (
            f"had its transfers been {SLOWER} times slower {where}, twice",
            _slower(here("speed", role="target"), here("speed")),
        )
        slow = f"had the neutral name's transfers been {SLOWER} times slower {where}"
        yield slow, _slower(here("speed", role="neutral"))
        yield f"without its transfers {where}", _without(here("speed"))
    yield f"without the search for whoever answers DNS on the way {where}", _without(_which((vantage,), ("names",)))
    yield f"without the test for a budget of packets {where}", _without(here("freeze"))


def _other_tries(
    record: Record, judgement: Judgement, verdict: PlatformVerdict, where: str
) -> Iterator[tuple[str, Edit]]:
    """How many tries would have had to go otherwise: the fewest that make a difference."""
    vantage, platform = verdict.vantage, verdict.platform
    target = _which((vantage,), ("reach",), platform=platform, role="target")
    made = max((one.attempt for one in record.observations if target(one)), default=0)
    working = (one.vantage for one in _verdicts(judgement, platform) if one.state is State.OK)
    source = next((one for one in working if one != vantage), None)
    before = _verdict(judge(record), vantage, platform)
    for tries in range(1, made + 1):
        if verdict.state is State.OK:
            what, edit = f"fallen silent {where}", _silent_first(target, tries)
        elif source is not None:
            what, edit = f"gone {where} as at {source}", _as_seen_at(source, vantage, platform, tries)
        else:
            return
        edited = edit(record)
        if edited is not None and _verdict(judge(edited), vantage, platform) != before:
            yield f"had {tries} of its {made} tries {what}", edit
            return


_LOADS: dict[str, type[Any]] = {
    "many connections": Crowd,
    "many small requests": SmallExchanges,
    "questions at an even pace": Echo,
}


def _of_tunnel(record: Record, tunnel: str) -> Iterator[tuple[str, Edit]]:
    def own(*probes: str, **more: Any) -> Test:
        return _which((tunnel,), probes, **more)

    yield "had another tunnel to the same server got through", _with_sibling(tunnel)
    yield "without its load tests", _without(own("carry"))
    for what, kind in _LOADS.items():
        yield f"without the load test of {what}", _without(own("carry", kind=kind))
    for direction in ("down", "up"):
        load = own("carry", direction=direction)
        yield f"without the load test {direction}", _without(load)
        yield f"had the load test {direction} fallen silent", _failing(load, Failure.STALLED)
    yield "without the look at its end", _without(own("alive"))
    yield "had nothing come through it at the end", _failing(own("alive"))
    yield "without the addresses that the world saw of it", _without(own("exit", "resolver"))
    yield "without its controls", _without(own("control"))
    others = tuple(facts.name for facts in record.tunnels if facts.name != tunnel)
    yield "without the other tunnels", _without(_which(others))
    line = _which((OUTSIDE,), ("control",))
    yield "without the line's controls", _without(line)
    yield "had the line's controls fallen silent", _failing(line)


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
