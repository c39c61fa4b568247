"""Random lives of a cluster: whatever happens to it, the planned steps keep its quorum and its data, and end.

A model of etcd's rules takes the steps. `BAKE_EXAMPLES=5000` tries more lives.
"""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from generator.change.gate import obstacle
from generator.change.observed import Power, quorum
from generator.change.planner import plan_steps
from generator.change.steps import Effect
from generator.level import Level
from tests.unit.cluster_world import NAMES, PLANS, World, born

EXAMPLES = int(os.environ.get("BAKE_EXAMPLES", "600"))
MOST_STEPS = 60  # more steps than any change of seven nodes needs


def change(world: World, wished: tuple[str, ...], most: int, *, upgrade: bool = False) -> bool:
    """Apply the plan as `bake apply` does, at most `most` steps. Return whether the cluster is as planned."""
    left = set(wished)
    for _ in range(most):
        old = [name for name in world.power if upgrade and world.image[name] != world.newest]
        steps = plan_steps(world.plan, world.seen(), replace=left, upgrade=old)
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
    st.tuples(st.just("disk"), st.none()),  # another size of the root disks
    st.tuples(st.just("image"), st.none()),
    st.tuples(st.just("upgrade"), st.integers(1, MOST_STEPS)),
    st.tuples(st.just("apply"), st.integers(1, MOST_STEPS)),  # a killed apply takes only some of its steps
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(1, 7), st.booleans(), st.lists(EVENTS, max_size=12))
def test_no_life_of_a_cluster_costs_its_quorum_or_its_data(
    count: int, data_disks: bool, events: list[tuple[str, object]]
) -> None:
    world = born(count, data_disks=data_disks)
    for kind, what in events:
        if kind == "plan":
            assert isinstance(what, int)
            world.plan = PLANS[what]
        elif kind in ("stop", "lose"):
            name = str(what)
            if world.power.get(name) is Power.RUNNING and (kind == "stop" or world.writes.get(name) is not None):
                world.power[name] = Power.STOPPED if kind == "stop" else Power.LOST
        elif kind == "disk":
            world.rebuild |= set(world.voters)
        elif kind == "image":
            world.newest += 1
        elif kind == "upgrade":
            assert isinstance(what, int)
            change(world, (), what, upgrade=True)
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
    if not data_disks and len(world.voters) < 3:
        world.rebuild.clear()  # no other node has the data, so the user takes the change of the disks back
    # A lost node can be replaced only while the plan has all members; afterwards the cluster can shrink.
    target, world.plan = world.plan, PLANS[max(NAMES.index(name) for name in world.voters) + 1]
    for plan in (world.plan, target):
        world.plan = plan
        assert change(world, (), MOST_STEPS), plan_steps(world.plan, world.seen())
    assert set(world.voters) == {node.name for node in world.plan.nodes}
    assert len({world.writes[name] for name in world.voters}) == 1
