"""Open a baked cluster: its folder and its plan, which the operations on a running cluster share."""

from __future__ import annotations

from dataclasses import dataclass

from generator import vm
from generator.config.load import load_kept
from generator.errors import BakeError, InputError
from generator.layout import SEALED, SPEC
from generator.plan import ClusterPlan, NodePlan, plan_cluster, short_id
from generator.store.existing_keys import load_identity
from generator.store.folder import Store
from generator.store.requests import refuse_unsigned
from generator.vm.connection import Connection


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A baked cluster: its folder, its plan, and the id that tags its VMs."""

    store: Store
    plan: ClusterPlan
    cluster_id: str

    @property
    def first(self) -> NodePlan:
        """The node that may start the cluster until the cluster is sealed."""
        return next(node for node in self.plan.nodes if node.bootstrap)

    @property
    def sealed(self) -> bool:
        """Whether the bootstrap permit is removed. A killed `seal` may leave the old folder with the permit: False."""
        return self.store.read(SEALED) is not None and not self.store.has_leftover()


def open_cluster(store: Store) -> Cluster:
    """Open the cluster in the store's folder.

    Raise InputError if the folder has no cluster, and UnsignedError if the cluster's certificates are not issued yet.
    """
    store.check()
    identity = load_identity(store)
    if store.read(SPEC) is None or identity is None:
        refuse_unsigned(store)
        where = f"there is no cluster {store.cluster!r} in {store.out}"
        raise InputError.one("--name", where, "bake it first, or give its folder with --out")
    plan = plan_cluster(load_kept(store.folder / SPEC))
    return Cluster(store=store, plan=plan, cluster_id=short_id(identity))


def connect_if_possible(uri: str | None) -> Connection | None:
    """Connect to libvirt. Return None if that fails without an explicit URI, because the VMs may run elsewhere."""
    try:
        return vm.connect(uri)
    except BakeError:
        if uri is not None:
            raise
        return None
