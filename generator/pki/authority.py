"""Whether a CA that exists can issue the cluster's certificates."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from generator.errors import Problem
from generator.pki.credential import Credential, PrivateKey

_NEW_CA = "restore the cluster's CA, or remove the cluster's folder to begin a new cluster"


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
