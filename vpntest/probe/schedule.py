"""What is asked, and when: pure, so that the order of a run can be tested without one."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from vpntest.plan.model import Endpoint, Platform

SPACING = 3.0
"""Least seconds between the starts of two attempts at one endpoint: a burst meets one moment of the line, and is one
sample. Residual blocking outlasts any spacing that a run has time for: Russia's (75 to 480 s) is keyed by the source
port too, which each attempt has afresh; China's (90 to 180 s) and Iran's are not, so that there a later attempt at an
address and port, with whatever name, may meet what an earlier one has brought about."""
STEP = 0.04
"""Seconds between two starts at one vantage: no burst of handshakes, which censors count too (net4people/bbs#546)."""

_PORTS = {"https": 443, "http": 80, "quic": 443, "stun": 3478}


class Target(Struct, frozen=True):
    """Where a URL leads."""

    scheme: Literal["https", "http", "quic", "stun", "tcp"]
    host: str
    """As published: what the platform's client would show in TLS and HTTP."""
    port: int
    address: str | None
    """The address to connect to where the host is a literal one; None where it must be resolved."""

    @classmethod
    def of(cls, url: str, addresses: Mapping[str, str]) -> Target:
        """Reads a URL of the plan. `addresses` replaces literal addresses, published → here."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            address = None
        else:
            address = addresses.get(host, host)
        return cls(parts.scheme, host, parts.port or _PORTS[parts.scheme], address)  # type: ignore[arg-type]

    @property
    def needs_udp(self) -> bool:
        """Whether it is reached over UDP."""
        return self.scheme in ("quic", "stun")

    def page(self, url: str) -> str:
        """The URL that is asked for over HTTP: a QUIC endpoint's is an `https` page."""
        return url.replace("quic://", "https://", 1) if self.scheme == "quic" else url

    def url_for(self, name: str) -> str:
        """The root page at the same scheme and port under another name; over QUIC that is an `https` page."""
        port = "" if _PORTS.get(self.scheme) == self.port else f":{self.port}"
        return f"{'https' if self.scheme == 'quic' else self.scheme}://{name}{port}/"


class Task(Struct, frozen=True):
    """One attempt at one endpoint."""

    platform: str
    service: str
    endpoint: Endpoint
    attempt: int
    """From 1."""
    offset: float
    """Seconds after the start of the probe at this vantage."""


def reach_tasks(platforms: Sequence[Platform], attempts: int, rng: random.Random) -> list[Task]:
    """Every attempt at every endpoint, by time. Each round is shuffled afresh and holds one attempt at each endpoint.

    Two attempts at one endpoint are :data:`SPACING` seconds apart or more, two starts :data:`STEP` or more.
    """
    endpoints = [
        (each.id, service.id, endpoint)
        for each in platforms
        for service in each.service
        for endpoint in service.endpoint
    ]
    round_length = len(endpoints) * STEP + SPACING
    tasks = []
    for attempt in range(1, attempts + 1):
        rng.shuffle(endpoints)
        start = (attempt - 1) * round_length
        for place, (platform, service, endpoint) in enumerate(endpoints):
            tasks.append(Task(platform, service, endpoint, attempt, start + place * STEP))
    return tasks
