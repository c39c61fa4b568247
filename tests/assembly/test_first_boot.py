"""A power cut at the first boot, before the kernel has written cloud-init's files to the disk."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.config.load import load
from generator.operations.bake import bake
from generator.store.folder import Store
from tests.assembly.nspawn_lab import NspawnLab

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]


def test_nothing_of_an_unfinished_first_boot_is_used_again(root: Path, tmp_path: Path) -> None:
    """Files that were not synced before a power cut are empty (ext4, delayed allocation). cloud-init fails on them."""
    spec = load(flags={"--nodes": (("nodes",), 1)}).spec
    baked = bake(spec, Store(tmp_path / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=tmp_path / "nodes") as lab:
        lab.start("etcd1")
        lab.wait_for("cloud-init", "etcd1")
        lab.cut_power("etcd1")
        (instance,) = (lab.work / "etcd1/upper/var/lib/cloud/instances").iterdir()
        for path in (path for path in instance.rglob("*") if path.is_file()):
            path.write_bytes(b"")
        (instance / "left").touch()
        lab.start("etcd1")
        lab.wait_for("configured", "etcd1")
        assert not (instance / "left").exists()
        lab.wait_for("settled", "etcd1")
