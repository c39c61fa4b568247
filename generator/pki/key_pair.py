"""Certificates and private keys: their roles, their types, and how to read them from PEM files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from generator.config.pki import KeyType
from generator.errors import InputError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
NewKey = Callable[[KeyType], PrivateKey]


class Role(StrEnum):
    """The purpose of a certificate. Each value is the name of a certificate file without the suffix `.pem`."""

    CA = "etcd-ca"
    PEER_CA = "etcd-peer-ca"
    SERVER = "etcd-server"
    PEER = "etcd-peer"
    CLIENT = "etcd-client"


NODE_ROLES = (Role.SERVER, Role.PEER, Role.CLIENT)


@dataclass(frozen=True)
class Credential:
    """A certificate and its private key. `repr` omits the private key, so that no log contains private keys."""

    certificate: x509.Certificate = field(repr=False)
    key: PrivateKey = field(repr=False)

    @cached_property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @cached_property
    def key_pem(self) -> bytes:
        return key_pem(self.key)


def key_pem(key: PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8, because etcd cannot read encrypted keys."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True)
class ExternalCa:
    """An external CA.

    bake has the CA's certificate but not the CA's key. bake writes certificate requests, which the CA must sign.
    """

    certificate: x509.Certificate = field(repr=False)

    @cached_property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


Issuer = Credential | ExternalCa
NodePki = Mapping[Role, Credential]


def generate_key(key_type: KeyType) -> PrivateKey:
    """Return a new private key."""
    kind, _, size = key_type.partition("-")
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=int(size))
    return ec.generate_private_key(ec.SECP256R1() if size == "p256" else ec.SECP384R1())


def key_type_of(key: PrivateKey) -> KeyType | None:
    """Return the type of the key, or None if `pki.keyType` has no value for that type."""
    if isinstance(key, rsa.RSAPrivateKey):
        text = f"rsa-{key.key_size}"
    else:
        text = {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384"}.get(key.curve.name, "")
    return KeyType(text) if text in list(KeyType) else None


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether the CA's key signed this certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_pair(credential: Credential) -> bool:
    return same_key(credential.certificate.public_key(), credential.key.public_key())


def same_key(one: CertificatePublicKeyTypes, other: CertificatePublicKeyTypes) -> bool:
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return one.public_bytes(*form) == other.public_bytes(*form)


def is_encrypted(key_pem: bytes) -> bool:
    """Return whether the key in a PEM file is encrypted, either as PKCS#8 or in OpenSSL's older format."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in key_pem or b"\nProc-Type: 4,ENCRYPTED" in key_pem


def parse_certificate(pem: bytes, *, where: str) -> x509.Certificate:
    """Return the first certificate of a PEM file. Raises InputError."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.extensions  # noqa: B018  reading the property raises ValueError for malformed extensions
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise InputError.one(where, "is not a PEM certificate", "restore the file, or give a certificate") from None
    return certificate


def parse_credential(
    cert_pem: bytes, key_pem: bytes, *, where: tuple[str, str], passphrase: bytes | None = None
) -> Credential:
    """Return a certificate with its private key. `where`: the file names of certificate and key. Raises InputError."""
    cert_file, key_file = where
    certificate = parse_certificate(cert_pem, where=cert_file)
    credential = Credential(certificate, parse_key(key_pem, where=key_file, passphrase=passphrase))
    if not is_pair(credential):
        raise InputError.one(
            key_file, f"does not match the certificate {cert_file}", "restore the key and the certificate"
        )
    return credential


def parse_key(pem: bytes, *, where: str, passphrase: bytes | None = None) -> PrivateKey:
    """Return the private key of a PEM file. Raises InputError."""
    encrypted = is_encrypted(pem)
    if encrypted and passphrase is None:
        raise InputError.one(where, "is encrypted, but no passphrase was given", "give --ca-passphrase-file")
    try:
        key = load_pem_private_key(pem, password=passphrase if encrypted else None)
    except (ValueError, UnsupportedAlgorithm):
        if encrypted:
            rule, remedy = "cannot be decrypted with this passphrase", "give the passphrase of this key"
        else:
            rule, remedy = "is not a PEM private key", "restore the file"
        raise InputError.one(where, rule, remedy) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InputError.one(where, "is neither an RSA nor an EC key", "use an RSA or EC key")
    return key
