"""What the lab's web is made of: from platform files to addresses, names, certificates and the servers' configurations.

The endpoints are those of the platform files, whatever they are, so that the same files serve the field and the lab.
Every platform has an address of its own for its names, and one more for each literal address that its endpoints name.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from vpntest.lab.http3 import Answer, Server, Settings
from vpntest.plan.model import Endpoint, Platform
from vpntest.plan.syntax import is_address

if TYPE_CHECKING:
    import trustme

CHAIN_BYTES = 9000
"""Least size of a certificate chain, in DER. The handshake's first flight must outlast the five packets that a
censor's `cut` lets pass, at 1448 bytes each; large platforms' chains are 3 to 6 kB."""
SPEED_BYTES = 128 * 1024
"""Body of a platform's `speed` URL."""
PAGE_BYTES = 8 * 1024
"""Body of any other page. Small, for it is fetched a thousand times in a run."""
NOTICE_BYTES = 1024
"""Body of a page of the access provider's: a few lines, as block pages are. OONI's has an eighth of the length of the
page in whose place it comes (ooni/probe-cli, netemx)."""

_DEFAULT_PORT = {"https": 443, "http": 80, "quic": 443, "stun": 3478}


@dataclass(frozen=True)
class Listener:
    """A port of a server; of UDP for HTTP/3 and STUN."""

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
    """Listener of the web server → host name → what is asked there."""
    http3: dict[Listener, dict[str, list[Endpoint]]] = field(default_factory=dict)
    """Likewise, over QUIC."""
    stun: set[Listener] = field(default_factory=set)
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
            known = web.literals if is_address(host) else web.names
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
            if parts.scheme == "stun":
                web.stun.add(listener)
                continue
            if parts.scheme == "https":
                web.tls.add(listener)
            served = web.http3 if parts.scheme == "quic" else web.endpoints
            served.setdefault(listener, {}).setdefault(host, []).append(endpoint)
    return web


def _all_endpoints(platform: Platform) -> list[Endpoint]:
    found = [endpoint for service in platform.service for endpoint in service.endpoint]
    return found + ([Endpoint(url=platform.speed)] if platform.speed else [])


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Issuer:
    """An authority, and from when its certificates hold."""

    authority: trustme.CA
    begins: datetime | None = None
    """None: for long."""
    ends: datetime | None = None
    """None: not for long."""

    def issue(self, *names: str, common_name: str | None = None) -> trustme.LeafCert:
        """A key and a certificate for `names`."""
        return self.authority.issue_cert(*names, common_name=common_name, not_before=self.begins, not_after=self.ends)


def authority(days: int = 0) -> tuple[trustme.CA, Issuer]:
    """A root, and one beneath it whose certificates begin in so many days; with 0, they are old."""
    import trustme

    root = trustme.CA()
    return root, Issuer(root.create_child_ca(), datetime.now(UTC) + timedelta(days) if days else None)


def issue(issuer: Issuer, names: Sequence[str], file: Path) -> None:
    """Writes a key and a chain of :data:`CHAIN_BYTES` for `names` to `file`."""
    # A name takes its length and two bytes; the leaf and the intermediate without it some 1100.
    padding = [f"edge-{number:03}.{names[0]}" for number in range((CHAIN_BYTES - 1000) // (len(names[0]) + 11))]
    issuer.issue(*names, *padding).private_key_and_cert_chain_pem.write_to_path(str(file))


Fault = Literal["expired", "wrong-name", "unknown-authority"]
"""What can be wrong with a server's own certificate."""


def issue_faulty(issuer: Issuer, names: Sequence[str], file: Path, fault: Fault) -> None:
    """Likewise, with a fault."""
    if fault == "wrong-name":
        issue(issuer, ["somebody-else.example"], file)
    elif fault == "unknown-authority":
        issue(authority()[1], names, file)
    else:
        now = datetime.now(UTC)
        issue(replace(issuer, begins=now - timedelta(90), ends=now - timedelta(1)), names, file)


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


@dataclass(frozen=True)
class Manners:
    """How the platforms behave, each by its id."""

    down: Collection[str] = ()
    """They do not listen at all."""
    refuses: Collection[str] = ()
    """They answer 403 to `exits`."""
    challenges: Collection[str] = ()
    """They answer 403 with Cloudflare's header to `exits`: a test for humans."""
    exits: Sequence[str] = ()
    """Addresses of VPN servers."""
    refuses_line: Collection[str] = ()
    """They answer 403 to `line`."""
    challenges_line: Collection[str] = ()
    """They answer 403 with that header to `line`."""
    line: Sequence[str] = ()
    """The client's own addresses."""
    certificates: Mapping[str, Fault] = field(default_factory=dict)
    """What is wrong with theirs."""
    page_bytes: Mapping[str, int] = field(default_factory=dict)
    """How long their pages are, where not :data:`PAGE_BYTES`."""


REFUSAL, CHALLENGE = "<title>Access denied</title>", "<title>Just a moment...</title>"
"""Bodies for visitors who are turned away."""
CHALLENGE_HEADER = ("cf-mitigated", "challenge")
"""What Cloudflare marks its challenges with (developers.cloudflare.com, Detect a Challenge Page response)."""


def write_platforms(directory: Path, web: Web, issuer: Issuer, manners: Manners) -> Path:
    """Writes what the platforms' servers need under `directory`; returns the configuration of nginx."""
    (directory / "www").mkdir(parents=True)
    for platform in {id(one): one for one in web.platform_of.values()}.values():
        size = manners.page_bytes.get(platform.id, PAGE_BYTES)
        _write_page(_page(directory, platform), platform.title, size)
        _write_page(_page(directory, platform, "-speed"), platform.title, SPEED_BYTES)
    names_at = defaultdict(list)
    for name, address in web.names.items():
        names_at[address].append(name)
    for address in {listener.address for listener in (*web.tls, *web.http3)}:
        names, fault = names_at[address] or [address], manners.certificates.get(web.platform_of[address].id)
        if fault:
            issue_faulty(issuer, names, _certificate(directory, address), fault)
        else:
            issue(issuer, names, _certificate(directory, address))
    header, mark = CHALLENGE_HEADER
    lines = [_COMMON.format(directory=directory)]
    for variable, value, visitors in (
        ("exit", "1", manners.exits),
        ("line", "1", manners.line),
        ("challenged", mark, manners.exits),
        ("line_challenged", mark, manners.line),
    ):
        lines += [
            f"  geo ${variable} {{",
            '    default "";',
            *(f"    {visitor} {value};" for visitor in visitors),
            "  }",
        ]
    for listener, hosts in web.endpoints.items():
        platform = web.platform_of[listener.address]
        if platform.id in manners.down:
            continue
        kind = []
        if listener in web.tls:
            certificate = _certificate(directory, listener.address)
            kind += [f"    ssl_certificate {certificate};", f"    ssl_certificate_key {certificate};"]
        if platform.id in manners.refuses:
            kind.append(f"    if ($exit) {{ return 403 '{REFUSAL}'; }}")
        if platform.id in manners.refuses_line:
            kind.append(f"    if ($line) {{ return 403 '{REFUSAL}'; }}")
        if platform.id in manners.challenges:
            # A header without a value is not sent.
            kind += [f"    add_header {header} $challenged always;", f"    if ($exit) {{ return 403 '{CHALLENGE}'; }}"]
        if platform.id in manners.challenges_line:
            kind += [
                f"    add_header {header} $line_challenged always;",
                f"    if ($line) {{ return 403 '{CHALLENGE}'; }}",
            ]
        # The default server: any name, the neutral one too, gets the same chain and the same bodies.
        every = [endpoint for endpoints in hosts.values() for endpoint in endpoints]
        for host, endpoints in ((None, every), *hosts.items()):
            lines += _server(listener, host, platform, endpoints, kind)
    lines.append("}")
    configuration = directory / "nginx.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return configuration


def _server(
    listener: Listener, host: str | None, platform: Platform, endpoints: Iterable[Endpoint], kind: Sequence[str]
) -> list[str]:
    listen = (" ssl http2" if any("ssl" in line for line in kind) else "") + (" default_server" if host is None else "")
    lines = ["  server {", f"    listen {listener.address}:{listener.port}{listen};"]
    lines += [f"    server_name {host or '_'};", *kind]
    speed = _speed_path(platform)
    for path, (method, status) in _answers(endpoints).items():
        if path != speed and (method == "POST" or status != 200):
            lines.append(f'    location = {path} {{ return {status} "{platform.title}"; }}')
    if speed:
        lines.append(f"    location = {speed} {{ rewrite ^ /{platform.id}-speed.html break; }}")
    lines += [f"    location / {{ rewrite ^ /{platform.id}.html break; }}", "  }"]
    return lines


def write_http3(directory: Path, web: Web, manners: Manners) -> Path:
    """Writes the configuration of :mod:`vpntest.lab.http3` beside the web server's, whose pages and certificates it
    shares; returns it."""
    refusal, challenge = Answer(403, REFUSAL), Answer(403, CHALLENGE, header=CHALLENGE_HEADER)
    servers = []
    for listener, hosts in web.http3.items():
        platform = web.platform_of[listener.address]
        if platform.id in manners.down:
            continue
        unwelcome = dict.fromkeys(manners.exits if platform.id in manners.refuses else (), refusal)
        unwelcome |= dict.fromkeys(manners.exits if platform.id in manners.challenges else (), challenge)
        unwelcome |= dict.fromkeys(manners.line if platform.id in manners.refuses_line else (), refusal)
        unwelcome |= dict.fromkeys(manners.line if platform.id in manners.challenges_line else (), challenge)
        sites = {}
        for host, endpoints in hosts.items():
            answers = {
                path: Answer(status, platform.title)
                for path, (_, status) in _answers(endpoints).items()
                if status != 200
            }
            if speed := _speed_path(platform):
                answers[speed] = Answer(200, file=str(_page(directory, platform, "-speed")))
            sites[host] = answers
        servers.append(
            Server(
                listener.address,
                listener.port,
                str(_certificate(directory, listener.address)),
                sites,
                Answer(200, file=str(_page(directory, platform))),
                unwelcome,
            )
        )
    file = directory / "http3.json"
    file.write_bytes(msgspec.json.encode(Settings(tuple(servers))))
    return file


def _certificate(directory: Path, address: str) -> Path:
    return directory / f"{address}.pem"


def _page(directory: Path, platform: Platform, kind: str = "") -> Path:
    return directory / "www" / f"{platform.id}{kind}.html"


def _speed_path(platform: Platform) -> str | None:
    return (urlsplit(platform.speed).path or "/") if platform.speed else None


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


def write_control(directory: Path, issuer: Issuer, addresses: Sequence[str], names: Sequence[str]) -> Path:
    """Writes a control server's files under `directory`; returns its configuration. Any name is served.

    `/64k` 65536 bytes · `/1m` 1048576 bytes · `/204` nothing · `/ip` the caller's address · `/upload` takes a POST,
    which it reads to its end before it answers. `addresses` with IPv6 in brackets.
    """
    www = directory / "www"
    www.mkdir(parents=True)
    (www / "64k").write_bytes(b"control " * 8192)
    (www / "1m").write_bytes(b"control " * 131072)
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
    location = /1m {{ default_type application/octet-stream; }}
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


def write_site(directory: Path, issuer: Issuer, address: str, name: str) -> Path:
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


def write_provider(directory: Path, lie: str, portal: str, portal_name: str) -> Path:
    """Writes the access provider's web under `directory`; returns its configuration.

    At `lie` its block page, whatever is asked for; at `portal` a captive portal, which sends every visitor on to its
    own name. Both speak TLS too, with a certificate that nobody trusts.
    """
    www = directory / "www"
    www.mkdir(parents=True)
    _write_page(www / "blocked.html", "Access to this resource is restricted", NOTICE_BYTES)
    _write_page(www / "login.html", "Sign in to the network", NOTICE_BYTES)
    certificate = directory / "provider.pem"
    _, issuer = authority()
    issuer.issue(portal_name).private_key_and_cert_chain_pem.write_to_path(str(certificate))
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _COMMON.format(directory=directory)
        + f"""
  ssl_certificate {certificate};
  ssl_certificate_key {certificate};
  server {{
    listen {lie}:80;
    listen {lie}:443 ssl http2;
    location / {{ rewrite ^ /blocked.html break; }}
  }}
  server {{
    listen {portal}:80;
    listen {portal}:443 ssl http2;
    return 302 http://{portal_name}/;
  }}
  server {{
    listen {portal}:80;
    server_name {portal_name};
    location / {{ rewrite ^ /login.html break; }}
  }}
}}
"""
    )
    return configuration
