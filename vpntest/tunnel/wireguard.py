"""WireGuard and AmneziaWG: by the kernel, by wireguard-go or by amneziawg-go, on one path but for three calls.

The device's UDP socket is in the underlay for life. The kernel makes the device in the tunnel's namespace at once; a
program's is made in the underlay and moved, and ends with its program. It is addressed and configured without peers;
so the kernel has nothing to send. The peers come last, and the main one is told to keep itself alive: that makes the
device start the handshake by itself, at the price of the one keepalive that an initiator owes anyway. That the
handshake happened is read from the device.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import ipaddress
import os
import re
from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from vpntest.failures import Failure
from vpntest.plan.keys import public_of
from vpntest.plan.model import Server, WireGuardConfig, WireGuardPeer
from vpntest.plan.wgquick import UAPI
from vpntest.tunnel import netlink
from vpntest.tunnel.cage import Process
from vpntest.tunnel.carriers import KERNEL, Carrier
from vpntest.tunnel.confinement import owned_socket
from vpntest.tunnel.ladder import Fall, Rung
from vpntest.tunnel.site import HANDSHAKE_TIMEOUT, SHARE_TIMEOUT, Site

DEFAULT_MTU = 1420
"""What wg-quick takes for an underlay of 1500 bytes."""
_OVERHEAD = {4: 60, 6: 80}
"""Bytes of the outer packet beside the inner one: IP 20 or 40, UDP 8, WireGuard 32."""
_USUAL_MTU = 1500
_BLOCK = 16
"""WireGuard fills each packet up to a multiple of so many bytes (whitepaper, 5.4.6)."""
_IPV6_LEAST = 1280
"""Bytes below which a device carries no IPv6 (RFC 8200, 5): Linux takes the addresses away."""
_STARTER_KEEPALIVE = 65535
"""Longest keepalive there is: sends one packet now, and the next one long after the run."""
_NETWORKS_AT_ONCE = 1000
"""Networks in one netlink message: 40 bytes each at most."""
_LONGEST_ANSWER = 1 << 24
"""Bytes of a device's description; the networks of the largest config that is read come to 3 MiB."""
_POLL = 0.02
_START_TIMEOUT = 5.0
_UNKNOWN = re.compile(r"invalid UAPI (?:device|peer) key: (\w+)|failed to parse ([IJ][1-5]): unknown tag")
"""How the programs say that they are too old for a config."""
_CONTROL_SOCKETS = {"wireguard-go": "wireguard", "amneziawg-go": "amneziawg"}
"""Below its /run."""


class _Peer(Struct, frozen=True):
    """What the device is to know of a peer now."""

    peer: WireGuardPeer
    endpoint: tuple[str, int] | None
    keepalive: int
    fresh: bool = True
    """False: only the endpoint and the keepalive change."""


class _Device(Protocol):
    """The three calls in which the kernel and the programs differ."""

    async def create(self) -> None:
        """Makes the link in the tunnel's namespace, its UDP socket in the underlay. Raises Fall, OSError."""

    async def configure(self, config: WireGuardConfig | None, peers: list[_Peer]) -> None:
        """Gives it the interface's settings, and these peers. Raises Fall naming what it refused."""

    async def last_handshake(self, public_key: str) -> float:
        """When the last handshake with that peer was completed, in Unix seconds; 0.0 for never."""


async def climb(site: Site, config: WireGuardConfig, carrier: Carrier) -> Process | None:
    """Climbs from `config` to `auth`. The carrier's process; None for the kernel. Raises Fall."""
    step = site.climb.rung
    with step(Rung.CONFIG):
        starter, endpoint = _main_peer(config)
        own = public_of(config.private_key)
        if any(peer.public_key == own for peer in config.peers):
            # Every carrier leaves out such a peer without a word; that the server is silent would be said of the line.
            raise Fall(Failure.INVALID, "a peer's PublicKey belongs to the config's own PrivateKey")
        device: _Kernel | _Userspace = _Kernel(site) if carrier.name == KERNEL else _Userspace(site, carrier)
        await device.create()
        await device.configure(config, [])
        await _address(site, config, config.mtu or DEFAULT_MTU)
    with step(Rung.ENDPOINT_DNS):
        found = await asyncio.gather(*(_resolve(site, peer) for peer in config.peers), return_exceptions=True)
        addresses = dict(zip((peer.public_key for peer in config.peers), found, strict=True))
        for fault in found:
            # A name without an address costs one peer only; what this box lacks, or breaks, costs the measurement.
            if isinstance(fault, BaseException) and not isinstance(fault, Fall):
                raise fault
        candidates = addresses[starter.public_key]
        if isinstance(candidates, BaseException):
            raise candidates
    with step(Rung.ENDPOINT):
        candidates = site.reachable(candidates, endpoint.port)
    with step(Rung.HANDSHAKE):
        keepalive = starter.persistent_keepalive or _STARTER_KEEPALIVE
        others = [
            _Peer(peer, _endpoint(peer, addresses[peer.public_key]), peer.persistent_keepalive)
            for peer in config.peers
            if peer is not starter
        ]
        share = max(HANDSHAKE_TIMEOUT / len(candidates), SHARE_TIMEOUT)
        for attempt, address in enumerate(candidates):
            first = _Peer(starter, (address, endpoint.port), keepalive, fresh=attempt == 0)
            await device.configure(None, [first, *others] if attempt == 0 else [first])
            with site.pinging(address):
                if await _answered(device, starter.public_key, share):
                    break
        else:
            raise Fall(Failure.TIMEOUT, site.tail())
        if config.mtu is None:
            await _fit(site, config, address)
        if starter.persistent_keepalive == 0:
            await device.configure(None, [_Peer(starter, None, 0, fresh=False)])
    with step(Rung.AUTH):
        # WireGuard's handshake is its authentication: both sides have proved their keys, and the preshared one.
        pass
    return device.process


async def _fit(site: Site, config: WireGuardConfig, address: str) -> None:
    """Makes what goes through the device fit into the packets of the way to the server, where that is narrow.

    The kernel would cut the outer packets in two, as long as it may: but programs that hand it many at once have them
    all refused (UDP segmentation offload), and then the tunnel crawls from one lost packet to the next.
    """
    way = site.path_mtu(address)
    padding = int(dict(config.amnezia.values).get("s4", "0")) if config.amnezia else 0
    fit = (way or _USUAL_MTU) - _OVERHEAD[ipaddress.ip_address(address).version] - padding
    if fit >= DEFAULT_MTU:
        return
    await _address(site, config, fit - fit % _BLOCK)


async def _address(site: Site, config: WireGuardConfig, mtu: int) -> None:
    """Gives the device its addresses and networks. Where `mtu` is too small for IPv6, it is for IPv4 alone."""
    carries_six = any(ipaddress.ip_interface(text).version == 6 for text in config.addresses)
    await netlink.address(
        site.netns,
        site.device,
        addresses=config.addresses,
        routes=[network for peer in config.peers for network in peer.allowed_ips],
        mtu=max(mtu, _IPV6_LEAST) if carries_six else mtu,
        ipv4_mtu=mtu,
    )


def _main_peer(config: WireGuardConfig) -> tuple[WireGuardPeer, Server]:
    """Of the peers that can be called, the one that most goes to: that carries the shortest prefix."""

    def prefix(peer: WireGuardPeer) -> int:
        return min((ipaddress.ip_network(network).prefixlen for network in peer.allowed_ips), default=129)

    callable_peers = [(peer, peer.endpoint) for peer in config.peers if peer.endpoint is not None]
    if not callable_peers:
        raise Fall(Failure.INVALID, "no peer has an Endpoint, so that nothing can be called")
    return min(callable_peers, key=lambda pair: prefix(pair[0]))


async def _resolve(site: Site, peer: WireGuardPeer) -> list[str]:
    return await site.resolve(peer.endpoint) if peer.endpoint is not None else []


def _endpoint(peer: WireGuardPeer, addresses: list[str] | BaseException) -> tuple[str, int] | None:
    # A second peer without an address takes away its networks, not the tunnel.
    if peer.endpoint is None or isinstance(addresses, BaseException) or not addresses:
        return None
    return addresses[0], peer.endpoint.port


async def _answered(device: _Device, public_key: str, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            while not await device.last_handshake(public_key):
                await asyncio.sleep(_POLL)
    except TimeoutError:
        return False
    return True


class _Kernel:
    """WireGuard in the kernel, by netlink. Generic netlink is spoken where the link is: in the tunnel's namespace."""

    kind = "wireguard"
    process: Process | None = None

    def __init__(self, site: Site) -> None:
        self._site = site

    async def create(self) -> None:
        name, netns = self._site.device, self._site.netns
        # A probe's socket may outlive us and keep the namespace, which must not keep the link.
        self._site.undo.push_async_callback(netlink.delete, netns, name)
        await netlink.make(name, self._site.underlay, netns, kind=self.kind)

    async def configure(self, config: WireGuardConfig | None, peers: list[_Peer]) -> None:
        name = self._site.device

        def job() -> None:
            from pyroute2 import WireGuard

            with WireGuard() as device:
                if config is not None:
                    device.set(name, private_key=config.private_key.reveal(), listen_port=config.listen_port)
                for attributes in (part for peer in peers for part in _as_attributes(peer)):
                    device.set(name, peer=attributes)

        await netlink.elsewhere(self._site.netns, job)

    async def last_handshake(self, public_key: str) -> float:
        name = self._site.device

        def job() -> float:
            from pyroute2 import WireGuard

            with WireGuard() as device:
                for message in device.info(name):
                    for peer in message.get_attr("WGDEVICE_A_PEERS") or ():
                        if peer.get_attr("WGPEER_A_PUBLIC_KEY").decode() == public_key:
                            time = peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
                            return float(time["tv_sec"] + time["tv_nsec"] / 1e9)
            return 0.0

        return await netlink.elsewhere(self._site.netns, job)


def _as_attributes(peer: _Peer) -> Iterator[dict[str, object]]:
    """The peer in as many messages as it takes: an attribute of netlink, such as its networks, has 64 KiB at most."""
    networks = list(peer.peer.allowed_ips) if peer.fresh else []
    attributes: dict[str, object] = {"public_key": peer.peer.public_key, "persistent_keepalive": peer.keepalive}
    if peer.endpoint is not None:
        attributes["endpoint_addr"], attributes["endpoint_port"] = peer.endpoint
    if peer.fresh:
        attributes["replace_allowed_ips"] = True
        attributes["allowed_ips"] = networks[:_NETWORKS_AT_ONCE]
        if peer.peer.preshared_key is not None:
            attributes["preshared_key"] = peer.peer.preshared_key.reveal()
    else:
        attributes["update_only"] = True
    yield attributes
    for position in range(_NETWORKS_AT_ONCE, len(networks), _NETWORKS_AT_ONCE):
        rest = networks[position : position + _NETWORKS_AT_ONCE]
        yield {"public_key": peer.peer.public_key, "update_only": True, "allowed_ips": rest}


class _Userspace:
    """wireguard-go or amneziawg-go in the foreground, by its UAPI socket (wireguard.com/xplatform)."""

    def __init__(self, site: Site, carrier: Carrier) -> None:
        self._site = site
        self._carrier = carrier
        self._socket = f"{_CONTROL_SOCKETS[carrier.name]}/{site.device}.sock"
        self.process: Process | None = None

    async def create(self) -> None:
        assert self._carrier.program is not None
        environment = {"PATH": os.defpath, "LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}
        self.process = self._site.spawn([self._carrier.program, "-f", self._site.device], env=environment)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                while True:
                    if not self.process.running():
                        raise Fall(Failure.CARRIER_EXITED, self._site.tail())
                    try:
                        await self._exchange("get=1\n\n")
                    except (FileNotFoundError, ConnectionRefusedError):
                        await asyncio.sleep(0.005)
                    except (PermissionError, NotADirectoryError):
                        said = f"what {self._carrier.name} calls its control socket is none of its own"
                        raise Fall(Failure.CARRIER_EXITED, said) from None
                    else:
                        break
        except TimeoutError:
            raise Fall(Failure.CARRIER_EXITED, f"{self._carrier.name} did not open its control socket") from None
        await netlink.move(self._site.device, self._site.underlay, self._site.netns)

    async def configure(self, config: WireGuardConfig | None, peers: list[_Peer]) -> None:
        lines = [] if config is None else _interface_lines(config)
        request = "".join(f"{key}={value}\n" for key, value in lines + _peer_lines(peers))
        number = int((await self._ask(f"set=1\n{request}\n")).rpartition("errno=")[2])
        if number == 0:
            return
        # The program says on its output which key it stumbled over; that line may come after its answer.
        await asyncio.sleep(0.05)
        said = self._site.tail()
        if unknown := _UNKNOWN.search(said):
            key = next((key for key, name in UAPI.items() if name == unknown[1]), unknown[1])
            what = f"`{key}`" if key else f"a tag in `{unknown[2]}`"
            raise Fall(Failure.UNSUPPORTED, f"{self._carrier} does not know {what}: install a newer one")
        name = errno.errorcode.get(abs(number), str(number))
        raise Fall(Failure.INVALID, f"{self._carrier} refused the config ({name}): {said}")

    async def last_handshake(self, public_key: str) -> float:
        wanted, current, seconds, nanoseconds = _hex(public_key), "", 0, 0
        for line in (await self._ask("get=1\n\n")).splitlines():
            key, _, value = line.partition("=")
            if key == "public_key":
                current = value
            elif current == wanted and key == "last_handshake_time_sec":
                seconds = int(value)
            elif current == wanted and key == "last_handshake_time_nsec":
                nanoseconds = int(value)
        return seconds + nanoseconds / 1e9

    async def _ask(self, request: str) -> str:
        try:
            return await self._exchange(request)
        except OSError as exc:
            raise Fall(Failure.CARRIER_EXITED, self._site.tail()) from exc

    async def _exchange(self, request: str) -> str:
        with owned_socket(self._site.folder, self._socket, self._site.user) as place:
            reader, writer = await asyncio.open_unix_connection(place, limit=_LONGEST_ANSWER)
        try:
            writer.write(request.encode())
            return (await reader.readuntil(b"\n\n")).decode("ascii", "replace")
        except asyncio.IncompleteReadError as exc:
            raise ConnectionResetError(errno.ECONNRESET, "the control socket was closed") from exc
        except asyncio.LimitOverrunError:
            said = f"{self._carrier.name} said more than {_LONGEST_ANSWER >> 20} MiB on its control socket"
            raise Fall(Failure.CARRIER_EXITED, said) from None
        finally:
            writer.close()


_OFF = {("jc", "0"), ("jmin", "0"), ("jmax", "0")}


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()


def _interface_lines(config: WireGuardConfig) -> list[tuple[str, str]]:
    lines = [("private_key", _hex(config.private_key.reveal())), ("listen_port", str(config.listen_port))]
    if config.amnezia is not None:
        # amneziawg-go takes no zero here ("must be a positive value"): off is said by leaving them out.
        lines.extend((key, value) for key, value in config.amnezia.values if (key, value) not in _OFF)
    for key, value in lines:
        # One line each: a value with a line break would be a second directive.
        if not key.replace("_", "").isalnum() or not value.isprintable():
            raise Fall(Failure.INVALID, f"`{key[:40]!r}` has a value that is not one line")
    return lines


def _peer_lines(peers: list[_Peer]) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for peer in peers:
        lines.append(("public_key", _hex(peer.peer.public_key)))
        if not peer.fresh:
            lines.append(("update_only", "true"))
        elif peer.peer.preshared_key is not None:
            lines.append(("preshared_key", _hex(peer.peer.preshared_key.reveal())))
        if peer.endpoint is not None:
            address, port = peer.endpoint
            lines.append(("endpoint", f"[{address}]:{port}" if ":" in address else f"{address}:{port}"))
        if peer.fresh:
            lines.append(("replace_allowed_ips", "true"))
            lines.extend(("allowed_ip", network) for network in peer.peer.allowed_ips)
        # Last, so that the packet it starts finds the peer complete.
        lines.append(("persistent_keepalive_interval", str(peer.keepalive)))
    return lines
