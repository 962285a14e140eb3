"""What the lab's web is made of: from platform files to addresses, names, certificates and an nginx configuration.

The endpoints are those of the platform files, whatever they are, so that the same files serve the field and the lab.
Every platform has an address of its own for its names, and one more for each literal address that its endpoints name.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vpntest.plan.model import Endpoint, Platform

if TYPE_CHECKING:
    import trustme

CHAIN_BYTES = 9000
"""Least size of a certificate chain, in DER. The handshake's first flight must outlast the five packets that a
censor's `cut` lets pass, at 1448 bytes each; large platforms' chains are 3 to 6 kB."""
SPEED_BYTES = 128 * 1024
"""Body of a platform's `speed` URL."""
PAGE_BYTES = 8 * 1024
"""Body of any other page. Small, for it is fetched a thousand times in a run."""

_DEFAULT_PORT = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Listener:
    """A port of the web server."""

    address: str
    port: int


@dataclass
class Web:
    """Where everything is. Filled by :func:`lay_out`."""

    names: dict[str, str] = field(default_factory=dict)
    """Name → lab address: what the honest resolver says."""
    literals: dict[str, str] = field(default_factory=dict)
    """Published address → lab address: a plan's `addresses`."""
    addresses: dict[str, list[str]] = field(default_factory=dict)
    """Platform → all its lab addresses."""
    endpoints: dict[Listener, dict[str, list[Endpoint]]] = field(default_factory=dict)
    """Listener → host name → what is asked there."""
    tls: set[Listener] = field(default_factory=set)
    """Those that speak TLS. A `tcp://` endpoint takes whatever its port speaks."""
    platform_of: dict[str, Platform] = field(default_factory=dict)
    """Lab address → whose it is."""


def lay_out(platforms: Iterable[Platform], names: str, literals: str) -> Web:
    """Gives every host of the platforms an address: a name one from the prefix `names`, an address one from `literals`.

    A name that two platforms use stays with the first.
    """
    web = Web()
    for_names, for_literals = ipaddress.ip_network(names).hosts(), ipaddress.ip_network(literals).hosts()
    for platform in platforms:
        own: str | None = None
        web.addresses[platform.id] = []
        for endpoint in _all_endpoints(platform):
            parts = urlsplit(endpoint.url)
            host, port = parts.hostname or "", parts.port or _DEFAULT_PORT.get(parts.scheme, 0)
            known = web.literals if _is_address(host) else web.names
            if host not in known:
                if known is web.literals:
                    known[host] = str(next(for_literals))
                else:
                    own = own or str(next(for_names))
                    known[host] = own
                web.platform_of[known[host]] = platform
            address = known[host]
            if address not in web.addresses[platform.id]:
                web.addresses[platform.id].append(address)
            listener = Listener(address, port)
            if parts.scheme == "https":
                web.tls.add(listener)
            web.endpoints.setdefault(listener, {}).setdefault(host, []).append(endpoint)
    return web


def _all_endpoints(platform: Platform) -> list[Endpoint]:
    found = [endpoint for service in platform.service for endpoint in service.endpoint]
    return found + ([Endpoint(url=platform.speed)] if platform.speed else [])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────────


def issue(issuer: trustme.CA, names: Sequence[str], file: Path) -> None:
    """Writes a key and a chain of :data:`CHAIN_BYTES` for `names` to `file`."""
    # A name takes its length and two bytes; the leaf and the intermediate without it some 1100.
    padding = [f"edge-{number:03}.{names[0]}" for number in range((CHAIN_BYTES - 1000) // (len(names[0]) + 11))]
    leaf = issuer.issue_cert(*names, *padding)
    leaf.private_key_and_cert_chain_pem.write_to_path(str(file))


# ── nginx ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_COMMON = """\
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  server_tokens off;
  default_type text/html;
  keepalive_requests 100000;
  client_max_body_size 4m;
  client_body_buffer_size 256k;
  client_body_temp_path {directory}/temp-body;
  proxy_temp_path {directory}/temp-proxy;
  fastcgi_temp_path {directory}/temp-fastcgi;
  uwsgi_temp_path {directory}/temp-uwsgi;
  scgi_temp_path {directory}/temp-scgi;
  server_names_hash_bucket_size 128;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_tickets off;
  root {directory}/www;
"""


def write_platforms(
    directory: Path, web: Web, issuer: trustme.CA, *, down: Iterable[str], refuses: Mapping[str, Sequence[str]]
) -> Path:
    """Writes what the platforms' server needs under `directory`; returns its configuration.

    `down` names the platforms that do not listen at all; `refuses` those that answer 403 to the given addresses.
    """
    www = directory / "www"
    www.mkdir(parents=True)
    lines = [_COMMON.format(directory=directory)]
    for refuser, visitors in refuses.items():
        lines.append(f"  geo $refused_by_{_word(refuser)} {{")
        lines.append("    default 0;")
        lines += [f"    {visitor} 1;" for visitor in visitors]
        lines.append("  }")
    names_at = defaultdict(list)
    for name, address in web.names.items():
        names_at[address].append(name)
    for listener, hosts in web.endpoints.items():
        platform = web.platform_of[listener.address]
        if platform.id in down:
            continue
        certificate = directory / f"{listener.address}.pem" if listener in web.tls else None
        if certificate and not certificate.exists():
            issue(issuer, names_at[listener.address] or [listener.address], certificate)
        _write_page(www / f"{platform.id}.html", platform.title, PAGE_BYTES)
        _write_page(www / f"{platform.id}-speed.html", platform.title, SPEED_BYTES)
        # The default server: any name, the neutral one too, gets the same chain and the same bodies.
        every = [endpoint for endpoints in hosts.values() for endpoint in endpoints]
        lines += _server(listener, None, platform, every, certificate, platform.id in refuses)
        for host, endpoints in hosts.items():
            lines += _server(listener, host, platform, endpoints, certificate, platform.id in refuses)
    lines.append("}")
    configuration = directory / "nginx.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return configuration


def _server(
    listener: Listener,
    host: str | None,
    platform: Platform,
    endpoints: Iterable[Endpoint],
    certificate: Path | None,
    refuses: bool,
) -> list[str]:
    default = " default_server" if host is None else ""
    kind = " ssl http2" if certificate else ""
    lines = ["  server {", f"    listen {listener.address}:{listener.port}{kind}{default};"]
    lines.append(f"    server_name {host or '_'};")
    if certificate:
        lines += [f"    ssl_certificate {certificate};", f"    ssl_certificate_key {certificate};"]
    if refuses:
        lines.append(f'    if ($refused_by_{_word(platform.id)}) {{ return 403 "<title>Access denied</title>"; }}')
    speed = urlsplit(platform.speed).path or "/" if platform.speed else None
    for path, (method, status) in _answers(endpoints).items():
        if path != speed and (method == "POST" or status != 200):
            lines.append(f'    location = {path} {{ return {status} "{platform.title}"; }}')
    if speed:
        lines.append(f"    location = {speed} {{ rewrite ^ /{platform.id}-speed.html break; }}")
    lines += [f"    location / {{ rewrite ^ /{platform.id}.html break; }}", "  }"]
    return lines


def _answers(endpoints: Iterable[Endpoint]) -> dict[str, tuple[str, int]]:
    """Path → method and the status that the platform file calls true. The first endpoint of a path decides."""
    found: dict[str, tuple[str, int]] = {}
    for endpoint in endpoints:
        if not endpoint.url.startswith("tcp:"):
            path = urlsplit(endpoint.url).path or "/"
            found.setdefault(path, (endpoint.method, endpoint.status[0] if endpoint.status else 200))
    return found


def _write_page(file: Path, title: str, size: int) -> None:
    head = f"<!doctype html><title>{title}</title>\n"
    file.write_text(head + "lab " * ((size - len(head)) // 4))


def _word(platform: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in platform)


def write_control(directory: Path, issuer: trustme.CA, addresses: Sequence[str], names: Sequence[str]) -> Path:
    """Writes the control server's files under `directory`; returns its configuration.

    `/64k` 65536 bytes · `/204` nothing · `/ip` the caller's address · `/upload` takes a POST, which it reads to its end
    before it answers. `addresses` with IPv6 in brackets.
    """
    www = directory / "www"
    www.mkdir(parents=True)
    (www / "64k").write_bytes(b"control " * 8192)
    certificate = directory / "control.pem"
    issue(issuer, names, certificate)
    listens = "\n".join(f"    listen {address}:443 ssl http2;\n    listen {address}:80;" for address in addresses)
    sink = directory / "sink.sock"
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _COMMON.format(directory=directory)
        + f"""
  server {{
{listens}
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    location = /64k {{ default_type application/octet-stream; }}
    location = /204 {{ return 204; }}
    location = /ip {{ default_type text/plain; return 200 $remote_addr; }}
    # nginx answers a `return` before it has read the request's body; in front of a proxy it reads the body first.
    location = /upload {{ proxy_pass http://unix:{sink}:/; }}
  }}
  server {{ listen unix:{sink}; location / {{ default_type text/plain; return 200 taken; }} }}
}}
"""
    )
    return configuration


def write_site(directory: Path, issuer: trustme.CA, address: str, name: str) -> Path:
    """Writes a small web site's files under `directory`; returns its configuration."""
    www = directory / "www"
    www.mkdir(parents=True)
    _write_page(www / "index.html", name, PAGE_BYTES)
    certificate = directory / "site.pem"
    issue(issuer, [name], certificate)
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _COMMON.format(directory=directory)
        + f"""
  server {{ listen {address}:443 ssl http2; ssl_certificate {certificate}; ssl_certificate_key {certificate}; }}
}}
"""
    )
    return configuration
