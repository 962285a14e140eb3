"""The one JSON document of a run: everything measured and everything concluded.

    Record + Judgement ─document→ {"schema": "vpntest.run/1", …} ─decode→ Record   (to be judged again)

Fields are added, never changed in meaning. `run.schema.json` beside this file is the published JSON Schema, made from
these types (see schemas.py).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from vpntest.errors import UsageError
from vpntest.judge.verdict import Cell, Judgement, PlatformVerdict, TunnelVerdict
from vpntest.plan.model import Platform
from vpntest.probe.observation import Observation, Record, RunFacts, TunnelFacts

SCHEMA: Final = "vpntest.run/1"


class TunnelEntry(TunnelFacts, frozen=True, kw_only=True):
    """What is known of a tunnel, and how far it got."""

    stage: str | None = None
    """The last rung reached, `none` where none was; null where nothing was judged."""
    mechanism: str | None = None
    """Why not further; null exactly where `stage` is `up` or null."""
    rule: str | None = None
    witnesses: tuple[str, ...] = ()


class Document(Struct, frozen=True):
    """The whole document, in the order of its keys."""

    schema: Literal["vpntest.run/1"]
    run: RunFacts
    local_outage: tuple[str, ...] | None
    """Ids of the failed controls where the line itself was dead and nothing was judged; else null."""
    line_rule: str | None
    """Id of the rule that says why nothing was judged; null where the line was alive."""
    tunnels: tuple[TunnelEntry, ...]
    platforms: tuple[Platform, ...]
    outside: tuple[PlatformVerdict, ...]
    """The matrix' first row."""
    cells: tuple[Cell, ...]
    observations: tuple[Observation, ...]


def _assembled(record: Record, judgement: Judgement) -> Document:
    verdicts = {tunnel.tunnel: tunnel for tunnel in judgement.tunnels}
    return Document(
        schema=SCHEMA,
        run=record.run,
        local_outage=judgement.local_outage,
        line_rule=judgement.line_rule,
        tunnels=tuple(_entry(facts, verdicts.get(facts.name)) for facts in record.tunnels),
        platforms=record.platforms,
        outside=judgement.outside,
        cells=judgement.cells,
        observations=record.observations,
    )


def _entry(facts: TunnelFacts, verdict: TunnelVerdict | None) -> TunnelEntry:
    known = msgspec.structs.asdict(facts)
    if verdict is None:
        return TunnelEntry(**known)
    return TunnelEntry(
        **known,
        stage=verdict.stage,
        mechanism=verdict.mechanism,
        rule=verdict.rule,
        witnesses=verdict.witnesses,
    )


def document(record: Record, judgement: Judgement) -> dict[str, Any]:
    """The document as plain data."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(_assembled(record, judgement)))
    return plain


def encode(record: Record, judgement: Judgement) -> bytes:
    """The document as JSON in UTF-8, on one line. The same record and judgement give the same bytes."""
    return msgspec.json.encode(_assembled(record, judgement))


def record_of(kept: dict[str, Any]) -> Record:
    """The record that a document was made of, to be judged again. Raises UsageError where it is no such document."""
    try:
        return _record(msgspec.convert(kept, Document))
    except msgspec.ValidationError as error:
        raise _unreadable(error) from error


def decode(kept: bytes) -> Record:
    """The record that an encoded document was made of. Raises UsageError where it is no such document."""
    try:
        return _record(msgspec.json.decode(kept, type=Document))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> UsageError:
    return UsageError(f"not a kept run ({SCHEMA}): {error}")


def _record(kept: Document) -> Record:
    names = TunnelFacts.__struct_fields__
    return Record(
        run=kept.run,
        tunnels=tuple(TunnelFacts(**{name: getattr(entry, name) for name in names}) for entry in kept.tunnels),
        platforms=kept.platforms,
        observations=kept.observations,
    )
