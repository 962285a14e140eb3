"""JSON and YAML documents of strangers as bounded trees whose tables know their line, and how keys are taken from them.

Sans-I/O. Both come out alike: tables, lists, text, yes or no, nothing; numbers of JSON are numbers, those of YAML stay
the text that they are written as, for `password: 0123` means these four characters. YAML is built from the parser's
events: no tag makes an object, and an alias that stands for a great tree a thousand times meets the bound.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable
from json import decoder, scanner
from typing import Any, NoReturn

from vpntest.errors import ConfigError
from vpntest.plan.model import Finding
from vpntest.plan.syntax import Unsupported

MAX_DOCUMENT = 8 << 20
"""Characters of the largest document that is read: some ten thousand proxies."""
MAX_DEPTH = 48
"""Tables and lists within each other. Real ones stay under twelve."""
MAX_TABLES = 500_000
"""Objects and lists of a JSON document: each costs half a KiB. Ten thousand proxies have a fifth of it."""
MAX_NODES = 2_000_000
"""Values of a document, those counted again that an alias repeats."""

_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$-]{0,39}")
"""What may be repeated in a message: a name of a setting, and nothing that a terminal obeys."""
_MATTERS = re.compile(
    "opts|option|setting|tls|ssl|cert|obfs|crypt|cipher|plugin|transport|network|proxy|detour|mux|frag|mask|realm|auth"
    "|pass|token|mode|seed|shadow|udp|tcp|finger|sni|alpn|ech|path|host|header|padding|noise|junk|version|protocol|secur",
    re.IGNORECASE,
)
"""Words in the names of settings that change what is spoken with a server."""
_JSON_EXTRAS = re.compile(r'"(?:\\.|[^"\\\n]++)*+"?|//[^\n]*|/\*.*?(?:\*/|\Z)|#[^\n]*', re.DOTALL)
# A string that does not end is taken as far as it goes: tried again at each quote in it, it would cost its square.
_JSON_COMMA = re.compile(r'("(?:\\.|[^"\\\n]++)*+"?)|,(?=\s*[\]}])')
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_YES = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
_NO = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})


class Table(dict[str, Any]):
    """A JSON object or YAML mapping."""

    line: int | None = None
    """One-based, where it begins."""
    twice: str = ""
    """A key that it holds twice, the last of them; the later value is the one that is kept."""


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def from_json(text: str, where: str) -> Any:
    """The document, also with the comments and trailing commas that clients let pass. Raises ConfigError."""
    _bounded(text, where)
    try:
        return _json(text)
    except (ValueError, RecursionError) as first:
        fault: Exception = first
    if isinstance(fault, ValueError):
        bare = _JSON_EXTRAS.sub(_blank_comment, text)
        bare = _JSON_COMMA.sub(lambda found: found[1] or " ", bare)
        try:
            return _json(bare)
        except RecursionError as second:
            fault = second
        except ValueError:
            pass  # the first fault is the one in the text as it stands
    if isinstance(fault, json.JSONDecodeError):
        raise ConfigError("not JSON: " + fault.msg.lower(), where=where, line=fault.lineno) from None
    if isinstance(fault, _TooManyError):
        reason = f"more than {MAX_TABLES} objects and lists"
    else:
        reason = "nested too deep" if isinstance(fault, RecursionError) else "a number that is too long"
    raise ConfigError(f"not JSON that is read: {reason}", where=where) from None


class _TooManyError(RecursionError):
    """More objects and lists than are read."""


def _json(text: str) -> Any:
    ends = [found.start() for found in re.finditer("\n", text)]
    depth = tables = 0

    class Decoder(json.JSONDecoder):
        def __init__(self) -> None:
            super().__init__(strict=False)
            # The C scanner tells no places; the one in Python calls these.
            plain_object: Callable[..., tuple[Any, int]] = decoder.JSONObject  # type: ignore[attr-defined]
            plain_array: Callable[..., tuple[Any, int]] = decoder.JSONArray  # type: ignore[attr-defined]

            def nested(parse: Callable[..., tuple[Any, int]], *arguments: Any) -> tuple[Any, int]:
                nonlocal depth, tables
                depth += 1
                tables += 1
                if depth > MAX_DEPTH:
                    raise RecursionError
                if tables > MAX_TABLES:
                    raise _TooManyError
                found = parse(*arguments)
                depth -= 1
                return found

            def parse_object(place: tuple[str, int], *others: Any) -> tuple[Any, int]:
                pairs, end = nested(plain_object, place, *others)
                pairs.line = bisect.bisect_left(ends, place[1] - 1) + 1
                return pairs, end

            self.object_pairs_hook = _table
            self.parse_object = parse_object
            self.parse_array = lambda *arguments: nested(plain_array, *arguments)
            self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    return Decoder().decode(text)


def _table(pairs: list[tuple[str, Any]]) -> Table:
    table = Table(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                table.twice = key
            seen.add(key)
    return table


def _blank_comment(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.startswith('"') else "\n" * text.count("\n") or " "


# ── YAML ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def from_yaml(text: str, where: str) -> Any:
    """The first document of the text. Raises ConfigError."""
    import yaml

    _bounded(text, where)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Builder(where).build(yaml.parse(text, Loader=loader), yaml)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        # Its words about what it met instead quote the document.
        reason = "not YAML" if "'" in (fault.problem or "'") else f"not YAML: {fault.problem}"
        raise ConfigError(reason, where=where, line=mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError("not YAML", where=where) from None


class _Builder:
    """A tree from the events of a YAML parser."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.anchors: dict[str, tuple[Any, int]] = {}
        """What each anchor stands for, and how many values that is."""
        self.nodes = 0

    def build(self, events: Any, yaml: Any) -> Any:
        for event in events:
            match event:
                case yaml.StreamStartEvent() | yaml.DocumentStartEvent():
                    continue
                case yaml.StreamEndEvent() | yaml.DocumentEndEvent():
                    return None
            return self._value(event, events, yaml, 0)
        return None

    def _value(self, event: Any, events: Any, yaml: Any, depth: int) -> Any:
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise ConfigError("YAML that is nested too deep", where=self.where, line=line)
        before = self.nodes
        self._count(1, line)
        value: Any
        match event:
            case yaml.AliasEvent():
                if event.anchor not in self.anchors:
                    raise ConfigError("a YAML alias of nothing before it", where=self.where, line=line)
                value, size = self.anchors[event.anchor]
                self._count(size, line)
                return value
            case yaml.ScalarEvent():
                value = _scalar(event.value, plain=event.implicit[0] and not event.style, tag=event.tag)
            case yaml.SequenceStartEvent():
                value = []
                for inner in events:
                    if isinstance(inner, yaml.SequenceEndEvent):
                        break
                    value.append(self._value(inner, events, yaml, depth + 1))
            case _:
                value = self._mapping(events, yaml, depth)
                value.line = line
        if event.anchor:
            self.anchors[event.anchor] = (value, self.nodes - before)
        return value

    def _mapping(self, events: Any, yaml: Any, depth: int) -> Table:
        table = Table()
        merged: list[Any] = []
        for inner in events:
            if isinstance(inner, yaml.MappingEndEvent):
                break
            line = inner.start_mark.line + 1
            raw = inner.value if isinstance(inner, yaml.ScalarEvent) else None
            key = self._value(inner, events, yaml, depth + 1)
            value = self._value(next(events), events, yaml, depth + 1)
            if raw is None:
                if not isinstance(key, str):
                    raise ConfigError("a key that is no text", where=self.where, line=line)
                raw = key
            if raw == "<<" and isinstance(value, Table | list):
                merged += value if isinstance(value, list) else [value]
                continue
            if raw in table:
                table.twice = raw
            table[raw] = value
        for other in merged:
            if isinstance(other, Table):
                self._count(len(other), None)
                for key, value in other.items():
                    table.setdefault(key, value)
        return table

    def _count(self, more: int, line: int | None) -> None:
        self.nodes += more
        if self.nodes > MAX_NODES:
            raise ConfigError("YAML that unfolds into too much", where=self.where, line=line)


def _scalar(text: str, *, plain: bool, tag: str | None) -> str | bool | None:
    if not plain or tag:
        return text
    if text in _NULL:
        return None
    if text in _YES or text in _NO:
        return text in _YES
    return text


# ── taking keys out ──────────────────────────────────────────────────────────────────────────────────────────────────


class Keys:
    """The keys of one table. Each is taken out once; what is left over at the end is what nobody can honour.

    `lenient` is for the documents of clients that pass over keys that they do not know: there only such a key makes
    the config unsupported whose name speaks of something that changes what is spoken.
    """

    def __init__(
        self,
        table: Table,
        where: str,
        *,
        path: str = "",
        findings: list[Finding] | None = None,
        lenient: bool = False,
    ) -> None:
        self.table = dict(table)
        self.where = where
        self.line = table.line
        self.path = path
        self.lenient = lenient
        self.findings: list[Finding] = [] if findings is None else findings
        if table.twice:
            self.broken(f"{self.named(table.twice)} is given twice")

    def named(self, key: str) -> str:
        """How a key is called in messages."""
        return f"`{self.path}{key}`" if _KEY.fullmatch(key) else "a key of a strange name"

    def broken(self, reason: str) -> NoReturn:
        raise ConfigError(reason, where=self.where, line=self.line)

    def unsupported(self, reason: str) -> NoReturn:
        raise Unsupported(reason, where=self.where, line=self.line)

    def note(self, text: str) -> None:
        """Says that something is left out and that nothing hangs on it."""
        self.findings.append(Finding("note", text, self.line))

    def take(self, key: str) -> Any:
        """The bare value, None where there is none."""
        return self.table.pop(key, None)

    def text(self, *names: str) -> str:
        """The text of the first of these keys that has one, numbers as they are written; empty where none has."""
        found = ""
        for key in names:
            value = self.take(key)
            if value is None or found:
                continue
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                self.broken(f"{self.named(key)} is not a text")
            found = str(value)
        return found

    def number(self, key: str) -> str:
        """A whole number as text; empty where there is none."""
        value = self.take(key)
        if value is None or value == "":
            return ""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int) or not re.fullmatch("[0-9]{1,10}", str(value)):
            self.broken(f"{self.named(key)} is not a whole number")
        return str(int(value))

    def flag(self, *names: str) -> bool:
        """Whether one of these keys says yes."""
        found = False
        for key in names:
            value = self.take(key)
            if isinstance(value, str | int) and str(value).lower() in ("true", "false", "1", "0", ""):
                value = str(value).lower() in ("true", "1")
            if not isinstance(value, bool | None):
                self.broken(f"{self.named(key)} is neither true nor false")
            found = found or bool(value)
        return found

    def texts(self, key: str) -> list[str]:
        """A list of texts, also where a single one stands for it."""
        value = self.take(key)
        if value is None:
            return []
        entries = value if isinstance(value, list) else [value]
        if any(isinstance(entry, bool) or not isinstance(entry, str | int) for entry in entries):
            self.broken(f"{self.named(key)} is not a list of texts")
        return [str(entry) for entry in entries if entry != ""]

    def inner(self, key: str) -> Keys | None:
        """The keys of a table within this one; None where there is none."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, Table):
            self.broken(f"{self.named(key)} is not a table of settings")
        found = Keys(value, self.where, path=f"{self.path}{key}.", findings=self.findings, lenient=self.lenient)
        found.line = found.line or self.line
        return found

    def leave(self, *names: str) -> None:
        """Takes out keys that say nothing about what is spoken with the server."""
        for key in names:
            self.take(key)

    def refuse(self, names: dict[str, str]) -> None:
        """Raises Unsupported where one of these keys asks for something, with the reason that stands beside it."""
        for key, reason in names.items():
            if self.take(key) not in (None, False, "", 0, "0", [], {}):
                self.unsupported(f"{self.named(key)} is not supported" + (f": {reason}" if reason else ""))

    def done(self) -> None:
        """Raises Unsupported for what has not been taken. Keys without a value say nothing."""
        left = [key for key, value in self.table.items() if value not in (None, "", [], {})]
        if self.lenient and not any(_MATTERS.search(key) for key in left):
            if left:
                self.note(f"{', '.join(sorted(map(self.named, left))[:5])} ignored: no client reads it")
            return
        if left:
            self.unsupported(f"{', '.join(sorted(map(self.named, left))[:5])} cannot be honoured")


def _bounded(text: str, where: str) -> None:
    if len(text) > MAX_DOCUMENT:
        raise ConfigError(f"larger than {MAX_DOCUMENT >> 20} MiB", where=where)
