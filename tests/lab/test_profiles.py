"""Profiles are whole: each speaks of every tunnel and platform, and its truth follows from its rules."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from vpntest.errors import ConfigError, UsageError
from vpntest.judge.verdict import Outcome
from vpntest.lab.censor import Cut, CutOpenVpn, CutWireGuard, Lie, Police, RefuseWireGuard, Reset, Unroute
from vpntest.lab.internet import BUILT_IN, OWN
from vpntest.lab.profiles import Profile, load, names, read
from vpntest.plan import platforms

TUNNELS = (
    *("wireguard", "wireguard-2", "amneziawg", "amneziawg-plain", "openvpn-udp", "openvpn-tcp"),
    *("shadowsocks-2022", "shadowsocks-aead", "vless-reality", "trojan", "hysteria2", "wrong-credentials"),
)
MECHANISM = {Police: "throttle.sni", Reset: "tls.reset.sni", Cut: "tls.timeout.sni", Lie: "dns.injection"}

SMALL = """
title = "small"
{}
[truth]
cells = '''
    bird
one open
'''
[truth.outside]
bird = "ok"
[truth.tunnels]
one = "up"
"""


@pytest.fixture(params=names())
def profile(request: pytest.FixtureRequest) -> Profile:
    return load(request.param)


def test_the_promised_profiles_are_there() -> None:
    assert {"open", "ru_2022_03", "ru_2023_08_vpn"} <= set(names())


def test_every_tunnel_and_platform_has_its_truth(profile: Profile) -> None:
    assert list(profile.truth.outside) == [*BUILT_IN, *OWN]
    assert list(profile.truth.tunnels) == list(TUNNELS)
    assert set(profile.truth.cells) == {(tunnel, platform) for tunnel in TUNNELS for platform in (*BUILT_IN, *OWN)}


def test_every_rule_names_its_source(profile: Profile) -> None:
    assert all(len(rule.source) > 20 for rule in profile.rules)


def test_the_cells_follow_from_their_row_and_column(profile: Profile) -> None:
    """The table of outcomes: what a tunnel that is up makes of a platform, and that any other makes nothing."""
    for (tunnel, platform), outcome in profile.truth.cells.items():
        outside = profile.truth.outside[platform].word
        if profile.truth.tunnels[tunnel].word != "up":
            assert outcome is Outcome.TUNNEL_DOWN
        elif platform == "refuser":
            assert outcome is Outcome.REFUSED
        elif outside == "down":
            assert outcome is Outcome.PLATFORM_DOWN
        else:
            assert outcome is (Outcome.OPEN if outside == "ok" else Outcome.CIRCUMVENTS)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_state_outside_follows_from_the_rules(profile: Profile, name: str) -> None:
    """Every name of a platform falls under the same rule, or under none: else its state would be `partial`."""
    platform = platforms.find(name)
    urls = [endpoint.url for service in platform.service for endpoint in service.endpoint]
    hosts = {host for url in urls if (host := urlsplit(url).hostname)}
    if platform.speed:
        hosts.add(urlsplit(platform.speed).hostname or "")
    expected = profile.truth.outside[name]
    if any(isinstance(rule, Unroute) and name in rule.platforms for rule in profile.rules):
        assert str(expected) == "blocked tcp.timeout"
        return
    found = {
        next(
            (
                MECHANISM[type(rule)]
                for rule in profile.rules
                if type(rule) in MECHANISM
                and any(host == listed or host.endswith(f".{listed}") for listed in rule.names)
            ),
            None,
        )
        for host in hosts
    }
    assert found == {expected.mechanism}


def test_the_tunnels_follow_from_the_rules(profile: Profile) -> None:
    refused = {server for rule in profile.rules if isinstance(rule, RefuseWireGuard) for server in rule.servers}
    cut: set[str] = set()
    for rule in profile.rules:
        if isinstance(rule, CutWireGuard):
            cut |= {"wireguard", "wireguard-2", "amneziawg-plain"}
        elif isinstance(rule, CutOpenVpn):
            cut |= {"openvpn-udp", "openvpn-tcp"}
    for tunnel, stage in profile.truth.tunnels.items():
        if tunnel == "wrong-credentials":
            assert str(stage) == "handshake auth.rejected"
        elif tunnel == "wireguard-2" and "wg-b" in refused:
            assert str(stage) == "endpoint handshake.timeout"
        else:
            assert str(stage) == ("data data.stall.packets" if tunnel in cut else "up")


def test_a_profile_that_extends_another_has_its_rules_first() -> None:
    earlier, later = load("ru_2022_03").rules, load("ru_2023_08_vpn").rules
    assert later[: len(earlier)] == earlier
    assert len(later) > len(earlier)
    assert load("open").rules == ()


def test_an_unknown_profile_is_a_slip_of_the_hand() -> None:
    with pytest.raises(UsageError, match=r"no profile 'ru_2099'.*ru_2022_03"):
        load("ru_2099")
    with pytest.raises(UsageError):
        load("../platforms/twitter")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL.format('colour = "red"'), "colour"),
        (SMALL.format('[[rule]]\ndo = "annoy"\nsource = "x"'), "annoy"),
        (SMALL.format('[[rule]]\ndo = "reset"\nsource = "x"'), r"names.*rule\[0\]"),
        (SMALL.format('[[rule]]\ndo = "cut"\nsource = "x"\nnames = ["a.example"]\npackets = -1'), r"packets"),
        (SMALL.format('[[rule]]\ndo = "reset"\nsource = "x"\nnames = ["a|b"]'), r"names"),
        (SMALL.format('[[rule]]\ndo = "reset"\nsource = "x"\nnames = ["a.example"]\nports = [80]'), r"ports"),
        (SMALL.format("").replace("open", "ajar"), "ajar"),
        (SMALL.format("").replace("[truth", "[lie"), "truth|lie"),
        ("title = ", "Invalid value"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read("small", text, "small.toml")
    assert str(caught.value).startswith("small.toml: ")
    assert "\n" not in str(caught.value)


def test_the_small_one_is_sound() -> None:
    assert read("small", SMALL.format(""), "small.toml").truth.cells == {("one", "bird"): Outcome.OPEN}
