"""JSON and YAML of strangers: what they come to, where each table stands, and what is too much."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan import trees
from vpntest.plan.syntax import Unsupported
from vpntest.plan.trees import Keys, Table, from_json, from_yaml

TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(tree=TREES, indent=st.sampled_from([None, 1]))
def test_json_is_what_it_says(tree: Any, indent: int | None) -> None:
    assert from_json(json.dumps(tree, indent=indent), "x") == tree


def test_json_tells_where_each_table_stands() -> None:
    found = from_json('{"a":\n [{"b": 1},\n\n  {"c": {}}\n]}', "x")
    assert (found.line, [one.line for one in found["a"]]) == (1, [2, 4])


def test_json_as_clients_let_it_pass() -> None:
    text = '// head\n{"a": "x//y,]", /* two\nlines */ "b": [1, 2,], # tail\n "c": {"d": 1,},}'
    found = from_json(text, "x")
    assert found == {"a": "x//y,]", "b": [1, 2], "c": {"d": 1}}
    assert found["c"].line == 4


def test_a_key_twice_is_known() -> None:
    assert from_json('{"a": 1, "b": 2, "a": 3}', "x").twice == "a"
    assert from_yaml("a: 1\nb: 2\na: 3\n", "x").twice == "a"
    with pytest.raises(ConfigError, match="`a` is given twice"):
        Keys(from_json('{"a": 1, "a": 3}', "x"), "x")


YAML = """
base: &base
  port: 0443
  udp: yes
all:
  - {<<: *base, name: "yes", none: ~, text: 'null'}
  - <<: *base
    port: 1
  - *base
"""


def test_yaml_keeps_numbers_as_they_are_written() -> None:
    found = from_yaml(YAML, "x")
    assert found["all"] == [
        {"port": "0443", "udp": True, "name": "yes", "none": None, "text": "null"},
        {"port": "1", "udp": True},
        {"port": "0443", "udp": True},
    ]
    assert [one.line for one in found["all"]] == [6, 7, 2]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{','.join(['*' + chr(97 + level)] * 10)}]\n" for level in range(9)
)
HOSTILE = {
    "json: deep tables": ('{"a":' * 100_000, "nested too deep"),
    "json: deep lists": ("[" * 100_000, "nested too deep"),
    "json: a bit too deep": ("[" * 49 + "]" * 49, "nested too deep"),
    "json: a long number": ("9" * 5000, "too long"),
    "json: two": ('{"a": 1}}', "x:1: not JSON"),
    "json: cut off": ('{"a":\n{"b": "c', "x:2: not JSON"),
    "json: unending comment": ("{/*" * 1_000_000, "not JSON"),
    "json: an unending string": ('{"a":"' + '\\"' * 1_000_000, "not JSON"),
    "json: too large": ('["' + "x" * trees.MAX_DOCUMENT + '"]', "larger than 8 MiB"),
    "yaml: deep lists": ("[" * 100_000, "nested too deep"),
    "yaml: deep blocks": ("- " * 100_000, "nested too deep"),
    "yaml: deep keys": ("? " * 50_000, "nested too deep"),
    "yaml: aliases of aliases": (BOMB, "unfolds into too much"),
    "yaml: merges of merges": (
        "a: &a {" + ",".join(f"k{n}: 1" for n in range(2000)) + "}\n" + "b:\n" + "- <<: *a\n" * 2000,
        "unfolds into too much",
    ),
    "yaml: an alias of itself": ("&a [*a]", "alias"),
    "yaml: an alias of nothing": ("a: *b", "alias"),
    "yaml: a list for a key": ("{[a]: b}", "no text"),
    "yaml: tabs": ("\t- a", "x:1: not YAML"),
    "yaml: control characters": ("a: \x01", "not YAML"),
    "yaml: cut off": ("a: {b: c\nd", "not YAML"),
    "yaml: no Unicode": ("a: \ud800", "not YAML"),
    "yaml: too large": ("a: " + "x" * trees.MAX_DOCUMENT, "larger than 8 MiB"),
}


@pytest.mark.parametrize(("name", "text", "reason"), [(name, *case) for name, case in HOSTILE.items()], ids=HOSTILE)
def test_hostile_documents_end_as_one_reason(name: str, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        (from_json if name.startswith("json") else from_yaml)(text, "x")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 120


def test_a_tag_makes_nothing() -> None:
    assert from_yaml("a: !!python/object/apply:os.system ['true']\n", "x") == {"a": ["true"]}
    assert from_yaml("a: !!python/name:os.system x\n", "x") == {"a": "x"}


@given(text=st.text(alphabet="{}[]:,\"'&*!-? \n\tab~|>#%0\\/") | st.text())
def test_only_our_errors_leave(text: str) -> None:
    for read in (from_json, from_yaml):
        said = "x"
        try:
            read(text, "x")
        except ConfigError as fault:
            said = str(fault)
        assert said.startswith("x")


# ── taking keys out ──────────────────────────────────────────────────────────────────────────────────────────────────


def _keys(**values: Any) -> Keys:
    return Keys(Table(values), "x")


def test_values_are_taken_as_what_they_are() -> None:
    keys = _keys(a="x", b=7, c=True, d="true", e=["x", 1], f="y", g={}, h=443.0, i=None)
    assert [keys.text("a"), keys.text("b"), keys.text("i", "zz"), keys.number("h")] == ["x", "7", "", "443"]
    assert [keys.flag("c"), keys.flag("d"), keys.flag("zz")] == [True, True, False]
    assert [keys.texts("e"), keys.texts("f")] == [["x", "1"], ["y"]]
    keys.done()  # an empty table says nothing


@pytest.mark.parametrize(
    ("value", "take"),
    [
        (True, "text"),
        ([], "text"),
        ("x", "number"),
        (True, "number"),
        (1.5, "number"),
        (-1, "number"),
        ("maybe", "flag"),
        (2, "flag"),
        ([], "flag"),
        ([{}], "texts"),
        ({}, "texts"),
        ("x", "inner"),
        ([], "inner"),
    ],
)
def test_a_value_of_the_wrong_type_is_broken(value: Any, take: str) -> None:
    with pytest.raises(ConfigError, match="`secret_key`") as caught:
        getattr(_keys(secret_key=value), take)("secret_key")
    assert not isinstance(caught.value, Unsupported)


def test_what_is_left_is_named_but_never_quoted() -> None:
    with pytest.raises(Unsupported, match="`foo` cannot be honoured"):
        _keys(foo="hush").done()
    with pytest.raises(Unsupported) as caught:
        Keys(Table({"\x1b[2J hush": 1}), "x").done()
    assert "hush" not in str(caught.value)
    inner = _keys(tls=Table(bar=1)).inner("tls")
    assert inner is not None
    with pytest.raises(Unsupported, match=r"`tls\.bar`"):
        inner.done()


def test_the_number_of_tables_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MAX_TABLES", 20)
    assert len(from_json('{"x": [' + "{}," * 17 + "{}]}", "x")["x"]) == 18
    for text in ('{"x": [' + "{}," * 18 + "{}]}", '{"x": [' + "{}," * 40 + "]} // so it is not"):
        with pytest.raises(ConfigError, match="more than 20 objects and lists"):
            from_json(text, "x")
