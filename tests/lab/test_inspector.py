"""The worker behind the queue: what it reads of packets, what it decides, and what that does to real traffic."""

from __future__ import annotations

import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import dns.message
import dns.rdatatype
import pytest
from censor_at_work import SOON, WITNESS, Datagrams, at_work, conversation, got, hello
from hypothesis import given
from hypothesis import strategies as st
from standing_lab import CURL_RESET, StandingLab, standing

from vpntest.errors import CannotMeasure
from vpntest.lab import vpn
from vpntest.lab.inspector import (
    ACK,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    Inspector,
    Packet,
    Watch,
    build,
    chrome,
    forged_page,
    forged_resets,
    handshake_in,
    host_in,
    listed,
    noise,
    parse,
    question_in,
    quic_hello,
    read_hello,
)
from vpntest.lab.internet import CONTROL, NEUTRAL_NAME, PUBLIC_RESOLVER
from vpntest.lab.profiles import load
from vpntest.lab.rules import (
    DropEncrypted,
    DropQuicName,
    FreezeCrowd,
    InjectDns,
    InjectPage,
    InjectReset,
    Police,
    Rule,
)

CLIENT, SERVER = ("198.19.0.2", 40000), ("198.18.20.5", 443)
PROXY = vpn.HOSTS[4].addresses[0]


def quic_initial(name: str, version: int = 1) -> bytes:
    """The first datagram of aioquic's client."""
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

    configuration = QuicConfiguration(is_client=True, server_name=name, alpn_protocols=["h3"])
    configuration.supported_versions = configuration.supported_versions[:]
    configuration.original_version = version
    connection = QuicConnection(configuration=configuration)
    connection.connect(SERVER, 0.0)
    return connection.datagrams_to_send(0.0)[0][0]


@pytest.fixture(scope="module")
def chromes() -> bytes:
    """A ClientHello as Chrome makes it, to bird.example."""
    import curl_cffi
    from curl_cffi.requests.impersonate import DEFAULT_CHROME

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        port = listening.getsockname()[1]

        def ask() -> None:
            curl = curl_cffi.Curl()
            assert curl.impersonate(DEFAULT_CHROME) == 0
            curl.setopt(curl_cffi.CurlOpt.URL, f"https://bird.example:{port}/".encode())
            curl.setopt(curl_cffi.CurlOpt.RESOLVE, [f"bird.example:{port}:127.0.0.1"])
            curl.setopt(curl_cffi.CurlOpt.TIMEOUT_MS, 10_000)
            with pytest.raises(curl_cffi.CurlError):
                curl.perform()
            curl.close()

        thread = threading.Thread(target=ask)
        thread.start()
        near, _ = listening.accept()
        with near:
            near.settimeout(10)
            stream = b""
            while handshake_in(stream) is None:
                stream += near.recv(65536)
        thread.join()
    return stream


# ── what is read ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "packet",
    [
        Packet(UDP, CLIENT, SERVER, b"odd"),
        Packet(TCP, CLIENT, SERVER, b"even", 0xFFFFFFFF, 7, PSH | ACK, 58),
        Packet(TCP, CLIENT, SERVER, b"", 1, 2, RST | ACK),
    ],
)
def test_what_is_built_can_be_parsed(packet: Packet) -> None:
    assert parse(build(packet)) == packet


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x45",
        b"\x60" + bytes(60),
        build(Packet(TCP, CLIENT, SERVER, b"x"))[:30],
        # The second fragment of something.
        build(Packet(UDP, CLIENT, SERVER, b"x" * 40)).replace(b"\0\x01\0\0", b"\0\x01\0\x20", 1),
    ],
)
def test_what_is_no_packet_is_none(raw: bytes) -> None:
    assert parse(raw) is None


def test_a_hello_is_read_once_it_is_whole(chromes: bytes) -> None:
    for stream, name in ((hello("Bird.example"), "bird.example"), (chromes, "bird.example"), (hello(None), None)):
        for end in (0, 1, 3, 5, 9, len(stream) // 2, len(stream) - 1):
            assert handshake_in(stream[:end]) is None
        message = handshake_in(stream + b"more")
        assert message is not None
        assert read_hello(message).name == name


def test_a_hello_may_come_in_several_records() -> None:
    stream = hello("bird.example")
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in (stream[5:7], stream[7:100], stream[100:])
    )
    assert handshake_in(records) == handshake_in(stream)


@pytest.mark.parametrize("stream", [b"\x17\x03\x03\0\x01x", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x04", b"\0"])
def test_what_is_no_handshake_is_an_error(stream: bytes) -> None:
    with pytest.raises(ValueError, match="not TLS"):
        handshake_in(stream)


def test_what_is_no_hello_is_an_error() -> None:
    for message in (b"\x02" + hello("bird.example")[6:], hello("bird.example")[5:90], b""):
        with pytest.raises(ValueError, match=r"no ClientHello|cut short"):
            read_hello(message)


def test_chromes_shape_is_its_own(chromes: bytes) -> None:
    shapes = [read_hello(handshake_in(stream) or b"") for stream in (chromes, hello("bird.example"))]
    assert [chrome(shape) for shape in shapes] == [True, False]
    # Its kin on other engines shows GREASE as well, but no application settings.
    without = tuple(kind for kind in shapes[0].extensions if kind not in (17513, 17613))
    assert not chrome(type(shapes[0])(None, shapes[0].ciphers, without))


def test_the_name_in_a_quic_initial() -> None:
    datagram = quic_initial("bird.example")
    found = quic_hello(datagram)
    assert found is not None
    assert found.name == "bird.example"
    # A second Initial behind it in the datagram, or padding, changes nothing.
    assert quic_hello(datagram + bytes(20)) == found


def test_what_is_no_readable_initial_of_version_1_has_no_name() -> None:
    datagram = quic_initial("bird.example")
    for other in (
        quic_initial("bird.example", 0x6B3343CF),
        datagram[:1] + b"\x6b\x33\x43\xcf" + datagram[5:],
        datagram[:300],
        datagram[:200] + bytes((datagram[200] ^ 1,)) + datagram[201:],
        b"",
    ):
        assert quic_hello(other) is None


def test_noise_and_what_is_not() -> None:
    dice = random.Random(1)
    loud = bytes(dice.choices([byte for byte in range(256) if byte.bit_count() == 4], k=300))
    for payload, heard in (
        (loud, True),
        (bytes(300), False),  # too few bits
        (b"\xff" * 300, False),  # too many
        (b"SSH-2." + loud, False),
        (b"SSH-2" + b"\x0f" + loud, True),
        (loud[:50] + b"a" * 21 + loud, False),
        (b"\x16\x03\x01" + loud, False),
        (b"\x16\x02\x01" + loud, True),
        (b"GET " + loud, False),
        (b"\x0fa" * 150, True),  # half printable
        (b"a\x0fa" * 100, False),
        (b"", False),
    ):
        assert noise(payload) is heard, payload[:30]


@pytest.mark.parametrize(
    ("stream", "host"),
    [
        (b"GET / HTTP/1.1\r\nhOSt: Plain.example:80\r\n\r\n", "plain.example"),
        (b"GET / HTTP/1.1\r\nHost: plain.example\r\nUser", "plain.example"),
        (b"GET / HTTP/1.1\r\nHost: plain.exa", None),
        (b"GET / HTTP/1.0\r\n\r\nHost: plain.example\r\n", ""),
    ],
)
def test_the_host_of_a_request(stream: bytes, host: str | None) -> None:
    assert host_in(stream) == host


def test_a_question_keeps_its_letters() -> None:
    wire = dns.message.make_query("wWw.Bird.example", "AAAA", use_edns=True).to_wire()
    question = question_in(wire)
    assert question is not None
    assert (question.name, question.kind) == ("www.bird.example", 28)
    assert b"\x03wWw\x04Bird" in question.wire
    assert question_in(dns.message.make_response(dns.message.from_wire(wire)).to_wire()) is None
    assert question_in(wire[:20]) is None


def test_a_name_is_listed_itself_and_beneath() -> None:
    assert listed("bird.example", ("bird.example",))
    assert listed("a.b.bird.example", ("bird.example",))
    assert not listed("abird.example", ("bird.example",))
    assert not listed("bird.example", (".bird.example",))
    assert listed("a.bird.example", (".bird.example",))
    assert listed("microsoft.com", (), ("t.co",))
    assert not listed(None, ("bird.example",), ("",))


# ── what is decided ──────────────────────────────────────────────────────────────────────────────────────────────────


def inspector(*rules: Rule, **more: Any) -> Inspector:
    """The first rule's mark is 16, the next one's 32; servers are :data:`SERVER` alone."""
    watches = [
        Watch(16 * number, rule, (SERVER[0],) if hasattr(rule, "servers") else ())
        for number, rule in enumerate(rules, 1)
    ]
    return Inspector(watches, **more)


def seen(inspector: Inspector, payload: bytes, *, port: int = 40000, seq: int = 100, flags: int = PSH | ACK) -> int:
    return inspector.see(build(Packet(TCP, (CLIENT[0], port), SERVER, payload, seq, 1, flags))).mark


def test_a_split_hello_is_put_together_in_any_order() -> None:
    stream = hello("www.bird.example")
    cut = stream.index(b"bird") + 2
    first, second = (stream[:cut], 100), (stream[cut:], 100 + cut)
    for pieces, marks in (((first, second), [0, 16]), ((first, first, second), [0, 0, 16])):
        looking = inspector(Police(("bird.example",), 17, 16, "x"))
        assert [seen(looking, piece, seq=seq) for piece, seq in pieces] == marks
    # What was decided stays so, until the ports are used anew.
    assert seen(looking, stream, seq=100) == 0
    assert seen(looking, b"", flags=SYN) == 0
    assert seen(looking, stream, seq=5) == 16


def test_the_first_rule_that_has_the_name_decides() -> None:
    looking = inspector(Police(("book.example",), 17, 16, "x"), InjectReset(("bird.example",), "x"))
    assert seen(looking, hello("bird.example"), port=1) == 32
    assert seen(looking, hello("book.example"), port=2) == 16
    assert seen(looking, hello("fine.example"), port=3) == 0


def test_a_reset_is_for_the_name_in_a_request_too() -> None:
    looking = inspector(InjectPage(("book.example",), "x"), InjectReset(("bird.example",), "x"))
    expected = {"bird.example": (32, 1), "book.example": (16, 2), "a.example": (0, 0)}
    for port, (name, found) in enumerate(expected.items(), 1):
        asked = f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
        decision = looking.see(build(Packet(TCP, (CLIENT[0], port), (SERVER[0], 80), asked, flags=PSH | ACK)))
        assert (decision.mark, len(decision.forged)) == found, name


def test_forged_resets_fit_into_the_connection() -> None:
    asked = Packet(TCP, CLIENT, SERVER, b"x" * 10, 0xFFFFFFFA, 700, PSH | ACK)
    client, server = forged_resets(asked, InjectReset(("a.example",), "x", payload=10, ttl=58, to_server=True))
    assert (client.source, client.destination, client.seq, client.ack) == (SERVER, CLIENT, 700, 4)
    assert (client.flags, client.ttl, client.payload) == (RST | ACK, 58, bytes((1, 2, 3, 4, 5, 6, 7, 8, 9, 0)))
    assert (server.source, server.destination, server.seq, server.payload) == (CLIENT, SERVER, asked.seq, b"")
    assert len(forged_resets(asked, InjectReset(("a.example",), "x"))) == 1


def test_a_long_page_comes_in_pieces_and_ends() -> None:
    asked = Packet(TCP, CLIENT, SERVER, b"GET", 10, 700, PSH | ACK)
    *pieces, end = forged_page(asked, InjectPage(("a.example",), "x", body="y" * 3000))
    assert [piece.seq for piece in pieces] == [700, 2100, 3500]
    assert [piece.flags & 1 for piece in pieces] == [0, 0, 1]
    assert b"".join(piece.payload for piece in pieces).startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert (end.destination, end.flags) == (SERVER, RST | ACK)


def test_noise_is_dropped_by_chance_and_only_as_the_first_payload() -> None:
    loud = bytes(random.Random(1).choices([byte for byte in range(256) if byte.bit_count() == 4], k=300))
    rolls = iter((0.262, 0.264))
    looking = inspector(DropEncrypted(("s",), 26.3, 180, "x"), dice=lambda: next(rolls))
    assert seen(looking, loud, port=1) == 16
    assert seen(looking, loud, port=2) == 0
    # Neither the same connection's next payload nor one to another server is looked at.
    assert seen(looking, loud, port=2, seq=400) == 0
    other = Packet(TCP, CLIENT, ("198.18.20.9", 443), loud, 1, 1, ACK)
    assert looking.see(build(other)).mark == 0


def test_a_crowd_freezes_for_a_while(chromes: bytes) -> None:
    now = [1000.0]
    looking = inspector(FreezeCrowd(("s",), 3, 60, "chrome", "x"), clock=lambda: now[0])
    ports = iter(range(1, 100))

    def marks(stream: bytes, count: int) -> list[int]:
        return [seen(looking, stream, port=next(ports)) for _ in range(count)]

    assert marks(hello("bird.example"), 9) == [0] * 9
    assert marks(chromes, 3) == [0] * 3
    now[0] += 61
    assert marks(chromes, 5) == [0] * 3 + [16] * 2
    assert marks(hello("bird.example"), 1) == [0]
    now[0] += 59
    assert marks(chromes, 1) == [16]
    now[0] += 2
    assert marks(chromes, 4) == [0] * 3 + [16]


@given(st.binary(max_size=80), st.sampled_from([53, 80, 443]), st.sampled_from([TCP, UDP]))
def test_no_packet_is_an_error(payload: bytes, port: int, protocol: int) -> None:
    names = ("a.example",)
    looking = inspector(
        InjectDns(names, ("198.18.66.1",), "x"),
        InjectReset(names, "x"),
        InjectPage(names, "x"),
        DropQuicName(names, 9, "x"),
        DropEncrypted(("s",), 50, 9, "x"),
        FreezeCrowd(("s",), 3, 60, "chrome", "x"),
    )
    for start in (b"", b"\x16\x03\x01", b"\x16\x03\x01\0\x20\x01\0\0", b"\xc3\0\0\0\x01", b"GET / HTTP/1.1\r\nHost: "):
        raw = build(Packet(protocol, CLIENT, (SERVER[0], port), start + payload, 1, 1, ACK))
        looking.see(raw)
        looking.see(raw[: len(payload)])


# ── what it does ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def lab() -> Iterator[StandingLab]:
    with standing(load("open")) as here:
        yield here


@pytest.fixture(scope="module")
def china(lab: StandingLab) -> Iterator[StandingLab]:
    rules = (
        InjectDns(("twitter.com",), ("198.18.66.1", "198.18.66.2", "198.18.66.3"), "x", count=2),
        InjectDns(("youtube.com",), ("10.10.34.36",), "x", drop_truth=True),
        InjectReset(("facebook.com",), "x", to_server=True, residual_seconds=90),
        InjectReset(("instagram.com",), "x", payload=10, ttl=58),
        InjectPage(("plain.example",), "x", title="Blocked", body="<p>no</p>"),
        DropEncrypted(("proxy",), 100, 180, "x"),
        FreezeCrowd(("wg-a",), 3, 60, "chrome", "x"),
        DropQuicName(("bird.example",), 180, "x", residual_without_port=True, only_higher_source_port=True),
        DropQuicName(("book.example",), 420, "x"),
    )
    with at_work(lab, *rules):
        yield lab


def answers(lab: StandingLab, name: str, resolver: str, kind: str = "A") -> list[list[str]]:
    """Every answer to one question, in the order in which they come."""
    with lab.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        # Not connected: the ICMP error of where nobody is would come before what has arrived.
        asking.settimeout(SOON)
        query = dns.message.make_query(name, kind)
        asking.sendto(query.to_wire(), (resolver, 53))
        found = []
        while True:
            try:
                reply = dns.message.from_wire(asking.recv(4096))
            except TimeoutError:
                return found
            assert query.is_response(reply)
            found.append([data.to_text() for rrset in reply.answer for data in rrset])


@pytest.mark.root
def test_forged_answers_overtake_the_true_one(china: StandingLab) -> None:
    truth = china.lab.web.names["twitter.com"]
    assert answers(china, "twitter.com", PUBLIC_RESOLVER) == [["198.18.66.1"], ["198.18.66.2"], [truth]]
    # Where nobody would answer; beneath the name; and the letters as they were asked.
    assert answers(china, "wWw.Twitter.com", CONTROL) == [["198.18.66.3"], ["198.18.66.1"]]
    assert answers(china, "nottwitter.com", CONTROL) == []
    facebook = "www.facebook.com"
    assert answers(china, facebook, PUBLIC_RESOLVER) == [[china.lab.web.names[facebook]]]
    assert china.dig(PUBLIC_RESOLVER, "twitter.com") == ["198.18.66.2"]


@pytest.mark.root
def test_the_truth_may_be_kept_back(china: StandingLab) -> None:
    assert answers(china, "www.youtube.com", PUBLIC_RESOLVER) == [["10.10.34.36"]]
    assert answers(china, "www.youtube.com", PUBLIC_RESOLVER, "AAAA") == [[]]
    assert answers(china, "www.youtube.com", PUBLIC_RESOLVER, "TXT") == []
    assert len(answers(china, "notyoutube.com", PUBLIC_RESOLVER, "TXT")) == 1


@pytest.mark.root
def test_a_reset_overtakes_the_answer_and_more_follow(china: StandingLab) -> None:
    with conversation(china, 8443) as (far, near):
        far.sendall(hello("fine.example"))
        assert got(near)
    with conversation(china, 8443) as (far, near):
        far.sendall(hello("www.facebook.com"))
        assert got(far) is None
        assert got(near) is None
    # To this port, whatever is shown; at another port it goes on.
    with conversation(china, 8443) as (far, near):
        far.sendall(b"x")
        assert got(far) is None
        assert got(near) == b""
    with conversation(china, 8444) as (far, near):
        far.sendall(hello("fine.example"))
        assert got(near)


@pytest.mark.root
def test_a_reset_for_the_client_alone_with_a_payload(china: StandingLab) -> None:
    address = china.lab.web.names["www.instagram.com"]
    with china.lab.client.entered():
        capture = subprocess.Popen(
            ["tcpdump", "-i", "eth0", "-n", "-v", "-l", f"src host {address} and tcp[tcpflags] & tcp-rst != 0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert capture.stderr is not None
    assert "listening" in capture.stderr.readline()
    fetched = china.curl("www.instagram.com")
    assert fetched.exit_status == CURL_RESET
    assert not fetched.spoke_tls
    time.sleep(SOON)
    capture.terminate()
    forged = capture.communicate()[0]
    assert re.search(r"ttl 58, id 1,.*?Flags \[R\.\].*?cksum 0x\w+ \(correct\).*?length 10", forged, re.DOTALL)
    # Nothing of it remains.
    assert china.curl(NEUTRAL_NAME, "/", "-k", address=address).ok
    with conversation(china, 8445) as (far, near):
        far.sendall(hello("www.instagram.com"))
        assert got(near)


@pytest.mark.root
def test_a_page_in_the_servers_name(china: StandingLab) -> None:
    def fetch(name: str) -> subprocess.CompletedProcess[str]:
        return china.run(
            "client", "curl", "-sSi", "--max-time", "3", "--resolve", f"{name}:80:{CONTROL}", f"http://{name}/204"
        )

    blocked = fetch("www.plain.example").stdout
    assert blocked.startswith("HTTP/1.1 403 Forbidden")
    assert "<title>Blocked</title></head><body><p>no</p>" in blocked
    assert "403 Forbidden" not in fetch("notplain.example").stdout


@pytest.mark.root
def test_what_looks_like_noise_to_a_server_is_dropped_for_a_while(china: StandingLab) -> None:
    loud = bytes(random.Random(1).choices([byte for byte in range(256) if byte.bit_count() == 4], k=300))
    for first in (hello("fine.example"), b"SSH-2.0-" + loud):
        with conversation(china, 7001, "proxy", PROXY) as (far, near):
            far.sendall(first)
            assert got(near)
    with conversation(china, 7001, "proxy", PROXY) as (far, near):
        far.sendall(loud)
        assert got(near) == b""
        near.sendall(b"answer")
        assert got(far) == b"answer"
    with china.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.settimeout(SOON)
        with pytest.raises(TimeoutError):
            asking.connect((PROXY, 7001))
    with conversation(china, 7002) as (far, near):
        far.sendall(loud)
        assert got(near)


@pytest.mark.root
def test_one_too_many_of_chromes_handshakes_falls_silent(china: StandingLab, chromes: bytes) -> None:
    address = vpn.HOSTS[0].addresses[0]

    def passes(stream: bytes) -> bool:
        with conversation(china, 7003, "wg-a", address) as (far, near):
            far.sendall(stream)
            return got(near, len(stream)) == stream

    with conversation(china, 7004, "wg-a", address) as (far, near):
        far.sendall(chromes)
        assert got(near, len(chromes)) == chromes
        assert [passes(chromes) for _ in range(4)] == [True, True, False, False]
        assert passes(hello("bird.example"))
        far.sendall(b"still here")
        assert got(near) == b"still here"


@pytest.mark.root
def test_a_name_in_quic_ends_its_flow(china: StandingLab) -> None:
    fine = quic_initial("fine.example")
    with Datagrams(china, 443) as flow:
        assert flow.up(fine, quic_initial("abook.example")) == 2
        # One after the other: what is not looked at overtakes what is.
        assert flow.up(quic_initial("www.book.example")) == flow.up(b"more") == 0
    # This flow alone: another source port is another flow.
    with Datagrams(china, 443) as flow:
        assert flow.up(fine) == 1
        assert flow.up(quic_initial("bird.example")) == flow.up(b"more") == 0
    # From whatever source port.
    with Datagrams(china, 443) as flow:
        assert flow.up(fine) == 0
    # At a port that is above the source's nobody looks.
    with Datagrams(china, 65535) as flow:
        assert flow.up(quic_initial("bird.example"), b"more") == 2


@pytest.mark.root
def test_without_its_worker_traffic_passes(lab: StandingLab) -> None:
    with at_work(lab, InjectReset(("facebook.com",), "x")):
        assert lab.curl("www.facebook.com").exit_status == CURL_RESET
        worker = lab.lab.network._daemons[-1]
        begun = time.monotonic()
        lab.runner.run(worker.stop())
        assert time.monotonic() - begun < 0.9  # by SIGTERM, not after its grace
        assert lab.curl("www.facebook.com").ok
        assert WITNESS == PUBLIC_RESOLVER


@pytest.mark.root
def test_a_packet_that_it_cannot_deal_with_ends_it(lab: StandingLab) -> None:
    network = lab.lab.network
    with at_work(lab, InjectDns(("twitter.com",), ("198.18.66.1",), "x")):
        assert answers(lab, "twitter.com", CONTROL) == [["198.18.66.1"]]
        lab.runner.run(network._daemons[-1].check())
        # Nothing forged leaves any more.
        mute = "table ip mute {\nchain out { type filter hook output priority filter; udp sport 53 drop\n}\n}\n"
        network.run("censor", ["nft", "-f", "-"], mute)
        assert answers(lab, "twitter.com", CONTROL) == []
        with pytest.raises(CannotMeasure, match="the lab's inspector on censor ended: a packet passes unseen: "):
            lab.runner.run(network._daemons[-1].check())
