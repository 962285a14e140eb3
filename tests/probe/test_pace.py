from __future__ import annotations

import asyncio

import pytest

from vpntest.probe.observation import Observation, TcpConnect, TcpInfo, Transfer
from vpntest.probe.pace import BURST, FAST, LEAST, ROOM, SHARE, WINDOW, Pace, peak


def transfer(*samples: tuple[float, int], t: float = 10.0, failure: str | None = None) -> Observation:
    details = Transfer(
        url="https://control.test/64k",
        server_name="control.test",
        direction="down",
        bytes=samples[-1][1] if samples else 0,
        expected=65536,
        samples=samples,
    )
    labels = {"vantage": "outside", "probe": "speed", "operation": "transfer", "target": details.url}
    return Observation(id="o1", t0=0.0, t=t, failure=failure, details=details, **labels)  # type: ignore[arg-type]


def attempt(received: int, transaction: int, number: int = 1) -> Observation:
    info = TcpInfo(bytes_received=received, bytes_acked=1, retransmits=0, unacked=0, rtt_ms=1.0)
    details = TcpConnect(ip="198.18.1.1", port=443)
    labels = {"vantage": "outside", "probe": "reach", "operation": "connect", "target": "198.18.1.1:443"}
    return Observation(
        id="o1",
        t0=0.0,
        t=1.0,
        failure=None,
        details=details,
        endpoint="https://a.test/",
        attempt=number,
        transaction=transaction,
        tcp=info,
        **labels,  # type: ignore[arg-type]
    )


def steady(rate: float) -> Observation:
    """64 KiB at so many bits per second."""
    return transfer(*((count * 8 / rate, count) for count in range(0, 65537, 8192)))


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ((), None),
        # Two flights with a round trip of 0.3 s between them: the stretch within a flight tells.
        (((0.0, 16384), (0.3, 32768), (0.31, 49152), (0.32, 65536)), BURST * 65536 * 8 / 0.32),
        (((0.0, 8192), (0.4, 24576), (0.8, 40960), (1.6, 65536)), 32768 * 8 / 0.8),
        # A hole that was filled lets all through that waited behind it.
        (((0.0, 8192), (0.2, 16384), (1.2, 24576), (1.2, 65536)), BURST * 65536 * 8 / 1.2),
        # Too little for a stretch; and nothing but one small flight.
        (((0.0, 4000), (2.0, 20_000)), 80_000),
        (((0.0, 4000),), None),
    ],
)
def test_peak(samples: tuple[tuple[float, int], ...], expected: float | None) -> None:
    found = peak(transfer(*samples))
    assert found == (None if expected is None else pytest.approx(expected, rel=0.01))


def test_a_rate_is_a_slow_lines() -> None:
    pace = Pace()
    assert pace.rate is None
    pace.gauge(steady(1e6))
    assert pace.rate == pytest.approx(1e6)
    pace.gauge(transfer())
    assert pace.rate == pytest.approx(1e6), "nothing came, and nothing is learnt"
    pace.gauge(steady(LEAST / 10))
    assert pace.rate == LEAST
    pace.gauge(steady(FAST))
    assert pace.rate is None


def test_a_line_is_as_fast_as_what_it_carried() -> None:
    pace = Pace()
    pace.heed(transfer((0.0, 65536), t=0.1))
    assert pace.rate is None
    pace.gauge(steady(1e6))
    pace.heed(transfer((0.0, 65536), t=2.0))
    assert pace.rate == pytest.approx(1e6), "it was slower, which is no news"
    pace.heed(transfer((0.0, 65536), t=0.1))
    assert pace.rate == pytest.approx(65536 * 80)
    pace.heed(transfer((0.0, WINDOW // 2), t=0.001))
    assert pace.rate == pytest.approx(65536 * 80), "too little to tell"
    pace.heed(transfer((0.0, 65536), t=0.001))
    assert pace.rate is None


def test_what_an_attempt_cost() -> None:
    pace = Pace()
    for one in (attempt(100, 1), attempt(900, 1), attempt(50, 2), attempt(7, 3, number=2)):
        pace.heed(one)
    assert pace.spent("outside", "https://a.test/", 1) == 950
    assert pace.spent("outside", "https://a.test/", 1) is None
    assert pace.spent("outside", "https://a.test/", 2) == 7


def test_a_portion() -> None:
    pace = Pace()
    assert pace.portion(1_000_000, 2.0, 200_000) == 1_000_000
    pace.gauge(steady(1e6))
    assert pace.portion(1_000_000, 2.0, 200_000) == pytest.approx(250_000)
    assert pace.portion(1_000_000, 1.0, 200_000) == 200_000
    assert pace.portion(1_000, 2.0, 200_000) == 1_000


def test_turns() -> None:
    async def main() -> None:
        loop, pace = asyncio.get_running_loop(), Pace()
        begun: list[tuple[int, float]] = []

        async def take(number: int, cost: int) -> None:
            await pace.turn(cost)
            begun.append((number, loop.time()))

        start = loop.time()
        await asyncio.gather(*(take(number, 10**9) for number in range(3)))
        pace.gauge(steady(8e6))
        # 0.05 s of the line each, but for the third, which is given back: the fourth follows at once.
        costs = [round(50_000 * SHARE)] * 2 + [10**6, 1]
        waiting = [asyncio.create_task(take(number, cost)) for number, cost in enumerate(costs)]
        await asyncio.wait(waiting[:3])
        assert not waiting[3].done()
        pace.charge(-(10**6))
        await asyncio.wait(waiting)
        assert [number for number, _ in begun] == [0, 1, 2, 0, 1, 2, 3]
        assert begun[5][1] - start >= 0.1

    asyncio.run(main())


def test_nobody_waits_for_a_rate_that_is_not_known_any_more() -> None:
    async def main() -> None:
        pace = Pace()
        pace.gauge(steady(1e6))
        pace.charge(10**9)
        waiting = asyncio.create_task(pace.turn(1))
        await asyncio.sleep(0)
        pace.gauge(steady(FAST))
        await waiting

    asyncio.run(main())


def test_a_gauge_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pace = Pace()
        await pace.known()
        async with pace.gauging():
            waiting = asyncio.create_task(pace.known())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
        monkeypatch.setattr("vpntest.probe.pace.PATIENCE", 0.01)
        async with pace.gauging():
            await pace.known()

    asyncio.run(main())


@pytest.mark.parametrize(("rate", "places"), [(FAST, 5), (3 * ROOM, 3), (LEAST, 1)])
def test_room(rate: float, places: int) -> None:
    async def main() -> None:
        pace, under_way, most = Pace(), 0, 0
        pace.gauge(steady(rate))

        async def one() -> None:
            nonlocal under_way, most
            async with pace.room():
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0.01)
                under_way -= 1

        await asyncio.gather(*(one() for _ in range(5)))
        assert most == places

    asyncio.run(main())
