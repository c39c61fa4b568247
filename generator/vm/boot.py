"""Upload the image of VMs and start the VMs, under emulation if KVM does not work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from generator.errors import BakeError
from generator.image.base import BootImage
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report
from generator.vm import network, storage_pool
from generator.vm.acceleration import find_crashed, has_stopped, is_kvm_error
from generator.vm.connection import Connection, asking, is_local, libvirt, message_of, tolerating
from generator.vm.console import VolumeLog
from generator.vm.definition import Job, Machine, accel_of, image_volume
from generator.vm.domain_xml import Accel, domain_xml
from generator.vm.storage_pool import console_volume, renamed_volume


def refuse_small_disk(plan: ClusterPlan, image: BootImage) -> None:
    if image.virtual_size > plan.spec.vm.disk << 30:
        size = f"{image.virtual_size / (1 << 30):.1f} GiB"
        raise BakeError(
            f"the image is {size}, but the VMs' disks are {plan.spec.vm.disk} GiB",
            hint="set vm.disk to at least the image's size",
        )


def refuse_full_host(connection: Connection, plan: ClusterPlan, nodes: Sequence[NodePlan], report: Report) -> None:
    """Raise BakeError if the host has less memory than the VMs need, and warn if less memory is free now."""
    needed, total = plan.spec.vm.memory * len(nodes), int(connection.getInfo()[1])  # MiB
    names = ", ".join(node.name for node in nodes)
    if needed > total:
        text = f"the VMs of {names} need {needed} MiB of memory, but {connection.getHostname()} has {total} MiB"
        raise BakeError(text, hint="set vm.memory to less, or use another host")
    with tolerating("VIR_ERR_NO_SUPPORT"):
        stats = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
        free = sum(int(stats.get(part, 0)) for part in ("free", "buffers", "cached")) >> 10
        if needed > free:
            where = connection.getHostname()
            report(f"warning: the VMs of {names} need {needed} MiB of memory, but only {free} MiB are free on {where}")


def refuse_used_addresses(connection: Connection, plan: ClusterPlan, nodes: Iterable[NodePlan]) -> None:
    """Raise BakeError if another host has the address of a node. `nodes`: the nodes whose VMs do not run.

    On another machine, a network that bake created has no other hosts, and does not answer from here.
    """
    if is_local(connection) or not plan.network.mode.is_own:
        network.refuse_used_addresses(node.address for node in nodes)


def upload_image(job: Job, image: BootImage) -> None:
    for kind, path in (("base", image.disk), ("kernel", image.kernel), ("initrd", image.initrd)):
        if path is not None:
            job.report(f"uploading the image's {kind} ({path.stat().st_blocks >> 11} MiB)")
            storage_pool.put(job.pool, image_volume(kind, image.digest), path)


def start_all(job: Job, machines: list[Machine], wish: str) -> list[Machine]:
    """Start every stopped VM, and return the started VMs. With `--accel auto`, emulate a VM that fails under KVM."""
    saved = [machine for machine in machines if machine.domain.hasManagedSaveImage()]
    started = [machine for machine in machines if _start(job, machine, wish)]
    new = [machine for machine in started if machine not in saved]  # a saved VM has run under KVM before
    watched = [machine for machine in new if accel_of(machine.domain) is Accel.KVM and wish == "auto"]
    logs = {one.domain: VolumeLog(lambda: job.pool, console_volume(one.node.name)) for one in watched}
    crashed = find_crashed(logs, lambda domain: bool(logs[domain].read()), job.report)
    for machine in watched:
        if machine.domain in crashed:
            _emulate(job, machine, "crashed under KVM")
    return started


def _start(job: Job, machine: Machine, wish: str) -> bool:
    """Start a VM if it is stopped. Return whether the VM was stopped.

    With `--accel auto`, emulate a VM that KVM cannot start or resume.
    """
    domain = machine.domain
    if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
        try:
            domain.resume()
        except libvirt.libvirtError as error:
            if accel_of(domain) is not Accel.KVM or wish != "auto" or not has_stopped(error):
                raise
            _emulate(job, machine, "stopped under KVM")
            return True
    if domain.isActive():
        return False
    # Remove the rotated console log of the VM's previous run. Without virtlogd, libvirt does not remove rotated logs.
    storage_pool.remove(job.pool, renamed_volume(console_volume(machine.node.name)))
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
