"""One run with a bit of everything, that all forms of the report are shown with."""

from __future__ import annotations

from records import KIB, REFUSED, RESET, TIMEOUT, World, platform

from vpntest.plan.model import Kind, Problem
from vpntest.probe.observation import Phase, Record


def story() -> Record:
    """Five platforms and five tunnels: `se` works, `ss` is refused and partly cut, three do not come up."""
    world = World(
        platform("twitter", speed="https://twitter.example/"),
        platform("facebook"),
        platform("bank"),
        platform("lost"),
        platform("wiki"),
    )
    world.line()
    world.tunnel("se", kind=Kind.AMNEZIAWG)
    world.tunnel("ss", proxy=True, tls_unverified=True)
    world.tunnel("ov", until="auth", failure="auth_rejected", kind=Kind.OPENVPN, warnings=("up: ignored, never run",))
    world.tunnel("wg", carry=False)
    world.carry("wg", small=[(3 * KIB, "stalled"), (3 * KIB, "stalled")], down=(), up=())
    world.tunnel("bad", problem=Problem("invalid", "bad.conf:3: key is 31 bytes, not 32\x1b[2J"), kind=Kind.UNKNOWN)
    for vantage in ("outside", "se", "ss"):
        world.reach(vantage, "twitter")
        world.reach(vantage, "lost", fails=f"connect:{REFUSED}")
        world.reach(vantage, "bank", code=200 if vantage == "outside" else 403)
    world.reach("outside", "facebook", fails=f"tls_handshake:{RESET}", neutral=True, times=9)
    world.reach("outside", "facebook", times=1)
    world.reach("se", "facebook")
    world.reach("ss", "facebook", fails=f"http_round_trip:{TIMEOUT}")
    world.reach("outside", "wiki", times=1)
    world.reach("se", "wiki")
    world.reach("ss", "wiki", times=1)
    fast = (9000, 9100, 9200, 9050, 9150)
    world.twice("outside", "twitter", target=(140, 135, 150, 138, 145), neutral=fast, control=fast[:2])
    world.speed("se", "twitter", target=fast, neutral=fast)
    world.phases = (Phase("raise and reach", 0.0, 31.2), Phase("se: raise", 0.1, 2.6), Phase("speed", 31.2, 40.0))
    return world.record()
