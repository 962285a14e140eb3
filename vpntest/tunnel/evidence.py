"""What a run keeps for others to check: the packets of each vantage, and what each carrier said. No secret is in it.

    DIR/outside/line.pcap      what this box and the ports that the plan asks for said to each other, on the line
    DIR/se/inside.pcap         all that passed in the tunnel's namespace
    DIR/se/outer.pcap          the carrier's own packets: between the line and the addresses of the tunnel's servers
    DIR/se/carrier.log         what the carrier said, each line with the second of the day, UTC
    DIR/run.json               the run's document
    DIR/evidence.json          of each file: what and how much is in it, how much is not, and what went wrong

The packets are read by packet sockets in one thread of ours, so that no program is needed that the box may lack, and
nothing outlives us. They are kept as IP packets without a link's header (LINKTYPE_RAW), which is all that a tunnel's
device has, and leaves out the hardware addresses of the neighbours. Time is the kernel's, of each packet.

Of the line only what could be part of the measurement is kept: a box has other business, which is nobody's evidence.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from vpntest.errors import CannotMeasure, UsageError
from vpntest.plan.bridges import TRANSPORTS
from vpntest.plan.model import (
    OUTSIDE,
    Bridge,
    OpenVpnConfig,
    Plan,
    ProxyConfig,
    Server,
    TorConfig,
    TunnelSpec,
    WireGuardConfig,
)
from vpntest.plan.secret import Redaction, Secret, secrets_in
from vpntest.tunnel.namespace import Namespace, shortage
from vpntest.tunnel.vantage import Vantage

SCHEMA = "vpntest.evidence/1"
LINE, INSIDE, OUTER, LOG = "line.pcap", "inside.pcap", "outer.pcap", "carrier.log"
"""A vantage's files."""
RUN, CONTENTS = "run.json", "evidence.json"

MOST = 32 << 20
"""Bytes of one file of packets. A tunnel's whole run is some 10 MB at :data:`SNAP`."""
MOST_SAID = 1 << 20
"""Bytes of one carrier's log."""
SNAP = 2048
"""Bytes of a packet that are kept: a browser's ClientHello with a post-quantum key share has up to 1,900, any DNS
answer over UDP of ours 1,232. Several packets that the kernel handles as one are cut."""
HEADERS_AND = 16
"""Bytes beyond the headers that are kept of packets which are not ciphertext throughout: OpenVPN's opcode, session and
packet number (ssl_pkt.h), which is what its handshake is known by."""

_ALL_PROTOCOLS = 0x0003
_IPV4, _IPV6 = 0x0800, 0x86DD
_OTHERHOST, _OUTGOING = 3, 4
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 64
"""SO_TIMESTAMPNS_NEW (asm-generic/socket.h): seconds and nanoseconds of 64 bits each, on every machine."""
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BACKLOG = 16 << 20
"""Bytes that the kernel keeps while our thread has no turn."""
_AT_ONCE = 512
"""Packets of one socket before the others have their turn."""
_FLUSH = 1 << 18
_PATIENCE = 0.25
"""Seconds after which what was read is in the file, however little: a run that is killed leaves what it had."""
_PCAP = struct.Struct("=IHHiIII")
_RECORD = struct.Struct("=IIII")
_TIMESPEC = struct.Struct("=qq")
_NANOSECONDS, _LINKTYPE_RAW = 0xA1B23C4D, 101

_PORTS = {"https": 443, "http": 80, "quic": 443, "stun": 3478}
_DNS = 53
_EVERY = ((0, 65535),)
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_NUMBERS = {"tcp": _TCP, "udp": _UDP}


class _File:
    """One file that grows up to a bound."""

    def __init__(self, directory: int, vantage: str, name: str, about: str, most: int) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(vantage, 0o700, dir_fd=directory)
        inner = os.open(vantage, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            self._fd = _create(name, inner)
        finally:
            os.close(inner)
        self.path = f"{vantage}/{name}"
        self.about = about
        self.count = 0
        """Packets or lines in it."""
        self.left_out = 0
        """Those that came when it was full."""
        self.bytes = 0
        self._most = most
        self._waiting = bytearray()

    def add(self, content: bytes | bytearray | memoryview) -> bool:
        """Takes all of it, or nothing where it does not fit any more."""
        if self.left_out or self.bytes + len(content) > self._most:
            self.left_out += 1
            return False
        self.bytes += len(content)
        self._waiting += content
        if len(self._waiting) >= _FLUSH:
            self.flush()
        return True

    def flush(self) -> None:
        """Brings to the disk what waits. A disk that is full costs evidence, and not the run."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
        except OSError:
            self._waiting.clear()
            self.left_out += 1

    def close(self) -> None:
        if self._fd >= 0:
            self.flush()
            os.close(self._fd)
            self._fd = -1


class _Pcap(_File):
    """A file of packets (draft-ietf-opsawg-pcap; nanoseconds, LINKTYPE_RAW)."""

    def __init__(self, directory: int, vantage: str, name: str, about: str) -> None:
        super().__init__(directory, vantage, name, about, MOST)
        self.add(_PCAP.pack(_NANOSECONDS, 2, 4, 0, 0, SNAP, _LINKTYPE_RAW))
        self.flush()

    def packet(self, seconds: int, nanoseconds: int, content: memoryview, length: int) -> None:
        """One packet, of which `content` is what is kept and `length` what it had."""
        if self.add(b"".join((_RECORD.pack(seconds, nanoseconds, len(content), length), content))):
            self.count += 1


class _Tap:
    """A packet socket: everything that passes in one namespace."""

    def __init__(self, netns: Namespace) -> None:
        self.lost = 0
        """Packets that the kernel had no room for."""
        self.fault = ""
        """What went wrong first; empty where nothing did."""
        try:
            self.sock = netns.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS))
        except OSError as exc:
            raise shortage(exc) or CannotMeasure(f"no packets can be kept on this box ({exc.strerror})") from exc
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BACKLOG)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._room = bytearray(SNAP)
        self._view = memoryview(self._room)

    def read(self, most: int) -> bool:
        """Takes up to so many packets. Whether more may be waiting."""
        receive, room, view = self.sock.recvmsg_into, [self._room], self._view
        for _ in range(most):
            try:
                length, extra, _, origin = receive(room, 64, socket.MSG_DONTWAIT | socket.MSG_TRUNC)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                # A device went down: the others go on.
                continue
            device, protocol, kind = origin[:3]
            if protocol not in (_IPV4, _IPV6) or kind == _OTHERHOST or (kind == _OUTGOING and device == "lo"):
                # What leaves by `lo` comes in by it.
                continue
            if extra:
                seconds, nanoseconds = _TIMESPEC.unpack_from(extra[0][2])
            else:
                seconds, nanoseconds = divmod(time.time_ns(), 10**9)
            try:
                self.take(seconds, nanoseconds, view[: min(length, SNAP)], length, device)
            except Exception as fault:
                # One packet that we cannot read must not cost those of all other vantages.
                self.fault = self.fault or f"packets are missing: {_told(fault)}"
        return True

    def take(self, seconds: int, nanoseconds: int, content: memoryview, length: int, device: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Takes what has come, and lets go."""
        try:
            while self.read(_AT_ONCE):
                pass
            _, lost = struct.unpack("=II", self.sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            self.lost += lost
        finally:
            self.sock.close()


class _InsideTap(_Tap):
    """All of a tunnel's namespace."""

    def __init__(self, netns: Namespace, pcap: _Pcap) -> None:
        super().__init__(netns)
        self._pcap = pcap

    def take(self, seconds: int, nanoseconds: int, content: memoryview, length: int, device: str) -> None:
        self._pcap.packet(seconds, nanoseconds, content, length)


class _Outer:
    """Whose packets go to one tunnel's servers: where, by what, and how much of each is kept."""

    def __init__(self, pcap: _Pcap, ciphertext: bool) -> None:
        self.pcap = pcap
        self.ciphertext = ciphertext
        self.ways: dict[bytes, set[tuple[int, tuple[tuple[int, int], ...]]]] = {}
        """By address: protocol and ranges of ports."""

    def shares(self, other: _Outer) -> bool:
        """Whether a packet may be of either: what goes to one port of one address nothing here tells apart."""
        return any(
            protocol == theirs and any(a <= d and c <= b for a, b in ranges for c, d in their_ranges)
            for address, ways in self.ways.items()
            for protocol, ranges in ways
            for theirs, their_ranges in other.ways.get(address, ())
        )

    def takes(self, packet: _Packet) -> bool:
        """Whether it is one of its packets; a piece of one, or an ICMP error about one, is told by the address."""
        for address, port in ((packet.to, packet.to_port), (packet.by, packet.by_port)):
            for protocol, ranges in self.ways.get(address, ()):
                if packet.protocol in (_ICMP, _ICMPV6) or (packet.is_piece and packet.protocol == protocol):
                    return True
                if packet.protocol == protocol and any(low <= port <= high for low, high in ranges):
                    return True
        return False


class _Packet:
    """What of an IP packet's headers tells whose it is."""

    __slots__ = ("by", "by_port", "headers", "is_piece", "protocol", "to", "to_port")

    def __init__(self, content: memoryview) -> None:
        self.by_port = self.to_port = 0
        self.is_piece = False
        if content[0] >> 4 == 4:
            end = (content[0] & 15) * 4
            self.protocol = content[9]
            self.is_piece = bool((content[6] & 0x1F) | content[7])
            self.by, self.to = bytes(content[12:16]), bytes(content[16:20])
        else:
            end, self.protocol = 40, content[6]
            self.by, self.to = bytes(content[8:24]), bytes(content[24:40])
            while self.protocol in (0, 43, 44, 60) and len(content) >= end + 8:
                if self.protocol == 44:
                    self.is_piece = bool(content[end + 2] | content[end + 3] & 0xF8)
                    size = 8
                else:
                    size = 8 * (content[end + 1] + 1)
                self.protocol = content[end]
                end += size
        self.headers = end
        if self.is_piece:
            return
        if self.protocol in (_TCP, _UDP) and len(content) >= end + 8:
            self.by_port, self.to_port = struct.unpack_from("!HH", content, end)
            size = 8 if self.protocol == _UDP else (content[end + 12] >> 4) * 4 if len(content) > end + 12 else 20
            self.headers = end + size
        elif self.protocol in (_ICMP, _ICMPV6) and len(content) >= end + 8 + 20:
            # An error quotes the packet that it is about, and comes from anybody on the way.
            inner = content[end + 8 :]
            is_error = content[end] in (3, 4, 5, 11, 12) if self.protocol == _ICMP else content[end] < 128
            if is_error and inner[0] >> 4 == 4:
                self.by = bytes(inner[16:20])
            elif is_error and inner[0] >> 4 == 6 and len(inner) >= 40:
                self.by = bytes(inner[24:40])
            self.headers = end + 8


class _LineTap(_Tap):
    """The line: each tunnel's outer packets to its own file, the measurement's others to that of `outside`."""

    def __init__(self, netns: Namespace, pcap: _Pcap, ports: frozenset[int], outers: dict[str, _Outer]) -> None:
        super().__init__(netns)
        self._pcap = pcap
        self._ports = ports
        self._outers = outers

    def take(self, seconds: int, nanoseconds: int, content: memoryview, length: int, device: str) -> None:
        if len(content) < 20 or (content[0] >> 4 == 6 and len(content) < 40):
            return
        packet = _Packet(content)
        is_outer = False
        for outer in tuple(self._outers.values()):
            if outer.takes(packet):
                is_outer = True
                kept = content if outer.ciphertext else content[: packet.headers + HEADERS_AND]
                outer.pcap.packet(seconds, nanoseconds, kept, length)
        if is_outer:
            return
        ports = {packet.by_port, packet.to_port}
        if device == "lo":
            # A resolver may be there (systemd-resolved); all else on it is this box's own affair.
            wanted = _DNS in ports
        else:
            wanted = not self._ports.isdisjoint(ports) or packet.is_piece or packet.protocol in (_ICMP, _ICMPV6)
        if wanted:
            self._pcap.packet(seconds, nanoseconds, content, length)


class Journal:
    """What is kept of one tunnel. Its site tells it what it does."""

    def __init__(self, evidence: Evidence, spec: TunnelSpec) -> None:
        self._evidence = evidence
        self._name = spec.name
        self._redaction = Redaction(secrets_in(spec.config))
        self._tap: _InsideTap | None = None

    def inside(self, netns: Namespace) -> None:
        """The tunnel's namespace is there: from now on its packets are kept. Raises CannotMeasure."""
        if self._tap is None and not self._evidence.ended:
            self._tap = self._evidence._listen_inside(self._name, netns)

    def calls(self, server: Server, addresses: Sequence[str]) -> None:
        """A server of the tunnel has these addresses: packets between them and the line are the tunnel's."""
        if not self._evidence.ended:
            self._evidence._follow(self._name, server, addresses)

    def said(self, line: str) -> None:
        """The carrier said a line. Secrets are taken out of it before it is kept."""
        if self._evidence.ended:
            return
        shown = "".join(character if character.isprintable() else " " for character in line)
        now = time.time()
        at = f"{time.strftime('%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}"
        self._evidence._write_down(self._name, f"{at} {self._redaction.of(shown)}\n")

    def left(self) -> None:
        """The namespace is about to go: what passed until now is taken, and it is let go of. Safe to call again."""
        if self._tap is not None:
            self._evidence._let_go(self._tap)


class Evidence:
    """A directory that is being filled. To be made before a cage hides /run, and ended after the tunnels are down."""

    def __init__(self, directory: Path, plan: Plan | None = None) -> None:
        """Makes the directory, for its owner only. Raises UsageError where it cannot be made, or holds something."""
        self.directory = directory
        self._fd = _opened(directory)
        self._ports: frozenset[int] = frozenset()
        self._specs: dict[str, TunnelSpec] = {}
        self._journals: dict[str, Journal] = {}
        self._files: dict[str, _File] = {}
        self._outers: dict[str, _Outer] = {}
        self._taps: dict[int, tuple[_Tap, str]] = {}
        self._lost: dict[str, int] = {}
        self._faults: dict[str, str] = {}
        """By file: what went wrong while it was written, the first thing alone."""
        # Held while packets are read, so that none is read by two or from a socket that was let go of.
        self._lock = threading.RLock()
        self._poll = select.epoll()
        self._over = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None
        if plan is not None:
            self.expect(plan)

    def expect(self, plan: Plan) -> None:
        """Says what will be measured, where that was not known at first. To be called before :meth:`begin`."""
        self._ports = _ports_of(plan)
        self._specs = {spec.name: spec for spec in plan.tunnels}

    def of(self, tunnel: str) -> Journal:
        """The journal of a tunnel of the plan; always the same one."""
        if tunnel not in self._journals:
            self._journals[tunnel] = Journal(self, self._specs[tunnel])
        return self._journals[tunnel]

    async def begin(self, vantage: Vantage, servers: Sequence[Server] = ()) -> None:
        """Keeps what passes at a vantage from now on. Safe to call again.

        `outside` comes first: only from then on outer packets are seen. For a tunnel whose site has a journal all is
        under way already. `servers` says nothing that the plan does not. Raises CannotMeasure where this box runs short
        of something.
        """
        if vantage.id == OUTSIDE:
            self._listen_outside(vantage.netns)
        else:
            self.of(vantage.id).inside(vantage.netns)

    @property
    def ended(self) -> bool:
        """Whether nothing more is taken of packets and words."""
        return self._ended

    def keep(self, document: bytes) -> None:
        """Keeps the run's document, as it is, for records hold no secret; and lets go of the directory."""
        with os.fdopen(_create(RUN, self._fd), "wb") as file:
            file.write(document)
        os.close(self._fd)
        self._fd = -1

    async def end(self) -> None:
        """Takes what has come, closes every file of packets and words, and says what is in them. Safe to call again."""
        if self._ended:
            return
        self._ended = True
        self._over.set()
        if self._thread is not None:
            # A turn of it is short, and the loop has nothing more to do.
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        for tap, _ in tuple(self._taps.values()):
            self._let_go(tap)
        self._poll.close()
        self._name_sharing()
        for file in self._files.values():
            file.close()
        with os.fdopen(_create(CONTENTS, self._fd), "w", encoding="utf-8") as contents:
            json.dump(
                {"schema": SCHEMA, "files": [self._entry(file) for file in self._files.values()]}, contents, indent=1
            )

    def _entry(self, file: _File) -> dict[str, object]:
        return {
            "file": file.path,
            "about": file.about,
            "count": file.count,
            "bytes": file.bytes,
            "left_out": file.left_out,
            "lost": self._lost.get(file.path, 0),
            "fault": self._faults.get(file.path),
        }

    def _name_sharing(self) -> None:
        for name, outer in self._outers.items():
            others = [other for other, of in self._outers.items() if other != name and outer.shares(of)]
            if others:
                outer.pcap.about += f"; those of {', '.join(others)} too, which has the same server and port"

    # ── packets ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _listen_outside(self, netns: Namespace) -> None:
        if f"{OUTSIDE}/{LINE}" in self._files:
            return
        ports = ", ".join(map(str, sorted(self._ports)))
        about = f"the line: ICMP and packets from or to ports {ports}, without the tunnels' own"
        pcap = self._pcap(OUTSIDE, LINE, about)
        for spec in self._specs.values():
            for server in spec.config.servers if spec.config else ():
                self._follow(spec.name, server, ())
        self._listen(_LineTap(netns, pcap, self._ports, self._outers), pcap.path)

    def _listen_inside(self, tunnel: str, netns: Namespace) -> _InsideTap:
        pcap = self._pcap(tunnel, INSIDE, "all packets in the tunnel's namespace")
        tap = _InsideTap(netns, pcap)
        self._listen(tap, pcap.path)
        return tap

    def _listen(self, tap: _Tap, path: str) -> None:
        with self._lock:
            self._taps[tap.sock.fileno()] = (tap, path)
            self._poll.register(tap.sock.fileno(), select.EPOLLIN)
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="evidence", daemon=True)
            self._thread.start()

    def _let_go(self, tap: _Tap) -> None:
        with self._lock:
            number = tap.sock.fileno()
            if number not in self._taps:
                return
            _, path = self._taps.pop(number)
            self._poll.unregister(number)
            try:
                tap.close()
            except Exception as fault:
                tap.fault = tap.fault or _told(fault)
            self._lost[path] = self._lost.get(path, 0) + tap.lost
            if tap.fault:
                self._faults[path] = tap.fault
                if isinstance(tap, _LineTap):
                    # Outer packets come in by it too.
                    self._faults |= {outer.pcap.path: tap.fault for outer in tuple(self._outers.values())}

    def _read(self) -> None:
        flushed = time.monotonic()
        while not self._over.is_set():
            ready = self._poll.poll(_PATIENCE)
            for number, _ in ready:
                with self._lock:
                    if found := self._taps.get(number):
                        tap, _ = found
                        try:
                            tap.read(_AT_ONCE)
                        except Exception as fault:
                            # The others go on.
                            tap.fault = tap.fault or _told(fault)
                            self._let_go(tap)
            if time.monotonic() - flushed >= _PATIENCE:
                flushed = time.monotonic()
                with self._lock:
                    for file in tuple(self._files.values()):
                        file.flush()

    def _follow(self, tunnel: str, server: Server, addresses: Sequence[str]) -> None:
        spec = self._specs[tunnel]
        if tunnel not in self._outers:
            about = "the carrier's packets, to and from the tunnel's servers"
            ciphertext = is_ciphertext(spec)
            if not ciphertext:
                about += f"; headers and {HEADERS_AND} bytes of each, for the rest may be readable"
            self._outers[tunnel] = _Outer(self._pcap(tunnel, OUTER, about), ciphertext)
        ways = set(_ways(spec, server))
        for address in (server.host, *addresses):
            with contextlib.suppress(ValueError):
                packed = ipaddress.ip_address(address).packed
                outer = self._outers[tunnel]
                # A new set: the other thread may be walking through the old one.
                outer.ways = outer.ways | {packed: outer.ways.get(packed, set()) | ways}

    def _pcap(self, vantage: str, name: str, about: str) -> _Pcap:
        path = f"{vantage}/{name}"
        with self._lock:
            found = self._files.get(path)
            if not isinstance(found, _Pcap):
                try:
                    found = self._files[path] = _Pcap(self._fd, vantage, name, about)
                except OSError as exc:
                    raise CannotMeasure(f"{self.directory / path}: no evidence can be kept ({exc.strerror})") from exc
            return found

    def _write_down(self, tunnel: str, line: str) -> None:
        path = f"{tunnel}/{LOG}"
        with self._lock:
            if path not in self._files:
                about = "what the carrier said, without secrets; times are UTC"
                try:
                    self._files[path] = _File(self._fd, tunnel, LOG, about, MOST_SAID)
                except OSError:
                    # The carrier's output must be read on, whatever becomes of the evidence.
                    return
            if self._files[path].add(line.encode("utf-8", "replace")):
                self._files[path].count += 1


def _told(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"


def is_ciphertext(spec: TunnelSpec) -> bool:
    """Whether all that a tunnel's carrier sends is ciphertext, so that its packets may be kept whole.

    WireGuard and AmneziaWG encrypt the peers' keys and all data (whitepaper, §5.4), Shadowsocks all but a random salt
    (SIP004) where it has a cipher at all, SSH its login (RFC 4252). What runs in QUIC, TLS or Reality carries its
    passwords inside, Tor's links do so to every bridge (tor-spec, "Channels"). An OpenVPN without tls-crypt shows its
    TLS handshake, and with TLS 1.2 the client's certificate in it. VMess hides who calls, and by its cipher `none` no
    more than that. A plugin's requests by plain HTTP tell a path that only its users know. Of anything else nothing is
    known.
    """
    match spec.config:
        case WireGuardConfig():
            return True
        case OpenVpnConfig(inline=inline):
            return any(name.startswith("tls-crypt") for name, _ in inline)
        case ProxyConfig(outbound={"type": "shadowsocks", "method": method, **others}):
            return method != "none" and ("plugin" not in others or _has_tls(others))
        case ProxyConfig(outbound={"type": "hysteria2" | "tuic" | "ssh"}):
            return True
        case ProxyConfig(outbound={"type": "vless" | "vmess" | "trojan" | "anytls" | "http", "tls": {"enabled": True}}):
            return True
        case TorConfig(bridges=bridges):
            return all(map(_hides, bridges))
    return False


def _has_tls(plugin: dict[str, object]) -> bool:
    """Of Shadowsocks' plugins, v2ray-plugin can run in TLS; obfs only looks like it."""
    written = plugin.get("plugin_opts")
    options = written.reveal() if isinstance(written, Secret) else str(written)
    # A semicolon within a value stands behind a backslash (SIP003).
    return plugin["plugin"] == "v2ray-plugin" and "tls=1" in re.split(r"(?<!\\);", options)


def _hides(bridge: Bridge) -> bool:
    """Whether all that goes to it is ciphertext: by itself, or in the TLS of the web server that its `url` names."""
    if bridge.transport not in (None, *TRANSPORTS):
        return False
    values = (value.reveal() if isinstance(value, Secret) else value for _, value in bridge.arguments)
    return not any(value.lower().startswith("http:") for value in values)


def _ways(spec: TunnelSpec, server: Server) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    """Protocols and ranges of ports by which a tunnel goes to its server."""
    ranges: tuple[tuple[int, int], ...] = ((server.port, server.port),)
    transports: tuple[str, ...] = (server.transport,)
    match spec.config:
        case ProxyConfig(outbound={"type": "shadowsocks"}):
            # UDP goes in packets of its own, to the same port.
            transports = ("tcp", "udp")
        case ProxyConfig(outbound={"server_ports": [*hops]}):
            ranges = tuple((int(low), int(high)) for low, _, high in (str(hop).partition(":") for hop in hops))
    for transport in transports:
        yield _NUMBERS[transport], ranges


def _ports_of(plan: Plan) -> frozenset[int]:
    """Ports that the plan has anything to do with, those of its tunnels excepted."""
    settings = plan.settings
    urls = [*settings.control, settings.upload, settings.bulk, settings.exit_address]
    for platform in plan.platforms:
        urls += [endpoint.url for service in platform.service for endpoint in service.endpoint]
        urls += [platform.speed] if platform.speed else []
    parts = [urlsplit(url) for url in urls]
    return frozenset({_DNS, *(part.port or _PORTS.get(part.scheme, 443) for part in parts)})


def _opened(directory: Path) -> int:
    def unusable(exc: OSError) -> UsageError:
        return UsageError(f"{directory}: no evidence can be kept there ({exc.strerror})")

    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise unusable(exc) from exc
    try:
        if os.listdir(fd):
            raise UsageError(f"{directory}: evidence is kept in a new or empty directory, and this one holds something")
        if stat.S_IMODE(os.fstat(fd).st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    except OSError as exc:
        os.close(fd)
        raise unusable(exc) from exc
    except UsageError:
        os.close(fd)
        raise
    return fd


def _create(name: str, directory: int) -> int:
    """A file that was not there, for its owner only; no link is followed."""
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
