"""The definition of news in `vpntest/history/changes.py`, read literally, with its numbers and without its code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether some share is within four standard errors of both counts of tries: by search, not by formula."""

    def fits(share: float, count: tuple[int, int]) -> bool:
        good, made = count
        return abs(good / made - share) <= 4 * math.sqrt(share * (1 - share) / made)

    return any(fits(step / 4000, one) and fits(step / 4000, other) for step in range(4001))


def by_the_definition(words: Sequence[str]) -> list[bool]:
    """On which of these nights of one cell (`circumvents 3/3`, `blocked 2/3` …) a regression is news."""
    telling = [(place, word) for place, word in enumerate(words) if word.split()[0] in ("circumvents", "blocked")]
    news = [False] * len(words)
    standing = None
    for number, (place, word) in enumerate(telling):
        works = word.startswith("circumvents")
        if standing is None or works == standing:
            standing = works
            continue
        works_so_far = [one.startswith("circumvents") for _, one in telling[: number + 1]]
        changed = [one != other for one, other in itertools.pairwise(works_so_far)]
        # Seven nights have six changes at most, fourteen have thirteen, four have three.
        if sum(changed[-6:]) >= 3 or (sum(changed[-13:]) >= 4 and any(changed[-3:])):
            continue
        alive = [place for place, one in enumerate(words[: place + 1]) if one != "dark"][-14:]

        def good(text: str) -> tuple[int, int]:
            k, n = map(int, text.split()[-1].split("/"))
            return (k if text.startswith("circumvents") else n - k, n)

        usual = [good(one) for place, one in telling[max(0, number - 7) : number] if place in alive]
        pooled = (sum(k for k, _ in usual), sum(n for _, n in usual))
        is_disjoint = len(usual) >= 3 and not meet(pooled, good(word))
        recent = [one.startswith("circumvents") for place, one in telling[: number + 1][-3:] if place in alive]
        if recent.count(works) >= 2 or is_disjoint:
            news[place] = not works
            standing = works
    return news
