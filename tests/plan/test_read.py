"""What a plan file, a folder and single configs come to, and what is said of those that are broken."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import ConfigError, UsageError, VpntestError
from vpntest.plan import read
from vpntest.plan.archives import MAX_ARCHIVE_BYTES
from vpntest.plan.keys import generate
from vpntest.plan.model import (
    CommandConfig,
    Entry,
    Finding,
    Kind,
    OpenVpnConfig,
    Plan,
    Problem,
    ProxyConfig,
    Server,
    Settings,
    TunnelSpec,
    WireGuardConfig,
)
from vpntest.plan.platforms import built_in
from vpntest.plan.read import found, read_plan
from vpntest.plan.secret import Secret

PRIVATE, PUBLIC = generate()
WORD = "hush0f1e2d3c4b5a6978"
SECRETS = (PRIVATE.reveal(), WORD, base64.b64encode(f"aes-128-gcm:{WORD}".encode()).decode().rstrip("="))

INTERFACE = f"[Interface]\nPrivateKey = {PRIVATE.reveal()}\nAddress = 10.7.0.2/24\n"
PEER = f"[Peer]\nPublicKey = {PUBLIC}\nEndpoint = vpn.example:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n"
WIREGUARD = INTERFACE + PEER
AMNEZIA = INTERFACE + "Jc = 4\nJmin = 40\nJmax = 70\n" + PEER
OPENVPN = "client\ndev tun\nremote vpn.example 1194\nca ca.crt\nauth-user-pass\n"
OPENVPN_BY_KEY = "client\ndev tun\nremote vpn.example 1194\n" + "".join(
    f"<{name}>\n-----BEGIN {label}-----\nx\n-----END {label}-----\n</{name}>\n"
    for name, label in (("ca", "CERTIFICATE"), ("cert", "CERTIFICATE"), ("key", "PRIVATE KEY"))
)
AUTHORITY = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
LINK = f"trojan://{WORD}@vpn.example:443#x"


def _write(folder: Path, **files: str) -> Path:
    """Files by name, with `_` for the dot: `a_conf` is a.conf."""
    for name, content in files.items():
        (folder / ".".join(name.rsplit("_", 1))).write_text(content)
    return folder


def _said(plan: Plan) -> list[str]:
    """Every word of a plan that a person may get to see."""
    said = [repr(plan)]
    for tunnel in plan.tunnels:
        said += [tunnel.source, *tunnel.warnings, *([tunnel.problem.reason] if tunnel.problem else [])]
    return said


def _read(*paths: Path) -> Plan:
    plan = read_plan(paths)
    assert not any(secret in text for secret in SECRETS for text in _said(plan))
    for tunnel in plan.tunnels:
        assert (tunnel.config is None) == (tunnel.problem is not None)
        assert tunnel.problem is None or "\n" not in tunnel.problem.reason
    return plan


def _refused(*paths: Path) -> VpntestError:
    with pytest.raises((UsageError, ConfigError)) as caught:
        read_plan(paths)
    said = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in said
    assert not any(secret in said for secret in SECRETS)
    return caught.value


# ── folders and files ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_a_plan(tmp_path: Path) -> None:
    _write(tmp_path, sweden_conf=WIREGUARD, Norway_conf=AMNEZIA, iceland_ovpn=OPENVPN, ca_crt=AUTHORITY, link_txt=LINK)
    _write(
        tmp_path, README_md="# My servers\nclient of mine\n", key_key="x", plan_toml="[run]\n", _hidden_conf=WIREGUARD
    )
    (tmp_path / "_hidden.conf").rename(tmp_path / ".hidden.conf")
    (tmp_path / "more.conf").mkdir()
    plan = _read(tmp_path)
    assert [(tunnel.name, tunnel.kind, tunnel.source) for tunnel in plan.tunnels] == [
        ("norway", Kind.AMNEZIAWG, "Norway.conf"),
        ("iceland", Kind.OPENVPN, "iceland.ovpn"),
        ("link-x", Kind.TROJAN, "link.txt"),
        ("sweden", Kind.WIREGUARD, "sweden.conf"),
    ]
    assert plan.platforms == built_in()
    assert plan.settings == Settings()


def test_programs_beside_configs_are_none(tmp_path: Path) -> None:
    _write(tmp_path, a_conf=WIREGUARD, b_py=f'link = "{LINK}"\n', b_txt=f'link = "{LINK}"\n')
    assert [tunnel.source for tunnel in _read(tmp_path).tunnels] == ["a.conf", "b.txt"]


def test_the_kind_follows_from_the_content_and_not_from_the_name(tmp_path: Path) -> None:
    _write(tmp_path, a_ovpn=WIREGUARD, b_conf=OPENVPN_BY_KEY, c_conf=LINK, ca_crt=AUTHORITY)
    plan = _read(tmp_path)
    assert [tunnel.kind for tunnel in plan.tunnels] == [Kind.WIREGUARD, Kind.OPENVPN, Kind.TROJAN]
    assert [type(tunnel.config) for tunnel in plan.tunnels] == [WireGuardConfig, OpenVpnConfig, ProxyConfig]


def test_names_are_slugs_that_stay_and_differ(tmp_path: Path) -> None:
    names = [
        "sweden.conf",
        "sweden.ovpn",
        "Norway 1!.conf",
        "outside.conf",
        "Швеция.conf",
        "Zürich.conf",
        "x" * 90 + ".conf",
    ]
    for name in names:
        (tmp_path / name).write_text(WIREGUARD)
    first = {tunnel.source: tunnel.name for tunnel in _read(tmp_path).tunnels}
    assert first["sweden.conf"] == "sweden.conf"
    assert first["sweden.ovpn"] == "sweden.ovpn"
    assert first["Norway 1!.conf"] == "norway-1"
    assert first["Zürich.conf"] == "zurich"
    assert first["x" * 90 + ".conf"].startswith("x" * 50)
    assert first["outside.conf"] != "outside"
    assert len(set(first.values())) == len(names)
    os.unlink(tmp_path / "Norway 1!.conf")
    assert {tunnel.source: tunnel.name for tunnel in _read(tmp_path).tunnels}.items() < first.items()


ENTRIES = [
    Entry(
        Kind.TROJAN, ProxyConfig(Server(f"{letter}.example", 443, "tcp"), {"type": "trojan", "password": Secret(WORD)})
    )
    for letter in "ab"
]


@given(
    sources=st.lists(
        st.tuples(
            st.text(max_size=80), st.lists(st.tuples(st.sampled_from(ENTRIES), st.text(max_size=40)), max_size=4)
        ),
        max_size=6,
    )
)
def test_any_names_become_different_slugs(sources: list[tuple[str, list[tuple[Entry, str]]]]) -> None:
    groups = [
        (
            read._Source("x", tuple(map(read._slug, (stem, f"{stem}.conf", f"in-{stem}"))), b"", lambda name: b""),
            [msgspec.structs.replace(entry, label=label, line=line) for line, (entry, label) in enumerate(found, 1)],
        )
        for stem, found in sources
    ]
    tunnels = read._tunnels(groups)
    names = [tunnel.name for tunnel in tunnels]
    assert all(read.platforms.is_slug(name) and name != "outside" for name in names)
    assert len(set(names)) == len(names)
    assert read._tunnels(groups) == tunnels


STEMS = ["links", "links-de", "a" * 40 + "-east", "a" * 40 + "-west", "de"]
LABELS = ["", "", "DE", "de", "SE", "de-2", "SE" * 20 + "1", "SE" * 20 + "2"]
_BEHIND_ONE_CDN = [
    Entry(
        Kind.VLESS, ProxyConfig(Server("a.example", 443, "tcp"), {"type": "vless", "host": host, "uuid": Secret(uuid)})
    )
    for host in ("x.example", "y.example")
    for uuid in ("1", "2", "3")
]
_BROKEN = Entry(Kind.UNKNOWN, None, Problem("invalid", "x"))
_Lists = dict[tuple[str, str, str], list[tuple[str, Entry]]]


def _of_lists(lists: _Lists) -> dict[str, bytes | None]:
    """The config of each name."""
    groups = []
    for (folder, stem, what), rows in lists.items():
        whole = what == "a config"
        names = (stem, f"{stem}.txt", f"{folder}-{stem}.txt")
        ways = tuple(map(read._slug, names[: 1 if what == "of the plan" else 3]))
        found = [
            msgspec.structs.replace(entry, label="" if whole else label, line=None if whole else line)
            for line, (label, entry) in enumerate(rows[: 1 if whole else None], 1)
        ]
        groups.append((read._Source("x", ways, b"", lambda name: b""), found))
    tunnels = read._tunnels(groups)
    assert all(read.platforms.is_slug(tunnel.name) for tunnel in tunnels)
    assert len({tunnel.name for tunnel in tunnels}) == len(tunnels)
    return {tunnel.name: read._digest(tunnel.config) if tunnel.config else None for tunnel in tunnels}


@given(
    lists=st.dictionaries(
        st.tuples(
            st.sampled_from(["in", "out"]),
            st.sampled_from(STEMS),
            st.sampled_from(["a config", "a list", "of the plan"]),
        ),
        st.lists(
            st.tuples(st.sampled_from(LABELS), st.sampled_from([*_BEHIND_ONE_CDN, *ENTRIES, _BROKEN])),
            min_size=1,
            max_size=5,
        ),
        max_size=4,
    ),
    data=st.data(),
)
def test_a_name_passes_to_no_other_config(lists: _Lists, data: st.DataObject) -> None:
    """Whatever comes or goes, files or lines, and in whatever order: seen from the one night as from the other."""
    fewer: _Lists = {}
    for key in data.draw(st.permutations(list(lists))):
        whole = key[2] == "a config"
        rows = lists[key] if whole else data.draw(st.permutations(lists[key]))
        gone = data.draw(st.integers(0, len(rows)))
        if gone == 0 or (gone < len(rows) and not whole):
            fewer[key] = rows[gone:]
    before, after = _of_lists(lists), _of_lists(fewer)
    both = {name for name in before.keys() & after.keys() if before[name] and after[name]}
    assert {name: after[name] for name in both} == {name: before[name] for name in both}


def test_a_lone_label_gives_its_name_and_a_digest_stays(tmp_path: Path) -> None:
    """What the names above must also be: the same for what is left."""
    one, two = (
        f"vless://{'0' * 8}-0000-4000-8000-00000000000{digit}@192.0.2.1:443?type=ws&host=h{digit}.example"
        for digit in "12"
    )
    path = tmp_path / "s.txt"
    path.write_text(f"{one}\n{two}\n")
    first, second = _names(_read(path))
    path.write_text(f"{two}\n")
    assert _names(_read(path)) == [second]
    path.write_text(f"{two}#a\n{two}#b\n{one}\n")
    assert _names(_read(path)) == ["s-a", first]
    path.write_text(f"{two}#b\n{one}\n{two}#a\n")
    assert _names(_read(path)) == ["s-a", first]


def test_configs_one_by_one_and_folders_together(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    _write(tmp_path / "folder", b_conf=WIREGUARD)
    _write(tmp_path, a_conf=WIREGUARD)
    plan = _read(tmp_path / "folder", tmp_path / "a.conf")
    assert [tunnel.name for tunnel in plan.tunnels] == ["b", "a"]


def test_no_message_and_no_source_holds_the_way_to_a_file(tmp_path: Path) -> None:
    """They end up in reports, and a home folder has a person's name."""
    _write(
        tmp_path, a_conf=INTERFACE, b_conf=WIREGUARD.replace("[Peer]", "PostUp = x\n[Peer]"), c_conf="", d_ovpn=OPENVPN
    )
    plan = _read(tmp_path)
    assert [bool(tunnel.problem) for tunnel in plan.tunnels] == [True, False, True, True]
    assert not any(str(tmp_path) in text for text in _said(plan))


def test_a_config_gets_nothing_of_its_neighbours(tmp_path: Path) -> None:
    """A stranger's config that names a neighbour's file as its login or its authority, beside one that is well."""
    evil = "client\nremote evil.example\n<ca>\nx\n</ca>\nauth-user-pass mine.conf\n"
    for name, text in (("a", evil), ("b", evil.replace("mine.conf", "login")), ("c", "client\nca mine.conf\n")):
        (tmp_path / f"{name}.ovpn").write_text(text)
    (tmp_path / "login").write_text(f"user\n{WORD}\n")
    _write(tmp_path, mine_conf=WIREGUARD)
    *evils, mine = _read(tmp_path).tunnels
    assert mine.config is not None
    assert all(tunnel.problem for tunnel in evils)


NAMES = {
    b"a\xff.conf": "a\ufffd.conf",
    b"b\x1b[2J\n.conf": "b\ufffd[2J\ufffd.conf",
    "c\u202egpj.conf".encode(): "c\ufffdgpj.conf",
    "Швеция 1.conf".encode(): "Швеция 1.conf",
}


def test_a_file_is_called_by_what_can_be_shown(tmp_path: Path) -> None:
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text(INTERFACE.replace("Address", "Adress"))
    plan = _read(tmp_path)
    assert sorted(tunnel.source for tunnel in plan.tunnels) == sorted(NAMES.values())
    for tunnel in plan.tunnels:
        assert tunnel.problem is not None
        assert tunnel.problem.reason.startswith(tunnel.source)
        assert msgspec.json.decode(msgspec.json.encode(tunnel.problem)) == {
            "mechanism": "invalid",
            "reason": tunnel.problem.reason,
        }


def test_a_path_that_cannot_be_shown_is_no_riddle(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b"))
    folder.mkdir()
    (folder / "plan.toml").write_text("")
    for path in (folder, folder / "gone", folder / "gone.toml", folder / "plan.toml"):
        said = str(_refused(path))
        assert said.isprintable()
        assert "\ufffd\ufffd" in said
    with pytest.raises(UsageError) as caught:
        read_plan([folder / "plan.toml", folder])
    assert str(caught.value).isprintable()


def test_a_path_in_a_plan_is_shown_safely(plan_of: Callable[[str], Path]) -> None:
    tunnel = _only(_read(plan_of('[[tunnel]]\nname = "x"\nconfig = "\u202egone.conf"\n')))
    assert tunnel.source == "\ufffdgone.conf"


BAD: dict[str, tuple[bytes, Kind, str, str]] = {
    "empty": (b"", Kind.UNKNOWN, "invalid", "empty"),
    "blank": (b"\n \n", Kind.UNKNOWN, "invalid", "empty"),
    "binary": (b"\x7fELF\x02\x00\x00", Kind.UNKNOWN, "invalid", "binary"),
    "not UTF-8": (b"[Interface]\nDNS = \xd8\xe2\n", Kind.UNKNOWN, "invalid", "x.conf:2: not UTF-8"),
    "no config": (b"hello\n", Kind.UNKNOWN, "invalid", "neither a wg-quick config"),
    "too large": (b"#" * ((1 << 20) + 1), Kind.UNKNOWN, "invalid", "larger than 1024 KiB"),
    "wrong length": (
        WIREGUARD.replace(PRIVATE.reveal(), PRIVATE.reveal()[1:]).encode(),
        Kind.WIREGUARD,
        "invalid",
        "44",
    ),
    "unknown key": ((INTERFACE + "Foo = 1\n" + PEER).encode(), Kind.WIREGUARD, "invalid", "x.conf:4: unknown key"),
    "port 70000": (WIREGUARD.replace("51820", "70000").encode(), Kind.WIREGUARD, "invalid", "port"),
    "unknown directive": (b"client\nremote a.example\nfoo\n", Kind.OPENVPN, "invalid", "x.conf:3: unknown directive"),
    "no such file": (OPENVPN.encode(), Kind.OPENVPN, "invalid", "x.conf:4: the file of `ca` cannot be read"),
    "outside the folder": (b"client\nca ../../etc/passwd\n", Kind.OPENVPN, "invalid", "outside"),
    "static key": (b"dev tun\nsecret x\n", Kind.OPENVPN, "unsupported", "secret"),
    "a scheme that is not carried": (f"ssr://{WORD}".encode(), Kind.UNKNOWN, "unsupported", "x.conf:1: ssr"),
    "a transport": (f"trojan://{WORD}@a.example?type=xhttp".encode(), Kind.TROJAN, "unsupported", "type=xhttp"),
    "a web page": (b"<!DOCTYPE html>", Kind.UNKNOWN, "invalid", "web page"),
}


@pytest.mark.parametrize(("content", "kind", "mechanism", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_config_costs_its_own_tunnel_and_says_why(
    tmp_path: Path, content: bytes, kind: Kind, mechanism: str, reason: str
) -> None:
    (tmp_path / "x.conf").write_bytes(content)
    _write(tmp_path, y_conf=WIREGUARD)
    bad, good = _read(tmp_path).tunnels
    assert good.config is not None
    assert (bad.name, bad.kind) == ("x" if b"://" not in content else "x-line-1", kind)
    assert bad.problem is not None
    assert bad.problem.mechanism == mechanism
    assert reason in bad.problem.reason
    assert bad.problem.reason.startswith("x.conf")


def test_a_file_that_is_too_large_is_told_where_it_begins_like_a_config(tmp_path: Path) -> None:
    for name, begin in (("links.txt", LINK.encode() + b"\n"), ("film.txt", b"\0\1"), ("notes.txt", b"# mine\n")):
        with open(tmp_path / name, "wb") as file:
            file.write(begin)
            file.truncate(MAX_ARCHIVE_BYTES + 1)
    tunnel = _only(_read(tmp_path))
    assert tunnel.source == "links.txt"
    assert tunnel.problem == Problem("invalid", "links.txt: larger than 65536 KiB")


def test_a_device_or_a_pipe_is_no_config(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.conf")
    (tmp_path / "zero.conf").symlink_to("/dev/zero")
    _write(tmp_path, y_conf=WIREGUARD)
    pipe, good, zero = _read(tmp_path).tunnels
    assert good.config is not None
    assert pipe.problem is not None
    assert "regular" in pipe.problem.reason
    assert zero.problem is not None
    assert (zero.problem.mechanism, zero.problem.reason) == (
        "refused",
        "zero.conf: a link that leads out of the folder",
    )
    (named,) = _read(tmp_path / "zero.conf").tunnels
    assert named.problem is not None
    assert "regular" in named.problem.reason


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([], "nothing to read"),
        (["missing.conf"], "no such file"),
        (["missing"], "no such file"),
        (["missing.toml"], "no such file"),
        (["empty"], "no config in this folder"),
        (["a.conf", "missing.conf"], "no such file"),
        (["plan.toml", "a.conf"], "a plan stands alone"),
    ],
)
def test_paths_that_make_no_plan(tmp_path: Path, paths: list[str], reason: str) -> None:
    (tmp_path / "empty").mkdir()
    _write(tmp_path, a_conf=WIREGUARD, plan_toml="")
    assert reason in str(_refused(*(tmp_path / path for path in paths)))


def test_without_permission_to_read() -> None:
    """In a process without root's power to read everything."""
    code = """if True:
        import os, sys
        from pathlib import Path
        from vpntest.errors import UsageError, ConfigError
        from vpntest.plan.read import read_plan
        if os.geteuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        for path in map(Path, sys.argv[1:]):
            try:
                read_plan([path])
            except (UsageError, ConfigError) as fault:
                print(fault.exit_code, fault)
        """
    # Not pytest's own folder: that is its owner's alone, and the one who asks here is nobody.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "folder").mkdir(mode=0)
        _write(folder, a_conf=WIREGUARD, plan_toml="[run]\n")
        paths = [folder / "folder", folder / "a.conf", folder / "plan.toml"]
        for path in paths[1:]:
            path.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", code, *paths],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        paths[0].chmod(0o700)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"2 {path}" for path in paths]
    assert all("permission denied" in line for line in lines)


# ── the plan file ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[[str], Path]:
    _write(tmp_path, sweden_conf=WIREGUARD)

    def write(text: str) -> Path:
        (tmp_path / "plan.toml").write_text(text)
        return tmp_path / "plan.toml"

    return write


TUNNEL = '[[tunnel]]\nname = "sweden"\nconfig = "sweden.conf"\n'


def test_a_whole_plan(tmp_path: Path, plan_of: Callable[[str], Path]) -> None:
    root = trustme.CA().cert_pem.bytes()
    (tmp_path / "roots.pem").write_bytes(root)
    (tmp_path / "ovpn").mkdir()
    _write(tmp_path / "ovpn", client_ovpn=OPENVPN, ca_crt=AUTHORITY)
    _write(
        tmp_path,
        mine_toml='id = "mine"\ntitle = "M"\n[[service]]\nid = "web"\nendpoint = [{ url = "https://m.example/" }]\n',
    )
    plan = _read(
        plan_of(f"""
[run]
attempts = 5
ca_file = "roots.pem"
resolver = "198.18.0.53"
public_resolver = "198.18.0.99"
control = ["https://control.example/64k", "http://control.example/204"]
upload = "https://control.example/upload"
bulk = "https://control.example/1m"
exit_address = "https://control.example/ip"
whoami = "WHOAMI.example."
neutral_name = "neutral.example"
platforms = ["telegram", "./mine.toml", "signal"]
[addresses]
"149.154.167.51" = "198.18.0.7"
"2001:067C::1" = "fd00::7"
{TUNNEL}
[[tunnel]]
name = "iceland"
config = "ovpn/client.ovpn"
username = "user"
password = "{WORD}"
[[tunnel]]
name = "link"
uri = "{LINK}"
""")
    )
    assert plan.settings == Settings(
        attempts=5,
        ca_pem=root.decode(),
        resolver="198.18.0.53",
        public_resolver="198.18.0.99",
        control=("https://control.example/64k", "http://control.example/204"),
        upload="https://control.example/upload",
        bulk="https://control.example/1m",
        exit_address="https://control.example/ip",
        whoami="whoami.example",
        neutral_name="neutral.example",
        addresses={"149.154.167.51": "198.18.0.7", "2001:67c::1": "fd00::7"},
    )
    assert [platform.id for platform in plan.platforms] == ["telegram", "mine", "signal"]
    sweden, iceland, link = plan.tunnels
    assert (sweden.kind, sweden.source) == (Kind.WIREGUARD, "sweden.conf")
    assert (link.kind, link.source) == (Kind.TROJAN, "uri")
    assert iceland.source == "ovpn/client.ovpn"
    assert isinstance(iceland.config, OpenVpnConfig)
    assert (iceland.config.username, iceland.config.password) == (Secret("user"), Secret(WORD))


def test_the_least_plan(plan_of: Callable[[str], Path]) -> None:
    plan = _read(plan_of(TUNNEL))
    assert plan.settings == Settings()
    assert plan.platforms == built_in()


def test_the_example_is_a_plan() -> None:
    plan = read_plan([read.platforms.configs() / "plan.example.toml"])
    assert [tunnel.name for tunnel in plan.tunnels] == ["sweden", "norway", "reality", "pack", "own-client"]


def test_upload_and_bulk_follow_the_control(plan_of: Callable[[str], Path]) -> None:
    plan = _read(plan_of('[run]\ncontrol = ["https://a.example/", "https://b.example/"]\n' + TUNNEL))
    assert (plan.settings.upload, plan.settings.bulk) == ("https://a.example/", "https://a.example/")


def _only(plan: Plan) -> TunnelSpec:
    (tunnel,) = plan.tunnels
    return tunnel


@pytest.mark.parametrize(
    ("lines", "mechanism", "reason"),
    [
        ('config = "gone.conf"', "invalid", "gone.conf: cannot be read: no such file"),
        ('config = "empty/"', "invalid", "no such file"),
        (f'uri = "trojan://{WORD}@a.example:70000"', "invalid", "[[tunnel]] 1 (x): the port"),
        (f'uri = "trojan://{WORD}@a.example?type=xhttp"', "unsupported", "[[tunnel]] 1 (x): `type=xhttp`"),
        (f'uri = "ssr://{WORD}"', "unsupported", "ssr"),
        (f'uri = "{WORD}"', "invalid", "not a share link"),
        ('uri = ""', "invalid", "not a share link"),
    ],
)
def test_a_bad_tunnel_costs_itself_only(
    plan_of: Callable[[str], Path], lines: str, mechanism: str, reason: str
) -> None:
    tunnel = _only(_read(plan_of('[[tunnel]]\nname = "x"\n' + lines)))
    assert tunnel.problem is not None
    assert tunnel.problem.mechanism == mechanism
    assert reason in tunnel.problem.reason


def test_a_login_is_not_said_to_be_without_use_where_nothing_could_be_read(plan_of: Callable[[str], Path]) -> None:
    tunnel = _only(_read(plan_of(f'[[tunnel]]\nname = "x"\nconfig = "gone"\nusername = "u"\npassword = "{WORD}"\n')))
    assert tunnel.problem is not None
    assert not tunnel.findings


def test_a_login_that_is_asked_for_and_not_said(plan_of: Callable[[str], Path], tmp_path: Path) -> None:
    """A file is sound for who checks it; a plan that lacks it cannot be run as it stands."""
    (tmp_path / "asks.ovpn").write_text(f"{OPENVPN_BY_KEY}\nauth-user-pass\n")
    ((_, alone),) = read.found([tmp_path / "asks.ovpn"])
    assert alone.problem is None
    assert [finding.level for finding in alone.findings if "user name" in finding.text] == ["warning"]
    plan = plan_of('[[tunnel]]\nname = "asks"\nconfig = "asks.ovpn"\n')
    ((_, entry),) = read.found([plan])
    assert entry.problem == _only(_read(plan)).problem
    tunnel = _only(_read(plan))
    assert tunnel.problem is not None
    assert tunnel.problem.mechanism == "unsupported"
    assert tunnel.problem.reason.startswith("asks.ovpn: the server asks for a user name")
    assert "[[tunnel]]" in tunnel.problem.reason
    answered = plan_of(f'{plan.read_text()}username = "u"\npassword = "{WORD}"\n')
    assert _only(_read(answered)).problem is None
    assert [entry.problem for _, entry in read.found([answered])] == [None]


def test_a_login_without_use_is_said(plan_of: Callable[[str], Path]) -> None:
    login = f'username = "u"\npassword = "{WORD}"\n'
    assert "ignored" in _only(_read(plan_of(TUNNEL + login))).warnings[0]
    assert "ignored" in _only(_read(plan_of(f'[[tunnel]]\nname = "x"\nuri = "{LINK}"\n' + login))).warnings[0]


BROKEN = {
    "empty": ("", "empty"),
    "no tunnels": ("[run]\nattempts = 3\n", "no tunnels"),
    "not TOML": ("[run\n", "not TOML"),
    "unknown table": ("[rum]\n" + TUNNEL, "unknown key `rum`"),
    "unknown key": ("[run]\nattempt = 3\n" + TUNNEL, "unknown key `attempt` - at `run`"),
    "unknown key in a tunnel": (TUNNEL + "x = 1\n", "unknown key `x` - at `tunnel[0]`"),
    "wrong type": ('[run]\nattempts = "3"\n' + TUNNEL, "at `run.attempts`"),
    "one attempt": ("[run]\nattempts = 1\n" + TUNNEL, "run.attempts"),
    "a thousand attempts": ("[run]\nattempts = 1000\n" + TUNNEL, "run.attempts"),
    "resolver is a name": ('[run]\nresolver = "dns.example"\n' + TUNNEL, "run.resolver"),
    "resolver with a port": ('[run]\npublic_resolver = "9.9.9.9:53"\n' + TUNNEL, "run.public_resolver"),
    "no control": ("[run]\ncontrol = []\n" + TUNNEL, "run.control"),
    "bad control": ('[run]\ncontrol = ["control.example"]\n' + TUNNEL, "run.control"),
    "control's port": ('[run]\ncontrol = ["https://a.example:70000/"]\n' + TUNNEL, "run.control"),
    "bad bulk": ('[run]\nbulk = "quic://a.example/"\n' + TUNNEL, "run.bulk"),
    "bad upload": ('[run]\nupload = "ftp://a.example/"\n' + TUNNEL, "run.upload"),
    "bad exit address": ('[run]\nexit_address = "https://"\n' + TUNNEL, "run.exit_address"),
    "whoami is an address": ('[run]\nwhoami = "198.18.0.1"\n' + TUNNEL, "run.whoami"),
    "neutral name is a URL": ('[run]\nneutral_name = "https://a.example"\n' + TUNNEL, "run.neutral_name"),
    "addresses of names": ('[addresses]\n"a.example" = "198.18.0.1"\n' + TUNNEL, "addresses"),
    "addresses to names": ('[addresses]\n"198.18.0.1" = "a.example"\n' + TUNNEL, "addresses"),
    "roots are missing": ('[run]\nca_file = "gone.pem"\n' + TUNNEL, "run.ca_file"),
    "roots are none": ('[run]\nca_file = "sweden.conf"\n' + TUNNEL, "run.ca_file"),
    "no platforms": ("[run]\nplatforms = []\n" + TUNNEL, "run.platforms"),
    "unknown platform": ('[run]\nplatforms = ["myspace"]\n' + TUNNEL, "'myspace': there is no built-in platform"),
    "platform is missing": ('[run]\nplatforms = ["./gone.toml"]\n' + TUNNEL, "gone.toml"),
    "platform twice": ('[run]\nplatforms = ["signal", "signal"]\n' + TUNNEL, "second platform"),
    "no name": ('[[tunnel]]\nconfig = "sweden.conf"\n', "missing key `name` - at `tunnel[0]`"),
    "name is no slug": (TUNNEL.replace('"sweden"', '"My Sweden"'), "[[tunnel]] 1: the name"),
    "name with a line feed": (TUNNEL.replace('"sweden"', '"sweden\\n"'), "[[tunnel]] 1: the name"),
    "name is outside": (TUNNEL.replace('"sweden"', '"outside"'), "[[tunnel]] 1 (outside)"),
    "name twice": (TUNNEL + TUNNEL, "[[tunnel]] 2 (sweden): a second tunnel"),
    "neither config nor uri": ('[[tunnel]]\nname = "x"\n', "either `config` or `uri`"),
    "both config and uri": (TUNNEL + f'uri = "{LINK}"\n', "either `config` or `uri`"),
    "user without password": (TUNNEL + f'username = "{WORD}"\n', "go together"),
    "empty password": (TUNNEL + 'username = "u"\npassword = ""\n', "`password` is empty"),
    "password of two lines": (TUNNEL + f'username = "u"\npassword = "{WORD}\\nx"\n', "`password`"),
    "config is empty": ('[[tunnel]]\nname = "x"\nconfig = ""\n', "`config` is empty"),
    "password where a tunnel should be": (f'tunnel = "{WORD}"\n', "at `tunnel`"),
    "secret of the wrong type": (TUNNEL + f'username = "u"\npassword = ["{WORD}"]\n', "at `tunnel[0].password`"),
    "secret that breaks the TOML": (TUNNEL + f'password = "{WORD}\n', "not TOML"),
}


@pytest.mark.parametrize(("text", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plan_is_one_clear_line(plan_of: Callable[[str], Path], text: str, reason: str) -> None:
    path = plan_of(text)
    said = str(_refused(path))
    assert said.startswith(str(path))
    assert reason in said


def test_a_binary_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_bytes(b"\x7fELF\x00")
    assert "binary" in str(_refused(tmp_path / "plan.toml"))


# ── many in one ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _pack(path: Path, **members: str) -> Path:
    """A zip with members by name, with `_` for the dot and `__` for the slash."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(".".join(name.replace("__", "/").rsplit("_", 1)), text)
    return path


def _names(plan: Plan) -> list[str]:
    return [tunnel.name for tunnel in plan.tunnels]


def _link(host: str, label: str = "") -> str:
    return f"trojan://{WORD}@{host}.example:443?fp=chrome#{label}\n"


def test_names_of_a_list_hang_on_labels_and_servers_and_never_on_places(tmp_path: Path) -> None:
    path = tmp_path / "links.txt"
    lines = [
        _link("a", "Berlin%201"),
        _link("b", "same"),
        _link("c", "same"),
        _link("d"),
        _link("e", "%F0%9F%87%B8%F0%9F%87%AA"),
    ]
    path.write_text("".join(lines))
    plan = _read(path)
    first = {tunnel.config.servers[0].host: tunnel.name for tunnel in plan.tunnels if tunnel.config}
    assert first["a.example"] == "links-berlin-1"
    assert first["e.example"] == "links-se"
    assert first["b.example"].startswith("links-same-")
    assert first["d.example"].startswith("links-trojan-")
    assert len(set(first.values())) == 5
    assert [(tunnel.line, tunnel.label) for tunnel in plan.tunnels][:2] == [(1, "Berlin 1"), (2, "same")]
    for others in (lines[::-1], [*lines[:2], _link("new", "New"), "# x\n", *lines[2:]], lines[1:]):
        path.write_text("".join(others))
        again = {tunnel.config.servers[0].host: tunnel.name for tunnel in _read(path).tunnels if tunnel.config}
        assert {host: again[host] for host in first if host in again} == {
            host: name for host, name in first.items() if host in again
        }


def test_one_label_for_two_names_neither_by_it(tmp_path: Path) -> None:
    """Else the name would pass to another server when one is added before it."""
    path = tmp_path / "links.txt"
    path.write_text(_link("a", "x") + _link("z", "z"))
    assert _names(_read(path)) == ["links-x", "links-z"]
    path.write_text(_link("b", "x") + _link("a", "x") + _link("z", "z"))
    assert "links-x" not in _names(_read(path))


def test_the_same_config_twice_in_a_list_is_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "links.txt"
    path.write_text(_link("a", "x") + _link("b", "y") + _link("a", "other") + _link("a", "x"))
    first, _ = _read(path).tunnels
    note = Finding("note", "the same config stands 2 times more in this source (line 3, 4): measured once", 1)
    assert first.findings[-1] == note
    assert len(list(read.found([path]))) == 4


def test_the_same_config_in_two_files_is_kept_with_a_warning(tmp_path: Path) -> None:
    _write(tmp_path, a_conf=WIREGUARD, b_conf=WIREGUARD)
    a, b = _read(tmp_path).tunnels
    assert not a.warnings
    assert b.warnings == ("b.conf: the same config as a: the server may mix them up",)


def test_a_file_that_is_one_config_has_its_name(tmp_path: Path) -> None:
    _write(tmp_path, mine_conf=WIREGUARD)
    assert _names(_read(tmp_path / "mine.conf")) == ["mine"]


def test_an_entry_of_a_list_is_called_the_same_when_it_is_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    for lines in (_link("a", "Label"), _link("a", "Label") + _link("b", "Other"), "# x\n" + _link("a", "Label")):
        path.write_text(lines)
        assert _names(_read(path))[0] == "mine-label"


def test_a_tunnel_of_the_plan_has_the_name_that_the_plan_gives(plan_of: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(_link("a", "Label"))
    assert _names(_read(plan_of('[[tunnel]]\nname = "mine"\nconfig = "one.txt"\n'))) == ["mine"]


def test_folders_within_folders(tmp_path: Path) -> None:
    for name in ("tcp", "udp", ".git"):
        (tmp_path / name).mkdir()
        _write(tmp_path / name, se_conf=INTERFACE + PEER.replace("51820", str(len(name) + ord(name[0]))))
    _write(tmp_path, no_conf=WIREGUARD)
    (tmp_path / "tcp" / "loop").symlink_to(tmp_path)
    (tmp_path / "udp" / "self").symlink_to("self")
    plan = _read(tmp_path)
    assert [(tunnel.name, tunnel.source) for tunnel in plan.tunnels] == [
        ("no", "no.conf"),
        ("tcp-se.conf", "tcp/se.conf"),
        ("udp-se.conf", "udp/se.conf"),
    ]


def test_links_out_of_a_folder_are_refused_and_those_within_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    _write(tmp_path, secret_conf=WIREGUARD)
    _write(tmp_path / "in", a_conf=AMNEZIA)
    (tmp_path / "in" / "b.conf").symlink_to("a.conf")
    (tmp_path / "in" / "c.conf").symlink_to("../secret.conf")
    (tmp_path / "in" / "d.conf").symlink_to("/etc/shadow")
    a, b, c, d = _read(tmp_path / "in").tunnels
    assert a.config == b.config is not None
    assert [tunnel.problem.mechanism for tunnel in (c, d) if tunnel.problem] == ["refused", "refused"]


def test_a_folder_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_FILES", 5)
    monkeypatch.setattr(read, "MAX_FOLDERS", 3)
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    _write(tmp_path / "a/b/c/d", x_conf=WIREGUARD)
    (deep,) = _read(tmp_path).tunnels
    assert deep.problem is not None
    assert "more than 3 folders" in deep.problem.reason
    for number in range(9):
        (tmp_path / f"{number}.conf").write_text(WIREGUARD)
    *read_ones, last = _read(tmp_path).tunnels
    assert len(read_ones) <= 5
    assert last.problem is not None
    assert "more than 5 files" in last.problem.reason


def test_an_archive(tmp_path: Path) -> None:
    pack = _pack(
        tmp_path / "Pack.zip",
        udp__se_ovpn=OPENVPN_BY_KEY.replace(
            "<ca>\n-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n</ca>", "ca ../ca.crt"
        ),
        no_conf=WIREGUARD,
        links_txt=_link("a", "x") + _link("b", "y"),
        ca_crt=AUTHORITY,
        README_md="client of mine\n",
        plan_toml=TUNNEL,
    )
    expected = [
        ("pack-links-x", "Pack.zip/links.txt", 1),
        ("pack-links-y", "Pack.zip/links.txt", 2),
        ("pack-no", "Pack.zip/no.conf", None),
        ("pack-se", "Pack.zip/udp/se.ovpn", None),
    ]
    for paths in ([pack], [tmp_path]):
        tunnels = _read(*paths).tunnels
        assert [(tunnel.name, tunnel.source, tunnel.line) for tunnel in tunnels] == expected
        assert all(tunnel.config for tunnel in tunnels), [tunnel.problem for tunnel in tunnels]


def test_hostile_archives(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and nothing")
    _pack(tmp_path / "none.zip", readme_md="x")
    _pack(tmp_path / "out.zip", **{"..__..__etc__x_conf": WIREGUARD, "good_conf": AMNEZIA})
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.conf", bytes(16 << 20))
    _write(tmp_path, sound_conf=WIREGUARD)
    before = sorted(tmp_path.parent.rglob("*"))
    found = {tunnel.source: tunnel.problem for tunnel in _read(tmp_path).tunnels}
    reasons = {source: problem.reason for source, problem in found.items() if problem}
    assert found["sound.conf"] is found["out.zip/good.conf"] is None
    assert "not a zip archive" in reasons["bad.zip"]
    assert "no config in this archive" in reasons["none.zip"]
    assert "leads out" in reasons["out.zip/../../etc/x.conf"]
    assert "a bomb" in reasons["bomb.zip/x.conf"]
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_many_in_a_plan_are_called_after_their_tunnel(tmp_path: Path, plan_of: Callable[[str], Path]) -> None:
    _pack(tmp_path / "pack.zip", se_ovpn=OPENVPN.replace("ca ca.crt", f"<ca>\n{AUTHORITY}</ca>"), no_conf=WIREGUARD)
    (tmp_path / "more").mkdir()
    _write(tmp_path / "more", a_conf=AMNEZIA)
    (tmp_path / "links.txt").write_text(_link("a", "x") + _link("b", "y"))
    text = TUNNEL + "".join(
        f'[[tunnel]]\nname = "{name}"\nconfig = "{path}"\n'
        for name, path in (("l", "links.txt"), ("m", "more"), ("p", "pack.zip"))
    )
    plan = _read(plan_of(text + f'username = "u"\npassword = "{WORD}"\n'))
    assert [(tunnel.name, tunnel.source) for tunnel in plan.tunnels] == [
        ("sweden", "sweden.conf"),
        ("l-x", "links.txt"),
        ("l-y", "links.txt"),
        ("m-a", "more/a.conf"),
        ("p-no", "pack.zip/no.conf"),
        ("p-se", "pack.zip/se.ovpn"),
    ]
    openvpn = plan.tunnels[-1].config
    assert isinstance(openvpn, OpenVpnConfig), plan.tunnels[-1].problem
    assert openvpn.username == Secret("u")
    assert [(source, entry.config) for source, entry in read.found([tmp_path / "plan.toml"])] == [
        (tunnel.source, tunnel.config) for tunnel in plan.tunnels
    ]


def test_found_raises_as_the_plan_does(tmp_path: Path) -> None:
    for paths in ([], [tmp_path / "gone"], [tmp_path]):
        with pytest.raises(UsageError):
            list(read.found(paths))
    (tmp_path / "plan.toml").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="unknown key"):
        list(read.found([tmp_path / "plan.toml"]))


def test_ten_thousand_links(tmp_path: Path) -> None:
    """In a second or two; were anything to go by the square, this test would be the one to hang."""
    path = tmp_path / "links.txt"
    path.write_text("".join(_link(f"s{number}", "same") for number in range(10_000)))
    plan = read_plan([path])
    assert len({tunnel.name for tunnel in plan.tunnels}) == 10_000
    assert all(tunnel.config for tunnel in plan.tunnels)


# ── a client of the plan's own ───────────────────────────────────────────────────────────────────────────────────────

COMMAND = '[[tunnel]]\nname = "own"\ncommand = ["client", "-x y"]\n'


def test_a_command(plan_of: Callable[[str], Path]) -> None:
    text = (
        COMMAND
        + f"""device = "tun7"
environment = {{ TOKEN = "{WORD}" }}
ready = ["client", "status"]
ready_within = 5
resolver = "198.18.0.53"
server = "[2001:db8::1]:443/tcp"
"""
    )
    tunnel = _only(_read(plan_of(text)))
    assert (tunnel.kind, tunnel.source) == (Kind.COMMAND, "command")
    assert tunnel.config == CommandConfig(
        argv=("client", "-x y"),
        environment=(("TOKEN", Secret(WORD)),),
        device="tun7",
        ready=("client", "status"),
        ready_within=5.0,
        resolver="198.18.0.53",
        server=Server("2001:db8::1", 443, "tcp"),
    )
    least = _only(_read(plan_of(COMMAND + 'proxy = "socks5://127.0.0.1:1080"\n'))).config
    assert least == CommandConfig(argv=("client", "-x y"), proxy="socks5://127.0.0.1:1080")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("", "either `device` or `proxy`"),
        ('device = "a"\nproxy = "http://127.0.0.1:1"\n', "either `device` or `proxy`"),
        ('device = "lo"\n', "device"),
        ('device = "uplink"\n', "device"),
        ('device = "a/b"\n', "device"),
        ('proxy = "ftp://127.0.0.1:1"\n', "proxy"),
        ('device = "a"\nconfig = "sweden.conf"\n', "either `config` or `uri` or `command`"),
        ('device = "a"\nready = []\n', "`ready`"),
        ('device = "a"\nready_within = 0\n', "`ready_within`"),
        ('device = "a"\nready_within = 1e9\n', "`ready_within`"),
        ('device = "a"\nready_within = nan\n', "`ready_within`"),
        ('device = "a"\nresolver = "x"\n', "resolver"),
        ('device = "a"\nserver = "a.example:1"\n', "server"),
        ('device = "a"\nserver = "a.example/udp"\n', "server"),
        ('device = "a"\nenvironment = {"A=B" = "x"}\n', "`environment`"),
        ('device = "a"\nusername = "x"\npassword = "x"\n', "`username`"),
        ('device = "a"\nshell = "x"\n', "unknown key `shell`"),
    ],
)
def test_a_command_with_a_slip(plan_of: Callable[[str], Path], lines: str, reason: str) -> None:
    assert reason in str(_refused(plan_of(COMMAND + lines)))


def test_keys_of_a_command_stand_beside_no_config(plan_of: Callable[[str], Path]) -> None:
    assert "`device` goes with `command` only" in str(_refused(plan_of(TUNNEL + 'device = "a"\n')))


def test_servers_in_own_networks(plan_of: Callable[[str], Path]) -> None:
    assert not _read(plan_of(TUNNEL)).settings.local_servers
    assert _read(plan_of("[run]\nlocal_servers = true\n" + TUNNEL)).settings.local_servers


def test_authorities_of_a_closed_tor_network(plan_of: Callable[[str], Path]) -> None:
    line = f"mine orport=443 no-v2 v3ident={'A1' * 20} 198.18.30.1:80 {'B2' * 20}"
    assert _read(plan_of(TUNNEL)).settings.tor_authorities == ()
    assert _read(plan_of(f'[run]\ntor_authorities = ["{line}"]\n' + TUNNEL)).settings.tor_authorities == (line,)
    for bad in ("198.18.30.1:80", line + "\\nSocksPort 1", f"host.example:80 {'B2' * 20}"):
        fault = _refused(plan_of(f'[run]\ntor_authorities = ["{bad}"]\n' + TUNNEL))
        assert "run.tor_authorities" in str(fault)


@given(
    text=st.text()
    | st.lists(st.sampled_from([*TUNNEL.splitlines(), "[run]", "attempts = 3", f'uri = "{LINK}"', WORD])).map("\n".join)
)
def test_only_our_errors_leave_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text)
    try:
        said = _said(read_plan([path]))
    except (UsageError, ConfigError) as fault:
        said = [str(fault)]
    assert not any(secret in part for secret in SECRETS for part in said)


@pytest.mark.parametrize(
    "arguments",
    [
        "url=http://127.0.0.1:8080/",
        "url=https://b.example/ fronts=f.example,169.254.169.254",
        "url=https://b.example/ ice=stun:s.example:3478,stun:[::1]:53",
        "url=https://b.example/ ampcache=http://localhost/",
        "sqsqueue=http://metadata.google.internal/x",
    ],
)
def test_nobody_on_this_machine_is_asked_by_a_snowflake_either(tmp_path: Path, arguments: str) -> None:
    _write(tmp_path, bridges_txt=f"Bridge snowflake 192.0.2.3:80 {'A1' * 20} {arguments}\n")
    tunnel = _only(_read(tmp_path))
    assert tunnel.problem is not None
    assert tunnel.problem.mechanism == "refused"
    assert "its server is " in tunnel.problem.reason


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "localhost", "[::ffff:127.0.0.1]"])
def test_a_server_on_this_machine_is_refused_unless_the_plan_allows_it(tmp_path: Path, host: str) -> None:
    link = f"trojan://password@{host}:443?sni=x.example"
    (tmp_path / "links.txt").write_text(f"trojan://password@vpn.example:443\n{link}\n")
    entries = [entry for _, entry in found([tmp_path / "links.txt"])]
    assert [entry.problem and entry.problem.mechanism for entry in entries] == [None, "refused"]
    assert entries[1].config is None
    assert entries[1].problem
    assert entries[1].problem.reason.startswith("links.txt:2: ")
    plan = tmp_path / "plan.toml"
    for allowed, problem in (("false", "refused"), ("true", None)):
        plan.write_text(f'[run]\nlocal_servers = {allowed}\n[[tunnel]]\nname = "a"\nuri = "{link}"\n')
        for tunnel in (read_plan([plan]).tunnels[0], next(found([plan]))[1]):
            assert (tunnel.problem and tunnel.problem.mechanism) == problem


def test_a_link_that_cannot_be_followed_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a process that is not ours to look at, in /proc."""
    (tmp_path / "a.conf").symlink_to("elsewhere")
    (tmp_path / "b.txt").write_text("trojan://password@vpn.example:443\n")
    true = os.path.realpath

    def realpath(path: str | Path, **how: bool) -> str:
        if str(path).endswith("a.conf"):
            raise PermissionError(13, "Permission denied")
        return true(path, **how)

    monkeypatch.setattr(os.path, "realpath", realpath)
    entries = [(source, entry.problem and entry.problem.reason) for source, entry in found([tmp_path])]
    assert entries == [("a.conf", "a.conf: cannot be read: permission denied"), ("b.txt", None)]
