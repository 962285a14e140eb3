"""Whether an address that falls silent counts packets.

A request of few bytes in many packets meets a budget of packets and none of bytes; that 64 KiB stop at the same address
says nothing of which it was. 64 bytes, two at a time, one pair every 50 ms (hyperion-cs/dpi-checkers, l4-25).
"""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from vpntest.failures import Failure, failure_of
from vpntest.probe.connection import Connection
from vpntest.probe.observation import Trickle
from vpntest.probe.patience import side_by_side, within
from vpntest.probe.transaction import Bench, Transaction
from vpntest.tunnel.vantage import Vantage

TRICKLES = 3
"""At one address; each is one sample."""
APART = 0.5
"""Seconds between the starts of two."""
REQUEST = 64
"""Bytes of the request; more where the name is longer than they leave room for."""
PIECE = 2
"""Bytes at a time, each in a TLS record and a TCP segment of its own …"""
PAUSE = 0.05
"""… and seconds between two."""


async def trickle_to(
    bench: Bench, vantage: Vantage, platform: str, service: str | None, url: str, name: str, address: str, port: int
) -> None:
    """:data:`TRICKLES` to one address under the platform's name. `url` is the endpoint's, as observations group it."""
    async with side_by_side() as group:
        for attempt in range(1, TRICKLES + 1):
            transaction = Transaction(
                bench,
                vantage,
                # It is silence that is looked for, and no slow server.
                limits=replace(bench.limits, tls=min(bench.limits.tls, bench.limits.stall)),
                flowed=True,
                probe="freeze",
                platform=platform,
                service=service,
                endpoint=url,
                attempt=attempt,
            )
            group.create_task(_trickle(transaction, url, name, address, port))
            if attempt < TRICKLES:
                await asyncio.sleep(APART)


async def _trickle(transaction: Transaction, url: str, name: str, address: str, port: int) -> None:
    """One. Ends in a `transfer` observation whatever happens."""
    clock, count = transaction.bench.notebook.clock, transaction.vantage.count_packets
    t0, before = clock(), count()
    flow = _Flow()
    async with transaction.connected(address, port) as connection:
        if connection is not None and await transaction.handshake(
            connection, transaction.bench.trust.http1_unverified, name
        ):
            await flow.run(connection, request_to(name), transaction.limits.stall)
            failure = transaction.silence(flow.failure, connection)
        else:
            failure = transaction.failure
        after = count()
        details = Trickle(
            url=url,
            server_name=name,
            chunks=flow.chunks,
            bytes_acked=flow.confirmed,
            answered=flow.answered,
            address=str(connection) if connection else None,
            packets_received=after.received - before.received if before and after else None,
            packets_sent=after.sent - before.sent if before and after else None,
        )
        transaction.note("transfer", url, t0, details, failure, connection)


class _Flow:
    """What is known of a request while it is written piece by piece."""

    def __init__(self) -> None:
        self.chunks = 0
        self.confirmed = 0
        self.answered = False
        self.failure: str | None = None

    async def run(self, connection: Connection, request: bytes, patience: float) -> None:
        base: int | None = None
        try:
            for start in range(0, len(request), PIECE):
                # Before the first one too, so that the handshake's last bytes are confirmed and none of these.
                await asyncio.sleep(PAUSE)
                base = _confirmed(connection) if base is None else base
                await connection.write(request[start : start + PIECE])
                self.chunks += 1
            async with within(patience):
                self.answered = (await connection.read()).startswith(b"HTTP/")
            self.failure = None if self.answered else Failure.EOF if connection.ended else Failure.HTTP_REQUEST_FAILED
        except OSError as exc:
            self.failure = failure_of(exc)
        self.confirmed = max(0, _confirmed(connection) - (base or 0))


def request_to(name: str) -> bytes:
    """A whole HTTP/1.1 request for this name's root page. Blanks before the name, which HTTP ignores, fill it up."""
    rest = f"{name}\r\n\r\n"
    return f"HEAD / HTTP/1.1\r\nHost:{rest.rjust(REQUEST - 22)}".encode()


def _confirmed(connection: Connection) -> int:
    info = connection.tcp_info()
    return info.bytes_acked if info else 0
