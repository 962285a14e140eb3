"""The HTTP/3 server: which answer is whose, and the server itself under aioquic's client."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trustme
from standing_lab import Http3Answer, ask_http3

from vpntest.lab.http3 import Answer, Server, Settings, choose

PAGE, LARGE, GONE, OUT = Answer(200, "page"), Answer(200, "large"), Answer(404, "gone"), Answer(403, "out")
SERVER = Server(
    *("127.0.0.1", 443, "a.pem", {"a.example": {"/": LARGE, "/gone": GONE}, "b.example": {}}, PAGE),
    unwelcome={"198.18.20.1": OUT},
)


@pytest.mark.parametrize(
    ("visitor", "host", "path", "answer"),
    [
        ("198.19.0.2", "a.example", "/", LARGE),
        ("198.19.0.2", "a.example", "/?query=1", LARGE),
        ("198.19.0.2", "a.example", "/gone", GONE),
        ("198.19.0.2", "a.example", "/other", PAGE),
        ("198.19.0.2", "b.example", "/", PAGE),
        ("198.19.0.2", "stranger.example", "/", LARGE),
        ("198.18.20.1", "a.example", "/", OUT),
        ("198.18.20.1", "stranger.example", "/other", OUT),
    ],
)
def test_the_answer_to(visitor: str, host: str, path: str, answer: Answer) -> None:
    assert choose(SERVER, visitor, host, path) is answer


def test_a_server_without_grudges_answers_everybody() -> None:
    assert choose(msgspec.structs.replace(SERVER, unwelcome={}), "198.18.20.1", "a.example", "/") is LARGE


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A server on loopback; the folder with its root, and its port."""
    folder = tmp_path_factory.mktemp("http3")
    root = trustme.CA()
    root.cert_pem.write_to_path(str(folder / "ca.pem"))
    pem = folder / "server.pem"
    root.create_child_ca().issue_cert("a.example").private_key_and_cert_chain_pem.write_to_path(str(pem))
    (folder / "large.html").write_bytes(b"lab " * 50_000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finding:
        finding.bind(("127.0.0.1", 0))
        port = finding.getsockname()[1]
    site = {"/": Answer(200, file=str(folder / "large.html"))}
    test = Answer(403, "who are you?", header=("cf-mitigated", "challenge"))
    # The second is for those who come from loopback.
    servers = [
        Server("127.0.0.1", port, str(pem), {"a.example": site}, PAGE),
        Server("127.0.0.2", port, str(pem), {"a.example": site}, PAGE, {"127.0.0.1": test}),
    ]
    (folder / "http3.json").write_bytes(msgspec.json.encode(Settings(tuple(servers))))
    command = [sys.executable, "-m", "vpntest.lab.http3", str(folder / "http3.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield folder, port
        finally:
            server.kill()


async def ask(
    served: tuple[Path, int], name: str, path: str, method: str = "GET", *, address: str = "127.0.0.1"
) -> Http3Answer:
    folder, port = served
    roots = str(folder / "ca.pem") if name == "a.example" else None
    return await ask_http3(address, port, name, path, method, roots, seconds=20)


def test_a_large_page_arrives_whole_and_its_head_alone(served: tuple[Path, int]) -> None:
    answer = asyncio.run(ask(served, "a.example", "/"))
    assert (answer.status, answer.body) == (200, b"lab " * 50_000)
    assert answer.names == ["a.example"]
    head = asyncio.run(ask(served, "a.example", "/", "HEAD"))
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "200000")
    assert asyncio.run(ask(served, "a.example", "/other")).body == b"page"


def test_any_name_is_served(served: tuple[Path, int]) -> None:
    answer = asyncio.run(ask(served, "stranger.example", "/"))
    assert (answer.status, len(answer.body), answer.names) == (200, 200_000, ["a.example"])


def test_visitors_are_known_by_their_address(served: tuple[Path, int]) -> None:
    answer = asyncio.run(ask(served, "a.example", "/", address="127.0.0.2"))
    assert (answer.status, answer.body, answer.headers["cf-mitigated"]) == (403, b"who are you?", "challenge")
