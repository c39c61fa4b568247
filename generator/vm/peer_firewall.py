"""Find the nodes that a running node's firewall refuses at the peer port.

When a node boots, its firewall gets the addresses of all nodes in the plan. The firewall refuses every node that was
added to the plan after the boot.
"""

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
    """The stopped nodes (`joining`) that the firewalls of running nodes (`by`) refuse."""

    joining: tuple[NodePlan, ...]
    by: tuple[NodePlan, ...]


def allowed_peers(plan: ClusterPlan) -> str:
    """Return the addresses that a node accepts at its peer port, or `any` if the nodes have no firewall."""
    if plan.spec.firewall.kind is FirewallKind.NONE:
        return _ANY
    return " ".join(str(node.address) for node in plan.nodes)


@asking()
def find_refusal(connection: Connection, plan: ClusterPlan, *, cluster_id: str) -> Refusal | None:
    """Find the stopped nodes that a running node's firewall refuses. Return None if the firewalls accept all nodes."""
    domains = claim_domains(connection, plan, Claim(cluster=plan.name, cluster_id=cluster_id))
    with_vm = " ".join(str(node.address) for node in plan.nodes if node.name in domains)
    # Earlier versions of bake stored no peer addresses in the VM's metadata. If the addresses are missing, assume
    # that the firewall accepts every node that has a VM.
    unknown = _ANY if allowed_peers(plan) == _ANY else with_vm
    allowed = {name: _started_with(domain) or unknown for name, (domain, _) in domains.items() if domain.isActive()}
    refusing = {name: set(peers.split()) for name, peers in allowed.items() if peers != _ANY}
    stopped = [node for node in plan.nodes if node.name not in allowed]
    joining = [node for node in stopped if any(str(node.address) not in peers for peers in refusing.values())]
    addresses = {str(node.address) for node in joining}
    by = [node for node in plan.nodes if not addresses <= refusing.get(node.name, addresses)]
    return Refusal(joining=tuple(joining), by=tuple(by)) if joining else None


def _started_with(domain: Domain) -> str:
    """Return the peer addresses in the VM's live definition, which does not change while the VM runs."""
    owner = read_owner(domain.XMLDesc())
    return owner.peers if owner is not None else ""
