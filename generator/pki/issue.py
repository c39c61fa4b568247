"""Issue the certificates of a cluster, and keep existing certificates that are valid."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from generator.config.pki import Certificates, KeyType
from generator.layout import OPERATOR, SHARED
from generator.pki.csr import mismatches
from generator.pki.key_pair import (
    Credential,
    ExternalCa,
    Issuer,
    NewKey,
    NodePki,
    PrivateKey,
    Role,
    generate_key,
    is_issued_by,
    is_pair,
    key_type_of,
)
from generator.pki.templates import (
    CertProfile,
    ca_profile,
    client_profile,
    issuer_of,
    node_profiles,
    shared_profiles,
    user_profile,
)
from generator.plan import ClusterPlan
from generator.progress import working

# The validity of a certificate begins one day before bake issues the certificate. A VM with a slow clock would refuse a
# certificate whose validity begins at the moment of issue.
BACKDATE = timedelta(hours=24)


def create_authority(
    plan: ClusterPlan, role: Role = Role.CA, *, now: datetime, new_key: NewKey = generate_key
) -> Credential:
    """Return a new CA for the cluster."""
    profile = ca_profile(plan, role)
    return _sign(profile, new_key(profile.key_type), None, now=now)


def issue_nodes(
    plan: ClusterPlan,
    authority: Issuer,
    *,
    now: datetime,
    peer_authority: Issuer | None = None,
    client: Credential | None = None,
    kept: Iterable[NodePki] = (),
    new_key: NewKey = generate_key,
) -> Iterator[NodePki]:
    """Yield each node's certificates, in the order of `plan.nodes`.

    `peer_authority`: the CA for peer certificates. If `peer_authority` is None, `authority` issues the peer
    certificates. `kept`: the nodes' existing certificates, in the order of `plan.nodes`. A valid existing certificate
    is yielded unchanged. `client`: the operator's certificate. If all nodes share certificates, the operator's
    certificate is the nodes' client certificate.
    """
    issuers = {Role.SERVER: authority, Role.PEER: peer_authority or authority, Role.CLIENT: authority}
    if plan.spec.pki.certificates is Certificates.SHARED:
        shared = {**next(iter(kept), {}), **({Role.CLIENT: client} if client else {})}
        one = _issue(shared_profiles(plan), issuers, shared, now=now, new_key=new_key)
        yield from (one for _ in plan.nodes)
        return
    olds = iter(kept)
    for node in plan.nodes:
        yield _issue(node_profiles(plan, node), issuers, next(olds, {}), now=now, new_key=new_key)


def issue_client(
    plan: ClusterPlan,
    authority: Issuer,
    *,
    now: datetime,
    user: str | None = None,
    kept: Credential | None = None,
    new_key: NewKey = generate_key,
) -> Credential:
    """Return the client certificate of the etcd user `user`, or the operator's client certificate if `user` is None."""
    profile = user_profile(plan, user) if user else client_profile(plan)
    return issue_profile(profile, authority, now=now, kept=kept, new_key=new_key)


def issue_profile(
    profile: CertProfile,
    authority: Issuer,
    *,
    now: datetime,
    kept: Credential | None = None,
    new_key: NewKey = generate_key,
) -> Credential:
    """Return a client certificate with a profile. If the existing certificate `kept` is valid, return it unchanged."""
    old = {Role.CLIENT: kept} if kept else {}
    return _issue({Role.CLIENT: profile}, {Role.CLIENT: authority}, old, now=now, new_key=new_key)[Role.CLIENT]


@contextmanager
def pregenerated_keys(
    key_type: KeyType, count: int, *, workers: int, new_key: NewKey = generate_key
) -> Iterator[NewKey]:
    """Yield a function that generates keys. Threads generate the first `count` RSA keys in advance.

    EC keys are generated on demand, because generating an EC key is faster than handing it from one thread to another.
    """
    if count < 2 or not key_type.startswith("rsa"):
        yield new_key
        return
    from concurrent.futures import ThreadPoolExecutor  # imported only for RSA keys, because EC keys need no threads

    pool = ThreadPoolExecutor(workers)
    with working(f"generating {key_type} keys", count) as work:
        made = deque(pool.submit(new_key, key_type) for _ in range(count))
        for future in made:
            future.add_done_callback(lambda _: work.advance(1))
        try:
            yield lambda wanted: made.popleft().result() if made and wanted is key_type else new_key(wanted)
        finally:  # after Ctrl-C, wait only for keys that a thread is generating
            pool.shutdown(cancel_futures=True)


def days_limited_by_ca(
    plan: ClusterPlan, authorities: Mapping[Role, Issuer], roles: Iterable[Role], *, now: datetime
) -> int | None:
    """If a CA expires earlier than new certificates, return the number of days until the CA expires, else None.

    `roles`: the roles of the new certificates. An external CA is ignored, because it chooses the certificates' dates.
    """
    issuers = [authorities.get(issuer_of(plan.spec.pki, role)) for role in roles]
    ends = [one.certificate.not_valid_after_utc for one in issuers if isinstance(one, Credential)]
    latest = now - BACKDATE + timedelta(days=plan.spec.pki.leaf_days)
    return (min(ends) - now).days if ends and min(ends) < latest else None


def user_stem(name: str) -> str:
    """Return the path of an etcd user's certificate file in the folder `pki/`, without the suffix `.pem`."""
    return f"users/{name}"


class PlannedCertificate(NamedTuple):
    """A certificate that the cluster needs. `old`: the existing certificate, or None.

    `owner`: a node's name, "operator", "shared" (all nodes have this certificate) or "users/NAME".
    """

    owner: str
    role: Role
    profile: CertProfile
    old: Credential | None


def planned_certificates(
    plan: ClusterPlan,
    client: Credential | None,
    kept: Iterable[NodePki],
    users: Mapping[str, Credential | None] = MappingProxyType({}),
) -> Iterator[PlannedCertificate]:
    """Yield every certificate that the cluster needs."""
    yield PlannedCertificate(OPERATOR, Role.CLIENT, client_profile(plan), client)
    for name, credential in users.items():
        yield PlannedCertificate(user_stem(name), Role.CLIENT, user_profile(plan, name), credential)
    olds = iter(kept)
    if plan.spec.pki.certificates is Certificates.SHARED:
        old = next(olds, {})
        profiles = shared_profiles(plan)
        yield from (
            PlannedCertificate(SHARED, role, profiles[role], old.get(role)) for role in (Role.SERVER, Role.PEER)
        )
        return
    for node in plan.nodes:
        old = next(olds, {})
        for role, profile in node_profiles(plan, node).items():
            yield PlannedCertificate(node.name, role, profile, old.get(role))


def missing_certificates(
    plan: ClusterPlan, authorities: Mapping[Role, Issuer], planned: Iterable[PlannedCertificate], *, now: datetime
) -> list[PlannedCertificate]:
    """Return the certificates in `planned` that bake must issue, because no valid certificate exists."""
    issuers = {role: authorities.get(issuer_of(plan.spec.pki, role)) for role in Role}
    return [
        one
        for one in planned
        if not (one.old and (issuer := issuers[one.role]) and is_current(one.old, one.profile, issuer, now=now))
    ]


def _issue(
    profiles: Mapping[Role, CertProfile],
    issuers: Mapping[Role, Issuer],
    kept: NodePki,
    *,
    now: datetime,
    new_key: NewKey,
) -> NodePki:
    """Return a certificate for each profile. If the certificate in `kept` is not valid, issue a new certificate."""
    return {
        role: kept[role]
        if role in kept and is_current(kept[role], profile, issuers[role], now=now)
        else _sign(profile, new_key(profile.key_type), issuers[role], now=now)
        for role, profile in profiles.items()
    }


def _sign(profile: CertProfile, key: PrivateKey, authority: Issuer | None, *, now: datetime) -> Credential:
    """Return a certificate that the CA `authority` signs. If `authority` is None, the certificate is self-signed."""
    if isinstance(authority, ExternalCa):
        raise AssertionError("an external CA must sign this certificate: this is a bug in bake")
    start = (now - BACKDATE).replace(microsecond=0)
    issuer = authority.certificate.subject if authority else profile.subject
    if authority:
        start = max(start, authority.certificate.not_valid_before_utc)
    end = start + timedelta(days=profile.days)
    if authority:
        end = min(end, authority.certificate.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(profile.subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    for extension, critical in (*profile.extensions, *_identifiers(key, authority)):
        builder = builder.add_extension(extension, critical=critical)
    signer = authority.key if authority else key
    digest = hashes.SHA384() if profile.key_type is KeyType.ECDSA_P384 else hashes.SHA256()
    return Credential(builder.sign(signer, digest), key)


def _identifiers(key: PrivateKey, authority: Credential | None) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """Yield the subject key identifier and, if there is an `authority`, the authority key identifier (RFC 5280)."""
    yield x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    if authority:
        ski = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        yield x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski.value), False


def is_current(credential: Credential, profile: CertProfile, authority: Issuer, *, now: datetime) -> bool:
    """Return whether an existing certificate is valid now and matches the profile.

    If an external CA issued the certificate, only the properties that nodes check must match the profile.
    """
    if isinstance(authority, ExternalCa):
        return not any(mismatches(credential, profile, authority, now=now))
    certificate = credential.certificate
    found = {(ext.value, ext.critical) for ext in certificate.extensions}
    end = min(
        certificate.not_valid_before_utc + timedelta(days=profile.days),
        authority.certificate.not_valid_after_utc,
    )
    return (
        certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc == end
        and certificate.subject == profile.subject
        and set(profile.extensions) <= found
        and len(found) == len(profile.extensions) + 2  # `_sign` adds the subject and authority key identifiers
        and key_type_of(credential.key) is profile.key_type
        and is_issued_by(certificate, authority.certificate)
        and is_pair(credential)
    )
