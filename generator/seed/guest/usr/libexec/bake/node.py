"""This node's settings, console and disk, and a check of which other nodes accept TCP connections."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from join_decision import Disk, Planned

CONNECT_SECONDS = 2.0
# The first bytes of a write-ahead log, which contain the members. A new log has 64 MiB, most of it zeros.
LOG_HEAD = 1 << 20


class Settings(NamedTuple):
    """The values of /etc/etcd/bake.env."""

    me: Planned
    planned: list[Planned]
    data_dir: Path
    run_dir: Path
    etcdctl: str
    token: str  # the first part of etcd's initial-cluster-token
    permit: str  # the cluster's id, although the field has the name `permit`
    has_permit: bool
    is_first: bool
    as_learner: bool
    pause: float  # seconds between two attempts
    snapshot: Path | None  # a copy of the ISO's snapshot; exists only on a first node that must restore it

    @property
    def may_bootstrap(self) -> bool:
        return self.is_first and self.has_permit

    @property
    def others(self) -> list[Planned]:
        return [node for node in self.planned if node != self.me]


def read_settings(env: dict[str, str]) -> Settings:
    """Return the settings in `env`. Raises KeyError for a missing name."""
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
        snapshot=Path(env["BAKE_SNAPSHOT"]) if "BAKE_SNAPSHOT" in env else None,
    )


def _digest(path: str) -> str | None:
    """Return the SHA-256 of a file's text without the final newline, or None if the file cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes().strip()).hexdigest()
    except OSError:
        return None


# --- the console --------------------------------------------------------------


class Console:
    """Writes lines about this node's progress to the serial console. The same line is not written twice in a row."""

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
    """Return whether the data directory has an etcd member. Raises OSError if the data directory cannot be read.

    A write-ahead log alone is not a member. If etcd is killed just after it has created the log, it finds the log at
    its next start, does not bootstrap and waits for a leader forever. A member's log begins with the configuration
    changes that created the cluster ("peerURLs" in JSON), or there is a snapshot. etcd syncs these changes or the
    snapshot before it acknowledges anything to clients or peers. So a disk without both has no acknowledged data.
    """
    member = data_dir / "member"
    for folder in (data_dir, member, member / "wal", member / "snap"):
        if folder.exists():
            list(folder.iterdir())  # raises OSError if the folder is unreadable or a file
    if not member.exists():
        return Disk.EMPTY
    snapshots = list((member / "snap").glob("*.snap"))
    logs = list((member / "wal").glob("*.wal"))
    names_members = [b'"peerURLs"' in _head(log) for log in logs]  # an unreadable log raises OSError
    return Disk.MEMBER if snapshots or any(names_members) else Disk.UNFINISHED


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LOG_HEAD)


def set_aside(data_dir: Path) -> None:
    """Rename the data directory, which an interrupted first start of etcd left behind."""
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
    """Return the URLs that accept a TCP connection. All URLs are tried at the same time for at most two seconds.

    A node that is too busy for a TLS handshake accepts connections, because the kernel accepts them. So does a member
    without a quorum, because etcd opens its ports before it has a leader. etcdctl would be too slow for this check: it
    waits for its timeout even if a connection is refused.
    """
    connected = set()

    def connect(url: str) -> None:
        host, port = address_of(url)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as plain, suppress(OSError):
            plain.settimeout(CONNECT_SECONDS)
            plain.connect((host, port))
            connected.add(url)

    threads = [threading.Thread(target=connect, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [url for url in urls if url in connected]
