"""Remove images that no VM uses from the cache."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from generator.errors import BakeError
from generator.image.base import remove_old_images
from generator.operations.baked_cluster import connect_if_possible
from generator.progress import Report
from generator.vm import lifecycle


def clean_cache(cache: Path, uri: str | None, *, now: datetime, report: Report) -> list[str]:
    """Remove old images from the cache, and return their digests. Remove nothing if libvirt does not list its VMs."""
    try:
        connection = connect_if_possible(uri)
        used = lifecycle.used_images(connection) if connection else None
    except BakeError:
        used = None
    if used is None:
        report("no image was removed, because libvirt does not tell which images VMs use")
        return []
    removed = remove_old_images(cache, used, now=now)
    for digest in removed:
        report(f"removed the old image {digest} from the cache")
    return removed
