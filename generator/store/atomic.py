"""Writes that survive a power cut, and the atomic exchange of two folders."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file that other users cannot read at any moment, independent of the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)


def sync(folder: Path) -> None:
    """Sync the folder's whole file system in one call: thousands of fsyncs would take seconds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs = getattr(_libc(), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def sync_names(folder: Path) -> None:
    """Sync only the folder's entries, and so an exchange; the content is on the disk already."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(new: Path, old: Path) -> None:
    """Exchange two folders atomically, or rename the new one if there is no old one. Raises OSError."""
    if not old.exists():
        new.rename(old)
        return
    renameat2 = getattr(_libc(), "renameat2", None)
    arguments = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE)
    if renameat2 is not None and renameat2(*arguments) == 0:
        return
    code = ctypes.get_errno()
    raise OSError(code, f"{old}: this file system cannot swap two folders ({os.strerror(code)})")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
