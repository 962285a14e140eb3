"""Whether somebody on the way, or the resolver itself, answers questions that have no answer.

resolver  a name that nobody has registered, at the vantage's resolver: an address is a lie (NXDOMAIN hijacking)
nobody    a platform's name, at an address where no resolver is: whoever answers stands on the way
"""

from __future__ import annotations

import random
import string

from msgspec.structs import replace

from vpntest.plan.model import Platform
from vpntest.probe.observation import Role
from vpntest.probe.patience import side_by_side
from vpntest.probe.schedule import Target
from vpntest.probe.transaction import Bench, Transaction
from vpntest.tunnel.dns import Resolution
from vpntest.tunnel.vantage import Vantage

PATIENCE = 3.0
"""Seconds for an answer, with the question sent again after half of them. Whoever stands on the way is nearer than any
server; an answer that comes later than this was thought over."""
LABEL_LENGTH = 12
"""Letters of a name that nobody has: one in 10^17 of them exists by chance."""


async def ask_names(bench: Bench, vantage: Vantage, platforms: tuple[Platform, ...], rng: random.Random) -> None:
    """Asks the vantage's resolver for a random name; and, for each of `platforms`, nobody for its name.

    Nobody is the first control, which serves the web. That no resolver is there, and that nobody on the way answers for
    all of them, shows in its silence to a random name; where that is answered the platforms' names are not asked.
    """

    async def of_resolver() -> None:
        await _begin(bench, vantage, "control").resolve(_unknown(bench, rng))

    async def of_nobody() -> None:
        address = await _nobody(bench, vantage)
        if address is None:
            return
        proof = _begin(bench, vantage, "control")
        if _answered(await proof.resolve(_unknown(bench, rng), of="nobody", resolver_address=address)):
            return
        async with side_by_side() as group:
            for platform in platforms:
                if name := first_name(platform):
                    asking = _begin(bench, vantage, "target", platform.id)
                    group.create_task(asking.resolve(name, of="nobody", resolver_address=address))

    async with side_by_side() as group:
        group.create_task(of_resolver())
        if platforms:
            group.create_task(of_nobody())


def first_name(platform: Platform) -> str | None:
    """The host of its first `https://` endpoint that is a name; None where it has none."""
    targets = (Target.of(each.url, {}) for service in platform.service for each in service.endpoint)
    return next((each.host for each in targets if each.scheme == "https" and each.address is None), None)


def _begin(bench: Bench, vantage: Vantage, role: Role, platform: str | None = None) -> Transaction:
    limits = replace(bench.limits, dns=min(PATIENCE, bench.limits.dns))
    return Transaction(bench, vantage, limits=limits, probe="names", role=role, platform=platform)


def _unknown(bench: Bench, rng: random.Random) -> str:
    label = "".join(rng.choices(string.ascii_lowercase, k=LABEL_LENGTH))
    return f"{label}.{bench.settings.neutral_name}"


async def _nobody(bench: Bench, vantage: Vantage) -> str | None:
    target = Target.of(bench.settings.control[0], bench.settings.addresses)
    if target.address is not None:
        return target.address
    found = await _begin(bench, vantage, "control").resolve(target.host, late=False)
    return next(filter(bench.connectable, found.answers), None)


def _answered(found: Resolution) -> bool:
    """Whether a resolver's answer came. Anything else may be the host's own, that no such service is there."""
    return found.rcode is not None
