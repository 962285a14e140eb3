"""The censor's vocabulary: a rule is told by its `do`, and says nothing that it does not know."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from vpntest.lab.rules import Freeze, Police, Rule

RULES = get_args(Rule)


def test_every_rule_has_a_word_of_its_own_and_names_its_source() -> None:
    words = [rule.__struct_config__.tag for rule in RULES]
    assert len(set(words)) == len(words) >= 20
    for rule in RULES:
        fields = {field.name: field for field in msgspec.structs.fields(rule)}
        assert fields["source"].required


def test_a_rule_is_told_by_its_do() -> None:
    text = {"do": "freeze", "packets": 25, "servers": ["wg-a"], "source": "here"}
    assert msgspec.convert(text, Rule) == Freeze(packets=25, servers=("wg-a",), source="here")


@pytest.mark.parametrize(
    "wrong",
    [
        {"do": "police", "names": ["x.com"], "kbytes_per_second": 0, "burst_kbytes": 16, "source": "here"},
        {"do": "police", "names": ["x com"], "kbytes_per_second": 17, "burst_kbytes": 16, "source": "here"},
        {"do": "police", "names": ["x.com"], "kbytes_per_second": 17, "burst_kbytes": 16},
        {"do": "freeze", "servers": ["wg-a"], "source": "here"},
        {"do": "freeze", "servers": ["wg-a"], "packets": 25, "bytes": 20480, "source": "here"},
        {"do": "polish", "names": ["x.com"], "source": "here"},
        {"do": "police", "names": ["x.com"], "kbytes_per_second": 17, "burst_kbytes": 16, "source": "here", "more": 1},
    ],
)
def test_what_it_does_not_know_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Rule)


def test_police_is_not_sticky_unless_it_says_so() -> None:
    assert not Police(names=("x.com",), kbytes_per_second=17, burst_kbytes=16, source="here").sticky
