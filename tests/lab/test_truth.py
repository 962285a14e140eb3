"""A truth table says what its file says and what follows from it, and every departure from it is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vpntest.judge.verdict import Cell, Judgement, Outcome, PlatformVerdict, ServiceVerdict, State, TunnelVerdict
from vpntest.lab.profiles import Profile, load
from vpntest.lab.truth import Expected, Truth, TruthFile, compare, entries, make, outcome, say, without_carrier
from vpntest.plan.model import Endpoint, Platform, Service


def platform(name: str) -> Platform:
    """One with a service that counts, and one that does not."""
    return Platform(
        name,
        name.title(),
        (
            Service("web", (Endpoint(f"https://{name}.example/"),)),
            Service("calls", (Endpoint(f"https://calls.{name}.example/"),), required=False),
        ),
    )


CAST = ("one", "two"), (platform("bird"), platform("tube"), platform("refuser"), platform("downer"))


def truth(**parts: dict[str, str]) -> Truth:
    return make(TruthFile(**parts), *CAST)  # type: ignore[arg-type]


def judged(profile: Profile) -> Judgement:
    """A judgement that says just what the profile's truth says."""
    truth = profile.truth
    outside = {
        platform: PlatformVerdict(
            "outside",
            platform,
            State(state.word),
            state.mechanism,
            "rule",
            (),
            services=tuple(
                ServiceVerdict(service, State(optional.word), optional.mechanism, "rule", ())
                for (of, service), optional in truth.services.items()
                if of == platform
            ),
        )
        for platform, state in truth.outside.items()
    }
    return Judgement(
        tuple(outside.values()),
        tuple(
            TunnelVerdict(tunnel, stage.word, stage.mechanism, "rule", ()) for tunnel, stage in truth.tunnels.items()
        ),
        tuple(
            Cell(tunnel, platform, Outcome(cell.word), "rule", outside[platform], None)
            for (tunnel, platform), cell in truth.cells.items()
        ),
    )


PROFILE = load("ru_2023_08_vpn")
DEAD = replace(PROFILE, truth=make(TruthFile(line="dead"), *CAST))


# ── the table of outcomes ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("outside", "inside", "expected"),
    [
        ("blocked", "ok", "circumvents"),
        ("throttled", "ok", "circumvents"),
        ("ok", "ok", "open"),
        ("blocked", "blocked", "blocked"),
        ("throttled", "blocked", "blocked"),
        ("ok", "blocked", "breaks"),
        ("ok", "throttled", "throttled"),
        ("throttled", "throttled", "throttled"),
        ("blocked", "partial", "partial"),
        ("ok", "refused", "refused"),
        ("blocked", "refused", "refused"),
        ("down", "down", "platform-down"),
        # What does not go together, or is not known, is no finding.
        ("down", "ok", "insufficient"),
        ("ok", "down", "insufficient"),
        ("refused", "ok", "insufficient"),
        ("insufficient", "ok", "insufficient"),
        ("insufficient", "blocked", "insufficient"),
        ("insufficient", "down", "insufficient"),
        ("blocked", "insufficient", "insufficient"),
        ("ok", "insufficient", "insufficient"),
    ],
)
def test_the_table_of_outcomes(outside: str, inside: str, expected: str) -> None:
    assert outcome(outside, True, inside) == expected
    assert outcome(outside, False, inside) == "tunnel-down"


@given(st.sampled_from(State), st.sampled_from([*State, "partial"]))
def test_only_what_is_ok_inside_is_called_a_way_through(outside: str, inside: str) -> None:
    said = outcome(outside, True, inside)
    if said in (Outcome.CIRCUMVENTS, Outcome.OPEN):
        assert inside == "ok"
        assert outside in (("blocked", "throttled") if said is Outcome.CIRCUMVENTS else ("ok",))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_without_entries_is_the_free_world() -> None:
    free = truth()
    assert {name: str(state) for name, state in free.outside.items()} == {
        **{"bird": "ok", "tube": "ok", "refuser": "ok", "downer": "down tcp.refused"}
    }
    assert {str(stage) for stage in free.tunnels.values()} == {"up"}
    assert {name: str(free.cells["one", name]) for name in free.outside} == {
        **{"bird": "open", "tube": "open", "refuser": "refused", "downer": "platform-down"}
    }
    assert len(free.cells) == 8
    assert {key: str(state) for key, state in free.services.items()} == {(name, "calls"): "ok" for name in free.outside}


def test_cells_follow_from_outside_the_tunnel_and_inside() -> None:
    mine = truth(
        outside={"bird": "blocked tls.reset.sni", "tube": "throttled throttle.sni", "downer": "insufficient"},
        services={"tube calls": "blocked stun.timeout"},
        tunnels={"two": "data data.stall.packets"},
        inside={"* tube": "blocked"},
    )
    assert mine.outside["bird"] == Expected(("blocked tls.reset.sni",))
    assert (mine.outside["bird"].word, mine.outside["bird"].mechanism) == ("blocked", "tls.reset.sni")
    assert (mine.outside["refuser"].word, mine.outside["refuser"].mechanism) == ("ok", None)
    assert str(mine.services["tube", "calls"]) == "blocked stun.timeout"
    assert {str(mine.cells["two", name]) for name in mine.outside} == {"tunnel-down"}
    assert {name: str(mine.cells["one", name]) for name in mine.outside} == {
        **{"bird": "circumvents", "tube": "blocked", "refuser": "refused", "downer": "insufficient"}
    }


def test_one_tunnel_can_differ_inside_and_one_cell_from_the_table() -> None:
    mine = truth(inside={"* bird": "refused", "two bird": "partial"}, cells={"one tube": "insufficient"})
    assert str(mine.cells["one", "bird"]) == "refused"
    assert str(mine.cells["two", "bird"]) == "partial"
    assert str(mine.cells["one", "tube"]) == "insufficient"
    assert str(mine.cells["two", "tube"]) == "open"


def test_what_is_left_to_chance_has_several_right_answers() -> None:
    mine = truth(tunnels={"one": "up | data  data.stall.connections"}, outside={"bird": "blocked dns.injection"})
    assert mine.tunnels["one"].accepts("data data.stall.connections")
    assert mine.tunnels["one"].accepts("up")
    assert not mine.tunnels["one"].accepts("data data.stall")
    assert str(mine.cells["one", "bird"]) == "circumvents | tunnel-down"
    assert str(mine.cells["two", "bird"]) == "circumvents"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"outside": {"third": "ok"}}, r"truth\.outside speaks of 'third'"),
        ({"services": {"bird web": "ok"}}, r"truth\.services speaks of 'bird web'"),
        ({"tunnels": {"three": "up"}}, r"truth\.tunnels speaks of 'three'"),
        ({"inside": {"three bird": "ok"}}, r"truth\.inside speaks of 'three bird'"),
        ({"inside": {"bird": "ok"}}, r"truth\.inside speaks of 'bird'"),
        ({"cells": {"* bird": "open"}}, r"truth\.cells speaks of '\* bird'"),
        ({"outside": {"bird": "fine"}}, r"truth\.outside\.bird: 'fine' is not one of"),
        ({"outside": {"bird": ""}}, r"truth\.outside\.bird"),
        ({"outside": {"bird": "ok |"}}, r"truth\.outside\.bird"),
        ({"outside": {"bird": "partial"}}, r"truth\.outside\.bird"),
        ({"tunnels": {"one": "up and running"}}, r"truth\.tunnels\.one"),
        ({"cells": {"one bird": "circumvented"}}, r"truth\.cells\.one bird"),
    ],
)
def test_what_does_not_fit_is_refused(parts: dict[str, dict[str, str]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        truth(**parts)


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_truth_equals_itself() -> None:
    assert compare(PROFILE, judged(PROFILE)) == []
    assert say(PROFILE, judged(PROFILE), []).startswith("equals the truth table of ru_2023_08_vpn (120 of 120")
    assert all(one.is_exact for one in entries(PROFILE.truth, judged(PROFILE)))


@given(st.data())
def test_one_other_cell_is_one_difference(data: st.DataObject) -> None:
    judgement = judged(PROFILE)
    place = data.draw(st.integers(0, len(judgement.cells) - 1))
    cell = judgement.cells[place]
    other = data.draw(st.sampled_from([outcome for outcome in Outcome if outcome is not cell.outcome]))
    cells = (*judgement.cells[:place], replace(cell, outcome=other), *judgement.cells[place + 1 :])
    found = compare(PROFILE, replace(judgement, cells=cells))
    assert [(one.kind, one.where, str(one.expected), one.found, one.rule) for one in found] == [
        ("cell", f"{cell.tunnel} × {cell.platform}", cell.outcome, other, "rule")
    ]
    assert f"{cell.tunnel} × {cell.platform}: expected {cell.outcome}, found {other}" in say(PROFILE, judgement, found)


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


def test_another_state_of_an_optional_service_is_a_difference() -> None:
    profile = replace(PROFILE, truth=truth(services={"tube calls": "blocked stun.timeout"}))
    judgement = judged(profile)
    assert compare(profile, judgement) == []
    tube = judgement.outside[1]
    other = replace(tube, services=(replace(tube.services[0], state=State.OK, mechanism=None),))
    found = compare(profile, replace(judgement, outside=(judgement.outside[0], other, *judgement.outside[2:])))
    assert [str(one) for one in found] == ["outside × tube calls: expected blocked stun.timeout, found ok"]
    bare = replace(tube, services=())
    found = compare(profile, replace(judgement, outside=(judgement.outside[0], bare, *judgement.outside[2:])))
    assert [str(one) for one in found] == ["outside × tube calls: expected blocked stun.timeout, found nothing"]


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
    assert [(one.where, one.found) for one in found] == [("wireguard × twitter", None)]


def test_a_tunnel_that_the_truth_does_not_know_is_a_difference() -> None:
    judgement = judged(PROFILE)
    stranger = TunnelVerdict("stranger", "up", None, "rule", ())
    found = compare(PROFILE, replace(judgement, tunnels=(*judgement.tunnels, stranger)))
    assert [str(one) for one in found] == ["stranger: expected nothing, found up"]


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
    assert len(compare(PROFILE, Judgement((), (), ()))) > 120
    found = compare(PROFILE, Judgement((), (), (), local_outage=("o1",)))
    assert [str(one) for one in found] == ["the line: expected alive, found dead"]


def test_a_dead_line_is_true_where_it_should_be_dead() -> None:
    assert compare(DEAD, Judgement((), (), (), local_outage=("o1",))) == []
    assert say(DEAD, Judgement((), (), (), local_outage=("o1",)), []).endswith("(its line is dead)")
    found = compare(DEAD, judged(PROFILE))
    assert [str(one) for one in found] == ["the line: expected dead, found alive"]


def test_a_carrier_that_is_missing_changes_its_own_row_alone() -> None:
    truth = without_carrier(PROFILE.truth, "vless-reality")
    assert str(truth.tunnels["vless-reality"]) == "none unsupported"
    assert truth.tunnels["vless-reality"].mechanism == "unsupported"
    changed = {key for key, cell in truth.cells.items() if cell != PROFILE.truth.cells[key]}
    assert {tunnel for tunnel, _ in changed} == {"vless-reality"}
    assert all(str(truth.cells[key]) == "tunnel-down" for key in changed)
    assert len(changed) == 10
    assert without_carrier(truth, "none such") == truth
