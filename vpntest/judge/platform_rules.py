"""Rules for a platform at a vantage: its speed, then its state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from statistics import median

from vpntest.judge.rule import Rule, always, first
from vpntest.judge.samples import Sample, SpeedSamples
from vpntest.judge.verdict import ServiceVerdict, State

# ── speed ────────────────────────────────────────────────────────────────────────────────────────────────────────────

LEAST_SAMPLES = 3
"""Transfers of each sort below which speed is unknown: with three against three, complete separation has p = 0.05."""
SLOW = 400_000.0
"""Bits per second below which a platform can count as throttled. A choice, between two things that are known: policers
seen hold 128 to 150 kbit/s (Xue et al., IMC 2021) or 600 to 700 byte/s (TSPU, IMC 2022), and no platform serves a page
below about a megabit. Milder throttling is not seen."""
RATIO = 4.0
"""How many times slower than another name at the same address, moments apart. Less than OONI's ten will do where only
the name differs."""
CRAWL = 10.0
"""How many times slower than transfers from somewhere else, which differ in server and way too (OONI dd-007: ten)."""
FROZEN_AFTER = 12 * 1024
"""Bytes that the kernel must have got before the silence; known freezes let 14 to 34 KB pass (net4people/bbs#490).
What stops earlier may have other reasons than a budget of bytes."""
SIGNIFICANT = 0.05
"""One-sided p of the Mann–Whitney test; Wehe takes 0.01 on hundreds of samples, which pairs of 64 KiB cannot give."""


class Speed(StrEnum):
    """What the goodput samples say."""

    FAIR = "fair"
    """As fast as the line allows, or fast enough."""
    UNKNOWN = "unknown"
    THROTTLED = "throttled"
    FROZEN = "frozen"
    """Transfers stop for good after some bytes, where others do not."""


def chance_of(slower: tuple[float, ...], faster: tuple[float, ...]) -> float:
    """One-sided exact p of Mann–Whitney's test: how likely ranks this low are if both come from one distribution.

    Ties count against the suspicion, so that p is never too small.
    """
    inversions = sum(low >= high for low in slower for high in faster)
    return sum(_splits(len(slower), len(faster), u) for u in range(inversions + 1)) / sum(
        _splits(len(slower), len(faster), u) for u in range(len(slower) * len(faster) + 1)
    )


@lru_cache(maxsize=4096)
def _splits(m: int, n: int, u: int) -> int:
    """In how many orders of m and n values exactly u pairs are inverted (Mann and Whitney 1947)."""
    if u < 0:
        return 0
    if m == 0 or n == 0:
        return int(u == 0)
    return _splits(m - 1, n, u - n) + _splits(m, n - 1, u)


def is_slower(slower: tuple[Sample, ...], faster: tuple[Sample, ...], ratio: float) -> bool:
    """Whether these are so many times slower, and not by chance."""
    if len(slower) < LEAST_SAMPLES or len(faster) < LEAST_SAMPLES:
        return False
    low, high = goodputs(slower), goodputs(faster)
    return median(low) * ratio <= median(high) and chance_of(low, high) <= SIGNIFICANT


def goodputs(samples: tuple[Sample, ...]) -> tuple[float, ...]:
    """Bits per second of each, at most the first 20: more add nothing to a rank test."""
    return tuple(sample.goodput for sample in samples[:20])


@dataclass(frozen=True)
class SpeedSeen:
    """The samples of one platform at one vantage."""

    samples: SpeedSamples

    @property
    def is_measured(self) -> bool:
        """Whether there are enough samples of the platform's own name."""
        return len(self.samples.target) >= LEAST_SAMPLES

    @property
    def has_neutral(self) -> bool:
        """Whether there are enough of another name at the same address."""
        return len(self.samples.neutral) >= LEAST_SAMPLES

    @property
    def is_slow(self) -> bool:
        """Whether the platform's own name is slow by itself."""
        return self.is_measured and median(goodputs(self.samples.target)) < SLOW

    @property
    def is_silent(self) -> bool:
        """Whether every transfer under the platform's own name stopped for good."""
        return bool(self.samples.asked) and all(one.is_silent for one in self.samples.asked)

    @property
    def is_frozen(self) -> bool:
        """Whether enough of them did after a freeze's share of bytes, and as many others at this vantage came whole."""
        asked = self.samples.asked
        whole = [one for one in (*self.samples.neutral, *self.samples.control) if one.is_complete]
        return (
            self.is_silent
            and len(asked) >= LEAST_SAMPLES
            and len(whole) >= len(asked)
            and all(one.received >= FROZEN_AFTER for one in asked)
        )

    @property
    def is_slower_than_neutral(self) -> bool:
        """Whether the name makes the difference."""
        return is_slower(self.samples.target, self.samples.neutral, RATIO)

    @property
    def is_slower_than_control(self) -> bool:
        """Whether the platform is slow where the line is not."""
        return is_slower(self.samples.target, self.samples.control, CRAWL)

    @property
    def neutral_is_slow_too(self) -> bool:
        """Whether another name at the same address is as slow as the platform's, where the line is not."""
        return self.has_neutral and is_slower(self.samples.neutral, self.samples.control, CRAWL)

    @property
    def line_is_slow(self) -> bool:
        """Whether controls are not so much faster than the platform that the line is out of question."""
        control = self.samples.control
        return len(control) >= LEAST_SAMPLES and median(goodputs(control)) < CRAWL * median(
            goodputs(self.samples.target)
        )


@dataclass(frozen=True)
class SpeedFinding:
    """What a rule about speed concludes."""

    speed: Speed
    mechanism: str | None = None


_DD007 = "OONI dd-007: extreme and targeted throttling; Xue et al., IMC 2021: another name on the same path as control"

SPEED: tuple[Rule[SpeedSeen, SpeedFinding], ...] = (
    Rule(
        "speed.freeze",
        lambda f: f.is_frozen,
        SpeedFinding(Speed.FROZEN, "freeze"),
        "every transfer from the platform stops for good after some bytes, where other transfers do not",
        "net4people/bbs#490; one kind of transfer cannot tell a budget of bytes from one of packets",
    ),
    Rule(
        "speed.silent",
        lambda f: f.is_silent,
        SpeedFinding(Speed.UNKNOWN),
        "every transfer from the platform stops for good, but too early, or too few were made, to call it a freeze",
        "net4people/bbs#490: silence after 14 to 34 KB; OONI dd-007: a single run gives no verdict",
    ),
    Rule(
        "speed.unknown",
        lambda f: not f.is_measured,
        SpeedFinding(Speed.UNKNOWN),
        "too few transfers to speak of speed",
        "OONI dd-007: a single run gives no verdict",
    ),
    Rule(
        "speed.throttle.sni",
        lambda f: f.is_slow and f.is_slower_than_neutral,
        SpeedFinding(Speed.THROTTLED, "throttle.sni"),
        "transfers crawl when the platform's name is shown, and not with another name at the same address",
        _DD007,
    ),
    Rule(
        "speed.fair",
        lambda f: not f.is_slow,
        SpeedFinding(Speed.FAIR),
        "transfers are not slow",
        "policers seen hold 128 to 150 kbit/s (Xue et al., IMC 2021)",
    ),
    Rule(
        "speed.slow-line",
        lambda f: f.line_is_slow,
        SpeedFinding(Speed.UNKNOWN),
        "transfers are slow, and those of the controls not ten times faster: it may be the way, which hides throttling",
        "OONI dd-007: compare with concurrent other targets",
    ),
    Rule(
        "speed.throttle.ip",
        lambda f: f.is_slower_than_control and f.neutral_is_slow_too,
        SpeedFinding(Speed.THROTTLED, "throttle.ip"),
        "transfers from the platform's address crawl under any name, where the controls do not",
        "net4people/bbs#155: an address stays slow for any name",
    ),
    Rule(
        "speed.throttle",
        lambda f: f.is_slower_than_control and not f.has_neutral,
        SpeedFinding(Speed.THROTTLED, "throttle"),
        "transfers from the platform crawl where the controls do not; no other name could be compared",
        "OONI dd-007: compare with concurrent other targets",
    ),
    Rule(
        "speed.unclear",
        always,
        SpeedFinding(Speed.UNKNOWN),
        "transfers are slow, but no comparison tells whether it is meant",
        "Wehe: large difference without significance is inconclusive",
    ),
)


# ── the state ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class PlatformSeen:
    """A platform's required services and its speed."""

    services: tuple[ServiceVerdict, ...]
    """The required ones."""
    speed: Speed
    speed_is_asked: bool
    """Whether the platform names a URL to measure it with."""

    def some(self, state: State) -> bool:
        """Whether a required service is in this state."""
        return any(service.state is state for service in self.services)

    @property
    def lacks_only_proof(self) -> bool:
        """Whether a required service is ok, and all others are, but for connections that prove nothing."""
        others = [service.rule for service in self.services if service.state is not State.OK]
        return self.some(State.OK) and bool(others) and all(rule == "service.insufficient.unproven" for rule in others)


_WORST = "OONI Data ontology §6.3; a client needs each of its required services"

PLATFORM: tuple[Rule[PlatformSeen, State], ...] = (
    Rule(
        "platform.insufficient.unmeasured",
        lambda f: not f.services,
        State.INSUFFICIENT,
        "nothing that the platform needs was measured",
        _WORST,
    ),
    Rule(
        "platform.blocked",
        lambda f: f.some(State.BLOCKED),
        State.BLOCKED,
        "a service that the platform needs is blocked",
        _WORST,
    ),
    Rule(
        "platform.refused",
        lambda f: f.some(State.REFUSED),
        State.REFUSED,
        "a service that the platform needs turns this exit away",
        _WORST,
    ),
    Rule(
        "platform.frozen",
        lambda f: f.speed is Speed.FROZEN,
        State.BLOCKED,
        "small answers pass, larger ones stop for good",
        "net4people/bbs#490",
    ),
    Rule(
        "platform.throttled",
        lambda f: f.speed is Speed.THROTTLED,
        State.THROTTLED,
        "the platform answers, but crawls",
        "OONI dd-007",
    ),
    Rule(
        "platform.ok.unproven",
        lambda f: f.lacks_only_proof,
        State.OK,
        "the platform answers; to some of its services a connection opens without a proof of who is there",
        "a proxy's TUN completes every TCP connect itself; an unconfirmed address may be anybody's",
    ),
    Rule(
        "platform.insufficient",
        lambda f: f.some(State.INSUFFICIENT),
        State.INSUFFICIENT,
        "of a service that the platform needs nothing can be said",
        _WORST,
    ),
    Rule(
        "platform.down",
        lambda f: f.some(State.DOWN),
        State.DOWN,
        "a service that the platform needs is down for everybody",
        _WORST,
    ),
    Rule(
        "platform.ok.speed-unknown",
        lambda f: f.speed_is_asked and f.speed is Speed.UNKNOWN,
        State.OK,
        "the platform answers; whether it is throttled is not known",
        "a run that was cut short, or a slow line, may show the one and not the other",
    ),
    Rule(
        "platform.ok",
        always,
        State.OK,
        "the platform answers as it should",
        _WORST,
    ),
)


def judge_speed(samples: SpeedSamples) -> tuple[SpeedFinding, str, tuple[str, ...]]:
    """Finding, rule id and witnesses."""
    rule = first(SPEED, SpeedSeen(samples))
    told = samples.asked + samples.neutral + (() if rule.id == "speed.throttle.sni" else samples.control[:20])
    return rule.then, rule.id, tuple(sample.observation.id for sample in told)


JUDGED = frozenset(rule.id for rule in SPEED if rule.then.speed is not Speed.UNKNOWN)
"""Rules by which a platform's speed is known, good or bad."""
