"""Random lives of a cluster: whatever happens to it, the planned steps keep its quorum and its data, and end.

A small model of etcd's rules takes the steps: a member without quorum changes nothing, a voter that answers has all
acknowledged writes, a removed member's data is gone. `BAKE_EXAMPLES=5000` tries more lives.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from generator.change.gate import obstacle
from generator.change.observed import Observed, Power, quorum
from generator.change.planner import plan_steps
from generator.change.steps import Action, Effect, Step
from generator.config.load import load
from generator.etcd.answers import Member
from generator.level import Level
from generator.plan import ClusterPlan, plan_cluster

EXAMPLES = int(os.environ.get("BAKE_EXAMPLES", "600"))
PLANS = {count: plan_cluster(load(flags={"--nodes": (("nodes",), count)}).spec) for count in range(1, 8)}
NAMES = [node.name for node in PLANS[7].nodes]
NODES = {node.name: node for node in PLANS[7].nodes}
MOST_STEPS = 60  # more steps than any change of seven nodes needs


@dataclass
class World:
    """What stands. `voters`: member ids by node. `writes`: how many writes each disk has."""

    plan: ClusterPlan
    voters: dict[str, int] = field(default_factory=dict)
    learners: dict[str, int] = field(default_factory=dict)
    power: dict[str, Power] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    pending: dict[str, Level] = field(default_factory=dict)
    leader: str = ""
    acknowledged: int = 0
    next_id: int = 1

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
        elif step.action is Action.UPDATE:
            self.pending.pop(name, None)
        elif step.action is Action.REPLACE:
            self.power[name] = Power.RUNNING
            self.writes[name] = 0
            others = [one for one in self.alive if one != name]
            if len(others) >= quorum(len(self.voters)):
                self.voters.pop(name, None)  # the node removes its old member and joins again
                self.join(name)
            self.pending.pop(name, None)
        else:
            self.power[name] = Power.RUNNING
            self.join(name)
            self.pending.pop(name, None)


def born(count: int) -> World:
    world = World(plan=PLANS[count])
    for node in world.plan.nodes:
        world.voters[node.name], world.next_id = world.next_id, world.next_id + 1
        world.power[node.name], world.writes[node.name] = Power.RUNNING, 0
    world.live()
    return world


def change(world: World, wished: tuple[str, ...], most: int) -> bool:
    """Apply the plan as `bake apply` does, at most `most` steps. Return whether the cluster is as planned."""
    left = set(wished)
    for _ in range(most):
        steps = plan_steps(world.plan, world.seen(), replace=left)
        if not steps:
            return True
        step = steps[0]
        if obstacle(step, world.plan, world.seen()) is not None:
            return False
        had_quorum = world.has_quorum
        world.take(step)
        left.discard(step.node)
        assert world.has_quorum or not had_quorum, f"{step} cost the quorum"
        assert step.effect is not Effect.NONE or step.level is None or step.level.rank < Level.RESTART.rank
        world.live()
    return False


EVENTS = st.one_of(
    st.tuples(st.just("plan"), st.integers(1, 7)),
    st.tuples(st.just("stop"), st.sampled_from(NAMES)),
    st.tuples(st.just("lose"), st.sampled_from(NAMES)),
    st.tuples(st.just("bake"), st.sampled_from([Level.LIVE, Level.RESTART, Level.REBOOT])),
    st.tuples(st.just("replace"), st.sampled_from(NAMES)),
    st.tuples(st.just("apply"), st.integers(1, MOST_STEPS)),  # a killed apply takes only some of its steps
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(1, 7), st.lists(EVENTS, max_size=12))
def test_no_life_of_a_cluster_costs_its_quorum_or_its_data(count: int, events: list[tuple[str, object]]) -> None:
    world = born(count)
    for kind, what in events:
        if kind == "plan":
            assert isinstance(what, int)
            world.plan = PLANS[what]
        elif kind in ("stop", "lose"):
            name = str(what)
            if world.power.get(name) is Power.RUNNING and (kind == "stop" or world.writes.get(name) is not None):
                world.power[name] = Power.STOPPED if kind == "stop" else Power.LOST
        elif kind == "bake":
            assert isinstance(what, Level)
            world.pending |= dict.fromkeys((node.name for node in world.plan.nodes), what)
        elif kind == "replace":
            planned = {node.name for node in world.plan.nodes}
            change(world, (str(what),) if str(what) in planned else (), MOST_STEPS)
        else:
            assert isinstance(what, int)
            change(world, (), what)
        world.live()
    lost = [name for name, power in world.power.items() if power is Power.LOST and name in world.voters]
    if len(world.voters) - len(lost) < quorum(len(world.voters)):
        return  # only a restore helps
    # A lost node can be replaced only while the plan has all members; afterwards the cluster can shrink.
    target, world.plan = world.plan, PLANS[max(NAMES.index(name) for name in world.voters) + 1]
    for plan in (world.plan, target):
        world.plan = plan
        assert change(world, (), MOST_STEPS), plan_steps(world.plan, world.seen())
    assert set(world.voters) == {node.name for node in world.plan.nodes}
    assert len({world.writes[name] for name in world.voters}) == 1
