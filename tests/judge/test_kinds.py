"""Kinds of failures, and addresses that no public server has."""

from __future__ import annotations

import pytest
from tables import attempt

from vpntest.judge.kinds import BOGONS


@pytest.mark.parametrize("address", ["10.10.34.35", "127.0.0.1", "0.0.0.0", "192.168.1.1", "::1", "fe80::1"])
def test_bogons(address: str) -> None:
    assert attempt(answers=[address]).is_bogon


@pytest.mark.parametrize("address", ["198.18.0.1", "198.19.255.255", "fd00::1", "149.154.167.51", "2a00:1450::1"])
def test_no_bogons(address: str) -> None:
    """The lab's own networks among them."""
    assert not attempt(answers=[address]).is_bogon
    assert BOGONS
