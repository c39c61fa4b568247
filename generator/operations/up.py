"""`bake up`: bake, boot the VMs, wait until every node has settled, and verify."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from generator.config.spec import ClusterSpec
from generator.console_records import Event, Failures, Journal
from generator.engine import Engine, State
from generator.errors import BakeError, InputError
from generator.etcd.dial import reachable
from generator.image.age import OLD, days_old
from generator.image.base import BootImage, default_image
from generator.image.custom import custom_image
from generator.layout import SEED_ISO
from generator.operations import verify
from generator.operations.bake import Agreed, bake
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.hints import command
from generator.operations.running.applied_seeds import applied_seeds
from generator.operations.running.boot_progress import SETTLED, VOTING_PHASES, follow_nodes
from generator.operations.seal import seal_everywhere
from generator.operations.verify import Verification
from generator.plan import ClusterPlan
from generator.progress import Progress, Report
from generator.store.folder import Store

_ADDRESSES_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Boot:
    """How to boot the VMs.

    `engine`: returns the engine of a cluster's VMs, which makes new disks from the given image. `wait`: the number of
    seconds within which all nodes must settle. `cache`: the folder for images. `reach`: called when the nodes
    run, before bake asks them. It may connect to nodes that do not answer this machine. `connect`: the user's
    --connect, for hints.
    """

    engine: Callable[[Cluster, BootImage], Engine]
    wait: float
    cache: Path
    reach: Callable[[ClusterPlan], None] = lambda _plan: None
    connect: str | None = None


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
    """Bake, boot, wait until every node has settled, and verify the cluster.

    Seal the cluster as soon as its first node becomes a voting member. operations/running/ changes a cluster that has
    started.
    """
    image = boot_image(spec, boot.cache, progress.line)
    if (age := days_old(image.built, now=now)) and age > OLD:
        progress.line(f"warning: the base image is {age} days old; build a new one with bake image --refresh")
    bake(spec, store, now=now, report=progress.line, passphrase=passphrase, agreed=agreed)
    cluster = open_cluster(store)
    try:
        engine = boot.engine(cluster, image)
        started = engine.create(*(node.name for node in cluster.plan.nodes))
    except BakeError:
        if not cluster.sealed:
            ways = [command(store, word, connect=boot.connect) for word in ("up", "destroy")]
            progress.line(f"the ISOs in {store.folder} stay: to go on, run {ways[0]}; to remove all VMs, run {ways[1]}")
        raise
    for name in started:
        Journal(store.folder).keep_start(name, time.time())
    _report_unchanged(engine, cluster, image, started, progress.line)
    wait_until_settled(engine, cluster, seconds=boot.wait, progress=progress)
    boot.reach(cluster.plan)
    _wait_for_addresses(cluster.plan)
    return verify.verify_changed(cluster, report=progress.line)


def _wait_for_addresses(plan: ClusterPlan) -> None:
    """Wait while only a part of the settled nodes answers from here.

    For about ten seconds, this machine can still send packets to an earlier machine that had the same address
    (arp(7), delay_first_probe_time).
    """
    targets = [(str(node.address), plan.spec.etcd.client_port) for node in plan.nodes]
    deadline = time.monotonic() + _ADDRESSES_SECONDS
    while 0 < len(reachable(targets, timeout=2)) < len(targets) and time.monotonic() < deadline:
        time.sleep(0.2)


def _report_unchanged(
    engine: Engine, cluster: Cluster, image: BootImage, started: Collection[str], report: Report
) -> None:
    """Report running VMs that differ from the plan or have another seed, and disks that keep another image."""
    found = engine.machines()
    for name, seen in ((node.name, found[node.name]) for node in cluster.plan.nodes):
        if seen.image not in ("", image.digest):
            report(f"{name}: keeps its disk, which was made from another image")
        digest = hashlib.sha256(cluster.store.read(f"{name}/{SEED_ISO}") or b"").hexdigest()
        if name not in started and seen.state is State.RUNNING and (seen.outdated or seen.seed != digest):
            ways = [command(cluster.store, word) for word in ("down", "up")]
            report(f"{name}: is running; to apply the changes: {ways[0]}, then {ways[1]}")


def boot_image(spec: ClusterSpec, cache: Path, report: Report, *, refresh: bool = False) -> BootImage:
    """Return the image that the spec names, or the base image. Build the base image if it does not exist.

    `refresh`: build the base image even if it exists.
    """
    if spec.vm.image:
        if refresh:
            rule = "is your image, and only bake's image can be refreshed"
            raise InputError.one("vm.image", f"{spec.vm.image} {rule}", "give a newer image with --image")
        return custom_image(spec.vm.image, spec.vm.sha256, cache, report=report)
    return default_image(cache, report=report, refresh=refresh)


# --- reactions to the nodes' events ---------------------------------------------------------------------------


def wait_until_settled(
    engine: Engine, cluster: Cluster, *, seconds: float, progress: Progress
) -> None:
    """Follow the nodes until each has settled, and react to their events.

    Seal the cluster when its first node becomes a voting member. Remove the seeds from the drives of settled nodes.
    """
    journal = Journal(cluster.store.folder)
    journal.begin(node.name for node in cluster.plan.nodes)
    events = follow_nodes(engine, cluster, cluster.plan.nodes, journal, seconds=seconds)
    must_seal = True
    for event in _shown(events, cluster, journal, progress):
        if must_seal and event.node == cluster.first.name and event.phase in VOTING_PHASES:
            _seal(engine, cluster, progress.line)
            must_seal = False
        if event.phase == SETTLED:
            _remove_seed(engine, cluster, event, progress.line)


def _shown(events: Iterator[Event], cluster: Cluster, journal: Journal, progress: Progress) -> Iterator[Event]:
    """Show and yield each event. Raise BakeError if a node fails. After an error, show the nodes' consoles."""
    phases = {}
    failures = Failures(lambda node: command(cluster.store, f"logs {node} --unit etcd"))
    try:
        for event in events:
            phases[event.node] = event.phase
            progress.event(event.node, event.phase, event.detail)
            failures.add(event)
            yield event
    except BakeError as error:
        nodes = [node for node, phase in phases.items() if phase != SETTLED]
        _show_consoles(nodes, journal, progress.line)
        error.hint = error.hint or journal.where(nodes)
        raise


def _show_consoles(nodes: Iterable[str], journal: Journal, report: Report) -> None:
    for node in nodes:
        lines = journal.tail(node)
        report(f"--- the last lines of {node}'s console:" if lines else f"--- {node}'s console has printed nothing")
        for line in lines:
            report(f"    {line}")


def _seal(engine: Engine, cluster: Cluster, report: Report) -> None:
    done = seal_everywhere(engine, cluster, now=datetime.now(UTC), report=report)
    if done.files or done.vm:
        report(f"{done.node}: sealed (bootstrap permit removed from its ISO)")


def _remove_seed(engine: Engine, cluster: Cluster, event: Event, report: Report) -> None:
    """Remove the seed from a settled node's drive, because the seed contains the node's private keys.

    A seed that the node has not applied stays in the drive, because the node needs the seed at its next boot.
    """
    meta_data = cluster.store.read(f"{event.node}/meta-data") or b""
    has_applied = bool(event.seed) and f"instance-id: {event.seed}" in meta_data.decode().splitlines()
    if has_applied and event.node not in applied_seeds(engine, [event.node]).waiting and engine.remove_seed(event.node):
        report(f"{event.node}: seed removed from its drive")
