"""A lab that stands while tests look at it from within, with the tools that anybody would use: curl, dig, openssl."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from vpntest.lab.internet import CONTROL, CONTROL_NAME, Lab, raise_lab
from vpntest.lab.profiles import Profile
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace

CURL_TIMEOUT, CURL_RESET, CURL_REFUSED = 28, 35, 7
"""Exit statuses of curl (curl.se/libcurl/c/libcurl-errors.html); 35 while it connects over TLS."""


class StandingLab:
    """A lab, and programs that run on its hosts."""

    def __init__(self, lab: Lab, runner: asyncio.Runner, cage: Cage) -> None:
        self.lab = lab
        self.runner = runner
        self.cage = cage

    def run(self, host: str | Namespace, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a program on a host, or anywhere, in the plan's folder, to its end."""
        netns = self.lab.network[host] if isinstance(host, str) else host
        with netns.entered():
            return subprocess.run(
                argv, capture_output=True, text=True, timeout=60, check=check, cwd=self.lab.directory / "plan"
            )

    def curl(
        self,
        name: str,
        path: str = "/",
        *options: str,
        address: str | None = None,
        host: str | Namespace = "client",
        seconds: float = 4,
    ) -> Fetched:
        """One request by TLS to `name`, at `address` or where the honest resolver has it, with the lab's roots."""
        where = address or (CONTROL if name == CONTROL_NAME else self.lab.web.names[name])
        done = self.run(
            host,
            *("curl", "-sS", "--max-time", str(seconds), "--cacert", "ca.pem", "--resolve", f"{name}:443:{where}"),
            *("-o", "/dev/null", "-w", "%{http_code} %{size_download} %{http_version} %{time_appconnect}"),
            *options,
            f"https://{name}{path}",
            check=False,
        )
        code, size, version, spoke = done.stdout.split()[-4:]
        return Fetched(done.returncode, int(code), int(size), version, float(spoke) > 0)

    def connects(self, name: str, port: int = 443) -> bool:
        """Whether a TCP connection stands within a second."""
        with self.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.settimeout(1)
            return asking.connect_ex((self.lab.web.names[name], port)) == 0

    def dig(self, resolver: str, name: str, kind: str = "A", *, host: str | Namespace = "client") -> list[str]:
        """The answer of a resolver, sorted; the rcode in its place where there is no answer."""
        command = ("dig", "+time=2", "+tries=1", "+noall", "+comments", "+answer", f"@{resolver}", name, kind)
        lines = self.run(host, *command).stdout.splitlines()
        answers = sorted(line.split()[4] for line in lines if line and not line.startswith(";"))
        status = next(line.split("status: ")[1].split(",")[0] for line in lines if "status: " in line)
        return answers or [status]


@dataclass(frozen=True)
class Fetched:
    """What curl made of one request."""

    exit_status: int
    code: int
    size: int
    version: str
    spoke_tls: bool

    @property
    def ok(self) -> bool:
        """A whole answer under a certificate that curl takes."""
        return self.exit_status == 0 and self.code > 0


@contextlib.contextmanager
def standing(profile: Profile) -> Iterator[StandingLab]:
    """Raises the lab of a profile in a cage of its own, and takes both down."""
    with contextlib.closing(Cage.open()) as cage, asyncio.Runner() as runner:
        lab = runner.run(raise_lab(profile, cage))
        try:
            yield StandingLab(lab, runner, cage)
        finally:
            runner.run(lab.lower())
