"""`bake up`: bake, boot the VMs, wait until every node has settled, and verify."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from generator import vm
from generator.config.spec import ClusterSpec
from generator.errors import BakeError, InputError, UnhealthyError
from generator.image.base import BootImage, default_image
from generator.image.custom import custom_image
from generator.layout import SEALED, SEED_ISO
from generator.operations import verify
from generator.operations.bake import Agreed, bake
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.boot_progress import SETTLED, VOTING_PHASES, follow_nodes
from generator.operations.hints import command
from generator.operations.seal import seal_everywhere
from generator.operations.verify import Verification
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.progress import Progress, Report
from generator.store.folder import Store
from generator.vm import Refusal
from generator.vm.connection import Connection
from generator.vm.console_records import Event, Journal


@dataclass(frozen=True, kw_only=True)
class Boot:
    """How to boot the VMs.

    `uri`: of libvirt; None: LIBVIRT_DEFAULT_URI, then qemu:///system. `accel`: auto, kvm or tcg. `wait`: in seconds.
    `cache`: the folder for images.
    """

    uri: str | None
    accel: str
    wait: float
    cache: Path


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
    nodes = _without_refused(cluster.plan, refusal, progress.line)
    seeds = {node.name: store.folder / node.name / SEED_ISO for node in nodes}
    vm.boot(
        connection, cluster.plan, image, seeds, cluster_id=cluster.cluster_id, accel=boot.accel, report=progress.line
    )  # fmt: skip
    wait_until_settled(connection, cluster, nodes, seconds=boot.wait, progress=progress)
    _raise_refusal(refusal, store)
    return verify.verify_cluster(cluster, now=datetime.now(UTC), report=progress.line)


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
    """Return the spec's image, or the base image. Build the base image if it does not exist."""
    if spec.vm.image:
        return custom_image(spec.vm.image, spec.vm.sha256, cache, report=report)
    return default_image(cache, report=report)


def _without_refused(plan: ClusterPlan, refusal: Refusal | None, report: Report) -> tuple[NodePlan, ...]:
    """Return the nodes to boot. Leave out nodes that a running node's firewall refuses, because they could not join."""
    if refusal is None:
        return plan.nodes
    old, new = _names(refusal.by), _names(refusal.joining)
    report(f"warning: the peer firewall of {old} is from an earlier plan and refuses {new}: not booting {new}")
    return tuple(node for node in plan.nodes if node not in refusal.joining)


def _raise_refusal(refusal: Refusal | None, store: Store) -> None:
    """Raise UnhealthyError if nodes were not booted, because the operator has to restart other nodes first."""
    if refusal is None:
        return
    down, again = command(store, "down"), command(store, "up")
    one_by_one = f"or, without an outage, `virsh shutdown {refusal.by[0].domain}`, then `{again}`, node by node"
    raise UnhealthyError(
        f"not booted: {_names(refusal.joining)}; restart {_names(refusal.by)} first, whose firewall refuses them",
        hint=f"run `{down}`, then `{again}`; {one_by_one}",
    )


def _names(nodes: Iterable[NodePlan]) -> str:
    return ", ".join(node.name for node in nodes)


# --- reactions to the nodes' events ---------------------------------------------------------------------------


def wait_until_settled(
    connection: Connection, cluster: Cluster, nodes: tuple[NodePlan, ...], *, seconds: float, progress: Progress
) -> None:
    """Follow these nodes until each has settled, and react to their events.

    The first vote of the cluster's first node seals the cluster. A settled node no longer needs the seed in its drive.
    """
    journal = Journal(cluster.store.folder)
    journal.begin(node.name for node in nodes)
    events = follow_nodes(connection, cluster, nodes, journal, seconds=seconds)
    must_seal = True
    for event in _shown(events, cluster, journal, progress):
        if must_seal and event.node == cluster.first.name and event.phase in VOTING_PHASES:
            _seal(connection, cluster, progress.line)
            must_seal = False
        if event.phase == SETTLED:
            _remove_seed(connection, cluster, event, progress.line)


def _shown(events: Iterator[Event], cluster: Cluster, journal: Journal, progress: Progress) -> Iterator[Event]:
    """Show each event, then yield it. Raise BakeError for a node that fails, and show the consoles after any error."""
    phases = {}
    try:
        for event in events:
            phases[event.node] = event.phase
            progress.event(event.node, event.phase, event.detail)
            if event.phase == "failed":
                raise BakeError(f"{event.node} failed: {event.detail}")
            yield event
    except BakeError as error:
        _show_consoles((node for node, phase in phases.items() if phase != SETTLED), journal, progress.line)
        look = command(cluster.store, "console NODE")
        error.hint = error.hint or f"see {journal.folder}/<node>/console.log, or run {look}"
        raise


def _show_consoles(nodes: Iterable[str], journal: Journal, report: Report) -> None:
    for node in nodes:
        report(f"--- the last lines of {node}'s console:")
        for line in journal.tail(node):
            report(f"    {line}")


def _seal(connection: Connection, cluster: Cluster, report: Report) -> None:
    done = seal_everywhere(connection, cluster, now=datetime.now(UTC), report=report)
    if done.files or done.vm:
        report(f"{done.node}: sealed (bootstrap permit removed from its ISO)")


def _remove_seed(connection: Connection, cluster: Cluster, event: Event, report: Report) -> None:
    """Remove the seed, which has the node's keys, from a settled node's drive.

    A seed that the node has not applied stays, because the node would have no network at its next boot without it.
    """
    meta_data = cluster.store.read(f"{event.node}/meta-data") or b""
    has_applied = bool(event.seed) and f"instance-id: {event.seed}" in meta_data.decode().splitlines()
    node = next(node for node in cluster.plan.nodes if node.name == event.node)
    if has_applied and vm.remove_seed(connection, cluster.plan, node, cluster_id=cluster.cluster_id):
        report(f"{event.node}: seed removed from its drive")
