"""Boot a baked cluster: define and start its VMs. A second run only creates missing VMs and starts stopped VMs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from generator import __version__
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report
from generator.vm import network, seed_drive, storage_pool
from generator.vm.acceleration import choose_accel, find_crashed, is_kvm_error
from generator.vm.connection import Connection, Domain, asking, is_local, libvirt, message_of
from generator.vm.definition import Definer, Job, Machine, accel_of, image_volume, of_image, of_vm
from generator.vm.domain_xml import Accel, Owner, domain_xml
from generator.vm.existing_network import warn_of_dhcp
from generator.vm.ownership import Claim, claim_domains, list_domains
from generator.vm.storage_pool import disk_volume, renamed_console_volume


def boot(
    connection: Connection,
    plan: ClusterPlan,
    image: BootImage,
    seeds: Mapping[str, Path | bytes],
    *,
    cluster_id: str,
    accel: str = "auto",
    report: Report,
    uploaded: Collection[str] = (),
) -> tuple[str, ...]:
    """Define missing VMs and start stopped VMs, for the nodes in `seeds`. Return the names of the started nodes.

    `uploaded`: digests of images that are already in the pool, although no VM uses them yet.
    """
    claim = Claim(cluster=plan.name, cluster_id=cluster_id)
    existing = claim_domains(connection, plan, claim)
    storage_pool.find_pool(connection, claim)
    network.check_network(connection, plan, claim)
    warn_of_dhcp(connection, plan, report)
    refuse_small_disk(plan, image)
    refuse_used_addresses(connection, plan, (node for node in plan.nodes if node.name in seeds), existing)
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
        machines = _define_all(
            job, image, seeds, existing, kind, keep_kind=accel == "auto", uploaded=uploaded
        )  # fmt: skip
        started = start_all(job, machines, accel)
        for machine in machines:
            seed_drive.remove_old_seeds(job.pool, machine.node.name, machine.domain)
    return tuple(machine.node.name for machine in started)


def refuse_small_disk(plan: ClusterPlan, image: BootImage) -> None:
    if image.virtual_size > plan.spec.vm.disk << 30:
        size = f"{image.virtual_size / (1 << 30):.1f} GiB"
        raise BakeError(
            f"the image is {size}, but the VMs' disks are {plan.spec.vm.disk} GiB",
            hint="set vm.disk to at least the image's size",
        )


def refuse_used_addresses(
    connection: Connection,
    plan: ClusterPlan,
    nodes: Iterable[NodePlan],
    existing: Mapping[str, tuple[Domain, Owner]],
) -> None:
    """Raise BakeError if another host has the address of a node whose VM does not run.

    On another machine, a network that bake created has no other hosts, and does not answer from here.
    """
    running = {name for name, (domain, _) in existing.items() if domain.isActive()}
    if is_local(connection) or not plan.network.mode.is_own:
        network.refuse_used_addresses(node.address for node in nodes if node.name not in running)


# --- definitions --------------------------------------------------------------------------------------------


def _define_all(
    job: Job,
    image: BootImage,
    seeds: Mapping[str, Path | bytes],
    existing: Mapping[str, tuple[Domain, Owner]],
    kind: Accel,
    *,
    keep_kind: bool,
    uploaded: Collection[str],
) -> list[Machine]:
    nodes = [node for node in job.plan.nodes if node.name in seeds]
    without_disk = {node.name for node in nodes if storage_pool.find_volume(job.pool, disk_volume(node.name)) is None}
    # VMs of nodes that are no longer in the plan may use the image too. An upload would replace it.
    known = {owner.image for _, owner in list_domains(job.connection, job.claim)}
    if image.digest not in {*known, *uploaded} and any(
        node.name in without_disk or node.name not in existing for node in nodes
    ):
        upload_image(job, image)
    machines = []
    for node in nodes:
        domain, owner = existing.get(node.name, (None, None))
        # If KVM failed for this VM before, the VM is already emulated and stays emulated.
        accel = accel_of(domain) if domain is not None and keep_kind else kind
        if domain is not None and node.name in without_disk:
            job.report(f"{node.name}: the disk is missing; creating a new disk and inserting the seed again")
        seed = seeds[node.name]
        if domain is None or owner is None or node.name in without_disk:
            machines.append(of_image(job, node, image, accel, seed).create(keep_data=domain is not None))
        else:
            machines.append(_definer(job, node, image, domain, owner, accel, seed).update(domain, owner))
    return machines


def _definer(
    job: Job, node: NodePlan, image: BootImage, domain: Domain, owner: Owner, accel: Accel, seed: Path | bytes
) -> Definer:
    if owner.image == image.digest:
        return of_image(job, node, image, accel, seed, old=(domain, owner))
    job.report(f"{node.name}: keeps its disk, which was made from another image")
    return of_vm(job, node, domain, owner, accel, seed)


def upload_image(job: Job, image: BootImage) -> None:
    for kind, path in (("base", image.disk), ("kernel", image.kernel), ("initrd", image.initrd)):
        if path is not None:
            job.report(f"uploading the image's {kind} ({path.stat().st_blocks >> 11} MiB)")
            storage_pool.put(job.pool, image_volume(kind, image.digest), path)


# --- starting -----------------------------------------------------------------------------------------------


def start_all(job: Job, machines: list[Machine], wish: str) -> list[Machine]:
    """Start every stopped VM, and return the started VMs. With `--accel auto`, emulate a VM that fails under KVM."""
    started = [machine for machine in machines if _start(job, machine, wish)]
    watched = [machine for machine in started if accel_of(machine.domain) is Accel.KVM and wish == "auto"]
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
