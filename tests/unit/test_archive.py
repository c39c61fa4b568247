"""The etcd tarball on the ISO: only a tarball with the stated digest is accepted."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from generator.config.spec import InstallSpec
from generator.errors import InputError
from generator.seed.etcd_archive import MAX_BYTES, read_archive


def tarball(*names: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(f"etcd-v3.5.21-linux-amd64/{name}")
            info.type = kind
            archive.addfile(info)
    return buffer.getvalue()


GOOD = tarball("etcd", "etcdctl", "README.md")


def spec(path: Path, data: bytes) -> InstallSpec:
    return InstallSpec(method="archive", archive=str(path), sha256=hashlib.sha256(data).hexdigest())


def test_the_tarball_is_on_the_iso_unchanged(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(GOOD)
    (artifact,) = read_archive(spec(tmp_path / "x.tar.gz", GOOD))
    assert (str(artifact.path), artifact.data) == ("etcd.tar.gz", GOOD)


def test_other_install_methods_have_no_tarball() -> None:
    assert read_archive(InstallSpec()) == ()


CONTENTS: dict[str, tuple[bytes, str]] = {
    "no tarball": (b"hello", "is not a .tar.gz archive"),
    "empty": (b"", "is not a .tar.gz archive"),
    "cut off": (GOOD[:-30], "is not a .tar.gz archive"),
    "spoilt": (GOOD[:20] + b"\xff" * 40 + GOOD[60:], "is not a .tar.gz archive"),
    "without etcdctl": (tarball("etcd"), "does not contain etcdctl"),
    "only folders": (tarball("etcd", "etcdctl", kind=tarfile.DIRTYPE), "does not contain etcd or etcdctl"),
}


@pytest.mark.parametrize(("data", "rule"), CONTENTS.values(), ids=CONTENTS)
def test_wrong_content_is_refused(tmp_path: Path, data: bytes, rule: str) -> None:
    (tmp_path / "x.tar.gz").write_bytes(data)
    with pytest.raises(InputError, match=f"x.tar.gz {rule}"):
        read_archive(spec(tmp_path / "x.tar.gz", data))


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(GOOD)
    with pytest.raises(InputError, match=r"install.sha256: .*x.tar.gz has the sha256 [0-9a-f]{64}, not"):
        read_archive(spec(tmp_path / "x.tar.gz", b"other"))


def folder(path: Path) -> None:
    path.mkdir()


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_BYTES + 1)


@pytest.mark.parametrize("make", [folder, os.mkfifo, huge])
def test_large_and_special_files_are_refused_unread(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.tar.gz")
    with pytest.raises(InputError, match="is not a regular file of at most 512 MiB"):
        read_archive(spec(tmp_path / "x.tar.gz", b""))
