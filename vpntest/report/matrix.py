"""Tunnels × platforms, arranged for reading: the one table that every form of the report shows.

    outside   state of each platform on the line itself
    tunnel    outcome of each platform through it
    …

Holds words and notes, no colours and no layout.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from vpntest.judge.judging import is_flaky, is_unproven, knows_speed, reason_of
from vpntest.judge.verdict import Cell, Judgement, Outcome, PlatformVerdict, State, TunnelVerdict
from vpntest.probe.observation import Record, TunnelFacts
from vpntest.report.text import plain
from vpntest.report.words import say
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
        # Why a tunnel is down is the same for all its cells, and told once: see fallen().
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


class Sentence(Struct, frozen=True):
    """One thing to say beside the matrix, for every language to say in its own words."""

    key: str
    """Of the catalogue."""
    put_in: tuple[str, ...] = ()
    rule: str | None = None
    """A rule whose reason follows."""
    said: str = ""
    """What follows in English alone."""

    def __str__(self) -> str:
        """In English."""
        reason = f"{reason_of(self.rule)} [{self.rule}]" if self.rule else ""
        return " ".join(part for part in (say(self.key, *self.put_in), reason, self.said) if part)


def _sentence(key: str, *put_in: str | Sequence[str], rule: str | None = None, said: str = "") -> Sentence:
    texts = (plain(one) if isinstance(one, str) else _listed(one) for one in put_in)
    return Sentence(key, tuple(texts), rule, plain(said))


_NAMED = 20
"""Names in a sentence: the matrix has them all."""


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*map(plain, names[:_NAMED]), *(["…"] if len(names) > _NAMED else [])])


def answer(record: Record, judgement: Judgement) -> Iterator[Sentence]:
    """How much is censored here, and who gets around all of it."""
    if judgement.local_outage is not None:
        yield Sentence("summary.nothing", rule=judgement.line_rule or "line.dead")
        return
    outside = judgement.outside
    censored = {verdict.platform for verdict in outside if verdict.state in (State.BLOCKED, State.THROTTLED)}
    yield _sentence("summary.censored", str(len(censored)), str(len(outside)))
    if unclear := sum(verdict.state is State.INSUFFICIENT for verdict in outside):
        yield _sentence("summary.unclear", str(unclear))
    if not censored:
        return
    passed = Counter(
        cell.tunnel for cell in judgement.cells if cell.platform in censored and cell.outcome is Outcome.CIRCUMVENTS
    )
    around = [facts.name for facts in record.tunnels if passed[facts.name] == len(censored)]
    key = "summary.around" if around else "summary.around.none"
    yield _sentence(key, str(len(around)), str(len(record.tunnels)), around)


def summary(record: Record, judgement: Judgement) -> str:
    """The answer in English."""
    return " ".join(map(str, answer(record, judgement)))


def fallen(record: Record, judgement: Judgement) -> Iterator[Sentence]:
    """The tunnels that are not up, and why; together those that fell alike."""
    alike: dict[tuple[str, str, str | None, str], list[str]] = defaultdict(list)
    for facts, tunnel in _tunnels(record, judgement):
        if tunnel.mechanism is not None:
            why = facts.problem.reason if facts.problem else reason_of(tunnel.rule)
            stage = None if facts.problem else tunnel.stage
            alike[facts.kind, tunnel.mechanism, stage, why].append(facts.name)
    for (kind, mechanism, stage, why), names in alike.items():
        if stage is None:
            yield _sentence("attention.problem", names, kind, mechanism, said=why)
        else:
            yield _sentence("attention.fallen", names, kind, mechanism, stage, said=why)


def attention(record: Record, judgement: Judgement) -> Iterator[Sentence]:
    """What else a reader should know beside the matrix: thin evidence, warnings."""
    if not record.run.complete:
        yield Sentence("attention.interrupted")
    if record.run.redacted:
        yield Sentence("attention.redacted", ("; ".join(map(plain, record.run.redacted)),))
    for verdict in judgement.outside:
        if verdict.state is State.INSUFFICIENT:
            yield _sentence("attention.outside", verdict.platform, rule=verdict.rule)
    yield from _optional(record, judgement)
    for verdict in (*judgement.outside, *(cell.inside for cell in judgement.cells if cell.inside)):
        if verdict.detail:
            place = () if verdict.vantage == OUTSIDE else (verdict.vantage,)
            key = "attention.through" if place else "attention.outside"
            yield _sentence(key, verdict.platform, *place, said=verdict.detail)
    thin: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in judgement.cells:
        # That the line itself is unclear was told of the platform.
        if cell.inside and cell.outcome is Outcome.INSUFFICIENT and cell.rule != "cell.insufficient.outside":
            rule = cell.inside.rule if cell.inside.state is State.INSUFFICIENT else cell.rule
            thin[cell.tunnel, rule].append(cell.platform)
    for (name, rule), platforms in thin.items():
        yield _sentence("attention.through", platforms, name, rule=rule)
    yield from _lacking(judgement, "attention.speed", lambda verdict: not knows_speed(verdict))
    yield from _lacking(judgement, "attention.unproven", is_unproven)
    for facts in record.tunnels:
        if facts.tls_unverified:
            yield _sentence("attention.unverified", facts.name)
        for warning in facts.warnings:
            yield _sentence("attention.warning", facts.name, said=warning)


def _optional(record: Record, judgement: Judgement) -> Iterator[Sentence]:
    """Services that do not work on the line, and which platforms can do without."""
    optional = {(one.id, service.id) for one in record.platforms for service in one.service if not service.required}
    broken: dict[tuple[str, str], list[str]] = defaultdict(list)
    for verdict in judgement.outside:
        for one in verdict.services:
            if (verdict.platform, one.service) in optional and one.mechanism is not None:
                broken[one.service, one.mechanism].append(verdict.platform)
    for (service, mechanism), platforms in broken.items():
        yield _sentence("attention.optional", platforms, service, mechanism)


def _lacking(judgement: Judgement, key: str, lacks: Callable[[PlatformVerdict], bool]) -> Iterator[Sentence]:
    """Platforms that answer where something is lacking all the same; in one sentence those that lack it alike."""
    usable = [cell.inside for cell in judgement.cells if cell.outcome in (Outcome.OPEN, Outcome.CIRCUMVENTS)]
    answering: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for verdict in (*judgement.outside, *filter(None, usable)):
        if verdict.state is State.OK:
            answering[verdict.platform].append((verdict.vantage, lacks(verdict)))
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for platform, seen in answering.items():
        found = [vantage for vantage, lacking in seen if lacking]
        if found:
            alike[() if len(found) == len(seen) > 1 else tuple(found)].append(platform)
    for where, platforms in alike.items():
        yield _sentence(key, platforms, where) if where else _sentence(f"{key}.everywhere", platforms)
