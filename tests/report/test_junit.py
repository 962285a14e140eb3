"""The report as JUnit's XML, read by a reader of it, and held against the schema that Jenkins' xunit plugin checks."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import junitparser
import msgspec
import pytest
from records import TIMEOUT, World, platform
from story import story

from vpntest.judge.judging import judge
from vpntest.judge.verdict import Outcome
from vpntest.plan.model import Kind, Problem
from vpntest.probe.observation import Record
from vpntest.report.junit import _RESULTS, render
from vpntest.report.redaction import REDACTED, redacted

ALLOWED: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, set(), {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp", "hostname", "id", "package"}
        | {"file", "log", "url"},
        {"name", "tests", "failures", "errors"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, {"name", "value"}, set()),
    "testcase": (
        {"name", "time", "classname", "group"},
        {"name"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    **{name: ({"type", "message"}, set(), set()) for name in ("failure", "error", "skipped")},
    "system-out": (set(), set(), set()),
}
"""jenkinsci/xunit-plugin, junit-10.xsd: of each element its attributes, those of them that it needs, its children."""
SECONDS = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")
"""The same schema's pattern for the time of a suite."""


def dead() -> Record:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.tunnel("se", carry=False)
    return world.record()


def hostile() -> Record:
    world = World(platform("bird"))
    world.line()
    problem = Problem("invalid", "a\x00b ]]> <script>&amp;\ufffe\ud800")
    world.tunnel('x"><failure/>&', problem=problem, kind=Kind.UNKNOWN)
    return world.record()


def parsed(record: Record) -> dict[str, junitparser.TestSuite]:
    found = junitparser.JUnitXml.fromstring(render(record, judge(record)).encode())
    assert isinstance(found, junitparser.JUnitXml)
    return {suite.name: suite for suite in found}


def ends(suite: junitparser.TestSuite) -> dict[str, str]:
    return {case.name: type(case.result[0]).__name__ if case.result else "passed" for case in suite}


@pytest.mark.parametrize(
    "record",
    [story(), dead(), hostile(), World().record(), redacted(story())],
    ids=["story", "dead", "hostile", "empty", "redacted"],
)
def test_it_is_what_the_schema_allows(record: Record) -> None:
    root = ElementTree.fromstring(render(record, judge(record)).encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, needed, children = ALLOWED[element.tag]
        assert needed <= {*element.attrib} <= attributes, element.tag
        assert {child.tag for child in element} <= children, element.tag
        if element.tag in ("testsuites", "testsuite"):
            assert SECONDS.fullmatch(element.attrib["time"])


def test_a_suite_for_each_tunnel_and_a_case_for_each_platform() -> None:
    record = story()
    suites = parsed(record)
    assert [*suites] == ["se", "ss", "ov", "wg", "bad"]
    for name, suite in suites.items():
        assert [case.name for case in suite] == ["twitter", "facebook", "bank", "lost", "wiki"]
        assert {case.classname for case in suite} == {f"vpntest.{name}"}
    assert ends(suites["se"]) == {
        "twitter": "passed",
        "facebook": "passed",
        "bank": "Failure",
        "lost": "Skipped",
        "wiki": "Skipped",
    }
    assert ends(suites["ss"])["facebook"] == "Failure"
    assert set(ends(suites["ov"]).values()) == {"Failure"}
    assert set(ends(suites["bad"]).values()) == {"Error"}


def test_the_sums_are_those_of_the_cases() -> None:
    found = junitparser.JUnitXml.fromstring(render(record := story(), judge(record)).encode())
    told = [(suite.tests, suite.failures, suite.errors, suite.skipped) for suite in found]
    whole = (found.tests, found.failures, found.errors)
    found.update_statistics()
    assert told == [(suite.tests, suite.failures, suite.errors, suite.skipped) for suite in found]
    assert whole == (found.tests, found.failures, found.errors) == (25, 13, 5)


def test_a_failure_says_how_and_by_which_rule() -> None:
    [case] = [case for case in parsed(story())["ss"] if case.name == "facebook"]
    [failure] = case.result
    assert failure.type == "blocked"
    assert failure.message.startswith("blocked (http.timeout): ")
    assert "rule cell.blocked" in failure.text
    assert re.search(
        r"outside: blocked, tls\.reset\.sni, 9 of 10 tries; rule endpoint\..*; witnesses o\d+", failure.text
    )
    [case] = [case for case in parsed(story())["bad"] if case.name == "facebook"]
    assert case.result[0].message == "tunnel-down: invalid, reached none: bad.conf:3: key is 31 bytes, not 32�[2J"


def test_on_a_dead_line_nothing_passes_and_nothing_fails() -> None:
    assert ends(parsed(dead())["se"]) == {"bird": "Error"}


def test_a_hostile_name_is_a_text() -> None:
    record = hostile()
    [suite] = parsed(record).values()
    assert suite.name == 'x"><failure/>&'
    assert [case.result[0].message for case in suite] == ["tunnel-down: invalid, reached none: a�b ]]> <script>&amp;��"]


def test_what_was_redacted_is_a_property() -> None:
    suite = parsed(redacted(story()))["se"]
    assert {one.name: one.value for one in suite.properties()}["redacted"] == "; ".join(REDACTED)


def test_every_outcome_ends_somehow() -> None:
    assert {*_RESULTS} == {*Outcome}


def test_an_interrupted_run_says_so() -> None:
    record = story()
    halted = msgspec.structs.replace(record, run=msgspec.structs.replace(record.run, complete=False))
    assert {one.name: one.value for one in parsed(halted)["se"].properties()}["complete"] == "false"
