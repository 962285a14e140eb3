"""Observations sorted into what the rules ask about. Concludes nothing.

Observation … ─sort→ Reading ─┬─ Attempt       one try of one endpoint from one vantage, with its comparisons
                              ├─ Controls      when the line (or the tunnel) itself was seen to work
                              ├─ Names         who answers for names that he should not know
                              ├─ SpeedSamples  goodputs: target, neutral, control
                              └─ TunnelSeen    rungs, load tests, alive
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from urllib.parse import urlsplit

from vpntest.judge.attempts import Attempt, Seen, attempt_of, pages_at, proven_addresses
from vpntest.judge.controls import Controls, Proven, controls_of
from vpntest.judge.kinds import host_of
from vpntest.judge.names import Names, names_of
from vpntest.judge.pages import Page
from vpntest.judge.samples import Sample, SpeedSamples, telling
from vpntest.judge.tunnels import TunnelSeen, came_through, kind_of
from vpntest.plan.model import Platform
from vpntest.probe.observation import Address, DnsAnswer, Observation, Record, Transfer, Trickle
from vpntest.tunnel.vantage import OUTSIDE

Key = tuple[str, str, str]
"""Platform, service, endpoint URL."""


@dataclass(frozen=True)
class Reading:
    """A whole record, sorted."""

    record: Record
    observations: tuple[Observation, ...]
    """All of the record's, in the order of their numbers."""
    attempts: dict[Key, dict[str, tuple[Attempt, ...]]]
    """By endpoint, then by vantage."""
    controls: dict[str, Controls]
    """By vantage."""
    speed: dict[tuple[str, str], SpeedSamples]
    """By (vantage, platform)."""
    trickles: dict[tuple[str, str], tuple[Observation, ...]]
    """By (vantage, platform)."""
    yardstick: dict[str, tuple[Sample, ...]]
    """By vantage: downloads of control URLs."""
    tunnels: dict[str, TunnelSeen]
    addresses: dict[tuple[str, str, int], Observation]
    """By (vantage, `exit` or `resolver`, family): the first known one."""
    is_verified: bool
    """Whether a valid certificate was seen anywhere at all."""
    resolvers: dict[str, frozenset[str]]
    """Addresses asked, by vantage; those of the public resolver under :data:`PUBLIC`."""

    @cached_property
    def carried(self) -> Proven:
        """When anything came through any tunnel that can only have come from its far end, and so over the line."""
        return Proven(one for seen in self.tunnels.values() for one in seen.carried)

    @cached_property
    def loads(self) -> dict[str, tuple[Observation, ...]]:
        """By vantage: all that its load tests saw."""
        found: dict[str, list[Observation]] = defaultdict(list)
        for one in self.observations:
            if one.probe == "carry":
                found[one.vantage].append(one)
        return {vantage: tuple(those) for vantage, those in found.items()}

    def address(self, vantage: str, of: str, family: int) -> str | None:
        """An address that the world saw of a vantage; None where unknown."""
        observation = self.addresses.get((vantage, of, family))
        return observation.details.address if observation and isinstance(observation.details, Address) else None


PUBLIC = ""
"""Stands for the public resolver among vantages; no vantage can be called so."""


def read(record: Record) -> Reading:
    """Sorts a record. Never raises, whatever is missing from it."""
    # Side by side is how they were made, and in order of ending is how they are numbered: the order of the record's own
    # list adds nothing, and must change nothing.
    observations = tuple(sorted(record.observations, key=lambda one: (len(one.id), one.id)))
    locally = {tunnel.name for tunnel in record.tunnels if tunnel.answers_locally}
    controls: dict[str, list[Observation]] = defaultdict(list)
    yardstick: dict[str, list[Sample]] = defaultdict(list)
    speed: dict[tuple[str, str], dict[tuple[str, bool], list[Sample]]] = defaultdict(lambda: defaultdict(list))
    trickles: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    tunnels: dict[str, dict[str, list[Observation]]] = defaultdict(lambda: defaultdict(list))
    addresses: dict[tuple[str, str, int], Observation] = {}
    resolvers: dict[str, set[str]] = defaultdict(set)
    for observation in observations:
        vantage, details = observation.vantage, observation.details
        if vantage != OUTSIDE and came_through(observation, vantage in locally):
            tunnels[vantage]["carried"].append(observation)
        if observation.probe in ("rung", "alive", "carry"):
            tunnels[vantage][kind_of(observation)].append(observation)
        if observation.probe == "control":
            controls[vantage].append(observation)
        if isinstance(details, DnsAnswer):
            if details.resolver != "nobody":
                asked = PUBLIC if details.resolver == "public" else vantage
                resolvers[asked].add(host_of(details.resolver_address))
        elif isinstance(details, Address) and details.address is not None:
            addresses.setdefault((vantage, details.of, details.family), observation)
        elif isinstance(details, Trickle):
            trickles[vantage, observation.platform or ""].append(observation)
        elif isinstance(details, Transfer) and details.direction == "down":
            if observation.probe == "speed" and observation.role != "control":
                key = (observation.role, observation.phase == "confirm")
                speed[vantage, observation.platform or ""][key].append(Sample(observation, details))
            elif details.segment is None:
                yardstick[vantage].append(Sample(observation, details))
    # A transfer that stopped for good is no measure of what the line can do.
    yardsticks = {
        vantage: tuple(sample for sample in telling(those) if not sample.is_silent)
        for vantage, those in yardstick.items()
    }
    seen = {vantage: controls_of(those) for vantage, those in controls.items()}
    listed = frozenset(
        urlsplit(endpoint.url).hostname or ""
        for platform in record.platforms
        for service in platform.service
        for endpoint in service.endpoint
    )
    proven = proven_addresses(observations)
    exits = {
        vantage: one.details.address
        for (vantage, of, family), one in addresses.items()
        if (of, family) == ("exit", 4) and isinstance(one.details, Address) and one.details.address
    }
    return Reading(
        record=record,
        observations=observations,
        attempts=_attempts(record, observations, locally, seen, names_of(observations, listed, proven), exits),
        controls=seen,
        speed={
            key: _speed(roles, yardsticks.get(key[0], ()), tuple(trickles.get(key, ()))) for key, roles in speed.items()
        },
        trickles={key: tuple(those) for key, those in trickles.items()},
        yardstick=yardsticks,
        tunnels={
            name: TunnelSeen(**{what: tuple(those) for what, those in kinds.items()}) for name, kinds in tunnels.items()
        },
        addresses=addresses,
        is_verified=bool(proven),
        resolvers={vantage: frozenset(those) for vantage, those in resolvers.items()},
    )


def _speed(
    samples: dict[tuple[str, bool], list[Sample]], control: tuple[Sample, ...], trickles: tuple[Observation, ...]
) -> SpeedSamples:
    def part(confirming: bool) -> SpeedSamples:
        target, neutral = samples.get(("target", confirming), []), samples.get(("neutral", confirming), [])
        borrowed = any((one.observation.endpoint or "").startswith("tls://") for one in target)
        return SpeedSamples(telling(target), telling(neutral), control, tuple(target), trickles, borrowed)

    first, second = part(confirming=False), part(confirming=True)
    return replace(first, confirming=second) if second.asked else first


def _attempts(
    record: Record,
    observations: tuple[Observation, ...],
    locally: set[str],
    controls: dict[str, Controls],
    names: dict[str, Names],
    exits: dict[str, str],
) -> dict[Key, dict[str, tuple[Attempt, ...]]]:
    sorted_out: dict[tuple[Key, str], dict[int, dict[str, list[Observation]]]] = defaultdict(dict)
    for observation in observations:
        if observation.probe == "reach":
            key = (observation.platform or "", observation.service or "", observation.endpoint or "")
            roles = sorted_out[key, observation.vantage].setdefault(observation.attempt, defaultdict(list))
            roles[observation.role].append(observation)
    vantages = (OUTSIDE, *(tunnel.name for tunnel in record.tunnels))
    attempts: dict[Key, dict[str, tuple[Attempt, ...]]] = {}
    for platform in record.platforms:
        for service in platform.service:
            for endpoint in service.endpoint:
                key = (platform.id, service.id, endpoint.url)
                pages = {
                    vantage: found
                    for vantage in vantages
                    if (found := pages_at(sorted_out.get((key, vantage), {}).values(), endpoint))
                }
                attempts[key] = {
                    vantage: tuple(
                        attempt_of(
                            by_number[number],
                            endpoint,
                            vantage in locally,
                            controls.get(vantage, Controls()),
                            names.get(vantage),
                            _at_other_exits(pages, vantage, exits),
                        )
                        for number in sorted(by_number)
                    )
                    for vantage in vantages
                    if (by_number := sorted_out.get((key, vantage)))
                }
    for vantage in vantages:
        for platform in record.platforms:
            _doubt_bare_connects([attempts[key] for key in _keys(platform)], vantage)
        # Where no platform at all is heard, that goes for those too that nothing but a connect is asked of.
        _doubt_bare_connects(list(attempts.values()), vantage)
    return attempts


def _at_other_exits(
    pages: dict[str, tuple[Page, ...]], vantage: str, exits: dict[str, str]
) -> dict[str, tuple[Page, ...]]:
    """By exit, the pages at vantages that leave elsewhere; the line's own vouch for nobody.

    Two tunnels whose exits are not known, or are the same, may be one.
    """
    found: dict[str, tuple[Page, ...]] = {}
    for other, those in pages.items():
        exit = exits.get(other, "")
        if other not in (vantage, OUTSIDE) and exit not in (exits.get(vantage, ""), exits.get(OUTSIDE, "")):
            found[exit] = found.get(exit, ()) + those
    return found


def _keys(platform: Platform) -> list[Key]:
    return [(platform.id, service.id, endpoint.url) for service in platform.service for endpoint in service.endpoint]


def _doubt_bare_connects(endpoints: list[dict[str, tuple[Attempt, ...]]], vantage: str) -> None:
    """A connect proves nothing where connections to the same place stand and then not a byte comes under any name.

    So it is where SYNs pass and data does not (whitelists on mobile lines; net4people/bbs#516, #579).
    """
    tries = [attempt for by_vantage in endpoints for attempt in by_vantage.get(vantage, ())]
    if any(attempt.has_heard for attempt in tries) or not any(attempt.is_mute for attempt in tries):
        return
    for by_vantage in endpoints:
        if vantage in by_vantage:
            by_vantage[vantage] = tuple(
                replace(attempt, seen=Seen.UNPROVEN) if attempt.is_bare_connect else attempt
                for attempt in by_vantage[vantage]
            )
