"""The nightly signal: scripts/nightly and scripts/install-nightly, and what systemd makes of the units."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import SHARED, booted
from own_network import SHADOWSOCKS_PORT, own_network

from vpntest.history.changes import Condition
from vpntest.tunnel.cage import Cage

REPOSITORY = Path(__file__).resolve().parent.parent
TOKEN = secrets.token_hex(16)
"""Of this process alone: the tests look for it among all that run on the machine."""
SENTENCE = "regression: twitter through sweden: open, then blocked"

STUB = r"""#!/bin/bash
# Stands for vpntest: what it is told in NIGHT it says and does.
if [ "$1" = check ]; then
    [ -z "${NO_PLAN-}" ] || { echo "vpntest: the plan is no plan" >&2; exit 2; }
    echo '{}'
    exit "${CHECKED-0}"
fi
echo "$@" >> "$NIGHT/asked"
file=/dev/stdout
while [ $# -gt 0 ]; do [ "$1" != -o ] || file=$2; [ "$1" != --format ] || form=$2; what=${what-$1}; shift; done
case $what in
    run)
        [ -z "${SAYS-}" ] || echo "vpntest: $SAYS" >&2
        if [ -n "${SLEEPS-}" ]; then
            trap 'echo partial > "$file"; exit 143' TERM
            touch "$NIGHT/measuring"
            while :; do sleep 0.02; done
        fi
        [ -n "${NO_RUN-}" ] || echo whole > "$file"
        exit "${STATUS-0}"
        ;;
    report)
        [ "${NO_REPORT-}" != "$form" ] || { echo "vpntest: no room" >&2; exit 4; }
        echo "$form" > "$file"
        ;;
    prune)
        [ -z "${NO_PRUNE-}" ] || { echo "vpntest: the history is locked" >&2; exit 4; }
        ;;
esac
"""


class Pinged:
    """A health-check server on loopback that looks at the processes while it is called."""

    def __init__(self, listening: socket.socket) -> None:
        self.calls: list[str] = []
        self.betrayed: set[str] = set()
        """Files of /proc that showed the token meanwhile."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.calls.append(self.path)
                for file in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
                    with contextlib.suppress(OSError):
                        if TOKEN.encode() in file.read_bytes():
                            outer.betrayed.add(str(file))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.HTTPServer(listening.getsockname(), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Pinged:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def pinged() -> Iterator[Pinged]:
    with Pinged(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


class Box:
    """A clone with the stub in the place of vpntest, and somewhere to keep things."""

    def __init__(self, folder: Path, name: str = "clone") -> None:
        self.folder = folder
        self.clone = folder / name
        shutil.copytree(REPOSITORY / "scripts", self.clone / "scripts", ignore=shutil.ignore_patterns("lock"))
        (self.clone / ".venv/bin").mkdir(parents=True)
        (self.clone / ".venv/prepared").touch()
        program = self.clone / ".venv/bin/vpntest"
        program.write_text(STUB)
        program.chmod(0o755)
        self.plan = folder / "plan.toml"
        self.plan.write_text("# a plan\n")
        self.plan.chmod(0o600)
        self.state = folder / "state"
        self.reports = self.state / "nightly"
        self.settings = folder / "nightly.conf"

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "NIGHT": str(self.folder), "STATE_DIRECTORY": str(self.state), **more}

    def set(self, *lines: str) -> None:
        self.settings.write_text("\n".join(["# a comment", "", f"plan={self.plan}", "fail-on=regression", *lines]))
        self.settings.chmod(0o600)

    def night(self, *part: str, **more: str) -> subprocess.CompletedProcess[str]:
        argv = [self.clone / "scripts/nightly", self.settings, *part]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=self.environment(**more))

    def told(self) -> dict[str, str]:
        """What the command for failures was told: its VPNTEST_… environment, and its input as ``text``."""
        facts = (self.folder / "facts").read_bytes().decode().split("\0")
        told = dict(fact.split("=", 1) for fact in facts if fact.startswith("VPNTEST_"))
        return {**told, "text": (self.folder / "text").read_text()}

    @property
    def telling(self) -> str:
        return f"on-failure=env -0 > {self.folder}/facts; cat > {self.folder}/text"

    def run(self, *argv: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """A command in the folder, which stands at /srv: systemd's services see no /tmp."""
        view = ["unshare", "--mount", "bash", "-c", 'mount --bind "$1" /srv && cd /srv && exec "${@:2}"', "view"]
        return subprocess.run(
            [*view, str(self.folder), *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(**more),
        )

    def install(self, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """A dry run into `units`."""
        argv = [f"/srv/{self.clone.name}/scripts/install-nightly", "--plan", "plan.toml", "--print", "units"]
        return self.run(*argv, *arguments, stdin=stdin, **more)

    def unit(self, kind: str = "service") -> str:
        return (self.folder / f"units/vpntest-nightly.{kind}").read_text()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_good_night_is_kept_and_only_the_health_check_hears_of_it(box: Box, pinged: Pinged) -> None:
    textfiles = box.folder / "textfiles"
    textfiles.mkdir()
    box.set(box.telling, f"health-url={pinged.url}", "health-start=yes", "junit=yes", f"textfile-dir={textfiles}")
    done = box.night()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (run,) = box.reports.glob("*.json")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}Z", run.stem)
    assert run.with_suffix(".html").read_text() == (box.reports / "latest.html").read_text() == "html\n"
    assert run.with_suffix(".xml").read_text() == "junit\n"
    assert done.stderr == f"nightly: done (exit status 0); {run.with_suffix('.html')}\n"
    assert pinged.calls == [f"/{TOKEN}/start", f"/{TOKEN}"]
    assert not (box.folder / "facts").exists()
    assert {file.stat().st_mode & 0o777 for file in (run, run.with_suffix(".html"))} == {0o600}
    # Of another user's to read, and nothing half-written beside it.
    assert {file.name: file.stat().st_mode & 0o777 for file in textfiles.iterdir()} == {
        "vpntest.prom": 0o644,
        "vpntest_nightly.prom": 0o644,
    }
    assert "\nvpntest_nightly_exit_status 0\n" in (textfiles / "vpntest_nightly.prom").read_text()
    asked = (box.folder / "asked").read_text().splitlines()
    assert asked[0] == f"run --format json -o {run} --fail-on regression -- {box.plan}"


@pytest.mark.parametrize(
    ("status", "result", "summary"),
    [
        (1, "worse", "something got worse"),
        (2, "config", "the plan or a config is wrong"),
        (3, "fault", "a fault of vpntest"),
        (4, "cannot-measure", "could not measure"),
        (5, "nothing", "the plan asks for nothing"),
        (143, "stopped", "it was stopped before it was done"),
    ],
)
def test_a_bad_night_is_told_with_its_facts(box: Box, pinged: Pinged, status: int, result: str, summary: str) -> None:
    box.set(box.telling, f"health-url={pinged.url}?create=1")
    done = box.night(STATUS=str(status), SAYS=f"--fail-on {SENTENCE}\nvpntest: and more")
    assert done.returncode == status
    (run,) = box.reports.glob("*.json")
    report = str(run.with_suffix(".html"))
    assert box.told() == {
        "VPNTEST_STATUS": str(status),
        "VPNTEST_RESULT": result,
        "VPNTEST_SUMMARY": summary,
        "VPNTEST_SENTENCES": SENTENCE,
        "VPNTEST_MESSAGES": "vpntest: and more",
        "VPNTEST_RUN": str(run),
        "VPNTEST_REPORT": report,
        "text": f"vpntest: {summary}\n{SENTENCE}\nvpntest: and more\n{report}\n",
    }
    assert done.stderr == (
        f"vpntest: --fail-on {SENTENCE}\nvpntest: and more\nnightly: {summary} (exit status {status}); {report}\n"
    )
    assert pinged.calls == [f"/{TOKEN}/{status}?create=1"]


def test_the_token_is_in_no_list_of_processes_and_in_no_log(box: Box, pinged: Pinged) -> None:
    box.set(box.telling, f"health-url={pinged.url}", "health-start=yes")
    done = box.night(STATUS="4")
    assert len(pinged.calls) == 2
    assert pinged.betrayed == set()
    assert TOKEN not in done.stdout + done.stderr + json.dumps(box.told())
    # The server's eyes are open.
    with subprocess.Popen(["sleep", "60"], env={**os.environ, "HERE": TOKEN}) as sleeper:
        try:
            box.night()
        finally:
            sleeper.kill()
    assert pinged.betrayed == {f"/proc/{sleeper.pid}/environ"}


def test_a_health_check_that_is_down_or_a_command_that_fails_changes_nothing(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = nobody.getsockname()[1]
    box.set("on-failure=exit 7", f"health-url=http://127.0.0.1:{gone}/{TOKEN}")
    done = box.night(STATUS="1")
    assert done.returncode == 1
    assert "nightly: the command for failures ended with exit status 7\n" in done.stderr
    assert "nightly: the health check was not reached (curl's exit status 7)\n" in done.stderr
    assert TOKEN not in done.stderr


def test_a_night_without_a_run_says_why(box: Box) -> None:
    box.set(box.telling)
    assert box.night(STATUS="4", NO_RUN="1", SAYS="the line is dead").returncode == 4
    told = box.told()
    assert (told["VPNTEST_RUN"], told["VPNTEST_REPORT"], told["VPNTEST_SENTENCES"]) == ("", "", "")
    assert told["text"] == "vpntest: could not measure\nvpntest: the line is dead\n"


@pytest.mark.parametrize("status", ["0", "1"])
def test_an_installation_that_is_broken_is_nothing_that_got_worse(box: Box, status: str) -> None:
    box.set(box.telling)
    assert box.night(STATUS=status, NO_RUN="1", SAYS="No module named 'vpntest'").returncode == 3
    told = box.told()
    assert (told["VPNTEST_RESULT"], told["VPNTEST_STATUS"], told["VPNTEST_RUN"]) == ("fault", "3", "")
    assert "No module named" in told["text"]


def test_what_got_worse_is_told_though_the_run_could_not_be_written(box: Box) -> None:
    box.set(box.telling)
    assert box.night(STATUS="1", NO_RUN="1", SAYS=f"--fail-on {SENTENCE}").returncode == 1
    assert box.told()["text"] == f"vpntest: something got worse\n{SENTENCE}\n"


def test_a_report_that_cannot_be_written_is_no_good_night(box: Box) -> None:
    box.set(box.telling)
    done = box.night(NO_REPORT="html")
    assert done.returncode == 4
    told = box.told()
    (run,) = box.reports.glob("*.json")
    assert (told["VPNTEST_RESULT"], told["VPNTEST_MESSAGES"], told["VPNTEST_RUN"]) == (
        "report",
        "vpntest: no room",
        str(run),
    )
    assert told["text"] == "vpntest: measured, but a report could not be written\nvpntest: no room\n"
    assert done.stderr.startswith("vpntest: no room\nnightly: measured, but")
    # It names no file that is not there.
    assert not (box.reports / "latest.html").is_symlink()
    # What went wrong before is told, not this.
    assert box.night(NO_REPORT="html", STATUS="1").returncode == 1
    assert box.told()["VPNTEST_RESULT"] == "worse"


def test_a_fault_of_the_script_is_never_something_that_got_worse(box: Box) -> None:
    box.set(box.telling)
    box.state.write_text("in the way")
    assert box.night().returncode == 3
    assert box.told()["VPNTEST_RESULT"] == "fault"


@pytest.mark.parametrize("by_deadline", [False, True])
def test_sigterm_keeps_what_was_measured(box: Box, by_deadline: bool) -> None:
    box.set(box.telling)
    # In two halves, as systemd runs them.
    handed = box.folder / "handed"
    handed.mkdir()
    environment = {"RUNTIME_DIRECTORY": str(handed)}
    argv = [box.clone / "scripts/nightly", box.settings, "measure"]
    with subprocess.Popen(argv, env=box.environment(SLEEPS="1", SAYS="begun", **environment)) as process:
        _await(box.folder / "measuring")
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    environment |= {"EXIT_CODE": "exited", "EXIT_STATUS": "143"}
    assert box.night("tell", SERVICE_RESULT="timeout" if by_deadline else "exit-code", **environment).returncode == 0
    told = box.told()
    assert told["VPNTEST_RESULT"] == ("deadline" if by_deadline else "stopped")
    assert told["VPNTEST_STATUS"] == "143"
    assert Path(told["VPNTEST_RUN"]).read_text() == "partial\n"
    assert Path(told["VPNTEST_REPORT"]).read_text() == "html\n"
    assert told["VPNTEST_MESSAGES"] == "vpntest: begun"


@pytest.mark.parametrize(
    ("ended", "result", "status"),
    [
        (("oom-kill", "killed", "KILL"), "memory", "137"),
        (("timeout", "killed", "KILL"), "deadline", "137"),
        (("signal", "killed", "KILL"), "fault", "137"),
        # A shell that fell over says 1 or 2 as well.
        (("exit-code", "exited", "1"), "fault", "3"),
    ],
)
def test_what_was_killed_is_told_too(box: Box, ended: tuple[str, str, str], result: str, status: str) -> None:
    box.set(box.telling)
    handed = box.folder / "handed"
    handed.mkdir()
    names = dict(zip(("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"), ended, strict=True))
    box.night("tell", RUNTIME_DIRECTORY=str(handed), **names)
    assert (box.told()["VPNTEST_RESULT"], box.told()["VPNTEST_STATUS"]) == (result, status)


def test_old_reports_go_and_old_runs_are_pruned(box: Box) -> None:
    box.reports.mkdir(parents=True)
    for day in range(1, 6):
        for suffix in ("json", "html"):
            (box.reports / f"2026-01-0{day}T000000Z.{suffix}").touch()
    (box.reports / "mine.json").touch()
    (box.state / "runs.sqlite").touch()
    box.set("keep=7", "keep-reports=3")
    assert box.night().returncode == 0
    left = sorted(file.name for file in box.reports.iterdir())
    assert [name for name in left if name.startswith("2026-01")] == [
        f"2026-01-0{day}T000000Z.{suffix}" for day in (4, 5) for suffix in ("html", "json")
    ]
    assert "mine.json" in left
    assert (box.folder / "asked").read_text().splitlines()[-1] == "prune --keep 7"


def test_what_a_night_that_was_killed_has_left_goes_away(box: Box) -> None:
    box.reports.mkdir(parents=True)
    with subprocess.Popen(["true"]) as gone:
        pass
    (box.reports / f".2026-01-01T000000Z.json.{gone.pid}").touch()
    # Another one waits for its turn.
    waits = box.reports / f".2026-01-02T000000Z.json.{os.getpid()}"
    waits.touch()
    box.set()
    assert box.night().returncode == 0
    assert list(box.reports.glob(".*")) == [waits]


def test_a_clock_that_was_once_wrong_costs_no_later_report(box: Box) -> None:
    box.reports.mkdir(parents=True)
    for year in (2020, 2021, 2097, 2098, 2099):
        (box.reports / f"{year}-01-01T000000Z.html").touch()
    (box.reports / "2020-my-notes.html").touch()
    box.set("keep-reports=2")
    assert box.night().returncode == 0
    assert (box.reports / "latest.html").read_text() == "html\n"
    (run,) = box.reports.glob("*.json")
    left = {file.name for file in box.reports.glob("*.html")}
    assert left == {"latest.html", "2020-my-notes.html", "2021-01-01T000000Z.html", run.with_suffix(".html").name}


def test_what_cannot_be_removed_is_told_and_hides_nothing(box: Box) -> None:
    box.set(box.telling, "keep-reports=1")
    # No file, so that not even root can remove it.
    (box.reports / "2020-01-01T000000Z.json").mkdir(parents=True)
    (box.reports / "2021-01-01T000000Z.json").touch()
    assert box.night(STATUS="1").returncode == 1
    told = box.told()
    assert (told["VPNTEST_RESULT"], Path(told["VPNTEST_RUN"]).read_text()) == ("worse", "whole\n")
    assert "2020-01-01T000000Z.json" in told["VPNTEST_MESSAGES"]
    assert not (box.reports / "2021-01-01T000000Z.json").exists()
    assert box.night().returncode == 3
    assert box.told()["VPNTEST_RESULT"] == "prune"
    (box.reports / "2020-01-01T000000Z.json").rmdir()
    (box.state / "runs.sqlite").touch()
    assert box.night(NO_PRUNE="1").returncode == 4
    told = box.told()
    assert (told["VPNTEST_RESULT"], told["VPNTEST_MESSAGES"]) == ("prune", "vpntest: the history is locked")


def test_links_in_the_folder_for_prometheus_lead_nowhere(box: Box) -> None:
    """Who keeps that folder is not root, and could guess the name of what root is about to write."""
    textfiles = box.folder / "textfiles"
    textfiles.mkdir()
    (box.folder / "precious").write_text("precious")
    (box.folder / "folder").mkdir()
    box.set(f"textfile-dir={textfiles}")
    bad = r"""
        for name in vpntest vpntest_nightly; do
            ln -s "$2/precious" "$1/.$name.prom.$$"
            ln -s "$2/folder" "$1/$name.prom"
        done
        exec "${@:3}"
    """
    argv = ["bash", "-euc", bad, "bad", textfiles, box.folder]
    done = subprocess.run(
        [*argv, box.clone / "scripts/nightly", box.settings],
        capture_output=True,
        text=True,
        check=False,
        env=box.environment(),
    )
    assert done.returncode == 0, done.stderr
    assert (box.folder / "precious").read_text() == "precious"
    assert {file.name for file in textfiles.iterdir()} == {"vpntest.prom", "vpntest_nightly.prom"}
    assert not any(file.is_symlink() for file in textfiles.iterdir())
    assert list((box.folder / "folder").iterdir()) == []


def test_a_folder_for_prometheus_that_is_gone_is_told(box: Box) -> None:
    box.set(box.telling, f"textfile-dir={box.folder}/gone")
    assert box.night().returncode == 4
    told = box.told()
    assert told["VPNTEST_RESULT"] == "report"
    assert f"nightly: {box.folder}/gone: cannot be written" in told["VPNTEST_MESSAGES"]


def test_no_list_of_processes_shows_the_command(box: Box) -> None:
    box.set(f"on-failure=cat /proc/[0-9]*/cmdline > {box.folder}/all # {TOKEN}")
    assert box.night(STATUS="1").returncode == 1
    assert b"nightly" in (box.folder / "all").read_bytes()
    assert TOKEN.encode() not in (box.folder / "all").read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("plan", "a line is no setting=value"),
        ("plan=x\nplann=y", "there is no setting called plann"),
        ("keep=3", "says no plan"),
        ("plan=x\nkeep=many", "keep and keep-reports are numbers"),
    ],
)
def test_bad_settings_get_one_line(box: Box, settings: str, said: str) -> None:
    box.settings.write_text(settings)
    done = box.night()
    assert (done.returncode, done.stderr) == (2, f"nightly: {box.settings}: {said}\n")


def _await(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


# ── the installer ────────────────────────────────────────────────────────────────────────────────────────────────────

POSSIBLE = {
    "CapabilityBoundingSet=~CAP_(CHOWN|FSETID|SETFCAP)",
    "CapabilityBoundingSet=~CAP_(DAC_*|FOWNER|IPC_OWNER)",
    "CapabilityBoundingSet=~CAP_KILL",
    "CapabilityBoundingSet=~CAP_MKNOD",
    "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)",
    "CapabilityBoundingSet=~CAP_NET_ADMIN",
    "CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)",
    "CapabilityBoundingSet=~CAP_SYS_ADMIN",
    "CapabilityBoundingSet=~CAP_SYS_CHROOT",
    "CapabilityBoundingSet=~CAP_SYS_PTRACE",
    "DeviceAllow=",
    "IPAddressDeny=",
    "MemoryDenyWriteExecute=",
    "PrivateDevices=",
    "PrivateNetwork=",
    "PrivateUsers=",
    "ProcSubset=",
    "ProtectHome=",
    "RestrictAddressFamilies=~AF_(INET|INET6)",
    "RestrictAddressFamilies=~AF_NETLINK",
    "RestrictAddressFamilies=~AF_UNIX",
    "RestrictNamespaces=~ipc",
    "RestrictNamespaces=~mnt",
    "RestrictNamespaces=~net",
    "RestrictNamespaces=~pid",
    "RestrictNamespaces=~user",
    "RootDirectory=/RootImage=",
    "SystemCallFilter=~@mount",
    "SystemCallFilter=~@privileged",
    "SystemCallFilter=~@resources",
    "User=/DynamicUser=",
}
"""What systemd would rather see forbidden, and a measurement needs; the unit says of each why."""
EXPOSURE = 45
"""Tenths, by systemd's own count; a service that says nothing has 96."""


@pytest.mark.root
def test_systemd_takes_the_units_wherever_the_clone_and_the_plan_are(tmp_path: Path) -> None:
    box = Box(tmp_path, r"""100% of "my" $HOME\n it's clone""")
    (box.folder / "text %n").mkdir()
    at = ("--at", "Mon..Fri 02:15", "--spread", "0", "--deadline", "90min")
    done = box.install(*at, "--textfile-dir", "text %n", "--writable", box.clone.name)
    assert done.returncode == 0, done.stderr
    for kind in ("service", "timer"):
        checked = box.run("systemd-analyze", "verify", f"units/vpntest-nightly.{kind}")
        # It judges this machine's other units as well.
        ours = [line for line in checked.stderr.splitlines() if "vpntest-nightly" in line]
        assert (checked.returncode, checked.stdout, ours) == (0, "", []), checked.stderr
    assert "\nOnCalendar=Mon..Fri 02:15\nRandomizedDelaySec=0\n" in re.sub("#.*\n", "", box.unit("timer"))
    assert 'ReadWritePaths="-/srv/text %%n"\n' in box.unit()
    assert r'''ReadWritePaths="-/srv/100%% of \"my\" $HOME\\n it's clone"''' in box.unit()
    # It would have said so.
    service = box.folder / "units/vpntest-nightly.service"
    service.write_text(service.read_text().replace("ProtectClock", "ProtectClocks"))
    assert "ProtectClocks" in box.run("systemd-analyze", "verify", "units/vpntest-nightly.service").stderr


@pytest.mark.root
def test_every_restriction_that_is_possible_is_there(box: Box) -> None:
    assert box.install().returncode == 0
    judge = ("systemd-analyze", "security", "--offline=true")
    judged = json.loads(box.run(*judge, "--json=short", "units/vpntest-nightly.service").stdout)
    refused = {one["name"] for one in judged if one["set"] is False}
    assert refused - POSSIBLE == set()
    # Nor is a power missing without which some carrier could not be made.
    assert {name for name in POSSIBLE if name.startswith("Capability")} <= refused
    within = box.run(*judge, f"--threshold={EXPOSURE}", "units/vpntest-nightly.service")
    assert within.returncode == 0, within.stdout[-200:]
    # What it does not judge. Of memory and tasks no night below shows anything: that systemd has no such controllers.
    for line in (
        "DevicePolicy=closed",
        "DeviceAllow=/dev/net/tun rwm",
        "MemoryMax=75%",
        "OOMPolicy=stop",
        "TasksMax=4096",
        "PrivateIPC=yes",
        "KeyringMode=private",
        "SystemCallErrorNumber=EPERM",
        "LimitCORE=0",
        "KillMode=mixed",
    ):
        assert f"\n{line}\n" in box.unit()
    reasons = box.unit().partition("must be allowed")[2]
    for name in POSSIBLE:
        assert name.partition("=")[0] in reasons, name


@pytest.mark.root
def test_the_settings_are_roots_alone_and_hold_what_was_asked_for(box: Box) -> None:
    url = f"https://health.example/{TOKEN}"
    done = box.install(
        *("--fail-on", "blocked", "--fail-on", "tunnel-down", "--on-failure", "echo 'it is' $VPNTEST_STATUS 100%"),
        *("--health-url-file", "-", "--keep", "90"),
        stdin=f"{url}\n",
    )
    assert done.returncode == 0, done.stderr
    settings = box.folder / "units/nightly.conf"
    assert settings.stat().st_mode & 0o777 == 0o600
    assert [line for line in settings.read_text().splitlines() if not line.startswith("#")] == [
        "plan=/srv/plan.toml",
        "fail-on=blocked",
        "fail-on=tunnel-down",
        "keep=90",
        "keep-reports=30",
        "junit=no",
        "on-failure=echo 'it is' $VPNTEST_STATUS 100%",
        f"health-url={url}",
        "health-start=no",
    ]
    assert TOKEN not in done.stderr + box.unit() + box.unit("timer")


@pytest.mark.root
def test_installing_again_changes_only_what_is_asked_for_anew(box: Box) -> None:
    def state() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (box.folder / "units").iterdir()}

    assert box.install().returncode == 0
    before = state()
    assert len(before) == 3
    assert box.install().returncode == 0
    assert state() == before
    assert box.install("--at", "4:00").returncode == 0
    changed = {name for name, when in state().items() if before.get(name) != when}
    assert changed == {"vpntest-nightly.timer"}


@pytest.mark.root
def test_what_is_not_given_again_is_missed_aloud(box: Box) -> None:
    both = ("--on-failure", "true", "--health-url-file", "-")
    assert "note" not in box.install(*both, stdin=f"https://health.example/{TOKEN}").stderr
    done = box.install("--on-failure", "false")
    assert done.stderr.startswith("install-nightly: note: health-url was set until now, and is not given any more\n")
    assert "on-failure" not in done.stderr


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at", "25:00"], "--at: systemd knows no such time; see --help"),
        (["--at", "%h:00"], "--at: systemd knows no such time; see --help"),
        (["--at"], "--at wants a value; see --help"),
        (["--at", "3:00\nOnBootSec=1"], "--at: a value is one line; see --help"),
        (["--spread", "long"], "'long' is no time: say 90min, or 3h; see --help"),
        (["--deadline", "0"], "--deadline wants a time to measure in; see --help"),
        (["--deadline", "0 h"], "--deadline wants a time to measure in; see --help"),
        (["--deadline", "0.0"], "--deadline wants a time to measure in; see --help"),
        (
            ["--baseline", "nosuch.json"],
            "--baseline nosuch.json: there is no such file, and no run is called so; see --help",
        ),
        (
            ["--baseline", "/dev/null"],
            "/dev/null: the service sees no /tmp, and /run is gone after a reboot; move it; see --help",
        ),
        (["--fail-on", "rain"], "--fail-on rain: there is no such condition; see --help"),
        (["--keep", "0"], "--keep and --keep-reports want a number; see --help"),
        (["--memory", "lots"], "--memory lots: say 2G, or 75%; see --help"),
        (["--nightly"], "what is '--nightly'?; see --help"),
        (["--plan", "nowhere.toml"], "--plan nowhere.toml: there is no such file or folder; see --help"),
        (["--plan", "/tmp"], "/tmp: the service sees no /tmp, and /run is gone after a reboot; move it; see --help"),
        (["--writable", "nowhere"], "--writable nowhere: there is no such folder; see --help"),
        (["--textfile-dir", "nowhere"], "--textfile-dir nowhere: there is no such folder; see --help"),
        (["--health-url-file", "nowhere"], "--health-url-file: cannot be read; see --help"),
        (["--health-url-file", "-"], "--health-url-file: its first line is no http or https URL; see --help"),
    ],
)
def test_a_bad_wish_gets_one_line(box: Box, arguments: list[str], said: str) -> None:
    done = box.install(*arguments, stdin=f"ftp://{TOKEN}\n")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"install-nightly: {said}\n")
    assert not (box.folder / "units").exists()


@pytest.mark.root
def test_a_plan_that_is_no_plan_and_a_clone_that_is_not_prepared(box: Box) -> None:
    done = box.install(NO_PLAN="1")
    assert (done.returncode, done.stderr) == (2, "install-nightly: the plan is no plan; see --help\n")
    done = box.install(CHECKED="2")
    assert done.returncode == 0
    assert done.stderr.startswith("install-nightly: note: not every config of it can be used; see: /srv/clone/scripts/")
    (box.clone / ".venv/prepared").unlink()
    done = box.install()
    said = "install-nightly: this clone is not prepared; run first: sudo /srv/clone/scripts/prepare\n"
    assert (done.returncode, done.stderr) == (4, said)


@pytest.mark.root
def test_secrets_that_others_can_read_and_code_that_others_can_write_are_pointed_at(box: Box) -> None:
    silent = "install-nightly: written to units; nothing else was changed\n"
    box.folder.chmod(0o755)
    (box.folder / "se.conf").write_text("[Interface]\nPrivateKey = …\n")
    box.plan.write_text('[[tunnel]]\nname = "se"\nconfig = "se.conf"\n')
    (box.folder / "se.conf").chmod(0o600)
    assert box.install().stderr == silent
    # No secret in it, or out of reach.
    box.plan.chmod(0o644)
    assert box.install().stderr == silent
    (box.folder / "se.conf").chmod(0o644)
    note = "install-nightly: note: every user of this machine can read /srv/se.conf, which seems to hold keys or"
    assert box.install().stderr == f"{note} passwords: chmod go= it\n{silent}"
    box.folder.chmod(0o700)
    assert box.install().stderr == silent
    box.plan.write_text('[[tunnel]]\nname = "own"\ncommand = ["client"]\n')
    note = "install-nightly: note: the service writes to no folder but its own; name those that the plan's commands"
    assert box.install().stderr == f"{note} need by --writable\n{silent}"
    assert box.install("--writable", ".").stderr == silent
    box.plan.chmod(0o666)
    box.plan.write_text("")
    note = "install-nightly: note: root or others can write /srv/plan.toml, and so become root tonight\n"
    assert box.install().stderr == note + silent


@pytest.mark.root
def test_folders_that_others_can_write_are_pointed_at(box: Box) -> None:
    def said() -> list[str]:
        return box.install().stderr.splitlines()[:-1]

    box.folder.chmod(0o777)
    assert said() == ["install-nightly: note: root or others can write /srv, and so become root tonight"]
    # As /tmp: nobody can rename or remove what is another's.
    box.folder.chmod(0o1777)
    assert said() == []
    box.folder.chmod(0o755)
    (box.clone / ".venv").chmod(0o775)
    os.chown(box.clone, 65534, -1)
    assert said() == [
        "install-nightly: note: nobody or others can write /srv/clone, and so become root tonight",
        "install-nightly: note: root or others can write /srv/clone/.venv, and so become root tonight",
    ]


@pytest.mark.root
def test_a_terminal_does_not_obey_a_files_name(box: Box) -> None:
    box.folder.chmod(0o755)
    plans = box.folder / "plans"
    plans.mkdir(mode=0o755)
    (plans / "a\x1b]0;mine\x07\nb.conf").write_text("PrivateKey = …")
    done = box.install("--plan", "plans")
    note = (
        "install-nightly: note: every user of this machine can read /srv/plans/a?]0;mine??b.conf, which seems to hold"
    )
    assert done.stderr.startswith(note)
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.root
def test_a_baseline_is_found_from_anywhere(box: Box) -> None:
    (box.folder / "usual").write_text("{}")
    for given, kept in (("usual", "/srv/usual"), ("last~3", "last~3"), ("2c9b", "2c9b")):
        assert box.install("--baseline", given).returncode == 0
        assert f"\nbaseline={kept}\n" in (box.folder / "units/nightly.conf").read_text()


@pytest.mark.root
def test_a_health_check_needs_what_calls_it(box: Box) -> None:
    (box.folder / "bin").mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name != "curl":
            (box.folder / "bin" / program.name).symlink_to(program)
    done = box.install("--health-url-file", "-", stdin=f"https://health.example/{TOKEN}", PATH=str(box.folder / "bin"))
    said = "install-nightly: curl is missing (Debian package curl): nothing could call the URL\n"
    assert (done.returncode, done.stderr) == (4, said)


def test_help_says_what_a_command_for_failures_is_told(box: Box) -> None:
    box.set(box.telling)
    box.night(STATUS="1")
    helped = subprocess.run(
        [box.clone / "scripts/install-nightly", "--help"], capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"VPNTEST_[A-Z]+", helped.stdout)) == box.told().keys() - {"text"}
    results = re.search(r"VPNTEST_RESULT \(([^)]+)\)", helped.stdout)
    assert results is not None
    known = re.findall(r"result=([a-z-]+)", (box.clone / "scripts/nightly").read_text())
    assert set(re.split(r",\s+", results[1])) == {*known, "report", "prune"} - {"ok"}


def test_it_knows_the_conditions_of_run() -> None:
    known = re.search(r"one =~ \^\(([a-z|-]+)\)\$", (REPOSITORY / "scripts/install-nightly").read_text())
    assert known is not None
    assert set(known[1].split("|")) == {str(condition) for condition in Condition}


@pytest.mark.root
def test_without_systemd_it_says_what_else_there_is(box: Box) -> None:
    hide = "mount -t tmpfs none /run && exec scripts/install-nightly --plan ../plan.toml"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", hide], capture_output=True, text=True, check=False, cwd=box.clone
    )
    said = "this machine was not started by systemd; cron can run scripts/nightly, whose head says how"
    assert (done.returncode, done.stderr) == (4, f"install-nightly: {said}\n")


# ── systemd itself ───────────────────────────────────────────────────────────────────────────────────────────────────

NIGHTS = r"""
set -eu
# This machine may have nights of its own.
rm -rf /etc/vpntest /var/lib/vpntest
# The clone of this suite may be below /tmp, which the service does not see; its interpreter is called by that path.
mkdir -p /etc/systemd/system/vpntest-nightly.service.d
printf '[Service]\nBindReadOnlyPaths="%s"\n' REPOSITORY > /etc/systemd/system/vpntest-nightly.service.d/clone.conf
others=$(find /etc -name '*vpntest*' | sort)
clone='/home/some one/100% of "it" $HOME\n'
plans='/root/the plans %n'
texts='/srv/text files %h'
mkdir -p "$clone" "$texts"
mount --bind REPOSITORY "$clone"
cp -r SHARED/plans "$plans"
chmod -R go= "$plans"

# install PLAN OPTION...
install() {
    "$clone/scripts/install-nightly" --plan "$plans/$1.toml" --fail-on tunnel-down --textfile-dir "$texts" \
        --health-url-file SHARED/url --on-failure 'env -0 > SHARED/facts; cat > SHARED/text' "${@:2}" 2> /dev/null
}

# night NAME [COMMAND]: COMMAND is run as soon as a carrier is up, and what is seen of that is said.
night() {
    local carrier='' status=0 starting
    systemctl start vpntest-nightly.service 2> /dev/null &
    starting=$!
    while kill -0 $starting 2> /dev/null; do
        for pid in $(cat /sys/fs/cgroup/system.slice/vpntest-nightly.service/cgroup.procs 2> /dev/null); do
            [ -n "${2-}" ] && [ -z "$carrier" ] || continue
            if tr '\0' ' ' 2> /dev/null < /proc/$pid/cmdline | grep -q '^[^ ]*sing-box run '; then
                carrier=$(readlink /proc/$pid/ns/user)
                [ "$carrier" = "$(readlink /proc/1/ns/user)" ] || echo "$1: bounded"
                writes
                $2
            fi
        done
        sleep 0.1
    done
    wait $starting || status=$?
    echo "$1: start $status" $(systemctl show --value -p Result -p ExecMainStatus vpntest-nightly.service)
    for file in facts text; do [ ! -e SHARED/$file ] || mv SHARED/$file SHARED/$1.$file; done
    ! pgrep -x sing-box || echo "$1: a carrier is left"
}

# What it can write of what a tunnel and this machine are made of.
writes() {
    local main net=/proc/sys/net/ipv6/conf/default/accept_ra
    main=$(systemctl show --value -p MainPID vpntest-nightly.service)
    for file in $net /proc/sys/kernel/core_pattern /etc "$clone" /var/lib/vpntest; do
        ! nsenter -t "$main" -m test -w "$file" || echo "writes $file"
    done
}

by_hand() {
    local status=0
    "$clone/scripts/vpntest" run --db none "$plans/good.toml" > /dev/null 2> SHARED/by_hand &
    until grep -q 'is on this line; waiting' SHARED/by_hand; do sleep 0.1; done
    kill $!
    wait $! || status=$?
    echo "by hand: $status"
}

install good
systemctl list-timers --no-legend --no-pager vpntest-nightly.timer
night good by_hand
install bad
# A folder that is gone costs no night, and whoever must know is told.
mv "$texts" /srv/gone
night bad
mv /srv/gone "$texts"
install long --deadline 20s
night deadline
night stopped 'systemctl stop --quiet vpntest-nightly.service'
night killed 'systemctl kill --signal=KILL --kill-who=main vpntest-nightly.service'
journalctl --no-pager -o cat -u vpntest-nightly.service > SHARED/journal
cp /etc/systemd/system/vpntest-nightly.{service,timer} SHARED
cp -r /var/lib/vpntest SHARED/state
cp -r "$texts" SHARED/texts
"$clone/scripts/vpntest" history --format json > SHARED/history
"$clone/scripts/install-nightly" --uninstall 2> /dev/null
find /etc -name '*vpntest*' | sort > SHARED/etc
echo "left:" $(systemctl list-units --all --no-legend 'vpntest*') $(comm -13 <(echo "$others") SHARED/etc)
"""


@pytest.mark.root
def test_nights_under_a_real_systemd(tmp_path: Path) -> None:
    with contextlib.closing(Cage.open()) as cage, own_network(cage) as network:
        plans = tmp_path / "plans"
        plans.mkdir()
        (plans / "client.json").write_text(
            json.dumps(
                {
                    "inbounds": [{"type": "socks", "listen": "127.0.0.1", "listen_port": 1080}],
                    "outbounds": [
                        {
                            "type": "shadowsocks",
                            "server": "198.18.7.99",
                            "server_port": SHADOWSOCKS_PORT,
                            "method": "aes-128-gcm",
                            "password": network.password,
                        }
                    ],
                }
            )
        )
        client = """
[[tunnel]]
name = "own-client"
command = ["sing-box", "run", "-c", "/root/the plans %n/client.json"]
proxy = "socks5://127.0.0.1:1080"
"""
        for name, tunnel, run in (
            ("good", network.tunnel + client, ""),
            ("bad", network.tunnel.replace(f":{SHADOWSOCKS_PORT}", ":9"), ""),
            ("long", network.tunnel, "attempts = 10"),
        ):
            shutil.copy(network.plan(tunnel, run), plans / f"{name}.toml")
        for name in ("ca.pem", "example.toml"):
            shutil.copy(network.directory / name, plans)
        listening = network.client.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with Pinged(listening) as pinged:
            (tmp_path / "url").write_text(pinged.url)
            script = NIGHTS.replace("REPOSITORY", f"'{REPOSITORY}'").replace("SHARED", SHARED)
            timer, *said = booted(network.client, tmp_path, script).splitlines()

    assert re.search(r" 0(3:[345]|4:[0123])\d:\d\d \S+ .* vpntest-nightly.timer +vpntest-nightly.service$", timer)
    writes = ["writes /proc/sys/net/ipv6/conf/default/accept_ra", "writes /var/lib/vpntest"]
    assert said == [
        "good: bounded",
        *writes,
        "by hand: 143",
        "good: start 0 success 0",
        "bad: start 1 exit-code 1",
        "deadline: start 1 timeout 143",
        "stopped: bounded",
        *writes,
        "stopped: start 1 exit-code 143",
        "killed: bounded",
        *writes,
        "killed: start 1 signal 9",
        "left:",
    ]

    # Who was told what.
    def told(night: str) -> dict[str, str]:
        facts = (tmp_path / f"{night}.facts").read_text().split("\0")
        return dict(fact.removeprefix("VPNTEST_").split("=", 1) for fact in facts if fact.startswith("VPNTEST_"))

    assert pinged.calls == [f"/{TOKEN}", f"/{TOKEN}/1", f"/{TOKEN}/143", f"/{TOKEN}/143", f"/{TOKEN}/137"]
    assert pinged.betrayed == set()
    assert not (tmp_path / "good.facts").exists()
    bad = told("bad")
    assert (bad["RESULT"], bad["STATUS"]) == ("worse", "1")
    assert bad["SENTENCES"].startswith("tunnel-down: good")
    assert "nightly: /srv/text files %h: cannot be written" in bad["MESSAGES"]
    assert (told("deadline")["RESULT"], told("deadline")["STATUS"]) == ("deadline", "143")
    assert (told("stopped")["RESULT"], told("stopped")["STATUS"]) == ("stopped", "143")
    assert (told("killed")["RESULT"], told("killed")["STATUS"]) == ("fault", "137")

    # What is kept.
    documents = [json.loads(file.read_text()) for file in sorted((tmp_path / "state/nightly").glob("*.json"))]
    assert [{cell["tunnel"]: cell["outcome"] for cell in one["cells"]} for one in documents[:2]] == [
        {"good": "open", "own-client": "open"},
        {"good": "tunnel-down"},
    ]

    def kept(night: str) -> Path:
        run = Path(told(night)["RUN"])
        assert run.is_relative_to("/var/lib/vpntest/nightly")
        return tmp_path / "state/nightly" / run.name

    assert json.loads(kept("bad").read_text())["run"]["complete"] is True
    assert json.loads(kept("deadline").read_text())["run"]["complete"] is False
    assert kept("deadline").with_suffix(".html").stat().st_size > 10000
    assert len(json.loads((tmp_path / "history").read_text())["runs"]) == 4
    texts = {file.name: file.read_text() for file in (tmp_path / "texts").iterdir()}
    assert set(texts) == {"vpntest.prom", "vpntest_nightly.prom"}
    assert "vpntest_nightly_exit_status 137\n" in texts["vpntest_nightly.prom"]
    journal = (tmp_path / "journal").read_text()
    for summary in ("done (exit status 0)", "something got worse (exit status 1)", "the deadline came before"):
        assert f"nightly: {summary}" in journal
    for file in (
        "journal",
        "vpntest-nightly.service",
        "vpntest-nightly.timer",
        *(f"{one}.text" for one in ("bad", "deadline")),
    ):
        text = (tmp_path / file).read_text()
        assert TOKEN not in text
        assert network.password not in text
