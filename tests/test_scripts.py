"""The scripts that prepare a machine, as far as a prepared machine can show it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PREPARE = REPOSITORY / "scripts/prepare"
NOBODY = 65534


def _state() -> dict[str, tuple[int, int]]:
    """Of every file that preparing makes: when it was changed, and its size."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for folder in (".venv", ".carriers")
        for path in (REPOSITORY / folder).rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def prepared() -> None:
    """Unprepared, the script would start installing: no test's business."""
    lock = REPOSITORY / "scripts/lock"
    pinned = (lock / "requirements.txt", lock / "built.txt", REPOSITORY / "pyproject.toml")
    # Of an older state it is unprepared too: the script would begin by taking the virtual environment away.
    key = hashlib.sha256(b"".join(file.read_bytes() for file in pinned) + f"{REPOSITORY}\n".encode()).hexdigest()
    stamp = REPOSITORY / ".venv/prepared"
    found = stamp.read_text().split() if stamp.is_file() else []
    assert found[:1] == [key], "this clone is not prepared: run the suite by scripts/test"


@pytest.mark.root
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("arguments", [[], ["--tests"]])
def test_preparing_again_changes_nothing_and_needs_no_network(arguments: list[str]) -> None:
    before = _state()
    # The tests' own namespace has no way out: see test_no_way_out.py.
    done = subprocess.run([PREPARE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"prepare: ready \(\d+ s\)\n", done.stderr)
    assert done.stdout == ""
    assert _state() == before


@pytest.mark.root
@pytest.mark.usefixtures("prepared")
def test_two_at_once() -> None:
    both = [subprocess.Popen([PREPARE], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [each.communicate()[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], said


@pytest.mark.root
def test_without_a_tun_device_it_says_so(tmp_path: Path) -> None:
    """On a kernel without TUN: a private /dev in which none can be made."""
    clone = _clone(tmp_path)
    hide = "mount -t tmpfs -o nodev none /dev/net && exec scripts/prepare"
    done = _run(["unshare", "--mount", "bash", "-c", hide], clone)
    assert done.returncode == 4
    assert "no usable /dev/net/tun" in done.stderr.splitlines()[-1]


@pytest.mark.root
def test_without_a_program_and_without_apt_it_names_the_package(tmp_path: Path) -> None:
    clone = _clone(tmp_path)
    tools = clone / "tools"
    tools.mkdir()
    for name in "bash cat cut dirname flock head id mkdir sha256sum sort python3".split():
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    # An empty /usr/sbin and /sbin, which the script adds to PATH.
    hide = "mount -t tmpfs none /usr/sbin && { [ -L /sbin ] || mount -t tmpfs none /sbin; }"
    hide += " && PATH=$PWD/tools exec scripts/prepare"
    done = _run(["unshare", "--mount", "bash", "-c", hide], clone)
    assert done.returncode == 4
    last = done.stderr.splitlines()[-1]
    assert last.startswith("prepare: missing here: ")
    assert {"dnsmasq-base", "iptables", "nftables", "nginx", "openvpn"} <= set(re.findall(r"[\w-]+", last))


def test_without_root_it_says_so() -> None:
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    # Read from standard input: nobody cannot look into a clone in root's home.
    with PREPARE.open() as text:
        done = subprocess.run(
            ["bash", "-s"], stdin=text, capture_output=True, text=True, check=False, cwd="/", **as_nobody
        )
    assert done.returncode == 4
    assert done.stderr == "prepare: this needs root (packages, network namespaces, TUN devices): run it with sudo\n"


@pytest.mark.parametrize("script", ["demo", "test", "verify"])
def test_what_cannot_be_prepared_is_not_run(script: str, tmp_path: Path) -> None:
    clone = _clone(tmp_path)
    (clone / "scripts/prepare").write_text("#!/bin/sh\necho 'prepare: no' >&2\nexit 4\n")
    for program in (".venv/bin/python", ".venv/bin/vpntest"):
        (clone / program).parent.mkdir(parents=True, exist_ok=True)
        (clone / program).write_text("#!/bin/sh\necho ran\n")
        (clone / program).chmod(0o755)
    done = _run([f"scripts/{script}"], clone)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "prepare: no\n")


@pytest.mark.parametrize(
    ("script", "program", "said"),
    [
        ("demo", "vpntest", "demo --profile open"),
        ("test", "python", "-m pytest -p no:cacheprovider --profile open"),
        ("verify", "vpntest", "lab verify --repeat 3 --profile open"),
    ],
)
def test_arguments_and_carriers_are_passed_on(script: str, program: str, said: str, tmp_path: Path) -> None:
    clone = _clone(tmp_path)
    (clone / "scripts/prepare").write_text("#!/bin/sh\n")
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin" / program).write_text('#!/bin/sh\necho "$@"\necho "$PATH"\n')
    (clone / ".venv/bin" / program).chmod(0o755)
    arguments, path = _run([f"scripts/{script}", "--profile", "open"], clone).stdout.splitlines()
    assert arguments == said
    assert path.split(":")[0] == str(clone / ".carriers/bin")
    assert "/usr/sbin" in path.split(":")


def test_an_unprepared_clone_says_what_to_do(tmp_path: Path) -> None:
    clone = _clone(tmp_path)
    done = _run(["scripts/vpntest", "--version"], clone)
    assert done.returncode == 4
    assert "run first: sudo" in done.stderr


def test_lint_of_an_unprepared_clone_says_what_to_do(tmp_path: Path) -> None:
    done = _run(["scripts/lint"], _clone(tmp_path))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "lint: no .venv/bin/python; run first: sudo scripts/prepare --tests\n"


def test_lint_names_all_that_failed(tmp_path: Path) -> None:
    clone = _clone(tmp_path)
    shutil.copytree(REPOSITORY / ".ci", clone / ".ci")
    linters = {".lint/bin/ruff": 1, ".lint/bin/mypy": 0, ".carriers/bin/shellcheck": 1, ".carriers/bin/actionlint": 0}
    for program, status in {**linters, ".venv/bin/python": 0}.items():
        (clone / program).parent.mkdir(parents=True, exist_ok=True)
        (clone / program).write_text(f'#!/bin/sh\necho "${{0##*/}}" "$@"\nexit {status}\n')
        (clone / program).chmod(0o755)
    key = _run(["bash", "-c", "{ cat scripts/lock/lint.txt && echo $PWD; } | sha256sum"], clone).stdout
    (clone / ".lint/prepared").write_text(key)
    done = _run(["scripts/lint"], clone)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["lint: failed: " + what for what in ("ruff check", "ruff format", "shellcheck")]
    [shells] = [line.split() for line in done.stdout.splitlines() if line.startswith("shellcheck")]
    assert {"scripts/prepare", "scripts/lint", ".ci/run"} <= set(shells)
    assert not any("lock" in path for path in shells)


def _clone(folder: Path) -> Path:
    """The scripts alone: what must be refused before anything is installed."""
    shutil.copytree(REPOSITORY / "scripts", folder / "scripts")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def _run(argv: list[str], clone: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=clone)
