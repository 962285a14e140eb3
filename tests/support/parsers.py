"""Every parser that meets a stranger's bytes, what must hold of each, and where a fuzzer may begin.

One table for both: the suite throws mutated seeds at it in a second, `scripts/fuzz` does so for as long as it is let.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vpntest.errors import ConfigError
from vpntest.plan import amnezia, archives, bridges, links, ovpn, proxies, sources, wglinks, wgquick
from vpntest.plan.certificates import expiry
from vpntest.plan.model import Config, Entry, Finding, Kind, OpenVpnConfig, ProxyConfig
from vpntest.plan.read import read_plan
from vpntest.plan.secret import Secret, revealed, secrets_in

WHERE = "some.conf"
_LONGEST_TEXT = 1000
_TELLING = 12
"""Characters from which on a secret that stands in a message stands there as itself and not by chance."""
_NOW = datetime(2026, 11, 21, tzinfo=UTC)


def _no_file(name: str) -> bytes:
    raise FileNotFoundError(2, "No such file or directory")


def _text(parse: Callable[[str, str], Any]) -> Callable[[bytes], Any]:
    return lambda data: parse(data.decode("utf-8", "replace"), WHERE)


def _meaning(parse: Callable[[str, str], tuple[Config, tuple[Finding, ...]]]) -> Callable[[bytes], Iterable[Entry]]:
    def entries(data: bytes) -> Iterable[Entry]:
        config, findings = parse(data.decode("utf-8", "replace"), WHERE)
        return [Entry(Kind.UNKNOWN, config, None, findings)]

    return entries


def _archive(data: bytes) -> Iterable[Entry]:
    for member in archives.members(data, WHERE, 1 << 20):
        if isinstance(member.data, bytes):
            yield from sources.entries(member.data, WHERE, member.read_file)


_SCRATCH = Path(
    tempfile.gettempdir(), f"vpntest-parsers-{os.getpid()}", *"a/plan/that/names/its/parents/finds/nothing".split("/")
)
"""Deep, for a plan may name a folder above its own: the rest of this machine is not meant."""


def _plan(data: bytes) -> Iterable[Entry]:
    _SCRATCH.mkdir(parents=True, exist_ok=True)
    path = _SCRATCH / "plan.toml"
    path.write_bytes(re.sub(rb"""(["'])/""", rb"\1./", data))
    try:
        plan = read_plan([path])
    finally:
        path.unlink()
        for folder in (_SCRATCH, *_SCRATCH.parents[:8]):
            folder.rmdir()
    return [Entry(one.kind, one.config, one.problem, one.findings, one.line, one.label) for one in plan.tunnels]


def _certificates(data: bytes) -> Iterable[Entry]:
    config = OpenVpnConfig((), (), (("ca", Secret(data.decode("utf-8", "replace"))),))
    findings = expiry(config, _NOW)
    return [Entry(Kind.OPENVPN, config, None, tuple(findings))]


PARSERS: dict[str, Callable[[bytes], Iterable[Entry]]] = {
    "source": lambda data: sources.entries(data, WHERE, _no_file),
    "link": _meaning(lambda text, where: proxies.outbound(links.proxy(text, where))),
    "wg-quick": _meaning(wgquick.parse),
    "wireguard-link": _meaning(wglinks.parse),
    "amnezia": _text(amnezia.entries),
    "openvpn": _meaning(lambda text, where: ovpn.parse(text, where, _no_file)),
    "bridges": _meaning(bridges.parse),
    "json": lambda data: sources.entries(b"{" + data, WHERE, _no_file),
    "yaml": lambda data: sources.entries(b"proxies:\n" + data, WHERE, _no_file),
    "zip": _archive,
    "plan": _plan,
    "certificates": _certificates,
}
"""By the names that `scripts/fuzz` knows them by."""


def hold(name: str, data: bytes) -> int:
    """Reads `data` and checks what holds of every reading; gives how many configs could be used.

    Raises AssertionError where something does not hold; whatever else a parser raises, but ConfigError, goes through.
    """
    try:
        entries = list(PARSERS[name](data))
    except ConfigError as fault:
        _check_text(str(fault), ())
        return 0
    for entry in entries:
        assert (entry.config is None) == (entry.problem is not None)
        secrets = list(secrets_in(entry.config))
        _check_text(entry.label, secrets)
        for finding in entry.findings:
            _check_text(finding.text, secrets)
            assert finding.line is None or finding.line > 0
        if entry.problem is not None:
            _check_text(entry.problem.reason, ())
        if entry.config is not None:
            for server in entry.config.servers:
                assert server.host.isascii(), "a host that a resolver could not ask for"
                assert 0 < server.port < 65536
        if isinstance(entry.config, ProxyConfig):
            json.dumps(revealed(entry.config.outbound), allow_nan=False).encode()
    return sum(entry.config is not None for entry in entries)


def _check_text(text: str, secrets: Iterable[Secret]) -> None:
    assert len(text) <= _LONGEST_TEXT
    hidden = [char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert not hidden, f"a message with what a terminal obeys: {hidden!r}"
    for secret in secrets:
        shown = secret.reveal().strip()
        assert len(shown) < _TELLING or shown not in text, "a message with a secret in it"


def seeds() -> dict[str, list[bytes]]:
    """Sound and broken sources to begin with, by parser: the corpus' files, and the words of their dialects."""
    corpus = Path(__file__).resolve().parent.parent / "corpus"
    files = [path.read_bytes() for path in sorted(corpus.rglob("*")) if path.is_file() and path.suffix != ".toml"]
    found: dict[str, list[bytes]] = {name: [] for name in PARSERS}
    for data in files:
        found["source"].append(data)
        if archives.is_archive(data):
            found["zip"].append(data)
        for line in data.splitlines():
            scheme = re.match(rb"\s*([A-Za-z0-9+-]+)://", line)
            if scheme is None:
                continue
            name = {b"vpn": "amnezia", b"wg": "wireguard-link", b"wireguard": "wireguard-link"}.get(scheme[1], "link")
            found[name].append(line)
        for mark, name in ((b"[Interface]", "wg-quick"), (b"remote ", "openvpn"), (b"obfs4 ", "bridges")):
            if mark in data:
                found[name].append(data)
        if data.lstrip().startswith(b"{"):
            found["json"].append(data.lstrip()[1:])
        if b"\nproxies:\n" in b"\n" + data:
            found["yaml"].append(data.partition(b"proxies:\n")[2])
        if b"-----BEGIN CERTIFICATE-----" in data:
            found["certificates"].append(data)
    found["plan"] = [path.read_bytes() for path in sorted(corpus.rglob("*.toml"))]
    if not found["zip"]:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.conf", "[Interface]\n")
        found["zip"].append(packed.getvalue())
    return found
