"""What a verdict was held against, in numbers."""

from __future__ import annotations

import pytest
from records import BOGON, RESET, TIMEOUT, TRUE, World, platform

from vpntest.judge.judging import judge
from vpntest.judge.reading import read
from vpntest.report.compared import Compared, Comparisons, End, Near
from vpntest.report.words import LANGUAGES, words


def compared(world: World, vantage: str = "outside") -> Compared:
    record = world.record()
    judgement = judge(record)
    verdicts = [*judgement.outside, *(cell.inside for cell in judgement.cells if cell.inside)]
    return Comparisons(read(record)).of(next(one for one in verdicts if one.vantage == vantage))


def lined(*platforms: str) -> World:
    world = World(*map(platform, platforms or ("bird",)))
    world.line()
    world.tunnel("se")
    return world


def test_tries_are_counted_by_what_they_came_to() -> None:
    world = lined()
    world.reach("outside", "bird", times=2, fails=f"tls_handshake:{RESET}", neutral=True, alternate=True, browser="ok")
    world.reach("outside", "bird", times=1, fails=f"tls_handshake:{TIMEOUT}", neutral=False)
    seen = compared(world)
    assert seen.ends == {End("failed", "tls", RESET): 2, End("failed", "tls", TIMEOUT): 1}
    assert (seen.neutral, seen.alternate, seen.browser) == ((2, 3), (2, 2), (2, 2))
    assert (seen.own, seen.public) == ((TRUE,), (TRUE,))
    assert seen.rounds == ()


def test_an_address_that_no_server_can_have_is_no_page() -> None:
    world = lined()
    world.reach("outside", "bird", answers=(BOGON,))
    # Such an address is never called.
    world.observations = [one for one in world.observations if one.probe != "reach" or one.operation == "resolve"]
    assert [one.key for one in compared(world).ends] == ["bogon"]


@pytest.mark.parametrize(("code", "key"), [(200, "reached"), (403, "refused"), (503, "fault")])
def test_an_answer_is_what_it_proves(code: int, key: str) -> None:
    world = lined()
    world.reach("outside", "bird", code=code)
    assert compared(world).ends == {End(key): 3}
    assert all(f"end.{key}" in words()[language] for language in LANGUAGES)


def test_what_was_not_tried_has_no_numbers() -> None:
    seen = compared(lined())
    assert seen.ends == {}
    assert seen.neutral == seen.alternate == seen.browser == (0, 0)
    assert seen.own is seen.public is None
    # Nobody is a witness: all the controls of the run are counted.
    assert seen.near == Near(2, 0, 0.0, 47.5, whole=True)


def test_rounds_are_told_apart_and_hold_others_against_the_platforms_own() -> None:
    world = World(platform("bird", speed="https://x/"))
    world.line()
    world.reach("outside", "bird")
    world.speed("outside", "bird", target=[130] * 5, neutral=[8000] * 5, control=[9000] * 5)
    world.speed("outside", "bird", target=[100] * 6, neutral=[4000] * 6, phase="confirm")
    first, second = compared(world).rounds
    assert (first.asked, second.asked) == (5, 6)
    assert first.own is not None
    assert first.neutral is not None
    assert first.control is not None
    assert (first.own.number, first.own.chance) == (5, None)
    assert first.own.kbits * 10 < first.neutral.kbits
    assert first.neutral.chance is not None
    assert first.neutral.chance < 0.01


def test_controls_are_counted_about_the_time_of_the_witnesses() -> None:
    world = World().at(10)
    for at, failure in ((1, RESET), (9, None), (11, None), (12, TIMEOUT), (60, None)):
        world.at(at).control("outside", "during", failure)
    world.at(10).reach("outside", "bird", fails=f"tls_handshake:{TIMEOUT}", neutral=True)
    near = compared(world).near
    assert (near.worked, near.failed, near.begin, near.whole) == (2, 1, 5.0, False)
