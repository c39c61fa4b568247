"""`ClusterSpec`: what a user may say, with its defaults. Nothing here is derived; that is `plan`'s work.

A setting's description is shown as the remedy when its value is refused, so each says what a good value is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from generator import values
from generator.access import AccessSpec
from generator.auth import AuthSpec
from generator.fields import Wrong, list_of, list_or, mapping_of, one, section, section_of, setting

AnyAddress = IPv4Address | IPv6Address
AnyNetwork = IPv4Network | IPv6Network

MAX_MEMBERS = 7  # etcd FAQ, "What is maximum cluster size?": no more than seven nodes


class KeyType(StrEnum):
    """Algorithm and size of every key, the CA's included."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


class Certificates(StrEnum):
    """`per-node`: a set that names only its node. `shared`: the document's one set that names every node."""

    PER_NODE = "per-node"
    SHARED = "shared"


class Extensions(StrEnum):
    """`strict`: what RFC 5280 and its linters want. `document`: the document's extensions to the letter."""

    STRICT = "strict"
    DOCUMENT = "document"


class PeerName(StrEnum):
    """The name that only peer certificates have. `stated`: they have it. `required`: etcd also refuses all others."""

    NONE = "none"
    STATED = "stated"
    REQUIRED = "required"


class Permissions(StrEnum):
    """Who owns etcd's keys on the nodes. `owner`: etcd, 0400. `acl`: root, with an ACL for etcd, as in the document."""

    OWNER = "owner"
    ACL = "acl"


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
    """How a node is added: as a learner that is promoted when it caught up, or as a voter at once."""

    LEARNER = "learner"
    VOTER = "voter"


class NetworkMode(StrEnum):
    """`nat`: guests reach the outside through the host. `isolated`: only each other and the host."""

    NAT = "nat"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One node, when the nodes are listed rather than counted."""

    name: str = setting(one(values.node_name), "a host name label such as etcd1")
    address: AnyAddress | None = setting(
        one(values.address), "an address inside network.subnet; left out, the next free one", default=None
    )
    mac: str | None = setting(
        one(values.mac),
        "a MAC such as 52:54:00:12:34:56, of a machine that has its own; left out, bake's",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    subnet: AnyNetwork = setting(
        one(values.network),
        "the cluster's network, such as 192.168.20.0/24",
        default=IPv4Network("192.168.20.0/24"),
    )
    first_ip: AnyAddress | None = setting(
        one(values.address),
        "the first node's address inside subnet, such as 192.168.20.31; the others follow",
        default=None,
    )
    gateway: AnyAddress | None = setting(
        one(values.address), "the gateway inside subnet; left out, the subnet's first address", default=None
    )
    dns: tuple[AnyAddress, ...] = setting(
        list_of(one(values.address)),
        "name servers for the guests, a list of addresses; left out, with mode nat the gateway",
        default=(),
    )
    mode: NetworkMode = setting(
        one(values.word(NetworkMode)), "nat (guests reach the outside) or isolated", default=NetworkMode.NAT
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectSpec:
    """The subject of every certificate, apart from its common name."""

    country: str | None = setting(one(values.country), "two letters such as CN", default=None)
    state: str | None = setting(one(values.text64), "such as Shanghai", default=None)
    locality: str | None = setting(one(values.text64), "such as Shanghai", default=None)
    organization: str | None = setting(one(values.text64), "such as k8s", default=None)
    client_organization: str | None = setting(
        one(values.text64),
        "the organization of client certificates, if it differs, such as system:masters",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaSpec:
    """A CA that exists already. Its files are read once: what the cluster's folder has from then on is its CA."""

    certificate: str | None = setting(
        one(values.path_text), "the path of a CA certificate of your own (PEM); left out, bake makes a CA", default=None
    )
    key: str | None = setting(
        one(values.path_text),
        "the path of that CA's private key (PEM), which may be encrypted; left out, bake makes requests for it to sign",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCaSpec(CaSpec):
    """A CA for the peers' certificates alone: the peer port then refuses every client certificate."""

    separate: bool | None = setting(
        one(values.flag),
        "true: a separate CA issues the peer certificates; left out, true for a new cluster (false with pki.ca of "
        "your own), unchanged for one that was baked before",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PkiSpec:
    key_type: KeyType = setting(
        one(values.word(KeyType)), f"one of {', '.join(KeyType)}", default=KeyType.ECDSA_P256
    )
    ca_days: int = setting(one(values.days), "validity of the CA in days, 2 to 36500", default=3650)
    leaf_days: int = setting(
        one(values.days), "validity of the other certificates in days, 2 to caDays", default=365
    )
    certificates: Certificates = setting(
        one(values.word(Certificates)),
        "per-node (each names only its node) or shared",
        default=Certificates.PER_NODE,
    )
    extensions: Extensions = setting(
        one(values.word(Extensions)),
        "strict (RFC 5280) or document (the document's, to the letter)",
        default=Extensions.STRICT,
    )
    permissions: Permissions = setting(
        one(values.word(Permissions)),
        "owner (on the nodes etcd owns its keys, 0400) or acl (root owns them, with an ACL for etcd)",
        default=Permissions.OWNER,
    )
    domain: str | None = setting(
        one(values.domain),
        "the nodes' domain, such as etcd.internal: node etcd1 is etcd1.etcd.internal",
        default=None,
    )
    single_label_names: bool = setting(
        one(values.flag),
        "true adds localhost and the bare node names, which RFC 5280 linters refuse",
        default=False,
    )
    peer_name: PeerName | None = setting(
        one(values.word(PeerName)),
        "required (the peer port serves peer certificates only), stated (a step on the way there) or none; left out, "
        "required for a new cluster, unchanged for one that was baked before",
        default=None,
    )
    subject: SubjectSpec = section(SubjectSpec)
    ca: CaSpec = section(CaSpec)
    peer_ca: PeerCaSpec = section(PeerCaSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdSpec:
    version: str = setting(
        one(values.version), "the etcd release series on the nodes: 3.5 or 3.6", default="3.5"
    )
    client_port: int = setting(one(values.port), "the port for clients, 1 to 65535", default=2379)
    peer_port: int = setting(
        one(values.port), "the port for peers, 1 to 65535, not the client port", default=2380
    )
    data_dir: str = setting(
        one(values.data_dir), "an absolute path below /var/lib/etcd", default="/var/lib/etcd/etcd"
    )
    token: str | None = setting(
        one(values.token),
        "initial-cluster-token; left out, a value that belongs to this cluster alone",
        default=None,
    )
    tls_min_version: str = setting(
        one(values.tls_version), "the oldest TLS version on both ports: 1.2 or 1.3", default="1.2"
    )
    cipher_suites: tuple[str, ...] = setting(
        list_of(one(values.cipher_suite)),
        "with tlsMinVersion 1.2, the suites for TLS 1.2 by their names in Go; left out, etcd's own choice",
        default=(),
    )
    options: Mapping[str, Any] = setting(
        mapping_of(one(values.option)),
        "further etcd options by flag name, such as heartbeat-interval: 200",
        default_factory=dict,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallSpec:
    kind: FirewallKind = setting(
        one(values.word(FirewallKind)), f"one of {', '.join(FirewallKind)}", default=FirewallKind.NFTABLES
    )
    client_cidrs: tuple[AnyNetwork | str, ...] = setting(
        list_of(one(values.network_or_subnet)),
        "networks that may reach the client port, or subnet for the cluster's own; left out, every network",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSpec:
    method: InstallMethod = setting(
        one(values.word(InstallMethod)),
        f"one of {', '.join(InstallMethod)}",
        default=InstallMethod.PREINSTALLED,
    )
    packages: tuple[str, ...] = setting(
        list_of(one(values.package)),
        "what the nodes install from their repositories: etcd itself (method package), acl, a firewall",
        default=(),
    )
    archive: str | None = setting(
        one(values.path_text),
        "with method archive: the path of an etcd release tarball (.tar.gz)",
        default=None,
    )
    sha256: str | None = setting(
        one(values.sha256), "with method archive: the tarball's sha256, 64 hex digits", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    memory: int = setting(
        one(values.whole(256, 1 << 20)), "memory of each VM in MiB, 256 or more", default=1024
    )
    cpus: int = setting(one(values.whole(1, 256)), "virtual CPUs of each VM, 1 to 256", default=1)
    disk: int = setting(one(values.whole(2, 1 << 14)), "disk of each VM in GiB, 2 or more", default=8)
    image: str | None = setting(
        one(values.path_text),
        "a cloud image, file or URL; left out, the image that bake builds",
        default=None,
    )
    sha256: str | None = setting(
        one(values.sha256), "the image's sha256, 64 hex digits; a URL needs it", default=None
    )
    firmware: str = setting(
        one(values.choice("bios", "efi")), "how a cloud image boots: bios or efi", default="bios"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A whole `cluster.yaml`."""

    api_version: str = setting(one(values.choice("bake/v1")), "write bake/v1", default="bake/v1")
    name: str = setting(
        one(values.name), "the cluster's name, a host name label such as etcd", default="etcd"
    )
    nodes: int | tuple[NodeSpec, ...] = setting(
        list_or(list_of(section_of(NodeSpec)), one(values.whole())),
        "how many nodes (1 to 7, best 3 or 5), or a list of name and address",
        default=3,
    )
    network: NetworkSpec = section(NetworkSpec)
    pki: PkiSpec = section(PkiSpec)
    etcd: EtcdSpec = section(EtcdSpec)
    firewall: FirewallSpec = section(FirewallSpec)
    install: InstallSpec = section(InstallSpec)
    join: JoinMode = setting(
        one(values.word(JoinMode)), "learner (safe) or voter (as in the document)", default=JoinMode.LEARNER
    )
    auth: AuthSpec = section(AuthSpec, flag="enabled")
    access: AccessSpec = section(AccessSpec)
    vm: VmSpec = section(VmSpec)


def read_spec(data: Mapping[str, Any]) -> tuple[ClusterSpec, list[Wrong]]:
    """The spec that plain data says, and every value in it that was refused."""
    wrong: list[Wrong] = []
    spec: ClusterSpec = section_of(ClusterSpec)(data, (), wrong)
    return spec, wrong


# Fields that the cluster.yaml of an older cluster may lack, with the value that was in force before there was such a
# field, where that is not the default: a newer bake must not change a cluster by a field that nobody could have set.
FIELDS_ADDED: Mapping[tuple[str, ...], Any] = {("pki", "peerName"): "none", ("pki", "peerCa", "separate"): False}
