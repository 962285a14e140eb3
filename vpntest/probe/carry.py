"""Whether a tunnel carries more than its own handshake.

Loads in this order, as each meets another budget after which censors cut a tunnel that has come up:

    first data  one DNS question: nothing passes
    crowd       16 fresh connections: a budget of connections (net4people/bbs#546)
    small       many small exchanges on one connection: a budget of packets, 25 in net4people/bbs#490
    down, up    64 KiB: a budget of bytes, 15 to 20 KB; where it stops, once more in small segments, which pass where
                long packets are lost without a word
    bulk        1 MiB down: where a larger budget ends, and what the tunnel sustains
    echo        20 spaced questions: what is lost, and how long the others take

Only what the kernel has got or seen confirmed counts as progress: under a budget of bytes a TLS record of 16 KiB never
completes, and the application sees nothing of what came.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.structs import replace

from vpntest.failures import Failure, failure_of
from vpntest.probe.connection import Connection, at, datagrams
from vpntest.probe.http import Answer, Http, thinned
from vpntest.probe.observation import Alive, Crowd, Echo, SmallExchanges, Transfer
from vpntest.probe.pace import HELLO
from vpntest.probe.patience import side_by_side
from vpntest.probe.schedule import Target
from vpntest.probe.transaction import Bench, Transaction
from vpntest.tunnel import dns
from vpntest.tunnel.vantage import PacketCount, Vantage

TRIES = 2
"""A load that failed is tried once more, at another control if there is one: not to judge by one sample or server."""
CROWD = 16
"""Connections begun, as in net4people/bbs#546; the censor there let twelve through."""
CROWD_EVERY = 0.1
"""Seconds between the starts of two of them."""
CROWD_GRACE = 1.0
"""Seconds after the last start, until one that stands is asked again while silent ones have the rest of their time."""
EXCHANGES = 24
"""Small requests; with their confirmations some hundred packets, a few times the budget of 25."""
LOAD = 64 * 1024
"""Bytes each way."""
LOAD_LIMIT = 30.0
"""Seconds for one load however slowly it moves: 64 KiB in that time are 17 kbit/s."""
SEGMENT = 536
"""Bytes in a TCP segment that every way carries: what fits into the 576 that every host takes (RFC 1122, 3.3.2)."""
BULK = 1024 * 1024
"""Bytes of the sustained transfer, on a line that carries them in :data:`BULK_SHARE`."""
BULK_SHARE = 3.0
"""Seconds of a slow line for it: others wait meanwhile, for every tunnel anew."""
LEAST_BULK = 4 * LOAD
"""Bytes of it on the slowest line."""
BULK_LIMIT = 20.0
"""Seconds for it. What has moved by then is the measurement; that it is not all of it is no failure."""
ECHOES = 20
"""Questions: one that is lost makes 5 %."""
ECHO_EVERY = 0.1
"""Seconds between two of them."""
ECHO_PATIENCE = 2.0
"""Seconds after the last question in which answers count."""
_WATCH = 0.25
_SILENCE = frozenset({Failure.STALLED, Failure.TIMED_OUT})


async def carries(bench: Bench, vantage: Vantage, outside: Vantage, bulks: asyncio.Semaphore | None = None) -> bool:
    """All loads; ends after the first that failed in all its tries. True if none did.

    Where the tunnel's resolver stays silent, the controls' addresses are asked for outside and the loads are tried all
    the same: they tell a tunnel that carries nothing from one whose resolver is dead, and the latter carries. `bulks`:
    how many sustained transfers the run has room for at once.
    """
    controls, upload = bench.settings.control, (bench.settings.upload,)
    load = _Load(bench, vantage, outside)
    await load.first_data(Target.of(controls[0], bench.settings.addresses).host)
    if not await _tried(load.crowd, controls):
        # To the censor many a tunnel is one connection, and the crowd spends any budget that it has. Whether small
        # messages still pass, on one connection, tells such a budget from one of connections.
        load.hurry()
        if not await _tried(load.small, controls):
            # Chains of certificates fill long packets: where only these are lost, no handshake comes to its end.
            await load.in_segments(load.down, controls)
        return False
    if not await _tried(load.small, controls) or not await _tried(load.down, controls):
        await load.in_segments(load.down, controls)
        return False
    if not await _tried(load.up, upload):
        await load.in_segments(load.up, upload)
        return False
    async with bulks or asyncio.Semaphore():
        if not await _tried(load.bulk, (bench.settings.bulk,)):
            return False
    await load.echo()
    return True


class _Step(Protocol):
    async def __call__(self, url: str, attempt: int, *, last: bool) -> bool | None:
        """True: carried. False: failed. None: that server does not serve it, and another is to be asked; not so where
        it is the `last`: then all it had is the load."""


class _Segmented(Protocol):
    async def __call__(self, url: str, attempt: int, *, last: bool, segment: int | None) -> bool | None:
        """As :class:`_Step`, in segments of so many bytes."""


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


@dataclass
class _Member:
    """One connection of a crowd."""

    connection: Connection | None = None
    http: Http | None = None
    answered: bool = False
    failure: str | None = Failure.TIMEOUT


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
        self._by_datagram = False
        """It has, over UDP."""
        self._stopped: tuple[str, int] | None = None
        """(URL, attempt) of the last load, where it fell silent on a connection that stood."""
        self._fell_silent = False
        """The last load did, on whatever step."""
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

    def hurry(self) -> None:
        """From now on a TLS handshake has no longer than any other silence: for a tunnel that is known to be cut."""
        self._limits = replace(self._limits, tls=min(self._limits.tls, self._limits.stall))

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
            self._by_datagram = self._by_datagram or found.engine == "udp"
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

    async def crowd(self, url: str, attempt: int, *, last: bool) -> bool:
        """Fresh connections, one begun shortly after another, each with one small request. Any answer will do."""
        target = Target.of(url, self._bench.settings.addresses)
        transaction = self._begin(url, attempt)
        address = await self._address(transaction, target)
        t0, before = self._bench.notebook.clock(), self._vantage.count_packets()
        members = [_Member() for _ in range(CROWD)] if address is not None else []
        standing: bool | None = None
        try:
            async with side_by_side() as group:
                joining: list[asyncio.Task[None]] = []
                for member in members:
                    await asyncio.sleep(CROWD_EVERY if joining else 0)
                    await self._bench.pace.turn(HELLO)
                    joining.append(group.create_task(self._join(member, address or "", target, url)))
                if joining:
                    await asyncio.wait(joining, timeout=min(CROWD_GRACE, self._limits.stall / 2))
                first = next((member for member in members if member.answered), None)
                if first is not None and not all(member.answered for member in members):
                    standing = await self._again(first, url)
        finally:
            for member in members:
                if member.connection is not None:
                    member.connection.close()
        self._flowed = self._flowed or any(member.answered for member in members)
        failure = next((member.failure for member in members if not member.answered), None)
        if not members:
            failure = transaction.failure or Failure.DNS_NO_ANSWER
        elif failure == Failure.TIMEOUT and self._flowed:
            failure = Failure.STALLED
        received, sent = self._packets(before)
        details = Crowd(
            url=url,
            wanted=CROWD,
            answered=tuple(member.answered for member in members),
            standing=standing if failure is not None else None,
            packets_received=received,
            packets_sent=sent,
        )
        transaction.note("transfer", url, t0, details, failure)
        return failure is None

    async def _join(self, member: _Member, address: str, target: Target, url: str) -> None:
        async def steps(connection: Connection) -> None:
            try:
                await connection.connect()
                if target.scheme == "https":
                    await connection.start_tls(self._bench.trust.http1, target.host)
                member.http = Http(connection)
                answer = await member.http.ask("HEAD", url, timeout=LOAD_LIMIT)
                member.answered, member.failure = answer.code is not None, answer.failure
            except (OSError, EOFError) as exc:
                member.failure = failure_of(exc)

        try:
            member.connection = Connection.over(self._vantage, address, target.port)
        except OSError as exc:
            member.failure = failure_of(exc)
            return
        await self._while_moving(asyncio.ensure_future(steps(member.connection)), member.connection)

    async def _again(self, member: _Member, url: str) -> bool | None:
        """Whether a connection that was answered still is. None where it was ended, as its server may do."""
        assert member.http is not None
        answer = await member.http.ask("HEAD", url, timeout=self._limits.stall)
        if answer.failure == Failure.TIMEOUT:
            return False
        return True if answer.failure is None else None

    async def small(self, url: str, attempt: int, *, last: bool) -> bool | None:
        """Many small requests, one after another on one connection."""
        done = 0
        answer: Answer | None = None
        transaction = self._begin(url, attempt)
        await self._bench.pace.turn(2 * HELLO)
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
            self._note_stop(transaction, url, attempt, failure, connection)
            transaction.note("transfer", url, t0, details, failure, connection)
        return failure is None

    async def down(self, url: str, attempt: int, *, last: bool, segment: int | None = None) -> bool | None:
        """64 KiB towards us. An answer that is whole and shorter is no load."""
        return await self._load(url, attempt, None, last, segment=segment)

    async def up(self, url: str, attempt: int, *, last: bool, segment: int | None = None) -> bool | None:
        """64 KiB away from us. Random, so that no carrier compresses them. Whatever status the server gives then."""
        return await self._load(url, attempt, os.urandom(LOAD), last, segment=segment)

    async def bulk(self, url: str, attempt: int, *, last: bool) -> bool | None:
        """1 MiB towards us, or what the line has room for, or what comes in the time that there is. Only silence is a
        failure."""
        size = self._bench.pace.portion(BULK, BULK_SHARE, LEAST_BULK)
        done = await self._load(url, attempt, None, last, size=size, limit=BULK_LIMIT)
        return None if done is False and not self._fell_silent else done

    async def in_segments(self, step: _Segmented, urls: Sequence[str]) -> None:
        """Where a load fell silent, one more try in short segments, at a server that serves it.

        Not through a proxy: our connection ends on this box there, and its segments are not those that travel.
        """
        if self._stopped is None or self._vantage.answers_locally:
            return
        stopped, attempt = self._stopped
        for url in sorted(urls, key=lambda url: url != stopped):
            attempt += 1
            if await step(url, attempt, last=False, segment=SEGMENT) is not None:
                return

    def _note_stop(
        self, transaction: Transaction, url: str, attempt: int, failure: str | None, connection: Connection | None
    ) -> None:
        stood = connection is not None or transaction.operation == "tls_handshake"
        # A load that ran out of time on a connection that stood was moving.
        self._fell_silent = failure in _SILENCE or (failure == Failure.TIMEOUT and connection is None)
        self._stopped = (url, attempt) if stood and self._fell_silent else None

    async def echo(self) -> None:
        """Questions for the neutral name at the tunnel's resolver, evenly spaced, each sent once.

        Not where that resolver was never heard over UDP: there is nothing to lose then.
        """
        if not self._by_datagram:
            return
        name, resolver = self._bench.settings.neutral_name, self._vantage.resolver
        transaction = self._begin(name, 1)
        t0 = self._bench.notebook.clock()
        failure: str | None = None
        taken: list[float] = []
        sent = 0
        try:
            sent, taken = await self._echoed(resolver, name)
        except OSError as exc:
            failure = failure_of(exc)
        if not taken:
            failure = failure or transaction.silence(Failure.TIMEOUT)
        rtts = tuple(round(1000 * each, 3) for each in taken)
        details = Echo(resolver_address=at(resolver, dns.PORT), sent=sent, received=len(rtts), rtt_ms=rtts)
        transaction.note("resolve", name, t0, details, failure)

    async def _echoed(self, resolver: str, name: str) -> tuple[int, list[float]]:
        """Questions sent; and seconds until the answer, of each that was answered."""
        from dns.message import make_query

        loop = asyncio.get_running_loop()
        begun: dict[int, float] = {}
        ended: dict[int, float] = {}
        first_id = random.randrange(1 << 16)  # noqa: S311 - the socket takes one address and port only
        with datagrams(self._vantage, resolver, dns.PORT) as sock:

            async def listen() -> None:
                while len(ended) < ECHOES:
                    # Whoever answers without end must not keep the loop: while anything waits, receiving gives no turn
                    # away.
                    await asyncio.sleep(0)
                    try:
                        answer = await loop.sock_recv(sock, 4096)
                    except OSError:
                        # An ICMP error takes the place of an answer, and of none but its own.
                        continue
                    number = int.from_bytes(answer[:2])
                    if number in begun and len(answer) > 2 and answer[2] & 0x80:
                        ended.setdefault(number, loop.time())

            listening = asyncio.create_task(listen())
            try:
                for place in range(ECHOES):
                    number = (first_id + place) % (1 << 16)
                    begun[number] = loop.time()
                    with suppress(OSError):
                        await loop.sock_sendall(sock, make_query(name, "A", use_edns=False, id=number).to_wire())
                    if place < ECHOES - 1:
                        await asyncio.sleep(ECHO_EVERY)
                await asyncio.wait({listening}, timeout=ECHO_PATIENCE)
            finally:
                listening.cancel()
                await asyncio.wait({listening})
        return len(begun), [ended[number] - then for number, then in begun.items() if number in ended]

    async def _load(
        self,
        url: str,
        attempt: int,
        content: bytes | None,
        last: bool,
        *,
        size: int = LOAD,
        limit: float | None = None,
        segment: int | None = None,
    ) -> bool | None:
        moved = 0
        expected: int | None = size
        curve: list[tuple[float, int]] = []
        target = Target.of(url, self._bench.settings.addresses)
        transaction = self._begin(url, attempt)
        await self._bench.pace.turn(HELLO + size)
        t0, before = self._bench.notebook.clock(), self._vantage.count_packets()
        async with self._connected(transaction, target, segment) as connection:
            failure = transaction.failure
            if connection is not None:
                answer = Answer("http/1.1")
                confirmed = await self._watched(connection, answer, url, content, size, limit or LOAD_LIMIT)
                curve = answer.samples if content is None else confirmed
                moved = min(answer.length, size) if content is None else confirmed[-1][1]
                failure = answer.failure
                self._flowed = self._flowed or answer.code is not None
                refused = answer.code is not None and answer.code >= 400
                if failure is None and (refused or (content is None and moved < size)):
                    # The status, which a transfer does not hold: a server that says no is no fault of the tunnel.
                    transaction.note_answer(answer, "GET" if content is None else "POST", url, t0, connection)
                    if content is None and moved < size and not last:
                        return None
                    expected = moved
                elif failure is None:
                    moved = size
                elif failure == Failure.TIMEOUT and size > LOAD:
                    # It moved to the end of our time.
                    failure = expected = None
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
                segment=segment,
            )
            self._note_stop(transaction, url, attempt, failure, connection)
            transaction.note("transfer", url, t0, details, failure, connection)
        return failure is None

    async def _watched(
        self, connection: Connection, answer: Answer, url: str, content: bytes | None, size: int, limit: float
    ) -> list[tuple[float, int]]:
        """The exchange, for as long as it makes progress. Gives (loop time, bytes of ours that were confirmed)."""
        method = "GET" if content is None else "POST"
        exchange = asyncio.ensure_future(
            Http(connection).ask(method, url, timeout=limit, content=content, cap=size, answer=answer)
        )
        loop = asyncio.get_running_loop()
        base = _progress(connection)[1]
        confirmed = [(loop.time(), 0)]

        def moved(_: int, ours: int) -> None:
            confirmed.append((loop.time(), min(ours - base, size)))

        if not await self._while_moving(exchange, connection, moved):
            answer.failure = Failure.STALLED if self._flowed or _progress(connection)[0] else Failure.TIMEOUT
        # Closes the curve, so that silence at the end shows in it.
        confirmed.append((loop.time(), confirmed[-1][1]))
        return confirmed

    async def _while_moving(
        self,
        work: asyncio.Future[Any],
        connection: Connection,
        moved: Callable[[int, int], None] = lambda received, confirmed: None,
    ) -> bool:
        """Lets work on a connection go on while bytes come or are confirmed. False where it was ended for silence."""
        loop = asyncio.get_running_loop()
        progress, since = _progress(connection), loop.time()
        try:
            while not work.done() and loop.time() - since < self._limits.stall:
                await asyncio.wait({work}, timeout=min(_WATCH, self._limits.stall))
                if (now := _progress(connection)) != progress:
                    progress, since = now, loop.time()
                    moved(*now)
            if work.done():
                work.result()
            return work.done()
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    @asynccontextmanager
    async def _connected(
        self, transaction: Transaction, target: Target, segment: int | None = None
    ) -> AsyncIterator[Connection | None]:
        """A connection that is ready for HTTP/1.1, or None where a step to it failed, naming included."""
        address = await self._address(transaction, target)
        if address is None:
            transaction.failure = transaction.failure or Failure.DNS_NO_ANSWER
            yield None
            return
        async with transaction.connected(address, target.port, segment=segment) as connection:
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
