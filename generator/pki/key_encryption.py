"""Encrypt a private key with a passphrase: PKCS#8, PBES2 with scrypt and AES-256-CBC (RFC 8018, RFC 7914).

The package `cryptography` and OpenSSL can read this format. This module writes the encrypted key itself, because
`cryptography` would use PBKDF2 with only 2,048 rounds.
"""

from __future__ import annotations

import base64
import os
import textwrap
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from generator.pki.key_pair import PrivateKey

# scrypt needs 16 MiB of memory with COST and BLOCK_SIZE. OpenSSL allows 32 MiB by default (SCRYPT_MAX_MEM).
COST, BLOCK_SIZE, PARALLEL = 1 << 14, 8, 5
_PBES2 = bytes.fromhex("06092a864886f70d01050d")  # an object identifier in DER
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def encrypt_key(key: PrivateKey, passphrase: bytes, *, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """Return the key in PEM, encrypted with the passphrase."""
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, start = random(16), random(16)
    derived = Scrypt(salt=salt, length=32, n=COST, r=BLOCK_SIZE, p=PARALLEL).derive(passphrase)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(derived), modes.CBC(start)).encryptor()
    hidden = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    derivation = _sequence(_SCRYPT, _sequence(_octets(salt), *map(_integer, (COST, BLOCK_SIZE, PARALLEL))))
    scheme = _sequence(_PBES2, _sequence(derivation, _sequence(_AES_256_CBC, _octets(start))))
    text = base64.b64encode(_sequence(scheme, _octets(hidden))).decode()
    lines = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", *textwrap.wrap(text, 64), "-----END ENCRYPTED PRIVATE KEY-----")
    return ("\n".join(lines) + "\n").encode()


def _tagged(tag: int, content: bytes) -> bytes:
    """Return a DER value: tag, length, content."""
    size = len(content)
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, size) if size < 128 else (tag, 128 + len(octets), *octets)) + content


def _sequence(*parts: bytes) -> bytes:
    return _tagged(0x30, b"".join(parts))


def _octets(value: bytes) -> bytes:
    return _tagged(0x04, value)


def _integer(value: int) -> bytes:
    return _tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))
