"""Restore a snapshot into new clusters of real etcd processes, with the real guest hooks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from generator.config.auth import AuthSpec
from generator.errors import UnhealthyError
from generator.operations.maintenance import snapshot
from generator.operations.recovery.snapshot_source import Source, read_source
from tests.assembly.maintained import opened
from tests.assembly.miniature import Miniature, Node

pytestmark = pytest.mark.etcd
BUMP = 10**9
Make = Callable[..., Miniature]
DATA = "var/lib/etcd/etcd"


def saved(cluster: Miniature, target: Path) -> Source:
    """Save a snapshot with `bake snapshot`."""
    found = opened(cluster, target.with_suffix(".out"))
    snapshot.take(found, target, keep=None, now=datetime.now(UTC), report=print)
    return read_source(target)


def filled(cluster: Miniature) -> dict[str, str]:
    """Start a cluster, write keys, and return them. Some keys have several revisions, and one is deleted."""
    cluster.start()
    cluster.wait_all_voting(60)
    first = cluster.nodes[0]
    for number in range(40):
        cluster.etcdctl(first, "put", f"key/{number % 20}", f"value {number}")
    cluster.etcdctl(first, "del", "key/3")
    return keys(cluster, first)


def keys(cluster: Miniature, node: Node, prefix: str = "key/") -> dict[str, str]:
    lines = cluster.etcdctl(node, "get", "--prefix", prefix).splitlines()
    return dict(zip(lines[::2], lines[1::2], strict=True))


def emptied(cluster: Miniature) -> None:
    """Stop the nodes, and give them new disks."""
    cluster.stop()
    for node in cluster.nodes:
        node.wipe()
        node.sealed = False
        shutil.rmtree(node.root / "run/bake")
        (node.root / "run/bake").mkdir()


def give(cluster: Miniature, source: Source) -> None:
    cluster.nodes[0].insert_snapshot({file.path.name: file.data for file in source.files()})


def lost_with_snapshot(cluster: Miniature, folder: Path) -> None:
    """Stop a cluster that has keys, empty its disks, and give the first node a snapshot of the keys."""
    filled(cluster)
    source = saved(cluster, folder / "etcd.db")
    emptied(cluster)
    give(cluster, source)


def revision(cluster: Miniature, node: Node) -> int:
    return int(json.loads(cluster.etcdctl(node, "endpoint", "status", "-w", "json"))[0]["Status"]["header"]["revision"])


def test_a_new_cluster_has_the_data_of_the_snapshot(cluster_of: Make, tmp_path: Path) -> None:
    cluster = cluster_of(3, auth=AuthSpec(enabled=True))
    wanted = filled(cluster)
    cluster.wait(lambda: all(node.says("auth is on") for node in cluster.nodes), 30, "auth is on")
    old_ids, old_members = cluster.cluster_ids(), {each["ID"] for each in cluster.members(cluster.nodes[0])}
    source = saved(cluster, tmp_path / "etcd.db")
    assert source.facts.auth
    assert source.facts.version == "3.5"
    assert {"etcd1", "etcd-client", "root"} <= source.facts.users
    emptied(cluster)
    give(cluster, source)
    cluster.start()
    cluster.wait_all_voting(120)
    first = cluster.nodes[0]
    assert first.says("restoring the snapshot")
    assert "failed" not in [phase for node in cluster.nodes for phase in node.phases()]
    assert keys(cluster, first) == wanted
    assert revision(cluster, first) > source.facts.revision + BUMP
    assert len(cluster.cluster_ids() | old_ids) == 2
    assert not old_members & {each["ID"] for each in cluster.members(first)}
    answer = cluster.etcdctl(first, "get", "key/1", f"--rev={source.facts.revision}", check=False)
    assert "compacted" in answer  # a client that watches from an old revision notices
    records = keys(cluster, first, "bake/members/")
    assert records == {f"bake/members/{each['name']}": f"{each['ID']:x}" for each in cluster.members(first)}
    assert not list((first.root / "var/lib/bake").iterdir())
    assert not (first.data_dir / ".restoring").exists()
    cluster.etcdctl(first, "put", "after", "restore")


def test_the_records_of_old_members_would_keep_nodes_from_joining(cluster_of: Make, tmp_path: Path) -> None:
    """Without `Restore._forget_old_cluster`, the other nodes take themselves for removed members."""
    cluster = cluster_of(3)
    filled(cluster)
    source = saved(cluster, tmp_path / "etcd.db")
    emptied(cluster)
    first = cluster.nodes[0]
    command = [
        str(cluster.tools.bin_dir / "etcdutl"), "snapshot", "restore", str(source.path),
        f"--data-dir={first.data_dir}", f"--name={first.plan.name}", f"--initial-cluster-token={os.urandom(8).hex()}",
        f"--initial-cluster={first.plan.name}={first.plan.peer_url}",
        f"--initial-advertise-peer-urls={first.plan.peer_url}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    cluster.start()
    cluster.wait(lambda: all(node.says("this node was removed") for node in cluster.nodes[1:]), 30, "removed")


# Kills etcd-join with everything that it has started, at the call that the file `kill` names, and only once.
WRAPPER = """#!/bin/sh
if [ -f "$PLACE/kill" ] && read -r when pattern <"$PLACE/kill"; then
    case "PROGRAM $*" in *$pattern*)
        rm "$PLACE/kill"
        case $when in
            during) BIN/PROGRAM "$@" & sleep 0.0$(($$ % 10)) ;;
            after) BIN/PROGRAM "$@" ;;
        esac
        echo "$when $pattern" >"$PLACE/killed"
        kill -KILL 0 ;;
    esac
fi
exec BIN/PROGRAM "$@"
"""
MOMENTS = (
    "before etcd --version", "before snapshot restore --help", "before snapshot restore /", "during snapshot restore /",
    "after snapshot restore /", "during etcd", "after bake/members/", "during bake/audit/", "after bake/audit/",
    "after alarm list",
)  # fmt: skip


def with_wrappers(cluster: Miniature, node: Node, moment: str) -> Path:
    """Let the node's hooks call wrappers of etcd's programs, which kill the hook once."""
    place = node.root / "wrappers"
    place.mkdir()
    for program in ("etcd", "etcdctl", "etcdutl"):
        text = WRAPPER.replace("PROGRAM", program).replace("BIN", str(cluster.tools.bin_dir))
        (place / program).write_text(text.replace("$PLACE", str(place)))
        (place / program).chmod(0o755)
    (place / "kill").write_text(f"{moment}\n")
    env = node.root / "etc/etcd/bake.env"
    env.write_text(env.read_text().replace(str(cluster.tools.bin_dir), str(place)))
    return place


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """A snapshot and its keys, for all trials."""
    return {}


def given(cluster_of: Make, kept: dict[str, Any], folder: Path) -> Source:
    if not kept:
        other = cluster_of(1)
        kept["keys"] = filled(other)
        kept["source"] = saved(other, folder / "etcd.db")
        other.stop()
    return kept["source"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_restore_that_is_killed_at_any_step_is_repeated(
    cluster_of: Make, tmp_path: Path, kept: dict[str, Any], moment: str
) -> None:
    source, cluster = given(cluster_of, kept, tmp_path), cluster_of(1)
    first = cluster.nodes[0]
    place = with_wrappers(cluster, first, moment)
    give(cluster, source)
    cluster.start()
    cluster.wait_all_voting(60)
    assert (place / "killed").exists()
    assert first.phases().count("joining") > 2
    assert keys(cluster, first) == kept["keys"]
    assert revision(cluster, first) > source.facts.revision + BUMP
    assert list(keys(cluster, first, "bake/members/")) == ["bake/members/etcd1"]


@pytest.mark.parametrize("seconds", [0.7, 3])
def test_a_first_node_that_loses_power_restores_again_or_resumes(
    cluster_of: Make, tmp_path: Path, kept: dict[str, Any], seconds: float
) -> None:
    source, cluster = given(cluster_of, kept, tmp_path), cluster_of(3)
    give(cluster, source)
    cluster.start()
    first = cluster.nodes[0]
    cluster.wait(lambda: first.says("restoring the snapshot"), 30, "the restore begins")
    time.sleep(seconds)
    left = sorted(path.name for path in first.data_dir.glob("*")) if first.data_dir.exists() else []
    print(f"power cut after {seconds} s: {first.phases()[-1:]}, {left}")
    first.cut_power()
    first.start()
    cluster.wait_all_voting(120)
    assert keys(cluster, first) == kept["keys"]
    assert revision(cluster, first) > source.facts.revision + BUMP
    assert len(cluster.cluster_ids()) == 1


def test_a_snapshot_of_a_newer_etcd_is_refused_by_the_node(cluster_of: Make, tmp_path: Path) -> None:
    cluster = cluster_of(1)
    lost_with_snapshot(cluster, tmp_path)
    first = cluster.nodes[0]
    record = first.root / "var/lib/bake/snapshot.json"
    record.write_text(record.read_text().replace('"3.5"', '"3.6"'))
    cluster.start()
    cluster.wait(lambda: first.says("it is of etcd 3.6, but this node has etcd 3.5"), 30, "refused")
    assert "voting" not in first.phases()
    assert not (first.data_dir / "member").exists()


def test_a_node_without_etcdutl_says_so(cluster_of: Make, tmp_path: Path) -> None:
    cluster = cluster_of(1)
    lost_with_snapshot(cluster, tmp_path)
    first, programs = cluster.nodes[0], tmp_path / "bin"
    programs.mkdir()
    (programs / "etcd").symlink_to(cluster.tools.bin_dir / "etcd")
    (programs / "etcdctl").write_text("#!/bin/sh\n")  # as etcdctl 3.6, which cannot restore
    (programs / "etcdctl").chmod(0o755)
    env = first.root / "etc/etcd/bake.env"
    env.write_text(env.read_text().replace(str(cluster.tools.bin_dir), str(programs)))
    cluster.start()
    cluster.wait(lambda: first.says("etcdutl is not installed"), 30, "says so")
    assert not (first.data_dir / "member").exists()


def test_a_full_database_is_usable_after_a_restore(cluster_of: Make, tmp_path: Path) -> None:
    """etcd refuses every write to a database with the alarm NOSPACE, also the record of the new member."""
    from generator.config.spec import EtcdSpec

    cluster = cluster_of(3, etcd=EtcdSpec(options={"quota-backend-bytes": 16 << 20}))
    filled(cluster)
    first = cluster.nodes[0]
    big = "x" * (1 << 20)
    for _ in range(40):
        done = subprocess.run(
            [str(cluster.tools.bin_dir / "etcdctl"), "--endpoints", first.plan.client_url, "put", "big"],
            env=first.environment("etc/etcd/bake.env"), input=big, text=True, capture_output=True, check=False,
        )  # fmt: skip
        if "space exceeded" in done.stderr:
            break
    assert "NOSPACE" in cluster.etcdctl(first, "alarm", "list")
    source = saved(cluster, tmp_path / "etcd.db")
    emptied(cluster)
    give(cluster, source)
    cluster.start()
    cluster.wait_all_voting(120)
    assert "NOSPACE" not in cluster.etcdctl(first, "alarm", "list")
    cluster.etcdctl(first, "put", "after", "restore")


def test_a_survivor_without_quorum_is_saved_and_restored(cluster_of: Make, tmp_path: Path) -> None:
    cluster = cluster_of(3)
    wanted = filled(cluster)
    found = opened(cluster, tmp_path / "out")
    for node in cluster.nodes[:2]:
        node.kill(signal.SIGKILL)
    target, lines = tmp_path / "survivor.db", list[str]()
    with pytest.raises(UnhealthyError):
        snapshot.take(found, target, keep=None, now=datetime.now(UTC), report=print)
    done = snapshot.take(found, target, keep=None, now=datetime.now(UTC), report=lines.append, node="etcd3")
    assert "has no quorum" in lines[0]
    assert not done.record.quorum
    source = read_source(target)
    assert "without a quorum" in "".join(source.doubts(found.cluster_id))
    emptied(cluster)
    give(cluster, source)
    cluster.start()
    cluster.wait_all_voting(120)
    assert keys(cluster, cluster.nodes[0]) == wanted


def test_a_snapshot_of_etcdctl_is_restored_too(cluster_of: Make, tmp_path: Path) -> None:
    cluster = cluster_of(1)
    wanted = filled(cluster)
    cluster.etcdctl(cluster.nodes[0], "snapshot", "save", str(tmp_path / "by-hand.db"))
    source = read_source(tmp_path / "by-hand.db")
    assert source.record is None
    emptied(cluster)
    give(cluster, source)
    cluster.start()
    cluster.wait_all_voting(60)
    assert keys(cluster, cluster.nodes[0]) == wanted
