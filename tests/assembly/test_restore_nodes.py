"""`bake restore` on booted nodes: back to a snapshot, from a survivor without quorum, and killed in the middle.

The tests run in order, because booting a node takes long.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from generator.engine import State
from tests.assembly.change_lab import ChangeLab, Ended, Written

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
THREE = ["etcd1", "etcd2", "etcd3"]
BUMP = 10**9
MORE = ("--yes", "-o", "json", "--wait", "600")


@pytest.fixture(scope="module")
def cluster(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangeLab]:
    with ChangeLab.booted(root, tmp_path_factory.mktemp("restore"), "--profile", "hardened") as cluster:
        assert cluster.bake("apply", "--nodes", "3", *MORE).code == 0
        yield cluster


def put(cluster: ChangeLab, prefix: str, count: int) -> None:
    cluster.ask(f"[etcd.put(b'{prefix}%d' % one, b'x' * 100) for one in range({count})] and ''")


def revision(cluster: ChangeLab) -> int:
    return int(cluster.ask("etcd.get(b'health', keys_only=True).revision"))


def saved(cluster: ChangeLab, name: str, *words: str) -> Path:
    target = cluster.lab.work.parent / name
    done = cluster.bake("snapshot", str(target), *words)
    assert done.code == 0, done.stderr
    print(f"\n$ bake snapshot {' '.join(words)}\n{done.stderr}")
    return target


def restored(cluster: ChangeLab, file: Path) -> Ended:
    begin = time.monotonic()
    done = cluster.bake("restore", str(file), *MORE)
    print(f"\n$ bake restore: {time.monotonic() - begin:.1f} s\n{done.stderr}")
    assert done.code == 0, f"{done.stderr}{done.stdout}"
    assert cluster.members() == THREE
    check_that_nothing_is_left(cluster)
    return done


def check_that_nothing_is_left(cluster: ChangeLab) -> None:
    """No permit and no snapshot: neither in the folder, nor in a drive, nor on a node."""
    assert not list(cluster.store.folder.rglob("snapshot.*"))
    assert not list(cluster.store.folder.rglob("etcd*/bootstrap-permit"))
    assert (cluster.store.folder / "sealed").exists()
    for node, machine in cluster.engine().machines().items():
        assert (machine.state, machine.has_seed) == (State.RUNNING, False)
        found = cluster.lab.shell(node, "ls /var/lib/bake /run/bake; ls -a /var/lib/etcd/etcd").stdout
        assert not {"snapshot.db", "snapshot.json", "bootstrap-permit", ".restoring"} & set(found.split())


def test_a_running_cluster_goes_back_to_a_snapshot(cluster: ChangeLab) -> None:
    put(cluster, "before/", 50)
    file = saved(cluster, "first.db")
    was = json.loads(file.with_name(f"{file.name}.json").read_bytes())["revision"]
    put(cluster, "later/", 20)

    refused = cluster.bake("restore", str(file))
    assert refused.code == 2
    assert "add --yes to confirm" in refused.stderr
    assert all(f"- {node}: the VM (etcd answers)" in refused.stderr for node in THREE)
    assert f"all changes after revision {was} are lost" in refused.stderr
    assert (cluster.count("later/"), cluster.members()) == (20, THREE)

    with cluster.writing() as writer:
        done = restored(cluster, file)
        seen = Written(**json.loads(writer.communicate("")[0]))
    removed, voted = (next(when for when, line in done.lines if text in line) for text in ("removed", "etcd1: voting"))
    declared = "etcd is down from the deletion of the old VMs until the first new node votes"
    print(f"declared: {declared} ({voted - removed:.1f} s); measured: {seen.longest():.1f} s")
    assert done.data["snapshot"]["revision"] == was
    assert (cluster.count("before/"), cluster.count("later/")) == (50, 0)
    assert revision(cluster) > was + BUMP
    put(cluster, "after/", 5)


def test_a_survivor_without_quorum_is_enough(cluster: ChangeLab) -> None:
    for node in THREE[:2]:
        cluster.lab.delete(node)
    lost = cluster.bake("snapshot", str(cluster.lab.work.parent / "none.db"))
    assert lost.code == 3
    file = saved(cluster, "survivor.db", "--node", "etcd3")
    asked = cluster.bake("restore", str(file))
    assert asked.code == 2
    assert "WARNING: the snapshot is of etcd3 without a quorum" in asked.stderr
    restored(cluster, file)
    assert (cluster.count("before/"), cluster.count("after/")) == (50, 5)


@pytest.mark.parametrize("number", range(int(os.environ.get("BAKE_TRIALS", "1"))))
def test_a_killed_restore_is_finished_by_the_next_run(cluster: ChangeLab, number: int) -> None:
    """The first trial kills bake while it deletes the old machines, the others kill it at a random moment."""
    file = saved(cluster, f"killed{number}.db")
    process = cluster.start("restore", str(file), *MORE)
    if number:
        kill_at_random(process)
    else:
        kill_at_the_first_removal(process)
    first = cluster._end(process)
    print(f"\nkilled after: {first.lines[-1][1].strip() if first.lines else ''}")
    time.sleep(3)  # the lab may still delete a machine
    if number == 0 and any(one.has_disk for one in cluster.engine().machines().values()):
        refused = cluster.bake("up")
        print(f"\n$ bake up\n{refused.stderr}")
        assert refused.code == 1
        assert "interrupted before it deleted the old VMs (etcd" in refused.stderr
        file = Path(re.findall(r"`bake restore (\S+)", refused.stderr)[0])
    restored(cluster, file)
    assert (cluster.count("before/"), cluster.count("after/")) == (50, 5)


def kill_at_the_first_removal(process: subprocess.Popen[str]) -> None:
    assert process.stderr
    assert any("removed the machine of" in line for line in process.stderr)
    process.kill()


def kill_at_random(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(Random().uniform(0.5, 25))  # noqa: S311  not a secret
    except subprocess.TimeoutExpired:
        process.kill()
