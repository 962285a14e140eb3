"""The report as JUnit's XML, for what shows the results of tests: a suite for each tunnel, a case for each platform.

    passed    circumvents, open
    failure   the network or the platform does not let this tunnel's users through
    error     it could not be measured: the config or this machine, or a dead line
    skipped   nothing can be said: thin evidence, a platform that is down for everybody

The shape is that of the schema which Jenkins' xunit plugin checks (its junit-10.xsd).
"""

from __future__ import annotations

from typing import Literal
from xml.etree import ElementTree

from vpntest.judge.judging import reason_of
from vpntest.judge.verdict import Cell, Judgement, Outcome, PlatformVerdict, TunnelVerdict
from vpntest.probe.observation import Record, TunnelFacts
from vpntest.report.text import plain
from vpntest.tunnel.vantage import OUTSIDE

Result = Literal["passed", "failure", "error", "skipped"]

_RESULTS: dict[Outcome, Result] = {
    Outcome.CIRCUMVENTS: "passed",
    Outcome.OPEN: "passed",
    Outcome.BLOCKED: "failure",
    Outcome.BREAKS: "failure",
    Outcome.THROTTLED: "failure",
    Outcome.PARTIAL: "failure",
    Outcome.REFUSED: "failure",
    Outcome.TUNNEL_DOWN: "failure",
    Outcome.PLATFORM_DOWN: "skipped",
    Outcome.INSUFFICIENT: "skipped",
}
_LONGEST = 1000


def result_of(cell: Cell, tunnel: TunnelVerdict, facts: TunnelFacts) -> Result:
    """How a cell ends as a test."""
    if cell.outcome is Outcome.TUNNEL_DOWN and (facts.problem is not None or tunnel.rule.startswith(_UNMEASURED)):
        return "error"
    return _RESULTS[cell.outcome]


_UNMEASURED = ("tunnel.unmeasured", "tunnel.carrier-exited")
"""How the ids of the rules begin that say that a tunnel was not measured."""


def render(record: Record, judgement: Judgement) -> str:
    """The whole document, ending in a newline."""
    cells = {(cell.tunnel, cell.platform): cell for cell in judgement.cells}
    verdicts = {tunnel.tunnel: tunnel for tunnel in judgement.tunnels}
    spent = _spent(record)
    root = ElementTree.Element("testsuites", name="vpntest", time=f"{max(record.run.seconds, 0):.3f}")
    counts = {"tests": 0, "failures": 0, "errors": 0}
    for facts in record.tunnels:
        suite = ElementTree.SubElement(root, "testsuite", name=plain(facts.name), timestamp=record.run.started[:19])
        _properties(suite, record, facts, verdicts.get(facts.name))
        results: list[Result] = []
        whole = 0.0
        for platform in record.platforms:
            seconds = spent.get((facts.name, platform.id), 0.0)
            whole += seconds
            case = ElementTree.SubElement(
                suite,
                "testcase",
                name=plain(platform.id),
                classname=f"vpntest.{plain(facts.name)}",
                time=f"{seconds:.3f}",
            )
            cell, verdict = cells.get((facts.name, platform.id)), verdicts.get(facts.name)
            if cell is None or verdict is None:
                why = reason_of(judgement.line_rule or "") or "the run did not come to it"
                results.append(_end(case, "error", "not-judged", f"nothing was judged: {why}", ""))
                continue
            results.append(
                _end(case, result_of(cell, verdict, facts), cell.outcome, _message(cell, verdict, facts), _text(cell))
            )
        sums = {
            "tests": len(results),
            "failures": results.count("failure"),
            "errors": results.count("error"),
        }
        suite.attrib |= {name: str(value) for name, value in sums.items()}
        suite.attrib |= {"skipped": str(results.count("skipped")), "time": f"{whole:.3f}"}
        counts = {name: counts[name] + value for name, value in sums.items()}
    root.attrib |= {name: str(value) for name, value in counts.items()}
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _properties(suite: ElementTree.Element, record: Record, facts: TunnelFacts, verdict: TunnelVerdict | None) -> None:
    told = {
        "run": record.run.id,
        "version": record.run.version,
        "complete": "true" if record.run.complete else "false",
        "kind": facts.kind.value,
        "stage": verdict.stage if verdict else "",
        "mechanism": verdict.mechanism or "" if verdict else "",
        "redacted": "; ".join(record.run.redacted),
    }
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in told.items():
        if value:
            ElementTree.SubElement(properties, "property", name=name, value=plain(value, _LONGEST))


def _end(case: ElementTree.Element, result: Result, kind: str, message: str, text: str) -> Result:
    if result == "passed":
        ElementTree.SubElement(case, "system-out").text = f"{message}\n{text}"
    else:
        ElementTree.SubElement(case, result, type=kind, message=plain(message, _LONGEST)).text = text
    return result


def _message(cell: Cell, tunnel: TunnelVerdict, facts: TunnelFacts) -> str:
    if cell.outcome is Outcome.TUNNEL_DOWN:
        why = facts.problem.reason if facts.problem else reason_of(tunnel.rule)
        return f"{cell.outcome}: {tunnel.mechanism or ''}, reached {tunnel.stage}: {why}"
    mechanism = cell.inside.mechanism if cell.inside else None
    told = f" ({mechanism})" if mechanism else ""
    return f"{cell.outcome}{told}: {reason_of(cell.rule)}"


def _text(cell: Cell) -> str:
    lines = [f"rule {cell.rule}", _side(cell.outside)]
    if cell.inside:
        lines.append(_side(cell.inside))
    return "\n".join(lines)


def _side(verdict: PlatformVerdict) -> str:
    where = OUTSIDE if verdict.vantage == OUTSIDE else "inside"
    k, n = verdict.attempts
    parts = [
        f"{where}: {verdict.state}",
        verdict.mechanism or "",
        f"{k} of {n} tries" if n else "",
        verdict.detail or "",
    ]
    witnesses = f"; witnesses {' '.join(verdict.witnesses)}" if verdict.witnesses else ""
    told = ", ".join(plain(part, _LONGEST) for part in parts if part)
    return f"{told}; rule {verdict.rule}: {reason_of(verdict.rule)}{witnesses}"


def _spent(record: Record) -> dict[tuple[str, str], float]:
    """Seconds that the observations of each vantage and platform took, side by side or not."""
    found: dict[tuple[str, str], float] = {}
    for one in record.observations:
        if one.platform is not None:
            key = (one.vantage, one.platform)
            found[key] = found.get(key, 0.0) + max(one.t - one.t0, 0.0)
    return found
