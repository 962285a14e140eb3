"""Every run, kept in one SQLite file: the whole document packed, and beside it the words that nights are compared by.

A run is kept whole or not at all: one transaction, in a write-ahead log that reaches the disk before it counts. A
process that is killed, or a disk that is full, costs the run that was being kept and no earlier one. The documents are
the truth; the tables can be made of them again. The file is its owner's alone.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from vpntest.errors import HistoryError, UsageError
from vpntest.history.night import Night, Row, Told, night_of
from vpntest.history.packing import pack, unpack
from vpntest.report.document import Document

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE run (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            started TEXT NOT NULL,
            version TEXT NOT NULL,
            complete INTEGER NOT NULL,
            line_rule TEXT,
            seconds REAL NOT NULL
        )""",
        "CREATE INDEX run_started ON run (started, id)",
        "CREATE TABLE document (run INTEGER PRIMARY KEY REFERENCES run ON DELETE CASCADE, packed BLOB NOT NULL)",
        """CREATE TABLE tunnel (
            run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
            place INTEGER NOT NULL,
            name TEXT NOT NULL,
            kind TEXT NOT NULL,
            servers TEXT NOT NULL,
            stage TEXT,
            mechanism TEXT,
            PRIMARY KEY (run, place)
        ) WITHOUT ROWID""",
        """CREATE TABLE cell (
            run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
            place INTEGER NOT NULL,
            tunnel TEXT NOT NULL,
            platform TEXT NOT NULL,
            outcome TEXT NOT NULL,
            mechanism TEXT,
            agree INTEGER NOT NULL,
            made INTEGER NOT NULL,
            PRIMARY KEY (run, place)
        ) WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE run ADD COLUMN partial INTEGER NOT NULL DEFAULT 0",
        # What --fail-on asked of a run, and whether its exit status has told the answer.
        """CREATE TABLE watch (
            run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
            condition TEXT NOT NULL,
            told INTEGER NOT NULL,
            PRIMARY KEY (run, condition)
        ) WITHOUT ROWID""",
    ),
)
"""What leads from each version of the file to the next. Only ever added to: each runs once, with all that is kept."""
SCHEMA: Final = "vpntest.history/1"
_MARK = 0x76706E74
"""`vpnt`, as the file's application id: another program's database is never taken for ours."""
_HEAD = "SELECT *, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id, pragma_user_version"
"""Whose file it is, in which form, and whether anything is in it: at once, for another process may be making it."""
_PATIENCE = 30.0
"""Seconds to wait for another vpntest that writes. Keeping a run takes less than one."""
_SHORTEST_PREFIX = 4
_HARMLESS = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN")
"""How the names of errors begin that cost what was to be written, and nothing that was."""


class Line(Struct, frozen=True):
    """One kept run in the list of them."""

    id: str
    started: str
    version: str
    complete: bool
    line_rule: str | None
    """Why nothing was judged; null where the line was alive."""
    seconds: float
    tunnels: int
    tunnels_up: int
    platforms: int
    cells: dict[str, int]
    """How many cells of each outcome."""
    bytes: int
    """What its document takes here."""


class History(Struct, frozen=True):
    """The JSON form of the list."""

    schema: Literal["vpntest.history/1"]
    runs: tuple[Line, ...]
    """The oldest first."""


def default_path(environment: Mapping[str, str], *, root: bool) -> Path:
    """Where runs are kept unless somebody says otherwise.

    systemd's state folder, the user's own by the XDG base directories, and for root that of the machine.
    """
    if state := environment.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0], "runs.sqlite")
    state = environment.get("XDG_STATE_HOME", "")
    if Path(state).is_absolute():  # what is not must be ignored, says that specification
        return Path(state, "vpntest", "runs.sqlite")
    if root:
        return Path("/var/lib/vpntest/runs.sqlite")
    return Path(environment.get("HOME") or "/", ".local", "state", "vpntest", "runs.sqlite")


def obstacle(path: Path) -> str | None:
    """Why no run can be kept there, as far as looking tells; None where nothing stands against it.

    Makes nothing and waits for nobody: SQLite is told that nobody writes the file, and so leaves no log beside it.
    """
    place = Path(os.path.realpath(path))
    if place.is_relative_to("/run"):
        return "/run does not outlive a restart"
    if os.path.islink(place):
        return "it is a link that leads to itself"
    # What stands in a folder that is closed to us is not there, for pathlib it is a fault.
    if not os.path.exists(place):
        above = next(folder for folder in place.parents if os.path.exists(folder))
        return None if above.is_dir() and os.access(above, os.W_OK | os.X_OK) else f"{above} cannot be written"
    if not (place.is_file() and os.access(place, os.R_OK | os.W_OK) and os.access(place.parent, os.W_OK)):
        return "it cannot be written"
    try:
        with contextlib.closing(sqlite3.connect(f"{place.as_uri()}?immutable=1", uri=True)) as database:
            ((mark, version, tables),) = database.execute(_HEAD)
            if mark == _MARK and version <= len(MIGRATIONS):
                database.execute("SELECT count(*) FROM run").fetchone()
    except sqlite3.Error as error:
        # What another vpntest has written and what is in its log only are not of one time.
        is_written = os.path.exists(f"{place}-wal") and os.path.getsize(f"{place}-wal")
        return None if is_written else f"it is no database of kept runs ({error})"
    if mark != _MARK and (mark, version, tables) != (0, 0, 0):
        return "it is another program's database"
    return "it was written by a newer vpntest" if version > len(MIGRATIONS) else None


class Store:
    """An open database of runs. Two processes may have the same one open."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Raises UsageError where there is none, or it is none; HistoryError where it cannot be read."""
        self.path = path
        if create:
            self._create()
        elif not path.is_file():
            raise UsageError(f"{path}: no run is kept there; `vpntest run` keeps them, and --db names another place")
        with self._told():
            self._database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
        try:
            with self._told():
                self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _create(self) -> None:
        """An empty file that nobody else may read; SQLite gives its log the same rights."""
        if Path(os.path.realpath(self.path)).is_relative_to("/run"):
            # A run hides it from itself, and it would be gone after the next start.
            raise UsageError(f"{self.path}: /run does not outlive a restart; keep the runs elsewhere")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise HistoryError(f"{self.path}: runs cannot be kept there ({error.strerror})") from error

    def _prepare(self) -> None:
        run = self._database.execute
        run("PRAGMA foreign_keys = ON")
        self._check()
        if self._version() == len(MIGRATIONS) and self._mode() == "wal":
            run("PRAGMA synchronous = FULL")
            return
        # Before the first table, or never: what is pruned is given back to the disk.
        run("PRAGMA auto_vacuum = INCREMENTAL")
        self._write_ahead()
        run("PRAGMA synchronous = FULL")
        with self._transaction():
            # Another process may have done it meanwhile.
            for number in range(self._check(), len(MIGRATIONS)):
                for statement in MIGRATIONS[number]:
                    run(statement)
                run(f"PRAGMA user_version = {number + 1}")
            run(f"PRAGMA application_id = {_MARK}")

    def _check(self) -> int:
        """The file's version. Raises UsageError where it is not ours, or newer than we are."""
        ((mark, version, tables),) = self._database.execute(_HEAD)
        if mark != _MARK and (mark, version, tables) != (0, 0, 0):
            raise UsageError(f"{self.path}: is another program's database, not one of kept runs")
        if version > len(MIGRATIONS):
            raise UsageError(
                f"{self.path}: was written by a newer vpntest (version {version} of its form; "
                f"this one knows {len(MIGRATIONS)}); nothing in it was changed"
            )
        return int(version)

    def _version(self) -> int:
        return int(self._database.execute("PRAGMA user_version").fetchone()[0])

    def _mode(self) -> str:
        return str(self._database.execute("PRAGMA journal_mode").fetchone()[0])

    def _write_ahead(self) -> None:
        """Turns the write-ahead log on. SQLite does not wait for others by itself here."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as one line."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_NOTADB":
                raise UsageError(f"{self.path}: is no database of kept runs") from error
            if name.startswith("SQLITE_CORRUPT"):
                more = "; move it away, and the next run begins a new one; `sqlite3 FILE .recover` reads what is left"
                raise HistoryError(f"{self.path}: the file is damaged ({error}){more}") from error
            more = "; the runs kept there before are as they were" if name.startswith(_HARMLESS) else ""
            raise HistoryError(f"{self.path}: {error}{more}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # A full disk may have ended it already.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    # ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def keep(self, encoded: bytes, watching: Iterable[str] = ()) -> Night:
        """Keeps a run, given as its JSON document. One that is kept already stays as it is.

        `watching`: conditions that ask of it what was before; none of them has been told yet. Raises UsageError where
        it is no such document, HistoryError where it cannot be written.
        """
        document = decode(encoded)
        night = night_of(document)
        packed = pack(encoded)
        with self._told(), self._transaction():
            run = self._database.execute
            if run("SELECT 1 FROM run WHERE id = ?", (night.id,)).fetchone():
                return night
            number = run(
                "INSERT INTO run (id, started, version, complete, line_rule, seconds, partial)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    night.id,
                    night.started,
                    night.version,
                    night.complete,
                    night.line_rule,
                    document.run.seconds,
                    night.partial,
                ),
            ).lastrowid
            self._database.executemany("INSERT INTO watch VALUES (?, ?, 0)", ((number, one) for one in watching))
            self._database.executemany(
                "INSERT INTO tunnel VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (number, place, one.tunnel, one.kind, "\n".join(one.servers), one.stage, one.mechanism)
                    for place, one in enumerate(night.rows)
                ),
            )
            self._database.executemany(
                "INSERT INTO cell VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (number, place, one.tunnel, one.platform, one.outcome, one.mechanism, *one.attempts)
                    for place, one in enumerate(night.cells)
                ),
            )
            run("INSERT INTO document VALUES (?, ?)", (number, packed))
        with contextlib.suppress(sqlite3.Error):
            # The run is safe in the log; out of it, a disk that fills up later finds the log short.
            run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return night

    def tell(self, id: str) -> None:
        """Notes that the exit status of this run has told what was asked of it. Raises HistoryError."""
        with self._told(), self._transaction():
            self._database.execute("UPDATE watch SET told = 1 WHERE run = (SELECT number FROM run WHERE id = ?)", (id,))

    def prune(self, *, keep: int | None = None, older_than: str | None = None) -> tuple[str, ...]:
        """Forgets runs, and gives their place back to the disk. Ids of those that are gone, oldest first.

        What is forgotten is overwritten in the file too.

        `keep`: all but the newest so many. `older_than`: those that began before this time (UTC, ISO 8601). A run goes
        if either says so. Raises HistoryError.
        """
        with self._told():
            self._database.execute("PRAGMA secure_delete = ON").fetchall()
            found = self._database.execute("SELECT id, started FROM run ORDER BY started, id").fetchall()
            too_many = len(found) - keep if keep is not None else 0
            gone = tuple(
                id
                for place, (id, started) in enumerate(found)
                if place < too_many or (older_than is not None and started < older_than)
            )
            for id in gone:
                # One by one: on a full disk there may be room for no larger log.
                with self._transaction():
                    self._database.execute("DELETE FROM run WHERE id = ?", (id,))
                # As a script: it yields a row for each page, and only a script goes through them all.
                self._database.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
            if keep == 0:
                # Of what was moved within the file, copies may stand in its gaps.
                self._database.executescript("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def lines(self) -> tuple[Line, ...]:
        """Every kept run, oldest first."""
        with self._told():
            run = self._database.execute
            counts: dict[int, dict[str, int]] = {}
            for number, outcome, count in run(
                "SELECT run, outcome, count(*) FROM cell WHERE tunnel != 'outside' GROUP BY run, outcome"
            ):
                counts.setdefault(number, {})[outcome] = count
            found = run(
                """SELECT run.number, id, started, version, complete, line_rule, seconds,
                    (SELECT count(*) FROM tunnel WHERE run = run.number),
                    (SELECT count(*) FROM tunnel WHERE run = run.number AND stage = 'up'),
                    (SELECT count(DISTINCT platform) FROM cell WHERE run = run.number),
                    length(packed)
                FROM run JOIN document ON document.run = run.number ORDER BY started, id"""
            ).fetchall()
        return tuple(
            Line(
                id,
                started,
                version,
                bool(complete),
                rule,
                seconds,
                tunnels,
                up,
                platforms,
                counts.get(number, {}),
                size,
            )
            for number, id, started, version, complete, rule, seconds, tunnels, up, platforms, size in found
        )

    def nights(self, *, before: Night | None = None, newest: int | None = None) -> tuple[Night, ...]:
        """Kept nights, oldest first: those older than `before`, and of these only the `newest` so many."""
        time, id = (before.started, before.id) if before else ("~", "")
        with self._told():
            runs = self._database.execute(
                "SELECT number, id, started, version, complete, line_rule, partial FROM run"
                " WHERE (started, id) < (?, ?) ORDER BY started DESC, id DESC LIMIT ?",
                (time, id, -1 if newest is None else newest),
            ).fetchall()
            return tuple(self._night(*one) for one in reversed(runs))

    def _night(
        self, number: int, id: str, started: str, version: str, complete: int, rule: str | None, partial: int
    ) -> Night:
        rows: list[Any] = self._database.execute(
            "SELECT name, kind, servers, stage, mechanism FROM tunnel WHERE run = ? ORDER BY place", (number,)
        ).fetchall()
        cells: list[Any] = self._database.execute(
            "SELECT tunnel, platform, outcome, mechanism, agree, made FROM cell WHERE run = ? ORDER BY place", (number,)
        ).fetchall()
        return Night(
            id,
            started,
            version,
            bool(complete),
            rule,
            tuple(
                Row(name, kind, tuple(servers.split("\n")) if servers else (), *rest)
                for name, kind, servers, *rest in rows
            ),
            tuple(Told(tunnel, platform, outcome, why, (k, n)) for tunnel, platform, outcome, why, k, n in cells),
            bool(partial),
        )

    def watching(self, condition: str) -> dict[str, bool]:
        """Ids of the runs of which this condition was asked, and whether each one's exit status has told the answer."""
        with self._told():
            return {
                id: bool(told)
                for id, told in self._database.execute(
                    "SELECT id, told FROM watch JOIN run ON run.number = watch.run WHERE condition = ?", (condition,)
                )
            }

    def document(self, name: str) -> bytes:
        """The document of a run, as it was kept. Raises UsageError for an unknown name, HistoryError if damaged."""
        id = self.find(name)
        with self._told():
            found = self._database.execute(
                "SELECT packed FROM document JOIN run ON run.number = document.run WHERE id = ?", (id,)
            ).fetchone()
        try:
            if found is None:
                raise ValueError("a kept run is damaged (its document is missing)")
            return unpack(found[0])
        except ValueError as error:
            raise HistoryError(f"{self.path}: {id}: {error}") from error

    def find(self, name: str) -> str:
        """The id of the run that is meant by `last`, `last~2`, an id or how one begins. Raises UsageError."""
        with self._told():
            ids: list[str] = [
                one for (one,) in self._database.execute("SELECT id FROM run ORDER BY started DESC, id DESC")
            ]
        if name == "last" or name.startswith("last~"):
            number = name.removeprefix("last").removeprefix("~") or "0"
            if not (number.isascii() and number.isdigit()):
                raise UsageError(f"{name}: say last, last~1, last~2 …")
            if int(number) >= len(ids):
                raise UsageError(f"{name}: {self.path} keeps only {len(ids)} run{'' if len(ids) == 1 else 's'}")
            return ids[int(number)]
        found = [one for one in ids if one == name or (len(name) >= _SHORTEST_PREFIX and one.startswith(name.lower()))]
        if name in found:
            return name
        if not found:
            raise UsageError(f"{name}: neither a file nor a run in {self.path}; `vpntest history` lists them")
        if len(found) > 1:
            raise UsageError(f"{name}: {len(found)} runs begin so; give more of the id")
        return found[0]


def is_name(text: str) -> bool:
    """Whether this can be meant for a kept run: `last`, `last~2`, or how an id begins."""
    digits = text.replace("-", "")
    return text.startswith("last") or (len(text) >= _SHORTEST_PREFIX and set(digits) <= set("0123456789abcdef"))


def decode(encoded: bytes) -> Document:
    """A run's document with its verdicts. Raises UsageError where it is none."""
    try:
        return msgspec.json.decode(encoded, type=Document)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"not a kept run (vpntest.run/1): {error}") from error
