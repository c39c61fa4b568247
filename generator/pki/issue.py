"""Issue the certificates of a `ClusterPlan`; valid existing ones are kept. Clock and key source are arguments."""

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
    authority_roles,
    ca_profile,
    client_profile,
    issuer_of,
    node_profiles,
    shared_profiles,
    user_profile,
)
from generator.plan import ClusterPlan

# A guest whose clock is behind must not refuse its own certificates (a VM's first boot often precedes NTP).
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
    """Yield each node's certificates in the plan's order, one node at a time to limit memory.

    `peer_authority` issues the peer certificates; without it, `authority` does. `kept`: the existing sets in the same
    order, whose valid certificates are kept. A shared set is also the operator's, as in the document, and contains
    the `client` certificate.
    """
    issuers = {Role.PEER: peer_authority} if peer_authority else {}
    if plan.spec.pki.certificates is Certificates.SHARED:
        shared = {**next(iter(kept), {}), **({Role.CLIENT: client} if client else {})}
        one = _issue(shared_profiles(plan), authority, issuers, shared, now=now, new_key=new_key)
        yield from (one for _ in plan.nodes)
        return
    olds = iter(kept)
    for node in plan.nodes:
        yield _issue(node_profiles(plan, node), authority, issuers, next(olds, {}), now=now, new_key=new_key)


def issue_client(
    plan: ClusterPlan,
    authority: Issuer,
    *,
    now: datetime,
    user: str | None = None,
    kept: Credential | None = None,
    new_key: NewKey = generate_key,
) -> Credential:
    """Return the operator's client certificate, or that of an etcd user."""
    profile = user_profile(plan, user) if user else client_profile(plan)
    old = {Role.CLIENT: kept} if kept else {}
    return _issue({Role.CLIENT: profile}, authority, {}, old, now=now, new_key=new_key)[Role.CLIENT]


@contextmanager
def pregenerated_keys(
    key_type: KeyType, count: int, *, workers: int, new_key: NewKey = generate_key
) -> Iterator[NewKey]:
    """Yield a `new_key` that generates `count` RSA keys ahead on threads (RSA generation releases the GIL).

    EC keys are generated on demand: that is faster than passing them between threads.
    """
    if count < 2 or not key_type.startswith("rsa"):
        yield new_key
        return
    from concurrent.futures import ThreadPoolExecutor  # imported only for RSA keys

    pool = ThreadPoolExecutor(workers)
    made = deque(pool.submit(new_key, key_type) for _ in range(count))
    try:
        yield lambda wanted: made.popleft().result() if made and wanted is key_type else new_key(wanted)
    finally:  # an interrupt waits only for keys that are being generated
        pool.shutdown(cancel_futures=True)


def count_missing(
    plan: ClusterPlan,
    authorities: Mapping[Role, Issuer],
    *,
    now: datetime,
    client: Credential | None,
    kept: Iterable[NodePki],
    users: Mapping[str, Credential | None] = MappingProxyType({}),
) -> int:
    """Return how many keys the cluster still needs in addition to the existing certificates."""
    missing = len(set(authority_roles(plan.spec.pki)) - set(authorities))
    for one in planned_certificates(plan, client, kept, users):
        authority = authorities.get(issuer_of(plan.spec.pki, one.role))
        missing += not (one.old and authority and is_current(one.old, one.profile, authority, now=now))
    return missing


def days_limited_by_ca(
    plan: ClusterPlan,
    authorities: Mapping[Role, Issuer],
    client: Credential | None,
    kept: Iterable[NodePki],
    users: Mapping[str, Credential | None],
    *,
    now: datetime,
) -> int | None:
    """Return the validity in days of new certificates if their CA ends before `leafDays`; else None.

    An external CA chooses its own dates.
    """
    here = {role: one for role, one in authorities.items() if isinstance(one, Credential)}
    ends = {role: one.certificate.not_valid_after_utc for role, one in here.items()}
    latest = now - BACKDATE + timedelta(days=plan.spec.pki.leaf_days)
    early = {role: end for role, end in ends.items() if end < latest}
    cut = [
        early[role] - now
        for one in (planned_certificates(plan, client, kept, users) if early else ())
        if (role := issuer_of(plan.spec.pki, one.role)) in early
        and not (one.old and is_current(one.old, one.profile, authorities[role], now=now))
    ]
    return min(cut).days if cut else None


def user_stem(name: str) -> str:
    """Return the path of an etcd user's files below `pki/`, which also names the owner in `PlannedCertificate`."""
    return f"users/{name}"


class PlannedCertificate(NamedTuple):
    """A certificate of the plan, and the existing one.

    `owner`: a node, "operator", "shared" by all nodes, or "users/NAME".
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
    """Yield every certificate that the cluster's CAs issue."""
    yield PlannedCertificate("operator", Role.CLIENT, client_profile(plan), client)
    for name, credential in users.items():
        yield PlannedCertificate(user_stem(name), Role.CLIENT, user_profile(plan, name), credential)
    olds = iter(kept)
    if plan.spec.pki.certificates is Certificates.SHARED:
        old = next(olds, {})
        profiles = shared_profiles(plan)
        yield from (
            PlannedCertificate("shared", role, profiles[role], old.get(role)) for role in (Role.SERVER, Role.PEER)
        )
        return
    for node in plan.nodes:
        old = next(olds, {})
        for role, profile in node_profiles(plan, node).items():
            yield PlannedCertificate(node.name, role, profile, old.get(role))


def _issue(
    profiles: Mapping[Role, CertProfile],
    authority: Issuer,
    others: Mapping[Role, Issuer],
    kept: NodePki,
    *,
    now: datetime,
    new_key: NewKey,
) -> NodePki:
    """Return a set of certificates. `others` issue instead of `authority` for their roles."""
    issuers = {role: others.get(role, authority) for role in profiles}
    return {
        role: kept[role]
        if role in kept and is_current(kept[role], profile, issuers[role], now=now)
        else _sign(profile, new_key(profile.key_type), issuers[role], now=now)
        for role, profile in profiles.items()
    }


def _sign(profile: CertProfile, key: PrivateKey, authority: Issuer | None, *, now: datetime) -> Credential:
    """Return a certificate for `key`, self-signed without an authority. It never ends after its authority."""
    if isinstance(authority, ExternalCa):
        raise AssertionError("an external CA must have issued everything before this: a bug in bake")
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
    """Yield the SKI, and for a certificate that a CA issued the AKI (RFC 5280, 4.2.1.1 and 4.2.1.2)."""
    yield x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    if authority:
        ski = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        yield x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski.value), False


def is_current(credential: Credential, profile: CertProfile, authority: Issuer, *, now: datetime) -> bool:
    """Return whether an existing certificate is valid now and matches the profile exactly.

    For a certificate of an external CA, only the properties that the nodes check must match.
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
        and len(found) == len(profile.extensions) + 2  # SKI and AKI
        and key_type_of(credential.key) is profile.key_type
        and is_issued_by(certificate, authority.certificate)
        and is_pair(credential)
    )
