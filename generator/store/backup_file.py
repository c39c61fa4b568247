"""Read and write a backup: the files of a cluster's folder as a tar archive, encrypted with a passphrase.

The format is age (https://age-encryption.org/v1, recipient type scrypt). So people can open a backup without bake:
`age --decrypt FILE | tar -xz`. The archive has the files below a folder with the cluster's name. It has no ISOs,
because bake makes them again from the other files.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from generator.artifact import Artifact
from generator.errors import BakeError, InputError
from generator.store import atomic
from generator.store.snapshot_files import Unfinished

MAX_BYTES = 1 << 30
_MAGIC = b"age-encryption.org/v1\n"
_HINT = "give a file that bake backup has written"


def write_backup(target: Path, files: Iterable[Artifact], passphrase: bytes) -> int:
    """Write a backup with mode 0600, and return its size in bytes. Raise InputError if the file exists."""
    import pyrage  # a library with a compiled part, which only backups need

    data = pyrage.passphrase.encrypt(_pack(files), _text(passphrase))
    where = str(target)
    if not target.parent.is_dir():
        raise InputError.one(where, f"there is no folder {target.parent}", "create the folder, or give another FILE")
    try:
        made = Unfinished(target.parent)
        try:
            made.file.write(data)
            made.sync()
            made.publish(target)
        finally:
            made.close()
        atomic.sync_names(target.parent)
    except FileExistsError:
        raise InputError.one(where, "exists already, and bake overwrites no file", "give another FILE") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        text = "the disk is full" if full else f"cannot be written: {error.strerror}"
        raise BakeError(f"{target}: {text}; no file was written", hint="give another FILE, or free space") from None
    return len(data)


def _pack(files: Iterable[Artifact]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
        for file in files:
            entry = tarfile.TarInfo(str(file.path))
            entry.size, entry.mode = len(file.data), file.mode
            archive.addfile(entry, io.BytesIO(file.data))
    return packed.getvalue()


def read_backup(path: Path, passphrase: bytes) -> Mapping[PurePosixPath, Artifact]:
    """Return the files in a backup by path. Raise InputError for a wrong passphrase or another file."""
    import pyrage

    data = _read(path)
    try:
        plain = pyrage.passphrase.decrypt(data, _text(passphrase))
    except pyrage.DecryptError as error:
        raise InputError.one(str(path), _explained(str(error)), "check the passphrase, or use another copy") from None
    try:
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:gz") as archive:
            return {PurePosixPath(entry.name): _artifact(archive, entry) for entry in archive if entry.isfile()}
    except (tarfile.TarError, gzip.BadGzipFile, OSError, EOFError):
        raise InputError.one(str(path), "can be decrypted, but is not a backup of bake", _HINT) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise InputError.one(str(path), "is too large for a backup of bake", _HINT)
            data = file.read()
    except OSError as error:
        raise InputError.one(str(path), f"cannot be read: {error.strerror}", _HINT) from None
    if not data.startswith(_MAGIC[: len(data)]) or not data:
        raise InputError.one(str(path), "is not a file in the format age", _HINT)
    return data


def _explained(cause: str) -> str:
    """Return what an error of the library means. It is the same error for a wrong passphrase and another recipient."""
    if cause == "Decryption failed":
        return "cannot be decrypted: the passphrase is wrong"
    return f"cannot be decrypted: it is truncated or damaged ({cause})"


def _artifact(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Artifact:
    content = archive.extractfile(entry)
    return Artifact(PurePosixPath(entry.name), content.read() if content else b"", mode=entry.mode & 0o777)


def _text(passphrase: bytes) -> str:
    """Return the passphrase as the text that age needs. Raises InputError."""
    try:
        return passphrase.decode()
    except UnicodeDecodeError:
        raise InputError.one("the passphrase", "is not text in UTF-8", "use another passphrase") from None
