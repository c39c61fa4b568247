"""Even without a firewall, the peer port serves only this cluster's peers, with auth on and with auth off.

etcd compares the caller's address with the addresses in the certificate. A client's certificate has no addresses, so
etcd does not compare them (client/pkg/transport/listener_tls.go, checkCertSAN).
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from http.client import HTTPSConnection

import pytest

from generator import pki
from generator.config.auth import AuthSpec
from generator.config.pki import Certificates, Extensions, PeerCaSpec, PeerName, PkiSpec
from generator.config.placement import peer_name
from generator.etcd.client import Etcd
from generator.etcd.tls_probe import unverified_context
from generator.health.check import Result
from generator.health.node_checks import Planned
from generator.operations.audit import audit
from generator.pki import Role, issue_nodes
from generator.plan import plan_cluster
from tests.assembly.miniature import GUEST, Miniature, Node
from tests.assembly.test_certificates import pair_of, served_as
from tests.assembly.test_verify import check, files_of, plan_of

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]

KINDS = {
    "two CAs": PkiSpec(),
    "one CA": PkiSpec(peer_ca=PeerCaSpec(separate=False)),
    "the document's": PkiSpec(
        peer_ca=PeerCaSpec(separate=False), certificates=Certificates.SHARED, extensions=Extensions.DOCUMENT
    ),
}


def clients(cluster: Miniature) -> Iterator[tuple[str, tuple[bytes, bytes]]]:
    """Yield all certificates that are not for peers: of the operator, of a user, and a node's for server and client."""
    now = datetime.now(UTC)
    for name, user in (("the operator's", None), ("a user's", "app")):
        made = pki.issue_client(cluster.plan, cluster.authority, now=now, user=user)
        yield name, (made.cert_pem, made.key_pem)
    for role in (Role.SERVER, Role.CLIENT):
        yield f"a node's {role}", pair_of(cluster.nodes[0], role)


def peer_pair(cluster: Miniature) -> tuple[bytes, bytes]:
    return pair_of(cluster.nodes[0], Role.PEER)


def start(cluster: Miniature) -> Miniature:
    cluster.start()
    cluster.wait_all_voting(30)
    return cluster


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("auth", [False, True], ids=["auth off", "auth on"])
def test_no_clients_certificate_is_served_at_the_peer_port(cluster_of: ClusterOf, kind: str, *, auth: bool) -> None:
    """All clients connect from the node's address, because etcd refuses a node's certificate from other addresses."""
    cluster = start(cluster_of(1, pki=KINDS[kind], auth=AuthSpec(enabled=auth)))
    node = cluster.nodes[0]

    def served(pair: tuple[bytes, bytes], port: int) -> bool:
        return served_as(node.plan.address, node, unverified_context(pair), port)

    assert served(peer_pair(cluster), 2380)
    found = dict(clients(cluster))
    assert {name: served(pair, 2379) for name, pair in found.items()} == dict.fromkeys(found, True)
    assert {name: served(pair, 2380) for name, pair in found.items()} == dict.fromkeys(found, False)


# --- an attack with a raft message ----------------------------------------------------------------


def field(number: int, value: int | bytes) -> bytes:
    """Encode a field of a Protocol Buffers message."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def varint(number: int) -> bytes:
    head = number & 0x7F
    return bytes([head]) if number < 0x80 else bytes([head | 0x80]) + varint(number >> 7)


def proposal(key: bytes, *, member: int) -> bytes:
    """Encode a raft proposal (raftpb.Message, MsgProp) to a member. It writes an etcd key as the user root."""
    header = field(1, 77) + field(2, b"root") + field(3, 1 << 40)
    request = field(100, header) + field(4, field(1, key) + field(2, b"x"))
    return field(1, 2) + field(2, member) + field(7, field(4, request))


def post(cluster: Miniature, context: ssl.SSLContext, message: bytes) -> int:
    """POST the raft message to /raft and return the HTTP status. Raise OSError if the connection is refused."""
    node = cluster.nodes[0].plan
    headers = {
        "Content-Type": "application/protobuf", "X-Server-From": "1", "X-Server-Version": "3.5.16",
        "X-Min-Cluster-Version": "3.0.0", "X-Etcd-Cluster-ID": f"{cluster.cluster_ids().pop():x}",
    }  # fmt: skip
    connection = HTTPSConnection(str(node.address), 2380, context=context, timeout=60)
    try:
        connection.request("POST", "/raft", message, headers)
        return connection.getresponse().status
    finally:
        connection.close()


OLD = PkiSpec(peer_name=PeerName.NONE, peer_ca=PeerCaSpec(separate=False))


@pytest.mark.parametrize("shared", Certificates)
def test_verify_fails_where_clients_are_served_at_the_peer_port(cluster_of: ClusterOf, shared: Certificates) -> None:
    """An older cluster. A certificate shared by all nodes lacks this machine's address, so etcd refuses it."""
    found = check(start(cluster_of(1, pki=replace(OLD, certificates=shared))))
    assert [one.name for one in found.failed] == ["client certificate"]
    assert "docs/how-to/older-cluster.md" in str(found.failed[0].remedy)
    served = "accepts the operator's client certificate" in found.failed[0].detail
    assert served is (shared is Certificates.PER_NODE)


def test_the_audit_knows_the_peers_ca(cluster_of: ClusterOf) -> None:
    """The peer port is reachable. The node has no report, so no control is passed, but no control has failed."""
    cluster = start(cluster_of(1))
    shown = {role: pki.describe(pair_of(cluster.nodes[0], role)[0]).sha256 for role in (Role.SERVER, Role.PEER)}
    folder = cluster.nodes[0].root / "etc/etcd/pki"
    own, peers = (frozenset(pki.digests((folder / f"{ca}.pem").read_bytes())) for ca in (Role.CA, Role.PEER_CA))
    planned = Planned(
        server=shown[Role.SERVER], peer=shown[Role.PEER], authorities=own, peer_authorities=peers, tls_min_version="1.2"
    )

    def failed(**changes: str) -> list[str]:
        stated = {"etcd1": replace(planned, **changes)}
        found = audit(plan_of(cluster), files_of(cluster), stated, now=datetime.now(UTC), report=print)
        return [check.name for check in found.controls if check.result is Result.FAILED]

    assert failed() == []
    assert failed(peer=shown[Role.SERVER]) == ["TLS.4"]


def test_a_cluster_that_stands_comes_to_require_the_name_and_never_stops(cluster_of: ClusterOf) -> None:
    """Apply new certificates without a restart, then restart each node with the option. All peers stay connected."""
    cluster = start(cluster_of(3, pki=OLD))
    stated = plan_cluster(replace(cluster.plan.spec, pki=replace(OLD, peer_name=PeerName.STATED)))
    for node, made in zip(cluster.nodes, issue_nodes(stated, cluster.authority, now=datetime.now(UTC)), strict=True):
        folder = node.root / "etc/etcd/pki"
        (folder / "etcd-peer.key").write_bytes(made[Role.PEER].key_pem)
        (folder / "etcd-peer.pem").write_bytes(made[Role.PEER].cert_pem)
    for restarted in cluster.nodes:
        restarted.cut_power()
        conf = restarted.root / "etc/etcd/etcd.conf"
        conf.write_text(f'{conf.read_text()}ETCD_PEER_CERT_ALLOWED_HOSTNAME="{peer_name(stated.spec)}"\n')
        others = [node for node in cluster.nodes if node is not restarted]
        cluster.wait(lambda: puts(cluster, others), 20, "the others write")  # noqa: B023
        restarted.records.clear()
        restarted.start()
        cluster.wait(lambda: puts(cluster, [restarted]), 30, "the node that was restarted writes")  # noqa: B023
    assert not served_as(cluster.nodes[0].plan.address, cluster.nodes[0], unverified_context(operator_pair(cluster)))
    assert served_as(cluster.nodes[0].plan.address, cluster.nodes[0], unverified_context(peer_pair(cluster)))


def puts(cluster: Miniature, nodes: Sequence[Node]) -> bool:
    return all("OK" in cluster.etcdctl(node, "--command-timeout=2s", "put", "/x", "1", check=False) for node in nodes)


def operator_pair(cluster: Miniature) -> tuple[bytes, bytes]:
    return dict(clients(cluster))["the operator's"]


def test_an_empty_node_answers_only_peers(cluster_of: ClusterOf) -> None:
    """Before etcd runs, the node answers at the peer port. It reports an empty disk and its cluster's id."""
    cluster = cluster_of(1, pki=KINDS["one CA"])
    node = cluster.nodes[0]

    def answer(pair: tuple[bytes, bytes]) -> bytes:
        place = str(node.plan.address), 2380
        with socket.create_connection(place, 5) as plain, unverified_context(pair).wrap_socket(plain) as stream:
            stream.sendall(b"GET /bake/empty HTTP/1.0\r\n\r\n")
            return stream.recv(4096)

    def answers() -> bool:
        with suppress(OSError):
            return answer(peer_pair(cluster)).startswith(b"HTTP/1.0 200 OK")
        return False

    with node.waiting_empty():
        cluster.wait(answers, 10, "the node answers its peers")
        assert {name: answer(pair) for name, pair in clients(cluster)} == dict.fromkeys(dict(clients(cluster)), b"")


def test_a_peer_reads_in_a_members_list_whether_a_learner_is_joining(cluster_of: ClusterOf) -> None:
    """A node that waits for another learner reads this list instead of starting etcdctl again and again."""
    cluster = cluster_of(2)
    first, second = cluster.nodes
    code = "import peers, sys; print(peers.lists_learner(sys.argv[1], peers.context('ETCD_PEER')))"

    def lists_learner() -> str:
        env = second.environment() | {"PYTHONPATH": str(GUEST)}
        words = [sys.executable, "-c", code, first.plan.peer_url]
        return subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout.strip()

    cluster.start_first()
    assert lists_learner() == "False"
    second.join_only()
    cluster.wait(lambda: lists_learner() == "True", 20, "the list has a learner")
    second.start()
    cluster.wait_all_voting(40)
    cluster.wait(lambda: lists_learner() == "False", 20, "the list has voters only")


def test_a_user_who_may_write_nothing_writes_nothing_by_raft_either(cluster_of: ClusterOf) -> None:
    """With a peer's certificate, etcd accepts this raft message and writes the message's key as the user root."""
    cluster = start(cluster_of(1, pki=KINDS["one CA"], auth=AuthSpec(enabled=True)))
    node = cluster.nodes[0]
    cluster.wait(lambda: node.says("auth is on"), 20, "auth is on")
    app, member = unverified_context(dict(clients(cluster))["a user's"]), cluster.members(node)[0]["ID"]
    with pytest.raises(OSError, match=r"(?i)alert|closed|reset|broken pipe|remote end|EOF"):
        post(cluster, app, proposal(b"/owned", member=member))
    assert post(cluster, unverified_context(peer_pair(cluster)), proposal(b"/taken", member=member)) == 204
    with Etcd(node.plan.client_url, files_of(cluster)) as etcd:
        cluster.wait(lambda: etcd.get(b"/taken").count == 1, 10, "the peer's message is applied")
        assert etcd.get(b"/owned").count == 0
