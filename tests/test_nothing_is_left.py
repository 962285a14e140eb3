"""The check at the end of the suite (tests/conftest.py) bites: a suite that leaves something behind fails."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

CONFTEST = Path(__file__).with_name("conftest.py")


def _suite(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """A suite of one test under a copy of the same conftest, with less patience."""
    conftest, changed = re.subn(r"^GRACE = .*$", "GRACE = 0.2", CONFTEST.read_text(), flags=re.M)
    assert changed == 1
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_one.py").write_text("import os, subprocess\nfrom pathlib import Path\n\ndef test_one():\n" + body)
    argv = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider"]
    return subprocess.run([*argv, str(folder)], capture_output=True, text=True, check=False, cwd=folder)


def test_a_clean_suite_passes(tmp_path: Path) -> None:
    done = _suite(tmp_path, "    subprocess.run(['unshare', '--net', 'true'], check=True)\n")
    assert done.returncode == 0, done.stdout


def test_an_orphaned_carrier_fails_it(tmp_path: Path) -> None:
    carrier = tmp_path / "dnsmasq"
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, carrier)
    # Not before it is the carrier, which `unshare` becomes.
    orphan = f"unshare --net {carrier} 60 >/dev/null 2>&1 & until [ /proc/$!/exe -ef {carrier} ]; do sleep 0.01; done"
    done = _suite(tmp_path, f"    subprocess.run({orphan!r}, shell=True, check=True)\n")
    named = [int(pid) for pid in re.findall(r"process (\d+) \(dnsmasq\)", done.stdout)]
    ours = [pid for pid in named if Path(f"/proc/{pid}/exe").resolve() == carrier]
    for pid in ours:
        os.kill(pid, signal.SIGKILL)
    assert len(set(ours)) == 1, done.stdout
    assert "left behind by the tests" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("folder", ["/tmp", "/run"])
def test_a_file_of_ours_fails_it(folder: str, tmp_path: Path) -> None:
    # Where the process that starts the suite sees it, whatever private /run this very process has.
    path = Path(folder, f"vpntest-{uuid.uuid4()}")
    try:
        done = _suite(tmp_path, f"    Path({str(path)!r}).touch()\n")
    finally:
        path.unlink()
    assert re.search(f"left behind by the tests.*{path}", done.stdout)
    assert done.returncode == 1
