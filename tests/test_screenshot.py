"""The picture of the README, and the script that makes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from story import story

from vpntest.judge.judging import judge
from vpntest.report.document import encode

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "scripts/screenshot"
LARGEST = 250_000
"""Bytes that a reader of the README must wait for."""


def _size(picture: Path) -> tuple[int, int]:
    content = picture.read_bytes()
    # PNG's signature, then its first chunk, IHDR, which begins with width and height.
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) < LARGEST
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_the_picture_of_the_readme_is_small_and_not_too_wide() -> None:
    width, height = _size(REPOSITORY / ".github/matrix.png")
    assert 1000 < width < 1600
    assert 500 < height < 1200


@pytest.mark.root
def test_a_picture_is_made_of_a_kept_run(tmp_path: Path) -> None:
    record = story()
    kept, picture = tmp_path / "run.json", tmp_path / "matrix.png"
    kept.write_bytes(encode(record, judge(record)))
    done = subprocess.run([SCRIPT, kept, picture], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    width, height = _size(picture)
    assert width >= 1260
    # The head, and six rows.
    assert 300 < height < 900


def test_without_a_run_it_asks_for_one() -> None:
    done = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "of which run?" in done.stderr
