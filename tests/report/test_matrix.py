"""What is shown, before it is laid out."""

from __future__ import annotations

from msgspec import structs
from records import TIMEOUT, World, platform
from story import story

from vpntest.judge.judging import judge
from vpntest.judge.verdict import Outcome, State
from vpntest.plan.model import Endpoint, Platform, Service
from vpntest.report.matrix import SIGNS, Entry, Matrix, Row, arrange, attention, fallen, summary


def test_the_matrix() -> None:
    record = story()
    down = Entry("tunnel-down")
    assert arrange(record, judge(record)) == Matrix(
        columns=("twitter", "facebook", "bank", "lost", "wiki"),
        rows=(
            Row(
                "outside",
                "",
                (
                    Entry("throttled", "throttle.sni"),
                    Entry("blocked", "tls.reset.sni 9 of 10"),
                    Entry("ok"),
                    Entry("down", "tcp.refused"),
                    Entry("insufficient"),
                ),
            ),
            Row(
                "se",
                "amneziawg",
                (
                    Entry("circumvents"),
                    Entry("circumvents"),
                    Entry("refused", "http.403"),
                    Entry("platform-down", "tcp.refused"),
                    Entry("insufficient"),
                ),
            ),
            Row(
                "ss",
                "shadowsocks",
                (
                    Entry("insufficient"),
                    Entry("blocked", "http.timeout"),
                    Entry("refused", "http.403"),
                    Entry("platform-down", "tcp.refused"),
                    Entry("insufficient"),
                ),
            ),
            Row("ov", "openvpn", (down,) * 5),
            Row("wg", "wireguard", (down,) * 5),
            Row("bad", "unknown", (down,) * 5),
        ),
    )


def test_every_word_has_a_sign() -> None:
    assert set(SIGNS) == {*Outcome, *State}
    for sign in SIGNS.values():
        assert len(sign.glyph) == len(sign.ascii) == 1
        assert sign.ascii.isascii()
        assert sign.meaning


def test_different_outcomes_have_different_glyphs_in_ascii_too() -> None:
    assert len({SIGNS[one].glyph for one in Outcome}) == len(Outcome)
    assert len({SIGNS[one].ascii for one in Outcome}) == len(Outcome)


def test_what_needs_attention() -> None:
    record = story()
    assert [*map(str, fallen(record, judge(record)))] == [
        "ov [openvpn] auth.rejected (reached: handshake): the server says that it does not know these credentials",
        "wg [wireguard] data.stall.packets (reached: data): first data came, then it falls silent after a few packets",
        "bad [unknown] invalid: bad.conf:3: key is 31 bytes, not 32�[2J",
    ]
    assert [*map(str, attention(record, judge(record)))] == [
        "wiki outside: the tries do not agree, or are too few [endpoint.insufficient.mixed]",
        "twitter outside: policed at about 140 kbit/s",
        "twitter through ss: the platform is throttled outside, and its speed through the tunnel is not known "
        "[cell.insufficient.speed-unknown]",
        "wiki through ss: the tries do not agree, or are too few [endpoint.insufficient.mixed]",
        "Speed not judged, so that throttling would not show: bank (outside)",
        "Speed not judged, so that throttling would not show: facebook (se)",
        "ss: its config asks not to check the server's certificate",
        "ov: up: ignored, never run",
    ]


def test_tunnels_that_fell_alike_are_told_together() -> None:
    world = World()
    world.line()
    for name, until in (("a", "handshake"), ("b", "auth"), ("c", "handshake")):
        world.tunnel(name, until=until, failure=TIMEOUT)
    record = world.record()
    said = [str(one).partition(":")[0] for one in fallen(record, judge(record))]
    assert said == ["a, c [wireguard] handshake.timeout (reached", "b [wireguard] auth.timeout (reached"]


def world_of(*platforms: Platform) -> World:
    """Two tunnels, the second a proxy, at platforms that answer everywhere."""
    world = World(*platforms)
    world.line()
    world.tunnel("a")
    world.tunnel("p", proxy=True)
    for one in platforms:
        for service in one.service:
            for vantage in ("outside", "a", "p"):
                world.reach(vantage, one.id, service=service.id, endpoint=service.endpoint[0].url)
    return world


FAST = (9000.0, 9100.0, 9200.0)
SPEEDY = [platform(name, speed=f"https://{name}.example/64k") for name in ("bird", "wiki")]


def told(world: World) -> tuple[str, ...]:
    record = world.record()
    return tuple(map(str, attention(record, judge(record))))


def test_speed_that_was_not_judged_is_told_once_for_platforms_alike() -> None:
    world = world_of(*SPEEDY, platform("bank"), platform("mail"))
    for vantage in ("outside", "a", "p"):
        world.speed(vantage, "wiki", target=FAST, neutral=FAST)
    world.speed("outside", "bird", target=FAST, neutral=FAST)
    world.speed("a", "bird", target=FAST[:2], neutral=FAST[:2])
    assert told(world) == (
        "Speed not judged, so that throttling would not show: bird (a, p)",
        "Speed not judged anywhere, so that throttling would not show: bank, mail",
    )


def test_speed_that_was_judged_everywhere_needs_no_attention() -> None:
    world = world_of(*SPEEDY)
    for vantage in ("outside", "a", "p"):
        for name in ("bird", "wiki"):
            world.speed(vantage, name, target=FAST, neutral=FAST)
    assert told(world) == ()


def test_connections_that_prove_nothing_are_told_in_one_line() -> None:
    services = (
        Service("web", (Endpoint("https://bird.example/"),)),
        Service("chat", (Endpoint("tcp://chat.bird.example:443"),)),
    )
    world = world_of(Platform("bird", "Bird", services, speed="https://bird.example/64k"))
    for vantage in ("outside", "a", "p"):
        world.speed(vantage, "bird", target=FAST, neutral=FAST)
    assert told(world) == (
        "A connection opens, and nothing proves that it is the platform's, to a service of: bird (p)",
    )
    record = world.record()
    assert [cell.rule for cell in judge(record).cells] == ["cell.open", "cell.open.unproven"]


def test_an_interrupted_run_says_so_first() -> None:
    record = story()
    record = structs.replace(record, run=structs.replace(record.run, complete=False))
    assert (
        str(next(attention(record, judge(record)))) == "The run was interrupted; this is what was measured until then."
    )


def test_summary() -> None:
    record = story()
    assert summary(record, judge(record)) == (
        "Blocked or throttled on this line: 2 of 5 platforms. Of 1 nothing can be said. "
        "Around all of it: 1 of 5 tunnels (se)."
    )


def test_summary_where_nothing_is_censored() -> None:
    world = World()
    world.line()
    world.tunnel("a")
    for vantage in ("outside", "a"):
        world.reach(vantage, "bird")
    record = world.record()
    assert summary(record, judge(record)) == "Blocked or throttled on this line: 0 of 1 platforms."


def test_summary_where_nobody_gets_around() -> None:
    world = World()
    world.line()
    world.tunnel("a")
    for vantage in ("outside", "a"):
        world.reach(vantage, "bird", fails="tls_handshake:connection_reset", neutral=True)
    record = world.record()
    assert summary(record, judge(record)).endswith("Around all of it: 0 of 1 tunnels.")


def test_of_many_tunnels_that_get_around_some_are_named() -> None:
    world = World()
    world.line()
    names = [f"t{number}" for number in range(30)]
    for name in names:
        world.tunnel(name)
    for vantage in ("outside", *names):
        fails = {"fails": "tls_handshake:connection_reset", "neutral": True} if vantage == "outside" else {}
        world.reach(vantage, "bird", **fails)
    record = world.record()
    said = summary(record, judge(record))
    assert said.endswith(f"Around all of it: 30 of 30 tunnels ({', '.join(names[:20])}, …).")


def test_a_dead_line_has_no_matrix() -> None:
    world = World()
    world.control("outside", "before", TIMEOUT)
    world.tunnel("a", carry=False)
    record = world.record()
    judgement = judge(record)
    assert arrange(record, judgement) == Matrix((), (Row("outside", "", ()),))
    assert summary(record, judgement) == (
        "Nothing was judged: the line itself is dead, for no control answered and no tunnel carried anything "
        "[line.dead]"
    )
    assert [*attention(record, judgement)] == []


def test_how_often_a_flaky_platform_answered_is_shown() -> None:
    world = World()
    world.line()
    world.reach("outside", "bird", times=3, fails=f"connect:{TIMEOUT}")
    world.reach("outside", "bird", times=7)
    record = world.record()
    [row] = arrange(record, judge(record)).rows
    assert row.entries == (Entry("insufficient", "flaky 7 of 10"),)


def test_a_service_that_a_platform_can_do_without_is_told_where_it_is_blocked() -> None:
    services = (
        Service("web", (Endpoint("https://bird.example/"),)),
        Service("quic", (Endpoint("quic://bird.example/"),), required=False),
    )
    world = world_of(Platform("bird", "Bird", services))
    assert told(world) == ("Speed not judged anywhere, so that throttling would not show: bird",)
    world = World(Platform("bird", "Bird", services))
    world.line()
    world.reach("outside", "bird")
    world.reach(
        "outside",
        "bird",
        service="quic",
        endpoint="quic://bird.example/",
        fails=f"quic_handshake:{TIMEOUT}",
        neutral=True,
    )
    assert "bird outside: quic, which can be done without, does not work: quic.timeout.sni" in told(world)
