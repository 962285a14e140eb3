"""Who answers for names that he should not know."""

from __future__ import annotations

from typing import Any

import pytest
from records import FORGED, TRUE, World
from tables import attempt

from vpntest.judge.attempts import Layer, Seen
from vpntest.judge.names import Names, names_of

LISTED = frozenset({"bird.example", "fish.example"})


def seen(proven: dict[str, frozenset[str]] | None = None, vantage: str = "outside", **names: Any) -> Names:
    world = World()
    world.names(vantage, "bird.example", **names)
    return names_of(world.observations, LISTED, proven or {}).get("outside", Names())


def test_an_answer_where_no_resolver_is_shows_a_forger_for_that_name() -> None:
    names = seen(nobody=[FORGED])
    assert names.forged("bird.example", frozenset({FORGED})) == ("o1", "o2")
    assert names.forged("fish.example", frozenset({FORGED})) == ()


def test_an_empty_answer_from_nobody_is_an_answer() -> None:
    assert seen(nobody=[]).forged("bird.example", frozenset())


@pytest.mark.parametrize("names", [{"nobody": None}, {"nobody": [FORGED], "other": True}])
def test_silence_and_one_who_answers_everything_show_none(names: dict[str, Any]) -> None:
    assert seen(**names).forged("bird.example", frozenset({FORGED})) == ()


def test_without_a_name_that_nobody_lists_nothing_shows_that_no_resolver_is_there() -> None:
    world = World()
    world.names("outside", "bird.example", nobody=[FORGED])
    names = names_of(world.observations[:1], LISTED, {})
    assert all(one.forged("bird.example", frozenset({FORGED})) == () for one in names.values())


def test_what_is_seen_at_one_vantage_is_not_said_of_another() -> None:
    assert seen(nobody=[FORGED], vantage="a").forged("bird.example", frozenset({FORGED})) == ()


def test_an_address_with_the_platforms_certificate_is_not_forged() -> None:
    names = seen(proven={"bird.example": frozenset({TRUE})}, nobody=[FORGED])
    assert names.forged("bird.example", frozenset({TRUE, FORGED})) == ()
    assert names.forged("bird.example", frozenset({FORGED})) != ()


def test_the_address_of_names_that_do_not_exist() -> None:
    names = seen(nobody=None, label=[FORGED])
    assert names.hijack(frozenset({FORGED})) == ("o3",)
    assert names.hijack(frozenset({FORGED, TRUE})) == ()
    assert names.hijack(frozenset()) == ()
    assert seen(nobody=None).hijack(frozenset({FORGED})) == ()


def test_a_hijacked_name_does_not_exist_and_a_certificate_says_that_it_does() -> None:
    def hijack(world: World) -> None:
        world.names("outside", "bird.example", nobody=None, label=[FORGED])

    lost = attempt(before=hijack, answers=[FORGED], fails="tls_handshake:ssl_unknown_authority")
    assert (lost.seen, lost.layer, lost.failure) == (Seen.FAILED, Layer.DNS, "dns_nxdomain_error")
    assert set(lost.hijack) <= set(lost.witnesses)
    assert attempt(before=hijack, answers=[FORGED]).seen is Seen.REACHED


def test_what_the_public_resolver_says_is_no_hijack_of_this_one() -> None:
    world = World()
    world.add("outside", "names", "resolve", world.dns("x2.neutral.example", [FORGED], resolver="public"))
    names = names_of(world.observations, LISTED, {})
    assert all(one.hijack(frozenset({FORGED})) == () for one in names.values())
