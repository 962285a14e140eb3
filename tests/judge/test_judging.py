"""Whole records: what the judge says of networks that behave like known ones.

Scenarios are data: a name, the observations, the expected verdicts. Many follow OONI's QA suite (webconnectivityqa).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from records import BOGON, FORGED, KIB, LINE_EXIT, REFUSED, RESET, TIMEOUT, TRUE, World, platform, without
from records import seen as info

from vpntest.failures import Failure
from vpntest.judge.controls import Controls
from vpntest.judge.judging import LINE, TABLES, LineSeen, judge, reason_of
from vpntest.judge.reading import read
from vpntest.judge.rule import first
from vpntest.judge.verdict import Cell, Judgement, Outcome, PlatformVerdict, State
from vpntest.plan.model import Endpoint, Platform, Service
from vpntest.probe.observation import (
    Address,
    Alive,
    Crowd,
    DnsAnswer,
    Echo,
    HttpExchange,
    Observation,
    QuicHandshake,
    Record,
    RungStep,
    SmallExchanges,
    StunBinding,
    TcpConnect,
    TcpInfo,
    TlsHandshake,
    Transfer,
    Trickle,
)

# ── the tables ───────────────────────────────────────────────────────────────────────────────────────────────────────

RULES = [rule for table in TABLES for rule in table]


def test_ids_are_unique_over_all_tables() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_every_rule_says_why_and_who_says_so() -> None:
    assert {rule.id for rule in RULES if reason_of(rule.id) != rule.reason or not rule.reason} == set()
    assert {rule.id for rule in RULES if not rule.source} == set()
    assert {rule.id for rule in RULES if rule.reason.endswith(".")} == set()


def test_an_unknown_rule_has_no_reason() -> None:
    assert reason_of("no.such.rule") == ""


def test_the_line() -> None:
    assert first(LINE, LineSeen(line(before=TIMEOUT), carried=False)).id == "line.dead"
    assert first(LINE, LineSeen(line(before=TIMEOUT), carried=True)).id == "line.alive"
    assert first(LINE, LineSeen(line(before=TIMEOUT, during=None), carried=False)).id == "line.alive"
    assert first(LINE, LineSeen(line(before=None, after=TIMEOUT), carried=False)).id == "line.alive"


EXPIRED, STRANGER = "ssl_invalid_certificate", "ssl_unknown_authority"


@pytest.mark.parametrize(
    ("controls", "carried", "verified", "rule"),
    [
        ([EXPIRED, EXPIRED], False, False, "line.clock"),
        # A tunnel that knows no dates carries all the same.
        ([EXPIRED, EXPIRED], True, False, "line.clock"),
        ([EXPIRED, EXPIRED], True, True, "line.alive"),
        ([EXPIRED, EXPIRED, TIMEOUT], False, False, "line.dead"),
        ([EXPIRED], False, False, "line.dead"),
        ([STRANGER, STRANGER], False, False, "line.portal"),
        ([STRANGER, "ssl_invalid_hostname", "redirected"], False, False, "line.portal"),
        # Somebody who opens all TLS and lets tunnels pass is a censor, and no portal.
        ([STRANGER, STRANGER], True, False, "line.alive"),
        ([STRANGER, TIMEOUT], False, False, "line.dead"),
        ([STRANGER, None], False, True, "line.alive"),
    ],
)
def test_why_a_line_is_dead(controls: list[str | None], carried: bool, verified: bool, rule: str) -> None:
    world = World()
    for number, failure in enumerate(controls):
        if failure == "redirected":
            url = "http://control.example/"
            world.control("outside", "before", code=302, url=url)
            world.observations = [
                one for one in world.observations if (one.endpoint, one.operation) != (url, "tls_handshake")
            ]
        else:
            world.control("outside", "before", failure, url=f"https://control{number}.example/")
    seen = LineSeen(read(world.record()).controls["outside"], carried, verified)
    assert first(LINE, seen).id == rule


def test_a_wrong_clock_is_told_and_nothing_is_judged() -> None:
    world = World()
    for number in range(3):
        world.control("outside", "before", EXPIRED, url=f"https://control{number}.example/")
    world.tunnel("a", carry=False)
    judgement = judge(world.record())
    assert (judgement.line_rule, len(judgement.local_outage or ()), judgement.cells) == ("line.clock", 3, ())
    assert "clock" in reason_of("line.clock")


def line(**phases: str | None) -> Controls:
    """Controls of the line, one in each phase, with these failures."""
    world = World()
    for phase, failure in phases.items():
        world.control("outside", phase, failure)
    return read(world.record()).controls["outside"]


# ── scenarios ────────────────────────────────────────────────────────────────────────────────────────────────────────


def two_exits(world: World) -> World:
    """The line and two tunnels with exits of their own, all alive."""
    world.line()
    world.tunnel("a")
    world.tunnel("b")
    return world


def everywhere(world: World, **reach: Any) -> None:
    for vantage in ("outside", "a", "b"):
        world.reach(vantage, "bird", **reach)


def censored(**reach: Any) -> Callable[[], World]:
    """Failing outside, fine through both tunnels."""

    def build() -> World:
        world = two_exits(World())
        world.reach("outside", "bird", **reach)
        world.reach("a", "bird")
        world.reach("b", "bird")
        return world

    return build


def same_everywhere(**reach: Any) -> Callable[[], World]:
    def build() -> World:
        world = two_exits(World())
        everywhere(world, **reach)
        return world

    return build


def plain(*status: int, url: str = "http://bird.example/") -> Platform:
    return Platform("bird", "Bird", (Service("web", (Endpoint(url, status=status),)),))


def cleartext_block_page() -> World:
    world = two_exits(World(plain(501)))
    world.reach("outside", "bird", code=200, title="Access denied by order")
    world.reach("a", "bird", code=501)
    world.reach("b", "bird", code=501)
    return world


def refused_at_exits() -> World:
    world = two_exits(World())
    world.reach("outside", "bird")
    world.reach("a", "bird", code=403)
    world.reach("b", "bird", code=403, challenge=True)
    return world


def refused_inside_blocked_outside() -> World:
    world = two_exits(World())
    world.reach("outside", "bird", fails=f"connect:{TIMEOUT}")
    world.reach("a", "bird", code=403)
    world.reach("b", "bird")
    return world


def geoblocked_outside() -> World:
    world = two_exits(World())
    world.reach("outside", "bird", code=451)
    world.reach("a", "bird")
    world.reach("b", "bird")
    return world


def breaks() -> World:
    world = two_exits(World())
    world.reach("outside", "bird")
    world.reach("a", "bird", fails=f"tls_handshake:{RESET}")
    world.reach("b", "bird")
    return world


def one_miss() -> World:
    """What flips is tried ten times."""
    world = two_exits(World())
    world.reach("outside", "bird", times=9, fails=f"tls_handshake:{RESET}", neutral=True)
    world.reach("outside", "bird", times=1)
    world.reach("a", "bird", times=1, fails=f"connect:{TIMEOUT}")
    world.reach("a", "bird", times=9)
    world.reach("b", "bird")
    return world


def flips(of: int) -> Callable[[], World]:
    """One of so many tries fails through `a`, where the platform is blocked outside and fine through `b`."""

    def build() -> World:
        world = censored(fails=f"tls_handshake:{RESET}", neutral=True)()
        world.observations = [one for one in world.observations if (one.vantage, one.probe) != ("a", "reach")]
        world.reach("a", "bird", times=1, fails=f"connect:{TIMEOUT}")
        world.reach("a", "bird", times=of - 1)
        return world

    return build


def flaky() -> World:
    world = two_exits(World(attempts=4))
    world.reach("outside", "bird", times=2, fails=f"tls_handshake:{RESET}", neutral=True)
    world.reach("outside", "bird", times=2)
    world.reach("a", "bird")
    world.reach("b", "bird", times=2)
    world.reach("b", "bird", times=2, fails=f"connect:{TIMEOUT}")
    return world


def single_tunnel_all_fails() -> World:
    world = World()
    world.line()
    world.tunnel("a")
    world.reach("outside", "bird", fails=f"connect:{REFUSED}")
    world.reach("a", "bird", fails=f"connect:{REFUSED}")
    return world


def one_exit_for_two_tunnels() -> World:
    world = World()
    world.line()
    world.tunnel("a", exit="198.18.200.7")
    world.tunnel("b", exit="198.18.200.7")
    everywhere(world, fails=f"connect:{REFUSED}")
    return world


def exits_unknown() -> World:
    world = World()
    world.line()
    world.tunnel("a", exit=None)
    world.tunnel("b", exit=None)
    everywhere(world, fails=f"connect:{REFUSED}")
    return world


def down_but_answers_once() -> World:
    world = two_exits(World())
    world.reach("outside", "bird", fails=f"connect:{REFUSED}")
    world.reach("a", "bird", fails=f"connect:{REFUSED}")
    world.reach("b", "bird", times=2, fails=f"connect:{REFUSED}")
    world.reach("b", "bird", times=1)
    return world


def named_and_dead_elsewhere() -> World:
    """The name is cut outside, and the exits cannot reach the platform either: a block, not an outage."""
    world = two_exits(World())
    world.reach("outside", "bird", fails=f"tls_handshake:{RESET}", neutral=True)
    world.reach("a", "bird", fails=f"connect:{REFUSED}")
    world.reach("b", "bird", fails=f"connect:{REFUSED}")
    return world


def line_dies_midway() -> World:
    world = World()
    world.control("outside", "before")
    world.addresses("outside", exit=LINE_EXIT, resolver=None)
    world.tunnel("a")
    world.reach("outside", "bird", fails=f"connect:{TIMEOUT}")
    world.reach("a", "bird")
    world.control("outside", "after", TIMEOUT)
    return world


def no_controls() -> World:
    world = World()
    world.tunnel("a")
    world.reach("outside", "bird", fails=f"connect:{TIMEOUT}")
    world.reach("a", "bird")
    return world


SPEEDY = platform("bird", speed="https://bird.example/64k")
FAST, CRAWL = (30_000.0, 31_000.0, 32_000.0, 30_500.0, 31_500.0), (140.0, 135.0, 150.0, 138.0, 145.0)


def throttled(**inside: Any) -> Callable[[], World]:
    def build() -> World:
        world = two_exits(World(SPEEDY))
        everywhere(world)
        world.twice("outside", "bird", target=CRAWL, neutral=FAST, control=FAST)
        world.twice("a", "bird", **({"target": FAST, "neutral": FAST} | inside))
        return world

    return build


def slow_line() -> World:
    world = two_exits(World(SPEEDY))
    everywhere(world)
    for vantage in ("outside", "a", "b"):
        world.twice(vantage, "bird", target=CRAWL, neutral=CRAWL, control=CRAWL)
    return world


def blocked_with_unknown_speed() -> World:
    world = two_exits(World(SPEEDY))
    world.reach("outside", "bird", fails=f"tls_handshake:{RESET}", neutral=True)
    world.reach("a", "bird")
    world.reach("b", "bird")
    world.speed("b", "bird", target=FAST, neutral=FAST)
    return world


TWO = Platform(
    "bird",
    "Bird",
    (
        Service("web", (Endpoint("https://bird.example/"),)),
        Service("chat", (Endpoint("https://chat.example/"),)),
        Service("extra", (Endpoint("https://extra.example/"),), required=False),
    ),
)


def two_services(web: dict[str, Any], chat: dict[str, Any]) -> Callable[[], World]:
    """Blocked outside in both services; through `a` as given."""

    def build() -> World:
        world = two_exits(World(TWO))
        for service in ("web", "chat"):
            endpoint = {"web": "https://bird.example/", "chat": "https://chat.example/"}[service]
            where = {"service": service, "endpoint": endpoint}
            world.reach("outside", "bird", fails=f"tls_handshake:{RESET}", neutral=True, **where)
            world.reach("a", "bird", **where, **{"web": web, "chat": chat}[service])
            world.reach("b", "bird", **where)
        world.reach("a", "bird", service="extra", endpoint="https://extra.example/", fails=f"connect:{REFUSED}")
        return world

    return build


DCS = tuple(f"tcp://198.18.5.{n}:443" for n in (1, 2))
CHAT = Platform(
    "bird",
    "Bird",
    (
        Service("chat", tuple(Endpoint(url) for url in DCS), rule="any_of"),
        Service("web", (Endpoint("https://bird.example/"),)),
    ),
)


def chat(outside: str | None, *, first_dc_only: bool = False) -> Callable[[], World]:
    """A platform whose chat servers show nothing but an open port, through a proxy `a` and a WireGuard tunnel `b`."""

    def build() -> World:
        world = World(CHAT)
        world.line()
        world.tunnel("a", proxy=True)
        world.tunnel("b")
        for vantage in ("outside", "a", "b"):
            world.reach(vantage, "bird", endpoint="https://bird.example/")
            for number, url in enumerate(DCS):
                fails = outside if vantage == "outside" and not (first_dc_only and number) else None
                world.reach(vantage, "bird", service="chat", endpoint=url, fails=fails)
        return world

    return build


def proxies_at_a_dead_platform() -> World:
    world = World()
    world.line()
    world.tunnel("a", proxy=True)
    world.tunnel("b", proxy=True)
    world.reach("outside", "bird", fails=f"connect:{REFUSED}")
    world.reach("a", "bird", fails="tls_handshake:eof_error", neutral=False)
    world.reach("b", "bird", fails="tls_handshake:eof_error", neutral=False)
    return world


def stalled_tunnel() -> World:
    world = World()
    world.line()
    world.tunnel("a", carry=False)
    world.carry("a", small=[(3 * KIB, "stalled"), (3 * KIB, "stalled")], down=(), up=())
    world.tunnel("b")
    world.reach("outside", "bird", fails=f"tls_handshake:{RESET}", neutral=True)
    world.reach("b", "bird")
    return world


def stalled_tunnel_that_reached_something() -> World:
    """What came through a tunnel before it stalled is no cell of the matrix."""
    world = stalled_tunnel()
    world.reach("a", "bird")
    return world


def never_raised() -> World:
    world = two_exits(World())
    world.tunnel("late", until="config", carry=False)
    everywhere(world)
    return world


MIXED = platform("bird", "https://one.example/", "https://two.example/", "https://three.example/")


def three_ways() -> World:
    world = two_exits(World(MIXED))
    for url in (one.url for one in MIXED.service[0].endpoint):
        way = {"https://one.example/": f"connect:{TIMEOUT}"}.get(url, f"tls_handshake:{RESET}")
        world.reach("outside", "bird", endpoint=url, fails=way, neutral=True if "tls" in way else None)
        world.reach("a", "bird", endpoint=url)
        world.reach("b", "bird", endpoint=url)
    return world


def hiccup(during: str | None) -> Callable[[], World]:
    """Connects that time out from 10 to 18 outside, and how the controls went then. The line lives before and after."""

    def build() -> World:
        world = World()
        world.at(0.0).control("outside", "before")
        world.addresses("outside", exit=LINE_EXIT, resolver=None)
        world.tunnel("a")
        world.at(5.0).control("outside", "during")
        for when in (9.0, 11.0, 13.0, 15.0):
            world.at(when, 8.0).control("outside", "during", during)
        world.at(10.0, 8.0).reach("outside", "bird", fails=f"connect:{TIMEOUT}")
        world.at(10.0).reach("a", "bird")
        world.at(26.0).control("outside", "during")
        world.at(60.0).control("outside", "after")
        return world

    return build


def hiccup_inside(during: str | None) -> Callable[[], World]:
    """The same through a tunnel: nothing that it breaks."""

    def build() -> World:
        world = World()
        world.at(0.0).line()
        world.tunnel("a")
        world.at(10.0, 8.0).control("a", "during", during)
        world.reach("outside", "bird")
        world.reach("a", "bird", fails=f"connect:{TIMEOUT}")
        world.at(19.0).control("a", "during")
        return world

    return build


def interrupted(control_follows: bool) -> Callable[[], World]:
    """No control after the platforms, for there was no such time."""

    def build() -> World:
        world = World()
        world.at(0.0).control("outside", "before")
        world.addresses("outside", exit=LINE_EXIT, resolver=None)
        world.tunnel("a")
        world.at(9.0).control("outside", "during")
        world.at(10.0).reach("outside", "bird", fails=f"tls_handshake:{RESET}", neutral=True)
        world.reach("a", "bird")
        if control_follows:
            world.at(12.0).control("outside", "during")
        return world

    return build


def interrupted_older() -> World:
    world = World()
    world.control("outside", "before")
    world.addresses("outside", exit=LINE_EXIT, resolver=None)
    world.tunnel("a")
    world.reach("outside", "bird", fails=f"tls_handshake:{RESET}", neutral=True)
    world.reach("a", "bird")
    return world


def controls_blocked() -> World:
    """Somebody blocks the controls; a tunnel carries, so the line is alive. What answers outside is proven anyway."""
    world = World(platform("bird"), platform("wiki"))
    for phase in ("before", "after"):
        world.control("outside", phase, TIMEOUT)
    world.addresses("outside", exit=LINE_EXIT, resolver=None)
    world.tunnel("a")
    world.reach("outside", "bird", fails=f"connect:{TIMEOUT}")
    world.reach("a", "bird")
    world.reach("outside", "wiki")
    world.reach("a", "wiki")
    return world


def slow_tunnel() -> World:
    """All is slow through `a`, though not so slow that the tunnel as such counts as throttled."""
    world = two_exits(World(SPEEDY))
    everywhere(world)
    world.twice("outside", "bird", target=CRAWL, neutral=FAST, control=FAST)
    world.twice("a", "bird", target=CRAWL, neutral=CRAWL, control=(500.0, 510.0, 520.0))
    world.speed("b", "bird", target=FAST, neutral=FAST)
    return world


def unproven_beside_a_block() -> World:
    """The web is cut outside and the chat is not; through the proxy the web answers and the chat proves nothing."""
    world = chat(None)()
    world.observations = [
        one for one in world.observations if (one.vantage, one.service, one.probe) != ("outside", "web", "reach")
    ]
    world.reach("outside", "bird", service="web", endpoint="https://bird.example/", fails=SNI, neutral=True)
    return world


def bogon_chat() -> World:
    """The access provider's resolver points the chat at itself, where a port is open."""
    world = World(
        Platform(
            "bird",
            "Bird",
            (
                Service("chat", (Endpoint("tcp://chat.bird.example:443"),)),
                Service("web", (Endpoint("https://bird.example/"),)),
            ),
        )
    )
    world.line()
    world.tunnel("a")
    for vantage, answers in (("outside", [BOGON]), ("a", [TRUE])):
        world.reach(vantage, "bird", service="chat", endpoint="tcp://chat.bird.example:443", answers=answers)
        world.reach(vantage, "bird", service="web", endpoint="https://bird.example/")
    return world


def silent_by_name(**inside: Any) -> Callable[[], World]:
    """Its servers answer another name and not the platform's: outside, and through both tunnels if not told else."""

    def build() -> World:
        world = two_exits(World())
        silent: dict[str, Any] = {"fails": f"tls_handshake:{TIMEOUT}", "neutral": True}
        world.reach("outside", "bird", **silent)
        world.reach("a", "bird", **silent)
        world.reach("b", "bird", **(inside or silent))
        return world

    return build


def certificates(here: str, there: str) -> Callable[[], World]:
    """A certificate that is not valid, at every vantage."""

    def build() -> World:
        world = two_exits(World())
        for vantage in ("outside", "a", "b"):
            world.reach(vantage, "bird", fails=CERT, neutral=True, leaf=here if vantage == "outside" else there)
        return world

    return build


def forged_everywhere() -> World:
    """Somebody on the way answers for the name, and the exits cannot reach the platform either."""
    world = two_exits(World())
    world.names("outside", "bird.example", nobody=[FORGED])
    everywhere(world, fails=f"connect:{TIMEOUT}", answers=[FORGED])
    return world


def nxdomain_hijack() -> World:
    world = two_exits(World())
    world.names("outside", "bird.example", nobody=None, label=[FORGED])
    world.reach("outside", "bird", fails=CERT, answers=[FORGED], alternate=True)
    world.reach("a", "bird")
    world.reach("b", "bird")
    return world


def late_truth() -> World:
    """Both resolvers' first answers are one forged address; what came later serves the platform."""
    world = two_exits(World())
    lied: dict[str, Any] = {"answers": [FORGED], "public": [FORGED], "late": ((TRUE,),), "alternate": True}
    for _ in range(3):
        world.reach("outside", "bird", times=1, fails=f"connect:{TIMEOUT}", **lied)
    world.reach("a", "bird")
    world.reach("b", "bird")
    return world


def frozen_pages(trickle: bool | None = False) -> Callable[[], World]:
    def build() -> World:
        world = two_exits(World())
        if trickle is not None:
            world.trickle("outside", "bird", answered=trickle)
        passed = (9 * KIB, 26) if trickle is not None else (14 * KIB, 26)
        world.reach("outside", "bird", fails=f"http_round_trip:{TIMEOUT}", neutral=False, passed=passed)
        world.reach("a", "bird")
        world.reach("b", "bird")
        return world

    return build


def frozen_transfers() -> World:
    world = two_exits(World(SPEEDY))
    everywhere(world)
    for vantage in ("a", "b"):
        world.speed(vantage, "bird", target=FAST, neutral=FAST)
    world.speed("outside", "bird", target=(), control=FAST)
    for attempt in range(1, 6):
        more: dict[str, Any] = {"role": "target", "platform": "bird", "attempt": attempt, "tcp": info(16 * KIB, 30)}
        world.transfer("outside", "speed", 0, 3.0, TIMEOUT, **more)
    world.trickle("outside", "bird", answered=True)
    return world


def whitelist() -> World:
    """SYNs pass and data does not, but for the domestic control and one tunnel's server."""
    world = World(CHAT)
    for phase in ("before", "after"):
        world.control("outside", phase, TIMEOUT, url="https://control.example/")
        world.control("outside", phase, url="https://home.example/")
    world.addresses("outside", exit=LINE_EXIT, resolver=None)
    world.tunnel("a", proxy=True)
    world.tunnel("b")
    for vantage in ("outside", "a", "b"):
        silent: dict[str, Any] = {"fails": f"tls_handshake:{TIMEOUT}", "neutral": False} if vantage == "outside" else {}
        world.reach(vantage, "bird", service="web", endpoint="https://bird.example/", **silent)
        for url in DCS:
            world.reach(vantage, "bird", service="chat", endpoint=url)
    return world


def our_shape() -> World:
    world = two_exits(World())
    world.reach("outside", "bird", times=1, fails=f"tls_handshake:{TIMEOUT}", neutral=False, browser="ok")
    world.reach("outside", "bird", times=2, fails=f"tls_handshake:{TIMEOUT}", neutral=False)
    world.reach("a", "bird")
    world.reach("b", "bird")
    return world


def browsers(outside: str) -> Callable[[], World]:
    def build() -> World:
        world = two_exits(World())
        world.reach("outside", "bird", browser=outside)
        world.reach("a", "bird", browser="ok")
        world.reach("b", "bird", browser="ok")
        return world

    return build


WITH_QUIC = Platform(
    "bird",
    "Bird",
    (
        Service("web", (Endpoint("https://bird.example/"),)),
        Service("quic", (Endpoint("quic://bird.example/"),), required=False),
        Service("calls", (Endpoint("stun://bird.example:3478"),), required=False),
    ),
)


def quic_by_name() -> World:
    world = two_exits(World(WITH_QUIC))
    everywhere(world)
    for vantage in ("outside", "a", "b"):
        cut: dict[str, Any] = {"fails": f"quic_handshake:{TIMEOUT}", "neutral": True} if vantage == "outside" else {}
        mute: dict[str, Any] = {"fails": f"stun_binding:{TIMEOUT}"} if vantage == "a" else {}
        world.reach(vantage, "bird", service="quic", endpoint="quic://bird.example/", **cut)
        world.reach(vantage, "bird", service="calls", endpoint="stun://bird.example:3478", **mute)
    return world


def throttled_once() -> World:
    world = two_exits(World(SPEEDY))
    everywhere(world)
    world.speed("outside", "bird", target=CRAWL, neutral=FAST, control=FAST)
    world.speed("outside", "bird", target=FAST, neutral=FAST, phase="confirm")
    return world


def throttled_name() -> World:
    """Known by a name that is shown to the control's server."""
    world = two_exits(World(platform("bird", throttled_name="media.bird.example")))
    everywhere(world)
    where = {"endpoint": "tls://media.bird.example"}
    world.twice("outside", "bird", target=CRAWL, neutral=FAST, control=FAST, **where)
    world.speed("a", "bird", target=FAST, neutral=FAST, **where)
    return world


def frozen_outside(speed: bool) -> Callable[[], World]:
    """Transfers freeze outside; through `a` small answers pass, and transfers are measured or not."""

    def build() -> World:
        world = frozen_transfers()
        if not speed:
            world.observations = [one for one in world.observations if (one.vantage, one.probe) != ("a", "speed")]
        return world

    return build


def dying(size: int, failure: str | None, seconds: float, times: int = 5, where: str = "a") -> Callable[[], World]:
    """The platform is cut by name outside, unless it is there that transfers die; under another name they are whole."""

    def build() -> World:
        world = two_exits(World(SPEEDY))
        cut: dict[str, Any] = {"fails": SNI, "neutral": True} if where != "outside" else {}
        world.reach("outside", "bird", **cut)
        world.reach("a", "bird")
        world.reach("b", "bird")
        world.speed("b", "bird", target=FAST, neutral=FAST)
        world.speed(where, "bird", target=FAST[times:], neutral=FAST)
        if where == "outside":
            world.speed("a", "bird", target=FAST, neutral=FAST)
        more: dict[str, Any] = {"role": "target", "platform": "bird"}
        if failure not in (RESET, "eof_error"):
            more["tcp"] = info(size, 30)
        for _ in range(times):
            world.transfer(where, "speed", size, seconds, failure, **more)
            if failure not in (RESET, "eof_error") and size:
                last = world.observations[-1]
                details = structs.replace(last.details, samples=((0.1, size), (3.0, size)))
                world.observations[-1] = structs.replace(last, details=details)
        return world

    return build


def early_end() -> World:
    """A platform that crawls in the first round, and a run that ends before the second."""
    world = throttled()()
    world.observations = [one for one in world.observations if one.phase != "confirm"]
    return world


def ended_before_speed() -> World:
    world = throttled()()
    world.observations = [one for one in world.observations if one.probe != "speed"]
    return world


def doubtful_tries(answered: int, doubtful: int) -> Callable[[], World]:
    """Cut by name outside; through `a` some tries are answered, and others fail while its own controls fail too."""

    def build() -> World:
        world = World()
        world.at(0.0).line()
        world.tunnel("a")
        world.at(5.0).control("a", "during")
        world.at(10.0).control("outside", "during")
        world.reach("outside", "bird", fails=SNI, neutral=True)
        world.reach("a", "bird", times=answered)
        world.at(20.0, 8.0).control("a", "during", TIMEOUT)
        if doubtful:
            world.reach("a", "bird", times=doubtful, fails=f"tls_handshake:{TIMEOUT}")
        world.at(40.0).control("a", "during")
        return world

    return build


LIED_TO = Platform(
    "bird",
    "Bird",
    (
        Service("web", (Endpoint("https://bird.example/"),)),
        Service("chat", tuple(Endpoint(f"tcp://e{n}.bird.example:443") for n in (1, 2)), rule="any_of"),
    ),
)


def lies_about_ports(proof: bool = False, **outside: Any) -> Callable[[], World]:
    """Outside, the names of the chat lead elsewhere, and somebody opens connections there."""

    def build() -> World:
        world = two_exits(World(LIED_TO))
        if proof:
            for one in LIED_TO.service[1].endpoint:
                world.names("outside", one.url[6:].partition(":")[0], nobody=[FORGED])
        for vantage in ("outside", "a", "b"):
            world.reach(vantage, "bird")
            for one in LIED_TO.service[1].endpoint:
                lie = {"answers": [FORGED], **outside} if vantage == "outside" else {}
                for _ in range(3):
                    world.reach(vantage, "bird", times=1, service="chat", endpoint=one.url, **lie)
        return world

    return build


def hangs(at: str, **exit: Any) -> Callable[[], World]:
    """One tunnel, and a server that answers another name and not its own, there as outside."""

    def build() -> World:
        world = World()
        world.line()
        world.tunnel("a")
        mute: dict[str, Any] = {"fails": at, "neutral": True}
        world.reach("outside", "bird", **mute)
        world.reach("a", "bird", **(exit or mute))
        return world

    return build


def challenged() -> World:
    """403 is what its endpoint says to anybody; through the tunnels, with a test for humans."""
    world = two_exits(World(plain(403, url="https://bird.example/")))
    world.reach("outside", "bird", code=403)
    for vantage in ("a", "b"):
        for _ in range(3):
            world.reach(vantage, "bird", times=1, code=403, challenge=True)
    return world


def broadcast(address: str) -> Callable[[], World]:
    """The resolver gives an address that this box connects to for nobody."""

    def build() -> World:
        world = two_exits(World())
        world.reach("outside", "bird", answers=[address], fails="connect:permission_denied")
        world.reach("a", "bird")
        world.reach("b", "bird")
        return world

    return build


CERT = "tls_handshake:ssl_unknown_authority"
NXDOMAIN = "resolve:dns_nxdomain_error"
SNI = f"tls_handshake:{RESET}"
HTTP_BROKEN = "http_round_trip:http_request_failed"
BY_NAME, SLOWED = "blocked tls.reset.sni", "throttled throttle.sni"

SCENARIOS: list[tuple[str, Callable[[], World], str, str]] = [
    # name, observations, `outside` state and mechanism, outcomes through the tunnels in order
    ("success with HTTPS", same_everywhere(), "ok", "open open"),
    ("dns NXDOMAIN", censored(fails=NXDOMAIN, alternate=True), "blocked dns.nxdomain", "c c"),
    ("dns NXDOMAIN, by other vantages", censored(fails=NXDOMAIN), "blocked dns.nxdomain", "c c"),
    (
        "dns NXDOMAIN for all",
        same_everywhere(fails=NXDOMAIN, public=()),
        "down dns.nxdomain",
        "pd pd",
    ),
    ("dns silence", censored(fails=f"resolve:{TIMEOUT}", alternate=True), "blocked dns.timeout", "c c"),
    (
        "dns bogon",
        censored(answers=[BOGON], fails=f"connect:{TIMEOUT}", alternate=True),
        "blocked dns.bogon",
        "c c",
    ),
    ("dns hijack to a bad certificate", censored(answers=[FORGED], fails=CERT), "blocked dns.injection", "c c"),
    (
        "dns hijack to a dead address",
        censored(answers=[FORGED], fails=f"connect:{REFUSED}", alternate=True),
        "blocked dns.injection",
        "c c",
    ),
    ("dns hijack to an honest proxy", same_everywhere(answers=[FORGED]), "ok", "open open"),
    ("other addresses of a CDN, cut by name", censored(answers=[FORGED], fails=SNI, neutral=True), BY_NAME, "c c"),
    ("bad certificate for all", same_everywhere(fails=CERT), "down tls.certificate", "pd pd"),
    ("bad certificate here alone", censored(fails=CERT), "blocked tls.mitm", "c c"),
    ("bad certificate, and a neutral name gets through", censored(fails=CERT, neutral=True), "blocked tls.mitm", "c c"),
    ("tcp timeout", censored(fails=f"connect:{TIMEOUT}"), "blocked tcp.timeout", "c c"),
    ("tcp refused here", censored(fails=f"connect:{REFUSED}"), "blocked tcp.refused", "c c"),
    ("tcp refused everywhere", same_everywhere(fails=f"connect:{REFUSED}"), "down tcp.refused", "pd pd"),
    ("no route", censored(fails="connect:host_unreachable"), "blocked ip.unreachable", "c c"),
    ("tls reset by name", censored(fails=SNI, neutral=True), BY_NAME, "c c"),
    ("tls reset, any name", censored(fails=SNI, neutral=False), "blocked tls.reset", "c c"),
    ("tls reset, no neutral", censored(fails=SNI), "blocked tls.reset", "c c"),
    ("tls silence by name", censored(fails=f"tls_handshake:{TIMEOUT}", neutral=True), "blocked tls.timeout.sni", "c c"),
    ("tls EOF", censored(fails="tls_handshake:eof_error"), "blocked tls.closed", "c c"),
    ("http reset", censored(fails=f"http_round_trip:{RESET}", neutral=True), "blocked http.reset", "c c"),
    ("http silence", censored(fails=f"http_round_trip:{TIMEOUT}"), "blocked http.timeout", "c c"),
    ("cleartext block page", cleartext_block_page, "blocked http.blockpage", "c c"),
    ("tls reset by name at every vantage", same_everywhere(fails=SNI, neutral=True), BY_NAME, "b b"),
    ("503 for all", same_everywhere(code=503), "down http.error", "pd pd"),
    ("403 for all", same_everywhere(code=403), "refused http.403", "refused refused"),
    ("403 and a challenge at the exits", refused_at_exits, "ok", "refused refused"),
    ("blocked outside, refused inside", refused_inside_blocked_outside, "blocked tcp.timeout", "refused c"),
    ("geoblocked outside", geoblocked_outside, "refused http.451", "? ?"),
    ("works outside, not through one tunnel", breaks, "ok", "breaks open"),
    ("a miss on either side", one_miss, BY_NAME, "c c"),
    ("half and half", flaky, "insufficient", "? ?"),
    ("one of three fails inside", flips(3), BY_NAME, "? c"),
    ("one of nine fails inside", flips(9), BY_NAME, "? c"),
    ("one of ten fails inside", flips(10), BY_NAME, "c c"),
    ("one certificate out of its time for all", certificates("aa", "aa"), "down tls.certificate", "pd pd"),
    ("another certificate here than at the exits", certificates("aa", "bb"), "insufficient", "? ?"),
    ("names forged for all vantages", forged_everywhere, "blocked dns.injection", "? ?"),
    ("a resolver that gives an address for every name", nxdomain_hijack, "blocked dns.nxdomain", "c c"),
    ("a late answer tells the truth", late_truth, "blocked dns.injection", "c c"),
    ("pages freeze after 25 packets", frozen_pages(), "blocked freeze.packets", "c c"),
    ("pages freeze, and nobody knows by what", frozen_pages(trickle=None), "blocked freeze", "c c"),
    ("pages pass and transfers freeze", frozen_transfers, "blocked freeze.bytes", "c c"),
    ("only what is on the list passes data", whitelist, "blocked tls.timeout", "? c"),
    ("our own shape is cut", our_shape, "insufficient", "? ?"),
    ("browsers are cut", browsers(TIMEOUT), "blocked tls.timeout.hello", "c c"),
    ("browsers are cut by the server", same_everywhere(browser=TIMEOUT), "insufficient", "? ?"),
    ("browsers pass", browsers("ok"), "ok", "open open"),
    ("QUIC is cut by name, and optional", quic_by_name, "ok", "open open"),
    ("slow once and not again", throttled_once, "ok", "open open"),
    ("throttled by a name shown to the control", throttled_name, SLOWED, "c ?"),
    ("transfers freeze, and none is tried inside", frozen_outside(speed=False), "blocked freeze.bytes", "? c"),
    ("transfers freeze outside alone", frozen_outside(speed=True), "blocked freeze.bytes", "c c"),
    ("transfers are reset inside", dying(16 * KIB, RESET, 0.1), BY_NAME, "? c"),
    ("transfers are closed inside", dying(16 * KIB, "eof_error", 0.1), BY_NAME, "? c"),
    ("transfers fall silent early inside", dying(5 * KIB, TIMEOUT, 3.0), BY_NAME, "? c"),
    ("transfers never begin inside", dying(0, TIMEOUT, 3.0), BY_NAME, "? c"),
    ("four of five transfers freeze inside", dying(16 * KIB, TIMEOUT, 3.0, times=4), BY_NAME, "? c"),
    ("two of five transfers are reset inside", dying(16 * KIB, RESET, 0.1, times=2), BY_NAME, "? c"),
    ("one of five transfers is reset inside", dying(16 * KIB, RESET, 0.1, times=1), BY_NAME, "c c"),
    ("transfers are reset outside", dying(16 * KIB, RESET, 0.1, where="outside"), "insufficient", "? ?"),
    ("transfers never begin outside", dying(0, TIMEOUT, 3.0, where="outside"), "insufficient", "? ?"),
    ("four of five freeze outside", dying(16 * KIB, TIMEOUT, 3.0, 4, "outside"), "insufficient", "? ?"),
    ("one of five is reset outside", dying(16 * KIB, RESET, 0.1, 1, "outside"), "ok", "open open"),
    ("a crawl, and the run ends before the second round", early_end, "insufficient", "? ?"),
    ("the run ends before any speed", ended_before_speed, "ok", "open open"),
    ("two of ten tries are answered inside, and the rest in doubt", doubtful_tries(2, 8), BY_NAME, "?"),
    ("half of ten tries are answered inside, and the rest in doubt", doubtful_tries(5, 5), BY_NAME, "?"),
    ("two of three tries are answered inside, and one in doubt", doubtful_tries(2, 1), BY_NAME, "c"),
    ("no try inside in doubt", doubtful_tries(3, 0), BY_NAME, "c"),
    ("two answers about a port, one a lie", lies_about_ports(late=((TRUE,),)), "blocked dns.injection", "c c"),
    ("a forger of the port's very name", lies_about_ports(proof=True), "blocked dns.injection", "c c"),
    ("a forger lies to both resolvers", lies_about_ports(proof=True, public=[FORGED]), "ok", "? ?"),
    ("a port at an address that nobody else knows", lies_about_ports(), "ok", "? ?"),
    ("a port at the same address", lies_about_ports(answers=[TRUE]), "ok", "open open"),
    ("a page that hangs at the only exit too", hangs(f"http_round_trip:{TIMEOUT}"), "insufficient", "?"),
    ("a server that closes at the only exit too", hangs("tls_handshake:eof_error"), "insufficient", "?"),
    ("a reset by name at the only exit too", hangs(f"tls_handshake:{RESET}"), BY_NAME, "b"),
    (
        "a page that hangs, and is dead at the only exit",
        hangs(f"http_round_trip:{TIMEOUT}", fails=f"connect:{REFUSED}"),
        "blocked http.timeout",
        "?",
    ),
    ("a challenge where 403 is expected", challenged, "ok", "refused refused"),
    ("a resolver that gives the broadcast address", broadcast("255.255.255.255"), "blocked dns.bogon", "c c"),
    ("a connect that this box forbids", broadcast(TRUE), "insufficient", "? ?"),
    ("one tunnel alone cannot tell down from blocked", single_tunnel_all_fails, "insufficient", "?"),
    ("two tunnels with one exit cannot either", one_exit_for_two_tunnels, "insufficient", "? ?"),
    ("nor can exits that nobody knows", exits_unknown, "insufficient", "? ?"),
    ("what answered once is not down", down_but_answers_once, "insufficient", "? ?"),
    ("cut by name outside and dead at the exits", named_and_dead_elsewhere, BY_NAME, "? ?"),
    ("the line dies midway", line_dies_midway, "insufficient", "?"),
    ("a hiccup of the line", hiccup(TIMEOUT), "insufficient", "?"),
    ("no hiccup of the line", hiccup(None), "blocked tcp.timeout", "c"),
    ("a hiccup of a tunnel", hiccup_inside(TIMEOUT), "ok", "?"),
    ("no hiccup of a tunnel", hiccup_inside(None), "ok", "breaks"),
    ("interrupted", interrupted(control_follows=False), "insufficient", "?"),
    ("interrupted after a control", interrupted(control_follows=True), BY_NAME, "c"),
    ("interrupted, an older record", interrupted_older, "insufficient", "?"),
    ("silent by name everywhere", silent_by_name(), "insufficient", "? ?"),
    ("silent by name, and an exit answers", silent_by_name(code=200), "blocked tls.timeout.sni", "b c"),
    ("silent by name, and reset at an exit", silent_by_name(fails=SNI, neutral=True), "blocked tls.timeout.sni", "b b"),
    (
        "silent by name, and dead at an exit",
        silent_by_name(fails=f"connect:{REFUSED}"),
        "blocked tls.timeout.sni",
        "b ?",
    ),
    ("a request broken by the server itself", same_everywhere(fails=HTTP_BROKEN), "down http.error", "pd pd"),
    ("no control was asked", no_controls, "insufficient", "?"),
    ("throttled by name", throttled(), SLOWED, "c ?"),
    ("throttled inside as well", throttled(target=CRAWL), SLOWED, "throttled ?"),
    ("a tunnel that is slow for all", throttled(target=CRAWL, neutral=CRAWL, control=CRAWL), SLOWED, "td ?"),
    ("slow line", slow_line, "ok", "open open"),
    ("a tunnel that is slow for all, and yet not as such", slow_tunnel, SLOWED, "? c"),
    ("blocked, and speed inside known for one", blocked_with_unknown_speed, BY_NAME, "c c"),
    ("partial", two_services({}, {"fails": f"connect:{REFUSED}"}), BY_NAME, "partial c"),
    ("partial by refusal", two_services({}, {"code": 403}), BY_NAME, "partial c"),
    ("an optional service decides nothing", two_services({}, {}), BY_NAME, "c c"),
    ("one service unclear", two_services({}, {"times": 1}), BY_NAME, "? c"),
    ("chat ports open everywhere", chat(None), "ok", "open open"),
    ("chat ports cut outside", chat(f"connect:{TIMEOUT}"), "blocked tcp.timeout", "? c"),
    ("web cut outside, chat unproven inside", unproven_beside_a_block, BY_NAME, "? c"),
    ("a bogon for a chat port", bogon_chat, "blocked dns.bogon", "c"),
    ("one chat port cut outside", chat(f"connect:{TIMEOUT}", first_dc_only=True), "ok", "open open"),
    ("proxies at a dead platform", proxies_at_a_dead_platform, "down tcp.refused", "pd pd"),
    ("a tunnel that stalls", stalled_tunnel, BY_NAME, "td c"),
    ("a tunnel that stalls after an answer", stalled_tunnel_that_reached_something, BY_NAME, "td c"),
    ("a tunnel that was never raised", never_raised, "ok", "open open ?"),
    ("names blocked in different ways", three_ways, BY_NAME, "c c"),
]
SHORT = {
    "c": Outcome.CIRCUMVENTS,
    "b": Outcome.BLOCKED,
    "pd": Outcome.PLATFORM_DOWN,
    "td": Outcome.TUNNEL_DOWN,
    "?": Outcome.INSUFFICIENT,
}


@pytest.mark.parametrize(
    ("build", "outside", "outcomes"), [one[1:] for one in SCENARIOS], ids=[one[0] for one in SCENARIOS]
)
def test_scenario(build: Callable[[], World], outside: str, outcomes: str) -> None:
    judgement = judge(build().record())
    [seen] = judgement.outside
    assert " ".join(filter(None, (seen.state, seen.mechanism))) == outside
    assert [str(cell.outcome) for cell in judgement.cells] == [str(SHORT.get(word, word)) for word in outcomes.split()]


def test_every_verdict_is_whole() -> None:
    for name, build, *_ in SCENARIOS:
        try:
            _assert_whole(build().record())
        except AssertionError as failure:
            failure.add_note(f"scenario: {name}")
            raise


def _assert_whole(record: Record) -> None:
    judgement = judge(record)
    ids = {one.id for one in record.observations}
    for verdict in platform_verdicts(judgement):
        assert reason_of(verdict.rule)
        assert set(verdict.witnesses) <= ids
        assert bool(verdict.mechanism) is (verdict.state not in (State.OK, State.INSUFFICIENT))
        if verdict.state is not State.INSUFFICIENT:
            k, n = verdict.attempts
            assert 2 <= k <= n
            assert verdict.witnesses
    for cell in judgement.cells:
        assert reason_of(cell.rule)
    for tunnel in judgement.tunnels:
        assert reason_of(tunnel.rule)
        assert set(tunnel.witnesses) <= ids
        assert (tunnel.mechanism is None) is tunnel.usable


def platform_verdicts(judgement: Judgement) -> list[PlatformVerdict]:
    return [*judgement.outside, *(cell.inside for cell in judgement.cells if cell.inside)]


# ── what the table above cannot show ─────────────────────────────────────────────────────────────────────────────────


def test_a_dead_line_is_not_a_censored_one() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.control("outside", "before", "network_unreachable")
    failed = tuple(one.id for one in world.observations if one.failure)
    world.tunnel("a", until="handshake", failure=TIMEOUT)
    world.reach("outside", "bird", fails=f"connect:{TIMEOUT}")
    assert judge(world.record()) == Judgement((), (), (), local_outage=failed, line_rule="line.dead")


def test_one_control_that_answers_keeps_the_line_alive() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.control("outside", "before")
    assert judge(world.record()).local_outage is None


def test_controls_that_are_blocked_make_no_dead_line() -> None:
    judgement = judge(controls_blocked().record())
    assert judgement.local_outage is None
    assert [(one.state, one.rule) for one in judgement.outside] == [
        (State.INSUFFICIENT, "endpoint.insufficient.control"),
        (State.OK, "platform.ok"),
    ]
    assert [one.stage for one in judgement.tunnels] == ["up"]
    assert [one.outcome for one in judgement.cells] == [Outcome.INSUFFICIENT, Outcome.OPEN]


@pytest.mark.parametrize(
    ("build", "rules"),
    [
        (slow_line, ["cell.open.speed-unknown", "cell.open.speed-unknown"]),
        (slow_tunnel, ["cell.insufficient.slow-tunnel", "cell.circumvents"]),
        (throttled(), ["cell.circumvents", "cell.insufficient.speed-unknown"]),
        (chat(None), ["cell.open.unproven", "cell.open"]),
        (unproven_beside_a_block, ["cell.insufficient.unproven", "cell.circumvents"]),
        (same_everywhere(), ["cell.open", "cell.open"]),
        (hiccup(TIMEOUT), ["cell.insufficient.outside"]),
        (silent_by_name(), ["cell.insufficient.inside", "cell.insufficient.inside"]),
    ],
)
def test_what_is_not_known_has_a_rule_of_its_own(build: Callable[[], World], rules: list[str]) -> None:
    assert [cell.rule for cell in judge(build().record()).cells] == rules


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (hiccup(TIMEOUT), "endpoint.insufficient.control"),
        (interrupted(control_follows=False), "endpoint.insufficient.no-control"),
        (interrupted_older, "endpoint.insufficient.no-control"),
        (silent_by_name(), "endpoint.insufficient.alike"),
        (slow_line, "platform.ok.speed-unknown"),
    ],
)
def test_why_nothing_is_said_outside(build: Callable[[], World], rule: str) -> None:
    [seen] = judge(build().record()).outside
    assert seen.rule == rule


def test_the_rule_about_speed_is_told_where_speed_is_asked() -> None:
    assert judge(slow_line().record()).outside[0].speed == "speed.slow-line"
    assert judge(throttled()().record()).outside[0].speed == "speed.throttle.sni"
    assert judge(World(SPEEDY).record()).outside[0].speed == "speed.unknown"
    assert judge(World().record()).outside[0].speed is None


def test_a_tunnels_dead_controls_are_no_local_outage() -> None:
    world = World()
    world.line()
    world.tunnel("a", carry=False)
    world.control("a", "before", TIMEOUT)
    assert judge(world.record()).local_outage is None


def test_witnesses_of_a_block_by_name_are_the_reset_and_the_neutral_that_got_through() -> None:
    world = two_exits(World())
    world.reach("outside", "bird", fails=SNI, neutral=True)
    [seen] = judge(world.record()).outside
    expected = [one.id for one in world.observations if one.role in ("target", "neutral") and one.platform]
    by_id = {one.id: one for one in world.observations}
    assert {(by_id[one].operation, by_id[one].role, by_id[one].failure) for one in seen.witnesses} == {
        ("tls_handshake", "target", RESET),
        ("http_round_trip", "neutral", None),
    }
    assert set(seen.witnesses) <= set(expected)
    assert len(seen.witnesses) == 6


def test_partial_is_said_of_the_platform_and_named_by_service() -> None:
    [cell, _] = judge(two_services({}, {"fails": f"connect:{REFUSED}"})().record()).cells
    assert cell.inside is not None
    assert cell.inside.partial
    assert [(one.service, one.state) for one in cell.inside.services] == [
        ("web", State.OK),
        ("chat", State.BLOCKED),
        ("extra", State.INSUFFICIENT),
    ]


def test_the_number_of_agreeing_tries_is_shown() -> None:
    judgement = judge(one_miss().record())
    assert judgement.outside[0].attempts == (9, 10)
    assert [cell.inside.attempts for cell in judgement.cells if cell.inside] == [(9, 10), (3, 3)]


def test_verdicts_stand_in_the_records_order() -> None:
    world = World(platform("zebra"), platform("bird"), platform("ant"))
    world.line()
    for name in ("z", "a"):
        world.tunnel(name)
    judgement = judge(world.record())
    assert [one.platform for one in judgement.outside] == ["zebra", "bird", "ant"]
    assert [(one.tunnel, one.platform) for one in judgement.cells] == [
        (tunnel, name) for tunnel in ("z", "a") for name in ("zebra", "bird", "ant")
    ]


def test_an_empty_record_says_nothing_of_anything() -> None:
    world = World()
    world.tunnel("a", carry=False, until="config")
    [cell] = judge(without(world.record(), [False] * 99)).cells
    assert (cell.outcome, cell.outside.state, cell.inside) == (Outcome.INSUFFICIENT, State.INSUFFICIENT, None)


# ── whatever is missing ──────────────────────────────────────────────────────────────────────────────────────────────

BUILDS = [one[1] for one in SCENARIOS]
FEW = settings(max_examples=40)
RECORDS: list[Record] = [build().record() for build in BUILDS]


def circumventing(judgement: Judgement) -> set[tuple[str, str]]:
    return {(cell.tunnel, cell.platform) for cell in judgement.cells if cell.outcome is Outcome.CIRCUMVENTS}


@FEW
@given(st.sampled_from(RECORDS), st.randoms(use_true_random=False), st.floats(0, 1))
def test_any_part_of_a_record_can_be_judged(record: Record, random: Any, share: float) -> None:
    kept = without(record, [random.random() < share for _ in record.observations])
    judgement = judge(kept)
    assert judge(kept) == judgement
    if judgement.local_outage is None:
        assert len(judgement.cells) == len(record.tunnels) * len(record.platforms)
    else:
        assert judgement.cells == ()


@FEW
@given(st.sampled_from(RECORDS), st.sets(st.sampled_from(["a", "b", "late"])))
def test_nothing_circumvents_where_nothing_failed_outside(record: Record, silent: set[str]) -> None:
    keep = [
        not (one.vantage == "outside" and one.probe in ("reach", "speed")) and one.vantage not in silent
        for one in record.observations
    ]
    assert circumventing(judge(without(record, keep))) == set()


@FEW
@given(st.sampled_from(RECORDS), st.randoms(use_true_random=False), st.floats(0, 1))
def test_less_reach_through_a_tunnel_never_makes_it_circumvent(record: Record, random: Any, share: float) -> None:
    """What was planned and not measured counts against, so thinning what a tunnel was seen to do can only cost it."""
    before = circumventing(judge(record))
    keep = [
        not (one.vantage == "a" and one.probe == "reach" and one.role == "target") or random.random() < share
        for one in record.observations
    ]
    after = {key for key in circumventing(judge(without(record, keep))) if key[0] == "a"}
    assert after <= before


@FEW
@given(st.sampled_from(RECORDS), st.randoms(use_true_random=False), st.floats(0, 1))
def test_less_known_of_a_tunnel_itself_never_makes_it_usable(record: Record, random: Any, share: float) -> None:
    """A load test or a rung that failed and is forgotten leaves a gap, and a gap is no success."""
    usable = {one.tunnel for one in judge(record).tunnels if one.usable}
    keep = [one.probe not in ("rung", "carry", "alive") or random.random() < share for one in record.observations]
    judgement = judge(without(record, keep))
    assert {one.tunnel for one in judgement.tunnels if one.usable} <= usable


def outcome(cell: Cell) -> tuple[str, str, Outcome, str | None]:
    return cell.tunnel, cell.platform, cell.outcome, cell.outside.mechanism


def test_ports_that_open_where_no_data_passes_make_no_service_ok() -> None:
    [seen] = judge(whitelist().record()).outside
    assert [(one.service, one.state, one.rule) for one in seen.services] == [
        ("chat", State.INSUFFICIENT, "service.insufficient.unproven"),
        ("web", State.BLOCKED, "endpoint.blocked.works-elsewhere"),
    ]
    assert not seen.partial


@pytest.mark.parametrize(("fails", "state"), [(f"tls_handshake:{TIMEOUT}", State.INSUFFICIENT), (None, State.OK)])
def test_a_port_alone_is_no_platform_where_no_data_passes_at_all(fails: str | None, state: State) -> None:
    world = two_exits(World(platform("bird", "tcp://198.18.5.1:443"), platform("wiki")))
    for vantage in ("outside", "a", "b"):
        world.reach(vantage, "bird")
        world.reach(vantage, "wiki", fails=fails if vantage == "outside" else None)
    assert judge(world.record()).outside[0].state is state


def test_optional_services_are_judged_and_told() -> None:
    judgement = judge(quic_by_name().record())
    assert [(one.service, one.state, one.mechanism) for one in judgement.outside[0].services] == [
        ("web", State.OK, None),
        ("quic", State.BLOCKED, "quic.timeout.sni"),
        ("calls", State.OK, None),
    ]
    inside = {cell.tunnel: cell.inside for cell in judgement.cells}
    assert inside["a"]
    assert inside["b"]
    assert [one.mechanism for one in inside["a"].services] == [None, None, "stun.timeout"]
    assert [one.state for one in inside["b"].services] == [State.OK] * 3


@FEW
@given(st.sampled_from(["ok", "quic_handshake", "http_round_trip"]), st.sampled_from([TIMEOUT, RESET, REFUSED]))
def test_optional_services_decide_nothing(at: str, failure: str) -> None:
    world = two_exits(World(WITH_QUIC))
    everywhere(world)
    before = [outcome(cell) for cell in judge(world.record()).cells]
    fails = None if at == "ok" else f"{at}:{failure}"
    for vantage in ("outside", "a"):
        world.reach(vantage, "bird", service="quic", endpoint="quic://bird.example/", fails=fails, neutral=True)
    assert [outcome(cell) for cell in judge(world.record()).cells] == before


def _is_in_order(record: Record) -> bool:
    reverse = structs.replace(record, observations=record.observations[::-1])
    return msgspec.json.encode(judge(reverse)) == msgspec.json.encode(judge(record))


def test_the_records_own_order_changes_not_a_byte() -> None:
    assert [name for name, build, *_ in SCENARIOS if not _is_in_order(build().record())] == []


# ── whatever anybody may have written ────────────────────────────────────────────────────────────────────────────────

URLS = [
    "https://bird.example/",
    "http://bird.example/",
    "tcp://bird.example:443",
    "quic://b.example/",
    "stun://s:1",
    "x",
]
ANY_PLATFORM = Platform(
    "bird",
    "Bird",
    (
        Service("web", tuple(map(Endpoint, URLS[:3])), rule="any_of"),
        Service("more", tuple(map(Endpoint, URLS[3:]))),
        Service("none", ()),
    ),
    speed="https://bird.example/64k",
)
ADDRESSES = st.sampled_from([TRUE, FORGED, BOGON, "fd00::1", "nonsense", ""])
COUNT = st.integers(0, 70_000)
SMALL = st.integers(0, 70)
WORDS = st.sampled_from([*Failure, "unknown_failure: odd"])
NAMED = st.sampled_from(["bird.example", "b.example", "other.example", ""])
HOSTED = ADDRESSES.map(lambda one: f"{one}:443")
STEPS = st.lists(st.tuples(st.floats(0, 9), COUNT), max_size=4).map(tuple)
DETAILS = st.one_of(
    st.builds(
        DnsAnswer,
        hostname=NAMED,
        query_type=st.just("A"),
        resolver_address=HOSTED,
        resolver=st.sampled_from(["vantage", "public", "nobody"]),
        rcode=st.sampled_from(["NOERROR", "NXDOMAIN", None]),
        answers=st.lists(ADDRESSES, max_size=2).map(tuple),
        late=st.sampled_from([(), ((TRUE,),)]),
    ),
    st.builds(TcpConnect, ip=ADDRESSES, port=st.just(443)),
    st.builds(TlsHandshake, address=HOSTED, server_name=NAMED, no_tls_verify=st.booleans()),
    st.builds(QuicHandshake, address=HOSTED, server_name=NAMED, no_tls_verify=st.booleans()),
    st.builds(StunBinding, address=HOSTED, mapped=st.sampled_from([None, "198.18.0.2:1"])),
    st.builds(
        HttpExchange,
        method=st.just("GET"),
        url=st.just("u"),
        alpn=st.just("h2"),
        code=st.sampled_from([None, 200, 302, 403, 503]),
        challenge=st.booleans(),
    ),
    st.builds(
        Transfer,
        url=st.just("u"),
        server_name=NAMED,
        direction=st.sampled_from(["down", "up"]),
        bytes=COUNT,
        expected=st.sampled_from([None, 0, 150, 64 * KIB, 1024 * KIB]),
        samples=STEPS,
        segment=st.sampled_from([None, 536]),
    ),
    st.builds(Trickle, url=st.just("u"), server_name=NAMED, chunks=SMALL, bytes_acked=SMALL, answered=st.booleans()),
    st.builds(Crowd, url=st.just("u"), wanted=st.just(16), answered=st.lists(st.booleans(), max_size=16).map(tuple)),
    st.builds(Echo, resolver_address=HOSTED, sent=SMALL, received=SMALL, rtt_ms=st.sampled_from([(), (1.0, 2.0)])),
    st.builds(SmallExchanges, url=st.just("u"), done=SMALL, wanted=SMALL, bytes=COUNT),
    st.builds(RungStep, rung=st.sampled_from(["config", "endpoint", "auth", "data", "odd"])),
    st.builds(
        Address,
        of=st.sampled_from(["exit", "resolver"]),
        family=st.sampled_from([4, 6]),
        address=st.sampled_from([None, LINE_EXIT, "198.18.200.1", "198.18.200.2"]),
    ),
    st.builds(Alive, carrier_runs=st.booleans()),
)
PROBES = ["rung", "control", "names", "reach", "freeze", "speed", "carry", "exit", "resolver", "alive"]
OBSERVATIONS = st.builds(
    Observation,
    id=st.uuids().map(str),
    vantage=st.sampled_from(["outside", "a", "p", "nobody"]),
    probe=st.sampled_from([*PROBES, "reach", "reach", "control", "speed"]),
    operation=st.sampled_from(
        ["resolve", "connect", "tls_handshake", "quic_handshake", "stun_binding", "http_round_trip", "transfer"]
    ),
    target=st.just("x"),
    t0=st.floats(0, 60),
    t=st.floats(0, 60),
    failure=st.one_of(st.none(), WORDS),
    role=st.sampled_from(["target", "neutral", "alternate", "browser", "control"]),
    platform=st.sampled_from(["bird", "bird", None, "other"]),
    service=st.sampled_from(["web", "web", "more", None]),
    endpoint=st.sampled_from([*URLS, None]),
    attempt=st.integers(0, 4),
    phase=st.sampled_from(["before", "during", "after", "confirm"]),
    transaction=st.integers(0, 9),
    details=DETAILS,
    tcp=st.one_of(
        st.none(),
        st.builds(
            TcpInfo,
            bytes_received=COUNT,
            bytes_acked=COUNT,
            retransmits=SMALL,
            unacked=SMALL,
            rtt_ms=st.just(1.0),
            since_last_data_ms=st.one_of(st.none(), COUNT),
            segments_received=st.one_of(st.none(), SMALL),
            segments_sent=st.one_of(st.none(), SMALL),
        ),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(OBSERVATIONS, max_size=40, unique_by=lambda one: one.id), st.randoms(use_true_random=False))
def test_no_record_whatsoever_raises_and_its_order_is_no_evidence(observations: list[Observation], random: Any) -> None:
    world = World(ANY_PLATFORM)
    world.tunnel("a", carry=False, until="config")
    world.tunnel("p", carry=False, until="config", proxy=True)
    record = structs.replace(world.record(), observations=tuple(observations))
    judgement = judge(record)
    random.shuffle(observations)
    again = judge(structs.replace(record, observations=tuple(observations)))
    assert msgspec.json.encode(again) == msgspec.json.encode(judgement)


@pytest.mark.parametrize("carries_udp", [False, True])
def test_what_a_tunnel_without_udp_was_not_asked_for(carries_udp: bool) -> None:
    services = (
        Service("web", (Endpoint("https://bird.example/"),)),
        Service("calls", (Endpoint("stun://bird.example:3478"),), required=False),
    )
    world = World(Platform("bird", "Bird", services))
    world.tunnel("t", proxy=True, carries_udp=carries_udp)
    [cell] = judge(world.record()).cells
    assert cell.inside is not None
    calls = {one.service: one for one in cell.inside.services}["calls"]
    assert calls.state is State.INSUFFICIENT
    assert (calls.rule == "endpoint.insufficient.no-udp") is not carries_udp, calls
