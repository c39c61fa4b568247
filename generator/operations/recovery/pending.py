"""A restore that was interrupted: the first node's folder has the snapshot until the cluster is sealed."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path

from generator.engine import MachineStatus
from generator.errors import BakeError
from generator.layout import SEED_ISO
from generator.operations.baked_cluster import Cluster
from generator.operations.hints import command
from generator.seed.iso import SEED_SNAPSHOT


def pending_snapshot(cluster: Cluster) -> Path | None:
    """Return the path of the snapshot that the first node shall restore, or None if no restore is pending."""
    path = Path(cluster.first.name) / SEED_SNAPSHOT
    return cluster.store.folder / path if cluster.store.has(str(path)) else None


def refuse_old_machines(cluster: Cluster, machines: Mapping[str, MachineStatus]) -> None:
    """Raise BakeError if a restore is pending and machines of the lost cluster exist.

    The nodes of the lost cluster would go on with their old data, and nobody would notice that nothing was restored.
    A restore creates machines only when it has deleted all old machines. So no machine is old if the first node's
    machine has the ISO with the snapshot.
    """
    path = pending_snapshot(cluster)
    existing = [name for name, one in machines.items() if one.is_left]
    if path is None or not existing:
        return
    image = cluster.store.read(f"{cluster.first.name}/{SEED_ISO}") or b""
    if machines[cluster.first.name].seed == hashlib.sha256(image).hexdigest():
        return
    text = f"a restore was interrupted before it deleted the old VMs ({', '.join(existing)})"
    again, keep = command(cluster.store, f"restore {shlex.quote(str(path))}"), command(cluster.store, "seal")
    raise BakeError(text, hint=f"to go on: `{again}`; to keep the old VMs and their data: `{keep}`")
