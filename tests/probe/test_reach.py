from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from far_side import (
    NEUTRAL,
    PATIENT,
    PUBLIC,
    RESOLVER,
    FarSide,
    Handler,
    Middle,
    Mute,
    Page,
    Reply,
    Site,
    ends_after_hello,
    platform,
    reset,
    resets_after_hello,
    run,
    says,
    server_context,
    stays_silent,
    stranger,
)
from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.plan.model import Endpoint
from vpntest.probe.observation import DnsAnswer, HttpExchange, TcpConnect, TlsHandshake
from vpntest.probe.reach import control, reach
from vpntest.probe.schedule import Task

# They wait, for that is what they are about: no part of the quick suite that runs anywhere.
pytestmark = pytest.mark.root

NAME, ADDRESS, OTHER = "www.example.test", "198.18.1.1", "198.18.2.2"
URL = f"https://{NAME}/"
HONEST = {NAME: [Reply((ADDRESS,))], NEUTRAL: [Reply(("198.18.9.9",))]}
RESOLVED = [("resolve", None), ("resolve", None)]
THROUGH = [("connect", None), ("tls_handshake", None), ("http_round_trip", None)]
SHAKEN = THROUGH[:2]


def task(url: str = URL, attempt: int = 1) -> Task:
    return Task("example", "web", Endpoint(url), attempt, 0.0)


async def honest(far: FarSide) -> None:
    await far.resolver(RESOLVER, HONEST)
    await far.resolver(PUBLIC, HONEST)


async def attempt(far: FarSide, url: str = URL, **how: object) -> bool:
    """One attempt; `how` shortens limits, or sets fields of the vantage."""
    limits = {name: how.pop(name) for name in list(how) if name in PATIENT.__struct_fields__}
    settings = {name: how.pop(name) for name in list(how) if name in ("addresses", "public_resolver")}
    bench = far.bench(platform(url), limits=replace(PATIENT, **limits), **settings)
    return await reach(bench, far.vantage(**how), task(url), bench.trust.public)


@pytest.mark.parametrize("h2", [True, False], ids=["h2", "http/1.1"])
def test_ok(h2: bool) -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        body = b"<html><title>Example\n  &amp; more</title>"
        site = Site({"/": Page(body=body, headers=(("server", "test"),))})
        await far.serve(ADDRESS, 443, site, server_context(NAME, h2=h2))
        assert await attempt(far) is True
        assert far.chain(role="target") == [*RESOLVED, *THROUGH]
        assert far.chain(role="browser") == SHAKEN
        assert site.asked == [("GET", NAME, "/")]
        ours, public, connect, tls, http = far.select(role="target")
        assert [ours.details.resolver, public.details.resolver] == ["vantage", "public"]
        assert ours.details.answers == public.details.answers == (ADDRESS,)
        assert ours.details.resolver_address == f"{RESOLVER}:53"
        assert connect.details == TcpConnect(ip=ADDRESS, port=443)
        assert connect.tcp is None
        assert isinstance(tls.details, TlsHandshake)
        assert tls.details.address == f"{ADDRESS}:443"
        assert tls.details.server_name == NAME
        assert not tls.details.no_tls_verify
        assert tls.details.tls_version == "TLSv1.3"
        assert tls.details.negotiated_protocol == ("h2" if h2 else "http/1.1")
        assert len(tls.details.peer_certificate or "") == 64
        assert "trustme" in (tls.details.issuer or "")
        assert http.details == HttpExchange(
            method="GET",
            url=URL,
            alpn="h2" if h2 else "http/1.1",
            code=200,
            body_length=len(body),
            server="test",
            title="Example & more",
        )
        assert http.tcp is not None
        assert http.tcp.bytes_received > 100
        assert {one.transaction for one in far.select(role="target")} == {ours.transaction}
        assert {(one.role, one.attempt, one.platform, one.service, one.endpoint) for one in far.seen} == {
            ("target", 1, "example", "web", URL),
            ("browser", 1, "example", "web", URL),
        }

    run(scenario)


def test_refused() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        far.refuse(ADDRESS, 443)
        assert await attempt(far) is False
        assert far.chain() == [*RESOLVED, ("connect", Failure.CONNECTION_REFUSED)]

    run(scenario)


def test_no_answer_to_a_connect() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        far.swallow(ADDRESS, 443)
        assert await attempt(far, tcp=1.2) is False
        assert far.chain() == [*RESOLVED, ("connect", Failure.TIMEOUT)]
        last = far.select()[-1]
        assert last.tcp is not None
        assert last.tcp.retransmits >= 1
        assert last.tcp.since_last_data_ms is None

    run(scenario)


@pytest.mark.parametrize(
    ("how", "failure"),
    [
        (resets_after_hello, Failure.CONNECTION_RESET),
        (ends_after_hello, Failure.EOF),
        (stays_silent, Failure.TIMEOUT),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Failure.SSL_FAILED_HANDSHAKE),
        # A fatal alert, unrecognized_name.
        (says(b"\x15\x03\x03\x00\x02\x02\x70"), Failure.SSL_INVALID_HOSTNAME),
        # A fatal alert, handshake_failure.
        (says(b"\x15\x03\x03\x00\x02\x02\x28"), Failure.SSL_FAILED_HANDSHAKE),
    ],
    ids=["reset", "eof", "silence", "garbage", "alert-name", "alert"],
)
def test_cut_by_name_in_the_handshake(how: Handler, failure: str) -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        site = Site()
        real = await far.serve(OTHER, 443, site, server_context(NAME))
        await far.serve(ADDRESS, 443, Middle(real, NAME, how))
        assert await attempt(far, tls=0.7) is False
        assert far.chain(role="target") == [*RESOLVED, ("connect", None), ("tls_handshake", failure)]
        assert far.chain(role="neutral") == THROUGH
        failed = far.select(role="target")[-1]
        assert failed.tcp is not None
        assert failed.details.tls_version is None
        connect, tls, http = far.select(role="neutral")
        assert connect.details == TcpConnect(ip=ADDRESS, port=443)
        assert (tls.details.server_name, tls.details.no_tls_verify) == (NEUTRAL, True)
        assert http.details.url == f"https://{NEUTRAL}/"
        assert site.asked == [("HEAD", NEUTRAL, "/")]
        assert connect.transaction != failed.transaction

    run(scenario)


def test_cut_by_address_hits_the_neutral_name_too() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        await far.serve(ADDRESS, 443, resets_after_hello)
        assert await attempt(far) is False
        cut = [("connect", None), ("tls_handshake", Failure.CONNECTION_RESET)]
        assert far.chain(role="target") == [*RESOLVED, *cut]
        assert far.chain(role="neutral") == cut

    run(scenario)


def _wrong_name() -> ssl.SSLContext:
    return server_context("other.test")


def _expired() -> ssl.SSLContext:
    return server_context(NAME, expired=True)


def _unknown_authority() -> ssl.SSLContext:
    return server_context(NAME, ca=stranger())


@pytest.mark.parametrize(
    ("tls", "failure", "issuer"),
    [
        (_wrong_name, Failure.SSL_INVALID_HOSTNAME, "trustme"),
        (_expired, Failure.SSL_INVALID_CERTIFICATE, "trustme"),
        (_unknown_authority, Failure.SSL_UNKNOWN_AUTHORITY, "Interceptor"),
    ],
)
def test_a_certificate_that_does_not_fit(tls: Callable[[], ssl.SSLContext], failure: str, issuer: str) -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        site = Site()
        await far.serve(ADDRESS, 443, site, tls())
        assert await attempt(far) is False
        assert far.chain(role="target") == [*RESOLVED, ("connect", None), ("tls_handshake", failure)]
        details = far.select(role="target")[-1].details
        assert len(details.peer_certificate) == 64
        assert issuer in details.issuer
        assert far.chain(role="neutral") == THROUGH
        assert site.asked == [("HEAD", NEUTRAL, "/")], "nothing is sent to who could not prove the platform's name"

    run(scenario)


def test_the_platforms_own_roots() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME, ca=stranger()))
        own = replace(platform(URL), roots=stranger().cert_pem.bytes().decode())
        bench = far.bench(own)
        assert await reach(bench, far.vantage(), task(), bench.trust.of(own)) is True
        assert await reach(bench, far.vantage(), task(), bench.trust.public) is False

    run(scenario)


def test_turned_away_by_the_platform() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        page = Page(403, b"<title>Just a moment...</title>", (("cf-mitigated", "challenge"), ("server", "cloudflare")))
        await far.serve(ADDRESS, 443, Site({"/": page}), server_context(NAME))
        assert await attempt(far) is True
        assert far.chain(role="target") == [*RESOLVED, *THROUGH]
        details = far.select(role="target")[-1].details
        assert (details.code, details.challenge, details.title) == (403, True, "Just a moment...")

    run(scenario)


def test_a_redirect_is_the_fact() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        site = Site({"/": Page(302, b"", (("location", "https://elsewhere.test/"),))})
        await far.serve(ADDRESS, 443, site, server_context(NAME))
        assert await attempt(far) is True
        details = far.select(role="target")[-1].details
        assert (details.code, details.location) == (302, "https://elsewhere.test/")
        assert len(site.asked) == 1

    run(scenario)


def test_plain_http_cut_by_the_host_header() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        site = Site()
        real = await far.serve(OTHER, 80, site)
        await far.serve(ADDRESS, 80, Middle(real, NAME, resets_after_hello))
        assert await attempt(far, f"http://{NAME}/") is False
        failed = ("http_round_trip", Failure.CONNECTION_RESET)
        assert far.chain(role="target") == [*RESOLVED, ("connect", None), failed]
        assert far.chain(role="neutral") == [("connect", None), ("http_round_trip", None)]
        assert far.select(role="target")[-1].details.code is None
        assert site.asked == [("HEAD", NEUTRAL, "/")]

    run(scenario)


def test_a_body_that_freezes() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        site = Site({"/": Page(body=b"x" * 65536, chunk=4096, stops_after=16384)})
        await far.serve(ADDRESS, 443, site, server_context(NAME))
        assert await attempt(far, http=0.7) is False
        assert far.chain(role="target")[-1] == ("http_round_trip", Failure.TIMEOUT)
        details = far.select(role="target")[-1].details
        assert (details.code, details.body_length) == (200, 16384)

    run(scenario)


def test_the_kernel_saw_what_the_application_did_not() -> None:
    """A byte budget within the first TLS record of the answer: nothing to read, but thousands of bytes came."""

    async def scenario(far: FarSide) -> None:
        await honest(far)
        site = Site({"/": Page(body=b"x" * 65536)})
        real = await far.serve(OTHER, 443, site, server_context(NAME, h2=False))
        await far.serve(ADDRESS, 443, Middle(real, NAME, budget=9000))
        assert await attempt(far, http=0.7) is False
        failed = far.select(role="target")[-1]
        assert (failed.operation, failed.failure) == ("http_round_trip", Failure.TIMEOUT)
        assert failed.tcp is not None
        assert failed.tcp.bytes_received == 9000
        assert (failed.details.body_length or 0) < 1000

    run(scenario)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("replies", "failure"),
    [
        ([Reply(rcode="NXDOMAIN")], Failure.DNS_NXDOMAIN),
        ([Reply(rcode="SERVFAIL")], Failure.DNS_SERVFAIL),
        ([Reply(rcode="REFUSED")], Failure.DNS_REFUSED),
        ([], Failure.TIMEOUT),
    ],
    ids=["nxdomain", "servfail", "refused", "silence"],
)
def test_the_vantages_resolver_fails(replies: list[Reply], failure: str) -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: replies})
        await far.resolver(PUBLIC, HONEST)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        assert await attempt(far, dns=0.6) is False
        assert sorted(far.chain(role="target"), key=str) == sorted([("resolve", failure), ("resolve", None)], key=str)
        (ours,) = [one for one in far.select(role="target") if one.failure]
        assert ours.details.resolver == "vantage"
        assert far.chain(role="alternate") == THROUGH
        assert far.chain(role="neutral") == []

    run(scenario)


def test_a_lying_resolver() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((OTHER,))]})
        await far.resolver(PUBLIC, HONEST)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        await far.serve(OTHER, 443, Site(), server_context("block.test", ca=stranger()))
        assert await attempt(far) is False
        failed = ("tls_handshake", Failure.SSL_UNKNOWN_AUTHORITY)
        assert far.chain(role="target") == [*RESOLVED, ("connect", None), failed]
        assert far.chain(role="alternate") == THROUGH
        assert far.select(role="alternate")[0].details.ip == ADDRESS
        assert {one.details.ip for one in far.select(role="neutral", operation="connect")} == {OTHER}

    run(scenario)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1"])
def test_an_address_that_means_this_box_is_never_connected_to(address: str) -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((address,))]})
        await far.resolver(PUBLIC, HONEST)
        site = Site()
        await far.serve(address, 443, site, server_context(NAME))
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        assert await attempt(far) is False
        assert far.chain(role="target") == RESOLVED
        assert far.chain(role="alternate") == THROUGH
        assert site.asked == []

    run(scenario)


def test_a_second_answer_is_kept() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((OTHER,)), Reply((ADDRESS,))]})
        await far.resolver(PUBLIC, HONEST)
        far.refuse(OTHER, 443)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        await attempt(far, late=0.3)
        (ours,) = [
            one.details for one in far.seen if isinstance(one.details, DnsAnswer) and one.details.resolver == "vantage"
        ]
        assert (ours.answers, ours.late) == ((OTHER,), ((ADDRESS,),))

    run(scenario)


def test_a_late_answer_is_tried_where_the_first_does_not_serve() -> None:
    async def scenario(far: FarSide) -> None:
        race = {NAME: [Reply((OTHER,)), Reply(("198.18.6.6",)), Reply(("127.0.0.1", ADDRESS))]}
        await far.resolver(RESOLVER, race)
        far.refuse(OTHER, 443)
        site = Site()
        await far.serve(ADDRESS, 443, site, server_context(NAME))
        assert await attempt(far, late=0.3, public_resolver=RESOLVER) is False
        assert far.chain(role="target") == [("resolve", None), ("connect", Failure.CONNECTION_REFUSED)]
        assert far.chain(role="alternate") == THROUGH
        assert far.select(role="alternate")[0].details.ip == ADDRESS, "the last one's, and not this box"
        assert site.asked == [("GET", NAME, "/")]

    run(scenario)


def test_a_late_answer_is_not_tried_where_something_has_answered() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((ADDRESS,)), Reply((OTHER,))]})
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        assert await attempt(far, late=0.3, public_resolver=RESOLVER) is True
        assert far.select(role="target")[0].details.late == ((OTHER,),)
        assert far.chain(role="alternate") == []

    run(scenario)


def test_a_late_answer_of_the_public_resolver() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((OTHER,))]})
        await far.resolver(PUBLIC, {NAME: [Reply(("198.18.6.6",)), Reply((ADDRESS,))]})
        for nobody in (OTHER, "198.18.6.6"):
            far.refuse(nobody, 443)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        assert await attempt(far, late=0.3) is False
        assert far.chain(role="alternate") == [("connect", Failure.CONNECTION_REFUSED), *THROUGH]

    run(scenario)


def test_shared_addresses_need_no_alternate() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((ADDRESS, "198.18.1.3"))]})
        await far.resolver(PUBLIC, {NAME: [Reply(("198.18.1.3", "198.18.1.4"))]})
        for address in (ADDRESS, "198.18.1.3"):
            await far.serve(address, 443, Site(), server_context(NAME))
        assert await attempt(far) is True
        assert far.chain(role="alternate") == []

    run(scenario)


def test_one_resolver_in_both_roles_is_asked_once() -> None:
    async def scenario(far: FarSide) -> None:
        resolver = await far.resolver(RESOLVER, HONEST)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        assert await attempt(far, public_resolver=RESOLVER) is True
        assert far.chain(role="target") == [("resolve", None), *THROUGH]
        assert resolver.asked == [(NAME, "A")]

    run(scenario)


def test_ipv6_alone_is_asked_for_and_needs_a_route() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply()], f"{NAME} AAAA": [Reply(("fd00::1",))]})
        assert await attempt(far, public_resolver=RESOLVER) is False
        assert far.chain() == [("resolve", Failure.DNS_NO_ANSWER), ("resolve", None)]
        assert far.select()[-1].details.answers == ("fd00::1",)

    run(scenario)


def test_what_an_ended_attempt_has_seen_is_kept() -> None:
    async def scenario(far: FarSide) -> None:
        await far.resolver(RESOLVER, {NAME: [Reply((ADDRESS,)), Reply((OTHER,))]})
        await far.resolver(PUBLIC, HONEST)
        heard = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65536)
            heard.set()
            await reader.read()

        await far.serve(ADDRESS, 443, silent)
        bench = far.bench(limits=replace(PATIENT, late=60))
        under_way = asyncio.create_task(reach(bench, far.vantage(), task(), bench.trust.public))
        await heard.wait()
        for _ in range(50):
            await asyncio.sleep(0.002)
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way
        assert far.chain(role="target") == [*RESOLVED, ("connect", None)]
        (ours,) = [one for one in far.seen if isinstance(one.details, DnsAnswer) and one.details.resolver == "vantage"]
        assert ours.details.late == ((OTHER,),)

    run(scenario)


def test_word_that_only_listening_is_left() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        bench = far.bench(limits=replace(PATIENT, late=0.5))
        at: list[list[tuple[str, str | None]]] = []
        await reach(bench, far.vantage(), task(), bench.trust.public, lambda: at.append(far.chain()))
        (then,) = at
        assert sorted(then) == sorted([*THROUGH, *SHAKEN]), "all but what the resolvers said"
        assert far.chain(role="target") == [*RESOLVED, *THROUGH]
        assert far.chain(role="browser") == SHAKEN
        far.seen.clear()
        far.refuse(ADDRESS, 443)
        at.clear()
        await reach(bench, far.vantage(), task(), bench.trust.public, lambda: at.append(far.chain()))
        assert at == []

    run(scenario)


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _attempts(far: FarSide, count: int = 3) -> Awaitable[list[bool]]:
    bench = far.bench(platform(URL), limits=replace(PATIENT, tls=1.0))

    async def one_by_one() -> list[bool]:
        vantage = far.vantage()
        return [await reach(bench, vantage, task(attempt=number), bench.trust.public) for number in range(1, count + 1)]

    return one_by_one()


def test_where_both_shapes_fare_alike_the_browser_is_tried_once() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        assert await _attempts(far) == [True, True, True]
        assert far.chain(role="browser") == SHAKEN
        connect, tls = far.select(role="browser")
        assert connect.details == TcpConnect(ip=ADDRESS, port=443)
        (ours,) = {one.details.ja4 for one in far.select(role="target", operation="tls_handshake")}
        assert tls.details.ja4 not in (None, ours)
        assert ours is not None
        assert (tls.details.server_name, tls.details.no_tls_verify) == (NAME, True)
        assert tls.tcp is not None

    run(scenario)


def test_a_name_on_a_list_fails_in_both_shapes() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        real = await far.serve(OTHER, 443, Site(), server_context(NAME))
        await far.serve(ADDRESS, 443, Middle(real, NAME, resets_after_hello))
        assert await _attempts(far) == [False, False, False]
        cut = ("tls_handshake", Failure.CONNECTION_RESET)
        assert far.chain(role="browser") == [("connect", None), cut]

    run(scenario)


@dataclass
class _ByShape:
    """Lets one shape of ClientHello through: told by its length, for a browser's has post-quantum keys."""

    to: tuple[str, int]
    longer: bool

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65536)
        if (len(first) > 1400) is not self.longer:
            reset(writer)
            return
        far_reader, far_writer = await asyncio.open_connection(*self.to)
        far_writer.write(first)
        middle = Middle(self.to)
        try:
            await asyncio.gather(
                middle._pass(reader, far_writer, None, None), middle._pass(far_reader, writer, None, None)
            )
        finally:
            far_writer.close()


@pytest.mark.parametrize("longer", [True, False], ids=["browsers", "programs"])
def test_where_one_shape_alone_passes_both_are_tried_each_time(longer: bool) -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        real = await far.serve(OTHER, 443, Site(), server_context(NAME))
        await far.serve(ADDRESS, 443, _ByShape(real, longer))
        assert await _attempts(far) == [not longer] * 3
        cut = [("connect", None), ("tls_handshake", Failure.CONNECTION_RESET)]
        assert far.chain(role="browser") == 3 * (SHAKEN if longer else cut)
        assert [one.attempt for one in far.select(role="browser", operation="connect")] == [1, 2, 3]

    run(scenario)


def test_no_browser_where_there_is_no_connection_and_no_tls() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        far.refuse(ADDRESS, 443)
        await far.serve(ADDRESS, 80, Site())
        await attempt(far)
        await attempt(far, f"http://{NAME}/")
        assert far.chain(role="browser") == []

    run(scenario)


# ── QUIC and STUN ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_over_quic() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        site = Site({"/a": Page(204, b"")})
        await far.quic(ADDRESS, 443, site, NAME)
        assert await attempt(far, f"quic://{NAME}/a") is True
        assert far.chain() == [*RESOLVED, ("quic_handshake", None), ("http_round_trip", None)]
        http = far.select()[-1]
        assert (http.endpoint, http.details.url, http.details.alpn) == (f"quic://{NAME}/a", f"https://{NAME}/a", "h3")
        assert site.asked == [("GET", NAME, "/a")]

    run(scenario)


def test_cut_by_name_over_quic() -> None:
    """The forger here is a server without the name: what is wrong under it is right under any."""

    async def scenario(far: FarSide) -> None:
        await honest(far)
        site = Site()
        await far.quic(ADDRESS, 443, site, "other.test")
        assert await attempt(far, f"quic://{NAME}/") is False
        assert far.chain(role="target") == [*RESOLVED, ("quic_handshake", Failure.SSL_INVALID_HOSTNAME)]
        assert far.chain(role="neutral") == [("quic_handshake", None), ("http_round_trip", None)]
        assert site.asked == [("HEAD", NEUTRAL, "/")]
        assert far.chain(role="browser") == []

    run(scenario)


def test_silence_over_quic_hits_the_neutral_name_too() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        await far.datagrams(ADDRESS, 443, Mute())
        assert await attempt(far, f"quic://{NAME}/", tls=0.7) is False
        for role in ("target", "neutral"):
            assert far.chain(role=role, operation="quic_handshake") == [("quic_handshake", Failure.TIMEOUT)]

    run(scenario)


def test_a_binding_request() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        await far.stun(ADDRESS)
        assert await attempt(far, f"stun://{NAME}") is False, "no HTTP answer"
        assert far.chain() == [*RESOLVED, ("stun_binding", None)]
        far.seen.clear()
        await far.datagrams(ADDRESS, 3478, Mute())
        await attempt(far, f"stun://{NAME}", tcp=0.5)
        assert far.chain() == [*RESOLVED, ("stun_binding", Failure.TIMEOUT)]

    run(scenario)


# ── tcp endpoints and literal addresses ──────────────────────────────────────────────────────────────────────────────


def test_a_literal_address_is_mapped_and_not_resolved() -> None:
    async def scenario(far: FarSide) -> None:
        site = Site({"/": Page(501)})
        await far.serve("198.18.4.1", 443, site)
        assert await attempt(far, "http://192.0.2.50:443/", addresses={"192.0.2.50": "198.18.4.1"}) is True
        assert far.chain() == [("connect", None), ("http_round_trip", None)]
        assert far.seen[0].details == TcpConnect(ip="198.18.4.1", port=443)
        assert site.asked == [("GET", "192.0.2.50:443", "/")]

    run(scenario)


def test_an_open_port_is_all_of_a_tcp_endpoint() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        await far.serve(ADDRESS, 5222, stays_silent)
        assert await attempt(far, f"tcp://{NAME}:5222") is False
        assert far.chain() == [*RESOLVED, ("connect", None)]
        assert far.select()[-1].tcp is not None

    run(scenario)


async def _refused_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.05)
    reset(writer)


async def _ended_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.05)


async def _speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 hello\r\n")
    await reader.read()


@pytest.mark.parametrize(
    ("far_end", "failure", "received"),
    [
        (_refused_late, Failure.CONNECTION_RESET, 0),
        (_ended_late, Failure.EOF, 1),
        (stays_silent, None, 0),
        (_speaks_first, None, 11),
    ],
    ids=["reset", "eof", "silence", "first-byte"],
)
def test_through_a_proxy_a_connect_waits_for_the_refusal(far_end: Handler, failure: str | None, received: int) -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        await far.serve(ADDRESS, 5222, far_end)
        await attempt(far, f"tcp://{NAME}:5222", name="proxy", answers_locally=True, proof=0.5)
        assert far.chain(operation="connect") == [("connect", failure)]
        last = far.select()[-1]
        assert last.tcp is not None
        assert last.tcp.bytes_received == received
        assert far.chain(role="neutral") == []

    run(scenario)


# ── controls ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_control() -> None:
    async def scenario(far: FarSide) -> None:
        await honest(far)
        await far.serve(ADDRESS, 443, Site(), server_context(NAME))
        assert await control(far.bench(), far.vantage(), URL, "after", 2) is True
        assert far.chain(probe="control", role="control", phase="after", attempt=2) == [("resolve", None), *THROUGH]
        assert len(far.seen) == 4

    run(scenario)
