"""Kinds of failures, and addresses that no public server has."""

from __future__ import annotations

from typing import Any

import pytest
from records import TIMEOUT, World
from tables import attempt

from vpntest.judge.kinds import BOGONS, host_of, is_verified
from vpntest.probe.observation import QuicHandshake, TlsHandshake


@pytest.mark.parametrize("address", ["10.10.34.35", "127.0.0.1", "0.0.0.0", "192.168.1.1", "::1", "fe80::1"])
def test_bogons(address: str) -> None:
    assert attempt(answers=[address]).is_bogon


@pytest.mark.parametrize("address", ["198.18.0.1", "198.19.255.255", "fd00::1", "149.154.167.51", "2a00:1450::1"])
def test_no_bogons(address: str) -> None:
    """The lab's own networks among them."""
    assert not attempt(answers=[address]).is_bogon
    assert BOGONS


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("198.18.0.1:53", "198.18.0.1"),
        ("[fd00::1]:443", "fd00::1"),
        ("fd00::1", "fd00::1"),
        ("198.18.0.1", "198.18.0.1"),
        ("", ""),
    ],
)
def test_an_address_without_its_port(address: str, host: str) -> None:
    assert host_of(address) == host


@pytest.mark.parametrize("kind", [TlsHandshake, QuicHandshake])
@pytest.mark.parametrize(
    ("unverified", "failure", "verified"), [(False, None, True), (True, None, False), (False, TIMEOUT, False)]
)
def test_a_handshake_proves_whose_it_is_only_with_a_valid_certificate(
    kind: Any, unverified: bool, failure: str | None, verified: bool
) -> None:
    world = World()
    world.add("outside", "reach", "tls_handshake", kind("198.18.1.1:443", "x", no_tls_verify=unverified), failure)
    assert is_verified(world.observations[0]) is verified
