"""A real Patroni with a real PostgreSQL and a real etcd of three nodes: Patroni makes its node the leader."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import yaml

from generator.clients.application import Kind
from generator.config.auth import AuthSpec
from generator.pki import Role, issue_nodes
from generator.plan import NodePlan
from tests.assembly.applications import AUTH, add, baked, etcdctl, started
from tests.assembly.miniature import PATIENCE, Miniature

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]
ACCOUNT = "nobody"  # PostgreSQL refuses to run as root
NAME = "patroni"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which the account of PostgreSQL can work. pytest's folders belong to root alone."""
    found = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="bake-patroni-"))
    shutil.chown(found, ACCOUNT)
    yield found
    shutil.rmtree(found)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def as_account(command: list[str]) -> list[str]:
    """Return a command that runs as another account, which can still read the interpreter and the test's files."""
    if os.geteuid() != 0:
        return command
    may = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ["setpriv", f"--reuid={ACCOUNT}", "--regid=nogroup", "--clear-groups", *may, *command]


class Patroni:
    """One node of a PostgreSQL cluster."""

    def __init__(self, folder: Path, section: dict[str, Any], programs: Path, environment: dict[str, str]) -> None:
        self.rest, self.port, self.log = free_port(), free_port(), folder / "log"
        config = {
            "scope": "main",
            "name": "pg1",
            **section,
            "restapi": {"listen": f"127.0.0.1:{self.rest}", "connect_address": f"127.0.0.1:{self.rest}"},
            "bootstrap": {"dcs": {"loop_wait": 1}, "initdb": [{"encoding": "UTF8"}, "no-sync"]},
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}", "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(folder / "data"), "bin_dir": str(programs), "pgpass": str(folder / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": "a"},
                    "replication": {"username": "replicator", "password": "b"},
                },
                "parameters": {"unix_socket_directories": str(folder), "fsync": "off"},
            },
        }  # fmt: skip
        path = folder / "patroni.yml"
        path.write_text(yaml.safe_dump(config))
        command = as_account([sys.executable, "-m", "patroni", str(path)])
        own = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=own, cwd=folder, stdout=log, stderr=log)

    def leads(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.rest}/leader", timeout=5) as answer:
            return bool(json.load(answer)["state"] == "running")
        return False

    def wait_until_it_leads(self) -> None:
        deadline = time.monotonic() + 30 * PATIENCE
        while not self.leads():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.terminate()  # Patroni stops PostgreSQL, and gives up the leadership
        self.process.wait(30 * PATIENCE)


@pytest.mark.parametrize("auth", [AuthSpec(), AUTH], ids=["without auth", "with auth"])
def test_patroni_makes_a_leader(
    cluster_of: ClusterOf, tmp_path: Path, folder: Path, postgresql: Path, auth: AuthSpec
) -> None:
    cluster = started(cluster_of(3, auth=auth))
    store = baked(cluster, tmp_path / "out")
    added = add(cluster, store, NAME, Kind.PATRONI)
    home, environment = store.folder / "clients" / NAME, {}
    if auth.enabled:
        password = (home / "password").read_text()
        assert etcdctl(
            cluster, store, "", "user", "add", NAME, "--interactive=false", stdin=password
        ).returncode == 0  # fmt: skip
        assert etcdctl(cluster, store, "", "user", "grant-role", NAME, "patroni").returncode == 0
        environment = dict(line.split("=", 1) for line in (home / "patroni.env").read_text().splitlines())
    section = yaml.safe_load(added.configuration.shown[0].data)
    patroni = Patroni(folder, section, postgresql, environment)
    try:
        patroni.wait_until_it_leads()
        # With auth, Patroni must have used its password, and not rights that its certificate has by mistake.
        assert ("Trying to authenticate on Etcd" in patroni.log.read_text()) == auth.enabled
        leader = etcdctl(cluster, store, "", "get", "/service/main/leader", "--print-value-only")
        assert leader.stdout == "pg1\n"
    finally:
        patroni.stop()


def through_gateway(node: NodePlan, home: Path, headers: dict[str, str]) -> str:
    """Return the gateway's answer to a request for the key `a` with the client certificate in the folder `home`."""
    context = ssl.create_default_context(cafile=home / "ca.pem")
    context.load_cert_chain(home / "client.pem", home / "client.key")
    with closing(HTTPSConnection(str(node.address), 2379, timeout=60, context=context)) as connection:
        connection.request("POST", "/v3/kv/range", b'{"key": "YQ=="}', headers)
        return connection.getresponse().read().decode()


def test_with_auth_the_gateway_needs_a_password(cluster_of: ClusterOf, tmp_path: Path) -> None:
    """The gateway refuses a common name, so Patroni's certificate has none. The certificate alone permits nothing.

    If a request has no header Accept, etcd takes the user from the gateway's own certificate, the node's.
    """
    cluster = started(cluster_of(1, auth=AUTH))
    store = baked(cluster, tmp_path / "out")
    node, found = cluster.nodes[0].plan, {}
    assert etcdctl(cluster, store, "", "put", "a", "secret").returncode == 0
    for name, kind in (("app1", Kind.GENERIC), (NAME, Kind.PATRONI)):
        add(cluster, store, name, kind)
        for headers in ({"Accept": "*/*"}, {}):
            found[name, len(headers)] = through_gateway(node, store.folder / "clients" / name, headers)
    print(found)
    for number in (0, 1):
        assert "CommonName of client sending a request against gateway will be ignored" in found["app1", number]
        assert "kvs" not in found[NAME, number]
    assert "user name is empty" in found[NAME, 1]
    assert "permission denied" in found[NAME, 0]


def test_the_gateway_has_the_rights_of_the_certificate_with_which_etcd_started(
    cluster_of: ClusterOf, tmp_path: Path
) -> None:
    """So a server certificate with another common name is not enough: the node restarts etcd (file_levels.py)."""
    cluster = cluster_of(1, auth=AUTH)
    (node,) = cluster.nodes
    paths = [node.root / f"etc/etcd/pki/{Role.SERVER}.{kind}" for kind in ("pem", "key")]
    right = [path.read_bytes() for path in paths]
    older = replace(cluster.plan, spec=replace(cluster.plan.spec, auth=AuthSpec()))  # the common name is the node's
    (credentials,) = issue_nodes(older, cluster.authority, now=datetime.now(UTC))
    paths[0].write_bytes(credentials[Role.SERVER].cert_pem)
    paths[1].write_bytes(credentials[Role.SERVER].key_pem)
    started(cluster)
    store = baked(cluster, tmp_path / "out")
    assert etcdctl(cluster, store, "", "put", "a", "secret").returncode == 0
    add(cluster, store, NAME, Kind.PATRONI)
    home = store.folder / "clients" / NAME
    assert "kvs" in through_gateway(node.plan, home, {})
    for path, data in zip(paths, right, strict=True):
        path.write_bytes(data)
    assert "kvs" in through_gateway(node.plan, home, {})
    node.cut_power()
    node.records.clear()
    node.start()
    cluster.wait(node.votes, 60, "the node votes")
    assert "permission denied" in through_gateway(node.plan, home, {})
