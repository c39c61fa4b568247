"""Store what a bake changed, and read it for the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from generator import __version__
from generator.artifact import Artifact
from generator.change.spec_changes import Change, Kind, compare, file_changes
from generator.config.spec import ClusterSpec
from generator.layout import LAST_BAKE
from generator.level import Level
from generator.store.existing_cluster import load_existing
from generator.store.folder import Staging, Store

FORMAT_VERSION = "1.0"


class LastBake(NamedTuple):
    """The last bake that changed the folder. `changes`: the objects that `bake -o json` lists in its key `changes`.

    `is_first`: whether the bake made the cluster.
    """

    time: str  # RFC 3339, UTC
    version: str
    is_first: bool
    changes: tuple[dict[str, Any], ...]


def note_bake(folder: Staging, spec: ClusterSpec, *, now: datetime) -> tuple[tuple[str, str], ...]:
    """Return the differences of a cluster's new folder, and add a record of them. Keep the record without differences.

    The result does not name the record itself.
    """
    differences = tuple(one for one in folder.differences if one[1] != str(LAST_BAKE))
    if not differences:
        if (kept := folder.store.read(LAST_BAKE)) is not None:
            folder.write(Artifact(LAST_BAKE, kept))
        return ()
    existing = load_existing(folder.store)
    changes: tuple[Change, ...] = (*compare(existing, spec), *file_changes(differences))
    record = {
        "format_version": FORMAT_VERSION, "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "bake_version": __version__,
        "first": existing is None or not existing.value, "changes": [change.data for change in changes],
    }  # fmt: skip
    folder.write(Artifact(LAST_BAKE, json.dumps(record, indent=1, default=str).encode() + b"\n"))
    return differences


def load_last_bake(store: Store) -> LastBake | None:
    """Return the record of the last bake. Return None without a record, and for a file that bake did not write."""
    try:
        found = json.loads(store.read(LAST_BAKE) or b"")
        changes = tuple(map(_checked, found["changes"]))
        return LastBake(
            time=str(found["time"]), version=str(found["bake_version"]), is_first=bool(found["first"]), changes=changes
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _checked(change: dict[str, Any]) -> dict[str, Any]:
    """Return a change. Raise ValueError, LookupError or TypeError if the report could not show it."""
    if change["change"] not in ("+", "~", "-") or not isinstance(change["name"], str):
        raise ValueError(change)
    Kind(change["kind"])
    Level(change.get("level", Level.NONE))
    return change


def edited_files(store: Store) -> Iterator[tuple[str, str]]:
    """Yield each file that was changed (`~`) or removed (`-`) after bake wrote it, with its sign."""
    for name, entry in store.manifest().items():
        data = store.read(name)
        if data is None:
            yield "-", name
        elif hashlib.sha256(data).hexdigest() != entry["sha256"]:
            yield "~", name
