"""Everything that vpntest raises on purpose.

    VpntestError            exit
    ├── UsageError           2   the command line, or the plan as a whole, cannot be used
    ├── ConfigError          2   one file, and where in it, and what to do about it
    ├── NothingSelected      5   what was asked for leaves nothing to measure, or to show
    ├── CannotMeasure        4   this box lacks something: root, a device, a program
    └── HistoryError         4   kept runs cannot be read or written: a full disk, no rights, a damaged file

A failing network never raises: it is an observation. These classes mean that a measurement could not be made at all.
"""

from __future__ import annotations

from typing import Any


class VpntestError(Exception):
    """Base of all errors that carry a message for the person at the terminal. Never raised itself."""

    exit_code = 3
    """What the process exits with when this error ends it."""


class UsageError(VpntestError):
    """The command line, or the plan as a whole, cannot be used."""

    exit_code = 2


class ConfigError(VpntestError):
    """One config cannot be used as it stands.

    Its text is one line: where, what is wrong, what to do. No part of it ever quotes a secret.
    """

    exit_code = 2

    def __init__(self, reason: str, *, where: str, line: int | None = None, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        """What is wrong, in words that need no knowledge of the code."""
        self.where = where
        """The file, or the plan's key, that holds the fault."""
        self.line = line
        """One-based line in that file; None where the fault has no line."""
        self.hint = hint
        """What to do about it; empty where the reason says it already."""
        self.findings: tuple[Any, ...] = ()
        """The `Finding`s of its reader up to here: a hook is worth knowing of in a broken config too."""

    def __str__(self) -> str:
        place = self.where if self.line is None else f"{self.where}:{self.line}"
        return f"{place}: {self.reason}" + (f"; {self.hint}" if self.hint else "")


class NothingSelected(VpntestError):
    """The plan or the kept run is sound, but after selection nothing is left to measure, or to show."""

    exit_code = 5


class CannotMeasure(VpntestError):
    """This box cannot make the measurement: no root, no TUN device, a program is missing."""

    exit_code = 4


class HistoryError(VpntestError):
    """Kept runs cannot be read or written: a full disk, no rights, a damaged file. No earlier run is lost by it."""

    exit_code = 4
