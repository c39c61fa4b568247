"""Probe a TLS port to find out whether it accepts a client, and which certificate the server presents."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from generator.errors import InputError
from generator.etcd.answers import Certificate, Probe, Reply
from generator.etcd.dial import TIMEOUT_SECONDS, dial

_CLOSED = "the connection was closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFiles:
    """Paths of the CA certificate, and of the client's certificate and key.

    `peer_ca`: the path of the CA certificate with which nodes verify each other. Without pki.peerCa.separate, the file
    does not exist.
    """

    ca: Path
    cert: Path
    key: Path
    peer_ca: Path | None = None


def trusting_context() -> ssl.SSLContext:
    """Return a TLS context that trusts an intermediate CA even without its root CA, as etcd does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def operator_context(files: ClientFiles) -> ssl.SSLContext:
    """Return a TLS context that verifies the server's CA and address, and presents the operator's certificate."""
    context = trusting_context()
    try:
        context.load_verify_locations(cafile=files.ca)
        context.load_cert_chain(files.cert, files.key)
    except OSError as error:
        where = f"{files.ca}, {files.cert}, {files.key}"
        raise InputError.one(where, f"cannot be used: {reason(error)}", "restore the three files") from None
    return context


def unverified_context(pair: tuple[bytes, bytes] | None = None) -> ssl.SSLContext:
    """Return a TLS context that accepts every server. `pair` is the client's certificate and key (PEM)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if pair:
        with _in_memory(pair[0]) as cert, _in_memory(pair[1]) as key:
            context.load_cert_chain(cert, key)
    return context


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """Yield the path of an in-memory file with `data`. ssl loads a client's certificate and key only from files."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def probe(
    address: str, port: int, context: ssl.SSLContext | None, *, timeout: float = TIMEOUT_SECONDS
) -> Probe:
    """Connect, send GET /version, and return whether the port answers with HTTP. A `context` of None means no TLS."""
    try:
        sock = dial(address, port, timeout)
    except OSError as error:
        return Probe(reply=Reply.UNREACHABLE, detail=_error_text(error))
    with sock:
        if context is None:
            return _send_request(sock, address)
        try:
            stream = context.wrap_socket(sock, server_hostname=address)
        except OSError as error:
            return _failed(error)
        with stream:
            return _send_request(stream, address, _certificate(stream))


def _send_request(sock: socket.socket, address: str, certificate: Certificate | None = None) -> Probe:
    # With TLS 1.3, the server verifies the client's certificate after the client has completed the handshake
    # (RFC 8446, appendix E.1.2). Until the client reads from the socket, the client does not see a refusal.
    host = f"[{address}]" if ":" in address else address
    try:
        with suppress(ConnectionError, ssl.SSLError):  # the server's alert can be read even if sending fails
            sock.sendall(f"GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = sock.recv(64)
    except OSError as error:
        return _failed(error, certificate)
    status = answer.split(b"\r\n")[0].decode("ascii", "replace")
    # A TLS port answers a plain HTTP request with status 400, or closes the connection.
    served = answer.startswith(b"HTTP/") and answer.split()[1:2] != [b"400"]
    reply = Reply.SERVED if served else Reply.REFUSED
    return Probe(reply=reply, detail=status or _CLOSED, certificate=certificate)


def _failed(error: OSError, certificate: Certificate | None = None) -> Probe:
    distrusted = _error_text(error) if isinstance(error, ssl.SSLCertVerificationError) else None
    silent = isinstance(error, TimeoutError) or distrusted
    reply = Reply.UNREACHABLE if silent else Reply.REFUSED
    return Probe(reply=reply, detail=_error_text(error), certificate=certificate, distrusted=distrusted)


def _certificate(stream: ssl.SSLSocket) -> Certificate | None:
    """Return the server's certificate, or None for an unverified certificate, which Python does not decode."""
    found = stream.getpeercert()
    if not found:
        return None
    alternatives: Any = found.get("subjectAltName", ())
    names = tuple(str(value) for _, value in alternatives)
    start, end = (
        datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found[name])), UTC) for name in ("notBefore", "notAfter")
    )
    digest = hashlib.sha256(stream.getpeercert(binary_form=True) or b"").hexdigest()
    subject: Any = found.get("subject", ())
    common_name = next((str(value) for part in subject for key, value in part if key == "commonName"), "")
    return Certificate(names=names, not_before=start, not_after=end, sha256=digest, common_name=common_name)


def _error_text(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError):
        return _CLOSED
    return reason(error) or str(error)


def reason(error: BaseException) -> str | None:
    """Return the message of an OSError or a TLS error, or None for any other error."""
    if not isinstance(error, OSError):
        return None
    if refusal := getattr(error, "verify_message", None):
        return f"the server's certificate failed verification: {refusal}"
    text = getattr(error, "reason", None) or error.strerror
    return str(text).replace("_", " ").lower() if isinstance(text, str) else None
