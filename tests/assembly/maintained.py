"""What the tests of the maintenance commands share: an opened cluster, writers, and a process that takes a snapshot.

    python -m tests.assembly.maintained CLUSTER TARGET [--blind]

takes a snapshot of a pickled cluster. With --blind, the process sees a disk with much free space.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from generator.errors import BakeError
from generator.etcd.client import Etcd, EtcdError
from generator.etcd.tls_probe import ClientFiles
from generator.operations.baked_cluster import Cluster, client_files
from generator.operations.maintenance import snapshot
from generator.store.folder import Store
from tests.assembly.miniature import PATIENCE, Miniature

ROOT = Path(__file__).parents[2]
ENOUGH = 100  # acknowledged writes


def opened(cluster: Miniature, out: Path) -> Cluster:
    """Return a running cluster as `open_cluster` would. The operator has the client certificate of the first node."""
    store = Store(out, cluster.plan.name)
    store.folder.mkdir(mode=0o755, parents=True)
    out.chmod(0o755)
    shutil.copytree(cluster.nodes[0].root / "etc/etcd/pki", store.folder / "pki")
    return Cluster(store=store, plan=cluster.plan, cluster_id="0123456789abcdef")


class Writer(threading.Thread):
    """Writes unique keys through one node, each until etcd has acknowledged it.

    `acknowledged`: the time of each acknowledgement. `size`: bytes of each value.
    """

    def __init__(self, url: str, name: str, files: ClientFiles, size: int) -> None:
        super().__init__(daemon=True)
        self.client, self.prefix, self.value = Etcd(url, files), f"written/{name}/".encode(), os.urandom(size)
        self.acknowledged: dict[bytes, float] = {}
        self.over, self.begun, self.ended = threading.Event(), time.monotonic(), 0.0
        self.errors: list[str] = []

    def run(self) -> None:
        number = 0
        while not self.over.wait(0.002):
            key = self.prefix + str(number).encode()
            try:
                self.client.put(key, self.value)
            except EtcdError as error:  # the write may have happened or not; the same write again is harmless
                self.errors.append(error.cause)
                continue
            self.acknowledged[key] = time.monotonic()
            number += 1
        self.ended = time.monotonic()
        self.client.close()

    def gap(self) -> float:
        """Return the longest time in seconds without an acknowledgement, from the begin to the end of the writes."""
        times = [self.begun, *self.acknowledged.values(), self.ended or time.monotonic()]
        return max(later - earlier for earlier, later in pairwise(times))


@contextmanager
def writing(cluster: Cluster, size: int = 64) -> Iterator[list[Writer]]:
    """Write through every node. At the end, fail if a key that etcd acknowledged is missing."""
    files = client_files(cluster.store.folder)
    writers = [Writer(node.client_url, node.name, files, size) for node in cluster.plan.nodes]
    for writer in writers:
        writer.start()
    try:
        time.sleep(1)
        yield writers
        time.sleep(1)
        deadline = time.monotonic() + 60 * PATIENCE
        while sum(len(writer.acknowledged) for writer in writers) <= ENOUGH and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        for writer in writers:
            writer.over.set()
        for writer in writers:
            writer.join(30)
    with Etcd(cluster.plan.nodes[0].client_url, files) as etcd:
        found = {item.key for item in etcd.get(b"written/", prefix=True, keys_only=True).items}
    acknowledged = {key for writer in writers for key in writer.acknowledged}
    assert len(acknowledged) > ENOUGH
    assert acknowledged <= found, f"lost: {sorted(acknowledged - found)[:5]}"
    for writer in writers:
        print(f"{writer.prefix.decode()}: {len(writer.acknowledged)} writes, gap {writer.gap():.3f} s, {writer.errors}")


def fill(cluster: Cluster, mebibytes: int, *, keys: int = 10**6) -> None:
    """Write values of 256 KiB below `fill/`. With few `keys`, later values replace earlier values."""
    with Etcd(cluster.plan.nodes[0].client_url, client_files(cluster.store.folder)) as etcd:
        for number in range(mebibytes * 4):
            etcd.put(f"fill/{number % keys}".encode(), os.urandom(256 << 10))


def command(cluster: Cluster, place: Path, target: Path, *more: str) -> list[str]:
    """Return the command line of a process that takes a snapshot."""
    place.write_bytes(pickle.dumps(cluster))
    return [sys.executable, "-m", "tests.assembly.maintained", str(place), str(target), *more]


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def main(place: str, target: str, *more: str) -> None:
    cluster: Cluster = pickle.loads(Path(place).read_bytes())  # noqa: S301  the test has written the file
    if "--blind" in more:
        real = os.statvfs
        os.statvfs = lambda path: type("Disk", (), {"f_bavail": 1 << 40, "f_frsize": real(path).f_frsize})()  # type: ignore[assignment,method-assign]
    try:
        snapshot.take(cluster, Path(target), keep=None, now=datetime.now(UTC), report=print)
    except BakeError as error:
        sys.exit(f"{error.exit_code}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
