"""Kept runs outlive what befalls a machine: a killed process, a full disk, another version, two at once."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from nights import began, document, identity, night, series
from story import story

from vpntest.errors import HistoryError, UsageError
from vpntest.history import store as module
from vpntest.history.night import Night
from vpntest.history.store import Store, default_path, is_name, obstacle
from vpntest.judge.judging import judge
from vpntest.report.document import encode

OK, CUT = "circumvents", "blocked tls.reset.sni"
TESTS = Path(__file__).resolve().parent.parent


def encoded(one: Night) -> bytes:
    return msgspec.json.encode(document(one))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "runs.sqlite"


def filled(path: Path, nights: list[Night]) -> Path:
    with Store(path, create=True) as store:
        for one in nights:
            store.keep(encoded(one))
    return path


def script(code: str, *arguments: str | Path) -> list[str]:
    """The command of a process that keeps runs by itself: `path` is its first argument, `one(number)` is a run."""
    head = (
        "import sys, msgspec; from pathlib import Path\n"
        f"sys.path[:0] = [{str(TESTS / 'support')!r}, {str(TESTS.parent)!r}]\n"
        "from nights import document, night, identity; from vpntest.history.store import Store\n"
        "path = Path(sys.argv[1])\n"
        "def one(number):\n"
        "    made = night(1, {('se', f'p{cell}'): 'blocked tls.reset.sni' for cell in range(200)})\n"
        "    return msgspec.json.encode(document(msgspec.structs.replace(made, id=identity(number))))\n"
    )
    return [sys.executable, "-c", head + code, *map(str, arguments)]


def child(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(script(code, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_whole(path: Path) -> bool:
    with sqlite3.connect(path) as database:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# ── keeping and reading ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_comes_back_byte_for_byte_and_its_night_too(path: Path) -> None:
    record = story()
    whole = encode(record, judge(record))
    with Store(path, create=True) as store:
        kept = store.keep(whole)
        assert store.document("last") == whole
        assert store.nights() == (kept,)
    with Store(path) as store:
        assert store.nights() == (kept,)


def test_the_file_is_its_owners_alone(path: Path) -> None:
    with Store(path, create=True) as store:
        store.keep(encoded(night(1)))
        files = list(path.parent.iterdir())
        assert len(files) == 3
        assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_run_that_is_kept_already_stays_as_it_is(path: Path) -> None:
    filled(path, [night(1, {("se", "bird"): OK}), night(1, {("se", "bird"): CUT})])
    with Store(path) as store:
        (one,) = store.nights()
    assert one.cells[0].outcome == OK


def test_runs_stand_in_the_order_of_their_beginning(path: Path) -> None:
    filled(path, [night(3), night(1), night(2)])
    with Store(path) as store:
        assert [one.id for one in store.nights()] == [identity(day) for day in (1, 2, 3)]
        assert [one.id for one in store.nights(newest=2)] == [identity(day) for day in (2, 3)]
        assert [one.id for one in store.nights(before=night(3), newest=1)] == [identity(2)]
        assert [one.id for one in store.lines()] == [identity(day) for day in (1, 2, 3)]


def test_the_list_counts_what_is_in_a_run(path: Path) -> None:
    cells = {("outside", "bird"): "blocked dns.bogon", ("se", "bird"): OK, ("no", "bird"): "tunnel-down"}
    filled(path, [night(1, cells, {"no": "endpoint handshake.timeout"})])
    with Store(path) as store:
        (line,) = store.lines()
    assert (line.tunnels, line.tunnels_up, line.platforms) == (2, 1, 1)
    assert line.cells == {"circumvents": 1, "tunnel-down": 1}
    assert 0 < line.bytes < 2000


def test_what_is_no_run_is_not_kept(path: Path) -> None:
    with Store(path, create=True) as store:
        for bad in (b"", b"{}", b'{"schema": "vpntest.run/2"}', b"[" * 5000):
            with pytest.raises(UsageError, match="not a kept run"):
                store.keep(bad)
        assert store.lines() == ()


def test_names_of_runs(path: Path) -> None:
    filled(path, [night(day) for day in (1, 2, 3)])
    with Store(path) as store:
        assert [store.find(name) for name in ("last", "last~0", "last~2")] == [identity(3), identity(3), identity(1)]
        assert store.find(identity(2)) == identity(2)
        assert store.find(identity(2)[:14].upper()) == identity(2)
        for name, why in {
            "last~3": "keeps only 3 runs",
            "last~x": "say last",
            "lasting": "neither a file nor a run",
            "01a1": "3 runs begin so",
            "01a": "neither",
            "last~-1": "say last",
        }.items():
            with pytest.raises(UsageError, match=why):
                store.find(name)


def test_what_can_be_a_runs_name() -> None:
    assert all(map(is_name, ("last", "last~3", identity(1), identity(1)[:4])))
    assert not any(map(is_name, ("run.json", "01a", "tonight", "", "beefy")))


def test_where_runs_are_kept() -> None:
    assert default_path({"STATE_DIRECTORY": "/var/lib/a:/b", "XDG_STATE_HOME": "/x"}, root=True) == Path(
        "/var/lib/a/runs.sqlite"
    )
    assert default_path({"XDG_STATE_HOME": "/x", "HOME": "/h"}, root=True) == Path("/x/vpntest/runs.sqlite")
    assert default_path({"XDG_STATE_HOME": "x", "HOME": "/h"}, root=False) == Path(
        "/h/.local/state/vpntest/runs.sqlite"
    )
    assert default_path({"HOME": "/root"}, root=True) == Path("/var/lib/vpntest/runs.sqlite")


# ── forgetting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_forgetting_keeps_the_newest_and_gives_the_place_back(path: Path) -> None:
    many = {("se", f"platform{number}"): CUT for number in range(300)}
    filled(path, [night(day, many) for day in range(1, 13)])
    before = path.stat().st_size
    with Store(path) as store:
        assert store.prune(keep=3) == tuple(identity(day) for day in range(1, 10))
        assert [one.id for one in store.nights()] == [identity(day) for day in (10, 11, 12)]
        assert store.document("last~2") == encoded(night(10, many))
    assert path.stat().st_size < before / 2.5
    assert is_whole(path)


def test_forgetting_by_age(path: Path) -> None:
    filled(path, [night(day) for day in (1, 2, 3, 4)])
    with Store(path) as store:
        assert store.prune(older_than=began(3)) == (identity(1), identity(2))
        assert store.prune(older_than=began(4), keep=1) == (identity(3),)
        assert store.prune(keep=5) == ()


def test_what_is_forgotten_is_not_in_the_file(path: Path) -> None:
    filled(path, [night(day, {(f"secret-{day}", f"place{number}"): CUT for number in range(8)}) for day in (1, 2, 3)])
    with sqlite3.connect(path) as older:
        # As SQLite is unless it was built otherwise.
        older.execute("PRAGMA secure_delete = OFF")
        older.execute("DELETE FROM cell WHERE tunnel = 'secret-3' AND place % 2")
    older.close()
    with Store(path) as store:
        store._database.execute("PRAGMA secure_delete = OFF")
        store.prune(keep=1)
        assert [name in path.read_bytes() for name in (b"secret-1", b"secret-2", b"secret-3")] == [False, False, True]
        assert store.prune(keep=0) == (identity(3),)
        assert b"secret-" not in b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert store.prune(keep=0) == ()
        assert store.nights() == ()
    filled(path, [night(4)])
    assert is_whole(path)


# ── what befalls a machine ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.root
def test_a_process_that_is_killed_costs_no_run_that_was_kept(path: Path) -> None:
    kept = 0
    for _ in range(3):
        code = "with Store(path, create=True) as store:\n    for number in range(int(sys.argv[2]), 9999):\n"
        code += "        store.keep(one(number)); print(number, flush=True)\n"
        process = child(code, path, str(kept + 1))
        assert process.stdout
        for line in process.stdout:
            kept = int(line)
            if kept % 4 == 0:
                break
        time.sleep(0.001 * (kept % 7))  # amid the next one, wherever that is
        process.kill()
        # What it said before it died counts as well, also what was read ahead above.
        kept = max([kept, *map(int, process.stdout.read().split())])
        process.communicate()
        with Store(path) as store:
            ids = [one.id for one in store.nights()]
            assert ids[:kept] == [identity(number) for number in range(1, kept + 1)]
            assert len(ids) <= kept + 1
            kept = len(ids)
            for id in ids:
                assert b'"p199"' in store.document(id)
        assert is_whole(path)
    assert kept >= 12


@pytest.mark.root
def test_a_file_that_may_grow_no_more_keeps_what_it_has(path: Path) -> None:
    filled(path, series(OK, OK))
    code = (
        "import resource\n"
        "from vpntest.errors import HistoryError\n"
        "with Store(path, create=True) as store:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "    try:\n"
        "        for number in range(100, 999): store.keep(one(number))\n"
        "    except HistoryError as error: print(error.exit_code, len(store.lines()), error)\n"
    )
    said, fault = child(code, path).communicate(timeout=120)
    status, count, message = said.split(" ", 2)
    assert (status, fault) == ("4", "")
    assert "the runs kept there before are as they were" in message
    assert len(message.splitlines()) == 1
    with Store(path) as store:
        assert len(store.lines()) == int(count) > 2
        assert store.document(identity(1)) == encoded(series(OK)[0])
        store.keep(encoded(night(9)))
    assert is_whole(path)


@pytest.mark.root
def test_a_full_disk_keeps_what_it_has(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    code = (
        "from vpntest.errors import HistoryError\n"
        "others = path.with_name('others'); others.write_bytes(bytes(100_000))\n"
        "with Store(path, create=True) as store:\n"
        "    kept = [store.keep(one(number)) for number in range(3)]\n"
        "    try:\n"
        "        for number in range(100, 999): store.keep(one(number))\n"
        "    except HistoryError as error: print(error)\n"
        "with Store(path) as store:\n"
        "    lines = store.lines(); print(len(lines), all(store.document(one.id) for one in lines))\n"
        "    others.unlink(); store.prune(keep=3); store.keep(one(1000)); print(store.find('last') == identity(1000))\n"
    )
    mounting = 'mount -t tmpfs -o size=700k none "$0" && exec "$@"'
    # The mount is in a namespace of its own: it is gone with the process.
    command = ["unshare", "--mount", "sh", "-c", mounting, str(disk), *script(code, disk / "runs.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    message, counted, again = done.stdout.splitlines()
    assert "full" in message
    assert int(counted.split()[0]) > 3
    assert (counted.split()[1], again, done.stderr) == ("True", "True", "")


@pytest.mark.root
def test_two_at_once_lose_nothing(path: Path) -> None:
    code = "for number in range(int(sys.argv[2]), int(sys.argv[2]) + 12):\n"
    code += "    with Store(path, create=True) as store: store.keep(one(number))\n"
    processes = [child(code, path, str(first)) for first in (100, 200)]
    for process in processes:
        assert process.communicate(timeout=120) == ("", "")
    with Store(path) as store:
        assert len(store.lines()) == 24
    assert is_whole(path)


# ── other versions, other files ──────────────────────────────────────────────────────────────────────────────────────


def test_what_stands_against_keeping_runs_is_seen_and_the_look_leaves_no_trace(path: Path, tmp_path: Path) -> None:
    assert obstacle(path) is None
    assert not path.parent.exists()
    filled(path, [night(1)])

    def times() -> list[tuple[str, int]]:
        """The folder's own shows whether something was beside the file meanwhile."""
        return sorted((one.name, one.stat().st_mtime_ns) for one in (path.parent, *path.parent.iterdir()))

    before = times()
    assert obstacle(path) is None
    assert times() == before
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    assert obstacle(path) == "it was written by a newer vpntest"
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("PRAGMA application_id = 7")
    database.close()
    assert obstacle(other) == "it is another program's database"
    other.write_bytes(b"not SQLite at all")
    assert obstacle(other) == "it is no database of kept runs (file is not a database)"
    other.write_bytes(b"")
    assert obstacle(other) is None
    assert obstacle(other / "below" / "runs.sqlite") == f"{other} cannot be written"
    assert obstacle(tmp_path) == "it cannot be written"
    assert obstacle(Path("/run/vpntest/runs.sqlite")) == "/run does not outlive a restart"


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (a)")
    database.close()


def _garbage_behind(path: Path, kept: int) -> None:
    sound = filled(path, [night(1)]).read_bytes()
    path.write_bytes(sound[:kept].ljust(len(sound), b"x"))


@pytest.mark.parametrize(
    "spoil",
    [
        _foreign,
        lambda path: path.write_bytes(b"SQLite format 3\0"),
        lambda path: path.write_bytes(filled(path, [night(1)]).read_bytes()[:-4096]),
        lambda path: _garbage_behind(path, 100),
        lambda path: _garbage_behind(path, 4096),
        lambda path: path.symlink_to(path),
    ],
    ids=["another program's without a mark", "a stub", "cut off", "a head", "a first page", "a loop"],
)
def test_what_the_store_refuses_is_an_obstacle(path: Path, spoil: Callable[[Path], object]) -> None:
    path.parent.mkdir()
    spoil(path)
    told = obstacle(path)
    assert told is not None
    assert "\n" not in told
    for create in (False, True):
        with pytest.raises((UsageError, HistoryError)), Store(path, create=create) as store:
            store.lines()


def test_a_folder_that_is_closed_to_us_hides_what_is_in_it(path: Path) -> None:
    filled(path, [night(1)])
    path.parent.chmod(0)
    # Root is kept out of nothing.
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        assert not os.path.exists(path)
        told = obstacle(path)
    finally:
        os.seteuid(user)
        path.parent.chmod(0o700)
    assert told is None or told.endswith(" cannot be written")


def test_a_database_that_is_just_made_is_no_obstacle(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode = WAL")
    database.close()
    assert path.stat().st_size > 0
    assert obstacle(path) is None


def test_a_newer_file_is_refused_with_one_line_and_left_alone(path: Path) -> None:
    filled(path, [night(1)])
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = path.read_bytes()
    for create in (False, True):
        with pytest.raises(UsageError) as told, Store(path, create=create):
            pass
        assert "written by a newer vpntest (version 99" in str(told.value)
        assert "\n" not in str(told.value)
    assert path.read_bytes() == before


NOW = len(module.MIGRATIONS)
NEXT = ("ALTER TABLE run ADD COLUMN note TEXT", "UPDATE run SET note = 'kept by version 1'")


def test_a_file_of_the_first_version_is_read_and_written_on(path: Path) -> None:
    nights = series(OK, CUT, "dark")
    path.parent.mkdir()
    path.write_bytes(lzma.decompress((TESTS / "history/version1.sqlite.xz").read_bytes()))
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert "partial" not in [column[1] for column in database.execute("PRAGMA table_info(run)")]
    database.close()
    with Store(path) as store:
        assert store.nights() == tuple(nights)
        assert [json.loads(store.document(one.id))["run"]["id"] for one in nights] == [one.id for one in nights]
        assert store.watching("regression") == {}
        partial = msgspec.structs.replace(night(4), partial=True)
        store.keep(encoded(partial), ["regression", "recovery"])
        store.tell(identity(3))
        assert store.nights() == (*nights, partial)
        assert store.watching("regression") == {identity(4): False}
        store.tell(identity(4))
        assert store.watching("regression") == store.watching("recovery") == {identity(4): True}
        store.prune(keep=1)
        store.keep(encoded(night(5)))
        store.prune(keep=1)
        assert store.watching("regression") == {}
    assert is_whole(path)


def test_a_migration_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = series(OK, CUT, "dark")
    filled(path, nights)
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, NEXT))
    with Store(path) as store:
        assert store.nights() == tuple(nights)
        assert [store.document(one.id) for one in nights] == [encoded(one) for one in nights]
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (NOW + 1,)
        assert database.execute("SELECT DISTINCT note FROM run").fetchall() == [("kept by version 1",)]


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = series(OK, CUT)
    filled(path, nights)
    with monkeypatch.context() as later:
        later.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, (*NEXT, "DROP TABLE cell", "DROP TABLE nowhere")))
        with pytest.raises(HistoryError, match="no such table: nowhere"), Store(path):
            pass
    with Store(path) as store:
        assert store.nights() == tuple(nights)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (NOW,)
        assert "note" not in [column[1] for column in database.execute("PRAGMA table_info(run)")]


def test_what_is_published_of_the_form_is_never_changed() -> None:
    """Files of these versions are out there: what made them stands as it is, and what comes is added behind it."""
    import hashlib

    digests = [hashlib.sha256(repr(one).encode()).hexdigest() for one in module.MIGRATIONS]
    assert digests == [
        "87b3898bfef3e0afb28194d45f9601f0e4a737e655c29d04fc52aab058fb0a40",
        "6905f7e8a94af1141bb4fbe8d22cd6184e7271a7bbbcecb93f937a80f141992a",
    ]


def test_another_programs_database_is_not_touched(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="another program's database"), Store(path, create=True):
        pass
    path.write_bytes(b"a text, and a long one, that is no database at all\n" * 50)
    with pytest.raises(UsageError, match="is no database of kept runs"), Store(path, create=True):
        pass
    path.write_bytes(before)
    assert is_whole(path)


def test_a_damaged_run_is_told_and_the_others_are_read(path: Path) -> None:
    filled(path, series(OK, OK))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE document SET packed = substr(packed, 1, 40) WHERE run = 1")
    database.close()
    with Store(path) as store:
        with pytest.raises(HistoryError, match="damaged"):
            store.document("last~1")
        assert store.document("last")
        assert len(store.nights()) == 2


def test_a_run_without_its_document_is_told_as_damaged(path: Path) -> None:
    filled(path, series(OK, OK))
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM document WHERE run = 1")
    database.close()
    with Store(path) as store:
        with pytest.raises(HistoryError, match="its document is missing"):
            store.document("last~1")
        assert store.document("last")


def test_of_a_damaged_file_nothing_is_promised(path: Path) -> None:
    filled(path, series(*[OK] * 8))
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * 4096 * 4 + content[5 * 4096 :])
    with pytest.raises(HistoryError, match="the file is damaged") as told, Store(path, create=True) as store:
        store.keep(encoded(night(9)))
    assert "as they were" not in str(told.value)


def test_where_nothing_is_kept_it_says_so_and_makes_nothing(path: Path) -> None:
    with pytest.raises(UsageError, match="no run is kept there"), Store(path):
        pass
    assert not path.parent.exists()


def test_a_place_that_cannot_be_written_or_will_not_last(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="cannot be kept there"), Store(tmp_path / "file" / "db", create=True):
        pass
    with pytest.raises(UsageError, match="does not outlive a restart"), Store(Path("/run/x.sqlite"), create=True):
        pass
    assert not os.path.exists("/run/x.sqlite")


def test_a_copy_of_a_closed_file_is_whole(path: Path, tmp_path: Path) -> None:
    """Closed, all is in the one file: it can be carried away."""
    filled(path, series(OK, CUT))
    shutil.copy(path, tmp_path / "copy")
    with Store(tmp_path / "copy") as store:
        assert len(store.lines()) == 2
