"""What `vpntest doctor` says: what this machine can do, and the command that adds what is missing.

    look ─▶ Facts ─examine─▶ Report ─render─▶ text for people, JSON for machines

To look sends no packet and leaves nothing behind: what is tried is tried in namespaces of its own (see
:mod:`vpntest.tunnel.kernel`), routes are asked of the kernel, and the database is only read. Without root much cannot
be tried, and is `unknown`: never `missing`.

Each item stands for itself; each kind of tunnel, and each profile of the lab, names the items that it needs. Whether it
can be had follows from them alone.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec import Struct

from vpntest import __version__
from vpntest.plan.model import Kind, Settings
from vpntest.report.text import painted, plain, to_ascii

if TYPE_CHECKING:
    from vpntest.tunnel.carriers import Carrier, Carriers
    from vpntest.tunnel.kernel import Tried
    from vpntest.tunnel.netlink import Way

SCHEMA: Final = "vpntest.doctor/1"

State = Literal["ok", "degraded", "missing", "unknown"]
Group = Literal["privileges", "kernel", "python", "carriers", "line", "clock", "storage", "lab"]

_SIGNS: dict[State, tuple[str, str, tuple[int, int, int]]] = {
    "missing": ("✗", "x", (213, 94, 0)),
    "degraded": ("!", "!", (230, 159, 0)),
    "unknown": ("?", "?", (86, 180, 233)),
    "ok": ("✓", "+", (0, 158, 115)),
}
"""A glyph, one in ASCII, and a colour of Okabe and Ito's palette; the word stands beside them always."""

_SPARE = ("○", "o", (204, 121, 167))
"""The same of what is missing and in nobody's way."""

_MIB = 1 << 20
_ROOM_FOR_RUNS, _ROOM_FOR_FILES = 100 * _MIB, 16 * _MIB
"""A kept run of 50 tunnels × 12 platforms takes less than 1 MiB; what carriers are asked with takes some KiB."""
_DESCRIPTORS = 4096
"""What a run of many tunnels wants: of each some dozens of connections at a time, and its carrier's pipes."""
_PUBLIC_RESOLVER6 = "2620:fe::fe"
"""The default public resolver's IPv6 address, to ask the kernel for a way to."""
_TUNNEL_LINKS = ("tun", "wireguard", "ppp", "xfrm", "vti", "gre", "ipip", "sit")
"""Links that lead a machine's own traffic through a tunnel, more often than not (linux/rtnl_link_ops)."""

PREPARE: Final = "sudo scripts/prepare"


class Item(Struct, frozen=True):
    """One thing that a machine has or has not."""

    id: str
    """Never changes its meaning."""
    group: Group
    name: str
    """In words."""
    state: State
    """`degraded`: it is there, and something of it is wanting. `unknown`: only root can tell, or no try came to an
    end."""
    needed_for: str
    """In words, also of what falls away without it."""
    found: str | None = None
    """What was found, or why it is missing."""
    path: str | None = None
    """Of a program."""
    version: str | None = None
    """As it calls itself; null where it does not say."""
    remedy: str | None = None
    """The command, or else the deed, that adds what is missing; null where nothing is, or nothing is known."""


class Ability(Struct, frozen=True):
    """A kind of tunnel, or a profile of the lab, and whether it can be had on this machine."""

    id: str
    state: State
    """`degraded`: some of it, as VLESS without Reality, or a profile one of whose tunnels nobody here can carry."""
    carrier: str | None = None
    """Who carries such tunnels here; null where nobody does, and for profiles."""
    lacks: tuple[str, ...] = ()
    """The items that stand in its way: those that are missing, else those that are unknown."""


class Report(Struct, frozen=True):
    """All that was found."""

    schema: Literal["vpntest.doctor/1"]
    version: str
    """vpntest's."""
    system: str
    """What this machine runs."""
    clock: str
    """The time by this machine's clock, in UTC."""
    root: bool
    """Whether root asked. Nobody else can measure, and nobody else can try most of it."""
    can_measure: bool | None
    """Whether `vpntest run`, started as `doctor` was, can measure anything; null where that is not known."""
    reasons: tuple[str, ...]
    """Why not, each a sentence; empty where it can."""
    items: tuple[Item, ...]
    kinds: tuple[Ability, ...]
    """Each kind of tunnel."""
    profiles: tuple[Ability, ...]
    """Each profile of the lab, for `demo` and `lab verify`."""


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Facts:
    """What was found, before anything is made of it."""

    root: bool
    lacking_capabilities: tuple[str, ...]
    container: str | None
    descriptors: int
    kernel: Mapping[str, Tried]
    """By id, as :mod:`vpntest.tunnel.kernel` has them."""
    carriers: Carriers
    lab: Mapping[str, Tried]
    """By id, as :mod:`vpntest.lab.needs` has them."""
    profiles: Mapping[str, Tried]
    """Likewise, by the profile's name."""
    packages: Mapping[str, bool] | None
    """Python packages that vpntest asks for, and whether each loads; None where nobody has installed vpntest."""
    resolvers: tuple[str, ...]
    ways: tuple[Way | None, Way | None] | None
    """The ways out by IPv4 and by IPv6; None where nothing is at hand that could ask the kernel."""
    now: datetime
    written: datetime
    """When vpntest's own files were: no clock that is right is before it."""
    is_synchronised: bool | None
    database: Path
    obstacle: str | None
    """Why no run can be kept there; of what is not root's own, root may think otherwise."""
    temporary: Path | None
    """The folder for temporary files; None where none can be written."""
    room: Mapping[str, int | None]
    """Bytes free where runs are kept (`runs`) and where temporary files go (`temporary`); None: not known."""
    aside: frozenset[str] | None
    """The carriers that `scripts/prepare` has put into this clone, and to which PATH does not lead; None where we are
    in no clone."""
    has_apt: bool


def look(database: Path | None = None) -> Facts:
    """Finds out all of it, for runs that are kept in `database`, by default where root's `vpntest run` keeps them: no
    other measures. Takes some seconds at most, of what hangs too."""
    from vpntest.history.store import default_path, obstacle
    from vpntest.lab import needs
    from vpntest.tunnel import carriers, kernel
    from vpntest.tunnel.raising import host_resolvers

    with ThreadPoolExecutor(3) as pool:
        tries, lab, found = pool.submit(kernel.tries), pool.submit(needs.needs), pool.submit(carriers.find)
    primitives, profiles = lab.result()
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError:
        temporary = None
    root = os.geteuid() == 0
    # What the environment says of a user's own folders, sudo does not hand on.
    database = database or default_path(os.environ if root else {}, root=True)
    return Facts(
        root=root,
        lacking_capabilities=kernel.lacking_capabilities(),
        container=kernel.container(),
        descriptors=kernel.most_descriptors(),
        kernel=tries.result(),
        carriers=found.result(),
        lab=primitives,
        profiles=profiles,
        packages=_packages(),
        resolvers=host_resolvers(),
        ways=_ways(),
        now=datetime.now(UTC),
        written=_written(Path(__file__).parent),
        is_synchronised=_is_synchronised(),
        database=database,
        obstacle=obstacle(database),
        temporary=temporary,
        room={"runs": _room(database), "temporary": _room(temporary)},
        aside=_aside(Path(__file__).parents[1]),
        has_apt=shutil.which("apt-get") is not None,
    )


def _ways() -> tuple[Way | None, Way | None] | None:
    from vpntest.tunnel import netlink

    try:
        return netlink.way(Settings().public_resolver), netlink.way(_PUBLIC_RESOLVER6)
    except ImportError:
        return None


def _aside(clone: Path) -> frozenset[str] | None:
    from vpntest.tunnel.carriers import path_of_programs

    if not (clone / "scripts" / "prepare").is_file():
        return None
    built = {one.name: os.path.realpath(one) for one in (clone / ".carriers" / "bin").glob("*")}
    led_to = {name: shutil.which(name, path=path_of_programs()) for name in built}
    return frozenset(name for name, one in built.items() if os.path.realpath(led_to[name] or "") != one)


def _packages() -> dict[str, bool] | None:
    try:
        wanted = metadata.requires("vpntest") or []
    except metadata.PackageNotFoundError:
        return None
    # Of `httpx[http2]>=0.28` the name; what has a marker is for the lab or for the tests.
    return {name: _loads(name) for name in (re.split(r"[\[<>=~! ]", one)[0] for one in wanted if ";" not in one)}


def _loads(package: str) -> bool:
    """Whether what a package has compiled can be loaded, or else what it has at all."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return False
    compiled = [".".join((*file.parts[:-1], file.name.partition(".")[0])) for file in files if file.suffix == ".so"]
    modules = [one for one in compiled if one.replace(".", "").isidentifier()]
    modules = modules or [file.parts[0] for file in files if file.name == "__init__.py" and len(file.parts) == 2]
    return not modules or any(map(_is_module, modules))


def _is_module(name: str) -> bool:
    try:
        return bool(importlib.import_module(name))
    except ImportError:
        return False


_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""


def _is_synchronised() -> bool | None:
    """What the kernel has been told by whoever sets its clock; None where it does not say. Asks nobody else."""
    # struct timex: it is read for as long as its first word, the modes, is zero. It has less than 256 bytes.
    state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(256)))
    return None if state < 0 else state != _TIME_ERROR


def _written(package: Path) -> datetime:
    return datetime.fromtimestamp(max(one.stat().st_mtime for one in package.glob("*.py")), UTC)


def _room(path: Path | None) -> int | None:
    if path is None:
        return None
    try:
        return shutil.disk_usage(next(one for one in (path, *path.absolute().parents) if os.path.exists(one))).free
    except OSError:
        return None


# ── what follows from it ─────────────────────────────────────────────────────────────────────────────────────────────

_KERNEL: dict[str, tuple[str, str, str]] = {
    "netns": (
        "network namespaces",
        "every tunnel: each has one of its own, so that nothing leaks",
        "a container needs CAP_SYS_ADMIN (docker run --privileged); a kernel, CONFIG_NET_NS",
    ),
    "cage": (
        "PID and mount namespaces",
        "every tunnel: what ends vpntest ends its carriers",
        "a container needs CAP_SYS_ADMIN (docker run --privileged); a chroot will not do",
    ),
    "confinement": (
        "confinement of carriers",
        "every tunnel that a program carries: it gets a user and a root folder of its own",
        "Linux 5.12 or newer, and the capabilities that a container takes away (docker run --privileged)",
    ),
    "tun": (
        "TUN devices",
        "every tunnel but WireGuard in the kernel",
        "sudo modprobe tun; a container needs --device /dev/net/tun",
    ),
    "ipv6": (
        "IPv6",
        "tunnels that carry IPv6, the leak test for it, and the lab",
        "sudo sysctl net.ipv6.conf.default.disable_ipv6=0, and no ipv6.disable=1 at the kernel's start",
    ),
    "userns": (
        "user namespaces",
        "sing-box, for every proxy: without, its powers are over the whole machine and not its tunnel alone",
        "sudo sysctl user.max_user_namespaces=10000; the package util-linux",
    ),
    "seccomp": (
        "seccomp",
        "carriers that strangers talk to: without, nothing keeps them from making namespaces",
        "a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or aarch64",
    ),
}
"""By the ids of :data:`vpntest.tunnel.kernel.FEATURES`: its name, what it is needed for, and how to get it."""
_WANTED = frozenset(("ipv6", "userns", "seccomp"))
"""Without these all can be measured, less well or less safely."""

_CARRIERS: dict[str, tuple[str, str]] = {
    "wireguard-go": ("WireGuard where the kernel has none, and the lab's servers", "wireguard-go"),
    "amneziawg-go": ("AmneziaWG", ""),
    "openvpn": ("OpenVPN", "openvpn"),
    "sing-box": (
        "Shadowsocks, VLESS, VMess, Trojan, Hysteria2, TUIC, AnyTLS, SOCKS, HTTP, SSH, Tor and `command` clients",
        "",
    ),
    "tor": ("Tor's bridges", "tor"),
}
"""What each is for, and Debian's package."""
_PARTS: dict[str, tuple[str, str, str]] = {
    "amneziawg-go.awg1-5": ("awg1.5", "AmneziaWG 1.5", "configs of AmneziaWG 1.5"),
    "amneziawg-go.awg2": ("awg2", "AmneziaWG 2", "configs of AmneziaWG 2"),
    "sing-box.utls": ("with_utls", "sing-box with utls", "VLESS with Reality, and links that name a browser"),
    "sing-box.quic": ("with_quic", "sing-box with quic", "Hysteria2 and TUIC"),
    **{
        f"tor.{transport}": (transport, f"Tor's {transport}", f"Tor's bridges that speak {transport}")
        for transport in ("obfs4", "webtunnel", "snowflake", "meek_lite")
    },
}
"""What of a carrier configs of today ask for, and what it may serve without: how :mod:`vpntest.tunnel.carriers` calls
it, its name, and what it is for."""
_SPEAKERS = {"obfs4": "obfs4proxy", "meek_lite": "obfs4proxy", "snowflake": "snowflake-client"}
"""Debian's packages that speak Tor's transports."""
_WITHOUT = {
    "amneziawg-go": (
        "this amneziawg-go does not know it",
        "build the newest github.com/amnezia-vpn/amneziawg-go and put it on PATH",
    ),
    "sing-box": (
        "this sing-box was built without it",
        "install a sing-box that was built with_gvisor, with_quic and with_utls",
    ),
    "tor": ("no program here speaks it", "install lyrebird, which speaks it"),
}
"""What is said where a part is not there, and the deed."""
_PREPARED = ("amneziawg-go", "sing-box")
"""What `scripts/prepare` builds in a clone; what is there it builds again only without its stamp."""

_BY_PROGRAM = ("kernel.confinement", "kernel.tun")
_CARRIED: dict[Kind, tuple[str, ...]] = {
    Kind.AMNEZIAWG: ("amneziawg-go",),
    Kind.OPENVPN: ("openvpn",),
    Kind.HYSTERIA2: ("sing-box", "sing-box.quic"),
    Kind.TUIC: ("sing-box", "sing-box.quic"),
    Kind.TOR: ("tor", "sing-box"),
}
"""The carrier of a kind and what else of carriers it needs; of all others it is sing-box, but for WireGuard."""
_SOME_NEED = {Kind.AMNEZIAWG: "amneziawg-go.", Kind.VLESS: "sing-box.utls", Kind.TOR: "tor."}
"""Of which parts some tunnels of a kind need one."""

_ALWAYS = ("privileges.root", "python.packages", "kernel.netns", "kernel.cage", "line.way", "storage.database")
"""Without the last a run does not begin: what it finds could not be kept."""


def examine(facts: Facts) -> Report:
    """All that can be said of the facts. Pure."""
    groups = (_privileges, _kernel, _python, _carriers, _line, _clock, _storage, _lab)
    items = tuple(item for group in groups for item in group(facts))
    state_of = {item.id: item.state for item in items}
    kinds = tuple(_kind(kind, facts.carriers, state_of) for kind in Kind if kind is not Kind.UNKNOWN)
    profiles = tuple(_profile(name, tried, state_of) for name, tried in sorted(facts.profiles.items()))
    states = {kind.state for kind in kinds}
    can = True if states & {"ok", "degraded"} else None if "unknown" in states else False
    return Report(
        schema=SCHEMA,
        version=__version__,
        system=_system(),
        clock=facts.now.isoformat(timespec="seconds"),
        root=facts.root,
        can_measure=can,
        reasons=tuple(_reasons(items, kinds)) if can is False else (),
        items=items,
        kinds=kinds,
        profiles=profiles,
    )


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release()}, {platform.machine()}"


def _reasons(items: Iterable[Item], kinds: Iterable[Ability]) -> Iterator[str]:
    """What of all that is missing no kind of tunnel can do without; where that is nothing, that there is no carrier."""
    every = [set(kind.lacks) for kind in kinds]
    common = set.intersection(*every)
    for item in items:
        if item.id in common:
            yield f"{item.name}: {item.found or item.state}"
    if not common:
        yield "no carrier that is here can carry any kind of tunnel"


def _ability(
    name: str,
    needs: Iterable[str],
    state_of: Mapping[str, State],
    wants: Iterable[str] = (),
    carrier: str | None = None,
) -> Ability:
    """What follows for a thing from what it needs, and from what some of it needs."""
    needs, wants = list(needs), list(wants)
    for state, among in (("missing", needs), ("unknown", needs), ("missing", wants)):
        if lacks := tuple(one for one in among if state_of.get(one, "unknown") == state):
            told: State = state if among is needs else "degraded"  # type: ignore[assignment]
            return Ability(name, told, carrier if told == "degraded" else None, lacks)
    return Ability(name, "ok", carrier)


def _kind(kind: Kind, carriers: Carriers, state_of: Mapping[str, State]) -> Ability:
    name, *more = _CARRIED.get(kind, ("wireguard-go" if kind is Kind.WIREGUARD else "sing-box",))
    needs = (*_ALWAYS, *(f"carriers.{one}" for one in (name, *more)), *_BY_PROGRAM)
    wants = [f"carriers.{one}" for one in _PARTS if one.startswith(_SOME_NEED.get(kind, "-"))]
    found = _ability(kind, needs, state_of, wants, str(carriers[name]))
    if kind is Kind.WIREGUARD:
        kernel = _ability(kind, (*_ALWAYS, "kernel.wireguard"), state_of, carrier=str(carriers["kernel"]))
        if kernel.state == "ok" or (kernel.state == "unknown" and found.state == "missing"):
            return kernel
    return found


def _profile(name: str, tried: Tried, state_of: Mapping[str, State]) -> Ability:
    wants = {"carriers.sing-box.utls"}.intersection(tried.needs)
    found = _ability(name, sorted(set(tried.needs) - wants), state_of, wants)
    if found.state in ("ok", "degraded") and tried.works is not True:
        return Ability(name, "missing" if tried.works is False else "unknown", None, (f"lab.profile.{name}",))
    return found


# ── the items ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _install(facts: Facts, row: Carrier | None, package: str, otherwise: str = "") -> str:
    """The command that brings a carrier, or a program of one of Debian's packages; else the deed."""
    if row and row.name in (facts.aside or ()):
        return "start it by scripts/vpntest: this clone has one of its own, to which PATH does not lead"
    if package:
        return f"sudo apt-get install {package}" if facts.has_apt else f"install {package} (Debian's name of it)"
    if row and row.name in _PREPARED and facts.aside is not None and facts.has_apt:
        return f"sudo rm -f .carriers/{row.name}.key; {PREPARE}" if row.program else PREPARE
    return otherwise


def _item(
    id: str,
    name: str,
    state: State,
    needed_for: str,
    found: str | None = None,
    remedy: str | None = None,
    *,
    path: str | None = None,
    version: str | None = None,
) -> Item:
    """What is there, or of which nothing is known, asks for no deed."""
    group: Group = id.partition(".")[0]  # type: ignore[assignment]
    deed = remedy if state in ("missing", "degraded") else None
    return Item(id, group, name, state, needed_for, found, path, version, deed)


def _privileges(facts: Facts) -> Iterator[Item]:
    yield _item(
        *("privileges.root", "root", "ok" if facts.root else "missing"),
        "network namespaces and devices; and to try here what the kernel gives",
        None if facts.root else "this user is not root",
        f"sudo {'vpntest' if facts.aside is None else 'scripts/vpntest'} …",
    )
    lacking = facts.lacking_capabilities
    inside = f", in a container ({facts.container})" if facts.container else ""
    without = f"without {', '.join(lacking)}{inside}" if lacking else None
    yield _item(
        *("privileges.capabilities", "capabilities", "unknown" if not facts.root else "missing" if lacking else "ok"),
        "what makes namespaces, devices and mounts, and carriers users of their own",
        without if facts.root else _FOR_ROOT,
        "start it where root has them: no unit and no container that takes them away (docker run --privileged)",
    )
    yield _item(
        *("privileges.descriptors", "open files", "degraded" if 0 <= facts.descriptors < _DESCRIPTORS else "ok"),
        "many tunnels at a time: without, a run of some dozens may end in exit 4",
        f"at most {facts.descriptors}" if facts.descriptors >= 0 else "without a limit",
        "ulimit -Hn 65536, or LimitNOFILE=65536 in the unit",
    )


def _state(tried: Tried | None, otherwise: State = "missing") -> State:
    if tried is None or tried.works is None:
        return "unknown"
    return "ok" if tried.works else otherwise


_FOR_ROOT, _NO_END = "only root can try it", "the try came to no end"


def _said(facts: Facts, tried: Tried | None) -> str | None:
    if tried is not None and (tried.said or tried.works is not None):
        return tried.said or None
    return _NO_END if facts.root else _FOR_ROOT


def _kernel(facts: Facts) -> Iterator[Item]:
    for name, (called, purpose, remedy) in _KERNEL.items():
        tried = facts.kernel.get(name)
        state = _state(tried, "degraded" if name in _WANTED else "missing")
        yield _item(f"kernel.{name}", called, state, purpose, _said(facts, tried), remedy)
    row = facts.carriers["kernel"]
    # Where no namespace is to be had, it could not be tried.
    is_tried = _state(facts.kernel.get("netns")) == "ok"
    yield _item(
        *("kernel.wireguard", "WireGuard in the kernel"),
        "ok" if row.usable else "missing" if is_tried else "unknown",
        "WireGuard at less cost; wireguard-go serves as well",
        None if row.usable else row.hint.split("; ")[0] if is_tried else _said(facts, None),
        "Linux 5.6 or newer with its module, as Debian's own",
    )


def _python(facts: Facts) -> Iterator[Item]:
    absent = " ".join(name for name, loads in (facts.packages or {}).items() if not loads)
    state: State = "missing" if absent else "ok"
    found = f"without {absent.replace(' ', ', ')}" if absent else None
    if facts.packages is None:
        state, found = "unknown", "vpntest is not installed as a package, so what it asks for cannot be looked up"
    yield _item(
        *("python.packages", f"Python {platform.python_version()}", state, "vpntest itself", found),
        f"pip install --force-reinstall {absent}" if facts.aside is None else PREPARE,
        path=sys.executable,
        version=platform.python_version(),
    )


def _carriers(facts: Facts) -> Iterator[Item]:
    for name, (purpose, package) in _CARRIERS.items():
        row = facts.carriers[name]
        why, _, deed = row.hint.partition("; ")
        features = " ".join(feature.removeprefix("with_") for feature in row.features) or None
        yield _item(
            *(f"carriers.{name}", name, "ok" if row.usable else "missing", purpose),
            features if row.usable else why,
            _install(facts, row, package, deed),
            path=row.program,
            version=row.version,
        )
    for part, (feature, called, purpose) in _PARTS.items():
        name, _, short = part.partition(".")
        row, (without, deed) = facts.carriers[name], _WITHOUT[name]
        state: State = "ok" if row.usable and feature in row.features else "missing"
        if name == "amneziawg-go" and row.usable and not row.features:
            state, without = "unknown", "this amneziawg-go does not tell"
        yield _item(
            *(f"carriers.{part}", called, state, purpose),
            None if state == "ok" else without if row.usable else f"no {name}",
            _install(facts, row, _SPEAKERS.get(short, ""), deed),
            path=dict(row.helpers).get(short),
        )


def _line(facts: Facts) -> Iterator[Item]:
    by_family = facts.ways or (None, None)
    ways = [way for way in by_family if way is not None]
    tunnels = sorted({way.device for way in ways if (way.kind or "").startswith(_TUNNEL_LINKS)})
    state: State = "ok"
    why = remedy = None
    if facts.ways is None:
        state, why = "unknown", "Python's pyroute2, which asks the kernel, is missing"
    elif not ways:
        state, why, remedy = "missing", "no default route, neither for IPv4 nor for IPv6", "bring the line up"
    elif tunnels:
        state, remedy = "degraded", "end that tunnel while vpntest measures"
        why = f"{' and '.join(tunnels)} is itself a tunnel: what is seen outside is not the provider's line"
    purpose = "every measurement: the kernel has a route for it, which says nothing of what is behind"
    yield _item("line.way", "a way out", state, purpose, why, remedy)
    for name, way in zip(("IPv4", "IPv6"), by_family, strict=True):
        yield _item(
            *(f"line.way.{name.lower()}", name),
            "unknown" if facts.ways is None else "missing" if way is None else "ok",
            f"servers and platforms that have {name} only",
            f"by {way.device}" if way else why if facts.ways is None else "this line has none",
        )
    told = ", ".join(facts.resolvers)
    if told.startswith("127.") or facts.resolvers[:1] == ("::1",):
        told += ": a program of this machine, and what it asks is its own affair"
    yield _item(
        *("line.resolver", "resolver", "ok" if told else "degraded"),
        "what names resolve to outside, as programs here see it; the first is asked",
        told or f"/etc/resolv.conf names none; {Settings().public_resolver} is asked, who is not the provider's",
        '`resolver = "…"` in the plan: the address of the provider\'s',
    )


def _clock(facts: Facts) -> Iterator[Item]:
    early = facts.now < facts.written
    yield _item(
        *("clock.date", "date", "missing" if early else "ok"),
        "TLS: with a wrong clock sound certificates look forged",
        f"{facts.now.date()} is before vpntest's own files were written, {facts.written.date()}" if early else None,
        "sudo timedatectl set-ntp true, or else sudo date --set, by a clock that is right",
    )
    known = facts.is_synchronised
    yield _item(
        *("clock.synchronised", "synchronisation"),
        "ok" if known else "unknown" if known is None else "degraded",
        "TLS, and nights that are compared: a clock that nobody sets drifts",
        None if known else "the kernel does not say" if known is None else "nobody sets this clock, says the kernel",
        "sudo timedatectl set-ntp true (package systemd-timesyncd), or chrony",
    )


def _storage(facts: Facts) -> Iterator[Item]:
    is_known = facts.root or facts.obstacle is None
    yield _item(
        *("storage.database", "kept runs", "unknown" if not is_known else "missing" if facts.obstacle else "ok"),
        "history, diff, trend and --fail-on; where no run can be kept, `run` begins none without --db none",
        facts.obstacle if is_known else _FOR_ROOT,
        "--db PATH, or --db none",
        path=str(facts.database),
    )
    places = (
        ("runs", facts.database.parent, _ROOM_FOR_RUNS, "kept runs, each of up to 1 MiB", "make room, or --db PATH"),
        ("temporary files", facts.temporary, _ROOM_FOR_FILES, "what carriers are asked with", "TMPDIR=PATH"),
    )
    for what, place, least, purpose, remedy in places:
        name = what.partition(" ")[0]
        free = facts.room.get(name)
        state: State = "missing" if place is None else "unknown" if free is None else "ok"
        yield _item(
            *(f"storage.{name}", f"room for {what}", "degraded" if free is not None and free < least else state),
            purpose,
            "not known" if free is None else f"{_size(free)} free",
            remedy,
            path=str(place) if place else None,
        )


def _size(count: int) -> str:
    return f"{count // _MIB} MiB" if count < 10 << 30 else f"{count >> 30} GiB"


def _lab(facts: Facts) -> Iterator[Item]:
    from vpntest.lab.needs import PACKAGES

    users: dict[str, list[str]] = {}
    for name, profile in sorted(facts.profiles.items()):
        for need in profile.needs:
            users.setdefault(need, []).append(name)
    for name, tried in facts.lab.items():
        _, sort, what = f"{name}.".split(".")[:3]
        using = users.get(name, [])
        every = len(using) in (0, len(facts.profiles))
        called, found, path = f"{sort} {what}".strip(), _said(facts, tried), None
        remedy = "a kernel whose modules have it: on Ubuntu, sudo apt-get install linux-modules-extra-$(uname -r)"
        if sort == "program":
            called, remedy = what, _install(facts, None, PACKAGES.get(what, ""))
            found, path = (None, tried.said) if tried.works else (found, None)
        elif sort == "python":
            remedy = "pip install 'vpntest[lab]'" if facts.aside is None else PREPARE
        purpose = "every profile of the lab" if every else f"the lab's {', '.join(using)}"
        yield _item(name, called, _state(tried), purpose, found, remedy, path=path)


# ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def encode(report: Report) -> bytes:
    """The report as JSON in UTF-8, on one line."""
    return msgspec.json.encode(report)


_COLUMN = 12
"""Of the groups' names."""
_LISTED = 8
"""Profiles that are named; JSON has all."""


def render(report: Report, *, width: int, colour: bool, unicode: bool = True) -> str:
    """The report for people: of each group what is wrong, then what is well in one line; and last what follows."""
    telling = _Telling(report, max(width, 60), colour, unicode)
    lines = telling.title()
    for group in dict.fromkeys(item.group for item in report.items):
        first, *rest = telling.group(group)
        lines += [f"{group:<{_COLUMN}}{first.strip()}", *rest]
    return "\n".join((*lines, *telling.conclusion())) + "\n"


class _Telling:
    """How a report is told at some width."""

    def __init__(self, report: Report, width: int, colour: bool, unicode: bool) -> None:
        self._report = report
        self._width = width
        self._colour = colour
        self._unicode = unicode
        self._names = {item.id: item.name for item in report.items}
        self._in_the_way = {one for ability in (*report.kinds, *report.profiles) for one in ability.lacks}

    def title(self) -> list[str]:
        """What was looked at."""
        return self._wrapped(f"vpntest {self._report.version} · {plain(self._report.system)}", "", "  ")

    def group(self, group: Group) -> Iterator[str]:
        """Its lines, the first of which has room for its name."""
        items = [item for item in self._report.items if item.group == group]
        absent = {item.id for item in items if item.state in ("missing", "unknown")}
        # A part of what is not there as a whole is no news.
        news = [item for item in items if item.id.rpartition(".")[0] not in absent]
        for item in news:
            if item.state in ("missing", "degraded"):
                yield from self._trouble(item)
        unknown: dict[str, list[str]] = {}
        for item in news:
            if item.state == "unknown":
                unknown.setdefault(item.found or "", []).append(item.name)
        for why, names in unknown.items():
            yield from self._entry("unknown", _listed(group, names) + (f": {why}" if why else ""))
        well = [item for item in news if item.state == "ok"]
        if well:
            yield from self._entry("ok", _listed(group, _folded(well)))
        if group == "lab":
            yield from self._profiles()

    def conclusion(self) -> list[str]:
        """What all of it comes to."""
        report = self._report
        of_state: dict[State, list[str]] = {}
        for kind in report.kinds:
            without = f" (without {self._named(kind.lacks)})" if kind.state == "degraded" else ""
            of_state.setdefault(kind.state, []).append(kind.id + without)
        if report.can_measure is False:
            lines = self._wrapped(f"Nothing can be measured: {'; '.join(map(plain, report.reasons))}.", "", "  ")
            perhaps = [kind.id for kind in report.kinds if kind.lacks == ("privileges.root",)]
            if perhaps:
                lines += self._wrapped(f"As root, as far as can be told: {', '.join(perhaps)}.", "", "  ")
            return lines
        words: dict[State, str] = {"ok": "", "degraded": "in part ", "unknown": "perhaps ", "missing": "not "}
        said = [f"{word}{', '.join(of_state[state])}" for state, word in words.items() if state in of_state]
        return self._wrapped(f"Can be measured: {'; '.join(said)}.", "", "  ")

    def _named(self, ids: tuple[str, ...]) -> str:
        return ", ".join(self._names.get(one, one) for one in ids if one.rpartition(".")[0] not in ids)

    def _trouble(self, item: Item) -> Iterator[str]:
        told = item.name if item.version is None or item.version in item.name else f"{item.name} {item.version}"
        told += (f" ({item.path})" if item.path else "") + (f": {item.found}" if item.found else "")
        yield from self._entry(item.state, told, is_needed=item.id in self._in_the_way)
        yield from self._wrapped(f"for {item.needed_for}", self._indent(4))
        if item.remedy:
            yield from self._wrapped(f"→ {item.remedy}", self._indent(4))

    def _entry(self, state: State, text: str, *, is_needed: bool = True) -> list[str]:
        glyph, ascii_glyph, rgb = _SIGNS[state] if state != "missing" or is_needed else _SPARE
        head = f"{glyph if self._unicode else ascii_glyph} {state}"
        first, *rest = self._wrapped(f"{head}  {plain(text, 2000)}", self._indent(0), self._indent(4))
        return [first.replace(head, painted(head, rgb, self._colour), 1), *rest]

    def _profiles(self) -> list[str]:
        every = self._report.profiles
        if not every or all(one.state == "unknown" for one in every):
            return self._wrapped("which of its profiles can be raised is not known", self._indent(0))
        possible = [one for one in every if one.state in ("ok", "degraded")]
        lines = self._wrapped(f"{len(possible)} of its {len(every)} profiles can be raised", self._indent(0))
        gone: dict[tuple[str, ...], list[str]] = {}
        for one in every:
            if one.state not in ("ok", "degraded"):
                gone.setdefault(one.lacks, []).append(one.id)
        for lacks, names in gone.items():
            which = ", ".join(names) if len(names) <= _LISTED else f"{len(names)} of them"
            lines += self._wrapped(f"not {which}: without {self._named(lacks)}", self._indent(4))
        return lines

    def _indent(self, more: int) -> str:
        return " " * (_COLUMN + more)

    def _wrapped(self, text: str, first: str, others: str | None = None) -> list[str]:
        # No command and no path is broken in two.
        return textwrap.wrap(
            to_ascii(text, self._unicode),
            self._width,
            initial_indent=first,
            subsequent_indent=first + "  " if others is None else others,
            break_long_words=False,
            break_on_hyphens=False,
        )


def _listed(group: Group, names: list[str]) -> str:
    """The names; of the lab's many only how many there are."""
    if group == "lab" and len(names) > 1:
        return f"{len(names)} of the things that its profiles need"
    return ", ".join(names)


def _folded(items: list[Item]) -> list[str]:
    """What is well in a few words each, its parts in brackets behind it."""
    told: dict[str, list[str]] = {}
    for item in items:
        whole = item.id.rpartition(".")[0]
        if whole in told:
            told[whole].append(f"{item.name} {item.found}" if item.group == "line" else item.id.rpartition(".")[2])
        else:
            found = [item.found] if item.found and item.group in ("line", "storage") else []
            told[item.id] = [
                item.name + (f" {item.version}" if item.group == "carriers" and item.version else ""),
                *found,
            ]
    return [plain(name + (f" ({', '.join(parts)})" if parts else "")) for name, *parts in told.values()]
