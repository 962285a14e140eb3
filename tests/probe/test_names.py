from __future__ import annotations

import random
import re

import pytest
from far_side import NEUTRAL, PATIENT, RESOLVER, DnsServer, FarSide, Reply, platform, run
from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.plan.model import Platform
from vpntest.probe.names import ask_names, first_name

# They wait, for that is what they are about: no part of the quick suite that runs anywhere.
pytestmark = pytest.mark.root

CONTROL, CONTROL_ADDRESS = "control.test", "198.18.3.1"
ZONE = {CONTROL: [Reply((CONTROL_ADDRESS,))]}
LISTED, UNLISTED = "listed.test", "other.test"


def named(name: str, host: str) -> Platform:
    return replace(platform(f"https://{host}/"), id=name)


PLATFORMS = (named("listed", LISTED), named("unlisted", UNLISTED))


async def asked(far: FarSide, *platforms: Platform) -> None:
    bench = far.bench(*platforms, limits=replace(PATIENT, dns=0.4), control=(f"https://{CONTROL}/64k",))
    await ask_names(bench, far.vantage(), platforms, random.Random(1))
    assert {one.probe for one in far.seen} == {"names"}


class Injector(DnsServer):
    """On the way to an address where no resolver is: answers for its names, and for every one if it has none."""

    def __init__(self, *names: str) -> None:
        super().__init__({name: [Reply(("198.18.66.1",)), Reply(("198.18.66.2",))] for name in names})

    def datagram_received(self, data: bytes, address: object) -> None:
        if not self.zone or any(name.split(".")[0].encode() in data for name in self.zone):
            super().datagram_received(data, address)


async def inject(far: FarSide, *names: str) -> Injector:
    server = await far.resolver(CONTROL_ADDRESS, {})
    injector = Injector(*names)
    injector._transport = server._transport
    server.datagram_received = injector.datagram_received  # type: ignore[method-assign]
    return injector


def test_a_name_that_nobody_has() -> None:
    async def scenario(far: FarSide) -> None:
        server = await far.resolver(RESOLVER, ZONE)
        await asked(far)
        ((name, kind),) = server.asked
        assert kind == "A"
        assert re.fullmatch(rf"[a-z]{{12}}\.{re.escape(NEUTRAL)}", name)
        (one,) = far.seen
        assert (one.role, one.failure, one.details.resolver) == ("control", Failure.DNS_NXDOMAIN, "vantage")

    run(scenario)


def test_a_resolver_that_knows_every_name() -> None:
    class Hijacker(dict):
        def get(self, name: str, default: object = None) -> object:
            return [Reply(("198.18.53.66",))]

    async def scenario(far: FarSide) -> None:
        (await far.resolver(RESOLVER, {})).zone = Hijacker()
        await asked(far)
        (one,) = far.seen
        assert (one.failure, one.details.answers) == (None, ("198.18.53.66",))

    run(scenario)


def test_nobody_answers_where_nobody_is() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        await inject(far, "another")
        await asked(far, *PLATFORMS)
        nobody = [one for one in far.seen if one.details.resolver == "nobody"]
        assert (nobody[0].role, nobody[0].platform) == ("control", None), "the proof comes first"
        assert {(one.role, one.platform, one.target) for one in nobody[1:]} == {
            ("target", "listed", LISTED),
            ("target", "unlisted", UNLISTED),
        }
        assert {one.failure for one in nobody} == {Failure.TIMEOUT}
        assert {one.details.resolver_address for one in nobody} == {f"{CONTROL_ADDRESS}:53"}

    run(scenario)


def test_somebody_on_the_way_answers_for_a_listed_name() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        await inject(far, LISTED)
        await asked(far, *PLATFORMS)
        (listed,) = far.select(platform="listed")
        assert (listed.failure, listed.details.answers) == (None, ("198.18.66.1",))
        assert listed.details.late == (("198.18.66.2",),)
        (unlisted,) = far.select(platform="unlisted")
        assert (unlisted.failure, unlisted.details.rcode) == (Failure.TIMEOUT, None)

    run(scenario)


def test_an_address_that_answers_for_all_proves_nothing_of_a_name() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        injector = await inject(far)
        await asked(far, *PLATFORMS)
        (proof,) = (one for one in far.seen if one.details.resolver == "nobody")
        assert (proof.role, proof.details.rcode) == ("control", "NXDOMAIN")
        assert not {name for name, _ in injector.asked} & {LISTED, UNLISTED}

    run(scenario)


def test_a_host_that_says_so_is_nobody_too() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        far.refuse(CONTROL_ADDRESS, 53)
        await asked(far, *PLATFORMS)
        nobody = [one for one in far.seen if one.details.resolver == "nobody"]
        assert [one.details.rcode for one in nobody] == [None] * 3

    run(scenario)


def test_without_the_controls_address_nobody_is_asked() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {})
        await asked(far, *PLATFORMS)
        assert {one.details.resolver for one in far.seen} == {"vantage"}

    run(scenario)


def test_first_name() -> None:
    assert first_name(platform("tcp://198.18.1.1:80", "https://198.18.1.1/", "https://a.test/", "https://b.test/")) == (
        "a.test"
    )
    assert first_name(platform("http://a.test/")) is None
