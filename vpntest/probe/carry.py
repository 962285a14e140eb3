"""Whether a tunnel carries more than its own handshake.

Four loads in this order, as each meets another budget after which censors cut a tunnel that has come up: first data
(nothing passes), many small packets (a budget of packets, 25 in net4people/bbs#490), 64 KiB down, 64 KiB up (a budget
of bytes, 15 to 20 KB). Only what the kernel has got or seen confirmed counts as progress: under a budget of bytes a TLS
record of 16 KiB never completes, and the application sees nothing of what came.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.probe.connection import Connection
from vpntest.probe.http import Answer, Http, thinned
from vpntest.probe.observation import Alive, SmallExchanges, Transfer
from vpntest.probe.schedule import Target
from vpntest.probe.transaction import Bench, Transaction
from vpntest.tunnel.vantage import PacketCount, Vantage

TRIES = 2
"""A load that failed is tried once more, at another control if there is one: not to judge by one sample or server."""
EXCHANGES = 24
"""Small requests; with their confirmations some hundred packets, a few times the budget of 25."""
LOAD = 64 * 1024
"""Bytes each way."""
LOAD_LIMIT = 30.0
"""Seconds for one load however slowly it moves: 64 KiB in that time are 17 kbit/s."""
_WATCH = 0.25


async def carries(bench: Bench, vantage: Vantage, outside: Vantage) -> bool:
    """All four loads; ends after the first that failed in all its tries. True if none did.

    Where the tunnel's resolver stays silent, the controls' addresses are asked for outside and the loads are tried all
    the same: they tell a tunnel that carries nothing from one whose resolver is dead, and the latter carries.
    """
    controls = bench.settings.control
    load = _Load(bench, vantage, outside)
    await load.first_data(Target.of(controls[0], bench.settings.addresses).host)
    return (
        await _tried(load.small, controls)
        and await _tried(load.down, controls)
        and await _tried(load.up, (bench.settings.upload,))
    )


class _Step(Protocol):
    async def __call__(self, url: str, attempt: int, *, last: bool) -> bool | None:
        """True: carried. False: failed. None: that server does not serve it, and another is to be asked; not so where
        it is the `last`: then all it had is the load."""


async def _tried(step: _Step, urls: Sequence[str]) -> bool:
    """One load, at each server in turn until one has carried it. False where it failed; that nobody serves it is no
    fault of the tunnel."""
    left = deque(urls)
    failures = attempt = 0
    while left and failures < TRIES:
        attempt += 1
        url = left.popleft()
        done = await step(url, attempt, last=not left and not failures)
        if done:
            return True
        if done is False:
            failures += 1
            left.append(url)
    return not failures


async def lives(bench: Bench, vantage: Vantage) -> None:
    """One more question through the tunnel, and whether its carrier still runs."""
    t0 = bench.notebook.clock()
    host = Target.of(bench.settings.control[0], bench.settings.addresses).host
    failure: str | None = Failure.CARRIER_EXITED
    runs = vantage.alive()
    for attempt in range(1, TRIES + 1):
        if not runs:
            break
        transaction = Transaction(bench, vantage, flowed=True, probe="alive", role="control", attempt=attempt)
        found = await transaction.resolve(host, late=False)
        failure = None if found.rcode is not None else transaction.failure
        runs = vantage.alive()
        if failure is None:
            break
    if not runs:
        failure = Failure.CARRIER_EXITED
    transaction = Transaction(bench, vantage, probe="alive")
    transaction.note("tunnel", vantage.id, t0, Alive(carrier_runs=runs), failure)


class _Load:
    """The load tests of one tunnel."""

    def __init__(self, bench: Bench, vantage: Vantage, outside: Vantage) -> None:
        self._bench = bench
        self._vantage = vantage
        self._outside = outside
        stall = bench.limits.stall
        self._limits = replace(bench.limits, tcp=stall, http=stall)
        self._flowed = False
        self._named = False
        """The tunnel's resolver has answered."""
        self._addresses: dict[str, str] = {}

    def _begin(self, endpoint: str, attempt: int) -> Transaction:
        return Transaction(
            self._bench,
            self._vantage,
            limits=self._limits,
            flowed=self._flowed,
            probe="carry",
            role="control",
            endpoint=endpoint,
            attempt=attempt,
        )

    async def first_data(self, host: str) -> None:
        """One DNS question: whether anything comes back."""
        for attempt in range(1, TRIES + 1):
            await self._ask(self._begin(host, attempt), host)
            if self._named:
                return

    async def _ask(self, transaction: Transaction, host: str) -> None:
        found = await transaction.resolve(host, late=False)
        if found.rcode is not None and transaction.vantage is self._vantage:
            self._named = self._flowed = transaction.flowed = True
        if address := next(filter(self._bench.connectable, found.answers), None):
            self._addresses[host] = address

    async def _address(self, transaction: Transaction, target: Target) -> str | None:
        """Where a server is, as the tunnel's resolver says; as the line's says where that one is silent, or knows none.
        Asked for once."""
        if target.address is None and target.host not in self._addresses:
            if self._named:
                await self._ask(transaction, target.host)
            if target.host not in self._addresses:
                asking = Transaction(self._bench, self._outside, probe="carry", role="control", endpoint=target.host)
                await self._ask(asking, target.host)
        return target.address or self._addresses.get(target.host)

    async def small(self, url: str, attempt: int, *, last: bool) -> bool | None:
        """Many small requests, one after another on one connection."""
        done = 0
        answer: Answer | None = None
        transaction = self._begin(url, attempt)
        t0, before = self._bench.notebook.clock(), self._vantage.count_packets()
        async with self._connected(transaction, Target.of(url, self._bench.settings.addresses)) as connection:
            failure = transaction.failure
            if connection is not None:
                http = Http(connection)
                while failure is None and done < EXCHANGES and not (answer and answer.closes):
                    answer = await http.ask("HEAD", url, timeout=self._limits.http)
                    failure = transaction.silence(answer.failure, connection)
                    done += failure is None
                    self._flowed = transaction.flowed = self._flowed or done > 0
                if failure is None and done < EXCHANGES and not last:
                    transaction.note_answer(answer or Answer(http.alpn), "HEAD", url, t0, connection)
                    return None
            info = connection.tcp_info() if connection else None
            received, sent = self._packets(before)
            details = SmallExchanges(
                url=url,
                done=done,
                wanted=EXCHANGES if failure else done,
                bytes=info.bytes_received + info.bytes_acked if info else 0,
                packets_received=received,
                packets_sent=sent,
            )
            transaction.note("transfer", url, t0, details, failure, connection)
        return failure is None

    async def down(self, url: str, attempt: int, *, last: bool) -> bool | None:
        """64 KiB towards us. An answer that is whole and shorter is no load."""
        return await self._load(url, attempt, None, last)

    async def up(self, url: str, attempt: int, *, last: bool) -> bool | None:
        """64 KiB away from us. Random, so that no carrier compresses them. Whatever status the server gives then."""
        return await self._load(url, attempt, os.urandom(LOAD), last)

    async def _load(self, url: str, attempt: int, content: bytes | None, last: bool) -> bool | None:
        moved, expected = 0, LOAD
        curve: list[tuple[float, int]] = []
        target = Target.of(url, self._bench.settings.addresses)
        transaction = self._begin(url, attempt)
        t0, before = self._bench.notebook.clock(), self._vantage.count_packets()
        async with self._connected(transaction, target) as connection:
            failure = transaction.failure
            if connection is not None:
                answer = Answer("http/1.1")
                confirmed = await self._watched(connection, answer, url, content)
                curve = answer.samples if content is None else confirmed
                moved = min(answer.length, LOAD) if content is None else confirmed[-1][1]
                failure = answer.failure
                self._flowed = self._flowed or answer.code is not None
                refused = answer.code is not None and answer.code >= 400
                if failure is None and (refused or (content is None and moved < LOAD)):
                    # The status, which a transfer does not hold: a server that says no is no fault of the tunnel.
                    transaction.note_answer(answer, "GET" if content is None else "POST", url, t0, connection)
                    if content is None and moved < LOAD and not last:
                        return None
                    expected = moved
                elif failure is None:
                    moved = LOAD
            received, sent = self._packets(before)
            details = Transfer(
                url=url,
                server_name=target.host,
                direction="down" if content is None else "up",
                bytes=moved,
                expected=expected,
                samples=thinned(curve),
                packets_received=received,
                packets_sent=sent,
                address=str(connection) if connection else None,
            )
            transaction.note("transfer", url, t0, details, failure, connection)
        return failure is None

    async def _watched(
        self, connection: Connection, answer: Answer, url: str, content: bytes | None
    ) -> list[tuple[float, int]]:
        """The exchange, for as long as it makes progress. Gives (loop time, bytes of ours that were confirmed)."""
        method = "GET" if content is None else "POST"
        exchange = asyncio.ensure_future(
            Http(connection).ask(method, url, timeout=LOAD_LIMIT, content=content, cap=LOAD, answer=answer)
        )
        loop = asyncio.get_running_loop()
        moved, since = _progress(connection), loop.time()
        base = moved[1]
        confirmed = [(since, 0)]
        try:
            while not exchange.done() and loop.time() - since < self._limits.stall:
                await asyncio.wait({exchange}, timeout=min(_WATCH, self._limits.stall))
                if (now := _progress(connection)) != moved:
                    moved, since = now, loop.time()
                    confirmed.append((since, min(moved[1] - base, LOAD)))
            if exchange.done():
                exchange.result()
            else:
                answer.failure = Failure.STALLED if self._flowed or moved[0] else Failure.TIMEOUT
        finally:
            if not exchange.done():
                exchange.cancel()
                await asyncio.wait({exchange})
        # Closes the curve, so that silence at the end shows in it.
        confirmed.append((loop.time(), confirmed[-1][1]))
        return confirmed

    @asynccontextmanager
    async def _connected(self, transaction: Transaction, target: Target) -> AsyncIterator[Connection | None]:
        """A connection that is ready for HTTP/1.1, or None where a step to it failed, naming included."""
        address = await self._address(transaction, target)
        if address is None:
            transaction.failure = transaction.failure or Failure.DNS_NO_ANSWER
            yield None
            return
        async with transaction.connected(address, target.port) as connection:
            if connection is None or target.scheme != "https":
                yield connection
            elif await transaction.handshake(connection, self._bench.trust.http1, target.host):
                self._flowed = transaction.flowed = True
                yield connection
            else:
                yield None

    def _packets(self, before: PacketCount | None) -> tuple[int | None, int | None]:
        after = self._vantage.count_packets()
        if before is None or after is None:
            return None, None
        return after.received - before.received, after.sent - before.sent


def _progress(connection: Connection) -> tuple[int, int]:
    """Bytes that the kernel got, and bytes of ours that the far side confirmed."""
    info = connection.tcp_info()
    return (info.bytes_received, info.bytes_acked) if info else (0, 0)
