"""What holds for every test: no packet leaves this machine, and nothing is left behind on it.

As root the whole test process moves into a network namespace of its own that holds nothing but `lo`, before any test is
even imported; all that it starts is born there. Without root an audit hook refuses every address that is not loopback.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import ipaddress
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = os.geteuid() == 0
CARRIERS = frozenset(
    "amneziawg-go cat dnsmasq nginx obfs-server obfs4proxy openvpn sing-box ss-v2ray-plugin tor wireguard-go".split()
)
"""The programs that may run in a cage; `cat` is its init."""
OURS = ("amneziawg", "dnsmasq", "nginx", "openvpn", "sing-box", "vpntest", "wireguard")
"""What a file of ours, or of a carrier, has in its name."""
GRACE = 5.0
"""Seconds that a killed process may take to be gone; more only makes a failure slower."""

BOUND, AGAIN = 1800.0, 60.0
"""Seconds that a test, or what is set up and taken down for it, may take; and after which it is interrupted once more.
The longest takes a few minutes: this is for what would never end, such as waiting for a carrier that is gone."""

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

# No deadline: the machine is shared. No database: nothing is left behind.
settings.register_profile("here", deadline=None, database=None)
settings.load_profile("here")


class LeavesThisMachine(BaseException):
    """A test without root tried to reach another machine. No Exception, lest code under test take it for data."""


def stay_here(event: str, args: tuple[object, ...]) -> None:
    """An audit hook that refuses to connect, send or resolve to anything but this machine itself."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if not isinstance(host, str) or host in ("", "localhost"):
        return  # a path (AF_UNIX), a port (AF_NETLINK), or this machine
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise LeavesThisMachine(f"{event}: {host}")


def _cut_off() -> None:
    """Moves this process into a network namespace of its own, and brings `lo` up there."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare: the tests that need root need network namespaces")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def pytest_configure() -> None:
    """Runs before any test module is imported."""
    if ROOT:
        _cut_off()
    else:
        sys.addaudithook(stay_here)


def pytest_collection_finish() -> None:
    """What thousands of tests are made of stays to the end: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Side by side without root, where most of the time is waiting. One by one with root: tunnels need the machine."""
    return 2 if config.option.markexpr == "not root" else 0


# ── nothing lasts for ever ───────────────────────────────────────────────────────────────────────────────────────────


class LastsForEver(BaseException):
    """A test took longer than any may. No Exception, lest code under test take it for data."""


@contextmanager
def _bounded() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise LastsForEver(f"more than {BOUND:g} s")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, BOUND, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    with _bounded():
        return (yield)


pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


# ── nothing is left ──────────────────────────────────────────────────────────────────────────────────────────────────


def _processes() -> dict[int, tuple[int, str, str, int]]:
    """Of every process: its parent, name, state and start time in clock ticks since boot."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                pid, rest = (entry / "stat").read_text().split(" (", 1)
            except OSError:
                continue  # it ended meanwhile
            name, fields = rest.rsplit(") ", 1)
            state, parent, *others = fields.split()
            found[int(pid)] = (int(parent), name, state, int(others[17]))
    return found


def _carriers_left(host_netns: str, since: int) -> list[str]:
    """Carriers started after `since`, in a namespace, that are ours: our descendants, or orphans.

    Those that another process of this machine runs, such as another vpntest, have that one as their parent.
    """
    table = _processes()

    def ours(pid: int) -> bool:
        owner = pid
        while owner in table and table[owner][1] in CARRIERS:
            owner = table[owner][0]
        if owner <= 1 or table.get(owner, (0, ""))[1] == "systemd":
            return True
        while owner in table and owner != os.getpid():
            owner = table[owner][0]
        return owner == os.getpid()

    left = []
    for pid, (_, name, state, started) in table.items():
        if name in CARRIERS and state != "Z" and started > since and ours(pid):
            try:
                if os.readlink(f"/proc/{pid}/ns/net") != host_netns:
                    left.append(f"process {pid} ({name})")
            except OSError:
                continue  # it ended meanwhile
    return left


def _traces(outside: Path) -> set[str]:
    """Mounts, named namespaces and files of ours, as the process that started the tests sees them.

    Its view is the host's, whatever private mount namespace the tests have entered.
    """
    found = set()
    for line in (outside / "mountinfo").read_text().splitlines():
        number, _, _, _, point, *_ = line.split()
        if point == "/run" or point.startswith("/run/netns") or any(word in point for word in OURS):
            found.add(f"mount {number} on {point}")
    for folder in ("tmp", "run", "dev/shm", "run/wireguard", "run/amneziawg"):
        view = outside / "root" / folder
        if view.is_dir():
            found |= {f"/{folder}/{entry.name}" for entry in view.iterdir() if any(word in entry.name for word in OURS)}
    netns = outside / "root/run/netns"
    if netns.is_dir():
        found |= {f"/run/netns/{entry.name}" for entry in netns.iterdir()}
    return found


@pytest.fixture(scope="session", autouse=True)
def _runs_are_kept_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not among the runs of the person, or of the machine, that the tests run on."""
    os.environ.pop("STATE_DIRECTORY", None)
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Set up before every other fixture of the session, hence torn down after them."""
    if not ROOT:
        yield
        return
    outside = Path(f"/proc/{os.getppid()}")
    host_netns = os.readlink(outside / "ns/net")
    since = _processes()[os.getpid()][3]
    before = _traces(outside)
    yield
    deadline = time.monotonic() + GRACE
    while left := _carriers_left(host_netns, since) + sorted(_traces(outside) - before):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert not left, "left behind by the tests: " + ", ".join(left)
