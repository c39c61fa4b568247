"""Rows about disks: a first node that lost its own, and members that an operator has removed."""

from __future__ import annotations

import time

from tests.assembly.miniature import Node
from tests.chaos.trial import Outcome, Row, Trial
from tests.chaos.world import TrialError, World, shuffled

STAYS_OUT = 6.0  # seconds for which nothing must happen

WIPED = tuple((others, permit) for others in ("all down", "one up", "all up") for permit in (True, False))
REMOVED = tuple((state, kept) for state in ("running", "off") for kept in (True, False))


def wiped_first(trial: Trial) -> Outcome:
    others, permit = WIPED[trial.number % len(WIPED)]
    trial.label = f"others {others}, {'original seed' if permit else 'sealed'}"
    world = _assembled(trial)
    first, second, third = world.nodes
    off = {"all up": [], "all down": [second, third], "one up": [third]}[others]
    for node in shuffled(off, trial.rng):
        world.cut(node)
    world.wipe(first)
    world.permit(first, permit)
    world.cluster.start([first])
    if off:
        world.sleep(STAYS_OUT)
        _must_be_empty(world, first)
        world.cluster.start(shuffled(off, trial.rng))
    return Outcome(label=f"others {others}", seconds=world.converge())


def removed(trial: Trial) -> Outcome:
    state, kept = REMOVED[trial.number % len(REMOVED)]
    world = _assembled(trial)
    gone, *rest = shuffled(world.nodes, trial.rng)
    trial.label = f"{gone.plan.name} removed while {state}, then started {'with' if kept else 'without'} its data"
    if state == "off":
        world.cut(gone)
    known = world.remove(gone, rest[0])
    world.cut(gone)
    if not kept:
        world.wipe(gone)
    world.members = rest
    world.cluster.start([gone])
    if kept:
        world.wait(lambda: not gone.running(), trial.limit, f"the unit of {gone.plan.name}, which was removed, ends")
    else:
        world.wait(lambda: gone.says("this node was removed"), trial.limit, f"{gone.plan.name} is told so")
    _must_stay_out(world, gone, ended=kept)
    if rejoined := world.watch.members.get(gone.plan.name, set()) - {known}:
        raise TrialError(f"{gone.plan.name} was removed, and joined again as {rejoined}\n{world.story()}")
    world.converge()
    return Outcome(label=state)


def _assembled(trial: Trial) -> World:
    world = trial.world(3)
    world.start(shuffled(world.nodes, trial.rng))
    world.become_whole()
    world.wait_for_writes()
    return world


def _must_stay_out(world: World, node: Node, *, ended: bool) -> None:
    """Its etcd does not run again; with its data, which tell it that it was removed, not even its unit."""
    deadline = time.monotonic() + STAYS_OUT
    while time.monotonic() < deadline:
        world.sleep(0.1)
        if (ended and node.running()) or world.running(node, "etcd"):
            raise TrialError(f"{node.plan.name} was removed, and runs again\n{world.story()}")


def _must_be_empty(world: World, node: Node) -> None:
    if found := list(world.disk(node).glob("*/member")):
        raise TrialError(f"{node.plan.name} started a cluster of its own: {found}\n{world.story()}")


ROWS = {
    "wiped-first": Row(
        what="the wiped first node starts again while all, none or one of the others are up; its seed is sealed or not",
        goal="never a second cluster; no data lost; every node is a voter once the others are up", trials=102, gate=3,
        run=wiped_first,
    ),
    "removed": Row(
        what="a member that an operator removed while it was running or off starts again, with its data or without",
        goal="the node reports its removal and never joins again", trials=40, gate=2, run=removed,
    ),
}  # fmt: skip
