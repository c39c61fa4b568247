"""Writing the cluster's folder: atomic replacement, other files, modes and refused folders."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from generator.artifact import Artifact
from generator.errors import BakeError, InputError
from generator.store import atomic
from generator.store.folder import Store

Picture = Callable[[Path], dict[str, tuple[object, ...]]]


def artifact(path: str, text: str = "x", **more: Any) -> Artifact:
    return Artifact(PurePosixPath(path), text.encode(), **more)


def write(store: Store, *artifacts: Artifact) -> list[str]:
    """Write files to the folder and return the names of changed files."""
    store.check()
    with store.locked(pytest.fail), store.replacing() as staging:
        for each in artifacts:
            staging.write(each)
    return staging.changed


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        action()
    return str(error.value)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out", "etcd")


def test_writes_files_and_a_manifest(store: Store) -> None:
    changed = write(store, artifact("etcd1/meta-data", "m"), artifact("pki/ca.key", "k", secret=True))
    assert changed == ["etcd1/meta-data", "pki/ca.key", "manifest.json"]
    manifest = json.loads((store.folder / "manifest.json").read_text())
    assert manifest["cluster"] == "etcd"
    assert {path: entry["mode"] for path, entry in manifest["files"].items()} == {
        "etcd1/meta-data": "0644",
        "pki/ca.key": "0600",
    }
    assert manifest["files"]["pki/ca.key"]["sha256"] == artifact("", "k").sha256


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_can_read_secrets_and_folders(store: Store, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(store, artifact("pki/ca.key", secret=True, mode=0o644), artifact("pki/ca.pem"))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (store.folder, *store.folder.rglob("*"))}
    assert modes == {"etcd": 0o700, "pki": 0o700, "ca.key": 0o600, "ca.pem": 0o644, "manifest.json": 0o644}


def test_writing_the_same_files_again_changes_nothing(store: Store, picture: Picture) -> None:
    files = artifact("a/b", "1"), artifact("c", "2", secret=True)
    write(store, *files)
    before = picture(store.out)
    assert write(store, *files) == []
    assert picture(store.out) == before


def test_only_the_cluster_folder_remains(store: Store) -> None:
    write(store, artifact("a"))
    write(store, artifact("a", "other"))
    assert [path.name for path in store.out.iterdir()] == ["etcd"]


def test_unchanged_files_keep_their_inodes(store: Store) -> None:
    write(store, artifact("same"), artifact("other", "1"))
    before = (store.folder / "same").stat()
    assert write(store, artifact("same"), artifact("other", "2")) == ["other", "manifest.json"]
    assert (store.folder / "same").stat().st_ino == before.st_ino
    assert (store.folder / "other").read_text() == "2"


def test_changed_modes_and_contents_are_restored(store: Store) -> None:
    write(store, artifact("key", secret=True), artifact("conf"))
    (store.folder / "key").chmod(0o644)
    (store.folder / "conf").write_text("y")
    assert write(store, artifact("key", secret=True), artifact("conf")) == ["key", "conf"]
    assert (store.folder / "key").stat().st_mode & 0o777 == 0o600
    assert (store.folder / "conf").read_text() == "x"


def test_files_that_are_no_longer_written_are_removed(store: Store) -> None:
    write(store, artifact("etcd1/iso"), artifact("etcd2/iso"))
    write(store, artifact("etcd1/iso"))
    assert sorted(path.name for path in store.folder.iterdir()) == ["etcd1", "manifest.json"]


def test_files_of_the_user_stay(store: Store) -> None:
    write(store, artifact("etcd1/iso"), artifact("etcd2/iso"))
    (store.folder / "etcd2" / "console.log").write_text("log")
    (store.folder / "notes").mkdir()
    (store.folder / "notes" / "todo").write_text("todo")
    (store.folder / "notes" / "link").symlink_to("/nowhere")
    write(store, artifact("etcd1/iso", "new"))
    assert (store.folder / "etcd2" / "console.log").read_text() == "log"
    assert not (store.folder / "etcd2" / "iso").exists()
    assert (store.folder / "notes" / "todo").read_text() == "todo"
    assert (store.folder / "notes" / "link").is_symlink()


def test_a_failure_keeps_the_old_folder(store: Store, picture: Picture) -> None:
    write(store, artifact("a", "old"))
    before = picture(store.out)

    def fail() -> None:
        with store.replacing() as staging:
            staging.write(artifact("a", "new"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert picture(store.out) == before


def test_a_file_name_that_is_too_long_is_an_error(store: Store, picture: Picture) -> None:
    write(store, artifact("a"))
    before = picture(store.out)
    with pytest.raises(BakeError, match="File name too long; nothing has changed"):
        write(store, artifact("b" * 300))
    assert picture(store.out) == before


@pytest.mark.parametrize("path", ["/etc/passwd", "../other", "a/../../b"])
def test_nothing_is_written_outside_the_folder(store: Store, path: str) -> None:
    with (
        pytest.raises(ValueError, match="outside the cluster's folder"),
        store.locked(print),
        store.replacing() as staging,
    ):
        staging.write(artifact(path))


def test_folders_of_killed_runs_are_removed(store: Store) -> None:
    write(store, artifact("a"))
    left = store.out / ".etcd.new-left"
    left.mkdir()
    (left / "key").write_text("secret")
    foreign = store.out / ".other.new-running"
    foreign.mkdir()
    write(store, artifact("a"))
    assert not left.exists()
    assert foreign.exists()


def test_every_lock_removes_folders_of_killed_runs(store: Store) -> None:
    write(store, artifact("a"))
    left = store.out / ".etcd.new-left"
    left.mkdir()
    assert store.has_leftover()
    with store.locked(pytest.fail):
        assert not left.exists()
        left.mkdir()
        assert not store.has_leftover(), "the folder belongs to the run that has the lock"
    assert store.has_leftover()


def test_a_lock_leaves_no_empty_output_folder(store: Store) -> None:
    """For example, `bake` may find a problem in a file of the user after it has locked the folder."""
    with store.locked(pytest.fail):
        assert store.out.is_dir()
    assert not store.out.exists()
    store.out.mkdir()
    with store.locked(pytest.fail):
        pass
    assert store.out.is_dir(), "it was there before"


def test_a_bake_that_waits_for_an_output_folder_makes_it_again(store: Store) -> None:
    waits = threading.Event()

    def bake() -> None:
        with store.locked(lambda _: waits.set()), store.replacing() as staging:
            staging.write(artifact("a"))

    other = threading.Thread(target=bake)
    with store.locked(pytest.fail):
        other.start()
        assert waits.wait(60)
    other.join(60)
    assert (store.folder / "a").exists()


def test_a_lock_survives_a_bake_that_removes_the_folder_before_it_is_opened(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, opened = [store.out], atomic.opened

    def open_late(folder: Path) -> AbstractContextManager[int]:
        for one in folders:
            one.rmdir()
        folders.clear()
        return opened(folder)

    monkeypatch.setattr(atomic, "opened", open_late)
    with store.locked(pytest.fail):
        assert store.out.is_dir()
    assert not folders


def test_an_output_folder_that_no_one_can_make_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written"), Store(Path("/proc/none/out"), "etcd").locked(print):
        pass


def test_a_missing_output_folder_has_no_leftovers(store: Store) -> None:
    assert not store.has_leftover()


# ── refused folders ─────────────────────────────────────────────────────────────────────────────────────────


def is_a_file(store: Store) -> None:
    store.out.mkdir()
    store.folder.write_text("")


def is_a_symlink(store: Store) -> None:
    (store.out / "elsewhere").mkdir(parents=True)
    store.folder.symlink_to("elsewhere")


def has_other_files(store: Store) -> None:
    store.folder.mkdir(parents=True)
    (store.folder / "thesis.tex").write_text("")


def has_lost_its_manifest(store: Store) -> None:
    store.folder.mkdir(parents=True)
    (store.folder / "identity").write_text("")


def has_the_manifest(text: str) -> Callable[[Store], None]:
    def prepare(store: Store) -> None:
        store.folder.mkdir(parents=True)
        (store.folder / "manifest.json").write_text(text)

    return prepare


NOT_OURS: dict[str, tuple[Callable[[Store], None], str]] = {
    "a file": (is_a_file, "is a symlink or a file, not a folder"),
    "a symlink": (is_a_symlink, "is a symlink or a file, not a folder"),
    "other things": (has_other_files, "is not empty, and bake did not create it"),
    "no manifest": (has_lost_its_manifest, "manifest.json: is missing\n  hint: restore the file from a backup"),
    "another cluster's": (
        has_the_manifest('{"cluster": "prod", "files": {}}'),
        "belongs to the cluster 'prod', not 'etcd'",
    ),
    "empty manifest": (has_the_manifest(""), "is not bake's manifest"),
    "no JSON": (has_the_manifest("{"), "is not bake's manifest"),
    "a list": (has_the_manifest("[]"), "is not bake's manifest"),
    "no files": (has_the_manifest("{}"), "is not bake's manifest"),
    "files are a list": (has_the_manifest('{"cluster": "etcd", "files": []}'), "is not bake's manifest"),
    "no cluster": (has_the_manifest('{"files": {}}'), "is not bake's manifest"),
    "binary": (has_the_manifest("\0\x01"), "is not bake's manifest"),
    "deep": (has_the_manifest("[" * 100_000), "is not bake's manifest"),
}


@pytest.mark.parametrize(("prepare", "rule"), NOT_OURS.values(), ids=NOT_OURS)
def test_the_folder_of_another_cluster_is_refused(
    store: Store, picture: Picture, prepare: Callable[[Store], None], rule: str
) -> None:
    prepare(store)
    before = picture(store.out)
    message = refused(store.check)
    assert str(store.folder) in message
    assert rule in message
    assert picture(store.out) == before


def test_a_file_as_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    message = refused(lambda: write(Store(tmp_path / "out", "etcd"), artifact("a")))
    assert f"{tmp_path / 'out'}: is not a folder" in message


def test_an_output_folder_with_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    assert "File name too long" in refused(
        lambda: write(Store(tmp_path / ("o" * 300), "etcd"), artifact("a"))
    )


def test_a_dangling_symlink_as_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("nowhere")
    message = refused(lambda: write(Store(tmp_path / "out", "etcd"), artifact("a")))
    assert f"{tmp_path / 'out'}: is a symlink to nowhere, which does not exist" in message


def test_a_second_run_waits_and_reports_it(store: Store) -> None:
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with store.locked(said.append):
            order.append("second")

    with store.locked(pytest.fail):
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            thread.join(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert said == [f"waiting until another bake has finished with {store.out}"]


def test_only_empty_folders_of_bake_are_removed(store: Store) -> None:
    write(store, artifact("etcd1/meta-data"), artifact("etcd2/meta-data"))
    (store.folder / "notes").mkdir()
    write(store, artifact("etcd1/meta-data", "changed"))
    assert sorted(entry.name for entry in store.folder.iterdir()) == ["etcd1", "manifest.json", "notes"]


def test_a_disk_error_after_the_exchange_reports_the_change(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write(store, artifact("a", "old"))
    monkeypatch.setattr("generator.store.atomic.sync_names", fail)
    with pytest.raises(BakeError, match="Input/output error; the new files are in place, but may be lost"):
        write(store, artifact("a", "new"))
    assert store.read("a") == b"new"
    assert [path.name for path in store.out.iterdir()] == ["etcd"]


def test_a_private_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.html"
    atomic.replace(file, b"old")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"old", 0o600)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            atomic.replace(file, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("report.html", b"old")]
    atomic.replace(file, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("report.html", b"new")]
