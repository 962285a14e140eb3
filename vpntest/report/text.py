"""Text that others wrote, made safe to show: it must neither steer the terminal nor turn the reading order around."""

from __future__ import annotations

import textwrap
import unicodedata

_NEVER_SHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories: controls (escape sequences begin with one), formats (bidirectional overrides, zero-width), and
what has no glyph at all."""


_TO_ASCII = str.maketrans({"“": '"', "”": '"', "×": "x", "·": "-", "…": "...", "–": "-", "→": "->", "�": "?"})


def to_ascii(text: str, unicode: bool = False) -> str:
    """The text for whom nothing beyond ASCII can be shown; with `unicode` as it is."""
    return text if unicode else text.translate(_TO_ASCII).encode("ascii", "replace").decode("ascii")


def painted(text: str, rgb: tuple[int, int, int] | None, colour: bool) -> str:
    """The text in a colour, if there is to be any."""
    return f"\x1b[38;2;{rgb[0]};{rgb[1]};{rgb[2]}m{text}\x1b[0m" if colour and rgb else text


def wrapped(text: str, width: int, first: str = "", rest: str = "") -> str:
    """The text in lines of at most that many columns, of which `first` and `rest` are the beginnings.

    No line ends within a name such as `se-sto-001`: whoever reads it wants to copy it.
    """
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def plain(text: str, limit: int = 300) -> str:
    """One line without controls and formats, at most `limit` characters; what was taken out shows as `�`."""
    shown = "".join(
        " " if character in "\t\n\r" else "�" if unicodedata.category(character) in _NEVER_SHOWN else character
        for character in text
    )
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
