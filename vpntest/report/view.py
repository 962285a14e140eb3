"""Which rows and columns of the matrix are shown, and in which order. What is hidden is counted, never forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from vpntest.errors import UsageError
from vpntest.judge.verdict import Outcome
from vpntest.report.matrix import Matrix, Row

Order = Literal["plan", "name", "kind", "helpful"]
ORDERS: tuple[Order, ...] = ("plan", "name", "kind", "helpful")


class View(Struct, frozen=True):
    """A choice of rows and columns; the default shows all as they come. The line itself is always the first row."""

    sort: Order = "plan"
    """`plan`: as in the plan; `name`; `kind`, and by name in each; `helpful`: what gets around most comes first."""
    tunnels: tuple[str, ...] | None = None
    """Only these; None: all."""
    platforms: tuple[str, ...] | None = None
    outcomes: tuple[str, ...] | None = None
    """Only tunnels with a cell of one of these, among the columns that are shown."""

    def of(self, matrix: Matrix) -> Matrix:
        """What is shown of a matrix. Raises UsageError for a name that it lacks."""
        names = [row.name for row in matrix.rows[1:]]
        _known(self.tunnels, names, "tunnel")
        _known(self.platforms, matrix.columns, "platform")
        _known(self.outcomes, [*map(str, Outcome)], "outcome")
        kept = [index for index, name in enumerate(matrix.columns) if self.platforms is None or name in self.platforms]
        line, *rows = (
            msgspec.structs.replace(row, entries=tuple(row.entries[index] for index in kept)) if matrix.columns else row
            for row in matrix.rows
        )
        shown = [row for row in rows if self._shows(row)]
        shown.sort(key=_KEYS[self.sort])
        return Matrix(tuple(matrix.columns[index] for index in kept), (line, *shown))

    def _shows(self, row: Row) -> bool:
        if self.tunnels is not None and row.name not in self.tunnels:
            return False
        return self.outcomes is None or any(entry.word in self.outcomes for entry in row.entries)

    def hides(self, whole: Matrix, shown: Matrix) -> str:
        """A sentence that says how much is not shown; empty where all is."""
        told = []
        for what, all_of_them, those in (
            ("tunnels", len(whole.rows) - 1, len(shown.rows) - 1),
            ("platforms", len(whole.columns), len(shown.columns)),
        ):
            if those < all_of_them:
                told.append(f"{those} of {all_of_them} {what}")
        return f"Shown: {' and '.join(told)}." if told else ""


def _known(wanted: tuple[str, ...] | None, have: Sequence[str], what: str) -> None:
    for name in wanted or ():
        if have and name not in have:
            raise UsageError(f"the run has no {what} called {name!r}; it has: {', '.join(have)}")


_HELP = {Outcome.CIRCUMVENTS: 3, Outcome.OPEN: 2, Outcome.PARTIAL: 1}


def _helpful(row: Row) -> tuple[int, int, str]:
    words = [entry.word for entry in row.entries]
    return (-words.count(Outcome.CIRCUMVENTS), -sum(_HELP.get(word, 0) for word in words), row.name)  # type: ignore[call-overload]


_KEYS = {
    "plan": lambda row: 0,
    "name": lambda row: row.name,
    "kind": lambda row: (row.kind, row.name),
    "helpful": _helpful,
}
