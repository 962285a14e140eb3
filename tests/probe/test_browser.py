from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable

import pytest
from far_side import (
    PATIENT,
    RESOLVER,
    FarSide,
    Handler,
    Site,
    ends_after_hello,
    far_side,
    resets_after_hello,
    run,
    says,
    server_context,
    stays_silent,
    stranger,
)
from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.probe.browser import AT_ONCE
from vpntest.probe.connection import Connection
from vpntest.probe.hello import ja4
from vpntest.probe.transaction import Transaction
from vpntest.tunnel import netlink
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.vantage import Vantage

ADDRESS, NAME = "198.18.1.1", "www.example.test"
CHROME = "t13d1516h2_8daaf6152771_806a8c22fdea"
"""What others have seen of Chrome 150 and later."""


def browse(far: FarSide, **limits: float) -> Transaction:
    return Transaction(far.bench(limits=replace(PATIENT, **limits)), far.vantage(), probe="reach", role="browser")


def test_a_handshake_with_a_browsers_shape() -> None:
    async def scenario(far: FarSide) -> None:
        shown: list[str] = []
        context = server_context(NAME, ca=stranger())
        context.sni_callback = lambda _, name, __: shown.append(name)  # type: ignore[assignment]
        await far.serve(ADDRESS, 443, Site(), context)
        transaction = browse(far)
        assert await transaction.browse(ADDRESS, 443, NAME) is True
        assert far.chain() == [("connect", None), ("tls_handshake", None)]
        details = far.seen[1].details
        assert (details.address, details.server_name, details.no_tls_verify) == (f"{ADDRESS}:443", NAME, True)
        assert details.ja4 == CHROME
        assert shown == [NAME]
        assert far.seen[1].tcp is not None
        assert far.seen[1].tcp.bytes_acked > 1400

    run(scenario)


@pytest.mark.parametrize(
    ("how", "failure"),
    [
        (resets_after_hello, Failure.CONNECTION_RESET),
        (ends_after_hello, Failure.EOF),
        (stays_silent, Failure.TIMEOUT),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Failure.SSL_FAILED_HANDSHAKE),
        (says(b"\x15\x03\x03\x00\x02\x02\x70"), Failure.SSL_INVALID_HOSTNAME),
        (says(b"\x15\x03\x03\x00\x02\x02\x28"), Failure.SSL_FAILED_HANDSHAKE),
    ],
    ids=["reset", "eof", "silence", "garbage", "alert-name", "alert"],
)
@pytest.mark.root
def test_failures_are_those_of_our_own_handshake(how: Handler, failure: str) -> None:
    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, how)
        assert await browse(far, tls=0.5).browse(ADDRESS, 443, NAME) is False
        assert far.chain() == [("connect", None), ("tls_handshake", failure)]
        assert far.seen[1].details.ja4 == CHROME

        ours = Transaction(far.bench(limits=replace(PATIENT, tls=0.5)), far.vantage(), probe="reach")
        async with ours.connected(ADDRESS, 443) as connection:
            assert connection is not None
            assert not await ours.handshake(connection, ours.bench.trust.unverified, NAME)
        assert ours.failure == failure

    run(scenario)


def test_without_a_connection_nothing_is_known() -> None:
    async def scenario(far: FarSide) -> None:
        far.refuse(ADDRESS, 443)
        assert await browse(far).browse(ADDRESS, 443, NAME) is None
        assert far.chain() == [("connect", Failure.CONNECTION_REFUSED)]

    run(scenario)


def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is set there would be asked for the name, by whoever reads it."""

    async def scenario(far: FarSide) -> None:
        asked = []

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.read(100))

        _, port = await far.serve("198.18.9.9", 3128, proxy)
        for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        assert await browse(far).browse(ADDRESS, 443, NAME) is True
        assert asked == []

    run(scenario)


def test_many_at_once_each_in_its_turn() -> None:
    async def scenario(far: FarSide) -> None:
        under_way = most = 0
        before = set(threading.enumerate())

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await reader.read(65536)
            await asyncio.sleep(0.05)
            under_way -= 1
            writer.close()

        await far.serve(ADDRESS, 443, slow)
        bench = far.bench()
        chains = [Transaction(bench, far.vantage(), probe="reach") for _ in range(3 * AT_ONCE)]
        assert set(await asyncio.gather(*(chain.browse(ADDRESS, 443, NAME) for chain in chains))) == {False}
        assert {one.failure for one in far.select(operation="tls_handshake")} == {Failure.EOF}
        assert 1 < most <= AT_ONCE
        browsing = {thread for thread in threading.enumerate() if thread.name.startswith("browser")} - before
        assert 1 < len(browsing) <= AT_ONCE

    run(scenario)


def test_a_cancelled_handshake_leaves_no_socket_and_no_busy_thread() -> None:
    async def main() -> None:
        async with far_side() as far:
            heard = asyncio.Event()

            async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read(65536)
                heard.set()
                await reader.read()

            await far.serve(ADDRESS, 443, listens)
            before = len(os.listdir("/proc/self/fd"))
            bench = far.bench()
            for _ in range(3):
                heard.clear()
                chain = asyncio.create_task(Transaction(bench, far.vantage(), probe="reach").browse(ADDRESS, 443, NAME))
                await heard.wait()
                chain.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await chain
            await asyncio.sleep(0.1)
            assert len(os.listdir("/proc/self/fd")) <= before + 3, "the far side's ends, at most"
            # A thread is free again at once: another handshake does not wait for the ended ones' time limits.
            await far.serve(ADDRESS, 444, Site(), server_context(NAME))
            assert await Transaction(bench, far.vantage(), probe="reach").browse(ADDRESS, 444, NAME) is True

    asyncio.run(main())


# ── in a namespace ───────────────────────────────────────────────────────────────────────────────────────────────────


def _serving(namespace: Namespace, context: ssl.SSLContext, seen: list[bytes]) -> tuple[int, Callable[[], None]]:
    """A TLS server on the loopback of a namespace, which keeps each ClientHello that it gets."""
    listener = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            with caller:
                seen.append(caller.recv(65536, socket.MSG_PEEK))
                try:
                    context.wrap_socket(caller, server_side=True).close()
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()

    def stop() -> None:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()

    return listener.getsockname()[1], stop


@pytest.mark.root
def test_the_handshake_leaves_from_the_vantages_namespace() -> None:
    """The server's port is open in that namespace alone: in the tests' own nobody is there."""
    namespace, home = Namespace.create(), os.readlink("/proc/thread-self/ns/net")
    asyncio.run(netlink.prepare(namespace))
    hellos: list[bytes] = []
    port, stop = _serving(namespace, server_context(NAME), hellos)

    async def scenario(far: FarSide) -> None:
        vantage = Vantage("tunnel", namespace, RESOLVER)
        bench = far.bench()
        browser = Transaction(bench, vantage, probe="reach", role="browser")
        assert await browser.browse("127.0.0.1", port, NAME) is True
        ours = Transaction(bench, vantage, probe="reach")
        async with ours.connected("127.0.0.1", port) as connection:
            assert connection is not None
            assert await ours.handshake(connection, bench.trust.public, NAME)
        outside = Connection.over(Vantage("outside", Namespace.current(), RESOLVER), "127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            await outside.connect()
        outside.close()

        browsers, own = hellos
        assert ja4(browsers) == far.select(role="browser")[-1].details.ja4 == CHROME
        assert ja4(own) == far.select(role="target")[-1].details.ja4 != CHROME
        assert _has_grease(browsers)
        assert not _has_grease(own)
        for thread in threading.enumerate():
            assert os.readlink(f"/proc/self/task/{thread.native_id}/ns/net") == home, "no thread is left in there"

    try:
        run(scenario)
    finally:
        stop()
        namespace.close()


def _has_grease(hello: bytes) -> bool:
    """Whether the first cipher suite is one that nobody has (RFC 8701)."""
    after_session = 5 + 4 + 2 + 32 + 1 + hello[43]
    first = hello[after_session + 2 : after_session + 4]
    return first[0] == first[1] and first[0] & 0x0F == 0x0A
