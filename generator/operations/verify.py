"""Query every node of a running cluster for `bake verify` and `bake status`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from generator import health, pki
from generator.config.pki import Extensions, KeyType, PeerName
from generator.etcd import answers, observe, tls_probe
from generator.etcd.answers import ClientKind, Member, Port, Status
from generator.etcd.client import Etcd
from generator.etcd.node_report import fetch_reports, find_report
from generator.etcd.tls_probe import ClientFiles
from generator.health import Check, Result
from generator.pki import Role
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.progress import Report

_REPORT_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The results of all checks. A cluster is healthy if no check is failed or skipped."""

    cluster: str
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        return not self.failed and not self.skipped

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.result is Result.FAILED)

    @property
    def skipped(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.result is Result.SKIPPED)


def client_files(folder: Path, stem: str = str(Role.CLIENT)) -> ClientFiles:
    """Return the paths of a client's files in a cluster's folder. The default client is the operator."""
    ca, peer_ca, client = (folder / "pki" / name for name in (str(Role.CA), str(Role.PEER_CA), stem))
    return ClientFiles(
        ca=ca.with_suffix(".pem"), cert=client.with_suffix(".pem"), key=client.with_suffix(".key"),
        peer_ca=peer_ca.with_suffix(".pem"),
    )  # fmt: skip


def verify(
    plan: ClusterPlan,
    files: ClientFiles,
    *,
    now: datetime,
    token: str,
    sealed: bool,
    report: Report,
    without_user: ClientFiles | None = None,
) -> Verification:
    """Check a running cluster. The write check uses keys below `/bake/verify/<token>/`, so `token` must be random.

    `without_user`: a client certificate that has no user in etcd. If auth is planned, this client must read nothing.
    """
    contexts = probe_contexts(plan, files, now=now)
    report(f"asking {', '.join(node.name for node in plan.nodes)}")
    views = observe.everywhere(lambda node: observe.view_node(plan, node, files, contexts), plan.nodes)
    alive = [view.node for view in views if view.health.error is None]
    report(f"writing and reading through {', '.join(node.name for node in alive) or 'no node'}")
    keys = observe.list_keys(alive, files)
    writes, left_behind = observe.try_writes(alive, files, token)
    hashes = observe.hash_nodes(alive, files)
    seen = answers.Observation(
        nodes=tuple(views), keys=keys, writes=writes, left_behind=left_behind, hashes=hashes
    )
    seen = replace(seen, requires_name=requires_name(plan, files, alive, now=now))
    if plan.spec.auth.enabled and without_user:
        auth = observe.first_answer(alive, files, Etcd.auth_enabled)
        seen = replace(seen, auth=auth, without_user=observe.read_without_user(alive, without_user))
    return Verification(cluster=plan.name, checks=health.check_cluster(plan, seen, now=now, sealed=sealed))


def requires_name(
    plan: ClusterPlan, files: ClientFiles, nodes: Iterable[NodePlan], *, now: datetime
) -> dict[str, bool]:
    """Return for each node with a report whether etcd requires the peers' name.

    Return {} if the plan does not require the name, or has a separate peer CA. The function waits up to 10 seconds for
    the name because a restarted node reports some seconds after its start.
    """
    nodes = list(nodes)
    if plan.spec.pki.peer_name is not PeerName.REQUIRED or plan.spec.pki.peer_ca.separate:
        return {}
    (option, name), deadline = pki.peer_check(plan.spec), time.monotonic() + _REPORT_SECONDS
    while True:
        answer = fetch_reports(nodes, files)
        reports = {node.name: find_report(node.name, answer, now=now)[0] for node in nodes}
        found = {node: report.options.get(option) == name for node, report in reports.items() if report}
        if all(found.values()) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def probe_contexts(plan: ClusterPlan, files: ClientFiles, *, now: datetime) -> observe.Contexts:
    """Return the TLS context of each client kind for each port. The peer port's certificates may have a separate CA."""
    peer_ca = files.peer_ca if plan.spec.pki.peer_ca.separate else None
    own = tls_probe.local_address(str(plan.nodes[0].address), plan.spec.etcd.peer_port)
    client, peer = Port.CLIENT, Port.PEER
    return {
        (client, ClientKind.OPERATOR): tls_probe.operator_context(files),
        (peer, ClientKind.OPERATOR): tls_probe.operator_context(replace(files, ca=peer_ca or files.ca)),
        **{(port, ClientKind.NO_CERTIFICATE): tls_probe.unverified_context() for port in Port},
        (client, ClientKind.FOREIGN_CA): tls_probe.unverified_context(foreign_pair(plan, Role.CLIENT, own, now=now)),
        (peer, ClientKind.FOREIGN_CA): tls_probe.unverified_context(foreign_pair(plan, Role.PEER, own, now=now)),
        **{(port, ClientKind.NO_TLS): None for port in Port},
    }


def foreign_pair(
    plan: ClusterPlan, role: Role, address: str, *, now: datetime, authority: pki.Credential | None = None
) -> tuple[bytes, bytes]:
    """Issue a certificate and key from `authority`. The default authority has the cluster CA's name, but another key.

    The certificate resembles a node's certificate and has this machine's address, so only the issuer is wrong.
    """
    own = replace(plan.spec.pki, extensions=Extensions.DOCUMENT, key_type=KeyType.ECDSA_P256)
    other = plan_cluster(replace(plan.spec, pki=own))
    node = replace(other.nodes[0], addresses=(ip_address(address),))
    other = replace(other, nodes=(node,))
    authority = authority or pki.create_authority(other, pki.issuer_of(own, role), now=now)
    found = next(pki.issue_nodes(other, authority, now=now))[role]
    return found.cert_pem, found.key_pem


class MemberRole(StrEnum):
    """A member's role in the cluster."""

    LEADER = "leader"
    VOTER = "voter"
    LEARNER = "learner"
    UNSTARTED = "unstarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """etcd's state on one node. For a node that does not answer, id and role come from the member list.

    `member_id`: hexadecimal, as in etcdctl; `db_size`: in bytes.
    """

    name: str
    address: str
    reachable: bool
    member_id: str | None = None
    role: MemberRole | None = None
    version: str | None = None
    db_size: int | None = None
    raft_index: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The state of every node, and etcd's member list. The list is empty if no node returns a member list."""

    nodes: tuple[NodeStatus, ...]
    members: tuple[Member, ...]


def cluster_status(plan: ClusterPlan, files: ClientFiles) -> ClusterStatus:
    """Query every node's status, and the member list."""
    states = observe.everywhere(lambda node: observe.ask(node, files, Etcd.status), plan.nodes)
    with_leader = [node for node, one in zip(plan.nodes, states, strict=True) if one.value and one.value.leader]
    members = observe.first_answer(with_leader, files, Etcd.members).value or ()
    nodes = tuple(_node_status(node, one, members) for node, one in zip(plan.nodes, states, strict=True))
    return ClusterStatus(nodes=nodes, members=members)


def is_answering(plan: ClusterPlan, files: ClientFiles) -> bool:
    """Return whether any node's etcd answers."""
    states = observe.everywhere(lambda node: observe.ask(node, files, Etcd.status), plan.nodes)
    return any(one.value for one in states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A pending task of the operator, and the command for the task."""

    task: str
    remedy: str


def tasks(plan: ClusterPlan, seen: ClusterStatus, *, sealed: bool, ca_change: str | None = None) -> Iterator[Task]:
    """Yield the pending tasks of a cluster. `ca_change`: the current phase of a CA rotation."""
    if ca_change:
        yield Task(task=f"the CA is being rotated (phase {ca_change})", remedy="bake certs rotate --ca")
    if not sealed:
        is_running = any(node.reachable for node in seen.nodes)
        remedy = "bake seal" if is_running else "bake seal, once the cluster runs"
        yield Task(task="the seed still has the bootstrap permit", remedy=remedy)
    names = {node.peer_url: node.name for node in plan.nodes}
    for member in seen.members:
        name = next((names[url] for url in member.peer_urls if url in names), None)
        remove = f"etcdctl member remove {member.id:x}"
        if name is None:
            text = f"unplanned member {member.name or '(not started)'} ({member.id:x}, {', '.join(member.peer_urls)})"
            yield Task(task=text, remedy=f"add it to the cluster file, or: {remove}")
        elif not member.started:
            remedy = f"start its node: bake up; bake console {name}; if it will never come: {remove}"
            yield Task(task=f"{name} is added, but has not started", remedy=remedy)
        elif member.is_learner:
            remedy = f"it is promoted when it has caught up; if it stays a learner: bake console {name}"
            yield Task(task=f"{name} is a learner", remedy=remedy)


def _node_status(node: NodePlan, answer: answers.Answer[Status], members: Iterable[Member]) -> NodeStatus:
    status = answer.value
    listed = next((member for member in members if node.peer_url in member.peer_urls), None)
    number = status.member_id if status else listed.id if listed else None
    return NodeStatus(
        name=node.name,
        address=str(node.address),
        reachable=status is not None,
        member_id=None if number is None else f"{number:x}",
        role=_role(status, listed),
        version=status.version if status else None,
        db_size=status.db_size if status else None,
        raft_index=status.raft_index if status else None,
        error=answer.error or (status and "; ".join(status.errors)) or None,
    )


def _role(status: Status | None, listed: Member | None) -> MemberRole | None:
    if status and status.leader == status.member_id:
        return MemberRole.LEADER
    if (status and status.is_learner) or (listed and listed.is_learner):
        return MemberRole.LEARNER
    if listed and not listed.started:
        return MemberRole.UNSTARTED
    return MemberRole.VOTER if status or listed else None


def verification_data(found: Verification) -> dict[str, Any]:
    """Return the results for `-o json`."""
    return {
        "cluster": found.cluster,
        "healthy": found.healthy,
        "checks": [asdict(check) for check in found.checks],
    }


def status_row(node: NodeStatus, vm: str | None) -> dict[str, str]:
    """Return a node's row of the table. `vm`: the state of the node's VM, or None without libvirt."""
    return {
        "node": node.name,
        "vm": vm or "no libvirt",
        "address": node.address,
        "state": str(node.role or "unknown") if node.reachable else "unreachable",
        "id": node.member_id or "-",
        "version": node.version or "-",
        "db": "-" if node.db_size is None else f"{node.db_size / 1024:.0f} KiB",
        "raft index": "-" if node.raft_index is None else str(node.raft_index),
        "error": node.error or "",
    }


def status_data(node: NodeStatus, vm: str | None) -> dict[str, Any]:
    """Return a node's object for `-o json`, with null for unknown values. `vm`: see `status_row`."""
    values = asdict(node)
    return {"node": values.pop("name"), "vm": vm, **values}
