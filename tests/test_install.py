"""scripts/install, into a folder of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
INSTALL = REPOSITORY / "scripts/install"
PUT = {
    "bin/vpntest",
    "share/man/man1/vpntest.1",
    "share/bash-completion/completions/vpntest",
    "share/zsh/site-functions/_vpntest",
    "share/fish/vendor_completions.d/vpntest.fish",
}


def install(*arguments: str | Path, script: Path = INSTALL) -> tuple[int, list[str]]:
    done = subprocess.run([script, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert all(line.startswith("install: ") for line in done.stderr.splitlines()), done.stderr
    return done.returncode, [line.removeprefix("install: ") for line in done.stderr.splitlines()]


def held(prefix: Path) -> dict[str, bytes]:
    """Every file and link below a folder, and what is in it."""
    return {
        str(path.relative_to(prefix)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in prefix.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_it_is_put_renewed_used_and_taken_back(tmp_path: Path) -> None:
    status, said = install("--prefix", tmp_path)
    assert status == 0
    assert {line.removeprefix(f"{tmp_path}/") for line in said[:-3]} == PUT
    assert said[-3:] == [
        f"note: {tmp_path}/bin is not on your PATH",
        f"note: sudo mostly looks elsewhere; where it does, run: sudo {tmp_path}/bin/vpntest",
        "note: zsh finds the completion by this line in ~/.zshrc, before compinit: "
        f"fpath=({tmp_path}/share/zsh/site-functions $fpath)",
    ]
    first = held(tmp_path)
    assert set(first) == PUT
    # As the README calls it, from anywhere, also by a link to the link.
    (tmp_path / "again").symlink_to("bin/vpntest")
    for program in ("bin/vpntest", "again"):
        done = subprocess.run(
            [tmp_path / program, "completion", "bash"], capture_output=True, text=True, check=True, cwd="/"
        )
        assert first["share/bash-completion/completions/vpntest"].decode().startswith(done.stdout.rstrip("\n"))
    (tmp_path / "again").unlink()
    # zsh reads the first line, and whoever reads manual pages that of the title.
    assert first["share/zsh/site-functions/_vpntest"].startswith(b"#compdef vpntest\n")
    assert first["share/man/man1/vpntest.1"].startswith(b".TH VPNTEST ")
    subprocess.run(["mandoc", "-Tlint", "-W", "error", tmp_path / "share/man/man1/vpntest.1"], check=True)
    assert install(f"--prefix={tmp_path}")[0] == 0
    assert held(tmp_path) == first
    status, said = install("--prefix", tmp_path, "--uninstall")
    assert (status, {line.removesuffix(" is gone").removeprefix(f"{tmp_path}/") for line in said}) == (0, PUT)
    assert [*tmp_path.iterdir()] == []
    assert install("--prefix", tmp_path, "--uninstall") == (0, [])


def test_folders_that_hold_something_else_stay(tmp_path: Path) -> None:
    theirs = tmp_path / "share/zsh/site-functions/_theirs"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    assert install("--prefix", tmp_path)[0] == 0
    assert install("--prefix", tmp_path, "--uninstall")[0] == 0
    assert held(tmp_path) == {"share/zsh/site-functions/_theirs": b""}
    assert [*tmp_path.iterdir()] == [tmp_path / "share"]


def test_a_link_in_the_place_of_a_half_written_file_is_not_followed(tmp_path: Path) -> None:
    precious, page = tmp_path / "precious", tmp_path / "to/share/man/man1/vpntest.1"
    precious.write_text("precious")
    page.parent.mkdir(parents=True)
    Path(f"{page}.new").symlink_to(precious)
    assert install("--prefix", tmp_path / "to")[0] == 0
    assert precious.read_text() == "precious"
    assert not page.is_symlink()


@pytest.mark.root
def test_fish_and_zsh_find_what_is_below_usr_local(tmp_path: Path) -> None:
    """In a mount namespace: the machine's own /usr/local and /etc/fish are not touched."""
    script = """
        mount -t tmpfs none /usr/local && mkdir -p /usr/local/bin /usr/local/share
        mount -t tmpfs none /etc/fish
        "$1" && fish -c 'complete -C "vpntest doc"' && zsh -fc 'autoload +X _vpntest && echo zsh'
        "$1" --uninstall && find /usr/local /etc/fish -type f
    """
    # fish makes itself a home where there is none.
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", INSTALL], capture_output=True, text=True, env=plain
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("doctor")
    assert lines[1:] == ["zsh"]
    assert "sudo mostly" not in done.stderr
    assert "/etc/fish/completions/vpntest.fish is gone" in done.stderr


@pytest.mark.parametrize("name", sorted(PUT))
def test_what_is_not_ours_stays(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious\n")
    assert install("--prefix", tmp_path) == (4, [f"{theirs} is there already and is not ours; nothing was changed"])
    assert install("--prefix", tmp_path, "--uninstall") == (0, [f"{theirs} is not ours, and stays"])
    assert held(tmp_path) == {name: b"precious\n"}


def test_the_link_of_another_clone_stays_while_that_clone_does(tmp_path: Path) -> None:
    other = tmp_path / "other/scripts/vpntest"
    other.parent.mkdir(parents=True)
    other.touch()
    link = tmp_path / "here/bin/vpntest"
    link.parent.mkdir(parents=True)
    link.symlink_to(other)
    assert install("--prefix", tmp_path / "here")[0] == 4
    assert link.readlink() == other
    other.unlink()
    assert install("--prefix", tmp_path / "here")[0] == 0
    assert link.readlink() == REPOSITORY / "scripts/vpntest"


def test_where_it_cannot_write_it_says_what_helps() -> None:
    status, said = install("--prefix", "/proc/nowhere")
    assert status == 4
    assert said == [
        "/proc/nowhere/share/man/man1/vpntest.1 cannot be written: run this with sudo, or with --prefix ~/.local"
    ]


def test_an_unprepared_clone_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    status, said = install("--prefix", tmp_path / "to", script=tmp_path / "scripts/install")
    assert (status, said) == (4, [f"this clone is not prepared; run first: sudo {tmp_path}/scripts/prepare"])
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("arguments", [["--prefix"], ["--prefix", ""], ["--purge"], ["/usr"]])
def test_a_slip_of_the_hand(arguments: list[str]) -> None:
    status, said = install(*arguments)
    assert (status, len(said)) == (2, 1)
