"""The cluster's storage pool with images, seeds and disks. bake uploads volumes because libvirt may be on another host.

An interrupted upload looks like a complete volume. bake defines a VM only after the uploads of the VM's volumes, so
every volume in a VM's definition is complete. bake reuses only volumes in a VM's definition.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from xml.etree import ElementTree

from generator.errors import BakeError
from generator.progress import Work, working
from generator.vm.connection import Connection, Pool, Volume, asking, libvirt, tolerating
from generator.vm.domain_xml import Owner, pool_name, pool_uuid
from generator.vm.ownership import Claim
from generator.vm.volume_xml import data_xml, overlay_xml, pool_xml, volume_xml

_IMAGES = "/var/lib/libvirt/images"  # libvirt's default folder for disks, which AppArmor allows
_MARK = "bake-owner-"
_OURS = re.compile(
    r"(bake-owner-\S*|(base|kernel|initrd)-[0-9a-f]+|[a-z0-9-]+(\.data)?\.qcow2|[a-z0-9-]+\.seed-[0-9a-f]+\.iso"
    r"|[a-z0-9-]+\.(console|journal)\.log(\.\d+)?)"
)
_IMAGE = re.compile(r"(base|kernel|initrd)-[0-9a-f]+")
_OF_NODE = re.compile(r"([a-z0-9-]+)((\.data)?\.qcow2|\.seed-[0-9a-f]+\.iso|\.(console|journal)\.log(\.\d+)?)")
_MAX_UNUSED_OVERLAY = 2 << 20  # bytes; an unused qcow2 overlay has about 200 KiB


def disk_volume(node: str) -> str:
    return f"{node}.qcow2"


def data_volume(node: str) -> str:
    """Return the name of the volume with a node's data disk."""
    return f"{node}.data.qcow2"


def console_volume(node: str) -> str:
    """Return the name of the volume with a node's console log. bake reads the volume through libvirt."""
    return f"{node}.console.log"


def journal_volume(node: str) -> str:
    """Return the name of the volume with a copy of a node's journal."""
    return f"{node}.journal.log"


def renamed_volume(log: str) -> str:
    """Return the name to which virtlogd renames a log that has become too large."""
    return f"{log}.0"


def find_pool(connection: Connection, claim: Claim) -> Pool | None:
    """Return the storage pool with the cluster's name, or None. Raise BakeError if the pool has another owner."""
    pool = None
    with tolerating("VIR_ERR_NO_STORAGE_POOL"):
        pool = connection.storagePoolLookupByName(pool_name(claim.cluster))
    if pool is None:
        return None
    if pool.UUIDString() != str(pool_uuid(claim.cluster)):
        raise BakeError(f"the storage pool {pool.name()} was not made by bake", hint="give another --name")
    if not pool.isActive():
        _activate(pool)
    pool.refresh()
    ids = [name.removeprefix(_MARK) for name in pool.listVolumes() if name.startswith(_MARK)]
    if ids and claim.cluster_id not in ids:
        claim.demand(Owner(cluster=claim.cluster, cluster_id=ids[0], version=""), f"the storage pool {pool.name()}")
    return pool


def ensure_pool(connection: Connection, claim: Claim) -> Pool:
    """Return the cluster's storage pool. Create the pool if it does not exist.

    bake stores the cluster's id in the pool as the name of an empty volume.
    """
    pool = find_pool(connection, claim)
    if pool is None:
        parent = PurePosixPath(claim.pool) if claim.pool else _images_folder(connection)
        folder = str(parent / pool_name(claim.cluster))
        with asking(f"create the storage pool {folder}"):
            pool = connection.storagePoolDefineXML(pool_xml(claim.cluster, folder))
            _activate(pool)
    mark = f"{_MARK}{claim.cluster_id}"
    if mark not in pool.listVolumes():
        pool.createXML(volume_xml(mark, 0))
    return pool


def _images_folder(connection: Connection) -> PurePosixPath:
    """Return the folder of the pool `default` if the pool exists, else libvirt's default folder."""
    with tolerating("VIR_ERR_NO_STORAGE_POOL"):
        root = ElementTree.fromstring(connection.storagePoolLookupByName("default").XMLDesc())  # noqa: S314
        if root.get("type") == "dir":
            return PurePosixPath(root.findtext("target/path", _IMAGES))
    return PurePosixPath(_IMAGES)


def _activate(pool: Pool) -> None:
    """Create the pool's folder if the folder does not exist, and start the pool."""
    pool.build(libvirt.VIR_STORAGE_POOL_BUILD_NEW)
    pool.create()


def find_volume(pool: Pool, name: str) -> Volume | None:
    with tolerating("VIR_ERR_NO_STORAGE_VOL"):
        return pool.storageVolLookupByName(name)
    return None


def disk_size(pool: Pool | None, name: str) -> int:
    """Return the size of a disk in bytes, or 0 if the disk is missing."""
    volume = None if pool is None else find_volume(pool, name)
    return 0 if volume is None else int(volume.info()[1])


def path_of(pool: Pool, name: str) -> str:
    """Return the path of a volume. The volume need not exist."""
    root = ElementTree.fromstring(pool.XMLDesc())  # noqa: S314  libvirt wrote it
    return str(PurePosixPath(root.findtext("target/path", "")) / name)


def put(pool: Pool, name: str, content: Path | bytes) -> Volume:
    """Upload `content` to the volume `name`. Replace an existing volume. Raise BakeError if the pool is too full."""
    remove(pool, name)
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if pool.info()[3] < size and (isinstance(content, bytes) or not _is_sparse(content)):
        message = f"not enough space for {name} ({size >> 20} MiB) in {path_of(pool, '')}"
        raise BakeError(message, hint="free some space")
    with asking(f"upload {name}"):
        volume = pool.createXML(volume_xml(name, size))
        try:
            with (
                io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source,
                working(f"uploading {name}", size, "B") as work,
            ):
                _send(volume, source, work, sparse=isinstance(content, Path) and _is_sparse(content))
        except BaseException:  # delete the incomplete volume, also after Ctrl-C
            with suppress(libvirt.libvirtError):
                volume.delete()
            raise
        pool.refresh()  # makes libvirt detect the volume's format
        return pool.storageVolLookupByName(name)


def _is_sparse(path: Path) -> bool:
    status = path.stat()
    return status.st_blocks * 512 < status.st_size


def _send(volume: Volume, source: BinaryIO, work: Work, *, sparse: bool) -> None:
    stream = volume.connect().newStream()
    flags = libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM if sparse else 0
    volume.upload(stream, 0, work.total, flags)

    def read(_stream: Any, count: int, source: BinaryIO) -> bytes:
        data = source.read(count)
        work.advance(len(data))
        return data

    def skip(_stream: Any, count: int, source: BinaryIO) -> int:
        work.advance(count)
        return source.seek(count, io.SEEK_CUR)

    try:
        if sparse:
            stream.sparseSendAll(read, _hole(work.total), skip, source)
        else:
            stream.sendAll(read, source)
        stream.finish()
    except BaseException:
        with suppress(libvirt.libvirtError):
            stream.abort()
        raise


def _hole(size: int) -> Callable[[Any, BinaryIO], tuple[bool, int]]:
    """Return the callback with which libvirt finds the holes in a sparse file.

    The callback returns whether the next part of the file is data or a hole, and the length of the part.
    """

    def measure(_stream: Any, source: BinaryIO) -> tuple[bool, int]:
        here = source.tell()
        try:
            data = source.seek(here, _SEEK_DATA)
        except OSError:  # ENXIO: the rest of the file is a hole
            data = size
        in_data = data == here and here < size
        end = source.seek(here, _SEEK_HOLE) if in_data else data
        source.seek(here)
        return in_data, end - here

    return measure


_SEEK_DATA, _SEEK_HOLE = 3, 4


def make_overlay(pool: Pool, name: str, size: int, base: Volume) -> Volume:
    """Create a node's disk as an overlay over the base image. Raise BakeError if the volume `name` may have data."""
    _remove_unused(pool, name)
    with asking(f"create the disk {name}"):
        return pool.createXML(overlay_xml(name, size, base.path(), format_of(base)))


def make_data_disk(pool: Pool, name: str, size: int) -> Volume:
    """Create a node's data disk. Raise BakeError if the volume `name` may have data."""
    _remove_unused(pool, name)
    with asking(f"create the disk {name}"):
        return pool.createXML(data_xml(name, size))


def _remove_unused(pool: Pool, name: str) -> None:
    """Remove a disk that an interrupted bake has left. Raise BakeError if the disk may have data."""
    old = find_volume(pool, name)
    if old is not None and old.info()[2] > _MAX_UNUSED_OVERLAY:
        delete = f"virsh -c {pool.connect().getURI()} vol-delete --pool {pool.name()} {name}"
        raise BakeError(
            f"the disk {old.path()} has data, but its VM does not exist", hint=f"if you do not need its data: {delete}"
        )
    remove(pool, name)


def remove_unused_images(pool: Pool, used: Collection[str]) -> list[str]:
    """Remove the volumes of images that are not in `used`. Return the names of the removed volumes."""
    names = [name for name in sorted(pool.listVolumes()) if _IMAGE.fullmatch(name) and name not in used]
    for name in names:
        remove(pool, name)
    return names


def format_of(volume: Volume) -> str:
    root = ElementTree.fromstring(volume.XMLDesc())  # noqa: S314  libvirt wrote it
    kind = root.find("target/format")
    return kind.get("type", "raw") if kind is not None else "raw"


def remove(pool: Pool, name: str) -> None:
    volume = find_volume(pool, name)
    if volume is not None:
        with tolerating("VIR_ERR_NO_STORAGE_VOL"):
            volume.delete()


def volumes_by_node(pool: Pool) -> dict[str, list[str]]:
    """Return the names of each node's volumes: its disks, its seeds and its logs."""
    found: dict[str, list[str]] = {}
    for name in sorted(pool.listVolumes()):
        if match := _OF_NODE.fullmatch(name):
            found.setdefault(match[1], []).append(name)
    return found


def list_volumes(connection: Connection, claim: Claim) -> list[tuple[str, str]]:
    """Return the names of bake's volumes in the cluster's pool, each with the cluster's id."""
    pool = find_pool(connection, claim)
    names = sorted(pool.listVolumes()) if pool else []
    tag = ", ".join(name.removeprefix(_MARK) for name in names if name.startswith(_MARK))
    return [(name, tag) for name in names if _OURS.fullmatch(name)]


def remove_pool(connection: Connection, claim: Claim) -> list[str]:
    """Remove bake's volumes and the pool, and return their names.

    Raise BakeError if the pool has a file that bake did not make.
    """
    pool = find_pool(connection, claim)
    if pool is None:
        return []
    names = pool.listVolumes()
    ours = [name for name in names if _OURS.fullmatch(name)]
    marks_last = sorted(ours, key=lambda name: name.startswith(_MARK))
    for name in marks_last if len(ours) == len(names) else [n for n in ours if not n.startswith(_MARK)]:
        remove(pool, name)
    if others := sorted(set(names) - set(ours)):
        raise BakeError(
            f"{path_of(pool, '')} has files that bake did not make: {', '.join(others)}",
            hint="move the files elsewhere, then run the same command again",
        )
    folder = path_of(pool, "")
    pool.destroy()
    pool.delete()
    pool.undefine()
    return [*ours, folder]
