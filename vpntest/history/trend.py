"""How a tunnel, or one cell, has done night by night: a small plot of signs.

sweden × twitter · 7 nights
  works    ○ ✓ ✓ ✓
  limited
  fails              ✗ ✗
  unknown          ?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from vpntest.errors import UsageError
from vpntest.history.night import LEVELS, Night, Row, Told
from vpntest.judge.verdict import Outcome
from vpntest.report.matrix import SIGNS
from vpntest.report.text import plain, to_ascii
from vpntest.tunnel.vantage import OUTSIDE

SCHEMA: Final = "vpntest.trend/1"
_UP, _DEAD, _ABSENT = "up", "line dead", "absent"
_OWN_SIGNS = {_UP: ("✓", "+"), _DEAD: ("·", "."), _ABSENT: (" ", " ")}
_DOWN = ("✗", "x")
_MARGIN = 2


class Point(Struct, frozen=True):
    """One night of it."""

    run: str
    started: str
    word: str | None
    """A cell's outcome, a tunnel's stage; null where the run says nothing of it."""
    mechanism: str | None
    level: str | None
    """`works`, `limited`, `fails`; null where the night does not tell."""
    line_rule: str | None
    """Why nothing was judged that night; null where the line was alive."""


class Strip(Struct, frozen=True):
    """One row of the plot."""

    tunnel: str
    platform: str | None
    """Null for the tunnel itself."""
    points: tuple[Point, ...]


class Trend(Struct, frozen=True):
    """The JSON form."""

    schema: Literal["vpntest.trend/1"]
    strips: tuple[Strip, ...]


def trend(nights: Sequence[Night], tunnel: str, platform: str | None = None) -> Trend:
    """The tunnel itself and all its cells; or the one cell. Raises UsageError for what no night has."""
    tunnels = dict.fromkeys((OUTSIDE, *(row.tunnel for night in reversed(nights) for row in night.rows)))
    if tunnel not in tunnels:
        raise UsageError(f"no kept run has a tunnel called {tunnel!r}; they have: {', '.join(tunnels)}")
    platforms = dict.fromkeys(
        cell.platform for night in reversed(nights) for cell in night.cells if cell.tunnel == tunnel
    )
    if platform is not None and platform not in platforms:
        raise UsageError(f"no kept run has a platform called {platform!r} there; they have: {', '.join(platforms)}")
    asked: list[str | None] = (
        [platform] if platform is not None else [*([] if tunnel == OUTSIDE else [None]), *platforms]
    )
    return Trend(
        SCHEMA, tuple(Strip(tunnel, one, tuple(_point(night, tunnel, one) for night in nights)) for one in asked)
    )


def _point(night: Night, tunnel: str, platform: str | None) -> Point:
    told: Row | Told | None
    if platform is None:
        told = next((row for row in night.rows if row.tunnel == tunnel), None)
        word = told.stage if told else None
    else:
        told = next((one for one in night.cells if (one.tunnel, one.platform) == (tunnel, platform)), None)
        word = told.outcome if told else None
    level = told.level if told else None
    return Point(
        night.id,
        night.started,
        word,
        told.mechanism if told else None,
        None if level is None else LEVELS[level],
        night.line_rule,
    )


def render(trend: Trend, *, width: int, unicode: bool = True) -> str:
    """The plot, as wide as the terminal at most: what does not fit is the oldest."""
    strips = trend.strips
    plots = _one(strips[0], width, unicode) if len(strips) == 1 else _many(strips, width, unicode)
    text = "\n".join([*plots, "", *_legend(strips, unicode)]) + "\n"
    return to_ascii(text, unicode)


def _one(strip: Strip, width: int, unicode: bool) -> list[str]:
    """A line for each level, and the nights on which it changed."""
    longest = max(len("unknown"), *map(len, LEVELS.values()))
    points = strip.points[-_room(width, longest) :]
    lines = [_title([strip], points)]
    for level in (*LEVELS.values(), None):
        row = "".join(_sign(strip, point, unicode) if point.level == level else " " for point in points)
        lines.append(f"  {level or 'unknown':<{longest}}  {row}".rstrip())
    lines += [_axis(points, longest), ""]
    last: str | None = None
    for point in strip.points:
        if point.level is not None and point.level != last:
            why = f" ({plain(point.mechanism)})" if point.mechanism else ""
            lines.append(f"  {point.started[:10]}  {plain(point.word or '')}{why}")
            last = point.level
    return lines


def _many(strips: Sequence[Strip], width: int, unicode: bool) -> list[str]:
    names = [plain(strip.platform) if strip.platform else "the tunnel" for strip in strips]
    longest = max(map(len, names))
    room = _room(width, longest + _MARGIN + 12)
    points = strips[0].points[-room:]
    lines = [_title(strips, points)]
    for name, strip in zip(names, strips, strict=True):
        row = "".join(_sign(strip, point, unicode) for point in strip.points[-room:])
        now = next((point.word for point in reversed(strip.points) if point.level is not None), None)
        lines.append(f"  {name:<{longest}}  {row}  {plain(now) if now else 'unknown'}")
    return [*lines, _axis(points, longest)]


def _room(width: int, used: int) -> int:
    return max(width - used - 2 * _MARGIN, 10)


def _title(strips: Sequence[Strip], points: Sequence[Point]) -> str:
    name = plain(strips[0].tunnel)
    if len(strips) == 1 and strips[0].platform:
        name += f" × {plain(strips[0].platform)}"
    all_of_them = len(strips[0].points)
    shown = f"the newest {len(points)} of " if len(points) < all_of_them else ""
    return f"{name}: {shown}{all_of_them} night{'' if all_of_them == 1 else 's'}"


def _axis(points: Sequence[Point], longest: int) -> str:
    if not points:
        return ""
    first, last = points[0].started[:10], points[-1].started[:10]
    indent = " " * (longest + 2 * _MARGIN)
    gap = len(points) - len(first) - len(last)
    return indent + (first + " " * gap + last if gap > 0 else f"{first} … {last}")


def _sign(strip: Strip, point: Point, unicode: bool) -> str:
    word = _key(strip, point)
    # A word that only a newer vpntest knows says as little as this one.
    sign = SIGNS.get(word, SIGNS[Outcome.INSUFFICIENT])
    glyph, ascii_glyph = _OWN_SIGNS.get(word) or (_DOWN if strip.platform is None else (sign.glyph, sign.ascii))
    return glyph if unicode else ascii_glyph


def _key(strip: Strip, point: Point) -> str:
    if point.line_rule is not None:
        return _DEAD
    if point.word is None:
        return _ABSENT
    return point.word


def _legend(strips: Sequence[Strip], unicode: bool) -> list[str]:
    used: dict[str, str] = {}
    for strip in strips:
        for point in strip.points:
            word = _key(strip, point)
            if word == _ABSENT:
                continue
            told = "tunnel up" if word == _UP else "tunnel not up" if strip.platform is None and word != _DEAD else word
            used.setdefault(told, _sign(strip, point, unicode))
    order = ["tunnel up", "tunnel not up", *map(str, Outcome), _DEAD]
    shown = sorted(used, key=lambda word: order.index(word) if word in order else len(order))
    return ["  " + "   ".join(f"{used[word]} {word}" for word in shown)] if shown else []
