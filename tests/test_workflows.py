"""The workflow files: sound for those who read them, safe for the box, and each of their commands run as it stands."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from junitparser import JUnitXml
from own_network import OwnNetwork, own_network
from story import story

from vpntest.judge.judging import judge
from vpntest.lab.profiles import names
from vpntest.report.document import decode, encode
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace

REPOSITORY = Path(__file__).resolve().parent.parent
GITHUB_NIGHT = REPOSITORY / "configs/ci/github-nightly.yml"
GITLAB_NIGHT = REPOSITORY / "configs/ci/gitlab-nightly.yml"
NIGHTS = [GITHUB_NIGHT, GITLAB_NIGHT]
OWN = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
GITHUB = [*OWN, GITHUB_NIGHT]
ACTIONLINT = ["actionlint", "-config-file", str(REPOSITORY / ".github/actionlint.yaml"), "-no-color"]
EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")


def read(path: Path) -> dict[Any, Any]:
    """YAML 1.1 takes the key `on` for true."""
    document: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


# ── what others say of them ──────────────────────────────────────────────────────────────────────────────────────────


# These need what scripts/prepare --tests brings.
@pytest.mark.root
@pytest.mark.parametrize("path", GITHUB, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_actionlint_and_shellcheck_find_nothing(path: Path) -> None:
    done = subprocess.run([*ACTIONLINT, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.root
def test_actionlint_finds_what_is_wrong(tmp_path: Path) -> None:
    """So that the test above can fail."""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(GITHUB_NIGHT.read_text().replace("steps.measure.outputs", "steps.measured.outputs", 1))
    done = subprocess.run([*ACTIONLINT, wrong], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert '"measured" is not defined' in done.stdout
    wrong.write_text(GITHUB_NIGHT.read_text().replace('"$RUNNER_TEMP"', "$RUNNER_TEMP"))
    done = subprocess.run([*ACTIONLINT, wrong], capture_output=True, text=True, check=False)
    assert "SC2086" in done.stdout, "shellcheck was asked"


def gitlab_schema(path: Path) -> subprocess.CompletedProcess[str]:
    """GitLab's own published schema, as check-jsonschema carries it."""
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
    return subprocess.run([sys.executable, *words, path], capture_output=True, text=True, check=False)


def test_gitlab_takes_it(tmp_path: Path) -> None:
    done = gitlab_schema(GITLAB_NIGHT)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(GITLAB_NIGHT.read_text().replace("access: developer", "access: everybody"))
    assert gitlab_schema(wrong).returncode == 1


@pytest.mark.root
def test_shellcheck_finds_nothing_in_what_gitlab_runs() -> None:
    done = subprocess.run(["shellcheck", "--shell=bash", "-"], input=gitlab_script(), text=True, check=False)
    assert done.returncode == 0


# ── what they may ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_is_of_others_is_pinned_and_little_is_allowed(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 150
        assert "permissions" not in job
        for step in job["steps"]:
            # What a stranger may have written becomes a variable, never a piece of a script.
            assert not EXPRESSION.search(step.get("run", ""))
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_no_stranger_starts_a_night() -> None:
    workflow = read(GITHUB_NIGHT)
    assert set(workflow[True]) == {"schedule", "workflow_dispatch"}
    assert workflow[True]["workflow_dispatch"] is None, "nothing is asked of who starts it by hand"
    assert workflow["concurrency"] == {"group": "vpntest", "cancel-in-progress": False}
    pipeline = read(GITLAB_NIGHT)
    assert [rule["if"] for rule in pipeline["workflow"]["rules"]] == [
        '$CI_PIPELINE_SOURCE == "schedule"',
        '$CI_PIPELINE_SOURCE == "web"',
    ]
    assert pipeline["night"]["resource_group"] == "vpntest"


@pytest.mark.parametrize("path", NIGHTS, ids=lambda path: path.name)
def test_no_secret_is_asked_for(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"secrets\.|CI_JOB_TOKEN|password", text, re.IGNORECASE)


# ── what they run ────────────────────────────────────────────────────────────────────────────────────────────────────


class Box:
    """A test box of which only `sudo`, and if wanted vpntest itself, is made up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temp = folder / "temp"
        self.summary = folder / "summary"
        self.output = folder / "output"
        self.asked = folder / "asked"
        self.temp.mkdir(parents=True)
        for file in (self.summary, self.output):
            file.touch()
        self.program("sudo", f'printf "%s " "$@" >> {self.asked}\n[ "$1" != -n ] || shift\nexec "$@"')
        self.program("logger", f'cp "$4" {folder}/journal')
        self.vpntest = self.program("vpntest", f'exec {sys.executable} -m vpntest "$@"')
        self.plan = folder / "plan.toml"

    def program(self, name: str, script: str) -> Path:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def ends(self, status: int, document: bytes, said: str = "", *, report: str = "") -> None:
        """From now on a run ends so; all else is the real thing, where no other `report` is given."""
        kept = self.folder / "kept.json"
        kept.write_bytes(document)
        run = f'if [ "$1" = run ]; then echo {shlex.quote(said)} >&2; cat {kept}; exit {status}; fi'
        self.vpntest = self.program("vpntest", f'{run}\n{report}\nexec {sys.executable} -m vpntest "$@"')

    def environment(self, **more: str) -> dict[str, str]:
        mine = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_WORKSPACE": str(self.folder),
            "TMPDIR": str(self.temp),
        }
        return {**os.environ, **mine, **more}

    @property
    def reports(self) -> dict[str, str]:
        """What is uploaded."""
        [folder] = [path for path in (self.temp / "vpntest", self.folder / "vpntest") if path.is_dir()]
        return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def github_job(box: Box, path: Path, name: str, **env: str) -> tuple[int, str]:
    """The steps of a job, as a runner takes them: what a step prints, and the status of the first that failed.

    Actions are left out. Of GitHub's expressions it knows those that are there.
    """
    job = read(path)["jobs"][name]
    printed, status = "", 0
    for step in job["steps"]:
        if "run" not in step or (status and "cancelled()" not in step.get("if", "")):
            continue
        known = dict(line.split("=", 1) for line in box.output.read_text().splitlines())
        known = {
            f"steps.{step}.outputs.{key}": value for key, value in known.items() for step in ("measure", "publish")
        }
        given = {**job.get("env", {}), **step.get("env", {})}
        given = {
            key: known.get(found[1], "") if (found := EXPRESSION.fullmatch(value)) else value
            for key, value in given.items()
        }
        script = box.folder / "step.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            env=box.environment(**{**given, **env}),
            cwd=box.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        printed += done.stdout + done.stderr
        status = status or done.returncode
    return status, printed


def gitlab_script() -> str:
    return "\n".join(read(GITLAB_NIGHT)["night"]["script"])


def gitlab_job(box: Box, **env: str) -> tuple[int, str]:
    """The job's script, in what its runner's shell executor wraps it."""
    given = {key: str(value) for key, value in read(GITLAB_NIGHT)["night"]["variables"].items()}
    done = subprocess.run(
        ["bash", "-c", f"set -eo pipefail\nset +o noclobber\n: | eval {shlex.quote(gitlab_script())}\nexit 0"],
        env=box.environment(**{**given, **env}),
        cwd=box.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def night(box: Box, forge: str, **env: str) -> tuple[int, str]:
    env = {"VPNTEST": str(box.vpntest), "PLAN": str(box.plan), **env}
    return github_job(box, GITHUB_NIGHT, "night", **env) if forge == "github" else gitlab_job(box, **env)


SAYS_ITS_FORM = 'echo "$5" > "$7"; exit'
FORGES = pytest.mark.parametrize("forge", ["github", "gitlab"])
SENTENCES = {0: "Nothing got worse", 1: "omething got worse", 4: "Could not measure", 143: "Interrupted"}


@pytest.fixture(scope="module")
def kept() -> bytes:
    record = story()
    return encode(record, judge(record))


@pytest.mark.root
@FORGES
def test_a_night_on_which_something_got_worse(box: Box, forge: str, kept: bytes) -> None:
    box.ends(1, kept, "vpntest: --fail-on regression: secret-name")
    status, printed = night(box, forge)
    assert status == 1
    assert SENTENCES[1] in printed
    assert "secret-name" not in printed, "the log may be public"
    assert "secret-name" in (box.folder / "journal").read_text()
    assert sorted(box.reports) == ["junit.xml", "report.html", "run.json", "summary.md"]
    assert decode(box.reports["run.json"].encode()).run.redacted
    for name in ("report.html", "summary.md"):
        assert "Redacted for publication" in box.reports[name]
    suites = JUnitXml.fromstring(box.reports["junit.xml"].encode())
    assert [suite.name for suite in suites] == [tunnel.name for tunnel in story().tunnels]
    if forge == "github":
        assert box.summary.read_text() == box.reports["summary.md"]
        assert box.output.read_text() == "status=1\n"
    elsewhere = [path for path in box.temp.rglob("*") if path.is_file() and path.parent.name != "vpntest"]
    assert [path.name for path in elsewhere if forge == "gitlab"] == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in elsewhere), "what is not redacted is nobody else's"


@FORGES
@pytest.mark.parametrize("status", [0, 4, 143])
def test_the_job_ends_as_vpntest_did(box: Box, forge: str, status: int) -> None:
    box.ends(status, b"{}", report=SAYS_ITS_FORM)
    ended, printed = night(box, forge)
    assert ended == status
    assert SENTENCES[status] in printed
    assert {form.strip() for form in box.reports.values()} == {"html", "json", "junit", "markdown"}


@FORGES
@pytest.mark.parametrize(("status", "ends"), [(0, 3), (1, 1), (143, 143)])
def test_a_report_that_cannot_be_written_is_nothing_that_got_worse(
    box: Box, forge: str, status: int, ends: int
) -> None:
    box.ends(status, b"{}", report=f'[ "$5" != html ] || exit 1\n{SAYS_ITS_FORM}')
    ended, printed = night(box, forge)
    assert ended == ends
    assert "A report could not be written" in printed
    assert {form.strip() for form in box.reports.values()} == {"json", "junit", "markdown"}
    # Also where it is the one that is shown.
    box.ends(status, b"{}", report=f'[ "$5" != markdown ] || exit 4\n{SAYS_ITS_FORM}')
    for folder in ("temp/vpntest", "vpntest"):
        shutil.rmtree(box.folder / folder, ignore_errors=True)
    box.output.write_text("")
    assert night(box, forge)[0] == ends


@FORGES
@pytest.mark.parametrize("status", [2, 3, 4, 5])
def test_without_a_matrix_there_is_no_report(box: Box, forge: str, status: int) -> None:
    box.ends(status, b"")
    assert night(box, forge)[0] == status
    assert box.reports == {}
    assert box.summary.read_text() == ""


@FORGES
def test_what_sudo_refuses_is_no_regression(box: Box, forge: str) -> None:
    box.program("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    status, printed = night(box, forge, SHOW_LOG="yes")
    assert status == 4
    assert "| sudo: a password is required\n" in printed
    box.program("sudo", '[ "$1" != -n ] || shift; exec "$@"')
    assert gitlab_job(box, VPNTEST="/nowhere/vpntest")[0] == 4


def test_a_night_that_is_too_large_for_the_page(box: Box) -> None:
    box.ends(0, b"{}", report='head -c 1048577 /dev/zero > "$7"; exit')
    assert night(box, "github")[0] == 0
    assert len(box.summary.read_text()) < 200


@FORGES
def test_as_root_runs_one_command_and_the_rule_for_sudo_is_that_command(box: Box, forge: str) -> None:
    text = (GITHUB_NIGHT if forge == "github" else GITLAB_NIGHT).read_text()
    [rule] = re.findall(r"^# [\w-]+ ALL=\(root\) NOPASSWD: (.+)$", text, re.MULTILINE)
    # Its programs are the box's: here it is only asked for.
    box.program("sudo", f'printf "%s " "$@" >> {box.asked}\nexit 1')
    job = read(GITHUB_NIGHT)["jobs"]["night"]["env"] if forge == "github" else read(GITLAB_NIGHT)["night"]["variables"]
    night(box, forge, VPNTEST=job["VPNTEST"], PLAN=job["PLAN"])
    assert box.asked.read_text() == f"-n {rule} "
    command = rule.partition(" /opt/vpntest/scripts/vpntest ")[2].split()
    assert command[0] == "run"
    done = subprocess.run(
        [sys.executable, "-m", "vpntest", *command[:-1], box.folder / "nothing.toml"], capture_output=True, check=False
    )
    assert done.returncode == 2, "the options are vpntest's own, only the plan is missing"
    assert b"nothing.toml" in done.stderr


@pytest.fixture
def network() -> Iterator[OwnNetwork]:
    with contextlib.closing(Cage.open()) as cage, own_network(cage) as standing:
        yield standing


GOOD, WITH_A_BROKEN_ONE, DEAD_LINE = "good", "with a broken one", "dead line"


@pytest.mark.root
@pytest.mark.parametrize(
    ("forge", "what", "wanted", "outcomes"),
    [
        ("github", GOOD, 0, ["open"]),
        ("gitlab", WITH_A_BROKEN_ONE, 2, ["open", "tunnel-down"]),
        ("github", DEAD_LINE, 4, []),
    ],
)
def test_a_night_that_is_really_measured(
    forge: str, what: str, wanted: int, outcomes: list[str], network: OwnNetwork, box: Box
) -> None:
    """Real tunnels, and vpntest as it is."""
    broken = '[[tunnel]]\nname = "broken"\nuri = "ss://x"\n' if what == WITH_A_BROKEN_ONE else ""
    box.plan = network.plan(network.tunnel + broken)
    with (
        contextlib.closing(Namespace.create()) as nothing,
        (nothing if what == DEAD_LINE else network.client).entered(),
    ):
        status, printed = night(box, forge)
    assert status == wanted, printed
    judgement = judge(decode(box.reports["run.json"].encode()))
    assert [cell.outcome for cell in judgement.cells] == outcomes
    assert network.password not in printed + "".join(box.reports.values())


# ── the project's own ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clone(box: Box) -> Box:
    """A machine that GitHub lends, with a clone whose scripts are made up."""
    box.program("apt-get", '[ "$2" = update ] || exit 100')
    (box.folder / "scripts").mkdir()
    for name in ("prepare", "lint", "test", "demo", "verify"):
        box.program(f"../scripts/{name}", f'echo {name} "$@"')
    box.vpntest = box.program("../scripts/vpntest", f'exec {sys.executable} -m vpntest "$@"')
    return box


def test_ci_lints_and_runs_the_suite(clone: Box) -> None:
    status, printed = github_job(clone, REPOSITORY / ".github/workflows/ci.yml", "suite")
    assert status == 0
    assert printed.splitlines() == [
        "::warning title=No more kernel modules::The lab does without, or says what it misses.",
        "prepare --tests",
        "lint",
        f"test --junitxml={clone.temp}/junit.xml",
    ]


@pytest.mark.root
@pytest.mark.parametrize("ends", [0, 1])
def test_a_night_of_the_lab(clone: Box, ends: int, kept: bytes) -> None:
    (clone.folder / "kept.json").write_bytes(kept)
    clone.program("../scripts/demo", f'echo "$@" >&2\ncat {clone.folder}/kept.json\nexit {ends}')
    path = REPOSITORY / ".github/workflows/nightly.yml"
    assert set(read(path)["jobs"]["demo"]["strategy"]["matrix"]["profile"]) <= set(names())
    status, printed = github_job(clone, path, "demo", PROFILE="open")
    assert status == ends
    assert "--profile open --format json\n" in printed
    assert sorted(entry.name for entry in (clone.temp / "demo").iterdir()) == ["junit.xml", "report.html", "run.json"]
    assert clone.summary.read_text().startswith("# open\n## vpntest")


@pytest.mark.parametrize("ends", [0, 1])
def test_a_night_of_the_truth(clone: Box, ends: int) -> None:
    clone.program("../scripts/verify", f"echo 'a  table'\nexit {ends}")
    assert github_job(clone, REPOSITORY / ".github/workflows/nightly.yml", "verify")[0] == ends
    assert clone.summary.read_text() == "# Verdicts against the truth\n```\na  table\n```\n"
