"""The connection to libvirt, and the only `import libvirt`: the other modules take it from this one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from generator.errors import BakeError

try:
    import libvirt
except ImportError:  # bake makes ISOs without it; `connect` says what to install
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

# libvirt-python has no type stubs; the names say what is meant.
Connection = Any
Domain = Any
Pool = Any
Volume = Any

_INSTALL = (
    "scripts/setup vm, or: apt-get install libvirt-dev gcc pkg-config python3-dev && pip install '.[vm]' "
    "in the source folder"
)

_URI = "--connect takes a libvirt URI such as qemu:///system or qemu+ssh://host/system"


_opened: list[str] = []  # libvirt's errors do not say from which connection they are


def connect(uri: str | None = None) -> Connection:
    """Open `uri`, or what libvirt itself would choose (LIBVIRT_DEFAULT_URI, its own configuration)."""
    if libvirt is None:
        raise BakeError("the Python module libvirt is not installed", hint=_INSTALL)
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # else it prints to stderr by itself
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise _explain(uri or os.environ.get("LIBVIRT_DEFAULT_URI") or "libvirt", error) from error
    _opened.append(connection.getURI())
    if urlsplit(connection.getURI()).path == "/session":
        raise BakeError(
            f"{connection.getURI()} cannot make networks: it is the unprivileged libvirt",
            hint="use --connect qemu:///system, as root or as a member of the group libvirt",
        )
    return connection


def is_local(connection: Connection) -> bool:
    """Whether the VMs run on this machine, so that its /proc and its routes are theirs too."""
    return not urlsplit(connection.getURI()).netloc


def _explain(target: str, error: Any) -> BakeError:
    text = message_of(error)
    # A driver that it does not know libvirt looks for in the daemon, so that the message is about a socket.
    if "://" in target and urlsplit(target).scheme.partition("+")[0] not in ("qemu", "test"):
        return BakeError(f"cannot connect to {target}: not a driver that bake knows", hint=_URI)
    hints = (
        ("Unable to parse URI", _URI),
        ("No such file or directory", "start libvirtd; in a container, as root: scripts/lab start"),
        ("Connection refused", "start libvirtd; in a container, as root: scripts/lab start"),
        ("Permission denied", "become root, or a member of the group libvirt (and log in again)"),
        ("authentication", "become root, or a member of the group libvirt (and log in again)"),
    )
    hint = next((hint for word, hint in hints if word in text), None)
    return BakeError(f"cannot connect to {target}: {text}", hint=hint)


def explain(error: Any, what: str | None = None, hint: str | None = None) -> BakeError:
    """An error of libvirt's as an error for a person. `what`: what libvirt was asked to do, where bake knows it."""
    uri = _opened[-1] if _opened else "libvirt"
    if error.get_error_domain() == libvirt.VIR_FROM_RPC:
        general = f"the connection to {uri} is lost: start libvirtd again on that machine, then run the command again"
    else:
        general = f"see what is there with `virsh -c {uri} list --all`, then run the command again"
    subject = f"could not {what}" if what else f"libvirt at {uri}"
    return BakeError(f"{subject}: {message_of(error)}", hint=hint or general)


def message_of(error: Any) -> str:
    """What libvirt says, on one line."""
    return " ".join(str(error.get_error_message() or error).split())


@contextmanager
def asking(what: str | None = None, hint: str | None = None) -> Iterator[None]:
    """Turn libvirt's refusal to do `what` into an error for a person. Works as a decorator, too."""
    try:
        yield
    except Exception as error:
        if libvirt is None or not isinstance(error, libvirt.libvirtError):
            raise
        raise explain(error, what, hint) from error


@contextmanager
def tolerating(*codes: str) -> Iterator[None]:
    """Let libvirt's errors of these codes (`VIR_ERR_…`) pass: what they report is what was wanted."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in {getattr(libvirt, code) for code in codes}:
            raise
