"""Goodput of a platform at a vantage: its own name against a neutral one, same address, taken in turns.

A censor that throttles by name slows the one and not the other; a bad line, a far server or a slow tunnel slows both.
Only the name in the TLS handshake differs: inside it both ask for the same page of the same host, so that both move as
many bytes. That host is the platform; or the first control, where the platform has no large object that anybody may
fetch: a censor that slows a name slows it with any server (net4people/bbs#382). Transfers of a control before and after
tell what the line itself gave in those seconds.
"""

from __future__ import annotations

import asyncio
import ssl
import statistics
from collections.abc import Callable, Sequence
from typing import Literal

from vpntest.failures import Failure
from vpntest.plan.model import Platform
from vpntest.probe.http import BODY_CAP, Answer, Http, thinned
from vpntest.probe.observation import Observation, Transfer, silence_of
from vpntest.probe.schedule import Target
from vpntest.probe.transaction import Bench, Transaction
from vpntest.tunnel.vantage import Vantage

PAIRS = 5
"""Pairs in a round: the least of which a rank test (5 against 5) says something."""
FAIR_RATE = 400_000.0
"""Bits per second: throttled is what has a median below it."""
FAIR_SAMPLES = PAIRS // 2 + 1
"""Target transfers at that rate or above after which the rest of a round can no longer bring its median below."""
SLOW_SHARE = 1 / 4
"""A target sample below this share of what the neutral name or the control gave is slow, if it is also below
:data:`SLOW_RATE`."""
SLOW_RATE = 1_000_000.0
"""Bits per second. Known throttling by name is at 130 to 150 kbit/s (Xue et al., IMC 2021); nobody misses a platform's
pages at several times that."""
SLOW_SAMPLES = 2
"""How many make a round slow: fewer than any verdict needs, and more than one lost packet makes."""
HOPELESS = 2
"""Target transfers in a row without a byte after which no more are tried: that is no matter of speed."""
FROZEN = 3
"""Target transfers in a row that fell silent for good after which no more are tried: neither is that."""
SILENCE = 2.0
"""Seconds without a byte, up to the end of the window, that make a transfer silent. Policers that drop what is over
their rate leave gaps as long as a retransmission takes, about a second."""


def measured_by(platform: Platform) -> str | None:
    """The endpoint that its speed is kept under: its URL, or `tls://` and a name; None where it has neither."""
    return platform.speed or (f"tls://{platform.throttled_name}" if platform.throttled_name else None)


async def measure(
    bench: Bench, vantage: Vantage, platform: Platform, phase: Literal["during", "confirm"] = "during"
) -> bool:
    """One round of a platform at a vantage, with a control before and after. True where the platform was slow."""
    endpoint = measured_by(platform)
    assert endpoint is not None
    url = platform.speed or bench.settings.control[0]
    target = Target.of(url, bench.settings.addresses)
    address = target.address
    if address is None:
        naming = Transaction(bench, vantage, probe="speed", platform=platform.id, endpoint=endpoint, phase=phase)
        found = await naming.resolve(target.host, late=False)
        address = next(filter(bench.connectable, found.answers), None)
    if address is None:
        return False
    name, context = target.host, bench.trust.of(platform)
    if platform.speed is None:
        # At a stranger's address neither name has a certificate that fits.
        name, context = platform.throttled_name or "", bench.trust.unverified
    arms = (("target", name, context), ("neutral", bench.settings.neutral_name, bench.trust.unverified))
    seen: dict[str, list[Observation]] = {"target": [], "neutral": [], "control": []}
    seen["control"] += await yardstick(bench, vantage, platform.id, "before" if phase == "during" else phase)
    for number in range(1, PAIRS + 1):
        # ABBA: neither name has always the fresher moment.
        for role, shown, trusted in arms if number % 2 else reversed(arms):
            transaction = Transaction(
                bench,
                vantage,
                probe="speed",
                role=role,
                platform=platform.id,
                endpoint=endpoint,
                attempt=number,
                phase=phase,
            )
            seen[role].append(await _transfer(transaction, address, target, url, shown, trusted))
        ours = seen["target"]
        if _last(ours, HOPELESS, lambda one: not _moved(one)) or _last(ours, FROZEN, froze):
            break
        if sum((rate(one) or 0.0) >= FAIR_RATE for one in ours if _tells(one)) >= FAIR_SAMPLES:
            break
    seen["control"] += await yardstick(bench, vantage, platform.id, "after" if phase == "during" else phase)
    return slow(*([rate(one) for one in seen[role] if _tells(one)] for role in ("target", "neutral", "control")))


def _last(transfers: Sequence[Observation], count: int, holds: Callable[[Observation], bool]) -> bool:
    return len(transfers) >= count and all(map(holds, transfers[-count:]))


def rate(transfer: Observation) -> float | None:
    """Its goodput in bits per second; None where it did not complete."""
    details = transfer.details
    assert isinstance(details, Transfer)
    if transfer.failure is not None or details.bytes < (details.expected or 0):
        return None
    return 8 * details.bytes / max(transfer.t - transfer.t0, 1e-6)


def slow(ours: Sequence[float | None], neutral: Sequence[float | None], control: Sequence[float | None] = ()) -> bool:
    """Whether a round is slow, of its transfers' rates: against the neutral name, or with it against the control, for
    some throttle the address and not the name."""
    full = [statistics.median(known) for each in (neutral, control) if (known := [one for one in each if one])]
    bar = min(SLOW_RATE, max(full) * SLOW_SHARE) if full else 0.0
    return bool(full) and sum(each is None or each < bar for each in ours) >= SLOW_SAMPLES


def froze(transfer: Observation) -> bool:
    """Whether bytes came, and then none to the end."""
    details = transfer.details
    assert isinstance(details, Transfer)
    if not details.samples or rate(transfer) is not None:
        return False
    return silence_of(transfer) >= SILENCE


def _moved(transfer: Observation) -> bool:
    return isinstance(transfer.details, Transfer) and transfer.details.bytes > 0


def _tells(transfer: Observation) -> bool:
    """Whether it says something of speed: something moved, and there was enough to move."""
    details = transfer.details
    assert isinstance(details, Transfer)
    return details.bytes > 0 and (details.expected or 0) >= BODY_CAP // 2


async def yardstick(bench: Bench, vantage: Vantage, platform: str | None, phase: str) -> list[Observation]:
    """One transfer of the first control; of the second where that one fails, is silent, or has no such body to give.
    Gives what was seen."""
    seen: list[Observation] = []
    for url in bench.settings.control[:2]:
        target = Target.of(url, bench.settings.addresses)
        transaction = Transaction(
            bench, vantage, probe="speed", role="control", platform=platform, endpoint=url, phase=phase
        )
        address = target.address
        if address is None:
            found = await transaction.resolve(target.host, late=False)
            address = next(filter(bench.connectable, found.answers), None)
        if address is not None:
            one = await _transfer(transaction, address, target, url, target.host, bench.trust.public)
            seen.append(one)
            details = one.details
            assert isinstance(details, Transfer)
            if one.failure is None and details.bytes > 0 and details.expected == BODY_CAP:
                break
    return seen


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
