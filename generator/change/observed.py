"""`Observed`: the state of a cluster, as far as bake can see it at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from generator.engine import MachineStatus, State
from generator.etcd.answers import Member
from generator.level import Level
from generator.plan import ClusterPlan, NodePlan


class Power(StrEnum):
    """Whether a node's VM exists and runs.

    `lost`: the VM or its disk is missing. `unknown`: the VM's host does not answer.

    A VM with a data disk is not lost without its root disk. When it starts, the engine makes a new root disk.
    """

    RUNNING = "running"
    STOPPED = "stopped"
    LOST = "lost"
    UNKNOWN = "unknown"


def power_of(machine: MachineStatus) -> Power:
    if machine.state in (State.RUNNING, State.UNKNOWN):
        return Power(machine.state)
    has_disk = machine.has_disk or machine.has_data_disk
    is_lost = not machine.exists or machine.lost_data or not has_disk
    return Power.LOST if is_lost else Power.STOPPED


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The observed state of a cluster.

    `members`: etcd's member list, empty if no member can return it. `answering`: the ids of the members that answered a
    linearizable read. `leader`: the leader's id, or 0. `machines`: the VMs of the cluster by node name, also of nodes
    that are no longer planned; None if bake cannot see the VMs. `outdated`: for each VM that differs from the plan, the
    properties that differ. `pending`: for each node that does not run its newest seed, what the new seed costs the
    node. `rebuild`: for each VM whose disks were made from other values than the planned values, the fields that
    differ. `keeps_data`: the nodes whose data is on a disk of its own. `copies`: for some nodes, the hosts that have
    another VM of the node. `waiting`: the nodes that wait for a reboot, because they got a seed that needs one.
    `left`: the nodes of which bake finds a disk, but no VM. `alarms`: the kinds of etcd's active alarms.
    """

    members: tuple[Member, ...]
    answering: frozenset[int] = frozenset()
    leader: int = 0
    machines: Mapping[str, Power] | None = None
    outdated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pending: Mapping[str, Level] = field(default_factory=dict)
    rebuild: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keeps_data: frozenset[str] = frozenset()
    copies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()
    alarms: frozenset[str] = frozenset()

    @property
    def voters(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if not member.is_learner)

    def member_of(self, node: NodePlan) -> Member | None:
        """Return the member with the node's peer URL, or None."""
        return next((member for member in self.members if node.peer_url in member.peer_urls), None)

    def answers(self, node: NodePlan) -> bool:
        """Return whether the node's member answered a linearizable read."""
        member = self.member_of(node)
        return member is not None and member.id in self.answering

    def power_of(self, name: str) -> Power | None:
        """Return the state of a node's VM, or None if bake cannot see the VMs."""
        return None if self.machines is None else self.machines.get(name, Power.LOST)


def unplanned_members(plan: ClusterPlan, seen: Observed) -> tuple[Member, ...]:
    """Return the members that are not nodes of the plan."""
    planned = {node.peer_url for node in plan.nodes}
    return tuple(member for member in seen.members if not planned & set(member.peer_urls))


def quorum(voters: int) -> int:
    """Return how many of `voters` voting members must agree (raft: a majority)."""
    return voters // 2 + 1
