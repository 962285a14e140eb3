"""wg-quick's and AmneziaWG's .conf: what they mean, what is left out, what is refused."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan.keys import generate
from vpntest.plan.model import Finding, Server
from vpntest.plan.syntax import Unsupported
from vpntest.plan.wgquick import from_keys, label, needs, parse

PRIVATE, PUBLIC = generate()
PRESHARED = generate()[0].reveal()
OTHER = generate()[1]
SECRETS = (PRIVATE.reveal(), PRIVATE.reveal().rstrip("="), PRESHARED, PRESHARED.rstrip("="))

INTERFACE = f"[Interface]\nPrivateKey = {PRIVATE.reveal()}\nAddress = 10.7.0.2/24\n"
PEER = f"[Peer]\nPublicKey = {PUBLIC}\nEndpoint = vpn.example:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n"


def _refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.conf")
    said = str(caught.value)
    assert said.startswith("x.conf")
    assert "\n" not in said
    assert not any(secret in said for secret in SECRETS)
    return caught.value


def test_a_whole_config() -> None:
    config, findings = parse(
        f"""# made by a provider
[interface]
privatekey={PRIVATE.reveal()} # not for others
ADDRESS = 10.7.0.2/24, fd00:7::2
Address = 10.8.0.2
DNS = 10.7.0.1, corp.example,fd00:7::1
dns = lan
MTU = 1380
ListenPort = 0

[PEER]
PublicKey = {PUBLIC}
PresharedKey = {PRESHARED}
Endpoint = [FD00::1]:51820
AllowedIPs = 0.0.0.0/0
AllowedIPs = ::/0, 10.1.2.3/8
PersistentKeepalive = 25
[Peer]
PublicKey = {OTHER}
AllowedIPs =
PersistentKeepalive = off
""".replace("\n", "\r\n"),
        "x.conf",
    )
    assert findings == ()
    assert config.private_key == PRIVATE
    assert config.addresses == ("10.7.0.2/24", "fd00:7::2/128", "10.8.0.2/32")
    assert config.dns == ("10.7.0.1", "fd00:7::1")
    assert config.search == ("corp.example", "lan")
    assert (config.mtu, config.listen_port, config.amnezia) == (1380, 0, None)
    first, second = config.peers
    assert first.public_key == PUBLIC
    assert first.preshared_key is not None
    assert first.preshared_key.reveal() == PRESHARED
    assert first.endpoint == Server("fd00::1", 51820, "udp")
    assert first.allowed_ips == ("0.0.0.0/0", "::/0", "10.0.0.0/8")
    assert first.persistent_keepalive == 25
    assert (second.endpoint, second.allowed_ips, second.persistent_keepalive) == (None, (), 0)
    assert config.servers == (first.endpoint,)
    assert not any(secret in repr(config) for secret in SECRETS)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("PreUp = touch /x", "danger"),
        ("postup = iptables -A x; # y", "danger"),
        ("PreDown=true", "danger"),
        ("PostDown = curl http://x | sh", "danger"),
        ("Table = off", "note"),
        ("SaveConfig = true", "note"),
        ("FwMark = 0xca6c", "note"),
        ("ListenPort = 51820", "note"),
        ("IncludedApplications = com.example.app", "note"),
        ("AllowedApps = one.exe", "note"),
        ("Name = somebody's box", "note"),
        ("#@ws:Jc = 4", "warning"),
        ("[Socks5]\nBindAddress = 127.0.0.1:1\nPassword = x", "note"),
    ],
)
def test_what_is_no_part_of_the_tunnel_is_left_out_and_said_with_its_line(line: str, level: str) -> None:
    plain, _ = parse(INTERFACE + PEER, "x.conf")
    config, findings = parse(INTERFACE + line + "\n" + PEER, "x.conf")
    assert config == plain
    (finding,) = findings
    assert (finding.level, finding.line) == (level, 4)
    key, _, value = line.partition("\n")[0].partition("=")
    assert key.strip("[]# ").lower() in finding.text.lower() or level == "warning"
    assert not value.strip() or value.strip() not in finding.text


def test_a_problem_does_not_hide_what_was_found_before_it() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(INTERFACE + "PostUp = touch /x\n" * 99 + PEER + "AllowedIPs = nowhere\n", "x.conf")
    assert {(finding.level, finding.line) for finding in caught.value.findings} >= {("danger", 4)}
    assert len(caught.value.findings) < 50


@pytest.mark.parametrize(
    ("allowed", "whole"),
    [
        ("0.0.0.0/0", True),
        ("0.0.0.0/1, 128.0.0.0/1", True),
        ("0.0.0.0/5, 8.0.0.0/7, 11.0.0.0/8, 12.0.0.0/6, 16.0.0.0/4, 32.0.0.0/3, 64.0.0.0/2, 128.0.0.0/2", False),
        ("0.0.0.0/5, 8.0.0.0/7, 11.0.0.0/8, 12.0.0.0/6, 16.0.0.0/4, 32.0.0.0/3, 64.0.0.0/2, 128.0.0.0/1", True),
        ("10.0.0.0/8", False),
        ("::/0", False),
        ("", False),
    ],
)
def test_a_tunnel_for_a_part_of_the_internet_cannot_be_measured(allowed: str, whole: bool) -> None:
    text = INTERFACE + PEER.replace("0.0.0.0/0, ::/0", allowed)
    if whole:
        assert parse(text, "x.conf")[1] == ()
        return
    fault = _refused(text)
    assert isinstance(fault, Unsupported)
    assert "AllowedIPs" in fault.reason
    assert fault.line == text[: text.index("AllowedIPs")].count("\n") + 1


def test_networks_taken_from_a_peer_are_not_carried() -> None:
    text = INTERFACE + PEER.replace("::/0", "::/0, -1.1.1.1/32")
    fault = _refused(text)
    assert isinstance(fault, Unsupported)
    assert "minus" in fault.reason
    assert fault.line == text[: text.index("AllowedIPs")].count("\n") + 1


def test_the_peers_of_a_tunnel_may_share_the_internet_out() -> None:
    text = INTERFACE + PEER.replace("0.0.0.0/0, ::/0", "0.0.0.0/1")
    second = f"[Peer]\nPublicKey = {OTHER}\nAllowedIPs = 128.0.0.0/1\n"
    assert parse(text + second, "x.conf")[1] == ()
    assert isinstance(_refused(text), Unsupported)


BROKEN = {
    "nothing": ("# only a comment\n", None, "no [Interface]"),
    "no interface": (PEER, None, "no [Interface]"),
    "two interfaces": (INTERFACE + PEER + INTERFACE, 8, "second [Interface]"),
    "two configs in one": (INTERFACE + PEER + INTERFACE.replace("10.7", "10.8") + PEER, 8, "two configs in one"),
    "IPv6 without a port": (INTERFACE + PEER.replace("vpn.example:51820", "[fd00::1]"), 6, "neither"),
    "IPv6 without brackets and port": (
        INTERFACE + PEER.replace("vpn.example:51820", "fd00:0:0:0:0:0:0:1"),
        6,
        "brackets",
    ),
    "no such host": (INTERFACE + PEER.replace("vpn.example", "<server>"), 6, "host"),
    "a key's placeholder": (INTERFACE.replace(PRIVATE.reveal(), "<your private key>") + PEER, 2, "44 characters"),
    "a switch that is none": (INTERFACE + "DisableCookies = maybe\n" + PEER, 4, "neither on nor off"),
    "a range that is none": (INTERFACE + "RekeyTimeout = 5-\n" + PEER, 4, "whole number"),
    "unknown section": (INTERFACE + "[Server]\n", 4, "section"),
    "line before a section": ("MTU = 1400\n" + INTERFACE + PEER, 1, "before the first"),
    "no equals sign": (INTERFACE + "MTU 1400\n" + PEER, 4, "key = value"),
    "unknown key": (INTERFACE + "Adress = x\n" + PEER, 4, "did you mean Address?"),
    "a key on a line of its own": (INTERFACE + PRESHARED + "\n" + PEER, 4, "unknown key"),
    "peer's key in the interface": (INTERFACE + "Endpoint = a.example:1\n" + PEER, 4, "belongs in [Peer]"),
    "interface's key in a peer": (INTERFACE + PEER + "MTU = 1400\n", 8, "belongs in [Interface]"),
    "obfuscation in a peer": (INTERFACE + PEER + "Jc = 4\n", 8, "belongs in [Interface]"),
    "no private key": ("[Interface]\nAddress = 10.0.0.1\n" + PEER, 1, "no PrivateKey"),
    "no public key": (INTERFACE + "[Peer]\nEndpoint = a.example:1\n", 4, "no PublicKey"),
    "private key too short": (INTERFACE.replace(PRIVATE.reveal(), SECRETS[1]) + PEER, 2, "44 characters"),
    "private key not base64": (INTERFACE.replace(PRIVATE.reveal(), "!" * 44) + PEER, 2, "base64"),
    "public key all zeros": (INTERFACE + PEER.replace(PUBLIC, "A" * 43 + "="), 5, "all zeros"),
    "preshared key too long": (INTERFACE + PEER + f"PresharedKey = {PRESHARED}x\n", 8, "44 characters"),
    "port 70000": (INTERFACE + PEER.replace("51820", "70000"), 6, "port"),
    "port 0": (INTERFACE + PEER.replace("51820", "0"), 6, "port"),
    "no port": (INTERFACE + PEER.replace(":51820", ""), 6, "port"),
    "no such network": (INTERFACE + PEER.replace("0.0.0.0/0", "0.0.0.0/33"), 7, "network"),
    "no such address": (INTERFACE.replace("10.7.0.2/24", "10.7.0.256") + PEER, 3, "network"),
    "MTU too small": (INTERFACE + "MTU = 100\n" + PEER, 4, "from 576"),
    "MTU is no number": (INTERFACE + "MTU = auto\n" + PEER, 4, "whole number"),
    "listen port": (INTERFACE + "ListenPort = 70000\n" + PEER, 4, "65535"),
    "keepalive": (INTERFACE + PEER + "PersistentKeepalive = 65536\n", 8, "65535"),
    "NUL": (INTERFACE + "MTU = 14\x0000\n" + PEER, 4, "control"),
    "escape": (INTERFACE + "# \x1b[2J\n" + PEER, 4, "control"),
    "line separator": (INTERFACE + "# \u2028PostUp = x\n" + PEER, 4, "control"),
    "Jc": (INTERFACE + "Jc = -1\n" + PEER, 4, "Jc"),
    "Jmin above Jmax": (INTERFACE + "Jc = 4\nJmin = 50\nJmax = 40\n" + PEER, 1, "Jmin"),
    "S1": (INTERFACE + "S1 = 65536\n" + PEER, 4, "S1"),
    "H1": (INTERFACE + "H1 = 4294967296\n" + PEER, 4, "H1"),
    "H2 backwards": (INTERFACE + "H2 = 9-5\n" + PEER, 4, "H2"),
    "H1 and H2 the same": (INTERFACE + "H1 = 7\nH2 = 7\n" + PEER, 1, "overlap"),
    "H1 over H2's default": (INTERFACE + "H1 = 1-2\n" + PEER, 1, "overlap"),
    "I1 is no tag": (INTERFACE + "I1 = 0xff\n" + PEER, 4, "I1"),
    "I1 is not closed": (INTERFACE + "I1 = <b 0xff\n" + PEER, 4, "I1"),
    "I1 is an empty tag": (INTERFACE + "I1 = <>\n" + PEER, 4, "I1"),
}


@pytest.mark.parametrize(("text", "line", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_config_is_one_clear_line(text: str, line: int | None, reason: str) -> None:
    fault = _refused(text)
    assert not isinstance(fault, Unsupported)
    assert reason in str(fault)
    assert fault.line == line


SOUND_BUT = {
    "no peer": (INTERFACE, None, "nobody to call"),
    "a server's own": (INTERFACE + f"ListenPort = 51820\n[Peer]\nPublicKey = {PUBLIC}\n", None, "of a server"),
    "no address": (f"[Interface]\nPrivateKey = {PRIVATE.reveal()}\n" + PEER, 1, "no Address"),
    "a hook that sets the key": (
        "[Interface]\nAddress = 10.0.0.1\nPostUp = wg set %i private-key /etc/wireguard/%i.key\n" + PEER,
        1,
        "never run",
    ),
    "WireSock's proxy": (INTERFACE + PEER + "Socks5Proxy = 192.0.2.1:1080\n", 8, "Socks5Proxy"),
    "WireSock's disguise": (INTERFACE + "Id = site.example\n" + PEER, 4, "disguises"),
    "wireproxy's other file": ("WGConfig = /etc/wireguard/wg0.conf\n[Socks5]\n", 1, "another file"),
    "WARP's bytes": (INTERFACE + PEER + "Reserved = 12, 34, 56\n", 8, "Reserved"),
    "WARP's bytes in base64": (INTERFACE + PEER + "Reserved = U4An\n", 8, "Reserved"),
    "one peer without obfuscation": (INTERFACE + "Jc = 4\n" + PEER + "AdvancedSecurity = off\n", 9, "AdvancedSecurity"),
    "a keepalive of a range": (INTERFACE + PEER + "PersistentKeepalive = 20-30\n", 8, "range"),
    "a key for the headers": (INTERFACE + f"HeaderProtectionKey = {PRESHARED}\n" + PEER, 4, "HeaderProtectionKey"),
}


@pytest.mark.parametrize(("text", "line", "reason"), SOUND_BUT.values(), ids=SOUND_BUT.keys())
def test_what_wg_would_take_and_no_carrier_can_do_is_unsupported(text: str, line: int | None, reason: str) -> None:
    fault = _refused(text)
    assert isinstance(fault, Unsupported)
    assert reason in str(fault)
    assert fault.line == line


def _peer(line: str = "", **changes: str) -> str:
    text = PEER
    for old, new in changes.items():
        text = text.replace({"host": "vpn.example", "allowed": "0.0.0.0/0, ::/0"}[old], new)
    return text + line


DIRT = {
    "blanks anywhere": (INTERFACE.replace("PrivateKey = ", " Private Key=  "), _peer(host="vpn . example"), None),
    "blanks in a list": (INTERFACE, _peer(allowed="0.0.0.0/0 ::/0"), None),
    "a section of blanks": (INTERFACE.replace("[Interface]", "  [ INTERFACE ]  # ours"), _peer(), None),
    "signs of networks": (INTERFACE, _peer(allowed="+0.0.0.0/0,,::/0,"), None),
    "comments of all kinds": (INTERFACE + "; one\n   # two\n#PostUp = three\n", _peer(), None),
    "keys that are empty": (
        INTERFACE + "DNS =\nMTU=\nListenPort = \n",
        _peer("PresharedKey =\nPersistentKeepalive =\n"),
        None,
    ),
    "an MTU of nothing": (INTERFACE + "MTU = 0\n", _peer(), None),
    "a preshared key of nothing": (INTERFACE, _peer(f"PresharedKey = {'A' * 43}=\n"), None),
    "bytes of nothing": (INTERFACE, _peer("Reserved = 0, 0, 0\n"), None),
    "the obfuscation of the peer": (INTERFACE, _peer("AdvancedSecurity = on\n"), "note"),
    "the last one counts": (INTERFACE.replace("Address", f"PrivateKey = {PRIVATE.reveal()}\nAddress"), _peer(), None),
    "the last, other one counts": (
        INTERFACE.replace("PrivateKey", f"PrivateKey = {PRESHARED}\nPrivateKey"),
        _peer(),
        "warning",
    ),
    "the last peer counts": (INTERFACE, _peer() + PEER.replace("Endpoint = vpn.example:51820\n", ""), "warning"),
    "a resolver that is none": (INTERFACE + "DNS = https://dns.example/dns-query\n", _peer(), "warning"),
    "an interface in two parts": ("[Interface]\nListenPort = 0\n" + INTERFACE, _peer(), None),
    "text that runs backwards": (INTERFACE + "# \u202egnihtyna \u200b\ufeff\n", _peer(), None),
    "a mebibyte of comments": (INTERFACE + ("#" * 100 + "\n") * 10_000, _peer(), None),
    "a comment as long as a file": (INTERFACE + "#" * 1_000_000 + "\n", _peer(), None),
}


@pytest.mark.parametrize(("interface", "peer", "level"), DIRT.values(), ids=DIRT.keys())
def test_dirt_changes_nothing(interface: str, peer: str, level: str | None) -> None:
    plain, _ = parse(INTERFACE + PEER, "x.conf")
    config, findings = parse(interface + peer, "x.conf")
    assert config.private_key == plain.private_key
    assert config.addresses == plain.addresses
    assert config.dns == ()
    assert config.mtu is None
    assert config.peers[0].public_key == plain.peers[0].public_key
    assert config.peers[0].allowed_ips == plain.peers[0].allowed_ips
    assert config.peers[0].endpoint is not None
    assert config.peers[0].endpoint.port == 51820
    assert config.peers[0].preshared_key is None
    assert len(config.peers) == 1
    assert [finding.level for finding in findings] == ([level] if level else [])


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("VPN.example.:51820", "vpn.example"),
        ("[vpn.example]:51820", "vpn.example"),
        ("192.0.2.1 : 51820", "192.0.2.1"),
        ("[2001:db8::1]:51820", "2001:db8::1"),
        ("2001:db8::1:51820", "2001:db8::1"),
        ("2001:DB8:0:0:0:0:0:1:51820", "2001:db8::1"),
    ],
)
def test_the_endpoint_as_wg_reads_it(endpoint: str, host: str) -> None:
    config, findings = parse(INTERFACE + PEER.replace("vpn.example:51820", endpoint), "x.conf")
    assert config.servers == (Server(host, 51820, "udp"),)
    assert findings == ()


def test_resolvers_and_search_domains_are_told_apart() -> None:
    config, findings = parse(INTERFACE + "DNS = 9.9.9.9 149.112.112.112,LAN\nDNS = ::1, ~., 9.9.9.9\n" + PEER, "x.conf")
    assert config.dns == ("9.9.9.9", "149.112.112.112", "::1")
    assert config.search == ("lan",)
    said = "an entry of DNS is left out: neither the address of a resolver nor a search domain"
    assert findings == (Finding("warning", said, 5),)


def test_the_same_keys_from_another_dialect() -> None:
    pairs = [("PrivateKey", PRIVATE.reveal()), ("address", "10.7.0.2/24"), ("jc", "4")]
    peer = [("PublicKey", PUBLIC), ("Endpoint", "vpn.example:51820"), ("AllowedIPs", "0.0.0.0/0, ::/0")]
    assert from_keys(pairs, [peer], "x") == parse(INTERFACE + "Jc = 4\n" + PEER, "x")
    with pytest.raises(ConfigError, match=r"^x: a control character"):
        from_keys([*pairs, ("DNS", "9.9.9.9\nPostUp = x")], [peer], "x")
    with pytest.raises(ConfigError, match=r"^x: Endpoint holds what it cannot hold"):
        from_keys(pairs, [[*peer, ("Endpoint", "vpn.example:51820 # :1")]], "x")
    with pytest.raises(ConfigError, match=r"^x: Address"):
        from_keys([*pairs, ("Address", "nothing")], [peer], "x")


def test_an_empty_value_from_another_dialect_says_nothing() -> None:
    pairs = [("PrivateKey", PRIVATE.reveal()), ("Address", "10.7.0.2/24"), ("Jc", ""), ("MTU", "")]
    peer = [("PublicKey", PUBLIC), ("Endpoint", "vpn.example:51820"), ("AllowedIPs", "0.0.0.0/0, ::/0")]
    assert from_keys(pairs, [[*peer, ("PresharedKey", "")]], "x") == parse(INTERFACE + PEER, "x")


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("# Name = Nord 1", "Nord 1"),
        ("#device: Happy Cat", "Happy Cat"),
        ("# Name = \u202eevil\x1b[2J", "\ufffdevil\ufffd[2J"),
        ("# Name = " + "x" * 500, "x" * 100),
        ("# made by a provider", ""),
        ("Name = x", ""),
    ],
)
def test_a_comment_that_names_the_config(comment: str, said: str) -> None:
    assert label(f"[Interface]\n{comment}\n") == said


@pytest.mark.parametrize(
    "line",
    ["DNS = " + "9.9.9.9, " * 101, "DNS = lan\n" * 101, "Address = " + "10.0.0.3 " * 101],
    ids=["list", "lines", "address"],
)
def test_more_entries_than_any_real_config_has_are_not_looked_at(line: str) -> None:
    assert "has more than 100 entries" in _refused(INTERFACE + line + "\n" + PEER).reason


def test_a_config_cannot_have_us_call_the_whole_internet() -> None:
    def peers(count: int) -> str:
        keys = (base64.b64encode(number.to_bytes(32)).decode() for number in range(1, count + 1))
        return "".join(
            f"[Peer]\nPublicKey = {key}\nEndpoint = {n}.example:1\nAllowedIPs = 0.0.0.0/0\n"
            for n, key in enumerate(keys)
        )

    assert len(parse(INTERFACE + peers(100), "x.conf")[0].peers) == 100
    assert isinstance(_refused(INTERFACE + peers(101)), Unsupported)


def test_a_file_of_hooks_is_said_to_be_one_in_a_few_lines() -> None:
    _, findings = parse(INTERFACE + "FwMark = 1\n" * 1000 + "PostUp = x\n" * 1000 + PEER, "x.conf")
    assert [finding.level for finding in findings] == ["note"] * 20 + ["danger"] * 20


def test_obfuscation_in_the_order_of_the_uapi() -> None:
    config, findings = parse(
        INTERFACE
        + "I1 = <b 0xc0ff><r 16> <t>\nH4 = 40-49\nh1 = 10\nH2=20 - 29\nH3 = 30\n"
        + "S1 = 15\nS4 = 0\njc = 4\nJmin = 40\nJmax = 70\nI2 =\n"
        + PEER,
        "x.conf",
    )
    assert findings == ()
    assert config.amnezia is not None
    assert config.amnezia.values == (
        *(("jc", "4"), ("jmin", "40"), ("jmax", "70"), ("s1", "15")),
        *(("h1", "10"), ("h2", "20-29"), ("h3", "30"), ("h4", "40-49"), ("i1", "<b 0xc0ff><r 16> <t>")),
    )


def test_obfuscation_that_hides_nothing_is_still_amneziawg() -> None:
    """All defaults: spoken like WireGuard, but by the other carrier, which takes no zero for the junk's numbers."""
    text = INTERFACE + "Jc = 0\nJmin = 0\nJmax = 0\nS1 = 0\nS2 = 0\nH1 = 1\nH2 = 2\nH3 = 3\nH4 = 4\n" + PEER
    config, _ = parse(text, "x.conf")
    assert config.amnezia is not None
    assert config.amnezia.values == (("h1", "1"), ("h2", "2"), ("h3", "3"), ("h4", "4"))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("I1 = <c>", "I1"),
        ("I3 = <b 0xff><wait 10>", "I3"),
    ],
)
def test_what_the_carrier_does_not_know_is_unsupported_and_named(line: str, named: str) -> None:
    fault = _refused(INTERFACE + line + "\n" + PEER)
    assert isinstance(fault, Unsupported)
    assert named in fault.reason
    assert fault.line == 4


@pytest.mark.parametrize(
    ("key", "most"),
    [("Jc", 122), ("Jmin", 1280), ("Jmax", 1280), ("S1", 1324), ("S2", 1380), ("S3", 1408), ("S4", 1440)],
)
def test_what_the_carrier_would_break_on_is_unsupported(key: str, most: int) -> None:
    config, _ = parse(INTERFACE + f"{key} = {most}\n" + PEER, "x.conf")
    assert config.amnezia is not None
    assert config.amnezia.values[0] == (key.lower(), str(most))
    fault = _refused(INTERFACE + f"{key} = {most + 1}\n" + PEER)
    assert isinstance(fault, Unsupported)
    assert fault.reason.startswith(f"{key} is above {most}: ")
    assert fault.line == 4


@pytest.mark.parametrize(
    "pattern",
    [
        *("<r 1472>", "<rc 1000><rd 472>", "<t><d><ds><dz 4><r 1464>", f"<b 0x{'00' * 1472}>", f"<b {'0f' * 1472}>"),
        "<r 736> <r 736>",
    ],
)
def test_a_signature_packet_fits_one_datagram(pattern: str) -> None:
    assert parse(INTERFACE + f"I5 = {pattern}\n" + PEER, "x.conf")[0].amnezia is not None
    for more in ("<r 1>", "<b 00>", "<rc 900000000>", "<dz 9999999999>"):
        fault = _refused(INTERFACE + f"I5 = {pattern}{more}\n" + PEER)
        assert isinstance(fault, Unsupported)
        assert fault.reason.startswith("I5 is above 1472 bytes")


@pytest.mark.parametrize("tag", ["<r>", "<r -1>", "<r +1>", "<rc x>", "<dz>", "<b>", "<b 0x>", "<b 0x123>", "<b zz>"])
def test_a_tag_that_the_carrier_would_refuse_is_broken(tag: str) -> None:
    fault = _refused(INTERFACE + f"I1 = {tag}\n" + PEER)
    assert not isinstance(fault, Unsupported)
    assert fault.reason.startswith(f"I1: a <{tag[1:-1].split()[0]}> tag")


def test_keys_of_all_generations_are_read_for_the_carrier_to_judge() -> None:
    text = """
J1 = <b 0xff>
J2 =
Itime = 60
S3 = 5
H4 = 4-9
ContentPaddingAddition = 0-16
RekeyAfterTime = 100 - 120
RekeyTimeout = 5
RejectAfterTime = 0
MaxHandshakeAttempts = 3-5
RandomTrailers = on
DisableCookies = false
"""
    config, findings = parse(INTERFACE + text + PEER, "x.conf")
    assert findings == ()
    assert config.amnezia is not None
    assert config.amnezia.values == (
        *(("s3", "5"), ("h4", "4-9"), ("j1", "<b 0xff>"), ("itime", "60"), ("content_padding_addition", "0-16")),
        *(("rekey_after_time", "100-120"), ("rekey_timeout", "5"), ("max_handshake_attempts", "3-5")),
        ("random_trailers", "true"),
    )
    assert needs(config.amnezia) == (
        *(("S3", "awg2"), ("H4", "awg2"), ("J1", "awg1.5-junk"), ("Itime", "awg1.5-junk")),
        *(("ContentPaddingAddition", "awg3"), ("RekeyAfterTime", "awg3"), ("RekeyTimeout", "awg3")),
        *(("MaxHandshakeAttempts", "awg3"), ("RandomTrailers", "awg3")),
    )


LINES = st.sampled_from(
    [
        *INTERFACE.splitlines(),
        *PEER.splitlines(),
        *(
            f"PresharedKey = {PRESHARED}",
            PRESHARED,
            "DNS = 9.9.9.9, lan",
            "PostUp = x",
            "Jc = 4",
            "H1 = 1-2",
            "I1 = <b 0x0>",
        ),
    ]
)


@given(lines=st.lists(LINES | st.text(max_size=30) | st.tuples(LINES, st.text(max_size=5)).map("".join), max_size=14))
def test_only_a_config_error_leaves_the_parser_and_it_shows_no_secret(lines: list[str]) -> None:
    try:
        _, findings = parse("\n".join(lines), "x.conf")
    except ConfigError as fault:
        findings = (Finding("note", str(fault)),)
    assert not any(secret in finding.text for secret in SECRETS for finding in findings)


@given(text=st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text, "x.conf")
