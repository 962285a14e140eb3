"""The command line: arguments in, calls out. What a call does stands in the package that it names.

Imports are inside the functions: `vpntest --help` must not wait for netlink and TLS libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from vpntest import __version__
from vpntest.errors import CannotMeasure, NothingSelected, UsageError, VpntestError

if TYPE_CHECKING:
    from vpntest.history.watch import Holding, Watch
    from vpntest.judge.verdict import Judgement
    from vpntest.lab.profiles import Profile
    from vpntest.plan.model import Plan, TunnelSpec
    from vpntest.probe.observation import Record
    from vpntest.tunnel.cage import Cage
    from vpntest.tunnel.evidence import Evidence
    from vpntest.tunnel.vantage import Vantage

DONE, DIFFERS, CONFIG_FAULT, OUR_FAULT, CANNOT_MEASURE = 0, 1, 2, 3, 4
_LONGEST_LINE = 1000
INTERRUPTED = 128
"""Plus the signal's number."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

EXAMPLES = (
    ("vpntest check configs/", "what each config in the folder is, and what of it cannot be honoured"),
    ("sudo vpntest run configs/", "each config in the folder against every built-in platform"),
    ("sudo vpntest run plan.toml", "what plan.toml asks for"),
    ("sudo vpntest shell plan.toml --tunnel se", "a shell whose every packet goes through the tunnel se"),
    ("sudo vpntest demo", "the same as run, on an embedded lab: censor, platforms and VPN servers on this machine"),
    ("sudo vpntest lab verify", "every censor of the lab, held against its truth"),
    ("vpntest report run.json --redact --format html -o report.html", "a kept run as a page, fit to be published"),
    ("vpntest explain run.json se twitter", "why that cell is what it is, and what would have changed it"),
    ("sudo vpntest diff", "what changed since the run before the last, and whether it is news"),
    ("vpntest doctor", "what this machine can do, and the command that adds what is missing"),
)
STATUSES = (
    ("0", "done"),
    ("1", "--fail-on holds, or the lab differs from its truth"),
    ("2", "usage or config error"),
    ("3", "fault of vpntest"),
    ("4", "could not measure: no root, a tool missing, the line or the tunnel is dead"),
    ("5", "nothing selected"),
    ("130, 143", "interrupted; what had been measured was printed"),
)


def _epilog() -> str:
    """The examples and the exit statuses, for --help."""
    lines = ["examples:"]
    for command, meaning in EXAMPLES:
        # A long one stands alone.
        lines += [f"  {command:36}{meaning}"] if len(command) < 36 else [f"  {command}", f"{'':38}{meaning}"]
    return "\n".join([*lines, "", "exit status:", *(f"  {status:10}{meaning}" for status, meaning in STATUSES)])


class _Parser(argparse.ArgumentParser):
    """One line for a slip of the hand; the usage is for those who ask for it."""

    def error(self, message: str) -> NoReturn:
        _say(f"{message}; see {self.prog} --help")
        sys.exit(CONFIG_FAULT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vpntest",
        description="Which VPN setups still get people around the blocking on this network, and how the others fail.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say the version, and the carriers', and exit")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")

    output = _Parser(add_help=False)
    # As vpntest.report.forms.FORMS, which is not read for the sake of --help.
    forms = ("table", "markdown", "html", "csv", "json", "junit", "ooni", "prometheus")
    output.add_argument("--format", choices=forms, default="table", help="form of the result (default: %(default)s)")
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the result to FILE, not to stdout")
    output.add_argument(
        "--redact", action="store_true", help="leave out servers, addresses and the place: fit to be published"
    )
    output.add_argument(
        "--width", type=_positive, metavar="COLUMNS", help="width of the table (default: the terminal's)"
    )
    output.add_argument("--wide", action="store_true", help="print the table in one piece, however wide it is")
    output.add_argument(
        "--sort",
        choices=("plan", "name", "kind", "helpful"),
        default="plan",
        help="order of the tunnels, in the table and in Markdown (default: %(default)s)",
    )
    output.add_argument(
        "--outcome", action="append", metavar="WORD", help="show only tunnels that have such a cell (may be repeated)"
    )
    output.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour in the table (default: on a terminal, unless NO_COLOR is set)",
    )
    output.add_argument("--timings", action="store_true", help="say on stderr where the time went")

    select = _Parser(add_help=False)
    select.add_argument("--tunnel", action="append", metavar="NAME", help="measure only this tunnel (may be repeated)")
    select.add_argument(
        "--platform", action="append", metavar="ID", help="measure only this platform (may be repeated)"
    )

    keep = _Parser(add_help=False)
    keep.add_argument(
        "--evidence", type=Path, metavar="DIR", help="keep packets, carriers' logs and the run in DIR, a new directory"
    )

    kept = _Parser(add_help=False)
    kept.add_argument("--db", type=Path, metavar="PATH", help="where runs are kept (default: where run keeps them)")

    run = commands.add_parser(
        "run",
        parents=[output, select, keep],
        help="raise every tunnel, measure outside and inside, print the matrix (needs root)",
    )
    run.add_argument(
        "paths", nargs="+", type=Path, metavar="PLAN|DIR|FILE", help="a plan, a folder of configs, configs"
    )
    _add_fail_on(run)
    run.add_argument(
        "--baseline", metavar="RUN|FILE", help="hold --fail-on against this run, not against the ones before"
    )
    run.add_argument(
        "--db", metavar="PATH|none", help="where the run is kept (default: the user's state folder; root: /var/lib)"
    )
    run.set_defaults(call=_run)

    demo = commands.add_parser(
        "demo",
        parents=[output, select, keep],
        help="the same as run, on the embedded lab, held against its truth (needs root)",
    )
    demo.add_argument(
        "--profile", default="ru_2023_08_vpn", metavar="PROFILE", help="the lab's censor (default: %(default)s)"
    )
    demo.set_defaults(call=_demo)

    check = commands.add_parser(
        "check", help="say what configs are, and what of them cannot be honoured (no root, no network)"
    )
    check.add_argument(
        "paths", nargs="+", type=Path, metavar="PLAN|DIR|FILE", help="plans, folders of configs, archives, configs"
    )
    check.add_argument(
        "--format", choices=("text", "json"), default="text", help="form of the result (default: %(default)s)"
    )
    check.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the result to FILE, not to stdout")
    check.add_argument("--problems", action="store_true", help="show only what is not ok, and how many are")
    check.add_argument("--width", type=_positive, metavar="COLUMNS", help="width of the text (default: the terminal's)")
    check.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour in the text (default: on a terminal, unless NO_COLOR is set)",
    )
    check.set_defaults(call=_check)

    report = commands.add_parser(
        "report", parents=[output, kept], help="print a kept run in any form, whole or fit to be published"
    )
    report.add_argument(
        "kept", type=Path, metavar="RUN", help="its JSON, the directory of its evidence, or last, last~1 …"
    )
    for what, metavar in (("tunnel", "NAME"), ("platform", "ID")):
        report.add_argument(
            f"--{what}",
            action="append",
            metavar=metavar,
            dest=f"show_{what}",
            help=f"show only this {what} (may be repeated)",
        )
    report.set_defaults(call=_report)

    judge = commands.add_parser(
        "judge", parents=[output, kept], help="judge a kept run again, offline, by the rules of this version"
    )
    judge.add_argument(
        "kept", type=Path, metavar="RUN", help="its JSON, the directory of its evidence, or last, last~1 …"
    )
    judge.set_defaults(call=_judge)

    lab = commands.add_parser("lab", help="list the embedded lab's censors, or see how well they are told apart")
    actions = lab.add_subparsers(title="commands", dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="run profiles, and count what differs from their truth (needs root)")
    verify.add_argument("profiles", nargs="*", metavar="PROFILE", help="a censor of the lab (default: all of them)")
    verify.add_argument(
        "--repeat", type=_positive, default=1, metavar="N", help="measure each N times (default: %(default)s)"
    )
    verify.add_argument(
        "--jobs", type=_positive, default=3, metavar="J", help="measure J side by side (default: %(default)s)"
    )
    verify.add_argument(
        "--format", choices=("table", "json"), default="table", help="form of the result (default: %(default)s)"
    )
    verify.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the result to FILE, not to stdout")
    verify.set_defaults(call=_verify)
    listing = actions.add_parser("list", help="list the profiles that there are")
    listing.set_defaults(call=_list)

    explain = commands.add_parser(
        "explain", parents=[kept], help="say why a cell of a kept run is what it is, and what would change it"
    )
    explain.add_argument(
        "kept", type=Path, metavar="RUN", help="its JSON, the directory of its evidence, or last, last~1 …"
    )
    explain.add_argument("tunnel", metavar="TUNNEL", help="a tunnel's name, or outside")
    explain.add_argument(
        "platform", nargs="?", metavar="PLATFORM", help="a platform's id (default: the tunnel itself, and its row)"
    )
    explain.add_argument("--evidence", type=Path, metavar="DIR", help="point into this directory of evidence")
    explain.set_defaults(call=_explain)

    form = _Parser(add_help=False)
    form.add_argument(
        "--format", choices=("text", "json"), default="text", help="form of the result (default: %(default)s)"
    )
    form.add_argument("--width", type=_positive, metavar="COLUMNS", help="width of the text (default: the terminal's)")
    form.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the result to FILE, not to stdout")

    history = commands.add_parser("history", parents=[kept, form], help="list the runs that are kept, newest first")
    history.set_defaults(call=_history)

    diff = commands.add_parser("diff", parents=[kept, form], help="say what changed between two runs: news, or noise")
    diff.add_argument("before", nargs="?", metavar="A", help="a run's id, last, last~1 …, or a file (default: last~1)")
    diff.add_argument("after", nargs="?", metavar="B", help="the later one (default: last)")
    _add_fail_on(diff)
    diff.add_argument(
        "--baseline", metavar="RUN|FILE", help="in place of A: what was so in this run is taken for usual"
    )
    diff.set_defaults(call=_diff)

    trend = commands.add_parser("trend", parents=[kept, form], help="show how a tunnel has done, night by night")
    trend.add_argument("tunnel", metavar="TUNNEL", help="a tunnel's name, or outside")
    trend.add_argument(
        "platform", nargs="?", metavar="PLATFORM", help="a platform's id (default: the tunnel itself, and its row)"
    )
    trend.set_defaults(call=_trend)

    prune = commands.add_parser("prune", parents=[kept], help="forget old runs, or all of them")
    prune.add_argument("--all", action="store_true", help="forget every run, so that nothing of it is left in the file")
    prune.add_argument("--keep", type=_positive, metavar="N", help="forget all but the newest N")
    prune.add_argument(
        "--older", type=_positive, metavar="DAYS", help="forget those that began more than DAYS days ago"
    )
    prune.set_defaults(call=_prune)

    shell = commands.add_parser(
        "shell",
        usage="%(prog)s [-h] [--tunnel NAME] [--root] PLAN|DIR|FILE [PLAN|DIR|FILE ...] [-- COMMAND ...]",
        help="raise one tunnel and open a shell inside it, or run a command there (needs root)",
        description="Opens a shell, or runs COMMAND. What runs inside goes through the tunnel, or nowhere.",
    )
    shell.add_argument(
        "paths", nargs="+", type=Path, metavar="PLAN|DIR|FILE", help="a plan, a folder of configs, configs"
    )
    shell.add_argument("--tunnel", metavar="NAME", help="which, where the plan has more than one")
    shell.add_argument("--root", action="store_true", help="as root, and not as the person who called sudo")
    shell.set_defaults(call=_shell)

    # As vpntest.manual.SHELLS, which is not read for the sake of --help.
    shells = ("bash", "zsh", "tcsh", "fish")
    completion = commands.add_parser(
        "completion",
        help="print what teaches a shell to complete vpntest's words",
        description="Print what teaches a shell to complete vpntest's words. scripts/install puts it where shells look;"
        " for one session: source <(vpntest completion bash), or vpntest completion fish | source.",
    )
    completion.add_argument("shell", choices=shells, metavar="SHELL", help=f"one of {', '.join(shells)}")
    completion.set_defaults(call=_completion)

    man = commands.add_parser("man", help="print the manual page; to read it: vpntest man | man -l -")
    man.set_defaults(call=_man)

    doctor = commands.add_parser(
        "doctor", parents=[kept, form], help="what this machine can do, and the command that adds what is missing"
    )
    doctor.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour in the text (default: on a terminal, unless NO_COLOR is set)",
    )
    doctor.set_defaults(call=_doctor)
    return parser


def _add_fail_on(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fail-on",
        action="append",
        default=[],
        # As vpntest.history.changes.Condition, which is not read for the sake of --help.
        choices=("regression", "recovery", "any-change", "blocked", "throttled", "tunnel-down"),
        help="exit with 1 if this holds (may be repeated)",
    )


class _Version(argparse.Action):
    """The version of vpntest, and below it what each carrier on this machine calls itself."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from vpntest.tunnel.carriers import find

        print(f"vpntest {__version__}", *(f"{row}" for row in find().rows if row.usable), sep="\n  ")
        parser.exit()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_positive.__name__ = "positive number"  # what argparse calls it


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status of the contract; never raises."""
    _open_standard()
    given = list(sys.argv[1:] if argv is None else argv)
    inside: list[str] = []
    # Whose options these are, argparse cannot tell.
    if given[:1] == ["shell"] and "--" in given:
        given, inside = given[: given.index("--")], given[given.index("--") + 1 :]
    arguments = _parser().parse_args(given, argparse.Namespace(inside=inside))
    try:
        status = int(arguments.call(arguments))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED + signal.SIGINT
    except Exception as error:
        if (excused := _excused(error)) is not None:
            return excused
        import traceback

        traceback.print_exc()
        _say("this is a fault of vpntest, not of the network; please report the lines above")
        return OUR_FAULT


def _open_standard() -> None:
    """Puts /dev/null in the place of what the caller has closed: a file of ours would get its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _excused(error: Exception) -> int | None:
    """The exit status of what is no fault of vpntest, said in one line; None of what is one."""
    if isinstance(error, VpntestError):
        _say(str(error))
        return error.exit_code
    if not isinstance(error, BrokenPipeError):
        if not (isinstance(error, OSError) and error.errno in _NO_ROOM):
            return None
        _say(f"{error.filename or 'the result'}: cannot be written ({error.strerror})")
    # What is left in stdout's buffer would be tried again at the end, and a reader who has gone hears no traceback.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE if isinstance(error, BrokenPipeError) else CANNOT_MEASURE


def _say(line: str) -> None:
    from vpntest.report.text import plain

    # A line may hold what a stranger named a file: the terminal must not obey it. It takes the status line's place.
    place = "\r\x1b[K" if _is_watched() else ""
    print(f"{place}vpntest: {plain(line, _LONGEST_LINE)}", file=sys.stderr, flush=True)


# ── run and demo ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _run(arguments: argparse.Namespace) -> int:
    import asyncio

    from msgspec.structs import replace

    from vpntest.judge.judging import judge, reason_of
    from vpntest.plan.read import read_plan
    from vpntest.tunnel.cage import Cage
    from vpntest.tunnel.namespace import Namespace
    from vpntest.tunnel.raising import outside

    whole = read_plan(arguments.paths)
    plan = _selected(whole, arguments)
    faulty = _say_problems(plan.tunnels)
    if not any(tunnel.config for tunnel in plan.tunnels):
        return CONFIG_FAULT if faulty else CANNOT_MEASURE
    _need_root()
    watch = _watch(arguments)
    judgement: Judgement | None = None
    try:
        with _stream(arguments) as stream:
            # Both before the cage hides /run, where many hosts keep their resolv.conf.
            here = Namespace.current()
            here.claim(lambda who: _say(f"another run or a shell ({who}) is on this line; waiting for its end"))
            line = outside(here, plan.settings)
            evidence = _evidence(arguments)
            with contextlib.closing(Cage.open()) as cage:
                record, status = asyncio.run(_measured(plan, line, cage, evidence))
            if (len(plan.tunnels), len(plan.platforms)) != (len(whole.tunnels), len(whole.platforms)):
                record = replace(record, run=replace(record.run, partial=True))
            judgement = judge(record)
            # Kept before it is shown: that must not depend on who reads it.
            holds, trouble = _watched(watch, record, judgement)
            _keep(evidence, record, judgement)
            _print(record, judgement, arguments, stream)
    except (VpntestError, OSError) as error:
        if judgement is None or (excused := _excused(error)) is None:
            raise
        trouble = trouble or excused
    if status == DONE and judgement.local_outage is not None:
        _say(f"nothing was judged: {reason_of(judgement.line_rule or '')}")
        status = CANNOT_MEASURE
    ended = _ended(status, holds=holds, otherwise=trouble or (CONFIG_FAULT if faulty else DONE))
    if ended != OUR_FAULT and ended < INTERRUPTED:
        try:
            watch.tell()
        except VpntestError as error:  # so the next night tells it again
            _say(str(error))
    return ended


def _ended(measured: int, *, holds: bool, otherwise: int) -> int:
    """The exit status of a run. What rings is told even where a part of the run could not be measured, or shown.

    `otherwise`: what it is where the measuring went well and nothing rings.
    """
    if measured not in (DONE, CANNOT_MEASURE):
        return measured
    return DIFFERS if holds else measured or otherwise


def _demo(arguments: argparse.Namespace) -> int:
    import asyncio

    from vpntest.judge.judging import judge
    from vpntest.lab.internet import raise_lab
    from vpntest.lab.profiles import load
    from vpntest.lab.truth import compare, say
    from vpntest.plan.read import read_plan
    from vpntest.tunnel.cage import Cage
    from vpntest.tunnel.raising import outside

    profile = load(arguments.profile)
    _need_root()

    async def in_lab(cage: Cage) -> tuple[Profile, Record, int]:
        _progress(f"raising the lab with the censor {profile.id}")
        lab = await raise_lab(profile, cage)
        try:
            plan = _selected(read_plan([lab.plan]), arguments)
            # The lab's own profile: without a carrier that the machine lacks, another matrix is true.
            record, status = await _measured(plan, outside(lab.client, plan.settings), cage, evidence)
            if status < INTERRUPTED:
                # What was measured while a censor or a server was gone says nothing of either.
                await lab.network.check()
            return lab.profile, record, status
        finally:
            await lab.lower()

    with _stream(arguments) as stream:
        evidence = _evidence(arguments)
        with contextlib.closing(Cage.open()) as cage:
            profile, record, status = asyncio.run(in_lab(cage))
        judgement = judge(record)
        _keep(evidence, record, judgement)
        _print(record, judgement, arguments, stream)
        if status != DONE:
            return status
        differences = compare(profile, judgement)
        # Beneath the matrix for people; beside it where a machine reads stdout.
        print(say(profile, judgement, differences), file=stream if arguments.format == "table" else sys.stderr)
    if judgement.local_outage is not None:
        _say("the lab's line is dead: no control answered, so nothing was judged")
        return CANNOT_MEASURE
    return DIFFERS if differences else DONE


def _verify(arguments: argparse.Namespace) -> int:
    import asyncio

    from vpntest.lab.profiles import load, names
    from vpntest.lab.verify import count, is_slow, measure, render, truths_here, untried_here

    # Each once, in the order given.
    chosen = list(dict.fromkeys(arguments.profiles)) or names()
    profiles = [load(name) for name in chosen]
    _need_root()
    truths, untried = truths_here(profiles), untried_here(profiles)
    with _stream(arguments) as stream:
        runs, interrupted = asyncio.run(measure(chosen, arguments.repeat, arguments.jobs, _progress))
        verification = count(
            runs,
            truths,
            wanted=len(chosen) * arguments.repeat,
            slow=[one.id for one in profiles if is_slow(one)],
            untried=untried,
        )
        _write(arguments, stream, verification, lambda: render(verification))
    if interrupted:
        _say(f"interrupted; {len(runs)} of {len(chosen) * arguments.repeat} runs were counted")
        return INTERRUPTED + interrupted
    return DONE if verification.passes else DIFFERS


def _list(_: argparse.Namespace) -> int:
    from tabulate import tabulate

    from vpntest.lab.profiles import load, names

    print(tabulate([(name, load(name).title) for name in names()], ("profile", "title"), disable_numparse=True))
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from vpntest.plan.read import found
    from vpntest.report import checked
    from vpntest.tunnel.carriers import find

    with _stream(arguments) as stream:
        report = checked.check(found(arguments.paths), find(), datetime.now(UTC))
        if arguments.format == "json":
            stream.write(checked.encode(report).decode() + "\n")
        else:
            stream.writelines(
                checked.render(
                    report,
                    width=_width(arguments),
                    colour=_in_colour(arguments.color, stream),
                    unicode=_unicode(stream),
                    all_of_them=not arguments.problems,
                )
            )
    return DONE if report.usable else CONFIG_FAULT


def _evidence(arguments: argparse.Namespace) -> Evidence | None:
    """Where evidence is to be kept; to be called before a cage hides /run."""
    from vpntest.tunnel.evidence import Evidence

    return Evidence(arguments.evidence) if arguments.evidence is not None else None


def _keep(evidence: Evidence | None, record: Record, judgement: Judgement) -> None:
    from vpntest.report.document import encode

    if evidence is not None:
        # As `--format json` writes it.
        evidence.keep(encode(record, judgement) + b"\n")


async def _measured(plan: Plan, line: Vantage, cage: Cage, evidence: Evidence | None) -> tuple[Record, int]:
    """A run to its end, or to the first SIGINT or SIGTERM: what was measured, and the exit status that follows."""
    import asyncio
    import traceback

    from vpntest.report.progress import show
    from vpntest.run import Run
    from vpntest.tunnel.carriers import find

    if evidence is not None:
        evidence.expect(plan)
    run = Run(plan, line, cage, find(), _progress, evidence)
    task = asyncio.ensure_future(run.measure())
    status_line = asyncio.ensure_future(show(run.progress, sys.stderr)) if _is_watched() else None
    received: list[int] = []

    def interrupt(number: int) -> None:
        received.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        _say("interrupted; what was measured until now follows")
    finally:
        if status_line is not None:
            status_line.cancel()
            await asyncio.wait([status_line])
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    status = DONE
    for fault in run.faults:
        if isinstance(fault, CannotMeasure):
            _say(str(fault))
            status = status or CANNOT_MEASURE
        else:
            traceback.print_exception(fault)
            status = OUR_FAULT
    return run.record(), INTERRUPTED + received[0] if received else status


def _selected(plan: Plan, arguments: argparse.Namespace) -> Plan:
    """The plan with only the tunnels and platforms that were asked for. Raises UsageError for a name that it lacks."""
    import msgspec

    def chosen(have: dict[str, Any], wanted: list[str] | None, what: str) -> tuple[Any, ...]:
        for name in wanted or ():
            if name not in have:
                raise UsageError(f"the plan has no {what} called {name!r}; it has: {', '.join(have) or 'none'}")
        return tuple(value for name, value in have.items() if wanted is None or name in wanted)

    tunnels = chosen({tunnel.name: tunnel for tunnel in plan.tunnels}, arguments.tunnel, "tunnel")
    platforms = chosen({platform.id: platform for platform in plan.platforms}, arguments.platform, "platform")
    if not tunnels or not platforms:
        raise NothingSelected("nothing to measure: the plan has no tunnel or no platform")
    return msgspec.structs.replace(plan, tunnels=tunnels, platforms=platforms)


def _say_problems(tunnels: Sequence[TunnelSpec]) -> bool:
    """One line for each thing that the reader must know of the configs. True where a config is broken."""
    for tunnel in tunnels:
        for warning in tunnel.warnings:
            _say(f"{tunnel.name}: {warning}")
        if tunnel.problem:
            _say(f"{tunnel.name}: {tunnel.problem.mechanism}: {tunnel.problem.reason}")
    return any(tunnel.problem is not None and tunnel.problem.mechanism == "invalid" for tunnel in tunnels)


def _need_root() -> None:
    """Raises CannotMeasure without root; with it, takes as many descriptors as this box allows."""
    import resource

    if os.geteuid() != 0:
        raise CannotMeasure("tunnels need root (network namespaces and devices); run it with sudo")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _shell(arguments: argparse.Namespace) -> int:
    import asyncio

    from vpntest.plan.read import read_plan
    from vpntest.shell import inside, person
    from vpntest.tunnel.namespace import Namespace
    from vpntest.tunnel.raising import outside

    plan = read_plan(arguments.paths)
    names = ", ".join(tunnel.name for tunnel in plan.tunnels)
    chosen = [tunnel for tunnel in plan.tunnels if arguments.tunnel in (None, tunnel.name)]
    if not chosen:
        raise UsageError(f"the plan has no tunnel called {arguments.tunnel!r}; it has: {names or 'none'}")
    if len(chosen) > 1:
        raise UsageError(f"a shell is inside one tunnel: say which by --tunnel: {names}")
    if _say_problems(chosen):
        return CONFIG_FAULT
    if chosen[0].config is None:
        return CANNOT_MEASURE
    _need_root()

    def refuse(holder: str) -> NoReturn:
        raise CannotMeasure(f"a run or another shell ({holder}) is on this line, and a shell would disturb it")

    here = Namespace.current()
    here.claim(refuse)
    # Both before the cage hides /run, where many hosts keep their resolv.conf, and some their lists of users.
    line, who = outside(here, plan.settings), person(os.environ, root=arguments.root)
    return asyncio.run(inside(chosen[0], line, plan.settings, who, arguments.inside, _say, environment=os.environ))


def _completion(arguments: argparse.Namespace) -> int:
    from vpntest.lab.profiles import names as profiles
    from vpntest.manual import completion
    from vpntest.plan.platforms import built_in

    platforms = [platform.id for platform in built_in()]
    words = {"ID": platforms, "PLATFORM": platforms, "PROFILE": profiles()}
    print(completion(_parser(), arguments.shell, words))
    return DONE


def _man(_: argparse.Namespace) -> int:
    from vpntest.manual import page

    print(page(_parser(), EXAMPLES, STATUSES, os.environ), end="")
    return DONE


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _judge(arguments: argparse.Namespace) -> int:
    judgement = _reported(arguments)
    return CANNOT_MEASURE if judgement.local_outage is not None else DONE


def _report(arguments: argparse.Namespace) -> int:
    _reported(arguments)
    return DONE


def _reported(arguments: argparse.Namespace) -> Judgement:
    from vpntest.judge.judging import judge

    with _stream(arguments) as stream:
        record = _read(arguments)
        judgement = judge(record)
        found = _print(record, judgement, arguments, stream)
    if not found:
        raise NothingSelected(f"no tunnel that was asked for has a cell that is {' or '.join(arguments.outcome)}")
    return judgement


def _explain(arguments: argparse.Namespace) -> int:
    from vpntest.judge.judging import judge
    from vpntest.report.explain import explain

    kept, evidence = arguments.kept, arguments.evidence
    if evidence is None and kept.is_dir():
        evidence = kept
    if evidence is not None and not evidence.is_dir():
        raise UsageError(f"{evidence}: is no directory of evidence")
    record = _read(arguments)
    print(explain(record, judge(record), arguments.tunnel, arguments.platform, evidence), end="")
    return DONE


def _read(arguments: argparse.Namespace) -> Record:
    """The record of a document, of a directory of evidence, or of a run that is kept. Raises UsageError."""
    from vpntest.report.document import decode

    kept: Path = arguments.kept
    if kept.is_dir():
        kept = kept / "run.json"
    elif kept.name == str(kept) and not kept.exists():
        from vpntest.history.store import Store, is_name

        if is_name(kept.name):
            with Store(_database(arguments)) as store:
                return decode(store.document(kept.name))
    try:
        content = kept.read_bytes()
    except OSError as error:
        raise UsageError(f"{kept}: cannot be read ({error.strerror})") from error
    return decode(content)


# ── what was before ──────────────────────────────────────────────────────────────────────────────────────────────────


def _database(arguments: argparse.Namespace) -> Path:
    from vpntest.history.store import default_path

    return Path(arguments.db) if arguments.db else default_path(os.environ, root=os.geteuid() == 0)


def _watch(arguments: argparse.Namespace) -> Watch:
    from vpntest.history.changes import Condition
    from vpntest.history.watch import Watch

    path = None if arguments.db == "none" else _database(arguments)
    return Watch(path, [Condition(one) for one in arguments.fail_on], arguments.baseline)


def _watched(watch: Watch, record: Record, judgement: Judgement) -> tuple[bool, int]:
    """Keeps the run, and says which conditions hold: whether any does, and the exit status if it could not be kept."""
    from vpntest.report.document import encode

    try:
        holding, compared = watch.keep(encode(record, judgement))
    except VpntestError as error:
        # What was measured is not lost by it: it is still to be printed.
        _say(str(error))
        return False, error.exit_code
    if watch.asks and not compared:
        _say("no earlier run is kept, so nothing can have changed")
    return _complain(holding), DONE


def _complain(holding: Holding) -> bool:
    from vpntest.history.telling import sentence

    for condition, found in holding.items():
        for one in found:
            _say(f"--fail-on {condition}: {sentence(one)}")
    return bool(holding)


def _history(arguments: argparse.Namespace) -> int:
    from vpntest.history.store import SCHEMA, History, Store
    from vpntest.history.telling import history

    with Store(_database(arguments)) as store:
        lines = store.lines()
    with _stream(arguments) as stream:
        _write(arguments, stream, History(SCHEMA, tuple(lines)), lambda: history(lines))
    return DONE


def _diff(arguments: argparse.Namespace) -> int:
    from vpntest.history.changes import Condition
    from vpntest.history.telling import changes
    from vpntest.history.watch import difference, is_file, night

    named = [one for one in (arguments.before, arguments.after) if one is not None]
    if arguments.baseline is not None:
        if len(named) > 1:
            raise UsageError("--baseline stands for A: give B alone")
        named.insert(0, arguments.baseline)
    elif not named:
        named = ["last~1"]
    names = named if len(named) == 2 else [*named, "last"]
    with contextlib.ExitStack() as stack:
        store = None
        # Two files may be another box's: what is kept here says nothing of them, unless somebody says that it does.
        if arguments.db is not None or not all(map(is_file, names)):
            from vpntest.history.store import Store

            store = stack.enter_context(Store(_database(arguments)))
        before, after = (night(name, store) for name in names)
        conditions = map(Condition, arguments.fail_on)
        found, holding = difference(before, after, store, conditions, accepted=arguments.baseline is not None)
    ended = CANNOT_MEASURE if found.silent is not None else DONE
    if _complain(holding):
        ended = DIFFERS
    try:
        with _stream(arguments) as stream:
            text = partial(changes, found, width=_width(arguments), unicode=_unicode(stream))
            _write(arguments, stream, found, text)
            stream.flush()
    except (VpntestError, OSError) as error:
        # What it has found stands, whoever reads it.
        if (excused := _excused(error)) is None:
            raise
        ended = ended or excused
    return ended


def _trend(arguments: argparse.Namespace) -> int:
    from vpntest.history.store import Store
    from vpntest.history.trend import render, trend

    with Store(_database(arguments)) as store:
        found = trend(store.nights(), arguments.tunnel, arguments.platform)
    with _stream(arguments) as stream:
        text = partial(render, found, width=_width(arguments), unicode=_unicode(stream))
        _write(arguments, stream, found, text)
    return DONE


def _prune(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime, timedelta

    from vpntest.history.store import Store

    if arguments.keep is None and arguments.older is None and not arguments.all:
        raise UsageError("say which runs to forget: --keep N, --older DAYS, or --all")
    if arguments.all and (arguments.keep is not None or arguments.older is not None):
        raise UsageError("--all forgets every run: give it alone")
    older = None
    if arguments.older is not None:
        try:
            older = (datetime.now(UTC) - timedelta(days=arguments.older)).isoformat(timespec="seconds")
        except OverflowError:
            older = ""  # before the first year, where no run began
    with Store(_database(arguments)) as store:
        gone = store.prune(keep=0 if arguments.all else arguments.keep, older_than=older)
    _say(f"{len(gone)} run{'' if len(gone) == 1 else 's'} forgotten")
    return DONE


def _doctor(arguments: argparse.Namespace) -> int:
    from vpntest.doctor import encode, examine, look, render

    with _stream(arguments) as stream:
        report = examine(look(arguments.db))
        if arguments.format == "json":
            stream.write(encode(report).decode() + "\n")
        else:
            colour = _in_colour(arguments.color, stream)
            stream.write(render(report, width=_width(arguments), colour=colour, unicode=_unicode(stream)))
    return CANNOT_MEASURE if report.can_measure is False else DONE


@contextlib.contextmanager
def _stream(arguments: argparse.Namespace) -> Iterator[TextIO]:
    """Where the result goes.

    A file is opened before the measuring, so that a bad path costs no run, and takes its name only when it is whole:
    until then an older result stays what it was. A whole run that is not redacted is its owner's alone, and in the
    folder of the person who called sudo it is theirs.
    """
    target: Path | None = arguments.output
    if target is None:
        # Only text for a terminal can do with less; what machines read is UTF-8 wherever it goes.
        if arguments.format not in ("table", "text") and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    try:
        # What lies below /run is out of sight once the cage is open, and a device or pipe keeps its name.
        in_place = (target.exists() and not target.is_file()) or Path(os.path.realpath(target)).is_relative_to("/run")
        path = target if in_place else target.with_name(f".{target.name}.{os.getpid()}")
        if not in_place:
            # Left by a process that had this number before us. Made anew: a link in its place is not followed.
            path.unlink(missing_ok=True)
        is_private = getattr(arguments, "redact", None) is False and arguments.format in ("json", "ooni")
        stream = open(  # noqa: SIM115 - closed below
            path,
            "w" if in_place else "x",
            encoding="utf-8",
            opener=lambda name, flags: os.open(name, flags, 0o600 if is_private else 0o666),
        )
        caller = os.environ.get("SUDO_UID", "")
        if is_private and not in_place and caller == str(path.parent.stat().st_uid) and os.geteuid() == 0:
            with contextlib.suppress(OSError):  # not on every file system
                os.fchown(stream.fileno(), int(caller), -1)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror})") from error
    # By default it would end us on the spot, and what is half-written would stay.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(INTERRUPTED + number))
    try:
        with stream:
            yield stream
        if path != target:
            path.replace(target)
    finally:
        if path != target:
            path.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, before)


def _print(record: Record, judgement: Judgement, arguments: argparse.Namespace, stream: TextIO) -> bool:
    """Writes the record in the form that was asked for. False where `--outcome` leaves no tunnel to show."""
    from vpntest.report.forms import Look, written
    from vpntest.report.matrix import arrange
    from vpntest.report.view import View

    shown, said = record, judgement
    if arguments.redact:
        from vpntest.judge.judging import judge
        from vpntest.report.redaction import redacted

        shown = redacted(record)
        said = judge(shown)
    # Tunnels are asked for by their own names, also where they are shown under others.
    names = {old.name: new.name for old, new in zip(record.tunnels, shown.tunnels, strict=True)}
    tunnels, platforms = getattr(arguments, "show_tunnel", None), getattr(arguments, "show_platform", None)
    view = View(
        sort=arguments.sort,
        tunnels=tuple(names.get(name, name) for name in tunnels) if tunnels else None,
        platforms=tuple(platforms) if platforms else None,
        outcomes=tuple(arguments.outcome) if arguments.outcome else None,
    )
    colour = _in_colour(arguments.color, stream)
    look = Look(_width(arguments), colour, _unicode(stream), arguments.wide, view)
    stream.writelines(written(arguments.format, shown, said, look))
    stream.flush()
    if arguments.timings:
        from vpntest.report.timings import render as render_timings

        print(render_timings(shown), file=sys.stderr)
    if not (view.outcomes and said.cells and arguments.format in ("table", "markdown")):
        return True
    return len(view.of(arrange(shown, said)).rows) > 1


def _write(arguments: argparse.Namespace, stream: TextIO, document: Any, text: Callable[[], str]) -> None:
    """Writes the document as JSON on one line where that was asked for, else the text."""
    if arguments.format == "json":
        import msgspec

        stream.write(msgspec.json.encode(document).decode() + "\n")
    else:
        stream.write(text())


def _width(arguments: argparse.Namespace) -> int:
    return int(arguments.width or shutil.get_terminal_size((120, 24)).columns)


def _unicode(stream: TextIO) -> bool:
    """Whether glyphs beyond ASCII can be shown."""
    return (stream.encoding or "ascii").lower().replace("-", "") == "utf8"


def _in_colour(choice: str, stream: TextIO) -> bool:
    """`--color`, then NO_COLOR (no-color.org), then whether a person looks at it."""
    if choice != "auto":
        return choice == "always"
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def _is_watched() -> bool:
    """Whether stderr is a terminal that can rewrite a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _progress(line: str) -> None:
    """What is going on, for a person who waits; a log file hears nothing of it."""
    if sys.stderr.isatty():
        _say(line)
