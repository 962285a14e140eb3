"""A redacted record: nothing of what was planted is in any byte of any form, and the judge says the same of it."""

from __future__ import annotations

import base64
import ipaddress
import re
import zlib
from datetime import UTC, datetime
from html import unescape
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import RESET, World, platform
from story import story

from vpntest.judge.judging import judge
from vpntest.judge.verdict import Judgement
from vpntest.plan.model import Endpoint, Kind, Platform, Problem, Service
from vpntest.probe.observation import (
    DnsAnswer,
    HttpExchange,
    Phase,
    Record,
    RungStep,
    StunBinding,
    TlsHandshake,
    TunnelFacts,
    VantageFacts,
)
from vpntest.report.document import decode, encode
from vpntest.report.forms import FORMS, Form, Look, written
from vpntest.report.redaction import REDACTED, redacted

PLANTED = (
    "203.0.113.9",
    "203-0-113-9",
    "8.41.7.99",
    "2a0f:7803:1:2::9",
    "8.41.7.1",
    "192.168.77.1",
    "8.41.7.50",
    "51235",
    "se-wg-007.provider.example",
    "se-wg-007",
    "43117",
    "alice",
    "night.conf",
    "Example Telecom",
    "blocked.telecom",
    "Telecom CA",
    "ab" * 32,
    "0189ffff",
    "03:17",
    "box-in-attic",
    "64999",
    "qzjxkvbnwpty",
    "3fa2c1",
)


def planted() -> Record:
    """A run whose every corner tells where it was made."""
    world = World(platform("bird"), platform("cat", "http://cat.example/"))
    world.line(resolver="8.41.7.1", ipv6="2a0f:7803:1:2::9")
    world.tunnel("se-wg-007", servers=("se-wg-007.provider.example:43117/udp",), kind=Kind.WIREGUARD)
    world.tunnel("links-vless-3fa2c1d4", servers=("203.0.113.9:43117/tcp", "[2a0f:7803:1:2::9]:443/tcp"))
    world.tunnel(
        "bad",
        problem=Problem("invalid", "/home/alice/night.conf:3: se-wg-007.provider.example is no address"),
        warnings=("it reads /home/alice/up.sh; see 203.0.113.9", "the same config as links-vless-3fa2c1d4"),
        kind=Kind.UNKNOWN,
    )
    world.addresses("outside", exit="8.41.7.99", resolver="8.41.7.50", ipv6="2a0f:7803:1:2::9")
    world.reach("outside", "bird", fails=f"tls_handshake:{RESET}", neutral=True)
    world.reach("outside", "cat")
    for tunnel in ("se-wg-007", "links-vless-3fa2c1d4"):
        for name in ("bird", "cat"):
            world.reach(tunnel, name)
    add = world.add
    random = DnsAnswer("qzjxkvbnwpty.example.org", "A", "192.168.77.1:53", "vantage", "NOERROR", ("8.41.7.50",))
    add("outside", "names", "resolve", random, target="qzjxkvbnwpty.example.org", role="control")
    page = HttpExchange(
        "GET",
        "http://cat.example/",
        "http/1.1",
        code=302,
        body_length=0,
        server="Example Telecom filter",
        location="http://blocked.telecom.example/?ip=8.41.7.99&s=203.0.113.9",
        title="Blocked by Example Telecom",
    )
    add("outside", "reach", "http_round_trip", page, target="http://cat.example/", platform="cat", attempt=9)
    forged = TlsHandshake("8.41.7.50:443", "cat.example", False, peer_certificate="ab" * 32, issuer="CN=Telecom CA")
    add("outside", "reach", "tls_handshake", forged, target="8.41.7.50:443", platform="cat", attempt=9)
    add("outside", "reach", "stun_binding", StunBinding("8.41.7.3:3478", "8.41.7.99:51235"), target="8.41.7.3:3478")
    add("bad", "rung", "tunnel", RungStep("config", "cannot read /home/alice/night.conf"), "invalid", target="bad")
    unknown = "unknown_failure: OSError: no way to 203.0.113.9 by se-wg-007.provider.example."
    add("se-wg-007", "reach", "connect", RungStep("endpoint"), unknown, target="203.0.113.9:43117")
    record = world.record()
    tunnels = tuple(
        msgspec.structs.replace(facts, source="/home/alice/night.conf" if facts.name != "bad" else "night.conf")
        for facts in record.tunnels
    )
    run = msgspec.structs.replace(
        record.run,
        id="0189ffff-0000-7000-8000-000000000000",
        started="2026-11-20T03:17:00+00:00",
        vantage=VantageFacts("box-in-attic", "RU", 64999),
        phases=(Phase("links-vless-3fa2c1d4: raise", 0.0, 1.0), Phase("speed", 1.0, 2.0)),
    )
    return msgspec.structs.replace(record, run=run, tunnels=tunnels)


def verdicts(record: Record) -> Judgement:
    """What is judged, without words that name places; witnesses in no order, tunnels by number."""
    numbers = {facts.name: f"tunnel {number}" for number, facts in enumerate(record.tunnels)}

    def neutral(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {name: neutral(one, name) for name, one in value.items() if name != "detail"}
        if isinstance(value, list | tuple):
            made = [neutral(one, key) for one in value]
            return sorted(made, key=str) if key == "witnesses" else made
        return numbers.get(value, value) if key in ("tunnel", "vantage") and isinstance(value, str) else value

    return msgspec.convert(neutral(msgspec.to_builtins(judge(record))), Judgement)


def text_of(form: Form, record: Record) -> str:
    """All that a form says, what it packs included."""
    said = "".join(written(form, record, judge(record), Look(width=10_000)))
    packed = re.search(r'id="details">([^<]*)<', said) if form == "html" else None
    return said + (zlib.decompress(base64.b64decode(packed[1]), -15).decode() if packed else "")


def test_what_is_planted_is_there_without_redaction() -> None:
    record = planted()
    whole = "".join(text_of(form, record) for form in FORMS)
    assert [what for what in PLANTED if what not in whole and what != "203-0-113-9"] == []


@pytest.mark.parametrize("form", FORMS)
def test_nothing_planted_is_left_in_any_byte(form: Form) -> None:
    kept = text_of(form, redacted(planted())).lower()
    assert [what for what in PLANTED if what.lower() in kept] == []


@pytest.mark.parametrize("form", FORMS)
def test_each_form_lists_what_was_taken_out(form: Form) -> None:
    told = " ".join(unescape(text_of(form, redacted(planted()))).split())
    assert [what for what in REDACTED if what not in told] == []


@pytest.mark.parametrize("record", [planted(), story()], ids=["planted", "story"])
def test_the_judge_says_the_same(record: Record) -> None:
    made = redacted(record)
    assert verdicts(made) == verdicts(record)
    # And of what was published, as of any kept run.
    assert decode(encode(made, judge(made))) == made


def test_what_was_taken_out_is_listed_and_taken_out_once() -> None:
    made = redacted(planted())
    assert made.run.redacted == REDACTED
    assert redacted(made) == made
    assert story().run.redacted == ()


def test_it_is_a_function_of_the_record_alone() -> None:
    assert redacted(planted()) == redacted(planted())
    world = World()
    world.tunnel("a", servers=tuple(f"8.{number}.7.7:443/tcp" for number in range(20)), carry=False)
    [facts] = redacted(world.record()).tunnels
    # In the order of the record, which is the same in each process.
    assert facts.servers == tuple(f"198.18.0.{number}:1/tcp" for number in range(1, 21))


def test_equal_addresses_stay_equal_and_bogons_bogons() -> None:
    made = redacted(planted())
    exits = [one.details for one in made.observations if one.probe == "exit"]
    assert {type(ipaddress.ip_address(one.address)).__name__ for one in exits if one.address} == {
        "IPv4Address",
        "IPv6Address",
    }
    [random] = [one.details for one in made.observations if getattr(one.details, "hostname", "").startswith("name-")]
    assert ipaddress.ip_address(random.resolver_address.rpartition(":")[0]) in ipaddress.ip_network("240.0.0.0/4")
    [forged] = [one for one in made.observations if getattr(one.details, "issuer", None)]
    assert random.answers[0] == forged.target.rpartition(":")[0]
    assert forged.details.issuer == "issuer 1"
    assert len(forged.details.peer_certificate) == 64


def test_what_names_a_platform_or_a_tunnel_stays() -> None:
    record = story()
    made = redacted(record)
    assert [facts.name for facts in made.tunnels] == [facts.name for facts in record.tunnels]
    assert made.platforms == record.platforms
    assert [(one.t0, one.t) for one in made.observations] == [(one.t0, one.t) for one in record.observations]


def test_a_name_that_tells_of_a_server_is_another() -> None:
    made = redacted(planted())
    assert [facts.name for facts in made.tunnels] == ["wireguard-tunnel-1", "wireguard-tunnel-2", "bad"]
    assert [phase.name for phase in made.run.phases] == ["wireguard-tunnel-2: raise", "speed"]
    assert made.tunnels[0].servers == ("server-1.invalid:1/udp",)
    v4, v6 = made.tunnels[1].servers
    assert re.fullmatch(r"240\.0\.0\.\d+:1/tcp", v4)
    assert re.fullmatch(r"\[fd00::\w+\]:1/tcp", v6)
    assert made.tunnels[2].problem == Problem("invalid", "config:3: server-1.invalid is no address")


@pytest.mark.parametrize(
    ("name", "source", "server"),
    [
        ("nl1-secretvpn", "nl1-secretvpn.conf", "nl1.secretvpn.example:443/tcp"),
        ("amsterdam", "amsterdam.conf", "amsterdam.hidden.example:443/tcp"),
        ("amsterdam", "a.conf", "amsterdam.hidden.example:443/tcp"),
        ("hidden", "hidden.conf", "amsterdam.hidden.example:443/tcp"),
        ("home", "a.conf", "home.example:443/tcp"),
        ("se-sto-wg-001", "se-sto-wg-001.conf", "203.0.113.9:443/udp"),
        ("us9999-nordvpn-com-udp", "nord/us9999-nordvpn-com-udp.ovpn", "203.0.113.9:1194/udp"),
        ("nord-us9999.nordvpn.com.udp", "nord.zip/US9999.nordvpn.com.udp.ovpn", "203.0.113.9:1194/udp"),
        ("a-very-long-name-of-a-file-with-a-3a2b4c", "a-very-long-name-of-a-file-with-a-number-17.conf", ""),
        ("links-nl-1-ams", "links.txt", "203.0.113.9:8388/tcp"),
        ("mullvad3-oslo", "mullvad3.zip/NL/oslo.conf", "203.0.113.9:443/udp"),
        ("nl1", "x.conf", "nl1.secretvpn.example:443/tcp"),
        ("mine-nl1", "x.conf", "nl1.secretvpn.example:443/tcp"),
        ("vpn_203_0_113_9", "x.conf", "203.0.113.9:443/udp"),
    ],
)
def test_names_that_providers_give_are_others(name: str, source: str, server: str) -> None:
    made = redacted(named((name, source, server)))
    assert [facts.name for facts in made.tunnels] == ["wireguard-tunnel-1"]
    assert name not in encode(made, judge(made)).decode()


@pytest.mark.parametrize(
    ("name", "source", "server"),
    [
        ("sweden", "sweden.conf", "203.0.113.9:443/udp"),
        ("sweden-2", "se-sto-wg-001.conf", "203.0.113.9:443/udp"),
        ("mullvad-se", "a.conf", "relay.mullvad.example:443/udp"),
        ("se", "se.conf", "se.provider.example:443/udp"),
        ("shadowsocks-2022", "uri", "203.0.113.9:443/tcp"),
    ],
)
def test_names_that_a_plan_gives_stay(name: str, source: str, server: str) -> None:
    [facts] = redacted(named((name, source, server))).tunnels
    assert facts.name == name


def test_the_names_of_one_list_stay_only_without_digits() -> None:
    made = redacted(named(("mine-nl-1", "links.txt", ""), ("mine-oslo", "links.txt", "")))
    assert [facts.name for facts in made.tunnels] == ["wireguard-tunnel-1", "mine-oslo"]


@pytest.mark.parametrize("name", ["public", "vantage", "http2", "h3", "bird", "a", "tls_handshake", "control", "get"])
def test_a_word_that_means_itself_is_left_alone(name: str) -> None:
    record = named((name, f"{name}.conf", f"{name}.provider1.example:1/udp"), (f"{name}7", f"{name}7.conf", ""))
    made = redacted(record)
    assert verdicts(made) == verdicts(record)
    assert made.tunnels[1].name.startswith("wireguard-tunnel-")
    assert made.tunnels[1].warnings == (f"the same config as {made.tunnels[1].name}: it may",)


def test_two_nights_of_one_plan_have_the_same_names() -> None:
    tonight = named(("nl1", "nl1.conf", ""), ("nl2", "nl2.conf", ""))
    other = TunnelFacts("de1", Kind.OPENVPN, "de1.ovpn")
    tomorrow = msgspec.structs.replace(tonight, tunnels=(other, *tonight.tunnels))
    assert [facts.name for facts in redacted(tonight).tunnels] == ["wireguard-tunnel-1", "wireguard-tunnel-2"]
    names = [facts.name for facts in redacted(tomorrow).tunnels]
    assert names == ["openvpn-tunnel-1", "wireguard-tunnel-1", "wireguard-tunnel-2"]


def named(*tunnels: tuple[str, str, str]) -> Record:
    """A run of tunnels, each with a name, a file and a server."""
    world = World(platform("bird"))
    world.line()
    for name, source, server in tunnels:
        world.tunnel(name, servers=(server,) if server else (), warnings=(f"the same config as {name}: it may",))
        world.tunnels[-1] = msgspec.structs.replace(world.tunnels[-1], source=source)
        world.reach(name, "bird")
    return world.record()


def test_the_servers_of_two_tunnels_stay_the_same_or_not() -> None:
    world = World()
    world.tunnel("a", servers=("a.example:1194/udp",))
    world.tunnel("b", servers=("a.example:1194/udp",))
    world.tunnel("c", servers=("a.example:443/tcp",))
    one, two, three = (facts.servers for facts in redacted(world.record()).tunnels)
    assert one == two != three


def test_an_address_that_a_platform_is_reached_by_stays() -> None:
    endpoints = (Endpoint("http://149.154.167.50/"), Endpoint("http://[2001:67c:4e8:f002::a]/"))
    world = World(Platform("chat", "Chat", (Service("app", endpoints),)))
    world.line()
    world.add("outside", "reach", "connect", RungStep("x"), target="149.154.167.50:80", platform="chat")
    world.add("outside", "reach", "connect", RungStep("x"), target="149.154.167.51:80", platform="chat")
    made = redacted(world.record())
    assert made.platforms == world.record().platforms
    assert made.observations[-2].target == "149.154.167.50:80"
    assert made.observations[-1].target.startswith("198.1")
    assert made.observations[-1].target != "149.154.167.51:80"


def test_the_hour_stays_and_the_id_is_a_uuid_of_it() -> None:
    run = redacted(planted()).run
    assert run.started == "2026-11-20T03:00:00+00:00"
    made = UUID(run.id)
    assert made.version == 7
    assert made.int >> 80 == int(datetime(2026, 11, 20, 3, tzinfo=UTC).timestamp() * 1000)
    assert run.vantage == VantageFacts(None, "RU", None)


def test_a_time_that_is_none_is_no_fault() -> None:
    record = story()
    odd = msgspec.structs.replace(record, run=msgspec.structs.replace(record.run, started="tonight"))
    assert redacted(odd).run.started == "1970-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("no way to 8.8.4.4:53", r"no way to 198\.18\.0\.\d+:53"),
        ("no way to [2a00:1450::9]:53.", r"no way to \[fd00::\w+\]:53\."),
        ("from ::ffff:8.8.4.4", r"from 2001:db8::\w+"),
        ("fe80::1%eth0 is down", r"2001:db8::\w+ is down"),
        ("at 010.008.8.1!", r"at 240\.0\.0\.\d+!"),
        ("at 12:34:56, 1.2.3, 1.2.3.4.5 and a::b c", r"at 12:34:56, 1\.2\.3, 1\.2\.3\.4\.5 and 2001:db8::\w+ c|.*"),
        ("see /etc/passwd, please", r"see \[file\], please"),
        ("/etc/passwd and /etc/shadow are not", r"\[file\] and \[file\] are not"),
        ("/home/anna/My Secret VPN/x.pem: no", r"\[file\]: no"),
        ("/home/anna/My key.pem is read", r"\[file\] is read"),
        ("no '/home/anna/My Secret' here", r"no '\[file\]' here"),
        (r"ca C:\Users\anna\x.crt is not here", r"ca \[file\] is not here"),
        ("keys/anna-weiss.pem: anna.key", r"\[file\]: \[file\]"),
        ("HTTP/1.1 by tcp/udp, 1.2 s", r"HTTP/1\.1 by tcp/udp, 1\.2 s"),
        ("node_8_41_7_9 and vpn-8-41-7-9-x", r"node_198_18_0_1 and vpn-198-18-0-1-x"),
    ],
)
def test_words_of_programs(said: str, left: str) -> None:
    world = World()
    world.tunnel("a", servers=("8.41.7.9:1/udp",), warnings=(said,))
    [warning] = redacted(world.record()).tunnels[0].warnings
    assert re.fullmatch(left, warning), warning


@settings(max_examples=50)
@given(st.lists(st.ip_addresses().map(str), min_size=1, max_size=6), st.text(max_size=8))
def test_no_address_is_left_in_any_text(addresses: list[str], between: str) -> None:
    world = World()
    text = f" {between} ".join(addresses)
    world.tunnels.append(TunnelFacts("a", Kind.WIREGUARD, "a.conf", tuple(f"[{one}]:1/udp" for one in addresses)))
    world.add("outside", "exit", "http_round_trip", RungStep("x", text), target=addresses[0])
    made = redacted(world.record()).observations[0]
    long = [one for one in addresses if len(one) > 6]
    assert [one for one in long if one in (made.target, *made.details.detail.split())] == []
