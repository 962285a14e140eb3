"""Tunnels × platforms, arranged for reading: the one table that every form of the report shows.

    outside   state of each platform on the line itself
    tunnel    outcome of each platform through it
    …

Holds words and notes, no colours and no layout.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from vpntest.judge.judging import is_flaky, is_unproven, knows_speed, reason_of
from vpntest.judge.verdict import Cell, Judgement, Outcome, PlatformVerdict, State, TunnelVerdict
from vpntest.probe.observation import Record, TunnelFacts
from vpntest.report.text import plain
from vpntest.tunnel.vantage import OUTSIDE


class Sign(Struct, frozen=True):
    """How a state or an outcome is shown and explained."""

    glyph: str
    ascii: str
    """The glyph where only ASCII can be shown."""
    meaning: str


SIGNS: dict[str, Sign] = {
    Outcome.CIRCUMVENTS: Sign("✓", "+", "blocked or throttled outside, works through this tunnel"),
    Outcome.OPEN: Sign("○", "o", "works with and without the tunnel: nothing to circumvent"),
    State.OK: Sign("○", "o", "works on the line itself"),
    Outcome.BLOCKED: Sign("✗", "x", "blocked (in a tunnel's row: through the tunnel as well)"),
    Outcome.THROTTLED: Sign("▼", "v", "answers, but crawls"),
    Outcome.PARTIAL: Sign("◐", "~", "some services of the platform work through the tunnel, others do not"),
    Outcome.REFUSED: Sign("⊘", "/", "the platform itself turns this exit away; no censor does"),
    Outcome.BREAKS: Sign("!", "!", "works outside, and not through this tunnel"),
    Outcome.TUNNEL_DOWN: Sign("–", "-", "not measured: the tunnel is not usable; why, is told below"),
    Outcome.PLATFORM_DOWN: Sign("□", "#", "the platform is down for everybody"),
    State.DOWN: Sign("□", "#", "down, here and at every exit"),
    Outcome.INSUFFICIENT: Sign("?", "?", "evidence too thin to say; neither ok nor blocked"),
}
"""In the order of the legend. A state and an outcome of the same word are shown alike."""


class Entry(Struct, frozen=True):
    """One cell as shown."""

    word: str
    """A state in the first row, an outcome in all others: a key of :data:`SIGNS`."""
    note: str = ""
    """The mechanism, and how many tries agree where not all do; of a flaky one, how many were answered. Empty where
    there is nothing to add."""


class Row(Struct, frozen=True):
    """One vantage."""

    name: str
    kind: str
    """What the tunnel speaks; empty for the line."""
    entries: tuple[Entry, ...]


class Matrix(Struct, frozen=True):
    """The whole table. The first row is `outside`."""

    columns: tuple[str, ...]
    """Platform ids."""
    rows: tuple[Row, ...]


def arrange(record: Record, judgement: Judgement) -> Matrix:
    """The matrix, in the record's order. Without columns where nothing was judged."""
    cells: dict[str, list[Cell]] = {}
    for cell in judgement.cells:
        cells.setdefault(cell.tunnel, []).append(cell)
    rows = [Row(OUTSIDE, "", tuple(Entry(one.state, _note(one)) for one in judgement.outside))]
    for facts, tunnel in _tunnels(record, judgement):
        # Why a tunnel is down is the same for all its cells, and told once: see attention().
        entries = tuple(
            Entry(cell.outcome, _note(cell.inside) if cell.inside else "") for cell in cells.get(tunnel.tunnel, ())
        )
        rows.append(Row(plain(tunnel.tunnel), facts.kind, entries))
    return Matrix(tuple(plain(one.platform) for one in judgement.outside), tuple(rows))


def _tunnels(record: Record, judgement: Judgement) -> list[tuple[TunnelFacts, TunnelVerdict]]:
    facts = {tunnel.name: tunnel for tunnel in record.tunnels}
    return [(facts[tunnel.tunnel], tunnel) for tunnel in judgement.tunnels if tunnel.tunnel in facts]


def _note(verdict: PlatformVerdict) -> str:
    k, n = verdict.attempts
    if is_flaky(verdict):
        return f"flaky {k} of {n}"
    tries = f"{k} of {n}" if k < n and verdict.state is not State.INSUFFICIENT else ""
    return " ".join(part for part in (verdict.mechanism or "", tries) if part)


def summary(record: Record, judgement: Judgement) -> str:
    """The answer in a sentence or two: how much is censored here, and who gets around all of it."""
    if judgement.local_outage is not None:
        return f"Nothing was judged: {reason_of(judgement.line_rule or '')}."
    states = [verdict.state for verdict in judgement.outside]
    censored = {verdict.platform for verdict in judgement.outside if verdict.state in (State.BLOCKED, State.THROTTLED)}
    line = f"Blocked or throttled on this line: {len(censored)} of {len(states)} platforms"
    if unclear := states.count(State.INSUFFICIENT):
        line += f"; of {unclear} nothing can be said"
    if not censored:
        return f"{line}."
    around = [
        plain(tunnel.tunnel)
        for tunnel in judgement.tunnels
        if all(
            cell.outcome is Outcome.CIRCUMVENTS
            for cell in judgement.cells
            if cell.tunnel == tunnel.tunnel and cell.platform in censored
        )
    ]
    return f"{line}. Around all of it: {len(around)} of {len(record.tunnels)} tunnels ({', '.join(around) or 'none'})."


def attention(record: Record, judgement: Judgement) -> tuple[str, ...]:
    """What a reader should know beside the matrix, a line each: failed tunnels and why, thin evidence, warnings."""
    lines = []
    if not record.run.complete:
        lines.append("The run was interrupted; this is what was measured until then.")
    if record.run.redacted:
        lines.append(f"Redacted for publication: {'; '.join(record.run.redacted)}")
    for facts, tunnel in _tunnels(record, judgement):
        if tunnel.mechanism is not None:
            why = facts.problem.reason if facts.problem else reason_of(tunnel.rule)
            reached = "" if facts.problem else f" (reached: {tunnel.stage})"
            lines.append(f"{plain(facts.name)} [{facts.kind}] {tunnel.mechanism}{reached}: {plain(why)}")
    for verdict in judgement.outside:
        if verdict.state is State.INSUFFICIENT:
            lines.append(f"{plain(verdict.platform)} outside: {reason_of(verdict.rule)} [{verdict.rule}]")
    optional = {(one.id, service.id) for one in record.platforms for service in one.service if not service.required}
    for verdict in judgement.outside:
        lines += [
            f"{plain(verdict.platform)} outside: {plain(one.service)}, which it can do without, is "
            f"{one.state} ({plain(one.mechanism)})"
            for one in verdict.services
            if (verdict.platform, one.service) in optional and one.mechanism is not None
        ]
    inside = [cell.inside for cell in judgement.cells if cell.inside]
    lines += [
        f"{plain(verdict.platform)} {_where(verdict)}: {plain(verdict.detail)}"
        for verdict in (*judgement.outside, *inside)
        if verdict.detail
    ]
    thin: dict[tuple[str, str], list[str]] = {}
    for cell in judgement.cells:
        if cell.inside and cell.outcome is Outcome.INSUFFICIENT:
            rule = cell.inside.rule if cell.inside.state is State.INSUFFICIENT else cell.rule
            thin.setdefault((cell.tunnel, rule), []).append(plain(cell.platform))
    lines += [
        f"{', '.join(platforms)} through {plain(tunnel)}: {reason_of(rule)} [{rule}]"
        for (tunnel, rule), platforms in thin.items()
        if rule != "cell.insufficient.outside"
    ]
    if places := _places(judgement, lambda verdict: not knows_speed(verdict)):
        lines.append(f"Speed not judged, so that throttling would not show: {places}")
    if places := _places(judgement, is_unproven):
        lines.append(f"A connection opens, and nothing proves that it is the platform's, to a service of: {places}")
    for facts in record.tunnels:
        if facts.tls_unverified:
            lines.append(f"{plain(facts.name)}: its config asks not to check the server's certificate")
        lines += [f"{plain(facts.name)}: {plain(warning)}" for warning in facts.warnings]
    return tuple(lines)


def _where(verdict: PlatformVerdict) -> str:
    return OUTSIDE if verdict.vantage == OUTSIDE else f"through {plain(verdict.vantage)}"


def _places(judgement: Judgement, lacks: Callable[[PlatformVerdict], bool]) -> str:
    """Where platforms answer and something is lacking all the same: `twitter (everywhere); wiki (se, ss)`."""
    answering: dict[str, list[tuple[str, bool]]] = {}
    usable = [cell for cell in judgement.cells if cell.outcome in (Outcome.OPEN, Outcome.CIRCUMVENTS)]
    for vantage, verdict in [
        *((OUTSIDE, verdict) for verdict in judgement.outside),
        *((cell.tunnel, cell.inside) for cell in usable if cell.inside),
    ]:
        if verdict.state is State.OK:
            answering.setdefault(verdict.platform, []).append((vantage, lacks(verdict)))
    platforms: dict[str, list[str]] = {}
    for platform, seen in answering.items():
        found = [plain(vantage) for vantage, lacking in seen if lacking]
        if found:
            where = "everywhere" if len(found) == len(seen) > 1 else ", ".join(found)
            platforms.setdefault(where, []).append(plain(platform))
    return "; ".join(f"{', '.join(names)} ({where})" for where, names in platforms.items())
