"""Refuse folders and files that another user can replace. bake trusts the keys in the output folder.

Like sshd with the option StrictModes, bake checks every folder from `/` to the folder with the keys.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from generator.errors import InputError

_ACL = "system.posix_acl_access"
_MAX_LINKS = 40  # the kernel's limit for symlinks in a path
_ABOVE = "run bake as the folder's owner, or give an --out that only you and root can change"
_BELOW = "give another --out, or change the owner if you trust the content"


def check_parents(path: Path) -> None:
    """Raise InputError if another user can change a folder or symlink in `path`.

    `path` is absolute. The check stops at a folder that does not exist.
    """
    for place, status in _resolution_steps(path):
        _check(place, status, _owners() | _overflow_owner(), sticky=True)


def check_below(folder: Path, path: PurePosixPath) -> None:
    """Raise InputError if another user can change a part of `folder/path`, or if a part is a symlink."""
    for place in (*(folder / part for part in reversed(path.parents)), folder / path):
        if (status := _lstat(place)) is None:
            return
        if stat.S_ISLNK(status.st_mode):
            rule = "is a symlink, but bake follows no symlinks below --out"
            raise InputError.one(str(place), rule, "replace the symlink with the real file or folder")
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise InputError.one(str(place), "is neither a file nor a folder", "remove it")
        _check(place, status, _owners(), sticky=False)


def check_secret(path: Path, where: str) -> None:
    """Raise InputError if the secret file `path` belongs to another user.

    A pipe may belong to another user. Under sudo, a pipe from bash's `<(...)` belongs to the user who called sudo.
    """
    with suppress(OSError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_uid not in _owners():
            hint = "copy the secret to a file that you own, with the mode 0600"
            raise InputError.one(where, f"belongs to {_user(status.st_uid)}", hint)


def _check(place: Path, status: os.stat_result, owners: set[int], *, sticky: bool) -> None:
    if status.st_uid not in owners:
        rule = f"belongs to {_user(status.st_uid)}, but bake runs as {_user(os.geteuid())}"
        raise InputError.one(str(place), rule, _ABOVE if sticky else _BELOW)
    if writers := _other_writers(place, status, sticky=sticky):
        rule = f"mode {stat.S_IMODE(status.st_mode):04o} lets {writers} change it"
        raise InputError.one(str(place), rule, f"chmod go-w {place}, or give another --out")


def _resolution_steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every folder and symlink through which the kernel resolves `path`."""
    here, parts, links = Path("/"), [*reversed(path.parts)], 0
    while parts and links <= _MAX_LINKS:
        part = parts.pop()
        place = here.parent if part == ".." else here / part
        if (status := _lstat(place)) is None:
            return
        yield place, status
        if stat.S_ISLNK(status.st_mode):
            links += 1
            parts += reversed(place.readlink().parts)
        else:
            here = place


def _lstat(place: Path) -> os.stat_result | None:
    try:
        return place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError.one(str(place), f"cannot be read: {error.strerror}", "check its owner") from None


def _owners() -> set[int]:
    return {0, os.geteuid()}


def _overflow_owner() -> set[int]:
    """In a user namespace, return the uid that the kernel shows for file owners outside the namespace."""
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    if sum(int(length) for _, _, length in ranges) >= 2**32 - 1:
        return set()
    return {int(Path("/proc/sys/kernel/overflowuid").read_text())}


def _other_writers(place: Path, status: os.stat_result, *, sticky: bool) -> str | None:
    """Describe the other users who can change `place`, or return None. `sticky`: accept folders with the sticky bit."""
    mode = status.st_mode
    if stat.S_ISLNK(mode) or (sticky and mode & stat.S_ISVTX):
        return None
    if mode & stat.S_IWOTH:
        return "every user"
    if not mode & stat.S_IWGRP:
        return None
    if _has_acl(place):  # if the file has an ACL, the group bits are the ACL's mask
        return "the users of its ACL"
    return _other_members(status.st_gid)


def _has_acl(place: Path) -> bool:
    with suppress(OSError):
        return bool(os.getxattr(place, _ACL))
    return False


def _other_members(gid: int) -> str | None:
    """Return None if only root and this user are in the group, else a description of the group."""
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return f"the group {gid}"
    users = pwd.getpwall()
    names = {*group.gr_mem, *(one.pw_name for one in users if one.pw_gid == gid)}
    names -= {one.pw_name for one in users if one.pw_uid in _owners()}
    return f"the group {group.gr_name} ({', '.join(sorted(names))})" if names else None


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
