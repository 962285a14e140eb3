"""What differs from the truth is counted by how bad it is; and runs are real, side by side, and end when they must."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from schemas import fits

from vpntest.judge.verdict import Cell, Judgement, Outcome, PlatformVerdict, ServiceVerdict, State, TunnelVerdict
from vpntest.lab.profiles import Profile, load, platform
from vpntest.lab.truth import Compared, Expected
from vpntest.lab.verify import (
    Run,
    Verification,
    count,
    is_slow,
    judgement_of,
    kind_of,
    render,
    run_of,
    untried_here,
)
from vpntest.plan.model import Kind
from vpntest.probe.observation import Record, RunFacts, TunnelFacts, VantageFacts
from vpntest.report.document import encode

PROFILE = load("ru_2024_youtube")
DEAD = load("captive")
TRUTHS = {PROFILE.id: PROFILE.truth, DEAD.id: DEAD.truth}
ENTRIES = 4 + 2 + 4 + 16
"""States, the optional services of Facebook and YouTube, tunnels, cells."""


def judged(profile: Profile) -> Judgement:
    """A judgement that says just what the profile's truth says."""
    truth = profile.truth
    verdicts = {
        of: PlatformVerdict(
            "outside",
            of,
            State(state.word),
            state.mechanism,
            "rule.outside",
            (),
            services=tuple(
                ServiceVerdict(service, State(said.word), said.mechanism, "rule.service", ())
                for (one, service), said in truth.services.items()
                if one == of
            ),
        )
        for of, state in truth.outside.items()
    }
    return Judgement(
        tuple(verdicts.values()),
        tuple(
            TunnelVerdict(name, stage.word, stage.mechanism, "rule.tunnel", ()) for name, stage in truth.tunnels.items()
        ),
        tuple(
            Cell(tunnel, of, Outcome(cell.word), "rule.cell", verdicts[of], None)
            for (tunnel, of), cell in truth.cells.items()
        ),
    )


TRUE = judged(PROFILE)


def counted(judgement: Judgement | None, fault: str | None = None) -> Verification:
    return count([Run(PROFILE.id, 1, 2.0, judgement, fault)], TRUTHS)


def otherwise(outcome: Outcome, of: str = "youtube") -> Judgement:
    """The truth, but for one cell of the first tunnel."""
    cells = [replace(one, outcome=outcome) if one is _cell(of) else one for one in TRUE.cells]
    return replace(TRUE, cells=tuple(cells))


def _cell(of: str) -> Cell:
    return next(one for one in TRUE.cells if one.platform == of)


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_truth_is_all_on_the_diagonal() -> None:
    done = counted(TRUE)
    assert msgspec.structs.asdict(done.summary) == {
        **{"profiles": 1, "runs_wanted": 1, "runs": 1, "cells": ENTRIES, "exact": ENTRIES},
        **{"insufficient": 0, "wrong": 0, "wrong_circumvents": 0, "wrong_open": 0},
    }
    assert done.cells == ()
    assert done.passes
    assert done.confusion == {
        "states": {"blocked": {"blocked": 1}, "down": {"down": 1}, "ok": {"ok": 3}, "throttled": {"throttled": 1}},
        "mechanisms": {
            "quic.timeout.sni": {"quic.timeout.sni": 1},
            "tcp.refused": {"tcp.refused": 1},
            "throttle.sni": {"throttle.sni": 1},
        },
        "stages": {"up": {"up": 4}},
        "outcomes": {"circumvents": {"circumvents": 4}, "open": {"open": 8}, "platform-down": {"platform-down": 4}},
    }


@pytest.mark.parametrize(
    ("outcome", "of", "kind"),
    [
        (Outcome.INSUFFICIENT, "youtube", "insufficient"),
        (Outcome.BLOCKED, "youtube", "wrong"),
        (Outcome.OPEN, "youtube", "wrong_open"),
        (Outcome.CIRCUMVENTS, "twitter", "wrong_circumvents"),
        (Outcome.OPEN, "downer", "wrong_open"),
        (Outcome.CIRCUMVENTS, "downer", "wrong_circumvents"),
    ],
)
def test_a_cell_is_counted_by_how_bad_it_is(outcome: Outcome, of: str, kind: str) -> None:
    done = counted(otherwise(outcome, of))
    (found,) = done.cells
    assert msgspec.structs.asdict(found) == {
        **{"profile": PROFILE.id, "repeat": 1, "where": f"wireguard × {of}"},
        **{"expected": _cell(of).outcome.value, "found": outcome.value, "kind": kind, "rule": "rule.cell"},
    }
    assert done.summary.exact == ENTRIES - 1
    assert done.summary.insufficient == (kind == "insufficient")
    assert done.summary.wrong == (kind != "insufficient")
    assert done.summary.wrong_open == (kind == "wrong_open")
    assert done.summary.wrong_circumvents == (kind == "wrong_circumvents")
    assert done.confusion["outcomes"][_cell(of).outcome][outcome] == 1
    assert not done.passes


@pytest.mark.parametrize(
    ("kind", "expected", "found", "said"),
    [
        ("outside", "blocked tls.mitm", "ok", "wrong_open"),
        ("outside", "blocked tls.mitm", "insufficient", "insufficient"),
        ("outside", "blocked tls.reset.sni", "blocked tls.reset", "wrong"),
        ("outside", "ok", "blocked tcp.timeout", "wrong"),
        ("service", "blocked quic.timeout", "ok", "wrong_open"),
        ("tunnel", "up", "data unmeasured", "insufficient"),
        ("tunnel", "up", "data data.stall", "wrong"),
        ("tunnel", "data data.stall", "up", "wrong"),
        ("cell", "insufficient", "circumvents", "wrong_circumvents"),
        ("line", "dead", "alive", "wrong"),
        ("tunnel", "up | data data.stall", "data data.stall", None),
        ("outside", "insufficient", "insufficient", None),
    ],
)
def test_each_kind_of_entry_has_its_own_errors(kind: Any, expected: str, found: str, said: str | None) -> None:
    assert kind_of(Compared(kind, "somewhere", Expected(tuple(expected.split(" | "))), found)) == said


def test_what_was_never_judged_is_wrong() -> None:
    done = counted(replace(TRUE, cells=TRUE.cells[1:]))
    assert [(one.where, one.found, one.kind) for one in done.cells] == [("wireguard × twitter", "nothing", "wrong")]


def test_a_run_that_crashed_has_all_entries_wrong_and_its_last_word_is_kept() -> None:
    done = counted(None, "the sky fell")
    assert (done.summary.cells, done.summary.wrong, done.summary.exact) == (ENTRIES, ENTRIES, 0)
    assert [(fault.profile, fault.repeat, fault.said) for fault in done.faults] == [(PROFILE.id, 1, "the sky fell")]
    assert len(done.cells) == ENTRIES
    assert "run 1 of ru_2024_youtube gave no judgement: the sky fell" in render(done)
    assert "what differs" not in render(done)


def test_a_dead_line_is_one_entry() -> None:
    dead = Judgement((), (), (), local_outage=("o1",))
    done = count([Run(DEAD.id, 1, 1.0, dead)], TRUTHS)
    assert (done.summary.cells, done.summary.exact) == (1, 1)
    assert done.confusion["states"] == {"line dead": {"line dead": 1}}
    alive = count([Run(DEAD.id, 1, 1.0, TRUE)], TRUTHS)
    assert (alive.summary.cells, alive.summary.wrong) == (1, 1)
    crashed = count([Run(DEAD.id, 1, 1.0, None, "no")], TRUTHS)
    assert (crashed.summary.cells, crashed.summary.wrong) == (1, 1)


def test_a_line_that_is_dead_and_should_not_be_makes_all_wrong() -> None:
    done = counted(Judgement((), (), (), local_outage=("o1",)))
    assert (done.summary.cells, done.summary.wrong) == (ENTRIES + 1, ENTRIES + 1)


def test_where_several_are_right_the_one_that_was_found_was_expected() -> None:
    truth = replace(PROFILE.truth, tunnels=PROFILE.truth.tunnels | {"wireguard": Expected(("data died", "up"))})
    done = count([Run(PROFILE.id, 1, 1.0, TRUE)], {PROFILE.id: truth})
    assert done.confusion["stages"] == {"up": {"up": 4}}


def test_repeats_add_up_and_few_insufficient_ones_pass() -> None:
    thin = otherwise(Outcome.INSUFFICIENT)
    runs = [Run(PROFILE.id, number, 10.0 + number, TRUE if number > 1 else thin) for number in range(1, 6)]
    done = count(runs, TRUTHS)
    assert (done.summary.profiles, done.summary.runs, done.summary.cells) == (1, 5, 5 * ENTRIES)
    assert done.summary.insufficient == 1
    assert done.passes
    assert done.seconds == {PROFILE.id: 13.0}
    assert not count(runs[:3], TRUTHS).passes
    assert not count([], TRUTHS).passes


def test_what_was_interrupted_is_not_whole() -> None:
    done = count([Run(PROFILE.id, 1, 2.0, TRUE)], TRUTHS, wanted=3)
    assert (done.summary.runs, done.summary.runs_wanted, done.passes) == (1, 3, False)
    assert "only 1 of 3 runs were counted" in render(done)
    assert "runs were counted" not in render(counted(TRUE))


def unmeasured(rule: str, outcome: Outcome | None = None) -> Judgement:
    """The truth, but that the speed behind one cell is not known."""
    first = _cell("youtube")
    cells = [replace(one, rule=rule, outcome=outcome or one.outcome) if one is first else one for one in TRUE.cells]
    return replace(TRUE, cells=tuple(cells))


@pytest.mark.parametrize("rule", ["cell.open.speed-unknown", "cell.circumvents.speed-unknown"])
def test_a_cell_whose_speed_is_not_known_is_not_exact(rule: str) -> None:
    done = counted(unmeasured(rule))
    assert (done.summary.insufficient, done.summary.wrong, done.summary.exact) == (1, 0, ENTRIES - 1)
    assert [(one.found, one.kind, one.rule) for one in done.cells] == [
        ("circumvents speed-unknown", "insufficient", rule)
    ]
    assert done.confusion["outcomes"]["circumvents"]["circumvents speed-unknown"] == 1
    # A wrong one is no less wrong for it.
    assert counted(unmeasured(rule, Outcome.OPEN)).summary.wrong_open == 1


def test_on_a_slow_line_no_speed_can_be_known() -> None:
    kept = [Run(PROFILE.id, 1, 2.0, unmeasured("cell.open.speed-unknown"))]
    assert count(kept, TRUTHS, slow=[PROFILE.id]).summary.exact == ENTRIES
    assert [name for name in ("slow_line", "open", "ru_2024_youtube") if is_slow(load(name))] == ["slow_line"]


def test_profiles_whose_block_this_machine_cannot_meet_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = [load("ru_2026_siberian"), load("cn_gfw"), load("open")]
    monkeypatch.setattr("vpntest.lab.vpn.speaks_reality", lambda: False)
    assert untried_here(profiles) == ("ru_2026_siberian",)
    done = count([Run(PROFILE.id, 1, 2.0, TRUE)], TRUTHS, untried=("ru_2026_siberian",))
    assert "cannot carry the only tunnel that is blocked in: ru_2026_siberian" in render(done)
    monkeypatch.setattr("vpntest.lab.vpn.speaks_reality", lambda: True)
    assert untried_here(profiles) == ()


def test_tables_say_what_was_expected_and_found() -> None:
    said = render(counted(otherwise(Outcome.OPEN)))
    assert "wireguard × youtube  circumvents  open     wrong_open" in said
    assert [line.split() for line in said.splitlines() if line.startswith("circumvents")] == [
        ["circumvents", "3", "1", "×", "open"]
    ]
    assert said.endswith(
        "1 profiles, 1 runs, 26 entries: 25 exact (96.15%), 0 insufficient, 1 wrong "
        "(0 wrong circumvents, 1 wrong open)\n"
    )


def test_the_json_says_all_of_it_under_its_schema() -> None:
    plain = fits(msgspec.json.encode(counted(otherwise(Outcome.OPEN))))
    assert list(plain) == ["schema", "summary", "confusion", "cells", "faults", "seconds", "untried"]
    assert plain["schema"] == "vpntest.verify/1"
    assert list(plain["cells"][0]) == ["profile", "repeat", "where", "expected", "found", "kind", "rule"]


def test_a_judgement_survives_its_document() -> None:
    facts = RunFacts("run", "2026-01-01T00:00:00Z", "0", 3, 1.0, VantageFacts())
    tunnels = tuple(TunnelFacts(name, Kind.UNKNOWN, "made by hand") for name in PROFILE.tunnels)
    record = Record(facts, tunnels, tuple(platform(one) for one in PROFILE.platforms), ())
    assert judgement_of(encode(record, TRUE)) == TRUE
    dead = Judgement((), (), (), local_outage=("o1",))
    assert judgement_of(encode(record, dead)) == dead
    assert judgement_of(b"") is None
    assert judgement_of(b"{}") is None


def test_a_demo_that_could_not_measure_judged_nothing() -> None:
    facts = RunFacts("run", "2026-01-01T00:00:00Z", "0", 3, 1.0, VantageFacts())
    record = Record(facts, (), tuple(platform(one) for one in PROFILE.platforms), ())
    complaints = b"vpntest: a warning\nvpntest: the lab's inspector on censor ended: without a word\n"
    for status, judgement in ((0, TRUE), (1, TRUE), (4, Judgement((), (), (), local_outage=("o1",)))):
        done = run_of("p", 1, 2.0, status, encode(record, judgement), complaints)
        assert done.judgement is not None
        assert done.fault is None
    for status, said in ((4, encode(record, TRUE)), (4, b""), (3, encode(record, TRUE)), (130, encode(record, TRUE))):
        done = run_of("p", 1, 2.0, status, said, complaints)
        assert done.judgement is None
        assert done.fault == "vpntest: the lab's inspector on censor ended: without a word"
    assert run_of("p", 1, 2.0, 4, b"", b"").fault == "exit status 4"


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def verify(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vpntest", "lab", "verify", "--format", "json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.root
def test_two_real_profiles_side_by_side(tmp_path: Path) -> None:
    """A control with platforms that are down, and one whose line is dead."""
    kept = tmp_path / "verify.json"
    process = verify("outage", "wrong_clock", "--jobs", "2", "-o", str(kept))
    _, complaints = process.communicate(timeout=400)
    found = json.loads(kept.read_text())
    assert process.returncode == 0, (complaints, found["cells"], found["faults"])
    assert found["summary"] == {
        **{"profiles": 2, "runs_wanted": 2, "runs": 2, "cells": 26 + 1, "exact": 27},
        **{"insufficient": 0, "wrong": 0, "wrong_circumvents": 0, "wrong_open": 0},
    }
    assert set(found["seconds"]) == {"outage", "wrong_clock"}


@pytest.mark.root
def test_ctrl_c_ends_the_runs_and_keeps_the_count() -> None:
    process = verify("open", "--repeat", "3", "--jobs", "2")
    until = time.monotonic() + 60
    while len(_children(process.pid)) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    runs = _children(process.pid)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert "0 of 3 runs were counted" in complaints
    assert (json.loads(said)["summary"]["runs"], json.loads(said)["summary"]["runs_wanted"]) == (0, 3)
    assert not [pid for pid in runs if os.path.exists(f"/proc/{pid}")]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
