"""`bake audit`: evaluate the CIS controls on every node's report and on probes of its ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from generator.etcd import answers, observe
from generator.etcd.answers import Port
from generator.etcd.node_report import fetch_reports, find_report
from generator.etcd.tls_hello import VERSIONS, accepts_version
from generator.etcd.tls_probe import ClientFiles
from generator.health.cis_controls import Audited, audit_nodes
from generator.health.node_checks import NodeFacts, Outcome, Planned
from generator.layout import pem_path
from generator.operations import verify
from generator.pki import Role, describe, digests, issuer_of, peer_check
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report
from generator.store.existing_keys import required_pems
from generator.store.folder import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The outcomes of all controls."""

    cluster: str
    controls: tuple[Audited, ...]

    @property
    def missed(self) -> tuple[Audited, ...]:
        return tuple(one for one in self.controls if one.result is not Outcome.PASSED)


def audit(
    plan: ClusterPlan, files: ClientFiles, planned: Mapping[str, Planned], *, now: datetime, report: Report
) -> Audit:
    """Audit a running cluster through every node."""
    contexts = verify.probe_contexts(plan, files, now=now)
    report(f"probing {', '.join(node.name for node in plan.nodes)}")
    views = observe.everywhere(lambda node: observe.view_node(plan, node, files, contexts), plan.nodes)
    alive = [view.node for view in views if view.health.error is None]
    reports = fetch_reports(alive, files)

    def facts_of(view: answers.NodeView) -> NodeFacts:
        said, no_report = find_report(view.node.name, reports, now=now)
        return NodeFacts(
            node=view.node, planned=planned[view.node.name], report=said, no_report=no_report, probes=view.probes,
            versions=dict(_versions(plan, view.node)),
        )  # fmt: skip

    return Audit(cluster=plan.name, controls=audit_nodes(observe.everywhere(facts_of, views)))


def _versions(plan: ClusterPlan, node: NodePlan) -> Iterator[tuple[Port, dict[str, bool | None]]]:
    for port, number in ((Port.CLIENT, plan.spec.etcd.client_port), (Port.PEER, plan.spec.etcd.peer_port)):
        yield port, {version: accepts_version(str(node.address), number, version) for version in VERSIONS}


def planned_facts(store: Store, plan: ClusterPlan) -> dict[str, Planned]:
    """Return the planned facts of each node from the cluster's folder. Raise InputError for a missing seed."""
    authorities, peer_authorities = (
        frozenset(digests(store.read(pem_path(issuer_of(plan.spec.pki, role))) or b""))
        for role in (Role.SERVER, Role.PEER)
    )
    options = plan.spec.etcd.options.items()
    stated = next(((name, str(value)) for name, value in options if name.startswith("peer-cert-allowed-")), None)
    found = {}
    for node in plan.nodes:
        pems = required_pems(store, node.name)
        server, peer = (describe(pems[role][0]).sha256 for role in (Role.SERVER, Role.PEER))
        found[node.name] = Planned(
            server=server, peer=peer, authorities=authorities, peer_authorities=peer_authorities,
            tls_min_version=plan.spec.etcd.tls_min_version, peer_check=stated or peer_check(plan.spec),
        )  # fmt: skip
    return found


def audit_data(found: Audit) -> dict[str, Any]:
    """Return the outcomes for `-o json`."""
    return {"cluster": found.cluster, "passed": not found.missed, "controls": [asdict(one) for one in found.controls]}


def audit_rows(found: Iterable[Audited]) -> list[dict[str, str]]:
    """Return the outcomes as rows of a table."""
    return [
        {"id": one.id, "title": one.title, "result": str(one.result), "evidence": one.evidence, "remedy": one.remedy}
        for one in found
    ]
