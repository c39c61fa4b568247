"""Make small databases in etcd's file format, and the messages with which etcd sends a database."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

from generator.etcd.bolt_file import _fnv64a
from generator.etcd.messages import message

PAGE = 512


def revision_key(main: int, sub: int = 0) -> bytes:
    """Return the key of a change in the bucket `key`."""
    return main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big")


def leaf(pairs: Mapping[bytes, bytes], *, page: int = 0, flags: int = 0) -> bytes:
    """Return a leaf page. `flags`: of each element; 1 means that the value is a bucket."""
    elements, content = b"", b""
    for number, (key, value) in enumerate(sorted(pairs.items())):
        position = 16 * (len(pairs) - number) + len(content)
        elements += struct.pack("<IIII", flags, position, len(key), len(value))
        content += key + value
    return struct.pack("<QHHI", page, 2, len(pairs), 0) + elements + content


def inline_bucket(pairs: Mapping[bytes, bytes]) -> bytes:
    return struct.pack("<QQ", 0, 0) + leaf(pairs)


def meta(number: int, *, root: int, pages: int, transaction: int) -> bytes:
    raw = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, PAGE, 0, root, 0, 2, pages, transaction)
    return struct.pack("<QHHI", number, 4, 0, 0) + raw + struct.pack("<Q", _fnv64a(raw))


def database(
    keys: Mapping[bytes, bytes], extra: Mapping[bytes, bytes] | None = None, *, root: bytes | None = None
) -> bytes:
    """Return a database with the buckets `key` and `meta`. `extra`: the pairs of the bucket `meta`.

    `root`: the page with the buckets, in place of the usual page.
    """
    buckets = {b"key": inline_bucket(keys), b"meta": inline_bucket(extra or {})}
    free = struct.pack("<QHHI", 2, 16, 0, 0)
    pages = [meta(0, root=3, pages=4, transaction=7), meta(1, root=3, pages=4, transaction=6), free]
    pages.append(root if root is not None else leaf(buckets, page=3, flags=1))
    return b"".join(page.ljust(PAGE, b"\0") for page in pages)


def stream(data: bytes, *, chunk: int = 600, digest: bytes | None = None) -> list[bytes]:
    """Return the messages of the call Snapshot: the data, then its SHA-256 or `digest`."""
    parts = [(data[at : at + chunk], max(0, len(data) - at - chunk)) for at in range(0, len(data), chunk)]
    parts.append((hashlib.sha256(data).digest() if digest is None else digest, 0))
    return [part(blob, remaining) for blob, remaining in parts]


def part(blob: bytes, remaining: int) -> bytes:
    """Return one message of the call Snapshot."""
    return bytes(message("SnapshotResponse")(blob=blob, remaining_bytes=remaining).SerializeToString())
