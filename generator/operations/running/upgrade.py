"""Check whether the nodes may get another image, and say how to return to the previous image."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any

from generator.change.gate import ALONE
from generator.config.field_levels.cases import release as series_of
from generator.config.spec import ClusterSpec, InstallMethod
from generator.engine import MachineStatus
from generator.errors import BakeError, InputError, UnhealthyError
from generator.etcd.client import Etcd
from generator.etcd.observe import ask, everywhere
from generator.image.base import BootImage
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.hints import command
from generator.operations.maintenance import snapshot
from generator.progress import Report

Release = tuple[int, int, int]
# The least release of a series from which the next series can be reached. etcd 3.5.24 to 3.5.26 repair member data that
# etcd 3.6 would read wrongly: https://etcd.io/docs/latest/upgrades/upgrade_3_6 and etcd's blog, 2025-12-21.
FLOORS: Mapping[tuple[int, int], Release] = {(3, 5): (3, 5, 26)}


def release(text: str) -> Release | None:
    """Parse a version such as `3.5.16`. Return None for other text."""
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def text_of(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def running_releases(cluster: Cluster) -> dict[str, Release]:
    """Return the etcd release of each node that answers."""
    nodes, files = cluster.plan.nodes, client_files(cluster.store.folder)
    answers = everywhere(lambda node: ask(node, files, Etcd.status), nodes)
    found = {node.name: release(one.value.version) for node, one in zip(nodes, answers, strict=True) if one.value}
    return {name: version for name, version in found.items() if version}


def check_releases(spec: ClusterSpec, image: BootImage, running: Mapping[str, Release], *, back: bool) -> str | None:
    """Raise InputError if the members must not get the image's etcd. Return a warning, or None.

    `back`: the user wants to return to an older image. Then an older patch release is allowed, and an older series
    while a member still runs it (see `fields_of`).
    """
    if spec.install.method is not InstallMethod.PREINSTALLED:
        return f"the nodes install etcd ({spec.install.method}), so bake cannot compare its release before the upgrade"
    new = release(image.versions.get("etcd", ""))
    if new is None:
        return "the release of etcd in the image is unknown, so bake cannot compare it before the upgrade"
    series = series_of(spec.etcd.version)
    if back and new[:2] < series:
        _require_member(new, running)
    elif new[:2] != series:
        rule = f"{spec.etcd.version}, but the image has etcd {text_of(new)}"
        raise InputError.one("etcd.version", rule, f"set etcd.version to {text_of(new[:2])}, or use another image")
    if running:
        _check_step(new, running, back=back)
    return None


def _require_member(new: Release, running: Mapping[str, Release]) -> None:
    """Raise InputError if no member answers. Then bake cannot know whether one still runs the older series."""
    if not running:
        rule = f"{text_of(new)} is of an older series than etcd.version, and no member answers"
        hint = f"start a member that runs etcd {text_of(new[:2])}, or restore a snapshot"
        raise InputError.one("the image's etcd", rule, hint)


def fields_of(spec: ClusterSpec, image: BootImage) -> dict[str, Any]:
    """Return the fields of the cluster file, with new values, that do not fit to an image to which the user returns."""
    new, fields = release(image.versions.get("etcd", "")), dict[str, Any]()
    if spec.vm.image:
        fields["vm"] = {"image": None, "sha256": None}
    if spec.install.method is InstallMethod.PREINSTALLED and new and new[:2] < series_of(spec.etcd.version):
        fields["etcd"] = {"version": text_of(new[:2])}
    return fields


def _check_step(new: Release, running: Mapping[str, Release], *, back: bool) -> None:
    highest, lowest = max(running.values()), min(running.values())
    where = "the image's etcd"
    if new[:2] < (lowest if back else highest)[:2]:
        rule = f"{text_of(new)} cannot read the data of etcd {text_of(highest)}, which runs on {_who(running, highest)}"
        raise InputError.one(where, rule, "use a newer image; to return to older data, restore a snapshot")
    if new < highest and not back:
        rule = f"{text_of(new)} is older than etcd {text_of(highest)}, which runs on {_who(running, highest)}"
        raise InputError.one(where, rule, "use a newer image, or name the older image with --to")
    if new[:2] == lowest[:2]:
        return
    if new[0] != lowest[0] or new[1] > lowest[1] + 1:
        rule = f"{text_of(new)} skips a series: etcd {text_of(lowest)} runs on {_who(running, lowest)}"
        raise InputError.one(where, rule, "upgrade one series at a time")
    floor = FLOORS.get(lowest[:2])
    if floor and lowest < floor:
        rule = f"{text_of(new)} needs etcd {text_of(floor)} or newer before, and {_who(running, lowest)} runs "
        raise InputError.one(where, f"{rule}{text_of(lowest)}", f"first upgrade to etcd {text_of(floor)} or newer")


def _who(running: Mapping[str, Release], version: Release) -> str:
    return ", ".join(name for name, one in running.items() if one == version)


def take_snapshot(cluster: Cluster, *, now: datetime, optional: bool, report: Report) -> None:
    """Save all data before the upgrade. `optional`: go on without a snapshot if no member can make one."""
    try:
        done = snapshot.take(cluster, None, keep=None, now=now, report=report)
    except UnhealthyError as error:
        if not optional:
            raise
        report(f"no snapshot: {error.message}")
    else:
        report(f"snapshot of revision {done.record.revision}: {done.file}")


def needs_no_snapshot(nodes: int, *, to: str | None, image: str | None) -> bool:
    """Return whether the upgrade may be the way back of a cluster that an upgrade has stopped.

    `to`, `image`: the user's options. For an own image, bake cannot know which image is older. While two nodes or fewer
    have no quorum, the planner still exchanges root disks.
    """
    return to is not None or (image is not None and nodes <= ALONE)


def add_way_back(
    error: BakeError, cluster: Cluster, before: Mapping[str, MachineStatus], image: BootImage,
    *, cached: Collection[str], was: ClusterSpec, new: ClusterSpec,
) -> None:  # fmt: skip
    """Add the command that returns to the previous image to the hint of an error.

    `before`: the machines before the upgrade. `image`: the new image. `cached`: digests of the images in the cache.
    `was`, `new`: the cluster's spec before and after the upgrade.
    """
    old = sorted({one.image for one in before.values() if one.planned and one.image not in ("", image.digest)})
    ways = [command(cluster.store, f"upgrade --to {digest}") for digest in old if digest in cached]
    ways += [command(cluster.store, words) for words in _own_images(set(old) - {*cached}, was, new)]
    if not old or not (ways or was.vm.image):
        return
    own = command(cluster.store, "upgrade --image FILE")
    way = f"run {' or '.join(ways)}" if ways else f"run {own} with its file"
    text = f"to return to the previous image, {way} (docs/how-to/upgrade.md)"
    error.hint = f"{error.hint}; {text}" if error.hint else text


def _own_images(digests: Collection[str], was: ClusterSpec, new: ClusterSpec) -> Iterator[str]:
    """Yield the words that return to the user's own image. The file must not be the file of the new image."""
    if len(digests) != 1 or not was.vm.image or was.vm.image == new.vm.image:
        return
    # The words set the same fields as before, so that the nodes with this image stay as they are. A digest of the new
    # image would not fit to the old file.
    digest = was.vm.sha256 or ("".join(digests) if new.vm.sha256 else "")
    yield f"upgrade --image {shlex.quote(was.vm.image)}{f' --sha256 {digest}' if digest else ''}"
