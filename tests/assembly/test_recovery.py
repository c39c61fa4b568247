"""Nodes that stop at any moment: all nodes join in the end, and a second cluster never starts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from generator.config.spec import JoinMode
from tests.assembly.miniature import Miniature, Node

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]


@pytest.fixture
def pair(cluster_of: ClusterOf) -> Miniature:
    """Two nodes, of which the first already runs as a cluster."""
    cluster = cluster_of(2)
    cluster.start_first()
    return cluster


@pytest.fixture
def trio(cluster_of: ClusterOf) -> Miniature:
    cluster = cluster_of(3)
    cluster.start()
    cluster.wait_all_voting(30)
    return cluster


def ids(cluster: Miniature, via: Node) -> dict[str, int]:
    return {member["name"]: member["ID"] for member in cluster.members(via)}


def the_wal(node: Node) -> Path:
    return node.data_dir / "member/wal"


def kill_after_wal(node: Node, delay: float) -> None:
    """Start the node, and cut its power `delay` seconds after etcd creates its first WAL file."""
    node.start()
    while not the_wal(node).exists():
        pass
    time.sleep(delay)
    node.cut_power()


def remove(cluster: Miniature, via: Node, gone: Node) -> None:
    """Remove a member, as an operator would. etcd allows this only after all other members are connected for 5 s."""
    (member,) = (m for m in cluster.members(via) if m.get("name") == gone.plan.name)
    command = ("member", "remove", f"{member['ID']:x}")
    cluster.wait(lambda: "removed" in cluster.etcdctl(via, *command, check=False), 15, "it is removed")


def test_a_power_cut_of_all_nodes_loses_nothing(trio: Miniature) -> None:
    trio.etcdctl(trio.nodes[0], "put", "key", "kept")
    before = trio.members(trio.nodes[0])
    for node in trio.nodes:
        node.cut_power()
        node.records.clear()
    trio.start()
    trio.wait_all_voting(20)
    assert trio.members(trio.nodes[0]) == before
    assert all("kept" in trio.etcdctl(node, "get", "key") for node in trio.nodes)
    for node in trio.nodes:  # "waiting": etcd-promote tries again
        assert {*node.phases()} - {"waiting"} == {"voting"}, "members that are back ask nobody"


def test_a_voter_that_lost_its_disk_is_replaced_by_its_own_hook(trio: Miniature) -> None:
    """The most important case is the first node, because its seed still permits it to start a new cluster."""
    first, second, _ = trio.nodes
    before, cluster_id = ids(trio, second), trio.cluster_ids()
    trio.etcdctl(second, "put", "key", "kept")
    first.wipe()
    first.start()
    trio.wait_all_voting(40)
    assert trio.cluster_ids() == cluster_id
    assert "kept" in trio.etcdctl(first, "get", "key")
    after = ids(trio, second)
    assert after.pop("etcd1") != before.pop("etcd1")
    assert after == before


def test_a_lost_voter_is_not_replaced_while_another_is_down(trio: Miniature) -> None:
    first, second, third = trio.nodes
    before = ids(trio, second)
    third.cut_power()
    first.wipe()
    first.start()
    trio.wait(lambda: first.says("no member answers"), 30, "the wiped node waits")
    assert not first.data_dir.exists()
    third.start()
    trio.wait_all_voting(40)
    assert before["etcd2"] == ids(trio, second)["etcd2"]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_wiped_first_node_starts_no_second_cluster_while_all_others_are_off(trio: Miniature, sealed: bool) -> None:
    first, *others = trio.nodes
    cluster_id = trio.cluster_ids()
    trio.etcdctl(first, "put", "key", "kept")
    for node in trio.nodes:
        node.cut_power()
    if sealed:
        first.seal()
    first.wipe()
    first.start()
    why = "no bootstrap permit" if sealed else "to confirm that their disks are empty"
    trio.wait(lambda: first.says(why), 10, "the wiped node says why it waits")
    time.sleep(3)
    assert not first.data_dir.exists()
    for node in others:
        node.start()
    trio.wait_all_voting(40)
    assert trio.cluster_ids() == cluster_id
    assert "kept" in trio.etcdctl(first, "get", "key")


def test_a_first_node_starts_nothing_before_every_other_has_said_that_it_is_empty(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(3)
    first, second, third = cluster.nodes
    cluster.start([first, second])
    cluster.wait(lambda: first.says("waiting for etcd3 to confirm"), 10, "it waits for the third")
    time.sleep(2)
    assert not first.data_dir.exists()
    third.start()
    cluster.wait_all_voting(30)


def test_a_stranger_at_the_peer_port_is_not_taken_for_an_empty_node(cluster_of: ClusterOf) -> None:
    """A node of another cluster uses an address of the plan. Its certificate is from another CA."""
    cluster, other = cluster_of(2), cluster_of(2)
    stranger, address = other.nodes[1], cluster.nodes[1].plan
    env = stranger.root / "etc/etcd/bake.env"
    env.write_text(env.read_text().replace(stranger.plan.peer_url, address.peer_url))
    with stranger.waiting_empty():
        cluster.start([cluster.nodes[0]])
        cluster.wait(lambda: cluster.nodes[0].says("waiting for etcd2"), 10, "it rejects the other cluster")
        time.sleep(2)
        assert not cluster.nodes[0].data_dir.exists()


def test_a_removed_member_ends_and_stays_out(pair: Miniature) -> None:
    first, gone = pair.nodes
    gone.start()
    pair.wait_all_voting(20)
    remove(pair, first, gone)
    gone.cut_power()
    gone.start()
    pair.wait(lambda: not gone.running(), 30, "the removed member's unit ends")
    assert len(pair.members(first)) == 1


def test_a_removed_member_stays_out_without_its_disk_too_until_an_operator_lets_it_in(pair: Miniature) -> None:
    first, gone = pair.nodes
    gone.start()
    pair.wait_all_voting(20)
    remove(pair, first, gone)
    gone.wipe()
    gone.start()
    pair.wait(lambda: gone.says("was removed from the cluster"), 20, "it says that it was removed")
    time.sleep(2)
    assert len(pair.members(first)) == 1
    pair.etcdctl(first, "del", "bake/members/etcd2")
    pair.wait_all_voting(20)


def test_a_node_that_was_cut_off_while_it_replaced_itself_comes_back(trio: Miniature) -> None:
    """The node has removed its lost entry, and stops before it can add itself again."""
    first, second, _ = trio.nodes
    first.wipe()
    note = ("put", "bake/members/etcd1", "replacing")
    trio.wait(lambda: "OK" in trio.etcdctl(second, *note, check=False), 20, "a leader is elected")
    remove(trio, second, first)
    first.start()
    trio.wait_all_voting(40)


def test_a_joiner_stopped_between_add_and_start_takes_its_entry(pair: Miniature) -> None:
    first, second = pair.nodes
    second.join_only()
    (added,) = (m["ID"] for m in pair.members(first) if not m.get("name"))
    second.cut_power()
    second.start()
    pair.wait_all_voting(20)
    assert added in {m["ID"] for m in pair.members(first)}


def test_a_voter_stopped_between_add_and_start_still_joins(cluster_of: ClusterOf) -> None:
    """After `member add`, the first node has no quorum and does not answer."""
    pair = cluster_of(2, join=JoinMode.VOTER)
    first, second = pair.nodes
    pair.start_first()
    second.join_only()
    second.cut_power()
    assert pair.members_now(first) == []
    second.start()
    pair.wait_all_voting(40)


def test_a_learner_that_lost_its_disk_is_replaced(pair: Miniature) -> None:
    first, second = pair.nodes
    second.promotes = False
    second.start()
    pair.wait(lambda: {"etcd2"} & {m.get("name") for m in pair.members(first)}, 20, "the learner has started")
    (lost,) = (m["ID"] for m in pair.members(first) if m.get("name") == "etcd2")
    second.wipe()
    second.promotes = True
    second.start()
    pair.wait_all_voting(30)
    assert lost not in {m["ID"] for m in pair.members(first)}


def test_an_unfinished_first_start_is_begun_again_and_kept_aside(cluster_of: ClusterOf) -> None:
    """The kill must come within two milliseconds. Later, etcd's log contains a member, and etcd uses this log."""
    cluster = cluster_of(1)
    (node,) = cluster.nodes
    aside = node.data_dir.parent / "etcd.unfinished-1/member/wal"
    for _ in range(20):
        kill_after_wal(node, 0)
        assert the_wal(node).exists()
        node.start()
        cluster.wait_all_voting(20)
        if aside.exists():
            return
        node.wipe()
    pytest.fail("no unfinished first start was set aside in 20 trials")


# A second voter takes seven seconds to create its log, because it asks the first node, which has no quorum until then.
@pytest.mark.parametrize(("join", "trials"), [(JoinMode.LEARNER, 5), (JoinMode.VOTER, 1)])
def test_kills_around_the_first_log_never_leave_a_node_behind(
    cluster_of: ClusterOf, join: JoinMode, trials: int
) -> None:
    """Kills in the first 30 ms cover all cases: etcd's log has no member, the log has a member, or the member runs."""
    chance = random.Random(1)  # noqa: S311
    clusters = [cluster_of(2, join=join) for _ in range(trials)]
    for place in (0, 1):
        with ExitStack() as others:
            for other in (cluster.nodes[1] for cluster in clusters if place == 0):
                others.enter_context(other.waiting_empty())
            for node in (cluster.nodes[place] for cluster in clusters):
                kill_after_wal(node, chance.uniform(0, 0.03))
            for cluster in clusters:
                cluster.nodes[place].start()
            for cluster in clusters:
                cluster.wait(cluster.nodes[place].votes, 40, "it votes")
    for cluster in clusters:
        cluster.wait_all_voting(10)
