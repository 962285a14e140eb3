"""The report for a person at a terminal: matrix, legend, summary, and what needs attention.

Every cell has a glyph and a word; colour only repeats them (Okabe and Ito's palette, which colour-blind readers can
tell apart). Where the matrix is wider than the terminal, its columns are shown in blocks, each with the tunnels' names;
where it is long, in groups of rows, each beneath the line's own row.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from tabulate import tabulate

from vpntest.judge.verdict import Judgement, Outcome, State
from vpntest.probe.observation import Record
from vpntest.report.matrix import SIGNS, Entry, Matrix, arrange, attention, fallen, summary
from vpntest.report.text import painted, plain, to_ascii, wrapped
from vpntest.report.view import View

_COLOURS = {
    Outcome.CIRCUMVENTS: (0, 158, 115),
    Outcome.OPEN: (86, 180, 233),
    State.OK: (86, 180, 233),
    Outcome.BLOCKED: (213, 94, 0),
    Outcome.BREAKS: (213, 94, 0),
    Outcome.THROTTLED: (230, 159, 0),
    Outcome.PARTIAL: (230, 159, 0),
    Outcome.REFUSED: (204, 121, 167),
}
"""Okabe and Ito, "Color Universal Design", 2008. What has no colour here says nothing about blocking."""

_GAP = 2
"""Columns between two cells, as tabulate's `simple` sets them."""
_LEAST_WIDTH = 40
_LONGEST_GROUP = 40
"""Tunnels in one table: more would take the head of the columns out of sight."""
_LEAST_NAME = 12


def render(
    record: Record,
    judgement: Judgement,
    *,
    width: int,
    colour: bool,
    unicode: bool = True,
    wide: bool = False,
    view: View | None = None,
) -> str:
    """The whole report, ending in a newline. Raises UsageError where the view names what the run lacks.

    `width`: columns of the terminal. `unicode`: whether glyphs beyond ASCII can be shown. `wide`: the matrix in one
    piece, however wide, for a viewer that scrolls.
    """
    width = max(width, _LEAST_WIDTH)
    whole, view = arrange(record, judgement), view or View()
    matrix = view.of(whole)
    parts = [wrapped(_title(record, whole), width)]
    if matrix.columns:
        parts += _tables(matrix, None if wide else width, colour, unicode)
        if hidden := view.hides(whole, matrix):
            parts.append(hidden)
        parts.append(_legend(width, colour, unicode))
    parts.append(wrapped(summary(record, judgement), width))
    if lines := [*map(str, fallen(record, judgement)), *map(str, attention(record, judgement))]:
        told = [wrapped(line, width, "  ", "      ") for line in lines]
        parts.append("\n".join(["Needs attention", *told]))
    text = "\n\n".join(parts) + "\n"
    return to_ascii(text, unicode)


def _tables(matrix: Matrix, width: int | None, colour: bool, unicode: bool) -> list[str]:
    """The matrix in pieces that fit; in one where there is no width to fit."""
    if width is None:
        return [_table(matrix, range(len(matrix.columns)), colour, unicode)]
    line, *rows = matrix.rows
    longest = max(width // 3, _LEAST_NAME)
    rows = [msgspec.structs.replace(row, name=_shortened(row.name, longest)) for row in rows]
    groups = [rows[start : start + _LONGEST_GROUP] for start in range(0, max(len(rows), 1), _LONGEST_GROUP)]
    return [
        _table(group, block, colour, unicode)
        for group in (Matrix(matrix.columns, (line, *those)) for those in groups)
        for block in _blocks(group, width)
    ]


def _shortened(name: str, longest: int) -> str:
    """A name without its middle: what tells it from others is often its end."""
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return f"{name[: longest - 1 - end]}…{name[-end:]}"


def _title(record: Record, matrix: Matrix) -> str:
    run = record.run
    tunnels, platforms = len(matrix.rows) - 1, len(matrix.columns)
    size = f" · {tunnels} tunnels × {platforms} platforms" if matrix.columns else ""
    return f"vpntest {plain(run.version)} · {plain(run.started)}{size} · {run.seconds:.0f} s"


def _blocks(matrix: Matrix, width: int) -> list[range]:
    """Column ranges that fit, each beside the tunnels' names: as few as can be, and as even, lest one be left over."""
    room = width - max(len(row.name) for row in matrix.rows)
    wide = [
        _GAP + max(len(column), *(_width(row.entries[index]) for row in matrix.rows))
        for index, column in enumerate(matrix.columns)
    ]
    fewest = len(_filled(wide, room))
    return next(blocks for less in range(room + 1) if len(blocks := _filled(wide, less)) <= fewest)


def _filled(wide: Sequence[int], room: int) -> list[range]:
    """Ranges that take no more than that room, each filled before the next begins; one at least is in each."""
    blocks, start, used = [], 0, 0
    for index, one in enumerate(wide):
        if index > start and used + one > room:
            blocks.append(range(start, index))
            start, used = index, 0
        used += one
    return [*blocks, range(start, len(wide))]


def _width(entry: Entry) -> int:
    # A glyph and a space before the word, two spaces before the note.
    return 2 + max(len(entry.word), len(entry.note))


def _table(matrix: Matrix, block: range, colour: bool, unicode: bool) -> str:
    rows = [[row.name, *(_cell(row.entries[index], colour, unicode) for index in block)] for row in matrix.rows]
    headers = ["", *(matrix.columns[index] for index in block)]
    # A name such as 1e3 must not be taken for a number, nor lose its spaces.
    table = tabulate(rows, headers, tablefmt="simple", disable_numparse=True, stralign="left", preserve_whitespace=True)
    return "\n".join(line.rstrip() for line in table.splitlines())


def _cell(entry: Entry, colour: bool, unicode: bool) -> str:
    head = _painted(f"{_glyph(entry.word, unicode)} {entry.word}", entry.word, colour)
    return f"{head}\n  {entry.note}" if entry.note else head


def _glyph(word: str, unicode: bool) -> str:
    return SIGNS[word].glyph if unicode else SIGNS[word].ascii


def _painted(text: str, word: str, colour: bool) -> str:
    return painted(text, _COLOURS.get(word), colour)  # type: ignore[call-overload]


def _legend(width: int, colour: bool, unicode: bool) -> str:
    longest = max(map(len, SIGNS))
    lines = ["Legend"]
    for word, sign in SIGNS.items():
        head = f"  {_glyph(word, unicode)} {word:<{longest}}  "
        told = wrapped(sign.meaning, width, head, " " * len(head))
        lines.append("  " + _painted(told[2 : len(head)].rstrip(), word, colour) + told[len(head.rstrip()) :])
    return "\n".join(lines)
