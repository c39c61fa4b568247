"""The defaults that depend on other fields: the DNS domain, the peer name and the peer CA. Pure."""

from __future__ import annotations

from dataclasses import replace

from generator.config.pki import PeerName, PkiSpec
from generator.config.spec import ClusterSpec


def domain_of(spec: ClusterSpec) -> str:
    """Return the nodes' DNS domain. The default domain ends in `.internal`, which ICANN reserved for private use."""
    return spec.pki.domain or f"{spec.name}.internal"


def peer_name(spec: ClusterSpec) -> str:
    """Return the peer name, a DNS name that only peer certificates have and that no node can have."""
    return f"{spec.name}.peers.{domain_of(spec)}"


def with_peer_defaults(spec: ClusterSpec, kept: PkiSpec | None = None) -> ClusterSpec:
    """Return the spec with defaults for peer name and peer CA. `kept`: the `PkiSpec` of an existing cluster."""
    pki, peers = spec.pki, spec.pki.peer_ca
    separate, name = peers.separate, pki.peer_name
    if separate is None:
        separate = bool(peers.certificate) or (kept.peer_ca.separate if kept else not pki.ca.certificate)
    if name is None:
        name = PeerName.NONE if sets_peer_check(spec) else kept.peer_name if kept else PeerName.REQUIRED
    return replace(spec, pki=replace(pki, peer_name=name, peer_ca=replace(peers, separate=separate)))


def sets_peer_check(spec: ClusterSpec) -> bool:
    """Return whether etcd.options has an option whose name begins with `peer-cert-allowed-`."""
    return any(name.startswith("peer-cert-allowed-") for name in spec.etcd.options)
