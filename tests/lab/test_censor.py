"""The censor does what its profile says, and nothing else: seen with curl, dig, tcpdump and sockets, not our probes."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from standing_lab import CURL_REFUSED, CURL_RESET, CURL_TIMEOUT, StandingLab, standing

from vpntest.lab import vpn
from vpntest.lab.censor import (
    Cut,
    CutOpenVpn,
    CutWireGuard,
    DropQuic,
    Lie,
    Police,
    RefuseWireGuard,
    Reset,
    Unroute,
    compile_rules,
)
from vpntest.lab.internet import ISP_RESOLVER, LIE, NEUTRAL_NAME, PUBLIC_RESOLVER
from vpntest.lab.profiles import load
from vpntest.tunnel.namespace import Namespace

WITNESS = PUBLIC_RESOLVER
"""An address behind the censor on which tests may open any port but 53."""
WG_A, WG_B = vpn.HOSTS[0].addresses[0], vpn.HOSTS[1].addresses[0]
SOON = 0.3
"""Seconds after which a datagram that has not come will not come: the line has no delay."""


# ── what is compiled ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_rules_no_program() -> None:
    program = compile_rules((), {}, LIE)
    assert (program.iptables, program.nftables, program.lies) == ("", "", ())


def test_each_rule_has_marks_and_sets_of_its_own() -> None:
    names = ("a.example",)
    program = compile_rules(
        (Police(names, 17, 16, "x"), Reset(names, "x"), Cut(names, 5, "x"), CutWireGuard(2, "x"), CutOpenVpn(15, "x")),
        {},
        LIE,
    )
    assert len(set(re.findall(r"--set-mark (0x\w+)", program.iptables))) == 3
    sets = re.findall(r"^set (\w+) ", program.nftables, re.MULTILINE)
    assert len(sets) == len(set(sets)) == 4
    marks = [set(re.findall(rf"mark (?:set )?0x0{number}\w", program.nftables)) for number in range(1, 6)]
    assert all(marks)


def test_a_name_is_looked_for_alone_and_beneath() -> None:
    program = compile_rules((Reset(("bird.example",), "x"),), {}, LIE)
    assert '--hex-string "|00000c|bird.example"' in program.iptables
    assert '--string ".bird.example"' in program.iptables


def test_lies_are_the_resolvers_affair() -> None:
    program = compile_rules((Lie(("bird.example", "book.example"), "x"),), {}, "198.18.0.9")
    assert program.lies == ("address=/bird.example/198.18.0.9", "address=/book.example/198.18.0.9")
    assert program.nftables == ""


@pytest.mark.parametrize("rule", [Unroute(("nobody",), "x"), RefuseWireGuard(("nobody",), "x")])
def test_an_unknown_platform_or_server_is_an_error(rule: Any) -> None:
    with pytest.raises(KeyError):
        compile_rules((rule, DropQuic(1001, "x")), {"bird": ("198.18.0.9",)}, LIE)


# ── what it does ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def lab() -> Iterator[StandingLab]:
    with standing(load("ru_2023_08_vpn")) as here:
        yield here


@pytest.mark.root
@pytest.mark.parametrize(
    "name", ["www.facebook.com", "static.xx.fbcdn.net", "www.messenger.com", "b-graph.facebook.com"]
)
def test_reset_by_name(lab: StandingLab, name: str) -> None:
    assert lab.connects(name)
    fetched = lab.curl(name)
    assert fetched.exit_status == CURL_RESET
    assert not fetched.spoke_tls
    assert lab.curl(NEUTRAL_NAME, "/", "-k", address=lab.lab.web.names[name]).ok


@pytest.mark.root
def test_the_reset_is_the_servers_own_packet(lab: StandingLab) -> None:
    """Rewritten in place: its TTL is that of the server's SYN/ACK, and it acknowledges."""
    address = lab.lab.web.names["www.facebook.com"]
    with lab.lab.client.entered():
        capture = subprocess.Popen(
            ["tcpdump", "-i", "eth0", "-n", "-v", "-l", "src", "host", address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert capture.stderr is not None
    assert "listening" in capture.stderr.readline()
    assert lab.curl("www.facebook.com").exit_status == CURL_RESET
    time.sleep(SOON)
    capture.terminate()
    seen, _ = capture.communicate()
    packets = re.findall(r"ttl (\d+),.*?Flags \[([^\]]+)\], ", seen, re.DOTALL)
    by_flags = {flags: ttl for ttl, flags in packets}
    assert by_flags["S."] == by_flags["R."]
    assert not any(flags in ("R", "P.", ".") for flags in by_flags)


@pytest.mark.root
def test_cut_after_five_packets(lab: StandingLab) -> None:
    for name in ("www.instagram.com", "static.cdninstagram.com"):
        assert lab.connects(name)
        fetched = lab.curl(name)
        assert fetched.exit_status == CURL_TIMEOUT
        assert not fetched.spoke_tls
        assert lab.curl(NEUTRAL_NAME, "/", "-k", address=lab.lab.web.names[name]).ok


@pytest.mark.root
@pytest.mark.parametrize("name", ["www.whatsapp.com", "notfacebook.com", "facebook.com.example", "instagram.org"])
def test_other_names_pass_at_the_same_address(lab: StandingLab, name: str) -> None:
    address = lab.lab.web.names["www.facebook.com"]
    assert lab.curl(name, "/", "-k", address=address).ok


def hello(name: str) -> bytes:
    """A ClientHello as OpenSSL makes it."""
    outgoing = ssl.MemoryBIO()
    speaking = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        speaking.do_handshake()
    return outgoing.read()


def rate(lab: StandingLab, name: str, *, up: bool) -> float:
    """Bytes per second, once the bucket is empty, of a connection to port 443 that opened with a hello for `name`."""
    client, server = lab.lab.client, lab.lab.network["public"]
    with server.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((WITNESS, 443))
        listening.listen()
        listening.settimeout(5)
        with client.socket(socket.AF_INET, socket.SOCK_STREAM) as far:
            far.settimeout(5)
            far.connect((WITNESS, 443))
            near, _ = listening.accept()
            near.settimeout(5)
            with near:
                opening = hello(name)
                far.sendall(opening)
                got = 0
                while got < len(opening):
                    got += len(near.recv(4096))
                sender, receiver = (far, near) if up else (near, far)
                sender.setblocking(False)
                receiver.settimeout(5)
                load, moved, begun, counted = bytes(65536), 0, 0.0, 0
                end = time.monotonic() + 6
                while time.monotonic() < end and moved < 5_000_000:
                    with contextlib.suppress(BlockingIOError):
                        sender.send(load)
                    moved += len(receiver.recv(1 << 20))
                    if not begun and moved > 50_000:
                        begun, counted = time.monotonic(), moved
                return (moved - counted) / (time.monotonic() - begun)


@pytest.mark.root
@pytest.mark.parametrize("up", [True, False])
def test_policed_to_the_stated_rate_in_both_directions(lab: StandingLab, up: bool) -> None:
    stated = 17 * 1024 * 1448 / 1500  # what the headers leave
    assert rate(lab, "twitter.com", up=up) == pytest.approx(stated, rel=0.1)
    assert rate(lab, NEUTRAL_NAME, up=up) > 20 * stated


@pytest.mark.root
def test_policed_only_by_name(lab: StandingLab) -> None:
    for name in ("twitter.com", "x.com", "abs.twimg.com"):
        assert lab.curl(name).ok
    address = lab.lab.web.names["twitter.com"]
    assert lab.curl(NEUTRAL_NAME, "/", "-k", address=address, seconds=2).ok
    assert lab.curl("nottwitter.com", "/", "-k", address=address, seconds=2).ok


@pytest.mark.root
def test_the_providers_resolver_lies_and_the_public_one_does_not(lab: StandingLab) -> None:
    for name in ("chat.signal.org", "cdsi.signal.org", "storage.signal.org"):
        truth = lab.lab.web.names[name]
        assert lab.dig(ISP_RESOLVER, name) == [LIE]
        assert lab.dig(PUBLIC_RESOLVER, name) == [truth]
        assert lab.curl(name, address=LIE).exit_status == CURL_REFUSED
        assert lab.curl(name, address=truth).ok
    for name in ("www.facebook.com", "web.telegram.org", "www.youtube.com", "notsignal.org"):
        assert lab.dig(ISP_RESOLVER, name) == lab.dig(PUBLIC_RESOLVER, name)


@pytest.mark.root
def test_no_packet_passes_to_an_unrouted_platform(lab: StandingLab) -> None:
    web = lab.lab.web
    ports = {
        (listener.address, listener.port) for listener in web.endpoints if listener.address in web.addresses["telegram"]
    }
    assert len(ports) >= 5
    for address, port in ports:
        with lab.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.settimeout(SOON)
            with pytest.raises(TimeoutError):
                asking.connect((address, port))
        with lab.lab.network["public"].socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.settimeout(3)
            asking.connect((address, port))


@pytest.mark.root
@pytest.mark.parametrize(
    "name", ["web.whatsapp.com", "www.youtube.com", "i.ytimg.com", "www.refuser.example", "control.example"]
)
def test_untouched(lab: StandingLab, name: str) -> None:
    path = "/64k" if name == "control.example" else "/"
    assert lab.curl(name, path).ok


# ── protocols, packet by packet ──────────────────────────────────────────────────────────────────────────────────────


class Datagrams:
    """A UDP flow between the client and a port behind the censor."""

    def __init__(self, client: Namespace, server: Namespace, address: str, port: int) -> None:
        self.near = server.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.near.bind((address, port))
        self.far = client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.far.connect((address, port))
        self.client = self.far.getsockname()

    def __enter__(self) -> Datagrams:
        return self

    def __exit__(self, *_: object) -> None:
        self.near.close()
        self.far.close()

    def up(self, *packets: bytes) -> int:
        """How many of these reach the server."""
        for packet in packets:
            self.far.send(packet)
        return self._count(self.near)

    def down(self, *packets: bytes) -> int:
        """How many of these reach the client."""
        for packet in packets:
            self.near.sendto(packet, self.client)
        return self._count(self.far)

    def _count(self, receiver: socket.socket) -> int:
        receiver.settimeout(SOON)
        count = 0
        while True:
            try:
                receiver.recv(4096)
            except TimeoutError:
                return count
            count += 1


@pytest.fixture
def flow(lab: StandingLab) -> Iterator[Datagrams]:
    with Datagrams(lab.lab.client, lab.lab.network["public"], WITNESS, 5555) as flow:
        yield flow


INITIATION = b"\x01\0\0\0" + bytes(144)
RESPONSE = b"\x02\0\0\0" + bytes(88)
WG_DATA = b"\x04\0\0\0" + bytes(60)
OPENING = b"\x38" + bytes(53)
OPENED = b"\x40" + bytes(65)
CONTROL = b"\x20" + bytes(200)
OVPN_DATA = b"\x48\0\0\0" + bytes(96)


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
def test_initiations_to_the_second_server_are_dropped_and_nothing_else(lab: StandingLab) -> None:
    with Datagrams(lab.lab.client, lab.lab.network["wg-b"], WG_B, 5555) as flow:
        assert flow.up(INITIATION) == 0
        assert flow.up(RESPONSE, b"\x99" + INITIATION[1:], INITIATION + b"\0") == 3
    with Datagrams(lab.lab.client, lab.lab.network["wg-a"], WG_A, 5555) as flow:
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
def test_openvpn_over_tcp_is_cut_after_fifteen_data_packets(lab: StandingLab) -> None:
    def framed(packet: bytes) -> bytes:
        return len(packet).to_bytes(2) + packet

    for opening, limit in ((OPENING, 15), (b"\x16" + OPENING[1:], 40)):
        with lab.lab.network["public"].socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((WITNESS, 5555))
            listening.listen()
            listening.settimeout(5)
            with lab.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as far:
                far.settimeout(5)
                far.connect((WITNESS, 5555))
                near, _ = listening.accept()
                with near:
                    near.settimeout(SOON)
                    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    far.sendall(framed(opening))
                    assert near.recv(4096) == framed(opening)
                    near.sendall(framed(OPENED))
                    assert far.recv(4096) == framed(OPENED)
                    arrived = 0
                    for _ in range(40):
                        far.sendall(framed(OVPN_DATA))
                        try:
                            arrived += len(near.recv(4096)) > 0
                        except TimeoutError:
                            break
                    assert arrived == limit


@pytest.mark.root
def test_quic_of_version_1_is_dropped_from_a_size_on(lab: StandingLab) -> None:
    def initial(version: int, size: int) -> bytes:
        return b"\xc3" + version.to_bytes(4) + bytes(size - 5)

    with Datagrams(lab.lab.client, lab.lab.network["public"], WITNESS, 443) as flow:
        assert flow.up(initial(1, 1001), initial(1, 1200)) == 0
        assert flow.up(initial(1, 1000), initial(0x6B3343CF, 1200)) == 2
    with Datagrams(lab.lab.client, lab.lab.network["public"], WITNESS, 8443) as flow:
        assert flow.up(initial(1, 1200)) == 1
