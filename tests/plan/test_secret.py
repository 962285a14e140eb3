"""A secret shows itself to nobody who did not ask."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan.model import Kind, Plan, ProxyConfig, Server, TunnelSpec
from vpntest.plan.secret import REMOVED, Redaction, Secret, revealed, secrets_in


@pytest.mark.parametrize(
    "shown",
    [
        repr,
        str,
        format,
        "{:>10}".format,
        "{!r}".format,
        lambda secret: f"{secret}",
        lambda secret: str([secret, {"key": secret}]),
    ],
)
def test_no_way_of_printing_shows_it(shown) -> None:
    assert "hush" not in shown(Secret("hush"))


def test_it_comes_out_when_asked_for() -> None:
    assert Secret("hush").reveal() == "hush"


def test_all_of_a_config_comes_out_when_asked_for() -> None:
    held = {"a": [Secret("hush"), {"b": Secret("hush")}], "c": (1, "plain"), "d": None}
    assert revealed(held) == {"a": ["hush", {"b": "hush"}], "c": [1, "plain"], "d": None}


def test_equal_secrets_are_equal_and_others_are_not() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


# ── taken out of text ────────────────────────────────────────────────────────────────────────────────────────────────

WORD = "kingfisher on a wire/42"
KEY = base64.b64encode(bytes(range(60, 92))).decode()
PEM = "-----BEGIN KEY-----\nMC4CAQAwBQYDK2VwBCIEIGJpcmRz\nb24gYSB3aXJlIGFuZCBhIGtleQ==\n-----END KEY-----"


def redacted(secret: str, text: str) -> str:
    return Redaction([Secret(secret)]).of(text)


@pytest.mark.parametrize(
    ("secret", "written"),
    [
        (WORD, WORD),
        (WORD, "kingfisher%20on%20a%20wire/42"),
        (WORD, "kingfisher%20on%20a%20wire%2F42"),
        (WORD, "kingfisher+on+a+wire%2F42"),
        (WORD, WORD.encode().hex()),
        (WORD, WORD.encode().hex().upper()),
        (WORD, WORD.encode().hex(":")),
        (WORD, "[" + " ".join(str(byte) for byte in WORD.encode()) + "]"),
        (WORD, base64.b64encode(WORD.encode()).decode()),
        (WORD, base64.b64encode(WORD.encode()).decode().rstrip("=")),
        (WORD, hashlib.sha224(WORD.encode()).hexdigest()),
        ('a"quoted\\word', json.dumps('a"quoted\\word')),
        ("wörter und zeichen", json.dumps("wörter und zeichen")),
        ("wörter und zeichen", "w%C3%B6rter%20und%20zeichen"),
        (KEY, KEY),
        (KEY, KEY.replace("+", "-").replace("/", "_").rstrip("=")),
        (KEY, base64.b64decode(KEY).hex()),
        (KEY, " ".join(str(byte) for byte in base64.b64decode(KEY))),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7b8109dad11d180b400c04fd430c8"),
        (
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            base64.b64encode(bytes.fromhex("6ba7b8109dad11d180b400c04fd430c8")).decode(),
        ),
        ("0123456789abcdef", "0123456789ABCDEF"),
        (PEM, "MC4CAQAwBQYDK2VwBCIEIGJpcmRz"),
        (PEM, "b24gYSB3aXJlIGFuZCBhIGtleQ=="),
        (PEM, json.dumps(PEM)),
    ],
)
def test_it_is_taken_out_however_it_is_written(secret: str, written: str) -> None:
    said = redacted(secret, f"before {written} after")
    assert said.startswith("before ")
    assert said.endswith(" after")
    assert REMOVED in said
    assert len(said) < len("before after") + 2 * len(REMOVED)


@given(
    st.text(min_size=8, max_size=40).filter(lambda text: len(text.encode("utf-8", "ignore")) >= 8),
    st.binary(max_size=9),
)
def test_as_a_piece_of_something_in_base64_most_of_it_goes(secret: str, neighbour: bytes) -> None:
    try:
        raw = secret.encode()
    except UnicodeEncodeError:
        return
    if not secret.strip():
        return
    written = base64.b64encode(neighbour + raw + neighbour).decode()
    said = redacted(secret, f"Basic {written}")
    # Of either end at most what shares a character, or a group, with its neighbour.
    inner = base64.b64encode(bytes(len(neighbour) % 3) + raw).decode()[4:-4]
    assert not inner or inner not in said


def test_other_words_stay_as_they_are() -> None:
    line = "ERROR[0012] outbound/trojan[proxy]: dial tcp 198.18.20.6:443: i/o timeout (kingfisher)"
    assert redacted(WORD, line) == line


def test_what_looks_like_a_key_goes_though_nobody_knows_it() -> None:
    assert redacted(WORD, f"pushed auth-token SESS_ID_AT_{KEY}") == f"pushed auth-token {REMOVED}"


def test_a_secret_that_holds_another_goes_whole() -> None:
    assert Redaction([Secret("heron"), Secret("heron-at-dawn")]).of("x heron-at-dawn y") == f"x {REMOVED} y"


def test_an_empty_one_is_none() -> None:
    assert redacted("", "all of it") == "all of it"
    assert redacted("  ", "all  of it") == "all  of it"


def test_they_are_found_wherever_a_config_holds_them() -> None:
    outbound: dict[str, object] = {"a": Secret("1"), "b": [{"c": (Secret("2"),)}], "d": "no secret"}
    config = ProxyConfig(Server("a.test", 1, "tcp"), outbound)
    spec = TunnelSpec("t", Kind.TROJAN, "uri", config)
    assert [secret.reveal() for secret in secrets_in(Plan((spec,), ()))] == ["1", "2"]
