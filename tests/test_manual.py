"""The manual page and the completions, as mandoc and the shells themselves take them."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from terminal import terminal

from vpntest import __version__
from vpntest.cli import EXAMPLES, STATUSES, _parser, main
from vpntest.lab.profiles import names
from vpntest.manual import SHELLS, commands, page
from vpntest.plan.platforms import built_in


def printed(*arguments: str) -> str:
    with redirect_stdout(StringIO()) as out:
        assert main([*arguments]) == 0
    return out.getvalue()


# ── manual page ──────────────────────────────────────────────────────────────────────────────────────────────────────


def made(**environment: str) -> str:
    return page(_parser(), EXAMPLES, STATUSES, environment)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page as a reader sees it, on one line."""
    file = tmp_path_factory.mktemp("man") / "vpntest.1"
    file.write_text(made())
    shown = subprocess.run(
        ["mandoc", "-Tascii", "-O", "width=500", str(file)], capture_output=True, text=True, check=True
    ).stdout
    return " ".join(re.sub(".\b", "", shown).split())


def test_mandoc_finds_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "vpntest.1"
    file.write_text(made(SOURCE_DATE_EPOCH="1700000000"), encoding="ascii")
    done = subprocess.run(["mandoc", "-Tlint", "-W", "warning", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_command_and_option_is_in_it(read: str) -> None:
    there = [command for command in commands(_parser()) if command.prog != "vpntest"]
    assert len(there) > 12
    for command in there:
        assert f"{command.prog} " in read
        for action in (one for one in command._actions if not isinstance(one, argparse._HelpAction)):
            for name in action.option_strings:
                assert name in read, f"{command.prog} {name}"
            if action.help and not isinstance(action, argparse._SubParsersAction):
                help_text = " ".join(command._get_formatter()._expand_help(action).replace("…", "...").split())
                assert help_text in read, f"{command.prog} {action.dest}"


def test_it_has_what_a_page_has(read: str) -> None:
    assert f"vpntest {__version__}" in read
    sections = (
        "NAME",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "EXIT STATUS",
        "EXAMPLES",
        "FILES",
        "ENVIRONMENT",
        "SEE ALSO",
    )
    found = [read.index(f" {section} ") for section in sections]
    assert found == sorted(found)
    for term, meaning in (*EXAMPLES, *STATUSES):
        assert f"{term} {meaning.replace('…', '...')}" in read


def test_it_is_the_same_every_day_and_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    first = made()
    assert first.startswith('.TH VPNTEST "1" "" "vpntest')
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    assert made() == first
    assert made(SOURCE_DATE_EPOCH="1700000000").replace('"2023-11-14"', '""') == first
    assert made(SOURCE_DATE_EPOCH="9" * 14) == first
    assert printed("man").splitlines()[1:] == first.splitlines()[1:]


# ── completion ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_shells_are_those_of_the_command_line() -> None:
    offered = next(command for command in commands(_parser()) if command.prog == "vpntest completion")
    assert next(action.choices for action in offered._actions if action.dest == "shell") == SHELLS


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, and one to be completed in."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / ("_vpntest" if shell == "zsh" else shell)).write_text(printed("completion", shell))
    (folder / "here/configs").mkdir(parents=True)
    (folder / "here/plan.toml").touch()
    return folder


PLATFORMS = {platform.id for platform in built_in()}
QUESTIONS: dict[str, set[str]] = {
    "vpntest re": {"report"},
    "vpntest com": {"completion"},
    "vpntest report --format j": {"json", "junit"},
    "vpntest check --format ": {"text", "json"},
    "vpntest run --fail-on re": {"regression", "recovery"},
    "vpntest run --platform ": PLATFORMS,
    "vpntest lab ver": {"verify"},
    "vpntest lab verify ir_": {name for name in names() if name.startswith("ir_")},
    "vpntest demo --profile cn_": {name for name in names() if name.startswith("cn_")},
    "vpntest trend sweden t": {name for name in PLATFORMS if name.startswith("t")},
    "vpntest run pl": {"plan.toml"},
    "vpntest run conf": {"configs"},
    "vpntest report -o pl": {"plan.toml"},
    "vpntest run --no": set(),
}

ASK_BASH = """
source ../bash
while IFS= read -r line; do
    read -ra COMP_WORDS <<< "$line"
    [[ $line != *" " ]] || COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    handler=$(complete -p vpntest)
    [[ $handler =~ -F\\ ([^ ]+) ]]
    ${BASH_REMATCH[1]}
    echo "${COMPREPLY[*]}"
done
"""
ASK_FISH = """
source ../fish
while read -l line
    echo (complete -C "$line" | string replace -r '\\t.*' '')
end
"""


@pytest.mark.parametrize(("shell", "script"), [("bash", ASK_BASH), ("fish", ASK_FISH)])
def test_what_a_shell_offers(scripts: Path, tmp_path: Path, shell: str, script: str) -> None:
    done = subprocess.run(
        [shell, "-c", script],
        input="".join(f"{question}\n" for question in QUESTIONS),
        capture_output=True,
        text=True,
        check=True,
        cwd=scripts / "here",
        env={**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert done.stderr == ""
    answers = [{word.rstrip("/") for word in line.split()} for line in done.stdout.splitlines()]
    assert dict(zip(QUESTIONS, answers, strict=True)) == QUESTIONS


LOAD = {
    "bash": ("bash", "--norc", "--noprofile"),
    "zsh": ("zsh", "-f"),
    "tcsh": ("tcsh", "-f"),
    "fish": ("fish", "--no-config"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_person_presses_tab(scripts: Path, tmp_path: Path, shell: str) -> None:
    # On a dumb terminal tcsh completes nothing.
    kind = "vt100" if shell == "tcsh" else "dumb"
    own = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    with terminal(*LOAD[shell], cwd=str(scripts / "here"), TERM=kind, **own) as at:
        # zsh finds it by its name, as where it is installed.
        load = (
            "fpath=($PWD/.. $fpath); autoload -Uz compinit; compinit -u -D" if shell == "zsh" else f"source ../{shell}"
        )
        at.types(f"{load}\necho loa''ded\n")
        at.shows("loaded")
        for typed, whole in (("vpntest hist", "vpntest history "), ("vpntest run pl", "vpntest run plan.toml ")):
            at.types(f"{typed}\t")
            at.shows(re.escape(whole))
            at.types("\x15")
