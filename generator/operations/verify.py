"""`bake verify` and `bake status`: a running cluster seen from outside, through every node."""

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
from generator.etcd.answers import Guest, Member, Port, Status
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
    """The outcome of every check. Warnings do not make a cluster unhealthy; a check that could not be made does."""

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
    """The operator's files in a cluster's folder, or another client's."""
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
    nobody: ClientFiles | None = None,
) -> Verification:
    """Check a running cluster. `token` is a random word: the trial writes below `/bake/verify/<token>/`.

    `nobody`: a client's files who is none of etcd's users; where auth is planned, to try what they are good for.
    """
    contexts = guests(plan, files, now=now)
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
    if plan.spec.auth.enabled and nobody:
        auth = observe.first_told(alive, files, Etcd.auth_enabled)
        seen = replace(seen, auth=auth, nobody=observe.try_nobody(alive, nobody))
    return Verification(cluster=plan.name, checks=health.judge(plan, seen, now=now, sealed=sealed))


def requires_name(
    plan: ClusterPlan, files: ClientFiles, nodes: Iterable[NodePlan], *, now: datetime
) -> dict[str, bool]:
    """Whether each node's etcd requires the peers' name, where that is planned and nothing else keeps clients out.

    Nodes without a report of their own are left out. One that was restarted reports seconds later.
    """
    wanted, nodes = plan.spec.pki, list(nodes)
    if wanted.peer_name is not PeerName.REQUIRED or wanted.peer_ca.separate:
        return {}
    (option, name), deadline = pki.peer_check(plan.spec), time.monotonic() + _REPORT_SECONDS
    while True:
        reports = fetch_reports(nodes, files)
        said = {node.name: find_report(node.name, reports, now=now)[0] for node in nodes}
        found = {node: report.options.get(option) == name for node, report in said.items() if report}
        if all(found.values()) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def guests(plan: ClusterPlan, files: ClientFiles, *, now: datetime) -> observe.Contexts:
    """How each of those who knock does so at either port. Whom the operator trusts depends on the port."""
    peer_ca = files.peer_ca if plan.spec.pki.peer_ca.separate else None
    own = tls_probe.local_address(str(plan.nodes[0].address), plan.spec.etcd.peer_port)
    client, peer = Port.CLIENT, Port.PEER
    return {
        (client, Guest.OPERATOR): tls_probe.operator_context(files),
        (peer, Guest.OPERATOR): tls_probe.operator_context(replace(files, ca=peer_ca or files.ca)),
        **{(port, Guest.NOBODY): tls_probe.stranger_context() for port in Port},
        (client, Guest.FOREIGN): tls_probe.stranger_context(foreign_pair(plan, Role.CLIENT, own, now=now)),
        (peer, Guest.FOREIGN): tls_probe.stranger_context(foreign_pair(plan, Role.PEER, own, now=now)),
        **{(port, Guest.PLAIN): None for port in Port},
    }


def foreign_pair(
    plan: ClusterPlan, role: Role, address: str, *, now: datetime, authority: pki.Credential | None = None
) -> tuple[bytes, bytes]:
    """A certificate and key of a CA that has the name of ours and another key (or of `authority`).

    It states what a node's states, and the address that it is shown from: its issuer is the only reason to refuse it.
    """
    own = replace(plan.spec.pki, extensions=Extensions.DOCUMENT, key_type=KeyType.ECDSA_P256)
    other = plan_cluster(replace(plan.spec, pki=own))
    node = replace(other.nodes[0], addresses=(ip_address(address),))
    other = replace(other, nodes=(node,))
    authority = authority or pki.create_authority(other, pki.issuer_of(own, role), now=now)
    found = next(pki.issue_nodes(other, authority, now=now))[role]
    return found.cert_pem, found.key_pem


class Part(StrEnum):
    """A member's part in the cluster."""

    LEADER = "leader"
    VOTER = "voter"
    LEARNER = "learner"
    UNSTARTED = "unstarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """A node at a glance. Of a node that does not answer, the others know id and part."""

    name: str
    address: str
    reachable: bool
    member_id: str | None = None  # hex, as etcdctl shows it
    part: Part | None = None
    version: str | None = None
    db_size: int | None = None
    raft_index: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """Every node at a glance, and etcd's member list; empty where no node knows it."""

    nodes: tuple[NodeStatus, ...]
    members: tuple[Member, ...]


def cluster_status(plan: ClusterPlan, files: ClientFiles) -> ClusterStatus:
    """What `bake status` shows."""
    told = observe.everywhere(lambda node: observe.ask(node, files, Etcd.status), plan.nodes)
    led = [node for node, one in zip(plan.nodes, told, strict=True) if one.value and one.value.leader]
    members = observe.first_told(led, files, Etcd.members).value or ()
    nodes = tuple(_node_status(node, one, members) for node, one in zip(plan.nodes, told, strict=True))
    return ClusterStatus(nodes=nodes, members=members)


def is_answering(plan: ClusterPlan, files: ClientFiles) -> bool:
    """Whether any node serves as a member of the cluster."""
    told = observe.everywhere(lambda node: observe.ask(node, files, Etcd.status), plan.nodes)
    return any(one.value for one in told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Something that should not stay as it is, and what to do about it."""

    what: str
    remedy: str


def tasks(plan: ClusterPlan, seen: ClusterStatus, *, sealed: bool, ca_change: str | None = None) -> Iterator[Task]:
    """What is left to do for a cluster to be as planned. `ca_change`: the phase in which it changes its CA."""
    if ca_change:
        yield Task(what=f"the CA is being changed (phase {ca_change})", remedy="bake certs rotate --ca")
    if not sealed:
        stands = any(node.reachable for node in seen.nodes)
        remedy = "bake seal" if stands else "bake seal, as soon as the cluster stands"
        yield Task(what="the right to start a cluster is not withdrawn", remedy=remedy)
    names = {node.peer_url: node.name for node in plan.nodes}
    for member in seen.members:
        name = next((names[url] for url in member.peer_urls if url in names), None)
        remove = f"etcdctl member remove {member.id:x}"
        if name is None:
            text = f"unplanned member {member.name or '(not started)'} ({member.id:x}, {', '.join(member.peer_urls)})"
            yield Task(what=text, remedy=f"add it to the plan, or: {remove}")
        elif not member.started:
            remedy = f"start its node: bake up; bake console {name}; if it will never come: {remove}"
            yield Task(what=f"{name} is added, but has not started", remedy=remedy)
        elif member.is_learner:
            remedy = f"it is promoted when it has caught up; if it stays: bake console {name}"
            yield Task(what=f"{name} is a learner", remedy=remedy)


def _node_status(node: NodePlan, told: answers.Told[Status], members: Iterable[Member]) -> NodeStatus:
    status = told.value
    listed = next((member for member in members if node.peer_url in member.peer_urls), None)
    number = status.member_id if status else listed.id if listed else None
    return NodeStatus(
        name=node.name,
        address=str(node.address),
        reachable=status is not None,
        member_id=None if number is None else f"{number:x}",
        part=_part(status, listed),
        version=status.version if status else None,
        db_size=status.db_size if status else None,
        raft_index=status.raft_index if status else None,
        error=told.error or (status and "; ".join(status.errors)) or None,
    )


def _part(status: Status | None, listed: Member | None) -> Part | None:
    if status and status.leader == status.member_id:
        return Part.LEADER
    if (status and status.is_learner) or (listed and listed.is_learner):
        return Part.LEARNER
    if listed and not listed.started:
        return Part.UNSTARTED
    return Part.VOTER if status or listed else None


def verification_data(found: Verification) -> dict[str, Any]:
    """For JSON."""
    return {
        "cluster": found.cluster,
        "healthy": found.healthy,
        "checks": [asdict(check) for check in found.checks],
    }


def status_rows(nodes: Iterable[NodeStatus]) -> list[dict[str, str]]:
    """For a table."""
    return [
        {
            "node": node.name,
            "address": node.address,
            "state": str(node.part or "unknown") if node.reachable else "unreachable",
            "id": node.member_id or "-",
            "version": node.version or "-",
            "db": "-" if node.db_size is None else f"{node.db_size / 1024:.0f} KiB",
            "raft index": "-" if node.raft_index is None else str(node.raft_index),
            "error": node.error or "",
        }
        for node in nodes
    ]


def status_data(nodes: Iterable[NodeStatus]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(node) for node in nodes]
