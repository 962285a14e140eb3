"""Turns what the user named into a :class:`Plan`: a plan file, folders, archives, lists and single configs.

    paths ─found→ sources (files, members of archives) ─sources.entries→ Entry … ─read_plan→ TunnelSpec with a name

A broken config costs its own tunnel and no other: it stays in the plan with the reason why it cannot be raised. Only a
fault of the plan as a whole raises. Messages and sources name files as the user's plan or folder does, without the way
to them: they end up in reports that are handed on.

Names are what kept runs are compared by, so they hang on as little as possible:

    a [[tunnel]] with one config      the plan's: `sweden`
    a file that is one config         its name without the ending: `sweden`
    a file in an archive              with the archive's name before it: `pack-sweden`
    an entry of a list or document    with the file's name before it, and behind it its label: `links-sweden-1`
                                      … without a label its kind and a digest of the config: `links-vless-3fa2c16b`

A name that two configs could have is neither's: both get the digest. So none passes to another config where files or
lines come, go or change places; and a place in a list never makes a name, nor does being alone in it.

The same config twice in one source is measured once, for lists repeat themselves, and a server that sees one key come
from two tunnels at once serves neither well. In two sources it is kept, for somebody put it there, with a warning.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType, field, structs

from vpntest.errors import ConfigError, UsageError
from vpntest.plan import archives, files, outcome, ovpn, places, platforms, sources, syntax
from vpntest.plan.model import (
    OUTSIDE,
    CommandConfig,
    Config,
    Entry,
    Finding,
    Kind,
    OpenVpnConfig,
    Plan,
    Platform,
    Problem,
    Server,
    Settings,
    TorConfig,
    TunnelSpec,
)
from vpntest.plan.ovpn import ReadFile
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Refused

MAX_ATTEMPTS = 20
"""More tries than this only make a run long; a majority of 20 is as sure as it gets."""
MAX_FILES = 20_000
"""Files of one folder, those in folders within it counted."""
MAX_FOLDERS = 16
"""Folders within each other."""

_MEANT = (".conf", ".ovpn", ".json", ".yaml", ".yml", ".zip")
"""In a folder, a file of such a name is a config even if its content is none: it was meant to be one."""
_CODE = tuple(".bat .c .cpp .cs .css .go .h .java .js .kt .ps1 .py .rb .rs .sh .ts".split())
"""In a folder, files of such names are no configs, whatever stands in them: links in programs are patterns."""
_PLAN_SUFFIX = ".toml"
_BEGIN = 1 << 16
"""Bytes that tell what a file is that is too large."""


class _Source(Struct, frozen=True):
    """One file or member of an archive, whose entries share a name."""

    shown: str
    names: tuple[str, ...]
    """What it could be called, the shortest first; each is a slug."""
    data: bytes | ConfigError
    read_file: ReadFile


_Group = tuple[_Source, list[Entry]]


def read_plan(paths: Sequence[Path]) -> Plan:
    """The plan that these paths make: one plan file, or any number of folders, archives, lists and configs.

    Without a plan file every built-in platform is asked for. Raises UsageError for paths that cannot be used together
    or that are not there, ConfigError for a fault in a plan file or a platform file.
    """
    if plan := _plan_among(paths):
        return _plan_file(plan)
    groups = [(source, [_abroad(entry, source) for entry in _entries(source, None)]) for source in _sources(paths)]
    return Plan(tunnels=_tunnels(groups), platforms=platforms.built_in())


def found(paths: Sequence[Path]) -> Iterator[tuple[str, Entry]]:
    """Every config that these paths hold, one after the other, each with what its source is called.

    Raises as :func:`read_plan`.
    """
    if plan := _plan_among(paths):
        document, where = _plan_document(plan)
        for number, tunnel in enumerate(document.tunnel, 1):
            local = document.run.local_servers is True
            for source, entries in _planned(tunnel, number, plan.parent, where, local=local):
                yield from ((source.shown, _answered(entry, source)) for entry in entries)
        return
    for source in _sources(paths):
        for entry in _entries(source, None):
            yield source.shown, _abroad(entry, source)


def _plan_among(paths: Sequence[Path]) -> Path | None:
    if not paths:
        raise UsageError("nothing to read: name a plan, a folder of configs, or configs")
    plans = [path for path in paths if path.suffix.lower() == _PLAN_SUFFIX and not os.path.isdir(path)]
    if plans and len(paths) > 1:
        raise UsageError(
            f"{syntax.printable(str(plans[0]))} is a plan, and a plan stands alone; name the other files in it"
        )
    return plans[0] if plans else None


# ── folders, files, archives ─────────────────────────────────────────────────────────────────────────────────────────


def _sources(paths: Sequence[Path]) -> Iterator[_Source]:
    for path in paths:
        if os.path.isdir(path):
            yield from _in_folder(path, "")
        else:
            _check_readable(path)
            yield from _in_file(path, syntax.printable(path.name), (path.stem, path.name), asked=True)


def _check_readable(path: Path) -> None:
    """A file named on the command line that is not there is a slip of the hand, not a tunnel."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)):
            pass
    except OSError as fault:
        raise UsageError(
            f"{syntax.printable(str(path))}: cannot be read: {(fault.strerror or 'error').lower()}"
        ) from None


def _in_folder(folder: Path, prefix: str, shown: str = "") -> Iterator[_Source]:
    """The configs of a folder and of those within it; `prefix` begins their names, `shown` what they are called."""
    empty = True
    for path, fault in _walk(folder):
        relative = path.relative_to(folder)
        called = syntax.printable(str(Path(shown, relative)))
        names = tuple(f"{prefix}{name}" for name in (path.stem, path.name, "-".join(relative.parts)))
        if fault:
            named = type(fault)(fault.reason, where=called, hint=fault.hint)
            yield _Source(called, tuple(map(_slug, names)), named, files.inside(folder))
            empty = False
            continue
        for source in _in_file(path, called, names, asked=False):
            yield source
            empty = False
    if empty:
        raise UsageError(f"{syntax.printable(str(folder))}: no config in this folder, so there is no tunnel to measure")


def _walk(folder: Path) -> Iterator[tuple[Path, ConfigError | None]]:
    """The files of a folder in the order of their names, without what is hidden and without leaving it by a link."""
    root = os.path.realpath(folder)
    count = 0
    waiting: list[tuple[Path, int]] = [(folder, 1)]
    while waiting:
        here, depth = waiting.pop()
        try:
            with os.scandir(here) as entries:
                listed = []
                for entry in entries:
                    count += 1
                    if count > MAX_FILES:
                        break
                    listed.append(entry)
        except OSError as fault:
            reason = f"cannot be read: {(fault.strerror or 'error').lower()}"
            if here == folder:
                raise UsageError(f"{syntax.printable(str(folder))}: {reason}") from None
            yield here, ConfigError(reason, where="")
            continue
        below = []
        for entry in sorted(listed, key=lambda entry: entry.name):
            path = here / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth >= MAX_FOLDERS:
                    yield path, ConfigError(f"more than {MAX_FOLDERS} folders within each other", where="")
                else:
                    below.append((path, depth + 1))
            elif not entry.is_symlink():
                yield path, None
            elif not os.path.isdir(path):
                try:
                    inside = os.path.realpath(path).startswith(os.path.join(root, ""))
                except OSError as fault:
                    yield path, ConfigError(f"cannot be read: {(fault.strerror or 'error').lower()}", where="")
                    continue
                yield path, None if inside else Refused("a link that leads out of the folder", where="")
        if count > MAX_FILES:
            yield here, ConfigError(f"a folder of more than {MAX_FILES} files; not all are read", where="")
            return
        waiting += reversed(below)


def _in_file(path: Path, shown: str, names: tuple[str, ...], *, asked: bool) -> Iterator[_Source]:
    """The source that a file is, or those that the archive holds; nothing for a file that nobody `asked` for and that
    is no config."""
    slugs = tuple(map(_slug, names))
    meant = asked or path.suffix.lower() in _MEANT
    if path.suffix.lower() in (_PLAN_SUFFIX, *_CODE) and not asked:
        return
    try:
        data = files.read(path, shown, archives.MAX_ARCHIVE_BYTES)
    except ConfigError as fault:
        if meant or _begins_a_config(path):
            yield _Source(shown, slugs, fault, files.inside(path.parent))
        return
    if not archives.is_archive(data):
        if meant or sources.is_config(data):
            yield _Source(shown, slugs, data, files.inside(path.parent))
        return
    empty = True
    try:
        for member in archives.members(data, shown, sources.MAX_SOURCE_BYTES):
            place = PurePosixPath(member.name)
            if isinstance(member.data, bytes):
                is_one = place.suffix.lower() in _MEANT or sources.is_config(member.data)
            else:
                is_one = isinstance(member.data, Refused) or place.suffix.lower() in _MEANT
            if is_one and place.suffix.lower() != _PLAN_SUFFIX:
                ways = (place.stem, place.name, "-".join(place.parts))
                inner = tuple(_slug(f"{name}-{way}") for name, way in zip(_padded(names), ways, strict=True))
                yield _Source(f"{shown}/{member.name}", inner, member.data, member.read_file)
                empty = False
    except ConfigError as fault:
        yield _Source(shown, slugs, fault, files.inside(path.parent))
        return
    if empty and meant:
        yield _Source(shown, slugs, ConfigError("no config in this archive", where=shown), files.inside(path.parent))


def _begins_a_config(path: Path) -> bool:
    """Whether a file that is not read, for one that is too large, looks like a config from its first lines."""
    data = files.begin(path, _BEGIN)
    return sources.is_config(data.rpartition(b"\n")[0] or data)


def _padded(names: tuple[str, ...]) -> tuple[str, ...]:
    """Three ways of calling an archive, without its ending."""
    short = [re.sub(r"\.zip$", "", name, flags=re.IGNORECASE) for name in names]
    return (short[0], short[0], short[-1])


def _entries(source: _Source, login: sources.Login | None) -> Iterator[Entry]:
    if isinstance(source.data, ConfigError):
        yield outcome.faulty(source.data)
    else:
        yield from sources.entries(source.data, source.shown, source.read_file, login)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tunnels(groups: Sequence[_Group]) -> tuple[TunnelSpec, ...]:
    """A tunnel of each entry, all under different names, the same every time."""
    kept = [_once(entries) for _, entries in groups]
    tunnels: list[TunnelSpec] = []
    known: dict[bytes, str] = {}
    names = _names([source.names for source, _ in groups], kept)
    for (source, _), ones in zip(groups, kept, strict=True):
        for entry, digest, _ in ones:
            name = next(names)
            findings = entry.findings
            if digest in known:
                text = f"the same config as {known[digest]}: the server may mix them up"
                findings += (Finding("warning" if entry.kind in _OF_ONE else "note", text),)
            elif digest:
                known[digest] = name
            entry = _answered(entry, source)
            tunnels.append(
                TunnelSpec(
                    name=name,
                    kind=entry.kind,
                    source=source.shown,
                    config=entry.config,
                    problem=entry.problem,
                    findings=findings,
                    line=entry.line,
                    label=entry.label,
                )
            )
    return tuple(tunnels)


_OF_ONE = frozenset({Kind.WIREGUARD, Kind.AMNEZIAWG, Kind.OPENVPN})
"""Kinds whose server knows a client by its key, and sends to where it was heard last."""


class _One(NamedTuple):
    """A config of a source, or what should have been one."""

    entry: Entry
    digest: bytes
    """Empty without a config."""
    labels: list[str]
    """Slugs, sorted, of each time that it stands in the source."""


def _once(entries: Iterable[Entry]) -> list[_One]:
    """Each config once; of those left out the first tells, and their labels count as its own."""
    kept: dict[bytes, list[Entry]] = {}
    for number, entry in enumerate(entries):
        kept.setdefault(_digest(entry.config) if entry.config else str(number).encode(), []).append(entry)
    found = []
    for digest, (entry, *again) in kept.items():
        labels = sorted({_slug(one.label, "") for one in (entry, *again)} - {""})
        if again:
            lines = ", ".join(str(other.line) for other in again[:3] if other.line)
            where = f" (line {lines}{' …' if len(again) > 3 else ''})" if lines else ""
            often = "once" if len(again) == 1 else f"{len(again)} times"
            text = f"the same config stands {often} more in this source{where}: measured once"
            entry = structs.replace(entry, findings=(*entry.findings, Finding("note", text, entry.line)))
        found.append(_One(entry, digest if entry.config else b"", labels))
    return found


def _digest(config: Config) -> bytes:
    """Of all that a config says, its secrets too: names show some digits of it and nothing shows it whole."""
    said = msgspec.json.encode(config, enc_hook=lambda secret: secret.reveal())
    return hashlib.sha256(type(config).__name__.encode() + said).digest()


def _names(sources: Sequence[tuple[str, ...]], kept: Sequence[Sequence[_One]]) -> Iterator[str]:
    """A name for each of `kept`; `sources` are the names that their sources could have.

    A name is its own only where no other config could have it in any way: so it cannot become another's when that
    other loses a neighbour.
    """
    claims: dict[str, bytes] = {OUTSIDE: b""}
    for ways, ones in zip(sources, kept, strict=True):
        if len(ways) == 1 < len(ones):
            claims[ways[0]] = b""  # the plan's: it would be that of the last one left
        for way in set(ways):
            for number, one in enumerate(ones):
                claimant = one.digest or f"{ways} {number}".encode()
                for name in _forms(way, one, alone=_alone(ways, ones)):
                    if claims.setdefault(name, claimant) != claimant:
                        claims[name] = b""
    often = Counter(way for ways in sources for way in {*ways})
    taken: dict[str, int] = {}
    for ways, ones in zip(sources, kept, strict=True):
        base = next((way for way in ways if often[way] == 1 and way != OUTSIDE), ways[-1])
        for one in ones:
            forms = _forms(base, one, alone=_alone(ways, ones))
            yield _free([*(form for form in forms if claims[form]), _cut(forms[-1], 46, one.digest, 16)], taken, claims)


def _alone(ways: Sequence[str], ones: Sequence[_One]) -> bool:
    """Whether the source is its one config; a list is not, that has only one entry tonight."""
    return len(ones) == 1 and (ones[0].entry.line is None or len(ways) == 1)


def _forms(base: str, one: _One, *, alone: bool) -> list[str]:
    """What an entry could be called, the best first."""
    entry, digest, labels = one
    if alone:
        return [base, _cut(base, 54, digest)] if digest else [base]
    base = _short(base, 30)
    plain = [f"{base}-{_short(label, 32)}" for label in labels]
    if digest:
        return [*plain, f"{base}-{_cut(labels[0] if labels else entry.kind.value, 23, digest)}"]
    # It cannot be raised, so that nothing is compared by its name.
    return [*plain, f"{base}-{f'line-{entry.line}' if entry.line else entry.kind.value}"]


def _free(forms: Sequence[str], taken: dict[str, int], claims: Container[str]) -> str:
    """The first that nobody has; with a number only what is no config, and one config in many sources.

    `taken` holds the names, each with the last number that was put behind it.
    """
    candidate, number = next((form for form in forms if form not in taken), forms[-1]), taken.get(forms[-1], 1)
    if candidate in taken:
        while candidate in taken or candidate in claims:
            number += 1
            candidate = f"{_start(forms[-1], 56)}-{number}"
        taken[forms[-1]] = number
    taken[candidate] = 1
    return candidate


def _cut(text: str, length: int, digest: bytes, digits: int = 8) -> str:
    """A text with some digits of a config's digest."""
    return f"{_start(text, length)}-{digest.hex()[:digits]}" if digest else text


def _short(text: str, length: int) -> str:
    """A text of at most so many characters. What is cut off leaves its digest, for other texts begin the same."""
    return text if len(text) <= length else f"{_start(text, length - 7)}-{_hashed(text)[:6]}"


def _start(text: str, length: int) -> str:
    return text[:length].rstrip("-._")


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _slug(text: str, otherwise: str = "tunnel-") -> str:
    # The letters of a flag say its country, and are all that tells many labels apart.
    flags = "".join(chr(ord(char) - 0x1F1E6 + 97) if "\U0001f1e6" <= char <= "\U0001f1ff" else char for char in text)
    plain = unicodedata.normalize("NFKD", flags).encode("ascii", "ignore").decode().lower()
    slug = _short(re.sub(r"[^a-z0-9._]+", "-", plain).strip("-._"), 63)
    if slug or not (text or otherwise):
        return slug
    # A name in another script keeps nothing of itself; its digest at least stays the same from night to night.
    return otherwise + _hashed(text)[:8]


# ── the plan file ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Run(Struct, forbid_unknown_fields=True):
    attempts: int | UnsetType = UNSET
    ca_file: str | UnsetType = UNSET
    resolver: str | UnsetType = UNSET
    public_resolver: str | UnsetType = UNSET
    control: list[str] | UnsetType = UNSET
    upload: str | UnsetType = UNSET
    bulk: str | UnsetType = UNSET
    exit_address: str | UnsetType = UNSET
    whoami: str | UnsetType = UNSET
    neutral_name: str | UnsetType = UNSET
    local_servers: bool | UnsetType = UNSET
    tor_authorities: list[str] | UnsetType = UNSET
    platforms: list[str] | UnsetType = UNSET


class _Tunnel(Struct, forbid_unknown_fields=True):
    name: str
    config: str | None = None
    uri: str | None = None
    username: str | None = None
    password: str | None = None
    command: list[str] | None = None
    environment: dict[str, str] | None = None
    device: str | None = None
    proxy: str | None = None
    ready: list[str] | None = None
    ready_within: float | None = None
    resolver: str | None = None
    server: str | None = None


_OF_COMMAND = ("environment", "device", "proxy", "ready", "ready_within", "resolver", "server")
"""Keys that only stand beside `command`."""
_LONGEST_READY = 600.0
"""Seconds that a client of the plan's may take; more would hold up the whole run."""
_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_NOT_ITS_OWN = ("lo", "uplink")
"""Devices that a client finds where it runs: the second is its way out, which would pass for a tunnel."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class _PlanFile(Struct, forbid_unknown_fields=True):
    run: _Run = field(default_factory=_Run)
    tunnel: list[_Tunnel] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)


def _plan_file(path: Path) -> Plan:
    document, where = _plan_document(path)
    groups = [
        group
        for number, tunnel in enumerate(document.tunnel, 1)
        for group in _planned(tunnel, number, path.parent, where, local=document.run.local_servers is True)
    ]
    return Plan(
        tunnels=_tunnels(groups),
        platforms=_platforms(document.run, path, where),
        settings=_settings(document, path, where),
    )


def _plan_document(path: Path) -> tuple[_PlanFile, str]:
    where = syntax.printable(str(path))
    text = syntax.decoded(files.read(path, where, syntax.MAX_CONFIG_BYTES), where)
    document = syntax.shaped(syntax.toml(text, where), _PlanFile, where)
    if not document.tunnel:
        raise ConfigError("no tunnels", where=where, hint="add a [[tunnel]] with a name and a config")
    names: set[str] = set()
    for number, tunnel in enumerate(document.tunnel, 1):
        _check_tunnel(tunnel, f"{where}: [[tunnel]] {number}", names)
    return document, where


def _check_tunnel(tunnel: _Tunnel, where: str, names: set[str]) -> None:
    if not platforms.is_slug(tunnel.name):
        raise ConfigError("the name is not a slug of lower-case letters, digits, `.`, `_` and `-`", where=where)
    where = f"{where} ({tunnel.name})"
    if tunnel.name == OUTSIDE:
        raise ConfigError("`outside` is the row without a tunnel", where=where, hint="choose another name")
    if tunnel.name in names:
        raise ConfigError("a second tunnel of this name", where=where)
    names.add(tunnel.name)
    if [tunnel.config, tunnel.uri, tunnel.command].count(None) != 2:
        raise ConfigError("give either `config` or `uri` or `command`", where=where)
    if (tunnel.username is None) != (tunnel.password is None):
        raise ConfigError("`username` and `password` go together", where=where)
    for key in ("config", "username", "password"):
        value = getattr(tunnel, key)
        if value is not None and not (value and syntax.is_plain(value)):
            raise ConfigError(f"`{key}` is empty, or holds control characters", where=where)
    if tunnel.command is not None:
        _command(tunnel, where)
    elif given := [key for key in _OF_COMMAND if getattr(tunnel, key) is not None]:
        raise ConfigError(f"`{given[0]}` goes with `command` only", where=where)


def _command(tunnel: _Tunnel, where: str) -> CommandConfig:
    """A client of the plan's own. Its words are trusted, as the plan is; what is checked are slips of the hand."""

    def checked(key: str, read: Callable[[str], Any]) -> Any:
        value = getattr(tunnel, key)
        return None if value is None else _checked(read, value, f"{where}: {key}")

    for key in ("command", "ready"):
        words = getattr(tunnel, key)
        if words is not None and (not words or not words[0] or any("\0" in word for word in words)):
            raise ConfigError(f"`{key}` is a list of a program and its arguments", where=where)
    if (tunnel.device is None) == (tunnel.proxy is None):
        raise ConfigError("give either `device` or `proxy`: how to go through it", where=where)
    if tunnel.username is not None:
        raise ConfigError("`username` and `password` are OpenVPN's", where=where, hint="use `environment`")
    environment = tunnel.environment or {}
    if any(not _VARIABLE.fullmatch(name) or "\0" in value for name, value in environment.items()):
        raise ConfigError("`environment` holds what is no variable", where=where)
    within = 30.0 if tunnel.ready_within is None else tunnel.ready_within
    if not 0 < within <= _LONGEST_READY:
        raise ConfigError(f"`ready_within` is not above 0 and up to {_LONGEST_READY:.0f} seconds", where=where)
    return CommandConfig(
        argv=tuple(tunnel.command or ()),
        environment=tuple((name, Secret(value)) for name, value in environment.items()),
        device=checked("device", _device),
        proxy=checked("proxy", lambda text: syntax.url(text, ("socks5", "http"))),
        ready=tuple(tunnel.ready or ()),
        ready_within=within,
        resolver=checked("resolver", syntax.address),
        server=checked("server", _server),
    )


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text) or text in (".", "..", *_NOT_ITS_OWN):
        raise ValueError("not the name of a network device")
    return text


def _server(text: str) -> Server:
    place, _, transport = text.partition("/")
    host, port = syntax.host_and_rest(place)
    match transport:
        case "udp" | "tcp":
            return Server(host=host, port=syntax.port(port), transport=transport)
    raise ValueError("not of the form host:port/udp or host:port/tcp")


def _planned(tunnel: _Tunnel, number: int, folder: Path, where: str, *, local: bool) -> Iterator[_Group]:
    """The sources of one [[tunnel]], each with its entries. `local`: whether servers may stand in our own networks."""
    if tunnel.command is not None:
        config = _command(tunnel, f"{where}: [[tunnel]] {number} ({tunnel.name})")
        yield _own_source("command", tunnel.name), [Entry(kind=Kind.COMMAND, config=config)]
        return
    login = (Secret(tunnel.username), Secret(tunnel.password)) if tunnel.username and tunnel.password else None
    if tunnel.config is not None:
        groups = [(source, list(_entries(source, login))) for source in _named(tunnel.name, folder, tunnel.config)]
        note = "the plan's user name and password are ignored: only OpenVPN asks for them"
    else:
        found = list(sources.link(tunnel.uri or "", f"[[tunnel]] {number} ({tunnel.name})"))
        groups = [(_own_source("uri", tunnel.name), found)]
        note = "`username` and `password` are ignored: the link holds its own"
    everything = [entry for _, entries in groups for entry in entries]
    if login and any(entry.config for entry in everything) and not any(map(sources.asks_login, everything)):
        ignored = Finding("warning", note)
        groups = [
            (source, [structs.replace(entry, findings=(*entry.findings, ignored)) for entry in entries])
            for source, entries in groups
        ]
    if not local:
        groups = [(source, [_abroad(entry, source) for entry in entries]) for source, entries in groups]
    yield from groups


def _answered(entry: Entry, source: _Source) -> Entry:
    """The entry, unsupported where it asks for a login that nobody has said: a file alone is sound all the same."""
    if isinstance(entry.config, OpenVpnConfig) and entry.config.asks_login:
        problem = Problem("unsupported", f"{source.shown}: {ovpn.ASKS_LOGIN}; {ovpn.LOGIN_HINT}")
        return structs.replace(entry, config=None, problem=problem)
    return entry


def _abroad(entry: Entry, source: _Source) -> Entry:
    """The entry, refused where a server of it stands on this machine or its own wire."""
    config = entry.config
    for server in (config.called if isinstance(config, TorConfig) else config.servers) if config else ():
        if reason := places.refusal(server.host):
            place = source.shown if entry.line is None else f"{source.shown}:{entry.line}"
            problem = Problem("refused", f"{place}: {reason}; `local_servers = true` under [run] of a plan allows it")
            return structs.replace(entry, config=None, problem=problem)
    return entry


def _own_source(shown: str, name: str) -> _Source:
    return _Source(shown, (name,), b"", files.inside(Path()))


def _named(name: str, folder: Path, config: str) -> Iterator[_Source]:
    """What a plan's `config` names: a file, an archive, or a folder."""
    path = folder / config
    shown = _shown(config)
    if not os.path.isdir(path):
        yield from _in_file(path, shown, (name,), asked=True)
        return
    try:
        yield from _in_folder(path, f"{name}-", shown)
    except UsageError:
        yield _Source(shown, (name,), ConfigError("no config in this folder", where=shown), files.inside(path))


def _shown(config: str) -> str:
    """What to call a file that the plan names: its path in the plan, unless that leads through the whole machine."""
    return syntax.printable(Path(config).name if os.path.isabs(config) else config)


def _platforms(run: _Run, path: Path, where: str) -> tuple[Platform, ...]:
    if run.platforms is UNSET:
        return platforms.built_in()
    if not run.platforms:
        raise ConfigError(
            "no platforms", where=f"{where}: run.platforms", hint="leave the key out for all built-in ones"
        )
    chosen: dict[str, Platform] = {}
    for entry in run.platforms:
        is_path = entry.endswith(_PLAN_SUFFIX) or "/" in entry
        try:
            platform = platforms.load(path.parent / entry) if is_path else platforms.find(entry)
        except ConfigError as fault:
            raise ConfigError(fault.reason, where=f"{where}: run.platforms: {entry!r}", hint=fault.hint) from None
        if platform.id in chosen:
            raise ConfigError("a second platform of this id", where=f"{where}: run.platforms: {platform.id!r}")
        chosen[platform.id] = platform
    return tuple(chosen.values())


def _settings(document: _PlanFile, path: Path, where: str) -> Settings:
    run = document.run
    given: dict[str, Any] = {key: value for key, value in structs.asdict(run).items() if value is not UNSET}
    given.pop("platforms", None)

    def check(key: str, read: Callable[[Any], Any]) -> None:
        if key in given:
            given[key] = _checked(read, given[key], f"{where}: run.{key}")

    def web(text: str) -> str:
        return syntax.url(text, ("https", "http"))

    check("attempts", _attempts)
    for key in ("resolver", "public_resolver"):
        check(key, syntax.address)
    for key in ("upload", "bulk", "exit_address"):
        check(key, web)
    for key in ("whoami", "neutral_name"):
        check(key, _name)
    if "control" in given:
        if not given["control"]:
            raise ConfigError("at least one URL is needed", where=f"{where}: run.control", hint="or leave the key out")
        given["control"] = tuple(_checked(web, url, f"{where}: run.control") for url in given["control"])
        for key in ("upload", "bulk"):
            given.setdefault(key, given["control"][0])
    if "tor_authorities" in given:
        place = f"{where}: run.tor_authorities"
        given["tor_authorities"] = tuple(_checked(_authority, line, place) for line in given["tor_authorities"])
    if "ca_file" in given:
        place = f"{where}: run.ca_file"
        pem = files.read(path.parent / given.pop("ca_file"), place, syntax.MAX_CONFIG_BYTES)
        given["ca_pem"] = _checked(platforms.certificates, pem, place)
    given["addresses"] = {
        _checked(syntax.address, there, f"{where}: addresses"): _checked(syntax.address, here, f"{where}: addresses")
        for there, here in document.addresses.items()
    }
    return Settings(**given)


def _authority(text: str) -> str:
    """A line as tor's `DirAuthority` takes it. Raises ValueError."""
    if not syntax.is_plain(text) or not re.fullmatch(r"(?:\S+ ){0,9}[0-9.]+:[0-9]+ [0-9A-Fa-f]{40}", text):
        raise ValueError("an authority is written as tor has it: [nickname] [flags] address:port fingerprint")
    return text


def _checked(read: Callable[[Any], Any], value: Any, where: str) -> Any:
    try:
        return read(value)
    except ValueError as fault:
        raise ConfigError(str(fault), where=where) from None


def _attempts(number: int) -> int:
    if not 2 <= number <= MAX_ATTEMPTS:
        raise ValueError(f"not from 2 to {MAX_ATTEMPTS}: nothing is judged from one sample")
    return number


def _name(text: str) -> str:
    if syntax.is_address(text):
        raise ValueError("an address, where a name is needed")
    return syntax.host(text)
