from __future__ import annotations

import pytest
from far_side import RESOLVER, FarSide, Page, Reply, Site, run, server_context
from hypothesis import given
from hypothesis import strategies as st

from vpntest.failures import Failure
from vpntest.probe.exits import address_in, ask_exit, ask_resolver
from vpntest.probe.observation import Address

HOST, ADDRESS, WHOAMI = "exit.test", "198.18.3.1", "whoami.test"
SETTINGS = {"exit_address": f"https://{HOST}/ip", "whoami": WHOAMI}


@pytest.mark.parametrize(
    ("body", "family", "address"),
    [
        (b"198.18.7.7", 4, "198.18.7.7"),
        (b" 198.18.7.7\r\n", 4, "198.18.7.7"),
        (b"fl=1\nh=www.cloudflare.com\nip=198.18.7.7\nts=1\n", 4, "198.18.7.7"),
        (b"fl=1\nip=fd00::7\n", 6, "fd00::7"),
        (b"FD00:0::7", 6, "fd00::7"),
        (b"198.18.7.7", 6, None),
        (b"<html>blocked</html>", 4, None),
        (b"1.2.3.4.5", 4, None),
        (b"", 4, None),
    ],
)
def test_address_in(body: bytes, family: int, address: str | None) -> None:
    assert address_in(body, family) == address  # type: ignore[arg-type]


@given(st.binary(max_size=300))
def test_address_in_anything(body: bytes) -> None:
    address_in(body, 4)


def test_exit_over_ipv4() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {HOST: [Reply((ADDRESS,))]})
        await far.serve(ADDRESS, 443, Site({"/ip": Page(body=b"ip=198.18.7.7\n")}), server_context(HOST))
        await ask_exit(far.bench(**SETTINGS), far.vantage("tunnel"), 4)
        assert far.seen[-1].details == Address(of="exit", family=4, address="198.18.7.7")
        assert far.seen[-1].failure is None
        assert far.chain(probe="exit")[:3] == [("resolve", None), ("connect", None), ("tls_handshake", None)]
        assert {one.vantage for one in far.seen} == {"tunnel"}

    run(scenario)


def test_no_way_out_over_ipv6_is_a_fact_and_asked_once() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {HOST: [Reply((ADDRESS,))], f"{HOST} AAAA": [Reply(("fd00::3",))]})
        await ask_exit(far.bench(**SETTINGS), far.vantage(), 6)
        last = far.seen[-1]
        assert last.details == Address(of="exit", family=6, address=None)
        assert (last.operation, last.failure) == ("connect", Failure.NETWORK_UNREACHABLE)
        assert len(far.seen) == 3

    run(scenario)


def test_a_host_without_ipv6() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {HOST: [Reply((ADDRESS,))]})
        await ask_exit(far.bench(**SETTINGS), far.vantage(), 6)
        assert far.seen[-1].details == Address(of="exit", family=6, address=None)
        assert far.seen[-1].failure == Failure.DNS_NO_ANSWER

    run(scenario)


def test_an_answer_that_is_no_address_is_asked_for_again() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {HOST: [Reply((ADDRESS,))]})
        site = Site({"/ip": Page(body=b"<html>log in here</html>")})
        await far.serve(ADDRESS, 443, site, server_context(HOST))
        await ask_exit(far.bench(**SETTINGS), far.vantage(), 4)
        ends = [one for one in far.seen if isinstance(one.details, Address)]
        assert [(one.attempt, one.failure) for one in ends] == [
            (1, Failure.HTTP_REQUEST_FAILED),
            (2, Failure.HTTP_REQUEST_FAILED),
        ]
        assert len(site.asked) == 2

    run(scenario)


def test_resolver() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {WHOAMI: [Reply(("198.18.0.54",))]})
        await ask_resolver(far.bench(**SETTINGS), far.vantage())
        assert far.seen[-1].details == Address(of="resolver", family=4, address="198.18.0.54")
        assert far.seen[-1].failure is None
        assert {one.probe for one in far.seen} == {"resolver"}

    run(scenario)


def test_no_resolver_is_known_where_the_name_is_not() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {})
        await ask_resolver(far.bench(**SETTINGS), far.vantage())
        assert far.seen[-1].details == Address(of="resolver", family=4, address=None)
        assert far.seen[-1].failure == Failure.DNS_NXDOMAIN

    run(scenario)
