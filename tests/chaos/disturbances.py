"""Rows that disturb links, disks or clocks, while nodes assemble and while a running cluster changes."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.assembly.change_lab import ChangeLab
from tests.assembly.remote import Remote
from tests.chaos.assembling import ASSEMBLY
from tests.chaos.operations import GOAL, TOOK, commands, must_be_whole, names, no_cluster, running_cluster
from tests.chaos.trial import Outcome, Row, Trial

DISK = 400  # MiB of a small disk
WAL = 80  # MiB of writes after which etcd needs a new file for its write-ahead log
HOUR, YEAR = 3600, 365 * 86400


@dataclass
class Disturbance:
    """What happens to some nodes for some seconds. `nodes`: the nodes that exist, or will exist after the assembly."""

    cluster: ChangeLab
    rng: random.Random
    nodes: list[str]
    label: str = ""

    def __post_init__(self) -> None:
        self.machines = Remote(self.cluster.socket)

    def prepare(self) -> None:
        """Run before a running cluster changes."""

    def run(self) -> str:
        """Disturb the nodes, undo it, and return what happened."""
        raise NotImplementedError

    def run_at_birth(self) -> str:
        """Run when the nodes have just been switched on."""
        time.sleep(self.rng.uniform(0, ASSEMBLY[len(self.nodes)] / 2))
        return self.run()

    def check(self) -> None:
        """Fail if no node noticed the disturbance."""

    def victims(self) -> list[str]:
        return self.rng.sample(self.nodes, self.rng.choice((1, 2)))


class Links(Disturbance):
    """One or two nodes are cut off, or have a lossy or slow link."""

    def run(self) -> str:
        self.label = self.rng.choice(("cut", "lossy", "slow"))
        victims, seconds = self.victims(), self.rng.uniform(2, 12)
        for node in victims:
            self.machines.disturb_link(node, self.label)
        time.sleep(seconds)
        self.machines.calm_links()
        return f"{' and '.join(victims)} {self.label} for {seconds:.1f} s"


class FullDisk(Disturbance):
    """A node's disk is full until etcd on this node ends."""

    def prepare(self) -> None:
        self.victim, self.other = self.rng.sample(self.nodes, 2)
        self.machines.shrink_disk(self.victim, DISK)

    def run(self) -> str:
        self.machines.fill_disk(self.victim)
        self.cluster.write_megabytes(WAL, self.other)
        return self._free()

    def run_at_birth(self) -> str:
        """Fill the disk before etcd makes its first log."""
        self.prepare()
        self.machines.fill_disk(self.victim)
        self.cluster.wait_until(self._noticed)
        return self._free()

    def _free(self) -> str:
        time.sleep(self.rng.uniform(1, 5))
        self.machines.free_disk(self.victim)
        return f"{self.victim}'s disk full"

    def _noticed(self) -> bool:
        return "no space left on device" in self.machines.log(self.victim)

    def check(self) -> None:
        assert self._noticed(), "etcd did not notice the full disk"


class Clocks(Disturbance):
    """The clocks of one or two nodes jump, some of them to a time at which no certificate is valid."""

    def run(self) -> str:
        victims, jumps = self.victims(), list(self._jumps())
        for seconds, pause in jumps:
            for node in victims:
                self.machines.set_clock(node, seconds)
            time.sleep(pause)
        for node in victims:
            self.machines.set_clock(node, 0)
        self.label = "expired" if any(abs(seconds) > YEAR for seconds, _ in jumps) else "valid"
        moves = ", ".join(f"{seconds / HOUR:+.0f} h for {pause:.1f} s" for seconds, pause in jumps)
        return f"the clocks of {' and '.join(victims)} jump by {moves}"

    def _jumps(self) -> Iterator[tuple[int, float]]:
        """bake's certificates are valid from 24 hours before bake makes them."""
        for _ in range(self.rng.randint(1, 4)):
            inside = self.rng.randint(-20 * HOUR, 300 * 24 * HOUR)
            yield self.rng.choice((inside, inside, -2 * YEAR, 20 * YEAR)), self.rng.uniform(0.5, 4)


def during_assembly(kind: type[Disturbance]) -> Callable[[Trial], Outcome]:
    """Return the trial of a row that disturbs 3 or 5 new nodes."""

    def run(trial: Trial) -> Outcome:
        nodes, trial.label = names((3, 5)[trial.number % 2]), "assembly"

        def disturb() -> None:
            trial.label = f"{len(nodes)} nodes: {disturbance.run_at_birth()}"

        with no_cluster(trial) as cluster:
            disturbance = kind(cluster, trial.rng, nodes)
            cluster.make_seeds(len(nodes))
            with cluster.writing() as writer:
                cluster.assemble(*nodes, fault=disturb)
                cluster.end(writer)
            disturbance.check()
            must_be_whole(cluster)
            return Outcome(label=f"{len(nodes)} nodes", seconds=cluster.took["assemble"])

    return run


def during_change(kind: type[Disturbance], *operations: str) -> Callable[[Trial], Outcome]:
    """Return the trial of a row that disturbs a cluster of three nodes while one of the operations runs."""

    def run(trial: Trial) -> Outcome:
        rng, operation = trial.rng, trial.rng.choice(operations)
        with running_cluster(trial, 3) as cluster:
            disturbance = kind(cluster, rng, names(3))
            disturbance.prepare()

            def fault(process: subprocess.Popen[str]) -> str:
                return disturbance.run()

            started = time.monotonic()
            words, again = commands(cluster, rng, operation, size=3, number=trial.number)
            trial.label = cluster.disturb(rng.uniform(0, TOOK[operation]), fault, *words, again=again)
            disturbance.check()
            must_be_whole(cluster)
            return Outcome(label=disturbance.label or operation, seconds=time.monotonic() - started)

    return run


_BIRTH = "all nodes vote; no acknowledged write is lost; the history of reads and writes is linearizable"
_LINKS = "one or two members are cut off, lossy or slow for 2–12 s"
_DISK = "a member's disk is full until etcd on this member ends"
_CLOCKS = "the clocks of one or two members jump up to four times, some beyond the validity of all certificates"
ROWS = {
    "join-links": Row(
        what=f"{_LINKS} while 3 or 5 nodes assemble", goal=_BIRTH, trials=20, gate=1, run=during_assembly(Links)
    ),
    "join-full-disk": Row(
        what=f"{_DISK} while 3 or 5 nodes assemble", goal=_BIRTH, trials=10, gate=1, run=during_assembly(FullDisk)
    ),
    "join-clocks": Row(
        what=f"{_CLOCKS}, while 3 or 5 nodes assemble", goal=_BIRTH, trials=20, gate=1, run=during_assembly(Clocks)
    ),
    "links": Row(what=f"{_LINKS} during an operation", goal=GOAL, trials=20, gate=1, run=during_change(Links, *TOOK)),
    "full-disk": Row(
        what=f"{_DISK}, during an operation", goal=GOAL, trials=10, gate=0,
        run=during_change(FullDisk, "grow", "update"),
    ),
    "clocks": Row(
        what=f"{_CLOCKS}, during an operation", goal=GOAL, trials=20, gate=1, run=during_change(Clocks, *TOOK)
    ),
}  # fmt: skip
