"""Snapshot files: records, unfinished files, names, and the removal of old snapshots."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from generator.errors import BakeError, InputError
from generator.store import snapshot_files
from generator.store.snapshot_files import Record, parse_record, publish, record_path, remove_older, writing

RECORD = Record(
    cluster="etcd", cluster_id="0" * 16, etcd_cluster_id="cdf818194e3a8c32", member="etcd2",
    member_id="8e9e05c52164694d", revision=9, etcd_version="3.5.16", time="2026-11-29T10:00:00Z", size=4, sha256="ab",
)  # fmt: skip


@pytest.fixture(params=["unnamed", "named", "without links"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three file systems: with O_TMPFILE, without O_TMPFILE (NFS), and without hard links (exFAT)."""
    real_open, real_link = os.open, os.link

    def no_unnamed_files(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real_open(path, flags, *more, **named)

    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "not permitted")

    if request.param != "unnamed":
        monkeypatch.setattr(os, "open", no_unnamed_files)
    monkeypatch.setattr(os, "link", no_links if request.param == "without links" else real_link)
    return str(request.param)


def save(target: Path, data: bytes = b"data", **changes: Any) -> None:
    made = replace(RECORD, **{"size": len(data), **changes})
    with writing(target) as (file, record):
        file.file.write(data)
        record.file.write(made.dump())
        publish(target, file, record)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_snapshot_is_a_pair_of_files_that_only_the_owner_can_read(tmp_path: Path, kind: str) -> None:
    umask = os.umask(0)
    save(tmp_path / "a.db")
    os.umask(umask)
    assert names(tmp_path) == ["a.db", "a.db.json"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600, 0o600]
    assert (tmp_path / "a.db").read_bytes() == b"data"
    assert json.loads((tmp_path / "a.db.json").read_text()) == {"format_version": "1.0", **asdict(RECORD)}
    assert parse_record((tmp_path / "a.db.json").read_bytes()) == RECORD


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path: Path, kind: str, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with writing(tmp_path / "a.db") as (data, _):
            data.file.write(b"data")
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BakeError, match="the disk is full; no file was written"):
        save(tmp_path / "a.db")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a.db", "a.db.json"])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, kind: str, name: str) -> None:
    def late() -> None:
        with writing(tmp_path / "a.db") as (data, record):
            record.file.write(RECORD.dump())
            (tmp_path / name).write_text("other")
            publish(tmp_path / "a.db", data, record)

    with pytest.raises(InputError, match="overwrites no file"):
        late()
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "other"


@pytest.mark.parametrize("last", [False, True])
def test_an_interruption_between_the_two_names_leaves_nothing_or_a_pair(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    real = snapshot_files.Unfinished.publish

    def interrupted(self: Any, target: Path) -> None:
        if not last and target.name == "a.db":
            raise KeyboardInterrupt
        real(self, target)
        if last and target.name == "a.db":
            raise KeyboardInterrupt

    monkeypatch.setattr(snapshot_files.Unfinished, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "a.db")
    assert names(tmp_path) == (["a.db", "a.db.json"] if last else [])


def test_a_record_without_data_is_replaced_if_it_is_of_this_cluster(tmp_path: Path) -> None:
    record = record_path(tmp_path / "a.db")
    record.write_bytes(RECORD.dump())
    with pytest.raises(InputError, match="exists already"):
        snapshot_files.refuse_existing(tmp_path / "a.db", "other")
    snapshot_files.refuse_existing(tmp_path / "a.db", RECORD.cluster_id)
    assert not record.exists()
    record.write_text("{}")
    with pytest.raises(InputError, match="exists already"):
        snapshot_files.refuse_existing(tmp_path / "a.db", RECORD.cluster_id)
    assert record.read_text() == "{}"


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_an_existing_name_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.db")
    with pytest.raises(InputError, match=r"a\.db: exists already, and bake overwrites no file"):
        snapshot_files.refuse_existing(tmp_path / "a.db", RECORD.cluster_id)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        snapshot_files.refuse_existing(tmp_path / "none/a.db", RECORD.cluster_id)


def test_unfinished_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """A file system without O_TMPFILE keeps the unfinished file of a killed process. A running process has a lock."""
    dead, alive = tmp_path / ".bake-snapshot-dead", tmp_path / ".bake-snapshot-alive"
    dead.touch()
    os.mkfifo(tmp_path / ".bake-snapshot-pipe")
    with alive.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        save(tmp_path / "a.db")
        assert not dead.exists()
        assert alive.exists()


def test_only_the_oldest_snapshots_of_this_cluster_are_removed(tmp_path: Path) -> None:
    for day in range(1, 6):
        save(tmp_path / f"{day}.db", time=f"2026-11-0{day}T00:00:00Z")
    save(tmp_path / "other.db", time="2020-01-01T00:00:00Z", cluster_id="1" * 16)
    save(tmp_path / "changed.db", time="2020-01-01T00:00:00Z")
    (tmp_path / "changed.db").write_bytes(b"another size")
    save(tmp_path / "future.db", time="2020-01-01T00:00:00Z")
    record = json.loads((tmp_path / "future.db.json").read_text())
    (tmp_path / "future.db.json").write_text(json.dumps({**record, "format_version": "2.0"}))
    (tmp_path / "unknown.db").touch()
    (tmp_path / "notes.json").write_text("[]")
    save(tmp_path / "moved.db", time="2020-01-01T00:00:00Z")
    (tmp_path / "moved.db").unlink()
    (tmp_path / "link.db").symlink_to("5.db")
    (tmp_path / "link.db.json").write_bytes(replace(RECORD, time="2020-01-01T00:00:00Z").dump())
    before = set(names(tmp_path))
    removed = remove_older(tmp_path / "5.db", RECORD.cluster_id, 2)
    assert [path.name for path in removed] == ["3.db", "2.db", "1.db"]
    assert before - set(names(tmp_path)) == {f"{day}.db{suffix}" for day in (1, 2, 3) for suffix in ("", ".json")}


def test_the_new_snapshot_is_kept_even_if_the_clock_was_set_back(tmp_path: Path) -> None:
    for day in (3, 4, 1):
        save(tmp_path / f"{day}.db", time=f"2026-11-0{day}T00:00:00Z")
    assert [path.name for path in remove_older(tmp_path / "1.db", RECORD.cluster_id, 1)] == ["4.db", "3.db"]
    assert names(tmp_path) == ["1.db", "1.db.json"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b"[" * 10**5, b"\xff", json.dumps({"format_version": "1.0"}).encode()]
    + [
        json.dumps({"format_version": "1.1", **asdict(RECORD), name: value}).encode()
        for name, value in {"format_version": 1, "revision": "9", "size": True, "cluster_id": 7, "time": None}.items()
    ],
    ids=range(11),
)
def test_another_file_is_no_record(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not the record of a snapshot"):
        parse_record(raw)


def test_a_record_of_a_later_minor_version_is_read() -> None:
    raw = json.dumps({"format_version": "1.7", **asdict(RECORD), "more": 1}).encode()
    assert parse_record(raw) == RECORD
