"""The TLS versions that a port accepts: with servers of a single version, and with servers without TLS."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator import pki
from generator.etcd.client_hello import VERSIONS
from generator.etcd.tls_hello import accepts_version
from generator.plan import ClusterPlan

HOST = "127.0.0.1"
FLAGS = {"1.0": "-tls1", "1.1": "-tls1_1", "1.2": "-tls1_2", "1.3": "-tls1_3"}


@pytest.fixture(scope="module")
def pair(plan: Callable[..., ClusterPlan], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    now, folder, cluster = datetime.now(UTC), tmp_path_factory.mktemp("pki"), plan(nodes=1)
    server = next(pki.issue_nodes(cluster, pki.create_authority(cluster, now=now), now=now))[pki.Role.SERVER]
    (folder / "server.pem").write_bytes(server.cert_pem)
    (folder / "server.key").write_bytes(server.key_pem)
    return folder / "server.pem", folder / "server.key"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as one:
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize("only", VERSIONS)
def test_only_the_tls_version_of_the_server_is_accepted(pair: tuple[Path, Path], only: str) -> None:
    openssl = shutil.which("openssl")
    assert openssl
    port = free_port()
    command = [openssl, "s_server", "-accept", f"{HOST}:{port}", "-cert", pair[0], "-key", pair[1], FLAGS[only]]
    with subprocess.Popen(
        [*command, "-cipher", "ALL:@SECLEVEL=0", "-quiet"],
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env={"OPENSSL_CONF": "/dev/null"},
    ) as server:  # fmt: skip
        deadline = time.monotonic() + 120
        while accepts_version(HOST, port, only) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        found = {version: accepts_version(HOST, port, version) for version in VERSIONS}
        server.kill()
    assert found == {version: version == only for version in VERSIONS}


def test_the_versions_of_a_closed_port_are_unknown() -> None:
    assert accepts_version(HOST, free_port(), "1.2") is None


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x03\x00\x02\x0c\x00"])
def test_an_answer_without_tls_is_unknown(answer: bytes) -> None:
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        assert accepts_version(HOST, listener.getsockname()[1], "1.3") is None


def test_a_silent_server_takes_only_the_timeout() -> None:
    with socket.create_server((HOST, 0)) as listener:  # without a timeout, this would never end
        assert accepts_version(HOST, listener.getsockname()[1], "1.2", timeout=0.2) is None
