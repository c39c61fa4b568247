"""The revision of a database: empty, compacted, large and damaged databases."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from generator.etcd.bolt_file import database_revision
from tests.unit.etcd_database import PAGE, database, inline_bucket, leaf, meta, revision_key


def revision(tmp_path: Path, data: bytes) -> int:
    path = tmp_path / "db"
    path.write_bytes(data)
    return database_revision(path)


def test_the_newest_change_decides(tmp_path: Path) -> None:
    keys = {revision_key(2): b"a", revision_key(300, 1): b"b", revision_key(9): b""}
    assert revision(tmp_path, database(keys)) == 300


def test_an_empty_database_has_revision_1(tmp_path: Path) -> None:
    assert revision(tmp_path, database({})) == 1


def test_a_compaction_can_delete_the_newest_change(tmp_path: Path) -> None:
    """After the deletion of all keys and a compaction, the bucket `key` is empty."""
    for name in (b"finishedCompactRev", b"scheduledCompactRev"):
        assert revision(tmp_path, database({revision_key(4): b"a"}, {name: revision_key(17), b"term": b"\1"})) == 17


def test_the_sha256_of_a_snapshot_follows_after_the_database(tmp_path: Path) -> None:
    assert revision(tmp_path, database({revision_key(5): b"a"}) + b"\xff" * 32) == 5


def test_a_bucket_can_have_branch_pages(tmp_path: Path) -> None:
    first, second = leaf({revision_key(2): b"a"}, page=4), leaf({revision_key(8): b"b"}, page=5)
    keys = [revision_key(2), revision_key(8)]
    elements = b"".join(
        struct.pack("<IIQ", 16 * (2 - number) + 17 * number, 17, 4 + number) for number, _ in enumerate(keys)
    )
    branch = struct.pack("<QHHI", 6, 1, 2, 0) + elements + b"".join(keys)
    root = leaf({b"key": struct.pack("<QQ", 6, 0), b"meta": inline_bucket({})}, page=3, flags=1)
    pages = [meta(0, root=3, pages=7, transaction=1), b"", b"", root, first, second, branch]
    assert revision(tmp_path, b"".join(page.ljust(PAGE, b"\0") for page in pages)) == 8


def test_the_meta_page_of_the_newest_transaction_counts(tmp_path: Path) -> None:
    data = bytearray(database({revision_key(3): b"a"}))
    data[PAGE : PAGE + 80] = meta(1, root=2, pages=4, transaction=5)  # older than transaction 7 of the first page
    assert revision(tmp_path, bytes(data)) == 3


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"x" * 4096, "not a bbolt database"),
        (b"x", "not a database of etcd"),
        (database({revision_key(3): b"a"})[: 3 * PAGE], "has 1536 bytes of a database of 2048 bytes"),
        (database({}, root=leaf({b"other": inline_bucket({})}, page=3, flags=1)), "no bucket `key`"),
        (database({}, root=b"\0" * PAGE), "damaged"),
        (database({}, root=struct.pack("<QHHI", 3, 2, 999, 0)), "not a database of etcd|damaged"),
        (database({}, root=struct.pack("<QHHI", 3, 1, 1, 0) + struct.pack("<IIQ", 0, 0, 3)), "damaged"),  # a cycle
    ],
)
def test_another_file_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        revision(tmp_path, data)


def test_random_damage_raises_only_value_errors(tmp_path: Path) -> None:
    chance = random.Random(1)  # noqa: S311
    good = database({revision_key(number): b"v" for number in range(2, 6)}, {b"term": b"\1"})
    refused = 0
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(chance.choice([1, 8, 64])):
            data[chance.randrange(2 * PAGE, len(data))] = chance.randrange(256)
        try:
            revision(tmp_path, bytes(data))
        except ValueError:
            refused += 1
    assert refused > 100
