"""`ClusterSpec`: the fields of a cluster file and their defaults.

A field's description says which values are valid. If a value is invalid, the message shows the description as a hint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from generator.config import values
from generator.config.auth import AuthSpec
from generator.config.etcd_options import option_schemas
from generator.config.fields import FieldProblem, list_of, list_or, mapping_of, scalar, section, section_of, setting
from generator.config.hosts import EngineKind, HostSpec, IncusSpec
from generator.config.pki import PkiSpec

AnyAddress = IPv4Address | IPv6Address
AnyNetwork = IPv4Network | IPv6Network

MAX_MEMBERS = 7  # etcd FAQ, "What is maximum cluster size?": no more than seven nodes


class FirewallKind(StrEnum):
    NONE = "none"
    FIREWALLD = "firewalld"
    IPTABLES = "iptables"
    NFTABLES = "nftables"
    UFW = "ufw"


class InstallMethod(StrEnum):
    PREINSTALLED = "preinstalled"
    PACKAGE = "package"
    ARCHIVE = "archive"


class JoinMode(StrEnum):
    """How a node joins: as a voter, or as a learner that becomes a voter when it has all data."""

    LEARNER = "learner"
    VOTER = "voter"


class NetworkMode(StrEnum):
    """How the VMs are connected.

    `nat`: bake creates a network; guests reach other networks through the host. `isolated`: bake creates a network;
    guests reach only each other and the host. `bridge`: an existing bridge of the host. `network`: an existing network
    of libvirt or Incus.
    """

    NAT = "nat"
    ISOLATED = "isolated"
    BRIDGE = "bridge"
    NETWORK = "network"

    @property
    def is_own(self) -> bool:
        """Whether bake creates the network, and removes it with the cluster."""
        return self in (NetworkMode.NAT, NetworkMode.ISOLATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A node in the field `nodes`."""

    name: str = setting(scalar(values.node_name), "the node's name, a host name label such as etcd1")
    address: AnyAddress | None = setting(
        scalar(values.address), "an address inside network.subnet; default: the next free address", default=None
    )
    mac: str | None = setting(
        scalar(values.mac),
        "the node's MAC, such as 52:54:00:12:34:56; default: chosen by bake",
        default=None,
    )
    host: str | None = setting(
        scalar(values.name), "a host in `hosts`, or an Incus member; default: chosen by bake", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    subnet: AnyNetwork = setting(
        scalar(values.network), "the cluster's network, such as 192.168.20.0/24", default=IPv4Network("192.168.20.0/24")
    )
    first_ip: AnyAddress | None = setting(
        scalar(values.address),
        "an address inside subnet for the first node; the next nodes get the next addresses; default: the subnet's "
        "address plus 31, such as 192.168.20.31, or plus 2 in a subnet with at most 64 addresses",
        default=None,
    )
    gateway: AnyAddress | None = setting(
        scalar(values.address),
        "an address inside network.subnet for the gateway; default: the subnet's first host address",
        default=None,
    )
    dns: tuple[AnyAddress, ...] = setting(
        list_of(scalar(values.address)),
        "addresses of the nodes' DNS servers; default: the gateway in mode `nat`, and no DNS server in other modes",
        default=(),
    )
    mode: NetworkMode = setting(
        scalar(values.word(NetworkMode)),
        "nat (VMs can reach other networks through the host), isolated (VMs reach only each other and the host), "
        "bridge (an existing bridge of the VMs' host) or network (an existing network of libvirt or Incus)",
        default=NetworkMode.NAT,
    )
    bridge: str | None = setting(
        scalar(values.interface),
        "the name of an existing bridge on the VMs' host, such as br0; only with `mode: bridge`",
        default=None,
    )
    vlan: int | None = setting(
        scalar(values.whole(1, 4094)),
        "the VLAN of the VMs on a bridge that filters VLANs, 1 to 4094; only with `mode: bridge` and libvirt 11",
        default=None,
    )
    name: str | None = setting(
        scalar(values.libvirt_name),
        "the name of an existing network of libvirt or Incus, such as default; only with `mode: network`",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdSpec:
    version: str = setting(
        scalar(values.release(*values.ETCD_SERIES)),
        f"the etcd release series on the nodes: {' or '.join(values.ETCD_SERIES)}",
        default="3.5",
    )
    client_port: int = setting(scalar(values.port), "the port for clients, 1 to 65535", default=2379)
    peer_port: int = setting(scalar(values.port), "the port for peers, 1 to 65535, not the client port", default=2380)
    data_dir: str = setting(
        scalar(values.data_dir), "etcd's data folder, below /var/lib/etcd", default="/var/lib/etcd/etcd"
    )
    token: str | None = setting(
        scalar(values.token),
        "etcd's option initial-cluster-token; default: a value unique to the cluster",
        default=None,
    )
    tls_min_version: str = setting(
        scalar(values.release("1.2", "1.3")), "the oldest TLS version that etcd accepts: 1.2 or 1.3", default="1.2"
    )
    cipher_suites: tuple[str, ...] = setting(
        list_of(scalar(values.choice(*values.CIPHER_SUITES))),
        "names of cipher suites for TLS 1.2, as in Go; not with `tlsMinVersion: 1.3`; default: chosen by etcd",
        default=(),
    )
    options: Mapping[str, Any] = setting(
        mapping_of(scalar(values.option), option_schemas()),
        "additional etcd options, such as `heartbeat-interval: 200`",
        default_factory=dict,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallSpec:
    kind: FirewallKind = setting(
        scalar(values.word(FirewallKind)),
        f"the firewall on the nodes: {', '.join(FirewallKind)}",
        default=FirewallKind.NFTABLES,
    )
    client_cidrs: tuple[AnyNetwork | str, ...] = setting(
        list_of(scalar(values.network_or_subnet)),
        "networks that may connect to the client port; the word `subnet` means network.subnet; default: every network",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSpec:
    method: InstallMethod = setting(
        scalar(values.word(InstallMethod)),
        f"how nodes get etcd: {', '.join(InstallMethod)}",
        default=InstallMethod.PREINSTALLED,
    )
    packages: tuple[str, ...] = setting(
        list_of(scalar(values.package)),
        "packages that each node installs, such as acl; with `method: package`, list the packages that contain etcd",
        default=(),
    )
    archive: str | None = setting(
        scalar(values.path_text), "path of an etcd release tarball (.tar.gz); only with `method: archive`", default=None
    )
    sha256: str | None = setting(
        scalar(values.sha256), "the tarball's sha256 as 64 hex digits; only with `method: archive`", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSpec:
    readers: tuple[str, ...] = setting(
        list_of(scalar(values.reader)),
        "accounts on each node that may read the node's client certificate and key, such as the account backup",
        default=(),
    )
    ssh_keys: tuple[str, ...] = setting(
        list_of(scalar(values.ssh_key)),
        "SSH public keys that may log in as root on every node; default: none, and no SSH server of bake's image runs",
        default=(),
    )
    root_shell: bool = setting(
        scalar(values.flag),
        "a root shell without a password on each node's serial console, for debugging: true or false",
        default=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    memory: int = setting(scalar(values.whole(256, 1 << 20)), "memory of each VM in MiB, 256 or more", default=1024)
    cpus: int = setting(scalar(values.whole(1, 256)), "virtual CPUs of each VM, 1 to 256", default=1)
    disk: int = setting(scalar(values.whole(2, 1 << 14)), "disk of each VM in GiB, 2 or more", default=8)
    data_disk: int = setting(
        scalar(values.whole(0, 1 << 14)),
        "a second disk of each VM for etcd's data, in GiB; 0: etcd's data is on the VM's first disk",
        default=8,
    )
    image: str | None = setting(
        scalar(values.path_text), "path or URL of a cloud image; default: the image that bake builds", default=None
    )
    sha256: str | None = setting(
        scalar(values.sha256), "the image's sha256 as 64 hex digits; required if image is a URL", default=None
    )
    firmware: str = setting(
        scalar(values.choice("bios", "efi")), "how a cloud image boots: bios or efi", default="bios"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A whole `cluster.yaml`."""

    api_version: str = setting(
        scalar(values.choice("bake/v1")), "the version of the format: bake/v1", default="bake/v1"
    )
    name: str = setting(
        scalar(values.cluster_name), "the cluster's name, a host name label such as etcd", default="etcd"
    )
    nodes: int | tuple[NodeSpec, ...] = setting(
        list_or(
            list_of(section_of(NodeSpec)).limited(minItems=1, maxItems=MAX_MEMBERS),
            scalar(values.whole()).limited(minimum=1, maximum=MAX_MEMBERS),
        ),
        "the number of nodes (1 to 7; 3 or 5 recommended), or a list of nodes with name and address",
        default=3,
    )
    network: NetworkSpec = section(NetworkSpec)
    pki: PkiSpec = section(PkiSpec)
    etcd: EtcdSpec = section(EtcdSpec)
    firewall: FirewallSpec = section(FirewallSpec)
    install: InstallSpec = section(InstallSpec)
    join: JoinMode = setting(
        scalar(values.word(JoinMode)),
        "how a node joins: as a learner (safe) or as a voter (can block writes while the node joins)",
        default=JoinMode.LEARNER,
    )
    auth: AuthSpec = section(AuthSpec, flag="enabled")
    access: AccessSpec = section(AccessSpec)
    vm: VmSpec = section(VmSpec)
    engine: EngineKind = setting(
        scalar(values.word(EngineKind)),
        "what runs the nodes: libvirt (VMs) or incus (containers of an Incus server or cluster)",
        default=EngineKind.LIBVIRT,
    )
    incus: IncusSpec = section(IncusSpec)
    hosts: tuple[HostSpec, ...] = setting(
        list_of(section_of(HostSpec)),
        "the libvirt hosts of the VMs, with name and uri; default: the host of --connect",
        default=(),
    )


def read_spec(data: Mapping[str, Any]) -> tuple[ClusterSpec, list[FieldProblem]]:
    """Return the spec for the data of a cluster file, and every problem in the data."""
    wrong: list[FieldProblem] = []
    spec: ClusterSpec = section_of(ClusterSpec)(data, (), wrong)
    return spec, wrong


# Fields that older versions of bake did not have. A field that is missing in an old cluster.yaml gets its value from
# FIELDS_ADDED, so that the cluster does not change.
FIELDS_ADDED: Mapping[tuple[str, ...], Any] = {
    ("pki", "nameConstraints"): "all",
    ("pki", "peerName"): "none",
    ("pki", "peerCa", "separate"): False,
    ("vm", "dataDisk"): 0,
}
