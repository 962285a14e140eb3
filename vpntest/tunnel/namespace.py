"""Network namespaces without names: made by a thread, kept by a file descriptor, gone with the process."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vpntest.errors import CannotMeasure

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000

_SHORTAGES = {
    errno.EMFILE: "file descriptors; raise the limit (ulimit -n)",
    errno.ENFILE: "file descriptors; raise fs.file-max",
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory for the network",
    errno.EAGAIN: "processes or ports; raise the limit (ulimit -u, pids.max), or wait",
}
"""What a call of ours runs short of on this box, and what to do: never the network's doing."""


def check(result: int) -> None:
    """Raises OSError with the C library's errno where a call of it failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def shortage(fault: BaseException | None) -> CannotMeasure | None:
    """The error to raise where this box ran out of something, itself or as the cause of `fault`; None otherwise."""
    while fault is not None:
        if isinstance(fault, OSError) and fault.errno in _SHORTAGES:
            return CannotMeasure(f"this box is out of {_SHORTAGES[fault.errno]}")
        fault = fault.__cause__
    return None


def denial(fault: OSError) -> CannotMeasure:
    """The error to raise where the kernel gave no namespace, or nothing could be mounted in one."""
    if lack := shortage(fault):
        return lack
    if fault.errno == errno.EPERM and os.geteuid() != 0:
        return CannotMeasure("tunnels need root (network, mount and PID namespaces); run it with sudo")
    if fault.errno in (errno.EPERM, errno.EACCES):
        return CannotMeasure(
            "this root may not make namespaces and mount in them: in a container it needs the capabilities"
            " CAP_SYS_ADMIN and CAP_NET_ADMIN, and a seccomp or AppArmor profile that lets it use them"
        )
    if fault.errno == errno.ENOSPC:
        return CannotMeasure(
            "this system allows no more namespaces; raise max_net_namespaces, max_mnt_namespaces and"
            " max_pid_namespaces in /proc/sys/user"
        )
    if fault.errno == errno.EINVAL:
        return CannotMeasure(
            "no private /run can be mounted: the root folder is no mount point, as in a chroot, or the kernel has no"
            " such namespaces"
        )
    return CannotMeasure(f"this system gives no namespaces: {fault.strerror}")


class Namespace:
    """A network namespace, held open. Closing the last holder lets the kernel take it down with all that is in it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def create(cls) -> Namespace:
        """A new, empty, anonymous one. Raises OSError (EPERM without root)."""
        made: list[int | OSError] = []

        def unshare() -> None:
            try:
                check(_libc.unshare(CLONE_NEWNET))
                made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            except OSError as exc:
                made.append(exc)

        # A thread of its own, so that no other code of this process is ever moved.
        thread = threading.Thread(target=unshare)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return cls(made[0])

    @classmethod
    def current(cls) -> Namespace:
        """The one that the calling thread is in."""
        return cls(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    def fileno(self) -> int:
        """The descriptor that keeps it."""
        return self._fd

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside for the body. The body must not await: the whole thread is moved."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            check(_libc.setns(self._fd, CLONE_NEWNET))
            try:
                yield
            finally:
                check(_libc.setns(home, CLONE_NEWNET))
        finally:
            os.close(home)

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind, proto: int = 0) -> socket.socket:
        """A socket that belongs to this namespace for life, wherever its user runs."""
        with self.entered():
            return socket.socket(family, kind, proto)

    def close(self) -> None:
        """Lets go of it. Safe to call again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
