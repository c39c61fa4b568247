"""Open TCP connections to nodes: directly, or through a local socket that a tunnel forwards to a node's port.

All modules of this folder connect through `dial` or `forwarded`, so that a tunnel serves every query.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from generator.etcd.client_hello import VERSIONS, client_hello

TIMEOUT_SECONDS = 3.0
Target = tuple[str, int]  # a node's address and port


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """Sockets that lead to ports of nodes. `source`: the address from which the connections reach a node, or ""."""

    sockets: Mapping[Target, Path]
    source: str = ""


_tunnels: list[Tunnel] = []


@contextmanager
def through(tunnel: Tunnel) -> Iterator[None]:
    """Use a tunnel for all connections to its targets, in the whole process."""
    _tunnels.append(tunnel)
    try:
        yield
    finally:
        _tunnels.remove(tunnel)


def forwarded(address: str, port: int) -> Path | None:
    """Return the local Unix socket that leads to a node's port, or None without a tunnel."""
    found = _tunnel_to(address, port)
    return found.sockets[address, port] if found else None


def _tunnel_to(address: str, port: int) -> Tunnel | None:
    return next((one for one in _tunnels if (address, port) in one.sockets), None)


def dial(address: str, port: int, timeout: float) -> socket.socket:
    """Connect to a node's port. Raise OSError without a connection. `timeout`: in seconds, also for answers."""
    path = forwarded(address, port)
    if path is None:
        return socket.create_connection((address, port), timeout)
    _refuse_closed(path, timeout)
    return _connect(path, timeout)


def _connect(path: Path, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def _refuse_closed(path: Path, timeout: float) -> None:
    """Raise ConnectionRefusedError if the port is closed to the tunnel's host.

    ssh accepts a connection to the socket before it connects to the node, and closes it without a byte if it cannot. A
    TLS server answers every ClientHello.
    """
    with _connect(path, timeout) as sock:
        try:
            sock.sendall(client_hello(VERSIONS["1.2"]))
            answer = sock.recv(1)
        except ConnectionError:
            answer = b""
    if not answer:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "the port is closed to the host")


def source_address(address: str, port: int) -> str:
    """Return the address from which a connection reaches `address`. The function sends no packet."""
    if (tunnel := _tunnel_to(address, port)) and tunnel.source:
        return tunnel.source
    # Without a route, every probe fails anyway.
    return _own_address(address, port) or ("::1" if ":" in address else "127.0.0.1")


def has_route(address: str, port: int) -> bool:
    """Return whether this machine has a route or a tunnel to `address`. The function sends no packet."""
    return _tunnel_to(address, port) is not None or _own_address(address, port) is not None


def _own_address(address: str, port: int) -> str | None:
    """Return this machine's address on the route to `address`, or None without a route."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, port))
        except OSError:
            return None
        return str(sock.getsockname()[0]).partition("%")[0]


def reachable(targets: Iterable[Target], timeout: float = TIMEOUT_SECONDS) -> set[Target]:
    """Return the targets that accept or refuse a connection. A target that drops packets is not among them."""
    errors = _dial_all(targets, timeout)
    return {target for target, error in errors.items() if error is None or isinstance(error, ConnectionRefusedError)}


def accepting(targets: Iterable[Target], timeout: float = TIMEOUT_SECONDS) -> set[Target]:
    """Return the targets that accept a connection."""
    return {target for target, error in _dial_all(targets, timeout).items() if error is None}


def _dial_all(targets: Iterable[Target], timeout: float) -> dict[Target, OSError | None]:
    """Connect to all targets at the same time, and return each target's error, or None for a connection."""

    def error_of(target: Target) -> OSError | None:
        try:
            dial(*target, timeout).close()
        except OSError as error:
            return error
        return None

    targets = list(targets)
    with ThreadPoolExecutor(max(len(targets), 1)) as pool:
        return dict(zip(targets, pool.map(error_of, targets), strict=True))
