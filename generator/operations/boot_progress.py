"""Choose the nodes to boot, and follow their consoles until every node has settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from generator import vm
from generator.errors import BakeError, UnhealthyError
from generator.operations import verify as verification
from generator.operations.verify import MemberRole
from generator.plan import ClusterPlan, NodePlan
from generator.progress import PHASES, Progress
from generator.vm import Refusal
from generator.vm.connection import Connection
from generator.vm.console_records import Event, Journal, follow


def without_refused(plan: ClusterPlan, refusal: Refusal | None, report: Callable[[str], None]) -> tuple[NodePlan, ...]:
    """Return the nodes to boot: all but those that a running node's firewall refuses, because they could not join."""
    if refusal is None:
        return plan.nodes
    old, new = _names(refusal.by), _names(refusal.joining)
    report(f"warning: the peer firewall of {old} is from an earlier plan and refuses {new}: not booting {new}")
    return tuple(node for node in plan.nodes if node not in refusal.joining)


def raise_refusal(refusal: Refusal | None) -> None:
    """Raise UnhealthyError if nodes were not booted: the operator has to restart other nodes first."""
    if refusal is None:
        return
    first = refusal.by[0].domain
    raise UnhealthyError(
        f"not booted: {_names(refusal.joining)}; restart {_names(refusal.by)} first, whose firewall refuses them",
        hint=f"`bake down`, then `bake up`; or without an outage, one node after the other: `virsh shutdown {first}`, "
        "then `bake up`",
    )


def _names(nodes: Iterable[NodePlan]) -> str:
    return ", ".join(node.name for node in nodes)


def follow_nodes(
    connection: Connection, plan: ClusterPlan, folder: Path, *, cluster_id: str, seconds: float, progress: Progress
) -> Iterator[Event]:
    """Yield the nodes' events until every node of the plan has settled. `folder`: for the console logs.

    Raise BakeError for a node that fails, and WaitTimeoutError after `seconds`.
    """
    journal = Journal(folder)
    journal.begin(node.name for node in plan.nodes)
    logs = vm.console_logs(connection, plan, cluster_id=cluster_id)
    last = dict.fromkeys(logs, "booting")
    for node in logs:
        progress.event(node, "booting", "")

    def health() -> dict[str, str]:
        found = vm.status(connection, plan, cluster_id=cluster_id)
        return {one.node: f"the VM is {one.state}" for one in found if one.state is not vm.State.RUNNING}

    def ask(nodes: list[str]) -> Iterator[Event]:
        seen = verification.cluster_status(plan, verification.client_files(folder))
        for one in seen.nodes:
            if one.name in nodes and one.reachable and one.role in (MemberRole.LEADER, MemberRole.VOTER):
                yield Event(node=one.name, phase=PHASES[-1], detail="no record on its console, but it votes in etcd")

    try:
        for event in follow(logs, journal, timeout=seconds, health=health, ask=ask):
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
        error.hint = error.hint or f"see {folder}/<node>/console.log, or: bake console NODE"
        raise
