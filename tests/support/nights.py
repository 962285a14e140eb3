"""Nights made by hand, in few words, and kept runs that tell of them.

month = [night(1, cells={("se", "bird"): "open"}), night(2, cells={("se", "bird"): "breaks tls.reset.sni 3/3"})]
"""

from __future__ import annotations

from collections.abc import Mapping

from vpntest.history.night import Night, Row, Told
from vpntest.judge.verdict import Cell, Outcome, PlatformVerdict, State
from vpntest.plan.model import Kind
from vpntest.probe.observation import RunFacts, VantageFacts
from vpntest.report.document import SCHEMA, Document, TunnelEntry

SERVER = "198.18.20.2:51820/udp"


def identity(day: int) -> str:
    """A run's id: a UUIDv7 that sorts by day."""
    return f"01a1fe19-{day:04x}-7808-955a-a0d17a6e7820"


def began(day: int) -> str:
    return f"2026-10-{day:02}T03:00:00+00:00"


def told(tunnel: str, platform: str, word: str) -> Told:
    """`blocked tls.reset.sni 2/3`; without numbers all three tries agree, and none were made of what is unknown."""
    outcome, *more = word.split()
    tries = next((one for one in more if "/" in one), "0/0" if outcome in ("tunnel-down",) else "3/3")
    mechanism = next((one for one in more if "/" not in one), None)
    k, n = map(int, tries.split("/"))
    return Told(tunnel, platform, outcome, mechanism, (k, n))


def row(tunnel: str, word: str = "up", *, servers: tuple[str, ...] = (SERVER,)) -> Row:
    """`up`, or `endpoint handshake.timeout`."""
    stage, _, mechanism = word.partition(" ")
    return Row(tunnel, "wireguard", servers, stage, mechanism or None)


def night(
    day: int,
    cells: Mapping[tuple[str, str], str] | None = None,
    tunnels: Mapping[str, str] | None = None,
    *,
    line_rule: str | None = None,
) -> Night:
    """One night of October. Tunnels that have cells are up unless `tunnels` says otherwise."""
    cells = cells or {}
    rows = {tunnel: "up" for tunnel, _ in cells if tunnel != "outside"} | dict(tunnels or {})
    if line_rule is not None:
        return Night(identity(day), began(day), "0.1.0", True, line_rule, tuple(_dark(one) for one in rows), ())
    return Night(
        identity(day),
        began(day),
        "0.1.0",
        True,
        None,
        tuple(row(one, word) for one, word in rows.items()),
        tuple(told(*place, word) for place, word in cells.items()),
    )


def _dark(tunnel: str) -> Row:
    return Row(tunnel, "wireguard", (SERVER,), None, None)


def series(*words: str, place: tuple[str, str] = ("se", "bird")) -> list[Night]:
    """A night for each word of one cell; `dark` is one with a dead line."""
    return [
        night(day, tunnels={place[0]: "up"}, line_rule="line.dead") if word == "dark" else night(day, {place: word})
        for day, word in enumerate(words, 1)
    ]


def document(night: Night) -> Document:
    """A kept run that tells of this night."""

    def verdict(one: Told, vantage: str, state: State) -> PlatformVerdict:
        return PlatformVerdict(vantage, one.platform, state, one.mechanism, "rule", ("o1",), one.attempts)

    line = [one for one in night.cells if one.tunnel == "outside"]
    nothing = PlatformVerdict("outside", "none", State.OK, None, "rule", ())
    return Document(
        schema=SCHEMA,
        run=RunFacts(
            night.id, night.started, night.version, 3, 60.0, VantageFacts(), night.complete, partial=night.partial
        ),
        local_outage=None if night.tells else ("o1",),
        line_rule=night.line_rule,
        tunnels=tuple(
            TunnelEntry(
                name=one.tunnel,
                kind=Kind(one.kind),
                source=f"{one.tunnel}.conf",
                servers=one.servers,
                stage=one.stage,
                mechanism=one.mechanism,
            )
            for one in night.rows
        ),
        platforms=(),
        outside=tuple(verdict(one, "outside", State(one.outcome)) for one in line),
        cells=tuple(
            Cell(
                one.tunnel,
                one.platform,
                Outcome(one.outcome),
                "rule",
                nothing,
                None if one.outcome == "tunnel-down" else verdict(one, one.tunnel, State.OK),
            )
            for one in night.cells
            if one.tunnel != "outside"
        ),
        observations=(),
    )
