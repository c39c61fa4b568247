"""Observe what stands of a cluster: etcd's members, the VMs, and the seeds that the nodes run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from generator.change.observed import Observed, Power
from generator.etcd.answers import Member
from generator.etcd.client import Etcd
from generator.etcd.node_report import fetch_reports, find_report
from generator.etcd.observe import ask, attempt, everywhere, first_answer
from generator.etcd.tls_probe import ClientFiles
from generator.layout import SEED_HISTORY
from generator.level import Level
from generator.operations.baked_cluster import Cluster, client_files
from generator.plan import NodePlan
from generator.seed.history import SeedHistory, parse_history
from generator.store.folder import Store


def observe(cluster: Cluster, machines: Mapping[str, Power] | None, *, now: datetime) -> Observed:
    """Return what stands of the cluster. `machines`: the VMs by node name, or None if bake cannot see the VMs."""
    files, nodes = client_files(cluster.store.folder), cluster.plan.nodes
    statuses = everywhere(lambda node: ask(node, files, Etcd.status), nodes)
    alive = [node for node, one in zip(nodes, statuses, strict=True) if one.value and one.value.leader]
    members = first_answer(alive, files, Etcd.members).value or ()
    return Observed(
        members=members,
        answering=_answering(members, files),
        leader=next((one.value.leader for one in statuses if one.value and one.value.leader), 0),
        machines=machines,
        pending=_pending(cluster, alive, files, now),
        auth=bool(first_answer(alive, files, Etcd.auth_enabled).value),
    )


def _answering(members: Iterable[Member], files: ClientFiles) -> frozenset[int]:
    """Return the ids of the members that answer a linearizable read."""
    voters = [member for member in members if member.started and not member.is_learner]
    return frozenset(
        member.id for member, answers in zip(voters, everywhere(lambda one: _answers(one, files), voters), strict=True)
        if answers
    )  # fmt: skip


def _answers(member: Member, files: ClientFiles) -> bool:
    for url in member.client_urls:
        with Etcd(url, files) as etcd:
            if attempt(lambda: etcd.get(b"health", keys_only=True)).error is None:
                return True
    return False


def _pending(cluster: Cluster, alive: Iterable[NodePlan], files: ClientFiles, now: datetime) -> dict[str, Level]:
    """Return what the newest seed costs each node that does not run it."""
    history = load_history(cluster.store)
    reports = fetch_reports(alive, files)
    costs = {}
    for node in cluster.plan.nodes:
        report, _ = find_report(node.name, reports, now=now)
        costs[node.name] = history.cost(node.name, report.seed if report else None)
    return {name: level for name, level in costs.items() if level is not Level.NONE}


def load_history(store: Store) -> SeedHistory:
    """Return the seeds that bake has made for each node."""
    return parse_history(store.read(SEED_HISTORY), where=str(store.folder / SEED_HISTORY))
