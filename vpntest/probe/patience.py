"""A time limit that is the network's alone: what this box was too busy to listen is not charged to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SLICE = 0.1
"""Seconds charged at a time. A loop that stands still for longer is charged one slice for all of it."""


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`: raises TimeoutError once the body has had so long.

    That one, coming late to a loop that stood still, throws away also what has arrived meanwhile and waits to be read.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.Handle
    async with asyncio.timeout(None) as limit:

        def charge(left: float) -> None:
            nonlocal timer
            if left > 0:
                timer = loop.call_later(min(SLICE, left), charge, left - SLICE)
            else:
                limit.reschedule(loop.time())

        timer = loop.call_soon(charge, seconds)
        try:
            yield
        finally:
            timer.cancel()
