"""Text of strangers cannot act on a terminal or on a reader's eye."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.report.text import painted, plain, to_ascii, wrapped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two peers have one key", "two peers have one key"),
        ("Café — доступ ограничен", "Café — доступ ограничен"),
        ("\x1b[2J\x1b]0;owned\x07", "�[2J�]0;owned�"),
        ("one\r\n  two\tthree", "one two three"),
        ("safe\u202egpj.exe", "safe�gpj.exe"),
        ("zero\u200bwidth\ufeff", "zero�width�"),
        ("line\u2028break", "line�break"),
        ("\x9b31m", "�31m"),
        ("lone \ud800 surrogate", "lone � surrogate"),
        ("", ""),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_long_text_is_cut_and_says_so() -> None:
    assert plain("x" * 50, limit=10) == "xxxxxxxxx…"
    assert plain("x" * 10, limit=10) == "x" * 10


@given(st.text())
def test_nothing_that_steers_is_left(text: str) -> None:
    shown = plain(text)
    assert len(shown) <= 300
    assert not {unicodedata.category(one) for one in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert plain(shown) == shown


def test_ascii_is_for_whom_nothing_else_can_be_shown() -> None:
    assert to_ascii("“a” × b · c… → д") == '"a" x b - c... -> ?'
    assert to_ascii("“a” → д", unicode=True) == "“a” → д"


def test_a_colour_is_put_around_the_text_and_only_where_it_is_wanted() -> None:
    assert painted("word", (0, 158, 115), True) == "\x1b[38;2;0;158;115mword\x1b[0m"
    assert painted("word", (0, 158, 115), False) == painted("word", None, True) == "word"


def test_lines_end_between_names() -> None:
    text = "around it: se-sto-001, se-sto-002"
    assert wrapped(text, 20, "- ", "  ") == "- around it:\n  se-sto-001,\n  se-sto-002"
    # What is longer than a line is cut all the same.
    assert wrapped("a" * 25, 20) == "a" * 20 + "\n" + "a" * 5
