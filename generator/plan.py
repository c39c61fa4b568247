"""`plan_cluster`: from what the user said to every derived fact, computed once. Pure, total, deterministic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv6Address, ip_network
from uuid import UUID, uuid5

from generator.spec import (
    AnyAddress,
    AnyNetwork,
    Certificates,
    ClusterSpec,
    InstallMethod,
    NetworkMode,
    PeerName,
    PkiSpec,
)

# Everything bake names deterministically lives below this UUID (RFC 9562, section 5.5: version 5 name spaces).
_NAMESPACE = UUID("6ba5a4a6-55c5-5f7c-9d5b-2c1f6b0b6d5e")
FIRST_HOST = 31  # the document's first node is .31
ETCD_UID = 2380


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node: its names, addresses and URLs, and its part in the join."""

    name: str
    address: AnyAddress
    mac: str  # lower case, colons
    domain: str  # libvirt's name for the VM
    uuid: UUID
    fqdn: str  # <node>.<domain>
    client_url: str
    peer_url: str
    bootstrap: bool  # the one node that may begin the cluster
    initial_cluster: tuple[tuple[str, str], ...]  # (name, peer URL), as the document's etcd.conf has it
    dns_names: tuple[str, ...]  # SANs of this node
    addresses: tuple[AnyAddress, ...]  # IP SANs of this node


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """The libvirt network that the VMs share."""

    name: str
    bridge: str  # at most 15 characters (IFNAMSIZ)
    uuid: UUID
    mac: str
    subnet: AnyNetwork
    gateway: AnyAddress
    dns: tuple[AnyAddress, ...]
    mode: NetworkMode


@dataclass(frozen=True, slots=True, kw_only=True)
class VmPlan:
    """The size of each VM: memory in MiB, disk in GiB."""

    memory_mib: int
    cpus: int
    disk_gib: int
    firmware: str  # bios or efi; without meaning for an image that is booted by its kernel


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """Every derived fact of a cluster. `spec` is what it was derived from."""

    spec: ClusterSpec
    name: str
    nodes: tuple[NodePlan, ...]  # in join order; the first one bootstraps
    network: NetworkPlan
    vm: VmPlan
    binary_dir: str  # where etcd and etcdctl are on the nodes

    @cached_property
    def dns_names(self) -> tuple[str, ...]:
        """Every node's DNS names, for a certificate set that all nodes share."""
        return tuple(dict.fromkeys(name for node in self.nodes for name in node.dns_names))

    @cached_property
    def addresses(self) -> tuple[AnyAddress, ...]:
        """Every node's addresses, for a certificate set that all nodes share."""
        return tuple(dict.fromkeys(address for node in self.nodes for address in node.addresses))


def name_nodes(spec: ClusterSpec) -> list[str]:
    """The names of the nodes; counted ones are `etcd1`, `etcd2`, …"""
    if isinstance(spec.nodes, int):
        return [f"etcd{number}" for number in range(1, spec.nodes + 1)]
    return [node.name for node in spec.nodes]


def place_nodes(spec: ClusterSpec) -> list[AnyAddress]:
    """The addresses of the nodes: the stated ones, and for the others the next free ones from the first.

    An address may lie outside the subnet when the subnet is too small: `rules` refuses that.
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
    """The MACs of the nodes: the stated ones, else ones made from the cluster's name."""
    given = [None] * spec.nodes if isinstance(spec.nodes, int) else [node.mac for node in spec.nodes]
    return [mac or _mac(spec.name, index) for index, mac in enumerate(given, start=1)]


def first_address(spec: ClusterSpec) -> AnyAddress:
    """Where counting starts: `firstIp`, else .31, else (in a small subnet) the one after the first host."""
    subnet = spec.network.subnet
    if spec.network.first_ip:
        return spec.network.first_ip
    if subnet.num_addresses > 64:
        return subnet.network_address + FIRST_HOST
    return _after(_after(subnet.network_address))


def gateway_of(spec: ClusterSpec) -> AnyAddress:
    """The gateway, by default the subnet's first host address."""
    return spec.network.gateway or _after(spec.network.subnet.network_address)


def _after(address: AnyAddress) -> AnyAddress:
    """The next address; after the family's last one comes its first, which no rule accepts."""
    return type(address)((int(address) + 1) % (1 << address.max_prefixlen))


def domain_of(spec: ClusterSpec) -> str:
    """The nodes' DNS domain; `.internal` is reserved for private use (ICANN, 2024)."""
    return spec.pki.domain or f"{spec.name}.internal"


def peer_name(spec: ClusterSpec) -> str:
    """The DNS name in every peer certificate and in no other one: a node's name is directly below the domain."""
    return f"{spec.name}.peers.{domain_of(spec)}"


def url(address: AnyAddress, port: int) -> str:
    """`https://address:port`, with brackets around IPv6 (RFC 3986, section 3.2.2)."""
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return f"https://{host}:{port}"


def settle_peers(spec: ClusterSpec, kept: PkiSpec | None = None) -> ClusterSpec:
    """Fill in what the spec leaves open about its peers: as in `kept`, where the cluster was baked before."""
    pki, peers = spec.pki, spec.pki.peer_ca
    separate, name = peers.separate, pki.peer_name
    if separate is None:
        separate = bool(peers.certificate) or (kept.peer_ca.separate if kept else not pki.ca.certificate)
    if name is None:
        name = PeerName.NONE if checks_peers_itself(spec) else kept.peer_name if kept else PeerName.REQUIRED
    return replace(spec, pki=replace(pki, peer_name=name, peer_ca=replace(peers, separate=separate)))


def checks_peers_itself(spec: ClusterSpec) -> bool:
    """Whether the cluster file has a check of peers' names of its own; etcd takes one kind of check only."""
    return any(name.startswith("peer-cert-allowed-") for name in spec.etcd.options)


def plan_cluster(spec: ClusterSpec) -> ClusterPlan:
    """Derive everything from a spec that `rules.check_spec` accepts."""
    spec = settle_peers(spec)
    names, addresses, macs = name_nodes(spec), place_nodes(spec), place_macs(spec)
    peers = [
        (name, url(address, spec.etcd.peer_port)) for name, address in zip(names, addresses, strict=True)
    ]
    return ClusterPlan(
        spec=spec,
        name=spec.name,
        nodes=tuple(_plan_node(spec, index, addresses[index], macs[index], peers) for index in range(len(names))),
        network=_plan_network(spec),
        vm=VmPlan(
            memory_mib=spec.vm.memory, cpus=spec.vm.cpus, disk_gib=spec.vm.disk, firmware=spec.vm.firmware
        ),
        binary_dir="/usr/local/bin" if spec.install.method is InstallMethod.ARCHIVE else "/usr/bin",
    )


def _plan_node(
    spec: ClusterSpec, index: int, address: AnyAddress, mac: str, peers: list[tuple[str, str]]
) -> NodePlan:
    name, peer_url = peers[index]
    fqdn = f"{name}.{domain_of(spec)}"
    # The document's "member add" prints the new member first, then those that are there already. A node that
    # joins computes the real list just before it starts; this one is what a reader of etcd.conf expects.
    initial = (peers[index], *reversed(peers[:index])) if index < 8 else (peers[index], peers[0])
    return NodePlan(
        name=name,
        address=address,
        mac=mac,
        domain=f"{spec.name}-{name}",
        uuid=uuid5(_NAMESPACE, f"{spec.name}/node/{name}"),
        fqdn=fqdn,
        client_url=url(address, spec.etcd.client_port),
        peer_url=peer_url,
        bootstrap=index == 0,
        initial_cluster=initial,
        dns_names=(fqdn, name, "localhost") if spec.pki.single_label_names else (fqdn,),
        addresses=(address,) if spec.pki.certificates is Certificates.SHARED else (address, *_LOOPBACK),
    )


_LOOPBACK = (ip_network("127.0.0.1").network_address, ip_network("::1").network_address)
LOOPBACK_NETWORKS = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def _plan_network(spec: ClusterSpec) -> NetworkPlan:
    return NetworkPlan(
        name=f"bake-{spec.name}",
        bridge=f"bk{hashlib.sha256(spec.name.encode()).hexdigest()[:10]}",
        uuid=uuid5(_NAMESPACE, f"{spec.name}/network"),
        mac=_mac(spec.name, 0),
        subnet=spec.network.subnet,
        gateway=gateway_of(spec),
        dns=spec.network.dns or _gateway_dns(spec),
        mode=spec.network.mode,
    )


def _gateway_dns(spec: ClusterSpec) -> tuple[AnyAddress, ...]:
    """Behind NAT the gateway answers name queries too (libvirt's dnsmasq does); nodes that install packages need it."""
    return (gateway_of(spec),) if spec.network.mode is NetworkMode.NAT else ()


def _mac(cluster: str, index: int) -> str:
    """An address in QEMU's 52:54:00 range: the cluster's digest plus an index, so unique within a cluster."""
    start = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:3], "big")
    low = ((start + index) % (1 << 24)).to_bytes(3, "big")
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *low))
