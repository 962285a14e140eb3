"""One verdict in plain words: which rule, which witnesses, which comparisons, and what would have changed it.

    explain(record, judgement, "se", "twitter")     a cell
    explain(record, judgement, "outside", "twitter")   the platform on the line itself
    explain(record, judgement, "se")                how far the tunnel got, and its row

What would have changed it is found by judging edited records: see otherwise.py.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from vpntest.errors import UsageError
from vpntest.judge.reading import read
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
    Trickle,
)
from vpntest.report.compared import Compared, Comparisons, End, Near, Rate, Share
from vpntest.report.otherwise import changes_of
from vpntest.report.text import plain
from vpntest.report.words import RULES, say, ways
from vpntest.tunnel.evidence import INSIDE, LINE, LOG, OUTER
from vpntest.tunnel.vantage import OUTSIDE

_WIDEST = 400
"""Characters of a line."""
_MARGIN = 1.0
"""Seconds before and after the witnesses in which their packets are looked for."""


def explain(
    record: Record, judgement: Judgement, tunnel: str, platform: str | None = None, evidence: Path | None = None
) -> str:
    """Why a cell is what it is; why a tunnel is, where no platform is named; with `outside` for a tunnel, the line.

    `evidence` is a directory that the run has kept. Raises UsageError for a name that the record lacks.
    """
    _known(tunnel, [OUTSIDE, *(facts.name for facts in record.tunnels)], "tunnel")
    if platform is not None:
        _known(platform, [one.id for one in record.platforms], "platform")
    told = _Told(record, judgement, evidence)
    if judgement.local_outage is not None:
        told.outage()
    elif platform is None:
        told.row(tunnel)
    elif tunnel == OUTSIDE:
        told.line(next(one for one in judgement.outside if one.platform == platform))
    else:
        told.cell(next(one for one in judgement.cells if (one.tunnel, one.platform) == (tunnel, platform)))
    return "\n".join(told.lines).lstrip("\n") + "\n"


def _known(name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        raise UsageError(f"the run has no {what} called {plain(name)!r}; it has: {plain(', '.join(names), _WIDEST)}")


# ── the telling ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Told:
    """The lines, as they come."""

    def __init__(self, record: Record, judgement: Judgement, evidence: Path | None) -> None:
        self.lines: list[str] = []
        self._record = record
        self._judgement = judgement
        self._evidence = evidence
        self._by_id = {one.id: one for one in record.observations}
        self._comparisons = Comparisons(read(record))

    def _say(self, text: str, depth: int = 0) -> None:
        # Names, titles and words of servers are in it: each line is made safe as a whole.
        self.lines.append("  " * depth + plain(text, _WIDEST))

    def _head(self, text: str) -> None:
        self.lines.append("")
        self._say(text)

    # ── what can be asked for ────────────────────────────────────────────────────────────────────────────────────────

    def outage(self) -> None:
        """Nothing was judged."""
        ids = self._judgement.local_outage or ()
        self._say("Nothing was judged.")
        self._rule(self._judgement.line_rule or "line.dead")
        self._witnesses(ids)
        self._evidence_of(OUTSIDE, ids)

    def cell(self, cell: Cell) -> None:
        """One tunnel and one platform."""
        self._say(f"{cell.platform} through {cell.tunnel}: {cell.outcome}")
        self._rule(cell.rule)
        self._platform(cell.outside)
        self._tunnel(next(one for one in self._judgement.tunnels if one.tunnel == cell.tunnel))
        if cell.inside is None:
            self._head(f"Through {cell.tunnel}: not judged, for the tunnel is not usable")
        else:
            self._platform(cell.inside)
        self._changes(cell.tunnel, cell.platform)

    def line(self, verdict: PlatformVerdict) -> None:
        """One platform on the line itself."""
        self._platform(verdict)
        self._changes(OUTSIDE, verdict.platform)

    def row(self, tunnel: str) -> None:
        """All of one vantage."""
        if tunnel == OUTSIDE:
            self._say("The line itself")
            for verdict in self._judgement.outside:
                self._say(f"{verdict.platform}: {self._outcome(verdict)} [{verdict.rule}]", 1)
            return
        self._tunnel(next(one for one in self._judgement.tunnels if one.tunnel == tunnel))
        self._changes(tunnel, None)
        self._head("Platforms")
        for cell in self._judgement.cells:
            if cell.tunnel == tunnel:
                inside = self._outcome(cell.inside) if cell.inside else "not judged"
                self._say(
                    f"{cell.platform}: {cell.outcome} (outside: {self._outcome(cell.outside)}; inside: {inside})", 1
                )

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _rule(self, rule: str, depth: int = 1) -> None:
        known = RULES.get(rule)
        if known is None:
            self._say(f"rule {rule}: this version does not know it", depth)
            return
        self._say(f"rule {rule}: {known.reason}", depth)
        self._say(f"source: {known.source}", depth + 1)

    def _tunnel(self, verdict: TunnelVerdict) -> None:
        why = f", and no further: {verdict.mechanism}" if verdict.mechanism else ""
        detail = f" ({verdict.detail})" if verdict.detail else ""
        self._head(f"The tunnel {verdict.tunnel}: reached {verdict.stage}{why}{detail}")
        facts = next(one for one in self._record.tunnels if one.name == verdict.tunnel)
        carrier = f"carried by {facts.carrier}" if facts.carrier else "no carrier"
        self._say(f"{facts.kind} from {facts.source}, {carrier}, to {', '.join(facts.servers) or 'nowhere'}", 1)
        if facts.problem:
            self._say(facts.problem.reason, 1)
        self._rule(verdict.rule)
        self._witnesses(verdict.witnesses)
        self._evidence_of(verdict.tunnel, verdict.witnesses, outer=True)

    def _platform(self, verdict: PlatformVerdict) -> None:
        where = "Outside" if verdict.vantage == OUTSIDE else f"Through {verdict.vantage}"
        self._head(f"{where}, {verdict.platform}: {self._outcome(verdict)}")
        self._rule(verdict.rule)
        for way in ways(verdict.mechanism):
            if way != verdict.rule:
                self._rule(way)
        if verdict.speed is not None and verdict.speed != verdict.rule:
            self._rule(verdict.speed)
        if verdict.partial:
            self._say("some services that it needs are ok, and others are not", 1)
        if len(verdict.services) > 1:
            for service in verdict.services:
                mechanism = f" {service.mechanism}" if service.mechanism else ""
                self._say(f"service {service.service}: {service.state}{mechanism} [{service.rule}]", 1)
        self._witnesses(verdict.witnesses)
        self._compared(verdict)
        self._evidence_of(verdict.vantage, verdict.witnesses)

    def _outcome(self, verdict: PlatformVerdict) -> str:
        k, n = verdict.attempts
        tries = f"{k} of {n} tries" if n else ""
        if _is_by_speed(verdict):
            rounds = self._comparisons.of(verdict).rounds
            tries = f"{sum(one.asked for one in rounds)} transfers in {_counted(len(rounds), 'round')}"
        parts = [verdict.state.value, verdict.mechanism or "", tries, verdict.detail or ""]
        return ", ".join(part for part in parts if part)

    def _witnesses(self, ids: Iterable[str]) -> None:
        seen = self._seen(ids)
        self._say(f"witnesses, by seconds since the run began: {len(seen) or 'none'}", 1)
        for one in seen:
            self._say(_told(one), 2)

    def _seen(self, ids: Iterable[str]) -> list[Observation]:
        return sorted((self._by_id[one] for one in ids if one in self._by_id), key=lambda one: (one.t0, one.t, one.id))

    def _compared(self, verdict: PlatformVerdict) -> None:
        seen = self._comparisons.of(verdict)
        self._say("comparisons", 1)
        self._tries(verdict, seen)
        self._transfers(seen)
        if seen.own is not None or seen.public is not None:
            own, public = (
                "not asked" if answers is None else ", ".join(answers) or "nothing"
                for answers in (seen.own, seen.public)
            )
            self._say(f"addresses by this vantage's resolver: {own}; by the public one: {public}", 2)
        self._elsewhere(verdict)
        self._controls(seen.near)

    def _tries(self, verdict: PlatformVerdict, seen: Compared) -> None:
        """What each try came to, as the judge reads it; and its comparisons."""
        if seen.ends:
            reached = seen.ends.get(_REACHED, 0)
            told = [f"{reached} of {sum(seen.ends.values())} reached it"]
            told += [
                say(f"end.{one.key}", number, one.layer, one.failure)
                for one, number in seen.ends.items()
                if one != _REACHED
            ]
            pace = "; at what speed is told below" if _is_by_speed(verdict) else ""
            own = "the platform's own name, at the address that the resolver gave"
            self._say(f"{own}: {', '.join(told)}{pace}", 2)
        if seen.neutral[1]:
            name = f"a neutral name at the same address ({self._record.run.neutral_name}, certificate not checked)"
            self._say(f"{name}: {_of(seen.neutral)} met no failure, whoever answered", 2)
        if seen.alternate[1]:
            self._say(f"the platform's name at another address: {_of(seen.alternate)} were answered by the platform", 2)
        if seen.browser[1]:
            about = "a browser's ClientHello, same name and address (handshake alone, certificate not checked)"
            self._say(f"{about}: {_of(seen.browser)} came to their end", 2)

    def _transfers(self, seen: Compared) -> None:
        """The speeds that were compared, round by round."""
        for when, one in zip(("in the first round", "at the end of the run"), seen.rounds, strict=False):
            if one.own is None:
                self._say(f"transfers {when}: none of {one.asked} says anything of speed", 2)
                continue
            told = [f"the platform's own name {_rate(one.own)}"]
            for name, other in (("a neutral name", one.neutral), ("the controls", one.control)):
                if other is not None:
                    ratio = other.kbits / max(one.own.kbits, 1e-9)
                    told.append(f"{name} {_rate(other)}, ratio {ratio:.1f}, p = {other.chance:.3g}")
            self._say(f"transfers {when}, medians: {'; '.join(told)}", 2)

    def _elsewhere(self, verdict: PlatformVerdict) -> None:
        there: dict[str, list[str]] = defaultdict(list)
        others = [*self._judgement.outside, *(cell.inside for cell in self._judgement.cells if cell.inside)]
        for one in others:
            if one.platform == verdict.platform and one.vantage != verdict.vantage:
                there[one.state].append(one.vantage)
        told = "; ".join(f"{state} at {', '.join(names)}" for state, names in there.items())
        self._say(f"at other vantages: {told or 'not judged'}", 2)

    def _controls(self, near: Near) -> None:
        told = f"{near.worked} worked, {near.failed} failed" if near.worked + near.failed else "none was asked"
        when = "in the whole run" if near.whole else f"about that time, {near.begin:.1f} to {near.end:.1f} s"
        self._say(f"controls {when}: {told}", 2)

    # ── what would have changed it ───────────────────────────────────────────────────────────────────────────────────

    def _changes(self, tunnel: str, platform: str | None) -> None:
        self._head("What would have changed it")
        changes = changes_of(self._record, self._judgement, tunnel, platform)
        for change in changes:
            self._say(f"{change.what}: {'; '.join(map(str, change.then))}", 1)
        if not changes:
            self._say("nothing of what was tried", 1)

    # ── evidence ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _evidence_of(self, vantage: str, ids: Iterable[str], outer: bool = False) -> None:
        if self._evidence is None or "/" in vantage or vantage.startswith("."):
            return
        folder = self._evidence / vantage
        seen = [one for one in self._seen(ids) if one.vantage == vantage]
        names = [LINE] if vantage == OUTSIDE else [INSIDE, *([OUTER, LOG] if outer else [])]
        files = [folder / name for name in names if (folder / name).is_file()]
        if not files or not seen:
            return
        # An answer names no address; the connection that it came by does.
        tied = {one.transaction for one in seen if one.transaction}
        chains = [one for one in self._record.observations if one.vantage == vantage and one.transaction in tied]
        began = _began(self._record)
        begin, end = (began + t for t in (min(one.t0 for one in seen) - _MARGIN, max(one.t for one in seen) + _MARGIN))
        clock = [datetime.fromtimestamp(t, UTC).strftime("%H:%M:%S.%f")[:-3] for t in (begin, end)]
        self._say(f"evidence: {clock[0]} to {clock[1]} UTC; frame.time_epoch {begin:.3f} to {end:.3f}", 1)
        for file in files:
            if file.name == LOG:
                self._say(f"less {shlex.quote(str(file))}", 2)
                continue
            wanted = "" if file.name == OUTER else _filter([*seen, *chains])
            command = f"tcpdump -n -tttt -r {shlex.quote(str(file))}"
            # Too long for a line of the report it would be of no use.
            fits = wanted and len(command) + len(wanted) < _WIDEST - 8
            self._say(f"TZ=UTC {command} {shlex.quote(wanted)}" if fits else f"TZ=UTC {command}", 2)


_REACHED = End("reached")


def _of(share: Share) -> str:
    return f"{share[0]} of {share[1]}"


def _rate(rate: Rate) -> str:
    return f"{rate.kbits:.1f} kbit/s of {rate.number}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _is_by_speed(verdict: PlatformVerdict) -> bool:
    """Whether its state is what its transfers say."""
    return verdict.speed is not None and verdict.speed == verdict.rule


def _began(record: Record) -> float:
    """When the run began, in Unix seconds: to the millisecond by its id, a UUIDv7 (RFC 9562); else to the second."""
    digits = record.run.id.replace("-", "")
    if len(digits) == 32 and digits[12] == "7":
        try:
            return int(digits[:12], 16) / 1000
        except ValueError:
            pass
    try:
        return datetime.fromisoformat(record.run.started).timestamp()
    except ValueError:
        return 0.0


def _filter(seen: Iterable[Observation]) -> str:
    """What shows the packets of these observations, in pcap-filter's words; empty where they name no address."""
    hosts: dict[str, None] = {}
    for one in seen:
        details = one.details
        text = ""
        match details:
            case TcpConnect(ip=ip):
                text = ip
            case DnsAnswer(resolver_address=address) | Echo(resolver_address=address):
                text = address
            case TlsHandshake(address=address) | QuicHandshake(address=address) | StunBinding(address=address):
                text = address
            case Transfer(address=str(address)) | Trickle(address=str(address)):
                text = address
        for part in (text, text.rpartition(":")[0].strip("[]")):
            try:
                hosts[str(ipaddress.ip_address(part))] = None
                break
            except ValueError:
                continue
    return " or ".join(f"host {host}" for host in hosts)


# ── observations in words ────────────────────────────────────────────────────────────────────────────────────────────


def _told(one: Observation) -> str:
    asked, came = _asked_and_came(one)
    if one.failure is not None:
        came = f"{one.failure}{f' ({came})' if came else ''}"
    what = [
        one.vantage,
        *([one.role] if one.role != "target" else []),
        *([f"try {one.attempt}"] if one.attempt else []),
    ]
    if one.phase != "during":
        what.append(one.phase)
    numbers = [f"{one.t - one.t0:.3f} s"]
    if (tcp := one.tcp) is not None:
        numbers += [f"{tcp.bytes_received} bytes received", f"{tcp.bytes_acked} acknowledged"]
        numbers += [f"{tcp.retransmits} sent again"] if tcp.retransmits else []
        numbers += [f"{tcp.unacked} never confirmed"] if tcp.unacked else []
        numbers += [f"silent for {tcp.since_last_data_ms} ms"] if one.failure and tcp.since_last_data_ms else []
    return f"{one.t0:.3f} {one.id} ({', '.join(what)}) {asked}: {came or 'ok'}; {', '.join(numbers)}"


def _asked_and_came(one: Observation) -> tuple[str, str]:
    match one.details:
        case DnsAnswer() as d:
            late = f", then {' / '.join(', '.join(answers) for answers in d.late)}" if d.late else ""
            asked = f"{d.query_type} of {d.hostname} from {d.resolver_address} ({d.resolver})"
            return asked, f"{d.rcode or 'no answer'} {', '.join(d.answers)}{late}".strip()
        case TcpConnect() as d:
            return f"TCP to {d.ip} port {d.port}", "connected" if one.failure is None else ""
        case TlsHandshake() as d:
            unverified = ", certificate not checked" if d.no_tls_verify else ""
            issuer = f"certificate by {d.issuer}" if d.issuer else ""
            came = ", ".join(part for part in (d.tls_version, d.negotiated_protocol, issuer) if part)
            return f"TLS with {d.address} as {d.server_name}{unverified}", came
        case QuicHandshake() as d:
            return f"QUIC with {d.address} as {d.server_name}", f"{d.datagrams_received} datagrams came"
        case StunBinding() as d:
            return f"STUN binding with {d.address}", f"we are {d.mapped}" if d.mapped else ""
        case HttpExchange() as d:
            size = f", {d.body_length} bytes" if d.body_length is not None else ""
            title = f", title {d.title!r}" if d.title else ""
            to = f", to {d.location}" if d.location else ""
            challenge = ", a test for humans" if d.challenge else ""
            status = f"status {d.code}{size}{title}{to}{challenge}" if d.code is not None else "no status"
            return f"{d.method} {d.url} by {d.alpn}", status
        case Transfer() as d:
            seconds = max(one.t - one.t0, 1e-3)
            of = f" of {d.expected}" if d.expected is not None else ""
            packets = f", {d.packets_received} packets in, {d.packets_sent} out" if d.packets_sent is not None else ""
            segment = f" in segments of {d.segment}" if d.segment else ""
            came = f"{d.bytes}{of} bytes, {d.bytes * 8 / seconds / 1000:.0f} kbit/s{packets}"
            return f"{d.direction}load of {d.url} as {d.server_name}{segment}", came
        case Trickle() as d:
            answered = "answered" if d.answered else "not answered"
            return (
                f"trickle to {d.url} as {d.server_name}",
                f"{d.bytes_acked} of {d.chunks} chunks confirmed, {answered}",
            )
        case Crowd() as d:
            marks = "".join("+" if answered else "-" for answered in d.answered)
            return f"{d.wanted} fresh connections for {d.url}", f"{sum(d.answered)} answered {marks}"
        case Echo() as d:
            return f"{d.sent} questions to {d.resolver_address}", f"{d.received} answered"
        case SmallExchanges() as d:
            packets = f", {d.packets_received} packets in, {d.packets_sent} out" if d.packets_sent is not None else ""
            return f"small requests for {d.url}", f"{d.done} of {d.wanted} answered, {d.bytes} bytes{packets}"
        case RungStep() as d:
            return f"rung {d.rung}", d.detail or ("reached" if one.failure is None else "")
        case Address() as d:
            return f"our {d.of} over IPv{d.family}", d.address or "unknown"
        case Alive() as d:
            return "alive at the end", "the carrier runs" if d.carrier_runs else "the carrier has ended"
