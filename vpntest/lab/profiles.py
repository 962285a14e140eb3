"""The lab's censors as data: `configs/censors/*.toml`, each a published behaviour with its truth table."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct, field

from vpntest.errors import ConfigError, UsageError
from vpntest.lab.rules import Lie, Line, Rule, World
from vpntest.lab.truth import Truth, TruthFile, make
from vpntest.plan import platforms as platform_files
from vpntest.plan.model import Platform

TUNNELS = (
    *("wireguard", "wireguard-2", "amneziawg", "amneziawg-plain", "openvpn-udp", "openvpn-tcp"),
    *("shadowsocks-2022", "shadowsocks-aead", "vless-reality", "trojan", "hysteria2", "wrong-credentials"),
)
"""The lab's tunnels, in the plan's order: those of a profile that does not say which."""
TOR = "tor-obfs4"
FURTHER_TUNNELS = (
    *("openvpn-zip", "ss-legacy", "ss-obfs-http", "ss-obfs-tls", "ss-v2ray", "ss-v2ray-tls"),
    *("vless-ws", "vless-grpc", "vless-http", "vless-httpupgrade", "vless-plain", "vmess-json", "vmess-url"),
    *("trojan-ws", "trojan-grpc", "hysteria2-hopping", "hy2", "tuic", "anytls"),
    *("socks5", "http-proxy", "https-proxy", "ssh"),
    *("sip008", "outline", "sing-box", "xray", "clash", "subscription", "wireguard-link", "amnezia-link"),
    *("command-device", "command-proxy", TOR),
)
"""One for each other way to write a config down, in the plan's order. Their servers stand only where a profile names
one of them."""
BUILT_IN = ("twitter", "facebook", "messenger", "instagram", "whatsapp", "telegram", "signal", "youtube")
OWN = ("refuser", "downer")
"""The lab's own platforms: one that answers 403 to VPN exits, one that is down for everybody."""


class Profile(Struct, frozen=True):
    """A censor, the line and the world around it, who meets them, and what a run must conclude."""

    id: str
    title: str
    rules: tuple[Rule, ...]
    """Its own after those of the profile that it extends."""
    exits: dict[str, tuple[Rule, ...]]
    """VPN host → the rules of a censor that its exit stands behind: they act on what comes out of its tunnels."""
    line: Line
    world: World
    tunnels: tuple[str, ...]
    """Those in the client's plan, in its order."""
    platforms: tuple[str, ...]
    """Likewise: built-in ones, the lab's own (`configs/lab`), and those that the profile brings."""
    truth: Truth
    brought: tuple[Platform, ...] = ()
    """Platforms that are told in the profile's own file. No other profile knows them."""

    @property
    def cast(self) -> list[Platform]:
        """The platforms in the client's plan."""
        return _cast(self.platforms, self.brought)


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    extends: str | None = None
    tunnels: tuple[str, ...] = TUNNELS
    platforms: tuple[str, ...] = BUILT_IN + OWN
    line: Line = field(default_factory=Line)
    world: World = field(default_factory=World)
    rule: tuple[Rule, ...] = ()
    exit: dict[str, tuple[Rule, ...]] = {}
    platform: tuple[Platform, ...] = ()
    truth: TruthFile = field(default_factory=TruthFile)


def names() -> list[str]:
    """Every profile that can be loaded, sorted."""
    return sorted(file.stem for file in (platform_files.configs() / "censors").glob("*.toml"))


def load(name: str) -> Profile:
    """The profile of that name. Raises UsageError where there is none, ConfigError where its file cannot be used."""
    return read(name, *_text(name))


def read(name: str, text: str, where: str) -> Profile:
    """A profile from the text of its file. Raises ConfigError."""
    try:
        own = tomllib.loads(text)
        # By itself first: an error then names the place in this file.
        base = msgspec.convert(own, _File).extends
        # Nobody extends what extends another, so that a rule is one step away.
        parts = msgspec.convert(_over(tomllib.loads(_text(base)[0]), own) if base else own, _File)
        if stranger := next((one for one in parts.tunnels if one not in (*TUNNELS, *FURTHER_TUNNELS)), None):
            raise ValueError(f"the lab has no tunnel {stranger!r} - at `$.tunnels`")
        for rules in parts.exit.values():
            if any(isinstance(rule, Lie) for rule in rules):
                raise ValueError("an exit has no resolver of its own that could lie - at `$.exit`")
        platforms = (*parts.platforms, *(one.id for one in parts.platform))
        truth = make(parts.truth, parts.tunnels, _cast(platforms, parts.platform))
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigError(" ".join(str(error).split()), where=where) from error
    return Profile(
        *(name, parts.title, parts.rule, parts.exit, parts.line, parts.world, parts.tunnels, platforms, truth),
        brought=parts.platform,
    )


def _cast(names: Iterable[str], brought: Iterable[Platform]) -> list[Platform]:
    known = {one.id: one for one in brought}
    return [known.get(name) or platform(name) for name in names]


def platform(name: str) -> Platform:
    """A platform of a profile's cast: the lab's own of that id, or else a built-in one. Raises ConfigError."""
    own = platform_files.configs() / "lab" / f"{name}.toml"
    return platform_files.load(own) if own.is_file() else platform_files.find(name)


def _text(name: str) -> tuple[str, str]:
    if name not in names():
        raise UsageError(f"there is no profile {name!r}; there are: {', '.join(names())}")
    file = platform_files.configs() / "censors" / f"{name}.toml"
    return file.read_text(encoding="utf-8"), str(file)


def _over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What a profile is that extends another: rules add up, tables are laid over each other, the rest is its own."""
    merged = dict(base)
    for key, value in own.items():
        if key == "rule":
            merged[key] = [*base.get(key, ()), *value]
        elif isinstance(value, dict):
            merged[key] = _over(base.get(key, {}), value)
        else:
            merged[key] = value
    return merged
