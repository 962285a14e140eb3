from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan.places import is_private, refusal


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("127.1", "loopback"),
        ("2130706433", "loopback"),
        ("0x7f000001", "loopback"),
        ("0177.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("[::1]", "loopback"),
        ("0:0:0:0:0:0:0:1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:7f00:1", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::127.0.0.1", "loopback"),
        ("2002:7f00:1::5", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("0", "unspecified"),
        ("::", "unspecified"),
        ("169.254.7.7", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("febf::1", "link-local"),
        ("::ffff:169.254.7.7", "link-local"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("169.254.169.254", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("fd20:ce::254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("metadata.google.internal", "metadata"),
        ("Metadata.Google.Internal.", "metadata"),
        ("localhost", "this machine itself"),
        ("LOCALHOST.", "this machine itself"),
        ("a.b.localhost", "this machine itself"),
        ("localhost.localdomain", "this machine itself"),
        ("ip6-loopback", "this machine itself"),
    ],
)
def test_what_is_of_this_machine_is_refused(host: str, why: str) -> None:
    said = refusal(host)
    assert said is not None
    assert why in said
    assert host not in said


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1",
        "198.18.20.1",
        "fd00:18::20:1",
        "2001:db8::1",
        "::ffff:192.0.2.1",
        "64:ff9b::c000:201",
        "2002:c000:201::1",
        # Of somebody's house, but of which one only the routes tell.
        "10.0.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "1.0.0.0",
        "223.255.255.255",
        "169.253.255.255",
        "fec0::1",
        "vpn.example",
        "localhost.example",
        "notlocalhost",
        "metadata.example",
        "127.0.0.1.example",
        "",
        "-",
        "1a",
    ],
)
def test_what_may_be_anywhere_is_not(host: str) -> None:
    assert refusal(host) is None


@given(st.text())
def test_any_text_has_an_answer(host: str) -> None:
    assert refusal(host) is None or "its server" in str(refusal(host))


@given(st.ip_addresses(network="127.0.0.0/8"))
def test_no_embedding_hides_loopback(address: object) -> None:
    for shape in ("{}", "::ffff:{}", "::{}", "64:ff9b::{}", "[::ffff:{}]"):
        assert refusal(shape.format(address)) is not None


@pytest.mark.parametrize(
    ("network", "private"),
    [
        ("10.1.2.3", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("192.168.0.0/24", True),
        ("192.168.0.0/15", False),
        ("100.64.0.0/10", True),
        ("fd00::/8", True),
        ("fd00:1::7", True),
        ("0.0.0.0/0", False),
        ("::/0", False),
        ("198.18.0.0/24", False),
        ("2001:db8::/32", False),
    ],
)
def test_private_networks(network: str, private: bool) -> None:
    assert is_private(network) is private


@pytest.mark.parametrize(
    "host",
    [
        "64:ff9b:1::7f00:1",  # RFC 8215
        "2001:0:7f00:1::1",  # Teredo: its server
        "2001:0:c000:201::80ff:fffe",  # Teredo: its client, every bit turned
        "fd12:3456::5efe:7f00:1",  # ISATAP
        "2001:db8::200:5efe:127.0.0.1",
    ],
)
def test_an_address_that_holds_one_of_this_machine_is_no_way_around(host: str) -> None:
    assert refusal(host)


def test_an_address_that_holds_a_strangers_may_be_called() -> None:
    for host in ("64:ff9b:1::c000:201", "2001:0:c000:201::3fff:fdfe", "2001:db8::5efe:c000:201"):
        assert refusal(host) is None
