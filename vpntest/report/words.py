"""The one catalogue of what reports say in each language, and of the rules' reasons.

`page/words.json` holds the texts by language and key, `{0}` for the first thing that is put in; `page/rules.json` the
reasons. The HTML report speaks all languages; `explain` says the same English.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from vpntest.judge.judging import TABLES
from vpntest.judge.rule import Rule

PAGE: Final = Path(__file__).with_name("page")
LANGUAGES: Final = ("en", "ru")
"""The first is every report's own; a browser's wish chooses among them."""
RULES: Final[dict[str, Rule[Any, Any]]] = {rule.id: rule for table in TABLES for rule in table}


@cache
def words() -> dict[str, dict[str, str]]:
    """Texts by language and key."""
    return dict(json.loads((PAGE / "words.json").read_text(encoding="utf-8")))


@cache
def reasons() -> dict[str, dict[str, str]]:
    """Each rule's reason by rule and language. The English one is the judge's own: no translation outlives it."""
    return dict(json.loads((PAGE / "rules.json").read_text(encoding="utf-8")))


def say(key: str, *put_in: object) -> str:
    """A text in English."""
    text = words()[LANGUAGES[0]][key]
    for number, one in enumerate(put_in):
        text = text.replace(f"{{{number}}}", str(one))
    return text


def ways(mechanism: str | None) -> list[str]:
    """The rules that name a mechanism of one failed try."""
    named = (rule for rule in RULES.values() if isinstance(rule.then, str))
    return [rule.id for rule in named if mechanism is not None and rule.then == mechanism]
