"""One try of one endpoint from one vantage: what it came to, and what its comparisons add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from vpntest.failures import Failure
from vpntest.judge.controls import Controls, Proof
from vpntest.judge.freezing import Silence, silence_of
from vpntest.judge.kinds import CERTIFICATE, OURS, RESET, TIMEOUT, UNREACHABLE, host_of, is_bogon, is_verified
from vpntest.judge.names import Names
from vpntest.judge.pages import Belief, Page, whose
from vpntest.plan.model import Endpoint
from vpntest.probe.observation import (
    DnsAnswer,
    HttpExchange,
    Observation,
    QuicHandshake,
    StunBinding,
    TcpConnect,
    TlsHandshake,
)


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
    QUIC = "quic"
    STUN = "stun"
    HTTP = "http"


CUT = RESET | TIMEOUT | {Failure.EOF}
"""How a handshake ends that somebody on the way cuts."""
NO_WAY = frozenset({Failure.PERMISSION_DENIED, Failure.ADDRESS_NOT_AVAILABLE, *UNREACHABLE})
"""What a box says of an address that it connects to for nobody, such as the broadcast address."""
REFUSALS = frozenset({403, 429, 451})
"""RFC 9110 and RFC 6585, RFC 7725: statuses by which a server turns a caller away."""


@dataclass(frozen=True)
class Chain:
    """Resolve → connect → TLS → HTTP, or resolve → QUIC → HTTP, or resolve → STUN; what was not reached is absent."""

    resolved: tuple[Observation, ...] = ()
    """By this vantage's resolver."""
    public: tuple[Observation, ...] = ()
    """By the public resolver."""
    connect: Observation | None = None
    tls: Observation | None = None
    quic: Observation | None = None
    stun: Observation | None = None
    http: Observation | None = None

    @property
    def steps(self) -> tuple[Observation, ...]:
        """Those after the name was resolved."""
        return tuple(step for step in (self.connect, self.tls, self.quic, self.stun, self.http) if step)

    @property
    def secure(self) -> Observation | None:
        """The handshake that shows a certificate."""
        return self.tls or self.quic


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
        tuple(resolved),
        tuple(public),
        connect=steps.get("connect"),
        tls=steps.get("tls_handshake"),
        quic=steps.get("quic_handshake"),
        stun=steps.get("stun_binding"),
        http=steps.get("http_round_trip"),
    )


def _answers(observations: Iterable[Observation]) -> frozenset[str]:
    return frozenset(
        address
        for observation in observations
        if isinstance(observation.details, DnsAnswer) and observation.failure is None
        for address in observation.details.answers
    )


Reading = tuple[Seen, Layer | None, str | None]
"""What a chain came to; for FAILED also where and with which failure."""

_NOTHING: Reading = (Seen.VOID, None, None)


Pages = Mapping[str, tuple[Page, ...]]
"""By exit: its answers to one endpoint without a certificate, from addresses that are not doubted."""


@dataclass(frozen=True)
class _Beside:
    """What an answer that nobody signed is held against."""

    pages: Pages
    alternate: tuple[Page, ...] = ()
    """Answers at the public resolver's address."""
    is_forged: bool = False
    """Whether somebody on the way answers for this name."""


def _reading_of(chain: Chain, endpoint: Endpoint, answers_locally: bool, beside: _Beside) -> Reading:
    scheme = urlsplit(endpoint.url).scheme
    if chain.http is not None:
        if chain.http.failure == Failure.HTTP_REQUEST_FAILED and chain.secure is not None and is_verified(chain.secure):
            # Under its own certificate nobody but the server can have broken the exchange so.
            return Seen.FAULT, None, None
        if chain.http.failure is not None:
            return _failed(Layer.HTTP, chain.http)
        return _answer(chain, endpoint, scheme, beside)
    if chain.stun is not None:
        return _failed(Layer.STUN, chain.stun) if chain.stun.failure is not None else _binding(chain)
    if chain.quic is not None:
        return _failed(Layer.QUIC, chain.quic) if chain.quic.failure is not None else _NOTHING
    if chain.tls is not None:
        return _failed(Layer.TLS, chain.tls) if chain.tls.failure is not None else _NOTHING
    if chain.connect is not None:
        if chain.connect.failure is not None:
            return _failed(Layer.TCP, chain.connect)
        if scheme != "tcp":
            return _NOTHING
        return _unsigned(chain, by_itself=answers_locally and not _spoke(chain.connect))
    answers = _answers(chain.resolved)
    if answers and all(map(is_bogon, answers)):
        # Probes do not connect to this box or this link, which is where such answers point.
        return Seen.FAILED, Layer.DNS, None
    failures = [observation for observation in chain.resolved if observation.failure is not None]
    if failures and len(failures) == len(chain.resolved):
        return _failed(Layer.DNS, failures[0])
    return _NOTHING


def _spoke(connect: Observation) -> bool:
    # One, because the kernel counts the far side's FIN as a byte.
    return connect.tcp is not None and connect.tcp.bytes_received > 1


def _binding(chain: Chain) -> Reading:
    details = chain.stun.details if chain.stun else None
    # Nothing that answers locally speaks STUN: the answer holds the request's own number.
    return _unsigned(chain, by_itself=False) if isinstance(details, StunBinding) and details.mapped else _NOTHING


def _unsigned(chain: Chain, *, by_itself: bool) -> Reading:
    """Something answers that shows no certificate; `by_itself`: it may be this box's own tunnel."""
    if _is_bogon(chain):
        # Whoever listens at an address that no public server can have, it is not the platform.
        return Seen.FAILED, Layer.DNS, None
    return (Seen.UNPROVEN if _is_doubted(chain) or by_itself else Seen.REACHED), None, None


def _is_bogon(chain: Chain) -> bool:
    ours = _answers(chain.resolved)
    return bool(ours) and all(map(is_bogon, ours))


def _is_doubted(chain: Chain) -> bool:
    """Whether anybody may listen at the address: no server can have it, or only this vantage's resolver gives it."""
    return any(map(is_bogon, _answers(chain.resolved))) or _is_unshared(chain)


def _is_unshared(chain: Chain) -> bool:
    ours, theirs = _answers(chain.resolved), _answers(chain.public)
    return bool(ours) and ours.isdisjoint(theirs) and (bool(theirs) or _is_denied(chain))


def _is_raced(chain: Chain) -> bool:
    return any(isinstance(step.details, DnsAnswer) and bool(step.details.late) for step in chain.resolved)


def _is_denied(chain: Chain) -> bool:
    """Whether the public resolver says that there is no such name, or no such address, where this vantage's has one."""
    denials = {Failure.DNS_NXDOMAIN, Failure.DNS_NO_ANSWER}
    asked = [one for one in chain.public if isinstance(one.details, DnsAnswer) and one.details.query_type == "A"]
    return any("." in ours for ours in _answers(chain.resolved)) and any(one.failure in denials for one in asked)


def _failed(layer: Layer, observation: Observation) -> Reading:
    failure, details = observation.failure, observation.details
    address = details.ip if isinstance(details, TcpConnect) else ""
    if isinstance(details, QuicHandshake | StunBinding):
        address = host_of(details.address)
    broken_ipv6 = failure in UNREACHABLE and ":" in address
    # A line without IPv6 says so to every name alike (ooni/probe#2284).
    if failure in OURS or broken_ipv6:
        return Seen.VOID, None, None
    return Seen.FAILED, layer, failure


def _answer(chain: Chain, endpoint: Endpoint, scheme: str, beside: _Beside) -> Reading:
    assert chain.http is not None
    details = chain.http.details
    if not isinstance(details, HttpExchange) or details.code is None:
        return _NOTHING
    if scheme == "http":
        return _page(chain, details, endpoint, beside)
    if chain.secure is None or not is_verified(chain.secure):
        return _NOTHING
    if _is_true_answer(details, endpoint):
        return Seen.REACHED, None, None
    if details.challenge or details.code in REFUSALS:
        return Seen.REFUSED, None, None
    return Seen.FAULT, None, None


def _page(chain: Chain, details: HttpExchange, endpoint: Endpoint, beside: _Beside) -> Reading:
    """An answer that nobody signed."""
    if not _may_be_true(details, endpoint):
        if details.challenge and details.code in (endpoint.status or (details.code,)):
            # Whoever says so, it is a content network's manner, and no censor's.
            return Seen.UNPROVEN, None, None
        # A block page, the platform's refusal and a portal look alike.
        return Seen.FAILED, Layer.HTTP, None
    if not _has_name(endpoint):
        return Seen.REACHED, None, None
    doubted = beside.is_forged or _is_doubted(chain)
    belief = whose(_body(details), beside.pages, beside.alternate, doubted=doubted)
    if belief is Belief.PLATFORM:
        return Seen.REACHED, None, None
    if _is_bogon(chain):
        return Seen.FAILED, Layer.DNS, None
    return (Seen.FAILED, Layer.HTTP, None) if belief is Belief.OTHER else (Seen.UNPROVEN, None, None)


def _may_be_true(details: HttpExchange, endpoint: Endpoint) -> bool:
    assert details.code is not None
    moved = not endpoint.status and bool(details.location) and 300 <= details.code < 400
    return _is_true_answer(details, endpoint) and not moved


def _has_name(endpoint: Endpoint) -> bool:
    """Whether a resolver could lie about it, or a censor find its name in a request."""
    host = urlsplit(endpoint.url).hostname or ""
    return ":" not in host and not host.replace(".", "").isdigit()


def _body(details: HttpExchange) -> Page:
    return Page(details.code or 0, details.title, details.body_length or 0)


def _pages(chains: Iterable[Chain], endpoint: Endpoint) -> tuple[Page, ...]:
    found = [chain.http.details for chain in chains if chain.http is not None and chain.http.failure is None]
    return tuple(
        dict.fromkeys(
            _body(details)
            for details in found
            if isinstance(details, HttpExchange) and details.code is not None and _may_be_true(details, endpoint)
        )
    )


def pages_at(tries: Iterable[Mapping[str, list[Observation]]], endpoint: Endpoint) -> tuple[Page, ...]:
    """What one vantage got from an endpoint without a certificate, at addresses that are not doubted."""
    if not endpoint.url.startswith("http:"):
        return ()
    targets = [_chain(roles.get("target", ())) for roles in tries]
    return _pages((chain for chain in targets if not _is_doubted(chain)), endpoint)


def _is_true_answer(details: HttpExchange, endpoint: Endpoint) -> bool:
    assert details.code is not None
    if details.challenge:
        # Even where 403 is what the endpoint says to everybody: this one tests who asks.
        return False
    if endpoint.status:
        return details.code in endpoint.status
    return details.code not in REFUSALS and details.code < 500


@dataclass(frozen=True)
class Attempt:
    """One try of one endpoint from one vantage, with its comparisons."""

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
    browser: Chain = field(default_factory=Chain)
    """The same address and name, with a browser's ClientHello: TLS only."""
    browser_proof: Proof | None = None
    """Whether this place worked about the time of the browser's handshake; None where none failed."""
    doubt: Proof | None = None
    """Why a failure is VOID: nothing shows that this place worked about then. None for all other tries."""
    forged: tuple[str, ...] = ()
    """Ids of the observations that show somebody on the way who answers for this very name, where the address that he
    may have given is nowhere seen to be the platform's."""
    hijack: tuple[str, ...] = ()
    """Ids of the observations that show that this resolver gives the same address for names that do not exist."""
    pages: Pages = field(default_factory=dict)
    """What other exits than this vantage's got from the endpoint, where nobody signs its answers."""

    @property
    def addresses(self) -> frozenset[str]:
        """What this vantage's resolver said."""
        return _answers(self.target.resolved)

    @property
    def is_bogon(self) -> bool:
        """Whether this vantage's resolver gave only addresses that no server can have."""
        return _is_bogon(self.target)

    @property
    def is_unshared(self) -> bool:
        """Whether both resolvers answered and have no address in common."""
        return _is_unshared(self.target)

    @property
    def is_denied(self) -> bool:
        """Whether the public resolver says that there is no such name, or no address, where this vantage's has one."""
        return _is_denied(self.target)

    @property
    def is_unsigned(self) -> bool:
        """Whether an answer came of which nothing shows whose it is."""
        return self.seen is Seen.UNPROVEN and self.target.http is not None and self.target.http.failure is None

    @property
    def is_misled(self) -> bool:
        """Whether there is reason to think that the address is not the platform's."""
        return self.is_unshared or self.is_raced

    @property
    def is_raced(self) -> bool:
        """Whether a second, different answer came to the same question: somebody was faster than the resolver."""
        return _is_raced(self.target)

    @property
    def neutral_through(self) -> bool:
        """Whether another name got past the layer where the platform's name failed, at the same address."""
        steps = {Layer.TLS: self.neutral.tls, Layer.QUIC: self.neutral.quic, Layer.HTTP: self.neutral.http}
        step = steps.get(self.layer) if self.layer else None
        return step is not None and step.failure is None

    @property
    def browser_through(self) -> bool:
        """Whether a browser's handshake came to its end at the same address, with the same name; whoever is there."""
        return self.browser.tls is not None and self.browser.tls.failure is None

    @property
    def browser_cut(self) -> str | None:
        """How a browser's handshake was cut, while this place worked; None where it was not, or none was made."""
        tls = self.browser.tls
        if tls is None or self.browser_proof is None or not self.browser_proof.alive:
            return None
        return tls.failure if tls.failure in CUT else None

    @property
    def is_cut_in_tls(self) -> bool:
        """Whether the platform's name failed in our TLS handshake, and not for what the far side showed there."""
        return self.seen is Seen.FAILED and self.layer is Layer.TLS and self.failure in CUT

    @property
    def silence(self) -> Silence | None:
        """How much had passed when it fell silent; None where it ended otherwise, or nothing ever came.

        A neutral name that got through is no contradiction where it needed less than what passed under the platform's.
        """
        if self.seen is not Seen.FAILED or self.failure not in TIMEOUT or self.answers_locally:
            return None
        if self.layer not in (Layer.TLS, Layer.HTTP):
            return None
        mine = silence_of(self.target.steps, in_handshake=self.layer is Layer.TLS)
        if mine is None or not self.neutral_through:
            return mine
        theirs = silence_of(self.neutral.steps, in_handshake=False, ended=True)
        return mine if theirs is not None and theirs.is_less_than(mine) else None

    @property
    def is_mute(self) -> bool:
        """Whether a connection stood, and then not a byte came under any name."""
        if self.seen is not Seen.FAILED or self.layer not in (Layer.TLS, Layer.HTTP) or self.failure not in TIMEOUT:
            return False
        heard = any(step.tcp is not None and step.tcp.bytes_received > 1 for step in self.target.steps)
        return self.target.connect is not None and not heard and not self.neutral_through

    @property
    def leaves(self) -> frozenset[str]:
        """Certificates, by their SHA-256, that were shown at the address, whatever the name and whether they fit."""
        handshakes = (chain.secure for chain in (self.target, self.neutral))
        details = [one.details for one in handshakes if one is not None]
        return frozenset(
            one.peer_certificate
            for one in details
            if isinstance(one, TlsHandshake | QuicHandshake) and one.peer_certificate is not None
        )

    @property
    def is_bare_connect(self) -> bool:
        """Whether an open connection, over which nothing came, is all that it shows."""
        bare = self.target.connect is not None and not self.target.secure and not self.target.http
        return self.seen is Seen.REACHED and bare and not (self.target.connect and _spoke(self.target.connect))

    @property
    def has_heard(self) -> bool:
        """Whether a byte came from the endpoint that the platform alone, or whoever is in its place, can have sent."""
        return self.seen in (Seen.REACHED, Seen.REFUSED, Seen.FAULT) and bool(self.target.secure or self.target.http)

    @property
    def alternate_through(self) -> bool:
        """Whether the platform answered at the public resolver's address."""
        seen, _, _ = _reading_of(self.alternate, self.endpoint, self.answers_locally, _Beside(self.pages))
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
        return bool(self.forged) or (self.works_here and (self.alternate_through or self.failure in RESET))

    @property
    def way(self) -> tuple[Layer | None, str | None]:
        """Where and how it failed, all kinds of silence taken for one."""
        return self.layer, Failure.TIMEOUT if self.failure in TIMEOUT else self.failure

    @property
    def witnesses(self) -> tuple[str, ...]:
        """What the reading stands on: the target's last steps and, where they decide, the comparison's."""
        chain = self.target
        steps = [*chain.steps[-1:]]
        if self.layer is Layer.DNS or self.is_bogon or self.is_misled or self.forged or not steps:
            steps = [*chain.resolved, *chain.public, *steps]
        if self.seen is Seen.REFUSED and chain.secure:
            steps = [chain.secure, *steps]
        if self.seen is Seen.FAILED:
            for comparison, through in ((self.neutral, self.neutral_through), (self.alternate, self.alternate_through)):
                if through:
                    steps += comparison.steps[-1:]
        return (*(step.id for step in steps), *self.forged, *self.hijack)


def attempt_of(
    roles: dict[str, list[Observation]],
    endpoint: Endpoint,
    answers_locally: bool,
    controls: Controls,
    names: Names | None = None,
    pages: Pages | None = None,
) -> Attempt:
    """One try, read; `roles`: its observations, in the order of ending; `pages`: see :attr:`Attempt.pages`."""
    pages = pages or {}
    target = _chain(roles.get("target", ()))
    browser = _chain(roles.get("browser", ()))
    alternate = _chain(roles.get("alternate", ()))
    name = urlsplit(endpoint.url).hostname or ""
    answers = _answers(target.resolved)
    forged = names.forged(name, answers) if names else ()
    beside = _Beside(pages, _pages((alternate,), endpoint), bool(forged))
    seen, layer, failure = _reading_of(target, endpoint, answers_locally, beside)
    hijack = names.hijack(answers) if names else ()
    if hijack and (seen in (Seen.FAILED, Seen.UNPROVEN) or not target.secure):
        # Only a certificate could show that the platform is where every name leads.
        seen, layer, failure = Seen.FAILED, Layer.DNS, str(Failure.DNS_NXDOMAIN)
    is_misled = bool(forged) or (_is_doubted(target) and _is_raced(target))
    if seen is Seen.UNPROVEN and is_misled:
        # Whoever opens this connection, somebody on the way has chosen him.
        seen, layer, failure = Seen.FAILED, Layer.DNS, None
    elif seen is Seen.REACHED and forged and not target.secure and not target.http:
        seen = Seen.UNPROVEN
    elif seen is Seen.VOID and _is_bogon(target) and any(step.failure in NO_WAY for step in target.steps):
        # The box declines the address, and the resolver gave it.
        seen, layer, failure = Seen.FAILED, Layer.DNS, None
    doubt = None
    if seen is Seen.FAILED:
        # The step that failed, not the whole try: what went well before it says how the line was then.
        failing = target.steps if layer is not Layer.DNS else target.resolved
        last = max(failing, key=lambda step: step.t)
        proof = controls.around(last.t0, last.t)
        if not proof.alive:
            seen, doubt = Seen.VOID, proof
    cut = browser.tls if browser.tls is not None and browser.tls.failure is not None else None
    return Attempt(
        target=target,
        neutral=_chain(roles.get("neutral", ())),
        alternate=alternate,
        endpoint=endpoint,
        answers_locally=answers_locally,
        seen=seen,
        layer=layer,
        failure=failure,
        browser=browser,
        browser_proof=controls.around(cut.t0, cut.t) if cut else None,
        doubt=doubt,
        forged=forged if seen is Seen.FAILED else (),
        hijack=hijack,
        pages=pages,
    )


def proven_addresses(observations: Iterable[Observation]) -> dict[str, frozenset[str]]:
    """By name: the addresses where a valid certificate for it was shown, at any vantage."""
    found: dict[str, set[str]] = {}
    for one in observations:
        if isinstance(one.details, TlsHandshake | QuicHandshake) and is_verified(one):
            found.setdefault(one.details.server_name, set()).add(host_of(one.details.address))
    return {name: frozenset(addresses) for name, addresses in found.items()}
