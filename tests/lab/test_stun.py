"""The STUN server's words, and the server itself."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from aioice import stun

from vpntest.lab.stun import answer

ASKER = ("203.0.113.7", 54321)


def request(message_class: stun.Class = stun.Class.REQUEST) -> stun.Message:
    return stun.Message(stun.Method.BINDING, message_class)


def test_whoever_asks_is_told_their_address() -> None:
    asked = request()
    reply = stun.parse_message(answer(bytes(asked), ASKER) or b"")
    assert (reply.message_class, reply.transaction_id) == (stun.Class.RESPONSE, asked.transaction_id)
    assert reply.attributes["XOR-MAPPED-ADDRESS"] == ASKER


@pytest.mark.parametrize(
    "datagram",
    [b"", b"hello", bytes(20), bytes(1200), bytes(request())[:-4], bytes(request(stun.Class.RESPONSE))],
    ids=["empty", "words", "no cookie", "zeros", "cut", "an answer"],
)
def test_what_is_no_request_gets_no_answer(datagram: bytes) -> None:
    assert answer(datagram, ASKER) is None


def test_it_serves_every_address_that_it_is_given() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b:
        # Two ports that were free a moment ago.
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        ports = [a.getsockname()[1], b.getsockname()[1]]
    command = [sys.executable, "-m", "vpntest.lab.stun", *(f"127.0.0.1:{port}" for port in ports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            for port in ports:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                    asking.settimeout(5)
                    asking.connect(("127.0.0.1", port))
                    asking.send(b"nonsense")
                    asking.send(bytes(request()))
                    reply = stun.parse_message(asking.recv(2048))
                    assert reply.attributes["XOR-MAPPED-ADDRESS"] == asking.getsockname()
        finally:
            server.kill()
