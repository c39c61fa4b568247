"""Values that follow from several fields: the nodes' names, addresses and hosts, the gateway, the DNS domain. Pure.

The functions are not in the module `plan`, because the module `rules` needs the values before a plan exists.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from generator.config.hosts import place
from generator.config.pki import PeerName, PkiSpec
from generator.config.spec import AnyAddress, ClusterSpec

FIRST_HOST = 31  # in the manual procedure that bake automates, the first node's address ends in .31


def node_names(spec: ClusterSpec) -> list[str]:
    """Return the names of the nodes. Default names are `etcd1`, `etcd2`, …"""
    if isinstance(spec.nodes, int):
        return [f"etcd{number}" for number in range(1, spec.nodes + 1)]
    return [node.name for node in spec.nodes]


def node_addresses(spec: ClusterSpec) -> list[AnyAddress]:
    """Return the nodes' addresses. A node without an address in the spec gets the next free address, beginning with
    `first_address`.

    If the subnet is too small, an address can be outside the subnet, and the module `rules` refuses the address.
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
    """Return the nodes' MACs. Each default MAC depends on the cluster's name and on the node's position."""
    given = [None] * spec.nodes if isinstance(spec.nodes, int) else [node.mac for node in spec.nodes]
    return [mac or mac_of(spec.name, index) for index, mac in enumerate(given, start=1)]


def node_pins(spec: ClusterSpec) -> list[str | None]:
    """Return for each node the host that the spec names, or None."""
    return [None] * spec.nodes if isinstance(spec.nodes, int) else [node.host for node in spec.nodes]


def node_hosts(spec: ClusterSpec) -> list[str]:
    """Return the name of each node's host. The names are empty if the spec has no hosts."""
    return place(spec.hosts, node_pins(spec))


def first_address(spec: ClusterSpec) -> AnyAddress:
    """Return `network.firstIp`, or by default the network address plus 31 (plus 2 in a small subnet)."""
    subnet = spec.network.subnet
    if spec.network.first_ip:
        return spec.network.first_ip
    if subnet.num_addresses > 64:
        return subnet.network_address + FIRST_HOST
    return _next_address(_next_address(subnet.network_address))


def gateway_of(spec: ClusterSpec) -> AnyAddress:
    """Return the gateway's address, by default the subnet's first host address."""
    return spec.network.gateway or _next_address(spec.network.subnet.network_address)


def _next_address(address: AnyAddress) -> AnyAddress:
    """Return the next address. For the highest address, return 0.0.0.0 or `::`, which the module `rules` refuses."""
    return type(address)((int(address) + 1) % (1 << address.max_prefixlen))


def mac_of(cluster: str, index: int) -> str:
    """Return a MAC that begins with QEMU's prefix 52:54:00. `index` makes the MAC unique in the cluster."""
    start = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:3], "big")
    low = ((start + index) % (1 << 24)).to_bytes(3, "big")
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *low))


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
