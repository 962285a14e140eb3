from __future__ import annotations

import os
import socket
import threading

import pytest

from vpntest.tunnel.namespace import Namespace

pytestmark = pytest.mark.root


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
