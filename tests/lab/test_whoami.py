"""Who asks is the answer."""

from __future__ import annotations

import dns.flags
import dns.message
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


@given(st.binary(max_size=64))
def test_noise_is_never_an_error(noise: bytes) -> None:
    reply = answer(noise, ASKER)
    assert reply is None or len(reply) >= 12
