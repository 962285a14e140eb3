"""The published JSON Schemas, for whoever writes such documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

import vpntest

PACKAGE = Path(vpntest.__path__[0])


def schema_of(name: str) -> Any:
    """The schema of a document such as `vpntest.run/1`, as it is published."""
    (file,) = PACKAGE.glob(f"**/{name.partition('.')[2].partition('/')[0]}.schema.json")
    return json.loads(file.read_text(encoding="utf-8"))


def fits(document: bytes | str) -> Any:
    """A document, decoded, that fits the schema that it names. Raises ValidationError where it does not."""
    decoded = json.loads(document)
    jsonschema.Draft202012Validator(schema_of(decoded["schema"])).validate(decoded)
    return decoded
