"""Records made by hand, in few words: what a run would have kept, had the network behaved so.

    world = World(attempts=3)
    world.line()                                     # outside: controls, exit, resolver
    world.tunnel("se")                               # a tunnel that is up, with an exit of its own
    world.reach("outside", "bird", fails="tls_handshake:connection_reset", neutral=True)
    world.reach("se", "bird")
    judge(world.record())

Platforms: `bird` has one service, one HTTPS endpoint and no speed URL, unless a test gives its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from vpntest.plan.model import Endpoint, Kind, Platform, Problem, Service
from vpntest.probe.observation import (
    Address,
    Alive,
    Crowd,
    DnsAnswer,
    Echo,
    HttpExchange,
    Observation,
    Phase,
    QuicHandshake,
    Record,
    RunFacts,
    RungStep,
    SmallExchanges,
    StunBinding,
    TcpConnect,
    TcpInfo,
    TlsHandshake,
    Transfer,
    Trickle,
    TunnelFacts,
    VantageFacts,
)
from vpntest.tunnel.ladder import RUNGS

OPERATIONS = ("resolve", "connect", "tls_handshake", "http_round_trip")
CHAINS = {
    "tcp": ("resolve", "connect"),
    "http": ("resolve", "connect", "http_round_trip"),
    "quic": ("resolve", "quic_handshake", "http_round_trip"),
    "stun": ("resolve", "stun_binding"),
}
RESET, TIMEOUT, REFUSED = "connection_reset", "generic_timeout_error", "connection_refused"
TRUE, FORGED, BOGON = "198.18.1.1", "198.18.66.66", "10.10.34.35"
PUBLIC_RESOLVER, ISP_RESOLVER, TUNNEL_RESOLVER = "198.18.0.9", "198.18.0.53", "198.18.0.77"
LINE_EXIT = "198.18.0.2"
CONTROL = "https://control.example/"
KIB = 1024
MIB = 1024 * KIB


def platform(name: str, *urls: str, **fields: Any) -> Platform:
    """One service `web` with these endpoints."""
    endpoints = tuple(Endpoint(url) for url in urls or (f"https://{name}.example/",))
    return Platform(id=name, title=name.title(), service=(Service(id="web", endpoint=endpoints),), **fields)


def name_of(url: str) -> str:
    """A URL's host."""
    return url.partition("://")[2].split("/")[0].split(":")[0]


def seen(received: int, segments: int, unacked: int = 0) -> TcpInfo:
    """The kernel's view of a connection that has been silent for a while."""
    half = segments // 2
    return TcpInfo(
        received, 600, 0, unacked, 1.0, since_last_data_ms=9000, segments_received=segments - half, segments_sent=half
    )


def asked(vantage: str) -> str:
    """Whom a vantage asks for names."""
    return ISP_RESOLVER if vantage == "outside" else TUNNEL_RESOLVER


class World:
    """Observations in the making."""

    def __init__(self, *platforms: Platform, attempts: int = 3) -> None:
        self.platforms = platforms or (platform("bird"),)
        self.attempts = attempts
        self.tunnels: list[TunnelFacts] = []
        self.observations: list[Observation] = []
        self.phases: tuple[Phase, ...] = ()
        self.now: float | None = None
        """When all that follows begins; None where each observation begins a second after the one before."""
        self.lasts = 0.05
        """Seconds that each failure takes from `now` on."""
        self._exits = 10
        self._transactions = 0
        self._leaf: str | None = None

    def record(self) -> Record:
        """All of it."""
        return Record(
            run=RunFacts(
                id="01890000-0000-7000-8000-000000000000",
                started="2026-11-20T03:00:00+00:00",
                version="0.1.0",
                attempts=self.attempts,
                seconds=42.5,
                vantage=VantageFacts(),
                phases=self.phases,
                neutral_name="neutral.example",
            ),
            tunnels=tuple(self.tunnels),
            platforms=self.platforms,
            observations=tuple(self.observations),
        )

    def add(
        self, vantage: str, probe: str, operation: str, details: Any, failure: str | None = None, **more: Any
    ) -> str:
        """One observation; returns its id."""
        number = len(self.observations) + 1
        t0 = more.pop("t0", float(number) if self.now is None else self.now)
        if self.now is not None:
            more.setdefault("t", t0 + (self.lasts if failure else 0.05))
        self.observations.append(
            Observation(
                id=f"o{number}",
                vantage=vantage,
                probe=probe,  # type: ignore[arg-type]
                operation=operation,  # type: ignore[arg-type]
                target=more.pop("target", "x"),
                t0=t0,
                t=more.pop("t", t0 + 0.5),
                failure=failure,
                details=details,
                **more,
            )
        )
        return f"o{number}"

    # ── vantages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def line(self, *, resolver: str | None = ISP_RESOLVER, ipv6: str | None = None) -> None:
        """Outside, alive: controls before and after, its exit and resolver."""
        self.control("outside", "before")
        self.control("outside", "after")
        self.addresses("outside", exit=LINE_EXIT, resolver=resolver, ipv6=ipv6)

    def at(self, now: float, lasts: float = 0.05) -> World:
        """All that follows happens then, and what fails takes so long."""
        self.now, self.lasts = now, lasts
        return self

    def control(
        self, vantage: str, phase: str, failure: str | None = None, *, code: int = 200, url: str = CONTROL
    ) -> None:
        """One control URL: resolved, and then answering or failing at its TCP connect."""
        self._transactions += 1
        more: dict[str, Any] = {
            "phase": phase,
            "role": "control",
            "transaction": self._transactions,
            "endpoint": url,
        }
        self.add(vantage, "control", "resolve", self.dns("control.example", [TRUE], asked=asked(vantage)), **more)
        self.add(vantage, "control", "connect", TcpConnect(TRUE, 443), failure, **more)
        if failure is None:
            tls = TlsHandshake(f"{TRUE}:443", "control.example", no_tls_verify=False)
            self.add(vantage, "control", "tls_handshake", tls, **more)
            http = HttpExchange("GET", url, "h2", code=code)
            self.add(vantage, "control", "http_round_trip", http, **more)

    def addresses(self, vantage: str, *, exit: str | None, resolver: str | None, ipv6: str | None = None) -> None:
        """Who the world sees."""
        self.add(vantage, "exit", "http_round_trip", Address("exit", 4, exit))
        self.add(vantage, "resolver", "resolve", Address("resolver", 4, resolver))
        self.add(vantage, "exit", "http_round_trip", Address("exit", 6, ipv6))

    def tunnel(
        self,
        name: str,
        *,
        until: str = "auth",
        failure: str | None = None,
        proxy: bool = False,
        carry: bool = True,
        exit: str | None = "",
        alive: bool | None = True,
        problem: Problem | None = None,
        **facts: Any,
    ) -> None:
        """A tunnel that climbs `until` a rung and stops there with a `failure`; without one it carries and lives."""
        kind = facts.pop("kind", Kind.SHADOWSOCKS if proxy else Kind.WIREGUARD)
        self.tunnels.append(TunnelFacts(name, kind, f"{name}.conf", problem=problem, answers_locally=proxy, **facts))
        if problem:
            return
        until = "endpoint" if proxy and until == "auth" else until
        for rung in RUNGS[: [*map(str, RUNGS)].index(until) + 1]:
            self.add(name, "rung", "tunnel", RungStep(rung), failure if rung == until else None)
        if failure or not carry:
            return
        self.carry(name)
        self.control(name, "before")
        self.control(name, "after")
        self._exits += 1
        seen = f"198.18.200.{self._exits}" if exit == "" else exit
        self.addresses(name, exit=seen, resolver=seen)
        if alive is not None:
            self.add(name, "alive", "http_round_trip", Alive(carrier_runs=True), None if alive else TIMEOUT)

    def carry(
        self,
        vantage: str,
        *,
        first: bool = True,
        crowd: Sequence[str] = (),
        small: Sequence[tuple[int, str | None]] = ((16 * KIB, None),),
        down: Sequence[tuple[int, str | None]] = ((64 * KIB, None),),
        up: Sequence[tuple[int, str | None]] = ((64 * KIB, None),),
        short: Sequence[tuple[str, int, str | None]] = (),
        bulk: Sequence[tuple[int, str | None]] = (),
        echo: tuple[int, float] | None = None,
    ) -> None:
        """The load tests: `(bytes moved, failure)` of each try; `crowd`: `y` or `n` for each connection of each crowd;
        `short`: with short segments, `(direction, bytes moved, failure)`; `echo`: answers to 20 questions, and ms."""
        found, rcode = ([TRUE], "NOERROR") if first else ([], None)
        answer = self.dns("control.example", found, rcode=rcode, asked=asked(vantage))
        self.add(vantage, "carry", "resolve", answer, None if first else TIMEOUT, role="control")
        for row in crowd:
            members = tuple(letter == "y" for letter in row)
            failure = None if all(members) else "stalled" if first or any(members) else TIMEOUT
            self.add(vantage, "carry", "transfer", Crowd(CONTROL, 16, members), failure, role="control")
        for size, failure in small:
            done = 40 if failure is None else size // 400
            details = SmallExchanges("https://control.example/", done, 40, size)
            self.add(vantage, "carry", "transfer", details, failure, role="control")
        for direction, tries in (("down", down), ("up", up)):
            for size, failure in tries:
                self.transfer(vantage, "carry", size, 0.2, failure, direction=direction, role="control")
        for direction, size, failure in short:
            self.transfer(vantage, "carry", size, 0.2, failure, direction=direction, segment=536, role="control")
        for size, failure in bulk:
            expected = None if failure is None and size < MIB else MIB
            self.transfer(vantage, "carry", size, 0.2, failure, expected=expected, role="control")
        if echo:
            received, rtt = echo
            details = Echo(f"{TUNNEL_RESOLVER}:53", 20, received, (rtt,) * received)
            self.add(vantage, "carry", "resolve", details, None if received else TIMEOUT, role="control")

    # ── platforms ────────────────────────────────────────────────────────────────────────────────────────────────────

    def dns(self, name: str, answers: Sequence[str], **more: Any) -> DnsAnswer:
        """A resolver's answer."""
        resolver = more.pop("resolver", "vantage")
        asked = PUBLIC_RESOLVER if resolver == "public" else more.pop("asked", ISP_RESOLVER)
        return DnsAnswer(name, "A", f"{asked}:53", resolver, more.pop("rcode", "NOERROR"), tuple(answers), **more)

    def reach(
        self,
        vantage: str,
        name: str,
        *,
        times: int | None = None,
        fails: str | None = None,
        code: int = 200,
        neutral: bool | None = None,
        alternate: bool | dict[str, Any] | None = None,
        browser: str | None = None,
        passed: tuple[int, int] | None = None,
        neutral_passed: tuple[int, int] | None = None,
        leaf: str | None = None,
        answers: Sequence[str] = (TRUE,),
        public: Sequence[str] = (TRUE,),
        endpoint: str | None = None,
        service: str = "web",
        **http: Any,
    ) -> None:
        """Tries of an endpoint. `fails`: `operation:failure`. `neutral`, `alternate`: whether got through.

        `alternate` may be what an answer there holds. `denied`: the public resolver says that there is no such name.
        `browser`: `ok`, or the failure of a browser's TLS handshake. `passed`: (bytes, segments) on a connection that
        falls silent, and on that of a neutral name. `leaf`: the certificate that is shown, also under another name.
        """
        url = endpoint or next(one for one in self.platforms if one.id == name).service[0].endpoint[0].url
        where = {"platform": name, "service": service, "endpoint": url}
        before = [
            one.attempt
            for one in self.observations
            if (one.vantage, one.platform, one.service, one.endpoint, one.probe)
            == (vantage, name, service, url, "reach")
        ]
        begin = max(before, default=0) + 1
        self._leaf = leaf
        for attempt in range(begin, begin + (self.attempts if times is None else times)):
            self._chain(
                vantage, url, where | {"attempt": attempt}, "target", fails, code, answers, public, passed, **http
            )
            if neutral is not None:
                stop = None if neutral else fails
                passing = neutral_passed or passed
                self._chain(vantage, url, where | {"attempt": attempt}, "neutral", stop, 404, None, None, passing)
            if alternate is not None:
                stop = None if alternate else "connect:generic_timeout_error"
                more = alternate if isinstance(alternate, dict) else {}
                self._chain(vantage, url, where | {"attempt": attempt}, "alternate", stop, code, None, None, **more)
            if browser is not None:
                self._transactions += 1
                more = where | {"attempt": attempt, "role": "browser", "transaction": self._transactions}
                failure = None if browser == "ok" else browser
                details = TlsHandshake(f"{TRUE}:443", name_of(url), no_tls_verify=True)
                self.add(vantage, "reach", "connect", TcpConnect(TRUE, 443), **more)
                self.add(vantage, "reach", "tls_handshake", details, failure, **more)

    def _chain(
        self,
        vantage: str,
        url: str,
        where: dict[str, Any],
        role: str,
        fails: str | None,
        code: int,
        answers: Sequence[str] | None,
        public: Sequence[str] | None,
        passed: tuple[int, int] | None = None,
        **http: Any,
    ) -> None:
        self._transactions += 1
        at, _, failure = (fails or ":").partition(":")
        name = name_of(url)
        wanted = CHAINS.get(url.partition("://")[0], OPERATIONS)
        ip = (answers or [TRUE])[0]
        for operation in wanted:
            stop = failure if operation == at else None
            more: dict[str, Any] = where | {"role": role, "transaction": self._transactions}
            if passed and (stop or operation == wanted[-1]):
                more["tcp"] = seen(*passed)
            if operation == "resolve":
                if answers is None:
                    continue
                found = () if stop else answers
                rcode = {"dns_nxdomain_error": "NXDOMAIN", TIMEOUT: None}.get(stop or "", "NOERROR")
                late = http.pop("late", ())
                details: Any = self.dns(name, found, rcode=rcode, late=late, asked=asked(vantage))
                self.add(vantage, "reach", operation, details, stop, **more)
                denied = http.pop("denied", False)
                public, rcode = ((), "NXDOMAIN") if denied else (public or (), "NOERROR" if public else None)
                details = self.dns(name, public, resolver="public", rcode=rcode)
                failure_there = "dns_nxdomain_error" if denied else TIMEOUT
                self.add(vantage, "reach", operation, details, None if public else failure_there, **more)
            elif operation == "connect":
                self.add(vantage, "reach", operation, TcpConnect(ip, 443), stop, **more)
            elif operation == "tls_handshake":
                details = TlsHandshake(f"{ip}:443", name, no_tls_verify=role == "neutral", peer_certificate=self._leaf)
                self.add(vantage, "reach", operation, details, stop, **more)
            elif operation == "quic_handshake":
                details = QuicHandshake(f"{ip}:443", name, no_tls_verify=role == "neutral")
                self.add(vantage, "reach", operation, details, stop, **more)
            elif operation == "stun_binding":
                details = StunBinding(f"{ip}:3478", None if stop else f"{LINE_EXIT}:40000")
                self.add(vantage, "reach", operation, details, stop, **more)
            else:
                details = HttpExchange("GET", url, "h2", code=None if stop else code, **http)
                self.add(vantage, "reach", operation, details, stop, **more)
            if stop:
                return

    # ── speed ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def transfer(
        self,
        vantage: str,
        probe: str,
        size: int,
        seconds: float,
        failure: str | None = None,
        *,
        direction: str = "down",
        expected: int | None = 64 * KIB,
        segment: int | None = None,
        **more: Any,
    ) -> None:
        """One transfer, even over its time."""
        t0 = float(len(self.observations) + 1)
        steps = tuple((seconds * i / 8, size * i // 8) for i in range(9))
        kind: Any = direction
        details = Transfer("https://x/", "x", kind, size, expected, steps if size else (), segment=segment)
        self.add(vantage, probe, "transfer", details, failure, t0=t0, t=t0 + seconds + 0.05, **more)

    def speed(
        self,
        vantage: str,
        name: str,
        *,
        target: Sequence[float],
        neutral: Sequence[float] = (),
        control: Sequence[float] = (),
        failure: str | None = None,
        neutral_size: int = 64 * KIB,
        phase: str = "during",
        endpoint: str | None = None,
    ) -> None:
        """Transfers of 64 KiB at these kbit/s, each cut after 3 s; `phase`: `confirm` for the second round."""
        for role, rates in (("target", target), ("neutral", neutral), ("control", control)):
            for attempt, rate in enumerate(rates, 1):
                whole = neutral_size if role == "neutral" else 64 * KIB
                seconds = min(whole * 8 / (rate * 1000), 3.0)
                size = min(whole, int(rate * 1000 / 8 * seconds))
                if size >= whole - 1:
                    size = whole
                self.transfer(
                    vantage,
                    "speed",
                    size,
                    seconds,
                    failure if role == "target" else None,
                    expected=whole,
                    role=role,
                    platform=name if role != "control" else None,
                    attempt=attempt,
                    phase=phase,
                    endpoint=endpoint,
                )

    def twice(self, vantage: str, name: str, **speed: Any) -> None:
        """Both rounds alike."""
        self.speed(vantage, name, **speed)
        self.speed(vantage, name, phase="confirm", **{**speed, "control": ()})

    # ── names, freezes ───────────────────────────────────────────────────────────────────────────────────────────────

    def names(
        self, vantage: str, name: str, *, nobody: Sequence[str] | None, label: Sequence[str] = (), other: bool = False
    ) -> None:
        """What an address without a resolver says of a name, or None for silence; and of a label that nobody lists, if
        `other`; and `label`, what this vantage's resolver says of a label that does not exist."""
        for host, found in ((name, nobody), ("x1.neutral.example", (TRUE,) if other else None)):
            answer = self.dns(host, found or (), resolver="nobody", rcode=None if found is None else "NOERROR")
            self.add(vantage, "names", "resolve", answer, TIMEOUT if found is None else None)
        answer = self.dns("x2.neutral.example", label, rcode="NOERROR" if label else "NXDOMAIN", asked=asked(vantage))
        self.add(vantage, "names", "resolve", answer, None if label else "dns_nxdomain_error")

    def trickle(self, vantage: str, name: str, *, answered: bool, received: int = 5 * KIB, segments: int = 26) -> None:
        """A trickle to a platform's address, and what had passed at its end."""
        info = seen(received, segments, unacked=0 if answered else 9)
        details = Trickle("https://x/", "x", 32, 64 if answered else 8, answered)
        failure = None if answered else TIMEOUT
        self.add(vantage, "freeze", "http_round_trip", details, failure, platform=name, tcp=info)


def without(record: Record, keep: Sequence[bool]) -> Record:
    """The record with only those observations whose flag is set; the rest as if never made."""
    flags = [*keep, *[True] * len(record.observations)]
    kept = tuple(one for one, flag in zip(record.observations, flags, strict=False) if flag)
    return msgspec.structs.replace(record, observations=kept)
