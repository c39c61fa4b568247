"""Follow the consoles of booting nodes, the states of their VMs, and etcd's member list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from generator.console_records import Event, Journal, follow
from generator.engine import Engine, State
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.status import MemberRole, cluster_status
from generator.plan import NodePlan
from generator.progress import PHASES

BOOTING, SETTLED = PHASES[0], PHASES[-1]
VOTING_PHASES = PHASES[-2:]


def follow_nodes(
    engine: Engine, cluster: Cluster, nodes: tuple[NodePlan, ...], journal: Journal, *, seconds: float
) -> Iterator[Event]:
    """Yield the events of the nodes until every node has settled. `journal` stores the nodes' console output.

    A node whose console is empty counts as settled if it is a voting member of etcd. Raise WaitTimeoutError after
    `seconds`.
    """
    plan = replace(cluster.plan, nodes=nodes)
    logs = engine.console_logs(*(node.name for node in nodes))

    def stopped_vms() -> dict[str, str]:
        found = engine.machines()
        states = {node.name: found[node.name].state for node in nodes}
        return {name: f"the VM is {state}" for name, state in states.items() if state is not State.RUNNING}

    def voting_nodes(silent: list[str]) -> Iterator[Event]:
        seen = cluster_status(plan, client_files(cluster.store.folder))
        for one in seen.nodes:
            if one.name in silent and one.reachable and one.role in (MemberRole.LEADER, MemberRole.VOTER):
                yield Event(node=one.name, phase=SETTLED, detail="no record on its console, but it is a voting member")

    phases = dict.fromkeys(logs, BOOTING)
    yield from (Event(node=node, phase=BOOTING) for node in logs)
    for event in follow(logs, journal, timeout=seconds, health=stopped_vms, ask=voting_nodes):
        phases[event.node] = event.phase
        yield event
        if all(phase == SETTLED for phase in phases.values()):
            return
