"""A handful of profiles, really run: one of each sort of censor, and the controls. All of them: scripts/verify."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

QUICK = ("open", "ru_2025_freeze", "cn_gfw", "flaky")
"""Each has what no other has: nothing at all, freezes, forgeries with residual blocking, loss. The demo's own profile
is run by test_demo.py, platforms that are down by lab/test_verify.py."""


@pytest.mark.root
def test_the_verdicts_are_true() -> None:
    command = [sys.executable, "-m", "vpntest", "lab", "verify", *QUICK, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    found = json.loads(done.stdout)
    summary = found["summary"]
    # As a text: the whole of it shall be seen.
    differing = json.dumps([*found["faults"], *found["cells"]])
    assert summary["wrong_circumvents"] == summary["wrong_open"] == 0, differing
    assert summary["wrong"] == 0, differing
    assert summary["exact"] >= 0.99 * summary["cells"], differing
    assert done.returncode == 0
    assert summary["runs"] == len(QUICK)
