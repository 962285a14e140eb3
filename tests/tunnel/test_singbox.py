from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from vpntest.failures import Failure, failure_of
from vpntest.plan.model import Kind, TunnelSpec
from vpntest.plan.secret import Secret
from vpntest.tunnel import singbox
from vpntest.tunnel.ladder import Fall, Rung, Step, meaning

pytestmark = pytest.mark.root

USER = "6a2b6a0e-7c0e-4f5e-9b59-0d7a4a3b2c1d"
OTHER = USER.replace("6a", "6b")
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


TO_ENDPOINT = [Rung.CONFIG, Rung.ENDPOINT_DNS, Rung.ENDPOINT]
TO_HANDSHAKE = [*TO_ENDPOINT, Rung.HANDSHAKE]
TO_AUTH = [*TO_HANDSHAKE, Rung.AUTH]


def _carries(
    world: Any, inbound: dict[str, Any], spec: TunnelSpec, question: Any, first_byte: Any, climbed: list[Rung]
) -> None:
    async def body() -> None:
        async with world.open(), world.sing_box(inbound):
            [tunnel] = await world.raised(spec)
            try:
                assert [step.rung for step in tunnel.steps] == climbed
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
    _carries(world, inbound, proxy("ss", Kind.SHADOWSOCKS, 8388, "tcp", outbound), question, first_byte, TO_ENDPOINT)


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
    _carries(world, *_trojan(authority, proxy), question, first_byte, TO_HANDSHAKE)


def _last_step(world: Any, spec: TunnelSpec, inbound: dict[str, Any] | None) -> Step:
    """Where the climb ends; without an inbound, at whatever listens already."""

    async def body() -> Step:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(world.open())
            if inbound:
                await stack.enter_async_context(world.sing_box(inbound))
            [tunnel] = await world.raised(spec)
            await tunnel.lower()
            assert (tunnel.vantage is None) == (tunnel.steps[-1].failure is not None)
            return tunnel.steps[-1]

    return asyncio.run(body())


def test_trojan_does_not_trust_anybody_else(world: Any, proxy: Any, authority: Any) -> None:
    inbound, spec = _trojan(authority, proxy)
    step = _last_step(world, spec, inbound)
    assert (step.rung, step.failure) == (Rung.HANDSHAKE, Failure.SSL_UNKNOWN_AUTHORITY)


@pytest.mark.usefixtures("trusting")
def test_a_certificate_for_another_name_ends_the_handshake(world: Any, proxy: Any, authority: Any) -> None:
    inbound, _ = _trojan(authority, proxy)
    tls = {"enabled": True, "server_name": "else.test"}
    spec = proxy("trojan", Kind.TROJAN, 8443, "tcp", {"type": "trojan", "password": Secret("secret"), "tls": tls})
    step = _last_step(world, spec, inbound)
    assert (step.rung, step.failure) == (Rung.HANDSHAKE, Failure.SSL_INVALID_HOSTNAME)


def _resets(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _hangs_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


def _is_silent(writer: asyncio.StreamWriter) -> None:
    pass


@pytest.mark.parametrize(
    ("answer", "failure"),
    [(_resets, Failure.CONNECTION_RESET), (_hangs_up, Failure.EOF), (_is_silent, Failure.TIMEOUT)],
)
def test_what_happens_to_the_hello_ends_the_handshake(
    world: Any, proxy: Any, authority: Any, answer: Any, failure: Failure
) -> None:
    """As a censor does it on the way: to the client it looks the same."""
    _, spec = _trojan(authority, proxy)
    tried: list[asyncio.StreamWriter] = []

    def counted(writer: asyncio.StreamWriter) -> None:
        tried.append(writer)
        answer(writer)

    step = asyncio.run(_at_server(world, spec, 8443, counted))
    assert (step.rung, step.failure) == (Rung.HANDSHAKE, failure), step
    assert "198.18." not in step.detail
    assert len(tried) == 2


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


def _hysteria(
    authority: trustme.CA, proxy: Any, port: int, password: str = "secret", veil: str = "veil"
) -> tuple[dict[str, Any], TunnelSpec]:
    inbound = {
        "type": "hysteria2",
        "listen_port": port,
        "users": [{"password": "secret"}],
        "obfs": {"type": "salamander", "password": "veil"},
        "tls": _tls(authority, "hysteria.test") | {"alpn": ["h3"]},
    }
    outbound = {
        "type": "hysteria2",
        "password": Secret(password),
        "obfs": {"type": "salamander", "password": Secret(veil)},
        "tls": {"enabled": True, "server_name": "hysteria.test", "alpn": ["h3"]},
    }
    return inbound, proxy("hy", Kind.HYSTERIA2, port, "udp", outbound, "quic")


@pytest.mark.usefixtures("trusting")
def test_hysteria2_with_salamander(world: Any, question: Any, first_byte: Any, proxy: Any, authority: Any) -> None:
    _carries(world, *_hysteria(authority, proxy, 8445), question, first_byte, TO_AUTH)


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


def _reality(
    proxy: Any, port: int, *, user: str = USER, short_id: str = "0123456789abcdef", other_key: bool = False
) -> tuple[dict[str, Any], TunnelSpec]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    def plain(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    private = X25519PrivateKey.generate()
    known = X25519PrivateKey.generate() if other_key else private
    inbound = {
        "type": "vless",
        "listen_port": port,
        "users": [{"uuid": USER, "flow": "xtls-rprx-vision"}],
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
                "public_key": plain(known.public_key().public_bytes_raw()),
                "short_id": short_id,
            },
        },
    }
    return inbound, proxy("vless", Kind.VLESS, port, "tcp", outbound, "utls")


@pytest.mark.usefixtures("borrowed")
def test_vless_with_reality_and_vision(world: Any, question: Any, first_byte: Any, proxy: Any) -> None:
    _carries(world, *_reality(proxy, 8446), question, first_byte, TO_HANDSHAKE)


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


@pytest.mark.usefixtures("trusting")
def test_hysterias_server_says_that_it_does_not_know_the_password(world: Any, proxy: Any, authority: Any) -> None:
    inbound, spec = _hysteria(authority, proxy, 8447, password="not-to-be-shown")
    step = _last_step(world, spec, inbound)
    assert (step.rung, step.failure) == (Rung.AUTH, Failure.AUTH_REJECTED)
    assert "authentication failed" in step.detail
    assert "not-to-be-shown" not in step.detail


@pytest.mark.usefixtures("trusting")
def test_a_wrong_veil_looks_as_if_nobody_were_there(world: Any, proxy: Any, authority: Any) -> None:
    inbound, spec = _hysteria(authority, proxy, 8448, veil="another")
    step = _last_step(world, spec, inbound)
    assert (step.rung, step.failure) == (Rung.HANDSHAKE, Failure.TIMEOUT)


@pytest.mark.usefixtures("borrowed", "trusting")
@pytest.mark.parametrize("wrong", [{"other_key": True}, {"short_id": "1111111111111111"}], ids=["key", "short-id"])
def test_a_reality_server_shows_strangers_another_site(world: Any, proxy: Any, wrong: dict[str, Any]) -> None:
    inbound, spec = _reality(proxy, 8449, **wrong)
    step = _last_step(world, spec, inbound)
    assert (step.rung, step.failure) == (Rung.AUTH, Failure.AUTH_REJECTED)
    assert "borrows" in step.detail


@pytest.mark.usefixtures("borrowed")
def test_a_certificate_that_nobody_vouches_for_is_no_word_of_realitys_server(world: Any, proxy: Any) -> None:
    inbound, spec = _reality(proxy, 8450, other_key=True)
    step = _last_step(world, spec, inbound)
    assert (step.rung, step.failure) == (Rung.HANDSHAKE, Failure.SSL_UNKNOWN_AUTHORITY)


@pytest.mark.usefixtures("borrowed", "trusting")
def test_wrong_users_of_tls_show_only_in_the_first_byte(
    world: Any, first_byte: Any, proxy: Any, authority: Any
) -> None:
    """The server closes each connection without a word, as it does where it cannot reach what was asked for."""
    tls = {"enabled": True, "server_name": "trojan.test"}
    outbound = {"type": "trojan", "password": Secret("other"), "tls": tls}
    cases = [
        (_trojan(authority, proxy)[0], proxy("trojan", Kind.TROJAN, 8443, "tcp", outbound)),
        _reality(proxy, 8451, user=USER.replace("6a", "6b")),
    ]

    async def body(inbound: dict[str, Any], spec: TunnelSpec) -> bytes | None:
        async with world.open(), world.sing_box(inbound):
            [tunnel] = await world.raised(spec)
            try:
                assert [(step.rung, step.failure) for step in tunnel.steps] == [(rung, None) for rung in TO_HANDSHAKE]
                return await first_byte(tunnel.vantage)
            except OSError:
                return None
            finally:
                await tunnel.lower()

    for inbound, spec in cases:
        assert not asyncio.run(body(inbound, spec))


@pytest.mark.usefixtures("trusting")
def test_a_trojan_server_shows_strangers_the_web_site_behind_it(world: Any, proxy: Any, authority: Any) -> None:
    """So that TLS through the tunnel meets an answer that is none."""
    inbound = _trojan(authority, proxy)[0] | {"fallback": {"server": "198.18.9.9", "server_port": 8081}}
    tls = {"enabled": True, "server_name": "trojan.test"}
    spec = proxy("trojan", Kind.TROJAN, 8443, "tcp", {"type": "trojan", "password": Secret("other"), "tls": tls})

    async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def body() -> str:
        sock = world.server.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("198.18.9.9", 8081))
        sock.setblocking(False)
        server = await asyncio.start_server(web_server, sock=sock)
        async with world.open(), world.sing_box(inbound):
            [tunnel] = await world.raised(spec)
            try:
                with tunnel.vantage.socket(socket.AF_INET, socket.SOCK_STREAM) as inside:
                    await asyncio.get_running_loop().sock_connect(inside, ("198.18.9.9", 9443))
                    await asyncio.open_connection(sock=inside, ssl=True, server_hostname="x.test")
                return "nothing"
            except OSError as exc:
                return failure_of(exc)
            finally:
                await tunnel.lower()
                server.close()

    assert asyncio.run(body()) == Failure.SSL_FAILED_HANDSHAKE


@pytest.mark.parametrize(
    ("outbound", "shown"),
    [
        ({"tls": {"enabled": True}}, True),
        ({"tls": {"enabled": True}, "transport": {"type": "ws"}}, True),
        ({"tls": {"enabled": True}, "transport": {"type": "ws", "max_early_data": 2048}}, False),
        ({"tls": {"enabled": True}, "transport": {"type": "grpc"}}, False),
        ({"tls": {"enabled": True}, "multiplex": {"enabled": True}}, False),
        ({"transport": {"type": "ws"}}, True),
        ({"transport": {"type": "http"}}, False),
        ({"type": "socks"}, True),
        ({"plugin": "v2ray-plugin", "plugin_opts": "host=x.test"}, True),
        ({"plugin": "obfs-local", "plugin_opts": "obfs=tls"}, False),
        ({}, False),
    ],
)
def test_where_a_handshake_shows(outbound: dict[str, Any], shown: bool) -> None:
    assert singbox._shows_its_handshake(outbound) is shown


def _words(outbound: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {key: Secret(value) if key in ("password", "uuid") else value for key, value in (outbound | changed).items()}


LOGIN = {"username": "someone", "password": "secret"}
INBOUNDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[Rung]]] = {
    # what the server has; what the config says; what of it is wrong in the other test; how far the climb shows
    "vmess": ({"users": [{"uuid": USER}]}, {"uuid": USER, "security": "auto"}, {"uuid": OTHER}, TO_ENDPOINT),
    "socks": ({"users": [LOGIN]}, {"version": "5", **LOGIN}, {"password": "not-to-be-shown"}, TO_AUTH),
    "http": ({"users": [LOGIN]}, LOGIN, {"password": "not-to-be-shown"}, TO_AUTH),
}
WEBSOCKET = {"transport": {"type": "ws", "path": "/way"}}


@pytest.mark.parametrize("kind", INBOUNDS)
def test_other_protocols(world: Any, question: Any, first_byte: Any, proxy: Any, kind: str) -> None:
    has, says, _, climbed = INBOUNDS[kind]
    inbound = {"type": kind, "listen_port": 8460, **has}
    spec = proxy(kind, Kind(kind), 8460, "tcp", {"type": kind, **_words(says)}, carries_udp=kind != "http")
    before = world.by_tcp
    _carries(world, inbound, spec, question, first_byte, climbed)
    assert (world.by_tcp > before) is (kind == "http")


@pytest.mark.parametrize("kind", ["socks", "http"])
@pytest.mark.parametrize("none", [False, True])
def test_a_proxy_that_does_not_know_the_password(world: Any, proxy: Any, kind: str, none: bool) -> None:
    has, says, wrong, _ = INBOUNDS[kind]
    outbound = {"type": kind} if none else {"type": kind, **_words(says, **wrong)}
    spec = proxy(kind, Kind(kind), 8461, "tcp", outbound, carries_udp=kind != "http")
    step = _last_step(world, spec, {"type": kind, "listen_port": 8461, **has})
    assert (step.rung, step.failure) == (Rung.AUTH, Failure.AUTH_REJECTED)
    assert "not-to-be-shown" not in step.detail


def test_vmess_with_another_user_shows_only_in_the_first_byte(world: Any, first_byte: Any, proxy: Any) -> None:
    has, says, wrong, _ = INBOUNDS["vmess"]
    spec = proxy("vmess", Kind.VMESS, 8462, "tcp", {"type": "vmess", **_words(says, **wrong)})
    assert not _first_byte_of(world, {"type": "vmess", "listen_port": 8462, **has}, spec, first_byte)


def _first_byte_of(world: Any, inbound: dict[str, Any], spec: TunnelSpec, first_byte: Any) -> bytes | None:
    async def body() -> bytes | None:
        async with world.open(), world.sing_box(inbound):
            [tunnel] = await world.raised(spec)
            try:
                assert tunnel.vantage is not None, tunnel.steps
                return await first_byte(tunnel.vantage)
            except OSError:
                return None
            finally:
                await tunnel.lower()

    return asyncio.run(body())


def test_socks4_carries_tcp_only(world: Any, question: Any, first_byte: Any, proxy: Any) -> None:
    outbound = {"type": "socks", "version": "4"}
    spec = proxy("socks", Kind.SOCKS, 8463, "tcp", outbound, carries_udp=False)

    async def body() -> None:
        async with world.open(), world.sing_box({"type": "socks", "listen_port": 8463}):
            [tunnel] = await world.raised(spec)
            try:
                assert [step.rung for step in tunnel.steps] == TO_AUTH
                assert not tunnel.vantage.carries_udp
                assert (await question(tunnel.vantage, "proxy.test")).engine == "tcp"
                assert await first_byte(tunnel.vantage) == b"w"
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.parametrize(("says", "rung", "failure"), [
    (b"HTTP/1.1 403 Forbidden\r\n\r\n", Rung.AUTH, Failure.UNSUPPORTED),
    (b"HTTP/1.1 405 Method Not Allowed\r\n\r\n", Rung.AUTH, Failure.UNSUPPORTED),
    (b"HTTP/1.1 502 authentication required\r\n\r\n", Rung.AUTH, Failure.HTTP_REQUEST_FAILED),
    (b"HTTP/1.1 407 Who are you\r\n\r\n", Rung.AUTH, Failure.AUTH_REJECTED),
    (b"HTTP/1.1 200 OK\r\n\r\n", Rung.AUTH, None),
    (b"SSH-2.0-none\r\n", Rung.HANDSHAKE, Failure.HTTP_REQUEST_FAILED),
])  # fmt: skip
def test_what_a_proxy_by_http_says(world: Any, proxy: Any, says: bytes, rung: Rung, failure: str | None) -> None:
    """One that opens nothing by an address cannot be measured, and is no tunnel through which nothing comes back."""
    step = asyncio.run(
        _at_server(world, proxy("http", Kind.HTTP, 8464, "tcp", {"type": "http"}), 8464, lambda one: one.write(says))
    )
    assert (step.rung, step.failure) == (rung, failure), step


@contextlib.asynccontextmanager
async def _http_proxy(world: Any, answers: Any) -> AsyncIterator[None]:
    """A proxy on port 8471 that says this to what is asked for."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers(await reader.read(4096)))
        writer.close()

    sock = world.server.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("198.18.0.1", 8471))
    sock.setblocking(False)
    async with await asyncio.start_server(handler, sock=sock):
        yield


@pytest.mark.parametrize("status", [b"403 Forbidden", b"503 Unavailable"])
def test_a_proxy_by_http_that_serves_the_web_only(world: Any, proxy: Any, status: bytes) -> None:
    def answers(asked: bytes) -> bytes:
        return b"HTTP/1.1 " + (b"200 OK" if b":443 " in asked else status) + b"\r\n\r\n"

    async def body() -> None:
        async with _http_proxy(world, answers):
            [tunnel] = await world.raised(proxy("http", Kind.HTTP, 8471, "tcp", {"type": "http"}, carries_udp=False))
            await tunnel.lower()
        assert (tunnel.steps[-1].rung, tunnel.steps[-1].failure) == (Rung.AUTH, Failure.UNSUPPORTED)
        assert tunnel.problem.mechanism == "unsupported"
        assert "port 53" in tunnel.problem.reason

    asyncio.run(body())


def test_a_proxy_by_http_that_opens_no_connection_to_an_address(world: Any, proxy: Any) -> None:
    async def body() -> None:
        async with _http_proxy(world, lambda _: b"HTTP/1.1 403 not-to-be-shown\r\n\r\n"):
            [tunnel] = await world.raised(proxy("http", Kind.HTTP, 8471, "tcp", {"type": "http"}, carries_udp=False))
            await tunnel.lower()
        assert tunnel.vantage is None
        assert tunnel.problem.mechanism == "unsupported"
        assert tunnel.problem.reason.startswith("the proxy answers HTTP 403 to every connection")
        assert "not-to-be-shown" not in tunnel.problem.reason

    asyncio.run(body())


_LINE = "ERROR[0003] [1 0ms] connection: open connection to 198.18.9.9:53 using outbound/x[proxy]: "


@pytest.mark.parametrize(
    "words",
    [
        "authentication failed, status code: 404",
        "reality verification failed",
        "socks5: incorrect user name or password",
        "socks4: request rejected, code= 93",
        "authentication required",
        "connect to ssh server: ssh: handshake failed: ssh: unable to authenticate, attempted methods [none], no",
    ],
)
def test_only_its_own_words_are_a_rejection(words: str) -> None:
    assert meaning(singbox._reason([f"{_LINE}{words}"]), singbox._SAID) == Failure.AUTH_REJECTED
    for strange, failure in {
        f"unexpected status: 403 {words}": Failure.HTTP_REQUEST_FAILED,
        f"unexpected status: 403 using outbound/x[proxy]: {words}": Failure.HTTP_REQUEST_FAILED,
        f'malformed HTTP response "{words}"': Failure.HTTP_REQUEST_FAILED,
        f"tls: failed to verify certificate: x509: certificate is valid for {words}, not y": (
            Failure.SSL_INVALID_HOSTNAME
        ),
        f'connect to ssh server: ssh: handshake failed: ssh: disconnect, reason 2: "{words}"': Failure.EOF,
        f"ssh: rejected: administratively prohibited ({words})": None,
    }.items():
        assert meaning(singbox._reason([f"{_LINE}{strange}"]), singbox._SAID) == failure, strange


# ── SSH ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def ssh_keys() -> tuple[str, str, str]:
    """The server's private and public key, and another's public one."""
    from vpntest.lab.ssh import new_key

    private, public = new_key()
    return private, public, new_key()[1]


def _ssh(proxy: Any, public: str, password: str) -> TunnelSpec:
    outbound = {"type": "ssh", "user": "someone", "password": Secret(password), "host_key": [public]}
    spec: TunnelSpec = proxy("ssh", Kind.SSH, 8470, "tcp", outbound, carries_udp=False)
    return spec


def test_ssh(
    world: Any, question: Any, first_byte: Any, proxy: Any, ssh_keys: tuple[str, str, str], tmp_path: Path
) -> None:
    private, public, another = ssh_keys

    async def body() -> None:
        async with world.open(), world.ssh(private, tmp_path):
            [tunnel, stranger, elsewhere] = await world.raised(
                _ssh(proxy, public, "secret"), _ssh(proxy, public, "not-to-be-shown"), _ssh(proxy, another, "secret")
            )
            try:
                assert [(step.rung, step.failure) for step in tunnel.steps] == [(rung, None) for rung in TO_AUTH]
                assert (await question(tunnel.vantage, "proxy.test")).engine == "tcp"
                assert await first_byte(tunnel.vantage) == b"w"
                last = stranger.steps[-1]
                assert (last.rung, last.failure) == (Rung.AUTH, Failure.AUTH_REJECTED)
                assert "not-to-be-shown" not in last.detail
                last = elsewhere.steps[-1]
                assert (last.rung, last.failure) == (Rung.HANDSHAKE, Failure.SSL_INVALID_CERTIFICATE)
                assert "host key mismatch" in last.detail
            finally:
                for each in (tunnel, stranger, elsewhere):
                    await each.lower()

    asyncio.run(body())


async def _at_server(world: Any, spec: TunnelSpec, port: int, answer: Callable[[asyncio.StreamWriter], object]) -> Step:
    """Where the climb ends at a server that answers so to all that it hears."""
    writers = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if await reader.read(4096):
            answer(writer)

    sock = world.server.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("198.18.0.1", port))
    sock.setblocking(False)
    server = await asyncio.start_server(handler, sock=sock)
    try:
        [tunnel] = await world.raised(spec)
        await tunnel.lower()
        return tunnel.steps[-1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        # Transports close their descriptors in the loop's next rounds.
        await asyncio.sleep(0.05)


def _over_tls(kind: str, port: int, authority: trustme.CA, proxy: Any, password: str) -> tuple[dict[str, Any], Any]:
    user = {"password": "secret"} | ({"uuid": USER} if kind == "tuic" else {})
    alpn = {"alpn": ["h3"]} if kind == "tuic" else {}
    inbound = {"type": kind, "listen_port": port, "users": [user], "tls": _tls(authority, "other.test") | alpn}
    tls = {"enabled": True, "server_name": "other.test", **alpn}
    outbound = {"type": kind, "tls": tls, **_words(user, password=password)}
    transport, needs = ("udp", ["quic"]) if kind == "tuic" else ("tcp", [])
    return inbound, proxy(kind, Kind(kind), port, transport, outbound, *needs)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("kind", ["tuic", "anytls"])
def test_tuic_and_anytls(world: Any, question: Any, first_byte: Any, proxy: Any, authority: Any, kind: str) -> None:
    spec = _over_tls(kind, 8465, authority, proxy, "secret")
    _carries(world, *spec, question, first_byte, TO_HANDSHAKE)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("kind", ["tuic", "anytls"])
def test_their_servers_say_nothing_of_a_wrong_password(
    world: Any, first_byte: Any, proxy: Any, authority: Any, kind: str
) -> None:
    assert not _first_byte_of(world, *_over_tls(kind, 8466, authority, proxy, "other"), first_byte)


@pytest.mark.parametrize(
    ("kind", "detail", "after"),
    [
        ("anytls", "write: connection reset by peer", True),
        ("anytls", "write: broken pipe", True),
        ("anytls", "read: connection reset by peer", False),
        ("anytls", "", False),
        ("trojan", "write: connection reset by peer", False),
    ],
)
def test_a_server_that_hangs_up_on_a_password_was_reached(kind: str, detail: str, after: bool) -> None:
    assert singbox._fell_after_tls({"type": kind}, Fall(Failure.CONNECTION_RESET, detail)) is after


def _hidden(port: int, proxy: Any, path: str) -> tuple[dict[str, Any], TunnelSpec]:
    inbound = {"type": "vless", "listen_port": port, "users": [{"uuid": USER}], **WEBSOCKET}
    outbound = {"type": "vless", "uuid": Secret(USER), "transport": {"type": "ws", "path": path}}
    return inbound, proxy("vless", Kind.VLESS, port, "tcp", outbound)


def test_websocket_shows_its_handshake_without_tls(world: Any, question: Any, first_byte: Any, proxy: Any) -> None:
    _carries(world, *_hidden(8467, proxy, "/way"), question, first_byte, TO_HANDSHAKE)


def test_a_web_server_that_knows_no_such_path(world: Any, proxy: Any) -> None:
    inbound, spec = _hidden(8468, proxy, "/elsewhere")
    step = _last_step(world, spec, inbound)
    assert (step.rung, step.failure) == (Rung.HANDSHAKE, Failure.HTTP_REQUEST_FAILED)
    assert "404" in step.detail


def test_websocket_shows_the_servers_name(world: Any, proxy: Any) -> None:
    """The link names no host for HTTP, so the server's own stands there, and not its address."""
    spec: Any = _hidden(8469, proxy, "/way")[1]
    server = msgspec.structs.replace(spec.config.server, host="Name_d.test")
    spec = msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, server=server))
    heard: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4096))
        writer.close()

    async def body() -> None:
        world.names["Name_d.test"] = "198.18.0.1"
        sock = world.server.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("198.18.0.1", 8469))
        sock.setblocking(False)
        async with world.open(), await asyncio.start_server(handler, sock=sock):
            [tunnel] = await world.raised(spec)
            await tunnel.lower()

    asyncio.run(body())
    assert any(b"Host: Name_d.test:8469\r\n" in each for each in heard), heard


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
