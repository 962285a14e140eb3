"""The lab's censor: rules as data, compiled to what its router runs and to the lies of the access provider's resolver.

nftables has no substring match, so names are found by iptables-nft's string match, which marks the connection; nftables
acts on the mark. The string match sees single packets, so a hello too long for one goes to a worker, which reassembles
it and marks the packet; the worker also sees what no rule can (:mod:`vpntest.lab.inspector`). Where TLS is intercepted,
another one takes the connections (:mod:`vpntest.lab.interceptor`); no other rule sees those.

    packet ─▶ mangle FORWARD (−150)                                          ─▶ censor forward (+10)
              TLS name → connection mark · few packets → worker → packet mark    acts on marks, addresses, protocols

Marks: the low 12 bits are the rule's that has a connection; the first name that is found decides. Above are flags that
go beside it. Rules that look at a connection without regard to names keep sets of their own instead.

Only what a censor on the path can see is used: names in the clear, addresses, lengths, first bytes, counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from vpntest.lab.inspector import QUEUE, Watch
from vpntest.lab.interceptor import Station
from vpntest.lab.rules import (
    Cut,
    CutOpenVpn,
    CutWireGuard,
    DropEncrypted,
    DropQuic,
    DropQuicName,
    DropServerHello,
    DropUdp,
    FilterProtocols,
    Freeze,
    FreezeCrowd,
    InjectDns,
    InjectPage,
    InjectReset,
    Intercept,
    Lie,
    Police,
    RefuseOpenVpn,
    RefuseWireGuard,
    Reject,
    Reset,
    Rule,
    Unroute,
    Whitelist,
)
from vpntest.plan.syntax import is_address

FIRST_PACKETS = 6
"""Packets of a connection, in the client's direction, in which a TLS name is looked for; the censor inspects 3 to 15
(Xue et al., Throttling Twitter, IMC 2021)."""
NOBODY = "198.18.66.66"
"""Where a resolver asks that is to stay silent: no host of the lab has an address in 198.18.66.0/24."""


class Program(Struct, frozen=True):
    """A censor, ready to be installed."""

    iptables: str
    """For `iptables-nft-restore`."""
    nftables: str
    """For `nft -f`."""
    lies: tuple[str, ...]
    """Lines for the configuration of the access provider's dnsmasq."""
    inspector: str | None = None
    """JSON for `python -m vpntest.lab.inspector FILE` on the router; None where it is not needed."""
    interceptor: str | None = None
    """JSON for `python -m vpntest.lab.interceptor FILE` there; likewise."""


_FLOW = "ipv4_addr . inet_service . ipv4_addr . inet_service"
_TCP_FLOW = "ip saddr . tcp sport . ip daddr . tcp dport"
_UDP_FLOW = "ip saddr . udp sport . ip daddr . udp dport"
_SERVICE = "ipv4_addr . ipv4_addr . inet_service"
_TCP_SERVICE = "ip saddr . ip daddr . tcp dport"
_UDP_SERVICE = "ip saddr . ip daddr . udp dport"
_FOREVER = "1/week"
"""A bucket that is not refilled while a lab lives: its burst is then a plain budget of packets."""
_RULE, _LONG, _FIRST_FLAG = 0xFFF, 0x80000000, 0x1000
"""Bits of the connection mark: the rule's; of a hello longer than a packet; the first flag of a rule's own."""
_DATA = "@ih,0,8 & 0x00 == 0x00"
"""There is a first byte of payload, whatever it is."""
_INITIATION = "udp length 156 @th,64,32 0x01000000"
"""148 bytes of type 1."""
_WIREGUARD_DATA = "@th,64,32 0x04000000"
_OPENING_UDP = "ct direction original ct original packets 1 udp length 22-600 @th,64,8 { 0x38, 0x50 }"
"""P_CONTROL_HARD_RESET_CLIENT_V2 or V3: 14 bytes, to 102 under tls-auth and tls-crypt, 500 under tls-crypt-v2."""
_OPENING_TCP = (
    "meta l4proto tcp ct direction original ct original packets < 5 @ih,0,24 & 0xfc00ff == { 0x000038, 0x000050 }"
)
"""Over TCP the same bytes follow a length of two."""


def compile_rules(rules: Sequence[Rule], addresses: Mapping[str, Sequence[str]], lie: str) -> Program:
    """What makes the censor's router and the access provider's resolver follow `rules`.

    `addresses` holds those of each platform and host that a rule may name; `lie` is what a lying resolver answers.
    Raises KeyError for a platform or server that is not in `addresses`.
    """
    draft = _Draft(addresses, lie)
    for number, rule in enumerate(rules, 1):
        draft.add(number, rule)
    return draft.program()


class _Draft:
    """A program as it grows."""

    def __init__(self, addresses: Mapping[str, Sequence[str]], lie: str) -> None:
        self._addresses = addresses
        self._lie = lie
        self._names: list[str] = []
        """iptables: what finds names."""
        self._flags = 0
        self._queued: dict[str, None] = {}
        """iptables: matches of what the worker is given, each once."""
        self._sets: list[str] = []
        self._chains: list[str] = []
        self._marks: list[str] = []
        """nftables: what makes a packet's mark the connection's."""
        self._acts: list[str] = []
        self._lies: list[str] = []
        self._watches: list[Watch] = []
        self._stations: list[Station] = []

    def add(self, number: int, rule: Rule) -> None:
        # Two nibbles for each rule: the second one is for rules that see a flow in several steps.
        mark, marked = number << 4, _marked(number << 4)
        bucket, acts = f"flows{number}", self._acts
        match rule:
            case Police(names=names, kbytes_per_second=rate, burst_kbytes=burst):
                self._find(number, rule, names, rule.substrings)
                self._set(bucket, _FLOW)
                limit = f"limit rate over {rate} kbytes/second burst {burst} kbytes"
                if rule.sticky:
                    self._set(f"hit{number}", "ipv4_addr")
                    acts.append(f"{marked} ct direction original update @hit{number} {{ ip daddr }}")
                    acts.append(f"tcp flags syn ip daddr @hit{number} {_UNMARKED} {_take(mark)}")
                acts.append(f"{marked} update @{bucket} {{ {_TCP_FLOW} {limit} }} counter drop")
            case Reset(names=names):
                self._find(number, rule, names)
                answer = "ct direction reply tcp flags & (syn|ack) != (syn|ack)"
                acts.append(f"{marked} {answer} tcp flags set rst|ack counter")
            case Reject(names=names, paths=paths):
                self._find(number, rule, names, towards=self._all(paths))
                acts.append(f"{marked} ct direction original counter reject with tcp reset")
            case Cut(names=names, packets=0):
                self._find(number, rule, names)
                acts.append(f"{marked} counter drop")
            case Cut(names=names, packets=packets):
                self._find(number, rule, names)
                self._set(bucket, "ct id")
                # The packet with the name itself is the first that is counted.
                acts.append(f"{marked} update @{bucket} {{ ct id {_budget(packets + 1)} }} counter drop")
            case DropServerHello(names=names):
                self._find(number, rule, names)
                acts.append(f"{marked} ct direction reply {_DATA} counter drop")
            case Unroute(platforms=platforms, servers=servers):
                every = _any(self._all((*platforms, *servers)))
                acts += [f"ip daddr {every} counter drop", f"ip saddr {every} counter drop"]
            case Lie(names=names, answer=answer):
                self._lies += [
                    _LIES.get(answer, "address=/{name}/{answer}").format(
                        name=name.lstrip("."), answer=answer, lie=self._lie
                    )
                    for name in names
                ]
            case InjectDns(drop_truth=drop):
                self._watch("-p udp --dport 53", Watch(mark, rule))
                acts += [f"{_seen(mark)} counter drop"] * drop
            case InjectReset(residual_seconds=seconds):
                self._watch(_FIRST_TCP, Watch(mark, rule))
                if seconds:
                    self._set(bucket, _SERVICE, seconds)
                    acts.append(f"{_TCP_SERVICE} @{bucket} {_DATA} counter reject with tcp reset")
                    acts.append(f"{_seen(mark)} add @{bucket} {{ {_TCP_SERVICE} }}")
            case InjectPage():
                self._watch(_FIRST_TCP, Watch(mark, rule))
                self._marks.append(f"{_seen(mark)} {_take(mark)}")
                acts.append(f"{marked} counter drop")
            case Intercept(platforms=platforms):
                port = 8442 + number
                self._stations.append(Station(port, rule))
                self._chains.append(
                    f"chain lead{number} {{\ntype nat hook prerouting priority dstnat; policy accept;\n"
                    f"ip daddr {_any(self._all(platforms))} tcp dport 443 counter redirect to :{port}\n}}"
                )
            case DropQuic(least_payload=least):
                acts.append(f"udp dport 443 udp length >= {least + 8} @th,72,32 0x00000001 counter drop")
            case DropQuicName(residual_seconds=seconds, residual_without_port=True):
                self._watch(_INITIALS, Watch(mark, rule))
                self._set(bucket, _SERVICE, seconds)
                acts.append(f"{_UDP_SERVICE} @{bucket} counter drop")
                acts.append(f"{_seen(mark)} add @{bucket} {{ {_UDP_SERVICE} }} counter drop")
            case DropQuicName(residual_seconds=seconds):
                self._watch(_INITIALS, Watch(mark, rule))
                self._set(bucket, _FLOW, seconds)
                # What is sent meanwhile begins the time anew (Heitmann, FOCI 2026).
                known = f"{_UDP_FLOW} @{bucket}"
                acts.append(f"{known} update @{bucket} {{ {_UDP_FLOW} }} counter drop")
                acts.append(f"{_seen(mark)} add @{bucket} {{ {_UDP_FLOW} }} counter drop")
            case DropUdp(except_ports=ports):
                but = f"udp dport != {_any(map(str, ports))}" if ports else "meta l4proto udp"
                acts.append(f"ct direction original {but} counter drop")
            case CutWireGuard(data_packets=packets):
                self._set(bucket, _FLOW)
                budget = f"update @{bucket} {{ {_UDP_FLOW} {_budget(packets)} }}"
                acts.append(f"{_INITIATION} {_take(mark)}")
                acts.append(f"{marked} {_WIREGUARD_DATA} {budget} counter drop")
            case RefuseWireGuard(servers=servers):
                towards = f"ip daddr {_any(self._all(servers))} " if servers else ""
                acts.append(f"{towards}{_INITIATION} counter drop")
            case CutOpenVpn(data_packets=packets):
                self._set(bucket, _FLOW)
                acts += _cut_openvpn(mark, bucket, packets)
            case RefuseOpenVpn():
                acts.append(f"{_OPENING_UDP} counter drop")
                # Marked, for what is sent again comes too late to be looked at.
                acts.append(f"{_OPENING_TCP} {_UNMARKED} {_take(mark)}")
                acts.append(f"{marked} ct direction original counter drop")
            case DropEncrypted(servers=servers, residual_seconds=seconds):
                self._watch_servers(servers, mark, rule)
                self._set(bucket, _SERVICE, seconds)
                acts.append(f"{_TCP_SERVICE} @{bucket} counter drop")
                acts.append(f"{_seen(mark)} add @{bucket} {{ {_TCP_SERVICE} }} counter drop")
            case FreezeCrowd(servers=servers):
                self._watch_servers(servers, mark, rule)
                self._marks.append(f"{_seen(mark)} {_take(mark)}")
                acts.append(f"{marked} counter drop")
            case FilterProtocols(ports=ports, seconds=seconds):
                self._set(bucket, _FLOW, seconds)
                self._set(f"known{number}", "ct id")
                self._chain(f"protocols{number}", _only_known_protocols(bucket, f"known{number}"))
                acts.append(f"tcp dport {_any(map(str, ports))} ct direction original jump protocols{number}")
            case Freeze(platforms=platforms, servers=servers, exempt=names):
                every, past = _any(self._all((*platforms, *servers))), ""
                if names:
                    flag = _FIRST_FLAG << self._flags
                    self._flags += 1
                    self._find(number, rule, names, flag=flag)
                    past = f"ct mark & {flag:#x} == 0 "
                if rule.packets is not None:
                    spent = f"meta l4proto {{ tcp, udp }} {past}ct packets > {rule.packets}"
                else:
                    spent = f"meta l4proto tcp {past}ct reply bytes > {rule.bytes}"
                acts += [f"ip {end} {every} {spent} counter drop" for end in ("saddr", "daddr")]
            case Whitelist(hosts=hosts):
                every = _any(one for host in hosts for one in self._of(host))
                self._chain(
                    f"strangers{number}",
                    (
                        f"ip daddr {every} return",
                        f"ip saddr {every} return",
                        f"meta l4proto tcp ct direction original {_DATA} counter drop",
                        "meta l4proto != tcp counter drop",
                    ),
                )
                acts.append(f"jump strangers{number}")

    def program(self) -> Program:
        inspector = msgspec.json.encode(tuple(self._watches)).decode() if self._watches else None
        interceptor = msgspec.json.encode(tuple(self._stations)).decode() if self._stations else None
        return Program(self._iptables(), self._nftables(), tuple(self._lies), inspector, interceptor)

    def _of(self, host: str) -> Sequence[str]:
        return (host,) if is_address(host) else self._addresses[host]

    def _all(self, hosts: Iterable[str]) -> tuple[str, ...]:
        return tuple(address for host in hosts for address in self._addresses[host])

    def _set(self, name: str, key: str, seconds: int = 600) -> None:
        kind = "typeof" if key == "ct id" else "type"
        self._sets.append(f"set {name} {{\n{kind} {key}\nflags dynamic,timeout\ntimeout {seconds}s\nsize 65535\n}}")

    def _chain(self, name: str, lines: Iterable[str]) -> None:
        self._chains.append("\n".join((f"chain {name} {{", *lines, "}")))

    def _watch(self, match: str, watch: Watch) -> None:
        self._queued[match] = None
        self._watches.append(watch)

    def _watch_servers(self, servers: Sequence[str], mark: int, rule: Rule) -> None:
        towards = self._all(servers)
        for address in towards:
            self._queued[f"-d {address} {_FIRST_TCP}"] = None
        self._watches.append(Watch(mark, rule, towards))

    def _find(
        self,
        number: int,
        rule: Rule,
        names: Sequence[str],
        substrings: Sequence[str] = (),
        *,
        towards: Sequence[str] = (),
        flag: int = 0,
    ) -> None:
        """Looks for names in TLS; gives the connection the rule's mark, or a flag beside whatever it has."""
        chain, bits = f"NAMES{number}", flag or _RULE
        mark = flag or number << 4
        self._names.insert(0, f":{chain} - [0:0]")
        # A flag is for any port and comes beside every mark; else the first one that is found decides.
        within = "-p tcp" if flag else f"-p tcp --dport 443 -m connmark --mark 0/{_RULE:#x}"
        for address in towards or ("0.0.0.0/0",):
            self._names.append(f"-A FORWARD -d {address} {within} {_FIRST} -j {chain}")
        hit = f"-j CONNMARK --set-xmark {mark:#x}/{bits:#x}"
        for pattern in _patterns(names, substrings):
            self._names.append(f"-A {chain} -m string --algo bm --from 40 --to 2000 {pattern} {hit}")
        self._watches.append(Watch(mark, rule, tuple(towards)))
        if flag:
            self._marks.append(f"meta mark & {flag:#x} == {flag:#x} ct mark set ct mark or {flag:#x}")
        else:
            self._marks.append(f"{_seen(mark)} {_UNMARKED} {_take(mark)}")

    def _iptables(self) -> str:
        if not self._names and not self._queued:
            return ""
        lines = [*self._names]
        if self._names:
            lines.append(f"-A FORWARD {_FIRST_TCP} {_LONG_HELLO} -j CONNMARK --set-xmark {_LONG:#x}/{_LONG:#x}")
            self._queued[f"{_FIRST_TCP} -m connmark --mark {_LONG:#x}/{_LONG:#x}"] = None
        lines += [f"-A FORWARD {match} -j NFQUEUE --queue-num {QUEUE} --queue-bypass" for match in self._queued]
        return "\n".join(("*mangle", *lines, "COMMIT")) + "\n"

    def _nftables(self) -> str:
        if not self._acts and not self._chains:
            return ""
        act = ("type filter hook forward priority 10; policy accept;", *self._marks, *self._acts)
        self._chain("act", act)
        return "\n".join(("table inet censor {", *self._sets, *self._chains, "}", ""))


_LIES = {"block-page": "address=/{name}/{lie}", "nxdomain": "local=/{name}/", "silence": f"server=/{{name}}/{NOBODY}"}
"""dnsmasq's lines for the answers that have names."""

_FIRST = f"-m connbytes --connbytes 0:{FIRST_PACKETS} --connbytes-dir original --connbytes-mode packets"
_FIRST_TCP = f"-p tcp -m conntrack --ctdir ORIGINAL -m connmark --mark 0/{_RULE:#x} {_FIRST}"
_PAYLOAD = "0>>22&0x3C@12>>26&0x3C@"
_LONG_HELLO = f'-m u32 --u32 "{_PAYLOAD}0>>16=0x1603&&{_PAYLOAD}3>>16=1200:65535"'
"""A TLS record of 1200 bytes or more: it may not fit into what is left of a packet. Shorter ones do."""
_INITIALS = '-p udp -m conntrack --ctdir ORIGINAL -m u32 --u32 "0>>22&0x3C@8&0xF0000000=0xC0000000&&0>>22&0x3C@9=1"'
_UNMARKED = f"ct mark & {_RULE:#x} == 0"


def _marked(mark: int) -> str:
    return f"ct mark & {_RULE:#x} == {mark:#x}"


def _seen(mark: int) -> str:
    """The worker gave this packet the mark."""
    return f"meta mark & {_RULE:#x} == {mark:#x}"


def _take(mark: int) -> str:
    """The connection is this rule's from here on."""
    return f"ct mark set ct mark and {0xFFFFFFFF ^ _RULE:#x} or {mark:#x}"


def _cut_openvpn(mark: int, bucket: str, packets: int) -> list[str]:
    """A flow is OpenVPN's if the client's first packet is a reset for a session and the server's first is the answer.

    One of the two bytes alone would, by chance, take in one in 256 of the flows that look like noise.
    """
    asked_udp, asked_tcp, udp, tcp, tcp_data = range(mark + 1, mark + 6)
    budget = _budget(packets)
    return [
        f"{_OPENING_UDP} {_take(asked_udp)}",
        f"{_marked(asked_udp)} ct direction reply @th,64,8 0x40 {_take(udp)}",
        f"{_marked(udp)} meta l4proto udp @th,64,8 & 0xf8 == {{ 0x30, 0x48 }} "
        f"update @{bucket} {{ {_UDP_FLOW} {budget} }} counter drop",
        f"{_OPENING_TCP} {_UNMARKED} {_take(asked_tcp)}",
        f"{_marked(asked_tcp)} ct direction reply @ih,16,8 0x40 {_take(tcp)}",
        f"{_marked(tcp)} @ih,16,8 & 0xf8 == {{ 0x30, 0x48 }} {_take(tcp_data)}",
        # From the first data packet on, packets and segments no longer meet: what carries anything is counted.
        f"{_marked(tcp_data)} meta length > 80 update @{bucket} {{ {_TCP_FLOW} {budget} }} counter drop",
    ]


def _only_known_protocols(bad: str, known: str) -> list[str]:
    """What looks like DNS, HTTP or TLS is known from its first data on; anything else is bad, and passes this once."""
    fine = f"add @{known} {{ ct id }} return"
    methods = ", ".join(f"0x{word.encode()[:4].hex()}" for word in ("GET ", "HEAD", "POST", "PUT ", "OPTI", "CONN"))
    return [
        f"{_TCP_FLOW} @{bad} update @{bad} {{ {_TCP_FLOW} }} counter drop",
        f"ct id @{known} return",
        f"@ih,0,16 0x1603 {fine}",
        f"@ih,0,32 {{ {methods} }} {fine}",
        # Behind length and id: a query, one question, no answers.
        f"@ih,32,16 & 0xf800 == 0 @ih,48,32 0x00010000 {fine}",
        f"{_DATA} add @{bad} {{ {_TCP_FLOW} }} counter",
    ]


def _budget(packets: int) -> str:
    return f"limit rate over {_FOREVER} burst {packets} packets"


def _any(values: Iterable[str]) -> str:
    """One of these, each told once: nft refuses some that are told twice."""
    return f"{{ {', '.join(dict.fromkeys(values))} }}"


def _patterns(names: Sequence[str], substrings: Sequence[str]) -> Iterable[str]:
    """Two matches for each name: alone it stands behind its own length (RFC 6066 §3), beneath it behind a dot."""
    for name in names:
        if not name.startswith("."):
            yield f'--hex-string "|00{len(name):04x}|{name}"'
        yield f'--string ".{name.lstrip(".")}"'
    for part in substrings:
        yield f'--string "{part}"'
