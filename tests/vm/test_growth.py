"""A running cluster of VMs grows, loses a disk, gets another etcd option and more memory, and shrinks again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Lab, Run, command_line

WAIT = ("--wait", 600)


@pytest.fixture(scope="module")
def bake_in_lab(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = command_line(lab, "grow", tmp_path_factory.mktemp("grow") / "out")
    run("up", "--nodes", 1, *WAIT)
    yield run
    run("destroy", "--yes")


def steps(run: Run, *words: object) -> list[str]:
    done = json.loads(run(*words, *WAIT, "-o", "json").stdout)
    return [f"{step['action']} {step['node']} {step['level'] or ''}".strip() for step in done["steps"]]


def test_a_plan_changes_nothing(bake_in_lab: Run) -> None:
    planned = ["update etcd1 live", "add etcd2", "add etcd3"]
    assert steps(bake_in_lab, "plan", "--nodes", 3) == planned
    assert steps(bake_in_lab, "plan", "--nodes", 3) == planned
    bake_in_lab("plan", "--nodes", 3, "--detailed-exitcode", code=2)
    bake_in_lab("plan", "--detailed-exitcode", code=0)


def test_nodes_join_a_running_cluster(bake_in_lab: Run, connection: Any) -> None:
    assert steps(bake_in_lab, "up", "--nodes", 3) == ["update etcd1 live", "add etcd2", "add etcd3"]
    assert {domain.name() for domain in connection.listAllDomains()} == {f"grow-etcd{n}" for n in (1, 2, 3)}
    assert steps(bake_in_lab, "plan") == []


def test_a_node_without_its_disks_is_replaced_before_an_option_and_the_memory_reach_one_vm_after_the_other(
    bake_in_lab: Run, connection: Any, tmp_path: Path
) -> None:
    """One run replaces a node and reboots the other nodes."""
    connection.lookupByName("grow-etcd2").destroy()
    for disk in ("etcd2.qcow2", "etcd2.data.qcow2"):
        connection.storagePoolLookupByName("bake-grow").storageVolLookupByName(disk).delete()
    config = tmp_path / "change.yaml"
    config.write_text("name: grow\nnodes: 3\nvm: {memory: 1280}\netcd: {options: {max-txn-ops: 256}}\n")
    taken = steps(bake_in_lab, "apply", "--config", config, "--yes")
    assert (taken[0], sorted(taken[1:])) == ("replace etcd2", [f"update etcd{n} reboot" for n in (1, 3)])
    memories = {domain.info()[1] >> 10 for domain in connection.listAllDomains()}
    assert memories == {1280}


def test_nodes_leave_a_running_cluster(bake_in_lab: Run, connection: Any) -> None:
    taken = steps(bake_in_lab, "apply", "--nodes", 1, "--yes")
    assert sorted(taken[:2]) == ["remove etcd2", "remove etcd3"]
    assert taken[2:] == ["update etcd1 live"]
    assert [domain.name() for domain in connection.listAllDomains()] == ["grow-etcd1"]
    left = connection.storagePoolLookupByName("bake-grow").listVolumes()
    assert [name for name in left if name.startswith(("etcd2", "etcd3"))] == []
