"""The example of `bake client add --for generic` runs against a real etcd, and the environment serves etcdctl."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from generator.clients.application import Kind
from generator.config.auth import AuthSpec
from tests.assembly.applications import AUTH, add, baked, started
from tests.assembly.miniature import PATIENCE, Miniature

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]


@pytest.mark.parametrize("auth", [AuthSpec(), AUTH], ids=["without auth", "with auth"])
def test_the_example_and_the_environment_work(cluster_of: ClusterOf, tmp_path: Path, auth: AuthSpec) -> None:
    cluster = started(cluster_of(1, auth=auth))
    store = baked(cluster, tmp_path / "out")
    add(cluster, store, "app1", Kind.GENERIC)
    home = store.folder / "clients" / "app1"
    example = subprocess.run(
        [sys.executable, home / "example.py"], capture_output=True, text=True, check=False, timeout=30 * PATIENCE
    )
    expected = "gRPC: serving\n" if auth.enabled else "gRPC: serving\ngateway: hello\n"
    assert (example.stdout, example.returncode) == (expected, 0), example.stderr
    program = cluster.tools.bin_dir / "etcdctl"
    script = f'. "{home}/etcdctl.env"; exec "{program}" put /service/x 1'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=30 * PATIENCE)
    assert (done.stdout, done.returncode) == ("OK\n", 0), done.stderr
