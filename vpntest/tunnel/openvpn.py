"""OpenVPN, led by its management socket: no script, no file of the config's choosing, no route of its making.

The config is written anew from the allowed directives and handed over in memory; our own options stand on the command
line after it, where they win. OpenVPN makes its device in the underlay and tells us over the socket what the server
pushed (`>UPDOWN`); we move the device and address it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

from vpntest.failures import Failure
from vpntest.plan.model import OpenVpnConfig, Server
from vpntest.plan.ovpn_words import OWN_PROVIDERS
from vpntest.tunnel import netlink
from vpntest.tunnel.cage import MAX_LINE, Process, lines_of
from vpntest.tunnel.carriers import Carrier
from vpntest.tunnel.ladder import Fall, Rung, meaning
from vpntest.tunnel.site import CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, SHARE_TIMEOUT, Site

AUTH_TIMEOUT = 10.0
"""Seconds from the end of the TLS handshake to the pushed addresses: servers may ask a directory for the password."""
MOST_REMOTES = 12
"""Addresses of a config's remotes that are tried. OpenVPN itself takes 64, and nobody waits for as many."""
PAUSE = 1.0
"""Seconds that OpenVPN rests before it turns to the next remote, by our own `--connect-retry`."""
RAISE_TIMEOUT = 5.0 + (MOST_REMOTES + 1) * (SHARE_TIMEOUT + PAUSE) + 2 * AUTH_TIMEOUT
"""Seconds for all rungs together, with as many silent remotes as are tried: a name before, a password after."""
_SHOWN = 3
_LOOKED_UP = 64
"""Remotes whose names are looked up: as many as OpenVPN's own list holds (options.h, CONNECTION_LIST_SIZE)."""
_START_TIMEOUT = 5.0
_DNS_UPDOWN = (2, 7)
"""From this version on OpenVPN edits the host's resolver by itself unless told not to."""

_OURS = frozenset(
    "remote proto port rport lport local nobind resolv-retry connect-retry connect-retry-max connect-timeout "
    "dev dev-type server-poll-timeout hand-window auth-retry remote-random remote-random-hostname persist-tun "
    "verb mute setenv auth-user-pass".split()
)
"""Directives of a config that our own options stand in for, or that only make sense on a person's own machine."""
_NEVER = frozenset(
    "plugin providers pkcs11-providers engine up down route-up route-pre-down ipchange tls-verify "
    "auth-user-pass-verify client-connect client-disconnect learn-address dns-updown iproute config cd chroot "
    "log log-append status writepid tmp-dir management management-client daemon tls-export-cert replay-persist "
    "ifconfig-pool-persist script-security client-crresponse tls-crypt-v2-verify askpass dev-node user group setcon "
    "management-external-key management-external-cert auth-gen-token-secret genkey client-config-dir mktun rmtun "
    "http-proxy-user-pass syslog setenv-safe".split()
)
"""Directives that run code, write files or take the control away. The reader of configs lets none through; this is the
second lock, since `plugin` and `providers` run code as root even at script-security 0."""

_STATES = (
    "CONNECTING",
    "RESOLVE",
    "TCP_CONNECT",
    "WAIT",
    "AUTH",
    "GET_CONFIG",
    "ASSIGN_IP",
    "ADD_ROUTES",
    "CONNECTED",
)
"""OpenVPN's states in the order of a start (doc/management-notes.txt)."""

_CALLING = r"^(?:TCP: connect to|read|write) \S.*"
_SAID = (
    (re.compile(r"^AUTH: Received control message: AUTH_FAILED"), Failure.AUTH_REJECTED),
    (re.compile(r"^Options error"), Failure.INVALID),
    (re.compile(r"^VERIFY ERROR: depth=\d+, error=[^:]*(?:self.signed|issuer)"), Failure.SSL_UNKNOWN_AUTHORITY),
    (re.compile(r"^VERIFY X509NAME ERROR"), Failure.SSL_INVALID_HOSTNAME),
    (
        re.compile(r"^VERIFY (?:\w+ )?ERROR|^OpenSSL: error:.*:certificate verify failed"),
        Failure.SSL_INVALID_CERTIFICATE,
    ),
    (re.compile(r"^OpenSSL: error|^TLS_ERROR"), Failure.SSL_FAILED_HANDSHAKE),
    (re.compile(rf"^Connection reset|{_CALLING}: Connection reset"), Failure.CONNECTION_RESET),
    (re.compile(rf"{_CALLING}: Connection refused"), Failure.CONNECTION_REFUSED),
    (re.compile(rf"{_CALLING}: No route to host"), Failure.HOST_UNREACHABLE),
    (re.compile(rf"{_CALLING}: Network is unreachable"), Failure.NETWORK_UNREACHABLE),
    (re.compile(r"^TLS Error: TLS key negotiation failed to occur"), Failure.TIMEOUT),
)
"""What a line of OpenVPN's output means; of all that were said, the first in this order is the reason. Each is known by
its beginning: further on stands what a stranger has chosen, such as the names in a certificate."""
_ENDED = {
    "auth-failure": Failure.AUTH_REJECTED,
    "connection-reset": Failure.CONNECTION_RESET,
    "server_poll": Failure.TIMEOUT,
}
"""Why it gave a remote up, by the management socket: its own words alone."""


async def climb(site: Site, config: OpenVpnConfig, carrier: Carrier) -> tuple[Process, tuple[str, ...]]:
    """Climbs from `config` to `auth`. The process, and the resolvers that the server pushed. Raises Fall."""
    step = site.climb.rung
    with step(Rung.CONFIG):
        text = written(config)
        login = _login(config)
    with step(Rung.ENDPOINT_DNS):
        named = await _named(site, config.servers[:_LOOKED_UP])
    with step(Rung.ENDPOINT):
        routed = _routed(site, named)
        remotes = chosen(routed)
        _warn(site, config, remotes, routed)
        share = max(HANDSHAKE_TIMEOUT / len(remotes), SHARE_TIMEOUT)
        patience = (share + PAUSE) * len(remotes)
        begun = asyncio.get_running_loop().time()
        session = _Session(site, login)
        process = await session.start(carrier, text, remotes, int(share))
        if any(server.transport == "tcp" for _, server in remotes):
            await session.reaches("WAIT", max(CONNECT_TIMEOUT, patience))
    with step(Rung.HANDSHAKE):
        spent = asyncio.get_running_loop().time() - begun
        await session.reaches("GET_CONFIG", max(share + PAUSE, patience - spent))
    with step(Rung.AUTH):
        pushed = await session.pushed(AUTH_TIMEOUT)
        await netlink.move(site.device, site.underlay, site.netns)
        await netlink.address(
            site.netns,
            site.device,
            addresses=_addresses(pushed),
            routes=("0.0.0.0/0", "::/0"),
            mtu=int(pushed.get("tun_mtu", "1500")),
        )
        await session.reaches("CONNECTED", AUTH_TIMEOUT)
    return process, _resolvers(pushed)


async def _named(site: Site, servers: Sequence[Server]) -> list[tuple[Server, list[str]]]:
    """Each remote that has an address, with its addresses. Raises the first Fall where none has."""
    alike: dict[str, list[Server]] = {}
    for server in servers:
        alike.setdefault(server.host, []).append(server)
    outcomes = await asyncio.gather(*(site.resolve(first) for first, *_ in alike.values()), return_exceptions=True)
    found: dict[str, list[str]] = {}
    fallen: Fall | None = None
    for outcome, same in zip(outcomes, alike.values(), strict=True):
        if isinstance(outcome, Fall):
            fallen = fallen or outcome
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            found[same[0].host] = outcome
            for other in same[1:]:
                if site.journal is not None:
                    site.journal.calls(other, outcome)
    if not found:
        raise fallen or Fall(Failure.INVALID, "the config names no remote")
    return [(server, found[server.host]) for server in servers if server.host in found]


def _routed(site: Site, named: Sequence[tuple[Server, Sequence[str]]]) -> list[tuple[Server, list[str]]]:
    """Each remote that the underlay has a route to. Raises the last OSError where there is none."""
    routed: list[tuple[Server, list[str]]] = []
    refused: OSError | None = None
    for server, addresses in named:
        try:
            routed.append((server, site.reachable(addresses, server.port)))
        except OSError as exc:
            refused = exc
    if not routed and refused is not None:
        raise refused
    return routed


def chosen(found: Sequence[tuple[Server, Sequence[str]]]) -> list[tuple[str, Server]]:
    """Which addresses of the remotes are tried, and in which order: one of each remote, then a second one of each.

    Where there are too many, none is left out whose port and transport no other has: a provider's last line is often
    the one way that a censor leaves open.
    """
    rounds = zip_longest(*([(address, server) for address in addresses] for server, addresses in found))
    order = list(dict.fromkeys(one for each in rounds for one in each if one is not None))
    ways: set[tuple[int, str]] = set()
    first: list[int] = []
    for position, (_, server) in enumerate(order):
        if (server.port, server.transport) not in ways:
            ways.add((server.port, server.transport))
            first.append(position)
    ranked = [*first, *(position for position in range(len(order)) if position not in set(first))]
    return [order[position] for position in sorted(ranked[:MOST_REMOTES])]


def _warn(
    site: Site,
    config: OpenVpnConfig,
    remotes: Sequence[tuple[str, Server]],
    routed: Sequence[tuple[Server, Sequence[str]]],
) -> None:
    """Says which remotes are not tried, and why."""
    tried = {server for _, server in remotes}
    usable = {server for server, _ in routed}
    looked_up = config.servers[:_LOOKED_UP]
    without = [server for server in looked_up if server not in usable]
    left = [server for server in config.servers if server not in tried and server not in without]
    for why, servers in (
        (f"no more than {MOST_REMOTES} addresses are", left),
        ("without an address that can be called", without),
    ):
        if servers:
            shown = ", ".join(map(str, servers[:_SHOWN])) + (" and others" if len(servers) > _SHOWN else "")
            count = f"{len(servers)} of {len(config.servers)} remotes"
            site.warnings.append(f"{count} not tried ({why}): {shown}")


def written(config: OpenVpnConfig) -> str:
    """The config anew, in OpenVPN's own quoting. Raises Fall where something in it must not be handed over."""
    lines = []
    for name, *arguments in config.directives:
        own = name == "providers" and OWN_PROVIDERS.issuperset(arguments)
        if (name in _NEVER and not own) or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise Fall(Failure.INVALID, f"the directive `{name[:40]!r}` is not handed to OpenVPN")
        if name not in _OURS:
            lines.append(" ".join([name, *map(_word, arguments)]))
    for name, block in config.inline:
        content = block.reveal()
        # The reader of inline blocks ends at the first closing tag: what follows would be directives.
        if not re.fullmatch(r"[a-z0-9-]+", name) or "</" in content or "\0" in content:
            raise Fall(Failure.INVALID, f"the inline block `{name[:40]!r}` is not handed to OpenVPN")
        lines.append(f"<{name}>\n{content.strip()}\n</{name}>")
    if config.username is not None:
        lines.append("auth-user-pass")
    return "\n".join(lines) + "\n"


def _login(config: OpenVpnConfig) -> tuple[str, ...]:
    """What to answer where OpenVPN asks for user name and password; empty without any. Raises Fall."""
    if not (config.username and config.password):
        return ()
    orders = []
    for order, name, secret in (("username", "user name", config.username), ("password", "password", config.password)):
        if not secret.reveal().isprintable():
            raise Fall(Failure.INVALID, f"the {name} holds a character that cannot be typed, such as a no-break space")
        orders.append(f'{order} "Auth" {_quoted(secret.reveal())}')
    return tuple(orders)


def _word(argument: str) -> str:
    """An argument in few characters, for OpenVPN's lexer: a line has room for 254 bytes, and quotes take some."""
    if argument and argument[0] not in "\"'#;" and argument.isprintable() and not re.search(r"[\s\\]", argument):
        return argument
    return f"'{argument}'" if argument.isprintable() and "'" not in argument else _quoted(argument)


def _quoted(argument: str) -> str:
    if not argument.isprintable():
        raise Fall(Failure.INVALID, "an argument in the config is not one line of text")
    return '"' + argument.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _remote(address: str, server: Server) -> list[str]:
    family = "6" if ":" in address else "4"
    return [
        "--remote",
        address,
        str(server.port),
        f"udp{family}" if server.transport == "udp" else f"tcp{family}-client",
    ]


class _Session:
    """One OpenVPN and its management socket."""

    def __init__(self, site: Site, login: tuple[str, ...]) -> None:
        self._site = site
        self._login = login
        self._writer: asyncio.StreamWriter | None = None
        self._process: Process | None = None
        self._moved = asyncio.Event()
        self._reached = -1
        self._environment: dict[str, str] = {}
        self._up: dict[str, str] | None = None
        self._reasons: set[Failure] = set()
        self._reason_line = ""

    async def start(self, carrier: Carrier, text: str, remotes: Sequence[tuple[str, Server]], seconds: int) -> Process:
        """Starts OpenVPN with its config, lets it go, and follows it until it ends. Raises Fall."""
        assert carrier.program is not None
        assert carrier.version is not None
        path = self._site.folder / "management"
        server = await asyncio.start_unix_server(self._follow, path, limit=MAX_LINE)
        self._site.undo.callback(server.close)
        os.chown(path, self._site.user, self._site.user)
        options = {
            "--dev": self._site.device,
            "--dev-type": "tun",
            "--management": "/run/management unix",
            "--management-client": "",
            "--management-hold": "",
            "--management-up-down": "",
            "--management-query-passwords": "",
            "--script-security": "0",
            "--ifconfig-noexec": "",
            "--route-noexec": "",
            "--persist-tun": "",
            "--nobind": "",
            "--resolv-retry": "0",
            "--auth-retry": "none",
            "--connect-retry": "1 1",
            "--connect-retry-max": "1",
            "--connect-timeout": str(seconds),
            "--hand-window": str(seconds),
            # Why a certificate was refused is said at 2; what the server pushed, with its tokens, at 3.
            "--verb": "2",
            "--suppress-timestamps": "",
        }
        argv = [carrier.program, "--config", "stdin"]
        for address, remote in remotes:
            argv += _remote(address, remote)
        for option, value in options.items():
            argv += [option, *value.split()]
        if "DCO" in carrier.features:
            # A device of the kernel module that is moved carries nothing (pekman/openvpn-netns#9).
            argv.append("--disable-dco")
        if tuple(int(part) for part in re.findall(r"\d+", carrier.version)[:2]) >= _DNS_UPDOWN:
            argv += ["--dns-updown", "disable"]
        memory = os.memfd_create("config")
        try:
            os.write(memory, text.encode())
            os.lseek(memory, 0, os.SEEK_SET)
            self._process = self._site.spawn(argv, stdin=memory, heard=self._hear)
        finally:
            os.close(memory)
        watch = asyncio.ensure_future(self._watch(self._process))
        self._site.undo.callback(watch.cancel)
        return self._process

    async def _watch(self, process: Process) -> None:
        await process.wait()
        self._moved.set()

    def _hear(self, line: str) -> None:
        failure = meaning(line, _SAID)
        if failure is not None:
            self._blame(failure, line)

    def _blame(self, failure: Failure, line: str) -> None:
        self._reasons.add(failure)
        if failure == self._reason():
            self._reason_line = line

    def _reason(self) -> Failure | None:
        return next((failure for _, failure in _SAID if failure in self._reasons), None)

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._site.undo.callback(writer.close)
        async for line in lines_of(reader):
            self._take(line)

    def _tell(self, *orders: str) -> None:
        assert self._writer is not None
        self._writer.write("".join(f"{order}\n" for order in orders).encode())

    def _take(self, line: str) -> None:
        kind, _, rest = line.partition(":")
        match kind:
            case ">HOLD":
                # Off for good: a restart must not wait for us.
                self._tell("state on", "hold off", "hold release")
            case ">STATE":
                state, reason = (*rest.split(",")[1:3], "", "")[:2]
                if state in _STATES:
                    self._reached = max(self._reached, _STATES.index(state))
                if state in ("EXITING", "RECONNECTING") and reason in _ENDED:
                    self._blame(_ENDED[reason], reason)
            case ">PASSWORD":
                self._take_password(rest)
            case ">UPDOWN" if rest == "UP":
                self._environment = {}
            case ">UPDOWN" if rest == "ENV,END":
                self._up = self._up or self._environment
            case ">UPDOWN" if rest.startswith("ENV,"):
                key, _, value = rest.removeprefix("ENV,").partition("=")
                self._environment[key] = value
            case ">FATAL":
                self._hear(rest)
        self._moved.set()

    def _take_password(self, rest: str) -> None:
        if rest.startswith("Need 'Auth'") and self._login:
            self._tell(*self._login)
        elif rest.startswith("Need"):
            self._reasons.add(Failure.INVALID)
            self._reason_line = "OpenVPN asks for a password that the config does not have"
        elif rest.startswith("Verification Failed: 'Auth'"):
            self._blame(Failure.AUTH_REJECTED, "the server does not know this user name with this password")

    async def reaches(self, state: str, seconds: float) -> None:
        """Waits for a state of OpenVPN, or a later one. Raises Fall."""
        position = _STATES.index(state)

        def reached() -> bool:
            # A server may turn credentials away before any GET_CONFIG: TLS was done then, and the next rung falls.
            rejected = Failure.AUTH_REJECTED in self._reasons and position <= _STATES.index("GET_CONFIG")
            return rejected or self._reached >= position

        await self._wait(reached, seconds)

    async def pushed(self, seconds: float) -> Mapping[str, str]:
        """Waits for the device, and says what the server pushed: the environment of an `up` script. Raises Fall."""
        await self._wait(lambda: self._up is not None, seconds)
        assert self._up is not None
        return self._up

    async def _wait(self, reached: Callable[[], bool], seconds: float) -> None:
        assert self._process is not None
        try:
            async with asyncio.timeout(seconds):
                while not reached():
                    if self._reasons & {Failure.AUTH_REJECTED, Failure.INVALID}:
                        break
                    if not self._process.running():
                        # Its last words may still be on their way.
                        await asyncio.sleep(0.05)
                        break
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass
        if reached():
            return
        reason = self._reason()
        if reason not in (None, Failure.TIMEOUT):
            raise Fall(reason, self._site.redact(self._reason_line))
        if reason is None and not self._process.running():
            raise Fall(Failure.CARRIER_EXITED, self._site.tail())
        # From AUTH on the server has answered.
        silence = Failure.STALLED if self._reached >= _STATES.index("AUTH") else Failure.TIMEOUT
        raise Fall(silence, _SILENCE.get(_STATES[self._reached], "") if self._reached >= 0 else "")


_SILENCE = {
    "TCP_CONNECT": "the server's port does not answer",
    "WAIT": "the server sent nothing",
    "AUTH": "the server answered, but TLS did not come to its end",
    "GET_CONFIG": "TLS is done, but the server pushed nothing",
}


def _addresses(pushed: Mapping[str, str]) -> list[str]:
    """Interface addresses from the environment of an `up` script. Raises Fall where the server pushed none."""
    found = []
    if local := pushed.get("ifconfig_local"):
        # Topology subnet has a netmask, net30 and p2p a peer; either way the default route goes through the device.
        found.append(f"{local}/{pushed.get('ifconfig_netmask', '32')}")
    if local := pushed.get("ifconfig_ipv6_local"):
        found.append(f"{local}/{pushed.get('ifconfig_ipv6_netbits', '128')}")
    try:
        checked = [str(ipaddress.ip_interface(text)) for text in found]
    except ValueError as exc:
        raise Fall(Failure.INVALID, "the server pushed an address that is none") from exc
    if not checked:
        raise Fall(Failure.INVALID, "the server pushed no address")
    return checked


_RESOLVER = re.compile(r"dhcp-option DNS6? (\S+)")


def _resolvers(pushed: Mapping[str, str]) -> tuple[str, ...]:
    """Resolver addresses that the server pushed: `dhcp-option DNS`, or OpenVPN 2.6's `dns server`."""
    found = [value for key, value in pushed.items() if re.fullmatch(r"dns_server_\d+_address_\d+", key)]
    for key, value in pushed.items():
        if key.startswith("foreign_option_") and (option := _RESOLVER.fullmatch(value)):
            found.append(option[1])
    return tuple(found)
