from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rrset
import pytest

from vpntest.failures import Failure
from vpntest.tunnel import netlink
from vpntest.tunnel.dns import MOST, SENDINGS, Resolution, ask
from vpntest.tunnel.namespace import Namespace

pytestmark = pytest.mark.root

Script = Callable[[dns.message.Message, int], list[tuple[float, bytes]]]
"""What a resolver sends to a question (its number counts from 1): each datagram with its delay in seconds."""


@pytest.fixture(scope="module")
def loopback() -> Iterator[Namespace]:
    made = Namespace.create()
    asyncio.run(netlink.prepare(made))
    yield made
    made.close()


class _Resolver(asyncio.DatagramProtocol):
    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        for delay, reply in self.script(dns.message.from_wire(data), self.asked):
            asyncio.get_running_loop().call_later(delay, self.transport.sendto, reply, addr)


@contextlib.asynccontextmanager
async def resolver(namespace: Namespace, script: Script, address: str = "127.0.0.1") -> AsyncIterator[_Resolver]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = namespace.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Resolver(script), sock=sock
    )
    try:
        yield protocol
    finally:
        transport.close()
        await asyncio.sleep(0)


@contextlib.contextmanager
def over_tcp(namespace: Namespace, *addresses: str) -> Iterator[None]:
    """Answers one question over TCP."""
    listener = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 53))
    listener.listen()

    def serve() -> None:
        caller, _ = listener.accept()
        with caller:
            length = int.from_bytes(caller.recv(2))
            wire = answer(dns.message.from_wire(caller.recv(length)), *addresses)
            # In two pieces, as a stream may bring them.
            caller.sendall(len(wire).to_bytes(2) + wire[:7])
            caller.sendall(wire[7:])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        # Ends a wait for a caller who never came.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def answer(query: dns.message.Message, *addresses: str, kind: str = "A", rcode: int = dns.rcode.NOERROR) -> bytes:
    reply = dns.message.make_response(query)
    reply.set_rcode(rcode)
    # One set for each address: dnspython writes the records of a set in random order.
    for address in addresses:
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", kind, address))
    return reply.to_wire()


def asked(
    namespace: Namespace, script: Script, *, address: str = "127.0.0.1", kind: str = "A", **options: object
) -> Resolution:
    async def body() -> Resolution:
        async with resolver(namespace, script, address):
            return await ask(namespace.socket, address, "name.test", kind, **{"timeout": 1.0, **options})

    return asyncio.run(body())


def test_addresses_in_the_order_of_the_answer(loopback: Namespace) -> None:
    found = asked(loopback, lambda query, _: [(0, answer(query, "198.18.1.2", "198.18.1.1"))])
    assert found == Resolution("NOERROR", ("198.18.1.2", "198.18.1.1"))


def test_ipv6_addresses_from_an_ipv6_resolver(loopback: Namespace) -> None:
    found = asked(loopback, lambda query, _: [(0, answer(query, "fd00::7", kind="AAAA"))], address="::1", kind="AAAA")
    assert found == Resolution("NOERROR", ("fd00::7",))


@pytest.mark.parametrize(
    ("rcode", "failure"),
    [
        ("NXDOMAIN", Failure.DNS_NXDOMAIN),
        ("SERVFAIL", Failure.DNS_SERVFAIL),
        ("REFUSED", Failure.DNS_REFUSED),
        ("NOTIMP", Failure.DNS_MISBEHAVING),
        ("NOERROR", Failure.DNS_NO_ANSWER),
    ],
)
def test_each_answer_without_addresses_is_a_failure_of_its_own(loopback: Namespace, rcode: str, failure: str) -> None:
    found = asked(loopback, lambda query, _: [(0, answer(query, rcode=dns.rcode.from_text(rcode)))])
    assert found == Resolution(rcode, failure=failure)


def test_a_lost_question_is_asked_again(loopback: Namespace) -> None:
    found = asked(loopback, lambda query, number: [(0, answer(query, "198.18.1.1"))] if number == 2 else [])
    assert found == Resolution("NOERROR", ("198.18.1.1",))


def test_silence_ends_in_our_own_timeout_after_all_sendings(loopback: Namespace) -> None:
    async def body() -> tuple[Resolution, int]:
        async with resolver(loopback, lambda query, number: []) as server:
            return await ask(loopback.socket, "127.0.0.1", "name.test", "A", timeout=0.3), server.asked

    assert asyncio.run(body()) == (Resolution(None, failure=Failure.TIMEOUT), SENDINGS)


def test_nobody_listening_is_refused(loopback: Namespace) -> None:
    found = asyncio.run(ask(loopback.socket, "127.0.0.1", "name.test", "A", timeout=1.0))
    assert found == Resolution(None, failure=Failure.CONNECTION_REFUSED)


def test_no_route_to_the_resolver(loopback: Namespace) -> None:
    found = asyncio.run(ask(loopback.socket, "198.18.5.5", "name.test", "A", timeout=1.0))
    assert found == Resolution(None, failure=Failure.NETWORK_UNREACHABLE)


def test_an_answer_with_another_id_does_not_count(loopback: Namespace) -> None:
    def other_id(query: dns.message.Message) -> bytes:
        wire = answer(query, "198.18.6.6")
        return bytes([wire[0] ^ 0xFF]) + wire[1:]

    def script(query: dns.message.Message, number: int) -> list[tuple[float, bytes]]:
        return [(0, other_id(query)), (0.05, answer(query, "198.18.1.1"))]

    assert asked(loopback, script) == Resolution("NOERROR", ("198.18.1.1",))
    alone = asked(loopback, lambda query, _: [(0, other_id(query))], timeout=0.3)
    assert alone == Resolution(None, failure=Failure.DNS_WRONG_ID)


def test_an_answer_to_another_question_does_not_count(loopback: Namespace) -> None:
    def script(query: dns.message.Message, number: int) -> list[tuple[float, bytes]]:
        other = dns.message.make_query("other.test", "A", id=query.id)
        return [(0, answer(other, "198.18.6.6")), (0.05, answer(query, "198.18.1.1"))]

    assert asked(loopback, script) == Resolution("NOERROR", ("198.18.1.1",))


def test_bytes_that_are_no_answer(loopback: Namespace) -> None:
    found = asked(loopback, lambda query, _: [(0, b"\0" * 5)], timeout=0.3)
    assert found == Resolution(None, failure=Failure.DNS_MISBEHAVING)


def test_a_second_different_answer_is_kept_as_late(loopback: Namespace) -> None:
    def script(query: dns.message.Message, number: int) -> list[tuple[float, bytes]]:
        same = answer(query, "198.18.6.6")
        return [(0, same), (0.02, same), (0.05, answer(query, "198.18.1.1", "198.18.1.2"))]

    found = asked(loopback, script, linger=0.4)
    assert found == Resolution("NOERROR", ("198.18.6.6",), (("198.18.1.1", "198.18.1.2"),))
    assert asked(loopback, script).late == ()


def test_what_is_known_is_told_at_each_answer(loopback: Namespace) -> None:
    def script(query: dns.message.Message, number: int) -> list[tuple[float, bytes]]:
        return [(0, answer(query, "198.18.6.6")), (0.05, answer(query, "198.18.1.1"))]

    told: list[Resolution] = []
    found = asked(loopback, script, linger=0.4, heard=told.append)
    first = Resolution("NOERROR", ("198.18.6.6",))
    assert told[0] == first
    assert told[-1] == found == Resolution("NOERROR", ("198.18.6.6",), (("198.18.1.1",),))
    told.clear()
    assert asked(loopback, lambda query, _: [], timeout=0.2, heard=told.append).failure == Failure.TIMEOUT
    assert told == [], "silence is nothing that was heard"


def test_the_same_addresses_in_another_order_are_no_second_answer(loopback: Namespace) -> None:
    def script(query: dns.message.Message, number: int) -> list[tuple[float, bytes]]:
        return [(0, answer(query, "198.18.1.1", "198.18.1.2")), (0.02, answer(query, "198.18.1.2", "198.18.1.1"))]

    assert asked(loopback, script, linger=0.2).late == ()


def test_a_late_answer_may_say_that_there_is_no_such_name(loopback: Namespace) -> None:
    def script(query: dns.message.Message, number: int) -> list[tuple[float, bytes]]:
        return [(0, answer(query, "198.18.6.6")), (0.02, answer(query, rcode=dns.rcode.NXDOMAIN))]

    assert asked(loopback, script, linger=0.3).late == ((),)


def test_a_truncated_answer_is_fetched_by_tcp(loopback: Namespace) -> None:
    def truncated(query: dns.message.Message, number: int) -> list[tuple[float, bytes]]:
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.TC
        return [(0, reply.to_wire())]

    with over_tcp(loopback, *(f"198.18.2.{n}" for n in range(1, 100))):
        found = asked(loopback, truncated)
    assert (found.failure, found.engine) == (None, "tcp")
    assert len(found.answers) == 99


def test_silence_over_udp_is_asked_again_over_tcp_where_that_is_wanted(loopback: Namespace) -> None:
    with over_tcp(loopback, "198.18.1.1"):
        found = asked(loopback, lambda query, _: [], or_tcp=True)
    assert found == Resolution("NOERROR", ("198.18.1.1",), engine="tcp")


def test_a_refusal_over_udp_too(loopback: Namespace) -> None:
    with over_tcp(loopback, "198.18.1.1"):
        found = asyncio.run(ask(loopback.socket, "127.0.0.1", "name.test", "A", timeout=1.0, or_tcp=True))
    assert found == Resolution("NOERROR", ("198.18.1.1",), engine="tcp")


def test_silence_stays_silence_where_tcp_brings_nothing(loopback: Namespace) -> None:
    found = asked(loopback, lambda query, _: [], timeout=0.4, or_tcp=True)
    assert found == Resolution(None, failure=Failure.TIMEOUT)


def test_over_tcp_only(loopback: Namespace) -> None:
    opened: list[socket.SocketKind] = []

    def opening(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        opened.append(kind)
        return loopback.socket(family, kind)

    def asks() -> Resolution:
        return asyncio.run(ask(opening, "127.0.0.1", "name.test", "A", timeout=1.0, linger=9.0, only_tcp=True))

    with over_tcp(loopback, "198.18.1.1"):
        assert asks() == Resolution("NOERROR", ("198.18.1.1",), engine="tcp")
    assert asks() == Resolution(None, failure=Failure.CONNECTION_REFUSED, engine="tcp")
    assert set(opened) == {socket.SOCK_STREAM}


def test_what_udp_has_answered_is_not_asked_over_tcp(loopback: Namespace) -> None:
    found = asked(loopback, lambda query, _: [(0, answer(query, rcode=dns.rcode.SERVFAIL))], or_tcp=True)
    assert found == Resolution("SERVFAIL", failure=Failure.DNS_SERVFAIL)
    forged = asked(loopback, lambda query, _: [(0, b"\0" * 5)], timeout=0.4, or_tcp=True)
    assert forged == Resolution(None, failure=Failure.DNS_MISBEHAVING)


def test_a_truncated_answer_whose_tcp_is_refused(loopback: Namespace) -> None:
    def truncated(query: dns.message.Message, number: int) -> list[tuple[float, bytes]]:
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.TC
        return [(0, reply.to_wire())]

    assert asked(loopback, truncated) == Resolution(None, failure=Failure.CONNECTION_REFUSED)


def test_a_name_that_cannot_be_asked_for(loopback: Namespace) -> None:
    found = asyncio.run(ask(loopback.socket, "127.0.0.1", "a" * 64 + ".test", "A"))
    assert found.failure is not None
    assert found.failure.startswith("unknown_failure: ")


def test_answers_without_end_leave_others_their_turn(loopback: Namespace) -> None:
    addresses = [f"198.18.6.{number}" for number in range(1, 100)]
    turns = 0
    told: list[int] = []

    async def body() -> Resolution:
        async def another() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        def script(query: dns.message.Message, _: int) -> list[tuple[float, bytes]]:
            return [(0, answer(query, address)) for address in addresses]

        async with resolver(loopback, script):
            task = asyncio.create_task(another())
            try:
                return await ask(
                    loopback.socket,
                    "127.0.0.1",
                    "name.test",
                    "A",
                    timeout=20,
                    linger=20,
                    heard=lambda _: told.append(turns),
                )
            finally:
                task.cancel()

    found = asyncio.run(body())
    # As many as are kept end the wait.
    assert found == Resolution("NOERROR", (addresses[0],), tuple((each,) for each in addresses[1:MOST]))
    *told, last = told
    assert len(told) == len(set(told)) == MOST, "a turn between any two"
    assert last == told[-1]


def test_the_same_answer_again_and_again_hides_no_other(loopback: Namespace) -> None:
    def script(query: dns.message.Message, _: int) -> list[tuple[float, bytes]]:
        same = answer(query, "198.18.6.6")
        return [(0, same)] * 100 + [(0.1, answer(query, "198.18.1.1"))]

    assert asked(loopback, script, linger=0.5).late == (("198.18.1.1",),)


@pytest.mark.parametrize("kind", ["A", "AAAA"])
@pytest.mark.parametrize("other", ["CH", "HS", "ANY", "NONE", "CLASS77"])
def test_a_record_of_another_class_is_no_address(
    loopback: Namespace, monkeypatch: pytest.MonkeyPatch, other: str, kind: str
) -> None:
    # As in a process that has read nothing yet.
    monkeypatch.setattr(dns.rdata, "_rdata_classes", {})
    true = {"A": "198.18.1.1", "AAAA": "fd00::7"}[kind]

    def script(query: dns.message.Message, _: int) -> list[tuple[float, bytes]]:
        wire = bytearray(answer(query, true, kind=kind))
        # The class follows name and type; in a CHAOS record of type A a name and a number follow.
        place = len(query.to_wire()) + 4
        wire[place : place + 2] = dns.rdataclass.from_text(other).to_bytes(2)
        if (other, kind) == ("CH", "A"):
            wire[place + 6 :] = b"\x00\x08\x04evil\x00\x12\x34"
        return [(0, bytes(wire)), (0.02, answer(query, true, kind=kind))]

    found = asked(loopback, script, linger=0.3, kind=kind)
    assert found == Resolution("NOERROR", (), ((true,),), Failure.DNS_NO_ANSWER)
    assert asked(loopback, lambda query, _: [(0, answer(query, true, kind=kind))], kind=kind).answers == (true,)


def test_a_refusal_without_its_question(loopback: Namespace) -> None:
    def script(query: dns.message.Message, _: int) -> list[tuple[float, bytes]]:
        return [(0, query.to_wire()[:2] + b"\x81\x85" + b"\0" * 8)]

    assert asked(loopback, script) == Resolution("REFUSED", failure=Failure.DNS_REFUSED)
