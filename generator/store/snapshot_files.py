"""Write, list and remove snapshot files. A snapshot is a pair of files: the data, and a record next to the data.

An unfinished file has no name in its folder (O_TMPFILE), so a killed bake leaves nothing behind. On a file system
without O_TMPFILE, such as NFS, an unfinished file has a temporary name, and the next snapshot removes the file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from generator.errors import BakeError, InputError
from generator.store import atomic

FORMAT_VERSION = "1.0"
_UNFINISHED = ".bake-snapshot-"
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)  # open(2), O_TMPFILE
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TYPES = {"revision": int, "size": int, "quorum": bool}  # of the values of a record; the others are texts
_MAX_RECORD = 1 << 16  # bytes; a record has less than 1 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A description of a snapshot.

    `etcd_cluster_id` and `member_id`: hexadecimal, as in etcdctl. `time`: when bake requested the snapshot, UTC in the
    format of RFC 3339. `size` (bytes) and `sha256`: of the file. The last 32 bytes of the file are etcd's SHA-256 of
    the bytes before. `quorum`: whether the member had a quorum. Otherwise, the snapshot can lack acknowledged writes.
    """

    cluster: str
    cluster_id: str
    etcd_cluster_id: str
    member: str
    member_id: str
    revision: int
    etcd_version: str
    time: str
    size: int
    sha256: str
    quorum: bool = True

    def dump(self) -> bytes:
        """Return the content of the record's file."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1).encode() + b"\n"


def parse_record(raw: bytes) -> Record:
    """Parse the content of a record's file. Raise ValueError if it is not a record of a snapshot."""
    try:
        found: dict[str, Any] = json.loads(raw)
        if found.pop("format_version").partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
            raise ValueError
        values = {one.name: found[one.name] for one in fields(Record) if one.name != "quorum" or "quorum" in found}
        if any(type(value) is not _TYPES.get(name, str) for name, value in values.items()):
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError("it is not the record of a snapshot") from None
    return Record(**values)


def record_path(data: Path) -> Path:
    """Return the path of a snapshot's record."""
    return data.with_name(f"{data.name}.json")


class Unfinished:
    """A file that gets its name when it is complete. `file`: the open file, with mode 0600."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, ""
        try:
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
            descriptor, self.name = tempfile.mkstemp(prefix=_UNFINISHED, dir=folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        self.file = os.fdopen(descriptor, "w+b")

    def sync(self) -> None:
        """Write all data to the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def publish(self, target: Path) -> None:
        """Give the file its name. Raise FileExistsError if a file has the name already."""
        if self.name:
            self._rename(target)
            return
        with atomic.opened(self.folder) as folder:
            source = f"/proc/self/fd/{self.file.fileno()}"
            os.link(source, target.name, dst_dir_fd=folder, follow_symlinks=True)

    def _rename(self, target: Path) -> None:
        try:
            os.link(self.name, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
            Path(self.name).rename(target)

    def has_name(self, path: Path) -> bool:
        """Return whether `path` is this file."""
        try:
            return os.path.samestat(path.lstat(), os.fstat(self.file.fileno()))
        except OSError:
            return False

    def close(self) -> None:
        """Close the file. Remove the file if it has no name, or its temporary name."""
        if self.name:
            Path(self.name).unlink(missing_ok=True)
        with suppress(OSError):  # the file may still have data that does not fit on the disk
            self.file.close()


def refuse_existing(target: Path, cluster_id: str) -> None:
    """Raise InputError if `target` or its record exists. Remove a record of this cluster without data.

    If bake is killed between the publications of the record and the data, the record remains without data.
    """
    where = str(target)
    if not target.parent.is_dir():
        raise InputError.one(where, f"there is no folder {target.parent}", "create the folder, or give another FILE")
    if os.path.lexists(target):
        raise InputError.one(where, "exists already, and bake overwrites no file", "give another FILE")
    record = record_path(target)
    if not os.path.lexists(record):
        return
    found = _load(record)
    if found is None or found.cluster_id != cluster_id:
        raise InputError.one(str(record), "exists already, and bake overwrites no file", "give another FILE")
    record.unlink()


@contextmanager
def writing(target: Path) -> Iterator[tuple[Unfinished, Unfinished]]:
    """Yield two unfinished files, for the data and for the record. Discard them at the end unless `publish` was called.

    Raise BakeError if the files cannot be written.
    """
    made: list[Unfinished] = []
    try:
        _remove_unfinished(target.parent)
        made += [Unfinished(target.parent)]
        made += [Unfinished(target.parent)]
        yield made[0], made[1]
    except FileExistsError:
        raise InputError.one(str(target), "exists already, and bake overwrites no file", "give another FILE") from None
    except OSError as error:
        text = "the disk is full" if error.errno in _FULL else f"cannot be written: {error.strerror}"
        raise BakeError(f"{target}: {text}; no file was written", hint="give another FILE, or free space") from None
    finally:
        for one in made:
            one.close()


def publish(target: Path, data: Unfinished, record: Unfinished) -> None:
    """Give the files their names. The record gets its name first, so data never exists without its record."""
    data.sync()
    record.sync()
    try:
        record.publish(record_path(target))
        data.publish(target)
    except BaseException:
        if record.has_name(record_path(target)) and not data.has_name(target):
            record_path(target).unlink()
        raise
    atomic.sync_names(target.parent)


def _remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed processes. A running process has the lock on its files."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def snapshots_of(folder: Path, cluster_id: str) -> list[tuple[Path, Record]]:
    """Return the cluster's snapshots in a folder, the newest first.

    A file counts only if its record names the cluster, and if its size is the size in the record.
    """
    found = []
    for path in folder.glob("*.json"):
        data, record = path.with_suffix(""), _load(path)
        if record is None or record.cluster_id != cluster_id or data.is_symlink() or not data.is_file():
            continue
        if data.stat().st_size == record.size:
            found.append((data, record))
    return sorted(found, key=lambda one: (one[1].time, one[0].name), reverse=True)


def remove_older(newest: Path, cluster_id: str, keep: int) -> list[Path]:
    """Remove the cluster's oldest snapshots in the folder of `newest`. Keep `keep` snapshots, including `newest`.

    Return the removed snapshots. If the clock was set back, older snapshots may have later times than `newest`.
    """
    removed: list[Path] = []
    older = [data for data, _ in snapshots_of(newest.parent, cluster_id) if data != newest]
    for data in older[keep - 1 :]:
        try:
            data.unlink()
            record_path(data).unlink(missing_ok=True)
        except OSError as error:
            text = f"the new snapshot is complete, but {data} cannot be removed: {error.strerror}"
            raise BakeError(text, hint="check the owner of the folder") from None
        removed.append(data)
    return removed


def _load(path: Path) -> Record | None:
    """Read a record, or return None if the file is not a record."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_RECORD:
            return None
        return parse_record(path.read_bytes())
    except (OSError, ValueError):
        return None
