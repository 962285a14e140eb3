"""The command line's contract: one clear line and the right exit status. Nothing here needs root."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from records import World, platform
from story import story

from vpntest.cli import _ended, _keep, main
from vpntest.judge.judging import judge
from vpntest.plan.keys import generate
from vpntest.plan.model import Kind, Plan
from vpntest.plan.platforms import find
from vpntest.probe.observation import Record, RunFacts, TunnelFacts, VantageFacts
from vpntest.report.document import decode, encode
from vpntest.tunnel.evidence import Evidence


def vpntest(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """One command, in this process: starting an interpreter for each would take most of the time."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            status = main([*map(str, arguments)])
        except SystemExit as left:  # argparse's way to end
            status = int(left.code or 0)
    return subprocess.CompletedProcess(["vpntest", *map(str, arguments)], status, out.getvalue(), err.getvalue())


def wireguard(**change: str) -> str:
    """A sound wg-quick file with fresh keys, but for the lines that are changed."""
    private, _ = generate()
    _, peer = generate()
    lines = {
        "PrivateKey": private.reveal(),
        "Address": "10.9.0.2/32",
        "PublicKey": peer,
        "AllowedIPs": "0.0.0.0/0",
        "Endpoint": "198.18.0.9:51820",
        **change,
    }
    interface = [f"{key} = {lines.pop(key)}" for key in ("PrivateKey", "Address")]
    return (
        "\n".join(["[Interface]", *interface, "[Peer]", *(f"{key} = {value}" for key, value in lines.items())]) + "\n"
    )


BAD_CONFIGS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "binary": lambda: secrets.token_bytes(600) + b"\0\xff",
    "no key of ours": lambda: wireguard().replace("PrivateKey", "#").encode(),
    "key too short": lambda: wireguard(PublicKey=base64.b64encode(secrets.token_bytes(31)).decode()).encode(),
    "key not base64": lambda: wireguard(PublicKey="!" * 44).encode(),
    "unknown directive": lambda: wireguard(Frobnicate="7").encode(),
    "port 70000": lambda: wireguard(Endpoint="198.18.0.9:70000").encode(),
}


@pytest.mark.parametrize("fault", BAD_CONFIGS)
def test_a_bad_config_gets_one_line_and_exit_2(tmp_path: Path, fault: str) -> None:
    bad = tmp_path / "bad.conf"
    bad.write_bytes(BAD_CONFIGS[fault]())
    done = vpntest("run", bad)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("vpntest: ")
    assert "bad.conf" in lines[0]
    assert "Traceback" not in done.stderr


def test_a_missing_file_gets_one_line_and_exit_2(tmp_path: Path) -> None:
    done = vpntest("run", tmp_path / "nowhere.conf")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "nowhere.conf" in done.stderr


def test_a_folder_without_configs_gets_one_line_and_exit_2(tmp_path: Path) -> None:
    done = vpntest("run", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_may_not_be_read_gets_one_line_and_exit_2(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    # Root reads everything; the question is what a person without that power is told. The change of user comes late,
    # because `nobody` may not even get to the interpreter's own files.
    code = (
        "import os, sys, vpntest.cli, vpntest.plan.read as reading\n"
        "real = reading.read_plan\n"
        "def read_plan(paths):\n"
        "    if os.geteuid() == 0: os.seteuid(65534)\n"
        "    return real(paths)\n"
        "reading.read_plan = read_plan\n"
        "sys.exit(vpntest.cli.main(['run', sys.argv[1]]))\n"
    )
    tmp_path.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, str(closed)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "closed" in done.stderr or "permission" in done.stderr.lower()


def test_a_plan_without_tunnels_gets_one_line_and_exit_2(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text("[run]\nattempts = 3\n")
    done = vpntest("run", plan)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "plan.toml" in done.stderr


def test_an_unknown_name_is_told_what_there_is(tmp_path: Path) -> None:
    good = tmp_path / "home.conf"
    good.write_text(wireguard())
    done = vpntest("run", good, "--tunnel", "hmoe")
    assert done.returncode == 2
    assert "'hmoe'" in done.stderr
    assert "home" in done.stderr


def test_without_root_it_says_so_and_exits_4(tmp_path: Path) -> None:
    good = tmp_path / "home.conf"
    good.write_text(wireguard())
    code = (
        "import os, sys, vpntest.cli, vpntest.plan.read, vpntest.plan.platforms\n"
        "import vpntest.tunnel.raising, vpntest.tunnel.cage\n"
        "os.geteuid = lambda: 65534\n"
        "sys.exit(vpntest.cli.main(['run', sys.argv[1]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(good)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "root" in done.stderr


def test_the_lab_lists_its_profiles() -> None:
    done = vpntest("lab", "list")
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "Nothing is blocked" in lines["open"]
    assert {"ru_2023_08_vpn", "cn_gfw", "outage"} <= set(lines)


def test_verifying_an_unknown_profile_or_no_times_is_a_slip_of_the_hand() -> None:
    done = vpntest("lab", "verify", "open", "ru_2099")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'ru_2099'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    for option in ("--repeat", "--jobs"):
        assert vpntest("lab", "verify", "open", option, "0").returncode == 2
        assert vpntest("lab", "verify", "open", option, "often").returncode == 2


def test_verifying_without_root_says_so_and_exits_4() -> None:
    code = (
        "import os, sys, vpntest.cli\n"
        "os.geteuid = lambda: 65534\n"
        "sys.exit(vpntest.cli.main(['lab', 'verify', 'open']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (4, "")
    assert "root" in done.stderr


def test_an_output_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("{}")
    done = vpntest("judge", kept, "-o", tmp_path / "no" / "such" / "file")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_kept_run_that_is_none_gets_one_line_and_exit_2(tmp_path: Path) -> None:
    for content in ("", "{}", "[1,", "\0"):
        kept = tmp_path / "kept.json"
        kept.write_text(content)
        done = vpntest("judge", kept)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def document() -> bytes:
    """Of a run that measured nothing."""
    facts = RunFacts("run", "2026-01-01T00:00:00Z", "0", 3, 1.0, VantageFacts())
    record = Record(facts, (TunnelFacts("home", Kind.WIREGUARD, "home.conf"),), (find("twitter"),), ())
    return encode(record, judge(record))


def test_a_kept_run_is_read_from_its_directory_too(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(document())
    whole, directory = (vpntest("judge", path, "--format", "json") for path in (tmp_path / "run.json", tmp_path))
    assert whole.returncode == directory.returncode
    assert whole.stdout == directory.stdout == document().decode() + "\n"
    assert vpntest("explain", tmp_path, "home", "twitter").returncode == 0
    (tmp_path / "run.json").unlink()
    for done in (vpntest("judge", tmp_path), vpntest("explain", tmp_path, "home")):
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert "run.json" in done.stderr


def test_where_no_tunnel_has_the_outcome_nothing_is_selected(tmp_path: Path) -> None:
    kept, record = tmp_path / "run.json", story()
    kept.write_bytes(encode(record, judge(record)))
    for form in ("table", "markdown"):
        done = vpntest("report", kept, "--outcome", "partial", "--outcome", "throttled", "--format", form)
        assert (done.returncode, done.stderr) == (
            5,
            "vpntest: no tunnel that was asked for has a cell that is partial or throttled\n",
        )
        # The line is shown all the same.
        assert "outside" in done.stdout
    assert vpntest("report", kept, "--outcome", "circumvents", "--platform", "bank").returncode == 5
    assert vpntest("report", kept, "--outcome", "circumvents").returncode == 0
    # These forms are whole whatever is asked for.
    assert vpntest("report", kept, "--outcome", "partial", "--format", "csv").returncode == 0
    # Nothing was judged, so nothing can be chosen.
    dead = World(platform("bird"))
    for phase in ("before", "after"):
        dead.control("outside", phase, "generic_timeout_error")
    dead.tunnel("se", carry=False)
    kept.write_bytes(encode(dead.record(), judge(dead.record())))
    assert vpntest("report", kept, "--outcome", "breaks").returncode == 0


def test_evidence_is_kept_as_the_json_is_written(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "kept", Plan((), ()))
    asyncio.run(evidence.end())
    record = decode(document())
    _keep(evidence, record, judge(record))
    (tmp_path / "given.json").write_bytes(document())
    assert vpntest("judge", tmp_path / "given.json", "--format", "json", "-o", tmp_path / "out.json").returncode == 0
    assert (tmp_path / "kept" / "run.json").read_bytes() == (tmp_path / "out.json").read_bytes()
    assert (tmp_path / "out.json").read_bytes().endswith(b"}\n")


def test_evidence_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(document())
    for place in (tmp_path / "nowhere", tmp_path / "run.json"):
        done = vpntest("explain", tmp_path / "run.json", "home", "--evidence", place)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"vpntest: {place}: is no directory of evidence\n"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "rum",
        "judge",
        "judge x --format pdf",
        "judge x --width 0",
        "judge x --width -5",
        "judge x --width wide",
        "lab",
        "lab verify --jobs 0",
        "doctor --please",
        "\x1b[2J",
    ],
)
def test_a_slip_of_the_hand_gets_one_line_and_exit_2(line: str) -> None:
    done = vpntest(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("vpntest: ")
    assert "--help" in done.stderr
    assert "\x1b" not in done.stderr


def test_an_older_result_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    kept, result = tmp_path / "kept.json", tmp_path / "result.txt"
    kept.write_text("{}")
    result.write_text("last night")
    assert vpntest("judge", kept, "-o", result).returncode == 2
    assert result.read_text() == "last night"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["kept.json", "result.txt"]


def test_nothing_half_written_stays_when_it_is_stopped(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    os.mkfifo(kept)
    with subprocess.Popen([sys.executable, "-m", "vpntest", "judge", kept, "-o", tmp_path / "result.txt"]) as waiting:
        writer = None
        while writer is None and waiting.poll() is None:
            # Its result is open when it comes to read.
            with contextlib.suppress(OSError):
                writer = os.open(kept, os.O_WRONLY | os.O_NONBLOCK)
            time.sleep(0.01)
        waiting.terminate()
    assert writer is not None
    os.close(writer)
    assert waiting.returncode == 143
    assert list(tmp_path.iterdir()) == [kept]


def test_a_result_takes_the_place_of_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_bytes(document())
    (tmp_path / "result.txt").symlink_to(tmp_path / "result.txt")
    assert vpntest("judge", tmp_path / "kept.json", "-o", tmp_path / "result.txt").returncode == 0
    assert (tmp_path / "result.txt").read_text()


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        (["--format", "json"], 0o600),
        (["--format", "ooni"], 0o600),
        (["--format", "json", "--redact"], 0o644),
        (["--format", "prometheus"], 0o644),  # another program's user reads it
        ([], 0o644),
    ],
)
def test_a_whole_run_is_its_owners_alone(tmp_path: Path, words: list[str], mode: int) -> None:
    (tmp_path / "kept.json").write_bytes(document())
    result = tmp_path / "result"
    result.touch(0o644)
    before = os.umask(0o022)
    try:
        assert vpntest("judge", tmp_path / "kept.json", "-o", result, *words).returncode == 0
    finally:
        os.umask(before)
    assert result.stat().st_mode & 0o777 == mode


@pytest.mark.root
def test_a_whole_run_belongs_to_who_called_sudo_in_a_folder_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, theirs, ours = tmp_path / "kept.json", tmp_path / "theirs", tmp_path / "ours"
    kept.write_bytes(document())
    monkeypatch.setenv("SUDO_UID", "65534")
    for folder in (theirs, ours):
        folder.mkdir()
    os.chown(theirs, 65534, 65534)
    for folder in (theirs, ours):
        assert vpntest("judge", kept, "-o", folder / "result", "--format", "json").returncode == 0
    assert [(folder / "result").stat().st_uid for folder in (theirs, ours)] == [65534, 0]


def test_a_link_in_the_place_of_a_half_written_result_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_bytes(document())
    (tmp_path / "precious").write_text("precious")
    (tmp_path / f".result.txt.{os.getpid()}").symlink_to(tmp_path / "precious")
    assert vpntest("judge", tmp_path / "kept.json", "-o", tmp_path / "result.txt").returncode == 0
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "result.txt").is_symlink()


def test_a_terminal_does_not_obey_a_files_name(tmp_path: Path) -> None:
    bad = tmp_path / "a\x1b]0;mine\x07\x1b[31mb.conf"
    bad.write_text(wireguard(Frobnicate="7"))
    done = vpntest("run", bad)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


def test_help_names_the_exit_statuses() -> None:
    done = vpntest("--help")
    assert done.returncode == 0
    for status in ("0 done", "2 usage or config error", "4 could not measure", "130"):
        assert status in " ".join(done.stdout.split())


def test_help_loads_no_network_library() -> None:
    code = (
        "import sys\n"
        "from vpntest.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'httpx', 'pyroute2', 'dns', 'cryptography', 'ssl', 'asyncio', 'tabulate'}\n"
        "heavy |= {'shtab', 'argparse_manpage'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_no_key_of_a_bad_config_is_ever_shown(tmp_path: Path) -> None:
    planted = base64.b64encode(b"planted-key-planted-key-planted!").decode()
    bad = tmp_path / "bad.conf"
    bad.write_text(wireguard(PrivateKey=planted, Frobnicate="7"))
    done = vpntest("run", bad)
    assert done.returncode == 2
    assert planted not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("closed", "words", "status"),
    [
        ("2>&-", ["check", "nosuch"], 2),
        ("<&- >&- 2>&-", ["run", "nosuch"], 2),
        (">&-", ["judge", "kept.json"], 0),
        ("<&- >&- 2>&-", ["judge", "kept.json", "-o", "result.json", "--format", "json", "--timings"], 0),
    ],
)
def test_who_closes_a_stream_gets_the_status_all_the_same(
    tmp_path: Path, closed: str, words: list[str], status: int
) -> None:
    (tmp_path / "kept.json").write_bytes(document())
    shell = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-m", "vpntest", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    if "-o" in words:
        # What was closed did not become the result.
        assert decode((tmp_path / "result.json").read_bytes())


@pytest.mark.parametrize("words", [["man"], ["check", "--format", "json", "wg0.conf"], ["lab", "list"]])
def test_a_result_for_which_there_is_no_room_is_one_line(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "wg0.conf").write_text(wireguard())
    with open("/dev/full", "w") as full_disk:
        done = subprocess.run(
            [sys.executable, "-m", "vpntest", *words],
            stdout=full_disk,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert done.returncode == 4
    assert done.stderr == "vpntest: the result: cannot be written (No space left on device)\n"


@pytest.mark.parametrize(
    ("measured", "holds", "otherwise", "status"),
    [
        (0, False, 0, 0),
        (0, True, 0, 1),
        (4, True, 0, 1),  # one tunnel's carrier is missing, another tunnel is worse
        (0, True, 2, 1),
        (0, True, 4, 1),
        (4, False, 2, 4),
        (0, False, 2, 2),
        (3, True, 0, 3),
        (130, True, 0, 130),
        (143, True, 2, 143),
    ],
)
def test_what_rings_is_told_unless_the_run_did_not_come_to_its_end(
    measured: int, holds: bool, otherwise: int, status: int
) -> None:
    assert _ended(measured, holds=holds, otherwise=otherwise) == status
