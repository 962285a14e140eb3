"""Tor by bridges: what is handed to tor, and how a bridge fails. One that works needs a Tor network: tests/lab."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vpntest.failures import Failure
from vpntest.plan import bridges
from vpntest.plan.model import Bridge, Kind, Server, TorConfig, TunnelSpec
from vpntest.plan.secret import Secret
from vpntest.tunnel import tor
from vpntest.tunnel.carriers import Carriers
from vpntest.tunnel.ladder import Fall, Rung
from vpntest.tunnel.raising import Tunnel

PRINT = "A1B2C3D4E5" * 4
CERT = base64.b64encode(secrets.token_bytes(52)).decode().rstrip("=")
SERVER = "198.18.0.1"


def obfs4(*ports: int, address: str = SERVER) -> str:
    return "\n".join(f"Bridge obfs4 {address}:{port} {PRINT} cert={CERT} iat-mode=0" for port in ports)


def spec(text: str) -> TunnelSpec:
    return TunnelSpec(name="tor", kind=Kind.TOR, source="bridges.txt", config=bridges.parse(text, "bridges.txt")[0])


# ── what tor is told ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_torrc_holds_our_words_and_quoted_bridges_alone() -> None:
    config, _ = bridges.parse(f"SocksPort 0.0.0.0:9050\nClientTransportPlugin obfs4 exec /x\n{obfs4(443)}", "x")
    lines = tor.written(config.bridges, {"obfs4": "/usr/bin/obfs4proxy"}).splitlines()
    assert f'Bridge "obfs4 {SERVER}:443 {PRINT} cert={CERT} iat-mode=0"' in lines
    (plugin,) = (line for line in lines if line.startswith("ClientTransportPlugin"))
    assert plugin.startswith("ClientTransportPlugin obfs4 exec /usr/bin/obfs4proxy")
    assert [line for line in lines if "Port" in line] == ["SocksPort 127.0.0.1:auto"]
    assert not any("DirAuthority" in line or "Testing" in line for line in lines)


def test_transports_of_one_program_share_a_line_and_plain_bridges_need_none() -> None:
    three = tuple(Bridge(name, "192.0.2.1:1", None, (), None) for name in ("obfs4", "meek_lite", None))
    text = tor.written(three, {"obfs4": "/p/lyrebird", "meek_lite": "/p/lyrebird", "webtunnel": "/p/other"})
    assert text.count("ClientTransportPlugin ") == 1
    assert "ClientTransportPlugin obfs4,meek_lite exec /p/lyrebird" in text
    assert "other" not in text


@pytest.mark.parametrize("value", ['a"b', "a\\", "a#b", "a'b"])
def test_quoting_survives_tor_itself(value: str) -> None:
    bridge = Bridge("obfs4", "192.0.2.1:443", PRINT, (("cert", Secret(value)), ("iat-mode", "0")), None)
    text = tor.written((bridge,), {"obfs4": "/bin/true"})
    command = ["tor", "-f", "-", "--defaults-torrc", "/nonexistent", "--verify-config", "--hush"]
    path = f"{os.environ['PATH']}:/usr/sbin"
    text = text.replace("/run/tor", "/nonexistent")
    done = subprocess.run(
        [*command, "--dump-config", "short"], input=text, capture_output=True, text=True, env={"PATH": path}
    )
    (said,) = (line for line in done.stdout.splitlines() if line.startswith("Bridge "))
    assert value in said.replace('\\"', '"').replace("\\\\", "\\")


@pytest.mark.parametrize("value", ["a\nSocksPort 0.0.0.0:1", "a\0", "a\u2028b"])
def test_no_line_can_be_smuggled_in(value: str) -> None:
    bridge = Bridge("obfs4", "192.0.2.1:443", PRINT, (("cert", Secret(value)),), None)
    with pytest.raises(Fall) as fallen:
        tor.written((bridge,), {"obfs4": "/bin/true"})
    assert fallen.value.failure == Failure.INVALID


def test_a_closed_network_is_the_plans_word() -> None:
    text = tor.written((), {}, (f"orport=443 v3ident={PRINT} 198.18.30.1:80 {PRINT}",))
    assert "TestingTorNetwork 1\n" in text
    assert text.count("DirAuthority ") == 1


# ── bridges that fail ────────────────────────────────────────────────────────────────────────────────────────────────

_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass
    writer.close()


async def speaks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9)
    writer.close()


@contextlib.asynccontextmanager
async def served(world: Any, handler: _Handler, port: int) -> AsyncIterator[None]:
    sock = world.server.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((SERVER, port))
    sock.listen()
    writers = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError):
            await handler(reader, writer)

    server = await asyncio.start_server(take, sock=sock)
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)


def raised(world: Any, text: str, handler: _Handler | None = None, port: int = 8443) -> Tunnel:
    async def scene() -> Tunnel:
        async with world.open(), served(world, handler or says_nothing, port):
            tunnel: Tunnel
            (tunnel,) = await world.raised(spec(text))
            await tunnel.lower()
            return tunnel

    return asyncio.run(scene())


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge's word is taken sooner than where the network is a network."""
    monkeypatch.setattr(tor, "HANDSHAKE_TIMEOUT", 3.0)
    monkeypatch.setattr(tor, "HANDSHAKE_PATIENCE", 8.0)


@pytest.mark.root
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("transport", "handler", "failure"),
    [
        ("obfs4", resets, Failure.CONNECTION_RESET),
        ("obfs4", closes, Failure.EOF),
        ("obfs4", says_nothing, Failure.TIMEOUT),
        ("plain", resets, Failure.CONNECTION_RESET),
        ("plain", closes, Failure.EOF),
        ("plain", speaks_http, Failure.SSL_FAILED_HANDSHAKE),
        ("plain", says_nothing, Failure.TIMEOUT),
    ],
)
def test_a_bridge_that_does_not_shake_hands(world: Any, transport: str, handler: _Handler, failure: Failure) -> None:
    text = obfs4(8443) if transport == "obfs4" else f"Bridge {SERVER}:8443 {PRINT}"
    tunnel = raised(world, text, handler)
    assert tunnel.vantage is None
    *before, last = tunnel.steps
    assert [step.rung for step in before] == [Rung.CONFIG, Rung.ENDPOINT_DNS, Rung.ENDPOINT]
    assert (last.rung, last.failure) == (Rung.HANDSHAKE, failure), last
    assert "%" in last.detail
    assert CERT not in last.detail


@pytest.mark.root
def test_no_bridge_takes_a_connection(world: Any) -> None:
    last = raised(world, obfs4(8, 9)).steps[-1]
    assert (last.rung, last.failure) == (Rung.ENDPOINT, Failure.CONNECTION_REFUSED)


@pytest.mark.root
def test_a_bridge_that_nobody_here_speaks_for_is_said(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    obfs4_only = [one for one in world.carriers["tor"].helpers if one[0] == "obfs4"]
    rows = (
        replace(row, features=("obfs4",), helpers=tuple(obfs4_only)) if row.name == "tor" else row
        for row in world.carriers.rows
    )
    monkeypatch.setattr(world, "carriers", Carriers(tuple(rows)))
    webtunnel = f"Bridge webtunnel 192.0.2.3:1 {PRINT} url=https://wt.example/x"
    tunnel = raised(world, f"{obfs4(8)}\n{webtunnel}")
    assert (tunnel.steps[-1].rung, tunnel.steps[-1].failure) == (Rung.ENDPOINT, Failure.CONNECTION_REFUSED)
    (said,) = tunnel.warnings
    assert said.startswith("1 of 2 bridges not tried: no program here speaks webtunnel")


@pytest.mark.root
@pytest.mark.usefixtures("hurried")
def test_one_bridge_that_takes_a_connection_is_enough_to_go_on(world: Any) -> None:
    last = raised(world, obfs4(8, 8443), resets).steps[-1]
    assert last.rung == Rung.HANDSHAKE


@pytest.mark.root
@pytest.mark.usefixtures("hurried")
def test_a_front_is_looked_up_by_us_alone_and_called_where_we_found_it(world: Any) -> None:
    world.names["front.example"] = SERVER
    world.asked.clear()
    text = f"meek_lite 192.0.2.18:80 {PRINT} url=http://meek.example:8443/ front=front.example"
    last = raised(world, text, closes).steps[-1]
    assert (last.rung, last.failure) == (Rung.HANDSHAKE, Failure.EOF), last
    # A and AAAA by us; the transport's own program finds it in its hosts file.
    assert [name for name, _ in world.asked].count("front.example") == 2
    # Nobody on the way hears of what the front stands for.
    assert "meek.example" not in dict(world.asked)


@pytest.fixture
def private() -> Iterator[None]:
    """As a service that writes for root alone."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.root
@pytest.mark.usefixtures("hurried", "private")
def test_a_broker_and_its_stun_server_are_called_where_we_found_them(world: Any) -> None:
    world.names |= {"broker.example": SERVER, "stun.example": SERVER}
    world.asked.clear()
    heard: list[bytes] = []

    async def hears(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    text = f"snowflake 192.0.2.3:80 {PRINT} url=http://broker.example:8443/ ice=stun:stun.example:8443"
    with world.server.socket(socket.AF_INET, socket.SOCK_DGRAM) as stun:
        stun.bind((SERVER, 8443))
        stun.setblocking(False)
        assert raised(world, text, hears).steps[-1].rung == Rung.HANDSHAKE
        assert b"\x21\x12\xa4\x42" in stun.recv(512)
    assert any(b"HTTP/1.1" in words for words in heard)
    assert {name for name, _ in world.asked} == {"broker.example", "stun.example"}
    assert len(world.asked) == 4


@contextlib.asynccontextmanager
async def own_doors(world: Any, *ports: int) -> AsyncIterator[list[int]]:
    """Services of this machine's, on all its addresses, and whoever has knocked."""
    knocked: list[int] = []
    servers = []
    for port in ports:
        sock = world.client.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        sock.listen()

        def seen(_: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port) -> None:
            knocked.append(port)
            writer.close()

        servers.append(await asyncio.start_server(seen, sock=sock))
    # A name that leads to this machine may have been asked for at its own resolver.
    resolver = world.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
    resolver.setblocking(False)
    resolver.bind(("127.0.0.1", 53))
    try:
        yield knocked
        await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            resolver.recv(512)
            knocked.append(53)
    finally:
        resolver.close()
        for server in servers:
            server.close()


OWN = "198.18.0.2"
"""The client's own address in the tests' world."""


@pytest.mark.root
@pytest.mark.parametrize(
    "text",
    [
        f"Bridge {OWN}:8080 {PRINT}",
        f"meek_lite 192.0.2.18:80 {PRINT} url=http://evil.example:8080/",
        f"meek_lite 192.0.2.18:80 {PRINT} url=http://a.example:8080/ front=evil.example",
        f"snowflake 192.0.2.3:80 {PRINT} url=http://{OWN}:8080/",
        f"snowflake 192.0.2.3:80 {PRINT} url=http://evil.example:8080/",
        f"snowflake 192.0.2.3:80 {PRINT} url=http://front.example/ ice=stun:{OWN}:8080",
    ],
)
def test_no_bridge_leads_to_this_machine(world: Any, text: str) -> None:
    world.names |= {"evil.example": "127.0.0.1", "front.example": SERVER}

    async def scene() -> tuple[Tunnel, list[int]]:
        async with world.open(), own_doors(world, 8080) as knocked:
            (tunnel,) = await world.raised(spec(text))
            await tunnel.lower()
        return tunnel, knocked

    tunnel, knocked = asyncio.run(scene())
    last = tunnel.steps[-1]
    assert (last.rung, last.failure in (Failure.REFUSED, Failure.DNS_BOGON)) == (Rung.ENDPOINT_DNS, True), last
    assert not knocked


@pytest.mark.root
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "\n".join([f"Bridge {SERVER}:{8000 + n} {PRINT}" for n in range(9)] + [f"Bridge {OWN}:8080 {PRINT}"]),
            "1 of 10",
        ),
        (f"Bridge {SERVER}:8443 {PRINT}\nmeek_lite 192.0.2.18:80 {PRINT} url=http://evil.example:8080/", "1 of 2"),
        # It has others to ask; to this one it finds no way.
        (f"snowflake 192.0.2.3:80 {PRINT} url=http://x.example/ fronts=evil.example,evil2.example,front.example", ""),
    ],
)
def test_of_many_bridges_those_that_lead_to_this_machine_are_left_out(
    world: Any, text: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tor, "HANDSHAKE_PATIENCE", 4.0)
    world.names |= {"evil.example": "127.0.0.1", "evil2.example": "127.0.0.1", "front.example": SERVER}

    async def scene() -> tuple[Tunnel, list[int]]:
        bridges = served(world, closes, 8443), served(world, closes, 8000)
        async with world.open(), own_doors(world, 8080, 443) as knocked, bridges[0], bridges[1]:
            (tunnel,) = await world.raised(spec(text))
            await tunnel.lower()
        return tunnel, knocked

    tunnel, knocked = asyncio.run(scene())
    assert tunnel.steps[-1].rung == Rung.HANDSHAKE, tunnel.steps[-1]
    assert not knocked
    assert [line.split(" bridges")[0] for line in tunnel.warnings if "not tried" in line] == ([left] if left else [])


TAKEN_OVER = """#!/bin/sh
PATH=/usr/bin:/bin
mkdir -p /run/tor
{left}
echo 'here it is'
while :; do sleep 1; done
"""


@pytest.mark.root
@pytest.mark.parametrize(
    "left",
    [
        "ln -s {secret} /run/tor/control; ln -s {secret} /run/tor/control_auth_cookie",
        "mkfifo /run/tor/control /run/tor/control_auth_cookie",
        "mv /run/tor /run/old; ln -s {folder} /run/tor",
        "echo words > /run/tor/control",
    ],
)
def test_a_tor_that_was_taken_over_has_us_open_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left: str
) -> None:
    folder = tmp_path / "root's"
    folder.mkdir(mode=0o700)
    program = tmp_path / "tor"
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(folder / "control"))
        own.listen()
        own.setblocking(False)
        program.write_text(TAKEN_OVER.format(left=left.format(secret=f'"{folder}/control"', folder=f'"{folder}"')))
        program.chmod(0o755)
        rows = (replace(row, program=str(program)) if row.name == "tor" else row for row in world.carriers.rows)
        monkeypatch.setattr(world, "carriers", Carriers(tuple(rows)))
        last = raised(world, f"Bridge {SERVER}:8443 {PRINT}").steps[-1]
        assert (last.rung, last.failure) == (Rung.HANDSHAKE, Failure.CARRIER_EXITED)
        assert "none of its own" in last.detail
        with pytest.raises(BlockingIOError):
            own.accept()


@pytest.mark.root
@pytest.mark.usefixtures("hurried")
def test_what_finds_its_own_way_is_not_looked_for(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tor, "HANDSHAKE_PATIENCE", 2.0)
    config = TorConfig((Bridge(None, "198.18.0.1:9", PRINT, (), None),))
    assert not config.servers

    async def scene() -> Tunnel:
        async with world.open():
            tunnel: Tunnel
            (tunnel,) = await world.raised(TunnelSpec("tor", Kind.TOR, "x", config))
            await tunnel.lower()
            return tunnel

    assert asyncio.run(scene()).steps[-1].rung == Rung.HANDSHAKE


@pytest.mark.root
@pytest.mark.usefixtures("hurried")
def test_secrets_stand_in_no_argument_and_tor_goes_with_the_tunnel(world: Any, children: Any) -> None:
    async def scene() -> tuple[dict[int, str], dict[int, str]]:
        async with world.open(), served(world, says_nothing, 8443):
            raising = asyncio.ensure_future(world.raised(spec(obfs4(8443))))
            while not any("obfs4proxy" in line for line in children(world.cage).values()):
                await asyncio.sleep(0.05)
            during = children(world.cage)
            (tunnel,) = await raising
            await tunnel.lower()
            return during, children(world.cage)

    during, after = asyncio.run(scene())
    assert any("tor " in line for line in during.values())
    assert not any(CERT in line for line in during.values())
    assert not any("tor" in line or "obfs4" in line for line in after.values())


def test_the_server_that_is_shown_is_the_bridges() -> None:
    config = spec(obfs4(443)).config
    assert isinstance(config, TorConfig)
    assert config.servers == (Server(SERVER, 443, "tcp"),)
