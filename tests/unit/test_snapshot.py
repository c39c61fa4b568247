"""`bake snapshot` with servers that send complete, cut and wrong streams."""

from __future__ import annotations

import hashlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from generator.errors import BakeError, InputError, UnhealthyError
from generator.operations.baked_cluster import Cluster
from generator.operations.maintenance import snapshot
from generator.plan import ClusterPlan
from tests.unit.etcd_database import database, part, revision_key, stream
from tests.unit.grpc_server import Replies
from tests.unit.maintained import Members, serving

DATA = database({revision_key(12): b"a"})
DIGEST = hashlib.sha256(DATA).digest()


@pytest.fixture
def cluster(plan: Callable[..., ClusterPlan], tmp_path: Path) -> Iterator[tuple[Cluster, Members]]:
    with serving(plan(nodes=3), tmp_path / "out") as (found, members):
        (tmp_path / "out").mkdir()
        give(members, stream(DATA))
        yield found, members


def give(members: Members, replies: Replies) -> None:
    for name in ("etcd1", "etcd2", "etcd3"):
        members.replies[name, "Maintenance/Snapshot"] = replies


def take(cluster: Cluster, target: Path | None, now: datetime, **more: Any) -> snapshot.Snapshot:
    return snapshot.take(cluster, target, **{"keep": None, "now": now, "report": print, **more})


def test_a_snapshot_has_the_data_of_a_follower_and_a_record(
    cluster: tuple[Cluster, Members], tmp_path: Path, now: datetime
) -> None:
    found, members = cluster
    members.status["etcd2"] = {"raftIndex": 60}
    done = take(found, tmp_path / "a.db", now)
    assert (tmp_path / "a.db").read_bytes() == DATA + DIGEST
    record = json.loads((tmp_path / "a.db.json").read_text())
    assert record == {
        "format_version": "1.0", "cluster": "etcd", "cluster_id": "0" * 16, "etcd_cluster_id": "cdf818194e3a8c32",
        "member": "etcd2", "member_id": "2", "revision": 12, "etcd_version": "3.5.16",
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "size": len(DATA) + 32,
        "sha256": hashlib.sha256(DATA + DIGEST).hexdigest(), "quorum": True,
    }  # fmt: skip
    assert (done.file, done.removed) == (tmp_path / "a.db", ())
    assert members.calls.count(("etcd2", "Maintenance/Snapshot")) == 1


@pytest.mark.parametrize("chunk", [1, 512, 1024, len(DATA), 10**6])
def test_parts_can_have_any_size(
    cluster: tuple[Cluster, Members], tmp_path: Path, now: datetime, chunk: int
) -> None:
    found, members = cluster
    give(members, stream(DATA, chunk=chunk))
    take(found, tmp_path / "a.db", now)
    assert (tmp_path / "a.db").read_bytes() == DATA + DIGEST


WRONG: dict[str, tuple[Replies, str]] = {
    "no message": ([], "the stream ended after 0 of unknown bytes"),
    "cut after a part": (stream(DATA)[:2], "the stream ended after 1200 of 2048 bytes"),
    "no digest": (stream(DATA)[:-1], "but etcd sent none"),
    "half a digest": (stream(DATA, digest=DIGEST[:16]), f"but etcd sent {DIGEST[:16].hex()}"),
    "wrong digest": (stream(DATA, digest=b"\0" * 32), "but etcd sent 0000"),
    "changed data": ([part(b"\1" * 600, 1448), *stream(DATA)[1:]], "the SHA-256 is"),
    "long digest": (stream(DATA, digest=DIGEST + b"x"), "data follows after the database of 2048 bytes"),
    "more data": ([*stream(DATA), part(b"x", 0)], "data follows after the database of 2048 bytes"),
    "wrong size": (stream(DATA[:-1]), "a database of 2047 bytes is announced"),
    "empty": ([part(b"", 0), part(hashlib.sha256(b"").digest(), 0)], "a database of 0 bytes is announced"),
    "a lost part": ([*stream(DATA)[:1], *stream(DATA)[2:]], "after 1200 bytes, 248 bytes are announced, not 2048"),
    "a repeated part": ([*stream(DATA)[:2], *stream(DATA)[1:]], "bytes are announced, not 2048"),
    "no database": (stream(b"x" * 4096), "the snapshot is damaged: it is not a bbolt database"),
    "an old revision": (stream(database({revision_key(8): b"a"})), "has revision 8, but etcd2 had revision 9 before"),
    "an error": ([*stream(DATA)[:2], (StatusCode.INTERNAL, "etcdserver: stopped")], "etcdserver: stopped"),
    "another server": ([b"\xff\xff"], "not from etcd"),
    "no permission": ([(StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")], "permission denied"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_stream_leaves_no_file(
    cluster: tuple[Cluster, Members], tmp_path: Path, now: datetime, name: str
) -> None:
    found, members = cluster
    replies, why = WRONG[name]
    give(members, replies)
    with pytest.raises(BakeError) as caught:
        take(found, tmp_path / "a.db", now)
    assert why in str(caught.value)
    assert caught.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@contextmanager
def cut_connection(port: int, after: int) -> Iterator[int]:
    """Yield the port of a proxy that closes each connection after a number of bytes from the server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port, after), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, port: int, after: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_forward, args=(client, port, after), daemon=True).start()


def _forward(client: socket.socket, port: int, limit: int) -> None:
    """Forward both directions until the server has sent `limit` bytes."""
    with suppress(OSError), client, socket.create_connection(("127.0.0.1", port)) as server:
        while limit > 0:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(min(limit, 4096))
                if not data:
                    return
                (server if source is client else client).sendall(data)
                limit -= len(data) if source is server else 0


@pytest.mark.parametrize("after", [3_000, 60_000, 400_000])
def test_a_cut_connection_leaves_no_file(
    cluster: tuple[Cluster, Members], tmp_path: Path, now: datetime, after: int
) -> None:
    found, members = cluster
    large = DATA + b"\0" * (1 << 20)
    give(members, stream(large, chunk=32768))
    nodes = found.plan.nodes
    with cut_connection(int(nodes[1].client_url.rpartition(":")[2]), after) as port:
        members.status["etcd3"] = {"raftIndex": 40}
        changed = replace(nodes[1], client_url=f"http://127.0.0.1:{port}")
        found = replace(found, plan=replace(found.plan, nodes=(nodes[0], changed, nodes[2])))
        with pytest.raises(BakeError, match="the connection was closed"):
            take(found, tmp_path / "a.db", now)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_leader_makes_the_snapshot_if_no_follower_is_healthy(
    plan: Callable[..., ClusterPlan], tmp_path: Path, now: datetime
) -> None:
    with serving(plan(nodes=3), tmp_path / "out", "etcd2") as (found, members):
        members.status["etcd3"] = {"raftIndex": 50, "leader": 3}
        give(members, stream(DATA))
        assert take(found, tmp_path / "a.db", now).record.member == "etcd1"


def test_without_a_healthy_voter_there_is_no_snapshot(
    plan: Callable[..., ClusterPlan], tmp_path: Path, now: datetime
) -> None:
    with serving(plan(nodes=3), tmp_path / "out") as (found, members):
        refusal = (StatusCode.UNAVAILABLE, "etcdserver: request timed out")
        for name in ("etcd1", "etcd2", "etcd3"):
            members.replies[name, "KV/Range"] = refusal
        with pytest.raises(UnhealthyError, match="no node can read with a quorum: etcd1: etcdserver: request"):
            take(found, tmp_path / "a.db", now)
        members.replies.clear()
        members.alarms += [(1, 2), (2, 2), (3, 2)]
        with pytest.raises(UnhealthyError, match="the data of etcd1 is corrupt"):
            take(found, tmp_path / "a.db", now)
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "out").mkdir(mode=0o700)
        with pytest.raises(UnhealthyError, match="the data of etcd1 is corrupt"):
            take(found, None, now)
        assert not (tmp_path / "out/etcd.snapshots").exists(), "an empty folder"


def test_a_silent_node_makes_no_snapshot_and_leaves_no_folder(
    plan: Callable[..., ClusterPlan], tmp_path: Path, now: datetime
) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    with serving(plan(nodes=3), tmp_path / "out") as (found, members):
        members.replies["etcd2", "Maintenance/Status"] = (StatusCode.UNAVAILABLE, "etcdserver: no leader")
        with pytest.raises(BakeError, match=r"no leader\n  hint: run bake status.*, and name a node that answers"):
            snapshot.take(found, None, keep=None, now=now, report=print, node="etcd2")
        assert not (tmp_path / "out/etcd.snapshots").exists()


def test_a_learner_makes_no_snapshot(plan: Callable[..., ClusterPlan], tmp_path: Path, now: datetime) -> None:
    with serving(plan(nodes=2), tmp_path / "out") as (found, members):
        members.learners = ("etcd2",)
        give(members, stream(DATA))
        assert take(found, tmp_path / "a.db", now).record.member == "etcd1"


def test_the_default_name_has_the_cluster_and_the_time(
    cluster: tuple[Cluster, Members], tmp_path: Path, now: datetime
) -> None:
    found, _ = cluster
    name = f"etcd-{now:%Y%m%dT%H%M%SZ}.db"
    assert take(found, None, now).file == tmp_path / "out/etcd.snapshots" / name
    assert (tmp_path / "out/etcd.snapshots").stat().st_mode & 0o777 == 0o700
    assert take(found, tmp_path, now).file == tmp_path / name
    with pytest.raises(InputError, match="exists already"):
        take(found, None, now)


def test_keep_removes_the_oldest_snapshots_after_the_new_one_is_complete(
    cluster: tuple[Cluster, Members], tmp_path: Path, now: datetime
) -> None:
    found, members = cluster
    times = [now + timedelta(seconds=second) for second in range(4)]
    files = [take(found, None, time, keep=2).file for time in times[:3]]
    assert [file.exists() for file in files] == [False, True, True]
    give(members, stream(DATA)[:-1])
    with pytest.raises(BakeError):
        take(found, None, times[3], keep=1)
    assert [file.exists() for file in files] == [False, True, True]


@pytest.mark.parametrize("keep", [0, -1])
def test_keep_is_at_least_one(cluster: tuple[Cluster, Members], now: datetime, keep: int) -> None:
    with pytest.raises(InputError, match="--keep: "):
        take(cluster[0], None, now, keep=keep)


def test_a_disk_without_room_is_found_before_the_transfer(
    cluster: tuple[Cluster, Members], tmp_path: Path, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = cluster
    disk = type("Disk", (), {"f_bavail": 1, "f_frsize": 4096})()
    monkeypatch.setattr("os.statvfs", lambda _: disk)
    with pytest.raises(BakeError, match="the disk has only 4096 free bytes; no file was written"):
        take(found, tmp_path / "a.db", now)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_slow_transfer_reports_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 1.2, 3.0, 6.1])
    monkeypatch.setattr(snapshot.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    parts = iter([(b"x" * (1 << 20), (3 - number) << 20) for number in range(4)])
    assert len(list(snapshot._reported(parts, lines.append))) == 4
    assert lines == ["received 2 of 4 MiB", "received 4 of 4 MiB"]
