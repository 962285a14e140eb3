"""Every packet that leaves a namespace, read beneath the carriers."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from vpntest.lab.vpn import EXITS
from vpntest.tunnel.namespace import Namespace

_ALL_PROTOCOLS = 0x0003
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_SO_RCVBUFFORCE, _SOL_PACKET, _PACKET_STATISTICS = 33, 263, 6
"""asm-generic/socket.h, linux/socket.h, linux/if_packet.h."""
_OUTGOING = 4
"""PACKET_OUTGOING (linux/if_packet.h)."""
_PORT_UNREACHABLE = b"\x03\x03"
_ON_THE_WIRE = (*range(133, 138), 143)
"""ICMPv6 types of neighbour discovery and multicast membership: they stay on the wire to the gateway, as ARP does."""


@dataclass
class Capture:
    """Outgoing packets of one link."""

    sock: socket.socket
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    """(destination, IP protocol, destination port; 0 where there is none)."""

    def drain(self) -> None:
        """Takes in what was sent until now."""
        while True:
            try:
                frame, (_, protocol, direction, *_) = self.sock.recvfrom(65535)
            except BlockingIOError:
                return
            if direction == _OUTGOING and protocol != _ARP:
                self._take(frame, protocol)

    def _take(self, packet: bytes, protocol: int) -> None:
        if protocol == _IPV4:
            inner, to, rest = packet[9], packet[16:20], packet[(packet[0] & 15) * 4 :]
            # The kernel tells a VPN server, which has not heard that its client has gone, that nobody listens any more.
            if (
                inner == socket.IPPROTO_ICMP
                and rest[:2] == _PORT_UNREACHABLE
                and str(ipaddress.ip_address(to)) in EXITS
            ):
                return
        else:
            assert protocol == _IPV6, hex(protocol)
            inner, to, rest = packet[6], packet[24:40], packet[40:]
            if inner == socket.IPPROTO_HOPOPTS and rest[0] == socket.IPPROTO_ICMPV6:
                inner, rest = rest[0], rest[8 * (rest[1] + 1) :]
            if inner == socket.IPPROTO_ICMPV6 and rest[0] in _ON_THE_WIRE:
                return
        has_ports = inner in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) and len(rest) >= 4
        port = struct.unpack_from("!H", rest, 2)[0] if has_ports else 0
        self.sent.append((str(ipaddress.ip_address(to)), inner, port))


@contextlib.contextmanager
def capturing(netns: Namespace) -> Iterator[Capture]:
    """Reads every link of a namespace, from now on."""
    # Without link headers: a tunnel's device, while it is still here, has none.
    with netns.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS)) as sock:
        sock.setblocking(False)
        # It is read once, at the end.
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 256 << 20)
        capture = Capture(sock)
        yield capture
        capture.drain()
        _, lost = struct.unpack("=II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        assert lost == 0
