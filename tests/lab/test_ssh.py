"""The lab's SSH server, as a client of the same library sees it; sing-box's is tests/lab/test_dialects.py's affair."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from vpntest.lab.ssh import new_key

USER, PASSWORD = "reader", "an invented password"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """Port and public key."""
    private, public = new_key()
    port = _free_port()
    settings = {"address": "127.0.0.1", "port": port, "user": USER, "password": PASSWORD, "key": private}
    file = tmp_path / "ssh.json"
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "vpntest.lab.ssh", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield port, public
        process.kill()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _connected(server: tuple[int, str], password: str) -> asyncssh.SSHClientConnection:
    port, public = server
    hosts = asyncssh.import_known_hosts(f"[127.0.0.1]:{port} {public}\n")
    return await asyncssh.connect(
        *("127.0.0.1", port), username=USER, password=password, known_hosts=hosts, config=None, client_keys=None
    )


@pytest.mark.root
def test_it_forwards_and_does_nothing_else(server: tuple[int, str]) -> None:
    async def ask() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()

        listener = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with listener, await _connected(server, PASSWORD) as connection:
            reader, writer = await connection.open_connection("127.0.0.1", listener.sockets[0].getsockname()[1])
            writer.write(b"through\n")
            assert await reader.read() == b"THROUGH\n"
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.run("id")

    asyncio.run(ask())


@pytest.mark.root
def test_it_knows_one_password(server: tuple[int, str]) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(_connected(server, "another"))
