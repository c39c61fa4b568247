"""`LibvirtEngine`: change the VMs of a running cluster one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from generator.engine import MachineStatus, State
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.layout import SEED_ISO
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report
from generator.vm import lifecycle, network, seed_drive, storage_pool
from generator.vm.acceleration import choose_accel
from generator.vm.boot import boot, refuse_small_disk, refuse_used_addresses, start_all, upload_image
from generator.vm.connection import Connection, Domain, Pool, asking
from generator.vm.console import ConsoleLog
from generator.vm.definition import (
    Definer,
    Job,
    accel_of,
    find_outdated,
    find_rebuilds,
    has_data_disk,
    image_volume,
    of_vm,
)
from generator.vm.domain_xml import Owner
from generator.vm.ownership import Claim, find_by_name, list_domains, owner_of
from generator.vm.storage_pool import data_volume, disk_volume


@dataclass(kw_only=True)
class LibvirtEngine:
    """Implements `generator.engine.Engine` for the VMs of a cluster under libvirt.

    `seeds`: the cluster's folder, which has a folder with the file `seed.iso` for each node. `load_image`: returns the
    image for new disks; the engine calls it only if it makes a disk. `accel`: `auto`, `kvm` or `tcg`. `patience`: the
    seconds within which a VM must shut down before the engine powers it off. `remedy`: the command that completes an
    interrupted change.
    """

    connection: Connection
    plan: ClusterPlan
    cluster_id: str
    seeds: Path
    load_image: Callable[[], BootImage]
    report: Report
    accel: str = "auto"
    patience: float = 90
    remedy: str = "bake apply"
    _uploaded: set[str] = field(default_factory=set, init=False)

    @asking("list the cluster's VMs")
    def machines(self) -> dict[str, MachineStatus]:
        pool = self._find_pool()
        left = storage_pool.volumes_by_node(pool) if pool is not None else {}
        tagged = [owner.node for _, owner in list_domains(self.connection, self._claim) if owner.node]
        names = dict.fromkeys([*self._nodes, *sorted({*tagged, *left})])
        found = [self._observe(name, pool) for name in names]
        return {one.node: one for one in found if one.planned or one.node in left or one.state is not State.MISSING}

    def _observe(self, name: str, pool: Pool | None) -> MachineStatus:
        node, domain = self._nodes.get(name), find_by_name(self.connection, self.plan.name, name)
        owner = None if domain is None else owner_of(domain)
        is_ours = owner is not None and self._claim.covers(owner)
        size, data_size = _size(pool, disk_volume(name)), _size(pool, data_volume(name))
        if domain is None or owner is None or not is_ours:
            state = State.MISSING if domain is None else State.FOREIGN
            return MachineStatus(
                node=name, state=state, planned=node is not None, disk_size=size, data_size=data_size
            )  # fmt: skip
        return MachineStatus(
            node=name,
            state=lifecycle.state_of(domain),
            planned=node is not None,
            disk_size=size,
            data_size=data_size,
            lost_data=not data_size and has_data_disk(domain),
            outdated=() if node is None else find_outdated(domain, self.plan, node),
            rebuild=() if node is None else find_rebuilds(owner, self.plan, data_size=data_size),
            image=owner.image,
            built=owner.built,
            seed=owner.seed,
            has_seed=not seed_drive.is_empty(domain),
        )

    def create(self, *names: str) -> tuple[str, ...]:
        nodes = self._planned(names)
        with asking(f"start {', '.join(names)}", hint=f"try again: {self.remedy}"):
            found, pool = {node.name: self._find(node.name) for node in nodes}, self._find_pool()
            stopped, missing = [], []
            for node in nodes:
                vm, has_disk = found[node.name], _size(pool, disk_volume(node.name)) > 0
                if vm is None or (not has_disk and not vm[0].isActive()):
                    missing.append(node)
                elif lifecycle.state_of(vm[0]) is not State.RUNNING:
                    stopped.append((node, *vm))
            started = {*self._start(stopped), *self._boot(missing)}
        return tuple(node.name for node in nodes if node.name in started)

    def _start(self, stopped: list[tuple[NodePlan, Domain, Owner]]) -> Iterable[str]:
        """Start VMs that have a disk. They need no image."""
        if not stopped:
            return []
        nodes = [node for node, domain, _ in stopped if not domain.isActive()]
        refuse_used_addresses(self.connection, self.plan, nodes, {})
        job = self._job()
        machines = [self._definer(job, *one).update(*one[1:]) for one in stopped]
        started = start_all(job, machines, self.accel)
        for machine in machines:
            seed_drive.remove_old_seeds(job.pool, machine.node.name, machine.domain)
        return [machine.node.name for machine in started]

    def _boot(self, missing: list[NodePlan]) -> Iterable[str]:
        """Create VMs whose VM or disk is missing."""
        if not missing:
            return []
        seeds = {node.name: self._seed(node) for node in missing}
        return boot(
            self.connection, self.plan, self._image, seeds, cluster_id=self.cluster_id, accel=self.accel,
            report=self.report, uploaded=self._uploaded,
        )  # fmt: skip

    def restart(self, name: str) -> None:
        node, domain, owner = self._existing(name)
        with asking(f"restart the VM {node.domain}", hint=f"try again: {self.remedy}"):
            job = self._job()
            if not _size(job.pool, disk_volume(name)):
                raise BakeError(f"the disk of {name} is missing", hint=f"give the node a new disk: bake replace {name}")
            if not domain.isActive() and domain.hasManagedSaveImage():
                domain.create()  # a saved VM has not shut down yet, and would not start with the new definition
            # The new definition comes first: if bake is interrupted after the shutdown, any start uses it.
            machine = self._definer(job, node, domain, owner).redefine(domain)
            if lifecycle.state_of(domain) is State.PAUSED:
                domain.resume()
            lifecycle.stop({name: domain}, self.patience, self.report)
            start_all(job, [machine], self.accel)
            seed_drive.remove_old_seeds(job.pool, name, machine.domain)

    def remove(self, name: str) -> tuple[str, ...]:
        with asking(f"remove the VM of {name}", hint=f"try again: {self.remedy}"):
            found, pool = self._find(name), self._find_pool()
            removed = [lifecycle.remove_domain(found[0])] if found else []
            volumes = storage_pool.volumes_by_node(pool).get(name, []) if pool is not None else []
            for volume in volumes:
                storage_pool.remove(pool, volume)
        return (*removed, *volumes)

    def replace(self, name: str) -> None:
        (node,) = self._planned([name])
        self._seed(node)
        refuse_small_disk(self.plan, self._image)
        self.remove(name)
        self.create(name)

    def reimage(self, name: str) -> None:
        node, domain, _ = self._existing(name)
        self._seed(node)
        refuse_small_disk(self.plan, self._image)
        with asking(f"exchange the root disk of {name}", hint=f"try again: {self.remedy}"):
            job = self._job()
            if not _size(job.pool, data_volume(name)):
                hint = f"give the node a new VM: bake replace {name}"
                raise BakeError(f"{name} has no data disk, so its data would be lost", hint=hint)
            self._upload(job)  # before the shutdown, so that the node is off for less time
            if lifecycle.state_of(domain) is State.PAUSED:
                domain.resume()
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
        node, _, _ = self._existing(name)
        return bool(
            seed_drive.insert_seed(
                self.connection, self.plan, node, self._seed(node), cluster_id=self.cluster_id, again=again,
                remedy=self.remedy,
            )
        )  # fmt: skip

    def remove_seed(self, name: str) -> bool:
        node, _, _ = self._existing(name)
        return bool(seed_drive.remove_seed(self.connection, self.plan, node, cluster_id=self.cluster_id))

    @asking("find the console logs")
    def console_logs(self, *names: str) -> dict[str, ConsoleLog]:
        pool = self._find_pool()
        if pool is None:
            raise BakeError(f"the cluster {self.plan.name} has no VMs here", hint="create the VMs: bake up")
        return {name: ConsoleLog(pool, name) for name in names or self.machines()}

    # --- what the methods share -----------------------------------------------------------------------------

    @cached_property
    def _claim(self) -> Claim:
        return Claim(cluster=self.plan.name, cluster_id=self.cluster_id)

    @cached_property
    def _nodes(self) -> dict[str, NodePlan]:
        return {node.name: node for node in self.plan.nodes}

    @cached_property
    def _image(self) -> BootImage:
        return self.load_image()

    def _find_pool(self) -> Pool | None:
        return storage_pool.find_pool(self.connection, self._claim)

    def _planned(self, names: Iterable[str]) -> list[NodePlan]:
        """Return the nodes in the plan's order. Raise BakeError for a name that is not in the plan."""
        wanted = set(names)
        if unknown := sorted(wanted - set(self._nodes)):
            raise BakeError(
                f"{', '.join(unknown)}: not a node of the cluster {self.plan.name}",
                hint=f"the nodes are {', '.join(self._nodes)}",
            )
        return [node for node in self.plan.nodes if node.name in wanted]

    def _find(self, name: str) -> tuple[Domain, Owner] | None:
        """Return a node's VM and its tag, or None. Raise BakeError if the VM does not belong to this cluster."""
        domain = find_by_name(self.connection, self.plan.name, name)
        if domain is None:
            return None
        return domain, self._claim.demand(owner_of(domain), f"the existing VM {domain.name()}")

    def _existing(self, name: str) -> tuple[NodePlan, Domain, Owner]:
        """Return a planned node, its VM and the VM's tag. Raise BakeError if the node has no VM."""
        (node,) = self._planned([name])
        with asking(f"find the VM {node.domain}"):
            found = self._find(name)
        if found is None:
            raise BakeError(f"{name} has no VM", hint=f"create the VM: {self.remedy}")
        return node, *found

    def _seed(self, node: NodePlan) -> Path:
        path = self.seeds / node.name / SEED_ISO
        if not path.is_file():
            raise BakeError(f"{path} does not exist", hint="write the seeds again: bake")
        return path

    def _job(self) -> Job:
        """Create the network and the pool if they are missing, and return what all steps of a start share."""
        pool = storage_pool.ensure_pool(self.connection, self._claim)
        job = Job(connection=self.connection, plan=self.plan, claim=self._claim, pool=pool, report=self.report)
        network.ensure_network(self.connection, self.plan, self._claim, job.owner())
        return job

    def _definer(self, job: Job, node: NodePlan, domain: Domain, owner: Owner) -> Definer:
        # If KVM failed for this VM before, the VM is already emulated and stays emulated.
        auto = self.accel == "auto"
        accel = accel_of(domain) if auto else choose_accel(self.connection, self.accel, self.report)
        return of_vm(job, node, domain, owner, accel, self._seed(node))


def _size(pool: Pool | None, name: str) -> int:
    """Return the size of a disk in bytes, or 0 if the disk is missing."""
    volume = None if pool is None else storage_pool.find_volume(pool, name)
    return 0 if volume is None else int(volume.info()[1])
