"""`bake certs rotate --ca`: new CAs for a running cluster, phase by phase (generator/store/cas.py).

A phase is complete when probes show it on every node. A run stops after the phase that it completed, so that
applications can follow (docs/decisions/0019-applications-follow-a-new-ca.md); the next run continues.
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
from generator.pki import Credential, ExternalCa, Issuer, Role, digests
from generator.pki.ca_phases import Authorities, Authority, Phase
from generator.plan import NodePlan, plan_cluster
from generator.progress import Report
from generator.store.cas import load_authorities, load_phase
from generator.vm.connection import Connection

_STEPS = {
    Phase.TRUST: "phase 1 of 3: the nodes trust the old and the next CA",
    Phase.REISSUE: "phase 2 of 3: the nodes get certificates of the next CA",
    Phase.DROP: "phase 3 of 3: the nodes no longer trust the old CA",
}
# The operator's tasks after a phase, before the next one.
_TASKS = {
    Phase.TRUST: "give every application {folder}/etcd-ca.pem, which has both CAs",
    Phase.REISSUE: "give every application its new client certificate and key from {folder}",
    Phase.DROP: "optionally give applications {folder}/etcd-ca.pem again, which has only the new CA",
}


def task_after(cluster: Cluster, phase: Phase | None) -> str:
    """Return the operator's task after a phase; None: after the whole rotation."""
    return _TASKS[phase or Phase.DROP].format(folder=cluster.store.folder / "pki")


def next_phase(phase: Phase) -> Phase | None:
    """Return the phase after this one; None after the last."""
    return dict(zip(Phase, [*Phase][1:], strict=False)).get(phase)


def refuse_while_changing(cluster: Cluster) -> None:
    """Raise InputError during a CA rotation: other work on certificates would make nodes skip a phase."""
    if phase := load_phase(cluster.store):
        text = f"its CA is being rotated (phase {phase})"
        raise InputError.one("this cluster", text, "first complete: bake certs rotate --ca")


def unchanged(cluster: Cluster, phase: Phase | None = None) -> Callable[[Authorities], Authorities]:
    """Return a function for `bake(change=…)` that, under the lock, raises BakeError if another command was faster."""

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
    """Bring the nodes to the next phase, or through all phases that are left. `following`: the user's own new CAs.

    Return the current phase, which is complete if all nodes are done; None after the last phase.
    """
    _check(cluster, following)
    cluster = replace(cluster, plan=plan_cluster(without_stated(cluster.plan.spec)))
    names = [node.name for node in cluster.plan.nodes]
    phase, found = load_phase(cluster.store), Delivery()

    def advance(cluster: Cluster, phase: Phase | None) -> tuple[Cluster, Phase | None]:
        """Bake for the phase after this one, which every node has reached.

        The last phase renews all certificates, so that a node's certificate shows whether it has reached that phase.
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
        rule = f"this cluster's CA is already being rotated (phase {phase})"
        raise InputError.one("--ca-certificate", rule, "leave it out to complete that rotation")
    for role, stated, flag in ((Role.CA, pki_spec.ca, "--ca"), (Role.PEER_CA, pki_spec.peer_ca, "--peer-ca")):
        if stated.certificate and role not in following:
            rule = f"is missing, but this cluster's CA is your own, {stated.certificate}"
            raise InputError.one(f"{flag}-certificate", rule, f"give the new CA, and its key with {flag}-key")
        pem = cluster.store.read(pem_path(role))
        if pem and cluster.store.read(key_path(role)) is None:
            rule = "the key of this cluster's CA is not here, so bake cannot test which CAs the nodes trust"
            raise InputError.one("--ca", rule, "renew only the certificates: bake certs rotate")
        if pem and role in following and digests(following[role].credential.cert_pem)[0] in digests(pem):
            raise InputError.one(f"{flag}-certificate", "is already this cluster's CA", "give another CA")


def _has_ended(found: Authorities, now: datetime) -> bool:
    """Whether a CA has expired. It is trusted by no node and can issue nothing, so the first phase is skipped."""
    return any(issuer.certificate.not_valid_after_utc <= now for issuer in found.issuers.values())


def _advanced(found: Authorities, following: Mapping[Role, Authority], now: datetime) -> Authorities:
    for _ in range(2 if found.phase is None and _has_ended(found, now) else 1):
        found = found.advanced(following)
    return found


def _goal(cluster: Cluster, phase: Phase, found: Authorities, now: datetime) -> Goal:
    """Return the goal of a phase. A node's certificate shows which seed it has applied; the CAs whose clients it
    accepts show the phase of its running etcd."""
    own, other = serves_its_own(cluster), _at_hand(found.others[Role.CA].credential)
    if phase is Phase.TRUST:
        accepts = _accepts(cluster, other, now)
        return _as_goal(lambda node: own.lacks(node) or _negated(accepts(node)), "trust", "the next CA")
    # A restarting etcd refuses every client: a refusal counts only if a client of the new CA is accepted.
    serves = _accepts(cluster, _at_hand(found.issuing[Role.CA].credential), now)
    if phase is Phase.REISSUE:
        return _as_goal(lambda node: own.lacks(node) or _negated(serves(node)), "serve", "a certificate of the next CA")
    if other.certificate.not_valid_after_utc <= now:  # its clients are refused, whether nodes trust it or not
        return _as_goal(lambda node: own.lacks(node) or _negated(serves(node)), "trust", "only the new CA")
    accepts = _accepts(cluster, other, now)
    return _as_goal(
        lambda node: own.lacks(node) or accepts(node) or _negated(serves(node)), "trust", "only the new CA"
    )


def _at_hand(authority: Issuer) -> Credential:
    if isinstance(authority, ExternalCa):
        raise AssertionError("a rotation needs the keys of all CAs: this is a bug in bake")
    return authority


def _as_goal(lacks: Callable[[NodePlan], bool | None], verb: str, what: str) -> Goal:
    return Goal(lacks=lacks, verb=f"{verb} {what}", done=f"{verb}s {what}", remedy="bake certs rotate --ca")


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _accepts(cluster: Cluster, authority: Credential, now: datetime) -> Callable[[NodePlan], bool | None]:
    """Return a function: whether a node's client port accepts a client of this CA; None without an answer."""
    client = pki.issue_client(cluster.plan, authority, now=now)
    context = unverified_context((client.cert_pem, client.key_pem))

    def look(node: NodePlan) -> bool | None:
        reply = probe(str(node.address), cluster.plan.spec.etcd.client_port, context).reply
        return None if reply is Reply.UNREACHABLE else reply is Reply.SERVED

    return look
