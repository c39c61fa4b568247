"""What the tests of `bake client` share: a running cluster with a folder that bake wrote, and clients in it."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from generator.clients.application import Kind
from generator.config.auth import AuthSpec, PermissionSpec, RoleSpec, UserSpec
from generator.operations import clients
from generator.operations.bake import bake
from generator.operations.baked_cluster import Cluster
from generator.operations.clients import Added
from generator.store.folder import Store
from tests.assembly.miniature import ETCDCTL_LIMITS, PATIENCE, Miniature

# As in the how-to pages.
ROLES = (
    RoleSpec(
        name="kubernetes", permissions=(PermissionSpec(prefix="/registry/"), PermissionSpec(key="compact_rev_key"))
    ),
    RoleSpec(name="patroni", permissions=(PermissionSpec(prefix="/service/"),)),
)
AUTH = AuthSpec(
    enabled=True,
    users=(UserSpec(name="kube-apiserver", roles=("kubernetes",)), UserSpec(name="app1", roles=("patroni",))),
    roles=ROLES,
)


def started(cluster: Miniature) -> Miniature:
    cluster.start()
    cluster.wait_all_voting(60)
    if cluster.plan.spec.auth.enabled:
        cluster.wait(lambda: all(node.says("auth is on") for node in cluster.nodes), 40, "auth is on everywhere")
    return cluster


def baked(cluster: Miniature, out: Path) -> Store:
    """Return the folder that bake writes for a running cluster, with the cluster's CA."""
    store = Store(out, cluster.plan.name)
    out.mkdir(mode=0o755)
    pki = store.folder / "pki"
    pki.mkdir(mode=0o700, parents=True)
    (pki / "etcd-ca.pem").write_bytes(cluster.authority.cert_pem)
    (pki / "etcd-ca.key").touch(mode=0o600)
    (pki / "etcd-ca.key").write_bytes(cluster.authority.key_pem)
    bake(cluster.plan.spec, store, now=datetime.now(UTC), report=print)
    return store


def add(cluster: Miniature, store: Store, name: str, kind: Kind) -> Added:
    """Add a client that uses its files in the cluster's folder.

    The plan does not come from cluster.yaml, because bake refuses a cluster with loopback addresses there.
    """
    opened, folder = Cluster(store=store, plan=cluster.plan, cluster_id="0" * 16), store.folder / "clients" / name
    with patch.object(clients, "open_cluster", lambda _: opened):
        return clients.add(
            store, name, kind, target=str(folder), renew=False, now=datetime.now(UTC), passphrase=None, report=print
        )


def etcdctl(cluster: Miniature, store: Store, name: str, *words: str, stdin: str | None = None) -> Any:
    """Run etcdctl with the certificate of a client, or of the operator if `name` is empty."""
    command, env = etcdctl_command(cluster, store, name)
    return subprocess.run(
        [*command, *words], env=env, input=stdin, capture_output=True, text=True, check=False, timeout=30 * PATIENCE
    )


def first_event(cluster: Miniature, store: Store, name: str, *words: str) -> str:
    """Return the first line that `etcdctl watch` prints."""
    command, env = etcdctl_command(cluster, store, name)
    with subprocess.Popen([*command, "watch", *words], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    return line


def etcdctl_command(cluster: Miniature, store: Store, name: str) -> tuple[list[str], dict[str, str]]:
    """Return etcdctl with the options for the cluster, and its environment."""
    files = [store.folder / "pki" / f"etcd-{part}" for part in ("ca.pem", "client.pem", "client.key")]
    if name:
        files = [store.folder / "clients" / name / part for part in ("ca.pem", "client.pem", "client.key")]
    own = dict(zip(("ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"), map(str, files), strict=True))
    endpoints = ",".join(node.plan.client_url for node in cluster.nodes)
    command = [str(cluster.tools.bin_dir / "etcdctl"), "--endpoints", endpoints, *ETCDCTL_LIMITS]
    return command, {**own, "PATH": os.environ["PATH"]}
