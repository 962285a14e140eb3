"""The guard of tests/conftest.py bites: from inside the tests nothing but this machine can be reached."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
ELSEWHERE = [
    pytest.param(socket.AF_INET, "192.0.2.1", id="documentation-1"),
    pytest.param(socket.AF_INET, "198.51.100.1", id="documentation-2"),
    pytest.param(socket.AF_INET, "198.18.0.1", id="the-lab's-own"),
    pytest.param(socket.AF_INET6, "2001:db8::1", id="documentation-6"),
]


@pytest.mark.root
@pytest.mark.parametrize(("family", "address"), ELSEWHERE)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_there_is_no_route_to(family: int, kind: int, address: str) -> None:
    with socket.socket(family, kind) as outgoing:
        outgoing.settimeout(5)
        with pytest.raises(OSError, match="unreachable") as refusal:
            outgoing.connect((address, 443))
    assert refusal.value.errno == errno.ENETUNREACH


@pytest.mark.root
def test_the_tests_hold_only_lo() -> None:
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert os.readlink("/proc/thread-self/ns/net") != os.readlink(f"/proc/{os.getppid()}/ns/net")


@pytest.mark.root
def test_there_are_no_routes() -> None:
    assert Path("/proc/thread-self/net/route").read_text().splitlines()[1:] == []
    routes6 = [line.split() for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()]
    assert {device for *_, device in routes6} <= {"lo"}


@pytest.mark.root
def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5) as client:
        assert client.getpeername() == server.getsockname()


REFUSED = [
    "tcp4.connect(('192.0.2.1', 443))",
    "tcp6.connect(('2001:db8::1', 443))",
    "udp4.sendto(b'', ('192.0.2.1', 53))",
    "udp4.sendmsg([b''], [], 0, ('192.0.2.1', 53))",
    "socket.getaddrinfo('example.com', 443)",
    "socket.gethostbyname('example.com')",
]
LET_THROUGH = [
    "udp4.sendto(b'', ('127.0.0.1', 9))",
    "udp4.connect(('127.0.0.1', 9))",
    "tcp6.connect(('::1', 9))",
    "socket.socketpair()",
    "socket.getaddrinfo('127.0.0.1', 9)",
]
# The hook of those who run without root, in a process of its own so that root can try it too. The namespace of that one
# has no way out either: what is shown is who refuses.
_TRY = """
import importlib.util, socket, sys
spec = importlib.util.spec_from_file_location("guard", sys.argv[1])
guard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guard)
sys.addaudithook(guard.stay_here)
udp4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
tcp4, tcp6 = socket.socket(socket.AF_INET), socket.socket(socket.AF_INET6)
for expression in sys.argv[2:]:
    try:
        eval(expression)
    except guard.LeavesThisMachine:
        print("refused")
    except OSError:
        print("let through")
    else:
        print("let through")
"""


@pytest.fixture(scope="module")
def tried() -> dict[str, str]:
    """What became of each expression under the guard."""
    expressions = REFUSED + LET_THROUGH
    argv = [sys.executable, "-W", "ignore", "-c", _TRY, str(CONFTEST), *expressions]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return dict(zip(expressions, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("expression", REFUSED)
def test_the_guard_refuses(expression: str, tried: dict[str, str]) -> None:
    assert tried[expression] == "refused"


@pytest.mark.parametrize("expression", LET_THROUGH)
def test_the_guard_lets_this_machine_through(expression: str, tried: dict[str, str]) -> None:
    assert tried[expression] == "let through"


def test_the_guard_is_in_force() -> None:
    """In this very process, whichever of the two guards it has."""
    refused_by = None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outgoing:
        try:
            outgoing.connect(("192.0.2.1", 53))
        except BaseException as exc:
            no_route = isinstance(exc, OSError) and exc.errno == errno.ENETUNREACH
            refused_by = "no route" if no_route else type(exc).__name__
    assert refused_by == ("no route" if os.geteuid() == 0 else "LeavesThisMachine")


def test_the_guard_is_no_ordinary_exception() -> None:
    """Else code under test would take it for a failing network, and the test would pass."""
    spec = importlib.util.spec_from_file_location("guard", CONFTEST)
    assert spec is not None
    assert spec.loader is not None
    guard = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guard)
    assert not issubclass(guard.LeavesThisMachine, Exception)
