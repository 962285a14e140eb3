from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from vpntest.probe.patience import SLICE, side_by_side, within


@pytest.mark.parametrize("seconds", [SLICE / 4, SLICE * 2.5])
def test_ends_what_never_ends(seconds: float) -> None:
    async def main() -> None:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            async with within(seconds):
                await asyncio.Event().wait()
        assert time.monotonic() - begun >= seconds * 0.9

    asyncio.run(main())


def test_leaves_alone_what_ends() -> None:
    async def main() -> None:
        async with within(SLICE):
            await asyncio.sleep(0)
        await asyncio.sleep(SLICE * 2)

    asyncio.run(main())


def test_cancelling_is_no_timeout() -> None:
    async def waits() -> None:
        async with within(60):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@pytest.mark.root
def test_what_arrived_while_the_loop_stood_still_is_read() -> None:
    """Two flights, so that it takes more than one turn to see them."""

    def answers(far: socket.socket) -> None:
        for _ in range(2):
            far.sendall(far.recv(16).upper())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        server = threading.Thread(target=answers, args=(far,))
        server.start()
        try:
            loop.call_later(0.01, time.sleep, 1.0)
            async with within(0.5):
                for word in (b"one", b"two"):
                    await asyncio.sleep(0.02)
                    await loop.sock_sendall(near, word)
                    assert await loop.sock_recv(near, 16) == word.upper()
        finally:
            near.close()
            server.join()
            far.close()

    asyncio.run(main())


def test_side_by_side_raises_the_first_error_as_it_is() -> None:
    async def fails() -> None:
        raise KeyError("ours")

    async def main() -> None:
        ended = asyncio.Event()

        async def waits() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def both() -> None:
            async with side_by_side() as group:
                group.create_task(waits())
                group.create_task(fails())

        with pytest.raises(KeyError, match="ours"):
            await both()
        assert ended.is_set()

    asyncio.run(main())
