"""What the nodes print on their consoles about their seeds: which seed each applied last, and which wait for a boot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from generator.console_records import Event, LineReader
from generator.engine import Engine
from generator.operations.running.boot_progress import BOOTING, SETTLED

CLOUD_INIT = "cloud-init"  # a phase
WAITS = "a new seed takes effect at the next boot"  # every version of apply-seed prints this text on the console


@dataclass
class AppliedSeeds:
    """The state of the nodes' seeds, from the records on their consoles.

    `settled`: for each node that has printed it, the instance-id of the seed that the node applied last. `waiting`: the
    nodes on which cloud-init runs at the next boot. They must have a seed in their drives then: without a seed,
    cloud-init configures DHCP.
    """

    settled: dict[str, str] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)

    def note(self, event: Event) -> None:
        """Add a node's next record. In a record with a detail, the phase `settled` comes from apply-seed."""
        if event.phase == SETTLED and event.seed:
            self.settled[event.node] = event.seed
        if event.detail == WAITS:
            self.waiting.add(event.node)
        elif event.phase in (BOOTING, CLOUD_INIT) or (event.phase == SETTLED and event.detail):
            self.waiting.discard(event.node)

    def forget(self, node: str) -> None:
        """Forget a node that boots again."""
        self.settled.pop(node, None)
        self.waiting.discard(node)


def applied_seeds(engine: Engine, nodes: Iterable[str]) -> AppliedSeeds:
    """Return what the nodes' consoles say now."""
    found = AppliedSeeds()
    for name, log in engine.console_logs(*nodes).items():
        for event in LineReader(name).feed(log.read()):
            found.note(event)
    return found
