"""This node as etcd-join and etcd-promote see it: its settings, its disk, its console, the other nodes' ports."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

from membership import Disk, Planned

CONNECT_SECONDS = 2.0
# The head of a log that says which members there are; the rest of its 64 MiB is zeros.
LOG_HEAD = 1 << 20


class Settings(NamedTuple):
    """What /etc/etcd/bake.env says."""

    me: Planned
    planned: list[Planned]
    data_dir: Path
    run_dir: Path
    etcdctl: str
    token: str  # what this cluster's own token begins with
    permit: str  # the cluster's id, which every node of it has; the permit itself is a secret
    has_permit: bool
    is_first: bool
    as_learner: bool
    pause: float  # seconds between two looks

    @property
    def may_bootstrap(self) -> bool:
        return self.is_first and self.has_permit

    @property
    def others(self) -> list[Planned]:
        return [node for node in self.planned if node != self.me]


def read_settings(env: dict[str, str]) -> Settings:
    """Raises KeyError for a name that is missing."""
    peers = [pair.split("=", 1) for pair in env["BAKE_MEMBERS"].split()]
    urls = env["BAKE_CLIENT_URLS"].split()
    planned = [Planned(name, peer, client) for (name, peer), client in zip(peers, urls)]
    return Settings(
        me=Planned(env["BAKE_NAME"], env["BAKE_PEER_URL"], env["BAKE_CLIENT_URL"]),
        planned=planned,
        data_dir=Path(env["BAKE_DATA_DIR"]),
        run_dir=Path(env["BAKE_RUN_DIR"]),
        etcdctl=env["BAKE_ETCDCTL"],
        token=env["BAKE_TOKEN"],
        permit=env["BAKE_PERMIT"],
        has_permit=_digest(env["BAKE_PERMIT_FILE"]) == env["BAKE_PERMIT_SHA256"],
        is_first=env["BAKE_BOOTSTRAP"] == "yes",
        as_learner=env["BAKE_JOIN"] == "learner",
        pause=float(env.get("BAKE_POLL_SECONDS", "0.5")),
    )


def _digest(path: str) -> str | None:
    """The SHA-256 of a file's text, without the end of its line."""
    try:
        return hashlib.sha256(Path(path).read_bytes().strip()).hexdigest()
    except OSError:
        return None


# --- the console --------------------------------------------------------------


class Console:
    """One record per line for whoever watches the serial console; the same record twice in a row is said once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last = ""

    def say(self, phase: str, detail: str = "") -> None:
        clean = "".join(c for c in detail.replace('"', "'") if c.isprintable() and c not in "\\{}")
        record = f"bake: node={self.name} phase={phase}" + (f' detail="{clean}"' if clean else "")
        if record != self.last:
            print(record, flush=True)
        self.last = record

    def fail(self, detail: str, code: int = 1) -> NoReturn:
        self.say("failed", detail)
        sys.exit(code)


# --- the disk -----------------------------------------------------------------


def look_at_disk(data_dir: Path) -> Disk:
    """Is a member on this disk? Raises OSError where that cannot be read, which is never taken for an empty disk.

    Not merely a log: an etcd killed within milliseconds of creating it finds a log, skips its bootstrap, and waits for
    a leader for ever. A member's log begins with the configuration changes that made its cluster ("peerURLs", as
    JSON), or it was compacted into a snapshot. Both are synced before the member acknowledges anything, to clients or
    to peers; so data with neither has promised nothing to anybody.
    """
    member = data_dir / "member"
    for folder in (data_dir, member, member / "wal", member / "snap"):
        if folder.exists():
            list(folder.iterdir())  # raises where it is not ours to read, or no folder
    if not member.exists():
        return Disk.EMPTY
    snapshots = list((member / "snap").glob("*.snap"))
    logs = list((member / "wal").glob("*.wal"))
    names_members = [b'"peerURLs"' in _head(log) for log in logs]  # all of them are read: one may be unreadable
    return Disk.MEMBER if snapshots or any(names_members) else Disk.UNFINISHED


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LOG_HEAD)


def set_aside(data_dir: Path) -> None:
    """Data of an unfinished first start makes room for another one. It is kept: we may be wrong about its worth."""
    number = 1
    while (kept := data_dir.with_name(f"{data_dir.name}.unfinished-{number}")).exists():
        number += 1
    data_dir.rename(kept)
    os.sync()


# --- the other nodes' ports ---------------------------------------------------


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.partition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


def accepting(urls: list[str]) -> list[str]:
    """Those of the URLs at which something accepts a TCP connection. All at once: silent hosts cost two seconds.

    The other side's kernel answers, so a host too busy for a TLS handshake still counts, and a member without quorum
    too: it binds its ports before it has a leader. etcdctl cannot tell: it spends its whole timeout on a refused
    connection as on a silent one.
    """
    sockets = {url: _begin_connect(url) for url in urls}
    waiting = [each for each in sockets.values() if each]
    deadline = time.monotonic() + CONNECT_SECONDS
    connected = set()
    while waiting and (left := deadline - time.monotonic()) > 0:
        for done in select.select([], waiting, [], left)[1]:
            waiting.remove(done)
            if done.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                connected.add(done)
    found = [url for url in urls if sockets[url] in connected]
    for each in filter(None, sockets.values()):
        each.close()
    return found


def _begin_connect(url: str) -> socket.socket | None:
    host, port = address_of(url)
    each = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    each.setblocking(False)
    try:
        each.connect((host, port))
    except BlockingIOError:
        pass
    except OSError:
        each.close()
        return None
    return each
