"""One source's bytes, whatever its dialect, to the configs that it holds.

    bytes ─text→ kinds.dialect_of ─┬─ wg-quick, OpenVPN, bridge lines     one entry
                                   ├─ links, one each line; their base64  one entry each line; and of what stands
                                   │                                      among them of wg-quick and bridge lines
                                   └─ JSON, YAML                          one entry each proxy

Sans-I/O but for the files that an OpenVPN config names, which are asked for through a callable. One bad entry never
spoils the rest: a fault becomes its problem, and nothing is raised. Texts are read as clients read them: any Unicode
with a byte order mark, comments of older codes, line ends of any machine.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from msgspec import structs

from vpntest.errors import ConfigError
from vpntest.plan import clash, kinds, links, messages, outbounds, outcome, ovpn, subscriptions, syntax, trees, wgquick
from vpntest.plan.kinds import Dialect, Part
from vpntest.plan.model import Entry, Finding, Kind, OpenVpnConfig
from vpntest.plan.ovpn import ReadFile
from vpntest.plan.secret import Secret
from vpntest.plan.trees import Table

MAX_SOURCE_BYTES = 32 << 20
"""The largest source: a hundred thousand links. Single configs stay under `syntax.MAX_CONFIG_BYTES`."""
MAX_LINK = 1 << 18
"""Characters of the longest line of a list; an Amnezia link with all its containers has a tenth of it."""
MAX_ENTRIES = 100_000
"""Entries of one source, junk counted."""

Login = tuple[Secret, Secret]
"""User name and password, as the plan gives them."""
_AROUND_KEYS = re.compile(rb"\s*<(?:ca|cert|key|extra-certs|crl-verify|tls-auth|tls-crypt|tls-crypt-v2)>")
_ESCAPED = re.compile(r"^[ \t]*&lt;(?:ca|cert|key|connection|tls-auth|tls-crypt)&gt;|\A[^\"]{0,8}&quot;", re.MULTILINE)
"""A config as the source of a page has it."""
_FENCE = re.compile(r"^[ \t]*```[\w-]{0,16}[ \t\r]*$", re.MULTILINE)
"""What chats put around a config that was pasted as code."""


def entries(data: bytes, where: str, read_file: ReadFile, login: Login | None = None) -> Iterator[Entry]:
    """The entries of a source, at least one. Never raises; `where` is what messages call the source.

    `read_file` opens what an OpenVPN config names; `login` is what `auth-user-pass` asks for.
    """
    number = 0
    for number, entry in enumerate(_entries(data, where, read_file, login), 1):
        if number > MAX_ENTRIES:
            fault = ConfigError(f"more than {MAX_ENTRIES} entries; the rest is not read", where=where)
            yield outcome.faulty(fault, line=entry.line)
            return
        yield entry
    if not number:
        yield outcome.faulty(ConfigError("it holds comments and no config", where=where))


def link(text: str, where: str, line: int | None = None) -> Iterator[Entry]:
    """The entries of one link: one, but for Amnezia's, which hold as many as its server has containers."""
    place = where if line is None else f"{where}:{line}"
    scheme = links.scheme_of(text)
    if len(text) > MAX_LINK:
        yield outcome.faulty(ConfigError(f"longer than {MAX_LINK >> 10} KiB", where=place), line=line)
    elif scheme == "vpn":
        from vpntest.plan import amnezia

        for entry in _safely(amnezia.entries(text, place), place):
            yield structs.replace(entry, line=line, findings=tuple(_on(line, entry.findings)))
    elif scheme in ("wireguard", "wg", "awg"):
        from vpntest.plan import wglinks

        yield outcome.made(Kind.WIREGUARD, lambda: wglinks.parse(text, place), line=line, label=_label(text))
    else:
        kind = links.SCHEMES.get(scheme or "", Kind.UNKNOWN)
        yield outcome.proxied(lambda: links.proxy(text, place), kind, line=line, label=_label(text))


def is_config(data: bytes) -> bool:
    """Whether a source looks like one of the dialects: beside configs lie keys, pictures and notes."""
    try:
        text = text_of(data, "")
    except ConfigError:
        return False
    dialect = kinds.dialect_of(text)
    # A single line such as `dev = [` also stands in programs and notes.
    return dialect not in (Dialect.NOTHING, Dialect.PAGE) and (dialect is not Dialect.OPENVPN or kinds.is_openvpn(text))


def text_of(data: bytes, where: str) -> str:
    """A source's text. Raises ConfigError for an empty one, and for what is no text.

    Bytes of an older code (Latin-1, Windows-1251) are let pass in comments, in the names of links and in what stands
    around certificates, where they say nothing to a carrier.
    """
    if not data.strip():
        raise ConfigError("the file is empty", where=where)
    if code := _unicode(data):
        try:
            text = data.decode(code)
        except UnicodeDecodeError:
            raise ConfigError("this is a binary file, not a config", where=where) from None
        return _lines(text.removeprefix("\ufeff"))
    if b"\x00" in data:
        raise ConfigError("this is a binary file, not a config", where=where)
    try:
        return _lines(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        pass
    rows = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    around_keys = False
    for number, row in enumerate(rows, 1):
        if row.lstrip()[:1] == b"<":
            around_keys = _AROUND_KEYS.match(row) is not None
        try:
            row.decode()
        except UnicodeDecodeError as fault:
            if around_keys:
                rows[number - 1] = row.decode("utf-8", "replace").encode()
                continue
            comment = re.search(rb"(?:^|[ \t])[#;]" if b"://" not in row else rb"#", row)
            if comment is None or comment.start() > fault.start:
                raise ConfigError("not UTF-8 text", where=where, line=number, hint="save the file as UTF-8") from None
            rows[number - 1] = row.decode("utf-8", "replace").encode()
    return _lines(b"\n".join(rows).decode())


def _unicode(data: bytes) -> str | None:
    if data.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    head = data[:64]
    if len(head) >= 8 and len(head) % 2 == 0 and not all(head):
        # Without the mark: every second byte of Latin letters is zero.
        if not any(head[1::2]) and all(head[::2]):
            return "utf-16-le"
        if not any(head[::2]) and all(head[1::2]):
            return "utf-16-be"
    return None


def _lines(text: str) -> str:
    """With line feeds between the lines, also where an old Mac wrote carriage returns alone."""
    return text if "\r" not in text or "\n" in text else text.replace("\r", "\n")


# ── by dialect ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _entries(data: bytes, where: str, read_file: ReadFile, login: Login | None) -> Iterator[Entry]:
    try:
        if len(data) > MAX_SOURCE_BYTES:
            raise ConfigError(f"larger than {MAX_SOURCE_BYTES >> 20} MiB", where=where)
        text = _FENCE.sub("", text_of(data, where))
        if _ESCAPED.search(text):
            text = html.unescape(text)
        dialect = kinds.dialect_of(text)
        if dialect is Dialect.BASE64:
            inner = kinds.from_base64(text)
            text = text_of(inner or b"", where)
            dialect = kinds.dialect_of(text)
        if dialect is Dialect.WG_QUICK and kinds.is_mixed(text):
            dialect = Dialect.LINKS
        single = dialect in (Dialect.WG_QUICK, Dialect.OPENVPN, Dialect.BRIDGES, Dialect.NOTHING)
        if single and len(text) > syntax.MAX_CONFIG_BYTES:
            raise ConfigError(f"larger than {syntax.MAX_CONFIG_BYTES >> 10} KiB", where=where)
    except ConfigError as fault:
        yield outcome.faulty(fault)
        return
    match dialect:
        case Dialect.LINKS:
            yield from _list(text, where)
        case Dialect.JSON | Dialect.YAML:
            yield from _document(text, where, trees.from_json if dialect is Dialect.JSON else trees.from_yaml)
        case Dialect.WG_QUICK:
            yield outcome.made(kinds.kind_of(text), lambda: wgquick.parse(text, where))
        case Dialect.OPENVPN:
            user, password = login or (None, None)
            yield outcome.made(
                Kind.OPENVPN,
                lambda: ovpn.parse(text, where, read_file, username=user, password=password),
                label=ovpn.label(text),
            )
        case Dialect.BRIDGES:
            from vpntest.plan import bridges

            yield outcome.made(Kind.TOR, lambda: bridges.parse(text, where))
        case Dialect.PAGE:
            yield outcome.faulty(ConfigError("this is a web page, not a config", where=where))
        case _:
            nothing = "neither a wg-quick config, nor an OpenVPN one, nor a share link, nor a list or document of them"
            yield outcome.faulty(ConfigError(nothing, where=where))


def _list(text: str, where: str) -> Iterator[Entry]:
    message = messages.is_message(text)
    bare = first = 0
    for part, lines, _ in _parts(text, message=True) if message else ():
        bare += part is None
        first = first or (lines[0] if part is None else 0)
    for part, lines, found in _parts(text, message=message):
        for entry in _part(part, lines, found, where) if part or not message else ():
            if bare:
                left = Finding("note", f"left out are the lines that hold no config: {bare}, from here on", first)
                entry, bare = structs.replace(entry, findings=(*entry.findings, left)), 0
            yield entry


def _part(part: Part | None, lines: Sequence[int], found: list[str], where: str) -> Iterator[Entry]:
    """The entries of what stands on these lines."""
    begin, text = lines[0], "\n".join(found)
    if part is Part.LINK:
        for one in found:
            yield from link(one, where, begin)
    elif part is None:
        yield outcome.faulty(ConfigError("no link on this line", where=f"{where}:{begin}"), line=begin)
    elif len(text) > syntax.MAX_CONFIG_BYTES:
        fault = ConfigError(f"larger than {syntax.MAX_CONFIG_BYTES >> 10} KiB", where=f"{where}:{begin}")
        yield outcome.faulty(fault, Kind.TOR if part is Part.BRIDGE else kinds.kind_of(text), line=begin)
    elif part is Part.BRIDGE:
        from vpntest.plan import bridges

        yield outcome.made(Kind.TOR, lambda: _placed(lines, lambda: bridges.parse(text, where)), line=begin)
    else:
        kind = kinds.kind_of(text)
        yield outcome.made(kind, lambda: _placed(lines, lambda: wgquick.parse(text, where)), line=begin)


def _placed(lines: Sequence[int], parse: Callable[[], outcome.Meaning]) -> outcome.Meaning:
    """What these lines of a source mean, with their numbers there. Raises ConfigError."""

    def there(findings: Iterable[Finding]) -> tuple[Finding, ...]:
        return tuple(structs.replace(one, line=one.line and lines[one.line - 1]) for one in findings)

    try:
        config, findings = parse()
    except ConfigError as fault:
        fault.line = fault.line and lines[fault.line - 1]
        fault.findings = there(fault.findings)
        raise
    return config, there(findings)


def _parts(text: str, *, message: bool) -> Iterator[tuple[Part | None, Sequence[int], list[str]]]:
    """What stands in a list or a message, and on which lines: the links of one; a wg-quick config, and the bridges,
    which are one tunnel, each with their text, or as much as tells that it is too large; None for a line that is
    nothing of all that."""
    config: list[str] = []
    bridges: dict[int, str] = {}
    begin = size = bridged = 0
    for number, found in enumerate(_rows(text), 1):
        line = found.strip(messages.BLANKS)
        comment = line.startswith(messages.COMMENTS)
        if not config and (not line or comment):
            continue
        part = kinds.part_of(line)
        if config:
            # It ends where another begins, at a link, a bridge, and words after a blank line.
            goes_on = config[-1] or not line or comment or line[0] == "[" or "=" in line
            if goes_on and part is not Part.INTERFACE and not kinds.is_foreign(line):
                if size <= syntax.MAX_CONFIG_BYTES:
                    config.append(line)
                    size += len(line) + 1
                continue
            yield Part.INTERFACE, range(begin, number), config
            config = []
            if not line or comment:
                continue
        if part is Part.BRIDGE:
            if bridged <= syntax.MAX_CONFIG_BYTES:
                bridges[number] = line
                bridged += len(line) + 1
        elif part:
            config, begin, size = [line], number, len(line)
        else:
            if "&amp;" in line:
                line = line.replace("&amp;", "&")
            linked = "://" in line
            scheme = links.scheme_of(line) if linked else None
            inside = messages.within(line) if linked else _in_base64(line)
            whole = scheme and not inside and not (message and scheme in messages.IN_PROSE)
            if whole or (len(line) > MAX_LINK and len(inside) < 2):
                inside = [line]
            yield Part.LINK if inside else None, (number,), inside
    if config:
        yield Part.INTERFACE, range(begin, begin + len(config)), config
    if bridges:
        yield Part.BRIDGE, list(bridges), list(bridges.values())


def _in_base64(line: str) -> list[str]:
    """The links of a line that is a small subscription of its own: lists are made by putting others together."""
    inner = None if re.search(r"\s", line) else kinds.from_base64(line)
    rows = inner.decode("utf-8", "replace").splitlines() if inner else []
    return [one for row in rows for one in messages.within(row)]


def _rows(text: str) -> Iterator[str]:
    """The lines, one at a time: a list of them all would hold the text twice."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _document(text: str, where: str, read: Callable[[str, str], Any]) -> Iterator[Entry]:
    try:
        document = read(text, where)
    except ConfigError as fault:
        yield outcome.faulty(fault)
        return
    yield from _tree(document, where)


def _tree(document: Any, where: str) -> Iterator[Entry]:
    if isinstance(document, list):
        yield from _several(document, where)
    elif not isinstance(document, Table):
        yield outcome.faulty(ConfigError("not a document of proxies", where=where))
    elif "proxies" in document or "Proxy" in document or "proxy-providers" in document:
        yield from clash.proxies(document, where)
    elif ("transport" in document and "type" not in document) or isinstance(document.get("error"), Table):
        yield from subscriptions.outline(document, where)
    elif "$type" in document:
        yield from subscriptions.outline(_wrapped(document), where)
    elif _is_xray(document):
        name = document.get("remarks")
        yield from outbounds.xray(document, where, name if isinstance(name, str) else "")
    elif "outbounds" in document or "endpoints" in document or "type" in document:
        yield from outbounds.sing_box(document, where)
    elif isinstance(servers := document.get("servers", document.get("configs")), list):
        yield from subscriptions.shadowsocks(servers, where)
    elif subscriptions.is_shadowsocks(document):
        yield from subscriptions.shadowsocks([document], where)
    else:
        hint = "read are sing-box, Xray, Clash, SIP008 and Outline"
        yield outcome.faulty(ConfigError("a document of no known client", where=where, hint=hint))


def _several(documents: list[Any], where: str) -> Iterator[Entry]:
    """A bare list: of Shadowsocks' servers, of whole configs as phones' clients get them, of links, of outbounds."""
    if not documents:
        yield outcome.faulty(ConfigError("the list holds nothing", where=where))
    for number, one in enumerate(documents, 1):
        if isinstance(one, str) and links.scheme_of(one):
            yield from link(one.strip(messages.BLANKS), f"{where}: entry {number}")
        elif isinstance(one, Table) and subscriptions.is_shadowsocks(one) and "type" not in one:
            yield from subscriptions.shadowsocks([one], where)
        elif isinstance(one, Table):
            yield from _tree(one, where)
        else:
            yield outcome.faulty(ConfigError("not a table of settings", where=f"{where}: entry {number}"))


def _is_xray(document: Table) -> bool:
    inner = document.get("outbounds")
    if isinstance(inner, list):
        return any(isinstance(one, Table) and "protocol" in one for one in inner)
    return "protocol" in document


def _wrapped(document: Table) -> Table:
    table = Table(transport=document)
    table.line = document.line
    return table


# ── small things ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _safely(found: Iterable[Entry], where: str) -> Iterator[Entry]:
    try:
        yield from found
    except ConfigError as fault:
        yield outcome.faulty(fault)


def _on(line: int | None, findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        yield structs.replace(finding, line=line) if line and finding.line is None else finding


def _label(text: str) -> str:
    """What stands behind the `#` of a link."""
    return unquote(links.behind_the_place(text.partition("#")[2])[:1024], errors="replace")


def asks_login(entry: Entry) -> bool:
    """Whether the plan's user name and password are for it."""
    return entry.kind is Kind.OPENVPN or isinstance(entry.config, OpenVpnConfig)
