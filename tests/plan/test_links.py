"""Share links: what they mean to sing-box, and what is refused rather than read as something else."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan.links import KNOWN_SCHEMES, parse, scheme_of
from vpntest.plan.model import ProxyConfig, Server
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

ID = str(uuid.uuid4())
_DICE = random.Random(7)
"""The same throws in every process: tests are named after what they are given."""
WORD = "hush0f1e2d3c4b5a6978"
KEY16 = base64.b64encode(b"\xfb\xff" + _DICE.randbytes(14)).decode()
KEY32 = base64.b64encode(b"\xfb\xff" + _DICE.randbytes(30)).decode()
PBK = base64.urlsafe_b64encode(_DICE.randbytes(32)).decode().rstrip("=")
SID = _DICE.randbytes(8).hex()
SECRETS = (ID, WORD, KEY16.rstrip("="), KEY32.rstrip("="), SID)

REALITY = (
    f"vless://{ID}@198.18.0.1:443?security=reality&pbk={PBK}&sid={SID}&sni=www.example&fp=chrome&flow=xtls-rprx-vision"
)
TROJAN = f"trojan://{WORD}@vpn.example:443"
HYSTERIA2 = f"hysteria2://{WORD}@vpn.example"


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _url_b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def _bare(value: object) -> Any:
    """With secrets in the open, to compare."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, dict):
        return {key: _bare(inner) for key, inner in value.items()}
    return value


def _read(link: str) -> ProxyConfig:
    config, warnings = parse(link, "[[tunnel]] 3 (x)")
    assert not any(secret in text for secret in SECRETS for text in (repr(config), *warnings))
    return config


GOOD: dict[str, tuple[str, Server, dict[str, Any]]] = {
    "ss: 2022, plain": (
        f"ss://2022-blake3-aes-128-gcm:{_percent(KEY16)}@198.18.0.1:8388#a%20name",
        Server("198.18.0.1", 8388, "tcp"),
        {"type": "shadowsocks", "method": "2022-blake3-aes-128-gcm", "password": KEY16},
    ),
    "ss: 2022, two keys, URL-safe and without padding": (
        "ss://"
        + _url_b64("2022-blake3-aes-256-gcm:" + ":".join([KEY32.replace("+", "-").replace("/", "_").rstrip("=")] * 2))
        + "@vpn.example:8388",
        Server("vpn.example", 8388, "tcp"),
        {"type": "shadowsocks", "method": "2022-blake3-aes-256-gcm", "password": f"{KEY32}:{KEY32}"},
    ),
    "ss: URL-safe base64": (
        f"ss://{_url_b64(f'aes-256-gcm:{WORD}:?>/@#')}@[FD00::1]:8388/?outline=1&plugin=",
        Server("fd00::1", 8388, "tcp"),
        {"type": "shadowsocks", "method": "aes-256-gcm", "password": f"{WORD}:?>/@#"},
    ),
    "ss: standard base64 with slash and padding": (
        f"ss://{_b64('aes-128-gcm:' + WORD + '???~~~')}@vpn.example:1/",
        Server("vpn.example", 1, "tcp"),
        {"type": "shadowsocks", "method": "aes-128-gcm", "password": f"{WORD}???~~~"},
    ),
    "ss: legacy, password with @": (
        f"ss://{_b64(f'CHACHA20-IETF-POLY1305:p@{WORD}:@vpn.example:8388')}#tag",
        Server("vpn.example", 8388, "tcp"),
        {"type": "shadowsocks", "method": "chacha20-ietf-poly1305", "password": f"p@{WORD}:"},
    ),
    "ss: user part percent-encoded as a whole": (
        f"ss://{_percent(f'chacha20-poly1305:{WORD}')}@vpn.example:8388",
        Server("vpn.example", 8388, "tcp"),
        {"type": "shadowsocks", "method": "chacha20-ietf-poly1305", "password": WORD},
    ),
    "vless: Reality and Vision": (
        REALITY + "&type=tcp&encryption=none&spx=%2F&headerType=none&host=&path=%2F#x",
        Server("198.18.0.1", 443, "tcp"),
        {
            "type": "vless",
            "uuid": ID,
            "flow": "xtls-rprx-vision",
            "tls": {
                "enabled": True,
                "server_name": "www.example",
                "utls": {"enabled": True, "fingerprint": "chrome"},
                "reality": {"enabled": True, "public_key": PBK, "short_id": SID},
            },
        },
    ),
    "vless: Reality without a fingerprint takes Chrome's": (
        f"vless://{ID}@a.example:443?security=reality&pbk={PBK}=",
        Server("a.example", 443, "tcp"),
        {
            "type": "vless",
            "uuid": ID,
            "tls": {
                "enabled": True,
                "server_name": "a.example",
                "utls": {"enabled": True, "fingerprint": "chrome"},
                "reality": {"enabled": True, "public_key": PBK, "short_id": ""},
            },
        },
    ),
    "vless: TLS": (
        f"vless://{ID}@[fd00::1]:8443?security=tls&sni=A.Example&alpn=h2%2Chttp%2F1.1&packetEncoding=xudp",
        Server("fd00::1", 8443, "tcp"),
        {"type": "vless", "uuid": ID, "tls": {"enabled": True, "server_name": "a.example", "alpn": ["h2", "http/1.1"]}},
    ),
    "trojan: password with everything in it": (
        f"trojan://{_percent(WORD + '@:/?#&=%')}@vpn.example?peer=b.example",
        Server("vpn.example", 443, "tcp"),
        {"type": "trojan", "password": WORD + "@:/?#&=%", "tls": {"enabled": True, "server_name": "b.example"}},
    ),
    "trojan: on an address": (
        f"trojan://{WORD}@198.18.0.1:8443?fp=firefox",
        Server("198.18.0.1", 8443, "tcp"),
        {
            "type": "trojan",
            "password": WORD,
            "tls": {"enabled": True, "server_name": "198.18.0.1", "utls": {"enabled": True, "fingerprint": "firefox"}},
        },
    ),
    "hysteria2: user and password, obfuscated": (
        f"hysteria2://user:{_percent('pa:' + WORD)}@vpn.example:8443/?obfs=salamander&obfs-password={WORD}&sni=c.x",
        Server("vpn.example", 8443, "udp"),
        {
            "type": "hysteria2",
            "password": f"user:pa:{WORD}",
            "obfs": {"type": "salamander", "password": WORD},
            "tls": {"enabled": True, "server_name": "c.x", "alpn": ["h3"]},
        },
    ),
    "hysteria2: many ports": (
        f"hy2://{WORD}@vpn.example:443,5000-6000,7000",
        Server("vpn.example", 443, "udp"),
        {
            "type": "hysteria2",
            "password": WORD,
            "server_ports": ["443:443", "5000:6000", "7000:7000"],
            "tls": {"enabled": True, "server_name": "vpn.example", "alpn": ["h3"]},
        },
    ),
    "hysteria2: mport in place of the port": (
        f"hy2://{WORD}@vpn.example:443?mport=5000-6000",
        Server("vpn.example", 5000, "udp"),
        {
            "type": "hysteria2",
            "password": WORD,
            "server_ports": ["5000:6000"],
            "tls": {"enabled": True, "server_name": "vpn.example", "alpn": ["h3"]},
        },
    ),
    "hysteria2: nothing but a server": (
        "hysteria2://@[fd00::1]",
        Server("fd00::1", 443, "udp"),
        {"type": "hysteria2", "tls": {"enabled": True, "server_name": "fd00::1", "alpn": ["h3"]}},
    ),
}


@pytest.mark.parametrize(("link", "server", "outbound"), GOOD.values(), ids=GOOD.keys())
def test_what_a_link_means(link: str, server: Server, outbound: dict[str, Any]) -> None:
    config = _read(link)
    assert config.server == server
    assert _bare(config.outbound) == outbound
    assert not config.tls_unverified


@pytest.mark.root
@pytest.mark.parametrize("link", [link for link, _, _ in GOOD.values()], ids=GOOD.keys())
def test_sing_box_takes_it(link: str, tmp_path: Path) -> None:
    config = _read(link)
    outbound = {**_bare(config.outbound), "tag": "out", "server": "198.18.0.1"}
    if "server_ports" not in outbound:
        outbound["server_port"] = config.server.port
    file = tmp_path / "sing-box.json"
    file.write_text(json.dumps({"outbounds": [outbound]}))
    done = subprocess.run(["sing-box", "check", "-c", file], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("link", "needs"),
    [
        (GOOD["ss: 2022, plain"][0], ()),
        (GOOD["vless: TLS"][0], ()),
        (REALITY, ("utls",)),
        (GOOD["trojan: on an address"][0], ("utls",)),
        (HYSTERIA2, ("quic",)),
    ],
)
def test_what_a_link_needs_of_sing_box(link: str, needs: tuple[str, ...]) -> None:
    assert _read(link).needs == needs


@pytest.mark.parametrize("link", [TROJAN + "?allowInsecure=1", HYSTERIA2 + "?insecure=true", TROJAN + "?insecure=1"])
def test_an_unchecked_certificate_is_honoured_and_said(link: str) -> None:
    config, warnings = parse(link, "x")
    assert config.tls_unverified
    assert _bare(config.outbound)["tls"]["insecure"] is True
    assert "certificate" in warnings[0]


@pytest.mark.parametrize("link", [TROJAN + "?allowInsecure=0", REALITY + "&allowInsecure=1"])
def test_a_checked_server_stays_checked(link: str) -> None:
    config, warnings = parse(link, "x")
    assert not config.tls_unverified
    assert "insecure" not in _bare(config.outbound)["tls"]
    assert warnings == ()


UNSUPPORTED = {
    "ss: plugin": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example:1?plugin=obfs-local%3Bobfs%3Dhttp", "plugin"),
    "ss: prefix": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example:1?outline=1&prefix=%16%03%01", "prefix"),
    "ss: stream cipher": (f"ss://{_b64('rc4-md5:' + WORD)}@a.example:1", "method"),
    "ss: no cipher": (f"ss://{_b64('none:' + WORD)}@a.example:1", "method"),
    "ss: websocket": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example:1?type=ws", "type"),
    "ss: udp over tcp": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example:1?uot=1", "uot"),
    **{
        f"vless: {kind}": (f"{REALITY}&type={kind}", "type")
        for kind in ("ws", "grpc", "xhttp", "kcp", "httpupgrade", "h2")
    },
    "vless: header": (REALITY + "&headerType=http", "headerType"),
    "vless: encryption": (REALITY + "&encryption=mlkem768x25519plus.native.0rtt.x", "encryption"),
    "vless: in the clear": (f"vless://{ID}@a.example:443?security=none", "TLS"),
    "vless: in the clear by default": (f"vless://{ID}@a.example:443", "TLS"),
    "vless: another flow": (REALITY.replace("vision", "vision-udp443"), "flow"),
    "vless: post-quantum": (REALITY + "&pqv=abc", "pqv"),
    "vless: pinned": (f"vless://{ID}@a.example:443?security=tls&pcs=abc", "pcs"),
    "vless: encrypted hello": (f"vless://{ID}@a.example:443?security=tls&ech=abc", "ech"),
    "vless: fingerprint": (REALITY.replace("fp=chrome", "fp=unsafe"), "fp"),
    "vless: packets": (REALITY + "&packetEncoding=packetaddr", "packetEncoding"),
    "vless: path": (REALITY + "&path=%2Fws", "path"),
    "trojan: in the clear": (TROJAN + "?security=none", "TLS"),
    "trojan: websocket": (TROJAN + "?type=ws&path=/x", "type"),
    "trojan: flow": (TROJAN + "?flow=xtls-rprx-vision", "flow"),
    "trojan: h3": (TROJAN + "?alpn=h3", "alpn"),
    "trojan: path": (TROJAN + "/ws", "path"),
    "hysteria2: another obfuscation": (HYSTERIA2 + "?obfs=gecko&obfs-password=x", "obfs"),
    "hysteria2: pinned": (HYSTERIA2 + "?pinSHA256=ab:cd", "pinSHA256"),
    "hysteria2: bandwidth": (HYSTERIA2 + "?upmbps=10", "upmbps"),
    "unknown parameter": (TROJAN + f"?{WORD}=1", "a parameter"),
    **{scheme: (f"{scheme}://{WORD}@a.example:1", scheme) for scheme in sorted(KNOWN_SCHEMES)},
}
BROKEN = {
    "nothing": ("", "not a share link"),
    "a page": ("https://a.example/", "not a share link"),
    "two links": (TROJAN + "\n" + TROJAN, "one line"),
    "blank": (TROJAN + " x", "one line"),
    "no server": (f"trojan://{WORD}", "no server"),
    "ss: no server": (f"ss://{_b64('aes-128-gcm:' + WORD)}", "no server"),
    "ss: not base64": (f"ss://{WORD}!@a.example:1", "user part"),
    "ss: no port": (f"ss://{_b64('aes-128-gcm:' + WORD)}@a.example", "port"),
    "ss: no password": (f"ss://{_b64('aes-128-gcm:')}@a.example:1", "password"),
    "ss: a 2022 key too short": (f"ss://2022-blake3-aes-256-gcm:{_percent(KEY16)}@a.example:1", "base64 of 32 bytes"),
    "ss: a 2022 password that is no key": (f"ss://2022-blake3-aes-128-gcm:{WORD}@a.example:1", "base64 of 16 bytes"),
    "ss: two keys where one is": (f"ss://2022-blake3-chacha20-poly1305:{KEY32}:{KEY32}@a.example:1", "one key"),
    "port 70000": (TROJAN.replace("443", "70000"), "port"),
    "port is a word": (TROJAN.replace("443", WORD), "port"),
    "IPv6 without brackets": (f"trojan://{WORD}@fd00::1:443", "brackets"),
    "no host": (f"trojan://{WORD}@:443", "host"),
    "no password": ("trojan://@a.example:443", "password"),
    "not UTF-8": ("trojan://%ff@a.example:443", "UTF-8"),
    "hidden line feed": (f"trojan://{WORD}%0a@a.example:443", "UTF-8"),
    "parameter twice": (TROJAN + "?sni=a.example&sni=b.example", "twice"),
    "parameter not UTF-8": (TROJAN + "?sni=%ff", "UTF-8"),
    "server name": (TROJAN + "?sni=a%20b", "sni"),
    "insecure": (TROJAN + "?insecure=maybe", "insecure"),
    "vless: not a UUID": (f"vless://{WORD}@a.example:443?security=tls", "UUID"),
    "vless: no key": (f"vless://{ID}@a.example:443?security=reality", "pbk"),
    "vless: a bad key": (REALITY.replace(PBK, PBK[:-4]), "pbk"),
    "vless: a bad short id": (REALITY.replace(SID, "abc"), "sid"),
    "vless: Reality of an address": (REALITY.replace("&sni=www.example", ""), "sni"),
    "hysteria2: no obfuscation password": (HYSTERIA2 + "?obfs=salamander", "obfs-password"),
    "hysteria2: ports backwards": (f"hy2://{WORD}@a.example:10-5", "range"),
    "hysteria2: port 0": (f"hy2://{WORD}@a.example:0-5", "port"),
}


def _refused(link: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(link, "[[tunnel]] 3 (x)")
    said = str(caught.value)
    assert said.startswith("[[tunnel]] 3 (x): ")
    assert "\n" not in said
    assert not any(secret in said for secret in SECRETS)
    return caught.value


@pytest.mark.parametrize(("link", "named"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_is_not_carried_is_unsupported_and_never_another_setup(link: str, named: str) -> None:
    fault = _refused(link)
    assert isinstance(fault, Unsupported)
    assert named in fault.reason


@pytest.mark.parametrize(("link", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_link_is_one_clear_line(link: str, reason: str) -> None:
    fault = _refused(link)
    assert not isinstance(fault, Unsupported)
    assert reason in str(fault)


def test_what_is_ignored_is_said() -> None:
    _, warnings = parse(REALITY + "&spx=%2Fpath", "x")
    assert "spx" in warnings[0]
    _, warnings = parse(HYSTERIA2 + "?fp=chrome", "x")
    assert "fp" in warnings[0]


def test_schemes() -> None:
    assert scheme_of(" VLESS://x") == "vless"
    assert scheme_of("vless:x") is None
    assert scheme_of("# vless://x") is None


PIECES = st.sampled_from(
    [
        *(
            "ss://",
            "vless://",
            "trojan://",
            "hy2://",
            "@",
            ":",
            "/",
            "?",
            "#",
            "&",
            "=",
            "%",
            "%zz",
            "443",
            "[fd00::1]",
            "a.example",
        ),
        *(
            ID,
            WORD,
            KEY16,
            _b64(f"aes-128-gcm:{WORD}"),
            _b64(f"aes-128-gcm:{WORD}@a.example:1"),
            "security=reality",
            "type=tcp",
        ),
        *(f"pbk={PBK}", f"sid={SID}", "sni=a.example", "obfs=salamander", f"obfs-password={WORD}", "insecure=1"),
    ]
)


@given(pieces=st.lists(PIECES | st.text(max_size=3), max_size=16))
def test_only_a_config_error_leaves_the_parser_and_it_shows_no_secret(pieces: list[str]) -> None:
    try:
        config, warnings = parse("".join(pieces), "x")
        said = (repr(config.outbound), *warnings)
    except ConfigError as fault:
        said = (str(fault),)
    assert not any(secret in text for secret in SECRETS for text in said)


@given(scheme=st.sampled_from(["ss", "vless", "trojan", "hy2"]), rest=st.text())
def test_any_link_is_read_or_refused(scheme: str, rest: str) -> None:
    try:
        config, _ = parse(f"{scheme}://{rest}", "x")
    except ConfigError:
        return
    assert config.outbound["type"] in ("shadowsocks", "vless", "trojan", "hysteria2")


@given(password=st.text(min_size=1).filter(str.isprintable))
def test_every_password_comes_through(password: str) -> None:
    config, _ = parse(f"trojan://{_percent(password)}@a.example", "x")
    assert config.outbound["password"] == Secret(password)
    config, _ = parse(f"ss://{_b64(f'aes-256-gcm:{password}')}@a.example:1", "x")
    assert config.outbound["password"] == Secret(password)
    config, _ = parse(f"ss://{_b64(f'aes-256-gcm:{password}@a.example:1')}", "x")
    assert config.outbound["password"] == Secret(password)
