"""HTTPUpgrade's first exchange, and that no byte behind it is lost, however quickly it comes."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trustme

from vpntest.lab.upgrade import accepts

ASKED = b"GET /way/in HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "is_taken"),
    [
        (ASKED, True),
        (ASKED.replace(b"/way/in", b"/"), False),
        (ASKED.replace(b"GET", b"POST"), False),
        (ASKED.replace(b"Upgrade: WebSocket\r\n", b""), False),
        (ASKED.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Key: AA==\r\n\r\n"), False),
        (b"\r\n\r\n", False),
        (b"\xff\xfe", False),
    ],
)
def test_it_takes_one_request(head: bytes, is_taken: bool) -> None:
    assert accepts(head, "/way/in") is is_taken


@pytest.mark.root
def test_what_comes_with_the_request_arrives(tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("a.example").private_key_and_cert_chain_pem.write_to_path(str(pem))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with socket.create_server(("127.0.0.1", 0)) as behind, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()

        def echo() -> None:
            inner, _ = behind.accept()
            with inner:
                inner.sendall(inner.recv(100)[::-1])

        thread = threading.Thread(target=echo)
        thread.start()
        to = f"127.0.0.1:{behind.getsockname()[1]}"
        command = [sys.executable, "-m", "vpntest.lab.upgrade", f"127.0.0.1:{port}", str(pem), "/way/in", to]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname="a.example") as asking,
            ):
                asking.sendall(ASKED + b"early")
                said = b""
                while data := asking.recv(1000):
                    said += data
            process.kill()
        thread.join()
    head, _, rest = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert rest == b"ylrae"
