"""`bake seal`: remove the bootstrap permit from the first node's ISO."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import PurePosixPath

from generator.artifact import Artifact
from generator.config.load import load_kept
from generator.errors import BakeError, InputError
from generator.layout import SEALED, SEED_ISO, SPEC
from generator.operations.bake import load_seal
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.progress import Report
from generator.seed import iso
from generator.store.folder import Store


def seal(store: Store, plan: ClusterPlan, *, now: datetime, report: Report) -> bool:
    """Remove the bootstrap permit from the first node's ISO, atomically. Return False if it was removed already.

    The ISO's other files stay unchanged, so the node's configuration does not change.
    """
    first = next(node for node in plan.nodes if node.bootstrap)
    permit, path = PurePosixPath(first.name) / iso.SEED_PERMIT, PurePosixPath(first.name) / SEED_ISO
    with store.locked(report):
        store.check()
        if plan_cluster(load_kept(store.folder / SPEC)).nodes != plan.nodes:
            raise BakeError("another command has just changed this cluster's nodes", hint="run it again: bake seal")
        mark = load_seal(store)
        image = store.read(path)
        if image is None or hashlib.sha256(image).hexdigest() != store.manifest().get(str(path), {}).get("sha256"):
            text = "is missing" if image is None else "was changed after bake wrote it"
            raise InputError.one(str(store.folder / path), text, "bake again, then: bake seal")
        files = iso.unpack(image, where=str(store.folder / path))
        kept = [file for file in files if file.path != iso.SEED_PERMIT]
        if mark and len(kept) == len(files) and store.read(permit) is None:
            return False
        with store.replacing() as folder:
            packed = iso.pack(kept)
            folder.write(Artifact(path, packed.data, packed.mode, packed.secret))
            for artifact in mark or (_seal_mark(first, now),):
                folder.write(artifact)
            folder.keep_others(permit)
    return True


def _seal_mark(node: NodePlan, now: datetime) -> Artifact:
    record = {"format_version": "1.0", "node": node.name, "time": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return Artifact(SEALED, json.dumps(record, indent=1).encode() + b"\n")
