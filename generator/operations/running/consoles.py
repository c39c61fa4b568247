"""Follow the consoles of a running cluster's nodes while a change goes on."""

from __future__ import annotations

import time

from generator.console_records import Event, Failures, Journal, LineReader
from generator.engine import Console, Engine
from generator.errors import BakeError
from generator.operations.baked_cluster import Cluster
from generator.operations.hints import command
from generator.operations.running.applied_seeds import AppliedSeeds
from generator.operations.running.boot_progress import SETTLED
from generator.progress import Progress

VOTING = "voting"  # a phase


class Consoles:
    """The consoles of all nodes. Shows new records, and remembers which seed each node has applied.

    `seeds`: which seeds the nodes have applied, and which nodes wait for a boot.
    `awaits_answers`: show that a node has settled only when `answered` is called, because a node can print it before
    its etcd has started again.
    """

    def __init__(
        self, engine: Engine, cluster: Cluster, progress: Progress, *, awaits_answers: bool = False
    ) -> None:
        self.engine, self.cluster, self.progress = engine, cluster, progress
        self.awaits_answers, self.unshown = awaits_answers, dict[str, Event]()
        self.journal = Journal(cluster.store.folder)
        self.seeds = AppliedSeeds()
        self._logs: dict[str, tuple[Console, LineReader]] = {}
        self._voting: set[str] = set()  # nodes whose etcd has started since they applied a seed
        self._booted: set[str] = set()
        self._failures = Failures(lambda node: command(cluster.store, f"logs {node} --unit etcd"))
        self._read(is_old=True)  # an earlier run of bake has shown and stored it

    @property
    def settled(self) -> dict[str, str]:
        """For each node that has printed it, the instance-id of the seed that the node applied last."""
        return self.seeds.settled

    def begin(self, node: str) -> None:
        """Read a node's console from its start, because the node boots again. Store the time of the start."""
        self.journal.keep_start(node, time.time())
        self._logs.pop(node, None)
        self._booted.add(node)
        self.seeds.forget(node)
        self.unshown.pop(node, None)

    def show(self) -> None:
        """Show the new records. Raise BakeError if a node reports a failure."""
        for event in self._read():
            if self.awaits_answers and event.phase == SETTLED:
                self.unshown[event.node] = event
                continue
            self.progress.event(event.node, event.phase, event.detail)
            if event.phase == "failed":
                look = command(self.cluster.store, f"console {event.node}")
                raise BakeError(f"{event.node} failed: {event.detail}", hint=f"see {look}")
            self._failures.add(event)

    def answered(self, node: str) -> None:
        """Show that a node has settled, if it has printed that."""
        if event := self.unshown.pop(node, None):
            self.progress.event(event.node, event.phase, event.detail)

    def waits_for_reboot(self, node: str) -> bool:
        """Return whether the node has said that it applies its new seed at its next boot.

        The node prints it once, perhaps during an earlier run of bake.
        """
        return node in self.seeds.waiting

    def has_restarted(self, node: str) -> bool:
        """Return whether etcd has started since the node applied a seed. A boot starts etcd too."""
        return node in self._voting or node in self._booted

    def is_voting(self, node: str) -> bool:
        """Return whether the node has printed that it is a voting member."""
        return node in self._voting or node in self.settled

    def _read(self, *, is_old: bool = False) -> list[Event]:
        """Return the new records of all consoles, and store the output unless it is old."""
        events = []
        nodes = [node.name for node in self.cluster.plan.nodes]
        new = [name for name in nodes if name not in self._logs]
        if new:
            logs = self.engine.console_logs(*new)
            self._logs |= {name: (log, LineReader(name)) for name, log in logs.items()}
        for name, (log, reader) in self._logs.items():
            data = log.read()
            if data and not is_old:
                self.journal.keep_output(name, data)
            events += reader.feed(data)
        for event in events:
            if not is_old:
                self.journal.keep_event(event, time.time())
            self._note(event)
        return events

    def _note(self, event: Event) -> None:
        # A node prints it again after each start of etcd.
        if event.phase == SETTLED and event.seed and self.settled.get(event.node) != event.seed:
            self._voting.discard(event.node)
        if event.phase == VOTING:
            self._voting.add(event.node)
        self.seeds.note(event)
