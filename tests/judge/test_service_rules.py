"""Rules for failed tries, endpoints and services, each with a case and a near miss."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from records import BOGON, FORGED, KIB, REFUSED, RESET, TIMEOUT, TRUE, World
from records import seen as info
from tables import HTTP, QUIC, STUN, TCP, attempt, bird, check_table

from vpntest.judge.rule import first
from vpntest.judge.service_rules import (
    ENDPOINT,
    FAILURES,
    FLAKY,
    SERVICE,
    UNPROVEN,
    EndpointSeen,
    EndpointVerdict,
    Failing,
    ServiceSeen,
    commonest,
    is_quorum,
    judge_endpoint,
)
from vpntest.judge.verdict import State

# ── FAILURES ─────────────────────────────────────────────────────────────────────────────────────────────────────────

UNKNOWN_CA = "ssl_unknown_authority"


def failing(elsewhere: bool = False, **reach: Any) -> Failing:
    return Failing(attempt(**reach), elsewhere)


def at_dns(failure: str) -> Failing:
    return failing(fails=f"resolve:{failure}")


def at_tcp(failure: str, **more: Any) -> Failing:
    return failing(fails=f"connect:{failure}", **more)


def at_tls(failure: str, **more: Any) -> Failing:
    return failing(fails=f"tls_handshake:{failure}", **more)


def at_http(failure: str, **more: Any) -> Failing:
    return failing(fails=f"http_round_trip:{failure}", **more)


def hijacked(**reach: Any) -> Failing:
    """At a resolver that gives FORGED for a name that does not exist."""
    return failing(before=lambda world: world.names("outside", "bird.example", nobody=None, label=[FORGED]), **reach)


def forged(nobody: Any = (FORGED,), other: bool = False, **reach: Any) -> Failing:
    """Where nobody answers for the platform's name, or for all."""
    return failing(
        before=lambda world: world.names("outside", "bird.example", nobody=nobody, other=other),
        **{"fails": f"connect:{TIMEOUT}", **reach},
    )


def frozen(mechanism: str | None, passed: tuple[int, int] = (5000, 26), **more: Any) -> Failing:
    fails = f"http_round_trip:{TIMEOUT}"
    return replace(failing(fails=fails, neutral=False, passed=passed, **more), freeze=mechanism)


def at_quic(failure: str, **more: Any) -> Failing:
    return failing(of=bird(QUIC), fails=f"quic_handshake:{failure}", **more)


def at_stun(failure: str, **more: Any) -> Failing:
    return failing(of=bird(STUN), fails=f"stun_binding:{failure}", **more)


FAILURE_CASES = {
    "failure.dns.nxdomain.hijack": (
        hijacked(fails=f"tls_handshake:{UNKNOWN_CA}", answers=[FORGED]),
        hijacked(fails=f"tls_handshake:{UNKNOWN_CA}", answers=[TRUE]),
    ),
    "failure.dns.injection.nobody": (forged(), forged(other=True)),
    "failure.freeze.packets": (frozen("freeze.packets"), frozen("freeze")),
    "failure.freeze.bytes": (frozen("freeze.bytes"), frozen(None)),
    "failure.freeze": (frozen("freeze"), frozen("freeze", passed=(1, 26))),
    "failure.quic.timeout.sni": (at_quic(TIMEOUT, neutral=True), at_quic(TIMEOUT, neutral=False)),
    "failure.quic.timeout": (at_quic(TIMEOUT), at_quic("eof_error")),
    "failure.quic.refused": (at_quic(REFUSED), at_tcp(REFUSED)),
    "failure.quic.reset": (at_quic("eof_error"), at_quic("ssl_failed_handshake")),
    "failure.quic": (at_quic("ssl_failed_handshake"), at_quic(TIMEOUT)),
    "failure.stun.timeout": (at_stun(TIMEOUT), at_stun(TIMEOUT, proxy=True)),
    "failure.stun.refused": (at_stun(REFUSED), at_stun(TIMEOUT)),
    "failure.stun": (at_stun("unknown_failure: odd"), at_stun(REFUSED)),
    "failure.dns.bogon": (
        at_tcp(TIMEOUT, answers=[BOGON], alternate=True),
        at_tcp(TIMEOUT, answers=[BOGON], alternate=False),
    ),
    "failure.dns.injection": (
        at_tcp(REFUSED, answers=[FORGED], alternate=True),
        at_tcp(REFUSED, answers=[FORGED], alternate=False),
    ),
    "failure.dns.injection.certificate": (
        at_tls(UNKNOWN_CA, answers=[FORGED], elsewhere=True),
        at_tls(UNKNOWN_CA, elsewhere=True),
    ),
    "failure.dns.injection.ghost": (
        at_tls(UNKNOWN_CA, answers=[FORGED], denied=True),
        at_tls(UNKNOWN_CA, answers=[FORGED], public=()),
    ),
    "failure.dns.injection.race": (
        at_tcp(TIMEOUT, late=(("198.18.1.1",),), elsewhere=True),
        at_tcp(TIMEOUT, late=(("198.18.1.1",),)),
    ),
    "failure.dns.nxdomain": (at_dns("dns_nxdomain_error"), at_dns("dns_no_answer")),
    "failure.dns.timeout": (at_dns(TIMEOUT), at_tcp(TIMEOUT)),
    "failure.dns.refused": (at_dns("dns_refused_error"), at_tcp(REFUSED)),
    "failure.dns.no-answer": (at_dns("dns_no_answer"), at_dns("dns_nxdomain_error")),
    "failure.dns": (at_dns("dns_servfail_error"), at_dns("dns_refused_error")),
    "failure.unreachable": (at_tcp("host_unreachable"), at_tcp(TIMEOUT)),
    "failure.tls.mitm": (at_tls(UNKNOWN_CA, elsewhere=True), at_tls(UNKNOWN_CA)),
    "failure.tls.certificate": (at_tls("ssl_invalid_certificate"), at_tls("ssl_failed_handshake")),
    "failure.unanswered": (at_quic(TIMEOUT, proxy=True), at_tls("eof_error", proxy=True, neutral=True)),
    "failure.tcp.timeout": (at_tcp(TIMEOUT), at_tcp(RESET)),
    "failure.tcp.reset": (at_tcp(RESET), at_tls(RESET)),
    "failure.tcp.refused.proxy": (at_tcp(REFUSED, proxy=True), at_tcp(REFUSED)),
    "failure.tcp.refused": (at_tcp(REFUSED), at_tcp(RESET)),
    "failure.tcp": (at_tcp("unknown_failure: odd"), at_tcp(TIMEOUT)),
    "failure.tls.reset.sni": (at_tls(RESET, neutral=True), at_tls(RESET, neutral=False)),
    "failure.tls.reset": (at_tls(RESET), at_tls(TIMEOUT)),
    "failure.tls.timeout.sni": (at_tls(TIMEOUT, neutral=True), at_tls(TIMEOUT, neutral=False)),
    "failure.tls.timeout": (at_tls(TIMEOUT), at_tls(RESET)),
    "failure.tls.closed.sni": (at_tls("eof_error", neutral=True), at_tls("eof_error", neutral=False)),
    "failure.tls.closed": (at_tls("eof_error"), at_tls(RESET)),
    "failure.tls": (at_tls("ssl_failed_handshake"), at_tls("eof_error")),
    "failure.http.blockpage": (failing(of=bird(HTTP), code=403, elsewhere=True), failing(of=bird(HTTP), code=403)),
    "failure.http.unsigned": (failing(of=bird(HTTP), code=403), at_http(RESET)),
    "failure.http.reset": (at_http(RESET), at_tls(RESET)),
    "failure.http.timeout": (at_http(TIMEOUT), at_http(RESET)),
    "failure.http.closed": (at_http("eof_error"), at_tls("eof_error")),
    "failure.http": (at_http("http_request_failed"), at_http("eof_error")),
}


def test_failures() -> None:
    check_table(FAILURES, FAILURE_CASES)


def test_every_mechanism_is_no_deeper_than_its_rule() -> None:
    for rule in FAILURES:
        assert rule.id.startswith("failure.")
        if rule.then.endswith(".sni"):
            assert FAILURE_CASES[rule.id][0].attempt.neutral_through


def test_ties_go_to_the_earlier_rule() -> None:
    assert commonest(Counter(["http.reset", "tls.reset.sni"])) == "tls.reset.sni"
    assert commonest(Counter(["tls.reset.sni", "dns.bogon"])) == "dns.bogon"
    assert commonest(Counter(["tls.reset", "tls.reset", "dns.bogon"])) == "tls.reset"
    assert commonest(Counter()) is None


@pytest.mark.parametrize(
    ("k", "n", "enough"),
    [
        (1, 1, False),
        (2, 2, True),
        (1, 2, False),
        (2, 3, True),
        (3, 5, False),
        (4, 5, True),
        (2, 4, False),
        (3, 4, True),
    ],
)
def test_two_thirds_and_never_one_alone(k: int, n: int, enough: bool) -> None:
    assert is_quorum(k, n) is enough


# ── ENDPOINT ─────────────────────────────────────────────────────────────────────────────────────────────────────────

OK, REFUSAL, FAULT = attempt(), attempt(code=403), attempt(code=503)
FAIL = attempt(fails=f"tls_handshake:{RESET}")
NAMED = attempt(fails=f"tls_handshake:{RESET}", neutral=True)
UNSURE = attempt(of=bird(TCP), proxy=True)
UNSIGNED = attempt(of=bird(HTTP), answers=[FORGED])
VOID = attempt(fails="connect:network_down")
ALONE = attempt(fails=f"tls_handshake:{RESET}", neutral=True, controls=None)
WHILE_DEAD = attempt(fails=f"tls_handshake:{RESET}", neutral=True, controls=(None, TIMEOUT))
HELLO = attempt(browser=TIMEOUT)
WELL = attempt(browser="ok")
SHAPE = attempt(fails=f"tls_handshake:{TIMEOUT}", neutral=False, browser="ok")
ALL_CUT = attempt(fails=f"tls_handshake:{TIMEOUT}", neutral=False, browser=TIMEOUT)
LIED = forged().attempt
QUIET = attempt(fails=f"tls_handshake:{TIMEOUT}", neutral=True)


def seen(*attempts: Any, **more: Any) -> EndpointSeen:
    return EndpointSeen(attempts, more.pop("planned", 3), **more)


ELSEWHERE: dict[str, Any] = {"elsewhere": ("o9",)}
DOWN: dict[str, Any] = {"down": ("o9",)}
ALIKE: dict[str, Any] = {"alike": ("o9",)}

ENDPOINT_CASES = {
    "endpoint.insufficient.no-udp": (seen(VOID, VOID, VOID, needs_udp=True), seen(VOID, VOID, OK, needs_udp=True)),
    "endpoint.insufficient.unmeasured": (seen(VOID, VOID, VOID), seen(VOID, VOID, OK)),
    FLAKY: (seen(OK, OK, FAIL), seen(*[OK] * 9, FAIL)),
    "endpoint.blocked.hello": (
        seen(HELLO, HELLO, OK, browser_elsewhere=("o9",)),
        seen(HELLO, OK, OK, browser_elsewhere=("o9",)),
    ),
    "endpoint.insufficient.hello": (seen(HELLO, HELLO, OK), seen(HELLO, WELL, WELL)),
    "endpoint.insufficient.shape": (seen(SHAPE, FAIL, FAIL), seen(SHAPE, ALL_CUT, ALL_CUT)),
    "endpoint.blocked.forged": (seen(LIED, LIED, FAIL), seen(LIED, FAIL, FAIL)),
    "endpoint.ok": (seen(OK, OK), seen(OK, FAIL, FAIL)),
    "endpoint.refused": (seen(REFUSAL, REFUSAL, FAULT), seen(REFUSAL, FAULT, FAULT)),
    "endpoint.insufficient.control": (
        seen(WHILE_DEAD, WHILE_DEAD, NAMED, **ELSEWHERE),
        seen(WHILE_DEAD, NAMED, NAMED, **ELSEWHERE),
    ),
    "endpoint.insufficient.alike": (seen(QUIET, QUIET, QUIET, **ALIKE), seen(QUIET, QUIET, QUIET)),
    "endpoint.blocked.works-here": (seen(NAMED, NAMED, FAIL), seen(NAMED, FAIL, FAIL)),
    "endpoint.blocked.works-elsewhere": (seen(FAIL, FAIL, FAIL, **ELSEWHERE), seen(FAIL, FAIL, FAIL)),
    "endpoint.insufficient.no-control": (
        seen(ALONE, ALONE, FAIL, **ELSEWHERE),
        seen(ALONE, FAIL, FAIL, **ELSEWHERE),
    ),
    "endpoint.down": (seen(FAIL, FAULT, FAIL, **DOWN), seen(FAIL, FAULT, FAIL)),
    "endpoint.insufficient.server-error": (seen(FAULT, FAULT, OK), seen(FAULT, FAULT, FAIL, **DOWN)),
    "endpoint.insufficient.unsigned": (seen(UNSIGNED, UNSIGNED, FAIL), seen(UNSURE, UNSURE, UNSURE)),
    "endpoint.insufficient.unproven": (seen(UNSURE, UNSURE, FAIL), seen(UNSURE, FAIL, FAIL)),
    "endpoint.insufficient.no-witness": (seen(FAIL, FAIL, FAIL), seen(FAIL, FAIL, FAIL, **ELSEWHERE)),
    "endpoint.insufficient.mixed": (seen(OK, FAULT, REFUSAL), seen(OK, OK, REFUSAL)),
}


def test_endpoint() -> None:
    check_table(ENDPOINT, ENDPOINT_CASES)


def test_one_sample_is_never_enough() -> None:
    for one in (OK, REFUSAL, NAMED):
        assert judge_endpoint(seen(one, planned=1)).state is State.INSUFFICIENT
        assert judge_endpoint(seen(one, planned=3)).state is State.INSUFFICIENT


def test_what_was_planned_and_not_measured_counts_against() -> None:
    assert judge_endpoint(seen(OK, OK, planned=3)).state is State.OK
    assert judge_endpoint(seen(OK, OK, planned=5)).state is State.INSUFFICIENT


def test_a_verdict_tells_how_many_tries_agree() -> None:
    verdict = judge_endpoint(seen(NAMED, NAMED, VOID))
    assert (verdict.state, verdict.attempts) == (State.BLOCKED, (2, 2))
    verdict = judge_endpoint(seen(*[NAMED] * 9, OK))
    assert (verdict.state, verdict.attempts) == (State.BLOCKED, (9, 10))
    assert set(verdict.witnesses) == set(NAMED.witnesses)


@pytest.mark.parametrize(
    ("answered", "failed", "state"),
    [
        (10, 0, State.OK),
        (9, 1, State.OK),
        (8, 2, State.INSUFFICIENT),
        (5, 5, State.INSUFFICIENT),
        (2, 8, State.INSUFFICIENT),
        (1, 9, State.BLOCKED),
        (0, 10, State.BLOCKED),
        (8, 1, State.INSUFFICIENT),
        (2, 1, State.INSUFFICIENT),
        (1, 2, State.INSUFFICIENT),
        (0, 3, State.BLOCKED),
    ],
)
def test_what_flips_is_neither_ok_nor_blocked(answered: int, failed: int, state: State) -> None:
    verdict = judge_endpoint(seen(*[OK] * answered, *[NAMED] * failed))
    assert verdict.state is state
    if state is State.INSUFFICIENT:
        assert (verdict.rule, verdict.attempts) == (FLAKY, (answered, answered + failed))


# ── browsers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("failure", "mechanism"),
    [(TIMEOUT, "tls.timeout.hello"), (RESET, "tls.reset.hello"), ("eof_error", "tls.closed.hello")],
)
def test_what_cuts_browsers_alone_is_a_block(failure: str, mechanism: str) -> None:
    cut = attempt(browser=failure)
    verdict = judge_endpoint(seen(cut, cut, cut, OK, browser_elsewhere=("o9",)))
    assert (verdict.state, verdict.mechanism, verdict.attempts) == (State.BLOCKED, mechanism, (3, 3))
    assert "o9" in verdict.witnesses
    assert judge_endpoint(seen(cut, OK, OK, browser_elsewhere=("o9",))).rule == "endpoint.insufficient.hello"


def test_a_browser_cut_while_the_controls_fail_says_nothing() -> None:
    while_dead = attempt(browser=TIMEOUT, controls=(None, TIMEOUT))
    assert judge_endpoint(seen(while_dead, while_dead, while_dead)).state is State.OK


def test_a_browser_that_looks_at_no_certificate_excuses_no_interceptor() -> None:
    mitm = attempt(fails=f"tls_handshake:{UNKNOWN_CA}", neutral=True, browser="ok")
    assert judge_endpoint(seen(mitm, mitm, mitm, **ELSEWHERE)).mechanism == "tls.mitm"


# ── freezes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def silent(*passed: tuple[int, int], at: str = "http_round_trip", trickles: Any = (), **reach: Any) -> EndpointSeen:
    """Tries that fall silent after (bytes, segments), with a vantage where it answers, and trickles (answered)."""
    world = World()
    for answered in trickles:
        world.trickle("outside", "bird", answered=answered)
    reach = {"neutral": False, **reach}
    tries = (attempt(fails=f"{at}:{TIMEOUT}", passed=one, **reach) for one in passed)
    return seen(*tries, trickles=tuple(world.observations), **ELSEWHERE)


PAGE, BODY, HEAD = (9500, 25), (16_400, 27), (5000, 15)


@pytest.mark.parametrize(
    ("facts", "mechanism"),
    [
        (silent(PAGE, PAGE, PAGE, trickles=[False]), "freeze.packets"),
        (silent(PAGE, PAGE, PAGE, at="tls_handshake", trickles=[False] * 3), "freeze.packets"),
        (silent(PAGE, PAGE, PAGE, at="tls_handshake"), "freeze"),
        (silent(BODY, BODY, BODY, trickles=[True] * 3), "freeze.bytes"),
        (silent(BODY, BODY, BODY, trickles=[True, False]), "freeze"),
        (silent(BODY, BODY, BODY), "freeze"),
        # A small answer to the neutral name may pass within the budget that the page exceeds.
        (silent(BODY, BODY, BODY, neutral=True, neutral_passed=HEAD), "freeze"),
        # The neutral name got as far as the platform's, and through: it is the name.
        (silent(PAGE, PAGE, PAGE, neutral=True, neutral_passed=(16_400, 40), trickles=[False]), "http.timeout"),
        (silent(PAGE, PAGE, PAGE, at="tls_handshake", neutral=True, neutral_passed=(9900, 30)), "tls.timeout.sni"),
        # A server that hangs after its handshake.
        (silent(HEAD, HEAD, HEAD), "http.timeout"),
        (silent(HEAD, HEAD, HEAD, trickles=[True]), "http.timeout"),
        # Not a byte came.
        (silent((0, 4), (0, 4), (0, 4), at="tls_handshake", trickles=[False]), "tls.timeout"),
        (silent((1, 12), (1, 12), (1, 12), at="tls_handshake", trickles=[False]), "tls.timeout"),
        # Too little, too much, and never as much twice.
        (silent((3000, 9), (3000, 9), (3000, 9), at="tls_handshake", trickles=[False]), "tls.timeout"),
        (silent((60_000, 90), (61_000, 91), (60_000, 90), trickles=[False]), "http.timeout"),
        (silent((14_000, 20), (30_000, 50), (20_000, 30)), "http.timeout"),
        (silent(PAGE, PAGE, PAGE, proxy=True, trickles=[False]), "http.timeout"),
    ],
)
def test_freezes_and_what_only_looks_like_them(facts: EndpointSeen, mechanism: str) -> None:
    verdict = judge_endpoint(facts)
    assert (verdict.state, verdict.mechanism) == (State.BLOCKED, mechanism)


def test_a_freeze_of_packets_names_the_trickle() -> None:
    facts = silent(PAGE, PAGE, PAGE, trickles=[False])
    assert facts.trickles[0].id in judge_endpoint(facts).witnesses
    assert info(*PAGE).segments_received is not None
    assert PAGE[0] < 12 * KIB


def test_a_failure_while_the_controls_fail_names_them() -> None:
    dead = {one.id for attempt in (WHILE_DEAD,) if attempt.doubt for one in attempt.doubt.dead}
    assert dead
    assert dead <= set(judge_endpoint(seen(WHILE_DEAD, WHILE_DEAD, WHILE_DEAD)).witnesses)


def test_a_true_answer_needs_no_control() -> None:
    assert judge_endpoint(seen(*(attempt(controls=None) for _ in range(3)))).state is State.OK


def test_the_mechanism_is_that_of_most_tries() -> None:
    assert judge_endpoint(seen(NAMED, NAMED, FAIL)).mechanism == "tls.reset.sni"
    assert judge_endpoint(seen(NAMED, FAIL, FAIL, **ELSEWHERE)).mechanism == "tls.reset"


def test_a_refusal_names_its_status() -> None:
    assert judge_endpoint(seen(REFUSAL, REFUSAL, REFUSAL)).mechanism == "http.403"
    challenge = attempt(code=403, challenge=True)
    assert judge_endpoint(seen(challenge, challenge, challenge)).mechanism == "http.challenge"


def test_a_platforms_own_fault_everywhere_is_down_by_it() -> None:
    verdict = judge_endpoint(seen(FAULT, FAULT, FAULT, **DOWN))
    assert (verdict.state, verdict.mechanism) == (State.DOWN, "http.error")


def test_a_block_names_the_vantage_that_answers_among_its_witnesses() -> None:
    assert "o9" in judge_endpoint(seen(FAIL, FAIL, FAIL, **ELSEWHERE)).witnesses


# ── SERVICE ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def verdict(state: State, rule: str = "") -> EndpointVerdict:
    return EndpointVerdict(state, None, rule, (), (3, 3))


O, B, R, D, N = map(verdict, (State.OK, State.BLOCKED, State.REFUSED, State.DOWN, State.INSUFFICIENT))  # noqa: E741
U = verdict(State.INSUFFICIENT, UNPROVEN)


def any_of(*endpoints: EndpointVerdict) -> ServiceSeen:
    return ServiceSeen(True, endpoints)


def all_of(*endpoints: EndpointVerdict) -> ServiceSeen:
    return ServiceSeen(False, endpoints)


SERVICE_CASES = {
    "service.ok": (any_of(B, O, N), all_of(B, O, N)),
    "service.insufficient.unproven": (all_of(U, O), all_of(U, N)),
    "service.insufficient.may-work": (any_of(B, N), all_of(B, N)),
    "service.blocked": (all_of(O, B, R), all_of(O, R)),
    "service.refused": (any_of(R, D), any_of(R, O)),
    "service.insufficient": (all_of(O, N), all_of(O, O)),
    "service.down": (all_of(O, D), all_of(D, N)),
}


def test_service() -> None:
    check_table(SERVICE, SERVICE_CASES)


@pytest.mark.parametrize("of", [any_of, all_of])
def test_a_service_without_evidence_is_never_ok(of: Any) -> None:
    assert first(SERVICE, of()).then is State.INSUFFICIENT


# ── near misses ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("facts", "mechanism"),
    [
        (at_tls(UNKNOWN_CA, answers=[FORGED]), "tls.certificate"),
        (at_tls("ssl_failed_handshake", neutral=True), "tls.failed"),
        (at_quic("eof_error", neutral=True), "quic.reset"),
        (at_quic(REFUSED, neutral=True), "quic.refused"),
    ],
)
def test_what_is_not_meant_by_the_deeper_rule(facts: Failing, mechanism: str) -> None:
    assert first(FAILURES, facts).then == mechanism


BROWSED: dict[str, Any] = {"browser_elsewhere": ("o9",)}
TURNED_AWAY = attempt(code=403, browser=TIMEOUT)


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        (seen(TURNED_AWAY, TURNED_AWAY, TURNED_AWAY, **BROWSED), "endpoint.refused"),
        (seen(TURNED_AWAY, TURNED_AWAY, TURNED_AWAY), "endpoint.refused"),
        (seen(HELLO, HELLO, WELL, **BROWSED), "endpoint.blocked.hello"),
        (seen(HELLO, HELLO, WELL, WELL, **BROWSED), "endpoint.ok"),
        (seen(SHAPE, SHAPE, ALL_CUT), "endpoint.insufficient.shape"),
        (seen(SHAPE, ALL_CUT, FAIL), "endpoint.insufficient.no-witness"),
    ],
)
def test_two_thirds_of_the_browsers(facts: EndpointSeen, rule: str) -> None:
    assert judge_endpoint(facts).rule == rule


@pytest.mark.parametrize(
    ("answered", "doubtful", "rule"),
    [
        (2, 1, "endpoint.ok"),
        (7, 3, "endpoint.ok"),
        (6, 4, "endpoint.insufficient.mixed"),
        (2, 8, "endpoint.insufficient.control"),
    ],
)
def test_a_failure_in_doubt_is_no_failure_and_no_answer(answered: int, doubtful: int, rule: str) -> None:
    assert judge_endpoint(seen(*[OK] * answered, *[WHILE_DEAD] * doubtful)).rule == rule
