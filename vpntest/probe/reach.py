"""Whether an endpoint of a platform can be reached from a vantage, and if not, at which step and for which name.

One attempt is a few transactions:

    target     both resolvers; then connect → TLS with the platform's name → HTTP at the vantage's resolver's address
    neutral    where that failed after the connect: the same address, a name that no censor lists
    alternate  where the public resolver's answer shares no address with the vantage's, or a late answer holds another
               address and nothing has answered so far: the target's steps there
    browser    the target's connect and TLS with a browser's ClientHello: once for an `https` endpoint, and again while
               it fares otherwise than the target

Over QUIC connect and TLS are one step, and so are they with STUN, where there is no name to compare.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection, Sequence

from vpntest.failures import Failure
from vpntest.probe.connection import datagrams
from vpntest.probe.observation import Role
from vpntest.probe.patience import side_by_side
from vpntest.probe.schedule import Target, Task
from vpntest.probe.transaction import Bench, Transaction
from vpntest.tunnel.dns import Resolution
from vpntest.tunnel.vantage import Vantage


async def reach(
    bench: Bench, vantage: Vantage, task: Task, context: ssl.SSLContext, chained: Callable[[], None] = lambda: None
) -> bool:
    """One attempt at one endpoint. True where an HTTP answer came to the target transaction.

    `chained` is called, at most once, when all that goes on is to listen for late DNS answers: some seconds more, and
    two sockets. Where nothing has answered, one of those is still to be tried, and it is not called.
    """
    target = Target.of(task.endpoint.url, bench.settings.addresses)

    def begin(role: Role) -> Transaction:
        return Transaction(
            bench,
            vantage,
            probe="reach",
            role=role,
            platform=task.platform,
            service=task.service,
            endpoint=task.endpoint.url,
            attempt=task.attempt,
        )

    first = begin("target")
    async with first.listening():
        other: str | None = None
        if target.address is not None:
            address: str | None = target.address
        elif vantage.resolver == bench.settings.public_resolver:
            # One resolver in both roles: asking it twice would say nothing more.
            address = await _address(first, target.host, await first.resolve(target.host))
        else:
            ours, public = await asyncio.gather(first.resolve(target.host), first.resolve(target.host, of="public"))
            address = await _address(first, target.host, ours)
            if public.answers and not set(public.answers) & set(ours.answers):
                other = next(filter(bench.connectable, public.answers), None)

        compared = False

        async def tried(transaction: Transaction, address: str) -> bool:
            nonlocal compared
            url, method = target.page(task.endpoint.url), task.endpoint.method
            first_stands = stands if transaction is first else None
            done = await _steps(transaction, target, address, url, method, target.host, context, first_stands)
            # Once in an attempt, so that it is plain which failure it is compared with.
            if not done and not compared and transaction.operation in _NAMED:
                compared = True
                name = bench.settings.neutral_name
                await _steps(
                    begin("neutral"), target, address, target.url_for(name), "HEAD", name, bench.trust.unverified
                )
            return done

        through: bool | None = None

        async def browsed() -> None:
            nonlocal through
            await stands.wait()
            through = await begin("browser").browse(address or "", target.port, target.host)

        key = vantage.id, task.endpoint.url
        stands = asyncio.Event()
        async with side_by_side() as group:
            beside = None
            # Where both shapes agreed before there is nothing to learn. Side by side, for each may hang to its limit.
            if target.scheme == "https" and bench.shapes.get(key, True):
                beside = group.create_task(browsed())
            done = answered = address is not None and await tried(first, address)
            if beside is not None and not stands.is_set():
                beside.cancel()
            if other is not None:
                answered |= await tried(begin("alternate"), other)
        shaken = {"tls_handshake": False, "http_round_trip": True}.get(first.operation)
        if through is not None and shaken is not None:
            bench.shapes[key] = through is not shaken
        if answered:
            chained()
        else:
            late = _late(await first.overheard(), {address, other}, bench.connectable)
            if late is not None:
                await tried(begin("alternate"), late)
    return done and target.scheme not in ("tcp", "stun")


_NAMED = frozenset({"tls_handshake", "quic_handshake", "http_round_trip"})
"""Steps in which a name is shown."""


def _late(heard: Sequence[Resolution], tried: Collection[str | None], connectable: Callable[[str], bool]) -> str | None:
    """The address to try of answers that came late: of the last one, for forgers are faster than the truth."""
    for found in heard:
        for answer in reversed(found.late):
            for address in answer:
                if address not in tried and connectable(address):
                    return address
    return None


async def control(bench: Bench, vantage: Vantage, url: str, phase: str, attempt: int, method: str = "GET") -> bool:
    """One attempt at a control URL. True where an HTTP answer came."""
    target = Target.of(url, bench.settings.addresses)
    transaction = Transaction(
        bench, vantage, probe="control", role="control", endpoint=url, attempt=attempt, phase=phase
    )
    address = target.address or await _address(
        transaction, target.host, await transaction.resolve(target.host, late=False)
    )
    if address is None:
        return False
    return await _steps(transaction, target, address, url, method, target.host, bench.trust.public)


async def _steps(
    transaction: Transaction,
    target: Target,
    address: str,
    url: str,
    method: str,
    name: str,
    context: ssl.SSLContext,
    stands: asyncio.Event | None = None,
) -> bool:
    """From the connect on. True where the last step was done; `stands` is set once a TCP connection stands."""
    if target.scheme == "stun":
        return await transaction.binding(address, target.port)
    if target.scheme == "quic":
        async with transaction.quic(address, target.port, context, name) as quic:
            return quic is not None and (await transaction.exchange(quic, method, url)).failure is None
    bare = target.scheme == "tcp"
    async with transaction.connected(address, target.port, proof=bare, last=bare) as connection:
        if connection is None or bare:
            return connection is not None
        if stands is not None:
            stands.set()
        if target.scheme == "https" and not await transaction.handshake(connection, context, name):
            return False
        return (await transaction.exchange(connection, method, url)).failure is None


async def _address(transaction: Transaction, host: str, found: Resolution) -> str | None:
    """The first address of an answer that can be connected to; IPv6 only where there is no other and a route to it."""
    usable = next(filter(transaction.bench.connectable, found.answers), None)
    if usable is not None or found.failure != Failure.DNS_NO_ANSWER:
        return usable
    found = await transaction.resolve(host, "AAAA")
    usable = next(filter(transaction.bench.connectable, found.answers), None)
    return usable if usable is not None and _has_route(transaction.vantage, usable) else None


def _has_route(vantage: Vantage, address: str) -> bool:
    try:
        # Connecting a datagram socket looks the route up and sends nothing.
        datagrams(vantage, address, 9).close()
    except OSError:
        return False
    return True
