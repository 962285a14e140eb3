"""The published JSON Schemas are those of the types, and schemas; what fits them is tested where it is written."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from schemas import schema_of

from vpntest.schemas import published

PACKAGE = Path(__file__).resolve().parent.parent / "vpntest"


def test_each_file_is_that_of_its_type() -> None:
    """After a change: python -m vpntest.schemas"""
    assert {file: file.read_text(encoding="utf-8") for file in PACKAGE.glob("**/*.schema.json")} == published()


@pytest.mark.parametrize("file", published(), ids=lambda file: file.name)
def test_it_is_a_schema_with_the_name_of_its_document(file: Path) -> None:
    schema = json.loads(file.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == f"vpntest.{file.name.removesuffix('.schema.json')}/1"
    assert schema_of(schema["title"]) == schema


@pytest.mark.parametrize("name", ["vpntest.history/1", "vpntest.diff/1", "vpntest.trend/1", "vpntest.verify/1"])
def test_it_refuses_another_document(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": "vpntest.run/1"}, schema_of(name))
