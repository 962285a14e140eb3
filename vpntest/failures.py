"""The closed vocabulary of network failures, and the one table that turns exceptions into it.

Words are OONI's where OONI has one (ooni/spec, data-formats/df-007-errors.md); those below `Ours` name what OONI never
meets, because it does not raise tunnels. A failure is a string or None (success); what is not in the vocabulary is
`unknown_failure: …`, with addresses removed.
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from enum import StrEnum


class Failure(StrEnum):
    """Every word that an observation's `failure` may hold, but for `unknown_failure: …`."""

    # resolving
    DNS_NXDOMAIN = "dns_nxdomain_error"
    DNS_NO_ANSWER = "dns_no_answer"
    DNS_REFUSED = "dns_refused_error"
    DNS_SERVFAIL = "dns_servfail_error"
    DNS_MISBEHAVING = "dns_server_misbehaving"
    DNS_BOGON = "dns_bogon_error"
    """The answer is an address that no server in the world outside has: of this box, or of its own networks."""
    DNS_WRONG_ID = "dns_reply_with_wrong_query_id"
    # connecting, reading, writing
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_RESET = "connection_reset"
    CONNECTION_ABORTED = "connection_aborted"
    NOT_CONNECTED = "not_connected"
    EOF = "eof_error"
    TIMEOUT = "generic_timeout_error"
    """Our own deadline passed."""
    TIMED_OUT = "timed_out"
    """The kernel gave up (ETIMEDOUT)."""
    HOST_UNREACHABLE = "host_unreachable"
    NETWORK_UNREACHABLE = "network_unreachable"
    NETWORK_DOWN = "network_down"
    PERMISSION_DENIED = "permission_denied"
    MESSAGE_SIZE = "message_size"
    ADDRESS_NOT_AVAILABLE = "address_not_available"
    ADDRESS_FAMILY = "address_family_not_supported"
    INTERRUPTED = "interrupted"
    # TLS
    SSL_INVALID_HOSTNAME = "ssl_invalid_hostname"
    SSL_UNKNOWN_AUTHORITY = "ssl_unknown_authority"
    SSL_INVALID_CERTIFICATE = "ssl_invalid_certificate"
    SSL_FAILED_HANDSHAKE = "ssl_failed_handshake"
    # QUIC
    QUIC_INCOMPATIBLE_VERSION = "quic_incompatible_version"
    # HTTP
    HTTP_REQUEST_FAILED = "http_request_failed"
    # Ours
    AUTH_REJECTED = "auth_rejected"
    """The server said that it does not know these credentials."""
    INVALID = "invalid"
    """The tunnel's config is broken, so that there is nothing to raise."""
    UNSUPPORTED = "unsupported"
    """The tunnel's config is sound, but this box cannot honour something that it asks for."""
    REFUSED = "refused"
    """The tunnel's config could be honoured and must not be: its server stands in this box's own networks."""
    CARRIER_EXITED = "carrier_exited"
    """The program that carries the tunnel ended by itself."""
    STALLED = "stalled"
    """Data had flowed, then nothing came for the whole waiting time."""


_ERRNO = {
    errno.ECONNREFUSED: Failure.CONNECTION_REFUSED,
    errno.ECONNRESET: Failure.CONNECTION_RESET,
    errno.EPIPE: Failure.CONNECTION_RESET,
    errno.ECONNABORTED: Failure.CONNECTION_ABORTED,
    errno.ENOTCONN: Failure.NOT_CONNECTED,
    errno.ETIMEDOUT: Failure.TIMED_OUT,
    errno.EHOSTUNREACH: Failure.HOST_UNREACHABLE,
    errno.ENETUNREACH: Failure.NETWORK_UNREACHABLE,
    errno.ENETDOWN: Failure.NETWORK_DOWN,
    errno.EACCES: Failure.PERMISSION_DENIED,
    errno.EPERM: Failure.PERMISSION_DENIED,
    errno.EMSGSIZE: Failure.MESSAGE_SIZE,
    errno.EADDRNOTAVAIL: Failure.ADDRESS_NOT_AVAILABLE,
    errno.EAFNOSUPPORT: Failure.ADDRESS_FAMILY,
}

_SELF_SIGNED_OR_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})
"""X509_V_ERR codes of OpenSSL (x509_vfy.h) that mean: no trusted root at the end of the chain."""
_HOSTNAME_MISMATCH = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""

_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|(?<![\w:])[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w:])")


def failure_of(exc: BaseException) -> str:
    """The failure string of an exception that a socket, the TLS layer or a deadline raised.

    Unwraps `__cause__` and `__context__` only through library errors, so that an HTTP library's own class never hides
    the reset beneath it.
    """
    if isinstance(exc, (TimeoutError, asyncio.TimeoutError)) and not getattr(exc, "errno", None):
        return Failure.TIMEOUT
    if isinstance(exc, ssl.SSLCertVerificationError):
        if exc.verify_code in _HOSTNAME_MISMATCH:
            return Failure.SSL_INVALID_HOSTNAME
        if exc.verify_code in _SELF_SIGNED_OR_UNKNOWN_ISSUER:
            return Failure.SSL_UNKNOWN_AUTHORITY
        return Failure.SSL_INVALID_CERTIFICATE
    if isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError, EOFError)):
        return Failure.EOF
    if isinstance(exc, ssl.SSLError):
        reason = exc.reason or ""
        if "UNRECOGNIZED_NAME" in reason:
            return Failure.SSL_INVALID_HOSTNAME
        return Failure.SSL_FAILED_HANDSHAKE
    if isinstance(exc, OSError) and exc.errno in _ERRNO:
        return _ERRNO[exc.errno]
    inner = exc.__cause__ or exc.__context__
    if inner is not None and not isinstance(exc, OSError):
        return failure_of(inner)
    return f"unknown_failure: {type(exc).__name__}: {_ADDRESS.sub('[scrubbed]', str(exc))}"
