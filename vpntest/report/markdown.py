"""The report as Markdown of the GitHub flavour: for a job summary, an issue, a page."""

from __future__ import annotations

import re

from tabulate import tabulate

from vpntest.judge.verdict import Judgement
from vpntest.probe.observation import Record
from vpntest.report.matrix import SIGNS, Entry, arrange, attention, summary
from vpntest.report.text import plain

_ACTIVE = re.compile(r"[\\`*_\[\]|~#!]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no table cell, link, image, mark-up or HTML of its own begins in it.

    tabulate's `github` format escapes nothing, so every text goes through here.
    """
    return _ACTIVE.sub(r"\\\g<0>", plain(text, limit=1000)).translate(_ENTITIES)


def render(record: Record, judgement: Judgement) -> str:
    """The whole report, ending in a newline."""
    run = record.run
    parts = [f"## vpntest {escape(run.version)}, {escape(run.started)}", escape(summary(record, judgement))]
    matrix = arrange(record, judgement)
    if matrix.columns:
        rows = [
            [f"{escape(row.name)} ({escape(row.kind)})" if row.kind else f"**{escape(row.name)}**"]
            + [_cell(entry) for entry in row.entries]
            for row in matrix.rows
        ]
        headers = ["", *map(escape, matrix.columns)]
        parts.append(tabulate(rows, headers, tablefmt="github", disable_numparse=True))
        parts.append("\n".join(f"- {sign.glyph} {word}: {escape(sign.meaning)}" for word, sign in SIGNS.items()))
    if lines := attention(record, judgement):
        parts.append("### Needs attention\n\n" + "\n".join(f"- {escape(line)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def _cell(entry: Entry) -> str:
    note = f" ({escape(entry.note)})" if entry.note else ""
    return f"{SIGNS[entry.word].glyph} {entry.word}{note}"
