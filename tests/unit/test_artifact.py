"""`Artifact`: the digest of the content, and a `repr` without secrets."""

from __future__ import annotations

from pathlib import PurePosixPath

from generator.artifact import Artifact


def test_repr_omits_the_content() -> None:
    assert "hunter2" not in repr(Artifact(PurePosixPath("key"), b"hunter2", secret=True))


def test_sha256_is_the_digest_of_the_content() -> None:
    # printf abc | sha256sum
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Artifact(PurePosixPath("a"), b"abc").sha256 == expected
