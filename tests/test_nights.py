"""`vpntest run`, night after night: it keeps what it prints, and exits with 1 for what it was asked to watch."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_network import SHADOWSOCKS_PORT, OwnNetwork, own_network

from vpntest.history.store import Store
from vpntest.tunnel.cage import Cage

pytestmark = pytest.mark.root


@pytest.fixture
def network() -> Iterator[OwnNetwork]:
    with contextlib.closing(Cage.open()) as cage, own_network(cage) as standing:
        yield standing


def test_a_run_is_kept_as_it_is_printed_and_a_tunnel_that_is_down_rings(network: OwnNetwork, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "runs.sqlite"
    words = ("--format", "json", "--db", str(kept), "--fail-on", "tunnel-down", "--fail-on", "regression")
    nobody_there = network.tunnel.replace(f":{SHADOWSOCKS_PORT}", ":9")
    assert nobody_there != network.tunnel
    status = {}
    other = network.tunnel.replace('"good"', '"other"')
    for name, tunnels, more in (("good", network.tunnel, ()), ("bad", nobody_there + other, ("--tunnel", "good"))):
        process = network.vpntest("run", str(network.plan(tunnels)), *words, *more)
        out, err = process.communicate(timeout=120)
        status[name] = process.returncode
        with Store(kept) as store:
            assert store.document("last").decode() == out.strip()
        assert ("--fail-on tunnel-down:" in err) == (name == "bad")
        assert ("no earlier run is kept" in err) == (name == "good")
    assert status == {"good": 0, "bad": 1}
    with Store(kept) as store:
        assert [line.tunnels_up for line in store.lines()] == [1, 0]
        first, second = store.nights()
        assert (first.whole, second.whole) == (True, False)
        assert store.watching("regression") == {first.id: True, second.id: True}


def test_a_run_is_kept_and_rings_whatever_becomes_of_its_output(network: OwnNetwork, tmp_path: Path) -> None:
    kept = tmp_path / "runs.sqlite"
    plan = network.plan(network.tunnel.replace(f":{SHADOWSOCKS_PORT}", ":9"))
    words = ("run", str(plan), "--db", str(kept), "--fail-on", "tunnel-down")
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody_reads, open("/dev/full", "w") as full_disk:
        for number, stdout in enumerate((nobody_reads, full_disk), 1):
            process = network.vpntest(*words, stdout=stdout)
            _, err = process.communicate(timeout=120)
            assert process.returncode == 1, err
            assert "--fail-on tunnel-down: good:" in err
            assert "Traceback" not in err
            assert ("cannot be written (No space left on device)" in err) == (stdout is full_disk)
            with Store(kept) as store:
                assert len(store.lines()) == number


def test_a_run_that_cannot_be_kept_is_still_printed(network: OwnNetwork, tmp_path: Path) -> None:
    kept = tmp_path / "runs.sqlite"
    with Store(kept, create=True):
        pass
    with sqlite3.connect(kept) as database:
        database.execute("CREATE TRIGGER no_room BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'no room'); END")
    database.close()
    process = network.vpntest("run", str(network.plan(network.tunnel)), "--format", "json", "--db", str(kept))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 4
    assert "no room" in err
    assert len(json.loads(out)["tunnels"]) == 1
