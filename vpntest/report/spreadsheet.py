"""The report as CSV (RFC 4180): a row for each cell, for a spreadsheet or a data frame.

Names come from strangers, and a spreadsheet runs what begins like a formula: such a value gets an apostrophe in front,
as OWASP ("CSV Injection") advises; spreadsheets take it for the mark of a text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Final

from vpntest.judge.verdict import Cell, Judgement, PlatformVerdict
from vpntest.probe.observation import Record
from vpntest.report.text import plain

COLUMNS: Final = (
    "run",
    "started",
    "version",
    "complete",
    "country",
    "asn",
    "tunnel",
    "kind",
    "stage",
    "tunnel_mechanism",
    "tunnel_rule",
    "platform",
    "outcome",
    "rule",
    *(f"{side}_{what}" for side in ("outside", "inside") for what in ("state", "mechanism", "rule", "agree", "tries")),
    "detail",
    "redacted",
)
"""Columns are added at the end, never changed in meaning. What is unknown or was not measured is empty."""

_FORMULA = "=+-@\t\r\n＝＋－＠"
"""What a formula begins with; the wide forms too, which some spreadsheets take for the same."""


def safe(value: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if value and value[0] in _FORMULA else value


def render(record: Record, judgement: Judgement) -> str:
    """The whole table with its head. Where nothing was judged, each cell has the rule that says why, and no outcome."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\r\n")
    rows.writerow(COLUMNS)
    rows.writerows([safe(plain(value, 1000)) for value in row] for row in _rows(record, judgement))
    return written.getvalue()


def _rows(record: Record, judgement: Judgement) -> Iterator[list[str]]:
    run = record.run
    asn = "" if run.vantage.asn is None else str(run.vantage.asn)
    head = [run.id, run.started, run.version, _yes(run.complete), run.vantage.country or "", asn]
    tail = "; ".join(run.redacted)
    verdicts = {tunnel.tunnel: tunnel for tunnel in judgement.tunnels}
    cells = {(cell.tunnel, cell.platform): cell for cell in judgement.cells}
    for facts in record.tunnels:
        verdict = verdicts.get(facts.name)
        got = [verdict.stage, verdict.mechanism or "", verdict.rule] if verdict else ["", "", ""]
        for platform in record.platforms:
            cell = cells.get((facts.name, platform.id))
            told = _told(cell) if cell else ["", judgement.line_rule or "", *_side(None), *_side(None), ""]
            yield [*head, facts.name, facts.kind.value, *got, platform.id, *told, tail]


def _told(cell: Cell) -> list[str]:
    details = (verdict.detail for verdict in (cell.outside, cell.inside) if verdict and verdict.detail)
    return [cell.outcome.value, cell.rule, *_side(cell.outside), *_side(cell.inside), "; ".join(details)]


def _side(verdict: PlatformVerdict | None) -> list[str]:
    if verdict is None:
        return [""] * 5
    return [verdict.state.value, verdict.mechanism or "", verdict.rule, *map(str, verdict.attempts)]


def _yes(true: bool) -> str:
    return "true" if true else "false"
