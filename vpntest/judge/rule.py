"""A rule of the judge, as data: what must hold, what follows, why, and who says so.

Tables of rules are tuples. They are tried in order, the first match wins, and the last rule of a table always matches.
An id never changes its meaning: kept runs are compared by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Facts = TypeVar("Facts")
Conclusion = TypeVar("Conclusion")


@dataclass(frozen=True)
class Rule(Generic[Facts, Conclusion]):
    """One row of a table."""

    id: str
    """Stable, unique over all tables."""
    when: Callable[[Facts], bool]
    """Whether the rule matches. Pure."""
    then: Conclusion
    reason: str
    """One sentence for a person who does not know this program."""
    source: str
    """Where the rule, or its number, comes from."""


def first(rules: Sequence[Rule[Facts, Conclusion]], facts: Facts) -> Rule[Facts, Conclusion]:
    """The first rule that matches."""
    return next(rule for rule in rules if rule.when(facts))


def always(_: object) -> bool:
    """The condition of a table's last rule."""
    return True
