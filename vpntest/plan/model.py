"""What a run needs, validated: the frozen types that every later stage reads.

    Plan ─┬─ TunnelSpec ── WireGuardConfig | OpenVpnConfig | ProxyConfig   (or the reason why there is none)
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
    TROJAN = "trojan"
    HYSTERIA2 = "hysteria2"
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


class ProxyConfig(Struct, frozen=True):
    """A share link's meaning: one sing-box outbound."""

    server: Server
    outbound: dict[str, object]
    """The outbound as sing-box wants it, without `server`, `server_port`, `tag`; its secrets are :class:`Secret`."""
    needs: tuple[str, ...] = ()
    """Build features of sing-box that it needs: `utls`, `quic`."""
    tls_unverified: bool = False
    """The link asked that the server's certificate be not checked. Honoured, and shown."""

    @property
    def servers(self) -> tuple[Server, ...]:
        """The one server."""
        return (self.server,)


class Problem(Struct, frozen=True):
    """Why a tunnel of the plan cannot be raised at all."""

    mechanism: Literal["invalid", "unsupported"]
    """`invalid`: the config is broken. `unsupported`: it is sound, but we cannot honour something that it asks for."""
    reason: str
    """One line: where, what, what to do. Holds no secret."""


class TunnelSpec(Struct, frozen=True):
    """One tunnel of the plan."""

    name: Slug
    kind: Kind
    source: str
    """The file it came from, or `uri` for a link in the plan; never the link itself."""
    config: WireGuardConfig | OpenVpnConfig | ProxyConfig | None
    """None exactly when `problem` is set."""
    problem: Problem | None = None
    warnings: tuple[str, ...] = ()
    """What of the config is ignored, and why; one line each, without secrets."""


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
    addresses: dict[str, str] = field(default_factory=dict)
    """Literal addresses of platforms to be replaced, published → here: for closed networks."""


class Plan(Struct, frozen=True):
    """All that a run needs, validated."""

    tunnels: tuple[TunnelSpec, ...]
    platforms: tuple[Platform, ...]
    settings: Settings = field(default_factory=Settings)
