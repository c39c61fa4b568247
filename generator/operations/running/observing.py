"""Observe the state of a cluster: etcd's members, the VMs, and the seeds that the nodes run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from generator.change.observed import Observed, power_of
from generator.engine import MachineStatus, State
from generator.etcd.answers import Answer, Keys, Member
from generator.etcd.client import Etcd
from generator.etcd.node_report import fetch_reports, find_report
from generator.etcd.observe import ask, attempt, everywhere, first_answer
from generator.etcd.tls_probe import ClientFiles
from generator.level import Level
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.running.applied_seeds import AppliedSeeds
from generator.plan import ClusterPlan
from generator.seed.history import SeedHistory
from generator.store.seed_history import load_history


def observe(
    cluster: Cluster,
    machines: Mapping[str, MachineStatus] | None,
    *,
    now: datetime,
    history: SeedHistory | None = None,
    applied: AppliedSeeds | None = None,
) -> Observed:
    """Return the observed state of the cluster.

    `machines`: the VMs by node name, or None if bake cannot see the VMs. `history`: the seeds made for the nodes, by
    default the seeds in the cluster's folder. `applied`: what the nodes have printed about their seeds.
    """
    applied = applied or AppliedSeeds()
    history = history or load_history(cluster.store)
    files = client_files(cluster.store.folder)
    leaders = _leaders(cluster.plan, machines, files)
    alive = [node for node in cluster.plan.nodes if node.name in leaders]
    members = first_answer(alive, files, Etcd.members).value or ()
    return Observed(
        members=members,
        answering=_answering(members, files),
        leader=next(iter(leaders.values()), 0),
        machines=None if machines is None else {name: power_of(one) for name, one in machines.items()},
        outdated={name: one.outdated for name, one in (machines or {}).items() if one.outdated},
        rebuild={name: one.rebuild for name, one in (machines or {}).items() if one.rebuild},
        keeps_data=frozenset(name for name, one in (machines or {}).items() if one.has_data_disk),
        copies={name: one.copies for name, one in (machines or {}).items() if one.copies},
        pending=_pending(cluster.plan, history, fetch_reports(alive, files), now, applied.settled),
        waiting=frozenset(applied.waiting),
        left=_left(machines or {}),
        alarms=frozenset(alarm.kind for alarm in first_answer(alive, files, Etcd.alarms).value or ()),
    )


def _left(machines: Mapping[str, MachineStatus]) -> frozenset[str]:
    """Return the nodes that have a disk, but no VM."""
    return frozenset(name for name, one in machines.items() if one.state is State.MISSING and one.is_left)


def _leaders(
    plan: ClusterPlan, machines: Mapping[str, MachineStatus] | None, files: ClientFiles
) -> dict[str, int]:
    """Return the leader's id as each answering node sees it.

    If a node whose VM runs answers, do not ask the other nodes: a call to an absent node takes seconds.
    """
    running = {name for name, one in (machines or {}).items() if one.state is State.RUNNING}
    for group in (
        [node for node in plan.nodes if node.name in running],
        [node for node in plan.nodes if node.name not in running],
    ):
        statuses = everywhere(lambda node: ask(node, files, Etcd.status), group)
        pairs = zip(group, statuses, strict=True)
        if leaders := {node.name: one.value.leader for node, one in pairs if one.value and one.value.leader}:
            return leaders
    return {}


def _answering(members: Iterable[Member], files: ClientFiles) -> frozenset[int]:
    """Return the ids of the voters that answer a linearizable read."""
    voters = [member for member in members if member.started and not member.is_learner]
    answers = everywhere(lambda member: _answers(member, files), voters)
    return frozenset(member.id for member, yes in zip(voters, answers, strict=True) if yes)


def _answers(member: Member, files: ClientFiles) -> bool:
    for url in member.client_urls:
        with Etcd(url, files) as etcd:
            if attempt(lambda etcd=etcd: etcd.get(b"health", keys_only=True)).error is None:  # type: ignore[misc]
                return True
    return False


def _pending(
    plan: ClusterPlan, history: SeedHistory, reports: Answer[Keys], now: datetime, settled: Mapping[str, str]
) -> dict[str, Level]:
    """Return what the newest seed costs each node that does not run it.

    A node publishes the id of its seed in etcd, and prints it on its console. A node of an older version of bake only
    prints it. Whichever is newer counts.
    """
    costs = {}
    for node in plan.nodes:
        report, _ = find_report(node.name, reports, now=now)
        running = [seed for seed in (report.seed if report else None, settled.get(node.name)) if seed]
        found = [history.cost(node.name, seed) for seed in running] or [history.cost(node.name, None)]
        costs[node.name] = min(found, key=lambda level: level.rank)
    return {name: level for name, level in costs.items() if level is not Level.NONE}

