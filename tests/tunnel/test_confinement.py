"""What the running carriers may do, held against the table in ARCHITECTURE.md."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from vpntest.plan.model import Kind
from vpntest.plan.secret import Secret
from vpntest.tunnel import confinement
from vpntest.tunnel.confinement import NEEDS, Capability, list_owned, new_user, owned_socket, read_owned
from vpntest.tunnel.ladder import Climb
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.raising import Tunnel
from vpntest.tunnel.site import Site

DOCUMENT = Path(__file__).parents[2] / "ARCHITECTURE.md"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
OF_ETC = ("alternatives", "ca-certificates", "crypto-policies", "ld.so", "localtime", "pki", "ssl")


def table() -> dict[str, tuple[str, ...]]:
    """Carrier to its row's other cells: user, capabilities, what it can write."""
    section = DOCUMENT.read_text().partition("## What a carrier may do\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0].strip("`"): tuple(row[1:4]) for row in rows[2:]}


def capabilities(row: tuple[str, ...]) -> frozenset[str]:
    return frozenset(re.findall(r"`(\w+)`", row[1]))


def test_the_table_is_what_is_asked_for() -> None:
    rows = table()
    assert set(rows) == {*NEEDS, "tor", "any other"}
    for carrier, row in rows.items():
        assert capabilities(row) == {one.name for one in NEEDS.get(carrier, ())}, carrier
        assert row[0] == "own"
        assert row[2] == "`/run`"


def test_no_two_tunnels_have_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    # As few as a container has, of which chance would take some twice.
    monkeypatch.setattr(confinement, "_USERS", range(1 << 40, 1 << 41))
    users = {new_user() for _ in range(1000)}
    assert len(users) == 1000
    assert min(users) > 60000
    assert max(users) < 1 << 16


# ── what a carrier leaves for us to read ─────────────────────────────────────────────────────────────────────────────


def left(folder: Path) -> None:
    """What a carrier that was taken over could leave."""
    (folder / "a").mkdir()
    (folder / "a" / "file").write_bytes(b"x" * 100_000)
    (folder / "a" / "link").symlink_to("/etc/hostname")
    (folder / "b").symlink_to("a")
    os.mkfifo(folder / "a" / "pipe")


def test_a_file_of_a_carriers_is_read_as_it_is_and_not_for_ever(tmp_path: Path) -> None:
    left(tmp_path)
    assert read_owned(tmp_path, "a/file", os.getuid()) == b"x" * 65536
    assert list_owned(tmp_path, "a", os.getuid()) == ["file", "link", "pipe"]


@pytest.mark.parametrize("name", ["a", "a/link", "a/pipe", "b/file", "a/none"])
def test_nothing_but_a_carriers_own_file_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    left(tmp_path / "run")
    with pytest.raises(OSError, match="Errno"):
        read_owned(tmp_path / "run", name, os.getuid())
    with pytest.raises(OSError, match="Errno"):
        read_owned(tmp_path / "run", "a/file", os.getuid() + 1)
    with pytest.raises(OSError, match="Errno"), owned_socket(tmp_path / "run", name, os.getuid()):
        pass
    with pytest.raises(OSError, match="Errno"):
        list_owned(tmp_path / "run", "b", os.getuid())


# ── the running processes ────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def raised(world: Any, pki: Any, proxy: Any) -> AsyncIterator[dict[str, Tunnel]]:
    """A tunnel of each carrier."""
    key = secrets.token_hex(8)
    server = {"type": "shadowsocks", "listen_port": 8391, "method": "aes-256-gcm", "password": key}
    client = {"type": "shadowsocks", "method": "aes-256-gcm", "password": Secret(key)}
    async with (
        world.open(),
        world.wireguard("wireguard-go", 51861, 61) as wireguard,
        world.wireguard(
            "amneziawg-go", 51862, 62, obfuscation=(("jc", "3"), ("jmin", "40"), ("jmax", "70"))
        ) as amnezia,
        world.openvpn(1261, 63, "udp", pki) as openvpn,
        world.sing_box(server),
    ):
        shadowsocks = proxy("ss", Kind.SHADOWSOCKS, 8391, "tcp", client)
        names = ("wireguard-go", "amneziawg-go", "openvpn", "sing-box")
        tunnels = await world.raised(wireguard, amnezia, openvpn, shadowsocks)
        try:
            for tunnel in tunnels:
                assert tunnel.vantage is not None, tunnel.steps
            yield dict(zip(names, tunnels, strict=True))
        finally:
            for tunnel in tunnels:
                await tunnel.lower()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def mounts(pid: int) -> dict[str, tuple[set[str], str]]:
    """Of each mount point its options, and what of its file system is shown there."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        _, _, _, shown, point, options, *_ = line.split()
        found[point] = (set(options.split(",")), shown)
    return found


def attempt(pid: int, user: str, script: str) -> str:
    """What a script prints that runs where a carrier is, and as who it is."""
    argv = ["nsenter", "--target", str(pid), "--mount", "--setuid", user, "--setgid", user, "sh", "-c", script]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/", timeout=20).stdout


@pytest.mark.root
def test_running_carriers_may_do_what_the_table_says_and_no_more(
    world: Any, pki: Any, proxy: Any, children: Any
) -> None:
    rows = table()

    async def body() -> None:
        before = set(children(world.cage))
        async with raised(world, pki, proxy) as tunnels:
            # The servers of this test are in the same cage, as root.
            running = {pid: status(pid) for pid in set(children(world.cage)) - before}
            carriers = {seen["Name"]: pid for pid, seen in running.items() if not seen["Uid"].startswith("0\t")}
            wanted = {name for name, tunnel in tunnels.items() if tunnel.carrier}
            assert {name[:15] for name in wanted} == set(carriers)
            for name, pid in carriers.items():
                check(name, running[pid], rows[name], pid)
            users = {running[pid]["Uid"].split()[0] for pid in carriers.values()}
            assert len(users) == len(carriers)
            for name, pid in carriers.items():
                for other, theirs in carriers.items():
                    if other != name:
                        stays_out(pid, running[pid]["Uid"].split()[0], theirs)

    asyncio.run(body())


def check(name: str, seen: dict[str, str], row: tuple[str, ...], pid: int) -> None:
    user = seen["Uid"].split()[0]
    assert set(seen["Uid"].split()) | set(seen["Gid"].split()) | set(seen["Groups"].split()) == {user}
    assert int(user) > 60000
    assert seen["NoNewPrivs"] == "1"
    mask = sum(1 << Capability[one] for one in capabilities(row))
    for which in ("CapPrm", "CapEff", "CapBnd"):
        assert int(seen[which], 16) == mask, (name, which)
    assert int(seen["CapInh"], 16) | int(seen["CapAmb"], 16) | mask == mask
    # What it can do in a user namespace of its own, it can do there only.
    is_apart = os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino
    assert is_apart == ("in its tunnel" in row[1])
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 ", limits, re.M)
    assert re.search(r"^Max processes +1024 +1024 ", limits, re.M)
    assert seen["Seccomp"] == "2"

    found = mounts(pid)
    program = str(Path(f"/proc/{pid}/exe").readlink())
    for point, (options, shown) in found.items():
        assert "nosuid" in options, (name, point)
        if point == "/run":
            assert {"rw", "nodev", "noexec"} <= options
            # A file system of its own: it fills nobody else's.
            assert shown == "/"
            continue
        assert "ro" in options, (name, point)
        of_etc = point.startswith("/etc/") and point[5:].startswith(OF_ETC)
        system = any(point == place or point.startswith(f"{place}/") for place in SYSTEM)
        assert point in ("/", "/proc", program) or system or of_etc, (name, point)
    assert f"`{'` `'.join(point for point, (options, _) in found.items() if 'rw' in options)}`" == row[2]

    here = attempt(pid, user, "ls -d /home /root /mnt /media /srv /boot /sys /etc/passwd /etc/shadow /etc/openvpn")
    assert here == ""
    places = "/ /etc /etc/ssl /usr /usr/bin /dev /proc /var"
    assert attempt(pid, user, f"for d in {places}; do touch $d/x-vpntest && echo $d; done; true") == ""
    assert attempt(pid, user, "touch /run/x /tmp/y && echo both; rm /run/x /run/y") == "both\n"
    free = os.statvfs("/run").f_bavail
    fill = "head -c 300M /dev/zero > /run/x; stat -c %s /run/x"
    assert 0 < int(attempt(pid, user, fill)) <= 64 << 20
    assert os.statvfs("/run").f_bavail == free
    assert attempt(pid, user, "rm /run/x; ls -A /usr/local/etc") == ""


def stays_out(pid: int, user: str, other: int) -> None:
    """No file of another carrier, and nothing that it was started with, is open to this one."""
    theirs = f"/proc/{other}"
    script = f"cat {theirs}/environ {theirs}/cmdline; ls {theirs} {theirs}/fd; kill -0 {other} && echo killed"
    assert attempt(pid, user, script) == ""
    # And not by another view of the same, such as ours.
    argv = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "sh", "-c"]
    look = f"ls {theirs}/root/run; cat {theirs}/environ; ls {theirs}/fd/; kill -0 {other} && echo killed"
    assert subprocess.run([*argv, look], capture_output=True, text=True, check=False, timeout=20).stdout == ""


@pytest.mark.root
def test_a_program_that_is_not_in_the_table_has_no_powers(world: Any) -> None:
    async def body() -> list[str]:
        site = Site(world.cage, world.outside, world.client, Climb(time.monotonic), contextlib.AsyncExitStack(), ())
        heard: list[str] = []
        async with site.undo:
            process = site.spawn(["sh", "-c", "grep -E '^(Cap|NoNew)' /proc/self/status; pwd"], heard=heard.append)
            await process.wait()
            while len(heard) < 7:
                await asyncio.sleep(0.01)
        assert not site.folder.exists()
        return heard

    said = asyncio.run(body())
    assert [line.split()[1] for line in said[:5]] == ["0" * 16] * 5
    assert said[5:] == ["NoNewPrivs:\t1", "/"]


ESCAPES = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def tries(name, *arguments):
    pid = os.fork()
    if not pid:
        os._exit(getattr(libc, name)(*arguments) == 0)
    return bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
NEW = {"user": 1 << 28, "mnt": 1 << 17, "pid": 1 << 29, "net": 1 << 30, "ipc": 1 << 27, "uts": 1 << 26, "time": 1 << 7}
print("made", [kind for kind, flag in NEW.items() if tries("unshare", flag)])
CLONE, CLONE3, FSOPEN = (56 if os.uname().machine == "x86_64" else 220), 435, 430
def cloned(number, first, second):
    pid = libc.syscall(number, first, second, None, None, None)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return pid > 0
del NEW["time"]
print("cloned", [kind for kind, flag in NEW.items() if cloned(CLONE, ctypes.c_ulong(flag | 17), None)])
arguments = (ctypes.c_uint64 * 11)(1 << 28, 0, 0, 0, 17)
print("cloned anew", cloned(CLONE3, arguments, ctypes.c_ulong(88)))
print("mounted", tries("mount", b"none", b"/run", b"tmpfs", 0, None), libc.syscall(FSOPEN, b"tmpfs", 0) >= 0)
print("plain", tries("unshare", 1 << 9), cloned(CLONE, ctypes.c_ulong(17), None))
"""


@pytest.mark.root
@pytest.mark.parametrize("name", ["tor", "sing-box"])
def test_no_carrier_makes_a_namespace_to_be_powerful_in(world: Any, name: str, tmp_path: Path) -> None:
    async def body() -> list[str]:
        undo = contextlib.AsyncExitStack()
        site = Site(world.cage, world.outside, world.client, Climb(time.monotonic), undo, ())
        netns = Namespace.create(site.user)
        undo.callback(netns.close)
        # By its name it gets what the carrier gets.
        program = tmp_path / name
        program.write_text(f"#!/usr/bin/python3\n{ESCAPES}")
        program.chmod(0o755)
        heard: list[str] = []
        async with undo:
            fds = [netns.fileno()] if name == "sing-box" else []
            process = site.spawn([str(program)], pass_fds=fds, heard=heard.append)
            assert await process.wait() == 0, heard
            while len(heard) < 5:
                await asyncio.sleep(0.01)
        return heard

    said = asyncio.run(body())
    assert said == ["made []", "cloned []", "cloned anew False", "mounted False False", "plain True True"]
