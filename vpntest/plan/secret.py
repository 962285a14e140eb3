"""A value that must never be printed."""

from __future__ import annotations


class Secret:
    """A key, password or token. Its text leaves only through :meth:`reveal`.

    `repr`, `str` and f-strings show `***`, so that a log line or a traceback that happens to hold one shows nothing.
    Only the code that hands a secret to its carrier calls :meth:`reveal`.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(("Secret", self._text))
