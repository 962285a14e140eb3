from __future__ import annotations

import asyncio
import errno
import os
from itertools import pairwise

import pytest
from aioquic.quic.crypto import CryptoPair
from far_side import PATIENT, FarSide, Mute, Page, Site, platform, run, stranger
from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.probe.observation import HttpExchange, QuicHandshake
from vpntest.probe.quic import Quic
from vpntest.probe.transaction import Bench, Transaction

ADDRESS, NAME, NEUTRAL = "198.18.1.1", "www.example.test", "neutral.test"
URL = f"https://{NAME}/"


async def asked(
    far: FarSide, bench: Bench, *, verified: bool = True, name: str = NAME, method: str = "GET", path: str = ""
) -> QuicHandshake:
    transaction = Transaction(bench, far.vantage(), probe="reach")
    context = bench.trust.public if verified else bench.trust.unverified
    async with transaction.quic(ADDRESS, 443, context, name) as connection:
        if connection is not None:
            await transaction.exchange(connection, method, f"https://{name}/{path}")
    details = far.select(operation="quic_handshake")[-1].details
    assert isinstance(details, QuicHandshake)
    return details


def test_a_page_over_http3() -> None:
    async def scenario(far: FarSide) -> None:
        body = b"<title>fine</title>" + os.urandom(30_000)
        site = Site({"/a": Page(204 + 2, body, (("server", "test"), ("location", "/b")))})
        await far.quic(ADDRESS, 443, site, NAME)
        details = await asked(far, far.bench(), path="a?b=c")
        assert far.chain() == [("quic_handshake", None), ("http_round_trip", None)]
        assert (details.address, details.server_name, details.no_tls_verify) == (f"{ADDRESS}:443", NAME, False)
        assert details.negotiated_protocol == "h3"
        assert len(details.peer_certificate or "") == 64
        assert "trustme" in (details.issuer or "")
        assert details.datagrams_received >= 1
        assert far.seen[1].details == HttpExchange(
            method="GET",
            url=f"https://{NAME}/a?b=c",
            alpn="h3",
            code=206,
            body_length=len(body),
            server="test",
            location="/b",
            title="fine",
        )
        assert site.asked == [("GET", NAME, "/a?b=c")]
        assert "Chrome" in site.headers[0]["user-agent"]

    run(scenario)


def test_a_head_has_no_body() -> None:
    async def scenario(far: FarSide) -> None:
        await far.quic(ADDRESS, 443, Site(), NAME)
        await asked(far, far.bench(), method="HEAD")
        assert far.chain() == [("quic_handshake", None), ("http_round_trip", None)]
        assert (far.seen[1].details.code, far.seen[1].details.body_length) == (200, 0)

    run(scenario)


def test_more_than_is_read() -> None:
    async def scenario(far: FarSide) -> None:
        await far.quic(ADDRESS, 443, Site({"/": Page(body=b"x" * 300_000)}), NAME)
        await asked(far, far.bench())
        assert far.seen[1].failure is None
        assert 65_536 <= far.seen[1].details.body_length < 300_000

    run(scenario)


@pytest.mark.parametrize(
    ("names", "fields", "failure", "issuer"),
    [
        (("other.test",), {}, Failure.SSL_INVALID_HOSTNAME, "trustme"),
        (("other.test", "another.test"), {}, Failure.SSL_INVALID_HOSTNAME, "trustme"),
        ((NAME,), {"expired": True}, Failure.SSL_INVALID_CERTIFICATE, "trustme"),
        ((NAME,), {"ca": stranger}, Failure.SSL_UNKNOWN_AUTHORITY, "Interceptor"),
    ],
    ids=["name", "names", "expired", "authority"],
)
def test_a_certificate_that_does_not_fit(
    names: tuple[str, ...], fields: dict[str, object], failure: str, issuer: str
) -> None:
    async def scenario(far: FarSide) -> None:
        site = Site()
        made = {name: value() if callable(value) else value for name, value in fields.items()}
        await far.quic(ADDRESS, 443, site, *names, **made)  # type: ignore[arg-type]
        details = await asked(far, far.bench())
        assert far.chain() == [("quic_handshake", failure)]
        assert len(details.peer_certificate or "") == 64
        assert issuer in (details.issuer or "")
        assert site.asked == [], "nothing is sent to who could not prove the name"
        far.seen.clear()
        details = await asked(far, far.bench(), verified=False, name=NEUTRAL)
        assert far.chain() == [("quic_handshake", None), ("http_round_trip", None)]
        assert (details.server_name, details.no_tls_verify) == (NEUTRAL, True)

    run(scenario)


def test_the_platforms_own_roots() -> None:
    async def scenario(far: FarSide) -> None:
        await far.quic(ADDRESS, 443, Site(), NAME, ca=stranger())
        own = replace(platform(URL), roots=stranger().cert_pem.bytes().decode())
        bench = far.bench(own)
        transaction = Transaction(bench, far.vantage(), probe="reach")
        async with transaction.quic(ADDRESS, 443, bench.trust.of(own), NAME) as connection:
            assert connection is not None

    run(scenario)


def test_nobody_at_that_port() -> None:
    async def scenario(far: FarSide) -> None:
        far.refuse(ADDRESS, 443)
        details = await asked(far, far.bench())
        assert far.chain() == [("quic_handshake", Failure.CONNECTION_REFUSED)]
        assert (details.peer_certificate, details.datagrams_received) == (None, 0)

    run(scenario)


@pytest.mark.parametrize(("says", "came"), [(b"", False), (os.urandom(60), True)], ids=["silence", "noise"])
@pytest.mark.root
def test_no_answer(says: bytes, came: bool) -> None:
    async def scenario(far: FarSide) -> None:
        mute = await far.datagrams(ADDRESS, 443, Mute(says))
        details = await asked(far, far.bench(limits=replace(PATIENT, tls=1.0)))
        assert far.chain() == [("quic_handshake", Failure.TIMEOUT)]
        assert (details.datagrams_received > 0) is came
        assert len(mute.heard) >= 2, "a lost flight is sent again"
        assert all(len(datagram) >= 1200 for datagram in mute.heard)
        assert all(datagram[1:5] == b"\0\0\0\1" for datagram in mute.heard), "QUIC version 1"

    run(scenario)


@pytest.mark.root
def test_a_body_that_freezes() -> None:
    async def scenario(far: FarSide) -> None:
        await far.quic(ADDRESS, 443, Site({"/": Page(body=b"x" * 50_000, stops_after=16_384)}), NAME)
        await asked(far, far.bench(limits=replace(PATIENT, http=0.7)))
        assert far.chain() == [("quic_handshake", None), ("http_round_trip", Failure.TIMEOUT)]
        assert (far.seen[1].details.code, far.seen[1].details.body_length) == (200, 16_384)

    run(scenario)


def test_another_version_alone() -> None:
    class Newer(Mute):
        def datagram_received(self, data: bytes, address: object) -> None:
            # A version negotiation packet (RFC 9000, 17.2.1): the connection ids changed over, and QUIC version 2.
            destination, rest = data[6 : 6 + data[5]], data[6 + data[5] :]
            source = rest[1 : 1 + rest[0]]
            ids = bytes((len(source),)) + source + bytes((len(destination),)) + destination
            self._transport.sendto(b"\x80\0\0\0\0" + ids + b"\x6b\x33\x43\xcf", address)

    async def scenario(far: FarSide) -> None:
        await far.datagrams(ADDRESS, 443, Newer())
        await asked(far, far.bench())
        assert far.chain() == [("quic_handshake", Failure.QUIC_INCOMPATIBLE_VERSION)]

    run(scenario)


def test_no_way_there() -> None:
    async def scenario(far: FarSide) -> None:
        with pytest.raises(OSError, match=os.strerror(errno.ENETUNREACH)):
            Quic(far.vantage(), ADDRESS, 443, NAME, verified=False)
        await asked(far, far.bench())
        assert far.chain() == [("quic_handshake", Failure.NETWORK_UNREACHABLE)]

    run(scenario)


class _Forger(Mute):
    """On the way, it makes a first packet that decrypts: its keys come of the connection id that it has seen."""

    def __init__(self, frames: bytes) -> None:
        super().__init__()
        self.frames = frames

    def datagram_received(self, data: bytes, address: object) -> None:
        destination, rest = data[6 : 6 + data[5]], data[6 + data[5] :]
        source = rest[1 : 1 + rest[0]]
        pair = CryptoPair()
        pair.setup_initial(destination, is_client=False, version=1)
        payload = self.frames.ljust(1150, b"\0")
        header = b"\xc1\0\0\0\x01" + bytes((len(source),)) + source + b"\x08forgeded" + b"\0"
        header += (0x4000 | (2 + len(payload) + 16)).to_bytes(2) + b"\0\0"
        self._transport.sendto(pair.encrypt_packet(header, payload, 0), address)


def _crypto(message: bytes) -> bytes:
    return b"\x06\0" + (0x4000 | len(message)).to_bytes(2) + message


@pytest.mark.parametrize(
    ("frames", "failure"),
    [
        # CONNECTION_CLOSE: refused; the alert unrecognized_name; the alert bad_certificate, which no server can mean.
        (b"\x1c\x02\0\0", Failure.CONNECTION_REFUSED),
        (b"\x1c\x41\x70\0\0", Failure.SSL_INVALID_HOSTNAME),
        (b"\x1c\x41\x2a\0\x0ahostname x", Failure.SSL_FAILED_HANDSHAKE),
        # A ServerHello that is none, and one that says that it is longer than it is.
        (_crypto(b"\x02\0\0\x04abcd"), Failure.SSL_FAILED_HANDSHAKE),
        (_crypto(b"\x02\0\0\x50" + b"\x03\x03" + b"r" * 32 + b"\x20" + b"x" * 45), Failure.SSL_FAILED_HANDSHAKE),
        # A frame of no known kind.
        (b"\x3f", Failure.SSL_FAILED_HANDSHAKE),
    ],
    ids=["refused", "alert-name", "alert-certificate", "broken", "cut", "unknown"],
)
def test_what_a_forger_says(frames: bytes, failure: str) -> None:
    async def scenario(far: FarSide) -> None:
        await far.datagrams(ADDRESS, 443, _Forger(frames))
        await asked(far, far.bench())
        assert far.chain() == [("quic_handshake", failure)]

    run(scenario)


def test_a_certificate_of_very_many_names() -> None:
    async def scenario(far: FarSide) -> None:
        await far.quic(ADDRESS, 443, Site(), *(f"a-rather-long-label-{number}.other.test" for number in range(60)))
        await asked(far, far.bench())
        assert far.chain() == [("quic_handshake", Failure.SSL_INVALID_HOSTNAME)]

    run(scenario)


@pytest.mark.parametrize(
    "header",
    [(":status", "9" * 3000), (":status", "abc"), (":status", "9" * 5000), ("X" * 3000, "x"), ("a\0" * 1500, "x")],
    ids=["long-status", "no-number", "longer-status", "capitals", "nul"],
)
def test_headers_that_the_library_trips_over(header: tuple[str, str]) -> None:
    async def scenario(far: FarSide) -> None:
        await far.quic(ADDRESS, 443, Site({"/": Page(headers=(header,))}), NAME)
        await asked(far, far.bench())
        assert far.chain() == [("quic_handshake", None), ("http_round_trip", Failure.HTTP_REQUEST_FAILED)]

    run(scenario)


def test_datagrams_without_end_leave_others_their_turn() -> None:
    class Flood(Mute):
        def datagram_received(self, data: bytes, address: object) -> None:
            for _ in range(100):
                self._transport.sendto(b"noise", address)

    async def scenario(far: FarSide) -> None:
        await far.datagrams(ADDRESS, 443, Flood())
        connection = Quic(far.vantage(), ADDRESS, 443, NAME, verified=False)
        shaking = asyncio.create_task(connection.handshake())
        seen = [0]
        while seen[-1] < 100:
            await asyncio.sleep(0)
            seen.append(connection.datagrams)
        shaking.cancel()
        await asyncio.gather(shaking, return_exceptions=True)
        connection.close()
        assert max(after - before for before, after in pairwise(seen)) == 1

    run(scenario)
