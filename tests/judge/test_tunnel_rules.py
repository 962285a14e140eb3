"""Rules for tunnels, each with a case and a near miss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from records import ISP_RESOLVER, KIB, LINE_EXIT, MIB, PUBLIC_RESOLVER, REFUSED, RESET, TIMEOUT, TRUE, World
from tables import check_table

from vpntest.failures import Failure
from vpntest.judge.reading import read
from vpntest.judge.rule import first
from vpntest.judge.tunnel_evidence import ONE_EACH, SILENT_TO_STRANGERS, TunnelEvidence, evidence_of
from vpntest.judge.tunnel_rules import TUNNEL, judge_tunnel
from vpntest.judge.verdict import TunnelVerdict
from vpntest.plan.model import Kind, Problem
from vpntest.probe.observation import (
    Alive,
    Crowd,
    SmallExchanges,
    TcpConnect,
    TcpInfo,
    TlsHandshake,
    Transfer,
)

STALLED = "stalled"
LOST = [(3 * KIB, STALLED), (3 * KIB, STALLED)]
"""A load test that stops early, twice."""
NOTHING_CAME: list[tuple[int, str | None]] = [(0, STALLED), (0, STALLED)]
FIRST_TEN, NONE, ALL = "yyyyyyyyyynnnnnn", "n" * 16, "y" * 16
CUT = [(17 * KIB, STALLED), (17 * KIB, STALLED)]
"""One that stops after more than any budget of packets lets pass."""


def world(change: Callable[[World], None] = lambda _: None, **tunnel: Any) -> World:
    """The line, and one tunnel `t`; `change` adds to it."""
    made = World()
    made.line()
    made.tunnel("t", **tunnel)
    change(made)
    return made


def seen(change: Callable[[World], None] = lambda _: None, **tunnel: Any) -> TunnelEvidence:
    made = world(change, **tunnel)
    return evidence_of(read(made.record()), made.tunnels[0])


def loaded(proxy: bool = False, kind: Kind | None = None, until: str = "auth", **carry: Any) -> TunnelEvidence:
    """A tunnel that was raised, and whose load tests went so."""
    facts = {"kind": kind} if kind else {}
    return seen(lambda made: made.carry("t", **carry), carry=False, proxy=proxy, until=until, **facts)


def crowded(*crowd: str, kind: Kind = Kind.VLESS, **carry: Any) -> TunnelEvidence:
    """A proxy and its crowds, and then two small loads that bring nothing, unless told otherwise."""
    rest: dict[str, Any] = {"small": NOTHING_CAME, "down": (), "up": ()}
    return loaded(proxy=kind in ONE_EACH, kind=kind, crowd=crowd, **(rest | carry))


def carrying(**carry: Any) -> TunnelEvidence:
    """A tunnel with all loads, which lives on."""

    def load(made: World) -> None:
        made.observations = [one for one in made.observations if (one.vantage, one.probe) != ("t", "carry")]
        made.carry("t", **carry)

    return seen(load)


SERVER = {"servers": ("198.18.0.1:51820/udp",)}


def silent_beside(other: dict[str, Any] | None = None, first: bool = False, **facts: Any) -> TunnelEvidence:
    """A tunnel whose handshake falls silent, beside one with the same server that is answered."""
    made = World()
    made.line()
    beside: dict[str, Any] = SERVER | {"carry": False} | (other or {})
    if first:
        made.tunnel("other", **beside)
    made.tunnel("t", until="handshake", failure=TIMEOUT, **(SERVER | facts))
    if not first:
        made.tunnel("other", **beside)
    return evidence_of(read(made.record()), next(one for one in made.tunnels if one.name == "t"))


def fallen(rung: str, failure: str) -> TunnelEvidence:
    return seen(until=rung, failure=failure)


def mute_resolver(made: World) -> None:
    for _ in range(2):
        made.add("t", "carry", "resolve", made.dns("control.example", [], rcode=None), TIMEOUT, role="control")
    made.observations = [one for one in made.observations if not answered_first_data(one)]


def answered_first_data(one: Any) -> bool:
    return one.vantage == "t" and one.probe == "carry" and one.operation == "resolve" and one.failure is None


def leaking(of: str) -> TunnelEvidence:
    made = World()
    made.line(ipv6="fd00::2")
    made.reach("outside", "bird", times=1)
    made.tunnel("t", exit=None)
    inside: dict[str, Any] = {"exit": "198.18.200.1", "resolver": "198.18.200.1", "ipv6": None}
    made.addresses("t", **(inside | {"exit": {"exit": LINE_EXIT}, "ipv6": {"ipv6": "fd00::2"}}.get(of, {})))
    if of == "resolver":
        made = World()
        made.line()
        made.reach("outside", "bird", times=1)
        made.tunnel("t", exit=None)
        made.addresses("t", **(inside | {"resolver": ISP_RESOLVER}))
    return evidence_of(read(made.record()), made.tunnels[0])


def shared_resolver() -> TunnelEvidence:
    """The line itself asks the public resolver, and so does the tunnel."""
    made = World()
    made.line(resolver=PUBLIC_RESOLVER)
    made.reach("outside", "bird", times=1)
    made.tunnel("t", exit=None)
    made.addresses("t", exit="198.18.200.1", resolver=PUBLIC_RESOLVER)
    return evidence_of(read(made.record()), made.tunnels[0])


def paced(own: float, line: float) -> TunnelEvidence:
    """Downloads of controls at these kbit/s, through the tunnel and outside."""

    def transfers(made: World) -> None:
        made.observations = [one for one in made.observations if one.probe != "carry" or one.operation != "transfer"]
        made.carry("t", down=[(64 * KIB, None)])
        made.observations = [one for one in made.observations if getattr(one.details, "direction", "") != "down"]
        made.transfer("t", "carry", 64 * KIB, 64 * KIB * 8 / own / 1000, role="control")
        made.speed("t", "bird", target=(), control=(own, own))
        made.speed("outside", "bird", target=(), control=(line, line, line))

    return seen(transfers)


def ended(carrier_runs: bool, failure: str | None, control_after: bool) -> TunnelEvidence:
    def end(made: World) -> None:
        made.add("t", "alive", "tunnel", Alive(carrier_runs), failure)
        if not control_after:
            made.observations = [one for one in made.observations if (one.vantage, one.phase) != ("t", "after")]

    return seen(end, alive=None)


def interrupted(failure: str = TIMEOUT, rung: str = "handshake", **later: str | None) -> TunnelEvidence:
    """A climb that ends from 20 to 28, on a line that worked at 0; `later`: how a control at 25 and one at 90 went."""
    made = World()
    made.at(0.0).control("outside", "before")
    made.at(20.0, 8.0).tunnel("t", until=rung, failure=failure)
    for phase, when in (("during", 25.0), ("after", 90.0)):
        if phase in later:
            made.at(when, 8.0).control("outside", phase, later[phase])
    return evidence_of(read(made.record()), made.tunnels[0])


def loaded_while(*controls: tuple[float, str | None], others: bool = False) -> TunnelEvidence:
    """A tunnel whose load falls silent from 20 to 28, twice; and the line's controls at these times."""
    made = World()
    made.at(0.0).control("outside", "before")
    made.tunnel("t", carry=False)
    made.at(19.0).carry("t", small=(), down=(), up=())
    for _ in range(2):
        details = SmallExchanges("https://control.example/", 0, 24, 0)
        made.at(20.0, 8.0).add("t", "carry", "transfer", details, STALLED, role="control")
    for when, failure in controls:
        made.at(when, 8.0).control("outside", "during", failure)
    if others:
        made.at(60.0).tunnel("other")
    return evidence_of(read(made.record()), made.tunnels[0])


def mute_at_the_end(line_lives: bool, other_lives: bool = False) -> TunnelEvidence:
    made = World()
    made.at(0.0).control("outside", "before")
    made.addresses("outside", exit=LINE_EXIT, resolver=ISP_RESOLVER)
    made.tunnel("t", alive=None)
    made.observations = [one for one in made.observations if (one.vantage, one.phase) != ("t", "after")]
    made.at(90.0, 8.0).control("outside", "after", None if line_lives else TIMEOUT)
    made.add("t", "alive", "tunnel", Alive(carrier_runs=True), STALLED)
    if other_lives:
        made.tunnel("other")
    return evidence_of(read(made.record()), made.tunnels[0])


def fast_line(made: World) -> None:
    made.speed("outside", "bird", target=(), control=(90_000,) * 6)


def crept(line: bool, kbits: float = 16.0) -> TunnelEvidence:
    """Downloads that still moved when their 30 s were over, twice."""

    def slow(made: World) -> None:
        made.carry("t", down=(), up=())
        for _ in range(2):
            size = int(kbits * 1000 / 8 * 30)
            info = TcpInfo(size, 1, 0, 0, 1.0, since_last_data_ms=200)
            made.transfer("t", "carry", size, 30.0, TIMEOUT, role="control", tcp=info)
        if line:
            fast_line(made)

    return seen(slow, carry=False)


def silent_at_first(since: int | None) -> TunnelEvidence:
    """Loads that our deadline ended before anything was known to have come; the kernel tells what came, and when."""

    def mute(made: World) -> None:
        made.carry("t", small=(), down=(), up=())
        for _ in range(2):
            info = TcpInfo(900, 1, 0, 0, 1.0, since_last_data_ms=since)
            details = SmallExchanges("https://control.example/", 0, 24, 0)
            made.add("t", "carry", "transfer", details, TIMEOUT, role="control", tcp=info)

    return seen(mute, carry=False)


def silent_server(bulk: bool = False, *, heard: str = "", again: bool = True, brought: int = 0) -> TunnelEvidence:
    """An upload, or a long transfer, whose server brings nothing, twice, in a tunnel that passed all before.

    `heard`: another URL of that server, which did answer; `again`: something comes through afterwards; `brought`: bytes
    that came of the second try's TLS handshake.
    """

    def load(made: World) -> None:
        made.carry("t", up=((64 * KIB, None),) if bulk else ())
        if heard:
            made.add("t", "carry", "connect", TcpConnect(TRUE, 443), role="control", endpoint=heard)
        size = MIB if bulk else 64 * KIB
        for number in (91, 92):
            tcp = TcpInfo(brought, 1, 0, 0, 1.0, since_last_data_ms=9000) if number == 92 else None
            more: dict[str, Any] = {"role": "control", "endpoint": SPEED, "transaction": number}
            tls = TlsHandshake(f"{TRUE}:443", "speed.example", no_tls_verify=False)
            made.add("t", "carry", "tls_handshake", tls, STALLED, tcp=tcp, **more)
            details = Transfer(SPEED, "speed.example", "down" if bulk else "up", 0, size)
            made.add("t", "carry", "transfer", details, STALLED, **more)
        if again:
            made.control("t", "after")

    return seen(load, carry=False)


SPEED = "https://speed.example/load"


CASES = {
    "tunnel.invalid": (
        seen(problem=Problem("invalid", "two peers have one key")),
        seen(problem=Problem("unsupported", "no uTLS")),
    ),
    "tunnel.refused": (
        seen(problem=Problem("refused", "its server is this machine itself")),
        seen(problem=Problem("unsupported", "no uTLS")),
    ),
    "tunnel.refused.address": (fallen("endpoint-dns", "refused"), fallen("endpoint-dns", "dns_refused_error")),
    "tunnel.endpoint-dns.bogon": (fallen("endpoint-dns", "dns_bogon_error"), fallen("endpoint-dns", "refused")),
    "tunnel.unsupported": (fallen("config", "unsupported"), fallen("config", "invalid")),
    "tunnel.carrier-exited": (fallen("handshake", "carrier_exited"), fallen("handshake", TIMEOUT)),
    "tunnel.auth.rejected.unproven": (
        seen(until="auth", failure="auth_rejected", kind=Kind.SSH),
        seen(until="auth", failure="auth_rejected", kind=Kind.HYSTERIA2),
    ),
    "tunnel.auth.turned-down": (fallen("auth", "http_request_failed"), fallen("handshake", "http_request_failed")),
    "tunnel.auth.rejected": (fallen("auth", "auth_rejected"), fallen("auth", TIMEOUT)),
    "tunnel.unmeasured.line": (
        interrupted(during=TIMEOUT, after=TIMEOUT),
        interrupted(during=None, after=TIMEOUT),
    ),
    "tunnel.endpoint-dns.nxdomain": (
        fallen("endpoint-dns", "dns_nxdomain_error"),
        fallen("endpoint-dns", "dns_no_answer"),
    ),
    "tunnel.endpoint-dns.timeout": (fallen("endpoint-dns", TIMEOUT), fallen("endpoint", TIMEOUT)),
    "tunnel.endpoint-dns.failed": (fallen("endpoint-dns", "dns_no_answer"), fallen("endpoint-dns", TIMEOUT)),
    "tunnel.endpoint.refused": (fallen("endpoint", REFUSED), fallen("endpoint", RESET)),
    "tunnel.endpoint.timeout": (fallen("endpoint", "timed_out"), fallen("handshake", "timed_out")),
    "tunnel.endpoint.reset": (fallen("endpoint", RESET), fallen("handshake", RESET)),
    "tunnel.endpoint.unreachable": (fallen("endpoint", "host_unreachable"), fallen("endpoint", TIMEOUT)),
    "tunnel.endpoint.failed": (fallen("endpoint", "eof_error"), fallen("endpoint", REFUSED)),
    "tunnel.handshake.stalled": (fallen("handshake", STALLED), fallen("handshake", TIMEOUT)),
    "tunnel.auth.silent": (silent_beside(), silent_beside({"servers": ("198.18.0.1:51821/udp",)})),
    "tunnel.auth.silent.parameters": (
        silent_beside({"kind": Kind.AMNEZIAWG}, kind=Kind.AMNEZIAWG),
        silent_beside({"kind": Kind.AMNEZIAWG}),
    ),
    "tunnel.handshake.certificate": (
        fallen("handshake", "ssl_unknown_authority"),
        fallen("handshake", "ssl_failed_handshake"),
    ),
    "tunnel.handshake.timeout": (fallen("handshake", TIMEOUT), fallen("handshake", RESET)),
    "tunnel.handshake.reset": (fallen("handshake", RESET), fallen("auth", RESET)),
    "tunnel.handshake.failed": (fallen("handshake", "eof_error"), fallen("auth", "eof_error")),
    "tunnel.auth.timeout": (fallen("auth", TIMEOUT), fallen("auth", "eof_error")),
    "tunnel.auth.failed": (fallen("auth", "eof_error"), fallen("auth", "auth_rejected")),
    "tunnel.unmeasured.raise": (seen(until="endpoint", carry=False), seen(until="endpoint", carry=False, proxy=True)),
    "tunnel.unmeasured.data": (seen(carry=False), loaded(first=False, small=LOST, down=(), up=())),
    "tunnel.unmeasured.line.data": (
        loaded_while((24.0, TIMEOUT), (40.0, None)),
        loaded_while((24.0, None)),
    ),
    "tunnel.auth.stranger": (
        loaded(
            proxy=True,
            kind=Kind.TROJAN,
            until="handshake",
            first=False,
            small=[(0, "ssl_failed_handshake")] * 2,
            down=(),
            up=(),
        ),
        loaded(
            proxy=True,
            kind=Kind.TROJAN,
            until="handshake",
            first=True,
            small=[(0, "ssl_failed_handshake")] * 2,
            down=(),
            up=(),
        ),
    ),
    "tunnel.data.none.closed": (
        loaded(proxy=True, first=False, small=[(0, "eof_error")] * 2, down=(), up=()),
        loaded(proxy=True, first=False, small=[(0, "eof_error"), (0, TIMEOUT)], down=(), up=()),
    ),
    "tunnel.data.none.reset": (
        loaded(proxy=True, first=False, small=[(0, RESET)] * 2, down=(), up=()),
        loaded(proxy=True, first=False, small=[(0, RESET)], down=(), up=()),
    ),
    "tunnel.data.none": (
        loaded(first=False, small=[(0, TIMEOUT), (0, TIMEOUT)], down=(), up=()),
        loaded(first=True, small=[(0, TIMEOUT), (0, TIMEOUT)], down=(), up=()),
    ),
    "tunnel.data.none.tcp": (
        crowded(NONE, NONE, kind=Kind.SHADOWSOCKS),
        crowded(NONE, NONE, kind=Kind.TROJAN),
    ),
    "tunnel.data.mtu": (
        loaded(down=CUT, up=(), short=[("down", 64 * KIB, None)]),
        loaded(down=CUT, up=(), short=[("down", 9 * KIB, STALLED)]),
    ),
    # In a budget of packets all connections die alike.
    "tunnel.data.stall.connections": (crowded(FIRST_TEN, NONE), crowded(NONE, NONE)),
    "tunnel.unmeasured.server.silent": (silent_server(), silent_server(again=False)),
    "tunnel.unmeasured.server.bulk": (silent_server(bulk=True), silent_server(bulk=True, again=False)),
    "tunnel.data.stall.later": (
        loaded(proxy=True, bulk=[(300 * KIB, STALLED), (0, STALLED)]),
        loaded(proxy=True, bulk=[(300 * KIB, STALLED), (290 * KIB, STALLED)]),
    ),
    "tunnel.data.stall.bulk": (
        carrying(bulk=[(300 * KIB, STALLED), (290 * KIB, STALLED)]),
        carrying(bulk=[(300 * KIB, STALLED), (MIB, None)]),
    ),
    "tunnel.unmeasured.crowd": (
        crowded("yynyyyyyyyyyyyyy", "yyyyyyyyyyyyynyy", small=[(16 * KIB, None)]),
        crowded("yynyyyyyyyyyyyyy", ALL, small=[(16 * KIB, None)]),
    ),
    "tunnel.unmeasured.bulk": (
        carrying(bulk=[(300 * KIB, STALLED)]),
        carrying(bulk=[(300 * KIB, None)]),
    ),
    "tunnel.data.stall.packets": (loaded(small=LOST, down=(), up=()), loaded(small=CUT, down=(), up=())),
    "tunnel.data.stall.bytes": (loaded(down=CUT, up=()), loaded(down=CUT[:1], up=())),
    "tunnel.data.stall": (loaded(small=CUT, down=(), up=()), loaded(small=LOST, down=(), up=())),
    "tunnel.throttled.load": (crept(line=True), crept(line=False)),
    "tunnel.unmeasured.slow": (crept(line=False), loaded(down=CUT, up=())),
    "tunnel.unmeasured.server": (
        loaded(up=[(0, "http_request_failed"), (0, "http_request_failed")]),
        loaded(up=[(0, STALLED), (0, STALLED)]),
    ),
    "tunnel.unmeasured.load": (loaded(up=()), loaded(up=CUT)),
    "tunnel.dns.timeout": (seen(mute_resolver), seen()),
    "tunnel.leak.exit": (leaking("exit"), leaking("nothing")),
    "tunnel.leak.ipv6": (leaking("ipv6"), leaking("nothing")),
    "tunnel.leak.dns": (leaking("resolver"), shared_resolver()),
    "tunnel.unmeasured.line.end": (mute_at_the_end(line_lives=False), mute_at_the_end(line_lives=True)),
    "tunnel.died": (ended(True, STALLED, control_after=False), ended(True, STALLED, control_after=True)),
    "tunnel.throttled": (paced(100, 20_000), paced(100, 900)),
    "tunnel.unmeasured.alive": (seen(alive=None), seen(alive=True)),
    "tunnel.up.exit-unknown": (seen(exit=None), seen()),
    "tunnel.up.questions-lost": (carrying(echo=(9, 40.0)), carrying(echo=(10, 40.0))),
    "tunnel.up": (seen(), seen(alive=False, exit=None)),
}


@pytest.mark.parametrize(
    ("rung", "failure"),
    [
        ("endpoint-dns", TIMEOUT),
        ("endpoint", "timed_out"),
        ("endpoint", "network_unreachable"),
        ("handshake", TIMEOUT),
        ("auth", TIMEOUT),
    ],
)
def test_silence_while_the_line_was_dead_is_no_fact_about_a_tunnel(rung: str, failure: str) -> None:
    for later in ({"during": TIMEOUT, "after": TIMEOUT}, {"after": TIMEOUT}, {}, {"during": TIMEOUT, "after": None}):
        assert rule_of(interrupted(failure, rung, **later)) == "tunnel.unmeasured.line"
    assert rule_of(interrupted(failure, rung, during=None)) != "tunnel.unmeasured.line"
    assert rule_of(interrupted(failure, rung, after=None)) != "tunnel.unmeasured.line"


def rule_of(evidence: TunnelEvidence) -> str:
    return first(TUNNEL, evidence).id


def test_what_a_server_said_is_a_fact_whatever_the_line_does() -> None:
    assert rule_of(interrupted("auth_rejected", "auth", after=TIMEOUT)) == "tunnel.auth.rejected"
    assert rule_of(interrupted(REFUSED, "endpoint", after=TIMEOUT)) == "tunnel.endpoint.refused"


def test_another_tunnel_that_carries_shows_that_the_line_works() -> None:
    assert rule_of(loaded_while()) == "tunnel.unmeasured.line.data"
    assert rule_of(loaded_while(others=True)) == "tunnel.data.stall.packets"
    assert rule_of(mute_at_the_end(line_lives=False, other_lives=True)) == "tunnel.died"


def test_a_tunnel_is_judged_where_the_controls_are_blocked_and_another_tunnel_carries() -> None:
    made = World()
    for phase, when in (("before", 0.0), ("during", 22.0), ("after", 90.0)):
        made.at(when, 8.0).control("outside", phase, TIMEOUT)
    made.at(20.0, 8.0).tunnel("t", until="handshake", failure=TIMEOUT)
    assert rule_of(evidence_of(read(made.record()), made.tunnels[0])) == "tunnel.unmeasured.line"
    made.at(19.0).tunnel("other")
    made.at(60.0).control("other", "after")
    assert rule_of(evidence_of(read(made.record()), made.tunnels[0])) == "tunnel.handshake.timeout"


def test_dead_controls_of_the_line_stand_beside_the_silence() -> None:
    evidence = interrupted(during=TIMEOUT, after=TIMEOUT)
    ids = {one.id for one in first(TUNNEL, evidence).then.witnesses(evidence)}
    assert evidence.fell is not None
    assert evidence.fell.id in ids
    assert len(ids) == 2


@pytest.mark.parametrize("failure", [RESET, "eof_error", REFUSED, "http_request_failed", "ssl_unknown_authority"])
def test_a_control_that_refuses_is_no_censors_budget(failure: str) -> None:
    for carry in ({"small": [(900, failure)] * 2, "down": (), "up": ()}, {"down": [(900, failure)] * 2, "up": ()}):
        assert rule_of(loaded(**carry)) == "tunnel.unmeasured.server"
    mixed = [(900, failure), (900, STALLED)]
    assert rule_of(loaded(small=mixed, down=(), up=())) == "tunnel.unmeasured.server"


def test_an_error_status_that_came_back_is_data() -> None:
    evidence = loaded(first=False, small=[(0, "http_request_failed")] * 2, down=(), up=())
    assert rule_of(evidence) == "tunnel.unmeasured.server"


def test_one_silence_alone_is_no_stall() -> None:
    assert rule_of(loaded(small=LOST[:1], down=(), up=())) == "tunnel.unmeasured.load"
    assert rule_of(loaded(down=CUT[:1], up=())) == "tunnel.unmeasured.load"


def test_slow_is_not_silent() -> None:
    assert rule_of(crept(line=True)) == "tunnel.throttled.load"
    assert first(TUNNEL, crept(line=True)).then.mechanism == "throttled"
    assert rule_of(silent_at_first(since=400)) == "tunnel.unmeasured.slow"
    assert rule_of(silent_at_first(since=6000)) == "tunnel.data.stall.packets"


def test_packets_that_came_back_are_as_good_as_an_answer() -> None:
    """Nothing was answered at first, but the device counted packets from the far end before all fell silent."""

    def packets(received: int) -> TunnelEvidence:
        def load(made: World) -> None:
            made.carry("t", first=False, small=(), down=(), up=())
            made.add("t", "carry", "connect", TcpConnect(TRUE, 443), role="control", transaction=9)
            for _ in range(2):
                details = SmallExchanges("https://control.example/", 0, 24, 0, packets_received=received)
                made.add("t", "carry", "transfer", details, STALLED, role="control")

        return seen(load, carry=False, proxy=False)

    assert packets(3).came_back
    assert rule_of(packets(3)) == "tunnel.data.stall.packets"


@pytest.mark.parametrize(
    ("kind", "later", "rule"),
    [
        (Kind.HYSTERIA2, 30.0, "tunnel.data.stall.packets"),
        (Kind.TUIC, 30.0, "tunnel.data.stall.packets"),
        # So soon it may be the server's own doing, and TCP hangs up on nobody for being silent.
        (Kind.HYSTERIA2, 20.0, "tunnel.unmeasured.server"),
        (Kind.TROJAN, 30.0, "tunnel.unmeasured.server"),
    ],
)
def test_a_carrier_over_quic_that_hangs_up_after_long_silence_was_silent(kind: Kind, later: float, rule: str) -> None:
    def load(made: World) -> None:
        made.carry("t", small=(), down=(), up=())
        answered = made.observations[-1]
        for failure in (STALLED, Failure.EOF):
            made.add(
                "t", "carry", "transfer", SmallExchanges("https://control.example/", 0, 24, 0), failure, role="control"
            )
        made.observations[-1] = msgspec.structs.replace(made.observations[-1], t=answered.t + later)

    assert rule_of(seen(load, carry=False, proxy=True, kind=kind)) == rule


# ── one connection each, counted ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", sorted(ONE_EACH))
def test_the_first_connections_work_and_then_none(kind: Kind) -> None:
    evidence = crowded(FIRST_TEN, NONE, kind=kind)
    assert rule_of(evidence) == "tunnel.data.stall.connections"
    finding = first(TUNNEL, evidence).then
    assert finding.detail(evidence) == "10 of 16 fresh connections answered"
    assert len(finding.witnesses(evidence)) == 4


@pytest.mark.parametrize("kind", [Kind.WIREGUARD, Kind.OPENVPN, Kind.HYSTERIA2, Kind.AMNEZIAWG])
def test_nobody_counts_connections_inside_a_single_flow(kind: Kind) -> None:
    """Small answers may come over a few connections before a budget of packets is spent."""
    assert rule_of(crowded("yyynnnnnnnnnnnnn", NONE, kind=kind)) == "tunnel.data.stall.packets"


def test_one_hit_by_chance_silences_all_that_follow() -> None:
    for row in ("y" * 7 + "n" * 9, "yy" + "n" * 14, "y" + "n" * 15):
        assert rule_of(crowded(row, NONE, kind=Kind.SHADOWSOCKS)) == "tunnel.data.stall.connections"
    assert rule_of(crowded(NONE, NONE, kind=Kind.SHADOWSOCKS)) == "tunnel.data.none.tcp"
    assert first(TUNNEL, crowded(NONE, NONE, kind=Kind.SHADOWSOCKS)).then.mechanism == "data.none"


def test_a_budget_of_packets_in_each_connection() -> None:
    """A chain of certificates is longer than 25 packets, or not quite: then it is chance which connections pass."""
    for crowds in ([NONE, NONE], ["ynnynnnnynnnnnyn", "nnnnynnnnnnynnnn"], [ALL]):
        for kind in (Kind.SHADOWSOCKS, Kind.TROJAN):
            evidence = crowded(*crowds, kind=kind, small=LOST)
            assert rule_of(evidence) == "tunnel.data.stall.packets"
            assert first(TUNNEL, evidence).then.detail(evidence) == "3.1 KB passed"


@pytest.mark.parametrize(
    ("crowds", "small"),
    [
        ([FIRST_TEN], ()),  # once
        ([FIRST_TEN, FIRST_TEN], [(16 * KIB, None)]),  # a slow line: what comes after them passes
        ([FIRST_TEN, NONE], [(16 * KIB, None)]),
        ([FIRST_TEN, ALL], [(16 * KIB, None)]),
        (["yyyyyyyyyyyyyyyn", "yyyyyyyyyyyyyyyn"], [(16 * KIB, None)]),  # the last one, lost
        (["yynyyyyynyyyyyyy", "yyyyyyynyyyyyyyy"], [(16 * KIB, None)]),  # isolated ones, lost
    ],
)
def test_what_loss_or_slowness_brings_about_is_no_budget_of_connections(
    crowds: list[str], small: list[tuple[int, str | None]]
) -> None:
    assert "stall" not in rule_of(crowded(*crowds, small=small))
    assert "died" not in rule_of(crowded(*crowds, small=small))


def test_a_server_that_refuses_more_connections_is_no_censor() -> None:
    made = world(carry=False, proxy=True)
    made.carry("t", small=(), down=(), up=())
    for _ in range(2):
        members = (True,) * 10 + (False,) * 6
        made.add("t", "carry", "transfer", Crowd("https://control.example/", 16, members), RESET, role="control")
    assert judged(made).rule == "tunnel.unmeasured.crowd"


def test_a_crowd_that_the_line_itself_lost_is_no_fact() -> None:
    made = World()
    made.at(0.0).control("outside", "before")
    made.tunnel("t", carry=False, proxy=True)
    made.at(19.0).carry("t", small=(), down=(), up=())
    for begin in (20.0, 28.0):
        for answered in (FIRST_TEN,):
            details = Crowd("https://control.example/", 16, tuple(one == "y" for one in answered))
            made.at(begin, 7.0).add("t", "carry", "transfer", details, STALLED, role="control")
    made.at(24.0, 8.0).control("outside", "during", TIMEOUT)
    assert judged(made).rule == "tunnel.unmeasured.line.data"
    made.observations = [one for one in made.observations if one.vantage != "outside" or one.phase != "during"]
    for when in (22.0, 30.0, 40.0):
        made.at(when).control("outside", "during")
    assert judged(made).rule == "tunnel.data.stall.connections"


# ── lines that are lossy, slow, or narrow ────────────────────────────────────────────────────────────────────────────


def test_a_lossy_line_makes_no_stall() -> None:
    """Now and then a try is lost, and the next one passes; a tenth of the questions is never answered."""
    evidence = carrying(
        crowd=["yyyyynyyyyyyyyyy", ALL],
        small=[LOST[0], (16 * KIB, None)],
        down=[CUT[0], (64 * KIB, None)],
        up=[(64 * KIB, None)],
        bulk=[(400 * KIB, STALLED), (700 * KIB, None)],
        echo=(18, 41.2),
    )
    assert rule_of(evidence) == "tunnel.up"
    assert first(TUNNEL, evidence).then.detail(evidence) == "loss 10 %, round trip 41 ms"


def test_a_slow_line_makes_no_stall() -> None:
    """A megabit for everything: the sustained transfer is still moving when its time is over."""
    evidence = carrying(crowd=[ALL], bulk=[(700 * KIB, None)], echo=(20, 300.0))
    assert rule_of(evidence) == "tunnel.up"
    assert rule_of(paced(300, 1_000)) == "tunnel.up"
    assert rule_of(paced(90, 850)) == "tunnel.up"


def test_a_narrow_line_that_says_so_makes_no_stall() -> None:
    """The first long packets are lost, until the answer to them is heard."""
    evidence = carrying(down=[CUT[0], (64 * KIB, None)], short=[("down", 64 * KIB, None)], bulk=[(MIB, None)])
    assert rule_of(evidence) == "tunnel.up"


def test_the_path_mtu_is_told_where_the_connection_goes_through() -> None:
    def load(made: World) -> None:
        info = TcpInfo(64 * KIB, 1, 0, 0, 1.0, path_mtu=1232)
        made.transfer("t", "carry", 64 * KIB, 0.2, role="control", tcp=info)
        made.carry("t", small=(), down=(), up=(), echo=(20, 7.0))

    for proxy, said in ((False, "loss 0 %, round trip 7 ms, path MTU 1232"), (True, "loss 0 %, round trip 7 ms")):
        assert judged(world(load, proxy=proxy)).detail == said


def test_nothing_is_told_where_nothing_was_counted() -> None:
    assert judged(world()).detail is None


def test_a_black_hole_is_found_in_the_direction_that_it_has() -> None:
    assert rule_of(loaded(up=CUT, short=[("up", 64 * KIB, None)])) == "tunnel.data.mtu"
    assert rule_of(loaded(up=CUT, short=[("down", 64 * KIB, None)])) == "tunnel.data.stall.bytes"
    # Not even a chain of certificates comes through.
    everything = loaded(crowd=[NONE, NONE], small=NOTHING_CAME, down=(), up=(), short=[("down", 64 * KIB, None)])
    assert rule_of(everything) == "tunnel.data.mtu"


def test_where_a_long_transfer_dies_is_told() -> None:
    evidence = carrying(bulk=[(300 * KIB, STALLED), (290 * KIB, STALLED)])
    found = first(TUNNEL, evidence).then
    assert (found.mechanism, found.stage(evidence), found.detail(evidence)) == (
        "data.stall.bytes",
        "data",
        "307.2 KB passed",
    )


def test_packets_are_told_where_the_device_counts_those_of_the_way() -> None:
    def load(made: World) -> None:
        made.carry("t", small=(), down=(), up=())
        for _ in range(2):
            details = SmallExchanges("https://control.example/", 4, 24, 4100, packets_received=14, packets_sent=11)
            made.add("t", "carry", "transfer", details, STALLED, role="control")

    # The answer to the first question is one of them. What was sent is not: most of it passed nowhere.
    assert judged(world(load, carry=False)).detail == "29 packets came back, 4.1 KB passed"
    assert judged(world(load, carry=False, proxy=True)).detail == "4.1 KB passed"


# ── the same server, and another tunnel ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [Kind.WIREGUARD, Kind.OPENVPN])
def test_a_server_that_answers_another_tunnel_does_not_know_this_one(kind: Kind) -> None:
    evidence = silent_beside({"kind": kind}, kind=kind)
    row = first(TUNNEL, evidence)
    assert (row.id, row.then.mechanism, row.then.stage(evidence)) == ("tunnel.auth.silent", "auth.rejected", "endpoint")
    assert [one.vantage for one in row.then.witnesses(evidence)] == ["t", "other"]


@pytest.mark.parametrize(
    "other",
    [
        {"servers": ("198.18.0.2:51820/udp",)},
        {"servers": ()},
        {"until": "handshake", "failure": TIMEOUT},
        # Its handshake looks otherwise on the way, so that it may pass where this one's is dropped.
        {"kind": Kind.AMNEZIAWG},
    ],
)
def test_otherwise_silence_tells_nothing_of_keys(other: dict[str, Any]) -> None:
    assert rule_of(silent_beside(other)) == "tunnel.handshake.timeout"


@pytest.mark.parametrize("kind", sorted(set(Kind) - SILENT_TO_STRANGERS))
def test_a_censor_may_drop_one_name_and_pass_another_to_the_same_server(kind: Kind) -> None:
    """Only a server that is silent by design can have turned this one's keys down by its silence."""
    assert rule_of(silent_beside({"kind": kind}, kind=kind)) == "tunnel.handshake.timeout"


def test_a_server_that_answered_only_before_may_have_been_blocked_since() -> None:
    assert rule_of(silent_beside(first=True)) == "tunnel.handshake.timeout"
    assert rule_of(silent_beside({"carry": True}, first=True)) == "tunnel.handshake.timeout"
    made = World()
    made.line()
    made.tunnel("other", carry=False, **SERVER)
    made.tunnel("t", until="handshake", failure=TIMEOUT, **SERVER)
    made.carry("other")
    assert judge_tunnel(read(made.record()), made.tunnels[1]).rule == "tunnel.auth.silent"


def test_a_web_sites_answer_is_a_rejection_only_under_the_servers_own_certificate() -> None:
    loads: dict[str, Any] = {"first": False, "small": [(0, "ssl_failed_handshake")] * 2, "down": (), "up": ()}

    def strange(**facts: Any) -> str:
        made = world(lambda made: made.carry("t", **loads), carry=False, proxy=True, **facts)
        return str(judged(made).mechanism)

    assert strange(kind=Kind.TROJAN, until="handshake") == "auth.rejected"
    assert strange(kind=Kind.TROJAN, until="handshake", tls_unverified=True) == "data.none"
    assert strange(kind=Kind.TROJAN) == "data.none"
    assert strange(kind=Kind.SHADOWSOCKS, until="handshake") == "data.none"


def test_tunnel() -> None:
    check_table(TUNNEL, CASES)


def judged(made: World) -> TunnelVerdict:
    return judge_tunnel(read(made.record()), made.tunnels[0])


@pytest.mark.parametrize(
    ("tunnel", "stage", "mechanism"),
    [
        ({"until": "handshake", "failure": TIMEOUT}, "endpoint", "handshake.timeout"),
        ({"until": "auth", "failure": "auth_rejected"}, "handshake", "auth.rejected"),
        ({"until": "endpoint", "failure": REFUSED}, "endpoint-dns", "endpoint.refused"),
        ({"until": "config", "failure": "unsupported"}, "none", "unsupported"),
        ({"until": "config", "failure": "refused"}, "none", "refused"),
        ({"until": "endpoint-dns", "failure": "refused"}, "config", "refused"),
        ({"problem": Problem("invalid", "empty file")}, "none", "invalid"),
        ({"carry": False}, "auth", "unmeasured"),
        ({"carry": False, "proxy": True}, "endpoint", "unmeasured"),
        ({}, "up", None),
        ({"proxy": True}, "up", None),
    ],
)
def test_the_stage_is_the_last_rung_reached(tunnel: dict[str, Any], stage: str, mechanism: str | None) -> None:
    verdict = judged(world(**tunnel))
    assert (verdict.stage, verdict.mechanism) == (stage, mechanism)


@pytest.mark.parametrize("rule", [name for name in CASES if not name.startswith("tunnel.up")])
def test_only_a_tunnel_that_is_up_has_no_mechanism(rule: str) -> None:
    [row] = [row for row in TUNNEL if row.id == rule]
    assert row.then.mechanism
    assert row.then.stage(CASES[rule][0]) != "up"


def test_a_dead_carrier_is_dead_whatever_the_controls_say() -> None:
    made = world(lambda made: made.add("t", "alive", "tunnel", Alive(False), "carrier_exited") and None, alive=None)
    assert (judged(made).stage, judged(made).mechanism) == ("sustained", "died")


def test_wireguard_that_is_cut_after_two_data_packets() -> None:
    """Its handshake and the first answer pass, then not even a TCP handshake does."""
    made = world(carry=False)
    made.carry("t", small=[(0, STALLED), (0, STALLED)], down=(), up=())
    verdict = judged(made)
    assert (verdict.stage, verdict.mechanism) == ("data", "data.stall.packets")
    # The answer to the first question and the two tries.
    assert verdict.witnesses == tuple(one.id for one in made.observations if one.probe == "carry")
    assert len(verdict.witnesses) == 3
    assert verdict.detail == "0 B passed"


def test_only_packets_that_came_back_are_told() -> None:
    """The crowd spends the budget of the flow; all that is sent afterwards comes nowhere."""
    made = world(carry=False)
    made.carry("t", small=(), down=(), up=())
    crowd = Crowd("https://control.example/", 16, (False,) * 16, packets_received=1, packets_sent=96)
    made.add("t", "carry", "transfer", crowd, STALLED, role="control")
    for _ in range(2):
        small = SmallExchanges("https://control.example/", 0, 24, 0, packets_received=0, packets_sent=5)
        made.add("t", "carry", "transfer", small, STALLED, role="control")
    verdict = judged(made)
    assert (verdict.mechanism, verdict.detail) == ("data.stall.packets", "2 packets came back, 0 B passed")
    assert verdict.witnesses == tuple(one.id for one in made.observations if one.probe == "carry")


def test_what_a_handshake_brought_has_passed_too() -> None:
    made = world(carry=False, proxy=True)
    made.carry("t", small=(), down=(), up=())
    for number in (91, 92):
        more: dict[str, Any] = {"role": "control", "transaction": number}
        tcp = TcpInfo(9000 + number, 1, 0, 0, 1.0, since_last_data_ms=9000)
        tls = TlsHandshake(f"{TRUE}:443", "control.example", no_tls_verify=False)
        made.add("t", "carry", "tls_handshake", tls, STALLED, tcp=tcp, **more)
        made.add("t", "carry", "transfer", SmallExchanges("https://control.example/", 0, 24, 0), STALLED, **more)
    assert (judged(made).mechanism, judged(made).detail) == ("data.stall.packets", "9.1 KB passed")


@pytest.mark.parametrize(("size", "rule"), [(11 * KIB, "tunnel.data.stall.packets"), (13 * KIB, "tunnel.data.stall")])
def test_less_than_any_budget_of_bytes_is_one_of_packets(size: int, rule: str) -> None:
    assert rule_of(loaded(small=[(size, STALLED)] * 2, down=(), up=())) == rule


@pytest.mark.parametrize("kind", sorted(ONE_EACH))
def test_a_fresh_connection_that_brings_nothing_has_met_no_budget_of_its_own(kind: Kind) -> None:
    def rule(**carry: Any) -> str:
        return rule_of(loaded(proxy=True, kind=kind, crowd=[ALL], **carry))

    nothing: dict[str, Any] = {"small": NOTHING_CAME, "down": (), "up": ()}
    assert rule(**nothing) == "tunnel.data.stall"
    assert rule(down=[CUT[0], (0, STALLED)], up=()) == "tunnel.data.stall"
    assert rule(**(nothing | {"small": LOST})) == "tunnel.data.stall.packets"
    assert rule(down=CUT, up=()) == "tunnel.data.stall.bytes"
    # A single flow has one budget for all: what comes after it has none left.
    assert rule_of(loaded(down=[CUT[0], (0, STALLED)], up=())) == "tunnel.data.stall.bytes"


def test_a_server_of_a_load_that_hangs_is_no_stall_of_the_tunnel() -> None:
    found = first(TUNNEL, silent_server()).then
    assert (found.mechanism, found.stage(silent_server())) == ("unmeasured", "data")
    assert rule_of(silent_server(brought=900)) == "tunnel.data.stall.bytes"
    assert rule_of(silent_server(heard="https://speed.example/other")) == "tunnel.data.stall.bytes"
    assert rule_of(silent_server(heard="https://elsewhere.example/")) == "tunnel.unmeasured.server.silent"
    assert rule_of(silent_server(again=False)) == "tunnel.data.stall.bytes"
    assert rule_of(silent_server(bulk=True, brought=900)) == "tunnel.data.stall.bulk"
    assert rule_of(silent_server(bulk=True, again=False)) == "tunnel.data.stall.bulk"


def test_questions_without_an_answer_are_told_of_a_tunnel_that_carries() -> None:
    """Names are looked up and transfers pass: whoever drops a row of questions does not cut the tunnel."""
    for answered, said in ((0, "loss 100 %"), (1, "loss 95 %, round trip 40 ms")):
        evidence = carrying(echo=(answered, 40.0))
        found = first(TUNNEL, evidence)
        assert (found.id, found.then.mechanism, found.then.stage(evidence)) == ("tunnel.up.questions-lost", None, "up")
        assert found.then.detail(evidence) == said
    assert rule_of(carrying(bulk=[(300 * KIB, STALLED)] * 2, echo=(0, 40.0))) == "tunnel.data.stall.bulk"


def test_an_answer_to_a_handshake_is_told_from_silence() -> None:
    answered, silent = (first(TUNNEL, fallen("handshake", failure)) for failure in (STALLED, TIMEOUT))
    assert answered.then.mechanism == silent.then.mechanism == "handshake.timeout"
    assert answered.reason != silent.reason
    # One that answered is no server that is silent to all whom it does not know.
    made = World()
    made.line()
    made.tunnel("t", until="handshake", failure=STALLED, **SERVER)
    made.tunnel("other", carry=False, **SERVER)
    assert judged(made).rule == "tunnel.handshake.stalled"
    assert rule_of(interrupted(STALLED, during=TIMEOUT, after=TIMEOUT)) == "tunnel.unmeasured.line"


@pytest.mark.parametrize("change", [{"first": False}, {"first": True}])
def test_the_records_order_changes_nothing(change: dict[str, Any]) -> None:
    made = world(carry=False)
    made.carry("t", small=NOTHING_CAME, down=(), up=(), crowd=[NONE, NONE], **change)
    record = made.record()
    turned = msgspec.structs.replace(record, observations=record.observations[::-1])
    verdict = judge_tunnel(read(record), made.tunnels[0])
    assert len(verdict.witnesses) > 2
    assert judge_tunnel(read(turned), made.tunnels[0]) == verdict


def test_one_mute_try_is_no_silence_over_tcp() -> None:
    once = crowded(NONE, NONE, kind=Kind.SHADOWSOCKS, small=NOTHING_CAME[:1])
    assert rule_of(once) != "tunnel.data.none.tcp"


def test_the_first_one_alone_twice_is_no_budget_of_connections() -> None:
    alone = "y" + "n" * 15
    assert rule_of(crowded(alone, alone)) != "tunnel.data.stall.connections"
    assert rule_of(crowded("yy" + "n" * 14, alone)) == "tunnel.data.stall.connections"


def test_one_slow_load_alone_is_no_throttling() -> None:
    def slow(tries: int) -> Callable[[World], None]:
        def load(made: World) -> None:
            made.carry("t", down=(), up=())
            for _ in range(tries):
                info = TcpInfo(60_000, 1, 0, 0, 1.0, since_last_data_ms=200)
                made.transfer("t", "carry", 60_000, 30.0, TIMEOUT, role="control", tcp=info)
            made.speed("outside", "bird", target=(), control=(90_000,) * 40)

        return load

    assert rule_of(seen(slow(1), carry=False)) == "tunnel.unmeasured.slow"
    assert rule_of(seen(slow(2), carry=False)) == "tunnel.throttled.load"


def test_a_carrier_that_ended_is_dead_on_a_dead_line_too() -> None:
    made = World()
    made.at(0.0).control("outside", "before")
    made.addresses("outside", exit=LINE_EXIT, resolver=ISP_RESOLVER)
    made.tunnel("t", alive=None)
    made.observations = [one for one in made.observations if (one.vantage, one.phase) != ("t", "after")]
    made.at(90.0, 8.0).control("outside", "after", TIMEOUT)
    made.add("t", "alive", "tunnel", Alive(carrier_runs=False), "carrier_exited")
    assert judged(made).rule == "tunnel.died"


def test_a_proxy_with_wrong_credentials_shows_no_handshake() -> None:
    made = world(carry=False, proxy=True)
    made.carry("t", first=False, small=[(0, "eof_error"), (0, "eof_error")], down=(), up=())
    assert (judged(made).stage, judged(made).mechanism) == ("endpoint", "data.none.closed")


def test_retries_that_pass_are_a_pass() -> None:
    made = world(lambda made: made.carry("t", small=[LOST[0], (20 * KIB, None)], down=[CUT[0], (64 * KIB, None)]))
    assert judged(made).stage == "up"


def test_a_slow_tunnel_on_a_slow_line_is_up() -> None:
    assert paced(100, 150).is_throttled is False
    assert paced(2_000, 90_000).is_throttled is False


def test_facts_of_one_tunnel_do_not_touch_another() -> None:
    made = world(until="handshake", failure=TIMEOUT)
    made.tunnel("other")
    assert judged(made).mechanism == "handshake.timeout"
    assert judge_tunnel(read(made.record()), made.tunnels[1]).usable
