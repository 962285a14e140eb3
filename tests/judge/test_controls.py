"""When a place was seen to work."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import TIMEOUT, World

from vpntest.judge.controls import Controls, Moment, Proof, Proven, _split
from vpntest.judge.reading import read


def test_controls_are_good_when_one_of_them_answers_in_each_phase() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.control("outside", "before")
    world.control("outside", "after")
    controls = read(world.record()).controls["outside"]
    assert controls.are_good
    assert controls.worked_after
    assert controls.dead_before == ()


def test_a_phase_in_which_none_answers_makes_controls_bad() -> None:
    world = World()
    world.control("outside", "before")
    world.control("outside", "after", TIMEOUT)
    controls = read(world.record()).controls["outside"]
    assert not controls.are_good
    assert controls.around(9.0, 9.5) == Proof(False, (world.observations[-1],))
    assert controls.dead_before == ()


def controls(*asked: tuple[str, float, float, str | None], **urls: Any) -> Controls:
    """`(phase, when, how long if it fails, failure)` of each control."""
    world = World()
    for phase, when, lasts, failure in asked:
        world.at(when, lasts).control("outside", phase, failure, **urls)
    return read(world.record()).controls["outside"]


BEFORE, AFTER = ("before", 0.0, 0.0, None), ("after", 90.0, 0.0, None)


@pytest.mark.parametrize(
    ("during", "alive"),
    [
        # A connect that times out from 20 to 28.
        ([("during", 24.0, 0.0, None)], True),
        ([("during", 16.0, 0.0, None), ("during", 29.0, 0.0, None)], True),
        ([("during", 16.0, 0.0, None)], True),
        ([("during", 32.9, 0.0, None)], True),
        ([("during", 14.0, 0.0, None), ("during", 34.0, 0.0, None)], False),
        ([("during", 24.0, 8.0, TIMEOUT)], False),
        ([("during", 19.0, 0.0, None), ("during", 22.0, 8.0, TIMEOUT), ("during", 29.0, 0.0, None)], False),
        ([("during", 22.0, 8.0, TIMEOUT), ("during", 24.0, 0.0, None)], True),
        ([("during", 19.0, 0.0, None), ("during", 28.5, 8.0, TIMEOUT)], False),
        ([("during", 16.0, 1.0, TIMEOUT), ("during", 29.0, 0.0, None)], False),
        ([("during", 16.0, 1.0, TIMEOUT), ("during", 24.0, 0.0, None)], True),
        ([("during", 16.0, 1.0, TIMEOUT), ("during", 18.0, 0.0, None), ("during", 29.0, 0.0, None)], True),
    ],
)
def test_a_line_is_alive_about_a_failure_where_controls_work_about_it(during: list[Any], alive: bool) -> None:
    assert controls(BEFORE, *during, AFTER).around(20.0, 28.0).alive is alive


def test_one_control_that_hangs_does_not_void_a_short_failure() -> None:
    hanging = [("during", 18.0, 8.0, TIMEOUT), ("during", 30.0, 0.0, None)]
    assert not controls(BEFORE, *hanging, AFTER).around(20.0, 20.1).alive
    assert controls(BEFORE, *hanging, ("during", 19.0, 0.0, None), AFTER).around(20.0, 20.1).alive


def test_without_a_success_afterwards_a_line_may_be_dead_since() -> None:
    ended = ("during", 19.0, 0.0, None)
    assert not controls(BEFORE, ended).around(20.0, 28.0).alive
    assert controls(BEFORE, ended, ("during", 60.0, 0.0, None)).around(20.0, 28.0).alive
    assert controls(BEFORE, ended, AFTER).around(20.0, 28.0).alive


@pytest.mark.parametrize("asked", [[], [BEFORE], [AFTER], [BEFORE, ("after", 90.0, 8.0, TIMEOUT)]])
def test_without_controls_during_the_platforms_those_before_and_after_must_both_work(asked: list[Any]) -> None:
    seen = controls(*asked) if asked else Controls()
    assert not seen.around(20.0, 28.0).alive
    assert controls(BEFORE, AFTER).around(20.0, 28.0).alive


def test_a_control_that_never_answers_here_says_nothing_of_a_moment() -> None:
    world = World()
    world.at(0.0).control("outside", "before")
    world.at(18.0).control("outside", "during")
    world.at(19.0, 8.0).control("outside", "during", TIMEOUT, url="https://blocked.example/")
    world.at(90.0).control("outside", "after")
    assert read(world.record()).controls["outside"].around(20.0, 20.1).alive


def test_a_controls_refusal_under_its_own_certificate_shows_that_the_line_works() -> None:
    world = World()
    world.control("outside", "before", code=429)
    assert read(world.record()).controls["outside"].dead_before == ()
    world = World()
    world.control("outside", "before", code=511)
    world.observations = [one for one in world.observations if one.operation != "tls_handshake"]
    assert read(world.record()).controls["outside"].dead_before == (world.observations[-1].id,)


@pytest.mark.parametrize(("code", "worked"), [(200, True), (204, True), (302, False), (404, False)])
def test_an_answer_without_a_certificate_counts_only_as_the_page_itself(code: int, worked: bool) -> None:
    world = World()
    world.control("outside", "before", code=code, url="http://control.example/")
    world.observations = [one for one in world.observations if one.operation != "tls_handshake"]
    assert (read(world.record()).controls["outside"].dead_before == ()) is worked


@pytest.mark.parametrize(("when", "alive"), [(17.0, False), (18.5, True)])
def test_a_short_failure_is_held_against_four_seconds_of_controls(when: float, alive: bool) -> None:
    """A control that worked 3 s before is outweighed by one that has failed since."""
    during = [("during", when, 0.0, None), ("during", 19.0, 0.5, TIMEOUT), ("during", 30.0, 0.0, None)]
    assert controls(BEFORE, *during, AFTER).around(20.0, 20.1).alive is alive


def test_a_bracket_may_be_as_wide_as_the_run() -> None:
    seen = controls(BEFORE, ("during", 5.0, 0.0, None), AFTER)
    assert seen.bracket(40.0, 48.0).alive
    assert not seen.around(40.0, 48.0).alive


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=6), st.integers(0, 20), st.integers(1, 5))
def test_what_else_was_seen_is_sorted_like_the_controls(seen: list[tuple[int, int]], t0: int, lasts: int) -> None:
    world = World()
    for begin, took in seen:
        world.control("outside", "during")
        world.observations[-1] = msgspec.structs.replace(world.observations[-1], t0=float(begin), t=float(begin + took))
    last = [one for one in world.observations if one.operation == "http_round_trip"]
    proven = Proven(last)
    moments = [Moment(one, one.t0, one.t, worked=True) for one in last]
    amid, before, after = _split(moments, t0, t0 + lasts)
    assert (proven.amid(t0, t0 + lasts), proven.ended(0.0, t0), proven.began(t0 + lasts)) == (
        *(bool(amid), bool(before), bool(after)),
    )
