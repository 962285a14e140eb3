"""What a censor can do: the vocabulary of `configs/censors/*.toml`.

Each rule is one published behaviour with its numbers; `source` says who published it, and when. How the lab's router
does it is the compiler's affair (:mod:`vpntest.lab.censor`). Only what a censor on the path can see is used: names in
the clear, addresses, lengths, first bytes, counts, and the shape of a ClientHello.

`platforms` and `servers` in a rule are ids of the lab's platforms and hosts: they stand for all their addresses.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Percent = Annotated[float, Meta(gt=0, le=100)]
Name = Annotated[str, Meta(pattern=r"^\.?[a-z0-9]([a-z0-9.-]{0,240}[a-z0-9])$")]
"""Stands for itself and for all beneath it; with a leading dot only for what is beneath."""


class Police(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="police"):
    """Connections with one of the names are kept to a rate, each direction by itself: what is over it is dropped."""

    names: tuple[Name, ...]
    kbytes_per_second: Positive
    """Of 1024 bytes, headers included."""
    burst_kbytes: Positive
    source: str
    substrings: tuple[str, ...] = ()
    """Found anywhere in the name, as by the censor that took `t.co` for a part of `microsoft.com`."""
    sticky: bool = False
    """Once a connection to an address was hit, every later one to that address is kept to the rate, whatever name it
    shows, and also without any."""


class Reset(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="reset"):
    """The server's packets are made into resets in place, so that sequence numbers and TTL are the server's own."""

    names: tuple[Name, ...]
    source: str


class Reject(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="reject"):
    """The ClientHello is swallowed, and the client gets a reset in the server's name."""

    names: tuple[Name, ...]
    source: str
    paths: tuple[str, ...] = ()
    """Platforms whose way leads through this censor; empty: every way does."""


class InjectReset(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="inject-reset"):
    """A forged reset overtakes the server's answer, while the ClientHello, or the request in plain HTTP with the name
    in its Host header, goes on to the server."""

    names: tuple[Name, ...]
    source: str
    payload: Count = 0
    """Bytes of payload in the forged reset: 1, 2, 3 …"""
    ttl: Positive = 64
    """As it leaves the censor."""
    to_server: bool = False
    """The server gets one as well."""
    residual_seconds: Count = 0
    """For so long after, all data from this client to this address and port is answered with a reset, whatever name it
    shows and from whatever source port: TCP connects, and is reset by its first data. Not prolonged by that."""


class Cut(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="cut"):
    """After the name, so many more packets pass, both directions together; then nothing passes in either."""

    names: tuple[Name, ...]
    packets: Count
    """0: the packet with the name is dropped already."""
    source: str


class DropServerHello(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="drop-server-hello"):
    """The ClientHello passes and is confirmed; whatever data the server sends then is dropped."""

    names: tuple[Name, ...]
    source: str


class Unroute(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="unroute"):
    """Nothing passes to or from any address of these."""

    source: str
    platforms: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()


class Lie(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="lie"):
    """The access provider's resolver lies about these names and all beneath them."""

    names: tuple[Name, ...]
    source: str
    answer: str = "block-page"
    """`block-page` the address of the provider's own page · `nxdomain` · `silence` · or an IPv4 address."""


class InjectDns(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="inject-dns"):
    """Forged answers overtake the true one, whoever is asked, and also where nobody would answer. UDP port 53."""

    names: tuple[Name, ...]
    answers: tuple[str, ...]
    """IPv4 addresses; each forged answer holds the next one in turn."""
    source: str
    count: Positive = 1
    """Forged answers to one question. One for AAAA is empty; other types than these two get none."""
    drop_truth: bool = False
    """The question goes no further, so that no true answer follows."""


class InjectPage(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="inject-page"):
    """A request in plain HTTP with one of these names in its Host header gets a forged answer, then the end."""

    names: tuple[Name, ...]
    source: str
    status: Positive = 403
    title: str = "Blocked"
    body: str = ""


class Intercept(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="intercept"):
    """TLS connections with one of these names end at the censor, which shows a certificate of its own authority."""

    names: tuple[Name, ...]
    platforms: tuple[str, ...]
    """Whose addresses lie on the way through the interceptor."""
    authority: str
    """Common name of the issuer."""
    source: str


class DropQuic(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="drop-quic"):
    """QUIC version 1 to port 443 is dropped, from this payload size on."""

    least_payload: Positive
    source: str


class DropQuicName(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="drop-quic-name"):
    """QUIC Initials are decrypted; where one shows such a name, its flow is dropped, and what follows for a while."""

    names: tuple[Name, ...]
    residual_seconds: Positive
    source: str
    residual_without_port: bool = False
    """True: from this client to this address and port, from whatever source port. False: this flow alone."""
    only_higher_source_port: bool = False
    """Packets whose source port is not above the destination port are not looked at."""


class DropUdp(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="drop-udp"):
    """UDP is dropped, but for these destination ports."""

    source: str
    except_ports: tuple[Positive, ...] = (53,)


class CutWireGuard(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="cut-wireguard"):
    """Once WireGuard's initiation was seen, so many of its data packets pass in each direction, and no more."""

    data_packets: Positive
    source: str


class RefuseWireGuard(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="refuse-wireguard"):
    """WireGuard's initiations are dropped."""

    source: str
    servers: tuple[str, ...] = ()
    """Towards these hosts; empty: towards all."""


class CutOpenVpn(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="cut-openvpn"):
    """Once OpenVPN's opening was seen, over UDP or TCP, so many data packets pass in each direction, and no more."""

    data_packets: Positive
    source: str


class RefuseOpenVpn(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="refuse-openvpn"):
    """OpenVPN's opening packets are dropped, over UDP and over TCP."""

    source: str


class DropEncrypted(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="drop-encrypted"):
    """A TCP connection to these hosts whose first payload looks like noise is dropped with a given chance.

    Not noise: up to 3.4 or from 4.6 set bits per byte on average; first six bytes printable; more than half printable;
    more than 20 printable in a row; a TLS record header; an HTTP method (Wu et al., USENIX Security 2023).
    """

    servers: tuple[str, ...]
    percent: Percent
    residual_seconds: Positive
    """For so long after, nothing from this client to this address and port passes."""
    source: str


class FilterProtocols(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="filter-protocols"):
    """On these TCP ports the client's first data must look like DNS, HTTP or TLS; else it is dropped from then on.

    The packet itself passes; what follows from the client does not, and each more of it begins the time anew.
    """

    ports: tuple[Positive, ...]
    seconds: Positive
    source: str


class Freeze(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="freeze"):
    """Flows with these hosts fall silent, in both directions, after so many packets or so many bytes."""

    source: str
    packets: Positive | None = None
    """Of TCP and UDP, both directions together."""
    bytes: Positive | None = None
    """Of TCP, from the server to the client, headers included. One of the two is told, and not both."""
    platforms: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    exempt: tuple[Name, ...] = ()
    """Connections that show one of these names in TLS are left alone."""

    def __post_init__(self) -> None:
        if (self.packets is None) == (self.bytes is None):
            raise ValueError("a freeze counts either `packets` or `bytes`")


class Whitelist(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="whitelist"):
    """Only these hosts can be talked to. To all others TCP connects, and no data of the client's gets through; UDP and
    ICMP are dropped."""

    hosts: tuple[str, ...]
    """Lab hosts or single IPv4 addresses."""
    source: str


class FreezeCrowd(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="freeze-crowd"):
    """TLS handshakes of one browser's shape with one of these hosts are counted; beyond so many within a while, new
    ones fall silent. Connections that stand go on."""

    servers: tuple[str, ...]
    connections: Positive
    seconds: Positive
    """The while within which they are counted, and the time for which new ones fall silent then."""
    shape: Literal["chrome"]
    source: str


Rule = (
    Police
    | Reset
    | Reject
    | InjectReset
    | Cut
    | DropServerHello
    | Unroute
    | Lie
    | InjectDns
    | InjectPage
    | Intercept
    | DropQuic
    | DropQuicName
    | DropUdp
    | CutWireGuard
    | RefuseWireGuard
    | CutOpenVpn
    | RefuseOpenVpn
    | DropEncrypted
    | FilterProtocols
    | Freeze
    | Whitelist
    | FreezeCrowd
)
"""What a censor can do."""


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """The client's own line, censor or not."""

    loss_percent: float = 0.0
    """Packets lost by chance, in each direction."""
    mtu: int = 1500
    """Bytes; what is longer is answered with ICMP, as it should be."""
    icmp: bool = True
    """False: a black hole. What is longer is lost without a word, but TCP is told to send segments that fit, by the
    access provider's clamping of their size: it is what is packed into something else that is lost."""
    kbit_per_second: int | None = None
    """In each direction, for everything together; None: as fast as the machine."""
    portal: bool = False
    """A captive portal: names resolve to it, web requests are led to it, nothing else passes."""


class World(Struct, frozen=True, forbid_unknown_fields=True):
    """What is wrong beyond the line, with nobody to blame on the way."""

    down: tuple[str, ...] = ()
    """Platforms whose servers refuse every connection, from everywhere."""
    silent: tuple[str, ...] = ()
    """Platforms whose servers answer nothing, to anybody."""
    refuses: tuple[str, ...] = ()
    """Platforms that answer 403 to VPN exits."""
    refuses_line: tuple[str, ...] = ()
    """Platforms that answer 403 to the client's own line, for the country that it is in."""
    challenges: tuple[str, ...] = ()
    """Platforms that answer VPN exits with a test for humans (Cloudflare's header and 403)."""
    challenges_line: tuple[str, ...] = ()
    """Platforms that answer the client's own line so."""
    certificates: dict[str, Literal["expired", "wrong-name", "unknown-authority"]] = {}
    """Platforms whose own certificate is not valid, and what is wrong with it."""
    resolves: dict[str, str] = {}
    """Platforms whose names every honest resolver answers otherwise than with their address: `nxdomain`, `no-address`,
    or an IPv4 address."""
    relays: dict[str, str] = {}
    """Addresses of the access provider's → platform: a transparent proxy, which passes on whatever comes for it."""
    page_bytes: dict[str, Positive] = {}
    """Platforms with pages of another length than the usual one, in bytes."""
    clock_days: int = 0
    """Days by which the client's clock runs behind the world's: certificates begin so much later."""
