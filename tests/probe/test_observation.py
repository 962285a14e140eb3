from __future__ import annotations

import math

import msgspec
import pytest

from vpntest.failures import Failure
from vpntest.probe.observation import Address, DnsAnswer, Observation, TcpConnect, TcpInfo, Transfer, silence_of


def observation(**fields: object) -> Observation:
    base = {"id": "o1", "vantage": "outside", "probe": "reach", "operation": "connect", "target": "198.18.0.1:443"}
    return msgspec.convert({**base, "t0": 0.5, "t": 0.75, "failure": None, **fields}, Observation)


@pytest.mark.parametrize(
    "details",
    [
        TcpConnect(ip="198.18.0.1", port=443),
        Address(of="exit", family=6, address=None),
        DnsAnswer(
            hostname="a.test",
            query_type="A",
            resolver_address="198.18.0.53:53",
            resolver="public",
            rcode=None,
            late=(("x",),),
        ),
    ],
)
def test_survives_json(details: object) -> None:
    before = Observation(
        id="o1",
        vantage="outside",
        probe="reach",
        operation="connect",
        target="x",
        t0=0.0,
        t=1.0,
        failure=Failure.TIMEOUT,
        details=details,  # type: ignore[arg-type]
        tcp=TcpInfo(bytes_received=1, bytes_acked=2, retransmits=3, unacked=4, rtt_ms=0.5),
    )
    after = msgspec.json.decode(msgspec.json.encode(before), type=Observation)
    assert after == before
    assert type(after.details) is type(details)


def test_details_are_told_apart_by_their_type() -> None:
    made = observation(details={"type": "address", "of": "resolver", "family": 4, "address": "198.18.0.53"})
    assert made.details == Address(of="resolver", family=4, address="198.18.0.53")
    with pytest.raises(msgspec.ValidationError):
        observation(details={"type": "guess"})


def test_unknown_is_null() -> None:
    written = msgspec.json.decode(msgspec.json.encode(observation(details={"type": "tcp", "ip": "x", "port": 1})))
    assert written["failure"] is None
    assert written["tcp"] is None
    assert written["platform"] is None


@pytest.mark.parametrize(
    ("samples", "since", "silence"),
    [
        (((0.0, 10), (0.4, 30), (2.5, 30)), None, 2.1),
        (((0.0, 10), (0.4, 30), (2.5, 30)), 2200, 2.1),
        # Half a TLS record came meanwhile.
        (((0.0, 10), (0.4, 30), (2.5, 30)), 300, 0.3),
        (((0.0, 10), (2.5, 30)), None, 0.0),
        ((), None, math.inf),
        ((), 2500, 2.5),
    ],
)
def test_silence_at_the_end(samples: tuple[tuple[float, int], ...], since: int | None, silence: float) -> None:
    details = Transfer(url="u", server_name="n", direction="down", bytes=30, expected=90, samples=samples)
    kernel = TcpInfo(bytes_received=40, bytes_acked=2, retransmits=0, unacked=0, rtt_ms=1.0, since_last_data_ms=since)
    made = observation(details=msgspec.to_builtins(details), tcp=msgspec.to_builtins(kernel))
    assert silence_of(made) == pytest.approx(silence)
