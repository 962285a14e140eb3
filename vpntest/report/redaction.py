"""A record made fit for publication: what leads to the tunnels' servers, their exits, or the box that measured.

    record ─redacted→ record      judged the same; `run.redacted` says what was taken out

Addresses are not cut out but replaced, each always by the same invented one of its family, and a bogon by a bogon: that
two were equal, or that an answer could not be true, is evidence. Keys and passwords are in no record.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from vpntest.judge.kinds import host_of, is_bogon
from vpntest.probe.observation import Address, DnsAnswer, Echo, Record, StunBinding

REDACTED: Final = (
    "servers of the tunnels, names and ports",
    "addresses of exits, resolvers, servers and answers, each replaced by an invented one; equal ones stay equal",
    "names of tunnels that tell of their server, or are numbered as their files are",
    "files that the configs came from",
    "the box: its id and its network; the country stays",
    "the time of beginning, to the full hour, and the run's id",
    "titles, server words and redirects of answers; issuers and digests of certificates",
)
"""What is not in a redacted record, in the order in which reports list it. Kept are the other names of tunnels, the
platforms, the controls, and times within the run."""

_V4 = r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\d)(?!\.\d)"
_V6 = (
    r"(?<![0-9A-Za-z_:])(?:[0-9A-Fa-f]{1,4})?(?::[0-9A-Fa-f]{0,4}){2,8}"
    r"(?:(?:\.\d{1,3}){3})?(?:%[\w.-]+)?(?![0-9A-Za-z:])"
)
_INVENTED = re.compile(r"198\.1[89]\.\d+\.\d+|240\.\d+\.\d+\.\d+|fd00::[\da-f]+|2001:db8::[\da-f]+")
"""What could be taken for an invented address where it is none: no such one is invented then."""
_WORD = r"[^\s/:,;'\"]"
# No group is possessive: Python below 3.11.5 goes on from the wrong place where one fails within.
_FOLDER = rf"{_WORD}++(?:\x20++{_WORD}++){{0,8}}/"
_ENDING = r"\.(?:auth|cer|conf|crt|json|key|log|ovpn|p12|pass|pem|pfx|ps1|psk|py|sh|toml|txt|ya?ml|zip)(?![\w.-])"
_PATH = re.compile(
    r"(?<=['\"])(?:~?/|[a-z]:\\)[^'\"\n]*+(?=['\"])"
    r"|(?<!\w)[a-z]:\\[^\s'\",;]*+"
    # It goes on after a space where a folder, or the ending of a file's name, is yet to come.
    rf"|(?<![\w.:/~-])~?/(?:{_FOLDER})*(?:{_WORD}+(?:\x20+{_WORD}+){{0,8}}?(?<=\w){_ENDING}|{_WORD}*+)"
    rf"|(?<![\w.:/~-])(?:[\w.@+~-]++/)*(?:(?!{_ENDING})[\w.@+~-])+{_ENDING}",
    re.IGNORECASE,
)
"""What names a file: whole paths, in quotes or not, and what ends as configs, keys and scripts do."""
_DIGEST = re.compile(r"-[0-9a-f]{8,16}$")
"""How a name ends that is made of a digest of the config: whoever guesses the rest can prove it."""
_NEVER_TEXT = frozenset({"type", "probe", "operation", "role", "phase", "rung", "kind", "mechanism", "version", "ja4"})
_ELSEWHERE = "http://elsewhere.invalid/"
_LEAST_WORD = 4
"""Characters from which on a name is looked for in other texts."""
_LEAST_ADDRESS = len("1.1.1.1")
"""Characters from which on an address is looked for within words; `::1` would be in many."""
_LONG = 20
"""Characters of a file's name that a tunnel's name holds in any case."""


def redacted(record: Record) -> Record:
    """The record without what would lead to servers, exits or the box; once more gives the same. A pure function."""
    if record.run.redacted:
        return record
    plain: dict[str, Any] = msgspec.to_builtins(record)
    invented = _Inventor(record, plain)
    run = plain["run"]
    run["started"], run["id"] = _coarse(record)
    run["vantage"] = {"country": run["vantage"]["country"]}
    run["phases"] = [phase | {"name": invented.phase(phase["name"])} for phase in run["phases"]]
    run["redacted"] = list(REDACTED)
    plain["tunnels"] = [invented.tunnel(one) for one in plain["tunnels"]]
    plain["platforms"] = invented.text_of(plain["platforms"])
    plain["observations"] = [invented.observation(one) for one in plain["observations"]]
    return msgspec.convert(plain, Record)


def _coarse(record: Record) -> tuple[str, str]:
    """The hour of beginning, and an id of that hour which leads to no other."""
    try:
        began = datetime.fromisoformat(record.run.started).astimezone(UTC)
    except ValueError:
        began = datetime.fromtimestamp(0, UTC)
    hour = began.replace(minute=0, second=0, microsecond=0)
    # The old id holds 74 random bits, so that no digest of it can be turned back.
    digest = int.from_bytes(hashlib.sha256(record.run.id.encode()).digest()[:10])
    milliseconds = max(hour - datetime.fromtimestamp(0, UTC), timedelta()) // timedelta(milliseconds=1)
    value = milliseconds << 80 | 0x7 << 76 | digest & ((1 << 76) - 1)
    return hour.isoformat(timespec="seconds"), str(UUID(int=value & ~(0x3 << 62) | 0x2 << 62))


class _Inventor:
    """Finds a stand-in for each thing, the same for the same."""

    def __init__(self, record: Record, plain: dict[str, Any]) -> None:
        self._stand_ins: dict[tuple[str, str], str] = {}
        self._made: Counter[str] = Counter()
        self._said: dict[str, str] = {}
        self._taken = {*_INVENTED.findall(msgspec.json.encode(plain).decode())}
        listed = set(_hosts_of_platforms(record))
        self._known = listed | {_host(one.endpoint or "") for one in record.observations} | {record.run.neutral_name}
        # In order, for a set has another one in each process.
        sensitive = dict.fromkeys(_sensitive(record))
        self._kept = {host for host in listed if _is_literal(host)} - {*sensitive}
        self._words: dict[str, str] = {}
        joined = []
        for address in sensitive:
            for mark in "-_":
                joined.append(re.sub(r"[.:]", mark, address.lower()))
                self._words[joined[-1]] = re.sub(r"[.:]", mark, self._address(address))
        for facts in record.tunnels:
            for server in facts.servers:
                place = server.rpartition("/")[0].lower()
                host = host_of(place)
                if host not in self._known:
                    self._words[place] = self._place(place)
                if not _is_literal(host) and host not in self._known:
                    self._words[host] = self._numbered("server-{}.invalid", host)
        for one in record.observations:
            if one.probe == "names" and isinstance(one.details, DnsAnswer) and one.details.hostname not in self._known:
                # Made up for one question; whoever keeps that zone knows who asked it.
                self._words[one.details.hostname.lower()] = self._numbered("name-{}.invalid", one.details.hostname)
        self._names = self._renamed(record)
        # Only programs and parsers speak of tunnels and files. Elsewhere such a word means itself: `public`, `http2`.
        files = {file for facts in record.tunnels for file in (facts.source, facts.source.rpartition("/")[2])}
        self._spoken = {file.lower(): "config" for file in files if len(file) >= _LEAST_WORD}
        self._spoken |= {old.lower(): new for old, new in self._names.items() if not old.isdigit()}
        self._spoken_of = re.compile(_any_of(self._spoken), re.IGNORECASE)
        parts = [_any_of(self._words)] if self._words else []
        joined = [one for one in joined if len(one) >= _LEAST_ADDRESS]
        if joined:
            # Names are made of addresses and more: `vpn-203-0-113-9`, `wg_203_0_113_9`.
            parts.append(rf"(?<![0-9a-f])(?:{'|'.join(sorted(joined, key=len, reverse=True))})(?![0-9a-f])")
        self._pattern = re.compile("|".join([*parts, _V6, _V4]), re.IGNORECASE)

    def _renamed(self, record: Record) -> dict[str, str]:
        """New names for the tunnels whose own would give their servers away.

        Numbered within a kind, in the plan's order: two nights of one plan give the same.
        """
        names = {facts.name for facts in record.tunnels}
        shared = Counter(facts.source for facts in record.tunnels)
        renamed: dict[str, str] = {}
        numbers: Counter[str] = Counter()
        for facts in record.tunnels:
            name = facts.name.lower()
            stem = _slug(facts.source.rpartition("/")[2].rpartition(".")[0])
            is_files = bool(stem) and _holds(name, stem)
            # Where many tunnels stand in one file, its author has named them, whatever the plan calls the file.
            is_given = is_files or (shared[facts.source] > 1 and "." in facts.source)
            if (
                _DIGEST.search(name)
                or (is_given and _has_digit(name))
                or any(_tells(name, host_of(one.rpartition("/")[0]).lower(), is_files) for one in facts.servers)
            ):
                new = ""
                while not new or new in names:
                    numbers[facts.kind.value] += 1
                    new = f"{facts.kind.value}-tunnel-{numbers[facts.kind.value]}"
                names.add(new)
                renamed[facts.name] = new
        return renamed

    def _numbered(self, form: str, of: str) -> str:
        """`form` with the number of this thing among those of the form."""
        if (form, of) not in self._stand_ins:
            self._made[form] += 1
            self._stand_ins[form, of] = form.format(self._made[form])
        return self._stand_ins[form, of]

    def _address(self, literal: str) -> str:
        """The stand-in of an address; itself, where a platform is reached by it."""
        parsed = _parsed(literal.partition("%")[0])
        if parsed is None or literal in self._kept:
            return literal
        bogon = is_bogon(str(parsed))
        kind = f"IPv{parsed.version} {bogon}"
        while (kind, str(parsed)) not in self._stand_ins:
            self._made[kind] += 1
            made = _invented(parsed.version, self._made[kind], bogon=bogon)
            if made not in self._taken:
                self._stand_ins[kind, str(parsed)] = made
        return self._stand_ins[kind, str(parsed)]

    def text(self, text: str) -> str:
        """A text without addresses, servers and files."""
        if text not in self._said:
            self._said[text] = self._pattern.sub(self._replaced, text)
        return self._said[text]

    def _replaced(self, found: re.Match[str]) -> str:
        word = self._words.get(found[0].lower())
        return self._address(found[0]) if word is None else word

    def text_of(self, value: Any) -> Any:
        """Plain data with all its texts replaced."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.text_of(one) for one in value]
        if isinstance(value, dict):
            return {key: one if key in _NEVER_TEXT else self.text_of(one) for key, one in value.items()}
        return value

    def _told(self, text: str) -> str:
        """What a program or a parser says: it may name files and tunnels."""
        return _PATH.sub("[file]", self._spoken_of.sub(lambda found: self._spoken[found[0].lower()], self.text(text)))

    def phase(self, name: str) -> str:
        """A phase's name begins with that of its tunnel."""
        tunnel, colon, what = name.partition(": ")
        return f"{self._names.get(tunnel, tunnel)}{colon}{what}"

    def tunnel(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What is known of a tunnel."""
        problem = facts["problem"] and facts["problem"] | {"reason": self._told(facts["problem"]["reason"])}
        made: dict[str, Any] = facts | {
            "name": self._names.get(facts["name"], facts["name"]),
            "source": "config",
            "servers": [self._server(server) for server in facts["servers"]],
            "problem": problem,
            "warnings": [self._told(warning) for warning in facts["warnings"]],
            # `tor 0.4.8.16` is no address.
            "carrier": facts["carrier"] and _PATH.sub("[file]", facts["carrier"]),
        }
        return made

    def _server(self, server: str) -> str:
        place, slash, transport = server.rpartition("/")
        return f"{self._place(place)}{slash}{transport}"

    def _place(self, place: str) -> str:
        """`host:port` of a server, with a number for the port."""
        host = host_of(place).lower()
        if _is_literal(host):
            made = self._address(host)
            made = f"[{made}]" if ":" in made else made
        else:
            made = self._numbered("server-{}.invalid", host)
        return self._numbered(f"{made}:{{}}", place.lower())

    def observation(self, one: dict[str, Any]) -> dict[str, Any]:
        """One fact."""
        details = self._details(one["details"])
        rest = {key: value for key, value in one.items() if key not in ("details", "id", "tcp", "vantage", "failure")}
        named = {"vantage": self._names.get(one["vantage"], one["vantage"])}
        if one["target"] == one["vantage"]:
            named["target"] = named["vantage"]
            rest.pop("target")
        failure = one["failure"] and self._told(one["failure"])
        made: dict[str, Any] = one | self.text_of(rest) | named | {"details": details, "failure": failure}
        return made

    def _details(self, details: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = self.text_of(details)
        match details["type"]:
            case "http":
                made["title"] = details["title"] and self._numbered("title {}", details["title"])
                made["server"] = details["server"] and self._numbered("server {}", details["server"])
                made["location"] = details["location"] and self._led_to(details["location"])
            case "tls" | "quic":
                made["issuer"] = details["issuer"] and self._numbered("issuer {}", details["issuer"])
                # As long as the digest that it stands for.
                made["peer_certificate"] = details["peer_certificate"] and self._numbered(
                    "{:064x}", details["peer_certificate"]
                )
            case "stun":
                made["mapped"] = details["mapped"] and f"{self.text(details['mapped']).rpartition(':')[0]}:0"
            case "rung":
                made["detail"] = self._told(details["detail"])
        return made

    def _led_to(self, location: str) -> str:
        """Where an answer led to: a host of the platform's, or elsewhere. The address of a block page often holds the
        client's."""
        try:
            parts = urlsplit(location)
            host = parts.hostname or ""
        except ValueError:
            return _ELSEWHERE
        if not host and location.startswith("/") and not location.startswith("//"):
            return "/"
        return f"{parts.scheme or 'http'}://{host}/" if host in self._known and not _is_literal(host) else _ELSEWHERE


def _sensitive(record: Record) -> Iterator[str]:
    """Addresses of servers, exits and resolvers, and those that the world saw of us."""
    for facts in record.tunnels:
        for server in facts.servers:
            host = host_of(server.rpartition("/")[0])
            if _is_literal(host):
                yield host
    for one in record.observations:
        match one.details:
            case Address(address=str(address)):
                yield address
            case StunBinding(mapped=str(mapped)):
                yield host_of(mapped)
            case DnsAnswer(resolver="vantage", resolver_address=address) | Echo(resolver_address=address):
                yield host_of(address)
            case _:
                pass


def _hosts_of_platforms(record: Record) -> Iterator[str]:
    for platform in record.platforms:
        urls: Iterable[str] = (endpoint.url for service in platform.service for endpoint in service.endpoint)
        for url in (*urls, platform.speed or ""):
            if host := _host(url):
                yield host


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or url.lower()
    except ValueError:
        return ""


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    octets = text.split(".")
    # `010.1.2.3`, which some write.
    if len(octets) == 4 and all(octet.isdigit() and int(octet) < 256 for octet in octets):
        return ipaddress.IPv4Address(".".join(str(int(octet)) for octet in octets))
    return None


def _is_literal(host: str) -> bool:
    return _parsed(host.partition("%")[0]) is not None


def _any_of(words: Iterable[str]) -> str:
    """A pattern of any of these as a whole, the longest first; of none it matches nothing."""
    found = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return rf"(?<![\w-])(?:{found})(?![\w-])" if found else "(?!)"


def _slug(text: str) -> str:
    """About as a plan makes names of files."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._")


def _holds(name: str, part: str) -> bool:
    """Whether a name holds this as a whole; of a long part, names hold the beginning."""
    if len(part) > _LONG:
        return part[:_LONG] in name
    return re.search(rf"(?<![a-z0-9]){re.escape(part)}(?![a-z0-9])", name) is not None


def _tells(name: str, host: str, is_files: bool) -> bool:
    """Whether a tunnel's name gives this host away: all of it, or one of its labels."""
    if any(form in name for form in (host, re.sub(r"[.:]", "-", host), re.sub(r"[.:]", "_", host))):
        return bool(host)
    if _is_literal(host):
        return False
    *labels, _ = host.split(".")
    # A plan may say whose server it is; the name of a file or of a host says which.
    chosen = labels if is_files or len(labels) < 2 else [*labels[:-1], *filter(_has_digit, labels[-1:])]
    return any(
        (len(label) > _LEAST_WORD and label in name)
        or ((_has_digit(label) or len(label) == _LEAST_WORD) and _holds(name, label))
        for label in chosen
    )


def _has_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)


def _invented(version: int, number: int, *, bogon: bool) -> str:
    """An address that no server on the internet has: for what the judge takes for a bogon one that it takes for a bogon
    too, for others out of the networks for tests (RFC 2544, RFC 4193)."""
    if version == 4:
        return str(ipaddress.IPv4Address("240.0.0.0" if bogon else "198.18.0.0") + number)
    return str(ipaddress.IPv6Address("2001:db8::" if bogon else "fd00::") + number)
