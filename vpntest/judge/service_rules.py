"""Rules for one endpoint and one service at one vantage.

Three tables, from the small to the large: FAILURES name the mechanism of one failed try, ENDPOINT turns k of n tries
into a state, SERVICE turns its endpoints' states into one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from vpntest.failures import Failure
from vpntest.judge.attempts import Attempt, Layer, Seen
from vpntest.judge.freezing import freeze_of
from vpntest.judge.kinds import CERTIFICATE, RESET, TIMEOUT, UNREACHABLE
from vpntest.judge.rule import Rule, always, first
from vpntest.judge.verdict import State
from vpntest.probe.observation import Observation

# ── how one try failed ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Failing:
    """One failed try, whether the same endpoint answers at another vantage, and what all its tries show together."""

    attempt: Attempt
    elsewhere: bool
    freeze: str | None = None
    """The mechanism where the endpoint's silences together are a freeze (:mod:`vpntest.judge.freezing`)."""

    def at(self, *layers: Layer) -> bool:
        """Whether it failed there."""
        return self.attempt.layer in layers

    def by(self, *words: str | None) -> bool:
        """Whether it failed so."""
        return self.attempt.failure in words


_OD = "OONI Data ontology §12.3 (paths of mechanisms); deepest node that the evidence supports"
_AB = "ooni/spec ts-024 sni_blocking: same address, other name"
_LTE = "ooni/probe-cli webconnectivitylte: a lookup whose address serves valid TLS is right, whatever it says"

_L425 = "hyperion-cs/dpi-checkers, l4-25: 64 bytes in chunks of two, against a budget of about 25 packets"
_BBS490 = "net4people/bbs#490: silence after 14 to 34 KB, no reset, whatever the name"


def _frozen(mechanism: str) -> Callable[[Failing], bool]:
    return lambda f: f.freeze == mechanism and f.attempt.silence is not None


FAILURES: tuple[Rule[Failing, str], ...] = (
    Rule(
        "failure.dns.nxdomain.hijack",
        lambda f: bool(f.attempt.hijack),
        "dns.nxdomain",
        "the resolver gave the address that it gives for names that do not exist",
        "a question for a random label, whose only true answer is NXDOMAIN (RFC 8020)",
    ),
    Rule(
        "failure.dns.bogon",
        lambda f: f.attempt.is_bogon and (f.attempt.alternate_through or f.elsewhere or bool(f.attempt.forged)),
        "dns.bogon",
        "the resolver gave an address that no public server can have, though the platform can be reached",
        "IANA special-purpose registries; ooni/probe-cli netxlite/bogon.go; a bogon alone proves nothing (polito.it)",
    ),
    Rule(
        "failure.dns.injection.nobody",
        lambda f: bool(f.attempt.forged),
        "dns.injection",
        "an answer for this name came from an address where no resolver is, and none for another name",
        "GFWatch (USENIX Security 2021): questions to addresses without a resolver are answered by the injector alone",
    ),
    Rule(
        "failure.dns.injection",
        lambda f: f.attempt.is_misled and f.attempt.alternate_through,
        "dns.injection",
        "the first answer gave an address where the platform is not, and the address of another answer works",
        _LTE,
    ),
    Rule(
        "failure.dns.injection.certificate",
        lambda f: f.attempt.is_misled and f.by(*CERTIFICATE) and f.elsewhere,
        "dns.injection",
        "the resolver gave an address of its own, which has no valid certificate for the platform",
        "CERTainty (PETS 2023): the certificate tells a forged address from a CDN's",
    ),
    Rule(
        "failure.dns.injection.ghost",
        lambda f: f.attempt.is_denied and f.by(*CERTIFICATE),
        "dns.injection",
        "the resolver gave an address for a name that does not exist elsewhere, and somebody else is there",
        "ooni/probe#2308: names that are gone stay on the lists of resolvers (ghostDNSBlocking)",
    ),
    Rule(
        "failure.dns.injection.race",
        lambda f: f.attempt.is_raced and f.elsewhere,
        "dns.injection",
        "two different answers came to one question, the first of them useless",
        "Anonymous, FOCI 2020 (triplet censors): the true answer arrives after the forged ones",
    ),
    Rule(
        "failure.dns.nxdomain",
        lambda f: f.at(Layer.DNS) and f.by(Failure.DNS_NXDOMAIN),
        "dns.nxdomain",
        "the resolver says that the name does not exist",
        _OD,
    ),
    Rule(
        "failure.dns.timeout",
        lambda f: f.at(Layer.DNS) and f.by(*TIMEOUT),
        "dns.timeout",
        "the resolver does not answer for this name",
        _OD,
    ),
    Rule(
        "failure.dns.refused",
        lambda f: f.at(Layer.DNS) and f.by(Failure.DNS_REFUSED),
        "dns.refused",
        "the resolver refuses to answer for this name",
        _OD,
    ),
    Rule(
        "failure.dns.no-answer",
        lambda f: f.at(Layer.DNS) and f.by(Failure.DNS_NO_ANSWER),
        "dns.no-answer",
        "the resolver knows the name and gives no address",
        "ooni/spec df-007, dns_no_answer",
    ),
    Rule(
        "failure.dns",
        lambda f: f.at(Layer.DNS),
        "dns",
        "the name could not be resolved",
        _OD,
    ),
    Rule(
        "failure.unreachable",
        lambda f: f.by(*UNREACHABLE),
        "ip.unreachable",
        "the network says that there is no way to the address",
        _OD,
    ),
    Rule(
        "failure.tls.mitm",
        lambda f: f.by(*CERTIFICATE) and f.elsewhere,
        "tls.mitm",
        "somebody else's certificate came in the platform's place",
        "OONI Data ontology §12.3; the same endpoint shows a valid certificate at another vantage",
    ),
    Rule(
        "failure.tls.certificate",
        lambda f: f.by(*CERTIFICATE),
        "tls.certificate",
        "the certificate is not valid for the platform's name",
        "ooni/probe-cli QA badSSL*: without a control that validates, the fault may be the platform's",
    ),
    Rule(
        "failure.unanswered",
        lambda f: (
            f.attempt.answers_locally
            and not f.attempt.neutral_through
            and (f.at(Layer.TLS, Layer.QUIC, Layer.STUN) or (f.at(Layer.TCP) and f.by(Failure.EOF, *RESET)))
        ),
        "unanswered",
        "nothing came back through the tunnel's far end; a proxy hides at which layer",
        "a proxy's TUN completes every TCP connect itself (sing-box, gvisor stack)",
    ),
    Rule(
        "failure.freeze.packets",
        _frozen("freeze.packets"),
        "freeze.packets",
        "the connection falls silent after some packets, however few bytes they carry, and under any name",
        _L425,
    ),
    Rule(
        "failure.freeze.bytes",
        _frozen("freeze.bytes"),
        "freeze.bytes",
        "the connection falls silent after some kilobytes under any name, and many packets of few bytes pass",
        _BBS490,
    ),
    Rule(
        "failure.freeze",
        _frozen("freeze"),
        "freeze",
        "the connection works under any name and then falls silent, each time after about as much",
        _BBS490,
    ),
    Rule(
        "failure.tcp.timeout",
        lambda f: f.at(Layer.TCP) and f.by(*TIMEOUT),
        "tcp.timeout",
        "nothing answers at the address",
        _OD,
    ),
    Rule(
        "failure.tcp.reset",
        lambda f: f.at(Layer.TCP) and f.by(*RESET),
        "tcp.reset",
        "the connection was reset while it was opened",
        _OD,
    ),
    Rule(
        "failure.tcp.refused.proxy",
        lambda f: f.attempt.answers_locally and f.at(Layer.TCP) and f.by(Failure.CONNECTION_REFUSED),
        "tcp.refused",
        "the tunnel's far end opened no connection to the address: it is refused there, or the proxy does not allow it",
        "a proxy's TUN refuses whatever the carrier could not open (sing-box, gvisor stack)",
    ),
    Rule(
        "failure.tcp.refused",
        lambda f: f.at(Layer.TCP) and f.by(Failure.CONNECTION_REFUSED),
        "tcp.refused",
        "the address refuses the connection",
        _OD,
    ),
    Rule(
        "failure.tcp",
        lambda f: f.at(Layer.TCP),
        "tcp",
        "the connection could not be opened",
        _OD,
    ),
    Rule(
        "failure.tls.reset.sni",
        lambda f: f.at(Layer.TLS) and f.by(*RESET) and f.attempt.neutral_through,
        "tls.reset.sni",
        "the connection is reset when the platform's name is shown, and not with another name",
        _AB,
    ),
    Rule(
        "failure.tls.reset",
        lambda f: f.at(Layer.TLS) and f.by(*RESET),
        "tls.reset",
        "the connection is reset during the TLS handshake",
        _OD,
    ),
    Rule(
        "failure.tls.timeout.sni",
        lambda f: f.at(Layer.TLS) and f.by(*TIMEOUT) and f.attempt.neutral_through,
        "tls.timeout.sni",
        "the TLS handshake falls silent when the platform's name is shown, and not with another name",
        _AB,
    ),
    Rule(
        "failure.tls.timeout",
        lambda f: f.at(Layer.TLS) and f.by(*TIMEOUT),
        "tls.timeout",
        "the TLS handshake falls silent",
        _OD,
    ),
    Rule(
        "failure.tls.closed.sni",
        lambda f: f.at(Layer.TLS) and f.by(Failure.EOF) and f.attempt.neutral_through,
        "tls.closed.sni",
        "the connection is closed when the platform's name is shown, and not with another name",
        _AB,
    ),
    Rule(
        "failure.tls.closed",
        lambda f: f.at(Layer.TLS) and f.by(Failure.EOF),
        "tls.closed",
        "the connection is closed during the TLS handshake",
        "ooni/spec df-007, eof_error",
    ),
    Rule(
        "failure.tls",
        lambda f: f.at(Layer.TLS),
        "tls.failed",
        "the TLS handshake failed",
        "ooni/spec df-007, ssl_failed_handshake",
    ),
    Rule(
        "failure.quic.timeout.sni",
        lambda f: f.at(Layer.QUIC) and f.by(*TIMEOUT) and f.attempt.neutral_through,
        "quic.timeout.sni",
        "QUIC falls silent when the platform's name is shown, and not with another name",
        "TSPU and GFW decrypt QUIC's first packets (FOCI 2026; USENIX Security 2025); " + _AB,
    ),
    Rule(
        "failure.quic.timeout",
        lambda f: f.at(Layer.QUIC) and f.by(*TIMEOUT),
        "quic.timeout",
        "nothing answers in QUIC",
        "net4people/bbs#108: QUIC dropped whatever the name",
    ),
    Rule(
        "failure.quic.refused",
        lambda f: f.at(Layer.QUIC) and f.by(Failure.CONNECTION_REFUSED),
        "quic.refused",
        "the address says that nothing listens there in QUIC",
        "RFC 1122 §4.1.3.3: port unreachable",
    ),
    Rule(
        "failure.quic.reset",
        lambda f: f.at(Layer.QUIC) and f.by(Failure.EOF, *RESET),
        "quic.reset",
        "the connection was ended during the QUIC handshake",
        "RFC 9000 §10.3",
    ),
    Rule(
        "failure.quic",
        lambda f: f.at(Layer.QUIC),
        "quic.failed",
        "the QUIC handshake failed",
        "ooni/spec df-007, quic_*",
    ),
    Rule(
        "failure.stun.timeout",
        lambda f: f.at(Layer.STUN) and f.by(*TIMEOUT),
        "stun.timeout",
        "nothing answers in STUN, which calls begin with",
        "RFC 8489 §6.2.1",
    ),
    Rule(
        "failure.stun.refused",
        lambda f: f.at(Layer.STUN) and f.by(Failure.CONNECTION_REFUSED),
        "stun.refused",
        "the address says that nothing listens there in STUN",
        "RFC 1122 §4.1.3.3: port unreachable",
    ),
    Rule(
        "failure.stun",
        lambda f: f.at(Layer.STUN),
        "stun.failed",
        "STUN, which calls begin with, failed",
        "RFC 8489",
    ),
    Rule(
        "failure.http.blockpage",
        lambda f: f.at(Layer.HTTP) and f.by(None) and f.elsewhere,
        "http.blockpage",
        "a page came that the platform does not send at other vantages",
        "ooni/probe-cli http-diff, for cleartext answers only: status, title, ratio of the bodies' lengths (pages.py)",
    ),
    Rule(
        "failure.http.unsigned",
        lambda f: f.at(Layer.HTTP) and f.by(None),
        "http.unsigned",
        "an answer came without a certificate, and it is not the one that the platform gives",
        "ooni/probe#2661: a cleartext refusal may be the platform's or a censor's",
    ),
    Rule(
        "failure.http.reset",
        lambda f: f.at(Layer.HTTP) and f.by(*RESET),
        "http.reset",
        "the connection is reset after the request",
        _OD,
    ),
    Rule(
        "failure.http.timeout",
        lambda f: f.at(Layer.HTTP) and f.by(*TIMEOUT),
        "http.timeout",
        "no answer comes to the request",
        _OD,
    ),
    Rule(
        "failure.http.closed",
        lambda f: f.at(Layer.HTTP) and f.by(Failure.EOF),
        "http.closed",
        "the connection is closed after the request",
        "ooni/spec df-007, eof_error",
    ),
    Rule(
        "failure.http",
        always,
        "http.failed",
        "the request failed",
        "ooni/spec df-007, http_request_failed",
    ),
)

_RANK = {rule.then: -index for index, rule in reversed(list(enumerate(FAILURES)))}
"""Breaks ties between mechanisms: the earlier rule is the more telling one."""

SERVER_FAULT = "http.error"
"""Mechanism of a platform whose own servers answer wrongly: a valid certificate, then 5xx or the like."""


def commonest(mechanisms: Counter[str]) -> str | None:
    """The mechanism of most; ties go to the earlier rule. None where there is none."""
    return max(mechanisms, key=lambda name: (mechanisms[name], _RANK.get(name, -len(FAILURES)), name), default=None)


# ── k of n tries ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class EndpointSeen:
    """All tries of one endpoint at one vantage, and what other vantages say of the endpoint."""

    attempts: tuple[Attempt, ...]
    planned: int
    """Tries that the run meant to make. What was not measured counts against every verdict."""
    elsewhere: tuple[str, ...] = ()
    """Ids of the observations that show it answering at another vantage; empty where it answers at none."""
    down: tuple[str, ...] = ()
    """Ids of its failures at outside and at independent exits, where it fails at every vantage and answers at none."""
    alike: tuple[str, ...] = ()
    """The same, at one exit at least, where another name gets through, and no try anywhere shows that somebody on the
    way does it."""
    browser_elsewhere: tuple[str, ...] = ()
    """Ids of the observations that show a browser's handshake getting through at another vantage."""
    trickles: tuple[Observation, ...] = ()
    """Requests of few bytes in many packets to the platform's address, from this vantage."""
    needs_udp: bool = False
    """It is reached over UDP, and this vantage is a tunnel that carries none."""

    def count(self, *seen: Seen) -> int:
        """How many tries came to one of these."""
        return sum(attempt.seen in seen for attempt in self.attempts)

    def most(self, *seen: Seen) -> bool:
        """Whether enough tries came to one of these."""
        # What failed in doubt is no failure, and yet no success: two answers of ten tries are not enough.
        return is_quorum(self.count(*seen), max(self.planned, self.made + len(self.doubted)))

    @property
    def made(self) -> int:
        """Tries that are evidence of something."""
        return len(self.attempts) - self.count(Seen.VOID)

    @property
    def doubted(self) -> tuple[Attempt, ...]:
        """Tries that failed while nothing showed that this place worked."""
        return tuple(attempt for attempt in self.attempts if attempt.doubt)

    @property
    def is_doubtful(self) -> bool:
        """Whether enough tries failed, but not enough of them while this place was seen to work."""
        all_failures = self.count(Seen.FAILED) + len(self.doubted)
        return is_quorum(all_failures, max(self.planned, len(self.attempts))) and not self.most(Seen.FAILED)

    @property
    def dead_controls(self) -> tuple[str, ...]:
        """Ids of the controls that failed about the time of those tries."""
        return tuple(one.id for attempt in self.doubted if attempt.doubt for one in attempt.doubt.dead)

    @property
    def answered(self) -> int:
        """How many tries the platform's server answered."""
        return self.count(Seen.REACHED, Seen.REFUSED)

    @property
    def flips(self) -> bool:
        """Whether some tries fail and others are answered, and neither can be put down to chance."""
        failed = self.count(Seen.FAILED)
        return not is_noise(min(failed, self.answered), failed + self.answered)

    @property
    def freeze(self) -> str | None:
        """The mechanism of a freeze, if the silences of enough tries show one."""
        silences = [attempt.silence for attempt in self.attempts if attempt.silence is not None]
        return freeze_of(silences, self.trickles) if is_quorum(len(silences), self.made) else None

    @property
    def browsers(self) -> tuple[Attempt, ...]:
        """Tries in which a browser's handshake came to its end, or was cut while this place worked."""
        return tuple(one for one in self.attempts if one.browser_through or one.browser_cut)

    @property
    def browser_passes(self) -> bool:
        """Whether the platform's name fails in our TLS handshake, and a browser's, there and then, gets through."""
        beside = [one for one in self.browsers if one.is_cut_in_tls]
        through = sum(one.browser_through for one in beside)
        return through > 0 and 3 * through >= 2 * len(beside)

    @property
    def browser_fails(self) -> bool:
        """Whether our own handshake passes, and a browser's does not."""
        beside = [one for one in self.browsers if one.seen in (Seen.REACHED, Seen.REFUSED)]
        cut = sum(bool(one.browser_cut) for one in beside)
        return cut > 0 and 3 * cut >= 2 * len(beside)

    @property
    def browser_is_cut(self) -> bool:
        """The same, more than once, and so that it is not the server who dislikes browsers."""
        cut = [one.browser_cut for one in self.browsers if one.browser_cut]
        return self.browser_fails and len(cut) >= 2 and bool(self.browser_elsewhere)

    @property
    def is_forged(self) -> bool:
        """Whether enough tries failed at an address that somebody on the way may have given for this very name."""
        return is_quorum(sum(bool(attempt.forged) for attempt in self.attempts), max(self.planned, self.made))

    @property
    def works_here(self) -> bool:
        """Whether enough failed tries show by themselves that the server can be reached from here but for one thing."""
        return is_quorum(sum(attempt.works_here for attempt in self.attempts), max(self.planned, self.made))


def is_quorum(k: int, n: int) -> bool:
    """Whether k of n tries are enough to say so: two thirds, and never one alone.

    The rest may have come to something else, or to nothing; where it is the opposite, see :func:`is_noise`.
    """
    return k >= 2 and 3 * k >= 2 * n


NOISE = 10
"""Tries of which one may go against all others. What is blocked fails always but for what a censor misses, 0 to 2.2 %
of requests (TSPU, IMC 2022): in ten tries, two misses have a chance of 2 %. What is open fails as seldom.
What hits a quarter of connections, as GFW does with fully encrypted traffic (26 %, USENIX Security 2023), gives way to
whoever tries again: it is neither blocked nor open, and a reader must be told so."""


def is_noise(against: int, n: int) -> bool:
    """Whether so many of n tries may go against the others without meaning anything."""
    return NOISE * against <= n


_FLOOR = "OONI Data ontology §6.3: below the floor of evidence a state is insufficient, never a weak blocked"

UNPROVEN = "endpoint.insufficient.unproven"
"""The rule for endpoints of which a connection is all there is to see, and it may be anybody's."""

FLAKY = "endpoint.insufficient.flaky"
"""The rule for endpoints that some tries reach and others do not."""

ENDPOINT: tuple[Rule[EndpointSeen, State], ...] = (
    Rule(
        FLAKY,
        lambda f: f.flips,
        State.INSUFFICIENT,
        "some tries are answered and others fail while the controls work: whoever tries again may get through, or not",
        "censors miss 0 to 2.2 % of requests (TSPU, IMC 2022) or hit 26 % (GFW, USENIX Security 2023)",
    ),
    # A cell is read by people who will use a browser. What cuts only browsers is a block to them, whatever we reach.
    Rule(
        "endpoint.blocked.hello",
        lambda f: f.most(Seen.REACHED) and f.browser_is_cut,
        State.BLOCKED,
        "our own handshake passes, and a browser's is cut here and not elsewhere: people's browsers are meant",
        "net4people/bbs#546, XTLS/Xray-core#6293: connections are judged by the shape of their ClientHello",
    ),
    Rule(
        "endpoint.insufficient.hello",
        lambda f: f.most(Seen.REACHED) and f.browser_fails,
        State.INSUFFICIENT,
        "our own handshake passes, and a browser's is cut; once only, or the server itself may do it",
        _FLOOR,
    ),
    Rule(
        "endpoint.ok",
        lambda f: f.most(Seen.REACHED),
        State.OK,
        "the platform gave a true answer",
        "a valid certificate, or what the platform's own client sees (ooni/spec ts-018, ts-020)",
    ),
    Rule(
        "endpoint.refused",
        lambda f: f.most(Seen.REFUSED),
        State.REFUSED,
        "the platform itself turns this exit away, under its own valid certificate",
        "RFC 9110 §15.5.4, RFC 6585 §4, RFC 7725; ooni/probe#2661",
    ),
    Rule(
        "endpoint.insufficient.control",
        lambda f: f.is_doubtful and bool(f.dead_controls),
        State.INSUFFICIENT,
        "the controls failed from here as well, about the same time",
        "Censored Planet, Hyperquack: a failing control voids what it surrounds",
    ),
    Rule(
        "endpoint.insufficient.no-control",
        lambda f: f.is_doubtful,
        State.INSUFFICIENT,
        "it fails from here, but no control tells whether anything worked from here about then",
        _FLOOR,
    ),
    Rule(
        "endpoint.insufficient.no-udp",
        lambda f: f.made == 0 and f.needs_udp,
        State.INSUFFICIENT,
        "it is reached over UDP, which this kind of tunnel does not carry: it was not tried",
        "HTTP CONNECT (RFC 9110 §9.3.6), SSH (RFC 4254 §7.2), SOCKS4 and Tor (tor-spec §6.2) open TCP streams only",
    ),
    Rule(
        "endpoint.insufficient.unmeasured",
        lambda f: f.made == 0,
        State.INSUFFICIENT,
        "it was not measured from here",
        _FLOOR,
    ),
    # Not blocked, for people with browsers get so far at least; nor ok, for no page came, and apps have other shapes.
    Rule(
        "endpoint.insufficient.shape",
        lambda f: f.most(Seen.FAILED) and f.browser_passes,
        State.INSUFFICIENT,
        "our own handshake is cut, and a browser's is not: who gets through hangs on the program",
        "net4people/bbs#546, XTLS/Xray-core#6293: connections are judged by the shape of their ClientHello",
    ),
    Rule(
        "endpoint.blocked.forged",
        lambda f: f.most(Seen.FAILED) and f.is_forged,
        State.BLOCKED,
        "it fails from here, and somebody on the way forges answers for its name",
        "GFWatch (USENIX Security 2021): questions to addresses without a resolver are answered by the injector alone",
    ),
    Rule(
        "endpoint.insufficient.alike",
        lambda f: f.most(Seen.FAILED) and bool(f.alike),
        State.INSUFFICIENT,
        "its servers do not answer under its name, here and at other exits alike, which may be their own fault",
        "ooni/spec ts-017: probe and control agree; only a reset, or an answer elsewhere, shows that it is meant",
    ),
    Rule(
        "endpoint.blocked.works-here",
        lambda f: f.most(Seen.FAILED) and f.works_here,
        State.BLOCKED,
        "the platform's server can be reached from here, but not in the platform's own way",
        "ooni/spec ts-024 (other name, same address); ooni/probe-cli dnsdiff (same name, public resolver's address)",
    ),
    Rule(
        "endpoint.blocked.works-elsewhere",
        lambda f: f.most(Seen.FAILED) and bool(f.elsewhere),
        State.BLOCKED,
        "it fails from here while the controls work, and it answers at another vantage",
        "ooni/spec ts-017: unexpected failure, the probe's fails and the control's does not",
    ),
    Rule(
        "endpoint.down",
        lambda f: f.most(Seen.FAILED, Seen.FAULT) and bool(f.down),
        State.DOWN,
        "it fails from the line and from at least two exits that are independent of each other",
        "ooni/spec ts-017: probe and control agree that the site is down",
    ),
    Rule(
        "endpoint.insufficient.server-error",
        lambda f: f.most(Seen.FAULT),
        State.INSUFFICIENT,
        "the platform answered under its own certificate, but not as it should; its own fault, or a refusal",
        "RFC 9110 §15.6",
    ),
    Rule(
        "endpoint.insufficient.unsigned",
        lambda f: f.most(Seen.UNPROVEN) and any(attempt.is_unsigned for attempt in f.attempts),
        State.INSUFFICIENT,
        "an answer came without a certificate, and what comes elsewhere does not show whether it is the platform's",
        "ooni/probe-cli http-diff: without a control an answer in cleartext is neither accessible nor blocked",
    ),
    Rule(
        UNPROVEN,
        lambda f: f.most(Seen.UNPROVEN),
        State.INSUFFICIENT,
        "a connection opens, but nothing proves that the platform is at its other end",
        "a proxy's TUN completes every TCP connect itself; an unconfirmed address may be anybody's",
    ),
    Rule(
        "endpoint.insufficient.no-witness",
        lambda f: f.most(Seen.FAILED, Seen.FAULT),
        State.INSUFFICIENT,
        "it fails from here, and nothing shows whether it works anywhere",
        "ooni/probe-cli: an unexplained failure is null, not blocking",
    ),
    Rule(
        "endpoint.insufficient.mixed",
        always,
        State.INSUFFICIENT,
        "the tries do not agree, or are too few",
        _FLOOR,
    ),
)


@dataclass(frozen=True)
class EndpointVerdict:
    """What was concluded of one endpoint at one vantage."""

    state: State
    mechanism: str | None
    rule: str
    witnesses: tuple[str, ...]
    attempts: tuple[int, int]
    """k of n tries agree with the state; where it is flaky, k of n were answered."""


_AGREES = {
    State.OK: (Seen.REACHED,),
    State.REFUSED: (Seen.REFUSED,),
    State.BLOCKED: (Seen.FAILED,),
    State.DOWN: (Seen.FAILED, Seen.FAULT),
}


def judge_endpoint(facts: EndpointSeen) -> EndpointVerdict:
    """One endpoint at one vantage."""
    rule = first(ENDPOINT, facts)
    state = rule.then
    agreeing = [attempt for attempt in facts.attempts if attempt.seen in _AGREES.get(state, tuple(Seen))]
    witnesses = tuple(one for attempt in agreeing for one in attempt.witnesses)
    mechanism = None
    if rule.id in BY_BROWSER:
        witnesses += tuple(one.browser.tls.id for one in facts.browsers if one.browser.tls)
    if rule.id == "endpoint.blocked.hello":
        return _cut_browser(facts, rule, witnesses)
    if rule.id == FLAKY:
        return EndpointVerdict(state, None, rule.id, tuple(dict.fromkeys(witnesses)), (facts.answered, facts.made))
    if state in (State.BLOCKED, State.DOWN):
        freeze = facts.freeze
        mechanism = commonest(
            Counter(
                first(FAILURES, Failing(attempt, bool(facts.elsewhere), freeze)).then
                if attempt.seen is Seen.FAILED
                else SERVER_FAULT
                for attempt in agreeing
            )
        )
        witnesses += facts.elsewhere if state is State.BLOCKED else facts.down
        if mechanism in ("freeze.packets", "freeze.bytes"):
            witnesses += tuple(one.id for one in facts.trickles)
    elif state is State.REFUSED:
        mechanism = commonest(Counter(map(_refusal, agreeing)))
    elif rule.id == "endpoint.insufficient.control":
        witnesses += facts.dead_controls
    elif rule.id == "endpoint.insufficient.alike":
        witnesses += facts.alike
    k = len(agreeing) if state in _AGREES else 0
    return EndpointVerdict(state, mechanism, rule.id, tuple(dict.fromkeys(witnesses)), (k, facts.made))


BY_BROWSER = ("endpoint.blocked.hello", "endpoint.insufficient.hello", "endpoint.insufficient.shape")
"""Rules that look at a browser's handshake."""


def _cut_browser(facts: EndpointSeen, rule: Rule[EndpointSeen, State], witnesses: tuple[str, ...]) -> EndpointVerdict:
    ways = (one.browser_cut for one in facts.browsers)
    words = Counter("reset" if way in RESET else "timeout" if way in TIMEOUT else "closed" for way in ways if way)
    k = words.total()
    mechanism = f"tls.{max(sorted(words), key=lambda word: words[word])}.hello"
    told = tuple(dict.fromkeys(witnesses + facts.browser_elsewhere))
    return EndpointVerdict(rule.then, mechanism, rule.id, told, (k, len(facts.browsers)))


def _refusal(attempt: Attempt) -> str:
    details = attempt.target.http.details if attempt.target.http else None
    if getattr(details, "challenge", False):
        return "http.challenge"
    return f"http.{getattr(details, 'code', None)}"


# ── a service ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ServiceSeen:
    """A service's endpoints, judged."""

    any_of: bool
    endpoints: tuple[EndpointVerdict, ...]

    def some(self, state: State) -> bool:
        """Whether an endpoint is in this state."""
        return any(endpoint.state is state for endpoint in self.endpoints)

    def all(self, state: State) -> bool:
        """Whether every endpoint is, and there is one."""
        return bool(self.endpoints) and all(endpoint.state is state for endpoint in self.endpoints)

    @property
    def some_unproven(self) -> bool:
        """Whether a connection to an endpoint opens without a proof of who is there."""
        return any(endpoint.rule == UNPROVEN for endpoint in self.endpoints)

    @property
    def only_unproven(self) -> bool:
        """Whether such endpoints are all that keeps the service from being ok."""
        return self.some_unproven and all(one.state is State.OK or one.rule == UNPROVEN for one in self.endpoints)


_ROLES = "ooni/spec ts-018 (WhatsApp: any endpoint), ts-020 (Telegram: any), ts-029 (Signal: all)"

SERVICE: tuple[Rule[ServiceSeen, State], ...] = (
    Rule(
        "service.ok",
        lambda f: f.some(State.OK) if f.any_of else f.all(State.OK),
        State.OK,
        "as many of its endpoints answer as the service needs",
        _ROLES,
    ),
    Rule(
        "service.insufficient.unproven",
        lambda f: f.some_unproven if f.any_of else f.only_unproven,
        State.INSUFFICIENT,
        "connections to it open, but nothing proves that the platform is at their other end",
        "a proxy's TUN completes every TCP connect itself; an unconfirmed address may be anybody's",
    ),
    Rule(
        "service.insufficient.may-work",
        lambda f: f.any_of and f.some(State.INSUFFICIENT),
        State.INSUFFICIENT,
        "one endpoint is enough for this service, and of one nothing can be said",
        _FLOOR,
    ),
    Rule(
        "service.blocked",
        lambda f: f.some(State.BLOCKED),
        State.BLOCKED,
        "an endpoint that the service needs is blocked",
        _ROLES,
    ),
    Rule(
        "service.refused",
        lambda f: f.some(State.REFUSED),
        State.REFUSED,
        "an endpoint that the service needs turns this exit away",
        _ROLES,
    ),
    Rule(
        "service.insufficient",
        lambda f: not f.endpoints or f.some(State.INSUFFICIENT),
        State.INSUFFICIENT,
        "of an endpoint that the service needs nothing can be said",
        _FLOOR,
    ),
    Rule(
        "service.down",
        always,
        State.DOWN,
        "an endpoint that the service needs is down for everybody",
        _ROLES,
    ),
)
