"""A world of two namespaces: a client's underlay, and real VPN servers with a small internet behind them.

client (underlay) 198.18.0.2 ──veth── 198.18.0.1 server ── lo: 198.18.9.9, fd00:9::9, the internet
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import secrets
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vpntest.plan.keys import generate
from vpntest.plan.model import (
    OUTSIDE,
    AmneziaParameters,
    Kind,
    OpenVpnConfig,
    ProxyConfig,
    Server,
    Settings,
    TunnelSpec,
    WireGuardConfig,
    WireGuardPeer,
)
from vpntest.plan.secret import Secret
from vpntest.tunnel import carriers, netlink
from vpntest.tunnel.cage import Cage, Process
from vpntest.tunnel.dns import Resolution, ask
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.raising import Tunnel, raise_tunnel
from vpntest.tunnel.vantage import Vantage

SERVER = "198.18.0.1"
CLIENT = "198.18.0.2"
INTERNET = "198.18.9.9"
INTERNET6 = "fd00:9::9"
ANSWER = "198.18.77.7"
"""What the internet's resolver answers to every name but those of `World.names`."""


@dataclass
class World:
    """Everything that a test of tunnels talks to. Its services live as long as the event loop of :meth:`open`."""

    cage: Cage
    carriers: carriers.Carriers
    client: Namespace
    server: Namespace
    names: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """`(name, from)` of each question that the internet's resolver got."""
    by_tcp: int = 0
    """Questions that came over TCP."""
    roots: str | None = None
    """What the client trusts beside the public roots."""
    tls: ssl.SSLContext | None = None
    """Where set, the internet has an HTTPS server on port 9443."""

    @property
    def outside(self) -> Vantage:
        return Vantage(OUTSIDE, self.client, SERVER)

    @property
    def settings(self) -> Settings:
        return Settings(public_resolver=INTERNET, ca_pem=self.roots)

    async def raised(self, *specs: TunnelSpec) -> list[Tunnel]:
        """The tunnels, raised side by side."""
        return await asyncio.gather(
            *(raise_tunnel(s, self.outside, self.cage, self.carriers, self.settings, time.monotonic) for s in specs)
        )

    def run(self, argv: list[str], *, stdin: str = "") -> Process:
        """A server's program, in the server's namespace."""
        memory = os.memfd_create("stdin")
        try:
            os.write(memory, stdin.encode())
            os.lseek(memory, 0, os.SEEK_SET)
            return self.cage.spawn(argv, self.server, stdin=memory)
        finally:
            os.close(memory)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The internet: a resolver, and a port 80 that says one word to each caller, on every address of the server."""
        loop = asyncio.get_running_loop()
        transports = []
        # One socket for each address: an answer must come from where the question went.
        for address in (SERVER, INTERNET):
            udp = self.server.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((address, 53))
            transports.append((await loop.create_datagram_endpoint(lambda: _Resolver(self), sock=udp))[0])

        async def by_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                query = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                answer = self.answer(query, writer.get_extra_info("peername")[0])
                writer.write(len(answer).to_bytes(2) + answer)
                self.by_tcp += 1
            writer.close()

        async def word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"w")
            await writer.drain()
            writer.close()

        servers = [
            await asyncio.start_server(word, sock=_listening(self.server, family, 80))
            for family in (socket.AF_INET, socket.AF_INET6)
        ]
        servers.append(await asyncio.start_server(by_tcp, sock=_listening(self.server, socket.AF_INET, 53)))
        if self.tls is not None:
            sock = _listening(self.server, socket.AF_INET, 9443)
            servers.append(await asyncio.start_server(word, sock=sock, ssl=self.tls))
        try:
            yield
        finally:
            for server in servers:
                server.close()
            for transport in transports:
                transport.close()
            # Closing is told to the transports in the loop's next round.
            await asyncio.sleep(0)

    def answer(self, data: bytes, asker: str) -> bytes:
        """The internet's resolver."""
        import dns.message
        import dns.rrset

        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.asked.append((name, asker))
        reply = dns.message.make_response(query)
        if question.rdtype.name == "A":
            addresses = self.names.get(name, ANSWER)
            for address in (addresses,) if isinstance(addresses, str) else addresses:
                # One set for each: dnspython writes the records of a set in random order.
                reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", address))
        return reply.to_wire()

    # ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.asynccontextmanager
    async def wireguard(
        self,
        program: str,
        port: int,
        net: int,
        *,
        obfuscation: tuple[tuple[str, str], ...] = (),
        preshared: bool = False,
    ) -> AsyncIterator[TunnelSpec]:
        """A WireGuard server, and the spec of a client of it. `net` numbers the tunnel's addresses."""
        ours, ours_public = generate()
        theirs, theirs_public = generate()
        shared = generate()[0] if preshared else None
        name = f"srv{port}"
        process = self.run(["env", "WG_PROCESS_FOREGROUND=1", "LOG_LEVEL=error", program, "-f", name])
        directory = "/run/wireguard" if program == "wireguard-go" else "/run/amneziawg"
        lines = [
            "set=1",
            f"private_key={_hex(theirs)}",
            f"listen_port={port}",
            *(f"{key}={value}" for key, value in obfuscation),
            f"public_key={_hex(Secret(ours_public))}",
            *([f"preshared_key={_hex(shared)}"] if shared else []),
            f"allowed_ip=198.19.{net}.2/32",
            f"allowed_ip=fd00:19:{net}::2/128",
        ]
        try:
            answer = await _uapi(Path(directory, f"{name}.sock"), "\n".join(lines) + "\n\n")
            assert answer.strip() == "errno=0", answer
            await netlink.address(
                self.server,
                name,
                addresses=[f"198.19.{net}.1/24", f"fd00:19:{net}::1/64"],
                routes=[],
            )
            yield TunnelSpec(
                name=name,
                kind=Kind.AMNEZIAWG if obfuscation else Kind.WIREGUARD,
                source="test.conf",
                config=WireGuardConfig(
                    private_key=ours,
                    addresses=(f"198.19.{net}.2/32", f"fd00:19:{net}::2/128"),
                    peers=(
                        WireGuardPeer(
                            theirs_public, Server(SERVER, port, "udp"), ("0.0.0.0/0", "::/0"), preshared_key=shared
                        ),
                    ),
                    dns=(INTERNET,),
                    amnezia=AmneziaParameters(obfuscation) if obfuscation else None,
                ),
            )
        finally:
            await process.stop()

    @contextlib.asynccontextmanager
    async def openvpn(
        self, port: int, net: int, transport: str, pki: Pki, topology: str = "subnet"
    ) -> AsyncIterator[TunnelSpec]:
        """An OpenVPN server that asks for a certificate, a user and a password, behind tls-crypt."""
        directory = self.cage.directory
        check = directory / f"check{port}.sh"
        password = secrets.token_hex(8)
        check.write_text(f'#!/bin/sh\n[ "$(sed -n 2p "$1")" = {password} ]\n')
        check.chmod(0o700)
        config = f"""
            dev tun{port}
            dev-type tun
            mode server
            tls-server
            local {SERVER}
            port {port}
            proto {"udp4" if transport == "udp" else "tcp4-server"}
            topology {topology}
            server 198.19.{net}.0 255.255.255.0
            server-ipv6 fd00:19:{net}::/64
            push "dhcp-option DNS {INTERNET}"
            push "redirect-gateway def1"
            keepalive 10 60
            dh none
            disable-dco
            script-security 2
            auth-user-pass-verify {check} via-file
            verb 1
            <ca>\n{pki.ca}\n</ca>
            <cert>\n{pki.server[0]}\n</cert>
            <key>\n{pki.server[1]}\n</key>
            <tls-crypt>\n{pki.tls_crypt}\n</tls-crypt>
        """
        process = self.run(
            ["openvpn", "--config", "stdin"], stdin="\n".join(line.strip() for line in config.splitlines())
        )
        listening = _heard_of(process, "Initialization Sequence Completed")
        try:
            reader = await listening
            yield TunnelSpec(
                name=f"openvpn{port}",
                kind=Kind.OPENVPN,
                source="test.ovpn",
                config=OpenVpnConfig(
                    servers=(Server(SERVER, port, "udp" if transport == "udp" else "tcp"),),
                    directives=(("client",), ("remote-cert-tls", "server"), ("verify-x509-name", "server", "name")),
                    inline=(
                        ("ca", Secret(pki.ca)),
                        ("cert", Secret(pki.client[0])),
                        ("key", Secret(pki.client[1])),
                        ("tls-crypt", Secret(pki.tls_crypt)),
                    ),
                    username=Secret("someone"),
                    password=Secret(password),
                ),
            )
        finally:
            reader.cancel()
            await process.stop()

    @contextlib.asynccontextmanager
    async def sing_box(self, inbound: dict[str, Any]) -> AsyncIterator[None]:
        """A sing-box server with one inbound, on the server's address."""
        document = {"log": {"level": "info", "timestamp": False}, "inbounds": [{"listen": SERVER, **inbound}]}
        process = self.run(["sing-box", "run", "-c", "stdin", "--disable-color"], stdin=json.dumps(document))
        try:
            reader = await _heard_of(process, "sing-box started")
            yield
        finally:
            reader.cancel()
            await process.stop()

    @contextlib.asynccontextmanager
    async def ssh(self, private: str, folder: Path, port: int = 8470) -> AsyncIterator[None]:
        """An SSH server for `someone` with the password `secret`, who may have TCP forwarded. `private` is its key."""
        file = folder / "ssh.json"
        settings = {"address": SERVER, "port": port, "user": "someone", "password": "secret", "key": private}
        file.write_text(json.dumps(settings))
        process = self.run([sys.executable, "-m", "vpntest.lab.ssh", str(file)])
        try:
            reader = await _heard_of(process, "ready")
            yield
        finally:
            reader.cancel()
            await process.stop()


@dataclass(frozen=True)
class Pki:
    """Certificates and keys for OpenVPN, made for this run of the tests."""

    ca: str
    server: tuple[str, str]
    client: tuple[str, str]
    tls_crypt: str


class _Resolver(asyncio.DatagramProtocol):
    def __init__(self, world: World) -> None:
        self._world = world

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(self._world.answer(data, addr[0]), addr)


def _listening(namespace: Namespace, family: socket.AddressFamily, port: int) -> socket.socket:
    made = namespace.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    made.setblocking(False)
    return made


def _hex(key: Secret) -> str:
    import base64

    return base64.b64decode(key.reveal()).hex()


async def _uapi(path: Path, request: str) -> str:
    for _ in range(500):
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.sleep(0.01)
            continue
        writer.write(request.encode())
        answer = await reader.readuntil(b"\n\n")
        writer.close()
        return answer.decode()
    raise AssertionError(f"{path} never appeared")


async def _heard_of(process: Process, words: str) -> asyncio.Task[None]:
    """Waits for a line of output with `words`; the task goes on reading."""
    heard = asyncio.Event()
    said: list[str] = []

    async def read() -> None:
        async for line in process.lines():
            said.append(line)
            if words in line:
                heard.set()
        heard.set()

    task = asyncio.ensure_future(read())
    await asyncio.wait_for(heard.wait(), 20)
    assert any(words in line for line in said), said
    return task


@pytest.fixture(scope="session")
def cage() -> Iterator[Cage]:
    made = Cage.open()
    yield made
    made.close()


@pytest.fixture(scope="session")
def world(cage: Cage) -> Iterator[World]:
    client, server = Namespace.create(), Namespace.create()

    async def plumb() -> None:
        await netlink.prepare(client)
        await netlink.prepare(server)
        await netlink.within(client, lambda ip: ip.link("add", ifname="up", kind="veth", peer={"ifname": "down"}))
        await netlink.move("down", client, server)
        await netlink.address(client, "up", addresses=[f"{CLIENT}/24", "fd00::2/64"], routes=[])
        await netlink.address(server, "down", addresses=[f"{SERVER}/24", "fd00::1/64"], routes=[])
        await netlink.address(server, "lo", addresses=[f"{INTERNET}/32", f"{INTERNET6}/128"], routes=[])

    asyncio.run(plumb())
    yield World(cage, carriers.find(), client, server)
    client.close()
    server.close()


@pytest.fixture(scope="session")
def pki() -> Pki:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)
    pem = serialization.Encoding.PEM

    def certificate(
        name: str, usage: x509.ObjectIdentifier | None, issuer: str, signer: ec.EllipticCurvePrivateKey | None
    ) -> tuple[str, str, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
        )
        if usage is not None:
            digital = dict.fromkeys(
                ("content_commitment", "key_encipherment", "data_encipherment", "key_cert_sign", "crl_sign"), False
            )
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False).add_extension(
                x509.KeyUsage(
                    digital_signature=True, key_agreement=True, encipher_only=False, decipher_only=False, **digital
                ),
                critical=True,
            )
        made = builder.sign(signer or key, hashes.SHA256())
        text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
        return made.public_bytes(pem).decode(), text, key

    ca, _, authority = certificate("ca", None, "ca", None)
    server = certificate("server", ExtendedKeyUsageOID.SERVER_AUTH, "ca", authority)[:2]
    client = certificate("client", ExtendedKeyUsageOID.CLIENT_AUTH, "ca", authority)[:2]
    words = secrets.token_hex(256)
    lines = "\n".join(words[i : i + 32] for i in range(0, 512, 32))
    tls_crypt = f"-----BEGIN OpenVPN Static key V1-----\n{lines}\n-----END OpenVPN Static key V1-----"
    return Pki(ca, server, client, tls_crypt)


# ── what tests ask of a vantage ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def question() -> Any:
    async def asks(vantage: Vantage, name: str) -> Resolution:
        return await ask(vantage.socket, vantage.resolver, name, "A", timeout=6.0, only_tcp=not vantage.carries_udp)

    return asks


@pytest.fixture(scope="session")
def first_byte() -> Any:
    async def reads(vantage: Vantage, address: str = INTERNET) -> bytes:
        loop = asyncio.get_running_loop()
        with vantage.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as sock:
            async with asyncio.timeout(8):
                await loop.sock_connect(sock, (address, 80))
                return await loop.sock_recv(sock, 1)

    return reads


@pytest.fixture(scope="session")
def proxy() -> Any:
    def made(
        name: str,
        kind: Kind,
        port: int,
        transport: str,
        outbound: dict[str, object],
        *needs: str,
        carries_udp: bool = True,
    ) -> TunnelSpec:
        server = Server(SERVER, port, "tcp" if transport == "tcp" else "udp")
        config = ProxyConfig(server, outbound, needs, carries_udp=carries_udp)
        return TunnelSpec(name=name, kind=kind, source="uri", config=config)

    return made


@pytest.fixture(scope="session")
def links() -> Any:
    """Names of the links in a namespace."""

    def named(namespace: Namespace) -> set[str]:
        with namespace.entered():
            return {name for _, name in socket.if_nameindex()}

    return named


@pytest.fixture(scope="session")
def children() -> Any:
    """Processes in a cage, but for its first: pid → command line."""

    def listed(cage: Cage) -> dict[int, str]:
        inside = os.stat(f"/proc/self/fd/{cage._inner}").st_ino
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if (entry / "ns/pid").stat().st_ino == inside and not line.startswith("cat"):
                    found[int(entry.name)] = line
        return found

    return listed
