"""Answers that nobody signed, held against what the platform gives elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from records import BOGON, FORGED, TRUE, World
from tables import HTTP, bird

from vpntest.judge.judging import judge
from vpntest.judge.pages import Belief, Likeness, Page, likeness, whose
from vpntest.judge.verdict import Outcome, State

BIRD = Page(200, "Bird", 8192)
BLOCK = Page(200, "Access denied", 1024)
NAMELESS = Page(200, None, 8192)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (BIRD, Likeness.SAME),
        (Page(200, "Bird", 6000), Likeness.SAME),
        (Page(200, "Bird", 5734), Likeness.LIKE),
        (Page(200, None, 8000), Likeness.LIKE),
        (Page(200, "Vogel", 8000), Likeness.UNCLEAR),
        (Page(404, "Bird", 8192), Likeness.UNCLEAR),
        (Page(404, "Bird", 100), Likeness.UNCLEAR),
        (Page(404, "Not found", 100), Likeness.STRANGE),
        (Page(200, None, 5734), Likeness.STRANGE),
        (BLOCK, Likeness.STRANGE),
    ],
)
def test_how_like_each_other_two_answers_are(other: Page, expected: Likeness) -> None:
    assert likeness(BIRD, other) is expected
    assert likeness(other, BIRD) is expected


def test_without_titles_the_length_alone_is_compared() -> None:
    assert likeness(NAMELESS, Page(200, None, 6000)) is Likeness.SAME
    assert likeness(NAMELESS, Page(200, None, 600)) is Likeness.UNCLEAR


ONE, TWO = {"a": [BIRD]}, {"a": [BIRD], "b": [BIRD]}
DIVIDED = {"a": [BIRD], "b": [BLOCK]}
NOTHING = Page(204, None, 0)


@pytest.mark.parametrize(
    ("mine", "exits", "beside", "doubted", "expected"),
    [
        # From the platform's own address, by all accounts.
        (BIRD, {}, [], False, Belief.PLATFORM),
        (BIRD, ONE, [], False, Belief.PLATFORM),
        (BLOCK, ONE, [], False, Belief.UNKNOWN),
        (BLOCK, TWO, [], False, Belief.OTHER),
        (BLOCK, DIVIDED, [], False, Belief.UNKNOWN),
        (BIRD, DIVIDED, [], False, Belief.UNKNOWN),
        (Page(200, "Vogel", 8000), TWO, [], False, Belief.UNKNOWN),
        (Page(200, "Bird", 100), TWO, [], False, Belief.PLATFORM),
        (NOTHING, TWO, [], False, Belief.PLATFORM),
        # From an address that only the provider's resolver gives.
        (BIRD, {}, [], True, Belief.UNKNOWN),
        (BIRD, ONE, [], True, Belief.PLATFORM),
        (BIRD, {}, [BIRD], True, Belief.PLATFORM),
        (BLOCK, ONE, [], True, Belief.OTHER),
        (BLOCK, {}, [BIRD], True, Belief.OTHER),
        (BLOCK, DIVIDED, [], True, Belief.UNKNOWN),
        (Page(200, "Bird", 100), TWO, [], True, Belief.UNKNOWN),
        (Page(200, "Access denied", 8000), TWO, [], True, Belief.UNKNOWN),
        (NOTHING, {"a": [NOTHING]}, [NOTHING], True, Belief.UNKNOWN),
        # What comes at the public resolver's address as well is not the address's doing.
        (BLOCK, ONE, [BLOCK], True, Belief.UNKNOWN),
        (BLOCK, TWO, [BLOCK], True, Belief.OTHER),
    ],
)
def test_whose_an_answer_is(
    mine: Page, exits: dict[str, list[Page]], beside: list[Page], doubted: bool, expected: Belief
) -> None:
    assert whose(mine, exits, beside, doubted=doubted) is expected


# ── in a whole record ────────────────────────────────────────────────────────────────────────────────────────────────

MINE: dict[str, Any] = {"title": "Bird", "body_length": 8192}
THEIRS: dict[str, Any] = {"title": "Access denied", "body_length": 1024}


def world(*tunnels: str, url: str = HTTP, status: tuple[int, ...] = (), **outside: Any) -> World:
    made = World(bird(url, *status))
    made.line()
    for tunnel in tunnels:
        made.tunnel(tunnel)
    made.reach("outside", "bird", **outside)
    for tunnel in tunnels:
        made.reach(tunnel, "bird", code=status[0] if status else 200, **MINE)
    return made


def verdict(made: World) -> tuple[State, str | None, str]:
    found = judge(made.record()).outside[0]
    return found.state, found.mechanism, found.rule


LIED: dict[str, Any] = {"answers": [FORGED], "public": [TRUE]}


def test_a_block_page_from_the_providers_own_address_is_no_success() -> None:
    made = world("a", "b", **LIED, **THEIRS, alternate=MINE)
    assert verdict(made)[:2] == (State.BLOCKED, "dns.injection")
    assert {cell.outcome for cell in judge(made.record()).cells} == {Outcome.CIRCUMVENTS}


def test_the_true_page_from_another_address_is_one() -> None:
    assert verdict(world("a", "b", **LIED, **MINE, alternate=MINE))[0] is State.OK
    assert verdict(world(**LIED, **MINE, alternate=MINE))[0] is State.OK


@pytest.mark.parametrize(
    "more",
    [
        {**LIED, **THEIRS},
        {**LIED, **MINE},
        {"answers": [FORGED], "denied": True, **THEIRS},
        {"answers": [BOGON, TRUE], **MINE},
    ],
)
def test_without_anything_to_compare_with_nothing_is_said(more: dict[str, Any]) -> None:
    assert verdict(world(**more)) == (State.INSUFFICIENT, None, "endpoint.insufficient.unsigned")


def test_where_answers_for_the_name_are_forged_its_address_is_doubted() -> None:
    made = world(**MINE)
    assert verdict(made)[0] is State.OK
    # Both resolvers say the same, and so does an address where no resolver is.
    made.names("outside", "bird.example", nobody=[TRUE], other=False)
    assert verdict(made)[0] is not State.OK


def test_a_page_in_the_platforms_own_place_needs_two_exits_that_agree() -> None:
    assert verdict(world("a", "b", **THEIRS))[:2] == (State.BLOCKED, "http.blockpage")
    assert verdict(world("a", **THEIRS))[0] is State.INSUFFICIENT
    assert verdict(world(**THEIRS))[0] is State.OK


def test_tunnels_that_leave_at_one_place_are_one_exit() -> None:
    made = World(bird(HTTP))
    made.line()
    for tunnel in ("a", "b"):
        made.tunnel(tunnel, exit="198.18.200.9")
        made.reach(tunnel, "bird", **MINE)
    made.reach("outside", "bird", **THEIRS)
    assert verdict(made)[0] is State.INSUFFICIENT


def test_the_line_vouches_for_no_exit() -> None:
    made = world("a", "b", **THEIRS)
    made.tunnel("c")
    made.reach("c", "bird", **THEIRS)
    cells = {cell.tunnel: cell.outcome for cell in judge(made.record()).cells}
    # Two exits of three disagree with the third, and each of those two has one against itself.
    assert verdict(made)[0] is State.INSUFFICIENT
    assert set(cells.values()) == {Outcome.INSUFFICIENT}


def test_a_page_on_the_way_to_both_addresses_is_not_the_resolvers_doing() -> None:
    assert verdict(world("a", "b", **LIED, **THEIRS, alternate=THEIRS))[:2] == (State.BLOCKED, "http.blockpage")


def test_a_private_address_that_shows_a_page_is_a_bogon() -> None:
    made = world("a", "b", answers=[BOGON], **THEIRS, alternate=MINE)
    assert verdict(made)[:2] == (State.BLOCKED, "dns.bogon")


def test_a_test_for_humans_that_nobody_signed_is_no_block() -> None:
    made = world("a", "b", code=503, challenge=True, title="Just a moment...", body_length=900)
    assert verdict(made) == (State.INSUFFICIENT, None, "endpoint.insufficient.unsigned")


def test_a_literal_address_is_asked_for_its_status_alone() -> None:
    # As Telegram's data centres are: no resolver could lie, and no request shows a name.
    made = world("a", "b", url="http://198.18.1.9/", status=(501,), code=501, **THEIRS)
    assert verdict(made)[0] is State.OK
