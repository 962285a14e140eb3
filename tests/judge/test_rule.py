"""The order of a table decides."""

from __future__ import annotations

import pytest

from vpntest.judge.rule import Rule, always, first

TABLE = (
    Rule[int, str]("big", lambda n: n > 100, "big", "", ""),
    Rule[int, str]("positive", lambda n: n > 0, "positive", "", ""),
    Rule[int, str]("rest", always, "rest", "", ""),
)


@pytest.mark.parametrize(("facts", "expected"), [(101, "big"), (100, "positive"), (0, "rest")])
def test_the_first_match_wins(facts: int, expected: str) -> None:
    assert first(TABLE, facts).then == expected


def test_no_condition_after_the_match_is_asked() -> None:
    asked: list[str] = []

    def noting(name: str, answer: bool) -> Rule[int, str]:
        def when(_: int) -> bool:
            asked.append(name)
            return answer

        return Rule(name, when, name, "", "")

    first((noting("a", False), noting("b", True), noting("c", True)), 0)
    assert asked == ["a", "b"]
