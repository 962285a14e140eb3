"""A truth table reads as it is written, and every departure from it is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vpntest.judge.verdict import Cell, Judgement, Outcome, PlatformVerdict, State, TunnelVerdict
from vpntest.lab.profiles import Profile, load
from vpntest.lab.truth import Expected, compare, read_truth, say, without_carrier

OUTSIDE = {"bird": "blocked tls.reset.sni", "tube": "ok"}
TUNNELS = {"one": "up", "two": "data data.stall.packets"}
GRID = """
        bird         tube
one     circumvents  open
two     tunnel-down  tunnel-down
"""


def judged(profile: Profile) -> Judgement:
    """A judgement that says just what the profile's truth says."""
    truth = profile.truth
    outside = {
        platform: PlatformVerdict("outside", platform, State(state.word), state.mechanism, "rule", ())
        for platform, state in truth.outside.items()
    }
    return Judgement(
        tuple(outside.values()),
        tuple(
            TunnelVerdict(tunnel, stage.word, stage.mechanism, "rule", ()) for tunnel, stage in truth.tunnels.items()
        ),
        tuple(
            Cell(tunnel, platform, outcome, "rule", outside[platform], None)
            for (tunnel, platform), outcome in truth.cells.items()
        ),
    )


PROFILE = load("ru_2023_08_vpn")


def test_it_reads_as_it_is_written() -> None:
    truth = read_truth(OUTSIDE, TUNNELS, GRID)
    assert truth.outside == {"bird": Expected("blocked", "tls.reset.sni"), "tube": Expected("ok", None)}
    assert truth.tunnels["two"] == Expected("data", "data.stall.packets")
    assert truth.cells["one", "bird"] is Outcome.CIRCUMVENTS
    assert truth.cells["two", "tube"] is Outcome.TUNNEL_DOWN
    assert len(truth.cells) == 4


@pytest.mark.parametrize(
    ("outside", "tunnels", "grid", "said"),
    [
        (OUTSIDE | {"third": "ok"}, TUNNELS, GRID, "first line"),
        (OUTSIDE, TUNNELS | {"three": "up"}, GRID, "rows"),
        (OUTSIDE, TUNNELS, GRID.replace("circumvents", ""), "row one has 1 outcomes for 2"),
        (OUTSIDE, TUNNELS, GRID.replace("circumvents", "circumvented"), "one × bird"),
        (OUTSIDE | {"tube": "fine"}, TUNNELS, GRID, "outside.tube"),
        (OUTSIDE, TUNNELS | {"one": "up and running"}, GRID, "tunnels.one"),
        (OUTSIDE, TUNNELS, "", "first line"),
    ],
)
def test_what_does_not_fit_is_refused(outside: dict[str, str], tunnels: dict[str, str], grid: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_truth(outside, tunnels, grid)


def test_the_truth_equals_itself() -> None:
    assert compare(PROFILE, judged(PROFILE)) == []
    assert say(PROFILE, judged(PROFILE), []).startswith("equals the truth table of ru_2023_08_vpn (120 of 120")


@given(st.data())
def test_one_other_cell_is_one_difference(data: st.DataObject) -> None:
    judgement = judged(PROFILE)
    place = data.draw(st.integers(0, len(judgement.cells) - 1))
    cell = judgement.cells[place]
    other = data.draw(st.sampled_from([outcome for outcome in Outcome if outcome is not cell.outcome]))
    cells = (*judgement.cells[:place], replace(cell, outcome=other), *judgement.cells[place + 1 :])
    found = compare(PROFILE, replace(judgement, cells=cells))
    assert [(one.where, one.expected, one.found) for one in found] == [
        (f"{cell.tunnel} × {cell.platform}", cell.outcome, other)
    ]
    assert f"{cell.tunnel} × {cell.platform}: expected {cell.outcome}" in say(PROFILE, judgement, found)


@given(st.data())
def test_another_state_or_mechanism_is_a_difference(data: st.DataObject) -> None:
    judgement = judged(PROFILE)
    place = data.draw(st.integers(0, len(judgement.outside) - 1))
    verdict = judgement.outside[place]
    other = data.draw(
        st.sampled_from([replace(verdict, state=State.INSUFFICIENT), replace(verdict, mechanism="tls.mitm")])
    )
    outside = (*judgement.outside[:place], other, *judgement.outside[place + 1 :])
    assert [one.where for one in compare(PROFILE, replace(judgement, outside=outside))] == [
        f"outside × {verdict.platform}"
    ]


@given(st.data())
def test_another_rung_or_reason_is_a_difference(data: st.DataObject) -> None:
    judgement = judged(PROFILE)
    place = data.draw(st.integers(0, len(judgement.tunnels) - 1))
    verdict = judgement.tunnels[place]
    other = data.draw(st.sampled_from([replace(verdict, stage="config"), replace(verdict, mechanism="leak.dns")]))
    tunnels = (*judgement.tunnels[:place], other, *judgement.tunnels[place + 1 :])
    assert [one.where for one in compare(PROFILE, replace(judgement, tunnels=tunnels))] == [verdict.tunnel]


def test_a_cell_that_was_never_judged_is_a_difference() -> None:
    judgement = judged(PROFILE)
    found = compare(PROFILE, replace(judgement, cells=judgement.cells[1:]))
    assert [one.found for one in found] == ["nothing"]


def test_a_tunnel_that_the_truth_does_not_know_is_a_difference() -> None:
    judgement = judged(PROFILE)
    stranger = TunnelVerdict("stranger", "up", None, "rule", ())
    found = compare(PROFILE, replace(judgement, tunnels=(*judgement.tunnels, stranger)))
    assert found[0].where == "stranger"
    assert all(one.expected == "nothing" for one in found)


def test_what_was_not_selected_is_not_missed() -> None:
    judgement = judged(PROFILE)
    few = Judgement(
        judgement.outside[:2],
        judgement.tunnels[:3],
        tuple(
            cell
            for cell in judgement.cells
            if cell.platform in ("twitter", "facebook") and cell.tunnel in ("wireguard", "wireguard-2", "amneziawg")
        ),
    )
    assert len(few.cells) == 6
    assert compare(PROFILE, few) == []
    assert "6 of 120" in say(PROFILE, few, [])


def test_nothing_judged_never_equals_the_truth() -> None:
    assert compare(PROFILE, Judgement((), (), ()))
    assert compare(PROFILE, Judgement((), (), (), local_outage=("o1",)))[0].found == "local outage"


def test_a_carrier_that_is_missing_changes_its_own_row_alone() -> None:
    truth = without_carrier(PROFILE.truth, "vless-reality")
    assert truth.tunnels["vless-reality"] == Expected("none", "unsupported")
    changed = {key for key, outcome in truth.cells.items() if outcome is not PROFILE.truth.cells[key]}
    assert {tunnel for tunnel, _ in changed} == {"vless-reality"}
    assert all(truth.cells[key] is Outcome.TUNNEL_DOWN for key in changed)
    assert len(changed) == 10
