"""Who the world sees from a vantage: the address that its packets leave from, and the resolver that asks for it."""

from __future__ import annotations

import ipaddress
from typing import Literal

from vpntest.failures import Failure
from vpntest.probe.observation import Address
from vpntest.probe.schedule import Target
from vpntest.probe.transaction import Bench, Transaction
from vpntest.tunnel.vantage import Vantage

TRIES = 2
_FACTS = frozenset({Failure.NETWORK_UNREACHABLE, Failure.ADDRESS_FAMILY, Failure.DNS_NO_ANSWER, Failure.DNS_NXDOMAIN})
"""Failures that a second try would only repeat: there is no such route, no such address."""


async def ask_exit(bench: Bench, vantage: Vantage, family: Literal[4, 6]) -> None:
    """The address that the exit service sees, over one address family.

    Ends in an `address` observation whatever happens; where a family has no way out its failure says so, which is the
    usual and safe case for IPv6 in a tunnel.
    """
    url = bench.settings.exit_address
    target = Target.of(url, bench.settings.addresses)
    if target.address is not None and ipaddress.ip_address(target.address).version != family:
        return
    for attempt in range(1, TRIES + 1):
        transaction = Transaction(bench, vantage, probe="exit", role="control", endpoint=url, attempt=attempt)
        t0 = bench.notebook.clock()
        seen = await _seen(transaction, target, url, family)
        failure = transaction.failure
        if seen is None and failure is None:
            failure = Failure.HTTP_REQUEST_FAILED
        details = Address(of="exit", family=family, address=seen)
        transaction.note(transaction.operation or "resolve", url, t0, details, failure)
        if failure is None or failure in _FACTS:
            return


async def _seen(transaction: Transaction, target: Target, url: str, family: Literal[4, 6]) -> str | None:
    address = target.address
    if address is None:
        found = await transaction.resolve(target.host, "A" if family == 4 else "AAAA", late=False)
        address = next(filter(transaction.bench.connectable, found.answers), None)
    if address is None:
        return None
    async with transaction.connected(address, target.port) as connection:
        if connection is None:
            return None
        if target.scheme == "https" and not await transaction.handshake(
            connection, transaction.bench.trust.public, target.host
        ):
            return None
        answer = await transaction.exchange(connection, "GET", url)
        return address_in(bytes(answer.body), family) if answer.failure is None else None


def address_in(body: bytes, family: Literal[4, 6]) -> str | None:
    """The address that a body holds, alone or in a line `ip=…`; None where there is none of that family."""
    text = body[:4096].decode("ascii", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line.removeprefix("ip=") for line in lines if line.startswith("ip=")]
    for candidate in named or lines[:1]:
        try:
            ip = ipaddress.ip_address(candidate)
        except ValueError:
            return None
        return str(ip) if ip.version == family else None
    return None


async def ask_resolver(bench: Bench, vantage: Vantage) -> None:
    """The address of the resolver that asks the world on this vantage's behalf."""
    name = bench.settings.whoami
    for attempt in range(1, TRIES + 1):
        transaction = Transaction(bench, vantage, probe="resolver", role="control", endpoint=name, attempt=attempt)
        t0 = bench.notebook.clock()
        found = await transaction.resolve(name, late=False)
        details = Address(of="resolver", family=4, address=found.answers[0] if found.answers else None)
        transaction.note("resolve", name, t0, details, found.failure)
        if found.failure is None or found.failure in _FACTS:
            return
