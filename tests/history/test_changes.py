"""What is news and what is noise: each sentence of the definition, by nights that obey it or just do not."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from definition import by_the_definition
from hypothesis import given
from hypothesis import strategies as st
from nights import night, row, series

from vpntest.errors import UsageError
from vpntest.history.changes import (
    WINDOW,
    Change,
    Condition,
    Kind,
    Leads,
    Weight,
    _interval,
    compare,
    complaints,
    diff,
)
from vpntest.history.night import Night

OK, CUT, THIN_CUT = "circumvents 3/3", "blocked tls.reset.sni 3/3", "blocked tls.reset.sni 2/3"
MANY_OK, MANY_CUT = "circumvents 10/10", "blocked tls.reset.sni 10/10"
UP, DOWN = {"se": "up"}, {"se": "endpoint handshake.timeout"}


def last(nights: Sequence[Night], *, before: int = -2, **more: bool) -> tuple[Change, ...]:
    """The last night against the one before it, or against another."""
    return compare(nights[before], nights[-1], nights[:-1], **more)


def only(changes: tuple[Change, ...]) -> tuple[Kind, Weight]:
    (one,) = changes
    return one.kind, one.weight


def rings(words: Sequence[str]) -> bool:
    """Whether the last of these nights of one cell makes it a regression."""
    return any((one.kind, one.weight) == (Kind.REGRESSION, Weight.NEWS) for one in last(series(*words)))


# ── when a change is news ────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_changed_where_nothing_changed() -> None:
    assert last(series(OK, OK, OK)) == ()


@given(st.lists(st.integers(3, 10).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), max_size=40))
def test_one_night_of_three_tries_is_never_news_whatever_was_before(tries: list[tuple[int, int]]) -> None:
    # Where tries disagree up to ten are made: these say `circumvents` as long as the night does.
    usual = [f"circumvents {k}/{n}" for k, n in tries]
    assert all(one.weight is not Weight.NEWS for one in last(series(*usual, OK, CUT)))
    assert all(one.weight is not Weight.NEWS for one in last(series(*[OK] * 8, "throttled throttle.sni 5/5")))


def test_of_many_tries_a_clear_cut_after_steady_nights_is_news_at_once() -> None:
    (change,) = last(series(*[MANY_OK] * 3, MANY_CUT))
    assert (change.kind, change.weight, change.disjoint, change.seen) == (Kind.REGRESSION, Weight.NEWS, True, (1, 3))
    assert (change.before, change.after, change.after_mechanism) == ("circumvents", "blocked", "tls.reset.sni")
    assert change.since == night(4).id


def test_after_too_few_nights_it_is_not() -> None:
    assert only(last(series(*[MANY_OK] * 2, MANY_CUT))) == (Kind.REGRESSION, Weight.UNCONFIRMED)


def test_the_second_night_confirms_it_and_the_third_says_nothing_more() -> None:
    nights = series(OK, CUT, CUT, CUT)
    assert only(last(nights[:2])) == (Kind.REGRESSION, Weight.UNCONFIRMED)
    (change,) = last(nights[:3])
    assert (change.kind, change.weight, change.disjoint, change.seen) == (Kind.REGRESSION, Weight.NEWS, False, (2, 3))
    assert change.since == night(2).id
    assert last(nights) == ()


def test_thin_evidence_needs_the_second_night() -> None:
    unsteady = ["circumvents 8/10", "circumvents 9/10", "circumvents 8/10"]
    thin_cut = "blocked tls.reset.sni 7/10"
    assert only(last(series(*unsteady, thin_cut))) == (Kind.REGRESSION, Weight.UNCONFIRMED)
    assert only(last(series(*unsteady, thin_cut, thin_cut))) == (Kind.REGRESSION, Weight.NEWS)


def test_one_night_that_stood_alone_is_no_news_when_it_is_over() -> None:
    nights = series(OK, OK, CUT, OK)
    assert only(last(nights[:3])) == (Kind.REGRESSION, Weight.UNCONFIRMED)
    assert only(last(nights)) == (Kind.RECOVERY, Weight.PASSING)


def test_there_and_back_and_there_is_flapping() -> None:
    # Two of the last three nights agree, and yet.
    assert only(last(series(OK, CUT, OK, CUT))) == (Kind.REGRESSION, Weight.FLAPPING)


def test_a_flapping_cell_is_called_so_in_both_directions() -> None:
    words = [OK, CUT, OK, CUT, CUT, OK, CUT, OK, OK]
    for count in range(4, len(words) + 1):
        changes = last(series(*words[:count]))
        assert all(one.weight is Weight.FLAPPING for one in changes), count


def test_a_cell_that_settles_is_news_again_once_the_window_has_passed() -> None:
    words = [OK, CUT, OK, CUT, *[CUT] * WINDOW]
    news = [
        count
        for count in range(2, len(words) + 1)
        if any(one.weight is Weight.NEWS for one in last(series(*words[:count])))
    ]
    # Words 1 to 4 hold three changes; the first that a window of seven loses is that from word 1 to word 2, at word 8.
    assert news == [8]


def test_what_is_down_two_nights_in_five_flaps() -> None:
    words = [OK, OK, OK, CUT, CUT] * 6
    news = [count for count in range(2, len(words) + 1) if rings(words[:count])]
    # The first two times it may well be a block, and the fourth change within a fortnight says what it is.
    assert news == [5, 10]


def test_what_flapped_and_then_dies_is_news_after_four_nights_of_it() -> None:
    words = [*[OK, OK, CUT] * 6, *[CUT] * 10]
    # Blocked from the 18th on.
    assert [count for count in range(2, len(words) + 1) if rings(words[:count])] == [21]


def test_nights_from_long_ago_are_no_witnesses() -> None:
    silence = ["insufficient 1/3"]
    for between, is_news in ((12, True), (13, False), (20, False)):
        assert rings([OK, OK, CUT, *silence * between, CUT]) == is_news, between
    # Nights with a dead line are none.
    assert rings([OK, OK, CUT, *["dark"] * 20, CUT])
    assert rings([*[MANY_OK] * 3, *silence * 10, MANY_CUT])
    assert not rings([*[MANY_OK] * 3, *silence * 11, MANY_CUT])


def test_a_recovery_is_judged_as_a_regression_is() -> None:
    assert only(last(series(*[MANY_CUT] * 3, MANY_OK))) == (Kind.RECOVERY, Weight.NEWS)
    assert only(last(series(CUT, CUT, OK, OK))) == (Kind.RECOVERY, Weight.NEWS)
    assert only(last(series(CUT, OK))) == (Kind.RECOVERY, Weight.UNCONFIRMED)


def test_throttling_is_worse_than_working_and_better_than_blocked() -> None:
    slow = "throttled throttle.sni 5/5"
    assert only(last(series(OK, slow, slow))) == (Kind.REGRESSION, Weight.NEWS)
    assert only(last(series(slow, CUT, CUT))) == (Kind.REGRESSION, Weight.NEWS)
    assert only(last(series(CUT, slow, slow))) == (Kind.RECOVERY, Weight.NEWS)


# ── what says nothing ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("nothing", ["insufficient 1/3", "platform-down 3/3", "tunnel-down", "dark"])
def test_what_says_nothing_is_no_change_and_no_night(nothing: str) -> None:
    assert last(series(*[OK] * 5, nothing)) == ()
    assert last(series(*[OK] * 5, nothing, OK)) == ()
    # Neither does it stand between two nights that do.
    assert only(last(series(OK, CUT, nothing, CUT))) == (Kind.REGRESSION, Weight.NEWS)
    assert only(last(series(OK, nothing, CUT))) == (Kind.REGRESSION, Weight.UNCONFIRMED)


@pytest.mark.parametrize("nothing", ["insufficient 1/3", "platform-down 3/3", "hijacked"])
def test_a_cell_that_has_gone_silent_is_a_change_once_that_is_news(nothing: str) -> None:
    words = [*[OK] * 3, nothing, "tunnel-down", "dark", nothing, nothing, OK, OK, OK]
    nights = series(*words)
    told = {count: last(nights[:count]) for count in range(2, len(words) + 1)}
    assert {count: only(changes) for count, changes in told.items() if changes} == {
        7: (Kind.SILENT, Weight.NEWS),
        10: (Kind.HEARD, Weight.NEWS),
    }
    (change,) = last(series(OK, OK, nothing, nothing))
    assert (change.before, change.after, change.seen) == ("circumvents", nothing.split()[0], (2, 3))
    assert complaints(Condition.ANY_CHANGE, nights[6], told[7]) == told[7]
    assert complaints(Condition.REGRESSION, nights[6], told[7]) == ()


def test_a_platform_that_is_down_is_told_once_and_not_for_each_tunnel() -> None:
    up = {("outside", "bird"): "ok 3/3", ("se", "bird"): "open 3/3", ("no", "bird"): "open 3/3"}
    down = {("outside", "bird"): "down 3/3", ("se", "bird"): "platform-down", ("no", "bird"): "platform-down"}
    (change,) = last([night(1, up), night(2, up), night(3, down), night(4, down)])
    assert (change.kind, change.tunnel, change.before, change.after) == (Kind.SILENT, "outside", "ok", "down")


def test_a_dead_line_says_nothing_of_tunnels() -> None:
    assert last(series(*[OK] * 5, "dark")) == ()
    assert complaints(Condition.TUNNEL_DOWN, series("dark")[0], ()) == ()


def test_what_the_line_does_is_the_lines_change_and_no_tunnels() -> None:
    before = {("outside", "bird"): "ok 3/3", ("se", "bird"): "open 3/3", ("no", "bird"): "breaks tcp.timeout 3/3"}
    after = {
        ("outside", "bird"): "blocked dns.bogon 3/3",
        ("se", "bird"): "circumvents 3/3",
        ("no", "bird"): "blocked tcp.timeout 3/3",
    }
    nights = [night(1, before), night(2, before), night(3, after), night(4, after)]
    (change,) = last(nights)
    assert (change.tunnel, change.platform, change.kind, change.weight) == (
        "outside",
        "bird",
        Kind.REGRESSION,
        Weight.NEWS,
    )


# ── causes, tunnels, configs ─────────────────────────────────────────────────────────────────────────────────────────


def test_another_way_of_being_blocked_is_a_change_of_cause() -> None:
    other = "blocked dns.bogon 3/3"
    assert only(last(series(CUT, CUT, CUT, other))) == (Kind.CAUSE, Weight.UNCONFIRMED)
    assert only(last(series(CUT, CUT, other, other))) == (Kind.CAUSE, Weight.NEWS)


def test_a_tunnel_that_goes_down_is_told_once_and_not_for_each_platform() -> None:
    up = {("se", "bird"): OK, ("se", "book"): OK}
    down = dict.fromkeys(up, "tunnel-down")
    nights = [night(1, up), night(2, up), night(3, up), night(4, down, DOWN), night(5, down, DOWN)]
    assert only(last(nights[:4])) == (Kind.REGRESSION, Weight.UNCONFIRMED)
    (change,) = last(nights)
    assert (change.tunnel, change.platform, change.weight) == ("se", None, Weight.NEWS)
    assert (change.before, change.after, change.after_mechanism) == ("up", "endpoint", "handshake.timeout")


def test_a_config_that_leads_elsewhere_is_told() -> None:
    before, after = night(1, tunnels=UP), night(2, tunnels=UP)
    after = msgspec.structs.replace(after, rows=(row("se", servers=("198.18.20.9:443/tcp",)),))
    (change,) = compare(before, after)
    assert change.kind is Kind.CONFIG
    assert change.after == "wireguard 198.18.20.9:443/tcp"
    assert change.before_config == Leads("wireguard", before.rows[0].servers)
    assert change.after_config == Leads("wireguard", ("198.18.20.9:443/tcp",))


def test_what_is_new_and_what_is_gone() -> None:
    before = night(1, {("se", "bird"): OK, ("old", "bird"): OK})
    after = night(2, {("se", "bird"): OK, ("se", "book"): CUT, ("fresh", "bird"): CUT})
    found = [(one.kind, one.tunnel, one.platform) for one in compare(before, after)]
    assert found == [
        (Kind.NEW, "fresh", None),
        (Kind.GONE, "old", None),
        (Kind.NEW, None, "book"),
    ]


def test_what_a_partial_run_lacks_is_not_gone_and_then_not_new() -> None:
    whole = {("se", "bird"): OK, ("no", "bird"): OK, ("no", "book"): OK}
    part = msgspec.structs.replace(night(2, {("se", "bird"): OK}), partial=True)
    cut_short = msgspec.structs.replace(night(3, {("se", "bird"): OK}, {"no": "up"}), complete=False)
    first, last_one = night(1, whole), night(4, {**whole, ("de", "tube"): OK})
    fresh = [(Kind.NEW, "de", None), (Kind.NEW, None, "tube")]

    def found(*nights: Night) -> list[tuple[Kind, str | None, str | None]]:
        return [(one.kind, one.tunnel, one.platform) for one in last(nights)]

    assert found(first, part) == []
    assert found(first, part, cut_short) == []
    assert found(first, part, cut_short, last_one) == fresh
    assert found(part, last_one) == []
    assert found(last_one, night(5, whole)) == [(Kind.GONE, "de", None), (Kind.GONE, None, "tube")]


# ── which nights are compared ────────────────────────────────────────────────────────────────────────────────────────


def test_nights_apart_are_judged_by_those_between() -> None:
    nights = series(OK, OK, CUT, CUT, CUT)
    assert only(last(nights, before=0)) == (Kind.REGRESSION, Weight.NEWS)
    assert only(compare(nights[0], nights[-1])) == (Kind.REGRESSION, Weight.UNCONFIRMED)


def test_the_order_of_earlier_nights_does_not_matter_and_later_ones_are_passed_over() -> None:
    nights = series(OK, OK, OK, CUT, OK, OK)
    assert compare(nights[2], nights[3], reversed(nights)) == compare(nights[2], nights[3], nights[:2])


def test_against_a_baseline_it_is_news_for_as_long_as_it_differs() -> None:
    nights = series(OK, CUT, CUT, CUT, CUT, CUT)
    assert last(nights) == ()
    assert only(last(nights, before=0, accepted=True)) == (Kind.REGRESSION, Weight.NEWS)


def test_against_a_baseline_flapping_is_no_excuse() -> None:
    words = [OK, CUT, OK, CUT, OK, CUT, CUT, CUT, CUT, OK, OK]
    nights = series(*words)
    news = [
        count
        for count in range(2, len(words) + 1)
        if any(
            (one.kind, one.weight) == (Kind.REGRESSION, Weight.NEWS)
            for one in last(nights[:count], before=0, accepted=True)
        )
    ]
    assert news == [4, 6, 7, 8, 9]


def test_what_a_baseline_holds_stands_whatever_came_before_it() -> None:
    nights = series(OK, OK, OK, OK, CUT, CUT, CUT)
    # The baseline is the first night of the cut: what was accepted is no news.
    assert last(nights, before=4, accepted=True) == ()


def test_the_earlier_run_comes_first() -> None:
    nights = series(OK, CUT)
    with pytest.raises(UsageError, match="the earlier run comes first"):
        compare(nights[1], nights[0])
    assert compare(nights[1], nights[1]) == ()


def test_of_one_hour_the_first_named_is_the_earlier() -> None:
    first, second = (msgspec.structs.replace(one, started="2026-11-21T12:00:00+00:00") for one in series(OK, CUT))
    for before, after in ((first, second), (second, first)):
        assert [one.kind for one in compare(before, after)] != []


# ── conditions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_conditions_hold_for_what_they_name() -> None:
    cells = {
        ("outside", "bird"): "blocked dns.bogon 3/3",
        ("se", "bird"): OK,
        ("no", "bird"): CUT,
        ("fr", "bird"): "throttled throttle.ip 5/5",
        ("de", "bird"): "tunnel-down",
    }
    after = night(2, cells, {"de": "endpoint handshake.timeout"})
    regression = Change(Kind.REGRESSION, Weight.NEWS, "no", "bird", "open", "blocked")
    noise = Change(Kind.REGRESSION, Weight.FLAPPING, "se", "bird", "open", "blocked")
    recovery = Change(Kind.RECOVERY, Weight.NEWS, "fr", "bird", "blocked", "throttled")
    held = {one: complaints(one, after, (regression, noise, recovery)) for one in Condition}
    assert held[Condition.REGRESSION] == (regression,)
    assert held[Condition.RECOVERY] == (recovery,)
    assert held[Condition.ANY_CHANGE] == (regression, noise, recovery)
    assert [one.tunnel for one in held[Condition.BLOCKED]] == ["no"]
    assert [one.tunnel for one in held[Condition.THROTTLED]] == ["fr"]
    assert [one.tunnel for one in held[Condition.TUNNEL_DOWN]] == ["de"]
    quiet = night(3, {("se", "bird"): OK})
    assert not any(complaints(one, quiet, ()) for one in Condition)


def test_a_comparison_says_why_it_says_nothing() -> None:
    nights = series(OK, "dark")
    assert diff(nights[0], nights[1], last(nights)).silent == "line.dead"
    assert diff(nights[0], nights[0], ()).silent is None


# ── the definition, once more, by somebody else ──────────────────────────────────────────────────────────────────────

WORDS = [OK, "circumvents 2/3", CUT, THIN_CUT, MANY_OK, MANY_CUT, "insufficient 1/3", "dark"]


@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=40))
def test_news_comes_on_the_nights_of_the_definition_and_on_no_others(words: list[str]) -> None:
    nights = series(*words)
    said = [False] + [
        any(one.kind is Kind.REGRESSION and one.weight is Weight.NEWS for one in last(nights[:count]))
        for count in range(2, len(words) + 1)
    ]
    assert said == by_the_definition(words)


@given(st.integers(0, 12), st.integers(1, 12))
def test_an_interval_holds_its_share_and_lies_between_none_and_all(good: int, made: int) -> None:
    good = min(good, made)
    low, high = _interval(good, made)
    assert -1e-9 <= low <= good / made + 1e-9
    assert good / made - 1e-9 <= high <= 1 + 1e-9
