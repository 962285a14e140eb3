"""All of OONI's scenarios for Web Connectivity: its conclusions and ours, and what is left out, with the reason."""

from __future__ import annotations

from collections import Counter
from urllib.parse import urlsplit

import pytest

from vpntest.lab.profiles import Profile, load
from vpntest.lab.rules import InjectPage, InjectReset, Lie, Police, Unroute
from vpntest.plan.model import Platform

PROFILE = load("ooni")

NO_REDIRECT = "no redirect is followed: the first answer, under its certificate or held against others, is the fact"

SCENARIOS: dict[str, tuple[str, str]] = {
    # Name in ooni/probe-cli, internal/webconnectivityqa: (its blocking/accessible, ours outside). Where ours begins
    # with `-`, the scenario is left out, and this is why.
    "badSSLWithExpiredCertificate": ("false/false", "down tls.certificate"),
    "badSSLWithWrongServerName": ("false/false", "down tls.certificate"),
    "badSSLWithUnknownAuthorityWithConsistentDNS": ("false/false", "down tls.certificate"),
    "badSSLWithUnknownAuthorityWithInconsistentDNS": ("dns/false", "blocked dns.injection"),
    # OONI says itself that it is forced to this by what its test can see (ooni/probe#2661).
    "cloudflareCAPTCHAWithHTTP": ("http-diff/false", "insufficient"),
    "cloudflareCAPTCHAWithHTTPS": ("false/true", "refused http.challenge"),
    "controlFailureWithSuccessfulHTTPWebsite": ("null/null", "- there is no helper that could fail; see dead lines"),
    "controlFailureWithSuccessfulHTTPSWebsite": ("false/true", "- there is no helper that could fail; see dead lines"),
    "dnsBlockingAndroidDNSCacheNoData": ("dns/false", "- a word of Android's resolver library, which is not asked"),
    "dnsBlockingBOGON": ("dns/false", "blocked dns.bogon"),
    "dnsBlockingNXDOMAIN": ("dns/false", "blocked dns.nxdomain"),
    "dnsHijackingToLocalhostWithHTTP": ("dns/false", "blocked dns.bogon"),
    "dnsHijackingToLocalhostWithHTTPS": ("dns/false", "blocked dns.bogon"),
    "dnsHijackingToProxyWithHTTPURL": ("false/true", "ok"),
    "dnsHijackingToProxyWithHTTPSURL": ("false/true", "ok"),
    # The site is gone, for everybody; nobody can be kept from it, and no tunnel brings it back.
    "ghostDNSBlockingWithHTTP": ("dns/false", "insufficient"),
    "ghostDNSBlockingWithHTTPS": ("dns/false", "down dns.injection"),
    "httpBlockingConnectionReset": ("http-failure/false", "blocked http.reset"),
    "httpDiffWithConsistentDNS": ("http-diff/false", "blocked http.blockpage"),
    # The two with another address: it is a proxy's, which by itself is `ok`, as above. What blocks is on both ways.
    "httpDiffWithInconsistentDNS": ("dns/false", "blocked http.blockpage"),
    "idnaWithoutCensorshipLowercase": ("false/true", "ok"),
    "idnaWithoutCensorshipWithFirstLetterUppercase": ("false/true", "ok"),
    "largeFileWithHTTP": ("false/true", "ok"),
    "largeFileWithHTTPS": ("false/true", "ok"),
    "localhostWithHTTP": ("false/false", "down dns"),
    "localhostWithHTTPS": ("false/false", "down dns"),
    "redirectWithBrokenLocationForHTTP": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithBrokenLocationForHTTPS": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithConsistentDNSAndThenConnectionRefusedForHTTP": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithConsistentDNSAndThenConnectionRefusedForHTTPS": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithConsistentDNSAndThenConnectionResetForHTTP": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithConsistentDNSAndThenConnectionResetForHTTPS": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithConsistentDNSAndThenNXDOMAIN": ("dns/false", f"- {NO_REDIRECT}"),
    "redirectWithConsistentDNSAndThenEOFForHTTP": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithConsistentDNSAndThenEOFForHTTPS": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithConsistentDNSAndThenTimeoutForHTTP": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithConsistentDNSAndThenTimeoutForHTTPS": ("http-failure/false", f"- {NO_REDIRECT}"),
    "redirectWithMoreThanTenRedirectsAndHTTP": ("false/false", f"- {NO_REDIRECT}"),
    "redirectWithMoreThanTenRedirectsAndHTTPS": ("false/false", f"- {NO_REDIRECT}"),
    "successWithHTTP": ("false/true", "ok"),
    "successWithHTTPS": ("false/true", "ok"),
    "tcpBlockingConnectTimeout": ("tcp_ip/false", "blocked tcp.timeout"),
    "tcpBlockingConnectionRefusedWithInconsistentDNS": ("dns/false", "blocked dns.injection"),
    "throttlingWithHTTP": (
        "http-failure/false",
        "- goodput is compared by names in TLS; OONI skips it (ooni/probe#2668)",
    ),
    "throttlingWithHTTPS": ("http-failure/false", "throttled throttle.sni"),
    "tlsBlockingConnectionResetWithConsistentDNS": ("http-failure/false", "blocked tls.reset.sni"),
    "tlsBlockingConnectionResetWithInconsistentDNS": ("dns/false", "blocked tls.reset.sni"),
    "websiteDownNXDOMAIN": ("false/false", "down dns.nxdomain"),
    "websiteDownNoAddrs": ("false/false", "down dns.no-answer"),
    "websiteDownTCPConnect": ("false/false", "down tcp.refused"),
}
TOLD = {name: ours for name, (_, ours) in SCENARIOS.items() if not ours.startswith("-")}
OWN = "plain"
"""None of OONI's: a block page at a resolver's lie, over HTTP, while the true page still stands."""


def test_each_of_ooni_s_scenarios_is_told_or_left_out_with_its_reason() -> None:
    assert len(SCENARIOS) == 50
    assert [one.title for one in PROFILE.brought] == list(TOLD)
    assert {platform.id for platform in PROFILE.cast} - {one.id for one in PROFILE.brought} == {OWN}
    left_out = Counter(ours for _, ours in SCENARIOS.values() if ours.startswith("-"))
    assert sorted(left_out.values()) == [1, 1, 2, 13]


@pytest.mark.parametrize("one", PROFILE.brought, ids=lambda one: one.title)
def test_the_truth_is_that_of_the_table(one: Platform) -> None:
    assert str(PROFILE.truth.outside[one.id]) == TOLD[one.title]
    # Each has one endpoint, with the scheme that its name tells where there is one of each.
    ((endpoint,),) = (service.endpoint for service in one.service)
    if one.title.endswith(("HTTP", "HTTPS")):
        assert urlsplit(endpoint.url).scheme == ("https" if one.title.endswith("HTTPS") else "http")


@pytest.mark.parametrize("one", PROFILE.brought, ids=lambda one: one.title)
def test_the_truth_follows_from_the_rules_and_the_world(one: Platform) -> None:
    assert str(PROFILE.truth.outside[one.id]) == outside(PROFILE, one)


@pytest.mark.parametrize("one", PROFILE.brought, ids=lambda one: one.title)
def test_what_ooni_calls_blocked_is_never_open_and_what_it_calls_accessible_never_blocked(one: Platform) -> None:
    blocking, accessible = SCENARIOS[one.title][0].split("/")
    state = PROFILE.truth.outside[one.id].word
    cells = {str(PROFILE.truth.cells[tunnel, one.id]) for tunnel in PROFILE.tunnels}
    if accessible == "true":
        assert state in ("ok", "refused")
        assert cells <= {"open", "insufficient"}
    elif blocking == "false":
        assert state == "down"
        assert cells == {"platform-down"}
    else:
        assert state != "ok"
        assert "open" not in cells
        # Blocked or not, it works behind the tunnels wherever there is a site left.
        gone = one.id in PROFILE.world.resolves
        assert cells == {"circumvents"} if state in ("blocked", "throttled") else gone or state == "insufficient"


def outside(profile: Profile, one: Platform) -> str:
    """What must be concluded of a site, step by step as a request goes."""
    world = profile.world
    url = urlsplit(one.service[0].endpoint[0].url)
    name, scheme = url.hostname or "", url.scheme
    listing = [rule for rule in profile.rules if any(is_beneath(name, told) for told in getattr(rule, "names", ()))]
    lie = next((rule.answer for rule in listing if isinstance(rule, Lie)), None)
    if said := world.resolves.get(one.id):
        if lie:
            # Somebody else's page in the place of what is nowhere.
            return "down dns.injection" if scheme == "https" else "insufficient"
        return f"down {({'nxdomain': 'dns.nxdomain', 'no-address': 'dns.no-answer'}).get(said, 'dns')}"
    if lie and lie not in world.relays:
        kinds = {"10.10.34.35": "dns.bogon", "127.0.0.1": "dns.bogon", "nxdomain": "dns.nxdomain"}
        return f"blocked {kinds.get(lie, 'dns.injection')}"
    if one.id in world.down:
        return "down tcp.refused"
    for rule in profile.rules:
        if isinstance(rule, Unroute) and one.id in rule.platforms:
            return "blocked tcp.timeout"
    if one.id in world.certificates:
        return "down tls.certificate"
    for rule in listing:
        if isinstance(rule, InjectReset):
            return "blocked tls.reset.sni" if scheme == "https" else "blocked http.reset"
        if isinstance(rule, InjectPage) and scheme == "http":
            return "blocked http.blockpage"
        if isinstance(rule, Police):
            return "throttled throttle.sni"
    if one.id in world.challenges_line:
        return "refused http.challenge" if scheme == "https" else "insufficient"
    return "ok"


def is_beneath(name: str, told: str) -> bool:
    return name == told or name.endswith(f".{told}")
