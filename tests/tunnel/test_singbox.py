from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import trustme

from vpntest.failures import Failure
from vpntest.plan.model import Kind, TunnelSpec
from vpntest.plan.secret import Secret
from vpntest.tunnel.ladder import Rung

pytestmark = pytest.mark.root

METHOD = "2022-blake3-aes-128-gcm"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _tls(authority: trustme.CA, name: str) -> dict[str, object]:
    leaf = authority.issue_cert(name)
    return {
        "enabled": True,
        "server_name": name,
        "certificate": [pem.bytes().decode() for pem in leaf.cert_chain_pems],
        "key": [leaf.private_key_pem.bytes().decode()],
    }


def _key() -> str:
    return base64.b64encode(os.urandom(16)).decode()


def _carries(world: Any, inbound: dict[str, Any], spec: TunnelSpec, question: Any, first_byte: Any) -> None:
    async def body() -> None:
        async with world.open(), world.sing_box(inbound):
            [tunnel] = await world.raised(spec)
            try:
                assert [step.rung for step in tunnel.steps] == [Rung.CONFIG, Rung.ENDPOINT_DNS, Rung.ENDPOINT]
                assert not any(step.failure for step in tunnel.steps), tunnel.steps
                assert tunnel.vantage.answers_locally
                assert (await question(tunnel.vantage, "proxy.test")).answers == ("198.18.77.7",)
                assert await first_byte(tunnel.vantage) == b"w"
                assert await first_byte(tunnel.vantage, "fd00:9::9") == b"w"
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.parametrize("method", [METHOD, "aes-256-gcm", "chacha20-ietf-poly1305"])
def test_shadowsocks(world: Any, question: Any, first_byte: Any, proxy: Any, method: str) -> None:
    key = _key()
    inbound = {"type": "shadowsocks", "listen_port": 8388, "method": method, "password": key}
    outbound = {"type": "shadowsocks", "method": method, "password": Secret(key)}
    _carries(world, inbound, proxy("ss", Kind.SHADOWSOCKS, 8388, "tcp", outbound), question, first_byte)


def _trojan(authority: trustme.CA, proxy: Any) -> tuple[dict[str, Any], TunnelSpec]:
    inbound = {
        "type": "trojan",
        "listen_port": 8443,
        "users": [{"password": "secret"}],
        "tls": _tls(authority, "trojan.test"),
    }
    tls = {"enabled": True, "server_name": "trojan.test"}
    outbound = {"type": "trojan", "password": Secret("secret"), "tls": tls}
    return inbound, proxy("trojan", Kind.TROJAN, 8443, "tcp", outbound)


@pytest.mark.usefixtures("trusting")
def test_trojan_trusts_the_roots_of_the_settings(
    world: Any, question: Any, first_byte: Any, proxy: Any, authority: Any
) -> None:
    _carries(world, *_trojan(authority, proxy), question, first_byte)


def test_trojan_does_not_trust_anybody_else(world: Any, first_byte: Any, proxy: Any, authority: Any) -> None:
    async def body() -> bytes | None:
        inbound, spec = _trojan(authority, proxy)
        async with world.open(), world.sing_box(inbound):
            [tunnel] = await world.raised(spec)
            try:
                return await first_byte(tunnel.vantage)
            except OSError:
                return None
            finally:
                await tunnel.lower()

    assert not asyncio.run(body())


@pytest.mark.usefixtures("trusting")
def test_the_name_of_the_server_survives_its_resolution(
    world: Any, first_byte: Any, proxy: Any, authority: Any
) -> None:
    """The link names a host and no SNI: the certificate is for that host, not for its address."""
    inbound = {
        "type": "trojan",
        "listen_port": 8444,
        "users": [{"password": "s"}],
        "tls": _tls(authority, "named.test"),
    }
    spec = proxy(
        "trojan", Kind.TROJAN, 8444, "tcp", {"type": "trojan", "password": Secret("s"), "tls": {"enabled": True}}
    )
    server = msgspec.structs.replace(spec.config.server, host="named.test")
    spec = msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, server=server))

    async def body() -> None:
        world.names["named.test"] = "198.18.0.1"
        async with world.open(), world.sing_box(inbound):
            [tunnel] = await world.raised(spec)
            try:
                assert ("named.test", "198.18.0.2") in world.asked
                assert await first_byte(tunnel.vantage) == b"w"
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.usefixtures("trusting")
def test_hysteria2_with_salamander(world: Any, question: Any, first_byte: Any, proxy: Any, authority: Any) -> None:
    inbound = {
        "type": "hysteria2",
        "listen_port": 8445,
        "users": [{"password": "secret"}],
        "obfs": {"type": "salamander", "password": "veil"},
        "tls": _tls(authority, "hysteria.test") | {"alpn": ["h3"]},
    }
    outbound = {
        "type": "hysteria2",
        "password": Secret("secret"),
        "obfs": {"type": "salamander", "password": Secret("veil")},
        "tls": {"enabled": True, "server_name": "hysteria.test", "alpn": ["h3"]},
    }
    _carries(world, inbound, proxy("hy", Kind.HYSTERIA2, 8445, "udp", outbound, "quic"), question, first_byte)


@pytest.fixture
def borrowed(world: Any, authority: Any) -> Iterator[None]:
    """A web server with TLS 1.3 whose handshake Reality borrows."""
    world.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("borrowed.test").configure_cert(world.tls)
    yield
    world.tls = None


@pytest.fixture
def trusting(world: Any, authority: Any) -> Iterator[None]:
    """The client's settings name the test's own root."""
    world.roots = authority.cert_pem.bytes().decode()
    yield
    world.roots = None


@pytest.mark.usefixtures("borrowed")
def test_vless_with_reality_and_vision(world: Any, question: Any, first_byte: Any, proxy: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    def plain(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    private = X25519PrivateKey.generate()
    user = "6a2b6a0e-7c0e-4f5e-9b59-0d7a4a3b2c1d"
    inbound = {
        "type": "vless",
        "listen_port": 8446,
        "users": [{"uuid": user, "flow": "xtls-rprx-vision"}],
        "tls": {
            "enabled": True,
            "server_name": "borrowed.test",
            "reality": {
                "enabled": True,
                "handshake": {"server": "198.18.9.9", "server_port": 9443},
                "private_key": plain(private.private_bytes_raw()),
                "short_id": ["0123456789abcdef"],
            },
        },
    }
    outbound = {
        "type": "vless",
        "uuid": Secret(user),
        "flow": "xtls-rprx-vision",
        "packet_encoding": "xudp",
        "tls": {
            "enabled": True,
            "server_name": "borrowed.test",
            "utls": {"enabled": True, "fingerprint": "chrome"},
            "reality": {
                "enabled": True,
                "public_key": plain(private.public_key().public_bytes_raw()),
                "short_id": "0123456789abcdef",
            },
        },
    }
    spec = proxy("vless", Kind.VLESS, 8446, "tcp", outbound, "utls")
    _carries(world, inbound, spec, question, first_byte)


def test_wrong_credentials_show_only_in_the_first_byte(world: Any, first_byte: Any, proxy: Any) -> None:
    async def body() -> bytes | None:
        inbound = {"type": "shadowsocks", "listen_port": 8389, "method": METHOD, "password": _key()}
        outbound = {"type": "shadowsocks", "method": METHOD, "password": Secret(_key())}
        async with world.open(), world.sing_box(inbound):
            [tunnel] = await world.raised(proxy("ss", Kind.SHADOWSOCKS, 8389, "tcp", outbound))
            try:
                assert tunnel.vantage is not None
                return await first_byte(tunnel.vantage)
            except OSError:
                return None
            finally:
                await tunnel.lower()

    assert not asyncio.run(body())


def test_a_config_that_sing_box_refuses_ends_with_its_reason(world: Any, proxy: Any) -> None:
    async def body() -> None:
        secret = "do-not-show-me"
        inbound = {"type": "shadowsocks", "listen_port": 8391, "method": METHOD, "password": _key()}
        outbound = {"type": "shadowsocks", "method": "no-such-method", "password": Secret(secret)}
        async with world.sing_box(inbound):
            [tunnel] = await world.raised(proxy("ss", Kind.SHADOWSOCKS, 8391, "tcp", outbound))
        assert tunnel.vantage is None
        assert tunnel.steps[-1].failure == Failure.CARRIER_EXITED
        assert "no-such-method" in tunnel.steps[-1].detail
        assert secret not in repr(tunnel.steps)

    asyncio.run(body())


def test_nothing_is_sent_before_it_is_asked_for(world: Any, proxy: Any) -> None:
    async def body() -> None:
        key = _key()
        inbound = {"type": "shadowsocks", "listen_port": 8392, "method": METHOD, "password": key}
        outbound = {"type": "shadowsocks", "method": METHOD, "password": Secret(key)}
        async with world.sing_box(inbound):
            [tunnel] = await world.raised(proxy("ss", Kind.SHADOWSOCKS, 8392, "tcp", outbound))
            try:
                await asyncio.sleep(2.5)
                # What sing-box itself writes to its TUN to try segmentation stays on this side.
                assert tunnel.vantage.count_packets().sent == 0
            finally:
                await tunnel.lower()

    asyncio.run(body())
