from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from vpntest.failures import Failure
from vpntest.plan.model import Kind, OpenVpnConfig, Server, TunnelSpec
from vpntest.plan.secret import Secret
from vpntest.tunnel import netlink
from vpntest.tunnel.cage import MAX_LINE
from vpntest.tunnel.carriers import Carrier
from vpntest.tunnel.ladder import Fall, Rung
from vpntest.tunnel.openvpn import _Session, written

CLIMBED = [Rung.CONFIG, Rung.ENDPOINT_DNS, Rung.ENDPOINT, Rung.HANDSHAKE, Rung.AUTH]


def _changed(spec: TunnelSpec, **changes: object) -> TunnelSpec:
    assert isinstance(spec.config, OpenVpnConfig)
    return msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, **changes))


@pytest.mark.root
@pytest.mark.parametrize(
    ("transport", "port", "net", "topology"),
    [("udp", 1194, 21, "subnet"), ("tcp", 1195, 22, "subnet"), ("udp", 1206, 28, "net30")],
)
def test_comes_up_and_carries_names_and_bytes(
    world: Any, pki: Any, question: Any, first_byte: Any, transport: str, port: int, net: int, topology: str
) -> None:
    async def body() -> None:
        async with world.open(), world.openvpn(port, net, transport, pki, topology) as spec:
            [tunnel] = await world.raised(spec)
            try:
                assert [(step.rung, step.failure) for step in tunnel.steps] == [(rung, None) for rung in CLIMBED], (
                    tunnel.steps
                )
                assert tunnel.carrier.startswith("openvpn 2.")
                assert tunnel.vantage.resolver == "198.18.9.9"
                assert (await question(tunnel.vantage, "three.test")).answers == ("198.18.77.7",)
                assert await first_byte(tunnel.vantage) == b"w"
                assert await first_byte(tunnel.vantage, "fd00:9::9") == b"w"
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.root
def test_nothing_is_sent_through_it_before_it_is_asked_for(world: Any, pki: Any) -> None:
    async def body() -> None:
        async with world.openvpn(1196, 23, "udp", pki) as spec:
            [tunnel] = await world.raised(spec)
            try:
                await asyncio.sleep(2.5)
                assert tunnel.vantage.count_packets().sent == 0
                assert netlink.count(world.server, "tun1196").received == 0
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.root
def test_a_wrong_password_is_rejected_and_a_wrong_authority_is_told_apart(world: Any, pki: Any) -> None:
    async def body() -> None:
        async with world.openvpn(1197, 24, "udp", pki) as spec, world.openvpn(1198, 25, "tcp", pki) as by_tcp:
            # The client's own certificate as the authority: sound PEM, and not the one that signed the server's.
            stranger = (("ca", Secret(pki.client[0])), *spec.config.inline[1:])
            name = (*spec.config.directives[:-1], ("verify-x509-name", "someone-else", "name"))
            tunnels = await world.raised(
                _changed(spec, password=Secret("wrong")),
                _changed(by_tcp, password=Secret("wrong")),
                _changed(spec, inline=stranger),
                _changed(spec, directives=name),
            )
            for tunnel in tunnels:
                await tunnel.lower()
            last = [(tunnel.steps[-1].rung, tunnel.steps[-1].failure) for tunnel in tunnels]
            assert last == [
                (Rung.AUTH, Failure.AUTH_REJECTED),
                (Rung.AUTH, Failure.AUTH_REJECTED),
                (Rung.HANDSHAKE, Failure.SSL_UNKNOWN_AUTHORITY),
                (Rung.HANDSHAKE, Failure.SSL_INVALID_HOSTNAME),
            ], [tunnel.steps[-1] for tunnel in tunnels]

    asyncio.run(body())


@pytest.mark.root
def test_the_next_remote_is_tried(world: Any, pki: Any) -> None:
    async def body() -> None:
        async with world.openvpn(1204, 26, "tcp", pki) as spec:
            remotes = (Server("198.18.0.1", 1298, "tcp"), *spec.config.servers)
            [tunnel] = await world.raised(_changed(spec, servers=remotes))
            try:
                assert tunnel.vantage is not None, tunnel.steps
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.root
def test_nothing_that_a_config_names_is_run_or_written(world: Any, pki: Any, tmp_path: Path) -> None:
    """Even where the reader of configs had let such directives through."""
    witness = tmp_path / "ran"
    script = tmp_path / "script.sh"
    script.write_text(f"#!/bin/sh\ntouch {witness}\n")
    script.chmod(0o755)
    kept = tmp_path / "kept"
    kept.write_text("kept")
    acting = [
        *((word, str(script)) for word in ("up", "down", "route-up", "ipchange", "tls-verify", "plugin", "iproute")),
        *((word, str(kept)) for word in ("log", "log-append", "writepid", "status", "replay-persist", "config")),
        ("script-security", "2"),
    ]

    async def body() -> None:
        async with world.openvpn(1205, 27, "udp", pki) as spec:
            for directive in acting:
                specs = _changed(spec, directives=(directive, *spec.config.directives))
                [tunnel] = await world.raised(specs)
                assert [(step.rung, step.failure) for step in tunnel.steps] == [(Rung.CONFIG, Failure.INVALID)]
            # What hides in an argument stays an argument: it is refused, or taken as text.
            hidden = (("remote-cert-tls", f'server" \\\nup "{script}'), ("setenv", "opt", "up", str(script)))
            for directive in hidden:
                [tunnel] = await world.raised(_changed(spec, directives=(("script-security", "2"), directive)))
                assert tunnel.vantage is None
            [tunnel] = await world.raised(_changed(spec, directives=(*spec.config.directives, hidden[1])))
            assert tunnel.vantage is not None, tunnel.steps
            await tunnel.lower()

    asyncio.run(body())
    assert not witness.exists()
    assert kept.read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"script.sh", "kept"}


def _config(*directives: tuple[str, ...], inline: tuple[tuple[str, Secret], ...] = ()) -> OpenVpnConfig:
    return OpenVpnConfig((Server("198.18.0.1", 1194, "udp"),), directives, inline)


def test_written_anew_in_openvpns_quoting() -> None:
    config = _config(
        ("client",),
        ("verify-x509-name", 'a "b" \\c', "name"),
        ("remote", "198.18.9.9", "1"),
        ("dev", "tun7"),
        ("setenv", "UV_X", "1"),
        inline=(("ca", Secret("\nPEM\n")),),
    )
    assert written(config) == 'client\nverify-x509-name "a \\"b\\" \\\\c" "name"\n<ca>\nPEM\n</ca>\n'


def test_a_user_and_password_are_asked_for_only_where_there_are_some() -> None:
    config = msgspec.structs.replace(
        _config(("auth-user-pass", "/etc/shadow")), username=Secret("u"), password=Secret("p")
    )
    assert written(config) == "auth-user-pass\n"
    assert written(_config(("auth-user-pass", "/etc/shadow"))) == "\n"


@pytest.mark.parametrize(
    "config",
    [
        _config(("cipher", "AES\nplugin /x.so")),
        _config(("plugin", "/x.so")),
        _config(("Cipher x\nplugin", "/x.so")),
        _config(("cipher", "a\0b")),
        _config(inline=(("ca", Secret("PEM\n</ca>\nplugin /x.so\n<ca>")),)),
        _config(inline=(("ca>\nplugin /x.so\n<ca", Secret("PEM")),)),
    ],
)
def test_what_could_become_another_directive_is_not_written(config: OpenVpnConfig) -> None:
    with pytest.raises(Fall) as caught:
        written(config)
    assert caught.value.failure == Failure.INVALID


@pytest.mark.root
@pytest.mark.parametrize("which", ["username", "password"])
@pytest.mark.parametrize("text", ["a\u00a0b", "a\u202eb", "a\nb"])
def test_a_login_that_cannot_be_typed_ends_at_the_config(world: Any, which: str, text: str) -> None:
    login = {"username": Secret("u"), "password": Secret("p"), which: Secret(text)}
    spec = TunnelSpec("x", Kind.OPENVPN, "x.ovpn", msgspec.structs.replace(_config(("client",)), **login))
    [tunnel] = asyncio.run(world.raised(spec))
    assert [(step.rung, step.failure) for step in tunnel.steps] == [(Rung.CONFIG, Failure.INVALID)]
    assert tunnel.problem is not None
    assert ("user name" if which == "username" else which) in tunnel.problem.reason
    assert text not in tunnel.problem.reason


class Running:
    """Stands for a process that goes on."""

    def running(self) -> bool:
        return True

    async def wait(self) -> None:
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def managed(directory: Path) -> Any:
    """A session, and the other end of its management socket."""
    async with contextlib.AsyncExitStack() as undo:
        site = SimpleNamespace(
            undo=undo, cage=SimpleNamespace(directory=directory), device="x", spawn=lambda *_, **__: Running()
        )
        session = _Session(site, ())
        await session.start(Carrier("openvpn", "/nonexistent", "2.6.14", ()), "", [], 1)
        _, writer = await asyncio.open_unix_connection(directory / "x.sock")
        yield session, writer
        writer.close()


def test_a_line_without_end_does_not_end_the_management(tmp_path: Path) -> None:
    async def body() -> None:
        async with managed(tmp_path) as (session, writer):
            writer.write(b">INFO:" + b"x" * (MAX_LINE + 9) + b"\n>STATE:1,WAIT,,,\n")
            await session.reaches("WAIT", 20)

    asyncio.run(body())


@pytest.mark.parametrize(("state", "failure"), [("WAIT", Failure.TIMEOUT), ("AUTH", Failure.STALLED)])
def test_silence_after_an_answer_is_told_from_silence(tmp_path: Path, state: str, failure: Failure) -> None:
    async def body() -> Fall:
        async with managed(tmp_path) as (session, writer):
            writer.write(f">STATE:1,{state},,,\n".encode())
            await session.reaches(state, 20)
            with pytest.raises(Fall) as fall:
                await session.reaches("GET_CONFIG", 0.05)
            return fall.value

    assert asyncio.run(body()).failure == failure
