"""Build the definitions of the nodes' VMs, and create the volumes that a definition names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from generator import __version__
from generator.image.base import BootImage
from generator.plan import ClusterPlan, NodePlan, root_disk
from generator.progress import Report
from generator.vm import seed_drive, storage_pool
from generator.vm.connection import Connection, Domain, Pool, asking, libvirt
from generator.vm.domain_xml import Accel, Files, Owner, domain_xml, files_in
from generator.vm.ownership import Claim
from generator.vm.storage_pool import console_volume, data_volume, disk_volume, journal_volume


@dataclass(frozen=True, kw_only=True)
class Job:
    """The parameters that all steps of a boot share."""

    connection: Connection
    plan: ClusterPlan
    claim: Claim
    pool: Pool
    report: Report

    def owner(self, **facts: str) -> Owner:
        return Owner(cluster=self.claim.cluster, cluster_id=self.claim.cluster_id, version=__version__, **facts)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node's VM, and the values from which bake built the VM's definition."""

    node: NodePlan
    domain: Domain
    accel: Accel
    files: Files
    owner: Owner


@dataclass(frozen=True, kw_only=True)
class Definer:
    """Builds the definition of a new VM, or the updated definition of an existing VM.

    `files`: the VM's files without the ISO. `made_from`: the tag with the facts about the image and the root disk.
    """

    job: Job
    node: NodePlan
    files: Files
    made_from: Owner
    accel: Accel
    seed: Path
    settled: bool = False  # whether the drive stays empty, because the node has applied `seed`

    @property
    def seed_digest(self) -> str:
        return seed_drive.seed_digest(self.seed)

    @property
    def seed_volume(self) -> str:
        return seed_drive.seed_volume(self.node.name, self.seed_digest)

    def create(self, *, keep_data: bool = False) -> Machine:
        """Create the volumes before the VM, so every volume in a VM's definition is complete.

        `keep_data`: keep an existing data disk.
        """
        base = self.job.pool.storageVolLookupByName(image_volume("base", self.made_from.image))
        storage_pool.put(self.job.pool, self.seed_volume, self.seed)
        vm, data = self.job.plan.spec.vm, data_volume(self.node.name)
        if vm.data_disk and not (keep_data and self._has_volume(data)):
            storage_pool.make_data_disk(self.job.pool, data, vm.data_disk << 30)
        storage_pool.make_overlay(self.job.pool, disk_volume(self.node.name), vm.disk << 30, base)
        return self._define()

    def update(self, domain: Domain, old: Owner) -> Machine:
        """Redefine a VM unless its tag says that its definition is up to date."""
        if replace(old, version="") == replace(self._owner(), version=""):
            return Machine(node=self.node, domain=domain, accel=self.accel, files=self._all_files(), owner=old)
        if domain.isActive():
            self.job.report(f"{self.node.name}: is running; the changes apply at its next start")
        return self.redefine(domain)

    def redefine(self, domain: Domain) -> Machine:
        """Redefine a VM. A running VM gets the definition at its next start."""
        is_complete = self.seed_volume in seed_drive.in_use(domain) and self._has_volume(self.seed_volume)
        if not self.settled and not is_complete:
            storage_pool.put(self.job.pool, self.seed_volume, self.seed)
        return self._define()

    def _has_volume(self, name: str) -> bool:
        return storage_pool.find_volume(self.job.pool, name) is not None

    def _define(self) -> Machine:
        owner = self._owner()
        xml = domain_xml(self.job.plan, self.node, self._all_files(), self.accel, owner)
        with asking(f"define the VM {self.node.domain}"):
            domain = self.job.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        return Machine(node=self.node, domain=domain, accel=self.accel, files=self._all_files(), owner=owner)

    def _all_files(self) -> Files:
        return self.files if self.settled else replace(self.files, seed=_path(self.job, self.seed_volume))

    def _owner(self) -> Owner:
        blank = self.job.owner(node=self.node.name)
        text = domain_xml(self.job.plan, self.node, self.files, self.accel, blank)
        config = hashlib.sha256(text.encode()).hexdigest()[:16]
        made = {name: getattr(self.made_from, name) for name in ("image", "built", "root")}
        return replace(blank, seed=self.seed_digest, config=config, **made)


def of_image(job: Job, node: NodePlan, image: BootImage, accel: Accel, seed: Path) -> Definer:
    """Return the definer of a VM whose disk is made from `image`."""
    files = Files(
        disk=_path(job, disk_volume(node.name)),
        seed=None,
        console=_path(job, console_volume(node.name)),
        journal=_path(job, journal_volume(node.name)),
        kernel=_path(job, image_volume("kernel", image.digest)) if image.kernel else None,
        initrd=_path(job, image_volume("initrd", image.digest)) if image.initrd else None,
        cmdline=image.cmdline or None,
        data=_path(job, data_volume(node.name)) if job.plan.spec.vm.data_disk else None,
    )
    made_from = job.owner(image=image.digest, built=image.built, root=root_text(job.plan))
    return Definer(job=job, node=node, files=files, made_from=made_from, accel=accel, seed=seed)


def of_vm(job: Job, node: NodePlan, domain: Domain, owner: Owner, accel: Accel, seed: Path) -> Definer:
    """Return the definer of an existing VM that keeps its disk, its image's kernel and its firmware.

    The drive stays empty if bake has inserted this seed and then emptied the drive, because the node has applied it.
    """
    files = files_in(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    files = replace(files, journal=files.journal or _path(job, journal_volume(node.name)))
    settled = owner.seed == seed_drive.seed_digest(seed) and seed_drive.is_empty(domain)
    return Definer(job=job, node=node, files=files, made_from=owner, accel=accel, seed=seed, settled=settled)


def has_data_disk(domain: Domain) -> bool:
    """Return whether a VM's definition has a data disk, whose volume may be missing."""
    return files_in(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).data is not None


def _path(job: Job, name: str) -> str:
    return storage_pool.path_of(job.pool, name)


def image_volume(kind: str, digest: str) -> str:
    """Return the name of the volume with an image's `base`, `kernel` or `initrd`."""
    return f"{kind}-{hashlib.sha256(digest.encode()).hexdigest()[:16]}"


def root_text(plan: ClusterPlan) -> str:
    """Return the values from which a new root disk is made, for a VM's tag."""
    return " ".join(f"{name}={value}" for name, value in root_disk(plan.spec).items())


def find_rebuilds(owner: Owner, plan: ClusterPlan, *, data_size: int) -> tuple[str, ...]:
    """Return the fields whose values differ from those from which a VM's disks were made.

    `data_size`: of the VM's data disk in bytes, or 0. An older bake wrote no values, so they count as unchanged.
    """
    made = dict(part.partition("=")[::2] for part in owner.root.split())
    changed = [name for name, value in root_disk(plan.spec).items() if made.get(name, value) != value]
    return (*changed, *(["vm.dataDisk"] if data_size != plan.spec.vm.data_disk << 30 else []))


def accel_of(domain: Domain) -> Accel:
    return Accel(_kind(domain))


def accel_name(domain: Domain) -> str:
    """Return `kvm`, `tcg`, or the domain type of another tool's VM."""
    return "tcg" if _kind(domain) == Accel.TCG else _kind(domain)


def _kind(domain: Domain) -> str:
    return ElementTree.fromstring(domain.XMLDesc()).get("type", "")  # noqa: S314  libvirt wrote it


def find_outdated(domain: Domain, plan: ClusterPlan, node: NodePlan) -> tuple[str, ...]:
    """Return in which of `memory`, `cpus` and `mac` a VM differs from the plan. A running VM keeps them until it stops.

    libvirt's XML has the memory in KiB.
    """
    root = ElementTree.fromstring(domain.XMLDesc())  # noqa: S314  libvirt wrote it
    mac = root.find("devices/interface/mac")
    has = {
        "memory": int(root.findtext("memory", "0")) >> 10,
        "cpus": int(root.findtext("vcpu", "0")),
        "mac": "" if mac is None else mac.get("address", "").lower(),
    }
    wanted = {"memory": plan.spec.vm.memory, "cpus": plan.spec.vm.cpus, "mac": node.mac}
    return tuple(name for name in has if has[name] != wanted[name])
