"""Every profile as it is shipped does what it states, and leaves alone what is next to that.

Seen from the client with what anybody has: curl, openssl, dig, iperf3, tcpdump, openvpn, a browser's hello, aioquic and
plain sockets; none of our probes. What a rule means is tests/lab/test_censor.py's affair: here it is the file that
counts, with its names, addresses and numbers.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import re
import select
import socket
import struct
import subprocess
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import dns.message
import pytest
from censor_at_work import SOON, WITNESS, Datagrams, conversation, got, hello
from openings import CONTROL as OVPN_CONTROL
from openings import INITIATION, NOISE, OPENED, OPENING, OVPN_DATA, RESPONSE, WG_DATA, framed
from standing_lab import CURL_REFUSED, CURL_RESET, CURL_TIMEOUT, CURL_UNTRUSTED, StandingLab, standing
from wiretap import Overheard, crossing, overhearing

from vpntest.lab import dialects, vpn
from vpntest.lab.inspector import ACK, RST, SYN
from vpntest.lab.internet import (
    CONTROL,
    CONTROL_NAME,
    COVER_NAME,
    HOME,
    HOME_NAME,
    ISP_RESOLVER,
    LIE,
    NEUTRAL_NAME,
    PORTAL,
    PORTAL_NAME,
    PUBLIC_RESOLVER,
)
from vpntest.lab.network import CLIENT
from vpntest.lab.profiles import load, names
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
    Line,
    Police,
    RefuseOpenVpn,
    RefuseWireGuard,
    Reject,
    Reset,
    Unroute,
    Whitelist,
    World,
)

Check = Callable[[StandingLab], None]
Stated = type | Literal["exit"] | None
CHECKS: list[tuple[str, Stated, Check]] = []
"""Profile; what of it is checked: a rule, the line, the world, an exit behind a censor, that there is nothing; how."""
RUSSIA = ("ru_2022_03", "ru_2023_08_vpn")
"""One profile, and the one that extends it with rules of its own."""
SAME = {"exit_inside": "ru_2022_03"}
"""Who has the very rules of another, which are not checked twice."""
SERVERS = {host.name: host.addresses[0] for host in vpn.HOSTS}
TROJAN = vpn.HOSTS[4].addresses[1]
NOBODY = "198.18.66.250"
"""No host of the lab has this address."""

PORTS = itertools.count(50000)
"""Source ports that nothing has had yet: what curl leaves unsent goes on after its end."""

R = TypeVar("R")


def effect(stated: Stated, *profiles: str) -> Callable[[Check], Check]:
    """What follows checks one such thing of each of these profiles."""

    def keep(check: Check) -> Check:
        CHECKS.extend((profile, stated, check) for profile in profiles)
        return check

    return keep


# ── with what it is seen ─────────────────────────────────────────────────────────────────────────────────────────────


def rule(lab: StandingLab, kind: type[R]) -> R:
    """The profile's first rule of a kind: its numbers are what is to be seen."""
    return next(one for one in lab.lab.profile.rules if isinstance(one, kind))


def at(lab: StandingLab, name: str) -> str:
    """Where the honest resolver has a name."""
    return lab.lab.web.names[name]


def neutral(lab: StandingLab, name: str) -> bool:
    """Whether the neutral name gets an answer where that name is."""
    return lab.curl(NEUTRAL_NAME, "/", "-k", address=at(lab, name)).ok


def is_reset(lab: StandingLab, name: str, **more: Any) -> bool:
    """Whether curl meets a reset in place of the server's hello, on a connection that stood."""
    fetched = lab.curl(name, "/", "-k", **more)
    return fetched.exit_status == CURL_RESET and not fetched.spoke_tls


def hangs(lab: StandingLab, name: str, **more: Any) -> bool:
    """Whether nothing comes in place of the server's hello."""
    fetched = lab.curl(name, "/", "-k", seconds=0.5, **more)
    return fetched.exit_status == CURL_TIMEOUT and not fetched.spoke_tls


def silent_quic(lab: StandingLab, name: str, **more: Any) -> bool:
    """Whether nothing comes in answer to QUIC."""
    try:
        lab.http3(name, verify=False, seconds=0.4, **more)
    except ConnectionError as error:
        return str(error) == "silence"
    return False


def connects(lab: StandingLab, address: str, port: int, *, host: str = "client") -> bool:
    """Whether a TCP connection stands at once."""
    with lab.lab.network[host].socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.settimeout(SOON)
        return asking.connect_ex((address, port)) == 0


def all_of(check: Callable[[str], bool], among: Iterable[str]) -> bool:
    """Whether it holds of each, all asked at once: silence takes its time."""
    with ThreadPoolExecutor(8) as threads:
        return all(list(threads.map(check, among)))


def unreachable(lab: StandingLab, addresses: Sequence[str]) -> bool:
    """Whether the client reaches none of these by TCP, where others reach each, at some port."""
    ports = {one.address: one.port for one in lab.lab.web.endpoints}
    return all_of(lambda one: not connects(lab, one, ports[one]), addresses) and all_of(
        lambda one: connects(lab, one, ports[one], host="public"), addresses
    )


def answers_overheard(lab: StandingLab, resolver: str, *names: str) -> dict[str, list[str]]:
    """The A records of every answer to dig's questions, in the order in which they come."""
    with overhearing(lab, "client", f"udp and src host {resolver} and src port 53") as heard:
        all_of(lambda name: asked(lab, resolver, name), names)
    found: dict[str, list[str]] = {name: [] for name in names}
    for packet in heard:
        reply = dns.message.from_wire(packet.segment.payload)
        (records,) = reply.answer
        found[reply.question[0].name.to_text(omit_final_dot=True)] += [record.to_text() for record in records]
    return found


def asked(lab: StandingLab, resolver: str, name: str) -> bool:
    """Whether dig has an answer within a second."""
    said = lab.run("client", "dig", "+time=1", "+tries=1", f"@{resolver}", name, check=False).stdout
    return "no servers could be reached" not in said


def issuer(lab: StandingLab, name: str, address: str) -> str:
    """Of the certificate that openssl is shown."""
    done = lab.run("client", "openssl", "s_client", "-connect", f"{address}:443", "-servername", name, check=False)
    return next(line for line in done.stdout.splitlines() if line.startswith("issuer="))


def held(lab: StandingLab, *parts: str | int) -> int:
    """Seconds for which the router keeps what it has noted of these addresses and ports, as nft tells them."""
    ruleset = json.loads(lab.run("censor", "nft", "-j", "list", "ruleset").stdout)["nftables"]
    found = [
        entry["set"]["timeout"]
        for entry in ruleset
        if "set" in entry
        for element in entry["set"].get("elem", ())
        # Others hold connections' numbers.
        if isinstance(key := element["elem"]["val"], dict) and set(parts) <= set(key["concat"])
    ]
    (seconds,) = found
    assert isinstance(seconds, int)
    return seconds


def rates(
    lab: StandingLab, *names: str, host: str = "client", shown: str = CLIENT[0], seconds: float = 4
) -> dict[str, tuple[float, float]]:
    """Bytes per second, headers included, with which curl fetches 1 MiB and sends as much under each of the names.

    From the control's address, all at once; the first 30,000 bytes are left out, in which a bucket may have been full.
    `shown`: the address under which the host is seen there.
    """
    body = lab.lab.directory / "body"
    body.write_bytes(bytes(1 << 20))
    ports = {name: (next(PORTS), next(PORTS)) for name in names}
    with (
        overhearing(lab, host, f"tcp and src host {CONTROL}") as down,
        overhearing(lab, "control", f"tcp and src host {shown}", after=0) as up,
        ThreadPoolExecutor(2 * len(names)) as threads,
    ):
        for name, (fetching, sending) in ports.items():
            for port, path, *options in ((fetching, "/1m"), (sending, "/upload", "--data-binary", f"@{body}")):
                options += ["-k", "--http1.1", "--local-port", str(port)]
                threads.submit(lab.curl, name, path, *options, address=CONTROL, seconds=seconds, host=host)

    def rate(packets: list[Overheard], **port: int) -> float:
        passed, begun, before = 0, 0.0, 0
        for packet in packets:
            segment = packet.segment
            if port in ({"to": segment.destination[1]}, {"of": segment.source[1]}):
                passed += packet.length
                end = packet.at
                if not begun and passed > 30_000:
                    begun, before = packet.at, passed
        assert begun
        return (passed - before) / (end - begun)

    return {name: (rate(down, to=to), rate(up, of=of)) for name, (to, of) in ports.items()}


@contextlib.contextmanager
def running(lab: StandingLab, host: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A program on a host, for the body."""
    with lab.lab.network[host].entered():
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=lab.lab.directory / "plan"
        )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def iperf3(lab: StandingLab, host: str, address: str, *options: str) -> dict[str, Any]:
    """What iperf3 makes of the way between the client and a host: the end of its report.

    Where its own control connection fell there is no report, and it is asked again.
    """
    errors = []
    while len(errors) < 3:
        port = str(next(PORTS))
        with running(lab, host, "iperf3", "-s", "-1", "-B", address, "-p", port, "--forceflush") as serving:
            assert serving.stdout is not None
            while "listening" not in serving.stdout.readline():
                assert serving.poll() is None
            report = json.loads(lab.run("client", "iperf3", "-J", "-c", address, "-p", port, *options).stdout)
        if "error" not in report:
            end = report["end"]
            assert isinstance(end, dict)
            return end
        errors.append(report["error"])
    raise AssertionError(errors)


OPENVPN = ("openvpn-udp", "openvpn-tcp")
BEGUN, DONE = "TLS: Initial packet from", "Initialization Sequence Completed"
"""OpenVPN's words for a server's first answer, and for a tunnel that is up."""


def openvpn(lab: StandingLab, name: str, word: str, seconds: float) -> str:
    """What OpenVPN says with a tunnel's own config until it says `word` or the time is over. It opens no device."""
    own = next(one for one in tomllib.loads(lab.lab.plan.read_text())["tunnel"] if one["name"] == name)
    more = []
    if "username" in own:
        login = lab.lab.directory / f"{name}.login"
        login.write_text(f"{own['username']}\n{own['password']}\n")
        login.chmod(0o600)
        more = ["--auth-user-pass", str(login)]
    argv = ["openvpn", "--config", own["config"], "--dev", "null", "--ifconfig-noexec", "--route-noexec", *more]
    said, end = "", time.monotonic() + seconds
    with running(lab, "client", *argv) as process:
        assert process.stdout is not None
        while word not in said and (left := end - time.monotonic()) > 0:
            # Not by lines: what a buffer holds is not what `select` sees.
            if select.select([process.stdout], [], [], left)[0]:
                news = os.read(process.stdout.fileno(), 65536).decode()
                assert news, said
                said += news
    return said


def chrome(lab: StandingLab, name: str, address: str) -> bool:
    """Whether a new connection with Chrome's ClientHello gets the server's."""
    import curl_cffi
    from curl_cffi.requests.impersonate import DEFAULT_CHROME

    with lab.lab.client.entered():
        curl = curl_cffi.Curl()
        assert curl.impersonate(DEFAULT_CHROME) == 0
        curl.setopt(curl_cffi.CurlOpt.URL, f"https://{name}/".encode())
        curl.setopt(curl_cffi.CurlOpt.RESOLVE, [f"{name}:443:{address}"])
        curl.setopt(curl_cffi.CurlOpt.TIMEOUT_MS, 700)
        # Else a page would go to this process's own stdout.
        curl.setopt(curl_cffi.CurlOpt.WRITEDATA, io.BytesIO())
        for option in (curl_cffi.CurlOpt.SSL_VERIFYPEER, curl_cffi.CurlOpt.SSL_VERIFYHOST):
            curl.setopt(option, 0)
        # Trojan's server says nothing to a stranger behind the handshake.
        with contextlib.suppress(curl_cffi.CurlError):
            curl.perform()
        spoke = float(curl.getinfo(curl_cffi.CurlInfo.APPCONNECT_TIME)) > 0  # type: ignore[arg-type]
        curl.close()
    return spoke


def near(stated: float, share: float = 0.1) -> Any:
    """Within 10 %, if nothing else is said."""
    return pytest.approx(stated, rel=share)


# ── nothing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@effect(None, "open")
def nothing_is_touched(lab: StandingLab) -> None:
    """Packet by packet the same on both ends of the way; no rule anywhere."""
    assert lab.run("censor", "nft", "list", "ruleset").stdout == ""
    address = at(lab, "www.facebook.com")
    with (
        overhearing(lab, "client", f"host {address}") as ours,
        overhearing(lab, "platforms", f"host {address} and host {CLIENT[0]}") as theirs,
    ):
        assert lab.curl("www.facebook.com").ok
        assert neutral(lab, "www.facebook.com")
        assert lab.http3("www.facebook.com").status == 200
        lab.run("client", "curl", "-sS", "--max-time", "1", f"http://{address}:443/")
    assert len(ours) > 100
    assert Counter(packet.untouched for packet in ours) == Counter(packet.untouched for packet in theirs)
    for name, address in lab.lab.web.names.items():
        assert lab.dig(ISP_RESOLVER, name) == lab.dig(PUBLIC_RESOLVER, name) == [address]
    with Datagrams(lab, 5555) as flow:
        assert flow.up(INITIATION, *[WG_DATA] * 40, OPENING, *[OVPN_DATA] * 40, NOISE) == 83
        assert flow.down(RESPONSE, *[WG_DATA] * 40, OPENED, *[OVPN_DATA] * 40) == 82
    assert all_of(lambda tunnel: DONE in openvpn(lab, tunnel, DONE, 10), OPENVPN)


@effect(None, "dialects")
def a_server_is_there_for_each_dialect(lab: StandingLab) -> None:
    """With no rule before it; and curl, which speaks three of them, is let out there."""
    assert lab.run("censor", "nft", "list", "ruleset").stdout == ""
    for name, port in dialects.PORTS.items():
        by_udp = name in ("hysteria2", "tuic", "wireguard", "amneziawg")
        assert connects(lab, dialects.ADDRESS, port) is not by_udp, name
    links = {one["name"]: one.get("uri", "") for one in tomllib.loads(lab.lab.plan.read_text())["tunnel"]}
    for name in ("socks5", "http-proxy", "https-proxy"):
        way = urlsplit(links[name])
        here = ("--resolve", f"{way.hostname}:{way.port}:{dialects.ADDRESS}", "--proxy-cacert", "ca.pem")
        command = ("curl", "-sS", "--max-time", "4", "--cacert", "ca.pem", *here)
        there = ("--connect-to", f"{CONTROL_NAME}:443:{CONTROL}:443", f"https://{CONTROL_NAME}/ip")
        known, stranger = f"{way.scheme}://{way.netloc}", f"{way.scheme}://{way.hostname}:{way.port}"
        assert lab.run("client", *command, "--proxy", known, *there).stdout == dialects.ADDRESS, name
        assert lab.run("client", *command, "--proxy", stranger, *there, check=False).returncode in (56, 97), name


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@effect(Police, *RUSSIA)
def twitter_is_policed(lab: StandingLab) -> None:
    policed(lab, ("abs.twimg.com",), ("twimg.org", "www.bright.com.example"))


@effect(Police, "ru_2021_twitter")
def twitter_and_what_holds_its_short_name_are_policed(lab: StandingLab) -> None:
    policed(lab, ("abs.twimg.com", "www.bright.com.example"), ("x.com", "bright.example"))


@effect(Police, "ru_2024_youtube")
def videos_are_policed(lab: StandingLab) -> None:
    policed(lab, ("redirector.googlevideo.com",), ("www.youtube.com", "i.ytimg.com"))


def policed(lab: StandingLab, slow: Sequence[str], fast: Sequence[str]) -> None:
    """Both directions of the slow names, each by itself, to the stated rate, whatever server has them."""
    stated = rule(lab, Police).kbytes_per_second * 1024
    assert stated == 17 * 1024  # 139 kbit/s; published: 130 to 150
    for name, both in rates(lab, *slow).items():
        assert both == (near(stated), near(stated)), name
    # A megabyte takes a minute at that rate.
    for name in (*fast, NEUTRAL_NAME):
        assert lab.curl(name, "/1m", "-k", address=CONTROL).size == 1 << 20


@effect(Police, "tr_throttle")
def policed_by_name_and_then_by_address(lab: StandingLab) -> None:
    stated = rule(lab, Police).kbytes_per_second * 1024
    assert lab.curl(NEUTRAL_NAME, "/1m", "-k", address=CONTROL).size == 1 << 20
    hit = lab.curl("twitter.com", "/204", "-k", address=CONTROL)
    assert hit.ok
    for name, both in rates(lab, "twitter.com", NEUTRAL_NAME).items():
        assert both == (near(stated), near(stated)), name
    for address in (HOME, at(lab, "www.facebook.com")):
        assert lab.curl(NEUTRAL_NAME, "/", "-k", address=address, seconds=2).code > 0
    assert lab.curl(NEUTRAL_NAME, "/1m", "-k", address=HOME).size == 1 << 20


@effect(Reset, *RUSSIA)
def facebook_is_reset_in_place(lab: StandingLab) -> None:
    for name in ("www.facebook.com", "static.xx.fbcdn.net"):
        assert is_reset(lab, name), name
    address = at(lab, "www.facebook.com")
    with crossing(lab, "platforms", address) as seen:
        assert is_reset(lab, "www.facebook.com")
    ttls = {bool(packet.segment.flags & SYN): packet.segment.ttl for packet in seen.down}
    assert ttls[True] == ttls[False]
    assert {packet.segment.flags for packet in seen.down} == {SYN | ACK, RST | ACK}
    assert neutral(lab, "www.facebook.com")
    assert lab.curl("m.facebook.com", "/", "-k", address=address).ok


@effect(Cut, *RUSSIA)
def instagram_is_cut_after_five_packets(lab: StandingLab) -> None:
    """SYN, its answer, its confirmation, the ClientHello; five; nothing."""
    assert rule(lab, Cut).packets == 5
    for name in ("www.instagram.com", "static.cdninstagram.com"):
        with crossing(lab, "platforms", at(lab, name)) as seen:
            assert hangs(lab, name)
        assert seen.count == 4 + 5
    assert neutral(lab, "www.instagram.com")
    assert lab.curl("instagram.org", "/", "-k", address=at(lab, "www.instagram.com")).ok


@effect(Cut, *RUSSIA)
def messenger_is_cut_at_its_name(lab: StandingLab) -> None:
    listed = ("www.messenger.com", "b-graph.facebook.com", "edge-mqtt.facebook.com")
    with crossing(lab, "platforms", at(lab, "www.messenger.com")) as seen:
        assert all_of(lambda name: hangs(lab, name), listed)
    assert seen.count == 3 * len(listed)
    assert neutral(lab, "www.messenger.com")


@effect(Lie, *RUSSIA)
def signal_has_another_address_at_the_providers_resolver(lab: StandingLab) -> None:
    lied_about(lab, ("chat.signal.org", "cdsi.signal.org", "storage.signal.org"), ("twitter.com", "www.facebook.com"))


@effect(Lie, "isp_dns_ru")
def half_of_the_platforms_have_the_block_pages_address(lab: StandingLab) -> None:
    lied_about(
        lab,
        (
            *("twitter.com", "x.com", "abs.twimg.com", "www.facebook.com", "static.xx.fbcdn.net", "stun.fbsbx.com"),
            *("www.messenger.com", "www.instagram.com", "static.cdninstagram.com", "chat.signal.org"),
        ),
        ("www.youtube.com", "redirector.googlevideo.com", "web.whatsapp.com", "web.telegram.org", "notx.com"),
    )
    page = lab.run("client", "curl", "-sS", "--resolve", f"x.com:80:{LIE}", "http://x.com/").stdout
    assert "Access to this resource is restricted" in page
    assert lab.curl("x.com", address=LIE).exit_status == CURL_UNTRUSTED
    assert silent_quic(lab, "www.facebook.com", address=LIE)


@effect(Lie, "dns_silence")
def twitter_does_not_exist(lab: StandingLab) -> None:
    for name in ("x.com", "twitter.com", "abs.twimg.com"):
        assert lab.dig(ISP_RESOLVER, name) == ["NXDOMAIN"], name
        assert lab.dig(PUBLIC_RESOLVER, name) == [at(lab, name)], name
        assert lab.curl(name).code > 0


@effect(Lie, "dns_silence")
def nobody_answers_for_facebook(lab: StandingLab) -> None:
    listed = ("www.facebook.com", "static.xx.fbcdn.net", "stun.fbsbx.com")
    assert all_of(lambda name: not asked(lab, ISP_RESOLVER, name), listed)
    for name in listed:
        assert lab.dig(PUBLIC_RESOLVER, name) == [at(lab, name)], name
    assert lab.http3("www.facebook.com").status == 200
    for name in ("b-graph.facebook.com", "www.instagram.com", "web.whatsapp.com", "notx.com"):
        assert lab.dig(ISP_RESOLVER, name) == lab.dig(PUBLIC_RESOLVER, name), name


def lied_about(lab: StandingLab, lies: Sequence[str], truths: Sequence[str]) -> None:
    for name in lies:
        assert lab.dig(ISP_RESOLVER, name) == [LIE], name
        assert lab.dig(PUBLIC_RESOLVER, name) == [at(lab, name)], name
        assert lab.curl(name, "/", "-k").code > 0, name
    for name in truths:
        assert lab.dig(ISP_RESOLVER, name) == lab.dig(PUBLIC_RESOLVER, name) != [LIE], name


@effect(Reject, "in_jio")
def half_of_the_paths_reset(lab: StandingLab) -> None:
    for name in ("x.com", "abs.twimg.com", "www.instagram.com", "static.cdninstagram.com"):
        rejected(lab, name)
    for name in ("www.facebook.com", "www.youtube.com", "redirector.googlevideo.com", "web.whatsapp.com"):
        assert lab.curl(name).ok
    # The name is on the list, and this way has no censor on it.
    assert lab.curl("x.com", "/", "-k", address=at(lab, "www.facebook.com")).ok


@effect(Reject, "tm")
def every_path_resets(lab: StandingLab) -> None:
    for name in ("x.com", "static.xx.fbcdn.net", "www.youtube.com", "redirector.googlevideo.com"):
        rejected(lab, name)
    assert is_reset(lab, "x.com", address=CONTROL)
    for name in ("web.whatsapp.com", "chat.signal.org", "www.instagram.com"):
        assert lab.curl(name).ok


def rejected(lab: StandingLab, name: str) -> None:
    """The client is reset, and the ClientHello never arrives; the neutral name gets through."""
    with crossing(lab, "platforms", at(lab, name)) as seen:
        assert is_reset(lab, name), name
    assert seen.up
    assert not any(packet.segment.payload for packet in seen.up)
    assert neutral(lab, name)


@effect(DropServerHello, "ir_2025")
def the_server_says_nothing_to_listed_names(lab: StandingLab) -> None:
    """It has the ClientHello and confirms it; none of its data arrives."""
    for name in ("x.com", "www.facebook.com", "redirector.googlevideo.com"):
        with crossing(lab, "platforms", at(lab, name)) as seen:
            assert hangs(lab, name)
        sent = next(packet.segment for packet in seen.up if packet.segment.payload)
        assert name.encode() in sent.payload
        down = [packet.segment for packet in seen.down]
        assert sent.seq + len(sent.payload) in [one.ack for one in down]
        assert not any(one.payload for one in down)
        assert neutral(lab, name)
    for name in ("www.instagram.com", "web.whatsapp.com"):
        assert lab.curl(name).ok


@effect(InjectReset, "cn_henan")
def a_forged_reset_of_ten_bytes_to_the_client_alone(lab: StandingLab) -> None:
    for name in ("x.com", "www.facebook.com"):
        with crossing(lab, "platforms", at(lab, name)) as seen:
            assert is_reset(lab, name), name
        forged = [packet.segment for packet in seen.down if packet.segment.flags & RST]
        assert [(len(one.payload), one.ttl) for one in forged] == [(10, 58)]
        # The ClientHello goes on; what resets the server, if anything, is the client itself, without a payload's end.
        assert any(name.encode() in packet.segment.payload for packet in seen.up)
        assert all(packet.segment.ttl != 58 for packet in seen.up)
        # No residual.
        assert neutral(lab, name)
    for name in ("www.instagram.com", "web.whatsapp.com"):
        assert lab.curl(name).ok


@effect(InjectReset, "cn_gfw")
def resets_in_both_directions_and_a_while_after(lab: StandingLab) -> None:
    address = at(lab, "www.instagram.com")
    assert neutral(lab, "www.instagram.com")
    with crossing(lab, "platforms", address) as seen:
        assert is_reset(lab, "www.instagram.com")
    # The forged ones have the id 1.
    for packets in (seen.up, seen.down):
        assert [packet.segment.flags for packet in packets if packet.raw[4:6] == b"\0\1"] == [RST | ACK]
    # To this port, and whatever name: it connects, and its first data resets it.
    assert lab.connects("www.instagram.com")
    assert is_reset(lab, NEUTRAL_NAME, address=address)
    assert held(lab, CLIENT[0], address, 443) == rule(lab, InjectReset).residual_seconds == 90
    # Another port of this address, and other addresses; and who is on no list.
    with conversation(lab, 8443, "platforms", address) as (far, server):
        far.sendall(hello(NEUTRAL_NAME))
        assert got(server)
    assert neutral(lab, "www.youtube.com")
    assert lab.curl("web.whatsapp.com").ok


@effect(Intercept, "kz_mitm")
def some_names_end_at_the_states_authority(lab: StandingLab) -> None:
    for name in ("x.com", "abs.twimg.com", "www.facebook.com", "www.instagram.com"):
        assert "CN = Qaznet Trust Network" in issuer(lab, name, at(lab, name)), name
        assert lab.curl(name).exit_status == CURL_UNTRUSTED
        assert lab.curl(name, "/", "-k").code == 200
    for name, address in (
        (NEUTRAL_NAME, at(lab, "x.com")),
        ("www.messenger.com", at(lab, "www.facebook.com")),
        ("web.whatsapp.com", at(lab, "web.whatsapp.com")),
        ("x.com", at(lab, "web.whatsapp.com")),
    ):
        assert "trustme" in issuer(lab, name, address), name
    for name in ("web.whatsapp.com", "www.youtube.com", "www.messenger.com"):
        assert lab.curl(name).ok
    assert lab.http3("www.facebook.com").status == 200


@effect(InjectDns, "cn_gfw")
def two_forged_answers_before_the_true_one(lab: StandingLab) -> None:
    pool = set(rule(lab, InjectDns).answers)
    forged_answers(lab, 2, pool, ("www.youtube.com", "web.telegram.org", "stun.fbsbx.com"), ("web.whatsapp.com",))
    assert not any(connects(lab, address, 443) for address in sorted(pool))


@effect(InjectDns, "ir_2020")
def a_forged_private_address(lab: StandingLab) -> None:
    forged_answers(
        lab,
        1,
        {"10.10.34.36"},
        ("x.com", "www.messenger.com", "redirector.googlevideo.com"),
        ("www.instagram.com", "web.telegram.org"),
    )


@effect(InjectDns, "tm")
def a_forged_loopback(lab: StandingLab) -> None:
    forged_answers(lab, 1, {"127.0.0.1"}, ("x.com", "www.facebook.com"), ("web.whatsapp.com", "www.instagram.com"))


def forged_answers(lab: StandingLab, count: int, pool: set[str], forged: Sequence[str], true: Sequence[str]) -> None:
    """Whoever is asked, also nobody; the truth follows where there is somebody."""
    for resolver in (PUBLIC_RESOLVER, ISP_RESOLVER):
        for name, (*lies, truth) in answers_overheard(lab, resolver, *forged).items():
            assert len(lies) == count
            assert set(lies) <= pool
            assert truth == at(lab, name)
        assert set(lab.dig(resolver, forged[0])) <= pool
        assert answers_overheard(lab, resolver, *true) == {name: [at(lab, name)] for name in true}
    heard = answers_overheard(lab, NOBODY, forged[0], true[0])
    assert len(heard[forged[0]]) == count
    assert set(heard[forged[0]]) <= pool
    assert heard[true[0]] == []


@effect(InjectPage, "ir_2020")
def a_page_in_place_of_plain_http(lab: StandingLab) -> None:
    def fetch(name: str) -> str:
        where = f"{name}:80:{at(lab, 'www.plain.example')}"
        return lab.run("client", "curl", "-sSi", "--max-time", "3", "--resolve", where, f"http://{name}/").stdout

    blocked = fetch("www.plain.example")
    assert blocked.startswith("HTTP/1.1 403 Forbidden")
    assert '<iframe src="http://10.10.34.36/">' in blocked
    other = fetch("www.plain.org")
    assert other.startswith("HTTP/1.1 200")
    assert "10.10.34.36" not in other


@effect(DropQuicName, "cn_gfw")
def quic_by_name_and_then_by_address_and_port(lab: StandingLab) -> None:
    facebook, youtube = at(lab, "www.facebook.com"), at(lab, "www.youtube.com")
    # From a port below the server's nobody looks, nor at another name.
    assert lab.http3("www.facebook.com", source_port=400).status == 200
    assert lab.http3(NEUTRAL_NAME, address=facebook, verify=False).status == 200
    assert silent_quic(lab, "www.facebook.com")
    assert silent_quic(lab, NEUTRAL_NAME, address=facebook)
    assert held(lab, CLIENT[0], facebook, 443) == rule(lab, DropQuicName).residual_seconds == 180
    assert lab.http3(NEUTRAL_NAME, address=youtube, verify=False).status == 200
    # TCP to the same address and port is not meant.
    assert neutral(lab, "www.facebook.com")


@effect(DropQuicName, "ru_2024_youtube")
def quic_by_name_and_this_flow_alone(lab: StandingLab) -> None:
    youtube = at(lab, "www.youtube.com")
    for name, port in (("www.youtube.com", 51000), ("redirector.googlevideo.com", 51001)):
        assert silent_quic(lab, name, source_port=port)
        assert held(lab, CLIENT[0], port, youtube, 443) == rule(lab, DropQuicName).residual_seconds == 420
        # The same flow, whatever it shows now; and another one.
        assert silent_quic(lab, NEUTRAL_NAME, address=youtube, source_port=port)
        assert lab.http3(NEUTRAL_NAME, address=youtube, verify=False).status == 200
    assert lab.http3("www.facebook.com").status == 200


# ── addresses and protocols ──────────────────────────────────────────────────────────────────────────────────────────


@effect(Unroute, "cn_gfw", "ir_2020", *RUSSIA)
def telegram_is_unrouted(lab: StandingLab) -> None:
    telegram = lab.lab.web.addresses["telegram"]
    assert len(telegram) == 5
    assert unreachable(lab, telegram)
    with Datagrams(lab, 5555, "platforms", telegram[0]) as flow:
        assert flow.up(b"x") == flow.down(b"x") == 0
    assert lab.connects("e1.whatsapp.net", 5222)


@effect(Unroute, "tm")
def networks_of_servers_are_unrouted(lab: StandingLab) -> None:
    for host, passes in (("wg-a", False), ("awg", False), ("ovpn", False), ("wg-b", True), ("proxy", True)):
        with Datagrams(lab, 5555, host, SERVERS[host]) as flow:
            assert (flow.up(b"x"), flow.down(b"x")) == (passes, passes)
    assert BEGUN not in openvpn(lab, "openvpn-udp", BEGUN, 1)
    assert connects(lab, SERVERS["proxy"], 8388)


@effect(DropQuic, *RUSSIA)
def quic_is_dropped_from_a_size_on(lab: StandingLab) -> None:
    least = rule(lab, DropQuic).least_payload
    assert least == 1001
    for name in ("www.facebook.com", "www.instagram.com", "www.youtube.com"):
        assert silent_quic(lab, name)
    assert silent_quic(lab, NEUTRAL_NAME, address=at(lab, "www.youtube.com"))

    def initial(version: int, size: int) -> bytes:
        return b"\xc3" + version.to_bytes(4) + bytes(size - 5)

    with Datagrams(lab, 443) as flow:
        assert flow.up(initial(1, least)) == 0
        assert flow.up(initial(1, least - 1), initial(2, 1200)) == 2
    with Datagrams(lab, 8443) as flow:
        assert flow.up(initial(1, 1200)) == 1


@effect(DropUdp, "ir_2025")
def udp_is_dropped_but_for_names(lab: StandingLab) -> None:
    for host, address in SERVERS.items():
        with Datagrams(lab, 5555, host, address) as flow:
            assert flow.up(INITIATION) == 0, host
    assert silent_quic(lab, "www.facebook.com")
    assert silent_quic(lab, NEUTRAL_NAME, address=at(lab, "www.youtube.com"))
    assert BEGUN not in openvpn(lab, "openvpn-udp", BEGUN, 1)
    assert DONE in openvpn(lab, "openvpn-tcp", DONE, 10)
    for resolver in (ISP_RESOLVER, PUBLIC_RESOLVER):
        assert lab.dig(resolver, "x.com") == [at(lab, "x.com")]


@effect(FilterProtocols, "ir_2020")
def only_known_protocols_on_their_ports(lab: StandingLab) -> None:
    query = b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01"
    known = {53: query, 80: b"GET / HTTP/1.1\r\n\r\n", 443: hello(NEUTRAL_NAME)}
    assert set(known) == set(rule(lab, FilterProtocols).ports)
    for port, first, goes_on in (
        *((port, data, True) for port, data in known.items()),
        *((port, b"SSH-2.0-x\r\n", False) for port in known),
        (5555, b"SSH-2.0-x\r\n", True),
    ):
        with conversation(lab, port, "wg-b", SERVERS["wg-b"]) as (far, server):
            far.sendall(first)
            assert got(server, len(first)) == first
            far.sendall(b"more")
            assert (got(server) == b"more") is goes_on, (port, first)
            if not goes_on:
                assert held(lab, *far.getsockname(), SERVERS["wg-b"], port) == rule(lab, FilterProtocols).seconds == 60
    # The first packet passes and is answered.
    said = openvpn(lab, "openvpn-tcp", DONE, 2)
    assert BEGUN in said
    assert DONE not in said
    assert DONE in openvpn(lab, "openvpn-udp", DONE, 10)


# ── VPN protocols ────────────────────────────────────────────────────────────────────────────────────────────────────


@effect(RefuseWireGuard, "wg_block")
def wireguards_initiation_is_dropped_wherever_it_goes(lab: StandingLab) -> None:
    for host, address in SERVERS.items():
        with Datagrams(lab, 5555, host, address) as flow:
            assert flow.up(bytes(50), INITIATION) == 1, host
            assert flow.up(b"\x99" + INITIATION[1:], INITIATION + b"\0", INITIATION[:-1], WG_DATA) == 4, host
            assert flow.down(RESPONSE) == 1, host
    assert DONE in openvpn(lab, "openvpn-udp", DONE, 10)
    assert lab.http3("www.youtube.com").status == 200


@effect(RefuseWireGuard, "ru_2023_08_vpn")
def one_servers_initiations_are_dropped(lab: StandingLab) -> None:
    for host, passes in (("wg-a", 1), ("wg-b", 0), ("awg", 1)):
        with Datagrams(lab, 5555, host, SERVERS[host]) as flow:
            assert flow.up(INITIATION) == passes, host
            assert flow.up(b"\x99" + INITIATION[1:]) == 1


@effect(CutWireGuard, "ru_2023_08_vpn")
def wireguard_is_cut_after_two_data_packets(lab: StandingLab) -> None:
    assert rule(lab, CutWireGuard).data_packets == 2
    for host in ("wg-a", "awg"):
        with Datagrams(lab, 5555, host, SERVERS[host]) as flow:
            assert flow.up(bytes(50), INITIATION) == 2
            assert flow.down(RESPONSE) == 1
            assert (flow.up(*[WG_DATA] * 6), flow.down(*[WG_DATA] * 6)) == (2, 2), host
    # With types of its own.
    with Datagrams(lab, 5556, "awg", SERVERS["awg"]) as flow:
        assert flow.up(b"\x99" + INITIATION[1:] + bytes(68)) == 1
        assert flow.up(*[b"\x98" + WG_DATA[1:]] * 40) == 40


@effect(CutOpenVpn, "ru_2023_08_vpn")
def openvpn_is_cut_after_fifteen_data_packets(lab: StandingLab) -> None:
    """The handshakes of real clients pass, over both; then they are counted."""
    assert rule(lab, CutOpenVpn).data_packets == 15
    assert all_of(lambda tunnel: DONE in openvpn(lab, tunnel, DONE, 10), OPENVPN)
    with Datagrams(lab, 5555, "ovpn", SERVERS["ovpn"]) as flow:
        assert flow.up(OPENING, *[OVPN_CONTROL] * 5) == 6
        assert flow.down(OPENED, *[OVPN_CONTROL] * 5) == 6
        assert (flow.up(*[OVPN_DATA] * 30), flow.down(*[OVPN_DATA] * 30)) == (15, 15)
    for opening, limit in ((OPENING, 15), (b"\x16" + OPENING[1:], 30)):
        with conversation(lab, 5555, "ovpn", SERVERS["ovpn"]) as (far, server):
            far.sendall(framed(opening))
            assert got(server)
            server.sendall(framed(OPENED))
            assert got(far)
            arrived = 0
            while arrived < 30:
                far.sendall(framed(OVPN_DATA))
                if not got(server):
                    break
                arrived += 1
            assert arrived == limit


@effect(RefuseOpenVpn, "ovpn_block")
def openvpns_opening_is_dropped(lab: StandingLab) -> None:
    assert all_of(lambda tunnel: BEGUN not in openvpn(lab, tunnel, BEGUN, 1.5), OPENVPN)
    assert connects(lab, SERVERS["ovpn"], 443)
    with Datagrams(lab, 5555) as flow:
        assert flow.up(INITIATION, *[WG_DATA] * 20, b"\x39" + OPENING[1:]) == 22
    assert lab.http3("www.youtube.com").status == 200
    assert lab.curl("www.youtube.com").ok


@effect(DropEncrypted, "cn_gfw")
def noise_is_dropped_by_chance_and_for_a_while(lab: StandingLab) -> None:
    stated = rule(lab, DropEncrypted)
    tries, address, hit, missed = 400, SERVERS["proxy"], set[int](), set[int]()
    # Each at a port of its own, for a hit ends what goes to its port.
    for start in range(20000, 20000 + tries, 100):
        with contextlib.ExitStack() as open_ends:
            ends = {
                port: open_ends.enter_context(conversation(lab, port, "proxy", address))
                for port in range(start, start + 100)
            }
            for far, _ in ends.values():
                far.sendall(NOISE)
            time.sleep(SOON)
            for port, (_, server) in ends.items():
                server.setblocking(False)
                try:
                    assert server.recv(4096) == NOISE
                    missed.add(port)
                except BlockingIOError:
                    hit.add(port)
    chance = stated.percent / 100
    assert chance == pytest.approx(0.263)
    # 5 standard deviations: 1 run in 1.7 million is beyond.
    assert abs(len(hit) - tries * chance) < 5 * math.sqrt(tries * chance * (1 - chance))
    assert held(lab, CLIENT[0], address, min(hit)) == stated.residual_seconds == 180
    with lab.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.settimeout(SOON)
        # Nobody listens there any more: refused, if it got through.
        with pytest.raises(TimeoutError):
            asking.connect((address, min(hit)))
    with conversation(lab, min(missed), "proxy", address):
        pass
    # What begins with a TLS record or with text passes, and so does noise to others.
    for opening in [hello(NEUTRAL_NAME), b"SSH-2.0-" + NOISE] * 8:
        with conversation(lab, 21000, "proxy", address) as (far, server):
            far.sendall(opening)
            assert got(server)
    for _ in range(16):
        with conversation(lab, 21000) as (far, server):
            far.sendall(NOISE)
            assert got(server)


@effect(Freeze, "ru_2025_freeze")
def flows_with_foreign_hosts_freeze(lab: StandingLab) -> None:
    assert rule(lab, Freeze).packets == 25
    with crossing(lab, "platforms", at(lab, "abs.twimg.com")) as seen:
        fetched = lab.curl("abs.twimg.com", "/sticky/illustrations/lohp_1302x955.png", seconds=1)
    assert fetched.exit_status == CURL_TIMEOUT
    assert fetched.spoke_tls
    assert seen.count == 25
    with conversation(lab, 8443, "platforms", at(lab, "chat.signal.org")) as (far, server):
        far.sendall(hello(NEUTRAL_NAME))
        assert got(server)
        server.sendall(bytes(60_000))
        assert 0 < len(got(far, 60_000) or b"") < 60_000

    def freezes(host: str) -> bool:
        with Datagrams(lab, 5555, host, SERVERS[host]) as flow:
            first = sum(flow.up(b"x") + flow.down(b"x") for _ in range(10))
            return (first, flow.up(*[b"x"] * 9) + flow.down(b"x")) == (20, 5)

    assert all_of(freezes, SERVERS)
    # Neither who is not hosted there, nor the name that is exempt.
    assert lab.curl("www.facebook.com").size > 100_000
    assert lab.curl(CONTROL_NAME, "/1m").size == 1 << 20
    for name, whole in ((COVER_NAME, True), ("cover.org", False)):
        with conversation(lab, 9443, "proxy", SERVERS["proxy"]) as (far, server):
            far.sendall(hello(name))
            assert got(server)
            server.sendall(bytes(60_000))
            assert (len(got(far, 60_000) or b"") == 60_000) is whole, name


@effect(Freeze, "freeze_bytes")
def connections_freeze_after_so_many_bytes_of_the_server(lab: StandingLab) -> None:
    most = rule(lab, Freeze).bytes
    assert most is not None
    assert 14_000 < most < 34_000  # published
    with crossing(lab, "platforms", at(lab, "abs.twimg.com")) as seen:
        fetched = lab.curl("abs.twimg.com", "/sticky/illustrations/lohp_1302x955.png", seconds=1)
    assert fetched.exit_status == CURL_TIMEOUT
    assert fetched.spoke_tls
    # Headers counted, and the next full packet would not fit.
    assert most - 1500 < sum(packet.length for packet in seen.down) <= most
    # What is short passes, in however many packets; and so does UDP, and who is not hosted there.
    assert lab.curl("chat.signal.org", "/", "-k").code > 0
    for host, address in SERVERS.items():
        with Datagrams(lab, 5555, host, address) as flow:
            assert flow.down(*[bytes(1000)] * 40) == 40, host
    for host, name, whole in (
        *((host, "cover.org", False) for host in SERVERS),
        ("proxy", COVER_NAME, True),
    ):
        with conversation(lab, 9443, host, SERVERS[host]) as (far, server):
            far.sendall(hello(name))
            assert got(server)
            server.sendall(bytes(60_000))
            assert (len(got(far, 60_000) or b"") == 60_000) is whole, (host, name)
    assert lab.curl("www.facebook.com").size > 100_000
    assert lab.curl(CONTROL_NAME, "/1m").size == 1 << 20


@effect("exit", "exit_inside")
def what_comes_out_of_one_exit_meets_a_censor(lab: StandingLab) -> None:
    """Forwarded, as it comes out of a tunnel: by a detour of the domestic host over that exit."""
    server = SERVERS["wg-b"]
    assert set(lab.lab.profile.exits) == {"wg-b"}
    detour = {CONTROL, *lab.lab.web.names.values(), *lab.lab.web.addresses["telegram"]}
    lab.lab.network.sysctl("wg-b", {f"net/ipv4/conf/{on}/send_redirects": "0" for on in ("all", "eth0")})
    lab.lab.network.ip("home", *(f"route add {address} via {server}" for address in sorted(detour)))
    for name in ("www.facebook.com", "static.xx.fbcdn.net", "www.youtube.com", "redirector.googlevideo.com"):
        assert is_reset(lab, name, host="home"), name
    cut = ("www.instagram.com", "www.messenger.com", "b-graph.facebook.com")
    assert all_of(lambda name: hangs(lab, name, host="home"), cut)
    telegram = lab.lab.web.addresses["telegram"]
    assert all_of(lambda one: not any(connects(lab, one, port, host="home") for port in (80, 443)), telegram)
    for name in ("www.facebook.com", "www.instagram.com", "www.messenger.com"):
        assert lab.curl(NEUTRAL_NAME, "/", "-k", host="home", address=at(lab, name)).ok
    for name in ("web.whatsapp.com", "chat.signal.org"):
        assert lab.curl(name, "/", "-k", host="home").code > 0
    police = next(one for one in lab.lab.profile.exits["wg-b"] if isinstance(one, Police))
    stated = police.kbytes_per_second * 1024
    assert rates(lab, "abs.twimg.com", host="home", shown=server)["abs.twimg.com"] == (near(stated), near(stated))
    assert lab.curl(NEUTRAL_NAME, "/1m", "-k", address=CONTROL, host="home").size == 1 << 20
    # The server itself, and the other exits.
    for host in SERVERS:
        for name in ("www.facebook.com", "www.instagram.com", "web.telegram.org", "www.youtube.com"):
            assert lab.curl(name, host=host).ok, (host, name)


@effect(Whitelist, "ru_2025_mobile_whitelist")
def only_listed_addresses_answer(lab: StandingLab) -> None:
    others = ("x.com", "www.facebook.com", "web.telegram.org", "www.youtube.com", "www.refuser.example")
    assert all_of(lab.connects, others)
    assert all_of(lambda name: hangs(lab, name), others)
    assert all_of(lambda name: hangs(lab, HOME_NAME, address=at(lab, name)), others)
    assert silent_quic(lab, "www.facebook.com")
    assert not asked(lab, PUBLIC_RESOLVER, "x.com")
    assert not echoed(lab, CONTROL)
    assert all_of(lambda tunnel: BEGUN not in openvpn(lab, tunnel, BEGUN, 1), OPENVPN)
    # The second address of a server whose first one is not listed; and any name.
    assert hangs(lab, vpn.TROJAN_NAME, address=SERVERS["proxy"])
    assert lab.curl(vpn.TROJAN_NAME, address=TROJAN).spoke_tls
    assert lab.curl(HOME_NAME, "/64k").size == 65536
    assert lab.curl("x.com", "/64k", "-k", address=HOME).size == 65536
    assert lab.dig(ISP_RESOLVER, "x.com") == [at(lab, "x.com")]
    assert echoed(lab, HOME)


def echoed(lab: StandingLab, address: str) -> bool:
    """Whether a ping comes back."""
    request = struct.pack("!BBHHH", 8, 0, 0xF7FF - 0x1234, 0x1234, 0)
    with lab.lab.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as asking:
        asking.settimeout(SOON)
        asking.sendto(request, (address, 0))
        try:
            reply, (sender, _) = asking.recvfrom(2048)
        except TimeoutError:
            return False
    return sender == address and reply[20] == 0


@effect(FreezeCrowd, "ru_2026_siberian")
def the_thirteenth_of_chromes_handshakes_is_silent(lab: StandingLab) -> None:
    stated = rule(lab, FreezeCrowd)
    assert (stated.connections, stated.seconds) == (12, 60)
    # Other shapes do not count.
    for _ in range(14):
        assert lab.curl(vpn.TROJAN_NAME, address=TROJAN).spoke_tls
    assert [chrome(lab, vpn.TROJAN_NAME, TROJAN) for _ in range(14)] == [True] * 12 + [False] * 2
    assert lab.curl(vpn.TROJAN_NAME, address=TROJAN).spoke_tls
    for _ in range(14):
        assert chrome(lab, "www.facebook.com", at(lab, "www.facebook.com"))


# ── lines and worlds without a censor ────────────────────────────────────────────────────────────────────────────────


@effect(Line, "captive")
def a_portal_is_all_there_is(lab: StandingLab) -> None:
    for resolver in (ISP_RESOLVER, PUBLIC_RESOLVER, NOBODY):
        assert lab.dig(resolver, "x.com") == lab.dig(resolver, "no-such-name.example") == [PORTAL]
    for address in (PORTAL, CONTROL, HOME, at(lab, "x.com")):
        sent = lab.run("client", "curl", "-sS", "-o", "/dev/null", "-w", "%{redirect_url}", f"http://{address}/")
        assert sent.stdout == f"http://{PORTAL_NAME}/"
        assert lab.curl("x.com", address=address).exit_status == CURL_UNTRUSTED
    assert not lab.connects("e1.whatsapp.net", 5222)
    with Datagrams(lab, 5555) as flow:
        assert flow.up(b"x") == 0
    assert not echoed(lab, HOME)
    # The line is at fault: the world goes on.
    assert lab.curl("x.com", host="home").code == 200
    assert lab.dig(PUBLIC_RESOLVER, "x.com", host="home") == [at(lab, "x.com")]


@effect(Line, "flaky")
def some_packets_are_lost_whoever_is_talked_to(lab: StandingLab) -> None:
    chance = lab.lab.profile.line.loss_percent / 100
    assert chance == pytest.approx(0.03)
    sent = 2500
    # Slow enough that a busy machine's receivers lose none: their buffers hold some 250.
    options = ("-u", "-b", "800K", "-l", "100", "-k", str(sent))
    hosts = (("public", WITNESS), ("proxy", SERVERS["proxy"]))
    with ThreadPoolExecutor(4) as threads:
        up, down = (
            [threads.submit(iperf3, lab, host, address, *options, *way) for host, address in hosts]
            for way in ((), ("-R",))
        )
    for way in (up, down):
        heard = [end.result()["sum"] for end in way]
        packets, lost = (sum(one[key] for one in heard) for key in ("packets", "lost_packets"))
        assert packets > 0.9 * sent * len(hosts)
        # 5 standard deviations: 1 run in 1.7 million is beyond.
        assert abs(lost - packets * chance) < 5 * math.sqrt(packets * chance * (1 - chance))
        assert all(one["lost_packets"] for one in heard)
    # Among the provider's own hosts nothing is lost.
    with (
        lab.lab.network["home"].socket(socket.AF_INET, socket.SOCK_DGRAM) as asking,
        lab.lab.network["public"].socket(socket.AF_INET, socket.SOCK_DGRAM) as heard_there,
    ):
        heard_there.bind((WITNESS, 5555))
        heard_there.settimeout(SOON)
        for _ in range(300):
            asking.sendto(b"x", (WITNESS, 5555))
            assert heard_there.recv(9) == b"x"


IP_MTU_DISCOVER, PROBE, DONT = 10, 3, 0
"""linux/in.h: `IP_PMTUDISC_PROBE` sets DF and heeds no path MTU, `IP_PMTUDISC_DONT` leaves DF out."""


@effect(Line, "lowmtu")
def long_packets_are_cut_up_or_answered(lab: StandingLab) -> None:
    most = lab.lab.profile.line.mtu
    assert most == 1280
    payload = most - 28
    with overhearing(lab, "client", "icmp") as said, Datagrams(lab, 5555) as flow:
        flow.far.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PROBE)
        assert flow.up(bytes(payload)) == 1
        assert flow.up(bytes(payload + 1)) == 0
    # Type 3, code 4, and the next hop's MTU (RFC 1191).
    assert [packet.raw[20:22] + packet.raw[26:28] for packet in said] == [b"\3\4" + most.to_bytes(2)]
    with overhearing(lab, "public", f"src host {CLIENT[0]}") as heard, Datagrams(lab, 5555) as flow:
        flow.far.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, DONT)
        assert flow.up(bytes(payload + 1), bytes(1472)) == 2
    assert len(heard) == 4
    assert max(packet.length for packet in heard) <= most
    # The other direction: servers are told as well, and send shorter ones.
    with (
        overhearing(lab, "control", "icmp") as told,
        overhearing(lab, "client", f"src host {CONTROL}") as heard,
    ):
        assert lab.curl(CONTROL_NAME, "/64k").size == 65536
    assert {packet.raw[26:28] for packet in told} == {most.to_bytes(2)}
    assert max(packet.length for packet in heard) == most
    assert lab.curl("www.facebook.com").ok


@effect(Line, "blackhole")
def long_packets_are_lost_without_a_word(lab: StandingLab) -> None:
    most = lab.lab.profile.line.mtu
    assert most == 1400
    payload = most - 28
    with (
        overhearing(lab, "client", "icmp") as ours,
        overhearing(lab, "public", "icmp", after=0) as theirs,
        Datagrams(lab, 5555) as flow,
    ):
        for mode in (PROBE, DONT):
            for end, sends in ((flow.far, flow.up), (flow.near, flow.down)):
                end.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, mode)
                assert sends(bytes(payload + 1), bytes(1472)) == 0, mode
                assert sends(bytes(payload)) == 1, mode
    assert ours == theirs == []
    # TCP is told what fits, in both directions.
    with crossing(lab, "control", CONTROL) as seen:
        body = lab.lab.directory / "body"
        body.write_bytes(bytes(65536))
        assert lab.curl(CONTROL_NAME, "/64k").size == 65536
        assert lab.curl(CONTROL_NAME, "/upload", "--data-binary", f"@{body}").code == 200
    for packets in (seen.up, seen.down):
        assert most - 40 < max(packet.length for packet in packets) <= most
    assert lab.http3("www.facebook.com").status == 200


@effect(Line, "slow_line")
def everything_is_as_slow(lab: StandingLab) -> None:
    stated = (lab.lab.profile.line.kbit_per_second or 0) * 1000
    assert stated == 1_000_000

    def goodput(*way: str) -> float:
        end = iperf3(lab, "public", WITNESS, "-u", "-b", "2M", "-l", "1400", "-t", "3", *way)
        return float(end["sum_received"]["bits_per_second"])

    with ThreadPoolExecutor(2) as threads:
        up, down = threads.submit(goodput), threads.submit(goodput, "-R")
    # Less the headers, 3 %; and more what the bucket held at the beginning, 4 % in 3 seconds.
    assert (up.result(), down.result()) == (near(stated), near(stated))
    # Slow and whole, whatever the name.
    for name in ("x.com", "www.facebook.com", CONTROL_NAME):
        assert lab.curl(name, "/").code > 0
    assert lab.curl(HOME_NAME, "/64k").size == 65536


EXITS = ("wg-a", "ovpn", "proxy")


@effect(World, "outage")
def two_platforms_are_down_for_everybody(lab: StandingLab) -> None:
    for host in ("client", *EXITS):
        for name in ("x.com", "abs.twimg.com"):
            assert lab.curl(name, host=host).exit_status == CURL_REFUSED
        assert lab.curl("www.facebook.com", host=host, seconds=0.5).exit_status == CURL_TIMEOUT
        for name in ("www.youtube.com", "chat.signal.org", "www.messenger.com"):
            assert lab.curl(name, host=host).ok
    assert silent_quic(lab, "www.facebook.com")
    assert lab.http3("www.youtube.com").status == 200
    assert lab.run("censor", "nft", "list", "ruleset").stdout == ""


@effect(World, "platform_blocks_vpn")
def exits_are_turned_away(lab: StandingLab) -> None:
    for host in (one.name for one in vpn.HOSTS):
        for name in ("x.com", "twitter.com", "www.youtube.com", "www.refuser.example"):
            fetched = lab.curl(name, host=host)
            assert (fetched.exit_status, fetched.code) == (0, 403), (host, name)
        assert lab.curl("www.facebook.com", host=host).code == 200
    for name, marked in (("x.com", False), ("www.youtube.com", True)):
        asked = ("curl", "-sSi", "--cacert", "ca.pem", "--resolve", f"{name}:443:{at(lab, name)}", f"https://{name}/")
        assert ("cf-mitigated: challenge" in lab.run("wg-a", *asked).stdout) is marked
    for name in ("x.com", "www.youtube.com", "www.facebook.com", "www.refuser.example"):
        assert lab.curl(name).code == 200
    assert lab.run("censor", "nft", "list", "ruleset").stdout == ""


@effect(World, "geoblock")
def the_line_is_turned_away(lab: StandingLab) -> None:
    for name in ("www.facebook.com", "www.bright.com.example", "www.refuser.example"):
        fetched = lab.curl(name)
        assert (fetched.exit_status, fetched.code) == (0, 403), name
    assert lab.http3("www.facebook.com").status == 403
    for host in SERVERS:
        for name in ("www.facebook.com", "www.bright.com.example"):
            assert lab.curl(name, host=host).code == 200, (host, name)
        assert lab.curl("www.refuser.example", host=host).code == 403
    assert lab.http3("www.facebook.com", host="wg-a").status == 200
    for name in ("x.com", "www.youtube.com", "web.whatsapp.com"):
        assert lab.curl(name).code == 200, name
    assert lab.run("censor", "nft", "list", "ruleset").stdout == ""


@effect(World, "wrong_clock")
def no_certificate_is_valid_yet(lab: StandingLab) -> None:
    days = lab.lab.profile.world.clock_days
    assert days == 400

    def verified(name: str, address: str, after: int) -> str:
        then = str(int(time.time()) + after * 86400)
        command = ("openssl", "s_client", "-CAfile", "ca.pem", "-attime", then, "-servername", name)
        said = lab.run("client", *command, "-connect", f"{address}:443", check=False).stdout
        return next(iter(re.findall(r"Verify return code: (\d+)", said)), said)

    for name, address in ((CONTROL_NAME, CONTROL), (HOME_NAME, HOME), ("x.com", at(lab, "x.com"))):
        assert lab.curl(name, "/", address=address).exit_status == CURL_UNTRUSTED
        # 9: not yet valid (openssl-verification-options).
        assert [verified(name, address, after) for after in (0, days - 1, days + 1)] == ["9", "9", "0"], name
    # What has no certificate is as ever.
    assert lab.dig(PUBLIC_RESOLVER, "x.com") == [at(lab, "x.com")]
    assert lab.run("client", "curl", "-sS", f"http://{CONTROL}/ip").stdout == CLIENT[0]


# ── OONI's scenarios ─────────────────────────────────────────────────────────────────────────────────────────────────


def fetched(lab: StandingLab, name: str, address: str | None = None, host: str = "client") -> str:
    """The answer to a request in plain HTTP, with its head; empty where there is none."""
    where = f"{name}:80:{address or at(lab, name)}"
    command = ("curl", "-sSi", "--max-time", "3", "--resolve", where, f"http://{name}/")
    return lab.run(host, *command, check=False).stdout


@effect(Lie, "ooni")
def some_names_have_the_block_pages_address(lab: StandingLab) -> None:
    for name in ("www.unknown-authority.example", "www.itsat.example", "secure.itsat.example", "www.plain.example"):
        assert lab.dig(ISP_RESOLVER, name) == [LIE], name
        truth = ["NXDOMAIN"] if "itsat" in name else [at(lab, name)]
        assert lab.dig(PUBLIC_RESOLVER, name) == truth, name
    page, true = fetched(lab, "www.plain.example", LIE), fetched(lab, "www.plain.example")
    assert page.startswith("HTTP/1.1 200")
    assert "Access to this resource is restricted" in page
    assert len(true) > 4 * len(page)


def lies_of_one_address(name: str, address: str) -> None:
    @effect(Lie, "ooni")
    def check(lab: StandingLab) -> None:
        assert lab.dig(ISP_RESOLVER, name) == [address]
        assert lab.dig(PUBLIC_RESOLVER, name) == [at(lab, name)]


lies_of_one_address("www.bogon.example", "10.10.34.35")
lies_of_one_address("www.nxdomain.example", "NXDOMAIN")
lies_of_one_address("www.to-localhost.example", "127.0.0.1")
lies_of_one_address("www.to-proxy.example", "198.18.53.101")
lies_of_one_address("secure.to-proxy.example", "198.18.53.102")
lies_of_one_address("www.http-diff-too.example", "198.18.53.103")
lies_of_one_address("www.tls-reset-too.example", "198.18.53.104")
lies_of_one_address("www.tcp-refused.example", ISP_RESOLVER)


@effect(InjectReset, "ooni")
def a_reset_by_name_in_tls_and_in_a_request(lab: StandingLab) -> None:
    for name, address in (("www.tls-reset.example", None), ("www.tls-reset-too.example", "198.18.53.104")):
        assert is_reset(lab, name, address=address or at(lab, name))
        assert neutral(lab, name)
    assert lab.curl(NEUTRAL_NAME, "/", "-k", address="198.18.53.104").ok
    assert fetched(lab, "www.http-reset.example") == ""
    assert fetched(lab, NEUTRAL_NAME, at(lab, "www.http-reset.example")).startswith("HTTP/1.1 200")


@effect(InjectPage, "ooni")
def a_page_with_the_status_of_the_true_one(lab: StandingLab) -> None:
    for name, address in (("www.http-diff.example", None), ("www.http-diff-too.example", "198.18.53.103")):
        true = fetched(lab, name, host="public")
        for where in (address, None):
            page = fetched(lab, name, where)
            assert page.startswith("HTTP/1.1 200"), name
            assert "<title>Access Denied</title>" in page
            assert len(true) > 4 * len(page)
        # Neither the proxy nor the server does it.
        assert (
            fetched(lab, NEUTRAL_NAME, address or at(lab, name)).partition("\r\n\r\n")[2]
            == (true.partition("\r\n\r\n")[2])
        )


@effect(Unroute, "ooni")
def one_site_is_unrouted(lab: StandingLab) -> None:
    assert unreachable(lab, lab.lab.web.addresses["tcp-blocking-connect-timeout"])
    assert lab.curl("secure.success.example").ok


@effect(Police, "ooni")
def one_site_is_policed(lab: StandingLab) -> None:
    policed(lab, ("www.throttling.example",), ("secure.largefile.example",))


@effect(World, "ooni")
def sites_that_are_wrong_for_everybody(lab: StandingLab) -> None:
    def fault(name: str) -> str:
        command = ("openssl", "s_client", "-CAfile", "ca.pem", "-verify_hostname", name, "-servername", name)
        said = lab.run("public", *command, "-connect", f"{at(lab, name)}:443", check=False).stdout
        return next(iter(re.findall(r"Verify return code: (\d+)", said)), said)

    # Expired, another name, an issuer that is not known (openssl-verification-options).
    badssl = ("expired", "wrong-host", "untrusted-root")
    assert [fault(f"{kind}.badssl.example") for kind in badssl] == ["10", "62", "20"]
    assert fault("secure.success.example") == "0"
    for resolver in (ISP_RESOLVER, PUBLIC_RESOLVER):
        assert lab.dig(resolver, "www.down-nxdomain.example") == ["NXDOMAIN"]
        assert lab.dig(resolver, "www.down-no-addrs.example") == ["NOERROR"]
        assert lab.dig(resolver, "secure.localhost.example") == ["127.0.0.1"]
    assert not lab.connects("www.down-connect.example", 444)
    for name, address in (("www.to-proxy.example", "198.18.53.101"), ("www.success.example", None)):
        assert fetched(lab, name, address).startswith("HTTP/1.1 200"), name
    assert lab.curl("secure.to-proxy.example", address="198.18.53.102").ok
    # Of whole words.
    assert 262140 < lab.curl("secure.largefile.example").size <= 262144
    for visitor, code in (("client", 403), ("public", 200)):
        assert lab.curl("secure.cloudflare-cache.example", host=visitor).code == code
        page = fetched(lab, "www.cloudflare-cache.example", host=visitor)
        assert ("cf-mitigated: challenge" in page) == (code == 403)


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("profile", names())
def test_every_rule_of_every_profile_has_its_check(profile: str) -> None:
    found = load(profile)
    stated: list[Stated] = [type(one) for one in found.rules]
    stated += [Line] * (found.line != Line()) + [World] * (found.world != World())
    stated += ["exit"] * len(found.exits)
    if profile in SAME:
        assert found.rules == load(SAME[profile]).rules
        stated = stated[len(found.rules) :]
    checked = Counter(kind for name, kind, _ in CHECKS if name == profile)
    assert checked == Counter(stated or [None])


def test_only_profiles_that_there_are_have_checks() -> None:
    assert {name for name, _, _ in CHECKS} <= set(names())


@pytest.mark.root
@pytest.mark.parametrize("profile", names())
def test_a_profile_as_it_is_has_its_effects(profile: str) -> None:
    """All on one lab: no check may lean on what another leaves behind, nor be misled by it."""
    with standing(load(profile)) as lab:
        for name, _, check in CHECKS:
            if name == profile:
                check(lab)
