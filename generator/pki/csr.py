"""Create certificate signing requests for an external CA, and check the certificates that the external CA issues."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from generator.pki.key_pair import Credential, ExternalCa, PrivateKey, is_issued_by, is_pair, same_key
from generator.pki.templates import CertProfile


def create_request(profile: CertProfile, key: PrivateKey) -> bytes:
    """Return a certificate signing request (PKCS#10, RFC 2986) in PEM, with the profile's subject and extensions."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(profile.subject)
    for extension, critical in profile.extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def is_request_for(request: bytes, profile: CertProfile, key: PrivateKey) -> bool:
    """Return whether an existing request asks for a certificate with this profile and key."""
    try:
        found = x509.load_pem_x509_csr(request)
        extensions = {(ext.value, ext.critical) for ext in found.extensions}
    except ValueError:
        return False
    same = found.subject == profile.subject and extensions == set(profile.extensions)
    return same and same_key(found.public_key(), key.public_key())


def mismatches(credential: Credential, profile: CertProfile, authority: ExternalCa, *, now: datetime) -> Iterator[str]:
    """Yield each reason why etcd cannot use a certificate that an external CA issued.

    The certificate must match its profile in everything that nodes check. An external CA may choose the dates and add
    extensions. An external CA may change the subject, except the common name.
    """
    certificate = credential.certificate
    if not is_pair(credential):
        yield "has a public key that differs from the key in the request"
    if not is_issued_by(certificate, authority.certificate):
        yield "was not issued by the cluster's CA"
    if not certificate.not_valid_before_utc <= now:
        yield f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    if certificate.not_valid_after_utc <= now:
        yield f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if _common_name(certificate.subject) != _common_name(profile.subject):
        yield f"has the common name {_common_name(certificate.subject)}, not {_common_name(profile.subject)}"
    yield from _extension_mismatches(certificate.extensions, profile)


def _common_name(subject: x509.Name) -> str:
    return ", ".join(str(one.value) for one in subject.get_attributes_for_oid(NameOID.COMMON_NAME)) or "(none)"


def _extension_mismatches(found: x509.Extensions, profile: CertProfile) -> Iterator[str]:
    has = {type(extension.value): extension.value for extension in found}
    for wanted, _ in profile.extensions:
        present = has.get(type(wanted))
        if isinstance(wanted, x509.SubjectAlternativeName):
            names = set(present) if isinstance(present, x509.SubjectAlternativeName) else set()
            if missing := [str(name.value) for name in wanted if name not in names]:
                yield f"does not name {', '.join(missing)}"
        elif isinstance(wanted, x509.ExtendedKeyUsage) and isinstance(present, x509.ExtendedKeyUsage):
            if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in present and set(wanted) - set(present):
                yield "may not be used for " + " and ".join(sorted(_USES[use] for use in set(wanted) - set(present)))
        elif isinstance(wanted, x509.KeyUsage) and isinstance(present, x509.KeyUsage) and not present.digital_signature:
            yield "cannot be used for TLS (its key usage lacks digitalSignature)"
    basic = has.get(x509.BasicConstraints)
    if isinstance(basic, x509.BasicConstraints) and basic.ca:
        yield "is a CA certificate"


_USES = {ExtendedKeyUsageOID.CLIENT_AUTH: "clients", ExtendedKeyUsageOID.SERVER_AUTH: "servers"}
