"""Whether an answer that nobody signed is the platform's, by what the platform gives elsewhere.

A status proves nothing without a certificate: block pages come with 200 as well. So the answer is held against those
of other exits, as OONI holds the probe's against its helper's. OONI's http-diff finds no difference where the status
and *any one* of body length, title and uncommon headers agree (ooni/probe-cli, minipipeline/httpdiff.go). That is
enough at an address that is the platform's by all accounts, as long as no two titles differ. Where the address itself
is doubted, status, title and length must all agree before the answer is believed. Title and length must both differ
before it is called somebody else's. What lies between is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from itertools import combinations

SIMILAR = 0.7
"""Ratio of two bodies' lengths from which on they are taken for the same page's (ooni/probe-cli, http-diff)."""
ENOUGH = 2
"""Exits that must see the same other page before an answer from the platform's own address is called somebody else's:
one exit may itself stand behind a censor."""


class Likeness(IntEnum):
    """How like each other two answers are."""

    STRANGE = 0
    """Neither title nor length agree."""
    UNCLEAR = 1
    LIKE = 2
    """No difference, as OONI has it."""
    SAME = 3
    """Status, title and length agree."""


class Belief(Enum):
    """Whose an answer is."""

    PLATFORM = "platform"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Page:
    """What is kept of an answer's body."""

    status: int
    title: str | None
    length: int
    """Bytes of the body."""

    @property
    def tells(self) -> bool:
        """Whether there is anything that could be compared."""
        return self.title is not None or self.length > 0


def likeness(one: Page, other: Page) -> Likeness:
    """How like each other two answers are."""
    near = min(one.length, other.length) > SIMILAR * max(one.length, other.length)
    entitled = one.title is not None and one.title == other.title
    untitled = one.title is None and other.title is None
    if not entitled and not untitled and not near:
        return Likeness.STRANGE
    if one.status != other.status:
        return Likeness.UNCLEAR
    if near and (entitled or untitled):
        return Likeness.SAME
    # Two titles that differ outweigh a length that may be like by chance.
    differently = one.title is not None and other.title is not None and not entitled
    return Likeness.LIKE if entitled or (near and not differently) else Likeness.UNCLEAR


def whose(mine: Page, exits: Mapping[str, Iterable[Page]], beside: Iterable[Page] = (), *, doubted: bool) -> Belief:
    """Whose an answer is; `doubted`: its address may not be the platform's.

    `exits`: by exit, the answers at other exits than this one's, from addresses that are not doubted. `beside`: answers
    from here at the public resolver's address.
    """
    if not mine.tells:
        return Belief.UNKNOWN if doubted else Belief.PLATFORM
    there = {exit: telling for exit, pages in exits.items() if (telling := [page for page in pages if page.tells])}
    here = [page for page in beside if page.tells]
    if doubted and here:
        if max(likeness(mine, page) for page in here) is Likeness.SAME:
            doubted = False
        elif not there:
            there = {"": here}
    found = [max(likeness(mine, page) for page in pages) for pages in there.values()]
    if any(like is Likeness.STRANGE for like in found):
        agreed = all(
            likeness(one, other) is not Likeness.STRANGE
            for one, other in combinations([page for pages in there.values() for page in pages], 2)
        )
        alone = all(like is Likeness.STRANGE for like in found)
        return Belief.OTHER if alone and agreed and (doubted or len(found) >= ENOUGH) else Belief.UNKNOWN
    if doubted:
        return Belief.PLATFORM if Likeness.SAME in found else Belief.UNKNOWN
    return Belief.PLATFORM if not found or max(found) >= Likeness.LIKE else Belief.UNKNOWN
