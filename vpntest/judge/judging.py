"""A record in, a judgement out: reads the observations, then asks the tables from the small to the large.

    Record → Reading ─┬─ tunnels ───────────────────────────────────────────────────────────┐
                      └─ endpoints at every vantage → services → platforms, with their speed ┴→ cells

Pure: the same record gives the same judgement, today and from any kept run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from vpntest.judge.attempts import Attempt, Seen
from vpntest.judge.cell_rules import CELL, UNPROVEN, CellSeen
from vpntest.judge.controls import Controls
from vpntest.judge.platform_rules import JUDGED, PLATFORM, SPEED, PlatformSeen, judge_speed
from vpntest.judge.reading import Key, Reading, read
from vpntest.judge.rule import Rule, always, first
from vpntest.judge.samples import SpeedSamples
from vpntest.judge.service_rules import (
    ENDPOINT,
    FAILURES,
    SERVICE,
    EndpointSeen,
    EndpointVerdict,
    ServiceSeen,
    commonest,
    judge_endpoint,
)
from vpntest.judge.tunnel_rules import TUNNEL, judge_tunnel
from vpntest.judge.verdict import Cell, Judgement, PlatformVerdict, ServiceVerdict, State, TunnelVerdict
from vpntest.plan.model import Platform, Service
from vpntest.probe.observation import Record
from vpntest.tunnel.vantage import OUTSIDE

INDEPENDENT_EXITS = 2
"""Exits beside the line itself that must see a platform down before it is called so."""

ANSWERED = (Seen.REACHED, Seen.REFUSED)
"""Both prove that the platform's server is there: a refusal comes under its own certificate."""


@dataclass(frozen=True)
class LineSeen:
    """What shows whether the line itself is alive."""

    controls: Controls
    """Those asked on the line itself."""
    carried: bool
    """Whether something came back through a tunnel, which is carried by the line."""


LINE: tuple[Rule[LineSeen, bool], ...] = (
    Rule(
        "line.dead",
        lambda f: bool(f.controls.dead_before) and not f.controls.worked_during and not f.carried,
        True,
        "no control could be reached from the line itself, so nothing can be told about platforms and tunnels",
        "Censored Planet, Hyperquack: where the controls fail, the row is unusable",
    ),
    Rule(
        "line.alive",
        always,
        False,
        "a control answered on the line itself, or a tunnel carried data over it, or no control was asked",
        "as above",
    ),
)

TABLES: tuple[tuple[Rule[Any, Any], ...], ...] = (LINE, FAILURES, ENDPOINT, SERVICE, SPEED, PLATFORM, TUNNEL, CELL)
"""Every rule of the judge."""

_REASONS = {rule.id: rule.reason for table in TABLES for rule in table}


def reason_of(rule: str) -> str:
    """A rule's reason, in plain words; empty for an id that this version does not know."""
    return _REASONS.get(rule, "")


def knows_speed(verdict: PlatformVerdict) -> bool:
    """Whether throttling of the platform would have been seen at this vantage."""
    return verdict.speed in JUDGED


def is_unproven(verdict: PlatformVerdict) -> bool:
    """Whether a service that the platform needs shows no more than an open connection."""
    return verdict.rule == UNPROVEN


def judge(record: Record) -> Judgement:
    """Everything that one record allows to conclude. Never raises, whatever the record lacks."""
    reading = read(record)
    line = reading.controls.get(OUTSIDE, Controls())
    if first(LINE, LineSeen(line, bool(reading.carried))).then:
        return Judgement((), (), (), local_outage=line.dead_before)
    tunnels = tuple(judge_tunnel(reading, facts) for facts in record.tunnels)
    bench = _Bench(reading, tunnels)
    outside = {platform.id: bench.platform(platform, OUTSIDE) for platform in record.platforms}
    cells = tuple(
        _cell(tunnel, outside[platform.id], bench.platform(platform, tunnel.tunnel))
        for tunnel in tunnels
        for platform in record.platforms
    )
    return Judgement(tuple(outside.values()), tunnels, cells)


def _cell(tunnel: TunnelVerdict, outside: PlatformVerdict, inside: PlatformVerdict) -> Cell:
    rule = first(CELL, CellSeen(tunnel, outside, inside))
    return Cell(tunnel.tunnel, outside.platform, rule.then, rule.id, outside, inside if tunnel.usable else None)


class _Bench:
    """Platforms at vantages, each endpoint held against what the other vantages say of it."""

    def __init__(self, reading: Reading, tunnels: tuple[TunnelVerdict, ...]) -> None:
        self._reading = reading
        self._usable = frozenset(tunnel.tunnel for tunnel in tunnels if tunnel.usable)
        # Each endpoint as every vantage sees it, without a look at the others.
        self._alone = {
            key: {
                vantage: EndpointSeen(attempts, reading.record.run.attempts) for vantage, attempts in by_vantage.items()
            }
            for key, by_vantage in reading.attempts.items()
        }
        self._everywhere = {key: self._failures_everywhere(alone) for key, alone in self._alone.items()}

    def platform(self, platform: Platform, vantage: str) -> PlatformVerdict:
        """One platform at one vantage."""
        endpoints = {
            service.id: tuple(self._endpoint(vantage, (platform.id, service.id, one.url)) for one in service.endpoint)
            for service in platform.service
        }
        services = tuple(_service(service, endpoints[service.id]) for service in platform.service)
        needed = tuple(verdict for verdict, service in zip(services, platform.service, strict=True) if service.required)
        samples = self._reading.speed.get((vantage, platform.id), SpeedSamples())
        finding, speed_rule, speed_witnesses = judge_speed(samples)
        rule = first(PLATFORM, PlatformSeen(needed, finding.speed, platform.speed is not None))
        if rule.id in ("platform.frozen", "platform.throttled"):
            told = _Told(finding.mechanism, speed_rule, speed_witnesses)
            attempts = (len(samples.asked), len(samples.asked))
        else:
            agreeing = [
                one
                for verdict in needed
                if verdict.state is rule.then
                for one in endpoints[verdict.service]
                if one.state is rule.then
            ]
            told = _told(agreeing, rule)
            attempts = min((one.attempts for one in agreeing), key=_agreement, default=(0, 0))
            if rule.then is State.OK:
                told = _Told(None, rule.id, told.witnesses + speed_witnesses)
        settled = (State.BLOCKED, State.REFUSED, State.DOWN)
        return PlatformVerdict(
            vantage,
            platform.id,
            rule.then,
            told.mechanism,
            told.rule,
            told.witnesses,
            attempts,
            partial=rule.then in settled and any(verdict.state is State.OK for verdict in needed),
            services=services,
            speed=speed_rule if platform.speed is not None else None,
        )

    def _endpoint(self, vantage: str, key: Key) -> EndpointVerdict:
        alone = self._alone[key].get(vantage, EndpointSeen((), self._reading.record.run.attempts))
        down, alike = self._everywhere[key]
        return judge_endpoint(replace(alone, elsewhere=self._answered(vantage, key), down=down, alike=alike))

    def _answered(self, but: str, key: Key) -> tuple[str, ...]:
        """The first other vantage, in the record's order, where the endpoint answers: its last steps."""
        for vantage, seen in self._alone[key].items():
            if vantage != but and seen.most(*ANSWERED):
                answering = [attempt for attempt in seen.attempts if attempt.seen in ANSWERED]
                return tuple(one for attempt in answering for one in attempt.witnesses)
        return ()

    def _failures_everywhere(self, alone: dict[str, EndpointSeen]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The failures of an endpoint that fails outside and at enough independent exits, and answers nowhere.

        First if it fails under any name; second if only under its own, everywhere in the same way, and no try shows
        that somebody on the way does it.
        """
        if any(seen.count(*ANSWERED) for seen in alone.values()):
            return (), ()
        credible = {
            vantage: seen
            for vantage, seen in alone.items()
            if (vantage == OUTSIDE or vantage in self._usable) and seen.made > seen.count(Seen.UNPROVEN)
        }
        if OUTSIDE not in credible or not all(seen.most(Seen.FAILED, Seen.FAULT) for seen in credible.values()):
            return (), ()
        exits = {self._reading.address(vantage, "exit", 4) for vantage in credible if vantage != OUTSIDE}
        if len(exits - {None, self._reading.address(OUTSIDE, "exit", 4)}) < INDEPENDENT_EXITS:
            return (), ()
        failures = tuple(one for seen in credible.values() for attempt in seen.attempts for one in attempt.witnesses)
        tries = [attempt for seen in alone.values() for attempt in seen.attempts]
        if not any(attempt.works_here for attempt in tries):
            return failures, ()
        if any(attempt.is_cut_by_name for attempt in tries):
            return (), ()
        ways = {_way(seen.attempts) for seen in credible.values()}
        return (), failures if len(ways) == 1 else ()


def _way(attempts: tuple[Attempt, ...]) -> object:
    """Where and how most of the tries failed; None where none did."""
    ways = Counter(attempt.way for attempt in attempts if attempt.seen is Seen.FAILED)
    return next((way for way, _ in ways.most_common(1)), None)


def _agreement(attempts: tuple[int, int]) -> float:
    k, n = attempts
    return k / n if n else 0.0


@dataclass(frozen=True)
class _Told:
    mechanism: str | None
    rule: str
    witnesses: tuple[str, ...]


def _told(endpoints: list[EndpointVerdict], rule: Rule[Any, State]) -> _Told:
    """What endpoints of one state say together: the mechanism of most, with the rule and witnesses behind it.

    The rule is the endpoints' own, which names the evidence; `rule` only where all is well or no endpoint is there.
    """
    mechanism = commonest(Counter(one.mechanism for one in endpoints if one.mechanism))
    telling = [one for one in endpoints if one.mechanism == mechanism]
    return _Told(
        mechanism,
        telling[0].rule if telling and rule.then is not State.OK else rule.id,
        tuple(dict.fromkeys(one for endpoint in telling for one in endpoint.witnesses)),
    )


def _service(service: Service, endpoints: tuple[EndpointVerdict, ...]) -> ServiceVerdict:
    rule = first(SERVICE, ServiceSeen(service.rule == "any_of", endpoints))
    told = _told([one for one in endpoints if one.state is rule.then], rule)
    # The endpoints' own rule says more, but where it needs all of them together to say it.
    named = rule.id if rule.id == "service.insufficient.unproven" else told.rule
    return ServiceVerdict(service.id, rule.then, told.mechanism, named, told.witnesses)
