"""Who asks is the answer."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import dns.exception
import dns.flags
import dns.message
import dns.query
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.lab.whoami import answer

ASKER = "198.18.53.53"


def test_the_a_record_is_the_asker() -> None:
    query = dns.message.make_query("whoami.example", "A")
    reply = dns.message.from_wire(answer(query.to_wire(), ASKER) or b"")
    assert query.is_response(reply)
    assert [data.to_text() for data in reply.answer[0]] == [ASKER]
    assert reply.answer[0].ttl == 0
    assert reply.flags & dns.flags.AA


@pytest.mark.parametrize("kind", ["AAAA", "TXT"])
def test_other_types_have_no_answer_and_no_error(kind: str) -> None:
    reply = dns.message.from_wire(answer(dns.message.make_query("whoami.example", kind).to_wire(), ASKER) or b"")
    assert not reply.answer
    assert reply.rcode() == 0


def test_answers_are_not_answered() -> None:
    reply = dns.message.make_response(dns.message.make_query("whoami.example", "A"))
    assert answer(reply.to_wire(), ASKER) is None


@pytest.mark.root
def test_it_answers_by_tcp_as_by_udp() -> None:
    with subprocess.Popen([sys.executable, "-m", "vpntest.lab.whoami", "127.0.0.9"]) as server:
        query = dns.message.make_query("whoami.example", "A")
        by_tcp = _asked(lambda: dns.query.tcp(query, "127.0.0.9", timeout=2))
        by_udp = _asked(lambda: dns.query.udp(query, "127.0.0.9", timeout=2))
        with socket.create_connection(("127.0.0.9", 53)) as cut_short:
            cut_short.sendall(b"\0")
        assert _asked(lambda: dns.query.tcp(query, "127.0.0.9", timeout=2)).answer == by_tcp.answer
        server.kill()
    assert [data.to_text() for data in by_tcp.answer[0]] == ["127.0.0.1"]
    assert by_tcp.answer == by_udp.answer


def _asked(ask: Callable[[], dns.message.Message]) -> dns.message.Message:
    """Asks until somebody is there who answers."""
    for _ in range(200):
        with contextlib.suppress(OSError, dns.exception.DNSException):
            return ask()
        time.sleep(0.02)
    raise AssertionError("nobody answers")


@given(st.binary(max_size=64))
def test_noise_is_never_an_error(noise: bytes) -> None:
    reply = answer(noise, ASKER)
    assert reply is None or len(reply) >= 12
