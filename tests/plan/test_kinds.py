"""A config's kind follows from its content."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan.kinds import Dialect, Part, dialect_of, from_base64, is_foreign, is_mixed, kind_of, part_of
from vpntest.plan.model import Kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[Interface]\nPrivateKey = x\n[Peer]\n", Kind.WIREGUARD),
        ("# provider's own\n\n  [interface]\n", Kind.WIREGUARD),
        ("[Interface]\njc = 4\n[Peer]\n", Kind.AMNEZIAWG),
        ("[Interface]\nH1=1-5\n", Kind.AMNEZIAWG),
        ("[Interface]\nHeaderProtectionKey = x\n", Kind.AMNEZIAWG),
        ("[Interface]\n# Jc = 4\n", Kind.WIREGUARD),
        ("client\ndev tun\n", Kind.OPENVPN),
        ("; x\n--remote vpn.example\n", Kind.OPENVPN),
        ("<ca>\n", Kind.OPENVPN),
        ("client\r\ndev tun\r\n", Kind.OPENVPN),
        ("ss://x", Kind.SHADOWSOCKS),
        ("\n vless://x", Kind.VLESS),
        ("Trojan://x", Kind.TROJAN),
        ("hysteria2://x", Kind.HYSTERIA2),
        ("hy2://x", Kind.HYSTERIA2),
        ("vmess://x", Kind.VMESS),
        ("", Kind.UNKNOWN),
        ("-----BEGIN CERTIFICATE-----\n", Kind.UNKNOWN),
        ("client # x\n", Kind.OPENVPN),
        ("client of mine\n", Kind.UNKNOWN),
        ("The client connects to the remote server.\nremotely\ncertain\n", Kind.UNKNOWN),
        ('[run]\nattempts = 3\n[[tunnel]]\nuri = "ss://x"\n', Kind.UNKNOWN),
    ],
)
def test_kinds(text: str, kind: Kind) -> None:
    assert kind_of(text) is kind


@given(text=st.text())
def test_any_text_has_a_kind(text: str) -> None:
    assert isinstance(kind_of(text), Kind)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("[Interface]\nPrivateKey = x\n", Dialect.WG_QUICK),
        ("# trojan://x\n[Peer]\n", Dialect.WG_QUICK),
        ("client\nremote a.example 1194\n", Dialect.OPENVPN),
        ("# see https://a.example\nremote a.example 1194\n", Dialect.OPENVPN),
        ("ss://x\n", Dialect.LINKS),
        ("\ufeff\u200bss://x\n", Dialect.LINKS),
        ("#profile-title: x\n// y\n\nvless://x\n", Dialect.LINKS),
        ("hello\nvless://x\n", Dialect.LINKS),
        ("wg://x\n", Dialect.LINKS),
        ("vpn://x\n", Dialect.LINKS),
        ("ssr://x\n", Dialect.LINKS),
        ("https://a.example:443\n", Dialect.LINKS),
        ("see\nhttps://a.example\n", Dialect.NOTHING),
        ("1. `vless://0123456789abcdef`\n", Dialect.LINKS),
        ("client of mine:\nremote help by vless://0123456789abcdef\n", Dialect.LINKS),
        ('link = f"vless://{user}@{host}:{port}"\n', Dialect.NOTHING),
        (_b64("vless://x\n"), Dialect.BASE64),
        (_b64("# x\nvless://x\n").rstrip("="), Dialect.BASE64),
        (_b64("{}" * 9), Dialect.BASE64),
        (_b64("just some words, and no config"), Dialect.NOTHING),
        (_b64("x" * 3), Dialect.NOTHING),
        ("authenticationtokens", Dialect.NOTHING),
        ('{"outbounds": []}', Dialect.JSON),
        ('// mine\n{\n  // its\n  "a": 1}', Dialect.JSON),
        ('[{"a": 1}]', Dialect.JSON),
        ("[]", Dialect.JSON),
        ("proxies:\n  - x\n", Dialect.YAML),
        ("# x\nport: 1\nproxies: [x]\n", Dialect.YAML),
        ("transport:\n  $type: tcpudp\n", Dialect.YAML),
        ("$type: shadowsocks\n", Dialect.YAML),
        ("error:\n  message: The key has ended\n", Dialect.YAML),
        ("error: {message: The key has ended}\n", Dialect.YAML),
        ("error: the key has ended\n", Dialect.NOTHING),
        (f"obfs4 192.0.2.1:443 {'A' * 40} cert=x\n", Dialect.BRIDGES),
        (f"Bridge [2001:db8::1]:443 {'a' * 40}\n", Dialect.BRIDGES),
        (f"192.0.2.1:443 {'A' * 40}\n", Dialect.BRIDGES),
        ("UseBridges 1\nBridge webtunnel 192.0.2.3:1 url=https://a.example/x\n", Dialect.BRIDGES),
        ("192.0.2.1:443\n", Dialect.NOTHING),
        ("  <!DOCTYPE html>\n", Dialect.PAGE),
        ("<html>vless://x</html>", Dialect.PAGE),
        ("", Dialect.NOTHING),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", Dialect.NOTHING),
    ],
)
def test_dialects(text: str, dialect: Dialect) -> None:
    assert dialect_of(text) is dialect


@pytest.mark.parametrize(
    ("line", "part", "foreign"),
    [
        ("[interface]", Part.INTERFACE, False),
        ("[Peer] # x", Part.PEER, False),
        (f"obfs4 192.0.2.1:443 {'A' * 40} cert=x", Part.BRIDGE, True),
        ("vless://x", None, True),
        ("2. vless://x", None, True),
        ("PostUp = curl vless://x", None, False),
        ("# vless://x", None, False),
        ("https://a.example", None, False),
        ("Endpoint = a.example:1", None, False),
    ],
)
def test_a_line_among_those_of_another_dialect(line: str, part: Part | None, foreign: bool) -> None:
    assert (part_of(line), is_foreign(line)) == (part, foreign)
    assert is_mixed(f"[Interface]\n {line}\n") is foreign


@given(text=st.text(alphabet="[]{}#/;:*<> \n\tabvless0=") | st.text())
def test_any_text_has_a_dialect(text: str) -> None:
    assert isinstance(dialect_of(text), Dialect)


@given(data=st.binary(max_size=60).map(lambda data: b"ss://" + data.replace(b"\0", b"")))
def test_base64_of_either_alphabet(data: bytes) -> None:
    data += b"x" * 12
    plain = base64.b64encode(data).decode()
    for text in (plain, plain.rstrip("="), base64.urlsafe_b64encode(data).decode(), f"\n{plain[:8]}\r\n {plain[8:]}\n"):
        assert from_base64(text) == data


@pytest.mark.parametrize(
    "text", ["/*" * 500_000, "#" * 1_000_000, " " * 1_000_000, "a" * 1_000_001, "proxies" * 100_000]
)
def test_long_texts_are_no_trap(text: str) -> None:
    """Each pattern takes time by the length, and none by its square: this would not end otherwise."""
    assert dialect_of(text) is Dialect.NOTHING
