"""Rules for a tunnel: the last rung that it reached, and why not the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from vpntest.failures import Failure
from vpntest.judge.kinds import CERTIFICATE, RESET, TIMEOUT, UNREACHABLE
from vpntest.judge.reading import Reading
from vpntest.judge.rule import Rule, always, first
from vpntest.judge.tunnel_evidence import NOTHING, TunnelEvidence, evidence_of
from vpntest.judge.verdict import TunnelVerdict
from vpntest.plan.model import Kind
from vpntest.probe.observation import Crowd, DnsAnswer, Observation, SmallExchanges, TunnelFacts
from vpntest.tunnel.ladder import Rung

MAYBE_UNPROVEN = frozenset({Kind.HTTP, Kind.SOCKS, Kind.SSH})
"""Tunnels whose server need not prove who it is before it says what it thinks of our credentials."""
PACKET_BUDGET_BYTES = 12 * 1024
"""Less than any published budget of bytes (14 to 34 KB; net4people/bbs#490): what stops below it counts no bytes."""


def _bytes(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.1f} KB" if count < 10**6 else f"{count / 10**6:.1f} MB"


def _passing(e: TunnelEvidence) -> str | None:
    """The most that passed before it fell silent."""
    counts = [e.came_of(one) for one in e.stuck or e.bulk]
    return f"{_bytes(max(counts))} passed" if counts else None


def _packets(e: TunnelEvidence) -> str | None:
    """The packets that came back until it fell silent. Those of ours are not told: nobody saw which of them passed."""
    loads = [one.details for one in e.loads if isinstance(one.details, SmallExchanges | Crowd)]
    counts = [one.packets_received for one in loads]
    # A proxy's device counts what the carrier's own stack says on this box.
    if e.facts.answers_locally or None in counts:
        return _passing(e)
    named = sum(isinstance(one.details, DnsAnswer) and one.details.engine == "udp" for one in e.before)
    count = named + sum(one or 0 for one in counts)
    return f"{count} packet{'s' * (count != 1)} came back, {_passing(e)}"


def _connections(e: TunnelEvidence) -> str | None:
    rows = [row for _, row in e.crowds]
    best = max(rows, key=lambda row: sum(row.answered))
    went = {True: ", which go on", False: ", and then these too fell silent"}.get(best.standing, "")  # type: ignore[arg-type]
    return f"{sum(best.answered)} of {len(best.answered)} fresh connections answered{went}"


def _quality(e: TunnelEvidence) -> str | None:
    """Loss, round-trip time, path MTU: told, and never a reason by themselves."""
    said = []
    sent = sum(one.sent for one in e.echoes)
    if sent:
        said.append(f"loss {100 * (1 - sum(one.received for one in e.echoes) / sent):.0f} %")
    if times := [time for one in e.echoes for time in one.rtt_ms]:
        said.append(f"round trip {median(times):.0f} ms")
    # A proxy's connections end on this box.
    sizes = [one.tcp.path_mtu for one in e.loads if one.tcp and one.tcp.path_mtu and not e.facts.answers_locally]
    if sizes:
        said.append(f"path MTU {min(sizes)}")
    return ", ".join(said) or None


Stage = Callable[[TunnelEvidence], str]
Witnesses = Callable[[TunnelEvidence], tuple[Observation, ...]]


@dataclass(frozen=True)
class TunnelFinding:
    """What a rule about a tunnel concludes."""

    mechanism: str | None
    stage: Stage
    witnesses: Witnesses
    detail: Callable[[TunnelEvidence], str | None] = lambda _: None


def _at(stage: Rung) -> Stage:
    return lambda _: stage


def _fall(mechanism: str) -> TunnelFinding:
    """The climb ended; the stage is the last rung before."""
    return TunnelFinding(mechanism, lambda e: e.climbed, lambda e: (e.fell,) if e.fell else ())


def _leak(mechanism: str) -> Callable[[TunnelEvidence], bool]:
    return lambda e: any(found == mechanism for found, _ in e.leaks)


_LADDER = "the ladder of rungs; a carrier's own word, read from its device or its management socket"
_GFW = "Wu et al., USENIX Security 2023: a hit by chance (26.3 %), then 180 s for client, server and port"
_LINE = "Censored Planet, Hyperquack: a failing control voids what it surrounds"
_SILENT = "WireGuard paper, 5.3: a responder is silent to all it cannot authenticate; so is OpenVPN's tls-crypt"
_VPN23 = "net4people/bbs#274: OpenVPN cut after 15 data packets, WireGuard after 2, the handshakes of both succeed"

_OWN = "OWASP, server-side request forgery; RFC 6890 for the networks; DNS rebinding for names"

TUNNEL: tuple[Rule[TunnelEvidence, TunnelFinding], ...] = (
    Rule(
        "tunnel.invalid",
        lambda e: (
            e.facts.problem.mechanism == "invalid" if e.facts.problem else e.fell_at(Rung.CONFIG, Failure.INVALID)
        ),
        TunnelFinding("invalid", lambda _: NOTHING, lambda _: ()),
        "its config is broken",
        _LADDER,
    ),
    Rule(
        "tunnel.refused",
        lambda e: (
            e.facts.problem.mechanism == "refused" if e.facts.problem else e.fell_at(Rung.CONFIG, Failure.REFUSED)
        ),
        TunnelFinding("refused", lambda _: NOTHING, lambda e: (e.fell,) if e.fell else ()),
        "its config reaches for this machine or its own networks, so that it was not tried",
        _OWN,
    ),
    Rule(
        "tunnel.unsupported",
        lambda e: e.facts.problem is not None or e.fell_at(Rung.CONFIG),
        TunnelFinding("unsupported", lambda _: NOTHING, lambda e: (e.fell,) if e.fell else ()),
        "its config asks for something that this machine, or vpntest, cannot honour",
        _LADDER,
    ),
    Rule(
        "tunnel.refused.address",
        lambda e: e.fell is not None and e.fell.failure == Failure.REFUSED,
        _fall("refused"),
        "its server's address is of this machine or of its own networks, so that nothing was sent there",
        _OWN,
    ),
    Rule(
        "tunnel.endpoint-dns.bogon",
        lambda e: e.fell is not None and e.fell.failure == Failure.DNS_BOGON,
        _fall("endpoint-dns.bogon"),
        "its server's name leads to this machine or its own networks, by a forged answer or by intent, so that nothing "
        "was sent there",
        _OWN,
    ),
    Rule(
        "tunnel.carrier-exited",
        lambda e: e.fell is not None and e.fell.failure == Failure.CARRIER_EXITED,
        _fall("carrier.exited"),
        "the program that should carry it ended by itself",
        _LADDER,
    ),
    Rule(
        "tunnel.auth.rejected.unproven",
        lambda e: e.fell is not None and e.fell.failure == Failure.AUTH_REJECTED and e.facts.kind in MAYBE_UNPROVEN,
        _fall("auth.rejected"),
        "whoever answers says that it does not know these credentials: the server, "
        "or somebody on the way where neither TLS nor a host key proves it",
        _LADDER,
    ),
    Rule(
        "tunnel.auth.rejected",
        lambda e: e.fell is not None and e.fell.failure == Failure.AUTH_REJECTED,
        _fall("auth.rejected"),
        "the server says that it does not know these credentials",
        _LADDER,
    ),
    Rule(
        "tunnel.unmeasured.line",
        lambda e: bool(e.fell_with_line),
        TunnelFinding("unmeasured", lambda e: e.climbed, lambda e: e.fell_with_line),
        "its server did not answer while nothing showed that the line itself worked",
        _LINE,
    ),
    Rule(
        "tunnel.endpoint-dns.nxdomain",
        lambda e: e.fell_at(Rung.ENDPOINT_DNS, Failure.DNS_NXDOMAIN),
        _fall("endpoint-dns.nxdomain"),
        "the resolver says that the server's name does not exist",
        _LADDER,
    ),
    Rule(
        "tunnel.endpoint-dns.timeout",
        lambda e: e.fell_at(Rung.ENDPOINT_DNS, *TIMEOUT),
        _fall("endpoint-dns.timeout"),
        "the resolver does not answer for the server's name",
        _LADDER,
    ),
    Rule(
        "tunnel.endpoint-dns.failed",
        lambda e: e.fell_at(Rung.ENDPOINT_DNS),
        _fall("endpoint-dns.failed"),
        "the server's name could not be resolved",
        _LADDER,
    ),
    Rule(
        "tunnel.endpoint.refused",
        lambda e: e.fell_at(Rung.ENDPOINT, Failure.CONNECTION_REFUSED),
        _fall("endpoint.refused"),
        "the server's address refuses the connection",
        _LADDER,
    ),
    Rule(
        "tunnel.endpoint.timeout",
        lambda e: e.fell_at(Rung.ENDPOINT, *TIMEOUT),
        _fall("endpoint.timeout"),
        "nothing answers at the server's address",
        _LADDER,
    ),
    Rule(
        "tunnel.endpoint.reset",
        lambda e: e.fell_at(Rung.ENDPOINT, *RESET),
        _fall("endpoint.reset"),
        "the connection to the server was reset while it was opened",
        _LADDER,
    ),
    Rule(
        "tunnel.endpoint.unreachable",
        lambda e: e.fell_at(Rung.ENDPOINT, *UNREACHABLE),
        _fall("endpoint.unreachable"),
        "the network says that there is no way to the server",
        _LADDER,
    ),
    Rule(
        "tunnel.endpoint.failed",
        lambda e: e.fell_at(Rung.ENDPOINT),
        _fall("endpoint.failed"),
        "the server could not be connected to",
        _LADDER,
    ),
    Rule(
        "tunnel.handshake.stalled",
        lambda e: e.fell_at(Rung.HANDSHAKE, Failure.STALLED),
        _fall("handshake.timeout"),
        "the server answered in the tunnel's protocol, and then fell silent before the handshake was done: "
        "cut on the way, or it does not take this client",
        _LADDER,
    ),
    Rule(
        "tunnel.auth.silent",
        lambda e: e.fell_at(Rung.HANDSHAKE, *TIMEOUT) and bool(e.siblings) and e.facts.kind != Kind.AMNEZIAWG,
        TunnelFinding("auth.rejected", lambda e: e.climbed, lambda e: (*((e.fell,) if e.fell else ()), *e.siblings)),
        "its server answers another tunnel of the same protocol and is silent to this one: it does not know these keys",
        _SILENT,
    ),
    Rule(
        "tunnel.auth.silent.parameters",
        lambda e: e.fell_at(Rung.HANDSHAKE, *TIMEOUT) and bool(e.siblings),
        TunnelFinding("auth.rejected", lambda e: e.climbed, lambda e: (*((e.fell,) if e.fell else ()), *e.siblings)),
        "its server answers another tunnel of the same protocol and is silent to this one: "
        "it does not know these keys, or not these parameters of obfuscation",
        _SILENT,
    ),
    Rule(
        "tunnel.handshake.timeout",
        lambda e: e.fell_at(Rung.HANDSHAKE, *TIMEOUT),
        _fall("handshake.timeout"),
        "the server never answered in the tunnel's protocol: blocked on the way, down, or not for this key",
        _LADDER,
    ),
    Rule(
        "tunnel.handshake.reset",
        lambda e: e.fell_at(Rung.HANDSHAKE, *RESET),
        _fall("handshake.reset"),
        "the connection was reset during the tunnel's handshake",
        _LADDER,
    ),
    Rule(
        "tunnel.handshake.certificate",
        lambda e: e.fell_at(Rung.HANDSHAKE, *CERTIFICATE),
        _fall("handshake.certificate"),
        "whoever answers shows a certificate that does not prove the server: an interceptor's, "
        "or one that is out of date, or for another name than the config's",
        _LADDER,
    ),
    Rule(
        "tunnel.handshake.failed",
        lambda e: e.fell_at(Rung.HANDSHAKE),
        _fall("handshake.failed"),
        "the tunnel's handshake failed",
        _LADDER,
    ),
    Rule(
        "tunnel.auth.timeout",
        lambda e: e.fell_at(Rung.AUTH, *TIMEOUT),
        _fall("auth.timeout"),
        "the handshake went through, and then the server did not say whether it takes the credentials",
        _LADDER,
    ),
    Rule(
        "tunnel.auth.turned-down",
        lambda e: e.fell_at(Rung.AUTH, Failure.HTTP_REQUEST_FAILED),
        _fall("auth.failed"),
        "the proxy answers, and says that it cannot open any connection",
        "RFC 9110, 15.6: a status from 500 on is a failure of the server's own, or of what is behind it",
    ),
    Rule(
        "tunnel.auth.failed",
        lambda e: e.fell is not None,
        _fall("auth.failed"),
        "the tunnel was not set up after its handshake",
        _LADDER,
    ),
    Rule(
        "tunnel.unmeasured.raise",
        lambda e: not e.is_raised,
        TunnelFinding("unmeasured", lambda e: e.climbed, lambda e: e.seen.rungs),
        "the run ended before the tunnel was raised",
        "unknown is never success",
    ),
    Rule(
        "tunnel.unmeasured.data",
        lambda e: not e.came and not e.loads and not e.stuck,
        TunnelFinding("unmeasured", lambda e: e.climbed, lambda e: e.seen.rungs),
        "the run ended before anything was sent through the tunnel",
        "unknown is never success",
    ),
    Rule(
        "tunnel.unmeasured.line.data",
        lambda e: bool(e.load_fell_with_line),
        TunnelFinding("unmeasured", lambda e: e.climbed, lambda e: e.load_fell_with_line),
        "it fell silent while nothing showed that the line itself worked",
        _LINE,
    ),
    Rule(
        "tunnel.auth.stranger",
        lambda e: not e.came and e.is_stranger,
        TunnelFinding("auth.rejected", lambda e: e.climbed, lambda e: e.stuck),
        "its server answers as the web site that it hides behind, "
        "which it shows to all whose credentials it does not know",
        "trojan-gfw, protocol: a request without a valid password goes on to the web server behind",
    ),
    Rule(
        "tunnel.data.none.closed",
        lambda e: not e.came and e.ended_with(Failure.EOF),
        TunnelFinding("data.none.closed", lambda e: e.climbed, lambda e: e.loads),
        "its server takes each connection and closes it without a word: not for these credentials, or it cannot reach "
        "anything itself",
        "sing-box 1.14.1: Shadowsocks, Trojan and VLESS servers close so, on either ground",
    ),
    Rule(
        "tunnel.data.none.reset",
        lambda e: not e.came and e.ended_with(*RESET),
        TunnelFinding("data.none.reset", lambda e: e.climbed, lambda e: e.loads),
        "the tunnel stands, but each connection through it is reset before anything comes back",
        "shadowsocks-libev: resets those that it cannot authenticate; so may a censor",
    ),
    Rule(
        "tunnel.data.none",
        lambda e: not e.came,
        TunnelFinding("data.none", lambda e: e.climbed, lambda e: e.loads),
        "the tunnel stands, but nothing ever came back through it: cut off, or not for these credentials",
        _VPN23,
    ),
    Rule(
        "tunnel.data.none.tcp",
        lambda e: e.is_mute_over_tcp,
        TunnelFinding("data.none", lambda e: e.climbed, lambda e: e.loads),
        "names are answered over UDP, but no connection through it ever brought a byte",
        _GFW,
    ),
    Rule(
        "tunnel.data.mtu",
        lambda e: e.is_cut(e.stuck) and e.short_ones_pass,
        TunnelFinding("data.mtu", _at(Rung.DATA), lambda e: (*e.stuck, *e.segmented), _quality),
        "it falls silent, and the same passes in short packets: long ones are lost on the way, without a word",
        "RFC 2923, 2.1: a path MTU black hole",
    ),
    Rule(
        "tunnel.data.stall.connections",
        lambda e: e.is_crowded_out,
        TunnelFinding(
            "data.stall.connections",
            _at(Rung.DATA),
            lambda e: (*(one for one, _ in e.crowds), *e.seen.small),
            _connections,
        ),
        "the first connections through it work, and from one on no new one does",
        f"net4people/bbs#546: about twelve connections, then silence for a minute or two; {_GFW}",
    ),
    Rule(
        "tunnel.data.stall.packets",
        lambda e: (
            e.stuck == e.seen.small
            and e.is_cut(e.stuck)
            and e.came_back
            and e.small_bytes < PACKET_BUDGET_BYTES
            and e.is_budget(e.stuck)
        ),
        TunnelFinding("data.stall.packets", _at(Rung.DATA), lambda e: (*e.before, *e.seen.small), _packets),
        "first data came, then it falls silent after a few packets",
        _VPN23,
    ),
    Rule(
        "tunnel.unmeasured.server.silent",
        lambda e: e.small_passed and e.is_of_server(e.stuck),
        TunnelFinding("unmeasured", _at(Rung.DATA), lambda e: e.stuck),
        "the load's own server was never heard through the tunnel, which carried on: it may be down for everybody",
        "unknown is never success",
    ),
    Rule(
        "tunnel.data.stall.bytes",
        lambda e: e.small_passed and e.is_cut(e.stuck) and e.is_budget(e.stuck),
        TunnelFinding("data.stall.bytes", _at(Rung.DATA), lambda e: e.stuck, _passing),
        "small messages pass, but a transfer of 64 KiB stops on the way",
        "net4people/bbs#490: silence after 14 to 34 KB",
    ),
    Rule(
        "tunnel.data.stall",
        lambda e: e.is_cut(e.stuck),
        TunnelFinding("data.stall", _at(Rung.DATA), lambda e: e.stuck, _passing),
        "first data came, but a load test was never passed, and each time it ended in silence",
        _VPN23,
    ),
    Rule(
        "tunnel.throttled.load",
        lambda e: e.load_is_throttled,
        TunnelFinding("throttled", _at(Rung.DATA), lambda e: (*e.stuck, *(one.observation for one in e.own + e.line))),
        "a load test moves so slowly that it does not end, where the line is not slow",
        "OONI dd-007: ten times slower",
    ),
    Rule(
        "tunnel.unmeasured.slow",
        lambda e: e.is_slow,
        TunnelFinding("unmeasured", _at(Rung.DATA), lambda e: e.stuck),
        "a load test moved on, but did not end in time, and nothing shows whether the line was faster",
        "OONI dd-007: compare with concurrent other targets",
    ),
    Rule(
        "tunnel.unmeasured.server",
        lambda e: bool(e.stuck) and not all(map(e.is_silent, e.stuck)),
        TunnelFinding("unmeasured", _at(Rung.DATA), lambda e: e.stuck),
        "the load test was refused or broken off, as its server may do of itself, which is no fault of the tunnel",
        "unknown is never success",
    ),
    Rule(
        "tunnel.unmeasured.crowd",
        lambda e: (
            not e.has_load and not e.stuck and bool(e.crowds) and not any(all(row.answered) for _, row in e.crowds)
        ),
        TunnelFinding("unmeasured", _at(Rung.DATA), lambda e: tuple(one for one, _ in e.crowds), _connections),
        "of many fresh connections some were never answered, in no order that tells a budget from loss or a slow line",
        "net4people/bbs#546: a budget lets the first ones through, and none after",
    ),
    Rule(
        "tunnel.unmeasured.load",
        lambda e: bool(e.stuck) or not e.has_load,
        TunnelFinding("unmeasured", _at(Rung.DATA), lambda e: e.seen.carry),
        "the run ended before the tunnel was loaded",
        "unknown is never success",
    ),
    Rule(
        "tunnel.unmeasured.server.bulk",
        lambda e: e.is_of_server(e.bulk),
        TunnelFinding("unmeasured", _at(Rung.SUSTAINED), lambda e: e.bulk),
        "the long transfer's own server was never heard through the tunnel, which carried on: "
        "it may be down for everybody",
        "unknown is never success",
    ),
    Rule(
        "tunnel.data.stall.later",
        lambda e: e.is_cut(e.bulk) and not e.is_budget(e.bulk),
        TunnelFinding("data.stall", _at(Rung.DATA), lambda e: e.bulk, _passing),
        "64 KiB pass each way, and from then on a fresh connection through it brings nothing",
        _GFW,
    ),
    Rule(
        "tunnel.data.stall.bulk",
        lambda e: e.is_cut(e.bulk),
        TunnelFinding("data.stall.bytes", _at(Rung.DATA), lambda e: e.bulk, _passing),
        "64 KiB pass each way, but a longer transfer falls silent on the way",
        "net4people/bbs#490: budgets of bytes; this one is larger than those published",
    ),
    Rule(
        "tunnel.dns.timeout",
        lambda e: e.resolver_is_mute,
        TunnelFinding("dns.timeout", _at(Rung.SUSTAINED), lambda e: e.seen.carry),
        "data passes, but the tunnel's resolver never answers, so no name can be looked up",
        "Outline SDK connectivity test: one DNS query through the tunnel",
    ),
    Rule(
        "tunnel.leak.exit",
        _leak("leak.exit"),
        TunnelFinding("leak.exit", _at(Rung.SUSTAINED), lambda _: ()),
        "the world sees the line's own IPv4 address through the tunnel",
        "the exit must not be the line",
    ),
    Rule(
        "tunnel.leak.ipv6",
        _leak("leak.ipv6"),
        TunnelFinding("leak.ipv6", _at(Rung.SUSTAINED), lambda _: ()),
        "the world sees the line's own IPv6 address through the tunnel",
        "the exit must not be the line",
    ),
    Rule(
        "tunnel.leak.dns",
        _leak("leak.dns"),
        TunnelFinding("leak.dns", _at(Rung.SUSTAINED), lambda _: ()),
        "the access provider's resolver asks for names that are looked up through the tunnel",
        "the resolver that asks must not be the line's",
    ),
    Rule(
        "tunnel.unmeasured.line.end",
        lambda e: e.died_with_line,
        TunnelFinding("unmeasured", _at(Rung.SUSTAINED), lambda e: e.seen.alive),
        "it worked, and was silent at the end, when nothing showed that the line itself still worked",
        _LINE,
    ),
    Rule(
        "tunnel.died",
        lambda e: e.carrier_has_ended or e.is_mute,
        TunnelFinding("died", _at(Rung.SUSTAINED), lambda e: e.seen.alive),
        "it worked, and was dead at the end of the run",
        "ntc.party, net4people/bbs#111: cut after 5 to 15 minutes",
    ),
    Rule(
        "tunnel.throttled",
        lambda e: e.is_throttled,
        TunnelFinding(
            "throttled", _at(Rung.SUSTAINED), lambda e: tuple(one.observation for one in e.own + e.line), _quality
        ),
        "the tunnel crawls where the line does not",
        "OONI dd-007: ten times slower",
    ),
    Rule(
        "tunnel.unmeasured.bulk",
        lambda e: bool(e.bulk) and all(map(e.is_silent, e.bulk)),
        TunnelFinding("unmeasured", _at(Rung.SUSTAINED), lambda e: e.bulk, _passing),
        "a sustained transfer fell silent, and was not tried again",
        "nothing is judged from one sample",
    ),
    Rule(
        "tunnel.unmeasured.alive",
        lambda e: not e.was_seen_alive,
        TunnelFinding("unmeasured", _at(Rung.SUSTAINED), lambda e: e.down + e.up),
        "the run ended before it was seen whether the tunnel lives on",
        "unknown is never success",
    ),
    Rule(
        "tunnel.up.exit-unknown",
        lambda e: not e.exit_known,
        TunnelFinding(None, _at(Rung.UP), lambda e: e.down + e.up + e.seen.alive, _quality),
        "it carries; its exit address could not be learned",
        "a leak is excluded by construction; the exit is a second proof",
    ),
    Rule(
        "tunnel.up.questions-lost",
        lambda e: e.loses_questions,
        TunnelFinding(None, _at(Rung.UP), lambda e: e.down + e.up + e.seen.alive, _quality),
        "it carries, lives on, and leaks nothing; but of many questions in a row most stay without an answer: its "
        "resolver answers no more of them, or datagrams are dropped",
        "no TCP transfer passes at such a loss; what needs UDP is judged as a service of its own",
    ),
    Rule(
        "tunnel.up",
        always,
        TunnelFinding(None, _at(Rung.UP), lambda e: e.down + e.up + e.seen.alive, _quality),
        "it carries, lives on, and leaks nothing",
        _LADDER,
    ),
)


def judge_tunnel(reading: Reading, facts: TunnelFacts) -> TunnelVerdict:
    """How far one tunnel got."""
    evidence = evidence_of(reading, facts)
    rule = first(TUNNEL, evidence)
    leaked = dict(evidence.leaks).get(rule.then.mechanism or "", ())
    witnesses = tuple(dict.fromkeys(one.id for one in rule.then.witnesses(evidence))) + leaked
    detail = rule.then.detail(evidence)
    return TunnelVerdict(facts.name, rule.then.stage(evidence), rule.then.mechanism, rule.id, witnesses, detail)
