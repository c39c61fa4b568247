"""`bake export`: read a baked cluster, and write the files with which another engine creates its VMs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from generator.artifact import Artifact
from generator.errors import InputError, Problem
from generator.export.source import Source, warnings
from generator.image.custom import missing_image
from generator.layout import SEALED, SEED_ISO
from generator.operations.baked_cluster import Cluster
from generator.operations.hints import command
from generator.plan import ClusterPlan
from generator.progress import Report
from generator.seed.iso import META_DATA, UNTIL_SEALED, USER_DATA
from generator.store.export_folder import ExportFolder, exports_folder
from generator.store.folder import Store

_FILES = (USER_DATA, META_DATA, PurePosixPath("network-config"))


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of an export. `changed`: the files that this run wrote. `bootstrap`: the first node's name, or ""."""

    folder: Path
    files: tuple[Artifact, ...]
    changed: tuple[str, ...]
    warnings: tuple[str, ...]
    bootstrap: str


def export(
    cluster: Cluster,
    target: str,
    build: Callable[[Source], tuple[Artifact, ...]],
    *,
    into: Path | None,
    image: str | None = None,
    report: Report,
) -> Exported:
    """Write the files that `build` returns.

    `into`: the folder; default: `out/<cluster>.export/<target>`. `image`: the path or URL of an image that the target
    reads on this machine.
    """
    source = load_source(cluster)
    files = build(source)
    store = cluster.store
    given = into or exports_folder(store) / target
    folder = _folder(store, target, given)
    if store.folder.resolve() in (real := folder.folder.resolve(), *real.parents):
        text = f"is in the folder of the cluster {store.cluster!r}, which each bake replaces"
        raise InputError.one("--into", f"{folder.folder} {text}", "give a folder outside the cluster's folder")
    bootstrap = cluster.first.name if source.permit(cluster.first) else ""
    has_permit = bool(bootstrap) and any(file.secret for file in files)  # other files only name the ISOs
    changed = folder.write_all(files, report, has_permit=has_permit)
    missing = missing_image(image) if image else None
    found = (*warnings(source), *([f"--image: {missing}"] if missing else []))
    return Exported(folder=folder.folder, files=files, changed=changed, warnings=found, bootstrap=bootstrap)


def exported(store: Store) -> list[str]:
    """Return the targets of the exports of a cluster that are in the default folder."""
    return sorted(path.parent.name for path in exports_folder(store).glob("*/manifest.json"))


def exported_permit(store: Store, plan: ClusterPlan) -> str:
    """Return what to do if the cluster is sealed, but exports still contain the bootstrap permit, or ""."""
    found = [name for name in exported(store) if _folder(store, name, exports_folder(store) / name).has_permit]
    if not found or not store.has(SEALED):
        return ""
    first = next(node.name for node in plan.nodes if node.bootstrap)
    return f"{export_again(store, found, 'the bootstrap permit')}, and remove the old seed of {first} from the engine"


def export_again(store: Store, targets: list[str], content: str) -> str:
    """Return the sentence that tells the user to run exports again. `content`: the old content of the exports."""
    if len(targets) == 1:
        text = f"the export {targets[0]} has {content}. Run `{command(store, f'export {targets[0]}')}` again"
    else:
        text = f"the exports {', '.join(targets)} have {content}. Run each `{command(store, 'export TARGET')}` again"
    return f"{text}, with the same options as before"


def _folder(store: Store, target: str, path: Path) -> ExportFolder:
    return ExportFolder(path, f"the export {target} of the cluster {store.cluster}")


def load_source(cluster: Cluster) -> Source:
    """Read the seeds. Raise InputError for each file that is missing or not as bake wrote it."""
    store, manifest = cluster.store, cluster.store.manifest()
    seeds: dict[str, Mapping[str, bytes]] = {}
    problems: list[Problem] = []
    for node in cluster.plan.nodes:
        home = PurePosixPath(node.name)
        extra = [name for name in UNTIL_SEALED if str(home / name) in manifest]
        found = {name: store.read(home / name) for name in (*_FILES, *extra, SEED_ISO)}
        problems += _problems(store, home, found)
        seeds[node.name] = {str(name): data for name, data in found.items() if data is not None and name != SEED_ISO}
    if problems:
        raise InputError(problems)
    return Source(plan=cluster.plan, folder=store.folder, seeds=seeds)


def _problems(
    store: Store, home: PurePosixPath, found: Mapping[PurePosixPath, bytes | None]
) -> Iterator[Problem]:
    manifest = store.manifest()
    for name, data in found.items():
        expected = manifest.get(str(home / name), {}).get("sha256")
        if data is None or hashlib.sha256(data).hexdigest() != expected:
            text = "is missing" if data is None else "was changed after bake wrote it"
            yield Problem(str(store.folder / home / name), text, f"run {command(store, '')}, then export again")
