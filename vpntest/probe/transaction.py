"""Steps that are observed: a chain resolve → connect → TLS → HTTP, each step timed, named and written down.

Every probe is made of these chains and differs only in what it asks and of whom. A step never raises for what the
network does: it writes an observation with the failure and gives None, and the chain ends there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field

from vpntest.failures import Failure, failure_of
from vpntest.plan.model import Settings
from vpntest.probe.browser import Browsers
from vpntest.probe.connection import Connection, Trust, at, describe_leaf
from vpntest.probe.hello import ja4
from vpntest.probe.http import Answer, Http
from vpntest.probe.observation import (
    Details,
    DnsAnswer,
    HttpExchange,
    Observation,
    QuicHandshake,
    StunBinding,
    TcpConnect,
    TlsHandshake,
)
from vpntest.probe.pace import Pace
from vpntest.probe.patience import within
from vpntest.tunnel import dns
from vpntest.tunnel.vantage import Vantage

if TYPE_CHECKING:
    from vpntest.probe.quic import Quic


def connectable(address: str) -> bool:
    """Whether an address that a resolver gave may be connected to.

    Private ones may, for a block page can stand there. One that means this box or this link (127.0.0.1 and 0.0.0.0 are
    usual answers of a censor's resolver) would only measure the box itself, or hand its neighbours a request. So would
    one that means all of them, or an IPv4 address that is written as IPv6.
    """
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    everybody = ip == ipaddress.IPv4Address("255.255.255.255")
    return not (everybody or ip.is_loopback or ip.is_unspecified or ip.is_link_local or ip.is_multicast)


class Limits(Struct, frozen=True):
    """How long each step may take, in seconds."""

    dns: float = 4.0
    """As OONI (ooni/probe-cli, dnsresolvers.go)."""
    late: float = 3.0
    """How long a socket stays open for a second DNS answer after the first. OONI's is 0.5; the truth may be far away
    behind a forger who is near, and retries of a resolver on the way take 1 to 2 s."""
    tcp: float = 8.0
    """Four SYNs (at 0, 1, 3 and 7 s) go out in it, and three STUN requests."""
    tls: float = 10.0
    """As OONI; Twitter's throttling of 2022 let a handshake take nearly as long."""
    quic: float = 5.0
    """For QUIC's handshake: four flights go out in it, and a browser has gone over to TCP long before."""
    http: float = 10.0
    """For the whole exchange, body included; as OONI."""
    proof: float = 2.0
    """How long to wait, through a proxy, for word that its far side could not connect."""
    stall: float = 5.0
    """No progress for so long ends a load test; more than five retransmissions fall into it on a usual line."""
    window: float = 2.5
    """How long a speed probe reads: at the 130 kbit/s of known throttling some 40 KiB come in it, and 64 KiB do not;
    and it is longer than the 2 s of silence that tell a freeze."""


class Notebook:
    """Gives observations and transactions their numbers, and hands observations on."""

    def __init__(self, clock: Callable[[], float], emit: Callable[[Observation], None]) -> None:
        self.clock = clock
        """Seconds since the run began."""
        self._emit = emit
        self._observations = 0
        self._transactions = 0

    def transaction(self) -> int:
        """A fresh number."""
        self._transactions += 1
        return self._transactions

    def observation(self) -> int:
        """A fresh number, for what ended now and is written down later."""
        self._observations += 1
        return self._observations

    def note(self, number: int | None = None, **fields: Any) -> Observation:
        """Makes an observation of an :class:`Observation`'s fields and hands it on."""
        observation = Observation(id=f"o{number or self.observation()}", **fields)
        self._emit(observation)
        return observation


class Bench(Struct, frozen=True):
    """What all probes of a run share."""

    notebook: Notebook
    settings: Settings
    trust: Trust
    limits: Limits = Limits()
    connectable: Callable[[str], bool] = connectable
    browsers: Browsers = field(default_factory=Browsers)
    shapes: dict[tuple[str, str], bool] = field(default_factory=dict)
    """For (vantage, endpoint): whether a browser's ClientHello fared otherwise than ours when both were last tried."""
    pace: Pace = field(default_factory=Pace)


class Transaction:
    """One chain of steps from one vantage."""

    def __init__(
        self, bench: Bench, vantage: Vantage, *, limits: Limits | None = None, flowed: bool = False, **labels: Any
    ) -> None:
        """`labels` are an observation's fields that all steps share."""
        self.bench = bench
        self.vantage = vantage
        self.limits = limits or bench.limits
        self.flowed = flowed
        """Data has come this way before, so that silence is a stall."""
        self._labels = {**labels, "vantage": vantage.id, "transaction": bench.notebook.transaction()}
        self.operation = ""
        """The last step."""
        self.failure: str | None = None
        """What the last step failed with."""
        self._questions: list[asyncio.Task[dns.Resolution]] | None = None
        """Under way in :meth:`listening`."""

    def note(
        self,
        operation: str,
        target: str,
        t0: float,
        details: Details,
        failure: str | None,
        connection: Connection | None = None,
    ) -> Observation:
        """Writes a step down; with the kernel's view where the connection's life ends with it."""
        self.operation, self.failure = operation, failure
        return self.bench.notebook.note(
            operation=operation,
            target=target,
            t0=t0,
            t=self.bench.notebook.clock(),
            failure=failure,
            details=details,
            tcp=connection.tcp_info() if connection else None,
            **self._labels,
        )

    def silence(self, failure: str | None, connection: Connection | None = None) -> str | None:
        """A timeout's true name: a stall where data has come this way before, and then none for the stall's length."""
        if failure != Failure.TIMEOUT or not self.flowed:
            return failure
        info = connection.tcp_info() if connection else None
        since = info.since_last_data_ms if info else None
        return failure if since is not None and since < 1000 * self.limits.stall else Failure.STALLED

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """In the body :meth:`resolve` gives the first answer at once, and late ones are waited for beside it; at the
        body's end, as long as that takes. Where the body is ended before, what was answered until then is written down.
        """
        questions: list[asyncio.Task[dns.Resolution]] = []
        self._questions = questions
        try:
            yield
            await asyncio.gather(*questions)
        finally:
            self._questions = None
            for question in questions:
                question.cancel()
            await asyncio.gather(*questions, return_exceptions=True)

    async def overheard(self) -> tuple[dns.Resolution, ...]:
        """All answers to what was asked within :meth:`listening`, in the order of asking; waits for late ones."""
        return tuple(await asyncio.gather(*self._questions or ()))

    async def resolve(
        self,
        name: str,
        query_type: Literal["A", "AAAA"] = "A",
        *,
        of: Literal["vantage", "public", "nobody"] = "vantage",
        resolver_address: str | None = None,
        late: bool = True,
    ) -> dns.Resolution:
        """Asks a resolver, over the vantage's own way. `late`: also wait for a second answer, where it is the answers
        that are measured and not merely an address that is needed. `resolver_address`: another than `of` means; for
        `nobody` there is no other."""
        if resolver_address is None:
            assert of != "nobody"
            resolver_address = self.vantage.resolver if of == "vantage" else self.bench.settings.public_resolver
        first = asyncio.get_running_loop().create_future()
        asking = self._ask(resolver_address, name, query_type, of, late, first)
        if self._questions is None or not late:
            return await asking
        question = asyncio.create_task(asking)
        self._questions.append(question)
        await asyncio.wait({question, first}, return_when=asyncio.FIRST_COMPLETED)
        return question.result() if question.done() else first.result()

    async def _ask(
        self,
        resolver: str,
        name: str,
        query_type: Literal["A", "AAAA"],
        of: Literal["vantage", "public", "nobody"],
        late: bool,
        first: asyncio.Future[dns.Resolution],
    ) -> dns.Resolution:
        """One question, to the end of the wait for late answers; `first` gets the first answer."""
        notebook = self.bench.notebook
        t0 = notebook.clock()
        known: list[dns.Resolution] = []
        ended: list[tuple[int, float]] = []

        def heard(found: dns.Resolution) -> None:
            if not known:
                ended.append((notebook.observation(), notebook.clock()))
                self.operation, self.failure = "resolve", self.silence(found.failure)
                first.set_result(found)
            known.append(found)

        try:
            found = await dns.ask(
                self.vantage.socket,
                resolver,
                name,
                query_type,
                timeout=self.limits.dns,
                linger=self.limits.late if late else 0.0,
                heard=heard,
                # Not every proxy carries UDP, and whoever uses one without has names looked up over TCP.
                or_tcp=self.vantage.answers_locally,
                only_tcp=not self.vantage.carries_udp,
            )
            if not known:
                heard(found)
            return found
        finally:
            # Also where the wait was cut short: an answer that came is a fact.
            if known:
                number, t = ended[0]
                details = DnsAnswer(
                    hostname=name,
                    query_type=query_type,
                    resolver_address=at(resolver, 53),
                    resolver=of,
                    rcode=known[-1].rcode,
                    answers=known[-1].answers,
                    late=known[-1].late,
                    engine=known[-1].engine,
                )
                notebook.note(
                    number,
                    operation="resolve",
                    target=name,
                    t0=t0,
                    t=t,
                    failure=self.silence(known[-1].failure),
                    details=details,
                    **self._labels,
                )

    @asynccontextmanager
    async def connected(
        self, address: str, port: int, *, proof: bool = False, last: bool = False, segment: int | None = None
    ) -> AsyncIterator[Connection | None]:
        """A connection for the body, or None where it could not be made.

        `proof`: through a vantage that answers connects itself, wait a moment for the far side's refusal, which comes
        as an early reset or end of stream. Silence then is as good as it gets: the observation's TCP_INFO shows that no
        byte came. `last`: the chain ends with this step. `segment`: as in :meth:`Connection.over`.
        """
        t0 = self.bench.notebook.clock()
        target = at(address, port)
        failure = connection = None
        try:
            try:
                connection = Connection.over(self.vantage, address, port, segment=segment)
                async with within(self.limits.tcp):
                    await connection.connect()
                if proof and self.vantage.answers_locally:
                    failure = await self._refusal(connection)
            except OSError as exc:
                failure = self.silence(failure_of(exc))
            ended = last or failure is not None
            self.note("connect", target, t0, TcpConnect(ip=address, port=port), failure, connection if ended else None)
            yield connection if failure is None else None
        finally:
            if connection is not None:
                connection.close()

    async def _refusal(self, connection: Connection) -> str | None:
        try:
            async with within(self.limits.proof):
                return None if await connection.read() else Failure.EOF
        except TimeoutError:
            return None

    async def handshake(
        self, connection: Connection, context: ssl.SSLContext, server_name: str, *, last: bool = False
    ) -> bool:
        """The TLS handshake. False where it failed."""
        t0 = self.bench.notebook.clock()
        failure = None
        try:
            async with within(self.limits.tls):
                await connection.start_tls(context, server_name)
        except (OSError, EOFError) as exc:
            failure = self.silence(failure_of(exc), connection)
        tls, leaf = connection.tls, connection.leaf()
        fingerprint, issuer = describe_leaf(leaf) if leaf else (None, None)
        cipher = tls.cipher() if tls else None
        details = TlsHandshake(
            address=str(connection),
            server_name=server_name,
            no_tls_verify=context.verify_mode == ssl.CERT_NONE,
            tls_version=tls.version() if tls and failure is None else None,
            cipher_suite=cipher[0] if cipher else None,
            negotiated_protocol=tls.selected_alpn_protocol() if tls and failure is None else None,
            peer_certificate=fingerprint,
            issuer=issuer,
            ja4=ja4(connection.first_flight),
        )
        ended = last or failure is not None
        self.note("tls_handshake", server_name, t0, details, failure, connection if ended else None)
        return failure is None

    async def browse(self, address: str, port: int, server_name: str) -> bool | None:
        """A connect, and a TLS handshake with a browser's ClientHello: whether it got through; None where there was no
        connection. The certificate is not looked at, for that is no matter of shape."""
        async with self.bench.browsers.slot(), self.connected(address, port) as connection:
            if connection is None:
                return None
            t0 = self.bench.notebook.clock()
            failure = None
            try:
                async with within(self.limits.tls):
                    await self.bench.browsers.handshake(connection, server_name)
            except (OSError, EOFError) as exc:
                failure = self.silence(failure_of(exc), connection)
            details = TlsHandshake(
                address=str(connection), server_name=server_name, no_tls_verify=True, ja4=ja4(connection.first_flight)
            )
            self.note("tls_handshake", server_name, t0, details, failure, connection)
            return failure is None

    @asynccontextmanager
    async def quic(
        self, address: str, port: int, context: ssl.SSLContext, server_name: str
    ) -> AsyncIterator[Quic | None]:
        """A QUIC connection for the body, or None where its handshake failed; `context` tells which roots to trust."""
        from vpntest.probe.quic import Broken, Quic

        t0 = self.bench.notebook.clock()
        verified = context.verify_mode != ssl.CERT_NONE
        failure = connection = leaf = None
        try:
            try:
                connection = Quic(
                    self.vantage,
                    address,
                    port,
                    server_name,
                    verified=verified,
                    added=self.bench.trust.added(context),
                )
                async with within(self.limits.quic):
                    await connection.handshake()
            except Broken as exc:
                failure = exc.failure
            except OSError as exc:
                failure = self.silence(failure_of(exc))
            leaf = connection.leaf() if connection else None
            fingerprint, issuer = describe_leaf(leaf) if leaf else (None, None)
            details = QuicHandshake(
                address=at(address, port),
                server_name=server_name,
                no_tls_verify=not verified,
                negotiated_protocol=connection.protocol if connection else None,
                peer_certificate=fingerprint,
                issuer=issuer,
                datagrams_received=connection.datagrams if connection else 0,
            )
            self.note("quic_handshake", server_name, t0, details, failure)
            yield connection if failure is None else None
        finally:
            if connection is not None:
                connection.close()

    async def binding(self, address: str, port: int) -> bool:
        """One STUN binding request, sent three times where it stays unanswered. False where it does."""
        from vpntest.probe.stun import Stun

        t0 = self.bench.notebook.clock()
        failure = mapped = stun = None
        try:
            stun = Stun(self.vantage, address, port)
            mapped = await stun.bind(self.limits.tcp)
        except OSError as exc:
            failure = self.silence(failure_of(exc))
        finally:
            if stun is not None:
                stun.close()
        target = at(address, port)
        self.note("stun_binding", target, t0, StunBinding(address=target, mapped=mapped), failure)
        return failure is None

    async def exchange(self, connection: Connection | Quic, method: str, url: str) -> Answer:
        """One HTTP exchange, and the last step of its connection."""
        t0 = self.bench.notebook.clock()
        speaker = Http(connection) if isinstance(connection, Connection) else connection
        answer = await speaker.ask(method, url, timeout=self.limits.http)
        self.note_answer(answer, method, url, t0, connection if isinstance(connection, Connection) else None)
        return answer

    def note_answer(self, answer: Answer, method: str, url: str, t0: float, connection: Connection | None) -> None:
        """Writes an HTTP answer down."""
        details = HttpExchange(
            method=method,
            url=url,
            alpn=answer.alpn,
            code=answer.code,
            body_length=answer.length if answer.code is not None else None,
            server=answer.server,
            location=answer.location,
            title=answer.title,
            challenge=answer.challenge,
        )
        self.note("http_round_trip", url, t0, details, answer.failure, connection)
