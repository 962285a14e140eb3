"""The corpus of tests/corpus is read for what it is, as its expected.toml says it by the dialects' definitions."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vpntest.errors import ConfigError
from vpntest.plan import kinds, links, ovpn_words, sources
from vpntest.plan.kinds import Dialect
from vpntest.plan.model import Kind
from vpntest.plan.read import found, read_plan
from vpntest.report.checked import Checked, check
from vpntest.tunnel.carriers import Carrier, Carriers

CORPUS = Path(__file__).with_name("corpus")
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads((CORPUS / "expected.toml").read_text())
NOW = datetime(2026, 11, 21, tzinfo=UTC)
NO_CARRIERS = Carriers(
    tuple(
        Carrier(name, None, None, (), "not looked for")
        for name in ("kernel", "wireguard-go", "amneziawg-go", "openvpn", "sing-box", "tor", "command")
    )
)
"""The same verdicts on every machine."""
HAZARDS = {
    "code, whatever script-security says": "plugin providers pkcs11-providers engine",
    "code, from script-security 2 on": """up down route-up route-pre-down ipchange tls-verify auth-user-pass-verify
        client-connect client-disconnect client-crresponse learn-address dns-updown tls-crypt-v2-verify iproute""",
    "files written": """log log-append status writepid replay-persist ifconfig-pool-persist tls-export-cert tmp-dir
        genkey auth-gen-token-secret""",
    "files read": "auth-user-pass askpass http-proxy-user-pass ca capath config client-config-dir",
    "environment and privileges": """setenv user group chroot cd setcon daemon syslog nice mlock mktun rmtun
        show-ciphers""",
    "control": "management management-client management-hold management-query-passwords",
    "hangs": "auth-user-pass askpass static-challenge management-hold resolv-retry connect-retry-max",
    "the host": "redirect-gateway route block-ipv6 lladdr mark bind-dev lport local",
}
"""Directives of OpenVPN by what they do to a machine whose root starts it with a stranger's file."""


@pytest.fixture(scope="module")
def read() -> dict[str, list[Checked]]:
    """What is said of every config, by source and in the source's order."""
    by_source: dict[str, list[Checked]] = {}
    for config in check(found([CORPUS]), NO_CARRIERS, NOW).configs:
        by_source.setdefault(config.path, []).append(config)
    return by_source


def expected(rows: dict[str, Any]) -> Iterator[tuple[int | None, dict[str, Any]]]:
    for line, told in rows.items():
        for one in told if isinstance(told, list) else [told]:
            yield None if line == "whole" else int(line), one


@pytest.mark.parametrize("path", EXPECTED)
def test_it_is_read_for_what_it_is(read: dict[str, list[Checked]], path: str) -> None:
    configs = read.get(path, [])
    wanted = list(expected(EXPECTED[path]))
    assert [config.line for config in configs] == [line for line, _ in wanted]
    for config, (_, told) in zip(configs, wanted, strict=True):
        findings = [f"{finding.level}: {finding.text}" for finding in config.findings]
        assert (config.kind, config.status) == (told["kind"], told["status"]), (config.line, findings)
        if "at" in told:
            assert list(config.endpoints) == told["at"], config.line
        if "says" in told:
            assert any(told["says"] in finding for finding in findings), (config.line, findings)
        if config.status in ("unsupported", "invalid", "refused"):
            assert config.endpoints == ()
            assert findings[0].startswith(config.status)


def test_nothing_is_read_that_nothing_is_expected_of(read: dict[str, list[Checked]]) -> None:
    assert read.keys() - EXPECTED.keys() == set()


def test_what_is_no_config_is_passed_over_in_a_folder(read: dict[str, list[Checked]]) -> None:
    for path in (
        "README.md",
        "dirt/prose.txt",
        "subscriptions/a-page.txt",
        "openvpn/login.txt",
        "openvpn/shared/ca.crt",
    ):
        assert (CORPUS / path).is_file()
        assert path not in read


# ── plans ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plan_of_all_ways_to_name_a_config() -> None:
    plan = read_plan([CORPUS / "plans/all-ways.toml"])
    assert [(tunnel.name, tunnel.kind, tunnel.problem and tunnel.problem.mechanism) for tunnel in plan.tunnels] == [
        ("file", Kind.WIREGUARD, None),
        ("link", Kind.TROJAN, None),
        ("login", Kind.OPENVPN, None),
        ("pack-outside", Kind.UNKNOWN, "refused"),
        ("pack-de", Kind.OPENVPN, None),
        ("pack-se", Kind.OPENVPN, None),
        ("pack-wg", Kind.WIREGUARD, None),
        ("own", Kind.COMMAND, None),
    ]


@pytest.mark.parametrize("name", ["a-typing-error", "no-toml"])
def test_a_broken_plan_is_said_to_be_one(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read_plan([CORPUS / f"plans/{name}.toml"])


# ── what it must hold ────────────────────────────────────────────────────────────────────────────────────────────────


def everything() -> Iterator[dict[str, Any]]:
    for rows in EXPECTED.values():
        yield from (told for _, told in expected(rows))


def test_it_holds_every_kind_usable_and_not() -> None:
    usable = {told["kind"] for told in everything() if told["status"] in ("ok", "warning")}
    assert usable == {kind.value for kind in Kind} - {"unknown", "command"}
    unusable = {told["kind"] for told in everything() if told["status"] not in ("ok", "warning")}
    assert unusable == {kind.value for kind in Kind} - {"command"}
    assert {told["status"] for told in everything()} == {"ok", "warning", "unsupported", "invalid", "refused"}


def test_it_holds_every_scheme_of_links() -> None:
    schemes = set()
    for path in CORPUS.rglob("*.txt"):
        schemes |= {links.scheme_of(line) for line in path.read_bytes().decode(errors="replace").split("\n")}
    assert links.SCHEMES.keys() <= schemes
    assert {"wireguard", "wg", "ssconf", "ssr"} <= schemes


def test_it_holds_every_dialect() -> None:
    seen = set()
    for path in CORPUS.rglob("*"):
        if path.is_file():
            try:
                seen.add(kinds.dialect_of(sources.text_of(path.read_bytes(), "")))
            except ConfigError:
                continue
    assert seen == set(Dialect)


@pytest.mark.parametrize("hazard", HAZARDS)
def test_it_holds_every_hazard_of_openvpn(hazard: str) -> None:
    text = "\n" + "\n".join(path.read_text() for path in (CORPUS / "traps/openvpn").iterdir())
    missing = [word for word in HAZARDS[hazard].split() if f"\n{word} " not in text and f"\n{word}\n" not in text]
    assert missing == []


def test_each_word_that_would_act_on_this_machine_is_among_them() -> None:
    """What the reader calls a danger, and what it refuses: the corpus has a file that tries it."""
    text = "\n".join(path.read_text() for path in (CORPUS / "traps/openvpn").iterdir())
    words = {line.split()[0] for line in text.split("\n") if line.split()}
    dangers = {word for word, (level, _) in ovpn_words.LEFT_OUT.items() if level == "danger"}
    assert {word for word in dangers if not word.startswith(("management-", "msg-", "inetd"))} <= words
    assert ovpn_words.REFUSED.keys() <= words
