"""What one try of an endpoint comes to, before any rule is asked."""

from __future__ import annotations

from typing import Any

import pytest
from records import BOGON, FORGED, REFUSED, RESET, TIMEOUT, TRUE, World
from tables import HTTP, HTTPS, QUIC, STUN, TCP, attempt, bird

from vpntest.judge.attempts import Layer, Seen, proven_addresses
from vpntest.judge.controls import Proof
from vpntest.judge.reading import read
from vpntest.plan.model import Endpoint, Platform, Service
from vpntest.probe.observation import TcpConnect, TcpInfo


@pytest.mark.parametrize(
    ("of", "reach", "seen"),
    [
        (bird(HTTPS), {"code": 200}, Seen.REACHED),
        (bird(HTTPS), {"code": 404}, Seen.REACHED),
        (bird(HTTPS), {"code": 302, "location": "https://elsewhere.example/"}, Seen.REACHED),
        (bird(HTTPS), {"code": 403}, Seen.REFUSED),
        (bird(HTTPS), {"code": 429}, Seen.REFUSED),
        (bird(HTTPS), {"code": 451}, Seen.REFUSED),
        (bird(HTTPS), {"code": 200, "challenge": True}, Seen.REFUSED),
        (bird(HTTPS), {"code": 503, "challenge": True}, Seen.REFUSED),
        (bird(HTTPS), {"code": 503}, Seen.FAULT),
        (bird(HTTPS), {"fails": "http_round_trip:http_request_failed"}, Seen.FAULT),
        (bird(HTTP), {"fails": "http_round_trip:http_request_failed"}, Seen.FAILED),
        (bird(HTTPS, 403), {"code": 403}, Seen.REACHED),
        (bird(HTTPS, 403), {"code": 403, "challenge": True}, Seen.REFUSED),
        (bird(HTTP), {"code": 299, "location": "http://blocked.example/"}, Seen.REACHED),
        (bird(HTTP), {"code": 300, "location": "http://blocked.example/"}, Seen.FAILED),
        (bird(HTTP), {"code": 399, "location": "http://blocked.example/"}, Seen.FAILED),
        (bird(HTTP), {"code": 400, "location": "http://blocked.example/"}, Seen.REACHED),
        (bird(HTTP), {"code": 304}, Seen.REACHED),
        (bird(HTTPS, 501), {"code": 501}, Seen.REACHED),
        (bird(HTTPS, 204), {"code": 200}, Seen.FAULT),
        (bird(HTTP, 501), {"code": 501}, Seen.REACHED),
        (bird(HTTP), {"code": 200}, Seen.REACHED),
        (bird(HTTP), {"code": 403}, Seen.FAILED),
        (bird(HTTP), {"code": 503}, Seen.FAILED),
        (bird(HTTP), {"code": 302, "location": "http://blocked.example/"}, Seen.FAILED),
        (bird(HTTP, 501), {"code": 200}, Seen.FAILED),
        (bird(TCP), {}, Seen.REACHED),
        (bird(TCP), {"answers": [FORGED]}, Seen.UNPROVEN),
        (bird(TCP), {"answers": [BOGON]}, Seen.FAILED),
        (bird(TCP), {"answers": [BOGON, TRUE]}, Seen.UNPROVEN),
        (bird(TCP), {"answers": [BOGON], "public": ()}, Seen.FAILED),
        (bird(TCP), {"answers": [FORGED], "public": ()}, Seen.REACHED),
        (bird(TCP), {"fails": f"connect:{REFUSED}"}, Seen.FAILED),
        (bird(TCP), {"answers": [FORGED], "late": ((TRUE,),)}, Seen.FAILED),
        (bird(TCP), {"answers": [TRUE], "late": ((FORGED,),)}, Seen.REACHED),
        (bird(HTTPS), {"fails": "connect:permission_denied", "answers": ["255.255.255.255"]}, Seen.FAILED),
        (bird(HTTPS), {"fails": "connect:carrier_exited", "answers": [BOGON]}, Seen.VOID),
        (bird(HTTPS), {"fails": "connect:network_down"}, Seen.VOID),
        (bird(HTTPS), {"fails": "connect:permission_denied"}, Seen.VOID),
        (bird(HTTPS), {"fails": "connect:network_unreachable"}, Seen.FAILED),
        (bird(HTTPS), {"fails": "connect:network_unreachable", "answers": ["fd00::1"]}, Seen.VOID),
    ],
)
def test_what_a_try_comes_to(of: Platform, reach: dict[str, Any], seen: Seen) -> None:
    assert attempt(of, **reach).seen is seen


def test_a_proxys_own_connect_proves_nothing() -> None:
    assert attempt(bird(TCP), proxy=True).seen is Seen.UNPROVEN
    assert attempt(bird(TCP), proxy=True, answers=[BOGON]).layer is Layer.DNS
    assert attempt(bird(HTTPS), proxy=True).seen is Seen.REACHED


@pytest.mark.parametrize(
    ("lies", "reach", "seen"),
    [
        ({"nobody": [FORGED]}, {"answers": [FORGED]}, Seen.FAILED),
        ({"nobody": [FORGED]}, {"answers": [FORGED], "public": [FORGED]}, Seen.UNPROVEN),
        ({"nobody": None}, {"answers": [FORGED]}, Seen.UNPROVEN),
        ({"nobody": [FORGED], "other": True}, {"answers": [FORGED]}, Seen.UNPROVEN),
        ({"nobody": None}, {"answers": [TRUE]}, Seen.REACHED),
    ],
)
def test_an_open_port_where_somebody_forges_its_name(lies: dict[str, Any], reach: dict[str, Any], seen: Seen) -> None:
    read_so = attempt(bird(TCP), before=lambda world: world.names("outside", "bird.example", **lies), **reach)
    assert read_so.seen is seen
    assert bool(read_so.forged) is (seen is Seen.FAILED)


def test_the_count_of_a_close_proves_nothing_through_a_proxy() -> None:
    for count, seen in ((1, Seen.UNPROVEN), (2, Seen.REACHED)):
        world = World(bird(TCP), attempts=1)
        world.tunnel("p", proxy=True)
        info = TcpInfo(bytes_received=count, bytes_acked=1, retransmits=0, unacked=0, rtt_ms=1.0, since_last_data_ms=0)
        where = {"platform": "bird", "service": "web", "endpoint": TCP, "attempt": 1}
        world.add("p", "reach", "connect", TcpConnect(TRUE, 443), tcp=info, **where)
        [[only]] = read(world.record()).attempts["bird", "web", TCP].values()
        assert only.seen is seen


def test_bytes_from_the_far_side_prove_a_connect_through_a_proxy() -> None:
    world = World(bird(TCP), attempts=1)
    world.tunnel("p", proxy=True)
    info = TcpInfo(bytes_received=12, bytes_acked=1, retransmits=0, unacked=0, rtt_ms=1.0, since_last_data_ms=0)
    where = {"platform": "bird", "service": "web", "endpoint": TCP, "attempt": 1}
    world.add("p", "reach", "connect", TcpConnect(TRUE, 443), tcp=info, **where)
    [[only]] = read(world.record()).attempts["bird", "web", TCP].values()
    assert only.seen is Seen.REACHED


@pytest.mark.parametrize(
    ("fails", "layer"),
    [
        ("resolve:dns_nxdomain_error", Layer.DNS),
        (f"connect:{TIMEOUT}", Layer.TCP),
        (f"tls_handshake:{RESET}", Layer.TLS),
        (f"http_round_trip:{RESET}", Layer.HTTP),
    ],
)
def test_where_a_chain_ended(fails: str, layer: Layer) -> None:
    read_so = attempt(fails=fails)
    assert (read_so.seen, read_so.layer, read_so.failure) == (Seen.FAILED, layer, fails.split(":")[1])


@pytest.mark.parametrize("last", ["resolve", "connect", "tls_handshake"])
def test_a_chain_cut_short_without_a_failure_is_no_evidence(last: str) -> None:
    world = World(attempts=1)
    world.reach("outside", "bird")
    upto = [one.operation for one in world.observations].index(last) + 1
    world.observations = world.observations[: upto + (last == "resolve")]
    [[only]] = read(world.record()).attempts["bird", "web", "https://bird.example/"].values()
    assert only.seen is Seen.VOID


def test_an_answer_without_its_handshake_is_no_evidence() -> None:
    world = World(attempts=1)
    world.reach("outside", "bird")
    world.observations = [one for one in world.observations if one.operation != "tls_handshake"]
    [[only]] = read(world.record()).attempts["bird", "web", "https://bird.example/"].values()
    assert only.seen is Seen.VOID


def test_an_answer_that_points_at_this_box_needs_no_connect_to_be_a_failure() -> None:
    world = World(attempts=1)
    world.line()
    where = {"platform": "bird", "service": "web", "endpoint": "https://bird.example/", "attempt": 1}
    world.add("outside", "reach", "resolve", world.dns("bird.example", ["127.0.0.1"]), **where)
    [[only]] = read(world.record()).attempts["bird", "web", "https://bird.example/"].values()
    assert (only.seen, only.layer, only.is_bogon) == (Seen.FAILED, Layer.DNS, True)


def test_one_true_address_among_bogons_is_an_answer() -> None:
    assert not attempt(answers=[BOGON, TRUE]).is_bogon


@pytest.mark.parametrize(
    ("fails", "neutral", "alternate", "expected"),
    [
        (f"tls_handshake:{RESET}", True, None, True),
        (f"tls_handshake:{RESET}", False, None, False),
        (f"tls_handshake:{RESET}", None, None, False),
        ("tls_handshake:ssl_unknown_authority", True, None, False),
        ("tls_handshake:ssl_unknown_authority", None, True, True),
        (f"connect:{TIMEOUT}", True, None, False),
        (f"connect:{TIMEOUT}", None, True, True),
        (f"http_round_trip:{RESET}", True, None, True),
        (None, True, True, False),
    ],
)
def test_what_shows_that_the_server_can_be_reached(
    fails: str | None, neutral: bool | None, alternate: bool | None, expected: bool
) -> None:
    assert attempt(fails=fails, neutral=neutral, alternate=alternate).works_here is expected


@pytest.mark.parametrize(
    ("fails", "neutral", "alternate", "expected"),
    [
        (f"tls_handshake:{RESET}", True, None, True),
        (f"tls_handshake:{TIMEOUT}", True, None, False),
        ("tls_handshake:eof_error", True, None, False),
        (f"tls_handshake:{TIMEOUT}", True, True, True),
        (f"tls_handshake:{RESET}", False, None, False),
        (None, True, None, False),
    ],
)
def test_what_shows_that_somebody_on_the_way_does_it(
    fails: str | None, neutral: bool | None, alternate: bool | None, expected: bool
) -> None:
    assert attempt(fails=fails, neutral=neutral, alternate=alternate).is_cut_by_name is expected


def test_a_neutral_name_that_stops_where_the_platforms_name_did_got_through_nothing() -> None:
    assert not attempt(fails=f"http_round_trip:{TIMEOUT}", neutral=False).neutral_through


def test_a_failure_is_void_unless_the_line_was_alive_about_it() -> None:
    world = World(attempts=1)
    world.at(0.0).control("outside", "before")
    world.at(9.0, 8.0).control("outside", "during", TIMEOUT)
    world.at(10.0, 8.0).reach("outside", "bird", fails=f"connect:{TIMEOUT}")
    world.at(19.0).control("outside", "during")
    world.at(10.0).reach("outside", "bird")
    world.at(20.0).reach("outside", "bird", fails=f"connect:{REFUSED}")
    world.at(24.0).control("outside", "during")
    [attempts] = read(world.record()).attempts["bird", "web", "https://bird.example/"].values()
    assert [one.seen for one in attempts] == [Seen.VOID, Seen.REACHED, Seen.FAILED]
    assert attempts[0].doubt == Proof(False, tuple(one for one in world.observations if one.phase == "during")[1:2])


# ── QUIC, STUN, late answers, bare connects ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("of", "reach", "seen", "layer"),
    [
        (bird(QUIC), {}, Seen.REACHED, None),
        (bird(QUIC), {"code": 403}, Seen.REFUSED, None),
        (bird(QUIC), {"fails": "http_round_trip:http_request_failed"}, Seen.FAULT, None),
        (bird(QUIC), {"fails": f"quic_handshake:{TIMEOUT}"}, Seen.FAILED, Layer.QUIC),
        (bird(QUIC), {"fails": f"http_round_trip:{TIMEOUT}"}, Seen.FAILED, Layer.HTTP),
        (bird(QUIC), {"fails": "resolve:dns_nxdomain_error"}, Seen.FAILED, Layer.DNS),
        (bird(QUIC), {"fails": "quic_handshake:network_unreachable", "answers": ["fd00::1"]}, Seen.VOID, None),
        (bird(STUN), {}, Seen.REACHED, None),
        (bird(STUN), {"answers": [FORGED]}, Seen.UNPROVEN, None),
        (bird(STUN), {"answers": [BOGON]}, Seen.FAILED, Layer.DNS),
        (bird(STUN), {"fails": f"stun_binding:{TIMEOUT}"}, Seen.FAILED, Layer.STUN),
    ],
)
def test_what_a_try_over_udp_comes_to(of: Platform, reach: dict[str, Any], seen: Seen, layer: Layer | None) -> None:
    read_so = attempt(of, **reach)
    assert (read_so.seen, read_so.layer) == (seen, layer)


def test_a_stun_answer_through_a_proxy_is_the_far_sides() -> None:
    assert attempt(bird(STUN), proxy=True).seen is Seen.REACHED


@pytest.mark.parametrize("neutral", [True, False])
def test_quic_is_compared_by_name(neutral: bool) -> None:
    read_so = attempt(bird(QUIC), fails=f"quic_handshake:{TIMEOUT}", neutral=neutral)
    assert (read_so.neutral_through, read_so.works_here) == (neutral, neutral)


def test_a_second_answer_makes_an_address_doubtful() -> None:
    assert attempt(late=((TRUE,),)).is_misled
    assert not attempt().is_misled


@pytest.mark.parametrize(
    ("browser", "through", "cut"),
    [("ok", True, None), (TIMEOUT, False, TIMEOUT), (RESET, False, RESET), ("ssl_failed_handshake", False, None)],
)
def test_what_a_browsers_handshake_comes_to(browser: str, through: bool, cut: str | None) -> None:
    read_so = attempt(browser=browser)
    assert (read_so.browser_through, read_so.browser_cut) == (through, cut)
    assert attempt(browser=browser, controls=None).browser_cut is None


CHAT = Platform("bird", "Bird", (Service("chat", (Endpoint(TCP),)), Service("web", (Endpoint(HTTPS), Endpoint(QUIC)))))


@pytest.mark.parametrize(
    ("web", "seen"),
    [
        ({"fails": f"tls_handshake:{TIMEOUT}", "neutral": False}, Seen.UNPROVEN),
        ({"fails": f"tls_handshake:{TIMEOUT}"}, Seen.UNPROVEN),
        # Data passes under another name, or came before the silence, or somebody answers with a reset.
        ({"fails": f"tls_handshake:{TIMEOUT}", "neutral": True}, Seen.REACHED),
        ({"fails": f"tls_handshake:{TIMEOUT}", "passed": (5000, 26)}, Seen.REACHED),
        ({"fails": f"tls_handshake:{RESET}"}, Seen.REACHED),
        ({"fails": f"connect:{TIMEOUT}"}, Seen.REACHED),
        ({}, Seen.REACHED),
    ],
)
def test_a_connect_proves_nothing_where_no_data_passes_to_the_platform(web: dict[str, Any], seen: Seen) -> None:
    world = World(CHAT, attempts=1)
    world.line()
    world.reach("outside", "bird", endpoint=TCP, service="chat")
    world.reach("outside", "bird", endpoint=HTTPS, service="web", **web)
    [[only]] = read(world.record()).attempts["bird", "chat", TCP].values()
    assert only.seen is seen


def test_what_answers_once_shows_that_data_passes() -> None:
    world = World(CHAT, attempts=1)
    world.line()
    world.reach("outside", "bird", endpoint=TCP, service="chat")
    world.reach("outside", "bird", endpoint=HTTPS, service="web", fails=f"tls_handshake:{TIMEOUT}")
    world.reach("outside", "bird", endpoint=QUIC, service="web")
    [[only]] = read(world.record()).attempts["bird", "chat", TCP].values()
    assert only.seen is Seen.REACHED


def test_addresses_with_a_valid_certificate_are_proven() -> None:
    world = World()
    world.reach("outside", "bird", fails=f"http_round_trip:{TIMEOUT}", neutral=True, browser="ok")
    assert proven_addresses(world.observations) == {"bird.example": {TRUE}}
