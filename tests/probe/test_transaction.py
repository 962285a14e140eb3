from __future__ import annotations

import asyncio
import socket
from typing import Any

import dns.message
import dns.rrset
import pytest
from far_side import PATIENT, PUBLIC, RESOLVER, FarSide, Reply, Site, far_side, run, server_context, stays_silent
from msgspec.structs import replace

from vpntest.errors import CannotMeasure
from vpntest.failures import Failure
from vpntest.probe.transaction import Transaction, connectable

ADDRESS, NAME = "198.18.1.1", "www.example.test"


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("198.18.1.1", True),
        ("10.10.34.35", True),
        ("fd00::1", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("239.1.1.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("255.255.255.255", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:198.18.1.1", True),
    ],
)
def test_connectable(address: str, may: bool) -> None:
    assert connectable(address) is may


def test_labels_numbers_and_times() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((ADDRESS,))]})
        await far.resolver(PUBLIC, {NAME: [Reply((ADDRESS,))]})
        bench = far.bench()
        first = Transaction(bench, far.vantage("one"), probe="control", role="control", phase="after")
        second = Transaction(bench, far.vantage("two"), probe="exit")
        await first.resolve(NAME)
        await second.resolve(NAME, of="public")
        await first.resolve(NAME)
        assert [one.id for one in far.seen] == ["o1", "o2", "o3"]
        assert [one.transaction for one in far.seen] == [1, 2, 1]
        assert [one.vantage for one in far.seen] == ["one", "two", "one"]
        assert [one.phase for one in far.seen] == ["after", "during", "after"]
        assert [one.details.resolver_address for one in far.seen] == [
            f"{RESOLVER}:53",
            f"{PUBLIC}:53",
            f"{RESOLVER}:53",
        ]
        assert all(0 <= one.t0 <= one.t for one in far.seen)

    run(scenario)


@pytest.mark.root
@pytest.mark.parametrize(("locally", "engine"), [(True, "tcp"), (False, "udp")], ids=["proxy", "line"])
def test_names_through_a_proxy_without_udp(locally: bool, engine: str) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2))))
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", ADDRESS))
        wire = response.to_wire()
        writer.write(len(wire).to_bytes(2) + wire)
        await writer.drain()

    async def scenario(far: FarSide) -> None:
        real = await far.serve(RESOLVER, 53, answers)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(real)
            bench = far.bench(limits=replace(PATIENT, dns=1.0))
            found = await Transaction(bench, far.vantage(answers_locally=locally), probe="reach").resolve(NAME)
        assert found.answers == ((ADDRESS,) if locally else ())
        (seen,) = far.seen
        assert (seen.details.engine, seen.failure) == (engine, None if locally else Failure.TIMEOUT)

    run(scenario)


def test_no_route_is_a_fact() -> None:
    async def scenario(far: FarSide) -> None:
        transaction = Transaction(far.bench(), far.vantage(), probe="exit")
        async with transaction.connected("fd00::1", 443) as connection:
            assert connection is None
        assert far.chain() == [("connect", Failure.NETWORK_UNREACHABLE)]
        assert far.seen[0].target == "[fd00::1]:443"

    run(scenario)


@pytest.mark.root
@pytest.mark.parametrize(("flowed", "failure"), [(False, Failure.TIMEOUT), (True, Failure.STALLED)])
def test_silence_after_data_is_a_stall(flowed: bool, failure: str) -> None:
    async def scenario(far: FarSide) -> None:
        far.swallow(ADDRESS, 443)
        bench = far.bench(limits=replace(PATIENT, tcp=0.3))
        transaction = Transaction(bench, far.vantage(), flowed=flowed, probe="carry")
        async with transaction.connected(ADDRESS, 443) as connection:
            assert connection is None
        assert far.chain() == [("connect", failure)]

    run(scenario)


def test_a_cancelled_step_leaves_what_was_seen_and_no_socket() -> None:
    async def main() -> None:
        async with far_side() as far:
            await far.serve(ADDRESS, 443, stays_silent)
            opened = []

            async def chain() -> None:
                transaction = Transaction(far.bench(), far.vantage(), probe="reach")
                async with transaction.connected(ADDRESS, 443) as connection:
                    assert connection is not None
                    opened.append(connection)
                    await transaction.handshake(connection, transaction.bench.trust.public, NAME)

            task = asyncio.create_task(chain())
            while not opened:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert far.chain() == [("connect", None)]
            assert opened[0]._socket.fileno() == -1

    asyncio.run(main())


def test_the_last_step_of_a_connection_has_the_kernels_view() -> None:
    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        transaction = Transaction(far.bench(), far.vantage(), probe="reach")
        async with transaction.connected(ADDRESS, 443) as connection:
            assert connection is not None
            assert await transaction.handshake(connection, transaction.bench.trust.public, NAME)
            answer = await transaction.exchange(connection, "GET", f"https://{NAME}/")
        assert answer.code == 200
        assert [one.tcp is None for one in far.seen] == [True, True, False]

    run(scenario)


# ── late answers ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Racing(asyncio.DatagramProtocol):
    """A resolver behind a forger: the first answer at once, the second one when it is told to."""

    def __init__(self, first: str, second: str) -> None:
        self.first, self.second = first, second
        self.told = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        query = dns.message.from_wire(data)

        def reply(with_: str) -> None:
            response = dns.message.make_response(query)
            response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", with_))
            self._transport.sendto(response.to_wire(), address)

        async def later() -> None:
            await self.told.wait()
            reply(self.second)

        reply(self.first)
        self._tasks.append(asyncio.create_task(later()))


async def _race(far: FarSide) -> _Racing:
    return await far.datagrams(RESOLVER, 53, _Racing("198.18.6.6", ADDRESS))


@pytest.mark.root
def test_a_late_answer_does_not_delay_the_chain() -> None:
    async def scenario(far: FarSide) -> None:
        racing = await _race(far)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        transaction = Transaction(far.bench(limits=replace(PATIENT, late=0.5)), far.vantage(), probe="reach")
        async with transaction.listening():
            found = await transaction.resolve(NAME)
            assert (found.answers, found.late) == (("198.18.6.6",), ())
            assert (transaction.operation, transaction.failure) == ("resolve", None)
            async with transaction.connected(ADDRESS, 443, last=True) as connection:
                assert connection is not None
            assert far.chain() == [("connect", None)]
            racing.told.set()
            (whole,) = await transaction.overheard()
            assert whole.late == ((ADDRESS,),)
        connect, resolve = far.seen
        assert resolve.details.late == ((ADDRESS,),)
        assert (resolve.id, connect.id) == ("o1", "o2"), "numbered in the order of ending"
        assert resolve.t0 <= resolve.t <= connect.t0 <= connect.t
        assert transaction.operation == "connect", "what comes late is no later step"

    run(scenario)


def test_what_was_answered_is_not_lost_where_the_run_is_ended() -> None:
    async def scenario(far: FarSide) -> None:
        racing = await _race(far)
        racing.told.set()
        answered = asyncio.Event()

        async def chain() -> None:
            transaction = Transaction(far.bench(limits=replace(PATIENT, late=60)), far.vantage(), probe="reach")
            async with transaction.listening():
                await transaction.resolve(NAME)
                await transaction.resolve(NAME, of="public")
                answered.set()
                await asyncio.sleep(60)

        public = await far.resolver(PUBLIC, {NAME: [Reply((ADDRESS,))]})
        task = asyncio.create_task(chain())
        await answered.wait()
        while not public.asked:
            await asyncio.sleep(0.01)
        # Turns of the loop, in which the late answer is read.
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert far.seen == []
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [(one.id, one.details.resolver, one.details.late) for one in far.seen] == [
            ("o1", "vantage", ((ADDRESS,),)),
            ("o2", "public", ()),
        ]

    run(scenario)


def test_what_was_not_answered_is_no_fact_where_the_run_is_ended() -> None:
    async def scenario(far: FarSide) -> None:
        silent = await far.resolver(RESOLVER, {NAME: []})
        transaction = Transaction(far.bench(), far.vantage(), probe="reach")

        async def chain() -> None:
            async with transaction.listening():
                await transaction.resolve(NAME)

        task = asyncio.create_task(chain())
        while not silent.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert far.seen == []

    run(scenario)


def test_without_a_socket_there_is_no_fact() -> None:
    class Out(type(FarSide().vantage())):  # type: ignore[misc]
        def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
            raise CannotMeasure("this box is out of file descriptors")

    async def scenario(far: FarSide) -> None:
        transaction = Transaction(far.bench(), Out("outside", None, RESOLVER), probe="reach")
        with pytest.raises(CannotMeasure):
            async with transaction.listening():
                await transaction.resolve(NAME)
        assert far.seen == []

    run(scenario)


@pytest.mark.root
def test_a_question_to_nobody() -> None:
    async def scenario(far: FarSide) -> None:
        forger = await far.resolver("198.18.4.4", {NAME: [Reply((ADDRESS,))]})
        transaction = Transaction(far.bench(limits=replace(PATIENT, dns=0.4)), far.vantage(), probe="names")
        found = await transaction.resolve(NAME, of="nobody", resolver_address="198.18.4.4")
        assert found.answers == (ADDRESS,)
        forger.zone[NAME] = []
        assert (await transaction.resolve(NAME, of="nobody", resolver_address="198.18.4.4")).rcode is None
        assert [(one.details.resolver, one.details.resolver_address, one.failure) for one in far.seen] == [
            ("nobody", "198.18.4.4:53", None),
            ("nobody", "198.18.4.4:53", Failure.TIMEOUT),
        ]

    run(scenario)
