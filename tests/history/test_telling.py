"""Kept runs and changes in words."""

from __future__ import annotations

import msgspec
from nights import night, row, series, told

from vpntest.history.changes import compare, diff
from vpntest.history.night import Night
from vpntest.history.store import Line
from vpntest.history.telling import changes, history, sentence

OK, CUT = "circumvents", "blocked tls.reset.sni"


def shown(nights: list[Night], **more: bool) -> str:
    found = diff(nights[-2], nights[-1], compare(nights[-2], nights[-1], nights[:-1]))
    return changes(found, width=100, **more)


def test_news_stand_first_and_say_how_sure_they_are() -> None:
    assert shown(series(*[f"{OK} 10/10"] * 3, f"{CUT} 10/10")) == (
        "01a1fe19-0003-7808-955a-a0d17a6e7820 → 01a1fe19-0004-7808-955a-a0d17a6e7820\n"
        "\n"
        "News (1)\n"
        "  regression: bird through se: circumvents → blocked (tls.reset.sni) [1 of the last 3 nights, the\n"
        "      tries differ beyond chance]\n"
    )


def test_noise_is_called_by_its_name() -> None:
    assert "Not confirmed" in shown(series(OK, CUT))
    assert "Flapping" in shown(series(OK, CUT, OK, CUT))
    assert "Back to what it was" in shown(series(OK, OK, CUT, OK))
    assert "Nothing changed." in shown(series(OK, OK))


def test_silence_is_explained() -> None:
    text = shown(series(OK, "dark"))
    assert "Nothing can be said: " in text
    assert "Nothing changed" not in text


def test_another_version_is_told() -> None:
    nights = series(OK, OK)
    nights[0] = msgspec.structs.replace(nights[0], version="0.0.9")
    assert "0.0.9 and 0.1.0: their rules may differ" in shown(nights)


def test_a_strangers_name_does_not_steer_the_terminal() -> None:
    nights = [night(day, {("\x1b[2Jse", "bird"): word}) for day, word in enumerate((OK, CUT), 1)]
    assert "\x1b" not in shown(nights)
    assert shown(series(OK, CUT), unicode=False).isascii()


def test_what_makes_a_condition_hold_is_one_line() -> None:
    assert sentence(row("se", "endpoint handshake.timeout")) == "se: endpoint (handshake.timeout)"
    assert sentence(told("se", "bird", CUT)) == "bird through se: blocked (tls.reset.sni)"
    assert sentence(told("outside", "bird", CUT)) == "bird outside: blocked (tls.reset.sni)"


def test_the_list_is_newest_first_and_says_what_it_cannot() -> None:
    whole = Line(
        "id-1", "2026-10-01T03:00:00+00:00", "0.1.0", True, None, 60.0, 2, 1, 3, {"open": 2, "blocked": 4}, 2000
    )
    cut = msgspec.structs.replace(whole, id="id-2", complete=False, bytes=1)
    dead = msgspec.structs.replace(whole, id="id-3", line_rule="line.dead", cells={})
    lines = history([whole, cut, dead]).splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["last", "id-3"], ["last~1", "id-2"], ["last~2", "id-1"]]
    assert "nothing judged: the line was dead" in lines[2]
    assert "4 blocked, 2 open (interrupted)" in lines[3]
    assert lines[4].endswith("2 KiB")
    assert history([]) == "no runs are kept\n"
