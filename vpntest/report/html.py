"""The report as one HTML file that asks nothing of anybody: the matrix, and behind each cell its evidence.

    Record + Judgement ─core→ the page as it stands, in English, readable without scripts
                       └details→ what a cell opens to: packed, unpacked by the browser at the first opening

The page's parts stand in `page/`: template, style, script, and the catalogue of what it says in each language (see
words.py). The browser's language chooses.

Names, titles and words of servers come from strangers. They are made plain, escaped by the template, and set by the
script as text only; the page's policy lets nothing run or load but its own script and style, each by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from vpntest.judge.reading import read
from vpntest.judge.samples import PULSE, Sample
from vpntest.judge.verdict import Cell, Judgement, PlatformVerdict, TunnelVerdict
from vpntest.probe.observation import (
    Address,
    Alive,
    Crowd,
    DnsAnswer,
    Echo,
    HttpExchange,
    Observation,
    QuicHandshake,
    Record,
    RungStep,
    SmallExchanges,
    StunBinding,
    TcpConnect,
    TlsHandshake,
    Transfer,
    TunnelFacts,
)
from vpntest.report.compared import Comparisons, Rate
from vpntest.report.matrix import SIGNS, Sentence, answer, attention
from vpntest.report.otherwise import Change, cases_of
from vpntest.report.text import plain
from vpntest.report.words import LANGUAGES, PAGE, RULES, reasons, ways, words
from vpntest.tunnel.ladder import RUNGS
from vpntest.tunnel.vantage import OUTSIDE

if TYPE_CHECKING:
    from markupsafe import Markup

_LONGEST = 10_000
"""Characters of what is put in: a list of names is cut by its names, and not here."""
_TRANSFERS_SHOWN = 40
"""Transfers in the plots of one platform at one vantage; a run makes twenty."""


def render(record: Record, judgement: Judgement) -> str:
    """The whole page. The same record and judgement give the same text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _part("page.css"), _part("page.js")
    core = _Core(record, judgement)
    details = _Details(record, judgement).plain()
    return environment.get_template("page.html.jinja").render(
        style=style,
        script=script,
        policy="; ".join(
            (
                "default-src 'none'",
                f"script-src '{_hash(script)}'",
                f"style-src '{_hash(style)}'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        say=_say,
        say_plainly=lambda key: words()["en"][key],
        plain=plain,
        core=core,
        signs=[(word, sign.glyph) for word, sign in SIGNS.items()],
        rungs=[str(rung) for rung in RUNGS],
        data=_embedded(core.data(details["rules"])),
        details=_packed(details),
    )


# ── the parts of the page ────────────────────────────────────────────────────────────────────────────────────────────


def _part(name: str) -> str:
    return "\n" + (PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: Any) -> str:
    """JSON that no parser of HTML can take for the end of its element, or for the beginning of a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _packed(data: Any) -> str:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return base64.b64encode(packer.compress(_embedded(data).encode()) + packer.flush()).decode()


def _say(key: str, *put_in: object) -> Markup:
    """A text of the catalogue in English, marked so that the script can say it in another language."""
    from markupsafe import Markup, escape

    own = [plain(str(one), _LONGEST) for one in put_in]
    said = escape(words()["en"][key])
    for number, one in enumerate(own):
        # Set apart, lest a name that runs from right to left reorders the sentence around it.
        said = said.replace(f"{{{number}}}", Markup("<bdi>{}</bdi>").format(one))
    marked = Markup(' data-p="{}"').format(json.dumps(own, ensure_ascii=False)) if own else Markup("")
    return Markup('<span data-t="{}"{}>{}</span>').format(key, marked, said)


def _note(verdict: PlatformVerdict) -> str:
    """Why, and how many tries agree where not all do: the same in every language."""
    k, n = verdict.attempts
    return " ".join(part for part in (plain(verdict.mechanism or ""), f"{k}/{n}" if k < n else "") if part)


# ── what stands in the page itself ───────────────────────────────────────────────────────────────────────────────────


class _Core:
    """What the template shows."""

    def __init__(self, record: Record, judgement: Judgement) -> None:
        self._record, self._judgement = record, judgement
        self.run = record.run
        self.version, self.started, self.id = (plain(one) for one in (self.run.version, self.run.started, self.run.id))
        self.when = _when(self.started)
        vantage = self.run.vantage
        place = (vantage.id, vantage.country, f"AS{vantage.asn}" if vantage.asn else None)
        self.place = " ".join(plain(one) for one in place if one)
        self.seconds = f"{self.run.seconds:.0f}"
        self.platforms = [(plain(one.id), plain(one.title)) for one in record.platforms]
        self.is_judged = judgement.local_outage is None
        cells: dict[str, list[Cell]] = defaultdict(list)
        for cell in judgement.cells:
            cells[cell.tunnel].append(cell)
        self.first = [(str(one.state), _note(one)) for one in judgement.outside]
        self.tunnels = [
            self._tunnel(facts, verdict, cells[facts.name]) for facts, verdict in _tunnels(record, judgement)
        ]
        self.steps = _ladders(record)

    def _tunnel(self, facts: TunnelFacts, verdict: TunnelVerdict | None, cells: list[Cell]) -> dict[str, Any]:
        return {
            **_told(facts, verdict),
            "cells": [(str(one.outcome), _note(one.inside) if one.inside else "") for one in cells],
        }

    def ladder(self, tunnel: dict[str, Any]) -> list[tuple[str, str, str]]:
        """For each rung: `reached`, `failed` or `none`, when in seconds, and why not."""
        steps = self.steps.get(tunnel["name"], {})
        reached = [str(rung) for rung in RUNGS]
        top = reached.index(tunnel["stage"]) if tunnel["stage"] in reached else -1
        told = []
        for place, rung in enumerate(reached):
            step = steps.get(rung)
            # Above the last rung that is climbed while raising, the judge says how far it got.
            how = "reached" if place <= top else "failed" if place == top + 1 and tunnel["mechanism"] else "none"
            when = f"{step.t:.1f}" if step and how == "reached" else ""
            told.append((how, when, tunnel["mechanism"] if how == "failed" else ""))
        return told

    def reason(self, rule: str) -> Markup:
        """A rule's reason, marked for the script."""
        from markupsafe import Markup

        known = RULES.get(rule)
        return Markup('<span data-r="{}">{}</span>').format(rule, known.reason if known else rule)

    def summary(self) -> Iterator[Markup]:
        """The answer."""
        yield from map(self._sentence, answer(self._record, self._judgement))

    def attention(self) -> Iterator[Markup]:
        """What a reader should know beside the matrix; failed tunnels are told with their ladders."""
        yield from map(self._sentence, attention(self._record, self._judgement))

    def _sentence(self, one: Sentence) -> Markup:
        """A sentence, marked for the script."""
        from markupsafe import Markup

        said = Markup('<span lang="en" dir="ltr">{}</span>').format(one.said) if one.said else None
        parts = (_say(one.key, *one.put_in), self.reason(one.rule) if one.rule else None, said)
        return Markup(" ").join(part for part in parts if part)

    def data(self, rules: Iterable[str]) -> dict[str, Any]:
        """What the script needs before any cell is opened."""
        used = {
            *rules,
            *(one["rule"] for one in self.tunnels),
            *(cell.rule for cell in self._judgement.cells),
            self._judgement.line_rule or "",
        }
        return {
            "words": words(),
            "rules": {
                rule: [
                    *(reasons().get(rule, {}).get(one, RULES[rule].reason) for one in LANGUAGES),
                    RULES[rule].source,
                ]
                for rule in sorted(used)
                if rule in RULES
            },
            "languages": LANGUAGES,
        }


def _when(started: str) -> str:
    """To the minute, where it is a time as we write it."""
    minute = started.removesuffix("+00:00")[:16]
    return f"{minute.replace('T', ' ')} UTC" if started.endswith("+00:00") else started


def _tunnels(record: Record, judgement: Judgement) -> list[tuple[TunnelFacts, TunnelVerdict | None]]:
    verdicts = {one.tunnel: one for one in judgement.tunnels}
    return [(facts, verdicts.get(facts.name)) for facts in record.tunnels]


def _told(facts: TunnelFacts, verdict: TunnelVerdict | None) -> dict[str, Any]:
    """What is known of a tunnel, as plain data."""
    return {
        "name": plain(facts.name),
        "kind": str(facts.kind),
        "source": plain(facts.source),
        "servers": [plain(one) for one in facts.servers],
        "carrier": plain(facts.carrier or ""),
        "stage": verdict.stage if verdict else "",
        "mechanism": plain(verdict.mechanism or "") if verdict else "",
        "rule": verdict.rule if verdict else "",
        "detail": plain(verdict.detail or "") if verdict else "",
        "problem": plain(facts.problem.reason) if facts.problem else "",
    }


def _ladders(record: Record) -> dict[str, dict[str, Observation]]:
    steps: dict[str, dict[str, Observation]] = defaultdict(dict)
    for one in record.observations:
        if isinstance(one.details, RungStep):
            steps[plain(one.vantage)][one.details.rung] = one
    return steps


# ── what a cell opens to ─────────────────────────────────────────────────────────────────────────────────────────────


class _Details:
    """The evidence of every verdict, as plain data; each observation once, however many verdicts stand on it."""

    def __init__(self, record: Record, judgement: Judgement) -> None:
        self._record, self._judgement = record, judgement
        self._by_id = {one.id: one for one in record.observations}
        self._places = {OUTSIDE: 0, **{facts.name: place for place, facts in enumerate(record.tunnels, 1)}}
        self._rows: list[list[Any]] = []
        self._row_of: dict[str, int] = {}
        self._rules: set[str] = set()
        self._comparisons = Comparisons(read(record))
        self._reach: dict[tuple[str, str], list[Observation]] = defaultdict(list)
        self._transfers: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        for one in record.observations:
            key = (one.vantage, one.platform or "")
            if one.probe == "reach" and one.role == "target":
                self._reach[key].append(one)
            elif one.probe == "speed" and one.role in ("target", "neutral") and isinstance(one.details, Transfer):
                self._transfers[key].append(Sample(one, one.details))

    def plain(self) -> dict[str, Any]:
        """All of it."""
        cells: dict[str, list[list[Any]]] = defaultdict(list)
        for cell in self._judgement.cells:
            cells[cell.tunnel].append([cell.rule, self._verdict(cell.inside) if cell.inside else None])
        outside = [self._verdict(one) for one in self._judgement.outside]
        tunnels = [
            _told(facts, verdict) | {"witnesses": self._witnesses(verdict.witnesses if verdict else ())}
            for facts, verdict in _tunnels(self._record, self._judgement)
        ]
        return {
            "outside": outside,
            "otherwise": self._otherwise(),
            "cells": [cells[facts.name] for facts in self._record.tunnels],
            "tunnels": tunnels,
            "observations": self._rows,
            "neutral": plain(self._record.run.neutral_name),
            "rules": sorted(self._rules),
        }

    def _otherwise(self) -> dict[str, Any]:
        """What would have changed it: each case once, and its number for each verdict that belongs to it."""
        cases, number = cases_of(self._record, self._judgement)
        platforms = [one.id for one in self._record.platforms]
        tunnels = [facts.name for facts in self._record.tunnels]
        return {
            "cases": [[plain(case.place[0]), [self._change(one) for one in case.changes]] for case in cases],
            "outside": [number.get((OUTSIDE, platform)) for platform in platforms],
            "tunnels": [number.get((tunnel, None)) for tunnel in tunnels],
            "cells": [[number.get((tunnel, platform)) for platform in platforms] for tunnel in tunnels],
        }

    def _change(self, change: Change) -> list[Any]:
        then = [[one.part, one.word, plain(one.mechanism or ""), self._rule(one.rule)] for one in change.then]
        return [change.key, [plain(one) for one in change.put_in], then]

    def _rule(self, rule: str | None) -> str | None:
        if rule is not None:
            self._rules.add(rule)
        return rule

    def _verdict(self, verdict: PlatformVerdict) -> dict[str, Any]:
        key = (verdict.vantage, verdict.platform)
        rules = dict.fromkeys([verdict.rule, *ways(verdict.mechanism), *([verdict.speed] if verdict.speed else [])])
        return {
            "state": verdict.state,
            "mechanism": plain(verdict.mechanism or ""),
            "rules": [self._rule(rule) for rule in rules],
            # Of one judged by its transfers they count those, which are told beside the plot.
            "tries": verdict.attempts if verdict.speed != verdict.rule else (0, 0),
            "partial": verdict.partial,
            "detail": plain(verdict.detail or ""),
            "services": [
                [plain(one.service), one.state, plain(one.mechanism or ""), self._rule(one.rule)]
                for one in verdict.services
            ],
            "witnesses": self._witnesses(verdict.witnesses),
            "compared": self._compared(verdict),
            "timings": _timings(self._reach[key]),
            "transfers": [_drawn(one) for one in self._transfers[key][:_TRANSFERS_SHOWN]],
        }

    def _witnesses(self, ids: Iterable[str]) -> list[int]:
        seen = sorted((self._by_id[one] for one in ids if one in self._by_id), key=lambda one: (one.t0, one.t, one.id))
        for one in seen:
            if one.id not in self._row_of:
                self._row_of[one.id] = len(self._rows)
                self._rows.append(self._row(one))
        return [self._row_of[one.id] for one in seen]

    def _row(self, one: Observation) -> list[Any]:
        what, asked, came = _asked_and_came(one)
        return [
            plain(one.id),
            round(one.t0, 2),
            round((one.t - one.t0) * 1000),
            self._places.get(one.vantage, -1),
            one.role,
            one.attempt,
            what,
            plain(asked, 120),
            plain(came, 120),
            plain(one.failure or ""),
            one.tcp.bytes_received if one.tcp else None,
        ]

    def _compared(self, verdict: PlatformVerdict) -> dict[str, Any]:
        seen = self._comparisons.of(verdict)
        shares = {"neutral": seen.neutral, "alternate": seen.alternate, "browser": seen.browser}
        names = (seen.own, seen.public)
        return {
            "ends": [[one.key, one.layer, one.failure, number] for one, number in seen.ends.items()],
            **{name: share for name, share in shares.items() if share[1]},
            "speed": [[one.asked, *map(_rate, (one.own, one.neutral, one.control))] for one in seen.rounds],
            "names": [None if answers is None else [plain(answer) for answer in answers] for answers in names],
            "controls": [seen.near.worked, seen.near.failed, round(seen.near.begin, 1), round(seen.near.end, 1)],
        }


def _rate(rate: Rate | None) -> list[Any] | None:
    """kbit/s, of how many, and how unlikely."""
    if rate is None:
        return None
    return [round(rate.kbits, 1), rate.number, "" if rate.chance is None else f"{rate.chance:.2g}"]


def _timings(observations: Iterable[Observation]) -> dict[str, list[float]]:
    """Of each step that succeeded: milliseconds in the middle, and how many."""
    spent: dict[str, list[float]] = defaultdict(list)
    for one in observations:
        if one.failure is None:
            spent[one.operation].append((one.t - one.t0) * 1000)
    return {operation: [round(median(those), 1), len(those)] for operation, those in spent.items()}


def _drawn(sample: Sample) -> list[Any]:
    """One transfer of a plot: 0 the platform's name or 1 a neutral one, round 0 or 1, when it began, seconds that it
    took, kbit/s of the whole, and kbit/s at moments of it."""
    one = sample.observation
    moments = []
    since = (0.0, 0)
    for when, count in sample.details.samples:
        # Reads closer together tell of buffers, not of the way.
        if when - since[0] >= PULSE:
            moments.append([round(when, 2), round((count - since[1]) * 8 / (when - since[0]) / 1000)])
            since = (when, count)
    return [
        int(one.role == "neutral"),
        int(one.phase == "confirm"),
        round(one.t0, 2),
        round(one.t - one.t0, 3),
        round(sample.goodput / 1000, 1),
        moments,
    ]


def _asked_and_came(one: Observation) -> tuple[str, str, str]:
    """What was done (a key of the catalogue), what was asked of whom, and what came: signs, not sentences."""
    match one.details:
        case DnsAnswer() as d:
            late = "".join(f" → {', '.join(answers)}" for answers in d.late)
            return (
                "dns",
                f"{d.query_type} {d.hostname} @{d.resolver_address}",
                (f"{d.rcode or ''} {', '.join(d.answers)}{late}".strip()),
            )
        case TcpConnect() as d:
            return "tcp", f"[{d.ip}]:{d.port}" if ":" in d.ip else f"{d.ip}:{d.port}", ""
        case TlsHandshake() as d:
            came = ", ".join(part for part in (d.tls_version, d.negotiated_protocol, d.issuer) if part)
            return "tls", f"{d.server_name} @{d.address}", came
        case QuicHandshake() as d:
            return "quic", f"{d.server_name} @{d.address}", d.issuer or ""
        case StunBinding() as d:
            return "stun", d.address, d.mapped or ""
        case HttpExchange() as d:
            size = f"{d.body_length} B" if d.body_length is not None else ""
            title = f"«{d.title}»" if d.title else ""
            came = ", ".join(part for part in (str(d.code or ""), size, title, d.location) if part)
            return "http", f"{d.method} {d.url} {d.alpn}", came
        case Transfer() as d:
            rate = d.bytes * 8 / max(one.t - one.t0, 1e-3) / 1000
            asked = f"{d.url} ({d.server_name})" if d.server_name not in d.url else d.url
            return d.direction, asked, f"{d.bytes}/{d.expected or '?'} B, {rate:.0f} kbit/s"
        case Crowd() as d:
            return "crowd", d.url, f"{sum(d.answered)}/{d.wanted}"
        case Echo() as d:
            return "echo", d.resolver_address, f"{d.received}/{d.sent}"
        case SmallExchanges() as d:
            return "small", d.url, f"{d.done}/{d.wanted}"
        case RungStep() as d:
            return "rung", d.rung, d.detail
        case Address() as d:
            return d.of, f"IPv{d.family}", d.address or ""
        case Alive() as d:
            return "alive", "", "✓" if d.carrier_runs else "✗"
        case d:
            return "trickle", f"{d.url} ({d.server_name})", f"{d.bytes_acked} B"
