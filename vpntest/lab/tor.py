"""A Tor network of the lab's own: one directory authority, a relay, an exit, and an obfs4 bridge.

    client ── censor ── bridge ── relay or authority ── exit ── platforms

It is real in all but its size and its haste: the authority votes with itself, every ten seconds, and what the public
network measures before it trusts a relay is taken for granted (`TestingTorNetwork`).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from vpntest.errors import CannotMeasure
from vpntest.lab.network import Daemon, Host, Network, program
from vpntest.lab.vpn import ClientTunnel

HOSTS = (
    Host("tor-authority", ("198.18.30.1",)),
    Host("tor-relay", ("198.18.30.2",)),
    Host("tor-exit", ("198.18.30.3",)),
    Host("tor-bridge", ("198.18.30.4",)),
)
_ADDRESS = {host.name: host.addresses[0] for host in HOSTS}
EXIT = _ADDRESS["tor-exit"]
"""The address that a platform sees when a visitor comes through Tor."""
READY_WITHIN = 60.0
"""Seconds that the network may need until it takes clients; a machine with 2 cores needs 8 to 25: relays that come too
late for one vote are in the next."""

_INTERVAL, _IN_TIME = 10, 3
_PORT, _DIRECTORY_PORT, _OBFS4_PORT = 443, 80, 8443


@dataclass(frozen=True)
class Tor:
    """A Tor network that takes clients."""

    tunnel: ClientTunnel
    """The client's bridge line."""
    authority: str
    """What the plan names under `tor_authorities`."""


async def raise_tor(network: Network, directory: Path, resolver: str) -> Tor:
    """Starts all of it and returns once the bridge knows relays enough for a circuit.

    `directory` must not be there yet. The exit looks names up at `resolver`. Raises CannotMeasure where a program is
    missing or ends.
    """
    directory.mkdir(mode=0o700)
    (directory / "resolv.conf").write_text(f"nameserver {resolver}\n")
    for name in _ADDRESS:
        (directory / name / "keys").mkdir(mode=0o700, parents=True)
        (directory / name).chmod(0o700)
    prints = {name: _identity(directory / name) for name in ("tor-authority", "tor-bridge")}
    voter = await asyncio.to_thread(_certificate, directory / "tor-authority" / "keys")
    place = f"{_ADDRESS['tor-authority']}:{_DIRECTORY_PORT}"
    authority = f"authority orport={_PORT} no-v2 v3ident={voter} {place} {prints['tor-authority']}"
    own = {
        "tor-authority": _AUTHORITY,
        "tor-relay": "ExitPolicy reject *:*\n",
        "tor-exit": f"ExitRelay 1\nExitPolicy accept *:*\nServerDNSResolvConfFile {directory}/resolv.conf\n",
        "tor-bridge": f"""\
BridgeRelay 1
PublishServerDescriptor 0
ExitPolicy reject *:*
ExtORPort auto
ServerTransportPlugin obfs4 exec {program("obfs4proxy")}
ServerTransportListenAddr obfs4 {_ADDRESS["tor-bridge"]}:{_OBFS4_PORT}
""",
    }
    for name, lines in own.items():
        (directory / f"{name}.torrc").write_text(_common(name, directory, authority) + lines)
    # Votes end at the clock's full ten seconds, and begin four before: all shall have spoken by the first one.
    if (past := time.time() % _INTERVAL) > _IN_TIME:
        await asyncio.sleep(_INTERVAL - past)
    daemons: dict[str, Daemon] = {}
    for name in own:
        file = directory / f"{name}.torrc"
        daemons[name] = network.start(name, ["tor", "--defaults-torrc", str(directory / "none"), "-f", str(file)])
    await daemons["tor-bridge"].says("(enough_dirinfo)")
    # Paths within the network need no exit; ours do.
    while f"\nr {_nickname('tor-exit')} " not in (directory / "tor-bridge/cached-microdesc-consensus").read_text():
        await daemons["tor-exit"].check()
        await asyncio.sleep(0.1)
    line = (directory / "tor-bridge/pt_state/obfs4_bridgeline.txt").read_text()
    found = re.search(r"cert=(\S+)", line)
    if found is None:
        raise CannotMeasure("the lab's tor-bridge: its transport wrote no bridge line")
    bridge = f"obfs4 {_ADDRESS['tor-bridge']}:{_OBFS4_PORT} {prints['tor-bridge']} cert={found[1]} iat-mode=0"
    return Tor(ClientTunnel("tor-obfs4", config=("tor-obfs4.txt", f"Bridge {bridge}\n")), authority)


def _nickname(name: str) -> str:
    return name.replace("-", "")


def _common(name: str, directory: Path, authority: str) -> str:
    return f"""\
TestingTorNetwork 1
DirAuthority {authority}
Nickname {_nickname(name)}
Address {_ADDRESS[name]}
ORPort {_ADDRESS[name]}:{_PORT}
SocksPort 0
DataDirectory {directory / name}
Log notice stdout
ShutdownWaitLength 0
AssumeReachable 1
ExitPolicyRejectPrivate 0
NumCPUs 1
"""


_AUTHORITY = f"""\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
DirPort {_ADDRESS["tor-authority"]}:{_DIRECTORY_PORT}
ContactInfo lab@tor.example
ExitPolicy reject *:*
V3AuthVotingInterval {_INTERVAL} seconds
V3AuthVoteDelay 2 seconds
V3AuthDistDelay 2 seconds
TestingV3AuthInitialVotingInterval {_INTERVAL} seconds
TestingV3AuthInitialVoteDelay 2 seconds
TestingV3AuthInitialDistDelay 2 seconds
TestingAuthDirTimeToLearnReachability 0 seconds
TestingMinFastFlagThreshold 0
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
AuthDirTestReachability 0
"""
"""Ten seconds are the least that tor takes between votes."""


def _identity(folder: Path) -> str:
    """Makes a relay's identity key, which tor would else make itself, and returns its fingerprint."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - tor takes no other size
    file = folder / "keys/secret_id_key"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    file.chmod(0o600)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    return hashlib.sha1(public).hexdigest().upper()  # noqa: S324 - tor's fingerprints are made so


def _certificate(keys: Path) -> str:
    """Makes the keys that an authority votes with, and returns their fingerprint."""
    done = subprocess.run(
        [
            *(program("tor-gencert"), "--create-identity-key", "--passphrase-fd", "0", "-m", "1"),
            *("-a", f"{_ADDRESS['tor-authority']}:{_DIRECTORY_PORT}"),
        ],
        input="lab\n",
        cwd=keys,
        capture_output=True,
        text=True,
    )
    file = keys / "authority_certificate"
    found = re.search(r"^fingerprint ([0-9A-F]{40})$", file.read_text(), re.MULTILINE) if file.is_file() else None
    if done.returncode != 0 or found is None:
        raise CannotMeasure(f"the lab's tor-authority: tor-gencert failed: {' / '.join(done.stderr.splitlines()[-3:])}")
    return found[1]
