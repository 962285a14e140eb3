"""Makes an :class:`Entry` of what a reader has found: its meaning, or why it has none; never an exception."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from msgspec import structs

from vpntest.errors import ConfigError
from vpntest.plan import proxies, syntax
from vpntest.plan.model import Config, Entry, Finding, Kind, Problem, WireGuardConfig
from vpntest.plan.proxy_words import Proxy
from vpntest.plan.secret import secrets_in
from vpntest.plan.syntax import Refused, Unsupported

Meaning = tuple[Config, tuple[Finding, ...]]
MAX_LABEL = 80
"""Characters of a label that are kept; some hold whole advertisements."""


def made(kind: Kind, parse: Callable[[], Meaning], *, line: int | None = None, label: str = "") -> Entry:
    """The entry of one config. A ConfigError of `parse` becomes its problem."""
    try:
        config, findings = parse()
    except ConfigError as fault:
        return Entry(
            kind=kind,
            config=None,
            problem=problem(fault),
            findings=_on(line, fault.findings),
            line=line,
            label=shown(label),
        )
    findings = _on(line, findings)
    if isinstance(config, WireGuardConfig) and config.amnezia:
        kind = Kind.AMNEZIAWG  # the keys say it, not the link or the document that they stand in
    if label and any(_holds(label, secret.reveal()) for secret in secrets_in(config)):
        label = ""
    return Entry(kind=kind, config=config, findings=findings, line=line, label=shown(label))


def proxied(read: Callable[[], Proxy], kind: Kind, *, line: int | None = None, label: str = "") -> Entry:
    """The entry of one proxy, which carries its own label."""
    named = label

    def parse() -> Meaning:
        nonlocal named
        proxy = read()
        named = proxy.label or label
        return proxies.outbound(proxy)

    entry = made(kind, parse, line=line)
    if not named or (entry.config and any(_holds(named, secret.reveal()) for secret in secrets_in(entry.config))):
        return entry
    return structs.replace(entry, label=shown(named))


def faulty(fault: ConfigError, kind: Kind = Kind.UNKNOWN, *, line: int | None = None, label: str = "") -> Entry:
    """The entry of what cannot even be looked at; without a `line` the whole source, wherever in it the fault is."""
    return Entry(kind=kind, config=None, problem=problem(fault), line=line, label=shown(label))


def problem(fault: ConfigError) -> Problem:
    """What a reader's fault means for the tunnel."""
    if isinstance(fault, Refused):
        return Problem("refused", str(fault))
    return Problem("unsupported" if isinstance(fault, Unsupported) else "invalid", str(fault))


def shown(label: str) -> str:
    """A stranger's label as it may be shown: one line, short, nothing that a terminal or a browser obeys."""
    text = "".join(char for char in label if unicodedata.category(char) != "Cf")  # bidi marks, joiners, tags
    return " ".join(syntax.printable(re.sub(r"\s+", " ", text)).split())[:MAX_LABEL]


def _on(line: int | None, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """With the line of the config that they are about, where they have none of their own."""
    if line is None:
        return findings
    return tuple(found if found.line else structs.replace(found, line=line) for found in findings)


def _holds(label: str, secret: str) -> bool:
    """Whether a label gives a secret away: a key in a name would end in every report."""
    secret = secret.strip().lower()
    return len(secret) >= 4 and secret in label.lower()
