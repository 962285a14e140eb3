"""The list of kept runs, and what changed, in words for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vpntest.history.changes import Change, Diff, Kind, Weight
from vpntest.history.night import Row, Told
from vpntest.history.store import Line
from vpntest.judge.judging import reason_of
from vpntest.report.text import plain, to_ascii, wrapped
from vpntest.tunnel.vantage import OUTSIDE

_HEADS = {
    Weight.NEWS: "News",
    Weight.UNCONFIRMED: "Not confirmed: may be chance, the next nights will tell",
    Weight.FLAPPING: "Flapping: goes to and fro, so a single night says nothing",
    Weight.PASSING: "Back to what it was: the earlier run stood alone",
}


def history(lines: Sequence[Line]) -> str:
    """The kept runs as a table, newest first."""
    from tabulate import tabulate

    if not lines:
        return "no runs are kept\n"
    rows = [
        (
            f"last~{place}" if place else "last",
            line.id,
            line.started[:16].replace("T", " "),
            f"{line.tunnels_up}/{line.tunnels}",
            str(line.platforms),
            _outcome(line),
            f"{(line.bytes + 1023) // 1024} KiB",
        )
        for place, line in enumerate(reversed(lines))
    ]
    heads = ("", "run", "UTC", "tunnels up", "platforms", "cells", "size")
    table = tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=("left",) * 6 + ("right",))
    return "\n".join(line.rstrip() for line in table.splitlines()) + "\n"


def _outcome(line: Line) -> str:
    if line.line_rule is not None:
        return "nothing judged: the line was dead"
    told = ", ".join(f"{count} {word}" for word, count in sorted(line.cells.items(), key=lambda one: (-one[1], one[0])))
    return (told or "none") + ("" if line.complete else " (interrupted)")


def changes(diff: Diff, *, width: int, unicode: bool = True) -> str:
    """What changed, the news first."""
    lines = [f"{diff.before} → {diff.after}"]
    if diff.silent is not None:
        lines.append(f"Nothing can be said: {reason_of(diff.silent)}.")
    elif not diff.changes:
        lines.append("Nothing changed.")
    if diff.versions[0] != diff.versions[1]:
        lines.append(
            f"The runs are of vpntest {plain(diff.versions[0])} and {plain(diff.versions[1])}: their rules may differ."
        )
    for weight, head in _HEADS.items():
        found = [change for change in diff.changes if change.weight is weight]
        if found:
            lines += ["", f"{head} ({len(found)})"]
            lines += [wrapped(one, width, "  ", "      ") for one in map(sentence, found)]
    return to_ascii("\n".join(lines) + "\n", unicode)


def sentence(one: Change | Row | Told) -> str:
    """One line: what, where, from what to what, and how sure."""
    if isinstance(one, Row):
        return f"{plain(one.tunnel)}: {_word(one.stage, one.mechanism)}"
    if isinstance(one, Told):
        return f"{_where(one.tunnel, one.platform)}: {_word(one.outcome, one.mechanism)}"
    where = _where(one.tunnel, one.platform)
    if one.kind in (Kind.NEW, Kind.GONE):
        return f"{one.kind}: {where}"
    if one.kind is Kind.CONFIG:
        return f"{one.kind}: {where}: was {plain(one.before or '')}, is {plain(one.after or '')}"
    change = f"{_word(one.before, one.before_mechanism)} → {_word(one.after, one.after_mechanism)}"
    return f"{one.kind}: {where}: {change}{_sure(one)}"


def _sure(change: Change) -> str:
    told: Iterable[str] = ()
    if change.seen is not None:
        told = (f"{change.seen[0]} of the last {change.seen[1]} nights",)
    if change.disjoint:
        told = (*told, "the tries differ beyond chance")
    return f" [{', '.join(told)}]" if told else ""


def _where(tunnel: str | None, platform: str | None) -> str:
    if tunnel is None:
        return f"platform {plain(platform or '')}"
    if platform is None:
        return f"tunnel {plain(tunnel)}"
    return f"{plain(platform)} outside" if tunnel == OUTSIDE else f"{plain(platform)} through {plain(tunnel)}"


def _word(word: str | None, mechanism: str | None) -> str:
    return plain(word or "nothing") + (f" ({plain(mechanism)})" if mechanism else "")
