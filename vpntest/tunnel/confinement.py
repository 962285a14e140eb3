"""What a carrier may do: who it is, which capabilities it has, and what of the file system it sees.

A carrier speaks to servers of strangers, by configs of strangers. Should one of them take it over, it finds:

    itself alone    a user and a group of its own that nobody else has, so that no memory, file or process of another
                    tunnel is open to it; no set-uid program raises it again (no new privileges)
    few powers      only the capabilities that it was given, and no way to others: the bounding set holds no more, and
                    no namespace can be made, in which it would have them all, nor anything be mounted
    little of all   so many processes, so much room for files
    an empty root   a file system of its own: the system's programs, libraries and certificates, read-only; a /run that
                    is its folder here; six devices; a /proc that shows its own processes. No /home, no /root, no /tmp,
                    no folder of configs

The kernel keeps all but the identity for each thread. So a thread of ours enters all of it, starts the program, and
ends; the rest of this process never changes.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import secrets
import shutil
import stat
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from vpntest.tunnel.namespace import apart, check, denial

T = TypeVar("T")


@dataclass(frozen=True)
class _Machine:
    """A processor's name for itself in seccomp (linux/audit.h), and its numbers of system calls (linux/unistd.h)."""

    audit: int
    unshare: int
    clone: int
    mounting: tuple[int, ...]
    """mount, umount2, pivot_root."""


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 272, 56, (165, 166, 155)),
    "aarch64": _Machine(0xC00000B7, 97, 220, (40, 39, 41)),
}
_CLONE3 = 435
_MOUNTING = (428, 429, 430, 431, 432, 433, 442, 467)
"""open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr, open_tree_attr: alike on every processor."""
_NEW_NAMESPACES = 0x7E020000
"""Of clone and unshare what makes a namespace of any kind but of time; that is a bit of unshare's alone."""
_NEW_TIME = 0x80
_X32 = 0x40000000
"""From here on are the numbers of a second set of x86-64's, which no carrier uses."""

_Calls = dict[int, tuple[tuple[int, int], ...]]
_X86: _Calls = {0x40000003: ((54, 359),)}
_ARM: _Calls = {0x40000028: ((54, 281),)}
_CALLS: dict[str, _Calls] = {
    "x86_64": {0xC000003E: ((16, 41), (_X32 | 514, _X32 | 41)), **_X86},
    "i686": _X86,
    "aarch64": {0xC00000B7: ((29, 198),), **_ARM},
    "armv6l": _ARM,
    "armv7l": _ARM,
    "riscv64": {0xC00000F3: ((29, 198),)},
}
"""For each processor by which names, and with which numbers of ioctl and socket, its programs call the kernel, those of
32 bits among them (linux/audit.h, linux/unistd.h)."""
_TYPING = (0x5412, 0x541C)
"""TIOCSTI puts a key into a terminal as if it were pressed, and TIOCLINUX can paste into the console's
(asm-generic/ioctls.h). From 6.2 on the first can be switched off, but not for root."""
_FAMILIES = (1, 2, 10, 16, 17, 38)
"""UNIX, INET, INET6, NETLINK, PACKET and ALG (linux/socket.h). VSOCK leads to the machine's host, past any network
namespace. What 32 bits of x86 open by `socketcall` no filter can see."""

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWIPC = 0x00020000, 0x08000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC = 1, 2, 4, 8, 32, 4096, 16384
_MNT_DETACH = 2
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
"""The system call has this number on every processor (linux/syscall.tbl); libraries know it only of late."""
_CAPBSET_DROP, _SECUREBITS, _NO_NEW_PRIVS, _AMBIENT, _AMBIENT_RAISE = 24, 28, 38, 47, 2
_NO_ROOT, _NO_ROOT_LOCKED, _NO_FIXUP, _NO_FIXUP_LOCKED = 1, 2, 4, 8
"""linux/securebits.h: nobody has capabilities by being root, and a change of the user leaves them as they are."""
_CAPABILITY_VERSION = 0x20080522
_SECCOMP, _SECCOMP_FILTER = 22, 2
_PROCESSES = 1024
"""Processes and threads of one tunnel's user. A Go program under load has some dozens."""

_USERS = range(0x70000000, 0x7FFE0000)
"""Numbers that no system gives to anybody (systemd, docs/UIDS-GIDS.md: 1879048192 to 2147352575, unused)."""
_FEW_USERS = range(61184, 65520)
"""Where these are not to be had, in a container: those that are given out for a time, and not to be kept (ibidem)."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
"""Programs and libraries, as they are."""
_SETTINGS = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/pki",
    "/etc/ssl",
)
"""Of /etc what libraries and certificates need: no other program's settings, and no list of users."""
_NAMES = ("resolv.conf", "hosts", "nsswitch.conf")
"""Of /etc what leads to the carrier's own, where it was given one: the system's is nobody's business but ours."""
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "net/tun": (10, 200)}
"""Major and minor number (Linux, admin-guide/devices.txt)."""


class Capability(IntEnum):
    """Those that some carrier needs (linux/capability.h)."""

    NET_ADMIN = 12
    """To make a network device, and to give it an MTU."""
    SYS_ADMIN = 21
    """To enter a namespace."""


NEEDS: dict[str, tuple[Capability, ...]] = {
    "wireguard-go": (Capability.NET_ADMIN,),
    "amneziawg-go": (Capability.NET_ADMIN,),
    "openvpn": (Capability.NET_ADMIN,),
    "sing-box": (Capability.NET_ADMIN, Capability.SYS_ADMIN),
}
"""What each carrier has, by the name of its program. Any other has nothing."""


@dataclass(frozen=True)
class Confinement:
    """What one carrier may do."""

    user: int
    """Number of its user and of its group."""
    folder: Path
    """Its /run, the only place where it can write. Must be its user's."""
    capabilities: tuple[Capability, ...] = ()
    """All that it has, here and in every program that it starts."""
    users: int | None = None
    """A descriptor of the user namespace in which it has its capabilities, and whose root is its user; None: ours."""
    readable: tuple[Path, ...] = ()
    """Files and folders that it sees beside the system's, read-only and where they are."""


_given: deque[int] = deque(maxlen=2000)
"""Users that were given out of late: more tunnels than these never stand at once."""


def new_user() -> int:
    """The number of a user that nobody has. Random: two runs on one machine must not meet, as far as chance goes; two
    tunnels of one run never do."""
    users = _FEW_USERS
    with suppress(OSError):
        for line in Path("/proc/self/uid_map").read_text().splitlines():
            first, _, count = map(int, line.split())
            if first <= _USERS.start and first + count >= _USERS.stop:
                users = _USERS
    while (user := secrets.choice(users)) in _given:
        pass
    _given.append(user)
    return user


# ── a carrier's folder, and what it leaves there ─────────────────────────────────────────────────────────────────────

_FOLDER_SIZE = "size=64m,nr_inodes=4096"
"""Tor's directory of the public network is the most that any carrier keeps: some 30 MB."""
_FILE_BYTES = 64 << 10
_FILES = 32


def make_folder(folder: Path, user: int) -> None:
    """Makes the folder that a carrier can write: a small file system of its own, in memory, so that it cannot fill
    anybody else's. Raises OSError."""
    folder.mkdir(mode=0o700)
    _mount("none", folder, "tmpfs", _NOSUID | _NODEV | _NOEXEC, f"mode=0700,uid={user},gid={user},{_FOLDER_SIZE}")


def drop_folder(folder: Path) -> None:
    """Takes a carrier's folder away, with all that is in it. Safe to call again."""
    _libc.umount2(os.fsencode(folder), _MNT_DETACH)
    with suppress(OSError):
        folder.rmdir()


def read_owned(folder: Path, name: str, user: int) -> bytes:
    """The first 64 KiB of a file that a carrier has written: `name` below its `folder`.

    The carrier may be anybody's by now: no link is followed, nothing but a file of its own is read, and nothing is
    waited for. Raises OSError.
    """
    with _owned(folder, name, user, os.O_RDONLY | os.O_NONBLOCK, stat.S_IFREG) as file:
        return os.read(file, _FILE_BYTES)


def list_owned(folder: Path, name: str, user: int) -> list[str]:
    """Some names in a folder of a carrier's, as :func:`read_owned` finds it; in order. Raises OSError."""
    with _owned(folder, name, user, os.O_RDONLY | os.O_DIRECTORY, stat.S_IFDIR) as held, os.scandir(held) as entries:
        return sorted(entry.name for entry in itertools.islice(entries, _FILES))


@contextmanager
def owned_socket(folder: Path, name: str, user: int) -> Iterator[str]:
    """Where to connect to for a carrier's own socket, as :func:`read_owned` finds it. Raises OSError."""
    with _owned(folder, name, user, os.O_PATH, stat.S_IFSOCK) as held:
        yield f"/proc/self/fd/{held}"


@contextmanager
def _owned(folder: Path, name: str, user: int, flags: int, kind: int) -> Iterator[int]:
    """A descriptor of what a carrier has left there, if it is of that kind and its own."""
    *between, last = name.split("/")
    held = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Each step by itself: any of them may have become a link.
        steps = [(one, os.O_PATH | os.O_DIRECTORY) for one in between]
        for step, how in (*steps, (last, flags)):
            below = os.open(step, how | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
            os.close(held)
            held = below
        found = os.fstat(held)
        if stat.S_IFMT(found.st_mode) != kind or found.st_uid != user:
            raise PermissionError(errno.EPERM, "not what the carrier was to leave", name)
        yield held
    finally:
        os.close(held)


# ── where it runs ────────────────────────────────────────────────────────────────────────────────────────────────────


def confined(confinement: Confinement, root: Path, program: str, start: Callable[[str], T]) -> T:
    """Runs `start(path of the program)` in a thread that may do what `confinement` says, and no more.

    But for the user, which is changed only by whoever starts a process, by `user=` and `group=`: the C library would
    change it for every thread. With a user namespace the powers too are given up later, by :func:`inside`. `root` is an
    empty folder that becomes the new root's place. Raises FileNotFoundError where there is no such program,
    CannotMeasure where the kernel does not let us.
    """
    path = os.path.realpath(program)
    os.stat(path)
    # Where it is of no package it gets a place of its own: the one that it has may be below /tmp, which is another one
    # in there.
    place = path if path.startswith(tuple(f"{one}/" for one in _SYSTEM)) else f"/carrier/{os.path.basename(path)}"

    def work() -> T:
        check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWIPC))
        _enter_root(confinement, root, path, place)
        if confinement.users is None:
            _give_up_powers(confinement.capabilities)
        _forbid_namespaces()
        return start(place)

    try:
        return apart(work)
    except OSError as fault:
        raise denial(fault) from fault


def inside(confinement: Confinement, path: str, arguments: Sequence[str]) -> list[str]:
    """The command line that enters the user namespace, gives up all but the capabilities, and becomes the program.

    No process with threads can enter one, so that programs of util-linux must.
    """
    kept = ",".join(("-all", *(f"+{one.name.lower()}" for one in confinement.capabilities)))
    nsenter, setpriv = (shutil.which(tool, path=os.defpath) or tool for tool in ("nsenter", "setpriv"))
    enter = [nsenter, f"--user=/proc/self/fd/{confinement.users}", "--setuid", "0", "--setgid", "0", "--"]
    return [*enter, setpriv, "--no-new-privs", "--bounding-set", kept, "--", *limited([path, *arguments])]


def limited(command: Sequence[str]) -> list[str]:
    """The command line that becomes another one, with a bounded number of processes and threads for its user."""
    # To do so from here takes a capability over all limits, which root has not in every container.
    tool = shutil.which("prlimit", path=os.defpath)
    return [tool, f"--nproc={_PROCESSES}:{_PROCESSES}", "--", *command] if tool else list(command)


def _mount(source: str, target: Path | str, kind: str, flags: int, data: str = "") -> None:
    names = (source, os.fspath(target), kind)
    check(_libc.mount(*(os.fsencode(name) for name in names), ctypes.c_ulong(flags), os.fsencode(data) or None))


def _enter_root(confinement: Confinement, root: Path, program: str, place: str) -> None:
    """Makes the carrier's file system, with its program at `place`, and makes it the calling thread's."""
    # The mask too is this thread's now.
    os.umask(0o022)
    _mount("none", root, "tmpfs", _NOSUID, "mode=0755,size=1m")
    for name in (*_SYSTEM, *_SETTINGS):
        _show(root, name)
    # What a person has put there is no program's and no library's.
    if os.path.isdir(local := _below(root, "/usr/local/etc")):
        _mount("none", local, "tmpfs", _NOSUID, "mode=0755,size=4k")
    if place != program:
        _show(root, program, place)
    for extra in map(os.fspath, confinement.readable):
        if not os.path.lexists(_below(root, extra)):
            _show(root, os.path.realpath(extra))
    for folder in ("dev/net", "etc", "proc", "run", "var"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    links = [
        ("tmp", "/run"),
        ("var/run", "/run"),
        ("var/tmp", "/run"),
        *((f"etc/{one}", f"/run/{one}") for one in _NAMES),
    ]
    for link, target in links:
        if not os.path.lexists(root / link):
            (root / link).symlink_to(target)
    os.umask(0)
    for name, numbers in _DEVICES.items():
        # Our own: the system's /dev/net/tun may be root's alone.
        os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(*numbers))
    os.umask(0o022)
    attributes = (ctypes.c_uint64 * 4)(_RDONLY | _NOSUID, 0, 0, 0)
    check(_libc.syscall(_MOUNT_SETATTR, -1, os.fsencode(root), _AT_RECURSIVE, attributes, ctypes.sizeof(attributes)))
    _mount("proc", root / "proc", "proc", _RDONLY | _NOSUID | _NODEV | _NOEXEC, "hidepid=invisible,subset=pid")
    _mount(os.fspath(confinement.folder), root / "run", "none", _BIND)
    _mount("none", root / "run", "none", _REMOUNT | _BIND | _NOSUID | _NODEV | _NOEXEC)
    os.chdir(root)
    check(_libc.pivot_root(b".", b"."))
    check(_libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


def _below(root: Path, name: str) -> Path:
    return root / name.lstrip("/")


def _show(root: Path, name: str, seen_as: str = "") -> None:
    """Makes a file or folder of ours visible in the new root, where it is here or under another name; a link stays a
    link."""
    place = _below(root, seen_as or name)
    if not os.path.lexists(name) or os.path.lexists(place):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.path.islink(name):
        place.symlink_to(os.readlink(name))
        return
    if os.path.isdir(name):
        place.mkdir()
    else:
        place.touch()
    _mount(name, place, "none", _BIND | _REC)


def _give_up_powers(capabilities: tuple[Capability, ...]) -> None:
    """Keeps what it takes to become another user until the next program begins, and then only `capabilities`."""
    prctl = _libc.prctl
    zero = ctypes.c_ulong(0)
    for number in range(64):
        if number not in capabilities and prctl(_CAPBSET_DROP, ctypes.c_ulong(number), zero, zero, zero) != 0:
            break
    kept = sum(1 << number for number in capabilities)
    head, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    check(_libc.capget(head, sets))
    sets[2], sets[5] = kept & 0xFFFFFFFF, kept >> 32
    check(_libc.capset(head, sets))
    for number in capabilities:
        check(prctl(_AMBIENT, ctypes.c_ulong(_AMBIENT_RAISE), ctypes.c_ulong(number), zero, zero))
    bits = _NO_ROOT | _NO_ROOT_LOCKED | _NO_FIXUP | _NO_FIXUP_LOCKED
    check(prctl(_SECUREBITS, ctypes.c_ulong(bits), zero, zero, zero))
    check(prctl(_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero))


def _forbid_namespaces() -> None:
    """From now on the calling thread, and all that it starts, can make no namespace and mount nothing.

    Where the processor is none of :data:`_MACHINES`, or the kernel has no seccomp, nothing is forbidden.
    """
    machine = _MACHINES.get(os.uname().machine)
    if machine is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return
    steps = b"".join(_filter(machine))
    text = ctypes.create_string_buffer(steps, len(steps))
    program = _Program(len(steps) // 8, ctypes.addressof(text))
    zero = ctypes.c_ulong(0)
    failed = _libc.prctl(_SECCOMP, ctypes.c_ulong(_SECCOMP_FILTER), ctypes.byref(program), zero, zero)
    if failed and ctypes.get_errno() != errno.EINVAL:
        check(failed)


def forbids_namespaces() -> bool:
    """Whether this kernel and processor can keep a carrier from making namespaces. Tried on a thread; needs no root."""

    def work() -> bool:
        zero = ctypes.c_ulong(0)
        check(_libc.prctl(_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero))
        _forbid_namespaces()
        # `Seccomp: 2`: a filter is in force.
        return "\nSeccomp:\t2\n" in Path("/proc/thread-self/status").read_text()

    try:
        return apart(work)
    except OSError:
        return False


def guest_filter() -> bytes:
    """A filter of system calls for a person's programs; empty where we know none for this processor.

    It keeps them from typing into the terminal that they share with what goes on outside, and from sockets that belong
    to no network namespace. Whoever installs it must have CAP_SYS_ADMIN, or it is one without new privileges.
    """
    return b"".join(_guest_filter(calls)) if (calls := _CALLS.get(os.uname().machine)) else b""


class _Program(ctypes.Structure):
    """`struct sock_fprog` (linux/filter.h)."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_LOAD, _EQUAL, _GIVE = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Where the call's number, the processor and the lower half of the arguments stand (`struct seccomp_data`)."""
_PASS, _FAIL = 0x7FFF0000, 0x00050000


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _filter(machine: _Machine) -> Iterator[bytes]:
    """What the kernel asks itself before each system call (linux/seccomp.h, linux/bpf_common.h)."""
    load, equal, at_least, has, give = _LOAD, _EQUAL, 0x35, 0x45, _GIVE
    number, architecture, first = _NUMBER, _ARCHITECTURE, _FIRST
    pass_it, fail = _PASS, _FAIL
    step = _step

    yield step(load, architecture)
    yield step(equal, machine.audit, yes=1)
    yield step(give, fail | errno.ENOSYS)
    yield step(load, number)
    yield step(at_least, _X32, no=1)
    yield step(give, fail | errno.ENOSYS)
    for call in (*machine.mounting, *_MOUNTING):
        yield step(equal, call, no=1)
        yield step(give, fail | errno.EPERM)
    # Its flags stand where no filter can look. The C library takes clone where there is none.
    yield step(equal, _CLONE3, no=1)
    yield step(give, fail | errno.ENOSYS)
    for call, flags in ((machine.unshare, _NEW_NAMESPACES | _NEW_TIME), (machine.clone, _NEW_NAMESPACES)):
        yield step(equal, call, no=4)
        yield step(load, first)
        yield step(has, flags, no=1)
        yield step(give, fail | errno.EPERM)
        yield step(give, pass_it)
    yield step(give, pass_it)


def _guest_filter(kinds: _Calls) -> Iterator[bytes]:
    def look(call: int, argument: int, values: tuple[int, ...], if_one: int, otherwise: int) -> Iterator[bytes]:
        yield _step(_EQUAL, call, no=len(values) + 3)
        yield _step(_LOAD, argument)
        for place, value in enumerate(values):
            yield _step(_EQUAL, value, yes=len(values) - place)
        yield _step(_GIVE, otherwise)
        yield _step(_GIVE, if_one)

    for architecture, calls in kinds.items():
        steps = [_step(_LOAD, _NUMBER)]
        for ioctl, socket in calls:
            steps += look(ioctl, _SECOND, _TYPING, _FAIL | errno.EPERM, _PASS)
            steps += look(socket, _FIRST, _FAMILIES, _PASS, _FAIL | errno.EAFNOSUPPORT)
        yield _step(_LOAD, _ARCHITECTURE)
        yield _step(_EQUAL, architecture, no=len(steps) + 1)
        yield from steps
        yield _step(_GIVE, _PASS)
    yield _step(_GIVE, _FAIL | errno.ENOSYS)
