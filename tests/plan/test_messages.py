"""Links out of what people paste: whatever stands around them, and nothing of what belongs to them lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan import messages

A = "vless://u@a.example:443?type=ws&path=%2Fx"
B = "trojan://p@b.example:443"
VMESS = "vmess://eyJhZGQiOiJhLmV4YW1wbGUifQ=="

DRESSED = {
    "number": (f"1. {A}#n", [f"{A}#n"]),
    "number without a blank": (f"12){A}", [A]),
    "bullet": (f"\u2022 {A}", [A]),
    "words before": (f"Sweden: {A}#a b", [f"{A}#a b"]),
    "code marks": (f"`{A}#n` copy", [f"{A}#n"]),
    "code fence": (f"```{A}```", [A]),
    "HTML": (f"<code>{A}#n</code> copy", [f"{A}#n"]),
    "HTML after": (f"{A}<br/>", [A]),
    "quotes and a comma": (f'"{A}#a b",', [f"{A}#a b"]),
    "typographic quotes": (f"\u201c{A}\u201d", [A]),
    "angles": (f"<{A}>", [A]),
    "Markdown": (f"[here]({A}#n) and there", [f"{A}#n"]),
    "a bracket of its own": (f"{A}#(n)", [f"{A}#(n)"]),
    "comma": (f"{A},", [A]),
    "words after": ("ss://YWJj@a.example:1 (fast)", ["ss://YWJj@a.example:1"]),
    "a table": ("socks5://192.0.2.1:1080 | DE | 4 ms", ["socks5://192.0.2.1:1080"]),
    "two": (f"{A}#a {B}#b", [f"{A}#a", f"{B}#b"]),
    "two without names": (f"{A} {B}", [A, B]),
    "a list of JSON": (f'["{A}", "{B}"]', [A, B]),
    "lines that were joined": (f"{A}#Sweden{B}#Norway", [f"{A}#Sweden", f"{B}#Norway"]),
    "short schemes that were joined": (
        f"{A}#Sweden\U0001f1f8ss://YWJj@b.example:1",
        [f"{A}#Sweden\U0001f1f8", "ss://YWJj@b.example:1"],
    ),
    "base64 that was joined": (VMESS + VMESS + B, [VMESS, VMESS, B]),
    "base64 without padding": (VMESS.rstrip("=") * 2, [VMESS.rstrip("=")] * 2),
    "lines that became HTML": (f"{A}<br>{B}", [A, B]),
    "a proxy": ("- https://a.example:443", ["https://a.example:443"]),
    "WireGuard": ("key: wireguard://k@a.example:1?x=1#n", ["wireguard://k@a.example:1?x=1#n"]),
}
WHOLE = {
    "blanks in a path": f"{B}?path=/a b c&type=ws",
    "blanks in a password": "trojan://a b@b.example:443",
    "an address in a name": f"{A}#Join https://t.example/x",
    "a link in a path": f"{B}?path=/vless://x&type=ws",
    "a link in a value": f"{VMESS.rstrip('=')}?remarks=trojan://x",
    "marks in a password": "trojan://a'b\"c`d@b.example:443#n",
    "plain": VMESS,
}


@pytest.mark.parametrize(("row", "found"), DRESSED.values(), ids=DRESSED.keys())
def test_links_in_every_dress(row: str, found: list[str]) -> None:
    assert messages.within(row) == found


@pytest.mark.parametrize("row", WHOLE.values(), ids=WHOLE.keys())
def test_a_link_stays_whole(row: str) -> None:
    assert messages.within(row) == [row]


@pytest.mark.parametrize(
    "row", ["", "see https://t.example/x", "https://t.example/x", "tg://join", "vless://", "xss://abc", "no link"]
)
def test_what_is_no_link(row: str) -> None:
    assert messages.within(row) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{A}\n{B}\n", False),
        (f"# mine\n\n{A}\njunk\n", False),
        (f"STATUS=1 GB\nREMARKS=Provider\n{A}\n", False),
        (f"Hello, use this one:\n{A}\n", True),
        (f"`{A}`\n", True),
        (f"{A}\nIt is fast.\nBut not always.\n", True),
    ],
)
def test_a_message_is_no_list(text: str, message: bool) -> None:
    assert messages.is_message(text) is message
    assert messages.holds_links(text)


def test_patterns_of_programs_are_no_links() -> None:
    assert not messages.holds_links('x = f"vless://{user}@{host}"; y = "ss://"; re.compile("vmess://(.*)")')


@given(rows=st.lists(st.sampled_from([A, B, VMESS, " ", "#", "`", "<", "b>", "word", "\u200b", "?", "https://x"])))
def test_what_is_found_is_a_piece_of_the_line(rows: list[str]) -> None:
    row = "".join(rows)
    for found in messages.within(row):
        assert found in row
        assert "://" in found


@pytest.mark.parametrize(
    "row",
    ["ss://x#" * 40_000, "vmess://" * 40_000, " ss://a" * 40_000, "ss://a" + " " * 250_000 + "b=", "<a" * 130_000],
)
def test_a_long_line_is_no_trap(row: str) -> None:
    """It would not end, if any pattern took time by the square of the length."""
    assert len(messages.within(row)) <= 40_000
