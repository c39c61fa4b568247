"""`LibvirtEngine`: create, change and remove the VMs of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from generator import __version__
from generator.engine import MachineStatus, State
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.layout import SEED_ISO
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report, Silent
from generator.vm import lifecycle, network, seed_drive, storage_pool
from generator.vm.acceleration import choose_accel
from generator.vm.boot import refuse_full_host, refuse_small_disk, refuse_used_addresses, start_all, upload_image
from generator.vm.connection import Connection, Domain, Pool, asking
from generator.vm.console import VolumeLog, attach_console
from generator.vm.definition import (
    Job,
    Machine,
    accel_name,
    accel_of,
    find_outdated,
    find_rebuilds,
    has_data_disk,
    image_volume,
    of_image,
    of_vm,
)
from generator.vm.domain_xml import Accel, Owner
from generator.vm.existing_network import warn_of_dhcp
from generator.vm.ownership import Claim, find_domain, list_domains, owner_of
from generator.vm.seed_drive import SeedDrive
from generator.vm.storage_pool import console_volume, data_volume, disk_size, disk_volume, journal_volume

Vm = tuple[Domain, Owner]
Found = list[tuple[NodePlan, Vm | None]]


@dataclass(kw_only=True)
class LibvirtEngine:
    """Implements `generator.engine.Engine` for the VMs of a cluster under libvirt.

    `seeds`: the cluster's folder, which has a folder with the file `seed.iso` for each node. `load_image`: returns the
    image for new disks; called only if the engine makes a disk. `accel`: `auto`, `kvm` or `tcg`. `patience`: the
    seconds for a VM's shutdown; then the engine powers it off. `remedy`: returns the command that completes an
    interrupted change. `command`: returns a bake command. `pool`: the folder for a new pool, or "" for libvirt's.
    """

    connection: Connection
    plan: ClusterPlan
    cluster_id: str
    seeds: Path
    load_image: Callable[[], BootImage]
    report: Report
    accel: str = "auto"
    patience: float = 90
    remedy: Callable[[], str] = "bake apply".format
    command: Callable[[str], str] = "bake {}".format
    pool: str = ""
    _uploaded: set[str] = field(default_factory=set, init=False)

    @asking("list the cluster's VMs")
    def machines(self) -> dict[str, MachineStatus]:
        pool = self._find_pool()
        left = storage_pool.volumes_by_node(pool) if pool is not None else {}
        tagged = [owner.node for _, owner in list_domains(self.connection, self._claim) if owner.node]
        found = [self._observe(name, pool) for name in dict.fromkeys([*self._nodes, *sorted({*tagged, *left})])]
        return {one.node: one for one in found if one.planned or one.node in left or one.state is not State.MISSING}

    def _observe(self, name: str, pool: Pool | None) -> MachineStatus:
        node, (domain, owner) = self._nodes.get(name), self._look_up(name)
        size, data_size = disk_size(pool, disk_volume(name)), disk_size(pool, data_volume(name))
        if domain is None or owner is None:
            return MachineStatus(
                node=name, state=State.MISSING if domain is None else State.FOREIGN, planned=node is not None,
                disk_size=size, data_size=data_size, accel="" if domain is None else accel_name(domain),
            )  # fmt: skip
        return MachineStatus(
            node=name, state=lifecycle.state_of(domain), planned=node is not None, disk_size=size, data_size=data_size,
            lost_data=not data_size and has_data_disk(domain),
            outdated=() if node is None else find_outdated(domain, self.plan, node),
            rebuild=() if node is None else find_rebuilds(owner, self.plan, data_size=data_size),
            image=owner.image, built=owner.built, seed=owner.seed, has_seed=not seed_drive.is_empty(domain),
            accel=accel_name(domain),
        )  # fmt: skip

    def check(self, *names: str) -> None:
        with asking(f"check {', '.join(names)}"):
            self._checked(names, Silent().line)

    def _checked(self, names: Iterable[str], report: Report) -> tuple[Found, list[NodePlan]]:
        """Return the nodes to start, and those of them that need a new disk. Raise BakeError if they cannot start."""
        found, pool = [(node, self._find(node.name)) for node in self.plan.select(names)], self._find_pool()
        idle = [(node, vm) for node, vm in found if vm is None or lifecycle.state_of(vm[0]) is not State.RUNNING]
        off = [(node, vm) for node, vm in idle if vm is None or not vm[0].isActive()]
        new = [node for node, vm in off if vm is None or not disk_size(pool, disk_volume(node.name))]
        if off:
            self._check_start([node for node, _ in off], report, is_new=bool(new))
        return idle, new

    def create(self, *names: str) -> tuple[str, ...]:
        with asking(f"start {', '.join(names)}", hint=f"try again: {self.remedy()}"):
            idle, new = self._checked(names, self.report)
            if not idle:
                return ()
            accels = {node.name: self._accel_for(vm) for node, vm in idle}
            job = self._job()
            if new:
                self._upload(job)
            machines = [self._define(job, node, vm, accels[node.name], is_new=node in new) for node, vm in idle]
            started = start_all(job, machines, self.accel)
            for machine in machines:
                seed_drive.remove_old_seeds(job.pool, machine.node.name, machine.domain)
        return tuple(machine.node.name for machine in started)

    def remove_copies(self, name: str) -> tuple[str, ...]:
        return ()  # one host

    def _check_start(self, off: list[NodePlan], report: Report, *, is_new: bool) -> None:
        """Raise BakeError if the nodes cannot start, before anything changes. `is_new`: a node needs a new disk."""
        for node in off:
            self._seed(node)
        network.check_network(self.connection, self.plan, self._claim)
        if is_new:
            refuse_small_disk(self.plan, self._image)
            warn_of_dhcp(self.connection, self.plan, report)
        refuse_full_host(self.connection, self.plan, off, report)
        refuse_used_addresses(self.connection, self.plan, off)

    def _define(self, job: Job, node: NodePlan, vm: Vm | None, accel: Accel, *, is_new: bool) -> Machine:
        """Define the VM of a node that does not run. `is_new`: make its root disk from the image."""
        if vm is not None and not is_new:
            return of_vm(job, node, *vm, accel, self._seed(node)).update(*vm)
        if vm is not None:
            self.report(f"{node.name}: the disk is missing; creating a new disk and inserting the seed again")
        return of_image(job, node, self._image, accel, self._seed(node)).create(keep_data=vm is not None)

    def restart(self, name: str) -> None:
        node, domain, owner = self._existing(name)
        with asking(f"restart the VM {node.domain}", hint=f"try again: {self.remedy()}"):
            job = self._job()
            if not disk_size(job.pool, disk_volume(name)):
                raise BakeError(f"the disk of {name} is missing", hint=self._replace(name))
            if not domain.isActive() and domain.hasManagedSaveImage():
                domain.create()  # a saved VM has not shut down yet, and would not start with the new definition
            # The new definition comes first: if bake is interrupted after the shutdown, any start uses it.
            accel = self._accel_for((domain, owner))
            machine = of_vm(job, node, domain, owner, accel, self._seed(node)).redefine(domain)
            lifecycle.resume(domain)
            lifecycle.stop({name: domain}, self.patience, self.report)
            start_all(job, [machine], self.accel)
            seed_drive.remove_old_seeds(job.pool, name, machine.domain)

    def shut_down(self, *names: str) -> tuple[str, ...]:
        with asking(f"stop {', '.join(names)}", hint=f"try again: {self.remedy()}"):
            found = {node.name: self._find(node.name) for node in self.plan.select(names)}
            domains = {name: vm[0] for name, vm in found.items() if vm is not None}
            return lifecycle.stop(domains, self.patience, self.report)

    def remove(self, name: str) -> tuple[str, ...]:
        with asking(f"remove the VM of {name}", hint=f"try again: {self.remedy()}"):
            found, pool = self._find(name), self._find_pool()
            removed = [lifecycle.remove_domain(found[0])] if found else []
            volumes = storage_pool.volumes_by_node(pool).get(name, []) if pool is not None else []
            for volume in volumes:
                storage_pool.remove(pool, volume)
        return (*removed, *volumes)

    def replace(self, name: str) -> None:
        (node,) = self.plan.select([name])
        self._seed(node)
        refuse_small_disk(self.plan, self._image)
        self.remove(name)
        self.create(name)

    def reimage(self, name: str) -> None:
        node, domain, _ = self._existing(name)
        self._seed(node)
        refuse_small_disk(self.plan, self._image)
        with asking(f"exchange the root disk of {name}", hint=f"try again: {self.remedy()}"):
            job = self._job()
            if not disk_size(job.pool, data_volume(name)):
                raise BakeError(f"{name} has no data disk, so its data would be lost", hint=self._replace(name))
            self._upload(job)  # before the shutdown, so that the node is off for less time
            lifecycle.resume(domain)
            lifecycle.stop({name: domain}, self.patience, self.report)
            lifecycle.forget_saved(domain)
            storage_pool.remove(job.pool, disk_volume(name))
        self.create(name)

    def _upload(self, job: Job) -> None:
        """Upload the image unless the pool has it."""
        used = {owner.image for _, owner in list_domains(self.connection, self._claim)}
        if self._image.digest not in {*used, *self._uploaded}:
            upload_image(job, self._image)
            self._uploaded.add(self._image.digest)

    @asking("remove the images that no VM uses")
    def remove_unused_images(self) -> tuple[str, ...]:
        pool, used = self._find_pool(), list_domains(self.connection, self._claim)
        names = {image_volume(kind, owner.image) for _, owner in used for kind in ("base", "kernel", "initrd")}
        return tuple(storage_pool.remove_unused_images(pool, names)) if pool is not None else ()

    def insert_seed(self, name: str, *, again: bool = False) -> bool:
        node, *vm = self._existing(name)
        with asking(f"replace the seed of the VM {node.domain}", hint=f"try again: {self.remedy()}"):
            return self._drive(node, *vm).insert(self._seed(node), again=again)

    def replace_seed(self, name: str) -> bool | None:
        (node,) = self.plan.select([name])
        with asking(f"replace the seed of the VM {node.domain}", hint=f"try again: {self.remedy()}"):
            domain, owner = self._look_up(name)
            return None if owner is None else self._drive(node, domain, owner).insert(self._seed(node), keep_empty=True)

    def remove_seed(self, name: str) -> bool:
        node, *vm = self._existing(name)
        with asking(f"empty the drive of the VM {node.domain}"):
            return self._drive(node, *vm).empty()

    def _drive(self, node: NodePlan, domain: Domain, owner: Owner) -> SeedDrive:
        pool = storage_pool.ensure_pool(self.connection, self._claim)
        return SeedDrive(
            connection=self.connection, pool=pool, node=node.name, domain=domain, owner=owner, remedy=self.remedy()
        )  # fmt: skip

    def console_logs(self, *names: str) -> dict[str, VolumeLog]:
        return {name: VolumeLog(self._find_pool, console_volume(name)) for name in names or self.machines()}

    def journals(self, *names: str) -> dict[str, VolumeLog]:
        return {name: VolumeLog(self._find_pool, journal_volume(name)) for name in names or self.machines()}

    def attach(self, name: str) -> None:
        node, domain, _ = self._existing(name)
        if not domain.isActive():
            raise BakeError(f"the VM of {name} is not running", hint=f"start the VM: {self.command('up')}")
        attach_console(self.connection.getURI(), node, self.console_logs(name)[name])

    def _replace(self, name: str) -> str:
        return f"give the node a new VM: {self.command(f'replace {name}')}"

    @cached_property
    def _claim(self) -> Claim:
        return Claim(cluster=self.plan.name, cluster_id=self.cluster_id, pool=self.pool)

    @cached_property
    def _nodes(self) -> dict[str, NodePlan]:
        return {node.name: node for node in self.plan.nodes}

    @cached_property
    def _image(self) -> BootImage:
        return self.load_image()

    def _find_pool(self) -> Pool | None:
        return storage_pool.find_pool(self.connection, self._claim)

    def _look_up(self, name: str) -> tuple[Domain | None, Owner | None]:
        """Return the VM with a node's name, and its tag if the VM belongs to this cluster."""
        domain = find_domain(self.connection, self.plan.name, name)
        owner = None if domain is None else owner_of(domain)
        return domain, owner if self._claim.covers(owner) else None

    def _find(self, name: str) -> Vm | None:
        """Return a node's VM and its tag, or None. Raise BakeError if the VM does not belong to this cluster."""
        domain = find_domain(self.connection, self.plan.name, name)
        return domain and (domain, self._claim.demand(owner_of(domain), f"the existing VM {domain.name()}"))

    def _existing(self, name: str) -> tuple[NodePlan, Domain, Owner]:
        """Return a planned node, its VM and the VM's tag. Raise BakeError if the node has no VM."""
        (node,) = self.plan.select([name])
        with asking(f"find the VM {node.domain}"):
            found = self._find(name)
        if found is None:
            raise BakeError(f"{name} has no VM", hint=f"create the VM: {self.remedy()}")
        return node, *found

    def _seed(self, node: NodePlan) -> Path:
        path = self.seeds / node.name / SEED_ISO
        if not path.is_file():
            raise BakeError(f"{path} does not exist", hint="write the seeds again: bake")
        return path

    def _job(self) -> Job:
        """Create the network and the pool if they are missing, and return what all steps of a start share."""
        owner = Owner(cluster=self.plan.name, cluster_id=self.cluster_id, version=__version__)
        network.ensure_network(self.connection, self.plan, self._claim, owner)
        pool = storage_pool.ensure_pool(self.connection, self._claim)
        return Job(connection=self.connection, plan=self.plan, claim=self._claim, pool=pool, report=self.report)

    def _accel_for(self, vm: Vm | None) -> Accel:
        """Return a VM's acceleration. If KVM failed for the VM before, the VM stays emulated."""
        return accel_of(vm[0]) if vm is not None and self.accel == "auto" else self._chosen_accel

    @cached_property
    def _chosen_accel(self) -> Accel:
        return choose_accel(self.connection, self.accel, self.report)
