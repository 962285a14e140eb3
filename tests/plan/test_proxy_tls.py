"""TLS of proxies: ClientHellos, ALPN, certificates."""

from __future__ import annotations

import dataclasses

import pytest
from some_proxies import CHROME, REALITY, findings_of, meaning, proxy_of, told

from vpntest.plan.model import Kind
from vpntest.plan.proxies import outbound
from vpntest.plan.secret import revealed


@pytest.mark.parametrize("kind", [Kind.VLESS, Kind.VMESS, Kind.TROJAN])
def test_links_and_xray_show_a_browsers_client_hello_where_others_show_gos(kind: Kind) -> None:
    proxy = proxy_of(kind, {"security": "tls"})
    chrome = {"enabled": True, "fingerprint": "chrome"}
    for dialect, utls in (("link", chrome), ("xray", chrome), ("sing-box", None), ("clash", None)):
        config, findings = outbound(dataclasses.replace(proxy, dialect=dialect))
        assert revealed(config.outbound)["tls"].get("utls") == utls
        assert (CHROME in findings) == ("utls" in config.needs) == (utls is not None)


@pytest.mark.parametrize(
    ("words", "protocols"),
    [
        ({}, None),
        ({"alpn": "h2,http/1.1"}, None),
        ({"alpn": "h2"}, None),
        ({"alpn": "http/1.1"}, ["http/1.1"]),
        ({"alpn": "http/1.1", "type": "ws"}, None),
        ({"alpn": "h2", "fp": "unsafe"}, ["h2"]),
        ({"alpn": "http/1.1", **REALITY}, None),
    ],
)
def test_the_hello_of_a_browser_has_its_own_alpn(words: dict[str, str], protocols: list[str] | None) -> None:
    assert meaning(Kind.TROJAN, words)["tls"].get("alpn") == protocols
    assert ("note" in [finding.level for finding in findings_of(Kind.TROJAN, words)]) == (
        "alpn" in words and protocols is None and words != {"alpn": "h2,http/1.1"} and "type" not in words
    )


def test_whose_hello_takes_the_alpn_of_its_config() -> None:
    for kind, dialect, takes in (
        (Kind.ANYTLS, "link", True),
        (Kind.ANYTLS, "clash", False),
        (Kind.TROJAN, "clash", False),
        (Kind.HTTP, "xray", False),
    ):
        proxy = proxy_of(kind, {"security": "tls", "fp": "chrome", "alpn": "h2"})
        config, findings = outbound(dataclasses.replace(proxy, dialect=dialect))
        assert revealed(config.outbound)["tls"].get("alpn") == (["h2"] if takes else None)
        assert [finding.level for finding in findings] == ([] if takes else ["note"])


def test_what_sing_box_says_of_alpn_is_sent_as_it_stands() -> None:
    for words in ({"type": "ws"}, {"fp": "chrome"}, REALITY, {}):
        proxy = proxy_of(Kind.TROJAN, {**words, "alpn": "h2,http/1.1,h3"})
        config, findings = outbound(dataclasses.replace(proxy, dialect="sing-box"))
        assert revealed(config.outbound)["tls"]["alpn"] == ["h2", "http/1.1", "h3"]
        assert findings == ()


def test_quic_speaks_h3_whatever_a_generator_says() -> None:
    assert meaning(Kind.HYSTERIA2, {"alpn": "h2,http/1.1"})["tls"]["alpn"] == ["h3"]
    assert meaning(Kind.TUIC, {"alpn": "h3,spdy/3.1"})["tls"]["alpn"] == ["h3", "spdy/3.1"]
    (finding,) = findings_of(Kind.HYSTERIA2, {"alpn": "h2,http/1.1"})
    assert (finding.level, "`alpn`" in finding.text) == ("warning", True)


@pytest.mark.parametrize("kind", [Kind.HYSTERIA2, Kind.TUIC])
def test_in_sing_boxs_own_words_quic_speaks_what_is_written(kind: Kind) -> None:
    for said, meant in (("h2", ["h2"]), ("", ["h3"])):
        config, findings = outbound(dataclasses.replace(proxy_of(kind, {"alpn": said}), dialect="sing-box"))
        assert revealed(config.outbound)["tls"]["alpn"] == meant
        assert findings == ()


@pytest.mark.parametrize("kind", [Kind.TROJAN, Kind.HYSTERIA2, Kind.TUIC, Kind.ANYTLS])
def test_an_unchecked_certificate_is_honoured_and_a_danger(kind: Kind) -> None:
    config, (finding,) = told(proxy_of(kind, {"insecure": "true"}))
    assert config.tls_unverified
    assert revealed(config.outbound)["tls"]["insecure"] is True
    assert (finding.level, "certificate" in finding.text) == ("danger", True)


def test_reality_has_no_certificate_to_leave_unchecked() -> None:
    config, (finding,) = outbound(proxy_of(Kind.VLESS, {**REALITY, "insecure": "1"}))
    assert not config.tls_unverified
    assert "insecure" not in revealed(config.outbound)["tls"]
    assert finding.level == "note"
