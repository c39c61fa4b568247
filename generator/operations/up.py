"""Operations on a running cluster: up, seal, status, verify, audit, console, down."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from generator import vm
from generator.config.auth import UNAUTHORIZED_CLIENT
from generator.config.load import load_kept
from generator.config.spec import ClusterSpec
from generator.errors import BakeError, InputError
from generator.image.base import BootImage, default_image
from generator.image.custom import custom_image
from generator.layout import SEALED, SEED_ISO, SPEC
from generator.operations import audit as auditing
from generator.operations import seal as sealing
from generator.operations import verify as verification
from generator.operations.bake import Agreed, bake
from generator.operations.boot_progress import follow_nodes, raise_refusal, without_refused
from generator.operations.verify import Verification
from generator.pki import Role, user_stem
from generator.plan import ClusterPlan, NodePlan, plan_cluster, short_id
from generator.progress import Progress, Report
from generator.store.cas import load_phase
from generator.store.existing_keys import load_identity
from generator.store.folder import Store
from generator.store.requests import refuse_unsigned
from generator.vm.connection import Connection
from generator.vm.console_records import Event


@dataclass(frozen=True, kw_only=True)
class Boot:
    """How to boot: the libvirt URI (None: LIBVIRT_DEFAULT_URI, then qemu:///system), auto | kvm | tcg, seconds to wait,
    and the image cache."""

    uri: str | None
    accel: str
    wait: float
    cache: Path


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A baked cluster: its folder, its plan, and the id that tags its VMs."""

    store: Store
    plan: ClusterPlan
    cluster_id: str

    @property
    def first(self) -> NodePlan:
        """The node that may start the cluster until it is sealed."""
        return next(node for node in self.plan.nodes if node.bootstrap)

    @property
    def sealed(self) -> bool:
        """Whether the permit is removed; False also if a killed `seal` left the old folder, which has the permit."""
        return self.store.read(SEALED) is not None and not self.store.has_leftover()


def open_cluster(store: Store) -> Cluster:
    """Open the cluster in the store's folder. Raise InputError if there is none, UnsignedError if its certificates are
    not issued yet."""
    store.check()
    identity = load_identity(store)
    if store.read(SPEC) is None or identity is None:
        refuse_unsigned(store)
        where = f"there is no cluster {store.cluster!r} in {store.out}"
        raise InputError.one("--name", where, "bake it first, or give its folder with --out")
    plan = plan_cluster(load_kept(store.folder / SPEC))
    return Cluster(store=store, plan=plan, cluster_id=short_id(identity))


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
    """Bake, boot, wait until every node has settled, and verify. Seal the cluster as soon as its first node votes."""
    connection = vm.connect(boot.uri)
    _refuse_lost(connection, spec, store)
    image = boot_image(spec, boot.cache, progress.line)
    bake(spec, store, now=now, report=progress.line, passphrase=passphrase, agreed=agreed)
    cluster = open_cluster(store)
    refusal = vm.find_refusal(connection, cluster.plan, cluster_id=cluster.cluster_id)
    nodes = without_refused(cluster.plan, refusal, progress.line)
    seeds = {node.name: store.folder / node.name / SEED_ISO for node in nodes}
    vm.boot(
        connection, cluster.plan, image, seeds, cluster_id=cluster.cluster_id, accel=boot.accel, report=progress.line
    )  # fmt: skip
    wait_until_settled(connection, cluster, boot.wait, progress, nodes)
    raise_refusal(refusal)
    return verify_cluster(cluster, now=datetime.now(UTC), report=progress.line)


def _refuse_lost(connection: Connection, spec: ClusterSpec, store: Store) -> None:
    """Raise InputError for a sealed cluster without VMs here: its new nodes would wait forever for members."""
    if store.read(SEALED) is None:
        return
    if {one.state for one in vm.status(connection, plan_cluster(spec))} == {vm.State.MISSING}:
        raise InputError.one(
            str(store.folder / SEALED),
            "the cluster is sealed, so it cannot be started anew, and none of its VMs is here",
            "give the --connect of their host; only if the cluster is lost, delete this file to start a new one",
        )


def boot_image(spec: ClusterSpec, cache: Path, report: Report) -> BootImage:
    """Return the spec's image, or the base image, which is built if it does not exist."""
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
    """Follow the consoles until every node has settled, or every node of `booted`.

    The cluster is sealed as soon as its first node votes. A settled node no longer needs its seed, which has its keys:
    the seed is removed from its drive.
    """
    first = cluster.first.name
    plan = cluster.plan if booted is None else replace(cluster.plan, nodes=booted)
    nodes = {node.name: node for node in plan.nodes}
    folder, cluster_id = cluster.store.folder, cluster.cluster_id
    for event in follow_nodes(connection, plan, folder, cluster_id=cluster_id, seconds=seconds, progress=progress):
        if event.node == first and event.phase in ("voting", "settled"):
            first = ""
            done = seal_everywhere(connection, cluster, now=datetime.now(UTC), report=progress.line)
            if done.files or done.vm:
                progress.line(f"{event.node}: sealed (bootstrap permit removed from its ISO)")
        if event.phase == "settled" and _has_applied(cluster, event):
            node = nodes[event.node]
            if vm.remove_seed(connection, cluster.plan, node, cluster_id=cluster.cluster_id):
                progress.line(f"{event.node}: seed removed from its drive")


def _has_applied(cluster: Cluster, event: Event) -> bool:
    """Whether a settled node has applied the seed in the folder, which is the one in its drive. A newer seed must stay
    in the drive: without it the node would have no network at its next boot."""
    meta_data = cluster.store.read(f"{event.node}/meta-data") or b""
    return bool(event.seed) and f"instance-id: {event.seed}" in meta_data.decode().splitlines()


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """The result of sealing: whether files and the first node's VM changed (None: no VM here), and warnings."""

    node: str
    files: bool
    vm: bool | None
    warnings: tuple[str, ...]


def seal_everywhere(connection: Connection | None, cluster: Cluster, *, now: datetime, report: Report) -> Sealing:
    """Remove the bootstrap permit from the files, then from the VM's drive, if there is a VM."""
    changed = sealing.seal(cluster.store, cluster.plan, now=now, report=report)
    node, replaced = cluster.first, None
    if connection is not None:
        iso = cluster.store.folder / node.name / SEED_ISO
        replaced = vm.replace_seed(connection, cluster.plan, node, iso, cluster_id=cluster.cluster_id)
    return Sealing(node=node.name, files=changed, vm=replaced, warnings=())


def seal(
    cluster: Cluster, *, uri: str | None, now: datetime, report: Report, consent: Callable[[str], None]
) -> Sealing:
    """Seal a cluster. `consent` is called if no member answers, because the cluster may never have been started."""
    connection, doubt = connect_if_possible(uri), _doubt(cluster)
    if doubt and not cluster.sealed:
        consent(doubt)
    done = seal_everywhere(connection, cluster, now=now, report=report)
    iso = cluster.store.folder / done.node / SEED_ISO
    by_hand = f"{done.node} has no VM here: replace the ISO in its drive with {iso}"
    return replace(done, warnings=tuple(filter(None, (by_hand if done.vm is None else "", doubt))))


def _doubt(cluster: Cluster) -> str:
    try:
        if verification.is_answering(cluster.plan, verification.client_files(cluster.store.folder)):
            return ""
        return "no member answers, and a sealed cluster can no longer be started for the first time"
    except BakeError as error:  # the gRPC client is not installed
        return f"cannot ask the members: {error.message}"


def connect_if_possible(uri: str | None) -> Connection | None:
    """Connect to libvirt. Return None if that fails without an explicit URI: the cluster may run elsewhere."""
    try:
        return vm.connect(uri)
    except BakeError:
        if uri is not None:
            raise
        return None


def verify_cluster(cluster: Cluster, *, now: datetime, report: Report) -> Verification:
    """Check the running cluster through every node."""
    files, without_user = (
        verification.client_files(cluster.store.folder, stem)
        for stem in (str(Role.CLIENT), user_stem(UNAUTHORIZED_CLIENT))
    )
    return verification.verify(
        cluster.plan, files, now=now, token=secrets.token_hex(8), sealed=cluster.sealed, report=report,
        without_user=without_user,
    )  # fmt: skip


def audit(cluster: Cluster, *, now: datetime, report: Report) -> auditing.Audit:
    """Audit the running cluster against the CIS benchmark and the plan."""
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
    """Connect this terminal to a node's serial console; without a terminal, print its log."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        vm.attach_console(uri, cluster.plan, node, cluster_id=cluster.cluster_id)
        return
    connection = vm.connect(uri)
    for data in vm.follow_console(connection, cluster.plan, node, cluster_id=cluster.cluster_id):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def down(cluster: Cluster, *, uri: str | None, progress: Progress) -> tuple[str, ...]:
    """Shut down the VMs; return the nodes that were running."""
    return vm.down(
        vm.connect(uri), cluster.plan, cluster_id=cluster.cluster_id, report=progress.line
    )
