"""Read facts, such as the revision, from a database file of etcd, such as a snapshot.

The file format is that of bbolt (go.etcd.io/bbolt, page.go and db.go). A page has a header of 16 bytes: id, flags,
number of elements, number of additional pages. A branch page has keys and ids of pages. A leaf page has keys and
values. The pages 0 and 1 are meta pages, which contain the id of the root page.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<QHHI")
# magic, version, page size, flags, root page, sequence, page of the free list, number of pages, transaction, checksum
_META = struct.Struct("<IIIIQQQQQQ")
_MAGIC, _VERSION = 0xED0CDAED, 2
_BRANCH, _LEAF = 1, 2
_ELEMENT_SIZE = 16
_BRANCH_ELEMENT = struct.Struct("<IIQ")  # position of the key, size of the key, page id
_LEAF_ELEMENT = struct.Struct("<IIII")  # flags, position of the key, size of the key, size of the value
_BUCKET = struct.Struct("<QQ")  # id of the root page, sequence; the id 0 means that the page follows
_MAX_DEPTH = 64
_COMPACTIONS = (b"finishedCompactRev", b"scheduledCompactRev")  # keys of the bucket `meta` (mvcc/kvstore.go)
Pairs = Iterator[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a database says about its cluster.

    `version`: the minor version of etcd that the cluster had, such as `3.5`, or "" if the database does not name it.
    `users`: the names of etcd's users. `auth`: whether etcd's authentication is on.
    """

    revision: int
    version: str
    auth: bool
    users: frozenset[str]


def database_facts(path: Path) -> Facts:
    """Return the facts in a database file. Raise ValueError if the file is not a database of etcd."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _facts(data)
        except (struct.error, OverflowError, ValueError) as error:
            is_clear = type(error) is ValueError and "mmap" not in str(error)
            raise ValueError(str(error) if is_clear else "it is not a database of etcd") from None


def _facts(data: mmap.mmap) -> Facts:
    size, root = _newest_meta(data)
    buckets = dict(_pairs(data, root * size, size))

    def bucket(name: bytes) -> dict[bytes, bytes]:
        return dict(_bucket(data, buckets[name], size)) if name in buckets else {}

    version = bucket(b"cluster").get(b"clusterVersion", b"").decode(errors="replace")
    return Facts(
        revision=_revision(data),
        version=".".join(version.split(".")[:2]) if version[:1].isdigit() else "",
        auth=bucket(b"auth").get(b"authEnabled") == b"\x01",
        users=frozenset(name.decode(errors="replace") for name in bucket(b"authUsers")),
    )


def database_revision(path: Path | int) -> int:
    """Return the revision of the newest change in a database file. `path`: a path or a file descriptor.

    Raise ValueError if the file is not a database of etcd.
    """
    with open(path, "rb", closefd=not isinstance(path, int)) as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _revision(data)
        except (struct.error, OverflowError):
            raise ValueError("it is not a database of etcd") from None


def _revision(data: mmap.mmap) -> int:
    """Return the revision with which etcd starts from the database (mvcc/kvstore.go, `restore`)."""
    size, root = _newest_meta(data)
    buckets = dict(_pairs(data, root * size, size))
    if not {b"key", b"meta"} <= buckets.keys():
        raise ValueError("it has no bucket `key` or no bucket `meta`")
    meta = dict(_bucket(data, buckets[b"meta"], size))
    newest = next(_bucket(data, buckets[b"key"], size, backwards=True), (b"", b""))[0]
    revisions = [newest, *(meta[name] for name in _COMPACTIONS if name in meta)]
    return max(1, *(int.from_bytes(revision[:8], "big") for revision in revisions))


def _newest_meta(data: mmap.mmap) -> tuple[int, int]:
    """Return the page size, and the id of the root page in the meta page of the newest transaction."""
    first = _meta(data, 0)
    metas = [meta for meta in (first, _meta(data, first[1]) if first else None) if meta]
    if not metas:
        raise ValueError("it is not a bbolt database")
    _, size, root, pages = max(metas)
    if pages * size > len(data):
        raise ValueError(f"it has {len(data)} bytes of a database of {pages * size} bytes")
    return size, root


def _meta(data: mmap.mmap, offset: int) -> tuple[int, int, int, int] | None:
    """Return transaction id, page size, root page and number of pages of a meta page, or None if it is invalid."""
    start = offset + _HEADER.size
    raw = data[start : start + _META.size]
    magic, version, size, _, root, _, _, pages, transaction, checksum = _META.unpack(raw)
    if (magic, version, checksum) != (_MAGIC, _VERSION, _fnv64a(raw[:-8])):
        return None
    return transaction, size, root, pages


def _fnv64a(data: bytes) -> int:
    """Return the FNV-1a hash of 64 bits, with which bbolt protects a meta page."""
    found = 0xCBF29CE484222325
    for byte in data:
        found = ((found ^ byte) * 0x100000001B3) % 2**64
    return found


def _bucket(data: mmap.mmap, value: bytes, size: int, *, backwards: bool = False) -> Pairs:
    """Yield the keys and values of a bucket. `value`: the value of the bucket in the root page."""
    page, _ = _BUCKET.unpack_from(value)
    if page:
        return _pairs(data, page * size, size, backwards=backwards)
    return _pairs(value, _BUCKET.size, size, backwards=backwards)


def _pairs(data: mmap.mmap | bytes, offset: int, size: int, depth: int = 0, *, backwards: bool = False) -> Pairs:
    """Yield the keys and values of the page at an offset, and of all pages below the page. `size`: of a page."""
    _, flags, count, _ = _HEADER.unpack_from(data, offset)
    if depth > _MAX_DEPTH or flags not in (_BRANCH, _LEAF):
        raise ValueError(f"its page at byte {offset} is damaged")
    for number in reversed(range(count)) if backwards else range(count):
        place = offset + _HEADER.size + number * _ELEMENT_SIZE
        if flags == _BRANCH:
            _, _, page = _BRANCH_ELEMENT.unpack_from(data, place)
            yield from _pairs(data, page * size, size, depth + 1, backwards=backwards)
            continue
        _, position, key_size, value_size = _LEAF_ELEMENT.unpack_from(data, place)
        start, end = place + position, place + position + key_size
        if end + value_size > len(data):
            raise ValueError(f"its page at byte {offset} is damaged")
        yield data[start:end], data[end : end + value_size]
