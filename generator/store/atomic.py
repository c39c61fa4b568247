"""Write files that survive a power cut, and exchange two folders atomically."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from generator.errors import BakeError, InputError

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file, or no file after an error.

    Until `write_new` sets the mode, only the owner can read the file, whatever the umask is.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace(path: Path, data: bytes) -> None:
    """Write a file with mode 0600. An existing file has its old content until the new content is on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_names(path.parent)


def no_write(where: object, error: OSError, text: str = "", hint: str = "give another --out") -> BakeError:
    """Return the error for the user if a file cannot be written. `text`: what is wrong; default: the system's reason.

    If the path can never be a folder, it is an InputError. A read-only or a full file system is not wrong input.
    """
    text = text or f"cannot be written: {error.strerror}"
    if isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError):
        return InputError.one(str(where), text, hint)
    return BakeError(f"{where}: {text}", hint=hint)


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """Yield a file descriptor of a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync(folder: Path) -> None:
    """Write all unsaved data of the file system that contains `folder` to the disk.

    An fsync of each file would take seconds.
    """
    with opened(folder) as descriptor:
        syncfs = getattr(_libc(), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def sync_names(folder: Path) -> None:
    """Write the list of names in a folder to the disk, but not the content of the files."""
    with opened(folder) as descriptor:
        os.fsync(descriptor)


def exchange(new: Path, old: Path) -> None:
    """Exchange two folders atomically. If `old` does not exist, rename `new` to `old`. Raises OSError."""
    if not old.exists():
        new.rename(old)
        return
    renameat2 = getattr(_libc(), "renameat2", None)
    arguments = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE)
    if renameat2 is not None and renameat2(*arguments) == 0:
        return
    code = ctypes.get_errno()
    raise OSError(code, f"{old}: this file system cannot exchange two folders ({os.strerror(code)})")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
