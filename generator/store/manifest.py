"""Read and write `manifest.json`, which describes a cluster and lists the files that bake wrote to its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from generator import __version__
from generator.errors import InputError
from generator.layout import MANIFEST
from generator.plan import ClusterPlan

FORMAT_VERSION = "1.1"
Expiry = dict[str, dict[str, str]]  # owner of a certificate → its role → when it expires (RFC 3339, UTC)
_FACTS = ("bake", "nodes", "certificates")  # the keys of `describe`
MODES = ("0600", "0644")  # the modes of the files that bake writes
_SHA256 = re.compile("[0-9a-f]{64}")


def dump(cluster: str, files: dict[str, dict[str, str]], facts: Mapping[str, Any] | None = None) -> bytes:
    """Return the content of a manifest file. `facts`: see `describe`."""
    record = {"format_version": FORMAT_VERSION, "cluster": cluster, **(facts or {}), "files": files}
    return json.dumps(record, indent=1).encode() + b"\n"


def describe(plan: ClusterPlan, expiry: Expiry) -> dict[str, Any]:
    """Return the facts in the manifest of a cluster: the version of bake, the nodes, and when certificates expire.

    The facts depend only on the plan and the certificates, so that another bake does not change them.
    """
    nodes = [
        {"name": node.name, "address": str(node.address), "mac": node.mac, **({"host": node.host} if node.host else {})}
        for node in plan.nodes
    ]
    return {"bake": __version__, "nodes": nodes, "certificates": expiry}


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts in a parsed manifest. The manifest of an older bake has none."""
    return {key: record[key] for key in _FACTS if key in record}


def parse(raw: bytes, *, where: str) -> dict[str, Any]:
    """Return the data in a manifest file. Raises InputError if the data does not have the manifest's format."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        record = None
    match record:
        case {"cluster": str(), "files": dict() as files}:
            version = record.get("format_version", FORMAT_VERSION)
            fault = _version_fault(version) or next(filter(None, map(_entry_fault, files.items())), None)
        case _:
            fault = "is not bake's manifest"
    if fault:
        raise InputError.one(where, fault, "restore the file")
    return dict(record)


def _version_fault(version: object) -> str | None:
    known = FORMAT_VERSION.partition(".")[0]
    is_known = isinstance(version, str) and version.partition(".")[0] == known
    return None if is_known else f"format_version {version!r} is not {known}.x"


def _entry_fault(entry: tuple[str, object]) -> str | None:
    name, facts = entry
    if not _is_path(name):
        return f"files: {name!r} is not the path of a file below the cluster's folder"
    match facts:
        case {"sha256": str(digest), "mode": str(mode)}:
            if not _SHA256.fullmatch(digest):
                return f"files: {name}: sha256 {digest!r} is not 64 hexadecimal digits"
            if mode not in MODES:
                return f"files: {name}: mode {mode!r} is not {' or '.join(MODES)}"
            return None
    return f"files: {name}: needs sha256 and mode"


def _is_path(name: str) -> bool:
    """Return whether the manifest may list a file with this path. The manifest does not list itself."""
    path = PurePosixPath(name)
    is_plain = str(path) == name and name.isprintable() and not path.is_absolute()
    return is_plain and ".." not in path.parts and path.parts != () and path != MANIFEST
