"""Make the engine through which a command reaches the machines of a cluster's nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from generator.cli.common import image_cache

if TYPE_CHECKING:
    from generator.engine import Engine, Hosts, MachineStatus
    from generator.image.base import BootImage
    from generator.operations.baked_cluster import Cluster
    from generator.progress import Report

Answer = TypeVar("Answer")


def connect(options: Mapping[str, Any]) -> Hosts:
    """Connect to libvirt, for a command that needs no plan of a cluster."""
    from generator import vm

    return vm.LibvirtHosts(connection=vm.connect(options["connect"]))


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
    from generator.operations.hints import command

    return _if_possible(options, lambda: make_engine(options, report, cluster, remedy=command(cluster.store, remedy)))


def machines_if_possible(
    options: Mapping[str, Any], report: Report, cluster: Cluster
) -> Mapping[str, MachineStatus]:
    """Return what the engine's `machines` returns, or nothing if libvirt fails and the user gave no --connect."""
    return _if_possible(options, lambda: make_engine(options, report, cluster).machines()) or {}


def _if_possible(options: Mapping[str, Any], ask: Callable[[], Answer]) -> Answer | None:
    from generator.errors import BakeError

    try:
        return ask()
    except BakeError:
        if options["connect"] is not None:
            raise
        return None  # the machines may run on another host
