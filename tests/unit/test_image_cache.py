"""Several images of one recipe: `--refresh`, the newest image, versions, and the removal of old images."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from generator.errors import InputError
from generator.image import base, build
from generator.image.base import cached_images, default_image, image_with, remove_old_images

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
RECIPE = base.recipe_digest(build.RECIPE, plain=False)
PACKAGES = {
    "etcd-server": "3.5.16-4+b5", "linux-image-6.12.118+deb13-cloud-amd64": "6.12.118-1",
    "linux-image-cloud-amd64": "6.12.118-1", "cloud-init": "25.1.4-1+deb13u1", "systemd": "257.13-1~deb13u1",
}  # fmt: skip


def put(cache: Path, digest: str, *, days: int | None = 0, **facts: Any) -> Path:
    """Add an image to the cache. `days`: its age; None for an image of an older bake, which wrote no date."""
    folder = cache / "images" / digest
    folder.mkdir(parents=True)
    built = {} if days is None else {"built": f"{NOW - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"}
    known = {
        "disk": "disk.qcow2", "format": "qcow2", "virtual_size": 1, "digest": digest, "cmdline": "",
        "kernel": "vmlinux", "initrd": "initrd.img", "packages": PACKAGES, **built, **facts,
    }  # fmt: skip
    (folder / "disk.qcow2").write_bytes(b"disk")
    (folder / "image.json").write_text(json.dumps(known))
    return folder


def digests(cache: Path) -> list[str]:
    return [image.digest for image in cached_images(cache)]


def test_the_newest_image_of_the_recipe_is_used(tmp_path: Path) -> None:
    put(tmp_path, RECIPE, days=90)
    put(tmp_path, f"{RECIPE}-20261120T000000Z", days=9)
    put(tmp_path, f"{RECIPE}-20261110T000000Z", days=19)
    put(tmp_path, "another-recipe", days=0)
    found = default_image(tmp_path, report=lambda text: pytest.fail(text))
    assert found.digest == f"{RECIPE}-20261120T000000Z"
    assert found.versions == {"etcd": "3.5.16", "kernel": "6.12.118", "cloud-init": "25.1.4", "systemd": "257.13"}
    assert found.built == "2026-11-20T12:00:00Z"


def test_an_image_of_an_older_bake_has_the_date_of_its_file(tmp_path: Path) -> None:
    folder = put(tmp_path, RECIPE, days=None)
    os.utime(folder / "image.json", (0, datetime(2026, 9, 1, tzinfo=UTC).timestamp()))
    assert cached_images(tmp_path)[0].built == "2026-09-01T00:00:00Z"


def test_refresh_builds_another_image_and_keeps_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_build(folder: Path, *_: object, **__: object) -> None:
        put(tmp_path, folder.name, built=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")

    monkeypatch.setattr(build, "check_machine", lambda: None)
    monkeypatch.setattr(build, "build", fake_build)
    first = default_image(tmp_path, report=print)
    assert first.digest == RECIPE
    assert default_image(tmp_path, report=print).digest == RECIPE
    second = default_image(tmp_path, report=print, refresh=True)
    assert second.digest.startswith(f"{RECIPE}-2")
    assert set(digests(tmp_path)) == {first.digest, second.digest}
    assert default_image(tmp_path, report=print).digest == second.digest or first.built == second.built


def test_old_images_are_removed_except_the_newest_two_and_those_of_vms(tmp_path: Path) -> None:
    for number, days in enumerate((200, 100, 50, 0)):
        put(tmp_path, f"{RECIPE}-{number}", days=days)
    put(tmp_path, "00aa-old", days=100)
    put(tmp_path, "00bb-old-in-use", days=100)
    put(tmp_path, "00cc-young", days=30)
    removed = remove_old_images(tmp_path, {f"{RECIPE}-0", "00bb-old-in-use"}, now=NOW)
    assert sorted(removed) == sorted(["00aa-old", f"{RECIPE}-1"])
    assert set(digests(tmp_path)) == {
        f"{RECIPE}-0", f"{RECIPE}-2", f"{RECIPE}-3", "00bb-old-in-use", "00cc-young"
    }  # fmt: skip
    assert remove_old_images(tmp_path, {f"{RECIPE}-0", "00bb-old-in-use"}, now=NOW) == []
    assert list((tmp_path / "images").glob(".*.building")) == []


def test_an_image_is_found_by_the_beginning_of_its_digest(tmp_path: Path) -> None:
    put(tmp_path, "aa11")
    put(tmp_path, "aa11-1")
    put(tmp_path, "ab22")
    assert image_with(tmp_path, "ab").digest == "ab22"
    assert image_with(tmp_path, "aa11").digest == "aa11"
    for wrong in ("aa", "zz", ""):
        with pytest.raises(InputError, match=f"--to: '{wrong}' is the beginning of"):
            image_with(tmp_path, wrong)
