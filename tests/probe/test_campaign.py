from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from far_side import (
    NEUTRAL,
    PATIENT,
    PUBLIC,
    RESOLVER,
    FarSide,
    Middle,
    Page,
    Reply,
    Site,
    far_side,
    platform,
    resets_after_hello,
    run,
    server_context,
    stays_silent,
)
from msgspec.structs import replace

from vpntest.errors import CannotMeasure
from vpntest.failures import Failure
from vpntest.plan.model import Plan, Platform
from vpntest.probe.campaign import CONTROL_TRIES, MOST_ATTEMPTS, Campaign
from vpntest.probe.observation import Address, RungStep, Transfer, Trickle
from vpntest.probe.speed import FAIR_SAMPLES
from vpntest.tunnel.ladder import Rung, Step
from vpntest.tunnel.vantage import Vantage

# They wait, for that is what they are about: no part of the quick suite that runs anywhere.
pytestmark = pytest.mark.root

GOOD, CUT, CONTROL = "good.test", "cut.test", "control.test"
ADDRESSES = {GOOD: "198.18.1.1", CUT: "198.18.1.2", CONTROL: "198.18.3.1"}
ZONE = {name: [Reply((address,))] for name, address in ADDRESSES.items()}


def named(name: str, *urls: str, speed: str | None = None) -> Platform:
    return replace(platform(*urls, speed=speed), id=name)


PLATFORMS = (
    named("good", f"https://{GOOD}/", f"https://{GOOD}/second", speed=f"https://{GOOD}/big"),
    named("cut", f"https://{CUT}/", speed=f"https://{CUT}/big"),
)


async def world(far: FarSide) -> None:
    for resolver in (RESOLVER, PUBLIC):
        await far.resolver(resolver, ZONE)
    pages = {"/": Page(), "/second": Page(), "/big": Page(body=b"b" * 65536), "/ip": Page(body=b"198.18.7.7")}
    site = Site({**pages, "/up": Page(204, b"")})
    for name, address in ADDRESSES.items():
        if name != CUT:
            await far.serve(address, 443, site, server_context(name))
    real = await far.serve("198.18.9.9", 443, site, server_context(CUT))
    await far.serve(ADDRESSES[CUT], 443, Middle(real, CUT, resets_after_hello))


def campaign(far: FarSide, **settings: Any) -> Campaign:
    control = (f"https://{CONTROL}/big", f"https://{CONTROL}/")
    defaults = {
        "control": control,
        "exit_address": f"https://{CONTROL}/ip",
        "whoami": GOOD,
        "upload": f"https://{CONTROL}/up",
    }
    return far.campaign(*PLATFORMS, **{**defaults, **settings})


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts shortly after one another."""
    for module in ("schedule", "campaign"):
        monkeypatch.setattr(f"vpntest.probe.{module}.SPACING", 0.2)


@pytest.mark.usefixtures("close")
def test_a_whole_run() -> None:

    async def scenario(far: FarSide) -> None:
        await world(far)
        probes = campaign(far)
        outside, tunnel = far.vantage(), far.vantage("tunnel")
        await probes.controls(outside, "before")
        await asyncio.gather(probes.reach(outside), probes.exits(outside), probes.exits(tunnel))
        assert await probes.carry(tunnel) is True
        await probes.reach(tunnel)
        await probes.speed([outside, tunnel])
        await probes.controls(outside, "after")
        await probes.alive(tunnel)

        ids = sorted(int(one.id.removeprefix("o")) for one in far.seen)
        assert ids == list(range(1, len(ids) + 1))
        for vantage in ("outside", "tunnel"):
            reached = Counter(
                (one.endpoint, one.attempt)
                for one in far.select(vantage=vantage, operation="http_round_trip", role="target")
            )
            good = {f"https://{GOOD}/", f"https://{GOOD}/second"}
            assert reached == Counter({(url, attempt): 1 for url in good for attempt in (1, 2)})
            cut = far.select(vantage=vantage, platform="cut", probe="reach", role="target", operation="tls_handshake")
            assert [(one.attempt, one.failure) for one in cut] == [
                (1, Failure.CONNECTION_RESET),
                (2, Failure.CONNECTION_RESET),
            ]
            assert len(far.select(vantage=vantage, platform="cut", role="neutral", operation="http_round_trip")) == 2
            # Only what answers has a speed.
            speed = [one for one in far.select(vantage=vantage, probe="speed") if one.platform is not None]
            assert {one.platform for one in speed} == {"good"}
            addresses = [one.details for one in far.select(vantage=vantage) if isinstance(one.details, Address)]
            assert Address(of="exit", family=4, address="198.18.7.7") in addresses
            assert Address(of="resolver", family=4, address=ADDRESSES[GOOD]) in addresses
        for phase in ("before", "after"):
            found = far.select(vantage="outside", probe="control", phase=phase, operation="http_round_trip")
            urls = [one.endpoint for one in found]
            assert sorted(urls) == [f"https://{CONTROL}/", f"https://{CONTROL}/big"]
        # A chain's steps share a number, and no other chain has it.
        for number in {one.transaction for one in far.seen}:
            labels = {
                (one.vantage, one.probe, one.role, one.endpoint, one.attempt) for one in far.select(transaction=number)
            }
            assert len(labels) == 1
        # Speed holds the line alone.
        spans = sorted((one.t0, one.t) for one in far.select(probe="speed", operation="transfer"))
        assert all(before[1] <= after[0] for before, after in pairwise(spans))

    run(scenario)


def test_rungs_are_observations() -> None:
    async def scenario(far: FarSide) -> None:
        steps = (Step(Rung.CONFIG, 0.5, 0.75), Step(Rung.HANDSHAKE, 0.75, 5.0, Failure.TIMEOUT, "no answer"))
        campaign(far).rungs("sweden", steps)
        assert [(one.vantage, one.probe, one.t0, one.t, one.failure, one.details) for one in far.seen] == [
            ("sweden", "rung", 0.5, 0.75, None, RungStep("config")),
            ("sweden", "rung", 0.75, 5.0, Failure.TIMEOUT, RungStep("handshake", "no answer")),
        ]

    run(scenario)


def test_a_failed_control_is_asked_once_more() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {})
        await campaign(far).controls(far.vantage(), "before")
        assert Counter((one.endpoint, one.attempt) for one in far.select(probe="control")) == Counter(
            {
                (f"https://{CONTROL}/{path}", attempt): 1
                for path in ("big", "")
                for attempt in range(1, CONTROL_TRIES + 1)
            }
        )

    run(scenario)


@pytest.mark.parametrize("rate", [None, 60_000.0], ids=["fast", "slow"])
def test_the_line_is_gauged(close: None, rate: float | None) -> None:
    """On a slow one controls that stand beside attempts have no body, and attempts are begun in turn."""

    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {CONTROL: [Reply((ADDRESSES[CONTROL],))]})
        site = Site({"/big": Page(body=b"b" * 65536, chunk=2048)})
        real = await far.serve("198.18.9.7", 443, site, server_context(CONTROL))
        await far.serve(ADDRESSES[CONTROL], 443, Middle(real, rate=rate))
        probes = campaign(far, control=(f"https://{CONTROL}/big",))
        vantage = far.vantage()
        await probes.controls(vantage, "before")
        gauge = far.select(probe="speed")
        assert {(one.platform, one.role, one.phase) for one in gauge} == {(None, "control", "before")}
        await probes.reach(vantage)
        methods = {
            one.details.method for one in far.select(phase="during", operation="http_round_trip", role="control")
        }
        assert methods == {"HEAD" if rate else "GET"}

    run(scenario)


def test_a_run_that_is_ended_keeps_what_it_saw() -> None:
    async def main() -> None:
        async with far_side() as far:
            await far.resolver(RESOLVER, {**ZONE, NEUTRAL: []})
            await far.resolver(PUBLIC, ZONE)
            for address in ADDRESSES.values():
                await far.serve(address, 443, stays_silent)
            running = asyncio.create_task(campaign(far).reach(far.vantage()))
            while len(far.select(operation="connect")) < 3:
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert set(far.chain()) == {("resolve", None), ("connect", None)}
            assert len(far.select(operation="connect")) >= 3
            left = [task for task in asyncio.all_tasks() if "reach" in repr(task.get_coro())]
            assert left == []

    asyncio.run(main())


def test_a_fault_of_this_box_ends_the_probe() -> None:
    class Exhausted:
        def socket(self, *_: Any) -> Any:
            raise OSError(24, "Too many open files")

    async def scenario(far: FarSide) -> None:
        literal = far.campaign(platform("https://192.0.2.1/"))
        with pytest.raises(CannotMeasure):
            await literal.reach(Vantage("outside", Exhausted(), RESOLVER))  # type: ignore[arg-type]

    run(scenario)


@pytest.mark.usefixtures("close")
def test_a_fault_of_ours_costs_one_attempt() -> None:
    async def scenario(far: FarSide) -> None:
        await world(far)
        met: list[str] = []

        def may_connect(address: str) -> bool:
            if address == ADDRESSES[CUT] and not met:
                met.append(address)
                raise ZeroDivisionError
            return True

        plan = Plan(tunnels=(), platforms=PLATFORMS, settings=far.settings(control=(f"https://{CONTROL}/",)))
        probes = Campaign(plan, far.vantage(), lambda: 0.0, far.seen.append, limits=PATIENT, may_connect=may_connect)
        # It is not forgotten either.
        with pytest.raises(ZeroDivisionError):
            await probes.reach(far.vantage())
        ends = far.select(probe="reach", role="target", platform="good", operation="http_round_trip")
        assert [one.failure for one in ends] == [None] * 4
        cut = far.select(probe="reach", role="target", platform="cut", operation="tls_handshake")
        assert [one.failure for one in cut] == [Failure.CONNECTION_RESET]

    run(scenario)


@pytest.mark.usefixtures("close")
def test_controls_all_the_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpntest.probe.campaign.CONTROL_EVERY", 0.2)
    monkeypatch.setattr("vpntest.probe.campaign.AT_ONCE_PER_VANTAGE", 1)

    async def scenario(far: FarSide) -> None:
        await world(far)
        await far.serve("198.18.1.9", 80, stays_silent)
        limits = replace(PATIENT, http=0.7)
        control = (f"https://{CONTROL}/big", f"https://{CONTROL}/")
        probes = far.campaign(platform("http://198.18.1.9/", "http://198.18.1.9/b"), limits=limits, control=control)
        await probes.reach(far.vantage())
        attempts = far.select(role="target", operation="http_round_trip")
        assert [one.failure for one in attempts] == [Failure.TIMEOUT] * 4
        controls = far.select(probe="control", role="control", phase="during", operation="http_round_trip")
        assert {one.failure for one in controls} == {None}
        assert {one.endpoint for one in controls} == set(control), "each in its turn"
        assert {one.attempt for one in controls} == {1, 2}
        assert [one.attempt for one in controls] == sorted(one.attempt for one in controls)
        # They do not queue behind the attempts, of which one at a time may run here.
        for one in attempts:
            assert any(one.t0 < each.t0 < one.t for each in controls)
        begun = far.select(operation="resolve", target=CONTROL)
        assert begun[0].t0 <= min(one.t0 for one in far.select(probe="reach"))
        assert {each.endpoint for each in controls if each.t0 >= attempts[-1].t} == set(control), "and each at the end"

    run(scenario)


def test_no_more_at_once_than_a_vantage_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpntest.probe.campaign.AT_ONCE_PER_VANTAGE", 3)

    async def scenario(far: FarSide) -> None:
        standing = most = 0

        async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal standing, most
            standing += 1
            most = max(most, standing)
            try:
                await reader.read()
            finally:
                standing -= 1

        await far.serve("198.18.1.1", 80, counts)
        urls = [f"http://198.18.1.1/{number}" for number in range(6)]
        await far.campaign(platform(*urls), limits=replace(PATIENT, http=0.25), attempts=1).reach(far.vantage())
        # A closed connection ends at the server a moment later.
        assert 2 <= most <= 4
        assert len(far.select(role="target", operation="http_round_trip")) == len(urls)

    run(scenario)


# ── endpoints whose attempts disagree ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("close")
def test_an_endpoint_that_flips_is_tried_more_often() -> None:
    async def scenario(far: FarSide) -> None:
        for resolver in (RESOLVER, PUBLIC):
            await far.resolver(resolver, ZONE)
        site, met = Site(), 0

        async def every_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal met
            met += 1
            await (site if met % 2 else resets_after_hello)(reader, writer)

        await far.serve(ADDRESSES[GOOD], 80, every_second)
        await far.serve(ADDRESSES[CUT], 80, resets_after_hello)
        await far.serve(ADDRESSES[CONTROL], 80, site)
        platforms = (named("good", f"http://{GOOD}/"), named("cut", f"http://{CUT}/"))
        await far.campaign(*platforms, control=(f"http://{CONTROL}/",)).reach(far.vantage())
        good = [one.attempt for one in far.select(platform="good", role="target", operation="http_round_trip")]
        assert sorted(good) == list(range(1, MOST_ATTEMPTS + 1))
        assert len({one.failure for one in far.select(platform="good", operation="http_round_trip")}) == 2
        starts = sorted(one.t0 for one in far.select(platform="good", role="target", operation="connect"))
        assert starts[-1] - starts[0] > 0.2 * (MOST_ATTEMPTS - 1) / 2, "as far apart as the others"
        cut = {one.attempt for one in far.select(platform="cut", role="target")}
        assert cut == {1, 2}, "it fails each time alike"

    run(scenario)


@pytest.mark.usefixtures("close")
def test_a_port_that_flips_is_tried_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpntest.probe.campaign.MOST_ATTEMPTS", 4)

    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        await far.serve(ADDRESSES[CONTROL], 80, Site())
        real = await far.serve("198.18.1.9", 5222, stays_silent)
        met = 0

        class Sometimes(dict):  # type: ignore[type-arg]
            def __getitem__(self, key: tuple[str, int]) -> tuple[str, int]:
                nonlocal met
                if key == ("198.18.1.9", 5222):
                    met += 1
                    if met == 2:
                        raise KeyError(key)
                    return real
                return super().__getitem__(key)

        far.table = Sometimes(far.table)
        await far.campaign(platform("tcp://198.18.1.9:5222"), control=(f"http://{CONTROL}/",)).reach(far.vantage())
        ends = far.select(probe="reach", operation="connect")
        assert sorted((one.attempt, one.failure) for one in ends if one.failure is None) == [
            (1, None),
            (3, None),
            (4, None),
        ]
        assert [one.attempt for one in ends if one.failure] == [2]

    run(scenario)


# ── names, freezes, throttling ───────────────────────────────────────────────────────────────────────────────────────


def test_nobody_is_asked_from_outside_only() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, ZONE)
        far.refuse(ADDRESSES[CONTROL], 53)
        probes = campaign(far, limits=replace(PATIENT, dns=0.3))
        await probes.names(far.vantage())
        await probes.names(far.vantage("tunnel"))
        asked = {(one.vantage, one.details.resolver, one.platform) for one in far.seen}
        assert asked == {
            ("outside", "vantage", None),
            ("outside", "nobody", None),
            ("outside", "nobody", "good"),
            ("outside", "nobody", "cut"),
            ("tunnel", "vantage", None),
        }

    run(scenario)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, close: None) -> None:
    for name, value in {"freeze.APART": 0.01, "freeze.PAUSE": 0.001, "speed.SILENCE": 0.3}.items():
        monkeypatch.setattr(f"vpntest.probe.{name}", value)


@pytest.mark.usefixtures("quick")
def test_what_fell_silent_gets_trickles_once() -> None:
    async def scenario(far: FarSide) -> None:
        for resolver in (RESOLVER, PUBLIC):
            await far.resolver(resolver, ZONE)
        site = Site()
        real = await far.serve("198.18.9.9", 443, site, server_context(GOOD, CUT, CONTROL))
        await far.serve(ADDRESSES[GOOD], 443, Middle(real, GOOD, stays_silent))
        await far.serve(ADDRESSES[CUT], 443, Middle(real, CUT, resets_after_hello))
        await far.serve(ADDRESSES[CONTROL], 443, site, server_context(CONTROL))
        probes = campaign(far, limits=replace(PATIENT, tls=0.4, stall=0.4))
        vantage = far.vantage("tunnel")
        await probes.reach(vantage)
        for _ in range(2):
            await probes.freeze(vantage)
        trickles = [one for one in far.select(probe="freeze") if isinstance(one.details, Trickle)]
        assert {(one.platform, one.details.server_name) for one in trickles} == {("good", GOOD)}
        assert sorted(one.attempt for one in trickles) == [1, 2, 3]
        assert {one.failure for one in trickles} == {Failure.STALLED}
        assert {one.details.address for one in trickles} == {f"{ADDRESSES[GOOD]}:443"}
        far.seen.clear()
        await probes.freeze(far.vantage())
        assert far.seen == [], "another vantage saw nothing fall silent"

    run(scenario)


@pytest.mark.usefixtures("quick")
def test_transfers_that_froze_get_trickles() -> None:
    async def scenario(far: FarSide) -> None:
        await world(far)
        frozen = Page(body=b"b" * 65536, chunk=4096, stops_after=16384)
        await far.serve(
            ADDRESSES[GOOD], 443, Site({"/": Page(), "/second": Page(), "/big": frozen}), server_context(GOOD)
        )
        probes = campaign(far, limits=replace(PATIENT, window=0.6))
        vantage = far.vantage()
        await probes.reach(vantage)
        await probes.freeze(vantage)
        assert far.select(probe="freeze") == []
        await probes.speed([vantage])
        await probes.freeze(vantage)
        trickles = [one for one in far.select(probe="freeze") if isinstance(one.details, Trickle)]
        assert [(one.platform, one.details.answered, one.failure) for one in trickles] == [("good", True, None)] * 3

    run(scenario)


@pytest.mark.usefixtures("quick")
def test_only_what_was_slow_is_confirmed() -> None:
    async def scenario(far: FarSide) -> None:
        await world(far)
        slow = Site({"/": Page(), "/big": Page(body=b"b" * 65536, chunk=2048)})
        real = await far.serve("198.18.9.8", 443, slow, server_context(CUT))
        await far.serve(ADDRESSES[CUT], 443, Middle(real, CUT, rate=16_000))
        probes = campaign(far, limits=replace(PATIENT, window=0.4))
        vantage = far.vantage()
        await probes.reach(vantage)
        await probes.speed([vantage])
        await probes.confirm([vantage, far.vantage("tunnel")])
        rounds = Counter(
            (one.platform, one.phase, one.vantage)
            for one in far.select(probe="speed", role="target", operation="transfer")
        )
        assert rounds == Counter(
            {
                ("good", "during", "outside"): FAIR_SAMPLES,
                ("cut", "during", "outside"): 5,
                ("cut", "confirm", "outside"): 5,
            }
        )
        assert all(isinstance(one.details, Transfer) for one in far.select(phase="confirm", operation="transfer"))

    run(scenario)


@pytest.mark.usefixtures("close")
def test_a_tunnel_without_udp_is_asked_for_nothing_over_udp() -> None:
    async def scenario(far: FarSide) -> None:
        for resolver in (RESOLVER, PUBLIC):
            await far.resolver(resolver, ZONE)
        await far.serve(ADDRESSES[GOOD], 80, Site())
        await far.serve(ADDRESSES[CONTROL], 80, Site())
        one = named("good", f"http://{GOOD}/", f"quic://{GOOD}/", f"stun://{GOOD}")
        vantage = far.vantage("t", carries_udp=False)
        await far.campaign(one, control=(f"http://{CONTROL}/",)).reach(vantage)
        assert {each.endpoint for each in far.select(probe="reach")} == {f"http://{GOOD}/"}
        asked = far.select(operation="resolve")
        assert asked
        assert {each.details.engine for each in asked} == {"tcp"}

    run(scenario)
