"""What holds of every parser of strangers' bytes, on the corpus and on what a careless or evil hand makes of it.

`scripts/fuzz` throws the same table at a fuzzer for as long as it is let; here each parser gets a second of it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parsers import PARSERS, hold, seeds

SEEDS = seeds()
_DIRT = [
    *(b"\x00", b"\xff\xfe", b"\r", b"\x1b]0;x\x07", "\u202e".encode(), "\ud800".encode("utf-8", "surrogatepass")),
    *(
        b"%00",
        b"%",
        b"#",
        b"@",
        b"://",
        b"[",
        b"{" * 40,
        b"<ca>",
        b"</ca>",
        b"9" * 400,
        b"=" * 40,
        b"\n" * 40,
        b"A" * 4000,
    ),
]

damage = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.sampled_from(_DIRT) | st.binary(max_size=12)),
    min_size=1,
    max_size=4,
)
"""Where, how much is cut out, and what is put there."""


def damaged(seed: bytes, wounds: list[tuple[float, float, bytes]]) -> bytes:
    for place, length, dirt in wounds:
        start = int(place * len(seed))
        seed = seed[:start] + dirt + seed[start + int(length * len(seed)) :]
    return seed


@pytest.mark.parametrize("name", PARSERS)
def test_there_is_something_to_begin_with_and_some_of_it_can_be_used(name: str) -> None:
    assert SEEDS[name]
    usable = [hold(name, seed) for seed in SEEDS[name]]
    assert any(usable)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_only_config_errors_leave_a_parser_and_no_message_steers_or_tells(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(SEEDS[name]))
    hold(name, damaged(seed, data.draw(damage)))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_so_it_is_with_any_bytes(name: str, data: bytes) -> None:
    hold(name, data)
