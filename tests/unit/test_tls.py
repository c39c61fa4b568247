"""Probes of a TLS port, with a server that requires a client certificate or accepts every client."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from generator import pki
from generator.errors import InputError
from generator.etcd.answers import Reply
from generator.etcd.dial import source_address
from generator.etcd.tls_hello import served_certificate
from generator.etcd.tls_probe import ClientFiles, operator_context, probe, unverified_context
from generator.operations.verify import foreign_pair
from generator.plan import ClusterPlan

HOST = "127.0.0.1"


class Server:
    """A server that answers every request that passes TLS with `HTTP/1.1 200`."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.context = context
        self.socket = socket.create_server((HOST, 0))
        self.port: int = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            with client:
                try:
                    stream = self.context.wrap_socket(client, server_side=True) if self.context else client
                    with stream:
                        stream.recv(1024)
                        stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                except OSError:
                    continue


@pytest.fixture(scope="session")
def cluster(plan: Callable[..., ClusterPlan]) -> ClusterPlan:
    return plan(nodes=1)


@pytest.fixture(scope="session")
def folder(cluster: ClusterPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the CA, a node's server certificate for 127.0.0.1, and the operator's certificate."""
    now, folder = datetime.now(UTC), tmp_path_factory.mktemp("pki")
    authority = pki.create_authority(cluster, now=now)
    server = next(pki.issue_nodes(cluster, authority, now=now))[pki.Role.SERVER]
    client = pki.issue_client(cluster, authority, now=now)
    for name, credential in (("ca", authority), ("server", server), ("client", client)):
        (folder / f"{name}.pem").write_bytes(credential.cert_pem)
        (folder / f"{name}.key").write_bytes(credential.key_pem)
    return folder


@pytest.fixture
def files(folder: Path) -> ClientFiles:
    return ClientFiles(ca=folder / "ca.pem", cert=folder / "client.pem", key=folder / "client.key")


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*, strict: bool = True, tls: bool = True, newest: Any = ssl.TLSVersion.TLSv1_3) -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if context:
            context.load_cert_chain(folder / "server.pem", folder / "server.key")
            context.load_verify_locations(folder / "ca.pem")
            context.verify_mode = ssl.CERT_REQUIRED if strict else ssl.CERT_NONE
            context.maximum_version = newest
        servers.append(Server(context))
        return servers[-1]

    yield start
    for server in servers:
        server.socket.close()


@pytest.fixture
def foreign_client(cluster: ClusterPlan) -> ssl.SSLContext:
    return unverified_context(foreign_pair(cluster, pki.Role.CLIENT, "127.0.0.1", now=datetime.now(UTC)))


VERSIONS = pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
def test_a_strict_server_serves_only_the_operator(
    serve: Callable[..., Server], files: ClientFiles, foreign_client: ssl.SSLContext, newest: ssl.TLSVersion
) -> None:
    port = serve(newest=newest).port
    assert probe(HOST, port, operator_context(files)).reply is Reply.SERVED
    assert probe(HOST, port, unverified_context()).reply is Reply.REFUSED
    assert probe(HOST, port, foreign_client).reply is Reply.REFUSED
    assert probe(HOST, port, None).reply is Reply.REFUSED


@VERSIONS
def test_a_strict_server_presents_its_certificate_to_a_client_without_one(
    serve: Callable[..., Server], folder: Path, newest: ssl.TLSVersion
) -> None:
    """With TLS 1.2, the handshake fails without a client certificate, but after the server has sent its own."""
    found = served_certificate(HOST, serve(newest=newest).port)
    assert found == ssl.PEM_cert_to_DER_cert((folder / "server.pem").read_text())


def test_a_port_without_tls_presents_no_certificate(serve: Callable[..., Server]) -> None:
    assert served_certificate(HOST, serve(tls=False).port) is None


@VERSIONS
def test_a_server_that_accepts_every_client_is_detected(
    serve: Callable[..., Server], foreign_client: ssl.SSLContext, newest: ssl.TLSVersion
) -> None:
    port = serve(strict=False, newest=newest).port
    assert probe(HOST, port, unverified_context()).reply is Reply.SERVED
    assert probe(HOST, port, foreign_client).reply is Reply.SERVED


def test_a_server_without_tls_is_detected(serve: Callable[..., Server]) -> None:
    assert probe(HOST, serve(tls=False).port, None).reply is Reply.SERVED


def test_status_400_from_go_for_plain_http_is_a_refusal() -> None:
    with socket.create_server((HOST, 0)) as server:

        def answer() -> None:
            with server.accept()[0] as client:
                client.recv(1024)
                client.sendall(
                    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
                )

        threading.Thread(target=answer, daemon=True).start()
        assert probe(HOST, server.getsockname()[1], None).reply is Reply.REFUSED


def test_a_closed_port_is_unreachable() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    assert probe(HOST, port, None).reply is Reply.UNREACHABLE


def test_a_port_without_an_answer_is_unreachable() -> None:
    with socket.create_server((HOST, 0)) as server:
        found = probe(HOST, server.getsockname()[1], unverified_context(), timeout=0.2)
    assert (found.reply, found.detail) == (Reply.UNREACHABLE, "no answer in time")


def test_the_probe_returns_the_names_and_the_expiry_of_the_certificate(
    serve: Callable[..., Server], files: ClientFiles, cluster: ClusterPlan
) -> None:
    certificate = probe(HOST, serve().port, operator_context(files)).certificate
    assert certificate is not None
    assert {cluster.nodes[0].fqdn, HOST} <= set(certificate.names)
    assert timedelta(days=363) < certificate.not_after - datetime.now(UTC) < timedelta(days=365)
    assert certificate.not_after - certificate.not_before == timedelta(days=365)


def test_a_server_of_another_ca_is_distrusted_and_does_not_count_as_refusing(
    serve: Callable[..., Server], files: ClientFiles, cluster: ClusterPlan, tmp_path: Path
) -> None:
    other = pki.create_authority(cluster, now=datetime.now(UTC))
    (tmp_path / "ca.pem").write_bytes(other.cert_pem)
    found = probe(
        HOST,
        serve().port,
        operator_context(ClientFiles(ca=tmp_path / "ca.pem", cert=files.cert, key=files.key)),
    )
    assert found.reply is Reply.UNREACHABLE
    assert found.distrusted
    assert found.certificate is None


def test_a_certificate_without_the_servers_address_is_distrusted(
    serve: Callable[..., Server], files: ClientFiles
) -> None:
    server = serve()
    with socket.create_server(("127.9.9.9", server.port)) as other:
        server.socket, old = other, server.socket
        threading.Thread(target=server._serve, daemon=True).start()
        found = probe("127.9.9.9", server.port, operator_context(files))
        server.socket = old
    assert "IP address mismatch" in str(found.distrusted)


def test_unusable_certificate_files_are_input_errors(tmp_path: Path, files: ClientFiles) -> None:
    with pytest.raises(InputError, match="no such file"):
        operator_context(ClientFiles(ca=files.ca, cert=files.cert, key=tmp_path / "none.key"))
    with pytest.raises(InputError, match="key values mismatch"):
        operator_context(ClientFiles(ca=files.ca, cert=files.ca, key=files.key))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_foreign_ca_has_the_clusters_name_and_its_key_stays_in_memory(
    cluster: ClusterPlan, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = open_files()
    pair = foreign_pair(cluster, pki.Role.CLIENT, "127.0.0.1", now=datetime.now(UTC))
    unverified_context(pair)
    assert not list(tmp_path.iterdir())
    assert open_files() <= before
    ours = pki.parse_credential(
        (folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes(), where=("", "")
    )
    theirs = pki.parse_credential(*pair, where=("", ""))
    assert theirs.certificate.issuer == ours.certificate.subject
    assert not pki.is_issued_by(theirs.certificate, ours.certificate)


def test_the_local_address_is_the_source_address_of_a_connection() -> None:
    assert source_address("127.0.0.9", 2380) == "127.0.0.1"
    assert source_address("::1", 2380) == "::1"
