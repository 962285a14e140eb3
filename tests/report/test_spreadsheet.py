"""The report as CSV: a row for each cell, and nothing in it that a spreadsheet would run."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import TIMEOUT, World, platform
from story import story

from vpntest.judge.judging import judge
from vpntest.probe.observation import Record
from vpntest.report.document import document
from vpntest.report.redaction import REDACTED, redacted
from vpntest.report.spreadsheet import COLUMNS, render, safe

HEAD = (
    "run,started,version,complete,country,asn,tunnel,kind,stage,tunnel_mechanism,tunnel_rule,platform,outcome,rule,"
    "outside_state,outside_mechanism,outside_rule,outside_agree,outside_tries,"
    "inside_state,inside_mechanism,inside_rule,inside_agree,inside_tries,detail,redacted"
)
RUN = "01890000-0000-7000-8000-000000000000,2026-11-20T03:00:00+00:00,0.1.0,true,,"


def rows(record: Record) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(render(record, judge(record)), newline=""))]


def test_golden() -> None:
    record = story()
    lines = render(record, judge(record)).split("\r\n")
    assert lines[0] == HEAD
    assert lines[2] == (
        f"{RUN},se,amneziawg,up,,tunnel.up,facebook,circumvents,cell.circumvents,"
        "blocked,tls.reset.sni,endpoint.blocked.works-here,9,10,ok,,platform.ok,3,3,,"
    )
    assert lines[11].startswith(f"{RUN},ov,openvpn,handshake,auth.rejected,tunnel.auth.rejected,twitter,tunnel-down,")
    assert lines[-1] == ""


def test_a_row_for_each_cell_that_says_what_the_document_says() -> None:
    record = story()
    kept = document(record, judge(record))
    found = {(row["tunnel"], row["platform"]): row for row in rows(record)}
    assert len(found) == len(rows(record)) == len(record.tunnels) * len(record.platforms)
    for cell in kept["cells"]:
        row = found[cell["tunnel"], cell["platform"]]
        assert (row["outcome"], row["rule"]) == (cell["outcome"], cell["rule"])
        assert row["outside_state"] == cell["outside"]["state"]
        assert row["inside_state"] == (cell["inside"]["state"] if cell["inside"] else "")


def test_a_dead_line_has_no_outcomes_and_says_why() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.tunnel("se", carry=False)
    [row] = rows(world.record())
    assert (row["tunnel"], row["platform"], row["outcome"], row["rule"]) == ("se", "bird", "", "line.dead")
    assert row["outside_state"] == ""


def test_what_was_redacted_is_in_each_row() -> None:
    assert {row["redacted"] for row in rows(redacted(story()))} == {"; ".join(REDACTED)}
    assert {row["redacted"] for row in rows(story())} == {""}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-2", "'-2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'=1"),
        ("\n@x", "'@x"),
        ("＝1", "'＝1"),
        ('a,"b"', 'a,"b"'),
        ("\x1b[31m", "�[31m"),
        ("\u202e=1", "�=1"),
    ],
)
def test_a_hostile_name_is_a_text(name: str, shown: str) -> None:
    world = World(platform("bird"))
    world.line()
    world.tunnel(name)
    [row] = rows(world.record())
    assert row["tunnel"] == shown


@given(st.text(max_size=40))
def test_no_value_begins_like_a_formula(text: str) -> None:
    assert safe(text)[:1] not in tuple("=+-@\t\r\n")
    assert safe(text).removeprefix("'") == text.removeprefix("'")


def test_columns_are_distinct() -> None:
    assert len({*COLUMNS}) == len(COLUMNS)
