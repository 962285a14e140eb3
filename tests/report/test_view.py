"""Which rows and columns are shown."""

from __future__ import annotations

import pytest
from story import story

from vpntest.errors import UsageError
from vpntest.judge.judging import judge
from vpntest.report.matrix import Matrix, arrange
from vpntest.report.view import ORDERS, Order, View

RECORD = story()
WHOLE = arrange(RECORD, judge(RECORD))


def names(matrix: Matrix) -> list[str]:
    return [row.name for row in matrix.rows]


def test_the_default_shows_all_as_it_comes() -> None:
    assert View().of(WHOLE) == WHOLE
    assert View().hides(WHOLE, WHOLE) == ""


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("plan", ["se", "ss", "ov", "wg", "bad"]),
        ("name", ["bad", "ov", "se", "ss", "wg"]),
        ("kind", ["se", "ov", "ss", "bad", "wg"]),
        ("helpful", ["se", "bad", "ov", "ss", "wg"]),
    ],
)
def test_orders(sort: Order, order: list[str]) -> None:
    assert names(View(sort=sort).of(WHOLE)) == ["outside", *order]
    assert sort in ORDERS


def test_only_some() -> None:
    view = View(tunnels=("wg", "se"), platforms=("wiki", "twitter"))
    shown = view.of(WHOLE)
    assert (names(shown), shown.columns) == (["outside", "se", "wg"], ("twitter", "wiki"))
    assert shown.rows[1].entries == (WHOLE.rows[1].entries[0], WHOLE.rows[1].entries[4])
    assert view.hides(WHOLE, shown) == "Shown: 2 of 5 tunnels and 2 of 5 platforms."


def test_only_those_with_an_outcome_in_what_is_shown() -> None:
    assert names(View(outcomes=("circumvents",)).of(WHOLE)) == ["outside", "se"]
    assert names(View(outcomes=("blocked", "circumvents")).of(WHOLE)) == ["outside", "se", "ss"]
    assert names(View(outcomes=("circumvents",), platforms=("bank",)).of(WHOLE)) == ["outside"]


@pytest.mark.parametrize("view", [View(tunnels=("nobody",)), View(platforms=("nowhere",)), View(outcomes=("fine",))])
def test_a_name_that_the_run_lacks_is_a_usage_error(view: View) -> None:
    with pytest.raises(
        UsageError, match=r"the run has no (tunnel|platform|outcome) called '(nobody|nowhere|fine)'; it has: "
    ):
        view.of(WHOLE)


def test_of_a_run_that_was_not_judged_there_is_nothing_to_choose() -> None:
    nothing = Matrix((), WHOLE.rows[:1])
    assert View(tunnels=("se",), platforms=("wiki",), sort="helpful").of(nothing).columns == ()
