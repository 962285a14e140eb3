"""The lab's VPN servers, real programs each, and the client's config for every one of them. Keys are new at each start.

host   speaks                                                              the client's tunnels
wg-a   WireGuard, preshared key, IPv4 and IPv6 inside, found by name       wireguard
wg-b   WireGuard                                                           wireguard-2
awg    AmneziaWG, with real obfuscation and with WireGuard's own headers   amneziawg, amneziawg-plain
ovpn   OpenVPN: UDP, tls-crypt, password; TCP 443, tls-auth, certificates  openvpn-udp, openvpn-tcp, wrong-credentials
                                                                           (further: openvpn-zip, command-device)
proxy  sing-box: five kinds of proxy                                       shadowsocks-2022, shadowsocks-aead,
                                                                           vless-reality, trojan, hysteria2

These stand in every lab. Those of dialects.py are raised beside them for the profiles that name them.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import secrets
import subprocess
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vpntest.errors import CannotMeasure
from vpntest.lab.network import Daemon, Host, Network, connects, program
from vpntest.lab.sites import Issuer

HOSTS = (
    Host("wg-a", ("198.18.20.1",), "fd00:18::20:1", forwards=True),
    Host("wg-b", ("198.18.20.2",), forwards=True),
    Host("awg", ("198.18.20.3",), forwards=True),
    Host("ovpn", ("198.18.20.4",), forwards=True),
    # Two addresses, for two protocols want TCP port 443.
    Host("proxy", ("198.18.20.5", "198.18.20.6")),
)
"""Each speaks to the world from its first address: the exits."""
_ADDRESS = {host.name: host.addresses[0] for host in HOSTS}

WIREGUARD_NAME = "wg.vpn.example"
TROJAN_NAME = "trojan.vpn.example"
HYSTERIA_NAME = "hysteria.vpn.example"
NAMES = {WIREGUARD_NAME: _ADDRESS["wg-a"], TROJAN_NAME: "198.18.20.6", HYSTERIA_NAME: _ADDRESS["proxy"]}
"""Names of VPN servers, and what the resolvers say of them."""

REALITY = "vless-reality"
"""The one tunnel that not every sing-box can carry."""

EXITS = tuple(_ADDRESS.values())
"""The addresses that a platform sees when a visitor comes through one of the tunnels."""


@dataclass(frozen=True)
class ClientTunnel:
    """A `[[tunnel]]` of the client's plan: a link, or else a config, or else a command."""

    name: str
    uri: str | None = None
    config: tuple[str, str | bytes] | None = None
    """`(file name, content)`."""
    login: tuple[str, str] | None = None
    """User name and password, which the plan holds."""
    keys: tuple[tuple[str, object], ...] = ()
    """Further keys of the plan's `[[tunnel]]`, with what JSON can hold; a table's keys are bare ones."""
    called: str | None = None
    """Its name in the plan, where that of an archive's member is added to it."""


def _x25519() -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def as_base64(raw: bytes) -> str:
    """In the standard alphabet, with padding."""
    return base64.b64encode(raw).decode()


# ── WireGuard and AmneziaWG ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class WireGuard:
    """A server of WireGuard or AmneziaWG, and the tunnel of its one client."""

    name: str
    host: str
    endpoint: str
    """What the client calls it: its address, or a name of it."""
    device: str
    port: int
    inner: str
    """The tunnel's networks: `198.19.64.0/24` is meant by `198.19.64`."""
    inner6: str | None = None
    preshared: bool = False
    amnezia: tuple[tuple[str, str], ...] | None = None


def obfuscation() -> tuple[tuple[str, str], ...]:
    """Junk before each handshake, padding on every kind of packet, and types of its own for all four of them."""
    dice = random.SystemRandom()
    types = dice.sample(range(100_000_000, 2_000_000_000), 4)
    return (
        ("Jc", "4"),
        ("Jmin", "40"),
        ("Jmax", "90"),
        # S1 + 56 = S2 would make both handshake packets of one length again (amneziawg-go's README).
        ("S1", "68"),
        ("S2", "113"),
        ("S3", "31"),
        ("S4", "17"),
        *((f"H{number}", str(value)) for number, value in enumerate(types, 1)),
        ("I1", "<b 0xc70000000108><r 16><t><r 40>"),
    )


_PLAIN = (
    *(("Jc", "4"), ("Jmin", "40"), ("Jmax", "90"), ("S1", "0"), ("S2", "0")),
    *((f"H{number}", str(number)) for number in range(1, 5)),
)
"""As widely shared configs for plain WireGuard servers have it: junk first, then WireGuard's own bytes."""


def device_name() -> str:
    """A new one. Carriers know each other by their devices' names, over all namespaces: two labs must not meet."""
    return f"lab-{secrets.token_hex(4)}"


def _wireguards() -> tuple[WireGuard, ...]:
    a, b, obfuscated, plain = (device_name() for _ in range(4))
    return (
        WireGuard("wireguard", "wg-a", WIREGUARD_NAME, a, 51820, "198.19.64", "fd00:64::", preshared=True),
        WireGuard("wireguard-2", "wg-b", _ADDRESS["wg-b"], b, 51820, "198.19.65"),
        WireGuard("amneziawg", "awg", _ADDRESS["awg"], obfuscated, 41820, "198.19.66", amnezia=obfuscation()),
        WireGuard("amneziawg-plain", "awg", _ADDRESS["awg"], plain, 51820, "198.19.67", amnezia=_PLAIN),
    )


async def raise_wireguard(network: Network, one: WireGuard, resolver: str) -> ClientTunnel:
    """Starts a server; its client's config is one of wg-quick. Raises CannotMeasure where it does not take its part."""
    carrier = "wireguard-go" if one.amnezia is None else "amneziawg-go"
    daemon = network.start(one.host, [carrier, "-f", one.device])
    (server_private, server_public), (client_private, client_public) = _x25519(), _x25519()
    preshared = secrets.token_bytes(32) if one.preshared else None
    lines = [f"private_key={server_private.hex()}", f"listen_port={one.port}"]
    # The junk and the signature packets are the initiator's affair; the server needs what both must agree upon.
    lines += [f"{key.lower()}={value}" for key, value in one.amnezia or () if key[0] in "SH"]
    lines += [f"public_key={client_public.hex()}", f"allowed_ip={one.inner}.2/32"]
    if one.inner6:
        lines.append(f"allowed_ip={one.inner6}2/128")
    if preshared:
        lines.append(f"preshared_key={preshared.hex()}")
    directory = "wireguard" if one.amnezia is None else "amneziawg"
    await _tell(Path("/run", directory, f"{one.device}.sock"), lines, daemon)
    addresses = [f"addr add {one.inner}.1/24 dev {one.device}"]
    if one.inner6:
        addresses.append(f"addr add {one.inner6}1/64 dev {one.device}")
    network.ip(one.host, *addresses, f"link set {one.device} mtu 1420 up")

    inner = f"{one.inner}.2/32" + (f", {one.inner6}2/128" if one.inner6 else "")
    text = ["[Interface]", f"PrivateKey = {as_base64(client_private)}", f"Address = {inner}", f"DNS = {resolver}"]
    text += [f"{key} = {value}" for key, value in one.amnezia or ()]
    text += ["", "[Peer]", f"PublicKey = {as_base64(server_public)}"]
    if preshared:
        text.append(f"PresharedKey = {as_base64(preshared)}")
    text.append("AllowedIPs = 0.0.0.0/0" + (", ::/0" if one.inner6 else ""))
    text.append(f"Endpoint = {one.endpoint}:{one.port}")
    return ClientTunnel(one.name, config=(f"{one.name}.conf", "\n".join(text) + "\n"))


async def _tell(socket: Path, lines: list[str], daemon: Daemon) -> None:
    """Sets a device over its UAPI socket (wireguard.com/xplatform), as soon as that listens."""
    while True:
        await daemon.check()
        try:
            reader, writer = await asyncio.open_unix_connection(socket)
            break
        except (FileNotFoundError, ConnectionRefusedError):
            await asyncio.sleep(0.01)
    try:
        writer.write(("\n".join(["set=1", *lines]) + "\n\n").encode())
        reply = await reader.readuntil(b"\n\n")
    finally:
        # Also where another server's fault ends the raising while this one has not answered.
        writer.close()
    if reply.strip() != b"errno=0":
        raise CannotMeasure(
            f"the lab's {socket.stem}: its carrier does not take its settings ({reply.decode().strip()})"
        )


# ── OpenVPN ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _static_key() -> str:
    hexed = secrets.token_hex(256)
    rows = "\n".join(hexed[start : start + 32] for start in range(0, 512, 32))
    return f"-----BEGIN OpenVPN Static key V1-----\n{rows}\n-----END OpenVPN Static key V1-----\n"


async def _raise_openvpn(
    network: Network, directory: Path, resolver: str, begins: datetime | None
) -> tuple[ClientTunnel, ...]:
    import trustme

    directory.mkdir()
    authority = trustme.CA()
    # OpenVPN wants a common name of each.
    server = Issuer(authority, begins).issue("server.example", common_name="server.example")
    # One each: the server ends a client's connection when another one comes with its certificate.
    names = ("client.example", "archive.example", "command.example")
    client, of_archive, of_command = (authority.issue_cert(name, common_name=name) for name in names)
    root = authority.cert_pem.bytes().decode()
    user, password = "reader", secrets.token_urlsafe(12)
    # What OpenVPN writes for the checking program: the name, a line feed, the password, a line feed.
    (directory / "credentials").write_text(f"{user}\n{password}\n")
    common_server = f"""\
dev-type tun
topology subnet
dh none
tls-groups X25519:secp256r1
data-ciphers AES-128-GCM
keepalive 20 120
persist-tun
disable-dco
script-security 2
tmp-dir {directory}
push "redirect-gateway def1"
push "dhcp-option DNS {resolver}"
verb 1
<ca>
{root}</ca>
<cert>
{server.cert_chain_pems[0].bytes().decode()}</cert>
<key>
{server.private_key_pem.bytes().decode()}</key>
"""
    common_client = f"""\
client
dev tun
nobind
remote-cert-tls server
data-ciphers AES-128-GCM
verb 3
<ca>
{root}</ca>
"""
    crypt, auth = _static_key(), _static_key()
    servers = {
        "udp": f"""\
dev labovpnu
proto udp
local {_ADDRESS["ovpn"]}
port 1194
server 198.19.68.0 255.255.255.0
verify-client-cert none
username-as-common-name
duplicate-cn
auth-user-pass-verify "{program("cmp")} -s {directory}/credentials" via-file
<tls-crypt>
{crypt}</tls-crypt>
""",
        "tcp": f"""\
dev labovpnt
proto tcp-server
local {_ADDRESS["ovpn"]}
port 443
server 198.19.69.0 255.255.255.0
auth SHA256
key-direction 0
<tls-auth>
{auth}</tls-auth>
""",
    }
    daemons = []
    for transport, own in servers.items():
        file = directory / f"{transport}.conf"
        file.write_text(own + common_server)
        daemons.append(network.start("ovpn", ["openvpn", "--config", str(file)]))

    def over_udp(name: str, secret: str) -> ClientTunnel:
        text = (
            f"{common_client}proto udp\nremote {_ADDRESS['ovpn']} 1194\nauth-user-pass\n"
            f"<tls-crypt>\n{crypt}</tls-crypt>\n"
        )
        return ClientTunnel(name, config=(f"{name}.ovpn", text), login=(user, secret))

    head, _, _ = common_client.partition("<ca>")
    archive = _zipped(
        {
            "lab/Zip.ovpn": f"{head}proto tcp\nremote {_ADDRESS['ovpn']} 443\nauth SHA256\nca ca.crt\n"
            "cert client.crt\nkey client.key\ntls-auth ta.key 1\n",
            "lab/ca.crt": root,
            "lab/client.crt": of_archive.cert_chain_pems[0].bytes().decode(),
            "lab/client.key": of_archive.private_key_pem.bytes().decode(),
            "lab/ta.key": auth,
            "lab/README.txt": "Copy all of these files into the folder of your client.\n",
        }
    )

    def over_tcp(leaf: trustme.LeafCert) -> str:
        certificate, key = leaf.cert_chain_pems[0].bytes().decode(), leaf.private_key_pem.bytes().decode()
        return (
            f"{common_client}proto tcp\nremote {_ADDRESS['ovpn']} 443\nauth SHA256\nkey-direction 1\n"
            f"<tls-auth>\n{auth}</tls-auth>\n<cert>\n{certificate}</cert>\n<key>\n{key}</key>\n"
        )

    await asyncio.gather(*(daemon.says("Initialization Sequence Completed") for daemon in daemons))
    return (
        over_udp("openvpn-udp", password),
        ClientTunnel("openvpn-tcp", config=("openvpn-tcp.ovpn", over_tcp(client))),
        over_udp("wrong-credentials", secrets.token_urlsafe(12)),
        ClientTunnel("openvpn-zip", config=("openvpn-zip.zip", archive), called="openvpn"),
        commanded(
            *("command-device", "openvpn --config /dev/stdin --dev tun7", over_tcp(of_command)),
            *(f"{_ADDRESS['ovpn']}:443/tcp", resolver, ("device", "tun7")),
        ),
    )


def commanded(name: str, client: str, config: str, server: str, resolver: str, way: tuple[str, str]) -> ClientTunnel:
    """A tunnel by a client of the plan's own, which reads its config from its input.

    `client` is its command line for the shell; `way` the key that says how to go through it, and its value.
    """
    keys: dict[str, object] = {
        "command": ["sh", "-c", f'printf %s "$CONFIG" | {client}'],
        way[0]: way[1],
        "environment": {"CONFIG": config},
        "resolver": resolver,
        "server": server,
    }
    return ClientTunnel(name, keys=tuple(keys.items()))


def _zipped(files: Mapping[str, str]) -> bytes:
    """As providers hand it out: one config, and what it names beside it."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return held.getvalue()


# ── sing-box ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def speaks_reality() -> bool:
    """Whether this machine's sing-box was built with uTLS, without which it can neither serve nor use Reality."""
    said = subprocess.run([program("sing-box"), "version"], capture_output=True, text=True, check=True).stdout
    return "with_utls" in said


async def _raise_proxies(
    network: Network, directory: Path, issuer: Issuer, cover: tuple[str, str], *, reality: bool
) -> tuple[ClientTunnel, ...]:
    directory.mkdir()
    main, second = HOSTS[4].addresses
    pem = str(directory / "server.pem")
    chain = issuer.issue(TROJAN_NAME, HYSTERIA_NAME)
    chain.private_key_and_cert_chain_pem.write_to_path(pem)
    certificate = {"enabled": True, "certificate_path": pem, "key_path": pem}
    key2022, password = as_base64(secrets.token_bytes(16)), secrets.token_urlsafe(16)
    identity, short = str(uuid.uuid4()), secrets.token_hex(8)
    reality_private, reality_public = (base64.urlsafe_b64encode(raw).decode().rstrip("=") for raw in _x25519())
    cover_name, cover_address = cover
    inbounds: list[dict[str, Any]] = [
        inbound(
            "hysteria2",
            main,
            8443,
            users=[{"password": password}],
            obfs={"type": "salamander", "password": key2022},
            tls=certificate | {"alpn": ["h3"]},
        ),
        inbound("shadowsocks", main, 8388, method="2022-blake3-aes-128-gcm", password=key2022),
        inbound("shadowsocks", main, 8389, method="chacha20-ietf-poly1305", password=password),
        inbound("trojan", second, 443, users=[{"password": password}], tls=certificate),
    ]
    if reality:
        disguise = {
            "enabled": True,
            "handshake": {"server": cover_address, "server_port": 443},
            "private_key": reality_private,
            "short_id": [short],
        }
        inbounds.append(
            inbound(
                "vless",
                main,
                443,
                users=[{"uuid": identity, "flow": "xtls-rprx-vision"}],
                tls={"enabled": True, "server_name": cover_name, "reality": disguise},
            )
        )
    file = directory / "server.json"
    file.write_text(json.dumps({"log": {"level": "error", "timestamp": False}, "inbounds": inbounds}))
    network.start("proxy", ["sing-box", "run", "-c", str(file), "-D", str(directory)])
    # It opens its ports in the order of the file: with the last one all are open.
    await network.until(connects, "proxy", inbounds[-1]["listen"], inbounds[-1]["listen_port"])
    userinfo = base64.urlsafe_b64encode(f"chacha20-ietf-poly1305:{password}".encode()).decode().rstrip("=")
    return (
        ClientTunnel("shadowsocks-2022", uri=f"ss://2022-blake3-aes-128-gcm:{quote(key2022, safe='')}@{main}:8388"),
        ClientTunnel("shadowsocks-aead", uri=f"ss://{userinfo}@{main}:8389"),
        ClientTunnel(
            REALITY,
            uri=f"vless://{identity}@{main}:443?type=tcp&encryption=none&security=reality&flow=xtls-rprx-vision"
            f"&sni={cover_name}&fp=chrome&pbk={reality_public}&sid={short}",
        ),
        # With Go's ClientHello, beside Reality's with Chrome's: some censors tell them apart.
        ClientTunnel(
            "trojan", uri=f"trojan://{password}@{second}:443?type=tcp&security=tls&sni={TROJAN_NAME}&fp=unsafe"
        ),
        ClientTunnel(
            "hysteria2",
            uri=f"hysteria2://{password}@{main}:8443/?obfs=salamander&obfs-password={quote(key2022, safe='')}"
            f"&sni={HYSTERIA_NAME}",
        ),
    )


def inbound(kind: str, address: str, port: int, **fields: Any) -> dict[str, Any]:
    """One of sing-box's."""
    return {"type": kind, "tag": f"{kind}-{port}", "listen": address, "listen_port": port, **fields}


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def raise_servers(
    network: Network, directory: Path, resolver: str, issuer: Issuer, cover: tuple[str, str], *, reality: bool
) -> tuple[ClientTunnel, ...]:
    """Starts every server, waits until all of them take clients, and returns the client's configs in the plan's order.

    `resolver` is told to clients as their resolver inside; `issuer` signs the certificates of servers that present
    themselves as web sites; `cover` is the name and address of the site that Reality borrows its handshake from;
    without `reality` that one server is left out, and its client's config is not. Raises CannotMeasure where a server
    does not start.
    """
    wireguards, (*good, wrong, archive, command), proxies = await asyncio.gather(
        asyncio.gather(*(raise_wireguard(network, one, resolver) for one in _wireguards())),
        _raise_openvpn(network, directory / "openvpn", resolver, issuer.begins),
        _raise_proxies(network, directory / "sing-box", issuer, cover, reality=reality),
    )
    return (*wireguards, *good, *proxies, wrong, archive, command)
