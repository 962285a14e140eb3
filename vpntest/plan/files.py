"""How files are read that strangers may have named: whole, small, regular, and from nowhere but the place meant."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from vpntest.errors import ConfigError

MAX_KEY_BYTES = 1 << 18
"""The largest key or certificate file that a config may name; revocation lists are the long ones."""
CONFIGS = (".conf", ".ovpn", ".toml")
"""Endings of files that are never keys or certificates: neighbours of the config, with secrets of their own."""


def read(path: Path, where: str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Never blocks on a pipe and never reads a device. Raises ConfigError, in the name of `where`.
    """
    try:
        return _content(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), limit)
    except OSError as fault:
        raise ConfigError(f"cannot be read: {(fault.strerror or 'error').lower()}", where=where) from None
    except ValueError as fault:
        raise ConfigError(str(fault), where=where) from None


def begin(path: Path, length: int) -> bytes:
    """As much of a regular file from its begin on; nothing of what cannot be read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            return stream.read(length) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else b""
    except OSError:
        return b""


def inside(folder: Path) -> Callable[[str], bytes]:
    """A reader of files that lie inside `folder`, for the names that a config from a stranger holds.

    It follows no link out of the folder, and opens nothing hidden and no other config. Raises OSError, or ValueError
    with the reason.
    """

    def read_file(name: str) -> bytes:
        root = os.path.realpath(folder)
        relative = os.path.relpath(os.path.realpath(os.path.join(root, name)), root)
        parts = relative.split(os.sep)
        if parts[0] == os.pardir:
            raise ValueError("it lies outside the config's own folder")
        if any(part.startswith(".") for part in parts):
            raise ValueError("it is hidden, or a folder")
        if parts[-1].lower().endswith(CONFIGS):
            raise ValueError("it is a config itself")
        # Step by step and without links: the folder's owner may swap one in after the check above.
        here = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts[:-1]:
            try:
                below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            finally:
                os.close(here)
            here = below
        try:
            file = os.open(parts[-1], os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        finally:
            os.close(here)
        return _content(file, MAX_KEY_BYTES)

    return read_file


def _content(file: int, limit: int) -> bytes:
    with open(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("not a regular file")
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"larger than {limit >> 10} KiB")
    return data
