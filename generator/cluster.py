"""The stories of a cluster that runs: up, status, verify, console, down, destroy."""

from __future__ import annotations

import hashlib
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from generator import verify as verification
from generator.bake import Report, bake
from generator.errors import BakeError, InputError
from generator.host import hypervisor
from generator.host.console import Journal, follow
from generator.host.hypervisor.connection import Connection
from generator.host.image import BootImage, default_image
from generator.host.image_custom import custom_image
from generator.host.store import Store
from generator.plan import ClusterPlan, plan_cluster
from generator.profile import load
from generator.progress import PHASES, Progress
from generator.spec import ClusterSpec
from generator.verify import Verification


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


def open_cluster(store: Store) -> Cluster:
    """What an earlier bake left in the store's folder. Raises InputError where there is nothing."""
    store.check()
    ca_pem = store.read(PurePosixPath("pki/etcd-ca.pem"))
    if store.read("cluster.yaml") is None or ca_pem is None:
        where = f"there is no cluster {store.cluster!r} in {store.out}"
        raise InputError.one("--name", where, "bake it first, or say where it is with --out")
    plan = plan_cluster(load(config=store.folder / "cluster.yaml").spec)
    return Cluster(store=store, plan=plan, cluster_id=hashlib.sha256(ca_pem).hexdigest()[:16])


def up(spec: ClusterSpec, store: Store, boot: Boot, *, now: datetime, progress: Progress) -> Verification:
    """Bake, boot, wait until every member votes, verify."""
    connection = hypervisor.connect(boot.uri)
    image = boot_image(spec, boot.cache, progress.line)
    bake(spec, store, now=now, report=progress.line)
    cluster = open_cluster(store)
    seeds = {node.name: store.folder / node.name / "seed.iso" for node in cluster.plan.nodes}
    hypervisor.boot(
        connection, cluster.plan, image, seeds, cluster_id=cluster.cluster_id, accel=boot.accel, report=progress.line
    )  # fmt: skip
    wait_for_voters(connection, cluster, boot.wait, progress)
    return verify_cluster(cluster, now=datetime.now(UTC), report=progress.line)


def boot_image(spec: ClusterSpec, cache: Path, report: Report) -> BootImage:
    """The spec's own image, or the base image, which is built if it is not there yet."""
    if spec.vm.image:
        return custom_image(spec.vm.image, spec.vm.sha256, cache, report=report)
    return default_image(cache, report=report)


def wait_for_voters(
    connection: Connection, cluster: Cluster, seconds: float, progress: Progress
) -> None:
    """Follow the consoles until every node has said that it votes."""
    journal = Journal(cluster.store.folder)
    journal.begin(node.name for node in cluster.plan.nodes)
    logs = hypervisor.console_logs(connection, cluster.plan, cluster_id=cluster.cluster_id)
    last = dict.fromkeys(logs, "booting")
    for node in logs:
        progress.event(node, "booting", "")

    def health() -> dict[str, str]:
        found = hypervisor.status(connection, cluster.plan, cluster_id=cluster.cluster_id)
        return {one.node: f"the VM is {one.state}" for one in found if one.state is not hypervisor.State.RUNNING}

    try:
        for event in follow(logs, journal, timeout=seconds, health=health):
            last[event.node] = event.phase
            progress.event(event.node, event.phase, event.detail)
            if event.phase == "failed":
                raise BakeError(f"{event.node} failed: {event.detail}")
            if all(phase == PHASES[-1] for phase in last.values()):
                return
    except BakeError as error:
        for node in (node for node, phase in last.items() if phase != PHASES[-1]):
            progress.line(f"--- the last lines of {node}'s console:")
            for line in journal.tail(node):
                progress.line(f"    {line}")
        error.hint = error.hint or f"the whole consoles: {cluster.store.folder}/<node>/console.log; bake console NODE"
        raise


def verify_cluster(cluster: Cluster, *, now: datetime, report: Report) -> Verification:
    """Check the running cluster through every node."""
    files = verification.client_files(cluster.store.folder)
    return verification.verify(cluster.plan, files, now=now, token=secrets.token_hex(8), report=report)


def status(cluster: Cluster, *, uri: str | None) -> list[dict[str, str]]:
    """A row for each node: its VM as libvirt sees it, and what etcd says."""
    states = dict.fromkeys((node.name for node in cluster.plan.nodes), "no libvirt")
    try:
        found = hypervisor.status(hypervisor.connect(uri), cluster.plan, cluster_id=cluster.cluster_id)
        states = {one.node: f"{one.state} {one.accel}".strip() for one in found}
    except BakeError:
        if uri is not None:
            raise  # without --connect, a cluster may well run somewhere else: ask etcd all the same
    nodes = verification.cluster_status(cluster.plan, verification.client_files(cluster.store.folder))
    rows = verification.status_rows(nodes)
    return [{"node": row["node"], "vm": states[row["node"]], **row} for row in rows]


def console(cluster: Cluster, node: str, *, uri: str | None) -> None:
    """Connect this terminal with a node's serial console; without a terminal, follow its log."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        hypervisor.attach_console(uri, cluster.plan, node, cluster_id=cluster.cluster_id)
        return
    connection = hypervisor.connect(uri)
    for data in hypervisor.follow_console(connection, cluster.plan, node, cluster_id=cluster.cluster_id):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def down(cluster: Cluster, *, uri: str | None, progress: Progress) -> tuple[str, ...]:
    """Shut the VMs down; returns the nodes that ran."""
    return hypervisor.down(
        hypervisor.connect(uri), cluster.plan, cluster_id=cluster.cluster_id, report=progress.line
    )


def destroy(store: Store, *, uri: str | None) -> tuple[str, ...]:
    """Remove the cluster's VMs, disks and network; returns their names. Works when the baked files are gone."""
    ca_pem = store.read(PurePosixPath("pki/etcd-ca.pem"))
    cluster_id = hashlib.sha256(ca_pem).hexdigest()[:16] if ca_pem else ""
    return hypervisor.destroy(hypervisor.connect(uri), store.cluster, cluster_id=cluster_id)
