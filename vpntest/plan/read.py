"""Turns what the user named into a :class:`Plan`: a plan file, a folder of configs, or configs one by one.

A broken config costs its own tunnel and no other: it stays in the plan with the reason why it cannot be raised. Only a
fault of the plan as a whole raises. Messages and sources name files as the user's plan or folder does, without the way
to them: they end up in reports that are handed on.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field, structs

from vpntest.errors import ConfigError, UsageError
from vpntest.plan import files, kinds, links, ovpn, platforms, syntax, wgquick
from vpntest.plan.model import (
    OUTSIDE,
    Finding,
    Kind,
    OpenVpnConfig,
    Plan,
    Platform,
    Problem,
    ProxyConfig,
    Settings,
    TunnelSpec,
    WireGuardConfig,
)
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

MAX_ATTEMPTS = 20
"""More tries than this only make a run long; a majority of 20 is as sure as it gets."""

_CONFIG_SUFFIXES = frozenset({".conf", ".ovpn"})
"""In a folder, a file of such a name is a tunnel even if its content is none: it was meant to be one."""
_PLAN_SUFFIX = ".toml"
_Login = tuple[Secret, Secret] | None
_Meaning = tuple[WireGuardConfig | OpenVpnConfig | ProxyConfig, tuple[Finding, ...]]


def read_plan(paths: Sequence[Path]) -> Plan:
    """The plan that these paths make: one plan file, or any number of folders and configs.

    Without a plan file every built-in platform is asked for. Raises UsageError for paths that cannot be used together
    or that are not there, ConfigError for a fault in a plan file or a platform file.
    """
    if not paths:
        raise UsageError("nothing to read: name a plan, a folder of configs, or configs")
    plans = [path for path in paths if path.suffix.lower() == _PLAN_SUFFIX and not os.path.isdir(path)]
    if plans:
        if len(paths) > 1:
            raise UsageError(
                f"{syntax.printable(str(plans[0]))} is a plan, and a plan stands alone; name the other files in it"
            )
        return _plan_file(plans[0])
    found: list[Path] = []
    for path in paths:
        found.extend(_configs_in(path) if os.path.isdir(path) else [_readable(path)])
    tunnels = tuple(
        _from_file(name, path, syntax.printable(path.name), None)
        for name, path in zip(_names(found), found, strict=True)
    )
    return Plan(tunnels=tunnels, platforms=platforms.built_in())


# ── folders and files ────────────────────────────────────────────────────────────────────────────────────────────────


def _readable(path: Path) -> Path:
    """The path of a config named on the command line. A file that is not there is a slip of the hand, not a tunnel."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)):
            return path
    except OSError as fault:
        raise UsageError(
            f"{syntax.printable(str(path))}: cannot be read: {(fault.strerror or 'error').lower()}"
        ) from None


def _configs_in(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as fault:
        raise UsageError(
            f"{syntax.printable(str(folder))}: cannot be read: {(fault.strerror or 'error').lower()}"
        ) from None
    found = [path for path in entries if not path.name.startswith(".") and not os.path.isdir(path) and _is_config(path)]
    if not found:
        raise UsageError(f"{syntax.printable(str(folder))}: no config in this folder, so there is no tunnel to measure")
    return found


def _is_config(path: Path) -> bool:
    """Keys, certificates and notes lie beside configs and are no tunnels."""
    if path.suffix.lower() in _CONFIG_SUFFIXES:
        return True
    try:
        text = syntax.decoded(files.read(path, path.name, syntax.MAX_CONFIG_BYTES), path.name)
    except ConfigError:
        return False
    return kinds.kind_of(text) is not Kind.UNKNOWN or links.scheme_of(text) in links.KNOWN_SCHEMES


def _names(paths: Sequence[Path]) -> list[str]:
    """A tunnel's name for each file, all different and the same every time.

    The file's name without its ending; with it where two would be the same; numbered where that does not help.
    """
    short = [_slug(path.stem) for path in paths]
    often = Counter([*short, OUTSIDE])
    names: list[str] = []
    for path, name in zip(paths, short, strict=True):
        wanted = name if often[name] == 1 else _slug(path.name)
        candidate, number = wanted, 1
        while candidate in names or candidate == OUTSIDE:
            number += 1
            candidate = f"{wanted[:58]}-{number}"
        names.append(candidate)
    return names


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9._]+", "-", plain).strip("-._")[:63]
    if slug:
        return slug
    # A name in another script keeps nothing of itself; its digest at least stays the same from night to night.
    return "tunnel-" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


# ── tunnels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _from_file(name: str, path: Path, shown: str, login: _Login) -> TunnelSpec:
    """The tunnel of one config file; `shown` is what messages and reports call the file."""
    try:
        text = syntax.decoded(files.read(path, shown, syntax.MAX_CONFIG_BYTES), shown)
    except ConfigError as fault:
        return _problem(name, Kind.UNKNOWN, shown, fault)
    kind = kinds.kind_of(text)
    if kind in (Kind.WIREGUARD, Kind.AMNEZIAWG):
        spec = _spec(name, kind, shown, lambda: wgquick.parse(text, shown))
    elif kind is Kind.OPENVPN:
        user, password = login or (None, None)
        read_file = files.inside(path.parent)
        return _spec(name, kind, shown, lambda: ovpn.parse(text, shown, read_file, username=user, password=password))
    elif links.scheme_of(text):
        spec = _spec(name, kind, shown, lambda: links.parse(text, shown))
    else:
        nothing = ConfigError("neither a wg-quick config, nor an OpenVPN one, nor a share link", where=shown)
        return _problem(name, kind, shown, nothing)
    if login:
        note = Finding("warning", "the plan's user name and password are ignored: only OpenVPN asks for them")
        return structs.replace(spec, findings=(*spec.findings, note))
    return spec


def _spec(name: str, kind: Kind, source: str, parse: Callable[[], _Meaning]) -> TunnelSpec:
    try:
        config, findings = parse()
    except ConfigError as fault:
        return _problem(name, kind, source, fault)
    return TunnelSpec(name=name, kind=kind, source=source, config=config, findings=findings)


def _problem(name: str, kind: Kind, source: str, fault: ConfigError) -> TunnelSpec:
    problem = Problem("unsupported" if isinstance(fault, Unsupported) else "invalid", str(fault))
    return TunnelSpec(name=name, kind=kind, source=source, config=None, problem=problem)


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
    platforms: list[str] | UnsetType = UNSET


class _Tunnel(Struct, forbid_unknown_fields=True):
    name: str
    config: str | None = None
    uri: str | None = None
    username: str | None = None
    password: str | None = None


class _PlanFile(Struct, forbid_unknown_fields=True):
    run: _Run = field(default_factory=_Run)
    tunnel: list[_Tunnel] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)


def _plan_file(path: Path) -> Plan:
    where = syntax.printable(str(path))
    text = syntax.decoded(files.read(path, where, syntax.MAX_CONFIG_BYTES), where)
    document = syntax.shaped(syntax.toml(text, where), _PlanFile, where)
    if not document.tunnel:
        raise ConfigError("no tunnels", where=where, hint="add a [[tunnel]] with a name and a config")
    names: set[str] = set()
    for number, tunnel in enumerate(document.tunnel, 1):
        _check_tunnel(tunnel, f"{where}: [[tunnel]] {number}", names)
    return Plan(
        tunnels=tuple(_planned(tunnel, number, path.parent) for number, tunnel in enumerate(document.tunnel, 1)),
        platforms=_platforms(document.run, path, where),
        settings=_settings(document, path, where),
    )


def _check_tunnel(tunnel: _Tunnel, where: str, names: set[str]) -> None:
    if not platforms.is_slug(tunnel.name):
        raise ConfigError("the name is not a slug of lower-case letters, digits, `.`, `_` and `-`", where=where)
    where = f"{where} ({tunnel.name})"
    if tunnel.name == OUTSIDE:
        raise ConfigError("`outside` is the row without a tunnel", where=where, hint="choose another name")
    if tunnel.name in names:
        raise ConfigError("a second tunnel of this name", where=where)
    names.add(tunnel.name)
    if (tunnel.config is None) == (tunnel.uri is None):
        raise ConfigError("give either `config` or `uri`", where=where)
    if (tunnel.username is None) != (tunnel.password is None):
        raise ConfigError("`username` and `password` go together", where=where)
    for key in ("config", "username", "password"):
        value = getattr(tunnel, key)
        if value is not None and not (value and syntax.is_plain(value)):
            raise ConfigError(f"`{key}` is empty, or holds control characters", where=where)


def _planned(tunnel: _Tunnel, number: int, folder: Path) -> TunnelSpec:
    login = (Secret(tunnel.username), Secret(tunnel.password)) if tunnel.username and tunnel.password else None
    if tunnel.config is not None:
        return _from_file(tunnel.name, folder / tunnel.config, _shown(tunnel.config), login)
    uri, where = tunnel.uri or "", f"[[tunnel]] {number} ({tunnel.name})"
    spec = _spec(tunnel.name, kinds.kind_of(uri), "uri", lambda: links.parse(uri, where))
    if login:
        note = Finding("warning", "`username` and `password` are ignored: the link holds its own")
        return structs.replace(spec, findings=(*spec.findings, note))
    return spec


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
    if "ca_file" in given:
        place = f"{where}: run.ca_file"
        pem = files.read(path.parent / given.pop("ca_file"), place, syntax.MAX_CONFIG_BYTES)
        given["ca_pem"] = _checked(platforms.certificates, pem, place)
    given["addresses"] = {
        _checked(syntax.address, there, f"{where}: addresses"): _checked(syntax.address, here, f"{where}: addresses")
        for there, here in document.addresses.items()
    }
    return Settings(**given)


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
