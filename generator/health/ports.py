"""What the nodes' ports show: who is let in, and which certificate answers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from generator.config.defaults import checks_peers_itself
from generator.config.pki import Certificates, PeerName
from generator.config.spec import FirewallKind
from generator.etcd.answers import Guest, Knock, NodeView, Observation, Port, Reply, is_walled
from generator.health.check import Check, check
from generator.plan import ClusterPlan, NodePlan

WARN_DAYS = 30
_UNSEEN = "run bake verify on a machine that reaches both ports of every node, while all nodes are up"

_REFUSALS = {
    Guest.NOBODY: ("no certificate", "set client-cert-auth and peer-client-cert-auth"),
    Guest.FOREIGN: (
        "foreign certificate",
        "trusted-ca-file and peer-trusted-ca-file must be the cluster's CA alone",
    ),
    Guest.PLAIN: ("no TLS", "every listen URL must be https"),
}


def refused(plan: ClusterPlan, seen: Observation, guest: Guest) -> Check:
    """Somebody who must be let in nowhere. It counts only where the operator is served, or no one gets through."""
    failed: list[tuple[str, str]] = []
    unknown: list[tuple[str, str]] = []
    good = 0
    for view in seen.nodes:
        served = _serves_operator(view)
        for port, answer in _answers_to(view, guest):
            if answer.reply is Reply.SERVED:
                failed.append((view.node.name, f"the {port} lets it in ({answer.detail})"))
            elif port is Port.PEER and _is_walled(plan, view):
                continue
            elif answer.reply is Reply.UNREACHABLE:
                unknown.append((view.node.name, f"the {port} cannot be reached ({answer.detail})"))
            elif served:
                good += 1
            else:
                unknown.append(
                    (view.node.name, f"the {port} refuses it, but does not serve the operator either")
                )
    name, remedy = _REFUSALS[guest]
    return check(name, f"refused on {good} ports", failed=failed, unknown=unknown, remedy=remedy, unseen=_UNSEEN)


def only_peers(plan: ClusterPlan, seen: Observation) -> Check:
    """Whether the peer port refuses clients' certificates; the operator's is one.

    The firewall hides from this machine what etcd serves to the nodes' own addresses. There the plan decides, unless
    the node reports that its etcd runs without the planned option.
    """
    failed, unknown, refusing, closed = [], [], 0, 0
    for view in seen.nodes:
        name, answer = view.node.name, view.knocks.get((Port.PEER, Guest.OPERATOR))
        if answer and answer.reply is Reply.SERVED:
            failed.append((name, f"the peer port serves the operator's client certificate ({answer.detail})"))
        elif not _has_peer_check(plan):
            failed.append((name, "the peer port serves client certificates; at most the firewall keeps clients out"))
        elif _is_walled(plan, view) and not seen.requires_name.get(name, True):
            failed.append((name, "etcd does not require the peers' name yet, which its new seed requires"))
        elif _is_walled(plan, view):
            closed += 1
        elif answer and answer.reply is Reply.REFUSED and _serves_operator(view):
            refusing += 1
        else:
            unknown.append((name, "the peer port refuses everybody, or cannot be reached"))
    counts = (("refused on", refusing), ("closed on", closed))
    good = ", ".join(f"{text} {count} ports" for text, count in counts if count)
    step = _NEXT_STEPS[plan.spec.pki.peer_name or PeerName.NONE]
    remedy = f"{step}: see docs/how-to/older-cluster.md"
    return check("client certificate", good, failed=failed, unknown=unknown, remedy=remedy, unseen=_UNSEEN)


# Never both at once: a node that requires the name refuses the nodes that do not have it yet.
_NEXT_STEPS = {
    PeerName.NONE: "set pki.peerName to stated, then: bake certs rotate",
    PeerName.STATED: "when every node serves its certificate of `bake certs rotate`, set pki.peerName to required",
    PeerName.REQUIRED: "give these nodes their new seeds and restart them, one at a time",
}


def _serves_operator(view: NodeView) -> bool:
    return view.knocks[Port.CLIENT, Guest.OPERATOR].reply is Reply.SERVED


def _has_peer_check(plan: ClusterPlan) -> bool:
    """Whether etcd can tell peers' certificates from clients'."""
    pki = plan.spec.pki
    return bool(pki.peer_ca.separate) or pki.peer_name is PeerName.REQUIRED or checks_peers_itself(plan.spec)


def _is_walled(plan: ClusterPlan, view: NodeView) -> bool:
    """Whether a node's firewall keeps the operator from the peer port, as planned."""
    return plan.spec.firewall.kind is not FirewallKind.NONE and is_walled(view.knocks)


def peer_firewall(plan: ClusterPlan, seen: Observation) -> Check:
    """The operator's machine is none of the nodes, so their peer ports are closed to it."""
    there = [view for view in seen.nodes if (Port.PEER, Guest.OPERATOR) in view.knocks]
    text = "the peer port is open to this machine, which is none of the nodes"
    opened = [(view.node.name, text) for view in there if not _is_walled(plan, view)]
    good = f"closed to this machine on {len(there)} nodes"
    unknown = [(view.node.name, "cannot be reached") for view in seen.nodes if view not in there]
    if plan.spec.firewall.kind is FirewallKind.NONE:
        opened, unknown, good = [], [], "none is planned"
    remedy = "on the node: systemctl status etcd-firewall"
    return check("peer firewall", good, warning=opened, unknown=unknown, remedy=remedy, unseen=_UNSEEN)


def _answers_to(view: NodeView, guest: Guest) -> list[tuple[Port, Knock]]:
    """By port. The peer port of a node that is not there was not tried."""
    return [(port, view.knocks[port, guest]) for port in Port if (port, guest) in view.knocks]


def server_certificates(plan: ClusterPlan, seen: Observation, *, now: datetime) -> Check:
    failed, warning, unknown, days_left = [], [], [], []
    for view in seen.nodes:
        for port, answer in _answers_to(view, Guest.OPERATOR):
            if port is Port.PEER and _is_walled(plan, view):
                continue
            if answer.distrusted:
                failed.append((view.node.name, f"{port}: {answer.distrusted}"))
            elif answer.certificate is None:
                # With TLS 1.2 a refusal ends the handshake before Python shows the certificate.
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
    remedy = "the node runs with other certificates than its seed has: see /etc/etcd/pki on the node"
    if warning and not failed:
        remedy = "bake certs rotate; where the CA ends then too: bake certs rotate --ca"
    found = {"failed": failed, "warning": warning, "unknown": unknown}
    return check("server certificates", good, **found, remedy=remedy, unseen=_UNSEEN)


def _lacks_name(plan: ClusterPlan, node: NodePlan, names: Iterable[str]) -> bool:
    """The address was checked with the handshake; the document's shared set names addresses only."""
    return plan.spec.pki.certificates is Certificates.PER_NODE and node.fqdn not in set(names)
