"""First packets of VPN protocols as a censor knows them, with nothing but noughts behind what it looks at."""

from __future__ import annotations

import random

INITIATION = b"\x01\0\0\0" + bytes(144)
"""WireGuard's; its answer; its data."""
RESPONSE = b"\x02\0\0\0" + bytes(88)
WG_DATA = b"\x04\0\0\0" + bytes(60)

OPENING = b"\x38" + bytes(53)
"""OpenVPN's hard reset of a client; the server's; control; data of version 2."""
OPENED = b"\x40" + bytes(65)
CONTROL = b"\x20" + bytes(200)
OVPN_DATA = b"\x48\0\0\0" + bytes(96)

NOISE = bytes(random.Random(1).choices([byte for byte in range(256) if byte.bit_count() == 4], k=300))
"""Like nothing at all: half of its bits are set."""


def framed(packet: bytes) -> bytes:
    """As OpenVPN sends it over TCP."""
    return len(packet).to_bytes(2) + packet
