"""What tests of the judge share: single tries of an endpoint, and what every table of rules must show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from records import World, platform

from vpntest.judge.attempts import Attempt
from vpntest.judge.reading import read
from vpntest.judge.rule import Rule, first
from vpntest.plan.model import Endpoint, Platform, Service


def check_table(table: Sequence[Rule[Any, Any]], cases: Mapping[str, tuple[Any, Any]]) -> None:
    """Each rule has a case that fires it, and a near miss that does not.

    `cases`: rule id → facts that fire it, and facts that do not.
    """
    assert set(cases) == {rule.id for rule in table}
    wrong = []
    for name, (fires, near) in cases.items():
        if (found := first(table, fires).id) != name:
            wrong.append(f"{name}: its case fires {found}")
        if first(table, near).id == name:
            wrong.append(f"{name}: its near miss fires it")
    assert not wrong, "\n".join(wrong)


def attempt(
    of: Platform | None = None,
    proxy: bool = False,
    controls: Sequence[str | None] | None = (None, None),
    before: Callable[[World], None] | None = None,
    **reach: Any,
) -> Attempt:
    """The reading of one try from outside, or through a proxy tunnel; `controls`: their failures before and after;
    `before`: what else was seen in that world."""
    world = World(of or platform("bird"), attempts=1)
    vantage = "outside"
    for phase, failure in zip(("before", "after"), controls or (), strict=False):
        world.control(vantage, phase, failure)
    if proxy:
        world.tunnel("p", proxy=True)
        vantage = "p"
    if before:
        before(world)
    world.reach(vantage, "bird", **reach)
    [[only]] = read(world.record()).attempts["bird", "web", world.platforms[0].service[0].endpoint[0].url].values()
    return only


def bird(url: str, *status: int) -> Platform:
    return Platform("bird", "Bird", (Service("web", (Endpoint(url, status=status),)),))


HTTPS, HTTP, TCP = "https://bird.example/", "http://bird.example/", "tcp://bird.example:443"
QUIC, STUN = "quic://bird.example/", "stun://bird.example:3478"
