"""What can only have come from a tunnel's far end."""

from __future__ import annotations

from typing import Any

import pytest
from records import RESET, TIMEOUT, World

from vpntest.judge.tunnels import came_through, kind_of
from vpntest.probe.observation import DnsAnswer, SmallExchanges, TcpConnect, TlsHandshake, Transfer


@pytest.mark.parametrize(
    ("details", "failure", "directly", "through_a_proxy"),
    [
        (DnsAnswer("x", "A", "r:53", "vantage", "NXDOMAIN"), "dns_nxdomain_error", True, True),
        (DnsAnswer("x", "A", "r:53", "vantage", None), TIMEOUT, False, False),
        (TcpConnect("198.18.0.1", 443), None, True, False),
        (TlsHandshake("198.18.0.1:443", "x", no_tls_verify=False), None, True, True),
        (TlsHandshake("198.18.0.1:443", "x", no_tls_verify=False), RESET, False, False),
        (Transfer("u", "x", "down", 1, 9), TIMEOUT, True, True),
        (Transfer("u", "x", "up", 1, 9), TIMEOUT, False, False),
        (SmallExchanges("u", 0, 40, 0), "http_request_failed", True, True),
        (SmallExchanges("u", 0, 40, 300), TIMEOUT, False, False),
    ],
)
def test_what_came_through(details: Any, failure: str | None, directly: bool, through_a_proxy: bool) -> None:
    world = World()
    world.add("a", "carry", "transfer", details, failure)
    [one] = world.observations
    assert [came_through(one, locally) for locally in (False, True)] == [directly, through_a_proxy]


def test_loads_are_kept_by_kind_and_direction() -> None:
    world = World()
    world.tunnel("a")
    kinds = {kind_of(one) for one in world.observations if one.probe in ("rung", "carry", "alive")}
    assert kinds == {"rungs", "carry", "small", "down", "up", "alive"}
