"""The report as Markdown of the GitHub flavour: for a job summary, an issue, a page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tabulate import tabulate

from vpntest.judge.verdict import Judgement
from vpntest.probe.observation import Record
from vpntest.report.matrix import SIGNS, Entry, Matrix, arrange, attention, fallen, summary
from vpntest.report.text import plain
from vpntest.report.view import View

_ACTIVE = re.compile(r"[\\`*_\[\]|~#!]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no table cell, link, image, mark-up or HTML of its own begins in it.

    tabulate's `github` format escapes nothing, so every text goes through here.
    """
    return _ACTIVE.sub(r"\\\g<0>", plain(text, limit=1000)).translate(_ENTITIES)


LIMIT = 1024 * 1024
"""Bytes that GitHub takes of one step's job summary; of a longer one it shows nothing (its documentation of workflow
commands, "Step isolation and limits")."""
_REST = 2000
"""Bytes for what says that something was left out, and for what else the step writes."""


def render(record: Record, judgement: Judgement, view: View | None = None, limit: int = LIMIT) -> str:
    """The whole report, ending in a newline, in no more than `limit` bytes. Raises UsageError where the view names what
    the run lacks.

    What does not fit is counted: first what needs attention, then tunnels.
    """
    view = view or View()
    run, whole = record.run, arrange(record, judgement)
    shown = view.of(whole)
    parts = [f"## vpntest {escape(run.version)}, {escape(run.started)}", escape(summary(record, judgement))]
    if shown.columns:
        legend = "\n".join(f"- {sign.glyph} {word}: {escape(sign.meaning)}" for word, sign in SIGNS.items())
        table, kept = _table(shown, limit - _REST - _size(*parts, legend))
        left_out = f"{len(shown.rows) - kept} more tunnels do not fit here." if kept < len(shown.rows) else ""
        parts += [part for part in (table, escape(view.hides(whole, shown)), left_out, legend) if part]
    if lines := [*map(str, fallen(record, judgement)), *map(str, attention(record, judgement))]:
        parts.append(_list("### Needs attention", lines, limit - _REST - _size(*parts)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _size(*parts: str) -> int:
    return sum(len(part.encode()) + 2 for part in parts)


def _table(matrix: Matrix, room: int) -> tuple[str, int]:
    """The table, and how many rows are in it: as many as there is room for."""
    headers = ["", *map(escape, matrix.columns)]
    rows = [
        [f"{escape(row.name)} ({escape(row.kind)})" if row.kind else f"**{escape(row.name)}**"]
        + [_cell(entry) for entry in row.entries]
        for row in matrix.rows
    ]
    while True:
        table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
        if _size(table) <= room or not rows:
            return table, len(rows)
        rows = rows[: min(len(rows) - 1, len(rows) * room // _size(table))]


def _list(heading: str, lines: Sequence[str], room: int) -> str:
    """A heading and as many lines as there is room for; how many more there are."""
    told = [heading, ""]
    used = _size(heading)
    for number, line in enumerate(lines):
        entry = f"- {escape(line)}"
        used += _size(entry)
        if used > room:
            told.append(f"- and {len(lines) - number} more")
            break
        told.append(entry)
    return "\n".join(told)


def _cell(entry: Entry) -> str:
    note = f" ({escape(entry.note)})" if entry.note else ""
    return f"{SIGNS[entry.word].glyph} {entry.word}{note}"
