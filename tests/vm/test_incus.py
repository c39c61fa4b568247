"""Three Incus hosts that form a cluster: the nodes are containers, and the etcd cluster survives the loss of a host.

All tests use the same cluster and run in the order of this file. The hosts are those of `scripts/lab incus`. The
operator's certificate is restricted to one project, and the project allows few features.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from generator.image.base import BootImage
from tests.vm.conftest import CALL
from tests.vm.several_hosts import WAIT, SeveralHosts

NODES = ("etcd1", "etcd2", "etcd3")


class Hosts(SeveralHosts):
    kind = "incus"

    def incus(self, *words: object, host: str = "host1") -> str:
        """Run the program `incus` on a host as its administrator, in the project of the nodes."""
        return self.lab("on", host, "incus", *words, "--project", "bake").stdout

    def places(self, host: str = "host1") -> dict[str, str]:
        """Return the member of each instance."""
        found = json.loads(self.incus("list", "--format", "json", host=host))
        return {one["name"]: one["location"] for one in found}

    def nodes(self) -> dict[str, dict[str, object]]:
        return {one["node"]: one for one in json.loads(self.bake("status", "-o", "json").stdout)["nodes"]}

    def wait_until(self, is_done: Callable[[], bool], seconds: float = 300) -> None:
        """Wait for something that Incus finds out, such as that a host is off."""
        deadline = time.monotonic() + seconds
        while not is_done():
            assert time.monotonic() < deadline
            time.sleep(2)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, base_image: BootImage) -> Iterator[Hosts]:
    assert base_image.root_tar is not None
    with Hosts.start(tmp_path_factory.mktemp("incus")) as found:
        yield found


@pytest.fixture(scope="module")
def config(hosts: Hosts) -> Path:
    return hosts.write_config(hosts.out.with_name("cluster.yaml"))


@pytest.fixture(scope="module")
def lost(hosts: Hosts) -> str:
    """The node on host1."""
    return next(name.split("-")[1] for name, where in hosts.places().items() if where == "host1")


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("project: bake", "project: default", "incus.project", "you may not use it"),
        ("project: bake", "project: bake, pool: fast", "incus.pool", "'fast'"),
        ("project: bake", "project: bake, profile: none", "incus.profile", "'none'"),
        ("project: bake", "project: bake, group: rack9", "incus.group", "'rack9'"),
        ("engine: incus", "engine: incus\nnodes: [{name: a, host: host9}]", "nodes[0].host", "'host9'"),
        ("remote: lab", "remote: other", "incus.remote", "'other'"),
    ],
)
def test_what_incus_does_not_have_is_named(
    hosts: Hosts, config: Path, tmp_path: Path, old: str, new: str, field: str, words: str
) -> None:
    wrong = tmp_path / "cluster.yaml"
    wrong.write_text(config.read_text().replace(old, new))
    line = ["exec", sys.executable, "-c", CALL, "up", "--config", wrong, "--out", hosts.out, "--name", "wrong"]
    done = hosts.lab(*line, check=False)
    assert done.returncode in (1, 2)
    assert field in done.stderr
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (hosts.out / "wrong").exists()


def test_an_instance_of_somebody_else_is_not_touched(hosts: Hosts, config: Path) -> None:
    hosts.incus("create", "--empty", "taken-etcd1", "--storage", "default")
    text = hosts.bake("up", "--config", config, "--nodes", 1, *WAIT, code=1, name="taken").stderr
    assert "taken-etcd1 was not made by bake" in text
    assert hosts.places() == {"taken-etcd1": hosts.places()["taken-etcd1"]}
    hosts.incus("delete", "taken-etcd1")


def test_the_nodes_are_on_different_members(hosts: Hosts, config: Path) -> None:
    hosts.bake("up", "--config", config, "--nodes", 3, *WAIT)
    places = hosts.places()
    assert sorted(places) == [f"spread-{name}" for name in NODES]
    assert sorted(places.values()) == ["host1", "host2", "host3"]
    hosts.bake("verify")
    assert hosts.steps("plan") == []
    seen = hosts.nodes()
    assert {name: one["vm"] for name, one in seen.items()} == {
        name: f"running on {places[f'spread-{name}']}" for name in NODES
    }


def test_no_configuration_has_a_secret_and_no_seed_is_left(hosts: Hosts) -> None:
    """Every member of a project can read the configuration. A settled node needs no seed."""
    text = hosts.incus("list", "--format", "json") + hosts.incus("storage", "volume", "list", "default", "-f", "json")
    permit = hosts.out / "spread" / "pki" / "bootstrap-permit"
    assert "PRIVATE KEY" not in text
    assert not permit.exists() or permit.read_text().strip() not in text
    assert ".seed-" not in text


def test_the_journals_of_all_containers_are_shown(hosts: Hosts) -> None:
    found = json.loads(hosts.bake("logs", "--unit", "etcd", "-o", "json").stdout)["entries"]
    assert {one["node"] for one in found} == set(NODES)


def test_new_certificates_reach_running_containers(hosts: Hosts) -> None:
    hosts.bake("certs", "rotate")
    hosts.bake("verify")
    assert hosts.steps("plan") == []


def test_a_change_restarts_one_node_after_the_other(hosts: Hosts) -> None:
    assert sorted(hosts.steps("apply", "--memory", 800, "--yes", *WAIT)) == [f"update {name}" for name in NODES]
    config = json.loads(hosts.incus("list", "--format", "json"))
    assert {one["config"]["limits.memory"] for one in config} == {"800MiB"}
    assert hosts.steps("plan") == []


def test_the_cluster_survives_the_loss_of_a_host_which_status_names(hosts: Hosts, lost: str) -> None:
    """The host is the one that the remote names, so bake uses another address of the cluster."""
    hosts.lab("kill", "host1")
    hosts.wait_until(lambda: hosts.nodes()[lost]["vm"] == "host1 does not answer")
    seen = hosts.nodes()
    assert {name: one["reachable"] for name, one in seen.items()} == {name: name != lost for name in NODES}
    hosts.bake("verify", code=3)
    url = next(f"https://{one['address']}:2379" for one in seen.values() if one["reachable"])
    hosts.write(url)


def test_a_host_that_is_off_gets_no_node(hosts: Hosts, lost: str) -> None:
    text = hosts.bake("replace", lost, "--host", "host1", "--yes", code=1).stderr
    assert "host host1 does not answer" in text
    assert "'host9'" in hosts.bake("replace", lost, "--host", "host9", "--yes", code=2).stderr


def test_the_node_moves_to_another_host_with_one_command(hosts: Hosts, lost: str) -> None:
    assert hosts.steps("replace", lost, "--host", "host3", "--yes", *WAIT) == [f"replace {lost}"]
    assert hosts.places("host2")[f"spread-{lost}-R2"] == "host3"
    hosts.bake("verify")


def test_the_old_instance_is_removed_when_its_host_is_back(hosts: Hosts, lost: str) -> None:
    hosts.lab("boot", "host1")
    hosts.wait_until(lambda: hosts.steps("plan") == [f"remove {lost}"])
    assert hosts.steps("apply", "--yes", *WAIT) == [f"remove {lost}"]
    others = [f"spread-{name}" for name in NODES if name != lost]
    assert sorted(hosts.places()) == sorted([*others, f"spread-{lost}-R2"])
    assert hosts.steps("plan") == []


def test_a_node_without_a_pin_moves_to_the_free_host(hosts: Hosts) -> None:
    """Incus no longer has two nodes on host3 if no node has a pin."""
    name = next(name for name, where in hosts.places().items() if where == "host3").split("-")[1]
    assert hosts.steps("replace", name, "--host", "host1", "--yes", *WAIT) == [f"replace {name}"]
    assert sorted(hosts.places().values()) == ["host1", "host2", "host3"]
    hosts.bake("verify")


def test_destroy_names_a_host_that_is_off(hosts: Hosts) -> None:
    hosts.lab("kill", "host3")
    hosts.wait_until(lambda: "host3 does not answer" in {str(one["vm"]) for one in hosts.nodes().values()})
    said = hosts.bake("destroy", "--yes", code=1).stderr
    assert "host host3 does not answer" in said, said
    assert set(hosts.places().values()) == {"host3"}
    hosts.lab("boot", "host3")
    hosts.wait_until(lambda: "OFFLINE" not in hosts.lab("on", "host1", "incus", "cluster", "list").stdout)


def test_destroy_leaves_nothing_on_any_host(hosts: Hosts) -> None:
    hosts.bake("destroy", "--yes")
    assert hosts.places() == {}
    assert json.loads(hosts.incus("storage", "volume", "list", "default", "-f", "json")) == []
    assert json.loads(hosts.incus("image", "list", "-f", "json")) == []
    for host in ("host1", "host2", "host3"):
        pool = hosts.folder / host / "incus" / "storage-pools" / "default"
        assert [path for path in pool.rglob("*") if "spread" in path.name] == []


def test_nodes_are_spread_over_failure_domains_within_a_group(hosts: Hosts, config: Path, tmp_path: Path) -> None:
    """host1 is in the failure domain of host2, but not in the group."""
    for host, rack in {"host1": "rack-a", "host2": "rack-a", "host3": "rack-b"}.items():
        member = hosts.lab("on", "host1", "incus", "cluster", "show", host).stdout
        new = member.replace("failure_domain: default", f"failure_domain: {rack}")
        hosts.lab("on", "host1", "incus", "cluster", "edit", host, input_text=new)
    hosts.lab("on", "host1", "incus", "cluster", "group", "create", "etcd")
    for host in ("host2", "host3"):
        hosts.lab("on", "host1", "incus", "cluster", "group", "assign", host, "default,etcd")
    racks = tmp_path / "cluster.yaml"
    racks.write_text(config.read_text().replace("project: bake", "project: bake, group: etcd"))
    hosts.bake("up", "--config", racks, "--nodes", 3, *WAIT, name="racks")
    assert set(hosts.places().values()) == {"host2", "host3"}
    hosts.bake("verify", name="racks")
    hosts.bake("destroy", "--yes", name="racks")
    assert hosts.places() == {}
