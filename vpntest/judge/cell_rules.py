"""Rules for one tunnel × one platform."""

from __future__ import annotations

from dataclasses import dataclass

from vpntest.judge.platform_rules import FREEZES, JUDGED
from vpntest.judge.rule import Rule, always
from vpntest.judge.verdict import Outcome, PlatformVerdict, State, TunnelVerdict


@dataclass(frozen=True)
class CellSeen:
    """One tunnel and one platform, judged apart."""

    tunnel: TunnelVerdict
    outside: PlatformVerdict
    inside: PlatformVerdict

    @property
    def is_censored(self) -> bool:
        """Whether there is something to circumvent."""
        return self.outside.state in (State.BLOCKED, State.THROTTLED)

    @property
    def is_frozen(self) -> bool:
        """Whether it is only larger answers that stop outside."""
        return self.outside.rule in FREEZES

    @property
    def speed_is_unknown(self) -> bool:
        """Whether the platform answers through the tunnel, and throttling would not have been seen there."""
        return _is_unknown(self.inside)

    @property
    def line_speed_is_unknown(self) -> bool:
        """The same on the line itself."""
        return _is_unknown(self.outside)

    @property
    def is_unproven(self) -> bool:
        """Whether a service that the platform needs shows no more through the tunnel than an open connection."""
        return self.inside.rule == UNPROVEN

    @property
    def line_is_unproven(self) -> bool:
        """The same on the line itself."""
        return self.outside.rule == UNPROVEN


UNPROVEN = "platform.ok.unproven"


def _is_unknown(verdict: PlatformVerdict) -> bool:
    return verdict.state is State.OK and verdict.speed is not None and verdict.speed not in JUDGED


_TABLE = "vpntest's table of outcomes: a cell is what the user gains or loses by this tunnel"

CELL: tuple[Rule[CellSeen, Outcome], ...] = (
    Rule(
        "cell.insufficient.tunnel-unmeasured",
        lambda f: not f.tunnel.usable and f.tunnel.mechanism == "unmeasured",
        Outcome.INSUFFICIENT,
        "too little is known of the tunnel itself",
        _TABLE,
    ),
    Rule(
        "cell.tunnel-down",
        lambda f: not f.tunnel.usable,
        Outcome.TUNNEL_DOWN,
        "the tunnel is not usable, so nothing was measured through it",
        _TABLE,
    ),
    Rule(
        "cell.partial",
        lambda f: f.inside.partial,
        Outcome.PARTIAL,
        "through the tunnel, some services of the platform work and others do not",
        _TABLE,
    ),
    Rule(
        "cell.platform-down",
        lambda f: f.outside.state is State.DOWN and f.inside.state is State.DOWN,
        Outcome.PLATFORM_DOWN,
        "the platform is down for everybody",
        "ooni/spec ts-017: probe and control agree that the site is down",
    ),
    Rule(
        "cell.refused",
        lambda f: f.inside.state is State.REFUSED,
        Outcome.REFUSED,
        "the platform itself turns this tunnel's exit away",
        "ooni/probe#2661",
    ),
    Rule(
        "cell.throttled",
        lambda f: f.inside.state is State.THROTTLED,
        Outcome.THROTTLED,
        "the platform crawls through the tunnel as well",
        _TABLE,
    ),
    Rule(
        "cell.insufficient.inside",
        lambda f: f.inside.state in (State.INSUFFICIENT, State.DOWN),
        Outcome.INSUFFICIENT,
        "the evidence through the tunnel is too thin",
        _TABLE,
    ),
    Rule(
        "cell.insufficient.outside",
        lambda f: f.outside.state is State.INSUFFICIENT,
        Outcome.INSUFFICIENT,
        "the evidence outside the tunnel is too thin",
        _TABLE,
    ),
    Rule(
        "cell.insufficient.outside-refused",
        lambda f: f.outside.state is State.REFUSED,
        Outcome.INSUFFICIENT,
        "the platform itself turns the line away, so there is no censor to circumvent and nothing to compare with",
        "3.3 % of popular sites turned Russian addresses away in 2022 (geoblocking is not censorship)",
    ),
    Rule(
        "cell.insufficient.outside-down",
        lambda f: f.outside.state is State.DOWN,
        Outcome.INSUFFICIENT,
        "outside and inside disagree whether the platform is down",
        _TABLE,
    ),
    Rule(
        "cell.blocked",
        lambda f: f.inside.state is State.BLOCKED and f.is_censored,
        Outcome.BLOCKED,
        "the platform is blocked through the tunnel as well",
        _TABLE,
    ),
    Rule(
        "cell.breaks",
        lambda f: f.inside.state is State.BLOCKED,
        Outcome.BREAKS,
        "the platform works without the tunnel and not through it",
        _TABLE,
    ),
    Rule(
        "cell.insufficient.unproven",
        lambda f: f.is_censored and f.is_unproven,
        Outcome.INSUFFICIENT,
        "to a service that the platform needs a connection opens through the tunnel, which proves nothing",
        "a proxy's TUN completes every TCP connect itself",
    ),
    Rule(
        "cell.insufficient.slow-tunnel",
        lambda f: f.outside.state is State.THROTTLED and f.inside.speed == "speed.slow-line",
        Outcome.INSUFFICIENT,
        "the platform is throttled outside, and everything is slow through the tunnel, so that nothing is gained by it",
        "OONI dd-007: compare with concurrent other targets",
    ),
    Rule(
        "cell.insufficient.speed-unknown",
        lambda f: f.outside.state is State.THROTTLED and f.speed_is_unknown,
        Outcome.INSUFFICIENT,
        "the platform is throttled outside, and its speed through the tunnel is not known",
        "OONI dd-007",
    ),
    Rule(
        "cell.insufficient.freeze",
        lambda f: f.is_frozen and f.speed_is_unknown,
        Outcome.INSUFFICIENT,
        "small answers pass outside as well; whether larger ones come whole through the tunnel is not known",
        "net4people/bbs#490: 14 to 34 KB pass before the silence",
    ),
    Rule(
        "cell.circumvents.speed-unknown",
        lambda f: f.is_censored and f.speed_is_unknown,
        Outcome.CIRCUMVENTS,
        "the platform is blocked outside and answers through the tunnel; how fast, was not measured",
        _TABLE,
    ),
    Rule(
        "cell.circumvents",
        lambda f: f.is_censored,
        Outcome.CIRCUMVENTS,
        "the platform is blocked or throttled outside, and works through the tunnel",
        _TABLE,
    ),
    Rule(
        "cell.insufficient.line-unproven",
        lambda f: f.line_is_unproven,
        Outcome.INSUFFICIENT,
        "to a service that the platform needs a connection opens outside, and it may be anybody who opens it",
        "an address that only the access provider's resolver gives may be anybody's",
    ),
    Rule(
        "cell.open.unproven",
        lambda f: f.is_unproven,
        Outcome.OPEN,
        "the platform works with and without the tunnel, as far as a connection without a proof can show",
        "a proxy's TUN completes every TCP connect itself; an unconfirmed address may be anybody's",
    ),
    Rule(
        "cell.open.speed-unknown",
        lambda f: f.speed_is_unknown or f.line_speed_is_unknown,
        Outcome.OPEN,
        "the platform works with and without the tunnel; whether it is throttled is not known",
        _TABLE,
    ),
    Rule(
        "cell.open",
        always,
        Outcome.OPEN,
        "the platform works with and without the tunnel: nothing to circumvent",
        _TABLE,
    ),
)
