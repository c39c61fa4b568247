"""`bake restore`: start a cluster anew with the data of a snapshot.

The first node's ISO carries the snapshot next to the bootstrap permit. The node restores it instead of starting an
empty cluster, and the other nodes join as always. The folder keeps the snapshot until the cluster is sealed, so
`bake up` finishes an interrupted restore.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from generator.engine import Engine, MachineStatus, State
from generator.errors import BakeError, WaitTimeoutError
from generator.etcd.client import Etcd
from generator.etcd.observe import ask, everywhere
from generator.operations.bake import bake
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.hints import command
from generator.operations.recovery.snapshot_source import Source
from generator.operations.running.consoles import Consoles
from generator.operations.seal import seal_files
from generator.progress import Progress
from generator.store.operation_lock import operation_lock

_PAUSE = 0.5
_SHUTDOWN = 30.0  # seconds that the ports of deleted machines may stay open


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a restore deletes. `machines`: descriptions of the machines and disks.

    `doubts`: why the snapshot may be the wrong one, or which data it lacks.
    """

    machines: tuple[str, ...]
    doubts: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.machines or self.doubts)


def assess(cluster: Cluster, source: Source, machines: Mapping[str, MachineStatus]) -> Loss:
    """Return what the user must agree to. Raise BakeError if a member runs that bake cannot stop."""
    answering = _answering(cluster)
    if foreign := [name for name, one in machines.items() if one.state is State.FOREIGN]:
        text = f"the VMs of {', '.join(foreign)} do not belong to this cluster"
        raise BakeError(text, hint="give this cluster another --name, or rename the other VMs")
    hidden = [name for name in answering if machines[name].state is not State.RUNNING]
    if hidden:
        text = f"etcd answers on {', '.join(sorted(hidden))}, but bake does not find the VMs"
        hint = "give --connect for their host; if bake did not start them, stop etcd there and remove its data"
        raise BakeError(f"{text}; nothing was done", hint=hint)
    existing = [(name, one) for name, one in machines.items() if one.is_left]
    return Loss(
        machines=tuple(_description(one, answers=name in answering) for name, one in existing),
        doubts=(*source.doubts(cluster.cluster_id), *_newer(answering, source)),
    )


def _newer(answering: Mapping[str, int], source: Source) -> Iterator[str]:
    """Yield that the running members have changes that the snapshot lacks."""
    if (newest := max(answering.values(), default=0)) > source.facts.revision:
        yield f"the members have revision {newest}: all changes after revision {source.facts.revision} are lost"


def _answering(cluster: Cluster) -> dict[str, int]:
    """Return the nodes whose etcd answers, with or without a quorum, and the revision of each."""
    files = client_files(cluster.store.folder)
    states = everywhere(lambda node: ask(node, files, Etcd.status), cluster.plan.nodes)
    return {
        node.name: one.value.revision for node, one in zip(cluster.plan.nodes, states, strict=True) if one.value
    }  # fmt: skip


def _description(one: MachineStatus, *, answers: bool) -> str:
    state = "etcd answers" if answers else str(one.state)
    sizes = [f"{size >> 20} MiB" for size in (one.disk_size, one.data_size) if size]
    disks = f"its disk{'s' * (len(sizes) > 1)} ({', '.join(sizes)}) with all data" if sizes else "no disk"
    return f"{one.node}: the VM ({state}), {disks}"


@dataclass(kw_only=True)
class Restore:
    """A run of `bake restore`. `wait`: the number of seconds within which all nodes must settle."""

    cluster: Cluster
    source: Source
    engine: Engine
    wait: float
    progress: Progress
    passphrase: bytes | None = field(default=None, repr=False)
    pause: float = _PAUSE

    def run(self, consent: Callable[[Loss], None]) -> None:
        """Ask for confirmation, delete the old machines, and start new ones with the snapshot's data."""
        with operation_lock(self.cluster.store, "bake restore"):
            machines = self.engine.machines()
            if loss := assess(self.cluster, self.source, machines):
                consent(loss)
            self._write()
            self._remove(machines)
            self.engine.create(*self._names)
            self._follow()

    @property
    def _names(self) -> list[str]:
        return [node.name for node in self.cluster.plan.nodes]

    def _write(self) -> None:
        """Write seeds with the snapshot. If bake ends here, the old machines still have their data."""
        spec, store = self.cluster.plan.spec, self.cluster.store
        bake(
            spec, store, now=datetime.now(UTC), report=self.progress.line, passphrase=self.passphrase,
            snapshot=self.source.files(),
        )  # fmt: skip

    def _remove(self, machines: Mapping[str, MachineStatus]) -> None:
        for name, one in machines.items():
            if one.is_left:
                for removed in self.engine.remove(name):
                    self.progress.line(f"{name}: removed {removed}")
        deadline = time.monotonic() + _SHUTDOWN
        while left := _answering(self.cluster):
            if time.monotonic() > deadline:
                raise BakeError(f"etcd still answers on {', '.join(left)}", hint="stop etcd there, then run bake up")
            time.sleep(self.pause)

    def _follow(self) -> None:
        """Wait until all nodes have settled. Seal the cluster as soon as the first node votes."""
        consoles = Consoles(self.engine, self.cluster, self.progress)
        for name in self._names:
            consoles.begin(name)
        deadline, sealed, emptied = time.monotonic() + self.wait, False, set[str]()
        while set(self._names) - emptied:
            consoles.show()
            if not sealed and consoles.is_voting(self.cluster.first.name):
                sealed = self._seal()
            for name in set(consoles.settled) - emptied if sealed else ():
                if self.engine.remove_seed(name):
                    self.progress.line(f"{name}: seed removed from its drive")
                emptied.add(name)
            if time.monotonic() > deadline:
                missing = ", ".join(name for name in self._names if name not in emptied)
                look = command(self.cluster.store, "up")
                raise WaitTimeoutError(f"not settled after {self.wait:.0f} s: {missing}", hint=f"to go on, run {look}")
            time.sleep(self.pause)

    def _seal(self) -> bool:
        """Remove the permit and the snapshot from the folder and from the first node's drive."""
        first = self.cluster.first.name
        seal_files(self.cluster.store, self.cluster.plan, now=datetime.now(UTC), report=self.progress.line)
        self.engine.insert_seed(first)
        self.progress.line(f"{first}: sealed (bootstrap permit and snapshot removed from its ISO)")
        return True
