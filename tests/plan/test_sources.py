"""One source's bytes to its entries, whatever its dialect, its code and its dirt."""

from __future__ import annotations

import base64
import html
import json
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.plan import sources
from vpntest.plan.keys import generate
from vpntest.plan.model import AmneziaParameters, Entry, Finding, Kind, OpenVpnConfig, ProxyConfig, WireGuardConfig
from vpntest.plan.secret import Secret

PRIVATE, PUBLIC = generate()
WORD = "hush0f1e2d3c4b5a6978"
ID = "00000000-0000-4000-8000-00000000000a"
WIREGUARD = (
    f"[Interface]\nPrivateKey = {PRIVATE.reveal()}\nAddress = 10.7.0.2/24\n"
    f"[Peer]\nPublicKey = {PUBLIC}\nEndpoint = vpn.example:51820\nAllowedIPs = 0.0.0.0/0\n"
)
OPENVPN = "client\ndev tun\nremote vpn.example 1194\n" + "".join(
    f"<{name}>\n-----BEGIN {label}-----\nx\n-----END {label}-----\n</{name}>\n"
    for name, label in (("ca", "CERTIFICATE"), ("cert", "CERTIFICATE"), ("key", "PRIVATE KEY"))
)
TROJAN = f"trojan://{WORD}@vpn.example:443?sni=www.example#Name"
SS = f"ss://aes-128-gcm:{WORD}@192.0.2.1:8388#%F0%9F%87%A9%F0%9F%87%AA%20DE"
SIP008 = json.dumps(
    {"version": 1, "servers": [{"server": "a.example", "server_port": 1, "method": "aes-128-gcm", "password": WORD}]}
)
SING_BOX = json.dumps(
    {"outbounds": [{"type": "shadowsocks", "server": "a.example", "server_port": 1, "method": "none"}]}
)
CLASH = f"proxies:\n  - {{name: x, type: trojan, server: a.example, port: 443, password: {WORD}}}\n"
OUTLINE = f"transport:\n  $type: shadowsocks\n  endpoint: a.example:1\n  cipher: aes-128-gcm\n  secret: {WORD}\n"
XRAY = json.dumps(
    {
        "remarks": "Phone",
        "outbounds": [{"protocol": "vless", "settings": {"address": "a.example", "port": 1, "id": ID}}],
    }
)
BRIDGES = f"obfs4 192.0.2.1:443 {'A' * 40} cert={base64.b64encode(bytes(range(52))).decode().rstrip('=')} iat-mode=0\n"


def _nothing(name: str) -> bytes:
    raise FileNotFoundError(2, "No such file or directory")


def _read(data: str | bytes, login: sources.Login | None = None) -> list[Entry]:
    raw = data.encode() if isinstance(data, str) else data
    found = list(sources.entries(raw, "links.txt", _nothing, login))
    assert found
    for entry in found:
        assert (entry.config is None) == (entry.problem is not None)
        assert entry.label.isprintable()
        said = [repr(entry), *(finding.text for finding in entry.findings)]
        assert not any(secret in text for secret in (WORD, PRIVATE.reveal()) for text in said)
        if entry.problem:
            assert entry.problem.reason.startswith("links.txt")
            assert entry.problem.reason.isprintable()
    return found


def _one(data: str | bytes, login: sources.Login | None = None) -> Entry:
    (entry,) = _read(data, login)
    return entry


def _reason(entry: Entry) -> str:
    assert entry.problem is not None, entry
    return entry.problem.reason


DIALECTS: dict[str, tuple[str, Kind]] = {
    "wg-quick": (WIREGUARD, Kind.WIREGUARD),
    "AmneziaWG": (WIREGUARD.replace("Address", "Jc = 4\nJmin = 40\nJmax = 70\nAddress"), Kind.AMNEZIAWG),
    "OpenVPN": (OPENVPN, Kind.OPENVPN),
    "a link": (TROJAN, Kind.TROJAN),
    "SIP008": (SIP008, Kind.SHADOWSOCKS),
    "a bare list": (json.dumps(json.loads(SIP008)["servers"]), Kind.SHADOWSOCKS),
    "one server": (json.dumps(json.loads(SIP008)["servers"][0]), Kind.SHADOWSOCKS),
    "a list of links": (json.dumps([SS]), Kind.SHADOWSOCKS),
    "Outline": (OUTLINE, Kind.SHADOWSOCKS),
    "Clash": (CLASH, Kind.TROJAN),
    "Clash as JSON": (
        json.dumps(
            {"proxies": [{"type": "trojan", "name": "x", "server": "a.example", "port": 443, "password": WORD}]}
        ),
        Kind.TROJAN,
    ),
    "Xray": (XRAY, Kind.VLESS),
    "Xray, a phone's list": (f"[{XRAY}]", Kind.VLESS),
    "one outbound": (
        json.dumps(
            {"type": "trojan", "server": "a.example", "server_port": 1, "password": WORD, "tls": {"enabled": 1}}
        ),
        Kind.TROJAN,
    ),
    "bridges": (BRIDGES, Kind.TOR),
    "a WireGuard link": (
        f"wireguard://{base64.urlsafe_b64encode(base64.b64decode(PRIVATE.reveal())).decode()}@vpn.example:51820"
        f"?publickey={PUBLIC.replace('+', '%2B').replace('/', '%2F')}&address=10.0.0.2%2F32#Name",
        Kind.WIREGUARD,
    ),
}


@pytest.mark.parametrize(("text", "kind"), DIALECTS.values(), ids=DIALECTS.keys())
@pytest.mark.parametrize(
    "written",
    [
        pytest.param(str.encode, id="UTF-8"),
        pytest.param(lambda text: text.encode("utf-8-sig"), id="with a mark"),
        pytest.param(lambda text: text.encode("utf-16"), id="UTF-16"),
        pytest.param(lambda text: text.encode("utf-16-le"), id="UTF-16 without a mark"),
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(lambda text: ("\n" + text + "\n\n").encode(), id="blank lines"),
    ],
)
def test_every_dialect_in_every_code(text: str, kind: Kind, written: Callable[[str], bytes]) -> None:
    entry = _one(written(text))
    assert (entry.kind, entry.problem) == (kind, None)


def test_the_name_of_a_file_says_nothing() -> None:
    """It is not even asked for."""
    assert _one(TROJAN).label == "Name"
    assert _one(SS).label == "🇩🇪 DE"


LIST = f"# mine\n\n// old\n; older\n{TROJAN}\nsome words\n{SS}\nss://\nvmess://e30=\nhttps://pages.example/x\nfoo://x\n"


def _seen(found: list[Entry]) -> list[tuple[int | None, str, bool]]:
    return [(entry.line, entry.kind.value, entry.problem is None) for entry in found]


SEEN = [
    (5, "trojan", True),
    (6, "unknown", False),
    (7, "shadowsocks", True),
    (8, "shadowsocks", False),
    (9, "vmess", False),
    (10, "http", False),
    (11, "unknown", False),
]


def test_a_list_line_by_line() -> None:
    found = _read(LIST)
    assert _seen(found) == SEEN
    assert _reason(found[1]) == "links.txt:6: no link on this line"


@pytest.mark.parametrize(
    "coded",
    [
        base64.b64encode,
        base64.urlsafe_b64encode,
        base64.encodebytes,
        lambda data: base64.b64encode(data).rstrip(b"="),
        lambda data: b"\xef\xbb\xbf" + base64.b64encode(data) + b"\n\n",
        lambda data: base64.b64encode(data).decode().encode("utf-16"),
    ],
)
def test_a_list_in_base64(coded: Callable[[bytes], bytes]) -> None:
    assert _seen(_read(coded(LIST.encode()))) == SEEN


def test_documents_in_base64() -> None:
    for text, kind in ((SING_BOX, Kind.SHADOWSOCKS), (CLASH, Kind.TROJAN), (OPENVPN, Kind.OPENVPN)):
        assert _read(base64.b64encode(text.encode()))[0].kind is kind


def test_links_as_chats_and_pages_deliver_them() -> None:
    with_more = TROJAN.replace("#", "&type=ws&path=%2Fx#")
    plain = _one(with_more).config
    for text in (with_more.replace("&", "&amp;"), f"\u200b{with_more}\u00a0\ufeff", f"  {with_more}\t"):
        assert _one(text).config == plain


def test_a_message_with_links_in_it() -> None:
    text = f"Hello, try these:\n\n1. `{TROJAN}`\n2) {SS} {TROJAN}\n\nNews: https://t.example/x\nhttps://t.example/y\n"
    assert [(entry.line, entry.kind.value) for entry in _read(text)] == [
        (3, "trojan"),
        (4, "shadowsocks"),
        (4, "trojan"),
    ]
    assert all(entry.problem is None for entry in _read(text))
    assert (
        _reason(_read(text + "foo://x\n")[3])
        == "links.txt:8: not a share link; it begins with ss, vless, vmess, trojan, hysteria2 …"
    )


def test_a_config_that_was_pasted_as_code() -> None:
    for text, kind in (
        (WIREGUARD, Kind.WIREGUARD),
        (OPENVPN, Kind.OPENVPN),
        (SING_BOX, Kind.SHADOWSOCKS),
        (SS, Kind.SHADOWSOCKS),
    ):
        entry = _one(f"```conf\n{text}\n```\n")
        assert (entry.kind, entry.problem) == (kind, None)


def test_a_config_that_was_copied_from_the_source_of_a_page() -> None:
    for text in (OPENVPN, SING_BOX, CLASH, TROJAN, WIREGUARD):
        assert _read(html.escape(text))[0].config == _read(text)[0].config


def test_a_list_of_which_a_line_is_a_list() -> None:
    """Lists are put together of subscriptions, not all of which were taken apart."""
    inner = base64.b64encode(f"{SS}\n{TROJAN}\n".encode()).decode()
    assert [(entry.line, entry.kind.value, entry.problem) for entry in _read(f"{TROJAN}\n{inner}\n")] == [
        (1, "trojan", None),
        (2, "shadowsocks", None),
        (2, "trojan", None),
    ]


HOOKED = WIREGUARD.replace("[Peer]", "\n# its server\nPostUp = curl https://a.example\n[Peer]")
SPOILT = WIREGUARD.replace("Endpoint", "Endpiont")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (f"{HOOKED}\n{TROJAN}\n", [(1, "wireguard", True), (12, "trojan", True)]),
        (f"{TROJAN}\n{HOOKED}", [(1, "trojan", True), (2, "wireguard", True)]),
        (f"1. {TROJAN}\nThe other:\n{WIREGUARD}\nHave fun.\n", [(1, "trojan", True), (3, "wireguard", True)]),
        (f"{WIREGUARD}{SS}\n{WIREGUARD}", [(1, "wireguard", True), (8, "shadowsocks", True), (9, "wireguard", True)]),
        (f"{TROJAN}\n{WIREGUARD}\n{WIREGUARD}", [(1, "trojan", True), (2, "wireguard", True), (10, "wireguard", True)]),
        (f"{BRIDGES}{TROJAN}\n", [(2, "trojan", True), (1, "tor", True)]),
        (f"{TROJAN}\n{SS}\n\n{BRIDGES}", [(1, "trojan", True), (2, "shadowsocks", True), (4, "tor", True)]),
        (f"{WIREGUARD}{BRIDGES}", [(1, "wireguard", True), (8, "tor", True)]),
        (f"{TROJAN}\n{SPOILT}", [(1, "trojan", True), (2, "wireguard", False)]),
    ],
)
def test_configs_of_several_dialects_in_one_text(text: str, seen: list[tuple[int, str, bool]]) -> None:
    assert _seen(_read(text)) == seen


def test_a_part_of_a_text_is_what_it_is_alone_and_has_its_own_lines() -> None:
    alone, bridge = _one(HOOKED), _one(BRIDGES)
    second = BRIDGES.replace("192.0.2.1", "192.0.2.2").replace("cert=", "cert=x")
    _, config, bridges = _read(f"{TROJAN}\n\n{HOOKED}{BRIDGES}# x\n{second}")
    assert (config.config, bridges.config) == (alone.config, bridge.config)
    assert [(found.text, found.line) for found in config.findings] == [
        (found.text, found.line and found.line + 2) for found in alone.findings
    ]
    assert [found.line for found in bridges.findings] == [15]
    assert _reason(_read(f"{TROJAN}\n{SPOILT}")[1]).startswith("links.txt:7: unknown key in [Peer]")


def test_what_a_message_holds_beside_its_links_is_counted() -> None:
    text = f"Hello,\n\n# x\nuse these:\n{TROJAN}\nhttps://t.example/x\n{SS}\n"
    first, second = _read(text)
    notes = [finding for finding in first.findings if "no config" in finding.text]
    assert notes == [Finding("note", "left out are the lines that hold no config: 3, from here on", 1)]
    assert not any("no config" in finding.text for finding in second.findings)


def test_what_a_config_calls_itself() -> None:
    assert _one(f"# OVPN_ACCESS_SERVER_FRIENDLY_NAME=Home\n{OPENVPN}").label == "Home"


def test_a_line_of_a_program_is_no_config() -> None:
    assert not sources.is_config(b"dev = [\n]\nx = client.y()\n")
    assert sources.is_config(OPENVPN.encode())


def test_older_codes_in_comments_and_names() -> None:
    for data in (
        b"# \xcf\xf0\xe8\n" + WIREGUARD.encode(),
        WIREGUARD.encode().replace(b"/24", b"/24 # caf\xe9"),
        b"; caf\xe9\n" + OPENVPN.encode(),
        TROJAN.encode() + b" caf\xe9",
        OPENVPN.encode().replace(b"-----BEGIN CERT", b"Issuer: O=Caf\xe9\n-----BEGIN CERT"),
    ):
        assert _one(data).config is not None
    bad = _one(WIREGUARD.encode().replace(b"vpn.example", b"caf\xe9.example"))
    assert _reason(bad) == "links.txt:6: not UTF-8 text; save the file as UTF-8"


def test_the_login_is_openvpns() -> None:
    login = (Secret("user"), Secret(WORD))
    entry = _one(OPENVPN + "auth-user-pass\n", login)
    assert isinstance(entry.config, OpenVpnConfig), entry.problem
    assert (entry.config.username, entry.config.password) == login
    assert sources.asks_login(entry)
    assert not sources.asks_login(_one(TROJAN, login))


def test_a_label_gives_no_secret_away_and_obeys_nobody() -> None:
    assert _one(TROJAN.replace("#Name", f"#{WORD}")).label == ""
    assert _one(TROJAN.replace("#Name", "#a%1B%5B2J%E2%80%AEb%0Ac")).label.isprintable()
    assert len(_one(TROJAN + "x" * 5000).label) <= 80
    clash = CLASH.replace("name: x", 'name: "a\u202eb\\e[2J"')
    assert _one(clash).label == "ab\ufffd[2J"
    assert _one(CLASH.replace("name: x", f"name: {WORD}")).label == ""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xef\xbb\xbf", "neither"),
        (b"\x7fELF\x00\x01", "binary"),
        (b"\xff\xfe\x00", "binary"),
        (bytes(range(256)), "binary"),
        (b"# nothing\n", "neither"),
        (b"hello\n", "neither"),
        (b"<!DOCTYPE html>\n<html>trojan://x@y</html>", "web page"),
        (b"{}", "no known client"),
        (b"[]", "holds nothing"),
        (b"[[7]]", "not a table"),
        (b'{"outbounds": 7}', "not a list"),
        (b'{"a": }', "not JSON"),
        (b"proxies:\n  - {", "not YAML"),
        (b"#" * ((1 << 20) + 1), "larger than 1024 KiB"),
        (b"x" * (sources.MAX_SOURCE_BYTES + 1), "larger than 32 MiB"),
    ],
)
def test_what_is_no_config_says_why(data: bytes, reason: str) -> None:
    assert reason in _reason(_one(data))


def test_a_line_of_many_megabytes_costs_itself_only() -> None:
    found = _read(f"{TROJAN}\ntrojan://{'x' * (30 << 20)}@a.example:1\n{SS}\n")
    assert [(entry.line, entry.problem is None) for entry in found] == [(1, True), (2, False), (3, True)]
    assert "longer than" in _reason(found[1])


def test_a_part_of_many_megabytes_costs_itself_only() -> None:
    found = _read(f"{TROJAN}\n[Interface]\n{'MTU = 1280' * 200_000}\n{SS}\n{BRIDGES * 9_000}")
    assert [(entry.line, entry.kind.value, entry.problem is None) for entry in found] == [
        (1, "trojan", True),
        (2, "wireguard", False),
        (4, "shadowsocks", True),
        (5, "tor", False),
    ]
    assert all("larger than 1024 KiB" in _reason(entry) for entry in found[1::2])


def test_more_entries_than_anybody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_ENTRIES", 5)
    found = _read(f"{TROJAN}\n" * 9)
    assert [entry.problem is None for entry in found] == [True] * 5 + [False]
    assert "more than 5 entries" in _reason(found[-1])


def test_one_bad_entry_spoils_no_other() -> None:
    found = _read(f"{TROJAN}\n" + "".join(f"{TROJAN[:cut]}\n" for cut in range(1, 40)) + SS)
    assert found[0].config is not None
    assert found[-1].config is not None


def test_amnezias_key_may_hold_several() -> None:
    """What a key holds is read by its own reader; here only that its entries come through, each on its line."""
    found = _read(f"# x\nvpn://{base64.urlsafe_b64encode(b'nothing').decode()}\n")
    assert [(entry.line, entry.problem is None) for entry in found] == [(2, False)]


def test_types_are_what_they_seem() -> None:
    assert isinstance(_one(TROJAN).config, ProxyConfig)
    amnezia = _one(DIALECTS["AmneziaWG"][0]).config
    assert isinstance(amnezia, WireGuardConfig)
    assert isinstance(amnezia.amnezia, AmneziaParameters)


PIECES = [text.encode() for text, _ in DIALECTS.values()] + [LIST.encode(), base64.b64encode(LIST.encode())]


@given(
    data=st.binary(max_size=200)
    | st.lists(st.sampled_from(PIECES) | st.binary(max_size=9), max_size=4).map(b"\n".join)
    | st.tuples(st.sampled_from(PIECES), st.integers(0, 400), st.binary(max_size=4)).map(
        lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + len(cut[2]) :]
    )
)
def test_only_entries_leave(data: bytes) -> None:
    _read(data)


def test_is_config() -> None:
    assert all(sources.is_config(piece) for piece in PIECES)
    dice = random.Random(1)
    notes = [b"# My servers\nclient of mine, see https://a.example\n", b"user\npassword\n", b"\x89PNG\r\n", b"", b"{{"]
    keys = [b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(dice.randbytes(600)), base64.b64encode(b"user:pass")]
    assert not any(sources.is_config(note) for note in (*notes, *keys))
