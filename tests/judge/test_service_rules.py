"""Rules for failed tries, endpoints and services, each with a case and a near miss."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from records import BOGON, FORGED, REFUSED, RESET, TIMEOUT
from tables import HTTP, TCP, attempt, bird, check_table

from vpntest.judge.rule import first
from vpntest.judge.service_rules import (
    ENDPOINT,
    FAILURES,
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


FAILURE_CASES = {
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
    "failure.unanswered": (at_tls("eof_error", proxy=True), at_tls("eof_error", proxy=True, neutral=True)),
    "failure.tcp.timeout": (at_tcp(TIMEOUT), at_tcp(RESET)),
    "failure.tcp.reset": (at_tcp(RESET), at_tls(RESET)),
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
VOID = attempt(fails="connect:network_down")
ALONE = attempt(fails=f"tls_handshake:{RESET}", neutral=True, controls=None)
WHILE_DEAD = attempt(fails=f"tls_handshake:{RESET}", neutral=True, controls=(None, TIMEOUT))
QUIET = attempt(fails=f"tls_handshake:{TIMEOUT}", neutral=True)


def seen(*attempts: Any, **more: Any) -> EndpointSeen:
    return EndpointSeen(attempts, more.pop("planned", 3), **more)


ELSEWHERE: dict[str, Any] = {"elsewhere": ("o9",)}
DOWN: dict[str, Any] = {"down": ("o9",)}
ALIKE: dict[str, Any] = {"alike": ("o9",)}

ENDPOINT_CASES = {
    "endpoint.insufficient.unmeasured": (seen(VOID, VOID, VOID), seen(VOID, VOID, OK)),
    "endpoint.ok": (seen(OK, OK, FAIL), seen(OK, FAIL, FAIL)),
    "endpoint.refused": (seen(REFUSAL, REFUSAL, FAIL), seen(REFUSAL, FAULT, FAULT)),
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
    "endpoint.insufficient.unproven": (seen(UNSURE, UNSURE, FAIL), seen(UNSURE, FAIL, FAIL)),
    "endpoint.insufficient.no-witness": (seen(FAIL, FAIL, FAIL), seen(FAIL, FAIL, FAIL, **ELSEWHERE)),
    "endpoint.insufficient.mixed": (seen(OK, FAIL, REFUSAL), seen(OK, OK, REFUSAL)),
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
    verdict = judge_endpoint(seen(NAMED, NAMED, OK))
    assert (verdict.state, verdict.attempts) == (State.BLOCKED, (2, 3))
    assert set(verdict.witnesses) == set(NAMED.witnesses)


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
