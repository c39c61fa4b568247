"""A small model of etcd's rules: a member without quorum changes nothing, a voter that answers has all acknowledged
writes, a removed member's data is gone."""

from __future__ import annotations

from dataclasses import dataclass, field

from generator.change.observed import Observed, Power, quorum
from generator.change.steps import Action, Step
from generator.config.load import load
from generator.etcd.answers import Member
from generator.level import Level
from generator.plan import ClusterPlan, plan_cluster

PLANS = {count: plan_cluster(load(flags={"--nodes": (("nodes",), count)}).spec) for count in range(1, 8)}
NAMES = [node.name for node in PLANS[7].nodes]
NODES = {node.name: node for node in PLANS[7].nodes}


@dataclass
class World:
    """What stands.

    `voters`: member ids by node. `writes`: how many writes each disk has. `rebuild`: nodes that need a new root disk.
    `keeps_data`: nodes with a data disk. `image`: what each node's root disk was made from.
    """

    plan: ClusterPlan
    voters: dict[str, int] = field(default_factory=dict)
    learners: dict[str, int] = field(default_factory=dict)
    power: dict[str, Power] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    pending: dict[str, Level] = field(default_factory=dict)
    outdated: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rebuild: set[str] = field(default_factory=set)
    keeps_data: set[str] = field(default_factory=set)
    image: dict[str, int] = field(default_factory=dict)
    copies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    leader: str = ""
    acknowledged: int = 0
    next_id: int = 1
    newest: int = 1  # the newest image

    @property
    def alive(self) -> list[str]:
        return [name for name in self.voters if self.power.get(name) is Power.RUNNING]

    @property
    def has_quorum(self) -> bool:
        return len(self.alive) >= quorum(len(self.voters))

    def seen(self) -> Observed:
        listed = [(name, number, False) for name, number in self.voters.items()]
        listed += [(name, number, True) for name, number in self.learners.items()]
        members = tuple(
            Member(id=number, name=name, peer_urls=(NODES[name].peer_url,), client_urls=(NODES[name].client_url,),
                   is_learner=learner)
            for name, number, learner in listed
        )  # fmt: skip
        return Observed(
            members=members if self.has_quorum else (),
            answering=frozenset(self.voters[name] for name in self.alive if self.has_quorum),
            leader=self.voters.get(self.leader, 0) if self.has_quorum else 0,
            machines={name: power for name, power in self.power.items() if power is not Power.LOST},
            outdated=self.outdated,
            copies=dict(self.copies),
            rebuild=dict.fromkeys(self.rebuild, ("vm.disk",)),
            keeps_data=frozenset(self.keeps_data & {name for name, one in self.power.items() if one is not Power.LOST}),
            pending={name: level for name, level in self.pending.items() if name in {n.name for n in self.plan.nodes}},
        )

    def live(self) -> None:
        """Let etcd do its part: elect a leader, write, copy the data to voters that run, let running nodes join."""
        if not self.has_quorum:
            return
        if self.leader not in self.alive:
            self.leader = max(self.alive, key=lambda name: self.writes[name])
        assert self.writes[self.leader] == self.acknowledged, "the elected leader lacks acknowledged writes"
        self.acknowledged += 1
        for name in self.alive:
            self.writes[name] = self.acknowledged

    def join(self, name: str) -> None:
        """A node without data that runs and is planned becomes a voter if every voter is connected."""
        if self.has_quorum and len(self.alive) == len(self.voters) and name not in self.voters:
            self.learners.pop(name, None)
            self.voters[name], self.next_id = self.next_id, self.next_id + 1
            self.writes[name] = self.acknowledged

    def take(self, step: Step) -> None:
        name = step.node
        if step.action is Action.START:
            self.power[name] = Power.RUNNING
            self.pending.pop(name, None)
        elif step.action is Action.REMOVE:
            self.voters.pop(name, None)
            self.learners.pop(name, None)
            self.power.pop(name, None)
            self.rebuild.discard(name)
        elif step.action is Action.UPDATE:
            self.pending.pop(name, None)
            if step.level is Level.REPLACE:
                assert name in self.keeps_data, "the data would be lost"
                self.rebuild.discard(name)
                self.image[name] = self.newest
        elif step.action is Action.REPLACE:
            self.power[name] = Power.RUNNING
            self.rebuild.discard(name)
            self.image[name] = self.newest
            self.writes[name] = 0
            others = [one for one in self.alive if one != name]
            if len(others) >= quorum(len(self.voters)):
                self.voters.pop(name, None)  # the node removes its old member and joins again
                self.join(name)
            self.pending.pop(name, None)
        else:
            self.power[name] = Power.RUNNING
            self.image[name] = self.newest
            self.join(name)
            self.pending.pop(name, None)


def born(count: int, *, data_disks: bool = False) -> World:
    world = World(plan=PLANS[count], keeps_data=set(NAMES if data_disks else ()))
    for node in world.plan.nodes:
        world.voters[node.name], world.next_id = world.next_id, world.next_id + 1
        world.power[node.name], world.writes[node.name], world.image[node.name] = Power.RUNNING, 0, world.newest
    world.live()
    return world
