"""Rules for a tunnel: the last rung that it reached, and why not the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from urllib.parse import urlsplit

from vpntest.failures import Failure
from vpntest.judge.controls import Controls, Proven
from vpntest.judge.kinds import CERTIFICATE, RESET, TIMEOUT, UNREACHABLE
from vpntest.judge.platform_rules import CRAWL, LEAST_SAMPLES, SIGNIFICANT, SLOW, chance_of, goodputs
from vpntest.judge.reading import PUBLIC, Reading
from vpntest.judge.rule import Rule, always, first
from vpntest.judge.samples import PORTION, Sample
from vpntest.judge.tunnels import TunnelSeen
from vpntest.judge.verdict import TunnelVerdict
from vpntest.plan.model import Kind
from vpntest.probe.observation import (
    Alive,
    Crowd,
    DnsAnswer,
    Echo,
    Observation,
    RungStep,
    SmallExchanges,
    Transfer,
    TunnelFacts,
)
from vpntest.tunnel.ladder import RUNGS, Rung
from vpntest.tunnel.vantage import OUTSIDE

NOTHING = "none"
"""Stage of a tunnel that reached no rung at all."""
STALL = 5.0
"""Seconds without a byte after which the probes call a load test silent."""
LEAST_LEFT_OUT = 2
"""Fresh connections at the end of a crowd that must stay without an answer: one alone may have been lost by chance."""
ONE_EACH = frozenset({Kind.SHADOWSOCKS, Kind.VLESS, Kind.VMESS, Kind.TROJAN, Kind.SOCKS, Kind.HTTP})
"""Tunnels that open a connection to their server for each connection inside: only these can be counted by a censor."""
SILENT_TO_STRANGERS = frozenset({Kind.WIREGUARD, Kind.AMNEZIAWG, Kind.OPENVPN})
"""Tunnels whose server says nothing to those whose keys it does not know, and whose first packets are alike for all of
its clients. What runs in TLS or QUIC is silent to nobody, and carries a name that a censor may drop while it lets
another one pass."""
MAYBE_UNPROVEN = frozenset({Kind.HTTP, Kind.SOCKS, Kind.SSH})
"""Tunnels whose server need not prove who it is before it says what it thinks of our credentials."""
LEAST_ANSWERED = 0.5
"""Of evenly spaced questions: where fewer are answered and transfers pass, it is not the way that loses them. TCP moves
next to nothing at such a loss (Mathis et al., 1997)."""
PACKET_BUDGET_BYTES = 12 * 1024
"""Less than any published budget of bytes (14 to 34 KB; net4people/bbs#490): what stops below it counts no bytes."""


@dataclass(frozen=True)
class TunnelEvidence:
    """All that bears on one tunnel."""

    facts: TunnelFacts
    seen: TunnelSeen
    controls: Controls
    loads: tuple[Observation, ...]
    """All that its load tests saw."""
    siblings: tuple[Observation, ...]
    """What shows that the same server answered another tunnel of the same kind while it was silent to this one."""
    line: tuple[Sample, ...]
    """Downloads of control URLs outside."""
    own: tuple[Sample, ...]
    """The same through the tunnel."""
    line_controls: Controls
    """The controls of the line itself."""
    carried: Proven
    """When anything came through any tunnel, and so over the line."""
    leaks: tuple[tuple[str, tuple[str, ...]], ...]
    """`(mechanism, witnesses)` of each leak found."""
    exit_known: bool

    @property
    def fell(self) -> Observation | None:
        """The rung where the climb ended; None where it did not end."""
        return next((step for step in self.seen.rungs if step.failure is not None), None)

    def fell_at(self, rung: Rung, *failures: str) -> bool:
        """Whether the climb ended on this rung, with one of these failures if any are given."""
        step = self.fell
        return step is not None and _rung(step) == rung and (not failures or step.failure in failures)

    @property
    def climbed(self) -> str:
        """The highest rung that was reached without a gap below it."""
        reached = {_rung(step) for step in self.seen.rungs if step.failure is None}
        stage = NOTHING
        for rung in RUNGS:
            if rung not in reached:
                break
            stage = rung
        return stage

    @property
    def is_raised(self) -> bool:
        """Whether raising went as far as it goes: to `auth`, or to `endpoint` where a handshake shows only in data."""
        needed = Rung.ENDPOINT if self.facts.answers_locally else Rung.AUTH
        return self.climbed != NOTHING and RUNGS.index(Rung(self.climbed)) >= RUNGS.index(needed)

    def _transfers(self, direction: str, *, segmented: bool = False, bulk: bool = False) -> tuple[Observation, ...]:
        return tuple(
            one
            for one in self.loads
            if isinstance(one.details, Transfer)
            and (one.details.direction, one.details.segment is not None) == (direction, segmented)
            # One that the clock ended has no size.
            and (one.details.expected is None or one.details.expected > PORTION) == bulk
        )

    @property
    def down(self) -> tuple[Observation, ...]:
        """64 KiB towards us."""
        return self._transfers("down")

    @property
    def up(self) -> tuple[Observation, ...]:
        """64 KiB away from us."""
        return self._transfers("up")

    @property
    def segmented(self) -> tuple[Observation, ...]:
        """64 KiB in short segments, either way."""
        return self._transfers("down", segmented=True) + self._transfers("up", segmented=True)

    @property
    def bulk(self) -> tuple[Observation, ...]:
        """The sustained transfer."""
        return self._transfers("down", bulk=True)

    @property
    def crowds(self) -> tuple[tuple[Observation, Crowd], ...]:
        """Each crowd of fresh connections."""
        return tuple((one, one.details) for one in self.loads if isinstance(one.details, Crowd))

    @property
    def crowd_failed(self) -> bool:
        """Whether no crowd was ever answered as a whole."""
        return bool(self.crowds) and not any(all(row.answered) for _, row in self.crowds)

    @property
    def echoes(self) -> tuple[Echo, ...]:
        """Questions that tell loss and round-trip times."""
        return tuple(one.details for one in self.loads if isinstance(one.details, Echo))

    @property
    def has_load(self) -> bool:
        """Whether every load test was made."""
        return bool(self.seen.small and self.down and self.up)

    @property
    def came(self) -> bool:
        """Whether anything came from the tunnel's far end, ever."""
        answered = any(any(crowd.answered) for _, crowd in self.crowds) or any(one.received for one in self.echoes)
        return bool(self.seen.carried) or answered

    @property
    def is_crowded_out(self) -> bool:
        """Whether the first fresh connections were answered, and no later one ever.

        More than one crowd, or a crowd and the loads after it, must say so; and only where the tunnel has a connection
        for each connection inside. Where a later one carries anything, it was slow, or lost by chance.
        """
        if self.facts.kind not in ONE_EACH or not all(map(self._is_mute_try, self.seen.small)):
            return False
        rows = [crowd.answered for one, crowd in self.crowds if one.failure is None or one.failure in TIMEOUT]
        firsts = [row.index(False) if False in row else len(row) for row in rows]
        if len(rows) < len(self.crowds) or any(any(row[k:]) for row, k in zip(rows, firsts, strict=True)):
            return False
        left_out = [k for row, k in zip(rows, firsts, strict=True) if len(row) - k >= LEAST_LEFT_OUT]
        again = len(left_out) - 1 + len(self.seen.small)
        # After one alone, none may be answered ever again: else it is no more than luck.
        least = 1 if sum(firsts) == 1 and self.seen.small else 2
        return len(left_out) == len(rows) and max(firsts, default=0) >= least and again >= 1

    def _is_mute_try(self, load: Observation) -> bool:
        """Whether a load fell silent without a byte from the far side."""
        return self.is_silent(load) and not self.came_of(load)

    def came_of(self, load: Observation) -> int:
        """Bytes that a load moved; or that its connection brought, where those are more, its handshakes included."""
        chain = (step for step in self.loads if load.transaction and step.transaction == load.transaction)
        return max(_moved(load), *map(_received, (load, *chain)))

    def is_of_server(self, loads: tuple[Observation, ...]) -> bool:
        """Whether loads got not a byte from one server that was never heard through this tunnel, which carried again.

        Such a server may be down for everybody. One that was heard before is no stranger to the tunnel; and nothing
        comes back through a tunnel that is cut.
        """
        if not self.is_cut(loads) or not all(map(self._is_mute_try, loads)):
            return False
        hosts = set(map(_host, loads))
        heard = {_host(one) for one in self.seen.carried if not isinstance(one.details, DnsAnswer)}
        heard |= {_host(one) for one, row in self.crowds if any(row.answered)}
        again = any(one.t0 >= max(load.t for load in loads) for one in self.seen.carried)
        return len(hosts) == 1 and not hosts & heard and again

    def is_budget(self, loads: tuple[Observation, ...]) -> bool:
        """Whether loads that were cut can have met a budget of packets or of bytes.

        Not where a fresh connection to the tunnel's server, with a budget of its own, brought nothing at all.
        """
        return self.facts.kind not in ONE_EACH or not any(map(self._is_mute_try, loads))

    @property
    def is_mute_over_tcp(self) -> bool:
        """Whether names are answered over UDP, and no connection ever brought a byte, where the two ways differ."""
        datagrams = all(isinstance(one.details, DnsAnswer) and one.details.engine == "udp" for one in self.seen.carried)
        mute = all(map(self._is_mute_try, self.seen.small)) and not any(any(row.answered) for _, row in self.crowds)
        return self.facts.kind == Kind.SHADOWSOCKS and datagrams and len(self.seen.small) >= 2 and mute

    @property
    def short_ones_pass(self) -> bool:
        """Whether the load that falls silent passes in short segments."""
        directions = {one.details.direction for one in self.stuck if isinstance(one.details, Transfer)}
        return any(_passed(one) for way in directions or ("down", "up") for one in self._transfers(way, segmented=True))

    def ended_with(self, *failures: str) -> bool:
        """Whether the load that was never passed ended each time in one of these ways, more than once."""
        return len(self.stuck) >= 2 and all(one.failure in failures for one in self.stuck)

    @property
    def is_stranger(self) -> bool:
        """Whether a server that hides among web sites takes us for a visitor: it answers, and not in our protocol."""
        proven = self.climbed != NOTHING and RUNGS.index(Rung(self.climbed)) >= RUNGS.index(Rung.HANDSHAKE)
        hides = self.facts.kind in (Kind.TROJAN, Kind.VLESS) and proven and not self.facts.tls_unverified
        return hides and self.ended_with(Failure.SSL_FAILED_HANDSHAKE)

    def is_cut(self, stage: tuple[Observation, ...]) -> bool:
        """Whether a load test ended in silence, more than once, and never otherwise."""
        return len(stage) >= 2 and all(map(self.is_silent, stage))

    def is_silent(self, load: Observation) -> bool:
        """Whether a load test ended because nothing came any more; not so where it moved until its time was over."""
        if load.failure in (Failure.STALLED, Failure.TIMED_OUT):
            return True
        steps = (load, *(step for step in self.loads if step.transaction == load.transaction))
        since = next((step.tcp.since_last_data_ms for step in steps if step.tcp), None)
        return load.failure == Failure.TIMEOUT and (not _moved(load) if since is None else since >= STALL * 1000)

    @property
    def came_back(self) -> bool:
        """Whether a byte or a packet came back while the tunnel was loaded."""
        crowd = any(any(row.answered) for _, row in self.crowds)
        return crowd or any(one.probe == "carry" for one in self.seen.carried) or any(map(_heard, self.seen.small))

    @property
    def before(self) -> tuple[Observation, ...]:
        """What came before the small messages, to all of which a budget of one flow applies: first data, and crowds."""
        return tuple(
            one
            for one in self.loads
            if isinstance(one.details, Crowd) or (isinstance(one.details, DnsAnswer) and one.details.rcode is not None)
        )

    @property
    def loses_questions(self) -> bool:
        """Whether fewer of the spaced questions were answered than any loss can tell where transfers pass."""
        return any(one.received < one.sent * LEAST_ANSWERED for one in self.echoes)

    @property
    def is_slow(self) -> bool:
        """Whether a load test moved on until its time was over, and nothing but that or silence ended it."""
        timed_out = all(one.failure in TIMEOUT for one in self.stuck)
        return timed_out and not all(map(self.is_silent, self.stuck))

    @property
    def small_bytes(self) -> int:
        """The most that the exchange of small messages moved before it stopped."""
        return max((one.details.bytes for one in self.seen.small if isinstance(one.details, SmallExchanges)), default=0)

    @property
    def small_passed(self) -> bool:
        """Whether many small messages went through."""
        return any(map(_passed, self.seen.small))

    @property
    def stuck(self) -> tuple[Observation, ...]:
        """The first load test that was never passed, in the order of making."""
        stages = (self.seen.small, self.down, self.up)
        return next((stage for stage in stages if stage and not any(map(_passed, stage))), ())

    @property
    def is_throttled(self) -> bool:
        """Whether the tunnel is slow where the line is not."""
        return self._crawls(LEAST_SAMPLES)

    @property
    def load_is_throttled(self) -> bool:
        """Whether a load test was too slow to end where the line is not; there is no more than its own tries."""
        return self.is_slow and self._crawls(2)

    def _crawls(self, least: int) -> bool:
        if len(self.own) < least or len(self.line) < LEAST_SAMPLES:
            return False
        own, line = goodputs(self.own), goodputs(self.line)
        return median(own) < SLOW and median(own) * CRAWL <= median(line) and chance_of(own, line) <= SIGNIFICANT

    @property
    def fell_with_line(self) -> tuple[Observation, ...]:
        """Where the climb ended in silence while nothing showed that the line worked: that, and the dead controls."""
        silent = self.fell is not None and self.fell.failure in (*TIMEOUT, *UNREACHABLE)
        return self._with_line((self.fell,)) if silent and self.fell else ()

    @property
    def load_fell_with_line(self) -> tuple[Observation, ...]:
        """The same for the loads."""
        crowds = tuple(one for one, _ in self.crowds) if self.crowd_failed else ()
        bulk = self.bulk if not any(map(_passed, self.bulk)) else ()
        tried = (*crowds, *self.stuck, *bulk) if self.came else (*self.loads, *self.stuck)
        return self._with_line(tuple(one for one in tried if one.failure in (*TIMEOUT, *UNREACHABLE)))

    def _with_line(self, fallen: tuple[Observation, ...]) -> tuple[Observation, ...]:
        proofs = [(one, self.line_controls.bracket(one.t0, one.t, self.carried)) for one in fallen]
        doubted = [(one, *proof.dead) for one, proof in proofs if not proof.alive]
        return tuple({one.id: one for those in doubted for one in those}.values())

    @property
    def died_with_line(self) -> bool:
        """Whether its silence at the end can be the line's: neither control nor tunnel brought anything then."""
        begun = min((one.t0 for one in self.seen.alive), default=0.0)
        line_lives = self.line_controls.worked_after or self.carried.ended(begun)
        return self.is_mute and not self.carrier_has_ended and not line_lives

    @property
    def was_seen_alive(self) -> bool:
        """Whether anybody looked, at the end."""
        return any(isinstance(one.details, Alive) for one in self.seen.alive)

    @property
    def carrier_has_ended(self) -> bool:
        """Whether its program no longer ran at the end."""
        return any(isinstance(one.details, Alive) and not one.details.carrier_runs for one in self.seen.alive)

    @property
    def is_mute(self) -> bool:
        """Whether nothing came through any more at the end, the controls included."""
        ends = [one for one in self.seen.alive if isinstance(one.details, Alive)]
        return bool(ends) and all(one.failure is not None for one in ends) and not self.controls.worked_after

    @property
    def resolver_is_mute(self) -> bool:
        """Whether the tunnel's resolver was asked for first data, more than once, and never answered."""
        asked = [one for one in self.seen.carry if isinstance(one.details, DnsAnswer)]
        return len(asked) >= 2 and all(
            isinstance(one.details, DnsAnswer) and one.details.rcode is None for one in asked
        )


def _rung(step: Observation) -> str:
    return step.details.rung if isinstance(step.details, RungStep) else ""


def _is_short(one: Observation) -> bool:
    details = one.details
    if isinstance(details, SmallExchanges):
        return one.failure is None and details.done < details.wanted
    return isinstance(details, Transfer) and one.failure is None and details.bytes < (details.expected or 0)


def _passed(one: Observation) -> bool:
    return one.failure is None and not _is_short(one)


def _moved(one: Observation) -> int:
    return one.details.bytes if isinstance(one.details, SmallExchanges | Transfer) else 0


def _received(one: Observation) -> int:
    return one.tcp.bytes_received if one.tcp else 0


def _host(one: Observation) -> str | None:
    """The server that was asked."""
    url = one.details.url if isinstance(one.details, SmallExchanges | Transfer | Crowd) else one.endpoint
    return urlsplit(url or "").hostname


def _heard(one: Observation) -> bool:
    """Whether anything came from the far side, of whatever layer."""
    packets = one.details.packets_received if isinstance(one.details, SmallExchanges | Transfer) else None
    return bool(packets) or (one.tcp.bytes_received > 0 if one.tcp else _moved(one) > 0)


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


def _leaks(reading: Reading, tunnel: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found = []

    def same(of: str, family: int) -> tuple[str, ...]:
        inside, outside = (reading.address(vantage, of, family) for vantage in (tunnel, OUTSIDE))
        if inside is None or inside != outside:
            return ()
        return tuple(reading.addresses[vantage, of, family].id for vantage in (OUTSIDE, tunnel))

    if witnesses := same("exit", 4):
        found.append(("leak.exit", witnesses))
    if witnesses := same("exit", 6):
        found.append(("leak.ipv6", witnesses))
    askers = {reading.address(OUTSIDE, "resolver", family) for family in (4, 6)} - {None}
    line, here, public = (reading.resolvers.get(whose, frozenset()) for whose in (OUTSIDE, tunnel, PUBLIC))
    # One resolver asked on both sides asks the world for both: that tells nothing. It is the line's own resolver, heard
    # behind a tunnel that asked another one, which gives a leak away.
    shared = (askers | line) & (here | public)
    if not shared and (witnesses := same("resolver", 4) or same("resolver", 6)):
        found.append(("leak.dns", witnesses))
    return tuple(found)


def _siblings(reading: Reading, facts: TunnelFacts) -> tuple[Observation, ...]:
    """Of tunnels of the same kind at the same servers: what shows them answered while this one was not.

    Only of kinds that are silent by design; and only of the same kind, for another one's handshake may pass where a
    censor drops this one's.
    """
    fell = next((step for step in _seen(reading, facts).rungs if step.failure is not None), None)
    found: list[Observation] = []
    if facts.kind not in SILENT_TO_STRANGERS:
        return ()
    for other in reading.record.tunnels:
        same = other.kind == facts.kind and set(other.servers) == set(facts.servers) and bool(facts.servers)
        if fell is None or other.name == facts.name or not same:
            continue
        seen = _seen(reading, other)
        answers = [step for step in seen.rungs if _rung(step) == Rung.HANDSHAKE and step.failure is None]
        # One that was answered before may have been the last that was.
        late = [one for one in answers if one.t >= fell.t0] or [one for one in seen.carried if one.t >= fell.t]
        if answers and late:
            found.append(late[0])
    return tuple(found[:1])


def _seen(reading: Reading, facts: TunnelFacts) -> TunnelSeen:
    return reading.tunnels.get(facts.name, TunnelSeen())


def evidence_of(reading: Reading, facts: TunnelFacts) -> TunnelEvidence:
    """All that a reading holds about one tunnel."""
    return TunnelEvidence(
        facts=facts,
        seen=_seen(reading, facts),
        controls=reading.controls.get(facts.name, Controls()),
        loads=reading.loads.get(facts.name, ()),
        siblings=_siblings(reading, facts),
        line=reading.yardstick.get(OUTSIDE, ()),
        own=reading.yardstick.get(facts.name, ()),
        line_controls=reading.controls.get(OUTSIDE, Controls()),
        carried=reading.carried,
        leaks=_leaks(reading, facts.name),
        exit_known=any(reading.address(facts.name, "exit", family) for family in (4, 6)),
    )


def judge_tunnel(reading: Reading, facts: TunnelFacts) -> TunnelVerdict:
    """How far one tunnel got."""
    evidence = evidence_of(reading, facts)
    rule = first(TUNNEL, evidence)
    leaked = dict(evidence.leaks).get(rule.then.mechanism or "", ())
    witnesses = tuple(dict.fromkeys(one.id for one in rule.then.witnesses(evidence))) + leaked
    detail = rule.then.detail(evidence)
    return TunnelVerdict(facts.name, rule.then.stage(evidence), rule.then.mechanism, rule.id, witnesses, detail)
