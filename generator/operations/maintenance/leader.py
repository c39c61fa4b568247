"""`bake move-leader`: make another voter the leader."""

from __future__ import annotations

import time
from dataclasses import dataclass

from generator.errors import InputError, UnhealthyError, WaitTimeoutError
from generator.etcd.answers import Member
from generator.etcd.client import TIMEOUT, EtcdError
from generator.operations.baked_cluster import Cluster
from generator.operations.hints import command
from generator.operations.maintenance.survey import MemberState, Survey, client_of, survey
from generator.progress import Report

_WAIT_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_ELECTION_MS = 1000  # etcd's default for election-timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A change of the leader. `seconds`: until the new leader reported that it leads. 0 if it was the leader before."""

    before: str
    after: str
    seconds: float


def move_leader(cluster: Cluster, name: str | None, *, report: Report) -> Move:
    """Make the node `name` the leader, or the voter with the newest data if `name` is None. Wait until it leads.

    Raise InputError for an unknown node, and UnhealthyError for a node that cannot lead.
    """
    names = [node.name for node in cluster.plan.nodes]
    if name is not None and name not in names:
        text = f"there is no node {name!r} in the cluster {cluster.plan.name}"
        raise InputError.one("NODE", text, f"use one of {', '.join(names)}")
    found = survey(cluster)
    target = _choose(cluster, found) if name is None else _named(cluster, found, name)
    return transfer(cluster, found, target, report=report)


def _choose(cluster: Cluster, found: Survey) -> MemberState:
    others = [one for one in found.voters if one.member.id != found.leader]
    candidates = [one for one in others if found.defect(one) is None]
    if candidates:
        return min(candidates, key=found.lag)
    causes = "; ".join(filter(None, map(found.defect, others))) or f"{found.leading.name} is the only voter"
    hint = f"run {command(cluster.store, 'status')}"
    raise UnhealthyError(f"no other member can become the leader: {causes}", hint=hint)


def _named(cluster: Cluster, found: Survey, name: str) -> MemberState:
    hint = f"run {command(cluster.store, 'status')}"
    target = next((one for one in found.members if one.node and one.node.name == name), None)
    if target is None:
        raise UnhealthyError(f"{name} is not a member of the cluster", hint=hint)
    if defect := found.defect(target):
        raise UnhealthyError(f"{name} cannot become the leader: {defect}", hint=hint)
    return target


def transfer(cluster: Cluster, found: Survey, target: MemberState, *, report: Report) -> Move:
    """Make a healthy voter the leader, and wait until it leads. `found`: the state of the members."""
    before = found.leading
    if before.member.id == target.member.id:
        return Move(before=before.name, after=target.name, seconds=0.0)
    if before.node is None or target.node is None:
        raise UnhealthyError(f"the leader {before.name} is not one of the nodes", hint="run bake status")
    started = time.monotonic()
    report(f"moving the leader from {before.name} to {target.name}")
    try:
        hand_over(cluster, before.member, target.member)
    except EtcdError as error:
        text = f"could not move the leader from {before.name} to {target.name}: {error.cause}"
        raise UnhealthyError(text, hint=f"run {command(cluster.store, 'status')}, then try again") from None
    return Move(before=before.name, after=target.name, seconds=time.monotonic() - started)


def hand_over(cluster: Cluster, leader: Member, target: Member) -> None:
    """Make a voter the leader, and wait until it leads. Raise EtcdError if the present leader refuses.

    etcd has no time limit for the call. A transfer that takes longer than the election timeout has failed.
    """
    limit = TIMEOUT[1] + int(cluster.plan.spec.etcd.options.get("election-timeout", _ELECTION_MS)) / 1000
    with client_of(cluster, leader.client_urls[0]) as etcd:
        etcd.timeout = (TIMEOUT[0], limit)
        etcd.move_leader(target.id)
    _wait_until_leading(cluster, target)


def _wait_until_leading(cluster: Cluster, target: Member) -> None:
    deadline, seen = time.monotonic() + _WAIT_SECONDS, ""
    while time.monotonic() < deadline:
        try:
            with client_of(cluster, target.client_urls[0]) as etcd:
                leader = etcd.status().leader
            if leader == target.id:
                return
            seen = f"{target.name} reports the leader {leader:x}"
        except EtcdError as error:
            seen = f"{target.name}: {error.cause}"
        time.sleep(_PAUSE_SECONDS)
    text = f"{target.name} does not lead after {_WAIT_SECONDS:.0f} s: {seen}"
    raise WaitTimeoutError(text, hint=f"run {command(cluster.store, 'status')}")
