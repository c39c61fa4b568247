"""Checks on the probes of the nodes' ports: refused clients, the peer firewall, server certificates."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from generator.config.defaults import sets_peer_check
from generator.config.pki import Certificates, PeerName
from generator.config.spec import FirewallKind
from generator.etcd.answers import ClientKind, NodeView, Observation, Port, Probe, Reply, is_firewalled
from generator.health.check import Check, check
from generator.plan import ClusterPlan, NodePlan

WARN_DAYS = 30
_UNSEEN = "run bake verify on a machine that reaches both ports of every node, while all nodes are up"

_REFUSALS = {
    ClientKind.NO_CERTIFICATE: ("no certificate", "set client-cert-auth and peer-client-cert-auth"),
    ClientKind.FOREIGN_CA: (
        "foreign certificate",
        "trusted-ca-file and peer-trusted-ca-file must be the cluster's CA alone",
    ),
    ClientKind.NO_TLS: ("no TLS", "every listen URL must be https"),
}


def refused(plan: ClusterPlan, seen: Observation, kind: ClientKind) -> Check:
    """Check that unauthorized clients are refused. A refusal counts only on a node that accepts the operator."""
    failed: list[tuple[str, str]] = []
    unknown: list[tuple[str, str]] = []
    good = 0
    for view in seen.nodes:
        served = _serves_operator(view)
        for port, answer in _answers_to(view, kind):
            if answer.reply is Reply.SERVED:
                failed.append((view.node.name, f"the {port} accepts it ({answer.detail})"))
            elif port is Port.PEER and _is_firewalled(plan, view):
                continue
            elif answer.reply is Reply.UNREACHABLE:
                unknown.append((view.node.name, f"the {port} cannot be reached ({answer.detail})"))
            elif served:
                good += 1
            else:
                unknown.append(
                    (view.node.name, f"the {port} refuses it, but also the operator")
                )
    name, remedy = _REFUSALS[kind]
    return check(name, f"refused on {good} ports", failed=failed, unknown=unknown, remedy=remedy, unseen=_UNSEEN)


def only_peers(plan: ClusterPlan, seen: Observation) -> Check:
    """Check that the peer port refuses client certificates; the operator's is the example.

    If the firewall closes the peer port to this machine, the check uses the plan and the node's report of its etcd
    options.
    """
    failed, unknown, refusing, closed = [], [], 0, 0
    for view in seen.nodes:
        name, answer = view.node.name, view.probes.get((Port.PEER, ClientKind.OPERATOR))
        if answer and answer.reply is Reply.SERVED:
            failed.append((name, f"the peer port serves the operator's client certificate ({answer.detail})"))
        elif not _has_peer_check(plan):
            failed.append((name, "the peer port accepts client certificates; only a firewall can refuse clients"))
        elif _is_firewalled(plan, view) and not seen.requires_name.get(name, True):
            failed.append((name, "etcd does not check the peers' name yet, unlike its new seed"))
        elif _is_firewalled(plan, view):
            closed += 1
        elif answer and answer.reply is Reply.REFUSED and _serves_operator(view):
            refusing += 1
        else:
            unknown.append((name, "the peer port refuses every client, or cannot be reached"))
    counts = (("refused on", refusing), ("closed on", closed))
    good = ", ".join(f"{text} {count} ports" for text, count in counts if count)
    step = _NEXT_STEPS[plan.spec.pki.peer_name or PeerName.NONE]
    remedy = f"{step}: see docs/how-to/older-cluster.md"
    return check("client certificate", good, failed=failed, unknown=unknown, remedy=remedy, unseen=_UNSEEN)


# Two steps: a node that requires the name refuses nodes whose certificates do not have it yet.
_NEXT_STEPS = {
    PeerName.NONE: "set pki.peerName to stated, then: bake certs rotate",
    PeerName.STATED: "when every node serves its certificate of `bake certs rotate`, set pki.peerName to required",
    PeerName.REQUIRED: "attach the new seeds of these nodes and restart them, one at a time",
}


def _serves_operator(view: NodeView) -> bool:
    return view.probes[Port.CLIENT, ClientKind.OPERATOR].reply is Reply.SERVED


def _has_peer_check(plan: ClusterPlan) -> bool:
    """Whether etcd distinguishes peer certificates from client certificates."""
    pki = plan.spec.pki
    return bool(pki.peer_ca.separate) or pki.peer_name is PeerName.REQUIRED or sets_peer_check(plan.spec)


def _is_firewalled(plan: ClusterPlan, view: NodeView) -> bool:
    """Whether a node's firewall closes the peer port to the operator, as planned."""
    return plan.spec.firewall.kind is not FirewallKind.NONE and is_firewalled(view.probes)


def peer_firewall(plan: ClusterPlan, seen: Observation) -> Check:
    """Check that the peer ports are closed to the operator's machine, which is not a node."""
    reached = [view for view in seen.nodes if (Port.PEER, ClientKind.OPERATOR) in view.probes]
    text = "the peer port is open to this machine, which is not a node"
    opened = [(view.node.name, text) for view in reached if not _is_firewalled(plan, view)]
    good = f"closed to this machine on {len(reached)} nodes"
    unknown = [(view.node.name, "cannot be reached") for view in seen.nodes if view not in reached]
    if plan.spec.firewall.kind is FirewallKind.NONE:
        opened, unknown, good = [], [], "none is planned"
    remedy = "on the node: systemctl status etcd-firewall"
    return check("peer firewall", good, warning=opened, unknown=unknown, remedy=remedy, unseen=_UNSEEN)


def _answers_to(view: NodeView, kind: ClientKind) -> list[tuple[Port, Probe]]:
    """Return the probes by port. The peer port of an unreachable node was not probed."""
    return [(port, view.probes[port, kind]) for port in Port if (port, kind) in view.probes]


def server_certificates(plan: ClusterPlan, seen: Observation, *, now: datetime) -> Check:
    """Check the issuer, the names and the remaining validity of the certificates that nodes present."""
    failed, warning, unknown, days_left = [], [], [], []
    for view in seen.nodes:
        for port, answer in _answers_to(view, ClientKind.OPERATOR):
            if port is Port.PEER and _is_firewalled(plan, view):
                continue
            if answer.distrusted:
                failed.append((view.node.name, f"{port}: {answer.distrusted}"))
            elif answer.certificate is None:
                # With TLS 1.2 a refusal ends the handshake before Python returns the certificate.
                if port is Port.CLIENT or answer.reply is not Reply.REFUSED:
                    unknown.append((view.node.name, f"{port}: {answer.detail}"))
            else:
                days = (answer.certificate.not_after - now).days
                days_left.append(days)
                if days < WARN_DAYS:
                    warning.append((view.node.name, f"{port}: {days} days left"))
                if _lacks_name(plan, view.node, answer.certificate.names):
                    failed.append((view.node.name, f"{port}: does not name {view.node.fqdn}"))
    good = f"issued by the cluster's CA, name their nodes, {min(days_left, default=0)} days left"
    remedy = "the node's certificates differ from those in its seed: see /etc/etcd/pki on the node"
    if warning and not failed:
        remedy = "bake certs rotate; if the CA expires then as well: bake certs rotate --ca"
    found = {"failed": failed, "warning": warning, "unknown": unknown}
    return check("server certificates", good, **found, remedy=remedy, unseen=_UNSEEN)


def _lacks_name(plan: ClusterPlan, node: NodePlan, names: Iterable[str]) -> bool:
    """Whether the node's name is missing. The handshake checked the address; shared certificates have no names."""
    return plan.spec.pki.certificates is Certificates.PER_NODE and node.fqdn not in set(names)
