"""What was seen of a tunnel itself."""

from __future__ import annotations

from dataclasses import dataclass

from vpntest.failures import Failure
from vpntest.probe.observation import (
    DnsAnswer,
    HttpExchange,
    Observation,
    SmallExchanges,
    TcpConnect,
    TlsHandshake,
    Transfer,
)


@dataclass(frozen=True)
class TunnelSeen:
    """All that was seen of one tunnel, but for the platforms."""

    rungs: tuple[Observation, ...] = ()
    small: tuple[Observation, ...] = ()
    down: tuple[Observation, ...] = ()
    up: tuple[Observation, ...] = ()
    carried: tuple[Observation, ...] = ()
    """Everything through the tunnel that can only have come from its far end."""
    carry: tuple[Observation, ...] = ()
    alive: tuple[Observation, ...] = ()


def kind_of(observation: Observation) -> str:
    if observation.probe == "rung":
        return "rungs"
    if observation.probe == "alive":
        return "alive"
    if isinstance(observation.details, SmallExchanges):
        return "small"
    if isinstance(observation.details, Transfer):
        return observation.details.direction
    return "carry"


def came_through(observation: Observation, answers_locally: bool) -> bool:
    """Whether this can only be so because something came back from the tunnel's far end."""
    details = observation.details
    if isinstance(details, DnsAnswer):
        return details.rcode is not None
    if isinstance(details, TcpConnect):
        return observation.failure is None and not answers_locally
    if isinstance(details, Transfer | SmallExchanges) and observation.failure == Failure.HTTP_REQUEST_FAILED:
        # An answer came, though not the one that was asked for.
        return True
    if isinstance(details, Transfer):
        return (details.direction == "down" and details.bytes > 0) or observation.failure is None
    if isinstance(details, SmallExchanges):
        return details.done > 0
    return isinstance(details, (TlsHandshake, HttpExchange)) and observation.failure is None
