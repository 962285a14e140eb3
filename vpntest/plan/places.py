"""Where no tunnel's server may stand: this machine itself, its own wire, a cloud's metadata service.

A stranger's config could else have us, who are root and inside, knock at doors that the stranger cannot reach.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAMES = frozenset({"localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "broadcasthost"})
"""Names of this machine: RFC 6761, 6.3, and what distributions write into /etc/hosts."""
_LOCAL_ENDINGS = (".localhost", ".localdomain", ".localdomain4", ".localdomain6")
_METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
"""Google Cloud, Amazon EC2."""
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # nearly every cloud
            "169.254.170.2",  # Amazon ECS
            "169.254.170.23",  # Amazon EKS
            "fd00:ec2::254",  # Amazon EC2
            "fd00:ec2::23",  # Amazon EKS
            "fd20:ce::254",  # Google Cloud
            "fd00:42::42",  # Scaleway
            "100.100.100.200",  # Alibaba Cloud
            "192.0.0.192",  # Oracle Cloud
            "168.63.129.16",  # Azure
        ),
    )
)
"""Addresses at which clouds tell a machine its secrets (each provider's own documentation)."""

_KINDS: tuple[tuple[str, tuple[Network, ...]], ...] = tuple(
    (what, tuple(map(ipaddress.ip_network, networks)))
    for what, networks in (
        ("this machine itself (loopback)", ("127.0.0.0/8", "::1/128")),
        ("no address of any machine (unspecified)", ("0.0.0.0/8", "::/128")),
        ("on this machine's own wire (link-local)", ("169.254.0.0/16", "fe80::/10")),
        ("every machine of a network (multicast)", ("224.0.0.0/4", "ff00::/8")),
        ("every machine of a network (broadcast)", ("255.255.255.255/32",)),
    )
)
"""RFC 6890, RFC 4291."""
_PRIVATE: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10"),
    )
)
"""RFC 1918, RFC 6598, RFC 4193, RFC 3879."""
_EMBEDDING = tuple(
    (ipaddress.IPv6Network(network), shift)
    for network, shift in (
        ("::ffff:0:0/96", 0),
        ("::ffff:0:0:0/96", 0),
        ("::/96", 0),
        ("64:ff9b::/96", 0),
        ("64:ff9b:1::/48", 0),
        ("2001::/32", 64),
        ("2002::/16", 80),
    )
)
"""Networks whose addresses hold one of IPv4, and how many bits stand after it: mapped and compatible (RFC 4291, 2.5.5),
translated (RFC 2765), NAT64 (RFC 6052, RFC 8215), Teredo's server (RFC 4380), 6to4 (RFC 3056)."""
_ISATAP = (0x00005EFE, 0x02005EFE)
"""What stands before an IPv4 address in the lower half of an address of any network (RFC 5214, 6.1)."""


_TEREDO = ipaddress.IPv6Network("2001::/32")


def refusal(host: str) -> str | None:
    """Why no server may stand at a host, whatever network this is: in a few words, without the host. None: it may.

    `host` is a name, or a literal address with or without brackets, in any form that some client takes. Names are not
    looked up: what they lead to must be asked for again.
    """
    name = host.strip().strip("[]").rstrip(".").lower()
    address = _address(name.partition("%")[0])
    if address is None:
        if name in _NAMES or name.endswith(_LOCAL_ENDINGS):
            return "its server is this machine itself"
        if name in _METADATA_NAMES:
            return "its server is a cloud's metadata service"
        return None
    for meant in _meant(address):
        if meant in _METADATA:
            return "its server is a cloud's metadata service"
        for what, networks in _KINDS:
            if any(meant in network for network in networks):
                return f"its server is {what}"
    return None


def is_private(network: str) -> bool:
    """Whether an address, or all of a network, is of those that every house gives out anew."""
    block = ipaddress.ip_network(network, strict=False)
    return any(block.version == private.version and block.subnet_of(private) for private in _PRIVATE)  # type: ignore[arg-type]


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    # `127.1`, `0x7f000001`, `2130706433`: what the C library takes for an address.
    if not text[-1:].isalnum() or not text[:1].isdigit() or not text.isascii():
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None


def _meant(address: Address) -> Iterator[Address]:
    """The address, and the one of IPv4 that it stands for."""
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        for network, shift in _EMBEDDING:
            if address in network:
                yield ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF)
        if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address in _TEREDO:
            # The client's own, with every bit turned around.
            yield ipaddress.IPv4Address(~int(address) & 0xFFFFFFFF)
