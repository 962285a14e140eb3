"""Profiles are whole, and their truth follows from their rules: it is derived here once more, from the rules alone."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec
import pytest

from vpntest.errors import ConfigError, UsageError
from vpntest.lab import profiles, vpn
from vpntest.lab.profiles import BUILT_IN, FURTHER_TUNNELS, OWN, TOR, TUNNELS, Profile, names, read
from vpntest.lab.rules import (
    Cut,
    CutOpenVpn,
    CutWireGuard,
    DropEncrypted,
    DropQuic,
    DropQuicName,
    DropServerHello,
    DropUdp,
    FilterProtocols,
    Freeze,
    FreezeCrowd,
    InjectDns,
    InjectPage,
    InjectReset,
    Intercept,
    Lie,
    Line,
    Police,
    RefuseOpenVpn,
    RefuseWireGuard,
    Reject,
    Reset,
    Rule,
    Unroute,
    Whitelist,
    World,
)
from vpntest.plan import platforms
from vpntest.plan.model import Platform, Service

# Each is read once for all tests: nothing changes them.
load = functools.cache(profiles.load)
platform = functools.cache(profiles.platform)

CENSORS = (
    *("isp_dns_ru", "ru_2021_twitter", "ru_2022_03", "ru_2023_08_vpn", "ru_2024_youtube", "ru_2025_freeze"),
    *("ru_2025_mobile_whitelist", "ru_2026_siberian", "cn_gfw", "cn_henan", "ir_2020", "ir_2025", "tm", "in_jio"),
    *("tr_throttle", "kz_mitm", "wg_block", "ovpn_block", "freeze_bytes", "dns_silence", "exit_inside"),
)
CONTROLS = (
    *("open", "platform_blocks_vpn", "geoblock", "outage", "flaky", "lowmtu", "blackhole", "captive", "slow_line"),
    *("wrong_clock", "dialects"),
)
"""Where nobody blocks anything."""
SCENARIOS = ("ooni",)
"""Of many small worlds in one: their truth is derived in tests of their own."""


@pytest.fixture(params=names())
def profile(request: pytest.FixtureRequest) -> Profile:
    return load(request.param)


def test_the_promised_profiles_are_there() -> None:
    assert names() == sorted(CENSORS + CONTROLS + SCENARIOS)


def test_a_cast_is_of_the_lab_and_in_the_plans_order(profile: Profile) -> None:
    assert list(profile.tunnels) == [tunnel for tunnel in TUNNELS + FURTHER_TUNNELS if tunnel in profile.tunnels]
    assert len(set(profile.platforms)) == len(profile.platforms)
    assert [one.id for one in profile.cast] == list(profile.platforms)


def test_every_entry_of_the_cast_has_its_truth(profile: Profile) -> None:
    if profile.truth.line == "dead":
        assert not profile.truth.cells
        return
    assert list(profile.truth.outside) == list(profile.platforms)
    assert list(profile.truth.tunnels) == list(profile.tunnels)
    assert set(profile.truth.cells) == {(one, other) for one in profile.tunnels for other in profile.platforms}
    optional = {(one.id, service.id) for one in profile.cast for service in one.service if not service.required}
    assert set(profile.truth.services) == optional


def test_every_rule_names_its_source_and_the_year(profile: Profile) -> None:
    for rule in _every_rule(profile):
        assert len(rule.source) > 20
        assert re.search(r"\b20[0-2]\d\b", rule.source), rule.source


def _every_rule(profile: Profile) -> list[Rule]:
    return [*profile.rules, *(rule for rules in profile.exits.values() for rule in rules)]


def test_rules_speak_of_what_the_lab_has(profile: Profile) -> None:
    servers = {host.name for host in vpn.HOSTS}
    shown = {host for one in profile.cast for host in _hosts(one)}
    assert set(profile.exits) <= {host.name for host in vpn.HOSTS if host.forwards}
    for rule in _every_rule(profile):
        assert set(getattr(rule, "servers", ())) <= servers
        assert {*getattr(rule, "platforms", ()), *getattr(rule, "paths", ())} <= set(profile.platforms)
        assert set(getattr(rule, "hosts", ())) <= servers | {"isp", "home", "proxy-2", "control", "cover", "public"}
        if hasattr(rule, "names"):
            assert any(_is_listed(host, rule) for host in shown), rule
        answers = [*getattr(rule, "answers", ()), getattr(rule, "answer", "block-page")]
        for address in {*answers} - {"block-page", "nxdomain", "silence"}:
            ipaddress.IPv4Address(address)
    world = profile.world
    turning_away = {*world.refuses, *world.refuses_line, *world.challenges, *world.challenges_line}
    odd = {*world.certificates, *world.resolves, *world.relays.values(), *world.page_bytes}
    assert odd <= set(profile.platforms)
    # Addresses of the access provider's, and of no server of its own.
    assert all(re.fullmatch(r"198\.18\.53\.1\d\d", relay) for relay in world.relays)
    assert {*world.down, *world.silent} | turning_away <= set(profile.platforms)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_negative_control_accuses_nobody(name: str) -> None:
    profile = load(name)
    truth = profile.truth
    said = [*truth.outside.values(), *truth.services.values(), *truth.tunnels.values(), *truth.cells.values()]
    assert not re.search("block|throttle|freeze|stall|circumvents|breaks", " ".join(map(str, said)))
    assert not profile.rules
    assert not profile.exits
    assert name in ("open", "dialects") or (profile.line, profile.world) != (Line(), World())


@pytest.mark.parametrize("name", CENSORS)
def test_a_censor_does_something(name: str) -> None:
    profile = load(name)
    free = read("free", f'title = "free"\ntunnels = {[*profile.tunnels]}\nplatforms = {[*profile.platforms]}', "free")
    assert profile.rules
    assert profile.truth != free.truth
    assert (profile.line, profile.world) == (Line(), World())


# ── the truth, derived from the rules ────────────────────────────────────────────────────────────────────────────────


def _hosts(one: Platform) -> set[str]:
    urls = [endpoint.url for service in one.service for endpoint in service.endpoint]
    hosts = {urlsplit(url).hostname or "" for url in (*urls, one.speed or "")} | {one.throttled_name or ""}
    return hosts - {""}


def _is_address(host: str) -> bool:
    return re.fullmatch(r"[\d.]+", host) is not None


def _is_listed(host: str, rule: Rule) -> bool:
    beneath = any(host == name or host.endswith(f".{name}") for name in getattr(rule, "names", ()))
    return beneath or any(part in host for part in getattr(rule, "substrings", ()))


def _fate(profile: Profile, of: str, url: str) -> str | None:
    """What the rules make of one endpoint, layer by layer; None where nothing happens to it."""
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
    listing = [rule for rule in profile.rules if _is_listed(host, rule)]
    for rule in listing if not _is_address(host) else ():
        if isinstance(rule, Lie):
            return {"nxdomain": "dns.nxdomain", "silence": "dns.timeout"}.get(rule.answer, "dns.injection")
        if isinstance(rule, InjectDns):
            private = any(re.match(r"10\.|127\.", answer) for answer in rule.answers)
            return "dns.bogon" if private else "dns.injection"
    silence = {"https": "tls.timeout", "http": "http.timeout", "tcp": None, "quic": "quic.timeout"}
    for rule in profile.rules:
        if isinstance(rule, Unroute) and of in rule.platforms:
            return {"quic": "quic.timeout", "stun": "stun.timeout"}.get(scheme, "tcp.timeout")
        if isinstance(rule, Whitelist):
            return silence[scheme]
        if isinstance(rule, Freeze) and rule.packets and of in rule.platforms:
            return "freeze.packets"
        if scheme in ("quic", "stun") and isinstance(rule, DropUdp):
            return f"{scheme}.timeout"
        if scheme == "quic" and isinstance(rule, DropQuic):
            return "quic.timeout"
    for rule in listing:
        match scheme, rule:
            case "https", Reject(paths=paths) if paths and of not in paths:
                continue
            case "https", Reset() | Reject() | InjectReset():
                return "tls.reset.sni"
            case "https", Cut() | DropServerHello():
                return "tls.timeout.sni"
            case "https", Intercept(platforms=led) if of in led:
                return "tls.mitm"
            case "http", InjectPage():
                return "http.blockpage"
            case "quic", DropQuicName():
                return "quic.timeout.sni"
    return None


def _fates(profile: Profile, of: str, service: Service) -> list[str]:
    """Of a service: what happens to its endpoints, or nothing where enough of them are left alone."""
    found = [_fate(profile, of, endpoint.url) for endpoint in service.endpoint]
    works = None in found if service.rule == "any_of" else not any(found)
    return [] if works else [fate for fate in found if fate]


def _is_turned_away(service: Service) -> bool:
    """Whether 403 to every request leaves the service without enough true answers."""
    found = [403 not in endpoint.status for endpoint in service.endpoint if not endpoint.url.startswith("tcp:")]
    return any(found) if service.rule == "all_of" else all(found)


def _outside(profile: Profile, of: str) -> str:
    one = platform(of)
    if of in profile.world.silent:
        return "down tcp.timeout"
    if of in (*profile.world.down, "downer"):
        # Refused before there is anything that a rule could act on.
        return "down tcp.refused"
    fates = [fate for service in one.service if service.required for fate in _fates(profile, of, service)]
    if fates:
        return f"blocked {Counter(fates).most_common(1)[0][0]}"
    # Their pages say 403 only where the platform file does not take that for a true answer.
    if of in profile.world.refuses_line and any(_is_turned_away(part) for part in one.service if part.required):
        return "refused http.403"
    if one.speed and any(isinstance(rule, Freeze) and rule.bytes and of in rule.platforms for rule in profile.rules):
        # What is short passes.
        return "blocked freeze.bytes"
    timed = one.throttled_name or urlsplit(one.speed or "").hostname or ""
    for rule in profile.rules:
        if isinstance(rule, Police) and _is_listed(timed, rule):
            return "throttled throttle.ip" if rule.sticky else "throttled throttle.sni"
    return "ok"


@dataclass(frozen=True)
class Way:
    """What a censor sees of a tunnel."""

    host: str
    protocol: str
    """`wireguard` and `openvpn` where their own bytes are seen; `noise`, `tls`; `odd` for all else."""
    udp: bool = False
    port: int = 443
    proxy: bool = False
    """No handshake before the first data."""
    name: str = ""
    shape: str = ""
    address: str = ""


WAYS = {
    "wireguard": Way("wg-a", "wireguard", udp=True),
    "wireguard-2": Way("wg-b", "wireguard", udp=True),
    "amneziawg": Way("awg", "odd", udp=True),
    "amneziawg-plain": Way("awg", "wireguard", udp=True),
    "openvpn-udp": Way("ovpn", "openvpn", udp=True),
    "openvpn-tcp": Way("ovpn", "openvpn"),
    "shadowsocks-2022": Way("proxy", "noise", port=8388, proxy=True),
    "shadowsocks-aead": Way("proxy", "noise", port=8389, proxy=True),
    "vless-reality": Way("proxy", "tls", proxy=True, name="cover.example", shape="chrome"),
    "trojan": Way("proxy", "tls", proxy=True, name=vpn.TROJAN_NAME, address="proxy-2"),
    "hysteria2": Way("proxy", "odd", udp=True, proxy=True),
    "wrong-credentials": Way("ovpn", "openvpn", udp=True),
    # No rule speaks of them: only their exits count.
    **{name: Way("dialects", "odd") for name in FURTHER_TUNNELS},
    **{name: Way("ovpn", "openvpn") for name in ("openvpn-zip", "command-device")},
    TOR: Way("tor-exit", "odd"),
}


def _tunnel(profile: Profile, tunnel: str) -> str:
    way = WAYS[tunnel]
    free = "handshake auth.rejected" if tunnel == "wrong-credentials" else "up"
    silent = "endpoint data.none" if way.proxy else "endpoint handshake.timeout"
    if not profile.line.icmp and way.udp and not way.proxy and tunnel != "wrong-credentials":
        # Over TCP segments fit, and QUIC makes its packets fit by itself.
        return "data data.mtu"
    for rule in profile.rules:
        match rule:
            case RefuseWireGuard(servers=servers) if way.protocol == "wireguard":
                if not servers or way.host in servers:
                    return silent
            case RefuseOpenVpn() if way.protocol == "openvpn":
                return silent
            case Unroute(servers=servers) if way.host in servers:
                return silent if way.udp else "endpoint-dns endpoint.timeout"
            case DropUdp() if way.udp:
                return silent
            case Whitelist(hosts=hosts) if not {way.host, way.address} & {*hosts}:
                return silent
            case FilterProtocols(ports=ports) if not way.udp and way.port in ports and way.protocol != "tls":
                return silent
            case Freeze(bytes=int(), servers=servers, exempt=exempt) if way.host in servers and way.name not in exempt:
                if not way.udp:
                    return "data data.stall.bytes"
            case Freeze(servers=servers, exempt=exempt) if way.host in servers and way.name not in exempt:
                # Its twelve packets are fewer than the freeze lets pass: see the profile.
                return free if tunnel == "wrong-credentials" else "data data.stall.packets"
            case FreezeCrowd(servers=servers, shape=shape) if way.host in servers and way.shape == shape:
                return "data data.stall.connections"
            case DropEncrypted(servers=servers) if way.host in servers and way.protocol == "noise":
                return "data data.stall.connections"
    # What is dropped from the start is never cut later.
    for rule in profile.rules:
        cut = {CutWireGuard: "wireguard", CutOpenVpn: "openvpn"}.get(type(rule))
        if cut == way.protocol and tunnel != "wrong-credentials":
            return "data data.stall.packets"
    return free


def _exits(profile: Profile) -> int:
    return len({WAYS[tunnel].host for tunnel in profile.tunnels if _tunnel(profile, tunnel) == "up"})


LIVE = [name for name in names() if load(name).truth.line == "alive" and name not in SCENARIOS]


@pytest.mark.parametrize("name", LIVE)
def test_the_states_outside_follow_from_the_rules(name: str) -> None:
    profile = load(name)
    derived = {of: _outside(profile, of) for of in profile.platforms}
    if _exits(profile) < 2:
        # Two exits must see it, independent of each other, before a platform is called down.
        derived = {of: "insufficient" if state.startswith("down") else state for of, state in derived.items()}
    assert {of: str(state) for of, state in profile.truth.outside.items()} == derived


@pytest.mark.parametrize("name", LIVE)
def test_the_optional_services_follow_from_the_rules(name: str) -> None:
    profile = load(name)
    for (of, id), expected in profile.truth.services.items():
        service = next(one for one in platform(of).service if one.id == id)
        fates = _fates(profile, of, service)
        derived = f"blocked {fates[0]}" if fates else "ok"
        if of in profile.world.refuses_line and service.endpoint[0].url.startswith("quic:"):
            derived = "refused http.403"
        if of in profile.world.silent:
            derived = f"down {urlsplit(service.endpoint[0].url).scheme}.timeout"
        assert str(expected) == derived


@pytest.mark.parametrize("name", LIVE)
def test_the_tunnels_follow_from_the_rules(name: str) -> None:
    profile = load(name)
    derived = {tunnel: _tunnel(profile, tunnel) for tunnel in profile.tunnels}
    expected = profile.truth.tunnels
    assert {tunnel: said for tunnel, said in derived.items() if not expected[tunnel].accepts(said)} == {}
    # Whether a tunnel is usable at all is never left to chance.
    assert {tunnel for tunnel, stage in expected.items() if "up" in stage.words} == {
        tunnel for tunnel, said in derived.items() if said == "up"
    }


@pytest.mark.parametrize("name", LIVE)
def test_the_cells_follow_from_their_row_and_column(name: str) -> None:
    profile = load(name)
    derived = {(tunnel, of): _cell(profile, tunnel, of) for tunnel in profile.tunnels for of in profile.platforms}
    assert {place: str(cell) for place, cell in profile.truth.cells.items()} == derived


def _cell(profile: Profile, tunnel: str, of: str) -> str | None:
    """What a tunnel that is up makes of a platform, and that any other makes nothing."""
    outside = profile.truth.outside[of].word
    only_connects = of == "whatsapp" and WAYS[tunnel].proxy and outside == "blocked"
    if _tunnel(profile, tunnel) != "up":
        return "tunnel-down"
    if of in ("refuser", *profile.world.challenges):
        return "refused"
    if of in profile.world.refuses:
        return "partial"
    if outside == "insufficient" or only_connects:
        return "insufficient"
    censored = outside in ("blocked", "throttled")
    follows = {"ok": "open", "down": "platform-down", "refused": "insufficient"}
    meets = {"blocked": "blocked" if censored else "breaks", "throttled": "throttled"}
    return meets.get(_inside(profile, tunnel, of), "circumvents" if censored else follows.get(outside))


def _inside(profile: Profile, tunnel: str, of: str) -> str:
    """The state that the rules at a tunnel's exit make of a platform, if there are any."""
    rules = profile.exits.get(WAYS[tunnel].host, ())
    return _outside(msgspec.structs.replace(profile, rules=rules, world=World()), of).split()[0]


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_profile_that_extends_another_is_that_and_more() -> None:
    earlier, later = load("ru_2022_03"), load("ru_2023_08_vpn")
    assert later.rules[: len(earlier.rules)] == earlier.rules
    assert len(later.rules) > len(earlier.rules)
    assert later.truth.outside == earlier.truth.outside
    assert later.truth.services == earlier.truth.services
    assert later.truth.tunnels != earlier.truth.tunnels


def test_what_a_profile_says_itself_goes_before_what_it_inherits() -> None:
    text = """
title = "later"
extends = "ru_2022_03"
[line]
mtu = 1400
[truth.outside]
signal = "ok"
"""
    later, earlier = read("later", text, "later.toml"), load("ru_2022_03")
    assert later.title == "later"
    assert later.line == Line(mtu=1400)
    assert later.rules == earlier.rules
    changed = {one for one, state in later.truth.outside.items() if state != earlier.truth.outside[one]}
    assert changed == {"signal"}
    assert str(later.truth.cells["trojan", "signal"]) == "open"


def test_a_profile_may_bring_platforms_that_no_other_knows() -> None:
    text = """
title = "own"
tunnels = ["trojan"]
platforms = ["youtube"]
[[platform]]
id = "mine"
title = "Mine"
service = [{ id = "web", endpoint = [{ url = "https://mine.example/" }] }]
"""
    own = read("own", text, "own.toml")
    assert own.platforms == ("youtube", "mine")
    assert [one.title for one in own.cast] == ["YouTube", "Mine"]
    assert str(own.truth.cells["trojan", "mine"]) == "open"
    with pytest.raises(ConfigError, match="mine"):
        platform("mine")


def test_without_a_word_all_is_there_and_free() -> None:
    assert load("open").rules == ()
    assert load("open").tunnels == TUNNELS
    assert load("open").platforms == BUILT_IN + OWN
    assert set(BUILT_IN) == {one.id for one in platforms.built_in()}


def test_an_unknown_profile_is_a_slip_of_the_hand() -> None:
    with pytest.raises(UsageError, match=r"no profile 'ru_2099'.*ru_2022_03"):
        load("ru_2099")
    with pytest.raises(UsageError):
        load("../platforms/twitter")


SMALL = """
title = "small"
tunnels = ["trojan"]
platforms = ["youtube"]
{}
[truth.outside]
youtube = "blocked tls.reset.sni"
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL.format('colour = "red"'), "colour"),
        (SMALL.format('extends = "ru_2099"'), "ru_2099"),
        (SMALL.format('[[rule]]\ndo = "annoy"\nsource = "x"'), "annoy"),
        (SMALL.format('[[rule]]\ndo = "reset"\nsource = "x"'), r"names.*rule\[0\]"),
        (SMALL.format('[[rule]]\ndo = "cut"\nsource = "x"\nnames = ["a.example"]\npackets = -1'), r"packets"),
        (SMALL.format('[[rule]]\ndo = "reset"\nsource = "x"\nnames = ["a|b"]'), r"names"),
        (SMALL.format('[[rule]]\ndo = "reset"\nsource = "x"\nnames = ["a.example"]\nports = [80]'), r"ports"),
        (SMALL.format('[[exit.wg-a]]\ndo = "annoy"\nsource = "x"'), "annoy"),
        (SMALL.format('[[exit.wg-a]]\ndo = "lie"\nsource = "x"\nnames = ["a.example"]'), r"resolver.*exit"),
        (SMALL.format("[line]\nweather = 3"), "weather"),
        (SMALL.format("[world]\ndown = 3"), "down"),
        (SMALL.format("").replace("youtube =", "facebook ="), "facebook"),
        (SMALL.format("").replace("trojan", "carrier-pigeon"), "carrier-pigeon"),
        (SMALL.format("").replace('["youtube"]', '["myspace"]'), "myspace"),
        (SMALL.format("").replace("blocked", "ajar"), "ajar"),
        (SMALL.format("").replace("[truth.outside]", "[truth.lies]"), "lies"),
        ("title = ", "Invalid value"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises((ConfigError, UsageError), match=said) as caught:
        read("small", text, "small.toml")
    assert "\n" not in str(caught.value)


def test_a_fault_is_said_with_its_file() -> None:
    with pytest.raises(ConfigError) as caught:
        read("small", SMALL.format('colour = "red"'), "small.toml")
    assert str(caught.value).startswith("small.toml: ")


def test_the_small_one_is_sound() -> None:
    small = profiles.read("small", SMALL.format(""), "small.toml")
    assert {key: str(cell) for key, cell in small.truth.cells.items()} == {("trojan", "youtube"): "circumvents"}
