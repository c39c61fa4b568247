"""The spec that a cluster's folder was baked with, and what it decides for the next bake."""

from __future__ import annotations

from dataclasses import replace

from generator.errors import InputError
from generator.host.store import Store
from generator.pki import peer_check
from generator.plan import settle_peers
from generator.profile import load
from generator.spec import Certificates, ClusterSpec, PeerName


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


def refuse_lost_name(spec: ClusterSpec, store: Store) -> None:
    """Raise InputError where running nodes would refuse a node as soon as it has its new peer certificate."""
    kept = baked_spec(store)
    if kept and kept.pki.peer_name is PeerName.REQUIRED and not _has_name(spec, peer_check(kept)):
        name = " ".join(peer_check(kept))
        raise InputError.one(
            "pki.peerName",
            f"the nodes require {name} in every peer certificate, and the new ones would not have it",
            "first bake with pki.peerName: stated alone and restart every node, one after the other; or remove the "
            "cluster's folder to begin a new one",
        )


def _has_name(spec: ClusterSpec, wanted: tuple[str, str]) -> bool:
    """Whether etcd with this check accepts the peer certificates of the spec."""
    shared = spec.pki.certificates is Certificates.SHARED
    return peer_check(spec) == wanted and (shared or spec.pki.peer_name is not PeerName.NONE)
