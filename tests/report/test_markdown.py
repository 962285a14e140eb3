"""The report as Markdown, held against text written by hand; and nothing in it acts."""

from __future__ import annotations

import re

import pytest
from records import RESET, World, platform

from vpntest.judge.judging import judge
from vpntest.probe.observation import Record
from vpntest.report.markdown import LIMIT, escape, render
from vpntest.report.view import View

GOLDEN = """\
## vpntest 0.1.0, 2026-11-20T03:00:00+00:00

Blocked or throttled on this line: 1 of 2 platforms. Around all of it: 1 of 2 tunnels (se).

|                | facebook                  | wiki          |
|----------------|---------------------------|---------------|
| **outside**    | ✗ blocked (tls.reset.sni) | ○ ok          |
| se (wireguard) | ✓ circumvents             | ○ open        |
| ov (wireguard) | – tunnel-down             | – tunnel-down |

- ✓ circumvents: blocked or throttled outside, works through this tunnel
- ○ open: works with and without the tunnel: nothing to circumvent
- ○ ok: works on the line itself
- ✗ blocked: blocked (in a tunnel's row: through the tunnel as well)
- ▼ throttled: answers, but crawls
- ◐ partial: some services of the platform work through the tunnel, others do not
- ⊘ refused: the platform itself turns this exit away; no censor does
- ! breaks: works outside, and not through this tunnel
- – tunnel-down: not measured: the tunnel is not usable; why, is told below
- □ platform-down: the platform is down for everybody
- □ down: down, here and at every exit
- ? insufficient: evidence too thin to say; neither ok nor blocked

### Needs attention

- ov \\[wireguard\\] auth.rejected (reached: handshake): the server says that it does not know these credentials
- Speed not judged anywhere, so that throttling would not show: wiki
- Speed not judged, so that throttling would not show: facebook (se)
- ov: &lt;script&gt; \\| \\`x\\` &amp; y
"""


def test_golden() -> None:
    world = World(platform("facebook"), platform("wiki"))
    world.line()
    world.tunnel("se")
    world.tunnel("ov", until="auth", failure="auth_rejected", warnings=("<script> | `x`\n& y",))
    world.reach("outside", "facebook", fails=f"tls_handshake:{RESET}", neutral=True)
    world.reach("outside", "wiki")
    for name in ("facebook", "wiki"):
        world.reach("se", name)
    record = world.record()
    assert render(record, judge(record)) == GOLDEN


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("a & b", "a &amp; b"),
        ("`code`", r"\`code\`"),
        ("two\nlines", "two lines"),
        ("![x](http://e.example)", r"\!\[x\](http://e.example)"),
        ("**bold** _it_ ~~no~~", r"\*\*bold\*\* \_it\_ \~\~no\~\~"),
        ("back\\slash", r"back\\slash"),
        ("# heading", r"\# heading"),
        ("@everyone", "&#64;everyone"),
        ("\x1b[31m", r"�\[31m"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_a_hostile_name_adds_no_cell_to_the_table() -> None:
    world = World(platform("bird"))
    world.line()
    world.tunnel("a | b | c\n| d |", carry=False)
    record = world.record()
    [row] = [line for line in render(record, judge(record)).splitlines() if line.startswith("| a")]
    assert row.replace(r"\|", "").count("|") == 3


def large() -> Record:
    world = World(*(platform(f"platform-{number}") for number in range(20)))
    world.line()
    for number in range(200):
        world.tunnel(f"tunnel-{number}", carry=False, warnings=("something that may matter, " * 20,))
    return world.record()


def test_a_summary_of_many_tunnels_fits_what_github_takes() -> None:
    record = large()
    judgement = judge(record)
    whole = render(record, judgement)
    assert len(whole.encode()) <= LIMIT - 1000
    assert whole.count("\n| tunnel-") == 200


@pytest.mark.parametrize("limit", [100_000, 50_000, 6_000])
def test_what_does_not_fit_is_counted(limit: int) -> None:
    record = large()
    shown = render(record, judge(record), limit=limit)
    assert len(shown.encode()) <= limit
    rows = shown.count("\n| tunnel-")
    if rows < 200:
        # The line's own row is one of the table's.
        assert f"\n\n{200 - rows} more tunnels do not fit here.\n" in shown
    assert re.search(r"\n- and \d+ more\n$", shown)


def test_a_view_is_honoured_and_told() -> None:
    record = large()
    shown = render(record, judge(record), View(tunnels=("tunnel-7",), platforms=("platform-3",)))
    assert shown.count("\n| tunnel-") == 1
    assert "\n\nShown: 1 of 200 tunnels and 1 of 20 platforms.\n" in shown
