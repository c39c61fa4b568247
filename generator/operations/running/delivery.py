"""Deliver new seeds to nodes, for example with new certificates.

A node receives certificates in its seed. When a new ISO is inserted into the drive of a settled node, `apply-seed` on
the node applies it immediately. `apply-seed` needs no network connection and no valid certificate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from generator import pki
from generator.console_records import LineReader
from generator.engine import Engine, MachineStatus, State
from generator.errors import BakeError, WaitTimeoutError
from generator.etcd.observe import everywhere
from generator.etcd.tls_hello import served_certificate
from generator.operations.baked_cluster import Cluster, refuse_changed
from generator.operations.hints import command
from generator.operations.running.applied_seeds import WAITS, applied_seeds
from generator.pki import Role
from generator.pki.ca_phases import Phase
from generator.plan import NodePlan
from generator.progress import Report
from generator.store.existing_keys import required_pems

_PAUSE = 0.5  # seconds between two probes of a node's port


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A state that nodes reach when they apply their new seeds.

    `lacks`: returns True if a node has not reached the state, and None if the node does not answer. `verb` and `what`:
    words that describe the state in messages, for example `serve` and `its new certificate`. `remedy`: the command to
    run after an interruption.
    """

    lacks: Callable[[NodePlan], bool | None]
    verb: str
    what: str
    remedy: str


def serves_its_own(cluster: Cluster) -> Goal:
    """Return a goal that a node reaches when it serves the certificate in its seed."""
    remedy = command(cluster.store, "certs deliver")
    return Goal(lacks=partial(_is_outdated, cluster), verb="serve", what="its new certificate", remedy=remedy)


def outdated(cluster: Cluster) -> dict[str, bool | None]:
    """Return True for each node that does not serve the certificate in its seed.

    The value of a node is None if the node's etcd does not answer.
    """
    names = [node.name for node in cluster.plan.nodes]
    return dict(zip(names, everywhere(partial(_is_outdated, cluster), cluster.plan.nodes), strict=True))


def _is_outdated(cluster: Cluster, node: NodePlan) -> bool | None:
    served = served_certificate(str(node.address), cluster.plan.spec.etcd.client_port)
    if served is None:
        return None
    in_seed, _ = required_pems(cluster.store, node.name, command(cluster.store, ""))[Role.SERVER]
    return pki.describe(served).sha256 != pki.describe(in_seed).sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The result of `deliver`: the names of the nodes, grouped by their states.

    `done`: nodes that have reached the goal. `at_next_start`: stopped nodes, which apply their seeds when they start.
    `after_restart`: running nodes, which apply their seeds at the next boot. `by_hand`: nodes for which bake finds no
    machine; the operator inserts their ISOs.
    """

    done: tuple[str, ...] = ()
    at_next_start: tuple[str, ...] = ()
    after_restart: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()

    @property
    def waiting(self) -> tuple[str, ...]:
        """The nodes that have not applied their seeds."""
        return (*self.at_next_start, *self.after_restart, *self.by_hand)


def deliver(
    cluster: Cluster,
    engine: Engine | None,
    names: Collection[str],
    *,
    seconds: float,
    report: Report,
    goal: Goal | None = None,
    phase: Phase | None = None,
    prepare: Callable[[NodePlan], None] = lambda _: None,
) -> Delivery:
    """Insert the seeds into the drives of the given nodes, one node after the other. Skip nodes that reached `goal`.

    `engine`: changes the nodes' machines; None if libvirt does not answer. `goal`: the state of a node that has applied
    its seed. The default goal is that the node serves the certificate in its seed. `phase`: the phase of the CA change
    for which the seeds were made. A node that applies its seed only at the next boot prints the text WAITS on its
    console. `prepare`: called before a node with a machine gets its seed.

    Raise BakeError if another command has changed the cluster. Raise WaitTimeoutError if a running node does not apply
    its seed within `seconds`. The next call continues with the node that was too slow.
    """
    done, later, restart, by_hand = [], [], [], []
    goal = goal or serves_its_own(cluster)
    drives = None if engine is None else _Drives(engine, cluster, phase, report, prepare)
    for node in cluster.plan.nodes:
        if node.name not in names:
            continue
        lacks, waits = goal.lacks(node), drives.listen(node) if drives else _never
        if lacks is False and drives and drives.awaits_boot(node):
            drives.insert(node, again=False)
            report(f"{node.name}: {WAITS}")
            restart.append(node.name)
        elif lacks is False:
            done.append(node.name)
            if drives:
                drives.empty(node)
        elif drives is None or not drives.insert(node, again=lacks is True):
            by_hand.append(node.name)
        elif not drives.has_running(node):
            later.append(node.name)
        else:
            report(f"{node.name}: its new seed is in the drive")
            if _waits_for_reboot(cluster, node, goal, seconds, phase, waits):
                report(f"{node.name}: {WAITS}")
                restart.append(node.name)
                continue
            drives.empty(node)
            report(f"{node.name}: {goal.verb}s {goal.what}")
            done.append(node.name)
    return Delivery(done=tuple(done), at_next_start=tuple(later), after_restart=tuple(restart), by_hand=tuple(by_hand))


def _never() -> bool:
    return False


@dataclass(frozen=True)
class _Drives:
    """The drives of the nodes' machines. While bake changes a drive, no other command can change the folder."""

    engine: Engine
    cluster: Cluster
    phase: Phase | None
    report: Report
    prepare: Callable[[NodePlan], None]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.cluster.store.locked(self.report):
            refuse_changed(self.cluster, self.phase)
            yield

    def insert(self, node: NodePlan, *, again: bool) -> bool:
        """Insert a node's seed. Return False if the node has no machine.

        `again`: if the seed is already in the drive, eject the seed and insert it again.
        """
        with self._locked():
            exists = self._machine(node).exists
            if exists:
                self.prepare(node)
                self.engine.insert_seed(node.name, again=again)
        return exists

    def empty(self, node: NodePlan) -> None:
        """Remove the seed from a node's drive. Do nothing if the node has no machine."""
        with self._locked():
            if self._machine(node).exists:
                self.engine.remove_seed(node.name)

    def listen(self, node: NodePlan) -> Callable[[], bool]:
        """Return a function that tests whether the node's console shows that the node needs a reboot."""
        try:
            log = self.engine.console_logs(node.name)[node.name]
        except BakeError:  # the cluster has no machines
            return _never
        reader = LineReader(node.name)
        reader.feed(log.read())  # skip the node's reports about earlier seeds
        return lambda: any(event.detail == WAITS for event in reader.feed(log.read()))

    def awaits_boot(self, node: NodePlan) -> bool:
        """Return whether cloud-init runs at the node's next boot, so that a seed must be in the drive then."""
        return self._machine(node).exists and node.name in applied_seeds(self.engine, [node.name]).waiting

    def has_running(self, node: NodePlan) -> bool:
        return self._machine(node).state is State.RUNNING

    def _machine(self, node: NodePlan) -> MachineStatus:
        return self.engine.machines()[node.name]


def _waits_for_reboot(
    cluster: Cluster, node: NodePlan, goal: Goal, seconds: float, phase: Phase | None, waits: Callable[[], bool]
) -> bool:
    """Wait until the node reaches `goal` or reports that it needs a reboot. Return True if the node needs a reboot.

    Raise WaitTimeoutError after `seconds`. Raise BakeError if another command has changed the cluster.
    """
    deadline = time.monotonic() + seconds
    while goal.lacks(node) is not False:
        if waits():
            return True
        refuse_changed(cluster, phase)
        if time.monotonic() > deadline:
            look = command(cluster.store, f"console {node.name}")
            raise WaitTimeoutError(
                f"{node.name} does not {goal.verb} {goal.what} after {seconds:.0f} s",
                hint=f"to see why, run {look}; to continue, run {goal.remedy}",
            )
        time.sleep(_PAUSE)
    return False
