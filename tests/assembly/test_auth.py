"""Users and roles on a real etcd: permissions, enabling auth, and nodes that join with auth on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPSConnection
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from generator import pki
from generator.config.auth import Access, AuthSpec, PermissionSpec, RoleSpec, UserSpec
from generator.config.pki import Certificates, PkiSpec
from generator.config.spec import JoinMode
from generator.etcd.client import Etcd, RefusedError
from generator.etcd.tls_probe import ClientFiles, operator_context
from tests.assembly.miniature import ETCDCTL_LIMITS, GUEST, Miniature, Node

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]
PERMISSIONS = (PermissionSpec(prefix="/app/"), PermissionSpec(access=Access.READ, key="--config"))
AUTH = AuthSpec(
    enabled=True,
    users=(UserSpec(name="app1", roles=("app",)), UserSpec(name="idle")),
    roles=(RoleSpec(name="app", permissions=PERMISSIONS),),
)
DENIED = "permission denied"


def files_of(cluster: Miniature, name: str) -> ClientFiles:
    """Return a client certificate of the cluster's CA with this common name."""
    made = pki.issue_client(cluster.plan, cluster.authority, now=datetime.now(UTC), user=name)
    return _written(cluster, name, made)


def _written(cluster: Miniature, name: str, credential: pki.Credential) -> ClientFiles:
    folder = cluster.root / "clients"
    folder.mkdir(exist_ok=True)
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(credential.cert_pem)
    key.write_bytes(credential.key_pem)
    return ClientFiles(ca=cluster.nodes[0].root / "etc/etcd/pki/etcd-ca.pem", cert=cert, key=key)


def operator(cluster: Miniature) -> ClientFiles:
    now = datetime.now(UTC)
    return _written(cluster, "operator", pki.issue_client(cluster.plan, cluster.authority, now=now))


def auth_of(cluster: Miniature, node: Node) -> dict[str, object]:
    """Return etcd's users with their roles, the roles with their permissions, and whether auth is on."""

    def ask(*words: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(cluster.etcdctl(node, *words, "-w", "json"))
        return {name: value for name, value in found.items() if name not in ("header", "authRevision")}

    users, roles = ask("user", "list").get("users", []), ask("role", "list").get("roles", [])
    assert isinstance(users, list)
    assert isinstance(roles, list)
    return {
        "users": {user: ask("user", "get", user).get("roles", []) for user in users},
        "roles": {role: ask("role", "get", role) for role in roles},
        "enabled": ask("auth", "status").get("enabled", False),
    }


ALL: dict[str, Any] = {
    "users": {
        "root": ["root"], "etcd-client": ["root"], "etcd1": ["root"], "etcd2": ["root"], "etcd3": ["root"],
        "app1": ["app"], "idle": [],
    },
    "roles": {
        "app": {
            "perm": [{"key": "LS1jb25maWc="}, {"permType": 2, "key": "L2FwcC8=", "range_end": "L2FwcDA="}],
        }
    },
    "enabled": True,
}  # fmt: skip


def is_on(node: Node) -> bool:
    return node.says("auth is on")


@pytest.fixture
def three(cluster_of: ClusterOf) -> Miniature:
    cluster = cluster_of(3, auth=AUTH)
    cluster.start()
    cluster.wait(lambda: all(map(is_on, cluster.nodes)), 40, "auth is on everywhere")
    cluster.wait_all_voting(1)
    return cluster


def test_only_users_do_anything_and_each_only_what_it_may(three: Miniature) -> None:
    url = three.nodes[1].plan.client_url
    assert auth_of(three, three.nodes[0]) == ALL
    with Etcd(url, operator(three)) as etcd:
        etcd.put(b"/secret", b"s")
        etcd.put(b"--config", b"c")
        assert len(etcd.members()) == 3
    with Etcd(url, files_of(three, "app1")) as etcd:
        etcd.put(b"/app/x", b"1")
        assert [one.value for one in etcd.get(b"/app/", prefix=True).items] == [b"1"]
        assert etcd.get(b"--config").count == 1
        for deed in (
            lambda: etcd.get(b"/secret"),
            lambda: etcd.get(b"", prefix=True),
            lambda: etcd.put(b"--config", b"2"),
            lambda: etcd.put(b"/app", b"2"),
            lambda: etcd.put(b"bake/members/etcd1", b"gone"),
            lambda: etcd.delete(b"/secret"),
        ):
            with pytest.raises(RefusedError, match=DENIED):
                deed()
    for stranger in ("nobody", "idle", "etcd9"):
        with Etcd(url, files_of(three, stranger)) as etcd:
            for deed in (
                lambda: etcd.get(b"", prefix=True),
                lambda: etcd.get(b"/app/x"),
                lambda: etcd.put(b"/app/x", b"2"),
                lambda: etcd.delete(b"/app/", prefix=True),
            ):
                with pytest.raises(RefusedError, match=DENIED):
                    deed()
            with pytest.raises(RefusedError, match=r"user not found|permission denied"):
                etcd.hash_kv(0)


def test_a_stranger_changes_nothing_about_members_and_users(three: Miniature) -> None:
    files, node = files_of(three, "nobody"), three.nodes[0]
    own = {"ETCDCTL_CACERT": str(files.ca), "ETCDCTL_CERT": str(files.cert), "ETCDCTL_KEY": str(files.key)}
    command = [str(three.tools.bin_dir / "etcdctl"), *ETCDCTL_LIMITS, f"--endpoints={node.plan.client_url}"]
    for words in (
        ("member", "remove", f"{three.members(node)[2]['ID']:x}"), ("member", "add", "x", "--peer-urls=https://x:1"),
        ("user", "add", "me", "--no-password"), ("auth", "disable"), ("snapshot", "save", str(three.root / "snapshot")),
        ("defrag",),
    ):  # fmt: skip
        done = subprocess.run([*command, *words], env=own, capture_output=True, text=True, timeout=180)
        assert done.returncode != 0
        assert "user name not found" in done.stderr or DENIED in done.stderr or "auth: user not found" in done.stderr
    assert auth_of(three, node) == ALL
    assert len(three.members(node)) == 3


def test_the_json_gateway_serves_nobody(three: Miniature) -> None:
    """etcd's JSON gateway refuses every client certificate with a common name."""
    node = three.nodes[0]
    for files in (files_of(three, "nobody"), files_of(three, "app1"), operator(three)):
        tls = operator_context(files)
        connection = HTTPSConnection(str(node.plan.address), 2379, context=tls, timeout=60)
        connection.request("POST", "/v3/kv/range", '{"key": "AA==", "range_end": "AA=="}')
        answer = connection.getresponse()
        refusal = "CommonName of client sending a request against gateway will be ignored"
        assert (answer.status, refusal in answer.read().decode()) == (400, True)
        connection.close()


def test_nodes_come_back_with_and_without_their_disks(three: Miniature) -> None:
    first, _, third = three.nodes
    for node in (third, first):
        node.seal()
        node.wipe()
        node.start()
        three.wait(lambda: is_on(node) and node.votes(), 40, f"{node.plan.name} is back")  # noqa: B023
    assert {m["name"] for m in three.members(first)} == {"etcd1", "etcd2", "etcd3"}
    three.nodes[1].cut_power()
    three.nodes[1].records.clear()
    three.nodes[1].start()
    three.wait(lambda: is_on(three.nodes[1]), 20, "etcd2 is back")
    assert auth_of(three, first) == ALL


def test_a_learner_is_promoted_whichever_voter_leads(three: Miniature) -> None:
    """The learner asks etcd2 for the leader, which is etcd3. With auth on, etcd2 cannot forward the promotion."""
    first, _, third = three.nodes
    status = json.loads(three.etcdctl(first, "endpoint", "status", "-w", "json"))[0]["Status"]
    numbers = {m["name"]: m["ID"] for m in three.members(first)}
    leader = next(node for node in three.nodes if numbers[node.plan.name] == status["leader"])
    if leader is not third:
        three.etcdctl(leader, "move-leader", f"{numbers['etcd3']:x}")
    first.seal()
    first.wipe()
    first.start()
    three.wait(lambda: is_on(first) and first.votes(), 40, "etcd1 is back")


def test_a_node_that_is_no_user_yet_waits_until_one_that_votes_has_the_new_seed(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(3, auth=AUTH)
    first, second, third = cluster.nodes
    new = third.root / "etc/etcd/auth.json"
    stated = json.loads(new.read_text())
    del stated["users"]["etcd3"]
    for node in (first, second):
        (node.root / "etc/etcd/auth.json").write_text(json.dumps(stated))
    with third.waiting_empty():
        cluster.start([first, second])
        cluster.wait(lambda: is_on(first) and is_on(second), 60, "auth is on")
    third.start()
    cluster.wait(lambda: third.says(DENIED), 20, "the node is refused")
    assert len(cluster.members(first)) == 2
    shutil.copy(new, second.root / "etc/etcd/auth.json")
    second.cut_power()
    second.start()
    cluster.wait(lambda: is_on(third) and third.votes(), 60, "the node votes")
    assert auth_of(cluster, first) == ALL


def test_nodes_that_join_as_voters_find_auth_on(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(2, auth=AuthSpec(enabled=True), join=JoinMode.VOTER)
    cluster.start()
    cluster.wait(lambda: all(map(is_on, cluster.nodes)), 40, "auth is on everywhere")


def test_a_set_that_all_share_is_node_and_operator(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(1, auth=AuthSpec(enabled=True), pki=PkiSpec(certificates=Certificates.SHARED))
    cluster.start()
    cluster.wait(lambda: is_on(cluster.nodes[0]), 40, "auth is on")
    assert auth_of(cluster, cluster.nodes[0])["users"] == {"root": ["root"], "etcd-client": ["root"]}


# ── an interrupted set-up ───────────────────────────────────────────────────────────────────────────

# Counts the calls of etcdctl. The file `cut` has the number of the call before or after which it kills the caller.
SHIM = """#!/bin/sh
count=$(($(cat {folder}/count) + 1)); echo $count >{folder}/count
cut=$(cat {folder}/cut)
[ "$count:before" != "$cut" ] || {{ kill -9 $PPID; exit 1; }}
{etcdctl} "$@"; code=$?
[ "$count:after" != "$cut" ] || kill -9 $PPID
exit $code
"""


@pytest.fixture
def alone(cluster_of: ClusterOf) -> Miniature:
    """A voting member whose seed lists users. Auth is off until the test runs etcd-auth."""
    cluster = cluster_of(1, auth=AUTH)
    node = cluster.nodes[0]
    env = node.root / "etc/etcd/bake.env"
    text = env.read_text()
    env.write_text(text.replace("BAKE_AUTH", "BAKE_LATER"))
    cluster.start()
    cluster.wait_all_voting(20)
    env.write_text(text)
    return cluster


def set_up(node: Node, etcdctl: Path | None = None) -> int:
    env = node.environment("etc/etcd/bake.env") | ({"BAKE_ETCDCTL": str(etcdctl)} if etcdctl else {})
    return subprocess.run(node.hook("etcd-auth"), env=env, timeout=180, capture_output=True).returncode


def undo(cluster: Miniature, *users: str) -> None:
    """Disable auth, and delete etcd's users and role, and the node's record of them."""
    node = cluster.nodes[0]
    cluster.etcdctl(node, "auth", "disable")
    for words in (*(("user", "delete", user) for user in users), ("role", "delete", "app"), ("del", "bake/auth")):
        cluster.etcdctl(node, *words, check=False)


def test_a_set_up_that_is_killed_at_any_call_is_finished_by_the_next(alone: Miniature, tmp_path: Path) -> None:
    node, users = alone.nodes[0], ("root", "etcd-client", "etcd1", "app1", "idle")
    wanted = {**ALL, "users": {name: ALL["users"][name] for name in users}}
    shim = tmp_path / "etcdctl"
    shim.write_text(SHIM.format(folder=tmp_path, etcdctl=alone.tools.bin_dir / "etcdctl"))
    shim.chmod(0o755)
    cuts = on = 0
    for number, when in product(range(1, 99), ("before", "after")):
        undo(alone, *users)
        (tmp_path / "count").write_text("0\n")
        (tmp_path / "cut").write_text(f"{number}:{when}\n")
        if set_up(node, shim) == 0:
            break
        found = auth_of(alone, node)
        assert not found["enabled"] or found == wanted  # auth is never on before all users exist
        cuts, on = cuts + 1, on + bool(found["enabled"])
        assert set_up(node) == 0
        assert auth_of(alone, node) == wanted
    print(f"killed {cuts} times")
    # A call that etcd answers too late is made again, so there may be more calls.
    assert on >= 3  # auth was enabled; the interruption came before or after the record
    assert cuts >= 2 * 17


def test_two_nodes_may_set_up_at_the_same_time(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(3, auth=AUTH)
    for node in cluster.nodes:
        env = node.root / "etc/etcd/bake.env"
        env.write_text(env.read_text().replace("BAKE_AUTH", "BAKE_LATER"))
    cluster.start()
    cluster.wait_all_voting(40)
    envs = [node.environment("etc/etcd/bake.env") for node in cluster.nodes]
    command = [sys.executable, "-EsS", str(GUEST / "etcd-auth")]
    for _ in range(3):
        running = [subprocess.Popen(command, env=env | {"BAKE_AUTH": env["BAKE_LATER"]}) for env in envs]
        assert [process.wait(180) for process in running] == [0, 0, 0]
        assert auth_of(cluster, cluster.nodes[0]) == ALL
        undo(cluster, *ALL["users"])


def test_what_an_operator_changed_stays_until_a_seed_says_something_else(alone: Miniature) -> None:
    node = alone.nodes[0]
    assert set_up(node) == 0
    alone.etcdctl(node, "user", "delete", "app1")
    alone.etcdctl(node, "auth", "disable")
    assert set_up(node) == 0
    found = auth_of(alone, node)
    assert found["enabled"]
    assert "app1" not in found["users"]  # type: ignore[operator]
    stated = node.root / "etc/etcd/auth.json"
    wanted = json.loads(stated.read_text())
    wanted["users"]["app2"] = ["app"]
    stated.write_text(json.dumps(wanted))
    assert set_up(node) == 0
    assert {"app1", "app2"} <= set(auth_of(alone, node)["users"])  # type: ignore[call-overload]
