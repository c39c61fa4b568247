"""Defaults that depend on other fields: the nodes' names, addresses and MACs, the gateway, the domain, the peer CA.

The rules between fields need them too; `plan` computes everything else. Pure.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from generator.config.pki import PeerName, PkiSpec
from generator.config.spec import AnyAddress, ClusterSpec

FIRST_HOST = 31  # the document's first node is .31


def name_nodes(spec: ClusterSpec) -> list[str]:
    """Return the names of the nodes; the default is `etcd1`, `etcd2`, …"""
    if isinstance(spec.nodes, int):
        return [f"etcd{number}" for number in range(1, spec.nodes + 1)]
    return [node.name for node in spec.nodes]


def place_nodes(spec: ClusterSpec) -> list[AnyAddress]:
    """Return the addresses of the nodes: the stated ones; for the others the next free ones from `first_address`.

    If the subnet is too small, an address can lie outside of it; `rules` refuses that.
    """
    given = [None] * spec.nodes if isinstance(spec.nodes, int) else [node.address for node in spec.nodes]
    taken = {address for address in given if address} | {gateway_of(spec)}
    candidate = first_address(spec)
    placed: list[AnyAddress] = []
    for address in given:
        if address is None:
            while candidate in taken:
                candidate = _after(candidate)
            address, candidate = candidate, _after(candidate)
        placed.append(address)
    return placed


def place_macs(spec: ClusterSpec) -> list[str]:
    """Return the MACs of the nodes: the stated ones, else derived from the cluster's name."""
    given = [None] * spec.nodes if isinstance(spec.nodes, int) else [node.mac for node in spec.nodes]
    return [mac or mac_of(spec.name, index) for index, mac in enumerate(given, start=1)]


def first_address(spec: ClusterSpec) -> AnyAddress:
    """Return the first node's default address: `firstIp`, else .31, else (small subnet) the second host address."""
    subnet = spec.network.subnet
    if spec.network.first_ip:
        return spec.network.first_ip
    if subnet.num_addresses > 64:
        return subnet.network_address + FIRST_HOST
    return _after(_after(subnet.network_address))


def gateway_of(spec: ClusterSpec) -> AnyAddress:
    """Return the gateway, by default the subnet's first host address."""
    return spec.network.gateway or _after(spec.network.subnet.network_address)


def _after(address: AnyAddress) -> AnyAddress:
    """Return the next address; after the family's last one, its first, which `rules` refuses."""
    return type(address)((int(address) + 1) % (1 << address.max_prefixlen))


def domain_of(spec: ClusterSpec) -> str:
    """Return the nodes' DNS domain; `.internal` is reserved for private use (ICANN, 2024)."""
    return spec.pki.domain or f"{spec.name}.internal"


def peer_name(spec: ClusterSpec) -> str:
    """Return the DNS name that every peer certificate has and no other certificate; it cannot be a node's name."""
    return f"{spec.name}.peers.{domain_of(spec)}"


def settle_peers(spec: ClusterSpec, kept: PkiSpec | None = None) -> ClusterSpec:
    """Return the spec with defaults for `pki.peerName` and `pki.peerCa`; a baked cluster keeps those of `kept`."""
    pki, peers = spec.pki, spec.pki.peer_ca
    separate, name = peers.separate, pki.peer_name
    if separate is None:
        separate = bool(peers.certificate) or (kept.peer_ca.separate if kept else not pki.ca.certificate)
    if name is None:
        name = PeerName.NONE if checks_peers_itself(spec) else kept.peer_name if kept else PeerName.REQUIRED
    return replace(spec, pki=replace(pki, peer_name=name, peer_ca=replace(peers, separate=separate)))


def checks_peers_itself(spec: ClusterSpec) -> bool:
    """Return whether etcd.options sets its own check of peer names; etcd accepts only one kind of check."""
    return any(name.startswith("peer-cert-allowed-") for name in spec.etcd.options)


def mac_of(cluster: str, index: int) -> str:
    """Return a MAC in QEMU's 52:54:00 range: the cluster's digest plus an index, so unique within the cluster."""
    start = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:3], "big")
    low = ((start + index) % (1 << 24)).to_bytes(3, "big")
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *low))
