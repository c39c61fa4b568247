"""Check the CIS controls for `bake audit`, from the nodes' reports and from probes of the nodes' ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from generator.etcd import answers, observe
from generator.etcd.answers import Port
from generator.etcd.client_hello import VERSIONS
from generator.etcd.node_report import fetch_reports, find_report
from generator.etcd.tls_hello import accepts_version
from generator.etcd.tls_probe import ClientFiles
from generator.health.check import Check, Command, Result, bake_command
from generator.health.cis_controls import CONTROLS, NODES, audit_nodes
from generator.health.node_checks import NodeFacts, Planned
from generator.layout import pem_path
from generator.operations import verify
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.hints import command
from generator.pki import Role, describe, digests, issuer_of, peer_check
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report
from generator.store.existing_keys import required_pems
from generator.store.folder import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The results of an audit: one check for each control. A check's name is the id of its control."""

    cluster: str
    controls: tuple[Check, ...]

    @property
    def missed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.controls if check.result is not Result.OK)


def audit_cluster(cluster: Cluster, *, now: datetime, report: Report) -> Audit:
    """Audit every node of a running cluster. Raise InputError if a seed is missing."""
    plan, store = cluster.plan, cluster.store
    planned, files = planned_facts(store, plan), client_files(store.folder)
    return audit(plan, files, planned, now=now, report=report, command=partial(command, store))


def audit(
    plan: ClusterPlan, files: ClientFiles, planned: Mapping[str, Planned], *, now: datetime, report: Report,
    command: Command = bake_command,
) -> Audit:  # fmt: skip
    """Audit every node of a running cluster. `command`: see `with_commands`."""
    contexts = verify.probe_contexts(plan, files, now=now)
    report(f"probing {', '.join(node.name for node in plan.nodes)}")
    views = observe.everywhere(lambda node: observe.view_node(plan, node, files, contexts), plan.nodes)
    alive = [view.node for view in views if view.health.error is None]
    reports = fetch_reports(alive, files)

    def facts_of(view: answers.NodeView) -> NodeFacts:
        node_report, no_report = find_report(view.node.name, reports, now=now)
        if reports.value and view.node not in alive:  # the report is older than the failure
            node_report, no_report = None, why_silent(view)
        return NodeFacts(
            node=view.node, planned=planned[view.node.name], report=node_report, no_report=no_report,
            probes=view.probes, versions=_versions(plan, view.node),
        )  # fmt: skip

    return Audit(cluster=plan.name, controls=audit_nodes(observe.everywhere(facts_of, views), command))


def why_silent(view: answers.NodeView) -> str:
    """Return why a node without an answer to a linearizable read cannot report."""
    if view.status.value and view.status.value.is_learner:
        return "is still a learner"
    return f"{'does not serve requests' if view.status.value else 'does not answer'}: {view.health.error}"


def _versions(plan: ClusterPlan, node: NodePlan) -> dict[Port, dict[str, bool | None]]:
    """Return whether each port accepts each TLS version, or None for a port that does not answer."""
    ports = {Port.CLIENT: plan.spec.etcd.client_port, Port.PEER: plan.spec.etcd.peer_port}
    return {
        port: {version: accepts_version(str(node.address), number, version) for version in VERSIONS}
        for port, number in ports.items()
    }


def planned_facts(store: Store, plan: ClusterPlan) -> dict[str, Planned]:
    """Return the certificates and TLS settings that each node should have. Raise InputError if a seed is missing."""
    authorities, peer_authorities = (
        frozenset(digests(store.read(pem_path(issuer_of(plan.spec.pki, role))) or b""))
        for role in (Role.SERVER, Role.PEER)
    )
    options = plan.spec.etcd.options.items()
    stated = next(((name, str(value)) for name, value in options if name.startswith("peer-cert-allowed-")), None)
    found = {}
    for node in plan.nodes:
        pems = required_pems(store, node.name, command(store, ""))
        server, peer = (describe(pems[role][0]).sha256 for role in (Role.SERVER, Role.PEER))
        found[node.name] = Planned(
            server=server, peer=peer, authorities=authorities, peer_authorities=peer_authorities,
            tls_min_version=plan.spec.etcd.tls_min_version, peer_check=stated or peer_check(plan.spec),
        )  # fmt: skip
    return found


_WORDS = {Result.OK: "passed", Result.FAILED: "failed", Result.SKIPPED: "not reported"}
_TITLES = {control.id: control.title for control in (NODES, *CONTROLS)}


def audit_rows(found: Iterable[Check]) -> list[dict[str, str]]:
    """Return the controls as rows of a table."""
    return [
        {
            "id": check.name, "title": _TITLES[check.name], "result": _WORDS[check.result],
            "evidence": check.detail, "remedy": check.remedy or "",
        }
        for check in found
    ]  # fmt: skip


def audit_data(found: Audit) -> dict[str, Any]:
    """Return the controls for `-o json`."""
    rows = zip(audit_rows(found.controls), found.controls, strict=True)
    controls = [{**row, "nodes": check.nodes} for row, check in rows]
    return {"cluster": found.cluster, "passed": not found.missed, "controls": controls}
