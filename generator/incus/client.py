"""`Incus`: the REST API of an Incus server, over its socket or over mutual TLS.

Incus documents the API in doc/rest-api.md. A call that starts an operation returns when the operation has ended.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import RLock
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from generator.errors import BakeError
from generator.incus.remote import Remote

_CONNECT = 5.0  # seconds
_ANSWER = 60.0  # seconds; a call waits for a member that has just failed
_WAIT = 20  # seconds of one call that waits for an operation
_ELECTION = 45.0  # seconds within which the members elect a new leader of their database
_NOT_FOUND, _FORBIDDEN = 404, 403
_NOT_READY = ("Server isn't ready yet",)  # a member that starts has done nothing
# While the members have no leader, Incus answers with one of these texts (Incus 6.0).
_NO_LEADER = (
    *_NOT_READY,
    "no available dqlite leader", "context deadline exceeded", "database is locked", "driver: bad connection",
    "not leader", "leadership lost", "checkpoint in progress",
)  # fmt: skip
Connection = http.client.HTTPConnection


class IncusError(BakeError):
    """Incus refused a call. `code`: the HTTP status, or 0 if an operation failed."""

    def __init__(self, message: str, *, code: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(kw_only=True)
class Incus:
    """A project of an Incus server. Use `connect` to get one whose server trusts the client."""

    remote: Remote
    project: str
    _first: int = field(default=0, init=False)  # the address that has answered last
    _kept: Connection | None = field(default=None, init=False)
    _lock: RLock = field(default_factory=RLock, init=False)

    # --- calls ------------------------------------------------------------------------------------------------

    def get(self, *path: str, **query: str) -> Any:
        """Return what Incus knows about an object. Try again while the members elect a leader."""
        return self._repeat(_NO_LEADER, "GET", path, query)["metadata"]

    def find(self, *path: str, **query: str) -> Any:
        """Return what Incus knows about an object, or None if it does not exist."""
        try:
            return self.get(*path, **query)
        except IncusError as error:
            if error.code == _NOT_FOUND:
                return None
            raise

    def text(self, *path: str, **query: str) -> bytes:
        """Return the content of a file, such as a console's log."""
        with self._lock:
            status, data = self._answer("GET", path, query, None, None)
        if status >= 400:
            raise IncusError(f"Incus: cannot read {'/'.join(path)} ({status})", code=status)
        return data

    def post(self, *path: str, body: Any, **query: str) -> Any:
        return self._finish(self._repeat(_NOT_READY, "POST", path, query, body))

    def put(self, *path: str, body: Any, **query: str) -> Any:
        return self._finish(self._repeat(_NOT_READY, "PUT", path, query, body))

    def delete(self, *path: str, **query: str) -> bool:
        """Delete an object. Return whether it existed."""
        try:
            self._finish(self._repeat(_NOT_READY, "DELETE", path, query))
        except IncusError as error:
            if error.code != _NOT_FOUND:
                raise
            return False
        return True

    def upload(self, *path: str, body: Iterable[bytes], headers: Mapping[str, str], **query: str) -> Any:
        """Send data, which may be larger than the memory."""
        return self._finish(self._call("POST", path, query, body, dict(headers)))

    def _repeat(self, transient: Iterable[str], *call: Any) -> Mapping[str, Any]:
        """Repeat a call for some time if it fails with one of these texts, which mean that it had no effect."""
        deadline = time.monotonic() + _ELECTION
        while True:
            try:
                return self._call(*call)
            except IncusError as error:
                if not any(text in error.message for text in transient) or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def _finish(self, answer: Mapping[str, Any]) -> Any:
        """Wait for the operation that a call has started. Return its metadata, or the call's."""
        if answer.get("type") != "async":
            return answer.get("metadata")
        path = tuple(part for part in answer["operation"].split("?")[0].split("/") if part)[1:]
        while True:
            found = self.get(*path, "wait", timeout=str(_WAIT))
            if found["status_code"] >= 400:
                raise IncusError(f"Incus: {found.get('err') or found.get('status')}")
            if found["status_code"] == 200:
                return found.get("metadata")

    def _call(
        self, method: str, path: tuple[str, ...], query: Mapping[str, str], body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any]:  # fmt: skip
        with self._lock:
            status, data = self._answer(method, path, query, body, headers)
        try:
            answer = json.loads(data)
        except ValueError:
            raise IncusError(f"Incus at {self.address} answered {status} without JSON", code=status) from None
        if answer.get("type") == "error":
            code = int(answer.get("error_code") or status)
            raise IncusError(f"Incus: {answer.get('error')}", code=code, hint=_hint(code, self))
        return answer  # type: ignore[no-any-return]

    # --- connections ------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return self.remote.addresses[self._first]

    def _answer(
        self, method: str, path: tuple[str, ...], query: Mapping[str, str], body: Any, headers: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        target = "/1.0" + "".join(f"/{quote(part, safe='')}" for part in path)
        target += "?" + urlencode({"project": self.project, **query})
        if headers is None:
            body, headers = (None, {}) if body is None else (json.dumps(body), {"Content-Type": "application/json"})
        if method == "GET" and self._kept is not None:
            try:
                return _exchange(self._kept, method, target, body, headers)
            except (OSError, http.client.HTTPException):
                self.close()
        connection = self._connect()
        try:
            answer = _exchange(connection, method, target, body, headers)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if method == "GET" and len(self.remote.addresses) > 1:
                self._first = (self._first + 1) % len(self.remote.addresses)
            text = f"Incus at {self.address} did not answer: {_reason(error)}"
            raise IncusError(text, hint="run the same command again") from None
        self.close()
        self._kept = connection
        return answer

    def close(self) -> None:
        """Close the connection. The next call opens a new one."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _connect(self) -> Connection:
        """Connect to the first address that answers."""
        failures = []
        for _ in self.remote.addresses:
            try:
                return _open(self.remote, self.address)
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"cannot connect to Incus at {self.address}: {_reason(error)}")
                self._first = (self._first + 1) % len(self.remote.addresses)
        hint = "start Incus there, or check incus.remote and incus.addresses"
        if self.remote.certificate is None:
            hint = "start Incus, or become root or a member of the group incus-admin"
        raise IncusError("; ".join(failures), hint=hint)


def connect(remote: Remote, project: str) -> Incus:
    """Connect to Incus. Raise BakeError if it does not answer, does not trust the client, or has no such project."""
    incus = Incus(remote=remote, project=project)
    try:
        _check(incus)
    except BakeError:
        incus.close()
        raise
    return incus


def _check(incus: Incus) -> None:
    remote, project, server = incus.remote, incus.project, incus.get()
    if server.get("auth") != "trusted":
        text = f"incus.remote: Incus at {incus.address} does not trust the certificate {remote.certificate}"
        raise BakeError(text, hint=f"let its administrator add the certificate, then try `incus list {remote.name}:`")
    try:
        incus.get("projects", project)
    except IncusError as error:
        if error.code not in (_NOT_FOUND, _FORBIDDEN):
            raise
        text = f"incus.project: Incus at {incus.address} has no project {project!r}, or you may not use it"
        raise BakeError(text, hint="use one of the projects of `incus project list`") from None


def _hint(code: int, incus: Incus) -> str | None:
    if code == _FORBIDDEN:
        return f"you may not do this in the project {incus.project}: check its restrictions, and your certificate's"
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not the one that was trusted before ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _exchange(
    connection: Connection, method: str, target: str, body: Any, headers: Mapping[str, str]
) -> tuple[int, bytes]:
    with suppress(BrokenPipeError, ConnectionResetError):  # Incus may refuse data before it has read all of them
        connection.request(method, target, body=body, headers=dict(headers), encode_chunked=True)
    answer = connection.getresponse()
    return answer.status, answer.read()


class _OnSocket(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("incus", timeout=_ANSWER)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWER)
        try:
            self.sock.connect(self.path)
        except OSError:
            self.sock.close()
            raise


def _open(remote: Remote, address: str) -> Connection:
    """Connect to an address of a remote. Raise OSError if it does not answer, or has another certificate."""
    if address.startswith("unix:"):
        connection: Connection = _OnSocket(address.removeprefix("unix:"))
        connection.connect()
        return connection
    parts = urlsplit(address)
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port or 8443, timeout=_CONNECT, context=_context(remote)
    )
    connection.connect()
    connection.sock.settimeout(_ANSWER)
    return connection


def _context(remote: Remote) -> ssl.SSLContext:
    """Return the TLS settings.

    The certificate of an Incus server is its own issuer. Only this certificate is trusted, so its name does not matter.
    """
    if remote.pinned is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(remote.pinned)
    if remote.certificate is not None and remote.key is not None:
        try:
            context.load_cert_chain(remote.certificate, remote.key)
        except OSError as error:
            text = f"cannot load the client certificate {remote.certificate}: {_reason(error)}"
            raise BakeError(text, hint="run `incus remote generate-certificate`") from None
    return context
