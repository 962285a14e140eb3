"""Hostile configs are inert: nothing that they name is run, read, written, called or shown.

Each of them tries. The traps of tests/corpus/traps are aimed at a folder of canaries: a program that leaves a mark when
it is run, files that no longer stand as they stood when they are written. What they try, a client would do: the
first test as root lets OpenVPN itself fall into one.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import trustme
from own_network import OwnNetwork, own_network

from vpntest.cli import main
from vpntest.plan.read import found, read_plan
from vpntest.plan.secret import secrets_in
from vpntest.tunnel.cage import Cage

CORPUS = Path(__file__).with_name("corpus")
AIM = "/var/tmp/vpntest-canary"
"""Where the traps of the corpus point; nothing is there, and the tests aim them at a folder of their own."""
MOST_MEMORY = 300 << 20
"""Bytes that a check may take, whatever it is given."""
_TELLING = 12
"""Characters from which on a secret in a text stands there as itself and not by chance."""


def vpntest(*arguments: str | Path) -> tuple[int, str, str]:
    """One command, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([*map(str, arguments)])
        except SystemExit as left:
            status = int(left.code or 0)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return status, texts[0], texts[1]


def obeyed(text: str) -> list[str]:
    """What of a text a terminal obeys instead of showing it, but for line feeds."""
    return [char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for key, inner in value.items():
                yield from strings(key)
                yield from strings(inner)
        case list():
            for inner in value:
                yield from strings(inner)


def secrets_of(*paths: Path) -> set[str]:
    """Every secret that the configs hold, and that is long enough to be told in a text."""
    told = {secret.reveal() for _, entry in found(list(paths)) for secret in secrets_in(entry.config)}
    # Of keys in PEM each line.
    return {part for one in told for part in one.split("\n") if len(part) >= _TELLING and not part.startswith("-----")}


# ── a folder of them ─────────────────────────────────────────────────────────────────────────────────────────────────

EVIL_NAMES = (
    b"a\x1b]0;mine\x07\x1b[2Jb.conf",
    b"$(touch run).conf",
    b"; touch run; .conf",
    b"`touch run`.conf",
    b"-rf.conf",
    b"--config.ovpn",
    b"<script>alert(1)<script>.conf",
    b"|a|[b](javascript:c).conf",
    "\u202efnoc.exe\u2066.conf".encode(),
    b"\xff\xfe\x80.conf",
    b"two\nlines\rof a name.conf",
    b"n" * 250 + b".conf",
    b"{{7*7}}${7*7}%s%n.conf",
    b"outside.conf",
)


def aimed(text: bytes, canaries: Path) -> bytes:
    """A trap of the corpus, aimed at these canaries, with its server where nobody listens in the tests' own network."""
    text = text.replace(AIM.encode(), str(canaries).encode())
    text = text.replace(b"remote ovpn.example 1194 udp", b"remote 198.18.7.1 1199 tcp")
    return re.sub(rb"\b(?:wg|eval|name|trojan\.clash)\.example\b", b"198.18.7.1", text)


def hostile(folder: Path, canaries: Path) -> None:
    """Fills a folder with every trap of the corpus, and with those that are no files or have no sound name."""
    for path in (CORPUS / "traps").rglob("*"):
        if path.is_file():
            place = folder / path.relative_to(CORPUS / "traps")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(aimed(path.read_bytes(), canaries))
    sound = aimed((CORPUS / "wg-quick/plain.conf").read_bytes(), canaries)
    names = folder / "names"
    names.mkdir()
    for number, name in enumerate(EVIL_NAMES):
        # Each with a broken line, so that no sixteen of them wait for a server that is not there.
        Path(os.fsdecode(bytes(names) + b"/" + name)).write_bytes(sound + b"Frobnicate = %d\n" % number)
    beyond = canaries / "beyond.conf"
    beyond.write_bytes(sound)
    shutil.copy(CORPUS / "openvpn/shared/ca.crt", canaries / "ca.crt")
    linked = folder / "links"
    linked.mkdir()
    for name, target in {
        "shadow.conf": "/etc/shadow",
        "out.conf": str(beyond),
        "up.conf": os.path.relpath(beyond, linked),
        "loop.conf": "loop.conf",
        "gone.conf": "nothing-is-here.conf",
        "folder": "..",
        "etc": "/etc",
        "device.conf": "/dev/zero",
        "own.conf": "/proc/self/environ",
        "ca.crt": str(canaries / "ca.crt"),
    }.items():
        (linked / name).symlink_to(target)
    text = aimed((CORPUS / "traps/openvpn/reads-ca.ovpn").read_bytes(), canaries)
    (linked / "ca-by-a-link.ovpn").write_bytes(text.replace(b"ca /etc/shadow", b"ca ca.crt"))
    os.mkfifo(folder / "pipe.conf")
    (folder / "bombs.zip").write_bytes(bombs())


def packed(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def bombs() -> bytes:
    """An archive of what unfolds without end, what lies outside, and what is no file."""
    inner = packed({f"{number}.conf": bytes(1 << 20) for number in range(16)})
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("nested.zip", packed({f"{number}.zip": inner for number in range(16)}))
        archive.writestr("ratio.conf", b"#" * (24 << 20))
        for name in ("../../../var/tmp/vpntest-canary/up.conf", "/etc/evil.conf", "..\\up.conf", "C:\\evil.conf"):
            archive.writestr(zipfile.ZipInfo(name), b"[Interface]\n")
        link = zipfile.ZipInfo("shadow.conf")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/shadow")
    return made.getvalue()


@pytest.fixture(scope="module")
def canaries() -> Iterator[Path]:
    """A folder that anybody may write to, with a program that leaves a mark beside itself when it is run."""
    folder = Path(tempfile.mkdtemp(prefix="canaries-", dir="/var/tmp"))
    program = folder / "run.sh"
    program.write_text(f"#!/bin/sh\ntouch {folder}/ran-$$\n")
    program.chmod(0o755)
    (folder / "evil.so").write_bytes(b"no library")
    for name in ("status", "writepid", "kept"):
        (folder / name).write_text("as it was")
        (folder / name).chmod(0o666)
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def trap(canaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    hostile(folder, canaries)
    return folder


def state(*folders: Path) -> dict[str, tuple[int, ...]]:
    """What stands in folders, and when it was written last."""
    seen = {}
    for top in folders:
        for here, _, names in os.walk(top):
            for name in (".", *names):
                facts = os.lstat(os.path.join(here, name))
                seen[os.path.join(here, name)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_uid)
    return seen


# ── read only ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_check_of_them_shows_nothing_that_is_obeyed_and_no_secret(trap: Path, canaries: Path) -> None:
    before = state(canaries, trap)
    secrets = secrets_of(trap)
    assert len(secrets) > 10
    for arguments in (("--width", "40"), ("--color", "always")):
        status, out, err = vpntest("check", trap, *arguments)
        assert (status, err) == (2, "")
        own = re.sub(r"\x1b\[(?:38;2;\d+;\d+;\d+|0)m", "", out) if "always" in arguments else out
        assert obeyed(own) == []
        assert not [secret for secret in secrets if secret in out]
    status, out, err = vpntest("check", trap, "--format", "json")
    assert (status, err) == (2, "")
    assert out.count("\n") == 1
    assert not [text for text in strings(json.loads(out)) if obeyed(text)]
    assert not [secret for secret in secrets if secret in out]
    assert state(canaries, trap) == before


def test_no_link_no_pipe_and_no_archive_leads_out_of_the_folder(trap: Path) -> None:
    _, out, _ = vpntest("check", trap, "--format", "json")
    configs = json.loads(out)["configs"]
    seen = {
        config["path"]: (config["status"], config["findings"][0]["text"])
        for config in configs
        if config["status"] in ("invalid", "unsupported", "refused")
    }
    for name in ("shadow.conf", "out.conf", "up.conf", "device.conf", "own.conf", "ca.crt"):
        assert seen[f"links/{name}"] == ("refused", "a link that leads out of the folder")
    for name in ("links/loop.conf", "links/gone.conf", "pipe.conf", "links/ca-by-a-link.ovpn"):
        assert seen[name][0] == "invalid", seen[name]
    assert not [path for path in seen if path.startswith(("links/etc/", "links/folder/"))]
    inside = {path.removeprefix("bombs.zip/"): told for path, told in seen.items() if path.startswith("bombs.zip/")}
    assert {path: status for path, (status, _) in inside.items() if path != "ratio.conf"} == {
        **dict.fromkeys(("../../../var/tmp/vpntest-canary/up.conf", "/etc/evil.conf", "..\\up.conf"), "refused"),
        **dict.fromkeys(("C:\\evil.conf", "shadow.conf"), "refused"),
        "nested.zip": "unsupported",
    }
    assert inside["ratio.conf"] == ("invalid", "more than 200 times larger than in the archive: a bomb")
    for name in EVIL_NAMES:
        shown = "".join(char if char.isprintable() else "\ufffd" for char in os.fsdecode(name))
        assert seen[f"names/{shown}"][0] == "invalid"


def test_names_of_tunnels_are_slugs_and_labels_steer_nothing(trap: Path) -> None:
    plan = read_plan([trap])
    names = [tunnel.name for tunnel in plan.tunnels]
    assert len(set(names)) == len(names) > 60
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name) for name in names)
    assert "outside" not in names
    for tunnel in plan.tunnels:
        assert obeyed(tunnel.label + tunnel.source + (tunnel.problem.reason if tunnel.problem else "")) == []
    # Letters of another script show as what they are to a resolver.
    hosts = {server.host for tunnel in plan.tunnels if tunnel.config for server in tunnel.config.servers}
    assert all(host.isascii() for host in hosts)
    assert "xn--mple-43d3a6i.example" in hosts


def users_in_links() -> set[str]:
    """What stands before the server in the corpus' links, and what asks for a list: also of links that are not read."""
    told = set()
    for path in CORPUS.rglob("*.txt"):
        for link in re.findall(rb"[a-z0-9+]+://[^#\s]+", path.read_bytes()):
            text = link.decode("utf-8", "replace")
            user = text.partition("://")[2].rpartition("@")[0] + ":" + text.partition("token=")[2]
            told |= {part for part in re.split(r"[:%/?@$&=]", user) if len(part) >= _TELLING}
    methods = ("chacha20-", "2022-")
    told = {part for part in told if not part.startswith(methods)}
    return told


def test_no_secret_of_the_whole_corpus_is_ever_shown() -> None:
    secrets = secrets_of(CORPUS) | users_in_links()
    assert len(secrets) > 250
    for arguments in ((), ("--format", "json")):
        _, out, err = vpntest("check", CORPUS, *arguments)
        assert not [secret for secret in secrets if secret in out + err]


# ── how much it takes ────────────────────────────────────────────────────────────────────────────────────────────────

_MEASURED = """
import re, sys
from vpntest.cli import main
status = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.write(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(status)
"""


def memory(*arguments: str | Path) -> tuple[dict[str, Any], int]:
    """The report of a check in a process of its own, and the most memory that it took, in bytes."""
    argv = [sys.executable, "-c", _MEASURED, "check", *map(str, arguments), "--format", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr.isdigit(), done.stderr
    return json.loads(done.stdout), int(done.stderr) << 10


@pytest.mark.root  # for the seconds that it takes
def test_lines_and_archives_without_end_cost_no_memory(tmp_path: Path) -> None:
    kib = b"A" * 1024
    for name, head, size in (
        ("link.txt", b"vless://", 100 << 20),
        ("key.conf", b"[Interface]\nPrivateKey = ", 100 << 20),
        ("ca.ovpn", b"client\nremote ovpn.example\n<ca>\n", 100 << 20),
        ("link-within.txt", b"vless://", 30 << 20),
        ("base64.txt", b"dmxlc3M6Ly94Cg", 30 << 20),
        ("json.json", b'{"outbounds": [{"type": "trojan", "password": "', 30 << 20),
    ):
        with open(tmp_path / name, "wb") as stream:
            stream.write(head)
            for _ in range(size >> 20):
                stream.write(kib * 1024)
    (tmp_path / "bombs.zip").write_bytes(bombs())
    (tmp_path / "overlapping.zip").write_bytes(overlapping())
    report, most = memory(tmp_path)
    assert most < MOST_MEMORY
    assert {config["status"] for config in report["configs"]} <= {"invalid", "unsupported", "refused"}
    told = {config["path"]: config["findings"][0]["text"] for config in report["configs"]}
    assert {"key.conf", "ca.ovpn", "link-within.txt", "json.json", "overlapping.zip"} <= told.keys()
    assert "larger than" in told["key.conf"]


def overlapping() -> bytes:
    """Ten thousand members that all are one and the same piece of the file: 4 MB each, 40 GB in all."""
    body = zlib.compressobj(9, zlib.DEFLATED, -15)
    plain = b"#" * (4 << 20)
    data = body.compress(plain) + body.flush()
    header = (zlib.crc32(plain), len(data), len(plain))
    pack = struct.pack
    local = pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 8, 0, 0x21, *header, 6, 0) + b"a.conf" + data
    count = 10_000
    directory = b"".join(
        pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 8, 0, 0x21, *header, 11, 0, 0, 0, 0, 0, 0)
        + b"%06d.conf" % number
        for number in range(count)
    )
    return local + directory + pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), len(local), 0)


@pytest.mark.root
def test_ten_thousand_links_cost_little_memory(tmp_path: Path) -> None:
    lines = [line for line in (CORPUS / "links/vless.txt").read_text().split("\n") if line.startswith("vless://")]
    whole = [
        re.sub(r"^vless://[0-9a-f]{8}", f"vless://{number:08x}", lines[number % len(lines)]) for number in range(10_000)
    ]
    (tmp_path / "links.txt").write_text("\n".join(whole))
    report, most = memory(tmp_path / "links.txt")
    assert len(report["configs"]) == len(whole)
    assert [config["line"] for config in report["configs"]] == list(range(1, len(whole) + 1))
    assert most < MOST_MEMORY


# ── run ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.root
def test_the_traps_bite_who_is_not_careful(tmp_path: Path) -> None:
    """OpenVPN itself, given the file as it is: what the other tests find untouched is touched."""
    folder = tmp_path / "canaries"
    folder.mkdir()
    config = tmp_path / "writes.ovpn"
    config.write_bytes(aimed((CORPUS / "traps/openvpn/writes.ovpn").read_bytes(), folder))
    (folder / "tmp-dir").mkdir()
    text = config.read_text()
    # What it would end at, before it has written anything.
    for word in ("ifconfig-pool-persist", "tls-export-cert", "auth-gen-token-secret"):
        text = re.sub(rf"^{word} .*\n", "", text, flags=re.MULTILINE)
    config.write_text(text)
    with subprocess.Popen(["openvpn", "--config", str(config)], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while not {"log", "status", "writepid"} <= {path.name for path in folder.iterdir()}:
                assert time.monotonic() < deadline, list(folder.iterdir())
                time.sleep(0.05)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def network() -> Iterator[OwnNetwork]:
    cage = Cage.open()
    try:
        with own_network(cage) as standing, openvpn_server(cage, standing):
            yield standing
    finally:
        cage.close()


@contextmanager
def openvpn_server(cage: Cage, network: OwnNetwork) -> Iterator[None]:
    """A real server on port 1194, so that clients come to where scripts would be run."""
    authority, folder = trustme.CA(), network.directory
    authority.cert_pem.write_to_path(str(folder / "vpn-ca.pem"))
    for name in ("server", "client"):
        leaf = authority.issue_cert(f"{name}.test", common_name=f"{name}.test")
        leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
    options = "--mode server --tls-server --dev srv0 --dev-type tun --proto tcp4-server --port 1194 --dh none --verb 1"
    inner = (
        "--topology subnet --ifconfig 198.18.8.1 255.255.255.0 --ifconfig-pool 198.18.8.10 198.18.8.99 --duplicate-cn"
    )
    push = ["--push", "topology subnet", "--push", "route-gateway 198.18.8.1", "--keepalive", "5", "60"]
    files = f"--ca {folder}/vpn-ca.pem --cert {folder}/server.crt --key {folder}/server.key".split()
    server = cage.spawn(["openvpn", *options.split(), *inner.split(), *push, *files], network.server)
    try:
        deadline = time.monotonic() + 20
        while True:
            with network.client.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(("198.18.7.1", 1194)) == 0:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        os.kill(server.pid, 9)


def with_a_server(config: Path, network: OwnNetwork) -> None:
    """Has a trap call the real server, with what it takes to be let in."""
    text = config.read_text().replace("198.18.7.1 1199 tcp", "198.18.7.1 1194 tcp")
    for name, file in (("ca", "vpn-ca.pem"), ("cert", "client.crt"), ("key", "client.key")):
        pem = (network.directory / file).read_text()
        text = re.sub(rf"<{name}>.*?</{name}>", f"<{name}>\n{pem}</{name}>", text, flags=re.DOTALL)
    config.write_text(text)


class Watch(threading.Thread):
    """Reads the command lines and environments of every process, again and again."""

    def __init__(self, words: set[str]) -> None:
        super().__init__()
        self._words = [word.encode("utf-8", "surrogateescape") for word in words]
        self._end = threading.Event()
        self.programs: set[str] = set()
        self.told: set[str] = set()

    def run(self) -> None:
        while not self._end.wait(0.02):
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit() or int(entry.name) == os.getpid():
                    continue
                try:
                    line, around = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
                except OSError:
                    continue
                self.programs.add(os.fsdecode(line.split(b"\0")[0].rpartition(b"/")[2]))
                self.told |= {word.decode(errors="replace") for word in self._words if word in line + around}

    def end(self) -> None:
        self._end.set()
        self.join()


def test_the_watch_sees(tmp_path: Path) -> None:
    watch = Watch({"a-secret-to-be-seen"})
    watch.start()
    with subprocess.Popen(["sh", "-c", "read x", "a-secret-to-be-seen"], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while not watch.told and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    watch.end()
    assert watch.told == {"a-secret-to-be-seen"}


def in_namespace(inode: int) -> list[str]:
    """The processes that a network namespace holds."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.stat(entry / "ns/net").st_ino == inode:
                    found.append((entry / "comm").read_text().strip())
            except OSError:
                continue
    return found


CALLED = ("scripts", "writes", "plugin", "environment", "host-effects")
"""Traps for OpenVPN that are to come up; the others end where nobody listens."""
OWN_NETWORKS = ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "localhost", "198.18.7.2")


@pytest.mark.root
def test_a_run_of_them_runs_writes_calls_and_shows_nothing(network: OwnNetwork, canaries: Path) -> None:
    folder = network.directory / "hostile"
    folder.mkdir()
    hostile(folder, canaries)
    for name in CALLED:
        with_a_server(folder / f"openvpn/{name}.ovpn", network)
    password = "a-password-that-nobody-may-see"
    (folder / "own.txt").write_text("".join(f"trojan://{password}@{host}:443\n" for host in OWN_NETWORKS))
    plan = network.plan('[[tunnel]]\nname = "hostile"\nconfig = "hostile"\n', "attempts = 2")
    kept = network.directory / "evidence"
    secrets = secrets_of(plan) | {password}
    watched = (canaries, folder, Path("/etc"))
    before = state(*watched)
    homes = {
        str(path) for place in ("/root", "/", "/var/tmp", str(network.directory)) for path in Path(place).iterdir()
    }
    watch = Watch(secrets)
    with network.client.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
        own.bind(("0.0.0.0", 443))
        own.listen()
        own.setblocking(False)
        watch.start()
        process = network.vpntest("run", str(plan), "--format", "json", "--evidence", str(kept))
        out, err = process.communicate(timeout=400)
        watch.end()
        with pytest.raises(BlockingIOError):
            own.accept()
    assert process.returncode == 2, err  # some of them are broken
    assert "Traceback" not in err
    document = json.loads(out)
    tunnels = {tunnel["name"]: tunnel for tunnel in document["tunnels"]}

    # It was real: carriers were started, tunnels came up, and the others ended where nobody listens.
    assert {"openvpn", "sing-box", "wireguard-go"} <= watch.programs
    for name in CALLED:
        assert tunnels[f"hostile-{name}"]["stage"] == "up", tunnels[f"hostile-{name}"]
    accepted = [spec for spec in read_plan([plan]).tunnels if spec.config]
    assert len(accepted) > 20
    assert not [spec.name for spec in accepted if tunnels[spec.name]["mechanism"] in ("invalid", "unsupported")]

    # Nothing of what they name was run, written or called.
    assert state(*watched) == before
    now = {str(path) for place in ("/root", "/", "/var/tmp", str(network.directory)) for path in Path(place).iterdir()}
    assert now - homes == {str(kept)}
    refused = [tunnel for tunnel in document["tunnels"] if "own.txt" in tunnel["source"]]
    assert [tunnel["mechanism"] for tunnel in refused] == ["refused"] * len(OWN_NETWORKS)

    # Nothing of theirs lives on.
    with network.client.entered():
        here = os.stat("/proc/thread-self/ns/net").st_ino
    assert in_namespace(here) == []

    # Nothing is obeyed by who reads the result, and no secret is told to anybody.
    assert watch.told == set()
    assert not [secret for secret in secrets if secret in out + err]
    assert obeyed(err) == []
    assert not [text for text in strings(document) if obeyed(text)]
    for form in ("table", "markdown"):
        status, text, complaint = vpntest("judge", kept, "--format", form)
        assert (status, complaint) == (0, "")
        assert obeyed(text) == []
        assert not [secret for secret in secrets if secret in text]
        assert form == "table" or not re.search(r"<(?:script|img)|(?<!\\)\]\(javascript:", text)
