"""What a run says of one night, in the few words that nights are compared by.

Document ─night_of→ Night: the line, each tunnel, each cell; no observation and no witness
"""

from __future__ import annotations

from msgspec import Struct

from vpntest.judge.verdict import Outcome, PlatformVerdict, State
from vpntest.report.document import Document
from vpntest.tunnel.vantage import OUTSIDE

WORKS, LIMITED, FAILS = 2, 1, 0
"""Levels, the better the higher."""
LEVELS = {WORKS: "works", LIMITED: "limited", FAILS: "fails"}

_LEVEL: dict[str, int | None] = {
    State.OK: WORKS,
    Outcome.OPEN: WORKS,
    Outcome.CIRCUMVENTS: WORKS,
    Outcome.THROTTLED: LIMITED,
    Outcome.PARTIAL: LIMITED,
    Outcome.BLOCKED: FAILS,
    Outcome.BREAKS: FAILS,
    Outcome.REFUSED: FAILS,
    # The platform's own trouble, the tunnel's, and what nobody knows: none of them says anything of this cell.
    State.DOWN: None,
    Outcome.PLATFORM_DOWN: None,
    Outcome.TUNNEL_DOWN: None,
    Outcome.INSUFFICIENT: None,
}


class Told(Struct, frozen=True):
    """One cell on one night; of the line itself where its tunnel is `outside`."""

    tunnel: str
    platform: str
    outcome: str
    """A cell's outcome; a platform's state where it is the line's."""
    mechanism: str | None
    """Of what was seen through the tunnel; None also where nothing was."""
    attempts: tuple[int, int]
    """k of n: how many tries agree with it."""

    @property
    def level(self) -> int | None:
        """How well it does; None where the night says nothing of it, or a word that only a newer vpntest knows."""
        return _LEVEL.get(self.outcome)

    @property
    def cause(self) -> str:
        """Level and reason, without what is the line's: `blocked` and `breaks` are one thing seen from the inside."""
        if self.level == WORKS:
            return "works"
        word = Outcome.BLOCKED if self.outcome == Outcome.BREAKS else self.outcome
        return f"{word} {self.mechanism or ''}".strip()


class Row(Struct, frozen=True):
    """One tunnel on one night."""

    tunnel: str
    kind: str
    servers: tuple[str, ...]
    stage: str | None
    """The last rung reached; None where nothing was judged."""
    mechanism: str | None

    @property
    def level(self) -> int | None:
        if self.stage is None:
            return None
        return WORKS if self.stage == "up" else FAILS

    @property
    def cause(self) -> str:
        return "works" if self.level == WORKS else f"{self.stage} {self.mechanism or ''}".strip()


class Night(Struct, frozen=True):
    """One run."""

    id: str
    started: str
    """UTC, ISO 8601."""
    version: str
    """Of the vpntest that judged it."""
    complete: bool
    line_rule: str | None
    """Why nothing was judged; None where the line was alive."""
    rows: tuple[Row, ...]
    cells: tuple[Told, ...]
    """Those of the line first."""
    partial: bool = False
    """Whether only some of the plan's tunnels or platforms were asked for."""

    @property
    def tells(self) -> bool:
        """Whether anything can be learnt from it: no night with a dead line says anything."""
        return self.line_rule is None

    @property
    def whole(self) -> bool:
        """Whether it has all that its plan has, so that what is missing is gone."""
        return self.complete and not self.partial


def night_of(document: Document) -> Night:
    """The night that a document tells of."""
    inside = [(cell.tunnel, cell.platform, cell.outcome, cell.inside) for cell in document.cells]
    line = [(OUTSIDE, one.platform, one.state, one) for one in document.outside]
    return Night(
        id=document.run.id,
        started=document.run.started,
        version=document.run.version,
        complete=document.run.complete,
        line_rule=document.line_rule if document.local_outage is None else document.line_rule or "line.dead",
        rows=tuple(
            # A tunnel that an interrupted run never raised is not down.
            Row(one.name, one.kind, one.servers, one.stage, one.mechanism)
            if document.run.complete or one.stage == "up"
            else Row(one.name, one.kind, one.servers, None, None)
            for one in document.tunnels
        ),
        cells=tuple(_told(*one) for one in (*line, *inside)),
        partial=document.run.partial,
    )


def _told(tunnel: str, platform: str, outcome: str, verdict: PlatformVerdict | None) -> Told:
    if verdict is None:
        return Told(tunnel, platform, str(outcome), None, (0, 0))
    return Told(tunnel, platform, str(outcome), verdict.mechanism, verdict.attempts)
