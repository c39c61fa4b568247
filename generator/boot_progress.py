"""Follow the consoles of a cluster's VMs until every node has settled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from generator.errors import BakeError
from generator.host import hypervisor
from generator.host.console import Event, Journal, follow
from generator.host.hypervisor.connection import Connection
from generator.plan import ClusterPlan
from generator.progress import PHASES, Progress


def follow_nodes(
    connection: Connection, plan: ClusterPlan, folder: Path, *, cluster_id: str, seconds: float, progress: Progress
) -> Iterator[Event]:
    """Yield the nodes' events until every node of the plan has settled. `folder`: where the consoles are kept.

    Raises BakeError for a node that fails, and WaitTimeoutError when the time is up.
    """
    journal = Journal(folder)
    journal.begin(node.name for node in plan.nodes)
    logs = hypervisor.console_logs(connection, plan, cluster_id=cluster_id)
    last = dict.fromkeys(logs, "booting")
    for node in logs:
        progress.event(node, "booting", "")

    def health() -> dict[str, str]:
        found = hypervisor.status(connection, plan, cluster_id=cluster_id)
        return {one.node: f"the VM is {one.state}" for one in found if one.state is not hypervisor.State.RUNNING}

    try:
        for event in follow(logs, journal, timeout=seconds, health=health):
            last[event.node] = event.phase
            progress.event(event.node, event.phase, event.detail)
            if event.phase == "failed":
                raise BakeError(f"{event.node} failed: {event.detail}")
            yield event
            if all(phase == PHASES[-1] for phase in last.values()):
                return
    except BakeError as error:
        for node in (node for node, phase in last.items() if phase != PHASES[-1]):
            progress.line(f"--- the last lines of {node}'s console:")
            for line in journal.tail(node):
                progress.line(f"    {line}")
        error.hint = error.hint or f"the whole consoles: {folder}/<node>/console.log; bake console NODE"
        raise
