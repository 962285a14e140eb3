"""Text that others wrote, made safe to show: it must neither steer the terminal nor turn the reading order around."""

from __future__ import annotations

import unicodedata

_NEVER_SHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories: controls (escape sequences begin with one), formats (bidirectional overrides, zero-width), and
what has no glyph at all."""


def plain(text: str, limit: int = 300) -> str:
    """One line without controls and formats, at most `limit` characters; what was taken out shows as `�`."""
    shown = "".join(
        " " if character in "\t\n\r" else "�" if unicodedata.category(character) in _NEVER_SHOWN else character
        for character in text
    )
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
