from __future__ import annotations

import asyncio
import socket

import dns.message
import dns.rrset
import pytest
from far_side import PATIENT, PUBLIC, RESOLVER, FarSide, Reply, Site, far_side, run, server_context, stays_silent
from msgspec.structs import replace

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
