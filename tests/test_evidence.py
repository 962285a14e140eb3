"""A whole run with evidence: what is kept can be read, explained and judged again, and no secret is in it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from own_network import OwnNetwork, own_network

from vpntest.judge.judging import judge
from vpntest.judge.verdict import Judgement
from vpntest.plan.model import Plan
from vpntest.plan.read import read_plan
from vpntest.probe.observation import Record
from vpntest.report.document import decode, encode
from vpntest.report.explain import explain
from vpntest.run import Run
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.carriers import find
from vpntest.tunnel.evidence import Evidence
from vpntest.tunnel.raising import outside

pytestmark = pytest.mark.root

WRONG = "kingfisher-on-a-wire"
"""The password of a tunnel that its server does not know."""


@dataclass
class Kept:
    """A run that is over."""

    network: OwnNetwork
    plan: Plan
    directory: Path
    record: Record
    judgement: Judgement
    document: bytes


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    directory = tmp_path_factory.mktemp("run") / "evidence"
    with contextlib.closing(Cage.open()) as cage, own_network(cage) as network:
        userinfo = base64.urlsafe_b64encode(f"aes-128-gcm:{WRONG}".encode()).decode().rstrip("=")
        wrong = f'[[tunnel]]\nname = "wrong"\nuri = "ss://{userinfo}@198.18.7.99:8388"\n'
        plan = read_plan([network.plan(network.tunnel + wrong, run="attempts = 2")])
        evidence = Evidence(directory, plan)

        async def measured() -> Run:
            run = Run(plan, outside(network.client, plan.settings), cage, find(), lambda _: None, evidence)
            await run.measure()
            await evidence.end()
            return run

        run = asyncio.run(measured())
        assert not run.faults, run.faults
        record = run.record()
        judgement = judge(record)
        document = encode(record, judgement)
        evidence.keep(document)
        yield Kept(network, plan, directory, record, judgement, document)


def tcpdump(path: Path, *words: str) -> list[str]:
    argv = ["tcpdump", "-n", "-tt", "-r", str(path), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def test_every_vantage_has_its_packets(kept: Kept) -> None:
    entries = {one["file"]: one for one in json.loads((kept.directory / "evidence.json").read_text())["files"]}
    assert {"outside/line.pcap", "good/inside.pcap", "good/outer.pcap", "wrong/outer.pcap"} <= set(entries)
    for name in ("outside/line.pcap", "good/inside.pcap", "good/outer.pcap", "wrong/outer.pcap"):
        assert entries[name]["count"] == len(tcpdump(kept.directory / name)) > 10, name
        assert entries[name]["lost"] == entries[name]["left_out"] == 0
    assert any("www.example.test" in line for line in tcpdump(kept.directory / "outside/line.pcap", "udp port 53"))
    assert any("www.example.test" in line for line in tcpdump(kept.directory / "good/inside.pcap", "udp port 53"))
    assert tcpdump(kept.directory / "good/outer.pcap", "not (host 198.18.7.99 and port 8388)") == []
    assert tcpdump(kept.directory / "outside/line.pcap", "host 198.18.7.99 and port 8388") == []


def test_the_packets_are_those_of_the_observations(kept: Kept) -> None:
    """Each connection that a probe made on the line is in the file, at the second that its observation names."""
    began = int(kept.record.run.id.replace("-", "")[:12], 16) / 1000
    syns = [
        float(line.split()[0]) - began
        for line in tcpdump(kept.directory / "outside/line.pcap", "host 198.18.7.80 and tcp[tcpflags] == tcp-syn")
    ]
    made = [one for one in kept.record.observations if one.vantage == "outside" and one.operation == "connect"]
    assert made
    for one in made:
        assert any(one.t0 - 0.5 <= at <= one.t + 0.5 for at in syns), one


def test_no_secret_is_in_any_file(kept: Kept) -> None:
    files = [path for path in kept.directory.rglob("*") if path.is_file()]
    assert len(files) >= 7
    key = base64.b64decode(kept.network.password)
    userinfo = kept.network.uri.split("//")[1].split("@")[0]
    looks = [kept.network.password.encode(), key, key.hex().encode(), userinfo.encode(), userinfo.encode()[16:-4]]
    looks += [WRONG.encode(), WRONG.encode().hex().encode(), base64.b64encode(b"aes-128-gcm:" + WRONG.encode())[16:-4]]
    for path in files:
        content = path.read_bytes()
        for look in looks:
            assert look not in content, path


def test_the_run_is_kept_and_judged_again_to_the_byte(kept: Kept) -> None:
    content = (kept.directory / "run.json").read_bytes()
    assert content == kept.document
    again = decode(content)
    assert again == kept.record
    assert judge(again) == kept.judgement
    assert encode(again, judge(again)) == content
    first, second = json.loads(content), json.loads(encode(again, judge(again)))
    for part in ("tunnels", "outside", "cells"):
        assert json.dumps(first[part]) == json.dumps(second[part])
        assert first[part]


def test_a_run_is_judged_alike_by_another_process(kept: Kept) -> None:
    """Whatever order a set or a hash has there."""
    for seed in ("1", "2"):
        with kept.network.client.entered():
            process = kept.network.vpntest(
                "judge",
                str(kept.directory / "run.json"),
                "--format",
                "json",
                env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": seed},
            )
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.encode() == kept.document + b"\n"


def test_the_order_of_observations_is_all_that_a_document_keeps(kept: Kept) -> None:
    """A record with one observation less is another document: nothing is made up where something is missing."""
    fewer = msgspec.structs.replace(kept.record, observations=kept.record.observations[:-1])
    assert encode(fewer, judge(fewer)) != kept.document


@pytest.mark.parametrize("tunnel", ["outside", "good", "wrong"])
def test_it_is_explained_with_commands_that_work(kept: Kept, tunnel: str) -> None:
    text = explain(kept.record, kept.judgement, tunnel, "example", kept.directory)
    commands = [line.strip() for line in text.splitlines() if "tcpdump" in line]
    assert commands
    for command in commands:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        assert len(done.stdout.splitlines()) > 2, command
    assert str(kept.directory / tunnel) in text
