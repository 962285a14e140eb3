"""What a verdict was held against, in numbers: other names, other addresses, transfers, controls.

Each report says it in its own words: `explain` in sentences, the HTML report in the browser's language.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median

from msgspec import Struct

from vpntest.judge.attempts import Attempt, Layer, Seen
from vpntest.judge.controls import AROUND, controls_of
from vpntest.judge.platform_rules import chance_of, goodputs
from vpntest.judge.reading import Reading
from vpntest.judge.samples import Sample, SpeedSamples
from vpntest.judge.verdict import PlatformVerdict
from vpntest.probe.observation import DnsAnswer, Observation

Share = tuple[int, int]
"""k of n; n is 0 where it was not tried."""


class End(Struct, frozen=True):
    """What tries of a platform's own name came to."""

    key: str
    """`reached` and so on, as the catalogue's `end.…`."""
    layer: str = ""
    failure: str = ""


class Rate(Struct, frozen=True):
    """The goodput of some transfers."""

    kbits: float
    """kbit/s in the middle."""
    number: int
    chance: float | None
    """How likely the platform's own would be so much slower if nobody held them back; null for its own."""


class Round(Struct, frozen=True):
    """Transfers of one round; null where none of them says anything of speed."""

    asked: int
    own: Rate | None
    neutral: Rate | None
    control: Rate | None


class Near(Struct, frozen=True):
    """Controls about the time of the verdict's witnesses, in seconds since the run began; of the whole run without."""

    worked: int
    failed: int
    begin: float
    end: float
    whole: bool


class Compared(Struct, frozen=True):
    """All of it, for one platform at one vantage."""

    ends: dict[End, int]
    """How many tries came to what."""
    neutral: Share
    """A neutral name at the same address: how many met no failure."""
    alternate: Share
    """The platform's name at another address: how many the platform answered."""
    browser: Share
    """A browser's ClientHello: how many handshakes came to their end."""
    rounds: tuple[Round, ...]
    own: tuple[str, ...] | None
    """Addresses by the vantage's resolver; null where it was not asked."""
    public: tuple[str, ...] | None
    """The same by the public one."""
    near: Near


class Comparisons:
    """Those of a whole record."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._by_id = {one.id: one for one in reading.record.observations}
        self._said: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        controls: dict[str, list[Observation]] = defaultdict(list)
        for one in reading.record.observations:
            if one.probe == "control":
                controls[one.vantage].append(one)
            elif (one.probe, one.role) == ("reach", "target") and isinstance(one.details, DnsAnswer):
                self._said[one.vantage, one.platform or ""][one.details.resolver] |= set(one.details.answers)
        self._controls = {vantage: controls_of(those).asked for vantage, those in controls.items()}
        self._tries: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
        for (platform, _, _), by_vantage in reading.attempts.items():
            for vantage, attempts in by_vantage.items():
                self._tries[vantage, platform] += attempts

    def of(self, verdict: PlatformVerdict) -> Compared:
        """What this verdict was held against."""
        place = (verdict.vantage, verdict.platform)
        tries, said = self._tries.get(place, []), self._said.get(place, {})
        own, public = (tuple(sorted(said[who])) if who in said else None for who in ("vantage", "public"))
        return Compared(
            ends=dict(Counter(map(_end, tries))),
            neutral=_share([one.neutral.steps[-1].failure is None for one in tries if one.neutral.steps]),
            alternate=_share([one.alternate_through for one in tries if one.alternate.steps]),
            browser=_share(
                [(one.browser.tls or one.browser.steps[-1]).failure is None for one in tries if one.browser.steps]
            ),
            rounds=tuple(map(_round, self._rounds(place))),
            own=own,
            public=public,
            near=self._near(verdict),
        )

    def _rounds(self, place: tuple[str, str]) -> list[SpeedSamples]:
        first = self._reading.speed.get(place)
        return [one for one in (first, first.confirming if first else None) if one is not None]

    def _near(self, verdict: PlatformVerdict) -> Near:
        seen = [self._by_id[one] for one in verdict.witnesses if one in self._by_id]
        own = [one for one in seen if one.vantage == verdict.vantage]
        begin = max(min((one.t0 for one in own), default=0.0) - AROUND, 0.0)
        end = max((one.t for one in own), default=self._reading.record.run.seconds) + AROUND
        moments = self._controls.get(verdict.vantage, ())
        near = [one for one in moments if not own or (one.t >= begin and one.t0 <= end)]
        worked = sum(one.worked for one in near)
        return Near(worked, len(near) - worked, begin, end, whole=not own)


def _end(attempt: Attempt) -> End:
    if attempt.seen is not Seen.FAILED:
        return End(attempt.seen)
    if attempt.failure is not None:
        return End("failed", str(attempt.layer), attempt.failure)
    return End("bogon" if attempt.layer is Layer.DNS else "page")


def _share(those: Sequence[bool]) -> Share:
    return sum(those), len(those)


def _round(samples: SpeedSamples) -> Round:
    own = goodputs(samples.target)

    def rate(those: tuple[Sample, ...]) -> Rate | None:
        rates = goodputs(those)
        chance = chance_of(own, rates) if own and rates and those is not samples.target else None
        return Rate(median(rates) / 1000, len(those), chance) if rates else None

    return Round(len(samples.asked), rate(samples.target), rate(samples.neutral), rate(samples.control))
