"""The content of each kind of certificate: subject, validity and extensions.

etcd's server certificate needs clientAuth in addition to serverAuth, because etcd's gRPC gateway uses this certificate
as a client (etcd issue 9785).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from generator.config.pki import Certificates, Extensions, KeyType, NameConstraints, PeerName, PkiSpec
from generator.config.placement import domain_of, peer_name
from generator.config.spec import AnyAddress, ClusterSpec
from generator.pki.key_pair import NODE_ROLES, Role
from generator.plan import LOOPBACK_NETWORKS, ClusterPlan, NodePlan

_SERVER_AND_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


class CertProfile(NamedTuple):
    """The content of a certificate, except its public key and its dates."""

    key_type: KeyType
    subject: x509.Name
    days: int
    extensions: tuple[tuple[x509.ExtensionType, bool], ...]  # each extension, and whether the extension is critical


def authority_roles(pki: PkiSpec) -> tuple[Role, ...]:
    """Return the roles of the cluster's CAs."""
    return (Role.CA, Role.PEER_CA) if pki.peer_ca.separate else (Role.CA,)


def issuer_of(pki: PkiSpec, role: Role) -> Role:
    """Return the role of the CA that issues the certificates of `role`."""
    return Role.PEER_CA if role is Role.PEER and pki.peer_ca.separate else Role.CA


def ca_profile(plan: ClusterPlan, role: Role = Role.CA) -> CertProfile:
    """Return a CA's profile. Name constraints limit which certificates a thief of the CA key can issue."""
    strict = plan.spec.pki.extensions is Extensions.STRICT
    usage = (
        _key_usage("cert_sign", "crl_sign") if strict else _key_usage("cert_sign", "digital_signature", "encipherment")
    )
    basic = x509.BasicConstraints(ca=True, path_length=0 if strict else None)
    return CertProfile(
        key_type=plan.spec.pki.key_type,
        subject=_subject(plan, str(role)),
        days=plan.spec.pki.ca_days,
        extensions=((basic, True), (usage, True), *((each, True) for each in _name_constraints(plan))),
    )


def _name_constraints(plan: ClusterPlan) -> Iterator[x509.NameConstraints]:
    """Yield constraints that permit the nodes' domain and, with `all`, the cluster's subnet and loopback addresses.

    With `pki.singleLabelNames`, certificates have names without a domain, so any DNS name is permitted. An extension
    without constraints is invalid (RFC 5280, 4.2.1.10), so nothing is yielded if there are no constraints.
    """
    pki = plan.spec.pki
    limit = NameConstraints.NONE if _is_document(pki) else pki.name_constraints
    networks = (plan.network.subnet, *LOOPBACK_NETWORKS) if limit is NameConstraints.ALL else ()
    domains = () if pki.single_label_names or limit is NameConstraints.NONE else (domain_of(plan.spec),)
    if permitted := [*map(x509.DNSName, domains), *map(x509.IPAddress, networks)]:
        yield x509.NameConstraints(permitted, None)


def planned_names(plan: ClusterPlan, role: Role) -> Iterator[x509.GeneralName]:
    """Yield every name and address in the node certificates that the CA `role` issues."""
    # A node's peer certificate contains all names of the node's server certificate.
    leaf = Role.PEER if issuer_of(plan.spec.pki, Role.PEER) is role else Role.SERVER
    shared = plan.spec.pki.certificates is Certificates.SHARED
    for profiles in [shared_profiles(plan)] if shared else [node_profiles(plan, node) for node in plan.nodes]:
        for extension, _ in profiles[leaf].extensions:
            if isinstance(extension, x509.SubjectAlternativeName):
                yield from extension


def node_profiles(plan: ClusterPlan, node: NodePlan) -> dict[Role, CertProfile]:
    """Return the profiles of a node's three certificates, without names and addresses of other nodes."""
    peers = () if plan.spec.pki.peer_name is PeerName.NONE else (peer_name(plan.spec),)
    names = {role: (*node.dns_names, *(peers if role is Role.PEER else ())) for role in NODE_ROLES}

    def leaf(role: Role) -> CertProfile:
        # etcd's JSON gateway asks etcd with the server certificate. If a request has no header Accept, etcd takes the
        # user from this certificate's common name, and the node's user has all rights. No user has this name.
        hidden = role is Role.SERVER and plan.spec.auth.enabled
        owner, unit = (str(role), node.name) if hidden else (node.name, None)
        return _leaf(plan, role, _sans(names[role], node.addresses), owner=owner, unit=unit)

    return {role: leaf(role) for role in NODE_ROLES}


def peer_check(spec: ClusterSpec) -> tuple[str, str]:
    """Return the name and the value of the etcd option that limits the peer port to peer certificates.

    If the nodes share certificates, etcd checks the common name, because shared certificates may have no DNS name.
    """
    if spec.pki.certificates is Certificates.SHARED:
        return "peer-cert-allowed-cn", str(Role.PEER)
    return "peer-cert-allowed-hostname", peer_name(spec)


def has_peer_name(certificate: x509.Certificate, plan: ClusterPlan) -> bool:
    """Return whether etcd with the option from `peer_check` accepts the peer certificate."""
    option, name = peer_check(plan.spec)
    if option == "peer-cert-allowed-cn":
        return [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [name]
    sans = [one.value for one in certificate.extensions if isinstance(one.value, x509.SubjectAlternativeName)]
    return any(name in one.get_values_for_type(x509.DNSName) for one in sans)


def shared_profiles(plan: ClusterPlan) -> dict[Role, CertProfile]:
    """Return the profiles of certificates that all nodes share, with the addresses of all nodes."""
    names = plan.dns_names if plan.spec.pki.single_label_names or not _is_document(plan.spec.pki) else ()
    return {role: _leaf(plan, role, _sans(names, plan.addresses)) for role in NODE_ROLES}


def user_profile(plan: ClusterPlan, name: str) -> CertProfile:
    """Return the profile of an etcd user's client certificate, with the user's name as common name."""
    return _leaf(plan, Role.CLIENT, None, owner=name)


def application_profile(plan: ClusterPlan, name: str, *, named: bool) -> CertProfile:
    """Return the profile of an application's client certificate.

    `named`: whether the certificate has the application's name as common name, which is the etcd user. Without it, the
    name is only the organizational unit, which etcd ignores.
    """
    return user_profile(plan, name) if named else _leaf(plan, Role.CLIENT, None, owner="", unit=name)


def client_profile(plan: ClusterPlan) -> CertProfile:
    """Return the profile of the operator's client certificate.

    The certificate has names and addresses only if the nodes share certificates.
    """
    if plan.spec.pki.certificates is Certificates.SHARED:
        return shared_profiles(plan)[Role.CLIENT]
    return _leaf(plan, Role.CLIENT, None)


def _leaf(
    plan: ClusterPlan,
    role: Role,
    sans: x509.SubjectAlternativeName | None,
    owner: str | None = None,
    unit: str | None = None,
) -> CertProfile:
    """Return a profile. `owner`: the common name; None: the role; "": no common name. `unit`: default: the role."""
    pki = plan.spec.pki
    usages = (ExtendedKeyUsageOID.CLIENT_AUTH,) if role is Role.CLIENT else _SERVER_AND_CLIENT
    extensions = [*_usage_extensions(pki, role), (x509.ExtendedKeyUsage(usages), False)]
    if sans is not None:
        extensions.append((sans, False))
    return CertProfile(
        key_type=pki.key_type,
        subject=_subject(
            plan, str(role) if owner is None else owner, unit=unit or (str(role) if owner else None),
            client=role is Role.CLIENT,
        ),
        days=pki.leaf_days,
        extensions=tuple(extensions),
    )


def _usage_extensions(pki: PkiSpec, role: Role) -> Iterator[tuple[x509.ExtensionType, bool]]:
    leaf = x509.BasicConstraints(ca=False, path_length=None)
    if _is_document(pki):  # as in etcd-server.cnf and etcd-peer.cnf of the manual procedure
        server = role is Role.SERVER
        if server:
            yield leaf, False
        usages = ("digital_signature", "encipherment", *(("non_repudiation",) if server else ()))
        yield _key_usage(*usages), not server
        return
    yield leaf, True
    # keyEncipherment is for RSA key transport (RFC 5280, section 4.2.1.3), which EC keys do not support.
    rsa_too = ("encipherment",) if pki.key_type.startswith("rsa") else ()
    yield _key_usage("digital_signature", *rsa_too), True


def _is_document(pki: PkiSpec) -> bool:
    return pki.extensions is Extensions.DOCUMENT


def _key_usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital_signature" in uses,
        content_commitment="non_repudiation" in uses,
        key_encipherment="encipherment" in uses,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign="cert_sign" in uses,
        crl_sign="crl_sign" in uses,
        encipher_only=False,
        decipher_only=False,
    )


def _sans(names: Iterable[str], addresses: Iterable[AnyAddress]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([*map(x509.DNSName, names), *map(x509.IPAddress, addresses)])


def _subject(plan: ClusterPlan, common_name: str, *, unit: str | None = None, client: bool = False) -> x509.Name:
    subject = plan.spec.pki.subject
    organization = subject.organization or plan.name
    parts = [
        (NameOID.COUNTRY_NAME, subject.country),
        (NameOID.STATE_OR_PROVINCE_NAME, subject.state),
        (NameOID.LOCALITY_NAME, subject.locality),
        (NameOID.ORGANIZATION_NAME, (client and subject.client_organization) or organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        (NameOID.COMMON_NAME, common_name),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts if value])
