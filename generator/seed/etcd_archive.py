"""Read and check the etcd release tarball. With install method `archive`, bake puts the tarball on the ISO."""

from __future__ import annotations

import hashlib
import io
import stat
from pathlib import Path, PurePosixPath

from generator.artifact import Artifact
from generator.config.spec import InstallSpec
from generator.errors import InputError
from generator.seed.guest_files import ARCHIVE_NAME

MAX_BYTES = 512 << 20


def read_archive(install: InstallSpec) -> tuple[Artifact, ...]:
    """Return the tarball as a file for the ISO, or an empty tuple if the spec has no tarball. Raises InputError."""
    if install.archive is None:
        return ()
    path = Path(install.archive)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise _refuse(path, f"is not a regular file of at most {MAX_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise _refuse(path, f"cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != install.sha256:
        raise InputError.one(
            "install.sha256", f"{path} has the sha256 {digest}, not {install.sha256}", "download the tarball again"
        )
    _check_content(path, data)
    return (Artifact(PurePosixPath(ARCHIVE_NAME), data),)


def _check_content(path: Path, data: bytes) -> None:
    import tarfile  # imported here, because most clusters install etcd without a tarball

    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            names = {PurePosixPath(member.name).name for member in archive if member.isfile()}
    except (tarfile.TarError, OSError, EOFError):
        raise _refuse(path, "is not a .tar.gz archive") from None
    if missing := {"etcd", "etcdctl"} - names:
        raise _refuse(path, f"does not contain {' or '.join(sorted(missing))}")


def _refuse(path: Path, rule: str) -> InputError:
    return InputError.one("install.archive", f"{path} {rule}", "give the .tar.gz of an etcd release")
