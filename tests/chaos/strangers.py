"""A row about nodes that are not who they seem: duplicates of a name, of an address, of a seed; addresses swapped."""

from __future__ import annotations

from collections.abc import Callable

from tests.assembly.miniature import Node
from tests.chaos.trial import Outcome, Row, Trial
from tests.chaos.world import TrialError, World, shuffled

LONG_ENOUGH = 8.0  # seconds for which the others must not mind


def _intruder(trial: Trial, name: str, *, own_address: bool) -> float:
    """A fourth node that believes to be one of three, comes when they are whole, and must change nothing."""
    world = trial.world(4)
    *trio, stranger = world.nodes
    world.members, world.planned = trio, 3
    third = trio[2]
    if not own_address:
        _take_address(world, stranger, third)
    place = stranger if own_address else third
    for node in (*trio, stranger):
        last = (name, place) if node is stranger else (third.plan.name, third)
        planned = [(one.plan.name, one) for one in trio[:2]] + [last]
        urls = " ".join(f"{called}={one.plan.peer_url}" for called, one in planned)
        world.set(node, "bake.env", "BAKE_MEMBERS", urls)
        world.set(node, "bake.env", "BAKE_CLIENT_URLS", " ".join(one.plan.client_url for _, one in planned))
    world.set(stranger, "bake.env", "BAKE_NAME", name)
    world.start(shuffled(trio, trial.rng))
    world.become_whole()
    before = world.listed(trio[0])
    world.wait_for_writes()
    world.cluster.start([stranger])
    world.sleep(LONG_ENOUGH)
    if found := list(world.disk(stranger).glob("*/member")):
        raise TrialError(f"the stranger has become a member: {found}\n{world.story()}")
    took = world.converge()
    after = world.listed(trio[0])
    if after != before or world.watch.strange(before):
        seen = world.watch.members
        raise TrialError(f"the member list was changed: {before} → {after}, with {seen} seen\n{world.story()}")
    return took


def _take_address(world: World, stranger: Node, owner: Node) -> None:
    world.rewrite(stranger, (str(stranger.plan.address), str(owner.plan.address)))
    for pem in (owner.root / "etc/etcd/pki").iterdir():
        (stranger.root / "etc/etcd/pki" / pem.name).write_bytes(pem.read_bytes())


def duplicate_name(trial: Trial) -> float:
    return _intruder(trial, "etcd3", own_address=True)


def duplicate_address(trial: Trial) -> float:
    return _intruder(trial, "etcd9", own_address=False)


def same_seed_twice(trial: Trial) -> float:
    return _intruder(trial, "etcd3", own_address=False)


def swapped_before(trial: Trial) -> float:
    """Two clusters, the third nodes of which are at each other's address from the first moment on."""
    worlds = trial.world(3), trial.world(3)
    _swap(*worlds)
    for world in worlds:
        world.start(shuffled(world.nodes, trial.rng))
    return _apart_then_whole(worlds)


def swapped_after(trial: Trial) -> float:
    """The same, once both clusters are whole."""
    worlds = trial.world(3), trial.world(3)
    for world in worlds:
        world.start(shuffled(world.nodes, trial.rng))
    for world in worlds:
        world.become_whole()
    for world in worlds:
        world.cut(world.nodes[2])
    _swap(*worlds)
    for world in worlds:
        world.cluster.start([world.nodes[2]])
    return _apart_then_whole(worlds)


def _swap(one: World, other: World) -> None:
    ours, theirs = str(one.nodes[2].plan.address), str(other.nodes[2].plan.address)
    for world in (one, other):
        text = "".join(path.read_text() for path in (world.nodes[2].root / "etc/etcd").glob("*.*") if path.is_file())
        world.rewrite(world.nodes[2], (ours, theirs) if ours in text else (theirs, ours))


def _apart_then_whole(worlds: tuple[World, World]) -> float:
    one, other = worlds
    one.sleep(LONG_ENOUGH)
    if both := one.watch.cluster_ids & other.watch.cluster_ids:
        raise TrialError(f"two clusters have become one: {both}\n{one.story()}\n{other.story()}")
    for world in worlds:
        world.cut(world.nodes[2])
    _swap(*worlds)
    for world in worlds:
        world.cluster.start([world.nodes[2]])
    took = max(world.converge() for world in worlds)
    if both := one.watch.cluster_ids & other.watch.cluster_ids:
        raise TrialError(f"two clusters have become one: {both}")
    return took


CASES: dict[str, Callable[[Trial], float]] = {
    "duplicate name": duplicate_name,
    "duplicate address": duplicate_address,
    "same seed twice": same_seed_twice,
    "swapped before": swapped_before,
    "swapped after": swapped_after,
}


def strangers(trial: Trial) -> Outcome:
    trial.label = list(CASES)[trial.number % len(CASES)]
    return Outcome(label=trial.label, seconds=CASES[trial.label](trial))


ROWS = {
    "strangers": Row(
        what="a name, an address or a seed that two nodes use, or the address of a node in another cluster",
        goal="no unplanned node joins, no healthy member is removed; every node is a voter afterwards", trials=50,
        gate=5, run=strangers,
    ),
}  # fmt: skip
