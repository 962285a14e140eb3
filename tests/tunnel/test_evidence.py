from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import trustme

from vpntest.errors import UsageError
from vpntest.plan.keys import generate
from vpntest.plan.model import (
    OUTSIDE,
    Bridge,
    CommandConfig,
    Endpoint,
    Kind,
    OpenVpnConfig,
    Plan,
    Platform,
    ProxyConfig,
    Server,
    Service,
    TorConfig,
    TunnelSpec,
    WireGuardConfig,
)
from vpntest.plan.secret import Secret, secrets_in
from vpntest.tunnel import evidence as module
from vpntest.tunnel import netlink
from vpntest.tunnel.evidence import Evidence, is_ciphertext
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.raising import Tunnel, raise_tunnel
from vpntest.tunnel.vantage import Vantage

SERVER, CLIENT = "198.18.0.1", "198.18.0.2"
UDP, TCP, ICMP = 17, 6, 1


@dataclass(frozen=True)
class Packet:
    """A record of a pcap file, read by the tests' own few lines."""

    at: float
    content: bytes
    length: int

    @property
    def protocol(self) -> int:
        return self.content[9] if self.content[0] >> 4 == 4 else self.content[6]

    @property
    def ends(self) -> set[str]:
        if self.content[0] >> 4 == 4:
            return {str(ipaddress.ip_address(self.content[i : i + 4])) for i in (12, 16)}
        return {str(ipaddress.ip_address(self.content[i : i + 16])) for i in (8, 24)}

    @property
    def ports(self) -> set[int]:
        begin = (self.content[0] & 15) * 4 if self.content[0] >> 4 == 4 else 40
        return set(struct.unpack_from("!HH", self.content, begin)) if self.protocol in (UDP, TCP) else set()


def packets(path: Path) -> list[Packet]:
    content = path.read_bytes()
    magic, major, minor, _, _, _, link = struct.unpack_from("=IHHiIII", content)
    assert (magic, major, minor, link) == (0xA1B23C4D, 2, 4, 101)
    found, at = [], 24
    while at < len(content):
        seconds, nanoseconds, kept, length = struct.unpack_from("=IIII", content, at)
        found.append(Packet(seconds + nanoseconds / 1e9, content[at + 16 : at + 16 + kept], length))
        at += 16 + kept
    assert at == len(content)
    return found


def listed(directory: Path) -> dict[str, dict[str, Any]]:
    return {one["file"]: one for one in json.loads((directory / "evidence.json").read_text())["files"]}


def plan_of(*specs: TunnelSpec, platforms: tuple[Platform, ...] = ()) -> Plan:
    return Plan(specs, platforms)


def proxied(
    name: str, outbound: dict[str, object], kind: Kind = Kind.SHADOWSOCKS, transport: str = "tcp"
) -> TunnelSpec:
    return TunnelSpec(name, kind, "uri", ProxyConfig(Server(SERVER, 8388, transport), outbound))  # type: ignore[arg-type]


SOME = proxied("se", {"type": "shadowsocks", "method": "aes-128-gcm", "password": Secret("kingfisher-on-a-wire")})


# ── the directory ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    Evidence(tmp_path / "new", plan_of())
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "empty").mkdir(mode=0o755)
    Evidence(tmp_path / "empty", plan_of())
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700


def test_what_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir(mode=0o755)
    (tmp_path / "old" / "run.json").write_text("an older run")
    with pytest.raises(UsageError, match="holds something"):
        Evidence(tmp_path / "old", plan_of())
    assert (tmp_path / "old" / "run.json").read_text() == "an older run"
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("place", ["file", "missing/evidence"])
def test_where_none_can_be_kept_it_is_said(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="no evidence can be kept there"):
        Evidence(tmp_path / place, plan_of())


def test_files_are_for_their_owner_only_and_follow_no_link(tmp_path: Path) -> None:
    made = Evidence(tmp_path / "new", plan_of(SOME))
    made.of("se").said("hello")
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "new" / "evidence.json").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        asyncio.run(made.end())
    assert (tmp_path / "mine").read_text() == "precious"
    made.keep(b"{}")
    assert (tmp_path / "new" / "run.json").read_bytes() == b"{}"
    for name in ("run.json", "se/carrier.log"):
        assert (tmp_path / "new" / name).stat().st_mode & 0o777 == 0o600


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_carriers_words_are_kept_without_secrets(tmp_path: Path) -> None:
    made = Evidence(tmp_path / "new", plan_of(SOME))
    made.of("se").said("dial with kingfisher-on-a-wire\x1b[2J failed")
    made.of("se").said("Authorization: Basic " + base64.b64encode(b"user:kingfisher-on-a-wire").decode())
    asyncio.run(made.end())
    first, second = (tmp_path / "new" / "se" / "carrier.log").read_text().splitlines()
    assert first.split(" ", 1)[1] == "dial with [removed] [2J failed"
    assert "Basic" in second
    assert "[removed]" in second
    assert base64.b64encode(b"kingfisher-on-a-wire").decode()[:8] not in second
    assert listed(tmp_path / "new")["se/carrier.log"]["count"] == 2


def test_a_log_is_bounded_and_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SAID", 200)
    made = Evidence(tmp_path / "new", plan_of(SOME))
    for _ in range(50):
        made.of("se").said("the same again")
    asyncio.run(made.end())
    assert 0 < (tmp_path / "new" / "se" / "carrier.log").stat().st_size <= 200
    entry = listed(tmp_path / "new")["se/carrier.log"]
    assert entry["count"] + entry["left_out"] == 50
    assert entry["left_out"] > 0


# ── what may be kept whole ───────────────────────────────────────────────────────────────────────────────────────────

TLS = {"enabled": True, "server_name": "a.test"}


def openvpn(*blocks: str) -> TunnelSpec:
    inline = tuple((name, Secret(f"<{name}>")) for name in blocks)
    return TunnelSpec("o", Kind.OPENVPN, "o.ovpn", OpenVpnConfig((Server(SERVER, 1194, "udp"),), (), inline))


def plugged(name: str, options: str) -> TunnelSpec:
    outbound = {"type": "shadowsocks", "method": "aes-256-gcm", "password": Secret("x"), "plugin": name}
    return proxied("s", outbound | {"plugin_opts": Secret(options)})


def bridge(transport: str | None, **arguments: Secret | str) -> Bridge:
    return Bridge(transport, f"{SERVER}:443", "A" * 40, tuple(arguments.items()), Server(SERVER, 443, "tcp"))


def tor(*bridges: Bridge) -> TunnelSpec:
    return TunnelSpec("b", Kind.TOR, "bridges.txt", TorConfig(bridges))


@pytest.mark.parametrize(
    ("spec", "whole"),
    [
        (TunnelSpec("w", Kind.WIREGUARD, "w.conf", WireGuardConfig(Secret("k"), (), ())), True),
        (openvpn("ca", "tls-crypt"), True),
        (openvpn("ca", "tls-crypt-v2"), True),
        (openvpn("ca", "cert", "key", "tls-auth"), False),
        (openvpn("ca"), False),
        (SOME, True),
        (proxied("h", {"type": "hysteria2"}), True),
        (proxied("t", {"type": "trojan", "tls": TLS}), True),
        (proxied("t", {"type": "trojan", "tls": TLS | {"enabled": False}}), False),
        (proxied("t", {"type": "trojan"}), False),
        (proxied("v", {"type": "vless", "tls": TLS | {"reality": {"enabled": True}}}), True),
        (proxied("v", {"type": "vless"}), False),
        (proxied("x", {"type": "http", "password": Secret("x")}), False),
        (proxied("x", {"type": "socks"}), False),
        (proxied("s", {"type": "shadowsocks", "method": "none"}), False),
        (plugged("v2ray-plugin", "tls=1;host=a.test;path=/kingfisher"), True),
        (plugged("v2ray-plugin", "host=a.test;path=/\\;tls=1"), False),
        (plugged("obfs-local", "obfs=http;obfs-host=a.test"), False),
        (plugged("obfs-local", "obfs=tls;obfs-host=a.test"), False),
        (proxied("q", {"type": "tuic", "tls": TLS}), True),
        (proxied("a", {"type": "anytls", "tls": TLS}), True),
        (proxied("v", {"type": "vmess", "security": "auto", "tls": TLS}), True),
        (proxied("v", {"type": "vmess", "security": "auto"}), False),
        (proxied("x", {"type": "http", "password": Secret("x"), "tls": TLS}), True),
        (proxied("x", {"type": "ssh", "password": Secret("x")}), True),
        (tor(bridge(None), bridge("obfs4", cert=Secret("c"))), True),
        (tor(bridge("webtunnel", url=Secret("https://a.test/kingfisher"))), True),
        (tor(bridge("webtunnel", url=Secret("HTTP://a.test/kingfisher"))), False),
        (tor(bridge("obfs4"), bridge("meek_lite", url="http://a.test/")), False),
        (tor(bridge("obfs4"), bridge("unheard-of", password=Secret("x"))), False),
        (TunnelSpec("c", Kind.COMMAND, "plan.toml", CommandConfig(("client",))), False),
        (TunnelSpec("u", Kind.UNKNOWN, "u", None), False),
    ],
)
def test_only_ciphertext_is_kept_whole(spec: TunnelSpec, whole: bool) -> None:
    assert is_ciphertext(spec) is whole


# ── packets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def send(netns: Namespace, address: str, port: int, content: bytes = b"x") -> None:
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(content, (address, port))


def kept_on_the_line(world: Any, directory: Path, plan: Plan, act: Callable[[], None]) -> None:
    async def body() -> None:
        made = Evidence(directory, plan)
        await made.begin(world.outside, ())
        # Once more must not open it anew.
        await made.begin(world.outside, ())
        act()
        await asyncio.sleep(0.1)
        await made.end()
        await made.end()

    asyncio.run(body())


@pytest.mark.root
def test_of_the_line_what_the_plan_asks_for_is_kept_and_nothing_else(world: Any, tmp_path: Path) -> None:
    platform = Platform("p", "P", (Service("s", (Endpoint("stun://p.test:3478"),)),))

    def act() -> None:
        for port in (53, 443, 3478, 22, 5432):
            send(world.client, SERVER, port)

    kept_on_the_line(world, tmp_path / "e", plan_of(platforms=(platform,)), act)
    found = packets(tmp_path / "e" / "outside" / "line.pcap")
    assert {port for one in found for port in one.ports} & {53, 443, 3478, 22, 5432} == {53, 443, 3478}
    # Nobody listens there: the server says so.
    assert any(one.protocol == ICMP for one in found)
    assert all(abs(one.at - time.time()) < 60 for one in found)


@pytest.mark.root
def test_outer_packets_go_to_their_tunnel_and_not_to_the_line(world: Any, tmp_path: Path) -> None:
    trojan = TunnelSpec(
        "t", Kind.TROJAN, "uri", ProxyConfig(Server(SERVER, 443, "tcp"), {"type": "trojan", "tls": TLS})
    )

    def act() -> None:
        for port in (8388, 8389, 443):
            send(world.client, SERVER, port)
        with world.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.connect_ex((SERVER, 443))

    kept_on_the_line(world, tmp_path / "e", plan_of(SOME, trojan), act)
    line, se, tr = (packets(tmp_path / "e" / name) for name in ("outside/line.pcap", "se/outer.pcap", "t/outer.pcap"))
    assert 8388 in {port for one in se for port in one.ports}
    assert not {443, 8389} & {port for one in se for port in one.ports}
    # Trojan goes by TCP; what goes to the same port by UDP is the measurement's.
    assert {one.protocol for one in tr if one.ports} == {TCP}
    assert {one.protocol for one in line if 443 in one.ports} == {UDP}


@pytest.mark.root
def test_what_may_be_readable_is_cut_after_its_headers(world: Any, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(
        openvpn("ca", "tls-auth"),
        config=OpenVpnConfig((Server(SERVER, 1194, "udp"), Server(SERVER, 1194, "tcp")), (), ()),
    )
    secret = b"kingfisher-on-a-wire" * 40

    def act() -> None:
        with world.server.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.bind((SERVER, 1194))
            listening.listen()
            send(world.client, SERVER, 1194, bytes(16) + secret)
            with world.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.connect((SERVER, 1194))
                sock.sendall(bytes(16) + secret)
                time.sleep(0.05)

    kept_on_the_line(world, tmp_path / "e", plan_of(spec), act)
    found = packets(tmp_path / "e" / "o" / "outer.pcap")
    assert {one.protocol for one in found if one.length > 800} == {TCP, UDP}
    assert max(len(one.content) for one in found) <= 20 + 60 + 16
    assert b"kingfisher" not in (tmp_path / "e" / "o" / "outer.pcap").read_bytes()


@pytest.mark.root
def test_a_port_hopping_servers_ports_are_all_its_own(world: Any, tmp_path: Path) -> None:
    outbound: dict[str, object] = {"type": "hysteria2", "server_ports": ["20000:20010", "30000:30000"]}
    spec = proxied("hy", outbound, Kind.HYSTERIA2, "udp")

    def act() -> None:
        for port in (20000, 20010, 30000, 20011):
            send(world.client, SERVER, port)

    kept_on_the_line(world, tmp_path / "e", plan_of(spec), act)
    ports = {port for one in packets(tmp_path / "e" / "hy" / "outer.pcap") for port in one.ports}
    assert ports & {20000, 20010, 30000, 20011} == {20000, 20010, 30000}


@pytest.mark.root
def test_a_file_is_bounded_and_says_what_it_lacks(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10_000)

    def act() -> None:
        for _ in range(40):
            send(world.client, SERVER, 8388, bytes(1000))

    kept_on_the_line(world, tmp_path / "e", plan_of(SOME), act)
    entry = listed(tmp_path / "e")["se/outer.pcap"]
    assert (tmp_path / "e" / "se" / "outer.pcap").stat().st_size == entry["bytes"] <= 10_000
    assert entry["count"] == len(packets(tmp_path / "e" / "se" / "outer.pcap")) == 9
    assert entry["left_out"] >= 31


@pytest.mark.root
def test_a_packet_is_cut_and_its_length_kept(world: Any, tmp_path: Path) -> None:
    kept_on_the_line(world, tmp_path / "e", plan_of(SOME), lambda: send(world.client, SERVER, 8388, bytes(5000)))
    # In pieces of the link's size, of which only the first has ports.
    found = packets(tmp_path / "e" / "se" / "outer.pcap")
    assert sum(one.length - 20 for one in found if one.protocol == UDP) == 5008


@pytest.mark.root
def test_tunnels_to_one_server_name_each_other(world: Any, tmp_path: Path) -> None:
    again = msgspec.structs.replace(SOME, name="again")
    elsewhere = TunnelSpec(
        "elsewhere", Kind.TROJAN, "uri", ProxyConfig(Server(SERVER, 443, "tcp"), {"type": "trojan", "tls": TLS})
    )
    plan = plan_of(SOME, again, elsewhere)
    kept_on_the_line(world, tmp_path / "e", plan, lambda: send(world.client, SERVER, 8388))
    found = listed(tmp_path / "e")
    assert found["se/outer.pcap"]["count"] == found["again/outer.pcap"]["count"] > 0
    assert "; those of again too, which has the same server and port" in found["se/outer.pcap"]["about"]
    assert "; those of se too, which has the same server and port" in found["again/outer.pcap"]["about"]
    assert "too" not in found["elsewhere/outer.pcap"]["about"]


@pytest.mark.root
def test_a_packet_that_cannot_be_read_costs_no_other(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes = module._Outer.takes

    def brittle(self: Any, packet: Any) -> bool:
        if packet.to_port == 8389:
            raise IndexError("beyond its end")
        return takes(self, packet)

    monkeypatch.setattr(module._Outer, "takes", brittle)

    def act() -> None:
        for port in (8389, 8388):
            send(world.client, SERVER, port)

    kept_on_the_line(world, tmp_path / "e", plan_of(SOME), act)
    assert 8388 in {port for one in packets(tmp_path / "e" / "se" / "outer.pcap") for port in one.ports}
    faults = {name: one["fault"] for name, one in listed(tmp_path / "e").items()}
    assert faults == dict.fromkeys(
        ("outside/line.pcap", "se/outer.pcap"), "packets are missing: IndexError: beyond its end"
    )


@pytest.mark.root
def test_a_fault_of_one_tap_is_told_and_ends_no_other(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, most: int) -> bool:
        raise OSError("the sky fell")

    monkeypatch.setattr(module._LineTap, "read", broken)

    async def body() -> None:
        made = Evidence(tmp_path / "e", plan_of(SOME))
        await made.begin(world.outside, ())
        made.of("se").inside(world.server)
        for _ in range(5):
            send(world.client, SERVER, 53)
            await asyncio.sleep(0.1)
        await made.end()

    asyncio.run(body())
    found = listed(tmp_path / "e")
    assert found["outside/line.pcap"]["fault"] == found["se/outer.pcap"]["fault"] == "OSError: the sky fell"
    assert found["se/inside.pcap"]["fault"] is None
    inside = [one for one in packets(tmp_path / "e" / "se" / "inside.pcap") if one.protocol == UDP]
    assert len(inside) == 5


@pytest.mark.root
def test_a_tunnels_namespace_is_let_go_of(world: Any, tmp_path: Path) -> None:
    async def body() -> None:
        made = Evidence(tmp_path / "e", plan_of(SOME))
        netns = Namespace.create()
        await netlink.prepare(netns)
        await netlink.within(netns, lambda ip: ip.link("add", ifname="gone", kind="veth", peer={"ifname": "peer0"}))
        await netlink.move("peer0", netns, world.client)
        journal = made.of("se")
        journal.inside(netns)
        journal.left()
        journal.left()
        netns.close()
        # With the namespace goes its link, and with a link of this kind its other end.
        for _ in range(200):
            with world.client.entered():
                names = {name for _, name in socket.if_nameindex()}
            if "peer0" not in names:
                break
            await asyncio.sleep(0.02)
        assert "peer0" not in names
        await made.end()

    asyncio.run(body())


KILLED = """
import asyncio, sys
from pathlib import Path
from vpntest.plan.model import *
from vpntest.tunnel.evidence import Evidence
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.vantage import Vantage

async def main():
    made = Evidence(Path(sys.argv[1]), Plan((), ()))
    await made.begin(Vantage(OUTSIDE, Namespace.current(), "198.18.0.1"), ())
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.root
def test_what_a_killed_run_leaves_can_be_read(world: Any, tmp_path: Path) -> None:
    with world.client.entered():
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "e")], stdout=subprocess.PIPE, text=True
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(7):
            send(world.client, SERVER, 53)
        path = tmp_path / "e" / "outside" / "line.pcap"
        deadline = time.monotonic() + 10
        while path.stat().st_size < 24 + 7 * (16 + 29) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len([one for one in packets(path) if one.protocol == UDP and 53 in one.ports]) >= 7


# ── real tunnels ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def raised(world: Any, made: Evidence, *specs: TunnelSpec) -> list[Tunnel]:
    """As :meth:`World.raised`, with a journal for each."""
    given = (world.outside, world.cage, world.carriers, world.settings, time.monotonic)
    return await asyncio.gather(*(raise_tunnel(spec, *given, made.of(spec.name)) for spec in specs))


PLANTED = "kingfisher-on-a-wire"


def _tls(authority: trustme.CA, name: str) -> dict[str, object]:
    leaf = authority.issue_cert(name)
    return {
        "enabled": True,
        "server_name": name,
        "certificate": [pem.bytes().decode() for pem in leaf.cert_chain_pems],
        "key": [leaf.private_key_pem.bytes().decode()],
    }


@dataclass(frozen=True)
class Reality:
    private: str
    public: str


def _reality() -> Reality:
    # X25519, as WireGuard's keys, in the other alphabet and without padding.
    private, public = generate()

    def written(key: str) -> str:
        return key.translate(str.maketrans("+/", "-_")).rstrip("=")

    return Reality(written(private.reveal()), written(public))


@contextlib.asynccontextmanager
async def every_kind(world: Any, pki: Any, authority: trustme.CA) -> AsyncIterator[list[TunnelSpec]]:
    """A real server of every kind, and the spec of a client with keys of its own."""
    ss, ss2022 = f"{PLANTED}-ss", base64.b64encode(os.urandom(16)).decode()
    trojan, hysteria, veil = f"{PLANTED}-trojan", f"{PLANTED}-hysteria", f"{PLANTED}-veil"
    user, short = str(uuid.uuid4()), secrets.token_hex(8)
    reality = _reality()
    inbounds: list[dict[str, Any]] = [
        {"type": "shadowsocks", "listen_port": 9101, "method": "aes-256-gcm", "password": ss},
        {"type": "shadowsocks", "listen_port": 9102, "method": "2022-blake3-aes-128-gcm", "password": ss2022},
        {
            "type": "trojan",
            "listen_port": 9103,
            "users": [{"password": trojan}],
            "tls": _tls(authority, "trojan.test"),
        },
        {
            "type": "hysteria2",
            "listen_port": 9104,
            "users": [{"password": hysteria}],
            "obfs": {"type": "salamander", "password": veil},
            "tls": _tls(authority, "hysteria.test") | {"alpn": ["h3"]},
        },
        {
            "type": "vless",
            "listen_port": 9105,
            "users": [{"uuid": user, "flow": "xtls-rprx-vision"}],
            "tls": {
                "enabled": True,
                "server_name": "reality.test",
                "reality": {
                    "enabled": True,
                    "handshake": {"server": SERVER, "server_port": 9443},
                    "private_key": reality.private,
                    "short_id": [short],
                },
            },
        },
    ]

    def proxy(name: str, kind: Kind, port: int, outbound: dict[str, object], transport: Any = "tcp") -> TunnelSpec:
        return TunnelSpec(name, kind, "uri", ProxyConfig(Server(SERVER, port, transport), outbound, ()))

    proxies = [
        proxy(
            "ss",
            Kind.SHADOWSOCKS,
            9101,
            {"type": "shadowsocks", "method": "aes-256-gcm", "password": Secret(ss)},
        ),
        proxy(
            "ss2022",
            Kind.SHADOWSOCKS,
            9102,
            {"type": "shadowsocks", "method": "2022-blake3-aes-128-gcm", "password": Secret(ss2022)},
        ),
        proxy(
            "trojan",
            Kind.TROJAN,
            9103,
            {
                "type": "trojan",
                "password": Secret(trojan),
                "tls": {"enabled": True, "server_name": "trojan.test"},
            },
        ),
        proxy(
            "hysteria2",
            Kind.HYSTERIA2,
            9104,
            {
                "type": "hysteria2",
                "password": Secret(hysteria),
                "obfs": {"type": "salamander", "password": Secret(veil)},
                "tls": {"enabled": True, "server_name": "hysteria.test", "alpn": ["h3"]},
            },
            "udp",
        ),
        proxy(
            "vless",
            Kind.VLESS,
            9105,
            {
                "type": "vless",
                "uuid": Secret(user),
                "flow": "xtls-rprx-vision",
                "tls": {
                    "enabled": True,
                    "server_name": "reality.test",
                    "utls": {"enabled": True, "fingerprint": "chrome"},
                    "reality": {"enabled": True, "public_key": reality.public, "short_id": Secret(short)},
                },
            },
        ),
    ]
    obfuscation = (("jc", "3"), ("jmin", "40"), ("jmax", "70"), ("h1", "11"), ("h2", "12"), ("h3", "13"), ("h4", "14"))
    async with contextlib.AsyncExitStack() as servers:
        for inbound in inbounds:
            await servers.enter_async_context(world.sing_box(inbound))
        wireguard = await servers.enter_async_context(world.wireguard("wireguard-go", 9111, 111, preshared=True))
        amnezia = await servers.enter_async_context(
            world.wireguard("amneziawg-go", 9112, 112, preshared=True, obfuscation=obfuscation)
        )
        udp = await servers.enter_async_context(world.openvpn(9113, 113, "udp", pki))
        tcp = await servers.enter_async_context(world.openvpn(9114, 114, "tcp", pki))
        yield [*proxies, wireguard, amnezia, udp, tcp]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def _trusted(world: Any, authority: trustme.CA) -> Iterator[None]:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("reality.test").configure_cert(context)
    world.roots, world.tls = authority.cert_pem.bytes().decode(), context
    yield
    world.roots = world.tls = None


def behind(secret: str) -> Iterator[bytes]:
    """A secret's bytes, those of its lines, and those that it is the base64 or hex of."""
    lines = [line for line in secret.splitlines() if line and not line.startswith(("-", "#"))]
    yield from (secret.encode(), *(line.encode() for line in lines))
    joined = "".join(lines)
    with contextlib.suppress(ValueError):
        padded = joined.replace("-", "+").replace("_", "/") + "=" * (-len(joined) % 4)
        # A short word happens to be the base64 of something.
        if len(raw := base64.b64decode(padded, validate=True)) >= 8:
            yield raw
    with contextlib.suppress(ValueError):
        yield bytes.fromhex(joined.replace("-", ""))


def words_about(secret: str) -> Iterator[str]:
    """What a program may say that must not be kept."""
    yield from secret.splitlines()
    yield quote(secret, safe="")
    for raw in behind(secret):
        yield from (raw.decode("utf-8", "replace"), raw.hex(), raw.hex().upper(), " ".join(map(str, raw)))
        for name in (b"", b"me:", b"you:", b"user:"):
            yield base64.b64encode(name + raw + b"@").decode()
            yield base64.urlsafe_b64encode(name + raw).decode().rstrip("=")


def looks_of(secret: str) -> Iterator[bytes]:
    """How a secret, or most of it, may lie in a file."""
    for raw in behind(secret):
        yield from (raw, raw.hex().encode(), raw.hex().upper().encode())
        for shift in range(3):
            for altchars in (b"+/", b"-_"):
                yield base64.b64encode(bytes(shift) + raw, altchars)[(0, 4, 4)[shift] : -4]
        # Of something long a piece would be enough.
        if len(raw) > 64:
            yield raw[40:64]


@pytest.mark.root
@pytest.mark.usefixtures("_trusted")
def test_every_kind_leaves_evidence_and_no_secret_in_it(
    world: Any, pki: Any, authority: trustme.CA, question: Any, first_byte: Any, tmp_path: Path
) -> None:
    directory = tmp_path / "e"

    async def body() -> list[TunnelSpec]:
        async with world.open(), every_kind(world, pki, authority) as specs:
            made = Evidence(directory, plan_of(*specs))
            await made.begin(world.outside, ())
            tunnels = await raised(world, made, *specs)
            try:
                for tunnel in tunnels:
                    assert tunnel.vantage is not None, (tunnel.spec.name, tunnel.steps)
                    await made.begin(tunnel.vantage, tunnel.spec.config.servers)
                    assert (await question(tunnel.vantage, f"{tunnel.spec.name}.test")).answers
                    assert await first_byte(tunnel.vantage) == b"w"
            finally:
                for tunnel in tunnels:
                    await tunnel.lower()
            # What a carrier might say of each secret, whatever the reason.
            for spec in specs:
                for secret in secrets_in(spec.config):
                    for words in words_about(secret.reveal()):
                        made.of(spec.name).said(f"debug: using {words} now")
            await made.end()
            made.keep(b"{}")
            return specs

    specs = asyncio.run(body())
    entries = listed(directory)
    for spec in specs:
        inside, outer = packets(directory / spec.name / "inside.pcap"), packets(directory / spec.name / "outer.pcap")
        # A question, its answer, and a connection's three first packets with its word.
        assert len(inside) >= 6, spec.name
        assert f"{spec.name}.test".split(".")[0].encode() in b"".join(one.content for one in inside)
        assert len(outer) >= 6, spec.name
        (server,) = spec.config.servers
        assert {frozenset(one.ends) for one in outer} == {frozenset({SERVER, CLIENT})}
        assert all(server.port in one.ports for one in outer if one.ports)
        assert {one.protocol for one in outer if one.ports} >= {UDP if server.transport == "udp" else TCP}
        for name in ("inside.pcap", "outer.pcap"):
            assert entries[f"{spec.name}/{name}"]["lost"] == entries[f"{spec.name}/{name}"]["left_out"] == 0
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) >= 3 * len(specs)
    planted = [secret.reveal() for spec in specs for secret in secrets_in(spec.config)]
    assert len(planted) > 20
    for path in files:
        content = path.read_bytes()
        for secret in planted:
            for look in looks_of(secret):
                # A user name of a few letters may lie anywhere in ciphertext.
                assert len(look) < 6 or look not in content, (path.name, look)


@pytest.mark.root
def test_the_tools_that_people_have_read_the_files(
    world: Any, pki: Any, question: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "e"

    async def body() -> None:
        async with world.open(), world.wireguard("wireguard-go", 9121, 121) as spec:
            made = Evidence(directory, plan_of(spec))
            await made.begin(world.outside, ())
            [tunnel] = await raised(world, made, spec)
            assert (await question(tunnel.vantage, "heron.test")).answers
            await question(Vantage(OUTSIDE, world.client, SERVER), "egret.test")
            await tunnel.lower()
            await made.end()

    asyncio.run(body())

    def read(name: str, *words: str) -> str:
        done = subprocess.run(
            ["tcpdump", "-n", "-r", str(directory / name), *words], capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "A? heron.test." in read("srv9121/inside.pcap", "udp port 53")
    assert "egret.test" in read("outside/line.pcap", "udp port 53")
    assert "heron" not in read("outside/line.pcap")
    # WireGuard's first two messages have 148 and 92 bytes.
    first, second = read("srv9121/outer.pcap", "udp port 9121").splitlines()[:2]
    assert first.endswith("length 148")
    assert second.endswith("length 92")
