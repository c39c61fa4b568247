"""Asks the nodes of a running cluster everything a verification needs, all nodes at once. Judges nothing."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from generator.etcd.answers import (
    LEASE_SECONDS,
    Guest,
    HashKv,
    Keys,
    Knock,
    NodeView,
    Port,
    Reply,
    Told,
)
from generator.etcd.client import Etcd, EtcdError
from generator.etcd.tls_probe import ClientFiles, knock
from generator.plan import ClusterPlan, NodePlan

T = TypeVar("T")
R = TypeVar("R")
MAX_KEYS = 1000  # keys that are listed; all are counted




Contexts = Mapping[tuple[Port, Guest], ssl.SSLContext | None]








def tell(call: Callable[[], T]) -> Told[T]:
    """Turn an endpoint's failure into data."""
    try:
        return Told(value=call())
    except EtcdError as error:
        return Told(error=error.cause)


def everywhere(call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`map`, each item on its own thread, so that several dead nodes cost the time of one."""
    items = list(items)
    with ThreadPoolExecutor(max(len(items), 1)) as pool:
        return list(pool.map(call, items))


def view_node(plan: ClusterPlan, node: NodePlan, files: ClientFiles, contexts: Contexts) -> NodeView:
    """Everything one node tells; a node that is not there is asked once only."""
    first = knock(str(node.address), plan.spec.etcd.client_port, contexts[Port.CLIENT, Guest.OPERATOR])
    if first.reply is Reply.UNREACHABLE and not first.distrusted:
        return absent(node, first.detail, {(Port.CLIENT, guest): first for guest in Guest})
    knocks = dict(_knocks(plan, node, contexts, first))
    with Etcd(node.client_url, files) as etcd:
        status = tell(etcd.status)
        if status.value is None:
            return absent(node, status.error or "", knocks)
        if not status.value.leader:  # every further question would only run into etcd's own time limit
            return replace(absent(node, "sees no leader", knocks), status=status)
        return NodeView(
            node=node,
            status=status,
            members=tell(etcd.members),
            alarms=tell(etcd.alarms),
            health=tell(lambda: _read_time(etcd)),
            knocks=knocks,
        )


def absent(node: NodePlan, error: str, knocks: Mapping[tuple[Port, Guest], Knock]) -> NodeView:
    """The view of a node that tells nothing of etcd."""
    return NodeView(
        node=node, status=Told(error=error), members=Told(error=error), alarms=Told(error=error),
        health=Told(error=error), knocks=knocks,
    )  # fmt: skip


def _knocks(
    plan: ClusterPlan, node: NodePlan, contexts: Contexts, first: Knock
) -> Iterator[tuple[tuple[Port, Guest], Knock]]:
    """Every guest at both ports. A port that cannot be reached is tried once: each try costs a time-out."""
    address, ports = str(node.address), plan.spec.etcd
    yield (Port.CLIENT, Guest.OPERATOR), first
    peer = knock(address, ports.peer_port, contexts[Port.PEER, Guest.OPERATOR])
    yield (Port.PEER, Guest.OPERATOR), peer
    closed = peer.reply is Reply.UNREACHABLE and not peer.distrusted
    for guest in (Guest.NOBODY, Guest.FOREIGN, Guest.PLAIN):
        yield (Port.CLIENT, guest), knock(address, ports.client_port, contexts[Port.CLIENT, guest])
        yield (Port.PEER, guest), peer if closed else knock(address, ports.peer_port, contexts[Port.PEER, guest])




def _read_time(etcd: Etcd) -> float:
    """Read a key as `etcdctl endpoint health` does (etcdctl/ctlv3/command/ep_command.go)."""
    start = time.monotonic()
    etcd.get(b"health", keys_only=True)
    return time.monotonic() - start


def list_keys(nodes: Iterable[NodePlan], files: ClientFiles) -> Told[Keys]:
    """Every key, from the first node that can tell."""
    return first_told(nodes, files, lambda etcd: etcd.get(b"", prefix=True, keys_only=True, limit=MAX_KEYS))


def try_nobody(nodes: Sequence[NodePlan], files: ClientFiles) -> dict[str, Told[Keys]]:
    """Through each node, read whatever there is with a certificate that is no user's."""
    told = everywhere(lambda node: ask(node, files, lambda etcd: etcd.get(b"", prefix=True, limit=1)), nodes)
    return {node.name: one for node, one in zip(nodes, told, strict=True)}


def first_told(nodes: Iterable[NodePlan], files: ClientFiles, call: Callable[[Etcd], T]) -> Told[T]:
    """Ask one node after the other until one answers; the last one's error if none does."""
    told: Told[T] = Told(error="no node answers")
    for node in nodes:
        told = ask(node, files, call)
        if told.error is None:
            break
    return told


def try_writes(
    nodes: Sequence[NodePlan], files: ClientFiles, token: str
) -> tuple[dict[str, str | None], str | None]:
    """Write a key of our own through each node, then read all of them through each node.

    Also says why the keys could not be removed, if so: then they vanish with their lease.
    """
    lease = first_told(nodes, files, lambda etcd: etcd.grant_lease(LEASE_SECONDS))
    if lease.value is None:
        return {node.name: lease.error for node in nodes}, None
    try:
        results = _write_and_read(nodes, files, f"/bake/verify/{token}/", lease.value)
    finally:
        number = lease.value
        removed = first_told(nodes, files, lambda etcd: etcd.revoke_lease(number))
    return results, removed.error


def _write_and_read(
    nodes: Sequence[NodePlan], files: ClientFiles, prefix: str, lease: int
) -> dict[str, str | None]:
    def write(node: NodePlan) -> Told[None]:
        key = f"{prefix}{node.name}".encode()
        return ask(node, files, lambda etcd: etcd.put(key, node.name.encode(), lease=lease))

    def read(node: NodePlan) -> Told[Keys]:
        return ask(node, files, lambda etcd: etcd.get(prefix.encode(), prefix=True))

    written = everywhere(write, nodes)
    wanted = {node.name for node, told in zip(nodes, written, strict=True) if told.error is None}
    trials = zip(nodes, written, everywhere(read, nodes), strict=True)
    return {node.name: _node_trial(wanted, put, got) for node, put, got in trials}


def _node_trial(wanted: set[str], put: Told[None], got: Told[Keys]) -> str | None:
    """What went wrong with one node's write or read; None if nothing did."""
    if put.error:
        return f"write: {put.error}"
    if got.value is None:
        return f"read: {got.error}"
    found = {item.value.decode(errors="replace") for item in got.value.items}
    missing = ", ".join(sorted(wanted - found))
    return f"does not see what was written through {missing}" if missing else None


def hash_nodes(nodes: Sequence[NodePlan], files: ClientFiles, *, tries: int = 3) -> dict[str, Told[HashKv]]:
    """Each node's digest of one and the same revision. Tried again while a compaction makes them differ."""
    hashes: list[Told[HashKv]] = []
    for _ in range(tries):
        hashes = _hash_once(nodes, files)
        if len({one.value.compact_revision if one.value else None for one in hashes}) <= 1:
            break
    return {node.name: one for node, one in zip(nodes, hashes, strict=True)}


def _hash_once(nodes: Sequence[NodePlan], files: ClientFiles) -> list[Told[HashKv]]:
    told = everywhere(lambda node: ask(node, files, Etcd.status), nodes)
    revision = min((status.value.revision for status in told if status.value), default=0)
    return everywhere(lambda node: ask(node, files, lambda etcd: etcd.hash_kv(revision)), nodes)


def ask(node: NodePlan, files: ClientFiles, call: Callable[[Etcd], T]) -> Told[T]:
    """One question to one node."""
    with Etcd(node.client_url, files) as etcd:
        return tell(lambda: call(etcd))
