"""Three libvirt hosts that bake reaches over ssh: the cluster grows, survives the loss of a host, and shrinks.

All tests use the same cluster and run in the order of this file. The hosts are those of `scripts/lab hosts`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import ROOT
from tests.vm.several_hosts import WAIT, SeveralHosts

pytestmark = pytest.mark.alone
DROP = """table inet cut {
chain out {
type filter hook output priority 0
ip daddr 10.99.0.31-10.99.0.40 drop
}
}
"""


class Hosts(SeveralHosts):
    kind = "hosts"

    def vms(self, host: str) -> list[str]:
        """Return the names of a host's VMs."""
        environment = {**os.environ, "BAKE_LAB": str(self.folder / host)}
        command = [ROOT / "scripts" / "lab", "exec", "virsh", "-q", "list", "--all", "--name"]
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts.start(tmp_path_factory.mktemp("hosts")) as found:
        yield found


@pytest.fixture(scope="module")
def config(hosts: Hosts) -> Path:
    return hosts.write_config(hosts.out.with_name("cluster.yaml"))


def test_one_node_is_on_the_first_host(hosts: Hosts, config: Path) -> None:
    hosts.bake("up", "--config", config, "--nodes", 1, *WAIT)
    assert [hosts.vms(f"host{number}") for number in (1, 2, 3)] == [["spread-etcd1"], [], []]


def test_the_nodes_are_reached_through_their_host_if_they_cannot_be_reached_from_here(hosts: Hosts) -> None:
    """A firewall of the operator drops all packets to the nodes."""
    direct = hosts.bake("verify", "-o", "json")
    assert "with ssh" not in direct.stderr
    hosts.lab("exec", "nft", "-f", "-", input_text=DROP)
    try:
        through = hosts.bake("verify", "-o", "json")
        assert "etcd1: no answer from this machine; connecting through 10.99.0.1 with ssh" in through.stderr
        assert results(through) == results(direct)
        hosts.bake("audit")
        (seen,) = json.loads(hosts.bake("status", "-o", "json").stdout)["nodes"]
        assert (seen["reachable"], seen["role"]) == (True, "leader")
    finally:
        hosts.lab("exec", "nft", "delete", "table", "inet", "cut")


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {check["name"]: check["result"] for check in json.loads(done.stdout)["checks"]}


def test_a_plan_changes_nothing(hosts: Hosts) -> None:
    planned = ["update etcd1", "add etcd2", "add etcd3"]
    assert hosts.steps("plan", "--nodes", 3) == planned
    placement = json.loads(hosts.bake("plan", "--nodes", 3, "-o", "json").stdout)["placement"]
    assert placement == {f"etcd{number}": f"host{number}" for number in (1, 2, 3)}
    hosts.bake("plan", "--nodes", 3, "--detailed-exitcode", code=5)
    hosts.bake("plan", "--detailed-exitcode")


def test_new_nodes_join_on_the_other_hosts(hosts: Hosts) -> None:
    assert hosts.steps("up", "--nodes", 3, *WAIT) == ["update etcd1", "add etcd2", "add etcd3"]
    assert [hosts.vms(f"host{number}") for number in (1, 2, 3)] == [[f"spread-etcd{number}"] for number in (1, 2, 3)]
    seen = json.loads(hosts.bake("status", "-o", "json").stdout)["nodes"]
    assert [node["vm"] for node in seen] == [f"running tcg on host{number}" for number in (1, 2, 3)]
    assert hosts.steps("plan") == []


def test_the_cluster_survives_the_loss_of_a_host_which_status_names(hosts: Hosts) -> None:
    hosts.lab("kill", "host2")
    done = hosts.bake("status", "-o", "json")
    assert "host host2 does not answer" in done.stderr
    seen = {node["node"]: node for node in json.loads(done.stdout)["nodes"]}
    assert (seen["etcd2"]["vm"], seen["etcd2"]["reachable"]) == ("host2 does not answer", False)
    assert all(seen[name]["reachable"] for name in ("etcd1", "etcd3"))
    hosts.bake("verify", code=3)
    hosts.write("https://10.99.0.31:2379")


def test_the_node_moves_to_another_host_with_one_command(hosts: Hosts) -> None:
    assert hosts.steps("replace", "etcd2", "--host", "host3", "--yes", *WAIT) == ["replace etcd2"]
    assert sorted(hosts.vms("host3")) == ["spread-etcd2", "spread-etcd3"]
    hosts.bake("verify")


def test_the_old_vm_is_removed_when_its_host_is_back(hosts: Hosts) -> None:
    hosts.lab("boot", "host2")
    assert hosts.vms("host2") == ["spread-etcd2"]
    assert hosts.steps("apply", "--yes", *WAIT) == ["remove etcd2"]
    assert hosts.vms("host2") == []
    assert sorted(hosts.vms("host3")) == ["spread-etcd2", "spread-etcd3"]
    assert hosts.steps("plan") == []


def test_nodes_leave_and_their_hosts_have_nothing_of_them(hosts: Hosts) -> None:
    taken = hosts.steps("apply", "--nodes", 1, "--yes", *WAIT)
    assert (sorted(taken[:2]), taken[2:]) == (["remove etcd2", "remove etcd3"], ["update etcd1"])
    assert [hosts.vms(f"host{number}") for number in (1, 2, 3)] == [["spread-etcd1"], [], []]


def test_destroy_leaves_nothing_on_any_host(hosts: Hosts) -> None:
    hosts.bake("destroy", "--yes")
    for number in (1, 2, 3):
        assert hosts.vms(f"host{number}") == []
        images = hosts.folder / f"host{number}" / "lib" / "images"
        assert list(images.rglob("*")) == []
