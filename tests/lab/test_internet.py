"""The open lab: everything answers as it should, nothing leads out of it, and nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from standing_lab import CURL_REFUSED, CURL_RESET, CURL_TIMEOUT, CURL_UNTRUSTED, StandingLab, standing

from vpntest.errors import CannotMeasure
from vpntest.lab import vpn
from vpntest.lab.internet import (
    CONTROL,
    CONTROL6,
    CONTROL_NAME,
    COVER,
    COVER_NAME,
    FURTHER,
    HOME,
    HOME_NAME,
    ISP_RESOLVER,
    LIE,
    NEUTRAL_NAME,
    PORTAL,
    PORTAL_NAME,
    PUBLIC_RESOLVER,
    WHOAMI_NAME,
    raise_lab,
)
from vpntest.lab.network import CLIENT
from vpntest.lab.profiles import BUILT_IN, OWN, load
from vpntest.lab.rules import Cut, Line, Reset, Unroute, World
from vpntest.lab.sites import CHAIN_BYTES, SPEED_BYTES
from vpntest.plan.read import read_plan
from vpntest.tunnel.cage import Cage

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[StandingLab]:
    with standing(load("open")) as here:
        yield here


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_both_resolvers_tell_the_truth_of_every_name(lab: StandingLab) -> None:
    names = lab.lab.web.names | vpn.NAMES | {CONTROL_NAME: CONTROL, NEUTRAL_NAME: CONTROL, HOME_NAME: HOME}
    assert len(names) > 20
    for resolver in (ISP_RESOLVER, PUBLIC_RESOLVER):
        for name, address in names.items():
            assert lab.dig(resolver, name) == [address]
        assert lab.dig(resolver, CONTROL_NAME, "AAAA") == [CONTROL6]
        assert lab.dig(resolver, "www.youtube.com", "AAAA") == ["NOERROR"]
        assert lab.dig(resolver, "no-such-name.example") == ["NXDOMAIN"]


def test_whoami_tells_the_resolvers_apart(lab: StandingLab) -> None:
    for resolver in (ISP_RESOLVER, PUBLIC_RESOLVER):
        assert lab.dig(resolver, WHOAMI_NAME) == [resolver]


# ── platforms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_platforms_have_addresses_that_no_other_has(lab: StandingLab) -> None:
    web = lab.lab.web
    names = {
        platform: {address for address in found if address in web.names.values()}
        for platform, found in web.addresses.items()
    }
    own = [
        next(address for address in found if web.platform_of[address].id == platform)
        for platform, found in names.items()
    ]
    assert len(own) == len(set(own)) == len(BUILT_IN) + len(OWN) + len(FURTHER)
    assert web.names["www.facebook.com"] != web.names["b-graph.facebook.com"]


def test_every_endpoint_gives_the_answer_that_its_platform_file_calls_true(lab: StandingLab) -> None:
    plan = read_plan([lab.lab.plan])
    asked = []
    for platform in plan.platforms:
        if platform.id == "downer":
            continue
        for endpoint in (endpoint for service in platform.service for endpoint in service.endpoint):
            scheme, host, port, path = re.fullmatch(r"(\w+)://([^:/]+):?(\d*)(.*)", endpoint.url).groups()  # type: ignore[union-attr]
            address = plan.settings.addresses.get(host) or lab.lab.web.names[host]
            if scheme == "https":
                fetched = lab.curl(host, path, "-X", endpoint.method)
                assert (fetched.exit_status, fetched.version) == (0, "2")
                code = fetched.code
            elif scheme == "http":
                url = f"http://{address}:{port or 80}{path}"
                done = lab.run(
                    "client", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", endpoint.method, url
                )
                code = int(done.stdout)
            elif scheme == "quic":
                code = lab.http3(host, path, method=endpoint.method).status
            elif scheme == "stun":
                assert sees(lab, address, int(port)) == CLIENT[0]
                continue
            else:
                assert lab.connects(host, int(port))
                continue
            assert code in (endpoint.status or (200,)), endpoint.url
            asked.append(scheme)
    assert asked.count("quic") == 3
    assert len(asked) >= 20


def sees(lab: StandingLab, address: str, port: int) -> str:
    """Under which address a STUN server sees the client."""
    from aioice import stun

    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    with lab.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(3)
        asking.sendto(bytes(request), (address, port))
        reply = stun.parse_message(asking.recv(2048))
    assert reply.transaction_id == request.transaction_id
    return str(reply.attributes["XOR-MAPPED-ADDRESS"][0])


def test_http3_serves_what_the_web_server_serves(lab: StandingLab) -> None:
    for name in ("www.facebook.com", "www.youtube.com"):
        answer = lab.http3(name)
        fetched = lab.curl(name)
        assert (answer.status, len(answer.body)) == (200, fetched.size)
        assert name in answer.names
    assert len(lab.http3("www.facebook.com").body) > SPEED_BYTES - 64
    head = lab.http3("www.youtube.com", method="HEAD")
    assert (head.status, head.body) == (200, b"")


def test_http3_takes_any_name_and_shows_its_own_certificate(lab: StandingLab) -> None:
    address = lab.lab.web.names["www.youtube.com"]
    answer = lab.http3(NEUTRAL_NAME, address=address, verify=False)
    assert answer.status == 200
    assert "www.youtube.com" in answer.names
    assert NEUTRAL_NAME not in answer.names
    with pytest.raises(ConnectionError, match="silence"):
        lab.http3("x.com", seconds=1)


def test_http_1_1_is_spoken_too(lab: StandingLab) -> None:
    fetched = lab.curl("www.youtube.com", "/", "--http1.1")
    assert (fetched.code, fetched.version) == (200, "1.1")


def test_speed_is_measured_on_a_body_that_is_long_enough(lab: StandingLab) -> None:
    measured = [platform.speed for platform in read_plan([lab.lab.plan]).platforms if platform.speed]
    assert len(measured) >= 2
    for url in measured:
        name, path = url.removeprefix("https://").split("/", 1)
        address = lab.lab.web.names[name]
        wanted, neutral = lab.curl(name, f"/{path}"), lab.curl(NEUTRAL_NAME, f"/{path}", "-k", address=address)
        assert wanted.size == neutral.size
        assert wanted.size > SPEED_BYTES - 64


def test_the_certificate_is_the_platforms_own_whatever_name_is_asked_for(lab: StandingLab) -> None:
    address = lab.lab.web.names["www.instagram.com"]
    chains = {}
    for name in ("www.instagram.com", NEUTRAL_NAME):
        done = lab.run("client", "openssl", "s_client", "-connect", f"{address}:443", "-servername", name, "-showcerts")
        chains[name] = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", done.stdout, re.DOTALL)
    assert chains["www.instagram.com"] == chains[NEUTRAL_NAME]
    assert len(chains[NEUTRAL_NAME]) == 2
    assert sum(map(len, chains[NEUTRAL_NAME])) > CHAIN_BYTES * 4 / 3
    assert not lab.curl(NEUTRAL_NAME, address=address).ok


def test_refuser_turns_exits_away_and_nobody_else(lab: StandingLab) -> None:
    assert lab.curl("www.refuser.example").code == 200
    for host in vpn.HOSTS:
        assert lab.curl("www.refuser.example", host=host.name).code == 403
        assert lab.curl("www.youtube.com", host=host.name).code == 200


def test_downer_is_down_for_everybody(lab: StandingLab) -> None:
    for host in ("client", "public", "wg-a", "proxy"):
        assert lab.curl("www.downer.example", host=host).exit_status == CURL_REFUSED


# ── controls ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_controls(lab: StandingLab) -> None:
    assert (lab.curl(CONTROL_NAME, "/64k").code, lab.curl(CONTROL_NAME, "/64k").size) == (200, 65536)
    head = lab.curl(CONTROL_NAME, "/64k", "--head")
    assert (head.code, head.exit_status) == (200, 0)
    assert (lab.curl(CONTROL_NAME, "/204").code, lab.curl(CONTROL_NAME, "/204").size) == (204, 0)


def test_bulk_and_the_domestic_control(lab: StandingLab) -> None:
    settings = read_plan([lab.lab.plan]).settings
    assert lab.curl(CONTROL_NAME, "/1m").size == 1 << 20
    assert settings.bulk == f"https://{CONTROL_NAME}/1m"
    assert settings.control[1] == f"https://{HOME_NAME}/64k"
    assert lab.curl(HOME_NAME, "/64k").size == 65536
    assert lab.curl(HOME_NAME, "/204").code == 204


def test_the_control_serves_a_throttled_name_as_it_serves_its_own(lab: StandingLab) -> None:
    named = [platform.throttled_name for platform in read_plan([lab.lab.plan]).platforms if platform.throttled_name]
    assert named == ["redirector.googlevideo.com"]
    for name in (*named, NEUTRAL_NAME):
        fetched = lab.curl(name, "/64k", "-k", address=CONTROL)
        assert (fetched.code, fetched.size) == (200, 65536)


def test_the_upload_is_read_to_its_end_before_the_answer(lab: StandingLab) -> None:
    with lab.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.settimeout(5)
        asking.connect((CONTROL, 80))
        asking.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + bytes(60000))
        asking.settimeout(0.3)
        with pytest.raises(TimeoutError):
            asking.recv(1)
        asking.settimeout(5)
        asking.sendall(bytes(5536))
        assert asking.recv(64).startswith(b"HTTP/1.1 200 ")
    body = lab.lab.directory / "body"
    body.write_bytes(bytes(65536))
    assert lab.curl(CONTROL_NAME, "/upload", "--data-binary", f"@{body}").code == 200


def test_the_callers_address_over_both_families(lab: StandingLab) -> None:
    for address, seen in ((CONTROL, CLIENT[0]), (f"[{CONTROL6}]", CLIENT[1])):
        done = lab.run(
            "client",
            *(
                "curl",
                "-sS",
                "--cacert",
                "ca.pem",
                "--resolve",
                f"{CONTROL_NAME}:443:{address}",
                f"https://{CONTROL_NAME}/ip",
            ),
        )
        assert done.stdout == seen


def test_the_cover_site(lab: StandingLab) -> None:
    assert lab.curl(COVER_NAME, address=COVER).code == 200


def test_the_block_page(lab: StandingLab) -> None:
    done = lab.run("client", "curl", "-sS", f"http://{LIE}/any/page")
    assert "<title>Access to this resource is restricted</title>" in done.stdout
    fetched = lab.curl("x.com", address=LIE)
    assert (fetched.exit_status, fetched.code) == (CURL_UNTRUSTED, 0)
    assert lab.curl("x.com", "/", "-k", address=LIE).code == 200


# ── what is wrong with the line, or with the world ───────────────────────────────────────────────────────────────────

OPEN = load("open")
EXIT = vpn.HOSTS[0].name


def test_a_captive_portal_is_all_there_is() -> None:
    with standing(msgspec.structs.replace(OPEN, line=Line(portal=True))) as lab:
        for resolver in (ISP_RESOLVER, PUBLIC_RESOLVER, "198.18.250.1"):
            assert lab.dig(resolver, "x.com") == [PORTAL]
        for address in (PORTAL, CONTROL, lab.lab.web.names["x.com"]):
            sent = lab.run("client", "curl", "-sS", "-o", "/dev/null", "-w", "%{redirect_url}", f"http://{address}/")
            assert sent.stdout == f"http://{PORTAL_NAME}/"
            assert lab.curl("x.com", address=address).exit_status == CURL_UNTRUSTED
        page = lab.run("client", "curl", "-sS", "--resolve", f"{PORTAL_NAME}:80:{PORTAL}", f"http://{PORTAL_NAME}/")
        assert "<title>Sign in to the network</title>" in page.stdout
        assert not lab.connects("e1.whatsapp.net", 5222)
        with pytest.raises(ConnectionError, match="silence"):
            lab.http3("www.youtube.com", seconds=1)
        # What is wrong is the line: the world goes on.
        assert lab.curl("x.com", host="home").code == 200


def test_a_world_with_its_own_troubles() -> None:
    world = World(down=("twitter",), silent=("facebook",), refuses=("instagram",), challenges=("youtube",))
    with standing(msgspec.structs.replace(OPEN, world=world)) as lab:
        for host in ("client", EXIT):
            assert lab.curl("x.com", host=host).exit_status == CURL_REFUSED
            assert lab.curl("www.facebook.com", host=host, seconds=1).exit_status == CURL_TIMEOUT
            # Whom they do not concern.
            assert lab.curl("b-graph.facebook.com", host=host).code == 200
            assert lab.curl("web.whatsapp.com", host=host).code == 200
        for name, marked in (("www.instagram.com", False), ("www.youtube.com", True)):
            assert lab.curl(name).code == lab.http3(name).status == 200
            shown = lab.run(EXIT, "curl", "-skI", "--connect-to", f"::{lab.lab.web.names[name]}:", f"https://{name}/")
            assert shown.stdout.startswith("HTTP/2 403")
            assert ("cf-mitigated: challenge" in shown.stdout) == marked
            turned_away = lab.http3(name, host=EXIT)
            assert turned_away.status == 403
            assert (turned_away.headers.get("cf-mitigated") == "challenge") == marked
            assert "cf-mitigated" not in lab.run("client", *shown.args).stdout


def test_a_platform_may_turn_the_line_away_and_nobody_else() -> None:
    with standing(msgspec.structs.replace(OPEN, world=World(refuses_line=("instagram", "whatsapp")))) as lab:
        for name in ("www.instagram.com", "static.cdninstagram.com", "web.whatsapp.com"):
            assert lab.curl(name).code == 403
            assert lab.curl(name, host=EXIT).code == 200
        assert (lab.http3("www.instagram.com").status, lab.http3("www.instagram.com", host=EXIT).status) == (403, 200)
        # Under its own certificate; what is not asked in HTTP is as ever.
        assert lab.curl("www.instagram.com").exit_status == 0
        assert lab.connects("e1.whatsapp.net", 5222)
        assert lab.curl("x.com").code == lab.curl("x.com", host=EXIT).code == 200


def test_an_exit_may_stand_behind_a_censor_of_its_own() -> None:
    exits = {"wg-b": (Reset(("www.facebook.com",), "x"), Cut(("instagram.com",), 5, "x"), Unroute("x", ("signal",)))}
    with standing(msgspec.structs.replace(OPEN, exits=exits)) as lab:
        names = ("www.facebook.com", "www.instagram.com", "chat.signal.org", "x.com")
        # What comes out of the tunnels of an exit is forwarded; so is this, by a detour.
        lab.lab.network.sysctl("wg-b", {f"net/ipv4/conf/{on}/send_redirects": "0" for on in ("all", "eth0")})
        for name in names:
            lab.run("home", "ip", "route", "add", lab.lab.web.names[name], "via", vpn.HOSTS[1].addresses[0])
        statuses = [lab.curl(name, host="home", seconds=1).exit_status for name in names]
        assert statuses == [CURL_RESET, CURL_TIMEOUT, CURL_TIMEOUT, 0]
        # By the name, and not by the address.
        assert lab.curl(NEUTRAL_NAME, "/", "-k", host="home", address=lab.lab.web.names["www.facebook.com"]).ok
        # On the line, at other exits, and for the server itself nothing is in the way.
        for host in ("client", EXIT, "wg-b"):
            assert [lab.curl(name, host=host).exit_status for name in names] == [0, 0, 0, 0]


def test_a_clock_that_runs_behind_takes_every_certificate_for_one_of_the_future() -> None:
    with standing(msgspec.structs.replace(OPEN, world=World(clock_days=400))) as lab:
        for name in ("x.com", CONTROL_NAME, HOME_NAME):
            assert lab.curl(name).exit_status == CURL_UNTRUSTED
            where = {CONTROL_NAME: CONTROL, HOME_NAME: HOME}.get(name) or lab.lab.web.names[name]
            shown = lab.run("client", "openssl", "s_client", "-connect", f"{where}:443", "-CAfile", "ca.pem")
            assert "certificate is not yet valid" in shown.stdout + shown.stderr
        assert lab.curl("x.com", "/", "-k").code == 200


def test_a_plan_is_for_the_profiles_cast_and_every_server_stands() -> None:
    cast = msgspec.structs.replace(OPEN, tunnels=("wireguard", "trojan"), platforms=("youtube", "plain", "bystander"))
    with standing(cast) as lab:
        plan = read_plan([lab.lab.plan])
        assert [tunnel.name for tunnel in plan.tunnels] == ["wireguard", "trojan"]
        assert [platform.id for platform in plan.platforms] == ["youtube", "plain", "bystander"]
        assert {file.name for file in lab.lab.plan.parent.iterdir()} == {
            *("ca.pem", "plan.toml", "plain.toml", "bystander.toml", "wireguard.conf")
        }
        assert lab.curl("x.com").code == 200
        assert lab.curl("www.bright.com.example").size > SPEED_BYTES - 64
        where = lab.lab.web.names["www.plain.example"]
        assert "<title>Plain</title>" in lab.run("client", "curl", "-sS", f"http://{where}/").stdout


# ── closed ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_leads_out(lab: StandingLab) -> None:
    inside = re.compile(r"198\.1[89]\.|fd00:|fe80:|127\.|::1$|ff00::|0\.0\.0\.0|default$")
    for name in (
        "client",
        "censor",
        "isp",
        "home",
        "public",
        "control",
        "platforms",
        "cover",
        *(host.name for host in vpn.HOSTS),
    ):
        for family in ("-4", "-6"):
            routes = lab.run(name, "ip", family, "-o", "route", "show", "table", "all").stdout
            for line in routes.splitlines():
                words = [word for word in line.split() if word not in ("local", "broadcast", "multicast", "anycast")]
                assert inside.match(words[0]), (name, line)
                if words[0] == "default":
                    assert name == "client"
                    assert inside.match(words[2]), line
    for address in ("149.154.175.50", "192.0.2.1"):
        with lab.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.settimeout(4)
            assert asking.connect_ex((address, 80)) in (errno.ENETUNREACH, errno.EHOSTUNREACH)


def test_the_plan_is_whole_and_only_for_its_owner(lab: StandingLab) -> None:
    plan = read_plan([lab.lab.plan])
    assert [tunnel.name for tunnel in plan.tunnels] == list(lab.lab.profile.truth.tunnels)
    assert [platform.id for platform in plan.platforms] == [*BUILT_IN, *OWN]
    assert not [tunnel for tunnel in plan.tunnels if tunnel.problem or tunnel.warnings]
    assert {tunnel.kind for tunnel in plan.tunnels} >= {
        "wireguard",
        "amneziawg",
        "openvpn",
        "shadowsocks",
        "vless",
        "trojan",
    }
    assert plan.settings.resolver == ISP_RESOLVER
    assert lab.lab.directory.stat().st_mode & 0o077 == 0


# ── nothing is left ──────────────────────────────────────────────────────────────────────────────────────────────────


def descriptors() -> set[str]:
    return {
        os.readlink(f"/proc/self/fd/{number}")
        for number in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{number}")
    }


def children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_lowered_it_leaves_nothing() -> None:
    with contextlib.closing(Cage.open()) as cage:
        before = (descriptors(), children())
        with asyncio.Runner() as runner:
            for _ in range(2):
                lab = runner.run(raise_lab(load("open"), cage))
                assert children() > before[1]
                runner.run(lab.lower())
                runner.run(lab.lower())
                assert not lab.directory.exists()
                assert children() == before[1]
        assert {name for name in descriptors() - before[0] if name.startswith(("net:", "socket:", "pipe:"))} == set()


def test_a_server_that_cannot_start_is_named_and_the_rest_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Cage.open()) as cage, asyncio.Runner() as runner:
        before = children()
        monkeypatch.setattr("vpntest.lab.sites._COMMON", "nonsense;\n")
        with pytest.raises(CannotMeasure, match=r"the lab's nginx on \w+ ended: .*nonsense"):
            runner.run(raise_lab(load("open"), cage))
        assert children() == before
        assert list(cage.directory.iterdir()) == []


def test_without_utls_the_lab_stands_and_expects_no_reality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vpn, "speaks_reality", lambda: False)
    with standing(load("open")) as lab:
        assert len(read_plan([lab.lab.plan]).tunnels) == 12
        assert str(lab.lab.profile.truth.tunnels[vpn.REALITY]) == "none unsupported"
        assert not (lab.lab.directory / "sing-box" / "server.json").read_text().count("vless")
        assert lab.curl(CONTROL_NAME, "/204").code == 204


RAISE = """
import asyncio, contextlib, time
from vpntest.lab.internet import raise_lab
from vpntest.lab.profiles import load
from vpntest.tunnel.cage import Cage
cage = Cage.open()
print("raising", flush=True)
async def stay():
    await raise_lab(load("ru_2023_08_vpn"), cage)
    print("stands", flush=True)
    await asyncio.sleep(60)
asyncio.run(stay())
"""


@pytest.mark.parametrize(("word", "patience"), [("raising", 0.2), ("raising", 0.5), ("stands", 0.0)])
def test_killed_it_leaves_nothing_within_two_seconds(word: str, patience: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", RAISE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline().strip() != word:
        assert process.poll() is None
    time.sleep(patience)
    begun = descendants(process.pid)
    assert begun
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 2
    while any(map(lives, begun)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not list(filter(lives, begun))


def lives(pid: int) -> bool:
    """Whether a process still holds a namespace; one that has died and waits for its burial holds none."""
    try:
        os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return False
    return True


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
                born = [int(word) for word in (task / "children").read_text().split()]
                found += born
                waiting += born
    return found
