"""The report as a text file for Prometheus (text format 0.0.4): node_exporter's textfile collector reads it.

A state is a set of gauges, one for each word of its vocabulary, of which one is 1: an alert names a word and need not
know how words are numbered. No sample has a time of its own, as the collector asks; when the run began is a gauge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from statistics import median

from vpntest.judge.platform_rules import goodputs
from vpntest.judge.reading import read
from vpntest.judge.verdict import Judgement, Outcome, State
from vpntest.probe.observation import Record
from vpntest.report.text import plain
from vpntest.tunnel.ladder import RUNGS

STAGES = ("none", *map(str, RUNGS))
"""From the bottom; `none`: not even the config could be used."""

Sample = tuple[dict[str, str], float]


def render(record: Record, judgement: Judgement) -> str:
    """The whole file, ending in a newline. What is not known has no sample."""
    told = "".join(f"# redacted: {plain(what)}\n" for what in record.run.redacted)
    return told + "".join(_families(record, judgement))


def _families(record: Record, judgement: Judgement) -> Iterator[str]:
    run = record.run
    about = {"id": run.id, "version": run.version, "redacted": _yes(bool(run.redacted))}
    yield _family("run_info", "What this run was.", [(about, 1)])
    yield _family("run_started_timestamp_seconds", "When the run began.", _when(run.started))
    yield _family("run_duration_seconds", "How long the run took.", [({}, run.seconds)])
    yield _family("run_complete", "0 where the run was interrupted.", [({}, float(run.complete))])
    alive = float(judgement.local_outage is None)
    yield _family("line_alive", "0 where the line itself was dead, so that nothing was judged.", [({}, alive)])
    kinds = {facts.name: facts.kind.value for facts in record.tunnels}
    tunnels = [({"tunnel": one.tunnel, "kind": kinds.get(one.tunnel, "")}, one.stage) for one in judgement.tunnels]
    yield _family("tunnel_stage", "The last rung that a tunnel reached.", _states(tunnels, "stage", STAGES))
    climbed = [(labels, float(STAGES.index(stage))) for labels, stage in tunnels if stage in STAGES]
    yield _family("tunnel_rung", f"The same as a number, from 0 to {len(STAGES) - 1} (up).", climbed)
    outside = [({"platform": one.platform}, one.state.value) for one in judgement.outside]
    states = tuple(map(str, State))
    yield _family("platform_state", "A platform on the line itself.", _states(outside, "state", states))
    cells = [({"tunnel": one.tunnel, "platform": one.platform}, one.outcome.value) for one in judgement.cells]
    outcomes = tuple(map(str, Outcome))
    yield _family("cell_outcome", "A platform through a tunnel.", _states(cells, "outcome", outcomes))
    yield _family(
        "goodput_bytes_per_second",
        "Median of transfers under the platform's own name (target), a neutral one, and from the controls.",
        _goodputs(record),
    )


def _goodputs(record: Record) -> Iterator[Sample]:
    for (vantage, platform), speed in sorted(read(record).speed.items()):
        for name, those in (("target", speed.target), ("neutral", speed.neutral), ("control", speed.control)):
            if those:
                yield {"vantage": vantage, "platform": platform, "name": name}, round(median(goodputs(those)) / 8, 1)


def _when(started: str) -> list[Sample]:
    try:
        return [({}, datetime.fromisoformat(started).timestamp())]
    except ValueError:
        return []


def _states(those: Iterable[tuple[dict[str, str], str]], name: str, words: tuple[str, ...]) -> Iterator[Sample]:
    for labels, is_now in those:
        for word in words:
            yield {**labels, name: word}, float(word == is_now)


def _family(name: str, about: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP vpntest_{name} {about}", f"# TYPE vpntest_{name} gauge"]
    for labels, value in samples:
        within = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"vpntest_{name}{f'{{{within}}}' if within else ''} {_number(value)}")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(round(value, 3))


def _escaped(text: str) -> str:
    return plain(text).replace("\\", r"\\").replace('"', r"\"")


def _yes(true: bool) -> str:
    return "true" if true else "false"
