"""The censor does what its rules say, and nothing else: seen with curl, dig, tcpdump and sockets, not our probes."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from censor_at_work import SOON, WITNESS, Datagrams, at_work, conversation, flowing, got, hello
from openings import CONTROL, INITIATION, OPENED, OPENING, OVPN_DATA, RESPONSE, WG_DATA, framed
from standing_lab import CURL_RESET, CURL_TIMEOUT, StandingLab, standing

from vpntest.lab import vpn
from vpntest.lab.censor import compile_rules
from vpntest.lab.internet import ISP_RESOLVER, LIE, NEUTRAL_NAME, PUBLIC_RESOLVER
from vpntest.lab.profiles import load
from vpntest.lab.rules import (
    Cut,
    CutOpenVpn,
    CutWireGuard,
    DropQuic,
    DropQuicName,
    DropServerHello,
    DropUdp,
    FilterProtocols,
    Freeze,
    Intercept,
    Lie,
    Police,
    RefuseOpenVpn,
    RefuseWireGuard,
    Reject,
    Reset,
    Unroute,
    Whitelist,
)

WG_A, WG_B = vpn.HOSTS[0].addresses[0], vpn.HOSTS[1].addresses[0]


# ── what is compiled ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_rules_no_program() -> None:
    program = compile_rules((), {}, LIE)
    assert (program.iptables, program.nftables, program.lies) == ("", "", ())
    assert program.inspector is program.interceptor is None


def test_each_rule_has_marks_and_sets_of_its_own() -> None:
    names = ("a.example",)
    program = compile_rules(
        (Police(names, 17, 16, "x"), Reset(names, "x"), Cut(names, 5, "x"), CutWireGuard(2, "x"), CutOpenVpn(15, "x")),
        {},
        LIE,
    )
    assert len(set(re.findall(r"--set-xmark (0x\w+)/0xfff", program.iptables))) == 3
    sets = re.findall(r"^set (\w+) ", program.nftables, re.MULTILINE)
    assert len(sets) == len(set(sets)) == 4
    assert set(re.findall(r"ct mark & 0xfff == 0x(\d)\w", program.nftables)) == set("12345")


def test_a_name_is_looked_for_alone_and_beneath() -> None:
    program = compile_rules((Reset(("bird.example", ".book.example"), "x"),), {}, LIE)
    assert '--hex-string "|00000c|bird.example"' in program.iptables
    assert '--string ".bird.example"' in program.iptables
    assert '--string ".book.example"' in program.iptables
    assert "|book.example" not in program.iptables


def test_lies_are_the_resolvers_affair() -> None:
    names = ("bird.example", "book.example")
    program = compile_rules((Lie(names, "x"), Lie(names[:1], "x", "10.10.34.36")), {}, "198.18.0.9")
    assert program.lies == (
        "address=/bird.example/198.18.0.9",
        "address=/book.example/198.18.0.9",
        "address=/bird.example/10.10.34.36",
    )
    assert program.nftables == program.iptables == ""


@pytest.mark.parametrize(
    "rule",
    [
        Unroute("x", platforms=("nobody",)),
        Unroute("x", servers=("nobody",)),
        RefuseWireGuard("x", ("nobody",)),
        Freeze("x", 25, servers=("bird", "nobody")),
        Whitelist(("nobody",), "x"),
        Intercept(("bird.example",), ("nobody",), "A", "x"),
    ],
)
def test_an_unknown_platform_or_server_is_an_error(rule: Any) -> None:
    with pytest.raises(KeyError):
        compile_rules((rule, DropQuic(1001, "x")), {"bird": ("198.18.0.9",)}, LIE)


def test_a_worker_is_asked_for_only_where_one_is_needed() -> None:
    quic = compile_rules((DropQuicName(("bird.example",), 60, "x"),), {}, LIE)
    assert quic.inspector is not None
    assert quic.interceptor is None
    assert "-p tcp" not in quic.iptables
    plain = compile_rules((DropQuic(1001, "x"), CutWireGuard(2, "x"), DropUdp("x")), {}, LIE)
    assert plain.inspector is plain.interceptor is None
    assert plain.iptables == ""


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def lab() -> Iterator[StandingLab]:
    """With a resolver that lies, for that is no matter of the way."""
    lies = (
        Lie(("signal.org",), "x"),
        Lie(("twitter.com",), "x", "nxdomain"),
        Lie(("whatsapp.com",), "x", "silence"),
        Lie(("youtube.com",), "x", "10.10.34.36"),
    )
    with standing(msgspec.structs.replace(load("open"), rules=lies)) as here:
        yield here


@pytest.fixture(scope="module")
def names(lab: StandingLab) -> Iterator[StandingLab]:
    rules = (
        Police(("twitter.com", "twimg.com"), 17, 16, "x", substrings=("t.co",)),
        Police(("slow.example",), 17, 16, "x", sticky=True),
        Reset(("facebook.com", "fbcdn.net"), "x"),
        Cut(("instagram.com",), 5, "x"),
        Cut(("messenger.com",), 0, "x"),
        Reject(("youtube.com", "signal.org"), "x", paths=("youtube",)),
        DropServerHello(("whatsapp.com",), "x"),
    )
    with at_work(lab, *rules):
        yield lab


@pytest.mark.root
@pytest.mark.parametrize("name", ["www.facebook.com", "static.xx.fbcdn.net", "b-graph.facebook.com"])
def test_reset_by_name(names: StandingLab, name: str) -> None:
    assert names.connects(name)
    fetched = names.curl(name)
    assert fetched.exit_status == CURL_RESET
    assert not fetched.spoke_tls
    assert names.curl(NEUTRAL_NAME, "/", "-k", address=names.lab.web.names[name]).ok


@pytest.mark.root
@pytest.mark.parametrize("name", ["www.facebook.org", "notfacebook.com", "facebook.com.example", "instagram.org"])
def test_other_names_pass_at_the_same_address(names: StandingLab, name: str) -> None:
    address = names.lab.web.names["www.facebook.com"]
    assert names.curl(name, "/", "-k", address=address).ok


@pytest.mark.root
def test_the_reset_is_the_servers_own_packet(names: StandingLab) -> None:
    """Rewritten in place: its TTL is that of the server's SYN/ACK, and it acknowledges."""
    address = names.lab.web.names["www.facebook.com"]
    with names.lab.client.entered():
        capture = subprocess.Popen(
            ["tcpdump", "-i", "eth0", "-n", "-v", "-l", "src", "host", address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert capture.stderr is not None
    assert "listening" in capture.stderr.readline()
    assert names.curl("www.facebook.com").exit_status == CURL_RESET
    time.sleep(SOON)
    capture.terminate()
    seen, _ = capture.communicate()
    packets = re.findall(r"ttl (\d+),.*?Flags \[([^\]]+)\], ", seen, re.DOTALL)
    by_flags = {flags: ttl for ttl, flags in packets}
    assert by_flags["S."] == by_flags["R."]
    assert not any(flags in ("R", "P.", ".") for flags in by_flags)


@pytest.mark.root
def test_a_name_in_a_hello_of_two_packets_is_found(names: StandingLab) -> None:
    """Split within the name, as Chrome's hello may be; a record that long goes to the worker."""
    for name, fate in (("www.facebook.com", None), ("www.facebook.org", b"answer")):
        opening = hello(name)
        # Longer by TLS padding, put before all other extensions (RFC 7685).
        opening = _padded(opening, 1400)
        cut = opening.index(name.encode()) + 7
        assert cut > 1300
        with conversation(names) as (far, near):
            for piece in (opening[:cut], opening[cut:]):
                far.sendall(piece)
                time.sleep(0.02)
            assert got(near, len(opening)) == opening
            near.sendall(b"answer")
            assert got(far) == fate


def _padded(opening: bytes, by: int) -> bytes:
    at = 5 + 4 + 2 + 32
    at += 1 + opening[at]
    at += 2 + int.from_bytes(opening[at : at + 2])
    at += 1 + opening[at]
    extensions = b"\0\x15" + by.to_bytes(2) + bytes(by) + opening[at + 2 :]
    body = opening[9:at] + len(extensions).to_bytes(2) + extensions
    message = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


@pytest.mark.root
def test_cut_after_five_packets(names: StandingLab) -> None:
    assert names.connects("www.instagram.com")
    fetched = names.curl("www.instagram.com", seconds=1.5)
    assert fetched.exit_status == CURL_TIMEOUT
    assert not fetched.spoke_tls
    assert names.curl(NEUTRAL_NAME, "/", "-k", address=names.lab.web.names["www.instagram.com"]).ok


@pytest.mark.root
def test_cut_at_the_name_itself(names: StandingLab) -> None:
    for name, arrives in (("www.messenger.com", False), ("messenger.example", True)):
        with conversation(names) as (far, near):
            far.sendall(hello(name))
            assert bool(got(near)) is arrives
            near.sendall(b"answer")
            assert bool(got(far)) is arrives


@pytest.mark.root
def test_rejected_on_some_paths_only(names: StandingLab) -> None:
    fetched = names.curl("www.youtube.com")
    assert fetched.exit_status == CURL_RESET
    assert not fetched.spoke_tls
    assert names.curl(NEUTRAL_NAME, "/", "-k", address=names.lab.web.names["www.youtube.com"]).ok
    # Another way, the same name; and a name on the list whose own servers are not on this way.
    assert names.curl("www.youtube.com", "/", "-k", address=names.lab.web.names["www.facebook.com"]).ok
    assert names.curl("chat.signal.org").ok


@pytest.mark.root
def test_the_hello_passes_and_its_answer_does_not(names: StandingLab) -> None:
    for name, arrives in (("web.whatsapp.com", False), ("whatsapp.org", True)):
        with conversation(names) as (far, near):
            opening = hello(name)
            far.sendall(opening)
            assert got(near, len(opening)) == opening
            near.sendall(b"\x16\x03\x03answer")
            assert bool(got(far)) is arrives


@pytest.mark.root
@pytest.mark.parametrize("up", [True, False])
def test_policed_to_the_stated_rate_in_both_directions(names: StandingLab, up: bool) -> None:
    stated = 17 * 1024 * 1448 / 1500  # what the headers leave
    for name, least, most in (("twitter.com", 0.9, 1.1), (NEUTRAL_NAME, 20, 1e6)):
        with _opened(names, name) as ends:
            assert least * stated < flowing(*(ends if up else ends[::-1])) < most * stated


@contextlib.contextmanager
def _opened(lab: StandingLab, name: str, host: str = "public", address: str = WITNESS) -> Iterator[Any]:
    with conversation(lab, 443, host, address) as (far, near):
        opening = hello(name)
        far.sendall(opening)
        assert got(near, len(opening)) == opening
        yield far, near


@pytest.mark.root
def test_policed_by_a_part_of_the_name(names: StandingLab) -> None:
    """The mistake of March 2021: t.co was found within microsoft.com."""
    with _opened(names, "www.bright.com.example") as (far, near):
        policed = flowing(near, far, 2.5)
    with _opened(names, "bright.example") as (far, near):
        assert flowing(near, far) > 20 * policed


@pytest.mark.root
def test_policed_by_address_once_a_name_was_seen_there(names: StandingLab) -> None:
    # From wg-a: nobody else's test may find its address policed.
    with _opened(names, NEUTRAL_NAME, "wg-a", WG_A) as (far, near):
        before = flowing(near, far)
    with _opened(names, "www.slow.example", "wg-a", WG_A):
        pass
    with _opened(names, NEUTRAL_NAME, "wg-a", WG_A) as (far, near):
        assert flowing(near, far, 2.5) < before / 20
    with _opened(names, NEUTRAL_NAME, "wg-b", WG_B) as (far, near):
        assert flowing(near, far) > before / 20


@pytest.mark.root
def test_the_providers_resolver_lies_and_the_public_one_does_not(lab: StandingLab) -> None:
    for name, lie in (("chat.signal.org", [LIE]), ("www.youtube.com", ["10.10.34.36"]), ("twitter.com", ["NXDOMAIN"])):
        assert lab.dig(ISP_RESOLVER, name) == lie
        assert lab.dig(PUBLIC_RESOLVER, name) == [lab.lab.web.names[name]]
    asked = lab.run("client", "dig", "+time=1", "+tries=1", f"@{ISP_RESOLVER}", "web.whatsapp.com", check=False)
    assert "no servers could be reached" in asked.stdout
    for name in ("www.facebook.com", "web.telegram.org", "notsignal.org"):
        assert lab.dig(ISP_RESOLVER, name) == lab.dig(PUBLIC_RESOLVER, name)


# ── addresses and protocols, packet by packet ────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def protocols(lab: StandingLab) -> Iterator[StandingLab]:
    rules = (
        Unroute("x", platforms=("telegram",), servers=("awg",)),
        DropQuic(1001, "x"),
        CutWireGuard(2, "x"),
        RefuseWireGuard("x", ("wg-b",)),
        CutOpenVpn(15, "x"),
    )
    with at_work(lab, *rules):
        yield lab


@pytest.mark.root
def test_no_packet_passes_to_what_is_not_routed(protocols: StandingLab) -> None:
    web = protocols.lab.web
    ports = {
        (listener.address, listener.port) for listener in web.endpoints if listener.address in web.addresses["telegram"]
    }
    assert len(ports) >= 5
    for address, port in sorted(ports)[::3]:
        with protocols.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.settimeout(SOON)
            with pytest.raises(TimeoutError):
                asking.connect((address, port))
        with protocols.lab.network["public"].socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.settimeout(3)
            asking.connect((address, port))
    with Datagrams(protocols, 5555, "awg", "198.18.20.3") as flow:
        assert flow.up(b"x") == flow.down(b"x") == 0


@pytest.fixture
def flow(protocols: StandingLab) -> Iterator[Datagrams]:
    with Datagrams(protocols, 5555) as flow:
        yield flow


@pytest.mark.root
def test_wireguard_is_cut_after_two_data_packets_each_way(flow: Datagrams) -> None:
    assert flow.up(INITIATION) == 1
    assert flow.down(RESPONSE) == 1
    assert flow.up(*[WG_DATA] * 6) == 2
    assert flow.down(*[WG_DATA] * 6) == 2
    # A new handshake passes, and helps nothing.
    assert flow.up(INITIATION) == 1
    assert flow.up(WG_DATA) == flow.down(WG_DATA) == 0


@pytest.mark.root
def test_junk_before_the_initiation_helps_nothing(flow: Datagrams) -> None:
    assert flow.up(*(bytes([200 + number]) * (50 + number) for number in range(5))) == 5
    assert flow.up(INITIATION) == 1
    assert flow.up(*[WG_DATA] * 6) == 2


@pytest.mark.root
def test_data_without_an_initiation_is_not_wireguard(flow: Datagrams) -> None:
    assert flow.up(b"\x99" + INITIATION[1:], INITIATION + b"\0", INITIATION[:-1]) == 3
    assert flow.up(*[WG_DATA] * 20) == 20
    assert flow.down(*[WG_DATA] * 20) == 20


@pytest.mark.root
def test_initiations_to_the_second_server_are_dropped_and_nothing_else(protocols: StandingLab) -> None:
    with Datagrams(protocols, 5555, "wg-b", WG_B) as flow:
        assert flow.up(INITIATION) == 0
        assert flow.up(RESPONSE, b"\x99" + INITIATION[1:], INITIATION + b"\0") == 3
    with Datagrams(protocols, 5555, "wg-a", WG_A) as flow:
        assert flow.up(INITIATION) == 1


@pytest.mark.root
def test_openvpn_over_udp_is_cut_after_fifteen_data_packets_each_way(flow: Datagrams) -> None:
    assert flow.up(OPENING) == 1
    assert flow.down(OPENED) == 1
    assert flow.up(*[CONTROL] * 10) == flow.down(*[CONTROL] * 10) == 10
    assert flow.up(*[OVPN_DATA] * 30) == 15
    assert flow.down(*[OVPN_DATA] * 30) == 15
    assert flow.up(CONTROL) == 1


@pytest.mark.root
@pytest.mark.parametrize(
    ("first", "second"),
    [(b"\x39" + OPENING[1:], OPENED), (OPENING, b"\x41" + OPENED[1:]), (OPENING + bytes(700), OPENED)],
    ids=["another opening", "another answer", "too long"],
)
def test_what_opens_otherwise_is_not_openvpn(flow: Datagrams, first: bytes, second: bytes) -> None:
    assert flow.up(first) == flow.down(second) == 1
    assert flow.up(*[OVPN_DATA] * 30) == 30


@pytest.mark.root
def test_openvpn_over_tcp_is_cut_after_fifteen_data_packets(protocols: StandingLab) -> None:
    for opening, limit in ((OPENING, 15), (b"\x16" + OPENING[1:], 40)):
        with conversation(protocols, 5555) as (far, near):
            far.sendall(framed(opening))
            assert near.recv(4096) == framed(opening)
            near.sendall(framed(OPENED))
            assert far.recv(4096) == framed(OPENED)
            arrived = 0
            for _ in range(40):
                far.sendall(framed(OVPN_DATA))
                if not got(near):
                    break
                arrived += 1
            assert arrived == limit


@pytest.mark.root
def test_quic_of_version_1_is_dropped_from_a_size_on(protocols: StandingLab) -> None:
    def initial(version: int, size: int) -> bytes:
        return b"\xc3" + version.to_bytes(4) + bytes(size - 5)

    with Datagrams(protocols, 443) as flow:
        assert flow.up(initial(1, 1001), initial(1, 1200)) == 0
        assert flow.up(initial(1, 1000), initial(0x6B3343CF, 1200)) == 2
    with Datagrams(protocols, 8443) as flow:
        assert flow.up(initial(1, 1200)) == 1


# ── rules that stand alone ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.root
def test_openvpn_is_refused(lab: StandingLab) -> None:
    with at_work(lab, RefuseOpenVpn("x")):
        with Datagrams(lab, 5555) as flow:
            assert flow.up(OPENING, b"\x50" + OPENING[1:]) == 0
            assert flow.up(b"\x39" + OPENING[1:], OVPN_DATA) == 2
        with conversation(lab) as (far, near):
            far.sendall(framed(OPENING))
            assert got(near) == b""
            # Nor when it is sent again: the first copies came within the time that we wait.
            near.settimeout(1.5)
            assert got(near) == b""
        with conversation(lab) as (far, near):
            far.sendall(framed(b"\x39" + OPENING[1:]))
            assert got(near)


@pytest.mark.root
def test_wireguard_is_refused_everywhere(lab: StandingLab) -> None:
    with at_work(lab, RefuseWireGuard("x")), Datagrams(lab, 5555) as flow:
        assert flow.up(INITIATION) == 0
        assert flow.up(INITIATION + b"\0") == flow.down(INITIATION[:-1]) == 1


@pytest.mark.root
def test_udp_is_dropped_but_for_names(lab: StandingLab) -> None:
    with at_work(lab, DropUdp("x")):
        with Datagrams(lab, 5555) as flow:
            assert flow.up(b"x") == 0
        assert lab.dig(PUBLIC_RESOLVER, "www.facebook.com") == [lab.lab.web.names["www.facebook.com"]]
        assert lab.curl("www.facebook.com").ok


@pytest.mark.root
def test_protocols_are_filtered_by_their_first_data(lab: StandingLab) -> None:
    query = b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01"
    with at_work(lab, FilterProtocols((80, 443), 60, "x")):
        for port, first, known in (
            (443, hello("bird.example"), True),
            (443, b"GET / HTTP/1.1\r\n\r\n", True),
            (80, query, True),
            (443, framed(OPENING), False),
            (80, b"SSH-2.0-x\r\n", False),
            (5555, b"SSH-2.0-x\r\n", True),
        ):
            with conversation(lab, port) as (far, near):
                far.sendall(first)
                assert got(near, len(first)) == first
                far.sendall(b"more")
                assert (got(near) == b"more") is known
                # The server may go on.
                near.sendall(b"answer")
                assert got(far) == b"answer"


@pytest.mark.root
def test_flows_freeze_after_so_many_packets(lab: StandingLab) -> None:
    rules = (
        Reset(("cover.example",), "x"),
        Freeze("x", 25, servers=("public",), exempt=("cover.example", "fine.example")),
    )
    with at_work(lab, *rules):
        with Datagrams(lab, 5555) as flow:
            assert sum(flow.up(b"x") + flow.down(b"x") for _ in range(5)) == 10
            assert flow.up(*[b"x"] * 30) == 15
            assert flow.down(b"x") == 0
        with Datagrams(lab, 5555, "wg-a", WG_A) as flow:
            assert flow.up(*[b"x"] * 60) == 60
        for name, whole in (("frozen.example", False), ("www.fine.example", True)):
            with conversation(lab, 8443) as (far, near):
                opening = hello(name)
                far.sendall(opening)
                assert got(near, len(opening)) == opening
                near.sendall(bytes(60_000))
                arrived = got(far, 60_000)
                assert arrived is not None
                assert (len(arrived) == 60_000) is whole
                assert len(arrived) > 10_000
        # Exempt from one rule is not exempt from another.
        with conversation(lab) as (far, near):
            far.sendall(hello("cover.example"))
            assert got(near)
            near.sendall(b"answer")
            assert got(far) is None


@pytest.mark.root
def test_connections_freeze_after_so_many_bytes_from_the_server(lab: StandingLab) -> None:
    with at_work(lab, Freeze("x", bytes=20_000, servers=("public",), exempt=("fine.example",))):
        with Datagrams(lab, 5555) as flow:
            assert flow.down(*[bytes(1000)] * 40) == 40
        for name, whole in (("frozen.example", False), ("fine.example", True)):
            with conversation(lab, 8443) as (far, near):
                opening = hello(name)
                far.sendall(opening)
                assert got(near, len(opening)) == opening
                near.sendall(bytes(60_000))
                arrived = len(got(far, 60_000) or b"")
                assert (arrived == 60_000) if whole else (16_000 < arrived <= 20_000)
        # What the client sends is not counted, in however many packets, but falls silent with the rest.
        with conversation(lab, 8443) as (far, near):
            far.sendall(bytes(100_000))
            assert len(got(near, 100_000) or b"") == 100_000
            for _ in range(60):
                near.sendall(b"x")
                assert got(far) == b"x"
            near.sendall(bytes(30_000))
            got(far, 30_000)
            far.sendall(b"more")
            assert got(near) == b""
        with conversation(lab, 8443, "wg-a", WG_A) as (far, near):
            near.sendall(bytes(60_000))
            assert len(got(far, 60_000) or b"") == 60_000


@pytest.mark.root
def test_only_what_is_on_the_whitelist_can_be_talked_to(lab: StandingLab) -> None:
    with at_work(lab, Reset(("bird.example",), "x"), Whitelist(("wg-a", WITNESS), "x")):
        for name in ("fine.example", "bird.example"):
            with conversation(lab, 8443, "wg-b", WG_B) as (far, near):
                far.sendall(hello(name))
                assert got(near) == b""
                near.sendall(b"banner")
                assert got(far) == b"banner"
        with Datagrams(lab, 5555, "wg-b", WG_B) as flow:
            assert flow.up(b"x") == 0
        for host, address in (("wg-a", WG_A), ("public", WITNESS)):
            with conversation(lab, 8443, host, address) as (far, near):
                far.sendall(hello("fine.example"))
                assert got(near)
            with Datagrams(lab, 5555, host, address) as flow:
                assert flow.up(b"x") == flow.down(b"x") == 1
