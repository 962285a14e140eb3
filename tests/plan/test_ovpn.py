"""OpenVPN's .ovpn: what is handed on, what is left out, what is refused. Nothing in it ever runs."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan import ovpn
from vpntest.plan.model import OpenVpnConfig, Server
from vpntest.plan.ovpn import parse, words
from vpntest.plan.secret import Secret
from vpntest.plan.syntax import Unsupported

WORD = "hush0f1e2d3c4b5a6978"
MATERIAL = f"-----BEGIN X-----\n{WORD}\n-----END X-----\n"
CA = f"<ca>\n{MATERIAL}</ca>\n"
BASE = "client\ndev tun\nremote vpn.example 1194 udp\n" + CA


def _nothing_to_read(name: str) -> bytes:
    raise AssertionError(f"{name} was read")


def _read(text: str, files: dict[str, bytes] | None = None, **login: Secret) -> tuple[OpenVpnConfig, tuple[str, ...]]:
    config, warnings = parse(text, "x.ovpn", files.__getitem__ if files else _nothing_to_read, **login)
    assert not any(WORD in said for said in (repr(config), *warnings))
    return config, warnings


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
    config, warnings = _read(
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
{MATERIAL}</cert>
<key>
{MATERIAL}</key>
key-direction 1
<tls-auth>
# a comment is a part of the block
{MATERIAL}
 </tls-auth>
""".replace("\n", "\r\n")
    )
    assert warnings == ()
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
    assert [name for name, _ in config.inline] == ["ca", "cert", "key", "tls-auth"]
    assert dict(config.inline)["ca"].reveal().split() == MATERIAL.split()
    assert (config.username, config.password) == (None, None)


def test_defaults_of_port_and_protocol() -> None:
    config, _ = _read("client\nremote vpn.example\n" + CA)
    assert config.servers == (Server("vpn.example", 1194, "udp"),)


def test_connections() -> None:
    config, warnings = _read(
        "client\nport 1195\nproto tcp-client\nremote ignored.example\n"
        "<connection>\nremote a.example\nnobind\n</connection>\n"
        "<connection>\n# second\nremote b.example 53 udp4\n</connection>\n"
        "<connection>\nremote c.example\nproto udp\nport 80\n</connection>\n" + CA
    )
    assert config.servers == (
        Server("a.example", 1195, "tcp"),
        Server("b.example", 53, "udp"),
        Server("c.example", 80, "udp"),
    )
    assert [warning.split(":")[1] for warning in warnings] == ["7", "4"]


def test_a_forced_protocol_leaves_its_servers() -> None:
    config, _ = _read("client\nremote a.example 1 udp\nremote b.example 2 tcp\nproto-force tcp\n" + CA)
    assert config.servers == (Server("b.example", 2, "tcp"),)


def _pem(label: str) -> str:
    return MATERIAL.replace(" X-", f" {label}-")


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


def test_files_are_read_into_the_config() -> None:
    files = {f"a {name}": _pem(label).encode() for name, label in LABELS.items()}
    lines = "".join(f"{name} 'a {name}'\n" for name in LABELS).replace("'a tls-auth'", "'a tls-auth' 1")
    config, warnings = _read("client\nremote a.example\n" + lines, files)
    assert warnings == ()
    assert dict(config.inline) == {name: Secret(_pem(label)) for name, label in LABELS.items()}
    assert config.directives == (("client",), ("key-direction", "1"))


@pytest.mark.parametrize("label", ["RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY"])
def test_of_a_file_only_the_blocks_asked_for_are_taken(label: str) -> None:
    """Certificates come with their own text in any encoding, and several to a file."""
    certificate = _pem("CERTIFICATE")
    file = f"password = x\r\n{certificate}\r\n{_pem(label)}Sujet: r\xe9seau\n{certificate}more".encode("latin-1")
    config, _ = _read("client\nremote a.example\nca x\ncert x\nkey x\n", {"x": file})
    taken = {"ca": certificate * 2, "cert": certificate * 2, "key": _pem(label)}
    assert dict(config.inline) == {name: Secret(text) for name, text in taken.items()}


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


def test_a_pkcs12_file_is_binary_and_its_block_is_base64() -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

    key = ed25519.Ed25519PrivateKey.generate()
    store = pkcs12.serialize_key_and_certificates(b"x", key, None, None, NoEncryption())
    config, _ = _read("client\nremote a.example\npkcs12 x.p12\n", {"x.p12": store})
    assert base64.b64decode(dict(config.inline)["pkcs12"].reveal()) == store


def test_inline_in_place_of_a_file() -> None:
    config, _ = _read(
        "client\nremote a.example\nca [inline]\ntls-auth [inline] 1\n" + CA + CA.replace("ca>", "tls-auth>")
    )
    assert [name for name, _ in config.inline] == ["ca", "tls-auth"]
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


@pytest.mark.parametrize("line", ["auth-user-pass mine.conf", "setenv opt auth-user-pass mine.conf"])
def test_a_file_with_a_login_is_never_read(line: str) -> None:
    """A wg-quick file of a neighbour is two lines too: `[Interface]`, and its private key."""
    fault = _refused(BASE + line + "\n")
    assert isinstance(fault, Unsupported)
    assert fault.line == 9
    assert "`username` and `password` in the plan's [[tunnel]]" in str(fault)


def test_this_machines_address_is_not_told() -> None:
    config, warnings = _read(BASE + "push-peer-info\n")
    assert config == _read(BASE)[0]
    (warning,) = warnings
    assert "x.ovpn:9: `push-peer-info` is ignored" in warning
    assert "hardware address" in warning


def test_a_login_that_nobody_asks_for_is_not_sent() -> None:
    config, warnings = _read(BASE, username=Secret("user"), password=Secret(WORD))
    assert (config.username, config.password) == (None, None)
    assert "auth-user-pass" in warnings[0]


# ── what is left out ─────────────────────────────────────────────────────────────────────────────────────────────────


HOST = """
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
setenv-safe X /evil
user evil
group evil
chroot /evil
cd /evil
daemon evil
syslog evil
nice -20
management 0.0.0.0 7505
management-client
remap-usr1 SIGTERM
route 10.0.0.0 255.0.0.0
mark 7
lladdr 00:00:00:00:00:01
remote-random
""".split("\n")[1:-1]


@pytest.mark.parametrize("line", HOST)
def test_what_acts_on_the_host_is_left_out_with_a_warning_that_names_its_line(line: str) -> None:
    plain, _ = _read(BASE)
    config, warnings = _read(BASE + line + "\n")
    assert config == plain
    (warning,) = warnings
    assert warning.startswith(f"x.ovpn:{BASE.count(chr(10)) + 1}: `{line.split()[0]}` ")
    assert "evil" not in warning


@pytest.mark.parametrize(
    "line", ["script-security 3", "verb 11", "redirect-gateway def1 ipv6", "block-outside-dns", "disable-dco"]
)
def test_what_is_so_anyway_needs_no_warning(line: str) -> None:
    assert _read(BASE + line + "\n") == _read(BASE)


def test_a_hook_in_a_block_is_left_out_too() -> None:
    config, warnings = _read(BASE + "<up>\n/bin/evil\n</up>\n")
    assert config == _read(BASE)[0]
    assert len(warnings) == 1


@pytest.mark.parametrize("line", ["setenv opt up /bin/evil", "setenv opt setenv opt plugin /lib/evil.so"])
def test_the_optional_form_is_no_way_around(line: str) -> None:
    config, warnings = _read(BASE + line + "\n")
    assert config == _read(BASE)[0]
    assert "ignored" in warnings[0]


def test_the_optional_form_of_what_openvpn_may_not_know() -> None:
    assert _read(BASE + "setenv opt data-ciphers AES-256-GCM\n")[0].directives[-1] == ("data-ciphers", "AES-256-GCM")
    assert _read(BASE + "setenv opt no-such-thing x\n") == _read(BASE)


def test_an_unknown_directive_may_be_declared_so() -> None:
    config, warnings = _read("ignore-unknown-option new-thing other\n" + BASE + f"new-thing {WORD}\n")
    assert config == _read(BASE)[0]
    assert len(warnings) == 1


def test_declaring_a_known_one_unknown_changes_nothing() -> None:
    config, warnings = _read("ignore-unknown-option up cipher\n" + BASE + "up /bin/evil\ncipher AES-128-GCM\n")
    assert config.directives[-1] == ("cipher", "AES-128-GCM")
    assert len(warnings) == 1


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


UNSUPPORTED = [
    *(
        "http-proxy 198.18.0.1 3128",
        "http-proxy-option AGENT x",
        "socks-proxy 198.18.0.1",
        "secret static.key",
        "dev tap",
    ),
    *("dev tap0", "dev-type tap", "dev null", "scramble obfuscate x", "static-challenge x 1", "askpass", "pkcs11-id x"),
    *(
        "pkcs11-providers /lib/evil.so",
        "providers /lib/evil.so",
        "engine dynamic",
        "capath /etc/ssl",
        "config other.ovpn",
    ),
    *("server 10.8.0.0 255.255.255.0", "mode server", "tls-server", "crl-verify /etc/x dir", "ncp-disable"),
    *("<connection>\nremote a.example\nhttp-proxy 198.18.0.1 3128\n</connection>", "<secret>\nx\n</secret>"),
    "<connection>\nremote a.example\ntun-mtu 1400\n</connection>",
    f"<cert>\nx\n</cert>\n<key>\n-----BEGIN ENCRYPTED PRIVATE KEY-----\n{WORD}\n</key>",
]


@pytest.mark.parametrize("lines", UNSUPPORTED)
def test_what_would_be_another_protocol_is_unsupported(lines: str) -> None:
    fault = _refused(BASE + lines + "\n")
    assert isinstance(fault, Unsupported)
    assert fault.line is not None


BROKEN = {
    "nothing": ("# x\n", None, "neither `client` nor"),
    "no client": ("remote a.example\n" + CA, None, "neither `client` nor"),
    "no remote": ("client\n" + CA, None, "no `remote`"),
    "no authority": ("client\nremote a.example\n", None, "impostor"),
    "unknown directive": (BASE + "cypher AES-256-GCM\n", 9, "did you mean `cipher`?"),
    "a password on a line of its own": (BASE + WORD + "\n", 9, "unknown directive"),
    "an unknown block": (BASE + "<new>\nx\n</new>\n", 9, "inline block"),
    "a block that is not closed": (BASE + f"<key>\n{WORD}\n", 9, "never closed"),
    "a quotation that is not closed": (BASE + f'auth-user-pass "{WORD}\n', 9, "quotation"),
    "a backslash": (BASE + "log C:\\x\n", 9, "backslash"),
    "a long line": (BASE + "cipher " + "x" * 250 + "\n", 9, "longer"),
    "many words": (BASE + "cipher" + " x" * 20 + "\n", 9, "longer"),
    "port 70000": ("client\nremote a.example 70000\n" + CA, 2, "port"),
    "port 0": ("client\nport 0\nremote a.example\n" + CA, 2, "port"),
    "no port": ("client\nport\nremote a.example\n" + CA, 2, "argument"),
    "host": ("client\nremote 'a b'\n" + CA, 2, "host"),
    "protocol": ("client\nremote a.example 1 sctp\n" + CA, 2, "protocol"),
    "server's protocol": ("client\nproto tcp-server\nremote a.example\n" + CA, 2, "protocol"),
    "forced to nothing": (BASE + "proto-force tcp\n", None, "proto-force"),
    "key without certificate": (BASE + "<key>\nx\n</key>\n", None, "certificate without its key"),
    "an empty block": (BASE + "<cert>\n\n</cert>\n", 9, "empty"),
    "no block for [inline]": (BASE + "tls-crypt [inline]\n", 9, "without its <tls-crypt>"),
    "no login": (BASE + "auth-user-pass\n", 9, "username"),
    "half a login": (BASE + f"<auth-user-pass>\n{WORD}\n</auth-user-pass>\n", 9, "password"),
    "no file's name": (BASE + "cert\n", 9, "without its file"),
    "connection without a server": (BASE + "<connection>\nnobind\n</connection>\n", 9, "exactly one"),
    "connection with two": (BASE + "<connection>\nremote a\nremote b\n</connection>\n", 9, "exactly one"),
    "unknown in a connection": (BASE + "<connection>\nremote a\nnew\n</connection>\n", 11, "unknown directive"),
    "connection is no directive": (BASE + "connection x\n", 9, "<connection>"),
    "NUL": (BASE + "cipher A\x00\n", 9, "control"),
    "escape in a block": (BASE + "<cert>\n\x1b[2J\n</cert>\n", 10, "control"),
}


@pytest.mark.parametrize(("text", "line", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_config_is_one_clear_line(text: str, line: int | None, reason: str) -> None:
    fault = _refused(text)
    assert not isinstance(fault, Unsupported)
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
        assert name == "../" + WORD
        raise fault

    said = str(_refused(BASE + f"{directive} ../{WORD}\n", read_file))
    assert f"`{directive}`" in said
    assert reason in said


def test_a_file_cannot_end_its_block_and_go_on_with_directives() -> None:
    evil = _pem("CERTIFICATE").replace(WORD, f"{WORD}\n</ca>\nplugin /lib/evil.so").encode()
    assert "no key file" in str(_refused("client\nremote a.example\nca ca.crt\n", lambda name: evil))


# ── anything ─────────────────────────────────────────────────────────────────────────────────────────────────────────


HANDED_ON = ovpn._ALLOWED | {"dhcp-option", "auth-user-pass", "key-direction"}
DANGEROUS = {line.split()[0] for line in HOST} | {
    "providers",
    "pkcs11-providers",
    "engine",
    "config",
    "script-security",
}
LINES = st.sampled_from(
    [*BASE.splitlines(), *HOST, *UNSUPPORTED, "auth-user-pass", "<auth-user-pass>", "</ca>", "<connection>"]
)


@given(
    lines=st.lists(LINES | st.text(max_size=20) | st.tuples(LINES, st.text(max_size=5)).map("".join), max_size=12),
    file=st.binary(max_size=20) | st.sampled_from([_pem(label).encode() for label in LABELS.values()]),
)
def test_only_a_config_error_leaves_the_parser_and_nothing_dangerous_does(lines: list[str], file: bytes) -> None:
    try:
        config, said = parse(BASE + "\n".join(lines), "x.ovpn", lambda name: file)
    except ConfigError as fault:
        config, said = None, (str(fault),)
    assert not any(WORD in text for text in said)
    if config is None:
        return
    assert {directive[0] for directive in config.directives} <= HANDED_ON
    assert not any(part.lstrip().startswith("</") for _, block in config.inline for part in block.reveal().splitlines())


def test_nothing_dangerous_is_on_the_list_of_what_is_handed_on() -> None:
    assert not HANDED_ON & DANGEROUS


def test_a_directive_has_one_fate() -> None:
    fates = [ovpn._ALLOWED, ovpn._MOOT, ovpn._HOST, ovpn._MATERIAL, ovpn._OWN, frozenset(ovpn._UNSUPPORTED)]
    names = [name for fate in fates for name in fate]
    assert len(names) == len(set(names))


@given(text=st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text, "x.ovpn", _nothing_to_read)
