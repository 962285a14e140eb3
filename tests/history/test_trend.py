"""The plot of nights."""

from __future__ import annotations

import pytest
from nights import night, series

from vpntest.errors import UsageError
from vpntest.history.night import Night
from vpntest.history.trend import render, trend
from vpntest.report.text import plain

OK, CUT, SLOW = "circumvents", "blocked tls.reset.sni", "throttled throttle.sni"


def month() -> list[Night]:
    return series(OK, OK, SLOW, "dark", CUT, "insufficient", CUT)


def test_one_cell_stands_in_the_row_of_its_level() -> None:
    shown = render(trend(month(), "se", "bird"), width=80)
    assert shown == (
        "se × bird: 7 nights\n"
        "  works    ✓✓\n"
        "  limited    ▼\n"
        "  fails        ✗ ✗\n"
        "  unknown     · ?\n"
        "           2026-10-01 … 2026-10-07\n"
        "\n"
        "  2026-10-01  circumvents\n"
        "  2026-10-03  throttled (throttle.sni)\n"
        "  2026-10-05  blocked (tls.reset.sni)\n"
        "\n"
        "  ✓ circumvents   ✗ blocked   ▼ throttled   ? insufficient   · line dead\n"
    )


def test_a_tunnel_is_shown_with_all_its_platforms() -> None:
    nights = [
        night(1, {("se", "bird"): OK, ("se", "book"): CUT}),
        night(2, {("se", "bird"): "tunnel-down", ("se", "book"): "tunnel-down"}, {"se": "endpoint handshake.timeout"}),
    ]
    shown = render(trend(nights, "se"), width=80).splitlines()
    assert shown[:4] == [
        "se: 2 nights",
        "  the tunnel  ✓✗  endpoint",
        "  bird        ✓–  circumvents",
        "  book        ✗–  blocked",
    ]


def test_the_line_itself_has_a_trend() -> None:
    nights = [
        night(1, {("outside", "bird"): "ok", ("outside", "book"): "ok"}),
        night(2, {("outside", "bird"): "blocked dns.bogon", ("outside", "book"): "ok"}),
    ]
    assert render(trend(nights, "outside"), width=80).splitlines()[1:3] == ["  bird  ○✗  blocked", "  book  ○○  ok"]


def test_the_oldest_nights_give_way_where_it_is_narrow() -> None:
    shown = render(trend(series(*[CUT] * 20, *[OK] * 30), "se", "bird"), width=40).splitlines()
    assert shown[0] == "se × bird: the newest 29 of 50 nights"
    assert all(len(line) <= 40 for line in shown[:6])
    assert "✗" not in "".join(shown[1:6])


def test_without_unicode_it_is_ascii() -> None:
    assert render(trend(month(), "se", "bird"), width=80, unicode=False).isascii()
    assert render(trend(month(), "se"), width=80, unicode=False).isascii()


def test_names_that_no_run_has_are_told_what_there_is() -> None:
    with pytest.raises(UsageError, match="'no'; they have: outside, se"):
        trend(month(), "no")
    with pytest.raises(UsageError, match="'book' there; they have: bird"):
        trend(month(), "se", "book")


def test_points_of_the_machine_form_say_unknown_as_null() -> None:
    (strip,) = trend(month(), "se", "bird").strips
    assert [point.level for point in strip.points] == ["works", "works", "limited", None, "fails", None, "fails"]
    assert [point.line_rule for point in strip.points].count(None) == 6
    assert plain(strip.tunnel) == "se"
