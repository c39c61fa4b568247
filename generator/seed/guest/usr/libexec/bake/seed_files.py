"""Write files so that an interruption at any moment leaves each file either old or new."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # renameat2(2)


def write(path: Path, data: bytes) -> None:
    """Create the file with mode 0600."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(data)


def copy_access(old: Path, new: Path) -> None:
    """Copy owner, mode, ACL and SELinux label from the old file to the new file."""
    found = old.stat()
    os.chown(new, found.st_uid, found.st_gid)
    shutil.copystat(old, new)
    os.utime(new)


def replace(path: Path, data: bytes) -> None:
    """Write a file with mode 0600, and rename it to `path` when its content is on the disk."""
    new = path.with_name(f"{path.name}.new")
    write(new, data)
    os.sync()
    new.rename(path)


def name_of_new(path: Path) -> Path:
    """Return the name of a file until it is renamed to `path`. systemd and udev ignore this name."""
    return path.with_name(f".{path.name}.new")


def prepare(path: Path, data: bytes, mode: int, *, keeps_mode: bool) -> None:
    """Write the new content of `path` next to it. `keeps_mode`: if the file exists, its mode and ACL stay unchanged."""
    new = name_of_new(path)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write(new, data)
    exists = path.exists()
    if exists:
        copy_access(path, new)
    if not (exists and keeps_mode):
        new.chmod(mode)


def exchange(old: Path, new: Path) -> None:
    """Exchange two folders in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(old), RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "cannot exchange", str(old))


def restore_labels(paths: list[Path]) -> None:
    """Give the files the labels of SELinux's policy, which may differ from the labels that a service's files get."""
    if paths and shutil.which("restorecon"):
        subprocess.run(["restorecon", "-F", *map(str, paths)], check=True)
