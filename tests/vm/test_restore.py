"""A cluster whose VMs and folder are lost comes back from a backup and a snapshot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from generator.etcd.client import Etcd
from generator.operations.baked_cluster import client_files, open_cluster
from generator.store.folder import Store
from tests.vm.conftest import Lab, Run, command_line

NAME = "back"


@pytest.fixture
def bake_in_lab(lab: Lab, tmp_path: Path) -> Iterator[Run]:
    run = command_line(lab, NAME, tmp_path / "out")
    yield run
    run("destroy", "--yes")


def etcd(out: Path) -> Etcd:
    cluster = open_cluster(Store(out, NAME))
    return Etcd(cluster.first.client_url, client_files(cluster.store.folder))


def test_a_lost_cluster_comes_back(bake_in_lab: Run, connection: Any, tmp_path: Path) -> None:
    out, snapshot, backup, secret = (tmp_path / name for name in ("out", "etcd.db", "etcd.age", "passphrase"))
    secret.write_text("correct horse battery staple\n")
    secret.chmod(0o600)
    bake_in_lab("up", "--nodes", 3, "--profile", "ci", "--wait", 600)
    with etcd(out) as client:
        for number in range(100):
            client.put(f"key/{number}".encode(), b"x" * 1000)
        was = client.get(b"health", keys_only=True).revision
    print(bake_in_lab("snapshot", snapshot).stderr)
    print(bake_in_lab("backup", backup, "--passphrase-file", secret).stderr)
    asked = bake_in_lab("restore", snapshot, code=2).stderr
    print(asked)
    assert all(f"- etcd{number}: the VM (etcd answers), its disk" in asked for number in (1, 2, 3))

    bake_in_lab("destroy", "--yes")
    shutil.rmtree(out)
    print(bake_in_lab("recover", backup, "--passphrase-file", secret).stderr)
    print(bake_in_lab("restore", snapshot, "--wait", 600).stderr)

    with etcd(out) as client:
        assert client.get(b"key/", prefix=True, keys_only=True).count == 100
        assert client.get(b"health", keys_only=True).revision > was + 10**9
    pools = [pool for pool in connection.listAllStoragePools() if NAME in pool.name()]
    assert pools
    names = [volume for pool in pools for volume in pool.listVolumes()]
    assert not [name for name in names if ".seed-" in name], names
    assert not list(out.rglob("snapshot.*"))
    bake_in_lab("verify")
