"""A night held against those before it: as `run` does it, and by the commands that read what is kept."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from nights import document, identity, night, series
from schemas import fits
from story import story

from vpntest.cli import main
from vpntest.errors import UsageError
from vpntest.history.changes import Condition
from vpntest.history.night import Night
from vpntest.history.store import Store
from vpntest.history.telling import sentence
from vpntest.history.watch import Watch
from vpntest.judge.judging import judge
from vpntest.report.document import encode

OK, CUT, DARK = "circumvents 3/3", "blocked tls.reset.sni 3/3", "dark"
Command = Callable[..., subprocess.CompletedProcess[str]]


class Words(StringIO):
    """What a command writes where more than ASCII can be shown."""

    encoding = "utf-8"


def encoded(one: Night) -> bytes:
    return msgspec.json.encode(document(one))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture
def vpntest(path: Path) -> Command:
    """A command on these runs."""

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = [*map(str, arguments), "--db", str(path)]
        with redirect_stdout(Words()) as out, redirect_stderr(StringIO()) as err:
            try:
                status = main(words)
            except SystemExit as left:  # argparse's way to end
                status = int(left.code or 0)
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    return call


def keep(path: Path, nights: list[Night]) -> None:
    with Store(path, create=True) as store:
        for one in nights:
            store.keep(encoded(one))


def nightly(path: Path, one: Night, condition: Condition = Condition.REGRESSION, *, told: bool = True) -> list[str]:
    """What a run with `--fail-on` says; unless it was told, its exit status was another one's."""
    watch = Watch(path, [condition], None)
    holding, _ = watch.keep(encoded(one))
    if told:
        watch.tell()
    return [sentence(what) for what in holding.get(condition, ())]


# ── a month ──────────────────────────────────────────────────────────────────────────────────────────────────────────

DAYS = range(1, 31)
BLOCK, DEAD, RESTART, THIN, BLIP = 12, 20, 16, 8, 25
FLAPPING = "++-+--+-++-+-+--+-+-+--+-++-+-"
"""Of `fr` × `book`, night by night: there and back as it likes."""
FLAPPING_AFTER_A_WEEK = "+++++++-++-+-+--+-+-+--+-++-+-"
"""Of `no` × `book`, with three tries of three each night."""


def cells(day: int) -> dict[tuple[str, str], str]:
    """Each cell's word on this day. On the day of the restart all that goes through `no` is unknown."""
    return {
        ("outside", "bird"): "blocked dns.bogon 3/3",
        ("outside", "book"): "ok 3/3",
        ("se", "bird"): CUT if day >= BLOCK else OK,
        ("se", "book"): "insufficient 1/3" if day == THIN else "open 3/3",
        ("fr", "book"): "open 2/3" if FLAPPING[day - 1] == "+" else "breaks tcp.timeout 2/3",
        ("fr", "bird"): CUT if day == BLIP else OK,
        ("no", "bird"): "tunnel-down" if day == RESTART else OK,
        ("no", "book"): "tunnel-down"
        if day == RESTART
        else "open 3/3"
        if FLAPPING_AFTER_A_WEEK[day - 1] == "+"
        else "breaks tcp.timeout 3/3",
    }


def month() -> list[Night]:
    """30 nights: a block from the 12th on, two flapping cells, one of which was steady for a week, a cell that is
    blocked for one night, a server that restarts, a line that is dead on the 20th."""
    down = {"no": "endpoint handshake.timeout"}
    return [
        night(day, tunnels={"se": "up", "fr": "up", "no": "up"}, line_rule="line.dead")
        if day == DEAD
        else night(day, cells(day), down if day == RESTART else None)
        for day in DAYS
    ]


TRUTH = {13}
"""The days on which a regression is news, by the definition's words. `se` × `bird` is blocked from the 12th on: on the
13th, that is two of the last three nights. What flaps is no news, one night alone is none, and a dead line tells
nothing."""


def test_each_night_of_a_month_as_run_keeps_it(path: Path) -> None:
    rang: dict[int, list[str]] = {}
    for day, one in zip(DAYS, month(), strict=True):
        if rings := nightly(path, one):
            rang[day] = rings
    assert set(rang) == TRUTH
    assert rang == {
        13: ["regression: bird through se: circumvents → blocked (tls.reset.sni) [2 of the last 3 nights]"],
    }


def test_each_night_of_a_month_as_diff_tells_it(path: Path, vpntest: Command) -> None:
    keep(path, month())
    statuses = {}
    for day in DAYS[1:]:
        done = vpntest("diff", identity(day - 1), identity(day), "--fail-on", "regression")
        statuses[day] = done.returncode
        news = done.stdout.partition("News")[2].partition("\n\n")[0]
        assert not any(one in news for one in ("book through", "bird through fr", "tunnel no"))
        if day == RESTART:
            assert "Not confirmed" in done.stdout
            assert "tunnel no: up → endpoint (handshake.timeout)" in done.stdout
    assert {day for day, status in statuses.items() if status == 1} == TRUTH
    # On the night of the dead line nothing can be said, and that is no success.
    assert {day for day, status in statuses.items() if status not in (0, 1)} == {DEAD}
    assert statuses[DEAD] == 4


def test_a_block_that_is_undone_and_done_again_soon_is_told_as_flapping(path: Path, vpntest: Command) -> None:
    keep(path, series(*[OK] * 4, CUT, OK, CUT))
    done = vpntest("diff", "--fail-on", "regression")
    assert done.returncode == 0
    assert "Flapping" in done.stdout


# ── what run asks ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_database_nothing_is_kept_and_a_baseline_serves(tmp_path: Path, path: Path) -> None:
    (tmp_path / "base.json").write_bytes(encoded(series(OK)[0]))
    after = series(OK, CUT)[1]
    holding, compared = Watch(None, [Condition.ANY_CHANGE, Condition.BLOCKED], str(tmp_path / "base.json")).keep(
        encoded(after)
    )
    assert (set(holding), compared) == ({Condition.ANY_CHANGE, Condition.BLOCKED}, True)
    assert not path.exists()
    assert Watch(None, [], None).keep(encoded(after)) == ({}, False)


def test_a_baseline_rings_for_as_long_as_it_differs(path: Path) -> None:
    keep(path, series(OK, CUT, CUT, CUT))
    again = night(5, {("se", "bird"): CUT})
    holding, _ = Watch(path, [Condition.REGRESSION], identity(1)).keep(encoded(again))
    assert set(holding) == {Condition.REGRESSION}
    assert Watch(path, [Condition.REGRESSION], None).keep(encoded(night(6, {("se", "bird"): CUT}))) == ({}, True)


def test_what_stands_against_it_is_said_before_anything_is_measured(path: Path) -> None:
    with pytest.raises(UsageError, match="needs --db or --baseline"):
        Watch(None, [Condition.REGRESSION], None)
    with pytest.raises(UsageError, match="is no file, and no run is kept"):
        Watch(None, [], "nowhere.json")
    with pytest.raises(UsageError, match="neither a file nor a run"):
        Watch(path, [], "nowhere.json")


def test_nothing_uses_a_ring_up_but_the_exit_status_that_tells_it(path: Path) -> None:
    nights = series(*[OK] * 3, *[CUT] * 5)
    assert not any([nightly(path, one) for one in nights[:4]])
    # A run by hand confirms it, and asks nothing.
    Watch(path, [Condition.BLOCKED], None).keep(encoded(nights[4]))
    # A night finds it, and is interrupted, or ends with a fault of vpntest.
    assert len(nightly(path, nights[5], told=False)) == 1
    assert len(nightly(path, nights[6])) == 1
    assert nightly(path, nights[7]) == []


def test_where_no_night_has_told_yet_it_is_held_against_what_was_before(path: Path) -> None:
    nights = series(OK, CUT, CUT, CUT, CUT)
    keep(path, nights[:1])
    assert nightly(path, nights[1], told=False) == []
    keep(path, nights[2:3])
    assert len(nightly(path, nights[3], told=False)) == 1
    # Each condition has its own.
    assert nightly(path, night(5, {("se", "bird"): CUT}), Condition.RECOVERY) == []
    assert len(nightly(path, night(6, {("se", "bird"): CUT}))) == 1
    assert nightly(path, night(7, {("se", "bird"): CUT})) == []


def test_the_first_night_of_all_tells_even_if_it_was_cut_short(path: Path) -> None:
    nights = series(OK, CUT, CUT, CUT)
    assert nightly(path, nights[0], told=False) == []
    assert nightly(path, nights[1], told=False) == []
    assert len(nightly(path, nights[2])) == 1
    assert nightly(path, nights[3]) == []


def test_a_run_of_one_tunnel_by_hand_rings_for_no_other(path: Path) -> None:
    whole = {("se", "bird"): OK, ("no", "bird"): OK}
    assert nightly(path, night(1, whole), Condition.ANY_CHANGE) == []
    part = msgspec.structs.replace(night(2, {("se", "bird"): OK}), partial=True)
    assert nightly(path, part, Condition.ANY_CHANGE) == []
    blocked = whole | {("no", "bird"): CUT}
    assert nightly(path, night(3, blocked)) == []
    keep(path, [night(4, blocked)])
    # Nor has it told what it did not look at.
    assert nightly(path, msgspec.structs.replace(night(5, {("se", "bird"): OK}), partial=True)) == []
    assert len(nightly(path, night(6, blocked))) == 1


def test_a_night_that_says_nothing_of_a_cell_uses_up_no_ring_of_it(path: Path) -> None:
    nights = series(OK, CUT, CUT, "insufficient 1/3", CUT, CUT)
    assert not any([nightly(path, one) for one in nights[:2]])
    keep(path, nights[2:3])
    assert nightly(path, nights[3]) == []
    assert len(nightly(path, nights[4])) == 1
    assert nightly(path, nights[5]) == []


def test_nor_does_a_run_of_another_plan(path: Path) -> None:
    nights = series(OK, CUT, CUT)
    assert not any([nightly(path, one) for one in nights[:2]])
    keep(path, nights[2:])
    assert nightly(path, night(4, {("other", "bird"): OK})) == []
    assert len(nightly(path, night(5, {("se", "bird"): CUT}))) == 1


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_files_are_compared_without_a_database(tmp_path: Path, path: Path) -> None:
    for name, one in zip(("a.json", "b.json"), series(OK, CUT), strict=True):
        (tmp_path / name).write_bytes(encoded(one))
    with redirect_stdout(Words()) as out:
        assert main(["diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--fail-on", "any-change"]) == 1
    assert "Not confirmed" in out.getvalue()


def test_machine_forms_fit_the_schema_that_they_name(path: Path, vpntest: Command) -> None:
    keep(path, series(OK, OK, OK, CUT))
    kept = fits(vpntest("history", "--format", "json").stdout)
    assert (kept["schema"], [run["id"] for run in kept["runs"]]) == (
        "vpntest.history/1",
        [identity(day) for day in (1, 2, 3, 4)],
    )
    found = fits(vpntest("diff", "--format", "json").stdout)
    assert (found["schema"], found["before"], found["after"]) == ("vpntest.diff/1", identity(3), identity(4))
    assert found["changes"][0]["kind"] == "regression"
    assert (found["k"], found["n"], found["accepted"], found["fail_on"]) == (2, 3, False, [])
    blocked = {"platform": "bird", "word": "blocked", "mechanism": "tls.reset.sni"}
    conditions = ("--fail-on", "blocked", "--fail-on", "any-change", "--fail-on", "regression", "--fail-on", "blocked")
    asked = fits(vpntest("diff", "--baseline", "last~3", "--format", "json", *conditions).stdout)
    assert asked["accepted"]
    assert asked["fail_on"] == [{"condition": one, "tunnel": "se"} | blocked for one in ("blocked", "any-change")]
    plot = fits(vpntest("trend", "se", "bird", "--format", "json").stdout)
    assert (plot["schema"], [point["level"] for point in plot["strips"][0]["points"]]) == (
        "vpntest.trend/1",
        ["works", "works", "works", "fails"],
    )


def test_what_machines_read_is_utf_8_wherever_it_goes(path: Path, tmp_path: Path, vpntest: Command) -> None:
    keep(path, series(OK, CUT, place=("Швеция", "bird")))
    for words in (["history"], ["diff"], ["trend", "Швеция"]):
        for form in ("text", "json"):
            command = [*words, "--format", form, "--db", str(path)]
            process = subprocess.run(
                [sys.executable, "-m", "vpntest", *command],
                capture_output=True,
                check=False,
                env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
            )
            assert (process.returncode, process.stderr) == (0, b""), words
            file = tmp_path / "result"
            assert vpntest(*words, "--format", form, "-o", file).stdout == ""
            if form == "json":
                assert process.stdout == file.read_bytes()
                assert fits(process.stdout)["schema"] == f"vpntest.{words[0]}/1"
            else:
                assert process.stdout.isascii()
                assert ("Швеция" in file.read_text(encoding="utf-8")) == (words != ["history"])


def test_what_diff_has_found_does_not_depend_on_who_reads_it(path: Path) -> None:
    keep(path, series(OK, CUT))
    with open("/dev/full", "w") as full_disk:
        process = subprocess.run(
            [sys.executable, "-m", "vpntest", "diff", "--fail-on", "any-change", "--db", str(path)],
            stdout=full_disk,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert process.returncode == 1
    assert [line[:24] for line in process.stderr.splitlines()] == [
        "vpntest: --fail-on any-c",
        "vpntest: the result: can",
    ]


def test_people_get_text(path: Path, vpntest: Command) -> None:
    keep(path, series(OK, CUT))
    assert "last~1" in vpntest("history").stdout
    assert "se × bird: 2 nights" in vpntest("trend", "se", "bird").stdout
    done = vpntest("prune", "--keep", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "vpntest: 1 run forgotten\n")
    assert vpntest("diff").returncode == 2
    assert vpntest("prune", "--older", "99999999999").stderr == "vpntest: 0 runs forgotten\n"
    assert vpntest("prune", "--older", "1").stderr == "vpntest: 1 run forgotten\n"
    assert vpntest("history").stdout == "no runs are kept\n"
    keep(path, series(OK, CUT))
    assert vpntest("prune", "--all").stderr == "vpntest: 2 runs forgotten\n"
    assert vpntest("history").stdout == "no runs are kept\n"


def test_other_commands_read_kept_runs_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    record = story()
    with Store(tmp_path / "runs.sqlite", create=True) as store:
        store.keep(encode(record, judge(record)))
    with redirect_stdout(Words()) as out, redirect_stderr(StringIO()) as err:
        assert main(["judge", "last"]) == 0
        for words in (["judge", "last"], ["report", "last"], ["explain", "last", "se"]):
            assert main([*words, "--db", str(tmp_path / "runs.sqlite")]) == 0
            assert main([*words, "--db", str(tmp_path / "none.sqlite")]) == 2
        assert main(["judge", "last~1"]) == 2
        assert main(["judge", "nowhere.json"]) == 2
    assert "facebook" in out.getvalue()
    assert "keeps only 1 run" in err.getvalue()
    assert "nowhere.json: cannot be read" in err.getvalue()


def test_slips_get_one_line_and_exit_2(path: Path, vpntest: Command) -> None:
    assert vpntest("history").returncode == 2
    keep(path, series(OK, CUT))
    for words in (
        ["prune"],
        ["prune", "--keep", "0"],
        ["prune", "--keep", "1", "--all"],
        ["diff", "last", "last~1"],
        ["diff", "nowhere.json"],
        ["diff", "last~1", "last", "--baseline", "last~1"],
        ["diff", "--fail-on", "rain"],
        ["trend", "no"],
    ):
        done = vpntest(*words)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), words
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    done = vpntest("history")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "newer vpntest" in done.stderr


def test_a_word_of_a_newer_vpntest_says_nothing(path: Path, vpntest: Command) -> None:
    keep(path, series(OK, OK, OK))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE cell SET outcome = 'hijacked' WHERE run = 2")
    database.close()
    assert "? hijacked" in vpntest("trend", "se", "bird").stdout
    for condition in Condition:
        done = vpntest("diff", "last~2", "last~1", "--fail-on", condition.value)
        assert (done.returncode, done.stderr) == (0, ""), condition


def test_the_conditions_of_the_command_line_are_those_there_are(vpntest: Command, path: Path) -> None:
    keep(path, series(OK, OK))
    for condition in Condition:
        assert vpntest("diff", "--fail-on", condition.value).returncode == 0
