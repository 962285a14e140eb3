"""A record, sorted."""

from __future__ import annotations

from records import TIMEOUT, World

from vpntest.judge.reading import read
from vpntest.probe.observation import Address


def test_the_first_known_address_counts() -> None:
    world = World()
    world.add("outside", "exit", "connect", Address("exit", 4, None), TIMEOUT)
    world.add("outside", "exit", "http_round_trip", Address("exit", 4, "198.18.0.2"))
    reading = read(world.record())
    assert reading.address("outside", "exit", 4) == "198.18.0.2"
    assert reading.address("outside", "exit", 6) is None


def test_resolvers_are_known_by_their_addresses_without_ports() -> None:
    world = World()
    world.reach("outside", "bird", times=1)
    assert read(world.record()).resolvers == {"outside": {"198.18.0.53"}, "": {"198.18.0.9"}}


def test_what_the_record_does_not_plan_is_left_out() -> None:
    world = World()
    world.reach("nobody", "bird")
    world.reach("outside", "bird", service="other")
    assert read(world.record()).attempts == {("bird", "web", "https://bird.example/"): {}}


def test_uploads_are_no_yardstick_of_downloads() -> None:
    world = World()
    world.transfer("outside", "carry", 64 * 1024, 0.2, direction="up", role="control")
    assert read(world.record()).yardstick.get("outside", ()) == ()
    world.transfer("outside", "carry", 64 * 1024, 0.2, role="control")
    assert len(read(world.record()).yardstick["outside"]) == 1
