"""Read a certificate's content for display. Nothing is checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from generator.pki.key_pair import Issuer, Role

_NEAR = timedelta(days=30)


class Facts(NamedTuple):
    """A certificate's content. `names`: subject alternative names.

    `serial`: the serial number in hexadecimal. `sha256`: the digest of the DER form in hexadecimal.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    serial: str
    sha256: str
    not_before: datetime
    not_after: datetime


def is_near_expiry(start: datetime, end: datetime, now: datetime) -> bool:
    """Return whether a certificate with a validity from `start` to `end` expires soon: bake warns, or renews it.

    This is in the last 30 days, and in the last third of a validity of less than 90 days.
    """
    return end - now < min(_NEAR, (end - start) / 3)


def ends(issued: Mapping[Role, Issuer]) -> dict[str, str]:
    """Return when each certificate expires (RFC 3339, UTC), by its role."""
    return {str(role): f"{one.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}" for role, one in issued.items()}


def describe(certificate: bytes) -> Facts:
    """Return the content of a PEM or DER certificate. Raises ValueError for an invalid certificate."""
    is_pem = certificate.lstrip().startswith(b"-----BEGIN")
    load = x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate
    found = load(certificate)
    return Facts(
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        names=tuple(_names(found)),
        serial=f"{found.serial_number:x}",
        sha256=found.fingerprint(SHA256()).hex(),
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
    )


def digests(pem: bytes) -> list[str]:
    """Return the SHA-256 of each certificate in a PEM file. Raises ValueError for an invalid file."""
    return [found.fingerprint(SHA256()).hex() for found in x509.load_pem_x509_certificates(pem)]


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
