"""Which nodes have not applied their newest seed: a node's report in etcd and its console both count."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from generator.engine import MachineStatus, State
from generator.etcd.answers import Answer, Keys, KeyValue
from generator.level import Level
from generator.operations.running import observing
from generator.plan import ClusterPlan
from generator.seed.history import SeedHistory

OLD, NEW = "etcd1-0000000000000001", "etcd1-0000000000000002"
HISTORY = SeedHistory().extended("etcd1", OLD, Level.NONE).extended("etcd1", NEW, Level.RESTART)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def reports(seed: str | None) -> Answer[Keys]:
    if seed is None:
        return Answer(error="no member answers")
    said = {
        "format": 1, "node": "etcd1", "time": NOW.timestamp(), "process": {"user": "etcd", "options": {}}, "files": {},
        "certificates": {}, "seed": seed,
    }  # fmt: skip
    item = KeyValue(key=b"bake/audit/etcd1", value=json.dumps(said).encode())
    return Answer(value=Keys(count=1, revision=1, items=(item,)))


def test_a_disk_without_a_vm_is_left_and_a_vm_of_another_cluster_is_not(plan: Callable[..., ClusterPlan]) -> None:
    machines = {
        "etcd1": MachineStatus(node="etcd1", state=State.MISSING, disk_size=1),
        "etcd2": MachineStatus(node="etcd2", state=State.MISSING, data_size=1),
        "etcd3": MachineStatus(node="etcd3", state=State.MISSING),
        "etcd4": MachineStatus(node="etcd4", state=State.FOREIGN, disk_size=1),
        "etcd5": MachineStatus(node="etcd5", state=State.STOPPED, disk_size=1),
    }
    assert observing._left(machines) == {"etcd1", "etcd2"}


@pytest.mark.parametrize(
    ("reported", "printed", "pending"),
    [
        (NEW, None, {}),
        (OLD, None, {"etcd1": Level.RESTART}),
        (OLD, NEW, {}),  # the report follows later
        (NEW, OLD, {}),  # the console log begins at the node's last boot
        (None, NEW, {}),
        (None, OLD, {"etcd1": Level.RESTART}),
        ("", OLD, {"etcd1": Level.RESTART}),  # a node that must restart etcd reports no seed
        (None, None, {"etcd1": Level.RESTART}),
    ],
)
def test_a_seed_is_pending_until_the_node_reports_or_prints_it(
    plan: Callable[..., ClusterPlan], reported: str | None, printed: str | None, pending: dict[str, Level]
) -> None:
    settled = {"etcd1": printed} if printed else {}
    assert observing._pending(plan(nodes=1), HISTORY, reports(reported), NOW, settled) == pending
