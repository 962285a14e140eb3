"""A secret shows itself to nobody who did not ask."""

from __future__ import annotations

import pytest

from vpntest.plan.secret import Secret


@pytest.mark.parametrize(
    "shown",
    [
        repr,
        str,
        format,
        "{:>10}".format,
        "{!r}".format,
        lambda secret: f"{secret}",
        lambda secret: str([secret, {"key": secret}]),
    ],
)
def test_no_way_of_printing_shows_it(shown) -> None:
    assert "hush" not in shown(Secret("hush"))


def test_it_comes_out_when_asked_for() -> None:
    assert Secret("hush").reveal() == "hush"


def test_equal_secrets_are_equal_and_others_are_not() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
