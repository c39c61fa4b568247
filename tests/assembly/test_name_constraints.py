"""Real clients and the CA's name constraints: which TLS libraries accept a real etcd of each `pki.nameConstraints`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from generator import pki
from generator.config.pki import NameConstraints, PkiSpec
from generator.etcd.tls_probe import ClientFiles
from tests.assembly.miniature import PATIENCE, Miniature
from tests.assembly.test_auth import operator

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]
Tool = Callable[[str], str]
REQUEST = "GET /version HTTP/1.0\r\n\r\n"  # its answer does not depend on whether the client closes its side
ANSWER = "HTTP/1.0 200 OK"
JAVA = Path(__file__).with_name("clients") / "TlsClient.java"


@dataclass(frozen=True)
class Server:
    """A node's client port. `name`: the address or the DNS name that its certificate must contain."""

    address: str
    name: str
    files: ClientFiles
    etcdctl: Path
    port: int = 2379

    @property
    def is_named(self) -> bool:
        return self.name != self.address


def answered(command: list[str]) -> bool:
    done = subprocess.run(command, input=REQUEST, capture_output=True, text=True, timeout=30 * PATIENCE, check=False)
    return ANSWER in done.stdout


def openssl(server: Server, tool: Tool) -> bool:
    files, check = server.files, "-verify_hostname" if server.is_named else "-verify_ip"
    return answered(
        [
            tool("openssl"), "s_client", "-connect", f"{server.address}:{server.port}", "-CAfile", str(files.ca),
            "-cert", str(files.cert), "-key", str(files.key), "-verify_return_error", check, server.name, "-quiet",
        ]
    )  # fmt: skip


def gnutls(server: Server, tool: Tool) -> bool:
    files = server.files
    return answered(
        [
            tool("gnutls-cli"), "--x509cafile", str(files.ca), "--x509certfile", str(files.cert), "--x509keyfile",
            str(files.key), "--verify-hostname", server.name, "--port", str(server.port), server.address,
        ]
    )  # fmt: skip


def java(server: Server, tool: Tool) -> bool:
    files = map(str, (server.files.ca, server.files.cert, server.files.key))
    return answered([tool("java"), str(JAVA), server.address, str(server.port), server.name, *files])


def etcdctl(server: Server, _: Tool) -> bool:
    """Go's TLS. etcdctl has no option for another name, so the endpoint is always an address."""
    files = server.files
    command = [
        server.etcdctl, "--endpoints", f"https://{server.address}:{server.port}", "--cacert", files.ca,
        "--cert", files.cert, "--key", files.key, "--dial-timeout=10s", "--command-timeout=10s", "get", "key",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=30 * PATIENCE, check=False).returncode == 0


def grpcio(server: Server, _: Tool) -> bool:
    """BoringSSL, through gRPC's C core, which C++, Python, Ruby and PHP use."""
    files = server.files
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.cert.read_bytes()
    )
    options = [("grpc.ssl_target_name_override", server.name)] if server.is_named else []
    with grpc.secure_channel(f"{server.address}:{server.port}", credentials, options) as channel:
        get = channel.unary_unary("/etcdserverpb.KV/Range")
        try:
            get(b"\x0a\x03key", timeout=10 * PATIENCE)  # a RangeRequest for the key `key`
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True


CLIENTS = {"grpcio": grpcio, "etcdctl": etcdctl, "openssl": openssl, "gnutls": gnutls, "java": java}


def one_node(cluster_of: ClusterOf, limit: NameConstraints) -> Miniature:
    cluster = cluster_of(1, pki=PkiSpec(name_constraints=limit))
    cluster.start()
    cluster.wait_all_voting(60)
    return cluster


def server_of(cluster: Miniature, *, by_name: bool = False) -> Server:
    node = cluster.nodes[0].plan
    name = node.fqdn if by_name else str(node.address)
    return Server(str(node.address), name, operator(cluster), cluster.tools.bin_dir / "etcdctl")


@pytest.mark.parametrize(
    ("limit", "refuse"),
    [(NameConstraints.NONE, set()), (NameConstraints.NAMES, set()), (NameConstraints.ALL, {"grpcio"})],
)
def test_every_client_accepts_the_default(
    cluster_of: ClusterOf, tool: Tool, limit: NameConstraints, refuse: set[str]
) -> None:
    cluster = one_node(cluster_of, limit)
    for by_name in (False, True):
        server = server_of(cluster, by_name=by_name)
        assert {name for name, client in CLIENTS.items() if not client(server, tool)} == refuse, server.name


def test_every_client_refuses_another_ca_and_another_name(cluster_of: ClusterOf, tool: Tool, tmp_path: Path) -> None:
    """Without this test, a client that checks nothing would pass the test above."""
    cluster = one_node(cluster_of, NameConstraints.NAMES)
    server, foreign = server_of(cluster), tmp_path / "foreign.pem"
    foreign.write_bytes(pki.create_authority(cluster.plan, now=datetime.now(UTC)).cert_pem)
    other_ca = replace(server, files=replace(server.files, ca=foreign))
    assert [name for name, client in CLIENTS.items() if client(other_ca, tool)] == []
    other_name = replace(server, name="etcd2.etcd.internal")
    assert [name for name, client in CLIENTS.items() if client(other_name, tool)] == ["etcdctl"], "which uses no name"
