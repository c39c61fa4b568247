"""Query all nodes of a running cluster in parallel, for `bake verify`. generator/health checks the answers."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from generator.etcd.answers import (
    LEASE_SECONDS,
    Answer,
    ClientKind,
    HashKv,
    Keys,
    NodeView,
    Port,
    Probe,
)
from generator.etcd.client import Etcd, EtcdError
from generator.etcd.tls_probe import ClientFiles, probe
from generator.plan import ClusterPlan, NodePlan

T = TypeVar("T")
R = TypeVar("R")
MAX_KEYS = 1000  # maximum number of keys that `list_keys` returns; `Keys.count` counts all keys
Contexts = Mapping[tuple[Port, ClientKind], ssl.SSLContext | None]


def attempt(call: Callable[[], T]) -> Answer[T]:
    """Make a call. Return an `Answer` with the result, or with the error message if the call raises EtcdError."""
    try:
        return Answer(value=call())
    except EtcdError as error:
        return Answer(error=error.cause)


def everywhere(call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Call the function for all items in parallel, because a call to an unreachable node takes seconds."""
    items = list(items)
    with ThreadPoolExecutor(max(len(items), 1)) as pool:
        return list(pool.map(call, items))


def view_node(plan: ClusterPlan, node: NodePlan, files: ClientFiles, contexts: Contexts) -> NodeView:
    """Query one node. If the client port is unreachable, send no further queries to the node."""
    first = probe(str(node.address), plan.spec.etcd.client_port, contexts[Port.CLIENT, ClientKind.OPERATOR])
    if first.is_unreachable:
        return absent(node, first.detail, {(Port.CLIENT, kind): first for kind in ClientKind})
    probes = dict(_probes(plan, node, contexts, first))
    with Etcd(node.client_url, files) as etcd:
        status = attempt(etcd.status)
        if status.value is None:
            return absent(node, status.error or "", probes)
        if not status.value.leader:  # without a leader, calls that need a quorum time out
            return replace(absent(node, "sees no leader", probes), status=status)
        return NodeView(
            node=node,
            status=status,
            members=attempt(etcd.members),
            alarms=attempt(etcd.alarms),
            health=attempt(lambda: _read_time(etcd)),
            probes=probes,
        )


def absent(node: NodePlan, error: str, probes: Mapping[tuple[Port, ClientKind], Probe]) -> NodeView:
    """Return the `NodeView` of a node whose etcd does not answer."""
    return NodeView(
        node=node, status=Answer(error=error), members=Answer(error=error), alarms=Answer(error=error),
        health=Answer(error=error), probes=probes,
    )  # fmt: skip


def _probes(
    plan: ClusterPlan, node: NodePlan, contexts: Contexts, first: Probe
) -> Iterator[tuple[tuple[Port, ClientKind], Probe]]:
    """Probe a node's client port and peer port with every kind of client. An unreachable port is probed only once."""
    address, ports = str(node.address), plan.spec.etcd
    yield (Port.CLIENT, ClientKind.OPERATOR), first
    peer = probe(address, ports.peer_port, contexts[Port.PEER, ClientKind.OPERATOR])
    yield (Port.PEER, ClientKind.OPERATOR), peer
    closed = peer.is_unreachable
    for kind in (ClientKind.NO_CERTIFICATE, ClientKind.FOREIGN_CA, ClientKind.NO_TLS):
        yield (Port.CLIENT, kind), probe(address, ports.client_port, contexts[Port.CLIENT, kind])
        yield (Port.PEER, kind), peer if closed else probe(address, ports.peer_port, contexts[Port.PEER, kind])


def _read_time(etcd: Etcd) -> float:
    """Read the key that `etcdctl endpoint health` reads (etcdctl/ctlv3/command/ep_command.go). Return the seconds."""
    start = time.monotonic()
    etcd.get(b"health", keys_only=True)
    return time.monotonic() - start


def list_keys(nodes: Iterable[NodePlan], files: ClientFiles) -> Answer[Keys]:
    """Read the names of up to MAX_KEYS keys from the first node that answers."""
    return first_answer(nodes, files, lambda etcd: etcd.get(b"", prefix=True, keys_only=True, limit=MAX_KEYS))


def read_without_user(nodes: Sequence[NodePlan], files: ClientFiles) -> dict[str, Answer[Keys]]:
    """Try to read one key through each node. The certificate in `files` belongs to no etcd user."""
    reads = everywhere(lambda node: ask(node, files, lambda etcd: etcd.get(b"", prefix=True, limit=1)), nodes)
    return {node.name: one for node, one in zip(nodes, reads, strict=True)}


def first_answer(nodes: Iterable[NodePlan], files: ClientFiles, call: Callable[[Etcd], T]) -> Answer[T]:
    """Call one node after the other until a node answers. If no node answers, return the last node's error."""
    answer: Answer[T] = Answer(error="no node answers")
    for node in nodes:
        answer = ask(node, files, call)
        if answer.error is None:
            break
    return answer


def try_writes(
    nodes: Sequence[NodePlan], files: ClientFiles, token: str
) -> tuple[dict[str, str | None], str | None]:
    """Write one test key through each node. Read all test keys through each node. Delete the test keys.

    Return the error of each node, and the error of the deletion. None means that there was no error. If bake cannot
    delete the keys, etcd deletes the keys when their lease expires.
    """
    lease = first_answer(nodes, files, lambda etcd: etcd.grant_lease(LEASE_SECONDS))
    if lease.value is None:
        return {node.name: lease.error for node in nodes}, None
    try:
        results = _write_and_read(nodes, files, f"/bake/verify/{token}/", lease.value)
    finally:
        number = lease.value
        removed = first_answer(nodes, files, lambda etcd: etcd.revoke_lease(number))
    return results, removed.error


def _write_and_read(
    nodes: Sequence[NodePlan], files: ClientFiles, prefix: str, lease: int
) -> dict[str, str | None]:
    def write(node: NodePlan) -> Answer[None]:
        key = f"{prefix}{node.name}".encode()
        return ask(node, files, lambda etcd: etcd.put(key, node.name.encode(), lease=lease))

    def read(node: NodePlan) -> Answer[Keys]:
        return ask(node, files, lambda etcd: etcd.get(prefix.encode(), prefix=True))

    written = everywhere(write, nodes)
    wanted = {node.name for node, put in zip(nodes, written, strict=True) if put.error is None}
    trials = zip(nodes, written, everywhere(read, nodes), strict=True)
    return {node.name: _node_trial(wanted, put, got) for node, put, got in trials}


def _node_trial(wanted: set[str], put: Answer[None], got: Answer[Keys]) -> str | None:
    """Return the error of a node's write or read, or None if both succeeded."""
    if put.error:
        return f"write: {put.error}"
    if got.value is None:
        return f"read: {got.error}"
    found = {item.value.decode(errors="replace") for item in got.value.items}
    missing = ", ".join(sorted(wanted - found))
    return f"does not return the keys written through {missing}" if missing else None


def hash_nodes(nodes: Sequence[NodePlan], files: ClientFiles, *, tries: int = 3) -> dict[str, Answer[HashKv]]:
    """Return a digest of each node's data at one revision. Retry if a compaction makes the digests incomparable."""
    hashes: list[Answer[HashKv]] = []
    for _ in range(tries):
        hashes = _hash_once(nodes, files)
        if len({one.value.compact_revision if one.value else None for one in hashes}) <= 1:
            break
    return {node.name: one for node, one in zip(nodes, hashes, strict=True)}


def _hash_once(nodes: Sequence[NodePlan], files: ClientFiles) -> list[Answer[HashKv]]:
    states = everywhere(lambda node: ask(node, files, Etcd.status), nodes)
    revision = min((status.value.revision for status in states if status.value), default=0)
    return everywhere(lambda node: ask(node, files, lambda etcd: etcd.hash_kv(revision)), nodes)


def ask(node: NodePlan, files: ClientFiles, call: Callable[[Etcd], T]) -> Answer[T]:
    """Make one call to one node."""
    with Etcd(node.client_url, files) as etcd:
        return attempt(lambda: call(etcd))
