from __future__ import annotations

import random
from itertools import pairwise

import pytest
from far_side import platform
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vpntest.plan import platforms
from vpntest.probe.schedule import SPACING, STEP, Target, reach_tasks


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://x.com/", Target("https", "x.com", 443, None)),
        ("http://x.com/robots.txt", Target("http", "x.com", 80, None)),
        ("https://x.com:8443/", Target("https", "x.com", 8443, None)),
        ("tcp://e1.whatsapp.net:5222", Target("tcp", "e1.whatsapp.net", 5222, None)),
        ("quic://x.com/", Target("quic", "x.com", 443, None)),
        ("stun://stun.x.com", Target("stun", "stun.x.com", 3478, None)),
        ("stun://stun.x.com:19302", Target("stun", "stun.x.com", 19302, None)),
        ("http://192.0.2.1:443/", Target("http", "192.0.2.1", 443, "192.0.2.1")),
        ("http://192.0.2.2/", Target("http", "192.0.2.2", 80, "198.18.5.5")),
        ("https://[2001:db8::1]/", Target("https", "2001:db8::1", 443, "fd00::7")),
    ],
)
def test_target(url: str, target: Target) -> None:
    assert Target.of(url, {"192.0.2.2": "198.18.5.5", "2001:db8::1": "fd00::7", "x.com": "198.18.6.6"}) == target


@pytest.mark.parametrize(
    ("url", "neutral"),
    [
        ("https://x.com/a?b", "https://neutral.test/"),
        ("http://192.0.2.1:443/", "http://neutral.test:443/"),
        ("http://x.com/", "http://neutral.test/"),
        ("https://x.com:8443/", "https://neutral.test:8443/"),
        ("quic://x.com/a", "https://neutral.test/"),
        ("quic://x.com:8443/a", "https://neutral.test:8443/"),
    ],
)
def test_neutral_url(url: str, neutral: str) -> None:
    assert Target.of(url, {}).url_for("neutral.test") == neutral


@pytest.mark.parametrize(
    "url", ["quic://x.com/", "stun://stun.x.com", "https://x.com/", "http://x.com/", "tcp://x.com:1"]
)
def test_what_needs_udp(url: str) -> None:
    assert Target.of(url, {}).needs_udp is url.startswith(("quic", "stun"))


@given(st.integers(1, 30), st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_attempt_once_and_spaced(count: int, attempts: int, rng: random.Random) -> None:
    first = platform(*(f"https://a{number}.test/" for number in range(count)))
    tasks = reach_tasks([first, replace(first, id="other")], attempts, rng)
    keys = [(task.platform, task.service, task.endpoint.url, task.attempt) for task in tasks]
    assert len(set(keys)) == len(keys) == 2 * count * attempts
    assert {task.attempt for task in tasks} == set(range(1, attempts + 1))
    starts = [task.offset for task in tasks]
    assert starts[0] == 0
    assert all(later - earlier >= STEP - 1e-9 for earlier, later in pairwise(starts))
    last: dict[tuple[str, str], float] = {}
    for task in tasks:
        key = (task.platform, task.endpoint.url)
        assert task.offset - last.get(key, -SPACING) >= SPACING - 1e-9
        last[key] = task.offset


def test_all_that_is_built_in_is_under_way_within_ten_seconds() -> None:
    assert SPACING >= 3
    tasks = reach_tasks(platforms.built_in(), 3, random.Random(3))
    assert len(tasks) == 3 * 33
    assert tasks[-1].offset < 10


def test_rounds_are_shuffled_each_afresh() -> None:
    one = [platform(*(f"https://a{number}.test/" for number in range(12)))]
    tasks = reach_tasks(one, 2, random.Random(7))
    orders = [[task.endpoint.url for task in tasks if task.attempt == attempt] for attempt in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]
    assert [task.endpoint.url for task in reach_tasks(one, 2, random.Random(7))] == orders[0] + orders[1]


def test_nothing_to_ask() -> None:
    assert reach_tasks([], 3, random.Random(0)) == []
