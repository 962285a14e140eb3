"""What is made from the command line's own parser: the manual page, and completion for shells."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from vpntest import __version__

SHELLS = ("bash", "zsh", "tcsh", "fish")
"""Those whose completion can be written."""

FILES = (
    ("plan.toml", "a plan: what to measure, and through what; configs/plan.example.toml shows every key"),
    ("/var/lib/vpntest/runs.sqlite", "the runs that root has kept"),
    ("~/.local/state/vpntest/runs.sqlite", "the runs that anybody else has kept"),
)
ENVIRONMENT = (
    ("NO_COLOR", "where set to anything, the table has no colour unless --color says so"),
    ("TERM", "dumb: neither colour, nor a line that tells how far a run has come"),
    ("COLUMNS", "how wide tables may be, where no terminal tells"),
    ("PATH", "where carriers are looked for"),
    ("XDG_STATE_HOME", "in place of ~/.local/state"),
    ("STATE_DIRECTORY", "where runs are kept, as systemd says it to a service"),
    ("VPNTEST_TUNNEL", "set by vpntest shell for what runs inside: the tunnel's name"),
)
SEE_ALSO = "wg(8), openvpn(8), tor(1), ip\\-netns(8), systemd.timer(5)"


# ── completion ───────────────────────────────────────────────────────────────────────────────────────────────────────


def completion(parser: argparse.ArgumentParser, shell: str, words: Mapping[str, Sequence[str]]) -> str:
    """A script that teaches `shell` the commands, options and choices of `parser`.

    An argument that is a path is completed with files; one whose metavar is in `words` with these. Changes the parser,
    so that it is of no other use.
    """
    import shtab

    for command in commands(parser):
        for action in command._actions:
            known = words.get(str(action.metavar))
            if known is not None and action.choices is None:
                action.choices = known
            elif action.type is Path or "FILE" in str(action.metavar) or "PATH" in str(action.metavar):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, and those of its commands and of theirs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from commands(command)


# ── manual page ──────────────────────────────────────────────────────────────────────────────────────────────────────


def page(
    parser: argparse.ArgumentParser,
    examples: Sequence[tuple[str, str]],
    statuses: Sequence[tuple[str, str]],
    environment: Mapping[str, str],
) -> str:
    """The manual page, vpntest(1), in man(7).

    The same for the same version: its date is that of SOURCE_DATE_EPOCH in `environment`, and it has none without.
    Changes the parser, so that it is of no other use.
    """
    from argparse_manpage.manpage import Manpage

    parser.epilog = None
    for command in commands(parser):
        # One long line, which the reader's program breaks as its window asks for.
        command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=1 << 16)
    epoch = environment.get("SOURCE_DATE_EPOCH", "")
    try:
        date = datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%d") if epoch.isdecimal() else "-"
    except (OverflowError, ValueError, OSError):  # beyond the year 9999
        date = "-"
    facts = {
        "description": "which VPN setups still get people around the blocking on this network",
        "date": date,
        "manual_title": "User Commands",
        "version": __version__,
    }
    made = Manpage(parser, facts, format="single-commands-section")
    for heading, content in (
        ("EXIT STATUS", _table(statuses)),
        ("EXAMPLES", _table(examples)),
        ("FILES", _table(FILES)),
        ("ENVIRONMENT", _table(ENVIRONMENT)),
        ("SEE ALSO", SEE_ALSO),
    ):
        made.add_section(heading, ">", content)
    return "".join(f"{line}\n" for line in _tidied(str(made).splitlines()))


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f".TP\n.B {_escaped(term)}\n{_escaped(meaning)}" for term, meaning in rows)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti")


def _tidied(lines: Sequence[str]) -> Iterator[str]:
    """As every reader of man(7) takes it: ASCII, no blank lines, no words torn in a usage."""
    plain = (line.replace("…", "...") for line in lines)
    kept = [re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", line) for line in plain]
    for number, line in enumerate(kept):
        if not line:
            before, after = kept[number - 1], next(filter(None, kept[number:]), ".")
            if before and not after.startswith("."):
                yield ".PP"
        elif line.startswith(".TH"):
            yield line.replace("\\-", "-").replace('"-"', '""')
            yield from (".nh", ".ad l")
        else:
            yield line
