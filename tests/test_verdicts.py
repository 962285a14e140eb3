"""A handful of profiles, really run: one of each sort of censor, and the controls. All of them: scripts/verify."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

QUICK = ("open", "ru_2025_freeze", "cn_gfw", "flaky")
"""Each has what no other has: nothing at all, freezes, forgeries with residual blocking, loss. The demo's own profile
is run by test_demo.py, platforms that are down by lab/test_verify.py."""


AGAIN = 6
"""Runs more of a profile in which something was insufficient. One tunnel that a machine was too busy for is eleven
entries of these few, and more than the hundredth that may be; whether it is of all is seen by looking more often."""


@pytest.mark.root
def test_the_verdicts_are_true() -> None:
    found = _verified(*QUICK)
    entries, exact = found["summary"]["cells"], found["summary"]["exact"]
    differing = found["cells"]
    if unsure := {one["profile"] for one in differing}:
        more = _verified(*unsure, "--repeat", str(AGAIN))
        entries, exact = entries + more["summary"]["cells"], exact + more["summary"]["exact"]
        differing = [*differing, *more["cells"]]
    # As a text: the whole of it shall be seen.
    assert exact >= 0.99 * entries, json.dumps(differing)


def _verified(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "vpntest", "lab", "verify", *arguments, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    found: dict[str, Any] = json.loads(done.stdout)
    summary = found["summary"]
    differing = json.dumps([*found["faults"], *found["cells"]])
    assert summary["wrong_circumvents"] == summary["wrong_open"] == summary["wrong"] == 0, differing
    assert summary["runs"] == summary["runs_wanted"], differing
    return found
