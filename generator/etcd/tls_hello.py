"""Send a ClientHello to a port, and read the TLS version and the certificate from the server's answer.

Python's ssl module cannot replace this module, for two reasons. The TLS library of this machine may not support old TLS
versions. After a failed handshake, ssl does not return the server's certificate.

This module needs no client certificate. Up to TLS 1.2, a server sends its certificate without encryption, before the
server requests the client's certificate.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

from generator.etcd.dial import TIMEOUT_SECONDS, dial
from generator.etcd.tls_probe import unverified_context

VERSIONS = {"1.0": 0x0301, "1.1": 0x0302, "1.2": 0x0303, "1.3": 0x0304}
# The cipher suites in the ClientHello. The suites for TLS 1.0 to 1.2 have the key exchange ECDHE or RSA. The suites for
# TLS 1.3 are in RFC 8446, B.4.
_CIPHERS = (0xC009, 0xC00A, 0xC013, 0xC014, 0x002F, 0x0035, 0xC02B, 0xC02C, 0xC02F, 0xC030, 0x1301, 0x1302, 0x1303)
_ALERT, _HANDSHAKE, _SERVER_HELLO, _CERTIFICATE = 21, 22, 2, 11
_X25519 = 0x001D
_CHOSE_13 = b"\0\x2b\0\x02\x03\x04"  # the extension in a ServerHello with which a server chooses TLS 1.3


def accepts_version(address: str, port: int, version: str, *, timeout: float = TIMEOUT_SECONDS) -> bool | None:
    """Return whether the port accepts a client that offers only one TLS version.

    Return None if there is no connection or the answer is not TLS.
    """
    try:
        with dial(address, port, timeout) as sock:
            sock.settimeout(timeout)
            sock.sendall(_client_hello(VERSIONS[version]))
            head = _receive(sock, 5)
            answer = _receive(sock, int.from_bytes(head[3:], "big"))
    except OSError:
        return None
    if head[:1] == bytes([_ALERT]):
        return False
    if head[:1] != bytes([_HANDSHAKE]) or answer[:1] != bytes([_SERVER_HELLO]):
        return None
    # A ServerHello has the version in a fixed field up to TLS 1.2, and in an extension for TLS 1.3 (RFC 8446, 4.1.3).
    return _CHOSE_13 in answer if version == "1.3" else answer[4:6] == struct.pack("!H", VERSIONS[version])


def served_certificate(address: str, port: int, *, timeout: float = TIMEOUT_SECONDS) -> bytes | None:
    """Return the certificate (DER) that a port presents to every client, or None if the port does not answer.

    With TLS 1.3, a client without a certificate completes the handshake, and ssl returns the server's certificate.
    With TLS 1.2, a handshake without a client certificate fails. A second connection reads the certificate from the
    server's handshake messages.
    """
    with suppress(OSError):
        with (
            dial(address, port, timeout) as sock,
            suppress(OSError),
            unverified_context().wrap_socket(sock) as stream,
        ):
            return stream.getpeercert(binary_form=True)
        with dial(address, port, timeout) as sock:
            sock.sendall(_client_hello(VERSIONS["1.2"]))
            return _certificate(sock)
    return None


def _certificate(sock: socket.socket) -> bytes | None:
    """Return the first certificate in the server's certificate list (RFC 5246, 7.4.2)."""
    messages = b""
    while (head := _receive(sock, 5))[:1] == bytes([_HANDSHAKE]):
        messages += _receive(sock, int.from_bytes(head[3:], "big"))
        while len(messages) >= 4 + (size := int.from_bytes(messages[1:4], "big")):
            kind, body, messages = messages[0], messages[4 : 4 + size], messages[4 + size :]
            if kind == _CERTIFICATE:
                return body[6 : 6 + int.from_bytes(body[3:6], "big")] or None
    return None


def _receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := sock.recv(count - len(data))):
        data += part
    return data


def _client_hello(version: int) -> bytes:
    """Build a ClientHello (RFC 5246, 7.4.1.2; RFC 8446, 4.1.2)."""
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
    return bytes([_HANDSHAKE]) + struct.pack("!H", VERSIONS["1.0"]) + _sized(2, message)


def _extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + _sized(2, data)


def _sized(width: int, data: bytes) -> bytes:
    """Return the length of the data as `width` bytes, followed by the data."""
    return len(data).to_bytes(width, "big") + data
