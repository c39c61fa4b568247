"""`bake status`: query the state of every node's VM and etcd."""

from __future__ import annotations

from dataclasses import dataclass

from generator import vm
from generator.errors import BakeError
from generator.operations import verify
from generator.operations.baked_cluster import Cluster
from generator.store.cas import load_phase


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The state of a cluster.

    `nodes`: each node's etcd and the state of its VM, None without libvirt; `tasks`: what is left to do.
    """

    nodes: tuple[tuple[verify.NodeStatus, str | None], ...]
    sealed: bool
    tasks: tuple[verify.Task, ...]


def status(cluster: Cluster, *, uri: str | None) -> Overview:
    """Query the state of every node's VM and etcd. Without `uri`, ignore a libvirt that fails."""
    states: dict[str, str | None] = dict.fromkeys(node.name for node in cluster.plan.nodes)
    try:
        found = vm.status(vm.connect(uri), cluster.plan, cluster_id=cluster.cluster_id)
        states = {one.node: f"{one.state} {one.accel}".strip() for one in found}
    except BakeError:
        if uri is not None:
            raise
    seen = verify.cluster_status(cluster.plan, verify.client_files(cluster.store.folder))
    nodes = tuple((node, states[node.name]) for node in seen.nodes)
    tasks = verify.tasks(cluster.plan, seen, sealed=cluster.sealed, ca_change=load_phase(cluster.store))
    return Overview(nodes=nodes, sealed=cluster.sealed, tasks=tuple(tasks))
