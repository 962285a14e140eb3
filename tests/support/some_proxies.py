"""Proxies of each kind, with made-up secrets, and what is read of them."""

from __future__ import annotations

import base64
import random
import uuid
from typing import Any

from vpntest.plan.model import Finding, Kind, ProxyConfig
from vpntest.plan.proxies import outbound
from vpntest.plan.proxy_words import Proxy
from vpntest.plan.secret import revealed

_DICE = random.Random(11)
ID = str(uuid.UUID(bytes=_DICE.randbytes(16), version=4))
WORD = "hush0f1e2d3c4b5a6978"
KEY16, KEY32 = (base64.b64encode(_DICE.randbytes(size)).decode() for size in (16, 32))
PBK = base64.urlsafe_b64encode(_DICE.randbytes(32)).decode().rstrip("=")
SECRETS = (ID, WORD, KEY16, KEY32)
PIN = base64.b64encode(_DICE.randbytes(32)).decode()
REALITY = {"security": "reality", "pbk": PBK, "sid": "0a1b", "sni": "www.example"}
CHROME = Finding("note", "`fp` is not said: Chrome's ClientHello is sent, as Xray does")
WHO = {
    Kind.SHADOWSOCKS: ("aes-256-gcm", WORD),
    Kind.VLESS: (ID, ""),
    Kind.VMESS: (ID, ""),
    Kind.TROJAN: ("", WORD),
    Kind.HYSTERIA2: ("", WORD),
    Kind.TUIC: (ID, WORD),
    Kind.ANYTLS: ("", WORD),
    Kind.SOCKS: ("somebody", WORD),
    Kind.HTTP: ("somebody", WORD),
    Kind.SSH: ("somebody", WORD),
}
"""User and password of each kind."""


def proxy_of(kind: Kind, words: dict[str, str] | None = None, **fields: str) -> Proxy:
    username, password = WHO[kind]
    given = {"host": "vpn.example", "ports": "443", "username": username, "password": password, **fields}
    return Proxy(kind=kind, where="here", parameters=dict(words or {}), **given)


def meaning(kind: Kind, words: dict[str, str] | None = None, **fields: str) -> dict[str, Any]:
    config, _ = outbound(proxy_of(kind, words, **fields))
    return revealed(config.outbound)


def findings_of(kind: Kind, words: dict[str, str] | None = None, **fields: str) -> tuple[Finding, ...]:
    return told(proxy_of(kind, words, **fields))[1]


def told(proxy: Proxy) -> tuple[ProxyConfig, tuple[Finding, ...]]:
    """Without what is said of most links."""
    config, findings = outbound(proxy)
    return config, tuple(finding for finding in findings if finding != CHROME)
