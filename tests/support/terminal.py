"""A program at a terminal, as a person meets it."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PATIENCE = 20.0
"""Seconds in which what must come has come."""


@dataclass
class Terminal:
    """A terminal of its own, with a program that leads its session."""

    program: subprocess.Popen[bytes]
    keys: int
    seen: str = ""

    def shows(self, pattern: str) -> str:
        """Waits until it shows this, after what was waited for before; gives what it found."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.keys], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.keys, 4096).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"no {pattern!r} in {self.seen!r}, and it has hung up") from None
        self.seen = self.seen[found.end() :]
        return found[0]

    def types(self, text: str) -> None:
        """As a person would."""
        os.write(self.keys, text.encode())


@contextmanager
def terminal(*argv: str, cwd: str = "/", **environment: str) -> Iterator[Terminal]:
    """Starts a program at a terminal of its own, and ends it."""
    ours, theirs = os.openpty()
    program = subprocess.Popen(
        ["setsid", "--ctty", *argv],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env={**os.environ, "TERM": "dumb", "HISTFILE": "", **environment},
    )
    os.close(theirs)
    try:
        yield Terminal(program, ours)
    finally:
        os.close(ours)
        program.kill()
        program.wait()
