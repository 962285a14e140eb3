"""Where the time went, held against text written by hand."""

from __future__ import annotations

from story import story

from vpntest.report.timings import render

GOLDEN = """\
phase              from (s)    to (s)    took (s)
---------------  ----------  --------  ----------
raise and reach         0.0      31.2        31.2
se: raise               0.1       2.6         2.5
speed                  31.2      40.0         8.8
the whole run           0.0      42.5        42.5"""


def test_golden() -> None:
    assert render(story()) == GOLDEN
