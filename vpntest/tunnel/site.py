"""Where one tunnel is being raised: what each kind of carrier is given, and everything that must be undone later."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ipaddress
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vpntest.failures import Failure
from vpntest.plan import places, syntax
from vpntest.plan.model import Server
from vpntest.plan.secret import Secret
from vpntest.tunnel import dns, netlink
from vpntest.tunnel.cage import Cage, Process
from vpntest.tunnel.confinement import NEEDS, Capability, Confinement, drop_folder, make_folder, new_user
from vpntest.tunnel.evidence import Journal
from vpntest.tunnel.ladder import Climb, Fall
from vpntest.tunnel.namespace import Namespace
from vpntest.tunnel.vantage import PacketCount, Vantage

HANDSHAKE_TIMEOUT = 16.0
"""Seconds for a server's first sign of life. WireGuard starts anew every 5 s (REKEY_TIMEOUT): at 0, 5, 10 and 15."""
SHARE_TIMEOUT = 6.0
"""Seconds that each address of a server gets at least, where its name has several: one lost start, and a second one."""
CONNECT_TIMEOUT = 10.0
"""Seconds for a TCP connection to a server: SYNs at 0, 1, 3 and 7 s."""
ADDRESSES_TRIED = 3
"""Addresses of one server that are tried."""

_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_IP_MTU, _IPV6_MTU = 14, 24
_NEVER_IN_PIECES = 2
"""`linux/in.h`, `linux/in6.h`: IP_MTU_DISCOVER, IP_MTU, and IP_PMTUDISC_DO."""
_PING = bytes.fromhex("0800 f7fd 0001 0001")
_PING6 = bytes.fromhex("8000 0000 0001 0001")
"""Echo requests, number 1 of 1, with the checksum that zeros leave as it is; the kernel makes that of ICMPv6."""
_HEADERS, _HEADERS6 = 28, 48
"""Bytes of IP's header and ICMP's."""
_KEY_MATERIAL = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
_TAIL_LINES = 4
_DETAIL_LENGTH = 240


@dataclass
class Site:
    """One tunnel's place of work: its cage, underlay and namespace, and the stack of what has to be undone."""

    cage: Cage
    outside: Vantage
    netns: Namespace
    climb: Climb
    undo: contextlib.AsyncExitStack
    secrets: Sequence[Secret]
    """What must never be in a `detail`."""
    user: int = field(default_factory=new_user)
    """Whom this tunnel's carriers run as, and nobody else."""
    device: str = field(default_factory=lambda: "vx" + secrets.token_hex(5))
    """The tunnel's link. Random, because the carriers' control sockets are named after it, and have one folder."""
    journal: Journal | None = None
    """Takes down what the carrier says, and whom it calls; None where no evidence is kept."""
    local_servers: bool = False
    """Whether servers may stand in this machine's own networks."""
    carries_udp: bool = True
    """False once it has shown that no UDP passes, though the config would have it."""
    warnings: list[str] = field(default_factory=list)
    """What of the config is not tried, a line each."""
    _tail: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=_TAIL_LINES))

    @property
    def underlay(self) -> Namespace:
        """Where the carrier and its outer packets are."""
        return self.outside.netns

    @cached_property
    def folder(self) -> Path:
        """A folder of the carriers' own, in memory and gone with the tunnel: they know it as `/run`."""
        made = self.cage.directory / self.device
        self.undo.callback(drop_folder, made)
        make_folder(made, self.user)
        return made

    def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        env: dict[str, str] | None = None,
        readable: Sequence[Path] = (),
        heard: Callable[[str], None] = lambda line: None,
        netns: Namespace | None = None,
    ) -> Process:
        """Starts the carrier, in the underlay by default. It is stopped with the tunnel, and its output is read until
        then.

        It may do what :data:`~vpntest.tunnel.confinement.NEEDS` says of a program of its name, one that is not in
        there nothing; `readable` are files that it sees beside the system's. Only a short tail of the output is kept;
        `heard` gets each line as it comes.
        """
        capabilities = NEEDS.get(Path(argv[0]).name, ())
        # What enters a namespace has its powers there only, where that belongs to the tunnel's user.
        entered = [Namespace(fd).users() for fd in pass_fds] if Capability.SYS_ADMIN in capabilities else []
        users = next((fd for fd in entered if fd is not None), None)
        confinement = Confinement(self.user, self.folder, capabilities, users, tuple(readable))
        try:
            process = self.cage.spawn(
                argv, netns or self.underlay, pass_fds=pass_fds, env=env, stdin=stdin, confinement=confinement
            )
        finally:
            for fd in filter(None, entered):
                os.close(fd)
        self.follow(process, heard)
        return process

    def follow(self, process: Process, heard: Callable[[str], None] = lambda line: None) -> None:
        """Reads the output of a carrier that was started otherwise; it too is stopped with the tunnel."""

        async def drain() -> None:
            async for line in process.lines():
                self._tail.append(line)
                if self.journal is not None:
                    self.journal.said(line)
                heard(line)

        task = asyncio.ensure_future(drain())

        async def done() -> None:
            task.cancel()
            await asyncio.wait([task])

        self.undo.push_async_callback(done)
        self.undo.push_async_callback(process.stop)

    def tail(self) -> str:
        """What the carrier said last, in one short line without secrets."""
        return self.redact(" | ".join(line.strip() for line in self._tail if line.strip()))

    def redact(self, text: str) -> str:
        """`text` without the tunnel's secrets, without whatever looks like a key, and not longer than a line."""
        for secret in self.secrets:
            if secret.reveal():
                text = text.replace(secret.reveal(), "***")
        text = _KEY_MATERIAL.sub("***", text)
        return text if len(text) <= _DETAIL_LENGTH else "…" + text[-_DETAIL_LENGTH:]

    async def resolve(self, server: Server) -> list[str]:
        """Addresses of a server, by the resolver of `outside`, IPv4 first. Raises Fall.

        Those of this machine's own networks are left out; where no other is left, the server is refused.
        """
        addresses = await self.permitted(server.host, await self._resolved(server))
        if self.journal is not None:
            self.journal.calls(server, addresses)
        return addresses

    async def permitted(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Of the addresses of a host, those that a stranger's config may have us call. Raises Fall where none is."""
        if self.local_servers:
            return list(addresses)
        reasons = [places.refusal(host), *map(places.refusal, addresses)]
        if reasons[0] is None:
            owned = await netlink.own(self.underlay, addresses)
            reasons = [
                reason or (owner and f"its server is {owner}") for reason, owner in zip(reasons[1:], owned, strict=True)
            ]
            if fit := [address for address, reason in zip(addresses, reasons, strict=True) if reason is None]:
                return fit
        reason = next(filter(None, reasons), "its server has no address")
        # Censors forge such answers; a stranger's name may as well lead there by intent. Both are bogons.
        named = not syntax.is_address(host)
        raise Fall(
            Failure.DNS_BOGON if named else Failure.REFUSED,
            f"{'the answer says that ' if named else ''}{reason}; `local_servers` in the plan allows it",
        )

    async def _resolved(self, server: Server) -> list[str]:
        try:
            return [str(ipaddress.ip_address(server.host))]
        except ValueError:
            pass
        four, six = await asyncio.gather(
            *(dns.ask(self.outside.socket, self.outside.resolver, server.host, kind) for kind in ("A", "AAAA"))
        )
        addresses = [*four.answers, *six.answers]
        if not addresses:
            raise Fall(four.failure or six.failure or "dns_no_answer", f"{server.host} has no address")
        return addresses

    def reachable(self, addresses: Sequence[str], port: int) -> list[str]:
        """Those that the underlay has a route to. Sends nothing. Raises the last OSError where none is left."""
        fit: list[str] = []
        refused: OSError | None = None
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                with self.outside.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect((address, port))
            except OSError as exc:
                refused = exc
            else:
                fit.append(address)
        if not fit and refused is not None:
            raise refused
        return fit[:ADDRESSES_TRIED]

    async def connects(self, addresses: Sequence[str], port: int) -> str:
        """The first address that takes a TCP connection, which is closed at once. Raises the last OSError."""
        loop = asyncio.get_running_loop()
        refused: OSError | None = None
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with self.outside.socket(family, socket.SOCK_STREAM) as probe:
                try:
                    async with asyncio.timeout(max(CONNECT_TIMEOUT / len(addresses), SHARE_TIMEOUT)):
                        await loop.sock_connect(probe, (address, port))
                        return address
                except OSError as exc:
                    refused = exc
        raise refused or TimeoutError()

    @contextlib.contextmanager
    def pinging(self, address: str) -> Iterator[None]:
        """While the body runs, one ping is on its way, as long as our own link carries, to pass whole or not at all.

        A narrower link on the way answers that it is too long, and the kernel remembers, for :meth:`path_mtu`. Where no
        such answer comes, nothing is learned. Raises nothing of its own: a box may forbid pings.
        """
        six = ":" in address
        family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
        headers = _HEADERS6 if six else _HEADERS
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                # It must stay open: the kernel hears only answers to sockets that are there.
                sock = stack.enter_context(self.underlay.socket(family, socket.SOCK_RAW, protocol))
                sock.setblocking(False)
                level, option = (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if six else (socket.IPPROTO_IP, _MTU_DISCOVER)
                sock.setsockopt(level, option, _NEVER_IN_PIECES)
                padding = bytes(max(0, (self.path_mtu(address) or 0) - headers))
                sock.sendto((_PING6 if six else _PING) + padding, (address, 0))
            yield

    def path_mtu(self, address: str) -> int | None:
        """Bytes of the largest packet that goes to an address whole, as far as the kernel knows. None: no way there."""
        six = ":" in address
        try:
            with self.outside.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect((address, 9))
                level, option = (socket.IPPROTO_IPV6, _IPV6_MTU) if six else (socket.IPPROTO_IP, _IP_MTU)
                return sock.getsockopt(level, option)
        except OSError:
            return None

    def count_packets(self) -> PacketCount | None:
        """The counters of the tunnel's device; None once it is gone."""
        return netlink.count(self.netns, self.device)
