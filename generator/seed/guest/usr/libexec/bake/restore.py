"""Make etcd's data from a snapshot with `etcdutl snapshot restore`, before the first node starts a new cluster.

The data becomes this node's data with one rename, when it is complete. So after a power cut at any moment, the node
either restores the snapshot again or resumes as a member.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import RECORDS, Cluster, RefusedError
from node import Console, Settings, address_of

# Clients that watch keys, such as Kubernetes, remember a revision. Revisions must not occur twice, so the restored
# revision is higher than every revision that the lost cluster can have reached (etcd's guide on disaster recovery).
BUMP = 1_000_000_000
REPORTS = "bake/audit/"  # prefix of the nodes' audit reports (etcd-audit)
STARTUP_SECONDS = 120.0


class RestoreError(Exception):
    """The snapshot cannot be restored. The message is the cause."""


class Restore:
    """The steps that turn the snapshot into this node's data."""

    def __init__(self, settings: Settings, cluster: Cluster, console: Console) -> None:
        self.settings, self.cluster, self.console = settings, cluster, console
        self.work = settings.data_dir / ".restoring"
        self.programs = Path(settings.etcdctl).parent

    def run(self, token: str) -> None:
        """Restore the snapshot. `token`: the initial-cluster-token, from which etcd derives the new ids."""
        self._check_version()
        self._remove_work()
        self.settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._restore(token)
        self._forget_old_cluster()
        os.sync()
        (self.work / "member").rename(self.settings.data_dir / "member")
        os.sync()
        self._remove_work()

    def _remove_work(self) -> None:
        """Remove what an interrupted run has left."""
        if self.work.exists():
            shutil.rmtree(self.work)

    def _check_version(self) -> None:
        """Raise RestoreError if the snapshot's etcd is newer than this node's etcd."""
        record = json.loads((self._snapshot.with_suffix(".json")).read_bytes())
        needed = str(record["etcd_version"])
        own = re.search(r"etcd Version: ([0-9.]+)", self._output("etcd", "--version"))
        if own and needed and _minor(own[1]) < _minor(needed):
            raise RestoreError(f"it is of etcd {needed}, but this node has etcd {own[1]}")

    @property
    def _snapshot(self) -> Path:
        if self.settings.snapshot is None:
            raise RestoreError("the seed contains no snapshot")
        return self.settings.snapshot

    def _restore(self, token: str) -> None:
        me = self.settings.me
        program, options = self._program()
        bump = "--bump-revision" in options
        more = () if bump else ("; this etcd cannot increase the revision, so restart all clients that watch keys",)
        self.console.say("joining", "".join(("restoring the snapshot", *more)))
        words = ["snapshot", "restore", str(self._snapshot), f"--data-dir={self.work}", f"--name={me.name}"]
        words += [f"--initial-cluster={me.name}={me.peer_url}", f"--initial-advertise-peer-urls={me.peer_url}"]
        words += [f"--initial-cluster-token={token}"]
        words += [f"--bump-revision={BUMP}", "--mark-compacted"] if bump else []
        self._output(program, *words)

    def _program(self) -> tuple[str, str]:
        """Return the program that can restore snapshots, and its help text. etcd 3.4 has no etcdutl."""
        for program in ("etcdutl", "etcdctl"):
            if (self.programs / program).exists():
                text = self._output(program, "snapshot", "restore", "--help")
                if "--data-dir" in text:
                    return program, text
        raise RestoreError(f"etcdutl is not installed in {self.programs}; add the package with etcdutl to the image")

    def _output(self, program: str, *words: str) -> str:
        """Run one of etcd's programs and return its stdout. Raises RestoreError."""
        done = subprocess.run([str(self.programs / program), *words], capture_output=True, text=True)
        if done.returncode:
            raise RestoreError(f"{program}: {_cause(done.stderr)}")
        return done.stdout

    # --- what the data says about the old cluster -------------------------------------------------------------

    def _forget_old_cluster(self) -> None:
        """Delete the records and reports of the old cluster's nodes, before another node can read them.

        The other nodes would find their old member ids, and behave like removed members. A full database refuses
        writes until the alarm is cleared, so the alarm is cleared too.
        """
        with self._serving() as endpoint:
            for prefix in (RECORDS, REPORTS):
                self.cluster.ctl("del", "--prefix", "--command-timeout=60s", prefix, endpoint=endpoint, limit=60)
            if self.cluster.ctl("alarm", "list", endpoint=endpoint).strip():
                self.cluster.ctl("defrag", "--command-timeout=600s", endpoint=endpoint, limit=600)
                self.cluster.ctl("alarm", "disarm", endpoint=endpoint)

    @contextmanager
    def _serving(self) -> Iterator[str]:
        """Run etcd on the restored data, at a port that no client knows. Yield its client URL."""
        host, _ = address_of(self.settings.me.client_url)
        name = f"[{host}]" if ":" in host else host
        client, peer = (f"https://{name}:{free_port(host)}" for _ in range(2))
        hidden = ("NOTIFY_SOCKET", "ETCD_LISTEN_METRICS_URLS")
        env = {key: value for key, value in os.environ.items() if key not in hidden}
        env |= {"ETCD_DATA_DIR": str(self.work), "ETCD_NAME": self.settings.me.name}
        env |= {"ETCD_LISTEN_CLIENT_URLS": client, "ETCD_ADVERTISE_CLIENT_URLS": client, "ETCD_LISTEN_PEER_URLS": peer}
        with subprocess.Popen([str(self.programs / "etcd")], env=env) as etcd:
            try:
                self._await(etcd, client)
                yield client
            except RefusedError as refusal:
                raise RestoreError(f"etcd refuses a change of the restored data: {refusal}") from None
            finally:
                etcd.terminate()

    def _await(self, etcd: subprocess.Popen[bytes], endpoint: str) -> None:
        """Wait until etcd answers. Raises RestoreError if it ends."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while etcd.poll() is None:
            try:
                self.cluster.ctl("get", RECORDS, endpoint=endpoint)
                return
            except RefusedError as refusal:
                if time.monotonic() > deadline:
                    raise RestoreError(f"etcd does not answer with the restored data: {refusal}") from None
            time.sleep(0.1)
        raise RestoreError("etcd does not start with the restored data; its log is in the journal")


def free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port: int = server.getsockname()[1]
        return port


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


def _cause(stderr: str) -> str:
    """Return the last line of stderr, without the word `Error`."""
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("{")]
    return re.sub(r"^Error: ", "", lines[-1]) if lines else "failed"
