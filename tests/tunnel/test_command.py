"""Real clients, each started by its own command line, against the real servers of the tests' world."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from vpntest.failures import Failure
from vpntest.plan import read
from vpntest.plan.model import CommandConfig, Kind, Server, TunnelSpec
from vpntest.plan.secret import Secret
from vpntest.tunnel import command, openvpn
from vpntest.tunnel.ladder import Rung

pytestmark = pytest.mark.root

METHOD = "2022-blake3-aes-128-gcm"
TO_HANDSHAKE = [Rung.CONFIG, Rung.ENDPOINT_DNS, Rung.ENDPOINT, Rung.HANDSHAKE]


def spec(*argv: str, **more: Any) -> TunnelSpec:
    return TunnelSpec(name="own", kind=Kind.COMMAND, source="plan.toml", config=CommandConfig(argv, **more))


def raised(world: Any, what: TunnelSpec, look: Callable[[Any], Awaitable[Any]]) -> Any:
    """What `look` finds at the tunnel while it stands; afterwards nothing of it may be left."""

    async def body() -> Any:
        async with world.open():
            [tunnel] = await world.raised(what)
            try:
                return await look(tunnel)
            finally:
                await tunnel.lower()

    return asyncio.run(body())


async def steps(tunnel: Any) -> list[tuple[Rung, str | None, str]]:
    return [(step.rung, step.failure, step.detail) for step in tunnel.steps]


# ── a client that makes a device ─────────────────────────────────────────────────────────────────────────────────────


def _openvpn(config: Any, folder: Path, *more: str) -> list[str]:
    """An OpenVPN that does as its server says: addresses, routes and all."""
    (folder / "login").write_text(f"{config.username.reveal()}\n{config.password.reveal()}\n")
    text = openvpn.written(config).replace("auth-user-pass\n", f"auth-user-pass {folder}/login\n")
    server = config.servers[0]
    (folder / "own.conf").write_text(f"{text}dev tun7\nremote {server.host} {server.port} {server.transport}4\n")
    return ["openvpn", "--config", f"{folder}/own.conf", "--nobind", "--disable-dco", *more]


@pytest.mark.parametrize("background", [False, True])
def test_a_client_that_makes_a_device(
    world: Any, pki: Any, question: Any, first_byte: Any, links: Any, tmp_path: Path, background: bool
) -> None:
    async def body() -> None:
        async with world.open(), world.openvpn(1206, 46, "udp", pki) as server:
            config = server.config
            more = ["--daemon"] if background else []
            before = links(world.client)
            # What it finds in /sys are the client's own devices.
            ready = () if background else ("test", "-e", "/sys/class/net/tun7")
            own = spec(
                *_openvpn(config, tmp_path, *more),
                ready=ready,
                device="tun7",
                resolver="198.18.9.9",
                server=config.servers[0],
            )
            [tunnel] = await world.raised(own)
            try:
                assert [(step.rung, step.failure) for step in tunnel.steps] == [
                    (rung, None) for rung in (*TO_HANDSHAKE, Rung.AUTH)
                ], tunnel.steps
                assert (tunnel.carrier, tunnel.vantage.answers_locally) == ("openvpn", False)
                assert links(tunnel.vantage.netns) == {"lo", "tun7"}
                assert links(world.client) == before
                assert (await question(tunnel.vantage, "own.test")).answers == ("198.18.77.7",)
                assert ("own.test", "198.19.46.2") in world.asked
                assert await first_byte(tunnel.vantage) == b"w"
                assert tunnel.vantage.alive()
            finally:
                await tunnel.lower()

    asyncio.run(body())
    assert not [each for each in _running() if str(tmp_path) in each]


def _running() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_a_client_whose_server_turns_it_away(world: Any, pki: Any, tmp_path: Path) -> None:
    async def body() -> None:
        async with world.open(), world.openvpn(1207, 47, "udp", pki) as server:
            wrong = replace(server.config, password=Secret("not-to-be-shown"))
            [tunnel] = await world.raised(spec(*_openvpn(wrong, tmp_path), device="tun7"))
            await tunnel.lower()
            [*_, last] = tunnel.steps
            assert (last.rung, last.failure) == (Rung.HANDSHAKE, Failure.CARRIER_EXITED)
            assert last.detail.startswith("ended with status 0: ")
            assert "AUTH" in last.detail or "auth-failure" in last.detail
            assert "not-to-be-shown" not in last.detail

    asyncio.run(body())


def test_a_plan_cannot_name_the_clients_own_way_out() -> None:
    assert command.UPLINK in read._NOT_ITS_OWN


# ── a client that opens a proxy ──────────────────────────────────────────────────────────────────────────────────────


def _sing_box(folder: Path, inbound: str, key: str, port: int) -> list[str]:
    (folder / "own.json").write_text(
        json.dumps(
            {
                "inbounds": [{"type": inbound, "listen": "127.0.0.1", "listen_port": 1080}],
                "outbounds": [
                    {
                        "type": "shadowsocks",
                        "server": "198.18.0.1",
                        "server_port": port,
                        "method": METHOD,
                        "password": key,
                    }
                ],
            }
        )
    )
    return [str(shutil.which("sing-box")), "run", "-c", f"{folder}/own.json"]


@pytest.mark.parametrize(("inbound", "scheme"), [("socks", "socks5"), ("http", "http")])
def test_a_client_that_opens_a_proxy(
    world: Any, question: Any, first_byte: Any, links: Any, tmp_path: Path, inbound: str, scheme: str
) -> None:
    key = base64.b64encode(os.urandom(16)).decode()

    async def look(tunnel: Any) -> None:
        assert [(step.rung, step.failure) for step in tunnel.steps] == [(rung, None) for rung in TO_HANDSHAKE], (
            tunnel.steps
        )
        assert tunnel.vantage.answers_locally
        assert tunnel.vantage.carries_udp is (scheme == "socks5")
        assert len(links(tunnel.vantage.netns)) == 2
        assert (await question(tunnel.vantage, "own.test")).engine == ("udp" if scheme == "socks5" else "tcp")
        assert await first_byte(tunnel.vantage) == b"w"
        assert tunnel.vantage.alive()

    async def body() -> None:
        server = {"type": "shadowsocks", "listen_port": 8480, "method": METHOD, "password": key}
        own = spec(*_sing_box(tmp_path, inbound, key, 8480), proxy=f"{scheme}://127.0.0.1:1080")
        async with world.open(), world.sing_box(server):
            [tunnel] = await world.raised(own)
            try:
                await look(tunnel)
            finally:
                await tunnel.lower()

    asyncio.run(body())


PROXY = """
import socketserver, sys
class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        asked = self.request.recv(4096)
        opens = sys.argv[1].encode() in asked.split(b" ")[1]
        self.request.sendall(b"HTTP/1.1 " + (b"200 OK" if opens else sys.argv[2].encode()) + b"\\r\\n\\r\\n")
socketserver.TCPServer(("127.0.0.1", 8080), Answer).serve_forever()
"""


@pytest.mark.parametrize(
    ("opens", "status", "failure", "says"),
    [
        (":443", "502 Bad Gateway", Failure.UNSUPPORTED, "no connection to port 53"),
        ("nothing", "403 Forbidden", Failure.UNSUPPORTED, "HTTP 403 to every connection"),
        ("nothing", "503 Unavailable", Failure.HTTP_REQUEST_FAILED, "HTTP 503 to every connection"),
    ],
)
def test_a_proxy_by_http_that_turns_connections_down(
    world: Any, opens: str, status: str, failure: Failure, says: str
) -> None:
    own = spec("python3", "-c", PROXY, opens, status, proxy="http://127.0.0.1:8080", ready=("true",))

    async def look(tunnel: Any) -> None:
        [*_, (rung, found, detail)] = await steps(tunnel)
        assert (rung, found) == (Rung.HANDSHAKE, failure)
        assert says in detail
        assert (tunnel.problem is not None) is (failure == Failure.UNSUPPORTED)

    raised(world, own, look)


def test_a_proxy_that_takes_no_udp(world: Any, question: Any, first_byte: Any, tmp_path: Path) -> None:
    """OpenSSH's own: SOCKS, and by its protocol TCP only."""
    from vpntest.lab.ssh import new_key

    private, public = new_key()
    (tmp_path / "known").write_text(f"[198.18.0.1]:8470 {public}\n")
    (tmp_path / "tell").write_text('#!/bin/sh\necho "$WORD"\n')
    (tmp_path / "tell").chmod(0o700)
    options = {"UserKnownHostsFile": tmp_path / "known", "NumberOfPasswordPrompts": 1, "ControlPath": "none"}
    told = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    own = spec(
        *("ssh", "-F", "none", "-N", *told, "-D", "127.0.0.1:1080", "-p", "8470", "someone@198.18.0.1"),
        proxy="socks5://127.0.0.1:1080",
        environment=(
            ("WORD", Secret("secret")),
            ("SSH_ASKPASS", Secret(f"{tmp_path}/tell")),
            ("SSH_ASKPASS_REQUIRE", Secret("force")),
        ),
    )

    async def body() -> None:
        async with world.open(), world.ssh(private, tmp_path):
            [tunnel] = await world.raised(own)
            try:
                assert [(step.rung, step.failure) for step in tunnel.steps] == [
                    (rung, None) for rung in TO_HANDSHAKE
                ], tunnel.steps
                assert not tunnel.vantage.carries_udp
                assert (await question(tunnel.vantage, "own.test")).answers == ("198.18.77.7",)
                assert await first_byte(tunnel.vantage) == b"w"
            finally:
                await tunnel.lower()

    asyncio.run(body())


# ── what the client finds ────────────────────────────────────────────────────────────────────────────────────────────

ASK = """
import os, pathlib, socket, subprocess, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(5)
    s.connect((open("/etc/resolv.conf").read().split()[1], 53))
    s.send(bytes.fromhex("0001 0100 0001 0000 0000 0000 05636c6c6e74 0474657374 00 0001 0001".replace(" ", "")))
    print("answered", len(s.recv(512)))
print("links", sorted(name for _, name in socket.if_nameindex()), sorted(os.listdir("/sys/class/net")))
print("run", sorted(os.listdir("/run")))
print("word", os.environ["WORD"] == "hushed", "home" in sys.argv)
print("powers", [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")])
subprocess.Popen(["sleep", "4321"], start_new_session=True)
sys.exit(3)
"""


def test_what_the_client_finds(world: Any) -> None:
    """Its own names, devices and folders. What it leaves behind ends with it."""
    said: list[str] = []

    async def body() -> None:
        async with world.open():
            own = spec("python3", "-c", ASK, "home", device="tun7", environment=(("WORD", Secret("hushed")),))
            [tunnel] = await world.raised(own)
            said.append(tunnel.steps[-1].detail)
            assert (tunnel.steps[-1].rung, tunnel.steps[-1].failure) == (Rung.HANDSHAKE, Failure.CARRIER_EXITED)

    asyncio.run(body())
    [detail] = said
    assert "ended with status 3" in detail
    assert "word True True" in detail
    assert "run []" in detail
    [powers] = [int(part, 16) for part in detail.split("powers ['")[1].split("']")[:1]]
    assert powers == sum(1 << number for number in command._POWERS)
    assert not [each for each in _running() if "sleep 4321" in each]


LOOK = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def can(what):
    try:
        what()
    except OSError:
        return False
    return True
def write(name):
    os.close(os.open(name, os.O_WRONLY))
programs = {open(f"/proc/{one}/comm").read().strip() for one in os.listdir("/proc") if one.isdigit()}
print("programs", sorted(programs))
def join(kind):
    held = os.open(f"/proc/1/ns/{kind}", os.O_RDONLY)
    if libc.setns(held, 0):
        raise OSError
bad = {
    "settings": lambda: write("/proc/sys/kernel/core_pattern"),
    "keys": lambda: write("/proc/sysrq-trigger"),
    "sys": lambda: write("/sys/kernel/uevent_helper"),
    "run": lambda: os.listdir("/run/vpntest"),
    "net": lambda: join("net"),
    "mnt": lambda: join("mnt"),
}
print("open", [name for name, what in bad.items() if can(what)])
print("uncovered", [name for name in (b"/proc", b"/sys", b"/run") if libc.umount2(name, 2) == 0])
print("network", can(lambda: write("/proc/sys/net/ipv4/conf/all/src_valid_mark")))
"""


def test_the_client_sees_no_process_of_anybody_else(world: Any, proxy: Any) -> None:
    """Another tunnel's config is what its program was handed: whoever sees its descriptors could read that."""
    key = "0123456789abcdef"
    server = {"type": "shadowsocks", "listen_port": 8392, "method": "aes-256-gcm", "password": key}
    client = {"type": "shadowsocks", "method": "aes-256-gcm", "password": Secret(key)}
    said: list[str] = []

    async def body() -> None:
        async with world.open(), world.sing_box(server):
            other, own = await world.raised(
                proxy("ss", Kind.SHADOWSOCKS, 8392, "tcp", client), spec("python3", "-c", LOOK, device="tun7")
            )
            assert other.vantage is not None
            said.append(own.steps[-1].detail)
            for tunnel in (other, own):
                await tunnel.lower()

    asyncio.run(body())
    [detail] = said
    assert "open [] | uncovered [] | network True" in detail, detail
    assert "programs ['cat', 'python3']" in detail, detail


@pytest.mark.parametrize("missing", ["argv", "ready"])
def test_a_program_that_is_not_there(world: Any, missing: str) -> None:
    argv = {"argv": "true", "ready": "true"} | {missing: "no-such-client"}
    own = spec(argv["argv"], ready=(argv["ready"],), device="tun7")

    async def look(tunnel: Any) -> None:
        assert await steps(tunnel) == [
            (Rung.CONFIG, Failure.UNSUPPORTED, "there is no program `no-such-client` on this machine")
        ]
        assert tunnel.problem.mechanism == "unsupported"

    raised(world, own, look)


@pytest.mark.parametrize(
    "more", [{"device": "tun7"}, {"proxy": "socks5://127.0.0.1:1080"}, {"device": "tun7", "ready": ("false",)}]
)
def test_a_client_that_is_never_ready(world: Any, more: dict[str, Any]) -> None:
    async def look(tunnel: Any) -> None:
        [*_, (rung, failure, detail)] = await steps(tunnel)
        assert (rung, failure) == (Rung.HANDSHAKE, Failure.TIMEOUT)
        assert detail.startswith("not ready within 1.5 s")

    raised(world, spec("sleep", "600", ready_within=1.5, **more), look)


def test_a_server_whose_port_is_closed_is_told_before_the_client_starts(world: Any) -> None:
    async def look(tunnel: Any) -> None:
        [*_, (rung, failure, _)] = await steps(tunnel)
        assert (rung, failure) == (Rung.ENDPOINT, Failure.CONNECTION_REFUSED)

    raised(world, spec("sleep", "600", device="tun7", server=Server("198.18.0.1", 9, "tcp")), look)


@pytest.mark.parametrize("kind", [b"overlay", b"no-such-kind"])
def test_a_view_of_ones_own_has_its_settings_and_nothing_in_run(
    world: Any, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    """Also where the kernel has no overlays."""
    monkeypatch.setattr(command, "_OVERLAY", kind)
    before, resolver = os.umask(0o077), Path("/etc/resolv.conf").read_text()
    others = sorted(set(os.listdir("/etc")) - {"resolv.conf", "made-up"})
    try:

        def look() -> tuple[str, int, list[str], list[str], str, str, list[str]]:
            mode = os.stat("/etc/resolv.conf").st_mode & 0o777
            devices = sorted(os.listdir("/sys/class/net"))
            said = Path("/etc/resolv.conf").read_text()
            # Who writes the file as a whole, as those who own it do, writes it for itself.
            Path("/etc/new").write_text("mine")
            os.rename("/etc/new", "/etc/resolv.conf")
            mine = Path("/etc/resolv.conf").read_text()
            stays = sorted(set(os.listdir("/etc")) - {"resolv.conf", "made-up"})
            return said, mode, os.listdir("/run"), devices, Path("/etc/made-up").read_text(), mine, stays

        names = {"resolv.conf": command.resolver_settings("198.18.0.7", "use-vc"), "made-up": "x"}
        *seen, stays = command.in_own_view(world.client, names, look)
        # Whoever starts in there need not be root.
        assert seen == ["nameserver 198.18.0.7\noptions use-vc\n", 0o644, [], ["lo", "up"], "x", "mine"]
        assert stays == others
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert Path("/etc/resolv.conf").read_text() == resolver
    assert not os.path.exists("/etc/made-up")


MOUNTED = """
import ctypes, os, sys
from pathlib import Path
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.command import in_own_view
from vpntest.tunnel.namespace import Namespace
def look():
    held = [Path("/etc", name).read_text() for name in ("hosts", "a folder/below", "resolv.conf")]
    return *held, os.stat("/etc/hosts").st_dev == os.stat(sys.argv[1]).st_dev
print(in_own_view(Namespace.current(), {"resolv.conf": "ours"}, look))
"""


def test_what_a_container_has_mounted_in_etc_is_seen(tmp_path: Path) -> None:
    (tmp_path / "etc" / "a folder").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    for name in ("etc/hosts", "etc/resolv.conf"):
        (tmp_path / name).touch()
    for name in ("hosts", "resolv", "folder/below"):
        (tmp_path / name).write_text(f"its {name}")
    mounts = (("etc", "/etc"), ("hosts", "/etc/hosts"), ("resolv", "/etc/resolv.conf"), ("folder", "/etc/a folder"))
    script = "set -e; " + "".join(f"mount --bind {tmp_path}/{what} '{place}'; " for what, place in mounts) + '"$@"'
    argv = [sys.executable, "-c", MOUNTED, f"{tmp_path}/hosts"]
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", *argv], capture_output=True, text=True)
    assert done.stdout == "('its hosts', 'its folder/below', 'ours', True)\n", done.stderr
