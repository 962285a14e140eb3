from __future__ import annotations

import asyncio

import pytest
from aioice import stun
from far_side import PATIENT, FarSide, Mute, run
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.probe.observation import StunBinding
from vpntest.probe.stun import _read
from vpntest.probe.transaction import Transaction

ADDRESS = "198.18.1.1"


async def bound(far: FarSide, tcp: float = PATIENT.tcp) -> StunBinding:
    transaction = Transaction(far.bench(limits=replace(PATIENT, tcp=tcp)), far.vantage(), probe="reach")
    worked = await transaction.binding(ADDRESS, 3478)
    (seen,) = far.seen
    assert worked is (seen.failure is None)
    assert seen.operation == "stun_binding"
    assert isinstance(seen.details, StunBinding)
    assert seen.target == seen.details.address == f"{ADDRESS}:3478"
    return seen.details


def test_who_we_are() -> None:
    async def scenario(far: FarSide) -> None:
        server = await far.stun(ADDRESS)
        details = await bound(far)
        assert far.seen[0].failure is None
        address, _, port = (details.mapped or "").rpartition(":")
        assert address == "127.0.0.1"
        assert 0 < int(port) < 65536
        assert len(server.asked) == 1

    run(scenario)


@pytest.mark.root
def test_a_lost_request_is_sent_again() -> None:
    async def scenario(far: FarSide) -> None:
        server = await far.stun(ADDRESS, leaves=2)
        details = await bound(far, tcp=2.0)
        assert details.mapped is not None
        assert len(server.asked) == 3
        assert len(set(server.asked)) == 1, "the same request"

    run(scenario)


def _another() -> bytes:
    return bytes(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE))


@pytest.mark.root
@pytest.mark.parametrize("says", [b"", b"\0" * 20, b"x", _another()], ids=["silence", "zeros", "short", "another"])
def test_no_answer_to_our_request(says: bytes) -> None:
    async def scenario(far: FarSide) -> None:
        mute = await far.datagrams(ADDRESS, 3478, Mute(says))
        details = await bound(far, tcp=0.6)
        assert far.seen[0].failure == Failure.TIMEOUT
        assert details.mapped is None
        assert len(mute.heard) == 3

    run(scenario)


_TRANSACTION = b"t" * 12


@given(st.binary(max_size=80))
def test_any_attributes(attributes: bytes) -> None:
    datagram = b"\x01\x01" + len(attributes).to_bytes(2) + b"\x21\x12\xa4\x42" + _TRANSACTION + attributes
    answered, mapped = _read(datagram, _TRANSACTION)
    assert answered or mapped is None


@given(st.binary(max_size=80))
def test_any_bytes(datagram: bytes) -> None:
    assert _read(datagram, _TRANSACTION) == (False, None)


@given(st.sampled_from([kind for kind, *_ in stun.ATTRIBUTES]), st.binary(max_size=30))
def test_any_value_of_a_known_attribute(kind: int, value: bytes) -> None:
    padded = value + b"\0" * (-len(value) % 4)
    attribute = kind.to_bytes(2) + len(value).to_bytes(2) + padded
    datagram = b"\x01\x01" + len(attribute).to_bytes(2) + b"\x21\x12\xa4\x42" + _TRANSACTION + attribute
    answered, mapped = _read(datagram, _TRANSACTION)
    assert answered or mapped is None


def test_an_error_is_an_answer() -> None:
    class Refuses(Mute):
        def datagram_received(self, data: bytes, address: object) -> None:
            request = stun.parse_message(data)
            error = {"ERROR-CODE": (400, "Bad Request")}
            answer = stun.Message(stun.Method.BINDING, stun.Class.ERROR, request.transaction_id, error)
            self._transport.sendto(bytes(answer), address)

    async def scenario(far: FarSide) -> None:
        await far.datagrams(ADDRESS, 3478, Refuses())
        details = await bound(far)
        assert (far.seen[0].failure, details.mapped) == (None, None)

    run(scenario)


@pytest.mark.root
def test_nobody_at_that_port() -> None:
    async def scenario(far: FarSide) -> None:
        far.refuse(ADDRESS, 3478)
        await bound(far, tcp=0.6)
        assert far.seen[0].failure == Failure.CONNECTION_REFUSED

    run(scenario)


def test_no_way_there() -> None:
    async def scenario(far: FarSide) -> None:
        await bound(far)
        assert far.seen[0].failure == Failure.NETWORK_UNREACHABLE

    run(scenario)


def test_datagrams_without_end_leave_others_their_turn() -> None:
    turns = begun = 0

    class Flood(Mute):
        def datagram_received(self, data: bytes, address: object) -> None:
            nonlocal begun
            begun = turns
            for _ in range(100):
                self._transport.sendto(_another(), address)
            request = stun.parse_message(data)
            answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id)
            self._transport.sendto(bytes(answer), address)

    async def scenario(far: FarSide) -> None:
        async def another() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        await far.datagrams(ADDRESS, 3478, Flood())
        task = asyncio.create_task(another())
        await bound(far)
        assert far.seen[0].failure is None
        assert turns - begun >= 100
        task.cancel()

    run(scenario)
