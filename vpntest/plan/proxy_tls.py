"""TLS as the words of a proxy have it: names and certificates, the ClientHello's fingerprint and ALPN, Reality, ECH.

Sans-I/O.
"""

from __future__ import annotations

import base64
import re

from vpntest.plan import syntax
from vpntest.plan.model import Kind
from vpntest.plan.proxy_words import PEM, Reading, ascii_host
from vpntest.plan.secret import Secret

_FINGERPRINTS = frozenset(
    """
    chrome firefox edge safari 360 qq ios android random randomized
    chrome_psk chrome_psk_shuffle chrome_padding_psk_shuffle chrome_pq chrome_pq_psk
    """.split()
)
"""Client hellos that sing-box can imitate (common/tls/utls_client.go)."""
_SHORT_ID = re.compile(r"([0-9a-f]{2}){0,8}", re.IGNORECASE)
_PROTOCOL = re.compile(r"[^,\s]{1,64}")


def over_tcp(reading: Reading, *, default: str, transport: str = "tcp") -> dict[str, object] | None:
    """The TLS below a kind that runs over TCP; None where there is none, as `default` has it if nothing is said.

    Where a link, or Xray's JSON, says no `fp`, Xray sends Chrome's ClientHello (tls.GetFingerprint), and Go's only
    for `unsafe`. sing-box and Mihomo send Go's unless a fingerprint is said.
    """
    security = reading.line("security").lower() or default
    if security == "none":
        names = "sni alpn fp insecure disable-sni pbk sid spx ech ca pin pcs vcn pqv tls-min tls-max"
        reading.drop(names.split(), "no meaning without TLS")
        return None
    if security not in ("tls", "reality"):
        reading.unsupported("`security` is none of tls, reality and none")
    tls = _handshake(reading, security)
    fingerprint = reading.line("fp").lower()
    if fingerprint in ("none", "unsafe", "hellogolang"):  # Xray's words for the hello of its own library
        fingerprint = ""
    elif not fingerprint and security == "tls" and reading.by_xray:
        reading.find("note", "`fp` is not said: Chrome's ClientHello is sent, as Xray does")
        fingerprint = "chrome"
    fingerprint = re.sub("^hello(.+)_auto$", r"\1", fingerprint)  # and its longer names for the same hellos
    if fingerprint and fingerprint not in _FINGERPRINTS:
        reading.unsupported("`fp` is not a client that sing-box imitates")
    if security == "reality":
        # The server proves itself by its key; there is no certificate to check.
        tls["reality"] = _reality(reading)
        fingerprint = fingerprint or "chrome"
    else:
        reading.drop(("pbk", "sid", "spx"), "no meaning without Reality")
    if fingerprint:
        tls["utls"] = {"enabled": True, "fingerprint": fingerprint}
        reading.needs.add("utls")
    _protocols(reading, tls, transport)
    return tls


def over_quic(reading: Reading) -> dict[str, object]:
    """The TLS within QUIC."""
    reading.needs.add("quic")
    if reading.line("security").lower() == "reality":
        reading.unsupported("`security=reality` does not go with QUIC")
    tls = _handshake(reading, "tls")
    reading.drop(("fp", "pbk", "sid", "spx"), "no meaning in QUIC")
    protocols = _listed_protocols(reading)
    if protocols and set(protocols) <= {"h2", "http/1.1"} and reading.proxy.dialect != "sing-box":
        reading.find("warning", "`alpn` ignored: it names protocols of TCP, and h3 is sent in their place")
        protocols = []
    tls["alpn"] = protocols or ["h3"]
    return tls


def _handshake(reading: Reading, security: str) -> dict[str, object]:
    """What all have: whose certificate it must be, and who vouches for it."""
    tls: dict[str, object] = {"enabled": True, "server_name": _server_name(reading, security)}
    if security == "reality":
        reading.drop(("pinSHA256", "pcs", "vcn", "insecure", "ca", "pin"), "Reality has no certificate to check")
        reading.drop(("client-cert", "client-key"), "no meaning with Reality")
        if reading.take("pqv"):
            reading.unsupported("`pqv` (a second signature of the server's): sing-box does not check it")
        if reading.yes("disable-sni"):
            reading.unsupported("`disable-sni` does not go with Reality")
    else:
        reading.drop(("pqv",), "no meaning without Reality")
        for word in ("pinSHA256", "pcs"):
            if reading.take(word):
                # sing-box can hold a server to a public key, but a certificate's hash does not tell its key.
                reading.unsupported(f"`{word}` (trust in one certificate only): sing-box has no such thing")
        if reading.line("vcn").lower() not in ("", tls["server_name"]):
            reading.unsupported("`vcn` (a certificate of another name): sing-box has no such thing")
    if ech := reading.line("ech"):
        tls["ech"] = _encrypted_hello(reading, ech, security)
    for word, name in (("tls-min", "min_version"), ("tls-max", "max_version")):
        if version := reading.choice(word, {"1.0", "1.1", "1.2", "1.3"}):
            tls[name] = version
    if security == "reality":
        return tls
    reading.unverified = reading.yes("insecure")
    if reading.unverified:
        tls["insecure"] = True
    if reading.yes("disable-sni"):
        tls["disable_sni"] = True
    if authority := reading.take("ca"):
        tls["certificate"] = [_pem(reading, "ca", authority, "CERTIFICATE")]
    if pins := reading.line("pin"):
        tls["certificate_public_key_sha256"] = [_pinned(reading, pin) for pin in pins.split(",") if pin.strip()]
        reading.unverified = False
        if authority:
            reading.unsupported("`ca` and `pin` together: sing-box takes one of them")
    certificate, key = reading.take("client-cert"), reading.take("client-key")
    if certificate or key:
        if not (certificate and key):
            reading.broken("`client-cert` and `client-key` go together")
        tls["client_certificate"] = [_pem(reading, "client-cert", certificate, "CERTIFICATE")]
        tls["client_key"] = [Secret(_pem(reading, "client-key", key, "PRIVATE KEY"))]
    return tls


def _server_name(reading: Reading, security: str) -> str:
    """The name in the TLS handshake, always explicit: sing-box is given the server's address in place of its name.

    Where none is said, v2rayN takes the first `host` (or gRPC's `authority`), and only then the server.
    """
    said = reading.line("sni").strip()
    for word in ("host", "authority") if not said and reading.proxy.kind not in (Kind.HYSTERIA2, Kind.TUIC) else ():
        first = reading.words.get(word, "").partition(",")[0].strip()
        try:
            return syntax.host(ascii_host(first))
        except ValueError:
            continue
    if not said:
        if security == "reality" and syntax.is_address(reading.host):
            reading.find("warning", "Reality without `sni`, the name that it hides behind")
        return reading.host
    if not said.isascii():
        reading.find("note", "`sni` is not ASCII, and is read in its xn-- form")
    try:
        name = ascii_host(said)
    except ValueError:
        reading.broken("`sni` is not a name")
    try:
        return syntax.host(name)
    except ValueError:
        if len(name) > 253 or " " in name or not name.isprintable():
            reading.broken("`sni` is not a name")
        reading.find("warning", "`sni` is no name of a host; it is sent as it is, as clients do")
        return name


def _protocols(reading: Reading, tls: dict[str, object], transport: str) -> None:
    """ALPN. Where a transport knows its protocol, sing-box says it; a list from elsewhere would break it.

    A browser's ClientHello has a list of its own, Chrome's h2 and http/1.1. Xray and Mihomo leave it as it is, whatever
    `alpn` says; but with ws and httpupgrade they put http/1.1 alone in its place, and so does Xray with plain tcp where
    `alpn` is exactly that. With Reality they never touch it. sing-box puts in what it is given, and leaves the list as
    it is where it is given nothing; ws and httpupgrade give it http/1.1, and gRPC and HTTP/2 give it both.
    """
    protocols = _listed_protocols(reading)
    if reading.proxy.dialect == "sing-box":
        if protocols:
            tls["alpn"] = protocols
        return
    if transport in ("ws", "httpupgrade", "grpc", "http"):
        fixed = "http/1.1" if transport in ("ws", "httpupgrade") else "h2"
        if protocols and protocols != [fixed]:
            reading.find("note", f"`alpn` ignored: with `type` {transport} it is {fixed}")
        return
    if "utls" in tls and (reading.by_xray or reading.proxy.dialect == "clash"):
        put_in = protocols == ["http/1.1"] and "reality" not in tls and reading.by_xray
        if protocols not in ([], ["h2", "http/1.1"]) and not put_in:
            reading.find("note", "`alpn` ignored: the browser's ClientHello of `fp` has its own, as clients leave it")
        if not put_in:
            return
    if "h3" in protocols:
        reading.find("note", "h3 in `alpn` ignored: it has no meaning over TCP")
        protocols.remove("h3")
    if protocols:
        tls["alpn"] = protocols


def _listed_protocols(reading: Reading) -> list[str]:
    protocols = list(dict.fromkeys(re.split(r"[,\s]+", reading.line("alpn").strip(", "))))
    protocols = [protocol for protocol in protocols if protocol]
    if len(protocols) > 8 or not all(_PROTOCOL.fullmatch(protocol) for protocol in protocols):
        reading.broken("`alpn` is not a list of protocols")
    return protocols


def _reality(reading: Reading) -> dict[str, object]:
    public_key, short_id = reading.line("pbk"), reading.line("sid")
    if not public_key:
        reading.broken("Reality without `pbk`, the server's key")
    raw = syntax.decoded_base64(public_key)
    if raw is None or len(raw) != 32:
        reading.broken("`pbk` is not base64 of 32 bytes")
    if not _SHORT_ID.fullmatch(short_id):
        reading.broken("`sid` is not 0 to 16 hexadecimal digits in pairs")
    if reading.take("spx") not in ("", "/"):
        reading.find("note", "`spx` ignored: it matters only after the server was not recognised")
    return {
        "enabled": True,
        "public_key": base64.urlsafe_b64encode(raw).decode().rstrip("="),  # the one spelling that sing-box takes
        "short_id": Secret(short_id),
    }


def _encrypted_hello(reading: Reading, text: str, security: str) -> dict[str, object]:
    if security == "reality":
        reading.unsupported("`ech` does not go with Reality")
    if "://" in text:
        reading.unsupported("`ech` that is asked for by DNS is not carried")
    raw = syntax.decoded_base64(text.replace(" ", "+"))
    if not raw:
        reading.broken("`ech` is not base64")
    body = base64.b64encode(raw).decode()
    return {"enabled": True, "config": ["-----BEGIN ECH CONFIGS-----", body, "-----END ECH CONFIGS-----"]}


def _pem(reading: Reading, name: str, text: str, label: str) -> str:
    blocks = [block for block in re.split(r"(?<=-----)\s+(?=-----BEGIN )", text.strip()) if block]
    found = [PEM.fullmatch(block) for block in blocks]
    if not blocks or len(blocks) > 64 or not all(block and block[1].endswith(label) for block in found):
        reading.broken(f"`{name}` is not in PEM")
    return text.strip() + "\n"


def _pinned(reading: Reading, text: str) -> str:
    raw = syntax.decoded_base64(text.strip())
    if raw is None or len(raw) != 32:
        reading.broken("`pin` is not base64 of 32 bytes")
    return base64.b64encode(raw).decode()
