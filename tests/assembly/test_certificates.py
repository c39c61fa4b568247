"""Certificates on running clusters: a node's address, invalid clients, unusual CAs, and a replaced CA."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from generator import pki
from generator.config.load import load
from generator.config.pki import Extensions, KeyType, NameConstraints, PeerCaSpec, PkiSpec
from generator.config.placement import peer_name
from generator.config.spec import ClusterSpec, EtcdSpec
from generator.etcd.answers import Reply
from generator.etcd.tls_hello import served_certificate
from generator.etcd.tls_probe import ClientFiles, operator_context, probe, unverified_context
from generator.operations import rotate_ca
from generator.operations.bake import bake
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.running import delivery
from generator.pki import Credential, Role
from generator.plan import plan_cluster
from generator.seed.iso import written_files
from generator.store.folder import Store
from tests.assembly.miniature import Miniature, Node
from tests.assembly.test_verify import check

pytestmark = pytest.mark.etcd
ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
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


def served_as(address: IPv4Address, target: Node, context: ssl.SSLContext, port: int = 2380) -> bool:
    """Return whether a port of a node, by default the peer port, serves a client from this source address."""
    place = str(target.plan.address), port
    try:
        with (
            socket.create_connection(place, 30, source_address=(str(address), 0)) as plain,
            context.wrap_socket(plain) as stream,
        ):
            stream.sendall(b"GET /version HTTP/1.0\r\n\r\n")
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
        if served_as(place.plan.address, target, unverified_context(pair_of(owner, Role.PEER)))
    }
    names = [node.plan.name for node in nodes]
    assert served == {(name, name, target) for name in names for target in names}


def test_with_a_ca_of_their_own_peers_and_clients_are_strangers_to_one_another(cluster_of: ClusterOf) -> None:
    cluster = started(cluster_of(3, pki=PkiSpec(peer_ca=PeerCaSpec(separate=True))))
    assert check(cluster).healthy
    first = cluster.nodes[0]
    ports = {Role.CLIENT: 2379, Role.SERVER: 2379, Role.PEER: 2380}
    replies = {
        (role, port): probe(str(first.plan.address), port, unverified_context(pair_of(first, role)), timeout=30).reply
        for role in ports
        for port in (2379, 2380)
    }
    assert {where for where, reply in replies.items() if reply is Reply.SERVED} == set(ports.items())


# ── invalid clients ─────────────────────────────────────────────────────────────────────────────────────────────


PEERS = peer_name(ClusterSpec())
ONE_CA = PkiSpec(peer_ca=PeerCaSpec(separate=False), name_constraints=NameConstraints.ALL)


def forged(
    authority: Credential,
    *,
    start: timedelta = timedelta(days=-1),
    end: timedelta = timedelta(days=9),
    usage: Any = Usage.CLIENT_AUTH,
    address: str = "127.0.0.1",
) -> tuple[bytes, bytes]:
    """Return a certificate of this CA with one fault, and its key. Without the fault, both ports would accept it."""
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
            x509.SubjectAlternativeName(
                [x509.DNSName(PEERS), *(x509.IPAddress(ip_address(a)) for a in ("127.0.0.1", address))]
            ),
            critical=False,
        )
    )
    made = Credential(builder.sign(authority.key, hashes.SHA256()), key)
    return made.cert_pem, made.key_pem


def old_tls(pair: tuple[bytes, bytes]) -> ssl.SSLContext:
    context = unverified_context(pair)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context


Bad = Callable[[Miniature], ssl.SSLContext | None]
BAD_CLIENTS: dict[str, Bad] = {
    "no certificate": lambda _: unverified_context(),
    "another CA's": lambda c: unverified_context(forged(pki.create_authority(c.plan, now=datetime.now(UTC)))),
    "expired": lambda c: unverified_context(forged(c.authority, end=timedelta(minutes=-5))),
    "not yet valid": lambda c: unverified_context(forged(c.authority, start=timedelta(minutes=5))),
    "for servers alone": lambda c: unverified_context(forged(c.authority, usage=Usage.SERVER_AUTH)),
    "names an address outside the cluster": lambda c: unverified_context(forged(c.authority, address="10.9.9.9")),
    "no TLS": lambda _: None,
    "TLS 1.1": lambda c: old_tls(forged(c.authority)),
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_every_bad_client_is_refused_on_both_ports(cluster_of: ClusterOf) -> None:
    cluster = started(cluster_of(1, pki=ONE_CA))
    address = str(cluster.nodes[0].plan.address)

    def replies(context: ssl.SSLContext | None) -> list[Reply]:
        return [probe(address, port, context, timeout=30).reply for port in (2379, 2380)]

    assert replies(unverified_context(forged(cluster.authority))) == [Reply.SERVED, Reply.SERVED], "a good one"
    found = {name: replies(make(cluster)) for name, make in BAD_CLIENTS.items()}
    assert found == {name: [Reply.REFUSED, Reply.REFUSED] for name in BAD_CLIENTS}


def test_it_is_the_cas_constraints_that_keep_outside_addresses_out(cluster_of: ClusterOf) -> None:
    cluster = started(cluster_of(1, pki=PkiSpec(extensions=Extensions.DOCUMENT)))
    context = unverified_context(forged(cluster.authority, address="10.9.9.9"))
    assert probe(str(cluster.nodes[0].plan.address), 2379, context, timeout=30).reply is Reply.SERVED


# ── other CAs ───────────────────────────────────────────────────────────────────────────────────────────────


def intermediate() -> Credential:
    """An intermediate CA. The nodes do not have the certificate of its root CA."""
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


# ── TLS versions and suites ─────────────────────────────────────────────────────────────────────────────────

# Go offers this curve with TLS 1.3, and etcd has no option for curves.
UNAVOIDABLE = ["tls_curves: TLS curves {'secp521r1'} are supported, but should be rejected."]
SUITES = ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")


@pytest.fixture
def sslyze(tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of sslyze, which scripts/setup installs separately because it needs an older cryptography than bake."""
    monkeypatch.setenv("PATH", str(ROOT / "build/sslyze/bin"), prepend=os.pathsep)
    return tool("sslyze")


def findings(sslyze: str, cluster: Miniature, port: int) -> list[str]:
    """Return sslyze's findings for a port of the first node, according to Mozilla's modern profile."""
    node = cluster.nodes[0]
    pki = node.root / "etc/etcd/pki"
    words = [sslyze, "--mozilla_config=modern", "--certinfo_ca_file", pki / "etcd-ca.pem"]
    words += ["--cert", pki / "etcd-peer.pem", "--key", pki / "etcd-peer.key", f"{node.plan.address}:{port}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    _, heading, verdict = done.stdout.partition("COMPLIANCE AGAINST TLS CONFIGURATION")
    assert heading, done.stdout + done.stderr
    print(verdict)
    assert ("OK - Compliant" in verdict) != ("FAILED - Not compliant" in verdict)
    return re.findall(r"^ +\* ([a-z_]+: .*)$", verdict, flags=re.MULTILINE)


def test_with_tls_1_3_both_ports_meet_mozillas_modern_profile(
    cluster_of: ClusterOf, sslyze: str
) -> None:
    cluster = started(cluster_of(1, etcd=EtcdSpec(tls_min_version="1.3"), pki=replace(ONE_CA, leaf_days=90)))
    assert {port: findings(sslyze, cluster, port) for port in (2379, 2380)} == {2379: UNAVOIDABLE, 2380: UNAVOIDABLE}


def test_with_tls_1_2_the_profile_finds_more(cluster_of: ClusterOf, sslyze: str) -> None:
    assert "tls_versions" in str(findings(sslyze, started(cluster_of(1, pki=ONE_CA)), 2379))


def test_the_suites_of_tls_1_2_are_those_that_were_named(cluster_of: ClusterOf) -> None:
    cluster = started(cluster_of(3, etcd=EtcdSpec(cipher_suites=SUITES)))

    def reply(suite: str) -> Reply:
        context = unverified_context(pair_of(cluster.nodes[0], Role.CLIENT))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suite)
        return probe(str(cluster.nodes[0].plan.address), 2379, context, timeout=30).reply

    assert reply("ECDHE-ECDSA-AES128-GCM-SHA256") is Reply.SERVED
    assert reply("ECDHE-ECDSA-AES256-GCM-SHA384") is Reply.REFUSED


def test_nodes_with_tls_1_3_alone_assemble_and_verify(cluster_of: ClusterOf) -> None:
    cluster = started(cluster_of(3, etcd=EtcdSpec(tls_min_version="1.3")))
    assert check(cluster).failed == ()


@pytest.mark.parametrize("kind", [KeyType.ECDSA_P256, KeyType.RSA_2048])
@pytest.mark.parametrize(
    "etcd",
    [EtcdSpec(), EtcdSpec(tls_min_version="1.3"), EtcdSpec(options={"tls-max-version": "TLS1.2"})],
    ids=["both", "1.3 alone", "1.2 alone"],
)
def test_the_certificate_that_a_node_serves_is_read_without_one(
    cluster_of: ClusterOf, etcd: EtcdSpec, kind: KeyType
) -> None:
    """Read a server's certificate without a client certificate, as bake does if the operator's has expired."""
    node = started(cluster_of(1, etcd=etcd, pki=PkiSpec(key_type=kind))).nodes[0]
    planned = ssl.PEM_cert_to_DER_cert(pair_of(node, Role.SERVER)[0].decode())
    assert served_certificate(str(node.plan.address), 2379) == planned


# ── a new CA, and an application ────────────────────────────────────────────────────────────────────────────


class Lone:
    """One real etcd, with the certificates from its node's seed in the cluster's folder."""

    def __init__(self, bin_dir: Path, root: Path, cluster: Cluster, *flags: str) -> None:
        with socket.create_server((HOST, 0)) as free:
            self.port: int = free.getsockname()[1]
        self.pki, self.cluster, self.process = root / "node-pki", cluster, None
        url, peer_url = f"https://{HOST}:{self.port}", f"http://{HOST}:0"
        self.command = [
            bin_dir / "etcd", "--name", "etcd1", "--data-dir", root / "data", "--client-cert-auth", *flags,
            "--cert-file", self.pki / "etcd-server.pem", "--key-file", self.pki / "etcd-server.key",
            "--trusted-ca-file", self.pki / "etcd-ca.pem", "--listen-client-urls", url,
            "--advertise-client-urls", url, "--listen-peer-urls", peer_url,
            "--initial-advertise-peer-urls", "http://localhost:2380", "--initial-cluster", "etcd1=http://localhost:2380",
        ]  # fmt: skip
        self.take_seed()

    process: subprocess.Popen[bytes] | None

    def take_seed(self) -> None:
        """Copy the certificates from the seed. Restart etcd, because it reads its CAs only when it starts."""
        files = written_files((self.cluster.store.folder / "etcd1/user-data").read_bytes(), where="")
        self.pki.mkdir(exist_ok=True)
        for path, data in files.items():
            if path.startswith("/etc/etcd/pki/"):
                (self.pki / Path(path).name).write_bytes(data)
        self.stop()
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL, env={})
        deadline = time.monotonic() + 60
        while not self.serves(self.cluster.store.folder / "pki"):
            assert time.monotonic() < deadline, "the operator is not served"
            time.sleep(0.1)

    def serves(self, folder: Path) -> bool:
        """Return whether etcd serves a client with the CAs and the certificate in this folder."""
        ca, cert, key = (folder / name for name in ("etcd-ca.pem", "etcd-client.pem", "etcd-client.key"))
        return probe(HOST, self.port, operator_context(ClientFiles(ca=ca, cert=cert, key=key))).reply is Reply.SERVED

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.mark.parametrize("newest", ["TLS1.3", "TLS1.2"])
def test_an_application_that_follows_a_new_ca_is_served_in_every_phase(
    bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: str
) -> None:
    store = Store(tmp_path / "out", "etcd")
    bake(load(flags={"--nodes": (("nodes",), 1)}).spec, store, now=datetime.now(UTC), report=print)
    cluster = open_cluster(store)
    old = shutil.copytree(store.folder / "pki", tmp_path / "old")
    application = shutil.copytree(old, tmp_path / "application")
    etcd = Lone(bin_dir, tmp_path, cluster, "--tls-max-version", newest)
    monkeypatch.setattr(delivery, "served_certificate", lambda *_: served_certificate(HOST, etcd.port))
    monkeypatch.setattr(rotate_ca, "probe", lambda *words: probe(HOST, etcd.port, words[2]))
    rotate = partial(rotate_ca.rotate_authorities, cluster, None, {}, passphrase=None, seconds=1, report=print)
    tasks = {"trust": ["etcd-ca.pem"], "reissue": ["etcd-client.pem", "etcd-client.key"], "drop": ["etcd-ca.pem"]}
    try:
        for phase, names in tasks.items():
            assert rotate(now=datetime.now(UTC), all_phases=False) == (phase, delivery.Delivery(by_hand=("etcd1",)))
            etcd.take_seed()
            assert etcd.serves(application), f"after {phase}, an unchanged application is refused"
            assert etcd.serves(old) == (phase == "trust"), "only the phase trust must accept a client of the old CA"
            for name in names:
                shutil.copy(store.folder / "pki" / name, application)
            assert etcd.serves(application), f"after {phase}"
        assert rotate(now=datetime.now(UTC), all_phases=False) == (None, delivery.Delivery(done=("etcd1",)))
        shutil.copy(application / "etcd-ca.pem", old)
        assert not etcd.serves(old), "its client certificate is the old CA's"
    finally:
        etcd.stop()
