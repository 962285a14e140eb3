from __future__ import annotations

import pytest
from far_side import (
    NEUTRAL,
    PATIENT,
    RESOLVER,
    FarSide,
    Middle,
    Page,
    Reply,
    Site,
    platform,
    run,
    server_context,
)
from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.judge.platform_rules import SLOW
from vpntest.probe.http import BODY_CAP
from vpntest.probe.observation import Transfer
from vpntest.probe.speed import FAIR_RATE, FAIR_SAMPLES, FROZEN, PAIRS, froze, measure, measured_by, slow

# They wait, for that is what they are about: no part of the quick suite that runs anywhere.
pytestmark = pytest.mark.root


def test_a_round_that_ends_early_is_one_that_the_judge_could_not_call_slow() -> None:
    assert FAIR_RATE >= SLOW
    assert 2 * FAIR_SAMPLES > PAIRS


NAME, ADDRESS, REAL = "cdn.example.test", "198.18.1.1", "198.18.2.2"
CONTROL, CONTROL_ADDRESS = "control.test", "198.18.3.3"
URL = f"https://{NAME}/big"
BIG = Page(body=b"b" * 100_000)


async def measured(far: FarSide, site: Site, middle: Middle | None = None, window: float = 20.0) -> bool:
    await far.resolver(RESOLVER, {NAME: [Reply((ADDRESS,))], CONTROL: [Reply((CONTROL_ADDRESS,))]})
    real = await far.serve(REAL if middle else ADDRESS, 443, site, server_context(NAME))
    if middle:
        middle.to = real
        await far.serve(ADDRESS, 443, middle)
    await far.serve(CONTROL_ADDRESS, 443, Site({"/64k": BIG}), server_context(CONTROL))
    one = platform(URL, speed=URL)
    bench = far.bench(one, limits=replace(PATIENT, window=window), control=(f"https://{CONTROL}/64k",))
    return await measure(bench, far.vantage(), one)


def transfers(far: FarSide, role: str) -> list[Transfer]:
    return [one.details for one in far.select(role=role, operation="transfer") if isinstance(one.details, Transfer)]


@pytest.mark.parametrize(("rate", "pairs"), [(FAIR_RATE, FAIR_SAMPLES), (1e12, PAIRS)])
def test_pairs_in_turns(monkeypatch: pytest.MonkeyPatch, rate: float, pairs: int) -> None:
    """As many as it takes to know that the median is fair."""
    monkeypatch.setattr("vpntest.probe.speed.FAIR_RATE", rate)

    async def scenario(far: FarSide) -> None:
        site = Site({"/big": BIG})
        assert await measured(far, site) is False
        order = [one.role for one in far.select(operation="transfer")]
        one_pair, other = ["target", "neutral"], ["neutral", "target"]
        every = [*one_pair, *other, *one_pair, *other, *one_pair]
        assert order == ["control", *every[: 2 * pairs], "control"]
        assert [one.phase for one in far.select(operation="transfer", role="control")] == ["before", "after"]
        for role, name in (("target", NAME), ("neutral", NEUTRAL)):
            found = transfers(far, role)
            assert [(each.server_name, each.bytes, each.expected, each.direction) for each in found] == [
                (name, BODY_CAP, BODY_CAP, "down")
            ] * pairs
            assert {each.address for each in found} == {f"{ADDRESS}:443"}
            assert all(each.samples[0][0] == 0 and each.samples[-1][1] >= BODY_CAP for each in found)
        assert [one.attempt for one in far.select(role="target", operation="transfer")] == list(range(1, pairs + 1))
        assert {one.failure for one in far.seen} == {None}
        assert {(one.probe, one.platform) for one in far.seen} == {("speed", "example")}
        # Only the name in the handshake differs: both ask for the same page of the same host.
        assert set(site.asked) == {("GET", NAME, "/big")}
        assert len({one.transaction for one in far.select(operation="connect")}) == 2 + 2 * pairs
        assert all(one.tcp is not None for one in far.select(operation="transfer"))

    run(scenario)


def test_the_name_is_throttled() -> None:
    async def scenario(far: FarSide) -> None:
        site, middle = Site({"/big": Page(body=BIG.body, chunk=2048)}), Middle(("", 0), NAME, rate=16_000)
        assert await measured(far, site, middle, window=0.4) is True
        ours, neutral = transfers(far, "target"), transfers(far, "neutral")
        assert len(ours) == len(neutral) == PAIRS
        assert all(0 < each.bytes < BODY_CAP == each.expected for each in ours)
        assert all(each.bytes == BODY_CAP for each in neutral)
        assert {one.failure for one in far.select(operation="transfer")} == {None}

    run(scenario)


def test_the_address_is_throttled() -> None:
    async def scenario(far: FarSide) -> None:
        site, middle = Site({"/big": Page(body=BIG.body, chunk=2048)}), Middle(("", 0), rate=16_000)
        assert await measured(far, site, middle, window=0.4) is True, "slow against the control"
        assert all(0 < each.bytes < BODY_CAP for role in ("target", "neutral") for each in transfers(far, role))

    run(scenario)


def test_a_round_that_confirms_says_so() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((ADDRESS,))], CONTROL: [Reply((CONTROL_ADDRESS,))]})
        await far.serve(ADDRESS, 443, Site({"/big": BIG}), server_context(NAME))
        await far.serve(CONTROL_ADDRESS, 443, Site({"/64k": BIG}), server_context(CONTROL))
        one = platform(URL, speed=URL)
        await measure(far.bench(one, control=(f"https://{CONTROL}/64k",)), far.vantage(), one, "confirm")
        assert {each.phase for each in far.seen} == {"confirm"}
        assert len(transfers(far, "target")) == len(transfers(far, "neutral")) == FAIR_SAMPLES
        assert len(transfers(far, "control")) == 2

    run(scenario)


def test_silence_at_the_end_shows_in_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpntest.probe.speed.SILENCE", 0.2)

    async def scenario(far: FarSide) -> None:
        site = Site({"/big": replace_stops(BIG, 20_000)})
        await measured(far, site, window=0.4)
        found = far.select(role="target", operation="transfer")
        assert len(found) == FROZEN, "no more: that is no matter of speed"
        assert all(map(froze, found))
        for each in transfers(far, "target"):
            (early, last) = each.samples[-2:]
            assert early[1] == last[1] == each.bytes == 20_000
            assert last[0] > early[0]

    run(scenario)


def test_what_moves_to_the_end_did_not_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpntest.probe.speed.PAIRS", 1)
    monkeypatch.setattr("vpntest.probe.speed.SILENCE", 0.8)

    async def scenario(far: FarSide) -> None:
        await measured(far, Site({"/big": Page(body=BIG.body, chunk=2048)}), Middle(("", 0), rate=16_000), window=1.6)
        assert not any(map(froze, far.select(operation="transfer")))

    run(scenario)


def replace_stops(page: Page, after: int) -> Page:
    return Page(page.status, page.body, page.headers, 4096, 0.0, after)


def test_a_short_body_is_complete() -> None:
    async def scenario(far: FarSide) -> None:
        assert await measured(far, Site({"/big": Page(421, b"misdirected")})) is False, "nothing to be slow with"
        assert [(each.bytes, each.expected) for each in transfers(far, "target")] == [(11, 11)] * PAIRS

    run(scenario)


def test_ends_early_where_it_is_no_matter_of_speed() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((ADDRESS,))]})
        far.refuse(ADDRESS, 443)
        one = platform(URL, speed=URL)
        assert await measure(far.bench(one), far.vantage(), one) is False
        found = far.select(role="target", operation="transfer")
        assert [each.failure for each in found] == [Failure.CONNECTION_REFUSED] * 2
        assert [each.details.bytes for each in found] == [0, 0]

    run(scenario)


@pytest.mark.parametrize("page", [Page(429, b"later"), Page(body=BIG.body, stops_after=0)], ids=["refuses", "silent"])
def test_the_second_control_where_the_first_has_nothing_to_give(page: Page) -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((ADDRESS,))], CONTROL: [Reply((CONTROL_ADDRESS,))]})
        await far.serve(ADDRESS, 443, Site({"/big": BIG}), server_context(NAME))
        await far.serve(CONTROL_ADDRESS, 443, Site({"/first": page, "/second": BIG}), server_context(CONTROL))
        one = platform(URL, speed=URL)
        control = tuple(f"https://{CONTROL}/{path}" for path in ("first", "second", "third"))
        await measure(far.bench(one, limits=replace(PATIENT, window=1.0), control=control), far.vantage(), one)
        found = far.select(role="control", operation="transfer")
        assert [each.endpoint for each in found] == [*control[:2], *control[:2]]
        assert [each.details.bytes for each in found if each.endpoint == control[1]] == [BODY_CAP] * 2

    run(scenario)


def test_nothing_is_measured_without_an_address() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {})
        one = platform(URL, speed=URL)
        await measure(far.bench(one), far.vantage(), one)
        assert far.chain() == [("resolve", Failure.DNS_NXDOMAIN)]

    run(scenario)


# ── a name that is throttled with any server ─────────────────────────────────────────────────────────────────────────

THROTTLED = "r1.video.test"


@pytest.mark.parametrize("throttled", [False, True])
def test_a_throttled_name_at_the_controls_address(throttled: bool) -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {CONTROL: [Reply((CONTROL_ADDRESS,))]})
        site = Site({"/64k": Page(body=BIG.body, chunk=2048)})
        real = await far.serve(REAL, 443, site, server_context(CONTROL))
        await far.serve(CONTROL_ADDRESS, 443, Middle(real, THROTTLED if throttled else "none", rate=16_000))
        one = replace(platform("https://www.video.test/"), throttled_name=THROTTLED)
        url = f"https://{CONTROL}/64k"
        bench = far.bench(one, limits=replace(PATIENT, window=0.4), control=(url,))
        assert await measure(bench, far.vantage("tunnel"), one) is throttled
        ours, neutral = transfers(far, "target"), transfers(far, "neutral")
        assert len(ours) == len(neutral) == (PAIRS if throttled else FAIR_SAMPLES)
        assert {(each.server_name, each.url, each.address) for each in ours} == {
            (THROTTLED, url, f"{CONTROL_ADDRESS}:443")
        }
        assert {each.server_name for each in neutral} == {NEUTRAL}
        assert {each.endpoint for each in far.select(role="target")} == {f"tls://{THROTTLED}"}
        shown = [each.details for each in far.select(operation="tls_handshake") if each.role != "control"]
        assert {each.no_tls_verify for each in shown} == {True}
        # Inside it, both ask the control for its own page.
        assert set(site.asked) == {("GET", CONTROL, "/64k")}

    run(scenario)


def test_measured_by() -> None:
    assert measured_by(platform(URL)) is None
    assert measured_by(platform(URL, speed=URL)) == URL
    assert measured_by(replace(platform(URL), throttled_name=THROTTLED)) == f"tls://{THROTTLED}"


@pytest.mark.parametrize(
    ("ours", "neutral", "control", "expected"),
    [
        ([], [], [], False),
        ([5e6, 5e6], [5e6, 5e6], [], False),
        ([140e3, 5e6], [5e6, 5e6], [], False),
        ([140e3, 150e3, 5e6], [5e6, 5e6], [], True),
        ([2e6, 2e6], [20e6], [], False),
        ([400e3, 400e3], [1e6], [], False),
        ([240e3, 240e3], [1e6], [], True),
        ([None, None], [1e6], [], True),
        ([140e3, 140e3], [None], [], False),
        ([140e3, 140e3], [150e3, None], [5e6], True),
        ([140e3, 140e3], [150e3, 140e3], [200e3], False),
        ([None, None], [None], [None], False),
    ],
)
def test_slow(
    ours: list[float | None], neutral: list[float | None], control: list[float | None], expected: bool
) -> None:
    assert slow(ours, neutral, control) is expected
