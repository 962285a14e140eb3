"""What lies between a proxy's protocol and its TCP: the transport, with its paths, hosts and headers, and multiplexing.

Sans-I/O.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, unquote

from vpntest.plan import proxy_tls, syntax
from vpntest.plan.proxy_words import NO, Reading, ascii_host

_TRANSPORTS = {
    **dict.fromkeys(("", "tcp", "raw", "none", "original"), "tcp"),
    **dict.fromkeys(("ws", "websocket"), "ws"),
    **dict.fromkeys(("grpc", "gun"), "grpc"),
    **dict.fromkeys(("http", "h2"), "http"),
    "httpupgrade": "httpupgrade",
}
_OTHER_TRANSPORTS = frozenset("xhttp splithttp kcp mkcp quic ds domainsocket hysteria meek mekya".split())
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")


def secured(reading: Reading, fields: dict[str, object], *, default: str) -> None:
    """TLS, transport and multiplexing, as VLESS, VMess and Trojan have them."""
    kind = _transport_of(reading)
    header = reading.line("headerType").lower()
    disguised = kind == "tcp" and header == "http"
    tls = proxy_tls.over_tcp(reading, default=default, transport="http/1" if disguised else kind)
    if tls is not None:
        fields["tls"] = tls
    if kind == "tcp" and header not in ("", "none", "http"):
        reading.unsupported("`headerType` is neither none nor http")
    if disguised:
        if tls is not None:
            reading.unsupported("`headerType=http` within TLS: sing-box would speak HTTP/2 there")
        fields["transport"] = _disguise(reading)
    elif kind != "tcp":
        if kind == "http" and tls is None:
            reading.unsupported("`type=http` (HTTP/2) without TLS: sing-box would speak HTTP/1.1 there")
        name = str(tls["server_name"]) if tls else ""
        fields["transport"] = _TRANSPORT_READERS[kind](reading, name)
    if reading.take("fm") not in ("", "{}", "null"):
        reading.unsupported("`fm` (Xray's mask of the connection): sing-box has no such thing")
    multiplex(reading, fields)
    if reading.words.get("path") == "/":
        del reading.words["path"]
    reading.drop(
        ("host", "path", "serviceName", "authority", "mode", "seed", "extra", "ed", "eh", "method"),
        f"no meaning with `type` {kind}",
    )


def _transport_of(reading: Reading) -> str:
    name = reading.line("type").lower()
    kind = _TRANSPORTS.get(name)
    if kind is None:
        if name in _OTHER_TRANSPORTS:
            reading.unsupported(f"`type={name}`: sing-box has no such transport")
        reading.unsupported("`type` is no transport that sing-box has")
    return kind


def _websocket(reading: Reading, name: str) -> dict[str, object]:
    path, early = _early(reading, _path(reading))
    transport: dict[str, object] = {"type": "ws", "path": path}
    headers = {**further_headers(reading), "Host": _host_header(reading, name)}
    transport["headers"] = headers
    early = reading.number("ed") or early
    header = reading.line("eh")
    if early:
        transport["max_early_data"] = early
        if header != "path":
            if header and not _TOKEN.fullmatch(header):
                reading.broken("`eh` is not the name of a header")
            transport["early_data_header_name"] = header or "Sec-WebSocket-Protocol"
    return transport


def _http_upgrade(reading: Reading, name: str) -> dict[str, object]:
    as_letters = reading.proxy.dialect in ("link", "xray")
    if as_letters and not re.search(r"\?(?:.*&)?ed=", reading.words.get("path", "")):
        path, early = reading.line("path"), 0
        path = unquote(path) if path[:3].lower() == "%2f" else path
        path = path if path.startswith("/") else "/" + path
    else:
        path, early = _early(reading, _path(reading))
    if as_letters:
        # Xray takes it letter by letter, and encodes each that has a meaning in a URL: `%` and `?` too (its dialer sets
        # url.URL.Path alone). Written so, sing-box sends the same.
        path = quote(path, safe="/$&+,:;=@-_.~")
    if early or reading.number("ed"):
        reading.find("note", "`ed` ignored: sing-box waits for the server's answer before it sends data")
    reading.take("eh")
    transport: dict[str, object] = {"type": "httpupgrade", "path": path, "host": _host_header(reading, name)}
    if headers := further_headers(reading):
        transport["headers"] = headers
    return transport


def _grpc(reading: Reading, name: str) -> dict[str, object]:
    mode = reading.line("mode").lower()
    if mode == "multi":
        reading.unsupported("`mode` of gRPC is multi: sing-box has gun only")
    if mode not in ("", "gun", "none"):
        reading.find("note", "`mode` of gRPC is neither gun nor multi, and is taken for gun, as clients do")
    authority = reading.line("authority").lower()
    if authority and authority != (name or reading.host):
        reading.unsupported("`authority` differs from the name in TLS: sing-box has no word for it")
    service = reading.line("serviceName")
    if service.startswith("/"):
        reading.unsupported("`serviceName` with a path of its own: sing-box has no such thing")
    return {"type": "grpc", "service_name": service}


def _http2(reading: Reading, name: str) -> dict[str, object]:
    # Nothing said: v2ray's own default, which sing-box has too.
    hosts = _http_hosts(reading) or ["www.example.com"]
    return {"type": "http", "path": _path(reading), "host": hosts, **_request(reading)}


def _disguise(reading: Reading) -> dict[str, object]:
    """Xray's HTTP header before the data: an HTTP/1.1 request, whose answer opens the way."""
    paths = [path for path in reading.line("path").split(",") if path.strip()]
    if len(paths) > 1:
        reading.find("note", "of several paths the first is taken")
    reading.words["path"] = paths[0] if paths else "/"
    hosts = _http_hosts(reading) or [reading.host]
    return {"type": "http", "path": _path(reading), "host": hosts, "method": "GET", **_request(reading)}


_TRANSPORT_READERS: dict[str, Callable[[Reading, str], dict[str, object]]] = {
    "ws": _websocket,
    "httpupgrade": _http_upgrade,
    "grpc": _grpc,
    "http": _http2,
}


def _request(reading: Reading) -> dict[str, object]:
    fields: dict[str, object] = {}
    if method := reading.line("method").upper():
        if not _TOKEN.fullmatch(method):
            reading.broken("`method` is not a method of HTTP")
        fields["method"] = method
    if headers := further_headers(reading):
        fields["headers"] = headers
    return fields


def further_headers(reading: Reading) -> dict[str, object]:
    """Those of `headers`, but for `Host`, which has its own word."""
    text = reading.take("headers")
    if not text:
        return {}
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        headers = None
    if not isinstance(headers, dict) or not all(
        _TOKEN.fullmatch(key) and isinstance(value, str) and syntax.is_plain(value) for key, value in headers.items()
    ):
        reading.broken("`headers` are not names with one text each")
    return {key: value for key, value in headers.items() if key.lower() != "host"}


def _host_header(reading: Reading, name: str) -> str:
    """The first `host`, else the name in TLS, else the server: as Xray does it."""
    hosts = _http_hosts(reading)
    host = hosts[0] if hosts else name or reading.host
    return f"[{host}]" if ":" in host and syntax.is_address(host) else host


def _http_hosts(reading: Reading) -> list[str]:
    return [http_host(reading, host.strip()) for host in reading.line("host").split(",") if host.strip()]


def http_host(reading: Reading, host: str) -> str:
    """A `Host` as it is sent."""
    try:
        host = ascii_host(host)
    except ValueError:
        host = ""
    if not 0 < len(host) <= 255 or not host.isprintable() or " " in host:
        # Xray sends such a one, shortened, or none at all, by the version of its HTTP library.
        reading.unsupported("`host` is no name, and clients differ in what they send then")
    return host


def _path(reading: Reading) -> str:
    path = reading.line("path")
    if path[:3].lower() == "%2f" and reading.proxy.dialect != "sing-box":  # encoded twice: a path begins with a slash
        path = unquote(path)
    if re.search("%(?![0-9A-Fa-f]{2})", path):
        reading.unsupported("`path` has a percent sign that encodes nothing, which sing-box does not take")
    return path if path.startswith("/") else "/" + path


def _early(reading: Reading, path: str) -> tuple[str, int]:
    """Takes Xray's `?ed=2048` off a path: so many bytes go out with the request itself.

    Any other query sing-box would write as a part of the path, its mark as %3F (URL.EscapedPath): so it is meant in its
    own documents, and nowhere else.
    """
    bare, mark, query = path.partition("?")
    if not mark or reading.proxy.dialect == "sing-box":
        return path, 0
    path = bare
    pairs = parse_qsl(query[:4096], keep_blank_values=True)
    early = next((value for key, value in pairs if key == "ed"), "")
    if not reading.words.get("eh"):
        reading.words["eh"] = next((value for key, value in pairs if key == "eh"), "")
    if any(key not in ("ed", "eh") for key, _ in pairs) or len(query) > 4096:
        reading.unsupported("`path` has a query, which sing-box would write in other letters")
    return path, int(early) if re.fullmatch("[0-9]{1,6}", early) else 0


def multiplex(reading: Reading, fields: dict[str, object]) -> None:
    """sing-mux, where it is asked for."""
    protocol = reading.line("mux").lower()
    rest = {
        "max_connections": reading.number("mux-connections"),
        "min_streams": reading.number("mux-min-streams"),
        "max_streams": reading.number("mux-streams"),
    }
    padding = reading.yes("mux-padding")
    if protocol in ("h2mux", "smux", "yamux"):
        fields["multiplex"] = {"enabled": True, "protocol": protocol, **{k: v for k, v in rest.items() if v}}
        if padding:
            fields["multiplex"] |= {"padding": True}  # type: ignore[operator]
    elif protocol not in NO:
        reading.find("warning", "`mux` (many streams in one connection, as Xray does it) is not used")
