"""One measured fact, in the shape of OONI's archival formats, and the record of a whole run.

Every field is a fact: what was asked, of whom, from where, when, and what came. No field is an opinion; those are the
judge's. A record holds all that the judge reads, so that any kept run can be judged again.

OONI's names are kept where OONI has the thing (ooni/spec, data-formats: df-002 DNS, df-005 TCP, df-006 TLS, df-001
HTTP). Times are float seconds since the run began. Unknown is None, never 0 or false.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from vpntest.plan.model import Kind, Platform, Problem

Role = Literal["target", "neutral", "alternate", "browser", "control"]
"""What a transaction is for.

`target`     as the platform's own client does it: this vantage's resolver, the platform's name
`neutral`    the same address, a name that no censor lists: says whether the name is the trigger
`alternate`  the platform's name at the public resolver's address, where this vantage's resolver gives another
`browser`    the same address and name, with the ClientHello of a browser: some censors look at its shape
`control`    a URL that nobody blocks
"""


class TcpInfo(Struct, frozen=True, omit_defaults=True):
    """Some of the kernel's `struct tcp_info` at the end of a connection's life."""

    bytes_received: int
    """`tcpi_bytes_received`: what the kernel got, though the application may have seen none of it (half a TLS record).
    The far side's FIN counts as one."""
    bytes_acked: int
    """`tcpi_bytes_acked`: what the far side confirmed of ours. Our SYN counts as one, our FIN as another."""
    retransmits: int
    """`tcpi_total_retrans`."""
    unacked: int
    """`tcpi_unacked`: segments that the far side never confirmed."""
    rtt_ms: float
    """`tcpi_rtt`, in milliseconds."""
    since_last_data_ms: int | None = None
    """`tcpi_last_data_recv`, in milliseconds; counts from the connect where no data came. None where none was made."""
    segments_received: int | None = None
    """`tcpi_segs_in`, those without data included."""
    segments_sent: int | None = None
    """`tcpi_segs_out`, retransmissions included."""
    path_mtu: int | None = None
    """`tcpi_pmtu`: bytes that the kernel takes for the largest packet of this way, at the connection's end."""


class DnsAnswer(Struct, frozen=True, tag_field="type", tag="dns"):
    """OONI df-002 `queries`."""

    hostname: str
    query_type: Literal["A", "AAAA"]
    resolver_address: str
    """`address:port`."""
    resolver: Literal["vantage", "public", "nobody"]
    """Whose resolver: this vantage's own, or the public one; or an address where none is, so that whoever answers
    stands on the way."""
    rcode: str | None
    """`NOERROR`, `NXDOMAIN` …; None where no answer came."""
    answers: tuple[str, ...] = ()
    """Addresses, in the order of the first answer."""
    late: tuple[tuple[str, ...], ...] = ()
    """Answers to the same query that came after the first and differ from it: a forger's race with the truth."""
    engine: Literal["udp", "tcp"] = "udp"
    """What brought the answer. `tcp` where it was too long for UDP, or a proxy brings none over UDP."""


class TcpConnect(Struct, frozen=True, tag_field="type", tag="tcp"):
    """OONI df-005 `tcp_connect`."""

    ip: str
    port: int


class TlsHandshake(Struct, frozen=True, tag_field="type", tag="tls"):
    """OONI df-006 `tls_handshakes`."""

    address: str
    """`ip:port`."""
    server_name: str
    no_tls_verify: bool
    """True for the neutral name, whose certificate cannot fit."""
    tls_version: str | None = None
    cipher_suite: str | None = None
    negotiated_protocol: str | None = None
    peer_certificate: str | None = None
    """SHA-256 of the leaf, in hex."""
    issuer: str | None = None
    """The leaf's issuer, also where verification failed: it names an interceptor."""
    ja4: str | None = None
    """JA4 of the ClientHello that was sent (FoxIO, ja4): what a censor that looks at its shape saw."""


class QuicHandshake(Struct, frozen=True, tag_field="type", tag="quic"):
    """OONI df-006 with network `udp`: a QUIC version 1 handshake."""

    address: str
    """`ip:port`."""
    server_name: str
    no_tls_verify: bool
    """True for the neutral name, whose certificate cannot fit."""
    negotiated_protocol: str | None = None
    peer_certificate: str | None = None
    """SHA-256 of the leaf, in hex."""
    issuer: str | None = None
    datagrams_received: int = 0
    """What came back at all: none tells silence from a broken handshake."""


class StunBinding(Struct, frozen=True, tag_field="type", tag="stun"):
    """A STUN binding request (RFC 8489) and who the server says that we are."""

    address: str
    """`ip:port` of the server."""
    mapped: str | None = None
    """`ip:port` that the server saw; None where no answer came, or one that does not say."""


class HttpExchange(Struct, frozen=True, tag_field="type", tag="http"):
    """OONI df-001 `requests`, with the body left out but for its length and its title."""

    method: str
    url: str
    alpn: str
    """`h3`, `h2` or `http/1.1`."""
    code: int | None = None
    """None where no response line came."""
    body_length: int | None = None
    server: str | None = None
    location: str | None = None
    title: str | None = None
    """The HTML title, at most 120 characters: block pages and challenges name themselves there."""
    challenge: bool = False
    """The answer is a test for humans (a `cf-mitigated: challenge` header and the like)."""


class Transfer(Struct, frozen=True, tag_field="type", tag="transfer"):
    """Bytes moved over time on one fresh connection."""

    url: str
    server_name: str
    direction: Literal["down", "up"]
    bytes: int
    """Body bytes moved."""
    expected: int | None
    """Body bytes that make the transfer complete; None where only the clock ends it."""
    samples: tuple[tuple[float, int], ...] = ()
    """`(seconds since this transfer's first byte, cumulative bytes)`, at most 64 of them."""
    packets_received: int | None = None
    """On the tunnel's device, during this transfer; None outside."""
    packets_sent: int | None = None
    address: str | None = None
    """`ip:port` that was connected to."""
    segment: int | None = None
    """Bytes that our and the far side's TCP segments were held to for this transfer; None: the path's own."""


class Trickle(Struct, frozen=True, tag_field="type", tag="trickle"):
    """A request of few bytes in many packets: meets a budget of packets, and no budget of bytes.

    64 bytes in chunks of 2, one every 50 ms (hyperion-cs/dpi-checkers, l4-25), each in a segment of its own.
    """

    url: str
    server_name: str
    chunks: int
    """Handed to the kernel."""
    bytes_acked: int
    """What the far side confirmed of them, in bytes of TCP: TLS's own are counted too."""
    answered: bool
    """Whether the answer came that the request asks for."""
    address: str | None = None
    packets_received: int | None = None
    """On the tunnel's device; None outside."""
    packets_sent: int | None = None


class Crowd(Struct, frozen=True, tag_field="type", tag="crowd"):
    """Fresh connections, one shortly after another: meets a budget of connections (net4people/bbs#546)."""

    url: str
    wanted: int
    answered: tuple[bool, ...]
    """For each connection that was begun, in order: whether an answer to a small request came over it."""
    standing: bool | None = None
    """Where some were answered and some not: whether the first one that was still is, after the others fell silent. A
    budget of connections leaves those alone that stand. None: not asked, or its server had ended it."""
    packets_received: int | None = None
    """On the tunnel's device; None outside."""
    packets_sent: int | None = None


class Echo(Struct, frozen=True, tag_field="type", tag="echo"):
    """Small questions, evenly spaced: what is lost, and how long the others take."""

    resolver_address: str
    """Who was asked, `address:port`; the questions are for the neutral name."""
    sent: int
    received: int
    rtt_ms: tuple[float, ...]
    """Of each that was answered, in the order of asking."""


class SmallExchanges(Struct, frozen=True, tag_field="type", tag="small"):
    """Many small requests, one after another on one connection: meets a packet budget long before a byte budget."""

    url: str
    done: int
    """Exchanges completed."""
    wanted: int
    bytes: int
    """Bytes both ways on the connection, by TCP_INFO where known."""
    packets_received: int | None = None
    packets_sent: int | None = None


class RungStep(Struct, frozen=True, tag_field="type", tag="rung"):
    """A rung of the tunnel's ladder, climbed while raising it; `failure` is where the climb ended."""

    rung: str
    detail: str = ""


class Address(Struct, frozen=True, tag_field="type", tag="address"):
    """An address that somebody outside saw: of our exit (`exit`), or of the resolver that asked for us (`resolver`)."""

    of: Literal["exit", "resolver"]
    family: Literal[4, 6]
    address: str | None


class Alive(Struct, frozen=True, tag_field="type", tag="alive"):
    """Whether a tunnel's carrier still ran, and still carried, at the end of the run."""

    carrier_runs: bool


Details = (
    DnsAnswer
    | TcpConnect
    | TlsHandshake
    | QuicHandshake
    | StunBinding
    | HttpExchange
    | Transfer
    | Trickle
    | Crowd
    | Echo
    | SmallExchanges
    | RungStep
    | Address
    | Alive
)


class Observation(Struct, frozen=True, kw_only=True):
    """One measured fact."""

    id: str
    """Unique in its run: `o1`, `o2` … in the order of ending. Verdicts name their witnesses by it."""
    vantage: str
    """`outside` or the tunnel's name."""
    probe: Literal["rung", "control", "names", "reach", "freeze", "speed", "carry", "exit", "resolver", "alive"]
    """Which probe made it.

    `rung` raising a tunnel · `control` the control URLs, before, during and after · `names` whether somebody on the way
    answers DNS · `reach` a platform's endpoint · `freeze` whether an address that falls silent counts packets or bytes
    · `speed` goodput of a platform · `carry` the tunnel's load tests · `exit`, `resolver` who the world sees · `alive`
    at the end
    """
    operation: Literal[
        "resolve",
        "connect",
        "tls_handshake",
        "quic_handshake",
        "stun_binding",
        "http_round_trip",
        "transfer",
        "tunnel",
    ]
    target: str
    """What was asked for: a name, an `ip:port`, a URL."""
    t0: float
    t: float
    failure: str | None
    """None is success; else a word of :mod:`vpntest.failures`."""
    role: Role = "target"
    platform: str | None = None
    service: str | None = None
    endpoint: str | None = None
    """The platform endpoint's URL as the platform file has it: groups what belongs together."""
    attempt: int = 0
    """From 1; 0 where there are no attempts."""
    phase: Literal["before", "during", "after", "confirm"] = "during"
    """For controls: before the platforms, side by side with them (`attempt` is their round), or after. For speed:
    `confirm` is the second round, which only platforms that were slow in the first one get."""
    transaction: int = 0
    """Ties a chain resolve → connect → tls_handshake → http_round_trip together; a chain ends at its first failure."""
    details: Details
    tcp: TcpInfo | None = None
    """For connections: the kernel's view at the end."""


def silence_of(transfer: Observation) -> float:
    """Seconds at a :class:`Transfer`'s end in which nothing came; infinite where nothing ever did, as far as is known.

    As its application saw it; or as its kernel did, where that is less: an application sees of a TLS record the whole
    or nothing.
    """
    assert isinstance(transfer.details, Transfer)
    samples = transfer.details.samples
    seen = samples[-1][0] - min(when for when, moved in samples if moved == samples[-1][1]) if samples else math.inf
    since = transfer.tcp.since_last_data_ms if transfer.tcp else None
    return seen if since is None else min(seen, since / 1000)


class TunnelFacts(Struct, frozen=True):
    """What a record keeps of a tunnel's spec. No secret, no key."""

    name: str
    kind: Kind
    source: str
    servers: tuple[str, ...] = ()
    """`host:port/transport` of each server."""
    problem: Problem | None = None
    warnings: tuple[str, ...] = ()
    tls_unverified: bool = False
    carrier: str | None = None
    """Program and version that carried it: `wireguard-go 0.0.20220316`, `kernel`."""
    answers_locally: bool = False
    """A proxy's TUN: a TCP connect through it proves nothing."""
    carries_udp: bool = True
    """False where the tunnel takes TCP only: nothing was tried over UDP."""


class VantageFacts(Struct, frozen=True):
    """Where the box stands; every field may be unknown."""

    id: str | None = None
    country: str | None = None
    asn: int | None = None


class Phase(Struct, frozen=True):
    """A stretch of the run, for `--timings`."""

    name: str
    t0: float
    t: float


class RunFacts(Struct, frozen=True):
    """What a record says of the run as a whole."""

    id: str
    """UUIDv7."""
    started: str
    """UTC, ISO 8601."""
    version: str
    """Of vpntest."""
    attempts: int
    seconds: float
    vantage: VantageFacts
    complete: bool = True
    """False where the run was interrupted: the record holds what was measured until then."""
    phases: tuple[Phase, ...] = ()
    neutral_name: str = ""
    redacted: tuple[str, ...] = ()
    """What was taken out for publication, in words; empty where the record is whole."""
    partial: bool = False
    """Whether only some of the plan's tunnels or platforms were asked for: what is not here is not gone."""


class Record(Struct, frozen=True):
    """All that was measured in one run, and all that the judge reads."""

    run: RunFacts
    tunnels: tuple[TunnelFacts, ...]
    platforms: tuple[Platform, ...]
    """As planned, without their roots."""
    observations: tuple[Observation, ...]
