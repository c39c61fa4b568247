"""Ask other nodes over mutual TLS: whether their disks are empty, whether they are connected to a member, and whether a
learner is among the members.

A node without data waits for a cluster and reports at its peer URL that its disk is empty. etcd listens at that URL
later. The first node starts a cluster only when every other node has reported an empty disk, because a node that does
not answer may have data.
"""

from __future__ import annotations

import json
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
# X509_V_FLAG_PARTIAL_CHAIN of OpenSSL allows an intermediate CA as trust anchor. Python before 3.10 has no name for it.
PARTIAL_CHAIN = 0x80000
_LIMIT = 4 << 20  # maximum size of an answer in bytes; etcd's metrics are about a tenth


def context(kind: str, *, server: bool = False) -> ssl.SSLContext:
    """Return a context for mutual TLS with the certificates in `ETCD_PEER_*` or `ETCDCTL_*`. `kind`: the prefix."""
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
    """Return whether etcd's peer-cert-allowed-* options accept the other node's certificate."""
    found: Any = connection.getpeercert()
    name = {value for part in found["subject"] for key, value in part if key == "commonName"}
    for option, has in (("CN", name), ("HOSTNAME", {value for _, value in found.get("subjectAltName", ())})):
        allowed = os.environ.get(f"ETCD_PEER_CERT_ALLOWED_{option}")
        if allowed and not has & set(allowed.split(",")):
            return False
    return True


def get(url: str, path: str, tls: ssl.SSLContext) -> str:
    """Return the body of the answer to a GET request. Raises OSError if the status is not 200."""
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
    """Return the text with which a node reports that its disk is empty: its name and its cluster's id."""
    return f"{node.name} {permit}\n"


class EmptyDiskServer(threading.Thread):
    """A thread that reports at the node's peer URL that the disk is empty."""

    def __init__(self, node: Planned, permit: str) -> None:
        super().__init__(daemon=True)
        self.address = address_of(node.peer_url)
        self.text = f"HTTP/1.0 200 OK\r\n\r\n{statement(node, permit)}".encode()
        self.tls = context("ETCD_PEER", server=True)

    def run(self) -> None:
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        while True:
            # Try again if the address is not configured yet, or if an etcd that is stopping still uses the port.
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
    """Ask all nodes at the same time. Return the nodes that report an empty disk."""
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
    """Return whether the metrics of a voter show a connection to `member`. Return True if no voter answers."""
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


# --- "a learner is joining" ---------------------------------------------------

MEMBERS_PATH = "/members"  # etcd's list of members at a peer URL, which etcd itself reads when it joins
WAIT_SECONDS = 10


def wait_for_learner(members: list[Member], pause: float) -> None:
    """Return when a voter's list of members no longer has a learner, when no voter shows a list, or after
    WAIT_SECONDS.

    The caller must read the list again with etcdctl. A process of etcdctl for each question would keep one CPU busy,
    which the learner may need: VMs often share CPUs.
    """
    tls = context("ETCD_PEER")
    urls = [member.peer_urls[0] for member in members if not member.is_learner]
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and any(lists_learner(url, tls) for url in urls):
        time.sleep(pause)


def lists_learner(url: str, tls: ssl.SSLContext) -> bool:
    """Return whether the member at this peer URL lists a learner. Return False if the member does not answer."""
    try:
        return any(member.get("isLearner") for member in json.loads(get(url, MEMBERS_PATH, tls)))
    except (OSError, ValueError, TypeError, AttributeError):
        return False
