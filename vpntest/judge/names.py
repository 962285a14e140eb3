"""Whether somebody lies about names at a vantage: on the way, or the resolver itself to everything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vpntest.probe.observation import DnsAnswer, Observation


@dataclass(frozen=True)
class Names:
    """What questions that nobody should answer, or that have no answer, brought at one vantage."""

    lies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By name: ids of the answers that came from an address where no resolver is, and of the silence there for a name
    that nobody lists."""
    everywhere: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By address: ids of the answers that gave it for names that do not exist."""
    proven: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By name: where a valid certificate for it was seen."""

    def forged(self, name: str, answers: frozenset[str]) -> tuple[str, ...]:
        """What shows that answers for this name are forged here; empty where these ones have proven true."""
        return () if answers & self.proven.get(name, frozenset()) else self.lies.get(name, ())

    def hijack(self, answers: frozenset[str]) -> tuple[str, ...]:
        """What shows that these are the addresses that any name gets here; empty where they are not."""
        if not answers or not all(one in self.everywhere for one in answers):
            return ()
        return tuple(dict.fromkeys(id for one in sorted(answers) for id in self.everywhere[one]))


def names_of(
    observations: Iterable[Observation], listed: frozenset[str], proven: Mapping[str, frozenset[str]]
) -> dict[str, Names]:
    """By vantage. `listed`: the platforms' names; all others that were asked for do not exist."""
    lies: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    silent: dict[str, list[str]] = defaultdict(list)
    answering: set[str] = set()
    everywhere: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in observations:
        details, vantage = one.details, one.vantage
        if one.probe != "names" or not isinstance(details, DnsAnswer):
            continue
        if details.resolver == "nobody":
            if details.hostname in listed:
                # An empty answer is a forger's too: a resolver that is none cannot say that a name does not exist.
                if details.rcode is not None:
                    lies[vantage][details.hostname].append(one.id)
            elif details.rcode is None:
                silent[vantage].append(one.id)
            else:
                answering.add(vantage)
        elif details.resolver == "vantage" and details.hostname not in listed:
            for address in details.answers:
                everywhere[vantage][address].append(one.id)
    return {
        vantage: Names(
            # Where an unlisted name is answered too, all questions are led to a resolver: that forges nothing yet.
            {name: (*ids, *silent[vantage]) for name, ids in lies.get(vantage, {}).items()}
            if vantage in silent and vantage not in answering
            else {},
            {address: tuple(ids) for address, ids in everywhere.get(vantage, {}).items()},
            proven,
        )
        for vantage in dict.fromkeys((*lies, *everywhere))
    }
