"""How far a run has come, in one line for a person who waits: rewritten in place, and gone when the run is over."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from typing import Final, TextIO

from msgspec import Struct

from vpntest.report.text import plain

EVERY: Final = 1.0
"""Seconds between two lines."""
_CLEAR = "\r\x1b[K"


class Progress(Struct, frozen=True):
    """Where a run stands."""

    phase: str
    """Of the run as a whole."""
    seconds: float
    """Since the run began."""
    rows: int
    """The line itself and every tunnel."""
    rows_done: int
    """Of those: measured, or known not to carry."""
    platforms: int
    under_way: tuple[str, ...] = ()
    """Each tunnel that is at work, and its stage: `sweden: carry`."""
    left: float | None = None
    """Seconds that the phase may still take; None where nothing tells."""


def line(progress: Progress, width: int) -> str:
    """One line of at most `width` columns; what is under way is cut first."""
    cells, done = (rows * progress.platforms for rows in (progress.rows, progress.rows_done))
    head = f"{_clock(progress.seconds)}  {progress.phase}: {done} of {cells} cells"
    tail = "" if progress.left is None else f", about {_clock(progress.left)} left of it"
    text = f"{head}{tail}" if len(head) + len(tail) <= width else head
    for number, one in enumerate(progress.under_way):
        more = f" … {len(progress.under_way) - number} more"
        longer = f"{text}{'; ' if number == 0 else ', '}{plain(one, 60)}"
        last = number + 1 == len(progress.under_way)
        if len(longer) + (0 if last else len(more)) > width:
            text = f"{text}{more}"
            break
        text = longer
    return text[:width]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


async def show(progress: Callable[[], Progress], stream: TextIO, every: float = EVERY) -> None:
    """Keeps the line up to date until it is cancelled; then nothing of it is left."""
    try:
        while True:
            # One column stays free: a full line would wrap on some terminals.
            width = shutil.get_terminal_size((80, 24)).columns - 1
            stream.write(_CLEAR + line(progress(), width))
            stream.flush()
            await asyncio.sleep(every)
    finally:
        stream.write(_CLEAR)
        stream.flush()
