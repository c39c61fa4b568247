"""`bake status`: query the state of every node's VM and etcd, and list the operator's pending tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

from generator.config.hosts import EngineKind
from generator.engine import MachineStatus, State
from generator.etcd import answers, observe
from generator.etcd.answers import Member, Status
from generator.etcd.client import Etcd
from generator.etcd.dial import accepting
from generator.etcd.tls_probe import ClientFiles
from generator.image.age import old_images
from generator.layout import SEALED
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.hints import command
from generator.plan import ClusterPlan, NodePlan
from generator.store.cas import load_phase


class MemberRole(StrEnum):
    """A member's role in the cluster."""

    LEADER = "leader"
    VOTER = "voter"
    LEARNER = "learner"
    UNSTARTED = "unstarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """etcd's state on one node. If the node does not answer, its id and role come from the member list.

    `member_id`: hexadecimal, as in etcdctl. `db_size`, `db_in_use`: in bytes; `db_in_use` remains after a
    defragmentation.
    """

    name: str
    address: str
    reachable: bool
    member_id: str | None = None
    role: MemberRole | None = None
    version: str | None = None
    db_size: int | None = None
    raft_index: int | None = None
    error: str | None = None
    db_in_use: int | None = None
    revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The state of every node, and etcd's member list. `members` is empty if no node returns the list."""

    nodes: tuple[NodeStatus, ...]
    members: tuple[Member, ...]


def cluster_status(plan: ClusterPlan, files: ClientFiles) -> ClusterStatus:
    """Query every node's status, and the member list."""
    states = observe.everywhere(lambda node: observe.ask(node, files, Etcd.status), plan.nodes)
    with_leader = [node for node, one in zip(plan.nodes, states, strict=True) if one.value and one.value.leader]
    members = observe.first_answer(with_leader, files, Etcd.members).value or ()
    nodes = tuple(node_status(node, one, members) for node, one in zip(plan.nodes, states, strict=True))
    return ClusterStatus(nodes=nodes, members=members)


def is_answering(plan: ClusterPlan, files: ClientFiles) -> bool:
    """Return whether any node's etcd answers."""
    states = observe.everywhere(lambda node: observe.ask(node, files, Etcd.status), plan.nodes)
    return any(one.value for one in states)


def is_silent(plan: ClusterPlan) -> bool:
    """Return whether no node accepts a TCP connection on its client port or its peer port."""
    ports = (plan.spec.etcd.client_port, plan.spec.etcd.peer_port)
    return not accepting((str(node.address), port) for node in plan.nodes for port in ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A pending task of the operator, and the commands for the task."""

    task: str
    remedy: str


def pending_tasks(
    plan: ClusterPlan,
    seen: ClusterStatus,
    *,
    sealed: bool,
    ca_change: str | None = None,
    images: Iterable[str] = (),
    bake: Callable[[str], str] = "bake {}".format,
) -> Iterator[Task]:
    """Yield the pending tasks of a cluster.

    `ca_change`: the current phase of a CA change. `images`: texts about old images. `bake`: a function that returns
    the complete bake command for a subcommand.
    """
    if ca_change:
        yield Task(task=f"a CA change is in progress (phase {ca_change})", remedy=bake("certs rotate --ca"))
    if not sealed:
        is_running = any(node.reachable for node in seen.nodes)
        remedy = bake("seal") if is_running else f"start the cluster, then run {bake('seal')}"
        yield Task(task="the first node's ISO still has the bootstrap permit", remedy=remedy)
    for text in images:
        yield Task(task=text, remedy=bake("upgrade --refresh"))
    names = {node.peer_url: node.name for node in plan.nodes}
    for member in seen.members:
        name = next((names[url] for url in member.peer_urls if url in names), None)
        remove = f"{bake('etcdctl')} member remove {member.id:x}"
        if name is None:
            member_name = member.name or "(not started)"
            text = f"the member {member_name} ({member.id:x}, {', '.join(member.peer_urls)}) is not one of the nodes"
            yield Task(task=text, remedy=f"add the node with its address to the cluster file, or run {remove}")
        elif not member.started:
            start = f"to start its VM, run {bake('up')}; to see its console, run {bake(f'console {name}')}"
            text = f"{name} was added to the cluster, but has not started"
            yield Task(task=text, remedy=f"{start}; to remove it, run {remove}")
        elif member.is_learner:
            remedy = f"wait until {name} becomes a voter; if {name} stays a learner, run {bake(f'console {name}')}"
            yield Task(task=f"{name} is a learner", remedy=remedy)


def node_status(node: NodePlan, answer: answers.Answer[Status], members: Iterable[Member]) -> NodeStatus:
    """Return a node's state from its answer and the member list."""
    status = answer.value
    listed = next((member for member in members if node.peer_url in member.peer_urls), None)
    number = status.member_id if status else listed.id if listed else None
    return NodeStatus(
        name=node.name,
        address=str(node.address),
        reachable=status is not None,
        member_id=None if number is None else f"{number:x}",
        role=_role(status, listed),
        version=status.version if status else None,
        db_size=status.db_size if status else None,
        raft_index=status.raft_index if status else None,
        error=answer.error or (status and "; ".join(status.errors)) or None,
        db_in_use=status.db_size_in_use if status else None,
        revision=status.revision if status else None,
    )


def _role(status: Status | None, listed: Member | None) -> MemberRole | None:
    if status and status.leader == status.member_id:
        return MemberRole.LEADER
    if (status and status.is_learner) or (listed and listed.is_learner):
        return MemberRole.LEARNER
    if listed and not listed.started:
        return MemberRole.UNSTARTED
    return MemberRole.VOTER if status or listed else None


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The state of a cluster.

    `nodes`: for each node, a pair of etcd's state and the VM's state. If bake cannot connect to libvirt, the VM's state
    is None. `tasks`: the operator's pending tasks.
    """

    nodes: tuple[tuple[NodeStatus, str | None], ...]
    sealed: bool
    tasks: tuple[Task, ...]


def start_task(
    cluster: Cluster, machines: Mapping[str, MachineStatus], *, connect: str | None = None
) -> Task | None:
    """Return the task to start a silent cluster (see `is_silent`), or None if the cluster may have VMs or disks.

    `machines`: what the engine returns, or nothing if it does not answer. `connect`: the user's --connect. A sealed
    cluster has started and was not destroyed, so `bake up` would not start it anew.
    """
    if cluster.store.read(SEALED) is not None or not machines or any(map(_may_exist, machines.values())):
        return None
    text = "bake finds no VM of this cluster here, and no node accepts a connection"
    remedy = "if the VMs run elsewhere, check the route to them"
    if connect is None and not cluster.plan.spec.hosts and cluster.plan.spec.engine is EngineKind.LIBVIRT:
        remedy += ", or add --connect"
    remedy += f"; if the cluster has never started, run {command(cluster.store, 'up', connect=connect)}"
    return Task(task=text, remedy=remedy)


def _unreachable_task(cluster: Cluster, machines: Mapping[str, MachineStatus], connect: str | None) -> Task:
    """Return the task for a cluster that has started, but of which no node answers."""
    remedy = f"check that the nodes run and that this machine has a route to {cluster.plan.spec.network.subnet}"
    if machines:
        remedy += f"; to start the nodes, run {command(cluster.store, 'up', connect=connect)}"
    return Task(task="no node answers this machine", remedy=remedy)


def _may_exist(machine: MachineStatus) -> bool:
    is_unknown = machine.state is State.UNKNOWN or bool(machine.silent_hosts)
    return machine.exists or is_unknown or machine.has_disk or machine.has_data_disk


def status(
    cluster: Cluster, machines: Mapping[str, MachineStatus], *, now: datetime, connect: str | None = None
) -> Overview:
    """Query every node's etcd, and add the state of its VM. `machines`, `connect`: see `start_task`."""
    planned = [one for one in machines.values() if one.planned]
    states = {one.node: _vm_text(one) for one in planned}
    images = old_images({one.node: one.built for one in planned}, now=now)
    seen = cluster_status(cluster.plan, client_files(cluster.store.folder))
    nodes = tuple((node, states.get(node.name)) for node in seen.nodes)
    start = unreachable = None
    if not any(node.reachable for node in seen.nodes):
        task = start_task(cluster, machines, connect=connect)
        start = task if task and is_silent(cluster.plan) else None
        unreachable = _unreachable_task(cluster, machines, connect) if cluster.sealed else None
    tasks = pending_tasks(
        cluster.plan, seen, sealed=cluster.sealed or start is not None, ca_change=load_phase(cluster.store),
        images=images, bake=partial(command, cluster.store),
    )  # fmt: skip
    return Overview(nodes=nodes, sealed=cluster.sealed, tasks=(*filter(None, (start, unreachable)), *tasks))


def _vm_text(machine: MachineStatus) -> str:
    """Return a VM's state for the table, such as `running kvm` or `running kvm on host1`."""
    if machine.state is State.UNKNOWN:
        return f"{machine.host} does not answer"
    text = f"{machine.state} {machine.accel}".strip()
    return f"{text} on {machine.host}" if machine.host and machine.exists else text


def status_row(node: NodeStatus, vm: str | None) -> dict[str, str]:
    """Return a node's row in the table of `bake status`. `vm`: the VM's state, or None if bake cannot get it."""
    return {
        "node": node.name,
        "vm": vm or "unknown",
        "address": node.address,
        "state": str(node.role or "unknown") if node.reachable else "unreachable",
        "id": node.member_id or "-",
        "version": node.version or "-",
        "db": size_text(node.db_size),
        "raft index": "-" if node.raft_index is None else str(node.raft_index),
        "error": node.error or "",
    }


def status_data(node: NodeStatus, vm: str | None) -> dict[str, Any]:
    """Return a node's object for `-o json`, with null for unknown values. `vm`: see `status_row`."""
    values = asdict(node)
    return {"node": values.pop("name"), "vm": vm, **values}


def size_text(size: int | None) -> str:
    """Return a number of bytes as text, such as `1.5 MiB`, or "-" for None."""
    if size is None:
        return "-"
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= factor:
            amount = size / factor
            return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"
