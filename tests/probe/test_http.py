from __future__ import annotations

import asyncio
import ssl
import unicodedata
from functools import cache

import httpx
import pytest
from far_side import FarSide, Handler, Page, Site, ends_after_hello, reset, run, says, server_context, stays_silent
from httpcore._synchronization import AsyncLock
from hypothesis import given
from hypothesis import strategies as st

from vpntest.failures import Failure
from vpntest.probe.connection import Connection
from vpntest.probe.http import BODY_CAP, SAMPLES, Answer, Http, is_challenge, thinned, title_of

ADDRESS = "198.18.1.1"
NAME = "www.example.test"


async def connect(far: FarSide, scheme: str = "http") -> Connection:
    port = 443 if scheme == "https" else 80
    connection = Connection.over(far.vantage(), ADDRESS, port)
    await connection.connect()
    if scheme == "https":
        await connection.start_tls(far.bench().trust.public, NAME)
    return connection


async def ask(far: FarSide, method: str = "GET", scheme: str = "http", **options: object) -> Answer:
    connection = await connect(far, scheme)
    try:
        return await Http(connection).ask(method, f"{scheme}://{NAME}/", **{"timeout": 20.0, **options})  # type: ignore[arg-type]
    finally:
        connection.close()


@pytest.mark.parametrize("alpn", ["h2", "http/1.1", "plain"])
def test_an_answer(alpn: str) -> None:
    async def scenario(far: FarSide) -> None:
        site = Site({"/": Page(body=b"<TITLE>one</TITLE>" + b"x" * 30000, headers=(("server", "test"),))})
        tls = server_context(NAME, h2=alpn == "h2")
        await far.serve(ADDRESS, 80 if alpn == "plain" else 443, site, None if alpn == "plain" else tls)
        answer = await ask(far, scheme="http" if alpn == "plain" else "https")
        assert answer.failure is None
        assert answer.alpn == ("h2" if alpn == "h2" else "http/1.1")
        assert (answer.code, answer.server, answer.title) == (200, "test", "one")
        assert (answer.length, answer.announced, answer.complete) == (30018, 30018, True)
        assert bytes(answer.body) == site.pages["/"].body
        assert answer.samples[-1][1] == 30018
        (headers,) = site.headers
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("Mozilla/5.0")

    run(scenario)


def test_http2_waits_for_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a turn of the loop; with a hundred probes side by side an exchange of twenty took seconds."""
    taken = []
    enter = AsyncLock.__aenter__

    async def counted(lock: AsyncLock) -> AsyncLock:
        taken.append(lock)
        return await enter(lock)

    monkeypatch.setattr(AsyncLock, "__aenter__", counted)

    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, Site(), server_context(NAME, h2=True))
        answer = await ask(far, scheme="https")
        assert (answer.alpn, answer.code) == ("h2", 200)
        assert taken == []

    run(scenario)


@pytest.mark.parametrize("closes", [True, False])
def test_a_last_answer_says_so(closes: bool) -> None:
    async def scenario(far: FarSide) -> None:
        headers = (("Connection", "Close"),) if closes else ()
        await far.serve(ADDRESS, 80, Site({"/": Page(headers=headers)}))
        assert (await ask(far)).closes is closes

    run(scenario)


@pytest.mark.parametrize("h2", [True, False])
def test_a_body_is_read_to_the_cap(h2: bool) -> None:
    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, Site({"/": Page(body=b"x" * 3 * BODY_CAP)}), server_context(NAME, h2=h2))
        answer = await ask(far, scheme="https")
        assert answer.failure is None
        assert not answer.complete
        assert BODY_CAP <= answer.length < 2 * BODY_CAP
        assert len(answer.body) == BODY_CAP

    run(scenario)


@pytest.mark.parametrize("h2", [True, False])
def test_a_body_goes_up(h2: bool) -> None:
    async def scenario(far: FarSide) -> None:
        site = Site()
        await far.serve(ADDRESS, 443, site, server_context(NAME, h2=h2))
        connection = await connect(far, "https")
        answer = await Http(connection).ask("POST", f"https://{NAME}/", timeout=20, content=b"y" * 40000)
        connection.close()
        assert (answer.code, answer.failure) == (200, None)
        assert site.asked == [("POST", NAME, "/")]

    run(scenario)


def test_many_on_one_connection() -> None:
    async def scenario(far: FarSide) -> None:
        site = Site()
        await far.serve(ADDRESS, 80, site)
        connection = await connect(far)
        http = Http(connection)
        answers = [await http.ask("HEAD", f"http://{NAME}/", timeout=20) for _ in range(5)]
        connection.close()
        assert [(answer.code, answer.length, answer.failure) for answer in answers] == [(200, 0, None)] * 5
        assert len(site.asked) == 5

    run(scenario)


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)
    reset(writer)


async def resets_within_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nhalf")
    await writer.drain()
    await asyncio.sleep(0.1)
    reset(writer)


async def answers_and_resets_before_all_is_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    # Closed with data unread, the kernel sends RST behind the answer.


@pytest.mark.parametrize(
    ("handler", "failure", "code"),
    [
        (resets, Failure.CONNECTION_RESET, None),
        (resets_within_the_body, Failure.CONNECTION_RESET, 200),
        (ends_after_hello, Failure.EOF, None),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nhalf"), Failure.EOF, 200),
        (says(b"HTTP/1.1 200 OK\r\n\r\nuntil the end"), None, 200),
        pytest.param(stays_silent, Failure.TIMEOUT, None, marks=pytest.mark.root),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), Failure.HTTP_REQUEST_FAILED, None),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), Failure.HTTP_REQUEST_FAILED, 200),
    ],
)
def test_what_goes_wrong(handler: Handler, failure: str | None, code: int | None) -> None:
    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 80, handler)
        answer = await ask(far, timeout=0.5 if failure == Failure.TIMEOUT else 20.0)
        assert (answer.failure, answer.code) == (failure, code)

    run(scenario)


def test_an_early_answer_to_a_long_body_is_read() -> None:
    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 80, answers_and_resets_before_all_is_read)
        answer = await ask(far, "POST", content=b"y" * 20_000_000)
        assert (answer.failure, answer.code) == (None, 413)

    run(scenario)


@cache
def _tls(h2: bool) -> ssl.SSLContext:
    return server_context(NAME, h2=h2)


@given(st.lists(st.binary(max_size=200), max_size=3), st.booleans())
def test_no_bytes_from_a_stranger_raise(parts: list[bytes], h2: bool) -> None:
    preface = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" if h2 else b"HTTP/1.1 200 OK\r\n"

    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, says(preface + b"".join(parts)), _tls(h2))
        answer = await ask(far, scheme="https")
        assert answer.alpn == ("h2" if h2 else "http/1.1")
        assert answer.failure is not None or answer.code is not None

    run(scenario)


# ── what is kept of an answer ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ({"cf-mitigated": "challenge"}, True),
        ({"cf-mitigated": "none"}, False),
        ({"x-amzn-waf-action": "captcha"}, True),
        ({"location": "https://www.google.com/sorry/index?continue=x"}, True),
        ({"server": "cloudflare"}, False),
    ],
)
def test_challenge(headers: dict[str, str], challenge: bool) -> None:
    assert is_challenge(httpx.Headers(headers)) is challenge


@pytest.mark.parametrize(
    ("body", "title"),
    [
        (b"<title>Blocked</title>", "Blocked"),
        (b"<head><TITLE lang=ru>\n \xd0\x94\xd0\xbe\xd1\x81\xd1\x82\xd1\x83\xd0\xbf </TITLE>", "Доступ"),
        (b"<title>a &lt;b&gt; &amp; c</title>", "a <b> & c"),
        (b"<title>" + b"x" * 500 + b"</title>", "x" * 120),
        (b"<title>\x1b[31mred\x07 \xe2\x80\xaeback&#27;</title>", "[31mred back"),
        (b"<title>\xff\xfe</title>", "\ufffd\ufffd"),
        (b"<title></title>", None),
        (b"<title>never closed", None),
        (b"no html", None),
        (b"", None),
    ],
)
def test_title(body: bytes, title: str | None) -> None:
    assert title_of(body) == title


@given(st.binary(max_size=400))
def test_a_title_is_one_printable_line(body: bytes) -> None:
    title = title_of(b"<title>" + body + b"</title>")
    assert title is None or 0 < len(title) <= 120
    assert not any(unicodedata.category(char).startswith("C") or char in "\r\n\u2028\u2029" for char in title or "")


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(1, 9000)), max_size=300))
def test_thinned(steps: list[tuple[float, int]]) -> None:
    samples, t, total = [], 100.0, 0
    for dt, count in steps:
        t, total = t + dt, total + count
        samples.append((t, total))
    thin = thinned(samples)
    assert len(thin) == min(len(samples), SAMPLES)
    assert list(thin) == sorted(thin)
    if samples:
        assert thin[0] == (0.0, samples[0][1])
        assert thin[-1][1] == total


def _frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def floods(data: bytes, head: bytes = b"", *, h2: bool = False) -> Handler:
    """Says the same again and again, until we hang up."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write((_frame(4) if h2 else b"") + head)
        while not writer.is_closing():
            writer.write(data * 1000)
            await writer.drain()

    return handler


_OK = _frame(1, b"\x88", flags=4, stream=1)
"""HEADERS: `:status: 200`, the whole of it."""


@pytest.mark.parametrize(
    ("handler", "h2"),
    [
        (floods(b"HTTP/1.1 100 Continue\r\n\r\n"), False),
        (floods(_frame(6, b"pingpong"), h2=True), True),
        (floods(_frame(6, b"pingpong"), _OK, h2=True), True),
        (floods(_frame(4), h2=True), True),
        (floods(_frame(0xBE, b"unknown"), h2=True), True),
        (floods(_frame(0, stream=1), _OK, h2=True), True),
        (floods(_frame(1, b"\x08\x03103", flags=4, stream=1), h2=True), True),
    ],
    ids=["continue", "ping", "ping-after-head", "settings", "unknown", "empty-data", "early-hints"],
)
def test_what_never_ends_is_no_answer(handler: Handler, h2: bool) -> None:
    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, handler, server_context(NAME, h2=h2))
        answer = await ask(far, scheme="https", timeout=60.0)
        assert answer.alpn == ("h2" if h2 else "http/1.1")
        assert answer.failure == Failure.HTTP_REQUEST_FAILED

    run(scenario)


@pytest.mark.parametrize("status", [b"abc", b"", b"9" * 100, b"-1", b"99999", b"0"])
def test_a_status_that_is_none(status: bytes) -> None:
    head = _frame(1, b"\x08" + bytes((len(status),)) + status, flags=5, stream=1)

    async def scenario(far: FarSide) -> None:
        await far.serve(ADDRESS, 443, says(_frame(4) + head), server_context(NAME, h2=True))
        answer = await ask(far, scheme="https")
        assert (answer.code, answer.failure) == (None, Failure.HTTP_REQUEST_FAILED)

    run(scenario)


def test_a_length_that_is_none() -> None:
    answer = Answer("h3")
    answer.begin(200, [(b"content-length", b"9" * 5000)])
    assert answer.announced is None
