"""The section `pki` of a cluster file: the CA, the certificates, and who may read their keys on the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from generator.config import values
from generator.config.fields import one, section, setting


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
    key_type: KeyType = setting(one(values.word(KeyType)), f"one of {', '.join(KeyType)}", default=KeyType.ECDSA_P256)
    ca_days: int = setting(one(values.days), "validity of the CA in days, 2 to 36500", default=3650)
    leaf_days: int = setting(one(values.days), "validity of the other certificates in days, 2 to caDays", default=365)
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
