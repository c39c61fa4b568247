"""The spec that a cluster's folder was baked with, and what it decides for the next bake."""

from __future__ import annotations

from dataclasses import replace

from generator.host.store import Store
from generator.plan import settle_peers
from generator.profile import load
from generator.spec import ClusterSpec, PeerName


def baked_spec(store: Store) -> ClusterSpec | None:
    """Read the folder's cluster.yaml; None where nothing was baked. Raises InputError.

    Where a field is missing, the cluster was baked before the field existed: its value is what bake did then.
    """
    if store.read("cluster.yaml") is None:
        return None
    spec = load(config=store.folder / "cluster.yaml").spec
    before = replace(spec.pki, peer_name=PeerName.NONE, peer_ca=replace(spec.pki.peer_ca, separate=False))
    return settle_peers(spec, before)


def settle(spec: ClusterSpec, store: Store) -> ClusterSpec:
    """Fill in what the spec leaves open: as the folder's cluster was baked, or as a new cluster is."""
    kept = baked_spec(store)
    return settle_peers(spec, kept.pki if kept else None)
