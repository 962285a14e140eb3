"""A closed internet on one machine: real servers in namespaces, behind a censor.

    client ── censor ──┬── isp        the access provider: its resolver (dnsmasq), which lies where the censor says so;
    198.19.0.2         │              its block page and its captive portal (nginx)
    fd00:19::2         ├── home       nginx: a domestic control, which every censor leaves alone
                       ├── public     a resolver that tells the truth (dnsmasq, authoritative for every name here)
    nftables,          ├── control    nginx: 64 KiB, 1 MiB, uploads, the caller's address; and the whoami name server
    iptables-nft,      ├── platforms  nginx, HTTP/3, STUN: an address for each platform, and for each literal address
    two workers        ├── cover      nginx: the web site that Reality borrows
                       ├── wg-a  wg-b  awg  ovpn  proxy    VPN servers, each an exit of its own (vpn.py)
                       ├── dialects   more of them, for the profiles that name their tunnels (dialects.py)
                       └── tor-…      a Tor network of four, likewise (tor.py)
                       │
                      core, a switch: 198.18.0.0/16, fd00:18::/64

Only 198.18.0.0/15 and fd00::/8 are in use, and there is no route to anywhere else. What is behind the censor speaks
freely; only the client's line goes through it, also on its way to the provider's resolver. All files are in the
cage's memory, all programs in its foreground: what ends the cage ends the lab.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dns.message
import msgspec

from vpntest.errors import CannotMeasure
from vpntest.lab import dialects, tor, vpn
from vpntest.lab.censor import Program, compile_rules
from vpntest.lab.network import CLIENT, GATEWAY, Daemon, Host, Network, refuses
from vpntest.lab.profiles import BUILT_IN, OWN, TOR, TUNNELS, Profile, platform
from vpntest.lab.sites import (
    Issuer,
    Manners,
    Web,
    authority,
    lay_out,
    write_control,
    write_http3,
    write_platforms,
    write_provider,
    write_site,
)
from vpntest.lab.truth import without_carrier
from vpntest.plan import platforms
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace

READY_WITHIN = 30.0
"""Seconds after which a lab that does not answer is given up; an idle machine with 2 cores needs 1."""

FURTHER = ("bystander", "plain")
"""More platforms of the lab's own, for profiles that name them."""

PUBLIC_RESOLVER = "198.18.9.9"
ISP_RESOLVER = "198.18.53.53"
LIE, PORTAL = "198.18.53.66", "198.18.53.80"
"""The provider's block page, which a lying resolver answers with, and its captive portal."""
HOME = "198.18.54.80"
CONTROL, CONTROL6, WHOAMI = "198.18.8.1", "fd00:18::8:1", "198.18.8.53"
COVER = "198.18.8.8"
PLATFORMS, LITERALS = "198.18.100.0/24", "198.18.101.0/24"

CONTROL_NAME, WHOAMI_NAME, COVER_NAME = "control.example", "whoami.example", "cover.example"
HOME_NAME, PORTAL_NAME = "home.example", "login.portal.example"
NEUTRAL_NAME = "example.org"


class Lab:
    """A lab that stands and answers."""

    def __init__(self, profile: Profile, network: Network, directory: Path, web: Web) -> None:
        self.profile = profile
        """With the truth for this machine: a tunnel that its sing-box cannot carry is not expected to come up."""
        self.network = network
        """Every host's namespace, for those who look at the lab from within."""
        self.web = web
        """Which name and which platform has which address."""
        self.directory = directory
        self.plan = directory / "plan" / "plan.toml"
        """The client's plan: what `read_plan` reads."""

    @property
    def client(self) -> Namespace:
        """The client's namespace: the underlay of a run."""
        return self.network["client"]

    async def lower(self) -> None:
        """Stops all of it. Safe to call again."""
        await self.network.close()
        shutil.rmtree(self.directory, ignore_errors=True)


async def raise_lab(profile: Profile, cage: Cage) -> Lab:
    """Raises the internet of `profile` in `cage` and returns once every server answers.

    Raises CannotMeasure where a program is missing or does not start, or the whole is not ready within
    :data:`READY_WITHIN` seconds, with Tor within that network's own time.
    """
    reality = vpn.speaks_reality()
    if not reality:
        profile = msgspec.structs.replace(profile, truth=without_carrier(profile.truth, vpn.REALITY))
    if importlib.util.find_spec("trustme") is None:
        raise CannotMeasure("the lab needs the Python package trustme, which is not on this machine")
    web = _web(profile)
    directory = cage.directory / "lab"
    directory.mkdir(mode=0o700)
    lab = Lab(profile, Network(cage), directory, web)
    try:
        # Tor's part begins when the others' does.
        patience = tor.READY_WITHIN if TOR in profile.tunnels else READY_WITHIN
        async with asyncio.timeout(patience):
            await _raise(lab, reality)
    except TimeoutError:
        await lab.lower()
        raise CannotMeasure(f"the lab did not answer within {patience:.0f} seconds") from None
    except BaseException:
        await lab.lower()
        raise
    return lab


def _web(profile: Profile) -> Web:
    every = [*(platform(name) for name in (*BUILT_IN, *OWN, *FURTHER)), *profile.brought]
    return lay_out(every, PLATFORMS, LITERALS)


def _hosts(profile: Profile, web: Web) -> tuple[Host, ...]:
    return (
        Host("isp", (ISP_RESOLVER, LIE, PORTAL, *profile.world.relays)),
        Host("home", (HOME,)),
        Host("public", (PUBLIC_RESOLVER,)),
        Host("control", (CONTROL, WHOAMI), CONTROL6),
        Host("platforms", tuple(web.platform_of)),
        Host("cover", (COVER,)),
        *vpn.HOSTS,
        *((dialects.HOST,) if has_dialects(profile) else ()),
        *(tor.HOSTS if TOR in profile.tunnels else ()),
    )


def programs(profile: Profile) -> dict[str, Program]:
    """Host → what it follows in all that it forwards: the censor, and the hosts whose exits stand behind another."""
    web = _web(profile)
    known: dict[str, Sequence[str]] = {
        host.name: host.addresses for host in _hosts(profile, web) if host.name != "platforms"
    }
    # Trojan's alone, as of a server in a cloud that a whitelist holds.
    known["proxy-2"] = known["proxy"][1:]
    addresses = known | web.addresses
    return {
        host: compile_rules(rules, addresses, LIE) for host, rules in {"censor": profile.rules, **profile.exits}.items()
    }


def follow(network: Network, host: str, program: Program) -> None:
    """Makes a host follow the rules of a program, without its workers. Raises CannotMeasure where it cannot."""
    if program.iptables:
        network.run(host, ["iptables-nft-restore"], program.iptables)
    if program.nftables:
        network.run(host, ["nft", "-f", "-"], program.nftables)
        # Before the first flow, or budgets of packets never see it; after the rules, which bring connection tracking.
        network.sysctl(host, {"net/netfilter/nf_conntrack_acct": "1"})


async def _raise(lab: Lab, reality: bool) -> None:
    network, web, directory, line = lab.network, lab.web, lab.directory, lab.profile.line
    network.wire(_hosts(lab.profile, web))
    censor = _start_censor(lab)
    network.condition(line)
    if line.portal:
        network.lead_to_portal(PORTAL, ISP_RESOLVER)
    if lab.profile.world.relays:
        network.relay("isp", {relay: web.addresses[to][0] for relay, to in lab.profile.world.relays.items()})

    plan = directory / "plan"
    plan.mkdir()
    root, issuer = authority(lab.profile.world.clock_days)
    root.cert_pem.write_to_path(str(plan / "ca.pem"))
    _start_names(lab, censor.lies)
    servers = _start_web(lab, issuer)
    # From behind the censor, who may keep the client from any of them.
    ready = (
        *(daemon.says("ready") for daemon in (*censor.daemons, *servers)),
        network.until(refuses, "client", GATEWAY[0]),
        network.until(_serves, "censor", CONTROL, 80),
        network.until(_resolves, "home", ISP_RESOLVER, WHOAMI_NAME, PORTAL if line.portal else ISP_RESOLVER),
        network.until(_resolves, "home", PUBLIC_RESOLVER, WHOAMI_NAME, PUBLIC_RESOLVER),
        *(network.until(_serves, "public", address, 80) for address in (CONTROL, HOME, LIE)),
        network.until(_serves, "public", COVER, 443),
        network.until(_serves, "public", *_any_listener(lab)),
    )
    tunnels, further, onion, _ = await asyncio.gather(
        vpn.raise_servers(network, directory, PUBLIC_RESOLVER, issuer, (COVER_NAME, COVER), reality=reality),
        _raise_dialects(lab, issuer),
        _raise_tor(lab),
        asyncio.gather(*ready),
    )
    _write_plan(
        plan, lab, (*tunnels, *further, *((onion.tunnel,) if onion else ())), onion.authority if onion else None
    )


def has_dialects(profile: Profile) -> bool:
    """Whether its cast names a tunnel of dialects.py."""
    return not set(profile.tunnels) <= {*TUNNELS, TOR}


async def _raise_dialects(lab: Lab, issuer: Issuer) -> tuple[vpn.ClientTunnel, ...]:
    if not has_dialects(lab.profile):
        return ()
    return await dialects.raise_servers(lab.network, lab.directory / "dialects", PUBLIC_RESOLVER, issuer)


async def _raise_tor(lab: Lab) -> tor.Tor | None:
    if TOR not in lab.profile.tunnels:
        return None
    return await tor.raise_tor(lab.network, lab.directory / "tor", PUBLIC_RESOLVER)


@dataclass(frozen=True)
class _Censor:
    daemons: tuple[Daemon, ...]
    """They say `ready`."""
    lies: Sequence[str]
    """Lines for the access provider's resolver."""


def _start_censor(lab: Lab) -> _Censor:
    """Installs the rules of the censor, and of those that exits stand behind, and starts the workers that they need."""
    found = programs(lab.profile)
    daemons = [daemon for host, program in found.items() for daemon in _install(lab, host, program)]
    return _Censor(tuple(daemons), found["censor"].lies)


def _install(lab: Lab, host: str, program: Program) -> list[Daemon]:
    """Makes a host follow a program in all that it forwards; returns the workers that it starts."""
    network = lab.network
    follow(network, host, program)
    daemons = []
    for worker, settings in (("inspector", program.inspector), ("interceptor", program.interceptor)):
        if settings:
            file = lab.directory / f"{host}-{worker}.json"
            file.write_text(settings)
            daemons.append(network.start_own(host, worker, str(file)))
    return daemons


def _start_web(lab: Lab, issuer: Issuer) -> list[Daemon]:
    """Starts every web server but those of the tunnels; returns those that say `ready`."""
    network, web, directory, world = lab.network, lab.web, lab.directory, lab.profile.world
    manners = Manners(
        down=frozenset(("downer", *world.down)),
        refuses=frozenset(("refuser", *world.refuses)),
        challenges=frozenset(world.challenges),
        exits=(*vpn.EXITS, *dialects.EXITS, tor.EXIT),
        refuses_line=frozenset(world.refuses_line),
        challenges_line=frozenset(world.challenges_line),
        line=CLIENT[:1],
        certificates=world.certificates,
        page_bytes=world.page_bytes,
    )
    silent = [address for address, owner in web.platform_of.items() if owner.id in world.silent]
    if silent:
        network.silence("platforms", silent)
    control = (CONTROL, f"[{CONTROL6}]")
    servers = {
        "platforms": write_platforms(directory / "platforms", web, issuer, manners),
        "control": write_control(directory / "control", issuer, control, (CONTROL_NAME, NEUTRAL_NAME)),
        "home": write_control(directory / "home", issuer, (HOME,), (HOME_NAME,)),
        "isp": write_provider(directory / "isp", LIE, PORTAL, PORTAL_NAME),
        "cover": write_site(directory / "cover", issuer, COVER, COVER_NAME),
    }
    for host, configuration in servers.items():
        # `-e`: before it has read its configuration nginx would log under /var/log.
        network.start(host, ["nginx", "-e", "stderr", "-p", str(configuration.parent), "-c", str(configuration)])
    http3 = write_http3(directory / "platforms", web, manners)
    stun = [f"{one.address}:{one.port}" for one in web.stun if web.platform_of[one.address].id not in manners.down]
    return [
        network.start_own("platforms", "http3", str(http3)),
        network.start_own("platforms", "stun", *stun),
    ]


def _start_names(lab: Lab, lies: Sequence[str]) -> None:
    """Starts both resolvers and the whoami name server."""
    network, directory = lab.network, lab.directory
    odd = {
        name: said
        for name, address in lab.web.names.items()
        if (said := lab.profile.world.resolves.get(lab.web.platform_of[address].id))
    }
    names = {name: address for name, address in lab.web.names.items() if name not in odd}
    names |= vpn.NAMES | dialects.NAMES
    names |= {name: said for name, said in odd.items() if said not in ("nxdomain", "no-address")}
    # A record of another kind makes a name that exists and has no address.
    bare = [f"txt-record={name},none" for name, said in odd.items() if said == "no-address"]
    names |= {CONTROL_NAME: CONTROL, HOME_NAME: HOME, COVER_NAME: COVER, NEUTRAL_NAME: CONTROL}
    table = [f"{address} {name}" for name, address in names.items()] + [f"{CONTROL6} {CONTROL_NAME}"]
    (directory / "names").write_text("\n".join(table) + "\n")
    common = [
        *("user=root", "group=root", "pid-file=", "log-facility=-"),
        *("bind-interfaces", "no-resolv", "no-hosts", "no-poll", "cache-size=0", "dns-forward-max=1000"),
    ]
    # The resolvers are told apart by the one who asks the whoami server: each must ask it itself, every time.
    whoami = f"server=/{WHOAMI_NAME}/{WHOAMI}"
    own = {
        "public": [f"listen-address={PUBLIC_RESOLVER}", f"addn-hosts={directory}/names", "local=/#/", whoami, *bare],
        "isp": [f"listen-address={ISP_RESOLVER}", f"server={PUBLIC_RESOLVER}", whoami, *lies],
    }
    if lab.profile.line.portal:
        own["isp"] = [f"listen-address={ISP_RESOLVER}", f"address=/#/{PORTAL}"]
    for host, lines in own.items():
        configuration = directory / f"{host}.dnsmasq"
        configuration.write_text("\n".join((*common, *lines)) + "\n")
        network.start(host, ["dnsmasq", "--keep-in-foreground", f"--conf-file={configuration}"])
    network.start_own("control", "whoami", WHOAMI)


def _write_plan(folder: Path, lab: Lab, tunnels: Sequence[vpn.ClientTunnel], authority: str | None) -> None:
    """Writes the client's plan and its configs, for the profile's cast alone; `authority` is Tor's."""

    def quoted(value: object) -> str:
        if isinstance(value, dict):
            return f"{{ {', '.join(f'{key} = {quoted(inner)}' for key, inner in value.items())} }}"
        # A JSON string is a TOML basic string, and a JSON list of them a TOML array.
        return json.dumps(value)

    cast = {name: name if name in BUILT_IN else f"./{name}.toml" for name in lab.profile.platforms}
    # The second of them stands in for the first; the last is small, and tells a dead line.
    controls = [f"https://{CONTROL_NAME}/64k", f"https://{HOME_NAME}/64k", f"https://{CONTROL_NAME}/204"]
    lines = [
        "[run]",
        "attempts = 3",
        'ca_file = "ca.pem"',
        f"resolver = {quoted(ISP_RESOLVER)}",
        f"public_resolver = {quoted(PUBLIC_RESOLVER)}",
        f"control = {quoted(controls)}",
        f"upload = {quoted(f'https://{CONTROL_NAME}/upload')}",
        f"bulk = {quoted(f'https://{CONTROL_NAME}/1m')}",
        f"exit_address = {quoted(f'https://{CONTROL_NAME}/ip')}",
        f"whoami = {quoted(WHOAMI_NAME)}",
        f"neutral_name = {quoted(NEUTRAL_NAME)}",
        f"platforms = {quoted([*cast.values()])}",
        *([f"tor_authorities = {quoted([authority])}"] if authority else ()),
        "",
        "[addresses]",
        *(f"{quoted(published)} = {quoted(here)}" for published, here in lab.web.literals.items()),
    ]
    for file in (Path(named) for named in cast.values() if named.endswith(".toml")):
        if (own := platforms.configs() / "lab" / file.name).is_file():
            shutil.copy(own, folder)
    for brought in lab.profile.brought:
        (folder / f"{brought.id}.toml").write_text(platforms.text_of(brought))
    offered = {tunnel.name: tunnel for tunnel in tunnels}
    for tunnel in (offered[name] for name in lab.profile.tunnels):
        lines += ["", "[[tunnel]]", f"name = {quoted(tunnel.called or tunnel.name)}"]
        if tunnel.uri:
            lines.append(f"uri = {quoted(tunnel.uri)}")
        if tunnel.config:
            name, content = tunnel.config
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
            lines.append(f"config = {quoted(name)}")
        if tunnel.login:
            user, password = tunnel.login
            lines += [f"username = {quoted(user)}", f"password = {quoted(password)}"]
        lines += [f"{key} = {quoted(value)}" for key, value in tunnel.keys]
    (folder / "plan.toml").write_text("\n".join(lines) + "\n")


# ── readiness ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _any_listener(lab: Lab) -> tuple[str, int]:
    """A port of the platforms' server that this world leaves open."""
    world = lab.profile.world
    closed = {"downer", *world.down, *world.silent}
    listener = next(one for one in lab.web.endpoints if lab.web.platform_of[one.address].id not in closed)
    return listener.address, listener.port


async def _resolves(netns: Namespace, resolver: str, name: str, address: str) -> bool:
    """Whether the resolver says that the name has this address."""
    loop = asyncio.get_running_loop()
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect((resolver, 53))
        await loop.sock_sendall(asking, dns.message.make_query(name, "A").to_wire())
        reply = dns.message.from_wire(await loop.sock_recv(asking, 4096))
    return any(address == data.to_text() for rrset in reply.answer for data in rrset)


async def _serves(netns: Namespace, address: str, port: int) -> bool:
    """Whether a web server answers there; on a port for TLS nginx says in plain HTTP that this is one."""
    loop = asyncio.get_running_loop()
    with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        await loop.sock_connect(asking, (address, port))
        await loop.sock_sendall(asking, b"HEAD /204 HTTP/1.0\r\n\r\n")
        return (await loop.sock_recv(asking, 64)).startswith(b"HTTP/1.")
