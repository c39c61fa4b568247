"""`plan_cluster`: derive every name, address, URL and MAC of a cluster from the cluster's spec."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv6Address, ip_network
from typing import NamedTuple
from uuid import UUID, uuid5

from generator.config.hosts import EngineKind
from generator.config.pki import Certificates
from generator.config.placement import (
    domain_of,
    gateway_of,
    mac_of,
    node_addresses,
    node_hosts,
    node_macs,
    node_names,
    with_peer_defaults,
)
from generator.config.spec import AnyAddress, AnyNetwork, ClusterSpec, InstallMethod, NetworkMode
from generator.errors import BakeError

# The namespace of every UUID that bake derives (RFC 9562, section 5.5: version 5).
_NAMESPACE = UUID("6ba5a4a6-55c5-5f7c-9d5b-2c1f6b0b6d5e")
ETCD_UID = 2380
JOURNAL_PORT = "bake.journal"  # the name of the virtio port for the node's journal
JOURNAL_FIELDS = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_PID,_SYSTEMD_UNIT,UNIT"  # the fields that `bake logs` needs
DATA_DISK = "etcd-data"  # the serial of the data disk, and the label of its file system


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """A node's names, addresses and URLs, and whether the node may start the cluster."""

    name: str
    address: AnyAddress
    mac: str  # a MAC address in lower case, with colons
    domain: str  # libvirt's name for the VM
    uuid: UUID
    fqdn: str  # <node>.<domain>
    client_url: str
    peer_url: str
    host: str  # the name of the host in the spec's `hosts`, or "" if the spec has no hosts
    bootstrap: bool  # whether this node may start the cluster; true for the first node only
    initial_cluster: tuple[tuple[str, str], ...]  # each node's name and peer URL, in the order of the manual procedure
    dns_names: tuple[str, ...]  # DNS names in this node's certificates
    addresses: tuple[AnyAddress, ...]  # IP addresses in this node's certificates


class NetworkPlan(NamedTuple):
    """The network that the VMs share.

    In the modes `nat` and `isolated`, bake creates the libvirt network `name` with the bridge `bridge`. In the mode
    `network`, the network `name` exists. In the mode `bridge`, the bridge `bridge` exists, and there is no network.
    """

    name: str
    bridge: str  # the name of a Linux bridge has at most 15 characters (IFNAMSIZ)
    vlan: int | None
    uuid: UUID
    mac: str
    subnet: AnyNetwork
    gateway: AnyAddress
    dns: tuple[AnyAddress, ...]
    mode: NetworkMode


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """A cluster's spec, and all values that bake derives from the spec. The same spec always gives the same plan."""

    spec: ClusterSpec
    name: str
    nodes: tuple[NodePlan, ...]  # in join order; the first node starts the cluster
    network: NetworkPlan
    binary_dir: str  # the folder of the programs etcd and etcdctl on the nodes

    def select(self, names: Iterable[str]) -> list[NodePlan]:
        """Return the nodes with these names, in the plan's order. Raise BakeError for an unknown name."""
        wanted = set(names)
        if unknown := sorted(wanted - {node.name for node in self.nodes}):
            hint = f"the nodes are {', '.join(node.name for node in self.nodes)}"
            raise BakeError(f"{', '.join(unknown)}: not a node of the cluster {self.name}", hint=hint)
        return [node for node in self.nodes if node.name in wanted]

    @property
    def mounts_data_disk(self) -> bool:
        """Whether a node mounts the disk with etcd's data. Incus mounts the volume before a container starts."""
        return bool(self.spec.vm.data_disk) and self.spec.engine is EngineKind.LIBVIRT

    @cached_property
    def dns_names(self) -> tuple[str, ...]:
        """Every node's DNS names, for certificates that all nodes share."""
        return tuple(dict.fromkeys(name for node in self.nodes for name in node.dns_names))

    @cached_property
    def addresses(self) -> tuple[AnyAddress, ...]:
        """Every node's addresses, for certificates that all nodes share."""
        return tuple(dict.fromkeys(address for node in self.nodes for address in node.addresses))


def short_id(identity: str) -> str:
    """Return the first 16 digits of a cluster's identity, for VM tags and the default cluster token."""
    return identity[:16]


def url(address: AnyAddress, port: int) -> str:
    """Return `https://address:port`, with brackets around an IPv6 address (RFC 3986, section 3.2.2)."""
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return f"https://{host}:{port}"


def domain_name(cluster: str, node: str) -> str:
    """Return libvirt's name for a node's VM. The node need not be in the plan."""
    return f"{cluster}-{node}"


def domain_uuid(cluster: str, node: str) -> UUID:
    """Return the UUID of a node's VM. The node need not be in the plan."""
    return uuid5(_NAMESPACE, f"{cluster}/node/{node}")


def root_disk(spec: ClusterSpec) -> dict[str, str]:
    """Return the values of the fields that decide the content of the nodes' root disks, by the fields' names.

    If a value changes, a node needs a new root disk.
    """
    image = f"{spec.vm.image} {spec.vm.sha256}" if spec.vm.image else ""
    return {
        "vm.image": hashlib.sha256(image.encode()).hexdigest()[:12] if image else "base",
        "vm.disk": str(spec.vm.disk),
        "vm.firmware": spec.vm.firmware,
        "etcd.version": spec.etcd.version,
        "install.method": str(spec.install.method),
        "install.sha256": (spec.install.sha256 or "")[:12],
    }


def plan_cluster(spec: ClusterSpec) -> ClusterPlan:
    """Return the plan of a spec that `rules.check_spec` accepts."""
    spec = with_peer_defaults(spec)
    names, addresses, macs, hosts = node_names(spec), node_addresses(spec), node_macs(spec), node_hosts(spec)
    peers = [(name, url(address, spec.etcd.peer_port)) for name, address in zip(names, addresses, strict=True)]
    return ClusterPlan(
        spec=spec,
        name=spec.name,
        nodes=tuple(
            _plan_node(spec, index, addresses[index], macs[index], hosts[index], peers) for index in range(len(names))
        ),
        network=_plan_network(spec),
        binary_dir="/usr/local/bin" if spec.install.method is InstallMethod.ARCHIVE else "/usr/bin",
    )


def _plan_node(
    spec: ClusterSpec, index: int, address: AnyAddress, mac: str, host: str, peers: list[tuple[str, str]]
) -> NodePlan:
    name, peer_url = peers[index]
    fqdn = f"{name}.{domain_of(spec)}"
    # `initial` lists the new member first, like the output of `etcdctl member add` in the manual procedure. etcd does
    # not use `initial`, because etcd-join computes etcd's option `initial-cluster` just before etcd starts.
    initial = (peers[index], *reversed(peers[:index])) if index < 8 else (peers[index], peers[0])
    return NodePlan(
        name=name,
        address=address,
        mac=mac,
        domain=domain_name(spec.name, name),
        uuid=domain_uuid(spec.name, name),
        fqdn=fqdn,
        client_url=url(address, spec.etcd.client_port),
        peer_url=peer_url,
        host=host,
        bootstrap=index == 0,
        initial_cluster=initial,
        dns_names=(fqdn, name, "localhost") if spec.pki.single_label_names else (fqdn,),
        addresses=(address,) if spec.pki.certificates is Certificates.SHARED else (address, *_LOOPBACK),
    )


_LOOPBACK = (ip_network("127.0.0.1").network_address, ip_network("::1").network_address)
LOOPBACK_NETWORKS = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def _plan_network(spec: ClusterSpec) -> NetworkPlan:
    return NetworkPlan(
        name=spec.network.name or f"bake-{spec.name}",
        bridge=spec.network.bridge or f"bk{hashlib.sha256(spec.name.encode()).hexdigest()[:10]}",
        vlan=spec.network.vlan,
        uuid=uuid5(_NAMESPACE, f"{spec.name}/network"),
        mac=mac_of(spec.name, 0),
        subnet=spec.network.subnet,
        gateway=gateway_of(spec),
        # In network mode nat, libvirt's dnsmasq at the gateway resolves DNS names.
        dns=spec.network.dns or ((gateway_of(spec),) if spec.network.mode is NetworkMode.NAT else ()),
        mode=spec.network.mode,
    )
