"""Whether a step is safe at this moment: no step may cost the cluster its quorum or its only copy of the data."""

from __future__ import annotations

from generator.change.observed import Observed, Power, quorum
from generator.change.steps import Action, Step
from generator.level import Level
from generator.plan import ClusterPlan

ALONE = 2  # a cluster of so many nodes has no quorum while one of them does not start


def obstacle(step: Step, plan: ClusterPlan, seen: Observed) -> str | None:
    """Return why a step must not be taken now, or None if it is safe."""
    if step.action is Action.START:
        return None
    if not seen.members:
        if step.level is Level.REPLACE and len(plan.nodes) <= ALONE:
            return None  # the way back for a cluster that an upgrade has stopped; its data disks stay
        return "no member returns the member list, so the cluster has no quorum"
    if step.action in (Action.ADD, Action.REPLACE) and seen.alarms:
        kinds = ", ".join(sorted(seen.alarms))
        return f"the alarm {kinds} is active, so etcd refuses the writes of a node that joins; clear the alarm first"
    if step.action is Action.REPLACE and _is_elsewhere(step, plan, seen):
        return "it answers, but bake cannot see its VM, which may run on another host"
    answering = sum(member.id in seen.answering for member in seen.voters)
    without = _answering_without(step, plan, seen)
    return {
        Action.REMOVE: _removal,
        Action.REPLACE: _replacement,
        Action.UPDATE: _update,
        Action.ADD: _addition,
    }[step.action](step, seen, answering, without)


def _is_elsewhere(step: Step, plan: ClusterPlan, seen: Observed) -> bool:
    """Return whether the node's member answers although bake sees other VMs of the cluster, but not this one."""
    own = _members_of(step, plan, seen)
    return bool(own & seen.answering) and seen.power_of(step.node) is Power.LOST


def _members_of(step: Step, plan: ClusterPlan, seen: Observed) -> set[int]:
    """Return the ids of the members that the step's node has."""
    planned = {member.id for node in plan.nodes if node.name == step.node and (member := seen.member_of(node))}
    return planned | ({step.member_id} if step.member_id is not None else set())


def _answering_without(step: Step, plan: ClusterPlan, seen: Observed) -> int:
    """Return how many voters other than the step's node answer."""
    own = _members_of(step, plan, seen)
    return sum(member.id in seen.answering for member in seen.voters if member.id not in own)


def _removal(step: Step, seen: Observed, answering: int, without: int) -> str | None:
    is_voter = any(member.id == step.member_id for member in seen.voters)
    if not is_voter:
        return None
    left = len(seen.voters) - 1
    if left == 0:
        return "it is the last voter"
    return _too_few(without, quorum(left), left, "after the removal")


def _replacement(step: Step, seen: Observed, answering: int, without: int) -> str | None:
    if len(seen.voters) == 1 and without == 0:
        return "it is the last voter, so its disk has the only copy of the data"
    return _too_few(without, quorum(len(seen.voters)), len(seen.voters), "without this node")


def _update(step: Step, seen: Observed, answering: int, without: int) -> str | None:
    voters = len(seen.voters)
    if step.level is not None and step.level.rank >= Level.RESTART.rank and voters >= 3:
        return _too_few(without, quorum(voters), voters, "without this node")
    return _too_few(answering, quorum(voters), voters, "now")


def _addition(step: Step, seen: Observed, answering: int, without: int) -> str | None:
    """Before version 3.5.30, etcd adds a member only if every voter is connected (server.go, mayAddMember)."""
    return _too_few(answering, len(seen.voters), len(seen.voters), "before a new node joins")


def _too_few(answering: int, needed: int, voters: int, when: str) -> str | None:
    if answering >= needed:
        return None
    return f"{answering} of {voters} voters answer{'s' if answering == 1 else ''} {when}, and {needed} must answer"
