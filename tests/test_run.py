"""`vpntest run` on a network that knows nothing of the lab: the user's own servers, platforms and roots."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from machine import Standing, await_carrier, descendants, state_of
from own_network import SHADOWSOCKS_PORT, OwnNetwork, own_network

from vpntest.plan.keys import generate
from vpntest.tunnel.cage import Cage

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def network() -> Iterator[OwnNetwork]:
    cage = Cage.open()
    try:
        with own_network(cage) as standing:
            yield standing
    finally:
        cage.close()


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def cells(document: dict) -> dict[tuple[str, str], str]:
    return {(cell["tunnel"], cell["platform"]): cell["outcome"] for cell in document["cells"]}


def test_a_good_tunnel_on_an_open_network(network: OwnNetwork) -> None:
    plan = network.plan(network.tunnel)
    status, out, err = finished(network.vpntest("run", str(plan), "--format", "json"))
    assert status == 0, err
    document = json.loads(out)
    assert document["schema"] == "vpntest.run/1"
    assert cells(document) == {("good", "example"): "open"}
    assert document["tunnels"][0]["stage"] == "up"
    # A tunnel that leaves by another address than ours, seen from the far side.
    exits = {
        seen["vantage"]: seen["details"]["address"]
        for seen in document["observations"]
        if seen["details"]["type"] == "address" and seen["details"]["of"] == "exit" and seen["details"]["family"] == 4
    }
    assert exits["outside"] == "198.18.7.2"
    # Which of its own addresses the server leaves by is its kernel's choice.
    assert exits["good"] in ("198.18.7.1", "198.18.7.80", "198.18.7.99")


def test_the_table_says_it_in_words(network: OwnNetwork) -> None:
    plan = network.plan(network.tunnel)
    status, out, err = finished(network.vpntest("run", str(plan), "--width", "100"))
    assert status == 0, err
    assert re.search(r"good\b.*\bopen\b", out)
    assert out.index("outside") < out.index("good")
    assert "\x1b" not in out


def test_a_terminal_is_told_how_far_it_has_come(network: OwnNetwork) -> None:
    ours, theirs = pty.openpty()
    result = network.directory / "result.csv"
    with network.client.entered():
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vpntest",
                "run",
                str(network.plan(network.tunnel)),
                "--format",
                "csv",
                "-o",
                result,
            ],
            stderr=theirs,
            cwd=network.directory,
            env={**os.environ, "TERM": "xterm"},
        )
    os.close(theirs)
    told = b""
    # At its end the other side hangs up: EIO.
    with suppress(OSError):
        while piece := os.read(ours, 4096):
            told += piece
    os.close(ours)
    assert process.wait(timeout=120) == 0, told
    lines = told.decode().split("\r\x1b[K")
    assert any(re.fullmatch(r"0:\d\d  raise and reach: 0 of 2 cells; good: \w+", one) for one in lines), lines
    assert "vpntest: good: measured\r\n" in lines
    assert lines[-1] == "", "the line is gone at the end"
    assert result.read_text().splitlines()[1].count(",good,") == 1
    result.unlink()


def test_a_bad_tunnel_costs_the_good_one_nothing(network: OwnNetwork) -> None:
    (network.directory / "empty.conf").write_text("")
    plan = network.plan('[[tunnel]]\nname = "bad"\nconfig = "empty.conf"\n' + network.tunnel)
    status, out, err = finished(network.vpntest("run", str(plan), "--format", "json"))
    assert status == 2
    assert [line for line in err.splitlines() if "empty.conf" in line and "empty" in line], err
    document = json.loads(out)
    assert cells(document) == {("bad", "example"): "tunnel-down", ("good", "example"): "open"}
    bad = document["tunnels"][0]
    assert (bad["name"], bad["mechanism"]) == ("bad", "invalid")


def test_wrong_password_is_a_dead_tunnel_and_no_secret_is_written(network: OwnNetwork) -> None:
    wrong = network.uri.replace(network.uri.split("//")[1].split("@")[0], "YWVzLTEyOC1nY206cGxhbnRlZC1zZWNyZXQtdmFsdWU")
    plan = network.plan(f'[[tunnel]]\nname = "wrong"\nuri = "{wrong}"\n')
    status, out, err = finished(network.vpntest("run", str(plan), "--format", "json"))
    assert status == 0, err
    assert cells(json.loads(out)) == {("wrong", "example"): "tunnel-down"}
    for secret in ("planted-secret-value", "YWVzLTEyOC1nY206cGxhbnRlZC1zZWNyZXQtdmFsdWU", network.password):
        assert secret not in out + err


def test_a_dead_line_is_said_and_nothing_is_judged(network: OwnNetwork) -> None:
    plan = network.plan(network.tunnel)
    with network.server.entered():
        subprocess.run(["ip", "link", "set", "down0", "down"], check=True)
    try:
        status, out, err = finished(network.vpntest("run", str(plan), "--format", "json"))
    finally:
        with network.server.entered():
            subprocess.run(["ip", "link", "set", "down0", "up"], check=True)
    assert status == 4
    assert "line itself is dead" in err
    assert json.loads(out)["cells"] == []


def scripted(network: OwnNetwork, script: str) -> subprocess.Popen[str]:
    """A run of the good tunnel by a script that has vpntest's arguments."""
    with network.client.entered():
        return subprocess.Popen(
            [sys.executable, "-c", script, "run", str(network.plan(network.tunnel)), "--format", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=network.directory,
        )


FAULTY = """
import sys
from vpntest.cli import main
from vpntest.probe.campaign import Campaign

real = Campaign.controls

async def controls(self, vantage, phase):
    if phase == "after" and vantage.id == "good":
        raise RuntimeError("planted")
    return await real(self, vantage, phase)

Campaign.controls = controls
sys.exit(main(sys.argv[1:]))
"""


def test_a_fault_of_ours_costs_its_own_part_only(network: OwnNetwork) -> None:
    status, out, err = finished(scripted(network, FAULTY))
    assert status == 3
    assert "planted" in err
    document = json.loads(out)
    assert document["cells"]
    assert [seen for seen in document["observations"] if seen["probe"] == "reach" and seen["vantage"] == "good"]


EVIDENCE = """
import sys
import vpntest.run
from vpntest.cli import main

class Evidence:
    async def begin(self, vantage, servers):
        say("begin", vantage.id, *servers)
        if vantage.id == %r:
            raise RuntimeError("planted")

    def of(self, tunnel):
        say("of", tunnel)
        return None

    async def end(self):
        say("end")

def say(*words):
    print("evidence:", *words, file=sys.stderr, flush=True)

real = vpntest.run.Run
vpntest.run.Run = lambda plan, outside, cage, carriers, notify, _: real(
    plan, outside, cage, carriers, notify, Evidence()
)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("fails", ["", "good"])
def test_evidence_is_kept_from_the_first_vantage_to_the_end(network: OwnNetwork, fails: str) -> None:
    status, out, err = finished(scripted(network, EVIDENCE % fails))
    assert [line.removeprefix("evidence: ") for line in err.splitlines() if line.startswith("evidence: ")] == [
        "begin outside",
        "of good",
        f"begin good 198.18.7.99:{SHADOWSOCKS_PORT}/tcp",
        "end",
    ]
    # What cannot be kept costs the run nothing but its status.
    assert status == (3 if fails else 0), err
    document = json.loads(out)
    assert cells(document) == {("good", "example"): "open"}
    names = [phase["name"] for phase in document["run"]["phases"]]
    assert names[-6:] == ["raise and reach", "speed", "freeze", "confirm", "controls again", "lower"]


def test_the_loads_of_a_good_tunnel(network: OwnNetwork) -> None:
    status, out, err = finished(network.vpntest("run", str(network.plan(network.tunnel)), "--format", "json"))
    assert status == 0, err
    seen = [one for one in json.loads(out)["observations"] if one["vantage"] == "good" and one["probe"] == "carry"]
    loads = [one["details"] for one in seen if one["details"]["type"] in ("crowd", "small", "transfer", "echo")]
    assert [one["type"] for one in loads] == ["crowd", "small", "transfer", "transfer", "transfer", "echo"]
    assert all(one["failure"] is None for one in seen)
    crowd, *_, echo = loads
    assert crowd["answered"] == [True] * crowd["wanted"]
    assert echo["received"] == echo["sent"] == len(echo["rtt_ms"])


def test_what_a_config_wants_done_on_this_machine_is_not_done(network: OwnNetwork) -> None:
    private, _ = generate()
    _, peer = generate()
    mine = network.directory / "mine"
    mine.write_text("precious")
    hook = f"/bin/sh -c 'echo ran > {network.directory}/ran'"
    (network.directory / "hooks.conf").write_text(
        f"[Interface]\nPrivateKey = {private.reveal()}\nAddress = 10.9.0.2/32\n"
        f"PreUp = {hook}\nPostUp = {hook}\nPreDown = {hook}\nPostDown = {hook}\nSaveConfig = true\n"
        f"[Peer]\nPublicKey = {peer}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 198.18.7.99:51820\n"
    )
    saved = (network.directory / "hooks.conf").read_text()
    certificate = (network.directory / "ca.pem").read_text()
    (network.directory / "hooks.ovpn").write_text(
        f"client\ndev tun\nproto udp\nremote 198.18.7.99 1194\nscript-security 2\n"
        f'up "{hook}"\nroute-up "{hook}"\nplugin {mine}\nlog {mine}\nstatus {mine}\nwritepid {mine}\n'
        f"<ca>\n{certificate}</ca>\n"
    )
    tunnels = "".join(f'[[tunnel]]\nname = "{kind}"\nconfig = "hooks.{kind}"\n' for kind in ("conf", "ovpn"))
    status, out, err = finished(network.vpntest("run", str(network.plan(tunnels)), "--format", "json"))
    assert status in (0, 2), err
    assert {outcome for outcome in cells(json.loads(out)).values()} == {"tunnel-down"}
    for word in ("PostUp", "up", "plugin", "log", "writepid"):
        assert word in err
    assert not (network.directory / "ran").exists()
    assert mine.read_text() == "precious"
    assert (network.directory / "hooks.conf").read_text() == saved


def test_the_underlay_is_the_same_before_and_after(network: OwnNetwork) -> None:
    before = state_of(network.client)
    status, _, err = finished(network.vpntest("run", str(network.plan(network.tunnel))))
    assert status == 0, err
    assert state_of(network.client) == before


def test_interrupted_it_takes_all_down_and_prints_what_it_has(network: OwnNetwork) -> None:
    process = network.vpntest("run", str(network.plan(network.tunnel)), "--format", "json")
    await_carrier(process.pid)
    process.send_signal(signal.SIGINT)
    status, out, err = finished(process)
    assert status == 130, err
    document = json.loads(out)
    assert document["run"]["complete"] is False
    assert descendants(process.pid) == []


@pytest.mark.parametrize("patience", [0.0, 0.15, 0.6, 2.0])
def test_killed_at_any_moment_it_leaves_nothing(network: OwnNetwork, tmp_path: Path, patience: float) -> None:
    before = Standing.now()
    process = network.vpntest("run", str(network.plan(network.tunnel)), env={**os.environ, "TMPDIR": str(tmp_path)})
    await_carrier(process.pid)
    time.sleep(patience)
    assert before.left_of_killed(process) == []
    assert os.listdir(tmp_path) == []


def test_two_runs_at_once_do_not_disturb_each_other(network: OwnNetwork) -> None:
    """The second one waits for the first: else each would take the other's traffic for a slow line."""
    plan = str(network.plan(network.tunnel))
    first = network.vpntest("run", plan, "--format", "json")
    await_carrier(first.pid)
    second = network.vpntest("run", plan, "--format", "json")
    runs = []
    for process in (first, second):
        status, out, err = finished(process)
        assert status == 0, err
        document = json.loads(out)
        assert cells(document) == {("good", "example"): "open"}
        runs.append(document["run"])
    assert err == f"vpntest: another run or a shell (process {first.pid}) is on this line; waiting for its end\n"
    begun = [datetime.fromisoformat(run["started"]) for run in runs]
    # A start is said to the second below.
    assert begun[1] >= begun[0] + timedelta(seconds=runs[0]["seconds"] - 1)


def test_who_waits_for_another_run_can_be_interrupted(network: OwnNetwork) -> None:
    plan = str(network.plan(network.tunnel))
    first = network.vpntest("run", plan)
    await_carrier(first.pid)
    second = network.vpntest("run", plan)
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    second.send_signal(signal.SIGINT)
    assert finished(second)[0] == 130
    assert finished(first)[0] == 0
