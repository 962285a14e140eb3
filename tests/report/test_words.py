"""The catalogue: every language says everything, and the English of a rule is the judge's own."""

from __future__ import annotations

import re

from vpntest.report.words import LANGUAGES, RULES, reasons, say, ways, words


def test_each_language_says_everything() -> None:
    assert set(words()) == set(LANGUAGES)
    english = words()["en"]
    for language in LANGUAGES:
        other = words()[language]
        assert other.keys() == english.keys()
        for key, text in english.items():
            assert set(re.findall(r"\{\d\}", text)) == set(re.findall(r"\{\d\}", other[key])), (language, key)
            assert bool(text) == bool(other[key]), (language, key)


def test_each_rule_has_its_reason_in_each_language_and_the_english_one_is_the_judges() -> None:
    """A reason that is changed must be translated anew."""
    judged = {rule.id: rule.reason for rule in RULES.values()}
    assert {rule: told["en"] for rule, told in reasons().items()} == judged
    for rule, told in reasons().items():
        assert told.keys() == set(LANGUAGES), rule
        assert re.search("[а-яё]", told["ru"]), rule


def test_what_is_put_in_stands_where_it_belongs() -> None:
    assert say("otherwise.tries.as-at", "outside", 1, 3, "se") == "had 1 of its 3 tries gone outside as at se"


def test_a_mechanism_is_named_by_its_rules() -> None:
    assert ways("tls.reset.sni") == ["failure.tls.reset.sni"]
    assert ways(None) == ways("no.such") == []
