"""Who a live cluster lets in: every node only as itself, no bad client, and CAs of other kinds than the usual one."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from generator import pki
from generator.host.tls import Reply, knock, stranger_context
from generator.pki import Credential, Role
from generator.plan import plan_cluster
from generator.spec import ClusterSpec, Extensions, KeyType, PkiSpec
from tests.assembly.miniature import Miniature, Node

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]


def started(cluster: Miniature) -> Miniature:
    cluster.start()
    cluster.wait_all_voting(60)
    return cluster


@pytest.fixture
def three(cluster_of: ClusterOf) -> Miniature:
    return started(cluster_of(3))


def pair_of(node: Node, role: Role) -> tuple[bytes, bytes]:
    folder = node.root / "etc/etcd/pki"
    return (folder / f"{role}.pem").read_bytes(), (folder / f"{role}.key").read_bytes()


# ── n × n ───────────────────────────────────────────────────────────────────────────────────────────────────


def served_as(address: IPv4Address, target: Node, context: ssl.SSLContext) -> bool:
    """Whether a node's peer port answers somebody who comes from this address."""
    place = str(target.plan.address), 2380
    try:
        with (
            socket.create_connection(place, 3, source_address=(str(address), 0)) as plain,
            context.wrap_socket(plain) as stream,
        ):
            stream.sendall(b"GET /members HTTP/1.0\r\n\r\n")
            return stream.recv(64).startswith(b"HTTP/1.0 200")
    except OSError:
        return False


def test_a_nodes_key_acts_as_that_node_alone(three: Miniature) -> None:
    nodes = three.nodes
    served = {
        (owner.plan.name, place.plan.name, target.plan.name)
        for owner in nodes
        for place in nodes
        for target in nodes
        if served_as(place.plan.address, target, stranger_context(pair_of(owner, Role.PEER)))
    }
    names = [node.plan.name for node in nodes]
    assert served == {(name, name, target) for name in names for target in names}


# ── bad clients ─────────────────────────────────────────────────────────────────────────────────────────────


def forged(
    authority: Credential,
    *,
    start: timedelta = timedelta(days=-1),
    end: timedelta = timedelta(days=9),
    usage: Any = Usage.CLIENT_AUTH,
    address: str = "127.0.0.1",
) -> tuple[bytes, bytes]:
    """A client's certificate by this CA with one thing wrong, and its key."""
    key, now = pki.generate_key(KeyType.ECDSA_P256), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bad")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(a)) for a in ("127.0.0.1", address)]), critical=False
        )
    )
    made = Credential(builder.sign(authority.key, hashes.SHA256()), key)
    return made.cert_pem, made.key_pem


def old_tls(pair: tuple[bytes, bytes]) -> ssl.SSLContext:
    context = stranger_context(pair)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context


Bad = Callable[[Miniature], ssl.SSLContext | None]
BAD_CLIENTS: dict[str, Bad] = {
    "no certificate": lambda _: stranger_context(),
    "another CA's": lambda c: stranger_context(forged(pki.create_authority(c.plan, now=datetime.now(UTC)))),
    "expired": lambda c: stranger_context(forged(c.authority, end=timedelta(minutes=-5))),
    "not yet valid": lambda c: stranger_context(forged(c.authority, start=timedelta(minutes=5))),
    "for servers alone": lambda c: stranger_context(forged(c.authority, usage=Usage.SERVER_AUTH)),
    "names an address outside the cluster": lambda c: stranger_context(forged(c.authority, address="10.9.9.9")),
    "no TLS": lambda _: None,
    "TLS 1.1": lambda c: old_tls(forged(c.authority)),
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_every_bad_client_is_refused_on_both_ports(cluster_of: ClusterOf) -> None:
    cluster = started(cluster_of(1))
    address = str(cluster.nodes[0].plan.address)

    def replies(context: ssl.SSLContext | None) -> list[Reply]:
        return [knock(address, port, context).reply for port in (2379, 2380)]

    assert replies(stranger_context(forged(cluster.authority))) == [Reply.SERVED, Reply.SERVED], "a good one"
    found = {name: replies(make(cluster)) for name, make in BAD_CLIENTS.items()}
    assert found == {name: [Reply.REFUSED, Reply.REFUSED] for name in BAD_CLIENTS}


def test_it_is_the_cas_constraints_that_keep_outside_addresses_out(cluster_of: ClusterOf) -> None:
    cluster = started(cluster_of(1, pki=PkiSpec(extensions=Extensions.DOCUMENT)))
    context = stranger_context(forged(cluster.authority, address="10.9.9.9"))
    assert knock(str(cluster.nodes[0].plan.address), 2379, context).reply is Reply.SERVED


# ── other CAs ───────────────────────────────────────────────────────────────────────────────────────────────


def intermediate() -> Credential:
    """A CA that another one issued; nothing in the cluster knows the upper one."""
    plan, now = plan_cluster(ClusterSpec(pki=PkiSpec(extensions=Extensions.DOCUMENT))), datetime.now(UTC)
    root, key = pki.create_authority(plan, now=now), pki.generate_key(KeyType.ECDSA_P256)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "below")]))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=900))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Credential(builder.sign(root.key, hashes.SHA256()), key)


def test_an_intermediate_ca_is_trusted_without_the_one_above_it(cluster_of: ClusterOf) -> None:
    from tests.assembly.test_verify import check

    cluster = started(cluster_of(3, authority=intermediate()))
    found = check(cluster)
    assert found.failed == ()
