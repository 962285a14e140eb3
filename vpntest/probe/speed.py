"""Goodput of a platform at a vantage: its own name against a neutral one, same address, taken in turns.

A censor that throttles by name slows the one and not the other; a bad line, a far server or a slow tunnel slows both.
Only the name in the TLS handshake differs: inside it both ask the platform for the same page, so that both move as many
bytes. Transfers of a control before and after tell what the line itself gave in those seconds.
"""

from __future__ import annotations

import asyncio
import ssl
import statistics
from collections.abc import Iterable

from vpntest.failures import Failure
from vpntest.plan.model import Platform
from vpntest.probe.http import BODY_CAP, Answer, Http, thinned
from vpntest.probe.observation import Observation, Transfer
from vpntest.probe.schedule import Target
from vpntest.probe.transaction import Bench, Transaction
from vpntest.tunnel.vantage import Vantage

PAIRS = 3
"""Pairs that are always taken."""
MORE_PAIRS = 5
"""Pairs in all where one sample was slow: enough for a rank test (5 against 5) to say something."""
SLOW_SHARE = 1 / 4
"""A target sample below this share of the neutral median is slow, if it is also below :data:`SLOW_RATE`."""
SLOW_RATE = 1_000_000.0
"""Bits per second. Known throttling by name is at 130 to 150 kbit/s (Xue et al., IMC 2021); nobody misses a platform's
pages at several times that."""
HOPELESS = 2
"""Target transfers in a row without a byte after which no more are tried: that is no matter of speed."""


async def measure(bench: Bench, vantage: Vantage, platform: Platform) -> None:
    """The pairs of one platform at one vantage, with a control before and after."""
    assert platform.speed is not None
    target = Target.of(platform.speed, bench.settings.addresses)
    address = target.address
    if address is None:
        naming = Transaction(bench, vantage, probe="speed", platform=platform.id, endpoint=platform.speed)
        found = await naming.resolve(target.host, late=False)
        address = next(filter(bench.connectable, found.answers), None)
    if address is None:
        return
    await _yardstick(bench, vantage, platform, "before")
    neutral_name = bench.settings.neutral_name
    ours: list[Observation] = []
    neutral: list[Observation] = []
    number = 0
    while number < (MORE_PAIRS if slow(map(rate, ours), map(rate, neutral)) else PAIRS):
        number += 1
        arms = [
            (ours, "target", target.host, bench.trust.of(platform)),
            (neutral, "neutral", neutral_name, bench.trust.unverified),
        ]
        # ABBA: neither name has always the fresher moment.
        for seen, role, name, context in arms if number % 2 else reversed(arms):
            transaction = Transaction(
                bench, vantage, probe="speed", role=role, platform=platform.id, endpoint=platform.speed, attempt=number
            )
            seen.append(await _transfer(transaction, address, target, platform.speed, name, context))
        if len(ours) >= HOPELESS and not any(map(_moved, ours[-HOPELESS:])):
            break
    await _yardstick(bench, vantage, platform, "after")


def rate(transfer: Observation) -> float | None:
    """Its goodput in bits per second; None where it did not complete."""
    details = transfer.details
    assert isinstance(details, Transfer)
    if transfer.failure is not None or details.bytes < (details.expected or 0):
        return None
    return 8 * details.bytes / max(transfer.t - transfer.t0, 1e-6)


def slow(ours: Iterable[float | None], neutral: Iterable[float | None]) -> bool:
    """Whether a target sample is slow, of transfers' rates."""
    rates, full = list(ours), [each for each in neutral if each is not None]
    bar = min(SLOW_RATE, statistics.median(full) * SLOW_SHARE) if full else 0.0
    return any(each is None or each < bar for each in rates)


def _moved(transfer: Observation) -> bool:
    return isinstance(transfer.details, Transfer) and transfer.details.bytes > 0


async def _yardstick(bench: Bench, vantage: Vantage, platform: Platform, phase: str) -> None:
    """One transfer of the first control; of the second where that one fails, is silent, or has no such body to give."""
    for url in bench.settings.control[:2]:
        target = Target.of(url, bench.settings.addresses)
        transaction = Transaction(
            bench, vantage, probe="speed", role="control", platform=platform.id, endpoint=url, phase=phase
        )
        address = target.address
        if address is None:
            found = await transaction.resolve(target.host, late=False)
            address = next(filter(bench.connectable, found.answers), None)
        if address is not None:
            seen = await _transfer(transaction, address, target, url, target.host, bench.trust.public)
            details = seen.details
            assert isinstance(details, Transfer)
            if seen.failure is None and details.bytes > 0 and details.expected == BODY_CAP:
                return


async def _transfer(
    transaction: Transaction, address: str, target: Target, url: str, name: str, context: ssl.SSLContext
) -> Observation:
    """One download on a fresh connection.

    Leaves one `transfer` observation whatever happens. Running out of the reading window is no failure if bytes came:
    how many, and when, is the measurement.
    """
    clock = transaction.bench.notebook.clock
    t0 = clock()
    answer: Answer | None = None
    async with transaction.connected(address, target.port) as connection:
        if connection is not None and (
            target.scheme != "https" or await transaction.handshake(connection, context, name)
        ):
            t0 = clock()
            answer = await Http(connection).ask("GET", url, timeout=transaction.limits.window)
            if answer.samples:
                # Closes the curve, so that silence at the end shows in it.
                answer.samples.append((asyncio.get_running_loop().time(), answer.length))
                if answer.failure == Failure.TIMEOUT:
                    answer.failure = None
        expected = BODY_CAP
        if answer is not None and answer.code is not None:
            expected = min(BODY_CAP, answer.length if answer.complete else answer.announced or BODY_CAP)
        details = Transfer(
            url=url,
            server_name=name,
            direction="down",
            bytes=min(answer.length, BODY_CAP) if answer else 0,
            expected=expected,
            samples=thinned(answer.samples) if answer else (),
            address=str(connection) if connection else None,
        )
        failure = answer.failure if answer else transaction.failure
        return transaction.note("transfer", url, t0, details, failure, connection)
