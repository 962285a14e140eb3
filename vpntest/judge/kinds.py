"""Kinds of failures, and what one observation shows by itself."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from vpntest.failures import Failure
from vpntest.probe.observation import Observation, QuicHandshake, TlsHandshake

RESET = frozenset({Failure.CONNECTION_RESET, Failure.CONNECTION_ABORTED})
TIMEOUT = frozenset({Failure.TIMEOUT, Failure.TIMED_OUT, Failure.STALLED})
UNREACHABLE = frozenset({Failure.HOST_UNREACHABLE, Failure.NETWORK_UNREACHABLE})
CERTIFICATE = frozenset({Failure.SSL_INVALID_HOSTNAME, Failure.SSL_UNKNOWN_AUTHORITY, Failure.SSL_INVALID_CERTIFICATE})
OURS = frozenset(
    {
        Failure.NETWORK_DOWN,
        Failure.PERMISSION_DENIED,
        Failure.ADDRESS_NOT_AVAILABLE,
        Failure.ADDRESS_FAMILY,
        Failure.INTERRUPTED,
        Failure.MESSAGE_SIZE,
        Failure.NOT_CONNECTED,
        Failure.CARRIER_EXITED,
    }
)
"""Failures that this box makes by itself: they say nothing about who blocks what."""

BOGONS = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.168.0.0/16",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/128",
            "::1/128",
            "::ffff:0:0/96",
            "100::/64",
            "2001:db8::/32",
            "fc00::/8",
            "fe80::/10",
            "ff00::/8",
        ),
    )
)
"""Addresses that no public server can have (IANA special-purpose registries; OONI: netxlite/bogon.go).

Without 198.18.0.0/15 and fd00::/8, which OONI has: closed networks for tests are built of just these two (RFC 2544,
RFC 4193), and there they are true addresses of servers. No censor is known to forge answers out of them.
"""


@lru_cache(maxsize=4096)
def is_bogon(address: str) -> bool:
    """Whether no public server can have this address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in BOGONS if network.version == parsed.version)


def is_verified(handshake: Observation) -> bool:
    """Whether this is a handshake in which a valid certificate was shown."""
    details = handshake.details
    return isinstance(details, TlsHandshake | QuicHandshake) and handshake.failure is None and not details.no_tls_verify


def host_of(address: str) -> str:
    """An `address:port` without its port; without brackets too, where it is IPv6."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") if host and port.isdigit() and (host.startswith("[") or ":" not in host) else address
