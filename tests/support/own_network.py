"""A small network of the tests' own, made without vpntest.lab: what a user would build to try `vpntest run`.

    client 198.18.7.2 ──veth── server 198.18.7.1
                               ├── 198.18.7.53   dnsmasq: the resolver
                               ├── 198.18.7.80   nginx: the platform `example` and the control
                               └── 198.18.7.99   sing-box: a Shadowsocks server; it leaves as 198.18.7.1

No censor and no way out. Everything is in a cage and in anonymous namespaces, so it vanishes with the test process.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace

SHADOWSOCKS_PORT = 8388


@dataclass
class OwnNetwork:
    """The network while it stands."""

    client: Namespace
    server: Namespace
    directory: Path
    """For plans and configs; private to the test process and what it starts."""
    uri: str
    """The share link of its Shadowsocks server. Made for this run; nobody else's."""
    password: str
    """The secret inside `uri`, for searching what must not hold it."""

    def plan(self, tunnels: str, run: str = "") -> Path:
        """Writes a plan with these `[[tunnel]]` tables; `run` adds keys to `[run]`."""
        path = self.directory / "plan.toml"
        path.write_text(
            f"""
[run]
ca_file = "ca.pem"
resolver = "198.18.7.53"
public_resolver = "198.18.7.53"
control = ["https://control.test/64k"]
upload = "https://control.test/up"
exit_address = "https://control.test/ip"
whoami = "whoami.test"
neutral_name = "neutral.test"
platforms = ["./example.toml"]
{run}
{tunnels}
"""
        )
        return path

    @property
    def tunnel(self) -> str:
        """The `[[tunnel]]` table of the one good tunnel."""
        return f'[[tunnel]]\nname = "good"\nuri = "{self.uri}"\n'

    def vpntest(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """Starts `vpntest` in the client's namespace, as a user would there."""
        with self.client.entered():
            return subprocess.Popen(
                [sys.executable, "-m", "vpntest", *arguments],
                text=True,
                cwd=self.directory,
                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},  # type: ignore[call-overload]
            )


@contextmanager
def own_network(cage: Cage) -> Iterator[OwnNetwork]:
    """The network, for the body."""
    client, server = Namespace.create(), Namespace.create()
    directory = cage.directory / f"own-{secrets.token_hex(4)}"
    directory.mkdir()
    _wire(client, server)
    password = base64.b64encode(secrets.token_bytes(16)).decode()
    _write(directory, password)
    started = [
        cage.spawn(argv, server, cwd=directory)
        for argv in (
            ["dnsmasq", "--keep-in-foreground", f"--conf-file={directory}/dnsmasq.conf"],
            ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-g", "daemon off;"],
            ["sing-box", "run", "-c", str(directory / "server.json"), "-D", str(directory)],
        )
    ]
    for address, port in (("198.18.7.80", 443), ("198.18.7.99", SHADOWSOCKS_PORT), ("198.18.7.53", 53)):
        _await(lambda address=address, port=port: _answers(client, address, port), f"{address}:{port}")
    userinfo = base64.urlsafe_b64encode(f"aes-128-gcm:{password}".encode()).decode().rstrip("=")
    try:
        yield OwnNetwork(client, server, directory, f"ss://{userinfo}@198.18.7.99:{SHADOWSOCKS_PORT}#good", password)
    finally:
        for process in started:
            os.kill(process.pid, 9)
        client.close()
        server.close()


def _wire(client: Namespace, server: Namespace) -> None:
    def ip(netns: Namespace, *lines: str) -> None:
        with netns.entered():
            subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)

    with client.entered():
        subprocess.run(
            [
                "ip",
                "link",
                "add",
                "up0",
                "type",
                "veth",
                "peer",
                "name",
                "down0",
                "netns",
                f"/proc/self/fd/{server.fileno()}",
            ],
            check=True,
            pass_fds=[server.fileno()],
        )
    # Without IPv6 of its own, whose checks for duplicates would change what there is for the first two seconds.
    ip(client, "addr add 198.18.7.2/24 dev up0", "link set up0 addrgenmode none", "link set up0 up", "link set lo up")
    addresses = [f"addr add 198.18.7.{last}/24 dev down0" for last in (1, 53, 80, 99)]
    ip(server, *addresses, "link set down0 up", "link set lo up")


def _write(directory: Path, password: str) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("example.test", "www.example.test", "control.test", "neutral.test")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    leaf.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    (directory / "www").mkdir()
    (directory / "www" / "64k").write_bytes(secrets.token_bytes(65536))
    (directory / "www" / "index.html").write_text("<title>example</title>" + "x" * 131072)
    (directory / "nginx.conf").write_text(
        f"""
worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log crit; user root;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 1m; root {directory}/www;
  client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{
    listen 198.18.7.80:443 ssl http2; ssl_certificate server.pem; ssl_certificate_key server.pem;
    location = /ip {{ default_type text/plain; return 200 $remote_addr; }}
    location = /up {{ proxy_pass http://127.0.0.1:81; }}
  }}
  server {{ listen 127.0.0.1:81; location / {{ return 200; }} }}
}}
"""
    )
    (directory / "dnsmasq.conf").write_text(
        "no-resolv\nno-hosts\nuser=root\nbind-interfaces\nlisten-address=198.18.7.53\n"
        "address=/test/198.18.7.80\naddress=/server.test/198.18.7.99\n"
    )
    (directory / "server.json").write_text(
        json.dumps(
            {
                "log": {"level": "error"},
                "inbounds": [
                    {
                        "type": "shadowsocks",
                        "listen": "198.18.7.99",
                        "listen_port": SHADOWSOCKS_PORT,
                        "method": "aes-128-gcm",
                        "password": password,
                    }
                ],
            }
        )
    )
    (directory / "example.toml").write_text(
        """
id = "example"
title = "Example"
speed = "https://www.example.test/"
[[service]]
id = "web"
endpoint = [{ url = "https://www.example.test/" }]
"""
    )


def _answers(netns: Namespace, address: str, port: int) -> bool:
    probe = netns.socket(socket.AF_INET, socket.SOCK_STREAM)
    probe.settimeout(1)
    with probe:
        return probe.connect_ex((address, port)) == 0


def _await(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} of the tests' own network never answered")
        time.sleep(0.05)
