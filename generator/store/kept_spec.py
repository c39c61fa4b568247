"""Read the spec and the user's input that an earlier bake left in a cluster's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from generator.config import yaml12
from generator.config.spec import FIELDS_ADDED
from generator.config.user_input import Standing, at, parse_said, with_added
from generator.config.values import name as parse_name
from generator.errors import InputError
from generator.layout import INPUT, REQUESTS, SEALED, SPEC
from generator.seed.iso import USER_DATA
from generator.store.folder import Store

_OLDER = "from an older version of bake"
OPERATOR, SHARED = "operator", "shared"  # folders of requests that do not belong to a node


def find_standing(out: Path, name: object) -> Standing | None:
    """Return the cluster with this name, or None. Raises InputError for a folder of another cluster."""
    try:
        return load_standing(Store(out, parse_name(name)))
    except ValueError:
        return None


def load_standing(store: Store) -> Standing | None:
    """Return the baked cluster; None if nothing was baked yet. Raises InputError.

    Takes no lock: reads the files again if another run replaced the folder in the meantime.
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


def _load(store: Store, digest: str) -> Standing | None:
    store.check()
    manifest = store.manifest()
    asks = any(PurePosixPath(name).is_relative_to(REQUESTS) for name in manifest)
    found = Standing(
        where=str(store.folder), digest=digest, value={}, origins={}, said=None, said_origins={}, asks=asks,
        nodes=frozenset(_nodes(manifest)) - {OPERATOR, SHARED}, sealed=store.read(SEALED) is not None, is_known=True,
    )  # fmt: skip
    if str(INPUT) in manifest and (raw := store.read(INPUT)) is not None:
        if not _is_as_baked(manifest, INPUT, raw):
            hint = "undo the change, or delete the file: every field then keeps its current value"
            raise InputError.one(str(store.folder / INPUT), "was changed after bake wrote it", hint)
        said, origins = parse_said(raw.decode(), str(store.folder / INPUT))
        found = replace(found, said=said, said_origins=origins)
    if str(SPEC) not in manifest:
        return found if found.said else None
    raw = store.read(SPEC)
    if raw is None or not _is_as_baked(manifest, SPEC, raw):
        return replace(found, is_known=False)
    document = yaml12.load_text(raw.decode(), str(store.folder / SPEC))
    origins, value = dict(document.positions), document.value
    for path in FIELDS_ADDED:
        if at(value, path) is None:
            origins[path] = f"{store.folder / SPEC} ({_OLDER})"
    return replace(found, value=with_added(value), origins=origins)


def _is_as_baked(manifest: dict[str, dict[str, str]], path: PurePosixPath, raw: bytes) -> bool:
    return manifest[str(path)].get("sha256") == hashlib.sha256(raw).hexdigest()


def _nodes(manifest: dict[str, dict[str, str]]) -> Iterator[str]:
    """Yield the nodes that have keys, in a seed or with a pending request."""
    for path in map(PurePosixPath, manifest):
        if path.name == USER_DATA.name or path.match(f"{REQUESTS}/*/*.key"):
            yield path.parent.name
