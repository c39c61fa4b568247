"""Remove images that no VM uses from the cache."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from generator.engine import Hosts
from generator.errors import BakeError
from generator.image.base import remove_old_images
from generator.progress import Report


def clean_cache(cache: Path, connect: Callable[[], Hosts], *, now: datetime, report: Report) -> list[str]:
    """Remove old images from the cache, and return their digests. Remove nothing if libvirt does not list its VMs."""
    try:
        used = connect().used_images()
    except BakeError:
        report("no image was removed, because bake could not list the images that VMs use")
        return []
    removed = remove_old_images(cache, used, now=now)
    for digest in removed:
        report(f"removed the old image {digest} from the cache")
    return removed
