"""Build the first message of a TLS client, which a TLS server always answers."""

from __future__ import annotations

import os
import struct

VERSIONS = {"1.0": 0x0301, "1.1": 0x0302, "1.2": 0x0303, "1.3": 0x0304}
# The cipher suites in the ClientHello. The suites for TLS 1.0 to 1.2 have the key exchange ECDHE or RSA. The suites for
# TLS 1.3 are in RFC 8446, B.4.
_CIPHERS = (0xC009, 0xC00A, 0xC013, 0xC014, 0x002F, 0x0035, 0xC02B, 0xC02C, 0xC02F, 0xC030, 0x1301, 0x1302, 0x1303)
_X25519 = 0x001D
HANDSHAKE = 22  # the type of a TLS record (RFC 8446, 5.1)


def client_hello(version: int) -> bytes:
    """Return a ClientHello (RFC 5246, 7.4.1.2; RFC 8446, 4.1.2) that offers one of the `VERSIONS`."""
    is_13 = version == VERSIONS["1.3"]
    extensions = _extension(10, _sized(2, struct.pack("!3H", _X25519, 23, 24)))  # supported groups for the key exchange
    extensions += _extension(11, b"\x01\x00")  # point formats: uncompressed
    signatures = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201)
    extensions += _extension(13, _sized(2, struct.pack(f"!{len(signatures)}H", *signatures)))
    if is_13:  # TLS 1.3 needs the extensions supported_versions (43) and key_share (51)
        share = struct.pack("!H", _X25519) + _sized(2, os.urandom(32))  # any 32 bytes are a valid X25519 public key
        extensions += _extension(43, _sized(1, struct.pack("!H", version))) + _extension(51, _sized(2, share))
    body = struct.pack("!H", min(version, VERSIONS["1.2"])) + os.urandom(32) + _sized(1, b"")
    body += _sized(2, struct.pack(f"!{len(_CIPHERS)}H", *_CIPHERS)) + _sized(1, b"\0") + _sized(2, extensions)
    message = b"\x01" + _sized(3, body)
    return bytes([HANDSHAKE]) + struct.pack("!H", VERSIONS["1.0"]) + _sized(2, message)


def _extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + _sized(2, data)


def _sized(width: int, data: bytes) -> bytes:
    """Return the length of the data as `width` bytes, followed by the data."""
    return len(data).to_bytes(width, "big") + data
