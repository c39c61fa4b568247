"""A booted node whose etcd cannot start says why on its console."""

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
# bake accepts this value, but etcd cannot open the same port twice.
WRONG = {"listen-metrics-urls": "http://127.0.0.1:2381,http://localhost:2381"}


def test_the_console_has_the_last_error_of_etcd(root: Path, tmp_path: Path) -> None:
    spec = load(flags={"--nodes": (("nodes",), 1), "--options": (("etcd", "options"), WRONG)}).spec
    baked = bake(spec, Store(tmp_path / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=tmp_path / "nodes") as lab:
        lab.start("etcd1")
        lab.wait_for("failing", "etcd1", times=2, timeout=120)
        lines = [line for line in lab.console("etcd1").splitlines() if "phase=failing" in line]
    assert all('bake: node=etcd1 phase=failing detail="exited 1: ' in line for line in lines)
    assert all("address already in use" in line for line in lines), lines
