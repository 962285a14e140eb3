"""The HTML report without a browser: what stands in it, and that nothing of a stranger's acts in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from records import RESET, World, platform

from vpntest.judge.judging import judge
from vpntest.plan.model import Problem
from vpntest.report.html import render
from vpntest.report.matrix import SIGNS
from vpntest.report.words import PAGE, words
from vpntest.tunnel.ladder import RUNGS

EVIL = (
    "</script><script>document.title='evil'</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--",
    "{{ 7*7 }}{% raw %}",
    "\u202eevil\u2066",
    "'\u2028\x1b[2J&lt;",
)


class Read(HTMLParser):
    """Elements and texts of a page, as a browser's parser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = [""]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} ends what it did not begin"

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1], []).append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def story(*names: str) -> World:
    """A line that blocks `bird`, a tunnel that helps, one that fell, and one for each name, which a title has too."""
    titled = msgspec.structs.replace(platform("wiki"), title=" ".join(["wiki", *names]))
    world = World(platform("bird"), titled)
    world.line()
    world.tunnel("se")
    world.tunnel("ov", until="auth", failure="connection_reset")
    for number, name in enumerate(names):
        problem = Problem("invalid", name)
        world.tunnel(f"t{number}{name}", problem=problem, servers=(name,), warnings=(name,), carrier=name)
    world.reach("outside", "bird", fails=f"tls_handshake:{RESET}", neutral=True)
    world.reach("outside", "wiki")
    world.reach("se", "bird")
    world.reach("se", "wiki")
    return world


def page_of(world: World) -> str:
    record = world.record()
    return render(record, judge(record))


def details_of(page: str) -> Any:
    packed = re.search(r'<script type="application/octet-stream" id="details">([A-Za-z0-9+/=]*)</script>', page)
    assert packed
    return json.loads(zlib.decompress(base64.b64decode(packed[1]), -15))


def test_the_matrix_stands_in_the_page_and_needs_no_script() -> None:
    read = Read(page_of(story()))
    assert [one["class"] for one in read.named("button") if "class" in one] == [
        *("blocked", "ok"),
        *("circumvents", "open"),
        *("tunnel-down", "tunnel-down"),
    ]
    said = read.texts["button"]
    assert said[:2] == ["blocked", "ok"]
    assert read.texts["small"].count("tls.reset.sni") == 1
    assert {one["scope"] for one in read.named("th")} == {"col", "row"}
    assert len(read.named("table")) == len(read.named("caption")) == 2


def test_one_cell_is_in_the_way_of_the_tab_key() -> None:
    places = [one["tabindex"] for one in Read(page_of(story())).named("button") if "class" in one]
    assert places.count("0") == 1
    assert set(places) == {"0", "-1"}


def test_details_name_rule_witnesses_and_comparisons() -> None:
    details = details_of(page_of(story()))
    assert details["cells"][0][0][0] == "cell.circumvents"
    outside = details["outside"][0]
    assert outside["rules"][0] == "endpoint.blocked.works-here"
    assert "failure.tls.reset.sni" in outside["rules"]
    rows = [details["observations"][place] for place in outside["witnesses"]]
    assert {row[9] for row in rows} == {"", RESET}
    assert outside["compared"]["ends"] == [["failed", "tls", RESET, 3]]
    assert outside["compared"]["neutral"] == [3, 3]
    assert details["cells"][1][0] == ["cell.tunnel-down", None]
    assert outside["timings"]["connect"] == [500.0, 3]


def test_details_say_what_would_have_changed_each_verdict() -> None:
    told = details_of(page_of(story()))["otherwise"]
    assert told["outside"] == [0, None]
    assert told["cells"] == [[1, None], [None, None]]
    assert told["tunnels"] == [None, 2]
    tried, changes = told["cases"][1]
    assert tried == "se"
    key, put_in, then = changes[-1]
    assert (key, put_in) == ("otherwise.as-outside", ["se"])
    assert then[0][:2] == ["cell", "blocked"]
    assert all(key in words()["ru"] for _, changes in told["cases"] for key, _, _ in changes)


def test_transfers_are_drawn_target_against_neutral() -> None:
    world = World(platform("bird", speed="https://bird.example/64k"))
    world.line()
    world.reach("outside", "bird")
    world.speed("outside", "bird", target=[130.0] * 5, neutral=[10000.0] * 5)
    drawn = details_of(page_of(world))["outside"][0]["transfers"]
    assert {transfer[0] for transfer in drawn} == {0, 1}
    slow, fast = (max(one[4] for one in drawn if one[0] == role) for role in (0, 1))
    assert slow < fast


def test_the_policy_lets_only_our_own_script_and_style_act() -> None:
    page = page_of(story())
    read = Read(page)
    policy = next(one["content"] for one in read.named("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(bodies) == 1
        assert rules[directive] == f"'sha256-{base64.b64encode(hashlib.sha256(bodies[0].encode()).digest()).decode()}'"
    assert rules["img-src"] == "data:"
    asked = [one[name] for _, one in read.elements for name in ("src", "href", "action", "data") if name in one]
    assert asked == ["data:,"]
    assert not any(name.startswith("on") or name == "style" for _, one in read.elements for name in one)


@pytest.mark.parametrize("evil", EVIL)
def test_names_of_strangers_are_text(evil: str) -> None:
    plain, hostile = Read(page_of(story("x"))), Read(page_of(story(evil)))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(one) for _, one in hostile.elements] == [sorted(one) for _, one in plain.elements]


def test_what_turns_the_reading_order_around_is_taken_out() -> None:
    page = page_of(story(*EVIL))
    assert not set("\u202e\u2066\u2028\x1b") & set(page)
    told = json.dumps(details_of(page), ensure_ascii=False)
    assert not set("\u202e\u2066\u2028\x1b") & set(told)


def test_the_script_reads_nothing_as_html() -> None:
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert way not in script


def test_nothing_judged_is_said_and_has_no_matrix() -> None:
    world = World()
    for phase in ("before", "during"):
        world.control("outside", phase, "generic_timeout_error")
    read = Read(page_of(world))
    assert "Nothing was judged:" in read.texts["span"]
    assert "matrix" not in [one.get("id") for one in read.named("table")]


def test_an_interrupted_run_is_said_so() -> None:
    record = story().record()
    cut = msgspec.structs.replace(record, run=msgspec.structs.replace(record.run, complete=False))
    assert words()["en"]["attention.interrupted"] in Read(render(cut, judge(cut))).texts["span"]


def test_the_same_run_gives_the_same_page() -> None:
    assert page_of(story()) == page_of(story())


# ── the catalogue ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_text_that_is_asked_for_is_there() -> None:
    english = words()["en"]
    template = (PAGE / "page.html.jinja").read_text(encoding="utf-8")
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    asked = {
        *re.findall(r'say\("([\w.-]+)"[,)]', template),
        *re.findall(r'(?:say|told)\("([\w.-]+)"', script),
        *re.findall(r'words\["([\w.-]+)"\]', script),
        *re.findall(r"words\.(\w+)\b", script),
    }
    assert len(asked) > 60
    assert asked <= english.keys()
    assert {f"rung.{rung}" for rung in RUNGS} <= english.keys()


def test_words_and_signs_are_those_of_the_other_reports() -> None:
    english = words()["en"]
    style = (PAGE / "page.css").read_text(encoding="utf-8")
    glyphs = {}
    for selectors, glyph in re.findall(r'^(\..*?) \{ content: "(.)"; content: "\2" / ""; \}', style, re.MULTILINE):
        glyphs |= {one.removeprefix(".").removesuffix("::before"): glyph for one in selectors.split(", ")}
    for word, sign in SIGNS.items():
        assert english[f"word.{word}"] == word
        assert english[f"means.{word}"] == sign.meaning
        assert glyphs[word] == sign.glyph
