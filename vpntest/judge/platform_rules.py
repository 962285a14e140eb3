"""Rules for a platform at a vantage: its speed, then its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from statistics import fmean, median, pstdev

from vpntest.judge.freezing import freeze_of
from vpntest.judge.rule import Rule, always, first
from vpntest.judge.samples import Sample, SpeedSamples
from vpntest.judge.verdict import ServiceVerdict, State

# ── speed ────────────────────────────────────────────────────────────────────────────────────────────────────────────

LEAST_SAMPLES = 3
"""Transfers of each sort below which speed is unknown: with three against three, complete separation has p = 0.05."""
PAIRS = 5
"""Transfers under the platform's own name, and as many under another, that each of two rounds needs for throttling:
five against five bear one outlier at p = 0.05."""
STEADY = 0.2
"""Coefficient of variation below which rates are a policer's: it holds one rate, where congestion varies. dd-007 has no
number; 0.2 is above what a token bucket shows over quarters of a second, and far below a busy line."""
SLOW = 400_000.0
"""Bits per second below which a platform can count as throttled. A choice, between two things that are known: policers
seen hold 128 to 150 kbit/s (Xue et al., IMC 2021) or 600 to 700 byte/s (TSPU, IMC 2022), and no platform serves a page
below about a megabit. Milder throttling is not seen."""
RATIO = 4.0
"""How many times slower than another name at the same address, moments apart. Less than OONI's ten will do where only
the name differs."""
CRAWL = 10.0
"""How many times slower than transfers from somewhere else, which differ in server and way too (OONI dd-007: ten)."""
SIGNIFICANT = 0.05
"""One-sided p of the Mann–Whitney test; Wehe takes 0.01 on hundreds of samples, which pairs of 64 KiB cannot give."""


class Speed(StrEnum):
    """What the goodput samples say."""

    FAIR = "fair"
    """As fast as the line allows, or fast enough."""
    UNKNOWN = "unknown"
    """Nothing tells, and nothing looks wrong but for what all transfers here have in common."""
    DOUBTFUL = "doubtful"
    """Transfers crawl, break or fall silent, and nothing tells whether that is meant."""
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
    def is_broken(self) -> bool:
        """Whether more transfers under the platform's own name died than a third: one of so few may be chance."""
        died = sum(one.has_died for one in self.samples.asked)
        return died >= 2 and 3 * died > len(self.samples.asked)

    @property
    def has_no_stage(self) -> bool:
        """Whether the server that is borrowed for the name gave nothing whole under another name either."""
        return self.samples.borrowed and not any(one.is_complete for one in self.samples.neutral)

    @property
    def freeze(self) -> str | None:
        """The mechanism of a freeze: these silences show one, and others at this vantage came whole, as one before and
        one after them.

        Where the probes gave up after two, those under another name at the same address stand beside them.
        """
        whole = [one for one in (*self.samples.neutral, *self.samples.control) if one.is_complete]
        silent = [*self.samples.asked, *(one for one in self.samples.neutral if one.is_silent)]
        if self.samples.borrowed or not self.is_silent or len(silent) < LEAST_SAMPLES or len(whole) < 2:
            return None
        return freeze_of([one.silence for one in silent], self.samples.trickles)

    @property
    def is_named(self) -> bool:
        """Whether it crawls, and the name makes the difference."""
        return self.is_slow and is_slower(self.samples.target, self.samples.neutral, RATIO)

    @property
    def is_slower_than_control(self) -> bool:
        """Whether the platform's own server is slow where the line is not."""
        return (
            self.is_slow and not self.samples.borrowed and is_slower(self.samples.target, self.samples.control, CRAWL)
        )

    @property
    def is_by_address(self) -> bool:
        """Whether another name at the same address is as slow as the platform's, where the line is not."""
        return (
            self.is_slower_than_control
            and self.has_neutral
            and is_slower(self.samples.neutral, self.samples.control, CRAWL)
        )

    @property
    def is_suspect(self) -> bool:
        """Whether this round, taken alone, shows throttling of any kind."""
        return self.is_named or self.is_by_address or (self.is_slower_than_control and not self.has_neutral)

    @property
    def confirming(self) -> SpeedSeen | None:
        """The second round, where both are long enough."""
        again = self.samples.confirming
        if again is None or min(len(self.samples.target), len(again.target)) < PAIRS:
            return None
        # Without another name at all there is nothing to pair with; with one, it is needed as often.
        pairs = [len(one.neutral) for one in (self.samples, again)]
        return SpeedSeen(again) if min(pairs) >= PAIRS or max(pairs) < LEAST_SAMPLES else None

    def both(self, what: Callable[[SpeedSeen], bool]) -> bool:
        """Whether both rounds show this."""
        return self.confirming is not None and what(self) and what(self.confirming)

    @property
    def is_over(self) -> bool:
        """Whether a second round shows the platform as fast as it should be."""
        again = SpeedSeen(self.samples.confirming) if self.samples.confirming else None
        return again is not None and again.is_measured and not again.is_slow and not again.is_broken

    @property
    def line_is_slow(self) -> bool:
        """Whether controls are not so much faster than the platform that the line is out of question."""
        control = self.samples.control
        return len(control) >= LEAST_SAMPLES and median(goodputs(control)) < CRAWL * median(
            goodputs(self.samples.target)
        )

    @property
    def plateau(self) -> float | None:
        """Bits per second that the transfers settle at, where all of them hold about one rate; else None."""
        held = [rates for one in self.samples.target if len(rates := one.late_rates) >= 2]
        if len(held) < LEAST_SAMPLES or median(map(_variation, held)) >= STEADY:
            return None
        means = [fmean(rates) for rates in held]
        return median(means) if _variation(means) < STEADY else None


def _variation(rates: Sequence[float]) -> float:
    """Standard deviation in means."""
    return pstdev(rates) / fmean(rates)


@dataclass(frozen=True)
class SpeedFinding:
    """What a rule about speed concludes."""

    speed: Speed
    mechanism: str | None = None


@dataclass(frozen=True)
class SpeedVerdict:
    """What was concluded of a platform's speed at one vantage."""

    speed: Speed
    mechanism: str | None
    rule: str
    witnesses: tuple[str, ...]
    detail: str | None = None
    """More in words, where there is more to say."""


_DD007 = "OONI dd-007: extreme and targeted throttling; Xue et al., IMC 2021: another name on the same path as control"

SPEED: tuple[Rule[SpeedSeen, SpeedFinding], ...] = (
    Rule(
        "speed.freeze.packets",
        lambda f: f.freeze == "freeze.packets",
        SpeedFinding(Speed.FROZEN, "freeze.packets"),
        "every transfer from the platform stops for good after some packets, however few bytes they carry",
        "hyperion-cs/dpi-checkers, l4-25: 64 bytes in chunks of two, against a budget of about 25 packets",
    ),
    Rule(
        "speed.freeze.bytes",
        lambda f: f.freeze == "freeze.bytes",
        SpeedFinding(Speed.FROZEN, "freeze.bytes"),
        "every transfer from the platform stops for good after some kilobytes, and many packets of few bytes pass",
        "net4people/bbs#490: silence after 14 to 34 KB",
    ),
    Rule(
        "speed.freeze",
        lambda f: f.freeze is not None,
        SpeedFinding(Speed.FROZEN, "freeze"),
        "every transfer from the platform stops for good after some bytes, where other transfers do not",
        "net4people/bbs#490; one kind of transfer cannot tell a budget of bytes from one of packets",
    ),
    Rule(
        "speed.no-stage",
        lambda f: f.has_no_stage and (f.is_silent or f.is_broken),
        SpeedFinding(Speed.UNKNOWN),
        "the control's server, which lends itself to the platform's name, gives no transfer under any strange name",
        _DD007,
    ),
    Rule(
        "speed.silent",
        lambda f: f.is_silent,
        SpeedFinding(Speed.DOUBTFUL),
        "every transfer from the platform stops for good, but too early, or too few were made, to call it a freeze",
        "net4people/bbs#490: silence after 14 to 34 KB; OONI dd-007: a single run gives no verdict",
    ),
    # What dies only sometimes, and crawls both times, is throttled: a policer's drops end some transfers.
    Rule(
        "speed.broken",
        lambda f: f.is_broken and not f.both(lambda one: one.is_suspect),
        SpeedFinding(Speed.DOUBTFUL),
        "transfers from the platform are cut off before their end, by a reset, a close or silence",
        "net4people/bbs#490 (cut after some KB); small answers that pass show nothing of larger ones",
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
        lambda f: f.both(lambda one: one.is_named),
        SpeedFinding(Speed.THROTTLED, "throttle.sni"),
        "transfers crawl when the platform's name is shown, and not with another name at the same address, both times",
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
        lambda f: f.both(lambda one: one.is_by_address),
        SpeedFinding(Speed.THROTTLED, "throttle.ip"),
        "transfers from the platform's address crawl under any name, where the controls do not, both times",
        "net4people/bbs#155: an address stays slow for any name",
    ),
    Rule(
        "speed.throttle",
        lambda f: f.both(lambda one: one.is_suspect),
        SpeedFinding(Speed.THROTTLED, "throttle"),
        "transfers from the platform crawl both times; no other name tells, both times alike, what they are known by",
        "OONI dd-007: compare with concurrent other targets",
    ),
    Rule(
        "speed.once",
        lambda f: f.is_suspect and f.is_over,
        SpeedFinding(Speed.UNKNOWN),
        "transfers from the platform crawled, and in a second round they did not",
        "Wehe: what looks throttled is measured once more; OONI dd-007: a single run gives no verdict",
    ),
    Rule(
        "speed.unconfirmed",
        lambda f: f.is_suspect,
        SpeedFinding(Speed.DOUBTFUL),
        "transfers from the platform crawl, and no second round of five pairs showed it again",
        "Wehe: what looks throttled is measured once more; OONI dd-007: a single run gives no verdict",
    ),
    Rule(
        "speed.unclear",
        always,
        SpeedFinding(Speed.DOUBTFUL),
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
    def all_ok(self) -> bool:
        """Whether every required service is ok."""
        return all(service.state is State.OK for service in self.services)

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
        "platform.insufficient.speed",
        lambda f: f.speed is Speed.DOUBTFUL and (f.all_ok or f.lacks_only_proof),
        State.INSUFFICIENT,
        "small answers pass, and transfers crawl or break; nothing tells whether that is meant",
        "OONI dd-007: a single run gives no verdict",
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


def judge_speed(samples: SpeedSamples) -> SpeedVerdict:
    """What the samples of one platform at one vantage say."""
    seen = SpeedSeen(samples)
    rule = first(SPEED, seen)
    rounds = (samples, samples.confirming) if samples.confirming else (samples,)
    told = [sample.observation for one in rounds for sample in one.asked + one.neutral]
    if rule.id != "speed.throttle.sni":
        told += [sample.observation for sample in samples.control[:20]]
    if rule.id in ("speed.freeze.packets", "speed.freeze.bytes"):
        told += samples.trickles
    detail = None
    if rule.then.speed is Speed.THROTTLED and (rate := seen.plateau) is not None:
        detail = f"policed at about {rate / 1000:.0f} kbit/s"
    witnesses = tuple(dict.fromkeys(one.id for one in told))
    return SpeedVerdict(rule.then.speed, rule.then.mechanism, rule.id, witnesses, detail)


JUDGED = frozenset(rule.id for rule in SPEED if rule.then.speed not in (Speed.UNKNOWN, Speed.DOUBTFUL))
"""Rules by which a platform's speed is known, good or bad."""
FREEZES = frozenset(rule.id for rule in SPEED if rule.then.speed is Speed.FROZEN)
"""Rules by which a platform is blocked whose small answers pass."""
