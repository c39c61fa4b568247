"""`bake apply` and `bake replace` on booted nodes, while a client writes: no acknowledged key may ever be lost.

The tests run in order, because booting a node takes long. Each prints the longest gap between two writes at each step.
BAKE_TRIALS: how often bake is killed during each operation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.assembly.change_lab import ChangeLab

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
TRIALS = int(os.environ.get("BAKE_TRIALS", "1"))
SEED = int(os.environ.get("BAKE_SEED", "0")) or Random().randrange(1, 1 << 32)  # noqa: S311  no secret
THREE = ["etcd1", "etcd2", "etcd3"]


@pytest.fixture(scope="module")
def cluster(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangeLab]:
    with ChangeLab.booted(root, tmp_path_factory.mktemp("change")) as cluster:
        yield cluster


def test_a_cluster_of_one_node_grows_to_three_nodes(cluster: ChangeLab) -> None:
    steps = cluster.change("apply", "--nodes", "3")

    assert steps == [("update", "etcd1"), ("add", "etcd2"), ("add", "etcd3")]
    assert cluster.members() == THREE


def test_it_grows_to_five_nodes(cluster: ChangeLab) -> None:
    steps = cluster.change("apply", "--nodes", "5")

    assert sorted(steps[:3]) == [("update", node) for node in THREE]
    assert steps[3:] == [("add", "etcd4"), ("add", "etcd5")]
    assert cluster.members() == [*THREE, "etcd4", "etcd5"]


def test_it_shrinks_to_three_nodes_whose_removed_nodes_leave_nothing(cluster: ChangeLab) -> None:
    steps = cluster.change("apply", "--nodes", "3")

    assert sorted(steps[:2]) == [("remove", "etcd4"), ("remove", "etcd5")]
    assert cluster.members() == THREE
    assert sorted(cluster.engine().machines()) == THREE


def test_a_cluster_that_is_as_planned_needs_no_step(cluster: ChangeLab) -> None:
    assert cluster.change("apply") == []
    assert cluster.bake("plan", "--detailed-exitcode").code == 0


def test_an_option_of_etcd_restarts_one_etcd_after_the_other(cluster: ChangeLab) -> None:
    boots = {node: started(cluster, node) for node in THREE}
    steps = cluster.change("apply", "--config", cluster.spec_file(OPTION))

    assert sorted(steps) == [("update", node) for node in THREE]
    for node in THREE:
        assert "ETCD_MAX_TXN_OPS" in cluster.lab.shell(node, "cat /etc/etcd/etcd.conf").stdout
        now = started(cluster, node)
        assert (now[0], now[1] != boots[node][1]) == (boots[node][0], True)


OPTION = "nodes: 3\netcd: {options: {max-txn-ops: 256}}\n"
DNS = "network: {dns: [192.0.2.53]}\n"


def started(cluster: ChangeLab, node: str) -> tuple[str, str]:
    """Return when a node and its etcd started."""
    script = "systemctl show -P UserspaceTimestamp; systemctl show -P ExecMainStartTimestamp etcd"
    first, second = cluster.lab.shell(node, script).stdout.splitlines()
    return first, second


def test_another_dns_server_reboots_one_node_after_the_other(cluster: ChangeLab) -> None:
    boots = {node: started(cluster, node) for node in THREE}
    steps = cluster.change("apply", "--config", cluster.spec_file(OPTION + DNS))

    assert sorted(steps) == [("update", node) for node in THREE]
    for node in THREE:
        assert started(cluster, node)[0] != boots[node][0]
        assert "192.0.2.53" in cluster.lab.shell(node, "cat /var/lib/bake/network-config").stdout


def test_new_certificates_and_a_new_ca_arrive_without_a_reboot(cluster: ChangeLab) -> None:
    boots = {node: started(cluster, node) for node in THREE}
    cluster.change("certs", "rotate")
    assert {node: started(cluster, node) for node in THREE} == boots

    for phase in ("trust", "reissue", "drop"):
        print(f"\n{phase}:", end="")
        cluster.change("certs", "rotate", "--ca")
    now = {node: started(cluster, node) for node in THREE}
    assert all(now[node][0] == boots[node][0] and now[node][1] != boots[node][1] for node in THREE)


def test_a_node_without_its_disk_is_replaced(cluster: ChangeLab) -> None:
    before = identity(cluster, "etcd2")
    cluster.lab.lose_disk("etcd2")

    assert cluster.change("apply") == [("replace", "etcd2")]
    assert cluster.members() == THREE
    assert identity(cluster, "etcd2") != before


def test_a_healthy_node_is_replaced_on_request(cluster: ChangeLab) -> None:
    before = identity(cluster, "etcd1")

    assert cluster.change("replace", "etcd1") == [("replace", "etcd1")]
    assert cluster.members() == THREE
    assert identity(cluster, "etcd1") != before


def identity(cluster: ChangeLab, node: str) -> str:
    return cluster.lab.shell(node, "cat /etc/machine-id").stdout


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_second_run_finishes_what_a_killed_run_began(cluster: ChangeLab, trial: int) -> None:
    random, took = Random(SEED + trial), cluster.took  # noqa: S311  no secret
    print(f"BAKE_SEED={SEED}")
    grow, shrink = ("apply", "--nodes", "4"), ("apply", "--nodes", "3")
    cluster.kill(random, took["replace"], *grow, again=[grow])
    assert cluster.members() == [*THREE, "etcd4"]
    cluster.kill(random, 15, *shrink, again=[shrink])
    assert cluster.members() == THREE
    cluster.kill(random, took["replace"], "replace", random.choice(THREE), again=[("apply",)])
    assert cluster.members() == THREE
    for operations in (300 + trial, 400 + trial):
        option = ("apply", "--config", cluster.spec_file(OPTION.replace("256", str(operations)) + DNS))
        cluster.kill(random, 30, *option, again=[option])
        assert cluster.members() == THREE
    for node in THREE:
        assert f"{operations}" in cluster.lab.shell(node, "grep ETCD_MAX_TXN_OPS /etc/etcd/etcd.conf").stdout


def test_new_root_disks_keep_the_members_and_their_data(cluster: ChangeLab) -> None:
    members = cluster.ask("sorted(one.id for one in etcd.members())")
    before = {node: identity(cluster, node) for node in THREE}
    steps = cluster.change("apply", "--config", cluster.spec_file(f"{OPTION}{DNS}vm: {{disk: 9}}\n"))

    assert sorted(steps) == [("update", node) for node in THREE]
    assert cluster.ask("sorted(one.id for one in etcd.members())") == members
    assert all(identity(cluster, node) != before[node] for node in THREE)
    cluster.must_have_all_keys()


def test_it_shrinks_to_one_node_that_has_all_keys(cluster: ChangeLab) -> None:
    steps = cluster.change("apply", "--nodes", "1")

    assert sorted(steps[:2]) == [("remove", "etcd2"), ("remove", "etcd3")]
    assert cluster.members() == ["etcd1"]
    cluster.must_have_all_keys()


def test_no_unit_has_failed_and_no_seed_is_left_in_a_drive(cluster: ChangeLab) -> None:
    failed = cluster.lab.shell("etcd1", "systemctl list-units --failed --no-legend --plain").stdout.splitlines()
    assert [unit for unit in failed if not unit.startswith("drive.service")] == []  # drive.service is only in the lab
    assert not any(machine.has_seed for machine in cluster.engine().machines().values())
