"""The input of every export, and the checks that several targets share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from generator.config.fields import shown_value
from generator.config.spec import InstallMethod, NetworkMode
from generator.config.values import interface
from generator.errors import InputError, Problem
from generator.layout import SEED_ISO
from generator.plan import ClusterPlan, NodePlan
from generator.seed.iso import SEED_PERMIT, SEED_SNAPSHOT, USER_DATA

MIB, GIB = 1 << 20, 1 << 30
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._:@+-]{0,62}")
_STORAGE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A baked cluster.

    `folder`: the absolute path of the cluster's folder. `seeds`: the content of each node's seed files by node and file
    name, without the ISO.
    """

    plan: ClusterPlan
    folder: Path
    seeds: Mapping[str, Mapping[str, bytes]]

    def iso(self, node: NodePlan) -> str:
        """Return the absolute path of a node's ISO."""
        return str(self.folder / node.name / SEED_ISO)

    def user_data(self, node: NodePlan) -> bytes:
        return self.seeds[node.name][str(USER_DATA)]

    def permit(self, node: NodePlan) -> bytes | None:
        """Return the bootstrap permit on a node's seed. Only the first node of an unsealed cluster has a permit."""
        return self.seeds[node.name].get(str(SEED_PERMIT))


def refuse(problems: Iterator[Problem]) -> None:
    """Raise InputError with all problems, if there is one."""
    if found := list(problems):
        raise InputError(found)


def check_image(plan: ClusterPlan, image: str | None) -> Iterator[Problem]:
    """Yield a problem if there is no image, or if its path cannot be in a script."""
    given = image or plan.spec.vm.image
    if not given:
        text = "no image is given, and bake's own image boots only with `bake up`"
        yield Problem("--image", text, "give a cloud image with --image, or set vm.image in the cluster file")
    elif not given.isprintable():
        yield Problem("--image", f"{shown_value(given)} has a character that is not printable", "rename the file")


def check_name(flag: str, value: str) -> Iterator[Problem]:
    """Yield a problem if the name of a libvirt object cannot be an argument of virt-install."""
    if not _NAME.fullmatch(value):
        rule = "is not 1 to 63 of letters, digits, spaces and . _ : @ + -, or begins with one of . : @ + - and space"
        yield Problem(flag, f"{shown_value(value)} {rule}", "rename the object, or use another one")


def check_bridge(flag: str, value: str) -> Iterator[Problem]:
    try:
        interface(value)
    except ValueError as error:
        yield Problem(flag, str(error), "list the bridges with `ip link show type bridge`")


@dataclass(frozen=True, kw_only=True)
class LibvirtSettings:
    """What the targets for libvirt need to know about a host. `network`, `bridge`: default: those of the plan."""

    image: str | None = None
    connect: str = "qemu:///system"
    pool: str = "default"
    network: str | None = None
    bridge: str | None = None

    def attachment(self, plan: ClusterPlan) -> tuple[str, str]:
        """Return `bridge` or `network`, and its name. A network that `bake up` would create is libvirt's `default`."""
        if self.bridge is not None:
            return "bridge", self.bridge
        if self.network is None and plan.network.mode is NetworkMode.BRIDGE:
            return "bridge", plan.network.bridge
        own = plan.network.name if plan.network.mode is NetworkMode.NETWORK else "default"
        return "network", own if self.network is None else self.network


def check_libvirt(source: Source, settings: LibvirtSettings) -> Iterator[Problem]:
    """Yield the problems of the settings that the targets for libvirt share."""
    yield from check_image(source.plan, settings.image)
    yield from check_name("--pool", settings.pool)
    if settings.network is not None:
        yield from check_name("--network", settings.network)
    if settings.bridge is not None:
        yield from check_bridge("--bridge", settings.bridge)
    if settings.network is not None and settings.bridge is not None:
        rule = "cannot be used together with --network"
        yield Problem("--bridge", f"{shown_value(settings.bridge)} {rule}", "give one of the two")
    is_planned = settings.network is None and settings.bridge is None
    if is_planned and source.plan.network.vlan is not None:
        text = f"{source.plan.network.vlan}: this export cannot set the VLAN of a port"
        yield Problem("network.vlan", text, "give a bridge or a network of the VLAN with --bridge or --network")
    if not settings.connect or not settings.connect.isprintable():
        yield Problem("--connect", f"{shown_value(settings.connect)} is not a URI of libvirt", "use qemu:///system")


def check_storage(flag: str, value: str) -> Iterator[Problem]:
    """Yield a problem if a value is not a storage id of Proxmox VE (PVE::JSONSchema, pve-storage-id)."""
    if not _STORAGE.fullmatch(value):
        rule = "is not a storage id of Proxmox VE: letters, digits and . _ -, first a letter, last a letter or digit"
        yield Problem(flag, f"{shown_value(value)} {rule}", "list the storages with `pvesm status`")


def check_files_fit(source: Source, engine: str) -> Iterator[Problem]:
    """Yield a problem for each file that only an ISO can carry: the release tarball of etcd, and a snapshot."""
    if source.plan.spec.install.method is InstallMethod.ARCHIVE:
        text = f"archive: {engine} cannot carry the release tarball of etcd"
        yield Problem("install.method", text, "use a profile that installs packages, or an image that contains etcd")
    for node, files in source.seeds.items():
        if str(SEED_SNAPSHOT) in files:
            text = f"{engine} cannot carry the snapshot that this node restores"
            yield Problem(f"{node}/{SEED_SNAPSHOT}", text, "finish the restore with `bake up`, then export again")


def warnings(source: Source) -> Iterator[str]:
    """Yield a warning for each property of the seeds that can keep the nodes from starting on any engine."""
    install = source.plan.spec.install
    if install.method is InstallMethod.PREINSTALLED:
        hint = "to install etcd, bake with another profile, such as debian"
        yield f"the seeds do not install etcd, so the image must contain etcd; {hint}"
