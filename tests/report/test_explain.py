"""A verdict in words: everything that it names is in the record, and nothing in it steers the terminal."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from records import REFUSED, RESET, TIMEOUT, World, platform

from vpntest.errors import UsageError
from vpntest.failures import Failure
from vpntest.judge.judging import judge
from vpntest.plan.model import Problem
from vpntest.probe.observation import (
    Address,
    Alive,
    Crowd,
    Details,
    DnsAnswer,
    Echo,
    HttpExchange,
    QuicHandshake,
    RungStep,
    SmallExchanges,
    StunBinding,
    TcpConnect,
    TcpInfo,
    TlsHandshake,
    Transfer,
    Trickle,
)
from vpntest.report.explain import explain

STALLED = Failure.STALLED
SILENT = f"tls_handshake:{TIMEOUT}"


@pytest.fixture
def world() -> World:
    made = World(platform("bird", speed="https://x/"), platform("cat"))
    made.line()
    made.tunnel("se", servers=("198.18.20.1:51820/udp",), carrier="wireguard-go 1")
    made.tunnel("dead", until="handshake", failure=TIMEOUT)
    made.tunnel("odd", problem=Problem("unsupported", "odd.conf: no such carrier"))
    made.reach("outside", "bird", fails=SILENT, neutral=True)
    made.reach("outside", "cat")
    for name in ("bird", "cat"):
        made.reach("se", name)
    made.speed("se", "bird", target=[8000] * 5, neutral=[8000] * 5, control=[9000] * 5)
    return made


def told(world: World, tunnel: str, name: str | None = None, evidence: Path | None = None) -> str:
    record = world.record()
    return explain(record, judge(record), tunnel, name, evidence)


def sections(text: str) -> dict[str, str]:
    """Each heading with all that stands beneath it."""
    found: dict[str, str] = {}
    for part in text.split("\n\n"):
        head, _, body = part.partition("\n")
        found[head.strip()] = body
    return found


def test_a_cell_is_told_from_its_outcome_to_what_would_have_changed_it(world: World) -> None:
    found = sections(told(world, "se", "bird"))
    assert list(found) == [
        "bird through se: circumvents",
        "Outside, bird: blocked, tls.timeout.sni, 3 of 3 tries",
        "The tunnel se: reached up",
        "Through se, bird: ok, 3 of 3 tries",
        "What would have changed it",
    ]
    assert "rule cell.circumvents: " in found["bird through se: circumvents"]
    outside = found["Outside, bird: blocked, tls.timeout.sni, 3 of 3 tries"]
    assert "rule endpoint.blocked.works-here: " in outside
    assert "rule failure.tls.timeout.sni: " in outside
    assert "source: ooni/spec ts-024" in outside
    neutral = "a neutral name at the same address (neutral.example, certificate not checked)"
    assert f"{neutral}: 3 of 3 met no failure, whoever answered" in outside
    own = "the platform's own name, at the address that the resolver gave"
    assert f"{own}: 0 of 3 reached it, 3 failed at tls ({TIMEOUT})" in outside
    assert "at other vantages: ok at se" in outside
    assert "had it gone outside as inside se: open; " in found["What would have changed it"]


def said_of_tries(made: World, vantage: str = "outside", name: str = "bird") -> str:
    return next(line for line in told(made, vantage, name).splitlines() if "the resolver gave: " in line)


def test_a_refusal_and_a_strangers_page_are_no_way_through() -> None:
    made = World(platform("bird"), platform("plain", "http://plain.example/"))
    made.line()
    made.tunnel("se")
    made.reach("outside", "bird", code=403)
    assert "0 of 3 reached it, 3 turned away by the platform" in said_of_tries(made)
    made.reach("outside", "plain", code=403)
    assert "0 of 3 reached it, 3 answered with another page" in said_of_tries(made, name="plain")
    made.reach("se", "bird", times=2, code=503)
    made.reach("se", "bird", times=1)
    text = told(made, "se", "bird")
    assert "1 of 3 reached it, 2 answered otherwise than it should, under its own certificate" in text


def test_a_browsers_handshake_and_another_address_say_how_far_they_go() -> None:
    made = World()
    made.line()
    made.reach("outside", "bird", fails=SILENT, neutral=True, alternate=True, browser="ok")
    text = told(made, "outside", "bird")
    handshake = "same name and address (handshake alone, certificate not checked)"
    assert f"a browser's ClientHello, {handshake}: 3 of 3 came to their end" in text
    assert "the platform's name at another address: 3 of 3 were answered by the platform" in text


def test_throttling_is_told_by_what_was_compared() -> None:
    made = World(platform("bird", speed="https://x/"))
    made.line()
    made.reach("outside", "bird", neutral=True)
    made.speed("outside", "bird", target=[130] * 5, neutral=[8000] * 5, control=[9000] * 5)
    made.speed("outside", "bird", target=[100] * 6, neutral=[4000] * 6, phase="confirm")
    text = told(made, "outside", "bird")
    assert text.startswith("Outside, bird: throttled, throttle.sni, 11 transfers in 2 rounds")
    first, second = (line.strip() for line in text.splitlines() if line.strip().startswith("transfers "))
    number = r"[\d.]+"
    compared = rf"{number} kbit/s of {number}, ratio ({number}), p = ({number})"
    for line, pairs, ratio in ((first, 5, 61.5), (second, 6, 40.0)):
        seen = re.search(rf"own name {number} kbit/s of {pairs}; a neutral name {compared}", line)
        assert seen is not None, line
        # The world's transfers end with a moment of their own.
        assert ratio / 2 < float(seen[1]) < ratio * 1.1
        assert 0 < float(seen[2]) < 0.01
    assert first.startswith("transfers in the first round, medians: ")
    assert second.startswith("transfers at the end of the run, medians: ")
    assert re.search(rf"the controls {compared}", first)
    assert "3 of 3 reached it; at what speed is told below" in text


def test_every_witness_is_told_once_in_the_order_of_time(world: World) -> None:
    record = world.record()
    judgement = judge(record)
    outside = judgement.outside[0]
    body = sections(explain(record, judgement, "outside", "bird"))[
        "Outside, bird: blocked, tls.timeout.sni, 3 of 3 tries"
    ]
    lines = re.findall(r"^    (\d+\.\d{3}) (o\d+) \(", body, re.MULTILINE)
    assert sorted(one for _, one in lines) == sorted(set(outside.witnesses))
    assert [float(at) for at, _ in lines] == sorted(float(at) for at, _ in lines)
    by_id = {one.id: one for one in record.observations}
    assert all(f"{by_id[one].t0:.3f}" == at for at, one in lines)


def test_the_controls_about_that_time_are_counted() -> None:
    made = World().at(10)
    made.tunnel("se")
    for at, failure in ((1, RESET), (9, None), (11, None), (12, TIMEOUT), (60, None)):
        made.at(at).control("outside", "during", failure)
    made.at(10).reach("outside", "bird", fails=SILENT, neutral=True)
    assert "controls about that time, 5.0 to 15.1 s: 2 worked, 1 failed" in told(made, "outside", "bird")


def test_a_tunnel_is_told_with_its_row(world: World) -> None:
    found = sections(told(world, "dead"))
    assert list(found) == [
        "The tunnel dead: reached endpoint, and no further: handshake.timeout",
        "What would have changed it",
        "Platforms",
    ]
    assert "rung handshake: generic_timeout_error" in found[next(iter(found))]
    assert "bird: tunnel-down (outside: blocked" in found["Platforms"]
    assert "cat: tunnel-down (outside: ok" in found["Platforms"]


def test_a_tunnel_that_cannot_be_raised_says_why(world: World) -> None:
    text = told(world, "odd", "bird")
    assert "odd.conf: no such carrier" in text
    assert "Through odd: not judged, for the tunnel is not usable" in text


def test_the_line_is_told_with_all_its_platforms(world: World) -> None:
    text = told(world, "outside")
    assert text.startswith("The line itself\n")
    assert "  bird: blocked, tls.timeout.sni, 3 of 3 tries [endpoint.blocked.works-here]" in text
    assert "  cat: ok, 3 of 3 tries" in text


def test_an_outage_is_told_wherever_one_asks() -> None:
    made = World()
    made.control("outside", "before", TIMEOUT)
    made.tunnel("se", until="handshake", failure=TIMEOUT)
    for question in (("se", "bird"), ("outside", "bird"), ("se",)):
        text = told(made, *question)
        assert text.startswith("Nothing was judged.")
        assert "o2 (outside, control, before) TCP to 198.18.1.1 port 443: generic_timeout_error" in text


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (("nl", "bird"), r"no tunnel called 'nl'; it has: outside, se, dead, odd"),
        (("se", "birds"), r"no platform called 'birds'; it has: bird, cat"),
        (("se\x1b[2J", "bird"), r"no tunnel called 'se\�\[2J'"),
    ],
)
def test_an_unknown_name_is_answered_with_those_that_there_are(
    world: World, question: tuple[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        told(world, *question)


# ── observations in words ────────────────────────────────────────────────────────────────────────────────────────────

WORDS: list[tuple[Details, str | None, str]] = [
    (
        DnsAnswer("a.test", "A", "198.18.0.53:53", "vantage", "NOERROR", ("1.1.1.1",), (("2.2.2.2", "3.3.3.3"),)),
        None,
        "A of a.test from 198.18.0.53:53 (vantage): NOERROR 1.1.1.1, then 2.2.2.2, 3.3.3.3",
    ),
    (DnsAnswer("a.test", "A", "198.18.0.53:53", "public", None), TIMEOUT, f"(public): {TIMEOUT} (no answer)"),
    (TcpConnect("198.18.1.1", 443), REFUSED, f"TCP to 198.18.1.1 port 443: {REFUSED};"),
    (
        TlsHandshake("198.18.1.1:443", "a.test", True, tls_version="TLSv1.3", issuer="Evil CA"),
        None,
        "TLS with 198.18.1.1:443 as a.test, certificate not checked: TLSv1.3, certificate by Evil CA",
    ),
    (QuicHandshake("198.18.1.1:443", "a.test", False, datagrams_received=0), TIMEOUT, "(0 datagrams came)"),
    (StunBinding("198.18.1.1:3478", "198.18.0.2:4000"), None, "binding with 198.18.1.1:3478: we are 198.18.0.2:4000"),
    (
        HttpExchange("GET", "https://a.test/", "h2", 403, 12, title="No", challenge=True),
        None,
        "GET https://a.test/ by h2: status 403, 12 bytes, title 'No', a test for humans",
    ),
    (
        Transfer("https://a.test/", "a.test", "down", 12500, 65536, segment=536),
        None,
        "download of https://a.test/ as a.test in segments of 536: 12500 of 65536 bytes, 200 kbit/s",
    ),
    (Trickle("https://a.test/", "a.test", 32, 10, False), STALLED, "stalled (10 of 32 chunks confirmed, not answered)"),
    (Crowd("https://a.test/", 4, (True, True, False)), STALLED, "4 fresh connections for https://a.test/: stalled (2"),
    (Echo("198.18.0.53:53", 20, 18, (1.0,)), None, "20 questions to 198.18.0.53:53: 18 answered"),
    (
        SmallExchanges("https://a.test/", 9, 40, 3000, 20, 21),
        STALLED,
        "(9 of 40 answered, 3000 bytes, 20 packets in, 21",
    ),
    (RungStep("auth", "AUTH_FAILED"), Failure.AUTH_REJECTED, "rung auth: auth_rejected (AUTH_FAILED)"),
    (Address("exit", 4, "198.18.9.9"), None, "our exit over IPv4: 198.18.9.9"),
    (Alive(carrier_runs=False), TIMEOUT, "alive at the end: generic_timeout_error (the carrier has ended)"),
]


@pytest.mark.parametrize(("details", "failure", "words"), WORDS, ids=lambda value: type(value).__name__)
def test_each_kind_of_observation_has_its_words(details: Details, failure: str | None, words: str) -> None:
    made = World()
    made.control("outside", "before", TIMEOUT)
    judgement = judge(made.record())
    info = TcpInfo(bytes_received=1460, bytes_acked=518, retransmits=5, unacked=2, rtt_ms=9.0, since_last_data_ms=4000)
    made.observations[-1] = msgspec.structs.replace(
        made.observations[-1], details=details, failure=failure, t0=7.0, t=7.5, tcp=info
    )
    text = explain(made.record(), judgement, "outside", "bird")
    assert words in text
    assert "0.500 s, 1460 bytes received, 518 acknowledged, 5 sent again, 2 never confirmed" in text
    assert ("silent for 4000 ms" in text) is (failure is not None)


def test_every_kind_there_is_has_been_tried() -> None:
    assert {type(details) for details, _, _ in WORDS} == set(Details.__args__)


@pytest.mark.parametrize(
    "word", ["\x1b]0;title\x07\x1b[2J", "a\nb\r\tc\x00", "\u202egnp.exe\u2066", "\u2028\x85\u200b", "\ud800", "[31m"]
)
def test_no_word_of_a_stranger_steers_the_terminal(word: str) -> None:
    made = World()
    made.line()
    made.tunnel("se", carrier=word, servers=(word,))
    made.reach("outside", "bird", title=word, server=word, location=word)
    made.reach("se", "bird", fails=SILENT, neutral=True)
    for text in (told(made, "se", "bird"), told(made, "se")):
        assert all(character.isprintable() or character == "\n" for character in text)
        assert len(text.splitlines()) == text.count("\n")


# ── evidence ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def kept(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"")
    return directory


def test_it_points_into_the_evidence(world: World, tmp_path: Path) -> None:
    directory = kept(tmp_path / "it's", "outside/line.pcap", "se/inside.pcap", "se/outer.pcap", "se/carrier.log")
    found = sections(told(world, "se", "bird", directory))
    outside = found["Outside, bird: blocked, tls.timeout.sni, 3 of 3 tries"]
    quoted = f"'{tmp_path}/it'\"'\"'s/outside/line.pcap'"
    assert f"TZ=UTC tcpdump -n -tttt -r {quoted} 'host 198.18.1.1 or host 198.18.0.53 or host 198.18.0.9'" in outside
    seen = [float(at) for at in re.findall(r"^    (\d+\.\d{3}) o\d+ \(outside", outside, re.MULTILINE)]
    # The world's id is a UUIDv7 of that moment.
    began = int("018900000000", 16) / 1000
    begin, end = map(float, re.search(r"frame.time_epoch (\d+\.\d+) to (\d+\.\d+)", outside).groups())  # type: ignore[union-attr]
    assert began + min(seen) - 2 <= begin < began + min(seen)
    assert began + max(seen) < end <= began + max(seen) + 3
    tunnel = found["The tunnel se: reached up"]
    assert "outer.pcap" in tunnel
    assert re.search(r"less .*carrier.log", tunnel)
    assert re.search(r"/se/inside\.pcap' 'host .*198\.18\.1\.1", found["Through se, bird: ok, 3 of 3 tries"])


def test_it_does_not_point_where_nothing_is(world: World, tmp_path: Path) -> None:
    assert "evidence:" not in told(world, "se", "bird", tmp_path)
    assert "evidence:" not in told(world, "se", "bird")


def test_a_kept_run_cannot_lead_out_of_the_directory(tmp_path: Path) -> None:
    kept(tmp_path, "inside.pcap", "e/x")
    made = World()
    made.line()
    made.tunnel("..")
    made.tunnel("../x")
    made.reach("..", "bird")
    for name in ("..", "../x"):
        assert "evidence:" not in told(made, name, "bird", tmp_path / "e")


def test_an_address_that_is_none_is_not_made_a_filter(tmp_path: Path) -> None:
    made = World()
    made.line()
    made.tunnel("se")
    made.reach("outside", "bird", fails=SILENT)
    made.reach("se", "bird")
    made.observations = [
        msgspec.structs.replace(one, details=TlsHandshake("$(reboot):443", "x", False))
        if isinstance(one.details, TlsHandshake)
        else one
        for one in made.observations
    ]
    text = told(made, "outside", "bird", kept(tmp_path, "outside/line.pcap"))
    assert "line.pcap" in text
    assert not re.search(r"line\.pcap.*reboot", text)
