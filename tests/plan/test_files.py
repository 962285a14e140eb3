"""Files that a stranger's config names: read only where they may be."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from vpntest.errors import ConfigError
from vpntest.plan import files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config's folder with a key in it, and a secret beside the folder."""
    (tmp_path / "secret").write_bytes(b"not for strangers")
    folder = tmp_path / "config"
    (folder / "keys").mkdir(parents=True)
    (folder / "ca.crt").write_bytes(b"authority")
    (folder / "keys" / "ta.key").write_bytes(b"key")
    (folder / ".netrc").write_bytes(b"not for strangers")
    return folder


def test_what_lies_inside_is_read(folder: Path) -> None:
    read_file = files.inside(folder)
    assert read_file("ca.crt") == b"authority"
    assert read_file("./keys/ta.key") == b"key"
    assert read_file("keys/../ca.crt") == b"authority"
    assert read_file(str(folder / "ca.crt")) == b"authority"


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "link").symlink_to("keys")
    assert files.inside(folder)("link/ta.key") == b"key"


def test_a_folder_reached_by_a_link_is_still_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(folder)
    assert files.inside(tmp_path / "other")("ca.crt") == b"authority"


@pytest.mark.parametrize(
    "name", ["../secret", "keys/../../secret", "/etc/hostname", "..", "absolute", "link", "linked/secret"]
)
def test_nothing_outside_is_read(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to("..")
    if name == "absolute":
        name = str(tmp_path / "secret")
    with pytest.raises(ValueError, match="outside"):
        files.inside(folder)(name)


@pytest.mark.parametrize("name", [".netrc", "keys/.hidden", ".", ""])
def test_nothing_hidden_is_read(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="hidden"):
        files.inside(folder)(name)


@pytest.mark.parametrize("name", ["mine.conf", "keys/other.OVPN", "plan.toml", "link"])
def test_no_other_config_is_read(folder: Path, name: str) -> None:
    (folder / "link").symlink_to("mine.conf")
    for config in ("mine.conf", "keys/other.OVPN", "plan.toml"):
        (folder / config).write_bytes(b"a neighbour's")
    with pytest.raises(ValueError, match="a config itself"):
        files.inside(folder)(name)


def test_what_is_no_file_is_not_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(ValueError, match="regular"):
        files.inside(folder)("pipe")  # would wait for a writer for ever
    with pytest.raises((ValueError, OSError)):
        files.inside(folder)("keys")
    with pytest.raises(OSError, match="No such file"):
        files.inside(folder)("missing")
    with pytest.raises(OSError, match="Not a directory"):
        files.inside(folder)("ca.crt/below")


def test_a_large_file_is_not_read(folder: Path) -> None:
    with open(folder / "large", "wb") as large:
        large.truncate(files.MAX_KEY_BYTES + 1)
    with pytest.raises(ValueError, match="larger than 256 KiB"):
        files.inside(folder)("large")


def test_reading_leaves_no_descriptor_open(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("ca.crt", "keys/ta.key", "missing", "keys/missing", "../secret", "ca.crt/below"):
        with contextlib.suppress(OSError, ValueError):
            files.inside(folder)(name)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "no such file"),
        ("folder", "is a directory|not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("big", "larger"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_clear_line(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "big").write_bytes(b"x" * 2048)
    with pytest.raises(ConfigError, match=reason) as caught:
        files.read(tmp_path / path, "the config", 1024)
    assert str(caught.value).startswith("the config: ")


def test_a_config_of_just_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 1024)
    assert len(files.read(tmp_path / "x", "x", 1024)) == 1024


def test_the_begin_of_a_file_is_of_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x").write_bytes(b"x" * 1024)
    begins = [files.begin(tmp_path / name, 9) for name in ("x", "pipe", "missing")]
    assert begins == [b"x" * 9, b"", b""]
    assert files.begin(Path("/dev/zero"), 9) == b""
