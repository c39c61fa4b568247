"""The state of each node, and the pending tasks of the operator, from answers of etcd."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from generator.etcd.answers import Answer, Member, Status
from generator.operations import status
from generator.operations.hints import command
from generator.operations.status import ClusterStatus, MemberRole
from generator.plan import ClusterPlan
from generator.store.folder import Store
from tests.unit.test_verify import member
from tests.unit.test_verify import status as etcd_status


@pytest.fixture(scope="session")
def cluster(plan: Callable[..., ClusterPlan]) -> ClusterPlan:
    return plan(nodes=3, firewall={"kind": "none"})


def test_a_nodes_role_comes_from_its_status_or_from_the_member_list(cluster: ClusterPlan) -> None:
    node = cluster.nodes[1]
    listed = member(node, 2)

    def part(told: Answer[Status], *members: Member) -> MemberRole | None:
        return status.node_status(node, told, members).role

    gone: Answer[Status] = Answer(error="connection refused")
    assert part(Answer(etcd_status(2, leader=2))) is MemberRole.LEADER
    assert part(Answer(etcd_status(2)), listed) is MemberRole.VOTER
    assert part(Answer(etcd_status(2, is_learner=True))) is MemberRole.LEARNER
    assert part(gone, listed) is MemberRole.VOTER
    assert part(gone, replace(listed, name="")) is MemberRole.UNSTARTED
    assert part(gone) is None


def test_ids_are_hexadecimal_as_in_etcdctl(cluster: ClusterPlan) -> None:
    found = status.node_status(cluster.nodes[0], Answer(etcd_status(0x4BB3BF120CD9D667)), ())
    row = status.status_row(found, None)
    assert (row["id"], row["state"], row["db"], row["vm"]) == ("4bb3bf120cd9d667", "voter", "2 KiB", "unknown")
    data = json.loads(json.dumps(status.status_data(found, "running kvm")))
    assert (data["node"], data["vm"], data["member_id"], data["db_size"]) == (
        "etcd1", "running kvm", "4bb3bf120cd9d667", 2048,
    )  # fmt: skip


def test_unknown_values_are_null_in_json(cluster: ClusterPlan) -> None:
    found = status.node_status(cluster.nodes[0], Answer(error="no answer in time"), ())
    data = json.loads(json.dumps(status.status_data(found, None)))
    assert not any(" " in key for key in data)
    assert {key for key, value in data.items() if value is None} == {
        "vm", "member_id", "role", "version", "db_size", "db_in_use", "revision", "raft_index",
    }  # fmt: skip


def seen(cluster: ClusterPlan, *members: Member) -> ClusterStatus:
    told = [Answer(etcd_status(number)) for number, _ in enumerate(cluster.nodes, 1)]
    nodes = [status.node_status(node, one, members) for node, one in zip(cluster.nodes, told, strict=True)]
    return ClusterStatus(nodes=tuple(nodes), members=members)


def test_a_planned_and_sealed_cluster_has_no_tasks(cluster: ClusterPlan) -> None:
    members = [member(node, number) for number, node in enumerate(cluster.nodes, 1)]
    assert list(status.pending_tasks(cluster, seen(cluster, *members), sealed=True)) == []
    (task,) = status.pending_tasks(cluster, seen(cluster, *members), sealed=True, ca_change="trust")
    assert (task.task, task.remedy) == ("the CA is being rotated (phase trust)", "bake certs rotate --ca")


def test_an_old_image_is_a_task(cluster: ClusterPlan) -> None:
    members = [member(node, number) for number, node in enumerate(cluster.nodes, 1)]
    text = "the image of etcd1 is 61 days old"
    (task,) = status.pending_tasks(cluster, seen(cluster, *members), sealed=True, images=[text])
    assert (task.task, task.remedy) == (text, "bake upgrade --refresh")


def test_every_unplanned_state_of_a_member_has_a_remedy(cluster: ClusterPlan) -> None:
    first, second, third = (member(node, number) for number, node in enumerate(cluster.nodes, 1))
    evil = replace(first, id=255, name="evil", peer_urls=("https://192.0.2.1:2380",))
    unstarted = replace(second, name="", client_urls=(), is_learner=True)
    found_status = seen(cluster, first, unstarted, replace(third, is_learner=True), evil)
    found = {task.task: task.remedy for task in status.pending_tasks(cluster, found_status, sealed=False)}
    assert list(found) == [
        "the first node's ISO still has the bootstrap permit",
        "etcd2 was added to the cluster, but has not started",
        "etcd3 is a learner",
        "the member evil (ff, https://192.0.2.1:2380) is not one of the nodes",
    ]
    words = ["bake seal", "etcdctl member remove 2", "bake console etcd3", "etcdctl member remove ff"]
    assert all(word in remedy for word, remedy in zip(words, found.values(), strict=True))


def test_the_commands_of_tasks_have_the_options_of_the_cluster(cluster: ClusterPlan, tmp_path: Path) -> None:
    bake = partial(command, Store(tmp_path, "prod"))
    (task,) = status.pending_tasks(cluster, seen(cluster), sealed=False, bake=bake)
    assert task.remedy == f"bake seal --name prod --out {tmp_path}"


def test_the_seal_task_of_a_stopped_cluster_waits_for_its_start(cluster: ClusterPlan) -> None:
    gone = [status.node_status(node, Answer(error="connection refused"), ()) for node in cluster.nodes]
    (task,) = status.pending_tasks(cluster, ClusterStatus(nodes=tuple(gone), members=()), sealed=False)
    assert task.remedy == "start the cluster, then run bake seal"
