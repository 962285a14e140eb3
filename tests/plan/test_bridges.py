"""Bridge lines, as bots, mails and torrc files have them."""

from __future__ import annotations

import base64
import contextlib
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan import bridges
from vpntest.plan.model import Bridge, Finding, Server, TorConfig
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

PRINT = "A1B2C3D4E5" * 4
CERT = base64.b64encode(random.Random(1).randbytes(52)).decode().rstrip("=")
OBFS4 = f"obfs4 192.0.2.7:443 {PRINT} cert={CERT} iat-mode=0"


def read(*lines: str) -> tuple[TorConfig, tuple[Finding, ...]]:
    return bridges.parse("\n".join(lines), "bridges.txt")


def only(line: str) -> Bridge:
    config, findings = read(line)
    assert findings == ()
    (bridge,) = config.bridges
    return bridge


def arguments(bridge: Bridge) -> dict[str, str]:
    return {key: value.reveal() if isinstance(value, Secret) else value for key, value in bridge.arguments}


# ── one line ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "line",
    [
        OBFS4,
        f"Bridge {OBFS4}",
        f"bridge   {OBFS4}  ",
        f"\ufeff{OBFS4}\r\n".removeprefix("\ufeff"),
        f" - {OBFS4}",
        f"1. {OBFS4}",
        f"`{OBFS4}`",
        f'"{OBFS4}",',
        OBFS4.replace("obfs4", "OBFS4"),
        OBFS4.replace(PRINT, PRINT.lower()),
        OBFS4.replace(PRINT, f"${PRINT}"),
        f"Bridge {OBFS4}  # from a friend",
        f"{OBFS4} # from a friend",
    ],
)
def test_obfs4_in_every_dress(line: str) -> None:
    bridge = only(line)
    assert (bridge.transport, bridge.address, bridge.fingerprint) == ("obfs4", "192.0.2.7:443", PRINT)
    assert arguments(bridge) == {"cert": CERT, "iat-mode": "0"}
    assert bridge.server == Server("192.0.2.7", 443, "tcp")


def test_what_identifies_a_bridge_is_a_secret_and_what_all_share_is_none() -> None:
    kinds = {key: type(value) for key, value in only(OBFS4).arguments}
    assert kinds == {"cert": Secret, "iat-mode": str}


@pytest.mark.parametrize(
    ("line", "address", "fingerprint"),
    [
        (f"192.0.2.9:9001 {PRINT}", "192.0.2.9:9001", PRINT),
        (f"Bridge 192.0.2.9:9001 {' '.join(PRINT[i : i + 4] for i in range(0, 40, 4))}", "192.0.2.9:9001", PRINT),
        (f"Bridge 192.0.2.9 {PRINT}", "192.0.2.9:443", PRINT),
        (f"Bridge [2001:DB8::0:9]:9001 {PRINT}", "[2001:db8::9]:9001", PRINT),
    ],
)
def test_plain(line: str, address: str, fingerprint: str) -> None:
    bridge = only(line)
    assert (bridge.transport, bridge.address, bridge.fingerprint) == (None, address, fingerprint)
    assert bridge.server is not None
    assert str(bridge.server) == f"{address}/tcp"


def test_a_plain_one_without_a_fingerprint_can_be_anybody() -> None:
    _, (finding,) = read("", "Bridge 192.0.2.9:9001")
    assert (finding.level, finding.line) == ("danger", 2)


@pytest.mark.parametrize(
    ("line", "server"),
    [
        (f"webtunnel [2001:db8::1]:443 {PRINT} url=https://web.example/x ver=0.0.1", Server("web.example", 443, "tcp")),
        (f"webtunnel 192.0.2.1:1 {PRINT} url=https://web.example:8443/x", Server("web.example", 8443, "tcp")),
        ("webtunnel 192.0.2.1:1 url=https://web.example/x addr=192.0.2.80:444", Server("192.0.2.80", 444, "tcp")),
        ("meek_lite 192.0.2.18:80 url=https://meek.example/ front=cdn.example", Server("cdn.example", 443, "tcp")),
        ("meek_lite 192.0.2.18:80 url=http://meek.example/", Server("meek.example", 80, "tcp")),
        (f"snowflake 192.0.2.3:80 {PRINT} fingerprint={PRINT} url=https://b.example/ fronts=f.example", None),
    ],
)
def test_who_is_called_first(line: str, server: Server | None) -> None:
    assert only(line).server == server


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ("url=https://b.example/", "b.example:443/tcp"),
        ("url=https://b.example/ front=f.example", "f.example:443/tcp"),
        ("url=https://b.example/ fronts=f.example,g.example,", "f.example:443/tcp g.example:443/tcp"),
        ("url=https://b.example/ ampcache=https://c.example/", "b.example:443/tcp c.example:443/tcp"),
        ("sqsqueue=https://q.example/x sqscreds=AAAA", "q.example:443/tcp"),
        (
            "url=http://127.0.0.1:8080/ ice=stun:s.example:19302,stun:198.51.100.7,stuns:[2001:db8::7]:5349",
            "127.0.0.1:8080/tcp s.example:19302/udp 198.51.100.7:3478/udp [2001:db8::7]:5349/udp",
        ),
    ],
)
def test_whom_snowflake_asks(arguments: str, asked: str) -> None:
    config, _ = read(f"snowflake 192.0.2.3:80 {PRINT} {arguments}")
    assert config.servers == ()
    assert " ".join(map(str, config.called)) == asked


def test_nobody_asks_for_the_name_behind_a_front() -> None:
    line = "meek_lite 192.0.2.18:80 url=http://meek.example/ front=cdn.example"
    assert read(line)[0].called == (Server("cdn.example", 80, "tcp"),)
    assert read(line.replace("meek.example", "192.0.2.1"))[0].called[1] == Server("192.0.2.1", 80, "tcp")


def test_a_line_out_of_a_web_page() -> None:
    bridge = only(f"webtunnel 192.0.2.1:1 {PRINT} url=https://web.example/x?a=1&amp;b=2")
    assert arguments(bridge)["url"] == "https://web.example/x?a=1&b=2"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Bridge obfs4", "no address"),
        (OBFS4.replace("192.0.2.7", "bridge.example"), "takes no names"),
        (OBFS4.replace(":443", ":70000"), "port"),
        (OBFS4.replace(PRINT, PRINT[1:]), "fingerprint"),
        (OBFS4.replace(CERT, CERT[:-3]), "cut off"),
        (OBFS4.replace(" iat-mode=0", ""), "iat-mode"),
        (OBFS4.replace(f" cert={CERT}", ""), "needs `cert`"),
        (f"{OBFS4} nonsense", "key=value"),
        (f"{OBFS4} more={'x' * 500}", "510"),
        (f"webtunnel 192.0.2.1:1 {PRINT}", "needs `url`"),
        (f"webtunnel 192.0.2.1:1 {PRINT} url=ftp://web.example/", "web server"),
        (f"snowflake 192.0.2.3:80 {PRINT}", "needs `url`"),
        (f"Bridge 192.0.2.9:9001 {PRINT} key=value", "no transport"),
        (f"Bridge 192.0.2.9:9001 {PRINT[1:]}", "fingerprint"),
        (f"{OBFS4} more=a\u200bb", "key=value"),
        (f"{OBFS4} iat-mode=0", "twice"),
        ("meek_lite 192.0.2.18:80 url=http://127.0.0.1/ url=https://meek.example/", "twice"),
        ("meek_lite 192.0.2.18:80 url=https://meek.example/ front=127.0.0.1:8080", "front"),
        ("snowflake 192.0.2.3:80 url=https://b.example/ fronts=f.example,127.1", "front"),
        ("snowflake 192.0.2.3:80 url=https://b.example/ ice=stun://127.0.0.1", "STUN"),
        ("snowflake 192.0.2.3:80 url=https://b.example/ ice=http:127.0.0.1", "STUN"),
        ("snowflake 192.0.2.3:80 url=https://b.example/ ice=stun:127.1:9", "neither a name nor"),
        ("snowflake 192.0.2.3:80 url=https://b.example/ ampcache=file:///x", "web server"),
    ],
)
def test_broken(line: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read("# bridges", line)
    assert reason in raised.value.reason
    assert raised.value.line == 2
    assert not isinstance(raised.value, Unsupported)


@pytest.mark.parametrize(
    ("transport", "said"),
    [("conjure", "`conjure`"), ("obfs2", "`obfs2`"), ("meek", "`meek`"), ("brandnew", "its transport$")],
)
def test_a_transport_that_nobody_speaks(transport: str, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        read(f"Bridge {transport} 192.0.2.3:80 {PRINT} url=https://reg.example/")


# ── many ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bots_answer_is_one_tunnel() -> None:
    config, findings = read("Here are your bridges:", "", OBFS4, OBFS4.replace(".7", ".8"), "", "Good luck")
    assert [bridge.address for bridge in config.bridges] == ["192.0.2.7:443", "192.0.2.8:443"]
    assert len(config.servers) == 2
    assert [(finding.level, finding.line) for finding in findings] == [("note", 1)]


def test_one_bad_line_costs_only_itself() -> None:
    config, findings = read(OBFS4.replace(CERT, "AAAA"), f"Bridge conjure 192.0.2.3:80 {PRINT}", OBFS4)
    assert [bridge.address for bridge in config.bridges] == ["192.0.2.7:443"]
    assert [(finding.level, finding.line) for finding in findings] == [("warning", 1), ("warning", 2)]


def test_a_piece_of_a_key_at_the_beginning_of_a_line_stays_unsaid() -> None:
    _, findings = read(OBFS4, "PURQXOz2EE9A cert=x")
    assert [(finding.level, finding.line) for finding in findings] == [("note", 2)]
    assert "PURQXOz2EE9A" not in findings[0].text


def test_the_same_bridge_twice_is_one() -> None:
    config, findings = read(OBFS4, f"Bridge {OBFS4}")
    assert len(config.bridges) == 1
    assert [(finding.level, finding.line) for finding in findings] == [("note", 2)]


def test_more_than_tor_should_call_at_once() -> None:
    lines = [OBFS4.replace("192.0.2.7", f"203.0.113.{number}") for number in range(1, 101)]
    config, findings = read(*lines)
    assert len(config.bridges) == bridges.MAX_BRIDGES
    assert [finding.level for finding in findings] == ["warning"]
    assert "36 more" in findings[0].text


def test_nothing() -> None:
    with pytest.raises(ConfigError, match="no bridge line"):
        read("UseBridges 1")


# ── torrc ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("ClientTransportPlugin obfs4 exec /bin/sh -c id", "danger"),
        ("clienttransportplugin obfs4 socks5 127.0.0.1:1", "danger"),
        ("ServerTransportPlugin obfs4 exec /bin/sh", "danger"),
        ("%include /etc/shadow", "danger"),
        ("+Log notice file /etc/passwd", "danger"),
        ("DataDirectory /etc", "danger"),
        ("PidFile /etc/passwd", "danger"),
        ("ControlPort 0.0.0.0:9051", "danger"),
        ("SocksPort 0.0.0.0:9050", "danger"),
        ("HiddenServiceDir /etc/cron.d", "danger"),
        ("ExitNodes {us}", "warning"),
        ("StrictNodes 1", "warning"),
        ("AvoidDiskWrites 1", "note"),
    ],
)
def test_options_of_a_torrc_are_left_out(line: str, level: str) -> None:
    config, (finding,) = read("UseBridges 1", line, OBFS4)
    assert len(config.bridges) == 1
    assert (finding.level, finding.line) == (level, 2)
    assert line.split(maxsplit=1)[1] not in finding.text


@pytest.mark.parametrize(
    "option",
    [
        "Socks5Proxy 127.0.0.1:1080",
        "HTTPSProxy 192.0.2.1:8080",
        f"DirAuthority mine 192.0.2.1:80 {PRINT}",
        f"AlternateDirAuthority mine 192.0.2.1:80 {PRINT}",
        "TestingTorNetwork 1",
    ],
)
def test_another_way_or_another_network_is_never_silently_tors_own(option: str) -> None:
    with pytest.raises(Unsupported, match=option.split()[0]):
        read(OBFS4, option)


# ── whatever comes ───────────────────────────────────────────────────────────────────────────────────────────────────

_WORDS = st.sampled_from(
    (
        *("Bridge", "obfs4", "webtunnel", "snowflake", "meek_lite", "192.0.2.7:443", "[2001:db8::1]:1"),
        *("[", "]:", "1.2.3.4.5:6"),
        *(PRINT, f"cert={CERT}", "iat-mode=0", "url=https://[", "url=https://x.example:99999/"),
        *("url=//", "front=ü", "addr=:"),
        *("=", "#", "ClientTransportPlugin", "%include", "-", "1.", "`", "\u2028", "\x00", "url=&#10;", "\n", "\n"),
    )
)


@given(st.one_of(st.text(max_size=300), st.lists(_WORDS, max_size=30).map(" ".join)))
@example("obfs4 192.0.2.7:443 url=&#0;")
@example(f"webtunnel 192.0.2.1:1 {PRINT} url=https://x.example:0/")
def test_only_config_errors_leave(text: str) -> None:
    with contextlib.suppress(ConfigError):
        config, findings = bridges.parse(text, "x")
        assert config.bridges
        assert all(CERT not in finding.text and finding.text.isprintable() for finding in findings)
