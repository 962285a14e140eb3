"""Observations sorted into what the rules ask about. Concludes nothing.

Observation … ─sort→ Reading ─┬─ Attempt       one try of one endpoint from one vantage, with its comparisons
                              ├─ Controls      when the line (or the tunnel) itself was seen to work
                              ├─ SpeedSamples  goodputs: target, neutral, control
                              └─ TunnelSeen    rungs, load tests, alive
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from vpntest.failures import Failure
from vpntest.plan.model import Endpoint
from vpntest.probe.observation import (
    Address,
    DnsAnswer,
    HttpExchange,
    Observation,
    Record,
    SmallExchanges,
    TcpConnect,
    TlsHandshake,
    Transfer,
)
from vpntest.tunnel.vantage import OUTSIDE

RESET = frozenset({Failure.CONNECTION_RESET, Failure.CONNECTION_ABORTED})
TIMEOUT = frozenset({Failure.TIMEOUT, Failure.TIMED_OUT, Failure.STALLED})
UNREACHABLE = frozenset({Failure.HOST_UNREACHABLE, Failure.NETWORK_UNREACHABLE})
CERTIFICATE = frozenset({Failure.SSL_INVALID_HOSTNAME, Failure.SSL_UNKNOWN_AUTHORITY, Failure.SSL_INVALID_CERTIFICATE})
OURS = frozenset(
    {
        Failure.NETWORK_DOWN,
        Failure.PERMISSION_DENIED,
        Failure.ADDRESS_NOT_AVAILABLE,
        Failure.ADDRESS_FAMILY,
        Failure.INTERRUPTED,
        Failure.MESSAGE_SIZE,
        Failure.NOT_CONNECTED,
        Failure.CARRIER_EXITED,
    }
)
"""Failures that this box makes by itself: they say nothing about who blocks what."""

BOGONS = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.168.0.0/16",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/128",
            "::1/128",
            "::ffff:0:0/96",
            "100::/64",
            "2001:db8::/32",
            "fc00::/8",
            "fe80::/10",
            "ff00::/8",
        ),
    )
)
"""Addresses that no public server can have (IANA special-purpose registries; OONI: netxlite/bogon.go).

Without 198.18.0.0/15 and fd00::/8, which OONI has: closed networks for tests are built of just these two (RFC 2544,
RFC 4193), and there they are true addresses of servers. No censor is known to forge answers out of them.
"""


# ── one try of one endpoint ──────────────────────────────────────────────────────────────────────────────────────────


class Seen(StrEnum):
    """What one try of an endpoint came to."""

    REACHED = "reached"
    """A true answer of the platform, proven as far as the endpoint can prove it."""
    REFUSED = "refused"
    """The platform's own certificate, then 403, 429, 451 or a challenge."""
    FAULT = "fault"
    """The platform's own certificate, then another answer than the endpoint should give: 5xx, for one."""
    FAILED = "failed"
    UNPROVEN = "unproven"
    """A connection stands, but not surely with the platform."""
    VOID = "void"
    """Cut short, failed by this box's own doing, or while nothing showed that the line worked: no evidence at all."""


class Layer(StrEnum):
    """Where a chain failed."""

    DNS = "dns"
    TCP = "tcp"
    TLS = "tls"
    HTTP = "http"


REFUSALS = frozenset({403, 429, 451})
"""RFC 9110 and RFC 6585, RFC 7725: statuses by which a server turns a caller away."""


@dataclass(frozen=True)
class Chain:
    """Resolve → connect → TLS → HTTP; what was not reached is absent."""

    resolved: tuple[Observation, ...] = ()
    """By this vantage's resolver."""
    public: tuple[Observation, ...] = ()
    """By the public resolver."""
    connect: Observation | None = None
    tls: Observation | None = None
    http: Observation | None = None

    def __iter__(self) -> Iterator[Observation]:
        yield from self.resolved
        yield from self.public
        yield from (step for step in (self.connect, self.tls, self.http) if step)


def _chain(observations: Iterable[Observation]) -> Chain:
    resolved: list[Observation] = []
    public: list[Observation] = []
    steps: dict[str, Observation] = {}
    for observation in observations:
        if isinstance(observation.details, DnsAnswer):
            (public if observation.details.resolver == "public" else resolved).append(observation)
        elif observation.operation not in steps or observation.failure is None:
            # Where several addresses were tried, the one that worked tells how far the endpoint can be reached.
            steps[observation.operation] = observation
    return Chain(
        tuple(resolved), tuple(public), steps.get("connect"), steps.get("tls_handshake"), steps.get("http_round_trip")
    )


def _answers(observations: Iterable[Observation]) -> frozenset[str]:
    return frozenset(
        address
        for observation in observations
        if isinstance(observation.details, DnsAnswer) and observation.failure is None
        for address in observation.details.answers
    )


def _is_bogon(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in BOGONS if network.version == parsed.version)


def _reading_of(chain: Chain, endpoint: Endpoint, answers_locally: bool) -> tuple[Seen, Layer | None, str | None]:
    """What a chain came to; for FAILED also where and with which failure."""
    scheme = urlsplit(endpoint.url).scheme
    if chain.http is not None:
        if chain.http.failure == Failure.HTTP_REQUEST_FAILED and chain.tls is not None and _is_verified(chain.tls):
            # Under its own certificate nobody but the server can have broken the exchange so.
            return Seen.FAULT, None, None
        if chain.http.failure is not None:
            return _failed(Layer.HTTP, chain.http)
        return _answer(chain, endpoint, scheme)
    if chain.tls is not None:
        return _failed(Layer.TLS, chain.tls) if chain.tls.failure is not None else (Seen.VOID, None, None)
    if chain.connect is not None:
        if chain.connect.failure is not None:
            return _failed(Layer.TCP, chain.connect)
        if scheme != "tcp":
            return Seen.VOID, None, None
        ours, theirs = _answers(chain.resolved), _answers(chain.public)
        if ours and all(map(_is_bogon, ours)):
            # Whoever listens at an address that no public server can have, it is not the platform.
            return Seen.FAILED, Layer.DNS, None
        # An open port shows no certificate: at an address that only the provider's resolver gives, anybody may listen.
        unconfirmed = bool(ours) and (any(map(_is_bogon, ours)) or (bool(theirs) and ours.isdisjoint(theirs)))
        # One, because the kernel counts the far side's FIN as a byte.
        spoke = chain.connect.tcp is not None and chain.connect.tcp.bytes_received > 1
        unproven = unconfirmed or (answers_locally and not spoke)
        return (Seen.UNPROVEN if unproven else Seen.REACHED), None, None
    answers = _answers(chain.resolved)
    if answers and all(map(_is_bogon, answers)):
        # Probes do not connect to this box or this link, which is where such answers point.
        return Seen.FAILED, Layer.DNS, None
    failures = [observation for observation in chain.resolved if observation.failure is not None]
    if failures and len(failures) == len(chain.resolved):
        return _failed(Layer.DNS, failures[0])
    return Seen.VOID, None, None


def _failed(layer: Layer, observation: Observation) -> tuple[Seen, Layer | None, str | None]:
    failure = observation.failure
    broken_ipv6 = (
        failure in UNREACHABLE and isinstance(observation.details, TcpConnect) and ":" in observation.details.ip
    )
    # A line without IPv6 says so to every name alike (ooni/probe#2284).
    if failure in OURS or broken_ipv6:
        return Seen.VOID, None, None
    return Seen.FAILED, layer, failure


def _answer(chain: Chain, endpoint: Endpoint, scheme: str) -> tuple[Seen, Layer | None, str | None]:
    assert chain.http is not None
    details = chain.http.details
    if not isinstance(details, HttpExchange) or details.code is None:
        return Seen.VOID, None, None
    if scheme == "http":
        moved = not endpoint.status and bool(details.location) and 300 <= details.code < 400
        if _is_true_answer(details, endpoint) and not moved:
            return Seen.REACHED, None, None
        # Nobody signed it: a block page, the platform's refusal and a portal look alike.
        return Seen.FAILED, Layer.HTTP, None
    if chain.tls is None or not _is_verified(chain.tls):
        return Seen.VOID, None, None
    if _is_true_answer(details, endpoint):
        return Seen.REACHED, None, None
    if details.challenge or details.code in REFUSALS:
        return Seen.REFUSED, None, None
    return Seen.FAULT, None, None


def _is_verified(tls: Observation) -> bool:
    return isinstance(tls.details, TlsHandshake) and tls.failure is None and not tls.details.no_tls_verify


def _is_true_answer(details: HttpExchange, endpoint: Endpoint) -> bool:
    assert details.code is not None
    if endpoint.status:
        return details.code in endpoint.status
    return not details.challenge and details.code not in REFUSALS and details.code < 500


@dataclass(frozen=True)
class Proof:
    """Whether a place was seen to work about the time of a failure."""

    alive: bool
    dead: tuple[Observation, ...] = ()
    """The controls that failed about then."""


@dataclass(frozen=True)
class Attempt:
    """One try of one endpoint from one vantage, with its two comparisons."""

    target: Chain
    neutral: Chain
    alternate: Chain
    endpoint: Endpoint
    answers_locally: bool
    seen: Seen
    layer: Layer | None
    """Where it failed; None unless FAILED."""
    failure: str | None
    """None also for an unsigned answer that is not the platform's (layer HTTP)."""
    doubt: Proof | None = None
    """Why a failure is VOID: nothing shows that this place worked about then. None for all other tries."""

    @property
    def addresses(self) -> frozenset[str]:
        """What this vantage's resolver said."""
        return _answers(self.target.resolved)

    @property
    def is_bogon(self) -> bool:
        """Whether this vantage's resolver gave only addresses that no server can have."""
        return bool(self.addresses) and all(map(_is_bogon, self.addresses))

    @property
    def is_unshared(self) -> bool:
        """Whether both resolvers answered and have no address in common."""
        public = _answers(self.target.public)
        return bool(self.addresses) and bool(public) and self.addresses.isdisjoint(public)

    @property
    def is_raced(self) -> bool:
        """Whether a second, different answer came to the same question: somebody was faster than the resolver."""
        return any(isinstance(step.details, DnsAnswer) and bool(step.details.late) for step in self.target.resolved)

    @property
    def neutral_through(self) -> bool:
        """Whether another name got past the layer where the platform's name failed, at the same address."""
        step = {Layer.TLS: self.neutral.tls, Layer.HTTP: self.neutral.http}.get(self.layer) if self.layer else None
        return step is not None and step.failure is None

    @property
    def alternate_through(self) -> bool:
        """Whether the platform answered at the public resolver's address."""
        seen, _, _ = _reading_of(self.alternate, self.endpoint, self.answers_locally)
        return seen in (Seen.REACHED, Seen.REFUSED)

    @property
    def works_here(self) -> bool:
        """Whether this very try shows that the platform's server can be reached from here but for one thing."""
        if self.seen is not Seen.FAILED:
            return False
        if self.alternate_through:
            return True
        # An interceptor's forged certificate serves any name, so a neutral name that gets through proves nothing then.
        return self.failure not in CERTIFICATE and self.neutral_through

    @property
    def is_cut_by_name(self) -> bool:
        """Whether this try shows that somebody on the way does it: a reset under the one name, or a wrong address.

        Silence, a close or an alert under one name may be the server's own doing.
        """
        return self.works_here and (self.alternate_through or self.failure in RESET)

    @property
    def way(self) -> tuple[Layer | None, str | None]:
        """Where and how it failed, all kinds of silence taken for one."""
        return self.layer, Failure.TIMEOUT if self.failure in TIMEOUT else self.failure

    @property
    def witnesses(self) -> tuple[str, ...]:
        """What the reading stands on: the target's last steps and, where they decide, the comparison's."""
        chain = self.target
        steps = [step for step in (chain.connect, chain.tls, chain.http) if step][-1:]
        if self.layer is Layer.DNS or self.is_bogon or self.is_unshared or not steps:
            steps = [*chain.resolved, *chain.public, *steps]
        if self.seen is Seen.REFUSED and chain.tls:
            steps = [chain.tls, *steps]
        if self.seen is Seen.FAILED:
            for comparison, through in ((self.neutral, self.neutral_through), (self.alternate, self.alternate_through)):
                if through:
                    steps += [step for step in (comparison.connect, comparison.tls, comparison.http) if step][-1:]
        return tuple(step.id for step in steps)


PORTION = 64 * 1024
"""Bytes that a goodput probe takes at most: several times what a freeze lets pass (14 to 34 KB; net4people/bbs#490)."""
SILENCE = 2.0
"""Seconds. Of the 3 s that a goodput probe reads; at 130 kbit/s a TLS record of 16 KiB takes 1 s."""

# ── controls, speed, tunnels ─────────────────────────────────────────────────────────────────────────────────────────


AROUND = 5.0
"""Seconds before and after a failure within which a control must have worked for the failure to count. A choice: about
one round of attempts, and less than the 7 s in which a connect sends its four SYNs, which an outage must cover to look
like a block."""
SHORT = 4.0
"""Seconds. A failure that took less is held against the controls of so much time about it, in which there are two."""


@dataclass(frozen=True)
class Moment:
    """One control asked, from its first step to its last."""

    last: Observation
    t0: float
    t: float
    worked: bool


@dataclass(frozen=True)
class Controls:
    """What the control URLs say of one vantage, and when."""

    before: tuple[Moment, ...] = ()
    during: tuple[Moment, ...] = ()
    after: tuple[Moment, ...] = ()

    @property
    def dead_before(self) -> tuple[str, ...]:
        """Ids of the failures before the platforms, if none succeeded then."""
        return tuple(one.last.id for one in _dead(self.before))

    @property
    def worked_during(self) -> bool:
        """Whether one succeeded while the platforms were asked."""
        return _worked(self.during)

    @property
    def worked_after(self) -> bool:
        """Whether one succeeded after the platforms."""
        return _worked(self.after)

    @property
    def are_good(self) -> bool:
        """Whether the place itself is known to work, before the platforms and after them."""
        return _worked(self.before) and _worked(self.after)

    def around(self, t0: float, t: float) -> Proof:
        """Whether this place was seen to work around a failure that took from `t0` to `t`.

        A control must have worked in its midst; or, where none was asked then, within AROUND of it, on both sides where
        any was asked so near. And one must have worked some time before and one some time after, for else the place may
        be dead since. Without controls during the platforms, those before and after must do.
        """
        if not self.during:
            return Proof(self.are_good, tuple(one.last for part in (self.before, self.after) for one in _dead(part)))
        return _proof(self._telling(), t0, t, must_be_near=True)

    def bracket(self, t0: float, t: float, also: Iterable[Observation] = ()) -> Proof:
        """The same, but however long before and after. `also`: what else can only be if this place worked."""
        if not self.during and self.are_good:
            return Proof(True)
        proven = tuple(Moment(one, one.t0, one.t, worked=True) for one in also)
        controls = self._telling()
        # Controls that never answer where other things come through are blocked, and the place is not dead.
        telling = controls if _worked(controls) or not proven else ()
        return _proof((*telling, *proven), t0, t, must_be_near=False)

    def _telling(self) -> tuple[Moment, ...]:
        moments = (*self.before, *self.during, *self.after)
        # A control that never answered here may be blocked itself: it tells nothing of a moment.
        working = {one.last.endpoint for one in moments if one.worked}
        return tuple(one for one in moments if one.last.endpoint in working) if working else moments


def _worked(moments: Iterable[Moment]) -> bool:
    return any(one.worked for one in moments)


def _dead(moments: tuple[Moment, ...]) -> tuple[Moment, ...]:
    return () if _worked(moments) else moments


def _split(
    moments: Iterable[Moment], t0: float, t: float
) -> tuple[tuple[Moment, ...], tuple[Moment, ...], tuple[Moment, ...]]:
    """Those amid this stretch of time, those before it, those after it."""
    amid: list[Moment] = []
    before: list[Moment] = []
    after: list[Moment] = []
    for one in moments:
        (before if one.t <= t0 else after if one.t0 >= t else amid).append(one)
    return tuple(amid), tuple(before), tuple(after)


def _proof(moments: tuple[Moment, ...], t0: float, t: float, *, must_be_near: bool) -> Proof:
    # A control that hangs while others answer must not count for more than they do.
    margin = max(0.0, SHORT - (t - t0)) / 2
    amid, before, after = _split(moments, t0 - margin, t + margin)
    sides = (
        tuple(one for one in before if one.t >= t0 - AROUND),
        tuple(one for one in after if one.t0 <= t + AROUND),
    )
    near = (amid,) if amid else sides
    dead = tuple(one.last for part in near for one in _dead(part))
    is_near = any(map(_worked, near)) or not must_be_near
    amid, before, after = _split(moments, t0, t)
    is_bracketed = _worked(amid) or (_worked(before) and _worked(after))
    return Proof(is_near and is_bracketed and not dead, dead)


def _controls(observations: Iterable[Observation]) -> Controls:
    chains: dict[tuple[str, int, str], list[Observation]] = defaultdict(list)
    for observation in observations:
        # Without a transaction each step stands for itself.
        alone = "" if observation.transaction else observation.id
        chains[observation.phase, observation.transaction, alone].append(observation)
    phases: dict[str, list[Moment]] = {"before": [], "during": [], "after": []}
    for (phase, _, _), steps in chains.items():
        steps.sort(key=lambda step: step.t)
        answered = [step for step in steps if isinstance(step.details, HttpExchange) and step.details.code is not None]
        failed = [step for step in steps if step.failure is not None]
        if not answered and not failed:
            continue  # cut short
        # A refusal under the control's own certificate is an answer; one that nobody signed may be a portal's.
        signed = any(map(_is_verified, steps))
        worked = any(_is_final(step) or (signed and step.failure is None) for step in answered)
        last = (answered if worked else failed or answered)[-1]
        phases[phase].append(Moment(last, min(step.t0 for step in steps), last.t, worked))
    return Controls(*(tuple(sorted(those, key=lambda one: (one.t, one.last.id))) for those in phases.values()))


def _is_final(observation: Observation) -> bool:
    details = observation.details
    return (
        isinstance(details, HttpExchange)
        and observation.failure is None
        and details.code is not None
        and details.code < 400
    )


@dataclass(frozen=True)
class Sample:
    """One transfer."""

    observation: Observation
    details: Transfer

    @property
    def moved(self) -> int:
        """Bytes that came; of a transfer cut short, what the kernel got: half a TLS record shows only there."""
        info = self.observation.tcp
        return max(self.details.bytes, info.bytes_received if info and not self.is_complete else 0)

    @property
    def received(self) -> int:
        """Bytes that the kernel got, all layers above TCP included; 0 where unknown."""
        return self.observation.tcp.bytes_received if self.observation.tcp else 0

    @property
    def goodput(self) -> float:
        """Bits per second, over all that the transfer took and without leaving out its slow start.

        A complete transfer is timed from its first byte to its last. One that the clock or a stall ended is timed from
        before its request: its last bytes say nothing about the silence after them.
        """
        duration = self.observation.t - self.observation.t0
        if self.is_complete and self.details.samples and self.details.samples[-1][0] > 0:
            duration = self.details.samples[-1][0]
        return self.moved * 8 / max(duration, 1e-3)

    @property
    def is_complete(self) -> bool:
        """Whether all came that was asked for: the whole body, or the portion of it that a probe takes."""
        wanted = min(self.details.expected or 0, PORTION)
        return self.observation.failure is None and self.details.bytes >= wanted

    @property
    def is_silent(self) -> bool:
        """Whether it stopped for good: it ended incomplete, after more silence than a policer's drops bring about."""
        if self.is_complete or not (self.observation.failure is None or self.observation.failure in TIMEOUT):
            return False
        since = self.observation.tcp.since_last_data_ms if self.observation.tcp else None
        if since is not None and since < SILENCE * 1000:
            return False
        samples = self.details.samples
        return not samples or samples[-1][0] - min(t for t, n in samples if n == samples[-1][1]) >= SILENCE

    @property
    def is_telling(self) -> bool:
        """Whether it says something of speed: enough was there to move, and nothing but clock or silence ended it."""
        if self.moved == 0 or not (self.observation.failure is None or self.observation.failure in TIMEOUT):
            return False
        # Where the size is unknown, a transfer that the clock ended was long enough.
        size = self.details.expected or (self.details.bytes if self.is_complete else PORTION)
        return size >= PORTION // 2


@dataclass(frozen=True)
class SpeedSamples:
    """Goodput of one platform from one vantage; for `control` of the vantage itself."""

    target: tuple[Sample, ...] = ()
    neutral: tuple[Sample, ...] = ()
    control: tuple[Sample, ...] = ()
    asked: tuple[Sample, ...] = ()
    """All transfers under the platform's own name, also those that moved nothing."""


def _telling(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    return tuple(sample for sample in samples if sample.is_telling)


@dataclass(frozen=True)
class TunnelSeen:
    """All that was seen of one tunnel, but for the platforms."""

    rungs: tuple[Observation, ...] = ()
    small: tuple[Observation, ...] = ()
    down: tuple[Observation, ...] = ()
    up: tuple[Observation, ...] = ()
    carried: tuple[Observation, ...] = ()
    """Everything through the tunnel that can only have come from its far end."""
    carry: tuple[Observation, ...] = ()
    alive: tuple[Observation, ...] = ()


Key = tuple[str, str, str]
"""Platform, service, endpoint URL."""


@dataclass(frozen=True)
class Reading:
    """A whole record, sorted."""

    record: Record
    attempts: dict[Key, dict[str, tuple[Attempt, ...]]]
    """By endpoint, then by vantage."""
    controls: dict[str, Controls]
    """By vantage."""
    speed: dict[tuple[str, str], SpeedSamples]
    """By (vantage, platform)."""
    yardstick: dict[str, tuple[Sample, ...]]
    """By vantage: downloads of control URLs."""
    tunnels: dict[str, TunnelSeen]
    addresses: dict[tuple[str, str, int], Observation]
    """By (vantage, `exit` or `resolver`, family): the first known one."""
    resolvers: dict[str, frozenset[str]]
    """Addresses asked, by vantage; those of the public resolver under :data:`PUBLIC`."""

    @property
    def carried(self) -> tuple[Observation, ...]:
        """Everything through any tunnel that can only have come from its far end, and so over the line."""
        return tuple(one for seen in self.tunnels.values() for one in seen.carried)

    def address(self, vantage: str, of: str, family: int) -> str | None:
        """An address that the world saw of a vantage; None where unknown."""
        observation = self.addresses.get((vantage, of, family))
        return observation.details.address if observation and isinstance(observation.details, Address) else None


PUBLIC = ""
"""Stands for the public resolver among vantages; no vantage can be called so."""


def read(record: Record) -> Reading:
    """Sorts a record. Never raises, whatever is missing from it."""
    locally = {tunnel.name for tunnel in record.tunnels if tunnel.answers_locally}
    controls: dict[str, list[Observation]] = defaultdict(list)
    yardstick: dict[str, list[Sample]] = defaultdict(list)
    speed: dict[tuple[str, str], dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    tunnels: dict[str, dict[str, list[Observation]]] = defaultdict(lambda: defaultdict(list))
    addresses: dict[tuple[str, str, int], Observation] = {}
    resolvers: dict[str, set[str]] = defaultdict(set)
    for observation in record.observations:
        vantage, details = observation.vantage, observation.details
        if vantage != OUTSIDE and _came_through(observation, vantage in locally):
            tunnels[vantage]["carried"].append(observation)
        if observation.probe in ("rung", "alive", "carry"):
            tunnels[vantage][_of_tunnel(observation)].append(observation)
        if observation.probe == "control":
            controls[vantage].append(observation)
        if isinstance(details, DnsAnswer):
            resolvers[PUBLIC if details.resolver == "public" else vantage].add(_host(details.resolver_address))
        elif isinstance(details, Address) and details.address is not None:
            addresses.setdefault((vantage, details.of, details.family), observation)
        elif isinstance(details, Transfer) and details.direction == "down":
            if observation.probe == "speed" and observation.role != "control":
                speed[vantage, observation.platform or ""][observation.role].append(Sample(observation, details))
            else:
                yardstick[vantage].append(Sample(observation, details))
    # A transfer that stopped for good is no measure of what the line can do.
    yardsticks = {
        vantage: tuple(sample for sample in _telling(those) if not sample.is_silent)
        for vantage, those in yardstick.items()
    }
    seen = {vantage: _controls(those) for vantage, those in controls.items()}
    return Reading(
        record=record,
        attempts=_attempts(record, locally, seen),
        controls=seen,
        speed={
            key: SpeedSamples(
                _telling(roles["target"]),
                _telling(roles["neutral"]),
                yardsticks.get(key[0], ()),
                tuple(roles["target"]),
            )
            for key, roles in speed.items()
        },
        yardstick=yardsticks,
        tunnels={
            name: TunnelSeen(**{what: tuple(those) for what, those in kinds.items()}) for name, kinds in tunnels.items()
        },
        addresses=addresses,
        resolvers={vantage: frozenset(those) for vantage, those in resolvers.items()},
    )


def _attempts(
    record: Record, locally: set[str], controls: dict[str, Controls]
) -> dict[Key, dict[str, tuple[Attempt, ...]]]:
    sorted_out: dict[tuple[Key, str], dict[int, dict[str, list[Observation]]]] = defaultdict(dict)
    for observation in record.observations:
        if observation.probe == "reach":
            key = (observation.platform or "", observation.service or "", observation.endpoint or "")
            roles = sorted_out[key, observation.vantage].setdefault(observation.attempt, defaultdict(list))
            roles[observation.role].append(observation)
    attempts: dict[Key, dict[str, tuple[Attempt, ...]]] = {}
    for platform in record.platforms:
        for service in platform.service:
            for endpoint in service.endpoint:
                key = (platform.id, service.id, endpoint.url)
                attempts[key] = {
                    vantage: tuple(
                        _attempt(by_number[number], endpoint, vantage in locally, controls.get(vantage, Controls()))
                        for number in sorted(by_number)
                    )
                    for vantage in (OUTSIDE, *(tunnel.name for tunnel in record.tunnels))
                    if (by_number := sorted_out.get((key, vantage)))
                }
    return attempts


def _attempt(
    roles: dict[str, list[Observation]], endpoint: Endpoint, answers_locally: bool, controls: Controls
) -> Attempt:
    target = _chain(roles.get("target", ()))
    seen, layer, failure = _reading_of(target, endpoint, answers_locally)
    doubt = None
    if seen is Seen.FAILED:
        # The step that failed, not the whole try: what went well before it says how the line was then.
        failing = [target.connect, target.tls, target.http] if layer is not Layer.DNS else [*target.resolved]
        last = max((step for step in failing if step), key=lambda step: step.t)
        proof = controls.around(last.t0, last.t)
        if not proof.alive:
            seen, doubt = Seen.VOID, proof
    return Attempt(
        target=target,
        neutral=_chain(roles.get("neutral", ())),
        alternate=_chain(roles.get("alternate", ())),
        endpoint=endpoint,
        answers_locally=answers_locally,
        seen=seen,
        layer=layer,
        failure=failure,
        doubt=doubt,
    )


def _of_tunnel(observation: Observation) -> str:
    if observation.probe == "rung":
        return "rungs"
    if observation.probe == "alive":
        return "alive"
    if isinstance(observation.details, SmallExchanges):
        return "small"
    if isinstance(observation.details, Transfer):
        return observation.details.direction
    return "carry"


def _came_through(observation: Observation, answers_locally: bool) -> bool:
    """Whether this can only be so because something came back from the tunnel's far end."""
    details = observation.details
    if isinstance(details, DnsAnswer):
        return details.rcode is not None
    if isinstance(details, TcpConnect):
        return observation.failure is None and not answers_locally
    if isinstance(details, Transfer | SmallExchanges) and observation.failure == Failure.HTTP_REQUEST_FAILED:
        # An answer came, though not the one that was asked for.
        return True
    if isinstance(details, Transfer):
        return (details.direction == "down" and details.bytes > 0) or observation.failure is None
    if isinstance(details, SmallExchanges):
        return details.done > 0
    return isinstance(details, (TlsHandshake, HttpExchange)) and observation.failure is None


def _host(address: str) -> str:
    host, _, port = address.rpartition(":")
    return host.strip("[]") if host and port.isdigit() and (host.startswith("[") or ":" not in host) else address
