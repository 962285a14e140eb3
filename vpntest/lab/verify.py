"""Runs profiles on the lab, each in a process of its own, and counts where the judgements differ from the truth.

    profiles × repeats ─demo, some side by side→ runs ─count→ Verification ─→ JSON, tables

Counting is pure: the same runs give the same counts.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from vpntest.judge.verdict import Judgement, Outcome, State, TunnelVerdict
from vpntest.lab.profiles import Profile, load
from vpntest.lab.truth import FREE_TUNNELS, Compared, Truth, entries, without_carrier
from vpntest.report.document import Document
from vpntest.tunnel.ladder import Rung

SCHEMA: Final = "vpntest.verify/1"
LEAST_EXACT = 0.99
"""Share of the entries that must be exact; the rest may be insufficient, and nothing may be wrong."""
LONGEST_RUN = 900.0
"""Seconds after which a run is given up: several times what the longest takes on two cores."""
GRACE = 15.0
"""Seconds that a run may take to end its tunnels and its lab once it is told to."""
_JUDGED = (0, 1)
"""Exit statuses of a demo that judged: equal, different."""
_DEAD = 4
"""Exit status of one whose line is dead; also of one that could not measure, which says nothing."""
_SPEED_UNKNOWN = ("cell.open.speed-unknown", "cell.circumvents.speed-unknown")
"""Rules of cells that take a platform for unthrottled though it was asked, and not found out, how fast it is."""
_UNKNOWN_TOO = "speed-unknown"
"""What is found of such a cell beside its outcome, where the line would have let its speed be measured."""
_PR_SET_PDEATHSIG = 1

Kind = Literal["insufficient", "wrong", "wrong_circumvents", "wrong_open"]
"""How an entry differs: too little was said, something else was said, or the two that can endanger somebody."""
NOTHING = "nothing"
"""What is found where nothing was judged."""


class Run(Struct, frozen=True):
    """One run of one profile."""

    profile: str
    repeat: int
    """From 1."""
    seconds: float
    judgement: Judgement | None
    """None where the run gave none; then `fault` says why."""
    fault: str | None = None
    """The last line that it wrote on stderr."""


class Differing(Struct, frozen=True):
    """An entry that is not exact."""

    profile: str
    repeat: int
    where: str
    expected: str
    found: str
    kind: Kind
    rule: str | None
    """Id of the judge's rule."""


class Fault(Struct, frozen=True):
    """A run without a judgement: all its entries count as wrong."""

    profile: str
    repeat: int
    said: str


class Summary(Struct, frozen=True):
    """Counts over all runs."""

    profiles: int
    runs_wanted: int
    """What was asked for."""
    runs: int
    """Those that came to an end, with a judgement or without; fewer than wanted where the counting was interrupted."""
    cells: int
    """Every entry that was compared: states outside, optional services outside, tunnel stages, cells of the matrix."""
    exact: int
    insufficient: int
    wrong: int
    """Whatever else differs, the next two included."""
    wrong_circumvents: int
    """Cells that say `circumvents` and are not."""
    wrong_open: int
    """Cells that say `open` and are not, and what is called `ok` outside and is not."""


Matrix = dict[str, dict[str, int]]
"""Expected → found → how often."""


class Verification(Struct, frozen=True):
    """All of it, in the order of the JSON's keys."""

    schema: Literal["vpntest.verify/1"]
    summary: Summary
    confusion: dict[str, Matrix]
    """`states` and `mechanisms` outside, `stages` of tunnels, `outcomes` of cells."""
    cells: tuple[Differing, ...]
    """Only those that differ."""
    faults: tuple[Fault, ...]
    seconds: dict[str, float]
    """Profile → seconds of one run, on average."""
    untried: tuple[str, ...] = ()
    """Profiles in which the only tunnel that is blocked is one that this machine cannot carry: what they are for
    was not tried."""

    @property
    def passes(self) -> bool:
        """Whether all was counted that was wanted, nothing is wrong, and enough is exact."""
        summary = self.summary
        is_whole = bool(summary.cells) and summary.runs >= summary.runs_wanted
        return is_whole and not summary.wrong and summary.exact >= LEAST_EXACT * summary.cells


# ── counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def count(
    runs: Iterable[Run],
    truths: Mapping[str, Truth],
    *,
    wanted: int = 0,
    slow: Collection[str] = (),
    untried: tuple[str, ...] = (),
) -> Verification:
    """What the runs come to, each held against the truth of its profile.

    `wanted`: how many runs were asked for, where more than there are; `slow`: profiles whose line is too slow for any
    speed to be known.
    """
    runs = sorted(runs, key=lambda run: (list(truths).index(run.profile), run.repeat))
    kinds: Counter[str] = Counter()
    confusion: dict[str, Counter[tuple[str, str]]] = {
        name: Counter() for name in ("states", "mechanisms", "stages", "outcomes")
    }
    differing = []
    for run in runs:
        for one in entries(truths[run.profile], run.judgement or Judgement((), (), ())):
            if run.judgement is None:
                # Of a dead line, too, nothing is known without a judgement.
                one = msgspec.structs.replace(one, found=None, rule=None)
            elif one.rule in _SPEED_UNKNOWN and run.profile not in slow:
                one = msgspec.structs.replace(one, found=f"{one.found} {_UNKNOWN_TOO}")
            kind = kind_of(one)
            kinds[kind or "exact"] += 1
            _enter(confusion, one)
            if kind:
                expected, found = str(one.expected or NOTHING), one.found or NOTHING
                differing.append(Differing(run.profile, run.repeat, one.where, expected, found, kind, one.rule))
    wrong = sum(number for kind, number in kinds.items() if kind.startswith("wrong"))
    return Verification(
        SCHEMA,
        Summary(
            profiles=len({run.profile for run in runs}),
            runs_wanted=max(wanted, len(runs)),
            runs=len(runs),
            cells=kinds.total(),
            exact=kinds["exact"],
            insufficient=kinds["insufficient"],
            wrong=wrong,
            wrong_circumvents=kinds["wrong_circumvents"],
            wrong_open=kinds["wrong_open"],
        ),
        {name: _nested(matrix) for name, matrix in confusion.items()},
        tuple(differing),
        tuple(Fault(run.profile, run.repeat, run.fault or "") for run in runs if run.judgement is None),
        {name: round(sum(took) / len(took), 1) for name, took in _durations(runs).items()},
        untried,
    )


def kind_of(one: Compared) -> Kind | None:
    """How an entry differs from the truth; None where it is exact."""
    if one.is_exact:
        return None
    if one.found is None:
        return "wrong"
    word, _, mechanism = one.found.partition(" ")
    if mechanism == _UNKNOWN_TOO and one.expected is not None and one.expected.accepts(word):
        return "insufficient"
    if word == State.INSUFFICIENT or (one.kind == "tunnel" and mechanism == "unmeasured"):
        return "insufficient"
    if one.kind == "cell" and word == Outcome.CIRCUMVENTS:
        return "wrong_circumvents"
    if word == (Outcome.OPEN if one.kind == "cell" else State.OK):
        return "wrong_open"
    return "wrong"


def _enter(confusion: Mapping[str, Counter[tuple[str, str]]], one: Compared) -> None:
    found = one.found or NOTHING
    # Where several things are right, the one that was found is what was expected.
    expected = found if one.is_exact else str(one.expected or NOTHING)
    if one.kind == "cell":
        confusion["outcomes"][expected, found] += 1
    elif one.kind == "tunnel":
        confusion["stages"][expected, found] += 1
    else:
        prefix = "line " if one.kind == "line" else ""
        words = [prefix + " | ".join(each.split()[0] for each in text.split(" | ")) for text in (expected, found)]
        confusion["states"][words[0], words[1]] += 1
        if " " in expected or " " in found:
            last = [" | ".join(each.split()[-1] for each in text.split(" | ")) for text in (expected, found)]
            confusion["mechanisms"][last[0], last[1]] += 1


def _nested(counts: Counter[tuple[str, str]]) -> Matrix:
    matrix: Matrix = {}
    for (expected, found), number in sorted(counts.items()):
        matrix.setdefault(expected, {})[found] = number
    return matrix


def _durations(runs: Iterable[Run]) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {}
    for run in runs:
        took.setdefault(run.profile, []).append(run.seconds)
    return took


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def truths_here(profiles: Sequence[Profile]) -> dict[str, Truth]:
    """Profile → its truth on this machine, whose sing-box may not speak Reality. Raises CannotMeasure without any."""
    from vpntest.lab.vpn import REALITY, speaks_reality

    speaks = speaks_reality()
    return {one.id: one.truth if speaks else without_carrier(one.truth, REALITY) for one in profiles}


def untried_here(profiles: Sequence[Profile]) -> tuple[str, ...]:
    """Profiles in which the only tunnel that is blocked is one that this machine cannot carry."""
    from vpntest.lab.vpn import REALITY, speaks_reality

    if speaks_reality():
        return ()
    return tuple(one.id for one in profiles if _blocked(one.truth) == {REALITY})


def _blocked(truth: Truth) -> set[str]:
    """Tunnels that fall short of what they reach on a free line."""
    free = FREE_TUNNELS
    return {name for name, stage in truth.tunnels.items() if not stage.accepts(free.get(name, Rung.UP))}


def is_slow(profile: Profile) -> bool:
    """Whether its line is slow for everything, so that no platform's speed can be known on it."""
    return profile.line.kbit_per_second is not None


async def measure(
    names: Sequence[str], repeat: int, jobs: int, progress: Callable[[str], None]
) -> tuple[list[Run], int | None]:
    """Runs each profile so often, `jobs` of them side by side. Returns what came to its end, and the first signal.

    On SIGINT and SIGTERM the runs that are under way are ended, and are not among those returned. `progress` gets a
    line for each run that ends. Raises UsageError for a name that is no profile.
    """
    for name in names:
        load(name)
    done: list[Run] = []
    gate = asyncio.Semaphore(jobs)

    async def one(name: str, number: int) -> None:
        async with gate:
            run = await _run(name, number)
        done.append(run)
        progress(f"{len(done)} of {len(tasks)}: {name} took {run.seconds:.0f} s" + (f": {run.fault}" * bool(run.fault)))

    tasks = [asyncio.ensure_future(one(name, number)) for number in range(1, repeat + 1) for name in names]
    received: list[int] = []

    def interrupt(number: int) -> None:
        received.append(number)
        for task in tasks:
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    try:
        await asyncio.wait(tasks)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    for task in tasks:
        if not task.cancelled():
            task.result()
    return done, received[0] if received else None


async def _run(name: str, number: int) -> Run:
    libc = ctypes.CDLL(None)
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vpntest", "demo", "--profile", name, "--format", "json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        # Ctrl-C is for us: we end the runs in order. If we are killed, they end by themselves.
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    try:
        async with asyncio.timeout(LONGEST_RUN):
            said, complaints = await process.communicate()
    except TimeoutError:
        return Run(name, number, time.monotonic() - begun, None, f"not done within {LONGEST_RUN:.0f} seconds")
    finally:
        await _end(process)
    return run_of(name, number, time.monotonic() - begun, process.returncode, said, complaints)


def run_of(name: str, number: int, seconds: float, status: int | None, said: bytes, complaints: bytes) -> Run:
    """What came of a demo that has ended: its judgement, or why there is none."""
    judgement = judgement_of(said) if status in (*_JUDGED, _DEAD) else None
    if judgement is not None and status == _DEAD and judgement.local_outage is None:
        judgement = None
    fault = None if judgement else _last_line(complaints) or f"exit status {status}"
    return Run(name, number, seconds, judgement, fault)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends a run that has not ended; whatever it started goes with it."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        # Read on, or a full pipe would keep it from ending.
        async with asyncio.timeout(GRACE):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


def judgement_of(document: bytes) -> Judgement | None:
    """The judgement in a run's document; None where it is no such document."""
    try:
        kept = msgspec.json.decode(document, type=Document)
    except msgspec.DecodeError:
        return None
    return Judgement(
        kept.outside,
        tuple(
            TunnelVerdict(one.name, one.stage, one.mechanism, one.rule or "", one.witnesses)
            for one in kept.tunnels
            if one.stage is not None
        ),
        kept.cells,
        kept.local_outage,
    )


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────────

_TITLES = {
    "states": "outside: states",
    "mechanisms": "outside: mechanisms",
    "stages": "tunnels: last rung, and why no further",
    "outcomes": "cells: outcomes",
}


def render(verification: Verification) -> str:
    """The counts as plain tables: each confusion matrix without its zeros, then what differs, then the sum."""
    from tabulate import tabulate

    def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
        return str(tabulate(rows, headers, tablefmt="simple", disable_numparse=True))

    parts = []
    for name, matrix in verification.confusion.items():
        rows = []
        for expected, found in matrix.items():
            other = ", ".join(f"{number} × {word}" for word, number in found.items() if word != expected)
            rows.append((expected, found.get(expected, 0), other))
        if rows:
            parts.append(f"{_TITLES[name]}\n\n{table(rows, ('expected', 'found', 'found otherwise'))}")
    silent = {(fault.profile, fault.repeat) for fault in verification.faults}
    cells = [
        (one.profile, one.repeat, one.where, one.expected, one.found, one.kind)
        for one in verification.cells
        if (one.profile, one.repeat) not in silent
    ]
    if cells:
        headers = ("profile", "run", "where", "expected", "found", "kind")
        parts.append(f"what differs\n\n{table(cells, headers)}")
    for fault in verification.faults:
        parts.append(f"run {fault.repeat} of {fault.profile} gave no judgement: {fault.said}")
    took = [(name, f"{seconds:.1f}") for name, seconds in verification.seconds.items()]
    parts.append(table(took, ("profile", "seconds")))
    if verification.untried:
        names = ", ".join(verification.untried)
        parts.append(f"this machine cannot carry the only tunnel that is blocked in: {names}")
    sums = verification.summary
    if sums.runs < sums.runs_wanted:
        parts.append(f"only {sums.runs} of {sums.runs_wanted} runs were counted")
    share = sums.exact / sums.cells if sums.cells else 0.0
    parts.append(
        f"{sums.profiles} profiles, {sums.runs} runs, {sums.cells} entries: {sums.exact} exact ({share:.2%}), "
        f"{sums.insufficient} insufficient, {sums.wrong} wrong "
        f"({sums.wrong_circumvents} wrong circumvents, {sums.wrong_open} wrong open)"
    )
    return "\n\n".join(parts) + "\n"
