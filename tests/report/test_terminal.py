"""The report at a terminal, held against text written by hand."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import TIMEOUT, World, platform
from story import story

from vpntest.judge.judging import judge
from vpntest.probe.observation import Record
from vpntest.report.matrix import SIGNS
from vpntest.report.terminal import render
from vpntest.report.view import View

RECORD = story()
JUDGEMENT = judge(RECORD)

AT_80 = """\
vpntest 0.1.0 · 2026-11-20T03:00:00+00:00 · 5 tunnels × 5 platforms · 42 s

         twitter         facebook
-------  --------------  -----------------------
outside  ▼ throttled     ✗ blocked
           throttle.sni    tls.reset.sni 9 of 10
se       ✓ circumvents   ✓ circumvents
ss       ? insufficient  ✗ blocked
                           http.timeout
ov       – tunnel-down   – tunnel-down
wg       – tunnel-down   – tunnel-down
bad      – tunnel-down   – tunnel-down

         bank           lost             wiki
-------  -------------  ---------------  --------------
outside  ○ ok           □ down           ? insufficient
                          tcp.refused
se       ⊘ refused      □ platform-down  ? insufficient
           http.403       tcp.refused
ss       ⊘ refused      □ platform-down  ? insufficient
           http.403       tcp.refused
ov       – tunnel-down  – tunnel-down    – tunnel-down
wg       – tunnel-down  – tunnel-down    – tunnel-down
bad      – tunnel-down  – tunnel-down    – tunnel-down

Legend
  ✓ circumvents    blocked or throttled outside, works through this tunnel
  ○ open           works with and without the tunnel: nothing to circumvent
  ○ ok             works on the line itself
  ✗ blocked        blocked (in a tunnel's row: through the tunnel as well)
  ▼ throttled      answers, but crawls
  ◐ partial        some services of the platform work through the tunnel, others
                   do not
  ⊘ refused        the platform itself turns this exit away; no censor does
  ! breaks         works outside, and not through this tunnel
  – tunnel-down    not measured: the tunnel is not usable; why, is told below
  □ platform-down  the platform is down for everybody
  □ down           down, here and at every exit
  ? insufficient   evidence too thin to say; neither ok nor blocked

Blocked or throttled on this line: 2 of 5 platforms. Of 1 nothing can be said.
Around all of it: 1 of 5 tunnels (se).

Needs attention
  ov [openvpn] auth.rejected (reached: handshake): the server says that it does
      not know these credentials
  wg [wireguard] data.stall.packets (reached: data): first data came, then it
      falls silent after a few packets
  bad [unknown] invalid: bad.conf:3: key is 31 bytes, not 32�[2J
  wiki outside: the tries do not agree, or are too few
      [endpoint.insufficient.mixed]
  twitter outside: policed at about 140 kbit/s
  twitter through ss: the platform is throttled outside, and its speed through
      the tunnel is not known [cell.insufficient.speed-unknown]
  wiki through ss: the tries do not agree, or are too few
      [endpoint.insufficient.mixed]
  Speed not judged, so that throttling would not show: bank (outside)
  Speed not judged, so that throttling would not show: facebook (se)
  ss: its config asks not to check the server's certificate
  ov: up: ignored, never run
"""

ASCII_MATRIX = """\
vpntest 0.1.0 - 2026-11-20T03:00:00+00:00 - 5 tunnels x 5 platforms - 42 s

         twitter         facebook                 bank           lost             wiki
-------  --------------  -----------------------  -------------  ---------------  --------------
outside  v throttled     x blocked                o ok           # down           ? insufficient
           throttle.sni    tls.reset.sni 9 of 10                   tcp.refused
se       + circumvents   + circumvents            / refused      # platform-down  ? insufficient
                                                    http.403       tcp.refused
ss       ? insufficient  x blocked                / refused      # platform-down  ? insufficient
                           http.timeout             http.403       tcp.refused
ov       - tunnel-down   - tunnel-down            - tunnel-down  - tunnel-down    - tunnel-down
wg       - tunnel-down   - tunnel-down            - tunnel-down  - tunnel-down    - tunnel-down
bad      - tunnel-down   - tunnel-down            - tunnel-down  - tunnel-down    - tunnel-down
"""

DEAD_LINE = """\
vpntest 0.1.0 · 2026-11-20T03:00:00+00:00 · 42 s

Nothing was judged: the line itself is dead, for no control answered and no
tunnel carried anything [line.dead]
"""


def test_golden() -> None:
    assert render(RECORD, JUDGEMENT, width=80, colour=False) == AT_80


def test_golden_in_ascii() -> None:
    shown = render(RECORD, JUDGEMENT, width=120, colour=False, unicode=False)
    assert shown.startswith(ASCII_MATRIX)
    assert shown.isascii()


def test_golden_of_a_dead_line() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    record = world.record()
    assert render(record, judge(record), width=80, colour=True) == DEAD_LINE


def test_colour_only_adds_to_what_is_there() -> None:
    coloured = render(RECORD, JUDGEMENT, width=80, colour=True)
    assert "\x1b[38;2;0;158;115m✓ circumvents\x1b[0m" in coloured
    assert "\x1b[38;2;213;94;0m✗ blocked\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == AT_80


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, render(RECORD, JUDGEMENT, width=width, colour=False).splitlines())) <= width


def test_every_column_is_shown_once_however_narrow() -> None:
    shown = render(RECORD, JUDGEMENT, width=1, colour=False)
    headers = re.findall(r"^(.*)\n---", shown, re.MULTILINE)
    assert " ".join(headers).split() == ["twitter", "facebook", "bank", "lost", "wiki"]


def test_names_that_look_like_numbers_stay_as_they_are() -> None:
    world = World(platform("1e3"), platform("007"))
    world.line()
    world.tunnel("2.50")
    record = world.record()
    shown = render(record, judge(record), width=80, colour=False)
    assert re.search(r"^ +1e3 +007$", shown, re.MULTILINE)
    assert re.search(r"^2\.50 +\? insufficient", shown, re.MULTILINE)


def test_the_legend_explains_every_word_whatever_is_in_the_matrix() -> None:
    legend = AT_80.split("Legend\n")[1].split("\n\n")[0]
    assert [line.split()[1] for line in legend.splitlines() if line[2] != " "] == [*SIGNS]


@settings(max_examples=30)
@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_of_a_stranger_steers_the_terminal(warning: str, name: str) -> None:
    world = World(platform("bird"))
    world.line()
    world.tunnel(name, warnings=(warning,), carry=False)
    record = world.record()
    shown = render(record, judge(record), width=80, colour=False)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def many(tunnels: int, platforms: int) -> Record:
    world = World(*(platform(f"platform-{number}") for number in range(platforms)))
    world.line()
    for number in range(tunnels):
        world.tunnel(f"a-tunnel-with-a-name-of-some-length-{number:03}", carry=False)
    return world.record()


def test_many_tunnels_stand_in_groups_beneath_the_line() -> None:
    record = many(100, 2)
    shown = render(record, judge(record), width=120, colour=False)
    tables = [part for part in shown.split("\n\n") if "\noutside " in part]
    assert [len(re.findall(r"^a-tunnel", table, re.MULTILINE)) for table in tables] == [40, 40, 20]
    assert all("platform-0  " in table.splitlines()[0] for table in tables)


def test_a_long_name_on_a_narrow_terminal_keeps_its_end() -> None:
    record = many(2, 5)
    shown = render(record, judge(record), width=60, colour=False)
    assert re.search(r"^a-tunnel-w…ength-001 ", shown, re.MULTILINE)
    tables = shown.split("\n\nLegend")[0]
    assert max(map(len, tables.splitlines())) <= 60
    assert "…" not in render(record, judge(record), width=200, colour=False).split("\n\nLegend")[0]


@pytest.mark.parametrize(("platforms", "columns"), [(7, [4, 3]), (8, [4, 4]), (9, [5, 4]), (11, [4, 4, 3])])
def test_the_columns_are_spread_over_the_blocks(platforms: int, columns: list[int]) -> None:
    record = many(2, platforms)
    shown = render(record, judge(record), width=120, colour=False)
    tables = [part for part in shown.split("\n\n") if "\noutside " in part]
    assert [len(table.splitlines()[0].split()) for table in tables] == columns


def test_wide_is_one_table_with_whole_names() -> None:
    record = many(100, 12)
    shown = render(record, judge(record), width=60, colour=False, wide=True)
    [table] = [part for part in shown.split("\n\n") if "\noutside " in part]
    assert len(re.findall(r"^a-tunnel-with-a-name-of-some-length-\d\d\d ", table, re.MULTILINE)) == 100
    assert table.splitlines()[0].split() == [f"platform-{number}" for number in range(12)]


def test_a_view_says_what_it_hides_and_the_sentence_stays_that_of_the_run() -> None:
    shown = render(RECORD, JUDGEMENT, width=80, colour=False, view=View(outcomes=("circumvents",), sort="name"))
    table = shown.split("\n\nLegend")[0]
    assert re.findall(r"^(outside|se|ss|ov|wg|bad) ", table, re.MULTILINE) == ["outside", "se"] * 2
    assert "\n\nShown: 1 of 5 tunnels.\n" in shown
    assert "Around all of it: 1 of 5 tunnels (se)." in shown
    assert "5 tunnels × 5 platforms" in shown
