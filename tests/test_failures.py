from __future__ import annotations

import errno
import os
import ssl

import pytest

from vpntest.failures import Failure, failure_of


@pytest.mark.parametrize(
    ("number", "failure"),
    [
        (errno.ECONNREFUSED, Failure.CONNECTION_REFUSED),
        (errno.ECONNRESET, Failure.CONNECTION_RESET),
        (errno.EPIPE, Failure.CONNECTION_RESET),
        (errno.ECONNABORTED, Failure.CONNECTION_ABORTED),
        (errno.ENOTCONN, Failure.NOT_CONNECTED),
        (errno.ETIMEDOUT, Failure.TIMED_OUT),
        (errno.EHOSTUNREACH, Failure.HOST_UNREACHABLE),
        (errno.ENETUNREACH, Failure.NETWORK_UNREACHABLE),
        (errno.ENETDOWN, Failure.NETWORK_DOWN),
        (errno.EPERM, Failure.PERMISSION_DENIED),
        (errno.EMSGSIZE, Failure.MESSAGE_SIZE),
        (errno.EADDRNOTAVAIL, Failure.ADDRESS_NOT_AVAILABLE),
        (errno.EAFNOSUPPORT, Failure.ADDRESS_FAMILY),
    ],
)
def test_errno(number: int, failure: str) -> None:
    assert failure_of(OSError(number, os.strerror(number))) == failure


def test_our_deadline_is_not_the_kernels() -> None:
    assert failure_of(TimeoutError()) == Failure.TIMEOUT
    assert failure_of(OSError(errno.ETIMEDOUT, "")) == Failure.TIMED_OUT


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (62, Failure.SSL_INVALID_HOSTNAME),
        (64, Failure.SSL_INVALID_HOSTNAME),
        (18, Failure.SSL_UNKNOWN_AUTHORITY),
        (20, Failure.SSL_UNKNOWN_AUTHORITY),
        (10, Failure.SSL_INVALID_CERTIFICATE),
        (9, Failure.SSL_INVALID_CERTIFICATE),
    ],
    ids=["name", "address", "self-signed", "no-issuer", "expired", "not-yet"],
)
def test_certificates(code: int, failure: str) -> None:
    exc = ssl.SSLCertVerificationError(1, "certificate verify failed")
    exc.verify_code = code
    assert failure_of(exc) == failure


@pytest.mark.parametrize("exc", [EOFError(), ssl.SSLEOFError(8, "EOF"), ssl.SSLZeroReturnError(6, "closed")])
def test_end_of_stream(exc: Exception) -> None:
    assert failure_of(exc) == Failure.EOF


def test_a_library_does_not_hide_the_reset_beneath() -> None:
    outer = RuntimeError("wrapped")
    outer.__cause__ = ConnectionResetError(errno.ECONNRESET, "reset")
    assert failure_of(outer) == Failure.CONNECTION_RESET


def test_an_error_of_the_kernel_is_not_explained_by_an_older_one() -> None:
    later = OSError(errno.EIO, "odd")
    later.__context__ = ConnectionResetError(errno.ECONNRESET, "reset")
    assert failure_of(later).startswith("unknown_failure: OSError")


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::17", "fe80::1", "::1"])
def test_unknown_failures_hold_no_address(address: str) -> None:
    text = failure_of(ValueError(f"no way to [{address}]:443 today"))
    assert text.startswith("unknown_failure: ValueError: no way to ")
    assert address not in text
    assert "[scrubbed]" in text


def test_words_are_json_strings() -> None:
    """Kept runs hold them as plain text."""
    assert f"{Failure.EOF}" == "eof_error" == str(Failure.EOF)
