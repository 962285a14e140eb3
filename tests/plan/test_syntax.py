"""What the dialects share: hosts, ports, networks, URLs, text."""

from __future__ import annotations

import contextlib
import ipaddress
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from vpntest.errors import ConfigError
from vpntest.plan import syntax


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("VPN.Example.", "vpn.example"),
        ("a_b.example", "a_b.example"),
        ("xn--80ak6aa92e.com", "xn--80ak6aa92e.com"),
        ("198.18.0.1", "198.18.0.1"),
        ("FD00:0::1", "fd00::1"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    assert syntax.host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "-a.b",
        "a b",
        "a/b",
        "300.1.1.1",
        "1.2.3",
        "fe80::1%eth0",
        "пример.рф",
        "a" * 64,
        "a." * 130 + "b",
        "a\nb",
    ],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|address"):
        syntax.host(text)


@pytest.mark.parametrize("text", ["", "0", "65536", "70000", "-1", "+1", "1.0", " 1", "١", "9" * 50])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        syntax.port(text)


@pytest.mark.parametrize("number", [1, 443, 65535])
def test_ports(number: int) -> None:
    assert syntax.port(str(number)) == number


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("vpn.example:443", ("vpn.example", "443")),
        ("vpn.example", ("vpn.example", "")),
        ("[fd00::1]:443", ("fd00::1", "443")),
        ("[fd00::1]", ("fd00::1", "")),
        ("198.18.0.1:1-2", ("198.18.0.1", "1-2")),
    ],
)
def test_host_and_rest(text: str, parts: tuple[str, str]) -> None:
    assert syntax.host_and_rest(text) == parts


@pytest.mark.parametrize(
    "text", ["", ":443", "fd00::1", "fd00::1:443", "[fd00::1", "[fd00::1]443", "[vpn.example]:443", "[198.18.0.1]:1"]
)
def test_what_is_no_host_and_rest(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|address|brackets"):
        syntax.host_and_rest(text)


@pytest.mark.parametrize(
    ("text", "network", "interface"),
    [
        ("10.0.0.5/8", "10.0.0.0/8", "10.0.0.5/8"),
        ("10.0.0.5", "10.0.0.5/32", "10.0.0.5/32"),
        ("fd00::5/64", "fd00::/64", "fd00::5/64"),
        ("fd00::5", "fd00::5/128", "fd00::5/128"),
        ("::/0", "::/0", "::/0"),
    ],
)
def test_networks(text: str, network: str, interface: str) -> None:
    assert syntax.network(text) == network
    assert syntax.interface(text) == interface


@pytest.mark.parametrize(
    "text", ["", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "fd00::/129", "fe80::1%1/64", "vpn"]
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="not an"):
        syntax.network(text)


@given(text=st.text(max_size=40))
def test_small_readers_raise_nothing_but_value_error(text: str) -> None:
    for read in (syntax.host, syntax.address, syntax.port, syntax.host_and_rest, syntax.network, syntax.interface):
        with contextlib.suppress(ValueError):
            read(text)
    with contextlib.suppress(ValueError):
        syntax.url(text, ("https",))


@given(address=st.ip_addresses())
def test_addresses_come_back(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if "%" not in str(address):
        assert syntax.host(str(address)) == str(address)
        assert syntax.is_address(str(address))


@pytest.mark.parametrize(
    "text",
    [
        *("", "http://a.example/", "https://", "https:///x", "https://u:p@a.example/", "https://a.example:0/"),
        *(
            "https://a.example:70000/",
            "https://a b.example/",
            "https://a.example/\n",
            "https://[::1",
            "ftp://a.example/",
        ),
    ],
)
def test_what_is_no_https_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        syntax.url(text, ("https",))


def test_a_bare_connection_needs_a_port() -> None:
    assert syntax.url("tcp://a.example:5222", ("tcp",)) == "tcp://a.example:5222"
    with pytest.raises(ValueError, match="port"):
        syntax.url("tcp://a.example", ("tcp",))


@pytest.mark.parametrize(
    ("data", "reason", "line"),
    [
        (b"", "empty", None),
        (b" \n\t\n", "empty", None),
        (b"\x7fELF\x00\x01", "binary", None),
        ("x = 1\n# \u0448".encode("cp1251"), "UTF-8", 2),
        ("x".encode("utf-16"), "binary", None),
    ],
)
def test_what_is_no_text(data: bytes, reason: str, line: int | None) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        syntax.decoded(data, "x.conf")
    assert caught.value.line == line


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert syntax.decoded(b"\xef\xbb\xbf[Interface]", "x") == "[Interface]"


def test_lines_end_where_an_editor_ends_them_and_nowhere_else() -> None:
    assert list(syntax.numbered("a\r\nb\tc\n", "x")) == [(1, "a"), (2, "b\tc"), (3, "")]
    for hidden in "\x00\x0b\x0c\r\x1b\x7f\x85\u2028\u2029":
        with pytest.raises(ConfigError, match="control") as caught:
            list(syntax.numbered(f"a\nb{hidden}c", "x"))
        assert caught.value.line == 2


class _Shape(Struct, forbid_unknown_fields=True):
    name: str
    inner: list[dict[str, int]] = []


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"name": "a", "nmae": "b"}, "unknown key `nmae`"),
        ({}, "missing key `name`"),
        ({"name": 1}, "at `name`"),
        ({"name": "a", "inner": [{"x": "y"}]}, "at `inner[0]"),
    ],
)
def test_a_fault_of_shape_names_its_key(document: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        syntax.shaped(document, _Shape, "x.toml")
    assert said in str(caught.value)
    assert "$" not in str(caught.value)


def test_a_fault_of_shape_shows_no_control_characters() -> None:
    with pytest.raises(ConfigError) as caught:
        syntax.shaped({"name": "a", "x\x1b[2J\n\u202e": 1}, _Shape, "x.toml")
    assert "unknown key `x\ufffd[2J\ufffd\ufffd`" in str(caught.value)


@pytest.mark.parametrize("key", ["a." * 17 + "a", " a .\t" * 17 + "a", '"a".' * 17 + "'a'", "'.'." * 17 + "a"])
@pytest.mark.parametrize(
    "line", ["{} = 1", "[{}]", "[[ {} ]]", "x = 1\r\n  {} = 1", "x = {{ {} = 1 }}", "x = {{y=1,{} = 1}}"]
)
def test_a_deep_key_is_refused_before_it_costs_memory(line: str, key: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="16 dots") as caught:
            syntax.toml(line.format(key + ".a" * 20_000), "x.toml")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.line == line.count("\n") + 1


@pytest.mark.parametrize(
    "text",
    [
        "a." * 16 + "a = 1",
        'uri = "' + "a." * 90 + 'example"',
        'x = [\n"' + "a." * 90 + 'example",\n]',
        "# " + "a." * 90,
        '"' + "a." * 90 + '" = 1',
    ],
)
def test_dots_elsewhere_are_no_depth(text: str) -> None:
    assert syntax.toml(text, "x.toml") is not None


@pytest.mark.parametrize("text", ["x", "x = ", "[a\n", "x = 1\nx = 2", "x = " + "[" * 5000])
def test_broken_toml_is_one_clear_line(text: str) -> None:
    with pytest.raises(ConfigError, match="not TOML") as caught:
        syntax.toml(text, "x.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["+/8=", "-_8=", "+/8", " -_\n8 "])
def test_base64_in_either_alphabet_and_however_broken(text: str) -> None:
    assert syntax.decoded_base64(text) == b"\xfb\xff"


@pytest.mark.parametrize("text", ["A", "AAAA A", "!!!!", "ä"])
def test_what_is_no_base64(text: str) -> None:
    assert syntax.decoded_base64(text) is None
