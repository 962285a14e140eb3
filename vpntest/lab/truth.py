"""What a run on the lab must conclude, and where a judgement differs from it.

A profile's file says only what differs from the free world. The cells follow from what a platform is outside, how far
a tunnel gets, and what the platform is behind it, by the table of outcomes: :func:`outcome`. It is written here once
more, apart from the judge, so that a slip in the one does not hide in the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from vpntest.judge.verdict import Judgement, Outcome, State
from vpntest.tunnel.ladder import Rung

if TYPE_CHECKING:
    from vpntest.lab.profiles import Profile
    from vpntest.plan.model import Platform

FREE_OUTSIDE = {"downer": "down tcp.refused"}
"""Platforms that are not ok on a free line: no socket listens at downer's address, for anybody."""
FREE_INSIDE = {"refuser": "refused", "downer": "down"}
"""The same behind a tunnel: refuser answers 403 to every exit of the lab."""
FREE_TUNNELS = {"wrong-credentials": "handshake auth.rejected"}
"""Tunnels that do not come up on a free line: the server answers, then says that it does not know the password."""

PARTIAL = "partial"
"""Some required services work behind the tunnel, others do not: no state, and yet a word for the inside."""
NONE = "none"
"""Stage of a tunnel that reached no rung."""


class Expected(Struct, frozen=True):
    """One entry: a word, or a word and a mechanism; several where the source leaves it to chance."""

    either: tuple[str, ...]
    """Each is right."""

    def accepts(self, found: str) -> bool:
        """Whether this was expected."""
        return found in self.either

    @property
    def words(self) -> tuple[str, ...]:
        """The words alone, each once."""
        return tuple(dict.fromkeys(text.split()[0] for text in self.either))

    @property
    def word(self) -> str:
        """Of the first."""
        return self.words[0]

    @property
    def mechanism(self) -> str | None:
        """Of the first; None where it has none."""
        _, _, mechanism = self.either[0].partition(" ")
        return mechanism or None

    def __str__(self) -> str:
        return " | ".join(self.either)


class Truth(Struct, frozen=True):
    """The truth table of a profile."""

    line: Literal["alive", "dead"]
    """Dead: nothing is to be judged, and all tables are empty."""
    outside: dict[str, Expected]
    """Platform → state and mechanism."""
    services: dict[tuple[str, str], Expected]
    """(platform, optional service) → state and mechanism outside."""
    tunnels: dict[str, Expected]
    """Tunnel → last rung reached, and why no further."""
    cells: dict[tuple[str, str], Expected]
    """(tunnel, platform) → outcome."""


class TruthFile(Struct, frozen=True, forbid_unknown_fields=True):
    """`[truth]` as a profile's file has it: what differs from the free world. A value holds `word` or `word mechanism`,
    and several of them with ` | ` between."""

    line: Literal["alive", "dead"] = "alive"
    outside: dict[str, str] = field(default_factory=dict)
    """Platform → state."""
    services: dict[str, str] = field(default_factory=dict)
    """`PLATFORM SERVICE` → state outside, of services that the platform's state does not hang on."""
    tunnels: dict[str, str] = field(default_factory=dict)
    """Tunnel → last rung; `up` where it says nothing."""
    inside: dict[str, str] = field(default_factory=dict)
    """`TUNNEL PLATFORM` or `* PLATFORM` → state behind a tunnel that is up."""
    cells: dict[str, str] = field(default_factory=dict)
    """`TUNNEL PLATFORM` → outcome, where the table of outcomes does not say it."""


class Compared(Struct, frozen=True):
    """One entry of the truth beside what a judgement says."""

    kind: Literal["line", "outside", "service", "tunnel", "cell"]
    where: str
    """`the line`, `outside × PLATFORM`, `outside × PLATFORM SERVICE`, `TUNNEL` or `TUNNEL × PLATFORM`."""
    expected: Expected | None
    """None where the truth knows no such entry."""
    found: str | None
    """None where nothing was judged."""
    rule: str | None = None
    """Id of the judge's rule."""

    @property
    def is_exact(self) -> bool:
        """Whether the judgement says what is true."""
        return self.expected is not None and self.found is not None and self.expected.accepts(self.found)

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected or 'nothing'}, found {self.found or 'nothing'}"


def outcome(outside: str, is_up: bool, inside: str) -> Outcome:
    """The table of outcomes: what a tunnel makes of a platform that is so outside and so behind it.

    The words are states; `inside` may also be :data:`PARTIAL`, and says nothing where the tunnel is not up.
    """
    if not is_up:
        return Outcome.TUNNEL_DOWN
    if inside in (PARTIAL, "refused", "throttled"):
        return Outcome(inside)
    match outside, inside:
        case "down", "down":
            return Outcome.PLATFORM_DOWN
        case "blocked" | "throttled", "blocked":
            return Outcome.BLOCKED
        case "blocked" | "throttled", "ok":
            return Outcome.CIRCUMVENTS
        case "ok", "blocked":
            return Outcome.BREAKS
        case "ok", "ok":
            return Outcome.OPEN
        case _:
            # One of the two is not known, or both know something that does not go together.
            return Outcome.INSUFFICIENT


def make(text: TruthFile, tunnels: Sequence[str], platforms: Sequence[Platform]) -> Truth:
    """The truth for a cast. Raises ValueError, with what is wrong, where an entry speaks of nothing in the cast."""
    if text.line == "dead":
        return Truth("dead", {}, {}, {}, {})
    ids = [platform.id for platform in platforms]
    optional = [f"{one.id} {service.id}" for one in platforms for service in one.service if not service.required]
    grid = [f"{tunnel} {platform}" for tunnel in tunnels for platform in ids]
    _only(text.outside, ids, "outside")
    _only(text.services, optional, "services")
    _only(text.tunnels, tunnels, "tunnels")
    _only(text.inside, [*grid, *(f"* {platform}" for platform in ids)], "inside")
    _only(text.cells, grid, "cells")
    outside = _filled(FREE_OUTSIDE | text.outside, ids, "ok", State, "outside")
    services = _filled(text.services, optional, "ok", State, "services")
    stages = _filled(FREE_TUNNELS | text.tunnels, tunnels, "up", (*Rung, NONE), "tunnels")
    common = {platform: text.inside.get(f"* {platform}", FREE_INSIDE.get(platform, "ok")) for platform in ids}
    every = {key: text.inside.get(key, common[key.split()[1]]) for key in grid}
    inside = _filled(every, grid, "ok", (*State, PARTIAL), "inside")
    cells = {}
    for key in grid:
        tunnel, platform = key.split()
        follows = {
            outcome(state, stage == "up", behind): None
            for state, stage, behind in product(outside[platform].words, stages[tunnel].words, inside[key].words)
        }
        named = text.cells.get(key)
        cells[tunnel, platform] = (
            _expected(named, Outcome, f"cells.{key}") if named else Expected((*map(str, follows),))
        )
    return Truth("alive", outside, {_pair(key): state for key, state in services.items()}, stages, cells)


def _pair(key: str) -> tuple[str, str]:
    one, other = key.split()
    return one, other


def _only(entries: Mapping[str, str], known: Iterable[str], where: str) -> None:
    for name in entries:
        if name not in known:
            raise ValueError(f"truth.{where} speaks of {name!r}, which the profile's cast does not have")


def _filled(
    entries: Mapping[str, str], every: Iterable[str], free: str, words: Iterable[str], where: str
) -> dict[str, Expected]:
    words = tuple(words)
    return {name: _expected(entries.get(name, free), words, f"{where}.{name}") for name in every}


def _expected(text: str, words: Iterable[str], where: str) -> Expected:
    words = tuple(words)
    either = tuple(" ".join(one.split()) for one in text.split("|"))
    for one in either:
        parts = one.split()
        if not parts or parts[0] not in words or len(parts) > 2:
            raise ValueError(f"truth.{where}: {one!r} is not one of {', '.join(words)} and a mechanism")
    return Expected(either)


def without_carrier(truth: Truth, tunnel: str) -> Truth:
    """The truth on a machine whose programs cannot carry that tunnel: it is `unsupported`, and its row is down."""
    if tunnel not in truth.tunnels:
        return truth
    down = Expected((Outcome.TUNNEL_DOWN.value,))
    cells = {key: down if key[0] == tunnel else cell for key, cell in truth.cells.items()}
    tunnels = truth.tunnels | {tunnel: Expected((f"{NONE} unsupported",))}
    return Truth(truth.line, truth.outside, truth.services, tunnels, cells)


# ── holding a judgement against it ───────────────────────────────────────────────────────────────────────────────────


def entries(truth: Truth, judgement: Judgement) -> list[Compared]:
    """Every entry that either of the two has, side by side."""
    dead = judgement.local_outage is not None
    if dead or truth.line == "dead":
        line = [Compared("line", "the line", Expected((truth.line,)), "dead" if dead else "alive", "line.dead")]
        if truth.line == "dead":
            return line
    else:
        line = []
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for verdict in judgement.outside:
        found["outside", f"outside × {verdict.platform}"] = _said(verdict.state, verdict.mechanism), verdict.rule
        for service in verdict.services:
            if (verdict.platform, service.service) in truth.services:
                where = f"outside × {verdict.platform} {service.service}"
                found["service", where] = _said(service.state, service.mechanism), service.rule
    for tunnel in judgement.tunnels:
        found["tunnel", tunnel.tunnel] = _said(tunnel.stage, tunnel.mechanism), tunnel.rule
    for cell in judgement.cells:
        found["cell", f"{cell.tunnel} × {cell.platform}"] = cell.outcome.value, cell.rule
    expected: dict[tuple[str, str], Expected] = {
        **{("outside", f"outside × {platform}"): state for platform, state in truth.outside.items()},
        **{("service", f"outside × {one} {service}"): state for (one, service), state in truth.services.items()},
        **{("tunnel", tunnel): stage for tunnel, stage in truth.tunnels.items()},
        **{("cell", f"{tunnel} × {platform}"): cell for (tunnel, platform), cell in truth.cells.items()},
    }
    return line + [
        Compared(key[0], key[1], expected.get(key), *found.get(key, (None, None)))  # type: ignore[arg-type]
        for key in expected | found
    ]


def _said(word: str, mechanism: str | None) -> str:
    return f"{word} {mechanism}" if mechanism else str(word)


def compare(profile: Profile, judgement: Judgement) -> list[Compared]:
    """Where a judgement differs from the profile's truth, over all tunnels and platforms that were judged."""
    judged = {verdict.platform for verdict in judgement.outside}, {verdict.tunnel for verdict in judgement.tunnels}
    differing = [one for one in entries(profile.truth, judgement) if not one.is_exact]
    if profile.truth.line == "dead" or judgement.local_outage is not None:
        return [one for one in differing if one.kind == "line"]
    if not judgement.cells:
        return differing
    return [one for one in differing if _is_among(one, *judged)]


def _is_among(one: Compared, platforms: set[str], tunnels: set[str]) -> bool:
    """Whether the entry is about a platform and a tunnel that were selected."""
    first, _, second = one.where.partition(" × ")
    if one.kind == "tunnel":
        return first in tunnels
    return second.split()[0] in platforms and (first in tunnels or one.kind != "cell")


def say(profile: Profile, judgement: Judgement, found: Sequence[Compared]) -> str:
    """The comparison for people: one line, and one more for each difference."""
    compared = f"{len(judgement.cells)} of {len(profile.truth.cells)} cells compared"
    if profile.truth.line == "dead":
        compared = "its line is dead"
    if not found:
        return f"equals the truth table of {profile.id} ({compared})"
    return "\n".join((f"differs from the truth table of {profile.id} ({compared}):", *(f"  {one}" for one in found)))
