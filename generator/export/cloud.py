"""Build user-data for engines that have no drive for an ISO: compressed, and checked against the engine's limit.

The first node's user-data contains the bootstrap permit until the cluster is sealed (decision 26).
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from generator.artifact import Artifact
from generator.errors import Problem
from generator.export.source import Source, check_files_fit, refuse
from generator.plan import NodePlan
from generator.seed.iso import META_DATA, without_drive

INDEX = PurePosixPath("nodes.json")


class Engine(NamedTuple):
    """`limit`: the most bytes of user-data that the engine accepts in this encoding. `origin`: who says so."""

    title: str
    limit: int
    is_text: bool  # whether the engine accepts only text, so that the user-data must be base64
    origin: str


ENGINES = {
    "openstack": Engine("OpenStack", 65_535 // 4 * 3, False, "65535 bytes as base64, OpenStack Nova, user data"),
    "gce": Engine("Google Compute Engine", 262_144, True, "Compute Engine API, Metadata.items.value"),
    "ec2": Engine("Amazon EC2", 16_384, False, "16 KB before base64, Amazon EC2 User Guide, user data"),
}
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`engine`: a key of `ENGINES`, or `OTHER` with a `limit` in bytes."""

    engine: str
    limit: int | None = None


def export(source: Source, settings: Settings) -> tuple[Artifact, ...]:
    """Return each node's user-data, and a list of the nodes. Raise InputError if a node's user-data is too large."""
    engine = ENGINES.get(settings.engine, Engine("the engine", settings.limit or 0, False, "--limit"))
    if settings.limit is not None:
        engine = engine._replace(limit=settings.limit, origin="--limit")
    made = {node: user_data(source, node, engine) for node in source.plan.nodes}
    refuse(_problems(source, settings, engine, made))
    rows = [_row(source, node, file) for node, file in made.items()]
    index = {"format_version": "1.0", "cluster": source.plan.name, "engine": settings.engine, "nodes": rows}
    return (*made.values(), Artifact(INDEX, json.dumps(index, indent=1).encode() + b"\n"))


def user_data(source: Source, node: NodePlan, engine: Engine) -> Artifact:
    """Return a node's user-data, which cloud-init decompresses."""
    meta_data = source.seeds[node.name][str(META_DATA)]
    plain = without_drive(source.user_data(node), meta_data, source.permit(node))
    packed = gzip.compress(plain, compresslevel=9, mtime=0)
    suffix, data = (".gz.b64", base64.b64encode(packed)) if engine.is_text else (".gz", packed)
    return Artifact(PurePosixPath(f"{node.name}.user-data{suffix}"), data, mode=0o600, secret=True)


def _row(source: Source, node: NodePlan, file: Artifact) -> dict[str, object]:
    return {
        "name": node.name, "host_name": node.fqdn, "address": str(node.address),
        "user_data": str(file.path), "bytes": len(file.data), "bootstrap_permit": bool(source.permit(node)),
    }  # fmt: skip


def _problems(
    source: Source, settings: Settings, engine: Engine, made: dict[NodePlan, Artifact]
) -> Iterator[Problem]:
    if settings.engine == OTHER and settings.limit is None:
        yield Problem("--limit", "is missing, and the engine `other` has no known limit", "give the limit in bytes")
    elif engine.limit <= 0:
        yield Problem("--limit", f"{engine.limit} is not a number of bytes above 0", "give the limit in bytes")
    for node, file in made.items():
        if len(file.data) > engine.limit > 0:
            text = f"{len(file.data)} bytes after compression; {engine.title} accepts {engine.limit} ({engine.origin})"
            hint = "use an engine that accepts more, or an engine that can attach the ISO"
            yield Problem(f"{node.name}/user-data", text, hint)
    if source.plan.spec.vm.data_disk:
        text = f"{source.plan.spec.vm.data_disk}: an engine without drives cannot set the serial of a data disk"
        yield Problem("vm.dataDisk", text, "bake the cluster with --data-disk 0")
    yield from check_files_fit(source, "user-data")
