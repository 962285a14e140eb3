from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vpntest.tunnel.namespace import Namespace, apart, denial

pytestmark = pytest.mark.root

_NS_GET_OWNER_UID = 0xB704
"""linux/nsfs.h."""


def _here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_a_new_one_holds_nothing_but_a_sleeping_loopback() -> None:
    made = Namespace.create()
    try:
        with made.entered():
            assert _here() == os.fstat(made.fileno()).st_ino
            assert [name for _, name in socket.if_nameindex()] == ["lo"]
    finally:
        made.close()


def test_the_thread_comes_home_also_from_an_error() -> None:
    home, made = _here(), Namespace.create()
    seen = []

    def fails() -> None:
        with made.entered():
            seen.append(_here())
            raise ZeroDivisionError

    try:
        with pytest.raises(ZeroDivisionError):
            fails()
        assert seen != [home]
        assert _here() == home
    finally:
        made.close()


def test_other_threads_are_not_moved() -> None:
    home, made = _here(), Namespace.create()
    entered, seen = threading.Event(), []
    other = threading.Thread(target=lambda: (entered.wait(10), seen.append(_here())))
    other.start()
    try:
        with made.entered():
            entered.set()
            other.join()
    finally:
        made.close()
    assert seen == [home]


def test_what_runs_apart_has_a_thread_of_its_own_and_keeps_its_outcome_or_fault() -> None:
    assert apart(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 // 0)


def test_a_socket_stays_where_it_was_opened() -> None:
    one, other = Namespace.create(), Namespace.create()
    try:
        for space in (one, other):
            with space.entered():
                os.system("ip link set lo up")
        listening = one.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.bind(("127.0.0.1", 5000))
        listening.settimeout(5)
        with listening, one.socket(socket.AF_INET, socket.SOCK_DGRAM) as same:
            same.sendto(b"here", ("127.0.0.1", 5000))
            assert listening.recv(9) == b"here"
            with other.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
                elsewhere.connect(("127.0.0.1", 5000))
                elsewhere.send(b"there")
                with pytest.raises(ConnectionRefusedError):
                    elsewhere.recv(9)
    finally:
        one.close()
        other.close()


def test_closing_twice_closes_nobody_elses_descriptor() -> None:
    made = Namespace.create()
    made.close()
    taken = os.open("/dev/null", os.O_RDONLY)
    try:
        made.close()
        os.fstat(taken)
    finally:
        os.close(taken)


def test_current_is_where_the_caller_is() -> None:
    current = Namespace.current()
    try:
        assert os.fstat(current.fileno()).st_ino == _here()
    finally:
        current.close()


@pytest.mark.root
def test_one_that_belongs_to_a_user_gives_power_over_itself_alone() -> None:
    user = 0x70000001
    owned, plain = Namespace.create(user), Namespace.create()
    try:
        assert plain.users() is None
        users = owned.users()
        assert users is not None
        # Whoever owns it has all power over it: that must not be everybody who is root.
        owner = bytearray(4)
        fcntl.ioctl(users, _NS_GET_OWNER_UID, owner)
        assert int.from_bytes(owner, sys.byteorder) == user
        enter = [
            "nsenter",
            f"--user=/proc/self/fd/{users}",
            f"--net=/proc/self/fd/{owned.fileno()}",
            "-S0",
            "-G0",
            "sh",
        ]
        script = (
            f"cat /proc/self/uid_map; ip link set lo up && echo up; nsenter --net=/proc/self/fd/{plain.fileno()} true"
            " || echo stays"
        )
        done = subprocess.run(
            [*enter, "-c", script],
            pass_fds=[users, owned.fileno(), plain.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(users)
        assert done.stdout.split() == ["0", str(user), "1", "up", "stays"]
        # We have it as any other: what we make in it is ours to make.
        with owned.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.bind(("127.0.0.1", 0))
    finally:
        owned.close()
        plain.close()


@pytest.mark.root
def test_where_there_are_no_user_namespaces_it_belongs_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "defpath", "/nonexistent")
    made = Namespace.create(0x70000001)
    assert made.users() is None
    made.close()


class _Ended(subprocess.Popen[bytes]):
    """Started, and gone before anybody says a word to it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


def test_where_the_system_refuses_at_once_it_belongs_to_nobody_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for tool in ("setpriv", "unshare"):
        (tmp_path / tool).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setattr(os, "defpath", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", _Ended)
    with contextlib.closing(Namespace.create(54321)) as made:
        assert made.users() is None


def test_too_many_namespaces_are_not_a_full_disk() -> None:
    assert "max_net_namespaces" in str(denial(OSError(errno.ENOSPC, "x")))


def test_one_run_at_a_time_claims_it_and_another_line_is_another_matter() -> None:
    made, other = Namespace.create(), Namespace.create()
    told: list[str] = []

    def claimed(one: Namespace) -> None:
        with contextlib.closing(one):
            one.claim(told.append)

    try:
        with made.entered():
            first, second = Namespace.current(), Namespace.current()
        first.claim(told.append)
        other.claim(told.append)
        assert told == []
        waiting = threading.Thread(target=claimed, args=(second,))
        waiting.start()
        while not told:
            time.sleep(0.01)
        assert told == [f"process {os.getpid()}"]
        assert waiting.is_alive()
        first.close()
        waiting.join(30)
        assert not waiting.is_alive()
    finally:
        made.close()
        other.close()


def test_who_is_not_root_cannot_keep_a_run_waiting() -> None:
    with contextlib.closing(Namespace.create()) as made:
        with made.entered():
            holder = subprocess.Popen(
                ["setpriv", "--reuid", "65534", "--clear-groups", "flock", "/proc/self/ns/net", "cat"],
                stdin=subprocess.PIPE,
            )
        with holder:
            locked = f":{os.fstat(made.fileno()).st_ino} "
            while locked not in Path("/proc/locks").read_text():
                time.sleep(0.01)
            made.claim(pytest.fail)
            assert holder.stdin is not None
            holder.stdin.close()
