"""What a profile needs follows from what it is compiled to, and is tried."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path

import pytest

from vpntest.lab import needs as lab_needs
from vpntest.lab.internet import programs
from vpntest.lab.needs import LIBRARIES, PACKAGES, needs
from vpntest.lab.network import program
from vpntest.lab.profiles import load, names
from vpntest.tunnel.kernel import Tried

LAB = Path(lab_needs.__file__).parent


def of(name: str) -> set[str]:
    """The ids of what a profile needs."""
    profile = load(name)
    return lab_needs._needs(profile, programs(profile).values())


def test_a_profile_needs_what_its_rules_use() -> None:
    always = of("open")
    assert always == lab_needs._ALWAYS | {"carriers.sing-box.utls"}
    twitter = of("ru_2021_twitter") - always
    assert {"lab.iptables.match-string", "lab.iptables.target-connmark", "lab.nft.limit", "lab.nfqueue"} <= twitter
    assert not any(one.startswith("lab.iptables") for one in of("wg_block"))
    assert of("slow_line") - always == {"lab.program.tc", "lab.tc.tbf"}
    assert of("flaky") - always == {"lab.nft.ingress"}
    assert {"carriers.tor", "lab.program.obfs-server", "lab.python.asyncssh"} <= of("dialects") - always


def test_every_option_of_iptables_that_a_profile_uses_is_tried_by_itself() -> None:
    for name in names():
        for compiled in programs(load(name)).values():
            used = set(re.findall(r" -m (\w+)", compiled.iptables))
            found = lab_needs._extensions(compiled)
            assert {one.removeprefix("lab.iptables.match-") for one in found if ".match-" in one} == used
            jumps = {one for one in re.findall(r" -j (\w+)", compiled.iptables) if f":{one} " not in compiled.iptables}
            assert {one.removeprefix("lab.iptables.target-").upper() for one in found if ".target-" in one} == jumps


def test_every_program_that_the_lab_starts_is_known() -> None:
    """By the words in its sources that start one."""
    carriers = {"openvpn", "sing-box", "tor", "wireguard-go", "amneziawg-go"}
    text = "".join(path.read_text() for path in LAB.glob("*.py") if path.name != "needs.py")
    called = set(
        re.findall(r'(?:program\(|\.start\([^,\n]+, \[|\.run\([^,\n]+, \[|\["(?=obfs|ss-v2))"?([a-z][\w-]+)"', text)
    )
    assert {"nginx", "dnsmasq", "nft", "cmp", "obfs4proxy"} <= called
    assert called - carriers <= set(PACKAGES)
    assert set(re.findall(r"^\s+(?:import|from) (trustme|asyncssh|netfilterqueue)", text, re.MULTILINE)) <= {*LIBRARIES}


def test_without_root_the_kernels_part_is_not_known() -> None:
    primitives, profiles = needs()
    assert set(profiles) == set(names())
    wanted = {one for profile in profiles.values() for one in profile.needs if one.startswith("lab.")}
    assert wanted <= set(primitives)
    if os.geteuid() != 0:
        assert primitives["lab.veth"].works is None
        assert {profile.works for profile in profiles.values()} == {None}


@pytest.mark.root
def test_here_every_profile_can_be_raised() -> None:
    primitives, profiles = needs()
    assert {name: (one.works, one.said) for name, one in profiles.items()} == dict.fromkeys(names(), (True, ""))
    assert [name for name, one in primitives.items() if not one.works] == []


def test_a_program_that_is_missing_is_told() -> None:
    assert lab_needs._program("no-such-program") == Tried("lab.program.no-such-program", False, "it is not installed")
    assert not lab_needs._library("no_such_library").works


@pytest.mark.root
def test_what_python_lacks_is_not_laid_at_the_kernels_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netfilterqueue", None)
    assert lab_needs._tried("lab.nfqueue", lab_needs._queue).works is None


def test_tries_that_came_to_no_end_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package stands in for one that is broken: its own words are handed on, or else none."""
    assert "lab.tries" not in needs()[0]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for name, code, said in (
        ("cryptography", "raise ImportError('no libssl here')", "no libssl here"),
        ("msgspec", "raise SystemExit", ""),
    ):
        (tmp_path / f"{name}.py").write_text(code)
        primitives, profiles = needs()
        assert primitives["lab.tries"] == Tried("lab.tries", None, said)
        assert profiles == {}


@pytest.mark.root
def test_rules_that_do_not_load_are_told_in_the_programs_own_words() -> None:
    tried = lab_needs._tried("lab.nft.x", partial(lab_needs._load, "table inet x { chain y { no such words } }"))
    assert tried.works is False
    assert tried.said.startswith("nft failed: ")


@pytest.mark.root
def test_a_kernel_that_lacks_something_costs_the_profiles_that_use_it_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real programs, but for rules with these words, which they refuse as on such a kernel."""
    for name, words in (("iptables-nft-restore", "-m string"), ("nft", "limit rate")):
        wrapper = tmp_path / name
        wrapper.write_text(
            f'#!/bin/sh\nrules=$(cat)\ncase $rules in *"{words}"*) echo "no such module" >&2; exit 1 ;; esac\n'
            f'printf "%s\\n" "$rules" | {program(name)} "$@"\n'
        )
        wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    primitives, profiles = needs()
    refused = {"lab.iptables.match-string", "lab.nft.limit"}
    assert {name for name, one in primitives.items() if one.works is False} == refused
    for name, one in profiles.items():
        assert one.works is not bool(refused.intersection(one.needs)), name
    assert {name for name, one in profiles.items() if not one.works} >= {"ru_2021_twitter", "tr_throttle"}
    assert profiles["wg_block"].works
    assert profiles["ru_2021_twitter"].said == "iptables-nft-restore failed: no such module"
