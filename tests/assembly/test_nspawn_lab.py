"""Tests of the lab itself: when the lab has switched off a node, no process of the node runs."""

from __future__ import annotations

import os
import subprocess
import time
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


@pytest.mark.parametrize("moment", [0, 0.06, 0.3])
def test_a_power_cut_while_a_node_starts_leaves_nothing_of_it(root: Path, tmp_path: Path, moment: float) -> None:
    spec = load(flags={"--nodes": (("nodes",), 1)}).spec
    baked = bake(spec, Store(tmp_path / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=tmp_path / "nodes") as lab:
        lab.start("etcd1")
        time.sleep(moment)
        lab.cut_power("etcd1")
        look, deadline = ["ip", "netns", "pids", lab._netns("etcd1")], time.monotonic() + 60
        while left := subprocess.run(look, capture_output=True, check=True).stdout:
            assert time.monotonic() < deadline, f"still there: {left!r}"
            time.sleep(0.1)
