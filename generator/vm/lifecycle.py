"""Show, stop and remove a cluster's existing VMs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from generator.engine import State
from generator.plan import ClusterPlan
from generator.progress import Report
from generator.vm import network, storage_pool
from generator.vm.connection import Connection, Domain, asking, libvirt, tolerating
from generator.vm.domain_xml import Accel
from generator.vm.ownership import Claim, claim_domains, find_domain, list_domains, owner_of


@dataclass(frozen=True, kw_only=True)
class VmStatus:
    """The state of a node's VM in libvirt."""

    node: str
    domain: str
    state: State
    accel: str = ""
    built: str = ""  # when bake built the image from which the disk was made (RFC 3339), or "" if unknown


@asking()
def status(connection: Connection, plan: ClusterPlan, *, cluster_id: str = "") -> tuple[VmStatus, ...]:
    """Return the state of every node's VM, in the plan's order."""
    claim = Claim(cluster=plan.name, cluster_id=cluster_id)
    found = []
    for node in plan.nodes:
        domain = find_domain(connection, node)
        state, accel, built = State.MISSING, "", ""
        if domain is not None:
            owner = owner_of(domain)
            state = state_of(domain) if claim.covers(owner) else State.FOREIGN
            built = owner.built if owner is not None and claim.covers(owner) else ""
            kind = ElementTree.fromstring(domain.XMLDesc()).get("type", "")  # noqa: S314  libvirt wrote it
            accel = {Accel.KVM: "kvm", Accel.TCG: "tcg"}.get(kind, kind)  # type: ignore[call-overload]
        found.append(VmStatus(node=node.name, domain=node.domain, state=state, accel=accel, built=built))
    return tuple(found)


def state_of(domain: Domain) -> State:
    state, reason = domain.state()
    if state == libvirt.VIR_DOMAIN_PAUSED:
        return State.PAUSED
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        failed = (libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, libvirt.VIR_DOMAIN_SHUTOFF_FAILED)
        return State.CRASHED if reason in failed else State.STOPPED
    return State.CRASHED if state == libvirt.VIR_DOMAIN_CRASHED else State.RUNNING


def down(
    connection: Connection, plan: ClusterPlan, *, cluster_id: str = "", timeout: float = 90, report: Report
) -> tuple[str, ...]:
    """Shut down the VMs, or power them off after `timeout` seconds. Return the names of the nodes that were running."""
    with asking(f"stop the cluster {plan.name}"):
        owned = claim_domains(connection, plan, Claim(cluster=plan.name, cluster_id=cluster_id))
        return stop({name: domain for name, (domain, _) in owned.items()}, timeout, report)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A libvirt object of a cluster, and the cluster id in its tag."""

    kind: str
    name: str
    cluster_id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} (cluster id {self.cluster_id or 'unknown'})"


def list_owned(connection: Connection, cluster: str, *, cluster_id: str = "") -> tuple[Owned, ...]:
    """Return the VMs, networks and volumes that `destroy` would remove."""
    claim = Claim(cluster=cluster, cluster_id=cluster_id)
    with asking(f"look for the cluster {cluster}"):
        found = [("VM", domain.name(), owner.cluster_id) for domain, owner in list_domains(connection, claim)]
        found += [("network", name, tag) for name, tag in network.list_networks(connection, claim)]
        found += [("volume", name, tag) for name, tag in storage_pool.list_volumes(connection, claim)]
    return tuple(Owned(kind=kind, name=name, cluster_id=tag) for kind, name, tag in found)


def destroy(connection: Connection, cluster: str, *, cluster_id: str = "") -> tuple[str, ...]:
    """Remove the cluster's VMs, networks and volumes. Return the names of the removed objects."""
    claim = Claim(cluster=cluster, cluster_id=cluster_id)
    with asking(f"destroy the cluster {cluster}"):
        removed = [remove_domain(domain) for domain, _ in list_domains(connection, claim)]
        removed += network.remove_networks(connection, claim)
        removed += storage_pool.remove_pool(connection, claim)
    return tuple(removed)


def used_images(connection: Connection) -> set[str]:
    """Return the digests of the images from which the VMs of all clusters were made."""
    with asking("list the VMs"):
        owners = [owner_of(domain) for domain in connection.listAllDomains()]
    return {owner.image for owner in owners if owner is not None and owner.image}


def remove_domain(domain: Domain) -> str:
    name = str(domain.name())
    _power_off(domain)
    flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    with tolerating("VIR_ERR_NO_DOMAIN"):
        if ElementTree.fromstring(domain.XMLDesc()).find("os/nvram") is not None:  # noqa: S314  libvirt wrote it
            flags |= libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        domain.undefineFlags(flags)
    return name
