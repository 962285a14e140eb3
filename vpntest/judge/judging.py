"""A record in, a judgement out: reads the observations, then asks the tables from the small to the large.

    Record → Reading ─┬─ tunnels ───────────────────────────────────────────────────────────┐
                      └─ endpoints at every vantage → services → platforms, with their speed ┴→ cells

Pure: the same record gives the same judgement, today and from any kept run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from vpntest.failures import Failure
from vpntest.judge.attempts import Attempt, Seen
from vpntest.judge.cell_rules import CELL, UNPROVEN, CellSeen
from vpntest.judge.controls import Controls, Moment
from vpntest.judge.kinds import CERTIFICATE
from vpntest.judge.platform_rules import JUDGED, PLATFORM, SPEED, PlatformSeen, judge_speed
from vpntest.judge.reading import Key, Reading, read
from vpntest.judge.rule import Rule, always, first
from vpntest.judge.samples import SpeedSamples
from vpntest.judge.service_rules import (
    ENDPOINT,
    FAILURES,
    FLAKY,
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
    is_verified: bool = False
    """Whether a valid certificate was seen anywhere, through a tunnel or not."""

    @property
    def failed(self) -> tuple[Moment, ...]:
        """Controls that did not answer as they should, before the platforms and beside them."""
        return tuple(one for one in (*self.controls.before, *self.controls.during) if not one.worked)

    @property
    def clock_is_wrong(self) -> bool:
        """Whether every certificate of the controls is out of its time, and none anywhere is valid."""
        signed = [one for one in self.controls.asked if (one.last.endpoint or "").startswith("https://")]
        dated = [one for one in signed if one.last.failure == Failure.SSL_INVALID_CERTIFICATE]
        return len(dated) >= 2 and len(dated) == len(signed) and bool(self.failed) and not self.is_verified

    @property
    def is_portal(self) -> bool:
        """Whether somebody else answers in the place of every control."""
        asked = (*self.controls.before, *self.controls.during)
        strange = [one for one in asked if _is_strange(one)]
        return len(strange) >= 2 and len(strange) == len(asked) and not self.carried


def _is_strange(control: Moment) -> bool:
    """Whether somebody answered who is not the control: by a certificate of his own, or without one."""
    return not control.worked and (control.last.failure in CERTIFICATE or control.last.failure is None)


LINE: tuple[Rule[LineSeen, bool], ...] = (
    Rule(
        "line.clock",
        lambda f: f.clock_is_wrong,
        True,
        "the certificate of every control is out of its time, as it looks to a box whose clock is wrong: set the clock",
        "ooni/spec df-007, ssl_invalid_certificate; RFC 5280 §4.1.2.5",
    ),
    Rule(
        "line.portal",
        lambda f: f.is_portal,
        True,
        "somebody else answers in the place of every control, as a captive portal does: sign in to the network first",
        "RFC 8952: a captive portal answers web requests itself until its user has signed in",
    ),
    Rule(
        "line.dead",
        lambda f: bool(f.controls.dead_before) and not f.controls.worked_during and not f.carried,
        True,
        "the line itself is dead, for no control answered and no tunnel carried anything",
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


def is_flaky(verdict: PlatformVerdict) -> bool:
    """Whether some tries were answered and others failed; its `attempts` then tell how many were answered."""
    return verdict.rule == FLAKY


def is_unproven(verdict: PlatformVerdict) -> bool:
    """Whether a service that the platform needs shows no more than an open connection."""
    return verdict.rule == UNPROVEN


def judge(record: Record) -> Judgement:
    """Everything that one record allows to conclude. Never raises, whatever the record lacks."""
    reading = read(record)
    line = reading.controls.get(OUTSIDE, Controls())
    seen = LineSeen(line, bool(reading.carried), reading.is_verified)
    if (rule := first(LINE, seen)).then:
        failed = line.dead_before or tuple(one.last.id for one in seen.failed)
        return Judgement((), (), (), local_outage=failed, line_rule=rule.id)
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
        self._without_udp = frozenset(tunnel.name for tunnel in reading.record.tunnels if not tunnel.carries_udp)
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
        speed = judge_speed(samples)
        speed_is_asked = platform.speed is not None or platform.throttled_name is not None
        rule = first(PLATFORM, PlatformSeen(needed, speed.speed, speed_is_asked))
        by_speed = rule.id in ("platform.frozen", "platform.throttled")
        if by_speed:
            told = _Told(speed.mechanism, speed.rule, speed.witnesses)
            attempts = (len(samples.asked), len(samples.asked))
        elif rule.id == "platform.insufficient.speed":
            told = _Told(None, speed.rule, speed.witnesses)
            attempts = (0, len(samples.asked))
        else:
            agreeing = [
                one
                for verdict in needed
                if verdict.state is rule.then
                for one in endpoints[verdict.service]
                if one.state is rule.then
            ]
            told = _told(agreeing, rule)
            if rule.then is State.INSUFFICIENT:
                agreeing = [one for one in agreeing if one.rule == told.rule]
            attempts = min((one.attempts for one in agreeing), key=_agreement, default=(0, 0))
            if rule.then is State.OK:
                told = _Told(None, rule.id, told.witnesses + speed.witnesses)
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
            speed=speed.rule if speed_is_asked else None,
            detail=speed.detail if by_speed else None,
        )

    def _endpoint(self, vantage: str, key: Key) -> EndpointVerdict:
        alone = self._alone[key].get(vantage, EndpointSeen((), self._reading.record.run.attempts))
        down, alike = self._everywhere[key]
        return judge_endpoint(
            replace(
                alone,
                elsewhere=self._answered(vantage, key),
                down=down,
                alike=alike,
                browser_elsewhere=self._browsed(vantage, key),
                trickles=self._reading.trickles.get((vantage, key[0]), ()),
                needs_udp=vantage in self._without_udp and key[2].startswith(("quic:", "stun:")),
            )
        )

    def _browsed(self, but: str, key: Key) -> tuple[str, ...]:
        """The first other vantage where a browser's handshake with the endpoint gets through: that handshake."""
        for vantage, seen in self._alone[key].items():
            for attempt in seen.attempts:
                if vantage != but and attempt.browser.tls and attempt.browser_through:
                    return (attempt.browser.tls.id,)
        return ()

    def _answered(self, but: str, key: Key) -> tuple[str, ...]:
        """The first other vantage, in the record's order, where the endpoint answers: its last steps."""
        for vantage, seen in self._alone[key].items():
            if vantage != but and seen.most(*ANSWERED):
                answering = [attempt for attempt in seen.attempts if attempt.seen in ANSWERED]
                return tuple(one for attempt in answering for one in attempt.witnesses)
        return ()

    def _failures_everywhere(self, alone: dict[str, EndpointSeen]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The failures of an endpoint that fails outside and at exits, and answers nowhere.

        First if it fails under any name, at enough independent exits; second if only under its own, everywhere in the
        same way, and no try shows that somebody on the way does it.
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
        are_enough = len(exits - {None, self._reading.address(OUTSIDE, "exit", 4)}) >= INDEPENDENT_EXITS
        here, there = _leaves([alone[OUTSIDE]]), _leaves(seen for key, seen in credible.items() if key != OUTSIDE)
        if here and there and here.isdisjoint(there):
            # Somebody else is at the line's address: what is down at the exits was not asked there.
            return (), ()
        failures = tuple(one for seen in credible.values() for attempt in seen.attempts for one in attempt.witnesses)
        tries = [attempt for seen in alone.values() for attempt in seen.attempts]
        if any(attempt.is_cut_by_name for attempt in tries):
            return (), ()
        if not any(attempt.works_here for attempt in tries):
            return failures if are_enough else (), ()
        ways = {_way(seen.attempts) for seen in credible.values()}
        # One exit where it fails in the same way is doubt enough, as less evidence must not say more.
        return (), failures if len(credible) > 1 and len(ways) == 1 else ()


def _leaves(those: Iterable[EndpointSeen]) -> frozenset[str]:
    return frozenset(leaf for seen in those for attempt in seen.attempts for leaf in attempt.leaves)


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
