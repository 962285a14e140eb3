"""Network namespaces without names: made by a thread, kept by a file descriptor, gone with the process."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vpntest.errors import CannotMeasure

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
_NS_GET_USERNS = 0xB701
"""linux/nsfs.h."""

_SHORTAGES = {
    errno.EMFILE: "file descriptors; raise the limit (ulimit -n)",
    errno.ENFILE: "file descriptors; raise fs.file-max",
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory for the network",
    errno.ENOSPC: "room for files; the private /run is in memory, or a limit of the kernel's is reached",
    errno.EDQUOT: "room for files, by a quota",
    errno.EAGAIN: "processes or ports; raise the limit (ulimit -u, pids.max), or wait",
}
"""What a call of ours runs short of on this box, and what to do: never the network's doing."""


def check(result: int) -> None:
    """Raises OSError with the C library's errno where a call of it failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def apart(work: Callable[[], T]) -> T:
    """What `work` gives or raises, run in a thread of its own: whatever it enters, no other code is moved."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def shortage(fault: BaseException | None) -> CannotMeasure | None:
    """The error to raise where this box ran out of something, itself or as the cause of `fault`; None otherwise."""
    while fault is not None:
        if isinstance(fault, OSError) and fault.errno in _SHORTAGES:
            return CannotMeasure(f"this box is out of {_SHORTAGES[fault.errno]}")
        fault = fault.__cause__
    return None


def denial(fault: OSError) -> CannotMeasure:
    """The error to raise where the kernel gave no namespace, or nothing could be mounted in one."""
    if fault.errno != errno.ENOSPC and (lack := shortage(fault)):
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


def _owned_by(user: int) -> int | None:
    """A network namespace in a user namespace whose root and owner is `user`; None where there is none to be had."""
    # A program must make it: no process with threads may. Whoever makes it owns it, with all power over it; so that is
    # the user, and not root, who other programs of this machine are too. Where a system lets nobody but root make one,
    # it takes root's capability.
    tools = [shutil.which(tool, path=os.defpath) for tool in ("setpriv", "unshare")]
    if None in tools:
        return None
    setpriv, unshare = map(str, tools)
    kept = ["--inh-caps", "-all,+sys_admin", "--ambient-caps", "-all,+sys_admin"]
    become = [setpriv, "--reuid", str(user), "--regid", str(user), "--clear-groups", *kept, "--"]
    with subprocess.Popen(
        [*become, unshare, "--user", "--net", "cat"],
        # What were left in a buffer would meet a helper that is gone once more, as it is closed.
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        try:
            # What comes back shows that it is in there.
            helper.stdin.write(b"\n")
            helper.stdin.flush()
            if helper.stdout.read(1):
                for kind in ("uid_map", "gid_map"):
                    Path(f"/proc/{helper.pid}/{kind}").write_text(f"0 {user} 1")
                return os.open(f"/proc/{helper.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in _SHORTAGES:
                raise
        return None


class Namespace:
    """A network namespace, held open. Closing the last holder lets the kernel take it down with all that is in it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def create(cls, user: int | None = None) -> Namespace:
        """A new, empty, anonymous one. Raises OSError (EPERM without root).

        With `user` it belongs to a new user namespace, whose root is that user: whoever enters this has power over the
        network namespace, and over nothing else. Where the system gives no user namespaces, it is one without.
        """
        if user is not None and (owned := _owned_by(user)) is not None:
            return cls(owned)

        def unshare() -> Namespace:
            check(_libc.unshare(CLONE_NEWNET))
            return cls.current()

        return apart(unshare)

    @classmethod
    def current(cls) -> Namespace:
        """The one that the calling thread is in."""
        return cls(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    def users(self) -> int | None:
        """A descriptor of the user namespace that it belongs to; None where that is our own. To be closed."""
        owner = fcntl.ioctl(self._fd, _NS_GET_USERNS)
        if os.fstat(owner).st_ino != os.stat("/proc/self/ns/user").st_ino:
            return owner
        os.close(owner)
        return None

    def fileno(self) -> int:
        """The descriptor that keeps it."""
        return self._fd

    def claim(self, waits: Callable[[str], None]) -> None:
        """Has it among runs for this object alone, until it is closed or the process ends, however that ends.

        Two runs over one line would slow each other down, and each would take the other for a censor. So where another
        run has it, `waits` is told who, and then this waits, as long as that lasts. Who is not root measures nothing,
        and is not waited for.
        """
        try:
            # The lock of the namespace itself: no file that is left, and no other line's runs are in the way.
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self._holder()
                if holder is None or os.stat(f"/proc/{holder}").st_uid == 0:
                    waits("a process that is not seen from here" if holder is None else f"process {holder}")
                    fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError:
            # A kernel that knows no locks of namespaces is no reason not to measure.
            return

    def _holder(self) -> str | None:
        holder = f":{os.fstat(self._fd).st_ino} "
        locks = Path("/proc/locks").read_text().splitlines()
        # Another container's process is not seen from here, and one that waits is no holder ("->").
        pids = [line.split()[4] for line in locks if " FLOCK " in line and holder in line and "->" not in line]
        return pids[0] if pids else None

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
