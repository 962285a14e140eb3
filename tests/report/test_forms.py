"""Each form has its writer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from records import World, platform
from story import story

from vpntest import __version__
from vpntest.cli import main
from vpntest.errors import UsageError
from vpntest.judge.judging import judge
from vpntest.report.document import decode, encode
from vpntest.report.forms import FORMS, Form, Look, written
from vpntest.report.redaction import redacted
from vpntest.report.view import View
from vpntest.tunnel.carriers import find

RECORD = story()
BEGINNINGS: dict[Form, str] = {
    "table": "vpntest 0.1.0 · ",
    "markdown": "## vpntest 0.1.0",
    "html": "<!doctype html>",
    "csv": "run,started,",
    "json": '{"schema":"vpntest.run/1"',
    "junit": "<?xml ",
    "ooni": '{"annotations":',
    "prometheus": "# HELP vpntest_",
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_written(form: Form) -> None:
    text = "".join(written(form, RECORD, judge(RECORD), Look()))
    assert text.lower().startswith(BEGINNINGS[form].lower())
    assert text.endswith("\n")


def test_the_forms_are_those_of_the_type() -> None:
    assert get_args(Form) == FORMS == tuple(dict.fromkeys([*FORMS]))
    assert {*BEGINNINGS} == {*FORMS}


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_a_view_that_asks_for_what_is_not_there_is_a_usage_error(form: Form) -> None:
    with pytest.raises(UsageError, match="no tunnel called 'nobody'"):
        written(form, RECORD, judge(RECORD), Look(view=View(tunnels=("nobody",))))


def test_the_command_line_knows_the_same_forms(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    assert "{" + ",".join(FORMS) + "}" in capsys.readouterr().out


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "run.json"
    path.write_bytes(encode(RECORD, judge(RECORD)))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_report_writes_each_form_to_a_file(kept: Path, tmp_path: Path, form: Form) -> None:
    assert main(["report", str(kept), "--format", form, "--width", "120", "-o", str(tmp_path / "out")]) == 0
    look = Look(width=120)
    assert (tmp_path / "out").read_bytes().decode() == "".join(written(form, RECORD, judge(RECORD), look))
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_report_redacts(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(kept), "--format", "json", "--redact"]) == 0
    assert decode(capsys.readouterr().out.encode()) == redacted(RECORD)


def test_report_shows_a_part_of_the_table(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", str(kept), "--tunnel", "se", "--tunnel", "ov", "--platform", "bank", "--sort", "name"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^(\w+)  +[○⊘–] ", shown, re.MULTILINE) == ["outside", "ov", "se"]
    assert "Shown: 2 of 5 tunnels and 1 of 5 platforms." in shown
    assert main(["report", str(kept), "--tunnel", "nobody"]) == 2
    assert "no tunnel called 'nobody'; it has: se, ss, ov, wg, bad" in capsys.readouterr().err


def test_a_tunnel_under_another_name_is_asked_for_by_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(platform("bird"))
    world.line()
    world.tunnel("links-vless-3fa2c1d4", carry=False)
    world.tunnel("plain", carry=False)
    record = world.record()
    (tmp_path / "run.json").write_bytes(encode(record, judge(record)))
    assert main(["report", str(tmp_path / "run.json"), "--redact", "--tunnel", "links-vless-3fa2c1d4"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^wireguard-tunnel-1 ", shown, re.MULTILINE)
    assert "links-vless" not in shown


def test_the_version_names_the_carriers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"vpntest {__version__}"
    assert rest == [f"  {row}" for row in find().rows if row.usable]
