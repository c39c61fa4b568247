"""Check whether an existing CA can issue the cluster's certificates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from generator.config.placement import peer_name
from generator.errors import InputError, Problem
from generator.pki.key_pair import Issuer, Role
from generator.pki.templates import planned_names
from generator.plan import ClusterPlan


def check_authority(
    authority: Issuer,
    plan: ClusterPlan,
    role: Role = Role.CA,
    *,
    now: datetime,
    where: str,
    days: int = 0,
    remedy: str = "use another CA",
) -> None:
    """Raise InputError if this CA cannot issue the cluster's certificates.

    `days`: the number of days for which the CA must be valid. `remedy`: the error's hint for an expired CA.
    """
    problems = [*_faults(authority.certificate, now=now, where=where, days=days, remedy=remedy)]
    if problems := problems or check_names(authority, plan, role, where=where):
        raise InputError(problems)


def _faults(
    certificate: x509.Certificate, *, now: datetime, where: str, days: int, remedy: str
) -> Iterator[Problem]:
    if certificate.not_valid_after_utc <= now:
        yield Problem(where, f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}", remedy)
    elif certificate.not_valid_after_utc < now + timedelta(days=days):
        short = f"expires on {certificate.not_valid_after_utc:%Y-%m-%d}, but certificates are valid for {days} days"
        yield Problem(where, short, "use a CA that expires later, or a smaller pki.leafDays")
    if certificate.not_valid_before_utc > now:
        yield Problem(where, f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}", "check the clock")
    if rule := _unfit_extensions(certificate) or _unfit_key(certificate.public_key()):
        yield Problem(where, rule, "use another CA" if days else "restore the cluster's CA")


def _unfit_extensions(certificate: x509.Certificate) -> str | None:
    found = {type(extension.value): extension.value for extension in certificate.extensions}
    constraints, usage = found.get(x509.BasicConstraints), found.get(x509.KeyUsage)
    is_ca = isinstance(constraints, x509.BasicConstraints) and constraints.ca
    if not is_ca or x509.SubjectKeyIdentifier not in found:
        return "is not a CA certificate (a CA certificate has basicConstraints CA:true and a subject key identifier)"
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        return "may not sign certificates (its key usage lacks keyCertSign)"
    return None


def _unfit_key(key: CertificatePublicKeyTypes) -> str | None:
    """Return the reason why etcd cannot use a CA's key, or None. etcd's language Go supports few elliptic curves."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"has an RSA key of {key.key_size} bits; the minimum is 2048 bits" if key.key_size < 2048 else None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return "has a key that is neither RSA nor EC"
    name = key.curve.name
    if name in ("secp256r1", "secp384r1", "secp521r1"):
        return None
    return f"has a {name} key; an EC key must use the curve P-256, P-384 or P-521"


def check_names(authority: Issuer, plan: ClusterPlan, role: Role = Role.CA, *, where: str) -> list[Problem]:
    """Return a problem if the CA's name constraints (RFC 5280, 4.2.1.10) forbid names in the nodes' certificates."""
    try:
        found = authority.certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return []
    refused = [name for name in planned_names(plan, role) if not _admits(found, name)]
    if not refused:
        return []
    listed = ", ".join(str(name.value) for name in refused)
    permitted = ", ".join(str(name.value) for name in found.permitted_subtrees or ()) or "everything else"
    rule = f"may not issue certificates for {listed}: its name constraints permit {permitted}"
    hint = "keep the cluster's subnet and domain, or create a new cluster with another --name"
    if [name.value for name in refused] == [peer := peer_name(plan.spec)]:
        hint = f"use a CA that permits {peer}, or set pki.peerName to `none` and pki.peerCa.separate to `true`"
    return [Problem(where, rule, hint)]


def _admits(constraints: x509.NameConstraints, name: x509.GeneralName) -> bool:
    permitted = [base for base in constraints.permitted_subtrees or () if type(base) is type(name)]
    return not _is_below(name, constraints.excluded_subtrees or ()) and (not permitted or _is_below(name, permitted))


def _is_below(name: x509.GeneralName, bases: Iterable[x509.GeneralName]) -> bool:
    """Return whether the DNS name or address `name` belongs to a domain or network in `bases`."""
    if isinstance(name, x509.DNSName):
        domains = [base.value.lstrip(".") for base in bases if isinstance(base, x509.DNSName)]
        return any(not domain or f".{name.value}".endswith(f".{domain}") for domain in domains)
    networks: list[Any] = [base.value for base in bases if isinstance(base, x509.IPAddress)]
    return any(name.value in network for network in networks)
