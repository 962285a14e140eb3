"""Zip archives of strangers: read in memory, bounded, and never more than what is meant."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpntest.errors import ConfigError
from vpntest.plan import archives
from vpntest.plan.archives import Member, is_archive, members
from vpntest.plan.syntax import Refused, Unsupported

LIMIT = 1 << 20


def packed(*files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name twice
        for name, data in files:
            archive.writestr(name, data)
    return buffer.getvalue()


def _members(data: bytes) -> list[Member]:
    return list(members(data, "pack.zip", LIMIT))


def _faults(found: Iterable[Member]) -> list[tuple[str, type, str]]:
    return [(one.name, type(one.data), str(one.data)) for one in found if isinstance(one.data, ConfigError)]


def test_files_come_in_the_order_of_their_names_and_without_what_is_hidden() -> None:
    data = packed(
        ("b/c.ovpn", b"1"), ("a.ovpn", b"2"), ("b/", b""), (".git/x", b""), ("b/.x", b""), ("__MACOSX/a", b"")
    )
    assert is_archive(data)
    assert [(one.name, one.data) for one in _members(data)] == [("a.ovpn", b"2"), ("b/c.ovpn", b"1")]


def test_what_stands_beside_a_member_can_be_read_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("hush")
    data = packed(
        ("udp/a.ovpn", b""), ("ca.crt", b"root"), ("udp/key", b"key"), ("udp/b.conf", b"x"), ("udp/.hidden", b"x")
    )
    beside = next(one.read_file for one in _members(data) if one.name == "udp/a.ovpn")
    assert [beside(name) for name in ("key", "./key", "../ca.crt", "..\\ca.crt")] == [b"key", b"key", b"root", b"root"]
    for name in ("../../etc/passwd", "/etc/passwd", "b.conf", ".hidden", "..", "", str(tmp_path / "host")):
        with pytest.raises((ValueError, OSError)):
            beside(name)
    with pytest.raises(FileNotFoundError):
        beside("gone")


@pytest.mark.parametrize("name", ["../x.ovpn", "a/../../x.ovpn", "/etc/x.ovpn", "..\\x.ovpn", "C:\\x.ovpn", "\\x.ovpn"])
def test_a_name_that_leads_out_is_refused(name: str) -> None:
    found = _members(packed((zipfile.ZipInfo(name), b"client\n"), ("good.ovpn", b"client\n")))
    assert [kind for _, kind, _ in _faults(found)] == [Refused]
    assert [one.name for one in found if one.data == b"client\n"] == ["good.ovpn"]


def test_links_devices_and_pipes_are_refused() -> None:
    files = []
    for number, kind in enumerate((stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO)):
        info = zipfile.ZipInfo(f"{number}.ovpn")
        info.create_system, info.external_attr = 3, (kind | 0o777) << 16
        files.append((info, b"/etc/passwd"))
    found = _members(packed(*files))
    assert [kind for _, kind, _ in _faults(found)] == [Refused] * 3


def test_an_archive_within_an_archive_is_not_read() -> None:
    found = _members(packed(("inner.zip", packed(("a", b"x"))), ("x.gz", b"\x1f\x8b\x08")))
    assert [kind for _, kind, _ in _faults(found)] == [Unsupported] * 2


def test_what_is_encrypted_or_strangely_packed_is_not_read() -> None:
    data = bytearray(packed(("a.ovpn", b"x" * 100)))
    for magic, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(magic) + offset] |= 1
    assert [kind for _, kind, _ in _faults(_members(bytes(data)))] == [Unsupported]
    lzma = packed(("a.ovpn", b"x" * 100), method=zipfile.ZIP_LZMA)
    assert [kind for _, kind, _ in _faults(_members(lzma))] == [Unsupported]


def test_a_member_without_a_name_is_none() -> None:
    """zipfile itself stumbles over it."""
    data = packed(("Q", b"x"), ("a.conf", b"y")).replace(b"Q", b"\0")  # a name ends at its first NUL
    assert [one.name for one in _members(data)] == ["a.conf"]


def test_a_damaged_member_costs_itself_only() -> None:
    data = bytearray(packed(("a.ovpn", b"x" * 100), ("b.ovpn", b"y"), method=zipfile.ZIP_STORED))
    data[data.index(b"xxxx")] ^= 1
    found = _members(bytes(data))
    assert [(name, reason) for name, _, reason in _faults(found)] == [("a.ovpn", "pack.zip/a.ovpn: it is damaged")]
    assert found[1].data == b"y"


def test_a_member_that_is_too_large_costs_itself_only() -> None:
    found = _members(packed(("a.ovpn", b"x" * (LIMIT + 1)), ("b.ovpn", b"y")))
    assert ["larger than 1024 KiB" in reason for _, _, reason in _faults(found)] == [True]
    assert found[1].data == b"y"


def test_a_bomb_is_known_by_its_ratio() -> None:
    data = packed(("a.ovpn", bytes(8 << 20)))
    (found,) = members(data, "pack.zip", 32 << 20)
    assert "a bomb" in str(found.data)


def test_many_members_that_unfold_end_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1 << 16)
    data = packed(*((f"{number}.ovpn", bytes(1 << 14)) for number in range(9)))
    read = []
    with pytest.raises(ConfigError, match="unfolds into more than"):
        read.extend(members(data, "pack.zip", LIMIT))
    # Also what is refused for its size counts: it had to be unfolded to be known.
    with pytest.raises(ConfigError, match="unfolds into more than"):
        list(members(data, "pack.zip", 1 << 13))


def test_a_shared_file_is_unfolded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 4000)
    data = packed(("ca.crt", b"x" * 1000), *((f"{number}.ovpn", b"y") for number in range(20)))
    assert [one.read_file("ca.crt") for one in members(data, "x", LIMIT)] == [b"x" * 1000] * 21


def test_a_size_that_lies_brings_nothing_more() -> None:
    data = bytearray(packed(("a.ovpn", b"x" * 5000)))
    for magic, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = data.index(magic) + offset
        data[at : at + 4] = struct.pack("<L", 10)
    assert [reason for _, _, reason in _faults(_members(bytes(data)))] == ["pack.zip/a.ovpn: it is damaged"]


def test_a_directory_of_too_many_is_not_even_read() -> None:
    data = packed(("a", b"")) + b"PK\x01\x02" * (archives.MAX_MEMBERS + 1)
    with pytest.raises(ConfigError, match="more than 20000 files"):
        _members(data)


@pytest.mark.parametrize("data", [b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(1000)])
def test_what_is_no_archive_says_so_or_is_empty(data: bytes) -> None:
    said = "not a zip archive"
    try:
        assert _members(data) == []
    except ConfigError as fault:
        said = str(fault)
    assert "not a zip archive" in said


WHOLE = packed(("a.ovpn", b"client\n"), ("ca.crt", zlib.compress(b"x")))


@given(
    edits=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6), cut=st.integers(0, 9)
)
def test_only_our_errors_leave(edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(WHOLE)
    for at, value in edits:
        data[at] = value
    said = "pack.zip: "
    try:
        for one in members(bytes(data[: len(data) - cut]), "pack.zip", LIMIT):
            assert isinstance(one.data, bytes | ConfigError)
            assert one.name.isprintable()
    except ConfigError as fault:
        said = str(fault)
    assert said.startswith("pack.zip: ")


def test_what_many_configs_name_is_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_SHARED_BYTES", 1000)
    data = packed(("a.ovpn", b"x"), *((f"k{number}", bytes(600)) for number in range(4)))
    member = next(one for one in members(data, "p.zip", 1 << 20) if one.name == "a.ovpn")
    assert [len(member.read_file(name)) for name in ("k0", "k1", "k0")] == [600, 600, 600]
    with pytest.raises(ValueError, match="key files are larger"):
        member.read_file("k2")
