"""What the members say: of each other, of their data, of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from generator.etcd.answers import LEASE_SECONDS, Member, NodeView, Observation
from generator.health.check import Check, check
from generator.plan import ClusterPlan, NodePlan

SHOWN_KEYS = 5


def member_list(seen: Observation) -> Check:
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
    return check("member list", names, failed=failed, remedy="look at the nodes' logs: bake console NODE")


def _answers(view: NodeView, error: str | None) -> bool:
    """Whether a node has an error of its own: one that tells nothing at all fails the endpoint's health."""
    return error is not None and view.status.value is not None


def endpoint_health(seen: Observation) -> Check:
    failed = [(view.node.name, view.health.error) for view in seen.nodes if view.health.error]
    times = ", ".join(f"{view.node.name} {(view.health.value or 0) * 1000:.0f} ms" for view in seen.nodes)
    remedy = "bake status; is the node running, and its etcd? bake console NODE"
    return check("endpoint health", times, failed=failed, remedy=remedy)


def all_keys(seen: Observation) -> Check:
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
    remedy = "a learner is promoted when it has caught up; remove a stranger with: etcdctl member remove ID"
    return check(
        "planned members", f"{len(members)} of {len(plan.nodes)} voting", failed=failed, remedy=remedy
    )


def _membership(node: NodePlan, members: Iterable[Member]) -> Iterator[str]:
    """What is wrong with a node's entry in the member list."""
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
            yield f"has the {word} {is_!r}, planned is {planned!r}"


def one_cluster(seen: Observation) -> Check:
    told = [(view.node.name, view.status.value) for view in seen.nodes if view.status.value]
    failed = [(name, error) for name, status in told for error in status.errors]
    failed += [(name, "sees no leader") for name, status in told if not status.leader and not status.errors]
    for word, values in (
        ("is of the cluster", {name: status.cluster_id for name, status in told}),
        ("follows the leader", {name: status.leader for name, status in told if status.leader}),
    ):
        if len(set(values.values())) > 1:
            failed += [(name, f"{word} {value:x}") for name, value in values.items()]
    unknown = [(view.node.name, view.status.error) for view in seen.nodes if view.status.error]
    leader = next(
        (name for name, status in told if status.leader == status.member_id), "none of the plan's nodes"
    )
    good = f"cluster {told[0][1].cluster_id:x}, leader {leader}" if told else ""
    remedy = "wait for the election and verify again; two cluster ids mean two clusters"
    return check("one cluster", good, failed=failed, unknown=unknown, remedy=remedy)


def no_alarms(seen: Observation) -> Check:
    lists = [view.alarms.value for view in seen.nodes if view.alarms.value is not None]
    names = {view.status.value.member_id: view.node.name for view in seen.nodes if view.status.value}
    raised = {
        (names.get(alarm.member_id, f"{alarm.member_id:x}"), alarm.kind)
        for alarms in lists
        for alarm in alarms
    }
    unknown = [] if lists else [("", "no node tells its alarms")]
    remedy = "NOSPACE: compact, defragment, then etcdctl alarm disarm; CORRUPT: replace the member"
    return check("alarms", "none", failed=sorted(raised), unknown=unknown, remedy=remedy)


def users_alone(seen: Observation) -> Check:
    """Whether only users do anything, where that is planned."""
    failed = [] if seen.auth.value or seen.auth.error else [("", "is off")]
    failed += [(name, "lets a certificate that is no user's read") for name, one in seen.nobody.items() if one.value]
    unknown = [("", seen.auth.error)] if seen.auth.error else []
    unknown += [(name, one.error) for name, one in seen.nobody.items() if one.error and _DENIED not in one.error]
    unknown += [] if seen.nobody else [("", "nothing was tried: no node answers")]
    good = f"on, and who is no user reads nothing through {', '.join(seen.nobody)}"
    remedy = "is etcd-promote.service done? bake console NODE; switched off by hand: etcdctl auth enable"
    return check("auth", good, failed=failed, unknown=unknown, remedy=remedy)


_DENIED = "permission denied"


def write_and_read(seen: Observation) -> Check:
    errors = {view.node.name: seen.writes.get(view.node.name, view.health.error) for view in seen.nodes}
    failed = [(name, error) for name, error in errors.items() if error]
    warning = (
        [("", f"the trial's keys are left for {LEASE_SECONDS} s: {seen.left_behind}")]
        if seen.left_behind
        else []
    )
    good = f"through {', '.join(errors)}"
    return check(
        "write and read", good, failed=failed, warning=warning, remedy="see: endpoint health, alarms"
    )


def equal_data(seen: Observation) -> Check:
    told = {name: one.value for name, one in seen.hashes.items() if one.value}
    failed = [(name, one.error) for name, one in seen.hashes.items() if one.error]
    unknown = [
        (view.node.name, view.health.error or "") for view in seen.nodes if view.node.name not in seen.hashes
    ]
    if len({one.compact_revision for one in told.values()}) > 1:
        unknown += [("", "a compaction is running")]
    elif len({one.hash for one in told.values()}) > 1:
        failed += [(name, f"has the digest {one.hash:08x}") for name, one in told.items()]
    good = f"digest {next(iter(told.values())).hash:08x} on all" if told else ""
    remedy = "verify again; if it stays, replace the member that differs from the majority"
    return check("equal data", good, failed=failed, unknown=unknown, remedy=remedy)
