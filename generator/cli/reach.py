"""Reach the nodes of a cluster whose hosts are other machines: from here, else through their hosts with ssh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from generator.cli import engines
from generator.cli.common import open_cluster, reporter

if TYPE_CHECKING:
    from generator.engine import MachineStatus
    from generator.etcd.dial import Target
    from generator.operations.baked_cluster import Cluster
    from generator.operations.status import Task
    from generator.plan import ClusterPlan

_ASKED = "generator.cli.reach"  # a key in click's context


def open_running(options: Mapping[str, Any]) -> Cluster:
    """Open a cluster for a command that asks its nodes. See `reach`."""
    cluster: Cluster = open_cluster(options)
    reach(options, cluster.plan)
    return cluster


def open_started(options: Mapping[str, Any]) -> Cluster:
    """Open a cluster for a command that needs an answer from its nodes. Raise UnhealthyError if no VM of it exists."""
    cluster = open_running(options)
    refuse_silent(options, cluster)
    return cluster


def refuse_silent(options: Mapping[str, Any], cluster: Cluster) -> None:
    """Raise UnhealthyError if no node accepts a connection and the cluster has no VMs."""
    _refuse(start_task_if_silent(options, cluster))


def start_task_if_silent(options: Mapping[str, Any], cluster: Cluster) -> Task | None:
    """Return the task to start a cluster that has no VMs, or None. Ask the engine only if all nodes are silent."""
    from generator.errors import BakeError
    from generator.operations import status

    if cluster.sealed or not status.is_silent(cluster.plan):
        return None
    try:
        machines = engines.machines_if_possible(options, reporter(options), cluster)
    except BakeError:  # libvirt does not answer
        return None
    return status.start_task(cluster, machines, connect=options["connect"])


def refuse_unstarted(options: Mapping[str, Any], cluster: Cluster, machines: Mapping[str, MachineStatus]) -> None:
    """Raise UnhealthyError if the cluster has no VMs and no node accepts a connection. Probe no node if VMs exist.

    `machines`: what the engine returns.
    """
    from generator.operations import status

    task = status.start_task(cluster, machines, connect=options["connect"])
    _refuse(task if task and status.is_silent(cluster.plan) else None)


def _refuse(task: Task | None) -> None:
    from generator.errors import UnhealthyError

    if task:
        raise UnhealthyError(task.task, hint=task.remedy)


def reach(options: Mapping[str, Any], *plans: ClusterPlan) -> None:
    """If no node answers from here and the hosts are other machines, connect through the hosts until the command ends.

    `plans`: the plan of the cluster, or the old plan and the new plan. Without another host in the options or the
    plans, do nothing.
    """
    from generator.etcd.dial import reachable

    context = click.get_current_context()
    hosts = _ports_of_hosts(options, plans)
    if not hosts or context.meta.get(_ASKED):
        return
    context.meta[_ASKED] = True
    if not reachable(target for nodes in hosts.values() for targets in nodes.values() for target in targets):
        for uri, nodes in hosts.items():
            _connect_through(context, uri, nodes, options)


def _ports_of_hosts(
    options: Mapping[str, Any], plans: Iterable[ClusterPlan]
) -> dict[str | None, dict[str, list[Target]]]:
    """Return the ports of the nodes on other machines, by the host's URI and the node's name.

    A host without a URI has libvirt's default URI.
    """
    from generator.config.hosts import EngineKind
    from generator.vm.connection import is_remote

    found: dict[str | None, dict[str, list[Target]]] = defaultdict(dict)
    for plan in plans:
        if plan.spec.engine is not EngineKind.LIBVIRT:
            continue  # only a host of libvirt has a URI
        uris = {host.name: host.uri for host in plan.spec.hosts}
        for node in plan.nodes:
            uri = uris.get(node.host, options.get("connect"))
            if is_remote(uri):
                ports = (plan.spec.etcd.client_port, plan.spec.etcd.peer_port)
                found[uri][node.name] = [(str(node.address), port) for port in ports]
    return found


def _connect_through(
    context: click.Context, uri: str | None, nodes: Mapping[str, list[Target]], options: Mapping[str, Any]
) -> None:
    from generator.errors import BakeError
    from generator.etcd.dial import through
    from generator.etcd.tunnel import open_tunnel
    from generator.vm.connection import ssh_command

    report, names, ssh = reporter(options), ", ".join(nodes), ssh_command(uri)
    if ssh is None:
        remedy = "to connect through their host, use a libvirt URI with ssh, such as qemu+ssh://root@host1/system"
        report(f"warning: {names}: no answer from this machine; {remedy}")
        return
    try:
        tunnel = context.find_root().with_resource(open_tunnel(ssh, [one for ports in nodes.values() for one in ports]))
    except BakeError as error:
        report(f"warning: {names}: no answer from this machine, and {error.message}")
        return
    context.find_root().with_resource(through(tunnel))
    report(f"{names}: no answer from this machine; connecting through {ssh[-1]} with ssh")
