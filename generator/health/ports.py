"""Checks of `bake verify` that use port probes: refused clients, the peer firewall and server certificates."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from generator.config.auth import ROOT
from generator.config.pki import Certificates, PeerName
from generator.config.placement import sets_peer_check
from generator.config.spec import FirewallKind
from generator.etcd.answers import Certificate, ClientKind, NodeView, Observation, Port, Probe, Reply, is_firewalled
from generator.health.check import Check, Finding, Result, combine
from generator.pki import is_near_expiry
from generator.plan import ClusterPlan, NodePlan

_SKIPPED_REMEDY = "run {bake verify} while all nodes are up, on a machine that can reach both ports of every node"

_REFUSALS = {
    ClientKind.NO_CERTIFICATE: ("no certificate", "set client-cert-auth and peer-client-cert-auth"),
    ClientKind.FOREIGN_CA: (
        "foreign certificate",
        "trusted-ca-file and peer-trusted-ca-file must contain only the cluster's CA",
    ),
    ClientKind.NO_TLS: ("no TLS", "every listen URL must be https"),
}


def refused(plan: ClusterPlan, seen: Observation, kind: ClientKind) -> Check:
    """Check that nodes refuse unauthorized clients. The result for a node that refuses the operator is `SKIPPED`."""
    findings, refusing = [], 0
    for view in seen.nodes:
        node = view.node.name
        for port, answer in _answers_to(view, kind):
            if answer.reply is Reply.SERVED:
                findings.append(Finding(node, Result.FAILED, f"the {port} accepts this client ({answer.detail})"))
            elif port is Port.PEER and _is_firewalled(plan, view):
                continue
            elif answer.reply is Reply.UNREACHABLE:
                findings.append(Finding(node, Result.SKIPPED, f"the {port} cannot be reached ({answer.detail})"))
            elif _serves_operator(view):
                refusing += 1
            else:
                findings.append(Finding(node, Result.SKIPPED, f"the {port} refuses this client and the operator"))
    name, remedy = _REFUSALS[kind]
    ok_detail = f"refused on {refusing} ports"
    return combine(name, findings, ok_detail=ok_detail, remedy=remedy, skipped_remedy=_SKIPPED_REMEDY)


def only_peers(plan: ClusterPlan, seen: Observation) -> Check:
    """Check that peer ports refuse client certificates. The probes present the operator's client certificate.

    If a firewall closes the peer port to this machine, a probe shows nothing. The check uses the plan and the node's
    audit report.
    """
    findings, refusing, closed = [], 0, 0
    for view in seen.nodes:
        name, answer = view.node.name, view.probes.get((Port.PEER, ClientKind.OPERATOR))
        if answer and answer.reply is Reply.SERVED:
            text = f"the peer port accepts the operator's client certificate ({answer.detail})"
            findings.append(Finding(name, Result.FAILED, text))
        elif not _has_peer_check(plan):
            text = "etcd accepts client certificates at the peer port, so only a firewall can refuse clients"
            findings.append(Finding(name, Result.FAILED, text))
        elif _is_firewalled(plan, view) and not seen.requires_name.get(name, True):
            text = "etcd does not check peers' names yet; the node's new seed turns the check on"
            findings.append(Finding(name, Result.FAILED, text))
        elif _is_firewalled(plan, view):
            closed += 1
        elif answer and answer.reply is Reply.REFUSED and _serves_operator(view):
            refusing += 1
        else:
            text = "the peer port refuses every client, or cannot be reached"
            findings.append(Finding(name, Result.SKIPPED, text))
    counts = (("refused on", refusing), ("closed on", closed))
    ok_detail = ", ".join(f"{text} {count} ports" for text, count in counts if count)
    step = _NEXT_STEPS[plan.spec.pki.peer_name or PeerName.NONE]
    remedy = f"{step}: see docs/how-to/older-cluster.md"
    return combine("client certificate", findings, ok_detail=ok_detail, remedy=remedy, skipped_remedy=_SKIPPED_REMEDY)


# The operator first sets pki.peerName to `stated`, and later to `required`. If pki.peerName is `required`,
# a node refuses peers whose certificates lack the peer name.
_NEXT_STEPS = {
    PeerName.NONE: "set pki.peerName to `stated`, then run {bake certs rotate}",
    PeerName.STATED: "when every node uses a certificate from `bake certs rotate`, set pki.peerName to `required`",
    PeerName.REQUIRED: "run {bake apply}; with another hypervisor, insert one node's new seed after the other",
}


def _serves_operator(view: NodeView) -> bool:
    return view.probes[Port.CLIENT, ClientKind.OPERATOR].reply is Reply.SERVED


def _has_peer_check(plan: ClusterPlan) -> bool:
    """Return whether, according to the plan, etcd refuses client certificates at the peer port."""
    pki = plan.spec.pki
    return bool(pki.peer_ca.separate) or pki.peer_name is PeerName.REQUIRED or sets_peer_check(plan.spec)


def _is_firewalled(plan: ClusterPlan, view: NodeView) -> bool:
    """Return True if the plan has a firewall and the node's peer port is closed to this machine."""
    return plan.spec.firewall.kind is not FirewallKind.NONE and is_firewalled(view.probes)


def peer_firewall(plan: ClusterPlan, seen: Observation) -> Check:
    """Check that the nodes' firewalls close the peer ports to this machine, which is not a node."""
    name, remedy = "peer firewall", "to see why it is open, run {bake logs NODE --unit etcd-firewall}"
    if plan.spec.firewall.kind is FirewallKind.NONE:
        return combine(name, [], ok_detail="the plan has no firewall", remedy=remedy)
    findings = []
    for view in seen.nodes:
        if (Port.PEER, ClientKind.OPERATOR) not in view.probes:
            findings.append(Finding(view.node.name, Result.SKIPPED, "cannot be reached"))
        elif not _is_firewalled(plan, view):
            text = "the peer port is open to this machine, which is not a node"
            findings.append(Finding(view.node.name, Result.WARNING, text))
    ok_detail = f"closed to this machine on {len(seen.nodes)} nodes"
    return combine(name, findings, ok_detail=ok_detail, remedy=remedy, skipped_remedy=_SKIPPED_REMEDY)


def _answers_to(view: NodeView, kind: ClientKind) -> list[tuple[Port, Probe]]:
    """Return (port, probe) pairs for one kind of client. bake does not probe the peer port of an unreachable node."""
    return [(port, view.probes[port, kind]) for port in Port if (port, kind) in view.probes]


def server_certificates(plan: ClusterPlan, seen: Observation, *, now: datetime) -> Check:
    """Check the issuer, the names and the remaining validity of the nodes' server certificates.

    With auth, a server certificate must not name an etcd user (docs/decisions/0034-the-gateway-needs-a-password.md).
    """
    findings, users, days_left = [], [], []
    for view in seen.nodes:
        name = view.node.name
        for port, answer in _answers_to(view, ClientKind.OPERATOR):
            if port is Port.PEER and _is_firewalled(plan, view):
                continue
            if answer.distrusted:
                findings.append(Finding(name, Result.FAILED, f"{port}: {answer.distrusted}"))
            elif answer.certificate is None:
                # If a TLS 1.2 handshake fails, Python's ssl module does not return the port's certificate.
                if port is Port.CLIENT or answer.reply is not Reply.REFUSED:
                    findings.append(Finding(name, Result.SKIPPED, f"{port}: {answer.detail}"))
            else:
                start, end = answer.certificate.not_before, answer.certificate.not_after
                days = (end - now).days
                days_left.append(days)
                if is_near_expiry(start, end, now):
                    findings.append(Finding(name, Result.WARNING, f"{port}: {days} days left"))
                if _lacks_name(plan, view.node, answer.certificate.names):
                    findings.append(Finding(name, Result.FAILED, f"{port}: does not name {view.node.fqdn}"))
                if port is Port.CLIENT and _names_user(plan, answer.certificate):
                    text = f"{port}: names the etcd user {answer.certificate.common_name}"
                    text += ", and etcd's gateway gives that user's rights to clients without a common name"
                    users.append(Finding(name, Result.FAILED, text))
    ok_detail = f"issued by the cluster's CA, name their nodes, {min(days_left, default=0)} days left"
    remedy = "run {bake certs rotate}; if the CA expires soon, run {bake certs rotate --ca}"
    if any(finding.result is Result.FAILED for finding in findings):
        remedy = "the node's certificates differ from those in its seed: run {bake certs deliver}"
    elif users:
        remedy = "run {bake}, then {bake apply}: the nodes get server certificates that name no user, and restart etcd"
    findings += users
    return combine("server certificates", findings, ok_detail=ok_detail, remedy=remedy, skipped_remedy=_SKIPPED_REMEDY)


def _names_user(plan: ClusterPlan, certificate: Certificate) -> bool:
    """Return whether the common name is an etcd user. Older versions of bake issued such certificates."""
    users = {*(node.name for node in plan.nodes), *(user.name for user in plan.spec.auth.users), ROOT}
    return plan.spec.auth.enabled and certificate.common_name in users


def _lacks_name(plan: ClusterPlan, node: NodePlan, names: Iterable[str]) -> bool:
    """Return whether a node's certificate lacks the node's name. If nodes share certificates, return False."""
    return plan.spec.pki.certificates is Certificates.PER_NODE and node.fqdn not in set(names)
