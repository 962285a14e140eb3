"""What the lab needs of a machine, and which of its profiles can be raised here.

What a profile needs follows from what it is compiled to: the extensions of iptables and the statements of nftables in
its rules, each of which is tried by itself, its workers, and the servers of its tunnels. Then its rules are installed
on a censor without a lab, so that what is not told apart here shows as well.

    vpntest ──▶ python -m vpntest.lab.needs ──▶ a line of JSON for each thing, and for each profile
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from vpntest.errors import CannotMeasure
from vpntest.tunnel.kernel import Tried, asked, tell

if TYPE_CHECKING:
    from vpntest.lab.censor import Program
    from vpntest.lab.network import Network
    from vpntest.lab.profiles import Profile
    from vpntest.lab.rules import Line

PATIENCE = 60.0
"""Seconds for all of it; two cores need 2."""

PACKAGES = {
    "cmp": "diffutils",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "iptables-nft-restore": "iptables",
    "nft": "nftables",
    "nginx": "nginx",
    "obfs-server": "simple-obfs",
    "obfs4proxy": "obfs4proxy",
    "ss-v2ray-plugin": "shadowsocks-v2ray-plugin",
    "tc": "iproute2",
    "tor-gencert": "tor",
}
"""Programs beside the carriers, and the packages of Debian that they are in."""
LIBRARIES = ("trustme", "asyncssh", "netfilterqueue")
"""Python's."""

_NFT = {
    "set": (
        r"^flags dynamic",
        "set s { typeof ct id\nflags dynamic,timeout\ntimeout 9s\nsize 65535\n}",
        "add @s { ct id }",
    ),
    "limit": (
        r"\blimit rate\b",
        "set s { type ipv4_addr . inet_service\nflags dynamic,timeout\ntimeout 9s\nsize 65535\n}",
        "update @s { ip saddr . tcp sport limit rate over 1/week burst 5 packets } counter drop",
    ),
    "ct-mark": (r"\bct mark\b", "", "ct mark & 0xfff == 0 ct mark set ct mark and 0xfffff000 or 0x10"),
    "ct-count": (r"\bct (reply |original )?(packets|bytes)\b", "", "ct packets > 5 counter drop"),
    "payload": (r"@ih,", "", "@ih,0,8 & 0x00 == 0x00 counter drop"),
    "reject": (r"\breject with\b", "", "meta l4proto tcp reject with tcp reset"),
}
"""A statement of nftables: what a program that uses it shows, and the least that has it, in a table and in a chain."""
_FORWARD = "type filter hook forward priority 10; policy accept;"
_NAT = "table ip try {\nchain out {\ntype nat hook postrouting priority srcnat; policy accept;\nmasquerade\n}\n}\n"


def needs() -> tuple[dict[str, Tried], dict[str, Tried]]:
    """What the lab needs, and its profiles, each by its id. Never raises.

    Where not all came back, what the lab needs has `lab.tries`, which is not known, and says why as far as that is.
    """
    found = asked("vpntest.lab.needs", PATIENCE)
    tries = found.pop(_TRIES, Tried(_TRIES, None))
    profiles = {one.id.removeprefix(_PROFILE): one for one in found.values() if one.id.startswith(_PROFILE)}
    primitives = {name: one for name, one in found.items() if not name.startswith(_PROFILE)}
    return primitives if tries.works else primitives | {_TRIES: tries}, profiles


_PROFILE = "lab.profile."
_TRIES = "lab.tries"
_WIRES = "lab.veth"


_ALWAYS = frozenset(
    (
        *(f"lab.program.{one}" for one in ("cmp", "dnsmasq", "ip", "nft", "nginx")),
        *(f"carriers.{one}" for one in ("amneziawg-go", "openvpn", "sing-box", "sing-box.quic", "wireguard-go")),
        *("kernel.cage", "kernel.ipv6", "kernel.netns", "kernel.tun", "lab.nft.nat", "lab.python.trustme", _WIRES),
    )
)
"""Every lab has the same wires, and all of the usual servers."""
_QUEUE = frozenset(("lab.nfqueue", "lab.python.netfilterqueue"))
_DIALECTS = frozenset(("lab.program.obfs-server", "lab.program.ss-v2ray-plugin", "lab.python.asyncssh"))
_TOR = frozenset(("carriers.tor", "lab.program.obfs4proxy", "lab.program.tor-gencert"))


def _needs(profile: Profile, programs: Iterable[Program]) -> set[str]:
    """The ids of all that a profile needs."""
    from vpntest.lab.internet import has_dialects
    from vpntest.lab.profiles import TOR
    from vpntest.lab.vpn import REALITY

    found = set(_ALWAYS)
    for program in programs:
        if program.iptables:
            found |= {"lab.program.iptables-nft-restore", *_extensions(program)}
        if program.inspector:
            found |= _QUEUE
        found |= {
            f"lab.nft.{name}"
            for name, (shown, _, _) in _NFT.items()
            if re.search(shown, program.nftables, re.MULTILINE)
        }
    if profile.line.loss_percent or (profile.line.mtu < 1500 and not profile.line.icmp):
        found.add("lab.nft.ingress")
    if profile.line.kbit_per_second:
        found |= {"lab.program.tc", "lab.tc.tbf"}
    if has_dialects(profile):
        found |= _DIALECTS
    if TOR in profile.tunnels:
        found |= _TOR
    if REALITY in profile.tunnels:
        found.add("carriers.sing-box.utls")
    return found


def _extensions(program: Program) -> dict[str, str]:
    """Of iptables' extensions that the rules use, the words that call each, as they stand in some rule."""
    found = {}
    for line in program.iptables.splitlines():
        for words in re.split(r" (?=-[mj] )", line)[1:]:
            option, name = words.split()[:2]
            # Else it is a chain of the rules' own.
            if option == "-m" or f":{name} " not in program.iptables:
                found[f"lab.iptables.{'match' if option == '-m' else 'target'}-{name.lower()}"] = words
    return found


# ── the tries ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _whole() -> Iterator[Tried]:
    try:
        yield from _tries()
    except ImportError as exc:
        yield Tried(_TRIES, None, str(exc))
    else:
        yield Tried(_TRIES, True)


def _tries() -> Iterator[Tried]:
    from vpntest.lab.internet import programs
    from vpntest.lab.profiles import load, names
    from vpntest.lab.rules import Line

    yield from map(_program, PACKAGES)
    yield from map(_library, LIBRARIES)
    compiled = [(profile, programs(profile)) for profile in map(load, names())]
    extensions: dict[str, str] = {}
    for _, programs_of in compiled:
        for program in programs_of.values():
            extensions |= _extensions(program)

    yield _tried(_WIRES, lambda network: None)
    for name, words in sorted(extensions.items()):
        yield _tried(name, partial(_restore, f"*mangle\n-A FORWARD -p tcp {words}\nCOMMIT\n"))
    for name, (_, held, rule) in _NFT.items():
        table = f"table inet try {{\n{held}\nchain c {{\n{_FORWARD}\n{rule}\n}}\n}}\n"
        yield _tried(f"lab.nft.{name}", partial(_load, table))
    yield _tried("lab.nft.nat", partial(_load, _NAT))
    yield _tried("lab.nft.ingress", lambda network: network.condition(Line(loss_percent=1.0)))
    yield _tried("lab.tc.tbf", lambda network: network.condition(Line(kbit_per_second=1000)))
    yield _tried("lab.nfqueue", _queue)
    for profile, programs_of in compiled:
        # Each exit's censor apart, as on its own host.
        tries = [
            _tried(_PROFILE + profile.id, partial(_install, profile.line, program)) for program in programs_of.values()
        ]
        worst = next((one for one in tries if not one.works), tries[0])
        yield Tried(worst.id, worst.works, worst.said, tuple(sorted(_needs(profile, programs_of.values()))))


def _restore(rules: str, network: Network) -> None:
    network.run("censor", ["iptables-nft-restore"], rules)


def _load(table: str, network: Network) -> None:
    network.run("censor", ["nft", "-f", "-"], table)


def _install(line: Line, program: Program, network: Network) -> None:
    from vpntest.lab.internet import ISP_RESOLVER, PORTAL, follow

    follow(network, "censor", program)
    network.condition(line)
    if line.portal:
        network.lead_to_portal(PORTAL, ISP_RESOLVER)


def _tried(name: str, job: Callable[[Network], object]) -> Tried:
    """Whether a job on a network of nothing but the client and the censor can be done; not known without root."""
    from vpntest.lab.network import Network

    if os.geteuid() != 0:
        return Tried(name, None)
    network = Network(None)
    is_wired = False
    try:
        network.wire(())
        is_wired = True
        job(network)
    except ImportError as exc:
        return Tried(name, None, str(exc))
    except (CannotMeasure, OSError) as exc:
        # Without wires nothing is known of what runs over them.
        return Tried(name, False if is_wired or name == _WIRES else None, str(exc).removeprefix("the lab's censor: "))
    finally:
        asyncio.run(network.close())
    return Tried(name, True)


def _queue(network: Network) -> None:
    from netfilterqueue import NetfilterQueue

    from vpntest.lab.inspector import QUEUE

    queue = NetfilterQueue()
    with network["censor"].entered():
        queue.bind(QUEUE, lambda packet: None)
        queue.unbind()


def _program(name: str) -> Tried:
    from vpntest.lab.network import program

    try:
        return Tried(f"lab.program.{name}", True, program(name))
    except CannotMeasure:
        return Tried(f"lab.program.{name}", False, "it is not installed")


def _library(name: str) -> Tried:
    try:
        importlib.import_module(name)
    except ImportError as exc:
        return Tried(f"lab.python.{name}", False, str(exc))
    return Tried(f"lab.python.{name}", True)


if __name__ == "__main__":
    tell(_whole())
