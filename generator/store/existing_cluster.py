"""Read the spec and the user's input from the folder of an existing cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from generator.config import yaml12
from generator.config.spec import FIELDS_ADDED
from generator.config.user_input import ExistingCluster, at, parse_input, with_added
from generator.config.values import name as parse_name
from generator.errors import InputError
from generator.layout import INPUT, MANIFEST, OPERATOR, REQUESTS, SEALED, SHARED, SPEC
from generator.seed.iso import USER_DATA
from generator.store.folder import Store

_OLDER = "written by an older version of bake"


def find_existing(out: Path, name: object) -> ExistingCluster | None:
    """Return the cluster with this name, or None. Raises InputError if the folder belongs to another cluster."""
    try:
        return load_existing(Store(out, parse_name(name)))
    except ValueError:
        return None


def cluster_names(out: Path) -> list[str]:
    """Return the names of the clusters in an output folder. Skips the unfinished folder of a killed bake process."""
    return sorted(path.parent.name for path in out.glob(f"[!.]*/{MANIFEST}"))


def load_existing(store: Store) -> ExistingCluster | None:
    """Return the existing cluster, or None before the first bake. Raises InputError.

    Takes no lock. If another bake process replaces the folder during the read, `load_existing` reads all files again.
    """
    while True:
        digest = store.digest()
        try:
            found = _load(store, digest)
        except InputError:
            if store.digest() == digest:
                raise
            continue
        if store.digest() == digest:
            return found


def _load(store: Store, digest: str) -> ExistingCluster | None:
    store.check()
    manifest = store.manifest()
    has_requests = any(PurePosixPath(name).is_relative_to(REQUESTS) for name in manifest)
    found = ExistingCluster(
        where=str(store.folder), digest=digest, value={}, origins={}, user_input=None, input_origins={},
        nodes=frozenset(_nodes(manifest)) - {OPERATOR, SHARED}, has_requests=has_requests,
        sealed=store.read(SEALED) is not None, is_known=True,
    )  # fmt: skip
    if str(INPUT) in manifest and (raw := store.read(INPUT)) is not None:
        if not _is_as_baked(manifest, INPUT, raw):
            hint = "undo the change, or delete the file; without the file, all fields keep their values"
            raise InputError.one(str(store.folder / INPUT), "was changed after bake wrote it", hint)
        user_input, origins = parse_input(raw.decode(), str(store.folder / INPUT))
        found = found._replace(user_input=user_input, input_origins=origins)
    if str(SPEC) not in manifest:
        return found if found.user_input else None
    raw = store.read(SPEC)
    if raw is None or not _is_as_baked(manifest, SPEC, raw):
        return found._replace(is_known=False)
    document = yaml12.load_text(raw.decode(), str(store.folder / SPEC))
    origins, value = dict(document.positions), document.value
    for path in FIELDS_ADDED:
        if at(value, path) is None:
            origins[path] = f"{store.folder / SPEC} ({_OLDER})"
    return found._replace(value=with_added(value), origins=origins)


def _is_as_baked(manifest: dict[str, dict[str, str]], path: PurePosixPath, raw: bytes) -> bool:
    return manifest[str(path)].get("sha256") == hashlib.sha256(raw).hexdigest()


def _nodes(manifest: dict[str, dict[str, str]]) -> Iterator[str]:
    """Yield the name of each node that has a file with keys: a seed, or the key of a certificate request."""
    for path in map(PurePosixPath, manifest):
        if path.name == USER_DATA.name or path.match(f"{REQUESTS}/*/*.key"):
            yield path.parent.name
