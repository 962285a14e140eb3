"""Reads providers' zip archives in memory: nothing of one is ever written to this machine.

Sans-I/O: bytes in, members out. A member that must not be read costs itself only. Sizes are those that come out, never
those that the archive claims; what is read in all is bounded, so that a bomb ends as one clear problem.
"""

from __future__ import annotations

import io
import posixpath
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vpntest.errors import ConfigError
from vpntest.plan import files, syntax
from vpntest.plan.syntax import Refused, Unsupported

MAX_ARCHIVE_BYTES = 64 << 20
"""The largest archive. Providers' packs with every server stay under ten MiB."""
MAX_MEMBERS = 20_000
"""Files and folders in one archive."""
MAX_TOTAL_BYTES = 256 << 20
"""Bytes that all members together may unfold into."""
MAX_SHARED_BYTES = 16 << 20
"""Bytes of the key files and certificates that its configs name, together. Packs share a handful."""
MAX_RATIO = 200
"""How much larger than in the archive a member may be, from `RATIO_FROM` on. Text of many equal lines reaches 50."""
RATIO_FROM = 1 << 20

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_MAGIC_SEVERAL = (b"PK\x03\x04", b"PK\x05\x06", b"Rar!", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b")
_DIRECTORY_ENTRY = b"PK\x01\x02"
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Member:
    """One file of an archive."""

    name: str
    """Its path within the archive, as it can be shown."""
    data: bytes | ConfigError
    """Its content, or why it is not read."""
    read_file: Callable[[str], bytes]
    """Opens what stands beside it, for the names that it holds; as :func:`vpntest.plan.files.inside`, but anywhere in
    the archive, which is of one hand."""


def is_archive(data: bytes) -> bool:
    """Whether a file is a zip archive."""
    return data.startswith(_MAGIC)


def members(data: bytes, where: str, limit: int) -> Iterator[Member]:
    """The files of an archive in the order of their names, without what is hidden; `limit` is the most bytes of one.

    Raises ConfigError for what is no archive that can be read, and where its members unfold into too much.
    """
    if len(data) > MAX_ARCHIVE_BYTES:
        raise ConfigError(f"larger than {MAX_ARCHIVE_BYTES >> 20} MiB", where=where)
    # Before its directory is read: each entry becomes an object of half a KiB.
    if data.count(_DIRECTORY_ENTRY) > MAX_MEMBERS:
        raise ConfigError(f"an archive of more than {MAX_MEMBERS} files", where=where)
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, EOFError, LookupError, struct.error):
        raise ConfigError("not a zip archive that can be read", where=where) from None
    total = 0
    shared: dict[str, bytes] = {}

    def content(info: zipfile.ZipInfo, most: int) -> bytes:
        nonlocal total
        # Never more than its directory says comes out, so that this much is also what a member costs that is refused.
        total += min(info.file_size, most)
        return _content(archive, info, most)

    def companion(info: zipfile.ZipInfo) -> bytes:
        """What many configs name, such as their one authority, is unfolded once."""
        if info.filename not in shared:
            if sum(map(len, shared.values())) >= MAX_SHARED_BYTES:
                raise ValueError(f"the archive's key files are larger than {MAX_SHARED_BYTES >> 20} MiB together")
            shared[info.filename] = content(info, files.MAX_KEY_BYTES)
        return shared[info.filename]

    by_name = {info.filename: info for info in archive.infolist() if info.filename and not info.is_dir()}
    for name in sorted(by_name):
        parts = name.replace("\\", "/").split("/")
        if any(part.startswith(".") and part not in (".", "..") for part in parts) or parts[0] == "__MACOSX":
            continue
        info, place = by_name[name], f"{where}/{syntax.printable(name)}"
        if total >= MAX_TOTAL_BYTES:
            raise ConfigError(f"an archive that unfolds into more than {MAX_TOTAL_BYTES >> 20} MiB", where=where)
        try:
            found: bytes | ConfigError = _checked(info, place) or content(info, limit)
            if isinstance(found, bytes) and found.startswith(_MAGIC_SEVERAL):
                found = Unsupported("an archive within an archive is not read", where=place)
        except ValueError as fault:
            found = ConfigError(str(fault), where=place)
        yield Member(syntax.printable(name), found, _beside(name, by_name, companion))


def _checked(info: zipfile.ZipInfo, where: str) -> ConfigError | None:
    """Why a member is not read, if it is not."""
    parts = info.filename.replace("\\", "/").split("/")
    if ".." in parts or info.filename.startswith(("/", "\\")) or info.filename[1:2] == ":":
        return Refused("its name leads out of the archive", where=where)
    if info.create_system == 3 and (mode := info.external_attr >> 16) and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return Refused("it is a link or a device, and no file", where=where)
    if info.flag_bits & _ENCRYPTED:
        return Unsupported("it is encrypted", where=where, hint="unpack it yourself")
    if info.compress_type not in _METHODS:
        return Unsupported("it is compressed in a way that is not read", where=where)
    return None


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """A member's content. Raises ValueError with the reason."""
    try:
        with archive.open(info) as stream:
            data = stream.read(limit + 1)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        LookupError,
        EOFError,
        OSError,
        struct.error,
        zlib.error,
    ):
        raise ValueError("it is damaged") from None
    if len(data) > limit:
        raise ValueError(f"larger than {limit >> 10} KiB")
    if len(data) > RATIO_FROM and len(data) > MAX_RATIO * max(1, info.compress_size):
        raise ValueError(f"more than {MAX_RATIO} times larger than in the archive: a bomb")
    return data


def _beside(
    name: str, by_name: dict[str, zipfile.ZipInfo], companion: Callable[[zipfile.ZipInfo], bytes]
) -> Callable[[str], bytes]:
    def read_file(wanted: str) -> bytes:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), wanted.replace("\\", "/")))
        parts = path.split("/")
        if path.startswith("/") or parts[0] == "..":
            raise ValueError("it lies outside the archive")
        if any(part.startswith(".") for part in parts):
            raise ValueError("it is hidden, or a folder")
        if parts[-1].lower().endswith(files.CONFIGS):
            raise ValueError("it is a config itself")
        info = by_name.get(path)
        if info is None:
            raise FileNotFoundError(2, "No such file in the archive")
        if fault := _checked(info, path):
            raise ValueError(fault.reason)
        return companion(info)

    return read_file
