"""Write a report or a chart. The file is complete at each time, and only files of bake are replaced."""

from __future__ import annotations

import errno
from pathlib import Path

from generator.errors import BakeError, InputError
from generator.store import atomic

_BEGIN = 4096  # bytes in which a file of bake has its mark


def check_target(target: Path, mark: str) -> None:
    """Raise InputError if bake cannot write `target`, or if another program wrote it.

    `mark`: a text at the beginning of each file that bake replaces.
    """
    where = str(target)
    if not target.parent.is_dir():
        raise InputError.one(where, f"there is no folder {target.parent}", "create the folder, or give another FILE")
    if not (target.exists() or target.is_symlink()):
        return
    if target.is_symlink() or not target.is_file():
        raise InputError.one(where, "exists and is not a regular file", "give another FILE")
    try:
        with target.open("rb") as file:
            is_own = mark.encode() in file.read(_BEGIN)
    except OSError as error:
        raise InputError.one(where, f"cannot be read: {error.strerror}", "give another FILE") from None
    if not is_own:
        raise InputError.one(where, "exists, and this command did not write it", "give another FILE")


def write_output(target: Path, text: str, mark: str) -> None:
    """Write a file with mode 0600, or replace it atomically. See `check_target`."""
    check_target(target, mark)
    try:
        atomic.replace(target, text.encode())
    except OSError as error:
        problem = f"{target}: cannot be written: {error.strerror}; the file has not changed"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise BakeError(problem, hint="give another FILE, or free space" if full else "give another FILE") from None
