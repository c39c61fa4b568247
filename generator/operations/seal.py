"""`bake seal`: remove the bootstrap permit from the first node's ISO.

`bake seal` changes the ISO in the cluster's folder and the ISO in the VM's drive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath

from generator.artifact import Artifact
from generator.config.load import load_kept
from generator.engine import Engine
from generator.errors import BakeError, InputError
from generator.layout import SEALED, SEED_ISO, SPEC
from generator.operations import status
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.cluster_files import load_seal
from generator.operations.export import exported_permit
from generator.operations.hints import command
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.progress import Report
from generator.seed import iso
from generator.store.folder import Store


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """The result of sealing.

    `node`: the first node. `files`: whether files in the cluster's folder changed. `vm`: whether the ISO in the VM's
    drive changed, or None if bake found no VM of the node.
    """

    node: str
    files: bool
    vm: bool | None
    warnings: tuple[str, ...]


def seal(
    cluster: Cluster, engine: Engine | None, *, now: datetime, report: Report, consent: Callable[[str], None]
) -> Sealing:
    """Seal a cluster. If no member answers, call `consent`: a cluster that never started cannot start after `seal`."""
    doubt = _doubt(cluster)
    if doubt and not cluster.sealed:
        consent(doubt)
    done = seal_everywhere(engine, cluster, now=now, report=report)
    image = cluster.store.folder / done.node / SEED_ISO
    by_hand = f"bake finds no VM of {done.node}: replace the ISO in the VM's drive with {image}"
    warnings = (by_hand if done.vm is None else "", doubt, exported_permit(cluster.store, cluster.plan))
    return replace(done, warnings=tuple(filter(None, warnings)))


def _doubt(cluster: Cluster) -> str:
    try:
        if status.is_answering(cluster.plan, client_files(cluster.store.folder)):
            return ""
        return "no member answers; if this cluster has never started, it cannot start after `bake seal`"
    except BakeError as error:  # the gRPC client is not installed
        return f"cannot query the members: {error.message}"


def seal_everywhere(engine: Engine | None, cluster: Cluster, *, now: datetime, report: Report) -> Sealing:
    """Remove the bootstrap permit from the cluster's folder and, with `engine`, from the ISO in the VM's drive."""
    changed = seal_files(cluster.store, cluster.plan, now=now, report=report)
    replaced = engine.replace_seed(cluster.first.name) if engine is not None else None
    return Sealing(node=cluster.first.name, files=changed, vm=replaced, warnings=())


def seal_files(store: Store, plan: ClusterPlan, *, now: datetime, report: Report) -> bool:
    """Remove the bootstrap permit and a snapshot from the first node's ISO, atomically. Return whether a file changed.

    The other files on the ISO stay unchanged, so the node's configuration does not change.
    """
    first = next(node for node in plan.nodes if node.bootstrap)
    home = PurePosixPath(first.name)
    removed, path = [home / name for name in iso.UNTIL_SEALED], home / SEED_ISO
    with store.locked(report):
        store.check()
        if plan_cluster(load_kept(store.folder / SPEC)).nodes != plan.nodes:
            text = "another command has just changed this cluster's nodes"
            raise BakeError(text, hint=f"run {command(store, 'seal')} again")
        seal_file = load_seal(store)
        image, hint = store.read(path), f"run {command(store, '')}, then run {command(store, 'seal')}"
        if image is None or hashlib.sha256(image).hexdigest() != store.manifest().get(str(path), {}).get("sha256"):
            text = "is missing" if image is None else "was changed after bake wrote it"
            raise InputError.one(str(store.folder / path), text, hint)
        files = iso.unpack(image, where=str(store.folder / path), remedy=hint)
        kept = [file for file in files if file.path not in iso.UNTIL_SEALED]
        if seal_file and len(kept) == len(files) and not any(map(store.has, removed)):
            return False
        with store.replacing() as folder:
            packed = iso.pack(kept)
            folder.write(Artifact(path, packed.data, packed.mode, packed.secret))
            for artifact in seal_file or (_new_seal_file(first, now),):
                folder.write(artifact)
            folder.keep_others(*removed)
    return True


def _new_seal_file(node: NodePlan, now: datetime) -> Artifact:
    record = {"format_version": "1.0", "node": node.name, "time": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return Artifact(SEALED, json.dumps(record, indent=1).encode() + b"\n")
