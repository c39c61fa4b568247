"""`bake backup` and `bake recover`: save a cluster's folder in one encrypted file, and write the folder again.

The backup has every file of the folder's manifest: the CA with its key, the identity, the spec, the user's input, the
seeds with the nodes' keys, the file `sealed`. It has no ISOs and no snapshot of etcd's data. A tarball of etcd, which
only the ISOs have, is in the backup once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from generator import __version__
from generator.artifact import Artifact
from generator.errors import InputError
from generator.layout import MANIFEST, SEED_ISO
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.hints import command
from generator.operations.recovery.pending import pending_snapshot
from generator.progress import Report
from generator.seed import iso
from generator.seed.guest_files import ARCHIVE_NAME
from generator.seed.seed_level import SEED_FILES
from generator.store import manifest
from generator.store.backup_file import read_backup, write_backup
from generator.store.existing_keys import require_seed
from generator.store.folder import Store

FORMAT_VERSION = "1.0"
INDEX = PurePosixPath("backup.json")
_NOT_SAVED = (SEED_ISO.name, str(iso.SEED_SNAPSHOT), str(iso.SEED_SNAPSHOT_RECORD))


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A written backup. `size`: bytes. `files`: the number of the saved files."""

    file: Path
    cluster: str
    size: int
    files: int


def back_up(cluster: Cluster, target: Path, passphrase: bytes, *, now: datetime, report: Report) -> Backup:
    """Write the cluster's folder to an encrypted file. Raise InputError if a file was changed after bake wrote it."""
    store = cluster.store
    with store.locked(report):  # all files must be of the same bake
        if pending := pending_snapshot(cluster):
            rule = "is being restored, and a backup has no data of etcd"
            raise InputError.one(str(pending), rule, f"finish it: {command(store, 'up')}")
        files = [*_saved(store), *_tarball(cluster)]
    index = {
        "format_version": FORMAT_VERSION, "cluster": store.cluster, "cluster_id": cluster.cluster_id,
        "bake_version": __version__, "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip
    first = Artifact(INDEX, json.dumps(index, indent=1).encode() + b"\n")
    size = write_backup(target.absolute(), (first, *files), passphrase)
    return Backup(file=target.absolute(), cluster=store.cluster, size=size, files=len(files))


def _saved(store: Store) -> Iterator[Artifact]:
    """Yield the manifest and the files in it. Raise InputError for a file that `recover` would refuse."""
    for name, entry in [(str(MANIFEST), {"mode": "0644"}), *store.manifest().items()]:
        if PurePosixPath(name).name in _NOT_SAVED:
            continue
        data = store.read(name)
        if PurePosixPath(name).name == str(iso.USER_DATA):
            require_seed(store, PurePosixPath(name).parent.name, command(store, ""))
        if data is None:
            raise InputError.one(str(store.folder / name), "is missing", _again(store))
        artifact = Artifact(PurePosixPath(store.cluster) / name, data, mode=int(entry["mode"], 8))
        if artifact.sha256 != entry.get("sha256", artifact.sha256):
            raise InputError.one(str(store.folder / name), "was changed after bake wrote it", _again(store))
        yield artifact


def _again(store: Store) -> str:
    bake = command(store, "")
    return f"restore the file from a backup, or run {bake}, which writes the file again or says why it cannot"


def _tarball(cluster: Cluster) -> Iterator[Artifact]:
    """Yield the tarball of etcd on the first node's ISO, if it has one."""
    if cluster.plan.spec.install.archive is None:
        return
    path = PurePosixPath(cluster.first.name) / SEED_ISO
    image = cluster.store.read(path)
    where = str(cluster.store.folder / path)
    if image is None:
        raise InputError.one(where, "is missing", _again(cluster.store))
    files = iso.unpack(image, where=where, remedy=_again(cluster.store))
    yield from (file for file in files if file.path.name == ARCHIVE_NAME)


def recover(path: Path, out: Path, passphrase: bytes, *, report: Report) -> Cluster:
    """Write the folder of a backup's cluster below `out`, and make its ISOs. The cluster's folder must not exist."""
    files = read_backup(path, passphrase)
    name = _cluster_of(files, path)
    listed, nodes, facts = _listed(files, name, path)
    store = Store(out, name)
    with store.locked(report):
        if store.folder.exists():
            rule = "exists already, and bake overwrites no cluster"
            raise InputError.one(str(store.folder), rule, "give another --out, or move the folder away")
        with store.replacing() as folder:
            for artifact in (*listed.values(), *_isos(nodes, listed, files.get(PurePosixPath(ARCHIVE_NAME)))):
                folder.write(artifact)
            folder.facts = facts
    return open_cluster(store)


def _cluster_of(files: Mapping[PurePosixPath, Artifact], path: Path) -> str:
    """Return the name of the cluster in a backup. Raises InputError."""
    try:
        index = json.loads(files[INDEX].data)
        version, name = str(index["format_version"]), str(index["cluster"])
    except (ValueError, LookupError, TypeError):
        raise InputError.one(str(path), "is not a backup of bake", "give a file that bake backup has written") from None
    if version.partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
        rule = f"has the format {version}, but this bake reads {FORMAT_VERSION}"
        raise InputError.one(str(path), rule, "use the bake that wrote the backup, or a newer one")
    return name


def _listed(
    files: Mapping[PurePosixPath, Artifact], name: str, path: Path
) -> tuple[dict[str, Artifact], list[str], dict[str, Any]]:
    """Return the files that the saved manifest lists, the nodes with an ISO, and the facts in the manifest.

    Raise InputError if a file is missing.
    """
    raw = files.get(PurePosixPath(name) / MANIFEST)
    record = manifest.parse(raw.data if raw else b"", where=f"{path}: {MANIFEST}")
    found = {}
    nodes = [PurePosixPath(one).parent.name for one in record["files"] if PurePosixPath(one).name == SEED_ISO.name]
    for one, entry in record["files"].items():
        if PurePosixPath(one).name in _NOT_SAVED:
            continue
        saved = files.get(PurePosixPath(name) / one)
        if saved is None or saved.sha256 != entry["sha256"]:
            raise InputError.one(str(path), f"has no file {one}, or another one", "use another backup")
        mode = int(entry["mode"], 8)
        found[one] = Artifact(PurePosixPath(one), saved.data, mode=mode, secret=mode == 0o600)
    return found, nodes, manifest.facts_of(record)


def _isos(nodes: Iterable[str], listed: Mapping[str, Artifact], tarball: Artifact | None) -> Iterator[Artifact]:
    """Yield the ISO of each node, with the same files as `operations.cluster_files.node_files`."""
    for node in nodes:
        parts = [listed.get(f"{node}/{name}") for name in (*SEED_FILES, iso.SEED_PERMIT)]
        seed = [Artifact(PurePosixPath(one.path.name), one.data, one.mode, one.secret) for one in parts if one]
        packed = iso.pack((*seed, *([tarball] if tarball else [])))
        yield Artifact(PurePosixPath(node) / SEED_ISO, packed.data, packed.mode, packed.secret)
