"""Documents made small: what repeats from observation to observation is laid side by side, then compressed.

    [{"id": …, "t0": …}, …] → {"shapes": [["id", "t0"], …], "order": [0, …], "columns": [[[…], […]], …]} → LZMA

Columns of whole numbers, and of times in whole microseconds, hold only how each differs from the one above it. The very
bytes come back: what does not is kept as it is.
"""

from __future__ import annotations

import itertools
import lzma
from collections.abc import Iterable
from typing import Any

import msgspec

_COLUMNS, _PLAIN = b"c", b"p"
"""First byte of what is packed."""
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6}]


def pack(document: bytes) -> bytes:
    """The document in few bytes."""
    try:
        columns = msgspec.json.encode(_turned(msgspec.json.decode(document)))
        if _unturned(columns) == document:
            return _COLUMNS + lzma.compress(columns, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=_FILTERS)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        pass  # not of that form
    return _PLAIN + lzma.compress(document, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=_FILTERS)


def unpack(packed: bytes) -> bytes:
    """The document. Raises ValueError where it is damaged: its checksum is part of it."""
    try:
        content = lzma.decompress(packed[1:])
        if packed[:1] == _COLUMNS:
            return _unturned(content)
    except (lzma.LZMAError, msgspec.MsgspecError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"a kept run is damaged ({error})") from error
    if packed[:1] != _PLAIN:
        raise ValueError("a kept run is damaged (no known form)")
    return content


def _turned(document: dict[str, Any]) -> dict[str, Any]:
    """With each field of the observations in a column of its own, per shape: the paths of its leaves, in order."""
    shapes: dict[tuple[tuple[str, ...], ...], int] = {}
    columns: list[list[list[Any]]] = []
    order: list[int] = []
    for observation in document["observations"]:
        leaves = _leaves(observation)
        if not leaves:
            raise ValueError("an observation without a field has no place in any column")
        number = shapes.setdefault(tuple(path for path, _ in leaves), len(shapes))
        if number == len(columns):
            columns.append([[] for _ in leaves])
        order.append(number)
        for column, (_, value) in zip(columns[number], leaves, strict=True):
            column.append(value)
    return {
        **document,
        "observations": {
            "shapes": list(shapes),
            "order": order,
            "columns": [[_steps(one) for one in part] for part in columns],
        },
    }


_MICRO = 1e6
_LARGEST = 2**53
"""Beyond it a float is no whole number of anything."""


def _steps(column: list[Any]) -> Any:
    """`{"n": steps}` for whole numbers, `{"u": steps}` for microseconds, `{"o": steps}` for ids such as o17."""
    kinds = set(map(type, column))
    if kinds == {int}:
        return {"n": _differences(column)} if max(map(abs, column)) < _LARGEST else column
    if kinds == {float} and max(map(abs, column)) < _LARGEST / _MICRO:
        micro = [round(value * _MICRO) for value in column]
        return {"u": _differences(micro)} if [one / _MICRO for one in micro] == column else column
    if kinds == {str} and all(one[:1] == "o" and one[1:].isdecimal() and len(one) < 12 for one in column):
        return {"o": _differences([int(one[1:]) for one in column])}
    return column


def _differences(numbers: list[int]) -> list[int]:
    return [one - before for before, one in itertools.pairwise([0, *numbers])]


def _sums(column: Any) -> Iterable[Any]:
    if isinstance(column, list):
        return column
    ((kind, steps),) = column.items()
    numbers = itertools.accumulate(steps)
    if kind == "n":
        return numbers
    return (one / _MICRO for one in numbers) if kind == "u" else (f"o{one}" for one in numbers)


def _leaves(value: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            found += _leaves(inner, (*above, key))
        else:
            found.append(((*above, key), inner))
    return found


def _unturned(content: bytes) -> bytes:
    document = msgspec.json.decode(content)
    turned = document["observations"]
    rows = [zip(*map(_sums, columns), strict=True) for columns in turned["columns"]]
    document["observations"] = [
        _observation(turned["shapes"][number], next(rows[number])) for number in turned["order"]
    ]
    return msgspec.json.encode(document)


def _observation(shape: list[list[str]], values: tuple[Any, ...]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for path, value in zip(shape, values, strict=True):
        place = made
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
    return made
