"""The lab's censor: rules as data, compiled to what its router runs and to the lies of the access provider's resolver.

nftables has no substring match, so names are found by iptables-nft's string match, which marks the connection; nftables
acts on the mark. Each rule has a mark of its own. The string match sees single packets: a name that is split over two
segments escapes, as it does from any censor that does not reassemble.

    packet ─▶ mangle FORWARD (−150): TLS name → connection mark ─▶ censor forward (+10): act on mark, address, protocol

Only what a censor on the path can see is used: names in the clear, addresses, lengths, first bytes, counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from vpntest.lab.rules import (
    Cut,
    CutOpenVpn,
    CutWireGuard,
    DropQuic,
    Lie,
    Police,
    RefuseWireGuard,
    Reset,
    Rule,
    Unroute,
)

FIRST_PACKETS = 6
"""Packets of a connection, in the client's direction, in which a TLS name is looked for; the censor inspects 3 to 15
(Xue et al., Throttling Twitter, IMC 2021)."""


class Program(Struct, frozen=True):
    """A censor, ready to be installed."""

    iptables: str
    """For `iptables-nft-restore`."""
    nftables: str
    """For `nft -f`."""
    lies: tuple[str, ...]
    """Lines for the configuration of the access provider's dnsmasq."""


_FLOW = "ipv4_addr . inet_service . ipv4_addr . inet_service"
_TCP_FLOW = "ip saddr . tcp sport . ip daddr . tcp dport"
_UDP_FLOW = "ip saddr . udp sport . ip daddr . udp dport"
_FOREVER = "1/week"
"""A bucket that is not refilled while a lab lives: its burst is then a plain budget of packets."""


def compile_rules(rules: Sequence[Rule], addresses: Mapping[str, Sequence[str]], lie: str) -> Program:
    """What makes the censor's router and the access provider's resolver follow `rules`.

    `addresses` holds those of each platform and of each VPN server; `lie` is what a lying resolver answers. Raises
    KeyError for a platform or server that is not in `addresses`.
    """
    marks: list[str] = []
    sets: list[str] = []
    acts: list[str] = []
    lies: list[str] = []
    for number, rule in enumerate(rules, 1):
        # Two nibbles for each rule: the second one is for rules that see a flow in several steps.
        mark = f"0x{number:02x}0"
        bucket = f"flows{number}"
        match rule:
            case Police(names=names, kbytes_per_second=rate, burst_kbytes=burst):
                marks += _marking(names, mark)
                sets.append(_set(bucket, _FLOW))
                limit = f"limit rate over {rate} kbytes/second burst {burst} kbytes"
                acts.append(f"ct mark {mark} update @{bucket} {{ {_TCP_FLOW} {limit} }} counter drop")
            case Reset(names=names):
                marks += _marking(names, mark)
                answer = "ct direction reply tcp flags & (syn|ack) != (syn|ack)"
                acts.append(f"ct mark {mark} {answer} tcp flags set rst|ack counter")
            case Cut(names=names, packets=packets):
                marks += _marking(names, mark)
                sets.append(_set(bucket, "ct id"))
                # The packet with the name itself is the first that is counted.
                acts.append(f"ct mark {mark} update @{bucket} {{ ct id {_budget(packets + 1)} }} counter drop")
            case Unroute(platforms=platforms):
                every = ", ".join(address for platform in platforms for address in addresses[platform])
                acts += [f"ip daddr {{ {every} }} counter drop", f"ip saddr {{ {every} }} counter drop"]
            case Lie(names=names):
                lies += [f"address=/{name}/{lie}" for name in names]
            case DropQuic(least_payload=least):
                acts.append(f"udp dport 443 udp length >= {least + 8} @th,72,32 0x00000001 counter drop")
            case CutWireGuard(data_packets=packets):
                sets.append(_set(bucket, _FLOW))
                budget = f"update @{bucket} {{ {_UDP_FLOW} {_budget(packets)} }}"
                acts.append(f"{_INITIATION} ct mark set {mark}")
                acts.append(f"ct mark {mark} {_WIREGUARD_DATA} {budget} counter drop")
            case RefuseWireGuard(servers=servers):
                every = ", ".join(address for server in servers for address in addresses[server])
                acts.append(f"ip daddr {{ {every} }} {_INITIATION} counter drop")
            case CutOpenVpn(data_packets=packets):
                sets.append(_set(bucket, _FLOW))
                acts += _openvpn(number, bucket, packets)
    return Program(_iptables(marks), _nftables(sets, acts), tuple(lies))


_INITIATION = "udp length 156 @th,64,32 0x01000000"
"""148 bytes of type 1."""
_WIREGUARD_DATA = "@th,64,32 0x04000000"


def _openvpn(number: int, bucket: str, packets: int) -> list[str]:
    """A flow is OpenVPN's if the client's first packet is a reset for a session and the server's first is the answer.

    One of the two bytes alone would, by chance, take in one in 256 of the flows that look like noise.
    """
    asked_udp, asked_tcp, udp, tcp, tcp_data = (f"0x{number:02x}{step}" for step in range(1, 6))
    budget = _budget(packets)
    first = "ct direction original ct original packets"
    return [
        # P_CONTROL_HARD_RESET_CLIENT_V2 or V3: 14 bytes, to 102 under tls-auth and tls-crypt, 500 under tls-crypt-v2.
        f"{first} 1 udp length 22-600 @th,64,8 {{ 0x38, 0x50 }} ct mark set {asked_udp}",
        f"ct mark {asked_udp} ct direction reply @th,64,8 0x40 ct mark set {udp}",
        f"ct mark {udp} meta l4proto udp @th,64,8 & 0xf8 == {{ 0x30, 0x48 }} "
        f"update @{bucket} {{ {_UDP_FLOW} {budget} }} counter drop",
        # Over TCP the same bytes follow a length of two.
        f"meta l4proto tcp ct mark 0 {first} < 5 @ih,0,24 & 0xfc00ff == {{ 0x000038, 0x000050 }} "
        f"ct mark set {asked_tcp}",
        f"ct mark {asked_tcp} ct direction reply @ih,16,8 0x40 ct mark set {tcp}",
        f"ct mark {tcp} @ih,16,8 & 0xf8 == {{ 0x30, 0x48 }} ct mark set {tcp_data}",
        # From the first data packet on, packets and segments no longer meet: what carries anything is counted.
        f"ct mark {tcp_data} meta length > 80 update @{bucket} {{ {_TCP_FLOW} {budget} }} counter drop",
    ]


def _budget(packets: int) -> str:
    return f"limit rate over {_FOREVER} burst {packets} packets"


def _set(name: str, key: str) -> str:
    kind = "typeof" if key == "ct id" else "type"
    return f"set {name} {{\n{kind} {key}\nflags dynamic,timeout\ntimeout 10m\nsize 65535\n}}"


def _marking(names: Sequence[str], mark: str) -> list[str]:
    """Two matches for each name: alone it stands behind its own length (RFC 6066 §3), beneath it behind a dot."""
    rules = []
    for name in names:
        for pattern in (f'--hex-string "|00{len(name):04x}|{name}"', f'--string ".{name}"'):
            rules.append(
                f"-A FORWARD -p tcp --dport 443 -m connmark --mark 0 "
                f"-m connbytes --connbytes 0:{FIRST_PACKETS} --connbytes-dir original --connbytes-mode packets "
                f"-m string --algo bm --from 40 --to 2000 {pattern} -j CONNMARK --set-mark {mark}"
            )
    return rules


def _iptables(marks: Sequence[str]) -> str:
    return "\n".join(("*mangle", *marks, "COMMIT")) + "\n" if marks else ""


def _nftables(sets: Sequence[str], acts: Sequence[str]) -> str:
    if not acts:
        return ""
    return "\n".join(
        (
            "table inet censor {",
            *sets,
            "chain act {",
            "type filter hook forward priority 10; policy accept;",
            *acts,
            "}",
            "}",
            "",
        )
    )
