"""What `check` says: a status for each config, its findings with their lines, and nothing that a terminal obeys."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from schemas import fits

from vpntest.plan.keys import generate
from vpntest.plan.model import (
    Bridge,
    Config,
    Entry,
    Finding,
    Kind,
    Problem,
    ProxyConfig,
    Server,
    TorConfig,
    WireGuardConfig,
    WireGuardPeer,
)
from vpntest.report import checked
from vpntest.tunnel.carriers import Carrier, Carriers

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def carriers(*, features: tuple[str, ...] = ("with_gvisor", "with_quic"), there: bool = True) -> Carriers:
    hint = "" if there else "not installed"
    names = ("kernel", "wireguard-go", "amneziawg-go", "openvpn", "tor")
    rows = [Carrier(name, None, None, (), hint) for name in names]
    return Carriers((*rows, Carrier("sing-box", None, "1.14.1", features, hint)))


def wireguard() -> WireGuardConfig:
    private, public = generate()
    peer = WireGuardPeer(public, Server(host="192.0.2.1", port=51820, transport="udp"), ("0.0.0.0/0",))
    return WireGuardConfig(private, ("10.9.0.2/32",), (peer,))


def proxy(*needs: str) -> ProxyConfig:
    server = Server(host="trojan.example", port=443, transport="tcp")
    return ProxyConfig(server=server, outbound={"type": "trojan"}, needs=needs)


def one(entry: Entry, path: str = "a.conf", having: Carriers | None = None) -> checked.Checked:
    return checked.check([(path, entry)], having or carriers(), NOW).configs[0]


def sound(config: Config, *findings: Finding, kind: Kind = Kind.WIREGUARD) -> Entry:
    return Entry(kind=kind, config=config, findings=findings)


def test_a_sound_config_is_ok_and_says_where_it_leads() -> None:
    result = one(sound(wireguard()))
    assert (result.status, result.endpoints, result.findings) == ("ok", ("192.0.2.1:51820/udp",), ())


@pytest.mark.parametrize(("level", "status"), [("note", "ok"), ("warning", "warning"), ("danger", "warning")])
def test_what_may_matter_makes_a_warning(level: str, status: str) -> None:
    finding = Finding(level, "PostUp is ignored", 3)  # type: ignore[arg-type]
    result = one(sound(wireguard(), finding))
    assert result.status == status
    assert result.findings == (checked.Told(level, "PostUp is ignored", 3),)  # type: ignore[arg-type]


def test_bridges_that_nobody_here_speaks_for_make_a_warning() -> None:
    two = TorConfig(tuple(Bridge(name, "192.0.2.1:1", None, (), None) for name in ("obfs4", "webtunnel")))
    having = carriers()
    rows = tuple(row if row.name != "tor" else Carrier("tor", None, None, ("obfs4",)) for row in having.rows)
    result = one(sound(two, kind=Kind.TOR), having=Carriers(rows))
    assert result.status == "warning"
    assert "1 of 2 bridges not tried" in result.findings[0].text


@pytest.mark.parametrize("mechanism", ["invalid", "unsupported", "refused"])
def test_a_problem_is_the_status_and_the_first_finding(mechanism: str) -> None:
    problem = Problem(mechanism, "a.conf:7: the port is none; write one")  # type: ignore[arg-type]
    entry = Entry(Kind.WIREGUARD, None, problem, (Finding("note", "MTU is odd", 2),))
    result = one(entry)
    assert result.status == mechanism
    first = checked.Told(mechanism, "the port is none; write one", 7)  # type: ignore[arg-type]
    assert result.findings == (first, checked.Told("note", "MTU is odd", 2))
    assert not checked.check([("a.conf", entry)], carriers(), NOW).usable


def test_a_problem_of_a_line_in_a_list_is_placed_there() -> None:
    entry = Entry(Kind.VLESS, None, Problem("invalid", "links.txt:12: the user id is not a UUID"), line=12)
    assert one(entry, "links.txt").findings == (checked.Told("invalid", "the user id is not a UUID", 12),)


def test_what_the_carrier_here_lacks_is_unsupported() -> None:
    result = one(sound(proxy("utls"), kind=Kind.TROJAN))
    assert result.status == "unsupported"
    assert "with_utls" in result.findings[0].text


def test_a_carrier_that_is_not_here_says_nothing_of_the_config() -> None:
    assert one(sound(proxy("utls"), kind=Kind.TROJAN), having=carriers(there=False)).status == "ok"


def test_the_report_fits_its_schema() -> None:
    bad = Entry(Kind.UNKNOWN, None, Problem("invalid", "b: no config"), line=3, label="x")
    report = checked.check([("a", sound(wireguard(), Finding("danger", "x", 1))), ("b", bad)], carriers(), NOW)
    document = fits(checked.encode(report))
    assert document["schema"] == "vpntest.check/1"
    assert set(document["configs"][0]) >= {"path", "line", "kind", "status", "findings"}


def test_people_read_each_config_and_the_sums() -> None:
    bad = Entry(Kind.VLESS, None, Problem("invalid", "l.txt:2: no port"), line=2)
    report = checked.check([("l.txt", sound(wireguard())), ("l.txt", bad)], carriers(), NOW)
    text = "".join(checked.render(report, width=80, colour=False))
    assert text.splitlines() == [
        "✓ ok  l.txt  wireguard  192.0.2.1:51820/udp",
        "✗ invalid  l.txt:2  vless",
        "    invalid: no port",
        "2 configs: 1 ok, 1 invalid",
    ]
    short = "".join(checked.render(report, width=80, colour=False, unicode=False, all_of_them=False))
    assert short.splitlines()[0] == "x invalid  l.txt:2  vless"


def test_a_terminal_obeys_nothing_of_it() -> None:
    evil = "\x1b]0;owned\x07\u202egnp.exe\n\rsecond"
    entry = Entry(Kind.TROJAN, proxy(), findings=(Finding("note", evil),), label=evil)
    text = "".join(checked.render(checked.check([(evil, entry)], carriers(), NOW), width=80, colour=False))
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\r"}
    assert text.count("\n") == 3


def test_colour_only_repeats_the_word() -> None:
    report = checked.check([("a", sound(wireguard()))], carriers(), NOW)
    coloured = "".join(checked.render(report, width=80, colour=True))
    assert coloured.startswith("\x1b[38;2;0;158;115m✓ ok\x1b[0m")
