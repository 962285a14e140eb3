"""The report in OONI's data format, held against the keys that ooni/spec asks for (data-formats, df-000 to df-009)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from records import RESET, TIMEOUT, World, platform
from story import story

from vpntest.failures import Failure
from vpntest.judge.judging import judge
from vpntest.probe.observation import QuicHandshake, Record, StunBinding, TcpConnect, VantageFacts
from vpntest.report.ooni import render
from vpntest.report.redaction import REDACTED, redacted

BASE = {
    "annotations": dict,
    "data_format_version": str,
    "extensions": dict,
    "input": str,
    "input_hashes": list,
    "measurement_start_time": str,
    "options": list,
    "probe_asn": str,
    "probe_cc": str,
    "probe_ip": str,
    "report_id": str,
    "resolver_asn": str,
    "resolver_ip": str,
    "resolver_network_name": str,
    "software_name": str,
    "software_version": str,
    "test_helpers": dict,
    "test_keys": dict,
    "test_name": str,
    "test_runtime": float,
    "test_start_time": str,
    "test_version": str,
}
"""df-000 and the README of the data formats."""
ARCHIVED: dict[str, dict[str, Any]] = {
    "queries": {
        "answers": list,
        "engine": str,
        "failure": str | None,
        "hostname": str,
        "query_type": str,
        "resolver_address": str,
        "t0": float,
        "t": float,
        "transaction_id": int,
    },
    "tcp_connect": {"ip": str, "port": int, "status": dict},
    "tls_handshakes": {
        "address": str,
        "cipher_suite": str,
        "conn_id": int,
        "failure": str | None,
        "negotiated_protocol": str,
        "no_tls_verify": bool,
        "peer_certificates": list,
        "t": float,
        "tags": list,
        "tls_version": str,
        "transaction_id": int,
    },
    "requests": {"failure": str | None, "request": dict, "response": dict | None},
    "network_events": {"conn_id": int, "failure": str | None, "operation": str, "t": float},
}
"""df-002, df-005, df-006, df-001, df-008: the keys that are not optional there."""


def lines(record: Record) -> list[dict[str, Any]]:
    written = [*render(record, judge(record))]
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in written)
    return [json.loads(line) for line in written]


def line(record: Record, vantage: str, name: str) -> dict[str, Any]:
    [found] = [one for one in lines(record) if (one["annotations"]["vpntest_vantage"], one["input"]) == (vantage, name)]
    return found


@pytest.mark.parametrize("record", [story(), redacted(story()), World().record()], ids=["story", "redacted", "empty"])
def test_every_line_has_the_keys_of_the_formats(record: Record) -> None:
    found = lines(record)
    assert len(found) == (1 + len(record.tunnels)) * len(record.platforms)
    for one in found:
        assert {key: isinstance(one.get(key), kind) for key, kind in BASE.items()} == dict.fromkeys(BASE, True)
        assert all(isinstance(value, str) for value in one["annotations"].values())
        for name, needed in ARCHIVED.items():
            for entry in one["test_keys"][name]:
                wrong = {key for key, kind in needed.items() if key not in entry or not isinstance(entry[key], kind)}
                assert wrong == set(), name


def test_a_tunnels_lines_say_that_they_were_measured_through_a_vpn() -> None:
    where = VantageFacts("box", "RU", 64500)
    record = story()
    record = msgspec.structs.replace(record, run=msgspec.structs.replace(record.run, vantage=where))
    for one in lines(record):
        outside = one["annotations"]["vpntest_vantage"] == "outside"
        assert one["annotations"]["network_type"] == ("unknown" if outside else "vpn")
        assert one["annotations"]["vpntest_through_vpn"] == ("false" if outside else "true")
        assert one["annotations"]["vpntest_submission"] == "never submitted by itself"
        # The exit's country and network are not those of the box.
        assert (one["probe_cc"], one["probe_asn"]) == (("RU", "AS64500") if outside else ("ZZ", "AS0"))
        assert (one["probe_ip"], one["test_name"]) == ("127.0.0.1", "vpntest")


def test_what_was_concluded() -> None:
    keys = line(story(), "se", "facebook")["test_keys"]
    assert (keys["state"], keys["outcome"], keys["outcome_rule"]) == ("ok", "circumvents", "cell.circumvents")
    assert (keys["tunnel"], keys["tunnel_stage"], keys["tunnel_failure"]) == ("amneziawg", "up", None)
    assert keys["bootstrap_time"] > 0
    keys = line(story(), "outside", "facebook")["test_keys"]
    assert (keys["state"], keys["mechanism"], keys["outcome"]) == ("blocked", "tls.reset.sni", None)
    assert "tunnel" not in keys
    ids = {entry["x_observation"] for name in ARCHIVED for entry in keys[name]}
    assert {*keys["witnesses"]} & ids
    keys = line(story(), "ov", "facebook")["test_keys"]
    assert (keys["state"], keys["outcome"], keys["queries"]) == (None, "tunnel-down", [])
    assert (keys["tunnel_failure"], keys["bootstrap_time"]) == ("unknown_failure: auth_rejected", 0)


def test_a_dead_line_concludes_nothing() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    [one] = lines(world.record())
    assert (one["test_keys"]["state"], one["test_keys"]["rule"]) == (None, "line.dead")


def test_the_archived_observations() -> None:
    world = World(platform("bird"))
    world.line()
    world.reach("outside", "bird", fails=f"tls_handshake:{RESET}", times=1)
    world.add("outside", "reach", "connect", TcpConnect("2001:db8::1", 443), Failure.TIMEOUT, platform="bird")
    quic = QuicHandshake("198.18.1.1:443", "bird.example", False, "h3")
    world.add("outside", "reach", "quic_handshake", quic, platform="bird")
    world.add("outside", "reach", "stun_binding", StunBinding("198.18.1.1:3478"), "stalled", platform="bird")
    keys = line(world.record(), "outside", "bird")["test_keys"]
    assert [len(keys[name]) for name in ("queries", "tcp_connect", "tls_handshakes", "quic_handshakes")] == [2, 2, 1, 1]
    query = keys["queries"][0]
    assert (query["rcode"], query["failure"], query["answers"][0]["answer_type"]) == (0, None, "A")
    assert query["answers"][0]["ipv4"] == "198.18.1.1"
    assert keys["tcp_connect"][1]["status"] == {"failure": "generic_timeout_error", "success": False}
    assert keys["network_events"][1]["address"] == "[2001:db8::1]:443"
    assert keys["tls_handshakes"][0]["failure"] == "connection_reset"
    assert (keys["quic_handshakes"][0]["network"], keys["quic_handshakes"][0]["negotiated_protocol"]) == ("udp", "h3")
    assert [one["details"]["type"] for one in keys["x_observations"]] == ["stun"]


def test_a_request_and_its_answer() -> None:
    keys = line(story(), "ss", "bank")["test_keys"]
    request = keys["requests"][0]
    assert (request["request"]["method"], request["request"]["url"]) == ("GET", "https://bank.example/")
    assert request["response"]["code"] == 403
    keys = line(story(), "ss", "facebook")["test_keys"]
    assert (keys["requests"][0]["failure"], keys["requests"][0]["response"]) == ("generic_timeout_error", None)


def test_what_was_redacted_is_annotated() -> None:
    [one, *_] = lines(redacted(story()))
    assert one["annotations"]["vpntest_redacted"] == "; ".join(REDACTED)
