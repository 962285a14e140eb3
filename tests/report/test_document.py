"""The JSON document: its published schema, and the way back."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from records import TIMEOUT, World
from schemas import fits, schema_of
from story import story

from vpntest.errors import UsageError
from vpntest.judge.judging import judge
from vpntest.probe.observation import Record
from vpntest.report.document import decode, document, encode, record_of


def dead_line() -> Record:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.tunnel("a", carry=False)
    return world.record()


RECORDS = [story(), dead_line(), World().record()]
NAMES = ["story", "dead line", "empty"]


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_documents_fit_the_schema(record: Record) -> None:
    fits(encode(record, judge(record)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "vpntest.run/2"),
        (("cells", 0, "outcome"), "fine"),
        (("observations", 0, "details", "type"), "other"),
        (("tunnels", 0, "name"), None),
    ],
)
def test_the_schema_refuses_what_is_none(path: tuple[Any, ...], value: Any) -> None:
    record = story()
    kept = document(record, judge(record))
    inner = kept
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema_of("vpntest.run/1")).validate(json.loads(json.dumps(kept)))


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_a_document_is_one_line(record: Record) -> None:
    kept = encode(record, judge(record))
    assert b"\n" not in kept
    assert kept == json.dumps(json.loads(kept), separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_a_kept_run_judged_again_is_the_same_byte_for_byte(record: Record) -> None:
    kept = encode(record, judge(record))
    again = decode(kept)
    assert again == record
    assert encode(again, judge(again)) == kept
    assert record_of(json.loads(kept)) == record


def test_the_keys_of_the_contract() -> None:
    record = story()
    kept = document(record, judge(record))
    assert [*kept] == [
        "schema",
        "run",
        "local_outage",
        "line_rule",
        "tunnels",
        "platforms",
        "outside",
        "cells",
        "observations",
    ]
    by_name = {tunnel["name"]: tunnel for tunnel in kept["tunnels"]}
    assert (by_name["se"]["stage"], by_name["se"]["mechanism"]) == ("up", None)
    assert (by_name["ov"]["stage"], by_name["ov"]["mechanism"]) == ("handshake", "auth.rejected")
    assert by_name["ov"]["warnings"] == ["up: ignored, never run"]
    assert by_name["bad"]["problem"]["mechanism"] == "invalid"
    [cell] = [one for one in kept["cells"] if (one["tunnel"], one["platform"]) == ("se", "facebook")]
    assert cell["outcome"] == "circumvents"
    assert {"state", "mechanism", "rule", "witnesses", "attempts", "services"} <= {*cell["outside"]} & {*cell["inside"]}
    assert (cell["outside"]["state"], cell["outside"]["mechanism"]) == ("blocked", "tls.reset.sni")
    ids = {one["id"] for one in kept["observations"]}
    assert set(cell["outside"]["witnesses"]) <= ids


def test_what_was_not_judged_is_null() -> None:
    record = dead_line()
    kept = document(record, judge(record))
    assert kept["local_outage"] == [one.id for one in record.observations if one.failure]
    assert kept["line_rule"] == "line.dead"
    assert kept["cells"] == kept["outside"] == []
    assert (kept["tunnels"][0]["stage"], kept["tunnels"][0]["rule"]) == (None, None)


def test_a_field_of_a_later_version_is_passed_over() -> None:
    record = story()
    kept = document(record, judge(record))
    kept["later"] = kept["run"]["later"] = kept["observations"][0]["later"] = 1
    assert decode(json.dumps(kept).encode()) == record


@pytest.mark.parametrize(
    "kept",
    [b"", b"\x00\xff", b"[]", b"{}", b'{"schema": "vpntest.run/2"}', b"[" * 100_000, b'{"schema": "vpntest.run/1"}'],
    ids=["empty", "binary", "list", "no keys", "other version", "deep", "nothing but the schema"],
)
def test_what_is_no_kept_run_is_a_usage_error(kept: bytes) -> None:
    with pytest.raises(UsageError, match=r"not a kept run \(vpntest\.run/1\)"):
        decode(kept)


def test_a_dictionary_that_is_no_kept_run_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not a kept run"):
        record_of({"schema": "vpntest.run/1"})
