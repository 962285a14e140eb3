"""Amnezia's vpn:// keys: containers within documents within codes, each a config in another dialect."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan.amnezia import entries
from vpntest.plan.keys import generate
from vpntest.plan.model import Entry, Kind, OpenVpnConfig, ProxyConfig, Server, WireGuardConfig

PRIVATE, PUBLIC = generate()
WIREGUARD = f"""[Interface]
Address = 10.8.1.2/32
DNS = $PRIMARY_DNS, $SECONDARY_DNS
PrivateKey = {PRIVATE.reveal()}

[Peer]
PublicKey = {PUBLIC}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = vpn.example:443
PersistentKeepalive = 25
"""
AMNEZIA = WIREGUARD.replace("[Peer]", "Jc = 4\nJmin = 10\nJmax = 50\nS1 = 20\nH1 = 1000\nI1 = \n\n[Peer]")
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
OPENVPN = f"""client
dev tun
proto udp
remote vpn.example 1194
script-security 2
up /etc/openvpn/update-resolv-conf
<ca>
{CERTIFICATE}
</ca>
<cert>
{CERTIFICATE}
</cert>
<key>
{CERTIFICATE.replace("CERTIFICATE", "PRIVATE KEY")}
</key>
"""
UUID = "b831381d-6324-4d53-ad4f-8cda48b30811"
XRAY = {
    "inbounds": [{"listen": "127.0.0.1", "port": 10808, "protocol": "socks"}],
    "outbounds": [
        {
            "protocol": "vless",
            "settings": {
                "vnext": [
                    {
                        "address": "vpn.example",
                        "port": 443,
                        "users": [{"id": UUID, "flow": "xtls-rprx-vision", "encryption": "none"}],
                    }
                ]
            },
            "streamSettings": {
                "network": "tcp",
                "security": "reality",
                "realitySettings": {
                    "fingerprint": "chrome",
                    "serverName": "site.example",
                    "publicKey": "A" * 42 + "8",
                    "shortId": "0123456789abcdef",
                    "spiderX": "",
                },
            },
        }
    ],
}


def _container(name: str, protocol: str, last_config: Any) -> dict[str, Any]:
    return {"container": name, protocol: {"last_config": last_config, "port": "443", "transport_proto": "udp"}}


def _awg(text: str = AMNEZIA) -> dict[str, Any]:
    return _container("amnezia-awg", "awg", json.dumps({"config": text, "hostName": "vpn.example", "Jc": "4"}))


def _document(*containers: Any, **others: Any) -> dict[str, Any]:
    return {
        "containers": list(containers),
        "defaultContainer": "amnezia-awg",
        "description": "Somebody's server",
        "dns1": "9.9.9.9",
        "dns2": "149.112.112.112",
        "hostName": "vpn.example",
        **others,
    }


def _key(document: Any, *, prefix: bytes | None = None, compressed: bool = True) -> str:
    plain = document if isinstance(document, bytes) else json.dumps(document).encode()
    data = (
        (struct.pack(">I", len(plain)) if prefix is None else prefix) + zlib.compress(plain, 8) if compressed else plain
    )
    return "vpn://" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def _read(text: str) -> list[Entry]:
    found = list(entries(text, "keys.txt:3"))
    assert found
    for entry in found:
        assert (entry.config is None) == (entry.problem is not None)
        texts = [finding.text for finding in entry.findings] + ([entry.problem.reason] if entry.problem else [])
        assert not any(PRIVATE.reveal() in said or UUID in said or "\n" in said for said in texts)
        assert all(finding.line is None for finding in entry.findings)
        assert entry.problem is None or entry.problem.reason.startswith("keys.txt:3")
    return found


def _problem(text: str) -> tuple[str, str]:
    (entry,) = _read(text)
    assert entry.problem is not None
    return entry.problem.mechanism, entry.problem.reason


SPELLINGS = {
    "as the client writes it": _key(_document(_awg())),
    "with the vendor's mark in place of the length": _key(_document(_awg()), prefix=bytes.fromhex("000000ff")),
    "not compressed": _key(_document(_awg()), compressed=False),
    "in the other alphabet": "VPN://" + base64.b64encode(json.dumps(_document(_awg())).encode()).decode(),
    "in lines": "\n".join(_key(_document(_awg()))[n : n + 76] for n in range(0, 2000, 76)),
    "the document alone": json.dumps(_document(_awg())),
    "a document within, no string": _key(_document(_container("amnezia-awg", "awg", {"config": AMNEZIA}))),
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_key_of_amneziawg(text: str) -> None:
    (entry,) = _read(text)
    assert entry.kind is Kind.AMNEZIAWG
    assert entry.label == "Somebody's server"
    assert entry.findings == ()
    assert isinstance(entry.config, WireGuardConfig)
    assert entry.config.private_key == PRIVATE
    assert entry.config.servers == (Server("vpn.example", 443, "udp"),)
    assert entry.config.dns == ("9.9.9.9", "149.112.112.112")
    assert entry.config.amnezia is not None
    assert entry.config.amnezia.values == (
        *(("jc", "4"), ("jmin", "10"), ("jmax", "50"), ("s1", "20"), ("h1", "1000")),
    )


def test_every_container_is_an_entry_and_the_clients_choice_comes_first() -> None:
    found = _read(
        _key(
            _document(
                _container("amnezia-openvpn", "openvpn", json.dumps({"config": OPENVPN})),
                {"container": "amnezia-dns", "dns": {}},
                _container("amnezia-xray", "xray", json.dumps(XRAY)),
                _container("amnezia-openvpn-cloak", "cloak", json.dumps({"config": OPENVPN})),
                _container("amnezia-wireguard", "wireguard", json.dumps({"config": WIREGUARD})),
                _awg(),
            )
        )
    )
    assert [entry.kind for entry in found] == [
        *(Kind.AMNEZIAWG, Kind.OPENVPN, Kind.VLESS, Kind.UNKNOWN, Kind.WIREGUARD),
    ]
    assert isinstance(found[1].config, OpenVpnConfig)
    assert found[1].config.servers == (Server("vpn.example", 1194, "udp"),)
    assert "danger" in {finding.level for finding in found[1].findings}
    assert isinstance(found[2].config, ProxyConfig)
    assert found[2].config.server == Server("vpn.example", 443, "tcp")
    assert found[3].problem is not None
    assert found[3].problem.mechanism == "unsupported"
    assert "OpenVPN inside Cloak is not carried" in found[3].problem.reason
    assert isinstance(found[4].config, WireGuardConfig)
    assert found[4].config.amnezia is None


def test_resolvers_that_the_key_does_not_say() -> None:
    (entry,) = _read(_key(_document(_awg(), dns1="", dns2="9.9.9.9\nPostUp = x")))
    assert isinstance(entry.config, WireGuardConfig)
    assert entry.config.dns == ("1.1.1.1", "1.0.0.1")


def test_the_login_of_a_server_is_said_and_never_shown() -> None:
    (entry,) = _read(_key(_document(_awg(), userName="root", password="hunter2hunter2", port=22)))
    assert [finding.level for finding in entry.findings] == ["warning"]
    assert "hunter2" not in repr(entry)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"config_version": 1, "api_endpoint": "https://api.example", "api_key": "x"}, "hands it out"),
        ({"config_version": 2, "api_config": {"service_type": "amnezia-free"}, "auth_data": {}}, "hands it out"),
        (
            _document({"container": "amnezia-awg", "awg": {"port": "1"}}, userName="root", password="x"),
            "no client's config",
        ),
        (_document({"container": "amnezia-dns"}, {"container": "amnezia-sftp"}), "no tunnel"),
        (_document(_container("amnezia-ipsec", "ikev2", "{}")), "IPsec"),
        (_document(_container("amnezia-shadowsocks", "shadowsocks", "{}")), "inside Shadowsocks"),
        (_document(_container("\x1b[2J", "x", "{}")), "(a container): a protocol that is not known here"),
        (_document(_awg(AMNEZIA.replace("I1 = ", "I1 = <c>"))), "I1"),
    ],
)
def test_what_cannot_be_carried_has_its_true_reason(document: Any, reason: str) -> None:
    mechanism, said = _problem(_key(document))
    assert mechanism == "unsupported"
    assert reason in said


DEEP = b'{"containers":' + b"[" * 5000 + b"]" * 5000 + b"}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("vpn://", "cut short"),
        ("http://x", "not a vpn://"),
        ("vpn://%%%", "not base64"),
        ("vpn://" + "A" * 200, "neither JSON"),
        (_key(_document(_awg()))[:-200], "cut short"),
        ("vpn://" + "A" * 3_000_000, "longer than 2 MiB"),
        (_key(b"{" + b" " * (64 << 20) + b"}"), "unpacks to more than 1 MiB"),
        (_key(DEEP), "nested too deep"),
        (_key(_document(_container("amnezia-awg", "awg", DEEP.decode()))), "nested too deep"),
        (_key(b"[]"), "no JSON object"),
        (_key(b'{"containers": 1}'), "no list"),
        (_key({"containers": [{}] * 101}), "no list"),
        (_key({}), "no containers"),
        (_key(b'{"a": "\x00"}'), "binary"),
        (_key(_document(_container("amnezia-awg", "awg", "[]"))), "no JSON object"),
        (_key(_document(_container("amnezia-awg", "awg", "{"))), "not JSON"),
        (_key(_document(_container("amnezia-awg", "awg", "{}"))), "no `config`"),
        (_key(_document(_container("amnezia-awg", "awg", '{"config": 5}'))), "no `config`"),
        (_key(_document(_awg("[Interface]\nPrivateKey = \x00\n"))), "control character"),
        (_key(_document(_awg(AMNEZIA.replace(PRIVATE.reveal(), "$WIREGUARD_CLIENT_PRIVATE_KEY")))), "PrivateKey"),
        (
            _key(_document(_container("amnezia-openvpn", "openvpn", '{"config": "remote ["}'))),
            "keys.txt:3 (amnezia-openvpn)",
        ),
        (_key(_document(_container("amnezia-xray", "xray", '{"config": "5"}'))), "no config of Xray"),
    ],
)
def test_a_broken_key_is_one_clear_line(text: str, reason: str) -> None:
    mechanism, said = _problem(text)
    assert mechanism == "invalid"
    assert reason in said


def test_a_file_that_a_config_names_is_not_read() -> None:
    text = OPENVPN.replace(f"<ca>\n{CERTIFICATE}\n</ca>", "ca /etc/passwd")
    mechanism, said = _problem(_key(_document(_container("amnezia-openvpn", "openvpn", {"config": text}))))
    assert mechanism == "invalid"
    assert "passwd" not in said


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.just(AMNEZIA),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["container", "awg", "last_config", "config", "dns1", "outbounds", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(value=VALUES, name=st.sampled_from(["amnezia-awg", "amnezia-xray", "amnezia-openvpn", "amnezia-ipsec", "x"]))
def test_any_document_is_entries(value: Any, name: str) -> None:
    _read(_key({"containers": value}))
    _read(_key({"containers": [{"container": name, "awg": value}, value], "dns1": value, "description": value}))
    _read(_key({"containers": [{"container": name, "awg": {"last_config": value}}]}))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_entries(data: bytes) -> None:
    _read("vpn://" + base64.b64encode(data).decode())
    _read("vpn://" + data.decode("latin-1"))
