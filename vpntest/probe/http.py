"""HTTP over a connection that stands already. The one module that knows the HTTP library.

The library's own way of connecting is not used: it resolves, connects and retries by itself, and its exceptions hide
which step failed. It gets our stream, speaks HTTP/1.1 or HTTP/2 on it as ALPN has agreed, and hands the answer back.
Nothing is followed, unpacked or retried: the first answer is the fact.
"""

from __future__ import annotations

import asyncio
import html
import importlib.util
import re
import sys
import unicodedata
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

# The HTTP library's maintained continuation fits as well: `import httpcore2 as httpcore`, `import httpx2 as httpx`.
import httpcore
import httpx

from vpntest.failures import Failure, failure_of
from vpntest.probe.connection import Connection
from vpntest.probe.patience import within

if importlib.util.find_spec("sniffio") is None:
    # The library looks for it anew at every lock it takes, five times a request: a fifth of all that a probe costs.
    sys.modules["sniffio"] = None  # type: ignore[assignment]

BODY_CAP = 64 * 1024
"""Bytes of a body that are read. More than the 15 to 20 KB after which some censors freeze a connection."""
SAMPLES = 64
"""Samples that an answer keeps: as many read events as OONI keeps of a connection (dd-007)."""
SLACK = 256 * 1024
"""Bytes of an exchange that are no body: heads, informational answers, frames. Who sends more sends them for their own
sake."""
_FRAMING = 16
"""Bytes that go with a part of a body at most, however small it is."""
TITLE_LENGTH = 120
_TEXT_LENGTH = 500
HEADERS = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.9",
    # A stranger's body is never inflated, and its length is what came over the line.
    "Accept-Encoding": "identity",
    "User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 "
    "Safari/537.36",
}
"""What OONI sends (ooni/probe-cli, internal/model/http.go), but for the encoding: a bare client gets turned away."""


@dataclass
class Answer:
    """What came back for one request; as much of it as came, where `failure` says that it ended early."""

    alpn: str
    code: int | None = None
    server: str | None = None
    location: str | None = None
    challenge: bool = False
    announced: int | None = None
    """The Content-Length."""
    body: bytearray = field(default_factory=bytearray)
    """What came of it, at most the cap."""
    length: int = 0
    """Body bytes that came."""
    complete: bool = False
    """The body's own end was reached."""
    closes: bool = False
    """The far side has said that this is its last answer on this connection."""
    samples: list[tuple[float, int]] = field(default_factory=list)
    """(loop time, cumulative body bytes), for each read."""
    failure: str | None = None

    @property
    def title(self) -> str | None:
        """The HTML title of the body."""
        return title_of(self.body)

    def begin(self, code: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """Takes the status and what is kept of the headers."""
        headers = httpx.Headers(list(fields))
        self.code = code
        self.server = _line(headers.get("server"))
        self.location = _line(headers.get("location"))
        self.challenge = is_challenge(headers)
        self.closes = "close" in headers.get("connection", "").lower()
        announced = headers.get("content-length", "")
        self.announced = int(announced) if re.fullmatch("[0-9]{1,18}", announced) else None

    def take(self, chunk: bytes, cap: int) -> None:
        """Takes a part of the body that came just now."""
        self.length += len(chunk)
        self.samples.append((asyncio.get_running_loop().time(), self.length))
        self.body += chunk[: max(0, cap - len(self.body))]


class Http:
    """Requests, one after another, on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport = _Transport(connection)
        self.alpn = self._transport.alpn
        """`h2` or `http/1.1`."""

    async def ask(
        self,
        method: str,
        url: str,
        *,
        timeout: float,
        content: bytes | None = None,
        cap: int = BODY_CAP,
        answer: Answer | None = None,
    ) -> Answer:
        """One request. Whatever the network does is in the answer; `timeout` seconds are for the whole exchange.

        The name in `url` goes into the Host header; the connection's address stays what it is. An `answer` that is
        handed in is filled while the exchange runs, for who watches it.
        """
        answer = answer or Answer(self.alpn)
        try:
            async with within(timeout):
                await self._exchange(answer, method, url, content, cap)
        except TimeoutError:
            answer.failure = Failure.TIMEOUT
        except OSError as exc:
            answer.failure = failure_of(self._connection.broken or exc)
        except Exception:
            # The library's own errors for a far side that resets, hangs up or does not speak HTTP, and whatever else it
            # trips over in a stranger's bytes (a status that is no number is a ValueError).
            if self._connection.broken:
                answer.failure = failure_of(self._connection.broken)
            else:
                answer.failure = Failure.EOF if self._connection.ended else Failure.HTTP_REQUEST_FAILED
        return answer

    async def _exchange(self, answer: Answer, method: str, url: str, content: bytes | None, cap: int) -> None:
        request = httpx.Request(method, url, headers=HEADERS, content=content)
        self._transport.stream.left = SLACK
        response = await self._transport.handle_async_request(request)
        try:
            if not 100 <= response.status_code <= 999:
                raise httpcore.RemoteProtocolError("no status of HTTP (RFC 9110, 15)")
            answer.begin(response.status_code, response.headers.raw)
            async for chunk in response.aiter_raw():
                answer.take(chunk, cap)
                self._transport.stream.left += len(chunk) + _FRAMING
                if answer.length >= cap:
                    break
            else:
                answer.complete = True
        finally:
            await response.aclose()


class _Transport(httpx.AsyncBaseTransport):
    """The library's HTTP/1.1 or HTTP/2 on our stream."""

    def __init__(self, connection: Connection) -> None:
        self.stream = _Stream(connection)
        self.alpn = (connection.tls and connection.tls.selected_alpn_protocol()) or "http/1.1"
        self._speaker: httpcore.AsyncHTTP11Connection | httpcore.AsyncHTTP2Connection | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path
        )
        if self._speaker is None:
            speaks = _Http2 if self.alpn == "h2" else httpcore.AsyncHTTP11Connection
            self._speaker = speaks(origin=url.origin, stream=self.stream)
        response = await self._speaker.handle_async_request(
            httpcore.Request(method=request.method, url=url, headers=request.headers.raw, content=request.stream)
        )
        return httpx.Response(
            status_code=response.status, headers=response.headers, stream=_Body(response), request=request
        )


class _Http2(httpcore.AsyncHTTP2Connection):
    """The library's, for one stream at a time.

    It takes a semaphore's places one by one, up to the streams that it will not use: a hundred turns of the loop before
    the first byte. And each lock that it takes costs a turn though nobody else wants it, some twenty in an exchange: on
    a busy box that was 4 s where HTTP/1.1 took 0.2 s, time that a probe would charge to the network.
    """

    def __init__(self, origin: httpcore.Origin, stream: httpcore.AsyncNetworkStream) -> None:
        super().__init__(origin, stream)
        for lock in ("_init_lock", "_state_lock", "_read_lock", "_write_lock"):
            setattr(self, lock, _Unlocked())

    async def _send_connection_init(self, request: httpcore.Request) -> None:
        await super()._send_connection_init(request)
        self._h2_state.local_settings.max_concurrent_streams = 1
        self._h2_state.local_settings.acknowledge()


class _Unlocked:
    """A lock where there is one task."""

    async def __aenter__(self) -> None:
        """At once."""

    async def __aexit__(self, *_: object) -> None:
        """At once."""


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()


class _Stream(httpcore.AsyncNetworkStream):
    """Our connection as the library wants it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.left = 0
        """Bytes that may still come, beside the body."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.left < 0:
            raise httpcore.RemoteProtocolError("more than an answer takes")
        data = await self._connection.read(max_bytes)
        self.left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._connection.write(buffer)
        except OSError as exc:
            # The library goes on to read then: a server may answer and hang up before it has read everything.
            raise httpcore.WriteError(str(exc)) from exc

    async def aclose(self) -> None:
        """Nothing: the library closes at the first fault, but the kernel's view of the connection is read after it."""


def is_challenge(headers: httpx.Headers) -> bool:
    """Whether an answer's headers say that it is a test for humans, in place of what was asked for.

    Cloudflare (developers.cloudflare.com, "Detect a challenge page response"), AWS WAF (CAPTCHA and challenge actions),
    and Google's redirect to its `sorry` page.
    """
    return (
        headers.get("cf-mitigated", "").lower() == "challenge"
        or headers.get("x-amzn-waf-action", "").lower() in {"challenge", "captcha"}
        or "google.com/sorry/" in headers.get("location", "")
    )


_TITLE = re.compile(rb"<title[^>]{0,200}>(.{0,2000}?)</title", re.IGNORECASE | re.DOTALL)


def title_of(body: bytes | bytearray) -> str | None:
    """The HTML title: one line, at most :data:`TITLE_LENGTH` characters, safe to print; None where there is none."""
    found = _TITLE.search(body)
    if found is None:
        return None
    return _line(html.unescape(found[1].decode("utf-8", "replace")), TITLE_LENGTH)


def _line(text: str | None, length: int = _TEXT_LENGTH) -> str | None:
    """A stranger's text as one short line, without what moves a terminal's cursor or turns its text around."""
    if text is None:
        return None
    words = "".join(
        " " if char.isspace() else char for char in text if char.isspace() or unicodedata.category(char)[0] != "C"
    )
    return " ".join(words.split())[:length].rstrip() or None


def thinned(samples: list[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    """At most :data:`SAMPLES` of them, evenly picked, the first and the last always; times from the first on."""
    if not samples:
        return ()
    last = len(samples) - 1
    count = min(len(samples), SAMPLES)
    picked = sorted({round(index * last / max(count - 1, 1)) for index in range(count)})
    start = samples[0][0]
    return tuple((round(samples[index][0] - start, 4), samples[index][1]) for index in picked)
