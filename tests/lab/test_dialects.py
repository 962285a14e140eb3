"""Each dialect has a tunnel in the lab that comes up from what is written in it, and carries data to a real server."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
import zlib
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest
from standing_lab import StandingLab, standing

from vpntest.lab import dialects, tor, vpn
from vpntest.lab.internet import CONTROL, CONTROL_NAME, PUBLIC_RESOLVER, WHOAMI_NAME
from vpntest.lab.network import program
from vpntest.lab.profiles import FURTHER_TUNNELS, TOR, load
from vpntest.plan.model import Plan, ProxyConfig, TunnelSpec
from vpntest.plan.read import read_plan
from vpntest.plan.secret import Secret
from vpntest.tunnel.carriers import find
from vpntest.tunnel.raising import Tunnel, outside, raise_tunnel

DIALECTS = load("dialects")
EXITS = {name: dialects.ADDRESS for name in FURTHER_TUNNELS} | {
    **dict.fromkeys(("openvpn-zip", "command-device"), next(h for h in vpn.HOSTS if h.name == "ovpn").addresses[0]),
    TOR: tor.EXIT,
}
QUICK = tuple(name for name in FURTHER_TUNNELS if name != TOR)
"""Tor's own network takes longer than all of the others; it is raised by `lab verify`, and by tests of its own."""
WITHOUT_UDP = {
    *("ss-obfs-http", "ss-obfs-tls", "ss-v2ray", "ss-v2ray-tls", "socks5", "http-proxy", "https-proxy", "ssh", TOR),
}
NAKED = {"vless-plain", "socks5", "http-proxy"}
"""Whoever is on the way reads what passes."""


@pytest.fixture(scope="module")
def lab() -> Iterator[StandingLab]:
    with standing(msgspec.structs.replace(DIALECTS, tunnels=QUICK)) as here:
        yield here


@pytest.fixture(scope="module")
def plan(lab: StandingLab) -> Plan:
    return read_plan([lab.lab.plan])


def of(plan: Plan, name: str) -> TunnelSpec:
    return next(tunnel for tunnel in plan.tunnels if tunnel.name == name)


def raised(lab: StandingLab, plan: Plan, spec: TunnelSpec) -> Tunnel:
    line = outside(lab.lab.client, plan.settings)
    return lab.runner.run(raise_tunnel(spec, line, lab.cage, find(), plan.settings, time.monotonic))


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


KNOWN = dialects.Credentials("reader", "p@ss/+=?:word", "00000000-0000-4000-8000-000000000001")


def test_the_profile_has_them_all() -> None:
    assert DIALECTS.tunnels == FURTHER_TUNNELS
    assert len(set(FURTHER_TUNNELS)) == len(FURTHER_TUNNELS)
    assert not DIALECTS.rules


def test_links_hold_the_password_as_links_must() -> None:
    links = dialects._links(KNOWN)
    for name in ("trojan-ws", "hysteria2-hopping", "hy2", "anytls", "socks5", "tuic", "ssh"):
        parts = urlsplit(links[name].replace("20000-20999", "20000"))
        assert KNOWN.password in (unquote(parts.username or ""), unquote(parts.password or "")), name
        assert parts.hostname in (dialects.NAME, dialects.ADDRESS)
    legacy = base64.b64decode(links["ss-legacy"].removeprefix("ss://").partition("#")[0]).decode()
    assert legacy == f"chacha20-ietf-poly1305:{KNOWN.password}@{dialects.ADDRESS}:8388"
    sip002 = urlsplit(links["ss-obfs-tls"])
    assert base64.urlsafe_b64decode(f"{sip002.username}==").decode() == f"chacha20-ietf-poly1305:{KNOWN.password}"
    assert parse_qs(sip002.query)["plugin"] == ["simple-obfs;obfs=tls;obfs-host=cover.example"]
    inner = json.loads(base64.b64decode(links["vmess-json"].removeprefix("vmess://")))
    assert (inner["id"], inner["net"], inner["tls"]) == (KNOWN.identity, "ws", "tls")


def test_documents_are_what_they_say() -> None:
    documents = dialects._documents(KNOWN)
    assert json.loads(documents["sip008"][1])["servers"][0]["password"] == KNOWN.password
    assert json.loads(documents["outline"][1])["password"] == KNOWN.password
    assert json.loads(documents["sing-box"][1])["outbounds"][0]["password"] == KNOWN.password
    lines = base64.b64decode(documents["subscription"][1]).decode().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["vless"]


def test_the_link_of_amnezia_holds_a_whole_config_of_wg_quick() -> None:
    interface = "[Interface]\nPrivateKey = a\nAddress = 198.19.71.2/32\nDNS = 198.18.9.9\nJc = 4\nH1 = 7\n"
    text = f"{interface}\n[Peer]\nPublicKey = b\n"
    link = dialects._amnezia_link(vpn.ClientTunnel("own", config=("own.conf", text)))
    packed = base64.urlsafe_b64decode(link.removeprefix("vpn://") + "===")
    document = json.loads(zlib.decompress(packed[4:]))
    assert int.from_bytes(packed[:4], "big") == len(json.dumps(document).encode())
    inner = json.loads(document["containers"][0]["awg"]["last_config"])
    assert inner["config"] == text
    assert {key for key in inner if key in ("Jc", "H1", "Address", "S1")} == {"Jc", "H1"}


# ── what stands ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.root
def test_the_plan_is_read_whole(plan: Plan) -> None:
    assert tuple(tunnel.name for tunnel in plan.tunnels) == QUICK
    assert [tunnel.problem for tunnel in plan.tunnels if tunnel.problem] == []
    assert len({tunnel.kind for tunnel in plan.tunnels}) == 14
    levels = {tunnel.name: {found.level for found in tunnel.findings} for tunnel in plan.tunnels}
    assert {name for name, said in levels.items() if "danger" in said} <= NAKED | {"ssh"}
    assert {name for name, said in levels.items() if said & {"danger", "warning"}} == NAKED | {"ssh"}


@pytest.mark.root
def test_sing_box_takes_what_is_written_for_it(plan: Plan) -> None:
    """All of them in one config, by sing-box's own check."""

    def revealed(value: object) -> object:
        if isinstance(value, Secret):
            return value.reveal()
        if isinstance(value, Mapping):
            return {key: revealed(inner) for key, inner in value.items()}
        return [revealed(inner) for inner in value] if isinstance(value, list | tuple) else value

    outbounds = [
        {"tag": tunnel.name, "server": tunnel.config.server.host, "server_port": tunnel.config.server.port}
        | {key: revealed(value) for key, value in tunnel.config.outbound.items()}
        for tunnel in plan.tunnels
        if isinstance(tunnel.config, ProxyConfig)
    ]
    assert len(outbounds) == len(QUICK) - len(("openvpn-zip", "wireguard-link", "amnezia-link", "device", "proxy"))
    for outbound in outbounds:
        if "server_ports" in outbound:
            del outbound["server_port"]
    document = {
        "dns": {"servers": [{"type": "hosts", "tag": "hosts"}]},
        "outbounds": outbounds,
        "route": {"default_domain_resolver": "hosts"},
    }
    command = [program("sing-box"), "check", "-c", "stdin", "--disable-color"]
    done = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.root
@pytest.mark.parametrize("name", QUICK)
def test_a_tunnel_comes_up_and_carries_data(lab: StandingLab, plan: Plan, name: str) -> None:
    tunnel = raised(lab, plan, of(plan, name))
    try:
        assert tunnel.vantage is not None, tunnel.steps
        inside = tunnel.vantage.netns
        command = ("curl", "-sS", "--max-time", "8", "--cacert", "ca.pem", "--resolve", f"{CONTROL_NAME}:443:{CONTROL}")
        assert lab.run(inside, *command, f"https://{CONTROL_NAME}/ip").stdout == EXITS[name]
        fetched = lab.curl(CONTROL_NAME, "/64k", host=inside, seconds=8)
        assert (fetched.code, fetched.size) == (200, 65536)
        assert tunnel.vantage.carries_udp is (name not in WITHOUT_UDP)
        by_tcp = () if tunnel.vantage.carries_udp else ("+tcp",)
        asked = ("dig", *by_tcp, "+time=4", "+tries=1", "+short", f"@{PUBLIC_RESOLVER}", WHOAMI_NAME)
        assert lab.run(inside, *asked).stdout.split() == [PUBLIC_RESOLVER]
    finally:
        lab.runner.run(tunnel.lower())


@pytest.mark.root
def test_hysteria_hops_among_ports_that_lead_to_one(lab: StandingLab, plan: Plan) -> None:
    tunnel = raised(lab, plan, of(plan, "hysteria2-hopping"))
    try:
        assert tunnel.vantage is not None, tunnel.steps
    finally:
        lab.runner.run(tunnel.lower())
    # Of each flow the first packet is counted.
    rule = lab.run(dialects.HOST.name, "nft", "list", "table", "ip", "hop").stdout
    assert re.search(r"udp dport 20000-20999 counter packets [1-9]", rule)


@pytest.mark.root
@pytest.mark.parametrize("name", ["socks5", "http-proxy", "ssh", "hy2"])
def test_a_server_turns_a_stranger_away(lab: StandingLab, plan: Plan, name: str) -> None:
    spec = of(plan, name)
    assert isinstance(spec.config, ProxyConfig)
    wrong = msgspec.structs.replace(spec.config, outbound=spec.config.outbound | {"password": Secret("not this one")})
    tunnel = raised(lab, plan, msgspec.structs.replace(spec, config=wrong))
    lab.runner.run(tunnel.lower())
    assert tunnel.vantage is None
    assert tunnel.steps[-1].failure == "auth_rejected"


@pytest.mark.root
def test_only_who_names_them_has_them() -> None:
    with standing(msgspec.structs.replace(DIALECTS, tunnels=("trojan",))) as here:
        assert [tunnel.name for tunnel in read_plan([here.lab.plan]).tunnels] == ["trojan"]
        with pytest.raises(KeyError):
            here.lab.network[dialects.HOST.name]
        assert not (here.lab.directory / "dialects").exists()
