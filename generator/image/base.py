"""Find the nodes' base image in the cache, or build it. The cache may have several images of the same recipe."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from generator.errors import BakeError, InputError
from generator.image import build
from generator.image.age import OLD, days_old
from generator.progress import Report

_KEPT = 2  # images of each variant that stay in the cache
_PARTS = {
    "etcd": "etcd-server", "kernel": "linux-image-cloud-.*", "cloud-init": "cloud-init", "systemd": "systemd",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BootImage:
    """A disk image with its kernel and initrd. If `kernel` is None, the disk boots with its own boot loader.

    `built`: when bake built the image (RFC 3339, UTC), or "" for the user's image. `versions`: the versions of etcd,
    kernel, cloud-init and systemd in the image, if bake built it.
    """

    disk: Path
    format: str
    virtual_size: int
    digest: str
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    bin_dir: Path | None = None
    root_tar: Path | None = None
    built: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return bake's cache folder: the value of BAKE_CACHE, or the folder `bake` in the user's cache folder."""
    if own := environment.get("BAKE_CACHE"):
        return Path(own)
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bake"


def default_image(cache: Path, *, report: Report, plain: bool = False, refresh: bool = False) -> BootImage:
    """Return the newest base image in the cache, or build one. `plain`: the variant `plain` instead of `tuned`.

    `refresh`: build the image even if the cache has one, because Debian may have newer packages.
    """
    recipe, images = recipe_digest(build.RECIPE, plain=plain), cache.absolute() / "images"
    image = None if refresh else newest(images, recipe)
    if image is None:
        build.check_machine()
        stamp = f"-{datetime.now(UTC):%Y%m%dT%H%M%SZ}" if newest(images, recipe) else ""
        folder = images / f"{recipe}{stamp}"
        with build.exclusive(folder, report) as lock:
            # Another process may have built the image while this process waited for the lock.
            if load_image(folder) is None:
                build.build(folder, lock, report, plain=plain)
        image = load_image(folder)
        if image is None:
            raise BakeError(f"{folder} is incomplete after the build", hint=f"remove {folder} and try again")
    return image


def cached_images(cache: Path) -> list[BootImage]:
    """Return all images in the cache that bake built, the newest first."""
    folders = [path for path in (cache.absolute() / "images").glob("[!.]*") if path.is_dir()]
    found = [image for folder in folders if (image := load_image(folder))]
    return sorted(found, key=lambda image: (image.built, image.digest), reverse=True)


def newest(images: Path, recipe: str) -> BootImage | None:
    """Return the newest image that was built from a recipe, or None."""
    return next((image for image in cached_images(images.parent) if is_from(image, recipe)), None)


def is_from(image: BootImage, recipe: str) -> bool:
    """Return whether an image was built from a recipe. `recipe`: the recipe's digest."""
    return image.digest.partition("-")[0] == recipe


def image_with(cache: Path, digest: str) -> BootImage:
    """Return the image in the cache whose digest begins with `digest`. Raise InputError without exactly one image."""
    images = cached_images(cache)
    found = [image for image in images if image.digest == digest]
    found = found or [image for image in images if digest and image.digest.startswith(digest)]
    if len(found) != 1:
        rule = f"{digest!r} is the beginning of {len(found)} images in {cache.absolute() / 'images'}"
        names = ", ".join(image.digest for image in images) or "none"
        raise InputError.one("--to", rule, f"give one of these images: {names}")
    return found[0]


def remove_old_images(cache: Path, used: Collection[str], *, now: datetime) -> list[str]:
    """Remove images that nobody needs from the cache, and return their digests.

    `used`: the digests of images that VMs use. The two newest images of each variant stay, so that an upgrade has a way
    back. Images of another version of bake stay for 60 days, because that version may still be in use.
    """
    own = {recipe_digest(build.RECIPE, plain=plain) for plain in (False, True)}
    newer: Counter[str] = Counter()
    removed = []
    for image in cached_images(cache):
        recipe = image.digest.partition("-")[0]
        is_old = newer[recipe] >= _KEPT if recipe in own else (days_old(image.built, now=now) or 0) > OLD
        newer[recipe] += 1
        if is_old and image.digest not in used:
            build.remove_image(image.disk.parent)
            removed.append(image.digest)
    return removed


def recipe_digest(recipe: Path, *, plain: bool) -> str:
    """Return 16 hexadecimal digits: a digest of the recipe's files, `build.PARAMETERS` and the variant."""
    total = hashlib.sha256(json.dumps([*build.PARAMETERS, plain]).encode())
    for path in sorted(path for path in recipe.rglob("*") if path.is_file() and path.parent.name != "__pycache__"):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(recipe)} {os.access(path, os.X_OK)} {content}\n".encode())
    return total.hexdigest()[:16]


def load_image(folder: Path) -> BootImage | None:
    """Return the image in a folder, or None if the folder does not exist or has no image."""
    try:
        facts = json.loads((folder / "image.json").read_text())
    except FileNotFoundError:
        return None
    return BootImage(
        disk=folder / facts["disk"],
        format=facts["format"],
        virtual_size=facts["virtual_size"],
        digest=facts["digest"],
        kernel=folder / facts["kernel"],
        initrd=folder / facts["initrd"],
        cmdline=facts["cmdline"],
        bin_dir=folder / "bin",
        root_tar=folder / "root.tar",
        built=facts.get("built") or _modified(folder / "image.json"),
        versions=_versions(facts.get("packages", {})),
    )


def _modified(path: Path) -> str:
    """Return when a file was changed. An older bake did not write when it built an image."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _versions(packages: Mapping[str, str]) -> dict[str, str]:
    """Return the upstream versions of the important packages, without epoch and Debian's revision."""
    found = {
        part: next((version for name, version in packages.items() if re.fullmatch(pattern, name)), "")
        for part, pattern in _PARTS.items()
    }
    return {part: re.sub(r"^\d+:|[-~+].*$", "", version) for part, version in found.items()}
