"""What single observations come to, before any rule is asked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from records import BOGON, FORGED, KIB, REFUSED, RESET, TIMEOUT, TRUE, World
from tables import HTTP, HTTPS, TCP, attempt, bird

from vpntest.judge.reading import BOGONS, PORTION, Controls, Layer, Proof, Sample, Seen, read
from vpntest.plan.model import Platform
from vpntest.probe.observation import Address, TcpConnect, TcpInfo, Transfer


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


@pytest.mark.parametrize("address", ["10.10.34.35", "127.0.0.1", "0.0.0.0", "192.168.1.1", "::1", "fe80::1"])
def test_bogons(address: str) -> None:
    assert attempt(answers=[address]).is_bogon


@pytest.mark.parametrize("address", ["198.18.0.1", "198.19.255.255", "fd00::1", "149.154.167.51", "2a00:1450::1"])
def test_no_bogons(address: str) -> None:
    """The lab's own networks among them."""
    assert not attempt(answers=[address]).is_bogon
    assert BOGONS


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


# ── controls ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_controls_are_good_when_one_of_them_answers_in_each_phase() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.control("outside", "before")
    world.control("outside", "after")
    controls = read(world.record()).controls["outside"]
    assert controls.are_good
    assert controls.worked_after
    assert controls.dead_before == ()


def test_a_phase_in_which_none_answers_makes_controls_bad() -> None:
    world = World()
    world.control("outside", "before")
    world.control("outside", "after", TIMEOUT)
    controls = read(world.record()).controls["outside"]
    assert not controls.are_good
    assert controls.around(9.0, 9.5) == Proof(False, (world.observations[-1],))
    assert controls.dead_before == ()


def controls(*asked: tuple[str, float, float, str | None], **urls: Any) -> Controls:
    """`(phase, when, how long if it fails, failure)` of each control."""
    world = World()
    for phase, when, lasts, failure in asked:
        world.at(when, lasts).control("outside", phase, failure, **urls)
    return read(world.record()).controls["outside"]


BEFORE, AFTER = ("before", 0.0, 0.0, None), ("after", 90.0, 0.0, None)


@pytest.mark.parametrize(
    ("during", "alive"),
    [
        # A connect that times out from 20 to 28.
        ([("during", 24.0, 0.0, None)], True),
        ([("during", 16.0, 0.0, None), ("during", 29.0, 0.0, None)], True),
        ([("during", 16.0, 0.0, None)], True),
        ([("during", 32.9, 0.0, None)], True),
        ([("during", 14.0, 0.0, None), ("during", 34.0, 0.0, None)], False),
        ([("during", 24.0, 8.0, TIMEOUT)], False),
        ([("during", 19.0, 0.0, None), ("during", 22.0, 8.0, TIMEOUT), ("during", 29.0, 0.0, None)], False),
        ([("during", 22.0, 8.0, TIMEOUT), ("during", 24.0, 0.0, None)], True),
        ([("during", 19.0, 0.0, None), ("during", 28.5, 8.0, TIMEOUT)], False),
        ([("during", 16.0, 1.0, TIMEOUT), ("during", 29.0, 0.0, None)], False),
        ([("during", 16.0, 1.0, TIMEOUT), ("during", 24.0, 0.0, None)], True),
        ([("during", 16.0, 1.0, TIMEOUT), ("during", 18.0, 0.0, None), ("during", 29.0, 0.0, None)], True),
    ],
)
def test_a_line_is_alive_about_a_failure_where_controls_work_about_it(during: list[Any], alive: bool) -> None:
    assert controls(BEFORE, *during, AFTER).around(20.0, 28.0).alive is alive


def test_one_control_that_hangs_does_not_void_a_short_failure() -> None:
    hanging = [("during", 18.0, 8.0, TIMEOUT), ("during", 30.0, 0.0, None)]
    assert not controls(BEFORE, *hanging, AFTER).around(20.0, 20.1).alive
    assert controls(BEFORE, *hanging, ("during", 19.0, 0.0, None), AFTER).around(20.0, 20.1).alive


def test_without_a_success_afterwards_a_line_may_be_dead_since() -> None:
    ended = ("during", 19.0, 0.0, None)
    assert not controls(BEFORE, ended).around(20.0, 28.0).alive
    assert controls(BEFORE, ended, ("during", 60.0, 0.0, None)).around(20.0, 28.0).alive
    assert controls(BEFORE, ended, AFTER).around(20.0, 28.0).alive


@pytest.mark.parametrize("asked", [[], [BEFORE], [AFTER], [BEFORE, ("after", 90.0, 8.0, TIMEOUT)]])
def test_without_controls_during_the_platforms_those_before_and_after_must_both_work(asked: list[Any]) -> None:
    seen = controls(*asked) if asked else Controls()
    assert not seen.around(20.0, 28.0).alive
    assert controls(BEFORE, AFTER).around(20.0, 28.0).alive


def test_a_control_that_never_answers_here_says_nothing_of_a_moment() -> None:
    world = World()
    world.at(0.0).control("outside", "before")
    world.at(18.0).control("outside", "during")
    world.at(19.0, 8.0).control("outside", "during", TIMEOUT, url="https://blocked.example/")
    world.at(90.0).control("outside", "after")
    assert read(world.record()).controls["outside"].around(20.0, 20.1).alive


def test_a_controls_refusal_under_its_own_certificate_shows_that_the_line_works() -> None:
    world = World()
    world.control("outside", "before", code=429)
    assert read(world.record()).controls["outside"].dead_before == ()
    world = World()
    world.control("outside", "before", code=511)
    world.observations = [one for one in world.observations if one.operation != "tls_handshake"]
    assert read(world.record()).controls["outside"].dead_before == (world.observations[-1].id,)


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


# ── transfers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def sample(size: int, seconds: float, failure: str | None = None, **more: Any) -> Sample:
    world = World()
    world.transfer("outside", "speed", size, seconds, failure, **more)
    observation = world.observations[0]
    assert isinstance(observation.details, Transfer)
    return Sample(observation, observation.details)


def test_goodput_of_a_whole_transfer_is_timed_by_its_own_bytes() -> None:
    assert sample(64 * KIB, 2.0).goodput == pytest.approx(64 * KIB * 8 / 2.0)


def test_goodput_of_a_transfer_cut_short_counts_the_silence() -> None:
    cut = sample(16 * KIB, 3.0)
    assert not cut.is_complete
    assert cut.goodput == pytest.approx(16 * KIB * 8 / 3.05)


def test_what_the_kernel_got_counts_where_the_application_saw_nothing() -> None:
    info = TcpInfo(bytes_received=14_867, bytes_acked=1, retransmits=0, unacked=0, rtt_ms=1.0, since_last_data_ms=2500)
    frozen = sample(0, 3.0, TIMEOUT, tcp=info)
    assert frozen.moved == 14_867
    assert frozen.is_telling
    assert frozen.is_silent


@pytest.mark.parametrize(
    ("size", "failure", "expected", "telling"),
    [
        (64 * KIB, None, 64 * KIB, True),
        (20 * KIB, None, 64 * KIB, True),
        (20 * KIB, TIMEOUT, 64 * KIB, True),
        (20 * KIB, RESET, 64 * KIB, False),
        (0, TIMEOUT, 64 * KIB, False),
        (150, None, 150, False),
        (40 * KIB, None, None, True),
        (4 * KIB, None, None, False),
    ],
)
def test_which_transfers_say_something_of_speed(
    size: int, failure: str | None, expected: int | None, telling: bool
) -> None:
    assert sample(size, 3.0, failure, expected=expected).is_telling is telling


def test_a_body_larger_than_the_portion_is_complete_with_the_portion() -> None:
    assert sample(PORTION, 1.0, expected=500 * KIB).is_complete


def test_slow_is_not_silent() -> None:
    assert not sample(20 * KIB, 3.0).is_silent
    stopped = sample(20 * KIB, 3.0)
    details = msgspec.structs.replace(stopped.details, samples=((0.0, 1400), (0.4, 20 * KIB), (3.0, 20 * KIB)))
    assert Sample(stopped.observation, details).is_silent


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_known_address_counts() -> None:
    world = World()
    world.add("outside", "exit", "connect", Address("exit", 4, None), TIMEOUT)
    world.add("outside", "exit", "http_round_trip", Address("exit", 4, "198.18.0.2"))
    reading = read(world.record())
    assert reading.address("outside", "exit", 4) == "198.18.0.2"
    assert reading.address("outside", "exit", 6) is None


def test_resolvers_are_known_by_their_addresses_without_ports() -> None:
    world = World()
    world.reach("outside", "bird", times=1)
    assert read(world.record()).resolvers == {"outside": {"198.18.0.53"}, "": {"198.18.0.9"}}


def test_what_the_record_does_not_plan_is_left_out() -> None:
    world = World()
    world.reach("nobody", "bird")
    world.reach("outside", "bird", service="other")
    assert read(world.record()).attempts == {("bird", "web", "https://bird.example/"): {}}
