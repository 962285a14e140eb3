"""Tor by bridges: a tor of our own config, led by its control socket, and sing-box's TUN in front of it.

    tunnel namespace ── TUN ── sing-box ──SOCKS── tor ── transport's client ── bridge ── … ── exit
                               └─────────────── underlay ───────────────┘

Of what a stranger wrote only bridge lines reach tor, each in quotes; the programs that speak the transports are this
machine's. They look no name up: every one that a line has them call was looked up by us, and only what it may lead to
stands in their hosts file. To whom a Snowflake's broker sends its client, it alone decides: that client calls any
address, this machine's own too, by UDP.

Tor starts with its network off and gets it once we listen, so that no word of its start is missed.

Tor carries TCP only. It takes SOCKS on a port of the underlay's loopback that the kernel chooses: other programs of the
same machine could use it while the tunnel stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from vpntest.failures import Failure
from vpntest.plan import syntax
from vpntest.plan.model import Bridge, Server, TorConfig
from vpntest.plan.secret import Secret
from vpntest.tunnel import singbox
from vpntest.tunnel.cage import MAX_LINE, Process, lines_of
from vpntest.tunnel.carriers import Carrier
from vpntest.tunnel.confinement import list_owned, owned_socket, read_owned
from vpntest.tunnel.ladder import Fall, Rung, meaning
from vpntest.tunnel.site import ADDRESSES_TRIED, HANDSHAKE_TIMEOUT, Site

HANDSHAKE_PATIENCE = 60.0
"""Seconds until a bridge has shaken hands. A broker finds a Snowflake in up to 30; obfs4's client gives a try 30."""
CIRCUIT_PATIENCE = 75.0
"""Seconds from there to the first circuit. Some 2 MB of directory come first, a bridge's line is often slow."""
RAISE_TIMEOUT = 10.0 + HANDSHAKE_PATIENCE + CIRCUIT_PATIENCE + 10.0
"""Seconds for all rungs together: a name and a connection before, the device after."""

_START_TIMEOUT = 10.0
_TRIES = 3
"""Failed tries of each bridge after which its word is taken, not before :data:`HANDSHAKE_TIMEOUT`."""
_HASHED_BYTES = 1 << 16
"""Bytes that tor hashes of a repeated password where its mark is 60 (src/lib/crypt_ops/crypto_s2k.c)."""
_NOBODY = "nameserver fe80::%none\n"
"""A resolver's address that the kernel sends nothing to. Without any, programs ask 127.0.0.1."""
_LOOKED_UP = 128
"""Names of all bridges together; a list that somebody hands out has a few."""
_LOOKED_AT = 8
"""Bridges that we open a connection to, to see whether any can be reached."""

_HANDSHAKE_DONE, _DONE = 15, 100
"""Percent of tor's start (control-spec, 5.5: tags `handshake_done` and `done`)."""
_BOOTSTRAP = re.compile(
    r'BOOTSTRAP PROGRESS=(\d+) TAG=(\w+) SUMMARY="((?:[^"\\]|\\.)*)"'
    r'(?: WARNING="((?:[^"\\]|\\.)*)" REASON=(\w+) COUNT=(\d+))?'
)
_SKEW = re.compile(r"CLOCK_SKEW SKEW=(-?\d+)")
_SOCKS = re.compile(r'net/listeners/socks="127\.0\.0\.1:(\d+)"')

_REASONS = {
    "CONNECTREFUSED": Failure.CONNECTION_REFUSED,
    "CONNECTRESET": Failure.CONNECTION_RESET,
    "NOROUTE": Failure.HOST_UNREACHABLE,
    "TIMEOUT": Failure.TIMEOUT,
    # It reached somebody whose key is not the one in the bridge's line.
    "IDENTITY": Failure.SSL_INVALID_CERTIFICATE,
    "DONE": Failure.EOF,
}
"""Why a connection to a bridge ended (control-spec, 4.1.3)."""
_SAID = (
    (re.compile(r"connection reset by peer"), Failure.CONNECTION_RESET),
    (re.compile(r"connection refused"), Failure.CONNECTION_REFUSED),
    (re.compile(r"no route to host"), Failure.HOST_UNREACHABLE),
    (re.compile(r"network is unreachable"), Failure.NETWORK_UNREACHABLE),
    (re.compile(r"no such host|server misbehaving"), Failure.DNS_NXDOMAIN),
    (re.compile(r"i/o timeout|deadline exceeded|handshake timeout"), Failure.TIMEOUT),
    (re.compile(r"\bEOF\b|unexpected eof"), Failure.EOF),
    (re.compile(r"x509: |tls: |SSL|wrong version number|TLS_ERROR"), Failure.SSL_FAILED_HANDSHAKE),
)
"""What a transport's client says of a connection that failed, all of them Go programs; and tor of its own TLS."""
_STAMP = re.compile(r"^[0-9/]+ [0-9:.]+ (?:\[\w+\]: )?")
_LINES_READ = 1000
_LOGGING = {
    "lyrebird": "-enableLogging -logLevel ERROR",
    "obfs4proxy": "-enableLogging -logLevel ERROR",
    "snowflake-client": "-log-to-state-dir -log snowflake.log",
}
"""Options by which a client says why; to a file of its own, with addresses left out."""


async def climb(site: Site, config: TorConfig, carrier: Carrier, tun: Carrier, authorities: Sequence[str]) -> Process:
    """Climbs from `config` to `auth`: Tor's directory is here and a circuit stands. Raises Fall.

    `tun` is sing-box. `authorities` are those of a closed network, by the plan; the public one's without any. The
    process that is returned ends also when tor does.
    """
    assert carrier.program is not None
    assert tun.program is not None
    step = site.climb.rung
    with step(Rung.CONFIG):
        helpers = dict(carrier.helpers)
        bridges = [bridge for bridge in config.bridges if bridge.transport is None or bridge.transport in helpers]
        written(bridges, helpers, authorities)
    with step(Rung.ENDPOINT_DNS):
        bridges, found = await _permitted(site, bridges)
        text = written(bridges, helpers, authorities)
    servers = [bridge.server for bridge in bridges if bridge.server]
    # One that finds its own way cannot be looked for.
    seen = len(servers) == len(bridges)
    with step(Rung.ENDPOINT):
        await _reached(site, [(found[server], server) for server in servers[:_LOOKED_AT]] if seen else [])
    start = _Start(site, len(bridges))
    with step(Rung.HANDSHAKE):
        process = await start.begin(
            carrier, text, _hosts(found), [Path(helpers[name]) for name in _transports(bridges)]
        )
        await start.reaches(_HANDSHAKE_DONE, HANDSHAKE_PATIENCE)
    with step(Rung.AUTH):
        await start.reaches(_DONE, CIRCUIT_PATIENCE)
        port = await start.listens()
        outbound = {"type": "socks", "version": "5", "network": "tcp", "server": "127.0.0.1", "server_port": port}
        device = await singbox.device(site, tun.program, [outbound])
        _together(site, process, device)
    return device


def _transports(bridges: Sequence[Bridge]) -> list[str]:
    return list(dict.fromkeys(bridge.transport for bridge in bridges if bridge.transport))


def written(bridges: Sequence[Bridge], helpers: dict[str, str], authorities: Sequence[str] = ()) -> str:
    """The torrc. `helpers` has the program of every transport. Raises Fall for what must not be handed over."""
    lines = [
        "DataDirectory /run/tor",
        "ControlSocket /run/tor/control",
        "SocksPort 127.0.0.1:auto",
        "DisableNetwork 1",
        "ClientOnly 1",
        "AvoidDiskWrites 1",
        "Log notice stdout",
        "UseBridges 1",
    ]
    programs: dict[str, list[str]] = {}
    for transport in _transports(bridges):
        programs.setdefault(helpers[transport], []).append(transport)
    for program, transports in programs.items():
        if re.search(r"\s", program):
            raise Fall(Failure.UNSUPPORTED, "tor starts no transport's program that has a blank in its path")
        logging = _LOGGING.get(Path(program).name, "")
        lines.append(f"ClientTransportPlugin {','.join(transports)} exec {program} {logging}".rstrip())
    lines += [f"Bridge {_quoted(_line(bridge))}" for bridge in bridges]
    if authorities:
        lines.append("TestingTorNetwork 1")
        lines += [f"DirAuthority {_quoted(authority)}" for authority in authorities]
    return "\n".join(lines) + "\n"


def _line(bridge: Bridge) -> str:
    arguments = (f"{key}={value.reveal() if isinstance(value, Secret) else value}" for key, value in bridge.arguments)
    return " ".join(filter(None, (bridge.transport, bridge.address, bridge.fingerprint, *arguments)))


def _quoted(value: str) -> str:
    """A value as tor reads it whatever stands in it (src/lib/encoding/confline.c)."""
    if not value.isprintable():
        raise Fall(Failure.INVALID, "a bridge line holds a character that is none of text")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


# ── before tor starts ────────────────────────────────────────────────────────────────────────────────────────────────


async def _permitted(site: Site, bridges: Sequence[Bridge]) -> tuple[list[Bridge], dict[Server, list[str]]]:
    """The bridges that may be called, and the addresses of all whom they have us call. Raises the first Fall where none
    may be.

    No literal address that must not be called is ever handed over. A name that leads to none other is, where the
    transport has others to ask: it will find nothing.
    """
    called = dict.fromkeys(one for bridge in bridges for one in (bridge.server, *bridge.asked) if one is not None)
    named = [server for server in called if not syntax.is_address(server.host)]
    beyond = set(named[_LOOKED_UP:])
    asked = [server for server in called if server not in beyond]
    outcomes = await asyncio.gather(*(site.resolve(server) for server in asked), return_exceptions=True)
    found: dict[Server, list[str]] = {}
    falls: dict[Server, Fall] = {server: Fall(Failure.UNSUPPORTED, "too many names to look up") for server in beyond}
    for server, outcome in zip(asked, outcomes, strict=True):
        if isinstance(outcome, Fall):
            falls[server] = outcome
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            found[server] = outcome

    def hindrance(bridge: Bridge) -> Fall | None:
        if bridge.server is not None and bridge.server not in found:
            return falls[bridge.server]
        for server in bridge.asked:
            if server in falls and syntax.is_address(server.host):
                return falls[server]
        ways = [server for server in bridge.asked if server.transport == "tcp"]
        if bridge.server is None and ways and not any(server in found for server in ways):
            return falls[ways[0]]
        return None

    fit = [bridge for bridge in bridges if hindrance(bridge) is None]
    left = [fall for fall in map(hindrance, bridges) if fall is not None]
    if not fit:
        raise left[0]
    if left:
        why = ", ".join(dict.fromkeys(fall.detail or fall.failure for fall in left))
        site.warnings.append(site.redact(f"{len(left)} of {len(bridges)} bridges not tried: {why}"))
    return fit, found


def _hosts(found: dict[Server, list[str]]) -> str:
    """The hosts file of the transports' clients: all that they know of names."""
    return "".join(
        f"{address} {server.host}\n"
        for server, addresses in found.items()
        if not syntax.is_address(server.host)
        for address in addresses
    )


async def _reached(site: Site, named: Sequence[tuple[list[str], Server]]) -> None:
    """Opens a connection to each server and closes it again; one that stands is enough. Raises the first OSError."""

    async def one(addresses: list[str], server: Server) -> None:
        fit = site.reachable(addresses[:ADDRESSES_TRIED], server.port)
        await site.connects(fit, server.port)

    tries = [asyncio.ensure_future(one(*each)) for each in named]
    refused: BaseException | None = None
    try:
        for each in asyncio.as_completed(tries):
            try:
                await each
                return
            except OSError as exc:
                refused = refused or exc
    finally:
        for each in tries:
            each.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
    if refused is not None:
        raise refused


def _together(site: Site, tor: Process, device: Process) -> None:
    """Ends the device when tor ends: a tunnel without its tor must not look alive."""

    async def watch() -> None:
        await tor.wait()
        await device.stop()

    task = asyncio.ensure_future(watch())
    site.undo.callback(task.cancel)


# ── tor's start ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Start:
    """One tor, and what it says of its start."""

    def __init__(self, site: Site, bridges: int) -> None:
        self._site = site
        self._folder = site.folder / "tor"
        self._enough = _TRIES * bridges
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._moved = asyncio.Event()
        self._socks: int | None = None
        self._progress = 0
        self._stage = ""
        self._failure: Failure | None = None
        self._warning = self._reason = ""
        self._count = 0
        self._skew = ""

    async def begin(self, carrier: Carrier, text: str, hosts: str, programs: Sequence[Path]) -> Process:
        """Starts tor, listens to it, and lets it into the network. Raises Fall."""
        assert carrier.program is not None
        self._folder.mkdir(mode=0o700)
        os.chown(self._folder, self._site.user, self._site.user)
        # What looks names up by itself finds these, and nobody to ask for others: a name that has led elsewhere once
        # could lead here the next time.
        for file, words in (("hosts", hosts), ("nsswitch.conf", "hosts: files\n"), ("resolv.conf", _NOBODY)):
            place = self._site.folder / file
            place.write_text(words)
            # Its reader is the tunnel's user, whatever the caller's umask.
            place.chmod(0o644)
        password = secrets.token_bytes(32)
        memory = os.memfd_create("config")
        try:
            os.write(memory, f"HashedControlPassword {_hashed(password)}\n{text}".encode())
            os.lseek(memory, 0, os.SEEK_SET)
            self._process = self._site.spawn(
                # No file of this machine's may add to it; a folder that is not there is no fault.
                [carrier.program, "-f", "-", "--defaults-torrc", "/run/tor/none", "--ignore-missing-torrc"],
                stdin=memory,
                env={"PATH": "/nonexistent", "HOME": "/run/tor", "GODEBUG": "netdns=go"},
                readable=programs,
            )
        finally:
            os.close(memory)
        watch = asyncio.ensure_future(self._watch(self._process))
        self._site.undo.callback(watch.cancel)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                reader = await self._connected()
        except TimeoutError:
            raise Fall(Failure.CARRIER_EXITED, f"tor did not open its control socket: {self._site.tail()}") from None
        follow = asyncio.ensure_future(self._follow(reader))
        self._site.undo.callback(follow.cancel)
        self._tell(
            f"AUTHENTICATE {password.hex()}",
            "SETEVENTS STATUS_CLIENT STATUS_GENERAL",
            "SETCONF DisableNetwork=0",
            "GETINFO status/bootstrap-phase",
        )
        return self._process

    async def _connected(self) -> asyncio.StreamReader:
        assert self._process is not None
        while True:
            if not self._process.running():
                await asyncio.sleep(0.05)
                raise Fall(Failure.CARRIER_EXITED, self._site.tail())
            try:
                with owned_socket(self._site.folder, "tor/control", self._site.user) as place:
                    reader, self._writer = await asyncio.open_unix_connection(place, limit=MAX_LINE)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.02)
            except (PermissionError, NotADirectoryError):
                raise Fall(Failure.CARRIER_EXITED, "what tor calls its control socket is none of its own") from None
            else:
                self._site.undo.callback(self._writer.close)
                return reader

    async def _watch(self, process: Process) -> None:
        await process.wait()
        self._moved.set()

    def _tell(self, *orders: str) -> None:
        assert self._writer is not None
        self._writer.write("".join(f"{order}\r\n" for order in orders).encode())

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        async for line in lines_of(reader):
            self._take(line)
            self._moved.set()

    def _take(self, line: str) -> None:
        if found := _SOCKS.search(line):
            self._socks = int(found[1])
        elif found := _SKEW.search(line):
            self._skew = f"this machine's clock is {abs(int(found[1]))} s from the network's"
        elif found := _BOOTSTRAP.search(line):
            percent, tag, summary, warning, reason, count = found.groups()
            if int(percent) >= self._progress:
                self._progress, self._stage = int(percent), f"{tag}, {percent} %: {summary}"
            if warning is not None:
                self._warning, self._count = warning, int(count)
                self._failure, self._reason = _REASONS.get(reason), reason

    async def listens(self) -> int:
        """The port where tor takes SOCKS. Raises Fall."""
        self._tell("GETINFO net/listeners/socks")
        await self._wait(lambda: self._socks is not None, lambda: False, _START_TIMEOUT)
        if self._socks is None:
            raise Fall(Failure.CARRIER_EXITED, "tor did not open its SOCKS port")
        return self._socks

    async def reaches(self, percent: int, seconds: float) -> None:
        """Waits until tor's start is that far. Raises Fall, with where it stands and why."""
        begun = asyncio.get_running_loop().time()

        def hopeless() -> bool:
            waited = asyncio.get_running_loop().time() - begun
            if self._progress >= _HANDSHAKE_DONE or waited < HANDSHAKE_TIMEOUT:
                return False
            said = [failure for failure, _ in self._complaints() if failure != Failure.TIMEOUT]
            return self._count + len(said) >= self._enough

        await self._wait(lambda: self._progress >= percent, hopeless, seconds)
        if self._progress >= percent:
            return
        assert self._process is not None
        if not self._process.running():
            raise Fall(Failure.CARRIER_EXITED, self._site.tail())
        failure, words = self._why()
        if percent > _HANDSHAKE_DONE and failure in (None, Failure.TIMEOUT):
            # The bridge has answered before.
            failure = Failure.STALLED
        detail = "; ".join(filter(None, (self._stage, words, self._skew)))
        raise Fall(failure or Failure.TIMEOUT, self._site.redact(detail))

    async def _wait(self, reached: Callable[[], bool], hopeless: Callable[[], bool], seconds: float) -> None:
        assert self._process is not None
        try:
            async with asyncio.timeout(seconds):
                while self._process.running() and not reached() and not hopeless():
                    self._moved.clear()
                    # A transport's complaints come without a word of tor's.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._moved.wait(), 1.0)
        except TimeoutError:
            pass
        if not self._process.running():
            # Its last words may still be on their way.
            await asyncio.sleep(0.05)

    def _why(self) -> tuple[Failure | None, str]:
        """What the transport's client says of its last failure, or tor itself."""
        for failure, line in reversed(self._complaints()):
            return failure, line
        if self._failure is None and self._warning:
            return meaning(self._warning, _SAID) or meaning(self._reason, _SAID), self._warning
        return self._failure, self._warning

    def _complaints(self) -> list[tuple[Failure, str]]:
        """What the transports' clients said of their failures."""
        found = []
        folder, user = self._site.folder, self._site.user
        with contextlib.suppress(OSError):
            for name in list_owned(folder, "tor/pt_state", user):
                if not name.endswith(".log"):
                    continue
                with contextlib.suppress(OSError):
                    lines = read_owned(folder, f"tor/pt_state/{name}", user).decode("utf-8", "replace").splitlines()
                    for line in lines[:_LINES_READ]:
                        if failure := meaning(line, _SAID):
                            found.append((failure, _STAMP.sub("", line.strip())))
        return found


def _hashed(password: bytes) -> str:
    """A password of the control socket as tor's config has it: of no use to who reads it (RFC 4880, 3.7.1.3)."""
    salt = secrets.token_bytes(8)
    words = (salt + password) * (_HASHED_BYTES // len(password))
    hashed = hashlib.sha1(words[:_HASHED_BYTES], usedforsecurity=False).hexdigest()
    return f"16:{salt.hex()}60{hashed}"
