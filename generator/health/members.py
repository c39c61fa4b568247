"""Checks of `bake verify` that use etcd's answers: members, health, keys, alarms, auth, writes and data.

For the commands in remedies, see `check.with_commands`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from generator.etcd.answers import LEASE_SECONDS, Member, Observation
from generator.health.check import Check, Finding, Result, combine
from generator.plan import ClusterPlan, NodePlan

SHOWN_KEYS = 5


def member_list(seen: Observation) -> Check:
    """Check that every node returns the same member list."""
    lists = [(view.node.name, view.members.value) for view in seen.nodes if view.members.value is not None]
    findings = [
        Finding(view.node.name, Result.FAILED, view.members.error or "")
        for view in seen.nodes
        # The check endpoint_health reports a node that does not answer at all.
        if not lists or (view.members.error is not None and view.status.value is not None)
    ]
    findings += [
        Finding(name, Result.FAILED, f"lists other members than {lists[0][0]}")
        for name, members in lists
        if set(members) != set(lists[0][1])
    ]
    names = ", ".join(member.name or "(not started)" for member in lists[0][1]) if lists else ""
    return combine("member list", findings, ok_detail=names, remedy="read the nodes' logs: {bake console NODE}")


def endpoint_health(seen: Observation) -> Check:
    """Check that a linearizable read through every node succeeds."""
    findings = [Finding(view.node.name, Result.FAILED, view.health.error) for view in seen.nodes if view.health.error]
    times = ", ".join(f"{view.node.name} {(view.health.value or 0) * 1000:.0f} ms" for view in seen.nodes)
    remedy = "check that the node and its etcd run: {bake status}, {bake console NODE}"
    return combine("endpoint health", findings, ok_detail=times, remedy=remedy)


def all_keys(seen: Observation) -> Check:
    """Check that at least one node answers a request for all keys."""
    keys, remedy = seen.keys.value, "the cluster needs a majority of its members"
    if keys is None:
        return combine("all keys", [Finding("", Result.FAILED, seen.keys.error or "")], remedy=remedy)
    names = [ascii(item.key.decode(errors="replace"))[1:-1] for item in keys.items[:SHOWN_KEYS]]
    more = ", …" if keys.count > SHOWN_KEYS else ""
    ok_detail = f"{keys.count} key{'' if keys.count == 1 else 's'}"
    ok_detail += f": {', '.join(names)}{more}" if names else ""
    return combine("all keys", [], ok_detail=ok_detail, remedy=remedy)


def planned_members(plan: ClusterPlan, seen: Observation) -> Check:
    """Check that etcd's members are exactly the planned nodes. Each member must have started and must be voting."""
    members = next((view.members.value for view in seen.nodes if view.members.value is not None), None)
    if members is None:
        unknown = [Finding("", Result.SKIPPED, "no member list")]
        return combine("planned members", unknown, remedy="see the check `member list`")
    planned = {node.peer_url for node in plan.nodes}
    findings = [Finding(node.name, Result.FAILED, text) for node in plan.nodes for text in _differences(node, members)]
    for member in members:
        if not planned & set(member.peer_urls):
            text = f"{member.name or 'a member'} ({member.id:x}, {', '.join(member.peer_urls)}) is not in the plan"
            findings.append(Finding("", Result.FAILED, text))
    ok_detail = f"{len(members)} of {len(plan.nodes)} voting"
    remedy = "wait until a learner becomes a voter; if a member is not in the plan, "
    remedy += "run {bake etcdctl} member remove ID"
    return combine("planned members", findings, ok_detail=ok_detail, remedy=remedy)


def _differences(node: NodePlan, members: Iterable[Member]) -> Iterator[str]:
    """Yield each difference between a planned node and its entry in etcd's member list."""
    found = next((member for member in members if node.peer_url in member.peer_urls), None)
    if found is None:
        yield "is not a member"
        return
    if found.is_learner:
        yield "is still a learner"
    if not found.started:
        yield "has not started"
        return
    for word, actual, planned in (
        ("name", found.name, node.name),
        ("peer URL", " ".join(found.peer_urls), node.peer_url),
        ("client URL", " ".join(found.client_urls), node.client_url),
    ):
        if actual != planned:
            yield f"has the {word} {actual!r}, the plan has {planned!r}"


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
    findings = [Finding(name, Result.FAILED, text) for name, text in failed]
    findings += [Finding(view.node.name, Result.SKIPPED, view.status.error) for view in seen.nodes if view.status.error]
    leader = next((name for name, status in states if status.leader == status.member_id), "none of the plan's nodes")
    ok_detail = f"cluster {states[0][1].cluster_id:x}, leader {leader}" if states else ""
    remedy = "wait for the election and run {bake verify} again; two cluster ids mean two clusters"
    return combine("one cluster", findings, ok_detail=ok_detail, remedy=remedy)


def no_alarms(seen: Observation) -> Check:
    """Check that no alarm is active."""
    lists = [view.alarms.value for view in seen.nodes if view.alarms.value is not None]
    names = {view.status.value.member_id: view.node.name for view in seen.nodes if view.status.value}
    active = {(names.get(alarm.member_id, f"{alarm.member_id:x}"), alarm.kind) for alarms in lists for alarm in alarms}
    findings = [Finding(node, Result.FAILED, kind) for node, kind in sorted(active)]
    if not lists:
        findings = [Finding("", Result.SKIPPED, "could not read alarms from any node")]
    return combine("alarms", findings, ok_detail="none", remedy="run {bake alarm}, which shows the remedy")


_DENIED = "permission denied"


def auth_enforced(seen: Observation) -> Check:
    """Check that auth is on. Check that a client without an etcd user cannot read keys."""
    findings = []
    if seen.auth.error:
        findings.append(Finding("", Result.SKIPPED, seen.auth.error))
    elif not seen.auth.value:
        findings.append(Finding("", Result.FAILED, "is off"))
    for name, read in seen.without_user.items():
        if read.value:
            findings.append(Finding(name, Result.FAILED, "lets a client without a user read"))
        elif read.error and _DENIED not in read.error:
            findings.append(Finding(name, Result.SKIPPED, read.error))
    if not seen.without_user:
        findings.append(Finding("", Result.SKIPPED, "not tried, because no node answers"))
    ok_detail = f"auth is on; a client without a user cannot read ({', '.join(seen.without_user)})"
    remedy = "to see why etcd-promote.service did not enable auth, run {bake logs NODE --unit etcd-promote}; "
    remedy += "if you have disabled auth, run {bake etcdctl} auth enable"
    return combine("auth", findings, ok_detail=ok_detail, remedy=remedy)


def write_and_read(seen: Observation) -> Check:
    """Check that every node can write a key, and that every node returns the keys of all nodes."""
    errors = {view.node.name: seen.writes.get(view.node.name, view.health.error) for view in seen.nodes}
    findings = [Finding(name, Result.FAILED, error) for name, error in errors.items() if error]
    if seen.left_behind:
        text = f"bake's test keys remain for {LEASE_SECONDS} s because their deletion failed: {seen.left_behind}"
        findings.append(Finding("", Result.WARNING, text))
    ok_detail = f"through {', '.join(errors)}"
    remedy = "see the checks `endpoint health` and `alarms`"
    return combine("write and read", findings, ok_detail=ok_detail, remedy=remedy)


def equal_data(seen: Observation) -> Check:
    """Check that the digest of the data is the same on all members."""
    digests = {name: one.value for name, one in seen.hashes.items() if one.value}
    findings = [Finding(name, Result.FAILED, one.error) for name, one in seen.hashes.items() if one.error]
    findings += [
        Finding(view.node.name, Result.SKIPPED, view.health.error or "")
        for view in seen.nodes
        if view.node.name not in seen.hashes
    ]
    if len({one.compact_revision for one in digests.values()}) > 1:
        findings.append(Finding("", Result.SKIPPED, "a compaction is running"))
    elif len({one.hash for one in digests.values()}) > 1:
        findings += [Finding(name, Result.FAILED, f"has the digest {one.hash:08x}") for name, one in digests.items()]
    ok_detail = f"digest {next(iter(digests.values())).hash:08x} on all" if digests else ""
    remedy = "run {bake verify} again; if it still fails, replace the member that differs from the majority"
    return combine("equal data", findings, ok_detail=ok_detail, remedy=remedy)
