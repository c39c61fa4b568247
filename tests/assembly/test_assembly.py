"""Real etcd processes form a cluster, in any order of their starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from generator.config.spec import JoinMode
from tests.assembly.miniature import Miniature

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]


def test_three_nodes_started_at_once_all_vote(cluster_of: ClusterOf) -> None:
    """The row `loopback` of scripts/bench measures the time of this test's actions."""
    cluster = cluster_of(3)
    cluster.start()
    print(f"three nodes: {cluster.wait_all_voting(30):.1f} s")
    assert len(cluster.cluster_ids()) == 1


def test_five_and_seven_nodes_started_at_once_all_vote(cluster_of: ClusterOf) -> None:
    """Both clusters start at the same time. They mostly wait for etcd's HealthInterval, five seconds per member."""
    clusters = [cluster_of(5), cluster_of(7)]
    for cluster in clusters:
        cluster.start()
    for cluster in clusters:
        took = cluster.wait_all_voting(90)
        print(f"{len(cluster.nodes)} nodes: {took:.1f} s")
        assert len(cluster.cluster_ids()) == 1


def test_the_last_node_may_start_first(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(2)
    cluster.start([cluster.nodes[1]])
    cluster.wait(lambda: cluster.nodes[1].says("no member is alive yet"), 10, "the second node waits")
    cluster.nodes[0].start()
    cluster.wait_all_voting(20)


def test_nodes_that_join_as_voters_need_no_promotion(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(3, join=JoinMode.VOTER)
    cluster.start()
    cluster.wait_all_voting(60)
    assert not any("learner" in node.phases() for node in cluster.nodes)


def test_each_node_reports_its_phases_in_order(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(2)
    cluster.start()
    cluster.wait_all_voting(20)
    first, second = ([p for p in node.phases() if p != "waiting"] for node in cluster.nodes)
    assert list(dict.fromkeys(first)) == ["joining", "voting"]
    assert list(dict.fromkeys(second)) == ["joining", "learner", "voting"]
