"""What a reader's work comes to: an entry, whatever it raised."""

from __future__ import annotations

import pytest

from vpntest.errors import ConfigError
from vpntest.plan import outcome
from vpntest.plan.model import Finding, Kind, Problem, ProxyConfig, Server
from vpntest.plan.proxy_words import Proxy
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Refused, Unsupported

CONFIG = ProxyConfig(server=Server("a.example", 1, "tcp"), outbound={"type": "trojan", "password": Secret("hush-hush")})


@pytest.mark.parametrize(
    ("fault", "mechanism"), [(ConfigError, "invalid"), (Unsupported, "unsupported"), (Refused, "refused")]
)
def test_a_fault_becomes_a_problem(fault: type[ConfigError], mechanism: str) -> None:
    def parse() -> outcome.Meaning:
        raise fault("why", where="x", line=3, hint="do")

    entry = outcome.made(Kind.TROJAN, parse, line=3, label="Name")
    assert entry.problem is not None
    assert (entry.problem.mechanism, entry.problem.reason) == (mechanism, "x:3: why; do")
    assert (entry.kind, entry.line, entry.label) == (Kind.TROJAN, 3, "Name")


def test_a_problem_keeps_the_findings_before_it() -> None:
    def parse() -> outcome.Meaning:
        fault = ConfigError("why", where="x")
        fault.findings = (Finding("danger", "a hook"), Finding("note", "b", 9))
        raise fault

    entry = outcome.made(Kind.OPENVPN, parse, line=3)
    assert entry.problem is not None
    assert [(finding.text, finding.line) for finding in entry.findings] == [("a hook", 3), ("b", 9)]


def test_findings_get_the_line_of_their_entry() -> None:
    findings = (Finding("note", "a"), Finding("note", "b", 9))
    entry = outcome.made(Kind.TROJAN, lambda: (CONFIG, findings), line=3)
    assert [finding.line for finding in entry.findings] == [3, 9]
    assert [finding.line for finding in outcome.made(Kind.TROJAN, lambda: (CONFIG, findings)).findings] == [None, 9]


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("a\nb\tc", "a b c"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("a\u202eb\u200b", "ab"),
        ("<b>&amp;", "<b>&amp;"),
        ("  x  ", "x"),
        ("my hush-hush one", ""),
        ("MY HUSH-HUSH ONE", ""),
        ("x" * 200, "x" * 80),
    ],
)
def test_labels(label: str, shown: str) -> None:
    assert outcome.made(Kind.TROJAN, lambda: (CONFIG, ()), label=label).label == shown


def test_a_proxy_brings_its_own_label() -> None:
    proxy = Proxy(Kind.TROJAN, "x", "a.example", "443", password="hush-hush", label="Own")
    assert outcome.proxied(lambda: proxy, Kind.TROJAN, line=2, label="Other").label == "Own"
    proxy.label = "hush-hush"
    assert outcome.proxied(lambda: proxy, Kind.TROJAN).label == ""


def test_a_fault_of_a_whole_source_has_its_line_in_the_reason_only() -> None:
    fault = ConfigError("why", where="x", line=3)
    assert outcome.faulty(fault).line is None
    assert outcome.faulty(fault).problem == Problem("invalid", "x:3: why")
    assert outcome.faulty(fault, line=7).line == 7
