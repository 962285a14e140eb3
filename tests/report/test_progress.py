"""The line for a person who waits."""

from __future__ import annotations

import asyncio
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.report.progress import Progress, line, show


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress("raise and reach", 0.2, 13, 0, 10), "0:00  raise and reach: 0 of 130 cells"),
        (
            Progress("raise and reach", 23, 13, 7, 10, ("se: raise", "ov: carry"), 61),
            "0:23  raise and reach: 70 of 130 cells, about 1:01 left of it; se: raise, ov: carry",
        ),
        (Progress("speed", 3661, 2, 2, 3, (), 0.4), "1:01:01  speed: 6 of 6 cells, about 0:00 left of it"),
    ],
)
def test_lines(progress: Progress, text: str) -> None:
    assert line(progress, 200) == text


def test_what_does_not_fit_is_counted() -> None:
    progress = Progress("raise and reach", 23, 13, 7, 10, tuple(f"tunnel-{number}: reach" for number in range(9)))
    assert line(progress, 75) == "0:23  raise and reach: 70 of 130 cells; tunnel-0: reach … 8 more"
    assert line(progress, 50) == "0:23  raise and reach: 70 of 130 cells … 9 more"
    # How long it may take is told whole or not at all.
    assert line(Progress("speed", 23, 13, 7, 10, (), 61), 40) == "0:23  speed: 70 of 130 cells"


@given(st.lists(st.text(max_size=30), max_size=5), st.integers(1, 200))
def test_no_name_steers_the_terminal_or_wraps_it(names: list[str], width: int) -> None:
    text = line(Progress("speed", 1, 2, 1, 3, tuple(names)), width)
    assert len(text) <= width
    assert text.isprintable() or all(ord(one) >= 0x20 and one != "\x7f" for one in text)


def test_the_line_is_rewritten_in_place_and_gone_at_the_end() -> None:
    shown = StringIO()
    calls: list[int] = []

    def progress() -> Progress:
        calls.append(1)
        return Progress("speed", len(calls), 1, 1, 1)

    async def until_third() -> None:
        task = asyncio.ensure_future(show(progress, shown, every=0))
        while len(calls) < 3:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(until_third())
    first, *_, last = shown.getvalue().split("\r\x1b[K")[1:]
    assert (first, last) == ("0:01  speed: 1 of 1 cells", "")
    assert "\n" not in shown.getvalue()
