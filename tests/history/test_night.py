"""From a run's document to the words that nights are compared by."""

from __future__ import annotations

import msgspec
import pytest
from nights import document, night, told
from story import story

from vpntest.history.night import FAILS, LEVELS, LIMITED, WORKS, night_of
from vpntest.history.store import decode
from vpntest.judge.judging import judge
from vpntest.judge.verdict import Outcome, State
from vpntest.report.document import encode


def test_a_whole_run_is_told() -> None:
    record = story()
    judgement = judge(record)
    found = night_of(decode(encode(record, judgement)))
    assert [row.tunnel for row in found.rows] == [tunnel.name for tunnel in record.tunnels]
    assert [(row.stage, row.mechanism) for row in found.rows] == [
        (one.stage, one.mechanism) for one in judgement.tunnels
    ]
    assert len(found.cells) == len(judgement.outside) + len(judgement.cells)
    words = {(cell.tunnel, cell.platform): cell for cell in found.cells}
    assert words["outside", "facebook"].outcome == "blocked"
    assert words["ss", "bank"].level == FAILS
    assert words["se", "twitter"].outcome == "circumvents"
    assert words["ov", "twitter"].level is None
    assert found.tells


@pytest.mark.parametrize("word", sorted({*map(str, Outcome), *map(str, State)}))
def test_every_word_of_the_judge_has_its_level(word: str) -> None:
    assert told("se", "bird", word).level in (None, *LEVELS)


def test_levels_are_ordered_by_how_well_people_fare() -> None:
    assert WORKS > LIMITED > FAILS
    assert told("se", "bird", "partial").level == LIMITED


def test_a_dead_line_tells_nothing() -> None:
    kept = document(night(1, tunnels={"se": "up"}, line_rule="line.dead"))
    assert not night_of(kept).tells
    # Older documents name the controls and no rule.
    assert not night_of(msgspec.structs.replace(kept, line_rule=None)).tells


def test_a_tunnel_that_an_interrupted_run_never_raised_is_not_down() -> None:
    whole = night(1, tunnels={"se": "up", "no": "none interrupted"})
    cut = document(msgspec.structs.replace(whole, complete=False))
    assert [row.level for row in night_of(cut).rows] == [WORKS, None]
    assert [row.level for row in night_of(document(whole)).rows] == [WORKS, FAILS]


def test_nights_made_by_hand_come_back_from_their_documents() -> None:
    made = night(
        3,
        {("outside", "bird"): "blocked dns.bogon 2/3", ("se", "bird"): "circumvents", ("no", "bird"): "tunnel-down"},
        {"no": "endpoint handshake.timeout"},
    )
    assert night_of(document(made)) == made
    partial = msgspec.structs.replace(made, partial=True)
    assert night_of(document(partial)) == partial
    assert (made.whole, partial.whole, msgspec.structs.replace(made, complete=False).whole) == (True, False, False)
