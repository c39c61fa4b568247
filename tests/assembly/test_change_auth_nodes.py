"""`bake apply` turns etcd's auth on, and changes the number of booted nodes while auth is on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assembly.change_lab import ChangeLab
from tests.assembly.test_change_nodes import THREE, started

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
SPEC = """
auth:
  enabled: true
  users: [{name: app1, roles: [app]}]
  roles: [{name: app, permissions: [{prefix: unique/}, {prefix: history/}]}]
"""


@pytest.fixture(scope="module")
def cluster(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangeLab]:
    with ChangeLab.booted(root, tmp_path_factory.mktemp("change-auth")) as cluster:
        yield cluster


def users(cluster: ChangeLab) -> set[str]:
    return set(cluster.ask("*etcd.users()").split())


def test_auth_is_turned_on_by_a_restart_of_one_etcd_after_the_other(cluster: ChangeLab) -> None:
    """Else etcd's JSON gateway would keep the rights of the server certificate that names the node's user."""
    assert cluster.change("apply", "--nodes", "3")[-2:] == [("add", "etcd2"), ("add", "etcd3")]
    before = {node: started(cluster, node) for node in THREE}
    steps = cluster.change("apply", "--config", cluster.spec_file(f"nodes: 3\n{SPEC}"))

    assert sorted(steps) == [("update", node) for node in THREE]
    assert all(started(cluster, node)[1] != before[node][1] for node in THREE)
    cluster.wait_until(lambda: users(cluster) == {"app1", "etcd-client", *THREE, "root"})
    cluster.wait_until(lambda: cluster.bake("verify").code == 0)
    cluster.client = "users/app1"


def test_it_grows_to_four_nodes(cluster: ChangeLab) -> None:
    assert cluster.change("apply", "--nodes", "4")[-1] == ("add", "etcd4")

    assert cluster.members() == ["etcd1", "etcd2", "etcd3", "etcd4"]
    assert users(cluster) == {"app1", "etcd-client", "etcd1", "etcd2", "etcd3", "etcd4", "root"}


def test_a_removed_node_loses_its_user(cluster: ChangeLab) -> None:
    assert cluster.change("apply", "--nodes", "3")[0] == ("remove", "etcd4")

    assert cluster.members() == ["etcd1", "etcd2", "etcd3"]
    assert users(cluster) == {"app1", "etcd-client", "etcd1", "etcd2", "etcd3", "root"}


def test_a_removed_node_may_come_back(cluster: ChangeLab) -> None:
    assert cluster.change("apply", "--nodes", "4")[-1] == ("add", "etcd4")
    assert "etcd4" in users(cluster)


def test_a_user_of_the_spec_is_added_without_a_restart(cluster: ChangeLab) -> None:
    text = f"nodes: 4\n{SPEC.replace('users: [', 'users: [{name: app2, roles: [app]}, ')}"
    steps = cluster.change("apply", "--config", cluster.spec_file(text))

    assert sorted(steps) == [("update", f"etcd{number}") for number in range(1, 5)]
    cluster.wait_until(lambda: "app2" in users(cluster))
