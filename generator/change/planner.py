"""Derive the steps from the observed state to the planned state.

The order of the steps, with the reasons:
1. start stopped VMs, because most steps need a quorum;
2. remove members that are not planned, because the new seeds close the firewalls to them;
3. replace lost nodes, because no node may restart while too many others are missing; replace nodes that need new
   disks and have no data disk;
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

_DATA_DISK = "vm.dataDisk"


def plan_steps(
    plan: ClusterPlan, seen: Observed, *, replace: Collection[str] = (), upgrade: Collection[str] = ()
) -> tuple[Step, ...]:
    """Return the steps in order. Empty if the cluster is as planned.

    `replace`: nodes that the user wants replaced. `upgrade`: nodes that the user wants to have a new image.
    """
    useless = {node.name for node in plan.nodes if node.name in replace or _is_lost(node, seen)}
    outdated = {node.name for node in plan.nodes if _needs_disk(node, seen, upgrade)} - useless
    reimaged = {name for name in outdated if _keeps_data(name, seen)}
    to_replace = useless | outdated - reimaged
    if not seen.members and reimaged:
        return tuple(_updates(plan, seen, to_replace, reimaged))  # a cluster that an upgrade has stopped
    return (
        *_starts(plan, seen, useless),
        *_removals(plan, seen),
        *_copies(plan, seen),
        *_replacements(plan, seen, to_replace),
        *_updates(plan, seen, to_replace, reimaged),
        *_additions(plan, seen, to_replace),
    )


def _is_lost(node: NodePlan, seen: Observed) -> bool:
    """Return whether a started member of the cluster has lost its VM or disk.

    If the member answers, its VM runs where bake cannot see it.
    """
    member = seen.member_of(node)
    gone = seen.power_of(node.name) is Power.LOST
    return gone and member is not None and member.started and member.id not in seen.answering


def _needs_disk(node: NodePlan, seen: Observed, upgrade: Collection[str]) -> bool:
    """Return whether a member needs new disks.

    If no member answers, only the user can know whether a node is a member.
    """
    if node.name in upgrade:
        return not seen.members or _has_joined(node, seen)
    return node.name in seen.rebuild and _has_joined(node, seen)


def _keeps_data(name: str, seen: Observed) -> bool:
    """Return whether a new root disk is enough, because etcd's data is on a disk that stays."""
    return name in seen.keeps_data and _DATA_DISK not in seen.rebuild.get(name, ())


def _starts(plan: ClusterPlan, seen: Observed, useless: Collection[str]) -> Iterator[Step]:
    """Yield a step for each stopped VM. A node that only needs other disks starts too, because it counts for quorum."""
    for node in plan.nodes:
        if node.name not in useless and seen.power_of(node.name) is Power.STOPPED:
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


def _copies(plan: ClusterPlan, seen: Observed) -> Iterator[Step]:
    """Yield a step for each planned node that has another VM, on a host that was down while the node was replaced."""
    for node in plan.nodes:
        if hosts := seen.copies.get(node.name):
            yield Step(
                action=Action.REMOVE, node=node.name, reason=f"an old VM of the node is left on {', '.join(hosts)}",
                loses="the old VM and its disk are deleted",
            )  # fmt: skip


def name_of(member: Member) -> str:
    """Return a member's name, or its peer URL if it has never started."""
    return member.name or ", ".join(member.peer_urls)


def _updates(
    plan: ClusterPlan, seen: Observed, to_replace: Collection[str], reimaged: Collection[str]
) -> Iterator[Step]:
    """Yield a step for each node whose seed, VM or root disk is outdated.

    The leader is last, except for nodes on hosts that do not answer.
    """
    waiting = [
        node for node in plan.nodes
        if node.name in reimaged or (node.name not in to_replace and _has_joined(node, seen))
    ]  # fmt: skip
    for node in sorted(waiting, key=lambda node: (seen.power_of(node.name) is Power.UNKNOWN, _is_leader(node, seen))):
        level, differing = seen.pending.get(node.name, Level.NONE), seen.outdated.get(node.name, ())
        reasons = [*(["has a new seed"] if level is not Level.NONE else []), *differing]
        if node.name in seen.waiting and level is Level.NONE:
            reasons.insert(0, "waits for a reboot because of a seed that is no longer planned")
        if differing or node.name in seen.waiting:
            level = max(level, Level.REBOOT, key=lambda one: one.rank)  # the VM gets its definition when it starts
        if node.name in reimaged:
            level = Level.REPLACE
            reasons = [f"gets a new root disk ({_cause(node, seen)})", *reasons]
        if reasons:
            disturbs = level.rank >= Level.RESTART.rank
            yield Step(
                action=Action.UPDATE, node=node.name, level=level, reason=", ".join(reasons),
                effect=effect_of_stopping(node, seen) if disturbs else Effect.NONE,
            )  # fmt: skip


def _cause(node: NodePlan, seen: Observed) -> str:
    return ", ".join(seen.rebuild.get(node.name, ())) or "new image"


def _is_leader(node: NodePlan, seen: Observed) -> bool:
    member = seen.member_of(node)
    return member is not None and member.id == seen.leader


def effect_of_stopping(node: NodePlan, seen: Observed) -> Effect:
    """Return the effect if etcd on the node stops for a while.

    A cluster of one or two voters has no quorum meanwhile. If the node leads, another voter becomes the leader first.
    """
    member = seen.member_of(node)
    if member is not None and not member.is_learner and len(seen.voters) < 3:
        return Effect.PAUSE
    return Effect.ELECTION if _is_leader(node, seen) else Effect.RECONNECT


def _replacements(plan: ClusterPlan, seen: Observed, to_replace: Collection[str]) -> Iterator[Step]:
    """Yield a step for each node to replace: lost nodes first, because the others need them for the quorum."""
    nodes = [node for node in plan.nodes if node.name in to_replace]
    for node in sorted(nodes, key=lambda one: (not _is_lost(one, seen), _is_leader(one, seen))):
        is_lost, differing = _is_lost(node, seen), ", ".join(seen.rebuild.get(node.name, ()))
        reason = f"needs new disks ({differing})" if differing else "you asked for it"
        yield Step(
            action=Action.REPLACE, node=node.name, reason="its VM or disk is lost" if is_lost else reason,
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
            loses = "the disk that is left of its earlier VM is deleted" if node.name in seen.left else ""
            yield Step(action=Action.ADD, node=node.name, reason=reason, loses=loses)


def _has_joined(node: NodePlan, seen: Observed) -> bool:
    member = seen.member_of(node)
    return member is not None and member.started and not member.is_learner
