"""Who is served at the peer port: the peers of this cluster and nobody else, with auth on and off, without a firewall.

etcd compares a certificate's addresses with the caller's, but only where the certificate states any: a client's
certificate states none (client/pkg/transport/listener_tls.go, checkCertSAN).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.client import HTTPSConnection

import pytest

from generator import pki
from generator.auth import AuthSpec
from generator.host.etcd import Etcd
from generator.host.tls import ClientFiles, stranger_context
from generator.pki import Role
from generator.spec import Certificates, Extensions, PeerCaSpec, PkiSpec
from tests.assembly.miniature import Miniature
from tests.assembly.test_certificates import served_as

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
    """Everything that is no peer's certificate: the operator's, a user's, a node's server and client certificate."""
    now = datetime.now(UTC)
    for name, user in (("the operator's", None), ("a user's", "app")):
        made = pki.issue_client(cluster.plan, cluster.authority, now=now, user=user)
        yield name, (made.cert_pem, made.key_pem)
    folder = cluster.nodes[0].root / "etc/etcd/pki"
    for role in (Role.SERVER, Role.CLIENT):
        pair = folder / f"{role}.pem", folder / f"{role}.key"
        yield f"a node's {role}", (pair[0].read_bytes(), pair[1].read_bytes())


def peer_pair(cluster: Miniature) -> tuple[bytes, bytes]:
    folder = cluster.nodes[0].root / "etc/etcd/pki"
    return (folder / "etcd-peer.pem").read_bytes(), (folder / "etcd-peer.key").read_bytes()


def start(cluster: Miniature) -> Miniature:
    cluster.start()
    cluster.wait_all_voting(30)
    return cluster


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("auth", [False, True], ids=["auth off", "auth on"])
def test_no_clients_certificate_is_served_at_the_peer_port(cluster_of: ClusterOf, kind: str, *, auth: bool) -> None:
    """From the node's own address, where its server and client certificates pass etcd's look at addresses."""
    cluster = start(cluster_of(1, pki=KINDS[kind], auth=AuthSpec(enabled=auth)))
    node = cluster.nodes[0]

    def served(pair: tuple[bytes, bytes], port: int) -> bool:
        return served_as(node.plan.address, node, stranger_context(pair), port)

    assert served(peer_pair(cluster), 2380)
    found = dict(clients(cluster))
    assert {name: served(pair, 2379) for name, pair in found.items()} == dict.fromkeys(found, True)
    assert {name: served(pair, 2380) for name, pair in found.items()} == dict.fromkeys(found, False)


# --- what it is good for: a raft message ----------------------------------------------------------


def field(number: int, value: int | bytes) -> bytes:
    """A field of a Protocol Buffers message."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def varint(number: int) -> bytes:
    head = number & 0x7F
    return bytes([head]) if number < 0x80 else bytes([head | 0x80]) + varint(number >> 7)


def proposal(key: bytes, *, member: int) -> bytes:
    """raftpb.Message of type MsgProp to a member, with one entry: a put in the name of the user root."""
    header = field(1, 77) + field(2, b"root") + field(3, 1 << 40)
    request = field(100, header) + field(4, field(1, key) + field(2, b"x"))
    return field(1, 2) + field(2, member) + field(7, field(4, request))


def post(cluster: Miniature, context: ssl.SSLContext, message: bytes) -> int:
    """The status that /raft answers with. Raises OSError where the connection is refused."""
    node = cluster.nodes[0].plan
    headers = {
        "Content-Type": "application/protobuf", "X-Server-From": "1", "X-Server-Version": "3.5.16",
        "X-Min-Cluster-Version": "3.0.0", "X-Etcd-Cluster-ID": f"{cluster.cluster_ids().pop():x}",
    }  # fmt: skip
    connection = HTTPSConnection(str(node.address), 2380, context=context, timeout=10)
    try:
        connection.request("POST", "/raft", message, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_user_who_may_write_nothing_writes_nothing_by_raft_either(cluster_of: ClusterOf) -> None:
    """With a peer's certificate the same message is taken, and the key is written in root's name."""
    cluster = start(cluster_of(1, pki=KINDS["one CA"], auth=AuthSpec(enabled=True)))
    node = cluster.nodes[0]
    cluster.wait(lambda: node.says("auth is on"), 20, "auth is on")
    app, member = stranger_context(dict(clients(cluster))["a user's"]), cluster.members(node)[0]["ID"]
    with pytest.raises(OSError, match=r"(?i)alert|closed|reset|remote end|EOF"):
        post(cluster, app, proposal(b"/owned", member=member))
    assert post(cluster, stranger_context(peer_pair(cluster)), proposal(b"/taken", member=member)) == 204
    folder = node.root / "etc/etcd/pki"
    own = ClientFiles(ca=folder / "etcd-ca.pem", cert=folder / "etcd-client.pem", key=folder / "etcd-client.key")
    with Etcd(node.plan.client_url, own) as etcd:
        cluster.wait(lambda: etcd.get(b"/taken").count == 1, 10, "the peer's message is applied")
        assert etcd.get(b"/owned").count == 0
