"""OpenVPN's .ovpn: what is handed on, what is left out, what is refused. Nothing in it ever runs."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan import ovpn, ovpn_words
from vpntest.plan.model import Finding, OpenVpnConfig, Server
from vpntest.plan.ovpn import parse, words
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Refused, Unsupported

WORD = "hush0f1e2d3c4b5a6978"
MATERIAL = f"-----BEGIN X-----\n{WORD}\n-----END X-----\n"
LABELS = {
    "ca": "CERTIFICATE",
    "cert": "CERTIFICATE",
    "key": "PRIVATE KEY",
    "extra-certs": "CERTIFICATE",
    "crl-verify": "X509 CRL",
    "tls-auth": "OpenVPN Static key V1",
    "tls-crypt": "OpenVPN Static key V1",
    "tls-crypt-v2": "OpenVPN tls-crypt-v2 client key",
}


def _pem(label: str) -> str:
    return MATERIAL.replace(" X-", f" {label}-")


def _inline(name: str) -> str:
    return f"<{name}>\n{_pem(LABELS[name])}</{name}>\n"


CA = _inline("ca")
WHO = _inline("cert") + _inline("key")
"""What tells the server who the client is."""
SAFE = "client\nremote-cert-tls server\n"
BASE = SAFE + "dev tun\nremote vpn.example 1194 udp\n" + CA + WHO
NEXT = BASE.count("\n") + 1
"""The line after it."""


def _nothing_to_read(name: str) -> bytes:
    raise AssertionError(f"{name} was read")


def _read(
    text: str, files: dict[str, bytes] | None = None, **login: Secret
) -> tuple[OpenVpnConfig, tuple[Finding, ...]]:
    config, findings = parse(text, "x.ovpn", files.__getitem__ if files else _nothing_to_read, **login)
    assert not any(WORD in said or "\n" in said for said in (repr(config), *(finding.text for finding in findings)))
    return config, findings


def _levels(findings: tuple[Finding, ...]) -> list[tuple[str, int | None]]:
    return [(finding.level, finding.line) for finding in findings]


def _refused(text: str, read_file: ovpn.ReadFile = _nothing_to_read) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.ovpn", read_file)
    said = str(caught.value)
    assert said.startswith("x.ovpn")
    assert "\n" not in said
    assert WORD not in said
    return caught.value


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("  \t", []),
        ("# x", []),
        (" ; x", []),
        ("remote a 1 # x", ["remote", "a", "1"]),
        ("remote a#1", ["remote", "a#1"]),
        ("a\tb  c", ["a", "b", "c"]),
        ('up "/bin/sh -c x"', ["up", "/bin/sh -c x"]),
        (r'a "b \"c\" \\ d"', ["a", r'b "c" \ d']),
        (r"a 'b \"c\ d'", ["a", r"b \"c\ d"]),
        (r"a b\ c", ["a", "b c"]),
        (r"a \#b", ["a"]),
        ('a ""', ["a", ""]),
        ("a '' b", ["a", "", "b"]),
        ('"a"b', ["a", "b"]),
        ("a'b c'", ["a'b", "c'"]),
        ('a "#x"', ["a", "#x"]),
    ],
)
def test_words_as_openvpn_parts_them(line: str, expected: list[str]) -> None:
    assert words(line) == expected


@pytest.mark.parametrize("line", ['a "b', "a 'b", r"a \b", 'a "\\x"', "a b\\", r"\n"])
def test_lines_that_openvpn_refuses(line: str) -> None:
    with pytest.raises(ValueError, match=r"quotation|backslash"):
        words(line)


@given(
    expected=st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs", "Cc"])), min_size=1)
)
def test_quoted_words_come_back(expected: list[str]) -> None:
    quoted = ['"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in expected]
    assert words(" ".join(quoted)) == expected
    plain = [word for word in expected if "'" not in word]
    assert words(" ".join(f"'{word}'" for word in plain)) == plain


# ── what is handed on ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_whole_config() -> None:
    config, findings = _read(
        f"""# made by a provider
client
dev tun
proto tcp
remote a.example
remote b.example 443
remote 198.18.0.1 1195 udp
remote FD00::1 1196 udp6
port 1197
cipher AES-256-GCM
--auth SHA256
verify-x509-name "C=XX, CN=a server" subject
remote-cert-tls server
redirect-gateway def1
dhcp-option DNS 10.8.0.1
dhcp-option WINS 10.8.0.1
verb 9
{CA}
<cert>
{_pem("CERTIFICATE")}</cert>
<key>
{_pem("PRIVATE KEY")}</key>
key-direction 1
<tls-auth>
# a comment is a part of the block
{_pem("OpenVPN Static key V1")}
 </tls-auth>
""".replace("\n", "\r\n")
    )
    assert _levels(findings) == [("warning", 8), ("note", 14), ("note", 16), ("note", 17)]
    assert config.servers == (
        Server("a.example", 1197, "tcp"),
        Server("b.example", 443, "tcp"),
        Server("198.18.0.1", 1195, "udp"),
        Server("fd00::1", 1196, "udp"),
    )
    assert config.directives == (
        ("client",),
        ("cipher", "AES-256-GCM"),
        ("auth", "SHA256"),
        ("verify-x509-name", "C=XX, CN=a server", "subject"),
        ("remote-cert-tls", "server"),
        ("dhcp-option", "DNS", "10.8.0.1"),
        ("key-direction", "1"),
    )
    assert dict(config.inline) == {
        "ca": Secret(_pem("CERTIFICATE")),
        "cert": Secret(_pem("CERTIFICATE")),
        "key": Secret(_pem("PRIVATE KEY")),
        "tls-auth": Secret(_pem("OpenVPN Static key V1")),
    }
    assert (config.username, config.password) == (None, None)


def test_defaults_of_port_and_protocol() -> None:
    config, _ = _read(SAFE + "remote vpn.example\n" + CA + WHO)
    assert config.servers == (Server("vpn.example", 1194, "udp"),)


@pytest.mark.parametrize(
    ("line", "server"),
    [
        ("remote a.example. 443 tcp4-client", Server("a.example", 443, "tcp")),
        ("remote a_b.EXAMPLE 443 TCP", Server("a_b.example", 443, "tcp")),
        ("remote [2001:db8::1] 443 udp", Server("2001:db8::1", 443, "udp")),
        ("'remote'\t\"a.example\" 443 # near", Server("a.example", 443, "udp")),
        ("rport 53\nremote a.example", Server("a.example", 53, "udp")),
        ("remote a.example\nremote a.example", Server("a.example", 1194, "udp")),
    ],
)
def test_a_server_in_the_shapes_of_the_wild(line: str, server: Server) -> None:
    config, findings = _read(SAFE + CA + WHO + line + "\n")
    assert config.servers == (server,)
    assert findings == ()


def test_many_servers() -> None:
    lines = "".join(f"remote s{number}.example {number} tcp\n" for number in range(1, 200))
    config, findings = _read(BASE + lines + "remote-random\n")
    assert [server.port for server in config.servers] == [1194, *range(1, 200)]
    assert _levels(findings) == [("note", NEXT + 199)]


@pytest.mark.parametrize("line", ["proto udp6", "proto tcp6-client", "remote b.example 1194 udp6"])
def test_a_protocol_of_one_family_is_told(line: str) -> None:
    assert _levels(_read(BASE + line + "\n")[1]) == [("warning", NEXT)]


def test_connections() -> None:
    config, findings = _read(
        SAFE + "port 1195\nproto tcp-client\nremote ignored.example\n"
        "<connection>\nremote a.example\nnobind\nlport 0\n</connection>\n"
        "<connection>\n# second\n\nremote b.example 53 udp4\nexplicit-exit-notify 1\n</connection>\n"
        "<connection>\nremote c.example\nproto udp\nport 80\n</connection>\n" + CA + WHO
    )
    assert config.servers == (
        Server("a.example", 1195, "tcp"),
        Server("b.example", 53, "udp"),
        Server("c.example", 80, "udp"),
    )
    assert _levels(findings) == [("note", 5), ("note", 9)]
    assert set(config.directives[2:]) == {("nobind",), ("explicit-exit-notify", "1")}


def test_what_connections_have_in_common_holds_for_all() -> None:
    """Each begins with what the file has said before it."""
    config, _ = _read(
        SAFE + "tun-mtu 1400\nmssfix 1200\n"
        f"<connection>\nremote a.example\nmssfix 1300\nkey-direction 1\n{_inline('tls-auth')}</connection>\n"
        f"<connection>\nremote b.example\nmssfix 1300\ntls-auth [inline] 1\n{_inline('tls-auth')}</connection>\n"
        "mssfix 1000\n" + CA + WHO
    )
    assert set(config.directives[2:]) == {("tun-mtu", "1400"), ("mssfix", "1300"), ("key-direction", "1")}
    assert "tls-auth" in dict(config.inline)


@pytest.mark.parametrize("own", ["tun-mtu 1400\n", "fragment 1300\n", _inline("tls-crypt")])
def test_connections_that_differ_in_more_than_their_servers_are_unsupported(own: str) -> None:
    first = "<connection>\nremote a.example\n</connection>\n"
    second = f"<connection>\nremote b.example\n{own}</connection>\n"
    fault = _refused(BASE + first + second)
    assert isinstance(fault, Unsupported)
    assert fault.line == NEXT + 3
    assert len(_read(BASE + second)[0].servers) == 1


def test_of_two_servers_in_one_connection_the_last_counts() -> None:
    config, findings = _read(SAFE + CA + WHO + "<connection>\nremote a.example\nremote b.example\n</connection>\n")
    assert config.servers == (Server("b.example", 1194, "udp"),)
    assert [finding.level for finding in findings] == ["warning"]


def test_a_forced_protocol_leaves_its_servers() -> None:
    config, _ = _read(SAFE + "remote a.example 1 udp\nremote b.example 2 tcp\nproto-force tcp\n" + CA + WHO)
    assert config.servers == (Server("b.example", 2, "tcp"),)


def test_files_are_read_into_the_config() -> None:
    files = {f"a {name}": _pem(label).encode() for name, label in LABELS.items()}
    lines = "".join(f"{name} 'a {name}'\n" for name in LABELS).replace("'a tls-auth'", "'a tls-auth' 1")
    config, findings = _read(SAFE + "remote a.example\n" + lines, files)
    assert findings == ()
    assert dict(config.inline) == {name: Secret(_pem(label)) for name, label in LABELS.items()}
    assert config.directives == (("client",), ("remote-cert-tls", "server"), ("key-direction", "1"))


@pytest.mark.parametrize("label", ["RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY"])
def test_of_a_file_only_the_blocks_asked_for_are_taken(label: str) -> None:
    """Certificates come with their own text in any encoding, and several to a file."""
    certificate = _pem("CERTIFICATE")
    file = f"password = x\r\n{certificate}\r\n{_pem(label)}Sujet: r\xe9seau\n{certificate}more".encode("latin-1")
    config, _ = _read("client\nremote a.example\nca x\ncert x\nkey x\n", {"x": file})
    taken = {"ca": certificate * 2, "cert": certificate * 2, "key": _pem(label)}
    assert dict(config.inline) == {name: Secret(text) for name, text in taken.items()}


DIRTY = {
    "blank lines": "\n\n{}\n\n",
    "a comment before": "# of 2019\n; to 2029\n{}",
    "what openssl x509 -text says": "Certificate:\n    Data:\n        Issuer: O=Soci\xe9t\xe9 \x85\x0c\n{}",
    "bag attributes": "Bag Attributes\n    localKeyID: 01 00\nKey Attributes: <No Attributes>\n{}",
    "indented": "    {}",
    "blanks at the ends": "{}",
    "line ends of two kinds": "{}\r\n",
    "text after": "{}\ntrailing words and\ttabs",
    "another block before": "-----BEGIN DH PARAMETERS-----\nx\n-----END DH PARAMETERS-----\n{}",
}


@pytest.mark.parametrize("shape", DIRTY, ids=DIRTY.keys())
@pytest.mark.parametrize("name", LABELS)
def test_of_a_dirty_block_what_it_is_for_is_taken(name: str, shape: str) -> None:
    pem = _pem(LABELS[name])
    inside = DIRTY[shape].format(
        {"indented": pem.replace("\n", "\n    "), "blanks at the ends": pem.replace("\n", " \t\n")}.get(shape, pem)
    )
    text = BASE.replace(_inline(name), "") + f"<{name}>\n{inside}\n</{name}>\n"
    assert dict(_read(text)[0].inline)[name] == Secret(pem)


def test_several_certificates_stay_together() -> None:
    text = BASE.replace(CA, f"<ca>\n{_pem('CERTIFICATE')}root:\n{_pem('X509 CERTIFICATE')}</ca>\n")
    assert dict(_read(text)[0].inline)["ca"] == Secret(_pem("CERTIFICATE") + _pem("X509 CERTIFICATE"))


@pytest.mark.parametrize("name", ["peer-fingerprint", "verify-hash"])
def test_fingerprints_in_a_block(name: str) -> None:
    config, _ = _read(BASE + f"<{name}>\n  ab:cd\nef:01\n</{name}>\n")
    assert dict(config.inline)[name] == Secret("ab:cd\nef:01\n")


@pytest.mark.parametrize(
    "before", ["\ufeff", "\ufeff\r\n\r\n", "\t \n", "# Soci\xe9t\xe9 \x80\x85 \u2028\n", "#" * 9000 + "\n", "; \x0c\n"]
)
def test_comments_may_hold_anything(before: str) -> None:
    assert _read(before + BASE)[0] == _read(BASE)[0]


NEIGHBOURS = {
    "wg-quick": f"[Interface]\nPrivateKey = {WORD}\n[Peer]\n",
    "a plan": f'[[tunnel]]\nname = "x"\npassword = "{WORD}"\n',
    "a login": f"user\n{WORD}\n",
    "another block": MATERIAL,
    "half a block": f"-----BEGIN CERTIFICATE-----\n{WORD}\n",
    "many halves": "-----BEGIN CERTIFICATE-----\n" * 9000,
    "blanks": " " * 200_000 + "x",
    "no text": "\x00\x01",
}


@pytest.mark.parametrize("content", NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
@pytest.mark.parametrize("directive", [*LABELS, "pkcs12"])
def test_a_file_that_is_not_what_the_directive_says_is_not_taken(directive: str, content: str) -> None:
    fault = _refused(f"client\nremote a.example\n{directive} x\n", lambda name: content.encode())
    assert f"the file of `{directive}`" in str(fault)
    assert fault.line == 3
    if directive != "pkcs12":
        fault = _refused(f"client\nremote a.example\n<{directive}>\n{content}\n</{directive}>\n")
        assert f"<{directive}>" in str(fault) or "control" in str(fault)


def test_a_pkcs12_file_is_binary_and_its_block_is_base64() -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

    key = ed25519.Ed25519PrivateKey.generate()
    store = pkcs12.serialize_key_and_certificates(b"x", key, None, None, NoEncryption())
    config, _ = _read(SAFE + "remote a.example\npkcs12 x.p12\n", {"x.p12": store})
    kept = dict(config.inline)["pkcs12"].reveal()
    assert base64.b64decode(kept) == store
    assert _read(SAFE + f"remote a.example\n<pkcs12>\n{kept}</pkcs12>\n")[0].inline == (("pkcs12", Secret(kept)),)


def test_inline_in_place_of_a_file() -> None:
    config, _ = _read(SAFE + "remote a.example\nca [inline]\ntls-auth [inline] 1\n" + CA + WHO + _inline("tls-auth"))
    assert [name for name, _ in config.inline] == ["ca", "cert", "key", "tls-auth"]
    assert ("key-direction", "1") in config.directives


@pytest.mark.parametrize(
    "text",
    [
        BASE + f"<auth-user-pass>\nuser\n{WORD}\n</auth-user-pass>\n",
        BASE + f"auth-user-pass login.txt\n<auth-user-pass>\nuser\n{WORD}\n</auth-user-pass>\n",
        "auth-user-pass [inline]\n" + BASE + f"<auth-user-pass>\nuser\n{WORD}\n</auth-user-pass>\n",
    ],
)
def test_user_and_password(text: str) -> None:
    config, _ = _read(text.replace("\n", "\r\n"))
    assert (config.username, config.password) == (Secret("user"), Secret(WORD))
    assert config.directives.count(("auth-user-pass",)) == 1


@pytest.mark.parametrize(
    "own", ["auth-user-pass", "auth-user-pass gone.txt", "<auth-user-pass>\na\nb\n</auth-user-pass>"]
)
def test_the_plans_login_wins(own: str) -> None:
    config, _ = _read(BASE + own + "\n", username=Secret("user"), password=Secret(WORD))
    assert (config.username, config.password) == (Secret("user"), Secret(WORD))


@pytest.mark.parametrize(
    "line",
    [
        "auth-user-pass mine.conf",
        "setenv opt auth-user-pass mine.conf",
        "auth-user-pass",
        "auth-user-pass\nauth-user-pass mine.conf",
        f"<auth-user-pass>\n{WORD}\n</auth-user-pass>",
        f"<auth-user-pass>\n{WORD}\n\n</auth-user-pass>",
    ],
)
def test_a_file_with_a_login_is_never_read_and_nobody_is_asked(line: str) -> None:
    """A wg-quick file of a neighbour is two lines too: `[Interface]`, and its private key."""
    config, (finding,) = _read(BASE + line + "\n")
    assert config.asks_login
    assert (config.username, config.password) == (None, None)
    assert finding.level == "warning"
    assert finding.line is not None
    assert finding.line >= NEXT
    assert "`username` and `password` in the plan's [[tunnel]]" in finding.text
    assert not _read(BASE + line + "\n", username=Secret("user"), password=Secret(WORD))[0].asks_login
    assert not _read(BASE)[0].asks_login


def test_a_login_is_enough_for_a_client() -> None:
    login = f"<auth-user-pass>\nuser\n{WORD}\n</auth-user-pass>\n"
    assert _read(BASE.replace(WHO, login))[0].username == Secret("user")


def test_this_machines_address_is_not_told() -> None:
    config, (finding,) = _read(BASE + "push-peer-info\n")
    assert config == _read(BASE)[0]
    assert (finding.level, finding.line) == ("warning", NEXT)
    assert "hardware address" in finding.text


def test_a_login_that_nobody_asks_for_is_not_sent() -> None:
    config, (finding,) = _read(BASE, username=Secret("user"), password=Secret(WORD))
    assert (config.username, config.password) == (None, None)
    assert finding.level == "warning"
    assert "auth-user-pass" in finding.text


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("#OVPN_ACCESS_SERVER_FRIENDLY_NAME=a@b.example [x]", "a@b.example [x]"),
        ("# OVPN_ACCESS_SERVER_FRIENDLY_NAME=Лион", "Лион"),
        ('setenv FRIENDLY_NAME "a b"', "a b"),
        ("setenv FRIENDLY_NAME \x1b[2Jx", "\ufffd[2Jx"),
        ("# no name", ""),
    ],
)
def test_what_a_config_calls_itself(line: str, name: str) -> None:
    assert ovpn.label(BASE + line + "\r\nverb 3\n") == name


# ── what is left out ─────────────────────────────────────────────────────────────────────────────────────────────────


DANGER = """
up /bin/evil
down "/bin/evil x"
route-up /bin/evil
route-pre-down /bin/evil
ipchange /bin/evil
tls-verify /bin/evil
iproute /bin/evil
dns-updown /bin/evil
auth-user-pass-verify /bin/evil via-env
client-connect /bin/evil
learn-address /bin/evil
plugin /lib/evil.so x
log /etc/evil
log-append /etc/evil
status /etc/evil 10
writepid /etc/evil
replay-persist /etc/evil
tls-export-cert /etc/evil
tmp-dir /etc/evil
setenv LD_PRELOAD /lib/evil.so
setenv PATH /evil
user root
group evil
chroot /evil
cd /evil
setcon evil
mktun
management 0.0.0.0 7505
management-client
""".split("\n")[1:-1]
HARMLESS = """
user nobody
group nogroup
daemon evil
syslog evil
nice -20
mlock
remap-usr1 SIGTERM
route 10.0.0.0 255.255.255.0
route-delay 2
mark 7
lladdr 00:00:00:00:00:01
remote-random
script-security 3
verb 11
mute 20
redirect-gateway def1 ipv6
block-outside-dns
register-dns
ip-win32 dynamic
route-method exe
dhcp-option PROXY_HTTP 192.0.2.1 80
disable-dco
max-routes 500
tun-ipv6
key-method 2
auth-retry interact
lport 0
dh none
push "route 10.0.0.0 255.0.0.0"
http-proxy-retry
setenv CLIENT_CERT 0
setenv FRIENDLY_NAME "a b"
setenv UV_ID evil
setenv-safe X /evil
setenv opt no-such-thing x
setenv opt ncp-disable
setenv opt tls-version-min 9
""".split("\n")[1:-1]
DOUBTFUL = ["remote-random-hostname", "shaper 5000", "push-peer-info", "setenv opt scramble obfuscate evil"]
LEFT_OUT = {**dict.fromkeys(DANGER, "danger"), **dict.fromkeys(HARMLESS, "note"), **dict.fromkeys(DOUBTFUL, "warning")}
LEFT_OUT["setenv opt tls-version-min 9"] = "warning"


@pytest.mark.parametrize(("line", "level"), LEFT_OUT.items(), ids=LEFT_OUT.keys())
def test_what_is_left_out_is_told_with_its_line_and_its_weight(line: str, level: str) -> None:
    plain, _ = _read(BASE)
    config, (finding,) = _read(BASE + line + "\n")
    assert config == plain
    assert (finding.level, finding.line) == (level, NEXT)
    assert "evil" not in finding.text


WEAK = {
    "cipher BF-CBC": "old",
    "cipher des-cbc": "old",
    "no-replay": "replayed",
}


@pytest.mark.parametrize(("line", "said"), WEAK.items(), ids=WEAK.keys())
def test_what_is_weak_is_handed_on_and_told(line: str, said: str) -> None:
    config, (finding,) = _read(BASE + line + "\n")
    assert config.directives[-1] == tuple(line.split())
    assert (finding.level, finding.line) == ("warning", NEXT)
    assert said in finding.text


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("cipher none", "cipher"),
        ("data-ciphers AES-256-GCM:none", "data-ciphers"),
        ("data-ciphers AES-256-GCM:?NONE", "data-ciphers"),
        ("ncp-ciphers none", "ncp-ciphers"),
        ("data-ciphers-fallback none", "data-ciphers-fallback"),
        ("cipher AES-256-CBC\nauth none", "auth"),
        ("data-ciphers AES-256-GCM:AES-256-CBC\nauth NONE", "auth"),
        ("compat-mode 2.4.0\nauth none", "auth"),
    ],
)
def test_a_tunnel_that_may_not_be_encrypted_is_a_danger(lines: str, named: str) -> None:
    config, findings = _read(BASE + lines + "\n")
    assert config.directives[-1] == tuple(lines.rpartition("\n")[2].split())
    (danger,) = [finding for finding in findings if finding.level == "danger"]
    assert danger.text.startswith(f"`{named}` ")
    assert danger.line == NEXT + lines.count("\n")


@pytest.mark.parametrize(
    "lines", ["auth none", "cipher AES-128-GCM\nauth none", "data-ciphers CHACHA20-POLY1305\nauth none"]
)
def test_a_cipher_that_protects_by_itself_needs_no_digest(lines: str) -> None:
    assert _read(BASE + lines + "\n")[1] == ()


@pytest.mark.parametrize("line", ["remote-cert-tls server", "verify-x509-name x name", "ns-cert-type server"])
def test_a_server_that_any_client_can_pose_as_is_told(line: str) -> None:
    bare = BASE.replace("remote-cert-tls server\n", "")
    (finding,) = _read(bare)[1]
    assert (finding.level, finding.line) == ("warning", None)
    assert _read(bare + line + "\n")[1] == ()


@pytest.mark.parametrize(
    "lines", ["keysize 256\ncipher AES-256-CBC", "cipher camellia-128-cbc\nkeysize 128", "keysize 128"]
)
def test_the_length_that_a_key_has_anyway_may_be_said(lines: str) -> None:
    _, (finding,) = _read(BASE + lines + "\n")
    assert finding.level == "note"
    assert "keysize" in finding.text
    other = lines.replace("256\n", "128\n").replace("keysize 128", "keysize 192")
    assert isinstance(_refused(BASE + other + "\n"), Unsupported)


@pytest.mark.parametrize("block", ["<up>\n/bin/evil\n</up>\n", "<plugin>\n/lib/evil.so\n</plugin>\n"])
def test_a_hook_in_a_block_is_left_out_too(block: str) -> None:
    config, findings = _read(BASE + block)
    assert config == _read(BASE)[0]
    assert _levels(findings) == [("danger", NEXT)]


@pytest.mark.parametrize("line", ["setenv opt up /bin/evil", "setenv opt setenv opt plugin /lib/evil.so"])
def test_the_optional_form_is_no_way_around(line: str) -> None:
    config, findings = _read(BASE + line + "\n")
    assert config == _read(BASE)[0]
    assert _levels(findings) == [("danger", NEXT)]


def test_the_optional_form_of_what_openvpn_may_not_know() -> None:
    assert _read(BASE + "setenv opt data-ciphers AES-256-GCM\n")[0].directives[-1] == ("data-ciphers", "AES-256-GCM")
    assert _read(BASE + "setenv opt\n") == _read(BASE)


@pytest.mark.parametrize("first", ["ignore-unknown-option new-thing other", "setenv FORWARD_COMPATIBLE 1"])
@pytest.mark.parametrize("then", [f"new-thing {WORD}\n", f"<new-thing>\n{WORD}\n</new-thing>\n"])
def test_an_unknown_directive_may_be_declared_so(first: str, then: str) -> None:
    config, findings = _read(first + "\n" + BASE + then)
    assert config == _read(BASE)[0]
    assert findings[-1].level == "note"
    assert findings[-1].line == NEXT + 1


def test_declaring_a_known_one_unknown_changes_nothing() -> None:
    config, findings = _read("ignore-unknown-option up cipher\n" + BASE + "up /bin/evil\ncipher AES-128-GCM\n")
    assert config.directives[-1] == ("cipher", "AES-128-GCM")
    assert _levels(findings) == [("danger", NEXT + 1)]


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


UNSUPPORTED = [
    *("http-proxy 198.18.0.1 3128", "http-proxy-option AGENT x", "socks-proxy 198.18.0.1", "secret static.key"),
    *(
        "dev tap",
        "dev tap0",
        "dev-type tap",
        "dev null",
        "scramble obfuscate x",
        "static-challenge x 1",
        "askpass",
        "auth-federate",
    ),
    *(
        "pkcs11-id x",
        "capath /etc/ssl",
        "config other.ovpn",
        "auth-token x",
        "cryptoapicert SUBJ:x",
        "proto tcp-server",
    ),
    *("server 10.8.0.0 255.255.255.0", "mode server", "tls-server", "crl-verify /etc/x dir", "client-to-client"),
    *("ncp-disable", "keysize 192", "no-iv", "key-method 1", "tls-remote x", "mtu-dynamic", "genkey secret /etc/x"),
    *(
        "data-ciphers AES-256-GCM:BF-CBC",
        "ncp-ciphers DES-CBC",
        "data-ciphers DEFAULT",
        "show-tls",
        "compat-mode 2.3.18",
    ),
    *("<connection>\nremote a.example\nhttp-proxy 198.18.0.1 3128\n</connection>", "<secret>\nx\n</secret>"),
    f"<cert>\n{_pem('CERTIFICATE')}</cert>\n<key>\n{_pem('ENCRYPTED PRIVATE KEY')}</key>",
    _inline("key").replace(WORD, f"Proc-Type: 4,ENCRYPTED\n\n{WORD}"),
]


@pytest.mark.parametrize("lines", UNSUPPORTED)
def test_what_would_be_another_protocol_is_unsupported(lines: str) -> None:
    fault = _refused(BASE + lines + "\n")
    assert isinstance(fault, Unsupported)
    assert fault.line is not None
    assert fault.line >= NEXT


@pytest.mark.parametrize(
    "line",
    [
        "providers /lib/evil.so",
        "providers legacy /lib/evil.so",
        "providers",
        "pkcs11-providers /lib/evil.so",
        "engine dynamic",
        "setenv opt providers /lib/evil.so",
        "ignore-unknown-option engine\nengine evil",
    ],
)
def test_what_loads_code_is_refused(line: str) -> None:
    fault = _refused(BASE + line + "\n")
    assert isinstance(fault, Refused)
    assert fault.line is not None
    assert "evil" not in str(fault)


@pytest.mark.parametrize("line", ["providers legacy default", "providers legacy"])
def test_openssls_own_providers_are_handed_on(line: str) -> None:
    config, findings = _read(BASE + line + "\ndata-ciphers BF-CBC\n")
    assert config.directives[-2] == tuple(line.split())
    assert findings == ()


BROKEN = {
    "nothing": ("# x\n", None, "neither `client` nor"),
    "no client": ("remote a.example\n" + CA, None, "neither `client` nor"),
    "no remote": ("client\n" + CA, None, "no `remote`"),
    "no authority": ("client\nremote a.example\n", None, "impostor"),
    "unknown directive": (BASE + "cypher AES-256-GCM\n", NEXT, "did you mean `cipher`?"),
    "a password on a line of its own": (BASE + WORD + "\n", NEXT, "unknown directive"),
    "an unknown block": (BASE + "<new>\nx\n</new>\n", NEXT, "inline block"),
    "a block that is not closed": (BASE + f"<key>\n{WORD}\n", NEXT, "never closed"),
    "a quotation that is not closed": (BASE + f'auth-user-pass "{WORD}\n', NEXT, "quotation"),
    "a backslash": (BASE + "log C:\\x\n", NEXT, "backslash"),
    "a long line": (BASE + "cipher " + "x" * 250 + "\n", NEXT, "longer"),
    "port 70000": ("client\nremote a.example 70000\n" + CA, 2, "port"),
    "port 0": ("client\nport 0\nremote a.example\n" + CA, 2, "port"),
    "no port": ("client\nport\nremote a.example\n" + CA, 2, "argument"),
    "host": ("client\nremote 'a b'\n" + CA, 2, "host"),
    "protocol": ("client\nremote a.example 1 sctp\n" + CA, 2, "protocol"),
    "forced to nothing": (BASE + "proto-force tcp\n", None, "proto-force"),
    "an empty block": (BASE + "<cert>\n\n</cert>\n", NEXT, "empty"),
    "no block for [inline]": (BASE + "tls-crypt [inline]\n", NEXT, "without its <tls-crypt>"),
    "no file's name": (BASE + "cert\n", NEXT, "without its file"),
    "unknown in a connection": (BASE + "<connection>\nremote a\nnew\n</connection>\n", NEXT + 2, "unknown directive"),
    "connection is no directive": (BASE + "connection x\n", NEXT, "<connection>"),
    "NUL": (BASE + "cipher A\x00\n", NEXT, "control"),
    "many words": (BASE + "cipher" + " x" * 20 + "\n", NEXT, "more words"),
    "few words": (BASE + "keepalive 10\n", NEXT, "less words"),
    "a value of none": (BASE + "remote-cert-tls Server\n", NEXT, "client, server"),
    "a name of no kind": (BASE + "verify-x509-name x common\n", NEXT, "name-prefix"),
    "a version of none": (BASE + "compat-mode new\n", NEXT, "names no version"),
    "a direction of none": (BASE + "tls-auth [inline] 2\n", NEXT, "neither 0 nor 1"),
    "capitals": (BASE + "CIPHER AES-256-GCM\n", NEXT, "unknown directive"),
    "dashes": (BASE + "-- cipher AES-256-GCM\n", NEXT, "unknown directive"),
    "nobody": (BASE.replace(WHO, ""), None, "who we are"),
    "nobody with half a certificate": (BASE.replace(_inline("cert"), ""), None, "certificate without its key"),
    "no certificate in the block": (BASE + "<extra-certs>\nx\n</extra-certs>\n", NEXT, "nothing of the kind"),
    "an escape in a key": (BASE + _inline("tls-crypt").replace(WORD, "\x1b[2J"), NEXT, "no key file"),
    "the last block is not closed": (BASE.removesuffix("</key>\n"), NEXT - 5, "never closed"),
    "two limits": (BASE + "tun-mtu 1400\nlink-mtu 1500\n", NEXT + 1, "together"),
    "fragments over TCP": (BASE + "fragment 1300\nremote b.example 443 tcp\n", NEXT, "UDP only"),
    "a pattern": (BASE + "setenv GENERIC_CONFIG 1\n", NEXT, "pattern"),
    "connection without a server": (BASE + "<connection>\nnobind\n</connection>\n", NEXT, "without its `remote`"),
    "not of a connection": (BASE + "<connection>\nremote a\nup x\n</connection>\n", NEXT + 2, "not stand inside"),
    "a block not of a connection": (
        BASE + f"<connection>\nremote a\n{CA}</connection>\n",
        NEXT + 2,
        "not stand inside",
    ),
    "NUL in a comment": (BASE + "# \x00\n", NEXT, "control"),
    "an escape in a directive": (BASE + "cipher \x1b[2J\n", NEXT, "control"),
}


@pytest.mark.parametrize(("text", "line", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_config_is_one_clear_line(text: str, line: int | None, reason: str) -> None:
    fault = _refused(text)
    assert not isinstance(fault, Unsupported | Refused)
    assert reason in str(fault)
    assert fault.line == line


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory", WORD), "no such file"),
        (PermissionError(13, "Permission denied", WORD), "permission denied"),
        (ValueError("it lies outside the config's own folder"), "outside"),
    ],
)
@pytest.mark.parametrize("directive", ["ca", "pkcs12"])
def test_a_file_that_cannot_be_read_names_the_directive_and_not_the_path(
    directive: str, fault: Exception, reason: str
) -> None:
    def read_file(name: str) -> bytes:
        assert name in ("../" + WORD, WORD)
        raise fault

    said = str(_refused(BASE + f"{directive} ../{WORD}\n", read_file))
    assert f"`{directive}`" in said
    assert reason in said


@pytest.mark.parametrize("path", ["/etc/openvpn/ca.crt", "../ca.crt", '"C:\\\\Program Files\\\\ca.crt"', "gone/ca.crt"])
def test_a_file_of_a_pack_is_found_beside_its_config(path: str) -> None:
    """Only the file of that very name, and only of the kind asked for."""

    def read_file(name: str) -> bytes:
        if name != "ca.crt":
            raise ValueError("it lies outside the config's own folder") if name[0] != "g" else FileNotFoundError()
        return _pem("CERTIFICATE").encode()

    config, findings = parse(SAFE + f"remote a.example\nca {path}\n" + WHO, "x.ovpn", read_file)
    assert dict(config.inline)["ca"] == Secret(_pem("CERTIFICATE"))
    assert _levels(findings) == [("warning", 4)]
    assert "nothing of the kind" in str(_refused(f"client\nremote a.example\nkey {path}\n", read_file))


def test_a_block_takes_the_place_of_a_file_that_is_not_there() -> None:
    """As packs have it, whose files were put into the config later. What comes last counts, as in OpenVPN."""

    def read_file(name: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", name)

    config, findings = parse("ca ca.crt\n" + BASE, "x.ovpn", read_file)
    assert config == _read(BASE)[0]
    assert _levels(findings) == [("note", 6)]
    assert "`ca` cannot be read" in str(_refused(BASE + "ca ca.crt\n", read_file))
    inside = BASE + "<connection>\nremote a.example\ntls-auth ta.key\n</connection>\n"
    assert "`tls-auth` cannot be read" in str(_refused(inside, read_file))


def test_a_problem_does_not_hide_what_was_found_before_it() -> None:
    fault = _refused(BASE + "up /bin/true\nsecret x\n")
    assert _levels(fault.findings) == [("danger", NEXT)]


def test_a_file_cannot_end_its_block_and_go_on_with_directives() -> None:
    evil = _pem("CERTIFICATE").replace(WORD, f"{WORD}\n</ca>\nplugin /lib/evil.so").encode()
    assert "no key file" in str(_refused("client\nremote a.example\nca ca.crt\n", lambda name: evil))


# ── anything ─────────────────────────────────────────────────────────────────────────────────────────────────────────


MAY_LEAVE = ovpn_words.HANDED_ON.keys() | {"dhcp-option", "auth-user-pass", "providers"}
LINES = st.sampled_from(
    [
        *(*BASE.splitlines(), *LEFT_OUT, *UNSUPPORTED, "auth-user-pass", "<auth-user-pass>", "<connection>"),
        *("</connection>", "setenv opt " * 9 + "up", "setenv FORWARD_COMPATIBLE 1", "config x.ovpn", "ca x", "<ca>"),
    ]
)


@given(
    lines=st.lists(LINES | st.text(max_size=20) | st.tuples(LINES, st.text(max_size=5)).map("".join), max_size=12),
    file=st.binary(max_size=20) | st.sampled_from([_pem(label).encode() for label in LABELS.values()]),
)
def test_only_a_config_error_leaves_the_parser_and_nothing_dangerous_does(lines: list[str], file: bytes) -> None:
    try:
        config, findings = parse(BASE + "\n".join(lines), "x.ovpn", lambda name: file)
        said = tuple(finding.text for finding in findings)
    except ConfigError as fault:
        config, said = None, (str(fault),)
    assert not any(WORD in text or "\n" in text for text in said)
    if config is None:
        return
    for name, *arguments in config.directives:
        assert name in MAY_LEAVE
        assert name != "providers" or ovpn_words.OWN_PROVIDERS.issuperset(arguments)
    assert not any(part.lstrip().startswith("</") for _, block in config.inline for part in block.reveal().splitlines())


@given(text=st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text, "x.ovpn", _nothing_to_read)


HOSTILE = {
    "a line of a megabyte": "cipher " + "x" * (1 << 20),
    "a word of quotes": "cipher " + "'" * (1 << 20),
    "backslashes": "\\" * (1 << 20),
    "many blocks": "<ca>\n" * 100_000,
    "many begins": "<ca>\n" + "-----BEGIN CERTIFICATE-----\n" * 30_000 + "</ca>",
    "a block of blanks": "<ca>\n-----BEGIN CERTIFICATE-----\n" + " \t" * 500_000 + "\n</ca>",
    "a block of empty lines": "<ca>\n-----BEGIN CERTIFICATE-----\n" + "\n" * 500_000 + "</ca>",
    "connections in connections": "<connection>\n" * 50_000 + "</connection>\n" * 50_000,
    "options of options": "setenv opt " * 5_000,
    "an unknown word": "x" * 250,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_made_to_hang_the_reader_does_not(text: str) -> None:
    _refused(BASE + text + "\n")


def test_the_number_of_connections_and_of_files_that_are_read_is_bounded() -> None:
    block = "<connection>\nremote a.example\n</connection>\n"
    assert len(_read(BASE + block)[0].servers) == 1
    with pytest.raises(ConfigError, match="more than 64 <connection> blocks"):
        _read(BASE + block * 65)
    opened: list[str] = []

    def read_file(name: str) -> bytes:
        opened.append(name)
        return CA.encode()

    with pytest.raises(ConfigError, match="more than 64 directives that name a file"):
        parse(BASE + "ca k\n" * 500, "x.ovpn", read_file)
    assert len(opened) <= ovpn.MAX_MATERIALS
