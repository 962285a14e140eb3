"""What the kernel gives is found by trying; who has no root learns that it is not known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vpntest.tunnel import kernel
from vpntest.tunnel.kernel import FEATURES, Tried, asked, tries

REPOSITORY = Path(__file__).parents[2]


def test_every_feature_is_told_by_whoever_asks() -> None:
    found = tries()
    assert tuple(found) == FEATURES
    assert {one.works for one in found.values()} <= {True, False, None}
    if os.geteuid() != 0:
        assert {found[name].works for name in ("netns", "cage", "confinement", "userns")} == {None}
        assert found["tun"].works is not True


def test_what_came_before_it_hung_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half.py").write_text(
        "import time\nfrom vpntest.tunnel.kernel import Tried, tell\n"
        "def found():\n    yield Tried('a', False, 'why')\n    print('noise {')\n    yield Tried('b', None)\n"
        "    time.sleep(600)\n    yield Tried('c', True)\ntell(found())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    # Python may take its time to start.
    found = next(filter(None, (asked("half", patience) for patience in (1, 10, 60))))
    assert found == {"a": Tried("a", False, "why"), "b": Tried("b", None)}
    assert asked("no.such.module", 30) == {}


def test_the_most_descriptors_are_those_of_the_hard_limit() -> None:
    code = "from vpntest.tunnel.kernel import most_descriptors; print(most_descriptors())"
    command = ["prlimit", "--nofile=100:200", sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY).stdout == "200\n"


@pytest.mark.parametrize(
    ("sign", "kind"),
    [(".dockerenv", "docker"), ("run/.containerenv", "podman"), ("run/systemd/container", "lxc"), ("run/other", None)],
)
def test_a_container_is_known_by_its_sign(sign: str, kind: str | None, tmp_path: Path) -> None:
    (tmp_path / sign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / sign).write_text("lxc\n")
    assert kernel.container(tmp_path) == kind


def _without(*capabilities: str) -> tuple[dict[str, Tried], tuple[str, ...]]:
    """What is found by a root that lacks these."""
    less = ",".join(f"-{one}" for one in capabilities)
    code = (
        "import json, msgspec; from vpntest.tunnel import kernel;"
        "print(json.dumps([msgspec.to_builtins(list(kernel.tries().values())), kernel.lacking_capabilities()]))"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set", less, "--inh-caps", less, sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=REPOSITORY,
    )
    found, lacking = json.loads(done.stdout)
    return {one["id"]: Tried(one["id"], one["works"], one.get("said", "")) for one in found}, tuple(lacking)


@pytest.mark.root
def test_here_all_of_it_works() -> None:
    assert {one.id: (one.works, one.said) for one in tries().values()} == dict.fromkeys(FEATURES, (True, ""))
    assert kernel.lacking_capabilities() == ()


@pytest.mark.root
@pytest.mark.parametrize(
    ("capability", "works"),
    [
        ("sys_admin", {"netns": False, "cage": False, "confinement": None, "userns": None}),
        ("net_admin", {"tun": False, "confinement": False, "cage": True, "netns": True}),
        ("mknod", {"confinement": False, "tun": True, "cage": True}),
        ("setuid", {"confinement": False, "userns": False}),
        ("setpcap", {"confinement": False, "userns": True}),
        ("sys_ptrace", {"userns": False, "confinement": True}),
        ("dac_override", {"userns": False, "confinement": True}),
    ],
)
def test_a_capability_that_is_missing_shows_in_what_needs_it(capability: str, works: dict[str, bool | None]) -> None:
    found, lacking = _without(capability)
    assert lacking == (f"CAP_{capability.upper()}",)
    assert {name: found[name].works for name in works} == works
    assert all(one.said for one in found.values() if one.works is False)


@pytest.mark.root
def test_a_machine_without_tun_says_so() -> None:
    """In a mount namespace of its own whose /dev has none."""
    code = "from vpntest.tunnel.kernel import tries; found = tries(); print(found['tun'].works, found['tun'].said)"
    script = f'mount -t tmpfs none /dev/net && exec {sys.executable} -c "{code}"'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "False there is no /dev/net/tun\n", done.stderr
