"""How probes wait: limits in which only the network's time is charged, and tasks side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SLICE = 0.1
"""Seconds charged at a time. A loop that stands still for longer is charged one slice for all of it."""


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`: raises TimeoutError once the body has had so long. What this box was too busy to listen is
    not charged.

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


@asynccontextmanager
async def side_by_side() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks side by side. The first one's error ends all and is raised as it is, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
