"""What a run needs, validated: the frozen types that every later stage reads.

    Plan ─┬─ TunnelSpec ── Config: of WireGuard, OpenVPN, a proxy, Tor, a command   (or the Problem why there is none)
          │              └─ Finding …
          ├─ Platform ── Service ── Endpoint
          └─ Settings

Knows no file format and does no I/O; the readers beside it fill it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from vpntest.plan.secret import Secret

Slug = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A name that stays: of a tunnel, platform or service. Kept runs are compared by it from night to night."""
OUTSIDE = "outside"
"""The id of the vantage that is no tunnel. No tunnel may be called so."""


# ── tunnels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Kind(StrEnum):
    """What a tunnel speaks, as its config says it."""

    WIREGUARD = "wireguard"
    AMNEZIAWG = "amneziawg"
    OPENVPN = "openvpn"
    SHADOWSOCKS = "shadowsocks"
    VLESS = "vless"
    VMESS = "vmess"
    TROJAN = "trojan"
    HYSTERIA2 = "hysteria2"
    TUIC = "tuic"
    ANYTLS = "anytls"
    SOCKS = "socks"
    HTTP = "http"
    """A proxy by HTTP CONNECT, with or without TLS."""
    SSH = "ssh"
    TOR = "tor"
    COMMAND = "command"
    """Any other client, which the plan's own command line starts."""
    UNKNOWN = "unknown"
    """The config could not be read far enough to tell."""


class Server(Struct, frozen=True):
    """Where a tunnel's outer packets go."""

    host: str
    """A name or a literal address; IPv6 without brackets."""
    port: int
    """1 to 65535."""
    transport: Literal["udp", "tcp"]
    """What carries the outer packets."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.transport}"


class WireGuardPeer(Struct, frozen=True):
    """One `[Peer]`."""

    public_key: str
    """Base64 of 32 bytes; public, so no secret."""
    endpoint: Server | None
    """None for a peer that only answers; such a peer cannot be started from our side."""
    allowed_ips: tuple[str, ...]
    """Networks in CIDR form, host bits cleared."""
    preshared_key: Secret | None = None
    """Base64 of 32 bytes."""
    persistent_keepalive: int = 0
    """Seconds between keepalives; 0 is off."""


class AmneziaParameters(Struct, frozen=True):
    """What turns WireGuard into AmneziaWG: the obfuscation, in the UAPI's names (amneziawg-go, device/uapi.go)."""

    values: tuple[tuple[str, str], ...]
    """`("jc", "4")`, `("h1", "5-100")`, `("i1", "<b 0x…>")` … in the UAPI's order, only those that the config sets."""


class WireGuardConfig(Struct, frozen=True):
    """A wg-quick file's meaning, without the parts that act on the host (hooks, tables, marks)."""

    private_key: Secret
    """Base64 of 32 bytes."""
    addresses: tuple[str, ...]
    """Interface addresses in CIDR form."""
    peers: tuple[WireGuardPeer, ...]
    dns: tuple[str, ...] = ()
    """Resolver addresses."""
    search: tuple[str, ...] = ()
    """Search domains, from the same `DNS =` line."""
    mtu: int | None = None
    """Bytes; None where the file does not say."""
    listen_port: int = 0
    """0 lets the kernel choose."""
    amnezia: AmneziaParameters | None = None
    """None for plain WireGuard."""

    @property
    def servers(self) -> tuple[Server, ...]:
        """Every peer's endpoint, in file order."""
        return tuple(peer.endpoint for peer in self.peers if peer.endpoint)


class OpenVpnConfig(Struct, frozen=True):
    """An .ovpn file's meaning: the allowed directives, ready to be written out anew."""

    servers: tuple[Server, ...]
    """Each `remote`, in file order."""
    directives: tuple[tuple[str, ...], ...]
    """Allowed directives with their arguments, unquoted, in file order, without `remote`, `proto` and `port`."""
    inline: tuple[tuple[str, Secret], ...]
    """Inline blocks: `("ca", …)`, `("tls-crypt", …)`. Files named by the config are read into here."""
    username: Secret | None = None
    """With `password`: what `auth-user-pass` asks for."""
    password: Secret | None = None
    asks_login: bool = False
    """Whether it asks for them and neither the config nor the plan has said them: sound, but not to be raised."""


class ProxyConfig(Struct, frozen=True):
    """The meaning of a share link, or of one proxy in a client's own document: one sing-box outbound."""

    server: Server
    outbound: dict[str, object]
    """The outbound as sing-box wants it, without `server`, `server_port`, `tag`; its secrets are :class:`Secret`."""
    needs: tuple[str, ...] = ()
    """Build features of sing-box that it needs: `utls`, `quic`."""
    tls_unverified: bool = False
    """The link asked that the server's certificate be not checked. Honoured, and shown."""
    carries_udp: bool = True
    """Whether UDP passes at all. Where it does not, names are asked for over TCP, and nothing is sent by QUIC."""

    @property
    def servers(self) -> tuple[Server, ...]:
        """The one server."""
        return (self.server,)


class Bridge(Struct, frozen=True):
    """One bridge line, as Tor's manual has it: `[transport] address:port [fingerprint] [key=value …]`."""

    transport: str | None
    """`obfs4`, `webtunnel`, `snowflake`, `meek_lite`; None for a plain one."""
    address: str
    """`address:port`, IPv6 in brackets. With webtunnel, snowflake and meek a placeholder that nobody calls."""
    fingerprint: str | None
    """Forty hexadecimal digits; None where the line has none."""
    arguments: tuple[tuple[str, Secret | str], ...]
    """Of the transport, in the line's order: who knows them can find and block the bridge. No secret are those that
    many bridges have alike, such as `iat-mode=0`."""
    server: Server | None
    """Where the outer packets go first, as far as the line tells: the bridge, or the front of its `url`. None where
    the transport finds out by itself."""
    asked: tuple[Server, ...] = ()
    """Whom else the transport's client calls by its arguments: brokers, fronts, caches, STUN servers."""


class TorConfig(Struct, frozen=True):
    """Tor by bridges."""

    bridges: tuple[Bridge, ...]
    """At least one; tor chooses among them."""

    @property
    def servers(self) -> tuple[Server, ...]:
        """Every bridge's, in file order."""
        return tuple(bridge.server for bridge in self.bridges if bridge.server)

    @property
    def called(self) -> tuple[Server, ...]:
        """Everybody whom a config has called, in file order."""
        return (*self.servers, *(server for bridge in self.bridges for server in bridge.asked))


class CommandConfig(Struct, frozen=True):
    """A client of its own that the plan starts: its words are the operator's, and trusted."""

    argv: tuple[str, ...]
    """Program and arguments; no shell. They stand in the process list: secrets belong into `environment`."""
    environment: tuple[tuple[str, Secret], ...] = ()
    device: str | None = None
    """The network device that the client makes. Exactly one of this and `proxy` is set."""
    proxy: str | None = None
    """`socks5://127.0.0.1:1080` or `http://127.0.0.1:8080`, where the client listens in its own namespace."""
    ready: tuple[str, ...] = ()
    """A program that exits with 0 once the client is connected; empty: the device has an address, the proxy's port is
    open."""
    ready_within: float = 30.0
    """Seconds."""
    resolver: str | None = None
    """Address of the resolver inside; None: the plan's public one."""
    server: Server | None = None
    """Where its outer packets go, as far as the plan says it."""

    @property
    def servers(self) -> tuple[Server, ...]:
        """The one server, where the plan names it."""
        return (self.server,) if self.server else ()


Config = WireGuardConfig | OpenVpnConfig | ProxyConfig | TorConfig | CommandConfig


class Problem(Struct, frozen=True):
    """Why a tunnel of the plan cannot be raised at all."""

    mechanism: Literal["invalid", "unsupported", "refused"]
    """`invalid`: the config is broken. `unsupported`: it is sound, but we cannot honour something that it asks for.
    `refused`: it could be honoured, and must not be, for it reaches for this machine or its own networks."""
    reason: str
    """One line: where, what, what to do. Holds no secret."""


class Finding(Struct, frozen=True):
    """One thing that a reader should know about a config that can be used."""

    level: Literal["note", "warning", "danger"]
    """`note`: left out, and what is tested stays the same. `warning`: left out or weak, and it may matter.
    `danger`: it would have acted on this machine, or lets anybody pose as the server."""
    text: str
    """What is so and what follows, in one line without secrets."""
    line: int | None = None
    """One-based, in the source; None where it has no line."""


class Entry(Struct, frozen=True):
    """One config as it was found in a source, before it is a tunnel with a name."""

    kind: Kind
    config: Config | None
    """None exactly when `problem` is set."""
    problem: Problem | None = None
    findings: tuple[Finding, ...] = ()
    line: int | None = None
    """Where it begins in the source: a link's line in a list. None where it is the whole source."""
    label: str = ""
    """What the source itself calls it (a link's fragment, a proxy's tag): printable, of a stranger, never a key."""


class TunnelSpec(Struct, frozen=True):
    """One tunnel of the plan."""

    name: Slug
    kind: Kind
    source: str
    """The file it came from (`links.txt`, `pack.zip/se.ovpn`), or `uri` for a link in the plan; never the link."""
    config: Config | None
    """None exactly when `problem` is set."""
    problem: Problem | None = None
    findings: tuple[Finding, ...] = ()
    line: int | None = None
    """As of :class:`Entry`."""
    label: str = ""
    """As of :class:`Entry`."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Its findings from `warning` on, each with its place."""
        return tuple(
            f"{self.source}{'' if finding.line is None else f':{finding.line}'}: {finding.text}"
            for finding in self.findings
            if finding.level != "note"
        )


# ── platforms ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Endpoint(Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that a platform's client talks to."""

    url: str
    """`https://`, `http://` (plain, also on 443), `quic://` (HTTP/3 over QUIC), `stun://host[:3478]` (a binding request
    over UDP, RFC 8489), or `tcp://host:port` where an open connection is all that shows."""
    method: Literal["GET", "HEAD", "POST"] = "GET"
    status: tuple[int, ...] = ()
    """Statuses that are a true answer of the platform. Empty: any but 403, 429, 451 and 5xx."""


class Service(Struct, frozen=True, forbid_unknown_fields=True):
    """One role of a platform, such as its web page or its media servers."""

    id: Slug
    endpoint: tuple[Endpoint, ...]
    rule: Literal["any_of", "all_of"] = "all_of"
    """Whether one working endpoint is enough for this service."""
    required: bool = True
    """False: measured and shown, but the platform's state does not hang on it."""


class Platform(Struct, frozen=True, forbid_unknown_fields=True):
    """A platform: its services and what a true answer looks like."""

    id: Slug
    title: str
    service: tuple[Service, ...]
    speed: str | None = None
    """An `https://` URL with a body of 64 KiB or more, for the goodput probe. None: speed is not judged by it."""
    throttled_name: str | None = None
    """Where no such URL is public: a name under which the platform's media move. It is shown in TLS to the first
    control's address, against the neutral name there, for a censor that slows a name slows it with any server
    (net4people/bbs#382). At most one of this and `speed`."""
    roots: str | None = None
    """PEM of the private roots that the platform's own client trusts beside the public ones."""
    source: str = ""
    """Where the endpoint list comes from, and when."""


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Settings(Struct, frozen=True):
    """How a run measures. Every field has a default that suits the open internet."""

    attempts: int = 3
    """Times that each endpoint is tried from each vantage; a verdict needs a majority (k of n). At least 2."""
    ca_pem: str | None = None
    """Roots trusted beside the public ones."""
    resolver: str | None = None
    """Resolver of `outside`, an address; None: the first of the host's resolv.conf."""
    public_resolver: str = "9.9.9.9"
    """A resolver that is not the access provider's, asked from every vantage; tunnels without a `DNS =` use it too."""
    control: tuple[str, ...] = (
        "https://speed.cloudflare.com/__down?bytes=65536",
        "https://proof.ovh.net/files/1Mb.dat",
        "https://www.gstatic.com/generate_204",
        "https://detectportal.firefox.com/success.txt",
    )
    """URLs that nobody blocks. The first one's body is at least 64 KiB: it is the yardstick for speed and for freezes.
    So is the second's, at another company: it stands in where the first one fails, and some networks freeze all that
    comes from a great content network (net4people/bbs#490). The others are small, and tell a dead line."""
    upload: str = "https://speed.cloudflare.com/__up"
    """URL that takes a POST of 64 KiB."""
    bulk: str = "https://speed.cloudflare.com/__down?bytes=1048576"
    """URL with a body of 1 MiB: what is sustained through a tunnel, or where it dies."""
    exit_address: str = "https://www.cloudflare.com/cdn-cgi/trace"
    """URL whose body holds the caller's address, alone or as `ip=…`."""
    whoami: str = "whoami.v4.powerdns.org"
    """Name whose A record is the address of the resolver that asked: tells who resolves for a vantage."""
    neutral_name: str = "example.org"
    """A name that no censor lists, shown to a platform's own address in place of the platform's."""
    local_servers: bool = False
    """Whether tunnels' servers may stand in this machine's own networks: loopback, link-local, what it is wired to. A
    stranger's config could else have us knock there, on a router or a cloud's metadata service."""
    tor_authorities: tuple[str, ...] = ()
    """Directory authorities of a Tor network that is not the public one, each as tor's `DirAuthority` takes it: for
    closed networks. The public network's without any."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Literal addresses of platforms to be replaced, published → here: for closed networks."""


class Plan(Struct, frozen=True):
    """All that a run needs, validated."""

    tunnels: tuple[TunnelSpec, ...]
    platforms: tuple[Platform, ...]
    settings: Settings = field(default_factory=Settings)
