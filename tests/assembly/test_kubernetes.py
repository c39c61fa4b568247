"""What a kube-apiserver does with etcd, with the certificate and the role of docs/how-to/kubernetes.md.

The requests are those of the apiserver's storage (k8s.io/apiserver/pkg/storage/etcd3), sent by etcd's own Go client.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from generator.clients.application import Kind
from generator.config.auth import AuthSpec
from tests.assembly.applications import AUTH, add, baked, etcdctl, first_event, started
from tests.assembly.miniature import Miniature

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]
NAME = "kube-apiserver"
POD = "/registry/pods/default/web"
CREATE = f'mod("{POD}") = "0"\n\nput {POD} created\n\nget {POD}\n\n'
UPDATE = f'mod("{POD}") > "0"\n\nput {POD} updated\n\nget {POD}\n\n'
# The apiservers agree on the revision of the next compaction with this key, which is outside their prefix.
COMPACT = 'version("compact_rev_key") = "0"\n\nput compact_rev_key 1\n\nget compact_rev_key\n\n'


@pytest.mark.parametrize("auth", [AuthSpec(), AUTH], ids=["without auth", "with auth"])
def test_a_kube_apiserver_can_do_what_it_needs(cluster_of: ClusterOf, tmp_path: Path, auth: AuthSpec) -> None:
    cluster = started(cluster_of(3, auth=auth))
    store = baked(cluster, tmp_path / "out")
    add(cluster, store, NAME, Kind.KUBERNETES)

    def run(*words: str, stdin: str | None = None) -> str:
        done = etcdctl(cluster, store, NAME, *words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    assert "SUCCESS" in run("txn", stdin=CREATE)
    assert "SUCCESS" in run("txn", stdin=UPDATE)
    assert "SUCCESS" in run("txn", stdin=COMPACT)
    assert run("get", "--prefix", "/registry/pods/", "--print-value-only") == "updated\n"
    run("get", "/registry/health")
    lease = run("lease", "grant", "60").split()[1]
    run("put", "/registry/events/default/e1", "event", "--lease", lease)
    revision = json.loads(run("get", POD, "-w", "json"))["header"]["revision"]
    assert first_event(cluster, store, NAME, "--prefix", "/registry/", "--rev", "1") == "PUT\n"
    assert run("del", POD) == "1\n"
    flags = (store.folder / "clients" / NAME / "kube-apiserver.flags").read_text()
    assert ("--etcd-compaction-interval=0\n" in flags) == auth.enabled
    for words in (("endpoint", "status"), ("compaction", str(revision))):
        done = etcdctl(cluster, store, NAME, *words)
        print(words[0], "refused" if done.returncode else "permitted")
        # With auth, etcd 3.5.30 permits both only to the role root. etcd 3.5.16 permits both to each user.
        assert done.returncode == 0 or (auth.enabled and "permission denied" in done.stderr), done.stderr


def test_with_auth_it_can_do_nothing_else(cluster_of: ClusterOf, tmp_path: Path) -> None:
    cluster = started(cluster_of(1, auth=AUTH))
    store = baked(cluster, tmp_path / "out")
    add(cluster, store, NAME, Kind.KUBERNETES)
    for words in (
        ("get", "--prefix", "/service/"), ("put", "/registry", "x"), ("put", "compact_rev_key2", "x"),
        ("get", "--prefix", "bake/"), ("get", "--prefix", ""), ("user", "list"), ("member", "add", "x"),
    ):  # fmt: skip
        done = etcdctl(cluster, store, NAME, *words)
        assert done.returncode != 0, words
        if words[0] != "member":
            assert "permission denied" in done.stderr, (words, done.stderr)
