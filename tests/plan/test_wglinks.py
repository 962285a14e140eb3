"""wireguard:// and wg:// links: one meaning in the spellings of many clients."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan import wgquick
from vpntest.plan.keys import generate
from vpntest.plan.model import Finding, Server, WireGuardConfig
from vpntest.plan.syntax import Unsupported
from vpntest.plan.wglinks import parse

PRIVATE, PUBLIC = generate()
PRESHARED = generate()[0]
WITH_SLASH = base64.b64encode(bytes([0xFB, 0xEF, 0xBE, 0xFF, 0xFF, *range(27)])).decode()
"""A key that begins with `++++//`."""
SECRETS = tuple(
    form
    for secret in (PRIVATE.reveal(), PRESHARED.reveal(), WITH_SLASH)
    for form in (secret, secret.rstrip("="), quote(secret, safe=""))
)


def _q(text: str) -> str:
    return quote(text, safe="")


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()


OURS, THEIRS, SHARED = _q(PRIVATE.reveal()), _q(PUBLIC), _q(PRESHARED.reveal())
V2RAYN = (
    f"wireguard://{OURS}@vpn.example:51820?publickey={THEIRS}&presharedkey={SHARED}"
    f"&reserved=0%2C0%2C0&address=10.7.0.2%2F32%2Cfd00%3A7%3A%3A2%2F128&mtu=1280"
)


def _plain() -> WireGuardConfig:
    return wgquick.parse(
        f"""
        [Interface]
        PrivateKey = {PRIVATE.reveal()}
        Address = 10.7.0.2/32, fd00:7::2/128
        MTU = 1280
        [Peer]
        PublicKey = {PUBLIC}
        PresharedKey = {PRESHARED.reveal()}
        Endpoint = vpn.example:51820
        AllowedIPs = 0.0.0.0/0, ::/0
        """,
        "x",
    )[0]


@pytest.mark.parametrize(
    "link",
    [
        V2RAYN,
        V2RAYN.replace("wireguard://", "WireGuard://"),
        V2RAYN.replace("&", "&amp;"),
        V2RAYN.replace("51820?", "51820/?") + "#a%20name",
        V2RAYN.replace(OURS, PRIVATE.reveal()).replace(THEIRS, PUBLIC).replace(SHARED, PRESHARED.reveal()),
        V2RAYN.replace(OURS, PRIVATE.reveal().rstrip("=")).replace(THEIRS, _hex(PUBLIC)),
        V2RAYN.replace(THEIRS, PUBLIC.replace("+", "-").replace("/", "_")),
        V2RAYN + "&udp=1&workers=2&flag=NL&reserved=AAAA",
        f"wg://vpn.example:51820?private_key={OURS}&peer_public_key={THEIRS}&pre_shared_key={SHARED}"
        "&local_address=10.7.0.2/32-fd00:7::2/128&mtu=1280&reserved=0-0-0&use_system_interface=false&workers=0"
        "&enable_amnezia=false&junk_packet_count=4",
        f"wg://vpn.example:51820/?pk={OURS}&peer_pk={THEIRS}&psk={SHARED}&local_address=10.7.0.2/32&mtu=1280&ifp=0"
        "&address=fd00:7::2/128",
        f"wg://vpn.example:51820?privateKey={OURS}&publicKey={THEIRS}&presharedKey={SHARED}&ip=10.7.0.2&mtu=1280"
        "&ipv6=fd00:7::2&udp=1",
    ],
)
def test_one_meaning_in_many_spellings(link: str) -> None:
    assert parse(link, "x") == (_plain(), ())


def test_a_link_that_is_a_whole_config() -> None:
    text = f"[Interface]\nPrivateKey={PRIVATE.reveal()}\nAddress=10.7.0.2\nPostUp=x\n[Peer]\nPublicKey={PUBLIC}\n"
    text += "Endpoint=192.0.2.1:1\nAllowedIPs=0.0.0.0/0\n"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        config, findings = parse(f"wireguard://{encode(text.encode()).decode()}#x", "x")
        assert config.servers == (Server("192.0.2.1", 1, "udp"),)
        assert [finding.level for finding in findings] == ["danger"]


def test_keys_with_signs_of_their_own() -> None:
    for written in (WITH_SLASH, _q(WITH_SLASH)):
        config, _ = parse(f"wireguard://{written}@[2001:db8::1]:443?publickey={WITH_SLASH}&address=10.0.0.2", "x")
        assert config.private_key.reveal() == WITH_SLASH
        assert config.peers[0].public_key == WITH_SLASH
        assert config.servers == (Server("2001:db8::1", 443, "udp"),)
    config, _ = parse(f"wg://vpn.example:1?pk={WITH_SLASH.replace('+', '%20')}&pub={THEIRS}&ip=10.0.0.2", "x")
    assert config.private_key.reveal() == WITH_SLASH


def test_obfuscation_in_both_spellings() -> None:
    packet = "<b 0xc0ff><r 16>"
    short = f"&jc=4&Jmin=40&jmax=70&s1=15&h1=5&h4=100-200&i1={_q(packet)}&dns=9.9.9.9,lan&keepalive=25"
    config, findings = parse(V2RAYN + short, "x")
    assert findings == ()
    assert config.amnezia is not None
    assert config.amnezia.values == (
        *(("jc", "4"), ("jmin", "40"), ("jmax", "70"), ("s1", "15"), ("h1", "5"), ("h4", "100-200")),
        ("i1", packet),
    )
    assert (config.dns, config.search) == (("9.9.9.9",), ("lan",))
    assert config.peers[0].persistent_keepalive == 25
    long = "&enable_amnezia=true&junk_packet_count=4&junk_packet_min_size=40&junk_packet_max_size=70"
    long += "&init_packet_junk_size=15&init_packet_magic_header=5&transport_packet_magic_header=100-200"
    config, _ = parse(V2RAYN + long, "x")
    assert config.amnezia is not None
    assert config.amnezia.values[:5] == (("jc", "4"), ("jmin", "40"), ("jmax", "70"), ("s1", "15"), ("h1", "5"))


def test_a_link_without_an_address_takes_the_usual_one_and_says_so() -> None:
    config, findings = parse(f"wireguard://{OURS}@vpn.example:51820?publickey={THEIRS}", "x")
    assert config.addresses == ("172.16.0.2/32",)
    assert [finding.level for finding in findings] == ["warning"]


def test_what_no_client_reads_is_one_note() -> None:
    _, findings = parse(V2RAYN + "&a=1&b=2&c", "x")
    assert findings == (Finding("note", "a parameter that no client reads is left out"),)


def _refused(link: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(link, "links.txt")
    said = str(caught.value)
    assert said.startswith("links.txt: ")
    assert "\n" not in said
    assert not any(secret in said for secret in SECRETS)
    return caught.value


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (V2RAYN.replace("reserved=0%2C0%2C0", "reserved=12%2C34%2C56"), "Reserved"),
        (V2RAYN.replace("reserved=0%2C0%2C0", "reserved=U4An"), "Reserved"),
        (V2RAYN.replace("reserved=0%2C0%2C0", "clientid=1-2-3"), "Reserved"),
        (V2RAYN + "&ifp=10-20&ifps=40-100", "Hiddify"),
        (V2RAYN + "&wnoise=quic", "MahsaNG"),
        (V2RAYN + "&keepalive=20-30", "range"),
    ],
)
def test_what_no_carrier_can_do_is_unsupported(link: str, reason: str) -> None:
    fault = _refused(link)
    assert isinstance(fault, Unsupported)
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("http://vpn.example", "not a wireguard"),
        ("wireguard://", "no PublicKey"),
        (V2RAYN.replace(OURS + "@", ""), "no PrivateKey"),
        (V2RAYN.replace(OURS, "short"), "PrivateKey"),
        (V2RAYN.replace(THEIRS, ""), "no PublicKey"),
        (V2RAYN.replace(":51820", ""), "port"),
        (V2RAYN.replace(":51820", ":99999"), "port"),
        (V2RAYN.replace("vpn.example", "vpn%0aexample"), "host"),
        (V2RAYN.replace("vpn.example", ""), "host"),
        (V2RAYN.replace("mtu=1280", "mtu=12"), "MTU"),
        (V2RAYN + "&dns=9.9.9.9%0APostUp=x", "control"),
        (V2RAYN + "&address=%00", "control"),
        (V2RAYN + "&address=%ff", "no text"),
        (V2RAYN + "&address=10.0.0.300", "Address"),
        (V2RAYN + "\x1b[2J", "control"),
        (V2RAYN + "&x=" + "y" * 70_000, "longer"),
        (V2RAYN + "&jc=4&jmin=9&jmax=5", "Jmin"),
    ],
)
def test_a_broken_link_is_one_clear_line(link: str, reason: str) -> None:
    fault = _refused(link)
    assert not isinstance(fault, Unsupported)
    assert reason in fault.reason


PARTS = st.sampled_from(
    [*V2RAYN.replace("?", "&?&").split("&"), "@", "%", "#", "[::1]", "jc=1", "reserved=1", "=", "://"]
)


@given(parts=st.lists(PARTS | st.text(max_size=8), max_size=12))
def test_only_a_config_error_leaves_the_parser_and_it_shows_no_secret(parts: list[str]) -> None:
    text = "wg://" + "&".join(parts)
    try:
        _, findings = parse(text, "x")
    except ConfigError as fault:
        findings = (Finding("note", str(fault)),)
    assert not any(secret in finding.text for secret in SECRETS for finding in findings)
