"""A shell, or one command, inside a raised tunnel: what it sends goes through the tunnel or nowhere.

    vpntest ── raises the tunnel, waits, says when it dies
       └─ in a cage of its own: a launcher, root for a moment ─becomes─▶ the shell, as the person who called sudo
            network     the tunnel's namespace: `lo` and its device, nothing else
            processes   the cage's: with us ends whatever was started in there, however we end
            files       the person's own, but for /run and /tmp, which are empty: this machine's resolvers, buses and
                        agents have their sockets there, and would act outside for whoever asks them
            names       /etc/resolv.conf is the tunnel's resolver, and the hosts line of nsswitch.conf `files dns`, in
                        an /etc that nobody else changes, and whose changes end with it
            calls       no key can be typed for who is outside, and no socket past the namespace of networks be made

A terminal is lent to the shell as a shell lends it to a job: its keys are the shell's, and when that stops, so do we.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import signal
import socket
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpntest.errors import CannotMeasure, UsageError
from vpntest.plan.model import Settings, TunnelSpec
from vpntest.probe.connection import Trust
from vpntest.probe.exits import ask_exit
from vpntest.probe.observation import Address, Observation
from vpntest.probe.patience import side_by_side, within
from vpntest.probe.transaction import Bench, Notebook
from vpntest.tunnel import netlink
from vpntest.tunnel.cage import STOP_GRACE, Cage, Process
from vpntest.tunnel.carriers import find
from vpntest.tunnel.command import in_own_view, resolver_settings
from vpntest.tunnel.confinement import guest_filter
from vpntest.tunnel.namespace import denial
from vpntest.tunnel.raising import Tunnel, raise_tunnel
from vpntest.tunnel.vantage import Vantage

Say = Callable[[str], None]

_ANSWER = 6.0
"""Seconds that may pass until the world has said whom it sees."""
_LOOK = 0.5
"""Seconds between two looks whether the tunnel still stands."""

_HIDDEN = ("/tmp", "/var/run")  # noqa: S108 # to be hidden
"""Beside /run, and where they are not in there: where programs have the sockets by which others make them act."""
_LEADS_OUT = re.compile(
    r"(?i:\w+_proxy)|(SUDO|DOAS|PKEXEC)_\w+|DBUS_\w+|SSH_(AUTH_SOCK|AGENT_PID)|GPG_AGENT_INFO|TMUX\w*|STY|(WAYLAND_)?DISPLAY"
    r"|XAUTHORITY|XDG_RUNTIME_DIR|PULSE_SERVER|DOCKER_HOST|EMACS_SOCKET_NAME|NOTIFY_SOCKET|TMPDIR|RES_OPTIONS|LOCALDOMAIN"
    r"|HOSTALIASES"
)
"""What of the environment names a proxy, a socket of the machine's, or another way to resolve names."""

_LAUNCH = """
import ctypes, json, os, signal, struct, sys, warnings
libc = ctypes.CDLL(None, use_errno=True)
def mount(kind, place, flags, data):
    if libc.mount(kind, place, kind, ctypes.c_ulong(flags), data):
        sys.exit(f"vpntest: {place.decode()} cannot be hidden here: {os.strerror(ctypes.get_errno())}")
with open(int(sys.argv[1]), "rb") as given:
    order = json.load(given)
NOSUID, NODEV, NOEXEC = 2, 4, 8
# Only who is in the namespace of processes can mount its /proc.
mount(b"proc", b"/proc", NOSUID | NODEV | NOEXEC, None)
for place in order["hidden"]:
    mount(b"tmpfs", place.encode(), NOSUID | NODEV, b"mode=1777")
# Whoever loses its parent in there becomes the shell's, which waits for it.
libc.prctl(36, ctypes.c_ulong(1), 0, 0, 0)
if order["lend"]:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpgrp())
for number in (signal.SIGTTOU, signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
os.umask(order["umask"])
if steps := bytes.fromhex(order["filter"]):
    # While this is root, so that sudo goes on to work inside.
    text = ctypes.create_string_buffer(steps, len(steps))
    program = struct.pack("@HP", len(steps) // 8, ctypes.addressof(text))
    if libc.prctl(22, ctypes.c_ulong(2), program, 0, 0):
        sys.exit(f"vpntest: no filter of system calls can be set here: {os.strerror(ctypes.get_errno())}")
if order["user"] is not None:
    os.setgroups(order["groups"])
    os.setresgid(*[order["group"]] * 3)
    os.setresuid(*[order["user"]] * 3)
for folder in order["folders"]:
    try:
        os.chdir(folder)
        break
    except OSError:
        pass
argv = order["argv"]
try:
    os.execvp(argv[0], argv)
except OSError as fault:
    print(f"vpntest: {argv[0]}: {fault.strerror}", file=sys.stderr)
    sys.exit(127 if isinstance(fault, FileNotFoundError) else 126)
"""
"""Becomes the shell, once it has made what that is to see, and given up being root. All that it imports comes first:
by the end it may see no file of Python's any more."""


@dataclass(frozen=True)
class Person:
    """Who is to be inside."""

    user: int | None
    """None: who we are."""
    group: int
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str


def person(environment: Mapping[str, str], *, root: bool) -> Person:
    """Who called sudo, doas or pkexec; with `root`, or where nobody did, root. Raises UsageError.

    To be called before a cage hides /run, where some machines' lists of users are asked for.
    """
    called = (
        None if root else environment.get("SUDO_UID") or environment.get("PKEXEC_UID") or environment.get("DOAS_USER")
    )
    try:
        entry = pwd.getpwuid(os.geteuid())
        if called:
            entry = pwd.getpwuid(int(called)) if called.isdecimal() else pwd.getpwnam(called)
    except (KeyError, OverflowError) as exc:
        raise UsageError(f"this machine knows no user {called or os.geteuid()}; --root makes it root's shell") from exc
    shell = entry.pw_shell
    # A service's user has a shell that lets nobody in.
    if not os.access(shell, os.X_OK) or os.path.basename(shell) in ("false", "nologin"):
        shell = "/bin/sh"
    if entry.pw_uid == os.geteuid():
        return Person(None, entry.pw_gid, (), entry.pw_name, entry.pw_dir, shell)
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Person(entry.pw_uid, entry.pw_gid, groups, entry.pw_name, entry.pw_dir, shell)


def surroundings(environment: Mapping[str, str], who: Person, tunnel: str) -> dict[str, str]:
    """The environment inside: the one given, without what leads outside, as `who`'s own."""
    kept = {name: value for name, value in environment.items() if not _LEADS_OUT.fullmatch(name)}
    if who.user is not None:
        kept |= {"HOME": who.home, "USER": who.name, "LOGNAME": who.name, "MAIL": f"/var/mail/{who.name}"}
    # The name is a slug: no shell finds anything in it to expand.
    return kept | {"SHELL": who.shell, "VPNTEST_TUNNEL": tunnel, "PS1": f"(vpntest {tunnel}) "}


def hidden_places(places: Sequence[str]) -> list[str]:
    """The folders that these are or lead to, but for those in /run, where nothing is to be seen anyway."""
    real = {os.path.realpath(place) for place in places if os.path.isdir(place)}
    return sorted(place for place in real if not f"{place}/".startswith("/run/"))


def names_by_dns(nsswitch: str) -> str:
    """A nsswitch.conf in which hosts are looked up in files and by DNS alone: no daemon of the machine is asked."""
    lines = [line for line in nsswitch.splitlines() if not re.match(r"\s*hosts\s*:", line)]
    return "\n".join([*lines, "hosts: files dns", ""])


# ── raising ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def inside(
    spec: TunnelSpec,
    line: Vantage,
    settings: Settings,
    who: Person,
    argv: Sequence[str],
    say: Say,
    *,
    environment: Mapping[str, str],
) -> int:
    """Raises the tunnel, runs `argv` in it (nothing: a shell) and takes it down. Returns the exit status of what ran.

    Raises CannotMeasure where the tunnel does not come up, with its rung and the reason.
    """
    began = time.monotonic()
    with closing(Cage.open()) as cage:
        tunnel = await raise_tunnel(spec, line, cage, find(), settings, lambda: time.monotonic() - began)
        try:
            vantage = _stands(tunnel)
            for warning in tunnel.warnings:
                say(f"{spec.name}: {warning}")
            climbed = ", ".join(step.rung for step in tunnel.steps)
            say(f"{spec.name}: {climbed} in {time.monotonic() - began:.1f} s, by {tunnel.carrier}")
            say(f"{spec.name}: {await _standing(vantage, settings)}")
            if not argv:
                say(f"{spec.name}: a shell inside, as {who.name}; leave it (exit, Ctrl-D), and the tunnel goes down")
            # Not the carriers' cage: who is inside sees its own processes only, and ends before the tunnel does.
            with closing(Cage.open(vantage.netns)) as room:
                return await _Guest(vantage, room, who, argv, environment, say).stay()
        finally:
            await tunnel.lower()


def _stands(tunnel: Tunnel) -> Vantage:
    if tunnel.vantage is not None:
        return tunnel.vantage
    name = tunnel.spec.name
    if not tunnel.steps:
        raise CannotMeasure(
            f"{name} does not come up: {tunnel.problem.reason if tunnel.problem else 'nobody knows why'}"
        )
    last = tunnel.steps[-1]
    words = (f"{name} does not come up: it ends at {last.rung}", last.failure or "", last.detail)
    raise CannotMeasure(": ".join(word for word in words if word))


async def _standing(vantage: Vantage, settings: Settings) -> str:
    """How the tunnel stands, in words: of some protocols only what comes back tells.

    Takes the way of IPv6 out of a namespace whose TUN would complete every connection and then carry nothing.
    """
    observations: list[Observation] = []
    bench = Bench(Notebook(time.monotonic, observations.append), settings, Trust(settings, ()))
    with suppress(TimeoutError):
        async with within(_ANSWER), side_by_side() as group:
            group.create_task(ask_exit(bench, vantage, 4))
            group.create_task(ask_exit(bench, vantage, 6))
    seen = {one.details.family: one.details.address for one in observations if isinstance(one.details, Address)}
    addresses = [address for _, address in sorted(seen.items()) if address]
    how = "" if vantage.carries_udp else " over TCP, as it carries no UDP"
    words = [f"names are asked for at {vantage.resolver}{how}"]
    if vantage.answers_locally and not seen.get(6):
        await netlink.within(vantage.netns, _without_ipv6)
        words.append("IPv6 does not pass, and is left out")
    if addresses:
        return "; ".join((f"stands, and the world sees {' and '.join(addresses)}", *words))
    failures = [one.failure for one in observations if one.failure]
    reason = f" ({failures[0]})" if failures else ""
    answered = any(one.operation == "resolve" and not one.failure for one in observations)
    less = "only names have" if answered else "nothing has"
    return "; ".join((f"stands, but {less} come back through it{reason}", *words))


def _without_ipv6(ip: Any) -> None:
    from pyroute2 import NetlinkError

    # A kernel without IPv6 has no such route.
    with suppress(NetlinkError):
        ip.route("del", dst="::/0", family=socket.AF_INET6)


# ── staying ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Guest:
    """What runs inside."""

    def __init__(
        self, vantage: Vantage, cage: Cage, who: Person, argv: Sequence[str], environment: Mapping[str, str], say: Say
    ) -> None:
        self._vantage = vantage
        self._say = say
        # A terminal that others of a pipeline read from or write to is theirs as well, and is not lent.
        self._lent = self._holds = _is_ours()
        self._modes = termios.tcgetattr(0) if self._lent else None
        mask = os.umask(0o022)
        os.umask(mask)
        folder = _folder()
        if self._lent and not guest_filter():
            say(
                f"{vantage.id}: on this processor what runs inside can type into this terminal (TIOCSTI), as if outside"
            )
        places = hidden_places(_HIDDEN)
        if hidden := next((one for one in ("/run", *places) if f"{folder}/".startswith(f"{one}/")), None):
            say(f"{vantage.id}: {hidden} is another one inside, so that it cannot begin in this folder")
        order: dict[str, Any] = {
            "argv": list(argv),
            "folders": [*([folder] if not hidden else []), who.home, "/"],
            "filter": guest_filter().hex(),
            "group": who.group,
            "groups": who.groups,
            "hidden": places,
            "lend": self._lent,
            "umask": mask,
            "user": who.user,
        }

        def start() -> Process:
            """To be called in a view that is its own."""
            if not argv:
                order["argv"] = _shell(who.shell, vantage.id)
            around = surroundings(environment, who, vantage.id)
            # No argument: one of these may be far shorter than a command is.
            with open(os.memfd_create("order"), "wb+", buffering=0) as given:
                given.write(json.dumps(order).encode())
                given.seek(0)
                launch = [os.path.realpath(sys.executable), "-I", "-S", "-c", _LAUNCH, str(given.fileno())]
                descriptors = [given.fileno()]
                return cage.spawn(launch, vantage.netns, pass_fds=descriptors, env=around, cwd=Path("/"), terminal=True)

        try:
            self._process = in_own_view(vantage.netns, _names(vantage), start)
        except OSError as exc:
            raise denial(exc) from exc

    async def stay(self) -> int:
        """Waits for its end. Returns its exit status; 128 and the signal's number where one ended it, or us."""
        loop = asyncio.get_running_loop()
        received: list[int] = []

        def hang_up(number: int) -> None:
            received.append(number)
            for order in (signal.SIGHUP, signal.SIGCONT):
                self._signal(order)
            loop.call_later(STOP_GRACE, self._signal, signal.SIGKILL)

        handlers: dict[int, Callable[[], None]] = {
            # A key's signal is for what runs inside.
            signal.SIGINT: lambda: None,
            signal.SIGQUIT: lambda: None,
            signal.SIGTERM: lambda: hang_up(signal.SIGTERM),
            signal.SIGHUP: lambda: hang_up(signal.SIGHUP),
            signal.SIGCHLD: self._pause,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        # While the terminal is lent, a word of ours must not stop us.
        writing = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        watch = asyncio.ensure_future(self._tell_death())
        # It may have stopped before anybody listened.
        self._pause()
        try:
            status = await self._process.wait()
        finally:
            watch.cancel()
            with suppress(OSError, termios.error):
                held = self._holds
                self._take_back()
                # What was killed has left the terminal as it was to itself: raw, without echo.
                if held and self._modes is not None:
                    termios.tcsetattr(0, termios.TCSANOW, self._modes)
            signal.signal(signal.SIGTTOU, writing)
            for number in handlers:
                loop.remove_signal_handler(number)
        if received:
            return 128 + received[0]
        return status if status >= 0 else 128 - status

    def _signal(self, number: int) -> None:
        if self._process.running():
            os.kill(self._process.pid, number)

    def _pause(self) -> None:
        """Where it has stopped, gives the terminal back and stops as well, until somebody lets us go on."""
        try:
            stopped = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return
        if stopped is None or not self._lent:
            return
        with suppress(OSError):
            self._take_back()
            os.kill(os.getpid(), signal.SIGSTOP)
            # In the background the terminal stays whose it is.
            if os.tcgetpgrp(0) == os.getpgrp():
                os.tcsetpgrp(0, self._process.pid)
                self._holds = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)

    def _take_back(self) -> None:
        if self._holds:
            self._holds = False
            os.tcsetpgrp(0, os.getpgrp())

    async def _tell_death(self) -> None:
        while self._vantage.alive():
            await asyncio.sleep(_LOOK)
        self._say(
            f"{self._vantage.id}: the tunnel is down, its carrier has ended: nothing gets out from inside any more"
        )


def _is_ours() -> bool:
    """Whether our streams are all a terminal's, and we are whom its keys go to."""
    try:
        return all(map(os.isatty, range(3))) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _names(vantage: Vantage) -> dict[str, str]:
    """What /etc has to say inside, so that names are looked up by the tunnel's resolver alone."""
    given = ""
    # Some systems keep there what nobody has changed.
    for folder in ("/usr/etc", "/etc"):
        with suppress(OSError):
            given = Path(folder, "nsswitch.conf").read_text(encoding="utf-8", errors="replace")
    options = "" if vantage.carries_udp else "use-vc"
    return {"resolv.conf": resolver_settings(vantage.resolver, options), "nsswitch.conf": names_by_dns(given)}


def _shell(program: str, tunnel: str) -> list[str]:
    """A person's shell, in the calling thread's view. bash is made to say where it is, whatever its settings say."""
    if os.path.basename(program) != "bash":
        return [program]
    settings = Path("/run/vpntest.bashrc")
    settings.write_text(f"PS1='\\u:\\w\\$ '\n[ ! -r ~/.bashrc ] || . ~/.bashrc\nPS1='(vpntest {tunnel}) '\"$PS1\"\n")
    return [program, "--rcfile", str(settings)]
