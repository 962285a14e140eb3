"""What `doctor` says, and what it does to the machine: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from schemas import fits

from vpntest import doctor
from vpntest.cli import main
from vpntest.doctor import Facts, Report, encode, examine, render
from vpntest.lab.profiles import names
from vpntest.plan.model import (
    AmneziaParameters,
    Bridge,
    CommandConfig,
    Config,
    Kind,
    OpenVpnConfig,
    ProxyConfig,
    Server,
    TorConfig,
    TunnelSpec,
    WireGuardConfig,
)
from vpntest.plan.secret import Secret
from vpntest.tunnel import netlink
from vpntest.tunnel.carriers import Carrier, Carriers
from vpntest.tunnel.kernel import FEATURES, Tried
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.netlink import Way

NAMES = ("kernel", "wireguard-go", "amneziawg-go", "openvpn", "sing-box", "tor")
TAGS = {
    "amneziawg-go": ("awg1", "awg1.5", "awg2"),
    "sing-box": ("with_gvisor", "with_quic", "with_utls"),
    "tor": ("obfs4", "webtunnel", "snowflake", "meek_lite"),
}
PROFILE = Tried("lab.profile.p", True, needs=("carriers.sing-box", "carriers.sing-box.utls", "lab.nft.set"))


def carriers(without: str = "", *, untagged: str = "") -> Carriers:
    """All of them, but for one that is missing; `untagged` is a feature that they lack."""
    return Carriers(
        tuple(
            Carrier(name, None, None, (), f"{name} is not installed; do this")
            if name == without
            else Carrier(name, f"/bin/{name}", "1.2", tuple(one for one in TAGS.get(name, ()) if one != untagged))
            for name in NAMES
        )
    )


def facts(**change: Any) -> Facts:
    """Those of a machine that has everything, but for what is changed."""
    sound: dict[str, Any] = {
        "root": True,
        "lacking_capabilities": (),
        "container": None,
        "descriptors": 65536,
        "kernel": {name: Tried(name, True) for name in FEATURES},
        "carriers": carriers(),
        "lab": {"lab.nft.set": Tried("lab.nft.set", True), "lab.program.nft": Tried("lab.program.nft", True, "/bin/n")},
        "profiles": {"p": PROFILE},
        "packages": {"httpx": True},
        "resolvers": ("192.0.2.53",),
        "ways": (Way("eth0", None), Way("eth0", None)),
        "now": datetime(2027, 1, 1, tzinfo=UTC),
        "written": datetime(2026, 11, 1, tzinfo=UTC),
        "is_synchronised": True,
        "database": Path("/var/lib/vpntest/runs.sqlite"),
        "obstacle": None,
        "temporary": Path("/tmp"),
        "room": {"runs": 1 << 40, "temporary": 1 << 40},
        "aside": frozenset(),
        "has_apt": True,
    }
    return Facts(**(sound | change))


def item(report: Report, name: str) -> doctor.Item:
    return next(one for one in report.items if one.id == name)


def states(abilities: tuple[doctor.Ability, ...]) -> dict[str, str]:
    return {one.id: one.state for one in abilities}


def tried(**change: bool | None) -> dict[str, Tried]:
    return {name: Tried(name, change.get(name, True), "so it said" * (name in change)) for name in FEATURES}


def test_a_machine_that_has_everything() -> None:
    report = examine(facts())
    assert {one.state for one in (*report.items, *report.kinds, *report.profiles)} == {"ok"}
    assert report.can_measure is True
    assert report.reasons == ()
    assert not any(one.remedy for one in report.items)
    assert set(states(report.kinds)) == set(Kind) - {Kind.UNKNOWN}


def test_every_item_has_an_id_of_its_own_and_says_what_it_is_for() -> None:
    items = examine(facts()).items
    assert len({one.id for one in items}) == len(items)
    assert all(re.fullmatch(r"[a-z0-9]+(\.[a-z0-9_-]+)+", one.id) for one in items)
    assert all(one.needed_for and one.name for one in items)


CHANGES: dict[str, dict[str, Any]] = {
    "no root": {"root": False, "kernel": tried(**dict.fromkeys(FEATURES))},
    "nothing came back": {"kernel": {}, "lab": {}, "profiles": {}},
    "no carrier": {"carriers": Carriers(tuple(carriers(name)[name] for name in NAMES))},
    "no kernel": {"kernel": tried(**dict.fromkeys(FEATURES, False))},
    "nothing is known": {
        "ways": None,
        "packages": None,
        "is_synchronised": None,
        "room": {"runs": None, "temporary": None},
    },
    "all is wrong": {
        "packages": {"httpx": False},
        "resolvers": (),
        "ways": (None, None),
        "now": datetime(1970, 1, 1, tzinfo=UTC),
        "is_synchronised": False,
        "obstacle": "it cannot be written",
        "temporary": None,
        "room": {"runs": 0, "temporary": None},
        "lacking_capabilities": ("CAP_SYS_ADMIN",),
        "container": "docker",
        "descriptors": 64,
        "lab": {"lab.nft.set": Tried("lab.nft.set", False, "no"), "lab.program.nft": Tried("lab.program.nft", False)},
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_ids_are_the_same_on_every_machine(change: str) -> None:
    report = examine(facts(**CHANGES[change]))
    whole = {one.id for one in examine(facts()).items if one.group != "lab"}
    assert {one.id for one in report.items if one.group != "lab"} == whole


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_missing_has_a_remedy_and_what_is_unknown_has_none(change: str) -> None:
    for one in examine(facts(**CHANGES[change])).items:
        if one.state in ("missing", "degraded") and one.id not in ("line.way.ipv4", "line.way.ipv6"):
            assert one.remedy, one.id
        elif one.state in ("ok", "unknown"):
            assert one.remedy is None, one.id


@pytest.mark.parametrize("change", CHANGES)
def test_the_report_fits_the_published_schema(change: str) -> None:
    assert fits(encode(examine(facts(**CHANGES[change]))))["schema"] == "vpntest.doctor/1"


def test_without_root_nothing_is_said_to_be_missing_but_root() -> None:
    lab = {"lab.nft.set": Tried("lab.nft.set", None)}
    profiles = {"p": Tried("lab.profile.p", None, needs=PROFILE.needs)}
    report = examine(facts(root=False, kernel=tried(**dict.fromkeys(FEATURES)), lab=lab, profiles=profiles))
    assert [one.id for one in report.items if one.state == "missing"] == ["privileges.root"]
    assert item(report, "kernel.tun").state == item(report, "privileges.capabilities").state == "unknown"
    assert (report.can_measure, report.reasons) == (False, ("root: this user is not root",))
    assert states(report.profiles) == {"p": "unknown"}
    assert "As root, as far as can be told: wireguard," in render(report, width=200, colour=False)


def test_what_no_try_came_back_from_is_not_known_and_no_reason_to_give_up() -> None:
    report = examine(facts(kernel={}))
    assert item(report, "kernel.netns").state == "unknown"
    assert item(report, "kernel.netns").found == "the try came to no end"
    assert report.can_measure is None
    assert set(states(report.kinds).values()) == {"unknown"}
    assert report.reasons == ()


@pytest.mark.parametrize("name", ["netns", "cage"])
def test_without_namespaces_nothing_can_be_measured(name: str) -> None:
    report = examine(facts(kernel=tried(**{name: False})))
    assert report.can_measure is False
    assert [reason.partition(": ")[2] for reason in report.reasons] == ["so it said"]
    assert "Nothing can be measured: " in render(report, width=200, colour=False)


def test_without_tun_only_wireguard_in_the_kernel_is_left() -> None:
    for name in ("tun", "confinement"):
        report = examine(facts(kernel=tried(**{name: False})))
        assert {kind for kind, state in states(report.kinds).items() if state == "ok"} == {"wireguard"}
        assert report.can_measure is True
        report = examine(facts(kernel=tried(**{name: False}), carriers=carriers("kernel")))
        assert report.can_measure is False


def test_what_makes_it_less_safe_is_no_reason_to_give_up() -> None:
    report = examine(facts(kernel=tried(ipv6=False, userns=False, seccomp=False)))
    assert {one.id for one in report.items if one.state == "degraded"} == {
        "kernel.ipv6",
        "kernel.userns",
        "kernel.seccomp",
    }
    assert set(states(report.kinds).values()) == {"ok"}


@pytest.mark.parametrize(
    ("carrier", "lost"),
    [
        ("wireguard-go", set()),
        ("kernel", set()),
        ("amneziawg-go", {"amneziawg"}),
        ("openvpn", {"openvpn"}),
        ("tor", {"tor"}),
        ("sing-box", set(Kind) - {"wireguard", "amneziawg", "openvpn", "unknown"}),
    ],
)
def test_what_falls_away_with_a_carrier(carrier: str, lost: set[str]) -> None:
    report = examine(facts(carriers=carriers(carrier)))
    assert {one.id for one in report.kinds if one.state == "missing"} == lost
    found = item(report, "kernel.wireguard" if carrier == "kernel" else f"carriers.{carrier}")
    assert (found.state, found.found, found.path) == ("missing", f"{carrier} is not installed", None)
    assert found.remedy
    assert report.can_measure is True


def test_what_falls_away_with_a_tag_or_a_transport() -> None:
    report = examine(facts(carriers=carriers(untagged="with_utls")))
    assert [one for one in report.kinds if one.state != "ok"] == [
        doctor.Ability("vless", "degraded", "sing-box 1.2", ("carriers.sing-box.utls",))
    ]
    assert report.profiles == (doctor.Ability("p", "degraded", None, ("carriers.sing-box.utls",)),)
    report = examine(facts(carriers=carriers(untagged="awg2")))
    assert [(one.id, one.lacks) for one in report.kinds if one.state != "ok"] == [
        ("amneziawg", ("carriers.amneziawg-go.awg2",))
    ]
    report = examine(facts(carriers=carriers(untagged="with_quic")))
    assert {one.id for one in report.kinds if one.state == "missing"} == {"hysteria2", "tuic"}
    report = examine(facts(carriers=carriers(untagged="snowflake")))
    assert [(one.id, one.lacks) for one in report.kinds if one.state != "ok"] == [("tor", ("carriers.tor.snowflake",))]
    assert item(report, "carriers.tor.snowflake").remedy == "sudo apt-get install snowflake-client"


def old(name: str, feature: str = "") -> Carriers:
    """All of them, one of which is too old, or lacks a feature."""
    row = Carrier(name, f"/usr/bin/{name}", "0.9", (), f"this {name} is too old; install 1.14 or newer; if you can")
    if feature:
        row = replace(row, hint="", features=tuple(one for one in TAGS[name] if one != feature))
    return Carriers(tuple(row if one == name else carriers()[one] for one in NAMES))


ASIDE = "start it by scripts/vpntest: this clone has one of its own, to which PATH does not lead"
AGAIN = "sudo rm -f .carriers/sing-box.key; sudo scripts/prepare"


@pytest.mark.parametrize(
    ("name", "here", "change", "remedy"),
    [
        ("openvpn", carriers("openvpn"), {}, "sudo apt-get install openvpn"),
        ("openvpn", carriers("openvpn"), {"has_apt": False}, "install openvpn (Debian's name of it)"),
        ("tor.snowflake", carriers(untagged="snowflake"), {}, "sudo apt-get install snowflake-client"),
        ("tor.webtunnel", carriers(untagged="webtunnel"), {}, "install lyrebird, which speaks it"),
        ("sing-box", carriers("sing-box"), {}, "sudo scripts/prepare"),
        ("sing-box", carriers("sing-box"), {"has_apt": False}, "do this"),
        ("sing-box", carriers("sing-box"), {"aside": None}, "do this"),
        ("sing-box", carriers("sing-box"), {"aside": frozenset(("sing-box",))}, ASIDE),
        ("sing-box", old("sing-box"), {"aside": frozenset(("sing-box",))}, ASIDE),
        ("sing-box", old("sing-box"), {"aside": None}, "install 1.14 or newer; if you can"),
        ("sing-box", old("sing-box"), {}, AGAIN),
        ("sing-box.utls", old("sing-box", "with_utls"), {}, AGAIN),
        ("sing-box.utls", old("sing-box", "with_utls"), {"aside": frozenset(("sing-box",))}, ASIDE),
        (
            *("sing-box.quic", old("sing-box", "with_quic"), {"aside": None}),
            "install a sing-box that was built with_gvisor, with_quic and with_utls",
        ),
        (
            *("amneziawg-go.awg2", old("amneziawg-go", "awg2"), {"aside": None}),
            "build the newest github.com/amnezia-vpn/amneziawg-go and put it on PATH",
        ),
    ],
)
def test_the_command_fits_the_machine(name: str, here: Carriers, change: dict[str, Any], remedy: str) -> None:
    assert item(examine(facts(carriers=here, **change)), f"carriers.{name}").remedy == remedy


def test_root_is_had_by_the_command_that_starts_it_here() -> None:
    assert item(examine(facts(root=False)), "privileges.root").remedy == "sudo scripts/vpntest …"
    assert item(examine(facts(root=False, aside=None)), "privileges.root").remedy == "sudo vpntest …"


def test_which_program_cannot_serve_is_said() -> None:
    text = render(examine(facts(carriers=old("sing-box"))), width=200, colour=False)
    assert "✗ missing  sing-box 0.9 (/usr/bin/sing-box): this sing-box is too old\n" in text


def test_what_of_a_clone_path_leads_to_is_not_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._aside(tmp_path) is None
    for name in ("scripts/prepare", ".carriers/bin/sing-box", ".carriers/bin/amneziawg-go", "old/sing-box"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/old:{tmp_path}/.carriers/bin")
    assert doctor._aside(tmp_path) == {"sing-box"}
    monkeypatch.setenv("PATH", "/usr/bin")
    assert doctor._aside(tmp_path) == {"sing-box", "amneziawg-go"}


def test_a_package_that_is_there_and_cannot_be_loaded_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set((doctor._packages() or {}).values()) == {True}
    assert {"httpx", "cryptography", "python-wireguard"} <= set(doctor._packages() or {})
    for module in ("cryptography.hazmat.bindings._rust", "dns"):
        monkeypatch.setitem(sys.modules, module, None)
    found = doctor._packages() or {}
    assert [name for name, loads in found.items() if not loads] == ["cryptography", "dnspython"]
    report = examine(facts(packages=found, aside=None))
    assert item(report, "python.packages").remedy == "pip install --force-reinstall cryptography dnspython"
    assert report.can_measure is False
    assert not doctor._loads("no-such-package")


SAMPLES: dict[Kind, Config] = {
    Kind.WIREGUARD: WireGuardConfig(Secret("k"), (), ()),
    Kind.AMNEZIAWG: WireGuardConfig(Secret("k"), (), (), amnezia=AmneziaParameters(())),
    Kind.OPENVPN: OpenVpnConfig((), (), ()),
    Kind.TOR: TorConfig((Bridge(None, "192.0.2.1:1", None, (), None),)),
    Kind.COMMAND: CommandConfig(("client",)),
}


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.UNKNOWN])
def test_a_kind_can_be_had_exactly_where_a_run_would_choose_a_carrier(kind: Kind) -> None:
    proxy = ProxyConfig(Server("192.0.2.1", 443, "tcp"), {}, ("quic",) if kind in ("hysteria2", "tuic") else ())
    spec = TunnelSpec("x", kind, "x", SAMPLES.get(kind, proxy))
    for here in (*map(carriers, NAMES), carriers(untagged="with_quic")):
        (told,) = (one for one in examine(facts(carriers=here)).kinds if one.id == kind)
        chosen = here.choose(spec)
        assert (told.state != "missing") == isinstance(chosen, str), here
        assert told.carrier == (str(here[chosen]) if isinstance(chosen, str) else None)


def test_a_profile_lacks_what_it_needs_and_else_what_its_own_rules_met() -> None:
    lab = {"lab.nft.set": Tried("lab.nft.set", False, "no sets")}
    assert examine(facts(lab=lab)).profiles == (doctor.Ability("p", "missing", None, ("lab.nft.set",)),)
    profiles = {"p": Tried("lab.profile.p", False, "nft failed", PROFILE.needs)}
    report = examine(facts(profiles=profiles))
    assert report.profiles == (doctor.Ability("p", "missing", None, ("lab.profile.p",)),)
    assert report.can_measure is True
    assert "not p: without lab.profile.p" in render(report, width=200, colour=False)
    many = {f"p{number}": PROFILE for number in range(9)}
    text = render(examine(facts(profiles=many, carriers=carriers("sing-box"))), width=200, colour=False)
    assert "0 of its 9 profiles can be raised" in text
    assert "not 9 of them: without sing-box\n" in text


def test_tries_of_the_lab_that_came_to_no_end_are_not_passed_over() -> None:
    for said, told in (("No module named 'dns'",) * 2, ("", "the try came to no end")):
        report = examine(facts(lab={"lab.tries": Tried("lab.tries", None, said)}, profiles={}))
        found = item(report, "lab.tries")
        assert (found.state, found.found, found.needed_for) == ("unknown", told, "every profile of the lab")
        text = render(report, width=200, colour=False)
        assert (
            f"lab         ? unknown  tries: {told}\n{'':12}which of its profiles can be raised is not known\n" in text
        )


def test_the_line() -> None:
    report = examine(facts(ways=(None, None)))
    assert report.can_measure is False
    assert report.reasons == ("a way out: no default route, neither for IPv4 nor for IPv6",)
    report = examine(facts(ways=(None, Way("eth0", None))))
    assert (report.can_measure, item(report, "line.way.ipv4").state, item(report, "line.way").state) == (
        True,
        "missing",
        "ok",
    )
    report = examine(facts(ways=None))
    assert {item(report, f"line.{name}").state for name in ("way", "way.ipv4", "way.ipv6")} == {"unknown"}
    assert report.can_measure is None
    found = item(examine(facts(ways=(Way("wg0", "wireguard"), None))), "line.way")
    assert found.state == "degraded"
    assert "wg0 is itself a tunnel" in str(found.found)
    assert "a program of this machine" in str(item(examine(facts(resolvers=("127.0.0.53",))), "line.resolver").found)
    assert item(examine(facts(resolvers=())), "line.resolver").state == "degraded"


def test_the_clock() -> None:
    early = examine(facts(now=datetime(1970, 1, 2, tzinfo=UTC)))
    assert item(early, "clock.date").state == "missing"
    assert "1970-01-02" in str(item(early, "clock.date").found)
    assert early.can_measure is True
    for known, state in ((True, "ok"), (False, "degraded"), (None, "unknown")):
        assert item(examine(facts(is_synchronised=known)), "clock.synchronised").state == state


def test_no_right_clock_is_before_our_own_files(tmp_path: Path) -> None:
    for name, when in (("old.py", 5), ("new.py", 1e9), ("other.txt", 2e9)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))
    assert doctor._written(tmp_path) == datetime.fromtimestamp(1e9, UTC)


def test_the_storage() -> None:
    report = examine(facts(obstacle="it cannot be written", room={"runs": 5 << 20, "temporary": None}))
    assert item(report, "storage.database").state == "missing"
    assert (item(report, "storage.runs").state, item(report, "storage.runs").found) == ("degraded", "5 MiB free")
    assert item(report, "storage.temporary").state == "unknown"


def test_where_no_run_can_be_kept_none_begins() -> None:
    report = examine(facts(obstacle="it is no database of kept runs"))
    assert (report.can_measure, report.reasons) == (False, ("kept runs: it is no database of kept runs",))
    assert "✗ missing  kept runs" in render(report, width=100, colour=False)
    report = examine(facts(obstacle="it cannot be written", root=False))
    assert item(report, "storage.database").state == "unknown"
    assert report.reasons == ("root: this user is not root",)


def test_people_read_what_is_wrong_first_and_what_follows_last() -> None:
    report = examine(facts(carriers=carriers("openvpn"), is_synchronised=False))
    text = render(report, width=100, colour=False)
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("carriers "))
    assert lines[at : at + 4] == [
        "carriers    ✗ missing  openvpn: openvpn is not installed",
        "                for OpenVPN",
        "                → sudo apt-get install openvpn",
        "            ✓ ok  wireguard-go 1.2, amneziawg-go 1.2 (awg1-5, awg2), sing-box 1.2 (utls, quic), tor",
    ]
    assert lines[-2:] == [
        "Can be measured: wireguard, amneziawg, shadowsocks, vless, vmess, trojan, hysteria2, tuic, anytls,",
        "  socks, http, ssh, tor, command; not openvpn.",
    ]
    assert text.count("✗ missing") == 1
    assert text.count("! degraded") == 1


def test_what_is_missing_and_in_nobodys_way_looks_less_grave() -> None:
    text = render(examine(facts(carriers=carriers("kernel"))), width=100, colour=False)
    assert "○ missing  WireGuard in the kernel: kernel is not installed" in text
    assert "✗" not in text


def test_parts_of_what_is_missing_are_no_news() -> None:
    text = render(examine(facts(carriers=carriers("sing-box"))), width=100, colour=False)
    assert "sing-box: sing-box is not installed" in text
    assert "with utls" not in text


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("width", [60, 100])
def test_the_text_keeps_to_its_width_and_to_ascii(width: int, change: str) -> None:
    text = render(examine(facts(**CHANGES[change])), width=width, colour=False, unicode=False)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= width
    assert render(examine(facts(**CHANGES[change])), width=1, colour=False)


def test_colour_only_repeats_the_word() -> None:
    report = examine(facts(**CHANGES["all is wrong"]))
    coloured = render(report, width=80, colour=True)
    assert "\x1b[38;2;213;94;0m✗ missing\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == render(report, width=80, colour=False)


def test_a_terminal_obeys_nothing_of_it() -> None:
    evil = "\x1b]0;owned\x07\u202e\n"
    report = examine(facts(obstacle=evil, container=evil, kernel={"tun": Tried("tun", False, evil)}))
    assert not set(render(report, width=80, colour=False)) & {"\x1b", "\x07", "\u202e"}


# ── on this machine ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_whoever_asks_gets_a_report_and_the_exit_status_that_follows(tmp_path: Path) -> None:
    file = tmp_path / "doctor.json"
    database = tmp_path / "state" / "runs.sqlite"
    status = main(["doctor", "--format", "json", "-o", str(file), "--db", str(database)])
    fits(file.read_bytes())
    report = msgspec.json.decode(file.read_bytes(), type=Report)
    assert status == (4 if report.can_measure is False else 0)
    assert item(report, "storage.database").path == str(database)
    assert report.root == (os.geteuid() == 0)
    assert [one.id for one in report.profiles] == names()
    assert item(report, "storage.database").state == "ok"
    assert item(report, "storage.runs").state in ("ok", "degraded")
    assert not (tmp_path / "state").exists()
    if not report.root:
        assert item(report, "kernel.netns").state == "unknown"


_EVERY_PROTOCOL = 3
"""linux/if_ether.h."""
_GROUP_REPORT = re.compile(rb".{12}\x86\xdd.{6}\x00.{33}\x3a\x00\x05\x02\x00\x00\x01\x00\x8f", re.DOTALL)
"""The kernel's own, of the addresses that it was given before: ICMPv6 type 143 behind a router alert."""


def _frames(wire: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield wire.recv(65536)


@pytest.fixture
def line() -> Iterator[tuple[Namespace, Namespace]]:
    """A namespace with a line of its own, and what is at the other end."""
    here, there = Namespace.create(), Namespace.create()

    async def wire() -> None:
        await netlink.prepare(here)
        await netlink.prepare(there)
        await netlink.within(here, lambda ip: ip.link("add", ifname="up", kind="veth", peer={"ifname": "down"}))
        await netlink.move("down", here, there)
        await netlink.address(there, "down", addresses=("198.18.7.1/24", "fd00:7::1/64"), routes=())
        addresses = ("198.18.7.2/24", "fd00:7::2/64")
        await netlink.address(here, "up", addresses=addresses, routes=("0.0.0.0/0", "::/0"))

    asyncio.run(wire())
    yield here, there
    here.close()
    there.close()


_DOCTOR = """
import sys
from vpntest.cli import main
from vpntest.tunnel import carriers
carriers.answer.__kwdefaults__["within"] = float(sys.argv[1])
sys.exit(main(["doctor", "--format", "json", *sys.argv[2:]]))
"""


def _doctor(
    line: Namespace, *arguments: str, patience: float = 10, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`patience`: seconds that a program has to say what it is."""
    with line.entered():
        return subprocess.run(
            [sys.executable, "-c", _DOCTOR, str(patience), *arguments],
            capture_output=True,
            text=True,
            env=os.environ | environment,
        )


GRACE = 5.0
"""Seconds that a killed process may take to be gone; more only makes a failure slower."""
_SUBREAPER = 36
"""linux/prctl.h."""


@contextlib.contextmanager
def _nothing_is_left() -> Iterator[None]:
    """No mount of ours is another one afterwards, and no process is left: who loses its parent becomes our child."""

    def children() -> list[str]:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

    libc = ctypes.CDLL(None)
    before, mounts = children(), Path("/proc/self/mountinfo").read_text()
    assert libc.prctl(_SUBREAPER, 1) == 0
    try:
        yield
        assert _soon(lambda: [one for one in children() if one not in before and _lives(one)]) == []
        assert Path("/proc/self/mountinfo").read_text() == mounts
    finally:
        libc.prctl(_SUBREAPER, 0)


def _soon(left: Callable[[], list[str]]) -> list[str]:
    """What is left once whoever was killed has had the time to be gone."""
    until = time.monotonic() + GRACE
    while left() and time.monotonic() < until:
        time.sleep(0.02)
    return left()


@pytest.mark.root
def test_it_sends_no_packet_and_leaves_nothing(line: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    for folder in ("tmp", "state"):
        (tmp_path / folder).mkdir()
    with _nothing_is_left(), line[1].socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL)) as wire:
        wire.bind(("down", 0))
        wire.setblocking(False)
        done = _doctor(line[0], TMPDIR=str(tmp_path / "tmp"), XDG_STATE_HOME=str(tmp_path / "state"))
        assert [frame.hex() for frame in _frames(wire) if not _GROUP_REPORT.match(frame)] == []
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["can_measure"] is True
    kinds = {one["id"]: one["state"] for one in report["kinds"]}
    assert {kinds[name] for name in ("wireguard", "amneziawg", "openvpn", "shadowsocks", "trojan")} == {"ok"}
    assert {one["id"]: one["state"] for one in report["profiles"]} == dict.fromkeys(names(), "ok")
    assert {one["found"] for one in report["items"] if one["id"] in ("line.way.ipv4", "line.way.ipv6")} == {"by up"}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "state").iterdir()) == []


def test_whoever_is_not_root_learns_of_roots_place_for_runs(tmp_path: Path) -> None:
    code = "import os, sys; os.geteuid = lambda: 65534\nfrom vpntest.cli import main; sys.exit(main(sys.argv[1:]))"
    file = tmp_path / "doctor.json"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--format", "json", "-o", file],
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path), "STATE_DIRECTORY": str(tmp_path)},
    )
    report = msgspec.json.decode(file.read_bytes(), type=Report)
    assert item(report, "storage.database").path == "/var/lib/vpntest/runs.sqlite"
    assert (done.returncode, report.reasons[0]) == (4, "root: this user is not root")


@pytest.mark.root
def test_a_package_that_is_broken_costs_what_is_made_of_it(line: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    (tmp_path / "dns.py").write_text("raise ImportError('broken')")
    done = _doctor(line[0], "--db", str(tmp_path / "runs.sqlite"), PYTHONPATH=str(tmp_path))
    report = msgspec.json.decode(done.stdout, type=Report)
    assert (done.returncode, done.stderr) == (4, "")
    assert report.reasons == (f"Python {platform.python_version()}: without aioice, dnspython",)
    assert (item(report, "lab.tries").state, item(report, "lab.tries").found) == ("unknown", "broken")


@pytest.mark.root
def test_carriers_that_hang_are_told_and_nothing_of_them_is_left(
    line: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    for name in NAMES[1:]:
        (tmp_path / name).write_text(f"#!/bin/sh\nsleep 600 & echo $! >> {tmp_path}/pids; wait\n")
        (tmp_path / name).chmod(0o755)
    done = _doctor(line[0], patience=1, PATH=f"{tmp_path}:{os.environ['PATH']}")
    report = json.loads(done.stdout)
    found = {one["id"]: one for one in report["items"]}
    for name in NAMES[1:]:
        assert found[f"carriers.{name}"]["state"] == "missing"
        assert found[f"carriers.{name}"]["found"] == f"{tmp_path / name} does not run"
    has_kernel = found["kernel.wireguard"]["state"] == "ok"
    assert (done.returncode, report["can_measure"]) == ((0, True) if has_kernel else (4, False))
    started = (tmp_path / "pids").read_text().split()
    assert len(started) >= len(NAMES[1:])
    assert _soon(lambda: [pid for pid in started if _lives(pid)]) == []


def _lives(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.root
def test_without_a_way_out_it_says_so_and_exits_4(tmp_path: Path) -> None:
    alone = Namespace.create()
    done = _doctor(alone, "--db", str(tmp_path / "runs.sqlite"))
    alone.close()
    report = json.loads(done.stdout)
    assert done.returncode == 4
    assert report["reasons"] == ["a way out: no default route, neither for IPv4 nor for IPv6"]
    assert "line.way" in report["kinds"][0]["lacks"]
