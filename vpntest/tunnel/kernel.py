"""What this kernel lets us do, each thing really tried, and what this process may do at all.

The tries are made by a process of their own, in namespaces of its own: nothing of them is left, and the kernel may hang
in one of them without us. To try a thing may make the kernel load a module for it, as its use would.

    vpntest ──▶ python -m vpntest.tunnel.kernel ──▶ a line of JSON for each thing
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import resource
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from vpntest.errors import CannotMeasure
from vpntest.tunnel import carriers
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.confinement import (
    Capability,
    Confinement,
    drop_folder,
    forbids_namespaces,
    make_folder,
    new_user,
)
from vpntest.tunnel.namespace import Namespace, denial

PATIENCE = 20.0
"""Seconds for all tries together; an idle machine needs 0.3."""
_ABOVE_US = Path(__file__).parents[2]

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
"""linux/if_tun.h."""

CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
}
"""What root needs of its powers: namespaces, mounts, devices, pings; users of their own for the carriers, and an end
for what runs as these (linux/capability.h)."""
_CONTAINERS = {".dockerenv": "docker", "run/.containerenv": "podman"}


class Tried(Struct, frozen=True, omit_defaults=True):
    """One thing that was tried."""

    id: str
    works: bool | None
    """None: it is not known, because only root can try it, or because nothing came back."""
    said: str = ""
    """Why not, in words for people; or what was found."""
    needs: tuple[str, ...] = ()
    """The ids of what it needs, each of which is tried by itself."""


FEATURES = ("netns", "ipv6", "tun", "seccomp", "cage", "confinement", "userns")
"""The ids of :func:`tries`."""


def tries() -> dict[str, Tried]:
    """Each of :data:`FEATURES`, tried. Never raises."""
    found = asked("vpntest.tunnel.kernel", PATIENCE)
    return {name: found.get(name, Tried(name, None)) for name in FEATURES}


def asked(module: str, patience: float) -> dict[str, Tried]:
    """What a module of ours that tries things has said, by id; as much of it as came within `patience` seconds."""
    _, said = carriers.answer([sys.executable, "-m", module], cwd=_ABOVE_US, within=patience)
    found: dict[str, Tried] = {}
    for line in said.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            one = msgspec.json.decode(line, type=Tried)
            found[one.id] = one
    return found


def tell(tried: Iterator[Tried]) -> None:
    """Says on stdout what was tried, each as soon as it is known, for :func:`asked`."""
    for one in tried:
        sys.stdout.write(msgspec.json.encode(one).decode() + "\n")
        sys.stdout.flush()


_CAGED = ("confinement", "userns")
_NO_CAGE = "it cannot be tried without PID and mount namespaces"


# ── the tries ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tries() -> Iterator[Tried]:
    yield Tried("seccomp", forbids_namespaces())
    try:
        scratch = Namespace.create()
    except OSError as exc:
        yield from _without_namespaces(exc)
        return
    with contextlib.closing(scratch):
        yield Tried("netns", True)
        yield _tried("ipv6", lambda: _make_ipv6(scratch))
        yield _tried("tun", lambda: _make_tun(scratch))
    # The last: from here on this process has another /run.
    try:
        cage = Cage.open()
    except CannotMeasure as exc:
        yield Tried("cage", False, str(exc))
        yield from (Tried(name, None, _NO_CAGE) for name in _CAGED)
        return
    with contextlib.closing(cage):
        yield Tried("cage", True)
        yield from asyncio.run(_confine(cage))


def _without_namespaces(fault: OSError) -> Iterator[Tried]:
    """What can be said where there are none, as for everybody but root."""
    if os.geteuid() == 0:
        yield Tried("netns", False, str(denial(fault)))
        yield Tried("cage", False, str(denial(fault)))
        yield from (Tried(name, None, _NO_CAGE) for name in _CAGED)
    else:
        yield from (Tried(name, None) for name in ("netns", "cage", *_CAGED))
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        yield Tried("tun", None if exc.errno == errno.EACCES else False, _why_no_tun(exc))
    else:
        yield Tried("tun", None)
    yield Tried("ipv6", None if Path("/proc/net/if_inet6").exists() else False, "")


def _tried(name: str, job: Callable[[], None]) -> Tried:
    try:
        job()
    except OSError as exc:
        return Tried(name, False, _why_no_tun(exc) if name == "tun" else f"the kernel refuses it ({exc.strerror})")
    return Tried(name, True)


def _why_no_tun(fault: OSError) -> str:
    if fault.errno == errno.ENOENT:
        return "there is no /dev/net/tun"
    if fault.errno in (errno.ENODEV, errno.ENXIO):
        return "the kernel has no TUN devices"
    return f"/dev/net/tun cannot be used ({fault.strerror})"


def _make_tun(scratch: Namespace) -> None:
    with scratch.entered(), open("/dev/net/tun", "r+b", buffering=0) as device:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"probe", _IFF_TUN_NO_PI))


def _make_ipv6(scratch: Namespace) -> None:
    from pyroute2 import IPRoute, NetlinkError

    try:
        with scratch.entered(), IPRoute() as ip:
            ip.addr("add", index=1, address="fd00::1", prefixlen=128)
    except NetlinkError as exc:
        raise OSError(exc.code, os.strerror(exc.code)) from exc


async def _confine(cage: Cage) -> list[Tried]:
    """Programs are started as carriers are: over the underlay, and within a namespace of their user's."""
    user = new_user()
    folder = cage.directory / "try"
    found = []
    try:
        make_folder(folder, user)
        why = await _runs(cage, Namespace.current(), Confinement(user, folder, (Capability.NET_ADMIN,)), ["true"])
        if not why and os.path.exists("/dev/net/tun"):
            opens = ["sh", "-c", ": <>/dev/net/tun"]
            if no := await _runs(cage, Namespace.current(), Confinement(user, folder, (Capability.NET_ADMIN,)), opens):
                found.append(Tried("tun", False, f"a confined carrier cannot open /dev/net/tun ({no})"))
        found.append(Tried("confinement", not why, why))
        scratch = Namespace.create(user)
    except (OSError, CannotMeasure) as exc:
        return [*found, Tried("confinement", False, str(exc))]
    else:
        with contextlib.closing(scratch):
            users = scratch.users()
            if users is None:
                return [*found, Tried("userns", False, "the system gives none")]
            powers = (Capability.NET_ADMIN, Capability.SYS_ADMIN)
            why = await _runs(cage, scratch, Confinement(user, folder, powers, users), ["true"])
            os.close(users)
            return [*found, Tried("userns", not why, why)]
    finally:
        drop_folder(folder)


async def _runs(cage: Cage, netns: Namespace, confined: Confinement, argv: Sequence[str]) -> str:
    """Why a program does not run so; empty where it does."""
    try:
        process = cage.spawn(argv, netns, confinement=confined)
        said = [line async for line in process.lines()]
        status = await process.wait()
    except (OSError, CannotMeasure) as exc:
        return str(exc)
    return "" if status == 0 else " / ".join(said[-2:]) or f"{argv[0]} ends with {status}"


# ── what needs no try ────────────────────────────────────────────────────────────────────────────────────────────────


def lacking_capabilities() -> tuple[str, ...]:
    """Of :data:`CAPABILITIES` those that this process does not have, or may not hand on (its bounding set)."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap")
    )
    had = int(status["CapEff"], 16) & int(status["CapBnd"], 16)
    return tuple(name for name, number in CAPABILITIES.items() if not had >> number & 1)


def container(root: Path = Path("/")) -> str | None:
    """What kind of container this process is in, as far as it can be told; None outside, or where it is not known."""
    for sign, kind in _CONTAINERS.items():
        if (root / sign).exists():
            return kind
    with contextlib.suppress(OSError):
        # systemd writes it for everybody to read (systemd, CONTAINER_INTERFACE).
        return (root / "run/systemd/container").read_text().strip() or None
    return None


def most_descriptors() -> int:
    """How many files and sockets this process may have open once it has raised its limit; -1: as many as it likes."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


if __name__ == "__main__":
    tell(_tries())
