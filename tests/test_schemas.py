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


def test_every_document_has_one() -> None:
    names = {file.name.removesuffix(".schema.json") for file in published()}
    assert names == {"run", "check", "history", "diff", "trend", "verify", "doctor"}


@pytest.mark.parametrize("file", published(), ids=lambda file: file.name)
def test_it_is_a_schema_and_refuses_another_document_for_its_name(file: Path) -> None:
    schema = json.loads(file.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    name = f"vpntest.{file.name.removesuffix('.schema.json')}/1"
    assert schema["title"] == name
    validator = jsonschema.Draft202012Validator(schema_of(name))

    def faults(document: dict[str, str]) -> set[str]:
        """Of its name; what else it lacks is left out."""
        return {
            str(one.validator) for one in validator.iter_errors(document) if "schema" in (*one.path, one.message[1:7])
        }

    assert faults({"schema": name}) == set()
    assert faults({"schema": "vpntest.other/1"}) == {"enum"}
    assert faults({"schema": name.replace("/1", "/2")}) == {"enum"}
    assert faults({}) == {"required"}
