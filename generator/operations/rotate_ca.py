"""`bake certs rotate --ca`: new CAs for a cluster that runs, phase by phase (generator/store/cas.py).

A phase is complete when every node has shown it. A run stops after the phase that it has completed, so that
applications can follow (docs/decisions/0019-applications-follow-a-new-ca.md). It goes on where another run has stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from generator import pki
from generator.errors import InputError
from generator.etcd.answers import Reply
from generator.etcd.tls_probe import probe, unverified_context
from generator.layout import key_path, pem_path
from generator.operations.bake import Announce, bake
from generator.operations.certs import Delivery, Goal, deliver, refuse_changed, serves_its_own, without_stated
from generator.operations.up import Cluster, open_cluster
from generator.pki import Credential, Elsewhere, Issuer, Role, digests
from generator.pki.ca_phases import Authorities, Authority, Phase
from generator.plan import NodePlan, plan_cluster
from generator.progress import Report
from generator.store.cas import load_authorities, load_phase
from generator.vm.connection import Connection

_STEPS = {
    Phase.TRUST: "phase 1 of 3: the nodes learn to trust the next CA too",
    Phase.REISSUE: "phase 2 of 3: the nodes get certificates of the next CA",
    Phase.DROP: "phase 3 of 3: the nodes no longer trust the old CA",
}
# For the operator: after the phase, and before the next one.
_TASKS = {
    Phase.TRUST: "give every application {folder}/etcd-ca.pem, which has both CAs",
    Phase.REISSUE: "give every application its new client certificate and key from {folder}",
    Phase.DROP: "applications may get {folder}/etcd-ca.pem once more, which has the new CA alone",
}


def task_after(cluster: Cluster, phase: Phase | None) -> str:
    """What the operator has to do when the phase is complete; None: when the change is."""
    return _TASKS[phase or Phase.DROP].format(folder=cluster.store.folder / "pki")


def next_phase(phase: Phase) -> Phase | None:
    """The phase after this one; None after the last."""
    return dict(zip(Phase, [*Phase][1:], strict=False)).get(phase)


def refuse_while_changing(cluster: Cluster) -> None:
    """Other work on certificates would have nodes skip a phase."""
    if phase := load_phase(cluster.store):
        raise InputError.one("this cluster", f"is changing its CA (phase {phase})", "first: bake certs rotate --ca")


def unchanged(cluster: Cluster, phase: Phase | None = None) -> Callable[[Authorities], Authorities]:
    """For `bake(change=…)`, which calls it under the lock. Raises BakeError where another command was quicker."""

    def keep(found: Authorities) -> Authorities:
        refuse_changed(cluster, phase)
        return found

    return keep


def rotate_authorities(
    cluster: Cluster,
    connection: Connection | None,
    following: Mapping[Role, Authority],
    *,
    passphrase: bytes | None,
    now: datetime,
    seconds: float,
    report: Report,
    all_phases: bool,
    announce: Announce = lambda _: None,
) -> tuple[Phase | None, Delivery]:
    """Bring the nodes the next phase, or all that are left. `following`: CAs of the user's own to change to.

    Returns the phase that the change is in, which is complete where all nodes are done; None where the change is.
    """
    _check(cluster, following)
    cluster = replace(cluster, plan=plan_cluster(without_stated(cluster.plan.spec)))
    names = [node.name for node in cluster.plan.nodes]
    phase, found = load_phase(cluster.store), Delivery()

    def advance(cluster: Cluster, phase: Phase | None) -> tuple[Cluster, Phase | None]:
        """Bake for the phase after this one, which every node has come to.

        The last one renews, so that what a node serves tells whether it has come to it.
        """
        expected = unchanged(cluster, phase)
        bake(
            cluster.plan.spec, cluster.store, now=now, report=report, passphrase=passphrase,
            renew=names if phase is Phase.REISSUE else (), change=lambda old: _advanced(expected(old), following, now),
            announce=announce,
        )  # fmt: skip
        return open_cluster(cluster.store), load_phase(cluster.store)

    if phase is None:
        cluster, phase = advance(cluster, None)
    while phase:
        report(_STEPS[phase])
        authorities = load_authorities(cluster.store, cluster.plan, now=now, passphrase=passphrase)
        goal = _goal(cluster, phase, authorities, now)
        was_complete = all(goal.lacks(node) is False for node in cluster.plan.nodes)
        found = deliver(cluster, connection, names, goal=goal, seconds=seconds, report=report, phase=phase)
        is_complete = len(found.done) == len(names)
        if not is_complete or not (all_phases or was_complete or phase is Phase.DROP):
            break
        cluster, phase = advance(cluster, phase)
    return phase, found


def _check(cluster: Cluster, following: Mapping[Role, Authority]) -> None:
    pki_spec = cluster.plan.spec.pki
    if following and (phase := load_phase(cluster.store)):
        rule = f"this cluster is changing its CA already (phase {phase})"
        raise InputError.one("--ca-certificate", rule, "leave it out, to complete that change")
    for role, stated, flag in ((Role.CA, pki_spec.ca, "--ca"), (Role.PEER_CA, pki_spec.peer_ca, "--peer-ca")):
        if stated.certificate and role not in following:
            rule = f"is missing, and this cluster's CA is one of your own, {stated.certificate}"
            raise InputError.one(f"{flag}-certificate", rule, f"the CA to change to, with {flag}-key")
        pem = cluster.store.read(pem_path(role))
        if pem and cluster.store.read(key_path(role)) is None:
            rule = "the key of this cluster's CA is not here, so no node can be asked whom it trusts"
            raise InputError.one("--ca", rule, "change the certificates alone: bake certs rotate")
        if pem and role in following and digests(following[role].credential.cert_pem)[0] in digests(pem):
            raise InputError.one(f"{flag}-certificate", "is this cluster's CA already", "another CA")


def _has_ended(found: Authorities, now: datetime) -> bool:
    """Nobody trusts it, and it can issue nothing: the nodes come to the next one at once."""
    return any(issuer.certificate.not_valid_after_utc <= now for issuer in found.issuers.values())


def _advanced(found: Authorities, following: Mapping[Role, Authority], now: datetime) -> Authorities:
    for _ in range(2 if found.phase is None and _has_ended(found, now) else 1):
        found = found.advanced(following)
    return found


def _goal(cluster: Cluster, phase: Phase, found: Authorities, now: datetime) -> Goal:
    """A node shows that its files are its seed's by the certificate that it serves, and in which phase its etcd runs by
    whose clients it lets in."""
    own, other = serves_its_own(cluster), _at_hand(found.others[Role.CA].credential)
    if phase is Phase.TRUST:
        lets_in = _lets_in(cluster, other, now)
        return _as_goal(lambda node: own.lacks(node) or _negated(lets_in(node)), "trust", "the next CA")
    # An etcd that is just being restarted refuses everybody: only one that serves a client of the new CA has decided.
    serves = _lets_in(cluster, _at_hand(found.issuing[Role.CA].credential), now)
    if phase is Phase.REISSUE:
        return _as_goal(lambda node: own.lacks(node) or _negated(serves(node)), "serve", "a certificate of the next CA")
    if other.certificate.not_valid_after_utc <= now:  # lets nobody in, trusted or not
        return _as_goal(lambda node: own.lacks(node) or _negated(serves(node)), "trust", "the new CA alone")
    lets_in = _lets_in(cluster, other, now)
    return _as_goal(
        lambda node: own.lacks(node) or lets_in(node) or _negated(serves(node)), "trust", "the new CA alone"
    )


def _at_hand(authority: Issuer) -> Credential:
    if isinstance(authority, Elsewhere):
        raise AssertionError("a change begins where all keys are here: a bug in bake")
    return authority


def _as_goal(lacks: Callable[[NodePlan], bool | None], verb: str, what: str) -> Goal:
    return Goal(lacks=lacks, verb=f"{verb} {what}", done=f"{verb}s {what}", remedy="bake certs rotate --ca")


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _lets_in(cluster: Cluster, authority: Credential, now: datetime) -> Callable[[NodePlan], bool | None]:
    """Whether a node's client port serves a client of this CA; None where nobody answers."""
    client = pki.issue_client(cluster.plan, authority, now=now)
    context = unverified_context((client.cert_pem, client.key_pem))

    def look(node: NodePlan) -> bool | None:
        reply = probe(str(node.address), cluster.plan.spec.etcd.client_port, context).reply
        return None if reply is Reply.UNREACHABLE else reply is Reply.SERVED

    return look
