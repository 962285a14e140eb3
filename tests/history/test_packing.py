"""Documents made small: the very bytes come back, whatever they are."""

from __future__ import annotations

import json
import lzma
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import World, platform
from story import story

from vpntest.history.packing import pack, unpack
from vpntest.judge.judging import judge
from vpntest.report.document import encode

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def kept() -> bytes:
    record = story()
    return encode(record, judge(record))


def test_a_run_comes_back_byte_for_byte(kept: bytes) -> None:
    packed = pack(kept)
    assert packed[:1] == b"c"
    assert unpack(packed) == kept


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(0, 1000).map(lambda one: round(one, 6))
    | st.text(max_size=5)
    | st.integers(0, 99).map(lambda one: f"o{one}")
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4), max_size=5), VALUES)
def test_any_observations_come_back_byte_for_byte(observations: list[dict[str, Any]], other: Any) -> None:
    document = msgspec.json.encode({"x": other, "observations": observations, "y": 1})
    assert unpack(pack(document)) == document


@settings(max_examples=50)
@given(st.binary(max_size=50) | VALUES.map(lambda one: json.dumps({"observations": one}, indent=1).encode()))
def test_what_has_not_that_form_is_kept_as_it_is(document: bytes) -> None:
    assert unpack(pack(document)) == document


def test_damage_is_found(kept: bytes) -> None:
    packed = pack(kept)
    for place in range(0, len(packed), max(1, len(packed) // 50)):
        damaged = packed[:place] + bytes([packed[place] ^ 0x55]) + packed[place + 1 :]
        try:
            assert unpack(damaged) == kept  # some bits are padding
        except ValueError:
            continue
    for length in (0, 1, 10, len(packed) - 1):
        with pytest.raises(ValueError, match="damaged"):
            unpack(packed[:length])


def test_an_observation_takes_few_bytes_whatever_its_times() -> None:
    """50 tunnels × 12 platforms make about 45 000 observations, which must fit into a MiB with all else."""
    chance = random.Random(7)
    names = [f"platform{number}" for number in range(12)]
    world = World(*(platform(name) for name in names))
    world.line()
    vantages = [f"tunnel{number}" for number in range(15)]
    for vantage in vantages:
        world.tunnel(vantage)
    for vantage in ("outside", *vantages):
        for name in names:
            world.reach(vantage, name)
    spoilt = [
        msgspec.structs.replace(one, t0=round(begin, 6), t=round(begin + chance.random(), 6))
        for one in world.observations
        for begin in [chance.random() * 120]
    ]
    world.observations = sorted(spoilt, key=lambda one: one.t)
    record = world.record()
    document = encode(record, judge(record))
    each = len(pack(document)) / len(record.observations)
    assert each < MIB / 45_000
    assert each < 0.8 * len(lzma.compress(document)) / len(record.observations)
