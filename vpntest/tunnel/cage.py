"""Where carriers live: nothing that is started or written in a cage outlives its owner.

    owner (vpntest) ──pipe──▶ init of a PID namespace          the owner dies, however it dies
        │                        ├── carrier                    ⇒ the pipe closes ⇒ init ends
        │                        └── carrier                    ⇒ the kernel kills every carrier
        └── private mount namespace: /run is a tmpfs of our own ⇒ unmounted with its last process

A PID namespace holds also what a carrier forks behind our back, which a parent-death signal on the carrier alone would
miss. The private /run keeps control sockets and key material off the disk, keeps two runs from meeting in
/run/wireguard, and hides the host's D-Bus and resolvconf from carriers that would edit them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import functools
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from vpntest.tunnel.confinement import Confinement, confined, inside, limited
from vpntest.tunnel.namespace import Namespace, check, denial

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_MS_NOSUID_NODEV = 2 | 4
_MS_REC_PRIVATE = 0x4000 | 0x40000

MAX_LINE = 1 << 20
"""Bytes of a line of a carrier's output that are read; the rest of the world's longest logs is of no use."""
STOP_GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL: OpenVPN tells its server goodbye in that time; the others end at once."""
DEATH = 10.0
"""Seconds that all in a cage may take to be gone once it was killed. The kernel needs far less; where it waits for
itself, as within a driver that hangs, waiting with it would only take the run's results along."""


@functools.cache
def _make_run_private() -> None:
    """Gives the calling thread, and all that it starts from now on, a /run of its own. Once for each process.

    Raises OSError where the kernel does not let us.
    """
    check(_libc.unshare(_CLONE_NEWNS))
    check(_libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None))
    check(_libc.mount(b"tmpfs", b"/run", b"tmpfs", _MS_NOSUID_NODEV, b"mode=0755,size=256m"))


async def lines_of(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """What a program says, a line at a time, until it ends; a line over the reader's limit is left out, as a whole."""
    fits = True
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as over:
            await reader.readexactly(over.consumed)
            fits = False
            continue
        except asyncio.IncompleteReadError as end:
            line = end.partial
            if not line:
                return
        if fits:
            yield line.decode("utf-8", "replace").rstrip("\r\n")
        fits = True


class Process:
    """One program in a cage."""

    def __init__(self, popen: subprocess.Popen[bytes], argv: Sequence[str]) -> None:
        self._popen = popen
        self.program = Path(argv[0]).name
        """Its name, for messages."""

    @property
    def pid(self) -> int:
        """As this process sees it."""
        return self._popen.pid

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    async def lines(self) -> AsyncIterator[str]:
        """Its output, standard error included, a line at a time, until it ends. For one reader.

        A line of more than :data:`MAX_LINE` bytes is left out.
        """
        assert self._popen.stdout is not None
        reader = asyncio.StreamReader(limit=MAX_LINE)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._popen.stdout)
        try:
            async for line in lines_of(reader):
                yield line
        finally:
            transport.close()

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        loop = asyncio.get_running_loop()
        if self._popen.poll() is None:
            # A descriptor for each waiter: the loop knows one reader of each. The number cannot be another's yet, for
            # only `poll` gives it back.
            watch = os.pidfd_open(self._popen.pid)
            ended = loop.create_future()
            loop.add_reader(watch, _finish, ended)
            try:
                await ended
            finally:
                loop.remove_reader(watch)
                os.close(watch)
        return self._popen.wait()

    async def stop(self) -> None:
        """Ends it: asks, waits :data:`STOP_GRACE` seconds, then kills. Safe to call again."""
        for order in (signal.SIGTERM, signal.SIGKILL):
            if self._popen.poll() is not None:
                break
            self._popen.send_signal(order)
            try:
                await asyncio.wait_for(self.wait(), STOP_GRACE)
            except TimeoutError:
                continue


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


class Cage:
    """A private PID and mount namespace for carriers. Open it from the main thread, before any other is started."""

    def __init__(self, directory: Path, init: subprocess.Popen[bytes], lifeline: int, inner: int, outer: int) -> None:
        self.directory = directory
        """Private scratch space, mode 0700, in memory, gone with the cage."""
        self._root = directory.with_name(f"{directory.name}-root")
        self._root.mkdir(mode=0o700)
        self._init = init
        self._lifeline = lifeline
        self._inner = inner
        self._outer = outer
        self._spawned: list[subprocess.Popen[bytes]] = []

    @classmethod
    def open(cls, netns: Namespace | None = None) -> Cage:
        """A new one. The calling process keeps its view of the file system, but for /run, which becomes an empty tmpfs.

        Its init is in the network namespace, or where we are: whoever sees that process, as all do who have the cage's
        own /proc, can read the addresses that its network has, and root can enter it.

        Raises CannotMeasure where this system does not let us: without root, in a container, in a chroot.
        """
        with contextlib.ExitStack() as undo:
            try:
                outer = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
                undo.callback(os.close, outer)
                _make_run_private()
                # Neither we nor a carrier may leave on the disk what was in memory: keys and passwords.
                resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
                directory = Path(tempfile.mkdtemp(prefix="vpntest-", dir="/run"))
                undo.callback(shutil.rmtree, directory, ignore_errors=True)
                reading, lifeline = os.pipe2(os.O_CLOEXEC)
                undo.callback(os.close, lifeline)
                try:
                    check(_libc.unshare(_CLONE_NEWPID))
                    try:
                        # `cat` ends when the pipe's only writer, this process, is gone. As PID 1 it takes all the
                        # others with it.
                        with netns.entered() if netns else contextlib.nullcontext():
                            init = subprocess.Popen(
                                ["cat"], stdin=reading, stdout=subprocess.DEVNULL, start_new_session=True
                            )
                    finally:
                        check(_libc.setns(outer, _CLONE_NEWPID))
                finally:
                    os.close(reading)
                inner = os.open(f"/proc/{init.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as exc:
                raise denial(exc) from exc
            undo.pop_all()
        return cls(directory, init, lifeline, inner, outer)

    def spawn(
        self,
        argv: Sequence[str],
        netns: Namespace,
        *,
        pass_fds: Sequence[int] = (),
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        confinement: Confinement | None = None,
        terminal: bool = False,
    ) -> Process:
        """Starts a program in the cage and in a network namespace. Its output is read through :meth:`Process.lines`;
        with `terminal` it has our own input, outputs and session instead.

        `argv` must hold no secret: it stands in the process list. Without a `confinement` the program is root and sees
        what we see; with one its folder is `/`. Raises FileNotFoundError where there is no such program, CannotMeasure
        where the kernel does not let us confine it.
        """
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"} if env is None else env

        def start(path: str | None = None) -> subprocess.Popen[bytes]:
            user, command, descriptors = None, list(argv), list(pass_fds)
            if confinement is not None and confinement.users is not None:
                assert path is not None
                command = inside(confinement, path, argv[1:])
                descriptors.append(confinement.users)
            elif confinement is not None:
                assert path is not None
                command, user = limited([path, *argv[1:]]), confinement.user
            with netns.entered():
                check(_libc.setns(self._inner, _CLONE_NEWPID))
                try:
                    popen = subprocess.Popen(
                        command,
                        stdin=None if terminal else stdin,
                        stdout=None if terminal else subprocess.PIPE,
                        stderr=None if terminal else subprocess.STDOUT,
                        pass_fds=descriptors,
                        env=environment,
                        cwd=(cwd or self.directory) if confinement is None else "/",
                        user=user,
                        group=user,
                        extra_groups=None if user is None else (),
                        # Ctrl-C is for us: we take the tunnels down in order.
                        start_new_session=not terminal,
                    )
                    # At once, whatever fails from here on: what nobody reaps keeps the cage from closing.
                    self._spawned.append(popen)
                    return popen
                finally:
                    check(_libc.setns(self._outer, _CLONE_NEWPID))

        if confinement is None:
            popen = start()
        else:
            program = shutil.which(argv[0], path=environment.get("PATH"))
            if program is None:
                raise FileNotFoundError(errno.ENOENT, "no such program", argv[0])
            popen = confined(confinement, self._root, program, start)
        return Process(popen, argv)

    def has_orphans(self) -> bool:
        """Whether something goes on in it whose starter has ended, as what has put itself into the background does."""
        init = self._init.pid
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{init}/task/{init}/children").read_text().split():
                # Whoever has ended stays listed: nobody in there asks how.
                if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    return True
        return False

    def close(self) -> None:
        """Kills whatever is left in it. Safe to call again.

        Warns (RuntimeWarning) where it is not gone within :data:`DEATH` seconds; the kernel goes on killing it.
        """
        if self._lifeline < 0:
            return
        os.close(self._lifeline)
        self._lifeline = -1
        self._init.kill()
        # The dying init waits in the kernel for each of its namespace; those whose parent we are, only we can reap.
        deadline = time.monotonic() + DEATH
        left = 0
        for popen in (*self._spawned, self._init):
            try:
                popen.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                left += 1
            if popen.stdout is not None:
                popen.stdout.close()
        os.close(self._inner)
        os.close(self._outer)
        shutil.rmtree(self.directory, ignore_errors=True)
        self._root.rmdir()
        if left:
            warnings.warn(f"{left} of our processes are killed and not gone after {DEATH:g} s", RuntimeWarning, 2)
