"""The values that the plan derives from a spec."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from generator.config.spec import read_spec
from generator.plan import ClusterPlan, plan_cluster

Plan = Callable[..., ClusterPlan]


def test_three_nodes_are_the_cluster_of_the_manual_procedure(plan: Plan) -> None:
    nodes = plan(nodes=3).nodes
    assert [node.name for node in nodes] == ["etcd1", "etcd2", "etcd3"]
    assert [str(node.address) for node in nodes] == ["192.168.20.31", "192.168.20.32", "192.168.20.33"]
    assert nodes[0].client_url == "https://192.168.20.31:2379"
    assert nodes[2].peer_url == "https://192.168.20.33:2380"
    assert nodes[1].fqdn == "etcd2.etcd.internal"


def test_only_the_first_node_can_start_the_cluster(plan: Plan) -> None:
    assert [node.bootstrap for node in plan(nodes=5).nodes] == [True, False, False, False, False]


def test_each_node_joins_the_nodes_before_it(plan: Plan) -> None:
    clusters = [[name for name, _ in node.initial_cluster] for node in plan(nodes=3).nodes]
    assert clusters == [["etcd1"], ["etcd2", "etcd1"], ["etcd3", "etcd2", "etcd1"]]


PLACES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "from .31": ({}, ["192.168.20.31", "192.168.20.32", "192.168.20.33"]),
    "from the first address": (
        {"network": {"firstIp": "192.168.20.100"}},
        ["192.168.20.100", "192.168.20.101", "192.168.20.102"],
    ),
    "in a small subnet": ({"network": {"subnet": "10.0.0.0/29"}}, ["10.0.0.2", "10.0.0.3", "10.0.0.4"]),
    "around the gateway": (
        {"network": {"firstIp": "192.168.20.8", "gateway": "192.168.20.9"}},
        ["192.168.20.8", "192.168.20.10", "192.168.20.11"],
    ),
    "around stated ones": (
        {"nodes": [{"name": "a"}, {"name": "b", "address": "192.168.20.32"}, {"name": "c"}]},
        ["192.168.20.31", "192.168.20.32", "192.168.20.33"],
    ),
    "IPv6": ({"network": {"subnet": "fd00::/64"}}, ["fd00::1f", "fd00::20", "fd00::21"]),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "addresses"), PLACES.values(), ids=PLACES)
def test_nodes_get_free_addresses(plan: Plan, fields: dict[str, Any], addresses: list[str]) -> None:
    assert [node.address for node in plan(**fields).nodes] == [ip_address(each) for each in addresses]


def test_urls_have_brackets_around_ipv6(plan: Plan) -> None:
    assert plan(network={"subnet": "fd00::/64"}).nodes[0].client_url == "https://[fd00::1f]:2379"


def test_libvirt_names_are_stable_and_unique(plan: Plan) -> None:
    plans = [plan(name=name, nodes=7) for name in ("etcd", "etcd", "prod")]
    assert plans[0] == plans[1]
    for fact in ("mac", "uuid", "domain"):
        values = {getattr(each, fact) for made in plans for each in made.nodes}
        assert len(values) == 14, fact
    assert plans[0].network.uuid != plans[2].network.uuid
    assert plans[0].network.bridge != plans[2].network.bridge


def test_libvirt_and_the_kernel_accept_the_names(plan: Plan) -> None:
    made = plan(name="a" * 40)
    assert len(made.network.bridge) <= 15
    assert all(re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", node.mac) for node in made.nodes)
    assert made.network.mac not in {node.mac for node in made.nodes}


def test_a_tarball_and_packages_have_different_folders(plan: Plan) -> None:
    archive = {"method": "archive", "archive": "x.tar.gz", "sha256": "0" * 64}
    assert plan(install=archive).binary_dir == "/usr/local/bin"
    assert plan().binary_dir == "/usr/bin"


def test_a_stated_mac_is_used_and_others_are_derived() -> None:
    nodes = [{"name": "a", "mac": "3c:ec:ef:12:34:56"}, {"name": "b"}]

    plan = plan_cluster(read_spec({"nodes": nodes})[0])

    assert plan.nodes[0].mac == "3c:ec:ef:12:34:56"
    assert plan.nodes[1].mac.startswith("52:54:00:")
