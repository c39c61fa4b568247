"""Derive the steps from what stands to what is planned.

The order of the steps, with the reasons:
1. start stopped VMs, because most steps need a quorum;
2. remove members that are not planned, because the new seeds close the firewalls to them;
3. replace lost nodes, because no node may restart while too many others are missing;
4. update nodes, because new nodes can join only when the other nodes' firewalls know their addresses;
5. add new nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from generator.change.observed import Observed, Power, unplanned_members
from generator.change.steps import Action, Effect, Step
from generator.etcd.answers import Member
from generator.level import Level
from generator.plan import ClusterPlan, NodePlan


def plan_steps(plan: ClusterPlan, seen: Observed, *, replace: Collection[str] = ()) -> tuple[Step, ...]:
    """Return the steps in order. Empty if the cluster is as planned. `replace`: nodes that the user wants replaced."""
    to_replace = {node.name for node in plan.nodes if node.name in replace or _is_lost(node, seen)}
    return (
        *_starts(plan, seen, to_replace),
        *_removals(plan, seen),
        *_replacements(plan, seen, to_replace),
        *_updates(plan, seen, to_replace),
        *_additions(plan, seen, to_replace),
    )


def _is_lost(node: NodePlan, seen: Observed) -> bool:
    """Return whether a started member of the cluster has lost its VM or disk.

    If the member answers, its VM runs where bake cannot see it.
    """
    member = seen.member_of(node)
    gone = seen.power_of(node.name) is Power.LOST
    return gone and member is not None and member.started and member.id not in seen.answering


def _starts(plan: ClusterPlan, seen: Observed, to_replace: Collection[str]) -> Iterator[Step]:
    for node in plan.nodes:
        if node.name not in to_replace and seen.power_of(node.name) is Power.STOPPED:
            yield Step(action=Action.START, node=node.name, reason="its VM is stopped")


def _removals(plan: ClusterPlan, seen: Observed) -> Iterator[Step]:
    """Yield a step for each member and each VM that is not planned: first members that do not answer, last the leader.

    Only a VM that bake made for the cluster is in `seen.machines`.
    """
    members = {name_of(member): member for member in unplanned_members(plan, seen)}
    planned = {node.name for node in plan.nodes}
    names = [*members, *(name for name in seen.machines or () if name not in planned and name not in members)]

    def cost(name: str) -> int:
        member = members.get(name)
        return 0 if member is None or member.id not in seen.answering else 2 if member.id == seen.leader else 1

    for name in sorted(names, key=cost):
        member = members.get(name)
        is_leader = member is not None and member.id == seen.leader
        yield Step(
            action=Action.REMOVE, node=name, member_id=member.id if member else None,
            reason="is not one of the planned nodes" if member else "its VM is left, but it is not a planned node",
            effect=Effect.ELECTION if is_leader else Effect.RECONNECT if member else Effect.NONE,
            loses="its VM and its disk are deleted" if name in (seen.machines or ()) else "it is no longer a member",
        )  # fmt: skip


def name_of(member: Member) -> str:
    """Return a member's name, or its peer URL if it has never started."""
    return member.name or ", ".join(member.peer_urls)


def _updates(plan: ClusterPlan, seen: Observed, to_replace: Collection[str]) -> Iterator[Step]:
    """Yield a step for each node whose seed or VM is outdated; the leader is last."""
    waiting = [node for node in plan.nodes if node.name not in to_replace and _has_joined(node, seen)]
    for node in sorted(waiting, key=lambda node: _is_leader(node, seen)):
        level, differing = seen.pending.get(node.name, Level.NONE), seen.outdated.get(node.name, ())
        reasons = [*(["has a new seed"] if level is not Level.NONE else []), *differing]
        if differing:
            level = max(level, Level.REBOOT, key=lambda one: one.rank)  # the VM gets its definition when it starts
        if reasons:
            disturbs = level.rank >= Level.RESTART.rank
            yield Step(
                action=Action.UPDATE, node=node.name, level=level, reason=", ".join(reasons),
                effect=effect_of_stopping(node, seen) if disturbs else Effect.NONE,
            )  # fmt: skip


def _is_leader(node: NodePlan, seen: Observed) -> bool:
    member = seen.member_of(node)
    return member is not None and member.id == seen.leader


def effect_of_stopping(node: NodePlan, seen: Observed) -> Effect:
    """Return the effect if etcd on the node stops for a while.

    A cluster of one or two voters has no quorum meanwhile. The leader first hands over to another voter.
    """
    member = seen.member_of(node)
    if member is not None and not member.is_learner and len(seen.voters) < 3:
        return Effect.PAUSE
    return Effect.ELECTION if _is_leader(node, seen) else Effect.RECONNECT


def _replacements(plan: ClusterPlan, seen: Observed, to_replace: Collection[str]) -> Iterator[Step]:
    for node in sorted((one for one in plan.nodes if one.name in to_replace), key=lambda one: _is_leader(one, seen)):
        is_lost = _is_lost(node, seen)
        yield Step(
            action=Action.REPLACE, node=node.name, reason="its VM or disk is lost" if is_lost else "you asked for it",
            effect=Effect.NONE if is_lost else effect_of_stopping(node, seen),
            loses="" if is_lost else "its VM and its disk are deleted",
        )  # fmt: skip


def _additions(plan: ClusterPlan, seen: Observed, to_replace: Collection[str]) -> Iterator[Step]:
    """Yield a step for each node that is not a voter. While no member answers, only a node without a VM is known."""
    for node in plan.nodes:
        joining = seen.power_of(node.name) is not Power.LOST
        if joining and not seen.members:
            continue
        if node.name not in to_replace and not _has_joined(node, seen):
            reason = "has a VM, but is not a voter yet" if joining else "is a new node"
            yield Step(action=Action.ADD, node=node.name, reason=reason)


def _has_joined(node: NodePlan, seen: Observed) -> bool:
    member = seen.member_of(node)
    return member is not None and member.started and not member.is_learner
