"""The state of this machine and of a network namespace, for comparing it before and after."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from vpntest.tunnel.namespace import Namespace


def state_of(netns: Namespace) -> dict[str, object]:
    """All of a namespace that a tunnel tool could have touched."""

    def ask(*argv: str) -> str:
        with netns.entered():
            return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    return {
        "links": sorted(link["ifname"] for link in json.loads(ask("ip", "-j", "link"))),
        "addresses": ask("ip", "-o", "addr"),
        "routes": ask("ip", "route", "show", "table", "all"),
        "routes6": ask("ip", "-6", "route", "show", "table", "all"),
        "rules": ask("ip", "rule") + ask("ip", "-6", "rule"),
        "nftables": ask("nft", "list", "ruleset"),
        "sysctls": "\n".join(
            line
            for line in ask("sysctl", "-a", "-r", r"^net\.").splitlines()
            if "neigh" not in line and "_rand" not in line
        ),
        "resolv.conf": hashlib.sha256(Path("/etc/resolv.conf").read_bytes()).hexdigest(),
    }


@dataclass(frozen=True)
class Standing:
    """What there is before something of ours is started."""

    namespaces: set[str]
    mounts: str

    @classmethod
    def now(cls) -> Standing:
        return cls(held([os.getpid(), *descendants(os.getpid())]), Path("/proc/1/mounts").read_text())

    def left_of_killed(self, process: subprocess.Popen[str]) -> list[str]:
        """Kills a process of ours that has raised a tunnel; gives what is left of it two seconds later."""
        children = descendants(process.pid)
        own = held([process.pid, *children]) - self.namespaces
        assert children
        assert own
        process.kill()
        process.communicate()

        def left() -> list[str]:
            # With a namespace go the devices in it.
            everybody = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
            mounts = [] if Path("/proc/1/mounts").read_text() == self.mounts else ["mounts"]
            return [*(f"process {one}" for one in children if exists(one)), *(own & held(everybody)), *mounts]

        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and left():
            time.sleep(0.02)
        return left()


def held(pids: list[int]) -> set[str]:
    """The network namespaces that these processes are in, or keep by a descriptor."""
    found = set()
    for pid in pids:
        try:
            for link in (Path(f"/proc/{pid}/ns/net"), *Path(f"/proc/{pid}/fd").iterdir()):
                found.add(os.readlink(link))
        except OSError:
            continue
    return {name for name in found if name.startswith("net:")}


def descendants(pid: int) -> list[int]:
    """Processes whose ancestor this one is, nearest first."""
    parents: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(process.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(0), [])
        found += children
        waiting += children
    return found


def exists(pid: int) -> bool:
    """Whether it still lives. A dead one that its new parent has not fetched yet holds nothing any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def await_carrier(pid: int) -> None:
    """Returns once a carrier of this run lives."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in descendants(pid):
            try:
                # Asked for its version it is no carrier yet.
                if Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[1:2] == [b"run"]:
                    return
            except OSError:
                continue
        time.sleep(0.01)
    raise AssertionError("the run never started its carrier")
