"""Defaults that depend on other fields: the nodes' names, addresses and MACs, the gateway, the domain, the peer CA.

`rules` uses these defaults too. `plan` computes all other derived values.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from generator.config.pki import PeerName, PkiSpec
from generator.config.spec import AnyAddress, ClusterSpec

FIRST_HOST = 31  # in the manual procedure, the first node's address ends in .31


def node_names(spec: ClusterSpec) -> list[str]:
    """Return the names of the nodes; the default is `etcd1`, `etcd2`, …"""
    if isinstance(spec.nodes, int):
        return [f"etcd{number}" for number in range(1, spec.nodes + 1)]
    return [node.name for node in spec.nodes]


def node_addresses(spec: ClusterSpec) -> list[AnyAddress]:
    """Return the nodes' addresses. A node without a stated address gets the next free one, from `first_address` on.

    If the subnet is too small, an address can lie outside the subnet; `rules` then refuses the spec.
    """
    given = [None] * spec.nodes if isinstance(spec.nodes, int) else [node.address for node in spec.nodes]
    taken = {address for address in given if address} | {gateway_of(spec)}
    candidate = first_address(spec)
    placed: list[AnyAddress] = []
    for address in given:
        if address is None:
            while candidate in taken:
                candidate = _next_address(candidate)
            address, candidate = candidate, _next_address(candidate)
        placed.append(address)
    return placed


def node_macs(spec: ClusterSpec) -> list[str]:
    """Return the nodes' MACs. A node without a stated MAC gets one that is derived from the cluster's name."""
    given = [None] * spec.nodes if isinstance(spec.nodes, int) else [node.mac for node in spec.nodes]
    return [mac or mac_of(spec.name, index) for index, mac in enumerate(given, start=1)]


def first_address(spec: ClusterSpec) -> AnyAddress:
    """Return `network.firstIp`; by default, the address 31 of the subnet, or in a small subnet the address 2."""
    subnet = spec.network.subnet
    if spec.network.first_ip:
        return spec.network.first_ip
    if subnet.num_addresses > 64:
        return subnet.network_address + FIRST_HOST
    return _next_address(_next_address(subnet.network_address))


def gateway_of(spec: ClusterSpec) -> AnyAddress:
    """Return the gateway, by default the subnet's first host address."""
    return spec.network.gateway or _next_address(spec.network.subnet.network_address)


def _next_address(address: AnyAddress) -> AnyAddress:
    """Return the next address. After the highest IP address, it is the lowest one, which `rules` refuses."""
    return type(address)((int(address) + 1) % (1 << address.max_prefixlen))


def domain_of(spec: ClusterSpec) -> str:
    """Return the nodes' DNS domain; `.internal` is reserved for private use (ICANN, 2024)."""
    return spec.pki.domain or f"{spec.name}.internal"


def peer_name(spec: ClusterSpec) -> str:
    """Return the DNS name that all peer certificates have and no other certificate has. No node can have this name."""
    return f"{spec.name}.peers.{domain_of(spec)}"


def with_peer_defaults(spec: ClusterSpec, kept: PkiSpec | None = None) -> ClusterSpec:
    """Return the spec with defaults for `pki.peerName` and `pki.peerCa`. `kept`: the values of an existing cluster."""
    pki, peers = spec.pki, spec.pki.peer_ca
    separate, name = peers.separate, pki.peer_name
    if separate is None:
        separate = bool(peers.certificate) or (kept.peer_ca.separate if kept else not pki.ca.certificate)
    if name is None:
        name = PeerName.NONE if sets_peer_check(spec) else kept.peer_name if kept else PeerName.REQUIRED
    return replace(spec, pki=replace(pki, peer_name=name, peer_ca=replace(peers, separate=separate)))


def sets_peer_check(spec: ClusterSpec) -> bool:
    """Return whether etcd.options sets a check of peer names; etcd accepts only one such check."""
    return any(name.startswith("peer-cert-allowed-") for name in spec.etcd.options)


def mac_of(cluster: str, index: int) -> str:
    """Return a MAC in QEMU's range 52:54:00. `index` makes the MAC unique within the cluster."""
    start = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:3], "big")
    low = ((start + index) % (1 << 24)).to_bytes(3, "big")
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *low))
