"""`bake backup` and `bake recover`: a cluster's folder in one encrypted file, and back."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyrage
import pytest

from generator.artifact import Artifact
from generator.operations.baked_cluster import open_cluster
from generator.operations.recovery.backup import back_up
from generator.store import atomic
from generator.store.backup_file import read_backup, write_backup
from generator.store.folder import Store
from tests.conftest import Result

Bake = Callable[..., Result]
Picture = Callable[[Path], dict[str, tuple[Any, ...]]]
FOLDER = Path("out/etcd")
WORDS = "correct horse battery staple"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(f"{WORDS}\n")
    path.chmod(0o600)
    return path


def contents(picture: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, Any]]:
    """Return modes and contents without the times."""
    return {path: (mode, content) for path, (mode, _, content) in picture.items()}


@pytest.mark.parametrize(
    "words",
    [("--nodes", 3), ("--nodes", 1, "--profile", "hardened"), ("--nodes", 2, "--profile", "rhel", "archive")],
    ids=["default", "hardened", "archive"],
)
def test_the_way_back_needs_only_the_backup(
    bake: Bake, picture: Picture, secret: Path, words: tuple[object, ...]
) -> None:
    if words[-1] == "archive":
        archive = Path(__file__).parents[1] / "data/etcd.tar.gz"
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        words = (*words[:-1], "--archive", archive, "--archive-sha256", digest)
    assert bake(*words).code == 0
    before = contents(picture(FOLDER))
    saved = bake("backup", "etcd.age", "--passphrase-file", secret, "-o", "json")
    assert saved.code == 0, saved.err
    assert json.loads(saved.out)["files"] > 5
    assert stat.S_IMODE(Path("etcd.age").stat().st_mode) == 0o600
    assert contents(picture(FOLDER)) == before
    back = bake("recover", "etcd.age", "--out", "other", "--passphrase-file", secret, "-o", "json")
    assert back.code == 0, back.err
    assert json.loads(back.out)["folder"] == str(Path("other/etcd").absolute())
    assert contents(picture(Path("other/etcd"))) == before
    again = bake("--out", "other")
    assert "Nothing changed" in again.err


def test_a_sealed_cluster_stays_sealed(bake: Bake, picture: Picture, secret: Path) -> None:
    bake("--nodes", 3)
    assert bake("seal", "--yes").code == 0
    before = contents(picture(FOLDER))
    assert bake("backup", "etcd.age", "--passphrase-file", secret).code == 0
    assert bake("recover", "etcd.age", "--out", "other", "--passphrase-file", secret).code == 0
    assert contents(picture(Path("other/etcd"))) == before


@pytest.mark.parametrize("name", ["etcd2/user-data", "pki/etcd-client.key"])
def test_a_folder_that_bake_did_not_write_like_this_is_not_saved(bake: Bake, secret: Path, name: str) -> None:
    """Otherwise `bake recover` would refuse the backup, when it is too late."""
    bake("--nodes", 2)
    path = FOLDER / name
    path.write_bytes(path.read_bytes() + b"#\n")
    result = bake("backup", "etcd.age", "--passphrase-file", secret)
    assert (result.code, result.out, Path("etcd.age").exists()) == (2, "", False)
    assert f"{path.absolute()}: was changed after bake wrote it" in result.err
    assert "hint: restore the file from a backup, or run bake, which writes the file again" in result.err
    path.unlink()
    assert f"{path.absolute()}: is missing" in bake("backup", "etcd.age", "--passphrase-file", secret).err


def test_a_backup_needs_the_iso_that_has_the_tarball_of_etcd(bake: Bake, secret: Path) -> None:
    archive = Path(__file__).parents[1] / "data/etcd.tar.gz"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    words = ("--profile", "rhel", "--archive", archive, "--archive-sha256", digest)
    assert bake(*words).code == 0
    path = FOLDER / "etcd1/seed.iso"
    path.write_bytes(path.read_bytes()[:40_000])
    result = bake("backup", "etcd.age", "--passphrase-file", secret)
    assert (result.code, result.out, Path("etcd.age").exists()) == (2, "", False)
    assert f"{path.absolute()}: is not an ISO that bake wrote" in result.err
    assert "hint: restore the file from a backup, or run bake, which writes the file again" in result.err
    assert bake(*words).code == 0
    assert bake("backup", "etcd.age", "--passphrase-file", secret).code == 0


def test_no_other_bake_changes_the_folder_while_it_is_read(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup with files of two bakes would be refused by `bake recover`."""
    bake("--nodes", 2)
    store, locked = Store(Path("out"), "etcd"), list[bool]()
    read = Store.read

    def watched(self: Store, path: str | PurePosixPath) -> bytes | None:
        with atomic.opened(self.out) as folder:
            try:
                fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                locked.append(True)
            else:
                locked.append(False)
        return read(self, path)

    cluster = open_cluster(store)
    monkeypatch.setattr(Store, "read", watched)
    back_up(cluster, Path("etcd.age"), b"words", now=datetime.now(UTC), report=print)
    assert locked
    assert all(locked)


def test_the_file_has_no_readable_secret(bake: Bake, secret: Path) -> None:
    bake("--nodes", 1)
    bake("backup", "etcd.age", "--passphrase-file", secret)
    data = Path("etcd.age").read_bytes()
    assert data.startswith(b"age-encryption.org/v1\n-> scrypt ")
    for text in (b"PRIVATE KEY", b"etcd1", (FOLDER / "identity").read_bytes().strip()):
        assert text not in data


def test_people_can_open_it_without_bake(bake: Bake, secret: Path) -> None:
    """age's format, then a tar archive whose folder has the cluster's name."""
    bake("--nodes", 1)
    bake("backup", "etcd.age", "--passphrase-file", secret)
    plain = pyrage.passphrase.decrypt(Path("etcd.age").read_bytes(), WORDS)
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:gz") as archive:
        archive.extractall("by-hand", filter="data")
    key = Path("by-hand/etcd/pki/etcd-ca.key")
    assert key.read_bytes() == (FOLDER / "pki/etcd-ca.key").read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not list(Path("by-hand").rglob("*.iso"))


def test_no_file_is_overwritten(bake: Bake, picture: Picture, secret: Path) -> None:
    bake("--nodes", 1)
    Path("etcd.age").write_text("mine")
    result = bake("backup", "etcd.age", "--passphrase-file", secret)
    assert (result.code, "exists already" in result.err) == (2, True)
    assert Path("etcd.age").read_text() == "mine"
    Path("etcd.age").unlink()
    bake("backup", "etcd.age", "--passphrase-file", secret)
    before = picture(Path("out"))
    result = bake("recover", "etcd.age", "--passphrase-file", secret)
    assert (result.code, "exists already" in result.err) == (2, True)
    assert picture(Path("out")) == before


@pytest.fixture
def saved(bake: Bake, secret: Path) -> Path:
    bake("--nodes", 1)
    assert bake("backup", "etcd.age", "--passphrase-file", secret).code == 0
    return Path("etcd.age").absolute()


def refused(bake: Bake, file: Path, secret: Path) -> str:
    """Recover from a bad file: exit code 2, one error, and nothing is written."""
    result = bake("recover", file, "--out", "other", "--passphrase-file", secret)
    assert (result.code, result.out, Path("other").exists()) == (2, "", False)
    assert result.err.count("error: ") == 1
    assert WORDS not in result.err
    return result.err


def test_a_wrong_passphrase_is_refused(bake: Bake, saved: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not that\n")
    wrong.chmod(0o600)
    assert "the passphrase is wrong" in refused(bake, saved, wrong)


def test_every_cut_and_every_change_is_refused(bake: Bake, saved: Path, secret: Path) -> None:
    whole = saved.read_bytes()
    for size in (0, 10, 60, 100, 180, 250, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        text = refused(bake, saved, secret)
        assert "truncated or damaged" in text or "is not a file in the format age" in text, (size, text)
    for place in (30, 90, 150, 300, len(whole) - 5):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(bake, saved, secret)


def forged(target: Path, *files: Artifact) -> Path:
    target.unlink(missing_ok=True)
    write_backup(target, files, WORDS.encode())
    return target


def index(**values: object) -> Artifact:
    return Artifact(PurePosixPath("backup.json"), json.dumps(values).encode())


def test_other_archives_are_refused(bake: Bake, tmp_path: Path, secret: Path, saved: Path) -> None:
    files = read_backup(saved, WORDS.encode())
    known = files[PurePosixPath("backup.json")]
    listed = files[PurePosixPath("etcd/manifest.json")]
    target = tmp_path / "x.age"
    assert "is not a backup of bake" in refused(bake, forged(target), secret)
    newer = index(format_version="2.0", cluster="etcd")
    assert "has the format 2.0, but this bake reads 1.0" in refused(bake, forged(target, newer), secret)
    assert "is not bake's manifest" in refused(bake, forged(target, known), secret)
    assert "has no file " in refused(bake, forged(target, known, listed), secret)
    climbing = index(format_version="1.0", cluster="../etcd")
    assert refused(bake, forged(target, climbing, listed), secret)
    target.unlink()
    target.write_bytes(pyrage.passphrase.encrypt(b"not a tar archive", WORDS))
    assert "is not a backup of bake" in refused(bake, target, secret)


def test_without_a_terminal_the_passphrase_needs_a_file(bake: Bake) -> None:
    bake("--nodes", 1)
    result = bake("backup", "etcd.age")
    assert result.code == 2
    assert result.err == (
        "error: --passphrase-file: is missing, and there is no terminal to ask\n"
        "  hint: give a file with the passphrase\n"
    )
    assert not Path("etcd.age").exists()


@pytest.mark.parametrize(
    ("place", "text"), [("none/etcd.age", "there is no folder"), ("/proc/x.age", "cannot be written")]
)
def test_a_place_that_cannot_be_written_is_an_error(bake: Bake, secret: Path, place: str, text: str) -> None:
    bake("--nodes", 1)
    result = bake("backup", place, "--passphrase-file", secret)
    assert result.code in (1, 2)
    assert text in result.err


def test_nothing_of_a_backup_is_in_the_temporary_folder(bake: Bake, secret: Path) -> None:
    """A killed bake leaves no file: until it is complete, the file has no name."""
    bake("--nodes", 1)
    code = (
        "import os, sys; from generator.store import snapshot_files\n"
        "snapshot_files.Unfinished.publish = lambda *_: os.kill(os.getpid(), 9)\n"
        "from generator import cli; sys.argv[0] = 'bake'; cli.main()"
    )
    root = Path(__file__).parents[2]
    path = f"{root}:{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(Path("tmp").absolute())}
    Path("tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, "backup", "etcd.age", "--passphrase-file", str(secret)],
        env=env, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == -9
    assert sorted(path.name for path in Path().iterdir()) == ["out", "passphrase", "tmp"]
    assert not list(Path("tmp").iterdir())
