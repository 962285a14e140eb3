"""What changed between two nights, and whether it is news or noise.

Networks are fickle: one night proves little. Every tunnel, and every cell, is read as a series of nights, each with one
word. Nights that say nothing of it (a dead line, `insufficient`, a tunnel or platform that is down) are not in its
series. Its *standing* word is that of the first night; another word takes its place, which is **news**, when

* it was seen in k of the last n nights of the series, tonight among them; or
* the evidence is disjoint: the share of tries that worked tonight and the share of the nights before (at least n of the
  last WINDOW) have confidence intervals that do not meet, which takes a plan of many tries (see _Z); and
* it is not **flapping**: its word has not changed FLAPS times within the last WINDOW nights, nor once more within twice
  as many, unless it has been the same for SETTLED nights now. Against a baseline that is
  not asked: what works less well than it did then, in k of the last n nights, is worse, however it came to it.

Nights from before the last MEMORY on which the line was alive are no witnesses of news: two bad ones a month apart are
no block. Until then it is **unconfirmed**. What differs from the night before only because that night stood alone is
**passing**.

Whether a cell says anything at all is a series as well, of the nights on which its tunnel was up and the line told of
its platform: a cell that has gone silent, or is heard again, is a change once that is news, and none before.

Pure: nights in, changes out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct, structs

from vpntest.errors import UsageError
from vpntest.history.night import FAILS, WORKS, Night, Row, Told
from vpntest.judge.verdict import Outcome
from vpntest.tunnel.vantage import OUTSIDE

SCHEMA: Final = "vpntest.diff/1"

K, N = 2, 3
"""A change must be seen in k of the last n nights. A choice: one night more, so that a server that is being restarted
alarms nobody."""
WINDOW = 7
"""Nights that say what is usual for a cell: a week."""
FLAPS = 3
"""Changes of word within WINDOW that make it flapping: there and back once is two. What is down for two nights in five
changes more slowly, and is found by one change more within two such windows."""
SETTLED = 4
"""Nights of one word after which the longer window is not asked, so that it delays no news for longer than the week
does. Of a tunnel that is down on three nights of ten it takes a third of the false news, by simulation."""
MEMORY = 14
"""Nights that can bear witness to news: two weeks. Nights and not days, for whoever measures once a week."""
REMEMBERED = 120
"""Nights before the later one that are asked for what is usual."""
_Z = 4.0
"""Standard errors to either side. More than chance asks for, since the tries of one night share that night's causes: a
server that restarts fails them all. At 4, a night of three tries, or of five pairs of transfers, differs from no week
of such nights; ten tries against three nights of ten do (0/10: at most 16/26; 30/30: at least 30/46)."""


class Kind(StrEnum):
    """What is different."""

    REGRESSION = "regression"
    """Works less well: works → limited → fails; a tunnel that is no longer up."""
    RECOVERY = "recovery"
    CAUSE = "cause"
    """Does as badly, in another way."""
    CONFIG = "config"
    """The tunnel of this name is of another kind, or leads elsewhere."""
    NEW = "new"
    """A tunnel or platform that was not in the earlier run."""
    GONE = "gone"
    SILENT = "silent"
    """A cell that told something tells nothing: `insufficient`, or its platform is down."""
    HEARD = "heard"
    """A cell tells something again."""


class Weight(StrEnum):
    """How much it counts."""

    NEWS = "news"
    UNCONFIRMED = "unconfirmed"
    FLAPPING = "flapping"
    PASSING = "passing"


class Leads(Struct, frozen=True):
    """What can be told of a config without a word of its secrets."""

    kind: str
    servers: tuple[str, ...]


class Change(Struct, frozen=True):
    """One difference."""

    kind: Kind
    weight: Weight
    tunnel: str | None
    """`outside` for the line itself; null for a platform as a whole."""
    platform: str | None
    """Null for a tunnel as a whole."""
    before: str | None
    """What it was: an outcome, a tunnel's stage, its servers; null where there was nothing."""
    after: str | None
    before_mechanism: str | None = None
    after_mechanism: str | None = None
    seen: tuple[int, int] | None = None
    """k of n: how many of the last nights that say anything of it agree with tonight; null where that is not asked."""
    disjoint: bool = False
    """Whether tonight's tries and those of the nights before differ beyond chance."""
    since: str | None = None
    """Id of the run in which it was first seen so, without another word since."""
    before_config: Leads | None = None
    """Of `config` alone: `before` and `after` in parts."""
    after_config: Leads | None = None


def compare(
    before: Night,
    after: Night,
    earlier: Iterable[Night] = (),
    *,
    accepted: bool = False,
    told: Container[str] | None = None,
    k: int = K,
    n: int = N,
) -> tuple[Change, ...]:
    """What differs in `after`, the tunnels' own changes first, each in the order of `after`.

    `earlier`: other kept nights; those that are not older than `after` are passed over. `accepted`: `before` is a
    baseline that somebody has looked at: its words stand, whatever came before it. `told`: ids of the runs up to
    `before` whose changes somebody was told of (by default of all): each series is compared with the last of them that
    says anything of it, so that a run which says nothing of a cell hides no change of it. Nothing where the line was
    dead in `after`. Raises UsageError where `after` is the older.
    """
    # Of redacted runs only the hour is known, and their ids are by chance.
    if after.started < before.started:
        raise UsageError(f"{after.id} is older than {before.id}: the earlier run comes first")
    if not after.tells or after.id == before.id:
        return ()
    past = {night.id: night for night in earlier if night.tells and _when(night) < _when(after)}
    if before.tells:
        past[before.id] = before
    nights = sorted(past.values(), key=_when)
    if accepted:
        nights = [night for night in nights if _when(night) >= _when(before)]
    known = sum(_when(night) <= _when(before) for night in nights)
    series = _Series([*nights, after], known, k, n, accepted=accepted, told=told)
    return (*series.tunnels(), *series.cells())


def _when(night: Night) -> tuple[str, str]:
    return night.started, night.id


class _Point(Struct, frozen=True):
    """One word of a series."""

    night: str
    place: int
    """Of the night among all."""
    word: object
    told: Row | Told
    good: tuple[int, int] | None
    """Tries that worked, of those made; None where tries say nothing of the word."""


class _Series:
    """All series of the nights."""

    def __init__(
        self, nights: Sequence[Night], known: int, k: int, n: int, *, accepted: bool, told: Container[str] | None
    ) -> None:
        self._nights = nights
        self._accepted = accepted
        self._places = {night.id: place for place, night in enumerate(nights)}
        self._known = {night.id for night in nights[:known] if told is None or night.id in told}
        """Nights that were told, up to the earlier of the two that are compared."""
        self._last = nights[-1]
        # All that there was: what the last whole run has, and partial ones since.
        whole = next((place for place in reversed(range(known)) if nights[place].whole), None)
        since = nights[known if whole is None else whole : known]
        self._had = {row.tunnel: row for night in (since or nights[:known]) for row in night.rows}
        self._platforms = dict.fromkeys(cell.platform for night in since for cell in night.cells)
        self._knows_all = whole is not None
        self._k, self._n = k, n
        self._rows: dict[str, list[tuple[str, Row]]] = {}
        self._cells: dict[tuple[str, str], list[tuple[str, Told]]] = {}
        self._mute: set[tuple[str, str]] = set()
        """Nights, and platforms of which the line itself told nothing then."""
        for night in nights:
            for row in night.rows:
                self._rows.setdefault(row.tunnel, []).append((night.id, row))
            for cell in night.cells:
                self._cells.setdefault((cell.tunnel, cell.platform), []).append((night.id, cell))
                if cell.tunnel == OUTSIDE and cell.level is None:
                    self._mute.add((night.id, cell.platform))

    def tunnels(self) -> Iterable[Change]:
        had = self._had
        for row in self._last.rows:
            if row.tunnel not in had:
                if self._knows_all:
                    yield Change(Kind.NEW, Weight.NEWS, row.tunnel, None, None, row.stage)
            elif (led := _leads(had[row.tunnel])) != (leads := _leads(row)):
                before, after = (" ".join((one.kind, *one.servers)) for one in (led, leads))
                change = Change(Kind.CONFIG, Weight.NEWS, row.tunnel, None, before, after)
                yield structs.replace(change, before_config=led, after_config=leads)
            yield from self._changed(self._rows[row.tunnel])
        have = {row.tunnel for row in self._last.rows}
        for row in had.values():
            if row.tunnel not in have and self._last.whole:
                yield Change(Kind.GONE, Weight.NEWS, row.tunnel, None, row.stage, None)

    def cells(self) -> Iterable[Change]:
        had, have = self._platforms, dict.fromkeys(cell.platform for cell in self._last.cells)
        if self._knows_all:
            yield from (Change(Kind.NEW, Weight.NEWS, None, one, None, None) for one in have if one not in had)
        if self._last.whole:
            yield from (Change(Kind.GONE, Weight.NEWS, None, one, None, None) for one in had if one not in have)
        for cell in self._last.cells:
            told = self._cells[cell.tunnel, cell.platform]
            yield from tuple(self._changed(told)) or self._silenced(told)

    def _changed(self, told: Sequence[tuple[str, Row | Told]]) -> Iterable[Change]:
        """How well it does; and only where that has not changed, in which way."""
        level = told[-1][1].level
        if level is None:
            return
        telling = [(night, one) for night, one in told if one.level is not None]
        # Causes are compared among nights that did as well as this one.
        alike = [(night, one) for night, one in telling if one.level == level]
        change = self._judged(telling, lambda one: one.level, _good) or self._judged(alike, lambda one: one.cause, None)
        if change is not None:
            yield change

    def _silenced(self, told: Sequence[tuple[str, Told]]) -> Iterable[Change]:
        """Whether it tells anything, where nothing else is at fault: only once that is news."""

        def is_asked(night: str, one: Told) -> bool:
            mute = one.tunnel != OUTSIDE and (night, one.platform) in self._mute
            return one.outcome != Outcome.TUNNEL_DOWN and not mute

        if is_asked(*told[-1]):
            asked = [one for one in told if is_asked(*one)]
            change = self._judged(asked, lambda one: one.level is None, None)
            if change is not None and change.weight is Weight.NEWS:
                yield change

    def _judged(
        self,
        told: Sequence[tuple[str, Row | Told]],
        word: Callable[[Row | Told], object],
        good: Callable[[Row | Told], tuple[int, int] | None] | None,
    ) -> Change | None:
        points = [
            _Point(night, self._places[night], word(one), one, good(one) if good else None) for night, one in told
        ]
        known = max((place for place, point in enumerate(points, 1) if point.night in self._known), default=0)
        if known == 0:
            return None
        standing, weight, stood = points[0], Weight.NEWS, points[0]
        for place, point in enumerate(points):
            if point.word == standing.word:
                standing = point
            else:
                weight = self._weight(points[: place + 1], standing)
                if weight is Weight.NEWS:
                    standing = point
            if place == known - 1:
                stood = standing
        now, then = points[-1], points[known - 1]
        if now.word == stood.word:
            if then.word == now.word:
                return None
            # Only the night before was otherwise, and nobody took its word for it.
            weight = Weight.FLAPPING if _flaps(points) else Weight.PASSING
            return self._change(points, then, weight)
        return self._change(points, stood, Weight.NEWS if standing.word == now.word else weight)

    def _weight(self, points: Sequence[_Point], standing: _Point) -> Weight:
        """Of a last point whose word is not the standing one."""
        if not self._accepted and _flaps(points):
            return Weight.FLAPPING
        agree, _ = self._seen(points)
        return Weight.NEWS if agree >= self._k or self._disjoint(points) else Weight.UNCONFIRMED

    def _seen(self, points: Sequence[_Point]) -> tuple[int, int]:
        recent = _witnesses(points, self._n)
        return sum(point.word == points[-1].word for point in recent), len(recent)

    def _disjoint(self, points: Sequence[_Point]) -> bool:
        before = _witnesses(points, 1 + WINDOW)[:-1]
        usual = [point.good for point in before if point.good is not None and point.good[1]]
        tonight = points[-1].good
        if tonight is None or not tonight[1] or len(usual) < self._n:
            return False
        low, high = _interval(sum(good for good, _ in usual), sum(made for _, made in usual))
        least, most = _interval(*tonight)
        return most < low or high < least

    def _change(self, points: Sequence[_Point], then: _Point, weight: Weight) -> Change:
        now, was = points[-1].told, then.told
        if now.level is None:
            kind = Kind.SILENT
        elif was.level is None:
            kind = Kind.HEARD
        elif now.level == was.level:
            kind = Kind.CAUSE
        else:
            kind = Kind.REGRESSION if now.level < was.level else Kind.RECOVERY
        since = len(points) - 1
        while since and points[since - 1].word == points[-1].word:
            since -= 1
        return Change(
            kind,
            weight,
            now.tunnel,
            now.platform if isinstance(now, Told) else None,
            _word(was),
            _word(now),
            was.mechanism,
            now.mechanism,
            seen=self._seen(points),
            disjoint=self._disjoint(points),
            since=points[since].night,
        )


def _word(told: Row | Told) -> str:
    return told.outcome if isinstance(told, Told) else str(told.stage)


def _leads(row: Row) -> Leads:
    return Leads(row.kind, row.servers)


def _good(told: Row | Told) -> tuple[int, int] | None:
    """Tries that worked, of those made. A tunnel is raised once a night, so its tries say no more than its word."""
    if isinstance(told, Row):
        return None
    k, n = told.attempts
    return (k, n) if told.level == WORKS else (n - k, n)


def _flaps(points: Sequence[_Point]) -> bool:
    week, changed = _changes(points[-WINDOW:]), _changes(points[-2 * WINDOW :])
    settled = len(points) >= SETTLED and not _changes(points[-SETTLED:])
    return week >= FLAPS or (changed > FLAPS and not settled)


def _changes(points: Sequence[_Point]) -> int:
    return sum(one.word != other.word for one, other in itertools.pairwise(points))


def _witnesses(points: Sequence[_Point], most: int) -> Sequence[_Point]:
    """The last so many that are not too old."""
    return [point for point in points[-most:] if point.place > points[-1].place - MEMORY]


def _interval(good: int, made: int) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, JASA 22, 1927), which holds for few tries as well."""
    share, z2 = good / made, _Z * _Z
    centre = (share + z2 / (2 * made)) / (1 + z2 / made)
    half = _Z * math.sqrt(share * (1 - share) / made + z2 / (4 * made * made)) / (1 + z2 / made)
    return centre - half, centre + half


# ── what a machine complains of ──────────────────────────────────────────────────────────────────────────────────────


class Condition(StrEnum):
    """What `--fail-on` may name."""

    REGRESSION = "regression"
    """News: a cell, the line, or a tunnel does less well."""
    RECOVERY = "recovery"
    ANY_CHANGE = "any-change"
    """Anything differs, noise included."""
    BLOCKED = "blocked"
    """A platform is blocked through a tunnel, whatever it was before."""
    THROTTLED = "throttled"
    TUNNEL_DOWN = "tunnel-down"
    """A tunnel is not up, whatever it was before."""


NEEDS_HISTORY = frozenset({Condition.REGRESSION, Condition.RECOVERY, Condition.ANY_CHANGE})
"""Those that ask what was before."""


def complaints(condition: Condition, after: Night, changes: Sequence[Change]) -> tuple[Change | Row | Told, ...]:
    """What in the later night makes the condition hold; nothing where the line was dead."""
    if not after.tells:
        return ()
    match condition:
        case Condition.ANY_CHANGE:
            return tuple(changes)
        case Condition.REGRESSION | Condition.RECOVERY:
            return tuple(one for one in changes if one.kind == condition.value and one.weight is Weight.NEWS)
        case Condition.TUNNEL_DOWN:
            return tuple(row for row in after.rows if row.level == FAILS)
        case Condition.BLOCKED:
            bad: tuple[str, ...] = (Outcome.BLOCKED, Outcome.BREAKS)
        case Condition.THROTTLED:
            bad = (Outcome.THROTTLED,)
    return tuple(cell for cell in after.cells if cell.outcome in bad and cell.tunnel != OUTSIDE)


class Complaint(Struct, frozen=True):
    """What `--fail-on` has found."""

    condition: Condition
    tunnel: str | None
    """As in a change."""
    platform: str | None
    word: str | None
    """What it is now: an outcome, a tunnel's stage, its servers; null where nothing is."""
    mechanism: str | None


class Diff(Struct, frozen=True):
    """The JSON form of a comparison."""

    schema: Literal["vpntest.diff/1"]
    before: str
    """Run ids."""
    after: str
    silent: str | None
    """Why nothing can be said; null where it can."""
    versions: tuple[str, str]
    """Of vpntest: where they differ, so may the rules."""
    changes: tuple[Change, ...]
    k: int = K
    """A change was news where it was seen in k of the last n nights that say anything of it."""
    n: int = N
    accepted: bool = False
    """Whether `before` is a baseline: its words stand, whatever came before it."""
    fail_on: tuple[Complaint, ...] = ()
    """All that `--fail-on` has found."""


def diff(
    before: Night,
    after: Night,
    changes: tuple[Change, ...],
    *,
    accepted: bool = False,
    holding: Mapping[Condition, Iterable[Change | Row | Told]] | None = None,
) -> Diff:
    """A comparison with what it compared; `holding`: what :func:`complaints` has found."""
    silent = None if after.tells else after.line_rule
    found = tuple(_complaint(one, what) for one, all_of_it in (holding or {}).items() for what in all_of_it)
    return Diff(
        SCHEMA,
        before.id,
        after.id,
        silent,
        (before.version, after.version),
        changes,
        accepted=accepted,
        fail_on=found,
    )


def _complaint(condition: Condition, what: Change | Row | Told) -> Complaint:
    if isinstance(what, Change):
        return Complaint(condition, what.tunnel, what.platform, what.after, what.after_mechanism)
    return Complaint(
        condition, what.tunnel, what.platform if isinstance(what, Told) else None, _word(what), what.mechanism
    )
