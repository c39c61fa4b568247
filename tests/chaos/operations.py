"""Rows about a cluster that changes: bake, a node or both are killed in the middle of an operation, under writers.

The nodes are real etcd processes with the real join hooks (`process_lab`). bake runs in a process of its own, and a
second run of bake must finish what the first run began.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.assembly.change_lab import ChangeLab, most_nodes
from tests.assembly.process_lab import ProcessMachines
from tests.chaos.runner import tell
from tests.chaos.trial import Outcome, Row, Trial
from tests.chaos.world import Interrupted

TOOK = {  # seconds, undisturbed, about
    "grow": 12.0, "shrink": 6.0, "replace": 9.0, "update": 8.0, "rebuild": 12.0, "rotate": 11.0,
}  # fmt: skip
STEPS = 6  # operations in one life


@contextmanager
def no_cluster(trial: Trial) -> Iterator[ChangeLab]:
    """Machines without a cluster. If the run is to end, what the trial waits for ends."""
    assert trial.tools is not None
    out, done = trial.folder / "out/etcd", threading.Event()
    machines = ProcessMachines(most_nodes(), out, tools=trial.tools, work=trial.folder / "nodes")
    try:
        with ChangeLab.blank(machines, trial.folder, say=tell) as cluster:
            threading.Thread(target=_stop_when_over, args=(trial, cluster, done), daemon=True).start()
            yield cluster
    except Exception:
        if trial.over.is_set():
            raise Interrupted from None
        raise
    finally:
        done.set()


@contextmanager
def running_cluster(trial: Trial, size: int) -> Iterator[ChangeLab]:
    """A cluster of `size` nodes."""
    with no_cluster(trial) as cluster:
        cluster.make_seeds(1)
        cluster.assemble("etcd1")
        if size > 1:
            cluster.change("apply", "--nodes", str(size))
        yield cluster


def _stop_when_over(trial: Trial, cluster: ChangeLab, done: threading.Event) -> None:
    while not done.wait(0.2):
        if trial.over.is_set():
            cluster.stop()


def killed(operation: str) -> Callable[[Trial], Outcome]:
    """Return the trial of a row that kills one operation on a cluster of three nodes."""

    def run(trial: Trial) -> Outcome:
        with running_cluster(trial, 3) as cluster:
            started = time.monotonic()
            trial.label = _kill(cluster, trial.rng, operation, size=3, number=trial.number)
            must_be_whole(cluster)
            return Outcome(label=operation, seconds=time.monotonic() - started)

    return run


def life(trial: Trial) -> Outcome:
    """Some operations in any order; each may be killed, or a node may have lost its disk before."""
    rng, size, done = trial.rng, trial.rng.choice((1, 3)), []
    with running_cluster(trial, size) as cluster:
        started = time.monotonic()
        for number in range(STEPS):
            operation = rng.choice([*TOOK, *(["lost"] if size > 1 else [])])
            if operation == "grow" and size == 5:
                operation = "shrink"
            if operation in ("shrink", "replace") and size == 1:
                operation = "grow"
            done.append(operation)
            trial.label = f"{', '.join(done)} from {size} nodes"
            if operation == "lost":
                cluster.lab.lose_disk(rng.choice(names(size)))
                assert [action for action, _ in cluster.change("apply")] == ["replace"]
            elif rng.random() < 0.5:
                _kill(cluster, rng, operation, size=size, number=number)
            else:
                cluster.change(*_words(cluster, rng, operation, size=size, number=number))
            size += {"grow": 2, "shrink": -2}.get(operation, 0)
            must_be_whole(cluster)
            assert cluster.members() == names(size)
        return Outcome(label="life", seconds=time.monotonic() - started)


def _kill(cluster: ChangeLab, rng: random.Random, operation: str, *, size: int, number: int) -> str:
    words, again = commands(cluster, rng, operation, size=size, number=number)
    nodes = names(max(size, 3)) if size > 1 else ()  # a single node's power cut ends every write meanwhile
    return cluster.kill(rng, TOOK[operation], *words, again=again, nodes=nodes)


def commands(
    cluster: ChangeLab, rng: random.Random, operation: str, *, size: int, number: int
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the command of an operation, and the commands that finish it."""
    words = _words(cluster, rng, operation, size=size, number=number)
    if operation == "rotate":  # the command does not start a stopped node, and waits for a node that stops meanwhile
        return (*words, "--wait", "45"), (("apply",), words)
    return words, (("apply",) if words[0] == "replace" else words,)


def names(size: int) -> list[str]:
    return [f"etcd{number}" for number in range(1, size + 1)]


def _words(cluster: ChangeLab, rng: random.Random, operation: str, *, size: int, number: int) -> tuple[str, ...]:
    """Return the command of bake for an operation. `number`: makes each option and each disk a new one."""
    if operation == "replace":
        return ("replace", rng.choice(names(size)))
    if operation == "rotate":
        return ("certs", "rotate", "--ca", "--all-phases")
    wanted = size + {"grow": 2, "shrink": -2}.get(operation, 0)
    option, disk = cluster.settings.setdefault("option", 200), cluster.settings.setdefault("disk", 8)
    if operation == "update":
        option = cluster.settings["option"] = option + 1
    if operation == "rebuild":
        disk = cluster.settings["disk"] = disk + 1
    text = f"nodes: {wanted}\netcd: {{options: {{max-txn-ops: {option}}}}}\nvm: {{disk: {disk}}}\n"
    return ("apply", "--config", cluster.spec_file(text))


def must_be_whole(cluster: ChangeLab) -> None:
    """Nothing is left to do, no seed is in a drive, and every acknowledged key of every earlier writer is there."""
    done = cluster.bake("plan", "--detailed-exitcode")
    assert done.code == 0, done.stdout + done.stderr
    assert not any(machine.has_seed for machine in cluster.engine().machines().values())
    cluster.must_have_all_keys()


GOAL = "a second run finishes; no acknowledged write is lost; the history of reads and writes is linearizable"
_WHAT = {
    "grow": "a cluster grows from 3 to 5 nodes",
    "shrink": "a cluster shrinks from 3 nodes to 1 node",
    "replace": "one of three nodes is replaced",
    "update": "three nodes get another option of etcd",
    "rebuild": "three nodes get new root disks",
    "rotate": "three nodes get new CAs, in three phases",
}
ROWS = {
    **{
        f"{name}-killed": Row(
            what=f"{what}; bake, a node or both are killed at a random moment", goal=GOAL, trials=20, gate=1,
            run=killed(name),
        )
        for name, what in _WHAT.items()
    },
    "lives": Row(
        what=f"{STEPS} operations in any order on one cluster; half of them are killed, some after a disk is lost",
        goal=GOAL, trials=30, gate=1, run=life,
    ),
}  # fmt: skip
