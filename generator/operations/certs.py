"""`bake certs`: list a cluster's certificates, and deliver new ones to running nodes.

A node receives certificates in its seed. When a new ISO is put into the drive of a settled node, `apply-seed` applies
it immediately. This needs no network connection to the node, and works after its certificates have expired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import NamedTuple

from generator import pki, vm
from generator.config.pki import CaSpec, Certificates, PeerCaSpec
from generator.config.spec import ClusterSpec
from generator.errors import BakeError, InputError, WaitTimeoutError
from generator.etcd.observe import everywhere
from generator.etcd.tls_hello import served_certificate
from generator.layout import OPERATOR, SEED_ISO, pem_path
from generator.operations.up import Cluster, open_cluster
from generator.pki import Facts, Role
from generator.pki.ca_phases import Phase
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report
from generator.seed import iso
from generator.store.cas import load_phase, non_issuing_files
from generator.store.existing_keys import required_pems
from generator.vm.connection import Connection
from generator.vm.console_records import LineReader

_PAUSE = 0.5  # seconds between two probes of a node's port
WAITS = "a new seed takes effect at the next boot"  # apply-seed's record, in every version so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One certificate. `owner`: a node, "operator", "cluster", or "user NAME"; `days_left`: negative after expiry."""

    owner: str
    role: Role
    facts: Facts
    days_left: int
    days: int  # of its whole validity


def entries(cluster: Cluster, *, now: datetime) -> tuple[Entry, ...]:
    """Return every certificate in the folder: the CAs', the operator's, the users' and the nodes'."""
    return tuple(_entries(cluster, now))


def _entries(cluster: Cluster, now: datetime) -> Iterator[Entry]:
    files: list[tuple[str, Role, str]] = [
        ("cluster", role, str(role)) for role in pki.authority_roles(cluster.plan.spec.pki)
    ]
    files += [(f"cluster, {which}", role, stem) for which, role, stem in non_issuing_files(cluster.store, cluster.plan)]
    for owner, role, stem in (*files, (OPERATOR, Role.CLIENT, str(Role.CLIENT))):
        path = pem_path(stem)
        yield _entry(owner, role, cluster.store.read(path), str(cluster.store.folder / path), now)
    for name in cluster.plan.spec.auth.common_names:
        path = pem_path(pki.user_stem(name))
        yield _entry(f"user {name}", Role.CLIENT, cluster.store.read(path), str(cluster.store.folder / path), now)
    for node in cluster.plan.nodes:
        where = str(cluster.store.folder / node.name / iso.USER_DATA)
        for role, (pem, _) in required_pems(cluster.store, node.name).items():
            yield _entry(node.name, role, pem, where, now)


def _entry(owner: str, role: Role, pem: bytes | None, where: str, now: datetime) -> Entry:
    try:
        facts = pki.describe(pem or b"")
    except ValueError:
        raise InputError.one(where, "is not a PEM certificate", "restore the file") from None
    days = facts.not_after - facts.not_before
    return Entry(owner=owner, role=role, facts=facts, days_left=(facts.not_after - now).days, days=days.days)


class Client(NamedTuple):
    """The owner (`pki.PlannedCertificate`) and the path of a client certificate."""

    owner: str
    path: PurePosixPath


def client_files(plan: ClusterPlan) -> dict[str, Client]:
    """Return the clients that `bake certs rotate` can renew, by their names in that command."""
    stems = {f"user:{name}": pki.user_stem(name) for name in plan.spec.auth.common_names}
    found = {name: Client(stem, pem_path(stem)) for name, stem in stems.items()}
    if plan.spec.pki.certificates is Certificates.SHARED:  # the operator has the nodes' certificate
        return found
    return {OPERATOR: Client(OPERATOR, pem_path(str(Role.CLIENT))), **found}


def renewal(soon: Iterable[Entry]) -> str:
    """Return the command that renews these certificates."""
    owners = dict.fromkeys(entry.owner.replace("user ", "user:") for entry in soon)
    if any(owner.startswith("cluster") for owner in owners):
        return "bake certs rotate --ca"
    return f"bake certs rotate {' '.join(owners)}"


# --- concurrent commands --------------------------------------------------------------------------------------


def refuse_changed(cluster: Cluster, phase: Phase | None) -> None:
    """Raise BakeError if another command has changed the cluster since this one read it.

    `phase`: of the CA rotation, as this command read it. The caller holds the lock.
    """
    found, hint = load_phase(cluster.store), "see the current state with: bake certs; then run the same command again"
    if found is not phase:
        text = f"another command is rotating this cluster's CA (phase {phase or 'none'}, now {found or 'none'})"
        raise BakeError(text, hint=hint)
    if without_stated(open_cluster(cluster.store).plan.spec) != without_stated(cluster.plan.spec):
        raise BakeError("another command has just changed this cluster", hint=hint)


def without_stated(spec: ClusterSpec) -> ClusterSpec:
    """Return the spec without the paths of the user's own CA, which no longer apply after a CA rotation."""
    own = replace(spec.pki, ca=CaSpec(), peer_ca=PeerCaSpec(separate=spec.pki.peer_ca.separate))
    return replace(spec, pki=own)


# --- delivery -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A state that nodes reach by their new seeds.

    `lacks`: whether a node has not reached it; None if the node does not answer. `verb`: completes "does not …";
    `done`: completes "etcd1 …"; `remedy`: the command that continues after an interruption.
    """

    lacks: Callable[[NodePlan], bool | None]
    verb: str
    done: str
    remedy: str


def serves_its_own(cluster: Cluster) -> Goal:
    """Return the goal that every node serves the certificate of its seed."""
    what = "its new certificate"
    return Goal(lacks=_is_outdated(cluster), verb=f"serve {what}", done=f"serves {what}", remedy="bake certs deliver")


def outdated(cluster: Cluster) -> dict[str, bool | None]:
    """Return, by node, whether its client port serves another certificate than its seed has; None without an answer."""
    names = [node.name for node in cluster.plan.nodes]
    return dict(zip(names, everywhere(_is_outdated(cluster), cluster.plan.nodes), strict=True))


def _is_outdated(cluster: Cluster) -> Callable[[NodePlan], bool | None]:
    def look(node: NodePlan) -> bool | None:
        served = served_certificate(str(node.address), cluster.plan.spec.etcd.client_port)
        return None if served is None else pki.describe(served).sha256 != _wanted(cluster, node)

    return look


def _wanted(cluster: Cluster, node: NodePlan) -> str:
    pem, _ = required_pems(cluster.store, node.name)[Role.SERVER]
    return pki.describe(pem).sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The result of a delivery, as node names.

    `done`: serve their seeds' certificates. `at_next_start`: stopped, apply the seed at their next start.
    `after_restart`: run, and must be restarted. `by_hand`: have no VM here.
    """

    done: tuple[str, ...] = ()
    at_next_start: tuple[str, ...] = ()
    after_restart: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()


def deliver(
    cluster: Cluster,
    connection: Connection | None,
    names: Collection[str],
    *,
    seconds: float,
    report: Report,
    goal: Goal | None = None,
    phase: Phase | None = None,
) -> Delivery:
    """Put the folder's seeds into the drives of these nodes, one node after the other; skip nodes that are done.

    `goal`: the state that shows that a node has applied its seed; default: it serves the seed's certificate. `phase`:
    of the CA rotation that the seeds belong to. Raise BakeError if another command has changed the cluster, and
    WaitTimeoutError if a running node does not apply its seed within `seconds`; later nodes are then unchanged, and the
    same call continues, inserting that node's seed again. Configuration changes apply at the next reboot: a node that
    reports so on its console goes to `after_restart`.
    """
    done, later, restart, by_hand = [], [], [], []
    goal = goal or serves_its_own(cluster)
    drives = None if connection is None else _Drives(connection, cluster, phase, report)
    for node in cluster.plan.nodes:
        if node.name not in names:
            continue
        lacks, waits = goal.lacks(node), drives.listen(node) if drives else _never
        if lacks is False:
            done.append(node.name)
            if drives:
                drives.empty(node)
        elif drives is None or drives.insert(node, again=lacks is True) is None:
            by_hand.append(node.name)
        elif not drives.has_running(node):
            later.append(node.name)
        else:
            report(f"{node.name}: its new seed is in the drive")
            if _waits_for_restart(node, goal, seconds, lambda: refuse_changed(cluster, phase), waits):
                report(f"{node.name}: {WAITS}")
                restart.append(node.name)
                continue
            drives.empty(node)
            report(f"{node.name}: {goal.done}")
            done.append(node.name)
    return Delivery(done=tuple(done), at_next_start=tuple(later), after_restart=tuple(restart), by_hand=tuple(by_hand))


def _never() -> bool:
    return False


@dataclass(frozen=True)
class _Drives:
    """The drives of the nodes' VMs. A change locks the folder, so that the seed is the one that was checked."""

    connection: Connection
    cluster: Cluster
    phase: Phase | None
    report: Report

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.cluster.store.locked(self.report):
            refuse_changed(self.cluster, self.phase)
            yield

    def insert(self, node: NodePlan, *, again: bool) -> bool | None:
        """Insert a node's seed. `again`: insert it even if it is in the drive: the node runs and did not apply it."""
        cluster, seed = self.cluster, self.cluster.store.folder / node.name / SEED_ISO
        with self._locked():
            return vm.insert_seed(
                self.connection, cluster.plan, node, seed, cluster_id=cluster.cluster_id, again=again
            )

    def empty(self, node: NodePlan) -> None:
        """Remove the seed from a node's drive."""
        with self._locked():
            vm.remove_seed(self.connection, self.cluster.plan, node, cluster_id=self.cluster.cluster_id)

    def listen(self, node: NodePlan) -> Callable[[], bool]:
        """Return a function that tells whether the node's console has since reported that its seed waits for a boot."""
        try:
            logs = vm.console_logs(self.connection, self.cluster.plan, cluster_id=self.cluster.cluster_id)
        except BakeError:  # this cluster has no VM here
            return _never
        log, reader = logs[node.name], LineReader(node.name)
        reader.feed(log.read())  # skip records about earlier seeds
        return lambda: any(event.detail == WAITS for event in reader.feed(log.read()))

    def has_running(self, node: NodePlan) -> bool:
        found = vm.status(self.connection, self.cluster.plan, cluster_id=self.cluster.cluster_id)
        return any(one.node == node.name and one.state is vm.State.RUNNING for one in found)


def _waits_for_restart(
    node: NodePlan, goal: Goal, seconds: float, check: Callable[[], None], waits: Callable[[], bool]
) -> bool:
    """Wait until the node has reached the goal (return False), or reports that it needs a restart (return True).

    `check` is called before each further probe. Raise WaitTimeoutError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while goal.lacks(node) is not False:
        if waits():
            return True
        check()
        if time.monotonic() > deadline:
            raise WaitTimeoutError(
                f"{node.name} does not {goal.verb} after {seconds:.0f} s",
                hint=f"see why: bake console {node.name}; then: {goal.remedy}",
            )
        time.sleep(_PAUSE)
    return False
