"""What `vpntest check` says of configs: what each is, where it leads, and what of it cannot or must not be honoured.

    (source, Entry) … ─check→ Report ─render→ text for people, JSON for machines

Nothing here needs root or the network. A config is judged as it stands, and then by this machine's carriers: an
option that an installed carrier lacks makes it `unsupported`; a carrier that is not there at all does not, for the
machine that checks is often not the one that measures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from vpntest.plan.model import Entry, Finding, Kind, OpenVpnConfig, Problem, TunnelSpec
from vpntest.report.text import painted, plain, to_ascii, wrapped
from vpntest.tunnel.carriers import Carriers

SCHEMA: Final = "vpntest.check/1"
Status = Literal["ok", "warning", "unsupported", "invalid", "refused"]
_UNUSABLE = frozenset({"unsupported", "invalid", "refused"})

_SIGNS: dict[Status, tuple[str, str, tuple[int, int, int]]] = {
    "ok": ("✓", "+", (0, 158, 115)),
    "warning": ("!", "!", (230, 159, 0)),
    "unsupported": ("○", "o", (204, 121, 167)),
    "invalid": ("✗", "x", (213, 94, 0)),
    "refused": ("■", "#", (213, 94, 0)),
}
"""A glyph, one in ASCII, and a colour of Okabe and Ito's palette; the word stands beside them always."""
_SHOWN_SERVERS = 3


class Told(Struct, frozen=True):
    """One thing to know of a config."""

    level: Literal["note", "warning", "danger", "unsupported", "invalid", "refused"]
    """The first three as of a finding; the others are why the config cannot be used."""
    text: str
    """One line, without secrets."""
    line: int | None = None
    """One-based, in the source."""


class Checked(Struct, frozen=True):
    """One config."""

    path: str
    """The file as it was named, for an archive's member with its name in there."""
    line: int | None
    """Where the config begins; null where it is the whole file."""
    label: str
    """What the source calls it; a stranger's word."""
    kind: Kind
    endpoints: tuple[str, ...]
    """`host:port/transport` of each server."""
    status: Status
    """`warning`: usable, with something that may matter. The last three: not usable."""
    findings: tuple[Told, ...]


class Report(Struct, frozen=True):
    """All of them, in the order in which they were found."""

    schema: Literal["vpntest.check/1"]
    configs: tuple[Checked, ...]

    @property
    def usable(self) -> bool:
        """Whether every config can be raised as it stands."""
        return not any(config.status in _UNUSABLE for config in self.configs)


def check(found: Iterable[tuple[str, Entry]], carriers: Carriers, now: datetime) -> Report:
    """Everything that can be said of these configs at the time `now` without using them."""
    return Report(SCHEMA, tuple(_checked(path, entry, carriers, now) for path, entry in found))


def _checked(path: str, entry: Entry, carriers: Carriers, now: datetime) -> Checked:
    problem = entry.problem or _lack(path, entry, carriers)
    findings = list(entry.findings)
    if isinstance(entry.config, OpenVpnConfig):
        from vpntest.plan.certificates import expiry

        findings += expiry(entry.config, now)
    if problem is None:
        findings += carriers.left_out(entry.config)
    told = [Told(finding.level, finding.text, finding.line) for finding in findings]
    if problem is not None:
        reason, line = _placed(path, problem.reason)
        told.insert(0, Told(problem.mechanism, reason, line or entry.line))
    return Checked(
        path=path,
        line=entry.line,
        label=entry.label,
        kind=entry.kind,
        endpoints=tuple(map(str, entry.config.servers)) if entry.config else (),
        status=_status(problem, findings),
        findings=tuple(told),
    )


def _status(problem: Problem | None, findings: list[Finding]) -> Status:
    if problem is not None:
        return problem.mechanism
    return "ok" if all(finding.level == "note" for finding in findings) else "warning"


def _lack(path: str, entry: Entry, carriers: Carriers) -> Problem | None:
    """What the carrier that is here lacks for this config; None also where there is no such carrier at all."""
    spec = TunnelSpec(name="check", kind=entry.kind, source=path, config=entry.config)
    choice = carriers.choose(spec)
    return choice if isinstance(choice, Problem) and not carriers.absent(spec) else None


def _placed(path: str, reason: str) -> tuple[str, int | None]:
    """A problem's reason without the place that it begins with, and the line that the place names."""
    rest = reason.removeprefix(path)
    if rest == reason:
        return reason, None
    number, colon, text = rest.removeprefix(":").partition(": ")
    if colon and number.isdigit():
        return text, int(number)
    return rest.removeprefix(": "), None


def encode(report: Report) -> bytes:
    """The report as JSON in UTF-8, on one line."""
    return msgspec.json.encode(report)


def render(
    report: Report, *, width: int, colour: bool, unicode: bool = True, all_of_them: bool = True
) -> Iterator[str]:
    """The report for people, in pieces that end in a newline: each config, what is to be known of it, and the sums.

    Without `all_of_them` configs that are ok are only counted.
    """
    for config in report.configs:
        if all_of_them or config.status != "ok":
            yield to_ascii(_told(config, width, colour, unicode), unicode)
    sums = Counter(config.status for config in report.configs)
    words = ", ".join(f"{sums[status]} {status}" for status in _SIGNS if sums[status])
    total = len(report.configs)
    yield f"{total} config{'' if total == 1 else 's'}: {words or 'none'}\n"


def _told(config: Checked, width: int, colour: bool, unicode: bool) -> str:
    place = plain(config.path) + ("" if config.line is None else f":{config.line}")
    servers = [plain(server) for server in config.endpoints[:_SHOWN_SERVERS]]
    if more := len(config.endpoints) - len(servers):
        servers.append(f"and {more} more")
    label = f" “{plain(config.label, 60)}”" if config.label else ""
    glyph, ascii_glyph, rgb = _SIGNS[config.status]
    head = painted(f"{glyph if unicode else ascii_glyph} {config.status}", rgb, colour)
    lines = [f"{head}  {place}  {config.kind}  {', '.join(servers)}".rstrip() + label]
    for one in config.findings:
        where = "" if one.line is None or one.line == config.line else f"line {one.line}: "
        text = f"{one.level}: {where}{plain(one.text, 600)}"
        lines.append(wrapped(text, max(width, 40), "    ", "      "))
    return "\n".join(lines) + "\n"
