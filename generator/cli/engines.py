"""Make the engine with which a command changes the machines of a cluster's nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from generator.cli.common import image_cache

if TYPE_CHECKING:
    from generator.engine import Engine
    from generator.image.base import BootImage
    from generator.operations.baked_cluster import Cluster
    from generator.progress import Report


def make_engine(
    options: Mapping[str, Any],
    report: Report,
    cluster: Cluster,
    *,
    image: BootImage | None = None,
    remedy: str = "bake apply",
) -> Engine:
    """Connect to libvirt, and return the engine of the cluster's VMs.

    `image`: the image for new disks. The default is the image that the cluster's specification names. `remedy`: the
    command that completes an interrupted change.
    """
    from generator import vm
    from generator.operations.up import boot_image

    return vm.LibvirtEngine(
        connection=vm.connect(options["connect"]), plan=cluster.plan, cluster_id=cluster.cluster_id,
        seeds=cluster.store.folder, accel=options.get("accel", "auto"), report=report, remedy=remedy,
        load_image=lambda: image or boot_image(cluster.plan.spec, image_cache(options), report),
    )  # fmt: skip


def engine_if_possible(
    options: Mapping[str, Any], report: Report, cluster: Cluster, *, remedy: str
) -> Engine | None:
    """Return the engine. Return None if libvirt does not answer and the user gave no --connect.

    `remedy`: the subcommand that completes an interrupted change, for example `certs deliver`.
    """
    from generator.errors import BakeError
    from generator.operations.hints import command

    try:
        return make_engine(options, report, cluster, remedy=command(cluster.store, remedy))
    except BakeError:
        if options["connect"] is not None:
            raise
        return None  # the machines may run on another host
