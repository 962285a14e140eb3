"""What the control URLs say of a place: that it worked, and when."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from vpntest.judge.kinds import is_verified
from vpntest.probe.observation import HttpExchange, Observation

AROUND = 5.0
"""Seconds before and after a failure within which a control must have worked for the failure to count. A choice: about
one round of attempts, and less than the 7 s in which a connect sends its four SYNs, which an outage must cover to look
like a block."""
SHORT = 4.0
"""Seconds. A failure that took less is held against the controls of so much time about it, in which there are two."""


@dataclass(frozen=True)
class Proof:
    """Whether a place was seen to work about the time of a failure."""

    alive: bool
    dead: tuple[Observation, ...] = ()
    """The controls that failed about then."""


@dataclass(frozen=True)
class Moment:
    """One control asked, from its first step to its last."""

    last: Observation
    t0: float
    t: float
    worked: bool


class Proven:
    """When a place was seen to work by other things than its controls: of many, only the times matter."""

    def __init__(self, observations: Iterable[Observation] = ()) -> None:
        seen = tuple(observations)
        self._begins = sorted(one.t0 for one in seen)
        self._ends = sorted(one.t for one in seen)

    def __bool__(self) -> bool:
        return bool(self._ends)

    def amid(self, t0: float, t: float) -> bool:
        """Whether any was under way then."""
        return bisect_right(self._ends, t0) < bisect_left(self._begins, t)

    def began(self, since: float, until: float = inf) -> bool:
        """Whether any began then."""
        return bisect_left(self._begins, since) < bisect_right(self._begins, until)

    def ended(self, since: float, until: float = inf) -> bool:
        """Whether any ended then."""
        return bisect_left(self._ends, since) < bisect_right(self._ends, until)


@dataclass(frozen=True)
class Controls:
    """What the control URLs say of one vantage, and when."""

    before: tuple[Moment, ...] = ()
    during: tuple[Moment, ...] = ()
    after: tuple[Moment, ...] = ()

    @property
    def dead_before(self) -> tuple[str, ...]:
        """Ids of the failures before the platforms, if none succeeded then."""
        return tuple(one.last.id for one in _dead(self.before))

    @property
    def asked(self) -> tuple[Moment, ...]:
        """All of them, in the order of asking."""
        return (*self.before, *self.during, *self.after)

    @property
    def worked_during(self) -> bool:
        """Whether one succeeded while the platforms were asked."""
        return _worked(self.during)

    @property
    def worked_after(self) -> bool:
        """Whether one succeeded after the platforms."""
        return _worked(self.after)

    @property
    def are_good(self) -> bool:
        """Whether the place itself is known to work, before the platforms and after them."""
        return _worked(self.before) and _worked(self.after)

    def around(self, t0: float, t: float) -> Proof:
        """Whether this place was seen to work around a failure that took from `t0` to `t`.

        A control must have worked in its midst; or, where none was asked then, within AROUND of it, on both sides where
        any was asked so near. And one must have worked some time before and one some time after, for else the place may
        be dead since. Without controls during the platforms, those before and after must do.
        """
        if not self.during:
            return Proof(self.are_good, tuple(one.last for part in (self.before, self.after) for one in _dead(part)))
        return _proof(self._telling(), t0, t, Proven(), must_be_near=True)

    def bracket(self, t0: float, t: float, also: Proven | None = None) -> Proof:
        """The same, but however long before and after. `also`: what else can only be if this place worked."""
        if not self.during and self.are_good:
            return Proof(True)
        controls = self._telling()
        # Controls that never answer where other things come through are blocked, and the place is not dead.
        telling = controls if _worked(controls) or not also else ()
        return _proof(telling, t0, t, also or Proven(), must_be_near=False)

    def _telling(self) -> tuple[Moment, ...]:
        moments = self.asked
        # A control that never answered here may be blocked itself: it tells nothing of a moment.
        working = {one.last.endpoint for one in moments if one.worked}
        return tuple(one for one in moments if one.last.endpoint in working) if working else moments


def _worked(moments: Iterable[Moment]) -> bool:
    return any(one.worked for one in moments)


def _dead(moments: tuple[Moment, ...]) -> tuple[Moment, ...]:
    return () if _worked(moments) else moments


def _split(
    moments: Iterable[Moment], t0: float, t: float
) -> tuple[tuple[Moment, ...], tuple[Moment, ...], tuple[Moment, ...]]:
    """Those amid this stretch of time, those before it, those after it."""
    amid: list[Moment] = []
    before: list[Moment] = []
    after: list[Moment] = []
    for one in moments:
        (before if one.t <= t0 else after if one.t0 >= t else amid).append(one)
    return tuple(amid), tuple(before), tuple(after)


def _proof(moments: tuple[Moment, ...], t0: float, t: float, also: Proven, *, must_be_near: bool) -> Proof:
    # A control that hangs while others answer must not count for more than they do.
    margin = max(0.0, SHORT - (t - t0)) / 2
    begin, end = t0 - margin, t + margin
    amid, before, after = _split(moments, begin, end)
    if amid or also.amid(begin, end):
        near = [(amid, also.amid(begin, end))]
    else:
        near = [
            (tuple(one for one in before if one.t >= t0 - AROUND), also.ended(t0 - AROUND, begin)),
            (tuple(one for one in after if one.t0 <= t + AROUND), also.began(end, t + AROUND)),
        ]
    dead = tuple(one.last for part, proven in near if not proven for one in _dead(part))
    is_near = any(proven or _worked(part) for part, proven in near) or not must_be_near
    amid, before, after = _split(moments, t0, t)
    is_bracketed = (_worked(amid) or also.amid(t0, t)) or (
        (_worked(before) or also.ended(-inf, t0)) and (_worked(after) or also.began(t))
    )
    return Proof(is_near and is_bracketed and not dead, dead)


def controls_of(observations: Iterable[Observation]) -> Controls:
    chains: dict[tuple[str, int, str], list[Observation]] = defaultdict(list)
    for observation in observations:
        # Without a transaction each step stands for itself.
        alone = "" if observation.transaction else observation.id
        chains[observation.phase, observation.transaction, alone].append(observation)
    phases: dict[str, list[Moment]] = {"before": [], "during": [], "after": []}
    for (phase, _, _), steps in chains.items():
        steps.sort(key=lambda step: step.t)
        answered = [step for step in steps if isinstance(step.details, HttpExchange) and step.details.code is not None]
        failed = [step for step in steps if step.failure is not None]
        if not answered and not failed:
            continue  # cut short
        # A refusal under the control's own certificate is an answer; one that nobody signed may be a portal's, and so
        # may a redirection.
        signed = any(map(is_verified, steps))
        worked = any(step.failure is None and (signed or _is_page(step)) for step in answered)
        last = (answered if worked else failed or answered)[-1]
        # Those of a confirming round are between the others too.
        phases[phase if phase in phases else "during"].append(
            Moment(last, min(step.t0 for step in steps), last.t, worked)
        )
    return Controls(*(tuple(sorted(those, key=lambda one: (one.t, one.last.id))) for those in phases.values()))


def _is_page(observation: Observation) -> bool:
    details = observation.details
    return isinstance(details, HttpExchange) and details.code is not None and 200 <= details.code < 300
