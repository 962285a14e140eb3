"""Reads share links of proxies: their grammar only. What they mean is said in :mod:`vpntest.plan.proxies`.

Sans-I/O. There is no standard for these links: what is read here is what the projects themselves publish (SIP002 for
Shadowsocks, Xray's discussion 716 for VLESS, VMess and Trojan, Hysteria's URI scheme, dae's discussion 182 for TUIC)
and what the usual client, v2rayN, reads and writes, which is more lenient than any of these.

Order matters: a link is split first and percent-decoded after, part by part, because a password may hold `@`, `/`, `?`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote, unquote_plus

from vpntest.errors import ConfigError
from vpntest.plan import proxies, syntax
from vpntest.plan.model import Finding, Kind, ProxyConfig
from vpntest.plan.proxy_words import WORDS, Proxy
from vpntest.plan.syntax import Unsupported

SCHEMES = {
    "ss": Kind.SHADOWSOCKS,
    "vless": Kind.VLESS,
    "vmess": Kind.VMESS,
    "trojan": Kind.TROJAN,
    "hysteria2": Kind.HYSTERIA2,
    "hy2": Kind.HYSTERIA2,
    "tuic": Kind.TUIC,
    "anytls": Kind.ANYTLS,
    "socks": Kind.SOCKS,
    "socks5": Kind.SOCKS,
    "socks5h": Kind.SOCKS,
    "socks4": Kind.SOCKS,
    "socks4a": Kind.SOCKS,
    "http": Kind.HTTP,
    "https": Kind.HTTP,
    "ssh": Kind.SSH,
}
"""Schemes that are read. `http` and `https` are proxies only where nothing but a server and its port is named."""
KNOWN_SCHEMES = frozenset(
    """
    ssconf hysteria hy hysteria2+realm hysteria2+realm+http ssr ssd naive naive+https naive+quic naive+http juicity
    mieru mierus snell brook trojan-go shadowtls shadowquic sn tg tt mtproto masque
    """.split()
)
"""Schemes of share links that are not carried: said to be unsupported, not broken."""
MAX_LINK = 1 << 16
"""Characters of the longest link that is read; real ones stay under 8 KiB, also with post-quantum keys."""

_FETCH = "fetch it yourself, and give the answer as a file"
_BLANKS = " \t\r\n\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u00a0"
"""What chats and editors put around a link."""
_SCHEME = re.compile(rf"[{_BLANKS}]*([A-Za-z][A-Za-z0-9+.-]{{0,31}})://")
_ANOTHER = re.compile(rf"\s(?:{'|'.join(map(re.escape, sorted({*SCHEMES, *KNOWN_SCHEMES})))})://", re.IGNORECASE)
_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]*)\]|([^:\[\]]*))(?::([^:/?#@]*))?")
_PLACE_WITHIN = re.compile(
    r"@(?:\[[0-9A-Fa-f:.]{2,45}\]|[^\s@/?#:\[\]]{1,253}):[0-9][0-9,-]{0,255}(?=[/?#]|\Z)", re.ASCII
)
_AMPERSAND = re.compile(r"&(?:amp;)+|\\u0026")
"""As pages and JSON write it: how chats deliver links."""
_OLD_FORM = re.compile(r"([^:]+):(.+)@([^@]+)", re.DOTALL)
"""`cipher:secret@server`, which was in base64."""
_HEADERS = ("none", "http", "")
_ALPHABET = re.compile(r"[A-Za-z0-9+/_-]+")
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe00-\ufe0e\uffa0\U000e0100-\U000e01ef]")
"""Characters that count as printable and that nobody sees."""
_LABEL_LENGTH = 80
_NOT_IN_LINKS = frozenset(
    """
    ca pin client-cert client-key headers method tls-min tls-max mux-padding mux-connections mux-min-streams mux-streams
    global-padding authenticated-length udp-over-stream eh
    """.split()
)
_WORDS = {word.lower(): word for word in WORDS - _NOT_IN_LINKS}
_ALIASES = {
    "allowinsecure": "insecure",
    "allow_insecure": "insecure",
    "allow-insecure": "insecure",
    "skip-cert-verify": "insecure",
    "peer": "sni",
    "servername": "sni",
    "fingerprint": "fp",
    "publickey": "pbk",
    "shortid": "sid",
    "spiderx": "spx",
    "disable_sni": "disable-sni",
    "service_name": "serviceName",
    "packet_encoding": "packetEncoding",
    "alterid": "aid",
    "obfs_password": "obfs-password",
    "obfspassword": "obfs-password",
    "hop_interval": "hop-interval",
    "hopinterval": "hop-interval",
    "upmbps": "up",
    "up_mbps": "up",
    "downmbps": "down",
    "down_mbps": "down",
    "congestion-control": "congestion_control",
    "udp-relay-mode": "udp_relay_mode",
    "reduce_rtt": "reduce-rtt",
    "zero_rtt_handshake": "reduce-rtt",
    "udp-over-tcp": "uot",
    "udp_over_tcp": "uot",
    "fastopen": "tfo",
    "fast-open": "tfo",
    "tcp_fast_open": "tfo",
    "privatekey": "private-key",
    "private_key": "private-key",
    "hostkey": "host-key",
    "host_key": "host-key",
    "network": "type",
    "ws": "type",
    "wspath": "path",
    "noises": "noise",
    "tls_fragment": "fragment",
    "tls-fragment": "fragment",
    "record_fragment": "fragment",
}
"""Other spellings that generators have, in lower case, and the word of :mod:`vpntest.plan.proxy_words`."""
_VMESS_WORDS = (
    ("aid", "aid"),
    ("scy", "scy"),
    ("tls", "security"),
    ("sni", "sni"),
    ("alpn", "alpn"),
    ("fp", "fp"),
    ("net", "type"),
    ("host", "host"),
    ("path", "path"),
    ("pbk", "pbk"),
    ("sid", "sid"),
    ("spx", "spx"),
    ("pcs", "pcs"),
    ("vcn", "vcn"),
    ("ech", "ech"),
    ("fm", "fm"),
)
"""Keys of v2rayN's JSON, and the words of :mod:`vpntest.plan.proxy_words`."""
_VMESS_READ = frozenset(key for key, _ in _VMESS_WORDS) | frozenset(
    "v ps add port id type insecure allowinsecure skip-cert-verify fragment noise noises".split()
)
"""All keys of it that are read."""


def scheme_of(text: str) -> str | None:
    """The link's scheme in lower case, if the text begins with one."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else None


def parse(text: str, where: str) -> tuple[ProxyConfig, tuple[Finding, ...]]:
    """The link's meaning, and what a reader should know of it.

    `where` names the place in messages: the link itself is a secret and is never shown, in whole or in part. Raises
    ConfigError for a broken link, its subclass Unsupported for one that asks for what is not carried.
    """
    return proxies.outbound(proxy(text, where))


def proxy(text: str, where: str) -> Proxy:
    """The link taken apart, nothing judged but its grammar. Raises as :func:`parse`."""
    text = text.strip(_BLANKS)
    if len(text) > MAX_LINK:
        raise ConfigError("longer than any link is", where=where)
    scheme = scheme_of(text) or ""
    if scheme == "ssconf":
        raise Unsupported(
            "ssconf:// names a place to fetch a config from, and nothing is fetched", where=where, hint=_FETCH
        )
    if scheme in KNOWN_SCHEMES:
        raise Unsupported(f"{scheme}:// links are not supported", where=where)
    if scheme not in SCHEMES:
        raise ConfigError("not a share link", where=where, hint="it begins with ss, vless, vmess, trojan, hysteria2 …")
    if not syntax.is_plain(text):
        raise ConfigError("a control character in a link", where=where)
    if _ANOTHER.search(text.partition("#")[0]):
        raise ConfigError("two links in one line", where=where, hint="one link per line")
    link = _Link(text.partition("://")[2], scheme, where)
    found = _READERS.get(SCHEMES[scheme], _usual)(link)
    words = found.parameters
    if words.get("type", "").lower() in ("", "tcp", "raw") and words.get("headerType", "none").lower() not in _HEADERS:
        words["headerType"] = "none"
        found.findings.append(
            Finding("note", "`headerType` is neither none nor http, and none is taken, as clients do")
        )
    found.label = _label(found.label or behind_the_place(link.fragment), (found.username, found.password))
    return found


class _Link:
    """`user@place/path?query#fragment`, still percent-encoded."""

    def __init__(self, text: str, scheme: str, where: str) -> None:
        self.scheme, self.where = scheme, where
        self.kind = SCHEMES[scheme]
        head, _, self.fragment = text.partition("#")
        self.head, _, self.query = head.partition("?")
        # From the right: base64 holds slashes, a carelessly written password holds more.
        self.user, self.at, place = self.head.rpartition("@")
        self.place, _, self.path = place.partition("/")
        # A password may hold `#` or `?` as they are. A server with its port tells where it ends.
        bare_password = not self.at and self.kind in (Kind.TROJAN, Kind.ANYTLS)
        if (bare_password or not self._stands()) and (within := _PLACE_WITHIN.search(text)):
            self.user, self.at, self.place = text[: within.start()], "@", within[0][1:]
            rest, _, self.fragment = text[within.end() :].partition("#")
            path, _, self.query = rest.partition("?")
            self.path = path.removeprefix("/")

    def _stands(self) -> bool:
        """Whether there is a server before any `?` and `#`, or base64 that may hold one."""
        found = _PLACE.fullmatch(self.place)
        if found and (found[1] or found[2]) and ((found[3] or "")[:1].isdecimal() or "." in self.place):
            return True
        return not self.at and ":" in (_base64_text(_decoded(self.head)) or "")

    def broken(self, reason: str) -> ConfigError:
        return ConfigError(reason, where=self.where)

    def proxy(self) -> Proxy:
        """With its place and words, without user and password."""
        found = _PLACE.fullmatch(self.place)
        if not found:
            raise self.broken("the server is no host with a port; an IPv6 address needs brackets")
        if not (found[1] or found[2]):
            raise self.broken("the link has no server")
        words, label = _words(self.query, self.where)
        proxy = Proxy(
            kind=self.kind,
            where=self.where,
            host=found[1] or _decoded(found[2]),
            ports=_decoded(found[3] or "").strip(),
            parameters=words,
            label=label,
        )
        if self.path.strip("/ "):
            proxy.findings.append(Finding("note", "what stands behind the port is ignored, as clients do"))
        return proxy


def _words(query: str, where: str) -> tuple[dict[str, str], str]:
    """The query's parameters by their usual names, and a label, if it has one."""
    words: dict[str, str] = {}
    spelled: dict[str, str] = {}
    label = ""
    for pair in _AMPERSAND.sub("&", query).split("&"):
        name, _, raw = pair.partition("=")
        name = _decoded(name).strip()
        low = name.lower()
        if not raw or not name:  # generators write many empty ones
            continue
        if low in ("remarks", "remark"):
            label = label or raw
            continue
        word = _ALIASES.get(low) or _WORDS.get(low) or f"?{name}"
        # Hysteria writes a blank as a plus, others mean a plus.
        value = unquote_plus(raw) if word == "obfs-password" else _decoded(raw)
        if low == "ws":  # Trojan as it was before `type`, with `wspath` beside it
            value = "ws" if value.lower() in ("1", "true") else ""
        if low == "outline" or not value.strip():
            continue
        if spelled.setdefault(low, value) != value and word in WORDS:
            raise Unsupported(f"`{word}` is given twice, and clients differ in which one they read", where=where)
        if word == "insecure":
            if words.get(word, "0").lower() in ("0", "false"):  # v2rayN writes it under two names; one yes is a yes
                words[word] = value
        elif low == word.lower() or word not in words:
            words[word] = value
    return words, label


def _usual(link: _Link) -> Proxy:
    """`user@server:port?words`; the user part is an id or a password, whole."""
    if not link.at and link.kind is not Kind.HYSTERIA2:
        if link.kind is Kind.VLESS and (old := _old_form(link.head)):
            return _shadowrocket(link, old)
        raise link.broken("the link has no server, or no user before it")
    found = link.proxy()
    user = _decoded(link.user)
    if link.kind is Kind.VLESS:
        found.username = user
    elif link.kind is Kind.TUIC:
        found.username, _, found.password = user.partition(":")
    else:
        found.password = user
    return found


def _shadowsocks(link: _Link) -> Proxy:
    if not link.at:
        # The oldest form: all of it in base64, and the password may hold anything.
        old = _old_form(link.head.rstrip("/"))
        if old is None:
            raise link.broken("the link has no server")
        method, password, link.place = old
    elif ":" in link.user:
        method, _, password = link.user.partition(":")
        method, password = _decoded(method), _decoded(password)
    else:
        text = _decoded(link.user)
        plain = text if ":" in text else _base64_text(text)
        if plain is None or ":" not in plain:
            raise link.broken("the user part is neither method:password nor base64 of it")
        method, _, password = plain.partition(":")
    found = link.proxy()
    found.username, found.password = method, password
    return found


def _vmess(link: _Link) -> Proxy:
    text = _base64_text(_decoded(link.head)) if not link.at else None
    if text is not None and text.lstrip().startswith("{"):
        return _vmess_json(link, text)
    if not link.at and (old := _old_form(link.head)):
        return _shadowrocket(link, old)
    if text := _leading_base64(link.head):
        return _vmess_json(link, text)
    if not link.at:
        raise link.broken("neither base64 of JSON nor user@server")
    found = link.proxy()
    found.username = _decoded(link.user)
    found.parameters["scy"] = found.parameters.pop("encryption", "") or found.parameters.get("scy", "")
    return found


def _vmess_json(link: _Link, text: str) -> Proxy:
    """v2rayN's own form (its wiki, "Description of VMess share link")."""
    try:
        # What stands behind the document is of no client's interest.
        document, _ = json.JSONDecoder(strict=False).raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        raise link.broken("the base64 holds no JSON") from None
    if not isinstance(document, dict):
        raise link.broken("the base64 holds no JSON object")
    values = {str(key).lower(): _scalar(value) for key, value in document.items()}
    words = {word: values.get(key, "") for key, word in _VMESS_WORDS}
    given = {str(key).lower() for key, value in document.items() if value not in (None, "", False, [], {})}
    words |= {f"?{key}": "1" for key in given - _VMESS_READ}
    for word in given & {"fragment", "noise", "noises"}:
        words[word.removesuffix("s")] = values[word] or "1"
    words["security"] = {"1": "tls", "true": "tls", "0": "", "false": ""}.get(words["security"], words["security"])
    words["insecure"] = next(
        (values[key] for key in ("insecure", "allowinsecure", "skip-cert-verify") if values.get(key)), ""
    )
    header = values.get("type", "")
    network = words["type"].lower()
    if network in ("grpc", "gun"):
        words["serviceName"], words["authority"], words["mode"] = words.pop("path"), words.pop("host"), header
        words["mode"] = header if header.lower() in ("gun", "multi") else ""
    elif network in ("", "tcp", "raw", "kcp"):
        words["headerType"] = header
    host = values.get("add", "").strip()
    return Proxy(
        kind=Kind.VMESS,
        where=link.where,
        host=host[1:-1] if host.startswith("[") and host.endswith("]") else host,
        ports=values.get("port", "").strip(),
        username=values.get("id", ""),
        parameters={word: value for word, value in words.items() if value},
        label=values.get("ps", ""),
    )


def _scalar(value: object) -> str:
    match value:
        case bool():
            return "1" if value else "0"
        case str() | int():
            return str(value)
        case float() if value == value // 1:
            return str(int(value))
        case list():
            return ",".join(item for item in value if isinstance(item, str))
    return ""


def _shadowrocket(link: _Link, old: tuple[str, str, str]) -> Proxy:
    """`base64(cipher:id@server)?words`, Shadowrocket's form, which has words of its own."""
    cipher, user, link.place = old
    own = {name.lower(): _decoded(value) for name, value in _pairs(link.query)}
    found = link.proxy()
    found.username = user
    words = found.parameters
    words.pop("obfs", None)
    if link.kind is Kind.VMESS:
        words["scy"] = cipher
    if own.get("tls", "").lower() in ("1", "true"):
        words["security"] = "reality" if words.get("pbk") else "tls"
    if own.get("xtls", "0") not in ("0", "", "2"):
        raise Unsupported("`xtls` (a flow that VLESS no longer has)", where=link.where)
    if own.get("xtls") == "2":
        words["flow"] = "xtls-rprx-vision"
    obfs = own.get("obfs", "none").lower()
    if obfs == "http":
        words["headerType"] = "http"
    elif obfs not in ("none", ""):
        words["type"] = obfs
    if host := own.get("obfsparam", ""):
        try:
            # Once it was the bare name, later an object of headers.
            headers = json.loads(host) if host.lstrip().startswith("{") else {"Host": host}
        except (ValueError, RecursionError):
            raise link.broken("`obfsParam` is not JSON") from None
        words["host"] = next((_scalar(value) for key, value in headers.items() if key.lower() == "host"), "")
    if obfs == "grpc":
        words["serviceName"] = words.pop("path", "")
    for name in ("obfsparam", "xtls", "tls"):
        for word in [word for word in words if word.lower() == f"?{name}"]:
            del words[word]
    return found


def _login(link: _Link) -> Proxy:
    """`user:password@server`: SOCKS and SSH."""
    user = link.user
    if not link.at and not re.search(r":[0-9]+\Z", link.place) and (old := _old_form(link.head)):
        user, password, link.place = old
        found = link.proxy()
        found.username, found.password = user, password
        return found
    found = link.proxy()
    if link.kind is Kind.SOCKS:
        if ":" not in user and (text := _base64_text(_decoded(user))) and ":" in text and text.isprintable():
            found.username, _, found.password = text.partition(":")
            return _versioned(link, found)
        _versioned(link, found)
    name, colon, password = user.partition(":")
    found.username, found.password = _decoded(name), _decoded(password)
    if not colon and ":" in found.username:
        found.username, _, found.password = found.username.partition(":")
    if link.kind is Kind.SSH and (key := found.parameters.get("private-key", "")):
        found.parameters["private-key"] = key if "-----" in key else _base64_text(key) or key
    return found


def _versioned(link: _Link, found: Proxy) -> Proxy:
    found.parameters["version"] = {"socks4": "4", "socks4a": "4a"}.get(link.scheme, "5")
    return found


def _http(link: _Link) -> Proxy:
    if link.path or (link.query and not link.at) or not re.search(r":[0-9]+\Z", link.place):
        raise Unsupported(
            "an address to fetch from, not a proxy with a port; nothing is fetched", where=link.where, hint=_FETCH
        )
    found = _login(link)
    if link.scheme == "https":
        found.parameters["security"] = "tls"
    return found


_READERS: dict[Kind, Callable[[_Link], Proxy]] = {
    Kind.SHADOWSOCKS: _shadowsocks,
    Kind.VMESS: _vmess,
    Kind.SOCKS: _login,
    Kind.SSH: _login,
    Kind.HTTP: _http,
}


# ── small parts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _pairs(query: str) -> Iterator[tuple[str, str]]:
    for pair in _AMPERSAND.sub("&", query).split("&"):
        name, _, value = pair.partition("=")
        yield _decoded(name).strip(), value


def _old_form(text: str) -> tuple[str, str, str] | None:
    found = _OLD_FORM.fullmatch(_base64_text(_decoded(text)) or "")
    return (found[1], found[2], found[3].strip().rstrip("/")) if found else None


def _decoded(text: str) -> str:
    """Percent-decoded; as it stands where that gives no text, for not everybody encodes."""
    if "%" not in text:
        return text
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def _base64_text(text: str) -> str | None:
    raw = syntax.decoded_base64(text)
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def _leading_base64(text: str) -> str:
    """The JSON that base64 begins with, where something else stands behind it: a channel's name, a path."""
    found = _ALPHABET.match(text)
    bare = found[0].replace("-", "+").replace("_", "/") if found else ""
    whole = bare[: len(bare) - (len(bare) % 4 == 1)]
    inner = base64.b64decode(whole + "=" * (-len(whole) % 4)).decode("utf-8", "replace")
    # A quotation mark too: a UUID may be base64 of a brace.
    return inner if re.match(r'\s*\{\s*"', inner) else ""


def behind_the_place(fragment: str) -> str:
    """What of a fragment can be a label: a carelessly written password may hold a `#`, and goes on to the server."""
    place = re.match(r"(?:(?!://)[^#])*@(?:\[[0-9A-Fa-f:.]+\]|[^\s@/?#:]+):\d{1,5}(?!\d)", fragment)
    return fragment[place.end() :].partition("#")[2] if place else fragment


def _label(text: str, secrets: tuple[str, ...]) -> str:
    """What a stranger calls the proxy, as one short line that can be shown: no control, no other link, no secret."""
    text = unquote(text[: 16 * _LABEL_LENGTH], errors="replace")
    text = re.split(r"[A-Za-z0-9+.-]{2,32}://", text)[0]
    if any(len(secret) > 3 and secret in text for secret in map(str.strip, secrets)):
        return ""
    text = _UNSEEN.sub("\ufffd", " ".join(text.replace("\ufe0f", "").split()))
    return syntax.printable(text)[:_LABEL_LENGTH].strip()
