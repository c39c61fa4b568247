"""The cases in which a row of the table of levels applies. Each function takes the old and the new spec."""

from __future__ import annotations

from generator.config.pki import Certificates, Extensions, NameConstraints, PeerName
from generator.config.placement import domain_of, gateway_of
from generator.config.spec import ClusterSpec, FirewallKind, NetworkMode


def same_gateway(old: ClusterSpec, new: ClusterSpec) -> bool:
    return gateway_of(old) == gateway_of(new)


def starts_dns_server(old: ClusterSpec, new: ClusterSpec) -> bool:
    """Return whether libvirt must start a DNS server at the gateway, which it does only when a network starts."""
    return has_dns_server(new) and not has_dns_server(old)


def has_dns_server(spec: ClusterSpec) -> bool:
    return gateway_of(spec) in spec.network.dns if spec.network.dns else spec.network.mode is NetworkMode.NAT


def same_domain(old: ClusterSpec, new: ClusterSpec) -> bool:
    return domain_of(old) == domain_of(new)


def is_bound_to_domain(old: ClusterSpec, _new: ClusterSpec) -> bool:
    """Return whether peers or a CA that bake created accept only names in the domain."""
    peers, own = old.pki.peer_ca, old.pki.ca.certificate
    limits = old.pki.extensions is Extensions.STRICT and old.pki.name_constraints is not NameConstraints.NONE
    bound = limits and (not own or bool(peers.separate and not peers.certificate))
    return bound or old.pki.peer_name is PeerName.REQUIRED


def requires_peer_name(old: ClusterSpec, _new: ClusterSpec) -> bool:
    return old.pki.peer_name is PeerName.REQUIRED


def skips_stated(old: ClusterSpec, new: ClusterSpec) -> bool:
    """Return whether `none` and `required` follow each other. With shared certificates, that is harmless."""
    shared = old.pki.certificates is new.pki.certificates is Certificates.SHARED
    return not shared and {old.pki.peer_name, new.pki.peer_name} == {PeerName.NONE, PeerName.REQUIRED}


def begins_to_require(_old: ClusterSpec, new: ClusterSpec) -> bool:
    return new.pki.peer_name is PeerName.REQUIRED


def creates_node_users(old: ClusterSpec, new: ClusterSpec) -> bool:
    """Return whether the nodes' client certificates get common names for which etcd may have no user."""
    return old.auth.enabled and new.auth.enabled and new.pki.certificates is Certificates.PER_NODE


def is_older(old: ClusterSpec, new: ClusterSpec) -> bool:
    return release(new.etcd.version) < release(old.etcd.version)


def leaves_firewalld(old: ClusterSpec, _new: ClusterSpec) -> bool:
    return old.firewall.kind is FirewallKind.FIREWALLD


def keeps_ssh(old: ClusterSpec, new: ClusterSpec) -> bool:
    return bool(old.access.ssh_keys and new.access.ssh_keys)


def disables_auth(old: ClusterSpec, _new: ClusterSpec) -> bool:
    return old.auth.enabled


def release(version: str) -> tuple[int, ...]:
    """Return a release series as numbers, such as (3, 10) for `3.10`, so that 3.10 is newer than 3.9."""
    return tuple(map(int, version.split(".")))
