"""The stories of a cluster that runs: up, status, verify, console, down."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from generator import vm
from generator.config.auth import NOBODY
from generator.config.load import load_kept
from generator.config.spec import ClusterSpec
from generator.errors import BakeError, InputError
from generator.image.base import BootImage, default_image
from generator.image.custom import custom_image
from generator.layout import SEALED
from generator.operations import audit as auditing
from generator.operations import bake as baking
from generator.operations import verify as verification
from generator.operations.bake import Agreed, bake
from generator.operations.boot_progress import follow_nodes, raise_refusal, without_refused
from generator.operations.verify import Verification
from generator.pki import Role, user_stem
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.progress import Progress, Report
from generator.store.cas import load_phase
from generator.store.existing_keys import load_identity
from generator.store.folder import Store
from generator.store.requests import refuse_unsigned
from generator.vm.connection import Connection
from generator.vm.console_records import Event


@dataclass(frozen=True, kw_only=True)
class Boot:
    """How to boot: libvirt's URI (None: its own rules), auto | kvm | tcg, seconds to wait, the image cache."""

    uri: str | None
    accel: str
    wait: float
    cache: Path


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that was baked: its folder, its plan, and the id that its VMs are tagged with."""

    store: Store
    plan: ClusterPlan
    cluster_id: str

    @property
    def first(self) -> NodePlan:
        """The node that may begin the cluster, until it is sealed."""
        return next(node for node in self.plan.nodes if node.bootstrap)

    @property
    def sealed(self) -> bool:
        """False also where a killed `seal` left the folder from before, which holds the permit."""
        return self.store.read(SEALED) is not None and not self.store.has_leftover()


def open_cluster(store: Store) -> Cluster:
    """What an earlier bake left in the store's folder. Raises InputError where there is nothing, UnsignedError where
    its certificates are still to be issued."""
    store.check()
    identity = load_identity(store)
    if store.read("cluster.yaml") is None or identity is None:
        refuse_unsigned(store)
        where = f"there is no cluster {store.cluster!r} in {store.out}"
        raise InputError.one("--name", where, "bake it first, or say where it is with --out")
    plan = plan_cluster(load_kept(store.folder / "cluster.yaml"))
    return Cluster(store=store, plan=plan, cluster_id=identity[:16])


def up(
    spec: ClusterSpec,
    store: Store,
    boot: Boot,
    *,
    now: datetime,
    progress: Progress,
    passphrase: bytes | None = None,
    agreed: Agreed | None = None,
) -> Verification:
    """Bake, boot, wait until every node has settled, verify. The cluster is sealed as soon as its first node votes."""
    connection = vm.connect(boot.uri)
    _refuse_lost(connection, spec, store)
    image = boot_image(spec, boot.cache, progress.line)
    bake(spec, store, now=now, report=progress.line, passphrase=passphrase, agreed=agreed)
    cluster = open_cluster(store)
    refusal = vm.find_refusal(connection, cluster.plan, cluster_id=cluster.cluster_id)
    nodes = without_refused(cluster.plan, refusal, progress.line)
    seeds = {node.name: store.folder / node.name / "seed.iso" for node in nodes}
    vm.boot(
        connection, cluster.plan, image, seeds, cluster_id=cluster.cluster_id, accel=boot.accel, report=progress.line
    )  # fmt: skip
    wait_until_settled(connection, cluster, boot.wait, progress, nodes)
    raise_refusal(refusal)
    return verify_cluster(cluster, now=datetime.now(UTC), report=progress.line)


def _refuse_lost(connection: Connection, spec: ClusterSpec, store: Store) -> None:
    """A sealed cluster that has no VM here would wait for its members for ever."""
    if store.read(SEALED) is None:
        return
    if {one.state for one in vm.status(connection, plan_cluster(spec))} == {vm.State.MISSING}:
        raise InputError.one(
            str(store.folder / SEALED),
            "this cluster cannot be started for the first time any more, and none of its VMs is here",
            "give the --connect where they are; only if it is really lost, delete this file and begin a new one",
        )


def boot_image(spec: ClusterSpec, cache: Path, report: Report) -> BootImage:
    """The spec's own image, or the base image, which is built if it is not there yet."""
    if spec.vm.image:
        return custom_image(spec.vm.image, spec.vm.sha256, cache, report=report)
    return default_image(cache, report=report)


def wait_until_settled(
    connection: Connection,
    cluster: Cluster,
    seconds: float,
    progress: Progress,
    booted: tuple[NodePlan, ...] | None = None,
) -> None:
    """Follow the consoles until every node votes and has settled, or every one of those that were `booted`.

    The first one's vote is the cluster's beginning: it is sealed before anything else can happen to that node. One that
    has settled needs its seed no more, which holds its keys: its drive is emptied.
    """
    beginning = cluster.first.name
    plan = cluster.plan if booted is None else replace(cluster.plan, nodes=booted)
    nodes = {node.name: node for node in plan.nodes}
    folder, cluster_id = cluster.store.folder, cluster.cluster_id
    for event in follow_nodes(connection, plan, folder, cluster_id=cluster_id, seconds=seconds, progress=progress):
        if event.node == beginning and event.phase in ("voting", "settled"):
            beginning = ""
            done = seal_everywhere(connection, cluster, now=datetime.now(UTC), report=progress.line)
            if done.files or done.vm:
                progress.line(f"{event.node}: sealed (its medium holds the right to start a cluster no more)")
        if event.phase == "settled" and _has_taken(cluster, event):
            node = nodes[event.node]
            if vm.remove_seed(connection, cluster.plan, node, cluster_id=cluster.cluster_id):
                progress.line(f"{event.node}: its seed was taken out of the drive and removed")


def _has_taken(cluster: Cluster, event: Event) -> bool:
    """Whether the seed that a node has settled with is the one in the folder, and so in its drive. Another one that is
    there is not taken yet: without it the node's next boot would have no network."""
    meta_data = cluster.store.read(f"{event.node}/meta-data") or b""
    return bool(event.seed) and f"instance-id: {event.seed}" in meta_data.decode().splitlines()


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """What sealing did: to the files, to the first node's VM (None: it has none here), and what to be warned of."""

    node: str
    files: bool
    vm: bool | None
    warnings: tuple[str, ...]


def seal_everywhere(connection: Connection | None, cluster: Cluster, *, now: datetime, report: Report) -> Sealing:
    """Withdraw the right to start a cluster: from the files first, then from the VM, if there is one."""
    changed = baking.seal(cluster.store, cluster.plan, now=now, report=report)
    node, replaced = cluster.first, None
    if connection is not None:
        iso = cluster.store.folder / node.name / "seed.iso"
        replaced = vm.replace_seed(connection, cluster.plan, node, iso, cluster_id=cluster.cluster_id)
    return Sealing(node=node.name, files=changed, vm=replaced, warnings=())


def seal(
    cluster: Cluster, *, uri: str | None, now: datetime, report: Report, consent: Callable[[str], None]
) -> Sealing:
    """Seal a cluster wherever it runs. `consent` is called where no member shows that it stands."""
    connection, doubt = connect_if_possible(uri), _doubt(cluster)
    if doubt and not cluster.sealed:
        consent(doubt)
    done = seal_everywhere(connection, cluster, now=now, report=report)
    iso = cluster.store.folder / done.node / "seed.iso"
    by_hand = f"{done.node} has no VM here: replace its ISO by hand where it runs, with {iso}"
    return replace(done, warnings=tuple(filter(None, (by_hand if done.vm is None else "", doubt))))


def _doubt(cluster: Cluster) -> str:
    try:
        if verification.is_answering(cluster.plan, verification.client_files(cluster.store.folder)):
            return ""
        return "no member answers; a sealed cluster can no longer be started for the first time"
    except BakeError as error:  # what it takes to ask is not installed
        return f"cannot ask the members: {error.message}"


def connect_if_possible(uri: str | None) -> Connection | None:
    """libvirt, or None where there is none and none was asked for: a cluster may well run somewhere else."""
    try:
        return vm.connect(uri)
    except BakeError:
        if uri is not None:
            raise
        return None


def verify_cluster(cluster: Cluster, *, now: datetime, report: Report) -> Verification:
    """Check the running cluster through every node."""
    files, without_user = (
        verification.client_files(cluster.store.folder, stem) for stem in (str(Role.CLIENT), user_stem(NOBODY))
    )
    return verification.verify(
        cluster.plan, files, now=now, token=secrets.token_hex(8), sealed=cluster.sealed, report=report,
        without_user=without_user,
    )  # fmt: skip


def audit(cluster: Cluster, *, now: datetime, report: Report) -> auditing.Audit:
    """Hold the running cluster against the CIS benchmark and the plan."""
    planned = auditing.planned_facts(cluster.store, cluster.plan)
    files = verification.client_files(cluster.store.folder)
    return auditing.audit(cluster.plan, files, planned, now=now, report=report)


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Each node's etcd and the state of its VM (None without libvirt); whether the cluster is sealed; what is left."""

    nodes: tuple[tuple[verification.NodeStatus, str | None], ...]
    sealed: bool
    tasks: tuple[verification.Task, ...]


def status(cluster: Cluster, *, uri: str | None) -> Overview:
    """Query the state of every node's VM and etcd."""
    states: dict[str, str | None] = dict.fromkeys(node.name for node in cluster.plan.nodes)
    try:
        found = vm.status(vm.connect(uri), cluster.plan, cluster_id=cluster.cluster_id)
        states = {one.node: f"{one.state} {one.accel}".strip() for one in found}
    except BakeError:
        if uri is not None:
            raise  # without --connect, the cluster may run elsewhere: query etcd only
    seen = verification.cluster_status(cluster.plan, verification.client_files(cluster.store.folder))
    nodes = tuple((node, states[node.name]) for node in seen.nodes)
    change = load_phase(cluster.store)
    tasks = tuple(verification.tasks(cluster.plan, seen, sealed=cluster.sealed, ca_change=change))
    return Overview(nodes=nodes, sealed=cluster.sealed, tasks=tasks)


def console(cluster: Cluster, node: str, *, uri: str | None) -> None:
    """Connect this terminal with a node's serial console; without a terminal, follow its log."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        vm.attach_console(uri, cluster.plan, node, cluster_id=cluster.cluster_id)
        return
    connection = vm.connect(uri)
    for data in vm.follow_console(connection, cluster.plan, node, cluster_id=cluster.cluster_id):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def down(cluster: Cluster, *, uri: str | None, progress: Progress) -> tuple[str, ...]:
    """Shut the VMs down; returns the nodes that ran."""
    return vm.down(
        vm.connect(uri), cluster.plan, cluster_id=cluster.cluster_id, report=progress.line
    )
