"""The lab's own Tor network, and a tunnel through it: everything real, but small."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from vpntest.failures import Failure
from vpntest.lab.network import Daemon, Host, Network, connects
from vpntest.lab.tor import EXIT, HOSTS, READY_WITHIN, Tor, raise_tor
from vpntest.plan import bridges
from vpntest.plan.model import OUTSIDE, Kind, Settings, TunnelSpec
from vpntest.tunnel import carriers, tor
from vpntest.tunnel.cage import Cage
from vpntest.tunnel.dns import ask
from vpntest.tunnel.ladder import Rung
from vpntest.tunnel.raising import Tunnel, raise_tunnel
from vpntest.tunnel.vantage import Vantage

pytestmark = pytest.mark.root

PUBLIC = "198.18.9.9"
BEHIND_THE_BRIDGE = ", ".join(host.addresses[0] for host in HOSTS if host.name != "tor-bridge")
BODY = bytes(range(256)) * 4096
"""1 MiB."""


@dataclass
class World:
    """A client, a Tor network, and behind it a web server and a resolver."""

    cage: Cage
    network: Network
    runner: asyncio.Runner
    tor: Tor
    web: Daemon

    @property
    def line(self) -> str:
        """What the client has of the bridge."""
        assert self.tor.tunnel.config is not None
        text = self.tor.tunnel.config[1]
        assert isinstance(text, str)
        return text

    async def raised(self, text: str | None = None, *, authorities: bool = True) -> Tunnel:
        config, _ = bridges.parse(text or self.line, "tor")
        spec = TunnelSpec(name="tor", kind=Kind.TOR, source="tor", config=config)
        settings = Settings(public_resolver=PUBLIC, tor_authorities=(self.tor.authority,) if authorities else ())
        outside = Vantage(OUTSIDE, self.network["client"], PUBLIC)
        return await raise_tunnel(spec, outside, self.cage, carriers.find(), settings, time.monotonic)

    @contextlib.contextmanager
    def ruled(self, host: str, rule: str) -> Iterator[None]:
        """One rule for all that passes a host, or comes to it."""
        chains = "\n".join(
            f"chain {hook} {{ type filter hook {hook} priority filter;\n{rule}\n}}" for hook in ("forward", "input")
        )
        self.network.run(host, ["nft", "-f", "-"], f"table inet cut {{\n{chains}\n}}\n")
        try:
            yield
        finally:
            self.network.run(host, ["nft", "delete", "table", "inet", "cut"], "")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("public")
    (folder / "body").write_bytes(BODY)
    with contextlib.closing(Cage.open()) as cage, asyncio.Runner() as runner:
        network = Network(cage)
        try:
            network.wire((*HOSTS, Host("public", (PUBLIC,))))

            async def stand() -> World:
                serving = ["-u", "-m", "http.server", "--bind", PUBLIC, "--directory", str(folder), "80"]
                web = network.start("public", [sys.executable, *serving])
                # As the lab's own resolvers have it.
                file = cage.directory / "dnsmasq"
                file.write_text(
                    f"user=root\ngroup=root\npid-file=\nlog-facility=-\nbind-interfaces\nno-resolv\nno-hosts\n"
                    f"listen-address={PUBLIC}\naddress=/#/198.18.77.7\n"
                )
                network.start("public", ["dnsmasq", "--keep-in-foreground", f"--conf-file={file}"])
                async with asyncio.timeout(READY_WITHIN):
                    await network.until(connects, "public", PUBLIC, 80)
                    await network.until(connects, "public", PUBLIC, 53)
                    made = await raise_tor(network, cage.directory / "tor", PUBLIC)
                return World(cage, network, runner, made, web)

            yield runner.run(stand())
        finally:
            runner.run(network.close())


def test_data_and_names_pass_and_the_exit_is_seen(world: World) -> None:
    async def scene() -> None:
        tunnel = await world.raised()
        try:
            assert [(step.rung, step.failure) for step in tunnel.steps] == [
                (rung, None) for rung in (Rung.CONFIG, Rung.ENDPOINT_DNS, Rung.ENDPOINT, Rung.HANDSHAKE, Rung.AUTH)
            ]
            vantage = tunnel.vantage
            assert vantage is not None
            assert vantage.alive()
            assert not vantage.carries_udp
            found = await ask(vantage.socket, PUBLIC, "any.example", "A", timeout=20.0, only_tcp=True)
            assert (found.answers, found.engine) == (("198.18.77.7",), "tcp"), found
            with vantage.netns.entered():
                done = subprocess.Popen(
                    ["curl", "-sS", "--max-time", "60", f"http://{PUBLIC}/body"], stdout=subprocess.PIPE
                )
            body, _ = await asyncio.to_thread(done.communicate)
            assert body == BODY
            await world.web.says(f"{EXIT} - - ")
        finally:
            await tunnel.lower()

    world.runner.run(scene())


def test_a_tunnel_dies_with_its_tor(world: World) -> None:
    async def scene() -> None:
        tunnel = await world.raised()
        try:
            assert tunnel.vantage is not None
            assert tunnel.vantage.alive()
            # The only one that reads its config from us.
            (ours,) = [one for one in world.cage._spawned if one.poll() is None and "'-f', '-'" in str(one.args)]
            ours.kill()
            async with asyncio.timeout(10):
                while tunnel.vantage.alive():
                    await asyncio.sleep(0.05)
        finally:
            await tunnel.lower()

    world.runner.run(scene())


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tor, "HANDSHAKE_TIMEOUT", 4.0)
    monkeypatch.setattr(tor, "HANDSHAKE_PATIENCE", 12.0)
    monkeypatch.setattr(tor, "CIRCUIT_PATIENCE", 12.0)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("host", "rule", "rung", "failure"),
    [
        ("censor", "tcp dport 8443 drop", Rung.ENDPOINT, Failure.TIMEOUT),
        ("censor", "tcp dport 8443 reject with tcp reset", Rung.ENDPOINT, Failure.CONNECTION_REFUSED),
        ("censor", "tcp dport 8443 tcp flags & psh == psh drop", Rung.HANDSHAKE, Failure.TIMEOUT),
        (
            "censor",
            "tcp dport 8443 tcp flags & psh == psh reject with tcp reset",
            Rung.HANDSHAKE,
            Failure.CONNECTION_RESET,
        ),
        # The bridge itself is well, and the network behind it is gone. By address: once a relay has connected to the
        # bridge, the bridge extends circuits over that connection too, whose far port is any.
        ("tor-bridge", f"ip saddr {{ {BEHIND_THE_BRIDGE} }} drop", Rung.AUTH, Failure.STALLED),
    ],
)
def test_where_it_is_cut_shows(world: World, host: str, rule: str, rung: Rung, failure: Failure) -> None:
    with world.ruled(host, rule):
        tunnel = world.runner.run(world.raised())
    world.runner.run(tunnel.lower())
    assert tunnel.vantage is None
    assert (tunnel.steps[-1].rung, tunnel.steps[-1].failure) == (rung, failure), tunnel.steps[-1]


@pytest.mark.usefixtures("hurried")
def test_a_bridge_of_another_identity_is_not_the_bridge(world: World) -> None:
    words = world.line.split()
    words[3] = "A1" * 20
    tunnel = world.runner.run(world.raised(" ".join(words)))
    world.runner.run(tunnel.lower())
    assert tunnel.steps[-1].rung == Rung.HANDSHAKE
    assert tunnel.steps[-1].failure is not None


@pytest.mark.usefixtures("hurried")
def test_a_closed_network_that_the_plan_does_not_know_is_none(world: World) -> None:
    tunnel = world.runner.run(world.raised(authorities=False))
    world.runner.run(tunnel.lower())
    assert tunnel.vantage is None
    assert tunnel.steps[-1].rung == Rung.AUTH
