from __future__ import annotations

import asyncio

import pytest
from far_side import (
    NEUTRAL,
    PATIENT,
    FarSide,
    Handler,
    Middle,
    Site,
    resets_after_hello,
    run,
    server_context,
    stays_silent,
    stranger,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.probe.freeze import PIECE, REQUEST, TRICKLES, request_to, trickle_to
from vpntest.probe.observation import Observation, Trickle
from vpntest.tunnel.vantage import PacketCount

NAME, ADDRESS, REAL = "www.example.test", "198.18.1.1", "198.18.1.2"
URL = f"https://{NAME}/page"
CHUNKS = REQUEST // PIECE


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PAUSE": 0.005, "APART": 0.02}.items():
        monkeypatch.setattr(f"vpntest.probe.freeze.{name}", value)


@settings(max_examples=30)
@given(st.from_regex(r"[a-z0-9-]{1,60}(\.[a-z]{2,20}){1,2}", fullmatch=True))
def test_request_is_short_and_whole(name: str) -> None:
    request = request_to(name)
    assert len(request) == max(REQUEST, 26 + len(name))
    head, rest = request.split(b"\r\n", 1)
    assert head == b"HEAD / HTTP/1.1"
    assert rest.endswith(b"\r\n\r\n")
    field, value = rest[:-4].split(b":")
    assert (field, value.strip()) == (b"Host", name.encode())


async def trickled(far: FarSide, handler: Handler, tls: object = None, **fields: object) -> list[Observation]:
    await far.serve(ADDRESS, 443, handler, tls)  # type: ignore[arg-type]
    bench = far.bench(limits=replace(PATIENT, stall=0.5))
    await trickle_to(bench, far.vantage(**fields), "example", "web", URL, NAME, ADDRESS, 443)
    assert {(one.probe, one.role, one.platform, one.service, one.endpoint) for one in far.seen} == {
        ("freeze", "target", "example", "web", URL)
    }
    found = far.select(operation="transfer")
    assert sorted(one.attempt for one in found) == list(range(1, TRICKLES + 1))
    assert all(isinstance(one.details, Trickle) for one in found)
    return found


@pytest.mark.root
def test_an_address_that_counts_nothing() -> None:
    async def scenario(far: FarSide) -> None:
        site = Site()
        packets = iter(range(0, 1000, 10))
        found = await trickled(
            far, site, server_context(NAME), count_packets=lambda: PacketCount(next(packets), next(packets))
        )
        for one in found:
            assert one.failure is None
            assert (one.details.chunks, one.details.answered) == (CHUNKS, True)
            # Each pair of bytes in a TLS record of its own, which adds 22.
            assert one.details.bytes_acked == CHUNKS * (PIECE + 22)
            assert (one.details.url, one.details.server_name, one.details.address) == (URL, NAME, f"{ADDRESS}:443")
            assert one.details.packets_received > 0
            assert one.tcp.segments_sent >= CHUNKS
        assert [(method, host.strip(), path) for method, host, path in site.asked] == [("HEAD", NAME, "/")] * TRICKLES
        assert {one.details.negotiated_protocol for one in far.select(operation="tls_handshake")} == {"http/1.1"}

    run(scenario)


@pytest.mark.root
def test_whose_certificate_it_is_does_not_matter() -> None:
    async def scenario(far: FarSide) -> None:
        found = await trickled(far, Site(), server_context(NAME, ca=stranger()))
        assert {one.details.answered for one in found} == {True}
        assert {one.details.no_tls_verify for one in far.select(operation="tls_handshake")} == {True}

    run(scenario)


class Counting(Middle):
    """Passes so many pieces from the client, and then nothing in either direction, ever."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self.to)
        left = self.budget or 0

        async def forth() -> None:
            nonlocal left
            while data := await reader.read(65536):
                left -= 1
                if left >= 0:
                    far_writer.write(data)

        async def back() -> None:
            while data := await far_reader.read(65536):
                if left >= 0:
                    writer.write(data)

        try:
            await asyncio.gather(forth(), back())
        finally:
            far_writer.close()


@pytest.mark.root
def test_an_address_that_counts_packets() -> None:
    async def scenario(far: FarSide) -> None:
        real = await far.serve(REAL, 443, Site(), server_context(NAME))
        for one in await trickled(far, Counting(real, budget=12)):
            assert one.failure == Failure.STALLED
            assert (one.details.chunks, one.details.answered) == (CHUNKS, False)
            assert one.tcp is not None

    run(scenario)


@pytest.mark.root
@pytest.mark.parametrize(
    ("handler", "failure"),
    [(stays_silent, Failure.STALLED), (resets_after_hello, Failure.CONNECTION_RESET)],
    ids=["silent", "reset"],
)
def test_a_handshake_that_never_ends(handler: Handler, failure: str) -> None:
    async def scenario(far: FarSide) -> None:
        for one in await trickled(far, handler):
            assert one.failure == failure
            assert (one.details.chunks, one.details.bytes_acked, one.details.answered) == (0, 0, False)
            assert one.tcp is not None

    run(scenario)


@pytest.mark.root
def test_an_address_that_is_not_there() -> None:
    async def scenario(far: FarSide) -> None:
        far.refuse(ADDRESS, 443)
        bench = far.bench()
        await trickle_to(bench, far.vantage(), "example", None, URL, NEUTRAL, ADDRESS, 443)
        found = far.select(operation="transfer")
        assert {one.failure for one in found} == {Failure.CONNECTION_REFUSED}
        assert {one.details.chunks for one in found} == {0}

    run(scenario)
