"""Three booted nodes of the profile `hardened` with a user: join, verify, audit, a lost disk, new certificates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.config.load import load
from generator.config.spec import ClusterSpec
from generator.image.base import cache_folder, default_image
from generator.operations.bake import bake
from generator.store.folder import Store
from tests.assembly.miniature import ETCDCTL_LIMITS
from tests.assembly.nspawn_lab import OUR_UNITS, REPORT, NspawnLab, bake_in_lab, healthy, strict_units
from tests.assembly.test_nspawn import served, writing

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
NODES = ("etcd1", "etcd2", "etcd3")
SPEC = """
auth:
  enabled: true
  users: [{name: app1, roles: [app]}]
  roles: [{name: app, permissions: [{prefix: /app/}]}]
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ClusterSpec:
    path = tmp_path_factory.mktemp("auth") / "cluster.yaml"
    path.write_text(SPEC)
    return load(profile="hardened", config=path).spec


@pytest.fixture(scope="module")
def lab(spec: ClusterSpec, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnLab]:
    work = tmp_path_factory.mktemp("auth-nodes")
    baked = bake(spec, Store(work / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=work / "nodes") as lab:
        for node in NODES:
            strict_units(lab, node)
        lab.start(*NODES)
        took = lab.wait_for("settled", *NODES, timeout=180)
        print(f"3 nspawn nodes with auth: {took:.1f} s from power-on to settled")
        lab.seal("etcd1")
        assert bake_in_lab(lab, "seal").returncode == 0
        yield lab


def etcdctl(lab: NspawnLab, client: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run etcdctl as a client with a certificate from the cluster's folder."""
    pki = lab.folder / "pki"
    own = {"CACERT": pki / "etcd-ca.pem", "CERT": pki / f"{client}.pem", "KEY": pki / f"{client}.key"}
    values = [f"ETCDCTL_{name}={path}" for name, path in own.items()]
    program = f"{default_image(cache_folder(), report=print).bin_dir}/etcdctl"
    endpoints = ",".join(node.client_url for node in lab.plan.nodes)
    return lab.run("env", *values, program, *ETCDCTL_LIMITS, f"--endpoints={endpoints}", *words, check=False)


def verified(lab: NspawnLab) -> str:
    """Return the output line of the check `auth`. All checks must pass."""
    result = healthy(lab)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(line for line in (result.stdout + result.stderr).splitlines() if line.startswith("auth "))


def test_a_cluster_with_auth_verifies_and_shows_its_status(lab: NspawnLab) -> None:
    assert "cannot read (etcd1, etcd2, etcd3)" in verified(lab)
    status = healthy(lab, "status")
    assert "leader" in status.stdout + status.stderr


def test_the_audit_passes_every_control(lab: NspawnLab) -> None:
    lab.wait_for_reports()
    result = healthy(lab, "audit")
    assert result.returncode == 0, result.stdout + result.stderr


def test_only_users_do_anything(lab: NspawnLab) -> None:
    assert etcdctl(lab, "users/app1", "put", "/app/x", "1").stdout == "OK\n"
    assert "permission denied" in etcdctl(lab, "users/app1", "get", "--prefix", "/").stderr
    assert "permission denied" in etcdctl(lab, "users/nobody", "get", "/app/x").stderr
    assert "permission denied" in etcdctl(lab, "users/nobody", "put", "/app/x", "2").stderr
    assert etcdctl(lab, "etcd-client", "get", "--print-value-only", "/app/x").stdout == "1\n"


def test_verify_fails_while_auth_is_off(lab: NspawnLab) -> None:
    etcdctl(lab, "etcd-client", "auth", "disable")
    line = "auth                 failed  is off; etcd1, etcd2, etcd3: lets a client without a user read"
    deadline = time.monotonic() + 120
    while line not in (result := bake_in_lab(lab, "verify")).stdout + result.stderr and time.monotonic() < deadline:
        time.sleep(1)  # a node of a busy machine may have answered late
    assert etcdctl(lab, "etcd-client", "auth", "enable").returncode == 0
    assert result.returncode == 3
    assert line in result.stdout + result.stderr
    verified(lab)


def test_a_node_that_lost_its_disk_comes_back(lab: NspawnLab) -> None:
    voted = lab.phases("etcd2").count("settled")
    node = next(node for node in lab.plan.nodes if node.name == "etcd2")
    lab.cut_power("etcd2")
    for name in ("upper", "overlay", "mnt", "medium"):
        shutil.rmtree(lab.work / "etcd2" / name)
    lab._prepare(node)
    strict_units(lab, "etcd2")
    lab.start("etcd2")
    lab.wait_for("settled", "etcd2", times=voted + 1, timeout=180)
    verified(lab)
    lab.wait_for_reports()
    assert healthy(lab, "audit").returncode == 0


def test_new_certificates_take_effect_without_a_failed_write_of_a_user(lab: NspawnLab, spec: ClusterSpec) -> None:
    before = {node: served(lab, node) for node in NODES}
    # While bake replaces the files, etcd may read a new certificate with an old key. So the client tries again.
    with writing(lab, "etcd3", patience=1, client="users/app1", key="/app/written") as end:
        for _ in range(3):
            store = Store(lab.folder.parent, "etcd")
            bake(spec, store, now=datetime.now(UTC), report=print, renew=["etcd3"])
            lab.insert("etcd3")
            lab.shell("etcd3", "systemctl start apply-seed")
        done, failed = end()
    print(f"{done} writes meanwhile")
    assert (done >= 3, failed) == (True, 0)
    assert {node for node in NODES if served(lab, node) != before[node]} == {"etcd3"}
    lab.shell("etcd3", REPORT)  # the new certificate belongs to the same user
    verified(lab)


def test_the_set_up_has_no_password_and_was_denied_nothing(lab: NspawnLab) -> None:
    words = "denied|not permitted|read-only file system|seccomp|SIGSYS|status=31|core-dump"
    for node in NODES:
        assert lab.shell(node, "systemctl list-units --failed --no-legend --plain").stdout == ""
        units = " ".join(f"-u {unit}" for unit in OUR_UNITS)
        found = lab.shell(node, f"journalctl --no-pager {units} | grep -iE '{words}'", check=False).stdout
        # The journal may contain only the denials of etcd's auth.
        assert [line for line in found.splitlines() if "auth: permission denied" not in line] == []
    users = json.loads(etcdctl(lab, "etcd-client", "user", "list", "-w", "json").stdout)["users"]
    assert users == ["app1", "etcd-client", "etcd1", "etcd2", "etcd3", "root"]
