"""Check which cluster owns a libvirt object. bake changes or removes only objects with this cluster's tag."""

from __future__ import annotations

from dataclasses import dataclass

from generator.errors import BakeError
from generator.plan import domain_name, domain_uuid
from generator.vm.connection import Connection, Domain, libvirt, tolerating
from generator.vm.domain_xml import Owner, read_owner


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A cluster's name and id. The id distinguishes clusters with the same name. An empty id matches every id.

    `pool`: the folder in which a new storage pool is made, or "" for libvirt's folder.
    """

    cluster: str
    cluster_id: str = ""
    pool: str = ""

    def covers(self, owner: Owner | None) -> bool:
        """Return whether a tag belongs to this cluster."""
        return (
            owner is not None
            and owner.cluster == self.cluster
            and (not self.cluster_id or owner.cluster_id == self.cluster_id)
        )

    def demand(self, owner: Owner | None, what: str) -> Owner:
        """Return the tag `owner` if it names this cluster, else raise BakeError. `what`: the object's name."""
        if owner is None or owner.cluster != self.cluster:
            rule = f"belongs to the cluster {owner.cluster}" if owner else "was not made by bake"
            hint = "give this cluster another --name, or rename the existing VM or network"
            raise BakeError(f"{what} {rule}", hint=hint)
        if not self.covers(owner):
            raise BakeError(
                f"{what} belongs to another cluster named {self.cluster}, with the id {owner.cluster_id}",
                hint="give this cluster another --name. If the other cluster is no longer needed, remove it with "
                f"`bake destroy --name {self.cluster} --out FOLDER`; FOLDER is the other cluster's output folder",
            )
        return owner


def owner_of(domain: Domain) -> Owner | None:
    """Return a VM's tag, or None if the VM has no tag."""
    return read_owner(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def find_domain(connection: Connection, cluster: str, node: str) -> Domain | None:
    """Return the VM with the node's name or UUID, or None. Another cluster may own the VM."""
    with tolerating("VIR_ERR_NO_DOMAIN"):
        return connection.lookupByName(domain_name(cluster, node))
    with tolerating("VIR_ERR_NO_DOMAIN"):
        return connection.lookupByUUIDString(str(domain_uuid(cluster, node)))
    return None


def list_domains(connection: Connection, claim: Claim) -> list[tuple[Domain, Owner]]:
    """Return all VMs of the cluster, including the VMs of nodes that are no longer in the plan."""
    tagged = ((domain, owner_of(domain)) for domain in connection.listAllDomains())
    return [(domain, owner) for domain, owner in tagged if owner is not None and claim.covers(owner)]
