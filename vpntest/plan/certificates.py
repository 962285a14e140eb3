"""How long the certificates in an OpenVPN config hold, for who reads the config before a tunnel is tried.

A client turns away a server whose authority has expired, and a server a client whose certificate has: the tunnel's
handshake then fails, and no censor had a part in it.
"""

from __future__ import annotations

import datetime
import re
import warnings
from typing import Literal

from vpntest.plan.model import Finding, OpenVpnConfig

SOON = datetime.timedelta(days=30)
"""A certificate that ends within this time is worth a word."""
_BLOCK = re.compile(
    r"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END (?:X509 |TRUSTED )?CERTIFICATE-----", re.DOTALL
)
MAX_CERTIFICATES = 200
"""Of one block, that are looked at. A whole system's authorities are some 150."""


def expiry(config: OpenVpnConfig, now: datetime.datetime) -> tuple[Finding, ...]:
    """A finding for each certificate in <ca>, <cert> and <extra-certs> that does not hold at `now` (with its zone), or
    not for long, or that is none; and for one of the client's that OpenSSL 3 does not show to a server. Findings have
    no line: a block may have come from a file.

    Loads `cryptography`, which takes a tenth of a second. Never raises for what stands in the config.
    """
    found: list[Finding] = []
    for name, secret in config.inline:
        if name not in ("ca", "cert", "extra-certs"):
            continue
        blocks = _BLOCK.findall(secret.reveal())[:MAX_CERTIFICATES]
        told = [_told(block, now, name) for block in blocks]
        for number, (level, text) in enumerate(told, 1):
            if level is not None:
                which = f"certificate {number} of <{name}>" if len(blocks) > 1 else f"the certificate of <{name}>"
                found.append(Finding(level, f"{which} {text}"))
    return tuple(found)


def _told(block: str, now: datetime.datetime, name: str) -> tuple[Literal["note", "warning"] | None, str]:
    from cryptography import x509

    pem = f"-----BEGIN CERTIFICATE-----{block}-----END CERTIFICATE-----\n".encode("ascii", "replace")
    try:
        with warnings.catch_warnings():
            # Old certificates bend the rules in ways that this library tells of, and that matter to nobody here.
            warnings.simplefilter("ignore")
            certificate = x509.load_pem_x509_certificate(pem)
            begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            # SSL_CTX_use_certificate() at security level 1, which OpenVPN asks for: "ca md too weak".
            digest = certificate.signature_hash_algorithm
            weak = digest is not None and digest.name in ("md5", "sha1") and certificate.issuer != certificate.subject
    except Exception:  # the library's parser is Rust, and raises what it likes
        return "warning", "cannot be read"
    if weak and name == "cert":
        return "warning", "is signed with MD5 or SHA-1: OpenVPN with OpenSSL 3 refuses it as too weak"
    if ends < now:
        return "warning", f"expired on {ends:%Y-%m-%d}"
    if begins > now:
        return "warning", f"is not valid before {begins:%Y-%m-%d}"
    if ends < now + SOON:
        return "note", f"expires on {ends:%Y-%m-%d}"
    return None, ""
