"""A cluster whose VMs and folder are lost comes back from a backup and a snapshot."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from generator.etcd.client import Etcd
from generator.operations.baked_cluster import client_files, open_cluster
from generator.store.folder import Store
from tests.vm.conftest import Lab, Run, command_line, command_words

NAME = "back"


@pytest.fixture
def bake_in_lab(lab: Lab, tmp_path: Path) -> Iterator[Run]:
    run = command_line(lab, NAME, tmp_path / "out")
    yield run
    run("destroy", "--yes")


def etcd(out: Path) -> Etcd:
    cluster = open_cluster(Store(out, NAME))
    return Etcd(cluster.first.client_url, client_files(cluster.store.folder))


def kill_in_the_middle(lab: Lab, out: Path, *words: object) -> None:
    """Start `bake restore`, and kill it when the new VM boots."""
    line = command_words(lab, NAME, out, "restore", *words)
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any("etcd1: cloud-init" in line for line in process.stderr)
        process.kill()


def test_a_lost_cluster_comes_back(bake_in_lab: Run, lab: Lab, connection: Any, tmp_path: Path) -> None:
    """First after a killed restore, which `bake up` finishes, then in place of a running VM."""
    out, snapshot, backup, secret = (tmp_path / name for name in ("out", "etcd.db", "etcd.age", "passphrase"))
    secret.write_text("correct horse battery staple\n")
    secret.chmod(0o600)
    bake_in_lab("up", "--nodes", 1, "--profile", "ci", "--wait", 900)
    with etcd(out) as client:
        for number in range(100):
            client.put(f"key/{number}".encode(), b"x" * 1000)
        was = client.get(b"health", keys_only=True).revision
    print(bake_in_lab("snapshot", snapshot).stderr)
    print(bake_in_lab("backup", backup, "--passphrase-file", secret).stderr)
    asked = bake_in_lab("restore", snapshot, code=2).stderr
    print(asked)
    assert "- etcd1: the VM (etcd answers), its disks (" in asked

    bake_in_lab("destroy", "--yes")
    shutil.rmtree(out)
    print(bake_in_lab("recover", backup, "--passphrase-file", secret).stderr)
    kill_in_the_middle(lab, out, snapshot, "--wait", 900)
    print(bake_in_lab("up", "--wait", 900).stderr)
    check(out, connection, was)
    with etcd(out) as client:
        client.put(b"key/later", b"")
    print(bake_in_lab("restore", snapshot, "--yes", "--wait", 900).stderr)
    check(out, connection, was)
    bake_in_lab("verify")


def check(out: Path, connection: Any, was: int) -> None:
    """The cluster has the snapshot's data, and neither the folder nor the storage pool has the snapshot."""
    with etcd(out) as client:
        assert client.get(b"key/", prefix=True, keys_only=True).count == 100
        assert client.get(b"health", keys_only=True).revision > was + 10**9
    pools = [pool for pool in connection.listAllStoragePools() if NAME in pool.name()]
    assert pools
    names = [volume for pool in pools for volume in pool.listVolumes()]
    assert not [name for name in names if ".seed-" in name], names
    assert not list(out.rglob("snapshot.*"))
