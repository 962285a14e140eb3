"""A value that must never be printed, and what else must not be printed because it is that value in other letters."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

REMOVED = "[removed]"
"""Stands where a secret was."""


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


def secrets_in(value: object) -> Iterator[Secret]:
    """Every secret in a config, a plan, or any part of one, however deep."""
    match value:
        case Secret():
            yield value
        case dict():
            for part in value.values():
                yield from secrets_in(part)
        case list() | tuple():
            for part in value:
                yield from secrets_in(part)
        case _ if hasattr(value, "__struct_fields__"):
            for name in value.__struct_fields__:
                yield from secrets_in(getattr(value, name))


def revealed(value: object) -> Any:
    """Part of a config with its secrets in the open, for the carrier that is to read it."""
    match value:
        case Secret():
            return value.reveal()
        case dict():
            return {key: revealed(part) for key, part in value.items()}
        case list() | tuple():
            return [revealed(part) for part in value]
    return value


_LEAST_PART = 8
"""Characters of a line of a secret, or of a piece of its base64, from which on it is taken for a part of the secret."""
_KEY_MATERIAL = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
"""What looks like a key, though no config of ours holds it: one that a server handed out, for instance."""
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){8,}")
_MARK = "\0"


class Redaction:
    """Takes secrets out of text, also where a program writes them in other letters than the config does.

    Those are: base64 in both alphabets, with and without padding and as a piece of something longer; hex; decimal
    bytes; quoted for URLs and for JSON; the bytes behind a secret that is base64 or a UUID itself, in each of these;
    each line of a secret of several; and the SHA-224 that Trojan's protocol takes in a password's place. Beyond these,
    whatever looks like a key goes.
    """

    def __init__(self, secrets: Iterable[Secret]) -> None:
        forms = {form for secret in secrets for form in _forms(secret.reveal())}
        # The longest first: a part that went before would hide the whole from us.
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    def of(self, text: str) -> str:
        """`text` with :data:`REMOVED` in the place of each secret."""
        text = text.replace(_MARK, " ")
        for form in self._forms:
            if form in text:
                text = text.replace(form, _MARK)
        text = _KEY_MATERIAL.sub(_MARK, text)
        return re.sub(f"{_MARK}+", lambda _: REMOVED, text)


def _forms(text: str) -> Iterator[str]:
    """All the ways in which a program may write a secret."""
    if not text.strip():
        return
    yield from _written(text)
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) > 1:
        # A line between dashes is the label of a PEM block, which is no secret.
        inner = [line for line in lines if len(line) >= _LEAST_PART and not line.startswith(("-----", "#"))]
        for line in inner:
            yield from _written(line)
        text = "".join(inner)
    for raw in _behind(text):
        yield from _coded(raw)


def _written(text: str) -> Iterator[str]:
    yield from {text, quote(text), quote(text, safe=""), quote_plus(text), json.dumps(text)[1:-1]}
    yield from {json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
    if _HEX.fullmatch(text.replace("-", "")):
        yield from (text.lower(), text.upper())
    raw = text.encode()
    yield from _coded(raw)
    digest = hashlib.sha224(raw).hexdigest()
    yield from (digest, digest.upper())


def _coded(raw: bytes) -> Iterator[str]:
    """Bytes as text, in each of the usual codes."""
    yield from (raw.hex(), raw.hex().upper(), raw.hex(":"), " ".join(map(str, raw)), ", ".join(map(str, raw)))
    for altchars in (b"+/", b"-_"):
        whole = base64.b64encode(raw, altchars).decode()
        yield from (whole, whole.rstrip("="))
        for shift in range(3):
            # Within something longer it begins at one of three places of base64's groups; what its neighbours have a
            # share in, is left out.
            piece = base64.b64encode(bytes(shift) + raw, altchars).decode().rstrip("=")
            inner = piece[(0, 2, 3)[shift] : len(piece) - (1 if (shift + len(raw)) % 3 else 0)]
            if len(inner) >= _LEAST_PART:
                yield inner


def _behind(text: str) -> Iterator[bytes]:
    """The bytes that a secret is the text of."""
    for part in {text, *text.split(":")}:
        bare = part.strip().rstrip("=").replace("-", "+").replace("_", "/")
        try:
            raw = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) >= _LEAST_PART:
            yield raw
    if _HEX.fullmatch(digits := text.replace("-", "")):
        yield bytes.fromhex(digits)
