"""Transfers as samples of speed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from records import KIB, RESET, TIMEOUT, World

from vpntest.judge.samples import PORTION, Sample
from vpntest.probe.observation import TcpInfo, Transfer


def sample(size: int, seconds: float, failure: str | None = None, **more: Any) -> Sample:
    world = World()
    world.transfer("outside", "speed", size, seconds, failure, **more)
    observation = world.observations[0]
    assert isinstance(observation.details, Transfer)
    return Sample(observation, observation.details)


def test_goodput_of_a_whole_transfer_is_timed_by_its_own_bytes() -> None:
    assert sample(64 * KIB, 2.0).goodput == pytest.approx(64 * KIB * 8 / 2.0)


def test_goodput_of_a_transfer_cut_short_counts_the_silence() -> None:
    cut = sample(16 * KIB, 3.0)
    assert not cut.is_complete
    assert cut.goodput == pytest.approx(16 * KIB * 8 / 3.05)


def test_what_the_kernel_got_counts_where_the_application_saw_nothing() -> None:
    info = TcpInfo(bytes_received=14_867, bytes_acked=1, retransmits=0, unacked=0, rtt_ms=1.0, since_last_data_ms=2500)
    frozen = sample(0, 3.0, TIMEOUT, tcp=info)
    assert frozen.moved == 14_867
    assert frozen.is_telling
    assert frozen.is_silent


@pytest.mark.parametrize(
    ("size", "failure", "expected", "telling"),
    [
        (64 * KIB, None, 64 * KIB, True),
        (20 * KIB, None, 64 * KIB, True),
        (20 * KIB, TIMEOUT, 64 * KIB, True),
        (20 * KIB, RESET, 64 * KIB, False),
        (0, TIMEOUT, 64 * KIB, False),
        (150, None, 150, False),
        (40 * KIB, None, None, True),
        (4 * KIB, None, None, False),
    ],
)
def test_which_transfers_say_something_of_speed(
    size: int, failure: str | None, expected: int | None, telling: bool
) -> None:
    assert sample(size, 3.0, failure, expected=expected).is_telling is telling


def test_a_body_larger_than_the_portion_is_complete_with_the_portion() -> None:
    assert sample(PORTION, 1.0, expected=500 * KIB).is_complete


def test_slow_is_not_silent() -> None:
    assert not sample(20 * KIB, 3.0).is_silent
    stopped = sample(20 * KIB, 3.0)
    details = msgspec.structs.replace(stopped.details, samples=((0.0, 1400), (0.4, 20 * KIB), (3.0, 20 * KIB)))
    assert Sample(msgspec.structs.replace(stopped.observation, details=details), details).is_silent


def test_late_rates_are_those_of_the_second_half() -> None:
    one = sample(32 * KIB, 2.0)
    steps = ((0.0, 1000), (0.4, 9000), (1.0, 20_000), (1.1, 20_500), (1.5, 30_000), (2.0, 32_768))
    rates = Sample(one.observation, msgspec.structs.replace(one.details, samples=steps)).late_rates
    assert rates == pytest.approx((10_000 * 8 / 0.5, 2_768 * 8 / 0.5))
    assert Sample(one.observation, msgspec.structs.replace(one.details, samples=())).late_rates == ()
