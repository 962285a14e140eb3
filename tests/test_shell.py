"""`vpntest shell` on a network of the tests' own: what runs inside goes through the tunnel, or nowhere."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import pytest
from machine import Standing, descendants, exists, state_of
from own_network import SHADOWSOCKS_PORT, OwnNetwork, own_network
from standing_lab import StandingLab, standing
from terminal import Terminal, terminal
from uplink import capturing

from vpntest.cli import main
from vpntest.errors import UsageError
from vpntest.lab.profiles import load
from vpntest.lab.vpn import EXITS
from vpntest.plan.keys import generate
from vpntest.plan.read import read_plan
from vpntest.shell import Person, hidden_places, names_by_dns, person, surroundings
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.namespace import Namespace

NOBODY = pwd.getpwnam("nobody")
CALLER = {"SUDO_UID": str(NOBODY.pw_uid), "SUDO_GID": str(NOBODY.pw_gid), "SUDO_USER": "nobody"}
EXIT, LINE = "198.18.7.1", "198.18.7.2"
"""Where the tunnel's server leaves, and the client's own address."""
GRACE = 20.0
"""Seconds in which what must come has come."""


# ── who, and with what around ────────────────────────────────────────────────────────────────────────────────────────


def test_the_one_who_called_is_inside() -> None:
    for caller in (CALLER, {"PKEXEC_UID": str(NOBODY.pw_uid)}, {"DOAS_USER": "nobody"}):
        who = person(caller, root=False)
        assert (who.name, who.group, who.home) == ("nobody", NOBODY.pw_gid, NOBODY.pw_dir)
        assert who.user == (NOBODY.pw_uid if os.geteuid() != NOBODY.pw_uid else None)
        # A service's shell lets nobody in.
        assert who.shell == "/bin/sh"


def test_nobody_called_or_root_is_asked_for() -> None:
    myself = pwd.getpwuid(os.geteuid()).pw_name
    for environment, root in (({}, False), (CALLER, True), ({"SUDO_UID": str(os.geteuid())}, False)):
        who = person(environment, root=root)
        assert (who.user, who.name) == (None, myself)


@pytest.mark.parametrize("called", ["4123456789", "99999999999999999999", "no-such-user"])
def test_a_caller_whom_nobody_knows_is_no_reason_to_become_root(called: str) -> None:
    with pytest.raises(UsageError, match="--root"):
        person({"SUDO_UID": called}, root=False)


def test_what_leads_outside_is_taken_out_of_the_environment() -> None:
    who = Person(NOBODY.pw_uid, NOBODY.pw_gid, (), "nobody", "/nonexistent", "/bin/sh")
    leads = (
        "http_proxy https_proxy HTTPS_PROXY ALL_PROXY no_proxy rsync_proxy DBUS_SESSION_BUS_ADDRESS SSH_AUTH_SOCK TMUX"
        " TMUX_PANE STY DISPLAY WAYLAND_DISPLAY XAUTHORITY XDG_RUNTIME_DIR RES_OPTIONS HOSTALIASES LOCALDOMAIN TMPDIR"
        " SUDO_USER SUDO_COMMAND"
    )
    stays = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "TERM": "xterm", "EDITOR": "vi", "MY_PROXY_LIST": "x"}
    around = surroundings({**dict.fromkeys(leads.split(), "x"), **stays, "HOME": "/root"}, who, "sweden")
    assert set(around) & set(leads.split()) == set()
    assert around.items() >= stays.items()
    assert (around["HOME"], around["USER"], around["SHELL"]) == ("/nonexistent", "nobody", "/bin/sh")
    assert around["VPNTEST_TUNNEL"] == "sweden"
    assert "sweden" in around["PS1"]


def test_what_a_folder_to_be_hidden_leads_to_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "out").symlink_to("/run")
    places = [str(tmp_path / name) for name in ("link", "out", "missing")]
    assert hidden_places(places) == [str(tmp_path / "real")]


def test_hosts_are_looked_up_in_files_and_by_dns_alone() -> None:
    given = "passwd: files systemd\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n hosts : mdns4\nrpc: db"
    assert names_by_dns(given).splitlines() == ["passwd: files systemd", "rpc: db", "hosts: files dns"]
    assert names_by_dns("") == "hosts: files dns\n"


# ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def network() -> Iterator[OwnNetwork]:
    with closing(Cage.open()) as cage, own_network(cage) as standing:
        yield standing


def inside(
    network: OwnNetwork, *command: str, plan: str = "", options: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """One command, as somebody who has called sudo."""
    path = network.plan(plan or network.tunnel)
    process = network.vpntest("shell", *options, str(path), "--", *command, env={**os.environ, **CALLER, **(env or {})})
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.root
def test_what_runs_inside_leaves_by_the_tunnel_alone(network: OwnNetwork) -> None:
    before = state_of(network.client)
    with capturing(network.client) as uplink:
        status, out, err = inside(
            network, "sh", "-c", "curl -sk https://control.test/ip; echo; getent hosts www.example.test"
        )
    assert status == 0, err
    address, found = out.splitlines()
    assert address == EXIT != LINE
    assert found.split() == ["198.18.7.80", "www.example.test"]
    # Nobody but the tunnel's server was sent anything: no resolver, by no protocol.
    assert uplink.sent
    assert {(to, port) for to, _, port in uplink.sent} == {("198.18.7.99", SHADOWSOCKS_PORT)}
    assert state_of(network.client) == before


@pytest.mark.root
def test_it_says_how_far_it_climbed_and_how_it_stands(network: OwnNetwork) -> None:
    _, out, err = inside(network, "true")
    assert out == ""
    climbed, stands, *others = err.splitlines()
    assert re.fullmatch(r"vpntest: good: config, endpoint-dns, endpoint in \d+\.\d s, by sing-box .*", climbed)
    assert stands == (
        f"vpntest: good: stands, and the world sees {EXIT}; names are asked for at 198.18.7.53;"
        " IPv6 does not pass, and is left out"
    )
    # The folder of the tests' network is below /run.
    assert others == ["vpntest: good: /run is another one inside, so that it cannot begin in this folder"]


AS_ELSEWHERE = """
set -e
etc=$(mktemp -d -p /run)
cp -a /etc/. "$etc"
rm "$etc/resolv.conf" "$etc/nsswitch.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$etc/resolv.conf"
mkdir -p /run/systemd/resolve "$etc/authselect"
echo nameserver 127.0.0.53 > /run/systemd/resolve/stub-resolv.conf
printf 'passwd: files\nhosts: resolve [!UNAVAIL=return] files\n' > "$etc/authselect/nsswitch.conf"
ln -s authselect/nsswitch.conf "$etc/nsswitch.conf"
mount --bind "$etc" /etc
"$@"
cat /etc/resolv.conf /etc/nsswitch.conf
"""


@pytest.mark.root
def test_where_both_files_are_links_and_names_are_a_daemons(network: OwnNetwork) -> None:
    """As with systemd-resolved, and with authselect."""
    asks = "getent hosts www.example.test; cat /etc/resolv.conf /etc/nsswitch.conf"
    argv = ["unshare", "--mount", "sh", "-c", AS_ELSEWHERE, "sh", *shell_of(network), "--", "sh", "-c", asks]
    with network.client.entered():
        done = subprocess.run(
            argv, capture_output=True, text=True, check=True, cwd="/", env={**os.environ, **CALLER}, timeout=60
        )
    found, *inside = done.stdout.splitlines()
    assert found.split() == ["198.18.7.80", "www.example.test"]
    assert inside[:3] == ["nameserver 198.18.7.53", "passwd: files", "hosts: files dns"]
    # And the machine's own say what they said.
    assert inside[3:] == ["nameserver 127.0.0.53", "passwd: files", "hosts: resolve [!UNAVAIL=return] files"]


@pytest.mark.root
def test_who_writes_the_machines_names_anew_does_not_lead_those_inside(network: OwnNetwork) -> None:
    """As NetworkManager and dhclient do: a new file, renamed."""
    asks = "echo here; read line; cat /etc/resolv.conf; grep ^hosts /etc/nsswitch.conf; getent hosts www.example.test"
    argv = ["unshare", "--mount", "sh", "-c", AS_ELSEWHERE, "sh", *shell_of(network), "--", "sh", "-c", asks]
    anew = "for one in resolv.conf nsswitch.conf; do echo hosts: anew > /etc/new; mv /etc/new /etc/$one; done"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with network.client.entered():
        process = subprocess.Popen(argv, cwd="/", env={**os.environ, **CALLER}, **pipes)  # type: ignore[call-overload]
    with process:
        assert process.stdout.readline() == "here\n"
        subprocess.run(["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", "sh", "-ec", anew], check=True)
        out, _ = process.communicate("\n", timeout=60)
    resolver, hosts, found, *outside = out.splitlines()
    assert (resolver, hosts) == ("nameserver 198.18.7.53", "hosts: files dns")
    assert found.split() == ["198.18.7.80", "www.example.test"]
    assert outside == ["hosts: anew"] * 2


NO_NAMES = """
set -e
etc=$(mktemp -d -p /run)
cp -a /etc/. "$etc"
rm "$etc/nsswitch.conf" "$etc/resolv.conf"
ln -s /var/nowhere/resolv.conf "$etc/resolv.conf"
mount --bind "$etc" /etc
exec "$@"
"""


@pytest.mark.root
def test_where_the_machine_has_neither_file(network: OwnNetwork) -> None:
    asks = "cat /etc/resolv.conf; getent hosts www.example.test"
    argv = ["unshare", "--mount", "sh", "-c", NO_NAMES, "sh", *shell_of(network), "--", "sh", "-c", asks]
    with network.client.entered():
        done = subprocess.run(argv, capture_output=True, text=True, cwd="/", env={**os.environ, **CALLER}, timeout=60)
    assert done.stdout.split() == ["nameserver", "198.18.7.53", "198.18.7.80", "www.example.test"], done.stderr


LOOK = """
id -u; id -g; id -G
cat /etc/resolv.conf | tr '\\n' ' '; echo
grep '^hosts' /etc/nsswitch.conf
ls /sys/class/net | wc -l
ls -d /proc/[0-9]* | wc -l
find /run /tmp -type s
find /run /tmp -name 'vpntest*'
"""


@pytest.mark.root
def test_what_it_sees_of_the_machine(network: OwnNetwork) -> None:
    status, out, err = inside(network, "sh", "-c", LOOK)
    assert status == 0, err
    user, group, groups, resolver, hosts, devices, processes = out.splitlines()
    assert (user, group) == (str(NOBODY.pw_uid), str(NOBODY.pw_gid))
    assert {int(one) for one in groups.split()} == set(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert resolver == "nameserver 198.18.7.53 "
    assert hosts == "hosts: files dns"
    assert devices == "2", "lo and the tunnel's own"
    # The room's first one, the shell, and two or three of this pipeline: none of the machine, and no carrier.
    assert int(processes) <= 5


@pytest.mark.root
@pytest.mark.parametrize("folder", ["/tmp", "/run"])
def test_no_socket_of_the_machine_is_to_be_met(network: OwnNetwork, folder: str) -> None:
    """Neither those in folders nor the abstract ones, which belong to a network namespace."""
    place = f"{folder}/shell-test-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX)) as by_path:
        by_path.bind(place)
        try:
            by_path.listen()
            with network.client.socket(socket.AF_UNIX, socket.SOCK_STREAM) as abstract:
                abstract.bind(f"\0shell-test-{os.getpid()}")
                abstract.listen()
                status, out, _ = inside(network, "sh", "-c", f"ls {folder}; cat /proc/net/unix; hostname")
        finally:
            os.unlink(place)
    assert status == 0
    assert "shell-test" not in out


@pytest.mark.root
@pytest.mark.parametrize("options", [(), ("--root",)])
def test_the_lines_addresses_are_nowhere_to_be_read(network: OwnNetwork, options: tuple[str, ...]) -> None:
    script = "for one in /proc/[0-9]*; do cat $one/net/fib_trie $one/net/route $one/net/arp $one/net/tcp; done"
    _, out, _ = inside(network, "sh", "-c", script, options=options)
    assert "Main:" in out
    backwards = bytes(reversed(socket.inet_aton(LINE))).hex().upper()
    assert [one for one in (LINE, backwards, "198.18.7.0", "up0") if one in out] == []


@pytest.mark.root
def test_root_finds_no_way_out_by_the_rooms_own_process(network: OwnNetwork) -> None:
    status, out, err = inside(
        network, "nsenter", "--net=/proc/1/ns/net", "ls", "/proc/self/net/dev_snmp6", options=("--root",)
    )
    assert status == 0, err
    assert "up0" not in out
    assert len(out.split()) == 2, "lo and the tunnel's own"


TYPES = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
held = os.open("/dev/tty", os.O_RDWR) if sys.argv[1:] else os.open("/dev/null", os.O_RDWR)
# The kernel reads the lower half of it.
for call, text in ((0x5412, b"x"), (0x5412 | 1 << 32, b"x"), (0x541C, b"\\3")):
    failed = libc.ioctl(held, ctypes.c_ulong(call), text)
    print(ctypes.get_errno() if failed else "typed", end=" ")
# VSOCK and Bluetooth, and then INET, INET6, UNIX and NETLINK.
for family in (40, 31, 2, 10, 1, 16):
    try:
        socket.socket(family, socket.SOCK_RAW if family == 16 else socket.SOCK_STREAM, 0).close()
        print("opened", family, end=" ")
    except OSError as fault:
        print(fault.errno, end=" ")
"""


@pytest.mark.root
def test_a_socket_past_the_namespace_of_networks_is_not_to_be_had(network: OwnNetwork) -> None:
    for options in ((), ("--root",)):
        _, out, err = inside(network, "python3", "-c", TYPES, options=options)
        # EPERM three times, EAFNOSUPPORT twice.
        assert out.split() == "1 1 1 97 97 opened 2 opened 10 opened 1 opened 16".split(), err


@pytest.mark.root
def test_a_long_command_is_as_good_as_any(network: OwnNetwork) -> None:
    arguments = [f"{number:0100}" for number in range(1500)]
    status, out, err = inside(network, "sh", "-c", "echo $# $1500", "sh", *arguments)
    assert (status, out.split()[0]) == (0, "1500"), err


@pytest.mark.root
def test_root_only_where_it_is_asked_for(network: OwnNetwork) -> None:
    assert inside(network, "id", "-u", options=("--root",))[1] == "0\n"
    assert (
        inside(network, "sh", "-c", "grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status | cut -f 2 | uniq")[1]
        == f"{'0' * 16}\n"
    )
    # Who may call sudo may do so inside.
    assert inside(network, "grep", "NoNewPrivs", "/proc/self/status")[1].split() == ["NoNewPrivs:", "0"]


@pytest.mark.root
def test_proxies_of_the_caller_are_not_used(network: OwnNetwork) -> None:
    status, out, err = inside(
        network,
        "curl",
        "-sk",
        "https://control.test/ip",
        env={"https_proxy": f"http://{LINE}:9", "ALL_PROXY": "socks5://x"},
    )
    assert (status, out) == (0, EXIT), err


@pytest.mark.root
@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -TERM $$"), 128 + signal.SIGTERM),
        (("/no/such/program",), 127),
        (("/etc/passwd",), 126),
        (("printf", "%s", "--", "-x"), 0),
    ],
)
def test_the_exit_status_is_the_commands(network: OwnNetwork, command: tuple[str, ...], status: int) -> None:
    got, out, err = inside(network, *command)
    assert got == status, err
    if status == 0:
        # Its own options and dashes reach it untouched.
        assert out == "---x"


@pytest.mark.root
def test_what_has_no_command_is_a_shell_that_reads(network: OwnNetwork) -> None:
    process = network.vpntest(
        "shell", str(network.plan(network.tunnel)), env={**os.environ, **CALLER}, stdin=subprocess.PIPE
    )
    out, err = process.communicate("echo $VPNTEST_TUNNEL; exit 3\n", timeout=60)
    assert (process.returncode, out) == (3, "good\n"), err
    assert "vpntest: good: a shell inside, as nobody; leave it" in err


@pytest.mark.root
def test_a_tunnel_that_does_not_come_up_is_one_line_with_its_rung(network: OwnNetwork) -> None:
    dead = network.tunnel.replace(f":{SHADOWSOCKS_PORT}", ":9")
    status, out, err = inside(network, "echo", "ran", plan=dead)
    assert (status, out) == (4, "")
    assert err == "vpntest: good does not come up: it ends at endpoint: connection_refused\n"


@pytest.mark.root
def test_a_tunnel_that_stands_and_carries_nothing_is_told(network: OwnNetwork) -> None:
    wrong = network.tunnel.replace(network.uri.split("//")[1].split("@")[0], "YWVzLTEyOC1nY206bm90LXRoaXMtb25l")
    status, _, err = inside(network, "true", plan=wrong)
    assert status == 0
    assert "vpntest: good: stands, but nothing has come back through it (" in err


@pytest.mark.root
def test_where_a_tunnel_carries_tcp_alone_names_go_over_tcp(network: OwnNetwork) -> None:
    settings = {
        "log": {"level": "error"},
        "inbounds": [{"type": "http", "listen": "198.18.7.99", "listen_port": 8080}],
    }
    with network.server.entered():
        server = subprocess.Popen(["sing-box", "run", "-c", "stdin"], stdin=subprocess.PIPE, text=True)
    assert server.stdin is not None
    server.stdin.write(json.dumps(settings))
    server.stdin.close()
    try:
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            with network.client.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(("198.18.7.99", 8080)) == 0:
                    break
            time.sleep(0.05)
        plan = '[[tunnel]]\nname = "web"\nuri = "http://198.18.7.99:8080"\n'
        with capturing(network.client) as uplink:
            status, out, err = inside(
                network, "sh", "-c", "cat /etc/resolv.conf; curl -sk https://control.test/ip", plan=plan
            )
    finally:
        server.kill()
        server.wait()
    assert status == 0, err
    assert out.splitlines() == ["nameserver 198.18.7.53", "options use-vc", EXIT]
    assert "names are asked for at 198.18.7.53 over TCP, as it carries no UDP" in err
    assert {(to, port) for to, _, port in uplink.sent} == {("198.18.7.99", 8080)}


@pytest.mark.root
def test_where_a_run_has_the_line_no_shell_disturbs_it(network: OwnNetwork) -> None:
    with network.client.entered():
        here = Namespace.current()
    with closing(here):
        here.claim(pytest.fail)
        status, out, err = inside(network, "echo", "ran")
    assert (status, out) == (4, "")
    assert err == (
        f"vpntest: a run or another shell (process {os.getpid()}) is on this line, and a shell would disturb it\n"
    )


@pytest.mark.root
def test_while_a_shell_has_the_line_a_run_waits(network: OwnNetwork) -> None:
    with staying(network, "read line") as process:
        run = network.vpntest("run", str(network.plan(network.tunnel)))
        assert run.stderr is not None
        try:
            said = run.stderr.readline()
        finally:
            run.kill()
            run.communicate()
    assert said == f"vpntest: another run or a shell (process {process.pid}) is on this line; waiting for its end\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[StandingLab]:
    with standing(load("open")) as raised:
        yield raised


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "families"),
    [("wireguard", 2), ("amneziawg", 1), ("openvpn-udp", 1), ("openvpn-tcp", 1), ("trojan", 1), ("hysteria2", 1)],
)
def test_every_kind_is_a_way_out(lab: StandingLab, name: str, families: int) -> None:
    """Also for a program that takes IPv6 where it can, through a tunnel whose own device answers it at once."""
    settings = read_plan([lab.lab.plan]).settings
    asks = f"curl -sk -m 20 {settings.exit_address}; echo; curl -sk4 -m 20 {settings.exit_address}"
    with lab.lab.client.entered():
        done = subprocess.run(
            [sys.executable, "-m", "vpntest", "shell", "--tunnel", name, lab.lab.plan, "--", "sh", "-c", asks],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **CALLER},
        )
    said = re.search(r"the world sees (\S+?)(?: and (\S+))?;", done.stderr)
    assert said is not None, done.stderr
    seen = [one for one in said.groups() if one]
    assert len(seen) == families
    assert seen[0] in EXITS
    assert done.stdout.split() == [seen[-1], seen[0]]


def carrier_of(process: subprocess.Popen[str]) -> int:
    """Its sing-box, once there is one."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        for child in descendants(process.pid):
            with suppress(OSError):
                if Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[1:2] == [b"run"]:
                    return child
        time.sleep(0.01)
    raise AssertionError("there is no carrier")


@contextmanager
def staying(network: OwnNetwork, script: str) -> Iterator[subprocess.Popen[str]]:
    """A script inside that has said `here` and goes on."""
    process = network.vpntest(
        "shell",
        str(network.plan(network.tunnel)),
        "--",
        "sh",
        "-c",
        f"echo here; {script}",
        env={**os.environ, **CALLER},
        stdin=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "here\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.root
def test_a_tunnel_that_dies_is_told_and_nothing_leaves(network: OwnNetwork) -> None:
    asks = "read line; getent hosts www.example.test; curl -sk -m 2 https://198.18.7.80/ip; exit 9"
    with staying(network, asks) as process:
        os.kill(carrier_of(process), signal.SIGKILL)
        assert process.stderr is not None
        assert any("the tunnel is down, its carrier has ended" in line for line in process.stderr)
        with capturing(network.client) as uplink:
            out, _ = process.communicate("\n", timeout=60)
        assert (process.returncode, out) == (9, "")
        assert uplink.sent == []


@pytest.mark.root
def test_killed_it_leaves_nothing(network: OwnNetwork) -> None:
    before = Standing.now()
    with staying(
        network, "nohup setsid sleep 1000 > /dev/null & trap '' TERM HUP INT; read line; sleep 1000"
    ) as process:
        assert before.left_of_killed(process) == []


@pytest.mark.root
def test_interrupted_while_it_climbs_it_takes_all_down(network: OwnNetwork) -> None:
    private, _ = generate()
    _, peer = generate()
    (network.directory / "silent.conf").write_text(
        f"[Interface]\nPrivateKey = {private.reveal()}\nAddress = 10.9.0.2/32\n"
        f"[Peer]\nPublicKey = {peer}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 198.18.7.99:51820\n"
    )
    plan = network.plan('[[tunnel]]\nname = "silent"\nconfig = "silent.conf"\n')
    process = network.vpntest("shell", str(plan), "--", "echo", "ran")
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and not any(map(is_wireguard, descendants(process.pid))):
        time.sleep(0.01)
    children = descendants(process.pid)
    assert any(map(is_wireguard, children))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=GRACE)
    assert (process.returncode, out, err) == (130, "", "")
    assert [child for child in children if exists(child)] == []


def is_wireguard(pid: int) -> bool:
    with suppress(OSError):
        return "-f" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return False


@pytest.mark.root
@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_it_takes_all_down(network: OwnNetwork, order: signal.Signals) -> None:
    with staying(network, "nohup setsid sleep 1000 > /dev/null & read line") as process:
        children = descendants(process.pid)
        process.send_signal(order)
        assert process.wait(timeout=GRACE) == 128 + order
        assert [child for child in children if exists(child)] == []


@pytest.mark.root
def test_what_goes_on_behind_a_command_ends_with_it(network: OwnNetwork) -> None:
    with staying(network, "setsid sleep 1000 > /dev/null 2>&1 & read line") as process:
        children = descendants(process.pid)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(timeout=GRACE) == 0
        assert [child for child in children if exists(child)] == []


# ── at a terminal ────────────────────────────────────────────────────────────────────────────────────────────────────


def shell_of(network: OwnNetwork) -> list[str]:
    return [sys.executable, "-m", "vpntest", "shell", str(network.plan(network.tunnel))]


@contextmanager
def outer_shell(network: OwnNetwork) -> Iterator[Terminal]:
    """The shell of the person who will call `vpntest shell`; its prompt is `outer: `."""
    with network.client.entered(), terminal("bash", "--norc", PS1="outer: ") as at:
        at.shows("outer: ")
        yield at


@pytest.mark.root
def test_keys_and_jobs_are_the_shells(network: OwnNetwork) -> None:
    with network.client.entered(), terminal(*shell_of(network)) as at:
        at.shows(r"a shell inside, as root")
        assert "no job control" not in at.shows(r"(?s).*\(vpntest good\) [^\n]*# ")
        at.types("echo $((6*7))\n")
        at.shows(r"\n42\r")
        at.types("sleep 1000\n")
        at.shows("sleep 1000\r\n")
        time.sleep(0.3)
        at.types("\x03")
        at.shows(r"\(vpntest good\)")
        at.types("echo got $?\n")
        at.shows("got 130")
        at.types("sleep 1000\n")
        at.shows("sleep 1000\r\n")
        time.sleep(0.3)
        at.types("\x1a")
        at.shows(r"Stopped +sleep 1000")
        at.types("kill %1; wait; curl -sk https://control.test/ip; echo\n")
        at.shows(EXIT)
        at.types("exit 5\n")
        assert at.program.wait(GRACE) == 5


@pytest.mark.root
def test_a_shell_that_stops_gives_the_terminal_back_and_goes_on(network: OwnNetwork) -> None:
    with outer_shell(network) as at:
        at.types(" ".join(shell_of(network)) + "\n")
        at.shows(r"\(vpntest good\) [^\n]*# ")
        at.types("suspend\n")
        at.shows(r"Stopped[^\n]*vpntest shell")
        at.shows("outer: ")
        at.types("echo $((6*7))\n")
        at.shows(r"\n42\r")
        at.types("fg\n")
        at.shows("vpntest shell")
        at.types("echo $((7*7)) $VPNTEST_TUNNEL\n")
        at.shows(r"\n49 good\r")
        at.types("exit 6\n")
        at.shows("outer: ")
        at.types("echo got $?; exit\n")
        at.shows("got 6")


@pytest.mark.root
def test_in_the_background_it_leaves_the_terminal_alone(network: OwnNetwork) -> None:
    with outer_shell(network) as at:
        at.types(" ".join(shell_of(network)) + " -- sh -c 'echo here; read x; echo so $x'\n")
        at.shows(r"\nhere\r")
        at.types("\x1a")
        at.shows(r"Stopped[^\n]*vpntest shell")
        at.types("bg; echo $((6*7))\n")
        at.shows(r"\n42\r")
        # It wants to read, and must wait for the terminal.
        at.types("jobs\n")
        while "Running" in at.shows(r"(Running|Stopped)[^\n]*vpntest shell"):
            time.sleep(0.1)
            at.types("jobs\n")
        at.types("fg\n")
        at.shows("vpntest shell")
        at.types("it went on\n")
        at.shows("so it went on")
        at.types("exit\n")


@pytest.mark.root
def test_killed_it_leaves_a_terminal_that_goes_on(network: OwnNetwork) -> None:
    with outer_shell(network) as at:
        at.types(" ".join(shell_of(network)) + "\n")
        at.shows(r"\(vpntest good\) [^\n]*# ")
        (ours, *its) = descendants(at.program.pid)
        assert its
        os.kill(ours, signal.SIGKILL)
        at.shows(r"Killed\r")
        at.types("echo $((6*7))\n")
        at.shows(r"\n42\r")
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(map(exists, its)):
            time.sleep(0.02)
        assert [child for child in its if exists(child)] == []


@pytest.mark.root
def test_nothing_inside_types_for_who_is_outside(network: OwnNetwork) -> None:
    """Root may do so whatever the kernel's switch says."""
    script = network.directory / "types.py"
    script.write_text(TYPES)
    with outer_shell(network) as at:
        at.types(" ".join([*shell_of(network), "--root", "--", "python3", "-"]) + f" tty < {script}\n")
        at.shows("1 1 1 97 97 opened")
        at.shows("outer: ")
        at.types(f"{shlex.join([*shell_of(network), '--root', '--', 'python3', '-c', TYPES, 'tty'])}\n")
        at.shows(r"\n1 1 1 97 97 opened")
        at.shows("outer: ")


@pytest.mark.root
@pytest.mark.parametrize("ends", ["exit 0", "kill -KILL $$", "read x"])
def test_the_terminal_is_left_as_it_was(network: OwnNetwork, ends: str) -> None:
    command = [*shell_of(network), "--", "sh", "-c", f"stty raw -echo; echo here; {ends}"]
    with network.client.entered(), terminal("sh", "-c", '"$@"; stty -a; echo over', "sh", *command) as at:
        at.shows("here")
        if ends == "read x":
            (ours, *_) = descendants(at.program.pid)
            os.kill(ours, signal.SIGTERM)
        modes = at.shows("(?s).*over").split()
    assert {"icanon", "echo", "opost"} <= set(modes)


@pytest.mark.root
def test_the_prompt_of_ones_own_is_kept(network: OwnNetwork) -> None:
    with tempfile.TemporaryDirectory(prefix="shell-test-", dir="/var/tmp") as home:
        Path(home, ".bashrc").write_text("PS1='mine> '\n")
        with network.client.entered(), terminal(*shell_of(network), HOME=home) as at:
            at.shows(r"\(vpntest good\) mine> ")
            at.types("exit\n")
            assert at.program.wait(GRACE) == 0


@pytest.mark.root
def test_a_command_gets_the_keys(network: OwnNetwork) -> None:
    script = "trap 'echo caught; exit 8' INT; echo here; read x"
    with network.client.entered(), terminal(*shell_of(network), "--", "sh", "-c", script) as at:
        at.shows(r"here\r")
        at.types("\x03")
        at.shows("caught")
        assert at.program.wait(GRACE) == 8


@pytest.mark.root
def test_what_a_stranger_calls_a_config_does_nothing_in_the_prompt(network: OwnNetwork, tmp_path: Path) -> None:
    made = Path("/run") / f"made-{os.getpid()}"
    label = f"$(touch${{IFS}}{made})`id`\\u\\$%n!;'\"\x1b[31m"
    (network.directory / "links.txt").write_text(network.uri.replace("#good", "#" + quote(label)) + "\n")
    plan = network.plan('[[tunnel]]\nname = "pack"\nconfig = "links.txt"\n')
    with network.client.entered(), terminal(sys.executable, "-m", "vpntest", "shell", str(plan)) as at:
        prompt = at.shows(r"\(vpntest [^\n]*# ")
        assert re.match(r"\(vpntest [a-z0-9._-]+\) ", prompt)
        at.types(f"ls {made}; exit\n")
        at.shows("cannot access")
        at.program.wait(GRACE)
    assert not made.exists()


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def vpntest(*arguments: object) -> tuple[int, str]:
    with redirect_stderr(StringIO()) as err:
        try:
            return main([*map(str, arguments)]), err.getvalue()
        except SystemExit as left:
            return int(left.code or 0), err.getvalue()


def test_one_tunnel_must_be_meant(tmp_path: Path) -> None:
    links = tmp_path / "links.txt"
    links.write_text("socks5://198.51.100.1:1080#one\nsocks5://198.51.100.2:1080#two\n")
    status, said = vpntest("shell", links, "--", "true")
    assert status == 2
    assert said == "vpntest: a shell is inside one tunnel: say which by --tunnel: links-one, links-two\n"
    status, said = vpntest("shell", "--tunnel", "three", links)
    assert status == 2
    assert "'three'; it has: links-one, links-two" in said


def test_a_config_that_is_broken_or_cannot_be_honoured_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.conf").write_text("")
    status, said = vpntest("shell", tmp_path / "bad.conf")
    assert (status, len(said.splitlines())) == (2, 1)
    assert said.startswith("vpntest: bad: invalid: ")
    (tmp_path / "far.txt").write_text("vless://6ba7b810-9dad-11d1-80b4-00c04fd430c8@198.51.100.1:443?type=xhttp#far\n")
    status, said = vpntest("shell", tmp_path / "far.txt")
    assert status == 4
    assert ": unsupported: " in said


def test_no_plan_is_a_slip_of_the_hand() -> None:
    assert vpntest("shell")[0] == 2
    assert vpntest("shell", "--", "true")[0] == 2
