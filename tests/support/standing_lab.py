"""A lab that stands while tests look at it from within, with the tools that anybody would use: curl, dig, openssl."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vpntest.lab.internet import CONTROL, CONTROL_NAME, COVER, COVER_NAME, HOME, HOME_NAME, Lab, raise_lab
from vpntest.lab.profiles import Profile
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace

CURL_TIMEOUT, CURL_RESET, CURL_REFUSED, CURL_UNTRUSTED = 28, 35, 7, 60
"""Exit statuses of curl (curl.se/libcurl/c/libcurl-errors.html); 35 while it connects over TLS."""
_OTHERS = {CONTROL_NAME: CONTROL, HOME_NAME: HOME, COVER_NAME: COVER}
"""Names beside the platforms'."""


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
        where = address or _OTHERS.get(name) or self.lab.web.names[name]
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

    def http3(
        self,
        name: str,
        path: str = "/",
        *,
        method: str = "GET",
        address: str | None = None,
        host: str | Namespace = "client",
        verify: bool = True,
        seconds: float = 4,
        source_port: int = 0,
    ) -> Http3Answer:
        """One request by HTTP/3 to `name`, at `address` or where the honest resolver has it, with the lab's roots.

        `source_port` 0: any. Raises ConnectionError where there is no answer within so many seconds.
        """
        netns = self.lab.network[host] if isinstance(host, str) else host
        where = address or self.lab.web.names[name]
        roots = str(self.lab.directory / "plan" / "ca.pem")
        with netns.entered():
            return self.runner.run(
                ask_http3(where, 443, name, path, method, roots if verify else None, seconds, source_port)
            )

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


@dataclass(frozen=True)
class Http3Answer:
    """What an HTTP/3 server said."""

    headers: dict[str, str]
    body: bytes
    names: list[str]
    """In the certificate that it showed."""

    @property
    def status(self) -> int:
        """Of HTTP."""
        return int(self.headers[":status"])


async def ask_http3(
    address: str,
    port: int,
    name: str,
    path: str = "/",
    method: str = "GET",
    roots: str | None = None,
    seconds: float = 4,
    source_port: int = 0,
) -> Http3Answer:
    """One request with aioquic's client; without `roots` any certificate will do. Raises ConnectionError."""
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3_ALPN, H3Connection
    from aioquic.h3.events import DataReceived, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection
    from aioquic.quic.events import ConnectionTerminated, QuicEvent
    from cryptography.x509 import DNSName, SubjectAlternativeName

    loop = asyncio.get_running_loop()
    heard: asyncio.Future[tuple[dict[str, str], bytes]] = loop.create_future()

    class Asking(QuicConnectionProtocol):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self.http = H3Connection(self._quic)
            if method == "HEAD":
                # The library takes the length that an answer to HEAD announces for that of its body.
                self.http._check_content_length = lambda stream: None
            self.headers: dict[str, str] = {}
            self.body = b""

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ConnectionTerminated) and not heard.done():
                heard.set_exception(ConnectionError(event.reason_phrase))
            for one in self.http.handle_event(event):
                if isinstance(one, HeadersReceived):
                    self.headers = {key.decode(): value.decode() for key, value in one.headers}
                if isinstance(one, DataReceived):
                    self.body += one.data
                if isinstance(one, HeadersReceived | DataReceived) and one.stream_ended:
                    heard.set_result((self.headers, self.body))

    settings = QuicConfiguration(alpn_protocols=H3_ALPN, server_name=name)
    if roots:
        settings.load_verify_locations(roots)
    else:
        settings.verify_mode = ssl.CERT_NONE
    # Not by the library's own `connect`, which goes by IPv6 and mapped addresses.
    transport, asking = await loop.create_datagram_endpoint(
        lambda: Asking(QuicConnection(configuration=settings)),
        local_addr=("0.0.0.0", source_port) if source_port else None,
        remote_addr=(address, port),
    )
    try:
        async with asyncio.timeout(seconds):
            asking.connect((address, port))
            await asking.wait_connected()
            stream = asking._quic.get_next_available_stream_id()
            asked = {":method": method, ":scheme": "https", ":authority": name, ":path": path}
            asking.http.send_headers(stream, [(k.encode(), v.encode()) for k, v in asked.items()], end_stream=True)
            asking.transmit()
            headers, body = await heard
            shown = asking._quic.tls._peer_certificate.extensions.get_extension_for_class(SubjectAlternativeName)
            return Http3Answer(headers, body, shown.value.get_values_for_type(DNSName))
    except TimeoutError:
        raise ConnectionError("silence") from None
    finally:
        heard.cancel()
        asking.close()
        transport.close()


@contextlib.contextmanager
def standing(profile: Profile) -> Iterator[StandingLab]:
    """Raises the lab of a profile in a cage of its own, and takes both down."""
    with contextlib.closing(Cage.open()) as cage, asyncio.Runner() as runner:
        lab = runner.run(raise_lab(profile, cage))
        try:
            yield StandingLab(lab, runner, cage)
        finally:
            runner.run(lab.lower())
