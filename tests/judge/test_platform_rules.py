"""Rules for speed and for a platform's state, each with a case and a near miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from records import KIB, RESET, TIMEOUT, World
from tables import check_table

from vpntest.judge.platform_rules import (
    PLATFORM,
    SPEED,
    PlatformSeen,
    Speed,
    SpeedSeen,
    chance_of,
    judge_speed,
)
from vpntest.judge.reading import read
from vpntest.judge.samples import Sample, SpeedSamples
from vpntest.judge.verdict import ServiceVerdict, State
from vpntest.probe.observation import TcpInfo

# ── the rank test ────────────────────────────────────────────────────────────────────────────────────────────────────


def by_counting(slower: Sequence[float], faster: Sequence[float]) -> float:
    """The same p, by going through every way to deal the values out. Without ties only."""

    def inversions(low: Sequence[float], high: Sequence[float]) -> int:
        return sum(a > b for a in low for b in high)

    pool = [*slower, *faster]
    found = inversions(slower, faster)
    dealt = [
        inversions([pool[i] for i in chosen], [pool[i] for i in range(len(pool)) if i not in chosen])
        for chosen in combinations(range(len(pool)), len(slower))
    ]
    return sum(one <= found for one in dealt) / len(dealt)


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=8, unique=True), st.data())
def test_chance_is_the_share_of_all_deals(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(values) - 1))
    slower, faster = tuple(values[:cut]), tuple(values[cut:])
    assert chance_of(slower, faster) == pytest.approx(by_counting(slower, faster))


def test_three_against_three_need_complete_separation() -> None:
    assert chance_of((1, 2, 3), (4, 5, 6)) == pytest.approx(0.05)
    assert chance_of((1, 2, 4), (3, 5, 6)) == pytest.approx(0.10)
    assert chance_of((1, 2, 4), (4, 5, 6)) == pytest.approx(0.10)


# ── SPEED ────────────────────────────────────────────────────────────────────────────────────────────────────────────

FAST = (40_000.0, 38_000.0, 42_000.0, 41_000.0, 39_000.0)
CRAWL = (140.0, 135.0, 150.0, 138.0, 145.0)
NEVER: dict[str, Any] = {}


def speed(
    target: Sequence[float],
    neutral: Sequence[float] = (),
    control: Sequence[float] = (),
    again: dict[str, Any] | None = None,
    **more: Any,
) -> SpeedSeen:
    """Two rounds, alike but for what `again` says; with NEVER there is no second one."""
    world = World()
    world.speed("outside", "bird", target=target, neutral=neutral, control=control, **more)
    if again is not NEVER:
        second = {"target": target, "neutral": neutral, **more, **(again or {})}
        world.speed("outside", "bird", phase="confirm", **second)
    return SpeedSeen(read(world.record()).speed["outside", "bird"])


def silent(world: World, size: int, role: str, failure: str | None = TIMEOUT, segments: int | None = None) -> None:
    """One transfer that ends in silence after these bytes."""
    info = TcpInfo(size, 1, 0, 0, 1.0, since_last_data_ms=3000, segments_received=segments, segments_sent=segments)
    world.transfer("outside", "speed", size, 0.1, failure, role=role, platform="bird", tcp=info)
    one = world.observations[-1]
    details = structs.replace(one.details, samples=((0.0, size), (3.0, size)) if size else ())
    world.observations[-1] = structs.replace(one, details=details, t=one.t0 + 3.0)


def stopped(
    *sizes: int, whole: int = 3, trickle: bool | None = None, segments: int | None = None, borrowed: bool = False
) -> SpeedSeen:
    """Transfers that end in silence after these bytes, beside others that are whole, and a trickle, answered or not."""
    world = World()
    for size in sizes:
        silent(world, size, "target", segments=segments)
    if borrowed:
        world.observations = [structs.replace(one, endpoint="tls://bird.example") for one in world.observations]
    for _ in range(whole):
        world.transfer("outside", "speed", 64 * KIB, 0.1, role="neutral", platform="bird")
    if trickle is not None:
        world.trickle("outside", "bird", answered=trickle)
    return SpeedSeen(read(world.record()).speed["outside", "bird"])


K15 = (15 * KIB,) * 3


def cut(*ends: str | None, neutral: int = 5, fast: int = 3, borrowed: bool = False) -> SpeedSeen:
    """Fast transfers, and some that are cut after 16 KiB by these failures."""
    world = World()
    where = {"platform": "bird", "endpoint": "tls://bird.example" if borrowed else None}
    for _ in range(fast):
        world.transfer("outside", "speed", 64 * KIB, 0.1, role="target", **where)
    for failure in ends:
        world.transfer("outside", "speed", 16 * KIB, 0.1, failure, role="target", **where)
    for _ in range(neutral):
        world.transfer("outside", "speed", 64 * KIB, 0.1, role="neutral", **where)
    return SpeedSeen(read(world.record()).speed["outside", "bird"])


SPEED_CASES = {
    "speed.freeze.packets": (
        stopped(*(9 * KIB,) * 3, trickle=False, segments=13),
        stopped(*(9 * KIB,) * 3, trickle=True, segments=13),
    ),
    "speed.freeze.bytes": (stopped(*K15, trickle=True), stopped(*K15, trickle=False, whole=0)),
    "speed.freeze": (stopped(15 * KIB, 15 * KIB, 14 * KIB), stopped(15 * KIB, 15 * KIB, 14 * KIB, whole=0)),
    "speed.no-stage": (
        cut(*[RESET] * 5, fast=0, neutral=0, borrowed=True),
        cut(*[RESET] * 5, fast=0, neutral=1, borrowed=True),
    ),
    "speed.broken": (cut(RESET, "eof_error"), cut(RESET, fast=4)),
    "speed.once": (speed(CRAWL, FAST, again={"target": FAST}), speed(CRAWL, FAST, again={"neutral": CRAWL})),
    "speed.silent": (stopped(15 * KIB, 11 * KIB, 15 * KIB), stopped(15 * KIB, 12 * KIB, 15 * KIB)),
    "speed.unknown": (speed(CRAWL[:2], FAST[:2]), speed(CRAWL, FAST)),
    "speed.throttle.sni": (speed(CRAWL, FAST), speed(CRAWL, FAST, again={"target": FAST})),
    "speed.fair": (speed((450.0, 500.0, 600.0), control=FAST), speed((350.0, 300.0, 390.0), control=FAST)),
    "speed.slow-line": (speed(CRAWL, CRAWL, (1350.0,) * 3), speed(CRAWL, CRAWL, (1460.0,) * 3)),
    "speed.throttle.ip": (speed(CRAWL, CRAWL, FAST), speed(CRAWL, CRAWL, FAST, again={"neutral": FAST})),
    "speed.throttle": (
        speed(CRAWL, FAST, FAST, neutral_size=150),
        speed(CRAWL, FAST, CRAWL, neutral_size=150),
    ),
    "speed.unconfirmed": (speed(CRAWL, FAST, again=NEVER), speed(CRAWL, FAST, again={"target": FAST})),
    "speed.unclear": (speed(CRAWL, CRAWL), speed(CRAWL, CRAWL, CRAWL)),
}


def test_speed() -> None:
    check_table(SPEED, SPEED_CASES)


@pytest.mark.parametrize(
    "again",
    [
        NEVER,
        {"neutral": CRAWL},
        {"target": CRAWL[:4]},
        {"neutral": FAST[:4]},
        {"target": (), "neutral": ()},
    ],
)
def test_what_no_second_round_of_five_pairs_shows_again_is_no_throttling(again: dict[str, Any]) -> None:
    assert judge_speed(speed(CRAWL, FAST, again=again).samples).rule == "speed.unconfirmed"


def test_three_pairs_of_an_older_record_are_no_throttling() -> None:
    assert judge_speed(speed(CRAWL[:3], FAST[:3]).samples).rule == "speed.unconfirmed"
    assert judge_speed(speed(CRAWL[:3], FAST[:3], again={"target": CRAWL, "neutral": FAST}).samples).speed is (
        Speed.DOUBTFUL
    )


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        (cut(RESET, RESET), "speed.broken"),
        (cut("eof_error", "eof_error", fast=0), "speed.broken"),
        (cut(*[RESET] * 5, fast=0, neutral=0), "speed.broken"),
        (cut("http_request_failed", "http_request_failed"), "speed.fair"),
        (cut("carrier_exited", "carrier_exited"), "speed.fair"),
        (cut(RESET), "speed.fair"),
        (cut(RESET, fast=0), "speed.unknown"),
        (cut(RESET, RESET, borrowed=True), "speed.broken"),
        (cut(RESET, RESET, neutral=0, borrowed=True), "speed.no-stage"),
        (cut(neutral=0, borrowed=True), "speed.fair"),
        (stopped(*(16 * KIB,) * 4), "speed.freeze"),
    ],
)
def test_transfers_that_die(facts: SpeedSeen, rule: str) -> None:
    assert judge_speed(facts.samples).rule == rule


@pytest.mark.parametrize(
    ("facts", "is_throttled"),
    [
        # One name at one address: four times slower, and under 400 kbit/s.
        (speed(CRAWL, tuple(3.5 * rate for rate in CRAWL)), False),
        (speed((1000.0, 990.0, 1010.0, 1005.0, 995.0), FAST), False),
        (speed((390.0, 380.0, 395.0, 385.0, 392.0), FAST), True),
    ],
)
def test_how_slow_is_throttled(facts: SpeedSeen, is_throttled: bool) -> None:
    assert (judge_speed(facts.samples).speed is Speed.THROTTLED) is is_throttled


def test_by_address_needs_another_name_to_say_so() -> None:
    assert judge_speed(speed(CRAWL, CRAWL[:2], FAST).samples).mechanism == "throttle"
    assert judge_speed(speed(CRAWL, CRAWL, FAST).samples).mechanism == "throttle.ip"
    between = tuple(3.5 * rate for rate in CRAWL)
    assert judge_speed(speed(CRAWL, between, (1450.0, 1440.0, 1460.0)).samples).rule == "speed.unclear"


def test_rounds_that_differ_in_what_they_blame_agree_that_it_is_throttled() -> None:
    """One name taints the address for all (net4people/bbs#155), and the first round may end before it does."""
    seen = judge_speed(speed(CRAWL, FAST, FAST, again={"neutral": CRAWL}).samples)
    assert (seen.speed, seen.mechanism) == (Speed.THROTTLED, "throttle")


def test_a_name_shown_to_the_controls_server_tells_of_the_name_alone() -> None:
    borrowed = {"endpoint": "tls://media.bird.example"}
    assert judge_speed(speed(CRAWL, FAST, FAST, **borrowed).samples).mechanism == "throttle.sni"
    assert judge_speed(speed(CRAWL, CRAWL, FAST, **borrowed).samples).speed is Speed.DOUBTFUL
    assert judge_speed(stopped(*K15, borrowed=True).samples).rule == "speed.silent"


def test_the_rate_that_a_policer_holds_is_told() -> None:
    seen = judge_speed(speed(CRAWL, FAST).samples)
    assert seen.detail == "policed at about 140 kbit/s"
    uneven = (60.0, 300.0, 120.0, 200.0, 80.0)
    seen = judge_speed(speed(uneven, FAST).samples)
    assert (seen.mechanism, seen.detail) == ("throttle.sni", None)
    assert judge_speed(speed(FAST, FAST).samples).detail is None


def test_one_slow_sample_among_fast_ones_is_no_throttling() -> None:
    assert judge_speed(speed((140.0, *FAST[:2]), FAST).samples).speed is Speed.FAIR


def test_five_pairs_bear_one_outlier() -> None:
    slow = (140.0, 130.0, 150.0, 145.0, 8000.0)
    assert judge_speed(speed(slow, FAST).samples).mechanism == "throttle.sni"


def test_a_slow_line_is_not_throttling_even_with_a_faster_neutral() -> None:
    """Twice as fast is what a queue does; four times is what a policer does."""
    slow = speed((100.0, 110.0, 120.0, 105.0, 115.0), (220.0, 230.0, 240.0, 225.0, 235.0), (230.0, 220.0, 240.0))
    assert judge_speed(slow.samples).rule == "speed.slow-line"


@pytest.mark.parametrize("sizes", [(0, 0), (0, 0, 0), (5 * KIB,) * 3, (15 * KIB, 15 * KIB), (15 * KIB, 15 * KIB, 0)])
def test_what_stops_too_early_or_too_seldom_is_no_freeze(sizes: tuple[int, ...]) -> None:
    seen = judge_speed(stopped(*sizes).samples)
    assert (seen.speed, seen.mechanism, seen.rule) == (Speed.DOUBTFUL, None, "speed.silent")


def given_up(neutral: int, whole: int = 2) -> SpeedSeen:
    """Two transfers without a byte for the application, then no more are tried; and as many under another name."""
    world = World()
    for role, size in (("target", 15 * KIB), ("neutral", neutral)):
        for _ in range(2):
            silent(world, size, role)
    for _ in range(whole):
        world.transfer("outside", "speed", 64 * KIB, 0.1, role="control")
    return SpeedSeen(read(world.record()).speed["outside", "bird"])


def test_two_pairs_that_stop_alike_are_a_freeze() -> None:
    assert judge_speed(given_up(14 * KIB).samples).mechanism == "freeze"
    assert judge_speed(given_up(14 * KIB, whole=1).samples).speed is Speed.DOUBTFUL
    assert judge_speed(given_up(30 * KIB).samples).speed is Speed.DOUBTFUL
    assert judge_speed(given_up(0).samples).speed is Speed.DOUBTFUL


def test_a_freeze_names_all_that_it_stands_on() -> None:
    seen = judge_speed(stopped(15 * KIB, 15 * KIB, 15 * KIB).samples)
    assert (seen.speed, seen.mechanism, seen.rule) == (Speed.FROZEN, "freeze", "speed.freeze")
    assert len(seen.witnesses) == 6
    assert len(judge_speed(stopped(*K15, trickle=True).samples).witnesses) == 7


def test_bytes_that_nobody_counted_are_no_freeze() -> None:
    seen = stopped(15 * KIB, 15 * KIB, 15 * KIB)
    blind = tuple(Sample(structs.replace(one.observation, tcp=None), one.details) for one in seen.samples.asked)
    assert judge_speed(replace(seen.samples, asked=blind, target=blind)).speed is Speed.DOUBTFUL


def test_one_stopped_transfer_is_no_freeze() -> None:
    assert judge_speed(stopped(15 * KIB).samples).speed is Speed.DOUBTFUL


def test_silent_controls_are_no_yardstick() -> None:
    """Three that stop for good would call the line slow, and a platform that crawls, as good as the line."""
    world = World()
    world.speed("outside", "bird", target=CRAWL, neutral=CRAWL)
    for _ in range(3):
        silent(world, 20 * KIB, "control", failure=None)
    samples = read(world.record()).speed["outside", "bird"]
    assert samples.control == ()
    assert judge_speed(samples).rule == "speed.unclear"
    world.speed("outside", "bird", target=(), control=(9000.0,))
    assert len(read(world.record()).speed["outside", "bird"].control) == 1


def test_other_servers_must_be_ten_times_faster_and_the_same_server_four_times() -> None:
    five = tuple(5 * rate for rate in CRAWL)
    assert judge_speed(speed(CRAWL, five).samples).mechanism == "throttle.sni"
    assert judge_speed(speed(CRAWL, (), five).samples).speed is Speed.UNKNOWN
    assert judge_speed(speed(CRAWL, CRAWL, five).samples).speed is Speed.UNKNOWN


def test_on_a_slow_line_speed_is_unknown() -> None:
    assert judge_speed(speed(CRAWL, CRAWL, CRAWL).samples).speed is Speed.UNKNOWN


def test_without_samples_speed_is_unknown() -> None:
    assert judge_speed(SpeedSamples()).speed is Speed.UNKNOWN


# ── PLATFORM ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def platform(*states: str, speed: Speed = Speed.FAIR, asked: bool = True) -> PlatformSeen:
    services = tuple(
        ServiceVerdict(f"s{number}", State(state.partition(" ")[0]), None, state.partition(" ")[2], ())
        for number, state in enumerate(states)
    )
    return PlatformSeen(services, speed, asked)


UNPROVEN = "insufficient service.insufficient.unproven"

UNHEARD = platform("ok", speed=Speed.UNKNOWN)

PLATFORM_CASES = {
    "platform.insufficient.unmeasured": (platform(), platform("ok")),
    "platform.blocked": (platform("ok", "refused", "blocked"), platform("ok", "refused")),
    "platform.refused": (platform("ok", "refused", "down"), platform("ok", "down")),
    "platform.frozen": (platform("ok", speed=Speed.FROZEN), platform("blocked", speed=Speed.FROZEN)),
    "platform.throttled": (platform("ok", speed=Speed.THROTTLED), platform("refused", speed=Speed.THROTTLED)),
    "platform.insufficient.speed": (
        platform("ok", UNPROVEN, speed=Speed.DOUBTFUL),
        platform("ok", "down", speed=Speed.DOUBTFUL),
    ),
    "platform.ok.unproven": (platform("ok", UNPROVEN), platform(UNPROVEN)),
    "platform.insufficient": (platform("ok", UNPROVEN, "insufficient x"), platform("ok", UNPROVEN)),
    "platform.down": (platform("ok", "down"), platform("down", "insufficient x")),
    "platform.ok.speed-unknown": (
        platform("ok", speed=Speed.UNKNOWN),
        platform("ok", speed=Speed.UNKNOWN, asked=False),
    ),
    "platform.ok": (platform("ok", "ok"), platform("ok", "insufficient x")),
}


def test_platform() -> None:
    check_table(PLATFORM, PLATFORM_CASES)
