"""Rules for cells, each with a case and a near miss; and the whole table of outcomes."""

from __future__ import annotations

import pytest
from tables import check_table

from vpntest.judge.cell_rules import CELL, CellSeen
from vpntest.judge.rule import first
from vpntest.judge.verdict import Outcome, PlatformVerdict, State, TunnelVerdict

UP = TunnelVerdict("t", "up", None, "", ())
STALLED = TunnelVerdict("t", "data", "data.stall.bytes", "", ())
UNMEASURED = TunnelVerdict("t", "data", "unmeasured", "", ())


def verdict(text: str) -> PlatformVerdict:
    """`state`, `state!` (partial), or `state rule speed-rule`."""
    state, rule, speed = (*text.split(), "", "")[:3]
    partial = state.endswith("!")
    return PlatformVerdict("v", "p", State(state.rstrip("!")), None, rule, (), partial=partial, speed=speed or None)


def cell(outside: str, inside: str, tunnel: TunnelVerdict = UP) -> CellSeen:
    return CellSeen(tunnel, verdict(outside), verdict(inside))


SPEED_UNKNOWN = "ok platform.ok.speed-unknown speed.unknown"
SLOW_TUNNEL = "ok platform.ok.speed-unknown speed.slow-line"
SPEED_FAIR = "ok platform.ok speed.fair"
UNPROVEN = "ok platform.ok.unproven"

CASES = {
    "cell.insufficient.tunnel-unmeasured": (cell("blocked", "ok", UNMEASURED), cell("blocked", "ok", STALLED)),
    "cell.tunnel-down": (cell("blocked", "ok", STALLED), cell("blocked", "ok")),
    "cell.partial": (cell("ok", "refused!"), cell("ok!", "refused")),
    "cell.platform-down": (cell("down", "down"), cell("blocked", "down")),
    "cell.refused": (cell("blocked", "refused"), cell("refused", "blocked")),
    "cell.throttled": (cell("insufficient", "throttled"), cell("throttled", "ok")),
    "cell.insufficient.inside": (cell("blocked", "insufficient"), cell("insufficient", "throttled")),
    "cell.insufficient.outside": (cell("insufficient", "ok"), cell("ok", "ok")),
    "cell.insufficient.outside-refused": (cell("refused", "ok"), cell("refused", "refused")),
    "cell.insufficient.outside-down": (cell("down", "ok"), cell("down", "down")),
    "cell.blocked": (cell("throttled", "blocked"), cell("ok", "blocked")),
    "cell.breaks": (cell("ok", "blocked"), cell("blocked", "blocked")),
    "cell.insufficient.speed-unknown": (cell("throttled", SPEED_UNKNOWN), cell("blocked", SPEED_UNKNOWN)),
    "cell.insufficient.slow-tunnel": (cell("throttled", SLOW_TUNNEL), cell("throttled", SPEED_FAIR)),
    "cell.insufficient.freeze": (
        cell("blocked speed.freeze.bytes", SPEED_UNKNOWN),
        cell("blocked endpoint.blocked.works-elsewhere", SPEED_UNKNOWN),
    ),
    "cell.insufficient.unproven": (cell("blocked", UNPROVEN), cell("ok", UNPROVEN)),
    "cell.circumvents.speed-unknown": (cell("blocked", SPEED_UNKNOWN), cell("ok", SPEED_UNKNOWN)),
    "cell.circumvents": (cell("throttled", "ok"), cell("ok", "ok")),
    "cell.insufficient.line-unproven": (cell(UNPROVEN, "ok"), cell("ok", UNPROVEN)),
    "cell.open.unproven": (cell("ok", UNPROVEN), cell("throttled", UNPROVEN)),
    "cell.open.speed-unknown": (cell(SLOW_TUNNEL, "ok"), cell(SPEED_FAIR, SPEED_FAIR)),
    "cell.open": (cell("ok", "ok"), cell("ok", "insufficient")),
}


def test_cell() -> None:
    check_table(CELL, CASES)


@pytest.mark.parametrize("outside", ["blocked", "throttled"])
def test_an_unproven_service_never_circumvents(outside: str) -> None:
    assert first(CELL, cell(outside, UNPROVEN)).then is Outcome.INSUFFICIENT
    assert first(CELL, cell(outside, f"{UNPROVEN} speed.fair")).then is Outcome.INSUFFICIENT


@pytest.mark.parametrize("inside", [SPEED_UNKNOWN, SLOW_TUNNEL])
def test_small_answers_get_around_no_freeze_of_large_ones(inside: str) -> None:
    assert first(CELL, cell("blocked speed.freeze.bytes", inside)).then is Outcome.INSUFFICIENT
    assert first(CELL, cell("blocked endpoint.blocked.works-elsewhere", inside)).then is Outcome.CIRCUMVENTS
    assert first(CELL, cell("blocked speed.freeze", SPEED_FAIR)).then is Outcome.CIRCUMVENTS


@pytest.mark.parametrize("speed", ["slow-line", "unknown", "silent", "unclear"])
def test_without_a_known_speed_nothing_gets_around_throttling(speed: str) -> None:
    assert first(CELL, cell("throttled", f"ok platform.ok.speed-unknown speed.{speed}")).then is Outcome.INSUFFICIENT


ORDER = ("ok", "blocked", "throttled", "refused", "down", "insufficient")
TABLE = """
outside       ok            blocked       throttled  refused  down           insufficient
ok            open          breaks        throttled  refused  insufficient   insufficient
blocked       circumvents   blocked       throttled  refused  insufficient   insufficient
throttled     circumvents   blocked       throttled  refused  insufficient   insufficient
refused       insufficient  insufficient  throttled  refused  insufficient   insufficient
down          insufficient  insufficient  throttled  refused  platform-down  insufficient
insufficient  insufficient  insufficient  throttled  refused  insufficient   insufficient
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()[1:]]


@pytest.mark.parametrize(
    ("outside", "inside", "outcome"),
    [(row[0], inside, outcome) for row in ROWS for inside, outcome in zip(ORDER, row[1:], strict=True)],
)
def test_the_whole_table(outside: str, inside: str, outcome: str) -> None:
    assert first(CELL, cell(outside, inside)).then == outcome


@pytest.mark.parametrize("outside", ORDER)
@pytest.mark.parametrize("inside", ORDER)
def test_nothing_is_said_of_platforms_through_a_tunnel_that_is_not_usable(outside: str, inside: str) -> None:
    assert first(CELL, cell(outside, inside, STALLED)).then is Outcome.TUNNEL_DOWN
    assert first(CELL, cell(outside, inside, UNMEASURED)).then is Outcome.INSUFFICIENT
