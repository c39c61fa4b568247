"""Take a member out of a cluster: make another voter the leader, remove the member, and forget the node everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from generator.change.observed import Observed
from generator.change.steps import Step
from generator.errors import UnhealthyError
from generator.etcd.answers import Member
from generator.etcd.client import EtcdError
from generator.etcd.maintenance_client import MaintenanceClient
from generator.operations.baked_cluster import Cluster
from generator.operations.hints import command
from generator.operations.maintenance.leader import hand_over
from generator.operations.maintenance.survey import client_of
from generator.progress import Report

# What a node of the cluster writes into etcd (etcd-promote, etcd-report).
RECORDS, REPORTS = b"bake/members/", b"bake/audit/"
_TRIES, _PAUSE = 20, 0.5


def step_down(cluster: Cluster, seen: Observed, step: Step, report: Report) -> None:
    """If the step's node leads, make another planned voter the leader, so that clients lose no time on an election.

    Raise UnhealthyError if no other voter can lead. A cluster with one voter keeps its leader.
    """
    leader = next((member for member in seen.voters if member.id == seen.leader), None)
    if leader is None or not _is_of(cluster, leader, step) or len(seen.voters) == 1:
        return
    planned = [seen.member_of(node) for node in cluster.plan.nodes]
    others = [member for member in planned if member and member.id != leader.id and not member.is_learner]
    targets = [member for member in others if member.id in seen.answering]
    causes = []
    for target in targets:
        try:
            hand_over(cluster, leader, target)
        except EtcdError as error:
            causes.append(f"{target.name}: {error.cause}")
        else:
            report(f"{leader.name}: moved the leader to {target.name}")
            return
    hint = f"run {command(cluster.store, 'status')}"
    raise UnhealthyError(f"no other voter can lead: {'; '.join(causes) or 'none answers'}", hint=hint)


def _is_of(cluster: Cluster, member: Member, step: Step) -> bool:
    if step.member_id is not None:
        return member.id == step.member_id
    return any(node.name == step.node and node.peer_url in member.peer_urls for node in cluster.plan.nodes)


def remove_member(cluster: Cluster, seen: Observed, number: int) -> None:
    """Remove a member through another voter. Raise UnhealthyError if no voter does it."""
    causes: dict[str, str] = {}
    for _ in range(_TRIES):  # etcd refuses a removal for some seconds after another change of the members
        for member in seen.voters:
            if member.id == number or member.id not in seen.answering:
                continue
            try:
                with client_of(cluster, member.client_urls[0]) as etcd:
                    etcd.remove_member(number)
                return
            except EtcdError as error:
                causes[member.name] = error.cause
        time.sleep(_PAUSE)
    text = "; ".join(f"{name}: {cause}" for name, cause in causes.items()) or "no other voter answers"
    raise UnhealthyError(f"cannot remove the member {number:x}: {text}", hint="run the same command again")


def forget_removed(cluster: Cluster, report: Report) -> None:
    """Delete the users and reports of nodes that are neither planned nor members.

    The record of a removed node stays: if the removed node still runs somewhere, the record keeps it from joining. An
    application may have the name of a removed node. Its user stays.
    """
    planned = {node.name for node in cluster.plan.nodes}
    kept = {user.name for user in cluster.plan.spec.auth.users}

    def forget(etcd: MaintenanceClient) -> None:
        known = planned | {member.name for member in etcd.members()}
        gone = [name for name in _recorded(etcd) if name not in known]
        users = etcd.users() if gone and etcd.auth_enabled() else ()
        for name in gone:
            if name in users and name not in kept:
                etcd.delete_user(name)
                report(f"{name}: its user in etcd is deleted")
            etcd.delete(REPORTS + name.encode())

    _through_any(cluster, forget)


def _recorded(etcd: MaintenanceClient) -> list[str]:
    """Return the names of the nodes that have a record or a report."""
    names = {
        item.key.removeprefix(prefix).decode(errors="replace")
        for prefix in (REPORTS, RECORDS)
        for item in etcd.get(prefix, prefix=True, keys_only=True).items
    }
    return sorted(names)


def admit(cluster: Cluster, seen: Observed, name: str) -> None:
    """Delete the record of a node that was removed earlier and is planned again, so that the node may join."""
    node = next(node for node in cluster.plan.nodes if node.name == name)
    if seen.member_of(node) is None:
        _through_any(cluster, lambda etcd: etcd.delete(RECORDS + name.encode()))


def _through_any(cluster: Cluster, call: Callable[[MaintenanceClient], object]) -> None:
    """Make calls through the first node that answers. Raise the last node's error if none does."""
    error: EtcdError | None = None
    for node in cluster.plan.nodes:
        try:
            with client_of(cluster, node.client_url) as etcd:
                call(etcd)
            return
        except EtcdError as refused:
            error = refused
    if error:
        raise error
