"""The lab's censors as data: `configs/censors/*.toml`, each a published behaviour with its truth table."""

from __future__ import annotations

import tomllib

import msgspec
from msgspec import Struct

from vpntest.errors import ConfigError, UsageError
from vpntest.lab.rules import Rule
from vpntest.lab.truth import Truth, read_truth
from vpntest.plan.platforms import configs


class Profile(Struct, frozen=True):
    """A censor, and what a run beneath it must conclude."""

    id: str
    title: str
    rules: tuple[Rule, ...]
    """Its own after those of the profile that it extends."""
    truth: Truth


class _TruthFile(Struct, frozen=True, forbid_unknown_fields=True):
    outside: dict[str, str]
    tunnels: dict[str, str]
    cells: str


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    truth: _TruthFile
    extends: str | None = None
    rule: tuple[Rule, ...] = ()


def names() -> list[str]:
    """Every profile that can be loaded, sorted."""
    return sorted(file.stem for file in (configs() / "censors").glob("*.toml"))


def load(name: str) -> Profile:
    """The profile of that name. Raises UsageError where there is none, ConfigError where its file cannot be used."""
    if name not in names():
        raise UsageError(f"there is no profile {name!r}; there are: {', '.join(names())}")
    file = configs() / "censors" / f"{name}.toml"
    return read(name, file.read_text(encoding="utf-8"), str(file))


def read(name: str, text: str, where: str) -> Profile:
    """A profile from the text of its file. Raises ConfigError."""
    try:
        parts: _File = msgspec.convert(tomllib.loads(text), _File)
        truth = read_truth(parts.truth.outside, parts.truth.tunnels, parts.truth.cells)
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigError(" ".join(str(error).split()), where=where) from error
    inherited = load(parts.extends).rules if parts.extends else ()
    return Profile(name, parts.title, inherited + parts.rule, truth)
