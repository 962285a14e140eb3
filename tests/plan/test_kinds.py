"""A config's kind follows from its content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan.kinds import kind_of
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
        ("vmess://x", Kind.UNKNOWN),
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
