"""Finds the links in what people paste: chat messages and notes, with words, numbers, quotes and HTML around them.

Sans-I/O. A line that begins with a link is nearly all link: a name may hold blanks, and a carelessly written path too.
So a link ends only where something tells it: the other half of what it stands in, the next link, or, where it has no
name, a blank with nothing behind it that could be of a link.
"""

from __future__ import annotations

import itertools
import re

from vpntest.plan import links

SCHEMES = frozenset({*links.SCHEMES, *links.KNOWN_SCHEMES, "wireguard", "wg", "awg", "vpn"})
"""Schemes of links that are known, also of those that are not carried."""
IN_PROSE = frozenset({"http", "https", "ssh", "dns", "tg", "tt", "sn"})
"""Schemes that also stand in prose: they tell a config only where a line begins with one."""
BLANKS = " \t\r\n\v\f\u00a0\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""What chats put before and after a link."""
COMMENTS = ("#", "//", ";", "STATUS=", "REMARKS=")
"""How lines begin that are for people; the last two are of older subscriptions."""

_HEAD = 1 << 20
"""Characters that tell a list from a message."""
_NAMES = "|".join(map(re.escape, sorted(SCHEMES, key=len, reverse=True)))
_LINK = re.compile(rf"(?<![A-Za-z0-9+-])({_NAMES})://(?=[^\s`'\"<>])", re.IGNORECASE)
_SHOWN = "|".join(map(re.escape, sorted(SCHEMES - IN_PROSE, key=len, reverse=True)))
_SURE = re.compile(rf"(?<![A-Za-z0-9+-])(?:{_SHOWN})://[^\s`'\"<>(){{}}$]{{16}}", re.IGNORECASE)
_JOINED = re.compile(
    r"(?:vless|vmess|trojan|hysteria2|tuic|anytls)://|(?:ss|hy2)://[^\s@#/?]{1,256}@[^\s@#/?]{1,256}:[0-9]",
    re.IGNORECASE,
)
"""Schemes so long that no base64 and no name ends with one by chance; the short ones where a server follows."""
_BASE64_LINK = re.compile(r"(?:vmess|ss)://[A-Za-z0-9+/_-]+={0,2}", re.IGNORECASE)
_PROXY = re.compile(r"[a-z]+://(?:[^\s/?#]*@)?[^\s/?#@]+:[0-9]{1,5}/?(?=[\s#]|\Z)", re.IGNORECASE)
_HALVES = {"`": "`", '"': '"', "'": "'", "\u201c": "\u201d", "\u00ab": "\u00bb", "<": ">", ">": "<"}
"""What a link stands in, and what ends it then."""
_BRACKETS = {"(": ")", "[": "]"}
"""The same, but of these a link may hold both."""
_TAG = re.compile(r"</?(?:code|pre|tt|br|b|i|u|a|p|div|span|li|td|tr|blockquote|strong|em)\b[^<>]*>?", re.IGNORECASE)
_GAP = re.compile(r"\s(?=\S)(?!\S*[&=])")
_LEAD = 64
"""Characters of numbers and marks that may stand before a link."""
_TAIL = BLANKS + "`'\",;|"
_BEFORE = _TAIL + "<>([\u201c\u00ab"


def holds_links(text: str) -> bool:
    """Whether links of proxies stand in a text, wherever in its lines."""
    return _SURE.search(text) is not None


def is_message(text: str) -> bool:
    """Whether a text is one for people that holds links among its words, rather than a list of links.

    In a list each line must be one, and what is none is a fault.
    """
    bare = linked = 0
    for row in text[:_HEAD].splitlines():
        row = row.strip(BLANKS)
        if row and not row.startswith(COMMENTS):
            found = _LINK.match(row)
            if found is None and not linked:
                return True
            linked += found is not None
            bare += found is None
    return bare > linked


def within(row: str) -> list[str]:
    """The links of one line, in their order, without what stands around them."""
    starts: list[int] = []
    for found in _LINK.finditer(row):
        here = found.start()
        if found[1].lower() in IN_PROSE:
            if not starts and here <= _LEAD and _is_proxy(row, here):
                starts.append(here)
        # Behind a `=` or a `/` it is a value within the link.
        elif not starts or row[here - 1] in _BEFORE:
            starts.append(here)
    parts = []
    for begin, end in zip(starts, [*starts[1:], len(row)], strict=True) if starts else ():
        cuts = [begin, *_joined(row, begin, end), end]
        parts += [(row[start - 1 : start], row[start:stop]) for start, stop in itertools.pairwise(cuts)]
    return [_cut(before, text) for before, text in parts]


def _is_proxy(row: str, here: int) -> bool:
    """Whether it is a proxy with nothing but a number or a mark before it, and no address of a page."""
    before = _TAG.sub("", row[:here])
    return not any(char.isalpha() for char in before) and _PROXY.match(row, here) is not None


def _joined(row: str, begin: int, end: int) -> list[int]:
    """Where further links follow one in base64, or its name, without a blank between."""
    inner = _BASE64_LINK.match(row, begin, end)
    start = begin + len("vmess://") if inner else row.find("#", begin, end)
    if start < 0:
        return []
    found = [found.start() for found in _JOINED.finditer(row, start, end)]
    if inner and found and found[0] > inner.end():  # behind a `?`, where it would be a value
        name = row.find("#", begin, end)
        return [place for place in found if 0 <= name < place]
    return found


def _cut(before: str, text: str) -> str:
    if half := _HALVES.get(before):
        text = text.partition(half)[0]
    elif (half := _BRACKETS.get(before)) and half in text:
        text = text.rpartition(half)[0]
    text = _TAG.split(text, maxsplit=1)[0]
    if "#" not in text and (gap := _GAP.search(text)):
        link, rest = text[: gap.start()], text[gap.end() :]
        if not re.search("[&=]", rest) and ("@" in link or "@" not in rest):
            text = link
    return text.rstrip(_TAIL)
