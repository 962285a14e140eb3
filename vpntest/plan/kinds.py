"""Tells from a config's content what it is. File names say nothing: wg-quick and OpenVPN share `.conf`."""

from __future__ import annotations

import re

from vpntest.plan import links, wgquick
from vpntest.plan.model import Kind

_SECTION = re.compile(r"^[ \t]*\[(interface|peer)\]", re.IGNORECASE | re.MULTILINE)
_AMNEZIA = re.compile(
    rf"^[ \t]*(?:{'|'.join((*wgquick.AMNEZIA, *wgquick.AMNEZIA_UNSUPPORTED))})[ \t]*=", re.IGNORECASE | re.MULTILINE
)
_OPENVPN = re.compile(
    r"^[ \t]*(?:--)?(?:(?:client|tls-client|nobind)[ \t\r]*(?:[#;].*)?$|(?:auth-user-pass|remote-cert-tls)(?=\s|$)"
    r"|(?:remote|dev|proto|ca|cert|cipher)[ \t]+\S|<(?:ca|cert|key|connection|tls-auth|tls-crypt)>)",
    re.MULTILINE,
)
"""Lines of which nearly every .ovpn has several, and which other texts hardly begin a line with."""


def kind_of(text: str) -> Kind:
    """The kind of a config, also of a broken one; `UNKNOWN` for a text that looks like no config."""
    if scheme := links.scheme_of(text):
        return links.SCHEMES.get(scheme, Kind.UNKNOWN)
    if _SECTION.search(text):
        return Kind.AMNEZIAWG if _AMNEZIA.search(text) else Kind.WIREGUARD
    if _OPENVPN.search(text):
        return Kind.OPENVPN
    return Kind.UNKNOWN
