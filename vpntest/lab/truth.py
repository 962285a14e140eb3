"""What a run on the lab must conclude, and where a judgement differs from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from vpntest.judge.verdict import Judgement, Outcome, State
from vpntest.tunnel.ladder import Rung

if TYPE_CHECKING:
    from vpntest.lab.profiles import Profile


class Expected(Struct, frozen=True):
    """A word and its mechanism: a platform's state at `outside`, or a tunnel's last rung."""

    word: str
    mechanism: str | None

    def __str__(self) -> str:
        return f"{self.word} {self.mechanism}" if self.mechanism else self.word


class Truth(Struct, frozen=True):
    """The truth table of a profile: every platform outside, every tunnel, every cell."""

    outside: dict[str, Expected]
    """Platform → state and mechanism."""
    tunnels: dict[str, Expected]
    """Tunnel → last rung reached, and why no further."""
    cells: dict[tuple[str, str], Outcome]
    """(tunnel, platform) → outcome."""


class Difference(Struct, frozen=True):
    """One thing that a judgement has otherwise than the truth."""

    where: str
    """`outside × PLATFORM`, `TUNNEL` or `TUNNEL × PLATFORM`."""
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


def read_truth(outside: Mapping[str, str], tunnels: Mapping[str, str], grid: str) -> Truth:
    """The truth from the three parts of a profile's file.

    `outside` and `tunnels` hold `word` or `word mechanism`; the first line of `grid` names the platforms, each other
    line a tunnel and its outcomes in that order. Raises ValueError, with what is wrong, where they do not fit.
    """
    states = {platform: _expected(text, tuple(State), f"outside.{platform}") for platform, text in outside.items()}
    stages = {tunnel: _expected(text, tuple(Rung), f"tunnels.{tunnel}") for tunnel, text in tunnels.items()}
    header, *rows = [line.split() for line in grid.splitlines() if line.strip()] or [[]]
    if header != list(states):
        raise ValueError("the grid's first line must name the platforms of `outside`, in their order")
    if [row[0] for row in rows] != list(stages):
        raise ValueError("the grid's rows must be the tunnels of `tunnels`, in their order")
    cells = {}
    for tunnel, *outcomes in rows:
        if len(outcomes) != len(header):
            raise ValueError(f"the grid's row {tunnel} has {len(outcomes)} outcomes for {len(header)} platforms")
        for platform, outcome in zip(header, outcomes, strict=True):
            try:
                cells[tunnel, platform] = Outcome(outcome)
            except ValueError:
                raise ValueError(f"the grid's cell {tunnel} × {platform}: there is no outcome {outcome!r}") from None
    return Truth(states, stages, cells)


def without_carrier(truth: Truth, tunnel: str) -> Truth:
    """The truth on a machine whose programs cannot carry that tunnel: it is `unsupported`, and its row is down."""
    cells = {key: Outcome.TUNNEL_DOWN if key[0] == tunnel else outcome for key, outcome in truth.cells.items()}
    return Truth(truth.outside, truth.tunnels | {tunnel: Expected("none", "unsupported")}, cells)


def _expected(text: str, words: Iterable[str], where: str) -> Expected:
    word, *mechanism = text.split()
    if word not in words or len(mechanism) > 1:
        raise ValueError(f"{where}: {text!r} is not one of {', '.join(words)} and a mechanism")
    return Expected(word, mechanism[0] if mechanism else None)


def compare(profile: Profile, judgement: Judgement) -> list[Difference]:
    """Where a judgement differs from the profile's truth, over all tunnels and platforms that were judged."""
    truth = profile.truth
    if judgement.local_outage is not None:
        return [Difference("the line", "alive", "local outage")]
    found: list[Difference] = []
    platforms = {verdict.platform: verdict for verdict in judgement.outside}
    tunnels = {verdict.tunnel: verdict for verdict in judgement.tunnels}
    cells = {(cell.tunnel, cell.platform): cell.outcome for cell in judgement.cells}
    if not cells:
        found.append(Difference("the matrix", "cells", "none"))
    for platform, state in platforms.items():
        seen = Expected(state.state, state.mechanism)
        found += _difference(f"outside × {platform}", truth.outside.get(platform), seen)
    for tunnel, verdict in tunnels.items():
        found += _difference(tunnel, truth.tunnels.get(tunnel), Expected(verdict.stage, verdict.mechanism))
    for tunnel in tunnels:
        for platform in platforms:
            key = (tunnel, platform)
            found += _difference(f"{tunnel} × {platform}", truth.cells.get(key), cells.get(key))
    return found


def _difference(where: str, expected: object, found: object) -> list[Difference]:
    same = found is not None and str(expected) == str(found)
    return [] if same else [Difference(where, str(expected or "nothing"), str(found or "nothing"))]


def say(profile: Profile, judgement: Judgement, found: Sequence[Difference]) -> str:
    """The comparison for people: one line, and one more for each difference."""
    compared = f"{len(judgement.cells)} of {len(profile.truth.cells)} cells compared"
    if not found:
        return f"equals the truth table of {profile.id} ({compared})"
    return "\n".join((f"differs from the truth table of {profile.id} ({compared}):", *(f"  {one}" for one in found)))
