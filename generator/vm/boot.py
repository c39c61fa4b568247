"""Boot a baked cluster: define and start its VMs. A second run only creates missing VMs and starts stopped VMs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from generator import __version__
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report
from generator.vm import network, seed_drive, storage_pool
from generator.vm.acceleration import choose_accel, find_crashed, is_kvm_error
from generator.vm.connection import Connection, Domain, Pool, asking, is_local, libvirt, message_of
from generator.vm.domain_xml import Accel, Files, Owner, domain_xml, swap_seed
from generator.vm.ownership import Claim, claim_domains
from generator.vm.peer_firewall import allowed_peers


@dataclass(frozen=True, kw_only=True)
class Job:
    """The parameters that all steps of a boot share."""

    connection: Connection
    plan: ClusterPlan
    claim: Claim
    pool: Pool
    report: Report

    def owner(self, **facts: str) -> Owner:
        return Owner(
            cluster=self.claim.cluster, cluster_id=self.claim.cluster_id, version=__version__, **facts
        )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node's VM, and the values from which bake built the VM's definition."""

    node: NodePlan
    domain: Domain
    accel: Accel
    files: Files
    owner: Owner


def boot(
    connection: Connection,
    plan: ClusterPlan,
    image: BootImage,
    seeds: Mapping[str, Path | bytes],
    *,
    cluster_id: str,
    accel: str = "auto",
    report: Report,
) -> tuple[str, ...]:
    """Define missing VMs and start stopped VMs, for the nodes in `seeds`. Return the names of the started nodes."""
    claim = Claim(cluster=plan.name, cluster_id=cluster_id)
    existing = claim_domains(connection, plan, claim)
    storage_pool.find_pool(connection, claim)
    network.check_network(connection, plan, claim)
    _refuse_small_disk(plan, image)
    _refuse_used_addresses(connection, plan, existing)
    kind = choose_accel(connection, accel, report)
    owner = Owner(cluster=plan.name, cluster_id=cluster_id, version=__version__)
    network.ensure_network(connection, plan, claim, owner)
    with asking(f"boot the cluster {plan.name}"):
        job = Job(
            connection=connection,
            plan=plan,
            claim=claim,
            pool=storage_pool.ensure_pool(connection, claim),
            report=report,
        )
        machines = _define_all(job, image, seeds, existing, kind, keep_kind=accel == "auto")
        started = _start_all(job, machines, accel)
        for machine in machines:
            seed_drive.remove_old_seeds(job.pool, machine.node.name, machine.domain)
    return tuple(machine.node.name for machine in started)


def _refuse_small_disk(plan: ClusterPlan, image: BootImage) -> None:
    if image.virtual_size > plan.spec.vm.disk << 30:
        size = f"{image.virtual_size / (1 << 30):.1f} GiB"
        raise BakeError(
            f"the image is {size}, but the VMs' disks are {plan.spec.vm.disk} GiB",
            hint="set vm.disk to at least the image's size",
        )


def _refuse_used_addresses(
    connection: Connection, plan: ClusterPlan, existing: Mapping[str, tuple[Domain, Owner]]
) -> None:
    running = {name for name, (domain, _) in existing.items() if domain.isActive()}
    if is_local(connection):
        network.refuse_used_addresses(node.address for node in plan.nodes if node.name not in running)


# --- definitions --------------------------------------------------------------------------------------------


def _define_all(
    job: Job,
    image: BootImage,
    seeds: Mapping[str, Path | bytes],
    existing: Mapping[str, tuple[Domain, Owner]],
    kind: Accel,
    *,
    keep_kind: bool,
) -> list[Machine]:
    is_known = any(owner.image == image.digest for _, owner in existing.values())
    nodes = [node for node in job.plan.nodes if node.name in seeds]
    if not is_known and any(node.name not in existing for node in nodes):
        _upload_image(job, image)
    machines = []
    for node in nodes:
        domain, owner = existing.get(node.name, (None, None))
        # If KVM failed for this VM before, the VM is already emulated and stays emulated.
        accel = _accel_of(domain) if domain is not None and keep_kind else kind
        if domain is not None and storage_pool.find_volume(job.pool, disk_volume(node.name)) is None:
            job.report(f"{node.name}: the disk is missing; creating a new disk and inserting the seed again")
            domain, owner = None, None
        seed = seeds[node.name]
        settled = owner is not None and owner.seed == seed_drive.seed_digest(seed) and seed_drive.is_empty(domain)
        definer = _Definer(job=job, node=node, image=image, accel=accel, seed=seed, settled=settled)
        machines.append(definer.create() if owner is None else definer.update(domain, owner))
    return machines


def _upload_image(job: Job, image: BootImage) -> None:
    for kind, path in (("base", image.disk), ("kernel", image.kernel), ("initrd", image.initrd)):
        if path is not None:
            job.report(f"uploading the image's {kind} ({path.stat().st_blocks >> 11} MiB)")
            storage_pool.put(job.pool, _image_volume(kind, image), path)


def _image_volume(kind: str, image: BootImage) -> str:
    return f"{kind}-{hashlib.sha256(image.digest.encode()).hexdigest()[:16]}"


def _accel_of(domain: Domain) -> Accel:
    return Accel(ElementTree.fromstring(domain.XMLDesc()).get("type", ""))  # noqa: S314  libvirt wrote it


@dataclass(frozen=True, kw_only=True)
class _Definer:
    """Builds the definition of a new VM, or the updated definition of an existing VM."""

    job: Job
    node: NodePlan
    image: BootImage
    accel: Accel
    seed: Path | bytes
    settled: bool = False  # whether the drive stays empty, because the node has applied `seed`

    @property
    def seed_digest(self) -> str:
        return seed_drive.seed_digest(self.seed)

    @property
    def seed_volume(self) -> str:
        return seed_drive.seed_volume(self.node.name, self.seed_digest)

    def path(self, name: str) -> str:
        return storage_pool.path_of(self.job.pool, name)

    def files(self) -> Files:
        image = self.image
        return Files(
            disk=self.path(disk_volume(self.node.name)),
            seed=None if self.settled else self.path(self.seed_volume),
            console=self.path(console_volume(self.node.name)),
            kernel=self.path(_image_volume("kernel", image)) if image.kernel else None,
            initrd=self.path(_image_volume("initrd", image)) if image.initrd else None,
            cmdline=image.cmdline or None,
        )

    def machine(self, domain: Domain, owner: Owner) -> Machine:
        return Machine(node=self.node, domain=domain, accel=self.accel, files=self.files(), owner=owner)

    def owner(self) -> Owner:
        blank = self.job.owner(node=self.node.name)
        text = domain_xml(self.job.plan, self.node, replace(self.files(), seed=None), self.accel, blank)
        config = hashlib.sha256(text.encode()).hexdigest()[:16]
        peers = allowed_peers(self.job.plan)
        return replace(blank, image=self.image.digest, seed=self.seed_digest, config=config, peers=peers)

    def define(self, xml: str) -> Domain:
        with asking(f"define the VM {self.node.domain}"):
            return self.job.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

    def create(self) -> Machine:
        """Create the volumes before the VM, so every volume in a VM's definition is complete."""
        base = self.job.pool.storageVolLookupByName(_image_volume("base", self.image))
        storage_pool.put(self.job.pool, self.seed_volume, self.seed)
        size = self.job.plan.spec.vm.disk << 30
        storage_pool.make_overlay(self.job.pool, disk_volume(self.node.name), size, base)
        owner = self.owner()
        xml = domain_xml(self.job.plan, self.node, self.files(), self.accel, owner)
        return self.machine(self.define(xml), owner)

    def update(self, domain: Domain, old: Owner) -> Machine:
        wanted = self.owner()
        if replace(old, version="") == replace(wanted, version=""):
            return self.machine(domain, old)
        if old.seed != wanted.seed:
            storage_pool.put(self.job.pool, self.seed_volume, self.seed)
        if old.image != wanted.image:
            self.job.report(f"{self.node.name}: keeps its disk, which was made from another image")
            inactive = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            xml = swap_seed(inactive, self.files().seed or "", wanted.seed, peers=wanted.peers)
        else:
            xml = domain_xml(self.job.plan, self.node, self.files(), self.accel, wanted)
        if domain.isActive():
            self.job.report(f"{self.node.name}: is running; to apply the changes: bake down, then bake up")
        return self.machine(self.define(xml), wanted)


def disk_volume(node: str) -> str:
    return f"{node}.qcow2"


def console_volume(node: str) -> str:
    """Return the name of the volume with a node's console log. bake reads the volume through libvirt."""
    return f"{node}.console.log"


def renamed_console_volume(node: str) -> str:
    """Return the name to which virtlogd renames a console log that has become too large."""
    return f"{console_volume(node)}.0"


# --- starting -----------------------------------------------------------------------------------------------


def _start_all(job: Job, machines: list[Machine], wish: str) -> list[Machine]:
    """Start every stopped VM, and return the started VMs. With `--accel auto`, emulate a VM that fails under KVM."""
    started = [machine for machine in machines if _start(job, machine, wish)]
    watched = [machine for machine in started if _accel_of(machine.domain) is Accel.KVM and wish == "auto"]
    crashed = find_crashed(machine.domain for machine in watched)
    for machine in watched:
        if machine.domain in crashed:
            _emulate(job, machine, "crashed under KVM within seconds")
    return started


def _start(job: Job, machine: Machine, wish: str) -> bool:
    """Start a VM if it is stopped. Return whether the VM was stopped.

    With `--accel auto`, emulate a VM that KVM cannot start.
    """
    domain = machine.domain
    if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
        domain.resume()
    if domain.isActive():
        return False
    # Remove the rotated console log of the VM's previous run. Without virtlogd, libvirt does not remove rotated logs.
    storage_pool.remove(job.pool, renamed_console_volume(machine.node.name))
    with asking(f"start the VM {domain.name()}", hint="see the VM's log in /var/log/libvirt/qemu on the VM's host"):
        try:
            domain.create()
        except libvirt.libvirtError as error:
            if machine.accel is not Accel.KVM or wish != "auto" or not is_kvm_error(error, job.plan.name):
                raise
            _emulate(job, machine, f"does not start under KVM ({message_of(error)})")
    return True


def _emulate(job: Job, machine: Machine, why: str) -> None:
    """Redefine a VM that does not run under KVM, and start it under emulation."""
    job.report(f"{machine.node.name}: {why}; emulating it, which is slow")
    if machine.domain.isActive():
        machine.domain.destroy()
    xml = domain_xml(job.plan, machine.node, machine.files, Accel.TCG, machine.owner)
    with asking(f"start the VM {machine.node.domain} under emulation"):
        job.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).create()
