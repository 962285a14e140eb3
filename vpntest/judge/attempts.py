"""One try of one endpoint from one vantage: what it came to, and what its comparisons add."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from vpntest.failures import Failure
from vpntest.judge.controls import Controls, Proof
from vpntest.judge.kinds import CERTIFICATE, OURS, RESET, TIMEOUT, UNREACHABLE, is_bogon, is_verified
from vpntest.plan.model import Endpoint
from vpntest.probe.observation import DnsAnswer, HttpExchange, Observation, TcpConnect


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


def _reading_of(chain: Chain, endpoint: Endpoint, answers_locally: bool) -> tuple[Seen, Layer | None, str | None]:
    """What a chain came to; for FAILED also where and with which failure."""
    scheme = urlsplit(endpoint.url).scheme
    if chain.http is not None:
        if chain.http.failure == Failure.HTTP_REQUEST_FAILED and chain.tls is not None and is_verified(chain.tls):
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
        if ours and all(map(is_bogon, ours)):
            # Whoever listens at an address that no public server can have, it is not the platform.
            return Seen.FAILED, Layer.DNS, None
        # An open port shows no certificate: at an address that only the provider's resolver gives, anybody may listen.
        unconfirmed = bool(ours) and (any(map(is_bogon, ours)) or (bool(theirs) and ours.isdisjoint(theirs)))
        # One, because the kernel counts the far side's FIN as a byte.
        spoke = chain.connect.tcp is not None and chain.connect.tcp.bytes_received > 1
        unproven = unconfirmed or (answers_locally and not spoke)
        return (Seen.UNPROVEN if unproven else Seen.REACHED), None, None
    answers = _answers(chain.resolved)
    if answers and all(map(is_bogon, answers)):
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
    if chain.tls is None or not is_verified(chain.tls):
        return Seen.VOID, None, None
    if _is_true_answer(details, endpoint):
        return Seen.REACHED, None, None
    if details.challenge or details.code in REFUSALS:
        return Seen.REFUSED, None, None
    return Seen.FAULT, None, None


def _is_true_answer(details: HttpExchange, endpoint: Endpoint) -> bool:
    assert details.code is not None
    if endpoint.status:
        return details.code in endpoint.status
    return not details.challenge and details.code not in REFUSALS and details.code < 500


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
        return bool(self.addresses) and all(map(is_bogon, self.addresses))

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


def attempt_of(
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
