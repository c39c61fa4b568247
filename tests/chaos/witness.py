"""Who looks on while a cluster assembles: a writer, somebody who watches the member list, and one who guards disks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from generator.etcd.client import Etcd, EtcdError
from generator.etcd.tls_probe import ClientFiles

PREFIX = b"chaos/"
QUICK = (1.0, 2.0)


class Witness(threading.Thread):
    """Looks again and again until it is told to stop."""

    def __init__(self, pause: float, prepare: Callable[[], None] = lambda: None) -> None:
        super().__init__(daemon=True)
        self.pause, self.prepare = pause, prepare
        self.over = threading.Event()

    def run(self) -> None:
        self.prepare()
        while not self.over.wait(self.pause):
            self.look()
        self.close()

    def stop(self) -> None:
        self.over.set()
        if self.is_alive():
            self.join(15)

    def look(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Give back what it held."""


class Writer(Witness):
    """Writes keys that nobody else writes, each once, and keeps those that were acknowledged, and when."""

    def __init__(self, urls: Iterable[str], files: ClientFiles, *, prepare: Callable[[], None] = lambda: None) -> None:
        super().__init__(0.1, prepare)
        self.clients = [Etcd(url, files, timeout=QUICK) for url in urls]
        self.acknowledged: dict[bytes, float] = {}
        self._turn = self._number = 0

    def look(self) -> None:
        self._number += 1
        key = PREFIX + str(self._number).encode()
        try:
            self.clients[self._turn % len(self.clients)].put(key, b"kept")
            self.acknowledged[key] = time.monotonic()
        except EtcdError:
            self._turn += 1

    def close(self) -> None:
        for client in self.clients:
            client.close()

    def since(self, moment: float) -> int:
        """How many writes were acknowledged since then."""
        return sum(1 for when in list(self.acknowledged.values()) if when > moment)


class Watch(Witness):
    """Asks every node who it is with: more members than planned, or a second cluster, is never forgotten."""

    def __init__(self, urls: Iterable[str], files: ClientFiles) -> None:
        super().__init__(0.2)
        self.clients = [Etcd(url, files, timeout=QUICK) for url in urls]
        self.most = 0
        self.cluster_ids: set[int] = set()
        self.names: set[str] = set()
        self.members: dict[str, set[int]] = {}  # ids under each name

    def look(self) -> None:
        for client in self.clients:
            with suppress(EtcdError):
                status = client.status()
                self.cluster_ids.add(status.cluster_id)
                if status.is_learner:
                    continue
                listed = client.members()
                self.most = max(self.most, len(listed))
                for member in listed:
                    self.names.add(member.name)
                    self.members.setdefault(member.name, set()).add(member.id)

    def strange(self, listed: dict[str, int]) -> set[tuple[str, int]]:
        """Members that were seen and are not in `listed` (name → id). A member that has not started has no name."""
        known = {*listed.items(), *(("", number) for number in listed.values())}
        return {(name, number) for name, ids in dict(self.members).items() for number in set(ids)} - known

    def close(self) -> None:
        for client in self.clients:
            client.close()


class Guard(Witness):
    """Holds every data directory that appears by a descriptor: one without a link left was deleted."""

    def __init__(self, folders: Iterable[Path]) -> None:
        super().__init__(0.03)
        self.folders = tuple(folders)
        self._held: dict[tuple[int, int], tuple[int, Path]] = {}
        self._lock = threading.Lock()

    def look(self) -> None:
        with self._lock:
            for path in (wal for folder in self.folders for wal in folder.glob("*/member/wal")):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if (status.st_dev, status.st_ino) not in self._held:
                        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
                        status = os.fstat(descriptor)
                        self._held[status.st_dev, status.st_ino] = descriptor, path

    @contextmanager
    def forgiving(self, folder: Path) -> Iterator[None]:
        """What is below it is wiped by us meanwhile; nobody looks before that is done."""
        with self._lock:
            for key, (descriptor, path) in list(self._held.items()):
                if path.is_relative_to(folder):
                    os.close(descriptor)
                    del self._held[key]
            yield

    def deleted(self) -> list[Path]:
        with self._lock:
            return [path for descriptor, path in self._held.values() if os.fstat(descriptor).st_nlink == 0]

    def close(self) -> None:
        with self._lock:
            for descriptor, _ in self._held.values():
                os.close(descriptor)
            self._held.clear()
