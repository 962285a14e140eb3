"""The HTML report as people meet it: in a real Chromium, by its accessibility tree, its keys, its requests.

Each page is opened from a file, without a network, under its own policy; what the policy stops is an error here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from records import RESET, World, platform

from vpntest.judge.judging import judge
from vpntest.plan.model import Problem
from vpntest.report.html import render
from vpntest.report.words import words

# It needs what scripts/prepare brings.
pytestmark = pytest.mark.root

EVIL = "</script><script>document.title='evil'</script><img src=x onerror=alert(1)>\u202e\u2066"
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        # Root has no sandbox to give; the page is our own.
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page, and what it did."""

    def __init__(self, browser: Browser, file: Path, **how: Any) -> None:
        self.context = browser.new_context(offline=True, viewport=how.pop("viewport", WIDE), **how)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda one: self.errors.append(one.text) if one.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda one: self.requests.append(one.url))
        self.page.on("dialog", lambda one: self.errors.append(f"dialog: {one.message}"))
        # A policy violation is told to the document; a script of the driver's own stands outside the policy.
        self.page.add_init_script(
            "window.violations = [];"
            "addEventListener('securitypolicyviolation', (one) => violations.push(one.violatedDirective));"
        )
        self.address = file.as_uri()
        self.page.goto(self.address)

    def is_clean(self) -> None:
        """Nothing was asked of anybody, stopped by the policy, or complained of."""
        assert self.page.evaluate("violations") == []
        assert self.errors == []
        assert [one for one in self.requests if one not in (self.address, "data:,")] == []


def record_of(tunnels: int = 0, name: str = "bird") -> World:
    """Blocked and throttled platforms, a tunnel that helps, one that fell, an evil one, and `tunnels` more."""
    world = World(platform(name), platform("slow", speed="https://slow.example/64k"), platform("wiki"))
    world.line()
    world.tunnel("se")
    world.tunnel("ov", until="auth", failure="connection_reset")
    world.tunnel(EVIL, problem=Problem("invalid", EVIL), servers=(EVIL,), warnings=(EVIL,), carrier=EVIL)
    names = ["se", *(f"more-{number}" for number in range(tunnels))]
    for more in names[1:]:
        world.tunnel(more)
    world.reach("outside", name, fails=f"tls_handshake:{RESET}", neutral=True)
    for vantage in ("outside", *names):
        for one in (name, "slow", "wiki"):
            if (vantage, one) != ("outside", name):
                world.reach(vantage, one)
    world.speed("outside", "slow", target=[130.0] * 5, neutral=[10000.0] * 5)
    world.speed("outside", "slow", target=[130.0] * 5, neutral=[10000.0] * 5, phase="confirm")
    world.speed("se", "slow", target=[9000.0] * 3, neutral=[10000.0] * 3)
    return world


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = record_of().record()
    file = tmp_path_factory.mktemp("html") / "report.html"
    file.write_text(render(record, judge(record)), encoding="utf-8")
    return file


@pytest.fixture
def opened(chromium: Browser, report: Path) -> Iterator[Opened]:
    one = Opened(chromium, report)
    yield one
    one.is_clean()
    one.context.close()


def tree_of(opened: Opened) -> list[dict[str, Any]]:
    """The accessibility tree as the browser gives it to a screen reader, without what it leaves out."""
    nodes = opened.context.new_cdp_session(opened.page).send("Accessibility.getFullAXTree")["nodes"]
    return [
        {"role": one["role"]["value"], "name": one.get("name", {}).get("value", "")}
        for one in nodes
        if not one.get("ignored")
    ]


def test_the_matrix_is_read_through_the_accessibility_tree(opened: Opened) -> None:
    table = opened.page.get_by_role("table", name=words()["en"]["caption"])
    expect(table).to_have_count(1)
    assert [one.inner_text().split("\n")[0] for one in table.get_by_role("columnheader").all()] == [
        *("Tunnel", "bird", "slow", "wiki")
    ]
    rows = table.get_by_role("row").all()[1:]
    assert [one.get_by_role("rowheader").count() for one in rows] == [1] * 4
    assert [one.inner_text() for one in rows[0].get_by_role("button").all()] == [
        *("blocked\ntls.reset.sni", "throttled\nthrottle.sni", "ok")
    ]
    tree = tree_of(opened)
    names = [one["name"] for one in tree if one["role"] == "button"]
    # Glyphs are for the eye: read out they would only be in the way.
    assert names[:4] == ["blocked tls.reset.sni", "throttled throttle.sni", "ok", "circumvents"]
    assert {"table", "caption", "columnheader", "rowheader", "cell", "region", "main"} <= {one["role"] for one in tree}


def test_a_cell_is_opened_and_left_by_keyboard(opened: Opened) -> None:
    page = opened.page
    while page.evaluate("document.activeElement.localName") != "button":  # the region that scrolls comes first
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.parentElement.cellIndex") == 1
    for key in (
        "ArrowDown",
        "ArrowRight",
        "ArrowRight",
        "ArrowRight",
        "ArrowLeft",
        "End",
        "Home",
        "ArrowUp",
        "ArrowDown",
    ):
        page.keyboard.press(key)
    where = "[document.activeElement.closest('tr').sectionRowIndex, document.activeElement.parentElement.cellIndex]"
    assert page.evaluate(where) == [1, 1]
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_have_accessible_name("bird through se circumvents")
    expect(dialog.get_by_text("Rule cell.circumvents", exact=False).first).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "cell-head"
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert page.evaluate(where) == [1, 1]
    # One stop in the way of the tab key, wherever it is.
    assert page.locator("#matrix button[tabindex='0']").count() == 1


def test_a_cell_tells_rule_witnesses_timings_and_draws_goodput(opened: Opened) -> None:
    page = opened.page
    page.locator("#matrix button.throttled").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("code", has_text="speed.throttle.sni").first).to_be_visible()
    plots = dialog.get_by_role("img")
    expect(plots).to_have_count(2)
    assert plots.first.locator("circle.target").count() == plots.first.locator("rect.neutral").count() == 5
    expect(dialog.get_by_text("TLS handshake", exact=True).first).to_be_visible()
    witnesses = dialog.locator("details").first
    assert witnesses.locator("table").count() == 0
    witnesses.locator("summary").click()
    expect(witnesses.locator("tbody tr")).to_have_count(20)
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize("locale", ["en-GB", "ru-RU"])
def test_a_cell_says_what_would_have_changed_it(chromium: Browser, report: Path, locale: str) -> None:
    opened = Opened(chromium, report, locale=locale)
    said = words()[locale[:2]]
    opened.page.locator("#matrix tbody tr").nth(1).locator("button").first.click()
    changes = opened.page.get_by_role("dialog").locator(".changes > li")
    once = said["otherwise.once"].replace("{0}", said["where.outside"])
    told = changes.filter(has_text=once)
    expect(told).to_contain_text(said["word.insufficient"])
    expect(told.locator("code")).to_have_text("endpoint.insufficient.mixed")
    opened.page.keyboard.press("Escape")
    # Where nothing was tried it says who would.
    opened.page.locator("#matrix tbody tr").nth(1).locator("button").last.click()
    expect(opened.page.get_by_role("dialog").get_by_text("vpntest explain RUN 'se' 'wiki'")).to_be_visible()
    opened.is_clean()
    opened.context.close()


def test_a_cell_opened_as_another_closes_shows_its_own(opened: Opened) -> None:
    page = opened.page
    page.locator("#matrix button").nth(3).click()
    expect(page.get_by_role("dialog").locator(".part").first).to_be_visible()
    page.evaluate("document.getElementById('cell').close(); document.querySelectorAll('#matrix button')[4].click()")
    expect(page.get_by_role("dialog")).to_have_accessible_name("slow through se circumvents")
    expect(page.get_by_role("dialog").locator(".part").first).to_be_visible()


def test_names_of_strangers_do_nothing(opened: Opened) -> None:
    page = opened.page
    page.locator("#matrix tbody tr").nth(3).locator("button").first.click()
    expect(page.get_by_role("dialog").get_by_text("<img src=x onerror=alert(1)>", exact=False).first).to_be_visible()
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    assert page.title().startswith("vpntest ")


@pytest.mark.parametrize("locale", ["en-GB", "ru-RU"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing(chromium: Browser, report: Path, locale: str, scheme: Any, viewport: Any) -> None:
    opened = Opened(chromium, report, locale=locale, color_scheme=scheme, viewport=viewport)
    assert _found(opened.page) == []
    opened.page.locator("#matrix button.throttled").first.click()
    opened.page.get_by_role("dialog").locator("summary").first.click()
    expect(opened.page.get_by_role("dialog").locator("details table").first).to_be_visible()
    assert _found(opened.page) == []
    # No part of the page is wider than the window; what is, scrolls in a box of its own.
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opened.is_clean()
    opened.context.close()


def _found(page: Page) -> list[tuple[str, str]]:
    violations = Axe().run(page).response["violations"]
    return [(one["id"], json.dumps([node["html"][:200] for node in one["nodes"][:3]])) for one in violations]


@pytest.mark.parametrize(
    ("locale", "language"), [("en-US", "en"), ("ru-RU", "ru"), ("ru", "ru"), ("fa-IR", "en"), ("de-DE", "en")]
)
def test_the_browsers_language_is_spoken(chromium: Browser, report: Path, locale: str, language: str) -> None:
    opened = Opened(chromium, report, locale=locale)
    said = words()[language]
    page = opened.page
    assert page.evaluate("document.documentElement.lang") == language
    assert page.title() == f"vpntest 2026-11-20 03:00 UTC: {said['title']}"
    expect(page.get_by_role("heading", name=said["legend"])).to_be_visible()
    assert page.locator("#matrix button").first.inner_text().startswith(said["word.blocked"])
    page.locator("#matrix button").first.click()
    expect(page.get_by_role("dialog").get_by_text(said["compared"], exact=True).first).to_be_visible()
    opened.is_clean()
    opened.context.close()


def test_without_scripts_the_matrix_is_there(chromium: Browser, report: Path) -> None:
    opened = Opened(chromium, report, java_script_enabled=False)
    expect(opened.page.get_by_role("table").first.get_by_role("button").first).to_have_text("blockedtls.reset.sni")
    expect(opened.page.get_by_text("Without scripts", exact=False)).to_be_visible()
    opened.context.close()


def test_a_page_that_runs_from_right_to_left_moves_as_it_looks(opened: Opened) -> None:
    page = opened.page
    page.evaluate("document.documentElement.dir = 'rtl'")
    first = page.locator("#matrix button").first
    first.focus()
    before = first.bounding_box()
    page.keyboard.press("ArrowLeft")
    after = page.locator(":focus").bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] < before["x"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_prints_on_a4(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    # The height that counts is A4's width across: 297 mm less two margins of 12 mm, at 96 dots an inch.
    opened.page.set_viewport_size({"width": 1031, "height": 700})
    assert opened.page.evaluate("document.querySelector('#matrix').scrollWidth") <= 1031
    assert opened.page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_many_tunnels_make_a_page_that_opens_its_cells_when_asked(chromium: Browser, tmp_path: Path) -> None:
    record = record_of(tunnels=200).record()
    file = tmp_path / "many.html"
    file.write_text(render(record, judge(record)), encoding="utf-8")
    opened = Opened(chromium, file)
    page = opened.page
    assert page.locator("#matrix tbody tr").count() == 204
    assert page.locator("#matrix button").count() == 204 * 3
    # Of what the cells open to nothing is there yet, and nothing stays when they close.
    count = "document.getElementsByTagName('*').length"
    before = page.evaluate(count)
    assert page.locator("#cell-body *").count() == 0
    page.locator("#matrix button").first.focus()
    page.keyboard.press("Control+End")
    # Wherever one is, the names of the platforms and the line's own row are above, and hide nothing that has the focus.
    head, line, held = (
        page.locator(one).bounding_box() for one in ("#matrix thead", "#matrix .line > td >> nth=0", ":focus")
    )
    assert head is not None
    assert line is not None
    assert held is not None
    assert line["y"] >= head["y"] + head["height"] - 1
    assert held["y"] >= line["y"] + line["height"] - 1
    page.keyboard.press("PageUp")
    for _ in range(30):
        page.keyboard.press("ArrowUp")
        held = page.locator(":focus").bounding_box()
        assert held is not None
        assert held["y"] >= line["y"] + line["height"] - 1
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_text("Rule", exact=False).first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate(count) == before
    opened.is_clean()
    opened.context.close()


def test_a_hundred_tunnels_by_twelve_platforms_make_a_page_that_can_be_mailed() -> None:
    world = World(*(platform(f"platform-{number}") for number in range(12)))
    world.line()
    names = [f"tunnel-{number}" for number in range(100)]
    for number, name in enumerate(names):
        world.tunnel(name, **({"until": "auth", "failure": "connection_reset"} if number % 4 == 0 else {}))
    for number, one in enumerate(world.platforms):
        world.reach("outside", one.id, **({"fails": f"tls_handshake:{RESET}", "neutral": True} if number % 2 else {}))
        for name in (name for place, name in enumerate(names) if place % 4):
            world.reach(name, one.id)
    record = world.record()
    page = render(record, judge(record))
    assert len(page.encode()) < 500_000
