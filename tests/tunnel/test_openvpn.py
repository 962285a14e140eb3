from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.failures import Failure
from vpntest.plan.model import Kind, OpenVpnConfig, Server, TunnelSpec
from vpntest.plan.ovpn import parse, words
from vpntest.plan.ovpn_words import HANDED_ON, MAX_WORDS
from vpntest.plan.secret import Secret
from vpntest.tunnel import netlink
from vpntest.tunnel.cage import MAX_LINE
from vpntest.tunnel.carriers import Carrier
from vpntest.tunnel.ladder import Fall, Rung
from vpntest.tunnel.openvpn import _OURS, MOST_REMOTES, _Session, _warn, chosen, written

CLIMBED = [Rung.CONFIG, Rung.ENDPOINT_DNS, Rung.ENDPOINT, Rung.HANDSHAKE, Rung.AUTH]


def _changed(spec: TunnelSpec, **changes: object) -> TunnelSpec:
    assert isinstance(spec.config, OpenVpnConfig)
    return msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, **changes))


@pytest.mark.root
@pytest.mark.parametrize(
    ("transport", "port", "net", "topology"),
    [("udp", 1194, 21, "subnet"), ("tcp", 1195, 22, "subnet"), ("udp", 1206, 28, "net30")],
)
def test_comes_up_and_carries_names_and_bytes(
    world: Any, pki: Any, question: Any, first_byte: Any, transport: str, port: int, net: int, topology: str
) -> None:
    async def body() -> None:
        async with world.open(), world.openvpn(port, net, transport, pki, topology) as spec:
            [tunnel] = await world.raised(spec)
            try:
                assert [(step.rung, step.failure) for step in tunnel.steps] == [(rung, None) for rung in CLIMBED], (
                    tunnel.steps
                )
                assert tunnel.carrier.startswith("openvpn 2.")
                assert tunnel.vantage.resolver == "198.18.9.9"
                assert (await question(tunnel.vantage, "three.test")).answers == ("198.18.77.7",)
                assert await first_byte(tunnel.vantage) == b"w"
                assert await first_byte(tunnel.vantage, "fd00:9::9") == b"w"
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.root
def test_nothing_is_sent_through_it_before_it_is_asked_for(world: Any, pki: Any) -> None:
    async def body() -> None:
        async with world.openvpn(1196, 23, "udp", pki) as spec:
            [tunnel] = await world.raised(spec)
            try:
                await asyncio.sleep(2.5)
                assert tunnel.vantage.count_packets().sent == 0
                assert netlink.count(world.server, "tun1196").received == 0
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.root
def test_a_wrong_password_is_rejected_and_a_wrong_authority_is_told_apart(world: Any, pki: Any) -> None:
    async def body() -> None:
        async with world.openvpn(1197, 24, "udp", pki) as spec, world.openvpn(1198, 25, "tcp", pki) as by_tcp:
            # The client's own certificate as the authority: sound PEM, and not the one that signed the server's.
            stranger = (("ca", Secret(pki.client[0])), *spec.config.inline[1:])
            name = (*spec.config.directives[:-1], ("verify-x509-name", "someone-else", "name"))
            tunnels = await world.raised(
                _changed(spec, password=Secret("wrong")),
                _changed(by_tcp, password=Secret("wrong")),
                _changed(spec, inline=stranger),
                _changed(spec, directives=name),
            )
            for tunnel in tunnels:
                await tunnel.lower()
            last = [(tunnel.steps[-1].rung, tunnel.steps[-1].failure) for tunnel in tunnels]
            assert last == [
                (Rung.AUTH, Failure.AUTH_REJECTED),
                (Rung.AUTH, Failure.AUTH_REJECTED),
                (Rung.HANDSHAKE, Failure.SSL_UNKNOWN_AUTHORITY),
                (Rung.HANDSHAKE, Failure.SSL_INVALID_HOSTNAME),
            ], [tunnel.steps[-1] for tunnel in tunnels]

    asyncio.run(body())


@pytest.mark.root
def test_the_next_remote_is_tried(world: Any, pki: Any) -> None:
    async def body() -> None:
        async with world.openvpn(1204, 26, "tcp", pki) as spec:
            remotes = (Server("198.18.0.1", 1298, "tcp"), *spec.config.servers)
            [tunnel] = await world.raised(_changed(spec, servers=remotes))
            try:
                assert tunnel.vantage is not None, tunnel.steps
            finally:
                await tunnel.lower()

    asyncio.run(body())


@pytest.mark.root
def test_the_last_remote_is_tried_after_such_as_have_no_address_and_such_as_refuse(world: Any, pki: Any) -> None:
    async def body() -> None:
        world.names |= {"none.test": (), "bogon.test": "127.0.0.1"}
        async with world.open(), world.openvpn(1210, 29, "tcp", pki) as spec:
            dead = [Server(name, 1194, "udp") for name in ("none.test", "bogon.test")]
            closed = [Server("198.18.0.1", port, "tcp") for port in range(1291, 1295)]
            [tunnel] = await world.raised(_changed(spec, servers=(*dead, *closed, *spec.config.servers)))
            try:
                assert tunnel.vantage is not None, tunnel.steps
                assert len(tunnel.warnings) == 1
                assert "2 of 7 remotes not tried (without an address that can be called)" in tunnel.warnings[0]
            finally:
                await tunnel.lower()
            [tunnel] = await world.raised(_changed(spec, servers=tuple(dead)))
            assert (tunnel.steps[-1].rung, tunnel.steps[-1].failure) == (Rung.ENDPOINT_DNS, Failure.DNS_NO_ANSWER)
            [tunnel] = await world.raised(_changed(spec, servers=tuple(reversed(dead))))
            assert (tunnel.steps[-1].rung, tunnel.steps[-1].failure) == (Rung.ENDPOINT_DNS, Failure.DNS_BOGON)

    asyncio.run(body())


def test_one_address_of_each_remote_is_tried_before_a_second_of_any() -> None:
    udp, tcp = Server("a.test", 1194, "udp"), Server("b.test", 443, "tcp")
    found = [(udp, ["198.18.0.1", "198.18.0.2", "198.18.0.3"]), (tcp, ["198.18.0.4", "198.18.0.5"])]
    assert [address[-1] for address, _ in chosen(found)] == ["1", "4", "2", "5", "3"]
    # Two names of one server are one.
    assert chosen([(udp, ["198.18.0.1"]), (udp, ["198.18.0.1"])]) == [("198.18.0.1", udp)]


def test_of_too_many_remotes_those_stay_that_differ() -> None:
    many = [(Server(f"n{number}.test", 1194, "udp"), [f"198.18.1.{number}"]) for number in range(40)]
    last = Server("last.test", 443, "tcp")
    order = chosen([*many, (last, ["198.18.0.9"])])
    assert len(order) == MOST_REMOTES
    assert order[-1] == ("198.18.0.9", last)
    assert [address for address, _ in order[:-1]] == [f"198.18.1.{number}" for number in range(MOST_REMOTES - 1)]
    site: Any = SimpleNamespace(warnings=[])
    config = msgspec.structs.replace(_config(("client",)), servers=(*(server for server, _ in many), last))
    _warn(site, config, order, [*many, (last, ["198.18.0.9"])])
    assert site.warnings == [
        "29 of 41 remotes not tried (no more than 12 addresses are): "
        "n11.test:1194/udp, n12.test:1194/udp, n13.test:1194/udp and others"
    ]


@pytest.mark.root
def test_nothing_that_a_config_names_is_run_or_written(world: Any, pki: Any, tmp_path: Path) -> None:
    """Even where the reader of configs had let such directives through."""
    witness = tmp_path / "ran"
    script = tmp_path / "script.sh"
    script.write_text(f"#!/bin/sh\ntouch {witness}\n")
    script.chmod(0o755)
    kept = tmp_path / "kept"
    kept.write_text("kept")
    acting = [
        *((word, str(script)) for word in ("up", "down", "route-up", "ipchange", "tls-verify", "plugin", "iproute")),
        *((word, str(kept)) for word in ("log", "log-append", "writepid", "status", "replay-persist", "config")),
        ("script-security", "2"),
    ]

    async def body() -> None:
        async with world.openvpn(1205, 27, "udp", pki) as spec:
            for directive in acting:
                specs = _changed(spec, directives=(directive, *spec.config.directives))
                [tunnel] = await world.raised(specs)
                assert [(step.rung, step.failure) for step in tunnel.steps] == [(Rung.CONFIG, Failure.INVALID)]
            # What hides in an argument stays an argument: it is refused, or taken as text.
            hidden = (("remote-cert-tls", f'server" \\\nup "{script}'), ("setenv", "opt", "up", str(script)))
            for directive in hidden:
                [tunnel] = await world.raised(_changed(spec, directives=(("script-security", "2"), directive)))
                assert tunnel.vantage is None
            [tunnel] = await world.raised(_changed(spec, directives=(*spec.config.directives, hidden[1])))
            assert tunnel.vantage is not None, tunnel.steps
            await tunnel.lower()

    asyncio.run(body())
    assert not witness.exists()
    assert kept.read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"script.sh", "kept"}


def _config(*directives: tuple[str, ...], inline: tuple[tuple[str, Secret], ...] = ()) -> OpenVpnConfig:
    return OpenVpnConfig((Server("198.18.0.1", 1194, "udp"),), directives, inline)


def test_written_anew_in_openvpns_quoting() -> None:
    config = _config(
        ("client",),
        ("verify-x509-name", 'a "b" \\c', "name"),
        ("remote", "198.18.9.9", "1"),
        ("dev", "tun7"),
        ("setenv", "UV_X", "1"),
        inline=(("ca", Secret("\nPEM\n")),),
    )
    assert written(config) == "client\nverify-x509-name 'a \"b\" \\c' name\n<ca>\nPEM\n</ca>\n"


@given(arguments=st.lists(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" ")), max_size=9))
def test_what_is_written_is_read_again_as_it_was(arguments: list[str]) -> None:
    line = written(_config(("x509-username-field", *arguments))).removesuffix("\n")
    assert words(line) == ["x509-username-field", *arguments]


def test_openssls_own_providers_pass_and_no_other() -> None:
    assert written(_config(("providers", "legacy", "default"))) == "providers legacy default\n"
    for other in ("/x.so", "legacy /x.so", ""):
        with pytest.raises(Fall):
            written(_config(("providers", "default", other)))


NASTY = [
    *("plain", "two words", "tab\tless"[:3], '"', "'", "\\", "\\\\", '"quoted"', "'single'", "it's", 'a"b', "a'b\"c d"),
    *("#hash", "a#b", ";semi", "a;b", "\\n", "C:\\Program Files\\x", "<ca>", "</ca>", "--up", "-", "$HOME", "%n%s"),
    *("naïve", "Организация", "a" * 200, " lead", "trail ", "  ", "'\"", "\"'", "[inline]", "stdin", "!"),
]


def _settings(config: OpenVpnConfig, *more: str) -> tuple[list[tuple[str, str]], str]:
    """What OpenVPN says that it has understood (`--verb 4`), and all that it said. It ends before it opens anything."""
    argv = ["openvpn", "--config", "stdin", "--dev", "tun", "--remote", "198.18.0.1", "1194", "udp4", *more]
    argv += [
        "--script-security",
        "0",
        "--verb",
        "4",
        "--suppress-timestamps",
        "--management",
        "/proc/nowhere/x",
        "unix",
    ]
    done = subprocess.run(argv, input=written(config).encode(), capture_output=True, timeout=20)
    said = done.stdout.decode()
    pairs = [line.strip().partition(" = ") for line in said.splitlines() if line.startswith(" ")]
    return [(name, value.strip()) for name, _, value in pairs], said


@pytest.fixture(scope="session")
def client(pki: Any) -> str:
    return (
        f"client\ndev tun\nremote 198.18.0.1\n<ca>\n{pki.ca}</ca>\n<cert>\n{pki.client[0]}</cert>\n"
        f"<key>\n{pki.client[1]}</key>\n"
    )


def _read(text: str) -> OpenVpnConfig:
    def read_file(name: str) -> bytes:
        raise AssertionError(name)

    return parse(text, "x.ovpn", read_file)[0]


@pytest.mark.root
@pytest.mark.parametrize("text", NASTY)
def test_openvpn_reads_a_nasty_word_as_it_was_meant(client: str, text: str) -> None:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    config = _read(f"{client}verify-x509-name {quoted} name\n")
    assert config.directives[-1] == ("verify-x509-name", text, "name")
    pairs, said = _settings(config)
    assert ("verify_x509_name", f"'{text}'".strip()) in pairs, said


ECHO: dict[str, tuple[str, ...]] = {
    "float": ("remote_float ENABLED",),
    "fast-io": ("fast_io ENABLED",),
    "persist-key": ("persist_key ENABLED",),
    "persist-local-ip": ("persist_local_ip ENABLED",),
    "persist-remote-ip": ("persist_remote_ip ENABLED",),
    "mtu-test": ("mtu_test 1",),
    "mute-replay-warnings": ("mute_replay_warnings ENABLED",),
    "passtos": ("passtos ENABLED",),
    "ping-timer-rem": ("ping_timer_remote ENABLED",),
    "tcp-nodelay": ("sockflags 2",),
    "tls-exit": ("tls_exit ENABLED",),
    "disable-occ": ("occ DISABLED",),
    "no-replay": ("replay DISABLED",),
    "comp-lzo adaptive": ("comp.alg 2", "comp.flags 1"),
    "compress lz4-v2": ("comp.alg 11",),
    "explicit-exit-notify 2": ("explicit_exit_notification 2",),
    "mssfix 1300": ("mssfix 1300",),
    "replay-window 128 20": ("replay_window 128", "replay_time 20"),
    "remote-cert-ku a0 88": ("remote_cert_ku[i] 160", "remote_cert_ku[i] 136"),
    "socket-flags TCP_NODELAY": ("sockflags 2",),
    "allow-compression asym": ("comp.flags 64",),
    "auth SHA256": ("authname 'SHA256'",),
    "cipher AES-128-CBC": ("ciphername 'AES-128-CBC'",),
    "data-ciphers AES-128-GCM:?BF-CBC": ("ncp_ciphers 'AES-128-GCM'",),
    "data-ciphers-fallback AES-256-CBC": ("ciphername 'AES-256-CBC'",),
    "ncp-ciphers AES-256-GCM:AES-128-GCM": ("ncp_ciphers 'AES-256-GCM:AES-128-GCM'",),
    "tls-cipher TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384": ("cipher_list 'TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384'",),
    "tls-ciphersuites TLS_AES_256_GCM_SHA384": ("cipher_list_tls13 'TLS_AES_256_GCM_SHA384'",),
    "tls-version-max 1.2": ("ssl_flags 3264",),
    "tls-version-min 1.1": ("ssl_flags 128",),
    "tls-cert-profile preferred": ("tls_cert_profile 'preferred'",),
    "key-direction 1": ("key_direction 1",),
    "tls-timeout 77": ("tls_timeout 77",),
    "tran-window 77": ("transition_window 77",),
    "reneg-bytes 77": ("renegotiate_bytes 77",),
    "reneg-pkts 77": ("renegotiate_packets 77",),
    "reneg-sec 1234 1000": ("renegotiate_seconds 1234",),
    "link-mtu 1477": ("link_mtu 1477",),
    "udp-mtu 1477": ("link_mtu 1477",),
    "tun-mtu 1400": ("tun_mtu 1400",),
    "tun-mtu-extra 77": ("tun_mtu_extra 77",),
    "max-packet-size 1300": ("tls_mtu 1300",),
    "mtu-disc yes": ("mtu_discover_type 2",),
    "fragment 1300": ("fragment 1300",),
    "sndbuf 77": ("sndbuf 77",),
    "rcvbuf 77": ("rcvbuf 77",),
    "topology subnet": ("topology 3",),
    "ping 77": ("ping_send_timeout 77",),
    "ping-restart 77": ("ping_rec_timeout 77", "ping_rec_timeout_action 2"),
    "ping-exit 77": ("ping_rec_timeout 77", "ping_rec_timeout_action 1"),
    "keepalive 11 66": ("ping_send_timeout 11", "ping_rec_timeout 66"),
    "inactive 90 1000": ("inactivity_timeout 90", "inactivity_minimum_bytes 1000"),
    "session-timeout 77": ("session_timeout 77",),
    "remote-cert-eku 'TLS Web Server Authentication'": ("remote_cert_eku 'TLS Web Server Authentication'",),
    "remote-cert-tls server": ("remote_cert_eku 'TLS Web Server Authentication'",),
    "ns-cert-type server": ("ns_cert_type 1",),
    f"peer-fingerprint {'ab:' * 31}ab": (f"verify_hash {'ab:' * 31}ab", "verify_hash_depth 0"),
    f"verify-hash {'cd:' * 31}cd SHA256": (f"verify_hash {'cd:' * 31}cd", "verify_hash_depth 1"),
    "verify-x509-name 'C=XX, CN=a b' subject": ("verify_x509_type 1", "verify_x509_name 'C=XX, CN=a b'"),
    "compat-mode 2.5.0": ("comp.flags 0",),
    "dns server 1 address 192.0.2.53": ("address 192.0.2.53",),
    "ifconfig 198.18.5.2 198.18.5.1": ("ifconfig_local '198.18.5.2'", "ifconfig_remote_netmask '198.18.5.1'"),
    "ifconfig-ipv6 2001:db8::2/64 2001:db8::1": ("ifconfig_ipv6_local '2001:db8::2'", "ifconfig_ipv6_netbits 64"),
    "pull-filter ignore 'dhcp-option DNS6'": ('ignore "dhcp-option DNS6" ',),
    "client-nat snat 198.18.1.0 255.255.255.0 198.18.2.0": ("CNAT[0] t=0 198.18.1.0/255.255.255.0/198.18.2.0 ",),
}
"""Each directive that is handed on, and what OpenVPN 2.6 says that it has understood."""
UNSAID = """
client tls-client pull auth-nocache comp-noadapt allow-recursive-routing tls-groups ecdh-curve txqueuelen tun-mtu-max
x509-username-field
""".split()
"""Those of which it says nothing."""
SAMPLES = {"ecdh-curve": "prime256v1", "tls-groups": "X25519", "x509-username-field": "CN", "tun-mtu-max": "1700"}


@pytest.mark.root
@pytest.mark.parametrize(("line", "echoed"), ECHO.items(), ids=[line.split()[0] for line in ECHO])
def test_openvpn_understands_what_was_read(client: str, line: str, echoed: tuple[str, ...]) -> None:
    pairs, said = _settings(_read(f"{client}{line}\n"))
    assert "/proc/nowhere/x" in said, said
    assert [each for each in echoed if tuple(each.split(" ", 1)) not in pairs and each.strip() not in said] == [], said


@pytest.mark.root
@pytest.mark.parametrize("name", UNSAID)
def test_openvpn_takes_what_it_says_nothing_of(client: str, name: str) -> None:
    least, _ = HANDED_ON[name]
    _, said = _settings(_read(f"{client}{name} {SAMPLES.get(name, '77') if least else ''}\n"))
    assert "/proc/nowhere/x" in said, said
    assert "Options error" not in said


def test_every_directive_that_is_handed_on_is_tried() -> None:
    tried = {line.split()[0] for line in ECHO} | set(UNSAID)
    assert tried | _OURS >= HANDED_ON.keys()


@pytest.mark.root
def test_openvpn_takes_every_directive_with_the_arguments_that_the_table_allows() -> None:
    """One argument less or more, and it does not know the directive."""

    def unknown(name: str, count: int) -> bool:
        line = " ".join([name, *["1"] * count])
        done = subprocess.run(
            ["openvpn", "--config", "stdin"], input=f"{line}\n".encode(), capture_output=True, timeout=20
        )
        return b"Unrecognized option" in done.stdout

    for name, (least, most) in HANDED_ON.items():
        if least:
            assert unknown(name, least - 1), name
        if most < MAX_WORDS - 1:
            assert unknown(name, most + 1), name
        assert not unknown(name, least), name
        assert not unknown(name, most), name


MATERIAL_ECHO = {
    "ca": "ca_file",
    "cert": "cert_file",
    "key": "priv_key_file",
    "extra-certs": "extra_certs_file",
    "tls-auth": "tls_auth_file",
    "tls-crypt": "tls_crypt_file",
    "tls-crypt-v2": "tls_crypt_v2_file",
}


@pytest.mark.root
@pytest.mark.parametrize("name", MATERIAL_ECHO)
def test_openvpn_takes_material_as_blocks(client: str, pki: Any, name: str) -> None:
    key = pki.tls_crypt.replace("Static key V1", "tls-crypt-v2 client key") if name.endswith("v2") else pki.tls_crypt
    block = {"extra-certs": pki.ca}.get(name, key)
    own = f"<{name}>\n# of a provider\n  {block}\n</{name}>\n" if name not in ("ca", "cert", "key") else ""
    pairs, said = _settings(_read(client + own))
    assert (MATERIAL_ECHO[name], "'[INLINE]'") in pairs or (MATERIAL_ECHO[name], "[INLINE]") in pairs, said


def test_a_user_and_password_are_asked_for_only_where_there_are_some() -> None:
    config = msgspec.structs.replace(
        _config(("auth-user-pass", "/etc/shadow")), username=Secret("u"), password=Secret("p")
    )
    assert written(config) == "auth-user-pass\n"
    assert written(_config(("auth-user-pass", "/etc/shadow"))) == "\n"


@pytest.mark.parametrize(
    "config",
    [
        _config(("cipher", "AES\nplugin /x.so")),
        _config(("plugin", "/x.so")),
        _config(("Cipher x\nplugin", "/x.so")),
        _config(("cipher", "a\0b")),
        _config(inline=(("ca", Secret("PEM\n</ca>\nplugin /x.so\n<ca>")),)),
        _config(inline=(("ca>\nplugin /x.so\n<ca", Secret("PEM")),)),
    ],
)
def test_what_could_become_another_directive_is_not_written(config: OpenVpnConfig) -> None:
    with pytest.raises(Fall) as caught:
        written(config)
    assert caught.value.failure == Failure.INVALID


@pytest.mark.root
@pytest.mark.parametrize("which", ["username", "password"])
@pytest.mark.parametrize("text", ["a\u00a0b", "a\u202eb", "a\nb"])
def test_a_login_that_cannot_be_typed_ends_at_the_config(world: Any, which: str, text: str) -> None:
    login = {"username": Secret("u"), "password": Secret("p"), which: Secret(text)}
    spec = TunnelSpec("x", Kind.OPENVPN, "x.ovpn", msgspec.structs.replace(_config(("client",)), **login))
    [tunnel] = asyncio.run(world.raised(spec))
    assert [(step.rung, step.failure) for step in tunnel.steps] == [(Rung.CONFIG, Failure.INVALID)]
    assert tunnel.problem is not None
    assert ("user name" if which == "username" else which) in tunnel.problem.reason
    assert text not in tunnel.problem.reason


class Running:
    """Stands for a process that goes on."""

    def running(self) -> bool:
        return True

    async def wait(self) -> None:
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def managed(directory: Path) -> Any:
    """A session, and the other end of its management socket."""
    async with contextlib.AsyncExitStack() as undo:
        site = SimpleNamespace(
            undo=undo,
            cage=SimpleNamespace(directory=directory),
            folder=directory,
            user=os.getuid(),
            device="x",
            spawn=lambda *_, **__: Running(),
        )
        session = _Session(site, ())
        await session.start(Carrier("openvpn", "/nonexistent", "2.6.14", ()), "", [], 1)
        [socket] = directory.iterdir()
        _, writer = await asyncio.open_unix_connection(socket)
        yield session, writer
        writer.close()


def test_a_line_without_end_does_not_end_the_management(tmp_path: Path) -> None:
    async def body() -> None:
        async with managed(tmp_path) as (session, writer):
            writer.write(b">INFO:" + b"x" * (MAX_LINE + 9) + b"\n>STATE:1,WAIT,,,\n")
            await session.reaches("WAIT", 20)

    asyncio.run(body())


@pytest.mark.parametrize(("state", "failure"), [("WAIT", Failure.TIMEOUT), ("AUTH", Failure.STALLED)])
def test_silence_after_an_answer_is_told_from_silence(tmp_path: Path, state: str, failure: Failure) -> None:
    async def body() -> Fall:
        async with managed(tmp_path) as (session, writer):
            writer.write(f">STATE:1,{state},,,\n".encode())
            await session.reaches(state, 20)
            with pytest.raises(Fall) as fall:
                await session.reaches("GET_CONFIG", 0.05)
            return fall.value

    assert asyncio.run(body()).failure == failure


async def _reason_of(*lines: str) -> str:
    """Why it falls where OpenVPN has said these lines, those that begin with `>` by its management socket."""
    site: Any = SimpleNamespace(redact=str)
    process: Any = Running()
    session = _Session(site, ())
    session._process = process
    for line in (">STATE:1,AUTH,,,", *lines):
        if line.startswith(">"):
            session._take(line)
        else:
            session._hear(line)
    with pytest.raises(Fall) as fall:
        await session.reaches("CONNECTED", 0.01)
    return fall.value.failure


@pytest.mark.parametrize(
    "words",
    ["AUTH_FAILED", "auth-failure", "Options error", "AUTH: Received control message: AUTH_FAILED"],
)
@pytest.mark.parametrize(
    "line",
    [
        "VERIFY OK: depth=0, CN={}",
        "VERIFY KU OK {}",
        "[{}] Peer Connection Initiated with [AF_INET]198.18.0.1:1194",
        "WARNING: 'cipher' is used inconsistently, local='x', remote='{}'",
        "AUTH: Received control message: x {}",
        ">STATE:1,EXITING,x {},,",
        ">FATAL:x {}",
        ">PASSWORD:Verification Failed: 'Private Key' {}",
    ],
)
def test_a_strangers_names_are_no_word_of_the_servers(line: str, words: str) -> None:
    assert asyncio.run(_reason_of(line.format(words))) == Failure.STALLED


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ("AUTH: Received control message: AUTH_FAILED,locked out", Failure.AUTH_REJECTED),
        (">PASSWORD:Verification Failed: 'Auth'", Failure.AUTH_REJECTED),
        (">STATE:1,EXITING,auth-failure,,", Failure.AUTH_REJECTED),
        (">STATE:1,RECONNECTING,connection-reset,,", Failure.CONNECTION_RESET),
        ("VERIFY ERROR: depth=0, error=self-signed certificate: CN=AUTH_FAILED", Failure.SSL_UNKNOWN_AUTHORITY),
        ("VERIFY ERROR: depth=0, error=certificate has expired: CN=issuer", Failure.SSL_INVALID_CERTIFICATE),
        ("VERIFY KU ERROR", Failure.SSL_INVALID_CERTIFICATE),
        ("VERIFY X509NAME ERROR: CN=AUTH_FAILED, must be x", Failure.SSL_INVALID_HOSTNAME),
        ("OpenSSL: error:0A000086:SSL routines::certificate verify failed:", Failure.SSL_INVALID_CERTIFICATE),
        ("OpenSSL: error:0A000102:SSL routines::unsupported protocol:", Failure.SSL_FAILED_HANDSHAKE),
        ("Connection reset, restarting [0]", Failure.CONNECTION_RESET),
        ("TCP: connect to [AF_INET]198.18.0.1:1298 failed: Connection refused", Failure.CONNECTION_REFUSED),
        ("read UDPv4 [ECONNREFUSED]: Connection refused (fd=3,code=111)", Failure.CONNECTION_REFUSED),
        ("write UDPv4: Network is unreachable (fd=3,code=101)", Failure.NETWORK_UNREACHABLE),
        ("read UDPv4 [EHOSTUNREACH]: No route to host (fd=3,code=113)", Failure.HOST_UNREACHABLE),
        ("Options error: Unrecognized option", Failure.INVALID),
    ],
)
def test_what_openvpn_says(line: str, failure: Failure) -> None:
    assert asyncio.run(_reason_of(line)) == failure
