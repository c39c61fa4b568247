"""Which nodes the peer firewall of running nodes refuses: it has the addresses of the plan they were booted with."""

from __future__ import annotations

from dataclasses import dataclass

from generator.config.spec import FirewallKind
from generator.plan import ClusterPlan, NodePlan
from generator.vm.connection import Connection, Domain, asking
from generator.vm.domain_xml import read_owner
from generator.vm.ownership import Claim, claim_domains

_ANY = "any"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """`joining`: nodes that do not run, and that a running node's firewall refuses. `by`: the nodes that refuse any."""

    joining: tuple[NodePlan, ...]
    by: tuple[NodePlan, ...]


def allowed_peers(plan: ClusterPlan) -> str:
    """The addresses that a node of this plan lets in at its peer port, or `any`."""
    if plan.spec.firewall.kind is FirewallKind.NONE:
        return _ANY
    return " ".join(str(node.address) for node in plan.nodes)


@asking()
def find_refusal(connection: Connection, plan: ClusterPlan, *, cluster_id: str) -> Refusal | None:
    """Compare the plan with what its running VMs were started with. None where every node may join."""
    domains = claim_domains(connection, plan, Claim(cluster=plan.name, cluster_id=cluster_id))
    with_vm = " ".join(str(node.address) for node in plan.nodes if node.name in domains)
    # A VM that an earlier version of bake started does not say it: its plan had the nodes that have a VM.
    unknown = _ANY if allowed_peers(plan) == _ANY else with_vm
    allowed = {name: _started_with(domain) or unknown for name, (domain, _) in domains.items() if domain.isActive()}
    refusing = {name: set(peers.split()) for name, peers in allowed.items() if peers != _ANY}
    stopped = [node for node in plan.nodes if node.name not in allowed]
    joining = [node for node in stopped if any(str(node.address) not in peers for peers in refusing.values())]
    addresses = {str(node.address) for node in joining}
    by = [node for node in plan.nodes if not addresses <= refusing.get(node.name, addresses)]
    return Refusal(joining=tuple(joining), by=tuple(by)) if joining else None


def _started_with(domain: Domain) -> str:
    """The live definition has the tag of the VM's start."""
    owner = read_owner(domain.XMLDesc())
    return owner.peers if owner is not None else ""
