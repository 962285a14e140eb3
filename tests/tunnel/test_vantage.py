from __future__ import annotations

import os
import resource
import socket

import pytest

from vpntest.errors import CannotMeasure
from vpntest.plan.model import OUTSIDE
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.vantage import Vantage

pytestmark = pytest.mark.root


def test_a_socket_of_a_vantage_belongs_to_its_namespace_and_does_not_block() -> None:
    space = Namespace.create()
    try:
        vantage = Vantage("sweden", space, "198.18.0.53")
        with vantage.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            assert sock.getblocking() is False
            # SIOCGSKNS: the namespace of a socket.
            import fcntl

            its = fcntl.ioctl(sock, 0x894C)
            try:
                assert os.fstat(its).st_ino == os.fstat(space.fileno()).st_ino
            finally:
                os.close(its)
    finally:
        space.close()


def test_outside_has_no_device_and_is_always_alive() -> None:
    space = Namespace.create()
    try:
        line = Vantage(OUTSIDE, space, "198.18.0.53")
        assert line.count_packets() is None
        assert line.alive()
    finally:
        space.close()


def test_a_box_without_descriptors_left_measures_nothing() -> None:
    space = Namespace.create()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        line = Vantage(OUTSIDE, space, "198.18.0.53")
        resource.setrlimit(resource.RLIMIT_NOFILE, (space.fileno() + 1, hard))
        with pytest.raises(CannotMeasure, match="ulimit -n"):
            [line.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(space.fileno() + 1)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        space.close()


def test_an_address_family_that_is_not_there_is_no_shortage() -> None:
    space = Namespace.create()
    try:
        with pytest.raises(OSError, match="not supported"):
            Vantage(OUTSIDE, space, "198.18.0.53").socket(socket.AF_DECnet, socket.SOCK_STREAM)
    finally:
        space.close()
