"""Whole records: what the judge says of networks that behave like known ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from records import BOGON, FORGED, KIB, LINE_EXIT, REFUSED, RESET, TIMEOUT, TRUE, World, platform, without
from scenarios import (
    SCENARIOS,
    SHORT,
    SNI,
    SPEEDY,
    WITH_QUIC,
    chat,
    controls_blocked,
    everywhere,
    hiccup,
    interrupted,
    interrupted_older,
    one_miss,
    quic_by_name,
    same_everywhere,
    silent_by_name,
    slow_line,
    slow_tunnel,
    throttled,
    two_exits,
    two_services,
    unproven_beside_a_block,
    whitelist,
)

from vpntest.failures import Failure
from vpntest.judge.controls import Controls
from vpntest.judge.judging import LINE, TABLES, LineSeen, judge, reason_of
from vpntest.judge.reading import read
from vpntest.judge.rule import first
from vpntest.judge.verdict import Cell, Judgement, Outcome, PlatformVerdict, State
from vpntest.plan.model import Endpoint, Platform, Service
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
    TcpInfo,
    TlsHandshake,
    Transfer,
    Trickle,
)

# ── the tables ───────────────────────────────────────────────────────────────────────────────────────────────────────

RULES = [rule for table in TABLES for rule in table]


def test_ids_are_unique_over_all_tables() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_every_rule_says_why_and_who_says_so() -> None:
    assert {rule.id for rule in RULES if reason_of(rule.id) != rule.reason or not rule.reason} == set()
    assert {rule.id for rule in RULES if not rule.source} == set()
    assert {rule.id for rule in RULES if rule.reason.endswith(".")} == set()


def test_an_unknown_rule_has_no_reason() -> None:
    assert reason_of("no.such.rule") == ""


def test_the_line() -> None:
    assert first(LINE, LineSeen(line(before=TIMEOUT), carried=False)).id == "line.dead"
    assert first(LINE, LineSeen(line(before=TIMEOUT), carried=True)).id == "line.alive"
    assert first(LINE, LineSeen(line(before=TIMEOUT, during=None), carried=False)).id == "line.alive"
    assert first(LINE, LineSeen(line(before=None, after=TIMEOUT), carried=False)).id == "line.alive"


EXPIRED, STRANGER = "ssl_invalid_certificate", "ssl_unknown_authority"


@pytest.mark.parametrize(
    ("controls", "carried", "verified", "rule"),
    [
        ([EXPIRED, EXPIRED], False, False, "line.clock"),
        # A tunnel that knows no dates carries all the same.
        ([EXPIRED, EXPIRED], True, False, "line.clock"),
        ([EXPIRED, EXPIRED], True, True, "line.alive"),
        ([EXPIRED, EXPIRED, TIMEOUT], False, False, "line.dead"),
        ([EXPIRED], False, False, "line.dead"),
        ([STRANGER, STRANGER], False, False, "line.portal"),
        ([STRANGER, "ssl_invalid_hostname", "redirected"], False, False, "line.portal"),
        # Somebody who opens all TLS and lets tunnels pass is a censor, and no portal.
        ([STRANGER, STRANGER], True, False, "line.alive"),
        ([STRANGER, TIMEOUT], False, False, "line.dead"),
        ([STRANGER, None], False, True, "line.alive"),
    ],
)
def test_why_a_line_is_dead(controls: list[str | None], carried: bool, verified: bool, rule: str) -> None:
    world = World()
    for number, failure in enumerate(controls):
        if failure == "redirected":
            url = "http://control.example/"
            world.control("outside", "before", code=302, url=url)
            world.observations = [
                one for one in world.observations if (one.endpoint, one.operation) != (url, "tls_handshake")
            ]
        else:
            world.control("outside", "before", failure, url=f"https://control{number}.example/")
    seen = LineSeen(read(world.record()).controls["outside"], carried, verified)
    assert first(LINE, seen).id == rule


def test_a_wrong_clock_is_told_and_nothing_is_judged() -> None:
    world = World()
    for number in range(3):
        world.control("outside", "before", EXPIRED, url=f"https://control{number}.example/")
    world.tunnel("a", carry=False)
    judgement = judge(world.record())
    assert (judgement.line_rule, len(judgement.local_outage or ()), judgement.cells) == ("line.clock", 3, ())
    assert "clock" in reason_of("line.clock")


def line(**phases: str | None) -> Controls:
    """Controls of the line, one in each phase, with these failures."""
    world = World()
    for phase, failure in phases.items():
        world.control("outside", phase, failure)
    return read(world.record()).controls["outside"]


# ── scenarios ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("build", "outside", "outcomes"), [one[1:] for one in SCENARIOS], ids=[one[0] for one in SCENARIOS]
)
def test_scenario(build: Callable[[], World], outside: str, outcomes: str) -> None:
    judgement = judge(build().record())
    [seen] = judgement.outside
    assert " ".join(filter(None, (seen.state, seen.mechanism))) == outside
    assert [str(cell.outcome) for cell in judgement.cells] == [str(SHORT.get(word, word)) for word in outcomes.split()]


def test_every_verdict_is_whole() -> None:
    for name, build, *_ in SCENARIOS:
        try:
            _assert_whole(build().record())
        except AssertionError as failure:
            failure.add_note(f"scenario: {name}")
            raise


def _assert_whole(record: Record) -> None:
    judgement = judge(record)
    ids = {one.id for one in record.observations}
    for verdict in platform_verdicts(judgement):
        assert reason_of(verdict.rule)
        assert set(verdict.witnesses) <= ids
        assert bool(verdict.mechanism) is (verdict.state not in (State.OK, State.INSUFFICIENT))
        if verdict.state is not State.INSUFFICIENT:
            k, n = verdict.attempts
            assert 2 <= k <= n
            assert verdict.witnesses
    for cell in judgement.cells:
        assert reason_of(cell.rule)
    for tunnel in judgement.tunnels:
        assert reason_of(tunnel.rule)
        assert set(tunnel.witnesses) <= ids
        assert (tunnel.mechanism is None) is tunnel.usable


def platform_verdicts(judgement: Judgement) -> list[PlatformVerdict]:
    return [*judgement.outside, *(cell.inside for cell in judgement.cells if cell.inside)]


# ── what the table above cannot show ─────────────────────────────────────────────────────────────────────────────────


def test_a_dead_line_is_not_a_censored_one() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.control("outside", "before", "network_unreachable")
    failed = tuple(one.id for one in world.observations if one.failure)
    world.tunnel("a", until="handshake", failure=TIMEOUT)
    world.reach("outside", "bird", fails=f"connect:{TIMEOUT}")
    assert judge(world.record()) == Judgement((), (), (), local_outage=failed, line_rule="line.dead")


def test_one_control_that_answers_keeps_the_line_alive() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.control("outside", "before")
    assert judge(world.record()).local_outage is None


def test_controls_that_are_blocked_make_no_dead_line() -> None:
    judgement = judge(controls_blocked().record())
    assert judgement.local_outage is None
    assert [(one.state, one.rule) for one in judgement.outside] == [
        (State.INSUFFICIENT, "endpoint.insufficient.control"),
        (State.OK, "platform.ok"),
    ]
    assert [one.stage for one in judgement.tunnels] == ["up"]
    assert [one.outcome for one in judgement.cells] == [Outcome.INSUFFICIENT, Outcome.OPEN]


@pytest.mark.parametrize(
    ("build", "rules"),
    [
        (slow_line, ["cell.open.speed-unknown", "cell.open.speed-unknown"]),
        (slow_tunnel, ["cell.insufficient.slow-tunnel", "cell.circumvents"]),
        (throttled(), ["cell.circumvents", "cell.insufficient.speed-unknown"]),
        (chat(None), ["cell.open.unproven", "cell.open"]),
        (unproven_beside_a_block, ["cell.insufficient.unproven", "cell.circumvents"]),
        (same_everywhere(), ["cell.open", "cell.open"]),
        (hiccup(TIMEOUT), ["cell.insufficient.outside"]),
        (silent_by_name(), ["cell.insufficient.inside", "cell.insufficient.inside"]),
    ],
)
def test_what_is_not_known_has_a_rule_of_its_own(build: Callable[[], World], rules: list[str]) -> None:
    assert [cell.rule for cell in judge(build().record()).cells] == rules


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (hiccup(TIMEOUT), "endpoint.insufficient.control"),
        (interrupted(control_follows=False), "endpoint.insufficient.no-control"),
        (interrupted_older, "endpoint.insufficient.no-control"),
        (silent_by_name(), "endpoint.insufficient.alike"),
        (slow_line, "platform.ok.speed-unknown"),
    ],
)
def test_why_nothing_is_said_outside(build: Callable[[], World], rule: str) -> None:
    [seen] = judge(build().record()).outside
    assert seen.rule == rule


def test_the_rule_about_speed_is_told_where_speed_is_asked() -> None:
    assert judge(slow_line().record()).outside[0].speed == "speed.slow-line"
    assert judge(throttled()().record()).outside[0].speed == "speed.throttle.sni"
    assert judge(World(SPEEDY).record()).outside[0].speed == "speed.unknown"
    assert judge(World().record()).outside[0].speed is None


def test_a_tunnels_dead_controls_are_no_local_outage() -> None:
    world = World()
    world.line()
    world.tunnel("a", carry=False)
    world.control("a", "before", TIMEOUT)
    assert judge(world.record()).local_outage is None


def test_witnesses_of_a_block_by_name_are_the_reset_and_the_neutral_that_got_through() -> None:
    world = two_exits(World())
    world.reach("outside", "bird", fails=SNI, neutral=True)
    [seen] = judge(world.record()).outside
    expected = [one.id for one in world.observations if one.role in ("target", "neutral") and one.platform]
    by_id = {one.id: one for one in world.observations}
    assert {(by_id[one].operation, by_id[one].role, by_id[one].failure) for one in seen.witnesses} == {
        ("tls_handshake", "target", RESET),
        ("http_round_trip", "neutral", None),
    }
    assert set(seen.witnesses) <= set(expected)
    assert len(seen.witnesses) == 6


def test_partial_is_said_of_the_platform_and_named_by_service() -> None:
    [cell, _] = judge(two_services({}, {"fails": f"connect:{REFUSED}"})().record()).cells
    assert cell.inside is not None
    assert cell.inside.partial
    assert [(one.service, one.state) for one in cell.inside.services] == [
        ("web", State.OK),
        ("chat", State.BLOCKED),
        ("extra", State.INSUFFICIENT),
    ]


def test_the_number_of_agreeing_tries_is_shown() -> None:
    judgement = judge(one_miss().record())
    assert judgement.outside[0].attempts == (9, 10)
    assert [cell.inside.attempts for cell in judgement.cells if cell.inside] == [(9, 10), (3, 3)]


def test_verdicts_stand_in_the_records_order() -> None:
    world = World(platform("zebra"), platform("bird"), platform("ant"))
    world.line()
    for name in ("z", "a"):
        world.tunnel(name)
    judgement = judge(world.record())
    assert [one.platform for one in judgement.outside] == ["zebra", "bird", "ant"]
    assert [(one.tunnel, one.platform) for one in judgement.cells] == [
        (tunnel, name) for tunnel in ("z", "a") for name in ("zebra", "bird", "ant")
    ]


def test_an_empty_record_says_nothing_of_anything() -> None:
    world = World()
    world.tunnel("a", carry=False, until="config")
    [cell] = judge(without(world.record(), [False] * 99)).cells
    assert (cell.outcome, cell.outside.state, cell.inside) == (Outcome.INSUFFICIENT, State.INSUFFICIENT, None)


# ── whatever is missing ──────────────────────────────────────────────────────────────────────────────────────────────

BUILDS = [one[1] for one in SCENARIOS]
FEW = settings(max_examples=40)
RECORDS: list[Record] = [build().record() for build in BUILDS]


def circumventing(judgement: Judgement) -> set[tuple[str, str]]:
    return {(cell.tunnel, cell.platform) for cell in judgement.cells if cell.outcome is Outcome.CIRCUMVENTS}


@FEW
@given(st.sampled_from(RECORDS), st.randoms(use_true_random=False), st.floats(0, 1))
def test_any_part_of_a_record_can_be_judged(record: Record, random: Any, share: float) -> None:
    kept = without(record, [random.random() < share for _ in record.observations])
    judgement = judge(kept)
    assert judge(kept) == judgement
    if judgement.local_outage is None:
        assert len(judgement.cells) == len(record.tunnels) * len(record.platforms)
    else:
        assert judgement.cells == ()


@FEW
@given(st.sampled_from(RECORDS), st.sets(st.sampled_from(["a", "b", "late"])))
def test_nothing_circumvents_where_nothing_failed_outside(record: Record, silent: set[str]) -> None:
    keep = [
        not (one.vantage == "outside" and one.probe in ("reach", "speed")) and one.vantage not in silent
        for one in record.observations
    ]
    assert circumventing(judge(without(record, keep))) == set()


@FEW
@given(st.sampled_from(RECORDS), st.randoms(use_true_random=False), st.floats(0, 1))
def test_less_reach_through_a_tunnel_never_makes_it_circumvent(record: Record, random: Any, share: float) -> None:
    """What was planned and not measured counts against, so thinning what a tunnel was seen to do can only cost it."""
    before = circumventing(judge(record))
    keep = [
        not (one.vantage == "a" and one.probe == "reach" and one.role == "target") or random.random() < share
        for one in record.observations
    ]
    after = {key for key in circumventing(judge(without(record, keep))) if key[0] == "a"}
    assert after <= before


@FEW
@given(st.sampled_from(RECORDS), st.randoms(use_true_random=False), st.floats(0, 1))
def test_less_known_of_a_tunnel_itself_never_makes_it_usable(record: Record, random: Any, share: float) -> None:
    """A load test or a rung that failed and is forgotten leaves a gap, and a gap is no success."""
    usable = {one.tunnel for one in judge(record).tunnels if one.usable}
    keep = [one.probe not in ("rung", "carry", "alive") or random.random() < share for one in record.observations]
    judgement = judge(without(record, keep))
    assert {one.tunnel for one in judgement.tunnels if one.usable} <= usable


def outcome(cell: Cell) -> tuple[str, str, Outcome, str | None]:
    return cell.tunnel, cell.platform, cell.outcome, cell.outside.mechanism


def test_ports_that_open_where_no_data_passes_make_no_service_ok() -> None:
    [seen] = judge(whitelist().record()).outside
    assert [(one.service, one.state, one.rule) for one in seen.services] == [
        ("chat", State.INSUFFICIENT, "service.insufficient.unproven"),
        ("web", State.BLOCKED, "endpoint.blocked.works-elsewhere"),
    ]
    assert not seen.partial


@pytest.mark.parametrize(("fails", "state"), [(f"tls_handshake:{TIMEOUT}", State.INSUFFICIENT), (None, State.OK)])
def test_a_port_alone_is_no_platform_where_no_data_passes_at_all(fails: str | None, state: State) -> None:
    world = two_exits(World(platform("bird", "tcp://198.18.5.1:443"), platform("wiki")))
    for vantage in ("outside", "a", "b"):
        world.reach(vantage, "bird")
        world.reach(vantage, "wiki", fails=fails if vantage == "outside" else None)
    assert judge(world.record()).outside[0].state is state


def test_optional_services_are_judged_and_told() -> None:
    judgement = judge(quic_by_name().record())
    assert [(one.service, one.state, one.mechanism) for one in judgement.outside[0].services] == [
        ("web", State.OK, None),
        ("quic", State.BLOCKED, "quic.timeout.sni"),
        ("calls", State.OK, None),
    ]
    inside = {cell.tunnel: cell.inside for cell in judgement.cells}
    assert inside["a"]
    assert inside["b"]
    assert [one.mechanism for one in inside["a"].services] == [None, None, "stun.timeout"]
    assert [one.state for one in inside["b"].services] == [State.OK] * 3


@FEW
@given(st.sampled_from(["ok", "quic_handshake", "http_round_trip"]), st.sampled_from([TIMEOUT, RESET, REFUSED]))
def test_optional_services_decide_nothing(at: str, failure: str) -> None:
    world = two_exits(World(WITH_QUIC))
    everywhere(world)
    before = [outcome(cell) for cell in judge(world.record()).cells]
    fails = None if at == "ok" else f"{at}:{failure}"
    for vantage in ("outside", "a"):
        world.reach(vantage, "bird", service="quic", endpoint="quic://bird.example/", fails=fails, neutral=True)
    assert [outcome(cell) for cell in judge(world.record()).cells] == before


def _is_in_order(record: Record) -> bool:
    reverse = structs.replace(record, observations=record.observations[::-1])
    return msgspec.json.encode(judge(reverse)) == msgspec.json.encode(judge(record))


def test_the_records_own_order_changes_not_a_byte() -> None:
    assert [name for name, build, *_ in SCENARIOS if not _is_in_order(build().record())] == []


# ── whatever anybody may have written ────────────────────────────────────────────────────────────────────────────────

URLS = [
    "https://bird.example/",
    "http://bird.example/",
    "tcp://bird.example:443",
    "quic://b.example/",
    "stun://s:1",
    "x",
]
ANY_PLATFORM = Platform(
    "bird",
    "Bird",
    (
        Service("web", tuple(map(Endpoint, URLS[:3])), rule="any_of"),
        Service("more", tuple(map(Endpoint, URLS[3:]))),
        Service("none", ()),
    ),
    speed="https://bird.example/64k",
)
ADDRESSES = st.sampled_from([TRUE, FORGED, BOGON, "fd00::1", "nonsense", ""])
COUNT = st.integers(0, 70_000)
SMALL = st.integers(0, 70)
WORDS = st.sampled_from([*Failure, "unknown_failure: odd"])
NAMED = st.sampled_from(["bird.example", "b.example", "other.example", ""])
HOSTED = ADDRESSES.map(lambda one: f"{one}:443")
STEPS = st.lists(st.tuples(st.floats(0, 9), COUNT), max_size=4).map(tuple)
DETAILS = st.one_of(
    st.builds(
        DnsAnswer,
        hostname=NAMED,
        query_type=st.just("A"),
        resolver_address=HOSTED,
        resolver=st.sampled_from(["vantage", "public", "nobody"]),
        rcode=st.sampled_from(["NOERROR", "NXDOMAIN", None]),
        answers=st.lists(ADDRESSES, max_size=2).map(tuple),
        late=st.sampled_from([(), ((TRUE,),)]),
    ),
    st.builds(TcpConnect, ip=ADDRESSES, port=st.just(443)),
    st.builds(TlsHandshake, address=HOSTED, server_name=NAMED, no_tls_verify=st.booleans()),
    st.builds(QuicHandshake, address=HOSTED, server_name=NAMED, no_tls_verify=st.booleans()),
    st.builds(StunBinding, address=HOSTED, mapped=st.sampled_from([None, "198.18.0.2:1"])),
    st.builds(
        HttpExchange,
        method=st.just("GET"),
        url=st.just("u"),
        alpn=st.just("h2"),
        code=st.sampled_from([None, 200, 302, 403, 503]),
        challenge=st.booleans(),
    ),
    st.builds(
        Transfer,
        url=st.just("u"),
        server_name=NAMED,
        direction=st.sampled_from(["down", "up"]),
        bytes=COUNT,
        expected=st.sampled_from([None, 0, 150, 64 * KIB, 1024 * KIB]),
        samples=STEPS,
        segment=st.sampled_from([None, 536]),
    ),
    st.builds(Trickle, url=st.just("u"), server_name=NAMED, chunks=SMALL, bytes_acked=SMALL, answered=st.booleans()),
    st.builds(Crowd, url=st.just("u"), wanted=st.just(16), answered=st.lists(st.booleans(), max_size=16).map(tuple)),
    st.builds(Echo, resolver_address=HOSTED, sent=SMALL, received=SMALL, rtt_ms=st.sampled_from([(), (1.0, 2.0)])),
    st.builds(SmallExchanges, url=st.just("u"), done=SMALL, wanted=SMALL, bytes=COUNT),
    st.builds(RungStep, rung=st.sampled_from(["config", "endpoint", "auth", "data", "odd"])),
    st.builds(
        Address,
        of=st.sampled_from(["exit", "resolver"]),
        family=st.sampled_from([4, 6]),
        address=st.sampled_from([None, LINE_EXIT, "198.18.200.1", "198.18.200.2"]),
    ),
    st.builds(Alive, carrier_runs=st.booleans()),
)
PROBES = ["rung", "control", "names", "reach", "freeze", "speed", "carry", "exit", "resolver", "alive"]
OBSERVATIONS = st.builds(
    Observation,
    id=st.uuids().map(str),
    vantage=st.sampled_from(["outside", "a", "p", "nobody"]),
    probe=st.sampled_from([*PROBES, "reach", "reach", "control", "speed"]),
    operation=st.sampled_from(
        ["resolve", "connect", "tls_handshake", "quic_handshake", "stun_binding", "http_round_trip", "transfer"]
    ),
    target=st.just("x"),
    t0=st.floats(0, 60),
    t=st.floats(0, 60),
    failure=st.one_of(st.none(), WORDS),
    role=st.sampled_from(["target", "neutral", "alternate", "browser", "control"]),
    platform=st.sampled_from(["bird", "bird", None, "other"]),
    service=st.sampled_from(["web", "web", "more", None]),
    endpoint=st.sampled_from([*URLS, None]),
    attempt=st.integers(0, 4),
    phase=st.sampled_from(["before", "during", "after", "confirm"]),
    transaction=st.integers(0, 9),
    details=DETAILS,
    tcp=st.one_of(
        st.none(),
        st.builds(
            TcpInfo,
            bytes_received=COUNT,
            bytes_acked=COUNT,
            retransmits=SMALL,
            unacked=SMALL,
            rtt_ms=st.just(1.0),
            since_last_data_ms=st.one_of(st.none(), COUNT),
            segments_received=st.one_of(st.none(), SMALL),
            segments_sent=st.one_of(st.none(), SMALL),
        ),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(OBSERVATIONS, max_size=40, unique_by=lambda one: one.id), st.randoms(use_true_random=False))
def test_no_record_whatsoever_raises_and_its_order_is_no_evidence(observations: list[Observation], random: Any) -> None:
    world = World(ANY_PLATFORM)
    world.tunnel("a", carry=False, until="config")
    world.tunnel("p", carry=False, until="config", proxy=True)
    record = structs.replace(world.record(), observations=tuple(observations))
    judgement = judge(record)
    random.shuffle(observations)
    again = judge(structs.replace(record, observations=tuple(observations)))
    assert msgspec.json.encode(again) == msgspec.json.encode(judgement)


@pytest.mark.parametrize("carries_udp", [False, True])
def test_what_a_tunnel_without_udp_was_not_asked_for(carries_udp: bool) -> None:
    services = (
        Service("web", (Endpoint("https://bird.example/"),)),
        Service("calls", (Endpoint("stun://bird.example:3478"),), required=False),
    )
    world = World(Platform("bird", "Bird", services))
    world.tunnel("t", proxy=True, carries_udp=carries_udp)
    [cell] = judge(world.record()).cells
    assert cell.inside is not None
    calls = {one.service: one for one in cell.inside.services}["calls"]
    assert calls.state is State.INSUFFICIENT
    assert (calls.rule == "endpoint.insufficient.no-udp") is not carries_udp, calls
