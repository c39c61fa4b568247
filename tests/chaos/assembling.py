"""Rows about the assembly itself: processes killed at any moment, nodes switched on together."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

from tests.assembly import processes
from tests.assembly.miniature import Node
from tests.chaos.trial import Outcome, Row, Trial
from tests.chaos.world import World, shuffled

FAULTS = ("etcd", "hook", "etcdctl", "power")
ASSEMBLY = {3: 9.0, 5: 20.0}  # seconds that it takes about, undisturbed


def kills(trial: Trial) -> Outcome:
    size = (3, 5)[trial.number % 2]
    rng, world = trial.rng, trial.world(size)
    faults = sorted(
        (rng.uniform(0, ASSEMBLY[size]), rng.choice(FAULTS), rng.randrange(size), rng.uniform(0.05, 2.0))
        for _ in range(rng.randint(1, 6))
    )
    trial.label = f"{size} nodes: " + ", ".join(f"{kind} of etcd{n + 1} at {at:.2f} s" for at, kind, n, _ in faults)
    started = time.monotonic()
    world.start(shuffled(world.nodes, rng))
    off: dict[float, Node] = {}
    for at, kind, number, pause in faults:
        world.sleep(max(0.0, started + at - time.monotonic()))
        _power_on(world, off, time.monotonic())
        node = world.nodes[number]
        if node in off.values():
            continue
        if kind == "power" or not _kill_one(world, node, kind, rng):
            world.cut(node)
            off[time.monotonic() + pause] = node
    while off:
        world.sleep(0.05)
        _power_on(world, off, time.monotonic())
    return Outcome(label=f"{size} nodes", seconds=world.converge())


def _power_on(world: World, off: dict[float, Node], now: float) -> None:
    for moment in [moment for moment in off if moment <= now]:
        world.cluster.start([off.pop(moment)])


def _kill_one(world: World, node: Node, kind: str, rng: random.Random) -> bool:
    """One process of that kind, or of the next that runs; a hook that only sleeps has no etcdctl."""
    kinds = {"etcd": ("etcd",), "hook": ("etcd-join", "etcd-promote"), "etcdctl": ("etcdctl",)}
    for wanted in (kind, "hook", "etcd"):
        deadline = time.monotonic() + (0.3 if wanted == "etcdctl" else 0)
        while not (found := world.running(node, *kinds[wanted])) and time.monotonic() < deadline:
            world.sleep(0.005)
        if found:
            processes.kill(rng.choice(sorted(found, key=lambda some: some.pid)))
            return True
    return False


def first_log(trial: Trial) -> Outcome:
    """Both nodes start; the kill is aimed at the etcd whose first log has just appeared."""
    role = ("bootstrap", "joiner")[trial.number % 2]
    world, rng = trial.world(2), trial.rng
    delay, power = rng.uniform(0, trial.aim), rng.random() < 0.25
    trial.label = f"{role}: {'power cut' if power else 'SIGKILL'} {delay * 1000:.1f} ms after the log"
    node = world.nodes[trial.number % 2]
    world.start(shuffled(world.nodes, rng))
    wal, victim = node.data_dir / "member/wal", None

    def appeared() -> bool:
        nonlocal victim
        there = wal.exists()  # first: whoever wrote it runs by now, and is found
        victim = victim or processes.etcd_of(node.root)
        return there and victim is not None

    world.wait(appeared, trial.limit, "the first log appears", pause=0.0003)
    time.sleep(delay)
    if power:
        world.cut(node)
        world.cluster.start([node])
    else:
        assert victim is not None
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    return Outcome(label=role, seconds=world.converge())


def together(trial: Trial) -> Outcome:
    size = (3, 5, 7)[trial.number % 3]
    world, rng = trial.world(size), trial.rng
    trial.label = f"{size} nodes"
    for node, pause in _within_a_second(world, rng):
        world.sleep(pause)
        world.start([node])
    # The clock runs from the last start on.
    return Outcome(label=f"{size} nodes", seconds=world.converge())


def _within_a_second(world: World, rng: random.Random) -> Iterator[tuple[Node, float]]:
    moments = sorted(rng.uniform(0, 1) for _ in world.nodes)
    before = moments[0]
    for node, moment in zip(shuffled(world.nodes, rng), moments, strict=True):
        yield node, moment - before
        before = moment


ROWS = {
    "kills": Row(
        what="1 to 6 SIGKILLs hit etcd, a hook, etcdctl or a whole node at random moments while 3 or 5 nodes assemble",
        goal="every node is a voter after the last SIGKILL; p99 is within 30 s", trials=300, gate=3, run=kills,
    ),
    "first-log": Row(
        what="etcd gets a SIGKILL 0–60 ms after its first log file appears, on the first node or on a joining node",
        goal="every node is a voter; the unfinished log is kept aside", trials=200, gate=6, run=first_log,
    ),
    "together": Row(
        what="3, 5 or 7 nodes start within a second, in any order",
        goal="every node is a voter; each node after the second adds about 5 s", trials=30, gate=1,
        run=together, alone=True,
    ),
}  # fmt: skip
