"""`bake snapshot`: save the database of a member in a file, and check that the file is complete."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from generator.errors import BakeError, InputError, UnhealthyError
from generator.etcd.bolt_file import database_revision
from generator.etcd.client import EtcdError
from generator.etcd.maintenance_client import SNAPSHOT_DIGEST, MaintenanceClient
from generator.operations.baked_cluster import Cluster
from generator.operations.hints import command
from generator.operations.maintenance.survey import MemberState, Survey, client_of, survey
from generator.plan import NodePlan
from generator.progress import Report
from generator.store import atomic, permissions, snapshot_files
from generator.store.snapshot_files import Record, Unfinished

_PAGE = 512  # the size of a bbolt database is a multiple of 512 bytes (etcdutl/snapshot/v3_snapshot.go)
_RESERVE = 1 << 20  # bytes that must remain free on the disk
_FIRST_REPORT, _NEXT_REPORT = 1.0, 5.0  # seconds until the first and the next line about the progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A complete snapshot. `removed`: older snapshots that `keep` did not include."""

    file: Path
    record: Record
    removed: tuple[Path, ...]


def default_folder(cluster: Cluster) -> Path:
    """Return the folder for snapshots. The folder is next to the cluster's folder, which each bake replaces."""
    return cluster.store.out / f"{cluster.plan.name}.snapshots"


def take(
    cluster: Cluster, target: Path | None, *, keep: int | None, now: datetime, report: Report, node: str | None = None
) -> Snapshot:
    """Save a snapshot in `target`, which may be a folder. Keep only the newest `keep` snapshots in the same folder.

    The snapshot has all changes that etcd acknowledged before the call. `node`: save the data of this node, even if it
    has no quorum. Then the snapshot has only the changes that the node knows.
    """
    if keep is not None and keep < 1:
        raise InputError.one("--keep", f"{keep} is not a number of snapshots", "use 1 or more")
    chosen = None if node is None else _planned(cluster, node)
    with _without_empty_folder(default_folder(cluster)):
        target = _target(cluster, target, now)
        snapshot_files.refuse_existing(target, cluster.cluster_id)
        source, revision = _named(cluster, chosen, report) if chosen else _choose(cluster, survey(cluster))
        record = _save(cluster, source, target, at_least=revision, now=now, report=report)
    removed = [] if keep is None or not record.quorum else snapshot_files.remove_older(target, cluster.cluster_id, keep)
    return Snapshot(file=target, record=record, removed=tuple(removed))


@contextmanager
def _without_empty_folder(folder: Path) -> Iterator[None]:
    """Remove a folder if it is empty after an error or an interruption."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the folder is not empty, or does not exist
            folder.rmdir()
        raise


def _target(cluster: Cluster, target: Path | None, now: datetime) -> Path:
    name = f"{cluster.plan.name}-{now:%Y%m%dT%H%M%SZ}.db"
    if target is not None:
        target = target.absolute()
        try:
            return target / name if stat.S_ISDIR(target.stat().st_mode) else target
        except (FileNotFoundError, NotADirectoryError):
            return target
        except OSError as error:
            raise InputError.one(str(target), f"cannot be opened: {error.strerror}", "give another FILE") from None
    folder = default_folder(cluster)
    permissions.check_parents(folder)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise atomic.no_write(folder, error, hint="give a FILE") from None
    return folder / name


def _planned(cluster: Cluster, name: str) -> NodePlan:
    """Return a planned node. Raise InputError if there is none with this name."""
    node = next((one for one in cluster.plan.nodes if one.name == name), None)
    if node is None:
        names = ", ".join(one.name for one in cluster.plan.nodes)
        raise InputError.one("--node", f"there is no node {name!r} in the cluster {cluster.plan.name}", f"use {names}")
    return node


def _named(cluster: Cluster, node: NodePlan, report: Report) -> tuple[NodePlan, int | None]:
    """Return a node, and the revision that it has now, or None if it has no quorum. Raise BakeError if it is silent."""
    with client_of(cluster, node.client_url) as etcd:
        try:
            etcd.status()
        except EtcdError as error:
            error.hint = error.hint or f"run {command(cluster.store, 'status')}, and name a node that answers"
            raise
        try:
            return node, etcd.get(b"health", keys_only=True).revision
        except EtcdError as error:
            text = "the snapshot lacks the writes that only other members have"
            report(f"warning: {node.name} has no quorum ({error.cause}); {text}")
            return node, None


def _choose(cluster: Cluster, found: Survey) -> tuple[NodePlan, int | None]:
    """Return a healthy voter, if possible a follower, and the revision that the voter has now."""
    defects = {one.name: found.defect(one) for one in found.voters}
    candidates = [one for one in found.voters if one.node and defects[one.name] is None]
    for one in sorted(candidates, key=lambda one: (one.member.id == found.leader, found.lag(one))):
        try:
            with client_of(cluster, _node(one).client_url) as etcd:
                return _node(one), etcd.get(b"health", keys_only=True).revision
        except EtcdError as error:
            defects[one.name] = error.cause
    causes = "; ".join(f"{name}: {defect}" for name, defect in defects.items() if defect)
    raise UnhealthyError(f"no member can make a snapshot: {causes}", hint=f"run {command(cluster.store, 'status')}")


def _node(one: MemberState) -> NodePlan:
    if one.node is None:
        raise ValueError(f"{one.name} is not in the plan")
    return one.node


def _save(
    cluster: Cluster, node: NodePlan, target: Path, *, at_least: int | None, now: datetime, report: Report
) -> Record:
    """Save the data of a node. `at_least`: the revision that the data must have; None without a quorum."""
    with client_of(cluster, node.client_url) as etcd, snapshot_files.writing(target) as (data, record_file):
        status = etcd.status()
        size, digest = _receive(etcd, data, target, report)
        made = Record(
            cluster=cluster.plan.name, cluster_id=cluster.cluster_id, etcd_cluster_id=f"{status.cluster_id:x}",
            member=node.name, member_id=f"{status.member_id:x}", revision=_revision(data, node, at_least or 0),
            etcd_version=status.version, time=now.strftime("%Y-%m-%dT%H:%M:%SZ"), size=size, sha256=digest,
            quorum=at_least is not None,
        )  # fmt: skip
        record_file.file.write(made.dump())
        snapshot_files.publish(target, data, record_file)
    return made


def _receive(etcd: MaintenanceClient, data: Unfinished, target: Path, report: Report) -> tuple[int, str]:
    """Write a snapshot to a file, and check size and SHA-256. Return the size and the SHA-256 of the file."""
    whole, database = hashlib.sha256(), hashlib.sha256()
    size, total, trailer = 0, None, b""
    for blob, remaining in _reported(etcd.snapshot(), report):
        if total is None:
            total = len(blob) + remaining
            _check_size(etcd, total, target)
        part = blob[: total - size]
        if size < total and size + len(blob) + remaining != total:
            raise _damaged(etcd, f"after {size + len(blob)} bytes, {remaining} bytes are announced, not {total}")
        database.update(part)
        whole.update(blob)
        data.file.write(blob)
        size, trailer = size + len(part), trailer + blob[len(part) :]
        if len(trailer) > SNAPSHOT_DIGEST:
            raise _damaged(etcd, f"data follows after the database of {total} bytes")
    if total is None or size < total:
        raise _damaged(etcd, f"the stream ended after {size} of {total or 'unknown'} bytes")
    if trailer != database.digest():
        raise _damaged(etcd, f"the SHA-256 is {database.hexdigest()}, but etcd sent {trailer.hex() or 'none'}")
    return size + len(trailer), whole.hexdigest()


def _check_size(etcd: MaintenanceClient, total: int, target: Path) -> None:
    if total == 0 or total % _PAGE:
        raise _damaged(etcd, f"a database of {total} bytes is announced")
    disk = os.statvfs(target.parent)
    free = disk.f_bavail * disk.f_frsize
    if total + _RESERVE > free:
        text = f"{target.parent}: the snapshot has {total} bytes, but the disk has only {free} free bytes"
        raise BakeError(f"{text}; no file was written", hint="give another FILE, or free space")


def _damaged(etcd: MaintenanceClient, text: str) -> BakeError:
    return EtcdError(etcd.endpoint, f"the snapshot is damaged: {text}; no file was written", hint="run bake verify")


def _reported(parts: Iterator[tuple[bytes, int]], report: Report) -> Iterator[tuple[bytes, int]]:
    """Yield the parts, and report the progress of a slow transfer."""
    received, due = 0, time.monotonic() + _FIRST_REPORT
    for blob, remaining in parts:
        received += len(blob)
        if time.monotonic() >= due:
            due += _NEXT_REPORT
            report(f"received {received >> 20} of {received + remaining >> 20} MiB")
        yield blob, remaining


def _revision(data: Unfinished, node: NodePlan, at_least: int) -> int:
    """Return the revision in the database. Raise BakeError if the database lacks acknowledged changes."""
    data.file.flush()
    try:
        found = database_revision(data.file.fileno())
    except ValueError as error:
        raise BakeError(f"{node.name}: the snapshot is damaged: {error}; no file was written") from None
    if found < at_least:  # 0 without a quorum
        text = f"the snapshot has revision {found}, but {node.name} had revision {at_least} before"
        raise BakeError(f"{text}; no file was written", hint="run bake verify")
    return found
