"""Requests to other nodes over mutual TLS: whether a disk is empty, and whether a member is still connected.

A waiting node with an empty disk reports the empty disk at its peer URL, where its etcd will listen later. The first
node starts a cluster only when every other node has reported an empty disk. A node that does not answer may be a member
with data.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from join_decision import Member, Planned
from node import CONNECT_SECONDS, address_of

EMPTY_PATH = "/bake/empty"
# X509_V_FLAG_PARTIAL_CHAIN allows an intermediate CA as trust anchor. Python has a name for the flag since 3.10.
PARTIAL_CHAIN = 0x80000
_LIMIT = 4 << 20  # maximum size of an answer in bytes; etcd's metrics have a tenth of this size


def context(kind: str, *, server: bool = False) -> ssl.SSLContext:
    """Return a mutual TLS context with etcd's settings. `kind` is `ETCD_PEER`, or `ETCDCTL` for a client."""
    names = ("CACERT", "CERT", "KEY") if kind == "ETCDCTL" else ("TRUSTED_CA_FILE", "CERT_FILE", "KEY_FILE")
    ca, cert, key = (os.environ[f"{kind}_{name}"] for name in names)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(ca)
    made.load_cert_chain(cert, key)
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= PARTIAL_CHAIN
    newest = os.environ.get("ETCD_TLS_MIN_VERSION") == "TLS1.3"
    made.minimum_version = ssl.TLSVersion.TLSv1_3 if newest else ssl.TLSVersion.TLSv1_2
    return made


def is_peer(connection: ssl.SSLSocket) -> bool:
    """Return whether the other side's certificate has the name that etcd's settings require, if they require a name."""
    found: Any = connection.getpeercert()
    name = {value for part in found["subject"] for key, value in part if key == "commonName"}
    for option, has in (("CN", name), ("HOSTNAME", {value for _, value in found.get("subjectAltName", ())})):
        allowed = os.environ.get(f"ETCD_PEER_CERT_ALLOWED_{option}")
        if allowed and not has & set(allowed.split(",")):
            return False
    return True


def get(url: str, path: str, tls: ssl.SSLContext) -> str:
    """Return the body of a GET request. Raises OSError, also for a status other than 200."""
    host, port = address_of(url)
    plain = socket.create_connection((host, port), CONNECT_SECONDS)
    with plain, tls.wrap_socket(plain, server_hostname=host) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while len(answer) < _LIMIT and (part := connection.recv(65536)):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        raise OSError("the status is not 200")
    return body.decode(errors="replace")


# --- "my disk is empty" -------------------------------------------------------


def statement(node: Planned, permit: str) -> str:
    """Return the answer of an empty node, which is its name and its cluster's id."""
    return f"{node.name} {permit}\n"


class EmptyDiskServer(threading.Thread):
    """Reports at the peer URL that this node's disk is empty, until the process ends."""

    def __init__(self, node: Planned, permit: str) -> None:
        super().__init__(daemon=True)
        self.address = address_of(node.peer_url)
        self.text = f"HTTP/1.0 200 OK\r\n\r\n{statement(node, permit)}".encode()
        self.tls = context("ETCD_PEER", server=True)

    def run(self) -> None:
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        while True:
            # The address may not be configured yet, or an etcd that is stopping may still use it.
            with suppress(OSError), socket.create_server(self.address, family=family) as listener:
                while True:
                    threading.Thread(target=self._answer, args=listener.accept()[:1], daemon=True).start()
            time.sleep(0.5)

    def _answer(self, plain: socket.socket) -> None:
        plain.settimeout(CONNECT_SECONDS)
        with plain, suppress(OSError), self.tls.wrap_socket(plain, server_side=True) as connection:
            path = connection.recv(4096).split(b" ")[1:2]
            if is_peer(connection):
                connection.sendall(self.text if path == [EMPTY_PATH.encode()] else b"HTTP/1.0 404 Not Found\r\n\r\n")


def empty(nodes: Iterable[Planned], permit: str) -> list[Planned]:
    """Return the nodes that report an empty disk. All nodes are asked at the same time."""
    found: list[Planned] = []

    def ask(node: Planned) -> None:
        with suppress(OSError):
            tls = context("ETCD_PEER")
            if get(node.peer_url, EMPTY_PATH, tls) == statement(node, permit):
                found.append(node)

    threads = [threading.Thread(target=ask, args=(node,), daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * CONNECT_SECONDS)
    return sorted(found)


# --- "that member is connected" -----------------------------------------------


def is_connected(voters: list[Member], member: Member) -> bool:
    """Return whether a voter's metrics show a connection to the member. Return True if no voter answers."""
    tls = context("ETCDCTL")
    connected = []
    for voter in voters:
        for url in voter.client_urls[:1]:
            with suppress(OSError):
                connected += [_has_peer(get(url, "/metrics", tls), member.id)]
    return any(connected) or not connected


def _has_peer(metrics: str, member_id: str) -> bool:
    lines = (line for line in metrics.splitlines() if line.startswith("etcd_network_active_peers{"))
    return any(f'Remote="{member_id}"' in line and not line.endswith(" 0") for line in lines)
