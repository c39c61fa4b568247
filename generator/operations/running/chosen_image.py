"""The image that the user chose with `bake upgrade --to`. Until the next `bake upgrade`, new disks are made from it.

Without the choice, bake makes new disks from the newest image in the cache. After a return to an older image, the user
does not want the newest image. The choice also applies if `bake upgrade --to` was interrupted.
"""

from __future__ import annotations

from pathlib import Path

from generator.image.base import BootImage, cached_images
from generator.layout import CHOSEN_IMAGE
from generator.operations.baked_cluster import Cluster
from generator.operations.up import boot_image
from generator.progress import Report
from generator.store import atomic
from generator.store.folder import Store


def chosen_image(store: Store) -> str:
    """Return the digest of the chosen image, or ""."""
    return (store.read(CHOSEN_IMAGE) or b"").decode(errors="replace").strip()


def choose_image(store: Store, digest: str, report: Report) -> None:
    """Store the digest of the chosen image. Remove the choice if `digest` is empty."""
    if chosen_image(store) == digest:
        return
    with store.locked(report):
        if digest:
            atomic.replace(store.folder / CHOSEN_IMAGE, f"{digest}\n".encode())
        else:
            store.remove(CHOSEN_IMAGE)


def new_disk_image(cluster: Cluster, cache: Path, report: Report) -> BootImage:
    """Return the image for new disks: the user's own image, else the chosen image, else the newest image in the cache.

    If the cache no longer has the chosen image, report it and return the newest image. Otherwise, a cluster whose image
    is lost could not replace a node.
    """
    spec, digest = cluster.plan.spec, chosen_image(cluster.store)
    if digest and not spec.vm.image:
        if found := next((image for image in cached_images(cache) if image.digest == digest), None):
            return found
        report(f"warning: the image {digest} is no longer in {cache}; new disks are made from the newest image")
    return boot_image(spec, cache, report)
