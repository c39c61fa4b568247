"""Whose is it? Nothing here is changed or removed that does not carry this cluster's tag."""

from __future__ import annotations

from dataclasses import dataclass

from generator.errors import BakeError
from generator.plan import ClusterPlan, NodePlan
from generator.vm.connection import Connection, Domain, libvirt, tolerating
from generator.vm.domain_xml import Owner, read_owner


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A cluster by its name, and by the id that tells it from another of that name; an empty id means any."""

    cluster: str
    cluster_id: str = ""

    def covers(self, owner: Owner | None) -> bool:
        return (
            owner is not None
            and owner.cluster == self.cluster
            and (not self.cluster_id or owner.cluster_id == self.cluster_id)
        )

    def demand(self, owner: Owner | None, what: str) -> Owner:
        """The owner, if it is this cluster; otherwise the refusal to touch `what`."""
        if owner is None or owner.cluster != self.cluster:
            whose = f"cluster {owner.cluster}" if owner else "somebody else"
            raise BakeError(
                f"{what} belongs to {whose}", hint="give this cluster another --name, or rename what is there"
            )
        if not self.covers(owner):
            raise BakeError(
                f"{what} belongs to another cluster named {self.cluster}, with another CA",
                hint="give this cluster another --name, or run `bake destroy` where that one was made",
            )
        return owner


def owner_of(domain: Domain) -> Owner | None:
    return read_owner(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def find_domain(connection: Connection, node: NodePlan) -> Domain | None:
    """Whatever has the node's name or UUID."""
    with tolerating("VIR_ERR_NO_DOMAIN"):
        return connection.lookupByName(node.domain)
    with tolerating("VIR_ERR_NO_DOMAIN"):
        return connection.lookupByUUIDString(str(node.uuid))
    return None


def claim_domains(connection: Connection, plan: ClusterPlan, claim: Claim) -> dict[str, tuple[Domain, Owner]]:
    """The VMs of the plan that are there already. Refuses when one of them is not ours."""
    found: dict[str, tuple[Domain, Owner]] = {}
    for node in plan.nodes:
        domain = find_domain(connection, node)
        if domain is not None:
            owner = claim.demand(owner_of(domain), f"the VM {domain.name()} that is there already")
            found[node.name] = domain, owner
    return found


def list_domains(connection: Connection, claim: Claim) -> list[tuple[Domain, Owner]]:
    """Every VM of the cluster, also those that no plan knows any more."""
    tagged = ((domain, owner_of(domain)) for domain in connection.listAllDomains())
    return [(domain, owner) for domain, owner in tagged if owner is not None and claim.covers(owner)]
