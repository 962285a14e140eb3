"""Any other client: the plan's own command line, in a namespace of its own that has a way out and nothing else.

    underlay ◀─ sing-box, direct ◀─ TUN `uplink` ─ the client's namespace ── the client, its children, its `ready` check
                                                        │ its device, moved           │ its proxy on 127.0.0.1
                                                        ▼                             ▼ sing-box
                                                   the tunnel's namespace: `lo` and this device, nothing else

The uplink is a translation of addresses in user space: no device, route, rule or setting of the host is touched. TCP
and UDP pass, no other protocol does. Names that the client asks for go to the resolver of `outside`.

The client's words are the operator's, so it is trusted with root and with the host's files. It has what makes network
devices and no power over the rest of the machine, an empty /run, an /etc whose changes end with it, a /proc that knows
its own processes only, and a cage of its own: with the tunnel ends whatever it has started. The vantage does not see
the uplink: a client that falls over leaves no way to go around the tunnel.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vpntest.errors import CannotMeasure
from vpntest.failures import Failure
from vpntest.plan.model import CommandConfig
from vpntest.tunnel import netlink, singbox
from vpntest.tunnel.cage import Cage, Process
from vpntest.tunnel.carriers import Carrier
from vpntest.tunnel.ladder import Fall, Rung
from vpntest.tunnel.namespace import Namespace, apart, check, denial
from vpntest.tunnel.site import Site

T = TypeVar("T")

UPLINK = "uplink"
_ADDRESSES = ("172.18.255.1/30", "fdfe:dcba:9875::1/126")
_GATEWAYS = ("172.18.255.2", "fdfe:dcba:9875::2")
"""The uplink's two ends. Clients want to be told a gateway; the first one is also where names are asked for."""
UPLINK_MTU = 1500
"""Bytes, as on most lines: clients take their own device's from it."""
_EVERY = 1.0
"""Seconds between two runs of the `ready` check."""
_LOOK = 0.1
"""Seconds between two looks for a device or an open port."""
_START = 0.3
"""Seconds in which a client that misses its device has done what it does about it."""

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_BIND_ALL, _MS_NOSUID_NODEV, _MS_QUIET, _MS_RDONLY = 4096, 4096 | 16384, 2 | 4, 2 | 4 | 8, 1
_MNT_DETACH = 2
_OVERLAY = b"overlay"
"""The kind of file system by which a folder is covered."""
_POWERS = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 12, 13, 18, 31})
"""What a client's root may do (linux/capability.h): all of its own files' and children's, be it under another user;
network devices, raw sockets. No mounts, by which it could undo what hides from it, and no namespaces but in a user
namespace of its own; no kernel modules, no other's memory, no clock, no devices, no reboot."""

_LAUNCH = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags):
    if libc.mount(source, target, kind, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        sys.exit(f"{target.decode()} cannot be hidden from a client here: {os.strerror(number)}")
BIND, REC, REMOUNT, QUIET, RDONLY = 4096, 16384, 32, 2 | 4 | 8, 1
# Only who is in the namespace of processes can mount its /proc.
mount(b"proc", b"/proc", b"proc", QUIET)
mount(b"/proc/sys/net", b"/proc/sys/net", None, BIND)
for each in (b"/proc/sys", b"/proc/sysrq-trigger", b"/proc/irq", b"/proc/bus", b"/proc/fs"):
    if os.path.exists(each):
        mount(each, each, None, BIND | REC)
        mount(None, each, None, REMOUNT | BIND | QUIET | RDONLY)
for number in map(int, sys.argv[1].split(",")):
    libc.prctl(24, ctypes.c_ulong(number), 0, 0, 0)
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
try:
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as fault:
    sys.exit(f"it does not start: {fault.strerror}")
"""
"""Becomes the client, once it has made what the client is to see. Settings of the kernel cannot be changed, but for
those of the network, which are the namespace's own."""


async def climb(site: Site, config: CommandConfig, carrier: Carrier, destination: str) -> Process | None:
    """Climbs from `config` to `auth` with a device, to `handshake` with a proxy. Raises Fall.

    Gives the client; None where it has put itself into the background.

    `carrier` is sing-box, for the uplink and the proxy's device; `destination` an address in the world behind.
    """
    assert carrier.program is not None
    step = site.climb.rung
    environment = _environment(config)
    with step(Rung.CONFIG):
        for argv in (config.argv, config.ready):
            if argv and shutil.which(argv[0], path=environment["PATH"]) is None:
                raise Fall(Failure.UNSUPPORTED, f"there is no program `{Path(argv[0]).name}` on this machine")
    with step(Rung.ENDPOINT_DNS):
        addresses = await site.resolve(config.server) if config.server else []
    with step(Rung.ENDPOINT):
        if config.server and config.server.transport == "tcp":
            await site.connects(site.reachable(addresses, config.server.port), config.server.port)
        home = await _with_uplink(site, carrier.program)
    with step(Rung.HANDSHAKE):
        # Here all its ends are told, however soon: nobody sees whom it has reached by then.
        client = _Client(site, config, home, environment)
        try:
            async with asyncio.timeout(config.ready_within):
                if config.ready:
                    await client.says_ready()
                if config.device:
                    addresses, mtu = await client.addressed(config.device)
                else:
                    await client.listens(config.proxy or "")
        except TimeoutError:
            raise Fall(Failure.TIMEOUT, f"not ready within {config.ready_within:g} s: {site.tail()}") from None
        if config.proxy:
            await _through_proxy(site, config, carrier.program, home, destination)
    if config.device:
        with step(Rung.AUTH):
            site.device = config.device
            await netlink.move(config.device, home, site.netns)
            await netlink.address(site.netns, config.device, addresses=addresses, routes=("0.0.0.0/0", "::/0"), mtu=mtu)
            # Some clients take a device that they miss for a reason to end.
            await asyncio.sleep(_START)
            if site.count_packets() is None:
                raise Fall(Failure.CARRIER_EXITED, f"it took its device back: {site.tail()}")
    return client.process if client.process.running() else None


def _environment(config: CommandConfig) -> dict[str, str]:
    own = {name: value for name in ("PATH", "HOME") if (value := os.environ.get(name))}
    return (
        {"PATH": os.defpath, "LC_ALL": "C.UTF-8"} | own | {name: value.reveal() for name, value in config.environment}
    )


async def _with_uplink(site: Site, program: str) -> Namespace:
    """A namespace with a way out. Raises Fall, CannotMeasure."""
    try:
        home = Namespace.create(site.user)
        site.undo.callback(home.close)
        await netlink.prepare(home)
    except OSError as exc:
        raise denial(exc) from exc
    await singbox.uplink(site, program, home, UPLINK, _ADDRESSES, UPLINK_MTU, (_GATEWAYS[0], site.outside.resolver))

    def routes(ip: Any) -> None:
        index = ip.link_lookup(ifname=UPLINK)[0]
        for gateway, family in zip(_GATEWAYS, (socket.AF_INET, socket.AF_INET6), strict=True):
            # A kernel without IPv6 has no such routes.
            with suppress(Exception):
                ip.route("replace", dst="default", gateway=gateway, oif=index, family=family)

    await netlink.address(home, UPLINK, addresses=_ADDRESSES, routes=())
    await netlink.within(home, routes)
    return home


class _Client:
    """The client and what it has started."""

    def __init__(self, site: Site, config: CommandConfig, home: Namespace, environment: dict[str, str]) -> None:
        self._site = site
        self._config = config
        self._home = home
        self._environment = environment
        self._cage = Cage.open()
        site.undo.callback(self._cage.close)
        self.process = self._spawn(config.argv)
        site.follow(self.process)

    def _spawn(self, argv: Sequence[str]) -> Process:
        program = shutil.which(argv[0], path=self._environment["PATH"]) or argv[0]
        given_up = ",".join(str(number) for number in range(64) if number not in _POWERS)
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, given_up, program, *argv[1:]]

        def start() -> Process:
            return self._cage.spawn(launch, self._home, env=self._environment, cwd=Path("/"))

        try:
            return in_own_view(self._home, {"resolv.conf": resolver_settings(_GATEWAYS[0])}, start)
        except OSError as exc:
            raise Fall(Failure.CARRIER_EXITED, f"`{Path(argv[0]).name}` does not start: {exc.strerror}") from exc

    async def _check(self) -> None:
        """Raises Fall where it has ended; not where it ended well and left something behind: itself in the background,
        or its device."""
        if self.process.running():
            return
        status = await self.process.wait()
        device = self._config.device
        stays = self._cage.has_orphans() or (device and netlink.count(self._home, device) is not None)
        if status == 0 and stays:
            return
        # Its last words may still be on their way.
        await asyncio.sleep(0.05)
        raise Fall(Failure.CARRIER_EXITED, f"ended with status {status}: {self._site.tail()}")

    async def says_ready(self) -> None:
        """Runs the check until it says yes."""
        while True:
            await self._check()
            asked = self._spawn(self._config.ready)

            async def read(asked: Process = asked) -> None:
                async for _ in asked.lines():
                    pass

            reading = asyncio.ensure_future(read())
            try:
                if await asked.wait() == 0:
                    return
            finally:
                reading.cancel()
                await asyncio.wait([reading])
                await asked.stop()
            await asyncio.sleep(_EVERY)

    async def addressed(self, device: str) -> tuple[list[str], int]:
        """Waits until the device is up with an address: these, and its MTU."""
        while True:
            await self._check()
            addresses, mtu = await netlink.within(self._home, lambda ip: _state(ip, device))
            if addresses:
                return addresses, mtu
            await asyncio.sleep(_LOOK)

    async def listens(self, proxy: str) -> None:
        """Waits until the proxy's port is open."""
        parts = urlsplit(proxy)
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET
        while True:
            await self._check()
            with self._home.socket(family, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                with suppress(OSError):
                    await loop.sock_connect(probe, (parts.hostname, parts.port))
                    return
            await asyncio.sleep(_LOOK)


def _state(ip: Any, device: str) -> tuple[list[str], int]:
    """A device's own addresses and its MTU; none where it is missing or down."""
    for link in ip.get_links():
        if link.get_attr("IFLA_IFNAME") == device and link["flags"] & 1:
            found = [
                f"{each.get_attr('IFA_LOCAL') or each.get_attr('IFA_ADDRESS')}/{each['prefixlen']}"
                for each in ip.get_addr(index=link["index"])
            ]
            return [each for each in found if not each.lower().startswith("fe80:")], link.get_attr("IFLA_MTU")
    return [], 0


async def _through_proxy(site: Site, config: CommandConfig, program: str, home: Namespace, destination: str) -> None:
    """Makes the tunnel's device over the client's proxy; waits until that opens connections. Raises Fall."""
    parts = urlsplit(config.proxy or "")
    outbound: dict[str, Any] = {"type": "http" if parts.scheme == "http" else "socks"}
    outbound |= {"server": parts.hostname or "", "server_port": parts.port}
    if parts.username:
        outbound |= {"username": parts.username, "password": parts.password or ""}
    said: list[str] = []
    process = await singbox.device(site, program, [outbound], heard=said.append, home=home)
    # It may listen long before it is connected itself.
    deadline = asyncio.get_running_loop().time() + (0.0 if config.ready else config.ready_within)
    while True:
        try:
            await singbox.greeted(site, process, said, destination, 443 if parts.scheme == "http" else 53)
            if outbound["type"] == "http":
                _, fallen = await singbox.names_pass(site, said, destination)
                if fallen is not None:
                    raise fallen
            break
        except Fall:
            if asyncio.get_running_loop().time() >= deadline:
                raise
            await asyncio.sleep(_EVERY)
    if outbound["type"] == "socks":
        site.carries_udp = await singbox.takes_udp(site, said, destination)


def in_own_view(home: Namespace, names: Mapping[str, str], start: Callable[[], T]) -> T:
    """Runs `start` in a thread that sees an empty /run, `home`'s devices in /sys, and in its /etc files of these names
    and texts. So does what it starts. Whatever it changes in /etc is its own, and ends with it.

    Raises what it raises; CannotMeasure where /etc can be neither covered nor copied.
    """

    def work() -> T:
        check(_libc.unshare(_CLONE_NEWNS))
        # The mask too is this thread's now: who starts here may not be root, and must read what is written here.
        os.umask(0o022)
        _cover_settings(names)
        check(_libc.mount(b"tmpfs", b"/run", b"tmpfs", _MS_NOSUID_NODEV, b"mode=0755,size=64m"))
        with home.entered():
            # As `ip netns exec` does. What stands there beside devices is the whole machine's.
            if _libc.mount(b"sysfs", b"/sys", b"sysfs", _MS_QUIET | _MS_RDONLY, None):
                check(_libc.mount(b"none", b"/sys", b"tmpfs", _MS_QUIET | _MS_RDONLY, b"size=4k"))
        return start()

    return apart(work)


def resolver_settings(resolver: str, options: str = "") -> str:
    """A resolv.conf with one resolver."""
    return f"nameserver {resolver}\n" + (f"options {options}\n" if options else "")


def _cover_settings(names: Mapping[str, str]) -> None:
    """Puts files of ours over /etc, in the calling thread's view; whoever can see that may read them.

    The folder is covered, not the files: who writes a new resolv.conf outside and renames it, as all do that write it,
    takes away what was mounted over the old one, in every view. And so a file may be missing, or a link to nowhere.
    """
    # Only for now: who keeps a mount of its own needs no name of it.
    check(_libc.mount(b"tmpfs", b"/run", b"tmpfs", _MS_NOSUID_NODEV, b"mode=0755"))
    ours, work = Path("/run/etc"), Path("/run/work")
    ours.mkdir()
    work.mkdir()
    _write(ours, names)
    # A container has some of its files mounted in there, and no cover shows what is mounted on what it covers.
    mounted = [(place, os.open(place, os.O_PATH | os.O_CLOEXEC)) for place in _mounted_below("/etc", names)]
    try:
        layers = f"lowerdir=/etc,upperdir={ours},workdir={work}"
        if _libc.mount(b"overlay", b"/etc", _OVERLAY, 0, layers.encode()):
            copied = subprocess.run(["cp", "-a", "-x", "/etc/.", ours], stdin=subprocess.DEVNULL, capture_output=True)
            if copied.returncode:
                said = copied.stderr.decode("utf-8", "replace").strip().splitlines()
                raise CannotMeasure(f"the kernel has no overlays, and /etc cannot be copied: {' '.join(said[:1])}")
            _write(ours, names)
            check(_libc.mount(os.fsencode(ours), b"/etc", None, _MS_BIND, None))
        for place, held in mounted:
            check(_libc.mount(f"/proc/thread-self/fd/{held}".encode(), os.fsencode(place), None, _MS_BIND_ALL, None))
    finally:
        for _, held in mounted:
            os.close(held)
    check(_libc.umount2(b"/run", _MNT_DETACH))


def _write(folder: Path, names: Mapping[str, str]) -> None:
    for name, text in names.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(text)


def _mounted_below(folder: str, names: Collection[str]) -> list[str]:
    """Where in a folder something is mounted, in the calling thread's view, but for these names and what stands on
    another one."""
    lines = Path("/proc/thread-self/mountinfo").read_bytes().splitlines()
    # Blanks and backslashes are written as octal numbers (proc(5)).
    fields = [re.sub(rb"\\([0-7]{3})", lambda digits: bytes([int(digits[1], 8)]), line.split()[4]) for line in lines]
    found: list[str] = []
    for place in sorted({os.fsdecode(field) for field in fields if field.startswith(f"{folder}/".encode())}):
        if place.removeprefix(f"{folder}/") not in names and not any(place.startswith(f"{one}/") for one in found):
            found.append(place)
    return found
