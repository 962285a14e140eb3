"""Links, addresses and routes of a namespace, through pyroute2, for callers in an event loop.

pyroute2's synchronous classes refuse to run inside a running loop, and its `netns=` constructors fork the whole
process. So each job runs in a worker thread that enters the namespace, opens the socket there (about 1 ms) and leaves.

A tunnel's device must be silent: a censor's allowance may be two data packets, and the kernel must not spend them on
router solicitations and multicast reports. :func:`prepare` and :func:`address` see to that, inside the namespace only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vpntest.plan import places
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.vantage import PacketCount

if TYPE_CHECKING:
    from pyroute2 import IPRoute

T = TypeVar("T")

_WORKERS = ThreadPoolExecutor(max_workers=4, thread_name_prefix="netlink")
"""Few: rtnl is one lock for the whole kernel."""

_ADDR_GEN_MODE_NONE = 1
"""IN6_ADDR_GEN_MODE_NONE (linux/if_link.h): no link-local address, hence no router solicitation and no MLD report."""
_RTM_F_FIB_MATCH = 0x2000
"""Asks for the route itself, not for what comes of it (linux/rtnetlink.h)."""
_RTN_UNICAST, _RTN_LOCAL, _RTN_MANY = 1, 2, (3, 4, 5)
"""Kinds of routes (ibidem); the last ones are broadcast, anycast and multicast."""
_IFA_F_NODAD = 0x02
"""The address is usable at once, and no duplicate address detection is sent."""
_QUIET = {"accept_ra": "0", "autoconf": "0", "router_solicitations": "0", "addr_gen_mode": str(_ADDR_GEN_MODE_NONE)}


class NetlinkRefused(OSError):
    """The kernel refused a netlink request; `errno` is its answer."""


async def elsewhere(namespace: Namespace, job: Callable[[], T]) -> T:
    """Runs `job` in a thread that is in the namespace. Raises NetlinkRefused.

    Whoever is cancelled meanwhile waits for its end: a thread cannot be called back, and what undoes its work must come
    after it.
    """

    def work() -> T:
        from pyroute2 import NetlinkError

        try:
            with namespace.entered():
                return job()
        except NetlinkError as exc:
            raise NetlinkRefused(exc.code, exc.args[1] if len(exc.args) > 1 else "refused") from exc

    under_way = asyncio.get_running_loop().run_in_executor(_WORKERS, work)
    try:
        return await asyncio.shield(under_way)
    except asyncio.CancelledError:
        await asyncio.wait([under_way])
        raise


async def within(namespace: Namespace, job: Callable[[IPRoute], T]) -> T:
    """Runs `job` with a route netlink socket of the namespace. Raises NetlinkRefused."""

    def work() -> T:
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            return job(ip)

    return await elsewhere(namespace, work)


def _index(ip: IPRoute, name: str) -> int:
    found = ip.link_lookup(ifname=name)
    if not found:
        raise FileNotFoundError(2, f"no link {name}")
    return int(found[0])


async def prepare(namespace: Namespace) -> None:
    """Makes a new namespace fit for a tunnel: `lo` is up, and links made in it speak only when told to."""

    def job(ip: IPRoute) -> None:
        # A read-only /proc/sys is no reason to fail: `address` asks for silence once more, by netlink.
        with contextlib.suppress(OSError):
            for which in ("default", "all"):
                for key, value in _QUIET.items():
                    knob = Path("/proc/sys/net/ipv6/conf", which, key)
                    if knob.exists() and not (which == "all" and key == "addr_gen_mode"):
                        knob.write_text(value)
        ip.link("set", index=_index(ip, "lo"), state="up")

    await within(namespace, job)


async def make(name: str, source: Namespace, target: Namespace, **spec: Any) -> None:
    """Makes a link in `target` as `source` asks for it, so that its outer socket, if it has one, is in `source`.

    The kernel keeps the asking namespace for that (drivers/net/wireguard/device.c: creating_net), and the link is never
    seen in it. `spec` is the link's `kind` and what that needs. Raises NetlinkRefused.
    """
    await within(source, lambda ip: ip.link("add", ifname=name, net_ns_fd=target.fileno(), **spec))


async def move(name: str, source: Namespace, target: Namespace) -> None:
    """Moves a link, which takes it down and its addresses away. Raises NetlinkRefused, FileNotFoundError."""
    await within(source, lambda ip: ip.link("set", index=_index(ip, name), net_ns_fd=target.fileno()))


async def address(
    namespace: Namespace,
    name: str,
    *,
    addresses: Sequence[str],
    routes: Sequence[str],
    mtu: int | None = None,
    ipv4_mtu: int | None = None,
) -> None:
    """Gives a link its addresses (`198.18.0.2/32`), brings it up and sends the networks `routes` through it.

    Routes of a family that has no address here are left out: no packet could take them. `ipv4_mtu`: of the routes of
    IPv4, which may be less than a link may have that carries IPv6. Raises NetlinkRefused.
    """

    def job(ip: IPRoute) -> None:
        index = _index(ip, name)
        _silence(ip, index)
        if mtu is not None:
            ip.link("set", index=index, mtu=mtu)
        families = set()
        for text in addresses:
            interface = ipaddress.ip_interface(text)
            families.add(interface.version)
            flags: dict[str, Any] = {"flags": _IFA_F_NODAD} if interface.version == 6 else {}
            ip.addr("replace", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen, **flags)
        ip.link("set", index=index, state="up")
        for text in dict.fromkeys(routes):
            network = ipaddress.ip_network(text)
            if network.version in families:
                family = socket.AF_INET if network.version == 4 else socket.AF_INET6
                own = {"metrics": {"mtu": ipv4_mtu}} if ipv4_mtu and network.version == 4 else {}
                ip.route("replace", dst=text, oif=index, family=family, **own)

    await within(namespace, job)


def _silence(ip: IPRoute, index: int) -> None:
    from pyroute2 import NetlinkError

    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]}
    # Without IPv6 in the kernel there is nothing to silence.
    with contextlib.suppress(NetlinkError):
        ip.link("set", index=index, IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})


async def own(namespace: Namespace, addresses: Sequence[str]) -> list[str | None]:
    """Of each address, what makes it one of this machine's own networks by the routes of a namespace; None for others.

    Its own addresses, the broadcast addresses of what it is wired to, and every private address that has a route but
    the default one. Sends nothing.
    """
    if not addresses:
        return []

    def job(ip: IPRoute) -> list[str | None]:
        return [_owned(ip, address) for address in addresses]

    return await within(namespace, job)


@dataclass(frozen=True)
class Way:
    """Where packets to an address leave."""

    device: str
    kind: str | None
    """What the kernel calls it (`wireguard`, `tun`, `veth`); None for what stands for hardware."""


def way(address: str) -> Way | None:
    """The way to an address from where we are; None where there is none. Sends nothing, and needs no root.

    Not for callers in an event loop.
    """
    from pyroute2 import IPRoute, NetlinkError

    with IPRoute() as ip:
        try:
            (route, *_) = ip.route("get", dst=address, family=socket.AF_INET6 if ":" in address else socket.AF_INET)
            (link, *_) = ip.get_links(route.get_attr("RTA_OIF"))
        except (NetlinkError, ValueError):
            return None
        info = link.get_attr("IFLA_LINKINFO")
        kind = info.get_attr("IFLA_INFO_KIND") if info else None
        return Way(link.get_attr("IFLA_IFNAME"), kind) if route["type"] == _RTN_UNICAST else None


def _owned(ip: IPRoute, address: str) -> str | None:
    from pyroute2 import NetlinkError

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        found = ip.route("get", dst=address, family=family, flags=_RTM_F_FIB_MATCH)
    except NetlinkError:
        # No way there at all.
        return None
    for route in found:
        if route["type"] == _RTN_LOCAL:
            return "an address of this machine"
        if route["type"] in _RTN_MANY:
            return "no address of a single machine"
        if (
            route["type"] == _RTN_UNICAST
            and route["dst_len"]
            and places.is_private(f"{route.get_attr('RTA_DST')}/{route['dst_len']}")
        ):
            return "in a private network that this machine is wired to"
    return None


async def delete(namespace: Namespace, name: str) -> None:
    """Deletes a link; one that is gone already is no error."""

    def job(ip: IPRoute) -> None:
        for index in ip.link_lookup(ifname=name):
            ip.link("del", index=index)

    await within(namespace, job)


def count(namespace: Namespace, name: str) -> PacketCount | None:
    """The packets that a link has carried since it was made; None where there is none. Cheap, for any thread."""
    with namespace.entered():
        # /proc/self/net would be the main thread's.
        table = Path("/proc/thread-self/net/dev").read_text(encoding="ascii", errors="replace")
    for line in table.splitlines():
        link, colon, figures = line.partition(":")
        if colon and link.strip() == name:
            columns = figures.split()
            return PacketCount(received=int(columns[1]), sent=int(columns[9]))
    return None
