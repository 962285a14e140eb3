"""What would have changed a verdict: each change told is one that the judge itself comes to."""

from __future__ import annotations

import pytest
from records import RESET, TIMEOUT, World, platform

from vpntest.judge.judging import judge
from vpntest.plan.model import Problem
from vpntest.report.otherwise import _company, cases_of, changes_of

SILENT = f"tls_handshake:{TIMEOUT}"


def changes(world: World, tunnel: str, name: str | None = "bird") -> dict[str, str]:
    record = world.record()
    return {one.what: "; ".join(map(str, one.then)) for one in changes_of(record, judge(record), tunnel, name)}


def censored(*, neutral: bool | None = True, elsewhere: bool = True) -> World:
    """The line's TLS falls silent under the platform's name; a tunnel is up and gets there."""
    world = World()
    world.line()
    world.tunnel("se")
    world.tunnel("fi")
    world.reach("outside", "bird", fails=SILENT, neutral=neutral)
    if elsewhere:
        world.reach("se", "bird")
    return world


def test_a_block_by_name_hangs_on_the_neutral_name() -> None:
    told = changes(censored(), "outside")["had the neutral name fared outside as the platform's own did"]
    assert told.startswith("outside blocked tls.timeout [endpoint.blocked.works-elsewhere:")


def test_a_block_that_only_another_vantage_shows_hangs_on_it() -> None:
    world = censored(neutral=False)
    told = changes(world, "outside")
    assert told["without what the other vantages saw of it"].startswith("outside insufficient")
    assert told["had the neutral name got through outside"].startswith("outside blocked tls.timeout.sni")
    # It does not hang on it where the neutral name shows the same.
    assert "without what the other vantages saw of it" not in changes(censored(), "outside")


def test_every_block_hangs_on_the_controls() -> None:
    told = changes(censored(), "outside")
    assert told["without the controls outside"].startswith("outside insufficient [endpoint.insufficient.no-control")
    assert told["had the controls fallen silent outside"].startswith(
        "outside insufficient [endpoint.insufficient.control"
    )


def test_one_try_alone_would_have_said_nothing() -> None:
    told = changes(censored(), "se")
    for where in ("outside", "inside se"):
        assert told[f"had it been tried only once {where}"].startswith("insufficient; ")


def test_the_fewest_tries_that_matter_are_told() -> None:
    world = World(attempts=10)
    world.line()
    world.tunnel("se")
    world.reach("outside", "bird", times=10)
    world.reach("se", "bird", times=10)
    told = changes(world, "outside")
    (what,) = [what for what in told if "fallen silent outside" in what and "tries" in what]
    tries = int(what.split()[1])
    assert 1 <= tries < 10
    # One less would have made no difference.
    less = World(attempts=10)
    less.line()
    less.tunnel("se")
    less.reach("se", "bird", times=10)
    if tries > 1:
        less.reach("outside", "bird", times=tries - 1, fails=f"http_round_trip:{TIMEOUT}")
    less.reach("outside", "bird", times=11 - tries)
    assert judge(less.record()).outside[0].state == "ok"


def test_a_cell_that_went_as_the_other_side_did_would_gain_nothing() -> None:
    told = changes(censored(), "se")
    assert told["had it gone outside as inside se"].startswith("open; ")
    assert told["had it gone inside se as outside"].startswith("insufficient; inside insufficient")


def test_of_speed_too() -> None:
    world = World(platform("bird", speed="https://x/"))
    world.line()
    world.tunnel("se")
    for vantage in ("outside", "se"):
        world.reach(vantage, "bird")
    world.twice("outside", "bird", target=[130] * 5, neutral=[8000] * 5, control=[9000] * 5)
    world.speed("se", "bird", target=[8000] * 5, neutral=[8000] * 5, control=[9000] * 5)
    told = changes(world, "se")
    assert told["without its transfers outside"].startswith("open; ")
    assert told["without the confirming round outside"].startswith("insufficient; ")
    assert "throttle.sni" not in told["had the neutral name's transfers been 100 times slower outside"]
    assert "had it gone outside as inside se" in told
    slow = told["had its transfers been 100 times slower inside se, twice"]
    assert slow.startswith("throttled; inside throttled throttle.sni")


def test_a_tunnel_that_fell_is_held_against_one_that_did_not() -> None:
    world = censored()
    world.tunnel("dead", until="handshake", failure=TIMEOUT, servers=("198.18.20.1:51820/udp",))
    told = changes(world, "dead", None)
    sibling = told["had another tunnel to the same server got through"]
    assert sibling.startswith("the tunnel reaches endpoint: auth.rejected [tunnel.auth.silent: ")
    assert not any("got past the rung" in what for what in told)
    up = changes(world, "se", None)
    assert up["without the look at its end"].startswith("the tunnel reaches sustained")
    assert "without the other tunnels" not in up


def test_a_cell_of_a_dead_tunnel_hangs_on_what_its_server_does_with_others() -> None:
    world = censored()
    world.tunnel("dead", until="handshake", failure=TIMEOUT, servers=("198.18.20.1:51820/udp",))
    told = changes(world, "dead")
    assert "the tunnel reaches endpoint: auth.rejected" in told["had another tunnel to the same server got through"]
    # Nothing is known of its server where the config names none, and nothing is new where another got through.
    world.tunnel("nowhere", until="handshake", failure=TIMEOUT)
    assert "had another tunnel to the same server got through" not in changes(world, "nowhere")
    world.tunnel("alike", servers=("198.18.20.1:51820/udp",))
    assert "had another tunnel to the same server got through" not in changes(world, "dead")
    assert not any("inside dead" in what for what in told)


def test_a_line_that_would_count_as_dead_is_said() -> None:
    world = World()
    world.line()
    world.tunnel("t", carry=False)
    world.reach("outside", "bird", fails=SILENT, neutral=True)
    told = changes(world, "t", None)
    assert told["had the line's controls fallen silent"].startswith("nothing would be judged, for ")


@pytest.mark.parametrize("tunnel", ["se", "fi", "outside"])
@pytest.mark.parametrize("fails", [None, SILENT, f"connect:{RESET}", "resolve:dns_nxdomain_error"])
@pytest.mark.parametrize("neutral", [True, False, None])
def test_only_what_differs_is_told_and_the_record_stays_as_it_was(
    tunnel: str, fails: str | None, neutral: bool | None
) -> None:
    world = World(attempts=2)
    world.line()
    world.tunnel("se")
    world.tunnel("fi", proxy=True)
    world.reach("outside", "bird", fails=fails, neutral=neutral)
    world.reach("se", "bird", fails=fails, alternate=True)
    world.reach("fi", "bird")
    record = world.record()
    before = judge(record)
    found = changes_of(record, before, tunnel, "bird")
    assert found
    assert len({one.what for one in found}) == len(found)
    assert all(one.then for one in found)
    assert judge(record) == before


def test_nothing_measured_is_nothing_to_change() -> None:
    world = World()
    world.tunnel("t", carry=False)
    assert changes(world, "outside") == {}


def test_what_is_alike_is_tried_once_and_told_of_all() -> None:
    world = censored()
    world.reach("fi", "bird")
    world.tunnel("dead", until="handshake", failure=TIMEOUT)
    world.tunnel("dying", until="handshake", failure=TIMEOUT)
    world.tunnel("odd", problem=Problem("invalid", "no key"))
    record = world.record()
    cases, belongs = cases_of(record, judge(record))
    assert [case.place for case in cases] == [("outside", "bird"), ("se", "bird"), ("dead", None)]
    assert belongs == {
        ("outside", "bird"): 0,
        ("se", "bird"): 1,
        ("fi", "bird"): 1,
        ("dead", None): 2,
        ("dying", None): 2,
    }
    for case in cases:
        assert case.changes == changes_of(record, judge(record), *case.place)


def test_what_is_open_or_down_for_everybody_has_no_case() -> None:
    world = World(platform("fine"), platform("lost"))
    world.line()
    for name in ("se", "fi", "no"):
        world.tunnel(name)
    for vantage in ("outside", "se", "fi", "no"):
        world.reach(vantage, "fine")
        world.reach(vantage, "lost", fails="connect:connection_refused")
    record = world.record()
    judgement = judge(record)
    assert {cell.outcome for cell in judgement.cells} == {"open", "platform-down"}
    assert cases_of(record, judgement) == ((), {})


def test_of_many_tunnels_few_are_looked_at_and_a_verdict_that_needs_all_gets_all() -> None:
    world = World(platform("bird"), platform("lost"))
    world.line()
    names = [f"t{number}" for number in range(8)]
    for name in names:
        world.tunnel(name)
    for vantage in ("outside", *names):
        world.reach(vantage, "lost", fails="connect:connection_refused")
        world.reach(vantage, "bird", **({"fails": SILENT, "neutral": False} if vantage == "outside" else {}))
    record = world.record()
    judgement = judge(record)
    part = _company(record, judgement, "t7", "bird")
    assert [one.name for one in part.tunnels] == ["t0", "t1", "t2", "t7"]
    assert {one.vantage for one in part.observations} == {"outside", "t0", "t1", "t2", "t7"}
    told = {one.what: "; ".join(map(str, one.then)) for one in changes_of(record, judgement, "t7", "bird")}
    assert told["had the neutral name got through outside"].startswith("outside blocked tls.timeout.sni")
    assert told["had it gone outside as inside t7"].startswith("open; ")
    down = {one.what for one in changes_of(record, judgement, "t7", "lost")}
    assert "without what the other vantages saw of it" in down
