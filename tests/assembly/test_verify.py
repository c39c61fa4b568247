"""`verify` and `cluster_status` on a real etcd: a healthy cluster passes, and each kind of fault is found."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_network
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import pytest

from generator import pki
from generator.config.auth import AuthSpec
from generator.config.pki import Certificates, Extensions, PkiSpec
from generator.config.spec import ClusterSpec, FirewallKind, FirewallSpec, NetworkSpec
from generator.etcd import answers, observe
from generator.etcd.answers import Keys, Reply
from generator.etcd.client import Etcd
from generator.etcd.dial import source_address
from generator.etcd.tls_probe import ClientFiles, probe, unverified_context
from generator.health import Result
from generator.operations.status import MemberRole, cluster_status
from generator.operations.verify import Verification, foreign_pair, verify
from generator.pki import Role
from generator.plan import ClusterPlan, plan_cluster
from tests.assembly.miniature import Miniature, Node

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]
T = TypeVar("T")
NO_AUTH = AuthSpec()


def plan_of(cluster: Miniature, auth: AuthSpec = NO_AUTH) -> ClusterPlan:
    first = cluster.nodes[0].plan.address
    subnet = ip_network(f"{first}/24", strict=False)
    network = NetworkSpec(subnet=subnet, first_ip=first)
    firewall = FirewallSpec(kind=FirewallKind.NONE)
    own = cluster.plan.spec.pki
    plan = plan_cluster(ClusterSpec(nodes=len(cluster.nodes), network=network, firewall=firewall, pki=own, auth=auth))
    assert [node.plan for node in cluster.nodes] == list(plan.nodes)
    return plan


def files_of(cluster: Miniature) -> ClientFiles:
    folder = cluster.nodes[0].root / "etc/etcd/pki"
    return ClientFiles(
        ca=folder / "etcd-ca.pem", cert=folder / "etcd-client.pem", key=folder / "etcd-client.key",
        peer_ca=folder / "etcd-peer-ca.pem",
    )  # fmt: skip


def check(
    cluster: Miniature, files: ClientFiles | None = None, auth: AuthSpec = NO_AUTH, **more: Any
) -> Verification:
    return verify(
        plan_of(cluster, auth), files or files_of(cluster), now=datetime.now(UTC), token=secrets.token_hex(8),
        sealed=True, **{"report": print, **more},
    )  # fmt: skip


def failed(found: Verification) -> dict[str, tuple[str, ...]]:
    """Return the failed checks, and the nodes of each failed check."""
    print(*found.checks, sep="\n")
    assert found.healthy == (not found.failed and not found.skipped)
    return {check.name: check.nodes for check in found.failed}


def configure(node: Node, **values: str) -> None:
    """Change settings of etcd.conf. An empty value removes the setting."""
    path = node.root / "etc/etcd/etcd.conf"
    text = path.read_text()
    for name, value in values.items():
        line = f'{name}="{value}"' if value else ""
        text, count = re.subn(rf"^{name}=.*$", line, text, flags=re.MULTILINE)
        assert count == 1, f"no {name} in etcd.conf"
    path.write_text(text)


def keys(cluster: Miniature, prefix: bytes = b"") -> Keys:
    with Etcd(cluster.nodes[0].plan.client_url, files_of(cluster)) as etcd:
        return etcd.get(prefix, prefix=True)


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call that ends within the limit. Try three times, because a busy machine may be slow."""
    took = []
    for _ in range(3):
        start = time.monotonic()
        result = call()
        took.append(time.monotonic() - start)
        if took[-1] < seconds:
            return result
    pytest.fail(f"no call took less than {seconds} s: {took}")


@pytest.fixture
def three(cluster_of: ClusterOf) -> Miniature:
    cluster = cluster_of(3)
    cluster.start()
    cluster.wait_all_voting(30)
    return cluster


@pytest.fixture
def one(cluster_of: ClusterOf) -> Callable[..., Miniature]:
    def start(**settings: str) -> Miniature:
        cluster = cluster_of(1)
        configure(cluster.nodes[0], **settings)
        cluster.start()
        log = cluster.nodes[0].root / "log"
        ready = "ready to serve client requests"
        cluster.wait(lambda: log.exists() and ready in log.read_text(), 20, "etcd serves")
        return cluster

    return start


def test_a_healthy_cluster_passes_everything_and_loses_nothing(three: Miniature) -> None:
    with Etcd(three.nodes[1].plan.client_url, files_of(three)) as etcd:
        etcd.put(b"/registry/x", b"1")
    before = keys(three)
    found = check(three)
    assert failed(found) == {}
    assert {check.result for check in found.checks} == {Result.OK}
    assert keys(three).items == before.items

    parts = cluster_status(plan_of(three), files_of(three)).nodes
    assert sorted(str(node.role) for node in parts) == ["leader", "voter", "voter"]
    assert all(node.reachable and node.version and node.error is None for node in parts)


def test_a_node_that_is_down_is_named_and_its_member_still_known(three: Miniature) -> None:
    three.nodes[1].kill()
    three.wait(lambda: observe.list_keys([three.nodes[0].plan], files_of(three)).value, 20, "a new leader")
    assert failed(check(three)) == {"endpoint health": ("etcd2",), "write and read": ("etcd2",)}
    down = cluster_status(plan_of(three), files_of(three)).nodes[1]
    assert (down.reachable, down.role, down.error) == (False, MemberRole.VOTER, "connection refused")
    assert down.member_id


def test_after_a_change_it_waits_for_a_node_that_does_not_answer_yet(three: Miniature) -> None:
    """The node starts only when the first query has failed, so the test does not depend on the node's speed."""
    late = three.nodes[1]
    late.kill()
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if line.startswith("waiting up to 120 s for all nodes to answer: "):
            late.start()

    assert failed(check(three, report=report, wait=120)) == {}
    assert [line.split()[0] for line in lines] == ["asking", "writing", "waiting"]


def test_without_a_majority_it_is_unhealthy_within_one_time_limit(three: Miniature) -> None:
    """The other two nodes are frozen: they accept connections but do not answer."""
    for node in three.nodes[1:]:
        for process in node._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGSTOP)
    plan, files = plan_of(three), files_of(three)
    three.wait(lambda: "no leader" in str(cluster_status(plan, files).nodes[0].error), 30, "the leader is missed")
    # One timeout of 3 s; a request to etcd would take 7 s more.
    found = within(9, lambda: failed(check(three)))
    assert found["endpoint health"] == ("etcd1", "etcd2", "etcd3")
    assert {"member list", "all keys", "one cluster", "write and read"} <= set(found)


def test_a_learner_is_not_enough(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(2)
    cluster.nodes[1].promotes = False
    cluster.start()
    plan, files = plan_of(cluster), files_of(cluster)

    def is_learner() -> bool:
        return (
            cluster_status(plan, files).nodes[1].role is MemberRole.LEARNER
            and cluster_status(plan, files).nodes[1].reachable
        )

    cluster.wait(is_learner, 20, "the second node learns")
    found = failed(check(cluster))
    assert found["planned members"] == ("etcd2",)
    assert {"endpoint health", "write and read"} <= set(found)


def test_a_member_outside_the_plan_is_seen(one: Callable[..., Miniature]) -> None:
    cluster = one()
    cluster.etcdctl(
        cluster.nodes[0], "member", "add", "evil", "--learner", "--peer-urls=https://127.255.0.9:2380"
    )
    assert "planned members" in failed(check(cluster))


def test_a_client_port_without_client_certificates_is_caught(one: Callable[..., Miniature]) -> None:
    cluster = one(ETCD_CLIENT_CERT_AUTH="", ETCD_TRUSTED_CA_FILE="")
    found = failed(check(cluster))
    assert {"no certificate", "foreign certificate"} <= set(found)
    assert "no TLS" not in found


def test_a_peer_port_without_client_certificates_is_caught(one: Callable[..., Miniature]) -> None:
    cluster = one(ETCD_PEER_CLIENT_CERT_AUTH="", ETCD_PEER_TRUSTED_CA_FILE="")
    assert set(failed(check(cluster))) == {"no certificate", "foreign certificate", "client certificate"}


def test_with_auth_a_server_certificate_that_names_a_nodes_user_is_caught(one: Callable[..., Miniature]) -> None:
    """Without auth, the server certificate has the node's name, as with auth in older versions of bake."""
    cluster = one()
    assert failed(check(cluster)) == {}
    found = failed(check(cluster, auth=AuthSpec(enabled=True)))
    assert found["server certificates"] == (cluster.nodes[0].plan.name,)


@pytest.mark.parametrize("certificates", Certificates)
def test_only_its_ca_keeps_the_foreign_certificate_out(cluster_of: ClusterOf, certificates: Certificates) -> None:
    """The foreign certificate is valid except for its CA, so that a port cannot refuse it for another reason."""
    cluster, now = cluster_of(1, pki=PkiSpec(certificates=certificates)), datetime.now(UTC)
    node = cluster.nodes[0]
    other = pki.create_authority(plan_cluster(ClusterSpec(pki=PkiSpec(extensions=Extensions.DOCUMENT))), now=now)
    for name in ("etcd-ca", "etcd-peer-ca"):
        with (node.root / f"etc/etcd/pki/{name}.pem").open("ab") as file:
            file.write(other.cert_pem)
    cluster.start()
    cluster.wait_all_voting(30)
    for role, port in ((Role.CLIENT, 2379), (Role.PEER, 2380)):
        own = source_address(str(node.plan.address), port)
        context = unverified_context(foreign_pair(plan_of(cluster), role, own, now=now, authority=other))
        assert probe(str(node.plan.address), port, context).reply is Reply.SERVED


def test_a_client_port_without_tls_is_caught(one: Callable[..., Miniature]) -> None:
    cluster = one()
    url = cluster.nodes[0].plan.client_url.replace("https", "http")
    cluster.nodes[0].kill()
    configure(cluster.nodes[0], ETCD_LISTEN_CLIENT_URLS=url, ETCD_ADVERTISE_CLIENT_URLS=url)
    log = cluster.nodes[0].root / "log"
    log.unlink()
    cluster.start()
    cluster.wait(
        lambda: log.exists() and "serving client traffic insecurely" in log.read_text(), 20, "etcd serves"
    )
    assert {"no TLS", "endpoint health"} <= set(failed(check(cluster)))


def test_the_ca_of_another_cluster_is_of_no_use(one: Callable[..., Miniature], tmp_path: Path) -> None:
    cluster, now = one(), datetime.now(UTC)
    other = pki.create_authority(plan_of(cluster), now=now)
    wrong = tmp_path / "wrong.pem"
    wrong.write_bytes(other.cert_pem)
    files = files_of(cluster)
    found = check(cluster, ClientFiles(ca=wrong, cert=files.cert, key=files.key))
    assert failed(found)["server certificates"] == ("etcd1",)
    assert "the server's certificate failed verification" in next(
        c.detail for c in found.failed if c.name == "endpoint health"
    )


def test_a_database_without_space_raises_an_alarm(one: Callable[..., Miniature]) -> None:
    cluster = one()
    path = cluster.nodes[0].root / "etc/etcd/etcd.conf"
    cluster.nodes[0].kill()
    path.write_text(path.read_text() + '\nETCD_QUOTA_BACKEND_BYTES="16384"\n')
    cluster.start()
    plan, files = plan_of(cluster), files_of(cluster)
    cluster.wait(lambda: cluster_status(plan, files).nodes[0].reachable, 20, "etcd serves")
    cluster.etcdctl(cluster.nodes[0], "put", "a", "b", check=False)
    found = failed(check(cluster))
    assert found["alarms"] == ("etcd1",)
    assert "write and read" in found


def test_an_interrupted_trial_leaves_no_key(
    one: Callable[..., Miniature], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = one()
    real, written = observe._write_and_read, []

    def interrupted(*arguments: object) -> dict[str, str | None]:
        real(*arguments)  # type: ignore[arg-type]
        written.append(keys(cluster, b"/bake/verify/").count)
        raise KeyboardInterrupt

    monkeypatch.setattr(observe, "_write_and_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check(cluster)
    assert written == [1]
    assert keys(cluster, b"/bake/").count == 0


def test_a_killed_trial_leaves_its_keys_on_a_lease(one: Callable[..., Miniature]) -> None:
    cluster = one()
    with Etcd(cluster.nodes[0].plan.client_url, files_of(cluster)) as etcd:
        etcd.put(b"/bake/verify/killed/etcd1", b"etcd1", lease=etcd.grant_lease(10))
        assert keys(cluster, b"/bake/").count == 1
        cluster.wait(lambda: keys(cluster, b"/bake/").count == 0, 20, "the lease ends")


def test_three_dead_nodes_cost_one_time_limit() -> None:
    """There is no etcd: three sockets accept connections but do not answer."""
    subnet = ip_network("127.99.7.0/24")
    plan = plan_cluster(ClusterSpec(nodes=3, network=NetworkSpec(subnet=subnet)))
    sockets = [socket.create_server((str(node.address), 2379)) for node in plan.nodes]
    contexts = dict.fromkeys(product(answers.Port, observe.ClientKind))
    # The three timeouts of 3 s run in parallel; in sequence, they would take 9 s.
    told = within(
        8, lambda: observe.everywhere(lambda node: observe.view_node(plan, node, NOWHERE, contexts), plan.nodes)
    )
    for one in sockets:
        one.close()
    assert [view.health.error for view in told] == ["no answer in time"] * 3


NOWHERE = ClientFiles(ca=Path("/dev/null"), cert=Path("/dev/null"), key=Path("/dev/null"))
