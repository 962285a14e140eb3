from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import struct
from itertools import pairwise

import pytest
from far_side import FarSide, Site, far_side, reset, run, server_context, stays_silent, stranger
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import CannotMeasure
from vpntest.probe.connection import Connection, describe_leaf, read_tcp_info
from vpntest.tunnel.vantage import Vantage

ADDRESS, NAME = "198.18.1.1", "www.example.test"


async def connected(far: FarSide, port: int) -> Connection:
    connection = Connection.over(far.vantage(), ADDRESS, port)
    await connection.connect()
    return connection


def test_reads_and_writes_in_the_clear_and_in_tls() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 80, echo)
        await far.serve(ADDRESS, 443, echo, server_context(NAME))
        for port in (80, 443):
            connection = await connected(far, port)
            if port == 443:
                await connection.start_tls(far.bench().trust.public, NAME)
            sent = os.urandom(100_000)
            writing = asyncio.create_task(connection.write(sent))
            got = b""
            while len(got) < len(sent):
                got += await connection.read()
            await writing
            assert got == sent
            info = connection.tcp_info()
            assert info is not None
            assert info.bytes_received >= len(sent)
            assert str(connection) == f"{ADDRESS}:{port}"
            connection.close()
            connection.close()

    run(scenario)


def test_what_the_kernel_says_of_a_real_connection() -> None:
    """Against what is known of loopback: its MTU, and that each segment that one side sends the other one gets."""

    async def scenario(far: FarSide) -> None:
        seen = []

        async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(40)
            writer.write(b"x" * 30)
            await writer.drain()
            await reader.readexactly(1)
            raw = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
            seen.append(read_tcp_info(raw))
            writer.write(b"y")

        await far.serve(ADDRESS, 80, takes)
        connection = await connected(far, 80)
        for _ in range(20):
            await connection.write(b"ab")
        got = b""
        while len(got) < 30:
            got += await connection.read()
        await connection.write(b"z")
        assert await connection.read() == b"y"
        ours, (theirs,) = connection.tcp_info(), seen
        assert ours is not None
        assert theirs is not None
        # The MTU of loopback is 65536, and IPv4's largest packet is a byte shorter.
        assert ours.path_mtu == 65535
        # With our SYN, and the far side's FIN if that has come.
        assert ours.bytes_acked == 42
        assert ours.bytes_received - 31 in (0, 1)
        assert theirs.bytes_received == 41
        # Our SYN, its acknowledgement, and 21 writes, each in a segment of its own.
        assert ours.segments_sent is not None
        assert ours.segments_sent >= 23
        assert theirs.segments_received is not None
        assert 22 <= theirs.segments_received <= ours.segments_sent
        connection.close()

    run(scenario)


def test_segments_held_to_a_size() -> None:
    async def scenario(far: FarSide) -> None:
        asked = []

        async def says_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("socket")
            asked.append(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
            writer.write(b"x" * 50_000)
            await writer.drain()
            await reader.read(1)

        await far.serve(ADDRESS, 80, says_much)
        counts = []
        for segment in (536, None):
            connection = Connection.over(far.vantage(), ADDRESS, 80, segment=segment)
            await connection.connect()
            got = 0
            while got < 50_000:
                got += len(await connection.read())
            sizes = connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            counts.append(sizes)
            connection.close()
        assert asked[0] <= 536 < asked[1], "what our SYN asks the far side for"
        assert counts[0] <= 536 < counts[1]

    run(scenario)


def test_the_first_flight_is_kept() -> None:
    async def scenario(far: FarSide) -> None:
        heard = []

        async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.read(65536))

        await far.serve(ADDRESS, 443, listens)
        connection = await connected(far, 443)
        assert connection.first_flight == b""
        with pytest.raises((EOFError, OSError)):
            await connection.start_tls(far.bench().trust.public, NAME)
        assert heard == [connection.first_flight]
        assert NAME.encode() in connection.first_flight
        connection.close()

    run(scenario)


def test_end_and_reset_are_told_apart() -> None:
    async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)

    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        reset(writer)

    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, ends, server_context(NAME))
        await far.serve(ADDRESS, 444, resets, server_context(NAME))
        connection = await connected(far, 443)
        await connection.start_tls(far.bench().trust.public, NAME)
        await connection.write(b"x")
        assert await connection.read() == b""
        assert connection.ended
        assert connection.broken is None
        connection.close()
        connection = await connected(far, 444)
        await connection.start_tls(far.bench().trust.public, NAME)
        await connection.write(b"x")
        with pytest.raises(ConnectionResetError) as caught:
            await connection.read()
        assert connection.broken is caught.value
        assert not connection.ended
        connection.close()

    run(scenario)


def test_the_first_error_is_kept() -> None:
    """The kernel gives an error once: who asks again sees an end of stream."""

    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        reset(writer)

    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 80, resets)
        connection = await connected(far, 80)
        await connection.write(b"x")
        with pytest.raises(ConnectionResetError):
            await connection.read()
        assert await connection.read() == b""
        assert connection.broken is not None
        assert connection.broken.errno == errno.ECONNRESET
        connection.close()

    run(scenario)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_refused_certificate_is_read_all_the_same(version: ssl.TLSVersion) -> None:
    """Rests on a method of SSLObject that is public since Python 3.13 and reached inside it before."""

    async def scenario(far: FarSide) -> None:
        context = server_context(NAME, ca=stranger())
        context.minimum_version = context.maximum_version = version
        ended = asyncio.Event()

        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ended.set()

        await far.serve(ADDRESS, 443, never, context)
        connection = await connected(far, 443)
        with pytest.raises(ssl.SSLCertVerificationError):
            await connection.start_tls(far.bench().trust.public, NAME)
        leaf = connection.leaf()
        assert leaf is not None
        fingerprint, issuer = describe_leaf(leaf)
        assert len(fingerprint) == 64
        assert "Interceptor" in (issuer or "")
        connection.close()

    run(scenario)


def test_no_leaf_where_none_came() -> None:
    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, stays_silent)
        connection = await connected(far, 443)
        assert connection.leaf() is None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connection.start_tls(far.bench().trust.public, NAME)
        assert connection.leaf() is None
        connection.close()

    run(scenario)


def test_a_leaf_that_cannot_be_read_has_a_fingerprint() -> None:
    fingerprint, issuer = describe_leaf(b"no certificate")
    assert len(fingerprint) == 64
    assert issuer is None


def test_contexts() -> None:
    async def main() -> None:
        async with far_side() as far:
            trust = far.bench().trust
            assert trust.public.verify_mode == trust.http1.verify_mode == ssl.CERT_REQUIRED
            assert trust.public.check_hostname
            assert trust.unverified.verify_mode == ssl.CERT_NONE
            assert len(trust.public.get_ca_certs()) > 50, "the public roots"

    asyncio.run(main())


def test_http1_alone_where_asked_for() -> None:
    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        connection = await connected(far, 443)
        await connection.start_tls(far.bench().trust.http1, NAME)
        assert connection.tls is not None
        assert connection.tls.selected_alpn_protocol() == "http/1.1"
        connection.close()

    run(scenario)


class _Refusing:
    """A namespace whose kernel has no socket to give."""

    def __init__(self, number: int) -> None:
        self._number = number

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        raise OSError(self._number, os.strerror(self._number))


def _exhausted(number: int) -> Vantage:
    return Vantage("outside", _Refusing(number), "198.18.0.53")  # type: ignore[arg-type]


def test_a_shortage_of_this_box_is_no_failure_of_the_network() -> None:
    async def main() -> None:
        with pytest.raises(CannotMeasure):
            Connection.over(_exhausted(errno.EMFILE), ADDRESS, 443)
        with pytest.raises(OSError, match="not supported"):
            Connection.over(_exhausted(errno.EAFNOSUPPORT), ADDRESS, 443)

    asyncio.run(main())


# ── struct tcp_info ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_tcp_info() -> None:
    raw = bytearray(232)
    struct.pack_into("=I", raw, 24, 3)
    struct.pack_into("=I", raw, 52, 4100)
    struct.pack_into("=I", raw, 68, 2500)
    struct.pack_into("=I", raw, 100, 7)
    struct.pack_into("=QQ", raw, 120, 518, 14867)
    struct.pack_into("=I", raw, 60, 1420)
    struct.pack_into("=II", raw, 136, 12, 11)
    info = read_tcp_info(bytes(raw))
    assert info is not None
    assert (info.path_mtu, info.segments_sent, info.segments_received) == (1420, 12, 11)
    old = read_tcp_info(bytes(raw[:136]))
    assert old is not None
    assert (old.segments_sent, old.segments_received, old.path_mtu) == (None, None, 1420)
    assert (info.unacked, info.since_last_data_ms, info.rtt_ms, info.retransmits) == (3, 4100, 2.5, 7)
    assert (info.bytes_acked, info.bytes_received) == (518, 14867)


def test_tcp_info_of_a_connect_that_never_was() -> None:
    """The kernel's clock of last data holds the box's uptime then."""
    raw = bytearray(232)
    struct.pack_into("=I", raw, 52, 123_456_789)
    info = read_tcp_info(bytes(raw))
    assert info is not None
    assert info.since_last_data_ms is None


@given(st.binary(max_size=400))
def test_tcp_info_of_any_length(raw: bytes) -> None:
    assert (read_tcp_info(raw) is None) == (len(raw) < 136)


def test_any_bytes_in_place_of_a_certificate() -> None:
    real = ssl.PEM_cert_to_DER_cert(stranger().cert_pem.bytes().decode())
    assert real.count(b"\xa0\x03\x02\x01\x02") == 1
    assert describe_leaf(real.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"))[1] is None
    for place in range(len(real)):
        for value in (0x03, 0xFF):
            fingerprint, _ = describe_leaf(real[:place] + bytes((value,)) + real[place + 1 :])
            assert len(fingerprint) == 64


@pytest.mark.parametrize("tls", [False, True])
def test_who_sends_without_end_leaves_others_their_turn(tls: bool) -> None:
    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 200_000)
        await writer.drain()
        await reader.read()

    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, floods, server_context(NAME) if tls else None)
        connection = await connected(far, 443)
        if tls:
            await connection.start_tls(far.bench().trust.public, NAME)
        came, seen = 0, [0]

        async def watch() -> None:
            while True:
                seen.append(came)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        while came < 200_000:
            came += len(await connection.read(5_000))
        seen.append(came)
        watching.cancel()
        connection.close()
        # At most what the TLS layer takes at a time.
        assert max(after - before for before, after in pairwise(seen)) <= (65_536 + 16_384 if tls else 5_000)

    run(scenario)
