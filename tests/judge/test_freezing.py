"""Silences that are a freeze, and of which kind."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
from records import KIB, TIMEOUT, World
from records import seen as info

from vpntest.judge.freezing import Silence, freeze_of, segments_of, silence_of
from vpntest.probe.observation import Observation, TcpConnect


def step(**tcp: Any) -> Observation:
    world = World()
    world.add("outside", "reach", "connect", TcpConnect("198.18.1.1", 443), TIMEOUT, tcp=info(9000, 26))
    [one] = world.observations
    return structs.replace(one, tcp=structs.replace(info(9000, 26), **tcp))


def test_what_had_passed_is_counted_by_the_kernel() -> None:
    assert silence_of([step()], in_handshake=True) == Silence(9000, 26, in_handshake=True)
    assert segments_of(info(9000, 26)) == 26


def test_what_was_sent_again_had_not_passed() -> None:
    seen = silence_of([step(segments_sent=20, retransmits=7)], in_handshake=False)
    assert seen is not None
    assert seen.segments == 26


@pytest.mark.parametrize("tcp", [{"bytes_received": 1}, {"bytes_received": 0}, {"since_last_data_ms": 900}])
def test_where_nothing_came_or_something_comes_still_there_is_no_silence(tcp: dict[str, int]) -> None:
    assert silence_of([step(**tcp)], in_handshake=False) is None
    assert silence_of([], in_handshake=False) is None


def of(received: int, segments: int | None, in_handshake: bool = False) -> Silence:
    return Silence(received, segments, in_handshake)


LARGE, SMALL, EARLY = of(16 * KIB, 30), of(9 * KIB, 26), of(5 * KIB, 26, in_handshake=True)


def trickles(*answered: bool, **more: Any) -> list[Observation]:
    world = World()
    for one in answered:
        world.trickle("outside", "bird", answered=one, **more)
    return world.observations


@pytest.mark.parametrize(
    ("silences", "answered", "mechanism"),
    [
        ([LARGE] * 3, (), "freeze"),
        ([LARGE] * 3, (True, True), "freeze.bytes"),
        ([LARGE] * 3, (False, False), "freeze.packets"),
        ([LARGE] * 3, (False, True), "freeze"),
        ([SMALL] * 3, (False,), "freeze.packets"),
        ([SMALL] * 3, (True,), None),
        ([SMALL] * 3, (), None),
        ([EARLY] * 3, (), "freeze"),
        ([EARLY, SMALL, LARGE], (False,), "freeze.packets"),
        ([LARGE], (False,), None),
        ([of(16 * KIB, None)] * 2, (), "freeze"),
        ([of(11 * KIB, None)] * 2, (False,), None),
        ([of(16 * KIB, None), of(30 * KIB, None)], (), None),
        ([of(16 * KIB, 61)] * 3, (), None),
        ([of(16 * KIB, 9)] * 3, (), None),
        ([of(16 * KIB, 20), of(16 * KIB, 31)], (), None),
    ],
)
def test_what_silences_show(silences: list[Silence], answered: tuple[bool, ...], mechanism: str | None) -> None:
    assert freeze_of(silences, trickles(*answered)) == mechanism


@pytest.mark.parametrize("more", [{"received": 13 * KIB}, {"segments": 8}, {"received": 1}])
def test_a_trickle_that_may_have_died_of_something_else_counts_no_packets(more: dict[str, int]) -> None:
    assert freeze_of([LARGE] * 3, trickles(False, **more)) == "freeze"


def test_a_server_that_has_all_of_a_trickle_and_is_silent_counts_no_packets() -> None:
    [one] = trickles(False)
    assert one.tcp
    heard = structs.replace(one, tcp=structs.replace(one.tcp, unacked=0))
    assert freeze_of([LARGE] * 3, [heard]) == "freeze"
    assert freeze_of([SMALL] * 3, [heard]) is None
    assert freeze_of([SMALL] * 3, [structs.replace(one, tcp=None)]) is None


def test_ten_segments_are_the_least_that_a_budget_is() -> None:
    assert freeze_of([of(5 * KIB, 10, in_handshake=True)] * 3, ()) == "freeze"
    assert freeze_of([of(5 * KIB, 9, in_handshake=True)] * 3, ()) is None


def test_a_trickle_that_is_reset_counts_no_packets() -> None:
    [one] = trickles(False)
    assert freeze_of([SMALL] * 3, [one]) == "freeze.packets"
    assert freeze_of([SMALL] * 3, [structs.replace(one, failure="connection_reset")]) is None
