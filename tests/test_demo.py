"""The demo on the embedded lab: its matrix against its truth, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import state_of

from vpntest.lab.profiles import load
from vpntest.tunnel.namespace import Namespace

pytestmark = pytest.mark.root

MEMORY_LIMIT_MB = 200
"""What the test box of an NGO can spare; a promise of the README."""

DEMO = """
import sys
from vpntest.cli import main
status = main(["demo", *sys.argv[1:]])
# Not getrusage: that one counts what this process was before it became vpntest.
(peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print("peak", int(peak.split()[1]) // 1024, file=sys.stderr)
sys.exit(status)
"""


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", DEMO, *arguments], capture_output=True, text=True, timeout=240)


def test_the_matrix_equals_the_truth() -> None:
    """The default, with all tunnels and platforms; the others are in test_verdicts.py and scripts/verify."""
    done = demo("--format", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    outcomes = {(cell["tunnel"], cell["platform"]): cell["outcome"] for cell in document["cells"]}
    # The demo's own word, held against the profile's file once more.
    truth = load("ru_2023_08_vpn").truth
    assert {key: outcome for key, outcome in outcomes.items() if not truth.cells[key].accepts(outcome)} == {}
    assert len(outcomes) == 120
    peak = next(int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("peak"))
    assert peak < MEMORY_LIMIT_MB


def test_a_dead_line_is_exit_4_and_its_json_is_there() -> None:
    done = demo("--profile", "wrong_clock", "--format", "json")
    assert done.returncode == 4, done.stderr
    document = json.loads(done.stdout)
    assert document["local_outage"]
    assert document["cells"] == []
    assert "equals the truth table of wrong_clock (its line is dead)" in done.stderr


def test_the_machines_own_namespace_is_the_same_before_and_after() -> None:
    # The tests live in a namespace of their own; whoever started them, in the machine's.
    own = Namespace(os.open(f"/proc/{os.getppid()}/ns/net", os.O_RDONLY))
    try:
        before = state_of(own)
        with own.entered():
            done = demo("--profile", "open", "--tunnel", "wireguard", "--tunnel", "trojan", "--platform", "youtube")
        assert done.returncode == 0, done.stderr
        assert state_of(own) == before
    finally:
        own.close()


BLUNT = """
import sys
import msgspec
import vpntest.lab.profiles as profiles
from vpntest.cli import main

real = profiles.load
profiles.load = lambda name: msgspec.structs.replace(real(name), rules=())
sys.exit(main("demo --profile ru_2022_03 --tunnel trojan --platform facebook --platform whatsapp".split()))
"""


def test_a_matrix_that_differs_from_the_truth_is_exit_1() -> None:
    # A censor that does not bite, held against the truth of one that does.
    done = subprocess.run([sys.executable, "-c", BLUNT], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1, done.stderr
    assert "trojan × facebook: expected circumvents, found open" in done.stdout
    assert "whatsapp: expected" not in done.stdout


@pytest.mark.parametrize(
    ("profile", "worker", "tunnel", "platform"),
    [("cn_henan", "inspector", "wireguard", "twitter"), ("kz_mitm", "interceptor", "trojan", "twitter")],
)
def test_a_worker_that_dies_on_the_way_makes_the_run_invalid(
    tmp_path: Path, profile: str, worker: str, tunnel: str, platform: str
) -> None:
    begun = tmp_path / "evidence" / "outside" / "line.pcap"
    command = [sys.executable, "-m", "vpntest", "demo", "--profile", profile, "--format", "json"]
    command += ["--tunnel", tunnel, "--platform", platform, "--evidence", str(tmp_path / "evidence")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not begun.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        (pid,) = [pid for pid in children(process.pid) if f"vpntest.lab.{worker}" in command_of(pid)]
        os.kill(pid, signal.SIGKILL)
        said, complaints = process.communicate(timeout=240)
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 4, complaints
    assert complaints.splitlines() == [f"vpntest: the lab's {worker} on censor ended: without a word"]
    assert said == ""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
