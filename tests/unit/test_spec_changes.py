"""The changes between a cluster and a new spec: their levels, and the changes that no running cluster can apply."""

from __future__ import annotations

from typing import Any

import pytest

from generator.change.spec_changes import Change, Kind, compare, file_changes, refused, shown
from generator.config.field_levels.cases import release
from generator.config.fields import plain
from generator.config.placement import with_peer_defaults
from generator.config.spec import ClusterSpec, read_spec
from generator.config.user_input import ExistingCluster
from generator.level import Level
from tests.unit.levels import highest_level

Fields = dict[str, Any]
ABC = [{"name": name} for name in "abc"]


def spec_of(fields: Fields) -> ClusterSpec:
    spec, wrong = read_spec(fields)
    assert wrong == []
    return with_peer_defaults(spec)


def changes(old: Fields, new: Fields, *, sealed: bool = True, **more: Any) -> tuple[Change, ...]:
    values: dict[str, Any] = {
        "where": "out/etcd", "digest": "", "value": plain(spec_of(old)), "origins": {}, "user_input": None,
        "input_origins": {}, "nodes": frozenset(), "has_requests": False, "sealed": sealed, "is_known": True,
    }  # fmt: skip
    return compare(ExistingCluster(**values | more), spec_of(new))


def levels(old: Fields, new: Fields) -> dict[str, Level | None]:
    return {str(change): change.level for change in changes(old, new)}


def placed(*names: str) -> Fields:
    """Return nodes with an address and a MAC that do not depend on the order."""
    numbers = {name: ord(name) for name in names}
    return {
        "nodes": [
            {"name": name, "address": f"192.168.20.{number}", "mac": f"52:54:00:00:00:{number:x}"}
            for name, number in numbers.items()
        ]
    }


def test_a_new_cluster_has_no_changes() -> None:
    assert compare(None, spec_of({})) == ()


def test_each_change_has_the_level_of_its_field() -> None:
    old = {"etcd": {"options": {"pre-vote": True}}}
    new = {"nodes": 4, "auth": {"enabled": True, "users": [{"name": "app"}]}, "vm": {"memory": 2048}}
    assert levels(old, new) == {
        "+ node etcd4: 192.168.20.34": Level.LIVE,
        "+ user app": Level.LIVE,
        "- etcd.options.pre-vote: true": Level.RESTART,
        "~ auth.enabled: false → true": Level.RESTART,
        "~ auth.users": Level.LIVE,
        "~ vm.memory: 1024 → 2048": Level.REBOOT,
    }
    assert highest_level(changes(old, new)) is Level.REBOOT
    assert refused(changes(old, new)) == []


def test_levels_are_shown_and_are_data() -> None:
    (change,) = changes({}, {"pki": {"leafDays": 90}})
    assert shown([change]) == ["~ pki.leafDays: 365 → 90 [live]"]
    assert change.data == {
        "change": "~", "kind": "field", "name": "pki.leafDays", "old": 365, "new": 90, "level": "live", "lost": None,
    }  # fmt: skip


def test_levels_come_before_losses_and_notes() -> None:
    (node,) = changes({"nodes": 2}, {"nodes": 1})
    assert shown([node]) == ["- node etcd2: 192.168.20.32 [live] (its keys are deleted)"]
    stated = {"pki": {"peerName": "stated"}}
    (field,) = changes(stated, {"pki": {"peerName": "required"}})
    assert shown([field])[0].startswith("~ pki.peerName: stated → required [restart] (run `bake certs rotate`; ")
    shared = {"auth": True, "pki": {"peerName": "none", "certificates": "shared"}}
    (field,) = changes(shared, {"auth": True, "pki": {"peerName": "none"}})
    assert "first add each node to etcd" in field.note
    assert refused([field]) == []


def test_files_have_no_level() -> None:
    (file,) = file_changes([("~", "etcd1/user-data"), ("~", "manifest.json")])
    assert (file.level, shown([file])) == (None, ["~ etcd1/: user-data"])
    assert "level" not in file.data
    assert highest_level([file]) is Level.NONE


def test_a_cluster_that_is_not_sealed_has_no_levels() -> None:
    """None of its nodes has started, so bake can still change everything."""
    found = changes({}, {"nodes": 4, "etcd": {"peerPort": 4000}}, sealed=False)
    assert [change.level for change in found] == [None, None]
    assert (refused(found), highest_level(found)) == ([], Level.NONE)
    assert shown(found) == ["+ node etcd4: 192.168.20.34", "~ etcd.peerPort: 2380 → 4000"]


def test_changes_of_an_unknown_spec_have_no_level() -> None:
    lost, file = changes({}, {"nodes": 1}, value={}, nodes=frozenset({"etcd1", "etcd2"}), is_known=False)
    assert (str(lost), lost.level, lost.lost) == ("- node etcd2", None, "its keys are deleted")
    assert (file.kind, file.name, file.level) == (Kind.FILE, "cluster.yaml", None)


def test_keys_of_a_node_outside_the_spec_are_lost() -> None:
    (lost,) = changes({}, {}, nodes=frozenset({"etcd1", "etcd9"}))
    assert (str(lost), lost.level, lost.lost) == ("- node etcd9", None, "its keys are deleted")


# --- nodes --------------------------------------------------------------------------------------------------


def test_nodes_with_fixed_addresses_come_and_go_at_any_place() -> None:
    assert levels(placed("b", "c"), placed("a", "c")) == {
        "- node b: 192.168.20.98": Level.LIVE,
        "+ node a: 192.168.20.97": Level.LIVE,
    }


def test_another_order_is_a_change() -> None:
    assert levels(placed("a", "b", "c"), placed("c", "a")) == {
        "- node b: 192.168.20.98": Level.LIVE,
        "~ nodes: a, c → c, a": Level.LIVE,
    }


def test_a_node_that_moves_because_another_node_leaves_is_refused() -> None:
    found = changes({"nodes": ABC}, {"nodes": [ABC[0], ABC[2]]})
    assert [(change.part, change.level) for change in found if change.name == "c"] == [
        ("address", Level.REFUSED), ("mac", Level.REBOOT),
    ]  # fmt: skip
    (problem,) = refused(found)
    assert (problem.where, problem.message) == (
        "nodes[].address",
        "c: 192.168.20.33 → 192.168.20.32, but members know each other by their URLs",
    )
    assert "to keep the old address, set it in `nodes`" in str(problem.hint)


def test_a_renamed_node_is_refused() -> None:
    found = changes({"nodes": 3}, {"nodes": [{"name": "etcd1"}, {"name": "etcd2"}, {"name": "db3"}]})
    assert [(str(change), change.level) for change in found] == [
        ("- node etcd3: 192.168.20.33", Level.LIVE),
        ("+ node db3: 192.168.20.33", Level.REFUSED),
    ]
    (problem,) = refused(found)
    assert (problem.where, problem.message) == ("nodes[].name", "etcd3 → db3, but a member keeps its name")
    assert problem.hint == "remove the node, then add it under its new name in a second change"


# --- refused changes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "where", "message", "hint"),
    [
        ({}, {"etcd": {"peerPort": 4000}}, "etcd.peerPort", "2380 → 4000, but members", "another --name"),
        ({}, {"etcd": {"dataDir": "/var/lib/etcd/x"}}, "etcd.dataDir", "/var/lib/etcd/etcd → /var", "make-mirror"),
        ({}, {"network": {"mode": "isolated"}}, "network.mode", "nat → isolated, but running VMs", "bake down"),
        ({}, {"network": {"gateway": "192.168.20.9"}}, "network.gateway", "unset → 192.168.20.9, but", "bake down"),
        ({"auth": True}, {}, "auth.enabled", "true → false, but a node", "etcdctl auth disable"),
        ({"etcd": {"version": "3.6"}}, {}, "etcd.version", "3.6 → 3.5, but an older etcd", "another --name"),
        ({}, {"pki": {"domain": "example.org"}}, "pki.domain", "unset → example.org, but the CA", "another --name"),
        ({}, {"pki": {"peerName": "none"}}, "pki.peerName", "required → none, but members", "`stated`"),
    ],
)
def test_a_refused_change_says_why_and_names_the_way(
    old: Fields, new: Fields, where: str, message: str, hint: str
) -> None:
    (problem,) = refused(changes(old, new))
    assert problem.where == where
    assert problem.message.startswith(message)
    assert hint in str(problem.hint)


def test_refused_changes_are_shown_with_the_way() -> None:
    (line,) = shown(changes({}, {"network": {"mode": "isolated"}}))
    assert line.startswith("~ network.mode: nat → isolated [refused] (running VMs and containers keep")
    assert "; run `bake down`, " in line
    (line,) = shown(changes({}, {"etcd": {"peerPort": 4000}}))
    assert "[refused] (members know each other by their URLs; create a new cluster with another --name" in line


def test_refused_changes_are_listed_together() -> None:
    found = changes({}, {"etcd": {"peerPort": 4000, "clientPort": 4001}, "vm": {"cpus": 2}})
    assert [problem.where for problem in refused(found)] == ["etcd.clientPort", "etcd.peerPort"]


def test_bake_writes_a_refused_change_only_if_the_way_needs_new_seeds() -> None:
    written = [{"network": {"mode": "isolated"}}, {"network": {"gateway": "192.168.20.254"}}]
    assert [refused(changes({}, new), by_bake=True) for new in written] == [[], []]
    assert refused(changes({"auth": True}, {}), by_bake=True) == []
    port = {"etcd": {"peerPort": 4000}}
    assert [problem.where for problem in refused(changes({}, port), by_bake=True)] == ["etcd.peerPort"]
    assert refused(changes({}, port, sealed=False), by_bake=True) == []


def test_versions_compare_as_numbers() -> None:
    assert release("3.10") > release("3.9") > release("3.6")
    (older,) = changes({"etcd": {"version": "3.6"}}, {})
    (newer,) = changes({}, {"etcd": {"version": "3.6"}})
    assert (older.level, newer.level) == (Level.REFUSED, Level.REPLACE)
