"""What is left in etcd of a removed node: no user and no report, but the record that keeps it from joining."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.change.steps import Action, Step
from generator.config.auth import AuthSpec
from generator.etcd.maintenance_client import MaintenanceClient
from generator.operations.baked_cluster import client_files
from generator.operations.running.leaving import admit, forget_removed, remove_member, step_down
from generator.operations.running.observing import observe
from tests.assembly.maintained import opened
from tests.assembly.miniature import Miniature

pytestmark = pytest.mark.etcd


def test_a_removed_node_is_forgotten_and_can_be_admitted_again(
    cluster_of: Callable[..., Miniature], tmp_path: Path
) -> None:
    miniature = cluster_of(2, auth=AuthSpec(enabled=True))
    miniature.start()
    miniature.wait_all_voting(60)
    cluster = opened(miniature, tmp_path / "out")
    lines: list[str] = []
    with MaintenanceClient(cluster.plan.nodes[0].client_url, client_files(cluster.store.folder)) as etcd:
        miniature.wait(etcd.auth_enabled, 30, "auth is on")
        for key in (b"bake/members/etcd9", b"bake/audit/etcd9", b"bake/audit/etcd1"):
            etcd.put(key, b"1")
        miniature.etcdctl(miniature.nodes[0], "user", "add", "etcd9", "--no-password")
        assert "etcd9" in etcd.users()

        for _ in range(2):
            forget_removed(cluster, lines.append)

        assert lines == ["etcd9: its user in etcd is deleted"]
        assert "etcd9" not in etcd.users()
        assert {"etcd1", "etcd2", "root"} <= set(etcd.users())
        reports = [item.key for item in etcd.get(b"bake/audit/", prefix=True).items]
        assert reports == [b"bake/audit/etcd1"]
        assert etcd.get(b"bake/members/etcd9").count == 1

        seen = observe(cluster, None, now=datetime.now(UTC))
        admit(cluster, seen, "etcd2")
        assert etcd.get(b"bake/members/etcd2").count == 1  # etcd2 is a member
        (second,) = (member for member in seen.members if member.name == "etcd2")
        step_down(cluster, seen, Step(action=Action.REMOVE, node="etcd1", reason=""), lines.append)
        assert etcd.status().leader == second.id
        seen = observe(cluster, None, now=datetime.now(UTC))
        step_down(cluster, seen, Step(action=Action.REMOVE, node="etcd2", reason=""), lines.append)
        remove_member(cluster, observe(cluster, None, now=datetime.now(UTC)), second.id)
        miniature.wait(lambda: observe(cluster, None, now=datetime.now(UTC)).members, 20, "etcd1 leads alone")
        seen = observe(cluster, None, now=datetime.now(UTC))
        assert [member.name for member in seen.members] == ["etcd1"]
        admit(cluster, seen, "etcd2")
        assert etcd.get(b"bake/members/etcd2").count == 0
