"""Open a baked cluster, for the operations on a running cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from generator.config.load import load_kept
from generator.config.pki import CaSpec, PeerCaSpec
from generator.config.spec import ClusterSpec
from generator.errors import BakeError, InputError
from generator.etcd.tls_probe import ClientFiles
from generator.layout import SEALED, SPEC
from generator.operations.hints import command
from generator.pki import Role
from generator.pki.ca_phases import Authorities, Phase
from generator.plan import ClusterPlan, NodePlan, plan_cluster, short_id
from generator.store.cas import load_phase
from generator.store.existing_cluster import cluster_names
from generator.store.existing_keys import load_identity
from generator.store.folder import Store
from generator.store.requests import refuse_unsigned


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A baked cluster: its folder, its plan, and the id that tags its VMs."""

    store: Store
    plan: ClusterPlan
    cluster_id: str

    @property
    def first(self) -> NodePlan:
        """The first node, which has the bootstrap permit until the cluster is sealed."""
        return next(node for node in self.plan.nodes if node.bootstrap)

    @property
    def sealed(self) -> bool:
        """Whether no ISO has the bootstrap permit. If a bake process is killed, a folder with an old ISO can remain."""
        return self.store.read(SEALED) is not None and not self.store.has_leftover()


def open_cluster(store: Store) -> Cluster:
    """Open the cluster in the store's folder.

    Raise InputError if the folder has no cluster. Raise UnsignedError if the cluster's certificates are not issued yet.
    """
    store.check()
    identity = load_identity(store)
    if store.read(SPEC) is None or identity is None:
        refuse_unsigned(store, bake=command(store, ""))
        raise no_cluster(store)
    plan = plan_cluster(load_kept(store.folder / SPEC))
    return Cluster(store=store, plan=plan, cluster_id=short_id(identity))


def no_cluster(store: Store) -> InputError:
    """Return the error for a missing cluster. Its hint names the other clusters in the output folder."""
    hint = "bake the cluster, or use the same --out as when you baked the cluster"
    if names := cluster_names(store.out):
        hint = f"add --name {names[0]}" if len(names) == 1 else f"add --name with one of: {', '.join(names)}"
    return InputError.one("--name", f"there is no cluster {store.cluster!r} in {store.out}", hint)


def client_files(folder: Path, stem: str = str(Role.CLIENT)) -> ClientFiles:
    """Return the paths of a client's certificate, key and CAs. `stem`: the certificate's file name without `.pem`."""
    ca, peer_ca, client = (folder / "pki" / name for name in (str(Role.CA), str(Role.PEER_CA), stem))
    return ClientFiles(
        ca=ca.with_suffix(".pem"), cert=client.with_suffix(".pem"), key=client.with_suffix(".key"),
        peer_ca=peer_ca.with_suffix(".pem"),
    )  # fmt: skip


def refuse_changed(cluster: Cluster, phase: Phase | None) -> None:
    """Raise BakeError if another command has changed the cluster since this command read it.

    `phase`: the phase of the CA change when this command read it.
    """
    found, hint = load_phase(cluster.store), f"run {command(cluster.store, 'certs')}, then the same command again"
    if found is not phase:
        phases = f"the phase was `{phase or 'none'}` and is now `{found or 'none'}`"
        text = f"another command is changing this cluster's CA: {phases}"
        raise BakeError(text, hint=hint)
    if without_ca_files(open_cluster(cluster.store).plan.spec) != without_ca_files(cluster.plan.spec):
        raise BakeError("another command has just changed this cluster", hint=hint)


def unchanged(cluster: Cluster, phase: Phase | None = None) -> Callable[[Authorities], Authorities]:
    """Return a function that returns the CAs unchanged. If the cluster has changed, the function raises BakeError."""

    def keep(found: Authorities) -> Authorities:
        refuse_changed(cluster, phase)
        return found

    return keep


def without_ca_files(spec: ClusterSpec) -> ClusterSpec:
    """Return the spec without the paths of the user's CA files, which are outdated after a CA change."""
    own = replace(spec.pki, ca=CaSpec(), peer_ca=PeerCaSpec(separate=spec.pki.peer_ca.separate))
    return replace(spec, pki=own)
