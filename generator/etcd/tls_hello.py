"""Send a ClientHello to a port, and read the TLS version and the certificate from the server's answer.

Python's ssl module cannot replace this module, for two reasons. The TLS library of this machine may not support old TLS
versions. After a failed handshake, ssl does not return the server's certificate.

This module needs no client certificate. Up to TLS 1.2, a server sends its certificate without encryption, before the
server requests the client's certificate.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from generator.etcd.client_hello import HANDSHAKE, VERSIONS, client_hello
from generator.etcd.dial import TIMEOUT_SECONDS, dial
from generator.etcd.tls_probe import unverified_context

_ALERT, _SERVER_HELLO, _CERTIFICATE = 21, 2, 11
_CHOSE_13 = b"\0\x2b\0\x02\x03\x04"  # the extension in a ServerHello with which a server chooses TLS 1.3


def accepts_version(address: str, port: int, version: str, *, timeout: float = TIMEOUT_SECONDS) -> bool | None:
    """Return whether the port accepts a client that offers only one TLS version.

    Return None if there is no connection or the answer is not TLS.
    """
    try:
        with dial(address, port, timeout) as sock:
            sock.settimeout(timeout)
            sock.sendall(client_hello(VERSIONS[version]))
            head = _receive(sock, 5)
            answer = _receive(sock, int.from_bytes(head[3:], "big"))
    except OSError:
        return None
    if head[:1] == bytes([_ALERT]):
        return False
    if head[:1] != bytes([HANDSHAKE]) or answer[:1] != bytes([_SERVER_HELLO]):
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
            sock.sendall(client_hello(VERSIONS["1.2"]))
            return _certificate(sock)
    return None


def _certificate(sock: socket.socket) -> bytes | None:
    """Return the first certificate in the server's certificate list (RFC 5246, 7.4.2)."""
    messages = b""
    while (head := _receive(sock, 5))[:1] == bytes([HANDSHAKE]):
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
