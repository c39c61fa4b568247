"""`ClusterSpec`: what a user may say, with its defaults. Nothing here is derived; that is `plan`'s work.

Field descriptions are shown to the user as the remedy when a value is refused, so each says what a good value is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainSerializer, Tag
from pydantic.alias_generators import to_camel

AnyAddress = IPv4Address | IPv6Address
AnyNetwork = IPv4Network | IPv6Network

MAX_MEMBERS = 7  # etcd FAQ, "What is maximum cluster size?": no more than seven nodes
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


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
    """`nat`: guests reach the outside through the host. `isolated`: guests reach only each other and the host."""

    NAT = "nat"
    ISOLATED = "isolated"


def shown(value: object) -> str:
    """A value as a message shows it: in quotes, everything unprintable escaped, cut to a sensible length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse(value: object, rule: str) -> ValueError:
    return ValueError(f"{shown(value)} {rule}")


def parse_name(value: object) -> str:
    """An RFC 1123 label, lower case; not all digits, so that it is never taken for an address."""
    if not isinstance(value, str):
        raise _refuse(value, "is not a string")
    if not _LABEL.fullmatch(value):
        raise _refuse(value, "is not a host name label: 1 to 63 of a-z, 0-9 and '-', no '-' at either end (RFC 1123)")
    if value.isdigit():
        raise _refuse(value, "is all digits; a host name needs a letter")
    return value


def parse_domain(value: object) -> str:
    """Dot-separated RFC 1123 labels, two or more, at most 200 characters in all."""
    if not isinstance(value, str) or "." not in value or len(value) > 200:
        raise _refuse(value, "is not a domain of two or more labels")
    if not all(_LABEL.fullmatch(label) for label in value.split(".")):
        raise _refuse(value, "has a label that is not a host name label (RFC 1123)")
    return value


def parse_address(value: object) -> AnyAddress:
    """An IPv4 or IPv6 address in its usual notation: no prefix length, no zone, no leading zeros."""
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    if not isinstance(value, str) or "%" in value or not value.isascii():
        raise _refuse(value, "is not an IP address")
    try:
        address = ip_address(value)
    except ValueError:
        raise _refuse(value, "is not an IP address") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise _refuse(value, "is an IPv4-mapped IPv6 address; write the IPv4 address")
    return address


def parse_network(value: object) -> AnyNetwork:
    """A network in CIDR notation with no host bits set."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str) or "/" not in value or not value.isascii():
        raise _refuse(value, "is not a network in CIDR notation")
    try:
        return ip_network(value)
    except ValueError as error:
        rule = "has host bits set" if "host bits" in str(error) else "is not a network in CIDR notation"
        raise _refuse(value, rule) from None


def parse_text(value: object, *, limit: int) -> str:
    """Printable ASCII of at most `limit` characters: it goes into certificates, YAML and env files."""
    if not isinstance(value, str):
        raise _refuse(value, "is not a string")
    if not _PRINTABLE.fullmatch(value):
        raise _refuse(value, "has characters other than printable ASCII")
    if not 0 < len(value) <= limit:
        raise _refuse(value, f"is not 1 to {limit} characters long")
    return value


def parse_mac(value: object) -> str:
    """A unicast MAC address in lower case: networkd compares it as text."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", value):
        raise _refuse(value, "is not a MAC address: six pairs of 0-9 and a-f in lower case, with colons")
    if int(value[:2], 16) & 1 or value == "00:00:00:00:00:00":
        raise _refuse(value, "is not the address of one network card")
    return value


def parse_sha256(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise _refuse(value, "is not a sha256 in hex: 64 of 0-9 and a-f")
    return value


def parse_token(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise _refuse(value, "is not 1 to 64 of letters, digits, '.', '_' and '-'")
    return value


def parse_country(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z]{2}", value):
        raise _refuse(value, "is not two capital letters (ISO 3166)")
    return value


def parse_package(value: object) -> str:
    """A package's name as dpkg and rpm have them, with a version or an architecture; never an option of apt's."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+:~=_-]{0,127}", value):
        raise _refuse(value, "is not a package's name")
    return value


def parse_option(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise _refuse(value, "is not a number, true, false or text")
    return value


def parse_version(value: object) -> object:
    """Without quotes, 3.6 is a number in YAML."""
    return str(value) if isinstance(value, float) else value


def parse_data_dir(value: object) -> str:
    """Below etcd's home, where the unit's sandbox lets etcd write and where nothing else lives."""
    if not isinstance(value, str) or not re.fullmatch(r"/var/lib/etcd(/[A-Za-z0-9_][A-Za-z0-9._-]*)+", value):
        raise _refuse(value, "is not a path below /var/lib/etcd")
    return value


def _list_to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _member_of(kind: type[StrEnum]) -> Callable[[object], StrEnum]:
    def parse(value: object) -> StrEnum:
        if isinstance(value, str) and value in list(kind):
            return kind(value)
        raise _refuse(value, f"is not one of {', '.join(kind)}")

    return parse


def _one_of(kind: type[StrEnum]) -> Any:
    return Annotated[kind, BeforeValidator(_member_of(kind))]


_as_text = PlainSerializer(str, return_type=str)
Name = Annotated[str, BeforeValidator(parse_name)]
Domain = Annotated[str, BeforeValidator(parse_domain)]
Address = Annotated[AnyAddress, BeforeValidator(parse_address), _as_text]
Network = Annotated[AnyNetwork, BeforeValidator(parse_network), _as_text]
Text64 = Annotated[str, BeforeValidator(partial(parse_text, limit=64))]
PathText = Annotated[str, BeforeValidator(partial(parse_text, limit=1024))]
Country = Annotated[str, BeforeValidator(parse_country)]
Package = Annotated[str, BeforeValidator(parse_package)]
Mac = Annotated[str, BeforeValidator(parse_mac)]
Sha256 = Annotated[str, BeforeValidator(parse_sha256)]
Token = Annotated[str, BeforeValidator(parse_token)]
Port = Annotated[int, Field(ge=1, le=65535)]
Days = Annotated[int, Field(ge=2, le=36500)]  # the first day lies in the past: certificates are backdated
OptionValue = Annotated[Any, BeforeValidator(parse_option)]


def _nodes_kind(value: object) -> str:
    return "list" if isinstance(value, list | tuple) else "count"


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, alias_generator=to_camel, populate_by_name=True
    )


class NodeSpec(_Section):
    """One node, when the nodes are listed rather than counted."""

    name: Name = Field(description="a host name label such as etcd1")
    address: Address | None = Field(
        default=None, description="an address inside network.subnet; left out, the next free one"
    )
    mac: Mac | None = Field(
        default=None, description="a MAC such as 52:54:00:12:34:56, of a machine that has its own; left out, bake's"
    )


class NetworkSpec(_Section):
    subnet: Network = Field(
        default=IPv4Network("192.168.20.0/24"), description="the cluster's network, such as 192.168.20.0/24"
    )
    first_ip: Address | None = Field(
        default=None, description="the first node's address inside subnet, such as 192.168.20.31; the others follow"
    )
    gateway: Address | None = Field(
        default=None, description="the gateway inside subnet; left out, the subnet's first address"
    )
    dns: Annotated[tuple[Address, ...], BeforeValidator(_list_to_tuple)] = Field(
        default=(), description="name servers for the guests, a list of addresses; left out, with mode nat the gateway"
    )
    mode: _one_of(NetworkMode) = Field(  # type: ignore[valid-type]
        default=NetworkMode.NAT, description="nat (guests reach the outside) or isolated"
    )


class SubjectSpec(_Section):
    """The subject of every certificate, apart from its common name."""

    country: Country | None = Field(default=None, description="two letters such as CN")
    state: Text64 | None = Field(default=None, description="such as Shanghai")
    locality: Text64 | None = Field(default=None, description="such as Shanghai")
    organization: Text64 | None = Field(default=None, description="such as k8s")
    client_organization: Text64 | None = Field(
        default=None, description="the organization of client certificates, if it differs, such as system:masters"
    )


class PkiSpec(_Section):
    key_type: _one_of(KeyType) = Field(  # type: ignore[valid-type]
        default=KeyType.ECDSA_P256, description=f"one of {', '.join(KeyType)}"
    )
    ca_days: Days = Field(default=3650, description="validity of the CA in days, 2 to 36500")
    leaf_days: Days = Field(default=365, description="validity of the other certificates in days, 2 to caDays")
    certificates: _one_of(Certificates) = Field(  # type: ignore[valid-type]
        default=Certificates.PER_NODE, description="per-node (each names only its node) or shared"
    )
    extensions: _one_of(Extensions) = Field(  # type: ignore[valid-type]
        default=Extensions.STRICT, description="strict (RFC 5280) or document (the document's, to the letter)"
    )
    domain: Domain | None = Field(
        default=None, description="the nodes' domain, such as etcd.internal: node etcd1 is etcd1.etcd.internal"
    )
    single_label_names: bool = Field(
        default=False, description="true adds localhost and the bare node names, which RFC 5280 linters refuse"
    )
    subject: SubjectSpec = SubjectSpec()


class EtcdSpec(_Section):
    version: Annotated[Literal["3.5", "3.6"], BeforeValidator(parse_version)] = Field(
        default="3.5", description="the etcd release series on the nodes: 3.5 or 3.6"
    )
    client_port: Port = Field(default=2379, description="the port for clients, 1 to 65535")
    peer_port: Port = Field(default=2380, description="the port for peers, 1 to 65535, not the client port")
    data_dir: Annotated[str, BeforeValidator(parse_data_dir)] = Field(
        default="/var/lib/etcd/etcd", description="an absolute path below /var/lib/etcd"
    )
    token: Token | None = Field(
        default=None, description="initial-cluster-token; left out, a value that belongs to this cluster's CA alone"
    )
    options: dict[str, OptionValue] = Field(
        default_factory=dict, description="further etcd options by flag name, such as heartbeat-interval: 200"
    )


class FirewallSpec(_Section):
    kind: _one_of(FirewallKind) = Field(  # type: ignore[valid-type]
        default=FirewallKind.NFTABLES, description=f"one of {', '.join(FirewallKind)}"
    )
    client_cidrs: Annotated[tuple[Network, ...], BeforeValidator(_list_to_tuple)] = Field(
        default=(), description="networks that may reach the client port; left out, every network"
    )


class InstallSpec(_Section):
    method: _one_of(InstallMethod) = Field(  # type: ignore[valid-type]
        default=InstallMethod.PREINSTALLED, description=f"one of {', '.join(InstallMethod)}"
    )
    packages: Annotated[tuple[Package, ...], BeforeValidator(_list_to_tuple)] = Field(
        default=(),
        description="what the nodes install from their repositories: etcd itself (method package), acl, a firewall",
    )
    archive: PathText | None = Field(
        default=None, description="with method archive: the path of an etcd release tarball (.tar.gz)"
    )
    sha256: Sha256 | None = Field(default=None, description="with method archive: the tarball's sha256, 64 hex digits")


class VmSpec(_Section):
    memory: int = Field(default=1024, ge=256, le=1 << 20, description="memory of each VM in MiB, 256 or more")
    cpus: int = Field(default=1, ge=1, le=256, description="virtual CPUs of each VM, 1 to 256")
    disk: int = Field(default=8, ge=2, le=1 << 14, description="disk of each VM in GiB, 2 or more")
    image: PathText | None = Field(
        default=None, description="a cloud image, file or URL; left out, the image that bake builds"
    )
    sha256: Sha256 | None = Field(default=None, description="the image's sha256, 64 hex digits; a URL needs it")
    firmware: Literal["bios", "efi"] = Field(default="bios", description="how a cloud image boots: bios or efi")


class ClusterSpec(_Section):
    """A whole `cluster.yaml`."""

    api_version: Literal["bake/v1"] = Field(default="bake/v1", description="write bake/v1")
    name: Name = Field(default="etcd", description="the cluster's name, a host name label such as etcd")
    nodes: Annotated[
        Annotated[int, Tag("count")]
        | Annotated[tuple[NodeSpec, ...], BeforeValidator(_list_to_tuple), Tag("list")],
        Discriminator(_nodes_kind),
    ] = Field(default=3, description="how many nodes (1 to 7, best 3 or 5), or a list of name and address")
    network: NetworkSpec = NetworkSpec()
    pki: PkiSpec = PkiSpec()
    etcd: EtcdSpec = EtcdSpec()
    firewall: FirewallSpec = FirewallSpec()
    install: InstallSpec = InstallSpec()
    join: _one_of(JoinMode) = Field(  # type: ignore[valid-type]
        default=JoinMode.LEARNER, description="learner (safe) or voter (as in the document)"
    )
    vm: VmSpec = VmSpec()
