"""Read snapshots for `bake restore`: complete, cut, damaged, of another cluster, newer than the nodes' etcd."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from generator.config.spec import ClusterSpec, InstallMethod, InstallSpec
from generator.errors import InputError
from generator.image.base import BootImage
from generator.operations.recovery import snapshot_source
from generator.operations.recovery.snapshot_source import check_users, check_version, etcd_version, read_source
from generator.plan import ClusterPlan
from generator.store.snapshot_files import Record, record_path
from tests.unit.etcd_database import database, inline_bucket, leaf, revision_key

KEYS = {revision_key(41): b"a"}
CLUSTER = "0123456789abcdef"


def snapshot(more: Mapping[bytes, Mapping[bytes, bytes]] | None = None) -> bytes:
    """Return a snapshot with the buckets in `more`."""
    buckets = {b"key": KEYS, b"meta": {}, b"cluster": {b"clusterVersion": b"3.5.0"}, **(more or {})}
    root = leaf({name: inline_bucket(pairs) for name, pairs in buckets.items()}, page=3, flags=1)
    data = database({}, root=root)
    data += bytes(-len(data) % 512)
    return data + hashlib.sha256(data).digest()


def described(path: Path, **changes: object) -> None:
    """Write the record of a snapshot next to it."""
    data = path.read_bytes()
    record = Record(
        cluster="etcd", cluster_id=CLUSTER, etcd_cluster_id="1", member="etcd2", member_id="2", revision=41,
        etcd_version="3.5.16", time="2026-11-29T12:00:00Z", size=len(data), sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    record_path(path).write_bytes(replace(record, **changes).dump())  # type: ignore[arg-type]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "etcd.db"
    path.write_bytes(snapshot())
    return path


def test_a_snapshot_is_read_with_its_facts(saved: Path) -> None:
    source = read_source(saved)
    assert source.record is None
    assert (source.facts.revision, source.facts.version, source.facts.auth) == (41, "3.5", False)
    assert list(source.doubts(CLUSTER)) == []
    data, record = source.files()
    assert (str(data.path), data.data, data.secret) == ("snapshot.db", saved.read_bytes(), True)
    assert json.loads(record.data) == {"format_version": "1.0", "etcd_version": "3.5", "revision": 41}
    assert "a\n" not in repr(source)


def test_every_cut_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for size in (*range(0, len(whole), 97), len(whole) - 1, len(whole) - 32, 0):
        saved.write_bytes(whole[:size])
        with pytest.raises(InputError) as caught:
            read_source(saved)
        assert len(caught.value.problems) == 1


def test_every_changed_byte_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for place in range(0, len(whole), 211):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match="is damaged"):
            read_source(saved)


def other_file(content: bytes) -> bytes:
    data = content.ljust(1024, b"x")
    return data + hashlib.sha256(data).digest()


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a snapshot, or truncated: it has 0 bytes"),
    "a text": (b"hello\n", "is not a snapshot, or truncated: it has 6 bytes"),
    "a member's db": (snapshot()[:-32], "has no SHA-256 at its end"),
    "no database": (other_file(b"x"), "is damaged: it is not a bbolt database"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.db").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_source(tmp_path / "x.db")


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "is not a file"), (tmp_path / "none", "No such file")):
        with pytest.raises(InputError, match=message):
            read_source(path)


def test_a_snapshot_that_does_not_fit_on_an_iso_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_source, "MAX_BYTES", 1024)
    with pytest.raises(InputError, match="bake defrag --compact"):
        read_source(saved)


def test_the_record_decides_whose_snapshot_it_is(saved: Path) -> None:
    described(saved)
    assert list(read_source(saved).doubts(CLUSTER)) == []
    (doubt,) = read_source(saved).doubts("f" * 16)
    assert doubt == f"the snapshot is of another cluster (etcd, id {CLUSTER})"
    described(saved, quorum=False)
    (doubt,) = read_source(saved).doubts(CLUSTER)
    assert "etcd2 without a quorum" in doubt


@pytest.mark.parametrize("changes", [{"size": 7}, {"sha256": "0" * 64}])
def test_a_record_of_another_file_is_refused(saved: Path, changes: dict[str, object]) -> None:
    described(saved, **changes)
    with pytest.raises(InputError, match="size or SHA-256 differs"):
        read_source(saved)


def test_a_damaged_record_is_refused(saved: Path) -> None:
    record_path(saved).write_text("{}")
    with pytest.raises(InputError, match="it is not the record of a snapshot"):
        read_source(saved)


@pytest.mark.parametrize(
    ("users", "auth", "message"),
    [
        (("etcd1", "etcd-client"), True, None),
        (("etcd-client",), True, "no user etcd1"),
        ((), True, "no user etcd-client and no user etcd1"),
        (("etcd1", "etcd-client"), False, "set auth: true|but this cluster has auth off"),
    ],
)
def test_users_in_the_snapshot_must_fit_the_nodes(
    tmp_path: Path, plan: Callable[..., ClusterPlan], users: tuple[str, ...], auth: bool, message: str | None
) -> None:
    path = tmp_path / "etcd.db"
    more = {b"auth": {b"authEnabled": b"\x01"}, b"authUsers": {name.encode(): b"" for name in users}}
    path.write_bytes(snapshot(more))
    made = plan(nodes=3, auth=auth)
    if message is None:
        check_users(read_source(path), made)
        return
    with pytest.raises(InputError, match=message):
        check_users(read_source(path), made)


@pytest.mark.parametrize(("nodes", "refused"), [("3.4.30", True), ("3.5.16", False), ("3.6.1", False), (None, False)])
def test_a_snapshot_newer_than_the_nodes_is_refused(saved: Path, nodes: str | None, refused: bool) -> None:
    source = read_source(saved)
    if not refused:
        check_version(source, nodes)
        return
    with pytest.raises(InputError, match=r"is of etcd 3\.5, but the nodes have etcd 3\.4\.30"):
        check_version(source, nodes)


def test_the_version_comes_from_the_record_if_the_data_has_none(saved: Path) -> None:
    saved.write_bytes(snapshot({b"cluster": {}}))
    assert read_source(saved).etcd_version == "0.0"
    described(saved)
    assert read_source(saved).etcd_version == "3.5"


def test_the_version_of_the_nodes(tmp_path: Path) -> None:
    program = tmp_path / "etcd"
    program.write_text("#!/bin/sh\necho 'etcd Version: 3.5.16'\n")
    program.chmod(0o755)
    base = BootImage(disk=tmp_path / "disk", digest="0" * 64, virtual_size=1, format="raw", bin_dir=tmp_path)
    assert etcd_version(ClusterSpec(), base) == "3.5.16"
    assert etcd_version(ClusterSpec(), replace(base, bin_dir=None)) is None
    archive = tmp_path / "etcd.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("etcd-v3.5.21-linux-amd64/etcd"), io.BytesIO())
    spec = ClusterSpec(install=InstallSpec(method=InstallMethod.ARCHIVE, archive=str(archive), sha256="0" * 64))
    assert etcd_version(spec, base) == "3.5.21"
