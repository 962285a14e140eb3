"""Proxies by sing-box: Shadowsocks, VLESS, Trojan, Hysteria2. One process for each tunnel.

sing-box runs in the underlay and makes its TUN directly in the tunnel's namespace (`netns`, sing-box 1.14), so that
no device of ours is ever seen in the underlay and `resolvectl` is never called. Its gVisor stack answers every TCP
connect by itself: what the server thinks of our credentials shows only with the first byte from the far side.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from typing import Any

from vpntest.failures import Failure
from vpntest.plan.model import ProxyConfig
from vpntest.plan.secret import Secret
from vpntest.tunnel import netlink
from vpntest.tunnel.cage import Process
from vpntest.tunnel.carriers import Carrier
from vpntest.tunnel.ladder import Fall, Rung
from vpntest.tunnel.site import Site

MTU = 1400
"""Bytes. sing-box's own default of 65535 would give every path the same look."""
ADDRESSES = ("172.19.0.1/30", "fdfe:dcba:9876::1/126")
"""The TUN's own; they mean nothing outside of its namespace."""
_START_TIMEOUT = 10.0


async def climb(site: Site, config: ProxyConfig, carrier: Carrier, roots: str | None) -> Process:
    """Climbs from `config` to `endpoint`; further is not seen before the first data. Raises Fall.

    `roots` is PEM that is trusted beside the system's roots.
    """
    assert carrier.program is not None
    step = site.climb.rung
    server = config.server
    with step(Rung.CONFIG):
        outbound = _revealed(config.outbound)
        _keep_names(outbound, server.host)
    with step(Rung.ENDPOINT_DNS):
        addresses = await site.resolve(server)
    with step(Rung.ENDPOINT):
        addresses = site.reachable(addresses, server.port)
        address = addresses[0] if server.transport == "udp" else await site.connects(addresses, server.port)
        outbound |= {"server": address, "server_port": server.port, "tag": "proxy"}
        document = _document(site, outbound, roots)
        process = await _started(site, carrier.program, document)
    return process


async def _started(site: Site, program: str, document: dict[str, Any]) -> Process:
    # In memory and by descriptor: the config is never on the file system and never in an argument.
    config = os.memfd_create("config")
    try:
        os.write(config, json.dumps(document).encode())
        os.lseek(config, 0, os.SEEK_SET)
        process = site.spawn(
            [program, "run", "-c", "stdin", "--disable-color"],
            stdin=config,
            pass_fds=[site.netns.fileno()],
            # It finds no program there that could act on the host.
            env={"PATH": "/nonexistent"},
        )
    finally:
        os.close(config)
    try:
        async with asyncio.timeout(_START_TIMEOUT):
            while site.count_packets() is None:
                if not process.running():
                    await asyncio.sleep(0.05)
                    raise Fall(Failure.CARRIER_EXITED, site.tail())
                await asyncio.sleep(0.01)
            await netlink.address(site.netns, site.device, addresses=ADDRESSES, routes=("0.0.0.0/0", "::/0"))
    except TimeoutError:
        raise Fall(Failure.CARRIER_EXITED, "sing-box did not make its device") from None
    return process


def _document(site: Site, outbound: dict[str, Any], roots: str | None) -> dict[str, Any]:
    return {
        "certificate": {"store": "system", "certificate": [roots] if roots else []},
        "log": {"level": "warn", "timestamp": False},
        "inbounds": [
            {
                "type": "tun",
                "interface_name": site.device,
                "netns": f"/proc/self/fd/{site.netns.fileno()}",
                "address": list(ADDRESSES),
                "mtu": MTU,
                "auto_route": False,
                "stack": "gvisor",
            }
        ],
        "outbounds": [outbound],
        "route": {"final": "proxy"},
    }


def _revealed(value: object) -> Any:
    match value:
        case Secret():
            return value.reveal()
        case dict():
            return {key: _revealed(part) for key, part in value.items()}
        case list() | tuple():
            return [_revealed(part) for part in value]
    return value


def _keep_names(outbound: dict[str, Any], host: str) -> None:
    """Says the server's name wherever sing-box would take it from `server`, which becomes an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return
    tls = outbound.get("tls")
    if isinstance(tls, dict) and tls.get("enabled"):
        tls.setdefault("server_name", host)
    transport = outbound.get("transport")
    if isinstance(transport, dict) and transport.get("type") == "ws":
        headers = transport.setdefault("headers", {})
        if not any(key.lower() == "host" for key in headers):
            headers["Host"] = host
    elif isinstance(transport, dict) and transport.get("type") in ("http", "httpupgrade"):
        transport.setdefault("host", host)
