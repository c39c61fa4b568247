"""`bake certs rotate --ca`: replace the CAs of a running cluster in phases (generator/pki/ca_phases.py).

A phase is complete when probes of all nodes confirm it. Each run of the command completes one phase. Before the next
run, the operator can give applications the new CA (docs/decisions/0019-applications-follow-a-new-ca.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from generator import pki
from generator.change.steps import Action, Step
from generator.engine import Engine
from generator.errors import InputError, UnhealthyError
from generator.etcd.answers import Reply
from generator.etcd.tls_probe import probe, unverified_context
from generator.layout import key_path, pem_path
from generator.operations.bake import Announce, bake
from generator.operations.baked_cluster import Cluster, open_cluster, unchanged, without_ca_files
from generator.operations.hints import command
from generator.operations.running.delivery import Delivery, Goal, deliver, serves_its_own
from generator.operations.running.leaving import step_down
from generator.operations.running.observing import observe
from generator.pki import Credential, ExternalCa, Issuer, Role, digests
from generator.pki.ca_phases import Authorities, Authority, Phase
from generator.plan import NodePlan, plan_cluster
from generator.progress import Report
from generator.store.cas import load_authorities, load_phase
from generator.store.client_files import client_names

_STEPS = {
    Phase.TRUST: "phase 1 of 3: the nodes trust the old and the next CA",
    Phase.REISSUE: "phase 2 of 3: the nodes get certificates of the next CA",
    Phase.DROP: "phase 3 of 3: the nodes no longer trust the old CA",
}
_GOALS = {
    Phase.TRUST: ("trust", "the next CA"),
    Phase.REISSUE: ("serve", "a certificate of the next CA"),
    Phase.DROP: ("trust", "only the new CA"),
}
# The operator's task after each phase of a CA change, before the next phase begins.
_TASKS = {
    Phase.TRUST: "give every application {folder}/etcd-ca.pem, which contains the old and the next CA",
    Phase.REISSUE: "give every application its new client certificate and key from {folder}",
    Phase.DROP: "optional: give every application {folder}/etcd-ca.pem, which now contains only the new CA",
}


def task_after(cluster: Cluster, phase: Phase | None) -> str:
    """Return the operator's task after a phase, or after the whole CA change if `phase` is None."""
    task = _TASKS[phase or Phase.DROP].format(folder=cluster.store.folder / "pki")
    if names := client_names(cluster.store):
        again = command(cluster.store, "client add NAME")
        task += f"; for the clients {', '.join(names)}, run `{again}` and give them the new files of clients/NAME"
    return task


def next_phase(phase: Phase | None) -> Phase | None:
    """Return the phase after `phase`, or None after the last phase."""
    return {Phase.TRUST: Phase.REISSUE, Phase.REISSUE: Phase.DROP}.get(phase) if phase else None


def rotate_authorities(
    cluster: Cluster,
    engine: Engine | None,
    new_cas: Mapping[Role, Authority],
    *,
    passphrase: bytes | None,
    now: datetime,
    seconds: float,
    report: Report,
    all_phases: bool,
    announce: Announce = lambda _: None,
) -> tuple[Phase | None, Delivery]:
    """Bring the nodes to the next phase or, with `all_phases`, through all remaining phases.

    `new_cas`: new CAs from the user. bake creates each new CA that is missing in `new_cas`. Return the current phase
    and the result of `deliver`. If the CA change has ended, the phase in the result is None. A phase is complete if the
    property `waiting` of the `Delivery` is empty.
    """
    _check(cluster, new_cas)
    cluster = replace(cluster, plan=plan_cluster(without_ca_files(cluster.plan.spec)))
    names = [node.name for node in cluster.plan.nodes]
    phase, found = load_phase(cluster.store), Delivery()

    def advance(cluster: Cluster, phase: Phase | None) -> tuple[Cluster, Phase | None]:
        """Bake the seeds of the phase after `phase`. All nodes must have completed `phase`.

        In the last phase, every seed has a new certificate. A node that serves the new certificate has applied its
        seed.
        """
        expected = unchanged(cluster, phase)
        bake(
            cluster.plan.spec, cluster.store, now=now, report=report, passphrase=passphrase,
            renew=names if phase is Phase.REISSUE else (), change=lambda old: _advanced(expected(old), new_cas, now),
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
        found = deliver(
            cluster, engine, names, goal=goal, seconds=seconds, report=report, phase=phase,
            prepare=(lambda _: None) if phase is Phase.REISSUE else partial(_step_down, cluster, report),
        )  # fmt: skip
        if found.waiting or not (all_phases or was_complete or phase is Phase.DROP):
            break
        cluster, phase = advance(cluster, phase)
    return phase, found


def _step_down(cluster: Cluster, report: Report, node: NodePlan) -> None:
    """Let another node lead before etcd restarts on the leader. If that fails, the voters elect a leader."""
    seen = observe(cluster, None, now=datetime.now(UTC))
    with suppress(UnhealthyError):
        step_down(cluster, seen, Step(action=Action.UPDATE, node=node.name, reason=""), report)


def _check(cluster: Cluster, new_cas: Mapping[Role, Authority]) -> None:
    pki_spec = cluster.plan.spec.pki
    if new_cas and (phase := load_phase(cluster.store)):
        rule = f"a CA change is already in progress (phase {phase})"
        hint = "to complete it first, run the command without --ca-certificate"
        raise InputError.one("--ca-certificate", rule, hint)
    for role, stated, flag in ((Role.CA, pki_spec.ca, "--ca"), (Role.PEER_CA, pki_spec.peer_ca, "--peer-ca")):
        if stated.certificate and role not in new_cas:
            rule = f"is required, because this cluster uses a CA that you gave: {stated.certificate}"
            hint = f"give the new CA's certificate with {flag}-certificate and its key with {flag}-key"
            raise InputError.one(f"{flag}-certificate", rule, hint)
        pem = cluster.store.read(pem_path(role))
        if pem and cluster.store.read(key_path(role)) is None:
            rule = "the cluster's folder does not have the CA key, so bake cannot test which CAs the nodes trust"
            hint = f"to renew only the certificates, run {command(cluster.store, 'certs rotate')}"
            raise InputError.one("--ca", rule, hint)
        if pem and role in new_cas and digests(new_cas[role].credential.cert_pem)[0] in digests(pem):
            raise InputError.one(f"{flag}-certificate", "is already this cluster's CA", "give another CA")


def _advanced(found: Authorities, new_cas: Mapping[Role, Authority], now: datetime) -> Authorities:
    """Return the CAs of the next phase.

    If a CA has expired, skip the first phase, in which the old CA still issues certificates.
    """
    has_expired = any(issuer.certificate.not_valid_after_utc <= now for issuer in found.issuers.values())
    for _ in range(2 if found.phase is None and has_expired else 1):
        found = found.advanced(new_cas)
    return found


def _goal(cluster: Cluster, phase: Phase, found: Authorities, now: datetime) -> Goal:
    """Return the state that each node must reach in a phase of a CA change.

    The certificate that a node serves shows which seed the node has applied. The client certificates that the node
    accepts show which CAs its running etcd trusts.
    """
    other, issuing = (_with_key(cas[Role.CA].credential) for cas in (found.others, found.issuing))
    own = serves_its_own(cluster)
    accepts = _accepts(cluster, other if phase is Phase.TRUST else issuing, now)
    must_refuse_old = phase is Phase.DROP and other.certificate.not_valid_after_utc > now  # nodes refuse an expired CA
    accepts_old = _accepts(cluster, other, now) if must_refuse_old else lambda _: False

    def lacks(node: NodePlan) -> bool | None:
        # A starting etcd refuses every client. If etcd accepts a client of the new CA and refuses a client of the old
        # CA, etcd does not trust the old CA.
        return own.lacks(node) or accepts_old(node) or _negated(accepts(node))

    verb, what = _GOALS[phase]
    return Goal(lacks=lacks, verb=verb, what=what, remedy=command(cluster.store, "certs rotate --ca"))


def _with_key(authority: Issuer) -> Credential:
    if isinstance(authority, ExternalCa):
        raise AssertionError("a CA change needs the keys of all CAs: this is a bug in bake")
    return authority


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _accepts(cluster: Cluster, authority: Credential, now: datetime) -> Callable[[NodePlan], bool | None]:
    """Return a function that tests whether a node accepts a client certificate of the CA `authority`.

    If the node does not answer, the function returns None.
    """
    client = pki.issue_client(cluster.plan, authority, now=now)
    context = unverified_context((client.cert_pem, client.key_pem))

    def look(node: NodePlan) -> bool | None:
        reply = probe(str(node.address), cluster.plan.spec.etcd.client_port, context).reply
        return None if reply is Reply.UNREACHABLE else reply is Reply.SERVED

    return look
