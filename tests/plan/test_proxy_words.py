"""The words of a proxy: what is taken for a yes, a host, a text, whatever they mean."""

from __future__ import annotations

import pytest
from some_proxies import proxy_of, told

from vpntest.plan.model import Finding, Kind
from vpntest.plan.proxies import outbound
from vpntest.plan.proxy_words import ascii_host


def test_an_unclear_yes_is_a_no_and_said() -> None:
    config, (finding,) = told(proxy_of(Kind.TROJAN, {"insecure": "maybe"}))
    assert not config.tls_unverified
    assert finding.level == "warning"


def test_a_host_that_is_not_ascii_is_read_in_its_xn_form() -> None:
    config, (finding,) = told(proxy_of(Kind.TROJAN, host="аррӏе.example"))  # Cyrillic
    assert config.server.host == "xn--80ak6aa92e.example"
    assert (finding.level, "xn--" in finding.text) == ("note", True)
    with pytest.raises(ValueError, match="neither"):
        ascii_host("ä" * 64 + ".example")


def test_the_proxy_itself_stays_as_it_was() -> None:
    proxy = proxy_of(Kind.TROJAN, {"type": "ws", "path": "/?ed=1", "tfo": "1"})
    proxy.findings.append(Finding("note", "of its reader"))
    first, second = outbound(proxy), outbound(proxy)
    assert first == second
    assert first[1][0].text == "of its reader"
