"""A closed internet on one machine: real servers in namespaces, behind a censor.

    client ── censor ──┬── isp        the access provider's resolver (dnsmasq), which lies where the censor says so
    198.19.0.2         ├── public     a resolver that tells the truth (dnsmasq, authoritative for every name here)
    fd00:19::2         ├── control    nginx: 64 KiB, uploads, the caller's address; and the whoami name server
                       ├── platforms  nginx: an address for each platform, and one for each literal address
    nftables,          ├── cover      nginx: the web site that Reality borrows
    iptables-nft       └── wg-a  wg-b  awg  ovpn  proxy    VPN servers, each an exit of its own (vpn.py)
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
import sys
from collections.abc import Sequence
from pathlib import Path

import dns.message
import msgspec

from vpntest.errors import CannotMeasure
from vpntest.lab import vpn
from vpntest.lab.censor import compile_rules
from vpntest.lab.network import Host, Network
from vpntest.lab.profiles import Profile
from vpntest.lab.sites import Web, lay_out, write_control, write_platforms, write_site
from vpntest.lab.truth import without_carrier
from vpntest.plan import platforms
from vpntest.plan.model import Platform
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace

READY_WITHIN = 30.0
"""Seconds after which a lab that does not answer is given up; an idle machine with 2 cores needs 1."""

BUILT_IN = ("twitter", "facebook", "messenger", "instagram", "whatsapp", "telegram", "signal", "youtube")
OWN = ("refuser", "downer")
"""The lab's own platforms: one that answers 403 to VPN exits, one that is down for everybody."""

PUBLIC_RESOLVER = "198.18.9.9"
ISP_RESOLVER = "198.18.53.53"
LIE = "198.18.53.66"
"""What a lying resolver answers: an address of the provider's, where nothing listens."""
CONTROL, CONTROL6, WHOAMI = "198.18.8.1", "fd00:18::8:1", "198.18.8.53"
COVER = "198.18.8.8"
PLATFORMS, LITERALS = "198.18.100.0/24", "198.18.101.0/24"

CONTROL_NAME, WHOAMI_NAME, COVER_NAME = "control.example", "whoami.example", "cover.example"
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
    :data:`READY_WITHIN` seconds.
    """
    reality = vpn.speaks_reality()
    if not reality:
        profile = msgspec.structs.replace(profile, truth=without_carrier(profile.truth, vpn.REALITY))
    if importlib.util.find_spec("trustme") is None:
        raise CannotMeasure("the lab needs the Python package trustme, which is not on this machine")
    web = lay_out(_platforms(), PLATFORMS, LITERALS)
    directory = cage.directory / "lab"
    directory.mkdir(mode=0o700)
    lab = Lab(profile, Network(cage), directory, web)
    try:
        async with asyncio.timeout(READY_WITHIN):
            await _raise(lab, reality)
    except TimeoutError:
        await lab.lower()
        raise CannotMeasure(f"the lab did not answer within {READY_WITHIN:.0f} seconds") from None
    except BaseException:
        await lab.lower()
        raise
    return lab


def _platforms() -> list[Platform]:
    own = (platforms.configs() / "lab" / f"{name}.toml" for name in OWN)
    return [*map(platforms.find, BUILT_IN), *map(platforms.load, own)]


async def _raise(lab: Lab, reality: bool) -> None:
    import trustme

    network, web, directory = lab.network, lab.web, lab.directory
    network.wire(
        (
            Host("isp", (ISP_RESOLVER, LIE)),
            Host("public", (PUBLIC_RESOLVER,)),
            Host("control", (CONTROL, WHOAMI), CONTROL6),
            Host("platforms", tuple(web.platform_of)),
            Host("cover", (COVER,)),
            *vpn.HOSTS,
        )
    )
    known = {host.name: host.addresses for host in vpn.HOSTS} | web.addresses
    censor = compile_rules(lab.profile.rules, known, LIE)
    if censor.iptables:
        network.run("censor", ["iptables-nft-restore"], censor.iptables)
    if censor.nftables:
        network.run("censor", ["nft", "-f", "-"], censor.nftables)
        # Before the first flow, or budgets of packets never see it; after the rules, which bring connection tracking.
        network.sysctl("censor", {"net/netfilter/nf_conntrack_acct": "1"})

    root = trustme.CA()
    issuer = root.create_child_ca()
    plan = directory / "plan"
    plan.mkdir()
    root.cert_pem.write_to_path(str(plan / "ca.pem"))
    _start_names(lab, censor.lies)
    refuses = {"refuser": vpn.EXITS}
    control = (CONTROL, f"[{CONTROL6}]")
    servers = {
        "platforms": write_platforms(directory / "platforms", web, issuer, down=("downer",), refuses=refuses),
        "control": write_control(directory / "control", issuer, control, (CONTROL_NAME, NEUTRAL_NAME)),
        "cover": write_site(directory / "cover", issuer, COVER, COVER_NAME),
    }
    for host, configuration in servers.items():
        # `-e`: before it has read its configuration nginx would log under /var/log.
        network.start(host, ["nginx", "-e", "stderr", "-p", str(configuration.parent), "-c", str(configuration)])
    tunnels, *_ = await asyncio.gather(
        vpn.raise_servers(network, directory, PUBLIC_RESOLVER, issuer, (COVER_NAME, COVER), reality=reality),
        network.until(_resolves, "client", ISP_RESOLVER, WHOAMI_NAME, ISP_RESOLVER),
        network.until(_resolves, "client", PUBLIC_RESOLVER, WHOAMI_NAME, PUBLIC_RESOLVER),
        network.until(_serves, "client", CONTROL, 80),
        # From behind the censor, who may keep the client from the platforms.
        network.until(_serves, "public", COVER, 443),
        network.until(_serves, "public", *_first_listener(web)),
    )
    _write_plan(plan, web, tunnels)


def _start_names(lab: Lab, lies: Sequence[str]) -> None:
    """Starts both resolvers and the whoami name server."""
    network, directory = lab.network, lab.directory
    names = lab.web.names | vpn.NAMES | {CONTROL_NAME: CONTROL, COVER_NAME: COVER, NEUTRAL_NAME: CONTROL}
    table = [f"{address} {name}" for name, address in names.items()] + [f"{CONTROL6} {CONTROL_NAME}"]
    (directory / "names").write_text("\n".join(table) + "\n")
    common = [
        *("user=root", "group=root", "pid-file=", "log-facility=-"),
        *("bind-interfaces", "no-resolv", "no-hosts", "no-poll"),
        # The resolvers are told apart by the one who asks the whoami server: each must ask it itself, every time.
        *(f"server=/{WHOAMI_NAME}/{WHOAMI}", "cache-size=0", "dns-forward-max=1000"),
    ]
    own = {
        "public": [f"listen-address={PUBLIC_RESOLVER}", f"addn-hosts={directory}/names", "local=/#/"],
        "isp": [f"listen-address={ISP_RESOLVER}", f"server={PUBLIC_RESOLVER}", *lies],
    }
    for host, lines in own.items():
        configuration = directory / f"{host}.dnsmasq"
        configuration.write_text("\n".join((*common, *lines)) + "\n")
        network.start(host, ["dnsmasq", "--keep-in-foreground", f"--conf-file={configuration}"])
    package = Path(__file__).parents[2]
    network.start("control", [sys.executable, "-m", "vpntest.lab.whoami", WHOAMI], cwd=package)


def _write_plan(folder: Path, web: Web, tunnels: Sequence[vpn.ClientTunnel]) -> None:
    def quoted(value: object) -> str:
        # A JSON string is a TOML basic string, and a JSON list of them a TOML array.
        return json.dumps(value)

    lines = [
        "[run]",
        "attempts = 3",
        'ca_file = "ca.pem"',
        f"resolver = {quoted(ISP_RESOLVER)}",
        f"public_resolver = {quoted(PUBLIC_RESOLVER)}",
        f"control = {quoted([f'https://{CONTROL_NAME}/64k', f'https://{CONTROL_NAME}/204'])}",
        f"upload = {quoted(f'https://{CONTROL_NAME}/upload')}",
        f"exit_address = {quoted(f'https://{CONTROL_NAME}/ip')}",
        f"whoami = {quoted(WHOAMI_NAME)}",
        f"neutral_name = {quoted(NEUTRAL_NAME)}",
        f"platforms = {quoted([*BUILT_IN, *(f'./{name}.toml' for name in OWN)])}",
        "",
        "[addresses]",
        *(f"{quoted(published)} = {quoted(here)}" for published, here in web.literals.items()),
    ]
    for name in OWN:
        shutil.copy(platforms.configs() / "lab" / f"{name}.toml", folder)
    for tunnel in tunnels:
        lines += ["", "[[tunnel]]", f"name = {quoted(tunnel.name)}"]
        if tunnel.uri:
            lines.append(f"uri = {quoted(tunnel.uri)}")
        if tunnel.config:
            file, text = tunnel.config
            (folder / file).write_text(text)
            lines.append(f"config = {quoted(file)}")
        if tunnel.login:
            user, password = tunnel.login
            lines += [f"username = {quoted(user)}", f"password = {quoted(password)}"]
    (folder / "plan.toml").write_text("\n".join(lines) + "\n")


# ── readiness ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _first_listener(web: Web) -> tuple[str, int]:
    listener = next(one for one in web.endpoints if web.platform_of[one.address].id != "downer")
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
