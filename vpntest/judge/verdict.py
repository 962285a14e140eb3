"""What the judge concludes, in closed vocabularies. Each verdict names its rule and its witnesses."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class State(StrEnum):
    """A platform at a vantage."""

    OK = "ok"
    BLOCKED = "blocked"
    THROTTLED = "throttled"
    REFUSED = "refused"
    """The platform itself turns this exit away, under its own valid certificate."""
    DOWN = "down"
    INSUFFICIENT = "insufficient"
    """Evidence too thin to say. Not `ok`, and never a weak `blocked`."""


class Outcome(StrEnum):
    """A cell: one tunnel and one platform."""

    CIRCUMVENTS = "circumvents"
    OPEN = "open"
    BLOCKED = "blocked"
    THROTTLED = "throttled"
    PARTIAL = "partial"
    REFUSED = "refused"
    BREAKS = "breaks"
    TUNNEL_DOWN = "tunnel-down"
    PLATFORM_DOWN = "platform-down"
    INSUFFICIENT = "insufficient"


class ServiceVerdict(Struct, frozen=True):
    """One service of a platform at a vantage."""

    service: str
    state: State
    mechanism: str | None
    rule: str
    witnesses: tuple[str, ...]


class PlatformVerdict(Struct, frozen=True):
    """A platform at a vantage."""

    vantage: str
    platform: str
    state: State
    mechanism: str | None
    """Dotted path, as deep as the evidence reaches; None for `ok` and `insufficient`."""
    rule: str
    """Stable id of the rule that matched first."""
    witnesses: tuple[str, ...]
    """Ids of the observations that the rule stands on."""
    attempts: tuple[int, int] = (0, 0)
    """k of n: how many attempts agree with the state, of how many were made; of a flaky one, how many were answered.
    """
    partial: bool = False
    """Some required services are ok and others are not."""
    services: tuple[ServiceVerdict, ...] = ()
    speed: str | None = None
    """Id of the rule that its speed was judged by; None where the platform names nothing to measure it with."""
    detail: str | None = None
    """What the mechanism does not say, in words: the rate that a policer holds, for one."""


class TunnelVerdict(Struct, frozen=True):
    """How far a tunnel got."""

    tunnel: str
    stage: str
    """The last rung reached (:class:`vpntest.tunnel.ladder.Rung`)."""
    mechanism: str | None
    """Why not further; None exactly when `stage` is `up`."""
    rule: str
    witnesses: tuple[str, ...]
    detail: str | None = None
    """What the mechanism does not say, in words: how much passed; of one that carries, loss and round-trip time."""

    @property
    def usable(self) -> bool:
        """Whether what was measured through it says anything about platforms."""
        return self.stage == "up"


class Cell(Struct, frozen=True):
    """One tunnel × platform."""

    tunnel: str
    platform: str
    outcome: Outcome
    rule: str
    outside: PlatformVerdict
    inside: PlatformVerdict | None
    """None where nothing was measured through the tunnel."""


class Judgement(Struct, frozen=True):
    """Everything concluded from one record."""

    outside: tuple[PlatformVerdict, ...]
    """The platforms at `outside`, in the record's order; empty in a local outage."""
    tunnels: tuple[TunnelVerdict, ...]
    cells: tuple[Cell, ...]
    local_outage: tuple[str, ...] | None = None
    """Ids of the failed controls where the line itself is dead: then nothing is judged. None: the line is alive."""
    line_rule: str | None = None
    """Id of the rule that says why nothing is judged; None where the line is alive."""
