"""`bake etcdctl`: etcdctl of bake's image, with the cluster's endpoints and files, also through a tunnel."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from generator.etcd.dial import Tunnel, through
from generator.etcd.relay import relay
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.inside import etcdctl
from generator.store.folder import Store

Bake = Callable[..., Any]
PROGRAM = """#!/bin/sh
{ env | grep ^ETCDCTL_ | sort; printf '%s,' "$@"; } >"$(dirname "$0")/said"
exit 7
"""
SAID = Path("images/one/bin/said")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with an image whose etcdctl writes its settings and arguments to a file, and exits with 7."""
    folder = tmp_path / "cache" / "images" / "one"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/etcdctl").write_text(PROGRAM)
    (folder / "bin/etcdctl").chmod(0o755)
    facts = dict.fromkeys(("disk", "kernel", "initrd", "cmdline", "digest"), "x")
    (folder / "image.json").write_text(json.dumps({**facts, "format": "raw", "virtual_size": 1}))
    return tmp_path / "cache"


@pytest.fixture
def cluster(bake: Bake) -> Cluster:
    bake("--nodes", 2)
    return open_cluster(Store(Path("out"), "etcd"))


def test_it_gets_the_settings_of_the_cluster_only(
    bake: Bake, cache: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKE_CACHE", str(cache))
    monkeypatch.setenv("ETCDCTL_USER", "other")
    monkeypatch.setattr("generator.operations.status.accepting", set)
    assert bake("etcdctl", "--name", "etcd", "member", "list", "-w", "table").code == 7
    *settings, words = (cache / SAID).read_text().splitlines()
    pki = Path("out/etcd/pki").absolute()
    assert settings == [
        "ETCDCTL_API=3", f"ETCDCTL_CACERT={pki}/etcd-ca.pem", f"ETCDCTL_CERT={pki}/etcd-client.pem",
        "ETCDCTL_ENDPOINTS=https://192.168.20.31:2379,https://192.168.20.32:2379",
        f"ETCDCTL_KEY={pki}/etcd-client.key",
    ]  # fmt: skip
    assert words == "member,list,-w,table,"


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        (0, ["version"], 0),
        (7, ["--endpoints=https://192.0.2.1:2379", "get", "x"], 7),
        (7, ["get", "x", "--endpoints", "https://192.0.2.1:2379"], 7),
        (7, ["get", "x"], 3),
    ],
)
def test_a_cluster_without_vms_is_reported_only_after_etcdctl_has_failed(
    code: int, words: list[str], expected: int, bake: Bake, cache: Path, cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    program = cache / "images/one/bin/etcdctl"
    program.write_text(PROGRAM.replace("exit 7", f"exit {code}"))
    probes: list[Any] = []
    monkeypatch.setattr("generator.operations.status.accepting", lambda targets: probes.extend(targets))
    monkeypatch.setenv("BAKE_CACHE", str(cache))
    result = bake("etcdctl", "--connect", "test:///default", *words)
    assert (result.code, bool(probes)) == (expected, expected == 3)
    assert (cache / SAID).exists()
    assert ("bake finds no VM of this cluster here" in result.err) == (expected == 3)


def test_without_an_image_the_etcdctl_of_this_machine_is_used(tmp_path: Path) -> None:
    (tmp_path / "etcdctl").write_text(PROGRAM)
    (tmp_path / "etcdctl").chmod(0o755)
    assert etcdctl.find_etcdctl(tmp_path / "none", str(tmp_path)) == tmp_path / "etcdctl"


def test_without_any_etcdctl_the_message_names_the_ways(
    bake: Bake, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("BAKE_CACHE", str(tmp_path / "none"))
    result = bake("etcdctl", "member", "list")
    assert (result.code, result.err) == (
        1, "error: this machine has no etcdctl, and the cache has no base image, which contains it\n"
        "  hint: build the base image: bake image; or install etcd-client\n",
    )  # fmt: skip


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    """A Unix socket that sends back what it receives, after a byte for the first message of a TLS client."""
    path = tmp_path / "sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            with one, suppress(OSError):
                while data := one.recv(1000):
                    one.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield path
    server.close()


def test_a_relay_leads_through_the_tunnel(echo: Path) -> None:
    with through(Tunnel(sockets={("10.0.0.1", 2379): echo})), relay("10.0.0.1", 2379) as (address, port):
        assert address == "127.0.0.1"
        with socket.create_connection((address, port), 5) as sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"hello"
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, port), 5)


def test_through_a_tunnel_etcdctl_gets_local_endpoints(cache: Path, cluster: Cluster, echo: Path) -> None:
    with through(Tunnel(sockets={("192.168.20.31", 2379): echo})):
        etcdctl.run_etcdctl(cluster, ["x"], cache=cache, environment={"PATH": "/usr/bin:/bin"})
    (line,) = [one for one in (cache / SAID).read_text().splitlines() if one.startswith("ETCDCTL_ENDPOINTS=")]
    first, second = line.partition("=")[2].split(",")
    assert first.startswith("https://127.0.0.1:")
    assert second == "https://192.168.20.32:2379"
