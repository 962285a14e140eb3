"""A night held against those before it, wherever they are kept: in the database, or in files."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from vpntest.errors import UsageError
from vpntest.history.changes import (
    NEEDS_HISTORY,
    REMEMBERED,
    Change,
    Condition,
    Diff,
    compare,
    complaints,
    diff,
)
from vpntest.history.night import Night, Row, Told, night_of
from vpntest.history.store import Store, decode

Holding: TypeAlias = dict[Condition, tuple[Change | Row | Told, ...]]
"""The conditions that hold, and for each what makes it hold."""


def night(name: str, store: Store | None) -> Night:
    """The night of a run in the store, or of a file or directory of evidence. Raises UsageError."""
    path = Path(name, "run.json") if Path(name).is_dir() else Path(name)
    if not path.is_file():
        if store is None:
            raise UsageError(f"{name}: is no file, and no run is kept that could be meant by it")
        return night_of(decode(store.document(name)))
    try:
        return night_of(decode(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from error
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def is_file(name: str) -> bool:
    """Whether this names a file, and no run of the store."""
    return Path(name).exists()


def difference(
    before: Night,
    after: Night,
    store: Store | None,
    conditions: Iterable[Condition] = (),
    *,
    accepted: bool = False,
) -> tuple[Diff, Holding]:
    """What differs, with the store's runs as what is usual, and which conditions hold. Raises UsageError."""
    earlier = store.nights(before=after, newest=REMEMBERED) if store else ()
    changes = compare(before, after, earlier, accepted=accepted)
    holding = {one: what for one in conditions if (what := complaints(one, after, changes))}
    return diff(before, after, changes, accepted=accepted, holding=holding), holding


class Watch:
    """What becomes of a run that is about to be measured: kept, and held against what was before."""

    def __init__(self, database: Path | None, conditions: Sequence[Condition], baseline: str | None) -> None:
        """Whatever stands against it is raised here, before anything is measured: UsageError, HistoryError."""
        self._database = database
        self._conditions = conditions
        self._baseline: Night | None = None
        asks = sorted(NEEDS_HISTORY.intersection(conditions))
        self.asks = bool(asks)
        """Whether a condition asks what was before."""
        if asks and database is None and baseline is None:
            raise UsageError(f"--fail-on {asks[0]} asks what was before: it needs --db or --baseline")
        self._kept: str | None = None
        if database is None:
            self._baseline = night(baseline, None) if baseline is not None else None
            return
        with Store(database, create=True) as store:
            self._baseline = night(baseline, store) if baseline is not None else None

    def keep(self, encoded: bytes) -> tuple[Holding, bool]:
        """Keeps the run, given as its document. For each condition that holds, what makes it hold; and whether there
        was an earlier night to ask. Raises HistoryError."""
        if self._database is None:
            return self._complaints(night_of(decode(encoded)), None)
        with Store(self._database, create=True) as store:
            # What differs from a baseline is another question.
            asks = NEEDS_HISTORY.intersection(self._conditions) if self._baseline is None else ()
            after = store.keep(encoded, asks)
            self._kept = after.id
            return self._complaints(after, store)

    def tell(self) -> None:
        """To be called when the exit status says what `keep` has found: the next run rings for what is new since then.

        A run that was interrupted has told nothing, nor has one that nobody asked. Raises HistoryError.
        """
        if self._database is not None and self._kept is not None:
            with Store(self._database) as store:
                store.tell(self._kept)

    def _complaints(self, after: Night, store: Store | None) -> tuple[Holding, bool]:
        nights = store.nights(before=after, newest=REMEMBERED) if store else ()
        found, compared = {}, False
        for one in self._conditions:
            told: Container[str] | None = None
            before = self._baseline
            if before is None and store is not None:
                before, told = _reference(one, nights, store)
            compared = compared or before is not None
            changes: tuple[Change, ...] = ()
            if before is not None:
                changes = compare(before, after, nights, accepted=self._baseline is not None, told=told)
            found[one] = complaints(one, after, changes)
        return {one: what for one, what in found.items() if what}, compared


def _reference(
    condition: Condition, nights: Sequence[Night], store: Store
) -> tuple[Night | None, Container[str] | None]:
    """What a night is held against: the last one that told the condition, and all that did, so that a run by hand that
    did not ask, or one that was cut short, uses up no ring."""
    asked = store.watching(condition)
    telling = [one for one in nights if one.tells]
    told = [one for one in telling if asked.get(one.id)]
    if told or not telling:
        return (told[-1], {one.id for one in told}) if told else (None, None)
    # None has told it yet: what was before the first one that was to.
    first = next((place for place, one in enumerate(telling) if one.id in asked), len(telling))
    return telling[max(first - 1, 0)], None
