"""Connect to libvirt and explain libvirt's errors. The name `libvirt` is None if the Python module is missing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

from generator.errors import BakeError

try:
    import libvirt
except ImportError:  # making ISOs does not need libvirt; `connect` reports the packages to install
    libvirt = None

__all__ = [
    "Connection",
    "Domain",
    "Pool",
    "Volume",
    "asking",
    "connect",
    "explain",
    "libvirt",
    "message_of",
    "tolerating",
]

# libvirt-python has no type hints, so libvirt's types are `Any` here.
Connection = Any
Domain = Any
Pool = Any
Volume = Any

_INSTALL = (
    "run scripts/setup vm, or: apt-get install libvirt-dev gcc pkg-config python3-dev && pip install '.[vm]' "
    "in the source folder"
)

_URI = "--connect takes a libvirt URI such as qemu:///system or qemu+ssh://host/system"
_PATIENCE = 30.0  # seconds within which a libvirt on another host must answer
_KEEPALIVE = (5, 3)  # seconds between two probes of a connection to another host, and how many may have no answer
_SSH_TRANSPORTS = ("ssh", "libssh", "libssh2")
_opened: list[str] = []  # URIs of all connections, for error messages: libvirt's errors do not contain the URI


def connect(uri: str | None = None) -> Connection:
    """Connect to `uri`, or to libvirt's default URI (LIBVIRT_DEFAULT_URI, libvirt.conf, qemu:///system)."""
    if libvirt is None:
        raise BakeError("the Python module libvirt is not installed", hint=_INSTALL)
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # without a handler, libvirt prints to stderr
    target = uri or os.environ.get("LIBVIRT_DEFAULT_URI") or "libvirt"
    try:
        connection = _open_remote(target) if urlsplit(target).netloc else libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise _explain(target, error) from error
    _opened.append(connection.getURI())
    if urlsplit(connection.getURI()).path == "/session":
        raise BakeError(
            f"{connection.getURI()} is an unprivileged libvirt, which cannot create networks",
            hint="use --connect qemu:///system, as root or as a member of the group libvirt",
        )
    return connection


def _open_remote(uri: str) -> Connection:
    """Connect to a libvirt on another host. Later calls fail within seconds if the host no longer answers.

    libvirt itself waits for minutes for a host that drops packets. The thread of such a connection ends with bake.
    """
    _start_events()
    found: list[Connection | Exception] = []

    def work() -> None:
        try:
            connection = libvirt.open(uri)
            connection.setKeepAlive(*_KEEPALIVE)
            found.append(connection)
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not found:
        raise BakeError(
            f"cannot connect to {uri}: no answer within {_PATIENCE:.0f} s", hint="start the host, or check its address"
        )
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


@cache
def _start_events() -> None:
    """Run libvirt's event loop, which sends the probes. It must exist before a connection."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


def is_local(connection: Connection) -> bool:
    """Return whether the VMs run on this machine."""
    return not urlsplit(connection.getURI()).netloc


def ssh_command(uri: str | None) -> list[str] | None:
    """Return the command with which ssh connects to the host of a libvirt URI. `None`: libvirt's default URI.

    The command is the one of libvirt's own connection (https://libvirt.org/uri.html, "ssh transport"). It ends with
    `--` and the host's name. Return None if the URI names this machine, or a host that is not reached with ssh.
    """
    url = urlsplit(uri or os.environ.get("LIBVIRT_DEFAULT_URI") or "")
    if not url.hostname or url.scheme.partition("+")[2] not in _SSH_TRANSPORTS:
        return None
    given = {name: values[-1] for name, values in parse_qs(url.query).items()}
    words = [given.get("command", "ssh"), "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_PATIENCE / 2:.0f}"]
    words += ["-i", given["keyfile"]] if "keyfile" in given else []
    words += ["-o", f"UserKnownHostsFile={given['known_hosts']}"] if "known_hosts" in given else []
    words += ["-p", str(url.port)] if url.port else []
    words += ["-l", url.username] if url.username else []
    return [*words, "--", url.hostname]


def is_remote(uri: str | None) -> bool:
    """Return whether a libvirt URI names another host. `None`: libvirt's default URI."""
    return bool(urlsplit(uri or os.environ.get("LIBVIRT_DEFAULT_URI") or "").netloc)


def _explain(target: str, error: Any) -> BakeError:
    text = message_of(error)
    # If the URI names an unknown driver, libvirt's message is only about a missing socket.
    if "://" in target and urlsplit(target).scheme.partition("+")[0] not in ("qemu", "test"):
        return BakeError(f"cannot connect to {target}: bake supports only libvirt's driver for QEMU", hint=_URI)
    hints = (
        ("Unable to parse URI", _URI),
        ("No such file or directory", "start libvirtd; in a container, as root: scripts/lab start"),
        ("Connection refused", "start libvirtd; in a container, as root: scripts/lab start"),
        ("Permission denied", "become root, or join the group libvirt and log in again"),
        ("Host key verification failed", "connect once with ssh, and check the host's key"),
        ("No route to host", "start the host, or check its address"),
        ("Could not resolve hostname", "check the host's name in the URI"),
        ("authentication", "become root, or join the group libvirt and log in again"),
    )
    hint = next((hint for word, hint in hints if word in text), None)
    return BakeError(f"cannot connect to {target}: {text}", hint=hint)


def explain(error: Any, what: str | None = None, hint: str | None = None) -> BakeError:
    """Turn a libvirt error into a BakeError. `what` is the failed operation, if it is known."""
    uri = _opened[-1] if _opened else "libvirt"
    if error.get_error_domain() == libvirt.VIR_FROM_RPC:
        general = f"the connection to {uri} is lost; start libvirtd on the VMs' host, then run the command again"
    else:
        general = f"check the VMs with `virsh -c {uri} list --all`, then run the command again"
    subject = f"could not {what}" if what else f"libvirt at {uri}"
    return BakeError(f"{subject}: {message_of(error)}", hint=hint or general)


def message_of(error: Any) -> str:
    """Return libvirt's message on one line."""
    return " ".join(str(error.get_error_message() or error).split())


@contextmanager
def asking(what: str | None = None, hint: str | None = None) -> Iterator[None]:
    """Turn a libvirt error during the operation `what` into a BakeError.

    The function works in a `with` statement and as a decorator.
    """
    try:
        yield
    except Exception as error:
        if libvirt is None or not isinstance(error, libvirt.libvirtError):
            raise
        raise explain(error, what, hint) from error


@contextmanager
def tolerating(*codes: str) -> Iterator[None]:
    """Ignore libvirt errors whose code is in `codes`, for example `VIR_ERR_NO_DOMAIN`."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in {getattr(libvirt, code) for code in codes}:
            raise
