"""`ClusterPlan` → the cluster's certificates. The clock and the source of keys are arguments.

What each kind of certificate says is decided in one part, `CertProfile`s. etcd's server certificate needs clientAuth as
well: its gRPC gateway dials the server with that same certificate (etcd issue 9785).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from generator.errors import InputError, Problem
from generator.plan import ClusterPlan, NodePlan
from generator.spec import AnyAddress, Certificates, Extensions, KeyType, PkiSpec

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
NewKey = Callable[[KeyType], PrivateKey]
# A guest whose clock is behind must not refuse its own certificates (a VM's first boot often precedes NTP).
BACKDATE = timedelta(hours=24)
_SERVER_AND_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


class Role(StrEnum):
    """What a certificate is for; also its file name, as in the document."""

    CA = "etcd-ca"
    SERVER = "etcd-server"
    PEER = "etcd-peer"
    CLIENT = "etcd-client"


NODE_ROLES = (Role.SERVER, Role.PEER, Role.CLIENT)


@dataclass(frozen=True)
class Credential:
    """A certificate and its private key; `repr` shows neither."""

    certificate: x509.Certificate = field(repr=False)
    key: PrivateKey = field(repr=False)

    @cached_property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @cached_property
    def key_pem(self) -> bytes:
        """PKCS#8, unencrypted: etcd cannot read any other (etcd security documentation)."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


NodePki = Mapping[Role, Credential]


@dataclass(frozen=True, kw_only=True)
class CertProfile:
    """Everything about a certificate that is decided before its key exists."""

    key_type: KeyType
    subject: x509.Name
    days: int
    extensions: tuple[tuple[x509.ExtensionType, bool], ...]  # (extension, critical)


def generate_key(key_type: KeyType) -> PrivateKey:
    """A fresh private key."""
    kind, _, size = key_type.partition("-")
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=int(size))
    return ec.generate_private_key(ec.SECP256R1() if size == "p256" else ec.SECP384R1())


def create_authority(plan: ClusterPlan, *, now: datetime, new_key: NewKey = generate_key) -> Credential:
    """A new CA for the cluster."""
    profile = ca_profile(plan)
    return _sign(profile, new_key(profile.key_type), None, now=now)


def issue_nodes(
    plan: ClusterPlan,
    authority: Credential,
    *,
    now: datetime,
    client: Credential | None = None,
    kept: Iterable[NodePki] = (),
    new_key: NewKey = generate_key,
) -> Iterator[NodePki]:
    """Each node's certificates, in the plan's order; one at a time, so that memory stays flat.

    `kept` are the sets that exist already, in the same order; what is still right in them stays. A set that is
    shared is shared with the operator too, as in the document: then it holds his `client` certificate.
    """
    if plan.spec.pki.certificates is Certificates.SHARED:
        shared = {**next(iter(kept), {}), **({Role.CLIENT: client} if client else {})}
        one = _issue(shared_profiles(plan), authority, shared, now=now, new_key=new_key)
        yield from (one for _ in plan.nodes)
        return
    olds = iter(kept)
    for node in plan.nodes:
        yield _issue(node_profiles(plan, node), authority, next(olds, {}), now=now, new_key=new_key)


def issue_client(
    plan: ClusterPlan,
    authority: Credential,
    *,
    now: datetime,
    kept: Credential | None = None,
    new_key: NewKey = generate_key,
) -> Credential:
    """The operator's client certificate."""
    old = {Role.CLIENT: kept} if kept else {}
    return _issue({Role.CLIENT: client_profile(plan)}, authority, old, now=now, new_key=new_key)[Role.CLIENT]


@contextmanager
def keys_ahead(
    key_type: KeyType, count: int, *, workers: int, new_key: NewKey = generate_key
) -> Iterator[NewKey]:
    """`new_key`, with `count` keys in the making on threads (RSA generation leaves the interpreter's lock).

    An EC key costs less than handing it over, so those are made when they are asked for.
    """
    if count < 2 or not key_type.startswith("rsa"):
        yield new_key
        return
    from concurrent.futures import ThreadPoolExecutor  # only RSA keys are worth its import

    pool = ThreadPoolExecutor(workers)
    made = deque(pool.submit(new_key, key_type) for _ in range(count))
    try:
        yield lambda wanted: made.popleft().result() if made and wanted is key_type else new_key(wanted)
    finally:  # an interrupt waits for the keys in the making, not for those to come
        pool.shutdown(cancel_futures=True)


def count_missing(
    plan: ClusterPlan,
    authority: Credential | None,
    *,
    now: datetime,
    client: Credential | None,
    kept: Iterable[NodePki],
) -> int:
    """How many keys the cluster still needs, when these are the certificates that exist."""
    wanted = list(_wanted(plan, client, kept))
    if authority is None:
        return 1 + len(wanted)
    return sum(old is None or not is_current(old, profile, authority, now=now) for profile, old in wanted)


def _wanted(
    plan: ClusterPlan, client: Credential | None, kept: Iterable[NodePki]
) -> Iterator[tuple[CertProfile, Credential | None]]:
    yield client_profile(plan), client
    olds = iter(kept)
    if plan.spec.pki.certificates is Certificates.SHARED:
        old = next(olds, {})
        profiles = shared_profiles(plan)
        yield from ((profiles[role], old.get(role)) for role in (Role.SERVER, Role.PEER))
        return
    for node in plan.nodes:
        old = next(olds, {})
        yield from ((profile, old.get(role)) for role, profile in node_profiles(plan, node).items())


def _issue(
    profiles: Mapping[Role, CertProfile],
    authority: Credential,
    kept: NodePki,
    *,
    now: datetime,
    new_key: NewKey,
) -> NodePki:
    return {
        role: kept[role]
        if role in kept and is_current(kept[role], profile, authority, now=now)
        else _sign(profile, new_key(profile.key_type), authority, now=now)
        for role, profile in profiles.items()
    }


# ── what each certificate says ──────────────────────────────────────────────────────────────────────────────────────


def ca_profile(plan: ClusterPlan) -> CertProfile:
    strict = plan.spec.pki.extensions is Extensions.STRICT
    usage = (
        _key_usage("cert_sign", "crl_sign")
        if strict
        else _key_usage("cert_sign", "digital_signature", "encipherment")
    )
    basic = x509.BasicConstraints(ca=True, path_length=0 if strict else None)
    return CertProfile(
        key_type=plan.spec.pki.key_type,
        subject=_subject(plan, str(Role.CA)),
        days=plan.spec.pki.ca_days,
        extensions=((basic, True), (usage, True)),
    )


def node_profiles(plan: ClusterPlan, node: NodePlan) -> dict[Role, CertProfile]:
    """A node's three certificates: each names that node alone, so a stolen key is worth one node only."""
    sans = _sans(node.dns_names, node.addresses)
    return {role: _leaf(plan, role, sans, node=node.name) for role in NODE_ROLES}


def shared_profiles(plan: ClusterPlan) -> dict[Role, CertProfile]:
    """The document's way: one set for all nodes, each certificate with every address in it."""
    names = plan.dns_names if plan.spec.pki.single_label_names or not _is_document(plan.spec.pki) else ()
    return {role: _leaf(plan, role, _sans(names, plan.addresses)) for role in NODE_ROLES}


def client_profile(plan: ClusterPlan) -> CertProfile:
    """The operator's: it acts as no node, so it names none (but the document's client certificate does)."""
    if plan.spec.pki.certificates is Certificates.SHARED:
        return shared_profiles(plan)[Role.CLIENT]
    return _leaf(plan, Role.CLIENT, None)


def _leaf(
    plan: ClusterPlan, role: Role, sans: x509.SubjectAlternativeName | None, node: str | None = None
) -> CertProfile:
    pki = plan.spec.pki
    usages = (ExtendedKeyUsageOID.CLIENT_AUTH,) if role is Role.CLIENT else _SERVER_AND_CLIENT
    extensions = [*_usage_extensions(pki, role), (x509.ExtendedKeyUsage(usages), False)]
    if sans is not None:
        extensions.append((sans, False))
    return CertProfile(
        key_type=pki.key_type,
        subject=_subject(
            plan, node or str(role), unit=str(role) if node else None, client=role is Role.CLIENT
        ),
        days=pki.leaf_days,
        extensions=tuple(extensions),
    )


def _usage_extensions(pki: PkiSpec, role: Role) -> Iterator[tuple[x509.ExtensionType, bool]]:
    leaf = x509.BasicConstraints(ca=False, path_length=None)
    if _is_document(pki):  # the document's etcd-server.cnf differs from etcd-peer.cnf and etcd-client.cnf
        server = role is Role.SERVER
        if server:
            yield leaf, False
        usages = ("digital_signature", "encipherment", *(("non_repudiation",) if server else ()))
        yield _key_usage(*usages), not server
        return
    yield leaf, True
    # keyEncipherment means RSA key transport (RFC 5280, 4.2.1.3); an EC key cannot do it.
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


def _subject(
    plan: ClusterPlan, common_name: str, *, unit: str | None = None, client: bool = False
) -> x509.Name:
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


# ── signing, and judging what was signed before ─────────────────────────────────────────────────────────────────────


def _sign(
    profile: CertProfile, key: PrivateKey, authority: Credential | None, *, now: datetime
) -> Credential:
    """A certificate for `key`; self-signed without an authority. It never outlives its authority."""
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
    """SKI everywhere, AKI on what a CA issued (RFC 5280, 4.2.1.1 and 4.2.1.2)."""
    yield x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    if authority:
        ski = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        yield x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski.value), False


def is_current(credential: Credential, profile: CertProfile, authority: Credential, *, now: datetime) -> bool:
    """Whether an existing certificate still says exactly what the plan wants, and is in force."""
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
        and _same_key(credential)
    )


def key_type_of(key: PrivateKey) -> KeyType | None:
    """The key's type, or None for one that bake does not offer."""
    if isinstance(key, rsa.RSAPrivateKey):
        text = f"rsa-{key.key_size}"
    else:
        text = {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384"}.get(key.curve.name, "")
    return KeyType(text) if text in list(KeyType) else None


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the CA's key made this certificate's signature."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _same_key(credential: Credential) -> bool:
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return credential.certificate.public_key().public_bytes(
        *form
    ) == credential.key.public_key().public_bytes(*form)


def parse_credential(cert_pem: bytes, key_pem: bytes, *, where: tuple[str, str]) -> Credential:
    """A certificate and the key that belongs to it. `where` are their file names. Raises InputError."""
    cert_file, key_file = where
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        certificate.extensions  # noqa: B018  parsed only when asked for: a malformed one shows here
    except ValueError:
        raise InputError.one(cert_file, "is not a PEM certificate", "restore the file") from None
    try:
        key = load_pem_private_key(key_pem, password=None)
    except TypeError:
        raise InputError.one(
            key_file, "is encrypted; bake needs it in plain PEM", "decrypt it first"
        ) from None
    except ValueError:
        raise InputError.one(key_file, "is not a PEM private key", "restore the file") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InputError.one(key_file, "is neither an RSA nor an EC key", "use one of the offered key types")
    credential = Credential(certificate, key)
    if not _same_key(credential):
        raise InputError.one(key_file, f"does not match the certificate {cert_file}", "restore the pair")
    return credential


def check_authority(authority: Credential, *, now: datetime, where: str) -> list[Problem]:
    """Why this CA cannot issue certificates now; empty if it can."""
    certificate = authority.certificate
    problems = []
    if certificate.not_valid_after_utc <= now:
        problems.append(Problem(where, f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}", _NEW_CA))
    if certificate.not_valid_before_utc > now:
        problems.append(
            Problem(
                where, f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}", "check the clock"
            )
        )
    if rule := _unfit_extensions(certificate) or _unfit_key(authority.key):
        problems.append(Problem(where, rule, _NEW_CA))
    return problems


def _unfit_extensions(certificate: x509.Certificate) -> str | None:
    found = {type(extension.value): extension.value for extension in certificate.extensions}
    constraints, usage = found.get(x509.BasicConstraints), found.get(x509.KeyUsage)
    is_ca = isinstance(constraints, x509.BasicConstraints) and constraints.ca
    if not is_ca or x509.SubjectKeyIdentifier not in found:
        return "is not a CA certificate (basicConstraints CA:true, with a key identifier)"
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        return "may not sign certificates (its key usage lacks keyCertSign)"
    return None


def _unfit_key(key: PrivateKey) -> str | None:
    """etcd is written in Go, whose crypto/x509 knows only these curves and refuses short RSA keys."""
    if isinstance(key, rsa.RSAPrivateKey):
        return f"has a key of {key.key_size} bits; RSA needs 2048" if key.key_size < 2048 else None
    name = key.curve.name
    return (
        None
        if name in ("secp256r1", "secp384r1", "secp521r1")
        else f"has a {name} key; EC needs P-256, P-384 or P-521"
    )


_NEW_CA = "restore the cluster's CA, or remove the cluster's folder to begin a new cluster"
