"""The section `pki` of a cluster file: CAs, certificates, and permissions of key files on the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from generator.config import values
from generator.config.fields import scalar, section, setting


class KeyType(StrEnum):
    """Algorithm and size of every key, including the CA's key."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


class Certificates(StrEnum):
    """`per-node`: a certificate names only one node. `shared`: all nodes have the same certificates."""

    PER_NODE = "per-node"
    SHARED = "shared"


class Extensions(StrEnum):
    """`strict`: certificate extensions as RFC 5280 requires.

    `document`: certificate extensions as in the manual procedure.
    """

    STRICT = "strict"
    DOCUMENT = "document"


class NameConstraints(StrEnum):
    """The name constraints of a CA that bake creates (RFC 5280, 4.2.1.10).

    - `none`: no limits.
    - `names`: DNS names must be in the nodes' domain. Addresses have no limits.
    - `all`: DNS names must be in the nodes' domain, and addresses in the cluster's subnet or loopback addresses.
    """

    NONE = "none"
    NAMES = "names"
    ALL = "all"


class PeerName(StrEnum):
    """The peer name, a DNS name that only peer certificates have.

    `none`: peer certificates lack the peer name. `stated`: peer certificates have the peer name, but etcd does not
    check it. `required`: etcd refuses a peer whose certificate lacks the peer name.
    """

    NONE = "none"
    STATED = "stated"
    REQUIRED = "required"


class Permissions(StrEnum):
    """The owner of etcd's key files on a node.

    `owner`: the key files belong to etcd and have mode 0400. `acl`: the key files belong to root and have an ACL.
    """

    OWNER = "owner"
    ACL = "acl"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectSpec:
    """The subject of every certificate, apart from its common name."""

    country: str | None = setting(scalar(values.country), "a country code of two letters, such as CN", default=None)
    state: str | None = setting(scalar(values.text64), "a state or province, such as Shanghai", default=None)
    locality: str | None = setting(scalar(values.text64), "a city, such as Shanghai", default=None)
    organization: str | None = setting(
        scalar(values.text64), "an organization, such as k8s; default: the cluster's name", default=None
    )
    client_organization: str | None = setting(
        scalar(values.text64),
        "the organization in client certificates, such as system:masters; default: the same as `organization`",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaSpec:
    """An existing CA. bake copies the CA's files to the cluster's folder once, and then uses the copies."""

    certificate: str | None = setting(
        scalar(values.path_text), "path of an existing CA certificate (PEM); default: bake creates a CA", default=None
    )
    key: str | None = setting(
        scalar(values.path_text),
        "path of the CA's key (PEM, may be encrypted); without a key, bake writes certificate requests for the CA",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCaSpec(CaSpec):
    """The CA for peer certificates. With a separate peer CA, the peer port accepts only certificates of the peer CA."""

    separate: bool | None = setting(
        scalar(values.flag),
        "use a separate CA for peer certificates; default for a new cluster: `false` if pki.ca is set, else `true`",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PkiSpec:
    key_type: KeyType = setting(
        scalar(values.word(KeyType)), f"the type of all keys: {', '.join(KeyType)}", default=KeyType.ECDSA_P256
    )
    ca_days: int = setting(scalar(values.days), "validity of the CA in days, 2 to 36500", default=3650)
    leaf_days: int = setting(
        scalar(values.days), "validity of node and client certificates in days, 2 to the value of `caDays`", default=365
    )
    certificates: Certificates = setting(
        scalar(values.word(Certificates)),
        "per-node (a certificate names only one node) or shared (all nodes have the same certificates)",
        default=Certificates.PER_NODE,
    )
    extensions: Extensions = setting(
        scalar(values.word(Extensions)),
        "certificate extensions: strict (as in RFC 5280) or document (as in the manual procedure that bake automates)",
        default=Extensions.STRICT,
    )
    name_constraints: NameConstraints = setting(
        scalar(values.word(NameConstraints)),
        "name constraints of the CAs that bake creates: none, names (limit DNS names) or all (limit also addresses, "
        "which clients with gRPC's C core refuse); no effect with `extensions: document`",
        default=NameConstraints.NAMES,
    )
    permissions: Permissions = setting(
        scalar(values.word(Permissions)),
        "who owns the key files on the nodes: owner (etcd, mode 0400) or acl (root, with an ACL for etcd)",
        default=Permissions.OWNER,
    )
    domain: str | None = setting(
        scalar(values.domain),
        "the nodes' DNS domain; in the domain etcd.internal, the node etcd1 has the DNS name etcd1.etcd.internal",
        default=None,
    )
    single_label_names: bool = setting(
        scalar(values.flag),
        "add short names such as localhost and etcd1 to certificates; linters for RFC 5280 reject short names",
        default=False,
    )
    peer_name: PeerName | None = setting(
        scalar(values.word(PeerName)),
        "a DNS name in peer certificates: `required` (etcd checks the name), `stated` (etcd does not check the name) or"
        " `none` (no name); default for a new cluster: `required`",
        default=None,
    )
    subject: SubjectSpec = section(SubjectSpec)
    ca: CaSpec = section(CaSpec)
    peer_ca: PeerCaSpec = section(PeerCaSpec)
