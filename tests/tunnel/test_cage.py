from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from vpntest.tunnel import cage as module
from vpntest.tunnel.cage import MAX_LINE, Cage, lines_of
from vpntest.tunnel.namespace import Namespace, check

pytestmark = pytest.mark.root


def test_a_program_runs_in_the_given_namespace_and_its_output_is_read(world: Any) -> None:
    async def body() -> list[str]:
        process = world.cage.spawn(["sh", "-c", "readlink /proc/self/ns/net; echo oops >&2; exit 3"], world.client)
        said = [line async for line in process.lines()]
        assert await process.wait() == 3
        assert not process.running()
        await process.stop()
        return said

    inode = os.fstat(world.client.fileno()).st_ino
    assert asyncio.run(body()) == [f"net:[{inode}]", "oops"]


def test_a_program_with_our_terminal_has_our_streams_and_our_session(
    world: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def said(*, terminal: bool) -> tuple[str, str]:
        process = world.cage.spawn(
            [
                "sh",
                "-c",
                "read -r pid name state parent group session rest < /proc/self/stat; echo $session; echo x >&2",
            ],
            world.client,
            terminal=terminal,
        )
        asyncio.run(process.wait())
        captured = capfd.readouterr()
        return captured.out, captured.err

    assert said(terminal=True) == (f"{os.getsid(0)}\n", "x\n")
    assert said(terminal=False) == ("", "")


def test_a_program_that_does_not_listen_is_killed(world: Any) -> None:
    async def body() -> None:
        process = world.cage.spawn(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], world.client)
        async for line in process.lines():
            assert line == "ready"
            break
        await process.stop()
        await process.stop()
        assert not process.running()

    asyncio.run(body())


def test_programs_inherit_no_environment_but_the_path(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("VPNTEST_TEST", "secret")

    async def body() -> set[str]:
        process = world.cage.spawn(["env"], world.client)
        names = {line.split("=")[0] async for line in process.lines()}
        await process.wait()
        await process.stop()
        return names

    assert asyncio.run(body()) == {"PATH", "LC_ALL"}


def test_a_missing_program_is_told(world: Any) -> None:
    with pytest.raises(FileNotFoundError):
        world.cage.spawn(["/nonexistent/carrier"], world.client)
    # And the next one starts as if nothing had happened.
    here = Namespace.current()
    try:
        assert os.fstat(here.fileno()).st_ino == os.stat("/proc/self/ns/net").st_ino
    finally:
        here.close()


def test_run_is_private(world: Any) -> None:
    assert world.cage.directory.stat().st_mode & 0o777 == 0o700
    assert Path("/run").stat().st_dev != Path(f"/proc/{os.getppid()}/root/run").stat().st_dev


LONG = MAX_LINE + 5


@pytest.mark.parametrize("length", [LONG, 2 * LONG, 5 * LONG])
def test_a_line_without_end_is_left_out_and_the_next_one_is_read(world: Any, length: int) -> None:
    code = f"import sys; print('a'); print('x' * {length}); print('b'); sys.stdout.write('c')"

    async def body() -> list[str]:
        process = world.cage.spawn([sys.executable, "-c", code], world.client)
        said = [line async for line in process.lines()]
        await process.stop()
        return said

    assert asyncio.run(body()) == ["a", "b", "c"]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\nlast"])
def test_no_piece_of_a_line_that_is_left_out_passes_for_a_line(ending: bytes) -> None:
    async def body() -> list[str]:
        reader = asyncio.StreamReader(limit=10)
        task = asyncio.ensure_future(_all(lines_of(reader)))
        for part in (b"first\n", b"x" * 30, b">PASSWORD:x", b">PASS" + ending):
            reader.feed_data(part)
            await asyncio.sleep(0.01)
        reader.feed_eof()
        return await task

    assert asyncio.run(body()) == ["first", *(["last"] if ending.endswith(b"last") else [])]


async def _all(lines: AsyncIterator[str]) -> list[str]:
    return [line async for line in lines]


def test_closing_waits_for_nobody_for_ever(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as one of its namespace is not reaped, the init of a cage does not end."""
    monkeypatch.setattr(module, "DEATH", 0.3)
    cage = Cage.open()
    process = cage.spawn(["sleep", "600"], world.client)
    [unreaped], init = cage._spawned, cage._init
    cage._spawned.clear()
    try:
        with pytest.warns(RuntimeWarning, match="1 of our processes"):
            cage.close()
        assert not cage.directory.exists()
        cage.close()
    finally:
        assert unreaped.wait(10) == -signal.SIGKILL
        assert init.wait(10) == -signal.SIGKILL
        assert not process.running()
        assert unreaped.stdout is not None
        unreaped.stdout.close()


def test_what_was_started_before_something_failed_is_reaped(world: Any) -> None:
    cage = Cage.open()
    real = cage._outer
    with open("/dev/null") as no_namespace:
        cage._outer = no_namespace.fileno()
        try:
            with pytest.raises(OSError, match="Invalid argument"):
                cage.spawn(["sleep", "600"], world.client)
        finally:
            cage._outer = real
            check(ctypes.CDLL(None).setns(real, 0x20000000))  # CLONE_NEWPID
    cage.close()  # without a warning, which would be an error


NO_CAGE = {
    "no root": ("os.setuid(65534)", "run it with sudo"),
    "no power over namespaces": ("assert libc.prctl(24, 21, 0, 0, 0) == 0; again()", "CAP_SYS_ADMIN"),
    "no mount namespaces left": ("none_left('mnt')", "max_mnt_namespaces"),
    "no PID namespaces left": ("none_left('pid')", "max_pid_namespaces"),
    "a chroot": (
        "assert libc.unshare(0x20000) == 0 and libc.mount(b'none', b'/', None, 0x44000, None) == 0;"
        "os.mkdir(folder + '/proc');"
        "assert libc.mount(b'/proc', os.fsencode(folder + '/proc'), None, 0x5000, None) == 0;"
        "os.chroot(folder); os.chdir('/')",
        "chroot",
    ),
    "no descriptors left": ("resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))", "ulimit -n"),
}
PREPARED = """if True:
    import ctypes, os, resource, sys
    from vpntest.errors import CannotMeasure
    from vpntest.tunnel.cage import Cage
    libc = ctypes.CDLL(None)
    folder = sys.argv[2]

    def again():
        # A capability leaves the set that it is bounded by, and with the next program the process.
        if "again" not in sys.argv:
            os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], *sys.argv[1:], "again"])

    def none_left(kind):
        assert libc.unshare(0x10000000) == 0  # the limits are those of a user namespace
        for name, content in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)
        with open(f"/proc/sys/user/max_{kind}_namespaces", "w") as file:
            file.write("0")

    if "again" not in sys.argv:
        exec(sys.argv[1])
    try:
        Cage.open()
    except CannotMeasure as fault:
        print(fault)
"""


@pytest.mark.parametrize(("before", "said"), NO_CAGE.values(), ids=NO_CAGE.keys())
def test_what_keeps_a_cage_from_being_made_is_one_line(tmp_path: Path, before: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREPARED, before, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": os.defpath},
    )
    assert done.stderr == ""
    [line] = done.stdout.splitlines()
    assert said in line
