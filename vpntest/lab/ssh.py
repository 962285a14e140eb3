"""An SSH server that forwards TCP for one user and does nothing else: no shell, no file, no user of this machine.

    python -m vpntest.lab.ssh SETTINGS

SETTINGS is a JSON file: `{"address": …, "port": …, "user": …, "password": …, "key": …}`, the key in OpenSSH's form. It
says `ready` once it listens.
"""

from __future__ import annotations

import asyncio
import hmac
import sys
from pathlib import Path

import asyncssh
import msgspec


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server is told."""

    address: str
    port: int
    user: str
    password: str
    key: str
    """The server's own private key."""


def new_key() -> tuple[str, str]:
    """A private key, and the public one as a line of `known_hosts` has it."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    return key.export_private_key().decode(), key.export_public_key().decode().strip()


class _Server(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        user = hmac.compare_digest(username.encode(), self._settings.user.encode())
        return user & hmac.compare_digest(password.encode(), self._settings.password.encode())

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        # What sing-box asks for: `direct-tcpip` (RFC 4254, 7.2), which the library then carries out.
        return True


async def _main(settings: Settings) -> None:
    await asyncssh.listen(
        settings.address,
        settings.port,
        server_factory=lambda: _Server(settings),
        server_host_keys=[asyncssh.import_private_key(settings.key)],
        # By default it would read what is in the home directory of whoever runs it.
        config=None,
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Settings)))
