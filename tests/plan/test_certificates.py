"""What is said of certificates that have expired, will soon, do not hold yet, or are none."""

from __future__ import annotations

import datetime
import subprocess
import sys

import pytest

from vpntest.plan.certificates import expiry
from vpntest.plan.model import Finding, OpenVpnConfig
from vpntest.plan.secret import Secret

NOW = datetime.datetime(2026, 7, 1, 12, 0, tzinfo=datetime.UTC)


def _certificate(begins: str, ends: str) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime.fromisoformat(begins))
        .not_valid_after(datetime.datetime.fromisoformat(ends))
        .sign(key, None)
    )
    return made.public_bytes(Encoding.PEM).decode()


GOOD = _certificate("2020-01-01", "2030-01-01")


def _told(**blocks: str) -> list[tuple[str, str]]:
    inline = tuple((name.replace("_", "-"), Secret(text)) for name, text in blocks.items())
    return [(finding.level, finding.text) for finding in expiry(OpenVpnConfig((), (), inline), NOW)]


def test_what_holds_needs_no_word() -> None:
    assert _told(ca=GOOD + GOOD, cert=GOOD, extra_certs=GOOD, key="x", tls_auth="-----BEGIN CERTIFICATE-----") == []


@pytest.mark.parametrize(
    ("begins", "ends", "level", "text"),
    [
        ("2020-01-01", "2026-07-01T11:59:59", "warning", "expired on 2026-07-01"),
        ("2026-07-01T12:00:01", "2030-01-01", "warning", "is not valid before 2026-07-01"),
        ("2020-01-01", "2026-07-31T11:59:59", "note", "expires on 2026-07-31"),
    ],
)
def test_what_does_not_hold_or_not_for_long_is_told_with_its_day(begins: str, ends: str, level: str, text: str) -> None:
    bad = _certificate(begins, ends)
    assert _told(cert=bad) == [(level, f"the certificate of <cert> {text}")]
    assert _told(ca=GOOD + bad) == [(level, f"certificate 2 of <ca> {text}")]


def test_the_day_after_soon() -> None:
    assert _told(cert=_certificate("2020-01-01", "2026-07-31T12:00:00")) == []


@pytest.mark.parametrize("inside", ["", "x", "MIIB", "\u00e9", GOOD.split("-----")[2][:-40], "=" * 5000])
def test_what_is_no_certificate_is_told_and_raises_nothing(inside: str) -> None:
    block = f"-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n"
    assert _told(ca=block) == [("warning", "the certificate of <ca> cannot be read")]


WEAK = """-----BEGIN CERTIFICATE-----
MIH+MIGnAgEBMAkGByqGSM49BAEwDDEKMAgGA1UEAwwBeTAgFw0yNjExMjExMzI2
MTRaGA8yMTI2MTAyODEzMjYxNFowDDEKMAgGA1UEAwwBeDBZMBMGByqGSM49AgEG
CCqGSM49AwEHA0IABCdpje7TtDqEodAVeLZOgB8HJM9+8wJ6QC/b2yKP2BrCfFku
ElFHjXBMWgPSjjSPtP7FQibYtBgSfSOI/16yiA0wCQYHKoZIzj0EAQNHADBEAiBs
DgomYqzzoGaIp0AW4uvgR6WEguZcFIGqE0CgZX5j2gIgTRAQp8/UWuVuU4UQPnE0
B90C4JaumPqMroUBWL+WF/U=
-----END CERTIFICATE-----
"""
"""Signed with SHA-1, by another name than its own. The library makes no such ones any more."""


def test_a_certificate_that_openssl_does_not_show_is_told() -> None:
    (finding,) = expiry(OpenVpnConfig((), (), (("cert", Secret(WEAK)),)), NOW)
    assert finding.level == "warning"
    assert "SHA-1" in finding.text
    assert not any("SHA-1" in text for _, text in _told(ca=WEAK))


def test_findings_have_the_contracts_type_and_no_line() -> None:
    config = OpenVpnConfig((), (), (("ca", Secret(_certificate("2020-01-01", "2021-01-01"))),))
    assert expiry(config, NOW) == (Finding("warning", "the certificate of <ca> expired on 2021-01-01"),)


def test_no_library_of_certificates_is_loaded_before_one_is_read() -> None:
    code = "import sys, vpntest.plan.certificates, vpntest.plan.ovpn; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
