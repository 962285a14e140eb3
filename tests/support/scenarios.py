"""Networks that behave like known ones, and what the judge is to say of them.

Scenarios are data: a name, the observations, the expected verdicts. Many follow OONI's QA suite (webconnectivityqa).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import structs
from records import BOGON, FORGED, KIB, LINE_EXIT, REFUSED, RESET, TIMEOUT, TRUE, World, platform
from records import seen as info

from vpntest.judge.verdict import Outcome
from vpntest.plan.model import Endpoint, Platform, Service


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
