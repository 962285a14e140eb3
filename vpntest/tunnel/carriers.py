"""The programs that carry tunnels: which of them this box has, what they can do, and which one a tunnel gets."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from vpntest.plan import wgquick
from vpntest.plan.bridges import TRANSPORTS
from vpntest.plan.model import (
    CommandConfig,
    Config,
    Finding,
    OpenVpnConfig,
    Problem,
    ProxyConfig,
    TorConfig,
    TunnelSpec,
    WireGuardConfig,
)
from vpntest.tunnel.namespace import Namespace

KERNEL = "kernel"
_TIMEOUT = 10.0

_OPENVPN_MINIMUM = (2, 5)
"""`data-ciphers` and the management interface's `>UPDOWN` as we use them."""
_TOR_MINIMUM = (0, 4, 5)
"""Stages of the start by the names that we read, and arguments of transports as they are."""
_TUN_IN_NAMESPACE = b'{"inbounds": [{"type": "tun", "netns": "none", "address": "172.19.0.1/30", "stack": "gvisor"}]}'
"""A config that only a sing-box accepts that can make its TUN in a given namespace (1.14)."""
_TRANSPORT_PROGRAMS = ("lyrebird", "obfs4proxy", "webtunnel-client", "snowflake-client")
"""Clients of Tor's transports, the one that is kept up best first."""


@dataclass(frozen=True)
class Carrier:
    """One way of carrying tunnels on this box."""

    name: str
    """`kernel` (WireGuard in the kernel), `wireguard-go`, `amneziawg-go`, `openvpn`, `sing-box`, `tor`."""
    program: str | None
    """Its path; None for the kernel, and where it is missing."""
    version: str | None
    """As it calls itself; None where it does not say, or is missing."""
    features: tuple[str, ...]
    """What of its optional parts it has."""
    hint: str = ""
    """Why it cannot be used, and what to do about it; empty where it can."""
    helpers: tuple[tuple[str, str], ...] = ()
    """Of tor: each transport, and the path of the program that speaks it."""

    @property
    def usable(self) -> bool:
        """Whether tunnels can be given to it."""
        return not self.hint

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.version else self.name


@dataclass(frozen=True)
class Carriers:
    """What this box has."""

    rows: tuple[Carrier, ...]
    """Every carrier that we know, also those that are missing: for people to read."""

    def __getitem__(self, name: str) -> Carrier:
        return next(row for row in self.rows if row.name == name)

    def any(self) -> bool:
        """Whether some tunnel can be raised on this box at all."""
        return any(row.usable for row in self.rows)

    def choose(self, spec: TunnelSpec) -> str | Problem:
        """The name of the carrier for a tunnel, or why there is none."""
        if spec.problem is not None:
            return spec.problem
        names = _able(spec.config)
        if isinstance(spec.config, ProxyConfig):
            missing = ", ".join(
                f"with_{need}" for need in spec.config.needs if f"with_{need}" not in self["sing-box"].features
            )
            if self["sing-box"].usable and missing:
                reason = f"{spec.source}: this sing-box was built without {missing}; install one that has it"
                return Problem("unsupported", reason)
        if isinstance(spec.config, WireGuardConfig) and spec.config.amnezia is not None:
            row = self["amneziawg-go"]
            lacking = [key for key, generation in wgquick.needs(spec.config.amnezia) if generation not in row.features]
            # Of a program of which nothing is known, its own word when the tunnel is raised is waited for.
            if row.usable and row.features and lacking:
                keys = ", ".join(f"`{key}`" for key in lacking)
                reason = f"{row} does not know {keys}; install a newer one, or a config without"
                return Problem("unsupported", f"{spec.source}: {reason}")
        if isinstance(spec.config, TorConfig) and self["tor"].usable:
            if not self["sing-box"].usable:
                return Problem("unsupported", f"{spec.source}: {self['sing-box'].hint}")
            wanted = dict.fromkeys(bridge.transport for bridge in spec.config.bridges)
            if not wanted.keys() & {None, *self["tor"].features}:
                reason = f"no program here speaks {' or '.join(map(str, wanted))}; install lyrebird, which does"
                return Problem("unsupported", f"{spec.source}: {reason}")
        for name in names:
            if self[name].usable:
                return name
        return Problem("unsupported", f"{spec.source}: {self[names[-1]].hint}")

    def left_out(self, config: Config | None) -> tuple[Finding, ...]:
        """What of a config that can be raised nobody here can try: Tor's bridges whose transport has no program."""
        row = self["tor"]
        if not isinstance(config, TorConfig) or not row.usable:
            return ()
        lost = [one.transport for one in config.bridges if one.transport not in (None, *row.features)]
        if not lost:
            return ()
        names = " or ".join(map(str, dict.fromkeys(lost)))
        count = f"{len(lost)} of {len(config.bridges)} bridges"
        said = f"{count} not tried: no program here speaks {names}; install one that does"
        return (Finding("warning", said),)

    def absent(self, spec: TunnelSpec) -> bool:
        """Whether this box has none of the programs that could carry a tunnel, so that nothing is known of them."""
        return not any(self[name].usable for name in _able(spec.config))


def _able(config: Config | None) -> tuple[str, ...]:
    """The carriers of a config, the best first."""
    match config:
        case WireGuardConfig(amnezia=None):
            return (KERNEL, "wireguard-go")
        case WireGuardConfig():
            return ("amneziawg-go",)
        case OpenVpnConfig():
            return ("openvpn",)
        case ProxyConfig() | CommandConfig():
            return ("sing-box",)
        case TorConfig():
            return ("tor",)
        case None:
            raise ValueError("a tunnel without a config has a problem")
        case _ as never:
            assert_never(never)


def path_of_programs() -> str:
    """The environment's PATH, with the folders that only root's has on some systems."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def find(path: str | None = None) -> Carriers:
    """Looks for every carrier on `path` (by default :func:`path_of_programs`) and asks each what it is.

    Never raises because one is missing, broken or old: its row says so.
    """
    finders = (_kernel, _wireguard_go, _amneziawg_go, _openvpn, _sing_box, _tor)
    with ThreadPoolExecutor(len(finders)) as pool:
        return Carriers(tuple(pool.map(lambda look: look(path or path_of_programs()), finders)))


def answer(
    argv: Sequence[str],
    stdin: bytes = b"",
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    within: float = _TIMEOUT,
) -> tuple[int, str]:
    """Runs a short program. Returns its exit status and what it has said, errors included.

    What does not end `within` so many seconds is killed, with all that it has started; the status is -1 then, as it is
    of what cannot be started at all.
    """
    pipe = subprocess.PIPE
    try:
        # A group of its own: what hangs is often what a script has called, and not the script.
        popen = subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env=env, cwd=cwd, start_new_session=True
        )
    except OSError:
        return -1, ""
    try:
        said, status = popen.communicate(stdin, within)[0], popen.returncode
    except subprocess.TimeoutExpired as late:
        said, status = late.output or b"", -1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        # What waits for itself in the kernel is not gone at once, and is not waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(1)
        for end in (popen.stdin, popen.stdout):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.close()
    return status, said.decode("utf-8", "replace")


def _kernel(path: str | None) -> Carrier:
    del path
    try:
        from pyroute2 import IPRoute, NetlinkError
    except ImportError:
        return Carrier(KERNEL, None, None, (), "Python's pyroute2 is missing; install what vpntest asks for")
    try:
        scratch = Namespace.create()
    except OSError:
        return Carrier(KERNEL, None, None, (), "WireGuard in the kernel can be tried by root only; run with sudo")
    try:
        with scratch.entered(), IPRoute() as ip:
            ip.link("add", ifname="probe", kind="wireguard")
    except NetlinkError:
        return Carrier(KERNEL, None, None, (), "this kernel has no WireGuard; wireguard-go serves as well")
    finally:
        scratch.close()
    return Carrier(KERNEL, None, None, ())


def _userspace(name: str, path: str | None, install: str) -> Carrier:
    program = shutil.which(name, path=path)
    if program is None:
        return Carrier(name, None, None, (), f"{name} is not installed; {install}")
    status, said = answer([program, "--version"])
    if status != 0:
        return Carrier(name, program, None, (), f"{program} does not run; {install}")
    version = re.search(r"\bv?(\d+\.\d+\.\S+)", said)
    return Carrier(name, program, version[1] if version else None, ())


def _wireguard_go(path: str | None) -> Carrier:
    return _userspace("wireguard-go", path, "apt install wireguard-go")


_AMNEZIA_GENERATIONS = {
    "awg1": rb"jc=%d",
    "awg1.5": rb"i%d=%s|failed to parse [Ii]1\b",
    "awg1.5-junk": rb"\bitime=%d",
    "awg2": rb"s3=%d",
    "awg3": rb"header_protection_key",
}
"""What stands in the program for each generation of AmneziaWG whose keys it takes (amneziawg-go, device/uapi.go)."""
_AMNEZIA_MODULE = re.compile(rb"github\.com/amnezia-vpn/amneziawg-go\tv(\d[\w.+-]*)")
"""As Go writes it into what it builds; the program itself says 0.0.20250522 in every version."""


def _amneziawg_go(path: str | None) -> Carrier:
    found = _userspace("amneziawg-go", path, "build github.com/amnezia-vpn/amneziawg-go and put it on PATH")
    if found.program is None or not found.usable:
        return found
    # Without a device, and so without root, it cannot be asked what it knows. Where nothing is found, the program is
    # another one than we know: what it takes it then says key by key, when a tunnel is raised.
    try:
        code = Path(found.program).read_bytes()
    except OSError:
        return found
    features = tuple(name for name, mark in _AMNEZIA_GENERATIONS.items() if re.search(mark, code))
    module = _AMNEZIA_MODULE.search(code)
    return replace(found, version=module[1].decode() if module else found.version, features=features)


def _openvpn(path: str | None) -> Carrier:
    name, install = "openvpn", "apt install openvpn"
    program = shutil.which(name, path=path)
    if program is None:
        return Carrier(name, None, None, (), f"openvpn is not installed; {install}")
    said = answer([program, "--version"])[1]
    version = re.match(r"OpenVPN (\d+)\.(\d+)\S*", said)
    if version is None:
        return Carrier(name, program, None, (), f"{program} does not run; {install}")
    features = tuple(re.findall(r"\[([^\]]+)\]", said.splitlines()[0]))
    text = version[0].removeprefix("OpenVPN ")
    if (int(version[1]), int(version[2])) < _OPENVPN_MINIMUM:
        return Carrier(name, program, text, features, f"openvpn {text} is too old, 2.5 is needed; {install}")
    return Carrier(name, program, text, features)


def _sing_box(path: str | None) -> Carrier:
    name, install = "sing-box", "install sing-box 1.14 or newer, built with_gvisor, with_quic and with_utls"
    program = shutil.which(name, path=path)
    if program is None:
        return Carrier(name, None, None, (), f"sing-box is not installed; {install}")
    status, said = answer([program, "version"])
    if status != 0:
        return Carrier(name, program, None, (), f"{program} does not run; {install}")
    version = re.match(r"sing-box version (\d\S*)", said)
    tags = re.search(r"^Tags: (\S+)", said, re.MULTILINE)
    carrier = Carrier(name, program, version[1] if version else None, tuple(tags[1].split(",")) if tags else ())
    if "with_gvisor" not in carrier.features:
        return Carrier(
            name, program, carrier.version, carrier.features, f"this sing-box was built without with_gvisor; {install}"
        )
    if answer([program, "check", "-c", "stdin"], _TUN_IN_NAMESPACE)[0] != 0:
        return Carrier(name, program, carrier.version, carrier.features, f"this sing-box is too old; {install}")
    return carrier


def _tor(path: str | None) -> Carrier:
    name, install = "tor", "apt-get install tor obfs4proxy snowflake-client"
    program = shutil.which(name, path=path)
    if program is None:
        return Carrier(name, None, None, (), f"tor is not installed; {install}")
    status, said = answer([program, "--version"])
    version = re.match(r"Tor version (\d+\.\d+\.\d+\.\d+\S*?)\.?\s", said)
    if status != 0 or version is None:
        return Carrier(name, program, None, (), f"{program} does not run; {install}")
    if tuple(map(int, version[1].split(".")[:3])) < _TOR_MINIMUM:
        return Carrier(name, program, version[1], (), f"tor {version[1]} is too old; {install}")
    there = [found for candidate in _TRANSPORT_PROGRAMS if (found := shutil.which(candidate, path=path))]
    helpers: dict[str, str] = {}
    with ThreadPoolExecutor(max(len(there), 1)) as pool:
        for found, transports in zip(there, pool.map(_spoken, there), strict=True):
            for transport in transports:
                helpers.setdefault(transport, found)
    return Carrier(name, program, version[1], tuple(helpers), helpers=tuple(helpers.items()))


def _spoken(program: str) -> list[str]:
    """The transports that a program offers when tor's protocol for such programs asks it (pt-spec, 3.3.2)."""
    try:
        with tempfile.TemporaryDirectory(prefix="vpntest-") as state:
            _, said = answer(
                [program],
                env={
                    "TOR_PT_MANAGED_TRANSPORT_VER": "1",
                    "TOR_PT_CLIENT_TRANSPORTS": ",".join(TRANSPORTS),
                    "TOR_PT_STATE_LOCATION": state,
                    "TOR_PT_EXIT_ON_STDIN_CLOSE": "1",
                },
            )
    except OSError:
        # No room for files: it would not serve either.
        return []
    return re.findall(r"^CMETHOD (\w+) socks5 ", said, re.MULTILINE)
