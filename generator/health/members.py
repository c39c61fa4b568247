"""Checks on etcd's answers: members, health, keys, alarms, auth, writes and data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from generator.etcd.answers import LEASE_SECONDS, Member, NodeView, Observation
from generator.health.check import Check, check
from generator.plan import ClusterPlan, NodePlan

SHOWN_KEYS = 5


def member_list(seen: Observation) -> Check:
    """Check that every node returns the same member list."""
    lists = [(view.node.name, view.members.value) for view in seen.nodes if view.members.value is not None]
    failed = [
        (view.node.name, view.members.error or "")
        for view in seen.nodes
        if _answers(view, view.members.error)
    ]
    failed += [
        (name, f"lists other members than {lists[0][0]}")
        for name, one in lists
        if set(one) != set(lists[0][1])
    ]
    if not lists:
        failed = [(view.node.name, view.members.error or "") for view in seen.nodes]
    names = ", ".join(member.name or "(not started)" for member in lists[0][1]) if lists else ""
    return check("member list", names, failed=failed, remedy="read the nodes' logs: bake console NODE")


def _answers(view: NodeView, error: str | None) -> bool:
    """Whether only this call failed; a node that does not answer at all fails the check of the endpoint's health."""
    return error is not None and view.status.value is not None


def endpoint_health(seen: Observation) -> Check:
    """Check that a linearizable read through every node succeeds."""
    failed = [(view.node.name, view.health.error) for view in seen.nodes if view.health.error]
    times = ", ".join(f"{view.node.name} {(view.health.value or 0) * 1000:.0f} ms" for view in seen.nodes)
    remedy = "check that the node and its etcd run: bake status, bake console NODE"
    return check("endpoint health", times, failed=failed, remedy=remedy)


def all_keys(seen: Observation) -> Check:
    """Check that the keys can be listed."""
    keys = seen.keys.value
    failed = [("", seen.keys.error)] if seen.keys.error else []
    shown = (
        ", ".join(ascii(item.key.decode(errors="replace"))[1:-1] for item in keys.items[:SHOWN_KEYS])
        if keys
        else ""
    )
    more = ", …" if keys and keys.count > SHOWN_KEYS else ""
    count = keys.count if keys else 0
    good = f"{count} key{'' if count == 1 else 's'}" + (f": {shown}{more}" if shown else "")
    return check("all keys", good, failed=failed, remedy="the cluster needs a majority of its members")


def planned_members(plan: ClusterPlan, seen: Observation) -> Check:
    """Check that the members are exactly the plan's nodes, started and voting."""
    members = next((view.members.value for view in seen.nodes if view.members.value is not None), None)
    if members is None:
        return check("planned members", "", unknown=[("", "no member list")], remedy="see: member list")
    planned = {node.peer_url for node in plan.nodes}
    failed = [(node.name, text) for node in plan.nodes for text in _membership(node, members)]
    failed += [
        ("", f"{member.name or 'a member'} ({member.id:x}, {', '.join(member.peer_urls)}) is not in the plan")
        for member in members
        if not planned & set(member.peer_urls)
    ]
    remedy = "a learner is promoted when it has caught up; remove an unplanned member: etcdctl member remove ID"
    return check(
        "planned members", f"{len(members)} of {len(plan.nodes)} voting", failed=failed, remedy=remedy
    )


def _membership(node: NodePlan, members: Iterable[Member]) -> Iterator[str]:
    """Yield what is wrong with a node's entry in the member list."""
    found = next((member for member in members if node.peer_url in member.peer_urls), None)
    if found is None:
        yield "is not a member"
        return
    if found.is_learner:
        yield "is still a learner"
    if not found.started:
        yield "has not started"
        return
    for word, is_, planned in (
        ("name", found.name, node.name),
        ("peer URL", " ".join(found.peer_urls), node.peer_url),
        ("client URL", " ".join(found.client_urls), node.client_url),
    ):
        if is_ != planned:
            yield f"has the {word} {is_!r}, the plan has {planned!r}"


def one_cluster(seen: Observation) -> Check:
    """Check that all nodes are in the same cluster and follow the same leader."""
    states = [(view.node.name, view.status.value) for view in seen.nodes if view.status.value]
    failed = [(name, error) for name, status in states for error in status.errors]
    failed += [(name, "sees no leader") for name, status in states if not status.leader and not status.errors]
    for word, values in (
        ("is in the cluster", {name: status.cluster_id for name, status in states}),
        ("follows the leader", {name: status.leader for name, status in states if status.leader}),
    ):
        if len(set(values.values())) > 1:
            failed += [(name, f"{word} {value:x}") for name, value in values.items()]
    unknown = [(view.node.name, view.status.error) for view in seen.nodes if view.status.error]
    leader = next(
        (name for name, status in states if status.leader == status.member_id), "none of the plan's nodes"
    )
    good = f"cluster {states[0][1].cluster_id:x}, leader {leader}" if states else ""
    remedy = "wait for the election and run bake verify again; two cluster ids mean two clusters"
    return check("one cluster", good, failed=failed, unknown=unknown, remedy=remedy)


def no_alarms(seen: Observation) -> Check:
    """Check that no alarm is active."""
    lists = [view.alarms.value for view in seen.nodes if view.alarms.value is not None]
    names = {view.status.value.member_id: view.node.name for view in seen.nodes if view.status.value}
    raised = {
        (names.get(alarm.member_id, f"{alarm.member_id:x}"), alarm.kind)
        for alarms in lists
        for alarm in alarms
    }
    unknown = [] if lists else [("", "could not read alarms from any node")]
    remedy = "NOSPACE: compact, defragment, then etcdctl alarm disarm; CORRUPT: replace the member"
    return check("alarms", "none", failed=sorted(raised), unknown=unknown, remedy=remedy)


def auth_enforced(seen: Observation) -> Check:
    """Check that auth is on and a certificate without a user reads nothing."""
    failed = [] if seen.auth.value or seen.auth.error else [("", "is off")]
    failed += [(name, "lets a certificate without a user read") for name, one in seen.without_user.items() if one.value]
    unknown = [("", seen.auth.error)] if seen.auth.error else []
    unknown += [(name, one.error) for name, one in seen.without_user.items() if one.error and _DENIED not in one.error]
    unknown += [] if seen.without_user else [("", "not tried, because no node answers")]
    good = f"auth is on; a certificate without a user reads nothing ({', '.join(seen.without_user)})"
    remedy = "check etcd-promote.service: bake console NODE; if auth was disabled by hand: etcdctl auth enable"
    return check("auth", good, failed=failed, unknown=unknown, remedy=remedy)


_DENIED = "permission denied"


def write_and_read(seen: Observation) -> Check:
    """Check that a key written through each node is read through every node."""
    errors = {view.node.name: seen.writes.get(view.node.name, view.health.error) for view in seen.nodes}
    failed = [(name, error) for name, error in errors.items() if error]
    warning = (
        [("", f"the keys of this check remain for {LEASE_SECONDS} s: {seen.left_behind}")]
        if seen.left_behind
        else []
    )
    good = f"through {', '.join(errors)}"
    return check(
        "write and read", good, failed=failed, warning=warning, remedy="see: endpoint health, alarms"
    )


def equal_data(seen: Observation) -> Check:
    """Check that all members have the same digest of their data."""
    digests = {name: one.value for name, one in seen.hashes.items() if one.value}
    failed = [(name, one.error) for name, one in seen.hashes.items() if one.error]
    unknown = [
        (view.node.name, view.health.error or "") for view in seen.nodes if view.node.name not in seen.hashes
    ]
    if len({one.compact_revision for one in digests.values()}) > 1:
        unknown += [("", "a compaction is running")]
    elif len({one.hash for one in digests.values()}) > 1:
        failed += [(name, f"has the digest {one.hash:08x}") for name, one in digests.items()]
    good = f"digest {next(iter(digests.values())).hash:08x} on all" if digests else ""
    remedy = "run bake verify again; if it still fails, replace the member that differs from the majority"
    return check("equal data", good, failed=failed, unknown=unknown, remedy=remedy)
