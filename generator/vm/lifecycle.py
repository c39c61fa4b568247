"""Stop and remove VMs, and everything that belongs to a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from generator.engine import Owned, State
from generator.progress import Report
from generator.vm import network, storage_pool
from generator.vm.connection import Connection, Domain, asking, libvirt, tolerating
from generator.vm.ownership import Claim, list_domains, owner_of


def state_of(domain: Domain) -> State:
    state, reason = domain.state()
    if state == libvirt.VIR_DOMAIN_PAUSED:
        return State.PAUSED
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        failed = (libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, libvirt.VIR_DOMAIN_SHUTOFF_FAILED)
        return State.CRASHED if reason in failed else State.STOPPED
    return State.CRASHED if state == libvirt.VIR_DOMAIN_CRASHED else State.RUNNING


def resume(domain: Domain) -> None:
    """Resume a paused VM, because only a running VM can shut down."""
    if state_of(domain) is State.PAUSED:
        domain.resume()


def stop(domains: Mapping[str, Domain], timeout: float, report: Report) -> tuple[str, ...]:
    """Shut down the VMs, and power off VMs that do not stop in time. Return the nodes that were running."""
    running = {name: domain for name, domain in domains.items() if domain.isActive()}
    for domain in running.values():
        with tolerating("VIR_ERR_OPERATION_INVALID"):  # the VM may have stopped since isActive() returned True
            domain.shutdown()
    for name in _wait_ended(running, timeout):
        report(f"{name}: did not shut down within {timeout:.0f} s; powering it off")
        _power_off(running[name])
    return tuple(running)


def forget_saved(domain: Domain) -> None:
    """Remove a VM's saved memory, which does not fit to other disks."""
    if domain.hasManagedSaveImage():
        domain.managedSaveRemove()


def _wait_ended(running: dict[str, Domain], timeout: float) -> list[str]:
    """Wait until the VMs have stopped. Return the names of VMs that still run after `timeout` seconds."""
    end = time.monotonic() + timeout
    left = list(running)
    while (left := [name for name in left if running[name].isActive()]) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def _power_off(domain: Domain) -> None:
    with tolerating("VIR_ERR_OPERATION_INVALID", "VIR_ERR_NO_DOMAIN"):
        domain.destroy()


def remove_domain(domain: Domain) -> str:
    name = str(domain.name())
    _power_off(domain)
    flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    with tolerating("VIR_ERR_NO_DOMAIN"):
        if ElementTree.fromstring(domain.XMLDesc()).find("os/nvram") is not None:  # noqa: S314  libvirt wrote it
            flags |= libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        domain.undefineFlags(flags)
    return name


@dataclass(frozen=True, kw_only=True)
class LibvirtHosts:
    """Implements `generator.engine.Hosts` for the host of a libvirt connection."""

    connection: Connection

    def owned(self, cluster: str, *, cluster_id: str = "") -> tuple[Owned, ...]:
        claim = Claim(cluster=cluster, cluster_id=cluster_id)
        with asking(f"look for the cluster {cluster}"):
            found = [("VM", domain.name(), owner.cluster_id) for domain, owner in list_domains(self.connection, claim)]
            found += [("network", name, tag) for name, tag in network.list_networks(self.connection, claim)]
            found += [("volume", name, tag) for name, tag in storage_pool.list_volumes(self.connection, claim)]
        return tuple(Owned(kind=kind, name=name, cluster_id=tag) for kind, name, tag in found)

    def destroy(self, cluster: str, *, cluster_id: str = "") -> tuple[str, ...]:
        claim = Claim(cluster=cluster, cluster_id=cluster_id)
        with asking(f"destroy the cluster {cluster}"):
            removed = [remove_domain(domain) for domain, _ in list_domains(self.connection, claim)]
            removed += network.remove_networks(self.connection, claim)
            removed += storage_pool.remove_pool(self.connection, claim)
        return tuple(removed)

    @asking("list the VMs")
    def used_images(self) -> set[str]:
        owners = [owner_of(domain) for domain in self.connection.listAllDomains()]
        return {owner.image for owner in owners if owner is not None and owner.image}
