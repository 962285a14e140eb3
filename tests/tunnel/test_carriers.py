from __future__ import annotations

from pathlib import Path

import pytest

from vpntest.plan.keys import generate
from vpntest.plan.model import (
    AmneziaParameters,
    Bridge,
    Config,
    Kind,
    OpenVpnConfig,
    Problem,
    ProxyConfig,
    Server,
    TorConfig,
    TunnelSpec,
    WireGuardConfig,
)
from vpntest.plan.secret import Secret
from vpntest.tunnel.carriers import Carrier, Carriers, answer, find

NAMES = ["kernel", "wireguard-go", "amneziawg-go", "openvpn", "sing-box", "tor"]
PROXY = ProxyConfig(Server("198.18.0.1", 443, "tcp"), {"type": "vless", "uuid": Secret("u")})


def _box(*usable: str, features: tuple[str, ...] = ()) -> Carriers:
    return Carriers(
        tuple(Carrier(name, None, "1.0", features, "" if name in usable else f"{name} is missing") for name in NAMES)
    )


def _spec(config: Config | None, problem: Problem | None = None) -> TunnelSpec:
    return TunnelSpec("x", Kind.UNKNOWN, "x.conf", config, problem)


def _wireguard(amnezia: AmneziaParameters | None = None) -> WireGuardConfig:
    return WireGuardConfig(generate()[0], ("198.19.0.2/32",), (), amnezia=amnezia)


def test_the_kernel_is_preferred_for_wireguard() -> None:
    assert _box("kernel", "wireguard-go").choose(_spec(_wireguard())) == "kernel"
    assert _box("wireguard-go").choose(_spec(_wireguard())) == "wireguard-go"


def test_obfuscation_is_never_given_to_what_cannot_do_it() -> None:
    obfuscated = _spec(_wireguard(AmneziaParameters((("jc", "3"),))))
    assert _box(*NAMES).choose(obfuscated) == "amneziawg-go"
    found = _box("kernel", "wireguard-go").choose(obfuscated)
    assert found == Problem("unsupported", "x.conf: amneziawg-go is missing")


def test_a_missing_program_is_named_with_what_to_do() -> None:
    openvpn = OpenVpnConfig((Server("198.18.0.1", 1194, "udp"),), (), ())
    assert _box().choose(_spec(openvpn)) == Problem("unsupported", "x.conf: openvpn is missing")
    assert _box().choose(_spec(_wireguard())) == Problem("unsupported", "x.conf: wireguard-go is missing")
    assert _box("openvpn").choose(_spec(openvpn)) == "openvpn"


def test_a_missing_feature_of_sing_box_is_named() -> None:
    reality = ProxyConfig(PROXY.server, PROXY.outbound, ("utls",))
    assert _box("sing-box").choose(_spec(PROXY)) == "sing-box"
    assert _box("sing-box", features=("with_utls",)).choose(_spec(reality)) == "sing-box"
    found = _box("sing-box", features=("with_quic",)).choose(_spec(reality))
    assert isinstance(found, Problem)
    assert found.mechanism == "unsupported"
    assert "with_utls" in found.reason


def _bridges(*transports: str | None) -> TunnelSpec:
    return _spec(TorConfig(tuple(Bridge(transport, "192.0.2.1:1", None, (), None) for transport in transports)))


def test_one_bridge_whose_transport_is_here_is_enough() -> None:
    box = _box("tor", "sing-box", features=("obfs4",))
    assert box.choose(_bridges("webtunnel", "obfs4")) == "tor"
    assert box.choose(_bridges(None, "webtunnel")) == "tor"
    found = box.choose(_bridges("webtunnel", "snowflake"))
    assert isinstance(found, Problem)
    assert found.mechanism == "unsupported"
    assert "webtunnel or snowflake" in found.reason


def test_bridges_that_nobody_here_speaks_for_are_said() -> None:
    box = _box("tor", "sing-box", features=("obfs4",))
    (found,) = box.left_out(_bridges("webtunnel", "obfs4", "webtunnel", "snowflake", None).config)
    assert found.level == "warning"
    assert found.text.startswith("3 of 5 bridges not tried: no program here speaks webtunnel or snowflake;")
    assert box.left_out(_bridges("obfs4", None).config) == ()
    assert box.left_out(PROXY) == ()
    # Where tor itself is missing, that is all there is to say.
    assert _box("sing-box").left_out(_bridges("webtunnel").config) == ()


def test_tor_needs_sing_box_before_it() -> None:
    assert _box("tor").choose(_bridges(None)) == Problem("unsupported", "x.conf: sing-box is missing")
    assert _box("sing-box").choose(_bridges(None)) == Problem("unsupported", "x.conf: tor is missing")


def test_transports_are_those_that_the_programs_offer_and_the_best_program_has_them(tmp_path: Path) -> None:
    _program(tmp_path, "tor", "echo 'Tor version 0.4.8.10.'")
    offer = (
        'for name in {}; do case ,$TOR_PT_CLIENT_TRANSPORTS, in *,$name,*) echo "CMETHOD $name socks5 {}" ;; esac; done'
    )
    _program(tmp_path, "lyrebird", offer.format("obfs4 webtunnel dust", "127.0.0.1:1"))
    _program(tmp_path, "obfs4proxy", offer.format("obfs4 obfs3", "127.0.0.1:2"))
    _program(tmp_path, "snowflake-client", "echo 'CMETHOD-ERROR snowflake no'; exit 1")
    found = find(str(tmp_path))["tor"]
    assert found.usable
    assert str(found) == "tor 0.4.8.10"
    assert dict(found.helpers) == {
        "obfs4": str(tmp_path / "lyrebird"),
        "webtunnel": str(tmp_path / "lyrebird"),
        "obfs3": str(tmp_path / "obfs4proxy"),
    }
    assert found.features == tuple(dict(found.helpers))


def test_an_old_tor(tmp_path: Path) -> None:
    _program(tmp_path, "tor", "echo 'Tor version 0.3.5.16.'")
    assert "0.3.5.16 is too old" in find(str(tmp_path))["tor"].hint


def test_a_problem_of_the_config_stays_its_own() -> None:
    problem = Problem("invalid", "x.conf: empty")
    assert _box(*NAMES).choose(_spec(None, problem)) is problem


def test_an_empty_box(tmp_path: Path) -> None:
    found = find(str(tmp_path))
    assert [row.name for row in found.rows] == NAMES
    programs = found.rows[1:]
    assert not any(row.usable for row in programs)
    assert all("is not installed" in row.hint for row in programs)
    assert all("; " in row.hint for row in programs), "what is missing; what to do"


def _program(directory: Path, name: str, body: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{body}\n")
    (directory / name).chmod(0o755)


def test_programs_that_do_not_run_or_are_too_old(tmp_path: Path) -> None:
    _program(tmp_path, "openvpn", "echo 'OpenVPN 2.4.7 x86_64-pc-linux-gnu [SSL (OpenSSL)]'; exit 1")
    _program(tmp_path, "wireguard-go", "exit 1")
    _program(tmp_path, "sing-box", "echo 'sing-box version 1.12.0'; echo; echo 'Tags: with_quic'")
    (tmp_path / "amneziawg-go").write_bytes(b"\x7fELF")
    (tmp_path / "amneziawg-go").chmod(0o755)
    found = find(str(tmp_path))
    assert "2.4.7 is too old" in found["openvpn"].hint
    assert "does not run" in found["wireguard-go"].hint
    assert "does not run" in found["amneziawg-go"].hint
    assert "without with_gvisor" in found["sing-box"].hint
    assert found["sing-box"].version == "1.12.0"


def test_a_sing_box_that_knows_no_namespaces_is_too_old(tmp_path: Path) -> None:
    _program(tmp_path, "sing-box", '[ "$1" = version ] && echo "Tags: with_gvisor,with_utls" || exit 1')
    assert "too old" in find(str(tmp_path))["sing-box"].hint


@pytest.mark.root
def test_what_hangs_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    _program(tmp_path, "hangs", f"echo begun; sleep 600 & echo $! > {tmp_path}/child; wait")
    status, said = answer([str(tmp_path / "hangs")], within=0.5)
    assert (status, said) == (-1, "begun\n")
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    # Killed; whoever is to reap it takes its time.
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_what_cannot_be_started_answers_nothing(tmp_path: Path) -> None:
    assert answer([str(tmp_path / "nothing")]) == (-1, "")


@pytest.mark.root
def test_this_box() -> None:
    found = find()
    assert found.any()
    for name in ("wireguard-go", "amneziawg-go", "openvpn", "sing-box", "tor"):
        assert found[name].usable, found[name].hint
    assert {"with_gvisor", "with_quic"} <= set(found["sing-box"].features)
    assert {"obfs4", "meek_lite"} <= set(found["tor"].features)
    assert str(found["openvpn"]).startswith("openvpn 2.")
    # The kernel either has WireGuard, or says that it has not; a program serves then.
    assert found["kernel"].usable or "wireguard-go" in found["kernel"].hint
