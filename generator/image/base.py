"""Find the nodes' base image in the cache, or build it. The cache has one image for each version of the recipe."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from generator.errors import BakeError
from generator.image import build
from generator.progress import Report


@dataclass(frozen=True, kw_only=True)
class BootImage:
    """A disk image with its kernel and initrd. If `kernel` is None, the disk boots with its own boot loader."""

    disk: Path
    format: str
    virtual_size: int
    digest: str
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    bin_dir: Path | None = None
    root_tar: Path | None = None


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return bake's cache folder: the value of BAKE_CACHE, or the folder `bake` in the user's cache folder."""
    if own := environment.get("BAKE_CACHE"):
        return Path(own)
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bake"


def default_image(cache: Path, *, report: Report, plain: bool = False) -> BootImage:
    """Return the base image from the cache, or build it. `plain`: return the variant `plain` instead of `tuned`."""
    digest = recipe_digest(build.RECIPE, plain=plain)
    folder = cache.absolute() / "images" / digest
    image = load_image(folder)
    if image is None:
        build.check_machine()
        with build.exclusive(folder, report) as lock:
            # Another process may have built the image while this process waited for the lock.
            if load_image(folder) is None:
                build.build(folder, lock, report, plain=plain)
        image = load_image(folder)
    if image is None:
        raise BakeError(f"{folder} is incomplete after the build", hint=f"remove {folder} and try again")
    return image


def recipe_digest(recipe: Path, *, plain: bool) -> str:
    """Return 16 hexadecimal digits: a digest of the recipe's files, `build.PARAMETERS` and the variant."""
    total = hashlib.sha256(json.dumps([*build.PARAMETERS, plain]).encode())
    for path in sorted(path for path in recipe.rglob("*") if path.is_file()):
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
    )
