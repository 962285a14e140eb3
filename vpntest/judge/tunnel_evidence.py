"""What bears on a tunnel: how far it climbed, which load was never passed and how it ended, and what else was seen."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from urllib.parse import urlsplit

from vpntest.failures import Failure
from vpntest.judge.controls import Controls, Proven
from vpntest.judge.kinds import TIMEOUT, UNREACHABLE
from vpntest.judge.platform_rules import CRAWL, LEAST_SAMPLES, SIGNIFICANT, SLOW, chance_of, goodputs
from vpntest.judge.reading import PUBLIC, Reading
from vpntest.judge.samples import PORTION, Sample
from vpntest.judge.tunnels import TunnelSeen
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
OVER_QUIC = frozenset({Kind.HYSTERIA2, Kind.TUIC})
"""Tunnels whose carrier hangs up on all that it carries once it has heard nothing for its idle time."""
CARRIER_IDLE = 25.0
"""Seconds without a sign of life after which that may be so: quic-go, and sing-box with it, hang up after 30
(RFC 9000, 10.1), counted from a packet that may have been later than the last one that we saw."""
LEAST_ANSWERED = 0.5
"""Of evenly spaced questions: where fewer are answered and transfers pass, it is not the way that loses them. TCP moves
next to nothing at such a loss (Mathis et al., 1997)."""


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
        if load.failure == Failure.TIMEOUT:
            return not _moved(load) if since is None else since >= STALL * 1000
        return self._gave_up(load)

    def _gave_up(self, load: Observation) -> bool:
        """Whether the carrier itself hung up, having heard nothing for so long that no server can have said so."""
        if self.facts.kind not in OVER_QUIC or load.failure not in (Failure.EOF, Failure.CONNECTION_RESET):
            return False
        # It answers connections itself: they are no sign of life.
        heard = [one.t for one in self.loads if one.failure is None and one.operation != "connect"]
        return not _moved(load) and bool(heard) and load.t - max(heard) >= CARRIER_IDLE

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
