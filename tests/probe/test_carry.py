from __future__ import annotations

import asyncio
import socket

import pytest
from far_side import (
    NEUTRAL,
    PATIENT,
    RESOLVER,
    FarSide,
    Handler,
    Middle,
    Page,
    Reply,
    Site,
    resets_after_hello,
    run,
    server_context,
    stays_silent,
)
from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.probe.carry import BULK, CROWD, ECHOES, EXCHANGES, LOAD, SEGMENT, carries, lives
from vpntest.probe.observation import Alive, Crowd, Echo, Observation, SmallExchanges, Transfer
from vpntest.probe.pace import HELLO
from vpntest.tunnel.vantage import PacketCount

# They wait, for that is what they are about: no part of the quick suite that runs anywhere.
pytestmark = pytest.mark.root

NAME, ADDRESS, REAL = "control.test", "198.18.3.1", "198.18.3.2"
URL, UPLOAD, BULKY = f"https://{NAME}/64k", f"https://{NAME}/up", f"https://{NAME}/1m"
ZONE = {NAME: [Reply((ADDRESS,))]}


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CROWD_EVERY": 0.01, "ECHO_EVERY": 0.005, "ECHO_PATIENCE": 0.5, "BULK_LIMIT": 3.0}.items():
        monkeypatch.setattr(f"vpntest.probe.carry.{name}", value)


def control() -> Site:
    return Site({"/64k": Page(body=b"d" * LOAD), "/up": Page(204, b""), "/1m": Page(body=b"d" * BULK)})


async def carried(far: FarSide, handler: Handler | None = None, **fields: object) -> bool:
    """`handler` stands before the control."""
    site = control()
    real = await far.serve(REAL, 443, site, server_context(NAME))
    if isinstance(handler, Middle):
        handler.to = real
    await far.serve(ADDRESS, 443, handler or site, None if handler else server_context(NAME))
    bench = far.bench(
        limits=replace(PATIENT, stall=0.5, tls=0.6, dns=0.4) if handler else PATIENT,
        control=(URL,),
        upload=UPLOAD,
        bulk=BULKY,
    )
    return await carries(bench, far.vantage("tunnel", **fields), far.vantage(resolver="198.18.0.1"))


def kind(one: Observation) -> str:
    if isinstance(one.details, Transfer):
        return "bulk" if one.details.url.endswith("/1m") else one.details.direction
    return {Crowd: "crowd", SmallExchanges: "small", Echo: "echo"}[type(one.details)]


def of_kind(far: FarSide, *kinds: str) -> list[Observation]:
    return [
        one
        for one in far.seen
        if isinstance(one.details, Transfer | Crowd | SmallExchanges | Echo) and kind(one) in kinds
    ]


def loads(far: FarSide, *kinds: str) -> list[tuple[str, int, str | None]]:
    return [(kind(one), one.attempt, one.failure) for one in of_kind(far, *kinds or ("small", "down", "up"))]


def test_a_tunnel_that_carries() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        packets = iter(range(0, 1000, 10))
        assert await carried(far, count_packets=lambda: PacketCount(received=next(packets), sent=7)) is True
        assert loads(far) == [("small", 1, None), ("down", 1, None), ("up", 1, None)]
        assert loads(far, "crowd", "bulk", "echo") == [("crowd", 1, None), ("bulk", 1, None), ("echo", 1, None)]
        small, down, up = (one.details for one in of_kind(far, "small", "down", "up"))
        assert isinstance(small, SmallExchanges)
        assert (small.done, small.wanted) == (EXCHANGES, EXCHANGES)
        assert small.bytes > 2000
        assert (down.bytes, down.expected, up.bytes, up.expected) == (LOAD, LOAD, LOAD, LOAD)
        assert [(each.packets_received, each.packets_sent) for each in (small, down, up)] == [(10, 0)] * 3
        assert (up.samples[0], up.samples[-1][1]) == ((0, 0), LOAD)
        assert [count for _, count in up.samples] == sorted(count for _, count in up.samples)
        first = far.seen[0]
        assert (first.operation, first.target, first.details.resolver) == ("resolve", NAME, "vantage")
        assert {(one.probe, one.role, one.vantage) for one in far.seen} == {("carry", "control", "tunnel")}

    run(scenario)


def test_outside_has_no_packets_to_count() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        assert await carried(far) is True
        counted = of_kind(far, "crowd", "small", "down", "up", "bulk")
        assert {one.details.packets_received for one in counted} == {None}

    run(scenario)


def test_nothing_comes_back() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: []})
        await far.resolver("198.18.0.1", ZONE)
        assert await carried(far, stays_silent) is False
        assert far.chain(vantage="tunnel", operation="resolve") == [("resolve", Failure.TIMEOUT)] * 2
        assert far.chain(vantage="outside") == [("resolve", None)], "the control's address comes from outside then"
        assert far.chain(operation="tls_handshake") == [("tls_handshake", Failure.TIMEOUT)] * 3
        # The last one in short segments: the connection stood.
        assert loads(far) == [(*tried, Failure.TIMEOUT) for tried in (("small", 1), ("small", 2), ("down", 3))]

    run(scenario)


def test_a_dead_resolver_is_told_from_a_dead_tunnel() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: []})
        await far.resolver("198.18.0.1", ZONE)
        assert await carried(far, Middle(("", 0))) is True
        assert loads(far) == [("small", 1, None), ("down", 1, None), ("up", 1, None)]
        assert far.chain(vantage="tunnel", operation="resolve") == [("resolve", Failure.TIMEOUT)] * 2

    run(scenario)


def test_any_answer_is_first_data() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply(rcode="SERVFAIL")]})
        await far.resolver("198.18.0.1", ZONE)
        assert await carried(far) is True
        assert set(far.chain(vantage="tunnel", operation="resolve", target=NAME)) == {("resolve", Failure.DNS_SERVFAIL)}
        assert loads(far) == [("small", 1, None), ("down", 1, None), ("up", 1, None)]

    run(scenario)


def test_data_that_stops_after_the_first() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        assert await carried(far, stays_silent) is False
        silent = Failure.STALLED
        assert loads(far) == [("small", 1, silent), ("small", 2, silent), ("down", 3, silent)]
        assert [one.details.segment for one in of_kind(far, "down")] == [SEGMENT]
        assert far.chain(operation="tls_handshake") == [("tls_handshake", silent)] * 3
        assert [one.details.done for one in of_kind(far, "small")] == [0, 0]

    run(scenario)


def test_a_budget_of_bytes() -> None:
    """Cut where small exchanges still pass and 64 KiB do not; the last TLS record never completes."""

    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        assert await carried(far, Middle(("", 0), budget=16_000)) is False
        assert loads(far) == [("small", 1, None), *(("down", attempt, Failure.STALLED) for attempt in (1, 2, 3))]
        assert [one.details.segment for one in of_kind(far, "down")] == [None, None, SEGMENT]
        for one in of_kind(far, "down"):
            assert one.details.bytes < 16_000
            assert one.tcp is not None
            assert one.tcp.bytes_received == 16_000

    run(scenario)


def test_slow_is_not_stalled() -> None:
    """64 KiB take longer than the patience with silence, yet something comes all the time."""

    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        assert await carried(far, Middle(("", 0), rate=70_000)) is True
        assert loads(far) == [("small", 1, None), ("down", 1, None), ("up", 1, None)]
        (down,) = of_kind(far, "down")
        assert down.t - down.t0 > 0.5

    run(scenario)


def test_slow_to_the_end_of_our_time_is_not_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpntest.probe.carry.LOAD_LIMIT", 1.0)

    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        assert await carried(far, Middle(("", 0), rate=20_000)) is False
        assert loads(far) == [("small", 1, None), ("down", 1, Failure.TIMEOUT), ("down", 2, Failure.TIMEOUT)]

    run(scenario)


def test_an_upload_that_stops_shows_its_silence() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        await far.serve(ADDRESS, 80, control())
        await far.serve(ADDRESS, 8080, stays_silent)
        bench = far.bench(
            limits=replace(PATIENT, stall=0.6),
            control=(f"http://{NAME}/64k",),
            upload=f"http://{NAME}:8080/up",
            bulk=f"http://{NAME}/1m",
        )
        assert await carries(bench, far.vantage("tunnel"), far.vantage()) is False
        assert loads(far)[2:] == [("up", attempt, Failure.STALLED) for attempt in (1, 2, 3)]
        for one in of_kind(far, "up"):
            *_, (moved, count), (end, same) = one.details.samples
            assert count == same == one.details.bytes == LOAD
            assert end - moved >= 0.5

    run(scenario)


def test_one_failure_is_tried_again() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        site = control()
        count = 0

        async def first_ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            count += 1
            # The crowd's all work.
            if count != CROWD + 1:
                await site(reader, writer)

        await far.serve(ADDRESS, 443, first_ends, server_context(NAME))
        bench = far.bench(control=(URL,), upload=UPLOAD, bulk=BULKY)
        assert await carries(bench, far.vantage("tunnel"), far.vantage()) is True
        assert loads(far) == [("small", 1, Failure.EOF), ("small", 2, None), ("down", 1, None), ("up", 1, None)]

    run(scenario)


async def loaded(far: FarSide, site: Site, *paths: str) -> bool:
    """The loads of a tunnel whose controls are these pages, at one server each."""
    zone = {}
    for number, path in enumerate(paths):
        zone[f"c{number}.test"] = [Reply((f"198.18.3.{number}",))]
        await far.serve(f"198.18.3.{number}", 80, resets_after_hello if path == "reset" else site)
    await far.resolver(RESOLVER, zone)
    urls = tuple(f"http://c{number}.test/{path}" for number, path in enumerate(paths))
    last = f"http://c{len(paths) - 1}.test"
    bench = far.bench(control=urls, upload=f"{last}/up", bulk=f"{last}/1m")
    return await carries(bench, far.vantage("t"), far.vantage())


def answers(far: FarSide) -> list[tuple[str, int | None]]:
    """What the servers said where that was no load."""
    return [(one.details.url, one.details.code) for one in far.select(operation="http_round_trip")]


SITE = Site(
    {
        **control().pages,
        "/no": Page(429, b"later"),
        "/small": Page(body=b"small"),
        "/last": Page(body=b"d" * LOAD, headers=(("Connection", "close"),)),
    }
)


def test_a_load_that_failed_is_tried_at_the_next_control() -> None:
    async def scenario(far: FarSide) -> None:
        assert await loaded(far, SITE, "reset", "64k") is True
        reset = Failure.CONNECTION_RESET
        assert loads(far, "crowd") == [("crowd", 1, reset), ("crowd", 2, None)]
        assert loads(far) == [
            ("small", 1, reset),
            ("small", 2, None),
            ("down", 1, reset),
            ("down", 2, None),
            ("up", 1, None),
        ]
        passed = {one.details.url for one in of_kind(far, "crowd", "small", "down", "up") if one.failure is None}
        assert passed == {"http://c1.test/64k", "http://c1.test/up"}
        assert answers(far) == []

    run(scenario)


@pytest.mark.parametrize(("path", "code"), [("no", 429), ("small", 200)])
def test_a_control_without_a_body_carries_no_load(path: str, code: int) -> None:
    async def scenario(far: FarSide) -> None:
        assert await loaded(far, SITE, path, "64k") is True
        assert loads(far) == [("small", 1, None), ("down", 2, None), ("up", 1, None)]
        assert of_kind(far, "down")[0].details.bytes == LOAD
        assert answers(far) == [(f"http://c0.test/{path}", code)]

    run(scenario)


def test_a_control_without_a_body_excuses_no_failure() -> None:
    async def scenario(far: FarSide) -> None:
        site = Site({**SITE.pages, "/64k": Page(body=b"d" * LOAD, stops_after=9000)})
        await far.resolver(RESOLVER, ZONE)
        await far.serve(ADDRESS, 80, site)
        control = (f"http://{NAME}/no", f"http://{NAME}/64k")
        bench = far.bench(
            limits=replace(PATIENT, stall=0.5), control=control, upload=f"http://{NAME}/up", bulk=f"http://{NAME}/1m"
        )
        assert await carries(bench, far.vantage("tunnel"), far.vantage()) is False
        assert loads(far) == [("small", 1, None), *(("down", attempt, Failure.STALLED) for attempt in (2, 3, 4))]

    run(scenario)


def test_that_no_control_has_a_body_is_no_fault_of_the_tunnel() -> None:
    async def scenario(far: FarSide) -> None:
        assert await loaded(far, SITE, "no", "small") is True
        assert loads(far) == [("small", 1, None), ("down", 2, None), ("up", 1, None)]
        down = of_kind(far, "down")[0].details
        assert (down.bytes, down.expected) == (5, 5)
        assert answers(far) == [("http://c0.test/no", 429), ("http://c1.test/small", 200)]

    run(scenario)


def test_a_server_that_ends_the_connection_serves_no_small_messages() -> None:
    async def scenario(far: FarSide) -> None:
        assert await loaded(far, SITE, "last", "64k") is True
        assert loads(far) == [("small", 2, None), ("down", 1, None), ("up", 1, None)]
        assert of_kind(far, "small")[0].details.done == EXCHANGES
        far.seen.clear()
        assert await loaded(far, SITE, "last") is True
        assert loads(far)[-1] == ("up", 1, None)
        small = of_kind(far, "small")[0].details
        assert (small.done, small.wanted) == (1, 1)

    run(scenario)


@pytest.mark.parametrize("code", [403, 405, 503])
def test_an_upload_that_is_refused_was_carried(code: int) -> None:
    async def scenario(far: FarSide) -> None:
        site = Site({**SITE.pages, "/up": Page(code, b"no")})
        assert await loaded(far, site, "64k") is True
        assert loads(far) == [("small", 1, None), ("down", 1, None), ("up", 1, None)]
        up = of_kind(far, "up")[0].details
        assert (up.bytes, up.expected) == (LOAD, LOAD)
        assert answers(far) == [("http://c0.test/up", code)]

    run(scenario)


def test_a_server_that_nobody_can_name_has_carried_nothing() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply(("127.0.0.1",))]})
        bench = far.bench(control=(URL,), upload=UPLOAD, bulk=BULKY)
        assert await carries(bench, far.vantage("tunnel"), far.vantage()) is False
        assert loads(far) == [("small", 1, Failure.DNS_NO_ANSWER), ("small", 2, Failure.DNS_NO_ANSWER)]

    run(scenario)


def test_plain_http_controls() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        await far.serve(ADDRESS, 80, control())
        bench = far.bench(control=(f"http://{NAME}/64k",), upload=f"http://{NAME}/up", bulk=f"http://{NAME}/1m")
        assert await carries(bench, far.vantage("tunnel"), far.vantage()) is True

    run(scenario)


# ── a crowd ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stands", [True, False], ids=["connections", "all"])
def test_a_budget_of_connections(stands: bool) -> None:
    """Beyond so many, new connections fall silent; those that stand go on, or the whole tunnel is cut."""

    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        budget, begun = 5, 0

        async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal begun
            begun += 1
            number = begun
            while await reader.readuntil(b"\r\n\r\n"):
                if number <= budget and (stands or begun <= budget):
                    writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n")

        await far.serve(ADDRESS, 80, counts)
        urls = (f"http://{NAME}/64k",)
        bench = far.bench(limits=replace(PATIENT, stall=0.6), control=urls, upload=f"http://{NAME}/up")
        assert await carries(bench, far.vantage("tunnel"), far.vantage()) is False
        assert loads(far, "crowd") == [("crowd", 1, Failure.STALLED), ("crowd", 2, Failure.STALLED)]
        first, second = (one.details for one in of_kind(far, "crowd"))
        assert (first.wanted, first.answered) == (CROWD, (True,) * budget + (False,) * (CROWD - budget))
        assert first.standing is stands
        assert (second.answered, second.standing) == ((False,) * CROWD, None)
        # Whatever it was, small messages were tried, and nothing larger but in short segments.
        silent = Failure.STALLED
        assert loads(far) == [("small", 1, silent), ("small", 2, silent), ("down", 3, silent)]
        assert [one.details.segment for one in of_kind(far, "down")] == [SEGMENT]
        assert loads(far, "bulk", "echo") == []

    run(scenario)


def test_one_that_is_late_has_its_own_time() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        site, begun = control(), 0

        async def last_is_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal begun
            begun += 1
            if begun == CROWD:
                await asyncio.sleep(0.3)
            await site(reader, writer)

        await far.serve(ADDRESS, 80, last_is_late)
        bench = far.bench(
            limits=replace(PATIENT, stall=5.0),
            control=(f"http://{NAME}/64k",),
            upload=f"http://{NAME}/up",
            bulk=f"http://{NAME}/1m",
        )
        assert await carries(bench, far.vantage("tunnel"), far.vantage()) is True
        (crowd,) = of_kind(far, "crowd")
        assert crowd.details.answered == (True,) * CROWD
        assert crowd.details.standing is None
        assert len({one.transaction for one in far.select(operation="transfer")}) == 5

    run(scenario)


@pytest.mark.parametrize("silent", [False, True])
def test_one_of_the_crowd_is_slow(silent: bool) -> None:
    """Its time is over when nothing comes any more, and not before."""

    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        site, begun, stall = control(), 0, 0.6

        async def first_is_slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal begun
            begun += 1
            if begun > 1:
                await site(reader, writer)
                return
            await reader.readuntil(b"\r\n\r\n")
            answer = b"HTTP/1.1 204 No\r\n\r\n"
            for number in range(len(answer) - (1 if silent else 0)):
                writer.write(answer[number : number + 1])
                await asyncio.sleep(3 * stall / len(answer))
            await reader.read()

        await far.serve(ADDRESS, 80, first_is_slow)
        urls = (f"http://{NAME}/64k",)
        bench = far.bench(limits=replace(PATIENT, stall=stall), control=urls, upload=f"http://{NAME}/up")
        await carries(bench, far.vantage("tunnel"), far.vantage())
        first = of_kind(far, "crowd")[0]
        assert first.details.answered == (not silent,) + (True,) * (CROWD - 1)
        assert first.failure == (Failure.STALLED if silent else None)

    run(scenario)


def test_a_slow_line_has_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpntest.probe.carry.BULK_SHARE", 0.4)
    monkeypatch.setattr("vpntest.probe.carry.LEAST_BULK", LOAD + 1)

    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        await far.serve(ADDRESS, 80, control())
        urls = {"control": (f"http://{NAME}/64k",), "upload": f"http://{NAME}/up", "bulk": f"http://{NAME}/1m"}
        bench = far.bench(**urls)
        # What comes here is no news to it: it is not told.
        bench.pace.rate = 8e6
        assert await carries(bench, far.vantage("tunnel"), far.vantage()) is True
        (crowd,), (down,), (bulk,) = (of_kind(far, each) for each in ("crowd", "down", "bulk"))
        assert crowd.t - crowd.t0 > (CROWD - 1) * HELLO / 1e6, "each waits until the one before is through"
        assert (down.details.bytes, down.details.expected) == (LOAD, LOAD)
        assert (bulk.details.bytes, bulk.details.expected, bulk.failure) == (400_000, 400_000, None)
        assert bulk.t0 - down.t > LOAD / 1e6

    run(scenario)


# ── in segments ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("locally", [False, True])
def test_a_way_that_loses_long_segments(locally: bool) -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        whole, site = control(), Site({**control().pages, "/64k": Page(body=b"d" * LOAD, stops_after=9000)})

        async def by_segment(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            agreed = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            await (whole if agreed <= SEGMENT else site)(reader, writer)

        await far.serve(ADDRESS, 80, by_segment)
        bench = far.bench(
            limits=replace(PATIENT, stall=0.5), control=(f"http://{NAME}/64k",), upload=f"http://{NAME}/up"
        )
        vantage = far.vantage("tunnel", answers_locally=locally)
        # That it would pass so is evidence, and no help to whoever uses the tunnel.
        assert await carries(bench, vantage, far.vantage()) is False
        expected = [("down", 1, Failure.STALLED), ("down", 2, Failure.STALLED), ("down", 3, None)]
        assert loads(far, "down") == expected[: 2 if locally else 3]
        if not locally:
            last = of_kind(far, "down")[-1].details
            assert (last.segment, last.bytes) == (SEGMENT, LOAD)

    run(scenario)


def test_a_way_on_which_no_handshake_passes_but_in_short_segments() -> None:
    """The crowd fails as well: each of its handshakes brings a chain of certificates in long packets."""

    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        whole = control()

        async def by_segment(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            agreed = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            await (whole(reader, writer) if agreed <= SEGMENT else reader.read())

        await far.serve(ADDRESS, 80, by_segment)
        limits = replace(PATIENT, stall=0.5)
        bench = far.bench(limits=limits, control=(f"http://{NAME}/64k",), upload=f"http://{NAME}/up")
        assert await carries(bench, far.vantage("tunnel"), far.vantage()) is False
        assert loads(far, "crowd") == [("crowd", attempt, Failure.STALLED) for attempt in (1, 2)]
        assert loads(far) == [("small", 1, Failure.STALLED), ("small", 2, Failure.STALLED), ("down", 3, None)]
        last = of_kind(far, "down")[-1].details
        assert (last.segment, last.bytes) == (SEGMENT, LOAD)

    run(scenario)


# ── what is sustained ────────────────────────────────────────────────────────────────────────────────────────────────


async def sustained(far: FarSide, page: Page, **fields: object) -> bool:
    await far.resolver(RESOLVER, ZONE)
    await far.serve(ADDRESS, 80, Site({**control().pages, "/1m": page}))
    bench = far.bench(
        limits=replace(PATIENT, stall=0.5),
        control=(f"http://{NAME}/64k",),
        upload=f"http://{NAME}/up",
        bulk=f"http://{NAME}/1m",
    )
    return await carries(bench, far.vantage("tunnel", **fields), far.vantage(), asyncio.Semaphore(1))


def test_where_a_larger_budget_ends() -> None:
    async def scenario(far: FarSide) -> None:
        packets = iter(range(0, 1000, 10))
        page = Page(body=b"d" * BULK, stops_after=300_000)
        assert await sustained(far, page, count_packets=lambda: PacketCount(next(packets), 7)) is False
        assert loads(far, "bulk") == [("bulk", 1, Failure.STALLED), ("bulk", 2, Failure.STALLED)]
        for one in of_kind(far, "bulk"):
            assert (one.details.bytes, one.details.expected) == (300_000, BULK)
            assert one.details.packets_received == 10
        assert loads(far, "echo") == []

    run(scenario)


def test_slow_is_sustained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpntest.probe.carry.BULK_LIMIT", 0.8)

    async def scenario(far: FarSide) -> None:
        assert await sustained(far, Page(body=b"d" * BULK, chunk=10_000, pause=0.1)) is True
        (bulk,) = of_kind(far, "bulk")
        assert (bulk.failure, bulk.details.expected) == (None, None)
        assert 0 < bulk.details.bytes < BULK

    run(scenario)


@pytest.mark.parametrize("page", [Page(503, b"later"), Page(body=b"small")], ids=["refused", "short"])
def test_that_nobody_has_so_much_to_give_is_no_fault_of_the_tunnel(page: Page) -> None:
    async def scenario(far: FarSide) -> None:
        assert await sustained(far, page) is True
        assert loads(far, "bulk", "echo") == [("bulk", 1, None), ("echo", 1, None)]
        bulk = of_kind(far, "bulk")[0].details
        assert bulk.bytes == bulk.expected == len(page.body)

    run(scenario)


# ── echoes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_echoes_are_counted() -> None:
    async def scenario(far: FarSide) -> None:
        server = await far.resolver(RESOLVER, {**ZONE, NEUTRAL: [Reply(("198.18.9.9",))]})
        answer, dropped = server.datagram_received, iter(range(1000))

        def one_in_five_is_lost(data: bytes, address: object) -> None:
            if b"neutral" not in data or next(dropped) % 5:
                answer(data, address)

        server.datagram_received = one_in_five_is_lost  # type: ignore[method-assign]
        assert await carried(far) is True
        (echo,) = of_kind(far, "echo")
        assert (echo.operation, echo.target, echo.failure) == ("resolve", NEUTRAL, None)
        assert (echo.details.sent, echo.details.received) == (ECHOES, ECHOES * 4 // 5)
        assert len(echo.details.rtt_ms) == echo.details.received
        assert all(each > 0 for each in echo.details.rtt_ms)
        assert echo.details.resolver_address == f"{RESOLVER}:53"

    run(scenario)


def test_echoes_that_are_all_lost() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {**ZONE, NEUTRAL: []})
        assert await carried(far) is True, "that is for the judge to weigh"
        (echo,) = of_kind(far, "echo")
        assert (echo.details.sent, echo.details.received, echo.failure) == (ECHOES, 0, Failure.STALLED)

    run(scenario)


def test_no_echo_is_asked_for_where_a_resolver_is_mute() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: []})
        await far.resolver("198.18.0.1", ZONE)
        assert await carried(far, Middle(("", 0))) is True
        assert loads(far, "echo") == []

    run(scenario)


# ── alive at the end ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("replies", "runs", "failure", "questions"),
    [
        ([Reply((ADDRESS,))], True, None, 1),
        ([Reply(rcode="NXDOMAIN")], True, None, 1),
        ([], True, Failure.STALLED, 2),
        ([Reply((ADDRESS,))], False, Failure.CARRIER_EXITED, 0),
    ],
    ids=["alive", "any-answer", "silent", "exited"],
)
def test_lives(replies: list[Reply], runs: bool, failure: str | None, questions: int) -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: replies})
        bench = far.bench(limits=replace(PATIENT, dns=20 if replies else 0.4), control=(URL,))
        await lives(bench, far.vantage("tunnel", alive=lambda: runs))
        assert len(far.select(operation="resolve")) == questions
        last = far.seen[-1]
        assert (last.operation, last.probe, last.failure) == ("tunnel", "alive", failure)
        assert last.details == Alive(carrier_runs=runs)

    run(scenario)
