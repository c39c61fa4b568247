"""The state of each node, and the pending tasks of the operator, from answers of etcd."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from generator.engine import MachineStatus, State
from generator.errors import UnhealthyError
from generator.etcd.answers import Answer, Member, Status
from generator.operations import status
from generator.operations.baked_cluster import open_cluster
from generator.operations.hints import command
from generator.operations.status import ClusterStatus, MemberRole
from generator.plan import ClusterPlan
from generator.store.folder import Store
from generator.vm.engine import LibvirtEngine
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
    assert (task.task, task.remedy) == ("a CA change is in progress (phase trust)", "bake certs rotate --ca")


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
    words = ["bake seal", "bake etcdctl member remove 2", "bake console etcd3", "bake etcdctl member remove ff"]
    assert all(word in remedy for word, remedy in zip(words, found.values(), strict=True))


def test_the_commands_of_tasks_have_the_options_of_the_cluster(cluster: ClusterPlan, tmp_path: Path) -> None:
    bake = partial(command, Store(tmp_path, "prod"))
    (task,) = status.pending_tasks(cluster, seen(cluster), sealed=False, bake=bake)
    assert task.remedy == f"bake seal --name prod --out {tmp_path}"


def test_the_seal_task_of_a_stopped_cluster_waits_for_its_start(cluster: ClusterPlan) -> None:
    gone = [status.node_status(node, Answer(error="connection refused"), ()) for node in cluster.nodes]
    (task,) = status.pending_tasks(cluster, ClusterStatus(nodes=tuple(gone), members=()), sealed=False)
    assert task.remedy == "start the cluster, then run bake seal"


UNSTARTED = "bake finds no VM of this cluster here, and no node accepts a connection"
DRIVER = "test:///default"


@pytest.fixture
def silent_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generator.operations.status.accepting", lambda _: set())
    monkeypatch.setattr("generator.etcd.observe.ask", lambda *_: Answer(error="no answer in time"))
    monkeypatch.setattr("generator.operations.running.delivery.served_certificate", lambda *_: None)


@pytest.mark.usefixtures("silent_nodes")
@pytest.mark.parametrize(
    "words",
    [
        ["verify"], ["audit"], ["logs"], ["console", "etcd1"], ["alarm"], ["snapshot"], ["defrag"],
        ["move-leader", "etcd1"],
    ],
)  # fmt: skip
def test_a_command_for_a_running_cluster_says_that_the_cluster_has_no_vms(bake: Any, words: list[str]) -> None:
    bake("--nodes", 3, "--name", "prod")
    result = bake(words[0], "--name", "prod", "--connect", DRIVER, *words[1:])
    assert (result.code, result.out) == (3, "")
    up = f"bake up --name prod --connect {DRIVER}"
    assert result.err == (
        f"error: {UNSTARTED}\n"
        f"  hint: if the VMs run elsewhere, check the route to them; if the cluster has never started, run {up}\n"
    )


@pytest.mark.parametrize("port", ["client_port", "peer_port"])
def test_a_cluster_is_silent_only_if_no_port_accepts_a_connection(
    cluster: ClusterPlan, port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd = replace(cluster.spec.etcd, **{port: 1})
    with socket.create_server(("127.0.0.1", 0)) as server:

        def connect(address: tuple[str, int], timeout: float) -> socket.socket:
            if address != (str(cluster.nodes[1].address), 1):
                raise ConnectionRefusedError
            return real(server.getsockname(), timeout)

        real = socket.create_connection
        monkeypatch.setattr(socket, "create_connection", connect)
        assert status.is_silent(cluster)
        assert not status.is_silent(replace(cluster, spec=replace(cluster.spec, etcd=etcd)))


@pytest.mark.parametrize("words", [["alarm"], ["status"]])
def test_a_node_that_refuses_the_operator_is_not_silent(
    bake: Any, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: object) -> None:
        raise UnhealthyError("certificate expired")

    monkeypatch.setattr("generator.etcd.observe.ask", lambda *_: Answer(error="certificate expired"))
    monkeypatch.setattr("generator.operations.maintenance.alarms.list_alarms", refused)
    monkeypatch.setattr("generator.operations.status.accepting", lambda targets: set(list(targets)[:1]))
    bake("--nodes", 1)
    result = bake(*words, "--connect", DRIVER)
    assert "certificate expired" in result.out + result.err
    assert UNSTARTED not in result.out + result.err


@pytest.mark.usefixtures("silent_nodes")
def test_status_has_one_task_for_a_cluster_without_vms(bake: Any) -> None:
    bake("--nodes", 3)
    result = bake("status", "--connect", DRIVER, "-o", "json")
    (task,) = json.loads(result.out)["tasks"]
    assert (result.code, task["task"]) == (0, UNSTARTED)
    assert task["remedy"].endswith(f"run bake up --connect {DRIVER}")


@pytest.mark.usefixtures("silent_nodes")
def test_a_sealed_cluster_whose_nodes_do_not_answer_has_a_task(bake: Any) -> None:
    bake("--nodes", 3, "--name", "prod")
    Path("out/prod/sealed").touch()
    text = "no node answers this machine"
    check = "check that the nodes run and that this machine has a route to 192.168.20.0/24"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("generator.cli.engines.machines_if_possible", lambda *_: {})
        without = bake("status", "--name", "prod", "-o", "json")
    (task,) = json.loads(without.out)["tasks"]
    assert (without.code, task) == (0, {"task": text, "remedy": check})
    (task,) = json.loads(bake("status", "--name", "prod", "--connect", DRIVER, "-o", "json").out)["tasks"]
    more = f"to start the nodes, run bake up --name prod --connect {DRIVER}"
    assert task == {"task": text, "remedy": f"{check}; {more}"}


@pytest.mark.usefixtures("silent_nodes")
def test_new_certificates_of_a_cluster_without_vms_are_no_error(bake: Any) -> None:
    bake("--nodes", 3)
    result = bake("certs", "rotate", "--connect", DRIVER)
    assert (result.code, result.out) == (0, "")
    assert result.err.count(UNSTARTED) == 1
    for node in ("etcd1", "etcd2", "etcd3"):
        assert f"{node}: bake finds no VM; insert {Path('out').absolute()}/etcd/{node}/seed.iso into its" in result.err


@pytest.mark.usefixtures("silent_nodes")
def test_a_cluster_may_have_vms_that_bake_does_not_know(bake: Any) -> None:
    """A sealed cluster has started, and an engine that does not answer says nothing about its VMs."""
    bake("--nodes", 1)
    sealed, unknown = Path("out/etcd/sealed"), bake("alarm", "--connect", "test:///none")
    sealed.touch()
    known = bake("alarm", "--connect", DRIVER)
    assert UNSTARTED not in unknown.err + known.err
    assert (unknown.code, known.code) == (3, 3)


def test_the_engine_is_not_asked_if_a_node_answers(bake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generator.operations.status.accepting", set)
    monkeypatch.setattr("generator.cli.engines.make_engine", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setattr("generator.operations.maintenance.alarms.list_alarms", lambda _: [])
    bake("--nodes", 1)
    assert bake("alarm").code == 0


@pytest.mark.parametrize(
    ("second", "is_task"),
    [
        ({"state": State.MISSING}, True),
        ({"state": State.FOREIGN}, True),
        ({"state": State.UNKNOWN}, False),
        ({"state": State.STOPPED}, False),
        ({"state": State.MISSING, "disk_size": 1}, False),
        ({"state": State.MISSING, "data_size": 1}, False),
        ({"state": State.MISSING, "silent_hosts": ("host2",)}, False),
    ],
)
def test_only_an_engine_that_has_answered_knows_that_no_vm_exists(
    bake: Any, second: dict[str, Any], is_task: bool
) -> None:
    bake("--nodes", 2)
    opened = open_cluster(Store(Path("out"), "etcd"))
    first = MachineStatus(node="etcd1", state=State.MISSING)
    found = status.start_task(opened, {"etcd1": first, "etcd2": MachineStatus(node="etcd2", **second)})
    assert (found is not None) == is_task
    assert found is None or found.remedy == (
        "if the VMs run elsewhere, check the route to them, or add --connect; "
        "if the cluster has never started, run bake up"
    )
    assert status.start_task(opened, {}) is None


def test_a_cluster_has_started_if_a_killed_bake_has_sealed_it(bake: Any) -> None:
    bake("--nodes", 1)
    Path("out/etcd/sealed").touch()
    Path("out/.etcd.new-killed").mkdir()
    opened = open_cluster(Store(Path("out"), "etcd"))
    assert not opened.sealed
    assert status.start_task(opened, {"etcd1": MachineStatus(node="etcd1", state=State.MISSING)}) is None


@pytest.mark.parametrize("words", [["logs"], ["console", "etcd1"]])
def test_no_node_is_probed_if_a_vm_exists(bake: Any, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """While a VM boots, its console and its journal are needed, and its etcd does not answer yet."""
    booting = {"etcd1": MachineStatus(node="etcd1", state=State.RUNNING)}
    monkeypatch.setattr(LibvirtEngine, "machines", lambda _: booting)
    monkeypatch.setattr("generator.operations.status.accepting", lambda _: pytest.fail("probed"))
    bake("--nodes", 1)
    assert UNSTARTED not in bake(*words, "--connect", DRIVER).err
