"""Raises tunnels, each in its own namespace, and takes them down again, whatever happens.

Nothing here fails because the network does: a tunnel that does not come up is a :class:`Tunnel` whose last step says
where it ended and how.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable
from pathlib import Path

from vpntest.failures import Failure
from vpntest.plan.model import (
    OUTSIDE,
    CommandConfig,
    Config,
    OpenVpnConfig,
    Problem,
    ProxyConfig,
    Settings,
    TorConfig,
    TunnelSpec,
    WireGuardConfig,
)
from vpntest.plan.secret import secrets_in
from vpntest.tunnel import command, netlink, openvpn, singbox, tor, wireguard
from vpntest.tunnel.cage import Cage, Process
from vpntest.tunnel.carriers import Carriers
from vpntest.tunnel.confinement import new_user
from vpntest.tunnel.evidence import Journal
from vpntest.tunnel.ladder import Climb, Fall, Rung, Step
from vpntest.tunnel.namespace import Namespace, denial
from vpntest.tunnel.site import Site
from vpntest.tunnel.vantage import Vantage

RAISE_TIMEOUT = 45.0
"""Seconds for all rungs together: a name 4, a connection 10, a handshake at three addresses 18, a password 10."""


class Tunnel:
    """One tunnel of the plan, raised or not."""

    def __init__(self, spec: TunnelSpec) -> None:
        self.spec = spec
        self.steps: tuple[Step, ...] = ()
        """The rungs that were tried, in order; the last one has a `failure` where the climb ended before its time."""
        self.vantage: Vantage | None = None
        """None unless every rung that can be seen before the first data was reached: `auth`; for proxies see
    :mod:`vpntest.tunnel.singbox`."""
        self.carrier: str | None = None
        """Program and version that carries it, or was to; None where no carrier was found."""
        self.problem: Problem | None = spec.problem
        """Why it can never be raised on this box; None where the network alone decides."""
        self.warnings: list[str] = []
        """What of its config was not tried on this box, a line each."""
        self._undo = contextlib.AsyncExitStack()
        self._lowering: asyncio.Task[None] | None = None

    async def lower(self) -> None:
        """Ends the carrier and lets go of the namespace. Safe to call again; goes on if the caller is cancelled."""
        if self._lowering is None:
            self._lowering = asyncio.ensure_future(self._undo.aclose())
        await asyncio.shield(self._lowering)


def outside(underlay: Namespace, settings: Settings) -> Vantage:
    """The line itself. Its resolver is the setting's, else the first of /etc/resolv.conf, else the public one.

    To be called before a cage hides /run, where many hosts keep the file that /etc/resolv.conf points to.
    """
    return Vantage(OUTSIDE, underlay, settings.resolver or next(iter(host_resolvers()), settings.public_resolver))


def host_resolvers() -> tuple[str, ...]:
    """Those of /etc/resolv.conf, in its order; the first is asked."""
    try:
        lines = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    words = [line.split() for line in lines]
    return tuple(line[1] for line in words if len(line) > 1 and line[0] == "nameserver" and _is_address(line[1]))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def answers_locally(config: Config | None) -> bool:
    """Whether a tunnel of this config ends in a TUN that completes every TCP connect itself."""
    return isinstance(config, ProxyConfig | TorConfig) or (isinstance(config, CommandConfig) and bool(config.proxy))


def carries_udp(config: Config | None) -> bool:
    """Whether a tunnel of this config carries UDP at all, as far as the config tells."""
    match config:
        case ProxyConfig():
            return config.carries_udp
        case CommandConfig(proxy=str(proxy)):
            return proxy.startswith("socks5")
        case TorConfig():
            return False
    return True


def _patience(config: Config | None) -> float:
    """Seconds for all rungs together."""
    match config:
        case TorConfig():
            return tor.RAISE_TIMEOUT
        case OpenVpnConfig():
            return openvpn.RAISE_TIMEOUT
        case CommandConfig():
            # As the plan says, and again for the proxy that the client opens.
            return RAISE_TIMEOUT + 2 * config.ready_within
    return RAISE_TIMEOUT


async def raise_tunnel(
    spec: TunnelSpec,
    outside: Vantage,
    cage: Cage,
    carriers: Carriers,
    settings: Settings,
    clock: Callable[[], float],
    journal: Journal | None = None,
) -> Tunnel:
    """Raises one tunnel over the underlay that `outside` is in. `clock` gives seconds since the run began.

    `journal` keeps its evidence, from the first packet on.

    Never raises for reasons of the network. If it is cancelled, or something of ours breaks, everything that it started
    is gone before the exception leaves. Raises CannotMeasure where this box gives no namespace, or runs out of
    something.
    """
    tunnel = Tunnel(spec)
    steps = Climb(clock)
    try:
        async with asyncio.timeout(_patience(spec.config)):
            await _raise(tunnel, steps, outside, cage, carriers, settings, journal)
    except Fall as fall:
        if fall.failure in (Failure.INVALID, Failure.UNSUPPORTED):
            tunnel.problem = tunnel.problem or Problem(
                "invalid" if fall.failure == Failure.INVALID else "unsupported", fall.detail
            )
        await tunnel.lower()
    except TimeoutError:
        await tunnel.lower()
    except BaseException:
        await tunnel.lower()
        raise
    tunnel.steps = tuple(steps.steps)
    return tunnel


async def _raise(
    tunnel: Tunnel,
    steps: Climb,
    outside: Vantage,
    cage: Cage,
    carriers: Carriers,
    settings: Settings,
    journal: Journal | None,
) -> None:
    spec = tunnel.spec
    choice = carriers.choose(spec)
    if isinstance(choice, Problem):
        tunnel.problem = choice
        with steps.rung(Rung.CONFIG):
            raise Fall(Failure(choice.mechanism), choice.reason)
    carrier = carriers[choice]
    tunnel.carrier = str(carrier)
    tunnel.warnings += [finding.text for finding in carriers.left_out(spec.config)]
    user = new_user()
    # Only a program that enters it needs to have powers there.
    is_entered = not isinstance(spec.config, WireGuardConfig | OpenVpnConfig)
    try:
        netns = Namespace.create(user if is_entered else None)
        tunnel._undo.callback(netns.close)
        await netlink.prepare(netns)
    except OSError as exc:
        raise denial(exc) from exc
    if journal is not None:
        journal.inside(netns)
        # Its socket would keep the namespace.
        tunnel._undo.callback(journal.left)
    site = Site(
        cage,
        outside,
        netns,
        steps,
        tunnel._undo,
        tuple(secrets_in(spec.config)),
        journal=journal,
        local_servers=settings.local_servers,
        user=user,
        warnings=tunnel.warnings,
    )
    process: Process | None
    resolvers: tuple[str, ...] = ()
    match spec.config:
        case WireGuardConfig() as config:
            process, resolvers = await wireguard.climb(site, config, carrier), config.dns
        case OpenVpnConfig() as config:
            process, resolvers = await openvpn.climb(site, config, carrier)
        case CommandConfig() as config:
            tunnel.carrier = Path(config.argv[0]).name
            process = await command.climb(site, config, carrier, settings.public_resolver)
            resolvers = (config.resolver,) if config.resolver else ()
        case ProxyConfig() as config:
            process = await singbox.climb(site, config, carrier, settings.ca_pem, settings.public_resolver)
        case TorConfig() as config:
            process = await tor.climb(site, config, carrier, carriers["sing-box"], settings.tor_authorities)
        case None:
            raise AssertionError("a tunnel without a config has a problem")
    tunnel.vantage = Vantage(
        spec.name,
        netns,
        next(filter(_is_address, resolvers), settings.public_resolver),
        tuple(steps.steps),
        answers_locally=answers_locally(spec.config),
        carries_udp=site.carries_udp and carries_udp(spec.config),
        count_packets=site.count_packets,
        alive=lambda: site.count_packets() is not None and (process is None or process.running()),
    )
