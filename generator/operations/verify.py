"""`bake verify`: query every node of a running cluster, and run the health checks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from typing import Any

from generator import health, pki
from generator.config.auth import UNAUTHORIZED_CLIENT
from generator.config.pki import Extensions, KeyType, PeerName
from generator.etcd import answers, dial, observe, tls_probe
from generator.etcd.answers import ClientKind, Port
from generator.etcd.client import Etcd
from generator.etcd.node_report import fetch_reports, find_report
from generator.etcd.tls_probe import ClientFiles
from generator.health import Check, Result
from generator.health.check import Command, bake_command
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.hints import command
from generator.pki import Role, user_stem
from generator.plan import ClusterPlan, NodePlan, plan_cluster
from generator.progress import Report

_REPORT_SECONDS = 10
_ELECTION_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The results of all health checks. A cluster is healthy if no check failed and no check was skipped."""

    cluster: str
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        return not self.missed

    @property
    def missed(self) -> tuple[Check, ...]:
        """The failed checks, then the skipped checks."""
        return (*self.failed, *self.skipped)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.result is Result.FAILED)

    @property
    def skipped(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.result is Result.SKIPPED)


def verify_cluster(cluster: Cluster, *, now: datetime, report: Report, wait: float = 0) -> Verification:
    """Check the running cluster. Query every node. Report a warning if this machine has no route to the nodes.

    `wait`: see `verify`.
    """
    plan = cluster.plan
    if not dial.has_route(str(cluster.first.address), plan.spec.etcd.client_port):
        text = f"this machine has no route to the nodes' subnet {plan.network.subnet}, so it cannot ask the nodes"
        report(f"warning: {text}\n  hint: give this machine an address in the subnet, or a route to it")
    files, without_user = (
        client_files(cluster.store.folder, stem) for stem in (str(Role.CLIENT), user_stem(UNAUTHORIZED_CLIENT))
    )
    return verify(
        plan, files, now=now, token=secrets.token_hex(8), sealed=cluster.sealed, report=report,
        without_user=without_user, command=partial(command, cluster.store), wait=wait,
    )  # fmt: skip


def verify_changed(cluster: Cluster, *, report: Report) -> Verification:
    """Check a cluster that bake has just changed: every node has joined, but an election may not have ended."""
    return verify_cluster(cluster, now=datetime.now(UTC), report=report, wait=_ELECTION_SECONDS)


def verify(
    plan: ClusterPlan,
    files: ClientFiles,
    *,
    now: datetime,
    token: str,
    sealed: bool,
    report: Report,
    without_user: ClientFiles | None = None,
    command: Command = bake_command,
    wait: float = 0,
) -> Verification:
    """Check a running cluster. `token`: a random word; the write check uses only keys below `/bake/verify/<token>/`.

    `without_user`: the client certificate of a name that is no etcd user. If the spec enables auth, etcd must refuse
    the certificate `without_user`. `command`: see `with_commands`. `wait`: for how many seconds to query the nodes
    again if only a part of them answers.
    """
    contexts, deadline = probe_contexts(plan, files, now=now), time.monotonic() + wait
    seen = _observe(plan, files, contexts, now=now, token=token, report=report, without_user=without_user)
    if wait and seen.unanswered:
        report(f"waiting up to {wait:.0f} s for all nodes to answer: {seen.unanswered}")
    while seen.unanswered and time.monotonic() < deadline:
        time.sleep(1)
        seen = _observe(plan, files, contexts, now=now, token=token, report=_ignore, without_user=without_user)
    checks = health.check_cluster(plan, seen, now=now, sealed=sealed, command=command)
    return Verification(cluster=plan.name, checks=checks)


def _ignore(line: str) -> None:
    """Report nothing: the first query has reported what bake does."""


def _observe(
    plan: ClusterPlan,
    files: ClientFiles,
    contexts: observe.Contexts,
    *,
    now: datetime,
    token: str,
    report: Report,
    without_user: ClientFiles | None,
) -> answers.Observation:
    """Query every node. For the parameters see `verify`."""
    report(f"asking {', '.join(node.name for node in plan.nodes)}")
    views = observe.everywhere(lambda node: observe.view_node(plan, node, files, contexts), plan.nodes)
    alive = [view.node for view in views if view.health.error is None]
    report(f"writing and reading through {', '.join(node.name for node in alive) or 'no node'}")
    keys = observe.list_keys(alive, files)
    writes, left_behind = observe.try_writes(alive, files, token)
    hashes = observe.hash_nodes(alive, files)
    seen = answers.Observation(nodes=tuple(views), keys=keys, writes=writes, left_behind=left_behind, hashes=hashes)
    seen = replace(seen, requires_name=requires_name(plan, files, alive, now=now))
    if plan.spec.auth.enabled and without_user:
        auth = observe.first_answer(alive, files, Etcd.auth_enabled)
        seen = replace(seen, auth=auth, without_user=observe.read_without_user(alive, without_user))
    return seen


def requires_name(
    plan: ClusterPlan, files: ClientFiles, nodes: Iterable[NodePlan], *, now: datetime
) -> dict[str, bool]:
    """Return for each node whether etcd refuses peers whose certificates lack the peer name.

    The result omits nodes that sent no report. Return {} if the spec does not require the peer name, or has a separate
    peer CA. Wait up to 10 seconds, because a restarted node sends its report some seconds after its start.
    """
    nodes = list(nodes)
    if plan.spec.pki.peer_name is not PeerName.REQUIRED or plan.spec.pki.peer_ca.separate:
        return {}
    (option, name), deadline = pki.peer_check(plan.spec), time.monotonic() + _REPORT_SECONDS
    while True:
        answer = fetch_reports(nodes, files)
        reports = {node.name: find_report(node.name, answer, now=now)[0] for node in nodes}
        found = {node: report.options.get(option) == name for node, report in reports.items() if report}
        if all(found.values()) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def probe_contexts(plan: ClusterPlan, files: ClientFiles, *, now: datetime) -> observe.Contexts:
    """Return a TLS context for each port and each kind of client."""
    peer_ca = files.peer_ca if plan.spec.pki.peer_ca.separate else None
    own = dial.source_address(str(plan.nodes[0].address), plan.spec.etcd.peer_port)
    client, peer = Port.CLIENT, Port.PEER
    return {
        (client, ClientKind.OPERATOR): tls_probe.operator_context(files),
        (peer, ClientKind.OPERATOR): tls_probe.operator_context(replace(files, ca=peer_ca or files.ca)),
        **{(port, ClientKind.NO_CERTIFICATE): tls_probe.unverified_context() for port in Port},
        (client, ClientKind.FOREIGN_CA): tls_probe.unverified_context(foreign_pair(plan, Role.CLIENT, own, now=now)),
        (peer, ClientKind.FOREIGN_CA): tls_probe.unverified_context(foreign_pair(plan, Role.PEER, own, now=now)),
        **{(port, ClientKind.NO_TLS): None for port in Port},
    }


def foreign_pair(
    plan: ClusterPlan, role: Role, address: str, *, now: datetime, authority: pki.Credential | None = None
) -> tuple[bytes, bytes]:
    """Issue a certificate from `authority`, and return the certificate and its key.

    The default of `authority` is a new CA with the same name as the cluster's CA. The certificate resembles a node's
    certificate and contains `address`. A node can refuse the certificate only because of its issuer.
    """
    own = replace(plan.spec.pki, extensions=Extensions.DOCUMENT, key_type=KeyType.ECDSA_P256)
    other = plan_cluster(replace(plan.spec, pki=own))
    node = replace(other.nodes[0], addresses=(ip_address(address),))
    other = replace(other, nodes=(node,))
    authority = authority or pki.create_authority(other, pki.issuer_of(own, role), now=now)
    found = next(pki.issue_nodes(other, authority, now=now))[role]
    return found.cert_pem, found.key_pem


def verification_data(found: Verification) -> dict[str, Any]:
    """Return the results for `-o json`."""
    return {
        "cluster": found.cluster,
        "healthy": found.healthy,
        "checks": [asdict(check) for check in found.checks],
    }
