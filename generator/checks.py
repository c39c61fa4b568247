"""What a healthy cluster looks like: pure judgements on what `host.observe` saw, one named check each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from generator.host.etcd import Member
from generator.host.observe import LEASE_SECONDS, NodeView, Observation, Port, is_walled
from generator.host.tls import Guest, Knock, Reply
from generator.plan import ClusterPlan, NodePlan
from generator.spec import Certificates, FirewallKind

WARN_DAYS = 30
SHOWN_KEYS = 5


class Result(StrEnum):
    """`SKIPPED`: could not be judged for every node; another check has failed for the reason."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was checked. `nodes` are the ones that keep it from being ok."""

    name: str
    result: Result
    detail: str
    remedy: str | None = None
    nodes: tuple[str, ...] = ()


Findings = Sequence[tuple[str, str]]  # (node, what is wrong)


def _check(
    name: str,
    good: str,
    *,
    failed: Findings = (),
    unknown: Findings = (),
    warning: Findings = (),
    remedy: str,
) -> Check:
    """Failed beats warning beats skipped: no check is ok that was not made everywhere."""
    for result, findings in (
        (Result.FAILED, failed),
        (Result.WARNING, warning),
        (Result.SKIPPED, unknown),
    ):
        if findings:
            nodes = tuple(dict.fromkeys(node for node, _ in findings if node))
            return Check(name=name, result=result, detail=_join(findings), remedy=remedy, nodes=nodes)
    return Check(name=name, result=Result.OK, detail=good)


def _join(findings: Findings) -> str:
    """`etcd1, etcd2: what both suffer; etcd3: what it suffers`."""
    by_text: dict[str, list[str]] = {}
    for node, text in findings:
        by_text.setdefault(text, []).append(node)
    return "; ".join(f"{', '.join(nodes)}: {text}" if any(nodes) else text for text, nodes in by_text.items())


def judge(plan: ClusterPlan, seen: Observation, *, now: datetime, sealed: bool) -> tuple[Check, ...]:
    """Every check; the first three are the document's. `sealed`: no seed has the right to start a cluster any more."""
    return (
        member_list(seen),
        endpoint_health(seen),
        all_keys(seen),
        planned_members(plan, seen),
        one_cluster(seen),
        no_alarms(seen),
        write_and_read(seen),
        equal_data(seen),
        *(refused(plan, seen, guest) for guest in (Guest.NOBODY, Guest.FOREIGN, Guest.PLAIN)),
        peer_firewall(plan, seen),
        server_certificates(plan, seen, now=now),
        bootstrap_right(plan, sealed=sealed),
    )


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
    return _check("member list", names, failed=failed, remedy="look at the nodes' logs: bake console NODE")


def _answers(view: NodeView, error: str | None) -> bool:
    """Whether a node has an error of its own: one that tells nothing at all fails the endpoint's health."""
    return error is not None and view.status.value is not None


def endpoint_health(seen: Observation) -> Check:
    failed = [(view.node.name, view.health.error) for view in seen.nodes if view.health.error]
    times = ", ".join(f"{view.node.name} {(view.health.value or 0) * 1000:.0f} ms" for view in seen.nodes)
    remedy = "bake status; is the node running, and its etcd? bake console NODE"
    return _check("endpoint health", times, failed=failed, remedy=remedy)


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
    return _check("all keys", good, failed=failed, remedy="the cluster needs a majority of its members")


def planned_members(plan: ClusterPlan, seen: Observation) -> Check:
    members = next((view.members.value for view in seen.nodes if view.members.value is not None), None)
    if members is None:
        return _check("planned members", "", unknown=[("", "no member list")], remedy="see: member list")
    planned = {node.peer_url for node in plan.nodes}
    failed = [(node.name, text) for node in plan.nodes for text in _membership(node, members)]
    failed += [
        ("", f"{member.name or 'a member'} ({member.id:x}, {', '.join(member.peer_urls)}) is not in the plan")
        for member in members
        if not planned & set(member.peer_urls)
    ]
    remedy = "a learner is promoted when it has caught up; remove a stranger with: etcdctl member remove ID"
    return _check(
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
    return _check("one cluster", good, failed=failed, unknown=unknown, remedy=remedy)


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
    return _check("alarms", "none", failed=sorted(raised), unknown=unknown, remedy=remedy)


def write_and_read(seen: Observation) -> Check:
    errors = {view.node.name: seen.writes.get(view.node.name, view.health.error) for view in seen.nodes}
    failed = [(name, error) for name, error in errors.items() if error]
    warning = (
        [("", f"the trial's keys are left for {LEASE_SECONDS} s: {seen.left_behind}")]
        if seen.left_behind
        else []
    )
    good = f"through {', '.join(errors)}"
    return _check(
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
    return _check("equal data", good, failed=failed, unknown=unknown, remedy=remedy)


_REFUSALS = {
    Guest.NOBODY: ("no certificate", "set client-cert-auth and peer-client-cert-auth"),
    Guest.FOREIGN: (
        "foreign certificate",
        "trusted-ca-file and peer-trusted-ca-file must be the cluster's CA alone",
    ),
    Guest.PLAIN: ("no TLS", "every listen URL must be https"),
}


def refused(plan: ClusterPlan, seen: Observation, guest: Guest) -> Check:
    """Somebody who must be let in nowhere. It counts only where the operator is served, or no one gets through."""
    failed: list[tuple[str, str]] = []
    unknown: list[tuple[str, str]] = []
    good = 0
    for view in seen.nodes:
        served = view.knocks[Port.CLIENT, Guest.OPERATOR].reply is Reply.SERVED
        for port, answer in _answers_to(view, guest):
            if answer.reply is Reply.SERVED:
                failed.append((view.node.name, f"the {port} lets it in ({answer.detail})"))
            elif port is Port.PEER and _is_walled(plan, view):
                continue
            elif answer.reply is Reply.UNREACHABLE:
                unknown.append((view.node.name, f"the {port} cannot be reached ({answer.detail})"))
            elif served:
                good += 1
            else:
                unknown.append(
                    (view.node.name, f"the {port} refuses it, but does not serve the operator either")
                )
    name, remedy = _REFUSALS[guest]
    return _check(name, f"refused on {good} ports", failed=failed, unknown=unknown, remedy=remedy)


def _is_walled(plan: ClusterPlan, view: NodeView) -> bool:
    """Whether a node's firewall keeps the operator from the peer port, as planned."""
    return plan.spec.firewall.kind is not FirewallKind.NONE and is_walled(view.knocks)


def peer_firewall(plan: ClusterPlan, seen: Observation) -> Check:
    """The operator's machine is none of the nodes, so their peer ports are closed to it."""
    there = [view for view in seen.nodes if (Port.PEER, Guest.OPERATOR) in view.knocks]
    text = "the peer port is open to this machine, which is none of the nodes"
    opened = [(view.node.name, text) for view in there if not _is_walled(plan, view)]
    good = f"closed to this machine on {len(there)} nodes"
    unknown = [(view.node.name, "cannot be reached") for view in seen.nodes if view not in there]
    if plan.spec.firewall.kind is FirewallKind.NONE:
        opened, unknown, good = [], [], "none is planned"
    remedy = "on the node: systemctl status etcd-firewall"
    return _check("peer firewall", good, warning=opened, unknown=unknown, remedy=remedy)


def _answers_to(view: NodeView, guest: Guest) -> list[tuple[Port, Knock]]:
    """By port. The peer port of a node that is not there was not tried."""
    return [(port, view.knocks[port, guest]) for port in Port if (port, guest) in view.knocks]


def server_certificates(plan: ClusterPlan, seen: Observation, *, now: datetime) -> Check:
    failed, warning, unknown, days_left = [], [], [], []
    for view in seen.nodes:
        for port, answer in _answers_to(view, Guest.OPERATOR):
            if port is Port.PEER and _is_walled(plan, view):
                continue
            if answer.distrusted:
                failed.append((view.node.name, f"{port}: {answer.distrusted}"))
            elif answer.certificate is None:
                unknown.append((view.node.name, f"{port}: {answer.detail}"))
            else:
                days = (answer.certificate.not_after - now).days
                days_left.append(days)
                if days < WARN_DAYS:
                    warning.append((view.node.name, f"{port}: {days} days left"))
                if _lacks_name(plan, view.node, answer.certificate.names):
                    failed.append((view.node.name, f"{port}: does not name {view.node.fqdn}"))
    good = f"issued by the cluster's CA, name their nodes, {min(days_left, default=0)} days left"
    remedy = "the node runs with other certificates than its seed has: see /etc/etcd/pki on the node"
    if warning and not failed:
        remedy = "bake again before they expire, and give the nodes their new certificates"
    return _check("server certificates", good, failed=failed, warning=warning, unknown=unknown, remedy=remedy)


def bootstrap_right(plan: ClusterPlan, *, sealed: bool) -> Check:
    """A fact of the operator's files: no node can tell what will be in its drive at its next boot."""
    first = next(node.name for node in plan.nodes if node.bootstrap)
    text = "may start another cluster if it loses its disk: its seed still holds the right to (bake seal withdraws it)"
    failed = [] if sealed else [(first, text)]
    return _check("bootstrap right", "withdrawn", failed=failed, remedy="bake seal")


def _lacks_name(plan: ClusterPlan, node: NodePlan, names: Iterable[str]) -> bool:
    """The address was checked with the handshake; the document's shared set names addresses only."""
    return plan.spec.pki.certificates is Certificates.PER_NODE and node.fqdn not in set(names)


def as_rows(found: Iterable[Check]) -> list[dict[str, str]]:
    """For a table."""
    return [{"check": check.name, "result": str(check.result), "detail": check.detail} for check in found]
