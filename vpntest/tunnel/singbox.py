"""Proxies by sing-box, one process for each tunnel; and its TUN for whatever else ends in a proxy of our own.

sing-box runs in the underlay and makes its TUN directly in the tunnel's namespace (`netns`, sing-box 1.14), so that
no device of ours is ever seen in the underlay and `resolvectl` is never called. The server's name stands in its config
with the one address that we found, so that TLS, HTTP and gRPC show what they would, and nothing is looked up.

Its gVisor stack takes a TCP connection as soon as the carrier's own one to the server stands, and most protocols ask
the server for nothing before the first byte. So a connection that is opened and closed again shows how far the carrier
itself gets:

    Shadowsocks, VMess, VLESS          TCP        wrong credentials show only in what never comes back
    these and Trojan, AnyTLS over TLS  TLS        the same
    these over WebSocket, HTTPUpgrade  HTTP       the same, with TLS or without
    VLESS with Reality                 TLS        a server that does not know our key or short id shows another site
    TUIC                               QUIC       the same as with TLS
    Hysteria2                          QUIC, and the server's word about the password
    SOCKS, HTTP, SSH                   the server's word about the password, then about what it was asked for
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vpntest.failures import Failure
from vpntest.plan.model import ProxyConfig
from vpntest.plan.secret import revealed
from vpntest.tunnel import dns, netlink
from vpntest.tunnel.cage import Process
from vpntest.tunnel.carriers import Carrier
from vpntest.tunnel.ladder import Fall, Rung, meaning
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.site import HANDSHAKE_TIMEOUT, Site

MTU = 1400
"""Bytes. sing-box's own default of 65535 would give every path the same look."""
ADDRESSES = ("172.19.0.1/30", "fdfe:dcba:9876::1/126")
"""The TUN's own; they mean nothing outside of its namespace."""
_START_TIMEOUT = 10.0
_HANDSHAKE_TRIES = 2
"""One that failed is made once more: not to judge by a lost packet, or by what was done to one connection alone."""
_PAUSE = 0.3
"""Seconds between the tries, and for the carrier's last words to arrive."""

_UDP_PATIENCE = 2.0
"""Seconds for a proxy to say that it takes no UDP, and for sing-box to say so."""
_LINES_KEPT = 100
_REFUSED = re.compile(r"^ERROR.*? using outbound/[\w-]+\[[^\]]*\]: (.+)")
_WAY = re.compile(r"\b(?:dial|read|write) (?:tcp|udp)[46]? \S+ ")
"""Our own address and the server's, which the record has already or need not have."""
_SAID = (
    (
        re.compile(r"^(?:[\w-]+: )?unexpected (?:HTTP response )?status|^method not allowed|^(?:\S+: )?malformed HTTP"),
        Failure.HTTP_REQUEST_FAILED,
    ),
    (re.compile(r"x509: certificate is (?:not )?valid for|x509: cannot validate"), Failure.SSL_INVALID_HOSTNAME),
    (re.compile(r"x509: certificate signed by unknown authority"), Failure.SSL_UNKNOWN_AUTHORITY),
    (re.compile(r"x509: |^connect to ssh server: .*host key mismatch, "), Failure.SSL_INVALID_CERTIFICATE),
    (re.compile(r"ssh: disconnect, reason"), Failure.EOF),
    (
        re.compile(
            r"^authentication failed, status code: \d|^(?:[\w -]+: )?reality verification failed$"
            r"|^socks5: (?:incorrect user name|unsupported auth method: \d)|^socks4: request rejected, code= 9[23]"
            r"|^authentication required$"
            r"|^connect to ssh server: ssh: handshake failed: ssh: unable to authenticate, attempted methods \["
        ),
        Failure.AUTH_REJECTED,
    ),
    (re.compile(r"connection reset by peer"), Failure.CONNECTION_RESET),
    (re.compile(r"connection refused"), Failure.CONNECTION_REFUSED),
    (re.compile(r"no route to host"), Failure.HOST_UNREACHABLE),
    (re.compile(r"network is unreachable"), Failure.NETWORK_UNREACHABLE),
    (re.compile(r"i/o timeout|deadline exceeded|no recent network activity|did not complete"), Failure.TIMEOUT),
    (re.compile(r"\bEOF$"), Failure.EOF),
    (re.compile(r"tls: |CRYPTO_ERROR"), Failure.SSL_FAILED_HANDSHAKE),
)
"""What sing-box says of a connection that it could not make, as 1.14.1 words it: the first that fits. First come those
that go on in words of whoever answers, such as the names in a certificate: nobody's words are a rejection."""
_TURNED_DOWN = (
    (re.compile(r"^socks5: request rejected, code=|^ssh: rejected: "), True),
    (re.compile(r"^socks4: request rejected, code=|^unexpected status: \d|^method not allowed"), False),
)
"""What it says where a server answered in its protocol and would, or could, not open what was asked for; and whether it
does so only once it has taken our credentials. A proxy by HTTP may look at the port first."""
_STATUS = re.compile(r"^(?:unexpected status: ([45]\d\d)|method not allowed)")
"""What it says where a proxy by HTTP answered with an error."""
_HOSTS = "hosts"
"""Tag of the table of names."""


async def climb(site: Site, config: ProxyConfig, carrier: Carrier, roots: str | None, destination: str) -> Process:
    """Climbs from `config` as far as it is seen before the first data. Raises Fall.

    To `endpoint`; where a handshake shows, to `handshake`; where the server says what it thinks of our password, to
    `auth`. `roots` is PEM that is trusted beside the system's roots; `destination` an address in the world
    behind, to which a connection is opened inside, and nothing is sent.
    """
    assert carrier.program is not None
    step = site.climb.rung
    server = config.server
    with step(Rung.CONFIG):
        outbound = dict(config.outbound)
    with step(Rung.ENDPOINT_DNS):
        addresses = await site.resolve(server)
    with step(Rung.ENDPOINT):
        addresses = site.reachable(addresses, server.port)
        address = addresses[0] if server.transport == "udp" else await site.connects(addresses, server.port)
        outbound |= {"server": server.host, "server_port": server.port}
        said: list[str] = []

        def heard(line: str) -> None:
            if len(said) < _LINES_KEPT:
                said.append(line)

        process = await device(site, carrier.program, [outbound], roots, heard=heard, hosts={server.host: address})
    if _shows_its_handshake(outbound):
        is_http = outbound["type"] == "http"
        knows_us = outbound["type"] in _SAYS_ITS_WORD
        fallen: Fall | None = None
        with step(Rung.HANDSHAKE):
            try:
                knows_us &= await greeted(site, process, said, destination, 443 if is_http else 53)
            except Fall as fall:
                rejection = await _rejection(site, outbound, address, fall, roots)
                if rejection:
                    fallen = Fall(Failure.AUTH_REJECTED, rejection)
                elif not _fell_after_tls(outbound, fall):
                    raise
        if is_http and fallen is None:
            passes, fallen = await names_pass(site, said, destination)
            knows_us |= passes
        if fallen is not None or knows_us:
            with step(Rung.AUTH):
                if fallen is not None:
                    raise fallen
    if outbound["type"] == "socks" and config.carries_udp:
        site.carries_udp = await takes_udp(site, said, destination)
    return process


_SAYS_ITS_WORD = ("hysteria2", "socks", "http", "ssh")
"""Protocols whose server says what it thinks of our credentials before anything is sent."""


def _shows_its_handshake(outbound: Mapping[str, Any]) -> bool:
    """Whether a connection through it stands only once its server has answered."""
    if outbound.get("type") in _SAYS_ITS_WORD:
        return True
    if outbound.get("multiplex"):
        return False
    if plugin := outbound.get("plugin"):
        # simple-obfs hides in what is sent anyway; v2ray-plugin is WebSocket, or QUIC.
        return bool(plugin == "v2ray-plugin")
    transport = outbound.get("transport") or {}
    tls = outbound.get("tls") or {}
    match transport.get("type"):
        case None | "quic":
            return bool(tls.get("enabled"))
        case "ws" | "httpupgrade":
            # One that sends its first bytes early is dialled when there is something to send.
            return not transport.get("max_early_data")
    # So are gRPC and HTTP/2.
    return False


def _fell_after_tls(outbound: Mapping[str, Any], fall: Fall) -> bool:
    """Whether its handshake came to its end, and the server hung up afterwards.

    AnyTLS alone writes before it says that it stands: its password, first of all. A server that does not know it hangs
    up, before the last was written or after; what cuts the handshake itself off shows where the answer is read.
    """
    return outbound["type"] == "anytls" and fall.detail.startswith("write: ")


async def greeted(site: Site, process: Process, said: list[str], destination: str, port: int) -> bool:
    """Waits until the server has answered the carrier. Raises Fall, with what the carrier says about it.

    `said` is the carrier's output. False where the server turned `destination` down, and may have done so before it
    looked at our credentials.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    fall = Fall(Failure.TIMEOUT)
    for attempt in range(_HANDSHAKE_TRIES):
        if attempt:
            await asyncio.sleep(_PAUSE)
        said.clear()
        with site.netns.socket(family, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT / _HANDSHAKE_TRIES):
                    await loop.sock_connect(probe, (destination, port))
                return True
            except TimeoutError:
                fall = Fall(Failure.TIMEOUT, "the server took the connection, and its handshake did not end")
            except OSError:
                # The stack refuses whatever the carrier could not do. Why is in the carrier's output, which may lag.
                await asyncio.sleep(_PAUSE)
                reason = _reason(said)
                for pattern, knows_us in _TURNED_DOWN:
                    if pattern.search(reason) and meaning(reason, _SAID) != Failure.AUTH_REJECTED:
                        return knows_us
                fall = _meant(site, reason)
        if not process.running():
            raise Fall(Failure.CARRIER_EXITED, site.tail())
        if fall.failure == Failure.AUTH_REJECTED:
            break
    raise fall


async def takes_udp(site: Site, said: list[str], destination: str) -> bool:
    """Whether a SOCKS proxy takes UDP: many have no such command, and say so, or hang up as OpenSSH does. Silence is no
    refusal.

    Asks `destination` for a name; `said` is the carrier's output.
    """
    said.clear()
    found = await dns.ask(site.netns.socket, destination, "example.org", "A", timeout=_UDP_PATIENCE)
    return found.rcode is not None or not re.search(r"socks5: request rejected|\bEOF$", _reason(said))


async def names_pass(site: Site, said: list[str], destination: str) -> tuple[bool, Fall | None]:
    """Whether a proxy by HTTP lets a name be asked for over TCP; and where it turned that down, what follows.

    Many open connections to the ports of the web only, or none to an address: their users have them look names up. We
    ask a resolver, and where that cannot be, whatever we said of platforms would be wrong. `said` is the carrier's
    output since :func:`greeted`.
    """
    web = _STATUS.match(_reason(said))
    said.clear()
    found = await dns.ask(site.netns.socket, destination, "example.org", "A", only_tcp=True)
    if found.rcode is not None:
        return True, None
    await asyncio.sleep(_PAUSE)
    answer = _STATUS.match(_reason(said))
    if answer is None:
        return False, None
    if web is None:
        return False, Fall(
            Failure.UNSUPPORTED, "the proxy opens no connection to port 53, so no names can be asked for"
        )
    codes = sorted({found[1] or "405" for found in (web, answer)})
    answers = f"the proxy answers HTTP {' or '.join(codes)} to every connection that it is asked for by an address"
    if all(code[0] == "5" for code in codes):
        # It would, and cannot.
        return False, Fall(Failure.HTTP_REQUEST_FAILED, answers)
    return False, Fall(Failure.UNSUPPORTED, f"{answers}: it opens connections to names only, or none for us")


def _reason(said: list[str]) -> str:
    """Why the last connection could not be made; empty where nothing says so."""
    return next((found[1] for line in reversed(said) if (found := _REFUSED.search(line))), "")


def _meant(site: Site, reason: str) -> Fall:
    detail = site.redact(_WAY.sub("", reason)) if reason else site.tail()
    return Fall(meaning(reason, _SAID) or "unknown_failure: sing-box", detail)


async def _rejection(site: Site, outbound: Mapping[str, Any], address: str, fall: Fall, roots: str | None) -> str:
    """What shows that the server itself turned our credentials away; empty where nothing does."""
    if fall.failure == Failure.AUTH_REJECTED:
        return fall.detail
    tls = outbound.get("tls") or {}
    if not tls.get("reality", {}).get("enabled") or fall.failure != Failure.SSL_UNKNOWN_AUTHORITY:
        return ""
    # sing-box knows the system's roots here and not ours. A true certificate is the borrowed site's, which the server
    # shows to strangers; one that nobody vouches for may be of somebody on the way.
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context()
    if roots:
        context.load_verify_locations(cadata=roots)
    port, name = outbound["server_port"], tls.get("server_name") or outbound["server"]
    with site.outside.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT / _HANDSHAKE_TRIES):
                await loop.sock_connect(probe, (address, port))
                _, writer = await asyncio.open_connection(sock=probe, ssl=context, server_hostname=name)
                writer.transport.abort()
        except OSError:
            return ""
    return "the server shows the certificate of the site that it borrows: it does not know this key or short id"


async def device(
    site: Site,
    program: str,
    outbounds: Sequence[Mapping[str, Any]],
    roots: str | None = None,
    *,
    heard: Callable[[str], None] = lambda line: None,
    hosts: Mapping[str, str] | None = None,
    home: Namespace | None = None,
) -> Process:
    """Makes the tunnel's device: a TUN of sing-box in the tunnel's namespace, addressed, all of whose traffic goes
    through the first of `outbounds`; the others are those that it names. Raises Fall.

    `outbounds` are as sing-box wants them, and may hold :class:`Secret`. `roots` is PEM that is trusted beside the
    system's roots; `heard` gets each line that sing-box says; `hosts` has the address of every name that stands as a
    server, for no other is looked up; `home` is the namespace that it dials in, the underlay by default.
    """
    document = _document(_tun(site.netns, site.device, ADDRESSES, MTU), revealed(outbounds), roots, hosts or {})
    process = await _started(site, program, document, site.netns, site.device, heard, home)
    await netlink.address(site.netns, site.device, addresses=ADDRESSES, routes=("0.0.0.0/0", "::/0"))
    return process


async def uplink(
    site: Site,
    program: str,
    netns: Namespace,
    name: str,
    addresses: Sequence[str],
    mtu: int,
    resolver: tuple[str, str],
) -> Process:
    """Makes a device in `netns` whose TCP and UDP leave through the underlay's own sockets. Raises Fall.

    Questions for names to the first address of `resolver` go to the second, in the underlay. The device is left without
    addresses and routes.
    """
    shown, real = resolver
    direct = {"type": "direct", "tag": "proxy"}
    document = _document(_tun(netns, name, addresses, mtu), [direct], None, {})
    here = {"ip_cidr": [shown], "port": [53]}
    document["route"]["rules"] = [{**here, "action": "route", "outbound": "proxy", "override_address": real}]
    return await _started(site, program, document, netns, name)


async def _started(
    site: Site,
    program: str,
    document: dict[str, Any],
    netns: Namespace,
    name: str,
    heard: Callable[[str], None] = lambda line: None,
    home: Namespace | None = None,
) -> Process:
    """A sing-box that has made its device `name` in `netns`. Raises Fall."""
    # In memory and by descriptor: the config is never on the file system and never in an argument.
    config = os.memfd_create("config")
    try:
        os.write(config, json.dumps(document).encode())
        os.lseek(config, 0, os.SEEK_SET)
        process = site.spawn(
            [program, "run", "-c", "stdin", "--disable-color"],
            stdin=config,
            pass_fds=[netns.fileno()],
            # It finds no program there that could act on the host.
            env={"PATH": "/nonexistent"},
            heard=heard,
            netns=home,
        )
    finally:
        os.close(config)
    try:
        async with asyncio.timeout(_START_TIMEOUT):
            while netlink.count(netns, name) is None:
                if not process.running():
                    await asyncio.sleep(0.05)
                    raise Fall(Failure.CARRIER_EXITED, site.tail())
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise Fall(Failure.CARRIER_EXITED, "sing-box did not make its device") from None
    return process


def _tun(netns: Namespace, name: str, addresses: Sequence[str], mtu: int) -> dict[str, Any]:
    return {
        "type": "tun",
        "interface_name": name,
        "netns": f"/proc/self/fd/{netns.fileno()}",
        "address": list(addresses),
        "mtu": mtu,
        "auto_route": False,
        "stack": "gvisor",
    }


def _document(
    inbound: dict[str, Any], outbounds: Sequence[dict[str, Any]], roots: str | None, hosts: Mapping[str, str]
) -> dict[str, Any]:
    first, *others = outbounds
    return {
        "certificate": {"store": "system", "certificate": [roots] if roots else []},
        "log": {"level": "warn", "timestamp": False},
        "dns": {"servers": [{"type": "hosts", "tag": _HOSTS, "path": "/dev/null", "predefined": dict(hosts)}]},
        "inbounds": [inbound],
        # Longer than any probe waits: where the server is silent, a probe shall see silence, not the stack's refusal.
        "outbounds": [{"connect_timeout": "20s", "tag": "proxy"} | first, *others],
        "route": {"final": first.get("tag", "proxy"), "default_domain_resolver": _HOSTS},
    }
