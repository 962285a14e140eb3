"""The report for Prometheus, read by the parser of its own client library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from records import TIMEOUT, World, platform
from story import story

from vpntest.judge.judging import judge
from vpntest.judge.verdict import Outcome, State
from vpntest.probe.observation import Record
from vpntest.report.metrics import STAGES, render
from vpntest.report.redaction import REDACTED, redacted

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(record: Record) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(render(record, judge(record))):
        assert (family.type, family.name[:8]) == ("gauge", "vpntest_")
        assert family.documentation
        for sample in family.samples:
            key = (sample.name.removeprefix("vpntest_"), frozenset(sample.labels.items()))
            assert key not in found, "each sample once"
            assert sample.timestamp is None, "the textfile collector takes no times"
            found[key] = sample.value
    return found


def those(found: Samples, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
    for (metric, carried), value in found.items():
        if metric == name and labels.items() <= dict(carried).items():
            yield dict(carried), value


def test_each_state_is_a_set_of_which_one_is_true() -> None:
    record = story()
    judgement = judge(record)
    found = samples(record)
    for cell in judgement.cells:
        states = {
            labels["outcome"]: value
            for labels, value in those(found, "cell_outcome", tunnel=cell.tunnel, platform=cell.platform)
        }
        assert states == {outcome.value: float(outcome is cell.outcome) for outcome in Outcome}
    for one in judgement.outside:
        states = {labels["state"]: value for labels, value in those(found, "platform_state", platform=one.platform)}
        assert states == {state.value: float(state is one.state) for state in State}
    for tunnel in judgement.tunnels:
        states = {labels["stage"]: value for labels, value in those(found, "tunnel_stage", tunnel=tunnel.tunnel)}
        assert states == {stage: float(stage == tunnel.stage) for stage in STAGES}


def test_the_ladder_as_a_number() -> None:
    found = samples(story())
    rungs = {labels["tunnel"]: value for labels, value in those(found, "tunnel_rung")}
    assert rungs == {"se": 8, "ss": 8, "ov": 4, "wg": 6, "bad": 0}


def test_goodput_is_the_median() -> None:
    found = samples(story())
    told = {labels["name"]: value for labels, value in those(found, "goodput_bytes_per_second", vantage="outside")}
    assert 130_000 < told["target"] * 8 < 150_000
    assert 8_000_000 < told["neutral"] * 8 < 9_500_000


def test_facts_of_the_run() -> None:
    found = samples(story())
    assert found["run_started_timestamp_seconds", frozenset()] == 1795143600
    assert found["run_duration_seconds", frozenset()] == 42.5
    assert found["run_complete", frozenset()] == found["line_alive", frozenset()] == 1
    [(info, _)] = those(found, "run_info")
    assert info == {"id": "01890000-0000-7000-8000-000000000000", "version": "0.1.0", "redacted": "false"}


def test_of_a_dead_line_there_is_nothing_but_that() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.tunnel("se", carry=False)
    found = samples(world.record())
    assert found["line_alive", frozenset()] == 0
    assert not [*those(found, "cell_outcome")]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ('a"b', 'a"b'),
        ("a\\b", "a\\b"),
        ("a\\nb", "a\\nb"),
        ("a\nb", "a b"),
        ('"} 1', '"} 1'),
        ("имя", "имя"),
        ("\x1b", "�"),
    ],
)
def test_a_hostile_name_is_a_label(name: str, read: str) -> None:
    world = World(platform("bird"))
    world.line()
    world.tunnel(name, carry=False)
    assert {labels["tunnel"] for labels, _ in those(samples(world.record()), "tunnel_stage")} == {read}


def test_what_was_redacted_is_listed() -> None:
    record = redacted(story())
    assert render(record, judge(record)).startswith("".join(f"# redacted: {what}\n" for what in REDACTED))
    [(info, _)] = those(samples(record), "run_info")
    assert info["redacted"] == "true"
